//! The lease: this task's duty to keep one gMSA's ticket fresh at one path.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::Instant;
use tracing::Level;

use crate::clock;
use crate::directory::{Directories, KeptKey, Wanted};
use crate::fault::{Code, Fault};
use crate::kerberos::ServiceTicket;
use crate::log;
use crate::metrics::Metrics;
use crate::name::{Account, Domain, Host, Spn};
use crate::outlet::Outlet;
use crate::schedule::{Patience, renewal};
use crate::source::Source;

/// One lease: whose ticket, from where, to where.
pub struct Lease {
    /// Its place among the leases; the first one's ticket is copied to the volume's root.
    pub id: LeaseId,
    /// Whose ticket it keeps.
    pub identity: Identity,
    /// What it keeps beside the TGT.
    pub wanted: Wanted,
    /// The CredSpec that names it, read again before each renewal.
    pub source: Arc<Source>,
    /// Where the login that the CredSpec names leads to.
    pub directories: Arc<Directories>,
    /// The volume.
    pub outlet: Arc<Outlet>,
    /// Where its state is published.
    pub board: Board,
    /// Where it is counted.
    pub metrics: Arc<Metrics>,
}

impl Lease {
    /// Keeps the ticket fresh for ever. Returns only on a fault that nothing outside can cure.
    pub async fn keep(self, mut patience: Patience) -> Fault {
        if let Some(held) = self.outlet.warm(&self.identity, &self.wanted).await {
            let expires_at = clock::rfc3339(held.expires_at);
            tracing::info!(event = "lease.warm", expires_at, "a valid ticket was found on the volume");
            self.board.lease(self.id, |lease| lease.state = LeaseState::Held(held));
        }
        let mut kept = Kept::default();
        loop {
            let wake = match self.attempt(&mut kept).await {
                Ok((held, due)) => {
                    patience.succeeded();
                    renewal(clock::now(), held.first_expiry(), due, rand::random())
                }
                Err(fault) => match patience.failed(&fault) {
                    Ok(wake) => wake,
                    Err(_given_up) => return fault,
                },
            };
            self.board.lease(self.id, |lease| lease.next_renewal_at = Some(wake));
            patience.pause_until(wake).await;
            self.look_at_source().await;
        }
    }

    /// Has the CredSpec read again. A source that hangs does not hold the renewal up: what it says in the end counts
    /// from the next one on.
    async fn look_at_source(&self) {
        let source = Arc::clone(&self.source);
        let reading = tokio::spawn(async move { source.read_again().await });
        let _ = tokio::time::timeout(SOURCE_PATIENCE, reading).await;
    }

    /// Gets the ticket once. Tries again what may pass, as long as `patience` lasts.
    pub async fn get(self, mut patience: Patience) -> Result<(), Fault> {
        let mut kept = Kept::default();
        loop {
            match self.attempt(&mut kept).await {
                Ok(_held) => return Ok(()),
                Err(fault) => {
                    let wake = patience.failed(&fault)?;
                    patience.pause_until(wake).await;
                }
            }
        }
    }

    /// For the log lines of this lease.
    pub fn span(&self) -> tracing::Span {
        tracing::info_span!("lease", gmsa = %self.identity.account, realm = self.identity.domain.realm())
    }

    /// One attempt, told to everyone who wants to know. Returns the ticket with the time when the managed password is
    /// to be read again.
    async fn attempt(&self, kept: &mut Kept) -> Result<(Held, SystemTime), Fault> {
        let start = Instant::now();
        let renewed = tokio::time::timeout(DEADLINE, self.renew(kept, start)).await.unwrap_or_else(|_elapsed| {
            let what = format!("renewing the ticket of the gMSA `{}` takes too long", self.identity.account);
            Err(Fault::new(Code::DcUnreachable, what).because(format!("not done in {DEADLINE:?}")))
        });
        let took = start.elapsed();
        // What was written counts, also where not all could be.
        let (written, outcome) = match renewed {
            Ok(Renewed { held, missing: Some(fault), .. }) => (Some(held), Err(fault)),
            Ok(Renewed { held, due, missing: None }) => (None, Ok((held, due))),
            Err(fault) => (None, Err(fault)),
        };
        match &outcome {
            Ok((held, _)) => {
                self.metrics.renewed(&self.identity, took);
                tracing::info!(
                    event = "lease.renewed",
                    expires_at = clock::rfc3339(held.expires_at),
                    dc = held.dc.as_ref().map(Host::as_str),
                    kvno = held.kvno,
                    services = held.services.len(),
                    took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
                    "the ticket is on the volume"
                );
            }
            Err(fault) => self.metrics.failed(&self.identity, took, fault.code),
        }
        self.board.lease(self.id, |lease| {
            lease.attempts += 1;
            lease.remember(Attempt {
                at: clock::now(),
                took,
                outcome: outcome.as_ref().map(|(held, _)| held.dc.clone()).map_err(|fault| fault.code),
            });
            match &outcome {
                Ok((held, _)) => {
                    tell_clock(lease.state.held(), held);
                    lease.state = LeaseState::Held(held.clone());
                }
                Err(fault) => {
                    let known = lease.state.fault().is_some_and(|known| known.is_like(fault));
                    if let Some(held) = written {
                        tell_clock(lease.state.held(), &held);
                        lease.state = LeaseState::Held(held);
                    }
                    lease.state.fail(fault.clone());
                    // One line for a change of state: a fault that stays is not told again.
                    let ready = lease.state.is_ready(clock::now());
                    let event = if ready { "lease.overdue" } else { "lease.pending" };
                    log::fault(if known { Level::DEBUG } else { Level::ERROR }, event, fault);
                }
            }
        });
        outcome
    }

