//! The lease: this task's duty to keep one gMSA's ticket fresh at one path.

/// adds, changes and removes leases while the process runs
pub mod manager;

/// one CredSpec or a list of them -> the leases it names, also when it comes to name others
pub mod follow;

/// one CredSpec, read again and again
pub mod source;

/// how leases stand, for those who look
pub mod status;

/// tickets -> what is written, and when
pub mod publisher;

/// when to act again
pub mod schedule;

/// a request to renew everything now
pub mod refresh;

/// what is counted
pub mod metrics;

/// what is asked of the world, as traits
pub mod ports;

#[cfg(test)]
pub(crate) mod fakes;

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tracing::Level;

use self::follow::LookAgain;
use self::manager::{LeasePolicy, LeaseSpec, Outcome};
use self::metrics::Metrics;
use self::ports::{Domains, Renew};
use self::publisher::Publisher;
use self::schedule::{Backoff, renewal};
use self::status::{Attempt, HeldTicket, Identity, LeaseKey, LeaseState, ServiceHeld, Statuses};
use crate::clock;
use crate::credspec::LoginSource;
use crate::directory::GmsaCredential;
use crate::fault::{Code, Fault};
use crate::kerberos::{GmsaTgt, ServiceTicket};
use crate::log;
use crate::name::{Account, Domain, Host, Spn};

/// One lease at work: what it was told, whom it asks and where it tells what came of it.
struct Lease {
    key: LeaseKey,
    identity: Identity,
    spec: watch::Receiver<Arc<LeaseSpec>>,
    /// Somebody asks for a renewal of this lease alone.
    asked: Arc<Notify>,
    /// The CredSpec that names it, read again before each renewal.
    source: Option<Arc<dyn LookAgain>>,
    domains: Arc<dyn Domains>,
    publisher: Arc<Publisher>,
    statuses: Statuses,
    metrics: Arc<Metrics>,
    outcome: watch::Sender<Option<Outcome>>,
    policy: LeasePolicy,
}

impl Lease {
    /// Keeps the ticket fresh until it is aborted.
    async fn keep(mut self, mut backoff: Backoff) -> Infallible {
        let mut carried = Carried::default();
        if self.policy.warm_start {
            self.start_warm().await;
            let spec = Arc::clone(&self.spec.borrow());
            carried.key = self.publisher.bridge(&spec).await;
        }
        loop {
            let spec = Arc::clone(&self.spec.borrow_and_update());
            // Requests that came before this renewal are served by it.
            let _ = self.asked.notified().now_or_never();
            let wake = self.attempt(&spec, &mut carried, &mut backoff).await;
            self.wait(&spec, wake, &mut carried, &mut backoff).await;
            self.look_at_source().await;
        }
    }

    /// Waits until `wake`, or until there is a reason to renew at once: somebody asks, or what is to be written is
    /// another. Another login is used at once only where the last attempt failed: it may be the remedy.
    async fn wait(&mut self, spec: &LeaseSpec, wake: SystemTime, carried: &mut Carried, backoff: &mut Backoff) {
        let mut spec = spec.clone();
        let Self { key, identity, spec: specs, asked, publisher, outcome, policy, .. } = self;
        let begun = Instant::now();
        loop {
            let unbridged = carried.unbridged;
            tokio::select! {
                () = backoff.pause(wake) => return,
                () = bridge(publisher, *key, &identity.account, &spec, carried), if unbridged => carried.unbridged = false,
                () = asked.notified() => match backoff.has_failed() {
                    false => return,
                    // Whoever brought a login waits for an answer: another attempt, or what the last one just found.
                    true if policy.answers => {
                        if begun.elapsed() >= ASKED_AGAIN {
                            return;
                        }
                        outcome.send_modify(|_| ());
                    }
                    true => {}
                },
                changed = specs.changed() => {
                    if changed.is_err() {
                        // The manager is gone, and with it who could change anything.
                        return backoff.pause(wake).await;
                    }
                    let now = Arc::clone(&specs.borrow());
                    if now.writes_otherwise(&spec) || backoff.has_failed() && now.asks_otherwise(&spec) {
                        backoff.succeeded();
                        return;
                    }
                    if now.asks_otherwise(&spec) {
                        // With it goes the login that is not used any more.
                        carried.directory = None;
                    }
                    spec.clone_from(&now);
                }
            }
        }
    }

