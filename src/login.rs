//! The login: from a secret or from the host's keytab; and how often it may be proven, since AD locks an account after
//! a few wrong passwords.
//!
//! One [`Guard`] for each login account, shared by all its leases. Within one process at most two logins fail in any
//! half hour, and a version of the secret (or of the keytab's keys) that was refused is not sent again.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::{Duration, SystemTime};

use rustix::fs::{CWD, OFlags};
use sha2::{Digest, Sha256};
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::aws::Aws;
use crate::credspec::{GivenLogin, LoginSource};
use crate::fault::{Code, Fault};
use crate::kerberos::{self, Key, Password, Principal, Proof, keytab};
use crate::name::Domain;
use crate::secret::{self, Secret, Stage};
use crate::volume;

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
}

impl From<Secret> for Login {
    fn from(secret: Secret) -> Self {
        let Secret { version_id: version, created_at, login } = secret;
        let told = format!("version {version}; keys present: {}", login.keys.join(", "));
        Self {
            principal: kerberos::login_principal(&login.user, &login.domain),
            domain: login.domain,
            proof: Proof::Password(Password::new(login.password)),
            version,
            created_at,
            told,
        }
    }
}

impl Login {
    /// A login that a request brought. The same password is the same version.
    fn given(given: &GivenLogin) -> Self {
        Self {
            principal: kerberos::login_principal(&given.user, &given.domain),
            domain: given.domain.clone(),
            proof: Proof::Password(Password::new(given.password.clone())),
            version: format!("{:x?}", Sha256::digest(given.password.as_bytes())),
            created_at: None,
            told: "given with the request".to_owned(),
        }
    }
}

fn missing(domain: &Domain) -> Fault {
    let what = format!("the CredSpec for `{domain}` names no CredentialArn");
    Fault::new(Code::ConfigLoginMissing, what).because("GMSA_LOGIN_KEYTAB is not set")
}

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
    /// `HOST$` or `HOST$@REALM`; the first one in the file if absent.
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
            (LoginSource::Secret(arn), _) => {
                secret::fetch(arn, domain, &self.aws, Stage::Current).await.map(Login::from)
            }
            (LoginSource::DomainJoined, Some(keytab)) => keytab.read().await,
            (LoginSource::DomainJoined, None) => Err(missing(domain)),
            (LoginSource::Given(given), _) => Ok(Login::given(given)),
            (LoginSource::Absent, _) => {
                let what = format!("no login is at hand for the domain `{domain}`");
                Err(Fault::new(Code::ConfigLoginMissing, what).because("the next request brings one"))
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
        secret::fetch(arn, domain, &self.aws, Stage::Pending).await.ok().map(Login::from)
    }
}

impl HostKeytab {
    /// Reads the file anew: whoever cares for the host's password replaces it.
    async fn read(&self) -> Result<Login, Fault> {
        let path = self.path.clone();
        let unusable =
            || Fault::new(Code::SecretKeytabUnusable, format!("the keytab `{}` is no login", self.path.display()));
        let read = tokio::task::spawn_blocking(move || volume::read(CWD, path, OFlags::empty()));
        let file = match timeout(READ_DEADLINE, read).await {
            Ok(Ok(Ok((file, _)))) => file,
            Ok(Ok(Err(error))) => return Err(unusable().because(error)),
            Ok(Err(error)) => return Err(unusable().caused_by(&error)),
            Err(_elapsed) => return Err(unusable().because(format!("nothing came within {READ_DEADLINE:?}"))),
        };
        self.login(&file).map_err(|why| unusable().because(why))
    }

    /// For the fuzzer: what a file tells of the login in it, or why it is none.
    #[cfg(fuzzing)]
    pub fn decode(&self, file: &[u8]) -> Result<String, String> {
        self.login(file).map(|login| format!("{} {}", login.principal.to_string().escape_debug(), login.told))
    }

