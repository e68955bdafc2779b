//! The ECS agent's socket -> leases: native `credentialSpecs` on EC2 without credentials-fetcher.
//!
//! ```text
//! socket ──► server ──► grpc ──► daemon ──► keeper (tickets)
//! (systemd   (HTTP/2,   (seven   (leases,
//!  or bind)   limits)    calls)   single flight) ──► tree (folders, metadata) ◄── mounts (orphans)
//! ```

mod daemon;
mod document;
mod grpc;
mod keeper;
mod kept;
pub mod look;
mod metadata;
mod mounts;
mod name;
mod notify;
mod renewal;
mod server;
mod socket;
mod status;
mod together;
mod tree;

/// Made of `proto/credentialsfetcher.proto` by `scripts/proto`.
#[expect(unreachable_pub, reason = "generated")]
#[path = "host/credentialsfetcher.rs"]
#[rustfmt::skip]
mod protocol;

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tracing::Level;

pub use daemon::{Daemon, Granted, Host};
pub use keeper::{AwsKeys, Duty, Files, Given, Got, Health, Keeper, Login, Need, Place};
pub use kept::Kept;
pub use mounts::Mounts;
pub use name::{Folder, LeaseId, LoginName};
pub use notify::Notify;
pub use status::Refused;
pub use together::Together;

use crate::clock;
use crate::fault::Fault;
use crate::log;

/// What the host daemon is told from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `GMSA_DIR`: one folder for each lease.
    pub dir: PathBuf,
    /// `GMSA_HOST_SOCKET`; a socket that systemd hands over wins.
    pub socket: PathBuf,
    /// `GMSA_HOST_GROUP`: who may call besides root.
    pub group: Option<u32>,
    /// What holds for all leases.
    pub host: Host,
    /// Where systemd listens.
    pub notify: Notify,
    /// The HTTP address, for the log.
    pub listen: SocketAddr,
}

/// Makes `GMSA_DIR`, and the folder beside it that containers do not see. Returns `GMSA_DIR` without links. Blocks.
///
/// # Errors
/// A folder that cannot be used.
pub fn prepare(dir: &Path) -> Result<PathBuf, Fault> {
    tree::Tree::open(dir).map(|tree| tree.dir().to_owned())
}

/// Serves the agent until `shutdown`.
///
/// # Errors
/// A socket or a folder that cannot be used.
pub async fn serve<K: Keeper>(settings: Settings, keeper: K, shutdown: impl Future<Output = ()>) -> Result<(), Fault> {
    let Settings { dir, socket, group, host, notify, listen } = settings;
    // The socket first: who connects while the leases are read waits, and is not refused.
    let (listener, inherited) = socket::listen(&socket, group)?;
    warn_if_unseen(&dir);
    let daemon = Daemon::start(dir, host, keeper).await?;
    notify.ready();
    tracing::info!(
        event = "host.started",
        version = env!("CARGO_PKG_VERSION"),
        leases = daemon.len(),
        socket = %socket.display(),
        by_systemd = inherited,
        %listen,
    );
    tokio::select! {
        () = server::serve(listener, Arc::clone(&daemon), group, shutdown) => {}
        never = tend(&daemon) => match never {},
        () = notify.live() => {}
    }
    notify.stopping();
    tracing::info!(event = "host.stopped");
    Ok(())
}

/// In a container whose folder is not the host's every call would succeed, and every app find an empty folder.
fn warn_if_unseen(dir: &Path) {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    if let Err(fault) = look::of_host(dir, &mounts) {
        log::fault(Level::WARN, "host.folder-unseen", &fault);
    }
}

/// Looks for leases that nobody uses.
async fn tend<K: Keeper>(daemon: &Arc<Daemon<K>>) -> Infallible {
    loop {
        sleep(SWEEP).await;
        // Reading `/proc` may take a while on a host with many processes.
        if let Ok(Some(mounts)) = tokio::task::spawn_blocking(Mounts::of_host).await {
            daemon.sweep(&mounts, clock::now()).await;
        }
    }
}

/// How often mounts are looked at.
const SWEEP: Duration = Duration::from_secs(10 * 60);
