//! The one place that reads the clock. Protocol code is handed `now` instead.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// The wall clock. Kerberos times are UTC seconds; the clock before 1970 is a broken clock and reads as 1970.
#[expect(clippy::disallowed_methods, reason = "this is the one door to the clock")]
pub fn now() -> SystemTime {
    #[cfg(test)]
    if let Some(faked) = fake::now() {
        return faked;
    }
    SystemTime::now()
}

/// A wall clock for tests that follows tokio's paused one, and that can be set.
#[cfg(test)]
pub(crate) mod fake {
    use std::cell::Cell;

    use super::{Duration, Instant, SystemTime, from_unix, shifted};

    thread_local! {
        static CLOCK: Cell<Option<(SystemTime, Instant)>> = const { Cell::new(None) };
    }

    /// From now on it is 2026-09-21 on this thread, and time passes as tokio's clock says. The test's thread is its own.
    pub(crate) fn start() {
        CLOCK.set(Some((from_unix(1_790_000_000), Instant::now())));
    }

    /// Sets the wall clock; the monotonic one goes on as it did.
    pub(crate) fn set(seconds: i64) {
        CLOCK.set(CLOCK.get().map(|(wall, since)| (shifted(wall, seconds), since)));
    }

    pub(super) fn now() -> Option<SystemTime> {
        CLOCK.get().map(|(wall, since)| wall + Instant::now().saturating_duration_since(since))
    }

    /// How long tokio's clock has run since the start of the fake one.
    pub(crate) fn elapsed() -> Duration {
        CLOCK.get().map_or(Duration::ZERO, |(_, since)| Instant::now().saturating_duration_since(since))
    }
}

/// Seconds since the epoch, as Kerberos counts them.
pub fn unix(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// The time of a Kerberos stamp.
pub fn from_unix(seconds: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// A time some seconds later, or earlier if they are negative.
pub fn shifted(time: SystemTime, seconds: i64) -> SystemTime {
    let shift = Duration::from_secs(seconds.unsigned_abs());
    let shifted = if seconds < 0 { time.checked_sub(shift) } else { time.checked_add(shift) };
    shifted.unwrap_or(time)
}

/// RFC 3339 in UTC, to the second: `2026-11-22T14:15:00Z`.
pub fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

/// Tells when the wall clock was set: it then moves in another way than the monotonic one.
pub struct ClockWatch {
    wall: SystemTime,
    monotonic: Instant,
}

impl ClockWatch {
    /// Both clocks as they are now.
    pub fn start(wall: SystemTime, monotonic: Instant) -> Self {
        Self { wall, monotonic }
    }

    /// By how many seconds the wall clock was set ahead since the start or the last step told; none if by less than
    /// half a minute, which Kerberos does not mind.
    pub fn step(&mut self, wall: SystemTime, monotonic: Instant) -> Option<i64> {
        let due = self.wall + monotonic.saturating_duration_since(self.monotonic);
        let step = match wall.duration_since(due) {
            Ok(ahead) => i64::try_from(ahead.as_secs()).unwrap_or(i64::MAX),
            Err(behind) => -i64::try_from(behind.duration().as_secs()).unwrap_or(i64::MAX),
        };
        if step.unsigned_abs() < 30 {
            return None;
        }
        *self = Self::start(wall, monotonic);
        Some(step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_set_is_noticed_once() {
        let (wall, monotonic) = (from_unix(1_000_000), Instant::now());
        let mut watch = ClockWatch::start(wall, monotonic);
        let mut at =
            |wall_seconds, seconds| watch.step(shifted(wall, wall_seconds), monotonic + Duration::from_secs(seconds));
        assert_eq!(at(60, 60), None, "time goes by");
        assert_eq!(at(81, 61), None, "a small correction");
        assert_eq!(at(482, 62), Some(420));
        assert_eq!(at(483, 63), None, "told already");
        assert_eq!(at(64, 64), Some(-420));
        assert_eq!(at(3664, 65), Some(3599), "the machine slept");
    }
}
