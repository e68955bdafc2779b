//! Tickets -> the volume: what is written, in which order, what is found there at a start, and that it stays.

mod restored;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tracing::Level;

use self::restored::{Pace, Reports};
use crate::clock;
use crate::directory::dc::Locator;
use crate::directory::{Renewal, Wanted};
use crate::fault::{Code, Fault};
use crate::kerberos::{CacheImage, KeytabImage, ServiceTicket, warm};
use crate::lease::status::{Held, Identity, LeaseId, ServiceHeld};
use crate::log;
use crate::name::{Account, Domain, Host};
use crate::volume::{Kdc, Krb5Conf, RealmEntry, Volume, Watch};

/// The volume with what all leases write together: krb5.conf names the realms of all of them.
pub struct Outlet {
    volume: Volume,
    /// Gives addresses for krb5.conf, where the app's resolver does not know the names of the DCs.
    addresses: Option<Arc<Locator>>,
    written: Mutex<Written>,
}

/// What lies on the volume, as far as we put it there.
#[derive(Default)]
struct Written {
    realms: BTreeMap<LeaseId, RealmEntry>,
    conf: Option<Krb5Conf>,
    files: BTreeMap<LeaseId, Files>,
}

/// What lies in one account's folder, and for the first lease in the root too.
#[derive(Clone)]
struct Files {
    account: Account,
    cache: Arc<CacheImage>,
    keytab: Option<Arc<KeytabImage>>,
}

impl Outlet {
    /// Writes to `volume`. With a locator krb5.conf names addresses, else the names of the DCs.
    pub fn new(volume: Volume, addresses: Option<Arc<Locator>>) -> Self {
        Self { volume, addresses, written: Mutex::default() }
    }

    /// Where a gMSA's cache lies.
    pub fn path(&self, account: &Account) -> PathBuf {
        self.volume.ccache_path(account)
    }

    /// The ticket that an earlier sidecar left, if it is the gMSA's and still good, with those for services. Without a
    /// keytab that is wanted there is none to speak of.
    pub async fn warm(&self, identity: &Identity, wanted: &Wanted) -> Option<Held> {
        let (volume, account) = (self.volume.clone(), identity.account.clone());
        let keytab = wanted.keytab;
        let read = move || volume.read_ccache(&account).filter(|_| !keytab || volume.has_keytab(&account));
        let image = tokio::task::spawn_blocking(read).await.ok()??;
        let found = warm(&image, &identity.account, &identity.domain.realm(), clock::now())?;
        let services = wanted.services.iter().map(|spn| {
            let ticket = found.services.iter().find(|(name, _)| spn.same_as(name));
            ServiceHeld { spn: spn.clone(), expires_at: ticket.map(|(_, end)| *end) }
        });
        Some(Held { services: services.collect(), ..Held::found(found.expires_at, found.issued_at) })
    }

    /// Writes the keytab, if there is a new one, and krb5.conf, then the tickets: an app that waits for its ticket finds the configuration too.
    pub async fn publish(
        &self,
        id: LeaseId,
        identity: &Identity,
        renewal: &Renewal,
        services: &[ServiceTicket],
    ) -> Result<(), Fault> {
        let kdcs = self.kdcs(&renewal.controllers).await;
        let conf = self.krb5_conf(id, &identity.domain, kdcs);
        let image = Arc::new(renewal.ticket.ccache(services));
        let (volume, account) = (self.volume.clone(), identity.account.clone());
        let write = {
            let (image, keytab) = (Arc::clone(&image), renewal.keytab.clone());
            move || {
                if let Some(keytab) = keytab {
                    volume.write_keytab(&account, id.is_first(), &keytab)?;
                }
                volume.write_krb5_conf(&conf)?;
                volume.write_ccache(&account, id.is_first(), &image)?;
                Ok(conf)
            }
        };
        let conf = blocking(write).await?;
        let mut written = self.written();
        written.conf = Some(conf);
        let before = written.files.remove(&id).and_then(|files| files.keytab);
        let keytab = renewal.keytab.clone().or(before);
        written.files.insert(id, Files { account: identity.account.clone(), cache: image, keytab });
        Ok(())
    }

    /// A lease has ended: what it wrote is no longer looked after.
    pub fn forget(&self, id: LeaseId) {
        let mut written = self.written();
        written.files.remove(&id);
        written.realms.remove(&id);
    }

    /// Puts back what somebody deletes, truncates or overwrites: at once where the file system tells of changes, and
    /// by looking now and then where it does not.
    pub async fn guard(&self) -> std::convert::Infallible {
        let watch = Watch::new().map(Arc::new);
        let mut unwatched = watch.as_ref().err().map(ToString::to_string);
        unwatched.iter().for_each(|why| not_watched(why));
        let watch = watch.ok();
        let (mut pace, mut reports) = (Pace::new(Instant::now()), Reports::default());
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

    async fn restore(&self, watch: Option<Arc<Watch>>) -> Result<Restored, Fault> {
        let (conf, files) = {
            let written = self.written();
            (written.conf.clone(), written.files.clone())
        };
        let volume = self.volume.clone();
        blocking(move || {
            let mut paths = Vec::new();
            if let Some(conf) = conf
                && volume.write_krb5_conf(&conf)?
            {
                paths.push(volume.path().join("krb5.conf"));
            }
            for (id, Files { account, cache, keytab }) in &files {
                paths.extend(volume.restore_ccache(account, id.is_first(), cache)?);
                if let Some(keytab) = keytab {
                    paths.extend(volume.restore_keytab(account, id.is_first(), keytab)?);
                }
            }
            let accounts = files.values().map(|files| &files.account);
            let watching = watch.and_then(|watch| watch.follow(&volume, accounts).err()).map(|error| error.to_string());
            Ok(Restored { paths, watching })
        })
        .await
    }

    async fn kdcs(&self, controllers: &[Host]) -> Vec<Kdc> {
        let mut kdcs = Vec::new();
        for host in controllers.iter().take(KDCS) {
            match &self.addresses {
                None => kdcs.push(Kdc::Host(host.clone())),
                // A DC without an address is of no use to the app; the one that served has some.
                Some(locator) => {
                    kdcs.extend(locator.addresses(host).await.unwrap_or_default().into_iter().map(Kdc::Address));
                }
            }
        }
        kdcs
    }

    fn krb5_conf(&self, id: LeaseId, domain: &Domain, kdcs: Vec<Kdc>) -> Krb5Conf {
        let mut written = self.written();
        written.realms.insert(id, RealmEntry { domain: domain.clone(), kdcs });
        let mut realms: Vec<RealmEntry> = Vec::new();
        for entry in written.realms.values() {
            if !realms.iter().any(|known| known.domain == entry.domain) {
                realms.push(entry.clone());
            }
        }
        let default = realms.first().map_or_else(|| domain.clone(), |entry| entry.domain.clone());
        Krb5Conf { default, realms }
    }

    fn written(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
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
