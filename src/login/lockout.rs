//! How often a login may be proven, since AD locks an account after a few wrong passwords.
//!
//! A proof is counted before it is sent. An answer settles it: success clears all counts of the account, a refusal and
//! silence keep theirs for half an hour, any other answer of the KDC clears this one. At two counts the account is
//! held. A hold that ends in silence again doubles. An account goes by its name and by the salt that its KDC told, so
//! that two spellings of one account share their counts; a count under either holds.
//!
//! The rules are pure: `now` is handed in. They live as long as the process.

use std::collections::HashMap;
use std::sync::{Arc, Mutex as StdMutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::Instant;

use crate::fault::{Code, Fault};

/// The counts of all login accounts of the process.
#[derive(Debug, Default)]
pub struct Lockout(StdMutex<HashMap<AccountKey, Record>>);

/// What an account goes by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum AccountKey {
    /// Its principal; AD compares names without case.
    Name(String),
    /// The salt of its key, as the KDC told it.
    Salt(Vec<u8>),
}

impl AccountKey {
    /// The key of a principal.
    pub fn name(principal: &str) -> Self {
        Self::Name(principal.to_ascii_lowercase())
    }
}

/// What is known of one account.
#[derive(Debug, Default)]
struct Record {
    /// Whoever holds it is the only one to prove this account.
    turn: Arc<Mutex<()>>,
    counted: Vec<Instant>,
    hold: Option<Hold>,
    /// Versions of the secret that were refused, and when; the latest last.
    refused: Vec<(String, Instant, Fault)>,
    succeeded: bool,
}

#[derive(Debug, Clone, Copy)]
struct Hold {
    until: Instant,
    length: Duration,
}

/// How a proof ended.
#[derive(Debug, Clone)]
pub enum Ending {
    /// The KDC took it.
    Success,
    /// The KDC refused the password of this version, with this fault.
    Refused(String, Fault),
    /// The KDC answered with another error.
    OtherError,
    /// No answer that can be believed came in time.
    Silence,
}

/// Why a proof may not be sent now.
#[derive(Debug, Clone)]
pub enum WhyHeld {
    /// This version of the secret was refused.
    Refused(Fault),
    /// Too many proofs were refused or unanswered.
    Counted {
        /// How many count now.
        counted: usize,
        /// In how long the next one may go.
        left: Duration,
    },
}

impl WhyHeld {
    /// As a fault of the login `principal`.
    pub fn fault(self, principal: &str) -> Fault {
        match self {
            Self::Refused(fault) => {
                let note = "this version of the secret was refused before and is not sent again for 24 hours";
                let why = fault.why.as_ref().map_or_else(|| note.to_owned(), |why| format!("{why}; {note}"));
                fault.because(why)
            }
            Self::Counted { counted, left } => {
                let left = humantime::format_duration(Duration::from_secs(left.as_secs().div_ceil(60).max(1) * 60));
                let what = format!("the login `{principal}` is held back, so that it does not get locked");
                let why = format!(
                    "{counted} passwords were refused or got no answer; the next one is sent in {left} at the earliest"
                );
                Fault::new(Code::TicketLoginHeld, what).because(why)
            }
        }
    }
}

impl Lockout {
    /// Waits for the turn to prove an account. Take the name's before the salt's.
    pub async fn turn(&self, key: &AccountKey) -> OwnedMutexGuard<()> {
        let turn = {
            let mut records = self.records();
            make_room(&mut records);
            Arc::clone(&records.entry(key.clone()).or_default().turn)
        };
        turn.lock_owned().await
    }

    /// Whether a proof with this version of the secret may be sent at `now`.
    ///
    /// # Errors
    /// Why not.
    pub fn allows(&self, keys: &[&AccountKey], version: &str, now: Instant) -> Result<(), WhyHeld> {
        let mut records = self.records();
        for key in keys {
            let Some(record) = records.get_mut(*key) else { continue };
            record.allows(version, now)?;
        }
        Ok(())
    }

    /// Counts a proof that is about to be sent.
    pub fn count(&self, keys: &[&AccountKey], now: Instant) {
        let mut records = self.records();
        for key in keys {
            records.entry((*key).clone()).or_default().counted.push(now);
        }
    }

