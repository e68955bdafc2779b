//! A KDC of a few lines answers the exchange, honestly and not.

use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use der::asn1::{Any, AnyRef, BitString, OctetString};
use der::{Decode, Encode, Tag, TagNumber};
use proptest::prelude::*;
use zeroize::Zeroizing;

use super::messages::{
    BoundedList, Checksum, EncKdcRepPart, EncryptedData, EncryptionKey, EtypeInfo2Entry, KdcRep, KdcReq,
    KerberosString, KrbError, PA_ENC_TIMESTAMP, PA_ETYPE_INFO2, PA_REQ_ENC_PA_REP, PaData, PrincipalName, SealedTicket,
    Text, time,
};
use super::*;
use crate::clock;

const SALT: &str = "EXAMPLE.COMsvc-fetcher";
const RIGHT: &str = "right";

fn now() -> SystemTime {
    clock::from_unix(1_790_000_000)
}

fn domain() -> Domain {
    "example.com".parse().unwrap()
}

fn client() -> Principal {
    login_principal("svc-fetcher", &domain())
}

fn server() -> Principal {
    ldap_service(&"dc1.example.com".parse().unwrap(), &domain())
}

fn password(text: &str) -> Password {
    Password::new(Zeroizing::new(text.to_owned()))
}

fn start(proof: Proof) -> (AsExchange, Vec<u8>) {
    AsExchange::start(client(), server(), proof, TicketOptions::default(), now(), counting).unwrap()
}

/// Octets that hardly come twice in a test, the same in each run.
pub(crate) fn counting(octets: &mut [u8]) {
    thread_local!(static DRAWN: std::cell::Cell<u64> = const { std::cell::Cell::new(0) });
    for octet in octets {
        DRAWN.set(DRAWN.get() + 1);
        *octet = DRAWN.get().wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[0];
    }
}

fn application(number: u32) -> Tag {
    Tag::Application { constructed: true, number: TagNumber(number) }
}

fn wrap(number: u32, message: &impl Encode) -> Vec<u8> {
    Any::new(application(number), message.to_der().unwrap()).unwrap().to_der().unwrap()
}

fn data(padata_type: i32, value: Vec<u8>) -> PaData {
    PaData { padata_type, padata_value: OctetString::new(value).unwrap() }
}

fn error(code: i32, methods: Option<Vec<PaData>>) -> Vec<u8> {
    wrap(30, &refusal(code, methods.map(|methods| methods.to_der().unwrap())))
}

#[test]
fn a_kdc_asks_for_no_fewer_rounds_of_key_derivation_than_the_standards_and_not_for_them_without_end() {
    for (etype, rounds, granted) in [
        (18, 4096, true),
        (18, 1 << 16, true),
        (18, (1 << 16) + 1, false),
        (18, u32::MAX, false),
        (18, 0, false),
        (18, 1, false),
        (18, 4095, false),
        (17, 4095, false),
        (17, 4096, true),
        (20, 32_767, false),
        (20, 32_768, true),
        (19, 4096, false),
    ] {
        let salt = Some(KerberosString(SALT.into()));
        let s2kparams = Some(OctetString::new(u32::to_be_bytes(rounds)).unwrap());
        let info = vec![EtypeInfo2Entry { etype, salt, s2kparams }].to_der().unwrap();
        let methods = vec![data(PA_ENC_TIMESTAMP, Vec::new()), data(PA_ETYPE_INFO2, info)];
        let (mut exchange, _) = start(Proof::Password(password(RIGHT)));
        let step = exchange.receive(&error(KdcError::PREAUTH_REQUIRED, Some(methods)), now());
        assert_eq!(step.is_ok(), granted, "enctype {etype}, {rounds} rounds");
    }
}

fn refusal(code: i32, data: Option<Vec<u8>>) -> KrbError {
    KrbError {
        pvno: 5,
        msg_type: 30,
        ctime: None,
        cusec: None,
        stime: time(now() + TEN_MINUTES).unwrap(),
        susec: 0,
        error_code: code,
        crealm: None,
        cname: None,
        realm: KerberosString("EXAMPLE.COM".into()),
        sname: PrincipalName::from(&server()),
        e_text: None,
        e_data: data.map(|data| OctetString::new(data).unwrap()),
    }
}

