//! One AS exchange, from the first request to the verified ticket.

use std::time::{Duration, SystemTime};

use der::asn1::{BitString, OctetString};
use der::{Decode, Encode};

use super::crypto::{Key, KeyError};
use super::kdc_error::KdcError;
use super::messages::{
    AS_REP, AS_REQ, BoundedList, Checksum, EncKdcRepPart, EncryptedData, EtypeInfo2Entry, FORWARDABLE, KRB_ERROR,
    KdcRep, KdcReq, KdcReqBody, KerberosString, KrbError, PA_ENC_TIMESTAMP, PA_ETYPE_INFO2, PA_REQ_ENC_PA_REP, PaData,
    PaEncTsEnc, PrincipalName, RENEWABLE, Reply, flags, time,
};
use super::principal::Principal;
use super::{ClientKey, ENCTYPES, Password, Ticket};
use crate::clock;
use crate::entropy::Entropy;

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
enum KeySource {
    Password(Password),
    Keys(Vec<Key>),
}

impl KeySource {
    /// The enctypes that there are keys of, or can be.
    fn enctypes(&self) -> Vec<i32> {
        let mut enctypes = ENCTYPES.to_vec();
        if let Self::Keys(keys) = self {
            enctypes.retain(|enctype| keys.iter().any(|key| key.enctype() == *enctype));
        }
        enctypes
    }

