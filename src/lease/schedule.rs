//! When to act again: pure functions of times and failures, and the one place that waits.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::clock;
use crate::fault::{Code, Exit, Fault};
use crate::kerberos::REFUSED_BEFORE_END;
use crate::lease::refresh::Requests;

/// When to renew a ticket that was got at `now`.
///
/// After 70 to 80 percent of its life, at random (`jitter` in `0.0..1.0`), so that the tickets of a fleet that started
/// together are not renewed together. A short one earlier, with at least three minutes or half of the time left in which
/// a KDC accepts it ([`REFUSED_BEFORE_END`]). Earlier still when the managed password is to be read again at
/// `password_due`, but not within a minute.
pub fn renewal(now: SystemTime, expires_at: SystemTime, password_due: SystemTime, jitter: f64) -> SystemTime {
    let life = expires_at.duration_since(now).unwrap_or_default();
    let jitter = jitter.clamp(0.0, 1.0);
    let share = 0.7 + 0.1 * jitter;
    let accepted = life.saturating_sub(REFUSED_BEFORE_END);
    let latest = accepted - Duration::from_secs(180).min(accepted / 2);
    // The same spread where the share would be too late. A KDC whose tickets are too short to be renewed in time is
    // not asked without pause.
    let early = latest.mul_f64(share / 0.8).max(Duration::from_secs(15).min(life / 2));
    let by_life = now + life.mul_f64(share).min(early);
    let by_password = password_due.max(now + Duration::from_secs(60)) + Duration::from_secs(30).mul_f64(jitter);
    by_life.min(by_password)
}

/// How long to wait after the `failures`-th failure in a row: doubling from two seconds to five minutes, at random
/// between half of it and all of it. What the directory or AWS denied starts at half a minute, and so does a
/// configuration that only somebody else can change: asking does not help, and asking quickly does harm.
pub fn retry(code: Code, failures: u32, jitter: f64) -> Duration {
    let (first, last) = match code.exit() {
        Exit::Denied => (Duration::from_secs(30), Duration::from_secs(600)),
        // A disk that was full: it costs little to try, and the ticket is at hand.
        Exit::CannotCreate => (Duration::from_secs(2), Duration::from_secs(30)),
        _ => (Duration::from_secs(2), Duration::from_secs(300)),
    };
    let full = first.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(last);
    full.mul_f64(0.5 + 0.5 * jitter.clamp(0.0, 1.0))
}

/// Whether `init` waits for a fault to pass, `age` after its start: the network, a login that is refused or held, since
/// somebody may correct the secret, and a denial by AWS while it may not have spread.
pub fn may_pass(fault: &Fault, age: Duration) -> bool {
    fault.code.exit() == Exit::Unavailable || is_login_held(fault) || fault.code.is_aws_denial() && age < SPREADING
}

/// Whether a login is refused, or held back after it was: a new process would send the next proof.
pub fn is_login_held(fault: &Fault) -> bool {
    matches!(fault.code, Code::TicketLoginRefused | Code::TicketLoginHeld)
}

/// How long IAM may need until a role or policy that was just made is known everywhere: a denial before that often passes.
pub const SPREADING: Duration = Duration::from_secs(30);

/// The waits between attempts, and what ends one early.
pub struct Backoff {
    begun: Instant,
    failures: u32,
    limit: Option<Duration>,
    requests: Requests,
}

impl Backoff {
    /// Waits longer and longer, `limit` at most where the fault may pass. A refresh that `requests` tell of ends the wait
    /// for a renewal.
    pub fn new(requests: Requests, limit: Option<Duration>) -> Self {
        Self { begun: Instant::now(), failures: 0, limit, requests }
    }

    /// Begins to count at nought.
    pub fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// Whether the last attempt failed.
    pub fn has_failed(&self) -> bool {
        self.failures > 0
    }

    /// Takes note of a failure; returns how long to wait.
    pub fn failed(&mut self, fault: &Fault) -> Duration {
        self.failures = self.failures.saturating_add(1);
        let spreads = fault.code.is_aws_denial() && self.begun.elapsed() < SPREADING;
        let code = if spreads { Code::CredSpecUnreachable } else { fault.code };
        let wait = retry(code, self.failures, rand::random());
        match self.limit {
            Some(limit) if code.exit() == Exit::Unavailable => wait.min(limit),
            _ => wait,
        }
    }

