//! Who may read a managed password: `msDS-GroupMSAMembership`, a security descriptor (MS-DTYP 2.4.6).

use std::fmt;

/// A security identifier (MS-DTYP 2.4.2.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sid {
    authority: u64,
    parts: Vec<u32>,
}

impl Sid {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let [1, count, authority @ ..] = bytes.first_chunk::<8>()? else { return None };
        let authority = authority.iter().fold(0, |number, octet| number << 8 | u64::from(*octet));
        let parts = bytes.get(8..8 + 4 * usize::from(*count))?;
        let parts = parts.chunks_exact(4).map(|part| u32::from_le_bytes([part[0], part[1], part[2], part[3]]));
        Some(Self { authority, parts: parts.collect() })
    }
}

impl fmt::Display for Sid {
    /// `S-1-5-21-...`, which an LDAP filter takes too.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "S-1-{}", self.authority)?;
        self.parts.iter().try_for_each(|part| write!(f, "-{part}"))
    }
}

/// The first of those that the descriptor allows something, in its order. What cannot be read names nobody.
pub(crate) fn readers(descriptor: &[u8]) -> Vec<Sid> {
    let mut sids: Vec<Sid> = Vec::new();
    for sid in entries(descriptor).unwrap_or_default() {
        if !sids.contains(&sid) {
            sids.push(sid);
        }
        if sids.len() == MOST {
            break;
        }
    }
    sids
}

/// Whoever reads the list names a few of it. Comparing all with all takes seconds where a server tells thousands.
const MOST: usize = 32;

/// The entries of the DACL, whose place is at offset 16.
fn entries(descriptor: &[u8]) -> Option<Vec<Sid>> {
    let offset = usize::try_from(u32::from_le_bytes(*descriptor.get(16..)?.first_chunk()?)).ok()?;
    let list = descriptor.get(offset..).filter(|_| offset != 0)?;
    // A list has 64 KiB at most, header included (MS-DTYP 2.4.5), and says how many.
    let list = list.get(..usize::from(u16::from_le_bytes([*list.get(2)?, *list.get(3)?]))).unwrap_or(list);
    let count = u16::from_le_bytes([*list.get(4)?, *list.get(5)?]);
    let (mut rest, mut sids) = (list.get(8..)?, Vec::new());
    for _ in 0..count {
        let size = usize::from(u16::from_le_bytes([*rest.get(2)?, *rest.get(3)?]));
        let entry = rest.get(..size.max(8))?;
        if entry[0] == ACCESS_ALLOWED {
            sids.push(Sid::parse(&entry[8..])?);
        }
        rest = rest.get(entry.len()..)?;
    }
    Some(sids)
}

/// ACCESS_ALLOWED_ACE (MS-DTYP 2.4.4.2): type, flags, size, mask, SID.
const ACCESS_ALLOWED: u8 = 0;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// `O:S-1-5-32-544D:(A;;FA;;;S-1-5-21-1-2-3-1104)(D;;FA;;;S-1-5-7)(A;;FA;;;S-1-5-21-1-2-3-1105)`
    fn descriptor() -> Vec<u8> {
        let sid = |parts: &[u32]| {
            let mut sid = vec![1, u8::try_from(parts.len()).unwrap(), 0, 0, 0, 0, 0, 5];
            parts.iter().for_each(|part| sid.extend(part.to_le_bytes()));
            sid
        };
        let entry = |kind, parts: &[u32]| {
            let sid = sid(parts);
            let mut entry = vec![kind, 0, u8::try_from(8 + sid.len()).unwrap(), 0, 0xff, 1, 0x0f, 0];
            entry.extend(sid);
            entry
        };
        let owner = sid(&[32, 544]);
        let entries = [entry(0, &[21, 1, 2, 3, 1104]), entry(1, &[7]), entry(0, &[21, 1, 2, 3, 1105])].concat();
        let mut bytes = vec![1, 0, 4, 0x80, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        bytes.extend(u32::try_from(20 + owner.len()).unwrap().to_le_bytes());
        bytes.extend(owner);
        bytes.extend([4, 0, u8::try_from(8 + entries.len()).unwrap(), 0, 3, 0, 0, 0]);
        bytes.extend(entries);
        bytes
    }

    #[test]
    fn those_who_are_allowed_are_told() {
        let told: Vec<_> = readers(&descriptor()).iter().map(ToString::to_string).collect();
        assert_eq!(told, ["S-1-5-21-1-2-3-1104", "S-1-5-21-1-2-3-1105"]);
        assert!(readers(&[]).is_empty());
    }

    #[test]
    fn a_list_without_an_end_costs_no_time() {
        let entries: Vec<u8> = (0..u16::MAX)
            .flat_map(|at| {
                let [low, high] = at.to_le_bytes();
                [0, 0, 20, 0, 0xff, 1, 0x0f, 0, 1, 1, 0, 0, 0, 0, 0, 5, low, high, 0, 0]
            })
            .collect();
        for octets in [u16::MAX, 0] {
            let mut bytes = vec![1, 0, 4, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 20, 0, 0, 0];
            bytes.extend([4, 0, octets.to_le_bytes()[0], octets.to_le_bytes()[1], 0xff, 0xff, 0, 0]);
            bytes.extend(&entries);
            let start = std::time::Instant::now();
            assert!(readers(&bytes).len() <= MOST);
            assert!(start.elapsed() < std::time::Duration::from_secs(1), "{:?}", start.elapsed());
        }
    }

    proptest! {
        #[test]
        fn no_descriptor_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = readers(&bytes);
        }

        #[test]
        fn no_damage_panics(at in any::<prop::sample::Index>(), octet in any::<u8>()) {
            let mut bytes = descriptor();
            let at = at.index(bytes.len());
            bytes[at] = octet;
            let _ = readers(&bytes);
        }
    }
}
