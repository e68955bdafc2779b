//! The FILE ccache (MIT's `doc/formats/ccache_file_format.rst`): the one place that writes and reads it. Written in
//! version 4, read in versions 3 and 4. And the images of a gMSA's own tickets and keys, which only this module and its
//! parent can make: nothing else reaches the volume.

use std::fmt;
use std::time::SystemTime;

use zeroize::Zeroizing;

use super::crypto::Key;
use super::messages::SealedTicket;
use super::principal::Principal;
use super::tickets::Credentials;
use crate::clock;
use crate::name::Account;

/// A FILE ccache with a gMSA's own tickets, the only kind of ticket that reaches the volume.
pub struct CacheImage(Zeroizing<Vec<u8>>);

impl CacheImage {
    /// The tickets of one gMSA, its TGT first; `offset` is how far the KDC's clock is ahead of ours, in seconds, which
    /// clients are told. Each ticket is stored for its server and for these others.
    pub(super) fn of_gmsa<'a>(
        client: &Principal,
        offset: i64,
        tickets: impl IntoIterator<Item = (&'a Principal, &'a Credentials)>,
    ) -> Self {
        let mut file = Zeroizing::new(vec![5, 4]);
        match i32::try_from(offset) {
            Ok(seconds @ (i32::MIN..=-1 | 1..)) => {
                let microseconds = [0; 4];
                file.extend([0, 12, 0, DELTATIME, 0, 8]);
                file.extend([seconds.to_be_bytes(), microseconds].as_flattened());
            }
            _ => file.extend([0, 0]),
        }
        put_principal(&mut file, client);
        for (server, ticket) in tickets {
            put_principal(&mut file, client);
            put_principal(&mut file, server);
            file.extend(u16::try_from(ticket.session_key.enctype()).unwrap_or_default().to_be_bytes());
            put(&mut file, ticket.session_key.octets());
            let times = [ticket.authtime, ticket.starttime, ticket.endtime, ticket.renew_till];
            times.iter().for_each(|time| file.extend(time.to_be_bytes()));
            file.push(0); // not user to user
            file.extend(ticket.flags.to_be_bytes());
            file.extend([0; 8]); // no addresses, no authorization data
            put(&mut file, &ticket.ticket);
            put(&mut file, &[]); // no second ticket
        }
        Self(file)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Any bytes, for the tests of those who write them.
    #[cfg(test)]
    pub(crate) fn of_bytes(bytes: &[u8]) -> Self {
        Self(Zeroizing::new(bytes.to_vec()))
    }
}

impl fmt::Debug for CacheImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CacheImage({} bytes)", self.0.len())
    }
}

fn put_principal(file: &mut Vec<u8>, principal: &Principal) {
    file.extend(principal.name_type.to_be_bytes());
    file.extend(length(principal.components.len()));
    let texts = std::iter::once(&principal.realm).chain(&principal.components);
    texts.for_each(|text| put(file, text.as_bytes()));
}

fn put(file: &mut Vec<u8>, octets: &[u8]) {
    file.extend(length(octets.len()));
    file.extend_from_slice(octets);
}

/// Nothing in a ticket is longer than a KDC's reply.
fn length(length: usize) -> [u8; 4] {
    u32::try_from(length).unwrap_or_default().to_be_bytes()
}

/// A keytab with a gMSA's own keys.
pub struct KeytabImage(Zeroizing<Vec<u8>>);

impl KeytabImage {
    pub(super) fn of_gmsa(image: Zeroizing<Vec<u8>>) -> Self {
        Self(image)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for KeytabImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeytabImage({} bytes)", self.0.len())
    }
}

/// A ccache that was read. It has no `Debug`: it holds keys.
pub(crate) struct Cache<'a> {
    /// Whose tickets these are.
    pub(crate) principal: Principal,
    pub(crate) entries: Vec<CcacheEntry<'a>>,
    /// Whether the file ends behind the last entry, and not within one that somebody may be writing still.
    pub(crate) is_whole: bool,
}

