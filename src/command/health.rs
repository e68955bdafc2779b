//! `gmsa-sidecar health`: asks a running sidecar whether the app may run. Starts fast: no AWS, no TLS.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, SystemTime};

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, sleep, timeout};

use crate::clock;
use crate::fault::Fault;
use crate::text::harmless;

/// Asks `GET /gate` of the sidecar that listens on `listen`, again and again until it says yes or `wait` is over.
///
/// # Errors
/// Why not, with the first fault that the sidecar tells of.
pub async fn health(listen: SocketAddr, wait: Duration) -> Result<(), No> {
    let address = SocketAddr::new(reachable(listen.ip()), listen.port());
    let end = Instant::now() + wait;
    loop {
        let answer = ask(address).await;
        if answer.is_ok() || Instant::now() + PAUSE > end {
            return answer;
        }
        sleep(PAUSE).await;
    }
}

/// Whether what listens on this address is a sidecar, ready or not.
pub(super) async fn is_ours(listen: SocketAddr) -> bool {
    let address = SocketAddr::new(reachable(listen.ip()), listen.port());
    match ask(address).await {
        Ok(()) => true,
        Err(no) => no.is_a_sidecars,
    }
}

/// Why the app may not run: three short lines, what, why and next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct No {
    what: String,
    why: String,
    next: String,
    /// A sidecar says so itself.
    is_a_sidecars: bool,
}

impl No {
    fn new(what: impl Into<String>, why: impl Into<String>, next: impl Into<String>) -> Self {
        Self { what: what.into(), why: why.into(), next: next.into(), is_a_sidecars: false }
    }
}

impl From<&Fault> for No {
    fn from(fault: &Fault) -> Self {
        let why = fault.why.clone().unwrap_or_else(|| NO_REASON.to_owned());
        Self::new(format!("{}: {}", fault.code, fault.what), why, fault.next())
    }
}

impl fmt::Display for No {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\nwhy:  {}\nnext: {}", line(&self.what), line(&self.why), line(&self.next))
    }
}

/// A text as a part of one line that is not long: platforms keep the first kilobytes of what a health check prints.
fn line(text: &str) -> String {
    let text = harmless(text);
    match text.char_indices().nth(LINE) {
        Some((end, _)) => format!("{}..", &text[..end]),
        None => text,
    }
}

const LINE: usize = 600;

/// How long all of one question may take: less than the least timeout of a container health check.
const PATIENCE: Duration = Duration::from_millis(1900);

/// Between two questions.
const PAUSE: Duration = Duration::from_millis(250);

/// Before a connection that broke off is made again.
const AGAIN: Duration = Duration::from_millis(50);

/// How many bytes of an answer are read.
const LIMIT: usize = 1024 * 1024;

/// A wildcard is no address to connect to; what listens there listens on loopback too.
fn reachable(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    }
}

/// One question. A connection that breaks off is made again while there is time: where neighbours hold many connections,
/// the sidecar closes some.
async fn ask(address: SocketAddr) -> Result<(), No> {
    let end = Instant::now() + PATIENCE;
    let mut before = None;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        match timeout(left, answer_of(address)).await {
            Ok(Ok(answer)) => return answer,
            Ok(Err(lost @ HealthFailure::BrokenOff(_))) if Instant::now() + AGAIN < end => {
                before = Some(lost);
                sleep(AGAIN).await;
            }
            Ok(Err(lost)) => return Err(lost.told(address)),
            // A connection that broke off says more than one that time left no answer for.
            Err(_elapsed) => return Err(before.unwrap_or(HealthFailure::Silent).told(address)),
        }
    }
}

/// Why there is no answer.
enum HealthFailure {
    NotConnected(io::Error),
    BrokenOff(hyper::Error),
    NotHttp(hyper::Error),
    Silent,
}

