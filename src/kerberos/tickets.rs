//! Tickets, a type for each use: the login's cannot reach the shared volume, the gMSA's cannot be lost sight of.

use std::time::SystemTime;

use der::Encode;
use der::asn1::GeneralizedTime;
use krb5::ccache::{Entry, same_principal};
use krb5::{CCache, Credentials, Principal};

use super::exchange::ExchangeError;
use super::messages::{EncKdcRepPart, EncTicketPart, KdcRep, TicketMessage, flags};
use super::{ClientKey, ENCTYPES, Key, Password};
use crate::clock;
use crate::name::Spn;
use crate::volume::CacheImage;

/// A ticket that an exchange brought, before it is told apart by its use.
pub struct Ticket {
    pub(super) credentials: Credentials,
    /// How far the KDC's clock is ahead of ours, in seconds.
    pub(super) offset: i64,
}

impl Ticket {
    /// What a verified reply holds.
    ///
    /// The `krb5` crate has no constructor for credentials: they are made through a cache entry, and that is what
    /// they end up as.
    pub(super) fn new(
        client: &Principal,
        server: &Principal,
        reply: &KdcRep,
        part: &EncKdcRepPart,
        offset: i64,
    ) -> Result<Self, ExchangeError> {
        let invalid = |what: &str| ExchangeError::Invalid(what.to_owned());
        let seconds = |time: &GeneralizedTime| {
            u32::try_from(time.to_unix_duration().as_secs()).map_err(|_| invalid("a time after 2106"))
        };
        let authtime = seconds(&part.authtime)?;
        // `Entry` has no constructor either: a configuration entry is taken and every field set.
        let mut cache = CCache::new(client.clone());
        cache.set_config("", None, &[]);
        let mut entry = cache.entries.pop().ok_or_else(|| invalid("no cache entry could be made"))?;
        entry.server = server.clone();
        entry.enctype = part.key.keytype;
        entry.key = part.key.keyvalue.as_bytes().to_vec();
        entry.authtime = authtime;
        entry.starttime = part.starttime.as_ref().map(seconds).transpose()?.unwrap_or(authtime);
        entry.endtime = seconds(&part.endtime)?;
        entry.renew_till = part.renew_till.as_ref().map(seconds).transpose()?.unwrap_or(0);
        entry.flags = flags(&part.flags);
        entry.ticket = reply.ticket.to_der()?;
        let credentials =
            entry.credentials().ok_or_else(|| invalid("a ticket or session key that is not understood"))?;
        Ok(Self { credentials, offset })
    }

    /// When it expires, by our clock.
    fn expires_at(&self) -> SystemTime {
        clock::shifted(clock::from_unix(self.credentials.endtime), -self.offset)
    }

    /// Whose ticket it is.
    pub fn client(&self) -> &Principal {
        &self.credentials.client
    }

    /// Whether the service's key is this one: it opens the ticket, and inside is the session key that the KDC gave us
    /// (RFC 4120 section 5.3).
    pub fn is_sealed_with(&self, key: &ClientKey) -> bool {
        self.session_key_inside(&key.key).is_some_and(|inside| {
            let ours = &self.credentials.session_key;
            inside.key.keytype == ours.enctype() && inside.key.keyvalue.as_bytes() == ours.bytes()
        })
    }

    /// Whether the service's key is made of one of the passwords. Costs a key derivation for each.
    ///
    /// # Errors
    /// The enctype of the ticket, if no key of it can be made here.
    pub fn is_sealed_by(&self, passwords: &[Password], salt: &[u8]) -> Result<bool, i32> {
        let Ok(ticket) = TicketMessage::decode(&self.credentials.ticket) else { return Ok(false) };
        let enctype = ticket.enc_part.etype;
        if !ENCTYPES.contains(&enctype) {
            return Err(enctype);
        }
        let mut keys = passwords.iter().map(|password| ClientKey::derive(enctype, password.as_str(), salt, None));
        Ok(keys.any(|key| key.is_ok_and(|key| self.is_sealed_with(&key))))
    }

    fn session_key_inside(&self, key: &Key) -> Option<EncTicketPart> {
        let ticket = TicketMessage::decode(&self.credentials.ticket).ok()?;
        if ticket.enc_part.etype != key.enctype() {
            return None;
        }
        let part = key.decrypt(USAGE_TICKET, ticket.enc_part.cipher.as_bytes()).ok()?;
        EncTicketPart::decode(&zeroize::Zeroizing::new(part)).ok()
    }

