//! Tickets, a type for each use: the login's cannot reach the shared volume, the gMSA's cannot be lost sight of.

use std::time::SystemTime;

use der::Encode;
use der::asn1::GeneralizedTime;

use super::ccache::CacheImage;
use super::crypto::Key;
use super::exchange::ExchangeError;
use super::messages::{EncKdcRepPart, EncTicketPart, KdcRep, SealedTicket, flags};
use super::principal::Principal;
use super::{ClientKey, ENCTYPES, NT_SRV_INST, Password};
use crate::clock;
use crate::name::{Account, Spn};

/// A ticket with its session key. Times are Unix seconds.
#[derive(Clone)]
pub(super) struct Credentials {
    pub(super) client: Principal,
    /// As it was asked for.
    pub(super) server: Principal,
    pub(super) session_key: Key,
    pub(super) authtime: u32,
    pub(super) starttime: u32,
    pub(super) endtime: u32,
    /// 0 for a ticket that cannot be renewed.
    pub(super) renew_till: u32,
    /// RFC 4120 section 5.3, bit 0 the most significant.
    pub(super) flags: u32,
    /// In DER, as it came.
    pub(super) ticket: Vec<u8>,
}

/// A ticket that an exchange brought, before it is told apart by its use.
#[derive(Clone)]
pub struct Ticket {
    pub(super) credentials: Credentials,
    /// How far the KDC's clock is ahead of ours, in seconds.
    pub(super) offset: i64,
}

impl Ticket {
    /// What a verified reply holds.
    pub(super) fn new(
        client: &Principal,
        server: &Principal,
        reply: &KdcRep,
        part: &EncKdcRepPart,
        offset: i64,
    ) -> Result<Self, ExchangeError> {
        let authtime = seconds(&part.authtime)?;
        let ticket = reply.ticket.to_der()?;
        SealedTicket::decode(&ticket)?;
        let credentials = Credentials {
            client: client.clone(),
            server: server.clone(),
            session_key: Key::new(part.key.keytype, part.key.keyvalue.as_bytes())?,
            authtime,
            starttime: part.starttime.as_ref().map_or(Ok(authtime), seconds)?,
            endtime: seconds(&part.endtime)?,
            renew_till: part.renew_till.as_ref().map_or(Ok(0), seconds)?,
            flags: flags(&part.flags),
            ticket,
        };
        Ok(Self { credentials, offset })
    }

    /// When it expires, by our clock.
    fn expires_at(&self) -> SystemTime {
        clock::shifted(clock::from_unix(self.credentials.endtime.into()), -self.offset)
    }

    /// Whose ticket it is.
    pub fn client(&self) -> &Principal {
        &self.credentials.client
    }

    /// The enctype and the version of the service's key that the ticket is sealed with, as the ticket itself says.
    pub fn sealed_by(&self) -> Option<(i32, Option<u32>)> {
        let sealed = SealedTicket::decode(&self.credentials.ticket).ok()?.enc_part;
        Some((sealed.etype, sealed.kvno))
    }

    /// Whether this key of the service opens the ticket, and it holds the session key that the KDC told us (RFC 4120
    /// section 5.3).
    ///
    /// The reply proves the session key to whoever's key it was sealed with, but not the ticket, which anybody on the
    /// way may replace. Only who knows the service's key and the session key can make one that passes.
    pub fn is_sealed_with(&self, key: &ClientKey) -> bool {
        let Ok(SealedTicket { enc_part: sealed, .. }) = SealedTicket::decode(&self.credentials.ticket) else {
            return false;
        };
        if key.enctype() != sealed.etype {
            return false;
        }
        let opened = key.key.decrypt(USAGE_TICKET, sealed.cipher.as_bytes()).ok();
        let part = opened.and_then(|opened| EncTicketPart::decode(&opened).ok());
        let session_key = &self.credentials.session_key;
        part.is_some_and(|part| session_key.is(part.key.keytype, part.key.keyvalue.as_bytes()))
    }

    /// Whether the service's key is made of one of the passwords. Costs a key derivation for each.
    ///
    /// # Errors
    /// The enctype of the ticket, if no key of it can be made here.
    pub fn is_sealed_by(&self, passwords: &[Password], salt: &[u8]) -> Result<bool, i32> {
        let Some((enctype, _)) = self.sealed_by() else { return Ok(false) };
        if !ENCTYPES.contains(&enctype) {
            return Err(enctype);
        }
        let mut keys = passwords.iter().map(|password| ClientKey::derive(enctype, password, salt, None));
        Ok(keys.any(|key| key.is_ok_and(|key| self.is_sealed_with(&key))))
    }

