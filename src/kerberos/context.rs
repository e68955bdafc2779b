use std::time::SystemTime;

use der::asn1::{Any, AnyRef, OctetString};
use der::{Decode, Encode, Sequence, Tag, TagNumber, Tagged};
use zeroize::Zeroizing;

use super::ap::{ApExchange, Established, KERBEROS_OID};
use super::exchange::ExchangeError;
use super::token::{Role, TokenError, Tokens};
use super::{LdapTicket, bindings};
use crate::entropy::Entropy;

/// A GSS-SPNEGO negotiation in progress (RFC 4178 around RFC 4121), as the initiator. Kerberos is all that it offers.
pub struct SecurityContext {
    exchange: Option<ApExchange>,
    entropy: Entropy,
    /// Once the DC has proven itself.
    sealer: Option<Sealer>,
    within_tls: bool,
}

impl SecurityContext {
    /// Begins with mutual authentication, signing and sealing; returns the first token for the DC. `now` is our own
    /// time.
    pub fn initiate(ticket: &LdapTicket, now: SystemTime, entropy: Entropy) -> Result<(Self, Vec<u8>), ContextError> {
        Self::begin(ticket, MUTUAL | REPLAY | SEQUENCE | CONFIDENTIALITY | INTEGRITY, None, now, entropy)
    }

    /// Begins with mutual authentication, bound to the TLS connection by the server's certificate, in DER
    /// (tls-server-end-point, RFC 5929 section 4). The ticket then opens no other connection. There is no signing and
    /// sealing: DCs refuse that within TLS (MS-ADTS 5.1.1.1.2), even the bare request for integrity.
    pub fn initiate_in_tls(
        ticket: &LdapTicket,
        certificate: &[u8],
        now: SystemTime,
        entropy: Entropy,
    ) -> Result<(Self, Vec<u8>), ContextError> {
        let bindings = bindings::tls_server_end_point(certificate).ok_or_else(|| {
            ContextError("the signature of the TLS certificate has no hash to bind to (RFC 5929 section 4.1)".into())
        })?;
        Self::begin(ticket, MUTUAL, Some(&bindings), now, entropy)
    }

    fn begin(
        ticket: &LdapTicket,
        flags: u32,
        bindings: Option<&[u8]>,
        now: SystemTime,
        entropy: Entropy,
    ) -> Result<(Self, Vec<u8>), ContextError> {
        let (exchange, token) = ApExchange::initiate(ticket.as_ticket(), flags, bindings, now, entropy)?;
        let context = Self { exchange: Some(exchange), entropy, sealer: None, within_tls: bindings.is_some() };
        Ok((context, negotiation(&token)?))
    }

    /// Takes the DC's token; returns the next one to send, if the DC waits for one.
    pub fn step(&mut self, token: &[u8]) -> Result<Option<Vec<u8>>, ContextError> {
        let answer = NegTokenResp::decode(token)?;
        // Without a state it is the end (RFC 4178 section 4.2.2).
        let state = answer.neg_state.as_ref().map_or(ACCEPT_COMPLETED, Any::value);
        if let Some(exchange) = self.exchange.take() {
            let Some(token) = answer.response_token else {
                return Err(ContextError("the server does not accept a Kerberos ticket".into()));
            };
            self.sealer = Some(Sealer::of(exchange.finish(token.as_bytes())?, self.entropy));
        }
        let Some(sealer) = &mut self.sealer else {
            return Err(ContextError("the server goes on after it has refused".into()));
        };
        if state == REJECT {
            return Err(ContextError("the server rejects the negotiation".into()));
        }
        // Some servers prove that nobody changed the list of mechanisms, and may want the same of us (section 5).
        if let Some(mic) = &answer.mech_list_mic {
            sealer.verify(mic.as_bytes(), &mechanisms()?)?;
        }
        if state == ACCEPT_COMPLETED {
            return Ok(None);
        }
        let mic = OctetString::new(sealer.sign(&mechanisms()?)?)?;
        Ok(Some(NegTokenResp { mech_list_mic: Some(mic), ..NegTokenResp::default() }.encode()?))
    }

    /// What seals the finished context; nothing does within TLS. An error while the negotiation is not over, so that
    /// nothing is ever sent unsealed or to a server that has not proven itself.
    pub fn into_sealer(self) -> Result<Option<Sealer>, ContextError> {
        let sealer = self.sealer.ok_or_else(|| ContextError("the server has not proven itself".into()))?;
        Ok((!self.within_tls).then_some(sealer))
    }
}

/// NegTokenInit with Kerberos as the one mechanism (RFC 4178 section 4.2.1), in its GSS frame (RFC 2743 section 3.1).
fn negotiation(mech_token: &[u8]) -> der::Result<Vec<u8>> {
    let token = field(2, &wrap(Tag::OctetString, mech_token)?)?;
    let init = field(0, &wrap(Tag::Sequence, &[field(0, &mechanisms()?)?, token].concat())?)?;
    wrap(Tag::Application { constructed: true, number: TagNumber(0) }, &[SPNEGO_OID.as_slice(), &init].concat())
}

