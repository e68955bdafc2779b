//! The leases of a host: added, renewed and deleted as the agent asks, and kept by a [`Keeper`].
//!
//! Each lease has its own state; no call waits for another but those for one login, which share one renewal.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use tokio::sync::{Mutex as AsyncMutex, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::clock;
use crate::config::ServiceTickets;
use crate::credspec::LoginSource;
use crate::fault::{Code, Fault};
use crate::name::Domain;

use super::document::Document;
use super::keeper::{AwsKeys, Duty, Files, Given, Got, Health, Keeper, Login, Need, Place};
use super::metadata::{Entry, HOST_SECRET};
use super::mounts::Mounts;
use super::name::{ArnTarget, Folder, LeaseId};
use super::renewal::Flights;
use super::status::Refused;
use super::tree::{Extra, Stored, Tree};

/// What the host says of all its leases.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Host {
    /// What is written, where a CredSpec says nothing of it.
    pub files: Files,
    /// The services whose tickets are kept, where a CredSpec names none.
    pub services: ServiceTickets,
    /// The secret whose login reads the managed passwords of a joined host, instead of the host's keytab.
    pub secret: Option<String>,
}

/// All leases of a host.
pub struct Daemon<K> {
    pub(super) keeper: K,
    host: Host,
    tree: Tree,
    leases: Mutex<BTreeMap<LeaseId, Lease>>,
    pub(super) flights: Flights,
}

/// One lease.
struct Lease {
    tickets: Vec<Ticket>,
    /// Whether the caller knows of it: until then it is only taken.
    granted: bool,
    /// When it was last known to be in use.
    seen: SystemTime,
    /// Looked at once and found unused.
    doubted: bool,
}

/// One ticket of a lease.
#[derive(Debug, Clone)]
pub(super) struct Ticket {
    pub(super) folder: Folder,
    pub(super) path: PathBuf,
    /// What the keeper does; nothing for what another program left in a form that cannot be kept.
    pub(super) duty: Option<Duty>,
    pub(super) entry: Entry,
    pub(super) extra: Extra,
}

impl Ticket {
    /// The domain of its login, where it is known.
    pub(super) fn login_domain(&self) -> Option<Domain> {
        self.extra.login_domain.as_ref()?.parse().ok()
    }

    pub(super) fn place(&self) -> Option<&Place> {
        self.duty.as_ref().map(|duty| &duty.place)
    }

    /// Whether a login that a request brings serves it.
    pub(super) fn is_domainless(&self) -> bool {
        let user = &self.entry.domainless_user;
        !user.is_empty() && !user.starts_with(HOST_SECRET) && self.entry.credspec_info.is_empty()
    }
}

/// What the caller gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Granted {
    /// The lease.
    pub lease: LeaseId,
    /// Its folders, in the order of the CredSpecs.
    pub folders: Vec<PathBuf>,
}

/// A ticket that is asked for.
struct Wish {
    document: Document,
    login: Login,
    entry: Entry,
    login_domain: Option<Domain>,
}

impl<K: Keeper> Daemon<K> {
    /// Takes over what an earlier process left.
    ///
    /// # Errors
    /// Faults of the folder.
    pub async fn start(dir: PathBuf, host: Host, keeper: K) -> Result<Arc<Self>, Fault> {
        let opened = move || {
            let tree = Tree::open(dir)?;
            let mounts = Mounts::of_host();
            let stored = tree.load(|path| mounts.as_ref().is_none_or(|mounts| mounts.has(path)));
            Ok((tree, stored))
        };
        let (tree, stored) = blocking(opened).await?;
        let daemon = Self { keeper, host, tree, leases: Mutex::default(), flights: Flights::default() };
        for lease in stored {
            daemon.adopt(lease);
        }
        Ok(Arc::new(daemon))
    }

