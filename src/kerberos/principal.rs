//! Names of Kerberos (RFC 4120 section 6).

use std::fmt;

/// Whom a ticket or a key is for. Comparing takes the name type into account; `same_as` does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    pub(crate) name_type: i32,
    pub(crate) components: Vec<String>,
    pub(crate) realm: String,
}

/// An account (RFC 4120 section 6.2).
pub(crate) const NT_PRINCIPAL: i32 = 1;
/// A service with an instance, such as the ticket-granting service.
pub(crate) const NT_SRV_INST: i32 = 2;
/// A name that the KDC looks up, such as an account's `userPrincipalName` (RFC 6806 section 5).
pub(crate) const NT_ENTERPRISE: i32 = 10;

impl Principal {
    pub(crate) fn new<S: Into<String>>(
        name_type: i32,
        components: impl IntoIterator<Item = S>,
        realm: impl Into<String>,
    ) -> Self {
        Self { name_type, components: components.into_iter().map(Into::into).collect(), realm: realm.into() }
    }

    /// `krbtgt/REALM@REALM`, the ticket-granting service of a realm (RFC 4120 section 7.3).
    pub(crate) fn krbtgt(realm: &str) -> Self {
        Self::new(NT_SRV_INST, ["krbtgt", realm], realm)
    }

    /// Whether it is the same name in the same realm: the type is only a hint (RFC 4120 section 6.2).
    pub(crate) fn same_as(&self, other: &Self) -> bool {
        self.realm == other.realm && self.components == other.components
    }

    /// The name without its realm: `ldap/dc1.example.com`. What divides names is escaped within one, as MIT does it.
    pub fn name(&self) -> String {
        let escaped = |component: &String| component.replace('\\', r"\\").replace('/', r"\/").replace('@', r"\@");
        self.components.iter().map(escaped).collect::<Vec<_>>().join("/")
    }

    /// Whether the KDC looks the name up as a user principal name.
    pub(crate) fn is_enterprise(&self) -> bool {
        self.name_type == NT_ENTERPRISE
    }

    /// The salt that the key of a password is made with where the KDC tells none (RFC 4120 section 4). What an
    /// enterprise name stands for only the KDC knows.
    pub(crate) fn default_salt(&self) -> Option<Vec<u8>> {
        (self.name_type != NT_ENTERPRISE).then(|| [&self.realm, &*self.components.concat()].concat().into_bytes())
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name(), self.realm)
    }
}

/// `name/instance@REALM`, for tests.
#[cfg(test)]
impl std::str::FromStr for Principal {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, realm) = text.rsplit_once('@').ok_or("no realm")?;
        let name_type = if name.starts_with("krbtgt/") { NT_SRV_INST } else { NT_PRINCIPAL };
        Ok(Self::new(name_type, name.split('/'), realm))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_principal_reads_as_mit_writes_it() {
        let service = Principal::new(NT_SRV_INST, ["ldap", "dc1.example.com", "example.com"], "EXAMPLE.COM");
        assert_eq!(service.to_string(), "ldap/dc1.example.com/example.com@EXAMPLE.COM");
        assert_eq!(service.default_salt().unwrap(), b"EXAMPLE.COMldapdc1.example.comexample.com");
        let odd = Principal::new(NT_ENTERPRISE, [r"a/b\c@corp.example.net"], "EXAMPLE.COM");
        assert_eq!(odd.to_string(), r"a\/b\\c\@corp.example.net@EXAMPLE.COM");
        assert_eq!(odd.default_salt(), None, "the account is called otherwise");
        let other = Principal { name_type: NT_PRINCIPAL, ..service.clone() };
        assert!(service.same_as(&other) && service != other);
        assert!(!service.same_as(&Principal { realm: "example.com".into(), ..service.clone() }));
    }
}
