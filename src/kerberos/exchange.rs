//! One AS exchange, from the first request to the verified ticket.

use std::time::{Duration, SystemTime};

use der::asn1::{BitString, OctetString};
use der::{Decode, Encode};
use krb5::{Key, Principal};

use super::messages::{
    AS_REP, AS_REQ, Checksum, EncKdcRepPart, EncryptedData, EtypeInfo2Entry, FORWARDABLE, KRB_ERROR, KdcRep, KdcReq,
    KdcReqBody, KerberosString, KrbError, PA_ENC_TIMESTAMP, PA_ETYPE_INFO2, PA_REQ_ENC_PA_REP, PaData, PaEncTsEnc,
    PrincipalName, RENEWABLE, Reply, flags, time,
};
use super::{ClientKey, ENCTYPES, Password, Ticket};
use crate::clock;

/// What proves the client to the KDC.
#[derive(Clone)]
pub enum Proof {
    /// A password whose salt the KDC shall tell. The first request carries no pre-authentication: it counts as no
    /// failed login, where a wrongly guessed salt would.
    Password(Password),
    /// A password whose salt is known beforehand, which saves a round trip.
    SaltedPassword(Password, Vec<u8>),
    /// A key kept from an earlier exchange.
    Key(ClientKey),
    /// The keys of a keytab. The KDC shall tell which of their enctypes it prefers, which counts as no failed login.
    Keys(Vec<Key>),
}

/// What keys are made of, once the KDC has told how.
enum Source {
    Password(Password),
    Keys(Vec<Key>),
}

impl Source {
    fn has(&self, enctype: i32) -> bool {
        match self {
            Self::Password(_) => ENCTYPES.contains(&enctype),
            Self::Keys(keys) => keys.iter().any(|key| key.enctype() == enctype),
        }
    }

    fn key(&self, enctype: i32, salt: &[u8], params: Option<[u8; 4]>) -> Result<ClientKey, ExchangeError> {
        match self {
            Self::Password(password) => Ok(ClientKey::derive(enctype, password.as_str(), salt, params)?),
            Self::Keys(keys) => match keys.iter().find(|key| key.enctype() == enctype) {
                Some(key) => Ok(ClientKey { key: key.clone(), salt: salt.to_vec() }),
                None => Err(ExchangeError::Invalid(format!("the keytab has no key of enctype {enctype}"))),
            },
        }
    }
}

/// What to do after a reply of the KDC.
pub enum Step {
    /// Send this request and hand the reply to [`AsExchange::receive`].
    Send(Vec<u8>),
    /// The ticket, verified, and the key that it was got with.
    Done(Box<Ticket>, ClientKey),
}

/// An AS exchange (RFC 4120 section 3.1): bytes in, bytes and a ticket out.
pub struct AsExchange {
    client: Principal,
    server: Principal,
    source: Option<Source>,
    key: Option<ClientKey>,
    nonce: u32,
    sent: Vec<u8>,
    /// The life that is asked for; without it as long a ticket as the KDC's policy allows.
    lifetime: Option<Duration>,
    /// Whether the KDC has already told how to derive the key: it is asked once, so that a confused KDC cannot make
    /// us send proofs for ever.
    informed: bool,
    /// How far the KDC's clock is ahead of ours, in seconds, once it is known to matter.
    offset: Option<i64>,
}

impl AsExchange {
    /// The refusal in a KDC's reply; none if it gave a ticket.
    pub fn refusal(reply: &[u8]) -> Result<Option<KdcError>, ExchangeError> {
        match Reply::decode(reply)? {
            Reply::Kdc(_) => Ok(None),
            Reply::Error(error) => Ok(Some(KdcError::from(&*error))),
        }
    }