    fn adopt(&self, stored: Stored) {
        let Stored { id, tickets, seen } = stored;
        let known = |(folder, entry, extra)| self.known(&id, folder, entry, extra);
        let tickets: Vec<_> = tickets.into_iter().map(known).collect();
        let kept = tickets.iter().filter(|ticket| ticket.duty.is_some()).count();
        tracing::info!(event = "host.lease-adopted", lease = %id, tickets = kept, left = tickets.len() - kept);
        for ticket in &tickets {
            let login = match ticket.entry.domainless_user.strip_prefix(HOST_SECRET) {
                Some(secret) => Some(Login::HostSecret(secret.to_owned())),
                None if ticket.entry.domainless_user.is_empty() && ticket.entry.credspec_info.is_empty() => {
                    Some(self.host_login())
                }
                None => None,
            };
            if let Some(duty) = &ticket.duty {
                self.keeper.resume(duty.clone(), login);
            }
        }
        self.leases().insert(id, Lease { tickets, granted: true, seen, doubted: false });
    }

    /// A ticket of an earlier process.
    fn known(&self, id: &LeaseId, folder: Folder, entry: Entry, extra: Extra) -> Ticket {
        let path = self.tree.folder(id, &folder);
        let names = entry.service_account_name.parse().ok().zip(entry.domain_name.parse().ok());
        let duty = names.map(|(account, domain)| Duty {
            place: Place { lease: id.clone(), folder: folder.clone() },
            account,
            domain,
            path: path.clone(),
            private: self.tree.private(id, &folder),
            files: extra.files(&self.host.files),
        });
        Ticket { folder, path, duty, entry, extra }
    }

    /// `AddKerberosLease`: all CredSpecs of a task, by the host's own login.
    pub async fn add_joined(self: &Arc<Self>, specs: &[String], deadline: Instant) -> Result<Granted, Refused> {
        let user = self.host.secret.as_ref().map(|secret| format!("{HOST_SECRET}{secret}"));
        let wishes = self.documents(specs)?.into_iter().map(|document| Wish {
            document,
            login: self.host_login(),
            entry: Entry { domainless_user: user.clone().unwrap_or_default(), ..Entry::default() },
            login_domain: None,
        });
        self.add(LeaseId::fresh(), wishes.collect(), deadline).await
    }

    /// `AddNonDomainJoinedKerberosLease`: by the login in the request.
    pub async fn add_domainless(
        self: &Arc<Self>,
        specs: &[String],
        login: Given,
        deadline: Instant,
    ) -> Result<Granted, Refused> {
        let login = Arc::new(login);
        let wishes = self.documents(specs)?.into_iter().map(|document| Wish {
            document,
            login: Login::Given(Arc::clone(&login)),
            entry: Entry { domainless_user: login.name.spelled.clone(), ..Entry::default() },
            login_domain: Some(login.domain.clone()),
        });
        self.add(LeaseId::fresh(), wishes.collect(), deadline).await
    }

    /// `AddKerberosArnLease`: CredSpecs in S3, each with the login that it names, into folders that the caller names.
    pub async fn add_by_arn(
        self: &Arc<Self>,
        arns: &[String],
        keys: AwsKeys,
        deadline: Instant,
    ) -> Result<Granted, Refused> {
        let targets: Vec<ArnTarget> = arns.iter().map(|arn| arn.parse()).collect::<Result<_, _>>()?;
        let lease = match targets.as_slice() {
            [] => return Err(Refused::invalid("The request names no CredSpec")),
            targets if targets.len() > SPECS => return Err(too_many()),
            [first, ..] => first.lease.clone(),
        };
        if targets.iter().any(|target| target.lease != lease) {
            return Err(Refused::invalid("The request names several leases"));
        }
        let keys = Arc::new(keys);
        let read = targets.iter().map(|target| self.wish_by_arn(target, &keys));
        let read = timeout_at(deadline, join_all(read)).await;
        let wishes = read.map_err(|_| Refused::Late("AWS did not answer in time".to_owned()))?;
        let wishes: Vec<_> = wishes.into_iter().collect::<Result<_, _>>()?;
        distinct(&wishes)?;
        let (places, logins): (Vec<_>, Vec<_>) =
            wishes.iter().map(|wish| (wish.document.folder.clone(), wish.login.clone())).unzip();
        match self.granted_before(&lease, &places)? {
            None => self.add(lease, wishes, deadline).await,
            // Asked again, as after an answer that was lost: the folders stay, since containers may have them.
            Some(granted) => {
                for (folder, login) in places.into_iter().zip(logins) {
                    let place = Place { lease: granted.lease.clone(), folder };
                    let renewed = timeout_at(deadline, self.keeper.renew(vec![place], login)).await;
                    let late = |_| Refused::Late("There was no ticket in time".to_owned());
                    renewed.map_err(late)?.into_iter().try_for_each(|(_, result)| result.map(|_| ()))?;
                }
                Ok(granted)
            }
        }
    }

