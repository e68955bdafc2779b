use std::os::unix::fs::MetadataExt;

use tempfile::TempDir;

use crate::support::{Sidecar, cred_spec, lab, secret_arn, write};

#[test]
fn health_gates_on_the_ticket_and_sigterm_ends_at_once() {
    let sidecar = Sidecar::of("webapp01.json");
    let down = sidecar.call(&["health"]);
    assert_eq!(down.code, Some(1));
    assert_eq!(down.stderr.lines().count(), 3, "{down:?}");

    let mut running = sidecar.run();
    let healthy = sidecar.call(&["health", "--wait", "30s"]);
    assert_eq!((healthy.code, healthy.stdout.as_str(), healthy.stderr.as_str()), (Some(0), "", ""));
    assert!(sidecar.path("krb5cc").exists(), "healthy before the ticket is there");
    running.signal("TERM");
    assert_eq!(running.wait_end(), Some(0));
}

#[test]
fn readiness_is_served_before_anything_else_and_tells_the_fault() {
    // AWS hangs: an address that nobody answers on, since nobody accepts.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let sidecar = Sidecar::of("webapp01.json").with("AWS_ENDPOINT_URL", &endpoint);
    let running = sidecar.run();
    running.wait("the server", || sidecar.http("GET", "/health").is_some());
    assert_eq!(sidecar.http("GET", "/health").unwrap().0, 200);
    assert_eq!(sidecar.http("GET", "/ready").unwrap().0, 503);
    assert_eq!(sidecar.http("GET", "/gate").unwrap().0, 503);
    let ready = sidecar.json("/ready");
    assert_eq!(ready["ready"], false);
    assert_eq!(ready["leases"][0]["state"], "pending");
}

