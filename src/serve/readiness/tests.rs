use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::*;
use crate::lease::status::{Attempt, HeldTicket, Identity, LeaseKey, LeaseState, LeaseStatus, Order, ServiceHeld};

/// A server on a port of its own, and the hand that changes what it tells.
struct Server {
    address: SocketAddr,
    status: watch::Sender<Status>,
    refresh: Refresh,
}

async fn start(status: Status, on_loopback: bool) -> Server {
    start_for(status, on_loopback, None).await
}

/// With another address than their own given to all peers.
async fn start_for(status: Status, on_loopback: bool, peer: Option<IpAddr>) -> Server {
    let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, receiver) = watch::channel(status);
    let refresh = Refresh::default();
    let state = ReadinessState { status: receiver, metrics: Arc::new(Metrics::new()), refresh: refresh.clone() };
    let routes = Routes::new(state, on_loopback);
    tokio::spawn(async move { http::accept(listener, |from| routes.of(peer.unwrap_or(from.ip()))).await });
    Server { address, status: sender, refresh }
}

impl Server {
    /// Sends bytes and returns all that comes back until the server hangs up.
    #[expect(clippy::disallowed_methods, reason = "a test is a client")]
    async fn say(&self, request: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer).await;
        answer
    }

    /// Status line, head in lower case, body.
    async fn ask(&self, method: &str, path: &str, host: &str) -> (u16, String, String) {
        let answer = self.say(&format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head[9..12].parse().unwrap(), head.to_ascii_lowercase(), body.to_owned())
    }

    async fn get(&self, path: &str) -> (u16, String) {
        let (code, _, body) = self.ask("GET", path, "127.0.0.1:8488").await;
        (code, body)
    }
}

/// A lease of WebApp01 whose ticket was got long ago.
fn lease(state: LeaseState) -> LeaseStatus {
    let identity = Identity {
        account: "WebApp01".parse().unwrap(),
        domain: "corp.example.com".parse().unwrap(),
        path: "/krbdir/WebApp01/krb5cc".into(),
    };
    LeaseStatus {
        key: LeaseKey::default(),
        order: Order::default(),
        spec: "arn:aws:s3:::specs/webapp01.json".to_owned(),
        identity: Some(identity),
        was_ready: state.held().is_some(),
        state,
        next_renewal_at: Some(clock::from_unix(4_000_000_000)),
        attempts: 3,
        history: history(),
    }
}

fn history() -> std::collections::VecDeque<Attempt> {
    let attempt = |at, outcome| Attempt { at: clock::from_unix(at), took: Duration::from_millis(70), outcome };
    let dc = "dc1.corp.example.com".parse().unwrap();
    [attempt(1_700_000_000, Ok(Some(dc))), attempt(1_699_999_000, Err(Code::DcUnreachable))].into()
}

fn held(expires_at: i64) -> HeldTicket {
    HeldTicket {
        expires_at: clock::from_unix(expires_at),
        services: Vec::new(),
        renewed_at: clock::from_unix(1_700_000_000),
        dc: Some("dc1.corp.example.com".parse().unwrap()),
        kvno: Some(7),
        took: Some(Duration::from_micros(1_250_400)),
        clock_offset: Some(-90),
    }
}

/// A lease with a ticket for a service too, or without the one that is wanted.
fn with_service(expires_at: Option<i64>) -> LeaseState {
    let expires_at = expires_at.map(clock::from_unix);
    let services = vec![ServiceHeld { spn: "HTTP/web.example.com".parse().unwrap(), expires_at }];
    LeaseState::Held(HeldTicket { services, ..held(FUTURE) })
}

fn fault() -> Fault {
    Fault::new(Code::DcUnreachable, "no domain controller of `corp.example.com` answers").because("<timed out>")
}

const FUTURE: i64 = 4_000_000_000;
const PAST: i64 = 1_700_000_000;