    /// The newest keys of the principal. AD compares its names without case.
    fn login(&self, file: &[u8]) -> Result<Login, String> {
        let entries = keytab::decode(file)?;
        let is_wanted = |principal: &Principal| {
            let names = [principal.to_string(), principal.name()];
            self.principal.as_ref().is_none_or(|wanted| names.iter().any(|name| name.eq_ignore_ascii_case(wanted)))
        };
        let Some(first) = entries.iter().find(|entry| is_wanted(&entry.principal)) else {
            let mut names: Vec<_> = entries.iter().map(|entry| entry.principal.to_string()).collect();
            names.dedup();
            let names = if names.is_empty() { "nobody".to_owned() } else { names.join(", ") };
            let wanted = self.principal.as_deref().unwrap_or("anybody");
            return Err(format!("it has no AES key of `{}`, but of {}", wanted.escape_debug(), names.escape_debug()));
        };
        let principal = first.principal.clone();
        let own: Vec<_> = entries.iter().filter(|entry| entry.principal == principal).collect();
        let kvno = own.iter().map(|entry| entry.kvno).max().unwrap_or_default();
        let keys: Vec<Key> = own.iter().filter(|entry| entry.kvno == kvno).map(|entry| entry.key.clone()).collect();
        let domain: Option<Domain> = principal.realm.parse().ok();
        let Some(domain) = domain.filter(|domain| domain.realm() == principal.realm) else {
            return Err(format!("the realm of `{}` is no domain's, in capitals", principal.to_string().escape_debug()));
        };
        let digest = keys.iter().fold(Sha256::new(), |digest, key| digest.chain_update(key.bytes())).finalize();
        let enctypes: Vec<_> = keys.iter().map(|key| kerberos::enctype_name(key.enctype())).collect();
        Ok(Login {
            told: format!("version {kvno}; keys of {}", enctypes.join(", ")),
            principal,
            domain,
            proof: Proof::Keys(keys),
            version: format!("{kvno}/{digest:x?}"),
            created_at: None,
        })
    }
}

/// For a keytab, which may lie on a network's file system.
const READ_DEADLINE: Duration = Duration::from_secs(5);

/// The guards of all login accounts of the process.
#[derive(Default)]
pub struct Guards(StdMutex<HashMap<String, Arc<Mutex<Guard>>>>);

impl Guards {
    /// The guard of an account, by its principal. Whoever holds its lock is the only one to log in.
    pub fn of(&self, principal: &str) -> Arc<Mutex<Guard>> {
        let mut guards = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let guard = guards
            .entry(principal.to_ascii_lowercase())
            .or_insert_with(|| Arc::new(Mutex::new(Guard { principal: principal.to_owned(), ..Guard::default() })));
        Arc::clone(guard)
    }

    /// Lets go of guards that know nothing. What was refused or worked is remembered, of the latest accounts.
    pub fn tidy(&self) {
        let mut guards = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut known = 0;
        guards.retain(|_, guard| {
            let clean = guard.try_lock().is_ok_and(|guard| guard.refused.is_empty() && !guard.succeeded);
            known += usize::from(!clean);
            Arc::strong_count(guard) > 1 || !clean
        });
        if known > ACCOUNTS {
            let last =
                |guard: &Arc<Mutex<Guard>>| guard.try_lock().ok().and_then(|guard| guard.failures.back().copied());
            let mut times: Vec<_> = guards.values().filter_map(last).collect();
            times.sort_unstable();
            let oldest = times.get(times.len().saturating_sub(ACCOUNTS)).copied();
            guards.retain(|_, guard| Arc::strong_count(guard) > 1 || last(guard) >= oldest);
        }
    }
}

/// What one login account's failures allow.
#[derive(Debug, Default)]
pub struct Guard {
    /// For the fault.
    principal: String,
    failures: VecDeque<SystemTime>,
    /// Versions of the secret that were refused, with the refusal.
    refused: VecDeque<(String, Fault)>,
    succeeded: bool,
}