impl HealthFailure {
    fn told(self, address: SocketAddr) -> No {
        match self {
            Self::NotConnected(error) if error.kind() == io::ErrorKind::ConnectionRefused => No::new(
                format!("health: no process listens on {address}"),
                "the sidecar has ended or has not started, or it listens on another address",
                "read the sidecar's log for its last error; `health` needs the same GMSA_LISTEN as `run`",
            ),
            Self::NotConnected(error) => No::new(
                format!("health: cannot connect to {address}"),
                error.to_string(),
                "set GMSA_LISTEN to an address of this task, the same for `health` as for `run`",
            ),
            Self::Silent => No::new(
                format!("health: no answer from {address} within {PATIENCE:?}"),
                "the process that listens there is stopped or has no CPU time, or is not the sidecar",
                "read the sidecar's log; give the container more CPU, or check which process listens there",
            ),
            Self::BrokenOff(error) => No::new(
                format!("health: the connection to {address} was closed before an answer"),
                error.to_string(),
                "read the sidecar's log for its last error; check which process listens there",
            ),
            Self::NotHttp(error) => foreign(address, &format!("its answer is not HTTP ({error})")),
        }
    }
}

/// Another process has the port.
fn foreign(address: SocketAddr, why: &str) -> No {
    No::new(
        format!("health: the process that listens on {address} is not a gmsa-sidecar"),
        why,
        "give the sidecar a free port with GMSA_LISTEN; all containers of a task share one network",
    )
}

/// To an address of this machine that is not loopback the question goes out from loopback: the sidecar names faults to
/// no other peer.
#[expect(clippy::disallowed_methods, reason = "the sidecar itself is asked, not a DC")]
async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    if !address.ip().is_loopback() {
        let near = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4().map(|socket| (socket, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))),
            SocketAddr::V6(_) => TcpSocket::new_v6().map(|socket| (socket, SocketAddr::from((Ipv6Addr::LOCALHOST, 0)))),
        };
        if let Ok((socket, near)) = near
            && socket.bind(near).is_ok()
            && let Ok(stream) = socket.connect(address).await
        {
            return Ok(stream);
        }
    }
    TcpStream::connect(address).await
}

async fn answer_of(address: SocketAddr) -> Result<Result<(), No>, HealthFailure> {
    let stream = connect(address).await.map_err(HealthFailure::NotConnected)?;
    let broken = |error: hyper::Error| {
        if error.is_parse() { HealthFailure::NotHttp(error) } else { HealthFailure::BrokenOff(error) }
    };
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    tokio::spawn(connection);
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = hyper::Uri::from_static("/gate");
    if let Ok(host) = header::HeaderValue::try_from(address.to_string()) {
        request.headers_mut().insert(header::HOST, host);
    }
    let answer = sender.send_request(request).await.map_err(broken)?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), LIMIT).collect().await.map(|body| body.to_bytes());
    let told = body.ok().and_then(|body| serde_json::from_slice::<GateAnswer>(&body).ok());
    Ok(match (status, told) {
        (StatusCode::OK, Some(_)) => Ok(()),
        (StatusCode::SERVICE_UNAVAILABLE, Some(told)) => Err(No { is_a_sidecars: true, ..told.no(clock::now()) }),
        (StatusCode::OK | StatusCode::SERVICE_UNAVAILABLE, None) => {
            Err(foreign(address, &format!("its answer to GET /gate is HTTP {}, but not a sidecar's", status.as_u16())))
        }
        _ => Err(foreign(address, &format!("its answer to GET /gate is HTTP {}", status.as_u16()))),
    })
}

/// What `/gate` tells, as far as it is needed here.
#[derive(Deserialize)]
struct GateAnswer {
    #[expect(dead_code, reason = "no answer of a sidecar is without it")]
    ready: bool,
    fault: Option<Reason>,
    leases: Vec<GateLease>,
    #[serde(default)]
    waiting: Vec<Waiting>,
}

#[derive(Deserialize)]
struct GateLease {
    spec: Option<String>,
    account: Option<String>,
    state: String,
    fault: Option<Reason>,
}

#[derive(Deserialize)]
struct Reason {
    code: String,
    what: String,
    why: Option<String>,
    next: String,
}

#[derive(Deserialize)]
struct Waiting {
    #[serde(rename = "for")]
    peer: String,
    since: String,
    until: String,
}

