//! Tickets -> the volume: what is written, in which order, what is found there at a start, and that it stays.

mod restored;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tracing::Level;
use zeroize::Zeroizing;

use self::restored::{LossRecords, Pace};
use crate::clock;
use crate::directory::dc::Locator;
use crate::directory::{GmsaCredential, Renewal};
use crate::fault::{Code, Fault};
use crate::kerberos::{GmsaTgt, ServiceTicket, renewable, warm};
use crate::lease::manager::{ConfAt, LeaseSpec};
use crate::lease::ports::TicketFiles;
use crate::lease::status::{HeldTicket, LeaseKey, Order, ServiceHeld};
use crate::log;
use crate::name::Host;
use crate::volume::{
    KdcAddress, Krb5Conf, LeaseFolder, Location, RealmEntry, VolumeWatch, Written, read_private, write_private,
};

/// The volume with what all leases write together: krb5.conf names the realms of all of them.
pub struct Publisher {
    files: Arc<dyn TicketFiles>,
    /// Gives addresses for krb5.conf, where the app's resolver does not know the names of the DCs.
    addresses: Option<Arc<Locator>>,
    put: Mutex<Put>,
    /// Held while the root's krb5.conf is written, so that the newest one is the last.
    conf: Mutex<()>,
    /// Held while a lease's copies in the root are written, so that those of the right one are the last.
    root: Mutex<()>,
}

/// What lies on the volume, as far as this process put it there.
#[derive(Default)]
struct Put {
    leases: BTreeMap<LeaseKey, Published>,
    /// The root's krb5.conf as it was written last.
    conf: Option<Krb5Conf>,
}

/// What is known of one lease's files.
struct Published {
    order: Order,
    realm: RealmEntry,
    krb5_conf: ConfAt,
    at_root: bool,
    slot: Arc<Slot>,
}

/// One lease's files. A write that has begun ends on a thread of its own, whatever happens to the lease meanwhile.
#[derive(Default)]
struct Slot {
    /// The lease has ended: nothing is written any more.
    gone: AtomicBool,
    /// Held while files are written.
    written: Mutex<Option<Written>>,
}

impl Put {
    /// Whose files are copied to the root: of several leases that should be, the latest that has tickets.
    fn at_root(&self) -> Option<LeaseKey> {
        self.leases.iter().rev().find(|(_, kept)| kept.at_root).map(|(key, _)| *key)
    }

    /// The root's krb5.conf: the realms of all leases that are named there, in their order.
    fn krb5_conf(&self) -> Option<Krb5Conf> {
        let mut leases: Vec<_> = self.leases.iter().filter(|(_, kept)| kept.krb5_conf != ConfAt::Folder).collect();
        leases.sort_by_key(|(key, kept)| (kept.order, **key));
        let mut realms: Vec<RealmEntry> = Vec::new();
        for (_, Published { realm, .. }) in leases {
            if !realms.iter().any(|known| known.domain == realm.domain) {
                realms.push(realm.clone());
            }
        }
        let default = realms.first()?.domain.clone();
        Some(Krb5Conf { default, realms })
    }
}

impl Publisher {
    /// Writes to a volume. With a locator krb5.conf names addresses, else the names of the DCs.
    pub fn new(files: Arc<dyn TicketFiles>, addresses: Option<Arc<Locator>>) -> Arc<Self> {
        Arc::new(Self { files, addresses, put: Mutex::default(), conf: Mutex::default(), root: Mutex::default() })
    }

    /// Where a lease's cache lies.
    pub fn path(&self, folder: &LeaseFolder) -> PathBuf {
        self.files.ccache_path(folder)
    }

    /// The ticket that an earlier sidecar left, if it is the gMSA's and still good, with those for services. Without a
    /// keytab that it should have it does not count.
    pub async fn warm(&self, spec: &LeaseSpec) -> Option<HeldTicket> {
        let (files, at, keytab) = (Arc::clone(&self.files), spec.location.clone(), spec.extras.keytab);
        let image = tokio::task::spawn_blocking(move || files.found(&at, keytab)).await.ok()??;
        let found = warm(&image, &spec.account, &spec.domain.realm(), clock::now())?;
        let services = spec.extras.services.iter().map(|spn| {
            let ticket = found.services.iter().find(|(name, _)| spn.same_as(name));
            ServiceHeld { spn: spn.clone(), expires_at: ticket.map(|(_, end)| *end) }
        });
        Some(HeldTicket { services: services.collect(), ..HeldTicket::found(found.expires_at, found.issued_at) })
    }

