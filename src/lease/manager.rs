//! The one door to leases: they are added, changed, renewed on demand, waited for and removed while the process runs.
//!
//! CredSpecs that are followed, `init` and requests from outside all come through here. Each lease is one task; what no
//! lease needs any more is let go.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::Instrument;

use super::Lease;
use super::follow::LookAgain;
use super::metrics::Metrics;
use super::ports::Domains;
use super::publisher::Publisher;
use super::refresh::Refresh;
use super::schedule::Backoff;
use super::status::{HeldTicket, Identity, LeaseKey, LeaseState, Order, Statuses};
use crate::credspec::{LoginSource, account_twice};
use crate::directory::Extras;
use crate::fault::{Code, Fault};
use crate::name::{Account, Domain};
use crate::volume::Location;

/// What a lease is to keep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseSpec {
    /// The gMSA.
    pub account: Account,
    /// Its domain.
    pub domain: Domain,
    /// Who reads its password.
    pub login: LoginSource,
    /// What is kept beside its TGT.
    pub extras: Extras,
    /// Where it is written, and for whom.
    pub location: Location,
    /// Where its krb5.conf is.
    pub krb5_conf: ConfAt,
    /// Its place in reports.
    pub order: Order,
    /// What names it, for reports and messages: an ARN, `file:///path`, or `inline`.
    pub named_by: String,
    /// What is wrong with the newest version of what names it, while an older one stays in use.
    pub fault: Option<Fault>,
}

/// Where the app's krb5.conf is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfAt {
    /// In the volume's root: one for all leases, with all their realms.
    Root,
    /// In the lease's own folder, with its realm alone: for who mounts that folder.
    Folder,
    /// In both.
    Both,
}

impl LeaseSpec {
    /// Whether something else is to be written than by `before`.
    pub(super) fn writes_otherwise(&self, before: &Self) -> bool {
        (&self.extras, &self.location, self.krb5_conf) != (&before.extras, &before.location, before.krb5_conf)
    }

    /// Whether somebody else reads the password.
    pub(super) fn asks_otherwise(&self, before: &Self) -> bool {
        self.login != before.login
    }

    fn identity(&self, publisher: &Publisher) -> Identity {
        let path = publisher.path(&self.location.folder);
        Identity { account: self.account.clone(), domain: self.domain.clone(), path }
    }
}

/// The ticket, or why there is none.
pub type Outcome = Result<HeldTicket, Fault>;

/// How the leases of a process behave.
#[derive(Debug, Clone, Copy)]
pub struct LeasePolicy {
    /// A valid ticket that an earlier process left counts.
    pub warm_start: bool,
    /// A fault of the configuration ends the process, as long as it was never ready.
    pub config_ends: bool,
    /// The longest wait after a fault that may pass.
    pub longest_wait: Option<Duration>,
    /// A login that comes in place of another is proven at the next renewal, although the kept key would do: whoever
    /// brought it waits for the answer.
    pub proves_logins: bool,
    /// How many leases there may be. A list of CredSpecs is as long as whoever writes to its bucket likes.
    pub most_leases: usize,
    /// Whoever asks for a renewal gets one also after a failure, unless that is seconds old: then it is the answer.
    pub answers: bool,
}

impl LeasePolicy {
    /// That of `run`.
    pub const RUN: Self = Self {
        warm_start: true,
        config_ends: true,
        longest_wait: None,
        proves_logins: false,
        answers: false,
        most_leases: MOST_OF_A_TASK,
    };
    /// That of `init`, which has little time and always asks the directory.
    pub const INIT: Self = Self { warm_start: false, longest_wait: Some(Duration::from_secs(5)), ..Self::RUN };
    /// That of a process that serves many: no lease ends it.
    pub const HOST: Self =
        Self { config_ends: false, proves_logins: true, answers: true, most_leases: usize::MAX, ..Self::RUN };

    /// Whether a fault ends the process.
    pub fn ends_with(self, fault: &Fault, ever_ready: bool) -> bool {
        self.config_ends && !ever_ready && fault.code.is_config()
    }
}

