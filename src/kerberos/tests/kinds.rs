//! KDCs of other kinds: what Windows does (in bytes of our own encoder), keys and clocks that change, impostors.

use der::asn1::Null;

use super::super::messages::{
    AuthorizationData, EncTicketPart, EncryptionKey, FORWARDABLE, HostAddress, LastReq, PA_ENC_TIMESTAMP, RENEWABLE,
    flags,
};
use super::*;

fn send(step: Result<Step, ExchangeError>) -> Vec<u8> {
    match step.unwrap() {
        Step::Send(request) => request,
        Step::Done(..) => panic!("it is over"),
    }
}

fn done(step: Result<Step, ExchangeError>) -> (Ticket, ClientKey) {
    match step.unwrap() {
        Step::Done(ticket, key) => (*ticket, key),
        Step::Send(_) => panic!("it goes on"),
    }
}

fn info(entries: &[(i32, Option<&str>)]) -> PaData {
    let entry = |(etype, salt): &(i32, Option<&str>)| EtypeInfo2Entry {
        etype: *etype,
        salt: salt.map(|salt| KerberosString(salt.into())),
        s2kparams: None,
    };
    data(PA_ETYPE_INFO2, entries.iter().map(entry).collect::<Vec<_>>().to_der().unwrap())
}

/// The enctype of a request's proof.
fn proof(bytes: &[u8]) -> Option<i32> {
    let request = request(bytes);
    let proof = request.padata.iter().find(|data| data.padata_type == PA_ENC_TIMESTAMP)?;
    Some(EncryptedData::from_der(proof.padata_value.as_bytes()).unwrap().etype)
}

/// Windows Server 2016 and 2019: ETYPE-INFO2 among other things and in any place, with DES, RC4 and enctypes of its
/// own, negative ones; a salt of a computer, or of an account that was renamed.
#[test]
fn what_windows_says_of_enctypes_is_understood() {
    let empty = |kind| data(kind, Vec::new());
    let one = info(&[(18, Some(SALT)), (23, None)]);
    let other = info(&[(-133, None), (-128, None), (3, Some("x")), (18, Some(SALT)), (23, None)]);
    let legacy = data(11, vec![0x30, 0]);
    for methods in [
        vec![one.clone(), empty(2), empty(16), empty(15)],
        vec![legacy, other.clone(), empty(2), empty(16), empty(15)],
        vec![empty(136), empty(2), other],
    ] {
        let (mut exchange, _) = start(Proof::Password(password(RIGHT)));
        let second = send(exchange.receive(&error(KdcError::PREAUTH_REQUIRED, Some(methods)), now()));
        assert_eq!(proof(&second), Some(18));
        done(exchange.receive(&reply(&second, Lie::None), now()));
    }
    let renamed = "EXAMPLE.COMhostwin-20eu6tpgp8.example.com";
    let (mut exchange, _) = start(Proof::Password(password(RIGHT)));
    let methods = vec![info(&[(18, Some(renamed))]), empty(2)];
    let second = send(exchange.receive(&error(KdcError::PREAUTH_REQUIRED, Some(methods)), now()));
    let reply = reply_in(&second, Lie::None, &KeyOf(18, RIGHT, renamed), now(), b"opaque");
    let (_, key) = done(exchange.receive(&reply, now()));
    assert_eq!(key.salt(), renamed.as_bytes(), "a keytab needs the salt that the KDC says");
}

/// Windows names the enctype and the salt when it refuses a proof, and nothing else.
#[test]
fn a_refusal_that_names_the_salt_only_is_understood() {
    let refusal = |salt| error(KdcError::PREAUTH_FAILED, Some(vec![info(&[(18, Some(salt)), (23, None)])]));
    let (mut exchange, first) = start(Proof::SaltedPassword(password(RIGHT), b"EXAMPLE.COMguess".to_vec()));
    assert_eq!(proof(&first), Some(18));
    let second = send(exchange.receive(&refusal(SALT), now()));
    let (_, key) = done(exchange.receive(&reply(&second, Lie::None), now()));
    assert_eq!(key.salt(), SALT.as_bytes());
    // The salt was right: so the password is not, and that is the end of it.
    let (mut exchange, _) = start(Proof::SaltedPassword(password(RIGHT), SALT.into()));
    let refused = exchange.receive(&refusal(SALT), now());
    assert!(matches!(refused, Err(ExchangeError::Kdc(KdcError { code: KdcError::PREAUTH_FAILED, .. }))));
}

