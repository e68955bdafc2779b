//! Which folders of the host are mounted into some container: what `/proc/PID/mountinfo` says of all processes
//! (proc_pid_mountinfo(5)).

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// All mounts that some process sees.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mounts {
    /// Ours, to find out where a path lies in its file system.
    own: Vec<Mount>,
    /// Device, and the folder of its file system that is mounted.
    roots: HashSet<(String, PathBuf)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Mount {
    /// `major:minor`
    device: String,
    /// The folder of the file system that is mounted.
    root: PathBuf,
    /// Where.
    point: PathBuf,
}

impl Mounts {
    /// Looks at every process. None where that cannot be known: without the host's own namespace of processes the
    /// containers are out of sight.
    pub fn of_host() -> Option<Self> {
        /// `PROC_PID_INIT_INO` of the kernel's `proc_ns.h`.
        const HOST: &str = "pid:[4026531836]";
        let namespace = fs::read_link("/proc/self/ns/pid").ok()?;
        if namespace != Path::new(HOST) {
            return None;
        }
        let mut seen = HashSet::new();
        let mut mounts = Self { own: parse(&fs::read("/proc/self/mountinfo").ok()?), roots: HashSet::new() };
        for process in fs::read_dir("/proc").ok()?.flatten() {
            let path = process.path();
            let is_process = process.file_name().to_string_lossy().bytes().all(|b| b.is_ascii_digit());
            // Of the processes of one container one is enough.
            let namespace = if is_process { fs::read_link(path.join("ns/mnt")).ok() } else { None };
            let Some(namespace) = namespace else { continue };
            if seen.contains(&namespace) {
                continue;
            }
            // It may have ended; then another one of its namespace is asked.
            if let Ok(text) = fs::read(path.join("mountinfo")) {
                seen.insert(namespace);
                mounts.add(&text);
            }
        }
        Some(mounts)
    }

    /// From texts of `mountinfo`: our own, and those of other processes.
    pub fn of(own: &str, others: &[&str]) -> Self {
        let mut mounts = Self { own: parse(own.as_bytes()), roots: HashSet::new() };
        others.iter().for_each(|text| mounts.add(text.as_bytes()));
        mounts
    }

    fn add(&mut self, text: &[u8]) {
        self.roots.extend(parse(text).into_iter().map(|mount| (mount.device, mount.root)));
    }

    /// Whether a folder, named without links, or one in it is mounted somewhere.
    pub fn has(&self, folder: &Path) -> bool {
        // The last of the deepest: later mounts cover earlier ones.
        let depth = |mount: &&Mount| mount.point.components().count();
        let Some(mount) = self.own.iter().filter(|mount| folder.starts_with(&mount.point)).max_by_key(depth) else {
            return true; // out of sight: nothing is known
        };
        let Ok(inner) = folder.strip_prefix(&mount.point) else { return true };
        let root = mount.root.join(inner);
        self.roots.iter().any(|(device, mounted)| *device == mount.device && mounted.starts_with(&root))
    }
}

fn parse(text: &[u8]) -> Vec<Mount> {
    text.split(|b| *b == b'\n').filter_map(parse_line).collect()
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`
fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|b| *b == b' ').skip(2);
    let device = String::from_utf8(fields.next()?.to_vec()).ok()?;
    let (root, point) = (path(fields.next()?), path(fields.next()?));
    Some(Mount { device, root, point })
}

/// White space and backslashes are written as three octal digits.
fn path(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let octal = |digits: &[u8]| std::str::from_utf8(digits).ok().and_then(|text| u8::from_str_radix(text, 8).ok());
        match (first, tail.get(..3).and_then(octal)) {
            (b'\\', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "\
22 1 259:1 / / rw,noatime shared:1 - xfs /dev/nvme0n1p1 rw
30 22 259:3 /var /var rw shared:5 - ext4 /dev/nvme1n1 rw
31 30 0:40 / /var/tmp rw - tmpfs tmpfs rw
";

    #[test]
    fn a_folder_is_in_use_if_any_process_has_it_or_a_part_of_it() {
        let container = "\
500 400 0:99 / / rw - overlay overlay rw
501 500 259:3 /var/credentials-fetcher/krbdir/abc/My\\040App /var/credentials-fetcher/krbdir ro - ext4 /dev/nvme1n1 rw
502 500 259:1 /var/credentials-fetcher/krbdir/def/WebApp01 /x ro - xfs /dev/nvme0n1p1 rw
";
        let mounts = Mounts::of(OWN, &[OWN, container]);
        let has = |path: &str| mounts.has(Path::new(path));
        assert!(has("/var/credentials-fetcher/krbdir/abc/My App"));
        assert!(has("/var/credentials-fetcher/krbdir/abc"));
        assert!(!has("/var/credentials-fetcher/krbdir/ab"));
        assert!(!has("/var/credentials-fetcher/krbdir/abc/My App/x"));
        assert!(!has("/var/credentials-fetcher/krbdir/def"), "on another device");
        assert!(!has("/var/credentials-fetcher/krbdir/ghi/WebApp01"));
    }

    #[test]
    fn nonsense_is_no_mount() {
        assert_eq!(parse(b"\n1\n1 2\n1 2 3:4\n1 2 3:4 /\n\xff"), []);
        assert_eq!(path(br"/a\134b\011\9"), Path::new("/a\\b\t\\9"));
        assert!(Mounts::default().has(Path::new("/x")), "what is out of sight counts as used");
    }

    #[test]
    fn the_mounts_of_this_machine_are_seen() {
        if let Some(mounts) = Mounts::of_host() {
            assert!(!mounts.own.is_empty() && !mounts.roots.is_empty());
        }
    }
}
