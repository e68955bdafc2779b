//! What a real KDC, MIT's client and Samba wrote, as the fuzzer's seeds keep it, still reads as it did.

use der::asn1::AnyRef;

use super::super::messages::{EncKdcRepPart, Reply};
use super::super::{ccache, keytab};
use super::*;

#[test]
fn recorded_refusals_say_what_they_said() {
    let code = |bytes: &[u8]| AsExchange::refusal(bytes).unwrap().map(|told| (told.code, told.status));
    let seeds = [
        (&include_bytes!("../../../fuzz/seeds/kdc_reply/clock-skew-1")[..], None),
        (include_bytes!("../../../fuzz/seeds/kdc_reply/unknown-client-0"), Some((6, None))),
        (include_bytes!("../../../fuzz/seeds/kdc_reply/unknown-service-0"), Some((7, None))),
        (include_bytes!("../../../fuzz/seeds/kdc_reply/wrong-password-0"), Some((25, None))),
        (include_bytes!("../../../fuzz/seeds/kdc_reply/wrong-password-1"), Some((24, None))),
        (include_bytes!("../../../fuzz/seeds/kdc_reply/svc-disabled-tgt-0"), Some((18, Some(0xc000_0072)))),
        (include_bytes!("../../../fuzz/seeds/kdc_reply/svc-mustchange-tgt-0"), Some((23, Some(0xc000_0224)))),
        (include_bytes!("../../../fuzz/seeds/kdc_reply/svc-fuzz-ldap-1"), None),
    ];
    for (at, (bytes, expected)) in seeds.into_iter().enumerate() {
        assert_eq!(code(bytes), expected, "{at}");
    }
}

#[test]
fn a_recorded_reply_opens_with_the_key_of_the_password() {
    let Reply::Kdc(reply) = Reply::decode(include_bytes!("../../../fuzz/recorded/as_rep")).unwrap() else { panic!() };
    let key = Key::from_password(18, "Fuzz-Passw0rd", b"EXAMPLE.COMsvc-fuzz", None).unwrap();
    let part = EncKdcRepPart::decode(&key.decrypt(3, reply.enc_part.cipher.as_bytes()).unwrap()).unwrap();
    assert_eq!((part.nonce, part.key.keytype, part.key.keyvalue.as_bytes().len()), (0x2b2b_2b2b, 18, 32));
    assert_eq!(part.sname.display(&part.srealm), "ldap/dc1.example.com@EXAMPLE.COM");
    let service = service(&"ldap/dc1.example.com".parse().unwrap(), &domain());
    let ticket = Ticket::new(&login_principal("svc-fuzz", &domain()), &service, &reply, &part, 0).unwrap();
    assert_eq!(ticket.sealed_by().map(|(enctype, _)| enctype), Some(18));
    assert!(AnyRef::from_der(&ticket.credentials.ticket).is_ok());
}

#[test]
fn recorded_files_hold_what_they_held() {
    let fresh = include_bytes!("../../../fuzz/seeds/ccache/fresh");
    let used = include_bytes!("../../../fuzz/seeds/ccache/used");
    let servers = |file: &[u8]| {
        let cache = ccache::Cache::decode(file).unwrap();
        assert!(cache.is_whole && cache.principal.to_string() == "WebApp01$@EXAMPLE.COM");
        let tickets = cache.entries.iter().filter(|entry| entry.is_ticket());
        tickets.map(|entry| (entry.server.to_string(), entry.ticket_enctype().unwrap())).collect::<Vec<_>>()
    };
    let tgt = ("krbtgt/EXAMPLE.COM@EXAMPLE.COM".to_owned(), 18);
    assert_eq!(servers(fresh), std::slice::from_ref(&tgt));
    let [postgres, ldap] = ["postgres/db.example.com@EXAMPLE.COM", "ldap/dc1.example.com@EXAMPLE.COM"];
    assert_eq!(servers(used), [tgt, (postgres.to_owned(), 18), (ldap.to_owned(), 18)]);

    let exported = keytab::decode(include_bytes!("../../../fuzz/seeds/keytab/exported")).unwrap();
    assert!(exported.iter().all(|entry| [17, 18].contains(&entry.key.enctype()) && entry.kvno > 0));
    assert!(!exported.is_empty());
    assert!(keytab::decode(include_bytes!("../../../fuzz/seeds/keytab/empty")).unwrap().is_empty());
}
