//! What is being waited for: reported while it lasts, in the log, over HTTP and by `health`.
//!
//! A peer that does not answer costs seconds in which nothing else would be seen. Whoever waits for one wraps the waiting
//! into [`during`].

use std::collections::BTreeMap;
use std::fmt::Display;
use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use serde::Serialize;
use tokio::time::Instant;

use crate::clock;

/// Awaits `work`, which waits for `peer` (a URL, a host) in a step of the chain (`secret`, `dc`, ..) and gives up after
/// `limit` by itself. While that lasts it is among [`steps`], and from three seconds on the log reports it.
pub async fn during<T>(step: &'static str, peer: impl Display, limit: Duration, work: impl Future<Output = T>) -> T {
    let since = clock::now();
    let entry = PendingWait::new(Wait { step, peer: peer.to_string(), since, until: since + limit });
    let begun = Instant::now();
    let mut next = FIRST;
    let mut work = std::pin::pin!(work);
    loop {
        match tokio::time::timeout_at(begun + next, &mut work).await {
            Ok(done) => return done,
            Err(_still_at_work) => entry.step.report(),
        }
        next = next.saturating_mul(3).min(next + LAST);
    }
}

/// All that is being waited for, what has lasted longest first.
pub fn steps() -> Vec<Wait> {
    let mut steps: Vec<_> = all().values().cloned().collect();
    steps.sort_by_key(|step| step.since);
    steps.truncate(SHOWN);
    steps
}

/// One step that waits: `{"step","for","since","until"}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Wait {
    /// Which one of the chain: `credspec`, `secret`, `dc`, `ticket`, `gmsa`.
    pub step: &'static str,
    /// The URL or host that has to answer.
    #[serde(rename = "for")]
    pub peer: String,
    /// When the waiting began.
    #[serde(serialize_with = "rfc3339")]
    pub since: SystemTime,
    /// When it is given up.
    #[serde(serialize_with = "rfc3339")]
    pub until: SystemTime,
}

impl Wait {
    fn report(&self) {
        tracing::info!(
            event = "step.waiting",
            step = self.step,
            "for" = self.peer,
            since = clock::rfc3339(self.since),
            until = clock::rfc3339(self.until),
        );
    }
}

fn rfc3339<S: serde::Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&clock::rfc3339(*time))
}

/// A step in the list, for as long as it is waited for.
struct PendingWait {
    key: u64,
    step: Wait,
}

impl PendingWait {
    fn new(step: Wait) -> Self {
        let mut steps = all();
        let key = steps.last_key_value().map_or(0, |(key, _)| key + 1);
        steps.insert(key, step.clone());
        Self { key, step }
    }
}

impl Drop for PendingWait {
    fn drop(&mut self) {
        all().remove(&self.key);
    }
}

/// A process waits for its own.
static STEPS: Mutex<BTreeMap<u64, Wait>> = Mutex::new(BTreeMap::new());

fn all() -> MutexGuard<'static, BTreeMap<u64, Wait>> {
    STEPS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// When a step is reported for the first time; then after three times as long each.
const FIRST: Duration = Duration::from_secs(3);

/// The longest time between two reports.
const LAST: Duration = Duration::from_secs(300);

/// How many steps are shown: leases wait side by side.
const SHOWN: usize = 16;

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::Arc;

    use super::*;

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Log {
        fn lines(&self) -> Vec<String> {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap().lines().map(str::to_owned).collect()
        }
    }

    impl Write for Log {
        fn write(&mut self, part: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(part);
            Ok(part.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn shown(peer: &str) -> Vec<Wait> {
        steps().into_iter().filter(|step| step.peer == peer).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_step_is_shown_while_it_lasts_and_reported_at_growing_intervals() {
        let log = Log::default();
        let writer = log.clone();
        let _log = tracing::subscriber::set_default(
            tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish(),
        );
        let peer = "https://silent.example.com";
        let waiting = tokio::spawn(during("secret", peer, Duration::from_secs(60), std::future::pending::<()>()));
        let reported = async |seconds| {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            log.lines().len()
        };
        assert_eq!((reported(2).await, reported(2).await), (0, 1));
        assert_eq!((reported(4).await, reported(2).await), (1, 2), "3 s, 9 s");
        assert_eq!((reported(16).await, reported(2).await), (2, 3), "27 s");
        let line = &log.lines()[0];
        for part in ["step.waiting", "secret", "https://silent.example.com", "since=", "until="] {
            assert!(line.contains(part), "{part}: {line}");
        }
        let step = shown(peer).pop().unwrap();
        assert_eq!(step.until, step.since + Duration::from_secs(60));
        let json = serde_json::to_value(&step).unwrap();
        assert_eq!((&json["step"], &json["for"]), (&"secret".into(), &peer.into()));
        waiting.abort();
        assert!(waiting.await.unwrap_err().is_cancelled());
        assert_eq!(shown(peer), [], "cancelled");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_done_in_time_is_not_reported() {
        let log = Log::default();
        let writer = log.clone();
        let _log =
            tracing::subscriber::set_default(tracing_subscriber::fmt().with_writer(move || writer.clone()).finish());
        let quick = async {
            tokio::time::sleep(Duration::from_millis(2900)).await;
            7
        };
        assert_eq!(during("dc", "quick.example.com", Duration::from_secs(5), quick).await, 7);
        assert_eq!((log.lines().len(), shown("quick.example.com")), (0, Vec::new()));
    }
}
