use std::time::{Duration, Instant};

use super::Peer;
use crate::support::{Ended, Sidecar, lab};

const HOST: &str = "evil.example.com";

/// Nothing on the volume but what holds no ticket.
#[track_caller]
fn assert_nothing_written(sidecar: &Sidecar) {
    let names = sidecar.files();
    assert!(names.iter().all(|path| path.ends_with("krb5.conf")), "{names:?}");
}

/// It told no password, and of the login it got what any KDC gets: one proof at most.
#[track_caller]
fn assert_nothing_told(peer: &Peer) {
    let (bound, told) = (peer.count("bound"), peer.count("password-told"));
    assert_eq!((bound, told), (0, 0), "the impostor was believed: {:#?}", peer.events());
    assert!(peer.proofs().len() <= 1, "{:#?}", peer.proofs());
}

/// The KDC knows the name that it has among domain controllers: only the second proof stands in its way.
#[track_caller]
fn assert_first_door_passed(peer: &Peer) {
    let (bound, told) = (peer.count("bound"), peer.count("password-told"));
    assert!(bound > 0 && told > 0, "the KDC did not let it pass the first proof: {:#?}", peer.events());
}

/// It failed, and the fault that ends it names the impostor.
#[track_caller]
fn assert_named(ended: &Ended, host: &str) {
    assert_ne!(ended.code, Some(0), "the impostor was believed: {ended:#?}");
    let fault = ended.fault();
    assert!(fault.contains(host), "{fault}");
    assert!(fault.starts_with("gmsa-server-unproven"), "{fault}");
}

fn impostor(host: &str, arguments: &[&str]) -> (Peer, Sidecar) {
    let peer = Peer::impostor(host, &[&["--kdc=forge"], arguments].concat());
    let sidecar = peer.sidecar().with("GMSA_INIT_TIMEOUT", "2s");
    (peer, sidecar)
}

#[test]
fn a_computer_account_gives_no_ticket() {
    let (peer, sidecar) = impostor("evil", &[]);
    let ended = sidecar.init();
    assert_nothing_written(&sidecar);
    assert_nothing_told(&peer);
    assert_named(&ended, HOST);
}

#[test]
fn a_computer_account_gives_no_keytab() {
    let (peer, sidecar) = impostor("evil", &[]);
    let sidecar = sidecar.with("GMSA_KEYTAB", "true");
    let ended = sidecar.init();
    assert_nothing_written(&sidecar);
    assert_nothing_told(&peer);
    assert_named(&ended, HOST);
}

#[test]
fn a_computer_account_gives_run_nothing() {
    let (peer, sidecar) = impostor("evil", &[]);
    let running = sidecar.run();
    running.wait("a fault or a ticket", || {
        running.log().iter().any(|line| line["code"] == "gmsa-server-unproven" || line["event"] == "lease.renewed")
    });
    assert_nothing_written(&sidecar);
    assert_nothing_told(&peer);
    assert!(running.text().contains(HOST));
    assert_eq!(sidecar.http("GET", "/ready").unwrap().0, 503);
}

#[test]
fn check_names_it() {
    let (peer, sidecar) = impostor("evil", &[]);
    let ended = sidecar.call(&["check", "--json"]);
    assert_nothing_written(&sidecar);
    assert_nothing_told(&peer);
    let report: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_ne!(report["exit_code"], 0, "{report:#}");
    assert_eq!(report["fault"]["code"], "gmsa-server-unproven", "{report:#}");
    assert!(report["fault"].to_string().contains(HOST), "{report:#}");
}

/// A certificate for its own name from a CA that is trusted.
#[test]
fn a_certificate_of_its_own_changes_nothing() {
    let forged = crate::ldaps::Forged::new(HOST, 2100);
    let (certificate, key) = (forged.path("pem"), forged.path("key"));
    let arguments =
        [format!("--certificate={}", certificate.display()), format!("--certificate-key={}", key.display())];
    let (peer, sidecar) = impostor("evil", &[&arguments[0], &arguments[1]]);
    let sidecar = sidecar.with("GMSA_LDAP", "ldaps").with("GMSA_LDAP_CA_FILE", lab("LAB_CA"));
    let ended = sidecar.init();
    assert_nothing_written(&sidecar);
    assert_nothing_told(&peer);
    assert_named(&ended, HOST);
}

/// A KDC that has proven nothing asks for a key that takes one round to derive: from its proof a password could be guessed
/// thousands of times as fast.
#[test]
fn no_proof_is_sent_of_a_key_that_is_quickly_guessed() {
    for rounds in ["1", "4095"] {
        let peer = Peer::domain(&[lab("LAB_DC1")], &[&format!("--kdc=rounds={rounds}")]);
        let ended = peer.sidecar().init_with("GMSA_INIT_TIMEOUT", "1s");
        assert!(peer.count("kdc") > 0 && peer.proofs().is_empty(), "{:#?}", peer.events());
        assert!(ended.fault().contains("4096"), "{ended:#?}");
    }
}

/// Where a controller is named by an alias, its LDAP ping tells its name: it may tell any.
#[test]
fn a_name_from_the_ping_proves_nothing() {
    let (peer, sidecar) = impostor("evil", &[&format!("--ping={}", lab("LAB_DC1"))]);
    let sidecar = sidecar.with("GMSA_DOMAIN_CONTROLLERS", HOST);
    let ended = sidecar.init();
    assert_nothing_written(&sidecar);
    // The KDC is asked for the ticket of the controller that it claims to be, which it cannot read, and for the gMSA's.
    assert_eq!((peer.count("bound"), peer.count("password-told")), (0, 0), "{:#?}", peer.events());
    assert!(peer.proofs().len() <= 2, "{:#?}", peer.proofs());
    assert_ne!(ended.code, Some(0), "{ended:#?}");
    assert!(ended.fault().contains(HOST), "{ended:#?}");
}

