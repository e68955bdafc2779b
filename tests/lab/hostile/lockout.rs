use std::collections::HashSet;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Peer;
use crate::always::secret;
use crate::support::{Running, Sidecar, attribute, cred_spec, lab, put_secret, write};

/// Three domain controllers whose names the KDC knows.
fn three(kdc: &str) -> Peer {
    super::accounts();
    Peer::domain(&[lab("LAB_DC1"), lab("LAB_RODC"), "evil-dc.example.com"], &[&format!("--kdc={kdc}")])
}

/// A login of the test alone; the secret has its password, or a wrong one.
fn sidecar(peer: &Peer, name: &str, right: bool) -> Sidecar {
    forgive(name);
    let arn = secret(name, if right { "Right-Passw0rd-1" } else { "Wrong-Passw0rd-1" });
    peer.sidecar().with("GMSA_CREDENTIAL_SPECS", &cred_spec("WebApp01", lab("LAB_DOMAIN"), &arn))
}

fn forgive(name: &str) {
    // Whatever an earlier run left (MS-ADTS 3.1.1.5.3.1.1.2: no lockout time, no count of failures).
    let user = attribute(name, "distinguishedName");
    let change = format!("dn: {user}\nchangetype: modify\nreplace: lockoutTime\nlockoutTime: 0\n");
    let mut modify = Command::new("ldbmodify").args(["-H", lab("LAB_SAMDB")]).stdin(Stdio::piped()).spawn().unwrap();
    modify.stdin.take().unwrap().write_all(change.as_bytes()).unwrap();
    assert!(modify.wait().unwrap().success());
    assert_eq!(failures(name), 0);
}

/// A proof goes only over a connection on which that KDC has just answered the request without one, or on which the same
/// key has just been accepted.
#[track_caller]
fn assert_asked_first(peer: &Peer) {
    let mut may = HashSet::new();
    for event in peer.events() {
        let place = (event["host"].to_string(), event["connection"].as_u64());
        match event["event"].as_str() {
            Some("kdc-error") if event["code"] == 25 => drop(may.insert(place)),
            Some("kdc-ticket") => drop(may.insert(place)),
            Some("kdc") if event["proof"] == true && !event["client"].to_string().ends_with("$\"") => {
                assert!(may.remove(&place), "a proof that nobody asked for: {event}\n{:#?}", peer.events());
            }
            _ => {}
        }
    }
}

fn failures(name: &str) -> u32 {
    attribute(name, "badPwdCount").parse().unwrap_or(0)
}

fn go_on(running: &Running<'_>, time: Duration) {
    let start = Instant::now();
    running.wait("the time", || start.elapsed() > time);
}

fn told(running: &Running<'_>, code: &str) -> bool {
    running.log().iter().any(|line: &Value| line["code"] == code)
}

/// A DC that waits for its PDC emulator answers after 2.6 s: nobody else gets the proof meanwhile.
#[test]
fn a_slow_refusal_is_waited_for() {
    let name = "svc-hostile-slow";
    let peer = three("proof-delay=2.6");
    let sidecar = sidecar(&peer, name, false);
    let running = sidecar.run();
    running.wait("the refusal", || told(&running, "ticket-login-refused") || peer.proofs().len() > 1);
    assert_eq!(peer.proofs().len(), 1, "{:#?}", peer.proofs());
    assert_eq!(failures(name), 1);
    // Not even when it is asked to.
    sidecar.http("POST", "/refresh");
    go_on(&running, Duration::from_secs(2));
    assert_eq!(peer.proofs().len(), 1, "{:#?}", peer.proofs());
    assert_asked_first(&peer);
}

/// A slow answer that is a good one is not lost.
#[test]
fn a_slow_ticket_is_waited_for() {
    let peer = three("proof-delay=2.6");
    let sidecar = sidecar(&peer, "svc-hostile-late", true);
    let running = sidecar.run();
    running.wait_ready();
    let hosts: HashSet<_> = peer.proofs().iter().map(|proof| proof["host"].to_string()).collect();
    assert_eq!(hosts.len(), 1, "{:#?}", peer.proofs());
    assert_asked_first(&peer);
}

/// One that never answers: no other KDC gets the proof within ten seconds.
#[test]
fn silence_is_waited_for() {
    let peer = three("proof-hang");
    let sidecar = sidecar(&peer, "svc-hostile-silent", true);
    let running = sidecar.run();
    peer.wait("a proof", |_| !peer.proofs().is_empty());
    go_on(&running, Duration::from_secs(7));
    assert_eq!(peer.proofs().len(), 1, "{:#?}", peer.proofs());
    assert_asked_first(&peer);
}

/// The proof arrives, is counted by the KDC, and nobody hears of it: two at most in half an hour.
#[test]
fn slow_silence_is_counted() {
    let name = "svc-hostile-swallowed";
    let peer = three("proof-swallow");
    let sidecar = sidecar(&peer, name, false);
    let running = sidecar.run();
    running.wait("two proofs", || peer.proofs().len() >= 2);
    sidecar.http("POST", "/refresh");
    go_on(&running, Duration::from_secs(25));
    assert_eq!(peer.proofs().len(), 2, "{:#?}", peer.proofs());
    assert!(failures(name) <= 2);
    assert!(told(&running, "ticket-login-held"), "{}", running.text());
    assert_asked_first(&peer);
}

