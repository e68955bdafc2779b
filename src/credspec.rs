//! The CredSpec: which gMSA of which domain, and where the login is.
//!
//! <https://docs.aws.amazon.com/AmazonECS/latest/developerguide/linux-gmsa.html>

mod document;
mod fetch;
mod overrides;
mod reference;
pub mod task;

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use serde_json::Value;
use zeroize::Zeroizing;

use self::document::field;
pub use self::fetch::{fetch, list, object as fetch_object};
pub use self::overrides::Overrides;
pub use self::reference::{Reference, ReferenceError, parse_label, parse_references};
use crate::aws::arn::{SecretArn, placeholder};
use crate::fault::{Code, Fault};
use crate::name::{Account, Domain};
use crate::text::{json_reason, plain};

/// A CredSpec, read and sound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredSpec {
    domain: Domain,
    accounts: Vec<Account>,
    /// The domain of each account, in the same order.
    domains: Vec<Domain>,
    login: LoginSource,
    overrides: Overrides,
}

/// Where the login comes from. The document decides, not the prefix of its reference.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum LoginSource {
    /// Domainless: `HostAccountConfig.PluginInput.CredentialArn`.
    Secret(SecretArn),
    /// Domain-joined: the document names no secret, so the login is the sidecar's own.
    DomainJoined,
    /// Brought by the request that asks for the lease.
    Given(Arc<GivenLogin>),
    /// None is at hand until the next request: a lease goes on with the gMSA's key, if it has that.
    Absent,
}

/// A login that a request brought. It is held in memory only, while a lease uses it.
#[derive(Clone, PartialEq, Eq)]
pub struct GivenLogin {
    /// The account; with a suffix (`user@suffix`) where that is not its domain.
    pub user: String,
    /// Its domain.
    pub domain: Domain,
    /// Its password.
    pub password: Zeroizing<String>,
}

impl fmt::Debug for GivenLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GivenLogin({}@{})", self.user, self.domain)
    }
}

impl Hash for GivenLogin {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.user, &self.domain).hash(state);
    }
}

/// Two CredSpecs name one gMSA: `config-account-twice`.
pub(crate) fn account_twice(account: &Account, one: &str, other: &str) -> Fault {
    // They are read side by side: named in the order of their names, not of their arrival.
    let mut both = [one, other];
    both.sort_unstable();
    let what = format!("two CredSpecs name the gMSA `{account}`");
    let [one, two] = both;
    Fault::new(Code::ConfigAccountTwice, what).because(both.join(" and ")).with_next(format!(
        "remove {one} or {two} from the list of CredSpecs, or correct the account name `{account}` in one of them"
    ))
}

impl CredSpec {
    /// Reads a document of at most 64 KiB. Keys match without case, unknown ones are ignored.
    pub fn parse(document: &[u8]) -> Result<Self, Fault> {
        match Draft::parse(document)? {
            Draft { spec, netbios: None } => Ok(spec),
            Draft { netbios: Some(name), .. } => Err(looks_like_netbios(&name)),
        }
    }

    /// The domain of the gMSAs that name no other (`DomainJoinConfig.DnsName`), and the login's if its secret names
    /// none.
    pub fn domain(&self) -> &Domain {
        &self.domain
    }

    /// The gMSAs, at least one, all different: one lease each.
    pub fn accounts(&self) -> &[Account] {
        &self.accounts
    }

    /// The domain in which a gMSA is looked for: that of its `Scope`, if it is the DNS name of another domain.
    pub fn domain_of(&self, account: &Account) -> &Domain {
        let own = self.accounts.iter().position(|known| known == account).and_then(|place| self.domains.get(place));
        own.unwrap_or(&self.domain)
    }

    /// Where the login comes from.
    pub fn login(&self) -> &LoginSource {
        &self.login
    }

    /// What the document sets for its accounts, where no variable does.
    pub fn overrides(&self) -> &Overrides {
        &self.overrides
    }
}

/// A document that is read, perhaps with a name for its domain that DNS does not know.
struct Draft {
    spec: CredSpec,
    /// `DnsName` without a dot, if nothing else in the document tells the DNS name.
    netbios: Option<String>,
}

