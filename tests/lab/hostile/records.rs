use std::io::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::{Peer, Pulse};
use crate::support::{Sidecar, cred_spec, lab, put_secret};

/// Everything that anybody could switch on.
const ALL: &str = "trace,ldap3_proto=trace,aws_config=trace,aws_smithy_runtime=trace,aws_sdk_secretsmanager=trace,hyper=trace,\
                   hickory_proto=trace,hickory_resolver=trace,rustls=trace,krb5=trace";

/// What a secret could look like in a log.
fn forms(marker: &str) -> Vec<String> {
    let octets = marker.as_bytes();
    let joined = |format: &dyn Fn(&u8) -> String, by: &str| octets.iter().map(format).collect::<Vec<_>>().join(by);
    let base64 = |skip: usize| {
        let text = BASE64_STANDARD.encode(&octets[skip..]);
        text.trim_end_matches('=')[..text.len() - 6].to_owned()
    };
    vec![
        marker.to_owned(),
        joined(&|octet| octet.to_string(), ", "),
        joined(&|octet| format!("{octet:02x}"), ""),
        joined(&|octet| format!("{octet:02X}"), ""),
        joined(&|octet| format!("{octet:02x}"), " "),
        joined(&|octet| format!("{octet:02x}"), ", "),
        base64(0),
        base64(1),
        base64(2),
    ]
}

#[track_caller]
fn assert_unmarked(log: &str, marker: &str) {
    for form in forms(marker) {
        if let Some(at) = log.find(&form) {
            let line = log[..at].rfind('\n').map_or(0, |at| at + 1);
            panic!("it is in the log as {form}: {}", log[line..].chars().take(400).collect::<String>());
        }
    }
}

/// The managed password, in an LDAP message that is read and in ones that cannot be.
#[test]
fn no_managed_password_is_logged() {
    let marker = "MarkOfThePassword";
    for (mode, level) in [("marker", ALL), ("malformed", ALL), ("malformed", "info"), ("marker", "info")] {
        let peer = Peer::impostor("evil-dc", &[&format!("--sealed={mode}={marker}")]);
        let sidecar = peer.sidecar().with("GMSA_LOG", level);
        let running = sidecar.run();
        peer.wait("the search", |_| peer.count("sealed") > 0);
        running.wait("a fault", || running.text().contains("\"code\":\""));
        let text = running.text();
        assert_unmarked(&text, marker);
        assert!(text.lines().all(|line| line.starts_with('{') && line.len() <= 8 * 1024), "{level}: not our record");
    }
}

/// The lab's own gMSA, with everything switched on.
#[test]
fn no_true_password_is_logged() {
    let sidecar = Sidecar::of("webapp01.json").with("GMSA_LOG", ALL);
    let ended = sidecar.init();
    let filter = format!("(sAMAccountName={}$)", lab("LAB_GMSA"));
    let search = ["-H", lab("LAB_SAMDB"), &filter, "msDS-ManagedPassword"];
    let found = std::process::Command::new("ldbsearch").args(search).output().unwrap();
    let ldif = String::from_utf8(found.stdout).unwrap().replace("\n ", "");
    let blob = ldif.lines().find_map(|line| line.strip_prefix("msDS-ManagedPassword:: ")).unwrap();
    let blob = BASE64_STANDARD.decode(blob).unwrap();
    let octets: Vec<_> = blob[16..48].iter().map(u8::to_string).collect();
    assert!(!ended.stderr.contains(&octets.join(", ")), "the managed password is logged");
    assert!(!ended.stderr.contains(&BASE64_STANDARD.encode(&blob)[24..64]));
    ended.ok();
}

/// The secret's text, where it is a login and where it is none.
#[test]
fn no_text_of_a_secret_is_logged() {
    let marker = "MarkOfTheSecret-1";
    let login = serde_json::json!({"username": "svc-fetcher", "password": marker, "domainName": "nowhere.test"});
    for (name, text) in [
        ("login", login.to_string()),
        ("none", format!("{marker} is no JSON")),
        ("other", serde_json::json!({"key": marker, "username": {"a": marker}}).to_string()),
    ] {
        let arn = put_secret(&format!("gmsa/hostile-{name}"), &text);
        let sidecar = Sidecar::new()
            .with("GMSA_CREDENTIAL_SPECS", &cred_spec("WebApp01", lab("LAB_DOMAIN"), &arn))
            .with("GMSA_LOG", ALL);
        let ended = sidecar.init_with("GMSA_INIT_TIMEOUT", "1s");
        assert_ne!(ended.code, Some(0));
        assert_unmarked(&ended.stderr, marker);
    }
}

