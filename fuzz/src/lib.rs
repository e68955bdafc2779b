//! What the targets share: a fixed exchange with a real KDC's answer to it, and a bound on what an input may cost.

use std::alloc::System;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use bytes::BytesMut;
use gmsa_sidecar::directory::ldap::Sealed;
use gmsa_sidecar::kerberos::{AsExchange, ClientKey, LdapTicket, Password, Principal, Proof, Sealer, Step, Ticket};
use gmsa_sidecar::kerberos::{Key, Role, TicketOptions, Tokens, login_principal, service};
use gmsa_sidecar::name::{Account, Domain};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tokio_util::codec::Decoder;
use zeroize::Zeroizing;

#[global_allocator]
static HEAP: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Decodes, and fails if that took more memory, all allocations together, than any input may: whoever sends it has proven
/// nothing.
pub fn bounded<T>(input: &[u8], decode: impl FnOnce() -> T) -> T {
    let region = Region::new(HEAP);
    let decoded = decode();
    let taken = region.change().bytes_allocated;
    assert!(taken <= MEMORY_LIMIT, "{} bytes of input took {taken} bytes of memory", input.len());
    decoded
}

/// A vector that grows is counted at each of its sizes.
const MEMORY_LIMIT: usize = 4 << 20;

/// When `scripts/fuzz record` talked to the lab: the tickets in the seeds are valid then.
pub fn now() -> SystemTime {
    let seconds = include_str!("../recorded/now").trim().parse().expect("seconds since 1970");
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

/// The login that the lab's KDC was asked about.
pub const LOGIN: &str = "svc-fuzz";
/// Its password, which has never opened anything but a lab.
pub const PASSWORD: &str = "Fuzz-Passw0rd";

/// The lab's domain.
pub fn domain() -> Domain {
    "example.com".parse().expect("a domain")
}

/// The gMSA in the seeds.
pub fn account() -> Account {
    "WebApp01".parse().expect("an account")
}

/// The password in the seeds.
pub fn password() -> Password {
    Password::new(Zeroizing::new(PASSWORD.to_owned()))
}

/// The exchange's two ends. The service has the name of two parts that the recorded answers were asked for with.
pub fn principals() -> (Principal, Principal) {
    let ldap = "ldap/dc1.example.com".parse().expect("a service");
    (login_principal(LOGIN, &domain()), service(&ldap, &domain()))
}

/// A fixed exchange that has sent its first request.
pub fn exchange(proof: Proof) -> AsExchange {
    let (login, service) = principals();
    AsExchange::start(login, service, proof, TicketOptions::default(), now(), entropy).expect("an exchange").0
}

/// What stands for random octets: every recorded request has the nonce `0x2b2b2b2b`.
pub fn entropy(octets: &mut [u8]) {
    octets.fill(0x2b);
}

/// A real answer to the second request of that exchange, the one with a proof.
const AS_REP: &[u8] = include_bytes!("../recorded/as_rep");

/// What came of that answer. It proves which request it was for, and that one held a random number: only without this
/// proof (RFC 6806 section 11) does it verify again.
fn recorded() -> (Ticket, ClientKey) {
    let reply = reply_with(&without_proof(&part_of(AS_REP)));
    match exchange(Proof::Password(password())).receive(&reply, now()) {
        Ok(Step::Done(ticket, key)) => (*ticket, key),
        Ok(Step::Send(_)) => unreachable!("the recorded answer is the last one"),
        Err(error) => panic!("the recorded answer does not verify, record it anew: {error}"),
    }
}

/// The key of the login.
pub fn key() -> ClientKey {
    static KEY: LazyLock<ClientKey> = LazyLock::new(|| recorded().1);
    KEY.clone()
}

/// A ticket of the login for the DC's LDAP service.
pub fn ldap_ticket() -> &'static LdapTicket {
    static TICKET: LazyLock<LdapTicket> = LazyLock::new(|| recorded().0.into_ldap_ticket());
    &TICKET
}