    async fn renew(&self, kept: &mut Kept, start: Instant) -> Result<Renewed, Fault> {
        let login = self.source.watch().borrow().login().clone();
        let directory = self.directories.of(&self.identity.domain, &login);
        let mut renewal = directory.renew(&self.identity.account, kept.key.clone(), &self.wanted).await?;
        // Kept although the tickets may not reach the volume: the next attempt then costs the least.
        kept.key = Some(renewal.key.clone());
        let missing = kept.take(std::mem::take(&mut renewal.services), clock::now());
        if let Some(fault) = &renewal.unread {
            self.metrics.fault(fault.code);
            log::fault(Level::WARN, "gmsa.password-not-read", fault);
        }
        let offset = renewal.ticket.clock_offset();
        self.metrics.clock_offset(&self.identity, offset);
        let held = Held {
            expires_at: renewal.ticket.expires_at(),
            services: self.wanted.services.iter().map(|spn| kept.service(spn)).collect(),
            renewed_at: clock::now(),
            dc: renewal.dc.clone(),
            kvno: renewal.kvno,
            took: Some(start.elapsed()),
            clock_offset: Some(offset),
        };
        if !held.valid_at(clock::now()) {
            let what = format!("the ticket of the gMSA `{}` has expired already", self.identity.account);
            let (end, now) = (clock::rfc3339(held.expires_at), clock::rfc3339(clock::now()));
            return Err(Fault::new(Code::TicketClockSkew, what).because(format!("it ends at {end}, and now is {now}")));
        }
        self.outlet.publish(self.id, &self.identity, &renewal, &kept.services).await?;
        Ok(Renewed { held, due: renewal.key.due, missing })
    }
}

/// What outlives a renewal.
#[derive(Default)]
struct Kept {
    key: Option<KeptKey>,
    services: Vec<ServiceTicket>,
}

impl Kept {
    /// Takes what a renewal brought for the services. Where it brought nothing the ticket from before stays, as long
    /// as it is good. Returns the first fault.
    fn take(&mut self, granted: Vec<(Spn, Result<ServiceTicket, Fault>)>, now: SystemTime) -> Option<Fault> {
        let mut before = std::mem::take(&mut self.services);
        let mut missing = None;
        for (spn, granted) in granted {
            match granted {
                Ok(ticket) => self.services.push(ticket),
                Err(fault) => {
                    let mut good = before.extract_if(.., |ticket| *ticket.spn() == spn && now < ticket.expires_at());
                    self.services.extend(good.next());
                    missing.get_or_insert(fault);
                }
            }
        }
        missing
    }

    fn service(&self, spn: &Spn) -> ServiceHeld {
        let ticket = self.services.iter().find(|ticket| ticket.spn() == spn);
        ServiceHeld { spn: spn.clone(), expires_at: ticket.map(ServiceTicket::expires_at) }
    }
}

/// What an attempt put on the volume.
struct Renewed {
    held: Held,
    /// When the managed password is to be read again.
    due: SystemTime,
    /// Why a service's ticket could not be renewed.
    missing: Option<Fault>,
}

/// One line for a change of the offset, not one for each renewal.
fn tell_clock(before: Option<&Held>, now: &Held) {
    let offset = |held: &Held| held.clock_offset.unwrap_or(0);
    let (before, now) = (before.map_or(0, offset), offset(now));
    if now == 0 && before != 0 {
        tracing::info!(event = "dc.clock", offset_seconds = now, "the KDC's clock agrees with ours again");
    } else if now.abs_diff(before) > 60 {
        tracing::warn!(event = "dc.clock", offset_seconds = now, "the KDC's clock differs from ours");
    }
}

/// S3 answers in a tenth of it.
const SOURCE_PATIENCE: Duration = Duration::from_secs(1);

/// For one attempt, all steps and domain controllers included.
const DEADLINE: Duration = Duration::from_secs(60);

/// Where the state of all leases is published.
#[derive(Clone, Default)]
pub struct Board(watch::Sender<Status>);

