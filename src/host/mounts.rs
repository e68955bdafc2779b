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
    /// `ext4`, `overlay`, ...
    kind: String,
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
        // Out of sight: nothing is known.
        let Some((mount, root)) = place(&self.own, folder) else { return true };
        self.roots.iter().any(|(device, mounted)| *device == mount.device && mounted.starts_with(&root))
    }

    /// Whether a file itself is mounted somewhere.
    pub fn has_file(&self, file: &Path) -> bool {
        place(&self.own, file).is_some_and(|(mount, root)| self.roots.contains(&(mount.device.clone(), root)))
    }

    /// Whether a file that stood at this path before, and was removed, is mounted somewhere: the kernel says so behind its
    /// name.
    pub fn has_former(&self, file: &Path) -> bool {
        place(&self.own, file).is_some_and(|(mount, root)| {
            let former = PathBuf::from(format!("{}//deleted", root.display()));
            self.roots.contains(&(mount.device.clone(), former))
        })
    }
}

/// The mount that a path lies on, and where it is in that file system.
fn place<'a>(mounts: &'a [Mount], path: &Path) -> Option<(&'a Mount, PathBuf)> {
    // The last of the deepest: later mounts cover earlier ones.
    let depth = |mount: &&Mount| mount.point.components().count();
    let mount = mounts.iter().filter(|mount| path.starts_with(&mount.point)).max_by_key(depth)?;
    let inner = path.strip_prefix(&mount.point).ok()?;
    // A file that is mounted is the root itself.
    let root = if inner.as_os_str().is_empty() { mount.root.clone() } else { mount.root.join(inner) };
    Some((mount, root))
}

/// Where a folder lies, seen from a process that may be in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Whereabouts {
    /// On the host, at the same path as far as can be seen.
    OfHost,
    /// In a file system that ends with the container.
    OwnOfContainer,
    /// On the host, at another path.
    Elsewhere(PathBuf),
}

impl Whereabouts {
    /// By the text of `/proc/self/mountinfo`.
    pub(super) fn of(path: &Path, text: &str) -> Self {
        let mounts = parse(text.as_bytes());
        let root = mounts.iter().rev().find(|mount| mount.point == Path::new("/"));
        if root.is_none_or(|root| root.kind != "overlay") {
            return Self::OfHost; // no container
        }
        match place(&mounts, path) {
            Some((mount, _)) if mount.kind == "overlay" => Self::OwnOfContainer,
            // The folder may be in a file system of its own on the host: then the end of its path is what is known.
            Some((mount, root)) if !mount.point.ends_with(mount.root.strip_prefix("/").unwrap_or(&mount.root)) => {
                Self::Elsewhere(root)
            }
            _ => Self::OfHost,
        }
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
    let kind = fields.skip_while(|field| *field != b"-").nth(1).unwrap_or_default();
    let kind = String::from_utf8_lossy(kind).into_owned();
    Some(Mount { device, root, point, kind })
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
    fn a_socket_is_seen_in_a_container_and_so_is_one_that_is_gone() {
        let socket = Path::new("/var/credentials-fetcher/socket/cf.sock");
        let container = |root: &str| {
            format!("501 500 259:3 {root} /var/credentials-fetcher/socket/cf.sock rw - ext4 /dev/nvme1n1 rw\n")
        };
        let own = OWN.replace("259:3 /var /var", "259:3 /lib /var");
        let seen = |root: &str| {
            let mounts = Mounts::of(&own, &[&container(root)]);
            (mounts.has_file(socket), mounts.has_former(socket))
        };
        assert_eq!(seen("/lib/credentials-fetcher/socket/cf.sock"), (true, false));
        assert_eq!(seen("/lib/credentials-fetcher/socket/cf.sock//deleted"), (false, true));
        assert_eq!(seen("/lib/credentials-fetcher/socket"), (false, false));
        assert_eq!(seen("/credentials-fetcher/socket/cf.sock"), (false, false));
    }

    #[test]
    fn a_folder_of_a_container_is_told_from_one_of_the_host() {
        let of = |mounts: &str| {
            let text = format!("1 0 0:50 / / rw - overlay overlay rw\n{mounts}");
            Whereabouts::of(Path::new("/var/credentials-fetcher/krbdir"), &text)
        };
        let mount = |root: &str| {
            format!("2 1 259:1 {root} /var/credentials-fetcher rw,relatime shared:1 - xfs /dev/nvme0n1p1 rw\n")
        };
        assert_eq!(of(""), Whereabouts::OwnOfContainer);
        assert_eq!(of(&mount("/var/credentials-fetcher")), Whereabouts::OfHost);
        assert_eq!(of(&mount("/credentials-fetcher")), Whereabouts::OfHost, "/var is a file system of its own");
        assert_eq!(of(&mount("/")), Whereabouts::OfHost, "and so is the folder");
        assert_eq!(of(&mount("/data/gmsa")), Whereabouts::Elsewhere("/data/gmsa/krbdir".into()));
        assert_eq!(Whereabouts::of(Path::new("/x"), OWN), Whereabouts::OfHost, "no container");
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
