//! One TGS exchange: a ticket-granting ticket -> a ticket for a service, or a referral to another realm.

use std::time::SystemTime;

use der::Encode;
use der::asn1::{BitString, OctetString};

use super::exchange::{ExchangeError, nonce};
use super::kdc_error::KdcError;
use super::messages::{
    Authenticator, BoundedList, Checksum, EncKdcRepPart, FORWARDABLE, KRB_ERROR, KdcRep, KdcReq, KdcReqBody,
    KerberosString, PA_TGS_REQ, PaData, PrincipalName, RENEWABLE, Reply, TGS_REP, TGS_REQ, time,
};
use super::principal::Principal;
use super::{ENCTYPES, Ticket, ap};
use crate::clock;
use crate::entropy::Entropy;
use crate::name::Domain;

/// What a KDC gave for a ticket-granting ticket.
pub enum Granted {
    /// The ticket that was asked for.
    Ticket(Ticket),
    /// A ticket for the ticket-granting service of another realm, which knows more (RFC 6806 section 8).
    Referral(Domain, Ticket),
}

/// A TGS exchange (RFC 4120 section 3.3): bytes in, bytes and a ticket out.
pub struct TgsExchange<'a> {
    tgt: &'a Ticket,
    server: Principal,
    nonce: u32,
    renews: bool,
}

impl<'a> TgsExchange<'a> {
    /// Begins an exchange with a KDC of `server`'s realm; returns it with the request.
    ///
    /// `now` is our own time: what the KDC's clock is ahead the ticket knows.
    pub fn start(
        tgt: &'a Ticket,
        server: Principal,
        now: SystemTime,
        entropy: Entropy,
    ) -> Result<(Self, Vec<u8>), ExchangeError> {
        Self { tgt, server, nonce: nonce(entropy), renews: false }.begin(now, entropy)
    }

    /// Begins an exchange that renews the ticket-granting ticket itself (RFC 4120 section 3.3.3, option RENEW): no key is
    /// needed, and the KDC looks whether the account still may.
    pub fn renew(tgt: &'a Ticket, now: SystemTime, entropy: Entropy) -> Result<(Self, Vec<u8>), ExchangeError> {
        let server = tgt.credentials.server.clone();
        Self { tgt, server, nonce: nonce(entropy), renews: true }.begin(now, entropy)
    }

    fn begin(self, now: SystemTime, entropy: Entropy) -> Result<(Self, Vec<u8>), ExchangeError> {
        let request = self.request(now, entropy)?;
        Ok((self, request))
    }

    fn request(&self, now: SystemTime, entropy: Entropy) -> Result<Vec<u8>, ExchangeError> {
        let credentials = &self.tgt.credentials;
        // An option that the TGT lacks would be refused or ignored; canonicalize is what allows the KDC to refer.
        let (options, till) = match self.renews {
            true => (credentials.flags & (FORWARDABLE | RENEWABLE) | RENEW, credentials.renew_till),
            false => (credentials.flags & FORWARDABLE | CANONICALIZE, credentials.endtime),
        };
        let req_body = KdcReqBody {
            kdc_options: BitString::from_bytes(&options.to_be_bytes())?,
            cname: None,
            realm: KerberosString(self.server.realm.clone()),
            sname: PrincipalName::from(&self.server),
            till: time(clock::from_unix(till.into()))?,
            rtime: None,
            nonce: self.nonce,
            etype: BoundedList(ENCTYPES.to_vec()),
        };
        let key = &credentials.session_key;
        let authenticator = Authenticator {
            // Binds the body to the ticket, so that nobody on the way asks for something else with it.
            cksum: Some(Checksum {
                cksumtype: key.checksum_type(),
                checksum: OctetString::new(key.checksum(USAGE_TGS_REQ_CHECKSUM, &[&req_body.to_der()?])?)?,
            }),
            ..Authenticator::of(self.tgt, now)?
        };
        let ap_req = ap::request(self.tgt, 0, USAGE_TGS_REQ_AUTHENTICATOR, &authenticator, entropy)?;
        let proof = PaData { padata_type: PA_TGS_REQ, padata_value: OctetString::new(ap_req)? };
        Ok(KdcReq { pvno: 5, msg_type: TGS_REQ, padata: BoundedList(vec![proof]), req_body }.encode()?)
    }

