//! Names that the agent sends or that lie on the disk, each a type that cannot steer a path or split a principal.

use std::fmt;
use std::str::FromStr;

use crate::login::secret;
use crate::name::{Account, Domain, NameError, TEMPORARY};

use super::Refused;

/// The id of a lease, and the name of its folder: `[A-Za-z0-9_-]{1,128}`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseId(String);

impl LeaseId {
    /// Twenty lower-case hexadecimal digits that nobody can guess.
    pub fn fresh() -> Self {
        Self(format!("{:016x}{:04x}", rand::random::<u64>(), rand::random::<u16>()))
    }

    /// The id: one plain component of a path.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for LeaseId {
    type Err = Refused;

    fn from_str(value: &str) -> Result<Self, Refused> {
        let plain = value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if !plain || !(1..=128).contains(&value.len()) {
            return Err(Refused::invalid(format!(
                "The lease id {} is not 1 to 128 letters, digits, `-` or `_`",
                quoted(value)
            )));
        }
        Ok(Self(value.to_owned()))
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The folder of one account in a lease: what is mounted into a container.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Folder(String);

impl Folder {
    /// One plain component of a path.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Names that differ in case alone are one folder to the agent, which compares paths without it.
    pub fn same_as(&self, other: &Self) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
    }
}

impl FromStr for Folder {
    type Err = Refused;

    fn from_str(name: &str) -> Result<Self, Refused> {
        let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || "-_. $".contains(c));
        let dots = name.chars().all(|c| c == '.');
        let space = name.starts_with(' ') || name.ends_with(' ');
        let lower = name.to_ascii_lowercase();
        let ours = lower.starts_with(TEMPORARY) || lower.ends_with(super::metadata::SUFFIX);
        if !plain || dots || space || ours || !(1..=64).contains(&name.len()) {
            return Err(Refused::invalid(format!("{} cannot be the name of a folder", quoted(name))));
        }
        Ok(Self(name.to_owned()))
    }
}

impl From<&Account> for Folder {
    /// An account's name is a plain component of a path already.
    fn from(account: &Account) -> Self {
        Self(account.as_str().to_owned())
    }
}

impl fmt::Display for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a login as the agent sends it, taken out of the secret as it stands there: `user`, `user@domain`,
/// `DOMAIN\user`, or `old:new` while the login's name is rotated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoginName {
    /// Who logs in, as spelled in the secret, without what stands before a colon.
    pub spelled: String,
    /// The account's name alone; with its suffix where that is not the login's domain.
    pub user: String,
    /// Who logged in before, if the name is rotated.
    pub old: Option<String>,
}

impl LoginName {
    /// Whether a lease that was made for `user` belongs to this login. AD compares names without case.
    pub fn is(&self, user: &str) -> bool {
        let same = |name: &str| name.to_lowercase() == user.to_lowercase();
        same(&self.user) || self.old.as_deref().is_some_and(same)
    }
}

impl LoginName {
    /// Reads the name of a login of `domain`.
    ///
    /// # Errors
    /// A name that could split a principal.
    pub fn new(value: &str, domain: &Domain) -> Result<Self, Refused> {
        let name = |text: &str| {
            let refuse = |why| Refused::invalid(format!("`username` of the login's secret {why}"));
            secret::given_name(text, domain).map(|name| name.as_str().to_owned()).map_err(refuse)
        };
        match value.split_once(':') {
            None => Ok(Self { user: name(value)?, spelled: value.to_owned(), old: None }),
            Some((_, new)) if new.contains(':') => {
                Err(Refused::invalid("`username` of the login's secret holds several colons"))
            }
            Some((old, new)) => {
                let (old, user) = (name(old)?, name(new)?);
                let old = (old.to_lowercase() != user.to_lowercase()).then_some(old);
                Ok(Self { user, spelled: new.to_owned(), old })
            }
        }
    }
}

/// Where the ticket of a CredSpec in S3 goes: `ARN#LEASE-ID/FOLDER`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ArnTarget {
    /// The ARN of the CredSpec.
    pub arn: String,
    /// The lease, named by the caller.
    pub lease: LeaseId,
    /// The folder in it.
    pub folder: Folder,
}