/// MechTypeList.
fn mechanisms() -> der::Result<Vec<u8>> {
    wrap(Tag::Sequence, &KERBEROS_OID)
}

fn wrap(tag: Tag, content: &[u8]) -> der::Result<Vec<u8>> {
    AnyRef::new(tag, content)?.to_der()
}

fn field(number: u32, content: &[u8]) -> der::Result<Vec<u8>> {
    wrap(Tag::ContextSpecific { constructed: true, number: TagNumber(number) }, content)
}

/// RFC 4178 section 4.2.2.
#[derive(Default, Sequence)]
struct NegTokenResp {
    #[asn1(context_specific = "0", optional = "true")]
    neg_state: Option<Any>,
    #[asn1(context_specific = "1", optional = "true")]
    supported_mech: Option<Any>,
    #[asn1(context_specific = "2", optional = "true")]
    response_token: Option<OctetString>,
    #[asn1(context_specific = "3", optional = "true")]
    mech_list_mic: Option<OctetString>,
}

impl NegTokenResp {
    fn decode(token: &[u8]) -> Result<Self, ContextError> {
        let frame = AnyRef::from_der(token)?;
        if frame.tag() != (Tag::ContextSpecific { constructed: true, number: TagNumber(1) }) {
            return Err(ContextError("the answer to the negotiation is none".into()));
        }
        Ok(Self::from_der(frame.value())?)
    }

    fn encode(&self) -> der::Result<Vec<u8>> {
        field(1, &self.to_der()?)
    }
}

/// 1.3.6.1.5.5.2 (RFC 4178 section 4.1).
const SPNEGO_OID: [u8; 8] = [0x06, 0x06, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x02];

/// Flags of a context (RFC 4121 section 4.1.1.1).
const MUTUAL: u32 = 2;
const REPLAY: u32 = 4;
const SEQUENCE: u32 = 8;
const CONFIDENTIALITY: u32 = 16;
const INTEGRITY: u32 = 32;

const ACCEPT_COMPLETED: &[u8] = &[0];
const REJECT: &[u8] = &[2];

/// Seals and unseals messages of an established context, in order (RFC 4121 section 4.2).
pub struct Sealer {
    tokens: Tokens,
    send_sequence: u64,
    receive_sequence: u64,
}

impl Sealer {
    fn of(established: Established, entropy: Entropy) -> Self {
        Self {
            tokens: Tokens::new(established.key, Role::Initiator, established.from_service, entropy),
            send_sequence: established.send_sequence.into(),
            receive_sequence: established.receive_sequence.into(),
        }
    }

    /// For the fuzzer: an end of a context that was never negotiated.
    #[cfg(fuzzing)]
    pub fn new(tokens: Tokens) -> Self {
        Self { tokens, send_sequence: 0, receive_sequence: 0 }
    }

    /// Encrypts and signs one message.
    pub fn seal(&mut self, message: &[u8]) -> Result<Vec<u8>, ContextError> {
        let token = self.tokens.seal(self.send_sequence, message)?;
        self.send_sequence += 1;
        Ok(token)
    }

    /// Verifies and decrypts one message. A replayed, reordered or unsealed message is an error.
    pub fn unseal(&mut self, token: &[u8]) -> Result<Zeroizing<Vec<u8>>, ContextError> {
        let (number, message) = self.tokens.unseal(token)?;
        self.received(number)?;
        Ok(message)
    }

    fn sign(&mut self, message: &[u8]) -> Result<Vec<u8>, ContextError> {
        let mic = self.tokens.sign(self.send_sequence, message)?;
        self.send_sequence += 1;
        Ok(mic)
    }

    fn verify(&mut self, mic: &[u8], message: &[u8]) -> Result<(), ContextError> {
        let number = self.tokens.verify(mic, message)?;
        self.received(number)
    }

    fn received(&mut self, number: u64) -> Result<(), ContextError> {
        if number != self.receive_sequence {
            let due = self.receive_sequence;
            return Err(ContextError(format!("message number {number} came where {due} was due")));
        }
        self.receive_sequence += 1;
        Ok(())
    }
}

/// The security context failed: a token that does not verify, a refusal by the DC.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ContextError(String);

impl From<ExchangeError> for ContextError {
    fn from(error: ExchangeError) -> Self {
        Self(error.to_string())
    }
}

impl From<TokenError> for ContextError {
    fn from(error: TokenError) -> Self {
        Self(error.to_string())
    }
}

impl From<der::Error> for ContextError {
    fn from(error: der::Error) -> Self {
        Self(format!("a token that cannot be read: {error}"))
    }
}
