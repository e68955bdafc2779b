//! The ASN.1 messages of the AS and TGS exchanges (RFC 4120 section 5), encoded and decoded as DER.
//!
//! Most of them come from somebody who has proven nothing, so everything in them has a bound: lists and names here, the
//! whole message where it is read.

mod bounded;

use std::time::SystemTime;

pub(crate) use self::bounded::{BoundedList, KerberosString, Text};
use super::principal::Principal;
use der::asn1::{Any, AnyRef, BitString, GeneralizedTime, OctetString};
use der::{Decode, Encode, Sequence, Tag, TagNumber, Tagged};

/// Message types (RFC 4120 section 7.5.7), which are also their APPLICATION tags.
pub(crate) const AS_REQ: u8 = 10;
pub(crate) const AS_REP: u8 = 11;
pub(crate) const TGS_REQ: u8 = 12;
pub(crate) const TGS_REP: u8 = 13;
pub(crate) const KRB_AP_REQ: u8 = 14;
pub(crate) const KRB_AP_REP: u8 = 15;
pub(crate) const KRB_ERROR: u8 = 30;
/// EncASRepPart and EncTGSRepPart: some KDCs answer an AS-REQ with the latter's tag, and RFC 4120 section 5.4.2
/// tells clients to accept it.
const ENC_AS_REP_PART: u8 = 25;
const ENC_TGS_REP_PART: u8 = 26;
const TICKET: u8 = 1;
const AUTHENTICATOR: u8 = 2;
const ENC_TICKET_PART: u8 = 3;
const ENC_AP_REP_PART: u8 = 27;

/// KDCOptions and TicketFlags, bit 0 the most significant (RFC 4120 sections 5.3 and 5.4.1).
pub(crate) const FORWARDABLE: u32 = 1 << 30;
pub(crate) const RENEWABLE: u32 = 1 << 23;

/// Pre-authentication data types (RFC 4120 section 7.5.2, RFC 6806 section 11).
pub(crate) const PA_TGS_REQ: i32 = 1;
pub(crate) const PA_ENC_TIMESTAMP: i32 = 2;
pub(crate) const PA_ETYPE_INFO2: i32 = 19;
pub(crate) const PA_REQ_ENC_PA_REP: i32 = 149;

#[derive(Debug, Clone, PartialEq, Eq, Sequence)]
pub(crate) struct PrincipalName {
    #[asn1(context_specific = "0")]
    pub(crate) name_type: i32,
    #[asn1(context_specific = "1")]
    pub(crate) name_string: BoundedList<KerberosString>,
}

impl From<&Principal> for PrincipalName {
    fn from(principal: &Principal) -> Self {
        Self {
            name_type: principal.name_type,
            name_string: BoundedList(principal.components.iter().map(|name| KerberosString(name.clone())).collect()),
        }
    }
}

impl PrincipalName {
    /// The same name in the same realm; the name type is only a hint (RFC 4120 section 6.2).
    pub(crate) fn is(&self, realm: &KerberosString, principal: &Principal) -> bool {
        realm.0 == principal.realm && self.name_string.iter().map(|name| &name.0).eq(&principal.components)
    }

    /// For people: `ldap/dc1.example.com`.
    pub(crate) fn joined(&self) -> String {
        let names: Vec<_> = self.name_string.iter().map(|name| name.0.as_str()).collect();
        names.join("/")
    }

    /// For people: `ldap/dc1.example.com@EXAMPLE.COM`.
    pub(crate) fn display(&self, realm: &KerberosString) -> String {
        format!("{}@{}", self.joined(), realm.0)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Sequence)]
pub(crate) struct PaData {
    #[asn1(context_specific = "1")]
    pub(crate) padata_type: i32,
    #[asn1(context_specific = "2")]
    pub(crate) padata_value: OctetString,
}

