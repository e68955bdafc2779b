use krb5::initiator::{GSS_C_CONF_FLAG, GSS_C_INTEG_FLAG, GSS_C_MUTUAL_FLAG, GSS_C_REPLAY_FLAG, GSS_C_SEQUENCE_FLAG};
use krb5::spnego::SpnegoInitiator;
use krb5::token::{ContextKey, PerMessageTokens};

use super::LdapTicket;

/// A GSS-SPNEGO negotiation in progress (RFC 4178 around RFC 4121), as the initiator.
pub struct SecurityContext(SpnegoInitiator);

impl SecurityContext {
    /// Begins with mutual authentication, signing and sealing; returns the first token for the DC.
    pub fn initiate(ticket: &LdapTicket) -> Result<(Self, Vec<u8>), ContextError> {
        let flags = GSS_C_MUTUAL_FLAG | GSS_C_REPLAY_FLAG | GSS_C_SEQUENCE_FLAG | GSS_C_CONF_FLAG | GSS_C_INTEG_FLAG;
        let (initiator, token) = SpnegoInitiator::new(ticket.credentials(), flags)?;
        Ok((Self(initiator), token))
    }

    /// Takes the DC's token; returns the next one to send, if the DC waits for one.
    pub fn step(&mut self, token: &[u8]) -> Result<Option<Vec<u8>>, ContextError> {
        Ok(self.0.step(token)?)
    }

    /// The finished context. An error while the negotiation is not over, so that nothing is ever sent unsealed.
    pub fn into_sealer(self) -> Result<Sealer, ContextError> {
        Ok(Sealer {
            tokens: self.0.per_message_tokens()?,
            send_sequence: self.0.send_seq(),
            receive_sequence: self.0.recv_seq(),
        })
    }
}

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
