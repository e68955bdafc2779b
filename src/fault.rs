//! Faults: everything that can go wrong, as the on-call engineer reads it.
//!
//! A [`Fault`] has a stable [`Code`] whose prefix is the step that failed, *what* failed, *why*, and through its
//! code what to do *next*, who owns the cure and whether trying again can help. [`Code::ALL`] is the registry that
//! `docs/faults.md` is generated from.

pub mod manual;

use std::error::Error;
use std::fmt;
use std::time::SystemTime;

use serde::ser::{Serialize, SerializeStruct, Serializer};

use crate::clock;

/// One failure. It names principals, hosts, ARNs and files, never a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The stable code.
    pub code: Code,
    /// What failed, one sentence without a full stop.
    pub what: String,
    /// Why, as far as known: the answer of the other side, the system's error.
    pub why: Option<String>,
    /// What to change in this very case, with its real values; without it the general advice of the code stands.
    pub fix: Option<String>,
    /// Who has to change it in this very case, where it is not who the code says.
    pub owner: Option<Owner>,
    /// When it is tried again; none if that takes a change and a new task.
    pub next_attempt_at: Option<SystemTime>,
}

impl Fault {
    /// A fault whose cause is told by `what` alone.
    pub fn new(code: Code, what: impl Into<String>) -> Self {
        Self { code, what: what.into(), why: None, fix: None, owner: None, next_attempt_at: None }
    }

    /// Says what to change in this very case: one fix, with the real values, that can be pasted.
    #[must_use]
    pub fn with_next(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }

    /// Says who has to change it, where the case decides and not the code.
    #[must_use]
    pub fn owned_by(mut self, owner: Owner) -> Self {
        self.owner = Some(owner);
        self
    }

    /// Says when it is tried again.
    #[must_use]
    pub fn tried_again_at(mut self, when: Option<SystemTime>) -> Self {
        self.next_attempt_at = when;
        self
    }

    /// Adds why it happened.
    #[must_use]
    pub fn because(mut self, why: impl fmt::Display) -> Self {
        self.why = Some(why.to_string());
        self
    }

    /// Adds why it happened: an error with its chain of sources, outermost first.
    #[must_use]
    pub fn caused_by(self, error: &(dyn Error + 'static)) -> Self {
        let mut causes = vec![error.to_string()];
        let mut source = error.source();
        while let Some(cause) = source {
            // Many errors repeat their source in their own text.
            let text = cause.to_string();
            if !causes.iter().any(|told| told.contains(&text)) {
                causes.push(text);
            }
            source = cause.source();
        }
        self.because(causes.join(": "))
    }

    /// Whether it tells the same as another, whatever the reason of the moment: then it is no news.
    pub fn is_like(&self, other: &Self) -> bool {
        self.code == other.code && self.what == other.what
    }

    /// What to do next: the fix of this very case, or the general advice of the code.
    pub fn next(&self) -> &str {
        self.fix.as_deref().unwrap_or(self.code.entry().next)
    }

    /// Whether it is tried again, and how soon: a fault of the configuration that does not end the process is.
    pub fn retry(&self) -> Retry {
        match self.code.retry() {
            Retry::Never if self.next_attempt_at.is_some() => Retry::Slowly,
            retry => retry,
        }
    }

    /// Who has to change something.
    pub fn owner(&self) -> Owner {
        self.owner.unwrap_or(self.code.entry().owner)
    }
}

impl fmt::Display for Fault {
    /// The form for people, on several lines: code, what, why, next.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "code={}\n  what: {}", self.code, self.what)?;
        if let Some(why) = &self.why {
            write!(f, "\n  why:  {why}")?;
        }
        write!(f, "\n  next: {}\n  more: gmsa-sidecar explain {}", self.next(), self.code)
    }
}

impl Error for Fault {}

