//! The daemon's socket as the ECS agent sees it: gRPC by another implementation, `stat`, deadlines, attempts, mounts, and a
//! process that is killed. The keeper behind it needs no directory; with one it is tried in `tests/lab`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    unreachable_pub,
    dead_code,
    reason = "a test that cannot go on shall panic"
)]

/// the agent's stand-in
mod agent;

/// the daemon and who holds the socket
mod support;

/// what systemd is told
mod units;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use gmsa_sidecar::fault::{Code, Fault};
use gmsa_sidecar::host::{self, AwsKeys, Duty, Got, Health, Host, Keeper, Login, Need, Notify, Place, Settings};
use serde_json::{Value, json};

use support::{Agent, Bench, spec as sample};

include!("fake.rs");

/// The daemon's process: this test, started by the others.
#[test]
#[ignore = "it is the daemon that the other tests start"]
fn daemon() {
    let Some((dir, socket, group)) = support::asked() else { return };
    let listen = ([127, 0, 0, 1], 0).into();
    let settings = Settings { dir, socket, group, host: Host::default(), notify: Notify::default(), listen };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(host::serve(settings, Fake::default(), std::future::pending())).unwrap();
}

fn add(account: &str, user: &str, password: &str) -> Value {
    let request = json!({
        "credspec_contents": [sample(account, account)], "username": user, "password": password, "domain": "example.com",
    });
    json!({"method": "AddNonDomainJoinedKerberosLease", "request": request, "back_off": 0.01})
}

fn paths(answer: &Value, field: &str) -> Vec<String> {
    let list = answer["reply"][field].as_array().cloned().unwrap_or_default();
    list.iter().map(|path| path.as_str().unwrap().to_owned()).collect()
}

#[test]
fn all_seven_methods() {
    let bench = Bench::start(None);
    let mut agent = bench.agent();
    all_seven(&bench, &mut agent);
}

/// Its build takes a minute.
#[test]
fn slow_all_seven_methods_by_grpc_go() {
    let bench = Bench::start(None);
    let mut agent = Agent::in_go(&bench.socket());
    all_seven(&bench, &mut agent);
    for (account, code) in [
        ("Denied", "PERMISSION_DENIED"),
        ("Nobody", "NOT_FOUND"),
        ("Held", "FAILED_PRECONDITION"),
        ("Down", "UNAVAILABLE"),
    ] {
        let answer = agent.call(&add(account, "svc", "right"));
        assert_eq!(answer["code"], code, "{answer}");
        assert!(answer["text"].as_str().unwrap().contains("Next: "), "{answer}");
    }
    let wrong = agent.call(&add("WebApp01", "svc", "wrong-pa55"));
    assert_eq!(wrong["code"], "UNAUTHENTICATED", "{wrong}");
    // It answers before the library gives up.
    let mut hung = add("Hang", "svc", "right");
    hung["deadline"] = json!(2.0);
    let hung = agent.call(&hung);
    assert_eq!(hung["code"], "UNAVAILABLE", "{hung}");
    assert_eq!(bench.leases(), Vec::<String>::new());
}

