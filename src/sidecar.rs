//! One process: what `run`, `init` and `host` wire together.

mod host;

pub use host::host;

use std::convert::Infallible;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tracing::Level;

use crate::aws::{Aws, LONGEST_CALL};
use crate::config::Config;
use crate::credspec::Reference;
use crate::directory::Directories;
use crate::directory::dc::Locator;
use crate::directory::ldap::Transport;
use crate::fault::{Code, Fault};
use crate::lease::follow::{Followed, FollowedList, LeaseDefaults};
use crate::lease::manager::{LeasePolicy, Manager};
use crate::lease::metrics::Metrics;
use crate::lease::ports::ReadSpecs;
use crate::lease::publisher::Publisher;
use crate::lease::refresh::Refresh;
use crate::lease::schedule::{Backoff, SPREADING, is_login_held, may_pass};
use crate::lease::status::{LeaseStatus, Order, Status, Statuses};
use crate::login::Logins;
use crate::serve::readiness;
use crate::volume::{Mode, Owner, Volume, caller};
use crate::{clock, log, progress, task};

/// Serves HTTP, gets every ticket and keeps it fresh until `shutdown`.
///
/// Every fault is logged where it happens; the one returned is what ends the process and gives its exit code. It ends
/// by itself only on a configuration or a volume that cannot be used, and if it was not ready in time.
pub async fn run(config: Config, refresh: Refresh, shutdown: impl Future<Output = ()>) -> Result<(), Fault> {
    let listener = readiness::bind(config.listen).inspect_err(failed)?;
    started(&config);
    let (statuses, metrics) = (Statuses::default(), Arc::new(Metrics::new()));
    let state =
        readiness::ReadinessState { status: statuses.watch(), metrics: Arc::clone(&metrics), refresh: refresh.clone() };
    let server = tokio::spawn(readiness::serve(listener, state));
    let late = never_ready(statuses.watch(), config.start_timeout);
    let mut first = statuses.watch();
    tokio::spawn(async move {
        if first.wait_for(|status| status.ever_ready).await.is_ok() {
            log::ready();
        }
    });
    let sidecar = Sidecar::new(&config, statuses, metrics, refresh, LeasePolicy::RUN).await.inspect_err(failed)?;
    tokio::select! {
        () = shutdown => {
            tracing::info!(event = "sidecar.stopped");
            Ok(())
        }
        fault = sidecar.keep() => Err(fault),
        fault = late => Err(fault),
        ended = server => Err(died(ended.map(|never| match never {}))),
    }
}

/// One line that says what is in force.
fn started(config: &Config) {
    let owner = config.owner.map_or_else(caller, |owner| owner.to_string());
    let (dns_servers, dns_source) = match config.dns_servers.as_slice() {
        [] => (resolv_conf(), "/etc/resolv.conf"),
        servers => (servers.iter().map(ToString::to_string).collect(), "GMSA_DNS_SERVERS"),
    };
    let (specs, specs_source) = match &config.cred_specs {
        Some(specs) => (specs.iter().map(ToString::to_string).collect(), "GMSA_CREDENTIAL_SPECS"),
        None => (Vec::new(), "the ECS task"),
    };
    tracing::info!(
        event = "sidecar.started",
        version = env!("CARGO_PKG_VERSION"),
        listen = %config.listen,
        dir = %config.dir.display(),
        user = caller(),
        owner,
        mode = %config.mode,
        dns_servers = dns_servers.join(" "),
        dns_source,
        ldap = if matches!(config.ldap, Transport::Sasl) { "sasl" } else { "ldaps" },
        credspecs = specs.join(" "),
        credspecs_source = specs_source,
        log = config.log_level,
        unknown_variables = config.unknown.join(" "),
    );
}

/// The system's DNS servers, as its file names them.
fn resolv_conf() -> Vec<String> {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let servers = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    servers.map(|server| server.trim().to_owned()).collect()
}

/// Gets every ticket once. The fault returned is the first in the order of the CredSpecs.
pub async fn init(config: Config) -> Result<(), Fault> {
    let (statuses, begun) = (Statuses::default(), Instant::now());
    let metrics = Arc::new(Metrics::new());
    let sidecar = Sidecar::new(&config, statuses.clone(), metrics, Refresh::default(), LeasePolicy::INIT)
        .await
        .inspect_err(failed)?;
    tokio::select! {
        verdict = verdict(statuses.watch(), begun, begun + config.init_timeout) => {
            if verdict.is_ok() {
                sidecar.remove_stale().await;
            }
            verdict
        }
        fault = sidecar.work() => Err(fault),
    }
}

