use der::asn1::{Any, AnyRef, OctetString};
use der::{Decode, Encode, Sequence, Tag, TagNumber, Tagged};
use krb5::ChannelBindings;
use krb5::initiator::{
    GSS_C_CHANNEL_BOUND_FLAG, GSS_C_CONF_FLAG, GSS_C_INTEG_FLAG, GSS_C_MUTUAL_FLAG, GSS_C_REPLAY_FLAG,
    GSS_C_SEQUENCE_FLAG, InitOptions, InitiatorContext,
};
use krb5::spnego::{SPNEGO_OID, SpnegoInitiator};
use krb5::token::{ContextKey, PerMessageTokens};

use super::LdapTicket;

/// A GSS-SPNEGO negotiation in progress (RFC 4178 around RFC 4121), as the initiator.
pub struct SecurityContext(Kind);

enum Kind {
    /// Signs and seals.
    Sealing(SpnegoInitiator),
    /// Authenticates, and leaves the rest to TLS.
    Bound(InitiatorContext),
}

impl SecurityContext {
    /// Begins with mutual authentication, signing and sealing; returns the first token for the DC.
    pub fn initiate(ticket: &LdapTicket) -> Result<(Self, Vec<u8>), ContextError> {
        let flags = GSS_C_MUTUAL_FLAG | GSS_C_REPLAY_FLAG | GSS_C_SEQUENCE_FLAG | GSS_C_CONF_FLAG | GSS_C_INTEG_FLAG;
        let (initiator, token) = SpnegoInitiator::new(ticket.credentials(), flags)?;
        Ok((Self(Kind::Sealing(initiator)), token))
    }

    /// Begins with mutual authentication, bound to the TLS connection by the server's certificate, in DER
    /// (tls-server-end-point, RFC 5929 section 4). The ticket then opens no other connection.
    ///
    /// There is no signing and sealing: DCs refuse that within TLS (MS-ADTS 5.1.1.1.2), even the bare request for
    /// integrity that the crate's own negotiation always makes. So its Kerberos token is wrapped here.
    pub fn initiate_in_tls(ticket: &LdapTicket, certificate: &[u8]) -> Result<(Self, Vec<u8>), ContextError> {
        let bindings = ChannelBindings::tls_server_end_point(certificate).ok_or_else(|| {
            ContextError("the signature of the TLS certificate has no hash to bind to (RFC 5929 section 4.1)".into())
        })?;
        let mut options = InitOptions::default();
        options.channel_bindings = Some(&bindings);
        // Says that we bind, so that a DC that could do without compares all the same (MS-KILE 3.2.5.8).
        let flags = GSS_C_MUTUAL_FLAG | GSS_C_CHANNEL_BOUND_FLAG;
        let (initiator, token) = InitiatorContext::with_options(ticket.credentials(), flags, options)?;
        Ok((Self(Kind::Bound(initiator)), negotiation(&token)?))
    }

    /// Takes the DC's token; returns the next one to send, if the DC waits for one.
    pub fn step(&mut self, token: &[u8]) -> Result<Option<Vec<u8>>, ContextError> {
        match &mut self.0 {
            Kind::Sealing(initiator) => Ok(initiator.step(token)?),
            Kind::Bound(initiator) => {
                initiator.step(&answer(token)?)?;
                Ok(None)
            }
        }
    }

    /// What seals the finished context; nothing does within TLS. An error while the negotiation is not over, so that
    /// nothing is ever sent unsealed or to a server that has not proven itself.
    pub fn into_sealer(self) -> Result<Option<Sealer>, ContextError> {
        match self.0 {
            Kind::Sealing(initiator) => Ok(Some(Sealer {
                tokens: initiator.per_message_tokens()?,
                send_sequence: initiator.send_seq(),
                receive_sequence: initiator.recv_seq(),
            })),
            Kind::Bound(initiator) if initiator.is_established() => Ok(None),
            Kind::Bound(_) => Err(ContextError("the server has not proven itself".into())),
        }
    }
}

