//! Kerberos tickets of group Managed Service Accounts for Linux containers, from a sidecar.
//!
//! The modules in the order of the data:

/// flags and environment -> what to do
pub mod config;

/// the ECS task -> where its CredSpecs are
pub mod task;

/// S3, file, inline -> the CredSpec: which gMSAs, which login
pub mod credspec;

/// Secrets Manager -> the login
pub mod secret;

/// DNS -> domain controllers, and the connections to them
pub mod dc;

/// subnets -> which of them are near
pub mod site;

/// the login -> a session with one domain controller, shared by its leases
pub mod directory;

/// sealed LDAP -> the managed password
pub mod gmsa;

/// a password -> a ticket
pub mod kerberos;

/// tickets -> what is written, and when
pub mod outlet;

/// files on the shared volume
pub mod volume;

/// one CredSpec, read again and again
pub mod source;

/// one gMSA's ticket, kept fresh
pub mod lease;

/// the state of the leases -> HTTP
pub mod readiness;

/// the ECS agent's socket -> leases of a whole host
pub mod host;

// What these stand on:

pub mod arn;
pub mod aws;
pub mod check;
pub mod clock;
pub mod fault;
pub mod health;
pub mod klist;
pub mod ldap;
pub mod log;
pub mod login;
pub mod metrics;
pub mod name;
pub mod refresh;
pub mod schedule;
pub mod tls;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::convert::Infallible;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio::time::Instant;
use tracing::{Instrument, Level};

use crate::aws::Aws;
use crate::config::{Config, ServiceTickets};
use crate::credspec::{CredSpec, Reference};
use crate::dc::Locator;
use crate::directory::{Directories, Wanted};
use crate::fault::{Code, Fault};
use crate::lease::{Board, Identity, Lease, LeaseId};
use crate::login::Logins;
use crate::metrics::Metrics;
use crate::name::Account;
use crate::outlet::Outlet;
use crate::refresh::Refresh;
use crate::schedule::Patience;
use crate::source::Source;
use crate::volume::Volume;

/// Serves HTTP, gets every ticket and keeps it fresh until `shutdown`.
///
/// Every fault is logged where it happens; the one returned is what ends the process and gives its exit code. It ends
/// by itself only on a configuration or a volume that cannot be used, and if it was not ready in time.
pub async fn run(config: Config, refresh: Refresh, shutdown: impl Future<Output = ()>) -> Result<(), Fault> {
    let listener = readiness::bind(config.listen).await.inspect_err(failed)?;
    tracing::info!(event = "sidecar.started", version = env!("CARGO_PKG_VERSION"), listen = %config.listen);
    let (board, metrics) = (Board::default(), Arc::new(Metrics::new()));
    let state = readiness::State { status: board.watch(), metrics: Arc::clone(&metrics), refresh: refresh.clone() };
    let server = tokio::spawn(readiness::serve(listener, state));
    let late = never_ready(board.clone(), config.start_timeout);
    let sidecar = Sidecar::new(&config, board, metrics).inspect_err(failed)?;
    tokio::select! {
        () = shutdown => {
            tracing::info!(event = "sidecar.stopped");
            Ok(())
        }
        fault = sidecar.keep(&refresh) => Err(fault),
        fault = late => Err(fault),
        ended = server => Err(died(ended.map(|never| match never {}))),
    }
}

/// Gets every ticket once. The fault returned is the first in the order of the CredSpecs.
pub async fn init(config: Config) -> Result<(), Fault> {
    let deadline = Instant::now() + config.init_timeout;
    let sidecar = Sidecar::new(&config, Board::default(), Arc::new(Metrics::new())).inspect_err(failed)?;
    sidecar.get(deadline).await
}

/// What all leases share.
struct Sidecar {
    specs: Option<Vec<Reference>>,
    aws: Arc<Aws>,
    directories: Arc<Directories>,
    outlet: Arc<Outlet>,
    services: ServiceTickets,
    keytab: bool,
    /// Which CredSpec has taken which folder of the volume; names compare without case.
    folders: Mutex<HashMap<String, (LeaseId, String)>>,
    board: Board,
    metrics: Arc<Metrics>,
}

