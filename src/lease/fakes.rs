//! Stand-ins for the world around leases, and a clock that tests move. The leases, their manager, their schedule, their
//! sources and their publisher are the real ones.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::time::{Duration, SystemTime};

use zeroize::Zeroizing;

use super::manager::{ConfAt, LeasePolicy, LeaseSpec, Manager};
use super::metrics::Metrics;
use super::ports::{Asked, Bridge, Domains, ReadSpecs, Renew, TicketFiles};
use super::publisher::Publisher;
use super::refresh::Refresh;
use super::status::{LeaseKey, LeaseState, Order, Status, Statuses};
use crate::clock;
use crate::credspec::{CredSpec, LoginSource, Reference};
use crate::directory::{Extras, GmsaCredential, Renewal, twin};
use crate::fault::{Code, Fault};
use crate::kerberos::{GmsaTgt, ServiceTicket};
use crate::name::{Account, Domain};
use crate::volume::{Krb5Conf, LeaseFolder, Location, Ownership, VolumeWatch, Written};

/// What a fake directory answers to one renewal.
pub(crate) enum Answer {
    /// A ticket of that life.
    Ticket(Duration),
    /// A ticket, and a fault for each service.
    NoService(Code),
    /// A ticket, and one for each service, but none for their twins.
    NoTwin,
    /// A ticket by the kept key, since the password could not be read.
    Unread(Code),
    /// A fault.
    Fault(Code),
    /// Nothing for that long, then a ticket.
    After(Duration),
    /// Nothing, ever.
    Hangs,
}

/// One renewal as the directory saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asking {
    /// Seconds since the start.
    pub(crate) at: u64,
    pub(crate) account: String,
    pub(crate) login: LoginSource,
    pub(crate) by_key: bool,
}

#[derive(Default)]
struct Directory {
    script: HashMap<String, VecDeque<Answer>>,
    asked: Vec<Asking>,
    bridged: Vec<String>,
    silent: bool,
    count: usize,
    known: Vec<Weak<FakeDomain>>,
}

/// All directories of a test. Without a script every renewal brings a ticket of ten hours at once.
#[derive(Default)]
pub(crate) struct FakeDomains {
    state: Arc<Mutex<Directory>>,
}

struct FakeDomain {
    domain: Domain,
    login: LoginSource,
    state: Arc<Mutex<Directory>>,
}

impl FakeDomains {
    /// What the next renewals of an account bring.
    pub(crate) fn script(&self, account: &str, answers: impl IntoIterator<Item = Answer>) {
        self.state.lock().unwrap().script.entry(account.to_owned()).or_default().extend(answers);
    }

    /// The renewals so far.
    pub(crate) fn asked(&self) -> Vec<Asking> {
        self.state.lock().unwrap().asked.clone()
    }

    /// When the renewals of an account were.
    pub(crate) fn times(&self, account: &str) -> Vec<u64> {
        self.asked().into_iter().filter(|asked| asked.account == account).map(|asked| asked.at).collect()
    }

    /// For which accounts a renewable ticket was got.
    pub(crate) fn bridged(&self) -> Vec<String> {
        self.state.lock().unwrap().bridged.clone()
    }

    /// Renewals are counted only: there will be many.
    pub(crate) fn only_count(&self) {
        self.state.lock().unwrap().silent = true;
    }

    /// How many renewals there were.
    pub(crate) fn count(&self) -> usize {
        self.state.lock().unwrap().count
    }

    /// How many directories somebody holds.
    pub(crate) fn held(&self) -> usize {
        self.state.lock().unwrap().known.iter().filter(|known| known.strong_count() > 0).count()
    }

    /// How many are remembered.
    pub(crate) fn remembered(&self) -> usize {
        self.state.lock().unwrap().known.len()
    }
}

