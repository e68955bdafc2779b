//! What leases ask of the world, as traits: tests stand in for a directory, a store of CredSpecs and a volume.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::aws::{Aws, LONGEST_CALL};
use crate::credspec::{self, CredSpec, LoginSource, Reference};
use crate::directory::{Directories, Directory, Extras, GmsaCredential, Renewal};
use crate::fault::Fault;
use crate::kerberos::GmsaTgt;
use crate::name::{Account, Domain};
use crate::progress;
use crate::volume::{KRB5_CONF, Krb5Conf, LeaseFolder, Location, Volume, VolumeWatch, Written};

/// An answer that takes time.
pub type Asked<'a, T> = Pin<Box<dyn Future<Output = Result<T, Fault>> + Send + 'a>>;

/// One domain as one login sees it.
pub trait Renew: Send + Sync {
    /// Gets fresh tickets for a gMSA, with the key kept from the last time while that is good.
    fn renew<'a>(
        &'a self,
        account: &'a Account,
        kept: Option<GmsaCredential>,
        extras: &'a Extras,
    ) -> Asked<'a, Renewal>;

    /// Gets a renewable TGT with the key of the last renewal, once nobody waits for a ticket. None if there is none to be
    /// had: without it all is well, until a restart.
    fn bridge<'a>(&'a self, account: &'a Account, kept: GmsaCredential) -> Bridge<'a>;
}

/// A renewable TGT, in time.
pub type Bridge<'a> = Pin<Box<dyn Future<Output = Option<Arc<GmsaTgt>>> + Send + 'a>>;

/// Where a domain and a login lead to.
pub trait Domains: Send + Sync {
    /// The domain as this login sees it; those who ask with the same login share one. A login that cannot be had with
    /// this configuration is a fault.
    fn of(&self, domain: &Domain, login: &LoginSource) -> Result<Arc<dyn Renew>, Fault>;

    /// Lets go of what nobody uses any more.
    fn tidy(&self);
}

/// Where CredSpecs are read.
pub trait ReadSpecs: Send + Sync {
    /// Reads the document that a reference names.
    fn read<'a>(&'a self, reference: &'a Reference) -> Asked<'a, CredSpec>;

    /// Reads the list that a reference names, in its order; none if it names one document.
    fn list<'a>(&'a self, reference: &'a Reference) -> Option<Asked<'a, Vec<Reference>>>;
}

impl Renew for Directory {
    fn renew<'a>(
        &'a self,
        account: &'a Account,
        kept: Option<GmsaCredential>,
        extras: &'a Extras,
    ) -> Asked<'a, Renewal> {
        Box::pin(self.renew(account, kept, extras))
    }

    fn bridge<'a>(&'a self, account: &'a Account, kept: GmsaCredential) -> Bridge<'a> {
        Box::pin(async move { self.bridge(account, &kept).await })
    }
}

impl Domains for Directories {
    fn of(&self, domain: &Domain, login: &LoginSource) -> Result<Arc<dyn Renew>, Fault> {
        Ok(self.of(domain, login)?)
    }

    fn tidy(&self) {
        self.tidy();
    }
}

impl ReadSpecs for Aws {
    fn read<'a>(&'a self, reference: &'a Reference) -> Asked<'a, CredSpec> {
        let peer = self.endpoint_for(&reference.to_string());
        Box::pin(progress::during("credspec", peer, LONGEST_CALL, credspec::fetch(reference, self)))
    }

    fn list<'a>(&'a self, reference: &'a Reference) -> Option<Asked<'a, Vec<Reference>>> {
        let peer = self.endpoint_for(&reference.to_string());
        let listing = || progress::during("credspec", peer, LONGEST_CALL, credspec::list(reference, self));
        reference.is_list().then(|| Box::pin(listing()) as _)
    }
}

/// Where tickets are written. Every call blocks.
pub trait TicketFiles: Send + Sync {
    /// Where a lease's ccache lies.
    fn ccache_path(&self, folder: &LeaseFolder) -> PathBuf;

    /// What an earlier process left of a lease's tickets, if that is whole; its half-done files go.
    fn found(&self, at: &Location, keytab: bool) -> Option<Zeroizing<Vec<u8>>>;

    /// Writes what a lease has, its ccache last.
    fn put(&self, what: &Written) -> Result<(), Fault>;

    /// Writes the root's `krb5.conf`; without one, removes the one `before`.
    fn put_conf(&self, conf: Option<&Krb5Conf>, before: Option<&Krb5Conf>) -> Result<(), Fault>;

    /// Puts back what is not as `put` left it, and tells what that was.
    fn restore(&self, what: &Written) -> Result<Vec<PathBuf>, Fault>;

    /// The same for the root's `krb5.conf`.
    fn restore_conf(&self, conf: &Krb5Conf) -> Result<Option<PathBuf>, Fault>;

    /// Has changes of the root and of these folders reported, and of no others any more.
    ///
    /// # Errors
    /// The kernel cannot.
    fn watch(&self, watch: &VolumeWatch, locations: &[Location]) -> std::io::Result<()>;

    /// Removes what was put, in the root too if it is the lease's there.
    fn remove(&self, what: &Written, at_root: bool) -> Result<(), Fault>;
}

impl TicketFiles for Volume {
    fn ccache_path(&self, folder: &LeaseFolder) -> PathBuf {
        self.ccache_path(folder)
    }

    fn found(&self, at: &Location, keytab: bool) -> Option<Zeroizing<Vec<u8>>> {
        self.sweep_lease(at);
        self.read_ccache(at).filter(|_| !keytab || self.has_keytab(at))
    }

    fn put(&self, what: &Written) -> Result<(), Fault> {
        let Written { location, cache, keytab, conf } = what;
        if let Some(keytab) = keytab {
            self.write_keytab(location, keytab)?;
        }
        if let Some(conf) = conf {
            self.write_own_krb5_conf(location, conf)?;
        }
        self.write_ccache(location, cache)
    }

    fn put_conf(&self, conf: Option<&Krb5Conf>, before: Option<&Krb5Conf>) -> Result<(), Fault> {
        match (conf, before) {
            (Some(conf), _) => self.write_krb5_conf(conf).map(|_| ()),
            (None, Some(before)) => self.remove_krb5_conf(before),
            (None, None) => Ok(()),
        }
    }

    fn restore(&self, what: &Written) -> Result<Vec<PathBuf>, Fault> {
        let Written { location, cache, keytab, conf } = what;
        let mut restored = self.restore_ccache(location, cache)?;
        if let Some(keytab) = keytab {
            restored.extend(self.restore_keytab(location, keytab)?);
        }
        if let Some(conf) = conf
            && self.write_own_krb5_conf(location, conf)?
        {
            restored.push(self.path().join(location.folder.path()).join(KRB5_CONF));
        }
        Ok(restored)
    }

    fn restore_conf(&self, conf: &Krb5Conf) -> Result<Option<PathBuf>, Fault> {
        Ok(self.write_krb5_conf(conf)?.then(|| self.path().join(KRB5_CONF)))
    }

    fn watch(&self, watch: &VolumeWatch, locations: &[Location]) -> std::io::Result<()> {
        watch.follow(self, locations)
    }

    fn remove(&self, what: &Written, at_root: bool) -> Result<(), Fault> {
        self.remove(what, at_root)
    }
}