    /// Settles a proof that was counted at `counted`.
    pub fn settle(&self, keys: &[&AccountKey], counted: Instant, ending: &Ending, now: Instant) {
        let mut records = self.records();
        for key in keys {
            if let Some(record) = records.get_mut(*key) {
                record.settle(counted, ending, now);
            }
        }
    }

    /// Whether this account was proven before: only then may a pending version of its secret stand in for the current
    /// one, since a process that never logged in cannot tell a rotation from a wrong secret.
    pub fn has_succeeded(&self, key: &AccountKey) -> bool {
        self.records().get(key).is_some_and(|record| record.succeeded)
    }

    /// Lets go of an account that no lease needs any more, unless its counts still matter.
    pub fn forget(&self, key: &AccountKey, now: Instant) {
        let mut records = self.records();
        if records.get(key).is_some_and(|record| record.is_idle(now)) {
            records.remove(key);
        }
    }

    fn records(&self) -> MutexGuard<'_, HashMap<AccountKey, Record>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes room for one more: names and salts come from outside, and a KDC may tell another salt each time. What counts
/// stays as long as there is anything else to let go.
fn make_room(records: &mut HashMap<AccountKey, Record>) {
    if records.len() < MOST_ACCOUNTS {
        return;
    }
    let now = Instant::now();
    records.retain(|_, record| !record.is_idle(now) || record.succeeded);
    while records.len() >= MOST_ACCOUNTS {
        let salt = records.iter().find(|(key, record)| matches!(key, AccountKey::Salt(_)) && record.has_no_turn());
        let any = salt.or_else(|| records.iter().find(|(_, record)| record.has_no_turn()));
        let Some(key) = any.map(|(key, _)| key.clone()) else { return };
        records.remove(&key);
    }
}

impl Record {
    fn allows(&mut self, version: &str, now: Instant) -> Result<(), WhyHeld> {
        self.refused.retain(|(_, at, _)| now < *at + REFUSED_FOR);
        if let Some((_, _, fault)) = self.refused.iter().find(|(refused, ..)| refused == version) {
            return Err(WhyHeld::Refused(fault.clone()));
        }
        self.counted.retain(|at| now < *at + COUNTS_FOR);
        if let Some(hold) = self.hold.filter(|hold| now < hold.until) {
            return Err(WhyHeld::Counted { counted: self.counted.len().max(1), left: hold.until - now });
        }
        match self.counted.as_slice() {
            [.., second, _] if self.counted.len() >= MOST => {
                Err(WhyHeld::Counted { counted: self.counted.len(), left: *second + COUNTS_FOR - now })
            }
            _ => Ok(()),
        }
    }

    fn settle(&mut self, counted: Instant, ending: &Ending, now: Instant) {
        let was_held = self.hold.take();
        match ending {
            Ending::Success => {
                self.counted.clear();
                self.refused.clear();
                self.succeeded = true;
                return;
            }
            Ending::OtherError => {
                if let Some(at) = self.counted.iter().position(|at| *at == counted) {
                    self.counted.remove(at);
                }
                return;
            }
            Ending::Refused(version, fault) => {
                self.refused.retain(|(refused, ..)| refused != version);
                self.refused.push((version.clone(), now, fault.clone()));
                if self.refused.len() > MOST_VERSIONS {
                    self.refused.remove(0);
                }
            }
            Ending::Silence => {}
        }
        self.counted.retain(|at| now < *at + COUNTS_FOR);
        let length = match (was_held, ending) {
            // It was held, tried again, and nobody answered again.
            (Some(hold), Ending::Silence) => Some((hold.length * 2).min(LONGEST_HOLD)),
            _ if self.counted.len() >= MOST => Some(COUNTS_FOR),
            _ => None,
        };
        self.hold = length.map(|length| Hold { until: counted + length, length });
    }

    /// Nothing in it matters at `now`.
    fn is_idle(&self, now: Instant) -> bool {
        self.has_no_turn()
            && self.counted.iter().all(|at| now >= *at + COUNTS_FOR)
            && self.hold.is_none_or(|hold| now >= hold.until)
            && self.refused.iter().all(|(_, at, _)| now >= *at + REFUSED_FOR)
    }

