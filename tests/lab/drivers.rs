//! SQL Server's drivers with the ticket and the krb5.conf on the volume: Microsoft's ODBC driver, and one with its own MIT
//! library inside. The slower ones are in `drivers_full`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;

use crate::drivers_support::{
    BadKdc, Driver, Words, goes_on_and_recovers, logs_in_while_the_kdc_is_silent, odbc_string, sidecar,
};
use crate::examples::{Fake, relayed};
use crate::support::{count, inode, lab, refresh, write};
use crate::tickets::spn;

#[test]
fn microsofts_odbc_driver_logs_in_by_isql() {
    let sidecar = sidecar("");
    sidecar.init().ok();
    for (encrypt, tls) in [("yes;TrustServerCertificate=yes", "TLSv1.2"), ("strict", "TLSv1.3")] {
        let string = odbc_string(lab("LAB_DB")).replace("yes;TrustServerCertificate=yes", encrypt);
        let certificate = std::fs::read_to_string(format!("{}/ca/ca.pem", lab("LAB_STATE"))).unwrap();
        write(&sidecar.path("ca.pem"), &certificate);
        let isql = Driver::new("", &["isql", "-b", "-v", "-k", &string]).with("SSL_CERT_FILE", "/mnt/volume/ca.pem");
        let seen = isql.call(&sidecar, "SELECT SUSER_SNAME()\nSELECT SEEN()\n").ok();
        assert!(seen.contains("WebApp01$@EXAMPLE.COM") && seen.contains(&format!("tls={tls}")), "{seen}");
        assert!(seen.contains("spn=MSSQLSvc/db.example.com:1433 delegated=nothing"), "{seen}");
    }
}

#[test]
fn odbc_needs_no_kdc_with_a_service_ticket() {
    logs_in_while_the_kdc_is_silent(&Driver::odbc(lab("LAB_DB")));
}

#[test]
fn odbc_goes_on_over_renewals_and_recovers() {
    goes_on_and_recovers(
        &Driver::odbc(lab("LAB_DB")),
        &Words {
            expired: Some("SSPI Provider: Ticket expired"),
            unreadable: "Credentials cache permissions incorrect",
            missing: "No Kerberos credentials available (default cache: ",
        },
    );
}

#[test]
fn odbc_asks_for_the_full_name_whatever_the_server_is_called() {
    let sidecar = sidecar("");
    sidecar.init().ok();
    for (server, spn) in [
        ("db", "MSSQLSvc/db.example.com:1433"),
        (lab("LAB_DB_ALIAS"), "MSSQLSvc/db.example.com:1433"),
        ("db.example.com\\PROD", "MSSQLSvc/db.example.com:14330"),
    ] {
        Driver::odbc(server).pool(&sidecar, None).ask("open").saw(&format!("spn={spn}")).number();
    }
    let mut by_address = Driver::odbc(lab("LAB_DB_IP")).pool(&sidecar, None);
    by_address.fails("SSPI Provider: Server not found in Kerberos database");
    let named = format!("{};ServerSPN=MSSQLSvc/db.example.com:1433", lab("LAB_DB_IP"));
    Driver::odbc(&named).pool(&sidecar, None).open();
}

/// What `enforce_ok_as_delegate` must not break: the directory trusts this service, so it gets the TGT.
#[test]
fn a_service_that_is_trusted_for_delegation_still_gets_the_tgt() {
    let sidecar = sidecar("");
    sidecar.init().ok();
    let mut pool = Driver::odbc(lab("LAB_DB_TRUSTED")).pool(&sidecar, None);
    pool.ask("open").saw("spn=MSSQLSvc/trusted.example.com:1433").saw("delegated=WebApp01$@EXAMPLE.COM").number();
}

#[test]
fn pymssql_needs_no_kdc_with_a_service_ticket() {
    logs_in_while_the_kdc_is_silent(&Driver::pymssql(lab("LAB_DB"), "pymssql"));
}

#[test]
fn pymssql_goes_on_over_renewals_and_recovers() {
    let words = "TDS server connection failed";
    let words = Words { expired: Some(words), unreadable: words, missing: words };
    goes_on_and_recovers(&Driver::pymssql(lab("LAB_DB"), "pymssql"), &words);
}

