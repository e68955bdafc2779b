//! The shared volume: every file the sidecar writes for the app, and the ticket it finds there at a warm start.
//!
//! Another container may be able to write to the volume, so nothing on it is believed. Below `GMSA_DIR` everything
//! is reached relative to an open folder, no symbolic link is followed, and a folder or file counts only if its
//! owner is ours. A file appears by `rename`, complete and with its final owner and mode.
//!
//! All of this blocks: call it from `spawn_blocking`.

mod advice;
mod krb5_conf;
mod ownership;
mod remove;
mod watch;

pub use krb5_conf::{KdcAddress, Krb5Conf, RealmEntry};
pub use ownership::{LeaseFolder, Location, Mode, Owner, Ownership};
pub use remove::{Stale, Written};
pub use watch::VolumeWatch;

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{self as os, AtFlags, CWD, FileType, Gid, Mode as Bits, OFlags, Stat, Uid};
use rustix::io::Errno;
use rustix::path::Arg;
use zeroize::Zeroizing;

use crate::fault::{Code, Fault};
use crate::kerberos::{CacheImage, KeytabImage};
use crate::name::TEMPORARY;

/// The folder `GMSA_DIR`, proven writable.
#[derive(Debug, Clone)]
pub struct Volume {
    path: PathBuf,
    /// Of what no lease writes for itself.
    ownership: Ownership,
    /// The uids our files have, as the file system tells them: on creation, and once given away.
    ours: [u32; 2],
    /// Whether what was written outlives a power cut.
    synced: bool,
}

impl Volume {
    /// Proves that tickets can be written to `path` for `owner` (none: whom the process is), by making and removing
    /// a folder with a file, and removes what an earlier process left half-done.
    ///
    /// A missing folder is a fault and not made: where the volume is not mounted, tickets would go to a place that
    /// no app sees. Owner and mode of the folder itself are never changed.
    ///
    /// Faults: `config-owner-denied` without the right to give files to `owner`, else `volume-not-writable`.
    pub fn open(path: impl Into<PathBuf>, owner: Option<Owner>, mode: Mode) -> Result<Self, Fault> {
        let (volume, root) = Self::prove(path.into(), owner, mode)?;
        volume.sweep(&root, 0);
        Ok(volume)
    }

    /// What is written then outlives the process, but not a power cut: for a host, whose containers end with it. A disk
    /// takes milliseconds for each file.
    #[must_use]
    pub fn unsynced(self) -> Self {
        Self { synced: false, ..self }
    }

    /// The same proof beside a sidecar at work, whose half-done files stay; then looks at what there is.
    ///
    /// Faults: those of [`open`](Self::open), and `volume-not-readable` where the owner would not reach the files.
    pub fn inspect(path: &Path, owner: Option<Owner>, mode: Mode) -> Result<Seen, Fault> {
        let (volume, root) = Self::prove(path.to_owned(), owner, mode)?;
        let stat = os::fstat(&root.fd).map_err(|error| volume.not_writable(error))?;
        let space = os::fstatvfs(&root.fd).map_err(|error| volume.not_writable(error))?;
        let seen = Seen {
            owner: Owner { uid: stat.st_uid, gid: Some(stat.st_gid) },
            mode: Mode(stat.st_mode & 0o7777),
            free: space.f_bavail.saturating_mul(space.f_frsize),
        };
        if let Some(owner) = owner.filter(|owner| !owner.may_enter(&stat)) {
            let what = format!("GMSA_OWNER {owner} cannot read the tickets on the volume `{}`", path.display());
            let why = format!("{}, which does not let that user in", belongs(path));
            let next = format!("chmod {} {}", advice::open_mode(stat.st_mode), advice::path(path));
            return Err(Fault::new(Code::VolumeNotReadable, what).because(why).with_next(next));
        }
        if seen.free < LIMIT {
            return Err(failed(path, Errno::NOSPC));
        }
        Ok(seen)
    }

