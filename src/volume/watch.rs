//! Changes on the volume, reported by the kernel (inotify(7)).
//!
//! Neighbours may make folders and links on the volume as they like, and each watch costs memory of the kernel's. So only the
//! root and the folders of our own accounts are watched, not what is below them, and never through a symbolic link.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::fs::{self as os};
use rustix::io::Errno;
use tokio::net::unix::pipe::Receiver;

use super::{Location, Volume};

/// What the kernel is asked to report of the volume.
pub struct VolumeWatch {
    kernel: Receiver,
    /// Numbers of the folders' watches.
    folders: Mutex<BTreeSet<i32>>,
}

impl VolumeWatch {
    /// Watches nothing yet. Needs a runtime.
    ///
    /// # Errors
    /// The kernel has no inotify, or no further one for this user.
    pub fn new() -> io::Result<Self> {
        let kernel = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        // Read like a pipe. It is none, which only the unchecked constructor allows.
        Ok(Self { kernel: Receiver::from_owned_fd_unchecked(kernel)?, folders: Mutex::default() })
    }

    /// Watches the volume's root and these folders, and nothing else any more. A folder that is made again
    /// is another one: call it again after each change. It blocks.
    ///
    /// # Errors
    /// The root cannot be watched, or the kernel has no further watches.
    pub fn follow(&self, volume: &Volume, locations: &[Location]) -> io::Result<()> {
        let mut wanted = BTreeSet::new();
        // Links on the way to the volume are the operator's own.
        wanted.insert(self.add(volume.path(), CHANGES)?);
        for Location { folder, ownership, .. } in locations.iter().take(FOLDERS) {
            let ours = volume.root()?.enter_all(folder).and_then(|folder| os::fstat(&folder.fd));
            if !ours.is_ok_and(|stat| volume.is_ours(&stat, *ownership)) {
                continue;
            }
            match self.add(&volume.path().join(folder.path()), CHANGES | WatchFlags::DONT_FOLLOW) {
                Ok(folder) => drop(wanted.insert(folder)),
                // Replaced just now: the root's watch tells of it.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ACCESS) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let mut folders = self.folders.lock().unwrap_or_else(PoisonError::into_inner);
        for gone in folders.difference(&wanted) {
            // The watch of a folder that was removed is gone already.
            let _ = inotify::remove_watch(&self.kernel, *gone);
        }
        *folders = wanted;
        Ok(())
    }

    fn add(&self, path: &Path, flags: WatchFlags) -> Result<i32, Errno> {
        inotify::add_watch(&self.kernel, path, flags)
    }

    /// Waits until something changes. What it reads of a flood of reports is bounded; the rest is another change.
    pub async fn changed(&self) {
        loop {
            if self.kernel.readable().await.is_err() {
                return std::future::pending().await;
            }
            let mut changed = false;
            let mut reports = [0; 16 * 1024];
            for _ in 0..READS {
                match self.kernel.try_read(&mut reports) {
                    Ok(length) => changed |= length > 0,
                    Err(_) => break,
                }
            }
            if changed {
                return;
            }
        }
    }
}

/// Apps read their tickets all the time: opening and reading are no changes.
const CHANGES: WatchFlags = WatchFlags::MODIFY
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::CREATE)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVE)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::ONLYDIR);

/// How many folders are watched at most; in others changes are found by looking.
const FOLDERS: usize = 1000;

/// How often the kernel is read for one change.
const READS: usize = 16;

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "a test plays the neighbour that writes to the volume")]

    use std::os::fd::AsRawFd;
    use std::os::unix::fs::symlink;
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;
    use crate::volume::{LeaseFolder, Mode, Ownership};

    impl VolumeWatch {
        /// How many watches the kernel keeps: `/proc/self/fdinfo` has a line for each.
        fn watches(&self) -> usize {
            let info = format!("/proc/self/fdinfo/{}", self.kernel.as_raw_fd());
            std::fs::read_to_string(info).unwrap().lines().filter(|line| line.starts_with("inotify ")).count()
        }

        async fn reports(&self, change: impl FnOnce()) -> bool {
            // What came before does not count.
            while timeout(Duration::ZERO, self.changed()).await.is_ok() {}
            change();
            // The kernel reports before the change is done.
            timeout(Duration::from_millis(50), self.changed()).await.is_ok()
        }
    }

    fn locations(names: &[&str]) -> Vec<Location> {
        let folder = |name| LeaseFolder::new(&[name]).unwrap();
        let location = |name| Location { folder: folder(name), at_root: false, ownership: Ownership::default() };
        names.iter().map(|name| location(*name)).collect()
    }

    #[tokio::test]
    async fn only_the_root_and_our_own_folders_are_watched_and_no_link_is_followed() {
        let folder = crate::volume::tests::folder();
        let volume = Volume::open(folder.path(), None, Mode::default()).unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["WebApp01", "WebApp01/inner", "somebody"] {
            std::fs::create_dir(path(name)).unwrap();
        }
        for at in 0..100 {
            std::fs::create_dir_all(path(&format!("somebody/{at}/deep/deeper"))).unwrap();
        }
        symlink("/usr", path("WebApp02")).unwrap();
        symlink("/sys", path("WebApp01/link")).unwrap();
        symlink(path("somebody"), path("WebApp03")).unwrap();
        std::fs::write(path("WebApp04"), "a file").unwrap();

        let watch = VolumeWatch::new().unwrap();
        let ours = locations(&["WebApp01", "WebApp02", "WebApp03", "WebApp04", "WebApp05"]);
        for _ in 0..3 {
            watch.follow(&volume, &ours).unwrap();
            assert_eq!(watch.watches(), 2, "the root and one folder");
        }
        let write = |name: &str| {
            let path = folder.path().join(name);
            move || std::fs::write(path, "x").unwrap()
        };
        assert!(watch.reports(write("WebApp01/krb5cc")).await);
        assert!(watch.reports(write("krb5cc")).await);
        assert!(!watch.reports(write("WebApp01/inner/file")).await, "below a folder");
        assert!(!watch.reports(write("somebody/file")).await, "not ours");
        assert!(!watch.reports(|| drop(std::fs::read(path("krb5cc")).unwrap())).await, "read only");

        // Made again, it is another folder.
        std::fs::remove_dir_all(path("WebApp01")).unwrap();
        std::fs::create_dir(path("WebApp01")).unwrap();
        watch.follow(&volume, &ours).unwrap();
        assert_eq!(watch.watches(), 2);
        assert!(watch.reports(write("WebApp01/krb5cc")).await);

        // A lease that has ended, and a folder moved away.
        std::fs::rename(path("WebApp01"), path("moved")).unwrap();
        watch.follow(&volume, &ours).unwrap();
        assert_eq!(watch.watches(), 1);
        assert!(!watch.reports(write("moved/krb5cc")).await);
    }

    #[tokio::test]
    async fn a_flood_of_changes_is_read_in_parts() {
        let folder = crate::volume::tests::folder();
        let volume = Volume::open(folder.path(), None, Mode::default()).unwrap();
        let watch = VolumeWatch::new().unwrap();
        watch.follow(&volume, &[]).unwrap();
        for at in 0..2 * READS * 16 * 1024 / 32 {
            let name = folder.path().join(format!("{at}"));
            std::fs::create_dir(name).unwrap();
        }
        timeout(Duration::from_secs(5), watch.changed()).await.unwrap();
        timeout(Duration::from_secs(5), watch.changed()).await.expect("all was read at once");
    }
}
