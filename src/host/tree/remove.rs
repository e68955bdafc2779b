//! Removes a folder with all that is in it, however deep a container has nested it: without recursion, and with few file
//! descriptors. No symbolic link is followed.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{self as os, AtFlags, CWD, Dir, FileType, Mode as Bits, OFlags};
use rustix::io::Errno;

use crate::name::TEMPORARY;

/// Removes `path`, which is a folder.
///
/// # Errors
/// The system's; what is left then can be removed by another call.
pub(super) fn all(path: &Path) -> io::Result<()> {
    let top = open(CWD, path)?;
    // A container that is still at work may go on making folders.
    let end = Instant::now() + LONGEST;
    let late = || if Instant::now() < end { Ok(()) } else { Err(io::Error::from(io::ErrorKind::TimedOut)) };
    loop {
        let children = folders(&top)?;
        if children.is_empty() {
            break;
        }
        for child in children {
            late()?;
            self::child(&top, &child, late)?;
        }
    }
    Ok(os::unlinkat(CWD, path, AtFlags::REMOVEDIR)?)
}

/// Removes a folder in `top`. Its own folders come to the top.
fn child(top: &OwnedFd, name: &CStr, late: impl Fn() -> io::Result<()>) -> io::Result<()> {
    let folder = match open(top, name) {
        Err(Errno::ACCESS) => {
            os::chmodat(top, name, Bits::RWXU, AtFlags::empty())?;
            open(top, name)?
        }
        opened => opened?,
    };
    loop {
        let inner = folders(&folder)?;
        if inner.is_empty() {
            break;
        }
        for inner in inner {
            late()?;
            let other = format!("{TEMPORARY}{:016x}", rand::random::<u64>());
            os::renameat(&folder, inner.as_c_str(), top, other)?;
        }
    }
    Ok(os::unlinkat(top, name, AtFlags::REMOVEDIR)?)
}

/// How long one call goes on.
const LONGEST: Duration = Duration::from_secs(30);

fn open(parent: impl AsFd, name: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    os::openat(parent, name, flags, Bits::empty())
}

/// Removes the files of a folder; returns the first folders in it.
fn folders(folder: &OwnedFd) -> io::Result<Vec<CString>> {
    let mut folders = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if [c".", c".."].contains(&name) {
            continue;
        }
        let is_folder = match entry.file_type() {
            FileType::Unknown => {
                let stat = os::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
                FileType::from_raw_mode(stat.st_mode).is_dir()
            }
            kind => kind.is_dir(),
        };
        if !is_folder {
            os::unlinkat(folder, name, AtFlags::empty())?;
        } else if folders.len() < AT_A_TIME {
            folders.push(name.to_owned());
        }
    }
    Ok(folders)
}

/// How many names are held.
const AT_A_TIME: usize = 1024;
