//! The binary against hostile peers (`lab/hostile/peer`), in a memory cgroup of 64 MiB: what they cost, what they get.
//!
//! Each row of [`floods`] is a test of its own, and leaves a line for the table that `scripts/hostile-table` prints.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{PATIENCE, Running, Sidecar, binary, lab, root, write};

/// a neighbour's clock, and a KDC's
mod clock;

/// peers that send too much, or too slowly
mod floods;

/// an LDAP server that says to be a domain controller
mod impostor;

/// KDCs that count on our failed logins
mod lockout;

/// containers of the same task
mod neighbours;

/// what the log holds of foreign bytes
mod records;

/// A hostile peer: a process of `lab/hostile/peer`, which tells all that happens.
pub struct Peer {
    child: Child,
    events: Arc<Mutex<Vec<Value>>>,
    /// Its first address.
    pub address: Ipv4Addr,
}

impl Peer {
    /// DNS, KDC and LDAP of `hosts`, each on an address of its own. DNS is on the first.
    pub fn domain(hosts: &[&str], arguments: &[&str]) -> Self {
        let addresses: Vec<_> = hosts.iter().map(|_| own_address()).collect();
        let pairs = hosts.iter().zip(&addresses).map(|(host, address)| format!("--host={host}={address}"));
        let arguments = pairs.chain(arguments.iter().map(ToString::to_string)).collect::<Vec<_>>();
        Self::start("domain", &arguments, addresses[0])
    }

    /// An LDAP impostor with the computer account that the host is named after, and a KDC that plays along.
    pub fn impostor(host: &str, arguments: &[&str]) -> Self {
        accounts();
        let account = format!("--account={host}$");
        let host = format!("{host}.{}", lab("LAB_DOMAIN"));
        let own = ["--ldap=impostor", &account, "--account-password=Evil-Passw0rd-1"];
        Self::domain(&[&host], &[&own, arguments].concat())
    }

    /// An HTTP server.
    pub fn http(mode: &str, arguments: &[&str]) -> Self {
        let address = own_address();
        let own = [mode.to_owned(), format!("--address={address}"), "--port=5000".to_owned()];
        let arguments = own.into_iter().chain(arguments.iter().map(ToString::to_string)).collect::<Vec<_>>();
        Self::start("http", &arguments, address)
    }

