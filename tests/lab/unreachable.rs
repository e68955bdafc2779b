//! Domain controllers that drop packets or are far away: the first ticket comes soon, and the app's own client is not sent
//! to the dead ones.

use std::io::BufRead;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::examples::{answer_names, dc1, relay};
use crate::sites::{FAR, NEAR, choices, two_sites};
use crate::support::{Sidecar, lab, write};

/// A rule of the lab's firewall, until the end of a test.
pub struct Rule(Vec<String>);

impl Rule {
    fn drop(packets: &[&str]) -> Self {
        let rule: Vec<_> = ["INPUT"].iter().chain(packets).chain(&["-j", "DROP"]).map(ToString::to_string).collect();
        assert!(Command::new("iptables").args(["-w", "-I"]).args(&rule).status().unwrap().success(), "{rule:?}");
        Self(rule)
    }
}

impl Drop for Rule {
    fn drop(&mut self) {
        let _ = Command::new("iptables").args(["-w", "-D"]).args(&self.0).status();
    }
}

/// Addresses of hosts that drop every packet.
pub fn dead(count: u8) -> (Rule, Vec<String>) {
    let [_, _, b, c] = std::process::id().to_be_bytes();
    let rule = Rule::drop(&["-d", &format!("127.{}.{c}.0/25", 66 | (b & 1))]);
    (rule, (1..=count).map(|last| format!("127.{}.{c}.{last}", 66 | (b & 1))).collect())
}

fn with_controllers(hosts: &[String]) -> Sidecar {
    Sidecar::of("webapp01.json").with("GMSA_DOMAIN_CONTROLLERS", &hosts.join(" "))
}

/// The KDCs of the app's krb5.conf, in their order.
fn kdcs(sidecar: &Sidecar) -> Vec<String> {
    let conf = std::fs::read_to_string(sidecar.path("krb5.conf")).unwrap();
    conf.lines().filter_map(|line| line.trim().strip_prefix("kdc = ").map(str::to_owned)).collect()
}

fn first_ticket_within(limit: Duration, sidecar: &Sidecar) -> Duration {
    let start = Instant::now();
    sidecar.init().ok();
    let took = start.elapsed();
    println!("the first ticket came after {took:?}");
    assert!(took < limit, "{took:?}");
    took
}

#[test]
fn nine_of_ten_dead_controllers_cost_less_than_three_seconds() {
    let (_rule, mut hosts) = dead(9);
    hosts.push(lab("LAB_DC1").to_owned());
    let sidecar = with_controllers(&hosts);
    first_ticket_within(Duration::from_secs(3), &sidecar);
    assert_eq!(kdcs(&sidecar)[0], lab("LAB_DC1"));
}

#[test]
fn fifty_nine_of_sixty_dead_controllers_cost_less_than_ten_seconds() {
    let (_rule, mut hosts) = dead(59);
    hosts.push(lab("LAB_DC1").to_owned());
    let sidecar = with_controllers(&hosts);
    first_ticket_within(Duration::from_secs(10), &sidecar);
    assert_eq!(kdcs(&sidecar)[0], lab("LAB_DC1"));
}

/// A client that tries the KDCs one by one finds two that answer before all others, and does not wait.
#[test]
fn the_app_is_given_the_two_controllers_that_answer_first() {
    let (_rule, mut hosts) = dead(8);
    let [_, a, b, c] = std::process::id().to_be_bytes();
    // Nobody asks it: a KDC that answers to a connect and is left alone.
    let second = Ipv4Addr::new(127, 224 | (a & 15), b, c);
    let listener = TcpListener::bind((second, 88)).unwrap();
    hosts.insert(5, lab("LAB_DC1").to_owned());
    hosts.insert(8, second.to_string());
    let sidecar = with_controllers(&hosts);
    first_ticket_within(Duration::from_secs(3), &sidecar);
    assert_eq!(kdcs(&sidecar)[..2], [lab("LAB_DC1").to_owned(), second.to_string()]);
    listener.set_nonblocking(true).unwrap();
    let mut said = [0; 1];
    let (connection, _) = listener.accept().expect("it was connected to");
    connection.set_nonblocking(false).unwrap();
    assert_eq!(std::io::Read::read(&mut &connection, &mut said).unwrap(), 0, "a request went to a second KDC");
    let start = Instant::now();
    sidecar.app(0, &["kvno", &format!("cifs/{}", lab("LAB_DC1"))]).ok();
    assert!(start.elapsed() < Duration::from_secs(1), "the app waited {:?}", start.elapsed());
}

/// A link with a delay: what is sent to `there` comes back to `here` as if `there` had sent it, so whoever listens here
/// serves there. Swapping the two addresses leaves the checksums as they are.
struct FarLink {
    reflector: Child,
    name: String,
}