    /// Begins an exchange; returns it with the first request.
    ///
    /// `nonce` is random, 31 bits; `now` is the KDC's time as far as known.
    pub fn start(
        client: Principal,
        server: Principal,
        proof: Proof,
        lifetime: Option<Duration>,
        nonce: u32,
        now: SystemTime,
    ) -> Result<(Self, Vec<u8>), ExchangeError> {
        let (source, key) = match proof {
            Proof::Password(password) => (Some(Source::Password(password)), None),
            Proof::SaltedPassword(password, salt) => {
                let key = ClientKey::derive(ENCTYPES[0], password.as_str(), &salt, None)?;
                (Some(Source::Password(password)), Some(key))
            }
            Proof::Key(key) => (None, Some(key)),
            Proof::Keys(keys) => (Some(Source::Keys(keys)), None),
        };
        // Some KDCs read the nonce as a signed number (RFC 4120 section 5.4.1 note).
        let nonce = nonce & 0x7fff_ffff;
        let mut exchange =
            Self { client, server, source, key, nonce, sent: Vec::new(), lifetime, informed: false, offset: None };
        let request = exchange.request(now)?;
        Ok((exchange, request))
    }

    /// The salt of the key that the last request proves; none if that carries no proof.
    pub fn salt(&self) -> Option<&[u8]> {
        self.key.as_ref().map(|key| key.salt.as_slice())
    }

    /// Takes the KDC's reply to the last request.
    pub fn receive(&mut self, reply: &[u8], now: SystemTime) -> Result<Step, ExchangeError> {
        match Reply::decode(reply)? {
            Reply::Kdc(reply) => self.verify(&reply),
            Reply::Error(error) => {
                if error.msg_type != KRB_ERROR {
                    return Err(ExchangeError::Invalid("a KRB-ERROR with another message type".into()));
                }
                self.refused(&error, now)
            }
        }
    }

    fn request(&mut self, now: SystemTime) -> Result<Vec<u8>, ExchangeError> {
        let kdc_now = clock::shifted(now, self.offset.unwrap_or(0));
        let mut padata = Vec::new();
        if let Some(ClientKey { key, .. }) = &self.key {
            let since = kdc_now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            let stamp = PaEncTsEnc { patimestamp: time(kdc_now)?, pausec: Some(since.subsec_micros()) }.to_der()?;
            let cipher = OctetString::new(key.encrypt(USAGE_PA_ENC_TIMESTAMP, &stamp)?)?;
            let proof = EncryptedData { etype: key.enctype(), kvno: None, cipher }.to_der()?;
            padata.push(PaData { padata_type: PA_ENC_TIMESTAMP, padata_value: OctetString::new(proof)? });
        }
        // Asks the KDC to prove in its reply which request it answered (RFC 6806 section 11).
        padata.push(PaData { padata_type: PA_REQ_ENC_PA_REP, padata_value: OctetString::new(Vec::new())? });

        let till = self.lifetime.map_or_else(|| clock::from_unix(FAR_FUTURE), |lifetime| kdc_now + lifetime);
        let till = time(till)?;
        let req_body = KdcReqBody {
            kdc_options: BitString::from_bytes(&(FORWARDABLE | RENEWABLE).to_be_bytes())?,
            cname: Some(PrincipalName::from(&self.client)),
            realm: KerberosString(self.client.realm.clone()),
            sname: PrincipalName::from(&self.server),
            till,
            rtime: Some(till),
            nonce: self.nonce,
            etype: ENCTYPES.to_vec(),
        };
        self.sent = KdcReq { pvno: 5, msg_type: AS_REQ, padata, req_body }.encode()?;
        Ok(self.sent.clone())
    }