/// A ticket or a setting in a ccache, as it stands there. Times are Unix seconds, 0 for none.
pub(crate) struct CcacheEntry<'a> {
    pub(crate) client: Principal,
    pub(crate) server: Principal,
    /// Of the session key.
    pub(crate) enctype: i32,
    pub(super) key: &'a [u8],
    /// Sealed with another ticket's session key and not with the service's own key.
    is_user_to_user: bool,
    pub(crate) authtime: u32,
    pub(crate) starttime: u32,
    pub(crate) endtime: u32,
    pub(crate) renew_till: u32,
    /// RFC 4120 section 5.3, bit 0 the most significant.
    pub(crate) flags: u32,
    pub(super) ticket: &'a [u8],
}

impl CcacheEntry<'_> {
    /// A ticket, and not a setting of the library's or what is left of a ticket that was removed.
    pub(crate) fn is_ticket(&self) -> bool {
        self.server.realm != "X-CACHECONF:" && (self.endtime != 0 || self.authtime == 0)
    }

    /// The enctype of the service's key, if the ticket is one.
    pub(crate) fn ticket_enctype(&self) -> Option<i32> {
        SealedTicket::decode(self.ticket).ok().map(|ticket| ticket.enc_part.etype)
    }

    /// When it becomes valid.
    fn start(&self) -> u32 {
        if self.starttime == 0 { self.authtime } else { self.starttime }
    }

    /// Whether a client can use it at `now`.
    pub(super) fn is_good(&self, now: i64) -> bool {
        self.is_ticket()
            && !self.is_user_to_user
            && (i64::from(self.start())..i64::from(self.endtime)).contains(&now)
            && Key::new(self.enctype, self.key).is_ok()
            && self.ticket_enctype().is_some()
    }
}

impl<'a> Cache<'a> {
    /// Reads a file; nothing if it is none. What is in it is believed only so far as that lengths fit.
    pub(crate) fn decode(file: &'a [u8]) -> Option<Self> {
        let (version, rest) = file.split_first_chunk()?;
        let mut fields = Fields { rest, has_two_enctypes: *version == [5, 3] };
        match version {
            [5, 3] => {}
            [5, 4] => {
                let [a, b] = fields.array().ok()?;
                let mut header = Fields { rest: fields.take(u16::from_be_bytes([a, b]).into()).ok()?, ..fields };
                while !header.rest.is_empty() {
                    let [_, _, a, b] = header.array().ok()?;
                    header.take(u16::from_be_bytes([a, b]).into()).ok()?;
                }
            }
            _ => return None,
        }
        let principal = fields.principal().ok()?;
        let mut entries = Vec::new();
        let mut is_whole = true;
        while is_whole && !fields.rest.is_empty() {
            if entries.len() == ENTRIES_LIMIT {
                return None;
            }
            match fields.entry() {
                Ok(entry) => entries.push(entry),
                Err(Flaw::Short) => is_whole = false,
                Err(Flaw::Damage) => return None,
            }
        }
        Some(Self { principal, entries, is_whole })
    }
}

/// The bytes that are left.
struct Fields<'a> {
    rest: &'a [u8],
    /// Version 3 tells the enctype of a key twice.
    has_two_enctypes: bool,
}

enum Flaw {
    /// They end too soon.
    Short,
    /// They are not what anybody writes.
    Damage,
}