    fn prove(path: PathBuf, owner: Option<Owner>, mode: Mode) -> Result<(Self, OpenFolder), Fault> {
        let creator = rustix::process::geteuid().as_raw();
        let mut volume = Self { path, ownership: Ownership { owner, mode }, ours: [creator; 2], synced: true };
        let root = volume.root().map_err(|error| volume.not_writable(error))?;
        volume.ours = volume.probe(&root)?;
        Ok((volume, root))
    }

    /// Where the volume is mounted: `GMSA_DIR`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where [`write_ccache`](Self::write_ccache) puts a lease's own ccache.
    pub fn ccache_path(&self, folder: &LeaseFolder) -> PathBuf {
        self.path.join(folder.path()).join(CCACHE)
    }

    /// Writes the lease's own `krb5cc` and then, for the lease at the root, its copy.
    pub fn write_ccache(&self, at: &Location, image: &CacheImage) -> Result<(), Fault> {
        self.write(at, CCACHE, image.bytes())
    }

    /// Writes the lease's own `krb5.keytab` and then, for the lease at the root, its copy.
    pub fn write_keytab(&self, at: &Location, image: &KeytabImage) -> Result<(), Fault> {
        self.write(at, KEYTAB, image.bytes())
    }

    fn write(&self, at: &Location, name: &str, bytes: &[u8]) -> Result<(), Fault> {
        let root = self.root().map_err(|error| failed(&self.path, error))?;
        let folder = self.lease_folder(&root, at)?;
        self.replace(&folder, name, bytes, at.ownership)?;
        if at.at_root {
            self.replace(&root, name, bytes, at.ownership)?;
        }
        Ok(())
    }

    /// Puts back what is not as [`write_ccache`](Self::write_ccache) left it, and tells what that was. A cache that
    /// begins as it was written and only grew is intact: clients append their own service tickets to it.
    pub fn restore_ccache(&self, at: &Location, image: &CacheImage) -> Result<Vec<PathBuf>, Fault> {
        self.restore(at, CCACHE, image.bytes(), |bytes| bytes.starts_with(image.bytes()))
    }

    /// Puts back what is not as [`write_keytab`](Self::write_keytab) left it, and tells what that was.
    pub fn restore_keytab(&self, at: &Location, image: &KeytabImage) -> Result<Vec<PathBuf>, Fault> {
        self.restore(at, KEYTAB, image.bytes(), |bytes| bytes == image.bytes())
    }

    fn restore(
        &self,
        at: &Location,
        name: &str,
        bytes: &[u8],
        good: impl Fn(&[u8]) -> bool,
    ) -> Result<Vec<PathBuf>, Fault> {
        let root = self.root().map_err(|error| failed(&self.path, error))?;
        let intact = |folder: &OpenFolder| {
            read(&folder.fd, name, OFlags::NOFOLLOW)
                .is_ok_and(|(bytes, stat)| self.is_ours(&stat, at.ownership) && good(&bytes))
        };
        let mut restored = Vec::new();
        let folder = self.lease_folder(&root, at)?;
        for folder in std::iter::once(&folder).chain(at.at_root.then_some(&root)) {
            if !intact(folder) {
                self.replace(folder, name, bytes, at.ownership)?;
                restored.push(folder.path.join(name));
            }
        }
        Ok(restored)
    }

    /// Writes `krb5.conf` into the root, readable by everyone, unless it stands there already; tells whether it was
    /// written.
    pub fn write_krb5_conf(&self, conf: &Krb5Conf) -> Result<bool, Fault> {
        let root = self.root().map_err(|error| failed(&self.path, error))?;
        self.write_conf(&root, self.ownership, conf)
    }

    /// Writes `krb5.conf` into a lease's own folder, for those who mount that alone.
    pub fn write_own_krb5_conf(&self, at: &Location, conf: &Krb5Conf) -> Result<bool, Fault> {
        let root = self.root().map_err(|error| failed(&self.path, error))?;
        let folder = self.lease_folder(&root, at)?;
        self.write_conf(&folder, at.ownership, conf)
    }

