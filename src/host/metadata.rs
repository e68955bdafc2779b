//! `<lease id>_metadata.json` in the form of credentials-fetcher, so that one can change over and back while tasks run.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// How the names of the files end.
pub(super) const SUFFIX: &str = "_metadata.json";

/// What stands before the name of a secret in `domainless_user`, where that secret is the login of a joined host.
pub(super) const HOST_SECRET: &str = "awsdomainlessusersecret:";

/// One ticket of a lease, as it stands in the file. What is not ours stays as it was.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Entry {
    /// The file `krb5cc`.
    pub krb_file_path: String,
    /// The gMSA's name.
    pub service_account_name: String,
    /// Its domain.
    pub domain_name: String,
    /// The login's name as the agent sends it; empty on a joined host.
    pub domainless_user: String,
    /// The gMSA's place in the directory, where it is known.
    pub distinguished_name: String,
    /// The ARN of the CredSpec, of leases by ARN.
    pub credspec_info: String,
    /// The ARN of the login's secret, of leases by ARN.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub credential_arn: String,
    /// Fields of other versions.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

#[derive(Serialize, Deserialize)]
struct Document {
    krb_ticket_info: Vec<Entry>,
}

/// Reads a file; an early form is the array alone.
pub(super) fn decode(text: &[u8]) -> Result<Vec<Entry>, serde_json::Error> {
    serde_json::from_slice::<Document>(text)
        .map(|document| document.krb_ticket_info)
        .or_else(|error| serde_json::from_slice(text).map_err(|_| error))
}

/// The file's text.
pub(super) fn encode(entries: &[Entry]) -> Result<Vec<u8>, serde_json::Error> {
    serde_json::to_vec_pretty(&Document { krb_ticket_info: entries.to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read_and_unknown_fields_are_kept() {
        let text = br#"{"krb_ticket_info":[{"krb_file_path":"/k/a/WebApp01/krb5cc","service_account_name":"WebApp01",
            "domain_name":"example.com","domainless_user":"svc","distinguished_name":"","credspec_info":"","later":7}]}"#;
        let entries = decode(text).unwrap();
        assert_eq!((entries[0].domainless_user.as_str(), &entries[0].more["later"]), ("svc", &Value::from(7)));
        let written: Value = serde_json::from_slice(&encode(&entries).unwrap()).unwrap();
        assert_eq!(written, serde_json::from_slice::<Value>(text).unwrap());
        let old = decode(br#"[{"krb_file_path":"/k/a/W/krb5cc","service_account_name":"W"}]"#).unwrap();
        assert_eq!(old[0].service_account_name, "W");
        for bad in ["", "7", "{}", r#"{"krb_ticket_info":7}"#] {
            assert!(decode(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