impl Domains for FakeDomains {
    fn of(&self, domain: &Domain, login: &LoginSource) -> Result<Arc<dyn Renew>, Fault> {
        if *login == LoginSource::DomainJoined {
            return Err(Fault::new(Code::ConfigLoginMissing, format!("no login for `{domain}`")));
        }
        let state = Arc::clone(&self.state);
        let mut known = state.lock().unwrap();
        let same = |known: &&Arc<FakeDomain>| known.domain == *domain && known.login == *login;
        if let Some(shared) = known.known.iter().filter_map(Weak::upgrade).find(|known| same(&known)) {
            return Ok(shared);
        }
        let shared =
            Arc::new(FakeDomain { domain: domain.clone(), login: login.clone(), state: Arc::clone(&self.state) });
        known.known.push(Arc::downgrade(&shared));
        Ok(shared)
    }

    fn tidy(&self) {
        self.state.lock().unwrap().known.retain(|known| known.strong_count() > 0);
    }
}

impl Renew for FakeDomain {
    fn renew<'a>(
        &'a self,
        account: &'a Account,
        kept: Option<GmsaCredential>,
        extras: &'a Extras,
    ) -> Asked<'a, Renewal> {
        let answer = {
            let mut state = self.state.lock().unwrap();
            state.count += 1;
            if !state.silent {
                state.asked.push(Asking {
                    at: clock::fake::elapsed().as_secs(),
                    account: account.to_string(),
                    login: self.login.clone(),
                    by_key: kept.is_some(),
                });
            }
            state.script.get_mut(account.as_str()).and_then(VecDeque::pop_front)
        };
        Box::pin(async move {
            let (mut life, mut refused, mut unread, mut twinless) = (TEN_HOURS, None, None, false);
            match answer {
                None => {}
                Some(Answer::Ticket(other)) => life = other,
                Some(Answer::NoService(code)) => refused = Some(code),
                Some(Answer::NoTwin) => twinless = true,
                Some(Answer::Unread(code)) => unread = Some(fault(code)),
                Some(Answer::Fault(code)) => return Err(fault(code)),
                Some(Answer::After(time)) => tokio::time::sleep(time).await,
                Some(Answer::Hangs) => std::future::pending().await,
            }
            let now = clock::now();
            let due = kept.map(|kept| kept.due).filter(|due| *due > now).unwrap_or(now + A_MONTH);
            let mut renewal = Renewal::sample(account, &self.domain, now + life, due);
            renewal.unread = unread;
            let twins = twin::of(extras.services.iter());
            renewal.twins.extend(twins.into_iter().map(|twin| {
                let ticket = ServiceTicket::sample(account, &self.domain, &twin, now + life);
                (twin, (refused.is_none() && !twinless).then_some(ticket))
            }));
            renewal.services.extend(extras.services.iter().map(|spn| {
                let granted = match refused {
                    None => Ok(ServiceTicket::sample(account, &self.domain, spn, now + life)),
                    Some(code) => Err(fault(code)),
                };
                (spn.clone(), granted)
            }));
            Ok(renewal)
        })
    }

    fn bridge<'a>(&'a self, account: &'a Account, _: GmsaCredential) -> Bridge<'a> {
        self.state.lock().unwrap().bridged.push(account.to_string());
        let ticket = GmsaTgt::sample(account, &self.domain, clock::now() + TEN_HOURS);
        Box::pin(std::future::ready(Some(Arc::new(ticket))))
    }
}

pub(crate) fn fault(code: Code) -> Fault {
    Fault::new(code, format!("the fake says {code}"))
}

pub(crate) const TEN_HOURS: Duration = Duration::from_secs(36_000);
pub(crate) const A_MONTH: Duration = Duration::from_secs(30 * 86_400);

/// All CredSpecs of a test, by their references.
#[derive(Default)]
pub(crate) struct FakeSpecs {
    documents: Mutex<HashMap<String, Result<CredSpec, Fault>>>,
    list: Mutex<Option<Result<Vec<String>, Fault>>>,
    hangs: AtomicBool,
    count: Mutex<usize>,
}

