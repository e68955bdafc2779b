//! How often a login's password may be sent: AD locks an account after a few wrong ones.
//!
//! One [`Guard`] for each login account, shared by all its leases. Within one process at most two logins fail in any
//! half hour, and a version of the secret that was refused is not sent again.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::Mutex;

use crate::fault::{Code, Fault};

/// The guards of all login accounts of the process.
#[derive(Default)]
pub struct Guards(StdMutex<HashMap<String, Arc<Mutex<Guard>>>>);

impl Guards {
    /// The guard of an account, by its principal. Whoever holds its lock is the only one to log in.
    pub fn of(&self, principal: &str) -> Arc<Mutex<Guard>> {
        let mut guards = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let guard = guards
            .entry(principal.to_ascii_lowercase())
            .or_insert_with(|| Arc::new(Mutex::new(Guard { principal: principal.to_owned(), ..Guard::default() })));
        Arc::clone(guard)
    }
}

/// What one login account's failures allow.
#[derive(Debug, Default)]
pub struct Guard {
    /// For the fault.
    principal: String,
    failures: VecDeque<SystemTime>,
    /// Versions of the secret that were refused, with the refusal.
    refused: VecDeque<(String, Fault)>,
    succeeded: bool,
}

impl Guard {
    /// Whether this version of the secret may be sent now. The fault says why not.
    pub fn allows(&self, version: &str, now: SystemTime) -> Result<(), Fault> {
        if let Some((_, fault)) = self.refused.iter().find(|(refused, _)| refused == version) {
            let why = "this version of the secret was refused before and is not sent again";
            return Err(fault.clone().because(match &fault.why {
                Some(told) => format!("{told}; {why}"),
                None => why.to_owned(),
            }));
        }
        let recent = |failure: &&SystemTime| now.duration_since(**failure).is_ok_and(|age| age < WINDOW);
        match self.failures.iter().filter(recent).count() {
            failed if failed < LIMIT => Ok(()),
            failed => {
                let window = humantime::format_duration(WINDOW);
                let what = format!("the login `{}` is held back, so that it does not get locked", self.principal);
                let why =
                    format!("{failed} passwords were refused in the last {window}: none is sent until that is over");
                Err(Fault::new(Code::TicketLoginHeld, what).because(why))
            }
        }
    }

    /// Whether a pending version may stand in for the current one: only while a rotation of the secret is under way,
    /// which a process that never logged in cannot tell from a wrong secret.
    pub fn trusts_pending(&self) -> bool {
        self.succeeded
    }

    /// AD took the password.
    pub fn succeeded(&mut self) {
        self.succeeded = true;
    }

    /// AD refused the password of this version.
    pub fn failed(&mut self, version: &str, fault: &Fault, now: SystemTime) {
        self.failures.push_back(now);
        self.refused.push_back((version.to_owned(), fault.clone()));
        while self.failures.len() > LIMIT {
            self.failures.pop_front();
        }
        while self.refused.len() > REMEMBERED {
            self.refused.pop_front();
        }
    }
}

/// Failed logins an account is granted in [`WINDOW`]. AD's lockout thresholds are rarely under five.
const LIMIT: usize = 2;
const WINDOW: Duration = Duration::from_secs(30 * 60);
const REMEMBERED: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use proptest::prelude::*;

    fn fault() -> Fault {
        Fault::new(Code::TicketLoginRefused, "no ticket").because("wrong")
    }

    #[test]
    fn a_refused_version_is_not_sent_again_and_two_failures_close_the_window() {
        let mut guard = Guard::default();
        let at = |minutes: i64| clock::from_unix(60 * minutes);
        assert!(guard.allows("a", at(0)).is_ok());
        guard.failed("a", &fault(), at(0));
        assert_eq!(guard.allows("a", at(1000)).unwrap_err().code, Code::TicketLoginRefused);
        assert!(guard.allows("b", at(1)).is_ok());
        guard.failed("b", &fault(), at(1));
        assert_eq!(guard.allows("c", at(29)).unwrap_err().code, Code::TicketLoginHeld);
        assert!(guard.allows("c", at(30)).is_ok(), "the first failure is half an hour old");
    }

    #[test]
    fn accounts_are_told_apart_without_case() {
        let guards = Guards::default();
        assert!(Arc::ptr_eq(&guards.of("svc@EXAMPLE.COM"), &guards.of("SVC@example.com")));
        assert!(!Arc::ptr_eq(&guards.of("svc@EXAMPLE.COM"), &guards.of("other@EXAMPLE.COM")));
    }

    proptest! {
        #[test]
        fn whatever_is_tried_at_most_two_fail_in_any_half_hour(steps in proptest::collection::vec(0_i64..900, 1..60)) {
            let mut guard = Guard::default();
            let mut now = 0;
            let mut failures: Vec<i64> = Vec::new();
            for (version, step) in steps.into_iter().enumerate() {
                now += step;
                if guard.allows(&version.to_string(), clock::from_unix(now)).is_ok() {
                    guard.failed(&version.to_string(), &fault(), clock::from_unix(now));
                    failures.push(now);
                }
            }
            for window in failures.windows(3) {
                prop_assert!(window[2] - window[0] >= 1800);
            }
        }
    }
}