impl Guard {
    /// Whether this version of the secret may be sent now. The fault says why not.
    pub fn allows(&self, version: &str, now: SystemTime) -> Result<(), Fault> {
        if let Some((_, fault)) = self.refused.iter().find(|(refused, _)| refused == version) {
            let why = "this version of the secret was refused before and is not sent again";
            return Err(fault.clone().because(match &fault.why {
                Some(told) => format!("{told}; {why}"),
                None => why.to_owned(),
            }));
        }
        let recent = |failure: &&SystemTime| now.duration_since(**failure).is_ok_and(|age| age < WINDOW);
        match self.failures.iter().filter(recent).count() {
            failed if failed < LIMIT => Ok(()),
            failed => {
                let window = humantime::format_duration(WINDOW);
                let what = format!("the login `{}` is held back, so that it does not get locked", self.principal);
                let why =
                    format!("{failed} passwords were refused in the last {window}: none is sent until that is over");
                Err(Fault::new(Code::TicketLoginHeld, what).because(why))
            }
        }
    }

    /// Whether a pending version may stand in for the current one: only while a rotation of the secret is under way,
    /// which a process that never logged in cannot tell from a wrong secret.
    pub fn trusts_pending(&self) -> bool {
        self.succeeded
    }

    /// AD took the password.
    pub fn succeeded(&mut self) {
        self.succeeded = true;
    }

    /// AD refused the password of this version.
    pub fn failed(&mut self, version: &str, fault: &Fault, now: SystemTime) {
        self.failures.push_back(now);
        self.refused.push_back((version.to_owned(), fault.clone()));
        while self.failures.len() > LIMIT {
            self.failures.pop_front();
        }
        while self.refused.len() > REMEMBERED {
            self.refused.pop_front();
        }
    }
}

/// Failed logins an account is granted in [`WINDOW`]. AD's lockout thresholds are rarely under five.
const LIMIT: usize = 2;
const WINDOW: Duration = Duration::from_secs(30 * 60);
const REMEMBERED: usize = 16;
/// Of how many accounts it is remembered what was refused.
const ACCOUNTS: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use proptest::prelude::*;

    fn fault() -> Fault {
        Fault::new(Code::TicketLoginRefused, "no ticket").because("wrong")
    }

    #[test]
    fn a_refused_version_is_not_sent_again_and_two_failures_close_the_window() {
        let mut guard = Guard::default();
        let at = |minutes: i64| clock::from_unix(60 * minutes);
        assert!(guard.allows("a", at(0)).is_ok());
        guard.failed("a", &fault(), at(0));
        assert_eq!(guard.allows("a", at(1000)).unwrap_err().code, Code::TicketLoginRefused);
        assert!(guard.allows("b", at(1)).is_ok());
        guard.failed("b", &fault(), at(1));
        assert_eq!(guard.allows("c", at(29)).unwrap_err().code, Code::TicketLoginHeld);
        assert!(guard.allows("c", at(30)).is_ok(), "the first failure is half an hour old");
    }

    #[test]
    fn the_newest_keys_of_the_principal_are_the_login() {
        let entry = |name: &str, kvno, enctype| keytab::Entry {
            principal: Principal::parse(name).unwrap(),
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
            keytab.login(&file)
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
    fn accounts_are_told_apart_without_case() {
        let guards = Guards::default();
        assert!(Arc::ptr_eq(&guards.of("svc@EXAMPLE.COM"), &guards.of("SVC@example.com")));
        assert!(!Arc::ptr_eq(&guards.of("svc@EXAMPLE.COM"), &guards.of("other@EXAMPLE.COM")));
    }

    proptest! {
        #[test]
        fn whatever_is_tried_at_most_two_fail_in_any_half_hour(steps in proptest::collection::vec(0_i64..900, 1..60)) {
            let mut guard = Guard::default();
            let mut now = 0;
            let mut failures: Vec<i64> = Vec::new();
            for (version, step) in steps.into_iter().enumerate() {
                now += step;
                if guard.allows(&version.to_string(), clock::from_unix(now)).is_ok() {
                    guard.failed(&version.to_string(), &fault(), clock::from_unix(now));
                    failures.push(now);
                }
            }
            for window in failures.windows(3) {
                prop_assert!(window[2] - window[0] >= 1800);
            }
        }
    }
}
