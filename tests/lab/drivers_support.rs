//! What the tests of SQL drivers share: a driver in a container of its own, a KDC that is silent, a cache that has expired.
//!
//! The clients are in `lab/sql/clients`; `pool.py` there says what one process of them can do.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketType};
use tempfile::TempDir;

use crate::support::{Ended, Sidecar, lab, root, write};

/// The SPNs of the lab's SQL Server, with the port and without.
pub const SPNS: &str = "MSSQLSvc/db.example.com MSSQLSvc/db.example.com:1433";

/// A sidecar that writes for the app's group, as `docs/ecs.md` recommends.
pub fn sidecar(services: &str) -> Sidecar {
    Sidecar::of("webapp01.json")
        .with("GMSA_OWNER", &format!("65532:{APP}"))
        .with("GMSA_MODE", "0640")
        .with("GMSA_SERVICE_TICKETS", services)
}

const APP: u32 = 1654;

/// A client: its command line, and what of its environment the image would set. Paths: `/mnt/drivers`, `/mnt/clients`, and
/// the volume at `/mnt/volume`.
pub struct Driver {
    pub command: Vec<String>,
    pub environment: BTreeMap<&'static str, String>,
    /// The SPN that it asks for.
    pub spn: &'static str,
}

impl Driver {
    pub fn new(spn: &'static str, command: &[&str]) -> Self {
        let command = command.iter().map(ToString::to_string).collect();
        Self { command, environment: BTreeMap::new(), spn }
    }

    pub fn with(mut self, name: &'static str, value: &str) -> Self {
        self.environment.insert(name, value.into());
        self
    }

    /// Microsoft's ODBC driver and unixODBC.
    pub fn odbc(server: &str) -> Self {
        let spn = "MSSQLSvc/db.example.com:1433";
        Self::new(spn, &["/usr/bin/python3", "/mnt/clients/odbc.py", &odbc_string(server)])
    }

    /// FreeTDS with MIT's library inside, by pymssql.
    pub fn pymssql(server: &str, wheel: &str) -> Self {
        let driver =
            Self::new("MSSQLSvc/db.example.com:1433", &["/usr/bin/python3", "/mnt/clients/freetds.py", server]);
        driver.with("PYTHONPATH", &format!("/mnt/drivers/{wheel}"))
    }

    /// As the app's container would start it: another user, the volume read-only.
    pub fn container(&self, sidecar: &Sidecar, conf: Option<&Path>) -> Command {
        // The folders may lie where another user cannot go.
        let script = "set -e; mount -t tmpfs none /mnt; mkdir /mnt/drivers /mnt/clients /mnt/volume; chmod 755 /mnt
            mount --bind \"$1\" /mnt/drivers; mount --bind \"$2\" /mnt/clients; mount --bind \"$3\" /mnt/volume
            mount -o remount,ro,bind /mnt/volume
            if [ -n \"$4\" ]; then cp \"$4\" /mnt/krb5.conf; else ln -s volume/krb5.conf /mnt/krb5.conf; fi
            mkdir -m 700 /mnt/home; chown $5:$5 /mnt/home; user=$5; shift 5; cd /
            exec setpriv --reuid=$user --regid=$user --clear-groups env -i \"$@\"";
        let mut container = Command::new("unshare");
        container.args(["-m", "--propagation", "private", "bash", "-c", script, "-"]);
        container.args([Path::new(lab("LAB_DRIVERS")), &root().join("lab/sql/clients"), sidecar.volume.path()]);
        container.arg(conf.map_or_else(|| "".into(), |path| path.as_os_str().to_owned())).arg(APP.to_string());
        container.args(["PATH=/usr/bin:/bin", "HOME=/mnt/home", "TMPDIR=/mnt/home", "PYTHONDONTWRITEBYTECODE=1"]);
        container.args(["KRB5CCNAME=/mnt/volume/krb5cc", "KRB5_CONFIG=/mnt/krb5.conf"]);
        container.args(self.environment.iter().map(|(name, value)| format!("{name}={value}"))).args(&self.command);
        container
    }

    /// A process of it that keeps what it opens.
    pub fn pool(&self, sidecar: &Sidecar, conf: Option<&Path>) -> Pool {
        let mut command = self.container(sidecar, conf);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (commands, answers) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        Pool { child, commands, answers }
    }

    /// Runs it with this on stdin.
    pub fn call(&self, sidecar: &Sidecar, stdin: &str) -> Ended {
        let mut command = self.container(sidecar, None);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
        Ended::of(child.wait_with_output().unwrap())
    }
}

/// A connection string for Microsoft's ODBC driver.
pub fn odbc_string(server: &str) -> String {
    let folder = "odbc/mssql_python_odbc/libs/linux/debian_ubuntu/x86_64/lib";
    let mut files = std::fs::read_dir(Path::new(lab("LAB_DRIVERS")).join(folder)).expect("lab/install was run");
    let library =
        files.find_map(|file| file.unwrap().file_name().into_string().ok().filter(|name| name.contains("msodbcsql")));
    format!(
        "Driver=/mnt/drivers/{folder}/{};Server={server};Trusted_Connection=yes;Encrypt=yes;TrustServerCertificate=yes",
        library.unwrap()
    )
}

pub struct Pool {
    child: Child,
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

/// What a driver said, and after how many milliseconds.
#[derive(Debug)]
pub struct Answer {
    pub took_ms: u64,
    pub text: String,
}

impl Pool {
    pub fn ask(&mut self, command: &str) -> Answer {
        writeln!(self.commands.as_mut().unwrap(), "{command}").unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        let (took, text) = line.trim_end().split_once(' ').unwrap_or_else(|| panic!("{command}: no answer, {line:?}"));
        Answer { took_ms: took.parse().unwrap(), text: text.into() }
    }