#[derive(Debug, Clone, Sequence)]
pub(crate) struct EncryptedData {
    #[asn1(context_specific = "0")]
    pub(crate) etype: i32,
    #[asn1(context_specific = "1", optional = "true")]
    pub(crate) kvno: Option<u32>,
    #[asn1(context_specific = "2")]
    pub(crate) cipher: OctetString,
}

#[derive(Debug, Sequence)]
pub(crate) struct PaEncTsEnc {
    #[asn1(context_specific = "0")]
    pub(crate) patimestamp: GeneralizedTime,
    #[asn1(context_specific = "1", optional = "true")]
    pub(crate) pausec: Option<u32>,
}

#[derive(Debug, Sequence)]
pub(crate) struct KdcReq {
    #[asn1(context_specific = "1")]
    pub(crate) pvno: u8,
    #[asn1(context_specific = "2")]
    pub(crate) msg_type: u8,
    #[asn1(context_specific = "3")]
    pub(crate) padata: BoundedList<PaData>,
    #[asn1(context_specific = "4")]
    pub(crate) req_body: KdcReqBody,
}

#[derive(Debug, Clone, Sequence)]
pub(crate) struct KdcReqBody {
    #[asn1(context_specific = "0")]
    pub(crate) kdc_options: BitString,
    /// In an AS-REQ only: the ticket of a TGS-REQ tells it.
    #[asn1(context_specific = "1", optional = "true")]
    pub(crate) cname: Option<PrincipalName>,
    #[asn1(context_specific = "2")]
    pub(crate) realm: KerberosString,
    #[asn1(context_specific = "3")]
    pub(crate) sname: PrincipalName,
    #[asn1(context_specific = "5")]
    pub(crate) till: GeneralizedTime,
    #[asn1(context_specific = "6", optional = "true")]
    pub(crate) rtime: Option<GeneralizedTime>,
    #[asn1(context_specific = "7")]
    pub(crate) nonce: u32,
    #[asn1(context_specific = "8")]
    pub(crate) etype: BoundedList<i32>,
}

#[derive(Debug, Sequence)]
pub(crate) struct KdcRep {
    #[asn1(context_specific = "0")]
    pub(crate) pvno: u8,
    #[asn1(context_specific = "1")]
    pub(crate) msg_type: u8,
    #[asn1(context_specific = "2", optional = "true")]
    pub(crate) padata: Option<BoundedList<PaData>>,
    #[asn1(context_specific = "3")]
    pub(crate) crealm: KerberosString,
    #[asn1(context_specific = "4")]
    pub(crate) cname: PrincipalName,
    /// The Ticket, opaque to a client and sent on as it came.
    #[asn1(context_specific = "5")]
    pub(crate) ticket: Any,
    #[asn1(context_specific = "6")]
    pub(crate) enc_part: EncryptedData,
}

/// RFC 4120 section 5.3.
#[derive(Debug, Sequence)]
pub(crate) struct SealedTicket {
    #[asn1(context_specific = "0")]
    pub(crate) tkt_vno: u8,
    #[asn1(context_specific = "1")]
    pub(crate) realm: KerberosString,
    #[asn1(context_specific = "2")]
    pub(crate) sname: PrincipalName,
    #[asn1(context_specific = "3")]
    pub(crate) enc_part: EncryptedData,
}

/// What a ticket tells its service (RFC 4120 section 5.3).
#[derive(Sequence)]
pub(crate) struct EncTicketPart {
    #[asn1(context_specific = "0")]
    pub(crate) flags: BitString,
    #[asn1(context_specific = "1")]
    pub(crate) key: EncryptionKey,
    #[asn1(context_specific = "2")]
    pub(crate) crealm: KerberosString,
    #[asn1(context_specific = "3")]
    pub(crate) cname: PrincipalName,
    #[asn1(context_specific = "4")]
    pub(crate) transited: Any,
    #[asn1(context_specific = "5")]
    pub(crate) authtime: GeneralizedTime,
    #[asn1(context_specific = "6", optional = "true")]
    pub(crate) starttime: Option<GeneralizedTime>,
    #[asn1(context_specific = "7")]
    pub(crate) endtime: GeneralizedTime,
    #[asn1(context_specific = "8", optional = "true")]
    pub(crate) renew_till: Option<GeneralizedTime>,
    #[asn1(context_specific = "9", optional = "true")]
    pub(crate) caddr: Option<Any>,
    #[asn1(context_specific = "10", optional = "true")]
    pub(crate) authorization_data: Option<Any>,
}

