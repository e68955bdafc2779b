//! Where a login comes from, and how it is changed there: for messages.

use std::path::PathBuf;

use serde_json::json;

use crate::aws::arn::{SecretArn, Store};
use crate::fault::Owner;
use crate::name::Domain;
use crate::text::shell;

/// Where a login comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A secret, and whether it names the login's domain itself.
    Secret(Box<SecretArn>, bool),
    /// The keytab in `GMSA_LOGIN_KEYTAB`.
    Keytab(PathBuf),
    /// A caller of this process.
    Request,
}

impl Origin {
    /// `the secret arn:..`.
    pub(crate) fn named(&self) -> String {
        match self {
            Self::Secret(arn, _) => format!("the secret {arn}"),
            Self::Keytab(path) => format!("the keytab `{}` (GMSA_LOGIN_KEYTAB)", path.display()),
            Self::Request => "the request".to_owned(),
        }
    }

    /// Where the login's domain is written.
    pub(crate) fn domain_field(&self) -> String {
        match self {
            Self::Secret(_, true) => format!("`domainName` in {}", self.named()),
            Self::Secret(arn, false) => format!(
                "`DnsName` in {}, since {} has no `domainName`",
                arn.hints.document.as_deref().unwrap_or("the CredSpec"),
                self.named()
            ),
            Self::Keytab(_) => format!("the realm in {}", self.named()),
            Self::Request => "the request".to_owned(),
        }
    }

    /// The same where the place was just named.
    pub(crate) fn short_domain_field(&self) -> &'static str {
        match self {
            Self::Secret(_, true) => "its `domainName`",
            Self::Secret(_, false) => "the CredSpec's `DnsName`, since it has no `domainName`",
            Self::Keytab(_) => "its realm",
            Self::Request => "the request",
        }
    }

    /// How to store a login there: a command where one command is enough.
    pub(crate) fn store(&self, user: &str, domain: &Domain) -> String {
        match self {
            Self::Secret(arn, _) => match &arn.json_key {
                // One command would overwrite the other logins in it.
                Some(key) => format!("change the object under the key `{key}` of {}", self.named()),
                None => store_command(arn, user, domain),
            },
            Self::Keytab(path) => format!("replace the keytab file `{}`", path.display()),
            Self::Request => "send the request again with it".to_owned(),
        }
    }

    /// Who changes the login.
    pub(crate) fn owner(&self) -> Owner {
        match self {
            Self::Secret(..) => Owner::Secret,
            Self::Keytab(_) | Self::Request => Owner::TaskDefinition,
        }
    }
}

/// The command that stores a login in a secret; `PASSWORD` stands for the password.
pub(crate) fn store_command(arn: &SecretArn, user: &str, domain: &Domain) -> String {
    let region = arn.region.as_deref().map(|region| format!(" --region {region}")).unwrap_or_default();
    let login = json!({"username": user, "password": "PASSWORD", "domainName": domain.as_str()}).to_string();
    match arn.store {
        Store::SecretsManager => format!(
            "aws secretsmanager put-secret-value{region} --secret-id {} --secret-string {}",
            shell(&arn.arn),
            shell(&login)
        ),
        Store::Parameter => {
            let name = arn.arn.split_once(":parameter").map_or(arn.arn.as_str(), |(_, name)| name);
            format!(
                "aws ssm put-parameter{region} --overwrite --type SecureString --name {} --value {}",
                shell(name),
                shell(&login)
            )
        }
    }
}
