//! The drivers that `lab/install --drivers` fetches, in `scripts/full`: .NET, Java, Go, an old MIT library.

use std::path::Path;

use crate::drivers_support::{
    BadKdc, Driver, SPNS, Words, goes_on_and_recovers, logs_in_while_the_kdc_is_silent, sidecar,
};
use crate::support::lab;

/// .NET's SqlClient. The OpenSSL 1.1 that its runtime needs travels in pymssql's wheel; only this test uses it so.
fn sqlclient(server: &str) -> Driver {
    let service = "/mnt/drivers/sqlclient/mssqlcli/mssqltoolsservice/bin/MicrosoftSqlToolsServiceLayer";
    Driver::new("MSSQLSvc/db.example.com", &["/usr/bin/python3", "/mnt/clients/sqlclient.py", service, server])
        .with("DOTNET_SYSTEM_GLOBALIZATION_INVARIANT", "1")
        .with("LD_LIBRARY_PATH", "/mnt/drivers/sqlclient/openssl")
}

const WITH_PORT: &str = "MSSQLSvc/db.example.com:1433";
/// The port of the lab's SQL Server that does without TLS.
const PLAIN_PORT: &str = "14331";

fn java(options: &[&str]) -> Driver {
    let mut command = vec!["java", "-Djava.security.krb5.conf=/mnt/krb5.conf", "-cp", "/mnt/drivers/java"];
    command.extend(options);
    command.extend(["Pool", lab("LAB_DB"), PLAIN_PORT, WITH_PORT]);
    Driver::new(WITH_PORT, &command)
}

fn java_with_the_native_library() -> Driver {
    java(&["-Dsun.security.jgss.native=true", "-Djavax.security.auth.useSubjectCredsOnly=false"])
}

fn go() -> Driver {
    let server = format!("{}:{PLAIN_PORT}", lab("LAB_DB"));
    Driver::new(WITH_PORT, &["/mnt/drivers/go/pool", &server, WITH_PORT])
}

#[test]
fn sqlclient_needs_no_kdc_with_a_service_ticket() {
    logs_in_while_the_kdc_is_silent(&sqlclient(lab("LAB_DB")));
}

#[test]
fn sqlclient_goes_on_over_renewals_and_recovers() {
    goes_on_and_recovers(
        &sqlclient(lab("LAB_DB")),
        &Words {
            expired: Some("(Ticket expired)"),
            unreadable: "(SPNEGO cannot find mechanisms to negotiate)",
            missing: "(SPNEGO cannot find mechanisms to negotiate)",
        },
    );
}

#[test]
fn sqlclient_asks_without_the_port_and_by_the_full_name() {
    let sidecar = sidecar("");
    sidecar.init().ok();
    let mut pool = sqlclient("").pool(&sidecar, None);
    for (server, spn) in [
        ("db", "MSSQLSvc/db.example.com"),
        ("db.example.com,1433", "MSSQLSvc/db.example.com:1433"),
        (lab("LAB_DB_ALIAS"), "MSSQLSvc/db.example.com"),
        ("db.example.com\\PROD", "MSSQLSvc/db.example.com:prod"),
    ] {
        pool.ask(&format!("open {server}")).saw(&format!("spn={spn}")).saw("delegated=nothing").number();
    }
    pool.ask(&format!("open {}", lab("LAB_DB_TRUSTED"))).saw("delegated=WebApp01$@EXAMPLE.COM").number();
}

/// The JDK knows no `enforce_ok_as_delegate`, and never looks for service tickets in a cache.
#[test]
fn java_hands_out_the_tgt_and_always_asks_the_kdc() {
    let (sidecar, kdc) = (sidecar(SPNS), BadKdc::silent());
    sidecar.init().ok();
    let mut pool = java(&[]).pool(&sidecar, None);
    pool.ask("open").saw(&format!("spn={WITH_PORT}")).saw("delegated=WebApp01$@EXAMPLE.COM").number();
    let conf = kdc.conf(&sidecar, true);
    java(&[]).pool(&sidecar, Some(conf.path())).fails("");
    assert!(kdc.connections() > 0, "Java did not ask the KDC");
}