#[derive(Debug, Sequence)]
pub(crate) struct ApReq {
    #[asn1(context_specific = "0")]
    pub(crate) pvno: u8,
    #[asn1(context_specific = "1")]
    pub(crate) msg_type: u8,
    #[asn1(context_specific = "2")]
    pub(crate) ap_options: BitString,
    #[asn1(context_specific = "3")]
    pub(crate) ticket: Any,
    #[asn1(context_specific = "4")]
    pub(crate) authenticator: EncryptedData,
}

#[derive(Sequence)]
pub(crate) struct Authenticator {
    #[asn1(context_specific = "0")]
    pub(crate) authenticator_vno: u8,
    #[asn1(context_specific = "1")]
    pub(crate) crealm: KerberosString,
    #[asn1(context_specific = "2")]
    pub(crate) cname: PrincipalName,
    #[asn1(context_specific = "3", optional = "true")]
    pub(crate) cksum: Option<Checksum>,
    #[asn1(context_specific = "4")]
    pub(crate) cusec: u32,
    #[asn1(context_specific = "5")]
    pub(crate) ctime: GeneralizedTime,
    #[asn1(context_specific = "6", optional = "true")]
    pub(crate) subkey: Option<EncryptionKey>,
    #[asn1(context_specific = "7", optional = "true")]
    pub(crate) seq_number: Option<u32>,
    #[asn1(context_specific = "8", optional = "true")]
    pub(crate) authorization_data: Option<BoundedList<AuthorizationData>>,
}

#[derive(Debug, Sequence)]
pub(crate) struct AuthorizationData {
    #[asn1(context_specific = "0")]
    pub(crate) ad_type: i32,
    #[asn1(context_specific = "1")]
    pub(crate) ad_data: OctetString,
}

#[derive(Debug, Sequence)]
pub(crate) struct ApRep {
    #[asn1(context_specific = "0")]
    pub(crate) pvno: u8,
    #[asn1(context_specific = "1")]
    pub(crate) msg_type: u8,
    #[asn1(context_specific = "2")]
    pub(crate) enc_part: EncryptedData,
}

#[derive(Sequence)]
pub(crate) struct EncApRepPart {
    #[asn1(context_specific = "0")]
    pub(crate) ctime: GeneralizedTime,
    #[asn1(context_specific = "1")]
    pub(crate) cusec: u32,
    #[asn1(context_specific = "2", optional = "true")]
    pub(crate) subkey: Option<EncryptionKey>,
    #[asn1(context_specific = "3", optional = "true")]
    pub(crate) seq_number: Option<u32>,
}

#[derive(Sequence)]
pub(crate) struct EncryptionKey {
    #[asn1(context_specific = "0")]
    pub(crate) keytype: i32,
    #[asn1(context_specific = "1")]
    pub(crate) keyvalue: OctetString,
}

#[derive(Debug, Sequence)]
pub(crate) struct LastReq {
    #[asn1(context_specific = "0")]
    pub(crate) lr_type: i32,
    #[asn1(context_specific = "1")]
    pub(crate) lr_value: GeneralizedTime,
}

#[derive(Debug, Sequence)]
pub(crate) struct HostAddress {
    #[asn1(context_specific = "0")]
    pub(crate) addr_type: i32,
    #[asn1(context_specific = "1")]
    pub(crate) address: OctetString,
}

