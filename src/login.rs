//! The login: from a secret or from the host's keytab.

/// how often a login may be proven
pub mod lockout;

/// where a login comes from, for messages
pub mod origin;

/// Secrets Manager, SSM -> what a secret holds
pub mod secret;

use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

use hmac::{Hmac, KeyInit, Mac};
use rustix::fs::{CWD, OFlags};
use sha2::Sha256;
use tokio::time::timeout;
use zeroize::Zeroizing;

use self::origin::Origin;
use self::secret::{Secret, Stage, UserName};
use crate::aws::arn::SecretArn;
use crate::aws::{Aws, LONGEST_CALL};
use crate::credspec::{GivenLogin, LoginSource};
use crate::fault::{Code, Fault};
use crate::kerberos::{self, Key, Password, Principal, Proof, keytab};
use crate::name::Domain;
use crate::text::shell;
use crate::{entropy, progress, volume};

/// A login as it would be proven now.
pub struct Login {
    /// The account.
    pub principal: Principal,
    /// Its domain.
    pub domain: Domain,
    /// What proves it.
    pub proof: Proof,
    /// The same version is the same proof.
    pub version: String,
    /// When that version was made, where it is known.
    pub created_at: Option<SystemTime>,
    /// What it was made of, in words.
    pub told: String,
    /// Where it comes from.
    pub origin: Origin,
}

impl From<Secret> for Login {
    fn from(secret: Secret) -> Self {
        let Secret { version_id, created_at, arn, login } = secret;
        let keys = format!("keys present: {}", login.keys.join(", "));
        let told = [vec![keys.as_str()], login.notes.clone()].concat().join("; ");
        let principal = match &login.user {
            UserName::Plain(name) => kerberos::login_principal(name, &login.domain),
            UserName::Enterprise(name) => Principal::new(NT_ENTERPRISE, [name.as_str()], login.domain.realm()),
        };
        Self {
            principal,
            domain: login.domain,
            // Two secrets may have versions of one name, and one that is deleted and made again counts from 1.
            version: fingerprint(&[version_id.as_bytes(), login.password.as_bytes()]),
            proof: Proof::Password(Password::new(login.password)),
            created_at,
            told,
            origin: Origin::Secret(Box::new(arn), login.names_domain),
        }
    }
}

impl Login {
    /// A login that a request brought. The same password is the same version.
    fn given(given: &GivenLogin) -> Self {
        let principal = match given.user.contains('@') {
            true => Principal::new(NT_ENTERPRISE, [given.user.as_str()], given.domain.realm()),
            false => kerberos::login_principal(&given.user, &given.domain),
        };
        Self {
            principal,
            domain: given.domain.clone(),
            proof: Proof::Password(Password::new(given.password.clone())),
            version: fingerprint(&[given.password.as_bytes()]),
            created_at: None,
            told: "given with the request".to_owned(),
            origin: Origin::Request,
        }
    }
}

/// What tells one proof from another without giving a password away: a hash under a key that this process alone has, and
/// only until it ends.
fn fingerprint(parts: &[&[u8]]) -> String {
    static KEY: LazyLock<Zeroizing<[u8; 64]>> = LazyLock::new(|| {
        let mut key = Zeroizing::new([0; 64]);
        entropy::system(&mut *key);
        key
    });
    let hash = Hmac::<Sha256>::new(&(**KEY).into());
    let hash = parts.iter().fold(hash, |hash, part| {
        let length = u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes();
        hash.chain_update(length).chain_update(part)
    });
    hash.finalize().into_bytes().iter().map(|octet| format!("{octet:02x}")).collect()
}

fn missing(domain: &Domain) -> Fault {
    let what = format!("No login is configured for the domain {domain}");
    let why = "the CredSpec does not have a CredentialArn, and GMSA_LOGIN_KEYTAB is not set";
    Fault::new(Code::ConfigLoginMissing, what).because(why)
}
/// The type of a user principal name as a principal's only component (RFC 6806 section 5).
const NT_ENTERPRISE: i32 = 10;