#[tokio::test]
async fn ready_and_gate_follow_the_leases_and_the_clock() {
    let unread = LeaseStatus { identity: None, next_renewal_at: None, ..lease(LeaseState::Pending(None)) };
    let cases = [
        ("no leases", vec![], 503),
        ("unread", vec![unread], 503),
        ("pending", vec![lease(LeaseState::Pending(Some(fault())))], 503),
        ("held", vec![lease(LeaseState::Held(held(FUTURE)))], 200),
        ("overdue", vec![lease(LeaseState::Overdue(held(FUTURE), fault()))], 200),
        ("expired", vec![lease(LeaseState::Held(held(PAST)))], 503),
        ("expired, overdue", vec![lease(LeaseState::Overdue(held(PAST), fault()))], 503),
        ("one of two", vec![lease(LeaseState::Held(held(FUTURE))), lease(LeaseState::Pending(None))], 503),
    ];
    let server = start(Status::default(), true).await;
    for (name, leases, code) in cases {
        server.status.send_replace(Status { leases, ..Status::default() });
        assert_eq!(server.get("/health").await, (200, "ok\n".to_owned()), "{name}");
        assert_eq!(server.get("/ready").await.0, code, "{name}");
        assert_eq!(server.get("/gate").await.0, code, "{name}");
    }
}

#[tokio::test]
async fn service_tickets_count_for_readiness_and_once_for_the_gate() {
    let server = start(Status::default(), true).await;
    let cases = [
        ("none yet", with_service(None), false, 503, 503, "pending"),
        ("held", with_service(Some(FUTURE)), true, 200, 200, "held"),
        ("expired", with_service(Some(PAST)), true, 503, 200, "expired"),
    ];
    for (name, state, was_ready, ready, gate, told) in cases {
        let leases = vec![LeaseStatus { was_ready, ..lease(state) }];
        server.status.send_replace(Status { leases, ..Status::default() });
        assert_eq!((server.get("/ready").await.0, server.get("/gate").await.0), (ready, gate), "{name}");
        assert!(server.get("/ready").await.1.contains(&format!("\"state\":\"{told}\"")), "{name}");
    }
}

#[tokio::test]
async fn the_daemon_of_a_host_is_open_as_long_as_it_serves() {
    let server = start(Status::default(), true).await;
    for (name, leases, ready) in [
        ("no leases", vec![], 200),
        ("held", vec![lease(LeaseState::Held(held(FUTURE)))], 200),
        ("one of two", vec![lease(LeaseState::Held(held(FUTURE))), lease(LeaseState::Pending(Some(fault())))], 503),
    ] {
        server.status.send_replace(Status { leases, of_host: true, ..Status::default() });
        assert_eq!((server.get("/ready").await.0, server.get("/gate").await.0), (ready, 200), "{name}");
    }
}