impl FarLink {
    fn new(here: Ipv4Addr, there: Ipv4Addr, one_way: Duration) -> Self {
        let name = format!("far{}", std::process::id());
        let ip = |words: &str| {
            assert!(Command::new("ip").args(words.split(' ')).status().unwrap().success(), "ip {words}");
        };
        ip(&format!("tuntap add dev {name} mode tun"));
        ip(&format!("addr add {here}/32 dev {name}"));
        ip(&format!("link set {name} up"));
        ip(&format!("route add {there}/32 dev {name}"));
        const REFLECT: &str = "
import collections, fcntl, os, select, struct, sys, time
link = os.open('/dev/net/tun', os.O_RDWR)
fcntl.ioctl(link, 0x400454ca, struct.pack('16sH', sys.argv[1].encode(), 0x1001))  # TUNSETIFF: IFF_TUN | IFF_NO_PI
print('up', flush=True)
waiting = collections.deque()
while True:
    left = max(0, waiting[0][0] - time.monotonic()) if waiting else None
    if select.select([link], [], [], left)[0]:
        packet = os.read(link, 65536)
        if packet[0] >> 4 == 4:
            waiting.append((time.monotonic() + float(sys.argv[2]), packet[:12] + packet[16:20] + packet[12:16] + packet[20:]))
    while waiting and waiting[0][0] <= time.monotonic():
        os.write(link, waiting.popleft()[1])
";
        let mut reflector = Command::new("/usr/bin/python3")
            .args(["-c", REFLECT, &name, &one_way.as_secs_f64().to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        std::io::BufReader::new(reflector.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "up");
        Self { reflector, name }
    }
}

impl Drop for FarLink {
    fn drop(&mut self) {
        let _ = self.reflector.kill();
        let _ = self.reflector.wait();
        let _ = Command::new("ip").args(["link", "del", &self.name]).status();
    }
}

/// Six round trips of 300 ms. The preferred controller serves although a second one is tried meanwhile.
#[test]
fn a_controller_that_is_300_ms_away_is_used() {
    let [_, _, b, c] = std::process::id().to_be_bytes();
    let (here, there) = (Ipv4Addr::new(10, 98, b, c), Ipv4Addr::new(10, 99, b, c));
    let _link = FarLink::new(here, there, Duration::from_millis(150));
    for port in [88, 389] {
        let listener = TcpListener::bind((here, port)).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                relay(stream, SocketAddr::from((dc1(), port)));
            }
        });
    }
    let dns = UdpSocket::bind((here, 53)).unwrap();
    std::thread::spawn(move || answer_names(&dns, there.into(), &|_| vec![]));
    let sidecar = Sidecar::inline("WebApp01", "gmsa/login")
        .with("GMSA_DOMAIN_CONTROLLERS", &format!("{FAR} {NEAR}"))
        .with("GMSA_DNS_SERVERS", &here.to_string());
    let took = first_ticket_within(Duration::from_secs(4), &sidecar);
    assert!(took > Duration::from_millis(1800), "the link has no delay: {took:?}");
    let ended = sidecar.init();
    assert!(ended.log().iter().all(|line| line["event"] != "dc.failed"), "{ended:#?}");
    let renewed = ended.log().into_iter().find(|line| line["event"] == "lease.renewed").expect("a ticket");
    assert_eq!(renewed["dc"], FAR);
}

/// The LDAP ping goes over TCP: the site is learnt although UDP is dropped.
#[test]
fn a_blocked_udp_port_389_changes_nothing() {
    let _rule = Rule::drop(&["-p", "udp", "--dport", "389", "-d", &format!("{}/32", crate::sites::address(6))]);
    assert_eq!(choices(&two_sites(6), Some("dc.site")), [FAR, NEAR]);
}

/// A platform may write `/etc/resolv.conf` late, or write another one. Nobody restarts the sidecar for that.
#[test]
fn a_resolv_conf_that_is_empty_or_wrong_at_the_start_is_read_again() {
    for early in ["", "nameserver 127.0.10.99\n"] {
        let file = tempfile::NamedTempFile::new().unwrap();
        write(file.path(), early);
        let script = r#"mount --bind "$0" /etc/resolv.conf; exec "$@""#;
        let path = file.path().display().to_string();
        let sidecar = Sidecar::inline("WebApp01", "gmsa/login").through(&[
            "unshare",
            "-m",
            "--propagation",
            "private",
            "bash",
            "-ec",
            script,
            &path,
        ]);
        let running = sidecar.run();
        running.wait_fault("dc-dns-unreachable");
        // In place: the file that the mount shows stays the same one.
        write(file.path(), &format!("nameserver {}\n", lab("LAB_DC1_IP")));
        let start = Instant::now();
        running.wait_ready();
        assert!(start.elapsed() < Duration::from_secs(15), "{early:?}: {:?}", start.elapsed());
    }
}
