//! How leases stand: published by `watch`, read by readiness, metrics and the page.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tracing::Level;

use crate::clock;
use crate::fault::{Code, Fault};
use crate::log;
use crate::name::{Account, Domain, Host, Spn};

/// Where the state of all leases is published.
#[derive(Clone, Default)]
pub struct Statuses(watch::Sender<Status>);

impl Statuses {
    /// For those who read it.
    pub fn watch(&self) -> watch::Receiver<Status> {
        self.0.subscribe()
    }

    /// The CredSpecs could not be found.
    pub fn not_discovered(&self, fault: &Fault) {
        let mut known = false;
        self.0.send_modify(|status| {
            known = status.discovery.as_ref().is_some_and(|known| known.is_like(fault));
            status.discovery = Some(fault.clone());
        });
        log::fault(if known { Level::DEBUG } else { Level::ERROR }, "task.pending", fault);
    }

    /// The CredSpecs have been found.
    pub fn discovered(&self) {
        self.0.send_modify(|status| status.discovery = None);
    }

    /// The process serves many who come and go: see [`Status::of_host`].
    pub fn of_host(&self) {
        self.0.send_modify(|status| status.of_host = true);
    }

    /// A lease has begun, or a CredSpec is to be read, which then is one entry without identity.
    pub(super) fn add(&self, key: LeaseKey, order: Order, spec: &str, identity: Option<Identity>) {
        self.0.send_modify(|status| {
            let place = status.leases.partition_point(|lease| lease.place() < (order, key));
            status.leases.insert(place, LeaseStatus::new(key, order, spec.to_owned(), identity));
        });
    }

    /// A lease has ended.
    pub(super) fn remove(&self, key: LeaseKey) {
        self.0.send_modify(|status| {
            status.leases.retain(|lease| lease.key != key);
            status.ever_ready |= status.is_ready(clock::now());
        });
    }

    /// A lease has another place among the others.
    pub(super) fn reorder(&self, key: LeaseKey, order: Order) {
        self.change(key, |lease| lease.order = order);
        self.0.send_modify(|status| status.leases.sort_by_key(LeaseStatus::place));
    }

    /// Changes what is known of one lease. Nothing is logged in here: readers wait.
    pub(super) fn change(&self, key: LeaseKey, change: impl FnOnce(&mut LeaseStatus)) {
        self.0.send_modify(|status| {
            if let Some(lease) = status.leases.iter_mut().find(|lease| lease.key == key) {
                let now = clock::now();
                change(lease);
                lease.was_ready |= lease.state.is_ready(now);
                status.ever_ready = status.ever_ready || status.is_ready(now);
            }
        });
    }

    /// What went wrong with a lease last, of an entry that is there.
    pub(super) fn fault(&self, key: LeaseKey) -> Option<Fault> {
        let status = self.0.borrow();
        status.leases.iter().find(|lease| lease.key == key).and_then(|lease| lease.state.fault().cloned())
    }

    /// Whether a lease holds a TGT that is good at `now`.
    pub(super) fn holds(&self, key: LeaseKey, now: SystemTime) -> bool {
        let status = self.0.borrow();
        let lease = status.leases.iter().find(|lease| lease.key == key);
        lease.and_then(|lease| lease.state.held()).is_some_and(|held| held.valid_at(now))
    }

    /// Whether all leases have been ready at one time.
    pub(super) fn ever_ready(&self) -> bool {
        self.0.borrow().ever_ready
    }
}

/// What tells a lease from all others of the process: given out once and never used again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseKey(pub(super) u64);

/// A lease's place in reports: its CredSpec among those that are configured, the document's among those of a list, and
/// its account's in the document. Leases of one place follow each other as they were added.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Order {
    /// The CredSpec's.
    pub spec: usize,
    /// The document's in a list.
    pub item: usize,
    /// The account's.
    pub account: usize,
}

/// All that the sidecar knows of its work; published by `watch`, read by readiness.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// Why the CredSpecs could not be found, while they could not.
    pub discovery: Option<Fault>,
    /// One entry a lease, in the order of the CredSpecs; a CredSpec not read yet is one entry without identity.
    pub leases: Vec<LeaseStatus>,
    /// Whether all leases were ready at one time: from then on no fault ends the process.
    pub ever_ready: bool,
    /// Leases of strangers, who come and go: without any all is well, and one that fails makes no process replaced that
    /// keeps those of others.
    pub of_host: bool,
}

impl Status {
    /// At least one lease, and every lease holds what its app needs now.
    pub fn is_ready(&self, now: SystemTime) -> bool {
        (self.of_host || !self.leases.is_empty()) && self.leases.iter().all(|lease| lease.state.is_ready(now))
    }

    /// Whether apps may run: every lease has held all that its app needs, and its TGT has not expired since. A failed
    /// renewal does not count, or one bad hour of AD would make ECS replace every task; nor does a service ticket that
    /// ends, or one SPN that somebody removes would; nor does a lease that came later and was not ready yet, or one more
    /// CredSpec would. A host's daemon is open as long as it serves.
    pub fn is_open(&self, now: SystemTime) -> bool {
        if self.of_host {
            return true;
        }
        let counts = |lease: &&LeaseStatus| lease.was_ready || !self.ever_ready;
        let holds = |lease: &LeaseStatus| lease.was_ready && lease.state.held().is_some_and(|held| held.valid_at(now));
        let mut counted = self.leases.iter().filter(counts).peekable();
        counted.peek().is_some() && counted.all(holds)
    }

