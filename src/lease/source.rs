//! One CredSpec over time: read until it is there, and again before each renewal. A new version that is broken keeps
//! the old one working.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex as StdMutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::Mutex;
use tracing::Level;

use super::metrics::Metrics;
use super::ports::ReadSpecs;
use crate::credspec::{CredSpec, Reference};
use crate::fault::Fault;
use crate::log;

/// Where one CredSpec comes from, and what it said last.
pub struct FollowedSpec {
    reference: Reference,
    reader: Arc<dyn ReadSpecs>,
    metrics: Arc<Metrics>,
    /// How many readings have begun.
    begun: AtomicU64,
    last: Mutex<LastRead>,
    /// When a file was changed, and how long it was, just before it was read.
    seen: StdMutex<Option<(SystemTime, u64)>>,
}

#[derive(Default)]
struct LastRead {
    current: Option<Arc<CredSpec>>,
    fault: Option<Fault>,
}

impl FollowedSpec {
    /// Nothing is read yet.
    pub fn new(reference: Reference, reader: Arc<dyn ReadSpecs>, metrics: Arc<Metrics>) -> Self {
        Self { reference, reader, metrics, begun: AtomicU64::new(0), last: Mutex::default(), seen: StdMutex::default() }
    }

    /// For messages: the ARN, the file, or `inline`.
    pub fn name(&self) -> String {
        self.reference.to_string()
    }

    /// Reads it: what it says, if that is another than before. Those who ask at the same time are served by one reading.
    ///
    /// # Errors
    /// Only until it was read once; later a fault is logged once and changes nothing.
    pub async fn read(&self) -> Result<Option<Arc<CredSpec>>, Fault> {
        let asked = self.begun.load(Ordering::Relaxed);
        let mut last = self.last.lock().await;
        // Served by a reading that began meanwhile.
        if last.current.is_some() && self.begun.load(Ordering::Relaxed) != asked {
            return Ok(None);
        }
        self.begun.fetch_add(1, Ordering::Relaxed);
        let stat = self.look().await;
        *self.seen() = stat;
        match self.reader.read(&self.reference).await {
            Ok(read) => {
                last.fault = None;
                if last.current.as_deref() == Some(&read) {
                    return Ok(None);
                }
                let read = Arc::new(read);
                let changed = last.current.replace(Arc::clone(&read)).is_some();
                drop(last);
                if changed {
                    tracing::info!(event = "credspec.changed", spec = self.name(), "the CredSpec is another one now");
                }
                Ok(Some(read))
            }
            Err(fault) => {
                self.metrics.fault(fault.code);
                if last.current.is_none() {
                    return Err(fault);
                }
                let known = last.fault.replace(fault.clone()).is_some_and(|known| known.is_like(&fault));
                drop(last);
                log::fault(if known { Level::DEBUG } else { Level::WARN }, "credspec.kept", &fault);
                Ok(None)
            }
        }
    }

    /// Waits until a file is another one than was read; nothing tells of other sources. Safe to cancel.
    pub async fn changed(&self) {
        if self.reference.path().is_none() {
            return std::future::pending().await;
        }
        loop {
            tokio::time::sleep(LOOK).await;
            if self.look().await != *self.seen() {
                return;
            }
        }
    }

    async fn look(&self) -> Option<(SystemTime, u64)> {
        let stat = tokio::fs::metadata(self.reference.path()?).await.ok()?;
        Some((stat.modified().ok()?, stat.len()))
    }

    fn seen(&self) -> MutexGuard<'_, Option<(SystemTime, u64)>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How often a file is looked at.
const LOOK: Duration = Duration::from_secs(2);
