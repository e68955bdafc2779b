//! How a host stands, for those who look and change nothing: `check --host`.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{self as os, Access};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::fault::{Code, Fault};
use crate::name::{Account, Domain};

use super::mounts::{Mounts, Whereabouts};
use super::tree;

/// What stands at the path of the agent's socket.
#[derive(Debug)]
pub enum Socket {
    /// Nothing.
    None,
    /// Something else.
    Other,
    /// A socket that nobody listens to any more.
    Dead,
    /// A socket that cannot be connected to.
    Closed(io::Error),
    /// A socket, and who listens.
    Served(Listener),
}

/// Who listens, and who may connect by the mode of the socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// The process that made the socket listen; none if it is out of sight.
    pub process: Option<i32>,
    /// Its name, as far as the kernel keeps it: 15 characters.
    pub name: String,
    /// The mode of the socket.
    pub mode: u32,
    /// Its group.
    pub gid: u32,
}

impl Listener {
    /// Whether systemd holds the socket, so that it outlives the daemon.
    pub fn is_systemd(&self) -> bool {
        self.process == Some(1) && self.name == "systemd"
    }

    /// Whether the daemon bound it itself.
    pub fn is_ours(&self) -> bool {
        self.name == "gmsa-sidecar"
    }

    /// Whether it is the daemon that we replace.
    pub fn is_credentials_fetcher(&self) -> bool {
        self.name.starts_with("credentials-fet")
    }

    /// Whether the mode lets this group connect.
    pub fn admits(&self, gid: u32) -> bool {
        self.mode & 0o006 == 0o006 || self.gid == gid && self.mode & 0o060 == 0o060
    }
}

/// Looks at the socket, and connects to it without a word.
pub async fn socket(path: &Path) -> Socket {
    let stat = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Socket::None,
        Err(error) => return Socket::Closed(error),
        Ok(stat) if !stat.file_type().is_socket() => return Socket::Other,
        Ok(stat) => stat,
    };
    let connected = timeout(PATIENCE, UnixStream::connect(path)).await;
    let late = |_| Err(io::Error::from(io::ErrorKind::TimedOut));
    match connected.unwrap_or_else(late).and_then(|stream| stream.peer_cred()) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Socket::Dead,
        Err(error) => Socket::Closed(error),
        Ok(peer) => {
            let process = peer.pid().filter(|pid| *pid > 0);
            let name = process.and_then(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).ok());
            let name = name.map_or_else(|| "a process out of sight".to_owned(), |name| name.trim_end().to_owned());
            Socket::Served(Listener { process, name, mode: stat.mode() & 0o7777, gid: stat.gid() })
        }
    }
}

/// Whether some container has the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mounted {
    /// This very socket.
    Yes,
    /// One that stood at this path before, and is gone.
    Former,
    /// None.
    No,
}

/// Looks for the socket in the mounts of all processes: the agent's container has its file.
pub fn mounted(socket: &Path, mounts: &Mounts) -> Mounted {
    match (mounts.has_file(socket), mounts.has_former(socket)) {
        (true, _) => Mounted::Yes,
        (false, true) => Mounted::Former,
        (false, false) => Mounted::No,
    }
}

/// One ticket that lies on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lying {
    /// The gMSA and its domain, where they can be read.
    pub account: Option<(Account, Domain)>,
    /// Whether a container has it mounted; none if that cannot be seen.
    pub mounted: Option<bool>,
}

/// The tickets of all leases in `dir`. Blocks.
pub fn leases(dir: &Path, mounts: Option<&Mounts>) -> Vec<Lying> {
    let stored = tree::Tree::look(dir);
    let tickets = stored.iter().flat_map(|lease| lease.tickets.iter().map(move |ticket| (lease, ticket)));
    let lying = tickets.map(|(lease, (folder, entry, _))| {
        let path = dir.join(lease.id.as_str()).join(folder.as_str());
        Lying {
            account: entry.service_account_name.parse().ok().zip(entry.domain_name.parse().ok()),
            mounted: mounts.map(|mounts| mounts.has(&path)),
        }
    });
    lying.collect()
}

