//! Many gMSAs and several domains in one task.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::examples::{Fake, dc1, relayed};
use crate::support::{Sidecar, cred_spec, delete_object, lab, put_object, put_secret, root, secret_arn};

/// The names of gMSAs that the lab makes for these tests.
pub fn accounts(count: usize) -> Vec<String> {
    let made = Command::new(root().join("lab/accounts")).args([&count.to_string(), "Many"]).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    String::from_utf8(made.stdout).unwrap().lines().map(ToOwned::to_owned).collect()
}

/// A CredSpec for all of them.
pub fn spec_of(names: &[String]) -> String {
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

/// One more gMSA is an object more, and not a new task.
#[test]
fn a_list_of_credspecs_is_followed() {
    let prefix = format!("followed-{}/", std::process::id());
    let put = |account: &str| {
        let spec = cred_spec(account, lab("LAB_DOMAIN"), &secret_arn("gmsa/login"));
        put_object(&format!("{prefix}{account}.json"), spec.as_bytes());
    };
    put("WebApp01");
    let list = format!("s3://{}/{prefix}", lab("LAB_BUCKET"));
    let sidecar = Sidecar::new().with("GMSA_CREDENTIAL_SPECS", &list);
    let running = sidecar.run();
    running.wait_ready();
    // Who has a list has several apps: each may mount its own folder alone.
    assert!(sidecar.path("WebApp01/krb5.conf").exists() && sidecar.path("krb5cc").exists());
    put("WebApp02");
    // The list is read again every minute or so, and when somebody asks for a refresh.
    let refreshed = || sidecar.http("POST", "/refresh").is_some_and(|(status, _)| status == 202);
    running.wait("a refresh", refreshed);
    running.wait("the second gMSA", || sidecar.path("WebApp02/krb5cc").exists());
    running.wait_ready();
    delete_object(&format!("{prefix}WebApp01.json"));
    running.wait("another refresh", refreshed);
    running.wait("the first one's end", || !sidecar.path("WebApp01").exists());
    let accounts = || {
        let ready = sidecar.json("/ready");
        let leases = ready["leases"].as_array().unwrap().clone();
        leases.iter().map(|lease| lease["account"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(accounts(), ["WebApp02"]);
    let copied = || std::fs::read(sidecar.path("krb5cc")).ok() == std::fs::read(sidecar.path("WebApp02/krb5cc")).ok();
    running.wait("the copy in the root", copied);
}

/// An owner, a mode and a keytab for each CredSpec, unless a variable says otherwise.
#[test]
fn a_credspec_has_an_owner_and_a_mode_of_its_own() {
    use std::os::unix::fs::MetadataExt;
    let mut spec: Value =
        serde_json::from_str(&cred_spec("WebApp02", lab("LAB_DOMAIN"), &secret_arn("gmsa/login"))).unwrap();
    spec["GmsaSidecar"] = json!({"Owner": "1654:1655", "Mode": "0640", "Keytab": true});
    put_object("overrides.json", spec.to_string().as_bytes());
    let bucket = lab("LAB_BUCKET");
    let specs = format!("arn:aws:s3:::{bucket}/webapp01.json arn:aws:s3:::{bucket}/overrides.json");
    let seen = |sidecar: &Sidecar, name: &str| {
        let stat = std::fs::metadata(sidecar.path(name)).unwrap();
        (stat.uid(), stat.gid(), stat.mode() & 0o777)
    };
    let sidecar = Sidecar::new().with("GMSA_CREDENTIAL_SPECS", &specs);
    sidecar.init().ok();
    for name in ["WebApp02/krb5cc", "WebApp02/krb5.keytab"] {
        assert_eq!(seen(&sidecar, name), (1654, 1655, 0o640), "{name}");
    }
    assert_eq!(seen(&sidecar, "WebApp02"), (1654, 1655, 0o750));
    assert_eq!(seen(&sidecar, "WebApp01/krb5cc"), (0, 0, 0o600));
    assert!(!sidecar.path("WebApp01/krb5.keytab").exists());

    let sidecar = Sidecar::new().with("GMSA_CREDENTIAL_SPECS", &specs).with("GMSA_MODE", "0600");
    let sidecar = sidecar.with("GMSA_KEYTAB", "false");
    sidecar.init().ok();
    assert_eq!(seen(&sidecar, "WebApp02/krb5cc"), (1654, 1655, 0o600));
    assert!(!sidecar.path("WebApp02/krb5.keytab").exists());
}