    async fn wish_by_arn(&self, target: &ArnTarget, keys: &Arc<AwsKeys>) -> Result<Wish, Refused> {
        let document = self.keeper.cred_spec(&target.arn, keys).await?;
        let mut document = Document::parse(&document, &self.host)?;
        document.folder = target.folder.clone();
        let LoginSource::Secret(secret) = document.login.clone() else {
            let what = format!("the CredSpec `{}` names no login", target.arn.escape_debug());
            return Err(Fault::new(Code::CredSpecCredentialArnMissing, what).into());
        };
        let entry = Entry { credspec_info: target.arn.clone(), credential_arn: secret.to_string(), ..Entry::default() };
        Ok(Wish { document, login: Login::Secret(secret, Arc::clone(keys)), entry, login_domain: None })
    }

    /// The lease of that id, if it has just these folders.
    fn granted_before(&self, id: &LeaseId, folders: &[Folder]) -> Result<Option<Granted>, Refused> {
        let leases = self.leases();
        let Some(lease) = leases.get(id) else { return Ok(None) };
        let same = |ticket: &Ticket| ticket.duty.is_some() && folders.contains(&ticket.folder);
        if lease.granted && lease.tickets.len() == folders.len() && lease.tickets.iter().all(same) {
            let folders = folders.iter().map(|folder| self.tree.folder(id, folder)).collect();
            return Ok(Some(Granted { lease: id.clone(), folders }));
        }
        Err(Refused::invalid(format!("The lease {id} exists with other folders. Delete it first")))
    }

    /// Reads CredSpecs. Several for one account of one domain are one.
    fn documents(&self, specs: &[String]) -> Result<Vec<Document>, Refused> {
        if specs.is_empty() {
            return Err(Refused::invalid("The request holds no CredSpec"));
        }
        if specs.len() > SPECS {
            return Err(too_many());
        }
        let mut documents: Vec<Document> = Vec::new();
        for spec in specs {
            let document = Document::parse(spec.as_bytes(), &self.host)?;
            let same = |known: &Document| {
                known.account.same_as(document.account.as_str())
                    && known.domain == document.domain
                    && known.folder.same_as(&document.folder)
            };
            if !documents.iter().any(same) {
                documents.push(document);
            }
        }
        Ok(documents)
    }

    /// Gets all tickets of a lease or none. Whatever happens to the caller, half a lease does not stay.
    async fn add(self: &Arc<Self>, lease: LeaseId, wishes: Vec<Wish>, deadline: Instant) -> Result<Granted, Refused> {
        distinct(&wishes)?;
        let arrival = Arrival { daemon: Arc::clone(self), lease, files: Arc::default() };
        self.take(&arrival.lease)?;
        let (answer, answered) = oneshot::channel();
        tokio::spawn(arrival.run(wishes, deadline, answer));
        answered.await.unwrap_or(Err(Refused::Gone))
    }

    /// Takes an id, for which there is a place.
    fn take(&self, id: &LeaseId) -> Result<(), Refused> {
        let mut leases = self.leases();
        if leases.len() >= LEASES {
            return Err(Refused::Busy("This host has as many leases as it may have"));
        }
        let lease = Lease { tickets: Vec::new(), granted: false, seen: clock::now(), doubted: false };
        match leases.insert(id.clone(), lease) {
            None => Ok(()),
            Some(known) => {
                leases.insert(id.clone(), known);
                Err(Refused::invalid(format!("The lease {id} exists")))
            }
        }
    }