/// What it told is forgotten once the bind under that name has failed: behind the alias the true controller, which has
/// another name, is found when the impostor has gone. A denial is tried again after half a minute.
#[test]
fn a_name_from_the_ping_does_not_outlast_the_impostor() {
    let ping = format!("--ping={}", lab("LAB_RODC"));
    let (_peer, sidecar) = impostor("evil", &[&ping, "--kdc=relay", "--dns=repent"]);
    let sidecar = sidecar.with("GMSA_DOMAIN_CONTROLLERS", HOST);
    let running = sidecar.run();
    running.wait_fault("gmsa-bind-refused");
    let start = Instant::now();
    let has_ticket = || sidecar.path("krb5cc").exists();
    while !has_ticket() && start.elapsed() < Duration::from_secs(75) {
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!(has_ticket(), "the alias leads to a true controller again:\n{}", running.text());
}

/// The second door: an administrator gave it the name that domain controllers have. The KDC's ticket for the gMSA does
/// not decrypt with the password that it tells.
#[test]
fn a_domain_controllers_name_alone_gives_nothing() {
    for keytab in ["false", "true"] {
        let (peer, sidecar) = impostor("evil-dc", &[]);
        let sidecar = sidecar.with("GMSA_KEYTAB", keytab);
        let ended = sidecar.init();
        assert_nothing_written(&sidecar);
        assert_first_door_passed(&peer);
        assert!(peer.proofs().len() <= 2, "{:#?}", peer.proofs());
        assert_named(&ended, "evil-dc.example.com");
    }
}

/// The same in `run`, in `check` and over TLS.
#[test]
fn the_second_proof_is_asked_for_everywhere() {
    const HOST: &str = "evil-dc.example.com";
    let (peer, sidecar) = impostor("evil-dc", &[]);
    {
        let running = sidecar.run();
        running.wait_fault("gmsa-server-unproven");
        assert!(running.text().contains(HOST));
    }
    assert_nothing_written(&sidecar);
    assert_first_door_passed(&peer);

    let ended = sidecar.call(&["check", "--json"]);
    assert_nothing_written(&sidecar);
    let report: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(report["fault"]["code"], "gmsa-server-unproven", "{report:#}");
    assert!(report["fault"].to_string().contains(HOST), "{report:#}");
    drop(peer);

    let forged = crate::ldaps::Forged::new(HOST, 2100);
    let (certificate, key) = (forged.path("pem"), forged.path("key"));
    let arguments =
        [format!("--certificate={}", certificate.display()), format!("--certificate-key={}", key.display())];
    let (peer, sidecar) = impostor("evil-dc", &[&arguments[0], &arguments[1]]);
    let sidecar = sidecar.with("GMSA_LDAP", "ldaps").with("GMSA_LDAP_CA_FILE", lab("LAB_CA"));
    let ended = sidecar.init();
    assert_nothing_written(&sidecar);
    assert_first_door_passed(&peer);
    assert_named(&ended, HOST);
}

/// A KDC that gives no ticket for the gMSA, and an honest directory: the app gets its ticket, and the log says once that
/// nothing confirms the password.
#[test]
fn without_the_second_proof_a_ticket_is_written_and_it_is_told_once() {
    for error in ["7", "27"] {
        let peer = Peer::domain(&[lab("LAB_DC1")], &[&format!("--kdc=refuse-gmsa={error}")]);
        let sidecar = peer.sidecar();
        let running = sidecar.run();
        running.wait_ready();
        let told =
            || -> Vec<_> { running.log().into_iter().filter(|line| line["event"] == "gmsa.unconfirmed").collect() };
        running.wait("the line", || !told().is_empty());
        assert_eq!(told().len(), 1, "{}", running.text());
        assert_eq!(told()[0]["level"], "INFO");
    }
}

/// It forges that the KDC gives no ticket for the gMSA: a keytab is not written without that proof.
#[test]
fn a_forged_refusal_of_the_second_proof_gives_no_keytab() {
    for error in ["7", "27"] {
        let peer = Peer::impostor("evil-dc", &[&format!("--kdc=forge-refuse={error}")]);
        let sidecar = peer.sidecar().with("GMSA_INIT_TIMEOUT", "2s").with("GMSA_KEYTAB", "true");
        let ended = sidecar.init();
        assert_nothing_written(&sidecar);
        assert_first_door_passed(&peer);
        assert_ne!(ended.code, Some(0), "{ended:#?}");
    }
}

/// The one after it is asked, and remembered to be the better one.
#[test]
fn the_next_controller_is_asked() {
    for host in ["evil", "evil-dc"] {
        let next = format!("--also={}={}", lab("LAB_DC1"), lab("LAB_DC1_IP"));
        let peer = Peer::impostor(host, &[&next]);
        let sidecar = peer.sidecar();
        let ended = sidecar.init();
        let impostor = format!("{host}.example.com");
        let warned =
            ended.log().into_iter().any(|line| line["event"] == "dc.failed" && line.to_string().contains(&impostor));
        assert!(warned, "{ended:#?}");
        ended.ok();
        assert!(sidecar.path("krb5cc").exists());
    }
}
