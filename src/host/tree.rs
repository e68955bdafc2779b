//! The folders of the leases: what the agent mounts, credentials-fetcher's metadata, and what root alone may read.
//!
//! ```text
//! DIR/<lease id>/<lease id>_metadata.json     0644
//! DIR/<lease id>/<account>/                   0755, mounted into the container
//! DIR/../gmsa-sidecar/<lease id>/lease.json   0600, what the metadata has no place for
//! DIR/../gmsa-sidecar/<lease id>/<account>/   0700, for the keeper
//! ```
//!
//! All of this blocks: call it from `spawn_blocking`.

mod remove;

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{self as os, AtFlags, CWD, Mode as Bits, OFlags, Timespec, Timestamps, UTIME_OMIT};
use serde::{Deserialize, Serialize};

use crate::clock;
use crate::fault::{Code, Fault};
use crate::name::TEMPORARY;
use crate::volume::{self, CCACHE};

use super::keeper::Files;
use super::metadata::{self, Entry};
use super::name::{Folder, LeaseId};

/// The two trees.
#[derive(Debug, Clone)]
pub(super) struct Tree {
    /// `GMSA_DIR`: what containers may see.
    dir: PathBuf,
    /// Beside it: what they may not.
    private: PathBuf,
}

/// A lease as it lies on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stored {
    /// Its id.
    pub id: LeaseId,
    /// Its tickets that can be kept, each with its folder.
    pub tickets: Vec<(Folder, Entry, Extra)>,
    /// When it was last known to be in use.
    pub seen: SystemTime,
}

/// What credentials-fetcher's metadata has no place for. None of it is secret.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Extra {
    /// The folder.
    pub folder: String,
    /// The login's domain.
    pub login_domain: Option<String>,
    /// `uid[:gid]`
    pub owner: Option<String>,
    /// Octal; of leases that credentials-fetcher made there is none.
    pub mode: Option<String>,
    /// Whether there is a keytab.
    pub keytab: Option<bool>,
    /// The services whose tickets are kept.
    pub services: Vec<String>,
}

impl Extra {
    /// What is remembered of a ticket.
    pub(super) fn new(folder: &Folder, files: &Files, login_domain: Option<String>) -> Self {
        Self {
            folder: folder.to_string(),
            login_domain,
            owner: files.owner.map(|owner| owner.to_string()),
            mode: Some(files.mode.to_string()),
            keytab: Some(files.keytab),
            services: files.services.iter().map(ToString::to_string).collect(),
        }
    }

    /// The files that were asked for; `host` holds for leases of credentials-fetcher, which say nothing of it.
    pub(super) fn files(&self, host: &Files) -> Files {
        let Some(mode) = self.mode.as_ref().and_then(|mode| mode.parse().ok()) else { return host.clone() };
        Files {
            mode,
            owner: self.owner.as_ref().and_then(|owner| owner.parse().ok()),
            keytab: self.keytab.unwrap_or_default(),
            services: self.services.iter().filter_map(|spn| spn.parse().ok()).collect(),
        }
    }
}