impl<'a> Fields<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Flaw> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Flaw::Short)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Flaw> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(Flaw::Short)?;
        self.rest = rest;
        Ok(*taken)
    }

    fn number(&mut self) -> Result<u32, Flaw> {
        self.array().map(u32::from_be_bytes)
    }

    fn counted(&mut self) -> Result<&'a [u8], Flaw> {
        let length = self.number()?;
        self.take(usize::try_from(length).map_err(|_| Flaw::Short)?)
    }

    fn text(&mut self) -> Result<String, Flaw> {
        let octets = self.counted()?;
        if octets.len() > NAME_LIMIT {
            return Err(Flaw::Damage);
        }
        String::from_utf8(octets.to_vec()).map_err(|_| Flaw::Damage)
    }

    fn principal(&mut self) -> Result<Principal, Flaw> {
        let name_type = i32::from_be_bytes(self.array()?);
        let count = self.number()?;
        let realm = self.text()?;
        if count > COMPONENTS_LIMIT {
            return Err(Flaw::Damage);
        }
        let components = (0..count).map(|_| self.text()).collect::<Result<Vec<_>, _>>()?;
        Ok(Principal { name_type, components, realm })
    }

    /// A list of typed octets, which nobody here needs.
    fn skip_list(&mut self) -> Result<(), Flaw> {
        for _ in 0..self.number()? {
            self.take(2)?;
            self.counted()?;
        }
        Ok(())
    }

    fn entry(&mut self) -> Result<CcacheEntry<'a>, Flaw> {
        let (client, server) = (self.principal()?, self.principal()?);
        let enctype = i16::from_be_bytes(self.array()?).into();
        if self.has_two_enctypes {
            self.take(2)?;
        }
        let key = self.counted()?;
        let [authtime, starttime, endtime, renew_till] =
            [self.number()?, self.number()?, self.number()?, self.number()?];
        let is_user_to_user = self.array()? != [0];
        let flags = self.number()?;
        self.skip_list()?; // addresses
        self.skip_list()?; // authorization data
        let (ticket, _second) = (self.counted()?, self.counted()?);
        Ok(CcacheEntry {
            client,
            server,
            enctype,
            key,
            is_user_to_user,
            authtime,
            starttime,
            endtime,
            renew_till,
            flags,
            ticket,
        })
    }
}

/// A ticket found on the volume that is good still.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warm {
    /// When it was issued.
    pub issued_at: SystemTime,
    /// When it expires.
    pub expires_at: SystemTime,
    /// The services it comes with valid tickets for, as SPNs: `MSSQLSvc/db.corp.example.com:1433`, and until when.
    pub services: Vec<(String, SystemTime)>,
}

/// Whether a ccache found on the volume still serves: its default principal is the gMSA (AD compares names without
/// case, and the directory's spelling is not known yet) in `realm`, and it holds a TGT of `realm` valid at `now`.
pub fn warm(image: &[u8], account: &Account, realm: &str, now: SystemTime) -> Option<Warm> {
    let now = clock::unix(now);
    let cache = Cache::decode(image)?;
    let [name] = cache.principal.components.as_slice() else { return None };
    if cache.principal.realm != realm || !name.ends_with('$') || !account.same_as(name) {
        return None;
    }
    let good = || cache.entries.iter().filter(|entry| entry.is_good(now) && entry.client.same_as(&cache.principal));
    let tgs = Principal::krbtgt(realm);
    let tgt = good().filter(|entry| entry.server.same_as(&tgs)).max_by_key(|entry| entry.endtime)?;
    let services = good().filter(|entry| !entry.server.same_as(&tgs));
    Some(Warm {
        issued_at: clock::from_unix(tgt.start().into()),
        expires_at: clock::from_unix(tgt.endtime.into()),
        services: services.map(|entry| (entry.server.name(), clock::from_unix(entry.endtime.into()))).collect(),
    })
}

/// When the newest TGT in a ccache expires, whoever's it is; none if there is none.
pub(crate) fn tgt_expires_at(image: &[u8]) -> Option<SystemTime> {
    let cache = Cache::decode(image)?;
    let tgs = Principal::krbtgt(&cache.principal.realm);
    let ends = cache.entries.iter().filter(|entry| entry.is_ticket() && entry.server.same_as(&tgs));
    ends.map(|entry| clock::from_unix(entry.endtime.into())).max()
}

/// The header field for the KDC's time minus ours.
const DELTATIME: u8 = 1;
/// What a file may hold. A ticket of AD has a kilobyte or more, and a file that is read a megabyte at most.
const ENTRIES_LIMIT: usize = 1024;
const COMPONENTS_LIMIT: u32 = 32;
const NAME_LIMIT: usize = 1024;
/// A ccache for tests, put together byte by byte after MIT's `doc/formats/ccache_file_format.rst`.
#[cfg(test)]
pub(crate) mod sample {
    /// The session key in every ticket.
    pub(crate) const KEY: [u8; 32] = *b"TheSessionKeyThatNobodyMayRead!!";

