//! Kerberos cryptography on the primitives of RustCrypto: keys, encryption, checksums and key derivation of RFC 3961,
//! RFC 3962 (AES with SHA-1) and RFC 8009 (AES with SHA-2).
//!
//! Older enctypes are left out on purpose. Checksums compare in constant time (`hmac`). Keys and what is derived from
//! them are wiped when dropped.

mod pbkdf2;
#[cfg(test)]
mod tests;

use std::fmt;

use aes::cipher::{BlockCipherDecrypt, BlockCipherEncrypt};
use aes::{Aes128, Aes256, Block};
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use sha2::{Sha256, Sha384};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::entropy::Entropy;

/// An encryption type that is spoken here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Enctype {
    Aes128Sha1,
    Aes256Sha1,
    Aes128Sha256,
    Aes256Sha384,
}

use Enctype::{Aes128Sha1, Aes128Sha256, Aes256Sha1, Aes256Sha384};

impl Enctype {
    /// By its number in IANA's registry.
    fn of(number: i32) -> Result<Self, KeyError> {
        match number {
            17 => Ok(Aes128Sha1),
            18 => Ok(Aes256Sha1),
            19 => Ok(Aes128Sha256),
            20 => Ok(Aes256Sha384),
            other => Err(KeyError::Enctype(other)),
        }
    }

    fn number(self) -> i32 {
        match self {
            Aes128Sha1 => 17,
            Aes256Sha1 => 18,
            Aes128Sha256 => 19,
            Aes256Sha384 => 20,
        }
    }

    /// Octets of a key for AES.
    fn key_length(self) -> usize {
        match self {
            Aes128Sha1 | Aes128Sha256 => 16,
            Aes256Sha1 | Aes256Sha384 => 32,
        }
    }

    /// Octets of a checksum.
    fn mac_length(self) -> usize {
        match self {
            Aes128Sha1 | Aes256Sha1 => 12,
            Aes128Sha256 => 16,
            Aes256Sha384 => 24,
        }
    }

    /// Octets of a key that is derived for checksums: those of a key for AES, but for the hash of RFC 8009's second.
    fn mac_key_length(self) -> usize {
        if self == Aes256Sha384 { 24 } else { self.key_length() }
    }

    fn default_rounds(self) -> u32 {
        if self.has_sha2() { 32_768 } else { 4096 }
    }

    fn has_sha2(self) -> bool {
        matches!(self, Aes128Sha256 | Aes256Sha384)
    }

    /// The message authentication code of the parts, cut to the length of a checksum.
    fn mac(self, key: &[u8], parts: &[&[u8]]) -> Result<Vec<u8>, KeyError> {
        let mut mac = match self {
            Aes128Sha1 | Aes256Sha1 => of::<Hmac<Sha1>>(key, parts)?.finalize().into_bytes().to_vec(),
            Aes128Sha256 => of::<Hmac<Sha256>>(key, parts)?.finalize().into_bytes().to_vec(),
            Aes256Sha384 => of::<Hmac<Sha384>>(key, parts)?.finalize().into_bytes().to_vec(),
        };
        mac.truncate(self.mac_length());
        Ok(mac)
    }

    /// Whether that is the code of the parts: in constant time, and of exactly its length.
    fn verifies(self, key: &[u8], parts: &[&[u8]], mac: &[u8]) -> Result<bool, KeyError> {
        let verified = match self {
            Aes128Sha1 | Aes256Sha1 => of::<Hmac<Sha1>>(key, parts)?.verify_truncated_left(mac),
            Aes128Sha256 => of::<Hmac<Sha256>>(key, parts)?.verify_truncated_left(mac),
            Aes256Sha384 => of::<Hmac<Sha384>>(key, parts)?.verify_truncated_left(mac),
        };
        Ok(mac.len() == self.mac_length() && verified.is_ok())
    }
}

fn of<M: Mac + KeyInit>(key: &[u8], parts: &[&[u8]]) -> Result<M, KeyError> {
    let mut mac = <M as KeyInit>::new_from_slice(key).map_err(|_| KeyError::Length)?;
    parts.iter().for_each(|part| mac.update(part));
    Ok(mac)
}

/// A key: of an account, of a session, of a message. Wiped when dropped, never shown.
#[derive(Clone)]
pub struct Key {
    enctype: Enctype,
    octets: Zeroizing<Vec<u8>>,
}

