//! Which versions of a gMSA's key a keytab holds, and until when.

use std::time::{Duration, SystemTime};

use crate::directory::gmsa::AcceptorNames;
use crate::kerberos::Password;

/// Which of the two managed passwords the KDC has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InUse {
    Current,
    Previous,
}

/// What a keytab holds, and until when it should.
pub(super) struct Versions<'a> {
    pub(super) keys: Vec<(u32, &'a Password)>,
    pub(super) until: SystemTime,
}

/// The versions of the key: the one that the KDC uses, the next one where the directory tells it already, and the one
/// before while tickets that were made with it are good. Those live as long as the gMSA's own (`life`) or ten hours,
/// AD's default for tickets to services, and the clocks may differ by five minutes.
pub(super) fn versions<'a>(
    in_use: InUse,
    names: &AcceptorNames,
    current: &'a Password,
    previous: Option<&'a Password>,
    life: Duration,
    now: SystemTime,
) -> Versions<'a> {
    let AcceptorNames { kvno, changed_at, .. } = names;
    let longest = life.max(Duration::from_secs(10 * 3600)) + Duration::from_secs(300);
    // Where it is not told since when the key is in use, the one before stays until the next look.
    let needed_until = changed_at.map_or(now, |changed| changed) + longest;
    match (in_use, previous) {
        (InUse::Previous, Some(previous)) => {
            Versions { keys: vec![(kvno + 1, current), (*kvno, previous)], until: now + longest }
        }
        (InUse::Current, Some(previous)) if now < needed_until && *kvno > 1 => {
            Versions { keys: vec![(*kvno, current), (kvno - 1, previous)], until: needed_until }
        }
        _ => Versions { keys: vec![(*kvno, current)], until: now + FAR },
    }
}

/// No gMSA's password lives longer.
const FAR: Duration = Duration::from_secs(10 * 365 * 86_400);
#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use zeroize::Zeroizing;

    #[test]
    fn a_keytab_holds_the_next_key_and_the_one_before_while_it_is_needed() {
        let password = |text: &str| Password::new(Zeroizing::new(text.to_owned()));
        let (current, previous) = (password("current"), password("previous"));
        let now = clock::from_unix(1_790_000_000);
        let hours = |hours: u64| Duration::from_secs(3600 * hours);
        let told = |in_use, kvno, changed_at: Option<SystemTime>, previous, life| {
            let names = AcceptorNames { kvno, services: Vec::new(), changed_at };
            let versions = versions(in_use, &names, &current, previous, life, now);
            let keys: Vec<_> = versions.keys.iter().map(|(kvno, key)| (*kvno, key.as_str().to_owned())).collect();
            (keys, versions.until.duration_since(now).unwrap())
        };
        let key = |kvno, text: &str| (kvno, text.to_owned());
        let ago = |age| Some(now - hours(age));
        let clocks = Duration::from_secs(300);
        let (keys, _) = told(InUse::Previous, 4, ago(720), Some(&previous), hours(10));
        assert_eq!(keys, [key(5, "current"), key(4, "previous")], "the KDC still uses the old one");
        let (keys, until) = told(InUse::Current, 5, ago(1), Some(&previous), hours(1));
        assert_eq!((keys, until), (vec![key(5, "current"), key(4, "previous")], hours(9) + clocks));
        let (_, until) = told(InUse::Current, 5, ago(1), Some(&previous), hours(24));
        assert_eq!(until, hours(23) + clocks, "tickets of this domain live longer");
        assert_eq!(told(InUse::Current, 5, ago(11), Some(&previous), hours(10)).0, [key(5, "current")]);
        assert_eq!(told(InUse::Current, 1, ago(1), None, hours(10)).0, [key(1, "current")]);
        let (keys, until) = told(InUse::Current, 5, None, Some(&previous), hours(10));
        assert_eq!((keys.len(), until), (2, hours(10) + clocks), "since when is not told");
    }
}