    /// Takes what an earlier process left, so that the app can start although the directory is down.
    async fn start_warm(&self) {
        let spec = Arc::clone(&self.spec.borrow());
        if let Some(held) = self.publisher.warm(&spec).await {
            let expires_at = clock::rfc3339(held.expires_at);
            tracing::info!(event = "lease.warm", expires_at, "a valid ticket was found on the volume");
            self.statuses.change(self.key, |lease| lease.state = LeaseState::Held(held));
        }
    }

    /// Has the CredSpec read again. A source that hangs does not hold the renewal up: what it says in the end counts
    /// from the next one on.
    async fn look_at_source(&self) {
        let Some(source) = self.source.clone() else { return };
        let reading = tokio::spawn(source.look_again());
        let _ = tokio::time::timeout(SOURCE_PATIENCE, reading).await;
    }

    /// One attempt, told to everyone who wants to know. Returns when to act again.
    async fn attempt(&self, spec: &LeaseSpec, carried: &mut Carried, backoff: &mut Backoff) -> SystemTime {
        let start = Instant::now();
        let renewed =
            tokio::time::timeout(DEADLINE, self.renew(spec, carried, start)).await.unwrap_or_else(|_elapsed| {
                let what = format!("renewing the ticket of the gMSA `{}` takes too long", self.identity.account);
                Err(Fault::new(Code::DcUnreachable, what).because(format!("not done in {DEADLINE:?}")))
            });
        let took = start.elapsed();
        let now = clock::now();
        // What was written counts, also where not all could be.
        let (held, fault, due) = match renewed {
            Ok(RenewedTicket { held, due, missing }) => (Some(held), missing, due),
            Err(fault) => (None, Some(fault), now),
        };
        let (wake, fault) = match fault {
            None => {
                backoff.succeeded();
                let expiry = held.as_ref().map_or(now, HeldTicket::first_expiry);
                (renewal(now, expiry, due, rand::random()), None)
            }
            Some(fault) => {
                let wake = now + backoff.failed(&fault);
                let ends = self.policy.ends_with(&fault, self.statuses.ever_ready());
                (wake, Some(fault.tried_again_at((!ends).then_some(wake))))
            }
        };
        self.publish(Attempted { now, took, wake, held, fault }, spec);
        wake
    }

    /// Counts, publishes and logs what came of an attempt.
    fn publish(&self, Attempted { now, took, wake, held, fault }: Attempted, spec: &LeaseSpec) {
        match &fault {
            None => self.metrics.renewed(&self.identity, took),
            Some(fault) => self.metrics.failed(&self.identity, took, fault.code),
        }
        // A fault of the CredSpec's newest version stays until there is a better one.
        let shown = fault.clone().or_else(|| spec.fault.clone());
        let (mut before, mut known, mut ready) = (None, false, false);
        self.statuses.change(self.key, |lease| {
            lease.attempts += 1;
            let dc = held.as_ref().and_then(|held| held.dc.clone());
            let outcome = fault.as_ref().map_or(Ok(dc), |fault| Err(fault.code));
            lease.remember(Attempt { at: now, took, outcome });
            lease.next_renewal_at = Some(wake);
            before = lease.state.held().cloned();
            known = fault.as_ref().zip(lease.state.fault()).is_some_and(|(fault, known)| known.is_like(fault));
            if let Some(held) = held.clone() {
                lease.state = LeaseState::Held(held);
            }
            if let Some(fault) = shown {
                lease.state.fail(fault);
            }
            ready = lease.state.is_ready(now);
        });
        if let Some(held) = &held {
            tell_clock(before.as_ref(), held);
        }
        match (&held, &fault) {
            // One line for a change of state: a fault that stays is not logged again.
            (_, Some(fault)) => {
                let event = if ready { "lease.overdue" } else { "lease.pending" };
                log::fault(if known { Level::DEBUG } else { Level::ERROR }, event, fault);
            }
            (Some(held), None) => tracing::info!(
                event = "lease.renewed",
                expires_at = clock::rfc3339(held.expires_at),
                dc = held.dc.as_ref().map(Host::as_str),
                kvno = held.kvno,
                services = held.services.len(),
                took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
                "the ticket is on the volume"
            ),
            (None, None) => {}
        }
        self.outcome.send_replace(match (fault, held) {
            (Some(fault), _) => Some(Err(fault)),
            (None, held) => held.map(Ok),
        });
    }

