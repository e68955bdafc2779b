//! Per-message tokens of a GSS context (RFC 4121 section 4.2): sealed (Wrap) and signed (MIC) messages.

use zeroize::Zeroizing;

use super::crypto::{Key, KeyError};
use crate::entropy::Entropy;

/// An end of a context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Who began it.
    Initiator,
    /// Who answered.
    Acceptor,
}

impl Role {
    fn other(self) -> Self {
        match self {
            Self::Initiator => Self::Acceptor,
            Self::Acceptor => Self::Initiator,
        }
    }

    /// Key usage numbers of what this end sends (section 2).
    fn seal(self) -> u32 {
        match self {
            Self::Acceptor => 22,
            Self::Initiator => 24,
        }
    }

    fn sign(self) -> u32 {
        match self {
            Self::Acceptor => 23,
            Self::Initiator => 25,
        }
    }
}

/// What makes and takes the tokens of one end.
pub struct Tokens {
    key: Key,
    role: Role,
    /// Whether the key is a subkey of the acceptor's.
    acceptor_subkey: bool,
    entropy: Entropy,
}

impl Tokens {
    /// The tokens of this end of a context whose key is established.
    pub fn new(key: Key, role: Role, acceptor_subkey: bool, entropy: Entropy) -> Self {
        Self { key, role, acceptor_subkey, entropy }
    }

    /// Seals message number `number`.
    pub fn seal(&self, number: u64, message: &[u8]) -> Result<Vec<u8>, TokenError> {
        self.seal_rotated(number, message, 0, 0)
    }

    /// With so many octets of filler, rotated by so many: what others may do, and we do not.
    fn seal_rotated(&self, number: u64, message: &[u8], extra: u16, rotation: u16) -> Result<Vec<u8>, TokenError> {
        let mut header = header(WRAP, self.flags() | SEALED, number);
        header[4..6].copy_from_slice(&extra.to_be_bytes());
        let filler = vec![0; extra.into()];
        let sealed = self.key.encrypt(self.role.seal(), &[message, &filler, &header], self.entropy)?;
        header[6..8].copy_from_slice(&rotation.to_be_bytes());
        let mut token = [&header[..], &sealed].concat();
        let length = sealed.len();
        token[HEADER..].rotate_right(usize::from(rotation) % length);
        Ok(token)
    }

    /// Opens a sealed message of the other end; returns its number too.
    pub fn unseal(&self, token: &[u8]) -> Result<(u64, Zeroizing<Vec<u8>>), TokenError> {
        let (header, body) = token.split_first_chunk::<HEADER>().ok_or(TokenError::Short)?;
        let number = self.number(header, WRAP, SEALED)?;
        let [_, _, _, filler, e0, e1, r0, r1, ..] = *header;
        if filler != FILLER {
            return Err(TokenError::Malformed);
        }
        let (extra, rotation) = (u16::from_be_bytes([e0, e1]), u16::from_be_bytes([r0, r1]));
        let usage = self.role.other().seal();
        // Any rotation must be taken, also one of more than the length (section 4.2.5).
        let mut opened = match usize::from(rotation).checked_rem(body.len()).unwrap_or(0) {
            0 => self.key.decrypt(usage, body)?,
            rotation => {
                let (head, tail) = body.split_at(rotation);
                self.key.decrypt(usage, &[tail, head].concat())?
            }
        };
        // The header stands behind the message, not rotated: that is what protects it (section 4.2.4).
        let mut sent = *header;
        sent[6..8].fill(0);
        let message = opened.len().checked_sub(HEADER + usize::from(extra)).ok_or(TokenError::Short)?;
        if !opened.ends_with(&sent) {
            return Err(TokenError::Malformed);
        }
        opened.truncate(message);
        Ok((number, opened))
    }

