use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::{Peer, Pulse, baseline, report, status};
use crate::support::{Running, Sidecar, lab};

fn ready(sidecar: &Sidecar) -> Running<'_> {
    let running = sidecar.run();
    running.wait_ready();
    running
}

/// 1,000 connections are held, 200 more arrive each second, and there are 1,024 file descriptors.
fn crowd(name: &str, tried: &str, ways: &[&str]) {
    let honest = baseline();
    let sidecar = Sidecar::of("webapp01.json");
    let (target, start) = (sidecar.listen.to_string(), Instant::now());
    let ways: Vec<_> = ways.iter().map(|way| format!("--way={way}")).collect();
    let peer = std::cell::OnceCell::new();
    let failed = std::cell::Cell::new(0);
    let sidecar = sidecar.through(&["prlimit", "--nofile=1024", "--"]);
    let cost = observe_without_cell(sidecar, |running| {
        if running.sidecar.http("GET", "/ready").is_none_or(|(status, _)| status != 200) && peer.get().is_none() {
            assert!(start.elapsed() < Duration::from_secs(20), "{}", running.text());
            return false;
        }
        let peer = peer.get_or_init(|| {
            let arguments =
                [vec![target.clone(), "--held=1000".into(), "--rate=200".into(), "--seconds=4".into()], ways.clone()];
            Peer::start("crowd", &arguments.concat(), Ipv4Addr::LOCALHOST)
        });
        let health = running.sidecar.call(&["health"]);
        failed.set(failed.get() + usize::from(health.code != Some(0)));
        peer.count("crowd-over") > 0
    });
    report(name, tried, &cost, &honest);
    assert_eq!(failed.get(), 0, "health failed");
    super::assert_bounded(name, &cost, &honest);
}

