//! `docker`, and what a test makes with it: gone when the test is over.

use std::collections::BTreeMap;
use std::process::{Command, Output};
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;

use crate::support::{lab, root};

/// The image under test.
pub fn image() -> String {
    "gmsa-sidecar:latest".to_owned()
}

/// Runs `docker` to its end.
pub fn docker(arguments: &[&str]) -> Ended {
    Ended::of(Command::new("docker").args(arguments).output().expect("docker runs"))
}

/// A `docker` that has ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    fn of(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// Checks that it worked and returns what it printed.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self.stdout
    }

    /// What it printed, as JSON.
    #[track_caller]
    pub fn json(self) -> Value {
        serde_json::from_str(&self.ok()).expect("JSON")
    }
}

/// The names of all files in an image.
pub fn files(image: &str) -> Vec<String> {
    let name = unique();
    docker(&["create", "--name", &name, image]).ok();
    let list = Command::new("sh").args(["-c", "docker export \"$0\" | tar -t", &name]).output().expect("sh runs");
    docker(&["rm", "--volumes", &name]).ok();
    let list = Ended::of(list).ok();
    // What the engine itself puts into every container.
    let engine = ["dev/console", ".dockerenv", "etc/hosts", "etc/hostname", "etc/resolv.conf", "etc/mtab"];
    let ours = |line: &&str| !line.ends_with('/') && !engine.contains(line);
    let mut files: Vec<_> = list.lines().filter(ours).map(|line| format!("/{line}")).collect();
    files.sort();
    files
}

/// A text file of an image.
pub fn file(image: &str, path: &str) -> String {
    let name = unique();
    docker(&["create", "--name", &name, image]).ok();
    let tar = Command::new("sh").args(["-c", "docker cp \"$0:$1\" - | tar -xO", &name, path]).output();
    docker(&["rm", "--volumes", &name]).ok();
    Ended::of(tar.expect("sh runs")).ok()
}

/// A time as Docker writes it, with any offset and number of digits.
pub fn instant(time: &str) -> SystemTime {
    let output = Command::new("date").args(["-u", "-d", time, "+%s%N"]).output().expect("date runs");
    let nanoseconds = Ended::of(output).ok().trim().parse().expect("a number");
    SystemTime::UNIX_EPOCH + Duration::from_nanos(nanoseconds)
}

/// A compose project.
pub struct Project {
    name: String,
    files: Vec<String>,
    environment: BTreeMap<String, String>,
}

impl Project {
    /// One of these files, which are relative to the root of the project.
    pub fn new(files: &[&str]) -> Self {
        let name = unique();
        let environment = [("IMAGE", image()), ("LISTEN", listen())];
        let environment = environment.map(|(name, value)| (name.to_owned(), value)).into();
        Self { name, files: files.iter().map(ToString::to_string).collect(), environment }
    }

    /// Sets a variable of the compose files.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.into(), value.into());
        self
    }

    /// `docker compose up`, in the background unless `more` says what to wait for.
    pub fn up(&self, more: &[&str]) -> Ended {
        let mut arguments = vec!["up", "--no-build", "--pull", "never", "--quiet-pull"];
        arguments.extend(if more.is_empty() { &["--detach"][..] } else { more });
        self.compose(&arguments)
    }

    /// The container of a service.
    pub fn container(&self, service: &str) -> Container {
        let id = self.compose(&["ps", "--all", "--quiet", service]).ok();
        Container { name: id.trim().to_owned(), is_ours: false }
    }

    fn compose(&self, arguments: &[&str]) -> Ended {
        lab("LAB_REALM"); // the lab is up
        let mut command = Command::new("bash");
        // The names of the lab, for the files.
        command.args(["-c", ". lab/env.sh && exec docker compose \"$@\"", "bash", "--project-name", &self.name]);
        for file in &self.files {
            command.args(["--file", file]);
        }
        command.args(arguments).current_dir(root()).envs(&self.environment);
        Ended::of(command.output().expect("bash runs"))
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}", self.compose(&["logs"]).stdout);
        }
        self.compose(&["down", "--volumes", "--timeout", "2"]);
    }
}

/// A volume, empty until an image is mounted on it.
pub struct Volume(String);

impl Volume {
    pub fn new() -> Self {
        let name = unique();
        docker(&["volume", "create", &name]).ok();
        Self(name)
    }