/// Where logins come from.
pub struct Logins {
    aws: Arc<Aws>,
    keytab: Option<HostKeytab>,
}

/// The login of a host that is joined to the domain: `GMSA_LOGIN_KEYTAB`, `GMSA_LOGIN_PRINCIPAL`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostKeytab {
    /// The file.
    pub path: PathBuf,
    /// `HOST$` or `HOST$@REALM`; if absent that of this host, else the first one in the file that ends in `$`, else the first.
    pub principal: Option<String>,
}

impl Logins {
    /// Secrets are read from `aws`.
    pub fn new(aws: Arc<Aws>, keytab: Option<HostKeytab>) -> Self {
        Self { aws, keytab }
    }

    /// The login that a CredSpec of `domain` names.
    pub async fn current(&self, source: &LoginSource, domain: &Domain) -> Result<Login, Fault> {
        match (source, &self.keytab) {
            (LoginSource::Secret(arn), _) => self.read(arn, domain, Stage::Current).await,
            (LoginSource::DomainJoined, Some(keytab)) => keytab.read().await,
            (LoginSource::DomainJoined, None) => Err(missing(domain)),
            (LoginSource::Given(given), _) => Ok(Login::given(given)),
            (LoginSource::Absent, _) => {
                let what = format!("No login is at hand for the domain {domain}");
                Err(Fault::new(Code::ConfigLoginMissing, what)
                    .because("logins are not stored, and the ECS agent has not sent this one since the daemon started")
                    .with_next("wait for the agent's next call, which comes about every hour"))
            }
        }
    }

    /// Whether there is such a login at all; whether it is good only its use tells.
    pub fn knows(&self, source: &LoginSource, domain: &Domain) -> Result<(), Fault> {
        match (source, &self.keytab) {
            (LoginSource::DomainJoined, None) => Err(missing(domain)),
            _ => Ok(()),
        }
    }

    /// What the login will be once a rotation of its secret is over, if one is under way.
    pub async fn pending(&self, source: &LoginSource, domain: &Domain) -> Option<Login> {
        let LoginSource::Secret(arn) = source else { return None };
        self.read(arn, domain, Stage::Pending).await.ok()
    }

    async fn read(&self, arn: &SecretArn, domain: &Domain, stage: Stage) -> Result<Login, Fault> {
        let peer = self.aws.endpoint_for(&arn.to_string());
        let read = secret::fetch(arn, domain, &self.aws, stage);
        progress::during("secret", peer, LONGEST_CALL, read).await.map(Login::from)
    }
}

impl HostKeytab {
    /// Reads the file anew: whoever cares for the host's password replaces it.
    async fn read(&self) -> Result<Login, Fault> {
        let path = self.path.clone();
        let unusable = || {
            Fault::new(
                Code::SecretKeytabUnusable,
                format!("the keytab `{}` (GMSA_LOGIN_KEYTAB) cannot be used as the login", self.path.display()),
            )
        };
        let read = tokio::task::spawn_blocking(move || volume::read(CWD, path, OFlags::empty()));
        let file = match timeout(READ_DEADLINE, read).await {
            Ok(Ok(Ok((file, _)))) => file,
            Ok(Ok(Err(error))) => {
                let next = match error.kind() {
                    ErrorKind::NotFound => {
                        "mount the keytab there into the sidecar's container, or correct GMSA_LOGIN_KEYTAB"
                    }
                    _ => "let the user of the sidecar's container read the file",
                };
                let text = error.to_string();
                let why = text.split(" (os error").next().unwrap_or(&text);
                return Err(unusable()
                    .because(why)
                    .with_next(format!("{next}: {}", shell(&self.path.display().to_string()))));
            }
            Ok(Err(error)) => return Err(unusable().caused_by(&error)),
            Err(_elapsed) => return Err(unusable().because(format!("nothing came within {READ_DEADLINE:?}"))),
        };
        self.login(&file, &own_name()).map_err(|why| {
            let path = shell(&self.path.display().to_string());
            let next = match &self.principal {
                Some(principal) if why.contains("but of") => {
                    format!("set GMSA_LOGIN_PRINCIPAL, now {}, to one of these: klist -ke {path}", shell(principal))
                }
                _ => format!("replace the keytab with one that has AES keys; this shows its keys: klist -ke {path}"),
            };
            unusable().because(why).with_next(next)
        })
    }