impl FakeSpecs {
    /// A reference names these accounts with the login of that secret from now on; without a secret the host's.
    pub(crate) fn set(&self, reference: &str, accounts: &[&str], secret: Option<&str>) {
        self.put(reference, Ok(cred_spec(accounts, "corp.example.com", secret)));
    }

    pub(crate) fn put(&self, reference: &str, read: Result<CredSpec, Fault>) {
        self.documents.lock().unwrap().insert(reference.to_owned(), read);
    }

    /// Every list names these documents from now on.
    pub(crate) fn list(&self, names: Result<&[&str], Fault>) {
        *self.list.lock().unwrap() = Some(names.map(|names| names.iter().map(|name| (*name).to_owned()).collect()));
    }

    /// Nothing is answered any more.
    pub(crate) fn hang(&self) {
        self.hangs.store(true, Ordering::Relaxed);
    }

    /// How many documents were read.
    pub(crate) fn count(&self) -> usize {
        *self.count.lock().unwrap()
    }
}

impl ReadSpecs for FakeSpecs {
    fn read<'a>(&'a self, reference: &'a Reference) -> Asked<'a, CredSpec> {
        Box::pin(async move {
            *self.count.lock().unwrap() += 1;
            if self.hangs.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
            let read = self.documents.lock().unwrap().get(&reference.to_string()).cloned();
            tokio::task::yield_now().await;
            read.unwrap_or_else(|| Err(fault(Code::CredSpecNotFound)))
        })
    }

    fn list<'a>(&'a self, reference: &'a Reference) -> Option<Asked<'a, Vec<Reference>>> {
        let names = reference.to_string().ends_with("/list").then(|| self.list.lock().unwrap().clone())??;
        Some(Box::pin(async move { Ok(names?.iter().map(|name| self::reference(name)).collect()) }))
    }
}

/// A CredSpec as it would have been read.
pub(crate) fn cred_spec(accounts: &[&str], domain: &str, secret: Option<&str>) -> CredSpec {
    let accounts: Vec<_> = accounts.iter().map(|name| serde_json::json!({"Name": name, "Scope": domain})).collect();
    let mut document = serde_json::json!({
        "CmsPlugins": ["ActiveDirectory"],
        "DomainJoinConfig": {"DnsName": domain},
        "ActiveDirectoryConfig": {"GroupManagedServiceAccounts": accounts},
    });
    if let Some(secret) = secret {
        document["ActiveDirectoryConfig"]["HostAccountConfig"] =
            serde_json::json!({"PluginInput": {"CredentialArn": secret_arn(secret)}});
    }
    CredSpec::parse(document.to_string().as_bytes()).unwrap()
}

/// The login of a secret.
pub(crate) fn login(secret: &str) -> LoginSource {
    LoginSource::Secret(secret_arn(secret).parse().unwrap())
}

fn secret_arn(name: &str) -> String {
    format!("arn:aws:secretsmanager:eu-central-1:123456789012:secret:{name}-AbCdEf")
}

/// A reference whose name is this one, a bucket's key.
pub(crate) fn reference(name: &str) -> Reference {
    name.parse().unwrap()
}

/// Files in memory. A write can be held up, as on a network's file system.
#[derive(Default)]
pub(crate) struct FakeFiles {
    state: Mutex<HeldTicket>,
    moved: Condvar,
}

#[derive(Default)]
struct HeldTicket {
    files: BTreeMap<PathBuf, Vec<u8>>,
    /// No write ends while this is set.
    gate: bool,
    /// Writes that wait.
    waiting: usize,
    refuses: Option<Code>,
}

impl FakeFiles {
    /// The paths of all files.
    pub(crate) fn paths(&self) -> Vec<String> {
        self.state.lock().unwrap().files.keys().map(|path| path.display().to_string()).collect()
    }

    /// The bytes of a file.
    pub(crate) fn read(&self, path: &str) -> Option<Vec<u8>> {
        self.state.lock().unwrap().files.get(&PathBuf::from(path)).cloned()
    }

    /// Plants a file.
    pub(crate) fn plant(&self, path: &str, bytes: Vec<u8>) {
        self.state.lock().unwrap().files.insert(path.into(), bytes);
    }

