//! The shared volume: every file the sidecar writes for the app, and the ticket it finds there at a warm start.
//!
//! Another container may be able to write to the volume, so nothing on it is believed. Below `GMSA_DIR` everything
//! is reached relative to an open folder, no symbolic link is followed, and a folder or file counts only if its
//! owner is ours. A file appears by `rename`, complete and with its final owner and mode.
//!
//! All of this blocks: call it from `spawn_blocking`.

mod krb5_conf;
mod watch;

pub use krb5_conf::{Kdc, Krb5Conf, RealmEntry};
pub use watch::Watch;

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustix::fs::{self as os, AtFlags, CWD, FileType, Gid, Mode as Bits, OFlags, Stat, Uid};
use rustix::io::Errno;
use rustix::path::Arg;
use zeroize::Zeroizing;

use crate::fault::{Code, Fault};
use crate::kerberos::{CacheImage, KeytabImage};
use crate::name::{Account, TEMPORARY};

/// The folder `GMSA_DIR`, proven writable.
#[derive(Debug, Clone)]
pub struct Volume {
    path: PathBuf,
    owner: Option<Owner>,
    mode: Mode,
    /// The uids our files have, as the file system tells them: on creation, and once given away.
    ours: [u32; 2],
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
        volume.sweep(&root);
        Ok(volume)
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
            return Err(Fault::new(Code::VolumeNotReadable, what).because(why));
        }
        if seen.free < LIMIT {
            return Err(failed(path, Errno::NOSPC));
        }
        Ok(seen)
    }

    fn prove(path: PathBuf, owner: Option<Owner>, mode: Mode) -> Result<(Self, Folder), Fault> {
        let creator = rustix::process::geteuid().as_raw();
        let mut volume = Self { path, owner, mode, ours: [creator; 2] };
        let root = volume.root().map_err(|error| volume.not_writable(error))?;
        volume.ours = volume.probe(&root)?;
        Ok((volume, root))
    }

    /// Where the volume is mounted: `GMSA_DIR`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where [`write_ccache`](Self::write_ccache) puts the account's own ccache.
    pub fn ccache_path(&self, account: &Account) -> PathBuf {
        self.path.join(account.as_str()).join(CCACHE)
    }

    /// Writes `<account>/krb5cc` and then, for the first lease, its copy `krb5cc`.
    pub fn write_ccache(&self, account: &Account, first: bool, image: &CacheImage) -> Result<(), Fault> {
        self.write(account, first, CCACHE, image.bytes())
    }

    /// Writes `<account>/krb5.keytab` and then, for the first lease, its copy `krb5.keytab`.
    pub fn write_keytab(&self, account: &Account, first: bool, image: &KeytabImage) -> Result<(), Fault> {
        self.write(account, first, KEYTAB, image.bytes())
    }

    fn write(&self, account: &Account, first: bool, name: &str, bytes: &[u8]) -> Result<(), Fault> {
        let root = self.root().map_err(|error| failed(&self.path, error))?;
        let folder = self.account_folder(&root, account)?;
        self.replace(&folder, name, bytes, self.mode)?;
        if first {
            self.replace(&root, name, bytes, self.mode)?;
        }
        Ok(())
    }

    /// Puts back what is not as [`write_ccache`](Self::write_ccache) left it, and tells what that was. A cache that
    /// begins as it was written and only grew is intact: clients append their own service tickets to it.
    pub fn restore_ccache(&self, account: &Account, first: bool, image: &CacheImage) -> Result<Vec<PathBuf>, Fault> {
        self.restore(account, first, CCACHE, image.bytes(), |bytes| bytes.starts_with(image.bytes()))
    }

    /// Puts back what is not as [`write_keytab`](Self::write_keytab) left it, and tells what that was.
    pub fn restore_keytab(&self, account: &Account, first: bool, image: &KeytabImage) -> Result<Vec<PathBuf>, Fault> {
        self.restore(account, first, KEYTAB, image.bytes(), |bytes| bytes == image.bytes())
    }

    fn restore(
        &self,
        account: &Account,
        first: bool,
        name: &str,
        bytes: &[u8],
        good: impl Fn(&[u8]) -> bool,
    ) -> Result<Vec<PathBuf>, Fault> {
        let root = self.root().map_err(|error| failed(&self.path, error))?;
        let intact = |folder: &Folder| {
            read(&folder.fd, name, OFlags::NOFOLLOW).is_ok_and(|(bytes, stat)| self.is_ours(&stat) && good(&bytes))
        };
        let mut restored = Vec::new();
        let folder = self.account_folder(&root, account)?;
        for folder in std::iter::once(&folder).chain(first.then_some(&root)) {
            if !intact(folder) {
                self.replace(folder, name, bytes, self.mode)?;
                restored.push(folder.path.join(name));
            }
        }
        Ok(restored)
    }

    /// Writes `krb5.conf`, readable by everyone, unless it stands there already; tells whether it was written.
    pub fn write_krb5_conf(&self, conf: &Krb5Conf) -> Result<bool, Fault> {
        let text = conf.to_string();
        let root = self.root().map_err(|error| failed(&self.path, error))?;
        let same = read(&root.fd, KRB5_CONF, OFlags::NOFOLLOW)
            .is_ok_and(|(bytes, stat)| *bytes == text.as_bytes() && self.is_dressed(&stat, Mode::KRB5_CONF));
        if !same {
            self.replace(&root, KRB5_CONF, text.as_bytes(), Mode::KRB5_CONF)?;
        }
        Ok(!same)
    }

    /// Whether the account's keytab lies there, and is a file of ours.
    pub fn has_keytab(&self, account: &Account) -> bool {
        let folder = self.root().and_then(|root| root.enter(account.as_str()));
        folder.is_ok_and(|folder| read(&folder.fd, KEYTAB, OFlags::NOFOLLOW).is_ok_and(|(_, stat)| self.is_ours(&stat)))
    }

    /// The account's ccache as it was left, for [`warm`]; what is not a file of ours is as good as none.
    pub fn read_ccache(&self, account: &Account) -> Option<Zeroizing<Vec<u8>>> {
        let folder = self.root().and_then(|root| root.enter(account.as_str())).ok()?;
        let (bytes, stat) = read(&folder.fd, CCACHE, OFlags::NOFOLLOW).ok()?;
        self.is_ours(&stat).then_some(bytes)
    }

    /// Opened anew for each use: a folder that was unmounted and mounted again is found again. Links on the way to
    /// it are the operator's own.
    fn root(&self) -> Result<Folder, Errno> {
        let fd = os::openat(CWD, &self.path, OFlags::DIRECTORY | OFlags::CLOEXEC, Bits::empty())?;
        Ok(Folder { fd, path: self.path.clone() })
    }

    fn account_folder(&self, root: &Folder, account: &Account) -> Result<Folder, Fault> {
        let path = self.path.join(account.as_str());
        match os::mkdirat(&root.fd, account.as_str(), Bits::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(failed(&path, error)),
        }
        let folder = root.enter(account.as_str()).map_err(|error| match error {
            Errno::NOTDIR | Errno::LOOP => taken(&path, "it is not a folder"),
            _ => failed(&path, error),
        })?;
        let stat = os::fstat(&folder.fd).map_err(|error| failed(&path, error))?;
        if !self.is_ours(&stat) {
            return Err(taken(&path, format!("the folder belongs to uid {}, not to the sidecar", stat.st_uid)));
        }
        if !self.is_dressed(&stat, self.mode.of_folder()) {
            self.dress(&folder.fd, self.mode.of_folder()).map_err(|error| failed(&path, error))?;
        }
        Ok(folder)
    }

    fn replace(&self, folder: &Folder, name: &str, bytes: &[u8], mode: Mode) -> Result<(), Fault> {
        let path = folder.path.join(name);
        let temporary = temporary();
        self.create(folder, &temporary, bytes, mode).map_err(|error| failed(&path, error))?;
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
        let _ = os::fsync(&folder.fd);
        Ok(())
    }

    /// A complete new file, or none.
    fn create(&self, folder: &Folder, name: &str, bytes: &[u8], mode: Mode) -> io::Result<()> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = os::openat(&folder.fd, name, flags, Bits::empty())?;
        let written = self.dress(&fd, mode).map_err(io::Error::from).and_then(|()| {
            let mut file = File::from(fd);
            file.write_all(bytes)?;
            file.sync_all()
        });
        if written.is_err() {
            let _ = os::unlinkat(&folder.fd, name, AtFlags::empty());
        }
        written
    }

    /// Gives a file or folder of ours its final group, mode and owner, in this order: at no moment may anyone read
    /// it who may not in the end, and CAP_CHOWN is enough (the mode of what is given away takes CAP_FOWNER).
    fn dress(&self, fd: &OwnedFd, mode: Mode) -> Result<(), Errno> {
        let gid = self.owner.and_then(|owner| owner.gid);
        if gid.is_some() {
            os::fchown(fd, None, gid.map(Gid::from_raw))?;
        }
        os::fchmod(fd, Bits::from_raw_mode(mode.0))?;
        match self.owner {
            Some(owner) => os::fchown(fd, Some(Uid::from_raw(owner.uid)), None),
            None => Ok(()),
        }
    }

    fn is_dressed(&self, stat: &Stat, mode: Mode) -> bool {
        let [_, uid] = self.ours;
        let gid = self.owner.and_then(|owner| owner.gid).unwrap_or(stat.st_gid);
        (stat.st_mode & 0o7777, stat.st_uid, stat.st_gid) == (mode.0, uid, gid)
    }

    fn is_ours(&self, stat: &Stat) -> bool {
        self.ours.contains(&stat.st_uid)
    }

    /// Does what a write does, in a folder of its own; returns the uids of what we make, see [`Volume::ours`].
    fn probe(&self, root: &Folder) -> Result<[u32; 2], Fault> {
        let name = temporary();
        os::mkdirat(&root.fd, &name, Bits::RWXU).map_err(|error| self.not_writable(error))?;
        let probed = self.probe_in(root, &name);
        let removed = os::unlinkat(&root.fd, &name, AtFlags::REMOVEDIR);
        let ours = probed.and_then(|ours| removed.map(|()| ours).map_err(io::Error::from));

        let Some(owner) = self.owner else { return ours.map_err(|error| self.not_writable(error)) };
        let denied = |why: String| {
            Fault::new(Code::ConfigOwnerDenied, format!("the sidecar cannot write for GMSA_OWNER {owner}")).because(why)
        };
        match ours {
            Ok([creator, given]) if given == owner.uid => Ok([creator, given]),
            Ok([_, given]) => Err(denied(format!("the volume's file system gives every file to uid {given}"))),
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::PERM | Errno::ACCESS | Errno::INVAL) => Err(denied(format!("{error}, as {}", caller()))),
                _ => Err(self.not_writable(error)),
            },
        }
    }

    fn probe_in(&self, root: &Folder, name: &str) -> io::Result<[u32; 2]> {
        let folder = root.enter(name)?;
        let creator = os::fstat(&folder.fd)?.st_uid;
        self.dress(&folder.fd, self.mode.of_folder())?;
        let file = temporary();
        self.create(&folder, &file, b"", self.mode)?;
        os::unlinkat(&folder.fd, &file, AtFlags::empty())?;
        Ok([creator, os::fstat(&folder.fd)?.st_uid])
    }

    /// Removes our temporary files, here and in our folders. What cannot be removed does no harm.
    fn sweep(&self, folder: &Folder) {
        let Ok(entries) = os::Dir::read_from(&folder.fd) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Ok(stat) = os::statat(&folder.fd, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            let temporary = name.to_bytes().starts_with(TEMPORARY.as_bytes());
            match FileType::from_raw_mode(stat.st_mode) {
                _ if !self.is_ours(&stat) || [c".", c".."].contains(&name) => {}
                FileType::RegularFile if temporary => {
                    let _ = os::unlinkat(&folder.fd, name, AtFlags::empty());
                }
                // Accounts' folders hold no folders of ours.
                FileType::Directory if folder.path == self.path => {
                    if let Ok(inner) = folder.enter(name) {
                        self.sweep(&inner);
                    }
                    if temporary {
                        let _ = os::unlinkat(&folder.fd, name, AtFlags::REMOVEDIR);
                    }
                }
                _ => {}
            }
        }
    }

    fn not_writable(&self, error: impl Into<io::Error>) -> Fault {
        let error = error.into();
        let why = match Errno::from_io_error(&error) {
            Some(Errno::NOENT) => "the folder does not exist: is the volume mounted there?".to_owned(),
            Some(Errno::NOTDIR) => "it is not a folder".to_owned(),
            Some(Errno::PERM | Errno::ACCESS) => format!("{}, and the sidecar is {}", belongs(&self.path), caller()),
            _ => words(&error),
        };
        Fault::new(Code::VolumeNotWritable, format!("the volume `{}` cannot be written", self.path.display()))
            .because(why)
    }
}