    fn ticket(&self, lease: &LeaseId, wish: &Wish) -> Ticket {
        let Document { account, domain, folder, files, .. } = wish.document.clone();
        let path = self.tree.folder(lease, &folder);
        let entry = Entry {
            krb_file_path: path.join(crate::volume::CCACHE).display().to_string(),
            service_account_name: account.to_string(),
            domain_name: domain.to_string(),
            ..wish.entry.clone()
        };
        let extra = Extra::new(&folder, &files, wish.login_domain.as_ref().map(ToString::to_string));
        let duty = Duty {
            place: Place { lease: lease.clone(), folder: folder.clone() },
            account,
            domain,
            path: path.clone(),
            private: self.tree.private(lease, &folder),
            files,
        };
        Ticket { folder, path, duty: Some(duty), entry, extra }
    }

    /// `DeleteKerberosLease`. A lease that is not known is deleted already.
    pub async fn delete(self: &Arc<Self>, id: LeaseId) -> Result<Vec<PathBuf>, Refused> {
        let lease = {
            let mut leases = self.leases();
            match leases.get(&id) {
                Some(lease) if lease.granted => leases.remove(&id),
                _ => None,
            }
        };
        let Some(lease) = lease else { return Ok(Vec::new()) };
        let daemon = Arc::clone(self);
        // Begun is done, whether or not anybody waits for it.
        let deleted = tokio::spawn(async move {
            let removed = daemon.forget(&id, &lease.tickets).await;
            let folders = lease.tickets.iter().map(|ticket| ticket.path.clone()).collect();
            match removed {
                Ok(()) => {
                    tracing::info!(event = "host.lease-deleted", lease = %id);
                    Ok(folders)
                }
                Err(fault) => {
                    // It can be asked for again.
                    daemon.leases().insert(id, lease);
                    Err(Refused::from(fault))
                }
            }
        });
        deleted.await.unwrap_or(Err(Refused::Gone))
    }

    async fn forget(&self, id: &LeaseId, tickets: &[Ticket]) -> Result<(), Fault> {
        join_all(tickets.iter().filter_map(Ticket::place).map(|place| self.keeper.remove(place))).await;
        let (tree, id) = (self.tree.clone(), id.clone());
        blocking(move || tree.remove(&id)).await
    }

    /// Removes leases that no container has had for a day: those whose answer was lost, and those that the agent has
    /// forgotten. A task may wait for its image, and the machine's clock may be set: nothing is removed at first sight.
    pub async fn sweep(self: &Arc<Self>, mounts: &Mounts, now: SystemTime) -> usize {
        let (mut unused, mut used) = (Vec::new(), Vec::new());
        for (id, lease) in self.leases().iter_mut().filter(|(_, lease)| lease.granted) {
            if mounts.has(&self.tree.dir().join(id.as_str())) {
                (lease.seen, lease.doubted) = (now, false);
                used.push(id.clone());
            } else if now.duration_since(lease.seen).is_ok_and(|since| since > UNUSED) {
                if lease.doubted {
                    unused.push(id.clone());
                }
                lease.doubted = true;
            } else {
                lease.doubted = false;
            }
        }
        let tree = self.tree.clone();
        let touched = blocking(move || {
            used.iter().for_each(|id| tree.touch(id, now));
            Ok(())
        });
        let _ = touched.await;
        let mut removed = 0;
        for id in unused {
            tracing::warn!(event = "host.lease-orphaned", lease = %id, "no container has mounted it for a day: removed");
            if self.delete(id).await.is_ok() {
                self.keeper.unused();
                removed += 1;
            }
        }
        removed
    }