/// gMSAs of one task. Each takes about 70 KiB, and what runs with 64 MiB must not be ended by a list.
const MOST_OF_A_TASK: usize = 512;

/// What all leases share. Clones are one and the same.
#[derive(Clone)]
pub struct Manager(Arc<ManagerState>);

struct ManagerState {
    domains: Arc<dyn Domains>,
    publisher: Arc<Publisher>,
    statuses: Statuses,
    metrics: Arc<Metrics>,
    refresh: Refresh,
    policy: LeasePolicy,
    leases: Mutex<Leases>,
    /// Counts the folders that were let go, or would be.
    freed: watch::Sender<u64>,
}

#[derive(Default)]
struct Leases {
    /// The last key that was given out.
    last: u64,
    running: HashMap<LeaseKey, RunningLease>,
    /// Who writes to which folder, or did so last and has not ended yet.
    folders: HashMap<String, Claim>,
}

struct RunningLease {
    spec: watch::Sender<Arc<LeaseSpec>>,
    identity: Identity,
    asked: Arc<Notify>,
    outcome: watch::Receiver<Option<Outcome>>,
    task: JoinHandle<std::convert::Infallible>,
    /// Nothing names it any more: it goes on until its successors have tickets or somebody else needs its folder.
    retiring: bool,
}

struct Claim {
    key: LeaseKey,
    named_by: String,
    /// Of one that ends: closed once it has ended.
    ending: Option<Ended>,
}

/// Completes when a lease has ended and its files are gone.
#[derive(Debug, Clone)]
pub struct Ended(watch::Receiver<()>);

impl Ended {
    /// Waits for it. Nobody needs to.
    pub async fn wait(mut self) {
        while self.0.changed().await.is_ok() {}
    }
}

impl Manager {
    /// No leases yet; nothing is asked.
    pub fn new(
        domains: Arc<dyn Domains>,
        publisher: Arc<Publisher>,
        statuses: Statuses,
        metrics: Arc<Metrics>,
        refresh: Refresh,
        policy: LeasePolicy,
    ) -> Self {
        let (leases, freed) = (Mutex::default(), watch::Sender::new(0));
        Self(Arc::new(ManagerState { domains, publisher, statuses, metrics, refresh, policy, leases, freed }))
    }

    /// Begins a lease. Its ticket comes later: see [`wait`](Self::wait) and [`outcome`](Self::outcome).
    ///
    /// # Errors
    /// `config-account-twice` if another lease writes to the same folder, `credspec-too-large` if there are as many as
    /// there may be.
    pub fn add(&self, spec: LeaseSpec) -> Result<LeaseKey, Fault> {
        self.begin(spec, None)
    }

    /// The same for a CredSpec that is read again before each renewal.
    pub(super) fn begin(&self, spec: LeaseSpec, source: Option<Arc<dyn LookAgain>>) -> Result<LeaseKey, Fault> {
        let folder = spec.location.folder.folded();
        let mut leases = self.leases();
        let before = match leases.folders.get(&folder) {
            None => None,
            Some(Claim { ending: Some(ending), .. }) => Some(ending.clone()),
            Some(Claim { key, named_by, .. }) => {
                let key = *key;
                if !leases.running.get(&key).is_some_and(|running| running.retiring) {
                    return Err(account_twice(&spec.account, named_by, &spec.named_by));
                }
                self.end(&mut leases, key, false)
            }
        };
        let most = self.0.policy.most_leases;
        if leases.running.len() >= most {
            let what = format!("no lease is begun for the gMSA `{}`: the CredSpecs name too many", spec.account);
            let fault = Fault::new(Code::CredSpecTooLarge, what).because(format!("a task may have {most} gMSAs"));
            return Err(fault.with_next(format!("remove gMSAs that no container needs from {}", spec.named_by)));
        }
        let key = leases.next_key();
        let identity = spec.identity(&self.0.publisher);
        self.0.metrics.began(&identity);
        self.0.statuses.add(key, spec.order, &spec.named_by, Some(identity.clone()));
        let claim = Claim { key, named_by: spec.named_by.clone(), ending: None };
        leases.folders.insert(folder, claim);
        let span = tracing::info_span!("lease", gmsa = %identity.account, realm = identity.domain.realm());
        let (outcome, outcomes) = watch::channel(None);
        let (spec, specs) = watch::channel(Arc::new(spec));
        let asked = Arc::new(Notify::new());
        let lease = Lease {
            key,
            identity: identity.clone(),
            spec: specs,
            asked: Arc::clone(&asked),
            source,
            domains: Arc::clone(&self.0.domains),
            publisher: Arc::clone(&self.0.publisher),
            statuses: self.0.statuses.clone(),
            metrics: Arc::clone(&self.0.metrics),
            outcome,
            policy: self.0.policy,
        };
        let backoff = self.backoff();
        let work = async move {
            if let Some(before) = before {
                before.wait().await;
            }
            lease.keep(backoff).await
        };
        let task = tokio::spawn(work.instrument(span));
        leases.running.insert(key, RunningLease { spec, identity, asked, outcome: outcomes, task, retiring: false });
        Ok(key)
    }