/// Whether the folder of the leases can be made or used: what `host` does at its start, without doing it. Blocks.
///
/// # Errors
/// What `host` would end with.
pub fn folders(dir: &Path) -> Result<&'static str, Fault> {
    tree::look_private(dir)?;
    if dir.is_dir() {
        return Ok("it exists");
    }
    let unusable = |path: &Path, error: io::Error| {
        Fault::new(Code::VolumeNotWritable, format!("cannot use the folder `{}`", path.display())).caused_by(&error)
    };
    if fs::symlink_metadata(dir).is_ok() {
        return Err(unusable(dir, io::Error::other("it is not a folder")));
    }
    let Some(parent) = dir.ancestors().find(|path| path.exists()) else { return Ok("it will be made") };
    match os::access(parent, Access::WRITE_OK | Access::EXEC_OK) {
        Ok(()) => Ok("it does not exist yet; `host` makes it"),
        Err(error) => Err(unusable(parent, error.into())),
    }
}

/// Whether what is written to a folder is seen by the host, of which alone the agent knows: a fault in a container whose
/// folder is not the host's.
///
/// # Errors
/// The folder is in the container's own file system, or is another one on the host.
pub fn of_host(dir: &Path, text: &str) -> Result<(), Fault> {
    let next = "mount the host's folder at the same path: -v /var/credentials-fetcher:/var/credentials-fetcher";
    let fault = |what: String| Err(Fault::new(Code::VolumeNotWritable, what).with_next(next));
    match Whereabouts::of(dir, text) {
        Whereabouts::OwnOfContainer => {
            fault(format!("the folder `{}` is in the file system of this container, which no app sees", dir.display()))
        }
        Whereabouts::Elsewhere(root) => fault(format!(
            "the folder `{}` is `{}` on the host, and the agent is given paths of this container",
            dir.display(),
            root.display()
        )),
        Whereabouts::OfHost => Ok(()),
    }
}

/// The links that let systemd start a unit at boot: whether `unit` is wanted by `target`.
pub fn is_enabled(unit: &str, target: &str) -> bool {
    let wants = PathBuf::from(format!("{target}.wants")).join(unit);
    ["/etc/systemd/system", "/usr/lib/systemd/system", "/run/systemd/system"]
        .iter()
        .any(|folder| fs::symlink_metadata(Path::new(folder).join(&wants)).is_ok())
}

/// Whether systemd runs here (sd_booted(3)).
pub fn has_systemd() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// For a connection to a socket on this host.
const PATIENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_socket_is_seen_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cf.sock");
        assert!(matches!(socket(&path).await, Socket::None));
        let (listener, _) = crate::host::socket::listen(&path, None).unwrap();
        let Socket::Served(seen) = socket(&path).await else { panic!() };
        assert_eq!(seen.process, i32::try_from(std::process::id()).ok());
        assert_eq!((seen.mode, seen.is_systemd(), seen.is_credentials_fetcher()), (0o600, false, false));
        assert!(!seen.admits(seen.gid) && Listener { mode: 0o660, ..seen.clone() }.admits(seen.gid));
        drop(listener);
        assert!(matches!(socket(&path).await, Socket::Dead));
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(matches!(socket(&path).await, Socket::Other));
    }

    #[test]
    fn looking_at_leases_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("krbdir");
        assert_eq!(leases(&dir, None), []);
        assert_eq!(folders(&dir), Ok("it does not exist yet; `host` makes it"));
        tree::Tree::open(&dir).unwrap();
        // Half a lease, which a start would remove.
        let unfinished = folder.path().join("gmsa-sidecar/half");
        fs::create_dir_all(&unfinished).unwrap();
        fs::create_dir_all(dir.join("half")).unwrap();
        assert_eq!((leases(&dir, None), folders(&dir)), (Vec::new(), Ok("it exists")));
        assert!(unfinished.exists());
    }
}