impl Sidecar {
    fn new(config: &Config, board: Board, metrics: Arc<Metrics>) -> Result<Arc<Self>, Fault> {
        let volume = Volume::open(&config.dir, config.owner, config.mode)?;
        let locator =
            Arc::new(Locator::new(&config.dns_servers, config.domain_controllers.clone(), config.site.clone())?);
        let addresses = (!config.dns_servers.is_empty()).then(|| Arc::clone(&locator));
        let aws = Arc::new(Aws::new(config.aws.clone())?);
        Ok(Arc::new(Self {
            specs: config.cred_specs.clone(),
            directories: Arc::new(Directories::new(
                Logins::new(Arc::clone(&aws), config.login_keytab.clone()),
                locator,
                config.ldap.clone(),
                config.ticket_lifetime,
            )),
            aws,
            outlet: Arc::new(Outlet::new(volume, addresses)),
            services: config.service_tickets.clone(),
            keytab: config.keytab,
            folders: Mutex::default(),
            board,
            metrics,
        }))
    }

    /// Keeps all leases, each in a task of its own, until one of them ends on what nothing outside can cure.
    async fn keep(self: Arc<Self>, refresh: &Refresh) -> Fault {
        let references = match self.discover(Patience::endless(refresh.requests())).await {
            Ok(references) => references,
            Err(fault) => return fault,
        };
        let mut tasks = JoinSet::new();
        let outlet = Arc::clone(&self.outlet);
        tasks.spawn(async move { match outlet.guard().await {} });
        let asked = refresh.clone();
        tasks.spawn(async move { match renew_when_the_clock_is_set(&asked).await {} });
        for (spec, reference) in references.into_iter().enumerate() {
            tasks.spawn(Arc::clone(&self).keep_spec(spec, reference, refresh.clone()));
        }
        match tasks.join_next().await {
            Some(ended) => died(ended),
            None => Fault::new(Code::InternalBug, "there is nothing to keep"),
        }
    }

    /// Keeps the leases that one CredSpec names, also when it comes to name others.
    async fn keep_spec(self: Arc<Self>, spec: usize, reference: Reference, refresh: Refresh) -> Fault {
        let patience = || Patience::endless(refresh.requests());
        let source = match self.open(spec, reference, patience()).await {
            Ok(source) => source,
            Err(fault) => return fault,
        };
        let mut current = source.watch();
        let mut running: Vec<(LeaseId, Identity, AbortHandle)> = Vec::new();
        let mut tasks = JoinSet::new();
        let follower = Arc::clone(&source);
        tasks.spawn(async move { match follower.follow().await {} });
        loop {
            let cred_spec = Arc::clone(&current.borrow_and_update());
            let wanted = |identity: &Identity| {
                identity.domain == *cred_spec.domain() && cred_spec.accounts().contains(&identity.account)
            };
            for (id, identity, task) in running.extract_if(.., |(_, identity, _)| !wanted(identity)) {
                task.abort();
                self.outlet.forget(id);
                self.folders().remove(&identity.account.as_str().to_ascii_lowercase());
            }
            for account in cred_spec.accounts() {
                if running.iter().any(|(_, identity, _)| identity.account == *account) {
                    continue;
                }
                let free = (0..).find(|place| running.iter().all(|(id, ..)| id.account != *place));
                let id = LeaseId { spec, account: free.unwrap_or_default() };
                match self.lease(id, account, &cred_spec, &source) {
                    Ok(lease) => {
                        let (identity, span) = (lease.identity.clone(), lease.span());
                        let task = tasks.spawn(lease.keep(patience()).instrument(span));
                        running.push((id, identity, task));
                    }
                    // A CredSpec that was good and has become bad does not end what works.
                    Err(fault) if running.is_empty() => return fault,
                    Err(_told) => {}
                }
            }
            let leases: Vec<_> = running.iter().map(|(id, identity, _)| (*id, identity.clone())).collect();
            self.board.read(spec, &source.name(), &leases);
            tokio::select! {
                changed = current.changed() => if changed.is_err() {
                    return Fault::new(Code::InternalBug, "a CredSpec is no longer read");
                },
                Some(ended) = tasks.join_next() => match ended {
                    Err(aborted) if aborted.is_cancelled() => {}
                    ended => return died(ended),
                },
            }
        }
    }

    /// Gets all tickets, side by side.
    async fn get(self: Arc<Self>, deadline: Instant) -> Result<(), Fault> {
        let patience = || Patience::until(deadline);
        let references = self.discover(patience()).await?;
        let specs = references.into_iter().enumerate().map(async |(spec, reference)| {
            let source = self.open(spec, reference, patience()).await?;
            let cred_spec = Arc::clone(&source.watch().borrow());
            let leases = cred_spec
                .accounts()
                .iter()
                .enumerate()
                .map(|(place, account)| self.lease(LeaseId { spec, account: place }, account, &cred_spec, &source));
            let leases: Vec<_> = leases.collect::<Result<_, _>>()?;
            let tickets = leases.into_iter().map(|lease| {
                let span = lease.span();
                lease.get(patience()).instrument(span)
            });
            join_all(tickets).await.into_iter().collect()
        });
        join_all(specs).await.into_iter().collect()
    }

