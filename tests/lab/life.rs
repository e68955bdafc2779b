use std::os::unix::fs::MetadataExt;

use crate::support::{Sidecar, lab};

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
