//! Names that come from outside, each a type that cannot hold a dangerous value.
//!
//! Whatever reaches a path, an LDAP filter, a DNS question or a `krb5.conf` has passed one of these first.

use std::fmt;
use std::str::FromStr;

/// A name was refused; the message says why and quotes the name with its control characters escaped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} `{}` {reason}", .value.escape_debug())]
pub struct NameError {
    kind: &'static str,
    value: String,
    reason: &'static str,
}

fn refuse<T>(kind: &'static str, value: &str, reason: &'static str) -> Result<T, NameError> {
    let value = value.chars().take(80).collect();
    Err(NameError { kind, value, reason })
}

/// A gMSA's account name in the CredSpec's spelling, without the trailing `$`.
///
/// Letters, digits, `-`, `_`, `.` and inner spaces, at most 20 characters with the `$` (`sAMAccountName` of
/// MS-ADTS 3.1.1.3.1.2.2 without what could steer a path or a filter). It names the account's folder on the volume.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Account(String);

impl Account {
    /// The name without `$`: the folder on the volume.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The directory's spelling: with the `$`.
    pub fn sam_account_name(&self) -> String {
        format!("{}$", self.0)
    }

    /// AD compares account names without case.
    pub fn same_as(&self, other: &str) -> bool {
        self.0.eq_ignore_ascii_case(other.strip_suffix('$').unwrap_or(other))
    }
}

impl FromStr for Account {
    type Err = NameError;

