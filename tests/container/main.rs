//! The image in a real container engine, which `scripts/test-container` starts in the lab's network.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    unreachable_pub,
    reason = "a test that cannot go on shall panic, and shares its helpers with all of itself"
)]

#[path = "../lab/support.rs"]
#[expect(dead_code, reason = "most of it drives the bare binary")]
mod support;

/// what is handed to users to start from
mod examples;

/// binaries, SBOM, checksums, versions
mod release;

mod docker;

/// the host daemon in a container
mod host;

/// the ECS agent's stand-in
#[path = "../host/agent.rs"]
#[allow(dead_code, reason = "tests/host uses all of it")]
mod agent;

use std::time::{Duration, Instant};

use docker::{Container, Project, Volume, docker, image};
use serde_json::json;

/// The app's user and group.
const APP: &str = "1654:1654";

/// What the app prints once it is in the database.
const LOGGED_IN: &str = "WebApp01$@EXAMPLE.COM|WebApp01$@EXAMPLE.COM|t";

#[test]
#[ignore = "needs a container engine: scripts/test-container"]
fn the_image_holds_the_binary_and_hardly_anything_else() {
    let inspected = docker(&["image", "inspect", &image()]).json();
    let (config, size) = (&inspected[0]["Config"], inspected[0]["Size"].as_u64().expect("a size"));
    println!("image: {size} bytes");
    assert!(size <= 10_000_000, "{size} bytes");
    assert_eq!(config["User"], "65532:65532");
    assert_eq!(config["Entrypoint"], json!(["/gmsa-sidecar"]));
    assert_eq!(config["Cmd"], json!(["run"]));
    assert_eq!(config["Volumes"], json!({"/var/credentials-fetcher/krbdir": {}}));
    assert_eq!(config["Healthcheck"]["Test"], json!(["CMD", "/gmsa-sidecar", "health"]));
    let label = |name: &str| config["Labels"][format!("org.opencontainers.image.{name}")].as_str().unwrap_or_default();
    assert_eq!((label("title"), label("licenses")), (env!("CARGO_PKG_NAME"), env!("CARGO_PKG_LICENSE")));
    assert_eq!((label("description"), label("version")), (env!("CARGO_PKG_DESCRIPTION"), env!("CARGO_PKG_VERSION")));
    assert_ne!(label("revision"), "");

    let files = "/etc/group /etc/passwd /etc/ssl/certs/ca-certificates.crt /gmsa-sidecar";
    assert_eq!(docker::files(&image()).join(" "), files);
    assert!(docker::file(&image(), "/etc/passwd").starts_with("gmsa:x:65532:65532:"));
}

#[test]
#[ignore = "needs a container engine: scripts/test-container"]
fn an_app_starts_once_the_sidecar_is_healthy_and_logs_in() {
    let project = Project::new(&["examples/compose.yaml", "tests/container/lab.yaml"]);
    project.up(&[]).ok();

    let (sidecar, app) = (project.container("gmsa-sidecar"), project.container("app"));
    assert_eq!(app.wait(), 0);
    assert_eq!(app.log().trim(), LOGGED_IN);

    let inspected = app.inspect();
    assert_eq!(inspected["Config"]["User"], APP);
    let mount = &inspected["Mounts"][0];
    assert_eq!((&mount["Destination"], &mount["RW"]), (&json!("/var/credentials-fetcher/krbdir"), &json!(false)));
    let checks = sidecar.inspect()["State"]["Health"]["Log"].clone();
    let first_yes = checks.as_array().and_then(|checks| checks.iter().find(|check| check["ExitCode"] == 0)).cloned();
    let first_yes = first_yes.expect("a yes")["End"].as_str().expect("a time").to_owned();
    let started = inspected["State"]["StartedAt"].as_str().expect("a time").to_owned();
    assert!(docker::instant(&started) > docker::instant(&first_yes), "started {started}, healthy {first_yes}");
}