/// NegTokenInit with Kerberos as the one mechanism (RFC 4178 section 4.2.1), in its GSS frame (RFC 2743 section 3.1).
fn negotiation(mech_token: &[u8]) -> der::Result<Vec<u8>> {
    let wrap = |tag: Tag, content: &[u8]| AnyRef::new(tag, content)?.to_der();
    let field = |number: u32, content: &[u8]| {
        wrap(Tag::ContextSpecific { constructed: true, number: TagNumber(number) }, content)
    };
    let mechanisms = field(0, &wrap(Tag::Sequence, &KERBEROS_OID)?)?;
    let token = field(2, &wrap(Tag::OctetString, mech_token)?)?;
    let init = field(0, &wrap(Tag::Sequence, &[mechanisms, token].concat())?)?;
    wrap(Tag::Application { constructed: true, number: TagNumber(0) }, &[SPNEGO_OID.as_slice(), &init].concat())
}

/// The Kerberos token of a NegTokenResp that ends the negotiation (RFC 4178 section 4.2.2).
fn answer(token: &[u8]) -> Result<Vec<u8>, ContextError> {
    let frame = AnyRef::from_der(token)?;
    if frame.tag() != (Tag::ContextSpecific { constructed: true, number: TagNumber(1) }) {
        return Err(ContextError("the answer to the negotiation is none".into()));
    }
    let answer = NegTokenResp::from_der(frame.value())?;
    match (answer.neg_state, answer.response_token) {
        (Some(state), Some(token)) if state.value() == ACCEPT_COMPLETED => Ok(token.into_bytes().into()),
        _ => Err(ContextError("the server does not accept the login's ticket as it is".into())),
    }
}

#[derive(Sequence)]
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

const ACCEPT_COMPLETED: &[u8] = &[0];
/// 1.2.840.113554.1.2.2 (RFC 4121 section 1).
const KERBEROS_OID: [u8; 11] = [0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x12, 0x01, 0x02, 0x02];

/// Seals and unseals messages of an established context, in order (RFC 4121 section 4.2).
pub struct Sealer {
    tokens: PerMessageTokens<ContextKey>,
    send_sequence: u64,
    receive_sequence: u64,
}

impl Sealer {
    /// For the fuzzer: an end of a context that was never negotiated.
    #[cfg(fuzzing)]
    pub fn new(tokens: PerMessageTokens<ContextKey>) -> Self {
        Self { tokens, send_sequence: 0, receive_sequence: 0 }
    }

    /// Encrypts and signs one message.
    pub fn seal(&mut self, message: &[u8]) -> Result<Vec<u8>, ContextError> {
        let token = self.tokens.emit_wrap(self.send_sequence, message)?;
        self.send_sequence += 1;
        Ok(token)
    }

    /// Verifies and decrypts one message. A replayed, reordered or unsealed message is an error.
    pub fn unseal(&mut self, token: &[u8]) -> Result<Vec<u8>, ContextError> {
        let verified = self.tokens.unwrap(token)?;
        if verified.seq != self.receive_sequence {
            return Err(ContextError(format!(
                "message number {} came where {} was due",
                verified.seq, self.receive_sequence
            )));
        }
        self.receive_sequence += 1;
        Ok(verified.message)
    }
}

/// The security context failed: a token that does not verify, a refusal by the DC.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ContextError(String);

impl From<krb5::ClientError> for ContextError {
    fn from(error: krb5::ClientError) -> Self {
        Self(error.to_string())
    }
}

impl From<krb5::token::TokenError> for ContextError {
    fn from(error: krb5::token::TokenError) -> Self {
        Self(error.to_string())
    }
}

impl From<der::Error> for ContextError {
    fn from(error: der::Error) -> Self {
        Self(format!("a token that cannot be read: {error}"))
    }
}