/// What all leases share.
struct Sidecar {
    specs: Option<Vec<Reference>>,
    aws: Arc<Aws>,
    publisher: Arc<Publisher>,
    volume: Volume,
    settings: Arc<LeaseDefaults>,
    statuses: Statuses,
    metrics: Arc<Metrics>,
    refresh: Refresh,
    policy: LeasePolicy,
    manager: Manager,
}

/// The volume, where looking at it holds nobody up: a neighbour may have left any number of files there, and a file system
/// on a network may hang.
async fn open(dir: &Path, owner: Option<Owner>, mode: Mode) -> Result<Volume, Fault> {
    let dir = dir.to_owned();
    match tokio::task::spawn_blocking(move || Volume::open(dir, owner, mode)).await {
        Ok(opened) => opened,
        Err(error) => Err(Fault::new(Code::InternalBug, "opening the volume ended early").caused_by(&error)),
    }
}

/// What leases ask and where they write.
fn wire(config: &Config, aws: &Arc<Aws>, volume: &Volume) -> (Directories, Arc<Publisher>) {
    let locator = Arc::new(Locator::new(&config.dns_servers, config.domain_controllers.clone(), config.site.clone()));
    let addresses = (!config.dns_servers.is_empty()).then(|| Arc::clone(&locator));
    let logins = Arc::new(Logins::new(Arc::clone(aws), config.login_keytab.clone()));
    let directories = Directories::new(logins, locator, config.ldap.clone(), config.ticket_lifetime);
    (directories, Publisher::new(Arc::new(volume.clone()), addresses))
}

impl Sidecar {
    async fn new(
        config: &Config,
        statuses: Statuses,
        metrics: Arc<Metrics>,
        refresh: Refresh,
        policy: LeasePolicy,
    ) -> Result<Self, Fault> {
        let volume = open(&config.dir, config.owner, config.mode).await?;
        let aws = Arc::new(Aws::new(config.aws.clone())?);
        let (directories, publisher) = wire(config, &aws, &volume);
        let manager = Manager::new(
            Arc::new(directories),
            Arc::clone(&publisher),
            statuses.clone(),
            Arc::clone(&metrics),
            refresh.clone(),
            policy,
        );
        let settings = Arc::new(LeaseDefaults::from(config));
        let specs = config.cred_specs.clone();
        Ok(Self { specs, aws, publisher, volume, settings, statuses, metrics, refresh, policy, manager })
    }

    /// Keeps all leases until a fault ends the process.
    async fn keep(&self) -> Fault {
        let mut status = self.statuses.watch();
        let ends = |status: &Status| ends_with(self.policy, status);
        let ended = async {
            loop {
                let fault = ends(&status.borrow_and_update());
                match fault {
                    Some(fault) => return fault,
                    None if status.changed().await.is_err() => return std::future::pending().await,
                    None => {}
                }
            }
        };
        tokio::select! {
            fault = ended => fault,
            fault = self.work() => fault,
            never = self.publisher.guard() => match never {},
            never = renew_when_the_clock_is_set(&self.refresh) => match never {},
            never = async {
                self.remove_stale().await;
                std::future::pending::<Infallible>().await
            } => match never {},
        }
    }

    /// Finds the CredSpecs and follows each of them. Returns only if a task dies.
    async fn work(&self) -> Fault {
        let references = self.discover().await;
        let mut tasks = JoinSet::new();
        let reader: Arc<dyn ReadSpecs> = Arc::clone(&self.aws) as _;
        // All entries are there before the first CredSpec is read, so that no moment is ready too early.
        for (spec, reference) in references.into_iter().enumerate() {
            let (reader, settings) = (Arc::clone(&reader), Arc::clone(&self.settings));
            let (order, at_root) = (Order { spec, ..Order::default() }, spec == 0);
            if reader.list(&reference).is_some() {
                let list = FollowedList::new(reference, reader, &self.manager, settings, order, at_root);
                tasks.spawn(async move { match list.follow().await {} });
            } else {
                let followed = Followed::start(reference, reader, &self.manager, settings, order, at_root);
                tasks.spawn(async move { match followed.follow().await {} });
            }
        }
        self.statuses.discovered();
        match tasks.join_next().await {
            Some(ended) => died(ended),
            None => std::future::pending().await,
        }
    }