    fn write_conf(&self, folder: &OpenFolder, ownership: Ownership, conf: &Krb5Conf) -> Result<bool, Fault> {
        let text = conf.to_string();
        let ownership = Ownership { mode: Mode::KRB5_CONF, ..ownership };
        let same = read(&folder.fd, KRB5_CONF, OFlags::NOFOLLOW)
            .is_ok_and(|(bytes, stat)| *bytes == text.as_bytes() && self.is_dressed(&stat, ownership));
        if !same {
            self.replace(folder, KRB5_CONF, text.as_bytes(), ownership)?;
        }
        Ok(!same)
    }

    /// Whether a lease's keytab lies there, and is a file of ours.
    pub fn has_keytab(&self, at: &Location) -> bool {
        let folder = self.root().and_then(|root| root.enter_all(&at.folder));
        folder.is_ok_and(|folder| {
            read(&folder.fd, KEYTAB, OFlags::NOFOLLOW).is_ok_and(|(_, stat)| self.is_ours(&stat, at.ownership))
        })
    }

    /// A lease's ccache as it was left, for `kerberos::warm`; what is not a file of ours is as good as none.
    pub fn read_ccache(&self, at: &Location) -> Option<Zeroizing<Vec<u8>>> {
        let folder = self.root().and_then(|root| root.enter_all(&at.folder)).ok()?;
        let (bytes, stat) = read(&folder.fd, CCACHE, OFlags::NOFOLLOW).ok()?;
        self.is_ours(&stat, at.ownership).then_some(bytes)
    }

    /// Opened anew for each use: a folder that was unmounted and mounted again is found again. Links on the way to
    /// it are the operator's own.
    fn root(&self) -> Result<OpenFolder, Errno> {
        let fd = os::openat(CWD, &self.path, OFlags::DIRECTORY | OFlags::CLOEXEC, Bits::empty())?;
        Ok(OpenFolder { fd, path: self.path.clone() })
    }

    /// The lease's folder, made if need be. The account's own has the ownership of its files; a folder around it lets
    /// everyone through.
    fn lease_folder(&self, root: &OpenFolder, at: &Location) -> Result<OpenFolder, Fault> {
        let names = at.folder.names();
        let mut folder = None;
        for (depth, name) in names.iter().enumerate() {
            let own = depth + 1 == names.len();
            let mode = match own {
                true if depth == 0 => at.ownership.mode.of_folder(),
                // Who mounts it alone finds krb5.conf in it, also who may not read the tickets.
                true => Mode(Mode::AROUND.0 | at.ownership.mode.of_folder().0),
                false => Mode::AROUND,
            };
            let owner = if own { at.ownership.owner } else { self.ownership.owner };
            folder = Some(self.folder_in(folder.as_ref().unwrap_or(root), name, Ownership { owner, mode })?);
        }
        folder.ok_or_else(|| Fault::new(Code::InternalBug, "a lease has no folder"))
    }

    fn folder_in(&self, parent: &OpenFolder, name: &str, ownership: Ownership) -> Result<OpenFolder, Fault> {
        let path = parent.path.join(name);
        match os::mkdirat(&parent.fd, name, Bits::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(failed(&path, error)),
        }
        let folder = parent.enter(name).map_err(|error| match error {
            Errno::NOTDIR | Errno::LOOP => taken(&path, "it is not a folder"),
            _ => failed(&path, error),
        })?;
        let stat = os::fstat(&folder.fd).map_err(|error| failed(&path, error))?;
        if !self.is_ours(&stat, ownership) {
            return Err(taken(&path, format!("the folder belongs to uid {}, not to the sidecar", stat.st_uid)));
        }
        if !self.is_dressed(&stat, ownership) {
            dress(&folder.fd, ownership).map_err(|error| self.not_given(&path, ownership, error.into()))?;
        }
        Ok(folder)
    }

