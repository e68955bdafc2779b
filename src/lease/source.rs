//! One CredSpec over time: read until it is there, and again before each renewal. A new version that is broken keeps
//! the old one working.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, watch};
use tokio::time::Instant;
use tracing::Level;

use crate::aws::{Aws, LONGEST_CALL};
use crate::clock;
use crate::credspec::{self, CredSpec, Reference};
use crate::fault::Fault;
use crate::lease::metrics::Metrics;
use crate::lease::schedule::Patience;
use crate::lease::status::Board;
use crate::{log, progress};

/// Where one CredSpec comes from, and what it said last.
pub struct Source {
    /// Its place among the CredSpecs.
    pub spec: usize,
    reference: Reference,
    aws: Arc<Aws>,
    metrics: Arc<Metrics>,
    current: watch::Sender<Arc<CredSpec>>,
    last: Mutex<LastRead>,
}

struct LastRead {
    begun: Instant,
    fault: Option<Fault>,
}

impl Source {
    /// Reads the CredSpec for the first time, as long as `patience` lasts.
    pub async fn open(
        spec: usize,
        reference: Reference,
        aws: Arc<Aws>,
        board: &Board,
        metrics: Arc<Metrics>,
        mut patience: Patience,
    ) -> Result<Self, Fault> {
        loop {
            let begun = Instant::now();
            match read(&reference, &aws).await {
                Ok(read) => {
                    let current = watch::Sender::new(Arc::new(read));
                    let last = Mutex::new(LastRead { begun, fault: None });
                    return Ok(Self { spec, reference, aws, metrics, current, last });
                }
                Err(fault) => {
                    metrics.fault(fault.code);
                    let wake = patience.failed(&fault);
                    board.not_read(spec, &fault, wake.clone().unwrap_or_else(|_| clock::now()));
                    patience.pause_until(wake?).await;
                }
            }
        }
    }

    /// What it says, and each time that changes.
    pub fn watch(&self) -> watch::Receiver<Arc<CredSpec>> {
        self.current.subscribe()
    }

    /// For messages: the ARN, the file, or `inline`.
    pub fn name(&self) -> String {
        self.reference.to_string()
    }

    /// Reads it again; leases that want it at the same time are served by one reading. A fault is told once and
    /// changes nothing.
    pub async fn read_again(&self) {
        let asked = Instant::now();
        let mut last = self.last.lock().await;
        if last.begun >= asked {
            return;
        }
        last.begun = Instant::now();
        match read(&self.reference, &self.aws).await {
            Ok(read) => {
                last.fault = None;
                let changed = self.current.send_if_modified(|current| {
                    let changed = **current != read;
                    if changed {
                        *current = Arc::new(read);
                    }
                    changed
                });
                if changed {
                    tracing::info!(event = "credspec.changed", spec = self.name(), "the CredSpec is another one now");
                }
            }
            Err(fault) => {
                self.metrics.fault(fault.code);
                let known = last.fault.as_ref().is_some_and(|known| known.is_like(&fault));
                log::fault(if known { Level::DEBUG } else { Level::WARN }, "credspec.kept", &fault);
                last.fault = Some(fault);
            }
        }
    }

    /// Reads a file again whenever it changes; of other sources nothing tells.
    pub async fn follow(&self) -> std::convert::Infallible {
        let Some(path) = self.reference.path() else { return std::future::pending().await };
        let look = || async {
            let stat = tokio::fs::metadata(path).await.ok()?;
            Some((stat.modified().ok()?, stat.len()))
        };
        let mut seen = look().await;
        loop {
            tokio::time::sleep(LOOK).await;
            let now = look().await;
            if now != seen {
                seen = now;
                self.read_again().await;
            }
        }
    }
}

async fn read(reference: &Reference, aws: &Aws) -> Result<CredSpec, Fault> {
    let peer = aws.endpoint_for(&reference.to_string());
    progress::during("credspec", peer, LONGEST_CALL, credspec::fetch(reference, aws)).await
}

/// How often a file is looked at.
const LOOK: Duration = Duration::from_secs(2);