impl Key {
    /// A key of an enctype from its octets.
    pub fn new(enctype: i32, octets: &[u8]) -> Result<Self, KeyError> {
        let enctype = Enctype::of(enctype)?;
        if octets.len() != enctype.key_length() {
            return Err(KeyError::Length);
        }
        Ok(Self { enctype, octets: Zeroizing::new(octets.to_vec()) })
    }

    /// A random key of an enctype.
    pub fn random(enctype: i32, entropy: Entropy) -> Result<Self, KeyError> {
        let enctype = Enctype::of(enctype)?;
        let mut octets = Zeroizing::new(vec![0; enctype.key_length()]);
        entropy(&mut octets);
        Ok(Self { enctype, octets })
    }

    /// The rounds of PBKDF2 where a KDC names none (RFC 3962 section 4, RFC 8009 section 4).
    ///
    /// # Errors
    /// An enctype that is not known.
    pub(crate) fn default_rounds(enctype: i32) -> Result<u32, KeyError> {
        Ok(Enctype::of(enctype)?.default_rounds())
    }

    /// The key of a password: RFC 3962 section 4 and RFC 8009 section 4. `params` are the rounds of PBKDF2 where they
    /// are not the enctype's default, which costs some milliseconds.
    pub fn from_password(enctype: i32, password: &str, salt: &[u8], params: Option<[u8; 4]>) -> Result<Self, KeyError> {
        let enctype = Enctype::of(enctype)?;
        // Zero stands for 2^32, which nobody has the time for.
        let rounds = match params.map(u32::from_be_bytes) {
            Some(0) => return Err(KeyError::Rounds),
            Some(rounds) => rounds,
            None => enctype.default_rounds(),
        };
        let password = password.as_bytes();
        let mut octets = Zeroizing::new(vec![0; enctype.key_length()]);
        match enctype {
            Aes128Sha1 | Aes256Sha1 => pbkdf2::with_sha1(password, salt, rounds, &mut octets),
            Aes128Sha256 => {
                let salt = [b"aes128-cts-hmac-sha256-128\0", salt].concat();
                pbkdf2::with_sha256(password, &salt, rounds, &mut octets);
            }
            Aes256Sha384 => {
                let salt = [b"aes256-cts-hmac-sha384-192\0", salt].concat();
                pbkdf2::with_sha384(password, &salt, rounds, &mut octets);
            }
        }
        let octets = Self { enctype, octets }.derive(b"kerberos", enctype.key_length())?;
        Ok(Self { enctype, octets })
    }

    /// The number of the enctype.
    pub fn enctype(&self) -> i32 {
        self.enctype.number()
    }

    /// The octets, which are the secret.
    pub(crate) fn octets(&self) -> &[u8] {
        &self.octets
    }

    /// Whether it is the same key, in constant time.
    pub(crate) fn is(&self, enctype: i32, octets: &[u8]) -> bool {
        self.enctype() == enctype && bool::from(self.octets.ct_eq(octets))
    }

    /// Encrypts the parts as one message, so that nobody can read or change it (RFC 3961 section 5.3, RFC 8009
    /// section 5).
    pub fn encrypt(&self, usage: u32, parts: &[&[u8]], entropy: Entropy) -> Result<Vec<u8>, KeyError> {
        let mut confounder = [0; BLOCK];
        entropy(&mut confounder);
        self.encrypt_with(usage, parts, &confounder)
    }

    fn encrypt_with(&self, usage: u32, parts: &[&[u8]], confounder: &[u8; BLOCK]) -> Result<Vec<u8>, KeyError> {
        let length = BLOCK + parts.iter().map(|part| part.len()).sum::<usize>();
        let mut message = Vec::with_capacity(length.next_multiple_of(BLOCK) + self.enctype.mac_length());
        message.extend_from_slice(confounder);
        parts.iter().for_each(|part| message.extend_from_slice(part));
        let integrity = self.derive_for(usage, INTEGRITY)?;
        let cipher = Cipher::new(&self.derive_for(usage, ENCRYPTION)?)?;
        let mac = if self.enctype.has_sha2() {
            cipher.encrypt(&mut message);
            self.enctype.mac(&integrity, &[&[0; BLOCK], &message])?
        } else {
            let mac = self.enctype.mac(&integrity, &[&message])?;
            cipher.encrypt(&mut message);
            mac
        };
        message.extend_from_slice(&mac);
        Ok(message)
    }

