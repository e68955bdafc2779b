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

/// one gMSA's ticket, kept fresh
pub mod lease;

/// the state of the leases -> HTTP
pub mod readiness;

// What these stand on:

pub mod arn;
pub mod aws;
pub mod clock;
pub mod fault;
pub mod health;
pub mod klist;
pub mod ldap;
pub mod log;
pub mod metrics;
pub mod name;
pub mod refresh;
pub mod schedule;

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tracing::{Instrument, Level};

use crate::aws::Aws;
use crate::config::Config;
use crate::credspec::{CredSpec, LoginSource, Reference};
use crate::dc::Locator;
use crate::directory::Directory;
use crate::fault::{Code, Fault};
use crate::lease::{Board, Identity, Lease, LeaseId};
use crate::metrics::Metrics;
use crate::name::Domain;
use crate::outlet::Outlet;
use crate::refresh::Refresh;
use crate::schedule::Patience;
use crate::volume::Volume;

/// Serves HTTP, gets every ticket and keeps it fresh until `shutdown`.
///
/// Every fault is logged where it happens; the one returned is what ends the process and gives its exit code. It ends
/// by itself only on a configuration or a volume that cannot be used, and if it was not ready in time.
pub async fn run(config: Config, refresh: Refresh, shutdown: impl Future<Output = ()>) -> Result<(), Fault> {
    let listener = readiness::bind(config.listen).await.inspect_err(cannot_start)?;
    let (board, metrics) = (Board::default(), Arc::new(Metrics::new()));
    let state = readiness::State { status: board.watch(), metrics: Arc::clone(&metrics), refresh: refresh.clone() };
    let server = tokio::spawn(readiness::serve(listener, state));
    let late = never_ready(board.clone(), config.start_timeout);
    let sidecar = Sidecar::new(&config, board, metrics).inspect_err(cannot_start)?;
    tokio::select! {
        () = shutdown => Ok(()),
        fault = sidecar.keep(&refresh) => Err(fault),
        fault = late => Err(fault),
        ended = server => Err(died(ended.map(|never| match never {}))),
    }
}

/// Gets every ticket once. The fault returned is the first in the order of the CredSpecs.
pub async fn init(config: Config) -> Result<(), Fault> {
    let deadline = Instant::now() + config.init_timeout;
    let sidecar = Sidecar::new(&config, Board::default(), Arc::new(Metrics::new())).inspect_err(cannot_start)?;
    sidecar.get(deadline).await
}

/// What all leases share.
struct Sidecar {
    specs: Option<Vec<Reference>>,
    aws: Arc<Aws>,
    locator: Arc<Locator>,
    outlet: Arc<Outlet>,
    directories: Mutex<HashMap<(Domain, LoginSource), Arc<Directory>>>,
    /// Which CredSpec has taken which folder of the volume; names compare without case.
    folders: Mutex<HashMap<String, String>>,
    board: Board,
    metrics: Arc<Metrics>,
}