    /// Changes what a lease keeps: all but its account, its domain and its folder, which make another lease. What is to
    /// be written otherwise is renewed at once; another login is used at the next renewal, or at once if the last failed.
    ///
    /// Returns whether there is such a lease.
    pub fn change(&self, key: LeaseKey, spec: LeaseSpec) -> bool {
        let leases = self.leases();
        let Some(running) = leases.running.get(&key) else { return false };
        let before = Arc::clone(&running.spec.borrow());
        let spec = LeaseSpec {
            account: before.account.clone(),
            domain: before.domain.clone(),
            location: Location { folder: before.location.folder.clone(), ..spec.location },
            ..spec
        };
        if *before == spec {
            return true;
        }
        if before.order != spec.order {
            self.0.statuses.reorder(key, spec.order);
        }
        self.0.publisher.moved(key, &spec);
        if before.fault != spec.fault {
            self.show(key, before.fault.as_ref(), spec.fault.as_ref());
        }
        running.spec.send_replace(Arc::new(spec));
        true
    }

    /// Shows what is wrong with the newest version of what names a lease, or that this is over.
    fn show(&self, key: LeaseKey, before: Option<&Fault>, now: Option<&Fault>) {
        self.0.statuses.change(key, |lease| match (now, &lease.state) {
            (Some(fault), _) => lease.state.fail(fault.clone()),
            (None, LeaseState::Overdue(held, shown)) if before.is_some_and(|before| before.is_like(shown)) => {
                lease.state = LeaseState::Held(held.clone());
            }
            (None, _) => {}
        });
    }

    /// What a lease keeps now.
    pub fn spec(&self, key: LeaseKey) -> Option<Arc<LeaseSpec>> {
        self.leases().running.get(&key).map(|running| Arc::clone(&running.spec.borrow()))
    }

    /// Asks a lease to renew now; past a back-off only where whoever asks is answered ([`LeasePolicy::answers`]). Several
    /// requests before it does are one.
    pub fn renew(&self, key: LeaseKey) {
        if let Some(running) = self.leases().running.get(&key) {
            running.asked.notify_one();
        }
    }

    /// What came of a lease's last attempt, and each time there is another one; nothing before the first. It is closed
    /// when the lease ends.
    pub fn outcome(&self, key: LeaseKey) -> Option<watch::Receiver<Option<Outcome>>> {
        self.leases().running.get(&key).map(|running| running.outcome.clone())
    }

