//! Faults by the hundred: whoever answers DNS, or names CredSpecs, decides how many there are. The first of them are
//! logged; `/ready` and `/leases` have all of them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How many faults of each event were logged lately.
#[derive(Default)]
pub(super) struct Floods(BTreeMap<&'static str, Flood>);

struct Flood {
    since: Instant,
    lines: usize,
}

/// What becomes of a fault.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Admitted {
    Yes,
    /// It is the first that is left out.
    LastOne,
    No,
}

impl Floods {
    pub(super) const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// Whether one more fault of this event is logged at `now`.
    pub(super) fn admit(&mut self, event: &'static str, now: Instant) -> Admitted {
        let flood = self.0.entry(event).or_insert(Flood { since: now, lines: 0 });
        if now.saturating_duration_since(flood.since) >= WHILE {
            *flood = Flood { since: now, lines: 0 };
        }
        flood.lines += 1;
        match flood.lines {
            0..=MOST => Admitted::Yes,
            lines if lines == MOST + 1 => Admitted::LastOne,
            _ => Admitted::No,
        }
    }
}

/// Faults of one event within [`WHILE`]. A task has fewer gMSAs, as a rule.
const MOST: usize = 24;
/// How long further ones are left out.
pub(super) const WHILE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_faults_of_an_event_are_logged_and_those_of_another_one_too() {
        let (mut floods, start) = (Floods::new(), Instant::now());
        let mut admit = |event, seconds| floods.admit(event, start + Duration::from_secs(seconds));
        for _ in 0..MOST {
            assert_eq!(admit("lease.pending", 0), Admitted::Yes);
        }
        assert_eq!(admit("lease.pending", 1), Admitted::LastOne);
        for second in 1..10 {
            assert_eq!(admit("lease.pending", second), Admitted::No);
        }
        assert_eq!(admit("dc.failed", 9), Admitted::Yes);
        assert_eq!(admit("lease.pending", 10), Admitted::Yes, "ten seconds later");
    }
}