    /// Holds writes up, or lets them end.
    pub(crate) fn gate(&self, closed: bool) {
        self.state.lock().unwrap().gate = closed;
        self.moved.notify_all();
    }

    /// How many writes are held up.
    pub(crate) fn waiting(&self) -> usize {
        self.state.lock().unwrap().waiting
    }

    /// Every write fails from now on, or works again.
    pub(crate) fn refuse(&self, code: Option<Code>) {
        self.state.lock().unwrap().refuses = code;
    }
}

impl TicketFiles for FakeFiles {
    fn ccache_path(&self, folder: &LeaseFolder) -> PathBuf {
        folder.path().join("krb5cc")
    }

    fn found(&self, at: &Location, keytab: bool) -> Option<Zeroizing<Vec<u8>>> {
        let state = self.state.lock().unwrap();
        let found = state.files.get(&at.folder.path().join("krb5cc")).cloned().map(Zeroizing::new);
        found.filter(|_| !keytab || state.files.contains_key(&at.folder.path().join("krb5.keytab")))
    }

    fn put(&self, what: &Written) -> Result<(), Fault> {
        let mut state = self.state.lock().unwrap();
        state.waiting += 1;
        while state.gate {
            state = self.moved.wait(state).unwrap();
        }
        state.waiting -= 1;
        if let Some(code) = state.refuses {
            return Err(fault(code));
        }
        let folder = what.location.folder.path();
        let mut put = |path: PathBuf, bytes: &[u8]| state.files.insert(path, bytes.to_vec());
        put(folder.join("krb5cc"), what.cache.bytes());
        if let Some(conf) = &what.conf {
            put(folder.join("krb5.conf"), conf.to_string().as_bytes());
        }
        if what.location.at_root {
            put("krb5cc".into(), what.cache.bytes());
        }
        Ok(())
    }

    fn put_conf(&self, conf: Option<&Krb5Conf>, before: Option<&Krb5Conf>) -> Result<(), Fault> {
        let mut state = self.state.lock().unwrap();
        match (conf, before) {
            (Some(conf), _) => drop(state.files.insert("krb5.conf".into(), conf.to_string().into_bytes())),
            (None, Some(_)) => drop(state.files.remove(&PathBuf::from("krb5.conf"))),
            (None, None) => {}
        }
        Ok(())
    }

    fn restore(&self, what: &Written) -> Result<Vec<PathBuf>, Fault> {
        let path = what.location.folder.path().join("krb5cc");
        let intact = self.state.lock().unwrap().files.get(&path).is_some_and(|bytes| bytes == what.cache.bytes());
        if intact {
            return Ok(Vec::new());
        }
        self.put(what)?;
        Ok(vec![path])
    }

    fn restore_conf(&self, conf: &Krb5Conf) -> Result<Option<PathBuf>, Fault> {
        self.put_conf(Some(conf), None).map(|()| None)
    }

    fn watch(&self, _watch: &VolumeWatch, _locations: &[Location]) -> std::io::Result<()> {
        Ok(())
    }

    fn remove(&self, what: &Written, at_root: bool) -> Result<(), Fault> {
        let mut state = self.state.lock().unwrap();
        if let Some(code) = state.refuses {
            return Err(fault(code));
        }
        let folder = what.location.folder.path();
        for name in ["krb5cc", "krb5.conf"] {
            state.files.remove(&folder.join(name));
        }
        if at_root {
            state.files.remove(&PathBuf::from("krb5cc"));
        }
        Ok(())
    }
}

/// Leases in a world of fakes.
pub(crate) struct World {
    pub(crate) domains: Arc<FakeDomains>,
    pub(crate) specs: Arc<FakeSpecs>,
    pub(crate) files: Arc<FakeFiles>,
    pub(crate) statuses: Statuses,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) refresh: Refresh,
    pub(crate) manager: Manager,
}

impl World {
    /// Of `run`. The clock stands still but for what the test waits for.
    pub(crate) fn new() -> Self {
        Self::of(LeasePolicy::RUN)
    }