#[test]
fn ready_leases_and_metrics_tell_of_the_ticket() {
    let sidecar = Sidecar::of("webapp01.json");
    let running = sidecar.run();
    running.wait_ready();
    let ready = sidecar.json("/ready");
    let lease = &ready["leases"][0];
    assert_eq!(lease["account"], "WebApp01");
    assert_eq!(lease["realm"], "EXAMPLE.COM");
    assert_eq!(lease["state"], "held");
    assert_eq!(lease["path"], sidecar.path("WebApp01/krb5cc").to_str().unwrap());
    assert!(lease["fault"].is_null() && ready["fault"].is_null());
    let leases = sidecar.json("/leases");
    assert_eq!(leases["leases"][0]["dc"], lab("LAB_DC1"));
    assert_eq!(leases["leases"][0]["kvno"], 1);
    let (_, metrics) = sidecar.http("GET", "/metrics").unwrap();
    assert!(metrics.contains("gmsa_ready 1"), "{metrics}");
    assert!(metrics.contains(r#"gmsa_renewals_total{account="WebApp01",realm="EXAMPLE.COM",result="success"} 1"#));
}

#[test]
fn a_refresh_renews_now_and_once_in_ten_seconds() {
    let sidecar = Sidecar::of("webapp01.json");
    let running = sidecar.run();
    running.wait_ready();
    let before = std::fs::metadata(sidecar.path("krb5cc")).unwrap().ino();
    assert_eq!(sidecar.http("POST", "/refresh").unwrap().0, 202);
    assert_eq!(sidecar.http("POST", "/refresh").unwrap().0, 429);
    running.wait("a new ticket", || std::fs::metadata(sidecar.path("krb5cc")).unwrap().ino() != before);
    assert_eq!(sidecar.http("GET", "/ready").unwrap().0, 200);
}

#[test]
fn a_warm_start_is_ready_although_ad_is_gone() {
    let sidecar = Sidecar::of("webapp01.json");
    sidecar.init().ok();
    let sidecar = sidecar.with("GMSA_DOMAIN_CONTROLLERS", "nobody.example.com");
    let running = sidecar.run();
    running.wait_ready();
    running.wait("a failed renewal", || sidecar.json("/ready")["leases"][0]["state"] == "overdue");
    assert_eq!(sidecar.http("GET", "/ready").unwrap().0, 200, "a failed renewal took the ticket's readiness");
    let (_, page) = sidecar.http("GET", "/").unwrap();
    assert!(page.contains("dc-address-not-found"), "{page}");
}

#[test]
fn a_cache_of_somebody_else_is_no_warm_start() {
    let sidecar = Sidecar::of("webapp02.json");
    sidecar.init().ok();
    std::fs::rename(sidecar.path("WebApp02"), sidecar.path("WebApp01")).unwrap();
    let sidecar = sidecar
        .with("GMSA_CREDENTIAL_SPECS", &format!("arn:aws:s3:::{}/webapp01.json", lab("LAB_BUCKET")))
        .with("GMSA_DOMAIN_CONTROLLERS", "nobody.example.com");
    let running = sidecar.run();
    running.wait_fault("dc-address-not-found");
    assert_eq!(sidecar.http("GET", "/ready").unwrap().0, 503);
}

#[test]
fn init_ends_with_143_on_sigterm() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let sidecar = Sidecar::of("webapp01.json").with("AWS_ENDPOINT_URL", &endpoint);
    let mut running = sidecar.start("init");
    // Once it has connected it is past setting up its signals.
    let _connection = listener.accept().unwrap();
    running.signal("TERM");
    assert_eq!(running.wait_end(), Some(143));
}

#[test]
fn run_gives_up_at_the_start_timeout_with_the_faults_code() {
    let sidecar = Sidecar::of("missing.json").with("GMSA_START_TIMEOUT", "2s");
    let mut running = sidecar.run();
    assert_eq!(running.wait_end(), Some(65));
    running.wait_fault("credspec-not-found");
}

#[test]
fn a_good_ticket_is_written_even_if_another_credspec_fails() {
    let bucket = lab("LAB_BUCKET");
    let specs = format!("arn:aws:s3:::{bucket}/missing.json arn:aws:s3:::{bucket}/webapp01.json");
    let sidecar = Sidecar::new().with("GMSA_CREDENTIAL_SPECS", &specs);
    assert_eq!(sidecar.init().code, Some(65));
    assert!(sidecar.path("WebApp01/krb5cc").exists());
    assert!(!sidecar.path("krb5cc").exists(), "the first lease has no ticket, so the root has none");
}

#[test]
fn an_old_ticket_stays_when_init_fails() {
    let sidecar = Sidecar::of("webapp01.json");
    sidecar.init().ok();
    let before = std::fs::read(sidecar.path("krb5cc")).unwrap();
    let sidecar = sidecar.with("GMSA_DOMAIN_CONTROLLERS", "nobody.example.com").with("GMSA_INIT_TIMEOUT", "1s");
    assert_eq!(sidecar.init().code, Some(69));
    assert_eq!(std::fs::read(sidecar.path("krb5cc")).unwrap(), before);
}

#[test]
fn a_sidecar_that_is_not_root_writes_for_its_group() {
    let sidecar = Sidecar::of("webapp01.json").with("GMSA_MODE", "0640");
    std::os::unix::fs::chown(sidecar.volume.path(), Some(65532), Some(65532)).unwrap();
    let sidecar =
        sidecar.through(&["setpriv", "--reuid=65532", "--regid=1654", "--clear-groups", "--bounding-set=-all"]);
    sidecar.init().ok();
    sidecar.app(1654, &["klist", "-s"]).ok();
    let stat = std::fs::metadata(sidecar.path("krb5cc")).unwrap();
    assert_eq!((stat.uid(), stat.gid(), stat.mode() & 0o777), (65532, 1654, 0o640));
}

/// Two CredSpecs in files, each for a gMSA of its own, that a test edits while the sidecar runs.
struct Edited {
    folder: TempDir,
    sidecar: Sidecar,
}

impl Edited {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let (one, two) = (folder.path().join("one.json"), folder.path().join("two.json"));
        let specs = format!("file://{} file://{}", one.display(), two.display());
        let edited = Self { folder, sidecar: Sidecar::new().with("GMSA_CREDENTIAL_SPECS", &specs) };
        edited.edit("one.json", &cred_spec("WebApp01", lab("LAB_DOMAIN"), &secret_arn("gmsa/login")));
        edited.edit("two.json", &cred_spec("WebApp02", lab("LAB_DOMAIN"), &secret_arn("gmsa/login")));
        edited
    }

    /// By rename, as a secret or a config map is mounted.
    fn edit(&self, name: &str, document: &str) {
        let draft = self.folder.path().join("draft");
        write(&draft, document);
        std::fs::rename(draft, self.folder.path().join(name)).unwrap();
    }

    /// How a lease stands: its state and the code of its fault.
    fn stands(&self, account: &str) -> (String, Option<String>) {
        let ready = self.sidecar.json("/ready");
        let lease = ready["leases"].as_array().unwrap().iter().find(|lease| lease["account"] == account);
        let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
        let lease = lease.unwrap_or_else(|| panic!("no lease of {account}: {ready:#}"));
        (text(&lease["state"]).unwrap(), text(&lease["fault"]["code"]))
    }
}