    /// The tickets that a choice falls on, of leases that were granted.
    pub(super) fn tickets(&self, choose: impl Fn(&LeaseId, &Ticket) -> bool) -> Vec<Ticket> {
        let leases = self.leases();
        let granted = leases.iter().filter(|(_, lease)| lease.granted);
        granted.flat_map(|(id, lease)| lease.tickets.iter().filter(|ticket| choose(id, ticket)).cloned()).collect()
    }

    /// Notes what a renewal made known, on the disk too.
    pub(super) async fn note(&self, place: &Place, change: impl Fn(&mut Entry, &mut Extra)) {
        let tickets: Vec<_> = {
            let mut leases = self.leases();
            let Some(lease) = leases.get_mut(&place.lease) else { return };
            for ticket in lease.tickets.iter_mut().filter(|ticket| ticket.folder == place.folder) {
                change(&mut ticket.entry, &mut ticket.extra);
            }
            lease.tickets.iter().map(|ticket| (ticket.entry.clone(), ticket.extra.clone())).collect()
        };
        let (tree, id) = (self.tree.clone(), place.lease.clone());
        if let Err(fault) = blocking(move || tree.commit(&id, &tickets)).await {
            tracing::warn!(event = "host.lease-not-noted", lease = %place.lease, code = %fault.code, what = %fault.what);
        }
    }