    /// Waits until a lease has its tickets. A fault that `may_pass` is waited out until `deadline`; any other ends the
    /// wait, but not the lease: remove it if nobody needs it then.
    pub async fn wait(&self, key: LeaseKey, deadline: Instant, may_pass: impl Fn(&Fault) -> bool) -> Outcome {
        let gone = || Fault::new(Code::InternalBug, "the lease has ended");
        let Some(mut outcome) = self.outcome(key) else { return Err(gone()) };
        let mut last = None;
        loop {
            match outcome.borrow_and_update().clone() {
                Some(Ok(held)) => return Ok(held),
                Some(Err(fault)) if !may_pass(&fault) => return Err(fault),
                Some(Err(fault)) => last = Some(fault),
                None => {}
            }
            match tokio::time::timeout_at(deadline, outcome.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_closed)) => return Err(gone()),
                Err(_elapsed) => {
                    let late = || Fault::new(Code::TaskStartTimeout, "no ticket in time, and no step has failed yet");
                    return Err(last.unwrap_or_else(late));
                }
            }
        }
    }

    /// Ends a lease and removes the files that this process wrote for it. It does not begin another renewal; one under
    /// way is given up. A key that is not known any more is no fault.
    pub fn remove(&self, key: LeaseKey) -> Ended {
        let mut leases = self.leases();
        self.end(&mut leases, key, true).unwrap_or_else(|| Ended(watch::channel(()).1))
    }

    /// Marks a lease that nothing names any more, or takes that back: it goes on, but gives way to another that needs
    /// its folder.
    pub(super) fn retire(&self, key: LeaseKey, retiring: bool) {
        let mut leases = self.leases();
        let Some(running) = leases.running.get_mut(&key) else { return };
        let gives_way = retiring && !running.retiring;
        running.retiring = retiring;
        drop(leases);
        if gives_way {
            self.0.freed.send_modify(|count| *count += 1);
        }
    }

    /// How many leases there are.
    pub fn len(&self) -> usize {
        self.leases().running.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The folders that are written to, folded.
    pub fn folders(&self) -> Vec<String> {
        self.leases().folders.keys().cloned().collect()
    }

    /// Tells when a folder was let go, or would be.
    pub(super) fn freed(&self) -> watch::Receiver<u64> {
        self.0.freed.subscribe()
    }

    /// The waits of somebody who tries again as leases do.
    pub(super) fn backoff(&self) -> Backoff {
        Backoff::new(self.0.refresh.requests(), self.0.policy.longest_wait)
    }

    /// A key for an entry in the reports that is no lease yet.
    pub(super) fn next_key(&self) -> LeaseKey {
        self.leases().next_key()
    }

    pub(super) fn statuses(&self) -> &Statuses {
        &self.0.statuses
    }

    pub(super) fn metrics(&self) -> &Arc<Metrics> {
        &self.0.metrics
    }

    /// The fault with the time when it is tried again, unless it ends the process.
    pub fn tried_again(&self, fault: Fault, wake: SystemTime) -> Fault {
        let ends = self.0.policy.ends_with(&fault, self.0.statuses.ever_ready());
        fault.tried_again_at((!ends).then_some(wake))
    }

    /// Whether there is such a login at all.
    pub(super) fn knows(&self, domain: &Domain, login: &LoginSource) -> Result<(), Fault> {
        self.0.domains.of(domain, login).map(|_| ())
    }

    /// Takes a lease out, and has the rest done: what was begun must end before its files can go.
    fn end(&self, leases: &mut Leases, key: LeaseKey, remove: bool) -> Option<Ended> {
        let RunningLease { spec, identity, task, .. } = leases.running.remove(&key)?;
        task.abort();
        self.0.statuses.remove(key);
        let (ending, ended) = watch::channel(());
        let ended = Ended(ended);
        let folder = spec.borrow().location.folder.folded();
        if let Some(claim) = leases.folders.get_mut(&folder).filter(|claim| claim.key == key) {
            claim.ending = Some(ended.clone());
        }
        let shared = Arc::clone(&self.0);
        tokio::spawn(async move {
            let _aborted = task.await;
            if remove {
                shared.publisher.remove(key).await;
            } else {
                shared.publisher.hand_over(key);
            }
            shared.metrics.ended(&identity);
            shared.domains.tidy();
            let mut leases = shared.leases.lock().unwrap_or_else(PoisonError::into_inner);
            if leases.folders.get(&folder).is_some_and(|claim| claim.key == key) {
                leases.folders.remove(&folder);
                drop(leases);
                shared.freed.send_modify(|count| *count += 1);
            }
            drop(ending);
        });
        Some(ended)
    }

    fn leases(&self) -> MutexGuard<'_, Leases> {
        self.0.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Leases {
    fn next_key(&mut self) -> LeaseKey {
        self.last += 1;
        LeaseKey(self.last)
    }
}

#[cfg(test)]
mod tests;