#[test]
fn freetds_logs_in_by_tsql() {
    let sidecar = sidecar("");
    sidecar.init().ok();
    let tsql = Driver::new("", &["tsql", "-H", lab("LAB_DB"), "-p", "1433"]);
    let seen = tsql.call(&sidecar, "SELECT SEEN()\ngo\nexit\n").ok();
    assert!(
        seen.contains("principal=WebApp01$@EXAMPLE.COM spn=MSSQLSvc/db.example.com:1433 delegated=nothing"),
        "{seen}"
    );
}

/// A host-based name, as psql and others use it, is looked up behind an alias only if the KDC does not know the alias.
#[test]
fn mit_falls_back_to_the_name_behind_an_alias() {
    let sidecar = sidecar("");
    sidecar.init().ok();
    let program = "import gssapi, sys\n\
                   name = gssapi.Name(sys.argv[1], gssapi.NameType.hostbased_service)\n\
                   print(len(gssapi.SecurityContext(name=name, usage='initiate').step()) > 1000)";
    for host in [lab("LAB_DB"), lab("LAB_DB_ALIAS")] {
        let client = Driver::new("", &["/usr/bin/python3", "-c", program, &format!("postgres@{host}")]);
        assert_eq!(client.call(&sidecar, "").ok().trim(), "True", "{host}");
    }
}

/// Constrained delegation (MS-SFU, S4U2Proxy): a service that is not trusted with the TGT acts for the app at the database,
/// with nothing but the app's ticket for itself. It works since that ticket is forwardable.
#[test]
fn a_front_end_acts_for_the_app_by_constrained_delegation() {
    let sidecar = sidecar("");
    sidecar.init().ok();
    let front = lab("LAB_FRONT");
    let program = format!(
        "import gssapi, os\n\
         def service(text): return gssapi.Name(text, gssapi.NameType.hostbased_service)\n\
         def initiate(name, creds=None): return gssapi.SecurityContext(name=name, creds=creds, usage='initiate').step()\n\
         token = initiate(service('HTTP@{front}'))\n\
         os.environ['KRB5CCNAME'] = 'MEMORY:front'\n\
         keytab = {{'keytab': '{keytab}', 'client_keytab': '{keytab}', 'ccache': 'MEMORY:front'}}\n\
         own = gssapi.Credentials(name=gssapi.Name('svc-front@EXAMPLE.COM'), usage='both', store=keytab)\n\
         accepted = gssapi.SecurityContext(creds=own, usage='accept')\n\
         accepted.step(token)\n\
         client = accepted.delegated_creds\n\
         database = gssapi.Name('MSSQLSvc/db.example.com:1433@EXAMPLE.COM', gssapi.NameType.kerberos_principal)\n\
         server = gssapi.SecurityContext(creds=gssapi.Credentials(usage='accept', store={{'keytab': '{sql}'}}), usage='accept')\n\
         server.step(initiate(database, client))\n\
         print(server.initiator_name)",
        keytab = format_args!("{}/front.keytab", lab("LAB_SQL")),
        sql = format_args!("{}/sql.keytab", lab("LAB_SQL")),
    );
    // As root: the keytabs are the services'.
    let seen = sidecar.app(0, &["/usr/bin/python3", "-c", &program]).ok();
    assert_eq!(seen.trim(), "WebApp01$@EXAMPLE.COM");
}

#[test]
fn odbc_asks_the_next_kdc_soon() {
    let (sidecar, kdc) = (sidecar(""), BadKdc::dead());
    sidecar.init().ok();
    let conf = kdc.conf(&sidecar, false);
    let answer = Driver::odbc(lab("LAB_DB")).pool(&sidecar, Some(conf.path())).ask("open");
    answer.number();
    assert!((900..4000).contains(&answer.took_ms), "MIT waits a second for a KDC before it asks the next: {answer:?}");
}

/// SPNs of an account of the lab, until the end of a test. Their host has this test's own name.
struct Registered(Vec<String>);

