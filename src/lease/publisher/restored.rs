//! Files that were put back: how often that is done and how often it is reported.
//!
//! A neighbour that may write to the volume can spoil a file again and again. That costs one look a second and one line
//! in ten seconds for each file, however often it happens.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

/// When the volume is looked at again after a change: at once for a few changes, then once a second.
pub(super) struct Pace {
    /// When all of it is there again.
    full_at: Instant,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self { full_at: now }
    }

    /// Takes one look: how long to wait before it.
    pub(super) fn take(&mut self, now: Instant) -> Duration {
        self.full_at = self.full_at.max(now) + EVERY;
        self.full_at.saturating_duration_since(now).saturating_sub(BURST * EVERY)
    }
}

/// One look a second ..
const EVERY: Duration = Duration::from_secs(1);
/// .. after so many at once.
const BURST: u32 = 10;

/// What was reported of each file.
#[derive(Default)]
pub(super) struct LossRecords(BTreeMap<PathBuf, LossRecord>);

struct LossRecord {
    at: Instant,
    /// How often it was put back since, without a line.
    left_out: u64,
}

impl LossRecords {
    /// A file was put back.
    pub(super) fn restored(&mut self, path: PathBuf, now: Instant) {
        match self.0.get_mut(&path) {
            Some(report) => report.left_out += 1,
            None => {
                log(&path, 0);
                self.0.insert(path, LossRecord { at: now, left_out: 0 });
            }
        }
    }

    /// Reports what was left out for long enough.
    pub(super) fn catch_up(&mut self, now: Instant) {
        self.0.retain(|path, report| {
            let over = now.saturating_duration_since(report.at) >= QUIET;
            if over && report.left_out > 0 {
                log(path, report.left_out - 1);
                *report = LossRecord { at: now, left_out: 0 };
                return true;
            }
            !over
        });
    }
}

fn log(path: &Path, left_out: u64) {
    let path = path.display().to_string();
    tracing::warn!(event = "volume.restored", path, left_out, "a file of the sidecar's was changed; it was put back");
}

/// At most one line for a file in this time.
const QUIET: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn a_few_changes_are_looked_at_at_once_and_many_once_a_second() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        for _ in 0..BURST {
            assert_eq!(pace.take(start), Duration::ZERO);
        }
        let mut now = start;
        let mut looks = 0;
        while now < start + Duration::from_secs(60) {
            now += pace.take(now) + Duration::from_millis(100);
            looks += 1;
        }
        assert!((55..=70).contains(&looks), "{looks}");
        assert_eq!(pace.take(now + Duration::from_secs(60)), Duration::ZERO);
    }

    #[test]
    fn a_file_is_reported_once_in_ten_seconds_with_what_was_left_out() {
        let log = Arc::new(Mutex::new(Vec::new()));
        let writer = Writer(Arc::clone(&log));
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        let _log = tracing::subscriber::set_default(subscriber);
        let lines = || {
            let text = String::from_utf8(std::mem::take(&mut *log.lock().unwrap())).unwrap();
            let field = |line: &str, name: &str| {
                line.split(' ').find_map(|part| Some(part.strip_prefix(name)?.trim_matches('"').to_owned())).unwrap()
            };
            text.lines().map(|line| (field(line, "path="), field(line, "left_out="))).collect::<Vec<_>>()
        };
        let told = |path: &str, left_out: &str| (path.to_owned(), left_out.to_owned());
        let start = Instant::now();
        let mut reports = LossRecords::default();
        for second in 0..9 {
            let now = start + Duration::from_secs(second);
            reports.restored("/a".into(), now);
            reports.catch_up(now);
        }
        reports.restored("/b".into(), start + Duration::from_secs(9));
        assert_eq!(lines(), [told("/a", "0"), told("/b", "0")]);
        reports.catch_up(start + Duration::from_secs(10));
        assert_eq!(lines(), [told("/a", "7")], "nine times in all");
        reports.catch_up(start + Duration::from_secs(19));
        reports.catch_up(start + Duration::from_secs(20));
        assert_eq!(lines(), [], "nothing was left out");
        assert!(reports.0.is_empty(), "nothing is kept for ever");
        reports.restored("/a".into(), start + Duration::from_secs(21));
        assert_eq!(lines(), [told("/a", "0")]);
    }

    #[derive(Clone)]
    struct Writer(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Writer {
        fn write(&mut self, part: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(part);
            Ok(part.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
}
