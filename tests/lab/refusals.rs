//! A controller that refuses, and a gMSA that cannot be read: another controller is asked, the other gMSAs go on.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ldap3_proto::LdapResultCode;
use ldap3_proto::proto::{LdapOp, LdapPartialAttribute, LdapResult, LdapSearchResultEntry, LdapSearchResultReference};

use crate::examples::{Fake, dc_keys, dc1, krb_error, now, relay, relayed, serve_directory, tlv};
use crate::many::{accounts, spec_of};
use crate::sites::{FAR, NEAR, two_names};
use crate::support::lab;

/// The managed passwords of the lab's gMSAs of this name, as the directory stores them, by account.
fn managed_passwords(name: &str) -> HashMap<String, Vec<u8>> {
    const READ: &str = r#"set -eu
        export KRB5CCNAME=$(mktemp)
        trap 'rm -f "$KRB5CCNAME"' EXIT
        kinit "$1" <<<"$2" >/dev/null
        ldapsearch -LLL -Q -o ldif-wrap=no -Y GSSAPI -H "ldap://$3" -b "$4" "(sAMAccountName=$5)" \
            sAMAccountName msDS-ManagedPassword"#;
    let arguments = [lab("LAB_USER"), lab("LAB_USER_PW"), lab("LAB_DC1"), lab("LAB_BASEDN"), name];
    let output = Command::new("bash").args(["-c", READ, "-"]).args(arguments).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let entry = |entry: &str| {
        let value = |name: &str| entry.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
        let blob = BASE64_STANDARD.decode(value("msDS-ManagedPassword:: ")?).unwrap();
        Some((value("sAMAccountName: ")?.trim_end_matches('$').to_owned(), blob))
    };
    text.split("\n\n").filter_map(entry).collect()
}

fn done(code: LdapResultCode, message: &str) -> LdapOp {
    let (matcheddn, message, referral) = (String::new(), message.to_owned(), Vec::new());
    LdapOp::SearchResultDone(LdapResult { code, matcheddn, message, referral })
}

/// Ten leases share a search. The server cannot answer for one of them: the other nine have their tickets at the first
/// attempt, and no fault.
#[test]
fn a_gmsa_that_the_server_cannot_answer_for_fails_alone() {
    let names = accounts(10);
    let passwords = managed_passwords("Many*");
    let (keys, all) = (dc_keys(), names.clone());
    // The last one of the first search that is shared: which leases share it depends on who comes first.
    let bad = Arc::new(OnceLock::<String>::new());
    let chosen = Arc::clone(&bad);
    let fake = Fake::start(|_, request| relayed(request)).with_ldap_server(move |stream| {
        let answer = |search: &ldap3_proto::proto::LdapMsg| {
            let filter = format!("{:?}", search.op);
            let asked: Vec<_> = all.iter().filter(|name| filter.contains(&format!("\"{name}$\""))).collect();
            assert!(!asked.is_empty(), "{filter}");
            if let [_, .., last] = asked.as_slice() {
                chosen.get_or_init(|| (*last).clone());
            }
            if chosen.get().is_some_and(|bad| asked.contains(&bad)) {
                let what = "000020EF: SvcErr: DSID-020A0A5E, problem 5002 (UNAVAILABLE_EXTENSION), data 0";
                return vec![done(LdapResultCode::OperationsError, what)];
            }
            let entry = |name: &&String| {
                let attribute = |name: &str, value: &[u8]| LdapPartialAttribute {
                    atype: name.to_owned(),
                    vals: vec![value.to_vec()],
                };
                let password = passwords.get(*name).unwrap_or_else(|| panic!("no password of {name}"));
                let name = format!("{name}$");
                LdapOp::SearchResultEntry(LdapSearchResultEntry {
                    dn: format!("CN={name},{}", lab("LAB_BASEDN")),
                    attributes: vec![
                        attribute("sAMAccountName", name.as_bytes()),
                        attribute("msDS-ManagedPassword", password),
                    ],
                })
            };
            // Windows adds references to other partitions (MS-ADTS 3.1.1.4.5): nobody follows them.
            let uris = vec!["ldap://DomainDnsZones.example.com/DC=DomainDnsZones,DC=example,DC=com".to_owned()];
            let elsewhere = LdapOp::SearchResultReference(LdapSearchResultReference { uris });
            asked.iter().map(entry).chain([elsewhere, done(LdapResultCode::Success, "")]).collect()
        };
        serve_directory(stream, &keys, &answer);
    });
    let sidecar = fake.sidecar().with("GMSA_CREDENTIAL_SPECS", &spec_of(&names));
    let running = sidecar.run();
    let lines = |event: &str| running.log().into_iter().filter(move |line| line["event"] == event).collect::<Vec<_>>();
    running.wait("nine tickets", || lines("lease.renewed").len() >= 9);
    running.wait("the fault of the tenth", || !lines("lease.pending").is_empty());
    let bad = bad.get().expect("the leases share a search").as_str();
    let faults = lines("lease.pending");
    assert_eq!((faults.len(), lines("dc.failed").len()), (1, 0), "{}", running.text());
    assert_eq!((&faults[0]["gmsa"], &faults[0]["code"]), (&bad.into(), &"gmsa-search-failed".into()));
    let leases = sidecar.json("/leases");
    for lease in leases["leases"].as_array().unwrap().iter().filter(|lease| lease["account"] != bad) {
        assert_eq!((&lease["state"], &lease["attempts"]), (&"held".into(), &1.into()), "{lease:#}");
    }
}