impl FromStr for ArnTarget {
    type Err = Refused;

    fn from_str(value: &str) -> Result<Self, Refused> {
        let malformed = || Refused::invalid(format!("{} is not like ARN#LEASE-ID/FOLDER", quoted(value)));
        let (arn, path) = value.split_once('#').ok_or_else(malformed)?;
        let (lease, folder) = path.split_once('/').ok_or_else(malformed)?;
        // The characters that a client of this call may count on being refused are a superset of ours.
        if arn.is_empty() || path.contains(['#', '.', ' ', '$']) {
            return Err(malformed());
        }
        Ok(Self { arn: arn.to_owned(), lease: lease.parse()?, folder: folder.parse()? })
    }
}

/// A value from outside, short and without control characters.
pub(super) fn quoted(value: &str) -> String {
    let mut short: String = value.chars().take(80).collect();
    if short.len() < value.len() {
        short.push_str("...");
    }
    format!("`{}`", short.escape_debug())
}

impl From<NameError> for Refused {
    fn from(error: NameError) -> Self {
        Self::invalid(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn fresh_ids_look_like_those_of_credentials_fetcher() {
        let id = LeaseId::fresh();
        assert_eq!(id.as_str().len(), 20);
        assert!(id.as_str().bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)), "{id}");
        assert_ne!(id, LeaseId::fresh());
    }

    #[test]
    fn ids_and_folders_that_could_leave_the_tree_are_refused() {
        for bad in ["", ".", "..", "a/b", "../x", "a\0", "a\n", "a b", "a.b", "é", &"a".repeat(129)] {
            assert!(bad.parse::<LeaseId>().is_err(), "{bad:?}");
        }
        for bad in ["", ".", "..", "a/b", "../x", "a\0", "a\n", " a", "a ", ".gmsa-x", "x_metadata.json", "é"] {
            assert!(bad.parse::<Folder>().is_err(), "{bad:?}");
        }
        for good in ["WebApp01", "WebApp01$", "my app.x"] {
            assert_eq!(good.parse::<Folder>().unwrap().as_str(), good);
        }
    }

    #[test]
    fn a_rotated_name_logs_in_by_its_second_part() {
        let domain = "corp.example.com".parse().unwrap();
        let name = |text: &str| LoginName::new(text, &domain);
        let rotated = name("User01:User02").unwrap();
        assert_eq!((rotated.user.as_str(), rotated.spelled.as_str()), ("User02", "User02"));
        assert!(rotated.is("user01") && rotated.is("USER02") && !rotated.is("user03"));
        let same = name("x:X").unwrap();
        assert_eq!((same.user.as_str(), same.old), ("X", None));
        let plain = name("CORP\\svc fetcher").unwrap();
        assert_eq!((plain.user.as_str(), plain.spelled.as_str()), ("svc fetcher", "CORP\\svc fetcher"));
        for bad in ["", ":", "a:", ":b", "a:b:c", "a/b", "a\nb"] {
            assert!(name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn targets_have_one_hash_and_two_components() {
        let target: ArnTarget = "arn:aws:s3:::b/k.json#lease1/WebApp01".parse().unwrap();
        assert_eq!((target.arn.as_str(), target.lease.as_str()), ("arn:aws:s3:::b/k.json", "lease1"));
        for bad in ["a", "a#b", "a#b/c/d", "a#b#c/d", "#b/c", "a#../c", "a#b/..", "a#b/c d", "a#b/", "a#/c"] {
            assert!(bad.parse::<ArnTarget>().is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_accepted_is_one_component(text in "\\PC{0,40}") {
            let one = |name: &str| {
                let mut components = std::path::Path::new(name).components();
                matches!(components.next(), Some(std::path::Component::Normal(_))) && components.next().is_none()
            };
            if let Ok(id) = text.parse::<LeaseId>() { prop_assert!(one(id.as_str())); }
            if let Ok(folder) = text.parse::<Folder>() { prop_assert!(one(folder.as_str())); }
        }
    }
}