impl Serialize for Fault {
    /// The form for programs: `{"code","what","why","next","owner","retry","next_attempt_at"}`; `why` and
    /// `next_attempt_at` are null where there is none.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Fault", 7)?;
        fields.serialize_field("code", self.code.name())?;
        fields.serialize_field("what", &self.what)?;
        fields.serialize_field("why", &self.why)?;
        fields.serialize_field("next", self.next())?;
        fields.serialize_field("owner", self.owner().name())?;
        fields.serialize_field("retry", self.retry().name())?;
        fields.serialize_field("next_attempt_at", &self.next_attempt_at.map(clock::rfc3339))?;
        fields.end()
    }
}

/// Where the change belongs that ends a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// The task definition: variables, labels, roles, user, volumes.
    TaskDefinition,
    /// Security groups, routes, endpoints, DNS.
    Network,
    /// The CredSpec document.
    CredSpec,
    /// The login's secret or keytab.
    Secret,
    /// Active Directory.
    Directory,
    /// This project.
    Us,
}

impl Owner {
    /// `task-definition`, `network`, `credspec`, `secret`, `directory` or `us`.
    pub fn name(self) -> &'static str {
        match self {
            Self::TaskDefinition => "task-definition",
            Self::Network => "network",
            Self::CredSpec => "credspec",
            Self::Secret => "secret",
            Self::Directory => "directory",
            Self::Us => "us",
        }
    }
}

/// Whether `run` tries again after a fault, and how soon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// It ends: nothing that changes outside can cure it.
    Never,
    /// Within seconds, then less and less often: it may pass by itself, or be cured outside.
    Soon,
    /// After half a minute, then less and less often: asking quickly does harm.
    Slowly,
}

impl Retry {
    /// `never`, `soon` or `slowly`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::Soon => "soon",
            Self::Slowly => "slowly",
        }
    }
}

/// How the process ends because of a fault (sysexits.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// 65: not found, malformed or a wrong name.
    Data = 65,
    /// 69: DNS or network, unreachable in time. The only one that `init` tries again.
    Unavailable = 69,
    /// 70: a bug of ours.
    Software = 70,
    /// 73: the volume cannot be written.
    CannotCreate = 73,
    /// 77: denied.
    Denied = 77,
    /// 78: configuration.
    Config = 78,
}

/// What the registry says of a code.
#[derive(Debug, Clone, Copy)]
pub struct RegistryEntry {
    /// The stable code.
    pub code: Code,
    /// The code as users read it.
    pub name: &'static str,
    /// The exit code it ends a process with.
    pub exit: Exit,
    /// Who can cure it.
    pub owner: Owner,
    /// What to do next, one clause without a full stop.
    pub next: &'static str,
}

macro_rules! registry {
    ($($code:ident $name:literal $exit:ident $owner:ident $next:literal)*) => {
        /// A stable fault code. Codes are only ever added.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code { $(#[doc = concat!("`", $name, "`")] $code),* }

        const REGISTRY: &[RegistryEntry] = &[$(RegistryEntry {
            code: Code::$code, name: $name, exit: Exit::$exit, owner: Owner::$owner, next: $next,
        }),*];
    };
}

