//! A sidecar under test, and the lab around it.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// A name of the lab, as `lab/env.sh` prints them.
pub fn lab(name: &str) -> &'static str {
    static NAMES: LazyLock<BTreeMap<String, String>> = LazyLock::new(|| {
        let output = Command::new(root().join("lab/env.sh")).output().expect("lab/env.sh runs");
        let lines = String::from_utf8(output.stdout).expect("names are text");
        let pairs = lines.lines().filter_map(|line| line.split_once('='));
        let names: BTreeMap<String, String> = pairs.map(|(name, value)| (name.into(), value.into())).collect();
        let agent = (names["LAB_ECS_IP"].as_str(), 80);
        assert!(
            TcpStream::connect(agent).is_ok(),
            "not in the lab: start it with lab/up --rodc and run the tests by lab/run"
        );
        names
    });
    NAMES.get(name).unwrap_or_else(|| panic!("lab/env.sh has no {name}"))
}

/// The project's root.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The binary under test: the static one where `scripts/test` built it.
pub fn binary() -> PathBuf {
    #[expect(clippy::disallowed_methods, reason = "a test reads what the test command says")]
    let given = std::env::var_os("GMSA_SIDECAR_UNDER_TEST");
    given.map_or_else(|| env!("CARGO_BIN_EXE_gmsa-sidecar").into(), |path| root().join(path))
}

/// A sidecar to be run: a volume of its own, an address of its own, an environment that holds nothing else.
pub struct Sidecar {
    pub volume: TempDir,
    pub listen: SocketAddr,
    environment: BTreeMap<String, String>,
    wrapper: Vec<String>,
    binary: PathBuf,
}

impl Sidecar {
    /// One that finds S3 and Secrets Manager of the lab with credentials of its environment.
    pub fn new() -> Self {
        let volume = TempDir::new().expect("a folder for the volume");
        // Like the image's: whoever mounts it may look into the folder itself.
        std::fs::set_permissions(volume.path(), Permissions::from_mode(0o755)).expect("a mode");
        // Every process has its own address of the loopback range, so that tests can run side by side.
        let [_, a, b, c] = std::process::id().to_be_bytes();
        static COUNT: std::sync::atomic::AtomicU16 = std::sync::atomic::AtomicU16::new(8488);
        let port = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let listen = SocketAddr::from((Ipv4Addr::new(127, 64 | a, b, c), port));
        let sidecar = Self { volume, listen, environment: BTreeMap::new(), wrapper: Vec::new(), binary: binary() };
        let dir = sidecar.volume.path().display().to_string();
        sidecar
            .with("GMSA_DIR", &dir)
            .with("GMSA_LISTEN", &listen.to_string())
            .with("AWS_ACCESS_KEY_ID", "testing")
            .with("AWS_SECRET_ACCESS_KEY", "testing")
            .with("AWS_REGION", lab("LAB_AWS_REGION"))
            .with("AWS_ENDPOINT_URL", lab("LAB_AWS_ENDPOINT"))
            .with("AWS_EC2_METADATA_DISABLED", "true")
    }

    /// One that keeps the tickets of a CredSpec in the lab's bucket.
    pub fn of(key: &str) -> Self {
        Self::new().with("GMSA_CREDENTIAL_SPECS", &format!("arn:aws:s3:::{}/{key}", lab("LAB_BUCKET")))
    }

    /// One that keeps the tickets of a CredSpec made of `account` and the secret called `secret`.
    pub fn inline(account: &str, secret: &str) -> Self {
        Self::new().with("GMSA_CREDENTIAL_SPECS", &cred_spec(account, lab("LAB_DOMAIN"), &secret_arn(secret)))
    }