    /// Where the CredSpecs are: configured, or found out from the task.
    async fn discover(&self, mut patience: Patience) -> Result<Vec<Reference>, Fault> {
        let references = match &self.specs {
            Some(references) => references.clone(),
            None => loop {
                match task::discover(&self.aws).await {
                    Ok(references) => break references,
                    Err(fault) => {
                        self.metrics.fault(fault.code);
                        self.board.not_discovered(&fault);
                        let wake = patience.failed(&fault)?;
                        patience.pause_until(wake).await;
                    }
                }
            },
        };
        self.board.discovered(references.iter().map(ToString::to_string));
        Ok(references)
    }

    async fn open(&self, spec: usize, reference: Reference, patience: Patience) -> Result<Arc<Source>, Fault> {
        let (aws, metrics) = (Arc::clone(&self.aws), Arc::clone(&self.metrics));
        Source::open(spec, reference, aws, &self.board, metrics, patience).await.map(Arc::new)
    }

    /// The lease of one account; takes its folder on the volume.
    fn lease(
        &self,
        id: LeaseId,
        account: &Account,
        cred_spec: &CredSpec,
        source: &Arc<Source>,
    ) -> Result<Lease, Fault> {
        let mut folders = self.folders();
        match folders.entry(account.as_str().to_ascii_lowercase()) {
            Entry::Vacant(free) => free.insert((id, source.name())),
            Entry::Occupied(taken) => {
                // They are read side by side: told in the order of the configuration, not of their arrival.
                let mut both = [taken.get().clone(), (id, source.name())];
                both.sort();
                let what = format!("two CredSpecs name the gMSA `{account}`");
                let why = format!("{} and {}", both[0].1, both[1].1);
                let fault = Fault::new(Code::ConfigAccountTwice, what).because(why);
                failed(&fault);
                return Err(fault);
            }
        };
        let path = self.outlet.path(account);
        Ok(Lease {
            id,
            identity: Identity { account: account.clone(), domain: cred_spec.domain().clone(), path },
            wanted: Wanted { services: self.services.of(account), keytab: self.keytab },
            source: Arc::clone(source),
            directories: Arc::clone(&self.directories),
            outlet: Arc::clone(&self.outlet),
            board: self.board.clone(),
            metrics: Arc::clone(&self.metrics),
        })
    }

    fn folders(&self) -> MutexGuard<'_, HashMap<String, (LeaseId, String)>> {
        self.folders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn failed(fault: &Fault) {
    log::fault(Level::ERROR, "sidecar.failed", fault);
}

/// The fault of a task that ended: none of them ends while all is well.
fn died(ended: Result<Fault, JoinError>) -> Fault {
    ended.unwrap_or_else(|error| {
        let fault = Fault::new(Code::InternalBug, "a task died").caused_by(&error);
        failed(&fault);
        fault
    })
}

/// The caches tell clients how far the KDC's clock is from the machine's: after a step that is wrong, and with it every
/// login of the app. The kernel tells nobody who does not ask.
async fn renew_when_the_clock_is_set(refresh: &Refresh) -> Infallible {
    let mut watch = clock::Watch::start(clock::now(), Instant::now());
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        if let Some(seconds) = watch.step(clock::now(), Instant::now()) {
            tracing::warn!(event = "clock.set", seconds, "the machine's clock was set: all leases renew");
            refresh.insist(Instant::now());
        }
    }
}

/// `GMSA_START_TIMEOUT`: the fault to end with if the sidecar was not ready by then.
async fn never_ready(board: Board, timeout: Option<Duration>) -> Fault {
    let Some(timeout) = timeout else { return std::future::pending().await };
    let mut status = board.watch();
    let ready = status.wait_for(|status| status.is_ready(clock::now()));
    if tokio::time::timeout(timeout, ready).await.is_ok() {
        return std::future::pending().await;
    }
    let status = status.borrow();
    let told = status.discovery.as_ref().or_else(|| status.leases.iter().find_map(|lease| lease.state.fault()));
    let timeout = humantime::format_duration(timeout);
    let fault = match told {
        Some(fault) => fault.clone(),
        None => Fault::new(Code::TaskStartTimeout, format!("not ready after {timeout}, and no step has failed yet")),
    };
    log::fault(Level::ERROR, "sidecar.start-timeout", &fault);
    fault
}
