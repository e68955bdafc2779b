//! Tickets, a type for each use: the login's cannot reach the shared volume, the gMSA's cannot be lost sight of.

use std::time::SystemTime;

use krb5::{CCache, Credentials, Principal};

use crate::clock;
use crate::volume::CacheImage;

/// A ticket that an AS exchange brought, before it is told apart by its use.
pub struct Ticket(pub(super) Credentials);

impl Ticket {
    /// The ticket of a gMSA for the ticket-granting service: what the volume is for.
    pub fn into_gmsa_tgt(self) -> GmsaTgt {
        GmsaTgt(self.0)
    }

    /// The login's ticket for a DC's LDAP service. It stays in memory.
    pub fn into_ldap_ticket(self) -> LdapTicket {
        LdapTicket(self.0)
    }
}

/// The TGT of a gMSA: the only ticket that may be written to the volume.
pub struct GmsaTgt(Credentials);

impl GmsaTgt {
    /// Whose ticket it is.
    pub fn client(&self) -> &Principal {
        &self.0.client
    }

    /// When it expires.
    pub fn expires_at(&self) -> SystemTime {
        clock::from_unix(self.0.endtime)
    }

    /// A FILE ccache, version 4, with this TGT (MIT's `ccache_file_format`).
    pub fn ccache(&self) -> CacheImage {
        CacheImage::of_gmsa(CCache::with_credentials(&self.0).encode())
    }
}

/// The login's ticket for `ldap/<dc>`.
pub struct LdapTicket(pub(super) Credentials);