    fn key(&self, enctype: i32, salt: &[u8], params: Option<[u8; 4]>) -> Result<ClientKey, ExchangeError> {
        match self {
            Self::Password(password) => Ok(ClientKey::derive(enctype, password, salt, params)?),
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

/// What is asked for with a ticket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TicketOptions {
    /// The life that is asked for; without it as long a ticket as the KDC's policy allows.
    pub lifetime: Option<Duration>,
    /// Whether it may be forwarded, which constrained delegation needs.
    pub forwardable: bool,
    /// Whether it can be renewed by whoever holds it, for days.
    pub renewable: bool,
}

/// An AS exchange (RFC 4120 section 3.1): bytes in, bytes and a ticket out.
pub struct AsExchange {
    client: Principal,
    server: Principal,
    options: TicketOptions,
    entropy: Entropy,
    source: Option<KeySource>,
    /// What the last request was proven with.
    key: Option<ClientKey>,
    /// What was tried and refused, so that the KDC was asked how the key is made.
    tried: Option<(ClientKey, KdcError)>,
    /// The last request: its number, itself, when it was made by our clock.
    nonce: u32,
    sent: Vec<u8>,
    sent_at: SystemTime,
    /// Whether the KDC has already told how to derive the key: it is asked once, so that a confused KDC cannot make
    /// us send proofs for ever.
    informed: bool,
    /// How far the KDC's clock is ahead of ours, in seconds, as an error of its said. It is good for the next request
    /// and for nothing else: nobody has proven it.
    told_offset: Option<i64>,
}

impl AsExchange {
    /// The refusal in a KDC's reply; none if it gave a ticket.
    pub fn refusal(reply: &[u8]) -> Result<Option<KdcError>, ExchangeError> {
        match Reply::decode(reply)? {
            Reply::Kdc(_) => Ok(None),
            Reply::Error(error) => Ok(Some(KdcError::from(&*error))),
        }
    }

    /// Begins an exchange; returns it with the first request. `now` is our own time.
    pub fn start(
        client: Principal,
        server: Principal,
        proof: Proof,
        options: TicketOptions,
        now: SystemTime,
        entropy: Entropy,
    ) -> Result<(Self, Vec<u8>), ExchangeError> {
        let (source, key) = match proof {
            Proof::Password(password) => (Some(KeySource::Password(password)), None),
            Proof::SaltedPassword(password, salt) => {
                let key = ClientKey::derive(ENCTYPES[0], &password, &salt, None)?;
                (Some(KeySource::Password(password)), Some(key))
            }
            Proof::Key(key) => (None, Some(key)),
            Proof::Keys(keys) => (Some(KeySource::Keys(keys)), None),
        };
        let mut exchange = Self {
            client,
            server,
            options,
            entropy,
            source,
            key,
            tried: None,
            nonce: 0,
            sent: Vec::new(),
            sent_at: now,
            informed: false,
            told_offset: None,
        };
        let request = exchange.request(now)?;
        Ok((exchange, request))
    }

    /// The salt of the key that the last request proves; none if that carries no proof.
    pub fn salt(&self) -> Option<&[u8]> {
        self.key.as_ref().map(|key| key.salt.as_slice())
    }

    /// Takes the KDC's reply to the last request. `now` is our own time.
    pub fn receive(&mut self, reply: &[u8], now: SystemTime) -> Result<Step, ExchangeError> {
        match Reply::decode(reply)? {
            Reply::Kdc(reply) => self.verify(&reply, now),
            Reply::Error(error) => {
                if error.msg_type != KRB_ERROR {
                    return Err(ExchangeError::Invalid("a KRB-ERROR with another message type".into()));
                }
                self.refused(&error, now)
            }
        }
    }

    fn request(&mut self, now: SystemTime) -> Result<Vec<u8>, ExchangeError> {
        let kdc_now = clock::shifted(now, self.told_offset.unwrap_or(0));
        let mut padata = Vec::new();
        if let Some(ClientKey { key, .. }) = &self.key {
            let since = kdc_now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            let stamp = PaEncTsEnc { patimestamp: time(kdc_now)?, pausec: Some(since.subsec_micros()) }.to_der()?;
            let cipher = OctetString::new(key.encrypt(USAGE_PA_ENC_TIMESTAMP, &[&stamp], self.entropy)?)?;
            let proof = EncryptedData { etype: key.enctype(), kvno: None, cipher }.to_der()?;
            padata.push(PaData { padata_type: PA_ENC_TIMESTAMP, padata_value: OctetString::new(proof)? });
        }
        // Asks the KDC to prove in its reply which request it answered (RFC 6806 section 11).
        padata.push(PaData { padata_type: PA_REQ_ENC_PA_REP, padata_value: OctetString::new(Vec::new())? });

        let TicketOptions { lifetime, forwardable, renewable } = self.options;
        let till = lifetime.map_or_else(|| clock::from_unix(FAR_FUTURE), |lifetime| kdc_now + lifetime);
        let till = time(till)?;
        let option = |wanted, bit| if wanted { bit } else { 0 };
        let options: u32 = option(forwardable, FORWARDABLE) | option(renewable, RENEWABLE);
        // The reply comes in one of these, so only those that there is a key of are named.
        let etype = match (&self.source, &self.key) {
            (Some(source), _) => source.enctypes(),
            (None, Some(key)) => vec![key.enctype()],
            (None, None) => Vec::new(),
        };
        self.nonce = nonce(self.entropy);
        let req_body = KdcReqBody {
            kdc_options: BitString::from_bytes(&options.to_be_bytes())?,
            cname: Some(PrincipalName::from(&self.client)),
            realm: KerberosString(self.client.realm.clone()),
            sname: PrincipalName::from(&self.server),
            till,
            rtime: if renewable { Some(time(clock::from_unix(FAR_FUTURE))?) } else { None },
            nonce: self.nonce,
            etype: BoundedList(etype),
        };
        self.sent = KdcReq { pvno: 5, msg_type: AS_REQ, padata: BoundedList(padata), req_body }.encode()?;
        self.sent_at = now;
        Ok(self.sent.clone())
    }

    /// PREAUTH_REQUIRED and the salt it brings are a step, and so are the clock of a KDC that takes ours for wrong and
    /// an enctype that was guessed; everything else ends the exchange.
    fn refused(&mut self, error: &KrbError, now: SystemTime) -> Result<Step, ExchangeError> {
        let told = KdcError::from(error);
        if told.code == KdcError::CLOCK_SKEW && self.told_offset.is_none() && self.learn_offset(&told, now) {
            return self.request(now).map(Step::Send);
        }
        let (Some(source), false) = (&self.source, self.informed) else {
            return Err(ExchangeError::Kdc(told));
        };
        let asks = matches!(told.code, KdcError::PREAUTH_REQUIRED | KdcError::PREAUTH_FAILED);
        let data = error.e_data.as_ref().filter(|_| asks);
        let methods = data.and_then(|data| BoundedList::<PaData>::from_der(data.as_bytes()).ok());
        let entry = methods.as_ref().map_or(Ok(None), |methods| etype_info(methods, source))?;
        let Some(entry) = entry else {
            let guessed = matches!(told.code, KdcError::PREAUTH_FAILED | KdcError::ENCTYPE_UNSUPPORTED);
            if guessed && let Some(key) = self.key.take() {
                // The KDC does not say what is wrong with our guess: asked without a proof it does.
                self.tried = Some((key, told));
                return self.request(now).map(Step::Send);
            }
            let Some(methods) = methods else { return Err(ExchangeError::Kdc(told)) };
            if let Some((_, first)) = self.tried.take_if(|_| !methods.iter().any(tells_enctypes)) {
                // It does not say it at all: the password is as wrong as it was.
                return Err(ExchangeError::Kdc(first));
            }
            // With no AES on offer the KDC sends an ETYPE-INFO2 without any of ours, or none.
            return Err(if takes_timestamps(&methods) {
                ExchangeError::Encryption(told)
            } else {
                ExchangeError::Preauthentication(told)
            });
        };
        let salt = entry.salt.map(|salt| salt.0.into_bytes()).or_else(|| self.client.default_salt());
        let Some(salt) = salt else {
            return Err(ExchangeError::Invalid(format!("the KDC says no salt for the name `{}`", self.client)));
        };
        let is_used = |used: &ClientKey| used.enctype() == entry.etype && used.salt == salt;
        if self.key.as_ref().is_some_and(is_used) {
            // The KDC has seen a proof made in just this way: it is the password that is wrong.
            return Err(ExchangeError::Kdc(told));
        }
        if let Some((_, first)) = self.tried.take_if(|(used, _)| is_used(used)) {
            return Err(ExchangeError::Kdc(first));
        }
        if told.code == KdcError::PREAUTH_REQUIRED && !methods.is_some_and(|methods| takes_timestamps(&methods)) {
            return Err(ExchangeError::Preauthentication(told));
        }
        let params = rounds(entry.etype, entry.s2kparams.as_ref())?;
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
        self.told_offset = Some(if ahead { seconds } else { -seconds });
        true
    }

    /// How far the KDC's clock is ahead of ours, in seconds, by what it has proven: it made the ticket between our
    /// request and our receipt of it. 0 where it makes no difference.
    fn proven_offset(&self, authtime: SystemTime, now: SystemTime) -> i64 {
        let authtime = clock::unix(authtime);
        let (earliest, latest) = (clock::unix(self.sent_at), clock::unix(now));
        let offset = authtime - authtime.clamp(earliest.min(latest), latest);
        if offset.unsigned_abs() < SKEW_THAT_MATTERS.as_secs() { 0 } else { offset }
    }

    /// A reply is believed only if it decrypts, answers our nonce and request, and names the client and server that
    /// were asked for (RFC 4120 section 3.1.5).
    fn verify(&mut self, reply: &KdcRep, now: SystemTime) -> Result<Step, ExchangeError> {
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
            return self.verify_without_preauthentication(reply, now);
        };
        if reply.enc_part.etype != client_key.key.enctype() {
            return invalid("the reply is encrypted in another enctype than the proof");
        }
        let part = client_key.key.decrypt(USAGE_AS_REP, reply.enc_part.cipher.as_bytes())?;
        let part = EncKdcRepPart::decode(&part)?;
        if part.nonce != self.nonce {
            return invalid("the reply answers another request (nonce)");
        }
        if !part.sname.is(&part.srealm, &self.server) {
            return invalid(&format!("a ticket for the service `{}` was sent", part.sname.display(&part.srealm)));
        }
        self.verify_request_checksum(&part, &client_key)?;
        let offset = self.proven_offset(part.authtime.to_system_time(), now);
        let ticket = Ticket::new(&self.client, &self.server, reply, &part, offset)?;
        Ok(Step::Done(Box::new(ticket), client_key))
    }

    fn verify_without_preauthentication(&mut self, reply: &KdcRep, now: SystemTime) -> Result<Step, ExchangeError> {
        let Some(source) = &self.source else {
            return Err(ExchangeError::Invalid("a reply that no proof was sent for".into()));
        };
        let info = match &reply.padata {
            Some(padata) => etype_info(padata, source)?.filter(|entry| entry.etype == reply.enc_part.etype),
            None => None,
        };
        let (salt, params) = match info {
            Some(entry) => (entry.salt.map(|salt| salt.0.into_bytes()), rounds(entry.etype, entry.s2kparams.as_ref())?),
            None => (None, None),
        };
        let Some(salt) = salt.or_else(|| self.client.default_salt()) else {
            return Err(ExchangeError::Invalid(format!("the KDC says no salt for the name `{}`", self.client)));
        };
        self.key = Some(source.key(reply.enc_part.etype, &salt, params)?);
        self.verify(reply, now)
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
            && key.verifies(USAGE_AS_REQ, &[&self.sent], proof.checksum.as_bytes())?;
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

impl From<KeyError> for ExchangeError {
    fn from(error: KeyError) -> Self {
        Self::Invalid(format!("the reply does not verify: {error}"))
    }
}

/// The first enctype of the KDC's list that we have a key of (RFC 4120 section 5.2.7.5: the KDC's order is its
/// preference).
fn etype_info(padata: &[PaData], source: &KeySource) -> Result<Option<EtypeInfo2Entry>, ExchangeError> {
    let Some(info) = padata.iter().find(|data| tells_enctypes(data)) else { return Ok(None) };
    let (entries, ours) = (BoundedList::<EtypeInfo2Entry>::from_der(info.padata_value.as_bytes())?, source.enctypes());
    Ok(entries.0.into_iter().find(|entry| ours.contains(&entry.etype)))
}

fn tells_enctypes(data: &PaData) -> bool {
    data.padata_type == PA_ETYPE_INFO2
}

/// Whether an encrypted timestamp is among the ways to prove oneself.
fn takes_timestamps(methods: &[PaData]) -> bool {
    methods.iter().any(|method| method.padata_type == PA_ENC_TIMESTAMP)
}

/// The rounds of key derivation that a KDC asks for. Fewer than the standards name would make the proof quick to guess
/// from, and whoever answers chooses them.
fn rounds(etype: i32, params: Option<&OctetString>) -> Result<Option<[u8; 4]>, ExchangeError> {
    let params = params.map(|params| <[u8; 4]>::try_from(params.as_bytes())).transpose();
    let params = params.map_err(|_| ExchangeError::Invalid("string-to-key parameters of a strange length".into()))?;
    let Some(asked) = params.map(u32::from_be_bytes) else { return Ok(None) };
    if asked.wrapping_sub(1) >= MAX_ROUNDS {
        return Err(ExchangeError::Invalid("the KDC asks for more rounds of key derivation than any does".into()));
    }
    let least = Key::default_rounds(etype)?;
    if asked < least {
        let why = format!("the KDC asks for {asked} rounds of key derivation; fewer than {least} are not safe");
        return Err(ExchangeError::Invalid(why));
    }
    Ok(params)
}

/// A number for a request, so that no older reply passes for an answer. Some KDCs read it as a signed number (RFC 4120
/// section 5.4.1, note).
pub(super) fn nonce(entropy: Entropy) -> u32 {
    let mut octets = [0; 4];
    entropy(&mut octets);
    u32::from_be_bytes(octets) & 0x7fff_ffff
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