/// A gMSA without AES-256, of a KDC that does not say so when it refuses: it is asked without a proof, once.
#[test]
fn a_guessed_enctype_is_corrected_by_a_request_without_a_proof() {
    let key = KeyOf(17, RIGHT, SALT);
    for code in [KdcError::PREAUTH_FAILED, KdcError::ENCTYPE_UNSUPPORTED] {
        let (mut exchange, first) = start(Proof::SaltedPassword(password(RIGHT), SALT.into()));
        assert_eq!(proof(&first), Some(18));
        let bare = send(exchange.receive(&error(code, None), now()));
        assert_eq!(proof(&bare), None);
        let told = error(KdcError::PREAUTH_REQUIRED, Some(methods(17, SALT, true)));
        let third = send(exchange.receive(&told, now()));
        assert_eq!(proof(&third), Some(17));
        let (_, proven) = done(exchange.receive(&reply_in(&third, Lie::None, &key, now(), b"opaque"), now()));
        assert_eq!((proven.enctype(), proven.salt()), (17, SALT.as_bytes()));
        // Only once: then a refusal is one.
        let (mut exchange, _) = start(Proof::SaltedPassword(password(RIGHT), SALT.into()));
        send(exchange.receive(&error(code, None), now()));
        send(exchange.receive(&told, now()));
        let refused = exchange.receive(&error(code, None), now());
        assert!(matches!(refused, Err(ExchangeError::Kdc(error)) if error.code == code));
    }
}

/// The password is wrong, and nothing of what the KDC says without a proof tells otherwise.
#[test]
fn a_wrong_password_stays_wrong_after_a_request_without_a_proof() {
    let nothing = vec![data(PA_ENC_TIMESTAMP, Vec::new())];
    for methods in [methods(18, SALT, true), nothing] {
        let (mut exchange, _) = start(Proof::SaltedPassword(password(RIGHT), SALT.into()));
        send(exchange.receive(&error(KdcError::PREAUTH_FAILED, None), now()));
        let refused = exchange.receive(&error(KdcError::PREAUTH_REQUIRED, Some(methods)), now());
        assert!(matches!(refused, Err(ExchangeError::Kdc(error)) if error.code == KdcError::PREAUTH_FAILED));
    }
}

/// A kept key has no other way, and a login's password is never sent twice.
#[test]
fn no_other_proof_is_made_of_a_kept_key_or_for_a_login() {
    let key = ClientKey::derive(18, &password(RIGHT), SALT.as_bytes(), None).unwrap();
    for code in [KdcError::PREAUTH_FAILED, KdcError::ENCTYPE_UNSUPPORTED] {
        for methods in [None, Some(methods(17, SALT, true))] {
            let (mut exchange, _) = start(Proof::Key(key.clone()));
            let refused = exchange.receive(&error(code, methods.clone()), now());
            assert!(matches!(refused, Err(ExchangeError::Kdc(error)) if error.code == code));
            let (mut exchange, _) = proven();
            let refused = exchange.receive(&error(code, methods), now());
            assert!(matches!(refused, Err(ExchangeError::Kdc(error)) if error.code == code));
        }
    }
}