impl Sidecar {
    fn new(config: &Config, board: Board, metrics: Arc<Metrics>) -> Result<Arc<Self>, Fault> {
        let volume = Volume::open(&config.dir, config.owner, config.mode)?;
        let locator = Arc::new(Locator::new(&config.dns_servers, config.domain_controllers.clone())?);
        let addresses = (!config.dns_servers.is_empty()).then(|| Arc::clone(&locator));
        Ok(Arc::new(Self {
            specs: config.cred_specs.clone(),
            aws: Arc::new(Aws::new(config.aws.clone())?),
            locator,
            outlet: Arc::new(Outlet::new(volume, addresses)),
            directories: Mutex::default(),
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
        let mut specs = JoinSet::new();
        for (spec, reference) in references.into_iter().enumerate() {
            let (sidecar, refresh) = (Arc::clone(&self), refresh.clone());
            specs.spawn(async move {
                let patience = || Patience::endless(refresh.requests());
                let leases = match sidecar.leases(spec, &reference, patience()).await {
                    Ok(leases) => leases,
                    Err(fault) => return fault,
                };
                let mut tasks = JoinSet::new();
                for lease in leases {
                    let span = lease.span();
                    tasks.spawn(
                        lease.keep(sidecar.board.clone(), Arc::clone(&sidecar.metrics), patience()).instrument(span),
                    );
                }
                first_to_end(tasks).await
            });
        }
        first_to_end(specs).await
    }

    /// Gets all tickets, side by side.
    async fn get(self: Arc<Self>, deadline: Instant) -> Result<(), Fault> {
        let patience = || Patience::until(deadline);
        let references = self.discover(patience()).await?;
        let specs = references.iter().enumerate().map(async |(spec, reference)| {
            let leases = self.leases(spec, reference, patience()).await?;
            let tickets = leases.into_iter().map(|lease| {
                let span = lease.span();
                lease.get(self.board.clone(), Arc::clone(&self.metrics), patience()).instrument(span)
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

    /// Reads a CredSpec: one lease for each account it names.
    async fn leases(&self, spec: usize, reference: &Reference, mut patience: Patience) -> Result<Vec<Lease>, Fault> {
        let cred_spec = loop {
            match credspec::fetch(reference, &self.aws).await {
                Ok(cred_spec) => break cred_spec,
                Err(fault) => {
                    self.metrics.fault(fault.code);
                    let wake = patience.failed(&fault);
                    self.board.not_read(spec, &fault, wake.clone().unwrap_or_else(|_| clock::now()));
                    patience.pause_until(wake?).await;
                }
            }
        };
        let leases = self.leases_of(spec, reference, &cred_spec).inspect_err(cannot_start)?;
        self.board.read(spec, leases.iter().map(|lease| lease.identity.clone()));
        Ok(leases)
    }

    fn leases_of(&self, spec: usize, reference: &Reference, cred_spec: &CredSpec) -> Result<Vec<Lease>, Fault> {
        let directory = self.directory(cred_spec.domain(), cred_spec.login());
        let mut folders = self.folders.lock().unwrap_or_else(PoisonError::into_inner);
        let mut leases = Vec::new();
        for (place, account) in cred_spec.accounts().iter().enumerate() {
            let taken = folders.insert(account.as_str().to_ascii_lowercase(), reference.to_string());
            if let Some(other) = taken {
                let what = format!("two CredSpecs name the gMSA `{account}`");
                return Err(Fault::new(Code::ConfigAccountTwice, what).because(format!("{other} and {reference}")));
            }
            let path = self.outlet.volume().ccache_path(account);
            let identity = Identity { account: account.clone(), domain: cred_spec.domain().clone(), path };
            let id = LeaseId { spec, account: place };
            leases.push(Lease { id, identity, directory: Arc::clone(&directory), outlet: Arc::clone(&self.outlet) });
        }
        Ok(leases)
    }

    /// Leases of one domain with one login share a directory.
    fn directory(&self, domain: &Domain, login: &LoginSource) -> Arc<Directory> {
        let mut directories = self.directories.lock().unwrap_or_else(PoisonError::into_inner);
        let directory = directories.entry((domain.clone(), login.clone())).or_insert_with(|| {
            let (aws, locator) = (Arc::clone(&self.aws), Arc::clone(&self.locator));
            Arc::new(Directory::new(domain.clone(), login.clone(), aws, locator))
        });
        Arc::clone(directory)
    }
}

fn cannot_start(fault: &Fault) {
    log::fault(Level::ERROR, "sidecar.failed", fault);
}

/// The fault of the first task to end. None of them ends while all is well.
async fn first_to_end(mut tasks: JoinSet<Fault>) -> Fault {
    match tasks.join_next().await {
        Some(ended) => died(ended),
        None => bug(Fault::new(Code::InternalBug, "there is nothing to keep")),
    }
}

fn died(ended: Result<Fault, JoinError>) -> Fault {
    ended.unwrap_or_else(|error| bug(Fault::new(Code::InternalBug, "a task died").caused_by(&error)))
}

fn bug(fault: Fault) -> Fault {
    log::fault(Level::ERROR, "sidecar.failed", &fault);
    fault
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
    tracing::error!(event = "sidecar.start-timeout", timeout = %timeout, code = fault.code.name());
    fault
}