    /// Nobody proves it or waits to.
    fn has_no_turn(&self) -> bool {
        Arc::strong_count(&self.turn) == 1
    }
}

/// Refused or unanswered proofs an account is granted within [`COUNTS_FOR`]. AD's lockout thresholds are rarely under
/// five.
const MOST: usize = 2;
/// How long a refused or unanswered proof counts: AD's default window for its own count (MS-SAMR 3.1.1.8.3).
const COUNTS_FOR: Duration = Duration::from_secs(30 * 60);
/// A forged refusal must not outlast this.
const REFUSED_FOR: Duration = Duration::from_secs(24 * 3600);
const LONGEST_HOLD: Duration = Duration::from_secs(4 * 3600);
/// How many refused versions of one secret are remembered.
const MOST_VERSIONS: usize = 16;
/// How many names and salts are remembered.
const MOST_ACCOUNTS: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fault() -> Fault {
        Fault::new(Code::TicketLoginRefused, "no ticket").because("wrong")
    }

    fn name() -> AccountKey {
        AccountKey::name("svc@EXAMPLE.COM")
    }

    fn minutes(count: u64) -> Duration {
        Duration::from_secs(60 * count)
    }

    /// Sends one proof at `now`, if it may be sent, with this ending; tells whether it was.
    fn send(lockout: &Lockout, keys: &[&AccountKey], version: &str, now: Instant, ending: &Ending) -> bool {
        let allowed = lockout.allows(keys, version, now).is_ok();
        if allowed {
            lockout.count(keys, now);
            lockout.settle(keys, now, ending, now + Duration::from_secs(10));
        }
        allowed
    }

    #[test]
    fn silence_counts_and_two_counts_hold_for_half_an_hour() {
        let (lockout, start) = (Lockout::default(), Instant::now());
        assert!(send(&lockout, &[&name()], "a", start, &Ending::Silence));
        assert!(send(&lockout, &[&name()], "a", start + minutes(1), &Ending::Silence));
        let Err(WhyHeld::Counted { counted: 2, left }) = lockout.allows(&[&name()], "a", start + minutes(2)) else {
            panic!("not held")
        };
        assert_eq!(left, minutes(29), "half an hour after the second");
        assert!(lockout.allows(&[&name()], "a", start + minutes(31)).is_ok());
    }

    #[test]
    fn a_proof_under_way_counts_before_anybody_answers() {
        let (lockout, start) = (Lockout::default(), Instant::now());
        lockout.count(&[&name()], start);
        lockout.count(&[&name()], start);
        assert!(matches!(lockout.allows(&[&name()], "a", start), Err(WhyHeld::Counted { .. })));
    }

    #[test]
    fn a_hold_that_ends_in_silence_doubles_up_to_four_hours() {
        let (lockout, mut now) = (Lockout::default(), Instant::now());
        send(&lockout, &[&name()], "a", now, &Ending::Silence);
        send(&lockout, &[&name()], "a", now, &Ending::Silence);
        for hold in [30, 60, 120, 240, 240] {
            assert!(lockout.allows(&[&name()], "a", now + minutes(hold) - Duration::from_secs(1)).is_err(), "{hold}");
            now += minutes(hold);
            assert!(send(&lockout, &[&name()], "a", now, &Ending::Silence), "after {hold}");
        }
        now += minutes(240);
        assert!(send(&lockout, &[&name()], "a", now, &Ending::Success));
        assert!(send(&lockout, &[&name()], "a", now, &Ending::Silence));
        assert!(send(&lockout, &[&name()], "a", now, &Ending::Silence), "success has cleared all counts");
        assert!(lockout.allows(&[&name()], "a", now + minutes(30)).is_ok(), "and the length of the hold");
    }