impl Draft {
    fn parse(document: &[u8]) -> Result<Self, Fault> {
        if document.len() > LIMIT {
            return Err(too_large());
        }
        let document = document::read(document)?;
        misplaced(&document)?;
        let get = |value: &'_ Value, name: &str| field(value, name).map(|found| found.cloned()).map_err(malformed);
        let join = object(get(&document, "DomainJoinConfig")?, "DomainJoinConfig")?;
        let directory = object(get(&document, "ActiveDirectoryConfig")?, "ActiveDirectoryConfig")?;
        let dns_name = get(&join, "DnsName")?.unwrap_or_default();
        let dns_name = text(&dns_name, DNS_NAME)?;
        let netbios = get(&join, "NetBiosName")?.and_then(|name| name.as_str().map(str::to_owned));
        let entries = entries(get(&directory, "GroupManagedServiceAccounts")?)?;
        let tree = get(&join, "DnsTreeName")?.and_then(|name| name.as_str().map(str::to_owned));
        let known = dns_domain(dns_name, tree.as_deref(), &entries);
        let domain: Domain = known.unwrap_or(dns_name).parse().map_err(|error| {
            malformed(format!("`{DNS_NAME}`: {error}")).with_next(format!(
                "write the DNS name of the Active Directory domain into `{DNS_NAME}`, e.g. corp.example.com"
            ))
        })?;
        let (accounts, domains): (Vec<_>, Vec<_>) = accounts(entries, &domain)?.into_iter().unzip();
        let mut login = login_source(get(&directory, "HostAccountConfig")?)?;
        if let LoginSource::Secret(arn) = &mut login {
            arn.hints.netbios = netbios.or_else(|| (!dns_name.contains('.')).then(|| dns_name.to_owned()));
            if domains.iter().any(|of_account| *of_account != domain) {
                arn.login_domain = Some(domain.clone());
            }
        }
        let overrides = Overrides::read(&document)
            .map_err(|why| malformed(why).with_next("correct the object `GmsaSidecar`, or remove the field"))?;
        let spec = CredSpec { domain, accounts, domains, login, overrides };
        let netbios = (!spec.domain.as_str().contains('.')).then(|| dns_name.to_owned());
        Ok(Self { spec, netbios })
    }

    /// The CredSpec, once something else has told the domain's DNS name.
    fn of_domain(mut self, domain: Domain) -> CredSpec {
        for own in self.spec.domains.iter_mut().filter(|own| **own == self.spec.domain) {
            own.clone_from(&domain);
        }
        self.spec.domain = domain;
        self.spec
    }
}

const DNS_NAME: &str = "DomainJoinConfig.DnsName";
const ACCOUNTS: &str = "ActiveDirectoryConfig.GroupManagedServiceAccounts";
const PLUGIN_INPUT: &str = "ActiveDirectoryConfig.HostAccountConfig.PluginInput";

fn looks_like_netbios(name: &str) -> Fault {
    let why = format!("`{DNS_NAME}` is `{}`, which looks like a NetBIOS name: it has no dot", plain(name, 80));
    malformed(why).with_next(format!(
        "write the DNS name of the domain into `{DNS_NAME}` (PowerShell: (Get-ADDomain {}).DNSRoot)",
        plain(name, 80)
    ))
}

/// The DNS name of the domain, where `DnsName` has none: a `Scope`, or the root of the tree if it begins with that
/// name. Nothing else in the document is certain to be this domain's.
fn dns_domain<'a>(dns_name: &'a str, tree: Option<&'a str>, entries: &'a [GmsaElement]) -> Option<&'a str> {
    if dns_name.contains('.') {
        return None;
    }
    let is_it = |name: &&str| {
        name.trim_end_matches('.').split_once('.').is_some_and(|(first, _)| first.eq_ignore_ascii_case(dns_name))
    };
    entries.iter().filter_map(|entry| entry.scope.as_deref()).chain(tree).find(is_it)
}

/// What belongs below `ActiveDirectoryConfig` and stands elsewhere: without it the login would be another one.
fn misplaced(document: &Value) -> Result<(), Fault> {
    for (name, place) in [
        ("HostAccountConfig", "ActiveDirectoryConfig.HostAccountConfig"),
        ("PluginInput", PLUGIN_INPUT),
        ("CredentialArn", "ActiveDirectoryConfig.HostAccountConfig.PluginInput.CredentialArn"),
    ] {
        for found in document::places(document, name) {
            if !found.eq_ignore_ascii_case(place) {
                let fault = malformed(format!("`{}` is not at its place, `{place}`", plain(&found, 200)));
                return Err(fault.with_next(format!("move it to `{place}`")));
            }
        }
    }
    Ok(())
}

/// A field that holds an object; missing is empty.
fn object(value: Option<Value>, name: &str) -> Result<Value, Fault> {
    match value {
        None => Ok(Value::Null),
        Some(value @ Value::Object(_)) => Ok(value),
        Some(value) => Err(of_another_type(name, &value, "an object")),
    }
}

/// `ConvertTo-Json` writes what lies deeper than `-Depth` (2 by default) as the name of a type.
fn of_another_type(name: &str, value: &Value, expected: &str) -> Fault {
    let is_cut_off = |text: &str| text.starts_with("@{") || text.starts_with("System.");
    match value {
        Value::String(text) if is_cut_off(text) => {
            let why =
                format!("`{name}` is a text of PowerShell instead of {expected}: ConvertTo-Json cut the document off");
            malformed(why).with_next("create the document again with ConvertTo-Json -Depth 10")
        }
        _ => malformed(format!("`{name}` is not {expected}")),
    }
}

