//! One CredSpec over time: read until it is there, and again before each renewal. A new version that is broken keeps
//! the old one working.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use tracing::Level;

use super::metrics::Metrics;
use super::ports::ReadSpecs;
use crate::credspec::{CredSpec, Reference};
use crate::fault::Fault;
use crate::log;

/// Where one CredSpec comes from, and what it said last.
pub struct Source {
    reference: Reference,
    reader: Arc<dyn ReadSpecs>,
    metrics: Arc<Metrics>,
    /// How many readings have begun.
    begun: AtomicU64,
    last: Mutex<LastRead>,
}

#[derive(Default)]
struct LastRead {
    current: Option<Arc<CredSpec>>,
    fault: Option<Fault>,
}

impl Source {
    /// Nothing is read yet.
    pub fn new(reference: Reference, reader: Arc<dyn ReadSpecs>, metrics: Arc<Metrics>) -> Self {
        Self { reference, reader, metrics, begun: AtomicU64::new(0), last: Mutex::default() }
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

    /// Waits until a file has changed; nothing tells of other sources.
    pub async fn changed(&self) {
        let Some(path) = self.reference.path() else { return std::future::pending().await };
        let look = || async {
            let stat = tokio::fs::metadata(path).await.ok()?;
            Some((stat.modified().ok()?, stat.len()))
        };
        let seen = look().await;
        loop {
            tokio::time::sleep(LOOK).await;
            if look().await != seen {
                return;
            }
        }
    }
}

/// How often a file is looked at.
const LOOK: Duration = Duration::from_secs(2);
