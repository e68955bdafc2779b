//! A CredSpec as the agent passes it on -> which gMSA, in which folder, with which files.

use serde_json::Value;

use crate::credspec::{CredSpec, LoginSource, Overrides};
use crate::fault::{Code, Fault};
use crate::name::{Account, Domain};

use super::Refused;
use super::daemon::Host;
use super::keeper::Files;
use super::name::Folder;

/// What one CredSpec asks for. A CredSpec is one account here: the first that it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Document {
    /// The gMSA.
    pub account: Account,
    /// Its domain.
    pub domain: Domain,
    /// The folder: the agent looks for `MachineAccountName` in its path, without regard to case.
    pub folder: Folder,
    /// What the document says of the login; without meaning where the request brings one.
    pub login: LoginSource,
    /// What is written: the document's `GmsaSidecar` object over the settings of the host.
    pub files: Files,
}

impl Document {
    /// Reads a document. `host` is what holds where it says nothing.
    pub(super) fn parse(text: &[u8], host: &Host) -> Result<Self, Refused> {
        if text.len() > LIMIT {
            let what = format!("the CredSpec has {} bytes", text.len());
            return Err(Fault::new(Code::CredSpecTooLarge, what).into());
        }
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        let Ok(mut value) = serde_json::from_slice::<Value>(text) else {
            return Err(read(text)); // it says what is wrong
        };
        // Accounts without a name are passed over, as everyone does who reads CredSpecs on Linux.
        if let Some(Value::Array(accounts)) =
            field_mut(&mut value, "ActiveDirectoryConfig").and_then(|it| field_mut(it, "GroupManagedServiceAccounts"))
            && accounts.iter().any(is_named)
        {
            accounts.retain(is_named);
        }
        let spec = CredSpec::parse(value.to_string().as_bytes())?;
        let [account, ..] = spec.accounts() else { return Err(malformed("it names no account")) };
        let machine = field(&value, "DomainJoinConfig").and_then(|it| field(it, "MachineAccountName"));
        let machine = machine.and_then(Value::as_str).unwrap_or_default().parse();
        Ok(Self {
            account: account.clone(),
            domain: spec.domain_of(account).clone(),
            folder: machine.unwrap_or_else(|_| Folder::from(account)),
            login: spec.login().clone(),
            files: files(spec.overrides(), account, host),
        })
    }
}

fn read(text: &[u8]) -> Refused {
    CredSpec::parse(text).err().map_or_else(|| malformed("it is not JSON"), Refused::from)
}

fn is_named(account: &Value) -> bool {
    field(account, "Name").and_then(Value::as_str).is_none_or(|name| !name.is_empty())
}

/// What the document sets, over what holds for the host.
fn files(overrides: &Overrides, account: &Account, host: &Host) -> Files {
    let Host { files: host, services, .. } = host;
    Files {
        owner: overrides.owner.or(host.owner),
        mode: overrides.mode.unwrap_or(host.mode),
        keytab: overrides.keytab.unwrap_or(host.keytab),
        services: overrides.service_tickets.clone().unwrap_or_else(|| services.of(account)),
    }
}

fn malformed(why: &str) -> Refused {
    Fault::new(Code::CredSpecMalformed, "the CredSpec cannot be used").because(why).into()
}

/// Keys compare without case.
fn field<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    let object = value.as_object()?;
    object.get(name).or_else(|| object.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value))
}

fn field_mut<'a>(value: &'a mut Value, name: &str) -> Option<&'a mut Value> {
    let object = value.as_object_mut()?;
    let key = object.keys().find(|key| key.eq_ignore_ascii_case(name))?.clone();
    object.get_mut(&key)
}

/// Bytes of a CredSpec.
const LIMIT: usize = 64 * 1024;

#[cfg(test)]
pub(super) fn sample(account: &str, machine: &str) -> String {
    serde_json::json!({
        "CmsPlugins": ["ActiveDirectory"],
        "DomainJoinConfig": {"MachineAccountName": machine, "DnsName": "example.com", "NetBiosName": "EXAMPLE"},
        "ActiveDirectoryConfig": {
            "GroupManagedServiceAccounts": [{"Name": "", "Scope": "x"}, {"Name": account, "Scope": "example.com"}],
            "HostAccountConfig": {"PluginInput": {
                "CredentialArn": "arn:aws:secretsmanager:eu-central-1:123456789012:secret:gmsa/login-AbCdEf",
            }},
        },
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::{Mode, Owner};

    fn parse(text: &str) -> Result<Document, Refused> {
        Document::parse(text.as_bytes(), &Host::default())
    }

    #[test]
    fn the_folder_is_named_so_that_the_agent_finds_the_machine_account_in_the_path() {
        for (account, machine, folder) in [
            ("WebApp01", "WEBAPP01", "WEBAPP01"),
            ("WebApp01", "WebHost", "WebHost"),
            ("WebApp01", "WebApp01$", "WebApp01$"),
            ("WebApp01", "", "WebApp01"),
            ("WebApp01", "../../etc", "WebApp01"),
            ("WebApp01$", ".gmsa-x", "WebApp01"),
        ] {
            let document = parse(&sample(account, machine)).unwrap();
            assert_eq!((document.folder.as_str(), document.account.as_str()), (folder, "WebApp01"));
        }
    }

    #[test]
    fn the_extra_object_sets_owner_mode_keytab_and_services() {
        let with = |extra: Value| {
            let mut value: Value = serde_json::from_str(&sample("WebApp01", "WebApp01")).unwrap();
            value["gmsaSidecar"] = extra;
            parse(&value.to_string())
        };
        let files = with(serde_json::json!({
            "Owner": ":1654", "MODE": "0640", "Keytab": true, "ServiceTickets": ["MSSQLSvc/db.example.com:1433"],
        }))
        .unwrap()
        .files;
        let uid = rustix::process::geteuid().as_raw();
        assert_eq!(files.owner, Some(Owner { uid, gid: Some(1654) }));
        assert_eq!((files.mode, files.keytab), ("0640".parse::<Mode>().unwrap(), true));
        assert_eq!(files.services[0].to_string(), "MSSQLSvc/db.example.com:1433");
        for bad in [
            serde_json::json!("x"),
            serde_json::json!({"Owner": "root"}),
            serde_json::json!({"Owner": ":"}),
            serde_json::json!({"Mode": "0666"}),
            serde_json::json!({"Keytab": "yes"}),
            serde_json::json!({"X": 1}),
            serde_json::json!({"ServiceTickets": ["HTTP"]}),
            serde_json::json!({"ServiceTickets": (0..33).map(|n| format!("HTTP/web{n}.example.com")).collect::<Vec<_>>()}),
        ] {
            let text = with(bad.clone()).unwrap_err().text();
            assert!(text.starts_with("credspec-malformed: ") && text.contains("GmsaSidecar"), "{bad}: {text}");
        }
        assert_eq!(with(Value::Null).unwrap().files, Files::default());
    }

    #[test]
    fn what_is_no_credspec_is_refused_with_its_own_fault() {
        for bad in ["", "{", "[]", "{}", "\u{feff}", &sample("../x", "x"), &" ".repeat(70_000)] {
            let text = parse(bad).unwrap_err().text();
            assert!(text.starts_with("credspec-"), "{text}");
        }
        let bom = format!("\u{feff}{}", sample("WebApp01", "WebApp01"));
        assert_eq!(parse(&bom).unwrap().account.as_str(), "WebApp01");
    }
}
