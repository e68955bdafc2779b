//! What is taken away again: a lease's files when it ends, half-done files and stale folders at a start.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustix::fs::{self as os, AtFlags, FileType, OFlags};
use rustix::io::Errno;

use super::{CCACHE, KEYTAB, KRB5_CONF, Krb5Conf, Location, OpenFolder, Ownership, Volume};
use super::{failed, read};
use crate::fault::Fault;
use crate::kerberos::ccache::tgt_expires_at;
use crate::kerberos::{CacheImage, KeytabImage};
use crate::name::{Account, TEMPORARY};

/// What this process wrote for one lease.
#[derive(Debug, Clone)]
pub struct Written {
    /// Where, and for whom.
    pub location: Location,
    /// Its tickets.
    pub cache: Arc<CacheImage>,
    /// Its keys.
    pub keytab: Option<Arc<KeytabImage>>,
    /// The `krb5.conf` in its own folder.
    pub conf: Option<Krb5Conf>,
}

/// A folder that a start removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stale {
    /// The folder.
    pub path: PathBuf,
    /// When the TGT in it expired.
    pub expired_at: SystemTime,
}

impl Volume {
    /// Removes a lease's files, and its copies in the root if they are its own, as far as they stand there as this process
    /// wrote them (apps append to a cache); then its folder unless something else is in it. What is gone already is no
    /// fault.
    pub fn remove(&self, written: &Written, at_root: bool) -> Result<(), Fault> {
        let root = self.root().map_err(|error| failed(&self.path, error))?;
        if at_root {
            self.remove_files(&root, written, false)?;
        }
        let mut parents = vec![root];
        for name in written.location.folder.names() {
            let Some(parent) = parents.last() else { break };
            match parent.enter(name.as_str()) {
                Ok(folder) => parents.push(folder),
                Err(Errno::NOENT) => return Ok(()),
                Err(error) => return Err(failed(&parent.path.join(name), error)),
            }
        }
        if let Some(folder) = parents.pop() {
            self.remove_files(&folder, written, true)?;
        }
        for (parent, name) in parents.iter().zip(written.location.folder.names()).rev() {
            match os::unlinkat(&parent.fd, name.as_str(), AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => {}
                // Somebody else keeps something there.
                Err(Errno::NOTEMPTY | Errno::EXIST) => break,
                Err(error) => return Err(failed(&parent.path.join(name), error)),
            }
        }
        Ok(())
    }

    /// Removes the root's `krb5.conf` where it stands as this process wrote it.
    pub fn remove_krb5_conf(&self, conf: &Krb5Conf) -> Result<(), Fault> {
        let root = self.root().map_err(|error| failed(&self.path, error))?;
        let text = conf.to_string();
        self.remove_file(&root, KRB5_CONF, self.ownership, |bytes| bytes == text.as_bytes())
    }

    fn remove_files(&self, folder: &OpenFolder, written: &Written, own: bool) -> Result<(), Fault> {
        let Written { location, cache, keytab, conf } = written;
        let ownership = location.ownership;
        self.remove_file(folder, CCACHE, ownership, |bytes| bytes.starts_with(cache.bytes()))?;
        if let Some(keytab) = keytab {
            self.remove_file(folder, KEYTAB, ownership, |bytes| bytes == keytab.bytes())?;
        }
        if let Some(conf) = conf.as_ref().filter(|_| own) {
            let text = conf.to_string();
            self.remove_file(folder, KRB5_CONF, ownership, |bytes| bytes == text.as_bytes())?;
        }
        Ok(())
    }

    fn remove_file(
        &self,
        folder: &OpenFolder,
        name: &str,
        ownership: Ownership,
        is_it: impl Fn(&[u8]) -> bool,
    ) -> Result<(), Fault> {
        let found = read(&folder.fd, name, OFlags::NOFOLLOW);
        if !found.is_ok_and(|(bytes, stat)| self.is_ours(&stat, ownership) && is_it(&bytes)) {
            return Ok(());
        }
        match os::unlinkat(&folder.fd, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(failed(&folder.path.join(name), error)),
        }
    }