    /// PREAUTH_REQUIRED and the salt it brings are a step; everything else ends the exchange.
    fn refused(&mut self, error: &KrbError, now: SystemTime) -> Result<Step, ExchangeError> {
        let told = KdcError::from(error);
        if told.code == KdcError::CLOCK_SKEW && self.offset.is_none() && self.learn_offset(&told, now) {
            return self.request(now).map(Step::Send);
        }
        let asks = matches!(told.code, KdcError::PREAUTH_REQUIRED | KdcError::PREAUTH_FAILED);
        let (Some(data), true, false, Some(source)) = (&error.e_data, asks, self.informed, &self.source) else {
            return Err(ExchangeError::Kdc(told));
        };
        // A PREAUTH_FAILED without METHOD-DATA is just a refusal.
        let Ok(methods) = Vec::<PaData>::from_der(data.as_bytes()) else {
            return Err(ExchangeError::Kdc(told));
        };
        let Some(entry) = etype_info(&methods, source)? else {
            // With no AES on offer the KDC sends an ETYPE-INFO2 without any of ours, or none.
            let offered = methods.iter().any(|method| method.padata_type == PA_ENC_TIMESTAMP);
            return Err(if offered { ExchangeError::Encryption(told) } else { ExchangeError::Preauthentication(told) });
        };
        let salt = entry.salt.map_or_else(|| self.client.default_salt(), |salt| salt.0.into_bytes());
        if self.key.as_ref().is_some_and(|used| used.key.enctype() == entry.etype && used.salt == salt) {
            // The KDC has seen a proof made in just this way: it is the password that is wrong.
            return Err(ExchangeError::Kdc(told));
        }
        if told.code == KdcError::PREAUTH_REQUIRED && !methods.iter().any(|m| m.padata_type == PA_ENC_TIMESTAMP) {
            return Err(ExchangeError::Preauthentication(told));
        }
        let params = entry.s2kparams.map(|params| <[u8; 4]>::try_from(params.as_bytes())).transpose();
        let params =
            params.map_err(|_| ExchangeError::Invalid("string-to-key parameters of a strange length".into()))?;
        if params.is_some_and(|rounds| u32::from_be_bytes(rounds).wrapping_sub(1) >= MAX_ROUNDS) {
            return Err(ExchangeError::Invalid("the KDC asks for more rounds of key derivation than any does".into()));
        }
        self.key = Some(source.key(entry.etype, &salt, params)?);
        self.informed = true;
        self.learn_offset(&told, now);
        self.request(now).map(Step::Send)
    }

    /// Takes the KDC's clock from its error, where it differs enough to matter and little enough to be believed: the
    /// error is not authenticated. Tells whether it did.
    fn learn_offset(&mut self, told: &KdcError, now: SystemTime) -> bool {
        let (skew, ahead) = told.skew(now);
        if !(SKEW_THAT_MATTERS..=SKEW_TO_BELIEVE).contains(&skew) {
            return false;
        }
        let seconds = i64::try_from(skew.as_secs()).unwrap_or(i64::MAX);
        self.offset = Some(if ahead { seconds } else { -seconds });
        true
    }

    /// A reply is believed only if it decrypts, answers our nonce and request, and names the client and server that
    /// were asked for (RFC 4120 section 3.1.5).
    fn verify(&mut self, reply: &KdcRep) -> Result<Step, ExchangeError> {
        let invalid = |what: &str| Err(ExchangeError::Invalid(what.into()));
        if reply.pvno != 5 || reply.msg_type != AS_REP {
            return invalid("an AS-REP with another version or message type");
        }
        if !reply.cname.is(&reply.crealm, &self.client) {
            return invalid(&format!("a ticket for `{}` was sent", reply.cname.display(&reply.crealm)));
        }
        let Some(client_key) = self.key.take() else {
            // We sent no proof and the KDC asked for none: the account does not require pre-authentication, so the
            // reply itself tells how to derive the key.
            return self.verify_without_preauthentication(reply);
        };
        if reply.enc_part.etype != client_key.key.enctype() {
            return invalid("the reply is encrypted in another enctype than the proof");
        }
        let part = client_key.key.decrypt(USAGE_AS_REP, reply.enc_part.cipher.as_bytes())?;
        let part = zeroize::Zeroizing::new(part);
        let part = EncKdcRepPart::decode(&part)?;
        if part.nonce != self.nonce {
            return invalid("the reply answers another request (nonce)");
        }
        if !part.sname.is(&part.srealm, &self.server) {
            return invalid(&format!("a ticket for the service `{}` was sent", part.sname.display(&part.srealm)));
        }
        self.verify_request_checksum(&part, &client_key)?;
        let ticket = Ticket::new(&self.client, &self.server, reply, &part, self.offset.unwrap_or(0))?;
        Ok(Step::Done(Box::new(ticket), client_key))
    }