    /// Why something of ours could not be written. What cannot be given to an owner that one CredSpec names is that
    /// document's fault.
    fn not_given(&self, path: &Path, ownership: Ownership, error: io::Error) -> Fault {
        let denied = matches!(Errno::from_io_error(&error), Some(Errno::PERM | Errno::INVAL));
        match ownership.owner {
            Some(owner) if denied && ownership.owner != self.ownership.owner => {
                let what = format!("the sidecar cannot write `{}` for the owner {owner}", path.display());
                let fault =
                    Fault::new(Code::VolumeWriteFailed, what).because(format!("{}, as {}", words(&error), caller()));
                fault
                    .with_next(format!(
                        "run the sidecar as root with CAP_CHOWN and CAP_DAC_OVERRIDE, or as {owner}; or remove Owner from GmsaSidecar in the CredSpec"
                    ))
                    .owned_by(crate::fault::Owner::CredSpec)
            }
            _ => failed(path, error),
        }
    }

    fn replace(&self, folder: &OpenFolder, name: &str, bytes: &[u8], ownership: Ownership) -> Result<(), Fault> {
        let path = folder.path.join(name);
        let temporary = temporary();
        create(folder, &temporary, bytes, ownership, self.synced)
            .map_err(|error| self.not_given(&path, ownership, error))?;
        if let Err(error) = os::renameat(&folder.fd, &temporary, &folder.fd, name) {
            let _ = os::unlinkat(&folder.fd, &temporary, AtFlags::empty());
            return Err(match error {
                Errno::ISDIR => taken(&path, "a folder stands in its place"),
                // The folder let us create a file: it is sticky, and the old file is someone else's.
                Errno::PERM | Errno::ACCESS => taken(&path, "the file in its place belongs to another user"),
                _ => failed(&path, error),
            });
        }
        // The new file is in place. Only a power cut could undo that, and it takes the task with it.
        if self.synced {
            let _ = os::fsync(&folder.fd);
        }
        Ok(())
    }

    fn is_dressed(&self, stat: &Stat, Ownership { owner, mode }: Ownership) -> bool {
        let [creator, _] = self.ours;
        let uid = owner.map_or(creator, |owner| owner.uid);
        let gid = owner.and_then(|owner| owner.gid).unwrap_or(stat.st_gid);
        (stat.st_mode & 0o7777, stat.st_uid, stat.st_gid) == (mode.0, uid, gid)
    }

    fn is_ours(&self, stat: &Stat, ownership: Ownership) -> bool {
        self.ours.contains(&stat.st_uid) || ownership.owner.is_some_and(|owner| owner.uid == stat.st_uid)
    }