    async fn renew(&self, spec: &LeaseSpec, carried: &mut Carried, start: Instant) -> Result<RenewedTicket, Fault> {
        let directory = carried.directory(&*self.domains, spec)?;
        let key = if self.policy.proves_logins { carried.key_unless_new(&spec.login) } else { carried.key.clone() };
        let proves = key.is_none();
        let mut renewal = directory.renew(&self.identity.account, key, &spec.extras).await?;
        if proves && self.policy.proves_logins {
            carried.proven = Some(spec.login.clone());
        }
        carried.unbridged = spec.extras.bridge.is_some();
        carried.renewed = renewal.bridge.take();
        // Carried although the tickets may not reach the volume: the next attempt then costs the least.
        carried.key = Some(renewal.key.clone());
        let granted = std::mem::take(&mut renewal.services);
        let missing = carried.take(granted, std::mem::take(&mut renewal.twins), clock::now());
        if let Some(fault) = &renewal.unread {
            self.metrics.fault(fault.code);
            log::fault(Level::WARN, "gmsa.password-not-read", fault);
        }
        let offset = renewal.ticket.clock_offset();
        self.metrics.clock_offset(&self.identity, offset);
        let held = HeldTicket {
            expires_at: renewal.ticket.expires_at(),
            services: spec.extras.services.iter().map(|spn| carried.service(spn)).collect(),
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
        self.publisher.publish(self.key, spec, &renewal, &carried.services).await?;
        Ok(RenewedTicket { held, due: renewal.key.due, missing })
    }
}

/// Gets the ticket that bridges a restart. Nobody waits for it, nor does it hold up the next renewal.
async fn bridge(publisher: &Publisher, key: LeaseKey, account: &Account, spec: &LeaseSpec, carried: &Carried) {
    let (Some((.., directory)), Some(kept)) = (&carried.directory, &carried.key) else { return };
    let ticket = match &carried.renewed {
        Some(ticket) => Some(Arc::clone(ticket)),
        None => directory.bridge(account, kept.clone()).await,
    };
    let Some(ticket) = ticket else { return };
    if let Err(fault) = publisher.publish_bridge(key, spec, ticket).await {
        log::fault(Level::WARN, "lease.not-bridged", &fault);
    }
}

/// What an attempt came to.
struct Attempted {
    now: SystemTime,
    took: Duration,
    wake: SystemTime,
    held: Option<HeldTicket>,
    fault: Option<Fault>,
}

/// What outlives a renewal.
#[derive(Default)]
struct Carried {
    key: Option<GmsaCredential>,
    services: Vec<ServiceTicket>,
    /// Whether the ticket that bridges a restart is to be written still, and that ticket if it is there already.
    unbridged: bool,
    renewed: Option<Arc<GmsaTgt>>,
    directory: Option<(Domain, LoginSource, Arc<dyn Renew>)>,
    /// The login that was at hand at the last attempt, and the last one that proved itself.
    tried: Option<LoginSource>,
    proven: Option<LoginSource>,
}

impl Carried {
    /// The directory as the login of now sees it. It is held, so that leases of one login share it.
    fn directory(&mut self, domains: &dyn Domains, spec: &LeaseSpec) -> Result<Arc<dyn Renew>, Fault> {
        if let Some((domain, login, directory)) = &self.directory
            && (domain, login) == (&spec.domain, &spec.login)
        {
            return Ok(Arc::clone(directory));
        }
        let directory = domains.of(&spec.domain, &spec.login).map_err(|fault| match fault.code {
            Code::ConfigLoginMissing => fault.with_next(format!(
                "write the ARN of the login's secret into HostAccountConfig.PluginInput.CredentialArn of {}; on a \
                 domain-joined host set GMSA_LOGIN_KEYTAB instead",
                spec.named_by
            )),
            _ => fault,
        })?;
        self.directory = Some((spec.domain.clone(), spec.login.clone(), Arc::clone(&directory)));
        Ok(directory)
    }

