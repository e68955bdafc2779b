//! What binds a Kerberos authentication to the TLS connection that it travels in.

use der::Decode;
use der::asn1::AnyRef;
use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};

/// The application data of a channel binding: `tls-server-end-point`, the hash of the server's certificate, in DER, by
/// the hash of its own signature (RFC 5929 section 4.1). There is none where that has no hash, as with Ed25519.
pub(super) fn tls_server_end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    let hash = match signature_hash(certificate)? {
        224 => Sha224::digest(certificate).to_vec(),
        256 => Sha256::digest(certificate).to_vec(),
        384 => Sha384::digest(certificate).to_vec(),
        _ => Sha512::digest(certificate).to_vec(),
    };
    Some([b"tls-server-end-point:", &*hash].concat())
}

/// The bits of SHA-2 that stand for the certificate's signature: 256 for MD5 and SHA-1 too.
fn signature_hash(certificate: &[u8]) -> Option<u16> {
    // Certificate ::= SEQUENCE { tbsCertificate, signatureAlgorithm, .. } (RFC 5280 section 4.1).
    let mut fields = AnyRef::from_der(certificate).ok()?.value();
    next(&mut fields)?;
    let mut algorithm = next(&mut fields)?;
    let identifier = next(&mut algorithm)?;
    let (last, arc) = identifier.split_last()?;
    match (arc, last) {
        (PKCS1, 4 | 5) | (ECDSA, 1) | (DSA, 3) => Some(256),
        (PKCS1, 14) | (ECDSA_SHA2, 1) | (DSA_SHA2, 1) => Some(224),
        (PKCS1, 11) | (ECDSA_SHA2, 2) | (DSA_SHA2, 2) => Some(256),
        (PKCS1, 12) | (ECDSA_SHA2, 3) => Some(384),
        (PKCS1, 13) | (ECDSA_SHA2, 4) => Some(512),
        (PKCS1, 10) => pss_hash(next(&mut algorithm).unwrap_or_default()),
        _ => None,
    }
}

/// RSASSA-PSS tells its hash in its parameters, first and tagged `[0]`; SHA-1 if it does not (RFC 4055 section 3.1).
fn pss_hash(mut parameters: &[u8]) -> Option<u16> {
    if parameters.first() != Some(&0xa0) {
        return Some(256);
    }
    let mut tagged = next(&mut parameters)?;
    let mut algorithm = next(&mut tagged)?;
    match next(&mut algorithm)? {
        SHA1 => Some(256),
        identifier => match identifier.strip_prefix(SHA2)? {
            [1] => Some(256),
            [2] => Some(384),
            [3] => Some(512),
            [4] => Some(224),
            _ => None,
        },
    }
}

/// The content of the next DER value.
fn next<'a>(values: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (value, rest) = AnyRef::from_der_partial(values).ok()?;
    *values = rest;
    Some(value.value())
}

/// Object identifiers without their last arc: 1.2.840.113549.1.1, 1.2.840.10045.4 and .4.3, 1.2.840.10040.4,
/// 2.16.840.1.101.3.4.3 and .4.2; 1.3.14.3.2.26 with it.
const PKCS1: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1];
const ECDSA: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4];
const ECDSA_SHA2: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3];
const DSA: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x38, 4];
const DSA_SHA2: &[u8] = &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 3];
const SHA2: &[u8] = &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2];
const SHA1: &[u8] = &[0x2b, 0x0e, 3, 2, 0x1a];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
        [&[tag, u8::try_from(content.len()).unwrap()], content].concat()
    }

    /// A certificate of which only the algorithm counts.
    fn certificate(identifier: &[u8], parameters: &[u8]) -> Vec<u8> {
        let algorithm = tlv(0x30, &[tlv(6, identifier), parameters.to_vec()].concat());
        tlv(0x30, &[tlv(0x30, b"..."), algorithm, tlv(3, b"\0sig")].concat())
    }

    #[test]
    fn the_hash_is_that_of_the_signature() {
        let of = |arc: &[u8], last: u8| signature_hash(&certificate(&[arc, &[last]].concat(), &[5, 0]));
        let rsa = [4, 5, 14, 11, 12, 13, 1].map(|last| of(PKCS1, last));
        assert_eq!(rsa, [Some(256), Some(256), Some(224), Some(256), Some(384), Some(512), None]);
        assert_eq!(
            [1, 2, 3, 4, 5].map(|last| of(ECDSA_SHA2, last)),
            [Some(224), Some(256), Some(384), Some(512), None]
        );
        assert_eq!(
            [of(ECDSA, 1), of(DSA, 3), of(DSA_SHA2, 1), of(DSA_SHA2, 2)].map(Option::unwrap),
            [256, 256, 224, 256]
        );
        assert_eq!(signature_hash(&certificate(&[0x2b, 0x65, 0x70], &[])), None, "Ed25519 has no hash of its own");
        let pss = |hash: &[u8]| {
            let hash = tlv(0xa0, &tlv(0x30, &[tlv(6, hash), vec![5, 0]].concat()));
            signature_hash(&certificate(&[PKCS1, &[10]].concat(), &tlv(0x30, &hash)))
        };
        let sha2 = [1, 2, 3, 4, 5].map(|last| pss(&[SHA2, &[last]].concat()));
        assert_eq!(sha2, [Some(256), Some(384), Some(512), Some(224), None]);
        assert_eq!(pss(SHA1), Some(256));
        for bare in [vec![], tlv(0x30, &[]), tlv(0x30, &tlv(0xa2, &[2, 1, 20]))] {
            assert_eq!(signature_hash(&certificate(&[PKCS1, &[10]].concat(), &bare)), Some(256), "SHA-1 by default");
        }
    }

    #[test]
    fn the_data_is_that_of_the_rfc() {
        let certificate = certificate(&[PKCS1, &[12]].concat(), &[]);
        let data = tls_server_end_point(&certificate).unwrap();
        let hash = data.strip_prefix(b"tls-server-end-point:").unwrap();
        assert_eq!(hash, Sha384::digest(&certificate).as_slice());
    }

    proptest! {
        #[test]
        fn no_certificate_panics(bytes in proptest::collection::vec(any::<u8>(), 0..60), at in any::<prop::sample::Index>()) {
            let _ = tls_server_end_point(&bytes);
            let mut damaged = certificate(&[PKCS1, &[10]].concat(), &tlv(0x30, &tlv(0xa0, &tlv(0x30, &tlv(6, SHA1)))));
            let at = at.index(damaged.len());
            damaged[at] = bytes.first().copied().unwrap_or_default();
            let _ = tls_server_end_point(&damaged);
        }
    }
}