    /// Does what a write does, in a folder of its own; returns the uids of what we make, see [`Volume::ours`].
    fn probe(&self, root: &OpenFolder) -> Result<[u32; 2], Fault> {
        let name = temporary();
        os::mkdirat(&root.fd, &name, Bits::RWXU).map_err(|error| self.not_writable(error))?;
        let probed = self.probe_in(root, &name);
        let removed = os::unlinkat(&root.fd, &name, AtFlags::REMOVEDIR);
        let ours = probed.and_then(|ours| removed.map(|()| ours).map_err(io::Error::from));

        let Some(owner) = self.ownership.owner else { return ours.map_err(|error| self.not_writable(error)) };
        let denied = |why: String| {
            let next = format!(
                "set `user` of the sidecar's container to \"{owner}\" in the task definition (it runs as {}), or correct \
                 GMSA_OWNER; only root with CAP_CHOWN and CAP_DAC_OVERRIDE writes for others",
                caller()
            );
            Fault::new(Code::ConfigOwnerDenied, format!("the sidecar cannot write for GMSA_OWNER {owner}"))
                .because(why)
                .with_next(next)
        };
        match ours {
            Ok([creator, given]) if given == owner.uid => Ok([creator, given]),
            Ok([_, given]) => Err(denied(format!("the volume's file system gives every file to uid {given}"))),
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::PERM | Errno::ACCESS | Errno::INVAL) => {
                    Err(denied(format!("{}, as {}", words(&error), caller())))
                }
                _ => Err(self.not_writable(error)),
            },
        }
    }

    fn probe_in(&self, root: &OpenFolder, name: &str) -> io::Result<[u32; 2]> {
        let folder = root.enter(name)?;
        let creator = os::fstat(&folder.fd)?.st_uid;
        let of_folder = Ownership { mode: self.ownership.mode.of_folder(), ..self.ownership };
        dress(&folder.fd, of_folder)?;
        let file = temporary();
        create(&folder, &file, b"", self.ownership, self.synced)?;
        os::unlinkat(&folder.fd, &file, AtFlags::empty())?;
        Ok([creator, os::fstat(&folder.fd)?.st_uid])
    }

    fn not_writable(&self, error: impl Into<io::Error>) -> Fault {
        let error = error.into();
        let why = match Errno::from_io_error(&error) {
            Some(Errno::NOENT) => "the folder does not exist: is the volume mounted there?".to_owned(),
            Some(Errno::NOTDIR) => "it is not a folder".to_owned(),
            Some(Errno::PERM | Errno::ACCESS) => format!("{}, and the sidecar is {}", belongs(&self.path), caller()),
            _ => words(&error),
        };
        let what = format!("the volume `{}` (GMSA_DIR) cannot be written", self.path.display());
        Fault::new(Code::VolumeNotWritable, what).because(why).with_next(advice::not_writable(&self.path, &error))
    }
}

/// A complete new file, or none.
fn create(folder: &OpenFolder, name: &str, bytes: &[u8], ownership: Ownership, synced: bool) -> io::Result<()> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = os::openat(&folder.fd, name, flags, Bits::empty())?;
    let written = dress(&fd, ownership).map_err(io::Error::from).and_then(|()| {
        let mut file = File::from(fd);
        file.write_all(bytes)?;
        if synced { file.sync_all() } else { Ok(()) }
    });
    if written.is_err() {
        let _ = os::unlinkat(&folder.fd, name, AtFlags::empty());
    }
    written
}

/// Gives a file or folder of ours its final group, mode and owner, in this order: at no moment may anyone read it who
/// may not in the end, and CAP_CHOWN is enough (the mode of what is given away takes CAP_FOWNER).
fn dress(fd: &OwnedFd, Ownership { owner, mode }: Ownership) -> Result<(), Errno> {
    let gid = owner.and_then(|owner| owner.gid);
    if gid.is_some() {
        os::fchown(fd, None, gid.map(Gid::from_raw))?;
    }
    os::fchmod(fd, Bits::from_raw_mode(mode.0))?;
    match owner {
        Some(owner) => os::fchown(fd, Some(Uid::from_raw(owner.uid)), None),
        None => Ok(()),
    }
}

/// An open folder. What is done in it goes by the descriptor, so that nobody can divert it by changing the path.
struct OpenFolder {
    fd: OwnedFd,
    /// Only to be told.
    path: PathBuf,
}

impl OpenFolder {
    fn enter(&self, name: impl Arg + Copy) -> Result<Self, Errno> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = os::openat(&self.fd, name, flags, Bits::empty())?;
        Ok(Self { fd, path: self.path.join(&*name.to_string_lossy()) })
    }

    /// A lease's folder, where all of it is there.
    fn enter_all(self, folder: &LeaseFolder) -> Result<Self, Errno> {
        folder.names().iter().try_fold(self, |parent, name| parent.enter(name.as_str()))
    }
}

/// What [`Volume::inspect`] saw of the folder itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Whose it is.
    pub owner: Owner,
    /// Its mode.
    pub mode: Mode,
    /// Free space, bytes.
    pub free: u64,
}