/// A connection that is closed on a proof is an answer that nobody hears.
#[test]
fn a_connection_that_closes_is_counted() {
    let peer = three("proof-drop");
    let sidecar = sidecar(&peer, "svc-hostile-dropped", true);
    let running = sidecar.run();
    peer.wait("a proof", |_| !peer.proofs().is_empty());
    go_on(&running, Duration::from_secs(8));
    assert!(peer.proofs().len() <= 2, "{:#?}", peer.proofs());
    assert_asked_first(&peer);
}

/// A forged refusal stops the password, and no other KDC gets it.
#[test]
fn a_forged_refusal_is_believed_once() {
    let name = "svc-hostile-refused";
    let peer = three("proof-error=24");
    let sidecar = sidecar(&peer, name, true).with("GMSA_START_TIMEOUT", "1s");
    let mut running = sidecar.run();
    running.wait_fault("ticket-login-refused");
    sidecar.http("POST", "/refresh");
    go_on(&running, Duration::from_secs(3));
    assert_eq!(peer.proofs().len(), 1, "{:#?}", peer.proofs());
    assert_eq!(failures(name), 0);
    assert!(running.child.try_wait().unwrap().is_none(), "a restart costs the next proof:\n{}", running.text());
}

/// `init` stays, so that the platform does not start it into the next proof at once.
#[test]
fn init_waits_where_the_login_is_refused() {
    let peer = three("relay");
    let name = "svc-hostile-init";
    let sidecar = sidecar(&peer, name, false);
    let start = Instant::now();
    let ended = sidecar.init_with("GMSA_INIT_TIMEOUT", "6s");
    assert_eq!(ended.code, Some(77), "{ended:#?}");
    assert!(start.elapsed() > Duration::from_millis(5500), "it ended after {:?}", start.elapsed());
    assert_eq!((peer.proofs().len(), failures(name)), (1, 1), "{:#?}", peer.proofs());
}

/// Several leases of one process whose secrets name one account in as many ways, with a wrong password each.
#[test]
fn spellings_of_one_login_share_their_counts() {
    let name = "svc-hostile-spelled";
    forgive(name);
    let peer = three("relay");
    let sidecar = peer.sidecar();
    let folder = sidecar.volume.path().join(".specs");
    std::fs::create_dir(&folder).unwrap();
    let domain = lab("LAB_DOMAIN");
    let spelled = [
        name.to_owned(),
        name.to_uppercase(),
        format!("{name}@{domain}"),
        format!("EXAMPLE\\{name}"),
        format!("x:{name}"),
    ];
    let references = spelled.iter().enumerate().map(|(at, user)| {
        let login = json!({"username": user, "password": format!("Wrong-Passw0rd-{at}"), "domainName": domain});
        let arn = put_secret(&format!("gmsa/{name}-{at}"), &login.to_string());
        let path = folder.join(format!("{at}.json"));
        write(&path, &cred_spec(&format!("Hostile{at}"), domain, &arn));
        format!("file://{}", path.display())
    });
    let references = references.collect::<Vec<_>>().join(" ");
    let sidecar = sidecar.with("GMSA_CREDENTIAL_SPECS", &references);
    let running = sidecar.run();
    running.wait("all leases to be told why not", || {
        let held = running.log().iter().filter(|line| line["event"] == "lease.pending").count();
        held == spelled.len()
    });
    assert_eq!((peer.proofs().len(), failures(name)), (2, 2), "{:#?}", peer.proofs());
    assert!(told(&running, "ticket-login-held"), "{}", running.text());
    assert_asked_first(&peer);
}

/// Whatever else is wrong, a login that is refused keeps `init` and `run` from ending: a new process sends the next proof.
#[test]
fn another_fault_does_not_end_a_process_whose_login_is_refused() {
    let name = "svc-hostile-init";
    let peer = three("relay");
    let sidecar = sidecar(&peer, name, false);
    let folder = sidecar.volume.path().join(".specs");
    std::fs::create_dir(&folder).unwrap();
    let arn = secret(name, "Wrong-Passw0rd-1");
    write(&folder.join("refused.json"), &cred_spec("WebApp01", lab("LAB_DOMAIN"), &arn));
    write(&folder.join("broken.json"), "{}");
    let references =
        ["refused", "broken"].map(|file| format!("file://{}", folder.join(file).display()) + ".json").join(" ");
    let sidecar = sidecar.with("GMSA_CREDENTIAL_SPECS", &references);
    let start = Instant::now();
    let ended = sidecar.init_with("GMSA_INIT_TIMEOUT", "6s");
    assert_ne!(ended.code, Some(0), "{ended:#?}");
    assert!(start.elapsed() > Duration::from_millis(5500), "it ended after {:?}: {ended:#?}", start.elapsed());
    assert_eq!((peer.proofs().len(), failures(name)), (1, 1), "{:#?}", peer.proofs());
}

/// An error that is no refusal, to the request without a proof and to the one with it.
#[test]
fn other_errors_get_no_proof_that_was_not_asked_for() {
    for kdc in ["no-preauth-error=60", "no-preauth-error=29", "proof-error=60"] {
        let peer = three(kdc);
        let sidecar = sidecar(&peer, "svc-hostile-error", true);
        let running = sidecar.run();
        peer.wait("an answer", |_| peer.count("kdc-error") > 0);
        go_on(&running, Duration::from_millis(1500));
        assert_asked_first(&peer);
        if kdc.starts_with("no-preauth") {
            assert_eq!(peer.proofs().len(), 0, "{:#?}", peer.proofs());
        }
    }
}