fn all_seven(bench: &Bench, agent: &mut Agent) {
    let health = agent.call(&json!({"method": "HealthCheck", "request": {"service": "credentials-fetcher"}}));
    assert_eq!((&health["code"], &health["reply"]["status"]), (&json!("OK"), &json!("OK")), "{health}");

    let added = agent.call(&add("WebApp01", "svc", "right"));
    let folder = &paths(&added, "created_kerberos_file_paths")[0];
    let lease = added["reply"]["lease_id"].as_str().unwrap();
    assert_eq!(*folder, bench.krbdir().join(lease).join("WebApp01").display().to_string());
    assert_eq!(fs::read(Path::new(folder).join("krb5cc")).unwrap(), b"WebApp01");

    let specs = json!([sample("WebApp01", "WEBAPP01"), sample("WebApp02", "WebApp02")]);
    let joined = agent.call(&json!({"method": "AddKerberosLease", "request": {"credspec_contents": specs}}));
    let folders = paths(&joined, "created_kerberos_file_paths");
    // The agent looks for each MachineAccountName in the paths.
    for (folder, machine) in folders.iter().zip(["webapp01", "webapp02"]) {
        assert!(folder.to_lowercase().contains(machine), "{folder}");
    }

    let renew = json!({"method": "RenewNonDomainJoinedKerberosLease",
        "request": {"username": "svc", "password": "right", "domain": "example.com"}});
    assert_eq!(paths(&agent.call(&renew), "renewed_kerberos_file_paths"), std::slice::from_ref(folder));

    let keys = json!({"access_key_id": "A", "secret_access_key": "s", "session_token": "t", "region": "eu-central-1"});
    let mut request = keys.clone();
    request["credspec_arns"] = json!(["arn:aws:s3:::b/WebApp03.json#fargate-1/WebApp03"]);
    let by_arn = agent.call(&json!({"method": "AddKerberosArnLease", "request": request}));
    let pair = &by_arn["reply"]["krb_ticket_response_map"][0];
    assert_eq!(by_arn["reply"]["lease_id"], "fargate-1");
    assert_eq!(pair["credspec_arns"], "arn:aws:s3:::b/WebApp03.json");
    let wanted = bench.krbdir().join("fargate-1/WebApp03").display().to_string();
    assert_eq!(pair["created_kerberos_file_paths"], wanted);
    let renewed = agent.call(&json!({"method": "RenewKerberosArnLease", "request": keys}));
    assert_eq!(renewed["reply"]["status"], "successful");

    for id in [lease, joined["reply"]["lease_id"].as_str().unwrap(), "fargate-1", "unknown"] {
        let deleted = agent.call(&json!({"method": "DeleteKerberosLease", "request": {"lease_id": id}}));
        assert_eq!((&deleted["code"], &deleted["reply"]["lease_id"]), (&json!("OK"), &json!(id)));
        let folders = paths(&deleted, "deleted_kerberos_file_paths");
        assert_eq!(folders.is_empty(), id == "unknown");
    }
    assert_eq!(bench.leases(), Vec::<String>::new());
}

#[test]
fn the_agent_tries_again_only_what_may_pass() {
    let bench = Bench::start(None);
    let mut agent = bench.agent();
    for (account, password, code, attempts, text) in [
        ("WebApp01", "wrong-pa55", "UNAUTHENTICATED", 1, "ticket-login-refused: "),
        ("Denied", "right", "PERMISSION_DENIED", 1, "gmsa-read-denied: "),
        ("Nobody", "right", "NOT_FOUND", 1, "gmsa-not-found: "),
        ("Held", "right", "FAILED_PRECONDITION", 1, "ticket-login-held: "),
        ("../evil", "right", "INVALID_ARGUMENT", 1, "credspec-malformed: "),
        ("Down", "right", "UNAVAILABLE", 3, "dc-unreachable: "),
    ] {
        let answer = agent.call(&add(account, "svc", password));
        assert_eq!((answer["code"].as_str(), answer["attempts"].as_u64()), (Some(code), Some(attempts)), "{answer}");
        let told = answer["text"].as_str().unwrap();
        let reason = format!("rpc error: code = FailedPrecondition desc = {told}");
        assert!(told.starts_with(text) && told.contains("Next: "), "{told}");
        assert!(!told.contains('\n') && !told.contains(password) && reason.len() < 1024, "{told}");
    }
    let empty = agent.call(&json!({"method": "AddKerberosLease", "request": {}}));
    assert_eq!(empty["code"], "INVALID_ARGUMENT", "OK without a path makes the agent panic");
    let evil = agent.call(&json!({"method": "DeleteKerberosLease", "request": {"lease_id": "../../etc"}}));
    assert_eq!(evil["code"], "INVALID_ARGUMENT");
    assert_eq!(bench.leases(), Vec::<String>::new());
}

#[test]
fn a_hanging_directory_is_answered_for_before_the_caller_gives_up_and_delays_nobody() {
    let bench = Bench::start(None);
    let mut hung = add("Hang", "svc", "right");
    hung["deadline"] = json!(2.0);
    let waiting = json!({"at_once": [hung.clone(), hung.clone(), add("WebApp01", "other", "right")]});
    let answers = bench.agent().call(&waiting);
    assert_eq!(answers[0]["code"], "UNAVAILABLE", "and not DEADLINE_EXCEEDED: {answers}");
    assert!(answers[0]["text"].as_str().unwrap().starts_with("task-host-timeout: "), "{answers}");
    assert_eq!(answers[2]["code"], "OK");
    assert!(answers[2]["seconds"].as_f64().unwrap() < 1.0, "{answers}");
    assert_eq!(bench.leases().len(), 1);
}

