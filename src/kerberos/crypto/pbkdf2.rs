//! PBKDF2 (RFC 8018 section 5.2) with HMAC.
//!
//! A round hashes two blocks whose padding never changes, so it calls the compression functions themselves. That is
//! half the work of a round through `hmac`, and it is not generic: it runs at the speed of the hash's own crate, which
//! `Cargo.toml` optimises in debug builds too.

use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use sha1::block_api::compress;
use sha2::block_api::{compress256, compress512};
use sha2::{Digest, Sha256, Sha384};
use zeroize::Zeroizing;

macro_rules! pbkdf2 {
    ($name:ident, $hash:ty, $word:ty, $initial:expr, $compress:path, block $block:literal, output $output:literal) => {
        pub(super) fn $name(password: &[u8], salt: &[u8], rounds: u32, out: &mut [u8]) {
            const WORDS: usize = $output / size_of::<$word>();
            // The key's block (RFC 2104 section 2), and the two states after it.
            let mut key = Zeroizing::new([0; $block]);
            match key.get_mut(..password.len()) {
                Some(start) => start.copy_from_slice(password),
                None => key[..$output].copy_from_slice(&<$hash>::digest(password)),
            }
            let state = |pad: u8| {
                let mut state = Zeroizing::new($initial);
                $compress(&mut state, &[*Zeroizing::new(key.map(|octet| octet ^ pad))]);
                state
            };
            let (inner, outer) = (state(0x36), state(0x5c));
            // One output as the block behind the key's, padded (FIPS 180-4 section 5.1).
            let mut block = Zeroizing::new([0; $block]);
            block[$output] = 0x80;
            block[$block - 4..].copy_from_slice(&(8_u32 * ($block + $output)).to_be_bytes());
            for (number, part) in (1_u32..).zip(out.chunks_mut($output)) {
                let Ok(mac) = <Hmac<$hash> as KeyInit>::new_from_slice(&*key) else { return };
                let first = mac.chain_update(salt).chain_update(number.to_be_bytes()).finalize();
                block[..$output].copy_from_slice(&first.into_bytes());
                let mut sum = Zeroizing::new([0; WORDS]);
                let (words, _) = block[..$output].as_chunks();
                for at in 0..WORDS {
                    sum[at] = <$word>::from_be_bytes(words[at]);
                }
                let mut hash = Zeroizing::new($initial);
                for _ in 1..rounds {
                    for keyed in [&inner, &outer] {
                        *hash = **keyed;
                        $compress(&mut hash, std::slice::from_ref(&*block));
                        let (words, _) = block.as_chunks_mut();
                        for at in 0..WORDS {
                            words[at] = hash[at].to_be_bytes();
                        }
                    }
                    for at in 0..WORDS {
                        sum[at] ^= hash[at];
                    }
                }
                for (octets, word) in part.chunks_mut(size_of::<$word>()).zip(&*sum) {
                    octets.copy_from_slice(&word.to_be_bytes()[..octets.len()]);
                }
            }
        }
    };
}

pbkdf2!(with_sha1, Sha1, u32, SHA1, compress, block 64, output 20);
pbkdf2!(with_sha256, Sha256, u32, SHA256, compress256, block 64, output 32);
pbkdf2!(with_sha384, Sha384, u64, SHA384, compress512, block 128, output 48);

/// Initial hash values (FIPS 180-4 section 5.3).
const SHA1: [u32; 5] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476, 0xc3d2_e1f0];
const SHA256: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];
const SHA384: [u64; 8] = [
    0xcbbb_9d5d_c105_9ed8,
    0x629a_292a_367c_d507,
    0x9159_015a_3070_dd17,
    0x152f_ecd8_f70e_5939,
    0x6733_2667_ffc0_0b31,
    0x8eb4_4a87_6858_1511,
    0xdb0c_2e0d_64f9_8fa7,
    0x47b5_481d_befa_4fa4,
];

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(octets: &[u8]) -> String {
        octets.iter().map(|octet| format!("{octet:02x}")).collect()
    }

    /// RFC 6070 section 2.
    #[test]
    fn sha1_is_that_of_the_rfc() {
        let key = |password: &str, salt: &str, rounds, length| {
            let mut out = vec![0; length];
            with_sha1(password.as_bytes(), salt.as_bytes(), rounds, &mut out);
            hex(&out)
        };
        assert_eq!(key("password", "salt", 1, 20), "0c60c80f961f0e71f3a9b524af6012062fe037a6");
        assert_eq!(key("password", "salt", 2, 20), "ea6c014dc72d6f8ccd1ed92ace1d41f0d8de8957");
        assert_eq!(key("password", "salt", 4096, 20), "4b007901b765489abead49d926f721d065a429c1");
        assert_eq!(
            key("passwordPASSWORDpassword", "saltSALTsaltSALTsaltSALTsaltSALTsalt", 4096, 25),
            "3d2eec4fe41c849b80c8d83662c0e44a8b291a964cf2f07038"
        );
        assert_eq!(key("pass\0word", "sa\0lt", 4096, 16), "56fa6aa75548099dcc37d7f03425e0c3");
    }

    /// Each round by way of `hmac`, for passwords below, of and above a block's length and outputs of several blocks.
    #[test]
    fn all_are_what_rounds_of_hmac_are() {
        fn plain<M: Mac + KeyInit>(password: &[u8], salt: &[u8], rounds: u32, length: usize) -> Vec<u8> {
            let mac = |parts: &[&[u8]]| {
                let mut mac = <M as KeyInit>::new_from_slice(password).unwrap();
                parts.iter().for_each(|part| mac.update(part));
                mac.finalize().into_bytes().to_vec()
            };
            let mut out = Vec::new();
            for number in 1_u32.. {
                let mut last = mac(&[salt, &number.to_be_bytes()]);
                let mut sum = last.clone();
                for _ in 1..rounds {
                    last = mac(&[&last]);
                    sum.iter_mut().zip(&last).for_each(|(sum, octet)| *sum ^= octet);
                }
                out.extend(sum);
                if out.len() >= length {
                    break;
                }
            }
            out.truncate(length);
            out
        }
        for password in [0, 1, 63, 64, 65, 127, 128, 129, 700].map(|length| vec![b'p'; length]) {
            for (rounds, length) in [(1, 16), (2, 32), (5, 100)] {
                let by = |with: fn(&[u8], &[u8], u32, &mut [u8])| {
                    let mut out = vec![0; length];
                    with(&password, b"salt", rounds, &mut out);
                    out
                };
                assert_eq!(by(with_sha1), plain::<Hmac<Sha1>>(&password, b"salt", rounds, length));
                assert_eq!(by(with_sha256), plain::<Hmac<Sha256>>(&password, b"salt", rounds, length));
                assert_eq!(by(with_sha384), plain::<Hmac<Sha384>>(&password, b"salt", rounds, length));
            }
        }
    }
}