    /// Takes the KDC's reply. It is believed only if it decrypts with the session key, answers our nonce and names our
    /// client, and the service that was asked for or another realm's ticket-granting service (RFC 4120 section
    /// 3.3.3, RFC 6806 section 8).
    pub fn receive(self, reply: &[u8]) -> Result<Granted, ExchangeError> {
        let reply = match Reply::decode(reply)? {
            Reply::Kdc(reply) if reply.pvno == 5 && reply.msg_type == TGS_REP => reply,
            Reply::Error(error) if error.msg_type == KRB_ERROR => {
                return Err(ExchangeError::Kdc(KdcError::from(&*error)));
            }
            _ => return invalid("a TGS-REP with another version or message type"),
        };
        let Ticket { credentials, offset } = self.tgt;
        if !reply.cname.is(&reply.crealm, &credentials.client) {
            return invalid(format!("a ticket for `{}` was sent", reply.cname.display(&reply.crealm)));
        }
        let key = &credentials.session_key;
        if reply.enc_part.etype != key.enctype() {
            return invalid("the reply is encrypted in another enctype than the session key's");
        }
        let part = key.decrypt(USAGE_TGS_REP, reply.enc_part.cipher.as_bytes())?;
        let part = EncKdcRepPart::decode(&part)?;
        if part.nonce != self.nonce {
            return invalid("the reply answers another request (nonce)");
        }
        self.sort(&reply, &part, *offset)
    }

    /// The ticket asked for, or a referral; anything else is not believed.
    fn sort(&self, reply: &KdcRep, part: &EncKdcRepPart, offset: i64) -> Result<Granted, ExchangeError> {
        let client = &self.tgt.credentials.client;
        let ticket = |server: &Principal| Ticket::new(client, server, reply, part, offset);
        // AD compares names of services without case, and may answer in its own spelling.
        let asked = part.srealm.0 == self.server.realm
            && part.sname.name_string.len() == self.server.components.len()
            && part.sname.name_string.iter().zip(&self.server.components).all(|(a, b)| a.0.eq_ignore_ascii_case(b));
        if asked {
            return Ok(Granted::Ticket(ticket(&self.server)?));
        }
        match &*part.sname.name_string {
            [service, realm] if service.0 == "krbtgt" && part.srealm.0 == self.server.realm => {
                let domain: Option<Domain> = realm.0.parse().ok();
                let Some(domain) = domain.filter(|domain| domain.realm() == realm.0) else {
                    return invalid("a referral to a realm that is not the name of a domain");
                };
                let mut tgs = super::ticket_granting_service(&domain);
                tgs.realm.clone_from(&self.server.realm);
                Ok(Granted::Referral(domain, ticket(&tgs)?))
            }
            _ => invalid(format!("a ticket for the service `{}` was sent", part.sname.display(&part.srealm))),
        }
    }
}

fn invalid<T>(what: impl Into<String>) -> Result<T, ExchangeError> {
    Err(ExchangeError::Invalid(what.into()))
}

/// Key usage numbers (RFC 4120 section 7.5.1).
const USAGE_TGS_REQ_CHECKSUM: u32 = 6;
const USAGE_TGS_REQ_AUTHENTICATOR: u32 = 7;
const USAGE_TGS_REP: u32 = 8;

/// A KDCOption (RFC 4120 section 5.4.1), bit 30.
const RENEW: u32 = 1 << 1;
/// A KDCOption too (RFC 6806 section 3).
const CANONICALIZE: u32 = 1 << 16;
