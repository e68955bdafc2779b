//! The command as its users start it: exit codes, streams, signals.
#![cfg(test)]

use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};

use gmsa_sidecar::log;
use rustix::process::{Pid, Signal, kill_process};

/// The command in an environment of its own.
fn sidecar(arguments: &[&str], variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gmsa-sidecar"));
    command.args(arguments).env_clear().envs(variables.iter().copied());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Exit code, stdout, stderr.
fn told(output: Output) -> (i32, String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn tell(arguments: &[&str], variables: &[(&str, &str)]) -> (i32, String, String) {
    told(sidecar(arguments, variables).output().unwrap())
}

/// A port that was free a moment ago.
fn free_port() -> String {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

#[test]
fn usage_errors_are_64_and_answers_are_0() {
    for arguments in [[].as_slice(), &["fly"], &["run", "--dirr=/x"], &["health", "--wait", "soon"]] {
        let (code, out, err) = tell(arguments, &[]);
        assert!(code == 64 && out.is_empty() && !err.is_empty(), "{arguments:?}: {code} {out} {err}");
    }
    for arguments in [["--help"].as_slice(), &["--version"], &["help", "run"], &["help", "init"]] {
        let (code, out, err) = tell(arguments, &[]);
        assert!(code == 0 && !out.is_empty() && err.is_empty(), "{arguments:?}: {code} {out} {err}");
    }
}

#[test]
fn a_configuration_that_cannot_be_used_is_78_after_its_warnings() {
    for command in ["run", "init"] {
        let (code, out, err) = tell(&[command], &[("GMSA_LISTEN", "x"), ("GMSA_DNS_SERVER", "10.0.0.2")]);
        assert_eq!((code, out.as_str()), (78, ""));
        let lines: Vec<serde_json::Value> = err.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2, "{err}");
        assert_eq!(lines[0]["event"], "config.unknown-variable");
        assert_eq!(lines[0]["nearest"], "GMSA_DNS_SERVERS");
        assert_eq!(lines[1]["code"], "config-invalid");
        assert_eq!(lines[1]["why"], "GMSA_LISTEN: `x` is not `address:port`");
    }
}

#[test]
fn health_is_1_with_three_lines_where_nobody_listens() {
    let address = free_port();
    let (code, out, err) = tell(&["health", "--listen", &address], &[]);
    assert_eq!((code, out.as_str(), err.lines().count()), (1, "", 3), "{err}");
    assert!(err.starts_with(&format!("health: no process listens on {address}\nwhy:  ")), "{err}");
    let (code, _, err) = tell(&["health"], &[("GMSA_LISTEN", "x")]);
    assert!(code == 1 && err.starts_with("config-invalid: ") && err.lines().count() == 3, "{err}");
    assert!(err.contains("\nwhy:  GMSA_LISTEN: `x` is not `address:port`\nnext: "), "{err}");
}

#[test]
fn run_refreshes_on_sighup_and_ends_with_0_on_sigterm() {
    let address = free_port();
    let variables = [("GMSA_LISTEN", address.as_str()), ("GMSA_CREDENTIAL_SPECS", "file:///nothing/here.json")];
    let volume = tempfile::tempdir().unwrap();
    let mut child = sidecar(&["run", "--dir", volume.path().to_str().unwrap()], &variables).spawn().unwrap();
    let pid = Pid::from_child(&child);
    let (code, _, err) = tell(&["health", "--wait", "2s"], &variables);
    assert!(code == 1 && err.lines().count() == 3 && err.contains("\nnext: "), "{err}");

    kill_process(pid, Signal::HUP).unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(log.any(|line| line.contains(r#""event":"refresh.asked""#)));
    kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
#[ignore = "started by the test below"]
fn panicking_child() {
    log::start(log::Settings { filter: log::Filter::default(), format: None, colour: false });
    panic!("hunter2");
}

#[test]
fn a_panic_ends_the_process_with_70_and_its_payload_is_not_told() {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "panicking_child", "--ignored", "--nocapture"]);
    let (code, out, err) = told(child.output().unwrap());
    assert_eq!(code, 70);
    assert!(err.contains(r#""event":"sidecar.panicked","code":"internal-bug""#), "{err}");
    // docs/faults.md shows these words: src/fault/manual.rs.
    assert!(
        err.contains(r#""what":"the sidecar stopped because of a bug of its own","why":"it panicked at "#),
        "{err}"
    );
    assert!(err.contains("tests/cli.rs:") && !format!("{out}{err}").contains("hunter2"), "{out}{err}");
}
