//! The lease: this task's duty to keep one gMSA's ticket fresh at one path.

/// how leases stand, for those who look
pub mod status;

/// tickets -> what is written, and when
pub mod publisher;

/// one CredSpec, read again and again
pub mod source;

/// when to act again
pub mod schedule;

/// a request to renew everything now
pub mod refresh;

/// what is counted
pub mod metrics;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;
use tracing::Level;

use self::status::{Attempt, Board, Held, Identity, LeaseId, LeaseState, ServiceHeld};
use crate::clock;
use crate::directory::{Directories, KeptKey, Wanted};
use crate::fault::{Code, Fault};
use crate::kerberos::ServiceTicket;
use crate::lease::metrics::Metrics;
use crate::lease::publisher::Outlet;
use crate::lease::schedule::{Patience, renewal};
use crate::lease::source::Source;
use crate::log;
use crate::name::{Host, Spn};

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