#[test]
#[ignore = "needs a container engine: scripts/test-container"]
fn an_app_never_starts_while_ad_cannot_be_reached() {
    let project = Project::new(&["examples/compose.yaml", "tests/container/lab.yaml"])
        .with("DNS_SERVERS", "127.0.10.99")
        .with("START_TIMEOUT", "20s");
    let ended = project.up(&[]);
    assert_ne!(ended.code, Some(0), "{ended:#?}");

    let (sidecar, app) = (project.container("gmsa-sidecar"), project.container("app"));
    assert!(app.never_started());
    assert_eq!(sidecar.wait(), 69);
    let log = sidecar.log();
    assert!(log.contains(r#""code":"dc-"#) && log.contains("127.0.10.99"), "{log}");
}

#[test]
#[ignore = "needs a container engine: scripts/test-container"]
fn init_lets_the_app_start_by_its_success() {
    let files = ["examples/compose.yaml", "tests/container/lab.yaml", "tests/container/init.yaml"];
    let project = Project::new(&files);
    project.up(&[]).ok();
    assert_eq!(project.container("gmsa-sidecar").wait(), 0);
    let app = project.container("app");
    assert_eq!(app.wait(), 0);
    assert_eq!(app.log().trim(), LOGGED_IN);

    let project = Project::new(&files).with("DNS_SERVERS", "127.0.10.99").with("INIT_TIMEOUT", "5s");
    assert_ne!(project.up(&[]).code, Some(0));
    assert_eq!(project.container("gmsa-sidecar").wait(), 69);
    assert!(project.container("app").never_started());
}

#[test]
#[ignore = "needs a container engine: scripts/test-container"]
fn docker_stop_ends_the_sidecar_at_once_and_well() {
    let volume = Volume::new();
    let sidecar = Container::sidecar(&volume, "65532:1654", "0640");
    sidecar.wait_healthy();
    let start = Instant::now();
    docker(&["stop", &sidecar.name]).ok();
    let took = start.elapsed();
    println!("docker stop: {} ms", took.as_millis());
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert_eq!(sidecar.wait(), 0);
}

/// Read-only root, no capability, no new privileges; the app's group reads, or the app's user.
#[test]
#[ignore = "needs a container engine: scripts/test-container"]
fn both_forms_of_user_give_the_app_its_ticket() {
    for (user, mode, files) in [
        ("65532:1654", "0640", "65532:1654 640 WebApp01/krb5cc\n65532:1654 640 krb5cc\n65532:1654 644 krb5.conf"),
        ("1654:65532", "0600", "1654:65532 600 WebApp01/krb5cc\n1654:65532 600 krb5cc\n1654:65532 644 krb5.conf"),
    ] {
        let volume = Volume::new();
        let sidecar = Container::sidecar(&volume, user, mode);
        sidecar.wait_healthy();

        assert_eq!(volume.run(APP, "ro", "stat -c '%u:%g %a' .").ok().trim(), "65532:65532 775");
        let found = volume.run(APP, "ro", "stat -c '%u:%g %a %n' WebApp01/krb5cc krb5cc krb5.conf");
        assert_eq!(found.ok().trim(), files);
        let tickets = volume.run(APP, "ro", "klist krb5cc && klist WebApp01/krb5cc").ok();
        let mine = tickets.matches("Default principal: WebApp01$@EXAMPLE.COM").count();
        assert_eq!(mine, 2, "{tickets}");
        let stranger = volume.run("2000:2000", "ro", "klist krb5cc");
        assert_ne!(stranger.code, Some(0), "{stranger:#?}");
    }
}

/// A volume as Kubernetes makes it of an `emptyDir` and `fsGroup: 1654`: root's, the group's to write, and what is made in
/// it is the group's too.
#[test]
#[ignore = "needs a container engine: scripts/test-container"]
fn the_volume_of_a_pod_serves_as_well() {
    let volume = Volume::new();
    // Something must be in it, or Docker gives it the owner of the image's folder.
    volume.run("0:0", "rw", "chown 0:1654 . && chmod 2775 . && touch there").ok();
    let sidecar = Container::sidecar(&volume, "65532:1654", "0640");
    sidecar.wait_healthy();
    let found = volume.run(APP, "ro", "stat -c '%u:%g %a %n' . krb5cc WebApp01/krb5cc krb5.conf && klist krb5cc");
    let files = "0:1654 2775 .\n65532:1654 640 krb5cc\n65532:1654 640 WebApp01/krb5cc\n65532:1654 644 krb5.conf";
    assert!(found.ok().starts_with(files));
}

#[test]
#[ignore = "needs a container engine: scripts/test-container"]
fn a_neighbour_that_may_write_to_the_volume_cannot_replace_the_ticket() {
    for (user, mode, neighbours) in [
        // Even the app itself, were its mount not read-only.
        ("65532:1654", "0640", [APP, "2000:2000"]),
        ("1654:65532", "0600", ["2000:1654", "2000:2000"]),
    ] {
        let volume = Volume::new();
        let sidecar = Container::sidecar(&volume, user, mode);
        sidecar.wait_healthy();
        let before = volume.run("0:0", "ro", "sha256sum krb5cc WebApp01/krb5cc krb5.conf").ok();
        for neighbour in neighbours {
            let script: String = ATTACKS.iter().map(|attack| format!("{{ {attack}; }} && echo '{attack}'; ")).collect();
            let ended = volume.run(neighbour, "rw", &script);
            assert_eq!(ended.stdout, "", "{neighbour} can do this");
            let refused = |line: &&str| line.contains("denied") || line.contains("not permitted");
            assert_eq!(ended.stderr.lines().filter(refused).count(), ATTACKS.len(), "{ended:#?}");
        }
        assert_eq!(volume.run("0:0", "ro", "sha256sum krb5cc WebApp01/krb5cc krb5.conf").ok(), before);
    }
}

/// What a neighbour may try, each in one line that fails with one message.
const ATTACKS: [&str; 14] = [
    "echo x > krb5cc",
    "echo x >> krb5cc",
    "rm -f krb5cc",
    "mv krb5cc other",
    "cp --remove-destination /etc/debian_version krb5cc",
    "ln -s /etc/passwd .gmsa-krb5cc",
    "touch planted",
    "mkdir planted",
    "echo x > WebApp01/krb5cc",
    "rm -f WebApp01/krb5cc",
    "touch WebApp01/planted",
    "mv WebApp01 other",
    "echo x > krb5.conf",
    "chmod 777 .",
];

/// What a developer types, with a domain controller, AWS and a database in containers of their own.
#[test]
#[ignore = "needs a container engine: scripts/test-container"]
fn the_local_example_logs_in() {
    let project = Project::new(&["examples/local/compose.yaml"]);
    let ended = project.up(&["--exit-code-from", "app"]);
    let log = project.container("app").log();
    assert_eq!(ended.code, Some(0), "{log}\n{}", ended.stderr);
    assert!(log.contains("WebApp01$@EXAMPLE.COM | WebApp01$@EXAMPLE.COM | t"), "{log}");
}