    /// Where the CredSpecs are: configured, or found out from the task.
    async fn discover(&self) -> Vec<Reference> {
        if let Some(references) = &self.specs {
            return references.clone();
        }
        let mut backoff = Backoff::new(self.refresh.requests(), self.policy.longest_wait);
        loop {
            let discovery = task::discover(&self.aws);
            match progress::during("task", self.aws.metadata_url(), LONGEST_CALL, discovery).await {
                Ok(references) => return references,
                Err(fault) => {
                    self.metrics.fault(fault.code);
                    let wake = clock::now() + backoff.failed(&fault);
                    self.statuses.not_discovered(&self.manager.tried_again(fault, wake));
                    backoff.pause(wake).await;
                }
            }
        }
    }

    /// Removes the folders of gMSAs that nobody names any more, once it is known who is named.
    async fn remove_stale(&self) {
        let all_known = |status: &Status| {
            let known = status.leases.iter().all(|lease| lease.identity.is_some());
            known && !status.leases.is_empty()
        };
        if self.statuses.watch().wait_for(all_known).await.is_err() {
            return;
        }
        let (volume, kept, now) = (self.volume.clone(), self.manager.folders(), clock::now());
        let removed = tokio::task::spawn_blocking(move || volume.remove_stale(&kept, now)).await;
        for stale in removed.unwrap_or_default() {
            let (path, expired_at) = (stale.path.display().to_string(), clock::rfc3339(stale.expired_at));
            tracing::info!(event = "volume.stale-removed", path, expired_at, "no CredSpec names this gMSA any more");
        }
    }
}

/// The fault that ends the process. None does while a login is refused or held, whatever else is wrong: the platform
/// would start a new process at once, and that would send the next proof.
fn ends_with(policy: LeasePolicy, status: &Status) -> Option<Fault> {
    if status.faults().any(is_login_held) {
        return None;
    }
    status.faults().find(|fault| policy.ends_with(fault, status.ever_ready)).cloned()
}

/// What `init` comes to: every ticket is there; or a fault does not pass and every lease was tried, unless a login is
/// refused or held; or time is up, and a first attempt that is under way has ended.
async fn verdict(mut status: watch::Receiver<Status>, begun: Instant, deadline: Instant) -> Result<(), Fault> {
    loop {
        let now = Instant::now();
        {
            let status = status.borrow_and_update();
            if status.is_ready(clock::now()) {
                return Ok(());
            }
            let age = now.saturating_duration_since(begun);
            let lasts = status.faults().any(|fault| !may_pass(fault, age)) && !status.faults().any(is_login_held);
            let tried = |lease: &LeaseStatus| lease.attempts > 0 || lease.state.fault().is_some();
            if let Some(fault) = status.first_fault()
                && (lasts && status.leases.iter().all(tried) || now >= deadline)
            {
                return Err(fault.clone());
            }
            if now >= deadline && status.leases.is_empty() {
                return Err(Fault::new(Code::TaskStartTimeout, "no CredSpec is named in time"));
            }
        }
        let changed = async {
            if status.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = changed => {}
            () = tokio::time::sleep_until(begun + SPREADING), if now < begun + SPREADING => {}
            () = tokio::time::sleep_until(deadline), if now < deadline => {}
        }
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
    let mut watch = clock::ClockWatch::start(clock::now(), Instant::now());
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        if let Some(seconds) = watch.step(clock::now(), Instant::now()) {
            tracing::warn!(event = "clock.set", seconds, "the machine's clock was set: all leases renew");
            refresh.insist(Instant::now());
        }
    }
}

/// `GMSA_START_TIMEOUT`: the fault to end with if the sidecar was not ready by then. Not while a login is refused or held:
/// a new process would send the next proof.
async fn never_ready(mut status: watch::Receiver<Status>, timeout: Option<Duration>) -> Fault {
    let Some(timeout) = timeout else { return std::future::pending().await };
    let ready = status.wait_for(|status| status.ever_ready);
    if tokio::time::timeout(timeout, ready).await.is_ok() {
        return std::future::pending().await;
    }
    let decides = |status: &Status| status.ever_ready || !status.faults().any(is_login_held);
    let fault = match status.wait_for(decides).await {
        Ok(status) if !status.ever_ready => status.first_fault().cloned(),
        _ => return std::future::pending().await,
    };
    let timeout = humantime::format_duration(timeout);
    let unready =
        || Fault::new(Code::TaskStartTimeout, format!("not ready after {timeout}, and no step has failed yet"));
    let fault = fault.unwrap_or_else(unready);
    log::fault(Level::ERROR, "sidecar.start-timeout", &fault);
    fault
}

#[cfg(test)]
mod tests;