    fn verify_without_preauthentication(&mut self, reply: &KdcRep) -> Result<Step, ExchangeError> {
        let Some(source) = &self.source else {
            return Err(ExchangeError::Invalid("a reply that no proof was sent for".into()));
        };
        let info = match &reply.padata {
            Some(padata) => etype_info(padata, source)?,
            None => None,
        };
        let salt = info.and_then(|entry| entry.salt).map(|salt| salt.0.into_bytes());
        let salt = salt.unwrap_or_else(|| self.client.default_salt());
        self.key = Some(source.key(reply.enc_part.etype, &salt, None)?);
        self.verify(reply)
    }

    /// RFC 6806 section 11: with the flag enc-pa-rep the KDC proves which request it answered, so that nobody can
    /// have changed it on the way (say, to weaker enctypes).
    fn verify_request_checksum(&self, part: &EncKdcRepPart, client_key: &ClientKey) -> Result<(), ExchangeError> {
        if flags(&part.flags) & ENC_PA_REP == 0 {
            return Ok(());
        }
        let changed = || ExchangeError::Invalid("the KDC answered a request that was changed on its way".into());
        let padata = part.encrypted_pa_data.as_deref().unwrap_or_default();
        let proof = padata.iter().find(|data| data.padata_type == PA_REQ_ENC_PA_REP).ok_or_else(changed)?;
        let proof = Checksum::from_der(proof.padata_value.as_bytes())?;
        let key = &client_key.key;
        let good = proof.cksumtype == key.checksum_type()
            && key.verify_checksum(USAGE_AS_REQ, &self.sent, proof.checksum.as_bytes())?;
        if good { Ok(()) } else { Err(changed()) }
    }
}

/// Why an exchange with a KDC failed.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// The KDC refused.
    #[error("{0}")]
    Kdc(KdcError),
    /// The KDC wants a pre-authentication that a password cannot give.
    #[error("the KDC offers no pre-authentication by password: {0}")]
    Preauthentication(KdcError),
    /// The KDC has no AES key for the account, or none that the keytab has too.
    #[error("the KDC offers no AES encryption that there is a key for: {0}")]
    Encryption(KdcError),
    /// A reply that cannot be believed or read.
    #[error("{0}")]
    Invalid(String),
}

impl From<der::Error> for ExchangeError {
    fn from(error: der::Error) -> Self {
        Self::Invalid(format!("a Kerberos message that cannot be read: {error}"))
    }
}

impl From<krb5::key::KeyError> for ExchangeError {
    fn from(error: krb5::key::KeyError) -> Self {
        Self::Invalid(format!("the reply does not verify: {error}"))
    }
}

/// A KRB-ERROR (RFC 4120 section 5.9.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KdcError {
    /// The error code (section 7.5.9).
    pub code: i32,
    /// The KDC's own words, if any.
    pub text: Option<String>,
    /// What AD adds in its own terms, an NTSTATUS: it tells a disabled account from a locked one.
    pub status: Option<u32>,
    /// The KDC's clock.
    pub kdc_time: SystemTime,
}

