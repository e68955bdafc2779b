//! The one place that reads the clock. Protocol code is handed `now` instead.

use std::time::{Duration, SystemTime};

/// The wall clock. Kerberos times are UTC seconds; the clock before 1970 is a broken clock and reads as 1970.
#[expect(clippy::disallowed_methods, reason = "this is the one door to the clock")]
pub fn now() -> SystemTime {
    SystemTime::now()
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
