//! The AP exchange (RFC 4120 section 3.2) as GSS-API makes it (RFC 4121 section 4.1): a ticket -> a proof for its
//! service, and the service's own proof -> the keys of a security context.

use std::time::{Duration, SystemTime};

use der::asn1::{Any, AnyRef, BitString, OctetString};
use der::{Decode, Encode, Tagged};
use md5::{Digest, Md5};
use zeroize::Zeroizing;

use super::crypto::Key;
use super::exchange::ExchangeError;
use super::messages::{
    ApRep, ApReq, Authenticator, AuthorizationData, BoundedList, Checksum, EncApRepPart, EncryptedData, EncryptionKey,
    KRB_AP_REP, KRB_AP_REQ, KerberosString, KrbError, PrincipalName, application, time,
};
use super::{KdcError, Ticket};
use crate::clock;
use crate::entropy::Entropy;

/// An AP exchange whose request was made.
pub(super) struct ApExchange {
    session_key: Key,
    subkey: Key,
    sent: Stamp,
    sequence: u32,
}

/// The authenticator's time, seconds and microseconds: the service returns it to prove that it could read it.
type Stamp = (Duration, u32);

/// What both sides know after the exchange.
pub(super) struct Established {
    /// The key of the messages that follow, and whether it is the service's.
    pub(super) key: Key,
    pub(super) from_service: bool,
    /// The number of the first message of each side.
    pub(super) send_sequence: u32,
    pub(super) receive_sequence: u32,
}

impl ApExchange {
    /// Makes the request; returns it as an InitialContextToken (RFC 2743 section 3.1).
    ///
    /// `now` is our own time: what the KDC's clock is ahead the ticket knows.
    pub(super) fn initiate(
        ticket: &Ticket,
        flags: u32,
        bindings: Option<&[u8]>,
        now: SystemTime,
        entropy: Entropy,
    ) -> Result<(Self, Vec<u8>), ExchangeError> {
        let session_key = ticket.credentials.session_key.clone();
        let subkey = Key::random(session_key.enctype(), entropy)?;
        let mut sequence = [0; 4];
        entropy(&mut sequence);
        // Below 2^30, so that it is a positive number for whoever reads it with a sign, and stays one.
        let sequence = u32::from_be_bytes(sequence) >> 2;
        let authenticator = Authenticator {
            cksum: Some(Checksum {
                cksumtype: GSS_CHECKSUM,
                checksum: OctetString::new(gss_checksum(flags, bindings))?,
            }),
            subkey: Some(EncryptionKey { keytype: subkey.enctype(), keyvalue: OctetString::new(subkey.octets())? }),
            seq_number: Some(sequence),
            authorization_data: bindings.map(|_| says_that_it_binds()).transpose()?,
            ..Authenticator::of(ticket, now)?
        };
        let sent = (authenticator.ctime.to_unix_duration(), authenticator.cusec);
        let request = request(ticket, MUTUAL_REQUIRED, USAGE_AP_REQ_AUTHENTICATOR, &authenticator, entropy)?;
        let body = [&KERBEROS_OID[..], &TOKEN_AP_REQ, &request].concat();
        let token = Any::new(application(0), body)?.to_der()?;
        Ok((Self { session_key, subkey, sent, sequence }, token))
    }

    /// Takes the service's token. It has proven itself if it could read our authenticator (RFC 4120 section 3.2.5).
    pub(super) fn finish(self, token: &[u8]) -> Result<Established, ExchangeError> {
        let invalid = |what: &str| ExchangeError::Invalid(what.to_owned());
        let frame = AnyRef::from_der(token)?;
        let body = (frame.tag() == application(0)).then(|| frame.value().strip_prefix(&KERBEROS_OID)).flatten();
        let (kind, message) = body
            .and_then(|body| body.split_first_chunk())
            .ok_or_else(|| invalid("the service's token is none of Kerberos"))?;
        match *kind {
            TOKEN_AP_REP => {}
            TOKEN_ERROR => return Err(ExchangeError::Kdc(KdcError::from(&KrbError::decode(message)?))),
            _ => return Err(invalid("the service's token is none that ends an exchange")),
        }
        let reply = ApRep::decode(message)?;
        if reply.pvno != 5 || reply.msg_type != KRB_AP_REP {
            return Err(invalid("an AP-REP with another version or message type"));
        }
        if reply.enc_part.etype != self.session_key.enctype() {
            return Err(invalid("the AP-REP is encrypted in another enctype than the session key's"));
        }
        let part = self.session_key.decrypt(USAGE_AP_REP, reply.enc_part.cipher.as_bytes())?;
        let part = EncApRepPart::decode(&part)?;
        if (part.ctime.to_unix_duration(), part.cusec) != self.sent {
            return Err(invalid("the service has not read our authenticator"));
        }
        let from_service = part.subkey.is_some();
        let key = match part.subkey {
            Some(key) => Key::new(key.keytype, key.keyvalue.as_bytes())?,
            None => self.subkey,
        };
        // A service that names no number counts from ours, as MIT's does.
        let receive_sequence = part.seq_number.unwrap_or(self.sequence);
        Ok(Established { key, from_service, send_sequence: self.sequence, receive_sequence })
    }
}

