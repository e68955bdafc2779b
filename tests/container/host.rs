//! The host daemon in a container, as docs/host-daemon.md shows it.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::agent::{Agent, python};
use crate::docker::{Container, docker, image};
use crate::support::{cred_spec, lab, secret_arn};

/// The daemon with the host's folder at the same path, and nothing that it could do without.
fn daemon(folder: &Path) -> Container {
    let (path, environment) = (folder.display(), |name: &str, value: &str| format!("--env={name}={value}"));
    let mut arguments = vec!["--user=0:0".to_owned(), "--pid=host".to_owned(), format!("--volume={path}:{path}")];
    arguments
        .extend(["CHOWN", "DAC_OVERRIDE", "FOWNER", "SYS_PTRACE"].map(|capability| format!("--cap-add={capability}")));
    arguments.push(environment("GMSA_DIR", &format!("{path}/krbdir")));
    arguments.push(environment("GMSA_HOST_SOCKET", &format!("{path}/socket/cf.sock")));
    arguments.extend([environment("GMSA_OWNER", ":1654"), environment("GMSA_MODE", "0640")]);
    arguments.push(environment("GMSA_DOMAIN_CONTROLLERS", lab("LAB_DC1")));
    Container::of(&arguments, &["host"])
}

fn until(what: &str, condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < Duration::from_secs(30), "it is not so that {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
#[ignore = "needs a container engine: scripts/test-container"]
fn the_host_daemon_serves_from_a_container_and_comes_back() {
    let host = tempfile::tempdir().unwrap();
    let (folder, socket) = (host.path(), host.path().join("socket/cf.sock"));
    std::fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let daemon = daemon(folder);
    until("the socket is there", || socket.exists());
    let mut agent = Agent::start(Command::new(python()), &socket);
    let spec = cred_spec("WebApp01", lab("LAB_DOMAIN"), &secret_arn("gmsa/login"));
    let request = json!({"credspec_contents": [spec], "username": lab("LAB_USER"), "password": lab("LAB_USER_PW"),
        "domain": lab("LAB_DOMAIN")});
    let added = agent.call(&json!({"method": "AddNonDomainJoinedKerberosLease", "request": request}));
    assert_eq!(added["code"], "OK", "{added}\n{}", daemon.log());
    // The path is the host's: the agent mounts it into the app.
    let mounted = format!(
        "{}:/var/credentials-fetcher/krbdir:ro",
        added["reply"]["created_kerberos_file_paths"][0].as_str().unwrap()
    );
    let app = |user: &str| {
        docker(&["run", "--rm", "--network=none", "--user", user, "--volume", &mounted, &image(), "klist"])
    };
    assert!(app("1654:1654").ok().contains("WebApp01$@EXAMPLE.COM"));
    assert_ne!(app("1700:1700").code, Some(0), "others cannot read it");

    // A restart makes another socket, and keeps the leases.
    docker(&["restart", "--time", "5", &daemon.name]).ok();
    let health = json!({"method": "HealthCheck", "request": {"service": "x"}});
    until("it answers again", || {
        let mut agent = Agent::start(Command::new(python()), &socket);
        agent.call(&json!({"method": "HealthCheck", "request": {"service": "x"}, "deadline": 1}))["code"] == "OK"
    });
    assert_eq!(agent.call(&health)["code"], "OK");
    assert!(app("1654:1654").ok().contains("WebApp01$@EXAMPLE.COM"));
    let lease: &Value = &added["reply"]["lease_id"];
    let deleted = agent.call(&json!({"method": "DeleteKerberosLease", "request": {"lease_id": lease}}));
    assert_eq!(deleted["reply"]["deleted_kerberos_file_paths"].as_array().map(Vec::len), Some(1), "{deleted}");
    assert!(!folder.join("krbdir").join(lease.as_str().unwrap()).exists());
}

/// The image has a volume of its own at krbdir. Where only the folder around it is mounted, the engine lays that one over it.
#[test]
#[ignore = "needs a container engine: scripts/test-container"]
fn check_finds_a_folder_that_no_app_sees() {
    let host = tempfile::tempdir().unwrap();
    let checked = |mounts: &[&str]| -> Value {
        let mut arguments = vec!["run", "--rm", "--network=none", "--user=0:0"];
        arguments.extend(mounts);
        let image = image();
        arguments.extend([image.as_str(), "check", "--host", "--json"]);
        let report: Value = serde_json::from_str(&docker(&arguments).stdout).unwrap();
        report["steps"].as_array().unwrap().iter().find(|step| step["step"] == "volume").unwrap().clone()
    };
    let around = format!("--volume={}:/var/credentials-fetcher", host.path().display());
    let wrong = checked(&[&around]);
    assert_eq!(wrong["code"], "volume-not-writable", "{wrong}");
    assert!(wrong["what"].as_str().unwrap().contains("on the host"), "{wrong}");
    assert_eq!(checked(&["--volume=/tmp:/tmp", "--env=GMSA_DIR=/etc/gmsa"])["code"], "volume-not-writable");
    let same = format!("--volume={0}:{0}", host.path().display());
    let dir = format!("--env=GMSA_DIR={}/krbdir", host.path().display());
    let right = checked(&[&same, &dir]);
    assert_eq!(right["result"], "pass", "{right}");
}