    pub(crate) fn of(policy: LeasePolicy) -> Self {
        let files = Arc::<FakeFiles>::default();
        Self::with_files(policy, Arc::clone(&files) as _, files)
    }

    /// With files elsewhere.
    pub(crate) fn with_files(policy: LeasePolicy, used: Arc<dyn TicketFiles>, files: Arc<FakeFiles>) -> Self {
        clock::fake::start();
        let (domains, specs) = (Arc::<FakeDomains>::default(), Arc::<FakeSpecs>::default());
        let (statuses, metrics, refresh) = (Statuses::default(), Arc::new(Metrics::new()), Refresh::default());
        let publisher = Publisher::new(used, None);
        let manager = Manager::new(
            Arc::clone(&domains) as _,
            publisher,
            statuses.clone(),
            Arc::clone(&metrics),
            refresh.clone(),
            policy,
        );
        Self { domains, specs, files, statuses, metrics, refresh, manager }
    }

    /// A lease of an account, with the login of the secret `login`.
    pub(crate) fn spec(&self, account: &str) -> LeaseSpec {
        let account: Account = account.parse().unwrap();
        LeaseSpec {
            domain: "corp.example.com".parse().unwrap(),
            login: login("login"),
            extras: Extras::default(),
            location: Location { folder: LeaseFolder::of(&account), at_root: false, ownership: Ownership::default() },
            account,
            krb5_conf: ConfAt::Both,
            order: Order::default(),
            named_by: "a test".to_owned(),
            fault: None,
        }
    }

    pub(crate) fn add(&self, account: &str) -> LeaseKey {
        self.manager.add(self.spec(account)).unwrap()
    }

    pub(crate) fn status(&self) -> Status {
        self.statuses.watch().borrow().clone()
    }

    /// The leases in the order of the reports: account or reference, and state or code.
    pub(crate) fn states(&self) -> Vec<String> {
        let now = clock::now();
        let state = |state: &LeaseState| match state {
            LeaseState::Pending(None) => "pending".to_owned(),
            LeaseState::Pending(Some(fault)) => format!("pending {}", fault.code),
            LeaseState::Held(held) if held.valid_at(now) => "held".to_owned(),
            LeaseState::Held(_) => "expired".to_owned(),
            LeaseState::Overdue(_, fault) => format!("overdue {}", fault.code),
        };
        let status = self.status();
        let name = |identity: &super::status::Identity| identity.account.to_string();
        let leases = status.leases.iter();
        leases
            .map(|lease| {
                let name = lease.identity.as_ref().map_or_else(|| lease.spec.clone(), name);
                format!("{name}: {}", state(&lease.state))
            })
            .collect()
    }

    /// Waits, without end where the test has a mistake, until the leases stand like this.
    pub(crate) async fn until(&self, states: &[&str]) {
        self.wait(|world| world.states() == states).await;
    }

    /// Waits until something holds; looks every half second of the test's clock at first, then less often.
    #[track_caller]
    pub(crate) fn wait(&self, holds: impl Fn(&Self) -> bool) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move {
            let begun = clock::fake::elapsed();
            for _ in 0..10_000 {
                if holds(self) {
                    return;
                }
                let waited = clock::fake::elapsed().saturating_sub(begun);
                tokio::time::sleep(Duration::from_millis(500).max(waited / 1000)).await;
            }
            panic!("{caller}: waited in vain; the leases stand {:#?}", self.states());
        }
    }

    /// Lets tokio's clock run.
    pub(crate) async fn pass(&self, seconds: u64) {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }

    /// When a lease's ticket expires.
    pub(crate) fn expiry(&self, account: &str) -> Option<SystemTime> {
        let status = self.status();
        let is_it = |lease: &&super::status::LeaseStatus| {
            lease.identity.as_ref().is_some_and(|identity| identity.account.as_str() == account)
        };
        status.leases.iter().find(is_it)?.state.held().map(|held| held.expires_at)
    }
}
