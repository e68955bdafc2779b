//! Tickets -> the volume: what is written, in which order, and what is found there at a start.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::clock;
use crate::dc::Locator;
use crate::directory::Renewal;
use crate::fault::{Code, Fault};
use crate::lease::{Held, Identity, LeaseId};
use crate::name::{Domain, Host};
use crate::volume::{Kdc, Krb5Conf, RealmEntry, Volume, warm};

/// The volume with what all leases write together: krb5.conf names the realms of all of them.
pub struct Outlet {
    volume: Arc<Volume>,
    /// Gives addresses for krb5.conf, where the app's resolver does not know the names of the DCs.
    addresses: Option<Arc<Locator>>,
    realms: Mutex<BTreeMap<LeaseId, RealmEntry>>,
}

impl Outlet {
    /// Writes to `volume`. With a locator krb5.conf names addresses, else the names of the DCs.
    pub fn new(volume: Volume, addresses: Option<Arc<Locator>>) -> Self {
        Self { volume: Arc::new(volume), addresses, realms: Mutex::default() }
    }

    /// Where a gMSA's cache lies.
    pub fn volume(&self) -> &Volume {
        &self.volume
    }

    /// The ticket that an earlier sidecar left, if it is the gMSA's and still good.
    pub async fn warm(&self, identity: &Identity) -> Option<Held> {
        let (volume, account) = (Arc::clone(&self.volume), identity.account.clone());
        let image = tokio::task::spawn_blocking(move || volume.read_ccache(&account)).await.ok()??;
        let found = warm(&image, &identity.account, &identity.domain.realm(), clock::now())?;
        Some(Held { expires_at: found.expires_at, renewed_at: found.issued_at, dc: None, kvno: None, took: None })
    }

    /// Writes krb5.conf, then the ticket: an app that waits for the ticket finds the configuration too.
    pub async fn publish(&self, id: LeaseId, identity: &Identity, renewal: Renewal) -> Result<(), Fault> {
        let conf = self.krb5_conf(id, &identity.domain, &renewal.controllers).await;
        let (volume, account) = (Arc::clone(&self.volume), identity.account.clone());
        let write = move || {
            volume.write_krb5_conf(&conf)?;
            volume.write_ccache(&account, id.is_first(), &renewal.ticket.ccache())
        };
        // A volume on a network may hang: not here, where /health is answered.
        let written = tokio::task::spawn_blocking(write).await;
        written
            .unwrap_or_else(|error| Err(Fault::new(Code::InternalBug, "writing the ticket failed").caused_by(&error)))
    }

    async fn krb5_conf(&self, id: LeaseId, domain: &Domain, controllers: &[Host]) -> Krb5Conf {
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
        let mut realms = self.realms.lock().unwrap_or_else(PoisonError::into_inner);
        realms.insert(id, RealmEntry { domain: domain.clone(), kdcs });
        let mut conf = Krb5Conf { default: domain.clone(), realms: Vec::new() };
        for (at, entry) in realms.values().enumerate() {
            if at == 0 {
                conf.default = entry.domain.clone();
            }
            if !conf.realms.iter().any(|known| known.domain == entry.domain) {
                conf.realms.push(entry.clone());
            }
        }
        conf
    }
}

/// How many KDCs krb5.conf names: clients try them one after the other, and further ones only lengthen a failure.
const KDCS: usize = 5;
