//! The answer to an LDAP ping (MS-ADTS 6.3.3): what a DC says of itself and of where the client is.

use std::borrow::Cow;

use crate::name::{Host, SiteName};

/// What a DC answers to the LDAP ping: NETLOGON_SAM_LOGON_RESPONSE_EX (MS-ADTS 6.3.1.9).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Netlogon {
    /// Whether it is a full DC and not a read-only one.
    pub is_writable: bool,
    /// What it is called; none if that is not a host's name.
    pub host: Option<Host>,
    /// The site that our address belongs to, where the directory has a subnet for it.
    pub client_site: Option<SiteName>,
}

impl Netlogon {
    /// Reads the answer, little endian; none if it is malformed.
    pub fn parse(answer: &[u8]) -> Option<Self> {
        let opcode = u16::from_le_bytes(*answer.first_chunk()?);
        if ![LOGON_SAM_LOGON_RESPONSE_EX, LOGON_SAM_USER_UNKNOWN_EX].contains(&opcode) {
            return None;
        }
        let flags = u32::from_le_bytes(*answer.get(4..)?.first_chunk()?);
        let mut at = NAMES;
        for _forest_and_domain in 0..2 {
            name(answer, &mut at)?;
        }
        let host = name(answer, &mut at)?.parse().ok();
        for _netbios_computer_user_and_dc_site in 0..4 {
            name(answer, &mut at)?;
        }
        let site = name(answer, &mut at)?;
        // A site may be called `München` or `Site 1`, which no DNS name has: the rest of the answer still counts.
        let client_site = site.parse().ok();
        Some(Self { is_writable: flags & DS_WRITABLE_FLAG != 0, host, client_site })
    }
}

/// A name of labels (RFC 1035 section 4.1.4), with its end put into `at`. A pointer ends it where it stands; pointers to
/// pointers are followed a few times.
fn name(blob: &[u8], at: &mut usize) -> Option<String> {
    let mut labels: Vec<Cow<'_, str>> = Vec::new();
    let (mut from, mut end, mut jumps) = (*at, None, 0);
    loop {
        let length = usize::from(*blob.get(from)?);
        match length {
            0 => break,
            0xc0.. => {
                end = end.or(Some(from + 2));
                from = (length & 0x3f) << 8 | usize::from(*blob.get(from + 1)?);
                jumps += 1;
                if jumps > 8 {
                    return None;
                }
            }
            _ => {
                // What is no UTF-8 is no name of ours; the names behind it still count.
                labels.push(String::from_utf8_lossy(blob.get(from + 1..from + 1 + length)?));
                from += 1 + length;
                if labels.len() > 128 {
                    return None;
                }
            }
        }
    }
    *at = end.unwrap_or(from + 1);
    Some(labels.join("."))
}

const LOGON_SAM_LOGON_RESPONSE_EX: u16 = 23;
const LOGON_SAM_USER_UNKNOWN_EX: u16 = 25;
/// MS-ADTS 6.3.1.2.
const DS_WRITABLE_FLAG: u32 = 0x100;
/// Behind opcode, padding, flags and the domain's GUID.
const NAMES: usize = 24;

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine;
    use base64::prelude::BASE64_STANDARD;
    use proptest::prelude::*;

    /// What the lab's DC answers.
    fn answer() -> Vec<u8> {
        BASE64_STANDARD
            .decode(
                "FwAAAL3RAQCB317xT3NXTIE3rHkywj7MB2V4YW1wbGUDY29tAMAYA2RjMcAYB0VYQU1QTEUAA0RDMQAAF0RlZmF1bHQtRmlyc3Qt\
                 U2l0ZS1OYW1lAMA8BQAAAP////8=",
            )
            .unwrap()
    }

    #[test]
    fn the_answer_is_read_through_its_pointers() {
        let told = Netlogon::parse(&answer()).unwrap();
        assert_eq!(told.client_site.unwrap().as_str(), "Default-First-Site-Name");
        assert!(told.is_writable);
        // The read-only one's flags.
        let mut read_only = answer();
        read_only[4..8].copy_from_slice(&[0xbc, 0xc8, 1, 0]);
        assert!(!Netlogon::parse(&read_only).unwrap().is_writable);
    }

    /// Names of sites are free text in AD, in UTF-8 or a code page. `windows` has what the answer ends with.
    #[test]
    fn a_site_that_is_no_dns_label_leaves_the_rest_of_the_answer_as_it_is() {
        let answer = answer();
        let site = answer.windows(24).position(|part| part == b"\x17Default-First-Site-Name").unwrap();
        let latin: &[u8] = b"M\xfcnchen";
        for (name, known) in [
            ("München".as_bytes(), None),
            (b"Site 1", None),
            (latin, None),
            (b"a/b=c", None),
            (b"Lab-Near", Some("Lab-Near")),
        ] {
            // The DC's own site, and behind it the client's, which points there or stands for itself.
            let mut own = answer.clone();
            own.splice(site..site + 24, [&[u8::try_from(name.len()).unwrap()], name].concat());
            let told = Netlogon::parse(&own).unwrap_or_else(|| panic!("{name:?} loses the whole answer"));
            assert_eq!(told.host.unwrap().as_str(), "dc1.example.com");
            assert!(told.is_writable);
            assert_eq!(told.client_site.as_ref().map(SiteName::as_str), known, "{name:?}");
        }
    }

    #[test]
    fn no_site_is_no_error_and_a_loop_is_one() {
        let mut none = answer();
        let pointer = none.len() - 10;
        assert_eq!(none[pointer..pointer + 2], [0xc0, 0x3c]);
        none.splice(pointer..pointer + 2, [0]);
        assert_eq!(Netlogon::parse(&none).unwrap().client_site, None);
        let mut looping = answer();
        looping[pointer + 1] = u8::try_from(pointer).unwrap();
        assert_eq!(Netlogon::parse(&looping), None);
        assert_eq!(Netlogon::parse(&[]), None);
    }

    proptest! {
        #[test]
        fn no_answer_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), real in any::<bool>()) {
            if real && bytes.len() > 2 {
                bytes[..2].copy_from_slice(&[23, 0]);
            }
            let _ = Netlogon::parse(&bytes);
        }
    }
}
