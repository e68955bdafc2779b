//! fleet start TASKS CONTROLLERS SECONDS-OF-A-CONTROLLER SECONDS-OF-THE-HOST | fleet renew TASKS HOURS: the model of
//! `scripts/bench-fleet`.
//!
//! It decides when to try again and when to renew with the sidecar's own functions; the rest is a queue. `start`: all tasks
//! begin at once. Those on one host wait for its processor, one after the other (0: each has a host of its own). A start
//! is five requests, each answered by a controller that does one thing at a time. A request that is not answered within
//! two seconds is given up (the controller works it off anyway), and the start is tried again later. It ends after two
//! hours. `renew`: tasks that got their first ticket in one second renew for HOURS.

#![allow(clippy::print_stdout, reason = "its table")]

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, SystemTime};

use gmsa_sidecar::fault::Code;
use gmsa_sidecar::lease::schedule::{renewal, retry};

const REQUESTS: u32 = 5;
/// As in `directory`: `KDC_DEADLINE` and `LDAP_DEADLINE`.
const DEADLINE: f64 = 2.0;
const LIFE: Duration = Duration::from_secs(36_000);

/// The same numbers every time (xorshift).
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[derive(Clone, Copy)]
struct Task {
    step: u32,
    failures: u32,
    controller: usize,
}

/// Seconds until each task is ready, in order, and how many attempts failed.
fn start(tasks: usize, controllers: usize, seconds: f64, host: f64) -> (Vec<f64>, u32) {
    let service = seconds / f64::from(REQUESTS);
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let mut free = vec![0.0_f64; controllers];
    let mut state = vec![Task { step: 0, failures: 0, controller: 0 }; tasks];
    // Microseconds, since floats have no order.
    let at = |seconds: f64| (seconds * 1e6) as u64;
    let begin = |task: usize, roll: f64| at(roll * 0.05 + (task + 1) as f64 * host);
    let mut events: BinaryHeap<_> = (0..tasks).map(|task| Reverse((begin(task, dice.roll()), task))).collect();
    let (mut ready, mut failed) = (Vec::new(), 0);
    while let Some(Reverse((micros, index))) = events.pop() {
        let (now, task) = (micros as f64 / 1e6, &mut state[index]);
        if now > 7200.0 {
            break;
        }
        if task.step == REQUESTS {
            ready.push(now);
            continue;
        }
        if task.step == 0 {
            task.controller = ((dice.roll() * controllers as f64) as usize).min(controllers - 1);
        }
        let answered = free[task.controller].max(now) + service;
        free[task.controller] = answered;
        if answered - now <= DEADLINE {
            task.step += 1;
            events.push(Reverse((at(answered), index)));
        } else {
            failed += 1;
            task.failures += 1;
            task.step = 0;
            let wait = retry(Code::DcUnreachable, task.failures, dice.roll());
            events.push(Reverse((at(now + DEADLINE + wait.as_secs_f64()), index)));
        }
    }
    (ready, failed)
}

/// Renewals in each minute.
fn renew(tasks: usize, hours: u64) -> Vec<u32> {
    let mut dice = Dice(0x2545_f491_4f6c_dd1d);
    let end = SystemTime::UNIX_EPOCH + Duration::from_secs(hours * 3600);
    let never = end + LIFE * 2;
    let mut minutes = vec![0; hours as usize * 60];
    for _ in 0..tasks {
        let mut now = SystemTime::UNIX_EPOCH + Duration::from_secs_f64(dice.roll());
        loop {
            now = renewal(now, now + LIFE, never, dice.roll());
            if now >= end {
                break;
            }
            let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            minutes[since.as_secs() as usize / 60] += 1;
        }
    }
    minutes
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| words.get(at).and_then(|word| word.parse::<f64>().ok()).unwrap_or_default();
    match words.first().map(String::as_str) {
        Some("start") => {
            let (ready, failed) = start(number(1) as usize, (number(2) as usize).max(1), number(3), number(4));
            let ready: Vec<_> = ready.iter().map(|seconds| format!("{seconds:.2}")).collect();
            println!("{failed}\n{}", ready.join(" "));
        }
        Some("renew") => {
            let minutes: Vec<_> = renew(number(1) as usize, number(2) as u64).iter().map(u32::to_string).collect();
            println!("{}", minutes.join(" "));
        }
        _ => println!("see the head of scripts/fleet.rs"),
    }
}
