//! One CredSpec, or a list of them -> leases, also when it comes to name others.
//!
//! A fault of one CredSpec ends at most its own leases; and where a new version of it cannot be used, what was known stays
//! in use.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tracing::Level;

use super::manager::{ConfAt, LeaseSpec, Manager};
use super::ports::ReadSpecs;
use super::schedule::retry;
use super::source::FollowedSpec;
use super::status::{LeaseKey, LeaseState, Order};
use crate::clock;
use crate::config::{Config, ServiceTickets};
use crate::credspec::{CredSpec, Overrides, Reference};
use crate::directory::Extras;
use crate::fault::Fault;
use crate::log;
use crate::name::{Account, Domain};
use crate::volume::{LeaseFolder, Location, Mode, Owner, Ownership};

/// What is read again before a renewal.
pub trait LookAgain: Send + Sync {
    /// Reads it, and has the leases follow.
    fn look_again(self: Arc<Self>) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

/// What the configuration says of all leases. What is set wins over what a CredSpec says.
#[derive(Debug, Clone, Default)]
pub struct LeaseDefaults {
    /// `GMSA_OWNER`.
    pub owner: Option<Owner>,
    /// `GMSA_MODE`, if it is set.
    pub mode: Option<Mode>,
    /// `GMSA_KEYTAB`, if it is set.
    pub keytab: Option<bool>,
    /// `GMSA_SERVICE_TICKETS`.
    pub services: ServiceTickets,
}

impl From<&Config> for LeaseDefaults {
    fn from(config: &Config) -> Self {
        Self {
            owner: config.owner,
            mode: config.mode_is_set.then_some(config.mode),
            keytab: config.keytab_is_set.then_some(config.keytab),
            services: config.service_tickets.clone(),
        }
    }
}

impl LeaseDefaults {
    /// What is kept beside the TGT of `account`, and for whom it is written.
    pub(crate) fn of(&self, account: &Account, overrides: &Overrides) -> (Extras, Ownership) {
        let mut services = self.services.of(account);
        if services.is_empty() {
            services = overrides.service_tickets.clone().unwrap_or_default();
        }
        let keytab = self.keytab.or(overrides.keytab).unwrap_or_default();
        let owner = self.owner.or(overrides.owner);
        let mode = self.mode.or(overrides.mode).unwrap_or_default();
        (Extras { services, keytab, bridge: None }, Ownership { owner, mode })
    }
}

/// One CredSpec that is followed.
pub struct Followed {
    source: FollowedSpec,
    manager: Manager,
    settings: Arc<LeaseDefaults>,
    /// Its place among the CredSpecs.
    order: Order,
    krb5_conf: ConfAt,
    state: Mutex<FollowState>,
    /// The leases were brought in line.
    applied: Notify,
}

#[derive(Default)]
struct FollowState {
    /// Its entry in the reports while it has no lease.
    entry: Option<LeaseKey>,
    /// Whether its first account's files are copied to the volume's root.
    at_root: bool,
    newest: Option<Arc<CredSpec>>,
    /// The leases that the version in use names, and those that it names no more, until these have tickets.
    leases: Vec<Named>,
    retiring: Vec<Named>,
    /// Why the newest version is not in use, how often that was found, and when it is tried again.
    unusable: Option<Fault>,
    failures: u32,
    retry_at: Option<SystemTime>,
    ended: bool,
}

#[derive(Clone)]
struct Named {
    key: LeaseKey,
    account: Account,
    domain: Domain,
}

impl Followed {
    /// Reads the CredSpec until it is there, and again whenever it changes. It ends with [`end`](Self::end).
    pub fn start(
        reference: Reference,
        reader: Arc<dyn ReadSpecs>,
        manager: &Manager,
        settings: Arc<LeaseDefaults>,
        order: Order,
        at_root: bool,
    ) -> Arc<Self> {
        Self::new(reference, reader, manager, settings, order, at_root, ConfAt::Root)
    }

    fn new(
        reference: Reference,
        reader: Arc<dyn ReadSpecs>,
        manager: &Manager,
        settings: Arc<LeaseDefaults>,
        order: Order,
        at_root: bool,
        krb5_conf: ConfAt,
    ) -> Arc<Self> {
        let entry = manager.next_key();
        let source = FollowedSpec::new(reference, reader, Arc::clone(manager.metrics()));
        manager.statuses().add(entry, order, &source.name(), None);
        let state = Mutex::new(FollowState { entry: Some(entry), at_root, ..FollowState::default() });
        let (manager, applied) = (manager.clone(), Notify::new());
        Arc::new(Self { source, manager, settings, order, krb5_conf, state, applied })
    }