fn observe_without_cell(sidecar: Sidecar, enough: impl Fn(&Running<'_>) -> bool) -> super::Cost {
    let running = sidecar.run();
    let pulse = Pulse::of(&sidecar);
    while !enough(&running) {
        std::thread::sleep(Duration::from_millis(20));
    }
    super::Cost {
        peak: status(running.child.id(), "VmHWM").unwrap_or(0),
        died: status(running.child.id(), "VmHWM").is_none(),
        beats: pulse.stop(),
        log: running.text().lines().map(str::to_owned).collect(),
        ..super::Cost::default()
    }
}

#[test]
fn idle_connections() {
    crowd("idle_connections", "1,000 idle connections, 200 more each second", &["idle"]);
}

#[test]
fn slow_connections_are_bounded() {
    crowd("slow_connections", "1,000 requests, an octet a second each, 200 more each second", &["slow"]);
}

#[test]
fn all_kinds_of_connections() {
    crowd("all_connections", "1,000 connections, idle, slow, half open, unread", &["idle", "slow", "half", "unread"]);
}

/// Its inotify watches (proc(5), /proc/PID/fdinfo).
fn watches(process: u32) -> usize {
    let folder = std::fs::read_dir(format!("/proc/{process}/fdinfo")).unwrap();
    let files = folder.filter_map(|entry| std::fs::read_to_string(entry.unwrap().path()).ok());
    files.map(|text| text.lines().filter(|line| line.starts_with("inotify wd:")).count()).sum()
}

fn mess(folders: usize) {
    let sidecar = Sidecar::of("webapp01.json");
    let running = ready(&sidecar);
    let process = running.child.id();
    // The account's own folder is watched a moment after its ticket was written.
    running.wait("the root's and the account's watch", || watches(process) == 2);
    let (before, memory) = (watches(process), status(process, "VmRSS").unwrap());
    let pulse = Pulse::of(&sidecar);
    for folder in [sidecar.volume.path().to_owned(), sidecar.path("WebApp01")] {
        let arguments =
            [folder.display().to_string(), "--link=/usr".into(), "--link=/sys".into(), format!("--folders={folders}")];
        let mut peer = Peer::start("volume", &arguments, Ipv4Addr::LOCALHOST);
        peer.wait_end();
    }
    // It still sees what happens to its own.
    std::fs::remove_file(sidecar.path("WebApp01/krb5cc")).unwrap();
    running.wait("the ticket to come back", || sidecar.path("WebApp01/krb5cc").exists());
    let beats = pulse.stop();
    assert_eq!(watches(process), before, "watches on what is not ours");
    let grown = status(process, "VmHWM").unwrap().saturating_sub(memory);
    assert!(grown <= 4 * 1024, "{grown} KiB more");
    assert_eq!(beats.failed, 0);
    assert!(beats.slowest < Duration::from_secs(1), "{beats:?}");
}

#[test]
fn a_mess_on_the_volume_is_not_watched() {
    mess(5_000);
}

#[test]
fn slow_a_large_mess_on_the_volume_is_not_watched() {
    mess(150_000);
}

/// Files without number are there before the sidecar starts.
#[test]
fn slow_a_start_on_a_full_volume_does_not_hold_up_health() {
    let sidecar = Sidecar::of("webapp01.json");
    for at in 0..300_000 {
        std::fs::File::create_new(sidecar.path(&format!("{at}"))).unwrap();
    }
    let running = sidecar.run();
    let pulse = Pulse::of(&sidecar);
    running.wait_ready();
    let beats = pulse.stop();
    assert_eq!(beats.failed, 0);
    // On an idle machine it was 0.7 s, on a busy one four.
    assert!(beats.asked > 0 && beats.slowest < Duration::from_millis(400), "{beats:?}");
}

/// What a neighbour takes away again and again is not told again and again.
#[test]
fn files_that_vanish_again_and_again_are_told_now_and_then() {
    let sidecar = Sidecar::of("webapp01.json");
    let running = ready(&sidecar);
    let (start, mut removed) = (Instant::now(), 0);
    while start.elapsed() < Duration::from_secs(4) {
        removed += usize::from(std::fs::remove_file(sidecar.path("krb5cc")).is_ok());
        std::thread::sleep(Duration::from_millis(10));
    }
    running.wait("the ticket to come back", || sidecar.path("krb5cc").exists());
    assert!(removed > 2, "{removed}");
    let lines = running.log().len();
    assert!(lines <= 64, "{lines} lines for {removed} files");
}

/// A request with headers of its own: the status.
fn request(to: SocketAddr, method: &str, path: &str, headers: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(to).unwrap();
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: {to}\r\nContent-Length: 0\r\nConnection: close\r\n{headers}\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// A web page makes a browser of this host send it.
#[test]
fn a_foreign_page_asks_for_no_refresh() {
    let sidecar = Sidecar::of("webapp01.json");
    let _running = ready(&sidecar);
    let post = |headers: &str| request(sidecar.listen, "POST", "/refresh", headers).0;
    for headers in [
        "Origin: https://evil.example.net\r\n",
        "Origin: null\r\n",
        "Origin: http://127.0.0.1:1\r\n",
        "Sec-Fetch-Site: cross-site\r\n",
        "Sec-Fetch-Site: same-site\r\n",
    ] {
        assert_eq!(post(headers), 403, "{headers}");
    }
    assert_eq!(post(&format!("Origin: http://{}\r\nSec-Fetch-Site: same-origin\r\n", sidecar.listen)), 202);
}

/// On an address that is not loopback `/ready` tells how it stands, not why.
#[test]
fn peers_from_outside_see_no_login() {
    let mut sidecar = Sidecar::inline("WebApp01", "gmsa/outsider");
    sidecar.listen.set_ip(lab("LAB_ECS_IP").parse().unwrap());
    let listen = sidecar.listen.to_string();
    let sidecar = sidecar.with("GMSA_LISTEN", &listen);
    let running = sidecar.run();
    running.wait("a fault", || running.log().iter().any(|line| line["level"] == "ERROR"));
    for path in ["/ready", "/gate"] {
        let (status, body) = request(sidecar.listen, "GET", path, "");
        assert_eq!(status, 503);
        assert!(!body.contains("svc-") && !body.contains("arn:"), "{path}: {body}");
        let report: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert!(report["leases"][0]["fault"].is_null() && report["leases"][0]["spec"].is_null(), "{path}: {body}");
    }
}
