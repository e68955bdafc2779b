//! The agent's stand-in, for the tests of the socket and for those of the lab.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Once;

use serde_json::{Value, json};

/// The agent's stand-in.
pub struct Agent {
    process: Child,
    calls: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Agent {
    /// A process that makes the calls.
    pub fn start(mut command: Command, socket: &Path) -> Self {
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/host/agent.py"));
        Self::of(command, socket)
    }

    /// The one in Go, with the library that the agent uses.
    pub fn in_go(socket: &Path) -> Self {
        let built = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/host/go")).output().unwrap();
        assert!(built.status.success(), "agent.go: {}", String::from_utf8_lossy(&built.stderr));
        Self::of(Command::new(String::from_utf8(built.stdout).unwrap().trim()), socket)
    }

    fn of(mut command: Command, socket: &Path) -> Self {
        let mut process = command.arg(socket).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (calls, answers) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
        Self { process, calls, answers: BufReader::new(answers) }
    }

    /// One call, or several at once.
    pub fn call(&mut self, call: &Value) -> Value {
        writeln!(self.calls, "{call}").unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        serde_json::from_str(&line).expect("an answer of the agent")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A CredSpec as the agent passes it on.
pub fn spec(account: &str, machine: &str) -> String {
    json!({
        "CmsPlugins": ["ActiveDirectory"],
        "DomainJoinConfig": {"MachineAccountName": machine, "DnsName": "example.com", "NetBiosName": "EXAMPLE"},
        "ActiveDirectoryConfig": {
            "GroupManagedServiceAccounts": [{"Name": account, "Scope": "example.com"}],
            "HostAccountConfig": {"PluginInput": {
                "CredentialArn": "arn:aws:secretsmanager:eu-central-1:123456789012:secret:gmsa/login-AbCdEf",
            }},
        },
    })
    .to_string()
}

/// The Python that has grpcio.
pub fn python() -> PathBuf {
    static READY: Once = Once::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    READY.call_once(|| {
        assert!(Command::new(root.join("tests/host/venv")).status().unwrap().success(), "grpcio cannot be installed");
    });
    root.join("build/host-venv/bin/python")
}