/// It used to end the process, and every lease with it.
#[test]
fn an_edit_that_names_another_credspecs_gmsa_is_a_fault_of_that_credspec_alone() {
    let edited = Edited::new();
    let mut running = edited.sidecar.run();
    running.wait_ready();
    edited.edit("two.json", &cred_spec("WebApp01", lab("LAB_DOMAIN"), &secret_arn("gmsa/login")));
    running.wait_fault("config-account-twice");
    running.wait("the fault in the reports", || {
        edited.stands("WebApp02") == ("overdue".into(), Some("config-account-twice".into()))
    });
    assert_eq!(edited.stands("WebApp01"), ("held".into(), None));
    assert!(edited.sidecar.json("/ready")["leases"][1]["fault"]["next_attempt_at"].is_string());
    assert_eq!(
        (edited.sidecar.http("GET", "/ready").unwrap().0, edited.sidecar.http("GET", "/gate").unwrap().0),
        (200, 200)
    );
    // What was known is kept fresh.
    let inodes =
        || ["WebApp01/krb5cc", "WebApp02/krb5cc"].map(|f| std::fs::metadata(edited.sidecar.path(f)).unwrap().ino());
    let before = inodes();
    assert_eq!(edited.sidecar.http("POST", "/refresh").unwrap().0, 202);
    running.wait("both renewals", || inodes().iter().zip(before).all(|(now, before)| *now != before));
    // And what is mended counts.
    edited.edit("two.json", &cred_spec("W", lab("LAB_DOMAIN"), &secret_arn("gmsa/login")));
    running.wait("the new gMSA", || edited.sidecar.path("W/krb5cc").exists());
    running.wait("the old one's end", || !edited.sidecar.path("WebApp02").exists());
    assert!(running.child.try_wait().unwrap().is_none());
    assert_eq!(edited.sidecar.http("GET", "/ready").unwrap().0, 200);
}

#[test]
fn an_edit_that_takes_the_login_away_is_a_fault_of_that_credspec_alone() {
    let edited = Edited::new();
    let mut running = edited.sidecar.run();
    running.wait_ready();
    let mut joined: serde_json::Value =
        serde_json::from_str(&cred_spec("WebApp02", lab("LAB_DOMAIN"), &secret_arn("gmsa/login"))).unwrap();
    joined["ActiveDirectoryConfig"]["HostAccountConfig"] = serde_json::Value::Null;
    edited.edit("two.json", &joined.to_string());
    running.wait_fault("config-login-missing");
    running.wait("the fault in the reports", || {
        edited.stands("WebApp02") == ("overdue".into(), Some("config-login-missing".into()))
    });
    assert_eq!(edited.stands("WebApp01"), ("held".into(), None));
    assert_eq!(edited.sidecar.http("GET", "/ready").unwrap().0, 200);
    assert!(running.child.try_wait().unwrap().is_none());
    edited.edit("two.json", &cred_spec("WebApp02", lab("LAB_DOMAIN"), &secret_arn("gmsa/login")));
    running.wait("the fault's end", || edited.stands("WebApp02") == ("held".into(), None));
}