    /// How many leases there are.
    pub fn len(&self) -> usize {
        self.leases().values().filter(|lease| lease.granted).count()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How a ticket fares; one that cannot be kept needs nothing that we have.
    pub(super) fn health(&self, ticket: &Ticket) -> Health {
        ticket.place().map_or(Health { need: Need::Nothing, expires_at: None }, |place| self.keeper.health(place))
    }

    fn host_login(&self) -> Login {
        self.host.secret.clone().map_or(Login::Host, Login::HostSecret)
    }

    fn leases(&self) -> MutexGuard<'_, BTreeMap<LeaseId, Lease>> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A lease on its way.
struct Arrival<K> {
    daemon: Arc<Daemon<K>>,
    lease: LeaseId,
    /// Held while something is written, also by a thread whose task was given up.
    files: Arc<AsyncMutex<()>>,
}

impl<K: Keeper> Arrival<K> {
    /// Grants the lease, or leaves nothing of it.
    async fn run(self, wishes: Vec<Wish>, deadline: Instant, mut answer: oneshot::Sender<Result<Granted, Refused>>) {
        let tickets: Vec<_> = wishes.iter().map(|wish| self.daemon.ticket(&self.lease, wish)).collect();
        let logins = wishes.into_iter().map(|wish| wish.login).collect();
        let result = tokio::select! {
            biased;
            () = answer.closed() => Err(Refused::Gone),
            result = timeout_at(deadline, self.get(tickets.clone(), logins)) => match result {
                Ok(result) => result,
                Err(_elapsed) => Err(self.late(&tickets)),
            },
        };
        let (refused, answer) = match result {
            Err(refused) => (refused, Some(answer)),
            Ok(kept) => {
                let folders = kept.iter().map(|ticket| ticket.path.clone()).collect();
                let granted = Granted { lease: self.lease.clone(), folders };
                let names: Vec<_> = kept.iter().map(|ticket| ticket.entry.service_account_name.as_str()).collect();
                let names = names.join(", ");
                self.daemon.grant(&self.lease, kept);
                match answer.send(Ok(granted)) {
                    Ok(()) => {
                        tracing::info!(event = "host.lease-granted", lease = %self.lease, gmsa = names);
                        return;
                    }
                    Err(_unheard) => (Refused::Gone, None),
                }
            }
        };
        self.undo(&tickets, &refused).await;
        if let Some(answer) = answer {
            // If nobody hears it, nothing is left of the lease all the same.
            let _ = answer.send(Err(refused));
        }
    }

    async fn get(&self, mut tickets: Vec<Ticket>, logins: Vec<Login>) -> Result<Vec<Ticket>, Refused> {
        let (tree, lease) = (self.daemon.tree.clone(), self.lease.clone());
        let folders: Vec<_> = tickets.iter().map(|ticket| ticket.folder.clone()).collect();
        self.write(move || tree.begin(&lease, folders.iter())).await?;
        let duties = tickets.iter().filter_map(|ticket| ticket.duty.clone());
        let added = duties.zip(logins).map(|(duty, login)| self.daemon.keeper.add(duty, login));
        let added = join_all(added).await;
        for (ticket, got) in tickets.iter_mut().zip(added) {
            let Got { user, distinguished_name } = got?;
            ticket.entry.distinguished_name = distinguished_name.unwrap_or_default();
            if let Some(user) = user.filter(|_| ticket.entry.domainless_user.is_empty()) {
                ticket.entry.domainless_user = user;
            }
        }
        let (tree, lease) = (self.daemon.tree.clone(), self.lease.clone());
        let written: Vec<_> = tickets.iter().map(|ticket| (ticket.entry.clone(), ticket.extra.clone())).collect();
        self.write(move || tree.commit(&lease, &written)).await?;
        Ok(tickets)
    }

    /// Does something with the lease's files, after what was begun before.
    async fn write(&self, job: impl FnOnce() -> Result<(), Fault> + Send + 'static) -> Result<(), Fault> {
        let turn = Arc::clone(&self.files).lock_owned().await;
        blocking(move || {
            let _turn = turn;
            job()
        })
        .await
    }

    /// The reason to give when time is up: what the first ticket waits for, if that is known.
    fn late(&self, tickets: &[Ticket]) -> Refused {
        let fault = tickets.iter().filter_map(Ticket::place).find_map(|place| self.daemon.keeper.fault(place));
        fault.map_or_else(|| Refused::Late("There was no ticket in time".to_owned()), Refused::Fault)
    }

    async fn undo(&self, tickets: &[Ticket], why: &Refused) {
        let (code, text) = (why.grpc(), why.text());
        tracing::warn!(event = "host.lease-refused", lease = %self.lease, status = ?code, why = text);
        join_all(tickets.iter().filter_map(Ticket::place).map(|place| self.daemon.keeper.remove(place))).await;
        let (tree, lease) = (self.daemon.tree.clone(), self.lease.clone());
        if let Err(fault) = self.write(move || tree.remove(&lease)).await {
            tracing::warn!(event = "host.lease-not-removed", lease = %self.lease, code = %fault.code, what = %fault.what);
        }
        self.daemon.leases().remove(&self.lease);
    }
}

impl<K: Keeper> Daemon<K> {
    fn grant(&self, id: &LeaseId, tickets: Vec<Ticket>) {
        let lease = Lease { tickets, granted: true, seen: clock::now(), doubted: false };
        self.leases().insert(id.clone(), lease);
    }
}

/// Two accounts cannot share a folder, not even by names that differ in case.
fn distinct(wishes: &[Wish]) -> Result<(), Refused> {
    for (place, wish) in wishes.iter().enumerate() {
        if wishes[..place].iter().any(|other| other.document.folder.same_as(&wish.document.folder)) {
            let what = format!("two CredSpecs of the request name the folder `{}`", wish.document.folder);
            return Err(Fault::new(Code::ConfigAccountTwice, what).into());
        }
    }
    Ok(())
}

fn too_many() -> Refused {
    Refused::invalid(format!("The request holds more than {SPECS} CredSpecs"))
}

/// Runs what blocks on a thread of its own.
async fn blocking<T: Send + 'static>(job: impl FnOnce() -> Result<T, Fault> + Send + 'static) -> Result<T, Fault> {
    match tokio::task::spawn_blocking(job).await {
        Ok(result) => result,
        Err(error) => Err(Fault::new(Code::InternalBug, "work on files ended early").caused_by(&error)),
    }
}

/// CredSpecs in one request. A task has at most ten containers with one each.
const SPECS: usize = 64;

/// Leases on one host. An instance has at most some hundred tasks.
const LEASES: usize = 4096;

/// How long a lease stays that no container has.
const UNUSED: Duration = Duration::from_secs(24 * 60 * 60);