/// The reply comes in an enctype of the list, so only those are named that there is a key of.
#[test]
fn only_enctypes_that_there_is_a_key_of_are_asked_for() {
    let key = |enctype| Key::from_password(enctype, RIGHT, SALT.as_bytes(), None).unwrap();
    let kept = |enctype| ClientKey { key: key(enctype), salt: SALT.into() };
    for (proof, expected) in [
        (Proof::Password(password(RIGHT)), &[18, 17, 20, 19][..]),
        (Proof::SaltedPassword(password(RIGHT), SALT.into()), &[18, 17, 20, 19]),
        (Proof::Keys(vec![key(17), key(18)]), &[18, 17]),
        (Proof::Keys(vec![key(20)]), &[20]),
        (Proof::Key(kept(17)), &[17]),
    ] {
        assert_eq!(request(&start(proof).1).req_body.etype.0, expected);
    }
}

/// Windows sets enc-pa-rep in every AS-REP. A reply with the flag is not believed without the proof, so every request
/// must ask for that.
#[test]
fn every_request_asks_the_kdc_to_prove_which_one_it_answers() {
    let asks = |bytes: &[u8]| request(bytes).padata.iter().any(|data| data.padata_type == PA_REQ_ENC_PA_REP);
    let (mut exchange, first) = start(Proof::SaltedPassword(password(RIGHT), SALT.into()));
    let second = send(exchange.receive(&error(KdcError::CLOCK_SKEW, None), now()));
    let third = send(exchange.receive(&error(KdcError::PREAUTH_FAILED, None), now()));
    let told = error(KdcError::PREAUTH_REQUIRED, Some(methods(17, SALT, true)));
    let fourth = send(exchange.receive(&told, now()));
    let all = [first, second, third, fourth];
    assert!(all.iter().all(|request| asks(request)));
    let mut nonces = all.map(|bytes| request(&bytes).req_body.nonce).to_vec();
    nonces.sort_unstable();
    nonces.dedup();
    assert_eq!(nonces.len(), 4, "each has a number of its own");
}

/// A reply to an earlier request of the same exchange is none to the last one.
#[test]
fn an_answer_to_an_earlier_request_is_not_believed() {
    let (mut exchange, first) = start(Proof::SaltedPassword(password(RIGHT), SALT.into()));
    send(exchange.receive(&error(KdcError::CLOCK_SKEW, None), now()));
    let outcome = exchange.receive(&reply(&first, Lie::None), now());
    assert!(matches!(outcome, Err(ExchangeError::Invalid(what)) if what.contains("nonce")));
}

/// Who is on the way can forge an error, but not the time in a ticket.
#[test]
fn a_forged_clock_is_not_believed_beyond_the_next_request() {
    for forged in [-300_i64, 285, 3600] {
        let (mut exchange, _) = start(Proof::SaltedPassword(password(RIGHT), SALT.into()));
        let skewed = KrbError { stime: time(clock::shifted(now(), forged)).unwrap(), ..refusal(37, None) };
        let again = send(exchange.receive(&wrap(30, &skewed), now()));
        assert_eq!(stamp(&again), clock::shifted(now(), forged));
        let (ticket, _) = done(exchange.receive(&reply(&again, Lie::None), now()));
        assert_eq!(ticket.offset, 0, "forged by {forged}");
        assert_eq!(
            ticket.into_service_ticket("a/b".parse().unwrap()).expires_at(),
            now() + Duration::from_secs(36_000)
        );
    }
    // The same with the error that every login begins with.
    let (mut exchange, _) = start(Proof::Password(password(RIGHT)));
    let told = error(KdcError::PREAUTH_REQUIRED, Some(methods(18, SALT, true)));
    let second = send(exchange.receive(&told, now()));
    assert_eq!(stamp(&second), now() + TEN_MINUTES);
    assert_eq!(done(exchange.receive(&reply(&second, Lie::None), now())).0.offset, 0);
}

