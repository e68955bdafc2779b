//! What a BER message may cost before it is decoded: its length, its elements, its depth. Counted without allocating,
//! since the decoder makes a tree of all elements.

use std::io;

/// The bounds of one message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Its octets, header included.
    pub(super) octets: usize,
    /// Its elements, all levels together.
    pub(super) elements: usize,
}

/// How deep elements nest: a search with a filter of ours has six levels.
const DEPTH: usize = 16;

/// The length of the message at the start of `source`, once all of it is there.
///
/// # Errors
/// It is too long, or not a message at all; both are known from its first octets.
pub(super) fn whole(source: &[u8], limits: Limits) -> io::Result<Option<usize>> {
    let Some((header, content)) = header(source)? else { return Ok(None) };
    let length = header.saturating_add(content);
    if length > limits.octets {
        return Err(refused(format!("a message of {length} bytes, more than the {} that are allowed", limits.octets)));
    }
    if source.len() < length {
        return Ok(None);
    }
    let mut left = limits.elements;
    count(&source[..length], &mut left, DEPTH)?;
    Ok(Some(length))
}

fn count(mut elements: &[u8], left: &mut usize, depth: usize) -> io::Result<()> {
    while let Some((&tag, _)) = elements.split_first() {
        *left = left.checked_sub(1).ok_or_else(|| refused("a message with too many elements".into()))?;
        let Some((header, content)) = header(elements)? else { return Err(cut_short()) };
        let (element, rest) = elements.split_at_checked(header.saturating_add(content)).ok_or_else(cut_short)?;
        if tag & CONSTRUCTED != 0 {
            let depth = depth.checked_sub(1).ok_or_else(|| refused("a message that nests too deep".into()))?;
            count(&element[header..], left, depth)?;
        }
        elements = rest;
    }
    Ok(())
}

/// How long an element's header and content are; none while the header is not all there.
fn header(source: &[u8]) -> io::Result<Option<(usize, usize)>> {
    let [tag, length, rest @ ..] = source else { return Ok(None) };
    // LDAP has no tags above 30 and no indefinite lengths (RFC 4511 section 5.1).
    if tag & LONG_TAG == LONG_TAG {
        return Err(refused("an element with a tag that LDAP does not have".into()));
    }
    let octets = match length {
        0..=0x7f => return Ok(Some((2, usize::from(*length)))),
        0x81..=0x84 => usize::from(length & 0x7f),
        _ => return Err(refused("an element with a length that LDAP does not have".into())),
    };
    let Some(octets) = rest.get(..octets) else { return Ok(None) };
    let content = octets.iter().fold(0_usize, |length, octet| length << 8 | usize::from(*octet));
    Ok(Some((2 + octets.len(), content)))
}

fn refused(why: String) -> io::Error {
    io::Error::other(why)
}

fn cut_short() -> io::Error {
    refused("an element that is longer than what it is in".into())
}

const CONSTRUCTED: u8 = 0x20;
const LONG_TAG: u8 = 0x1f;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: Limits = Limits { octets: 4096, elements: 100 };

    fn wrap(tag: u8, content: &[u8]) -> Vec<u8> {
        let length = u16::try_from(content.len()).unwrap().to_be_bytes();
        [&[tag, 0x82], &length[..], content].concat()
    }

    #[test]
    fn a_message_is_whole_once_its_last_octet_is_there() {
        let message = wrap(0x30, &wrap(0x04, b"value"));
        for length in 0..message.len() {
            assert_eq!(whole(&message[..length], LIMITS).unwrap(), None, "{length}");
        }
        let more = [&message[..], b"more"].concat();
        assert_eq!(whole(&more, LIMITS).unwrap(), Some(message.len()));
    }

    #[test]
    fn what_costs_too_much_is_refused_as_early_as_it_is_known() {
        let why = |message: &[u8]| whole(message, LIMITS).unwrap_err().to_string();
        assert!(why(&[0x30, 0x83, 1, 0, 0]).contains("65541 bytes, more than the 4096"));
        assert!(why(&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff]).contains("more than the 4096"));
        assert!(why(&[0x30, 0x80]).contains("length that LDAP does not have"));
        assert!(why(&[0x3f, 0x81, 1]).contains("tag that LDAP does not have"));
        assert!(why(&wrap(0x30, &[0x05, 0].repeat(101))).contains("too many elements"));
        let deep = (0..20).fold(Vec::new(), |inner, _| wrap(0x30, &inner));
        assert!(why(&deep).contains("nests too deep"));
        assert!(why(&wrap(0x30, &[0x04, 9, 1])).contains("longer than what it is in"));
        assert!(whole(&wrap(0x30, &[0x05, 0].repeat(99)), LIMITS).is_ok());
    }

    proptest! {
        #[test]
        fn no_message_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = whole(&bytes, LIMITS);
        }
    }
}