    fn from_str(value: &str) -> Result<Self, NameError> {
        const KIND: &str = "account name";
        let name = value.strip_suffix('$').unwrap_or(value);
        if name.is_empty() {
            return refuse(KIND, value, "is empty");
        }
        if name.len() > 19 {
            return refuse(KIND, value, "is longer than 20 characters with its `$`");
        }
        if !name.chars().all(|c| c.is_ascii_alphanumeric() || "-_. ".contains(c)) {
            return refuse(KIND, value, "may hold only letters, digits, `-`, `_`, `.` and inner spaces");
        }
        if name.starts_with(' ') || name.ends_with([' ', '.']) {
            return refuse(KIND, value, "may not begin with a space, nor end with a space or a dot");
        }
        if name.to_ascii_lowercase().starts_with(TEMPORARY) {
            return refuse(KIND, value, "is the name of a temporary file of the volume");
        }
        if RESERVED.iter().any(|file| file.eq_ignore_ascii_case(name)) {
            return refuse(KIND, value, "is the name of a file of the volume");
        }
        Ok(Self(name.to_owned()))
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How the temporary names on the volume begin.
pub const TEMPORARY: &str = ".gmsa-";

/// The files of the volume's root: no account may be called like one.
pub const RESERVED: [&str; 3] = ["krb5cc", "krb5.conf", "krb5.keytab"];

/// An AD domain's DNS name, lower case. Its [`realm`](Domain::realm) is the same in upper case.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Domain(String);

impl Domain {
    /// The lower-case DNS name, without a trailing dot.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The Kerberos realm: AD's is always the domain in upper case (MS-KILE 3.3.5.1.1).
    pub fn realm(&self) -> String {
        self.0.to_ascii_uppercase()
    }

    /// The distinguished name of the domain's root, `DC=corp,DC=example,DC=com` (RFC 2247).
    pub fn base_dn(&self) -> String {
        let labels: Vec<_> = self.0.split('.').map(|label| format!("DC={label}")).collect();
        labels.join(",")
    }
}

impl FromStr for Domain {
    type Err = NameError;

    fn from_str(value: &str) -> Result<Self, NameError> {
        dns_name("domain", value).map(Self)
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A host's DNS name, lower case, without a trailing dot.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Host(String);

impl Host {
    /// The lower-case DNS name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Host {
    type Err = NameError;

    fn from_str(value: &str) -> Result<Self, NameError> {
        dns_name("host name", value).map(Self)
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a service, `MSSQLSvc/db.corp.example.com:1433`, without a realm (MS-ADTS 2.2.21): a class, the host or
/// what else the service is called, perhaps with a port or an instance, perhaps a third part. It keeps its case, which
/// AD does not compare.
///
/// Letters, digits, `-`, `_`, `.`, and behind the class `:`; at most 260 characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Spn(String);

const SQL_SERVER: &str = "MSSQLSvc";
const SQL_PORT: &str = "1433";

impl Spn {
    /// Class, host and perhaps a third part.
    pub fn components(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }

    /// AD compares names of services without case.
    pub fn same_as(&self, other: &str) -> bool {
        self.0.eq_ignore_ascii_case(other)
    }

    /// SQL Server's other name, which another driver asks for: ODBC, JDBC and Go ask with the port, .NET's SqlClient
    /// without it. `MSSQLSvc/HOST` and `MSSQLSvc/HOST:1433` are twins; any other port and an instance have none, since
    /// the name without it is that of the default instance.
    pub fn twin(&self) -> Option<Self> {
        let mut components = self.components();
        let (class, host) = (components.next()?, components.next()?);
        if !class.eq_ignore_ascii_case(SQL_SERVER) || components.next().is_some() {
            return None;
        }
        match host.split_once(':') {
            None => Some(Self(format!("{class}/{host}:{SQL_PORT}"))),
            Some((name, SQL_PORT)) if !name.is_empty() => Some(Self(format!("{class}/{name}"))),
            Some(_) => None,
        }
    }

    /// What is unusual about the name, for a KDC that does not know it.
    pub fn hint(&self) -> Option<String> {
        let mut components = self.components();
        let (class, host) = (components.next()?, components.next()?);
        let name = host.split(':').next()?;
        if !name.contains('.') {
            return Some("clients ask with the full DNS name of the host, and this one has no domain".to_owned());
        }
        let twin = self.twin()?;
        Some(match host.contains(':') {
            true => format!("SqlClient asks for `{twin}`; ODBC, JDBC and Go ask for the name with the port"),
            false => format!("ODBC, JDBC and Go ask for `{twin}`; only SqlClient asks for `{class}/{host}`"),
        })
    }
}

impl FromStr for Spn {
    type Err = NameError;

    fn from_str(value: &str) -> Result<Self, NameError> {
        const KIND: &str = "service principal name";
        if value.len() > 260 {
            return refuse(KIND, value, "is longer than 260 characters");
        }
        if value.contains('@') {
            return refuse(KIND, value, "names a realm: leave it out, the KDCs know where the service is");
        }
        let mut parts = value.split('/');
        let plain = |part: &str, more: &str| {
            !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c) || more.contains(c))
        };
        let class = parts.next().is_some_and(|class| plain(class, ""));
        let count = parts.clone().count();
        if !class || !(1..=2).contains(&count) || !parts.all(|part| plain(part, ":")) {
            return refuse(KIND, value, "is not like `HTTP/web.example.com` or `MSSQLSvc/db.example.com:1433`");
        }
        if value.to_ascii_lowercase().starts_with("krbtgt/") {
            return refuse(KIND, value, "is the ticket-granting service itself");
        }
        Ok(Self(value.to_owned()))
    }
}

impl fmt::Display for Spn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of an AD site: one label, since it becomes part of names in DNS (MS-ADTS 6.1.1.2.2.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteName(String);

impl SiteName {
    /// In the spelling it came in; DNS compares without case.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SiteName {
    type Err = NameError;

    fn from_str(value: &str) -> Result<Self, NameError> {
        if value.contains('.') {
            return refuse("site", value, "may not hold dots");
        }
        dns_name("site", value)?;
        Ok(Self(value.to_owned()))
    }
}

impl fmt::Display for SiteName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// RFC 1123 labels; `_` is allowed because AD allows it in domain names of old (MS-ADTS 3.1.1.1.5).
fn dns_name(kind: &'static str, value: &str) -> Result<String, NameError> {
    let name = value.strip_suffix('.').unwrap_or(value);
    if name.is_empty() {
        return refuse(kind, value, "is empty");
    }
    if name.len() > 253 {
        return refuse(kind, value, "is longer than 253 characters");
    }
    let good = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if !name.split('.').all(good) {
        return refuse(kind, value, "is not made of DNS labels");
    }
    Ok(name.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn accounts_that_directories_hold_are_accepted() {
        for (given, name) in [
            ("WebApp01", "WebApp01"),
            ("WebApp01$", "WebApp01"),
            ("my app_1.x", "my app_1.x"),
            (".net-app", ".net-app"),
        ] {
            assert_eq!(given.parse::<Account>().unwrap().as_str(), name);
        }
    }

    #[test]
    fn accounts_that_could_steer_a_path_or_a_filter_are_refused() {
        let bad = [
            "",
            "$",
            ".",
            "..",
            "../../x",
            "a/b",
            "*)(objectClass=*",
            "a\0b",
            "a\nb",
            " a",
            "a ",
            ".gmsa-x",
            "krb5cc",
            "KRB5.conf",
            "krb5.keytab$",
            "abcdefghijklmnopqrst",
            "wëb",
        ];
        for name in bad {
            assert!(name.parse::<Account>().is_err(), "{name:?} was accepted");
        }
    }

    #[test]
    fn domains_are_lower_cased_and_checked() {
        let domain: Domain = "Corp.Example.COM.".parse().unwrap();
        assert_eq!((domain.as_str(), domain.realm().as_str()), ("corp.example.com", "CORP.EXAMPLE.COM"));
        assert_eq!(domain.base_dn(), "DC=corp,DC=example,DC=com");
        for name in ["", ".", "a..b", "a b", "a\n.b", "-a.b", "a,DC=x", "[realms]", &"a".repeat(64)] {
            assert!(name.parse::<Domain>().is_err(), "{name:?} was accepted");
        }
    }

    #[test]
    fn names_of_services_are_checked_and_keep_their_case() {
        for good in ["HTTP/web.example.com", "MSSQLSvc/db.example.com:1433", "ldap/dc1.example.com/example.com", "a/b"]
        {
            assert_eq!(good.parse::<Spn>().unwrap().to_string(), good);
        }
        let bad = [
            "",
            "/",
            "HTTP",
            "HTTP/",
            "/web",
            "HTTP/web@EXAMPLE.COM",
            "a:b/c",
            "a/b/c/d",
            "a/b c",
            "a/(b)",
            "krbtgt/A.B",
        ];
        for bad in bad {
            assert!(bad.parse::<Spn>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn sql_server_has_a_name_with_the_port_and_one_without() {
        let twin = |spn: &str| spn.parse::<Spn>().unwrap().twin().map(|spn| spn.to_string());
        assert_eq!(twin("MSSQLSvc/db.example.com").as_deref(), Some("MSSQLSvc/db.example.com:1433"));
        assert_eq!(twin("mssqlsvc/DB.example.com:1433").as_deref(), Some("mssqlsvc/DB.example.com"));
        let alone = [
            "MSSQLSvc/db.example.com:1434",
            "MSSQLSvc/db.example.com:PROD",
            "MSSQLSvc/db.example.com:",
            "MSSQLSvc/:1433",
            "MSSQLSvc/db.example.com/example.com",
            "HTTP/web.example.com",
            "HTTP/web.example.com:1433",
        ];
        for spn in alone {
            assert_eq!(twin(spn), None, "{spn}");
        }
    }

    #[test]
    fn a_hint_names_what_the_drivers_ask_for() {
        let hint = |spn: &str| spn.parse::<Spn>().unwrap().hint();
        let without = hint("mssqlsvc/db.example.com").unwrap();
        assert_eq!(
            without,
            "ODBC, JDBC and Go ask for `mssqlsvc/db.example.com:1433`; only SqlClient asks for `mssqlsvc/db.example.com`"
        );
        let with = hint("MSSQLSvc/db.example.com:1433").unwrap();
        assert!(with.starts_with("SqlClient asks for `MSSQLSvc/db.example.com`;"), "{with}");
        assert!(hint("HTTP/web").unwrap().contains("full DNS name"));
        assert!(hint("MSSQLSvc/db:1433").unwrap().contains("full DNS name"));
        assert_eq!((hint("MSSQLSvc/db.example.com:PROD"), hint("HTTP/web.example.com")), (None, None));
    }

    #[test]
    fn a_refusal_quotes_control_characters_escaped() {
        let error = "evil\n[libdefaults]".parse::<Domain>().unwrap_err().to_string();
        assert_eq!(error, "domain `evil\\n[libdefaults]` is not made of DNS labels");
    }

    proptest! {
        #[test]
        fn an_accepted_account_is_one_plain_path_component(value in ".{0,30}") {
            if let Ok(account) = value.parse::<Account>() {
                let path = std::path::Path::new(account.as_str());
                prop_assert_eq!(path.components().count(), 1);
                prop_assert!(matches!(path.components().next(), Some(std::path::Component::Normal(_))));
                prop_assert!(!account.as_str().contains(['(', ')', '*', '\\', '\0', '\n']));
            }
        }

        #[test]
        fn an_accepted_domain_holds_nothing_krb5_conf_could_read_as_syntax(value in ".{0,80}") {
            if let Ok(domain) = value.parse::<Domain>() {
                let syntax = b"[]{}=#;\"\\,";
                let plain = domain.as_str().bytes().all(|b| b.is_ascii_graphic() && !syntax.contains(&b));
                prop_assert!(plain);
            }
        }
    }
}