    /// Waits until the wall clock says `wake` or `wait` is over, or until a refresh is asked for; after a failure a
    /// refresh does not shorten the wait. It looks at the clock at least once a minute: the timer stands still while a
    /// machine sleeps, and knows nothing of a clock that is set. Safe to cancel.
    pub async fn pause(&mut self, wake: SystemTime) {
        let end = Instant::now() + wake.duration_since(clock::now()).unwrap_or_default();
        loop {
            let by_wall = wake.duration_since(clock::now()).unwrap_or_default();
            let left = by_wall.min(end.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return;
            }
            let sleep = tokio::time::sleep(left.min(Duration::from_secs(60)));
            tokio::select! {
                () = sleep => {}
                () = self.requests.next(), if self.failures == 0 => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kerberos::LEAST_LIFE;
    use crate::lease::refresh::Refresh;
    use proptest::prelude::*;

    #[test]
    fn a_ticket_of_ten_hours_is_renewed_after_seven_to_eight() {
        let now = clock::from_unix(0);
        let (end, never) = (clock::from_unix(36_000), clock::from_unix(1_000_000));
        assert_eq!(renewal(now, end, never, 0.0), clock::from_unix(25_200));
        assert_eq!(renewal(now, end, never, 1.0), clock::from_unix(28_800));
        assert_eq!(renewal(now, clock::from_unix(600), never, 1.0), clock::from_unix(300), "five minutes are left");
        assert_eq!(renewal(now, clock::from_unix(1200), never, 1.0), clock::from_unix(900), "five minutes are left");
        assert_eq!(renewal(now, clock::from_unix(240), never, 1.0), clock::from_unix(60), "half of two minutes");
        assert_eq!(renewal(now, end, clock::from_unix(5000), 0.0), clock::from_unix(5000), "the password is due");
        assert_eq!(renewal(now, end, now, 0.0), clock::from_unix(60), "never at once");
    }

    fn backoff(refresh: &Refresh) -> Backoff {
        Backoff::new(refresh.requests(), None)
    }

    fn fault(code: Code) -> Fault {
        Fault::new(code, "no")
    }

    #[tokio::test(start_paused = true)]
    async fn a_refresh_wakes_who_waits_for_a_renewal_and_not_who_has_failed() {
        clock::fake::start();
        let refresh = Refresh::default();
        let mut waits = backoff(&refresh);
        assert_eq!(refresh.ask(Instant::now()), Ok(()));
        waits.pause(clock::now() + Duration::from_secs(3600)).await;
        assert_eq!(clock::fake::elapsed(), Duration::ZERO);
        let mut failed = backoff(&refresh);
        failed.failed(&fault(Code::DcUnreachable));
        refresh.insist(Instant::now());
        failed.pause(clock::now() + Duration::from_secs(100)).await;
        assert_eq!(clock::fake::elapsed().as_secs(), 100, "the back-off was cut short");
    }

    /// A machine that slept, or a clock that was wrong: the wall clock decides where it is ahead, the time that passed
    /// where it is behind.
    #[tokio::test(start_paused = true)]
    async fn a_clock_that_is_set_neither_delays_a_wait_nor_is_missed() {
        for (step, most) in [(7200, 61), (-86_400, 3600)] {
            clock::fake::start();
            let refresh = Refresh::default();
            let mut waits = backoff(&refresh);
            let wake = clock::now() + Duration::from_secs(3600);
            let set = async {
                tokio::time::sleep(Duration::from_secs(1)).await;
                clock::fake::set(step);
            };
            tokio::join!(waits.pause(wake), set);
            assert!(clock::fake::elapsed().as_secs() <= most, "{:?}", clock::fake::elapsed());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_denial_by_aws_is_asked_about_soon_in_the_first_half_minute() {
        let refresh = Refresh::default();
        let mut waits = backoff(&refresh);
        let waited = waits.failed(&fault(Code::SecretDenied));
        assert!(waited <= Duration::from_secs(2), "{waited:?}");
        assert!(may_pass(&fault(Code::SecretDenied), Duration::from_secs(29)));
        tokio::time::advance(SPREADING).await;
        let waited = waits.failed(&fault(Code::SecretDenied));
        assert!(waited >= Duration::from_secs(15), "{waited:?}");
        assert!(!may_pass(&fault(Code::SecretDenied), SPREADING));
    }

    #[test]
    fn init_waits_for_what_may_pass() {
        let passes = |code| may_pass(&fault(code), Duration::from_secs(3600));
        for entry in Code::ALL {
            let held = [Code::TicketLoginRefused, Code::TicketLoginHeld].contains(&entry.code);
            assert_eq!(passes(entry.code), held || entry.exit == Exit::Unavailable, "{}", entry.name);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn init_is_in_a_hurry_where_a_fault_may_pass() {
        let refresh = Refresh::default();
        let mut waits = Backoff::new(refresh.requests(), Some(Duration::from_secs(5)));
        for _ in 0..20 {
            assert!(waits.failed(&fault(Code::DcUnreachable)) <= Duration::from_secs(5));
        }
        assert!(waits.failed(&fault(Code::TicketLoginRefused)) >= Duration::from_secs(300));
    }

    #[test]
    fn retries_slow_down_and_denials_start_slowly() {
        let seconds = |code, failures| retry(code, failures, 1.0).as_secs();
        assert_eq!([1, 2, 3, 9, 99].map(|n| seconds(Code::DcUnreachable, n)), [2, 4, 8, 300, 300]);
        assert_eq!([1, 2, 9].map(|n| seconds(Code::TicketLoginRefused, n)), [30, 60, 600]);
    }

    proptest! {
        #[test]
        fn a_renewal_is_before_the_end_and_never_at_once(
            life in 1_u64..1_000_000,
            due in 0_i64..3_000_000,
            jitter in 0.0..1.0_f64,
        ) {
            let now = clock::from_unix(1_000_000);
            let end = now + Duration::from_secs(life);
            let at = renewal(now, end, clock::from_unix(due), jitter);
            prop_assert!(at > now && at < end);
            prop_assert!(at >= now + Duration::from_secs(15).min(Duration::from_secs(life) / 2));
        }

        /// Every life that may be asked for, and what a KDC makes of it: at least half a minute before the KDC refuses
        /// the TGT, or half of the time until then.
        #[test]
        fn a_renewal_leaves_time_before_the_last_two_minutes(life in 180_u64..1_000_000, jitter in 0.0..1.0_f64) {
            let (now, life) = (clock::from_unix(0), Duration::from_secs(life));
            prop_assert!(life >= LEAST_LIFE);
            let at = renewal(now, now + life, clock::from_unix(i64::from(u32::MAX)), jitter);
            let refused = now + life - REFUSED_BEFORE_END;
            let left = refused.duration_since(at).unwrap_or_default();
            prop_assert!(left >= Duration::from_secs(180).min((life - REFUSED_BEFORE_END) / 2), "{left:?}");
            prop_assert!(left >= Duration::from_secs(30), "{left:?}");
        }

        /// Two of a fleet that started together: their renewals are as far apart as their dice.
        #[test]
        fn renewals_of_a_fleet_spread(life in 180_u64..1_000_000) {
            let (now, never) = (clock::from_unix(0), clock::from_unix(i64::from(u32::MAX)));
            let end = now + Duration::from_secs(life);
            let (first, last) = (renewal(now, end, never, 0.0), renewal(now, end, never, 1.0));
            let spread = last.duration_since(first).unwrap_or_default();
            let wait = last.duration_since(now).unwrap_or_default();
            prop_assert!(spread >= wait / 9, "{spread:?} of {wait:?}");
        }

        /// A year with a fake clock and an AD that is there three times out of four: a ticket that
        /// the KDC accepts is never missing.
        #[test]
        fn a_year_of_renewals_leaves_no_gap(
            life in 180_u64..90_000,
            luck in proptest::collection::vec(0.0..1.0_f64, 64),
        ) {
            let mut luck = luck.into_iter().cycle();
            let mut next = || luck.next().unwrap_or(0.5);
            let mut now = clock::from_unix(0);
            let never = clock::from_unix(i64::from(u32::MAX));
            let (mut end, mut failures) = (now + Duration::from_secs(life), 0);
            let mut wake = renewal(now, end, never, next());
            while now < clock::from_unix(365 * 86_400) {
                prop_assert!(wake > now, "a busy loop");
                now = wake;
                // Outages longer than what is left of a ticket are not the schedule's to survive.
                if next() < 0.75 || failures == 3 {
                    prop_assert!(now < end - REFUSED_BEFORE_END, "a gap");
                    end = now + Duration::from_secs(life);
                    failures = 0;
                    wake = renewal(now, end, never, next());
                } else {
                    failures += 1;
                    wake = now + retry(Code::DcUnreachable, failures, next());
                }
            }
        }

        #[test]
        fn a_retry_is_never_at_once_and_never_far(failures in 1_u32.., jitter in 0.0..1.0_f64) {
            for entry in Code::ALL {
                let wait = retry(entry.code, failures, jitter);
                prop_assert!((Duration::from_secs(1)..=Duration::from_secs(600)).contains(&wait));
            }
        }
    }
}