impl Tree {
    /// Makes both folders where they are missing; their mode and owner stay as they are.
    pub(super) fn open(dir: impl Into<PathBuf>) -> Result<Self, Fault> {
        let dir = dir.into();
        let private = dir.parent().unwrap_or(&dir).join(PRIVATE);
        // Whatever the mask is: containers go through these.
        for folder in dir.ancestors().take_while(|folder| !folder.exists()).collect::<Vec<_>>().into_iter().rev() {
            make(folder, 0o755)?;
        }
        match fs::DirBuilder::new().mode(0o700).create(&private) {
            Ok(()) => replace(&private, MARK, b"What gmsa-sidecar host remembers of its leases.\n", 0o600)?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                is_ours(&private)
                    .and_then(|()| os::chmod(&private, Bits::RWXU).map_err(io::Error::from))
                    .map_err(|error| unusable(&private, &error))?;
            }
            Err(error) => return Err(unusable(&private, &error)),
        }
        // What containers mount is compared with what mounts show: without links.
        let dir = fs::canonicalize(&dir).map_err(|error| unusable(&dir, &error))?;
        let private = fs::canonicalize(&private).map_err(|error| unusable(&private, &error))?;
        Ok(Self { dir, private })
    }

    /// `GMSA_DIR`, without links.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The folder of an account: what is mounted.
    pub(super) fn folder(&self, id: &LeaseId, folder: &Folder) -> PathBuf {
        self.dir.join(id.as_str()).join(folder.as_str())
    }

    /// The keeper's folder for an account.
    pub(super) fn private(&self, id: &LeaseId, folder: &Folder) -> PathBuf {
        self.private.join(id.as_str()).join(folder.as_str())
    }

    /// Makes a lease's folders. The private one comes first: what it stands for is ours to remove.
    pub(super) fn begin<'a>(&self, id: &LeaseId, folders: impl Iterator<Item = &'a Folder>) -> Result<(), Fault> {
        make(&self.private.join(id.as_str()), 0o700)?;
        make(&self.dir.join(id.as_str()), 0o755)?;
        for folder in folders {
            make(&self.private(id, folder), 0o700)?;
            make(&self.folder(id, folder), 0o755)?;
        }
        Ok(())
    }

    /// Writes what is remembered; from then on the lease outlives the process.
    pub(super) fn commit(&self, id: &LeaseId, tickets: &[(Entry, Extra)]) -> Result<(), Fault> {
        let extras: Vec<_> = tickets.iter().map(|(_, extra)| extra).collect();
        let entries: Vec<_> = tickets.iter().map(|(entry, _)| entry.clone()).collect();
        let bug = |error| Fault::new(Code::InternalBug, "a lease cannot be written as JSON").caused_by(&error);
        let private = self.private.join(id.as_str());
        make(&private, 0o700)?; // of a lease that credentials-fetcher made there is none
        replace(&private, EXTRAS, &serde_json::to_vec(&extras).map_err(bug)?, 0o600)?;
        let name = format!("{id}{}", metadata::SUFFIX);
        replace(&self.dir.join(id.as_str()), &name, &metadata::encode(&entries).map_err(bug)?, 0o644)
    }

    /// Removes all of a lease. What is not there is no fault.
    pub(super) fn remove(&self, id: &LeaseId) -> Result<(), Fault> {
        // The metadata first: half of a lease is none.
        let dir = self.dir.join(id.as_str());
        let _ = fs::remove_file(dir.join(format!("{id}{}", metadata::SUFFIX)));
        for path in [dir, self.private.join(id.as_str())] {
            match remove::all(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(&path, &error)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Notes that a lease is in use now.
    pub(super) fn touch(&self, id: &LeaseId, now: SystemTime) {
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            last_modification: Timespec { tv_sec: clock::unix(now), tv_nsec: 0 },
        };
        let path = self.private.join(id.as_str()).join(EXTRAS);
        if os::utimensat(CWD, &path, &times, AtFlags::SYMLINK_NOFOLLOW).is_err() {
            tracing::debug!(event = "host.lease-untouched", lease = %id);
        }
    }

    /// The leases that an earlier process, ours or credentials-fetcher, left; what of ours is half-done is removed,
    /// unless `in_use` says that a container has it.
    pub(super) fn load(&self, in_use: impl Fn(&Path) -> bool) -> Vec<Stored> {
        let mut leases = Vec::new();
        for id in children(&self.dir) {
            let Ok(id) = id.parse::<LeaseId>() else { continue };
            match self.read(&id) {
                Some(stored) => leases.push(stored),
                None => {
                    let dir = self.dir.join(id.as_str());
                    let folders = children(&dir).into_iter().map(|folder| dir.join(folder));
                    if self.private.join(id.as_str()).is_dir() && !folders.into_iter().any(|path| in_use(&path)) {
                        tracing::info!(event = "host.lease-unfinished", lease = %id);
                        let _ = self.remove(&id);
                    }
                }
            }
        }
        for id in children(&self.private) {
            if id.parse::<LeaseId>().is_ok_and(|id| !self.dir.join(id.as_str()).exists()) {
                let _ = remove::all(&self.private.join(id));
            }
        }
        leases
    }

    /// The leases in a folder, for those who change nothing.
    pub(super) fn look(dir: &Path) -> Vec<Stored> {
        let Ok(dir) = fs::canonicalize(dir) else { return Vec::new() };
        let tree = Self { private: dir.parent().unwrap_or(&dir).join(PRIVATE), dir };
        let ids = children(&tree.dir).into_iter().filter_map(|id| id.parse().ok());
        ids.filter_map(|id| tree.read(&id)).collect()
    }

    fn read(&self, id: &LeaseId) -> Option<Stored> {
        let dir = self.dir.join(id.as_str());
        let name = format!("{id}{}", metadata::SUFFIX);
        let (text, stat) = match volume::read(CWD, dir.join(name), OFlags::NOFOLLOW) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => return self.unreadable(id, &error),
        };
        let entries = match metadata::decode(&text) {
            Ok(entries) => entries,
            Err(error) => return self.unreadable(id, &error),
        };
        let ours = volume::read(CWD, self.private.join(id.as_str()).join(EXTRAS), OFlags::NOFOLLOW).ok();
        let extras: Vec<Extra> =
            ours.as_ref().and_then(|(text, _)| serde_json::from_slice(text).ok()).unwrap_or_default();
        let seen = match &ours {
            Some((_, ours)) => clock::from_unix(ours.st_mtime.max(stat.st_mtime)),
            None => clock::now(),
        };
        let mut tickets = Vec::new();
        for entry in entries {
            let Some(folder) = self.folder_of(id, &entry) else {
                tracing::warn!(event = "host.metadata-refused", lease = %id, path = %entry.krb_file_path.escape_debug());
                continue;
            };
            let extra = extras.iter().find(|extra| extra.folder == folder.as_str()).cloned().unwrap_or_default();
            tickets.push((folder, entry, extra));
        }
        Some(Stored { id: id.clone(), tickets, seen })
    }

    fn unreadable(&self, id: &LeaseId, error: &dyn std::error::Error) -> Option<Stored> {
        tracing::warn!(event = "host.metadata-unreadable", lease = %id, why = %error.to_string().escape_debug());
        // A file that somebody else wrote is a lease all the same: it can be deleted.
        let ours = self.private.join(id.as_str()).is_dir();
        (!ours).then(|| Stored { id: id.clone(), tickets: Vec::new(), seen: clock::now() })
    }

    /// The folder that an entry names, if it lies in its own lease.
    fn folder_of(&self, id: &LeaseId, entry: &Entry) -> Option<Folder> {
        let path = Path::new(&entry.krb_file_path);
        if path.file_name()?.to_str()? != CCACHE {
            return None;
        }
        let folder: Folder = path.parent()?.file_name()?.to_str()?.parse().ok()?;
        // As it was written, or the same folder by another name.
        let lease = path.parent()?.parent()?;
        let here = self.dir.join(id.as_str());
        let same = lease == here || fs::canonicalize(lease).is_ok_and(|lease| lease == here);
        same.then_some(folder)
    }
}