    /// Signs message number `number`.
    pub fn sign(&self, number: u64, message: &[u8]) -> Result<Vec<u8>, TokenError> {
        let mut header = header(MIC, self.flags(), number);
        header[4..8].fill(FILLER);
        let checksum = self.key.checksum(self.role.sign(), &[message, &header])?;
        Ok([&header[..], &checksum].concat())
    }

    /// Verifies the signature of a message of the other end; returns its number.
    pub fn verify(&self, token: &[u8], message: &[u8]) -> Result<u64, TokenError> {
        let (header, checksum) = token.split_first_chunk::<HEADER>().ok_or(TokenError::Short)?;
        let number = self.number(header, MIC, 0)?;
        if header[3..8] != [FILLER; 5] {
            return Err(TokenError::Malformed);
        }
        match self.key.verifies(self.role.other().sign(), &[message, header], checksum)? {
            true => Ok(number),
            false => Err(KeyError::Integrity.into()),
        }
    }

    fn flags(&self) -> u8 {
        let sent_by_acceptor = if self.role == Role::Acceptor { SENT_BY_ACCEPTOR } else { 0 };
        sent_by_acceptor | if self.acceptor_subkey { ACCEPTOR_SUBKEY } else { 0 }
    }

    /// The number in a header of that kind, from the other end, with exactly that seal. Flags that are not known are
    /// let pass (section 4.2.2).
    fn number(&self, header: &[u8; HEADER], kind: [u8; 2], seal: u8) -> Result<u64, TokenError> {
        let [a, b, flags, _, _, _, _, _, number @ ..] = *header;
        if [a, b] != kind {
            return Err(TokenError::Kind);
        }
        if (flags & SENT_BY_ACCEPTOR != 0) == (self.role == Role::Acceptor) {
            return Err(TokenError::Reflected);
        }
        if flags & SEALED != seal || flags & ACCEPTOR_SUBKEY != 0 && !self.acceptor_subkey {
            return Err(TokenError::Malformed);
        }
        Ok(u64::from_be_bytes(number))
    }
}