    /// Any kind.
    pub fn start(kind: &str, arguments: &[impl AsRef<std::ffi::OsStr>], address: Ipv4Addr) -> Self {
        let mut command = Command::new(root().join("lab/hostile/peer"));
        command.arg(kind).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the peer starts");
        let events = Arc::new(Mutex::new(Vec::new()));
        let (lines, told) = (BufReader::new(child.stdout.take().expect("a pipe")), Arc::clone(&events));
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                told.lock().expect("nobody panicked").push(serde_json::from_str(&line).expect("JSON"));
            }
        });
        let peer = Self { child, events, address };
        peer.wait("ready", |events| events.iter().any(|event| event["event"] == "ready"));
        peer
    }

    /// What happened so far.
    pub fn events(&self) -> Vec<Value> {
        self.events.lock().expect("nobody panicked").clone()
    }

    /// How many events there were of this kind.
    pub fn count(&self, event: &str) -> usize {
        self.events().iter().filter(|told| told["event"] == event).count()
    }

    /// The proofs of logins that it got, in order.
    pub fn proofs(&self) -> Vec<Value> {
        let is_login = |event: &Value| event["client"].as_str().is_some_and(|client| !client.ends_with('$'));
        let proof = |event: &Value| event["event"] == "kdc" && event["proof"] == true && is_login(event);
        self.events().into_iter().filter(proof).collect()
    }

    /// Waits until something has happened.
    #[track_caller]
    pub fn wait(&self, what: &str, condition: impl Fn(&[Value]) -> bool) {
        let start = Instant::now();
        while !condition(&self.events()) {
            assert!(start.elapsed() < PATIENCE, "waited in vain for {what}: {:#?}", self.events());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until it has done what it does.
    pub fn wait_end(&mut self) {
        let ended = self.child.wait().expect("a child");
        assert!(ended.success(), "{ended}");
    }

    /// A sidecar for `WebApp01` that asks this DNS server.
    pub fn sidecar(&self) -> Sidecar {
        Sidecar::inline("WebApp01", "gmsa/login").with("GMSA_DNS_SERVERS", &self.address.to_string())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An address of the loopback range that nobody else has.
pub fn own_address() -> Ipv4Addr {
    static COUNT: AtomicU8 = AtomicU8::new(0);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 0x90 + COUNT.fetch_add(1, Ordering::Relaxed), high, low)
}

/// The impostors' computer accounts.
fn accounts() {
    let made = Command::new(root().join("lab/hostile/accounts")).output().expect("lab/hostile/accounts runs");
    assert!(made.status.success(), "{made:?}");
}

/// A control group with a bound on the memory of what runs in it.
pub struct Cell {
    memory: Option<PathBuf>,
    cpu: Option<PathBuf>,
}

impl Cell {
    /// 64 MiB.
    pub fn new() -> Self {
        static COUNT: AtomicU8 = AtomicU8::new(0);
        let name = format!("gmsa-hostile-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let limit = (64 << 20).to_string();
        // Version 1, or version 2 where the tests may make groups.
        let memory =
            group("memory", &name, "memory.limit_in_bytes", &limit).or_else(|| group("", &name, "memory.max", &limit));
        if memory.is_none() {
            println!("no control group for memory can be made here: only the peak is compared");
        }
        Self { memory, cpu: None }
    }

    /// The same with `cpu: 32` of a task definition, which is 3 % of a processor. With less than that `/health` takes a
    /// second where all peers are honest.
    pub fn slow() -> Option<Self> {
        let mut cell = Self::new();
        let name = format!("gmsa-hostile-{}", std::process::id());
        cell.cpu = group("cpu", &name, "cpu.cfs_quota_us", "3200");
        cell.cpu.is_some().then_some(cell)
    }

    /// A command that runs another in it.
    pub fn wrapper(&self) -> Vec<String> {
        let join = |group: &PathBuf| format!("echo $$ >{}/cgroup.procs; ", group.display());
        let joins: String = [&self.memory, &self.cpu].into_iter().flatten().map(join).collect();
        ["sh", "-ec", &format!("{joins}exec \"$@\""), "sh"].map(str::to_owned).to_vec()
    }
}

/// `ip netns exec` covers /sys with one that has no groups, so they are mounted again, for this namespace.
fn group(controller: &str, name: &str, limit: &str, value: &str) -> Option<PathBuf> {
    let folder = results().join(format!("cgroup-{controller}"));
    if !folder.join("cgroup.procs").exists() {
        std::fs::create_dir_all(&folder).ok()?;
        let kind = if controller.is_empty() { vec!["cgroup2"] } else { vec!["cgroup", "-o", controller] };
        let mut mount = Command::new("mount");
        mount.arg("-t").args(kind).arg("none").arg(&folder).stderr(Stdio::null());
        // A test beside this one may have been first.
        let _ = mount.status();
    }
    let group = folder.join(name);
    std::fs::create_dir(&group).ok()?;
    let set = std::fs::OpenOptions::new()
        .write(true)
        .open(group.join(limit))
        .and_then(|mut file| file.write_all(value.as_bytes()));
    if set.is_err() {
        let _ = std::fs::remove_dir(&group);
        return None;
    }
    Some(group)
}

impl Drop for Cell {
    fn drop(&mut self) {
        for group in [&self.memory, &self.cpu].into_iter().flatten() {
            // A process that was killed takes a moment to leave.
            for _ in 0..100 {
                if std::fs::remove_dir(group).is_ok() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

/// Asks for `/health` all the while.
pub struct Pulse {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<Beats>>,
}

/// How `/health` was.
#[derive(Debug, Default, Clone)]
pub struct Beats {
    pub asked: usize,
    pub failed: usize,
    pub slowest: Duration,
}

impl Pulse {
    /// From the first answer on, or from now on where somebody listens already.
    pub fn of(sidecar: &Sidecar) -> Self {
        let (stop, listen) = (Arc::new(AtomicBool::new(false)), sidecar.listen);
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut beats = Beats::default();
            while !stopped.load(Ordering::Relaxed) {
                let start = Instant::now();
                let answered = healthy(listen);
                let took = start.elapsed();
                if answered || beats.asked > 0 {
                    beats.asked += 1;
                    beats.failed += usize::from(!answered);
                    beats.slowest = beats.slowest.max(took);
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            beats
        });
        Self { stop, thread: Some(thread) }
    }

    /// What came of it.
    pub fn stop(mut self) -> Beats {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().expect("not stopped yet").join().expect("it does not panic")
    }
}

/// Whether `/health` answers; a container health check has five seconds for it.
pub fn healthy(listen: SocketAddr) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&listen, Duration::from_secs(5))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(stream, "GET /health HTTP/1.1\r\nHost: {listen}\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

/// A number of `/proc/PID/status`; memory in KiB.
pub fn status(process: u32, name: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

/// What a sidecar came to, with a peer or without one.
#[derive(Debug, Clone, Default)]
pub struct Cost {
    /// The most memory that it had, KiB. What it had last, where it was killed.
    pub peak: u64,
    pub threads: u64,
    pub died: bool,
    pub beats: Beats,
    /// The log, by its lines.
    pub log: Vec<String>,
    pub files: Vec<String>,
}

/// Lets `run` go on until `enough` or its end.
pub fn observe(sidecar: Sidecar, cell: &Cell, enough: impl Fn(&Running<'_>) -> bool) -> Cost {
    let sidecar = sidecar.through(&cell.wrapper());
    let mut running = sidecar.run();
    let pulse = Pulse::of(&sidecar);
    let mut cost = Cost::default();
    let process = running.child.id();
    loop {
        cost.peak = cost.peak.max(status(process, "VmHWM").unwrap_or(0));
        cost.threads = cost.threads.max(status(process, "Threads").unwrap_or(0));
        cost.died = running.child.try_wait().expect("a child").is_some();
        if cost.died || enough(&running) {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    cost.beats = pulse.stop();
    cost.log = running.text().lines().map(str::to_owned).collect();
    let relative = |path: PathBuf| path.strip_prefix(sidecar.volume.path()).expect("below it").display().to_string();
    cost.files = sidecar.files().into_iter().map(relative).collect();
    cost
}

/// What the same binary comes to where its peers are honest: until it has its ticket. Measured once for each binary,
/// which is told by its age.
pub fn baseline() -> Cost {
    let modified = std::fs::metadata(binary()).and_then(|data| data.modified()).expect("a binary");
    let name = humantime::format_rfc3339_nanos(modified).to_string();
    let kept = results().join("baseline");
    let read = std::fs::read_to_string(&kept).unwrap_or_default();
    let numbers = read.strip_prefix(&name).and_then(|rest| rest.trim().split_once(' '));
    if let Some((Ok(peak), Ok(threads))) = numbers.map(|(peak, threads)| (peak.parse(), threads.parse())) {
        return Cost { peak, threads, ..Cost::default() };
    }
    let peer = Peer::domain(&[lab("LAB_DC1"), lab("LAB_RODC")], &[]);
    let since = Instant::now();
    let cost = observe(peer.sidecar(), &Cell::new(), |running| {
        let ready = running.sidecar.http("GET", "/ready").is_some_and(|(status, _)| status == 200);
        assert!(since.elapsed() < PATIENCE, "no ticket from an honest domain:\n{}", running.text());
        ready
    });
    assert!(!cost.died, "{cost:#?}");
    // By rename, since tests run side by side.
    let young = kept.with_extension(std::process::id().to_string());
    write(&young, &format!("{name} {} {}\n", cost.peak, cost.threads));
    std::fs::rename(young, kept).expect("it is renamed");
    cost
}

fn results() -> PathBuf {
    let folder = root().join("build/hostile");
    std::fs::create_dir_all(&folder).expect("a folder");
    folder
}

/// A row of the table in `docs/reliability.md`, written to `build/hostile` before anything is asserted.
pub fn report(row: &str, tried: &str, cost: &Cost, baseline: &Cost) {
    let tickets = cost.files.iter().filter(|file| file.ends_with("krb5cc") || file.ends_with("keytab")).count();
    let line = json!({
        "row": row, "tried": tried, "peak_kib": cost.peak, "baseline_kib": baseline.peak, "died": cost.died,
        "threads": cost.threads,
        "health_asked": cost.beats.asked, "health_failed": cost.beats.failed,
        "health_slowest_ms": cost.beats.slowest.as_millis() as u64,
        "log_lines": cost.log.len(), "log_octets": cost.log.iter().map(String::len).sum::<usize>(),
        "longest_line": cost.log.iter().map(String::len).max(), "tickets": tickets,
    });
    write(&results().join(format!("{row}.json")), &format!("{line}\n"));
}

/// Whether it is the binary that is shipped: the bounds are for that one.
pub fn is_static() -> bool {
    binary().components().any(|part| part.as_os_str().to_string_lossy().ends_with("-musl"))
}

/// What no peer may cost.
#[track_caller]
pub fn assert_bounded(row: &str, cost: &Cost, baseline: &Cost) {
    const MIB: u64 = 1024;
    let told = || format!("{row}: {:?}\n{}", Cost { log: Vec::new(), ..cost.clone() }, shortened(&cost.log));
    assert!(!cost.died, "it was killed, {} KiB before: {}", cost.peak, told());
    let added = cost.peak.saturating_sub(baseline.peak);
    assert!(added <= 12 * MIB, "{added} KiB more than with honest peers: {}", told());
    assert!(!is_static() || cost.peak <= 24 * MIB, "{} KiB in all: {}", cost.peak, told());
    assert_eq!(cost.beats.failed, 0, "/health failed: {}", told());
    // A debug build is five times as slow.
    let longest = Duration::from_secs(if is_static() { 1 } else { 5 });
    assert!(cost.beats.slowest < longest, "/health took {:?}: {}", cost.beats.slowest, told());
    assert!(cost.beats.asked > 3, "/health was not asked: {}", told());
    assert!(cost.log.len() <= 64, "{} lines: {}", cost.log.len(), told());
    let octets: usize = cost.log.iter().map(String::len).sum();
    assert!(octets <= 64 * 1024, "{octets} octets of log: {}", told());
    let longest = cost.log.iter().map(String::len).max().unwrap_or(0);
    assert!(longest <= 8 * 1024, "a line of {longest} octets: {}", told());
    assert!(cost.log.iter().all(|line| line.starts_with('{')), "a line that is not ours: {}", told());
}

fn shortened(log: &[String]) -> String {
    let lines = log.iter().take(12).map(|line| line.chars().take(400).collect::<String>());
    lines.collect::<Vec<_>>().join("\n")
}