    /// The kept key; once none for a login that is new, so that it has to prove itself. If it cannot, the key serves from
    /// the next attempt on.
    fn key_unless_new(&mut self, login: &LoginSource) -> Option<GmsaCredential> {
        let is_known = |known: &Option<LoginSource>| known.as_ref() == Some(login);
        let is_new = *login != LoginSource::Absent && !is_known(&self.tried) && !is_known(&self.proven);
        self.tried = Some(login.clone());
        self.key.clone().filter(|_| !is_new)
    }

    /// Takes what a renewal brought for the services and their twins. Where it brought nothing the ticket from before
    /// stays, as long as it is good. Returns the first fault; that a twin is missing is none.
    fn take(
        &mut self,
        granted: Vec<(Spn, Result<ServiceTicket, Fault>)>,
        twins: Vec<(Spn, Option<ServiceTicket>)>,
        now: SystemTime,
    ) -> Option<Fault> {
        let mut before = std::mem::take(&mut self.services);
        let mut missing = None;
        let granted = granted.into_iter().map(|(spn, granted)| match granted {
            Ok(ticket) => (spn, Some(ticket)),
            Err(fault) => {
                missing.get_or_insert(fault);
                (spn, None)
            }
        });
        for (spn, granted) in granted.chain(twins) {
            let mut good = before.extract_if(.., |ticket| *ticket.spn() == spn && now < ticket.expires_at());
            self.services.extend(granted.or_else(|| good.next()));
        }
        missing
    }

    fn service(&self, spn: &Spn) -> ServiceHeld {
        let ticket = self.services.iter().find(|ticket| ticket.spn() == spn);
        ServiceHeld { spn: spn.clone(), expires_at: ticket.map(ServiceTicket::expires_at) }
    }
}

/// What an attempt put on the volume.
struct RenewedTicket {
    held: HeldTicket,
    /// When the managed password is to be read again.
    due: SystemTime,
    /// Why a service's ticket could not be renewed.
    missing: Option<Fault>,
}

/// One line for a change of the offset, not one for each renewal.
fn tell_clock(before: Option<&HeldTicket>, now: &HeldTicket) {
    let offset = |held: &HeldTicket| held.clock_offset.unwrap_or(0);
    let (before, now) = (before.map_or(0, offset), offset(now));
    if now == 0 && before != 0 {
        tracing::info!(event = "dc.clock", offset_seconds = now, "the KDC's clock agrees with ours again");
    } else if now.abs_diff(before) > 60 {
        tracing::warn!(event = "dc.clock", offset_seconds = now, "the KDC's clock differs from ours");
    }
}

/// How old a failure is that is not the answer to whoever asks.
const ASKED_AGAIN: Duration = Duration::from_secs(5);

/// S3 answers in a tenth of it.
const SOURCE_PATIENCE: Duration = Duration::from_secs(1);

/// For one attempt, all steps and domain controllers included.
const DEADLINE: Duration = Duration::from_secs(60);