    /// Verifies and decrypts a message.
    pub fn decrypt(&self, usage: u32, message: &[u8]) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        let at = message.len().checked_sub(self.enctype.mac_length()).filter(|at| *at >= BLOCK);
        let (sealed, mac) = message.split_at_checked(at.ok_or(KeyError::Integrity)?).ok_or(KeyError::Integrity)?;
        let integrity = self.derive_for(usage, INTEGRITY)?;
        let decrypted = || -> Result<_, KeyError> {
            let mut opened = Zeroizing::new(Vec::with_capacity(sealed.len().next_multiple_of(BLOCK)));
            opened.extend_from_slice(sealed);
            Cipher::new(&self.derive_for(usage, ENCRYPTION)?)?.decrypt(&mut opened);
            Ok(opened)
        };
        let mut opened = if self.enctype.has_sha2() {
            if !self.enctype.verifies(&integrity, &[&[0; BLOCK], sealed], mac)? {
                return Err(KeyError::Integrity);
            }
            decrypted()?
        } else {
            let opened = decrypted()?;
            if !self.enctype.verifies(&integrity, &[&opened], mac)? {
                return Err(KeyError::Integrity);
            }
            opened
        };
        opened.drain(..BLOCK);
        Ok(opened)
    }

    /// The number of the checksum that goes with the enctype (RFC 3962 section 7, RFC 8009 section 8).
    pub fn checksum_type(&self) -> i32 {
        match self.enctype {
            Aes128Sha1 => 15,
            Aes256Sha1 => 16,
            Aes128Sha256 => 19,
            Aes256Sha384 => 20,
        }
    }

    #[cfg(test)]
    fn checksum_length(&self) -> usize {
        self.enctype.mac_length()
    }

    /// The checksum of the parts as one message (RFC 3961 section 5.4).
    pub fn checksum(&self, usage: u32, parts: &[&[u8]]) -> Result<Vec<u8>, KeyError> {
        self.enctype.mac(&self.derive_for(usage, CHECKSUM)?, parts)
    }

    /// Whether that is the checksum of the parts.
    pub fn verifies(&self, usage: u32, parts: &[&[u8]], checksum: &[u8]) -> Result<bool, KeyError> {
        self.enctype.verifies(&self.derive_for(usage, CHECKSUM)?, parts, checksum)
    }

    /// The key for one use under a usage number.
    fn derive_for(&self, usage: u32, what: u8) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        let [a, b, c, d] = usage.to_be_bytes();
        let length = if what == ENCRYPTION { self.enctype.key_length() } else { self.enctype.mac_key_length() };
        self.derive(&[a, b, c, d, what], length)
    }

    /// DK of RFC 3961 section 5.1, KDF-HMAC-SHA2 of RFC 8009 section 3.
    fn derive(&self, label: &[u8], length: usize) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        if self.enctype.has_sha2() {
            let bits = u32::try_from(8 * length).map_err(|_| KeyError::Length)?;
            let parts: [&[u8]; 4] = [&1_u32.to_be_bytes(), label, &[0], &bits.to_be_bytes()];
            let mut octets = Zeroizing::new(match self.enctype {
                Aes256Sha384 => of::<Hmac<Sha384>>(&self.octets, &parts)?.finalize().into_bytes().to_vec(),
                _ => of::<Hmac<Sha256>>(&self.octets, &parts)?.finalize().into_bytes().to_vec(),
            });
            octets.truncate(length);
            return Ok(octets);
        }
        let cipher = Cipher::new(&self.octets)?;
        let mut block = Zeroizing::new(fold::<BLOCK>(label));
        let mut octets = Zeroizing::new(Vec::with_capacity(length.next_multiple_of(BLOCK)));
        while octets.len() < length {
            cipher.encrypt_block(&mut block);
            octets.extend_from_slice(&*block);
        }
        octets.truncate(length);
        Ok(octets)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key(enctype {})", self.enctype())
    }
}

/// A key cannot be used, or a message is not of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// An enctype that is not spoken here.
    #[error("enctype {0} is not supported")]
    Enctype(i32),
    /// The key has not the length of its enctype.
    #[error("a key of the wrong length")]
    Length,
    /// The rounds of a key's derivation are too many.
    #[error("too many rounds of key derivation")]
    Rounds,
    /// The message was made with another key, or changed.
    #[error("the integrity check failed")]
    Integrity,
}