#[test]
fn java_goes_on_over_renewals_and_recovers() {
    // JDBC's own handler makes "Cannot get any of properties: [user, USER]" of it.
    let words = "LoginException: Unable to obtain Principal Name for authentication";
    goes_on_and_recovers(&java(&[]), &Words { expired: Some(words), unreadable: words, missing: words });
}

/// A dead first KDC cost 90 seconds without `kdc_timeout` and `max_retries`; one that takes the connection as much.
#[test]
fn java_asks_the_next_kdc_soon() {
    let sidecar = sidecar("");
    sidecar.init().ok();
    for kdc in [BadKdc::dead(), BadKdc::silent()] {
        let conf = kdc.conf(&sidecar, false);
        let answer = java(&[]).pool(&sidecar, Some(conf.path())).ask("open");
        answer.number();
        assert!((2500..9000).contains(&answer.took_ms), "{answer:?}");
    }
}

#[test]
fn java_with_the_native_library_needs_no_kdc_with_a_service_ticket() {
    logs_in_while_the_kdc_is_silent(&java_with_the_native_library());
}

#[test]
fn go_needs_no_kdc_with_a_service_ticket() {
    logs_in_while_the_kdc_is_silent(&go());
}

#[test]
fn go_goes_on_over_renewals_and_recovers() {
    goes_on_and_recovers(
        &go(),
        &Words { expired: None, unreadable: "permission denied", missing: "no such file or directory" },
    );
}

/// Why documents and examples write the plain path.
#[test]
fn go_does_not_know_the_type_of_a_cache() {
    let sidecar = sidecar("");
    sidecar.init().ok();
    let mut pool = go().with("KRB5CCNAME", "FILE:/mnt/volume/krb5cc").pool(&sidecar, None);
    pool.fails("open FILE:/mnt/volume/krb5cc: no such file or directory");
}

/// Others than Java and MIT may not get worse by the two lines for Java.
#[test]
fn go_and_heimdal_ask_the_next_kdc_as_soon_as_they_would_by_themselves() {
    let (sidecar, kdc) = (sidecar(""), BadKdc::dead());
    sidecar.init().ok();
    let with = kdc.conf(&sidecar, false);
    let text = std::fs::read_to_string(with.path()).unwrap();
    let without: String = text
        .lines()
        .filter(|line| !line.contains("kdc_timeout") && !line.contains("max_retries"))
        .flat_map(|line| [line, "\n"])
        .collect();
    let plain = kdc.conf(&sidecar, false);
    crate::support::write(plain.path(), &without);
    let share = ["smbclient", "--configfile=/dev/null", "--option=lock directory=/mnt/home"];
    let share = [&share[..], &["--use-krb5-ccache=/mnt/volume/krb5cc", lab("LAB_SMB"), "-c", "ls"]].concat();
    let smbclient = Driver::new("", &share);
    let took = |driver: &Driver, conf: &Path| {
        let start = std::time::Instant::now();
        if driver.command[0] == "smbclient" {
            let output = driver.container(&sidecar, Some(conf)).output().unwrap();
            assert!(output.status.success(), "{output:?}");
        } else {
            driver.pool(&sidecar, Some(conf)).open();
        }
        start.elapsed()
    };
    for driver in [go(), smbclient] {
        let (with, without) = (took(&driver, with.path()), took(&driver, plain.path()));
        println!("{}: {with:?} with the two lines, {without:?} without", driver.command[0]);
        assert!(with < without + std::time::Duration::from_secs(2), "{with:?} and {without:?}");
    }
}

/// The wheel for systems with an old glibc: MIT 1.15 takes only booleans. A limit that README states.
#[test]
fn mit_before_1_18_cannot_read_our_krb5_conf() {
    let sidecar = sidecar("");
    sidecar.init().ok();
    let old = Driver::pymssql(lab("LAB_DB"), "pymssql-old");
    old.pool(&sidecar, None).fails("Adaptive Server connection failed");
    // It is that one line.
    let text = std::fs::read_to_string(sidecar.path("krb5.conf")).unwrap();
    let conf = BadKdc::silent().conf(&sidecar, false);
    crate::support::write(conf.path(), &text.replace("    dns_canonicalize_hostname* = fallback\n", ""));
    old.pool(&sidecar, Some(conf.path())).open();
}