impl KdcError {
    /// KDC_ERR_C_PRINCIPAL_UNKNOWN
    pub const CLIENT_UNKNOWN: i32 = 6;
    /// KDC_ERR_S_PRINCIPAL_UNKNOWN
    pub const SERVICE_UNKNOWN: i32 = 7;
    /// KDC_ERR_POLICY: logon hours, workstations, an authentication policy
    pub const POLICY: i32 = 12;
    /// KDC_ERR_ETYPE_NOSUPP
    pub const ENCTYPE_UNSUPPORTED: i32 = 14;
    /// KDC_ERR_CLIENT_REVOKED: disabled, locked or expired
    pub const CLIENT_REVOKED: i32 = 18;
    /// KDC_ERR_KEY_EXPIRED: the password must be changed
    pub const PASSWORD_EXPIRED: i32 = 23;
    /// KDC_ERR_PREAUTH_FAILED: a wrong password
    pub const PREAUTH_FAILED: i32 = 24;
    /// KDC_ERR_PREAUTH_REQUIRED: a step, not a fault
    pub const PREAUTH_REQUIRED: i32 = 25;
    /// KDC_ERR_SVC_UNAVAILABLE: the KDC is starting or stopping
    pub const SERVICE_UNAVAILABLE: i32 = 29;
    /// KDC_ERR_MUST_USE_USER2USER: an account without a service name, to Windows
    pub const MUST_USE_USER2USER: i32 = 27;
    /// KRB_AP_ERR_SKEW
    pub const CLOCK_SKEW: i32 = 37;
    /// KDC_ERR_WRONG_REALM
    pub const WRONG_REALM: i32 = 68;

    /// What is wrong, in words, if AD told it in its own terms.
    pub fn status_in_words(&self) -> Option<&'static str> {
        status_words(self.status?).map(|(_, words)| words)
    }

    /// What the code alone says, in words (RFC 4120 section 7.5.9).
    pub fn code_in_words(&self) -> &'static str {
        match self.code {
            Self::CLIENT_UNKNOWN => "it does not know the account",
            Self::SERVICE_UNKNOWN => "it does not know the service asked for",
            8 => "it has several accounts of this name",
            9 => "the account has no key: its password was never set",
            Self::POLICY => "its policy forbids it (logon hours, workstations, an authentication policy)",
            Self::ENCTYPE_UNSUPPORTED => "it offers no enctype that is allowed here",
            Self::CLIENT_REVOKED => "the account is disabled, locked or expired",
            19 => "the service's account is disabled",
            20 => "the ticket was revoked",
            21 => "the account is not valid yet",
            Self::PASSWORD_EXPIRED => "the password must be changed first",
            Self::PREAUTH_FAILED => "the password is wrong",
            Self::PREAUTH_REQUIRED => "it does not take a password",
            Self::SERVICE_UNAVAILABLE => "a service that it needs is not available",
            31 => "it cannot decrypt the request",
            32 => "the ticket has expired",
            33 => "the ticket is not valid yet",
            Self::CLOCK_SKEW => "the clocks differ too much",
            41 => "the request was changed on its way",
            52 => "its answer is too long for UDP",
            60 => "it failed for a reason of its own",
            Self::WRONG_REALM => "the account is of another realm",
            _ => "see its answer",
        }
    }

    /// How far the KDC's clock is from `now`, and whether it is ahead.
    pub fn skew(&self, now: SystemTime) -> (Duration, bool) {
        match self.kdc_time.duration_since(now) {
            Ok(ahead) => (ahead, true),
            Err(behind) => (behind.duration(), false),
        }
    }
}

impl From<&KrbError> for KdcError {
    fn from(error: &KrbError) -> Self {
        let text = error.e_text.as_ref().map(|text| text.0.trim_end_matches('\0').escape_debug().to_string());
        Self {
            code: error.error_code,
            text: text.filter(|text| !text.is_empty()).map(|text| text.chars().take(200).collect()),
            status: error.e_data.as_ref().and_then(|data| status(data.as_bytes())),
            kdc_time: error.stime.to_system_time() + Duration::from_micros(u64::from(error.susec)),
        }
    }
}

/// The NTSTATUS in the error data of AD and of Samba: KERB-ERROR-DATA of type 3 (MS-KILE 2.2.1), which looks like one
/// PA-DATA, and some send it as the only one of a METHOD-DATA. Its value begins with the status, little endian.
fn status(data: &[u8]) -> Option<u32> {
    const EXTENDED: i32 = 3;
    let one = PaData::from_der(data).map(|data| vec![data]);
    let methods = one.or_else(|_| Vec::<PaData>::from_der(data)).ok()?;
    let extended = methods.iter().find(|data| data.padata_type == EXTENDED)?;
    extended.padata_value.as_bytes().first_chunk().map(|status| u32::from_le_bytes(*status))
}

