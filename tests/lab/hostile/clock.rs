use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use super::Peer;
use crate::support::lab;

/// The offset in a ccache's header, in seconds: tag 1, DELTATIME.
fn delta_time(cache: &[u8]) -> Option<i32> {
    assert_eq!(cache[..2], [5, 4]);
    let length = usize::from(u16::from_be_bytes([cache[2], cache[3]]));
    let mut fields = &cache[4..4 + length];
    while let [high, low, size_high, size_low, rest @ ..] = fields {
        let (value, after) = rest.split_at(usize::from(u16::from_be_bytes([*size_high, *size_low])));
        if [*high, *low] == [0, 1] {
            return value.first_chunk().map(|seconds| i32::from_be_bytes(*seconds));
        }
        fields = after;
    }
    None
}

/// A KRB-ERROR has no proof of its time; the reply that follows has.
#[test]
fn a_forged_clock_moves_nothing() {
    for kdc in ["skew=285", "skew=-285", "skew=40000", "skew-first=285"] {
        let peer = Peer::domain(&[lab("LAB_DC1")], &[&format!("--kdc={kdc}")]);
        let sidecar = peer.sidecar();
        let running = sidecar.run();
        // With another time in its proof the true KDC may refuse it once.
        running.wait("the ticket", || {
            sidecar.http("GET", "/ready").is_some_and(|(status, _)| status == 200)
                || running.log().iter().any(|line| line["code"] == "ticket-clock-skew")
        });
        if sidecar.http("GET", "/ready").unwrap().0 != 200 {
            assert_eq!(kdc, "skew=40000", "{}", running.text());
            continue;
        }
        let lease = &sidecar.json("/leases")["leases"][0];
        let offset = lease["clock_offset_seconds"].as_i64().unwrap_or(0);
        assert!(offset.abs() <= 2, "{kdc}: {lease:#}");
        let cache = std::fs::read(sidecar.path("krb5cc")).unwrap();
        assert!(delta_time(&cache).unwrap_or(0).abs() <= 2, "{kdc}: {:?}", delta_time(&cache));
        let expiry = humantime::parse_rfc3339(lease["expires_at"].as_str().unwrap()).unwrap();
        let left = expiry.duration_since(now()).unwrap();
        let told = Duration::from_secs(10 * 3600);
        assert!(left <= told && left > told - Duration::from_secs(30), "{kdc}: {left:?}");
    }
}

/// Each request has a number of its own, so that no answer to one is taken for an answer to another.
#[test]
fn every_request_has_its_own_nonce() {
    let peer = Peer::domain(&[lab("LAB_DC1")], &["--kdc=skew=285"]);
    let sidecar = peer.sidecar();
    let running = sidecar.run();
    running.wait_ready();
    let events = peer.events();
    let requests: Vec<_> = events.iter().filter(|event| event["event"] == "kdc").collect();
    let nonces: HashSet<_> = requests.iter().map(|event| event["nonce"].as_u64()).collect();
    assert!(requests.len() > 3);
    assert_eq!(nonces.len(), requests.len(), "{requests:#?}");
}

/// A stolen ticket that can be renewed lives for a week. RENEWABLE is bit 8 of KDCOptions (RFC 4120 section 5.4.1).
#[test]
fn no_ticket_is_asked_for_that_can_be_renewed() {
    let peer = Peer::domain(&[lab("LAB_DC1")], &[]);
    peer.sidecar().init().ok();
    let asked: Vec<_> = peer.events().into_iter().filter(|event| event["event"] == "kdc").collect();
    assert!(asked.iter().all(|event| event["options"].as_u64().unwrap() & 0x0080_0000 == 0), "{asked:#?}");
}

#[expect(clippy::disallowed_methods, reason = "a test has no other clock")]
fn now() -> SystemTime {
    SystemTime::now()
}