    /// Sets a variable.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.into(), value.into());
        self
    }

    /// Takes a variable away.
    pub fn without(mut self, name: &str) -> Self {
        self.environment.remove(name);
        self
    }

    /// Runs it through another command, such as `setpriv --reuid 65532 --`.
    pub fn through(mut self, wrapper: &[impl ToString]) -> Self {
        self.wrapper = wrapper.iter().map(ToString::to_string).collect();
        self
    }

    /// The dynamically linked binary, where a library shall come between it and the kernel.
    pub fn dynamic(mut self) -> Self {
        self.binary = env!("CARGO_BIN_EXE_gmsa-sidecar").into();
        self
    }

    /// A path on its volume.
    pub fn path(&self, name: &str) -> PathBuf {
        self.volume.path().join(name)
    }

    /// Its command line with this environment.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut words: Vec<_> = self.wrapper.iter().map(Into::into).collect();
        words.push(self.binary.clone().into_os_string());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).args(arguments).env_clear().envs(&self.environment);
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").stdin(Stdio::null());
        command
    }

    /// Runs a command that ends by itself.
    pub fn call(&self, arguments: &[&str]) -> Ended {
        Ended::of(self.command(arguments).output().expect("the sidecar starts"))
    }

    /// Runs `init`.
    pub fn init(&self) -> Ended {
        self.call(&["init"])
    }

    /// Runs `init` with one variable more.
    pub fn init_with(&self, name: &str, value: &str) -> Ended {
        let output = self.command(&["init"]).env(name, value).output().expect("the sidecar starts");
        Ended::of(output)
    }

    /// Starts `run`.
    pub fn run(&self) -> Running<'_> {
        self.start("run")
    }

    /// Starts a command that goes on.
    pub fn start(&self, command: &str) -> Running<'_> {
        let mut command = self.command(&[command]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the sidecar starts");
        let log = Arc::new(Mutex::new(Vec::new()));
        let stderr = BufReader::new(child.stderr.take().expect("a pipe"));
        let lines = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                lines.lock().expect("nobody panicked").push(line);
            }
        });
        Running { sidecar: self, child, log }
    }

    /// An HTTP request to it: status and body. `None` while nobody listens.
    pub fn http(&self, method: &str, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(self.listen).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        write!(stream, "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.listen).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some((status, body.to_owned()))
    }

    /// The body of `GET path` as JSON.
    pub fn json(&self, path: &str) -> Value {
        let (_, body) = self.http("GET", path).expect("the sidecar listens");
        serde_json::from_str(&body).expect("JSON")
    }

    /// An app's command in the lab: with our ticket and our krb5.conf, as another user where `uid` is one.
    pub fn app(&self, uid: u32, command: &[&str]) -> Ended {
        let mut app = Command::new("setpriv");
        app.args([format!("--reuid={uid}"), format!("--regid={uid}"), "--clear-groups".into()]).args(command);
        app.env("KRB5CCNAME", self.path("krb5cc")).env("KRB5_CONFIG", self.path("krb5.conf"));
        let home = TempDir::new().expect("a home");
        std::os::unix::fs::chown(home.path(), Some(uid), Some(uid)).expect("a home of its own");
        Ended::of(app.env("HOME", home.path()).output().expect("the app starts"))
    }

    /// Every file on the volume.
    pub fn files(&self) -> Vec<PathBuf> {
        fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
            for entry in std::fs::read_dir(folder).expect("the folder is there") {
                let path = entry.expect("an entry").path();
                if path.is_dir() { walk(&path, found) } else { found.push(path) }
            }
        }
        let mut found = Vec::new();
        walk(self.volume.path(), &mut found);
        found.sort();
        found
    }
}

/// A command that has ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    pub fn of(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("output is UTF-8");
        let ended = Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) };
        assert_no_secret(&ended.stdout);
        assert_no_secret(&ended.stderr);
        ended
    }

    /// The JSON log lines.
    pub fn log(&self) -> Vec<Value> {
        self.stderr.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Checks that it worked and returns what it printed.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self.stdout
    }

    /// The first fault told, as the user reads it.
    #[track_caller]
    pub fn fault(&self) -> String {
        let log = self.log();
        let fault = log.iter().find(|line| line["level"] == "ERROR" && line["code"].is_string());
        let fault = fault.unwrap_or_else(|| panic!("no fault was told: {self:#?}"));
        let part = |name: &str| fault[name].as_str().unwrap_or("-").to_owned();
        format!("{} exit {}\nwhat: {}\nwhy:  {}", part("code"), self.code.unwrap_or(-1), part("what"), part("why"))
    }
}