/// An NTSTATUS in its name and in words, as far as it tells of an account (MS-ERREF 2.3.1).
fn status_words(status: u32) -> Option<(&'static str, &'static str)> {
    Some(match status {
        0xc000_0064 => ("STATUS_NO_SUCH_USER", "it does not know the account"),
        0xc000_006a => ("STATUS_WRONG_PASSWORD", "the password is wrong"),
        0xc000_006d => ("STATUS_LOGON_FAILURE", "name or password is wrong"),
        0xc000_006e => ("STATUS_ACCOUNT_RESTRICTION", "the account is restricted from logging on like this"),
        0xc000_006f => ("STATUS_INVALID_LOGON_HOURS", "the account may not log on at this time of the day"),
        0xc000_0070 => ("STATUS_INVALID_WORKSTATION", "the account may not log on from this computer"),
        0xc000_0071 => ("STATUS_PASSWORD_EXPIRED", "the password has expired"),
        0xc000_0072 => ("STATUS_ACCOUNT_DISABLED", "the account is disabled"),
        0xc000_0133 => ("STATUS_TIME_DIFFERENCE_AT_DC", "the clocks differ too much"),
        0xc000_0193 => ("STATUS_ACCOUNT_EXPIRED", "the account has expired"),
        0xc000_0224 => ("STATUS_PASSWORD_MUST_CHANGE", "the password must be changed first"),
        0xc000_0234 => ("STATUS_ACCOUNT_LOCKED_OUT", "the account is locked"),
        0xc000_0413 => ("STATUS_AUTHENTICATION_FIREWALL_FAILED", "an authentication policy or silo forbids it"),
        _ => return None,
    })
}

impl std::fmt::Display for KdcError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the KDC answered {} ({})", krb5::client::kdc_error_name(self.code), self.code)?;
        if let Some(status) = self.status {
            let name = status_words(status).map_or("NTSTATUS", |(name, _)| name);
            write!(f, ", {name} ({status:#010x})")?;
        }
        match &self.text {
            Some(text) => write!(f, ": {text}"),
            None => Ok(()),
        }
    }
}

/// The first enctype of the KDC's list that we have a key of (RFC 4120 section 5.2.7.5: the KDC's order is its
/// preference).
fn etype_info(padata: &[PaData], source: &Source) -> Result<Option<EtypeInfo2Entry>, ExchangeError> {
    let Some(info) = padata.iter().find(|data| data.padata_type == PA_ETYPE_INFO2) else {
        return Ok(None);
    };
    let entries = Vec::<EtypeInfo2Entry>::from_der(info.padata_value.as_bytes())?;
    Ok(entries.into_iter().find(|entry| source.has(entry.etype)))
}

/// Rounds of PBKDF2 that an unauthenticated message may cost us: AD asks for 4096, AES with SHA-2 for 32768 by default
/// (RFC 3962 section 4, RFC 8009 section 4). Zero stands for 2^32.
const MAX_ROUNDS: u32 = 1 << 16;

/// Key usage numbers (RFC 4120 section 7.5.1, RFC 6806 section 11).
const USAGE_PA_ENC_TIMESTAMP: u32 = 1;
const USAGE_AS_REP: u32 = 3;
const USAGE_AS_REQ: u32 = 56;

/// TicketFlags enc-pa-rep, bit 15 (RFC 6806 section 11).
const ENC_PA_REP: u32 = 1 << 16;

/// KDCs allow five minutes by default (MS-KILE 3.1.1.1). A minute is far from that and beyond any delay.
const SKEW_THAT_MATTERS: Duration = Duration::from_secs(60);
/// A clock that is off by more is to be set, not to be worked around.
pub(crate) const SKEW_TO_BELIEVE: Duration = Duration::from_secs(12 * 3600);

/// 2037-09-13, what Windows clients ask for.
const FAR_FUTURE: i64 = 2_136_422_885;