/// The role's keys, and a login in a parameter: in answers that are read and in ones that cannot be.
#[test]
fn no_keys_of_the_role_and_no_parameter_are_logged() {
    let marker = "MarkOfTheKeys1";
    let keys = serde_json::json!({"AccessKeyId": marker, "SecretAccessKey": marker, "Token": marker,
        "Expiration": "2099-01-01T00:00:00Z"});
    let login = serde_json::json!({"username": "svc-fetcher", "password": marker, "domainName": "nowhere.test"});
    let parameter = serde_json::json!({"Parameters": [{"Value": login.to_string(), "Version": 1}]}).to_string();
    let folder = tempfile::TempDir::new().unwrap();
    for (at, text) in
        [keys.to_string(), keys.to_string()[..60].to_owned(), format!("{marker} is no JSON")].iter().enumerate()
    {
        let answer = folder.path().join(format!("keys-{at}"));
        crate::support::write(&answer, text);
        let peer = Peer::http(&format!("file={}", answer.display()), &[]);
        let sidecar = Sidecar::inline("WebApp01", "gmsa/login")
            .without("AWS_ACCESS_KEY_ID")
            .without("AWS_SECRET_ACCESS_KEY")
            .with("AWS_CONTAINER_CREDENTIALS_FULL_URI", &format!("http://{}:5000/credentials", peer.address))
            .with("GMSA_LOG", ALL);
        let ended = sidecar.init_with("GMSA_INIT_TIMEOUT", "1s");
        assert!(peer.count("http") > 0, "{ended:#?}");
        assert_unmarked(&ended.stderr, marker);
    }
    for (at, text) in
        [parameter.clone(), parameter[..80].to_owned(), parameter.replace("username", "user")].iter().enumerate()
    {
        let answer = folder.path().join(format!("parameter-{at}"));
        crate::support::write(&answer, text);
        let peer = Peer::http(&format!("file={}", answer.display()), &[]);
        let arn = format!("arn:aws:ssm:{}:{}:parameter/gmsa/marked", lab("LAB_AWS_REGION"), lab("LAB_AWS_ACCOUNT"));
        let sidecar = Sidecar::new()
            .with("GMSA_CREDENTIAL_SPECS", &cred_spec("WebApp01", lab("LAB_DOMAIN"), &arn))
            .with("AWS_ENDPOINT_URL_SSM", &format!("http://{}:5000", peer.address))
            .with("GMSA_LOG", ALL);
        let ended = sidecar.init_with("GMSA_INIT_TIMEOUT", "1s");
        assert!(peer.count("http") > 0, "{ended:#?}");
        assert_ne!(ended.code, Some(0));
        assert_unmarked(&ended.stderr, marker);
    }
}

/// Foreign text in a fault is short, and stays in its line.
#[test]
fn foreign_text_stays_short_and_in_its_line() {
    let folder = tempfile::TempDir::new().unwrap();
    let answer = folder.path().join("answer.json");
    let message = format!("first\\nsecond \\u001b[31m{}", "m".repeat(30_000));
    crate::support::write(
        &answer,
        &format!("{{\"SecretString\": \"{message}\", \"VersionId\": \"{}\"}}", "v".repeat(20_000)),
    );
    let peer = Peer::http(&format!("file={}", answer.display()), &[]);
    let sidecar = Sidecar::inline("WebApp01", "gmsa/login")
        .with("AWS_ENDPOINT_URL_SECRETS_MANAGER", &format!("http://{}:5000", peer.address));
    let ended = sidecar.init_with("GMSA_INIT_TIMEOUT", "1s");
    assert!(ended.stderr.lines().all(|line| line.starts_with('{') && line.len() <= 8 * 1024), "{ended:#?}");
    assert!(!ended.stderr.contains('\u{1b}'));
}

/// Somebody who does not read the log does not stop the rest.
#[test]
fn a_log_that_nobody_reads_stops_nothing() {
    let (unread, mut full) = std::io::pipe().unwrap();
    // As much as a pipe holds by default (pipe(7)).
    full.write_all(&[b'\n'; 65_536]).unwrap();
    let sidecar = Sidecar::of("webapp01.json");
    let mut child = sidecar.command(&["run"]).stdout(Stdio::null()).stderr(full).spawn().unwrap();
    let start = Instant::now();
    let ready = || sidecar.http("GET", "/ready").is_some_and(|(status, _)| status == 200);
    let mut came = false;
    while !came && start.elapsed() < Duration::from_secs(10) {
        // A process that hangs takes connections too.
        came = super::healthy(sidecar.listen) && ready();
        std::thread::sleep(Duration::from_millis(50));
    }
    let pulse = Pulse::of(&sidecar);
    std::thread::sleep(Duration::from_secs(1));
    let beats = pulse.stop();
    child.kill().unwrap();
    child.wait().unwrap();
    drop(unread);
    assert!(came, "no ticket while nobody reads the log");
    assert!(beats.asked > 3 && beats.failed == 0 && beats.slowest < Duration::from_secs(1), "{beats:?}");
}