/// A sidecar that runs until it is dropped.
pub struct Running<'a> {
    pub sidecar: &'a Sidecar,
    pub child: Child,
    log: Arc<Mutex<Vec<String>>>,
}

impl Running<'_> {
    /// Waits until `GET /ready` says yes.
    #[track_caller]
    pub fn wait_ready(&self) {
        self.wait("ready", || self.sidecar.http("GET", "/ready").is_some_and(|(status, _)| status == 200));
    }

    /// Waits until a log line tells this fault.
    #[track_caller]
    pub fn wait_fault(&self, code: &str) {
        self.wait(code, || self.log().iter().any(|line| line["code"] == code));
    }

    /// Waits until `condition` holds; fails with the log after half a minute.
    #[track_caller]
    pub fn wait(&self, what: &str, condition: impl Fn() -> bool) {
        let start = Instant::now();
        while !condition() {
            assert!(start.elapsed() < PATIENCE, "waited in vain for {what}:\n{}", self.text());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The log lines so far.
    pub fn log(&self) -> Vec<Value> {
        let lines = self.log.lock().expect("nobody panicked");
        lines.iter().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"))).collect()
    }

    /// The log as written.
    pub fn text(&self) -> String {
        self.log.lock().expect("nobody panicked").join("\n")
    }

    /// Sends a signal by PID.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status();
        assert!(sent.expect("kill runs").success());
    }

    /// Waits for its end; returns the exit code.
    #[track_caller]
    pub fn wait_end(&mut self) -> Option<i32> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status.code();
            }
            assert!(start.elapsed() < PATIENCE, "it does not end:\n{}", self.text());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if !std::thread::panicking() {
            assert_no_secret(&self.text());
        }
    }
}

/// No password of the lab stands in `text`.
#[track_caller]
pub fn assert_no_secret(text: &str) {
    for name in ["LAB_USER_PW", "LAB_OUTSIDER_PW", "LAB_DISABLED_PW", "LAB_MUSTCHANGE_PW", "LAB_EXPIRED_PW"] {
        assert!(!text.contains(lab(name)), "{name} was printed:\n{text}");
    }
}

/// The ARN of a secret of the lab, by its name.
pub fn secret_arn(name: &str) -> String {
    let arns = std::fs::read_to_string(lab("LAB_ARNS")).expect("the seed wrote the ARNs");
    let arns: Value = serde_json::from_str(&arns).expect("JSON");
    arns[name].as_str().unwrap_or_else(|| panic!("no secret {name} in {arns}")).to_owned()
}

/// Puts an object into the lab's bucket, whose name it returns.
pub fn put_object(key: &str, body: &[u8]) {
    let put = s3().put_object().bucket(lab("LAB_BUCKET")).key(key).body(body.to_vec().into());
    block_on(put.send()).expect("the object is stored");
}

/// Takes an object out of the lab's bucket.
pub fn delete_object(key: &str) {
    let delete = s3().delete_object().bucket(lab("LAB_BUCKET")).key(key);
    block_on(delete.send()).expect("the object is deleted");
}

fn s3() -> aws_sdk_s3::Client {
    use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .credentials_provider(Credentials::for_tests())
        .region(Region::new(lab("LAB_AWS_REGION")))
        .endpoint_url(lab("LAB_AWS_ENDPOINT"))
        .force_path_style(true)
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .build();
    aws_sdk_s3::Client::from_conf(config)
}