    #[test]
    fn a_refused_version_is_sent_again_after_a_day_and_then_once() {
        let (lockout, start) = (Lockout::default(), Instant::now());
        let refused = |version: &str| Ending::Refused(version.to_owned(), fault());
        assert!(send(&lockout, &[&name()], "a", start, &refused("a")));
        let again = lockout.allows(&[&name()], "a", start + minutes(23 * 60)).unwrap_err().fault("svc");
        assert_eq!(again.code, Code::TicketLoginRefused);
        assert!(again.why.unwrap().contains("not sent again for 24 hours"));
        let day = start + minutes(24 * 60) + Duration::from_secs(11);
        assert!(send(&lockout, &[&name()], "a", day, &refused("a")), "a forged refusal does not outlast a day");
        assert!(lockout.allows(&[&name()], "a", day + minutes(23 * 60)).is_err());
        assert!(lockout.allows(&[&name()], "b", day + minutes(31)).is_ok(), "another version is another password");
    }

    #[test]
    fn any_other_answer_of_the_kdc_clears_its_own_count_only() {
        let (lockout, start) = (Lockout::default(), Instant::now());
        assert!(send(&lockout, &[&name()], "a", start, &Ending::Silence));
        for second in 1..20 {
            assert!(send(&lockout, &[&name()], "a", start + Duration::from_secs(second), &Ending::OtherError));
        }
        assert!(send(&lockout, &[&name()], "a", start + minutes(1), &Ending::Silence));
        assert!(lockout.allows(&[&name()], "a", start + minutes(2)).is_err());
    }

    #[test]
    fn spellings_of_one_account_share_what_counts_under_their_salt() {
        let (lockout, start) = (Lockout::default(), Instant::now());
        let salt = AccountKey::Salt(b"EXAMPLE.COMsvc".to_vec());
        let (plain, upn) = (AccountKey::name("svc@EXAMPLE.COM"), AccountKey::name("svc@alias.test@EXAMPLE.COM"));
        assert!(send(&lockout, &[&plain, &salt], "a", start, &Ending::Silence));
        assert!(send(&lockout, &[&upn, &salt], "a", start, &Ending::Silence));
        assert!(lockout.allows(&[&plain], "a", start).is_ok(), "before the salt is known");
        assert!(lockout.allows(&[&plain, &salt], "a", start).is_err());
        assert_eq!(AccountKey::name("SVC@example.com"), plain);
        // A KDC that tells another salt each time gains nothing: the name holds.
        for told in 0..100_u8 {
            send(&lockout, &[&plain, &AccountKey::Salt(vec![told])], "a", start, &Ending::Silence);
        }
        assert!(lockout.allows(&[&plain, &AccountKey::Salt(vec![200])], "a", start).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn one_proof_at_a_time_and_names_do_not_pile_up() {
        let lockout = Lockout::default();
        let turn = lockout.turn(&name()).await;
        let second = tokio::time::timeout(minutes(1), lockout.turn(&name())).await;
        assert!(second.is_err(), "somebody else proves this account");
        drop(turn);
        lockout.turn(&name()).await;
        lockout.count(&[&name()], Instant::now());
        for number in 0..3 * MOST_ACCOUNTS {
            let key = AccountKey::Salt(number.to_be_bytes().to_vec());
            lockout.turn(&key).await;
            lockout.count(&[&key], Instant::now());
        }
        assert!(lockout.records().len() <= MOST_ACCOUNTS);
        assert!(lockout.records().contains_key(&name()), "a name is kept before a salt");
        lockout.forget(&name(), Instant::now());
        assert!(lockout.records().contains_key(&name()), "what counts is not forgotten");
        lockout.forget(&name(), Instant::now() + minutes(31));
        assert!(!lockout.records().contains_key(&name()));
    }

    proptest! {
        #[test]
        fn whatever_is_tried_at_most_two_go_wrong_in_any_half_hour(
            steps in proptest::collection::vec((0_u64..900, any::<bool>()), 1..80)
        ) {
            let (lockout, mut now) = (Lockout::default(), Instant::now());
            let mut wrong: Vec<Instant> = Vec::new();
            for (version, (step, silent)) in steps.into_iter().enumerate() {
                now += Duration::from_secs(step);
                let version = version.to_string();
                let ending = if silent { Ending::Silence } else { Ending::Refused(version.clone(), fault()) };
                if send(&lockout, &[&name()], &version, now, &ending) {
                    wrong.push(now);
                }
            }
            for three in wrong.windows(3) {
                prop_assert!(three[2] - three[0] >= minutes(30));
            }
        }
    }
}