    /// One ticket: its server's components, start and end in Unix seconds.
    pub(crate) struct WrittenTicket<'a>(pub(crate) &'a [&'a str], pub(crate) u32, pub(crate) u32);

    /// A version 4 cache of `client@EXAMPLE.COM`.
    pub(crate) fn cache(client: &str, tickets: &[WrittenTicket<'_>]) -> Vec<u8> {
        let mut out = vec![5, 4, 0, 0];
        principal(&mut out, &[client], "EXAMPLE.COM");
        for WrittenTicket(server, start, end) in tickets {
            principal(&mut out, &[client], "EXAMPLE.COM");
            principal(&mut out, server, "EXAMPLE.COM");
            out.extend(18u16.to_be_bytes());
            data(&mut out, &KEY);
            [*start, *start, *end, end.saturating_add(86_400)].iter().for_each(|time| out.extend(time.to_be_bytes()));
            out.push(0);
            // forwardable, renewable, initial, pre-authenticated, enc-pa-rep
            out.extend(0x40e1_0000u32.to_be_bytes());
            out.extend([0; 8]);
            data(&mut out, &der_ticket());
            data(&mut out, &[]);
        }
        out
    }

    fn principal(out: &mut Vec<u8>, components: &[&str], realm: &str) {
        out.extend(1u32.to_be_bytes());
        out.extend((components.len() as u32).to_be_bytes());
        data(out, realm.as_bytes());
        components.iter().for_each(|component| data(out, component.as_bytes()));
    }

    fn data(out: &mut Vec<u8>, bytes: &[u8]) {
        out.extend((bytes.len() as u32).to_be_bytes());
        out.extend(bytes);
    }

    /// A `Ticket` (RFC 4120 5.3) with an encrypted part of aes256.
    pub(crate) fn der_ticket() -> Vec<u8> {
        let tlv = |tag: u8, content: &[u8]| [&[tag, content.len() as u8], content].concat();
        let number = |n: u8| tlv(0x02, &[n]);
        let text = |text: &str| tlv(0x1b, text.as_bytes());
        let name = [tlv(0xa0, &number(2)), tlv(0xa1, &tlv(0x30, &text("krbtgt")))].concat();
        let sealed = [tlv(0xa0, &number(18)), tlv(0xa2, &tlv(0x04, b"sealed"))].concat();
        let fields = [
            tlv(0xa0, &number(5)),
            tlv(0xa1, &text("EXAMPLE.COM")),
            tlv(0xa2, &tlv(0x30, &name)),
            tlv(0xa3, &tlv(0x30, &sealed)),
        ];
        tlv(0x61, &tlv(0x30, &fields.concat()))
    }
}

#[cfg(test)]
mod tests {
    use super::sample::{WrittenTicket, cache};
    use super::*;
    use proptest::prelude::*;

    const REALM: &str = "EXAMPLE.COM";
    const TGT: &[&str] = &["krbtgt", REALM];

    fn account() -> Account {
        "WebApp01".parse().unwrap()
    }

    fn at(seconds: i64) -> SystemTime {
        clock::from_unix(seconds)
    }

    #[test]
    fn a_valid_ticket_of_the_account_is_warm() {
        let image = cache("WebApp01$", &[WrittenTicket(TGT, 1000, 2000), WrittenTicket(&["HTTP", "web"], 1000, 1900)]);
        let found = warm(&image, &account(), REALM, at(1500)).unwrap();
        assert_eq!((found.issued_at, found.expires_at), (at(1000), at(2000)));
        assert_eq!(found.services, [("HTTP/web".to_owned(), at(1900))]);
        assert!(warm(&image, &account(), REALM, at(1950)).unwrap().services.is_empty());
        assert!(warm(&image, &"webapp01".parse().unwrap(), REALM, at(1500)).is_some());
    }

    #[test]
    fn everything_else_is_not() {
        let image = cache("WebApp01$", &[WrittenTicket(TGT, 1000, 2000)]);
        let none = |image: &[u8], account: &Account, realm, now| assert_eq!(warm(image, account, realm, at(now)), None);
        none(&image, &account(), REALM, 2000);
        none(&image, &account(), REALM, 999);
        none(&image, &account(), "OTHER.TEST", 1500);
        none(&image, &"WebApp02".parse().unwrap(), REALM, 1500);
        none(&image[..image.len() - 1], &account(), REALM, 1500);
        none(&cache("WebApp01", &[WrittenTicket(TGT, 1000, 2000)]), &account(), REALM, 1500);
        none(&cache("WebApp01$", &[WrittenTicket(&["krbtgt", "OTHER.TEST"], 1000, 2000)]), &account(), REALM, 1500);
        none(&cache("WebApp01$", &[]), &account(), REALM, 1500);
        none(b"", &account(), REALM, 1500);
    }

    #[test]
    fn images_print_no_bytes() {
        assert_eq!(format!("{:?}", CacheImage::of_bytes(b"secret")), "CacheImage(6 bytes)");
    }

    /// Version 3 tells the enctype of a key twice and has no header.
    #[test]
    fn version_3_is_read_and_older_ones_are_not() {
        let whole = cache("WebApp01$", &[WrittenTicket(TGT, 1000, 2000)]);
        let at = whole.windows(6).position(|octets| octets == [0, 18, 0, 0, 0, 32]).unwrap();
        let mut third = [&[5, 3][..], &whole[4..at], &[0, 18], &whole[at..]].concat();
        assert!(warm(&third, &account(), REALM, super::tests::at(1500)).is_some());
        third[1] = 4;
        assert!(warm(&third, &account(), REALM, super::tests::at(1500)).is_none());
        for version in [0, 1, 2, 5] {
            assert!(Cache::decode(&[&[5, version], &whole[2..]].concat()).is_none());
        }
    }

    #[test]
    fn files_and_names_have_bounds() {
        let tickets = |count| (0..count).map(|_| WrittenTicket(TGT, 1000, 2000)).collect::<Vec<_>>();
        assert_eq!(Cache::decode(&cache("WebApp01$", &tickets(1024))).unwrap().entries.len(), 1024);
        assert!(Cache::decode(&cache("WebApp01$", &tickets(1025))).is_none());
        assert!(Cache::decode(&cache(&"a".repeat(1024), &[])).is_some());
        assert!(Cache::decode(&cache(&"a".repeat(1025), &[])).is_none());
        assert!(Cache::decode(&cache("a", &[WrittenTicket(&["a"; 32], 1, 2)])).is_some());
        assert!(Cache::decode(&cache("a", &[WrittenTicket(&["a"; 33], 1, 2)])).is_none());
        // A count of four billion ends where the bytes do.
        let mut lists = cache("a", &[WrittenTicket(TGT, 1, 2)]);
        let at = lists.windows(4).position(|octets| octets == 0x40e1_0000_u32.to_be_bytes()).unwrap();
        lists[at + 4..at + 8].fill(0xff);
        assert!(!Cache::decode(&lists).unwrap().is_whole);
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(image in proptest::collection::vec(any::<u8>(), 0..400)) {
            prop_assert_eq!(warm(&image, &account(), REALM, at(1500)), None);
        }

        #[test]
        fn any_damage_is_taken(place in any::<prop::sample::Index>(), byte: u8, cut in any::<prop::sample::Index>()) {
            let mut image = cache("WebApp01$", &[WrittenTicket(TGT, 1000, 2000), WrittenTicket(&["HTTP", "web"], 1000, 1900)]);
            *place.get_mut(&mut image) = byte;
            let _ = warm(&image, &account(), REALM, at(1500));
            let _ = warm(&image[..cut.index(image.len())], &account(), REALM, at(1500));
        }
    }
}