impl Board {
    /// For those who read it.
    pub fn watch(&self) -> watch::Receiver<Status> {
        self.0.subscribe()
    }

    /// The CredSpecs could not be found.
    pub fn not_discovered(&self, fault: &Fault) {
        self.0.send_modify(|status| {
            let known = status.discovery.as_ref().is_some_and(|known| known.is_like(fault));
            log::fault(if known { Level::DEBUG } else { Level::ERROR }, "task.pending", fault);
            status.discovery = Some(fault.clone());
        });
    }

    /// The CredSpecs are known by name, in this order.
    pub fn discovered(&self, specs: impl Iterator<Item = String>) {
        let leases = specs.enumerate().map(|(spec, name)| LeaseStatus::new(LeaseId { spec, account: 0 }, name, None));
        let leases = leases.collect();
        self.0.send_replace(Status { discovery: None, leases });
    }

    /// A CredSpec could not be read; it will be tried again at `wake`.
    pub fn not_read(&self, spec: usize, fault: &Fault, wake: SystemTime) {
        self.lease(LeaseId { spec, account: 0 }, |lease| {
            let known = lease.state.fault().is_some_and(|known| known.is_like(fault));
            log::fault(if known { Level::DEBUG } else { Level::ERROR }, "credspec.pending", fault);
            lease.state = LeaseState::Pending(Some(fault.clone()));
            lease.attempts += 1;
            lease.next_renewal_at = Some(wake);
        });
    }

    /// A CredSpec was read, perhaps again: it is these leases. What is known of those that stay is kept.
    pub fn read(&self, spec: usize, name: &str, identities: &[(LeaseId, Identity)]) {
        self.0.send_modify(|status| {
            let of_spec = |lease: &LeaseStatus| lease.id.spec == spec;
            let (mut before, mut leases): (Vec<_>, Vec<_>) = status.leases.drain(..).partition(of_spec);
            for (id, identity) in identities {
                let stays = |lease: &LeaseStatus| lease.id == *id && lease.identity.as_ref() == Some(identity);
                leases.push(match before.iter().position(stays) {
                    Some(at) => before.swap_remove(at),
                    None => LeaseStatus::new(*id, name.to_owned(), Some(identity.clone())),
                });
            }
            leases.sort_by_key(|lease| lease.id);
            status.leases = leases;
        });
    }

    /// Changes what is known of one lease.
    fn lease(&self, id: LeaseId, change: impl FnOnce(&mut LeaseStatus)) {
        self.0.send_modify(|status| {
            if let Some(lease) = status.leases.iter_mut().find(|lease| lease.id == id) {
                change(lease);
                lease.was_ready |= lease.state.is_ready(clock::now());
            }
        });
    }
}

/// The place of a lease: its CredSpec among the CredSpecs, its account among that CredSpec's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseId {
    /// The CredSpec's place.
    pub spec: usize,
    /// The account's place in it.
    pub account: usize,
}

impl LeaseId {
    /// Whether this lease's ticket is the one at the volume's root.
    pub fn is_first(self) -> bool {
        self == Self::default()
    }
}

/// All that the sidecar knows of its work; published by `watch`, read by readiness.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// Why the CredSpecs could not be found, while they could not.
    pub discovery: Option<Fault>,
    /// One entry a lease, in the order of the CredSpecs; a CredSpec not read yet is one entry without identity.
    pub leases: Vec<LeaseStatus>,
}

impl Status {
    /// At least one lease, and every lease holds what its app needs now.
    pub fn is_ready(&self, now: SystemTime) -> bool {
        !self.leases.is_empty() && self.leases.iter().all(|lease| lease.state.is_ready(now))
    }
}

/// One lease as others see it.
#[derive(Debug, Clone)]
pub struct LeaseStatus {
    /// Its place.
    pub id: LeaseId,
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
    fn new(id: LeaseId, spec: String, identity: Option<Identity>) -> Self {
        let (state, history) = (LeaseState::Pending(None), VecDeque::new());
        Self { id, spec, identity, state, was_ready: false, next_renewal_at: None, attempts: 0, history }
    }

    fn remember(&mut self, attempt: Attempt) {
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

/// How a lease stands. Expiry is not a state of its own: it is [`Held::valid_at`] and the clock.
#[derive(Debug, Clone)]
pub enum LeaseState {
    /// No ticket yet; the fault of the last attempt, if there was one.
    Pending(Option<Fault>),
    /// A ticket is on the volume.
    Held(Held),
    /// A ticket is on the volume but its last renewal failed.
    Overdue(Held, Fault),
}

impl LeaseState {
    /// The ticket, if there is one.
    pub fn held(&self) -> Option<&Held> {
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
    fn fail(&mut self, fault: Fault) {
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
pub struct Held {
    /// When it expires.
    pub expires_at: SystemTime,
    /// The tickets for services that lie beside it: one entry for each that is wanted.
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

impl Held {
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

/// A service whose ticket is wanted.
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
