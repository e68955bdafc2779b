//! `gmsa-sidecar health`: asks a running sidecar whether the app may run. Starts fast: no AWS, no TLS.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::time::{Instant, sleep, timeout};

/// Asks `GET /gate` of the sidecar that listens on `listen`, again and again until it says yes or `wait` is over.
///
/// # Errors
/// One line that says why not, with the first fault that the sidecar tells of.
pub async fn health(listen: SocketAddr, wait: Duration) -> Result<(), String> {
    let address = SocketAddr::new(reachable(listen.ip()), listen.port());
    let end = Instant::now() + wait;
    loop {
        let asked = timeout(PATIENCE, ask(address)).await;
        let answer = asked.unwrap_or_else(|_| Err(format!("the sidecar at {address} does not answer in time")));
        if answer.is_ok() || Instant::now() + PAUSE > end {
            return answer;
        }
        sleep(PAUSE).await;
    }
}

/// How long one question may take: less than the least timeout of a container health check.
const PATIENCE: Duration = Duration::from_millis(1900);

/// Between two questions.
const PAUSE: Duration = Duration::from_millis(250);

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

async fn ask(address: SocketAddr) -> Result<(), String> {
    #[expect(clippy::disallowed_methods, reason = "the sidecar itself is asked, not a DC")]
    let stream = tokio::net::TcpStream::connect(address)
        .await
        .map_err(|error| format!("no sidecar listens on {address}: {error}"))?;
    let broken = |error: hyper::Error| format!("the sidecar at {address} breaks off: {error}");
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    tokio::spawn(connection);
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = hyper::Uri::from_static("/gate");
    let host = header::HeaderValue::try_from(address.to_string()).map_err(|error| error.to_string())?;
    request.headers_mut().insert(header::HOST, host);
    let answer = sender.send_request(request).await.map_err(broken)?;
    match answer.status() {
        StatusCode::OK => Ok(()),
        StatusCode::SERVICE_UNAVAILABLE => {
            let body = Limited::new(answer.into_body(), LIMIT).collect().await.map(|body| body.to_bytes());
            Err(body.ok().and_then(|body| reason(&body)).unwrap_or_else(|| "not ready".to_owned()))
        }
        other => Err(format!("what listens on {address} is no sidecar: it answers {other}")),
    }
}

/// What `/gate` tells, as far as it is needed here.
#[derive(Deserialize)]
struct Answer {
    fault: Option<Reason>,
    leases: Vec<Lease>,
}

#[derive(Deserialize)]
struct Lease {
    spec: String,
    account: Option<String>,
    state: String,
    fault: Option<Reason>,
}

#[derive(Deserialize)]
struct Reason {
    code: String,
    what: String,
    next: String,
}

/// Why not, in one line: the first fault, else how the first lease stands that holds no ticket.
fn reason(body: &[u8]) -> Option<String> {
    let answer: Answer = serde_json::from_slice(body).ok()?;
    let told =
        |who: &str, reason: &Reason| format!("not ready: {who}{}: {}; next: {}", reason.code, reason.what, reason.next);
    if let Some(fault) = &answer.fault {
        return Some(told("", fault));
    }
    let closed = |lease: &&Lease| lease.state == "pending" || lease.state == "expired";
    let Some(lease) = answer.leases.iter().filter(closed).max_by_key(|lease| lease.fault.is_some()) else {
        return Some("not ready: no CredSpec is known yet".to_owned());
    };
    let name = lease.account.as_ref().unwrap_or(&lease.spec);
    Some(match &lease.fault {
        Some(fault) => told(&format!("{name}: "), fault),
        None => format!("not ready: {name} is {}", lease.state),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::watch;

    use super::*;
    use crate::clock;
    use crate::fault::{Code, Fault};
    use crate::lease::metrics::Metrics;
    use crate::lease::refresh::Refresh;
    use crate::lease::status::{Held, LeaseKey, LeaseState, LeaseStatus, Order, Status};
    use crate::serve::readiness;

    async fn sidecar(status: Status) -> (SocketAddr, watch::Sender<Status>) {
        let listener = readiness::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, status) = watch::channel(status);
        let state = readiness::State { status, metrics: Arc::new(Metrics::new()), refresh: Refresh::default() };
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
        LeaseState::Held(Held::found(expires_at, now))
    }

    #[tokio::test]
    async fn a_no_tells_its_first_fault_and_a_yes_nothing() {
        let (address, sender) = sidecar(Status::default()).await;
        let ask = || health(address, Duration::ZERO);
        assert_eq!(ask().await.unwrap_err(), "not ready: no CredSpec is known yet");

        sender.send_replace(status(LeaseState::Pending(None)));
        assert_eq!(ask().await.unwrap_err(), "not ready: inline is pending");

        let fault = Fault::new(Code::CredSpecRegion, "the region of the bucket is not known");
        sender.send_replace(status(LeaseState::Pending(Some(fault.clone()))));
        let told = "credspec-region: the region of the bucket is not known; next: set AWS_REGION";
        assert_eq!(ask().await.unwrap_err(), format!("not ready: inline: {told}"));

        sender.send_replace(Status { discovery: Some(fault), ..Status::default() });
        assert_eq!(ask().await.unwrap_err(), format!("not ready: {told}"));

        sender.send_replace(status(held()));
        assert_eq!(ask().await, Ok(()));
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
        let listener = readiness::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let error = health(address, Duration::ZERO).await.unwrap_err();
        assert_eq!(error, format!("the sidecar at {address} does not answer in time"));
        drop(listener);
        let error = health(address, Duration::ZERO).await.unwrap_err();
        assert!(error.starts_with(&format!("no sidecar listens on {address}: ")), "{error}");
    }

    #[test]
    fn a_wildcard_is_asked_on_loopback() {
        for (listen, asked) in [("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("10.0.0.5", "10.0.0.5")] {
            assert_eq!(reachable(listen.parse().unwrap()).to_string(), asked);
        }
    }
}
