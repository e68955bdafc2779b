//! Processes of a test, each ended with it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

pub use crate::agent::{Agent, python, spec};

/// A daemon with its folders.
pub struct Bench {
    folder: TempDir,
    /// The daemon, or who holds its socket.
    process: Child,
    held: bool,
}

impl Bench {
    /// A daemon that binds its socket itself.
    pub fn start(group: Option<u32>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let [command, arguments @ ..] = command();
        let process = Command::new(command).args(arguments).envs(environment(folder.path(), group)).spawn().unwrap();
        Self { folder, process, held: false }.ready()
    }

    /// A daemon whose socket is held for it, and that is started again when it ends.
    pub fn held() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let holder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/host/holder.py");
        fs::create_dir(folder.path().join("socket")).unwrap();
        let process = Command::new("/usr/bin/python3")
            .arg(holder)
            .args([socket(folder.path()), folder.path().join("pid")])
            .args(command())
            .envs(environment(folder.path(), None))
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        Self { folder, process, held: true }.ready()
    }

    fn ready(self) -> Self {
        until("the socket is there", || self.socket().exists());
        self
    }

    /// The agent's socket.
    pub fn socket(&self) -> PathBuf {
        socket(self.folder.path())
    }

    /// Where the leases are.
    pub fn krbdir(&self) -> PathBuf {
        fs::canonicalize(self.folder.path()).unwrap().join("krbdir")
    }

    /// A new folder.
    pub fn folder(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    /// The ids of the leases, by their folders.
    pub fn leases(&self) -> Vec<String> {
        let folders = fs::read_dir(self.krbdir()).unwrap().flatten();
        folders.map(|folder| folder.file_name().into_string().unwrap()).collect()
    }

    /// kill -9, and waits until another process is there.
    pub fn kill_daemon(&self) {
        assert!(self.held);
        let pid = || fs::read_to_string(self.folder.path().join("pid")).unwrap_or_default();
        let before = pid();
        assert!(Command::new("kill").args(["-9", &before]).status().unwrap().success());
        until("another daemon", || pid() != before);
    }

    /// The agent on the host.
    pub fn agent(&self) -> Agent {
        Agent::start(Command::new(python()), &self.socket())
    }

    /// As another user.
    pub fn agent_as(&self, user: &str, group: &str, groups: &str) -> Agent {
        // Others may not look into the folder of the test, nor into the clone.
        for folder in [self.folder.path(), &self.folder.path().join("socket")] {
            fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        }
        let mut command = Command::new("setpriv");
        command.args([user, group, groups, "--"]).arg(python());
        Agent::start(command, &self.socket())
    }

    /// In a mount namespace of its own, where the file of the socket is mounted elsewhere.
    pub fn agent_in_container(&self) -> Agent {
        let inside = self.folder.path().join("inside.sock");
        fs::File::create_new(&inside).unwrap();
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-ec", r#"mount --bind "$0" "$1"; shift; exec "$@""#]);
        command.arg(self.socket()).arg(&inside).arg(python());
        Agent::start(command, &inside)
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        if !self.held {
            let _ = self.process.kill();
        }
        let _ = self.process.wait();
    }
}

/// Waits for a condition, half a minute at most.
pub fn until(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < end, "it is not so that {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What the daemon's process was asked to serve.
#[expect(clippy::disallowed_methods, reason = "a test's process is told by its environment")]
pub fn asked() -> Option<(PathBuf, PathBuf, Option<u32>)> {
    let folder = PathBuf::from(std::env::var_os("HOST_TEST_FOLDER")?);
    let group = std::env::var("HOST_TEST_GROUP").ok().and_then(|group| group.parse().ok());
    Some((folder.join("krbdir"), socket(&folder), group))
}

fn environment(folder: &Path, group: Option<u32>) -> Vec<(&'static str, String)> {
    let group = group.map(|group| ("HOST_TEST_GROUP", group.to_string()));
    std::iter::once(("HOST_TEST_FOLDER", folder.display().to_string())).chain(group).collect()
}

fn socket(folder: &Path) -> PathBuf {
    folder.join("socket/credentials_fetcher.sock")
}

fn command() -> [String; 5] {
    let this = std::env::current_exe().unwrap().display().to_string();
    [this, "--exact".into(), "daemon".into(), "--ignored".into(), "--nocapture".into()]
}
