//! What goes beyond one TGT of one domain.

use std::process::{Command, Stdio};

use serde_json::Value;

use crate::clock::OwnLab;
use crate::support::{Sidecar, count, cred_spec, inode, lab, put_secret, refresh, samba_tool, secret_arn, write};

fn database() -> String {
    format!("postgres/{}", lab("LAB_DB"))
}

/// Changes the directory: LDIF.
fn modify(ldif: &str) {
    use std::io::Write;
    let mut modify = Command::new("ldbmodify").args(["-H", lab("LAB_SAMDB")]).stdin(Stdio::piped()).spawn().unwrap();
    modify.stdin.take().unwrap().write_all(ldif.as_bytes()).unwrap();
    assert!(modify.wait().unwrap().success(), "{ldif}");
}

/// Gives or takes an SPN of the account of PostgreSQL.
pub fn spn(change: &str, spn: &str) {
    let base = lab("LAB_BASEDN");
    modify(&format!(
        "dn: CN=svc-postgres,CN=Users,{base}\nchangetype: modify\n{change}: servicePrincipalName\nservicePrincipalName: {spn}\n"
    ));
}

/// A krb5.conf whose only KDC nobody listens at.
fn without_a_kdc(sidecar: &Sidecar) {
    let conf = std::fs::read_to_string(sidecar.path("krb5.conf")).unwrap();
    let conf: Vec<_> = conf
        .lines()
        .map(|line| if line.contains("kdc = ") { "        kdc = 127.0.10.99" } else { line })
        .map(|line| line.replace("dns_lookup_kdc = true", "dns_lookup_kdc = false"))
        .collect();
    write(&sidecar.path("krb5.conf"), &conf.join("\n"));
}

#[test]
fn an_app_without_a_way_to_the_kdc_uses_the_service_ticket_in_the_cache() {
    let target = format!("host={} user='WebApp01$@EXAMPLE.COM' dbname=app gssencmode=require", lab("LAB_DB"));
    let connect = |sidecar: &Sidecar| {
        sidecar.init().ok();
        without_a_kdc(sidecar);
        sidecar.app(0, &["psql", &target, "-tAc", "SELECT principal FROM pg_stat_gssapi WHERE pid = pg_backend_pid()"])
    };
    let bare = connect(&Sidecar::of("webapp01.json"));
    assert_ne!(bare.code, Some(0), "the KDC was reached all the same: {bare:?}");
    let sidecar = Sidecar::of("webapp01.json").with("GMSA_SERVICE_TICKETS", &database());
    assert_eq!(connect(&sidecar).ok().trim(), "WebApp01$@EXAMPLE.COM");
    let listed = sidecar.app(0, &["klist"]).ok();
    assert!(listed.contains(&format!("{}@EXAMPLE.COM", database())), "{listed}");
    let listed = sidecar.call(&["klist"]).ok();
    assert!(listed.contains(&format!("service ticket {}@EXAMPLE.COM", database())), "{listed}");
}