    /// A gMSA's ticket for the service `spn`.
    pub fn into_service_ticket(self, spn: Spn) -> ServiceTicket {
        ServiceTicket { ticket: self, spn }
    }

    /// The ticket of this gMSA for the ticket-granting service of its own realm, which is what the volume is for; an
    /// error for any other.
    pub fn into_gmsa_tgt(self, gmsa: &Account) -> Result<GmsaTgt, ExchangeError> {
        let Credentials { client, server, .. } = &self.credentials;
        let is_gmsa = matches!(client.components.as_slice(), [name] if name.ends_with('$') && gmsa.same_as(name));
        let is_tgt = server.same_as(&Principal::krbtgt(&client.realm)) && server.name_type == NT_SRV_INST;
        if !is_gmsa || !is_tgt {
            let what = format!("a ticket of `{client}` for `{server}` is not the ticket-granting ticket of `{gmsa}$`");
            return Err(ExchangeError::Invalid(what));
        }
        Ok(GmsaTgt(self))
    }

    /// The login's ticket for a DC's LDAP service. It stays in memory.
    pub fn into_ldap_ticket(self) -> LdapTicket {
        LdapTicket(self)
    }
}

fn seconds(time: &GeneralizedTime) -> Result<u32, ExchangeError> {
    let seconds = time.to_unix_duration().as_secs();
    u32::try_from(seconds).map_err(|_| ExchangeError::Invalid("a time after 2106".to_owned()))
}

/// The TGT of a gMSA: the only ticket that may be written to the volume.
#[derive(Clone)]
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

    /// A FILE ccache with this TGT and the service tickets of the same client. It tells clients the KDC's clock, so
    /// that theirs may be as wrong as ours.
    pub fn ccache<'a>(&self, services: impl IntoIterator<Item = &'a ServiceTicket>) -> CacheImage {
        let tgt = &self.0.credentials;
        let services = services.into_iter().map(|service| &service.ticket.credentials);
        let own: Vec<_> = services.filter(|ticket| ticket.client.same_as(self.client())).collect();
        // A client that does not know the realm of a host looks under the empty one first: the referral realm of MIT
        // and Heimdal.
        let referred: Vec<_> =
            own.iter().map(|ticket| Principal { realm: String::new(), ..ticket.server.clone() }).collect();
        let both = own.into_iter().zip(&referred).flat_map(|(ticket, referred)| {
            let elsewhere = ticket.server.realm != tgt.client.realm;
            elsewhere.then_some((referred, ticket)).into_iter().chain([(&ticket.server, ticket)])
        });
        CacheImage::of_gmsa(self.client(), self.0.offset, std::iter::once((&tgt.server, tgt)).chain(both))
    }
}

#[cfg(test)]
impl Ticket {
    /// A ticket that no KDC issued, for tests of what is done with tickets.
    fn sample(account: &crate::name::Account, domain: &crate::name::Domain, server: &str, end: SystemTime) -> Self {
        static TICKET: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
        let components = server.split('/').map(str::to_owned);
        let credentials = Credentials {
            client: Principal::new(1, [account.sam_account_name()], domain.realm()),
            server: Principal::new(NT_SRV_INST, components, domain.realm()),
            session_key: Key::new(18, &[1; 32]).unwrap(),
            authtime: 0,
            starttime: 0,
            endtime: u32::try_from(clock::unix(end)).unwrap(),
            renew_till: 0,
            flags: 0,
            ticket: TICKET.get_or_init(super::ccache::sample::der_ticket).clone(),
        };
        Self { credentials, offset: 0 }
    }
}

#[cfg(test)]
impl GmsaTgt {
    /// A TGT that no KDC issued.
    pub(crate) fn sample(account: &crate::name::Account, domain: &crate::name::Domain, end: SystemTime) -> Self {
        Ticket::sample(account, domain, &format!("krbtgt/{}", domain.realm()), end).into_gmsa_tgt(account).unwrap()
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
#[derive(Clone)]
pub struct ServiceTicket {
    ticket: Ticket,
    spn: Spn,
}

impl ServiceTicket {
    #[cfg(test)]
    pub(super) fn ticket(&mut self) -> &mut Ticket {
        &mut self.ticket
    }

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

/// The login's ticket for `ldap/<dc>`.
pub struct LdapTicket(Ticket);

impl LdapTicket {
    /// What the DC is shown.
    pub(super) fn as_ticket(&self) -> &Ticket {
        &self.0
    }
}

/// Key usage number (RFC 4120 section 7.5.1).
const USAGE_TICKET: u32 = 2;