    /// For the fuzzer: what a file tells of the login in it, or why it is none.
    #[cfg(fuzzing)]
    pub fn decode(&self, file: &[u8]) -> Result<String, String> {
        self.login(file, "HOST").map(|login| format!("{} {}", login.principal.to_string().escape_debug(), login.told))
    }

    /// The newest keys of the principal; of several accounts that of this host. AD compares names without case.
    fn login(&self, file: &[u8], host: &str) -> Result<Login, String> {
        let entries = keytab::decode(file)?;
        let is_wanted = |principal: &Principal| {
            let names = [principal.to_string(), principal.name()];
            self.principal.as_ref().is_none_or(|wanted| names.iter().any(|name| name.eq_ignore_ascii_case(wanted)))
        };
        // Not each name of a host can log in, but its account can.
        let is_account = |principal: &Principal| principal.components.iter().all(|name| name.ends_with('$'));
        let is_own = |principal: &Principal| {
            principal
                .components
                .iter()
                .all(|name| name.strip_suffix('$').is_some_and(|name| name.eq_ignore_ascii_case(host)))
        };
        let mut wanted = entries.iter().filter(|entry| is_wanted(&entry.principal));
        let own = wanted.clone().find(|entry| is_own(&entry.principal));
        let first = own.or_else(|| wanted.clone().find(|entry| is_account(&entry.principal))).or_else(|| wanted.next());
        let Some(first) = first else {
            let mut names: Vec<_> = entries.iter().map(|entry| entry.principal.to_string()).collect();
            names.dedup();
            let names = if names.is_empty() { "no account".to_owned() } else { names.join(", ") };
            let asked = self.principal.as_deref().unwrap_or("any account");
            return Err(format!("it has no AES key of `{}`, but of {}", asked.escape_debug(), names.escape_debug()));
        };
        let principal = first.principal.clone();
        let own: Vec<_> = entries.iter().filter(|entry| entry.principal == principal).collect();
        let kvno = own.iter().map(|entry| entry.kvno).max().unwrap_or_default();
        let keys: Vec<Key> = own.iter().filter(|entry| entry.kvno == kvno).map(|entry| entry.key.clone()).collect();
        let domain: Option<Domain> = principal.realm.parse().ok();
        let Some(domain) = domain.filter(|domain| domain.realm() == principal.realm) else {
            return Err(format!(
                "the realm of `{}` is not the name of a domain in capitals",
                principal.to_string().escape_debug()
            ));
        };
        let enctypes: Vec<_> = keys.iter().map(|key| kerberos::enctype_name(key.enctype())).collect();
        Ok(Login {
            told: format!("version {kvno}; keys of {}", enctypes.join(", ")),
            principal,
            domain,
            version: fingerprint(&keys.iter().map(Key::octets).collect::<Vec<_>>()),
            proof: Proof::Keys(keys),
            created_at: None,
            origin: Origin::Keytab(self.path.clone()),
        })
    }
}

/// The name of this host's account, without `$`: that of the host as far as a NetBIOS name goes.
fn own_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().split('.').next().unwrap_or_default().chars().take(15).collect()
}