/// The offset is what cannot be explained by the time that the exchange took.
#[test]
fn a_proven_clock_counts_with_what_the_exchange_took() {
    for (took, ahead, expected) in [
        (0, 0, 0),
        (0, 59, 0),
        (0, 60, 60),
        (0, -59, 0),
        (0, -60, -60),
        (120, 0, 0),
        (120, 100, 0),
        (120, 600, 480),
        (120, -600, -600),
        (-30, 0, 0),
        (0, 9 * 86_400, 9 * 86_400),
    ] {
        let (mut exchange, request) = start(Proof::SaltedPassword(password(RIGHT), SALT.into()));
        let reply = reply_in(&request, Lie::None, &RIGHT_KEY, clock::shifted(now(), ahead), b"opaque");
        let (ticket, _) = done(exchange.receive(&reply, clock::shifted(now(), took)));
        assert_eq!(ticket.offset, expected, "{took} {ahead}");
    }
}

#[test]
fn the_options_of_a_ticket_are_those_asked_for() {
    for (forwardable, renewable, lifetime) in [(false, false, None), (true, false, Some(600)), (true, true, Some(60))] {
        let lifetime = lifetime.map(Duration::from_secs);
        let options = TicketOptions { lifetime, forwardable, renewable };
        let proof = Proof::Password(password(RIGHT));
        let (_, first) = AsExchange::start(client(), server(), proof, options, now(), counting).unwrap();
        let body = request(&first).req_body;
        let set = flags(&body.kdc_options);
        assert_eq!((set & FORWARDABLE != 0, set & RENEWABLE != 0), (forwardable, renewable));
        assert_eq!(set & !(FORWARDABLE | RENEWABLE), 0, "above all not *canonicalize*");
        assert_eq!(body.rtime.is_some(), renewable);
        assert_eq!(lifetime.map(|life| now() + life), lifetime.map(|_| body.till.to_system_time()));
    }
    // A service ticket is forwardable if the TGT is, and never renewable.
    let mut tgt = tgt();
    for given in [0, FORWARDABLE, RENEWABLE, FORWARDABLE | RENEWABLE] {
        tgt.credentials.flags = given;
        let (_, asked) = TgsExchange::start(&tgt, server(), now(), counting).unwrap();
        let set = flags(&request(&asked).req_body.kdc_options);
        assert_eq!(set & (FORWARDABLE | RENEWABLE), given & FORWARDABLE);
    }
}

/// `userPrincipalName`: one component of type 10, whose salt only the KDC knows.
#[test]
fn an_enterprise_name_is_proven_only_with_a_salt_that_the_kdc_says() {
    let alice = enterprise_principal("alice@corp.example.net", &domain());
    let begin = || {
        let (options, proof) = (TicketOptions::default(), Proof::Password(password(RIGHT)));
        AsExchange::start(alice.clone(), server(), proof, options, now(), counting).unwrap()
    };
    let (mut exchange, first) = begin();
    let asked = request(&first).req_body;
    let cname = asked.cname.unwrap();
    assert_eq!((cname.name_type, cname.name_string.len(), asked.realm.0.as_str()), (10, 1, "EXAMPLE.COM"));
    assert_eq!(cname.name_string[0].0, "alice@corp.example.net");
    assert_eq!(flags(&asked.kdc_options), 0, "the KDC shall echo the name");
    let told =
        |salt| error(KdcError::PREAUTH_REQUIRED, Some(vec![info(&[(18, salt)]), data(PA_ENC_TIMESTAMP, vec![])]));
    let second = send(exchange.receive(&told(Some(SALT)), now()));
    let (ticket, _) = done(exchange.receive(&reply(&second, Lie::None), now()));
    assert_eq!(ticket.credentials.client, alice);
    let (mut exchange, _) = begin();
    let outcome = exchange.receive(&told(None), now());
    assert!(matches!(outcome, Err(ExchangeError::Invalid(what)) if what.contains("no salt")));
    // Nor is a reply believed that needed no proof: its key would be guessed.
    let (mut exchange, first) = begin();
    let bare = reply_in(&first, Lie::None, &RIGHT_KEY, now(), b"opaque");
    let (ticket, _) = done(exchange.receive(&bare, now()));
    assert_eq!(ticket.credentials.client, alice, "it says the salt itself");
    let (mut exchange, _) = begin();
    let wrong = error(KdcError::WRONG_REALM, None);
    assert!(
        matches!(exchange.receive(&wrong, now()), Err(ExchangeError::Kdc(told)) if told.name() == "KDC_ERR_WRONG_REALM")
    );
}

