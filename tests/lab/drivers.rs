//! SQL Server's drivers with the ticket and the krb5.conf on the volume: Microsoft's ODBC driver, and one with its own MIT
//! library inside. The slower ones are in `drivers_full`.

use crate::drivers_support::{
    BadKdc, Driver, Words, goes_on_and_recovers, logs_in_while_the_kdc_is_silent, odbc_string, sidecar,
};
use crate::support::{lab, write};

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