#[test]
fn a_caller_who_goes_leaves_nothing() {
    let bench = Bench::start(None);
    let mut agent = bench.agent();
    for after in [0.0, 0.05, 0.5, 0.9] {
        let mut call = add("Slow", "svc", "right");
        call["cancel_after"] = json!(after);
        assert_eq!(agent.call(&call)["code"], "CANCELLED");
    }
    support::until("the leases are gone", || bench.leases().is_empty());
    // And they do not come later.
    let last = agent.call(&add("Slow", "svc", "right"));
    assert_eq!(bench.leases(), [last["reply"]["lease_id"].as_str().unwrap()]);
}

#[test]
fn a_killed_daemon_is_back_on_the_same_socket_with_its_leases() {
    let bench = Bench::held();
    // The agent's container has the file of the socket, not its folder: an inode.
    let mut agent = bench.agent_in_container();
    let inode = fs::metadata(bench.socket()).unwrap().ino();
    let mut call = add("WebApp01", "svc", "right");
    call["mount"] = json!(bench.folder("mounted"));
    let added = agent.call(&call);
    assert_eq!(added["code"], "OK", "{added}");
    for _ in 0..3 {
        bench.kill_daemon();
        // Who calls meanwhile waits in the backlog.
        let more = agent.call(&add("WebApp02", "svc", "right"));
        assert_eq!((&more["code"], more["attempts"].as_u64()), (&json!("OK"), Some(1)), "{more}");
    }
    assert_eq!(fs::metadata(bench.socket()).unwrap().ino(), inode);
    assert_eq!(bench.leases().len(), 4);
    let renew = json!({"method": "RenewNonDomainJoinedKerberosLease",
        "request": {"username": "svc", "password": "right", "domain": "example.com"}});
    assert_eq!(paths(&agent.call(&renew), "renewed_kerberos_file_paths").len(), 4);
    let lease = added["reply"]["lease_id"].clone();
    let deleted = agent.call(&json!({"method": "DeleteKerberosLease", "request": {"lease_id": lease}}));
    assert_eq!(paths(&deleted, "deleted_kerberos_file_paths").len(), 1, "the mount does not hold it");
}

#[test]
fn many_calls_at_once() {
    let bench = Bench::start(None);
    let calls: Vec<_> = (0..100).map(|n| add(&format!("WebApp{n}"), &format!("svc{}", n % 10), "right")).collect();
    let answers = bench.agent().call(&json!({"at_once": calls}));
    assert!(answers.as_array().unwrap().iter().all(|answer| answer["code"] == "OK"), "{answers}");
    assert_eq!(bench.leases().len(), 100);
}

#[test]
fn only_root_and_the_group_may_call() {
    let bench = Bench::start(Some(4242));
    fs::set_permissions(bench.socket(), fs::Permissions::from_mode(0o666)).unwrap();
    let call = json!({"method": "HealthCheck", "request": {}});
    let code = |agent: &mut Agent| agent.call(&call)["code"].as_str().unwrap().to_owned();
    assert_eq!(code(&mut bench.agent()), "OK");
    assert_eq!(code(&mut bench.agent_as("--reuid=65534", "--regid=4242", "--clear-groups")), "OK");
    assert_eq!(code(&mut bench.agent_as("--reuid=65534", "--regid=65534", "--groups=4242")), "OK");
    assert_eq!(code(&mut bench.agent_as("--reuid=65534", "--regid=65534", "--clear-groups")), "PERMISSION_DENIED");
}

#[test]
fn what_is_too_large_is_refused() {
    let bench = Bench::start(None);
    let mut agent = bench.agent();
    let mut large = add("WebApp01", "svc", "right");
    large["request"]["credspec_contents"] = json!([" ".repeat(70_000)]);
    let answer = agent.call(&large);
    assert!(answer["text"].as_str().unwrap().starts_with("credspec-too-large: "), "{answer}");
    large["request"]["credspec_contents"] = json!([" ".repeat(5_000_000)]);
    let answer = agent.call(&large);
    assert_eq!((answer["code"].as_str(), answer["attempts"].as_u64()), (Some("OUT_OF_RANGE"), Some(1)), "{answer}");
    assert_eq!(agent.call(&add("WebApp01", "svc", "right"))["code"], "OK");
}