/// AES in CBC mode with ciphertext stealing, variant CS3, and without an initial vector (RFC 3962 section 5).
enum Cipher {
    Aes128(Aes128),
    Aes256(Aes256),
}

impl Cipher {
    fn new(key: &[u8]) -> Result<Self, KeyError> {
        match key.len() {
            16 => Aes128::new_from_slice(key).map(Self::Aes128).map_err(|_| KeyError::Length),
            _ => Aes256::new_from_slice(key).map(Self::Aes256).map_err(|_| KeyError::Length),
        }
    }

    fn encrypt_block(&self, block: &mut [u8; BLOCK]) {
        let block: &mut Block = block.into();
        match self {
            Self::Aes128(cipher) => cipher.encrypt_block(block),
            Self::Aes256(cipher) => cipher.encrypt_block(block),
        }
    }

    fn decrypt_blocks(&self, blocks: &mut [Block]) {
        match self {
            Self::Aes128(cipher) => cipher.decrypt_blocks(blocks),
            Self::Aes256(cipher) => cipher.decrypt_blocks(blocks),
        }
    }

    /// Encrypts a block or more in place.
    fn encrypt(&self, message: &mut Vec<u8>) {
        let length = message.len();
        message.resize(length.next_multiple_of(BLOCK), 0);
        let (blocks, _) = message.as_chunks_mut::<BLOCK>();
        let mut previous = [0; BLOCK];
        for block in &mut *blocks {
            xor(block, &previous);
            self.encrypt_block(block);
            previous = *block;
        }
        if let [.., last_but_one, last] = blocks {
            std::mem::swap(last_but_one, last);
        }
        message.truncate(length);
    }

    /// Decrypts a block or more in place.
    fn decrypt(&self, message: &mut Vec<u8>) {
        let length = message.len();
        message.resize(length.next_multiple_of(BLOCK), 0);
        let (blocks, _) = message.as_chunks_mut::<BLOCK>();
        if let [.., last_but_one, last] = &mut *blocks {
            // What was stolen from the last block but one is in the last one, decrypted.
            let mut stolen = [Block::from(*last_but_one)];
            self.decrypt_blocks(&mut stolen);
            let here = length - (length - 1) / BLOCK * BLOCK;
            last[here..].copy_from_slice(&stolen[0][here..]);
            std::mem::swap(last_but_one, last);
        }
        let sealed = message.clone();
        self.decrypt_blocks(Block::slice_as_chunks_mut(message).0);
        for (octet, previous) in message[BLOCK..].iter_mut().zip(&sealed) {
            *octet ^= previous;
        }
        message.truncate(length);
    }
}

fn xor(block: &mut [u8; BLOCK], other: &[u8; BLOCK]) {
    *block = (u128::from_ne_bytes(*block) ^ u128::from_ne_bytes(*other)).to_ne_bytes();
}

/// `n-fold` of RFC 3961 section 5.1: the octets, each copy rotated right by thirteen bits more, added up block by
/// block in ones' complement. `N` octets come out.
fn fold<const N: usize>(octets: &[u8]) -> [u8; N] {
    let (length, bits) = (octets.len(), 8 * octets.len());
    let mut sum = [0; N];
    if length == 0 {
        return sum;
    }
    let total = length / common(length, N) * N;
    let mut carry = 0;
    // From the least significant octet on; what is carried out of the first comes in again at the last.
    for at in (0..total).rev() {
        // Bit `b` of the copy number `c` is bit `b - 13 * c` of the input, around.
        let first = 8 * (at % length) + bits * 13 - 13 * (at / length) % bits;
        let (high, low) = (octets[first / 8 % length], octets[(first / 8 + 1) % length]);
        let octet = u16::from_be_bytes([high, low]) >> (8 - first % 8) & 0xff;
        carry += octet + u16::from(sum[at % N]);
        sum[at % N] = carry.to_be_bytes()[1];
        carry >>= 8;
    }
    for octet in sum.iter_mut().rev() {
        carry += u16::from(*octet);
        *octet = carry.to_be_bytes()[1];
        carry >>= 8;
    }
    sum
}

/// The greatest common divisor.
fn common(a: usize, b: usize) -> usize {
    if b == 0 { a } else { common(b, a % b) }
}

const BLOCK: usize = 16;

/// What a key is derived for (RFC 3961 section 5.3).
const CHECKSUM: u8 = 0x99;
const ENCRYPTION: u8 = 0xaa;
const INTEGRITY: u8 = 0x55;