    /// One more connection: its number.
    #[track_caller]
    pub fn open(&mut self) -> usize {
        self.ask("open").number()
    }

    #[track_caller]
    pub fn query(&mut self, number: usize) {
        assert_eq!(self.ask(&format!("query {number}")).number(), number);
    }

    /// One more connection, which the driver refuses in these words.
    #[track_caller]
    pub fn fails(&mut self, words: &str) {
        let answer = self.ask("open");
        println!("{}", answer.text);
        assert!(answer.text.starts_with("failed ") && answer.text.contains(words), "not {words:?}: {answer:?}");
    }
}

impl Drop for Pool {
    /// With no more commands a client ends, and what it has started.
    fn drop(&mut self) {
        self.commands.take();
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(10) {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Answer {
    /// The number of the connection, on which the server saw the gMSA.
    #[track_caller]
    pub fn number(&self) -> usize {
        assert!(self.text.contains("principal=WebApp01$@EXAMPLE.COM "), "{self:?}");
        self.text.split(' ').nth(1).unwrap().parse().unwrap()
    }

    #[track_caller]
    pub fn saw(&self, what: &str) -> &Self {
        assert!(self.text.split(' ').any(|part| part == what), "the server did not see {what}: {self:?}");
        self
    }
}

/// A KDC that does not work, at port 88 of an address of its own.
pub struct BadKdc {
    pub address: Ipv4Addr,
    connections: Arc<AtomicUsize>,
    _kept: Vec<TcpStream>,
}

impl BadKdc {
    /// It takes connections and never answers.
    pub fn silent() -> Self {
        let kdc = Self::at(32);
        let listener = TcpListener::bind((kdc.address, 88)).unwrap();
        let count = Arc::clone(&kdc.connections);
        std::thread::spawn(move || {
            let mut kept = Vec::new();
            for stream in listener.incoming() {
                count.fetch_add(1, Ordering::SeqCst);
                kept.push(stream);
            }
        });
        kdc
    }

    /// Packets to it vanish: the queue of its port is full, and nobody accepts.
    pub fn dead() -> Self {
        let mut kdc = Self::at(96);
        let where_ = SocketAddr::from((kdc.address, 88));
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        rustix::net::bind(&socket, &where_).unwrap();
        rustix::net::listen(&socket, 0).unwrap();
        while let Ok(stream) = TcpStream::connect_timeout(&where_, Duration::from_millis(200)) {
            kdc._kept.push(stream);
        }
        kdc._kept.push(socket.into());
        kdc
    }

    fn at(network: u8) -> Self {
        let [_, a, b, c] = std::process::id().to_be_bytes();
        let address = Ipv4Addr::new(127, network | (a & 31), b, c);
        Self { address, connections: Arc::default(), _kept: Vec::new() }
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// The volume's `krb5.conf` with this KDC alone, or before the others.
    pub fn conf(&self, sidecar: &Sidecar, alone: bool) -> tempfile::NamedTempFile {
        let text = std::fs::read_to_string(sidecar.path("krb5.conf")).unwrap();
        let (mut changed, mut first) = (String::new(), true);
        for line in text.lines() {
            let name = line.trim().split(" = ").next().unwrap_or_default();
            let kdc = ["kdc", "master_kdc"].contains(&name);
            if kdc && (alone || first) {
                changed.push_str(&format!("        {name} = {}\n", self.address));
                first = false;
            }
            if !kdc || !alone {
                changed.push_str(&format!("{line}\n"));
            }
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        write(file.path(), &changed);
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o644)).unwrap();
        file
    }
}

/// Replaces the cache by one whose tickets ended an hour ago: a driver looks at the times in the cache, not in the tickets.
fn expire(sidecar: &Sidecar) {
    let path = sidecar.path("krb5cc");
    let mut cache = std::fs::read(&path).unwrap();
    let ended = u32::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_secs()).unwrap() - 3600;
    for at in end_times(&cache) {
        cache[at..at + 4].copy_from_slice(&ended.to_be_bytes());
    }
    let folder = TempDir::new_in(sidecar.volume.path()).unwrap();
    let beside = folder.path().join("cache");
    std::fs::copy(&path, &beside).unwrap();
    #[expect(clippy::disallowed_methods, reason = "a ticket that is of no use")]
    std::fs::write(&beside, cache).unwrap();
    std::os::unix::fs::chown(&beside, Some(65532), Some(APP)).unwrap();
    std::fs::rename(&beside, &path).unwrap();
}

/// Where the tickets' end times are in a FILE cache of version 4.
fn end_times(cache: &[u8]) -> Vec<usize> {
    let number =
        |at: usize, size: usize| cache[at..at + size].iter().fold(0, |all, byte| all << 8 | usize::from(*byte));
    let counted = |at: usize| at + 4 + number(at, 4);
    let principal = |at: usize| (0..=number(at + 4, 4)).fold(at + 8, |at, _| counted(at));
    let addresses = |at: usize| (0..number(at, 4)).fold(at + 4, |at, _| counted(at + 2));
    let (mut at, mut found) = (principal(4 + number(2, 2)), Vec::new());
    while at < cache.len() {
        at = counted(principal(principal(at)) + 2); // client, server, key
        found.push(at + 8); // auth, start, end, renew; one byte; flags
        at = counted(counted(addresses(addresses(at + 21))));
    }
    assert!(!found.is_empty() && at == cache.len(), "not a cache of version 4");
    found
}

/// A driver's own words for a cache that it cannot use.
pub struct Words {
    /// None: the driver does not look at the times and leaves it to the KDC.
    pub expired: Option<&'static str>,
    pub unreadable: &'static str,
    pub missing: &'static str,
}

/// With both service tickets: fast, with no KDC, and nothing delegated.
pub fn logs_in_while_the_kdc_is_silent(driver: &Driver) {
    let (sidecar, kdc) = (sidecar(SPNS), BadKdc::silent());
    sidecar.init().ok();
    let conf = kdc.conf(&sidecar, true);
    let mut pool = driver.pool(&sidecar, Some(conf.path()));
    pool.ask("open").saw("delegated=nothing").saw(&format!("spn={}", driver.spn)).number();
    // The first one starts the driver's runtime.
    let second = pool.ask("open");
    second.saw("delegated=nothing").number();
    assert!(second.took_ms < 2000, "{second:?}");
    assert_eq!(kdc.connections(), 0, "the driver asked the KDC");
}

/// One process, whose tickets come and go: what it has opened lives on, and it recovers by itself.
pub fn goes_on_and_recovers(driver: &Driver, words: &Words) {
    let sidecar = sidecar("");
    sidecar.init().ok();
    let mut pool = driver.pool(&sidecar, None);
    let first = pool.open();
    sidecar.init().ok();
    let second = pool.open();
    pool.query(first);
    for (what, words, break_it) in breaks(words) {
        break_it(&sidecar);
        println!("{what}:");
        pool.fails(words);
        pool.query(first);
        sidecar.init().ok();
        pool.open();
        pool.query(second);
    }
}

type Break = fn(&Sidecar);

fn breaks(words: &Words) -> Vec<(&'static str, &'static str, Break)> {
    let mut breaks: Vec<(_, _, Break)> = vec![
        ("unreadable", words.unreadable, |sidecar| {
            std::fs::set_permissions(sidecar.path("krb5cc"), std::fs::Permissions::from_mode(0o600)).unwrap();
        }),
        ("missing", words.missing, |sidecar| std::fs::remove_file(sidecar.path("krb5cc")).unwrap()),
    ];
    breaks.extend(words.expired.map(|words| ("expired", words, expire as Break)));
    breaks
}