    /// Runs a shell command in it, in a container that mounts it `ro` or `rw`.
    pub fn run(&self, user: &str, mode: &str, script: &str) -> Ended {
        let mount = format!("{}:/var/credentials-fetcher/krbdir:{mode}", self.0);
        let arguments = ["run", "--rm", "--network", "none", "--user", user, "--volume", &mount];
        let command = ["--workdir", "/var/credentials-fetcher/krbdir", "gmsa-local-app", "sh", "-c", script];
        docker(&[&arguments[..], &command[..]].concat())
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        docker(&["volume", "rm", "--force", &self.0]);
    }
}

/// A container, removed at the end if it is not compose's.
pub struct Container {
    pub name: String,
    is_ours: bool,
}

impl Container {
    /// The sidecar in the lab, with nothing that it could do without.
    pub fn sidecar(volume: &Volume, user: &str, mode: &str) -> Self {
        let name = unique();
        let variables = [
            format!("GMSA_CREDENTIAL_SPECS=arn:aws:s3:::{}/webapp01.json", lab("LAB_BUCKET")),
            format!("GMSA_MODE={mode}"),
            format!("GMSA_LISTEN={}", listen()),
            format!("AWS_REGION={}", lab("LAB_AWS_REGION")),
            format!("AWS_ENDPOINT_URL={}", lab("LAB_AWS_ENDPOINT")),
            "AWS_ACCESS_KEY_ID=testing".to_owned(),
            "AWS_SECRET_ACCESS_KEY=testing".to_owned(),
        ];
        let mount = format!("{}:/var/credentials-fetcher/krbdir", volume.0);
        let mut arguments = vec!["run", "--detach", "--name", &name, "--network", "host", "--dns", lab("LAB_DC1_IP")];
        arguments.extend(["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--user", user]);
        arguments.extend(["--volume", &mount]);
        arguments.extend(variables.iter().flat_map(|variable| ["--env", variable]));
        let image = image();
        arguments.push(&image);
        docker(&arguments).ok();
        Self { name, is_ours: true }
    }

    /// The image in the lab's network, with these arguments for the engine and these for itself.
    pub fn of(engine: &[String], command: &[&str]) -> Self {
        let name = unique();
        let mut arguments = vec!["run", "--detach", "--name", &name, "--network", "host", "--dns", lab("LAB_DC1_IP")];
        arguments.extend(["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]);
        let (image, listen) = (image(), format!("--env=GMSA_LISTEN={}", listen()));
        arguments.push(&listen);
        arguments.extend(engine.iter().map(String::as_str));
        arguments.push(&image);
        arguments.extend(command);
        docker(&arguments).ok();
        Self { name, is_ours: true }
    }

    /// Waits for the image's own health check.
    #[track_caller]
    pub fn wait_healthy(&self) {
        let start = Instant::now();
        while self.inspect()["State"]["Health"]["Status"] != "healthy" {
            assert!(start.elapsed() < Duration::from_secs(60), "not healthy:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits for its end; returns the exit code.
    pub fn wait(&self) -> i32 {
        docker(&["wait", &self.name]).ok().trim().parse().expect("an exit code")
    }

    /// Whether it was made and not started.
    pub fn never_started(&self) -> bool {
        let state = &self.inspect()["State"];
        state["Status"] == "created" && state["StartedAt"] == "0001-01-01T00:00:00Z"
    }

    /// What it wrote to stdout and stderr.
    pub fn log(&self) -> String {
        let ended = docker(&["logs", &self.name]);
        ended.stdout + &ended.stderr
    }

    /// What the engine knows of it.
    pub fn inspect(&self) -> Value {
        docker(&["inspect", &self.name]).json()[0].take()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if self.is_ours {
            docker(&["rm", "--force", "--volumes", &self.name]);
        }
    }
}

/// A name that no other test has.
fn unique() -> String {
    static COUNT: std::sync::atomic::AtomicU16 = std::sync::atomic::AtomicU16::new(0);
    let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    format!("gmsa-test-{}-{number}", std::process::id())
}

/// An address that no other test listens on.
fn listen() -> String {
    static PORT: std::sync::atomic::AtomicU16 = std::sync::atomic::AtomicU16::new(8488);
    let [_, a, b, c] = std::process::id().to_be_bytes();
    format!("127.{}.{b}.{c}:{}", 64 | a, PORT.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
}