fn methods(enctype: i32, salt: &str, timestamp: bool) -> Vec<PaData> {
    let entry = EtypeInfo2Entry { etype: enctype, salt: Some(KerberosString(salt.into())), s2kparams: None };
    let mut methods = vec![data(PA_ETYPE_INFO2, vec![entry].to_der().unwrap())];
    if timestamp {
        methods.push(data(PA_ENC_TIMESTAMP, Vec::new()));
    }
    methods
}

fn request(bytes: &[u8]) -> KdcReq {
    let any = AnyRef::from_der(bytes).unwrap();
    KdcReq::from_der(any.value()).unwrap()
}

const TEN_MINUTES: Duration = Duration::from_secs(600);

fn has_proof(bytes: &[u8]) -> bool {
    request(bytes).padata.iter().any(|data| data.padata_type == PA_ENC_TIMESTAMP)
}

/// An AS-REP to `bytes`, with one thing changed by `lie`.
fn reply(bytes: &[u8], lie: Lie) -> Vec<u8> {
    reply_in(bytes, lie, &RIGHT_KEY, now(), b"opaque")
}

/// Enctype, password and salt.
#[derive(Clone, Copy, PartialEq, Eq)]
struct KeyOf(i32, &'static str, &'static str);

impl KeyOf {
    fn key(self) -> Key {
        static RIGHT: LazyLock<Key> = LazyLock::new(|| RIGHT_KEY.derive());
        if self == RIGHT_KEY { RIGHT.clone() } else { self.derive() }
    }

    fn derive(self) -> Key {
        Key::from_password(self.0, self.1, self.2.as_bytes(), None).unwrap()
    }
}

const RIGHT_KEY: KeyOf = KeyOf(18, RIGHT, SALT);