    /// Follows it for ever.
    pub async fn follow(self: Arc<Self>) -> Infallible {
        self.read_first().await;
        let mut backoff = self.manager.backoff();
        let mut freed = self.manager.freed();
        let mut statuses = self.manager.statuses().watch();
        loop {
            let (retry_at, retires) = {
                let state = self.state();
                (state.unusable.as_ref().and(state.retry_at), !state.retiring.is_empty())
            };
            let wake = retry_at.unwrap_or_else(clock::now);
            tokio::select! {
                () = self.applied.notified() => {}
                () = self.source.changed() => self.read_again().await,
                _ = freed.changed(), if retry_at.is_some() => self.apply(),
                () = backoff.pause(wake), if retry_at.is_some() => {
                    self.read_again().await;
                    self.apply();
                }
                _ = statuses.changed(), if retires => self.let_go(),
            }
        }
    }

    async fn read_first(self: &Arc<Self>) {
        let mut backoff = self.manager.backoff();
        loop {
            match self.source.read().await {
                Ok(read) => return self.take(read),
                Err(fault) => {
                    let wake = clock::now() + backoff.failed(&fault);
                    self.not_read(self.manager.tried_again(fault, wake));
                    backoff.pause(wake).await;
                }
            }
        }
    }

    fn not_read(&self, fault: Fault) {
        let Some(entry) = self.state().entry else { return };
        let statuses = self.manager.statuses();
        let known = statuses.fault(entry).is_some_and(|known| known.is_like(&fault));
        statuses.change(entry, |lease| {
            lease.attempts += 1;
            lease.next_renewal_at = fault.next_attempt_at;
            lease.state = LeaseState::Pending(Some(fault.clone()));
        });
        log::fault(if known { Level::DEBUG } else { Level::ERROR }, "credspec.pending", &fault);
    }

    async fn read_again(self: &Arc<Self>) {
        if let Ok(read) = self.source.read().await {
            self.take(read);
        }
    }

    fn take(self: &Arc<Self>, read: Option<Arc<CredSpec>>) {
        if let Some(read) = read {
            self.state().newest = Some(read);
            self.apply();
        }
    }

    /// Brings the leases in line with the newest version, as far as that can be used.
    fn apply(self: &Arc<Self>) {
        let mut unusable = None;
        {
            let mut state = self.state();
            let Some(newest) = state.newest.clone().filter(|_| !state.ended) else { return };
            let before = state.unusable.take();
            match self.align(&mut state, &newest) {
                Ok(()) => (state.failures, state.retry_at) = (0, None),
                Err(fault) => {
                    state.failures = state.failures.saturating_add(1);
                    let wake = clock::now() + retry(fault.code, state.failures, rand::random());
                    let fault = self.manager.tried_again(fault, wake);
                    self.keep_known(&mut state, &fault);
                    let known = before.is_some_and(|before| before.is_like(&fault));
                    unusable = Some((fault.clone(), known));
                    (state.unusable, state.retry_at) = (Some(fault), Some(wake));
                }
            }
        }
        if let Some((fault, known)) = unusable {
            self.manager.metrics().fault(fault.code);
            log::fault(if known { Level::DEBUG } else { Level::ERROR }, "credspec.unusable", &fault);
        }
        self.let_go();
        self.applied.notify_one();
    }