#[test]
fn service_tickets_are_kept_for_the_gmsas_they_are_wanted_for() {
    let bucket = lab("LAB_BUCKET");
    let specs = format!("arn:aws:s3:::{bucket}/webapp01.json arn:aws:s3:::{bucket}/webapp02.json");
    let wanted = format!("cifs/{} webapp02={}", lab("LAB_DC1"), database());
    let sidecar = Sidecar::new().with("GMSA_CREDENTIAL_SPECS", &specs).with("GMSA_SERVICE_TICKETS", &wanted);
    let running = sidecar.run();
    running.wait_ready();
    let services = |place: usize| {
        let leases = sidecar.json("/leases");
        let services = leases["leases"][place]["service_tickets"].as_array().unwrap().clone();
        assert!(services.iter().all(|service| service["expires_at"].is_string()), "{services:?}");
        services.iter().map(|service| service["service"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let share = format!("cifs/{}", lab("LAB_DC1"));
    assert_eq!((services(0), services(1)), (vec![share.clone()], vec![share, database()]));
    let (_, metrics) = sidecar.http("GET", "/metrics").unwrap();
    assert!(metrics.contains("gmsa_service_ticket_expiry_timestamp_seconds{account=\"WebApp02\""), "{metrics}");

    // What a client appends to the cache stays; the guard of the volume knows our own tickets from it.
    let before = std::fs::read(sidecar.path("krb5cc")).unwrap();
    sidecar.app(0, &["kvno", &database()]).ok();
    let grown = std::fs::read(sidecar.path("krb5cc")).unwrap();
    assert!(grown.len() > before.len() && grown.starts_with(&before));
    std::fs::remove_file(sidecar.path("krb5.conf")).unwrap();
    running.wait("krb5.conf", || sidecar.path("krb5.conf").exists());
    assert_eq!(std::fs::read(sidecar.path("krb5cc")).unwrap(), grown);
}

#[test]
fn an_unknown_service_is_told_with_its_cure_and_waited_for() {
    let unknown = "HTTP/later.example.com";
    let sidecar = Sidecar::of("webapp01.json")
        .with("GMSA_SERVICE_TICKETS", &format!("{} {unknown}", database()))
        .with("GMSA_DOMAIN_CONTROLLERS", lab("LAB_DC1"));
    let running = sidecar.run();
    running.wait_fault("ticket-service-unknown");
    let fault = running.log().into_iter().find(|line| line["code"] == "ticket-service-unknown").unwrap();
    let next = fault["next"].as_str().unwrap();
    assert!(next.contains(&format!("setspn -S {unknown} ACCOUNT")), "{next}");
    let lease = || sidecar.json("/ready")["leases"][0].clone();
    assert_eq!(
        (lease()["state"].as_str(), lease()["fault"]["code"].as_str()),
        (Some("pending"), Some("ticket-service-unknown"))
    );
    assert_eq!((sidecar.http("GET", "/ready").unwrap().0, sidecar.http("GET", "/gate").unwrap().0), (503, 503));
    sidecar.app(0, &["klist", "-s"]).ok();
    assert_eq!(count(&running, "lease.pending"), 1, "{}", running.text());

    // Once the directory knows it, the next attempt gets it.
    spn("add", unknown);
    running.wait_ready();
    assert_eq!(lease()["state"], "held");

    // A ticket that cannot be renewed stays while it is good: nobody who needs it is hurt.
    spn("delete", unknown);
    let before = inode(&sidecar.path("krb5cc"));
    refresh(&running);
    running.wait("a renewal", || inode(&sidecar.path("krb5cc")) != before);
    running.wait("its fault", || lease()["fault"]["code"] == "ticket-service-unknown");
    assert_eq!(lease()["state"], "overdue");
    assert_eq!((sidecar.http("GET", "/ready").unwrap().0, sidecar.http("GET", "/gate").unwrap().0), (200, 200));
    without_a_kdc(&sidecar);
    sidecar.app(0, &["kvno", unknown]).ok();
    drop(running);

    // A warm start finds it on the volume.
    let sidecar = sidecar.with("GMSA_DOMAIN_CONTROLLERS", "nobody.example.com");
    let running = sidecar.run();
    running.wait_ready();
    drop(running);
    let sidecar = sidecar.with("GMSA_SERVICE_TICKETS", "HTTP/never.example.com");
    let running = sidecar.run();
    running.wait_fault("dc-address-not-found");
    assert_eq!(sidecar.http("GET", "/ready").unwrap().0, 503, "{}", sidecar.json("/ready"));
}

#[test]
fn init_writes_what_it_got_and_ends_with_the_fault_of_a_service() {
    let sidecar = Sidecar::of("webapp01.json").with("GMSA_SERVICE_TICKETS", "MSSQLSvc/none.example.com");
    let ended = sidecar.init();
    assert_eq!(ended.code, Some(65), "{ended:#?}");
    let fault = ended.fault();
    assert!(fault.starts_with("ticket-service-unknown") && fault.contains("MSSQLSvc/none.example.com:1433"), "{fault}");
    sidecar.app(0, &["klist", "-s"]).ok();
}

#[test]
fn check_tries_the_services_and_tells_who_has_the_name() {
    let sidecar = Sidecar::of("webapp01.json")
        .with("GMSA_SERVICE_TICKETS", &format!("{} HTTP/nobody.example.com NoSuchApp=HTTP/x.example.com", database()));
    let ended = sidecar.call(&["check", "--json"]);
    let report: Value = serde_json::from_str(&ended.stdout).unwrap();
    let steps: Vec<_> = report["steps"].as_array().unwrap().iter().filter(|s| s["step"] == "service-ticket").collect();
    let told = |place: usize| {
        let step = &steps[place];
        [&step["subject"], &step["result"], &step["code"]].map(|value| value.as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(told(0), ["NoSuchApp", "warn", "config-invalid"]);
    assert_eq!(told(1), [&database(), "pass", ""]);
    assert_eq!(told(2), ["HTTP/nobody.example.com", "fail", "ticket-service-unknown"]);
    assert!(steps[2]["why"].as_str().unwrap().ends_with("no account of `example.com` has it"), "{report:#}");
    assert_eq!(ended.code, Some(65));
    assert!(sidecar.files().is_empty());
}

/// A client's login to the service with a ticket from `ccache`, accepted with `keytab`: who it was.
pub const ACCEPT: &str = "
import sys, gssapi
service, ccache, keytab = sys.argv[1:]
name = gssapi.Name(service, gssapi.NameType.kerberos_principal)
client = gssapi.SecurityContext(name=name, creds=gssapi.Credentials(usage='initiate', store={'ccache': ccache}))
server = gssapi.SecurityContext(creds=gssapi.Credentials(usage='accept', store={'keytab': keytab}))
token = client.step()
while token and not server.complete:
    token = server.step(token)
    token = token and client.step(token)
print(server.initiator_name)
";

#[test]
fn a_keytab_accepts_and_logs_in_and_is_off_by_default() {
    let sidecar = Sidecar::of("webapp01.json").with("GMSA_OWNER", "65532:1654").with("GMSA_MODE", "0640");
    sidecar.init().ok();
    let keytabs = |sidecar: &Sidecar| sidecar.files().iter().filter(|path| path.ends_with("krb5.keytab")).count();
    assert_eq!(keytabs(&sidecar), 0);
    let sidecar = sidecar.with("GMSA_KEYTAB", "true");
    sidecar.init().ok();
    assert_eq!(keytabs(&sidecar), 2);
    for path in ["krb5.keytab", "WebApp01/krb5.keytab"] {
        use std::os::unix::fs::MetadataExt;
        let stat = std::fs::metadata(sidecar.path(path)).unwrap();
        assert_eq!((stat.uid(), stat.gid(), stat.mode() & 0o7777), (65532, 1654, 0o640));
    }
    let keytab = sidecar.path("krb5.keytab");
    let keytab = keytab.to_str().unwrap();
    let listed = sidecar.app(1654, &["klist", "-ke", keytab]).ok();
    for principal in ["WebApp01$@EXAMPLE.COM", "HTTP/webapp01.example.com@EXAMPLE.COM"] {
        for enctype in ["aes256-cts-hmac-sha1-96", "aes128-cts-hmac-sha1-96"] {
            assert!(listed.contains(&format!("   1 {principal} ({enctype})")), "{listed}");
        }
    }
    // The key of each enctype is that of the account.
    for enctype in ["aes256-cts-hmac-sha1-96", "aes128-cts-hmac-sha1-96"] {
        let script = format!(
            "sed 's/^.libdefaults.$/&\\n    default_tkt_enctypes = {enctype}/' $KRB5_CONFIG >$HOME/conf && \
             KRB5_CONFIG=$HOME/conf KRB5CCNAME=$HOME/cc kinit -kt $0 'WebApp01$@EXAMPLE.COM'"
        );
        sidecar.app(1654, &["sh", "-c", &script, keytab]).ok();
    }
    let accepted = accept(&sidecar, "HTTP/webapp01.example.com", None);
    assert_eq!(accepted.trim(), format!("{}@EXAMPLE.COM", lab("LAB_USER")));

    // It is looked after, and a start without it is no warm one.
    let running = sidecar.run();
    running.wait("a renewal", || count(&running, "lease.renewed") == 1);
    std::fs::remove_file(keytab).unwrap();
    running.wait("the keytab", || std::path::Path::new(keytab).exists());
    drop(running);
    std::fs::remove_file(sidecar.path("WebApp01/krb5.keytab")).unwrap();
    let sidecar = sidecar.with("GMSA_DOMAIN_CONTROLLERS", "nobody.example.com");
    let running = sidecar.run();
    running.wait_fault("dc-address-not-found");
    assert_eq!((count(&running, "lease.warm"), sidecar.http("GET", "/ready").unwrap().0), (0, 503));
}

/// The service accepts a login with the client's ticket in `ccache`, or with a new one.
fn accept(sidecar: &Sidecar, service: &str, ccache: Option<&std::path::Path>) -> String {
    let fresh = tempfile::NamedTempFile::new().unwrap();
    let ccache = ccache.unwrap_or(fresh.path()).to_str().unwrap();
    let script = format!(
        "[ -s $0 ] || echo '{}' | kinit -c $0 {} >/dev/null; KRB5RCACHETYPE=none /usr/bin/python3 -c \"$1\" $2 $0 $3",
        lab("LAB_USER_PW"),
        lab("LAB_USER")
    );
    let keytab = sidecar.path("krb5.keytab");
    sidecar.app(0, &["sh", "-c", &script, ccache, ACCEPT, service, keytab.to_str().unwrap()]).ok()
}

#[test]
fn a_keytab_holds_the_old_key_beside_the_new_one() {
    let rotate = |arguments: &[&str]| {
        let output = Command::new(crate::support::root().join("lab/rotate")).args(arguments).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    rotate(&["new", "Accepting"]);
    let (service, ou) = ("HTTP/accepting.example.com", lab("LAB_GMSA_OU"));
    modify(&format!(
        "dn: CN=Accepting,{ou}\nchangetype: modify\nadd: servicePrincipalName\nservicePrincipalName: {service}\n"
    ));
    let sidecar = Sidecar::inline("Accepting", "gmsa/login")
        .with("GMSA_DOMAIN_CONTROLLERS", lab("LAB_DC1"))
        .with("GMSA_KEYTAB", "true");
    let running = sidecar.run();
    running.wait_ready();
    let old = tempfile::NamedTempFile::new().unwrap();
    accept(&sidecar, service, Some(old.path()));
    rotate(&["Accepting"]);
    accept(&sidecar, service, Some(old.path()));
    refresh(&running);
    let versions = || {
        let listed = sidecar.app(0, &["klist", "-k", sidecar.path("krb5.keytab").to_str().unwrap()]).ok();
        let versions =
            listed.lines().filter(|line| line.contains("Accepting$")).map(|line| line[..4].trim().to_owned());
        versions.collect::<Vec<_>>().join(" ")
    };
    running.wait("the new key", || versions() == "2 2 1 1");
    // A ticket made with the old key, and one made with the new one.
    accept(&sidecar, service, Some(old.path()));
    accept(&sidecar, service, None);
    rotate(&["del", "Accepting"]);
}

/// A CredSpec as Windows makes it for a host that is joined to the domain.
fn joined() -> String {
    let mut spec: Value =
        serde_json::from_str(&cred_spec("WebApp01", lab("LAB_DOMAIN"), &secret_arn("gmsa/login"))).unwrap();
    spec["ActiveDirectoryConfig"]["HostAccountConfig"] = Value::Null;
    spec.to_string()
}

/// A computer account of this test's own that may read the gMSAs, and its keytab.
fn computer(name: &str, password: &str, keytab: &std::path::Path) {
    samba_tool(&["computer", "create", name]);
    samba_tool(&["user", "setpassword", &format!("{name}$"), &format!("--newpassword={password}")]);
    samba_tool(&["group", "addmembers", lab("LAB_GROUP"), &format!("{name}$")]);
    let (principal, keytab) = (format!("--principal={name}$"), keytab.to_str().unwrap());
    let export = ["domain", "exportkeytab", keytab, &principal, "-s", lab("LAB_SMB_CONF")];
    let output = Command::new("samba-tool").args(export).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_hosts_keytab_is_a_login() {
    let folder = tempfile::TempDir::new().unwrap();
    let keytab = folder.path().join("host.keytab");
    computer("TICHOST", "0ne-Passw0rd", &keytab);
    let sidecar = Sidecar::new()
        .with("GMSA_CREDENTIAL_SPECS", &joined())
        .with("GMSA_DOMAIN_CONTROLLERS", lab("LAB_DC1"))
        .without("AWS_ACCESS_KEY_ID");
    let ended = sidecar.init();
    assert_eq!((ended.code, ended.fault().split(' ').next()), (Some(78), Some("config-login-missing")), "{ended:?}");

    let sidecar = sidecar.with("GMSA_LOGIN_KEYTAB", keytab.to_str().unwrap());
    sidecar.init().ok();
    assert!(sidecar.app(0, &["klist"]).ok().contains("WebApp01$@EXAMPLE.COM"));
    let checked = sidecar.call(&["check", "--json"]);
    let report: Value = serde_json::from_str(&checked.stdout).unwrap();
    let step =
        |name: &str| report["steps"].as_array().unwrap().iter().find(|step| step["step"] == name).unwrap().clone();
    assert_eq!(checked.code, Some(0), "{report:#}");
    assert!(step("keytab")["what"].as_str().unwrap().starts_with("login `TICHOST$` of `example.com`; version "));
    assert_eq!(step("login")["subject"], "TICHOST$@EXAMPLE.COM");
    sidecar.init_with("GMSA_LOGIN_PRINCIPAL", "tichost$@EXAMPLE.COM").ok();

    // The host's password changes: the old keys are refused once, and not sent again.
    let sidecar = sidecar.with("GMSA_INIT_TIMEOUT", "1s");
    for name in ["WebApp01", "krb5cc", "krb5.conf"] {
        let path = sidecar.path(name);
        let _ = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    }
    samba_tool(&["user", "setpassword", "TICHOST$", "--newpassword=An0ther-Passw0rd"]);
    let running = sidecar.run();
    running.wait_fault("ticket-login-refused");
    drop(running);
    computer("TICHOST", "An0ther-Passw0rd", &folder.path().join("new.keytab"));
    std::fs::rename(folder.path().join("new.keytab"), &keytab).unwrap();
    sidecar.init().ok();
}

#[test]
fn keytabs_that_are_no_login() {
    let folder = tempfile::TempDir::new().unwrap();
    let (broken, other) = (folder.path().join("broken.keytab"), folder.path().join("other.keytab"));
    write(&broken, "not a keytab");
    computer("TICOTHER", "0ne-Passw0rd", &other);
    let with = |path: &std::path::Path| {
        Sidecar::new()
            .with("GMSA_CREDENTIAL_SPECS", &joined())
            .with("GMSA_DOMAIN_CONTROLLERS", lab("LAB_DC1"))
            .with("GMSA_LOGIN_KEYTAB", path.to_str().unwrap())
    };
    let missing = std::path::Path::new("/no/such.keytab");
    let report = crate::faults::told(vec![
        ("no file", with(missing)),
        ("no keytab", with(&broken)),
        ("another principal", with(&other).with("GMSA_LOGIN_PRINCIPAL", "WEB01$")),
    ]);
    insta::assert_snapshot!(report.replace(folder.path().to_str().unwrap(), "/etc"));
}

/// The login belongs to other.test, the gMSA to example.com, and the gMSA's app uses a service in other.test.
#[test]
fn domains_that_trust_each_other() {
    let own = OwnLab::up();
    own.lab("trust");
    let within = own.wrapper(false);
    let sidecar = Sidecar::of("webappfar.json").dynamic().through(&within).with("GMSA_MODE", "0600");
    sidecar.init().ok();
    assert!(sidecar.app(0, &["klist"]).ok().contains("WebAppFar$@EXAMPLE.COM"));
    let checked = sidecar.call(&["check"]);
    let lines = checked.ok();
    assert!(lines.contains("login svc-foreign@OTHER.TEST"), "{lines}");
    assert!(lines.contains("by the trust between the domains"), "{lines}");

    // The KDC of example.com refers to that of other.test for the service.
    let (dc1, dc3) = (lab("LAB_DC1"), lab("LAB_OTHER_DC"));
    let sidecar = sidecar
        .with("GMSA_DOMAIN_CONTROLLERS", &format!("example.com={dc1}; other.test={dc3}"))
        .with("GMSA_SERVICE_TICKETS", &format!("cifs/{dc3}"));
    sidecar.init().ok();
    without_a_kdc(&sidecar);
    let app = |command: &[&str]| {
        let words: Vec<&str> = within.iter().map(String::as_str).chain(command.iter().copied()).collect();
        sidecar.app(0, &words)
    };
    let used = app(&["kvno", "-S", "cifs", dc3]).ok();
    assert!(used.contains(&format!("cifs/{dc3}@")), "{used}");
    assert_ne!(app(&["kvno", "-S", "ldap", dc3]).code, Some(0), "a KDC was reached all the same");
    let cache = format!("--use-krb5-ccache={}", sidecar.path("krb5cc").display());
    app(&["smbclient", "--configfile=/dev/null", &cache, &format!("//{dc3}/app"), "-c", "ls"]).ok();
}

/// An account whose password was set before the domain knew AES: its only key is the NT hash.
#[test]
fn accounts_without_aes_keys_are_told_with_the_cure() {
    samba_tool(&["user", "create", "svc-rc4", "Rc4-0nly-Passw0rd"]);
    samba_tool(&["user", "setpassword", "svc-rc4", "--newpassword=Rc4-0nly-Passw0rd"]);
    let forgotten = Command::new(crate::support::root().join("lab/forget-aes"));
    let forgotten = { forgotten }.arg("svc-rc4").output().unwrap();
    assert!(forgotten.status.success(), "{forgotten:?}");
    let login = serde_json::json!({"username": "svc-rc4", "password": "Rc4-0nly-Passw0rd"}).to_string();
    let arn = put_secret("gmsa/rc4", &login);
    let spec = cred_spec("WebApp01", lab("LAB_DOMAIN"), &arn);
    let sidecar = Sidecar::new().with("GMSA_CREDENTIAL_SPECS", &spec).with("GMSA_DOMAIN_CONTROLLERS", lab("LAB_DC1"));
    insta::assert_snapshot!(crate::faults::told(vec![("a login without AES keys", sidecar)]));
}