/// Makes a secret, or gives it a new value; returns its ARN.
pub fn put_secret(name: &str, value: &str) -> String {
    let client = secrets_manager();
    let create = client.create_secret().name(name).secret_string(value);
    let arn = match block_on(create.send()) {
        Ok(made) => made.arn,
        Err(_exists) => {
            let put = client.put_secret_value().secret_id(name).secret_string(value);
            block_on(put.send()).expect("the secret is stored").arn
        }
    };
    arn.expect("a secret has an ARN")
}

/// Gives a secret a pending version, as the first step of a rotation does.
pub fn put_pending(arn: &str, value: &str) {
    let put = secrets_manager().put_secret_value().secret_id(arn).secret_string(value).version_stages("AWSPENDING");
    block_on(put.send()).expect("the version is stored");
}

fn secrets_manager() -> aws_sdk_secretsmanager::Client {
    use aws_sdk_secretsmanager::config::{BehaviorVersion, Credentials, Region};
    let config = aws_sdk_secretsmanager::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .credentials_provider(Credentials::for_tests())
        .region(Region::new(lab("LAB_AWS_REGION")))
        .endpoint_url(lab("LAB_AWS_ENDPOINT"))
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .build();
    aws_sdk_secretsmanager::Client::from_conf(config)
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}

/// Writes a file for the sidecar or the stand-ins to read.
#[expect(clippy::disallowed_methods, reason = "a test's file is nobody's ticket")]
pub fn write(path: &Path, text: &str) {
    std::fs::write(path, text).expect("the file is written");
}

/// A CredSpec as New-CredentialSpec and the AWS documentation write it.
pub fn cred_spec(account: &str, domain: &str, secret_arn: &str) -> String {
    let netbios = domain.split('.').next().unwrap_or_default().to_uppercase();
    serde_json::json!({
        "CmsPlugins": ["ActiveDirectory"],
        "DomainJoinConfig": {
            "Sid": "S-1-5-21-2126449477-2524075714-3094792973", "MachineAccountName": account,
            "Guid": "498c4f2c-3e0c-4d3f-8d3c-1d1d9c0f7a4e", "DnsTreeName": domain, "DnsName": domain,
            "NetBiosName": netbios
        },
        "ActiveDirectoryConfig": {
            "GroupManagedServiceAccounts": [
                {"Name": account, "Scope": domain}, {"Name": account, "Scope": netbios}
            ],
            "HostAccountConfig": {
                "PortableCcgVersion": "1", "PluginGUID": "{859E1386-BDB4-49E8-85C7-3070B13920E1}",
                "PluginInput": {"CredentialArn": secret_arn}
            }
        }
    })
    .to_string()
}

/// How long a test waits for a condition. Far more than anything takes; it only ends a test that hangs.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Asks for a refresh until it is granted: there is one in ten seconds at most.
pub fn refresh(running: &Running<'_>) {
    running.wait("a refresh", || running.sidecar.http("POST", "/refresh").is_some_and(|(status, _)| status == 202));
}

pub fn inode(path: &Path) -> Option<u64> {
    std::fs::metadata(path).ok().map(|stat| std::os::unix::fs::MetadataExt::ino(&stat))
}

/// How many log lines have this event.
pub fn count(running: &Running<'_>, event: &str) -> usize {
    running.log().iter().filter(|line| line["event"] == event).count()
}

pub fn samba_tool(arguments: &[&str]) {
    let database = ["-H", lab("LAB_SAMDB"), "-s", lab("LAB_SMB_CONF")];
    let output = Command::new("samba-tool").args(arguments).args(database).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() || said.contains("already exists"), "samba-tool {arguments:?}: {said}");
}

/// An attribute of an account, as the directory has it.
pub fn attribute(account: &str, name: &str) -> String {
    let filter = format!("(sAMAccountName={account})");
    let output = Command::new("ldbsearch").args(["-H", lab("LAB_SAMDB"), &filter, name]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
    line.unwrap_or_default().to_owned()
}
