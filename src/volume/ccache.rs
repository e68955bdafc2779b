//! What the volume takes: images made from a gMSA's own tickets and keys. And what it gives back at a warm start.

use std::fmt;
use std::time::SystemTime;

use krb5::ccache::same_principal;
use krb5::{CCache, Principal};
use zeroize::Zeroizing;

use crate::clock;
use crate::name::Account;

/// A FILE ccache with a gMSA's own tickets, the only kind of ticket that reaches the volume.
pub struct CacheImage(Zeroizing<Vec<u8>>);

impl CacheImage {
    /// For `kerberos` only, which makes it from a gMSA's own ticket and from nothing else.
    pub(crate) fn of_gmsa(image: Vec<u8>) -> Self {
        Self(Zeroizing::new(image))
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for CacheImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CacheImage({} bytes)", self.0.len())
    }
}

/// A keytab with a gMSA's own keys.
pub struct KeytabImage(Zeroizing<Vec<u8>>);

impl KeytabImage {
    /// For `kerberos` only, as [`CacheImage::of_gmsa`].
    pub(crate) fn of_gmsa(image: Zeroizing<Vec<u8>>) -> Self {
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
    let cache = CCache::decode(image).ok()?;
    let [name] = cache.principal.components.as_slice() else { return None };
    if cache.principal.realm != realm || !name.ends_with('$') || !account.same_as(name) {
        return None;
    }
    let started = |start: Option<i64>| start.is_none_or(|start| start <= now);
    let tgt = cache.find(&Principal::krbtgt(realm), now).filter(|tgt| started(tgt.starttime))?;
    let services = cache
        .credentials()
        .filter(|ticket| same_principal(&ticket.client, &cache.principal) && ticket.server != tgt.server)
        .filter(|ticket| started(ticket.starttime) && now < ticket.endtime)
        .map(|ticket| (ticket.server.name(), clock::from_unix(ticket.endtime)))
        .collect();
    Some(Warm {
        issued_at: clock::from_unix(tgt.starttime.unwrap_or(tgt.authtime)),
        expires_at: clock::from_unix(tgt.endtime),
        services,
    })
}

/// When the newest TGT in a ccache expires, whoever's it is; none if there is none.
pub(super) fn expires_at(image: &[u8]) -> Option<SystemTime> {
    let cache = CCache::decode(image).ok()?;
    let tgt = Principal::krbtgt(&cache.principal.realm);
    let ends = cache
        .credentials()
        .filter(|ticket| same_principal(&ticket.server, &tgt))
        .map(|ticket| clock::from_unix(ticket.endtime));
    ends.max()
}

/// A ccache for tests, put together byte by byte after MIT's `doc/formats/ccache_file_format.rst`.
#[cfg(test)]
pub(crate) mod sample {
    /// The session key in every ticket.
    pub(crate) const KEY: [u8; 32] = *b"TheSessionKeyThatNobodyMayRead!!";

    /// One ticket: its server's components, start and end in Unix seconds.
    pub(crate) struct Ticket<'a>(pub(crate) &'a [&'a str], pub(crate) u32, pub(crate) u32);

    /// A version 4 cache of `client@EXAMPLE.COM`.
    pub(crate) fn cache(client: &str, tickets: &[Ticket<'_>]) -> Vec<u8> {
        let mut out = vec![5, 4, 0, 0];
        principal(&mut out, &[client], "EXAMPLE.COM");
        for Ticket(server, start, end) in tickets {
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
    fn der_ticket() -> Vec<u8> {
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
    use super::sample::{Ticket, cache};
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
        let image = cache("WebApp01$", &[Ticket(TGT, 1000, 2000), Ticket(&["HTTP", "web"], 1000, 1900)]);
        let found = warm(&image, &account(), REALM, at(1500)).unwrap();
        assert_eq!((found.issued_at, found.expires_at), (at(1000), at(2000)));
        assert_eq!(found.services, [("HTTP/web".to_owned(), at(1900))]);
        assert!(warm(&image, &account(), REALM, at(1950)).unwrap().services.is_empty());
        assert!(warm(&image, &"webapp01".parse().unwrap(), REALM, at(1500)).is_some());
    }

    #[test]
    fn everything_else_is_not() {
        let image = cache("WebApp01$", &[Ticket(TGT, 1000, 2000)]);
        let none = |image: &[u8], account: &Account, realm, now| assert_eq!(warm(image, account, realm, at(now)), None);
        none(&image, &account(), REALM, 2000);
        none(&image, &account(), REALM, 999);
        none(&image, &account(), "OTHER.TEST", 1500);
        none(&image, &"WebApp02".parse().unwrap(), REALM, 1500);
        none(&image[..image.len() - 1], &account(), REALM, 1500);
        none(&cache("WebApp01", &[Ticket(TGT, 1000, 2000)]), &account(), REALM, 1500);
        none(&cache("WebApp01$", &[Ticket(&["krbtgt", "OTHER.TEST"], 1000, 2000)]), &account(), REALM, 1500);
        none(&cache("WebApp01$", &[]), &account(), REALM, 1500);
        none(b"", &account(), REALM, 1500);
    }

    #[test]
    fn images_print_no_bytes() {
        assert_eq!(format!("{:?}", CacheImage::of_gmsa(b"secret".to_vec())), "CacheImage(6 bytes)");
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(image in proptest::collection::vec(any::<u8>(), 0..400)) {
            prop_assert_eq!(warm(&image, &account(), REALM, at(1500)), None);
        }

        #[test]
        fn any_damage_is_taken(place in any::<prop::sample::Index>(), byte: u8, cut in any::<prop::sample::Index>()) {
            let mut image = cache("WebApp01$", &[Ticket(TGT, 1000, 2000), Ticket(&["HTTP", "web"], 1000, 1900)]);
            *place.get_mut(&mut image) = byte;
            let _ = warm(&image, &account(), REALM, at(1500));
            let _ = warm(&image[..cut.index(image.len())], &account(), REALM, at(1500));
        }
    }
}