/// An open folder. What is done in it goes by the descriptor, so that nobody can divert it by changing the path.
struct Folder {
    fd: OwnedFd,
    /// Only to be told.
    path: PathBuf,
}

impl Folder {
    fn enter(&self, name: impl Arg + Copy) -> Result<Self, Errno> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = os::openat(&self.fd, name, flags, Bits::empty())?;
        Ok(Self { fd, path: self.path.join(&*name.to_string_lossy()) })
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

/// Who owns everything that is written: `GMSA_OWNER`, numeric `uid[:gid]`. Without a gid the group stays as the
/// system sets it: the process's, or the folder's if that has the set-group-ID bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: Option<u32>,
}

impl Owner {
    /// Whether this user may go through a folder; of its groups only the one that is given is known.
    fn may_enter(self, folder: &Stat) -> bool {
        let bit = match self.uid {
            0 => return true,
            uid if uid == folder.st_uid => 0o100,
            _ if self.gid == Some(folder.st_gid) => 0o010,
            _ => 0o001,
        };
        folder.st_mode & bit != 0
    }
}

impl FromStr for Owner {
    type Err = &'static str;

    fn from_str(value: &str) -> Result<Self, Self::Err> {
        // The highest number means "unchanged" to chown(2). `u32::from_str` takes a plus sign.
        let id = |text: &str| match text.parse() {
            Ok(id) if id != u32::MAX && !text.starts_with('+') => Ok(id),
            _ => Err("an owner is numeric, uid or uid:gid, like 1654 or 1654:1654"),
        };
        match value.split_once(':') {
            Some((uid, gid)) => Ok(Self { uid: id(uid)?, gid: Some(id(gid)?) }),
            None => Ok(Self { uid: id(value)?, gid: None }),
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.gid {
            Some(gid) => write!(f, "{}:{gid}", self.uid),
            None => write!(f, "{}", self.uid),
        }
    }
}

/// The mode of files with tickets or keys: `GMSA_MODE`, octal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mode(u32);

impl Mode {
    const KRB5_CONF: Self = Self(0o644);

