//! A keytab, version 0x0502 (MIT's `doc/formats/keytab_file_format.rst`): whose keys, which versions.

use std::time::SystemTime;

use zeroize::Zeroizing;

use super::crypto::Key;
use super::principal::Principal;

use crate::clock;

/// One entry. It has no `Debug`: it holds a key.
#[derive(Clone)]
pub(crate) struct KeytabEntry {
    pub(crate) principal: Principal,
    pub(crate) kvno: u32,
    pub(crate) key: Key,
}

/// The file. `now` is when the keys are said to have been made.
pub(crate) fn encode(entries: &[KeytabEntry], now: SystemTime) -> Zeroizing<Vec<u8>> {
    let mut file = Zeroizing::new(VERSION.to_vec());
    for KeytabEntry { principal, kvno, key } in entries {
        let mut entry = Zeroizing::new(Vec::new());
        entry.extend(short(principal.components.len()).to_be_bytes());
        for text in std::iter::once(&principal.realm).chain(&principal.components) {
            counted(&mut entry, text.as_bytes());
        }
        entry.extend(principal.name_type.to_be_bytes());
        entry.extend(u32::try_from(clock::unix(now)).unwrap_or(u32::MAX).to_be_bytes());
        // Eight bits here, all of them behind the key.
        entry.push(kvno.to_be_bytes()[3]);
        entry.extend(u16::try_from(key.enctype()).unwrap_or_default().to_be_bytes());
        counted(&mut entry, key.octets());
        entry.extend(kvno.to_be_bytes());
        file.extend(u32::from(short(entry.len())).to_be_bytes());
        file.extend_from_slice(&entry);
    }
    file
}

fn counted(out: &mut Vec<u8>, bytes: &[u8]) {
    // Names of more than 64 KiB do not pass the types they come from.
    out.extend(short(bytes.len()).to_be_bytes());
    out.extend_from_slice(bytes);
}

fn short(length: usize) -> u16 {
    u16::try_from(length).unwrap_or(u16::MAX)
}

/// The entries of a file whose keys are of an enctype that is spoken here; the others are passed over.
pub(crate) fn decode(file: &[u8]) -> Result<Vec<KeytabEntry>, &'static str> {
    let Some(rest) = file.strip_prefix(&VERSION) else { return Err("it is not a keytab of version 5.2") };
    let mut rest = Fields(rest);
    let mut entries = Vec::new();
    while !rest.0.is_empty() {
        let size = i32::from_be_bytes(rest.array()?);
        let bytes = rest.take(usize::try_from(size.unsigned_abs()).map_err(|_| CUT_SHORT)?)?;
        if entries.len() == ENTRIES_LIMIT {
            return Err("it holds more than a thousand keys");
        }
        // What is negative is a hole, where an entry was deleted.
        if size > 0 {
            entries.extend(entry(Fields(bytes))?);
        }
    }
    Ok(entries)
}

fn entry(mut fields: Fields<'_>) -> Result<Option<KeytabEntry>, &'static str> {
    let count = fields.short()?;
    if count > COMPONENTS_LIMIT {
        return Err("it holds a name of too many parts");
    }
    let realm = fields.text()?;
    let components = (0..count).map(|_| fields.text()).collect::<Result<Vec<_>, _>>()?;
    let name_type = i32::from_be_bytes(fields.array()?);
    let _made: [u8; 4] = fields.array()?;
    let [low] = fields.array()?;
    let enctype = i32::from(fields.short()?);
    let length = fields.short()?;
    let key = fields.take(usize::from(length))?;
    let kvno = fields.array().map(u32::from_be_bytes).ok().filter(|kvno| *kvno != 0).unwrap_or(u32::from(low));
    let key = Key::new(enctype, key).ok();
    Ok(key.map(|key| KeytabEntry { principal: Principal { name_type, components, realm }, kvno, key }))
}

/// The bytes that are left.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], &'static str> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(CUT_SHORT)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], &'static str> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(CUT_SHORT)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn short(&mut self) -> Result<u16, &'static str> {
        self.array().map(u16::from_be_bytes)
    }

    fn text(&mut self) -> Result<String, &'static str> {
        let length = self.short()?;
        let bytes = self.take(usize::from(length))?;
        if bytes.len() > NAME_LIMIT {
            return Err("it holds a name that is too long");
        }
        String::from_utf8(bytes.to_vec()).map_err(|_| "it holds a name that is not UTF-8")
    }
}