/// An element of `GroupManagedServiceAccounts`.
struct GmsaElement {
    name: Account,
    scope: Option<String>,
}

/// PowerShell writes a list of one as the element itself.
fn entries(list: Option<Value>) -> Result<Vec<GmsaElement>, Fault> {
    let list = match list {
        None => return Err(malformed(format!("`{ACCOUNTS}` is missing"))),
        Some(Value::Array(entries)) => entries,
        Some(entry @ Value::Object(_)) => vec![entry],
        Some(value) => return Err(of_another_type(ACCOUNTS, &value, "an array")),
    };
    let mut entries = Vec::new();
    for (place, entry) in list.iter().enumerate() {
        let path = format!("{ACCOUNTS}[{place}]");
        if !entry.is_object() {
            return Err(of_another_type(&path, entry, "an object"));
        }
        let get = |name| field(entry, name).map_err(|why| malformed(format!("`{path}`: {why}")));
        let path = format!("{path}.Name");
        let name = text(get("Name")?.unwrap_or(&Value::Null), &path)?;
        let name = name.parse().map_err(|error| malformed(format!("`{path}`: {error}")))?;
        let scope = get("Scope")?.and_then(Value::as_str).map(str::to_owned);
        entries.push(GmsaElement { name, scope });
    }
    if entries.is_empty() { Err(malformed(format!("`{ACCOUNTS}` is empty"))) } else { Ok(entries) }
}

/// One account is usually listed twice, with the domain's NetBIOS name and its DNS name as `Scope`. A `Scope` that is
/// the DNS name of another domain is where the account is.
fn accounts(entries: Vec<GmsaElement>, domain: &Domain) -> Result<Vec<(Account, Domain)>, Fault> {
    let mut accounts: Vec<(Account, Option<Domain>)> = Vec::new();
    for GmsaElement { name, scope } in entries {
        let scope = scope.filter(|scope| scope.contains('.')).and_then(|scope| scope.parse::<Domain>().ok());
        match accounts.iter_mut().find(|(known, _)| known.same_as(name.as_str())) {
            None => accounts.push((name, scope)),
            // The document's own domain goes before another one.
            Some((_, known)) if known.is_none() || scope.as_ref() == Some(domain) => *known = scope.or(known.take()),
            Some(_) => {}
        }
    }
    if accounts.len() > MOST_ACCOUNTS {
        let fault = malformed(format!("it names {} gMSAs; a CredSpec may name {MOST_ACCOUNTS}", accounts.len()));
        return Err(fault.with_next("split it into several CredSpecs"));
    }
    Ok(accounts.into_iter().map(|(name, scope)| (name, scope.unwrap_or_else(|| domain.clone()))).collect())
}

/// `HostAccountConfig` is an object whose `PluginInput` is an object, or (as Windows has it) a string that holds one;
/// or, alone, the ARN or the name of the secret.
fn login_source(host: Option<Value>) -> Result<LoginSource, Fault> {
    const HOST: &str = "ActiveDirectoryConfig.HostAccountConfig";
    let host = object(host, HOST)?;
    if host.as_object().is_none_or(serde_json::Map::is_empty) {
        return Ok(LoginSource::DomainJoined);
    }
    let get = |value: &Value, name: &str| field(value, name).map(|found| found.cloned()).map_err(malformed);
    let plugin = get(&host, "PluginGUID")?.and_then(|guid| guid.as_str().map(str::to_owned)).unwrap_or_default();
    let other = PLUGINS.iter().find(|(guid, _)| plugin.trim_matches(['{', '}']).eq_ignore_ascii_case(guid));
    let of_another_plugin = || other.map(|(_, of)| another_plugin(of));
    let missing = |why: String| {
        let fault = Fault::new(Code::CredSpecCredentialArnMissing, "The CredSpec does not name the login's secret");
        fault.because(why).with_next(format!(
            "write the ARN of the login's secret into `{PLUGIN_INPUT}.CredentialArn`, or remove `{HOST}` if the login \
             is the host's keytab"
        ))
    };
    let decoded;
    let input = match get(&host, "PluginInput")? {
        None => return Err(of_another_plugin().unwrap_or_else(|| missing(format!("`{HOST}` has no `PluginInput`")))),
        Some(Value::String(text)) if !text.trim_start().starts_with('{') => {
            return login_in_words(&text, of_another_plugin());
        }
        Some(Value::String(text)) => {
            decoded = serde_json::from_str(&text)
                .map_err(|error| malformed(format!("`{PLUGIN_INPUT}` is a string in which {}", json_reason(&error))))?;
            decoded
        }
        Some(input) => input,
    };
    if !input.is_object() {
        return Err(of_another_plugin().unwrap_or_else(|| of_another_type(PLUGIN_INPUT, &input, "an object")));
    }
    let arn = match get(&input, "CredentialArn")? {
        Some(arn) => arn,
        None => {
            let keys: Vec<_> = input.as_object().into_iter().flatten().map(|(key, _)| plain(key, 40)).collect();
            let keys = if keys.is_empty() { "none".to_owned() } else { keys.join(", ") };
            let why = format!("`{PLUGIN_INPUT}` has no `CredentialArn`; its keys: {keys}");
            return Err(of_another_plugin().unwrap_or_else(|| missing(why)));
        }
    };
    let path = format!("{PLUGIN_INPUT}.CredentialArn");
    let arn = text(&arn, &path)?;
    secret_arn(arn, &path).map(LoginSource::Secret)
}