#[test]
fn an_account_without_preauthentication_gets_a_ticket_by_the_salt_in_the_reply() {
    let other = KeyOf(17, RIGHT, "EXAMPLE.COMother");
    let (mut exchange, first) = start(Proof::Password(password(RIGHT)));
    let (_, key) = done(exchange.receive(&reply_in(&first, Lie::None, &other, now(), b"opaque"), now()));
    assert_eq!((key.enctype(), key.salt()), (17, &b"EXAMPLE.COMother"[..]));
}

/// *Fail unarmored authentication requests*, smart cards: ways that there is no password for.
#[test]
fn a_kdc_that_takes_no_timestamp_is_told_apart() {
    for methods in [vec![136], vec![136, 133], vec![16, 15, 14], vec![]] {
        for with_info in [false, true] {
            let mut methods: Vec<_> = methods.iter().map(|kind| data(*kind, Vec::new())).collect();
            methods.extend(with_info.then(|| info(&[(18, Some(SALT))])));
            let (mut exchange, _) = start(Proof::Password(password(RIGHT)));
            let outcome = exchange.receive(&error(KdcError::PREAUTH_REQUIRED, Some(methods)), now());
            assert!(matches!(outcome, Err(ExchangeError::Preauthentication(_))));
        }
    }
}

#[test]
fn an_ntstatus_reads_with_the_code_it_comes_with() {
    let told = |code, status: u32| {
        let extended = data(3, [status.to_le_bytes(), [0; 4], 1_u32.to_le_bytes()].concat());
        let error = KdcError::from(&refusal(code, Some(extended.to_der().unwrap())));
        error.status_in_words().unwrap_or_else(|| error.code_in_words())
    };
    assert!(told(18, 0xc000_006f).contains("time of the day"));
    assert!(told(12, 0xc000_02fa).contains("smart card"));
    assert!(told(12, 0xc000_0413).contains("silo") && told(12, 0xc000_0413).contains("selective authentication"));
    assert!(told(12, 0xc000_0070).contains("authentication policy"));
    assert_eq!(told(32, 0xc000_0133), "the ticket has expired");
    assert_eq!(told(37, 0xc000_0133), "the clocks differ too much");
    assert_eq!(told(24, 0xc000_0071), "the password is wrong, and it has expired");
    assert_eq!(told(23, 0xc000_0071), "the password has expired");
    // Harmless error data, as Windows sends it.
    for bytes in [&[0x30, 0x0b, 0x30, 0x09, 0xa0, 3, 2, 1, 0x80, 0xa1, 2, 4, 0][..], &[0x30, 5, 0xa1, 3, 2, 1, 2]] {
        assert_eq!(KdcError::from(&refusal(7, Some(bytes.to_vec()))).status, None);
    }
}

#[test]
fn every_code_of_the_rfc_has_a_name_and_words() {
    let known = (0..=29).chain(31..=42).chain(44..=52).chain(60..=69).chain(70..=76);
    for code in known {
        let told = KdcError::from(&refusal(code, None));
        assert!(told.name().starts_with('K') && told.code_in_words() != "see its answer", "{code}");
    }
    let odd = KdcError::from(&refusal(-7, None));
    assert_eq!(odd.to_string(), "the KDC answered an unknown code (-7)");
}