registry! {
    ConfigInvalid "config-invalid" Config TaskDefinition
        "correct the variables that are named; `gmsa-sidecar help run` says what each takes"
    ConfigNoCredSpec "config-no-credspec" Config TaskDefinition
        "set GMSA_CREDENTIAL_SPECS, or run in an ECS task whose sidecar container has the label gmsa-sidecar.credential-specs"
    ConfigAccountTwice "config-account-twice" Config TaskDefinition
        "give each gMSA one CredSpec: two leases cannot share one folder of the volume"
    ConfigOwnerDenied "config-owner-denied" Config TaskDefinition
        "run the sidecar as the owner that it writes for (`user` in the task definition), or as root with CAP_CHOWN and CAP_DAC_OVERRIDE"
    ConfigListen "config-listen" Config TaskDefinition
        "choose a free address and port with GMSA_LISTEN; all containers of a task share one network"
    ConfigLoginMissing "config-login-missing" Config TaskDefinition
        "write the ARN of the login's secret into HostAccountConfig.PluginInput.CredentialArn of the CredSpec; on a domain-joined host set GMSA_LOGIN_KEYTAB instead"

    TaskMetadataUnreachable "task-metadata-unreachable" Unavailable Network
        "on ECS this passes by itself; elsewhere unset ECS_CONTAINER_METADATA_URI_V4 and set GMSA_CREDENTIAL_SPECS"
    TaskMetadataMalformed "task-metadata-malformed" Data TaskDefinition
        "correct ECS_CONTAINER_METADATA_URI_V4: it must name the ECS agent's task metadata endpoint version 4"
    TaskCredSpecNotFound "task-credspec-not-found" Data TaskDefinition
        "set the label gmsa-sidecar.credential-specs (or GMSA_CREDENTIAL_SPECS) on the sidecar's own container in the task definition"
    TaskLabelInvalid "task-label-invalid" Data TaskDefinition
        "write S3 object ARNs into the label, e.g. credentialspecdomainless:arn:aws:s3:::bucket/webapp01.json, separated by spaces"
    TaskDefinitionDenied "task-definition-denied" Denied TaskDefinition
        "set the label gmsa-sidecar.credential-specs on the sidecar's container, so that ecs:DescribeTaskDefinition is not needed"
    TaskDefinitionUnreachable "task-definition-unreachable" Unavailable Network
        "set the label gmsa-sidecar.credential-specs on the sidecar's container, so that the ECS API is not needed"

    TaskStartTimeout "task-start-timeout" Unavailable TaskDefinition
        "find the step that takes so long in the log, or raise GMSA_START_TIMEOUT"
    TaskRequestInvalid "task-request-invalid" Data TaskDefinition
        "correct the CredSpec or the secret that the task definition names"
    TaskHostBusy "task-host-busy" Unavailable TaskDefinition
        "no change is needed if this passes: the ECS agent tries again; if it lasts, spread the tasks over more instances"
    TaskHostTimeout "task-host-timeout" Unavailable Network
        "check that this host reaches DNS and the domain controllers (TCP 53, 88 and 389)"
    TaskHostDenied "task-host-denied" Denied TaskDefinition
        "call as root, or as a member of the group that GMSA_HOST_GROUP names"

    CredSpecNotFound "credspec-not-found" Data TaskDefinition
        "correct the ARN, character for character: keys are used as they are written, never URL-decoded"
    CredSpecDenied "credspec-denied" Denied TaskDefinition
        "allow s3:GetObject on the object (ssm:GetParameters on a parameter) in the policy of the task role; the execution role does not count"
    CredSpecAwsCredentials "credspec-aws-credentials" Denied TaskDefinition
        "set taskRoleArn in the task definition: a container's AWS credentials come from the task role"
    CredSpecAwsCredentialsFailed "credspec-aws-credentials-failed" Unavailable TaskDefinition
        "no change is needed if this passes: the endpoint of the task role's credentials is asked again within seconds; if it lasts, check taskRoleArn"
    CredSpecUnreachable "credspec-unreachable" Unavailable Network
        "allow TCP 443 from the task to the endpoint that is named: add the VPC endpoint of the service, or a NAT route"
    CredSpecRegion "credspec-region" Config TaskDefinition
        "set AWS_REGION"
    CredSpecUnreadable "credspec-unreadable" Data TaskDefinition
        "mount the CredSpec file into the sidecar's container, readable for its user"
    CredSpecTooLarge "credspec-too-large" Data CredSpec
        "correct the name: a CredSpec has about a kilobyte, and at most 64 KiB"
    CredSpecMalformed "credspec-malformed" Data CredSpec
        "correct the field that is named, or create the CredSpec again with New-CredentialSpec (PowerShell module CredentialSpec)"
    CredSpecCredentialArnMissing "credspec-credential-arn-missing" Data CredSpec
        "write the ARN of the login's secret into HostAccountConfig.PluginInput.CredentialArn of the CredSpec"

    SecretNotFound "secret-not-found" Data CredSpec
        "correct the CredentialArn of the CredSpec; the last six characters of an ARN change when a secret is created again"
    SecretDenied "secret-denied" Denied TaskDefinition
        "allow secretsmanager:GetSecretValue on the secret in the policy of the task role; the execution role does not count"
    SecretAwsCredentials "secret-aws-credentials" Denied TaskDefinition
        "set taskRoleArn in the task definition: a container's AWS credentials come from the task role"
    SecretAwsCredentialsFailed "secret-aws-credentials-failed" Unavailable TaskDefinition
        "no change is needed if this passes: the endpoint of the task role's credentials is asked again within seconds; if it lasts, check taskRoleArn"
    SecretUnreachable "secret-unreachable" Unavailable Network
        "allow TCP 443 from the task to the endpoint that is named: add the VPC endpoint of Secrets Manager, or a NAT route"
    SecretUnusable "secret-unusable" Data Secret
        "look at the state of the secret (aws secretsmanager describe-secret): it may be scheduled for deletion"
    SecretTooLarge "secret-too-large" Data Secret
        "correct the CredentialArn of the CredSpec: a login has at most 64 KiB"
    SecretMalformed "secret-malformed" Data Secret
        "store a JSON object with the keys username, password and domainName in the secret"
    SecretKeyMissing "secret-key-missing" Data Secret
        "add the key that is named to the secret: it holds username, password and, if it differs from the CredSpec's DnsName, domainName"

    SecretKeytabUnusable "secret-keytab-unusable" Data TaskDefinition
        "mount the login's keytab into the sidecar's container, readable for its user; GMSA_LOGIN_PRINCIPAL must be one of its principals (klist -ke)"

    DcSrvNotFound "dc-srv-not-found" Unavailable Network
        "let the VPC resolve the AD domain (DHCP options or a Route 53 Resolver rule), or set GMSA_DNS_SERVERS"
    DcDnsUnreachable "dc-dns-unreachable" Unavailable Network
        "allow port 53 (UDP and TCP) from the task to the DNS servers, or name other servers in GMSA_DNS_SERVERS"
    DcAddressNotFound "dc-address-not-found" Unavailable Network
        "let the VPC resolve the names of the domain controllers too, not only the SRV record, or set GMSA_DNS_SERVERS"
    DcUnreachable "dc-unreachable" Unavailable Network
        "allow TCP 88 and 389 (636 with GMSA_LDAP=ldaps) from the task to the domain controllers (security groups, routes, firewall of the domain controller)"

    TicketLoginRefused "ticket-login-refused" Denied Secret
        "set the secret (or the keytab) to the login's current password; wrong passwords lock the account, so the sidecar does not try again quickly"
    TicketLoginHeld "ticket-login-held" Denied Secret
        "set the secret (or the keytab) to the login's current password and do not restart the task; the sidecar tries again 30 minutes after the failed attempts"
    TicketLoginUnknown "ticket-login-unknown" Data Secret
        "correct username and domainName in the secret: the domain does not know this account (Get-ADUser NAME)"
    TicketLoginRevoked "ticket-login-revoked" Denied Directory
        "look at the state of the login's account (Get-ADUser LOGIN -Properties Enabled, LockedOut, AccountExpirationDate): it is disabled, locked or expired"
    TicketLoginDisabled "ticket-login-disabled" Denied Directory
        "enable the login's account (Enable-ADAccount LOGIN)"
    TicketLoginLocked "ticket-login-locked" Denied Directory
        "unlock the login's account (Unlock-ADAccount LOGIN), and stop what sends the wrong passwords"
    TicketLoginExpired "ticket-login-expired" Denied Directory
        "extend the expiry date of the login's account (Set-ADAccountExpiration LOGIN), or remove it (Clear-ADAccountExpiration LOGIN)"
    TicketLoginRestricted "ticket-login-restricted" Denied Directory
        "allow the login to log on from this task at any hour: check its logon hours, its list of workstations, and authentication policies and silos"
    TicketLoginPasswordExpired "ticket-login-password-expired" Denied Directory
        "set a new password for the login (Set-ADAccountPassword LOGIN -Reset), and store it in the secret"
    TicketLoginMustChange "ticket-login-must-change" Denied Directory
        "remove the flag `User must change password at next logon` from the login's account (Set-ADUser LOGIN -ChangePasswordAtLogon $false)"
    TicketGmsaRefused "ticket-gmsa-refused" Denied Directory
        "check replication between the domain controllers (repadmin /showrepl): the directory returned a managed password that its KDC refuses"
    TicketGmsaUnknown "ticket-gmsa-unknown" Data Directory
        "check that the gMSA exists in the CredSpec's domain and has replicated (Get-ADServiceAccount NAME)"
    TicketGmsaRevoked "ticket-gmsa-revoked" Denied Directory
        "enable the gMSA (Set-ADServiceAccount NAME -Enabled $true)"
    TicketServiceUnknown "ticket-service-unknown" Data Directory
        "give the SPN to the account that the service runs as (setspn -S SPN ACCOUNT) and to no other account (setspn -Q SPN, setspn -X)"
    TicketTrust "ticket-trust" Config Directory
        "correct domainName in the secret, let the gMSA's domain trust the login's domain (Get-ADTrust), or use a login of the gMSA's own domain"
    TicketClockSkew "ticket-clock-skew" Unavailable Network
        "set the clock of this host or of the domain controller; Kerberos allows a difference of five minutes"
    TicketEncryption "ticket-encryption" Config Directory
        "allow AES for the account (its AES options, or msDS-SupportedEncryptionTypes 24), then change its password once; accounts with only RC4 keys are not supported"
    TicketPreauth "ticket-preauth" Config Directory
        "exempt the account from FAST and smart cards: the KDC requires a pre-authentication other than a password"
    TicketKdcFailed "ticket-kdc-failed" Unavailable Directory
        "look up the KDC's error in the event log of the domain controller (Kerberos-Key-Distribution-Center)"
    TicketReplyInvalid "ticket-reply-invalid" Unavailable Directory
        "check proxies and firewalls between the task and the domain controller: something changes or truncates Kerberos messages; also check the clocks"

    GmsaConnectionLost "gmsa-connection-lost" Unavailable Directory
        "check the LDAP service of the domain controller and the network in between; the sidecar tries again"
    GmsaTlsUntrusted "gmsa-tls-untrusted" Config TaskDefinition
        "name the CA of the domain controllers' certificates in GMSA_LDAP_CA_FILE, as PEM, mounted or built into the image"
    GmsaTlsCertificate "gmsa-tls-certificate" Config Directory
        "renew the domain controller's certificate, with its DNS name as a subject alternative name and server authentication as a use"
    GmsaTlsFailed "gmsa-tls-failed" Unavailable Directory
        "enroll a certificate for server authentication on the domain controller: without one it closes port 636; or use GMSA_LDAP=sasl, which needs none"
    GmsaBindRefused "gmsa-bind-refused" Denied Directory
        "check that the login may log on to the directory and that the domain controller's own SPN ldap/HOST/DOMAIN is registered (setspn -Q)"
    GmsaServerUnproven "gmsa-server-unproven" Denied Directory
        "find out which host answers as a domain controller: only a domain controller of the domain has ldap/HOST/DOMAIN and knows the managed password"
    GmsaUnconfirmed "gmsa-unconfirmed" Denied Directory
        "give the gMSA an SPN, so that the KDC issues tickets for it (setspn -S host/NAME NAME$), and allow AES for it"
    GmsaNotFound "gmsa-not-found" Data Directory
        "correct the account name in the CredSpec (Get-ADServiceAccount NAME), or allow the login to read the account"
    GmsaReadDenied "gmsa-read-denied" Denied Directory
        "add the login to a group that is allowed to read the password: Add-ADGroupMember GROUP LOGIN"
    GmsaSearchFailed "gmsa-search-failed" Unavailable Directory
        "look up the LDAP error in the event log of the domain controller; the sidecar tries again"
    GmsaBlobMalformed "gmsa-blob-malformed" Data Directory
        "read msDS-ManagedPassword with another tool; if that works, report a bug with the domain controller's version"

    VolumeNotWritable "volume-not-writable" CannotCreate TaskDefinition
        "mount the volume at GMSA_DIR in the sidecar's container, writable for its user: the image's volume belongs to 65532:65532 with mode 0775, so run as 65532:GID or UID:65532"
    VolumeWriteFailed "volume-write-failed" CannotCreate TaskDefinition
        "free space on the volume or mount it writable; the old tickets stay until new ones are written"
    VolumeNotReadable "volume-not-readable" CannotCreate TaskDefinition
        "let GMSA_OWNER enter the folder: mount the volume with mode 0755 or 0775, or make GMSA_OWNER its owner"
    VolumePathTaken "volume-path-taken" CannotCreate TaskDefinition
        "remove the object at that path from the volume, and mount the volume read-only into every other container"

    InternalBug "internal-bug" Software Us
        "report it with this line and the version"
}