    /// A renewable ticket that an earlier process left: our own, or one that another program left in the lease's folder.
    pub async fn bridge(&self, spec: &LeaseSpec) -> Option<GmsaCredential> {
        let (files, at, folder) = (Arc::clone(&self.files), spec.location.clone(), spec.extras.bridge.clone()?);
        let (account, realm) = (spec.account.clone(), spec.domain.realm());
        let found = tokio::task::spawn_blocking(move || {
            let usable = |image: Zeroizing<Vec<u8>>| renewable(&image, &account, &realm, clock::now());
            read_private(&folder).and_then(usable).or_else(|| files.found(&at, false).and_then(usable))
        });
        found.await.ok().flatten().and_then(GmsaCredential::of_ticket)
    }

    /// Writes krb5.conf and the keytab, then the tickets: an app that waits for its ticket finds the configuration too.
    pub async fn publish(
        self: &Arc<Self>,
        key: LeaseKey,
        spec: &LeaseSpec,
        renewal: &Renewal,
        services: &[ServiceTicket],
    ) -> Result<(), Fault> {
        let realm = RealmEntry { domain: spec.domain.clone(), kdcs: self.kdcs(&renewal.controllers).await };
        let own = Krb5Conf { default: realm.domain.clone(), realms: vec![realm.clone()] };
        let own = (spec.krb5_conf != ConfAt::Root).then_some(own);
        let cache = Arc::new(renewal.ticket.ccache(services));
        let slot = {
            let mut put = self.put();
            let kept = put.leases.entry(key).or_insert_with(|| Published {
                order: spec.order,
                realm: realm.clone(),
                krb5_conf: spec.krb5_conf,
                at_root: spec.location.at_root,
                slot: Arc::default(),
            });
            kept.realm = realm;
            Arc::clone(&kept.slot)
        };
        let (this, location) = (Arc::clone(self), spec.location.clone());
        let (keytab, with_keytab) = (renewal.keytab.clone(), spec.extras.keytab);
        blocking(move || {
            let mut written = slot.written.lock().unwrap_or_else(PoisonError::into_inner);
            if slot.gone.load(Ordering::Acquire) {
                return Ok(());
            }
            this.write_conf()?;
            let _root = location.at_root.then(|| this.root.lock().unwrap_or_else(PoisonError::into_inner));
            let location = Location { at_root: this.put().at_root() == Some(key), ..location };
            let before = written.as_ref().and_then(|written| written.keytab.clone());
            let keytab = keytab.or(before).filter(|_| with_keytab);
            let what = Written { location, cache, keytab, conf: own };
            // Also where not all could be written: what was goes with the lease.
            let done = this.files.put(&what);
            *written = Some(what);
            done
        })
        .await
    }

    /// Writes the renewable ticket that bridges a restart, where no container sees it.
    pub async fn publish_bridge(&self, key: LeaseKey, spec: &LeaseSpec, ticket: Arc<GmsaTgt>) -> Result<(), Fault> {
        let slot = self.put().leases.get(&key).map(|kept| Arc::clone(&kept.slot));
        let (Some(slot), Some(folder)) = (slot, spec.extras.bridge.clone()) else { return Ok(()) };
        blocking(move || {
            // A lease that ends waits for it, and nothing is written after that.
            let _writing = slot.written.lock().unwrap_or_else(PoisonError::into_inner);
            if slot.gone.load(Ordering::Acquire) { Ok(()) } else { write_private(&folder, &ticket.ccache([])) }
        })
        .await
    }

    /// The lease has another place among the others, or at the root.
    pub fn moved(&self, key: LeaseKey, spec: &LeaseSpec) {
        if let Some(kept) = self.put().leases.get_mut(&key) {
            (kept.order, kept.at_root, kept.krb5_conf) = (spec.order, spec.location.at_root, spec.krb5_conf);
        }
    }

    /// A lease has ended and another one takes its folder: nothing is removed.
    pub fn hand_over(&self, key: LeaseKey) {
        if let Some(kept) = self.put().leases.remove(&key) {
            kept.slot.gone.store(true, Ordering::Release);
        }
    }

    /// A lease has ended: removes what this process wrote for it.
    pub async fn remove(self: &Arc<Self>, key: LeaseKey) {
        let (kept, at_root) = {
            let mut put = self.put();
            let at_root = put.at_root() == Some(key);
            (put.leases.remove(&key), at_root)
        };
        let Some(Published { slot, .. }) = kept else { return };
        slot.gone.store(true, Ordering::Release);
        let this = Arc::clone(self);
        let removed = blocking(move || {
            let written = slot.written.lock().unwrap_or_else(PoisonError::into_inner).take();
            let Some(written) = written else { return Ok(()) };
            this.files.remove(&written, at_root)?;
            this.write_conf()
        });
        if let Err(fault) = removed.await {
            log::fault(Level::WARN, "volume.not-removed", &fault);
        }
    }