/// The names in a folder that are text.
fn children(path: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
    let mut names: Vec<_> = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// A folder with exactly this mode; one that is there is taken if it is ours and a folder.
fn make(path: &Path, mode: u32) -> Result<(), Fault> {
    match fs::DirBuilder::new().mode(mode).create(path) {
        // The mask may have taken bits away.
        Ok(()) => os::chmod(path, Bits::from_raw_mode(mode)).map_err(|error| failed(path, &error.into())),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => match fs::symlink_metadata(path) {
            Ok(stat) if stat.is_dir() => Ok(()),
            _ => Err(failed(path, &error)),
        },
        Err(error) => Err(failed(path, &error)),
    }
}

/// What holds renewable tickets is entered by its owner alone. A folder of somebody else who chose the same name is not
/// touched.
fn is_ours(path: &Path) -> io::Result<()> {
    let stat = fs::symlink_metadata(path)?;
    if !path.join(MARK).is_file() && fs::read_dir(path)?.next().is_some() {
        return Err(io::Error::other(format!("it is not made by gmsa-sidecar: it has no file `{MARK}`")));
    }
    if !stat.is_dir() || stat.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::Error::other("it is not a folder of this user"));
    }
    Ok(())
}

/// Whether the folder beside `dir` is ours, or not there yet.
pub(super) fn look_private(dir: &Path) -> Result<(), Fault> {
    let private = dir.parent().unwrap_or(dir).join(PRIVATE);
    match is_ours(&private) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(unusable(&private, &error)),
        _ => Ok(()),
    }
}

fn unusable(path: &Path, error: &io::Error) -> Fault {
    Fault::new(Code::VolumeNotWritable, format!("cannot use the folder `{}`", path.display())).caused_by(error)
}

/// A file appears whole. It has to outlive the process, not the machine, whose containers are gone then too: it is not
/// synced.
fn replace(folder: &Path, name: &str, bytes: &[u8], mode: u32) -> Result<(), Fault> {
    let path = folder.join(name);
    let temporary = folder.join(format!("{TEMPORARY}{:016x}", rand::random::<u64>()));
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let written = os::openat(CWD, &temporary, flags, Bits::empty()).and_then(|fd| {
        os::fchmod(&fd, Bits::from_raw_mode(mode))?;
        Ok(fd)
    });
    let written = written.map_err(io::Error::from).and_then(|fd| File::from(fd).write_all(bytes));
    written.and_then(|()| fs::rename(&temporary, &path)).map_err(|error| {
        let _ = fs::remove_file(&temporary);
        failed(&path, &error)
    })
}

fn failed(path: &Path, error: &io::Error) -> Fault {
    Fault::new(Code::VolumeWriteFailed, format!("`{}` cannot be written", path.display())).caused_by(error)
}

/// The folder of root's alone beside `GMSA_DIR`.
const PRIVATE: &str = "gmsa-sidecar";
/// In it, to say whose it is.
const MARK: &str = ".gmsa-host";
/// In it, for each lease.
const EXTRAS: &str = "lease.json";

#[cfg(test)]
mod tests;
