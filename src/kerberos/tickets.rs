//! Tickets, a type for each use: the login's cannot reach the shared volume, the gMSA's cannot be lost sight of.

use std::time::SystemTime;

use krb5::{CCache, Credentials, Principal};

use crate::clock;
use crate::volume::CacheImage;

/// A ticket that an AS exchange brought, before it is told apart by its use.
pub struct Ticket {
    pub(super) credentials: Credentials,
    /// How far the KDC's clock is ahead of ours, in seconds.
    pub(super) offset: i64,
}

impl Ticket {
    /// The ticket of a gMSA for the ticket-granting service: what the volume is for.
    pub fn into_gmsa_tgt(self) -> GmsaTgt {
        GmsaTgt(self)
    }

    /// The login's ticket for a DC's LDAP service. It stays in memory.
    pub fn into_ldap_ticket(self) -> LdapTicket {
        LdapTicket(self)
    }
}

/// The TGT of a gMSA: the only ticket that may be written to the volume.
pub struct GmsaTgt(Ticket);

impl GmsaTgt {
    /// Whose ticket it is.
    pub fn client(&self) -> &Principal {
        &self.0.credentials.client
    }

    /// When it expires, by our clock.
    pub fn expires_at(&self) -> SystemTime {
        clock::shifted(clock::from_unix(self.0.credentials.endtime), -self.0.offset)
    }

    /// How far the KDC's clock is ahead of ours, in seconds; 0 where it makes no difference.
    pub fn clock_offset(&self) -> i64 {
        self.0.offset
    }

    /// A FILE ccache, version 4, with this TGT (MIT's `ccache_file_format`). It tells clients the KDC's clock, so that
    /// theirs may be as wrong as ours.
    pub fn ccache(&self) -> CacheImage {
        let mut cache = CCache::with_credentials(&self.0.credentials);
        if let Ok(seconds @ (i32::MIN..=-1 | 1..)) = i32::try_from(self.0.offset) {
            let microseconds = 0_i32;
            cache.header.push((DELTATIME, [seconds.to_be_bytes(), microseconds.to_be_bytes()].concat()));
        }
        CacheImage::of_gmsa(cache.encode())
    }
}

/// The login's ticket for `ldap/<dc>`.
pub struct LdapTicket(Ticket);

impl LdapTicket {
    pub(super) fn credentials(&self) -> &Credentials {
        &self.0.credentials
    }

    /// How far the KDC's clock is ahead of ours, in seconds; 0 where it makes no difference.
    pub fn clock_offset(&self) -> i64 {
        self.0.offset
    }
}

/// The header field of a ccache for the KDC's time minus ours.
const DELTATIME: u16 = 1;