/// The same by a KDC whose clock says `authtime`, with another key of the client and a ticket with this inside.
fn reply_in(bytes: &[u8], lie: Lie, key: &KeyOf, authtime: SystemTime, inside: &[u8]) -> Vec<u8> {
    let request = request(bytes);
    let (salt, key) = (key.2, key.key());
    let session = session();
    let mut answered = bytes.to_vec();
    if lie == Lie::Request {
        answered.push(0);
    }
    let checksum = Checksum {
        cksumtype: key.checksum_type(),
        checksum: OctetString::new(key.checksum(56, &[&answered]).unwrap()).unwrap(),
    };
    let mut proofs = vec![data(PA_REQ_ENC_PA_REP, checksum.to_der().unwrap())];
    if lie == Lie::NoChecksum {
        proofs.clear();
    }
    let other: Principal = "evil/other@EXAMPLE.COM".parse().unwrap();
    let part = EncKdcRepPart {
        key: EncryptionKey { keytype: 18, keyvalue: OctetString::new(session.octets()).unwrap() },
        last_req: BoundedList::default(),
        nonce: request.req_body.nonce ^ u32::from(lie == Lie::Nonce),
        key_expiration: None,
        flags: BitString::from_bytes(&(1_u32 << 16 | 1 << 30).to_be_bytes()).unwrap(),
        authtime: time(authtime).unwrap(),
        starttime: None,
        endtime: time(authtime + Duration::from_secs(36_000)).unwrap(),
        renew_till: None,
        srealm: request.req_body.realm.clone(),
        sname: if lie == Lie::Server { PrincipalName::from(&other) } else { request.req_body.sname.clone() },
        caddr: None,
        encrypted_pa_data: Some(BoundedList(proofs)),
    };
    let mut plain = wrap(25, &part);
    plain.extend([0; 3]);
    let cipher = |key: &Key, usage, plain: &[u8]| EncryptedData {
        etype: key.enctype(),
        kvno: Some(1),
        cipher: OctetString::new(key.encrypt(usage, &[plain], counting).unwrap()).unwrap(),
    };
    let ticket = SealedTicket {
        tkt_vno: 5,
        realm: request.req_body.realm.clone(),
        sname: request.req_body.sname.clone(),
        enc_part: cipher(&service_key().key, 2, inside),
    };
    // Without pre-authentication it is the reply that says how the key is made.
    let padata = (!has_proof(bytes)).then(|| methods(key.enctype(), salt, false));
    let mut reply = KdcRep {
        pvno: 5,
        msg_type: 11,
        padata: padata.map(BoundedList),
        crealm: match lie {
            Lie::Realm => KerberosString("EVIL.COM".into()),
            Lie::RealmCase => KerberosString(request.req_body.realm.0.to_lowercase()),
            _ => request.req_body.realm.clone(),
        },
        cname: match (lie, request.req_body.cname.clone().unwrap()) {
            (Lie::Client, _) => PrincipalName::from(&other),
            (Lie::ClientCase, mut name) => {
                name.name_string.0[0].0 = name.name_string[0].0.to_uppercase();
                name
            }
            (_, asked) => asked,
        },
        ticket: Any::from_der(&wrap(1, &ticket)).unwrap(),
        enc_part: cipher(if lie == Lie::Key { &session } else { &key }, 3, &plain),
    };
    if lie == Lie::Enctype {
        reply.enc_part.etype = 17;
    }
    wrap(11, &reply)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lie {
    None,
    Client,
    ClientCase,
    Realm,
    RealmCase,
    Server,
    Nonce,
    Request,
    NoChecksum,
    Key,
    Enctype,
}

/// The session key of all tickets here.
fn session() -> Key {
    Key::new(18, &[7; 32]).unwrap()
}

/// The key of all services.
fn service_key() -> ClientKey {
    static KEY: LazyLock<ClientKey> =
        LazyLock::new(|| ClientKey::derive(18, &password("of the service"), b"salt", None).unwrap());
    KEY.clone()
}

/// Drives an exchange up to the request that holds a proof.
fn proven() -> (AsExchange, Vec<u8>) {
    let (mut exchange, first) = start(Proof::Password(password(RIGHT)));
    assert!(!has_proof(&first), "a guessed salt would count as a failed login");
    let told = error(KdcError::PREAUTH_REQUIRED, Some(methods(18, SALT, true)));
    let Step::Send(second) = exchange.receive(&told, now()).unwrap() else { panic!("no request") };
    assert!(has_proof(&second));
    (exchange, second)
}

#[test]
fn an_honest_kdc_gives_a_ticket() {
    let (mut exchange, request) = proven();
    let Step::Done(ticket, _) = exchange.receive(&reply(&request, Lie::None), now()).unwrap() else {
        panic!("no ticket");
    };
    assert_eq!(ticket.credentials.client, client());
    assert_eq!(ticket.credentials.server.to_string(), "ldap/dc1.example.com/example.com@EXAMPLE.COM");
    assert_eq!(ticket.credentials.endtime, 1_790_036_000);
}

#[test]
fn a_known_salt_or_a_kept_key_saves_the_first_round_trip() {
    let (mut exchange, request) = start(Proof::SaltedPassword(password(RIGHT), SALT.into()));
    assert!(has_proof(&request));
    let Step::Done(_, key) = exchange.receive(&reply(&request, Lie::None), now()).unwrap() else { panic!() };
    let (mut exchange, request) = start(Proof::Key(key));
    assert!(has_proof(&request));
    assert!(matches!(exchange.receive(&reply(&request, Lie::None), now()).unwrap(), Step::Done(..)));
}

#[test]
fn a_reply_that_lies_is_not_believed() {
    // The names in another case are those of a KDC that canonicalises, which the request does not ask for.
    for lie in [
        Lie::Client,
        Lie::ClientCase,
        Lie::Realm,
        Lie::RealmCase,
        Lie::Server,
        Lie::Nonce,
        Lie::Request,
        Lie::NoChecksum,
        Lie::Key,
        Lie::Enctype,
    ] {
        let (mut exchange, request) = proven();
        let outcome = exchange.receive(&reply(&request, lie), now());
        assert!(matches!(outcome, Err(ExchangeError::Invalid(_))), "{lie:?} was believed");
    }
}

#[test]
fn a_kdc_that_never_stops_asking_gets_one_proof_a_salt() {
    let (mut exchange, _) = proven();
    // The same salt again: the password is wrong. Another salt: it has had its chance.
    for salt in [SALT, "EXAMPLE.COMother"] {
        let told = error(KdcError::PREAUTH_FAILED, Some(methods(18, salt, true)));
        let refused = exchange.receive(&told, now());
        assert!(matches!(refused, Err(ExchangeError::Kdc(error)) if error.code == KdcError::PREAUTH_FAILED));
    }
}

#[test]
fn a_wrong_salt_is_corrected_by_what_the_kdc_tells() {
    let (mut exchange, first) = start(Proof::SaltedPassword(password(RIGHT), b"EXAMPLE.COMguess".to_vec()));
    assert!(has_proof(&first));
    let told = error(KdcError::PREAUTH_FAILED, Some(methods(18, SALT, true)));
    let Step::Send(second) = exchange.receive(&told, now()).unwrap() else { panic!("no request") };
    assert!(matches!(exchange.receive(&reply(&second, Lie::None), now()).unwrap(), Step::Done(..)));
}

#[test]
fn accounts_that_cannot_log_in_by_an_aes_password_are_told_apart() {
    let after = |methods| {
        let (mut exchange, _) = start(Proof::Password(password(RIGHT)));
        exchange.receive(&error(KdcError::PREAUTH_REQUIRED, Some(methods)), now())
    };
    assert!(matches!(after(methods(23, "", true)), Err(ExchangeError::Encryption(_))), "RC4 only");
    assert!(matches!(after(methods(18, SALT, false)), Err(ExchangeError::Preauthentication(_))), "smart card");
    assert!(matches!(after(Vec::new()), Err(ExchangeError::Preauthentication(_))), "FAST only");
}

/// The KDC's order is its preference (RFC 4120 section 5.2.7.5), of what there is a key for.
#[test]
fn the_key_is_of_the_first_enctype_of_the_kdc_that_we_have() {
    let entry = |etype| EtypeInfo2Entry { etype, salt: Some(KerberosString(SALT.into())), s2kparams: None };
    let asked = |proof: Proof, offered: &[i32]| {
        let (mut exchange, first) = start(proof);
        let named = request(&first).req_body.etype.0;
        let info: Vec<_> = offered.iter().map(|etype| entry(*etype)).collect();
        let methods = vec![data(PA_ETYPE_INFO2, info.to_der().unwrap()), data(PA_ENC_TIMESTAMP, Vec::new())];
        let Step::Send(second) = exchange.receive(&error(KdcError::PREAUTH_REQUIRED, Some(methods)), now()).ok()?
        else {
            return None;
        };
        let request = request(&second);
        let proof = request.padata.iter().find(|data| data.padata_type == PA_ENC_TIMESTAMP)?;
        let proof = EncryptedData::from_der(proof.padata_value.as_bytes()).unwrap();
        assert_eq!(request.req_body.etype.0, named);
        assert!(named.contains(&proof.etype) && !named.contains(&23), "RC4 is never asked for");
        let key = Key::from_password(proof.etype, RIGHT, SALT.as_bytes(), None).unwrap();
        assert!(key.decrypt(1, proof.cipher.as_bytes()).is_ok(), "a proof of another key");
        Some(proof.etype)
    };
    let by_password = |offered: &[i32]| asked(Proof::Password(password(RIGHT)), offered);
    assert_eq!(
        [by_password(&[20, 18]), by_password(&[23, 17, 18]), by_password(&[19])],
        [Some(20), Some(17), Some(19)]
    );
    assert_eq!(by_password(&[23, 3]), None);
    let keys = |enctypes: &[i32]| {
        let key = |enctype: &i32| Key::from_password(*enctype, RIGHT, SALT.as_bytes(), None).unwrap();
        Proof::Keys(enctypes.iter().map(key).collect())
    };
    assert_eq!([asked(keys(&[18, 17]), &[20, 17, 18]), asked(keys(&[18, 20]), &[20, 18])], [Some(17), Some(20)]);
    assert_eq!(asked(keys(&[18]), &[17]), None);
}

#[test]
fn a_kdc_with_another_clock_is_asked_again_by_its_clock_and_once() {
    // The test's KDC is ten minutes ahead.
    let (mut exchange, _) = start(Proof::SaltedPassword(password(RIGHT), SALT.into()));
    let skewed = error(KdcError::CLOCK_SKEW, None);
    let Step::Send(again) = exchange.receive(&skewed, now()).unwrap() else { panic!("not asked again") };
    assert_eq!(stamp(&again), clock::from_unix(1_790_000_600));
    let ahead = reply_in(&again, Lie::None, &RIGHT_KEY, now() + TEN_MINUTES, b"opaque");
    let Step::Done(ticket, _) = exchange.receive(&ahead, now()).unwrap() else { panic!() };
    assert_eq!(ticket.offset, 600);
    let ticket = ticket.into_service_ticket("HTTP/web".parse().unwrap());
    assert_eq!(ticket.expires_at(), clock::from_unix(1_790_036_000), "by our clock");

    let (mut exchange, _) = start(Proof::SaltedPassword(password(RIGHT), SALT.into()));
    assert!(matches!(exchange.receive(&skewed, now()), Ok(Step::Send(_))));
    let Err(ExchangeError::Kdc(told)) = exchange.receive(&skewed, now()) else { panic!("asked for ever") };
    assert_eq!(told.skew(now()), (Duration::from_secs(600), true));
}

#[test]
fn a_clock_that_cannot_be_believed_is_a_fault() {
    let days_ago = now() - Duration::from_secs(3 * 86_400);
    let (mut exchange, _) = start(Proof::SaltedPassword(password(RIGHT), SALT.into()));
    assert!(matches!(exchange.receive(&error(KdcError::CLOCK_SKEW, None), days_ago), Err(ExchangeError::Kdc(_))));
}

/// The time in the request's proof.
fn stamp(bytes: &[u8]) -> SystemTime {
    let request = request(bytes);
    let proof = request.padata.iter().find(|data| data.padata_type == PA_ENC_TIMESTAMP).unwrap();
    let proof = EncryptedData::from_der(proof.padata_value.as_bytes()).unwrap();
    let key = RIGHT_KEY.key();
    let plain = key.decrypt(1, proof.cipher.as_bytes()).unwrap();
    super::messages::PaEncTsEnc::from_der(&plain).unwrap().patimestamp.to_system_time()
}

/// A TGT of the test's KDC, and its answer to a TGS-REQ: a ticket for `server`, with one thing changed by `lie`.
fn tgt() -> Ticket {
    let (mut exchange, request) = proven();
    match exchange.receive(&reply(&request, Lie::None), now()).unwrap() {
        Step::Done(ticket, _) => *ticket,
        Step::Send(_) => panic!("no ticket"),
    }
}

fn granted(request: &[u8], tgt: &Ticket, server: &str, lie: Lie) -> Vec<u8> {
    let key = &tgt.credentials.session_key;
    let request = self::request(request);
    let (ap, _) = AnyRef::from_der_partial(request.padata[0].padata_value.as_bytes()).unwrap();
    let ap = super::messages::ApReq::from_der(ap.value()).unwrap();
    assert_eq!(ap.ticket.to_der().unwrap(), tgt.credentials.ticket);
    let authenticator = key.decrypt(7, ap.authenticator.cipher.as_bytes()).unwrap();
    let authenticator = AnyRef::from_der(&authenticator).unwrap();
    let authenticator = super::messages::Authenticator::from_der(authenticator.value()).unwrap();
    assert!(authenticator.cname.is(&authenticator.crealm, &client()));
    let checksum = authenticator.cksum.unwrap();
    let body = request.req_body.to_der().unwrap();
    assert!(key.verifies(6, &[&body], checksum.checksum.as_bytes()).unwrap());
    let (name, realm) = server.rsplit_once('@').unwrap();
    let server = Principal::new(2, name.split('/'), realm);
    let other: Principal = "evil@EXAMPLE.COM".parse().unwrap();
    let (session, other_key) = (session(), service_key().key);
    let part = EncKdcRepPart {
        key: EncryptionKey { keytype: 18, keyvalue: OctetString::new(session.octets()).unwrap() },
        last_req: BoundedList::default(),
        nonce: request.req_body.nonce ^ u32::from(lie == Lie::Nonce),
        key_expiration: None,
        flags: BitString::from_bytes(&[0x40, 0, 0, 0]).unwrap(),
        authtime: time(now()).unwrap(),
        starttime: None,
        endtime: time(now() + Duration::from_secs(36_000)).unwrap(),
        renew_till: None,
        srealm: KerberosString(server.realm.clone()),
        sname: PrincipalName::from(&server),
        caddr: None,
        encrypted_pa_data: None,
    };
    let sealed = |key: &Key, plain: &[u8]| EncryptedData {
        etype: if lie == Lie::Enctype { 17 } else { 18 },
        kvno: None,
        cipher: OctetString::new(key.encrypt(8, &[plain], counting).unwrap()).unwrap(),
    };
    let (realm, sname) = (KerberosString(server.realm.clone()), PrincipalName::from(&server));
    let ticket = SealedTicket { tkt_vno: 5, realm, sname, enc_part: sealed(&session, b"opaque") };
    let reply = KdcRep {
        pvno: 5,
        msg_type: 13,
        padata: None,
        crealm: KerberosString(if lie == Lie::Realm { "EVIL.COM" } else { "EXAMPLE.COM" }.into()),
        cname: PrincipalName::from(&if lie == Lie::Client { other } else { client() }),
        ticket: Any::from_der(&wrap(1, &ticket)).unwrap(),
        enc_part: sealed(if lie == Lie::Key { &other_key } else { key }, &wrap(26, &part)),
    };
    wrap(13, &reply)
}

fn ask(server: &str, lie: Lie) -> Result<Granted, ExchangeError> {
    let (tgt, spn) = (tgt(), "HTTP/web.example.com".parse().unwrap());
    let (exchange, request) = TgsExchange::start(&tgt, service(&spn, &domain()), now(), counting).unwrap();
    exchange.receive(&granted(&request, &tgt, server, lie))
}

#[test]
fn a_kdc_gives_a_ticket_for_a_service_or_refers_to_another_realm() {
    let Granted::Ticket(ticket) = ask("http/WEB.example.com@EXAMPLE.COM", Lie::None).unwrap() else { panic!() };
    assert_eq!(ticket.credentials.server.to_string(), "HTTP/web.example.com@EXAMPLE.COM", "as it was asked for");
    let Granted::Referral(domain, tgs) = ask("krbtgt/OTHER.TEST@EXAMPLE.COM", Lie::None).unwrap() else { panic!() };
    assert_eq!((domain.as_str(), tgs.credentials.endtime), ("other.test", 1_790_036_000));
    let (_, request) = TgsExchange::start(&tgs, service(&"a/b".parse().unwrap(), &domain), now(), counting).unwrap();
    assert_eq!(self::request(&request).req_body.realm.0, "OTHER.TEST");
}

#[test]
fn an_answer_about_a_service_that_lies_is_not_believed() {
    for lie in [Lie::Client, Lie::Realm, Lie::Nonce, Lie::Key, Lie::Enctype] {
        let outcome = ask("HTTP/web.example.com@EXAMPLE.COM", lie);
        assert!(matches!(outcome, Err(ExchangeError::Invalid(_))), "{lie:?} was believed");
    }
    let others = [
        "HTTP/evil.example.com@EXAMPLE.COM",
        "HTTP/web.example.com@OTHER.TEST",
        "krbtgt/OTHER.TEST@THIRD.TEST",
        "krbtgt/other.test@EXAMPLE.COM",
        "krbtgt/[realms]@EXAMPLE.COM",
    ];
    for other in others {
        assert!(matches!(ask(other, Lie::None), Err(ExchangeError::Invalid(_))), "{other} was believed");
    }
    let tgt = tgt();
    let (exchange, _) = TgsExchange::start(&tgt, server(), now(), counting).unwrap();
    let refused = exchange.receive(&error(KdcError::SERVICE_UNKNOWN, None));
    assert!(matches!(refused, Err(ExchangeError::Kdc(error)) if error.code == KdcError::SERVICE_UNKNOWN));
}

/// A client that does not know the realm of a host looks under the empty one.
#[test]
fn a_cache_holds_the_services_of_its_own_client_and_those_of_other_realms_twice() {
    let spn = || "HTTP/web.example.com".parse::<Spn>().unwrap();
    let Granted::Ticket(near) = ask("HTTP/web.example.com@EXAMPLE.COM", Lie::None).unwrap() else { panic!() };
    let (mut far, mut foreign) = (tgt(), tgt());
    far.credentials.server = Principal::new(2, ["HTTP", "far.other.test"], "OTHER.TEST");
    foreign.credentials.client = "evil@EXAMPLE.COM".parse().unwrap();
    let mut services = [near, far, foreign].map(|ticket| ticket.into_service_ticket(spn()));
    let mut own = tgt();
    for ticket in std::iter::once(&mut own).chain(services.iter_mut().map(ServiceTicket::ticket)) {
        ticket.credentials.client = match ticket.credentials.client.name().as_str() {
            "evil" => continue,
            _ => gmsa_principal("WebApp01$", &domain()),
        };
    }
    own.credentials.server = ticket_granting_service(&domain());
    let image = own.into_gmsa_tgt(&"WebApp01".parse().unwrap()).unwrap().ccache(&services);
    let cache = ccache::Cache::decode(image.bytes()).unwrap();
    assert!(cache.is_whole && cache.principal.to_string() == "WebApp01$@EXAMPLE.COM");
    let servers: Vec<_> = cache.entries.iter().map(|entry| entry.server.to_string()).collect();
    assert_eq!(
        servers[1..],
        ["HTTP/web.example.com@EXAMPLE.COM", "HTTP/far.other.test@", "HTTP/far.other.test@OTHER.TEST"]
    );
}

/// As Samba sends it, one KERB-ERROR-DATA, and as METHOD-DATA; both captured or written after MS-KILE 2.2.1.
#[test]
fn the_state_of_an_account_is_read_from_the_error_data() {
    let locked = || data(3, [0xc000_0234_u32.to_le_bytes(), [0; 4], 1_u32.to_le_bytes()].concat());
    let status = |data: Vec<u8>| KdcError::from(&refusal(18, Some(data)));
    for bytes in [locked().to_der().unwrap(), vec![locked()].to_der().unwrap()] {
        let told = status(bytes);
        assert_eq!((told.status, told.status_in_words()), (Some(0xc000_0234), Some("the account is locked")));
        let words = "the KDC answered KDC_ERR_CLIENT_REVOKED (18), STATUS_ACCOUNT_LOCKED_OUT (0xc0000234)";
        assert_eq!(told.to_string(), words);
    }
    for bytes in [vec![], vec![0x30, 0], data(3, vec![1, 2]).to_der().unwrap(), data(2, vec![0; 8]).to_der().unwrap()] {
        assert_eq!(status(bytes).status, None);
    }
    let odd = status(data(3, vec![1, 0, 0, 0xc0]).to_der().unwrap());
    assert!(odd.to_string().ends_with("NTSTATUS (0xc0000001)") && odd.status_in_words().is_none(), "{odd}");
}

#[test]
fn the_nonce_has_31_bits() {
    let (options, proof) = (TicketOptions::default(), Proof::Password(password(RIGHT)));
    let (_, first) = AsExchange::start(client(), server(), proof, options, now(), |octets| octets.fill(0xff)).unwrap();
    assert_eq!(request(&first).req_body.nonce, 0x7fff_ffff);
}

/// Computed by `lab/gmsa.py vectors`, an implementation that shares nothing with ours: a password that holds a
/// newline, a NUL and lone surrogates.
#[test]
fn keys_of_a_managed_password_are_those_of_an_independent_implementation() {
    let vectors: serde_json::Value = serde_json::from_str(include_str!("../../lab/vectors.json")).unwrap();
    let account: Account = vectors["account"].as_str().unwrap().parse().unwrap();
    let salt = gmsa_salt(&account, &domain());
    assert_eq!(String::from_utf8(salt.clone()).unwrap(), vectors["salt"].as_str().unwrap());
    for which in ["current", "previous"] {
        let vector = &vectors[which];
        let password = Password::from_utf16le(&unhex(&vector["utf16le"]));
        assert_eq!(password.as_str().as_bytes(), unhex(&vector["utf8"]));
        for (enctype, name) in [(18, "aes256"), (17, "aes128")] {
            let key = ClientKey::derive(enctype, &password, &salt, None).unwrap();
            assert_eq!(key.key.octets(), unhex(&vector[name]), "{which} {name}");
        }
    }
}

#[test]
fn nothing_secret_is_shown() {
    let key = ClientKey::derive(17, &password("hush-hush"), b"salt", None).unwrap();
    let shown = format!("{:?} {:?}", password("hush-hush"), key);
    assert_eq!(shown, "Password(redacted) ClientKey(enctype 17)");
}

pub(crate) fn unhex(value: &serde_json::Value) -> Vec<u8> {
    let text = value.as_str().unwrap().as_bytes();
    text.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// what others have written
mod recorded;

/// KDCs of other kinds: what Windows does, keys and clocks that change, impostors.
mod kinds;

proptest! {
    #[test]
    fn no_reply_panics(reply in proptest::collection::vec(any::<u8>(), 0..400)) {
        let (mut exchange, _) = start(Proof::Password(password(RIGHT)));
        let _ = exchange.receive(&reply, now());
    }

    #[test]
    fn a_reply_with_one_octet_changed_is_never_believed_wrongly(at in any::<proptest::sample::Index>(), flip in 1_u8..) {
        let (mut exchange, request) = proven();
        let mut reply = reply(&request, Lie::None);
        let at = at.index(reply.len());
        reply[at] ^= flip;
        if let Ok(Step::Done(ticket, _)) = exchange.receive(&reply, now()) {
            // What may differ is only what nobody relies on: the opaque ticket, the key version.
            prop_assert_eq!(&ticket.credentials.client, &client());
            prop_assert_eq!(ticket.credentials.endtime, 1_790_036_000);
        }
    }
}