#[derive(Sequence)]
pub(crate) struct EncKdcRepPart {
    #[asn1(context_specific = "0")]
    pub(crate) key: EncryptionKey,
    #[asn1(context_specific = "1")]
    pub(crate) last_req: BoundedList<LastReq>,
    #[asn1(context_specific = "2")]
    pub(crate) nonce: u32,
    #[asn1(context_specific = "3", optional = "true")]
    pub(crate) key_expiration: Option<GeneralizedTime>,
    #[asn1(context_specific = "4")]
    pub(crate) flags: BitString,
    #[asn1(context_specific = "5")]
    pub(crate) authtime: GeneralizedTime,
    #[asn1(context_specific = "6", optional = "true")]
    pub(crate) starttime: Option<GeneralizedTime>,
    #[asn1(context_specific = "7")]
    pub(crate) endtime: GeneralizedTime,
    #[asn1(context_specific = "8", optional = "true")]
    pub(crate) renew_till: Option<GeneralizedTime>,
    #[asn1(context_specific = "9")]
    pub(crate) srealm: KerberosString,
    #[asn1(context_specific = "10")]
    pub(crate) sname: PrincipalName,
    #[asn1(context_specific = "11", optional = "true")]
    pub(crate) caddr: Option<BoundedList<HostAddress>>,
    /// RFC 6806 section 11.
    #[asn1(context_specific = "12", optional = "true")]
    pub(crate) encrypted_pa_data: Option<BoundedList<PaData>>,
}

#[derive(Debug, Sequence)]
pub(crate) struct Checksum {
    #[asn1(context_specific = "0")]
    pub(crate) cksumtype: i32,
    #[asn1(context_specific = "1")]
    pub(crate) checksum: OctetString,
}

#[derive(Debug, Sequence)]
pub(crate) struct KrbError {
    #[asn1(context_specific = "0")]
    pub(crate) pvno: u8,
    #[asn1(context_specific = "1")]
    pub(crate) msg_type: u8,
    #[asn1(context_specific = "2", optional = "true")]
    pub(crate) ctime: Option<GeneralizedTime>,
    #[asn1(context_specific = "3", optional = "true")]
    pub(crate) cusec: Option<u32>,
    #[asn1(context_specific = "4")]
    pub(crate) stime: GeneralizedTime,
    #[asn1(context_specific = "5")]
    pub(crate) susec: u32,
    #[asn1(context_specific = "6")]
    pub(crate) error_code: i32,
    #[asn1(context_specific = "7", optional = "true")]
    pub(crate) crealm: Option<KerberosString>,
    #[asn1(context_specific = "8", optional = "true")]
    pub(crate) cname: Option<PrincipalName>,
    #[asn1(context_specific = "9")]
    pub(crate) realm: KerberosString,
    #[asn1(context_specific = "10")]
    pub(crate) sname: PrincipalName,
    #[asn1(context_specific = "11", optional = "true")]
    pub(crate) e_text: Option<Text>,
    #[asn1(context_specific = "12", optional = "true")]
    pub(crate) e_data: Option<OctetString>,
}

#[derive(Debug, Clone, Sequence)]
pub(crate) struct EtypeInfo2Entry {
    #[asn1(context_specific = "0")]
    pub(crate) etype: i32,
    #[asn1(context_specific = "1", optional = "true")]
    pub(crate) salt: Option<KerberosString>,
    #[asn1(context_specific = "2", optional = "true")]
    pub(crate) s2kparams: Option<OctetString>,
}

/// A KDC's answer to an AS-REQ or a TGS-REQ; which of the two its message type tells.
pub(crate) enum Reply {
    Kdc(Box<KdcRep>),
    Error(Box<KrbError>),
}