impl Code {
    /// The registry, in the order of the steps.
    pub const ALL: &'static [RegistryEntry] = REGISTRY;

    /// What the registry says of this code.
    pub fn entry(self) -> &'static RegistryEntry {
        // The enum and the table are made by one macro: a code's number is its place.
        &REGISTRY[self as usize]
    }

    /// The code as users read it, `dc-srv-not-found`.
    pub fn name(self) -> &'static str {
        self.entry().name
    }

    /// The exit code it ends a process with.
    pub fn exit(self) -> Exit {
        self.entry().exit
    }

    /// Whether `run` tries again, and how soon.
    pub fn retry(self) -> Retry {
        match self.exit() {
            _ if self.is_config() || self == Self::InternalBug => Retry::Never,
            Exit::Denied => Retry::Slowly,
            _ => Retry::Soon,
        }
    }

    /// Whether AWS denied something to the task's role: right after a start it may only not know the role yet.
    pub fn is_aws_denial(self) -> bool {
        use Code::{CredSpecAwsCredentials, CredSpecDenied, SecretAwsCredentials, SecretDenied, TaskDefinitionDenied};
        [CredSpecAwsCredentials, CredSpecDenied, SecretAwsCredentials, SecretDenied, TaskDefinitionDenied]
            .contains(&self)
    }

    /// Whether `run` gives up because of it: nothing that changes outside can cure it.
    pub fn is_config(self) -> bool {
        self.exit() == Exit::Config && self.name().starts_with("config-")
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod document;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_found_at_its_place_and_named_by_its_step() {
        let steps = ["config-", "task-", "credspec-", "secret-", "dc-", "ticket-", "gmsa-", "volume-", "internal-"];
        let mut names = std::collections::HashSet::new();
        for entry in Code::ALL {
            assert_eq!(entry.code.name(), entry.name);
            assert!(steps.iter().any(|step| entry.name.starts_with(step)), "{}", entry.name);
            assert!(names.insert(entry.name), "{} twice", entry.name);
            assert!(!entry.next.ends_with('.'), "{}", entry.name);
        }
    }

    #[test]
    fn a_fault_that_is_tried_again_never_says_never() {
        let fault = Fault::new(Code::ConfigAccountTwice, "two CredSpecs name it");
        assert_eq!(fault.retry(), Retry::Never);
        let again = fault.tried_again_at(Some(clock::from_unix(1_790_000_000)));
        assert_eq!(again.retry(), Retry::Slowly);
        let json = serde_json::to_value(&again).unwrap();
        assert_eq!(
            (json["retry"].as_str(), json["next_attempt_at"].as_str()),
            (Some("slowly"), Some("2026-09-21T14:13:20Z"))
        );
    }

    #[test]
    fn a_fault_reads_as_code_what_why_next() {
        let fault = Fault::new(Code::DcSrvNotFound, "no domain controller is known for `corp.example.com`")
            .because("DNS has no record `_ldap._tcp.dc._msdcs.corp.example.com`");
        insta::assert_snapshot!(fault, @r"
        code=dc-srv-not-found
          what: no domain controller is known for `corp.example.com`
          why:  DNS has no record `_ldap._tcp.dc._msdcs.corp.example.com`
          next: let the VPC resolve the AD domain (DHCP options or a Route 53 Resolver rule), or set GMSA_DNS_SERVERS
          more: gmsa-sidecar explain dc-srv-not-found
        ");
    }
}
