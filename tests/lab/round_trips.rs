use std::process::{Command, Stdio};

use crate::support::{Sidecar, lab};

/// The goal is at most six: connects side by side, AS-REQ for the salt, AS-REQ of the login for `ldap/<dc>/<domain>`, bind,
/// search, AS-REQ of the gMSA on the kept connection. DNS and AWS are not counted.
///
/// A sequential round trip is a turn: the client speaks after the server has.
#[test]
fn the_first_ticket_takes_at_most_six_round_trips_and_no_udp() {
    let capture = tempfile::NamedTempFile::new().unwrap();
    let mut tcpdump = Command::new("tcpdump")
        .args(["-i", "lo", "-U", "-n", "-s", "128", "-Z", "root", "-w"])
        .arg(capture.path())
        .arg(format!("host {} and (port 88 or port 389)", lab("LAB_DC1_IP")))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_for_line(tcpdump.stderr.take().unwrap(), "listening on");
    Sidecar::of("webapp01.json").with("GMSA_DOMAIN_CONTROLLERS", lab("LAB_DC1")).init().ok();
    let complete = || packets(capture.path()).iter().filter(|packet| packet.fin && packet.from_client).count() >= 2;
    let start = std::time::Instant::now();
    while !complete() {
        assert!(start.elapsed() < crate::support::PATIENCE, "the capture does not end");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    tcpdump.kill().unwrap();
    tcpdump.wait().unwrap();

    let packets = packets(capture.path());
    assert!(packets.iter().all(|packet| packet.tcp), "UDP was used");
    let connections = packets.iter().filter(|packet| packet.syn && packet.from_client).count();
    assert_eq!(connections, 2, "one to the KDC, one to LDAP");
    // Both connects begin before anything is said: on a wire of any length they are one round trip.
    let first_word = packets.iter().position(|packet| packet.payload).unwrap();
    assert!(packets[first_word..].iter().all(|packet| !packet.syn), "a connect came late");
    let mut turns = 1;
    let mut client_spoke = false;
    for packet in packets.iter().filter(|packet| packet.payload && !packet.fin) {
        if packet.from_client && !client_spoke {
            turns += 1;
        }
        client_spoke = packet.from_client;
    }
    println!("round trips: {turns}");
    assert!(turns <= 6, "{turns} round trips");
}

struct Packet {
    tcp: bool,
    from_client: bool,
    syn: bool,
    fin: bool,
    payload: bool,
}

/// The packets as `tcpdump` tells them: `IP 127.0.0.1.40000 > 127.0.10.1.88: Flags [S], .., length 0`.
fn packets(capture: &std::path::Path) -> Vec<Packet> {
    let output = Command::new("tcpdump").args(["-n", "-t", "-r"]).arg(capture).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines = text.lines().filter(|line| line.starts_with("IP"));
    let packet = |line: &str| {
        let (from, rest) = line.split_once(" > ").unwrap();
        let flags = rest.split_once("Flags [").and_then(|(_, flags)| flags.split_once(']')).map_or("", |(f, _)| f);
        let length = rest.rsplit_once("length ").map_or("0", |(_, length)| length);
        let length = length.split(|c: char| !c.is_ascii_digit()).next().unwrap_or("0");
        Packet {
            tcp: rest.contains("Flags ["),
            from_client: !(from.ends_with(".88") || from.ends_with(".389")),
            syn: flags.contains('S'),
            fin: flags.contains('F'),
            payload: length != "0",
        }
    };
    lines.map(packet).collect()
}

fn wait_for_line(stream: impl std::io::Read + Send + 'static, text: &str) {
    use std::io::BufRead;
    let mut lines = std::io::BufReader::new(stream).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains(text)), "never said {text}");
    // Its other words must go somewhere.
    std::thread::spawn(move || lines.for_each(drop));
}
