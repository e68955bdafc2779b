//! Many gMSAs and several domains in one task.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::examples::{Fake, dc1, relayed};
use crate::support::{cred_spec, lab, put_secret, root, secret_arn};

/// The names of gMSAs that the lab makes for these tests.
fn accounts(count: usize) -> Vec<String> {
    let made = Command::new(root().join("lab/accounts")).args([&count.to_string(), "Many"]).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    String::from_utf8(made.stdout).unwrap().lines().map(ToOwned::to_owned).collect()
}

/// A CredSpec for all of them.
fn spec_of(names: &[String]) -> String {
    let mut spec: Value =
        serde_json::from_str(&cred_spec(&names[0], lab("LAB_DOMAIN"), &secret_arn("gmsa/login"))).unwrap();
    let accounts: Vec<_> = names.iter().map(|name| json!({"Name": name, "Scope": lab("LAB_DOMAIN")})).collect();
    spec["ActiveDirectoryConfig"]["GroupManagedServiceAccounts"] = accounts.into();
    spec.to_string()
}

/// What was asked of a DC.
#[derive(Default)]
struct Asked {
    kdc: AtomicUsize,
    connections: AtomicUsize,
    ldap: AtomicUsize,
}

fn count(counter: &AtomicUsize) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// The lab's DC behind somebody who counts.
fn counted(asked: &Arc<Asked>) -> Fake {
    let (of_kdc, of_ldap) = (Arc::clone(asked), Arc::clone(asked));
    let kdc = move |_, request: &[u8]| {
        count(&of_kdc.kdc);
        relayed(request)
    };
    Fake::start(kdc).with_ldap_server(move |mut stream| {
        count(&of_ldap.connections);
        let mut dc = TcpStream::connect((dc1(), 389)).unwrap();
        let (mut answers, mut client) = (dc.try_clone().unwrap(), stream.try_clone().unwrap());
        std::thread::spawn(move || std::io::copy(&mut answers, &mut client));
        let of_ldap = Arc::clone(&of_ldap);
        std::thread::spawn(move || {
            // The sidecar sends a message in one piece, and waits for its answer.
            let mut message = [0; 65_536];
            while let Some(length) = stream.read(&mut message).ok().filter(|length| *length > 0) {
                count(&of_ldap.ldap);
                dc.write_all(&message[..length]).unwrap();
            }
        });
    })
}

#[test]
fn one_gmsa_and_ten_take_one_login_one_connection_and_hardly_more_searches() {
    let names = accounts(10);
    for leases in [1, 10] {
        let asked = Arc::default();
        let fake = counted(&asked);
        let sidecar = fake.sidecar().with("GMSA_CREDENTIAL_SPECS", &spec_of(&names[..leases]));
        sidecar.init().ok();
        for name in &names[..leases] {
            assert!(sidecar.path(name).join("krb5cc").exists(), "{name}");
        }
        let [kdc, connections, ldap] = [&asked.kdc, &asked.connections, &asked.ldap].map(|n| n.load(Ordering::Relaxed));
        println!("{leases} leases: {kdc} requests to the KDC, {ldap} to LDAP on {connections} connection");
        // The login's salt and its ticket, then for each gMSA what confirms its password, and its own ticket.
        assert_eq!((kdc, connections), (2 + 2 * leases, 1));
        // A bind; one search for who came first, one for all who came meanwhile.
        assert!(ldap <= 3, "{ldap} LDAP messages for {leases} leases");
    }
}

/// A DC that takes the bind and then says nothing: the first search finds out for all who wait, and they go on over one
/// new connection.
#[test]
fn a_connection_that_hangs_is_waited_for_once() {
    let names = accounts(30);
    let asked: Arc<Asked> = Arc::default();
    let of_ldap = Arc::clone(&asked);
    let fake = Fake::start(|_, request| relayed(request)).with_ldap_server(move |mut stream| {
        let hangs = of_ldap.connections.fetch_add(1, Ordering::Relaxed) == 0;
        let mut dc = TcpStream::connect((dc1(), 389)).unwrap();
        let (mut answers, mut client) = (dc.try_clone().unwrap(), stream.try_clone().unwrap());
        std::thread::spawn(move || std::io::copy(&mut answers, &mut client));
        let of_ldap = Arc::clone(&of_ldap);
        std::thread::spawn(move || {
            let mut message = [0; 65_536];
            for number in 1.. {
                let Some(length) = stream.read(&mut message).ok().filter(|length| *length > 0) else { break };
                if hangs && number > 1 {
                    count(&of_ldap.ldap);
                } else {
                    dc.write_all(&message[..length]).unwrap();
                }
            }
        });
    });
    let sidecar = fake.sidecar().with("GMSA_CREDENTIAL_SPECS", &spec_of(&names));
    sidecar.init().ok();
    assert_eq!(asked.ldap.load(Ordering::Relaxed), 1, "searches on the connection that hangs");
    assert_eq!(asked.connections.load(Ordering::Relaxed), 2);
}

#[test]
fn a_domain_whose_dc_hangs_delays_nobody_elses_ticket() {
    let secret = json!({"username": "svc", "password": "Hang-Passw0rd", "domainName": "hang.example"});
    let hanging = cred_spec("Elsewhere", "hang.example", &put_secret("gmsa/many-hang", &secret.to_string()));
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("hang.json");
    crate::support::write(&path, &hanging);
    let fake = Fake::start(|_, request| {
        while request.windows(12).any(|part| part == b"HANG.EXAMPLE") {
            std::thread::park();
        }
        relayed(request)
    });
    let specs = format!("file://{} arn:aws:s3:::{}/webapp01.json", path.display(), lab("LAB_BUCKET"));
    let controllers = format!("hang.example=dc.hang.example;{}={}", lab("LAB_DOMAIN"), lab("LAB_DC1"));
    let sidecar = fake.sidecar().with("GMSA_CREDENTIAL_SPECS", &specs).with("GMSA_DOMAIN_CONTROLLERS", &controllers);
    let running = sidecar.run();
    running.wait_fault("dc-unreachable");
    let lines = running.log();
    let place = |event: &str, gmsa: &str| lines.iter().position(|line| line["event"] == event && line["gmsa"] == gmsa);
    let (good, bad) = (place("lease.renewed", "WebApp01"), place("lease.pending", "Elsewhere"));
    assert!(good.is_some() && good < bad, "{}", running.text());
    assert_eq!(sidecar.http("GET", "/ready").unwrap().0, 503, "one is not there");
}