    /// The first fault in the order of the CredSpecs, that of the discovery before all.
    pub fn first_fault(&self) -> Option<&Fault> {
        self.faults().next()
    }

    /// All faults there are now, in that order.
    pub fn faults(&self) -> impl Iterator<Item = &Fault> {
        self.discovery.iter().chain(self.leases.iter().filter_map(|lease| lease.state.fault()))
    }
}

/// One lease as others see it.
#[derive(Debug, Clone)]
pub struct LeaseStatus {
    /// Which one it is.
    pub key: LeaseKey,
    /// Its place among the others.
    pub order: Order,
    /// Where the CredSpec comes from: an ARN, `file:///path`, or `inline`.
    pub spec: String,
    /// Whose ticket and where it lies; unknown until the CredSpec is read.
    pub identity: Option<Identity>,
    /// How things stand.
    pub state: LeaseState,
    /// Whether it held all that its app needs, once: from then on the app runs.
    pub was_ready: bool,
    /// When the next attempt is due.
    pub next_renewal_at: Option<SystemTime>,
    /// Attempts since the start, successful or not.
    pub attempts: u64,
    /// The last of them, the latest first.
    pub history: VecDeque<Attempt>,
}

/// One attempt to renew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// When it ended.
    pub at: SystemTime,
    /// How long it took.
    pub took: Duration,
    /// The DC that gave the ticket, or why there is none.
    pub outcome: Result<Option<Host>, Code>,
}

impl LeaseStatus {
    fn new(key: LeaseKey, order: Order, spec: String, identity: Option<Identity>) -> Self {
        let (state, history) = (LeaseState::Pending(None), VecDeque::new());
        Self { key, order, spec, identity, state, was_ready: false, next_renewal_at: None, attempts: 0, history }
    }

    fn place(&self) -> (Order, LeaseKey) {
        (self.order, self.key)
    }

    pub(super) fn remember(&mut self, attempt: Attempt) {
        self.history.truncate(REMEMBERED - 1);
        self.history.push_front(attempt);
    }
}

/// How many attempts of a lease are remembered.
const REMEMBERED: usize = 5;

/// Whose ticket a lease keeps, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The gMSA.
    pub account: Account,
    /// Its domain.
    pub domain: Domain,
    /// The ccache on the volume.
    pub path: PathBuf,
}

/// How a lease stands. Expiry is not a state of its own: it is [`HeldTicket::valid_at`] and the clock.
#[derive(Debug, Clone)]
pub enum LeaseState {
    /// No ticket yet; the fault of the last attempt, if there was one.
    Pending(Option<Fault>),
    /// A ticket is on the volume.
    Held(HeldTicket),
    /// A ticket is on the volume but its last renewal failed.
    Overdue(HeldTicket, Fault),
}

impl LeaseState {
    /// The ticket, if there is one.
    pub fn held(&self) -> Option<&HeldTicket> {
        match self {
            Self::Pending(_) => None,
            Self::Held(held) | Self::Overdue(held, _) => Some(held),
        }
    }

    /// What is wrong now, if anything is.
    pub fn fault(&self) -> Option<&Fault> {
        match self {
            Self::Pending(fault) => fault.as_ref(),
            Self::Held(_) => None,
            Self::Overdue(_, fault) => Some(fault),
        }
    }

    /// An attempt failed; a ticket that is held stays.
    pub(super) fn fail(&mut self, fault: Fault) {
        *self = match std::mem::replace(self, Self::Pending(None)) {
            Self::Pending(_) => Self::Pending(Some(fault)),
            Self::Held(held) | Self::Overdue(held, _) => Self::Overdue(held, fault),
        };
    }

    /// Whether the app finds all its valid tickets on the volume.
    pub fn is_ready(&self, now: SystemTime) -> bool {
        self.held().is_some_and(|held| held.valid_at(now) && held.services.iter().all(|service| service.valid_at(now)))
    }
}

/// A ticket on the volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldTicket {
    /// When it expires.
    pub expires_at: SystemTime,
    /// The tickets for services next to it: one entry for each service of the lease.
    pub services: Vec<ServiceHeld>,
    /// When it was got, or found on the volume at a warm start.
    pub renewed_at: SystemTime,
    /// The DC that issued it; unknown for one found on the volume.
    pub dc: Option<Host>,
    /// The version of the managed password it was got with, where the directory told.
    pub kvno: Option<u32>,
    /// How long getting it took.
    pub took: Option<Duration>,
    /// How far the KDC's clock is ahead of ours, in seconds; 0 where it makes no difference.
    pub clock_offset: Option<i64>,
}

impl HeldTicket {
    /// A ticket that tells no more than its times.
    pub fn found(expires_at: SystemTime, renewed_at: SystemTime) -> Self {
        let services = Vec::new();
        Self { expires_at, services, renewed_at, dc: None, kvno: None, took: None, clock_offset: None }
    }

    /// Whether the TGT is good at `now`.
    pub fn valid_at(&self, now: SystemTime) -> bool {
        now < self.expires_at
    }

    /// When the first of the tickets expires.
    pub fn first_expiry(&self) -> SystemTime {
        self.services.iter().filter_map(|service| service.expires_at).fold(self.expires_at, SystemTime::min)
    }
}

/// A service of the lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceHeld {
    /// The service.
    pub spn: Spn,
    /// When its ticket expires; none while there is no ticket.
    pub expires_at: Option<SystemTime>,
}

impl ServiceHeld {
    /// Whether there is a ticket that is good at `now`.
    pub fn valid_at(&self, now: SystemTime) -> bool {
        self.expires_at.is_some_and(|end| now < end)
    }
}