/// Text of a KDC's own is shortened and cleaned, in whatever encoding, and never a reason not to read the rest.
#[test]
fn text_of_a_kdc_is_for_people() {
    let text = |octets: &[u8]| {
        let bytes = wrap(30, &KrbError { e_text: Some(Text("##".into())), ..refusal(60, None) });
        let at = bytes.windows(6).position(|window| window == [0xab, 4, 0x1b, 2, b'#', b'#']).unwrap();
        let mut bytes = [&bytes[..at + 4], octets].concat();
        bytes[1] = u8::try_from(bytes.len() - 2).unwrap();
        bytes[3] = bytes[1] - 2;
        AsExchange::refusal(&bytes).unwrap().unwrap().text
    };
    assert_eq!(text(b"\xe9\x07").unwrap(), "\u{fffd}\\u{7}");
    let long = KrbError { e_text: Some(Text("x".repeat(5000))), ..refusal(60, None) };
    let told = AsExchange::refusal(&wrap(30, &long)).unwrap().unwrap();
    assert_eq!(told.text.unwrap().len(), 200);
}

/// What a stranger can make us hold is bounded.
#[test]
fn lists_and_names_have_bounds() {
    let told = |methods: Vec<PaData>| {
        let (mut exchange, _) = start(Proof::Password(password(RIGHT)));
        exchange.receive(&error(KdcError::PREAUTH_REQUIRED, Some(methods)), now())
    };
    let padded = |count| {
        let mut methods = methods(18, SALT, true);
        methods.extend((methods.len()..count).map(|_| data(2, Vec::new())));
        methods
    };
    assert!(told(padded(64)).is_ok());
    assert!(matches!(told(padded(65)), Err(ExchangeError::Kdc(_))), "such data says nothing");
    let entries = |count: usize| vec![info(&vec![(18, Some(SALT)); count]), data(2, Vec::new())];
    assert!(told(entries(64)).is_ok() && told(entries(65)).is_err());
    let salt = |length| vec![info(&[(18, Some(&*"s".repeat(length)))]), data(2, Vec::new())];
    assert!(told(salt(1024)).is_ok() && told(salt(1025)).is_err());

    let with = |change: &dyn Fn(&mut KdcRep)| {
        let (mut exchange, request) = proven();
        let bytes = reply(&request, Lie::None);
        let mut reply = KdcRep::from_der(AnyRef::from_der(&bytes).unwrap().value()).unwrap();
        change(&mut reply);
        exchange.receive(&wrap(11, &reply), now()).is_ok()
    };
    let name = |length: usize| KerberosString("n".repeat(length));
    assert!(with(&|_| {}));
    assert!(with(&|reply| reply.padata = Some(BoundedList(vec![data(2, Vec::new()); 64]))));
    assert!(!with(&|reply| reply.padata = Some(BoundedList(vec![data(2, Vec::new()); 65]))));
    assert!(!with(&|reply| reply.cname.name_string = BoundedList(vec![name(1); 65])));
    assert!(!with(&|reply| reply.crealm = name(1025)));
    // Lists within what is encrypted, and elsewhere, are of the same type.
    let octets = || OctetString::new(Vec::new()).unwrap();
    fn is_bounded<T: Encode>(value: T) -> bool
    where
        BoundedList<T>: for<'a> Decode<'a, Error = der::Error>,
    {
        let one = value.to_der().unwrap();
        let list = |count| Any::new(Tag::Sequence, one.repeat(count)).unwrap().to_der().unwrap();
        BoundedList::<T>::from_der(&list(64)).is_ok() && BoundedList::<T>::from_der(&list(65)).is_err()
    }
    assert!(is_bounded(LastReq { lr_type: 0, lr_value: time(now()).unwrap() }));
    assert!(is_bounded(HostAddress { addr_type: 2, address: octets() }));
    assert!(is_bounded(AuthorizationData { ad_type: 1, ad_data: octets() }));
}