/// An AP-REQ (RFC 4120 section 5.5.1) with this authenticator, encrypted for the usage.
pub(super) fn request(
    ticket: &Ticket,
    options: u32,
    usage: u32,
    authenticator: &Authenticator,
    entropy: Entropy,
) -> Result<Vec<u8>, ExchangeError> {
    let key = &ticket.credentials.session_key;
    let authenticator = Zeroizing::new(authenticator.encode()?);
    let cipher = OctetString::new(key.encrypt(usage, &[&authenticator], entropy)?)?;
    let request = ApReq {
        pvno: 5,
        msg_type: KRB_AP_REQ,
        ap_options: BitString::from_bytes(&options.to_be_bytes())?,
        ticket: Any::from_der(&ticket.credentials.ticket)?,
        authenticator: EncryptedData { etype: key.enctype(), kvno: None, cipher },
    };
    Ok(request.encode()?)
}

impl Authenticator {
    /// The ticket's client at `now`, our own time: what the KDC's clock is ahead the ticket knows.
    pub(super) fn of(ticket: &Ticket, now: SystemTime) -> der::Result<Self> {
        let Ticket { credentials, offset } = ticket;
        let kdc_now = clock::shifted(now, *offset);
        let since = kdc_now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Ok(Self {
            authenticator_vno: 5,
            crealm: KerberosString(credentials.client.realm.clone()),
            cname: PrincipalName::from(&credentials.client),
            cksum: None,
            cusec: since.subsec_micros(),
            ctime: time(kdc_now)?,
            subkey: None,
            seq_number: None,
            authorization_data: None,
        })
    }
}

/// RFC 4121 section 4.1.1: a length, the hash of the channel bindings (zeros for none), the flags; little endian.
fn gss_checksum(flags: u32, bindings: Option<&[u8]>) -> Vec<u8> {
    let bound = bindings.map_or([0; 16], hash);
    [&16_u32.to_le_bytes()[..], &bound, &flags.to_le_bytes()].concat()
}

/// RFC 4121 section 4.1.1.2: MD5 over addresses, which TLS's bindings have none of, and data.
fn hash(data: &[u8]) -> [u8; 16] {
    let length = u32::try_from(data.len()).unwrap_or(u32::MAX).to_le_bytes();
    Md5::new().chain_update([0; 16]).chain_update(length).chain_update(data).finalize().into()
}

/// Authorization data that tells a DC which could do without channel bindings to compare ours all the same
/// (KERB_AP_OPTIONS_CBT, MS-KILE 3.2.5.8).
fn says_that_it_binds() -> der::Result<BoundedList<AuthorizationData>> {
    let options =
        AuthorizationData { ad_type: AD_AP_OPTIONS, ad_data: OctetString::new(KERB_AP_OPTIONS_CBT.to_le_bytes())? };
    let relevant = OctetString::new(vec![options].to_der()?)?;
    Ok(BoundedList(vec![AuthorizationData { ad_type: AD_IF_RELEVANT, ad_data: relevant }]))
}

/// 1.2.840.113554.1.2.2 (RFC 4121 section 1).
pub(super) const KERBEROS_OID: [u8; 11] = [0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x12, 0x01, 0x02, 0x02];

/// RFC 4121 section 4.1.
const TOKEN_AP_REQ: [u8; 2] = [1, 0];
const TOKEN_AP_REP: [u8; 2] = [2, 0];
const TOKEN_ERROR: [u8; 2] = [3, 0];

/// RFC 4121 section 4.1.1.
const GSS_CHECKSUM: i32 = 0x8003;
/// APOptions, bit 0 the most significant (RFC 4120 section 5.5.1).
const MUTUAL_REQUIRED: u32 = 1 << 29;
/// Key usage numbers (RFC 4120 section 7.5.1).
const USAGE_AP_REQ_AUTHENTICATOR: u32 = 11;
const USAGE_AP_REP: u32 = 12;
/// RFC 4120 section 7.5.4, MS-KILE 2.2.7 and 3.2.5.8.
const AD_IF_RELEVANT: i32 = 1;
const AD_AP_OPTIONS: i32 = 143;
const KERB_AP_OPTIONS_CBT: u32 = 0x4000;
