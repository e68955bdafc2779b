//! The command as its users start it: exit codes, streams, signals.
#![cfg(test)]

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

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

/// The answer of the sidecar at `address` to a request, if it comes within a second.
fn ask(address: &str, path: &str) -> Option<String> {
    let mut stream = std::net::TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(60), "{what} does not come");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn an_unread_log_stops_nothing_and_says_what_is_missing() {
    let address = free_port();
    let volume = tempfile::tempdir().unwrap();
    // Many CredSpecs fail, and again: some hundred kilobytes of log each time.
    let specs = (0..400).map(|at| format!("file:///nothing/{}{at}.json", "x".repeat(250))).collect::<Vec<_>>();
    let variables = [
        ("GMSA_LISTEN", address.as_str()),
        ("GMSA_CREDENTIAL_SPECS", &specs.join(" ")),
        ("GMSA_LOG", "trace"),
        ("GMSA_DIR", volume.path().to_str().unwrap()),
    ];
    let mut child = sidecar(&["run"], &variables).spawn().unwrap();
    let dropped = || {
        let metrics = ask(&address, "/metrics")?;
        let line = metrics.lines().find_map(|line| line.strip_prefix("gmsa_log_dropped_total "))?;
        line.parse::<u64>().ok()
    };
    wait_for("a dropped line", || dropped().is_some_and(|dropped| dropped > 0));
    assert!(ask(&address, "/health").unwrap().ends_with("\r\n\r\nok\n"));

    let log = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let mut missing = 0;
    for line in log {
        assert!(line.len() <= 8 * 1024);
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        if line["event"] == "log.dropped" {
            missing = line["count"].as_u64().unwrap();
            break;
        }
    }
    assert!(missing > 0 && dropped().unwrap() >= missing);
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn the_end_comes_although_the_log_is_not_read() {
    let (reader, writer) = std::io::pipe().unwrap();
    let (mut filler, full) = (writer.try_clone().unwrap(), Instant::now());
    rustix::fs::fcntl_setfl(&filler, rustix::fs::OFlags::NONBLOCK).unwrap();
    while filler.write(&[b' '; 4096]).is_ok() {}
    let mut child = sidecar(&["run"], &[("GMSA_LISTEN", "x")]).stderr(writer).spawn().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(78));
    assert!(full.elapsed() < Duration::from_secs(30));
    drop(reader);
}

#[test]
fn health_answers_beside_a_thousand_held_connections_with_few_descriptors() {
    for limit in ["1024", "24"] {
        let address = free_port();
        let volume = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -n $0; exec \"$@\"", limit, env!("CARGO_BIN_EXE_gmsa-sidecar"), "run"]);
        command.env_clear().env("GMSA_LISTEN", &address).env("GMSA_DIR", volume.path());
        command.env("GMSA_CREDENTIAL_SPECS", "file:///nothing/here.json").stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        wait_for("the server", || ask(&address, "/health").is_some());
        let hold = |at: usize| {
            let mut stream = std::net::TcpStream::connect(&address).ok()?;
            let said = ["", "G", "GET /health HTTP/1.1\r\nHost: x\r\nX: ", "GET /leases HTTP/1.1\r\nHost: ::1\r\n\r\n"];
            let _ = stream.write_all(said[at % said.len()].as_bytes());
            Some(stream)
        };
        let mut held: Vec<_> = (0..700).filter_map(hold).collect();
        for at in 0..20 {
            held.extend((0..20).filter_map(hold));
            let begun = Instant::now();
            let answer = ask(&address, "/health").unwrap_or_default();
            assert!(answer.ends_with("\r\n\r\nok\n"), "{limit} {at}: {answer}");
            assert!(begun.elapsed() < Duration::from_secs(1));
        }
        let (code, _, err) = tell(&["health", "--listen", &address], &[]);
        assert!(code == 1 && err.starts_with("credspec-unreadable: "), "{err}");
        drop(held);
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
}

#[test]
fn explain_prints_a_page_and_an_unknown_code_is_64() {
    let (code, out, err) = tell(&["explain", "dc-unreachable"], &[]);
    assert!(code == 0 && out.starts_with("dc-unreachable\n") && err.is_empty(), "{out}{err}");
    let (code, out, _) = tell(&["explain"], &[]);
    assert!(code == 0 && out.contains("volume-not-writable"), "{out}");
    let (code, out, err) = tell(&["explain", "dc-unreachble"], &[]);
    assert!(code == 64 && out.is_empty() && err.contains("`dc-unreachable`"), "{code} {err}");
}

#[test]
fn a_start_says_what_is_in_force_and_another_crate_is_never_logged() {
    let (address, volume) = (free_port(), tempfile::tempdir().unwrap());
    let variables = [
        ("GMSA_LISTEN", address.as_str()),
        ("GMSA_CREDENTIAL_SPECS", "file:///nothing/here.json"),
        ("GMSA_DIR", volume.path().to_str().unwrap()),
        ("GMSA_DNS_SERVERS", "192.0.2.1"),
        ("GMSA_LOG", "debug,hyper=trace"),
        ("GMSA_DNS_SERVER", "x"),
    ];
    let mut child = sidecar(&["run"], &variables).spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let mut next = |event: &str| {
        let line = log.find(|line| line.contains(&format!(r#""event":"{event}""#))).unwrap();
        serde_json::from_str::<serde_json::Value>(&line).unwrap()
    };
    assert_eq!(next("config.foreign-log-target")["ignored"], "hyper");
    let started = next("sidecar.started");
    for (field, value) in [
        ("listen", address.as_str()),
        ("dir", variables[2].1),
        ("mode", "0600"),
        ("dns_servers", "192.0.2.1:53"),
        ("dns_source", "GMSA_DNS_SERVERS"),
        ("ldap", "sasl"),
        ("credspecs", "file:///nothing/here.json"),
        ("credspecs_source", "GMSA_CREDENTIAL_SPECS"),
        ("log", "debug"),
        ("unknown_variables", "GMSA_DNS_SERVER"),
    ] {
        assert_eq!(started[field], value, "{field}");
    }
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
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
    log::start(log::LogSettings { filter: log::Filter::default(), format: None, colour: false });
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