/// What a ticket tells its service, with this session key.
fn inside(key: &Key) -> Vec<u8> {
    let part = EncTicketPart {
        flags: BitString::from_bytes(&[0; 4]).unwrap(),
        key: EncryptionKey { keytype: key.enctype(), keyvalue: OctetString::new(key.octets()).unwrap() },
        crealm: KerberosString("EXAMPLE.COM".into()),
        cname: PrincipalName::from(&client()),
        transited: Any::encode_from(&Null).unwrap(),
        authtime: time(now()).unwrap(),
        starttime: None,
        endtime: time(now()).unwrap(),
        renew_till: None,
        caddr: None,
        authorization_data: Some(Any::encode_from(&vec![OctetString::new(vec![0; 900]).unwrap()]).unwrap()),
    };
    wrap(3, &part)
}

/// Who plays the KDC and the directory knows the password that he told us, but not the session key that the real KDC
/// told us.
#[test]
fn a_ticket_is_sealed_with_the_key_of_its_service_or_it_is_not() {
    let of = |text: &str, enctype| ClientKey::derive(enctype, &password(text), b"salt", None).unwrap();
    let ticket = |inside: &[u8]| {
        let (mut exchange, request) = proven();
        done(exchange.receive(&reply_in(&request, Lie::None, &RIGHT_KEY, now(), inside), now())).0
    };
    let honest = ticket(&inside(&session()));
    assert_eq!(honest.sealed_by(), Some((18, Some(1))));
    let right = service_key();
    assert!(honest.is_sealed_with(&right));
    assert!(!honest.is_sealed_with(&of("another", 18)));
    assert!(!honest.is_sealed_with(&of("of the service", 17)), "another enctype");
    let by = |texts: &[&str], salt: &[u8]| {
        let passwords: Vec<_> = texts.iter().map(|text| password(text)).collect();
        honest.is_sealed_by(&passwords, salt)
    };
    assert_eq!(by(&["another", "of the service"], b"salt"), Ok(true));
    assert_eq!(by(&["another"], b"salt"), Ok(false));
    assert_eq!(by(&["of the service"], b"other"), Ok(false));
    assert_eq!(by(&[], b"salt"), Ok(false));
    let other = Key::new(18, &[8; 32]).unwrap();
    assert!(!ticket(&inside(&other)).is_sealed_with(&right), "another session key");
    let shorter = Key::new(17, &[7; 16]).unwrap();
    assert!(!ticket(&inside(&shorter)).is_sealed_with(&right), "a part of the session key");
    assert!(!ticket(b"opaque").is_sealed_with(&right), "no such message");
    // Padding behind the message is let pass.
    assert!(ticket(&[inside(&session()), vec![0; 5]].concat()).is_sealed_with(&right));
    let mut cut = honest;
    cut.credentials.ticket.truncate(40);
    assert!(!cut.is_sealed_with(&right) && cut.sealed_by().is_none());
}

/// The volume is for one kind of ticket.
#[test]
fn only_the_tgt_of_the_gmsa_is_one() {
    let account: Account = "WebApp01".parse().unwrap();
    let ticket = |client: &str, server: &str| {
        let mut ticket = tgt();
        ticket.credentials.client = client.parse().unwrap();
        ticket.credentials.server = server.parse().unwrap();
        ticket.into_gmsa_tgt(&account)
    };
    let tgs = "krbtgt/EXAMPLE.COM@EXAMPLE.COM";
    assert!(ticket("WebApp01$@EXAMPLE.COM", tgs).is_ok());
    assert!(ticket("webapp01$@EXAMPLE.COM", tgs).is_ok());
    for client in ["WebApp01@EXAMPLE.COM", "svc-fetcher@EXAMPLE.COM", "WebApp02$@EXAMPLE.COM", "WebApp01$@OTHER.TEST"] {
        assert!(ticket(client, tgs).is_err(), "{client}");
    }
    assert!(ticket("WebApp01$/x@EXAMPLE.COM", tgs).is_err());
    for server in ["krbtgt/OTHER.TEST@EXAMPLE.COM", "ldap/dc1.example.com@EXAMPLE.COM", "krbtgt/EXAMPLE.COM@OTHER.TEST"]
    {
        assert!(ticket("WebApp01$@EXAMPLE.COM", server).is_err(), "{server}");
    }
}