    /// Who may read a file may find it in its folder; the owner may replace it.
    fn of_folder(self) -> Self {
        Self(0o700 | self.0 | (self.0 & 0o444) >> 2)
    }
}

impl Default for Mode {
    fn default() -> Self {
        Self(0o600)
    }
}

impl FromStr for Mode {
    type Err = &'static str;

    fn from_str(value: &str) -> Result<Self, Self::Err> {
        let octal = !value.is_empty() && value.bytes().all(|b| (b'0'..=b'7').contains(&b));
        match u32::from_str_radix(value, 8) {
            Ok(mode) if octal && mode <= 0o777 => match mode {
                _ if mode & 0o002 != 0 => Err("this mode would let everyone change the tickets"),
                _ if mode & 0o400 == 0 => Err("this mode would not let their owner read the tickets"),
                _ => Ok(Self(mode)),
            },
            _ => Err("a mode is octal, at most 0777, like 0600 or 0640"),
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
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
    Fault::new(Code::VolumeWriteFailed, format!("`{}` cannot be written", path.display())).because(words(&error.into()))
}

fn taken(path: &Path, why: impl fmt::Display) -> Fault {
    Fault::new(Code::VolumePathTaken, format!("`{}` cannot be written", path.display())).because(why)
}

fn words(error: &io::Error) -> String {
    match Errno::from_io_error(error) {
        Some(Errno::NOSPC) => "no space is left on the volume".to_owned(),
        Some(Errno::DQUOT) => "the volume's quota is used up".to_owned(),
        Some(Errno::ROFS) => "the volume is mounted read-only".to_owned(),
        _ => error.to_string(),
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
mod tests;