/// The recorded reply with another encrypted part, encrypted in the login's key as a KDC does it.
pub fn reply_with(part: &[u8]) -> Vec<u8> {
    let cipher = LOGIN_KEY.encrypt(3, &[part], entropy).expect("a message");
    let sealed = [tlv(0xa0, &tlv(0x02, &[18])), tlv(0xa2, &tlv(0x04, &cipher))].concat();
    let (head, _) = reply_parts(AS_REP);
    tlv(0x6b, &tlv(0x30, &[head, &tlv(0xa6, &tlv(0x30, &sealed))].concat()))
}

/// The encrypted part of a reply to the login, opened.
pub fn part_of(reply: &[u8]) -> Vec<u8> {
    let (_, sealed) = reply_parts(reply);
    // EncryptedData: etype, perhaps kvno, cipher.
    let cipher = field(content(content(sealed).0).0, 0xa2);
    LOGIN_KEY.decrypt(3, content(cipher).0).expect("our own key").to_vec()
}

/// The same with the flag enc-pa-rep cleared.
pub fn without_proof(part: &[u8]) -> Vec<u8> {
    let fields = content(content(part).0).0;
    let bits = content(field(fields, 0xa4)).0;
    // A count of unused bits, then the flags; it is bit 15.
    let at = bits.as_ptr() as usize - part.as_ptr() as usize + 2;
    let mut part = part.to_vec();
    part[at] &= !1;
    part
}

static LOGIN_KEY: LazyLock<Key> = LazyLock::new(|| {
    let salt = format!("EXAMPLE.COM{LOGIN}");
    Key::from_password(18, PASSWORD, salt.as_bytes(), None).expect("a key")
});

/// An AS-REP: its fields before `enc-part`, and `enc-part` with its tag.
fn reply_parts(reply: &[u8]) -> (&[u8], &[u8]) {
    let fields = content(content(reply).0).0;
    let mut rest = fields;
    while rest[0] != 0xa6 {
        rest = content(rest).1;
    }
    fields.split_at(fields.len() - rest.len())
}

/// The content of the field with that tag.
fn field(mut fields: &[u8], tag: u8) -> &[u8] {
    while fields[0] != tag {
        fields = content(fields).1;
    }
    content(fields).0
}

/// A DER value's content, and what follows the value.
fn content(der: &[u8]) -> (&[u8], &[u8]) {
    let (length, start) = match der[1] {
        short @ 0..0x80 => (usize::from(short), 2),
        long => {
            let octets = usize::from(long & 0x7f);
            (der[2..2 + octets].iter().fold(0, |length, octet| length << 8 | usize::from(*octet)), 2 + octets)
        }
    };
    (&der[start..start + length], &der[start + length..])
}

fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let octets = length.to_be_bytes();
    let octets = &octets[octets.iter().position(|octet| *octet != 0).unwrap_or(octets.len() - 1)..];
    let mut out = vec![tag];
    if length >= 0x80 {
        out.push(0x80 | octets.len() as u8);
    }
    out.extend(octets);
    out.extend(content);
    out
}

/// Decodes until the decoder wants more or gives up; every round must take something or end.
pub fn decode_all<D: Decoder>(mut decoder: D, bytes: &[u8]) {
    let mut source = BytesMut::from(bytes);
    for _ in 0..=bytes.len() {
        match decoder.decode(&mut source) {
            Ok(Some(_message)) => {}
            Ok(None) | Err(_) => return,
        }
    }
    panic!("more messages than bytes");
}

/// Our end of a sealed connection under a fixed key.
pub fn sealed() -> Sealed {
    Sealed::new(Sealer::new(tokens(Role::Initiator)))
}

/// A message as the DC's end of that connection sends it: two frames, since messages and frames need not coincide.
pub fn frames(message: &[u8]) -> Vec<u8> {
    let (first, second) = message.split_at(message.len() / 2);
    let mut out = Vec::new();
    for (number, part) in [first, second].into_iter().enumerate() {
        let token = tokens(Role::Acceptor).seal(number as u64, part).expect("a token");
        out.extend((token.len() as u32).to_be_bytes());
        out.extend(token);
    }
    out
}

fn tokens(role: Role) -> Tokens {
    Tokens::new(Key::new(18, &[7; 32]).expect("a key"), role, true, entropy)
}