    /// A gMSA's ticket for the service `spn`.
    pub fn into_service_ticket(self, spn: Spn) -> ServiceTicket {
        ServiceTicket { ticket: self, spn }
    }

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
        self.0.expires_at()
    }

    /// What the ticket-granting service is asked with.
    pub fn as_ticket(&self) -> &Ticket {
        &self.0
    }

    /// How far the KDC's clock is ahead of ours, in seconds; 0 where it makes no difference.
    pub fn clock_offset(&self) -> i64 {
        self.0.offset
    }

    /// A FILE ccache, version 4, with this TGT and the service tickets of the same client (MIT's `ccache_file_format`).
    /// It tells clients the KDC's clock, so that theirs may be as wrong as ours.
    pub fn ccache<'a>(&self, services: impl IntoIterator<Item = &'a ServiceTicket>) -> CacheImage {
        let mut cache = CCache::with_credentials(&self.0.credentials);
        if let Ok(seconds @ (i32::MIN..=-1 | 1..)) = i32::try_from(self.0.offset) {
            let microseconds = 0_i32;
            cache.header.push((DELTATIME, [seconds.to_be_bytes(), microseconds.to_be_bytes()].concat()));
        }
        for service in services {
            let credentials = &service.ticket.credentials;
            if !same_principal(&credentials.client, self.client()) {
                continue;
            }
            let entry = Entry::from_credentials(credentials);
            if credentials.server.realm != self.client().realm {
                // A client that does not know the realm of a host looks under the empty one first: the referral realm
                // of MIT and Heimdal.
                let mut referred = entry.clone();
                referred.server.realm.clear();
                cache.entries.push(referred);
            }
            cache.entries.push(entry);
        }
        CacheImage::of_gmsa(cache.encode())
    }
}

#[cfg(test)]
impl Ticket {
    /// A ticket that no KDC issued, for tests of what is done with tickets.
    fn sample(account: &crate::name::Account, domain: &crate::name::Domain, server: &str, end: SystemTime) -> Self {
        let client = Principal::new(1, [account.sam_account_name()], domain.realm());
        let mut cache = CCache::new(client);
        cache.set_config("", None, &[]);
        let mut entry = cache.entries.pop().unwrap();
        entry.server = Principal::parse(&format!("{server}@{}", domain.realm())).unwrap();
        entry.enctype = 18;
        entry.key = vec![1; 32];
        entry.endtime = u32::try_from(crate::clock::unix(end)).unwrap();
        static TICKET: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
        let ticket = TICKET.get_or_init(|| {
            use crate::volume::sample;
            let cache = sample::cache("x", &[sample::Ticket(&["a"], 0, 1)]);
            CCache::decode(&cache).unwrap().entries[0].ticket.clone()
        });
        entry.ticket.clone_from(ticket);
        Self { credentials: entry.credentials().unwrap(), offset: 0 }
    }
}

#[cfg(test)]
impl GmsaTgt {
    /// A TGT that no KDC issued.
    pub(crate) fn sample(account: &crate::name::Account, domain: &crate::name::Domain, end: SystemTime) -> Self {
        Ticket::sample(account, domain, &format!("krbtgt/{}", domain.realm()), end).into_gmsa_tgt()
    }
}

#[cfg(test)]
impl ServiceTicket {
    /// A service ticket that no KDC issued.
    pub(crate) fn sample(
        account: &crate::name::Account,
        domain: &crate::name::Domain,
        spn: &Spn,
        end: SystemTime,
    ) -> Self {
        Ticket::sample(account, domain, &spn.to_string(), end).into_service_ticket(spn.clone())
    }
}

/// A gMSA's ticket for a service: the other kind that may be written to the volume, beside its TGT.
pub struct ServiceTicket {
    ticket: Ticket,
    spn: Spn,
}

impl ServiceTicket {
    /// The realm of the service.
    pub fn realm(&self) -> &str {
        &self.ticket.credentials.server.realm
    }

    /// The service, as it was asked for.
    pub fn spn(&self) -> &Spn {
        &self.spn
    }

    /// When it expires, by our clock.
    pub fn expires_at(&self) -> SystemTime {
        self.ticket.expires_at()
    }
}

/// The login's ticket for `ldap/<dc>/<domain>`.
pub struct LdapTicket(Ticket);

impl LdapTicket {
    /// What the DC is shown.
    pub(super) fn as_ticket(&self) -> &Ticket {
        &self.0
    }
}

/// Key usage number of a ticket (RFC 4120 section 7.5.1).
const USAGE_TICKET: u32 = 2;
/// The header field of a ccache for the KDC's time minus ours.
const DELTATIME: u16 = 1;