/// What the first of two controllers answers instead of serving, and the code of the warning.
#[test]
fn a_controller_that_refuses_or_hangs_up_is_left_for_the_next() {
    two_names();
    let bind = |code: u8, text: &str| {
        let result = [tlv(0x0a, &[code]), tlv(4, b""), tlv(4, text.as_bytes())].concat();
        tlv(0x30, &[tlv(2, &[1]), tlv(0x61, &result)].concat())
    };
    // RFC 4511 section 4.4.1: message 0, unavailable, the name of the notice.
    let notice = [tlv(0x0a, &[52]), tlv(4, b""), tlv(4, b"bye"), tlv(0x8a, b"1.3.6.1.4.1.1466.20036")].concat();
    let notice = tlv(0x30, &[tlv(2, &[0]), tlv(0x78, &notice)].concat());
    let refused = "80090308: LdapErr: DSID-0C090439, comment: AcceptSecurityContext error, data 52e, v4563";
    for (case, answer, code) in [
        ("a refused bind", bind(49, refused), "gmsa-bind-refused"),
        ("busy", bind(51, "busy"), "gmsa-connection-lost"),
        ("unavailable", bind(52, "down"), "gmsa-connection-lost"),
        ("a notice of disconnection", notice, "gmsa-connection-lost"),
        ("an end of the connection", Vec::new(), "gmsa-connection-lost"),
    ] {
        let connections = AtomicUsize::new(0);
        let fake = Fake::start(|_, request| relayed(request)).with_ldap_server(move |mut stream| {
            if connections.fetch_add(1, Ordering::SeqCst) > 0 {
                return relay(stream, SocketAddr::from((dc1(), 389)));
            }
            let _ = stream.read(&mut [0; 65_536]).and_then(|_| stream.write_all(&answer));
            let _ = stream.shutdown(std::net::Shutdown::Write);
        });
        goes_on(case, &fake, code);
    }
    // KDC_ERR_SVC_UNAVAILABLE (RFC 4120 section 7.5.9): the KDC starts or stops.
    let requests = AtomicUsize::new(0);
    let fake = Fake::start(move |_, request| match requests.fetch_add(1, Ordering::SeqCst) {
        0 => krb_error(29, now(), &[]),
        _ => relayed(request),
    });
    goes_on("error 29", &fake, "");
}

/// The first ticket comes soon, by another controller; the one that failed is named in a warning with this code.
fn goes_on(case: &str, fake: &Fake, code: &str) {
    let sidecar = fake.sidecar().with("GMSA_DOMAIN_CONTROLLERS", &format!("{FAR} {NEAR}"));
    let start = Instant::now();
    let ended = sidecar.init();
    let log = ended.log();
    assert!(start.elapsed() < Duration::from_secs(10), "{case}: {:?}: {log:#?}", start.elapsed());
    assert!(log.iter().all(|line| line["event"] != "lease.pending"), "{case}: {log:#?}");
    if !code.is_empty() {
        let warning =
            log.iter().find(|line| line["event"] == "dc.failed").unwrap_or_else(|| panic!("{case}: {log:#?}"));
        assert_eq!(warning["code"], code, "{case}: {warning:#}");
        assert!(warning["what"].as_str().unwrap().contains(FAR), "{case}: {warning:#}");
    }
    ended.ok();
}