    /// Writes the root's krb5.conf as it should be now, or removes it where nobody needs it any more. Blocks.
    fn write_conf(&self) -> Result<(), Fault> {
        let _writing = self.conf.lock().unwrap_or_else(PoisonError::into_inner);
        let (conf, before) = {
            let put = self.put();
            (put.krb5_conf(), put.conf.clone())
        };
        self.files.put_conf(conf.as_ref(), before.as_ref())?;
        self.put().conf = conf;
        Ok(())
    }

    /// Puts back what somebody deletes, truncates or overwrites: at once where the file system tells of changes, and
    /// by looking now and then where it does not.
    pub async fn guard(self: &Arc<Self>) -> std::convert::Infallible {
        let watch = VolumeWatch::new().map(Arc::new);
        let mut unwatched = watch.as_ref().err().map(ToString::to_string);
        unwatched.iter().for_each(|why| not_watched(why));
        let watch = watch.ok();
        let (mut pace, mut reports) = (Pace::new(Instant::now()), LossRecords::default());
        let mut last: Option<Fault> = None;
        loop {
            match self.restore(watch.clone()).await {
                Ok(Restored { paths, watching }) => {
                    last = None;
                    paths.into_iter().for_each(|path| reports.restored(path, Instant::now()));
                    if watch.is_some() {
                        watching.iter().filter(|why| unwatched.as_ref() != Some(why)).for_each(|why| not_watched(why));
                        unwatched = watching;
                    }
                }
                Err(fault) if last.as_ref() == Some(&fault) => {}
                Err(fault) => {
                    log::fault(Level::ERROR, "volume.not-restored", &fault);
                    last = Some(fault);
                }
            }
            reports.catch_up(Instant::now());
            match &watch {
                Some(watch) => drop(timeout(LOOK, watch.changed()).await),
                None => sleep(LOOK).await,
            }
            // Whoever changes one file often changes several: let them finish.
            sleep(SETTLE.max(pace.take(Instant::now()))).await;
        }
    }

    async fn restore(self: &Arc<Self>, watch: Option<Arc<VolumeWatch>>) -> Result<Restored, Fault> {
        let this = Arc::clone(self);
        blocking(move || {
            let (conf, root, slots) = {
                let put = this.put();
                let slots: Vec<_> = put.leases.iter().map(|(key, kept)| (*key, Arc::clone(&kept.slot))).collect();
                (put.conf.is_some(), put.at_root(), slots)
            };
            let (mut paths, mut locations) = (Vec::new(), Vec::new());
            if conf {
                let _writing = this.conf.lock().unwrap_or_else(PoisonError::into_inner);
                let conf = this.put().conf.clone();
                paths.extend(conf.map(|conf| this.files.restore_conf(&conf)).transpose()?.flatten());
            }
            for (key, slot) in slots {
                let written = slot.written.lock().unwrap_or_else(PoisonError::into_inner);
                let Some(what) = written.as_ref().filter(|_| !slot.gone.load(Ordering::Acquire)) else { continue };
                let location = Location { at_root: root == Some(key), ..what.location.clone() };
                locations.push(location.clone());
                paths.extend(this.files.restore(&Written { location, ..what.clone() })?);
            }
            let watching = watch.and_then(|watch| this.files.watch(&watch, &locations).err());
            Ok(Restored { paths, watching: watching.map(|error| error.to_string()) })
        })
        .await
    }

    async fn kdcs(&self, controllers: &[Host]) -> Vec<KdcAddress> {
        let mut kdcs = Vec::new();
        for host in controllers.iter().take(KDCS) {
            match &self.addresses {
                None => kdcs.push(KdcAddress::Host(host.clone())),
                // A DC without an address is of no use to the app; the one that served has some.
                Some(locator) => {
                    kdcs.extend(locator.addresses(host).await.unwrap_or_default().into_iter().map(KdcAddress::Address));
                }
            }
        }
        kdcs
    }

    fn put(&self) -> MutexGuard<'_, Put> {
        self.put.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one look at the volume did.
struct Restored {
    paths: Vec<PathBuf>,
    /// Why the folders cannot be watched.
    watching: Option<String>,
}

fn not_watched(why: &str) {
    let every = humantime::format_duration(LOOK);
    tracing::warn!(event = "volume.not-watched", why, "changes are looked for every {every}");
}

/// A volume on a network may hang: not on the thread that answers `/health`.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Fault> + Send + 'static) -> Result<T, Fault> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(Fault::new(Code::InternalBug, "writing to the volume failed").caused_by(&error)))
}

/// How many KDCs krb5.conf names: clients try them one after the other, and further ones only lengthen a failure.
const KDCS: usize = 5;
/// How often the volume is looked at where nothing tells of changes.
const LOOK: Duration = Duration::from_secs(10);
const SETTLE: Duration = Duration::from_millis(100);
