//! What to change after a file on the volume could not be written.

use std::io;
use std::path::Path;

use rustix::fs as os;
use rustix::io::Errno;

use super::caller;
use crate::text::shell;

/// The volume itself.
pub(super) fn not_writable(path: &Path, error: &io::Error) -> String {
    let shown = self::path(path);
    match Errno::from_io_error(error) {
        Some(Errno::NOENT) => format!(
            "add a mount point with containerPath {shown} to the sidecar's container in the task definition, or correct \
             GMSA_DIR"
        ),
        Some(Errno::NOTDIR) => format!("correct GMSA_DIR: {shown} is a file, and a folder is expected"),
        Some(Errno::PERM | Errno::ACCESS) => as_whom(path),
        _ => failed(path, error),
    }
}

/// A file on it.
pub(super) fn failed(path: &Path, error: &io::Error) -> String {
    let shown = self::path(path);
    match Errno::from_io_error(error) {
        Some(Errno::NOSPC | Errno::DQUOT) => {
            format!(
                "free space on the volume of {shown} (df -h {shown}); the old tickets stay until new ones are written"
            )
        }
        Some(Errno::ROFS) => format!(
            "remove \"readOnly\": true from the mount point of {shown} in the sidecar's container; the app's may keep it"
        ),
        Some(Errno::PERM | Errno::ACCESS) => as_whom(path),
        _ => format!("check the volume of {shown}: stat -f {shown}"),
    }
}

/// Something else stands at a path.
pub(super) fn taken(path: &Path) -> String {
    format!(
        "rm -r {} on the volume, and mount the volume with \"readOnly\": true into every other container",
        self::path(path)
    )
}

/// A path for a shell.
pub(super) fn path(path: &Path) -> String {
    shell(&path.display().to_string())
}

/// The mode with which everyone may enter a folder.
pub(super) fn open_mode(mode: u32) -> String {
    format!("{:04o}", mode & 0o7777 | 0o055)
}

/// Who has to run the sidecar so that it may write there.
fn as_whom(path: &Path) -> String {
    let seen = path.ancestors().find_map(|path| os::stat(path).ok());
    let shown = self::path(path);
    let Some(stat) = seen else { return format!("let uid {} write {shown}", caller()) };
    let (uid, gid) = (stat.st_uid, stat.st_gid);
    let own = rustix::process::geteuid().as_raw();
    // Group 0 is no group to join for a file.
    if stat.st_mode & 0o070 == 0o070 && gid != 0 {
        format!(
            "set `user` of the sidecar's container to \"{own}:{gid}\" in the task definition: the group {gid} may write \
             {shown}"
        )
    } else if uid != 0 {
        format!("set `user` of the sidecar's container to \"{uid}:{gid}\" in the task definition, the owner of {shown}")
    } else {
        format!("chown {} {shown} on the host or in the image that the volume comes from", caller())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(errno: Errno) -> io::Error {
        errno.into()
    }

    #[test]
    fn each_error_has_its_own_fix_with_a_path_that_can_be_pasted() {
        let path = Path::new("/srv/it's here");
        assert!(not_writable(path, &of(Errno::NOENT)).contains(r"containerPath '/srv/it'\''s here'"));
        assert!(not_writable(path, &of(Errno::ROFS)).contains("readOnly"));
        assert!(failed(path, &of(Errno::NOSPC)).contains("df -h"));
        assert!(taken(path).starts_with(r"rm -r '/srv/it'\''s here'"));
        assert_eq!(open_mode(0o40_700), "0755");
    }

    #[test]
    fn a_group_that_may_write_is_joined_and_an_owner_is_taken() {
        let folder = tempfile::TempDir::new().unwrap();
        let mode = |bits| os::chmod(folder.path(), os::Mode::from_raw_mode(bits)).unwrap();
        mode(0o755);
        let stat = os::stat(folder.path()).unwrap();
        let told = as_whom(folder.path());
        if stat.st_uid == 0 {
            assert!(told.starts_with("chown "), "{told}");
        } else {
            assert!(told.contains(&format!("\"{}:{}\"", stat.st_uid, stat.st_gid)), "{told}");
        }
    }
}