/// For a keytab, which may lie on a network's file system.
const READ_DEADLINE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::login::secret::SecretLogin as InSecret;

    #[test]
    fn another_password_is_another_proof_whatever_its_version_is_called() {
        let domain: Domain = "corp.example.com".parse().unwrap();
        let of = |version: &str, password: &str| {
            let text = Zeroizing::new(password.to_owned());
            let login = InSecret {
                user: UserName::Plain("svc".to_owned()),
                domain: domain.clone(),
                names_domain: false,
                password: text,
                keys: Vec::new(),
                notes: Vec::new(),
            };
            let arn = "arn:aws:ssm:eu-central-1:123456789012:parameter/gmsa".parse().unwrap();
            Login::from(Secret { version_id: version.to_owned(), created_at: None, arn, login }).version
        };
        assert_eq!(of("1", "one"), of("1", "one"));
        assert_ne!(of("1", "one"), of("1", "two"), "a parameter that was deleted and made again");
        assert_ne!(of("", "one"), of("", "two"), "a service that names no version");
        assert_ne!(of("1", "one"), of("2", "one"), "a new version of a password is tried once");
        assert_ne!(fingerprint(&[b"a", b"bc"]), fingerprint(&[b"ab", b"c"]));
        let plain =
            <Sha256 as sha2::Digest>::digest(b"one").iter().map(|octet| format!("{octet:02x}")).collect::<String>();
        let given = GivenLogin { user: "svc".to_owned(), domain, password: Zeroizing::new("one".to_owned()) };
        assert!(!Login::given(&given).version.contains(&plain), "it is not to be looked up in a list of hashes");
    }

    #[test]
    fn the_newest_keys_of_the_principal_are_the_login() {
        let entry = |name: &str, kvno, enctype| keytab::KeytabEntry {
            principal: name.parse().unwrap(),
            kvno,
            key: Key::from_password(enctype, &format!("{name}{kvno}"), b"salt", None).unwrap(),
        };
        let entries = [
            entry("HOST$@EXAMPLE.COM", 1, 18),
            entry("host/h.example.com@EXAMPLE.COM", 2, 18),
            entry("HOST$@EXAMPLE.COM", 2, 18),
            entry("HOST$@EXAMPLE.COM", 2, 17),
            entry("svc@lower.test", 1, 18),
        ];
        let file = keytab::encode(&entries, clock::from_unix(0));
        let read = |principal: Option<&str>| {
            let keytab = HostKeytab { path: "x".into(), principal: principal.map(str::to_owned) };
            keytab.login(&file, "other")
        };
        let login = read(None).unwrap();
        assert_eq!((login.principal.to_string().as_str(), login.domain.as_str()), ("HOST$@EXAMPLE.COM", "example.com"));
        let Proof::Keys(keys) = &login.proof else { panic!() };
        assert_eq!(keys.iter().map(Key::enctype).collect::<Vec<_>>(), [18, 17]);
        assert_eq!(read(Some("host$")).unwrap().version, login.version);
        assert_ne!(read(Some("HOST/h.example.com@example.com")).unwrap().version, login.version);
        let why = |principal| read(principal).err().unwrap();
        assert!(why(Some("nobody")).starts_with("it has no AES key of `nobody`, but of HOST$@EXAMPLE.COM, host/h."));
        assert!(why(Some("svc")).contains("in capitals"));
    }

    #[test]
    fn of_several_accounts_that_of_this_host_is_the_login() {
        let entry = |name: &str| keytab::KeytabEntry {
            principal: name.parse().unwrap(),
            kvno: 1,
            key: Key::from_password(18, name, b"salt", None).unwrap(),
        };
        let names = ["host/web1@EXAMPLE.COM", "OLD$@EXAMPLE.COM", "WEB1$@EXAMPLE.COM"];
        let file = keytab::encode(&names.map(entry), clock::from_unix(0));
        let of = |host: &str, principal: Option<&str>| {
            let keytab = HostKeytab { path: "x".into(), principal: principal.map(str::to_owned) };
            keytab.login(&file, host).unwrap().principal.to_string()
        };
        assert_eq!(of("web1", None), names[2]);
        assert_eq!(of("other", None), names[1], "the first account");
        assert_eq!(of("web1", Some("OLD$")), names[1], "what is set wins");
        assert!(own_name().len() <= 15 && !own_name().contains('.'));
    }
}