fn header([a, b]: [u8; 2], flags: u8, number: u64) -> [u8; HEADER] {
    let mut header = [a, b, flags, FILLER, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    header[8..].copy_from_slice(&number.to_be_bytes());
    header
}

/// A token was not made by the other end, for this, or was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It ends too soon.
    #[error("a token that is too short")]
    Short,
    /// It is of another kind.
    #[error("a token of another kind than is due")]
    Kind,
    /// It says that we have sent it.
    #[error("a token of our own came back")]
    Reflected,
    /// Its header is none, or not the one that was protected.
    #[error("a token whose header is not valid")]
    Malformed,
    /// It does not verify.
    #[error("a token that does not verify: {0}")]
    Key(#[from] KeyError),
}

const HEADER: usize = 16;
const FILLER: u8 = 0xff;
/// Kinds of tokens (section 4.2.6).
const MIC: [u8; 2] = [4, 4];
const WRAP: [u8; 2] = [5, 4];
/// Flags (section 4.2.2).
const SENT_BY_ACCEPTOR: u8 = 1;
const SEALED: u8 = 2;
const ACCEPTOR_SUBKEY: u8 = 4;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kerberos::tests::counting;
    use proptest::prelude::*;

    fn ends(enctype: i32, subkey: bool) -> (Tokens, Tokens) {
        let key = Key::random(enctype, counting).unwrap();
        let end = |role| Tokens::new(key.clone(), role, subkey, counting);
        (end(Role::Initiator), end(Role::Acceptor))
    }

    /// Section 4.2.6: the octets in the clear, and what is protected under which key usage.
    #[test]
    fn tokens_are_laid_out_as_in_the_rfc() {
        let (ours, theirs) = ends(18, true);
        let token = ours.seal(0x0102_0304_0506_0708, b"message").unwrap();
        let header = [5, 4, 0b110, 0xff, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
        assert_eq!(token[..16], header);
        assert_eq!(*ours.key.decrypt(24, &token[16..]).unwrap(), [b"message", &header[..]].concat());
        let token = theirs.sign(2, b"message").unwrap();
        let header = [4, 4, 0b101, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 2];
        assert_eq!(token[..16], header);
        assert_eq!(token[16..], theirs.key.checksum(23, &[b"message", &header]).unwrap());
    }

    #[test]
    fn both_ends_understand_each_other_with_any_filler_and_rotation() {
        for enctype in [17, 18, 19, 20] {
            for (ours, theirs) in [ends(enctype, false), ends(enctype, true)] {
                for (from, to) in [(&ours, &theirs), (&theirs, &ours)] {
                    for (extra, rotation) in [(0, 0), (0, 28), (16, 12), (3, 1), (0, 65_535), (40, 1000)] {
                        for message in [&b""[..], b"m", &[7; 1000]] {
                            let token = from.seal_rotated(9, message, extra, rotation).unwrap();
                            let (number, opened) = to.unseal(&token).unwrap();
                            assert_eq!((number, opened.as_slice()), (9, message), "{extra} {rotation}");
                            assert_eq!(from.unseal(&token).unwrap_err(), TokenError::Reflected);
                        }
                    }
                    let token = from.sign(3, b"m").unwrap();
                    assert_eq!(to.verify(&token, b"m"), Ok(3));
                    assert_eq!(to.verify(&token, b"n"), Err(TokenError::Key(KeyError::Integrity)));
                    assert_eq!(from.verify(&token, b"m"), Err(TokenError::Reflected));
                    assert_eq!(to.unseal(&token).unwrap_err(), TokenError::Kind);
                }
            }
        }
    }

    /// What is neither sealed nor whole is not taken.
    #[test]
    fn no_octet_can_be_changed_or_left_out() {
        let (ours, theirs) = ends(18, false);
        for (rotation, extra) in [(0, 0), (28, 0), (12, 5)] {
            let token = theirs.seal_rotated(9, b"a message", extra, rotation).unwrap();
            for at in 0..token.len() {
                let mut changed = token.clone();
                changed[at] ^= 0b110;
                // The rotation is not protected, but another one opens nothing.
                assert!(ours.unseal(&changed).is_err(), "octet {at}");
                assert!(ours.unseal(&token[..at]).is_err(), "{at} octets");
            }
        }
        let token = theirs.sign(9, b"a message").unwrap();
        for at in 0..token.len() {
            let mut changed = token.clone();
            changed[at] ^= 0b110;
            assert!(ours.verify(&changed, b"a message").is_err(), "octet {at}");
            assert!(ours.verify(&token[..at], b"a message").is_err(), "{at} octets");
        }
        assert!(ours.verify(&[&token[..], &[0]].concat(), b"a message").is_err());
        let mut unknown = header(WRAP, SENT_BY_ACCEPTOR | SEALED | 0x80, 4).to_vec();
        unknown.extend(theirs.key.encrypt(22, &[b"m", &unknown], counting).unwrap());
        assert_eq!(ours.unseal(&unknown).unwrap().0, 4, "flags that are not known are let pass");
        // A filler that is longer than all there is.
        let mut long = header(WRAP, SENT_BY_ACCEPTOR | SEALED, 4).to_vec();
        long[4..6].fill(0xff);
        long.extend(theirs.key.encrypt(22, &[b"m", &long], counting).unwrap());
        assert_eq!(ours.unseal(&long).unwrap_err(), TokenError::Short);
    }

    proptest! {
        #[test]
        fn no_token_panics(token in proptest::collection::vec(any::<u8>(), 0..100), kind in any::<bool>()) {
            let (ours, _) = ends(18, true);
            let head: &[u8] = if kind { &[5, 4, 7, 0xff] } else { &[4, 4, 5, 0xff, 0xff, 0xff, 0xff, 0xff] };
            let token = [head, &token].concat();
            prop_assert!(ours.unseal(&token).is_err() && ours.verify(&token, b"m").is_err());
        }
    }
}
