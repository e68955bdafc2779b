//! A service that accepts our GSS-SPNEGO token, for servers that the tests play (RFC 4178, RFC 4121, RFC 4120 section 3.2).

use std::path::Path;
use std::process::Command;

use gmsa_sidecar::entropy;
use gmsa_sidecar::kerberos::{Key, Role, Tokens};

/// The AES keys in a keytab, as MIT's own tool reads it.
pub fn keys(keytab: &Path) -> Vec<Key> {
    let listed = Command::new("klist").args(["-k", "-K", "-e"]).arg(keytab).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let key = |line: &str| {
        let enctype = if line.contains("aes256-cts-hmac-sha1") { 18 } else { 17 };
        let (_, hex) = line.split_once("(0x")?;
        let hex = hex.trim_end().strip_suffix(')')?;
        let octet = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        Key::new(enctype, &(0..hex.len()).step_by(2).map(octet).collect::<Vec<_>>()).ok()
    };
    listed.lines().filter_map(key).collect()
}

/// Accepts a token; returns the answer, what seals the messages that follow, and the number of the first of ours.
pub fn accept(token: &[u8], keys: &[Key]) -> (Vec<u8>, Tokens, u64) {
    // NegTokenInit in its frame, and in that the Kerberos token in another.
    let init = child(content(token), 0xa0);
    let mechanism = content(content(child(content(init), 0xa2)));
    let request = mechanism.strip_prefix(&KERBEROS_OID).and_then(|rest| rest.strip_prefix(&[1, 0])).unwrap();
    let request = content(content(request));
    let ticket = content(content(child(request, 0xa3)));
    let part = open(content(child(ticket, 0xa3)), keys, 2);
    let session = key(child(content(content(&part)), 0xa1));
    let authenticator = open(content(child(request, 0xa4)), std::slice::from_ref(&session), 11);
    let authenticator = content(content(&authenticator));

    let enctype = u8::try_from(session.enctype()).unwrap();
    let subkey = Key::new(18, &[7; 32]).unwrap();
    let own = [tlv(0xa0, &tlv(2, &[18])), tlv(0xa1, &tlv(4, &[7; 32]))].concat();
    let first = 0x0102_0304_u32;
    let part = [
        tlv(0xa0, child(authenticator, 0xa5)),
        tlv(0xa1, child(authenticator, 0xa4)),
        tlv(0xa2, &tlv(0x30, &own)),
        tlv(0xa3, &tlv(2, &first.to_be_bytes())),
    ];
    let cipher = session.encrypt(12, &[&tlv(0x7b, &tlv(0x30, &part.concat()))], entropy::system).unwrap();
    let sealed = tlv(0x30, &[tlv(0xa0, &tlv(2, &[enctype])), tlv(0xa2, &tlv(4, &cipher))].concat());
    let reply = [tlv(0xa0, &tlv(2, &[5])), tlv(0xa1, &tlv(2, &[15])), tlv(0xa2, &sealed)].concat();
    let reply = tlv(0x60, &[&KERBEROS_OID[..], &[2, 0], &tlv(0x6f, &tlv(0x30, &reply))].concat());
    // accept-completed, with the mechanism by the name that Windows has for it (MS-SPNG 3.1.5.2)
    let answer = [tlv(0xa0, &tlv(0x0a, &[0])), tlv(0xa1, &WINDOWS_OID), tlv(0xa2, &tlv(4, &reply))].concat();
    let tokens = Tokens::new(subkey, Role::Acceptor, true, entropy::system);
    (tlv(0xa1, &tlv(0x30, &answer)), tokens, first.into())
}

/// Opens EncryptedData.
fn open(data: &[u8], keys: &[Key], usage: u32) -> Vec<u8> {
    let cipher = content(child(data, 0xa2));
    let opened = keys.iter().find_map(|key| key.decrypt(usage, cipher).ok());
    opened.expect("it is sealed with one of the keys").to_vec()
}

/// EncryptionKey.
fn key(data: &[u8]) -> Key {
    let fields = content(data);
    Key::new(i32::from(content(child(fields, 0xa0))[0]), content(child(fields, 0xa1))).unwrap()
}

/// The content of the first of these DER values that has the tag.
fn child(mut values: &[u8], tag: u8) -> &[u8] {
    loop {
        let (found, content, rest) = split(values);
        if found == tag {
            return content;
        }
        values = rest;
    }
}

/// The content of a DER value.
fn content(value: &[u8]) -> &[u8] {
    split(value).1
}

fn split(value: &[u8]) -> (u8, &[u8], &[u8]) {
    let (length, start) = match value[1] {
        short @ 0..0x80 => (usize::from(short), 2),
        long => {
            let end = 2 + usize::from(long & 0x7f);
            (value[2..end].iter().fold(0, |length, octet| length << 8 | usize::from(*octet)), end)
        }
    };
    (value[0], &value[start..start + length], &value[start + length..])
}

fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let [high, low] = u16::try_from(content.len()).unwrap().to_be_bytes();
    let head = match (high, low) {
        (0, 0..0x80) => vec![tag, low],
        (0, _) => vec![tag, 0x81, low],
        _ => vec![tag, 0x82, high, low],
    };
    [&head, content].concat()
}

/// 1.2.840.48018.1.2.2.
const WINDOWS_OID: [u8; 11] = [0x06, 0x09, 0x2a, 0x86, 0x48, 0x82, 0xf7, 0x12, 0x01, 0x02, 0x02];
/// 1.2.840.113554.1.2.2 (RFC 4121 section 1).
const KERBEROS_OID: [u8; 11] = [0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x12, 0x01, 0x02, 0x02];