impl Reply {
    pub(crate) fn decode(bytes: &[u8]) -> der::Result<Self> {
        let any = AnyRef::from_der(bytes)?;
        match any.tag() {
            tag if [AS_REP, TGS_REP].map(application).contains(&tag) => {
                Ok(Self::Kdc(Box::new(KdcRep::from_der(any.value())?)))
            }
            tag if tag == application(KRB_ERROR) => Ok(Self::Error(Box::new(KrbError::from_der(any.value())?))),
            tag => Err(tag.value_error().into()),
        }
    }
}

impl SealedTicket {
    pub(crate) fn decode(bytes: &[u8]) -> der::Result<Self> {
        Self::from_der(in_application(AnyRef::from_der(bytes)?, TICKET)?)
    }
}

impl EncTicketPart {
    /// As in an [`EncKdcRepPart`] there may be padding.
    pub(crate) fn decode(bytes: &[u8]) -> der::Result<Self> {
        let (any, _padding) = AnyRef::from_der_partial(bytes)?;
        Self::from_der(in_application(any, ENC_TICKET_PART)?)
    }
}

impl ApReq {
    pub(crate) fn encode(&self) -> der::Result<Vec<u8>> {
        Any::new(application(KRB_AP_REQ), self.to_der()?)?.to_der()
    }
}

impl Authenticator {
    pub(crate) fn encode(&self) -> der::Result<Vec<u8>> {
        Any::new(application(AUTHENTICATOR), self.to_der()?)?.to_der()
    }
}

impl ApRep {
    pub(crate) fn decode(bytes: &[u8]) -> der::Result<Self> {
        Self::from_der(in_application(AnyRef::from_der(bytes)?, KRB_AP_REP)?)
    }
}

impl EncApRepPart {
    /// As in an [`EncKdcRepPart`] there may be padding.
    pub(crate) fn decode(bytes: &[u8]) -> der::Result<Self> {
        let (any, _padding) = AnyRef::from_der_partial(bytes)?;
        Self::from_der(in_application(any, ENC_AP_REP_PART)?)
    }
}

impl KrbError {
    pub(crate) fn decode(bytes: &[u8]) -> der::Result<Self> {
        Self::from_der(in_application(AnyRef::from_der(bytes)?, KRB_ERROR)?)
    }
}

impl KdcReq {
    pub(crate) fn encode(&self) -> der::Result<Vec<u8>> {
        Any::new(application(self.msg_type), self.to_der()?)?.to_der()
    }
}

impl EncKdcRepPart {
    /// Block ciphers may leave padding behind the value (RFC 4120 section 5.4.2 via RFC 3961), so trailing octets
    /// are let pass: what counts was under the integrity check.
    pub(crate) fn decode(bytes: &[u8]) -> der::Result<Self> {
        let (any, _padding) = AnyRef::from_der_partial(bytes)?;
        if any.tag() != application(ENC_AS_REP_PART) && any.tag() != application(ENC_TGS_REP_PART) {
            return Err(any.tag().value_error().into());
        }
        Self::from_der(any.value())
    }
}

/// What an application tag holds.
fn in_application(any: AnyRef<'_>, number: u8) -> der::Result<&[u8]> {
    if any.tag() == application(number) { Ok(any.value()) } else { Err(any.tag().value_error().into()) }
}

/// `[APPLICATION n]`, constructed.
pub(crate) fn application(number: u8) -> Tag {
    Tag::Application { constructed: true, number: TagNumber(u32::from(number)) }
}

/// The 32 flags of a KDCOptions or TicketFlags, bit 0 the most significant. A longer string's further bits have no
/// meaning here, a shorter one's missing bits are zero (RFC 4120 section 5.2.8).
pub(crate) fn flags(bits: &BitString) -> u32 {
    let mut octets = [0; 4];
    for (octet, given) in octets.iter_mut().zip(bits.raw_bytes()) {
        *octet = *given;
    }
    u32::from_be_bytes(octets)
}

/// A KerberosTime: whole seconds (RFC 4120 section 5.2.3).
pub(crate) fn time(time: SystemTime) -> der::Result<GeneralizedTime> {
    GeneralizedTime::from_system_time(time)
}