/// `PluginInput` as a text that is not JSON. It may hold a password, so it is never repeated.
fn login_in_words(text: &str, other: Option<Fault>) -> Result<LoginSource, Fault> {
    let text = text.trim();
    if let Some(fault) = other {
        return Err(fault);
    }
    if text.starts_with("System.") || text.starts_with("@{") {
        return Err(of_another_type(PLUGIN_INPUT, &Value::String(text.to_owned()), "an object"));
    }
    if text.is_empty() {
        return Err(malformed(format!("`{PLUGIN_INPUT}` is empty")));
    }
    if !text.starts_with("arn:") && text.split(':').count() == 3 {
        return Err(another_plugin("the sample plugin of Windows, `domain:user:password`"));
    }
    if text.contains("SecretUri=") || text.contains("ObjectId=") {
        return Err(another_plugin("Azure Key Vault"));
    }
    let in_name = |c: char| c.is_ascii_alphanumeric() || "/_+=.@-".contains(c);
    let is_name = text.chars().all(in_name) || text.starts_with("arn:");
    if !is_name {
        let fault = malformed(format!("`{PLUGIN_INPUT}` is neither a JSON object nor the ARN of a secret"));
        return Err(fault.with_next(format!(
            "write {{\"CredentialArn\": \"ARN\"}} into `{PLUGIN_INPUT}`, with the ARN of the login's secret"
        )));
    }
    secret_arn(text, PLUGIN_INPUT).map(LoginSource::Secret)
}

fn secret_arn(text: &str, path: &str) -> Result<SecretArn, Fault> {
    if let Some(placeholder) = placeholder(text) {
        let why = format!("`{path}` is `{}`, in which {placeholder} is a placeholder", plain(text, 300));
        return Err(malformed(why).with_next(format!("write the ARN of the login's secret into `{path}`")));
    }
    text.parse().map_err(|error| {
        malformed(format!("`{path}`: {error}")).with_next(format!(
            "write the ARN of the login's secret into `{path}`; this prints it: aws secretsmanager describe-secret \
             --secret-id NAME --query ARN"
        ))
    })
}

fn another_plugin(of: &str) -> Fault {
    let fault = malformed(format!("`{PLUGIN_INPUT}` is made for another plugin: {of}"));
    fault.with_next(format!(
        "store the login in AWS Secrets Manager, and write {{\"CredentialArn\": \"ARN\"}} with its ARN into `{PLUGIN_INPUT}`"
    ))
}

/// Plugins of CCG that keep the login elsewhere.
const PLUGINS: &[(&str, &str)] = &[
    ("CCC2A336-D7F3-4818-A213-272B7924213E", "Azure Key Vault"),
    ("E4781092-F116-4B79-B55E-28EB6A224E26", "Rancher"),
    ("8019A64C-3F4E-4DE3-AD2B-9A544290E2C3", "Cloud Foundry"),
];

fn text<'a>(value: &'a Value, field: &str) -> Result<&'a str, Fault> {
    match value {
        Value::Null => Err(malformed(format!("`{field}` is missing")).with_next(format!("add `{field}`"))),
        Value::String(text) if text.trim().is_empty() => Err(malformed(format!("`{field}` is empty"))),
        Value::String(text) => Ok(text),
        _ => Err(malformed(format!("`{field}` is not a string"))),
    }
}

fn malformed(why: impl fmt::Display) -> Fault {
    Fault::new(Code::CredSpecMalformed, "The CredSpec cannot be used").because(why)
}

fn too_large() -> Fault {
    let fault = Fault::new(Code::CredSpecTooLarge, format!("The document has more than {LIMIT} bytes"));
    fault.with_next("correct the name: a CredSpec has about a kilobyte, so this is another object")
}

/// Bytes.
const LIMIT: usize = 64 * 1024;

/// One lease each.
const MOST_ACCOUNTS: usize = 64;

#[cfg(test)]
mod tests;
