//! The host daemon as one process: the agent's socket, the leases and HTTP.

use std::future::Future;
use std::sync::Arc;

use super::{died, failed, open, renew_when_the_clock_is_set, wire};
use crate::aws::Aws;
use crate::config::{Config, HostConfig};
use crate::fault::Fault;
use crate::host::{self, Files, Host, Kept, Notify, Together};
use crate::lease::manager::{LeasePolicy, Manager};
use crate::lease::metrics::Metrics;
use crate::lease::refresh::Refresh;
use crate::lease::status::Statuses;
use crate::serve::readiness;

/// Serves the ECS agent and HTTP, and keeps the tickets of all leases fresh, until `shutdown`.
///
/// # Errors
/// A socket, an address or a folder that cannot be used. No lease ends it.
pub async fn host(
    config: Config,
    host: HostConfig,
    refresh: Refresh,
    shutdown: impl Future<Output = ()>,
) -> Result<(), Fault> {
    let listener = readiness::bind(config.listen).inspect_err(failed)?;
    let (statuses, metrics) = (Statuses::default(), Arc::new(Metrics::new().of_host()));
    let state =
        readiness::ReadinessState { status: statuses.watch(), metrics: Arc::clone(&metrics), refresh: refresh.clone() };
    let server = tokio::spawn(readiness::serve(listener, state));
    let dir = host::prepare(&config.dir).inspect_err(failed)?;
    // Whose a lease's files are is a matter of each lease: the folders around them are the daemon's own.
    let volume = open(&dir, None, config.mode).await.inspect_err(failed)?.unsynced();
    let aws = Arc::new(Aws::new(config.aws.clone()).inspect_err(failed)?);
    let (directories, publisher) = wire(&config, &aws, &volume);
    let manager = Manager::new(
        Arc::new(Together::new(Arc::new(directories))),
        Arc::clone(&publisher),
        statuses.clone(),
        Arc::clone(&metrics),
        refresh.clone(),
        LeasePolicy::HOST,
    );
    statuses.discovered();
    statuses.of_host();
    let keeper = Kept::new(manager, statuses.watch(), config.aws.clone(), metrics);
    let files = Files { owner: host.owner, mode: config.mode, keytab: config.keytab, services: Vec::new() };
    let settings = host::Settings {
        dir,
        socket: config.host_socket.clone(),
        group: host.group,
        host: Host { files, services: config.service_tickets.clone(), secret: host.secret },
        notify: Notify { socket: host.notify_socket, watchdog: host.watchdog },
        listen: config.listen,
    };
    tokio::select! {
        served = host::serve(settings, keeper, shutdown) => served.inspect_err(failed),
        never = publisher.guard() => match never {},
        never = renew_when_the_clock_is_set(&refresh) => match never {},
        ended = server => Err(died(ended.map(|never| match never {}))),
    }
}