const VERSION: [u8; 2] = [5, 2];
const CUT_SHORT: &str = "it ends in the middle of an entry";
/// What a file may hold: a host has a few names, and a few versions of a few keys for each.
const ENTRIES_LIMIT: usize = 1024;
const COMPONENTS_LIMIT: u16 = 32;
const NAME_LIMIT: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entries() -> Vec<KeytabEntry> {
        let entry = |name: &str, kvno, enctype| KeytabEntry {
            principal: name.parse().unwrap(),
            kvno,
            key: Key::new(enctype, &vec![7; if enctype == 18 { 32 } else { 16 }]).unwrap(),
        };
        vec![entry("WebApp01$@EXAMPLE.COM", 2, 18), entry("HTTP/web.example.com@EXAMPLE.COM", 300, 17)]
    }

    fn told(entries: &[KeytabEntry]) -> Vec<(String, u32, i32, Vec<u8>)> {
        let told = |entry: &KeytabEntry| {
            (entry.principal.to_string(), entry.kvno, entry.key.enctype(), entry.key.octets().to_vec())
        };
        entries.iter().map(told).collect()
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        let file = encode(&entries(), clock::from_unix(1_790_000_000));
        assert_eq!(told(&decode(&file).unwrap()), told(&entries()));
    }

    /// MIT's own tool; the lab's packages bring it.
    #[test]
    fn mit_reads_what_is_encoded() {
        let file = encode(&entries(), clock::from_unix(1_790_000_000));
        let path = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut path.as_file(), &file).unwrap();
        let klist = std::process::Command::new("klist").args(["-k", "-K", "-e"]).arg(path.path()).output();
        let klist = klist.expect("MIT's klist is there: lab/install brings krb5-user");
        let told = String::from_utf8(klist.stdout).unwrap();
        for KeytabEntry { principal, kvno, key } in entries() {
            let name = super::super::enctype_name(key.enctype());
            let octets: String = key.octets().iter().map(|octet| format!("{octet:02x}")).collect();
            let line = format!("{kvno:4} {principal} ({name})  (0x{octets})");
            assert!(told.lines().any(|told| told.trim_end() == line), "{line}: {told}");
        }
    }

    #[test]
    fn files_and_names_have_bounds() {
        let entry = |name: String| KeytabEntry { principal: name.parse().unwrap(), ..entries()[0].clone() };
        let of = |entries: &[KeytabEntry]| decode(&encode(entries, clock::from_unix(0)));
        let many = |count| vec![entries()[0].clone(); count];
        assert_eq!(of(&many(1024)).unwrap().len(), 1024);
        assert!(of(&many(1025)).is_err());
        assert!(of(&[entry(format!("{}@R", "a".repeat(1024)))]).is_ok());
        assert!(of(&[entry(format!("{}@R", "a".repeat(1025)))]).is_err());
        assert!(of(&[entry(format!("{}@R", ["a"; 32].join("/")))]).is_ok());
        assert!(of(&[entry(format!("{}@R", ["a"; 33].join("/")))]).is_err());
    }

    #[test]
    fn holes_and_strange_enctypes_are_passed_over() {
        let mut file = encode(&entries()[..1], clock::from_unix(0)).to_vec();
        let second = encode(&entries()[1..], clock::from_unix(0));
        file.extend((-3_i32).to_be_bytes());
        file.extend([0; 3]);
        let mut rc4 = second[2..].to_vec();
        let at = rc4.len() - 4 - 16 - 4;
        rc4[at..at + 2].copy_from_slice(&23_u16.to_be_bytes());
        file.extend(rc4);
        file.extend(&second[2..]);
        assert_eq!(told(&decode(&file).unwrap()), told(&entries()));
        for hole in [i32::MIN, -9, i32::MAX] {
            assert!(decode(&[&VERSION[..], &hole.to_be_bytes()].concat()).is_err());
        }
        assert!(decode(b"").is_err() && decode(b"\x05\x01").is_err());
        assert!(decode(&VERSION).unwrap().is_empty());
    }

    proptest! {
        #[test]
        fn no_file_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in any::<prop::sample::Index>()) {
            let _ = decode(&bytes);
            let mut file = encode(&entries(), clock::from_unix(0)).to_vec();
            let at = at.index(file.len());
            file[at] = bytes.first().copied().unwrap_or_default();
            let _ = decode(&file);
            let _ = decode(&file[..at]);
        }
    }
}