impl Registered {
    fn new(host: &str, ports: &[&str]) -> Self {
        let host = format!("{host}{}.example.com", std::process::id());
        let names: Vec<_> = ports.iter().map(|port| format!("MSSQLSvc/{host}{port}")).collect();
        names.iter().for_each(|name| spn("add", name));
        Self(names)
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.0.iter().for_each(|name| spn("delete", name));
    }
}

/// SqlClient asks for the name without the port, the others with it. Naming one of them brings both where both exist.
#[test]
fn the_other_name_of_a_sql_server_comes_along_where_the_directory_knows_it() {
    for (host, ports) in [("portonly", [":1433"].as_slice()), ("plainonly", &[""]), ("both", &["", ":1433"])] {
        let registered = Registered::new(host, ports);
        for named in &registered.0 {
            let other = named.strip_suffix(":1433").map_or_else(|| format!("{named}:1433"), str::to_owned);
            let sidecar = sidecar(named).with("GMSA_DOMAIN_CONTROLLERS", lab("LAB_DC1"));
            sidecar.init().ok();
            let listed = sidecar.call(&["klist"]).ok();
            let holds = |name: &str| listed.contains(&format!(" {name}@EXAMPLE.COM"));
            assert!(holds(named), "{named}: {listed}");
            assert_eq!(holds(&other), ports.len() == 2, "{other}: {listed}");

            let report: Value = serde_json::from_str(&sidecar.call(&["check", "--json"]).ok()).unwrap();
            let steps = report["steps"].as_array().unwrap();
            let result = |name: &str| {
                let step = steps.iter().find(|step| step["step"] == "service-ticket" && step["subject"] == name);
                step.unwrap_or_else(|| panic!("no step for {name}: {report:#}"))
            };
            assert_eq!(result(named)["result"], "pass");
            if ports.len() == 2 {
                assert_eq!(result(&other)["result"], "pass");
            } else {
                let what = format!("The KDC does not know the SPN `{other}`, the other name of `{named}`");
                assert_eq!((&result(&other)["result"], &result(&other)["what"]), (&"warn".into(), &what.into()));
            }
        }
    }
}

/// A twin that is missing costs one question to one KDC in a day, and neither readiness nor a fault.
#[test]
fn a_missing_other_name_is_asked_of_one_kdc_once() {
    let registered = Registered::new("once", &[":1433"]);
    let named = registered.0[0].clone();
    let host = named.strip_prefix("MSSQLSvc/").and_then(|name| name.strip_suffix(":1433")).unwrap().to_owned();
    let asked: [Arc<AtomicUsize>; 2] = Default::default();
    let (with_port, plain) = (Arc::clone(&asked[0]), Arc::clone(&asked[1]));
    let fake = Fake::start(move |_, request| {
        // A TGS-REQ (RFC 4120 section 5.4.2) names the service in the clear.
        let named = |name: &str| request.windows(name.len()).any(|part| part == name.as_bytes());
        if request.first() == Some(&0x6c) && named(&host) {
            let counter = if named(&format!("{host}:1433")) { &with_port } else { &plain };
            counter.fetch_add(1, Ordering::SeqCst);
        }
        relayed(request)
    });
    let sidecar = fake.sidecar().with("GMSA_DOMAIN_CONTROLLERS", "dc1.example.com near.example.com");
    let sidecar = sidecar.with("GMSA_SERVICE_TICKETS", &named);
    let running = sidecar.run();
    running.wait_ready();
    let before = inode(&sidecar.path("krb5cc"));
    refresh(&running);
    running.wait("a renewal", || inode(&sidecar.path("krb5cc")) != before);
    running.wait("its end", || count(&running, "lease.renewed") == 2);
    let asked = asked.map(|count| count.load(Ordering::SeqCst));
    assert_eq!(asked, [2, 1], "questions for the SPN with the port and for the one without: {}", running.text());
    assert_eq!(count(&running, "ticket.no-twin"), 1);
    assert_eq!(count(&running, "dc.failed") + count(&running, "lease.pending"), 0, "{}", running.text());
    assert_eq!(sidecar.json("/ready")["leases"][0]["state"], "held");
}