    /// Removes accounts' folders that nobody keeps any more: all in it is ours, and its TGT expired over a day before
    /// `now`. Other sidecars may write to the same volume, so a fresher one may be theirs. `kept` are the folders of
    /// this process's leases, folded.
    pub fn remove_stale(&self, kept: &[String], now: SystemTime) -> Vec<Stale> {
        let mut removed = Vec::new();
        let Ok(root) = self.root() else { return removed };
        let Ok(entries) = os::Dir::read_from(&root.fd) else { return removed };
        for entry in entries.flatten() {
            let Ok(name) = entry.file_name().to_str() else { continue };
            if name.parse::<Account>().is_err() || kept.contains(&name.to_ascii_lowercase()) {
                continue;
            }
            let Ok(folder) = root.enter(name) else { continue };
            let Some(expired_at) = self.expired(&folder) else { continue };
            if now.duration_since(expired_at).is_ok_and(|age| age > STALE) && self.empty(&root, &folder, name) {
                removed.push(Stale { path: folder.path, expired_at });
            }
        }
        removed
    }

    /// When the TGT in a folder expires, if all of that is ours.
    fn expired(&self, folder: &OpenFolder) -> Option<SystemTime> {
        let ours = |stat: &os::Stat| self.is_ours(stat, self.ownership);
        os::fstat(&folder.fd).ok().filter(ours)?;
        for entry in os::Dir::read_from(&folder.fd).ok()? {
            let name = entry.ok()?;
            let name = name.file_name().to_str().ok()?;
            if [".", ".."].contains(&name) {
                continue;
            }
            let stat = os::statat(&folder.fd, name, AtFlags::SYMLINK_NOFOLLOW).ok().filter(ours)?;
            if !FILES.contains(&name) || FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                return None;
            }
        }
        let (bytes, _) = read(&folder.fd, CCACHE, OFlags::NOFOLLOW).ok()?;
        tgt_expires_at(&bytes)
    }

    fn empty(&self, root: &OpenFolder, folder: &OpenFolder, name: &str) -> bool {
        for file in FILES {
            let _ = os::unlinkat(&folder.fd, file, AtFlags::empty());
        }
        os::unlinkat(&root.fd, name, AtFlags::REMOVEDIR).is_ok()
    }

    /// Removes our temporary files, here and in our folders. What cannot be removed does no harm.
    pub(super) fn sweep(&self, folder: &OpenFolder, depth: usize) {
        let Ok(entries) = os::Dir::read_from(&folder.fd) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Ok(stat) = os::statat(&folder.fd, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            let temporary = name.to_bytes().starts_with(TEMPORARY.as_bytes());
            match FileType::from_raw_mode(stat.st_mode) {
                _ if !self.is_ours(&stat, self.ownership) || [c".", c".."].contains(&name) => {}
                FileType::RegularFile if temporary => {
                    let _ = os::unlinkat(&folder.fd, name, AtFlags::empty());
                }
                // No folder of ours is deeper than a lease's.
                FileType::Directory if depth < 2 => {
                    if let Ok(inner) = folder.enter(name) {
                        self.sweep(&inner, depth + 1);
                    }
                    if temporary && depth == 0 {
                        let _ = os::unlinkat(&folder.fd, name, AtFlags::REMOVEDIR);
                    }
                }
                _ => {}
            }
        }
    }

    /// Removes what an earlier process left half-done in a lease's folder: that folder may belong to an owner of its own.
    pub fn sweep_lease(&self, at: &Location) {
        let Ok(folder) = self.root().and_then(|root| root.enter_all(&at.folder)) else { return };
        let ours = os::fstat(&folder.fd).is_ok_and(|stat| self.is_ours(&stat, at.ownership));
        let Some(entries) = ours.then(|| os::Dir::read_from(&folder.fd).ok()).flatten() else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            if name.to_bytes().starts_with(TEMPORARY.as_bytes()) {
                let _ = os::unlinkat(&folder.fd, name, AtFlags::empty());
            }
        }
    }
}

/// All that we write into an account's folder.
const FILES: [&str; 3] = [CCACHE, KEYTAB, KRB5_CONF];

/// How long a TGT has been expired in a folder that nobody keeps any more.
const STALE: Duration = Duration::from_secs(86_400);