impl GateAnswer {
    /// The first fault, else how the first lease stands that holds no ticket.
    fn no(&self, now: SystemTime) -> No {
        if let Some(fault) = &self.fault {
            return fault.no(None);
        }
        let closed = |lease: &&GateLease| lease.state == "pending" || lease.state == "expired";
        let lease = self.leases.iter().filter(closed).max_by_key(|lease| lease.fault.is_some());
        let name = lease.and_then(|lease| lease.account.as_deref().or(lease.spec.as_deref()));
        match lease {
            Some(GateLease { fault: Some(fault), .. }) => fault.no(name),
            Some(lease) => self.at_work(&format!("{}: {}", lease.state, name.unwrap_or("a lease")), now),
            None => self.at_work("pending: the CredSpecs are not known yet", now),
        }
    }

    /// Nothing has failed: what is being waited for, if anything is.
    fn at_work(&self, what: &str, now: SystemTime) -> No {
        let why = self.waiting.first().map_or_else(|| AT_WORK.to_owned(), |waiting| waiting.told(now));
        No::new(what, why, "wait; if it stays like this, read the sidecar's log, or run `gmsa-sidecar check`")
    }
}

impl Reason {
    fn no(&self, lease: Option<&str>) -> No {
        let of = lease.map(|lease| format!(" ({lease})")).unwrap_or_default();
        let why = self.why.as_deref().unwrap_or(NO_REASON);
        No::new(format!("{}: {}{of}", self.code, self.what), why, self.next.as_str())
    }
}

impl Waiting {
    fn told(&self, now: SystemTime) -> String {
        let since = humantime::parse_rfc3339(&self.since).ok().and_then(|since| now.duration_since(since).ok());
        let since = since.map_or_else(|| self.since.clone(), |since| format!("{} s", since.as_secs()));
        format!("waiting for {} since {since}, gives up at {}", self.peer, self.until)
    }
}

const NO_REASON: &str = "the sidecar has no further details";