/// The bytes of a regular file of at most [`LIMIT`]. A FIFO or device that stands in its place is not waited for.
pub(crate) fn read(dir: impl AsFd, name: impl Arg, links: OFlags) -> io::Result<(Zeroizing<Vec<u8>>, Stat)> {
    let fd = os::openat(dir, name, links | OFlags::NONBLOCK | OFlags::CLOEXEC, Bits::empty())?;
    let stat = os::fstat(&fd)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    let mut bytes = Zeroizing::new(Vec::new());
    File::from(fd).take(LIMIT + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LIMIT {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is larger than 1 MiB"));
    }
    Ok((bytes, stat))
}

/// Writes the tickets that are for this process's successor alone into a folder that no container sees. The folder is
/// there, or its lease has ended. A power cut ends the containers that it is for. Blocks.
pub fn write_private(folder: &Path, image: &CacheImage) -> Result<(), Fault> {
    let failed = |error: io::Error| failed(&folder.join(BRIDGE), error);
    let fd = match os::openat(CWD, folder, OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Bits::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        opened => opened.map_err(|error| failed(error.into()))?,
    };
    let (folder, temporary) = (OpenFolder { fd, path: folder.to_owned() }, temporary());
    create(&folder, &temporary, image.bytes(), Ownership::default(), false).map_err(failed)?;
    os::renameat(&folder.fd, &temporary, &folder.fd, BRIDGE).map_err(|error| {
        let _ = os::unlinkat(&folder.fd, &temporary, AtFlags::empty());
        failed(error.into())
    })
}

/// Reads them; nothing if there are none. Blocks.
pub fn read_private(folder: &Path) -> Option<Zeroizing<Vec<u8>>> {
    read(CWD, folder.join(BRIDGE), OFlags::NOFOLLOW).ok().map(|(bytes, _)| bytes)
}

/// The file in a folder of the daemon's own.
const BRIDGE: &str = "krbtgt";

/// Whose a path is, in words; of the innermost folder that can be seen if it cannot be seen itself.
pub(crate) fn belongs(path: &Path) -> String {
    let seen = path.ancestors().find_map(|path| os::stat(path).ok().map(|stat| (path, stat)));
    match seen {
        Some((path, stat)) => {
            let (uid, gid, mode) = (stat.st_uid, stat.st_gid, Mode(stat.st_mode & 0o7777));
            format!("`{}` belongs to {uid}:{gid} with mode {mode}", path.display())
        }
        None => format!("`{}` cannot be seen", path.display()),
    }
}

/// Who we are: `uid:gid`.
pub(crate) fn caller() -> String {
    format!("{}:{}", rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
}

fn temporary() -> String {
    format!("{TEMPORARY}{:016x}", rand::random::<u64>())
}

fn failed(path: &Path, error: impl Into<io::Error>) -> Fault {
    let error = error.into();
    Fault::new(Code::VolumeWriteFailed, format!("`{}` cannot be written", path.display()))
        .because(words(&error))
        .with_next(advice::failed(path, &error))
}

fn taken(path: &Path, why: impl fmt::Display) -> Fault {
    Fault::new(Code::VolumePathTaken, format!("`{}` cannot be written", path.display()))
        .because(why)
        .with_next(advice::taken(path))
}

fn words(error: &io::Error) -> String {
    match Errno::from_io_error(error) {
        Some(Errno::NOSPC) => "no space is left on the volume".to_owned(),
        Some(Errno::DQUOT) => "the volume's quota is used up".to_owned(),
        Some(Errno::ROFS) => "the volume is mounted read-only".to_owned(),
        _ => {
            let text = error.to_string();
            text.split(" (os error").next().unwrap_or(&text).to_owned()
        }
    }
}

/// The ccache's name, in an account's folder and in the root.
pub(crate) const CCACHE: &str = "krb5cc";
/// The keytab's name, in the same places.
const KEYTAB: &str = "krb5.keytab";
/// The name of the app's configuration.
pub(crate) const KRB5_CONF: &str = "krb5.conf";

/// No ccache is larger: a ticket is 64 KiB at most (its PAC), and an app asks for a few.
const LIMIT: u64 = 1024 * 1024;

#[cfg(test)]
pub(crate) mod tests;