    fn align(self: &Arc<Self>, state: &mut FollowState, newest: &CredSpec) -> Result<(), Fault> {
        let mut before = std::mem::take(&mut state.leases);
        before.append(&mut state.retiring);
        // Another CredSpec may have taken a folder over meanwhile.
        before.retain(|named| self.manager.spec(named.key).is_some());
        let is_named = |named: &Named| {
            named.domain == *newest.domain_of(&named.account) && newest.accounts().contains(&named.account)
        };
        for named in &before {
            self.manager.retire(named.key, !is_named(named));
        }
        // A lease of a CredSpec that is new reports itself that there is no such login.
        if !before.is_empty()
            && let Err(fault) = self.manager.knows(newest.domain(), newest.login())
        {
            state.leases = before;
            return Err(fault);
        }
        let mut unusable = None;
        for (place, account) in newest.accounts().iter().enumerate() {
            let spec = self.lease_spec(state.at_root, newest, account, place);
            if let Some(at) = before.iter().position(|named| named.account == *account && is_named(named)) {
                let named = before.swap_remove(at);
                self.manager.change(named.key, spec);
                state.leases.push(named);
                continue;
            }
            match self.manager.begin(spec, Some(Arc::clone(self) as Arc<dyn LookAgain>)) {
                Ok(key) => state.leases.push(Named {
                    key,
                    account: account.clone(),
                    domain: newest.domain_of(account).clone(),
                }),
                Err(fault) => unusable = unusable.or(Some(fault)),
            }
        }
        before.retain(|named| self.manager.spec(named.key).is_some());
        match unusable {
            None => {
                state.retiring = before;
                self.remove_entry(state);
                Ok(())
            }
            Some(fault) => {
                state.leases.append(&mut before);
                Err(fault)
            }
        }
    }

    /// What was known stays in use, and shows why it is not the newest; but it gives way to another CredSpec that names
    /// the same gMSA.
    fn keep_known(&self, state: &mut FollowState, fault: &Fault) {
        for named in &state.leases {
            if let Some(known) = self.manager.spec(named.key) {
                self.manager.change(named.key, LeaseSpec { fault: Some(fault.clone()), ..LeaseSpec::clone(&known) });
            }
        }
        if state.leases.is_empty() {
            self.show_unusable(state, fault);
        } else {
            self.remove_entry(state);
        }
    }

    fn lease_spec(&self, at_root: bool, cred_spec: &CredSpec, account: &Account, place: usize) -> LeaseSpec {
        let (extras, ownership) = self.settings.of(account, cred_spec.overrides());
        LeaseSpec {
            account: account.clone(),
            domain: cred_spec.domain_of(account).clone(),
            login: cred_spec.login().clone(),
            extras,
            location: Location { folder: LeaseFolder::of(account), at_root: at_root && place == 0, ownership },
            krb5_conf: self.krb5_conf,
            order: Order { account: place, ..self.order },
            named_by: self.source.name(),
            fault: None,
        }
    }

    /// The entry of a CredSpec that has no lease tells why.
    fn show_unusable(&self, state: &mut FollowState, fault: &Fault) {
        let entry = *state.entry.get_or_insert_with(|| {
            let key = self.manager.next_key();
            self.manager.statuses().add(key, self.order, &self.source.name(), None);
            key
        });
        self.manager.statuses().change(entry, |lease| lease.state = LeaseState::Pending(Some(fault.clone())));
    }

    fn remove_entry(&self, state: &mut FollowState) {
        if let Some(entry) = state.entry.take() {
            self.manager.statuses().remove(entry);
        }
    }

    /// Ends what nothing names any more, once what is named has tickets.
    fn let_go(&self) {
        let mut state = self.state();
        if state.retiring.is_empty() {
            return;
        }
        let held = |named: &Named| {
            self.manager.outcome(named.key).is_none_or(|outcome| matches!(*outcome.borrow(), Some(Ok(_))))
        };
        let (all_held, now) = (state.leases.iter().all(held), clock::now());
        // One without a ticket serves nobody.
        let serves = |named: &Named| !all_held && self.manager.statuses().holds(named.key, now);
        for named in state.retiring.extract_if(.., |named| !serves(named)) {
            self.manager.remove(named.key);
        }
    }

    /// Nothing names the CredSpec any more: its leases end.
    pub fn end(&self) {
        let mut state = self.state();
        state.ended = true;
        self.remove_entry(&mut state);
        let leases = std::mem::take(&mut state.leases);
        for named in leases.into_iter().chain(std::mem::take(&mut state.retiring)) {
            self.manager.remove(named.key);
        }
    }

    /// Whether its first account's files are copied to the volume's root.
    fn is_at_root(&self) -> bool {
        self.state().at_root
    }

    /// Has its first account's files copied to the volume's root from now on.
    fn put_at_root(self: &Arc<Self>) {
        self.state().at_root = true;
        self.apply();
    }

    fn state(&self) -> MutexGuard<'_, FollowState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LookAgain for Followed {
    fn look_again(self: Arc<Self>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move { self.read_again().await })
    }
}