const AT_WORK: &str = "no step has failed yet";

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::watch;

    use super::*;
    use crate::fault::Code;
    use crate::lease::metrics::Metrics;
    use crate::lease::refresh::Refresh;
    use crate::lease::status::{HeldTicket, LeaseKey, LeaseState, LeaseStatus, Order, Status};
    use crate::progress;
    use crate::serve::readiness;

    async fn sidecar(status: Status) -> (SocketAddr, watch::Sender<Status>) {
        let listener = readiness::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, status) = watch::channel(status);
        let state =
            readiness::ReadinessState { status, metrics: Arc::new(Metrics::new()), refresh: Refresh::default() };
        tokio::spawn(readiness::serve(listener, state));
        (address, sender)
    }

    fn status(state: LeaseState) -> Status {
        let spec = "inline".to_owned();
        let (key, order, history) = (LeaseKey::default(), Order::default(), std::collections::VecDeque::new());
        let lease = LeaseStatus {
            key,
            order,
            spec,
            identity: None,
            state,
            was_ready: true,
            next_renewal_at: None,
            attempts: 1,
            history,
        };
        Status { leases: vec![lease], ..Status::default() }
    }

    fn held() -> LeaseState {
        let now = clock::now();
        let expires_at = now + Duration::from_secs(60);
        LeaseState::Held(HeldTicket::found(expires_at, now))
    }

    #[tokio::test]
    async fn a_no_is_three_lines_and_a_yes_none() {
        let (address, sender) = sidecar(Status::default()).await;
        let ask = async || health(address, Duration::ZERO).await.unwrap_err().to_string();
        let wait = "next: wait; if it stays like this, read the sidecar's log, or run `gmsa-sidecar check`";
        let nothing = format!("why:  no step has failed yet\n{wait}");
        assert_eq!(ask().await, format!("pending: the CredSpecs are not known yet\n{nothing}"));

        sender.send_replace(status(LeaseState::Pending(None)));
        assert_eq!(ask().await, format!("pending: inline\n{nothing}"));

        let peer = "https://secretsmanager.eu-west-3.amazonaws.com";
        let silent = progress::during("secret", peer, Duration::from_secs(15), std::future::pending::<()>());
        let silent = tokio::spawn(silent);
        tokio::task::yield_now().await;
        let told = ask().await;
        let lines: Vec<_> = told.lines().collect();
        assert!(lines[1].starts_with(&format!("why:  waiting for {peer} since 0 s, gives up at 20")), "{told}");
        assert_eq!((lines.len(), lines[0], lines[2]), (3, "pending: inline", wait));
        silent.abort();

        let fault = Fault::new(Code::CredSpecRegion, "the region of the bucket is not known");
        sender.send_replace(status(LeaseState::Pending(Some(fault.clone().because("no variable\nnames it")))));
        let what = "credspec-region: the region of the bucket is not known";
        assert_eq!(ask().await, format!("{what} (inline)\nwhy:  no variable\\nnames it\nnext: set AWS_REGION"));

        sender.send_replace(Status { discovery: Some(fault.clone()), ..Status::default() });
        assert_eq!(ask().await, format!("{what}\nwhy:  the sidecar has no further details\nnext: set AWS_REGION"));

        let long = "x".repeat(100_000);
        sender.send_replace(Status { discovery: Some(fault.because(long)), ..Status::default() });
        let told = ask().await;
        assert!(told.lines().count() == 3 && told.len() < 1024, "{told}");

        sender.send_replace(status(held()));
        assert_eq!(health(address, Duration::ZERO).await, Ok(()));
    }

    /// A process that answers every connection with these bytes, once it has heard something.
    async fn foreigner(answer: &'static [u8]) -> SocketAddr {
        let listener = readiness::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(answer).await;
            }
        });
        address
    }

    #[tokio::test]
    async fn an_answer_that_is_not_ours_is_told_as_such() {
        let html = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>";
        let answers: [(&[u8], &str); 8] = [
            (html, "its answer to GET /gate is HTTP 200, but not a sidecar's"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnull", "its answer to GET /gate is HTTP 200"),
            (
                b"HTTP/1.1 200 OK\r\nContent-Length: 16\r\n\r\n{\"status\": \"UP\"}",
                "its answer to GET /gate is HTTP 200",
            ),
            (b"HTTP/1.1 503 No\r\nContent-Length: 2\r\n\r\n{}", "its answer to GET /gate is HTTP 503"),
            (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "its answer to GET /gate is HTTP 404"),
            (b"HTTP/1.1 301 Moved\r\nLocation: /\r\nContent-Length: 0\r\n\r\n", "its answer to GET /gate is HTTP 301"),
            (b"SSH-2.0-OpenSSH_9.2\r\n", "its answer is not HTTP"),
            (b"\x15\x03\x03\x00\x02\x02\x46", "its answer is not HTTP"),
        ];
        for (answer, why) in answers {
            let address = foreigner(answer).await;
            let no = health(address, Duration::ZERO).await.unwrap_err();
            assert_eq!(no.what, format!("health: the process that listens on {address} is not a gmsa-sidecar"));
            assert!(no.why.starts_with(why), "{no}");
            assert!(no.next.contains("GMSA_LISTEN"), "{no}");
        }
        let address = foreigner(b"").await;
        let no = health(address, Duration::ZERO).await.unwrap_err();
        assert_eq!(no.what, format!("health: the connection to {address} was closed before an answer"));
    }

    #[tokio::test]
    async fn a_sidecar_that_gets_ready_is_waited_for() {
        let (address, sender) = sidecar(Status::default()).await;
        let asked = tokio::spawn(health(address, Duration::from_secs(30)));
        sleep(Duration::from_millis(300)).await;
        assert!(!asked.is_finished());
        sender.send_replace(status(held()));
        assert_eq!(asked.await.unwrap(), Ok(()));
    }

    #[tokio::test]
    async fn nobody_there_and_nobody_answering_are_told_apart() {
        let listener = readiness::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let no = health(address, Duration::ZERO).await.unwrap_err();
        assert_eq!(no.what, format!("health: no answer from {address} within 1.9s"));
        drop(listener);
        let no = health(address, Duration::ZERO).await.unwrap_err();
        assert_eq!(no.what, format!("health: no process listens on {address}"));
        assert!(no.why.contains("has ended") && no.next.contains("log"), "{no}");
    }

    #[test]
    fn a_wildcard_is_asked_on_loopback() {
        for (listen, asked) in [("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("10.0.0.5", "10.0.0.5")] {
            assert_eq!(reachable(listen.parse().unwrap()).to_string(), asked);
        }
    }
}