/// Before the first readiness it ends the process: nobody waits for a task that cannot come up.
#[test]
fn a_gmsa_that_is_named_twice_at_the_start_ends_with_78() {
    let edited = Edited::new();
    edited.edit("two.json", &cred_spec("webapp01", lab("LAB_DOMAIN"), &secret_arn("gmsa/login")));
    // `init` writes what is good and says no.
    assert_eq!(edited.sidecar.init().code, Some(78));
    let written = ["WebApp01", "webapp01"].map(|account| edited.sidecar.path(account).join("krb5cc").exists());
    assert_eq!(written.iter().filter(|written| **written).count(), 1);
    // And `run` does not become ready; here it cannot for another reason too, so that there is no race.
    let sidecar = edited.sidecar.with("GMSA_DOMAIN_CONTROLLERS", "nobody.example.com");
    std::fs::remove_dir_all(sidecar.path("WebApp01"))
        .or_else(|_| std::fs::remove_dir_all(sidecar.path("webapp01")))
        .unwrap();
    assert_eq!(sidecar.run().wait_end(), Some(78));
}

/// A new process would send the next proof of a login that AD refuses.
#[test]
fn the_start_timeout_does_not_end_while_a_login_is_refused() {
    let sidecar = Sidecar::inline("WebApp01", "gmsa/wrong-password").with("GMSA_START_TIMEOUT", "1s");
    let mut running = sidecar.run();
    running.wait_fault("ticket-login-refused");
    let lease = || sidecar.json("/ready")["leases"][0].clone();
    running.wait("the next attempt", || lease()["fault"]["next_attempt_at"].is_string());
    let refused = running.log().into_iter().find(|line| line["code"] == "ticket-login-refused").unwrap();
    assert_eq!(refused["next_attempt_at"], lease()["fault"]["next_attempt_at"], "{refused}");
    // Four times the time-out: it is due at each moment of them.
    let begun = std::time::Instant::now();
    running.wait("four seconds", || begun.elapsed().as_secs() >= 4);
    assert!(running.child.try_wait().unwrap().is_none(), "{}", running.text());
}

/// A folder is only removed if its TGT has long expired and all in it is ours.
#[test]
fn folders_of_gmsas_that_nobody_names_any_more_go_at_a_start() {
    let sidecar = Sidecar::of("webapp01.json");
    sidecar.init().ok();
    let cache = std::fs::read(sidecar.path("WebApp01/krb5cc")).unwrap();
    let plant = |account: &str, bytes: &[u8]| {
        std::fs::create_dir(sidecar.path(account)).unwrap();
        #[expect(clippy::disallowed_methods, reason = "a test plants a ccache")]
        std::fs::write(sidecar.path(account).join("krb5cc"), bytes).unwrap();
    };
    // The TGT's end, in the cache of a ticket for now, moved two days back.
    let mut old = cache.clone();
    let ends: Vec<usize> = (0..old.len() - 16)
        .filter(|at| {
            let time = |place: usize| u32::from_be_bytes(old[at + place..at + place + 4].try_into().unwrap());
            time(0) > 1_700_000_000 && time(0) == time(4) && (60..864_000).contains(&time(8).wrapping_sub(time(4)))
        })
        .collect();
    assert!(!ends.is_empty());
    for at in ends {
        for place in [0, 4, 8, 12] {
            let range = at + place..at + place + 4;
            let time = u32::from_be_bytes(old[range.clone()].try_into().unwrap());
            old[range].copy_from_slice(&time.saturating_sub(2 * 86_400 + 36_000).to_be_bytes());
        }
    }
    plant("Stale", &old);
    plant("Fresh", &cache);
    plant("Shared", &old);
    write(&sidecar.path("Shared/theirs.txt"), "somebody else's");
    let running = sidecar.run();
    running.wait("the removal", || running.log().iter().any(|line| line["event"] == "volume.stale-removed"));
    assert!(!sidecar.path("Stale").exists());
    assert!(sidecar.path("Fresh/krb5cc").exists() && sidecar.path("Shared/krb5cc").exists());
    let told: Vec<_> = running.log().into_iter().filter(|line| line["event"] == "volume.stale-removed").collect();
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0]["path"], sidecar.path("Stale").to_str().unwrap());
}
