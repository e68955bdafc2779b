//! Whose the files are and who may read them; where on the volume a lease writes.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use rustix::fs::Stat;

use crate::name::{Account, RESERVED, TEMPORARY};

/// Where a lease writes, and for whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// Its folder on the volume.
    pub folder: LeaseFolder,
    /// Whether its files are copied to the volume's root.
    pub at_root: bool,
    /// Whose its files are.
    pub ownership: Ownership,
}

/// The owner and mode of what is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Ownership {
    /// The process's own if absent.
    pub owner: Option<Owner>,
    /// The mode of files with tickets or keys.
    pub mode: Mode,
}

/// A folder below the volume's root: the account's name, or one or two names that a caller chose. They steer no path,
/// and none is the name of a file of ours.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseFolder(Vec<String>);

impl LeaseFolder {
    /// `<parent>/<name>`, or `<name>` alone. None if a name is not one: letters, digits, `-`, `_`, `.`, `$` and inner spaces,
    /// at most 128.
    pub fn new(names: &[&str]) -> Option<Self> {
        let is_name = |name: &&str| {
            (1..=128).contains(&name.len())
                && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_. $".contains(c))
                && name.trim() == *name
                && ![".", ".."].contains(name)
                && !name.to_ascii_lowercase().starts_with(TEMPORARY)
                && !RESERVED.iter().any(|file| file.eq_ignore_ascii_case(name))
        };
        let sound = (1..=2).contains(&names.len()) && names.iter().all(is_name);
        sound.then(|| Self(names.iter().map(|name| (*name).to_owned()).collect()))
    }

    /// The folder of an account below the volume's root.
    pub fn of(account: &Account) -> Self {
        Self(vec![account.as_str().to_owned()])
    }

    /// Relative to the volume's root.
    pub fn path(&self) -> PathBuf {
        self.0.iter().collect()
    }

    pub(super) fn names(&self) -> &[String] {
        &self.0
    }

    /// The same for folders that count as one: accounts' names compare without case.
    pub fn folded(&self) -> String {
        self.0.join("/").to_ascii_lowercase()
    }
}

/// Who owns everything that is written: `GMSA_OWNER`, numeric `uid[:gid]`. Without a gid the group stays as the
/// system sets it: the process's, or the folder's if that has the set-group-ID bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Owner {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: Option<u32>,
}

impl Owner {
    /// `uid[:gid]`, or `:gid` for files that stay the process's own: an app reads them by its group.
    ///
    /// # Errors
    /// Anything else.
    pub fn or_group(value: &str) -> Result<Self, &'static str> {
        match value.strip_prefix(':') {
            Some(gid) => format!("{}:{gid}", rustix::process::geteuid().as_raw()).parse(),
            None => value.parse(),
        }
    }

    /// Whether this user may go through a folder; of its groups only the one that is given is known.
    pub(super) fn may_enter(self, folder: &Stat) -> bool {
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mode(pub(super) u32);

impl Mode {
    pub(super) const KRB5_CONF: Self = Self(0o644);
    /// Of a folder around leases' own ones.
    pub(super) const AROUND: Self = Self(0o755);

    /// Who may read a file may find it in its folder; the owner may replace it.
    pub(super) fn of_folder(self) -> Self {
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