/// A list of CredSpecs that is followed.
pub struct FollowedList {
    reference: Reference,
    reader: Arc<dyn ReadSpecs>,
    manager: Manager,
    settings: Arc<LeaseDefaults>,
    order: Order,
    /// Whether the first CredSpec of the list has the copies in the volume's root.
    at_root: bool,
    /// Its entry in the reports until it was read.
    entry: Option<LeaseKey>,
    items: BTreeMap<String, ListedSpec>,
    /// How many there were: the place of the next one.
    seen: usize,
}

/// A CredSpec that the list names.
struct ListedSpec {
    followed: Arc<Followed>,
    task: AbortOnDrop,
}

impl FollowedList {
    /// Nothing is read yet.
    pub fn new(
        reference: Reference,
        reader: Arc<dyn ReadSpecs>,
        manager: &Manager,
        settings: Arc<LeaseDefaults>,
        order: Order,
        at_root: bool,
    ) -> Self {
        let manager = manager.clone();
        let entry = manager.next_key();
        manager.statuses().add(entry, order, &reference.to_string(), None);
        let items = BTreeMap::new();
        Self { reference, reader, manager, settings, order, at_root, entry: Some(entry), items, seen: 0 }
    }

    /// Reads the list again and again, for ever.
    pub async fn follow(mut self) -> Infallible {
        let statuses = self.manager.statuses().clone();
        let mut backoff = self.manager.backoff();
        let mut last: Option<Fault> = None;
        loop {
            let reader = Arc::clone(&self.reader);
            let read = match reader.list(&self.reference) {
                Some(reading) => reading.await,
                None => std::future::pending().await,
            };
            let wake = match read {
                Ok(references) => {
                    backoff.succeeded();
                    last = None;
                    self.align(references);
                    if let Some(entry) = self.entry.take() {
                        statuses.remove(entry);
                    }
                    clock::now() + LIST.mul_f64(0.75 + 0.5 * rand::random::<f64>())
                }
                Err(fault) => {
                    let wake = clock::now() + backoff.failed(&fault);
                    let fault = self.manager.tried_again(fault, wake);
                    self.manager.metrics().fault(fault.code);
                    if let Some(entry) = self.entry {
                        statuses.change(entry, |lease| {
                            lease.attempts += 1;
                            lease.next_renewal_at = Some(wake);
                            lease.state = LeaseState::Pending(Some(fault.clone()));
                        });
                    }
                    let known = last.as_ref().is_some_and(|last| last.is_like(&fault));
                    let event = if self.entry.is_some() { "credspec.pending" } else { "credspec.kept" };
                    log::fault(if known { Level::DEBUG } else { Level::ERROR }, event, &fault);
                    last = Some(fault);
                    wake
                }
            };
            backoff.pause(wake).await;
        }
    }

    /// Follows what the list names now, and no longer what it named before.
    fn align(&mut self, references: Vec<Reference>) {
        let names: Vec<_> = references.iter().map(Reference::to_string).collect();
        let gone: Vec<_> = self.items.extract_if(.., |name, _| !names.contains(name)).collect();
        let mut at_root = self.at_root && !self.items.values().any(|item| item.followed.is_at_root());
        for (name, reference) in names.into_iter().zip(references) {
            if let Some(item) = self.items.get(&name) {
                if std::mem::take(&mut at_root) {
                    item.followed.put_at_root();
                }
                continue;
            }
            let (reader, settings) = (Arc::clone(&self.reader), Arc::clone(&self.settings));
            let order = Order { item: self.seen, ..self.order };
            self.seen += 1;
            let at_root = std::mem::take(&mut at_root);
            // Who has a list serves several apps, each of which mounts its own folder.
            let both = ConfAt::Both;
            let followed = Followed::new(reference, reader, &self.manager, settings, order, at_root, both);
            if log::admits("credspec.found") {
                tracing::info!(event = "credspec.found", spec = name, "the list names a CredSpec");
            }
            let task = tokio::spawn(Arc::clone(&followed).follow());
            self.items.insert(name, ListedSpec { followed, task: AbortOnDrop(task.abort_handle()) });
        }
        for (spec, ListedSpec { followed, task }) in gone {
            if log::admits("credspec.gone") {
                tracing::info!(event = "credspec.gone", spec, "the list does not name this CredSpec any more");
            }
            drop(task);
            followed.end();
        }
    }
}

/// A task that ends with what holds it.
struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// How often a list is read, more or less.
const LIST: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
