//! The CredSpec: which gMSA of which domain, and where the login is.
//!
//! <https://docs.aws.amazon.com/AmazonECS/latest/developerguide/linux-gmsa.html>

mod fetch;
mod reference;
pub mod task;

use std::fmt;

use serde_json::Value;

pub use self::fetch::fetch;
pub use self::reference::{Reference, ReferenceError, parse_label, parse_references};
use crate::aws::arn::SecretArn;
use crate::fault::{Code, Fault};
use crate::name::{Account, Domain};
use crate::text::json_reason;

/// A CredSpec, read and sound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredSpec {
    domain: Domain,
    accounts: Vec<Account>,
    login: LoginSource,
}

/// Where the login comes from. The document decides, not the prefix of its reference.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum LoginSource {
    /// Domainless: `HostAccountConfig.PluginInput.CredentialArn`.
    Secret(SecretArn),
    /// Domain-joined: the document names no secret, so the login is the sidecar's own.
    DomainJoined,
}

impl CredSpec {
    /// Reads a document of at most 64 KiB (UTF-8, a BOM is ignored, unknown fields are too).
    pub fn parse(document: &[u8]) -> Result<Self, Fault> {
        if document.len() > LIMIT {
            return Err(too_large());
        }
        let document = document.strip_prefix(b"\xef\xbb\xbf").unwrap_or(document);
        if document.trim_ascii().is_empty() {
            return Err(malformed("it is empty"));
        }
        let document: Value = serde_json::from_slice(document).map_err(|error| malformed(json_reason(&error)))?;
        if !document.is_object() {
            return Err(malformed("it is no JSON object"));
        }
        let domain = text(&document["DomainJoinConfig"]["DnsName"], "DomainJoinConfig.DnsName")?;
        let domain = domain.parse().map_err(|error| malformed(format!("`DomainJoinConfig.DnsName`: {error}")))?;
        let directory = &document["ActiveDirectoryConfig"];
        let accounts = accounts(&directory["GroupManagedServiceAccounts"])?;
        let login = login_source(&directory["HostAccountConfig"]["PluginInput"])?;
        Ok(Self { domain, accounts, login })
    }

    /// The gMSAs' domain (`DomainJoinConfig.DnsName`), and the login's if its secret names none.
    pub fn domain(&self) -> &Domain {
        &self.domain
    }

    /// The gMSAs, at least one, all different: one lease each.
    pub fn accounts(&self) -> &[Account] {
        &self.accounts
    }

    /// Where the login comes from.
    pub fn login(&self) -> &LoginSource {
        &self.login
    }
}

/// One account is usually listed twice, with the domain's NetBIOS name and its DNS name as `Scope`.
fn accounts(list: &Value) -> Result<Vec<Account>, Fault> {
    const FIELD: &str = "ActiveDirectoryConfig.GroupManagedServiceAccounts";
    let entries = match list {
        Value::Null => return Err(malformed(format!("`{FIELD}` is missing"))),
        Value::Array(entries) => entries,
        _ => return Err(malformed(format!("`{FIELD}` is no array"))),
    };
    let mut accounts: Vec<Account> = Vec::new();
    for (place, entry) in entries.iter().enumerate() {
        let field = format!("{FIELD}[{place}].Name");
        let account = text(&entry["Name"], &field)?;
        let account: Account = account.parse().map_err(|error| malformed(format!("`{field}`: {error}")))?;
        if !accounts.iter().any(|known| known.same_as(account.as_str())) {
            accounts.push(account);
        }
    }
    if accounts.is_empty() { Err(malformed(format!("`{FIELD}` is empty"))) } else { Ok(accounts) }
}

/// `PluginInput` is an object, or (as Windows has it) a string that holds one.
fn login_source(input: &Value) -> Result<LoginSource, Fault> {
    const FIELD: &str = "ActiveDirectoryConfig.HostAccountConfig.PluginInput";
    let decoded;
    let input = match input {
        Value::String(text) => {
            decoded = serde_json::from_str(text)
                .map_err(|error| malformed(format!("`{FIELD}` is a string without JSON: {}", json_reason(&error))))?;
            &decoded
        }
        input => input,
    };
    if !input.is_object() && !input.is_null() {
        return Err(malformed(format!("`{FIELD}` is no object")));
    }
    match &input["CredentialArn"] {
        Value::Null => Ok(LoginSource::DomainJoined),
        arn => {
            let field = format!("{FIELD}.CredentialArn");
            let arn = text(arn, &field)?.parse().map_err(|error| malformed(format!("`{field}`: {error}")))?;
            Ok(LoginSource::Secret(arn))
        }
    }
}

fn text<'a>(value: &'a Value, field: &str) -> Result<&'a str, Fault> {
    match value {
        Value::Null => Err(malformed(format!("`{field}` is missing"))),
        Value::String(text) if text.is_empty() => Err(malformed(format!("`{field}` is empty"))),
        Value::String(text) => Ok(text),
        _ => Err(malformed(format!("`{field}` is no string"))),
    }
}

fn malformed(why: impl fmt::Display) -> Fault {
    Fault::new(Code::CredSpecMalformed, "the CredSpec cannot be used").because(why)
}

fn too_large() -> Fault {
    Fault::new(Code::CredSpecTooLarge, format!("the CredSpec is larger than {LIMIT} bytes"))
}

/// Bytes.
const LIMIT: usize = 64 * 1024;

#[cfg(test)]
mod tests;