#[tokio::test]
async fn json_has_every_field_and_null_where_nothing_is_known() {
    let unread = LeaseStatus { identity: None, next_renewal_at: None, ..lease(LeaseState::Pending(None)) };
    let leases = vec![lease(with_service(Some(FUTURE))), lease(LeaseState::Overdue(held(PAST), fault())), unread];
    let discovery = Some(Fault::new(Code::TaskMetadataUnreachable, "no answer"));
    let server = start(Status { discovery, leases, ..Status::default() }, true).await;
    let (code, body) = server.get("/ready").await;
    assert_eq!(code, 503);
    insta::assert_snapshot!(body.replace("},{", "},\n{"), @r#"
    {"ready":false,"fault":{"code":"task-metadata-unreachable","what":"no answer","why":null,"next":"on ECS this passes by itself; elsewhere unset ECS_CONTAINER_METADATA_URI_V4 and set GMSA_CREDENTIAL_SPECS","owner":"network","retry":"soon","next_attempt_at":null},"leases":[{"spec":"arn:aws:s3:::specs/webapp01.json","account":"WebApp01","realm":"CORP.EXAMPLE.COM","path":"/krbdir/WebApp01/krb5cc","state":"held","expires_at":"2096-10-02T07:06:40Z","next_renewal_at":"2096-10-02T07:06:40Z","fault":null},
    {"spec":"arn:aws:s3:::specs/webapp01.json","account":"WebApp01","realm":"CORP.EXAMPLE.COM","path":"/krbdir/WebApp01/krb5cc","state":"expired","expires_at":"2023-11-14T22:13:20Z","next_renewal_at":"2096-10-02T07:06:40Z","fault":{"code":"dc-unreachable","what":"no domain controller of `corp.example.com` answers","why":"<timed out>","next":"allow TCP 88 and 389 (636 with GMSA_LDAP=ldaps) from the task to the domain controllers (security groups, routes, firewall of the domain controller)","owner":"network","retry":"soon","next_attempt_at":null}},
    {"spec":"arn:aws:s3:::specs/webapp01.json","account":null,"realm":null,"path":null,"state":"pending","expires_at":null,"next_renewal_at":null,"fault":null}],"waiting":[]}
    "#);
    let (code, body) = server.get("/leases").await;
    assert_eq!(code, 200);
    insta::assert_snapshot!(body.replace("},{", "},\n{"), @r#"
    {"ready":false,"fault":{"code":"task-metadata-unreachable","what":"no answer","why":null,"next":"on ECS this passes by itself; elsewhere unset ECS_CONTAINER_METADATA_URI_V4 and set GMSA_CREDENTIAL_SPECS","owner":"network","retry":"soon","next_attempt_at":null},"leases":[{"spec":"arn:aws:s3:::specs/webapp01.json","account":"WebApp01","realm":"CORP.EXAMPLE.COM","path":"/krbdir/WebApp01/krb5cc","state":"held","expires_at":"2096-10-02T07:06:40Z","next_renewal_at":"2096-10-02T07:06:40Z","fault":null,"dc":"dc1.corp.example.com","last_success_at":"2023-11-14T22:13:20Z","attempts":3,"kvno":7,"service_tickets":[{"service":"HTTP/web.example.com","expires_at":"2096-10-02T07:06:40Z"}],"took":"1s 250ms","clock_offset_seconds":-90,"history":[{"at":"2023-11-14T22:13:20Z","took":"70ms","dc":"dc1.corp.example.com","code":null},
    {"at":"2023-11-14T21:56:40Z","took":"70ms","dc":null,"code":"dc-unreachable"}]},
    {"spec":"arn:aws:s3:::specs/webapp01.json","account":"WebApp01","realm":"CORP.EXAMPLE.COM","path":"/krbdir/WebApp01/krb5cc","state":"expired","expires_at":"2023-11-14T22:13:20Z","next_renewal_at":"2096-10-02T07:06:40Z","fault":{"code":"dc-unreachable","what":"no domain controller of `corp.example.com` answers","why":"<timed out>","next":"allow TCP 88 and 389 (636 with GMSA_LDAP=ldaps) from the task to the domain controllers (security groups, routes, firewall of the domain controller)","owner":"network","retry":"soon","next_attempt_at":null},"dc":"dc1.corp.example.com","last_success_at":"2023-11-14T22:13:20Z","attempts":3,"kvno":7,"service_tickets":[],"took":"1s 250ms","clock_offset_seconds":-90,"history":[{"at":"2023-11-14T22:13:20Z","took":"70ms","dc":"dc1.corp.example.com","code":null},
    {"at":"2023-11-14T21:56:40Z","took":"70ms","dc":null,"code":"dc-unreachable"}]},
    {"spec":"arn:aws:s3:::specs/webapp01.json","account":null,"realm":null,"path":null,"state":"pending","expires_at":null,"next_renewal_at":null,"fault":null,"dc":null,"last_success_at":null,"attempts":3,"kvno":null,"service_tickets":[],"took":null,"clock_offset_seconds":null,"history":[{"at":"2023-11-14T22:13:20Z","took":"70ms","dc":"dc1.corp.example.com","code":null},
    {"at":"2023-11-14T21:56:40Z","took":"70ms","dc":null,"code":"dc-unreachable"}]}],"waiting":[]}
    "#);
}

#[tokio::test]
async fn only_known_paths_and_methods_are_answered() {
    let server = start(Status::default(), true).await;
    for path in ["/health", "/ready", "/gate", "/leases", "/metrics", "/"] {
        let (code, head, body) = server.ask("HEAD", path, "localhost").await;
        assert!(matches!(code, 200 | 503), "{path}: {code}");
        assert_eq!(body, "", "{path}");
        assert!(head.contains("content-length: ") && head.contains("cache-control: no-store"), "{head}");
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"] {
            let (code, head, _) = server.ask(method, path, "localhost").await;
            assert_eq!((code, head.contains("allow: get,head")), (405, true), "{method} {path}: {head}");
        }
    }
    let (code, head, _) = server.ask("GET", "/refresh", "localhost").await;
    assert_eq!((code, head.contains("allow: post")), (405, true), "{head}");
    for path in ["/nothing", "/health/", "//health", "/ready/../leases", "/%2e/ready"] {
        assert_eq!(server.get(path).await.0, 404, "{path}");
    }
    assert_eq!(server.get("/ready?verbose=1").await.0, 503);
}

#[tokio::test]
async fn beyond_loopback_only_health_and_metrics_are_served() {
    let server = start(Status::default(), false).await;
    for (path, code) in
        [("/health", 200), ("/ready", 503), ("/gate", 503), ("/metrics", 200), ("/", 404), ("/leases", 404)]
    {
        assert_eq!(server.get(path).await.0, code, "{path}");
    }
    assert_eq!(server.ask("POST", "/refresh", "10.0.0.1").await.0, 404);
}

#[tokio::test]
async fn peers_beyond_loopback_see_neither_logins_nor_arns_nor_faults() {
    let discovery = || Some(Fault::new(Code::TaskMetadataUnreachable, "no answer"));
    let leases = || vec![lease(LeaseState::Overdue(held(PAST), fault())), lease(LeaseState::Pending(Some(fault())))];
    let status = || Status { discovery: discovery(), leases: leases(), ..Status::default() };
    for (peer, full) in [("10.0.0.9", false), ("2001:db8::9", false), ("::ffff:127.0.0.1", true), ("::1", true)] {
        // Listening on loopback does not make a peer near: the platform may forward connections.
        for on_loopback in [true, false] {
            let server = start_for(status(), on_loopback, Some(peer.parse().unwrap())).await;
            for path in ["/ready", "/gate"] {
                let (code, body) = server.get(path).await;
                let told: serde_json::Value = serde_json::from_str(&body).unwrap();
                assert_eq!(code, 503);
                let lease = &told["leases"][0];
                let shown = [&told["fault"], &lease["fault"], &lease["spec"]].map(|value| !value.is_null());
                assert_eq!(shown, [full; 3], "{peer} {path}: {body}");
                assert_eq!((&lease["account"], &lease["state"]), (&"WebApp01".into(), &"expired".into()));
                let mut fields: Vec<_> = lease.as_object().unwrap().keys().cloned().collect();
                fields.sort_unstable();
                assert_eq!(
                    fields.join(" "),
                    "account expires_at fault next_renewal_at path realm spec state",
                    "{peer} {path}"
                );
            }
            let metrics = server.get("/metrics").await.1;
            assert!(!metrics.contains("arn:") && !metrics.contains("answers"), "{metrics}");
            let all = if full && on_loopback { 200 } else { 404 };
            assert_eq!((server.get("/leases").await.0, server.get("/").await.0), (all, all), "{peer}");
        }
    }
}

#[tokio::test]
async fn a_refresh_is_refused_to_pages_of_other_origins() {
    let cases = [
        ("", 202),
        ("Origin: http://localhost:8488\r\n", 202),
        ("Origin: http://LOCALHOST:8488\r\nSec-Fetch-Site: same-origin\r\n", 202),
        ("Sec-Fetch-Site: none\r\n", 202),
        ("Origin: http://evil.example.com\r\n", 403),
        ("Origin: https://localhost:8488\r\n", 403),
        ("Origin: http://localhost:9999\r\n", 403),
        ("Origin: http://localhost\r\n", 403),
        ("Origin: null\r\n", 403),
        ("Origin: \r\n", 403),
        ("Origin: http://localhost:8488\r\nOrigin: http://evil.example.com\r\n", 403),
        ("Sec-Fetch-Site: cross-site\r\n", 403),
        ("Sec-Fetch-Site: same-site\r\n", 403),
        ("Origin: http://localhost:8488\r\nSec-Fetch-Site: cross-site\r\n", 403),
    ];
    for (headers, code) in cases {
        let server = start(Status::default(), true).await;
        let answer = server.say(&format!("POST /refresh HTTP/1.1\r\nHost: localhost:8488\r\n{headers}\r\n")).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {code}")), "{headers}: {answer}");
        assert_eq!(server.refresh.ask(Instant::now()).is_ok(), code == 403, "{headers}: what was asked for");
    }
    let server = start(Status::default(), true).await;
    let foreign = "GET /ready HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.example.com\r\n\r\n";
    assert!(server.say(foreign).await.starts_with("HTTP/1.1 503"), "reading changes nothing");
}

/// Connections held open without a word, with half a request, or with an answer that is not read.
#[expect(clippy::disallowed_methods, reason = "a test is a client")]
async fn hold(address: SocketAddr, number: usize) -> Vec<tokio::net::TcpStream> {
    let mut held = Vec::new();
    for at in 0..number {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let said =
            ["", "G", "GET /health HTTP/1.1\r\nHost: localhost\r\nX: ", "GET /leases HTTP/1.1\r\nHost: ::1\r\n\r\n"];
        let _ = stream.write_all(said[at % said.len()].as_bytes()).await;
        held.push(stream);
    }
    held
}

#[tokio::test]
async fn health_answers_beside_many_connections_that_say_nothing() {
    let server = start(Status::default(), true).await;
    let held = hold(server.address, 400).await;
    for _ in 0..20 {
        let more = hold(server.address, 40).await;
        let answer = timeout(Duration::from_secs(1), server.get("/health")).await;
        assert_eq!(answer.unwrap(), (200, "ok\n".to_owned()));
        drop(more);
    }
    drop(held);
}

#[tokio::test]
async fn when_all_places_are_taken_the_one_that_has_waited_longest_goes() {
    let server = start(Status::default(), true).await;
    let mut held = hold(server.address, 0).await;
    for _ in 0..http::PLACES {
        held.extend(hold(server.address, 1).await);
    }
    assert_eq!(server.get("/health").await.0, 200);
    let begun = Instant::now();
    let mut byte = [0];
    let closed = timeout(http::HEAD_DEADLINE / 2, held[0].read(&mut byte)).await;
    assert!(matches!(closed, Ok(Ok(0) | Err(_))), "the first one stays");
    let kept = timeout(Duration::from_millis(50), held[1].read(&mut byte)).await;
    assert!(kept.is_err() || begun.elapsed() >= http::HEAD_DEADLINE, "one place was enough");
    let closed = timeout(2 * http::HEAD_DEADLINE, held[1].read(&mut byte)).await;
    assert!(matches!(closed, Ok(Ok(0) | Err(_))), "the deadline of a request's head");
}

#[tokio::test]
async fn a_host_that_is_a_name_is_refused() {
    let server = start(Status::default(), true).await;
    for host in ["127.0.0.1", "127.0.0.1:8488", "[::1]:8488", "[::1]", "localhost", "LOCALHOST:1", "10.1.2.3:80"] {
        assert_eq!(server.ask("GET", "/health", host).await.0, 200, "{host}");
    }
    for host in ["evil.example.com", "evil.example.com:8488", "localhost.evil.com", "127.0.0.1.evil.com", "", "a b"] {
        assert_eq!(server.ask("GET", "/health", host).await.0, 403, "{host}");
        assert_eq!(server.ask("GET", "/nothing", host).await.0, 403, "{host}");
    }
    assert!(server.say("GET /health HTTP/1.0\r\n\r\n").await.starts_with("HTTP/1.0 200"));
    assert!(server.say("GET /health HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 400"));
    let two = "GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example.com\r\n\r\n";
    assert!(server.say(two).await.starts_with("HTTP/1.1 400"));
}

#[tokio::test]
async fn a_refresh_is_granted_once_in_ten_seconds() {
    let server = start(Status::default(), true).await;
    let mut requests = server.refresh.requests();
    assert_eq!(server.ask("POST", "/refresh", "localhost").await.0, 202);
    requests.next().await;
    let (code, head, _) = server.ask("POST", "/refresh", "localhost").await;
    assert_eq!((code, head.contains("retry-after: 10")), (429, true), "{head}");
}

#[tokio::test]
async fn metrics_and_the_page_say_what_they_are() {
    let leases = vec![lease(LeaseState::Overdue(held(FUTURE), fault()))];
    let server = start(Status { leases, ..Status::default() }, true).await;
    let (_, head, body) = server.ask("GET", "/metrics", "localhost").await;
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    assert!(body.contains("\ngmsa_ready 1\n"), "{body}");
    let (code, head, body) = server.ask("GET", "/", "localhost").await;
    assert!(code == 200 && head.contains("content-security-policy: default-src 'none'"), "{head}");
    assert!(body.contains(">ready</b>") && body.contains("overdue") && body.contains("dc-unreachable"), "{body}");
    assert!(body.contains("&lt;timed out&gt;") && !body.contains("<timed"), "{body}");
}

#[tokio::test]
async fn a_client_that_says_nothing_or_too_much_is_hung_up_on() {
    let server = start(Status::default(), true).await;
    let flood = format!("GET /health HTTP/1.1\r\nHost: localhost\r\nX: {}", "x".repeat(4 * http::HEAD));
    assert!(!server.say(&flood).await.starts_with("HTTP/1.1 200"));
    let begun = std::time::Instant::now();
    assert_eq!(server.say("GET /health HTT").await, "");
    assert!(begun.elapsed() < http::HEAD_DEADLINE + Duration::from_secs(2));
}

#[tokio::test]
async fn an_address_in_use_is_a_fault_that_names_it() {
    let taken = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = taken.local_addr().unwrap();
    let fault = bind(address).unwrap_err();
    assert_eq!(fault.code, Code::ConfigListen);
    assert_eq!(fault.what, format!("cannot listen on {address} (GMSA_LISTEN)"));
    assert!(fault.next().contains(&format!("listens on {address}")), "{}", fault.next());
}

#[test]
fn readiness_is_looked_at_again_when_the_next_ticket_expires() {
    let now = clock::from_unix(PAST);
    let status = |expiries: &[i64]| Status {
        leases: expiries.iter().map(|at| lease(LeaseState::Held(held(*at)))).collect(),
        ..Status::default()
    };
    assert_eq!(until_next_expiry(&Status::default(), now), Duration::from_secs(60));
    assert_eq!(until_next_expiry(&status(&[PAST + 40, PAST + 7, PAST, PAST - 5]), now), Duration::from_secs(7));
    assert_eq!(until_next_expiry(&status(&[FUTURE]), now), Duration::from_secs(60));
}

/// Whatever is sent, the server still works afterwards.
#[tokio::test]
async fn bytes_that_are_no_http_do_no_harm() {
    let server = start(Status::default(), true).await;
    for junk in [
        "\0\0\0\0",
        "GET",
        "\r\n\r\n\r\n",
        "GET http://evil/ready HTTP/1.1\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let _ = timeout(Duration::from_millis(200), server.say(junk)).await;
    }
    assert_eq!(server.get("/health").await.0, 200);
}

/// All that is logged meanwhile, as text.
#[derive(Clone, Default)]
struct Log(Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, part: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(part);
        Ok(part.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_steady_state_is_told_once_a_heartbeat() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    let _log = tracing::subscriber::set_default(subscriber);
    let leases = vec![lease(LeaseState::Held(held(FUTURE))), lease(LeaseState::Overdue(held(FUTURE), fault()))];
    let (_sender, status) = watch::channel(Status { leases, ..Status::default() });
    let announced = tokio::spawn(announce(status, Duration::from_millis(300)));
    let told = || String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let start = Instant::now();
    while !told().contains("sidecar.heartbeat") {
        assert!(start.elapsed() < Duration::from_secs(10), "{}", told());
        sleep(Duration::from_millis(10)).await;
    }
    announced.abort();
    assert!(start.elapsed() >= Duration::from_millis(300));
    let told = told();
    assert_eq!(told.lines().count(), 2, "ready, then the heartbeat: {told}");
    for field in ["ready=true", "held=1", "overdue=1", "pending=0", "next_expiry=\"2096-10-02T07:06:40Z\""] {
        assert!(told.contains(field), "{field}: {told}");
    }
}

/// More connections than a neighbour opens at once wait for their turn, before any of them is taken.
#[tokio::test]
async fn a_thousand_connections_at_once_are_all_queued() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
    let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let mut held = Vec::new();
    for at in 0..1500 {
        let connecting = std::net::TcpStream::connect_timeout(&address, Duration::from_millis(500));
        held.push(connecting.unwrap_or_else(|error| panic!("connection {at}: {error}")));
    }
}
