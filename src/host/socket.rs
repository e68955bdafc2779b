//! The agent's socket: handed over by systemd, or bound once; and who is at its other end.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::Path;

use listenfd::ListenFd;
use rustix::fs::{self as os, AtFlags, CWD, Gid, Mode as Bits};
use tokio::net::unix::UCred;
use tokio::net::{UnixListener, UnixStream};

use crate::fault::{Code, Fault};

use super::Refused;

/// Takes the socket that systemd handed over, or binds `path`; tells whether it was handed over.
///
/// A container that has the *file* mounted goes on dialling this very socket: it is never removed while the process
/// lives, and one that a process still answers is not taken away from it.
pub(super) fn listen(path: &Path, group: Option<u32>) -> Result<(UnixListener, bool), Fault> {
    let inherited = inherited()?;
    let by_systemd = inherited.is_some();
    let (what, taken) = match inherited {
        Some(listener) => ("the socket that systemd handed over".to_owned(), Ok(listener)),
        None => (format!("the socket `{}`", path.display()), bind(path, group)),
    };
    let unusable = |error: io::Error| Fault::new(Code::ConfigListen, format!("cannot use {what}")).caused_by(&error);
    let listener = taken.map_err(unusable)?;
    listener.set_nonblocking(true).map_err(unusable)?;
    Ok((UnixListener::from_std(listener).map_err(unusable)?, by_systemd))
}

fn inherited() -> Result<Option<StdListener>, Fault> {
    let mut sockets = ListenFd::from_env();
    if sockets.len() == 0 {
        return Ok(None);
    }
    sockets.take_unix_listener(0).map_err(|error| {
        Fault::new(Code::ConfigListen, "systemd handed over something that is not a listening Unix socket")
            .caused_by(&error)
    })
}

fn bind(path: &Path, group: Option<u32>) -> io::Result<StdListener> {
    if let Some(folder) = path.parent() {
        // The agent goes through them, whatever the mask is.
        for folder in folder.ancestors().take_while(|folder| !folder.exists()).collect::<Vec<_>>().into_iter().rev() {
            fs::create_dir(folder)?;
            os::chmod(folder, Bits::from_raw_mode(0o755))?;
        }
    }
    if let Ok(stat) = fs::symlink_metadata(path) {
        if !stat.file_type().is_socket() {
            return Err(io::Error::other("something that is not a socket stands in its place"));
        }
        match StdStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path)?,
            Err(error) => return Err(error),
            Ok(_) => return Err(io::Error::other("another process answers on it")),
        }
    }
    // Nobody may connect before the mode is the right one: it gets its name when it is ready.
    let temporary = path.with_extension(format!("{:08x}", rand::random::<u32>()));
    let listener = StdListener::bind(&temporary)?;
    let named = dress(&temporary, group).and_then(|()| fs::rename(&temporary, path));
    if named.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    named.map(|()| listener)
}

fn dress(path: &Path, group: Option<u32>) -> io::Result<()> {
    let mode = if group.is_some() { 0o660 } else { 0o600 };
    os::chownat(CWD, path, None, group.map(Gid::from_raw), AtFlags::SYMLINK_NOFOLLOW)?;
    os::chmod(path, Bits::from_raw_mode(mode))?;
    Ok(())
}

/// Whether the process at the other end may call: root, whoever we are ourselves, and members of the configured group.
///
/// Who may call can stop apps by deleting their leases, and make the daemon log in.
pub(super) fn admit(stream: &UnixStream, group: Option<u32>) -> Result<(), Refused> {
    let peer = stream.peer_cred().map_err(|error| Refused::Denied(format!("Cannot see who calls: {error}")))?;
    if may_call(&peer, group) {
        return Ok(());
    }
    Err(Refused::Denied(format!("The caller runs as {}:{} and may not call", peer.uid(), peer.gid())))
}

fn may_call(peer: &UCred, group: Option<u32>) -> bool {
    let own = rustix::process::geteuid().as_raw();
    peer.uid() == 0
        || peer.uid() == own
        || group.is_some_and(|group| peer.gid() == group || peer.pid().is_some_and(|pid| belongs(pid, group)))
}

/// Whether a process has the group besides its first one. That it could connect says the mode of the socket already.
fn belongs(pid: i32, group: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let groups = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap_or_default();
    groups.split_whitespace().any(|gid| gid.parse() == Ok(group))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    #[tokio::test]
    async fn a_dead_socket_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("made/credentials_fetcher.sock");
        let live = listen(&path, None).unwrap();
        let stat = fs::metadata(&path).unwrap();
        assert_eq!(stat.permissions().mode() & 0o7777, 0o600);
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o7777, 0o755);
        let why = listen(&path, None).unwrap_err();
        assert!(why.why.unwrap().contains("another process answers"), "{}", why.what);
        drop(live);
        assert!(path.exists(), "nobody removes it");
        let again = listen(&path, Some(rustix::process::getegid().as_raw())).unwrap();
        let changed = fs::metadata(&path).unwrap();
        assert_eq!(changed.permissions().mode() & 0o7777, 0o660);
        assert_ne!(changed.ino(), 0);
        drop(again);
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert_eq!(listen(&path, None).unwrap_err().code, Code::ConfigListen);
    }

    #[tokio::test]
    async fn the_process_itself_may_call() {
        let (here, _there) = UnixStream::pair().unwrap();
        assert_eq!(admit(&here, None), Ok(()));
        assert!(!belongs(i32::try_from(std::process::id()).unwrap(), u32::MAX));
    }
}
