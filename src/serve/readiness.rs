//! `watch<Status>` -> HTTP: what health checks, scrapers, people and the app's start gate ask.
//!
//! Answers are derived from the published `Status` and the clock; nothing here waits for AWS or AD, and no client
//! can hold a connection for longer than a few seconds.

mod page;
mod report;

use std::convert::Infallible;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::extract::{self, Request};
use axum::http::header::{self, HeaderMap, HeaderValue};
use axum::http::uri::Authority;
use axum::http::{Method, StatusCode, Version};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Serialize;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::clock;
use crate::fault::{Code, Fault};
use crate::lease::metrics::{self, Metrics};
use crate::lease::refresh::Refresh;
use crate::lease::status::Status;
use crate::serve::http;

/// What the answers are made of.
#[derive(Debug, Clone)]
pub struct ReadinessState {
    /// All that is known of the leases.
    pub status: watch::Receiver<Status>,
    /// The counters.
    pub metrics: Arc<Metrics>,
    /// Where `POST /refresh` asks.
    pub refresh: Refresh,
}

/// Listens on the address.
///
/// # Errors
/// `config-listen`.
pub fn bind(address: SocketAddr) -> Result<TcpListener, Fault> {
    let listen = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    listen().map_err(|error| {
        let why = error.to_string();
        let why = why.split(" (os error").next().unwrap_or(&why).to_owned();
        let next = match error.kind() {
            ErrorKind::AddrInUse => format!(
                "set GMSA_LISTEN to another port, e.g. {}: another container of the task, which shares the network, \
                     listens on {address}",
                SocketAddr::new(address.ip(), address.port().wrapping_add(1).max(1024))
            ),
            ErrorKind::PermissionDenied => format!(
                "set GMSA_LISTEN to a port from 1024 on, e.g. {}: {address} takes CAP_NET_BIND_SERVICE",
                SocketAddr::new(address.ip(), 8488)
            ),
            _ => format!("correct GMSA_LISTEN: {address} is not an address of this task"),
        };
        Fault::new(Code::ConfigListen, format!("cannot listen on {address} (GMSA_LISTEN)")).because(why).with_next(next)
    })
}

/// How many connections wait for their turn: as many as the kernel allows by default (listen(2)). One that finds the
/// queue full tries again after a second, and a neighbour can open a thousand at once.
const BACKLOG: u32 = 4096;

/// Answers requests and logs each change of readiness, until it is dropped.
pub async fn serve(listener: TcpListener, state: ReadinessState) -> Infallible {
    let here = listener.local_addr().is_ok_and(|address| is_loopback(address.ip()));
    let changes = announce(state.status.clone(), HEARTBEAT);
    let routes = Routes::new(state, here);
    tokio::select! {
        never = http::accept(listener, |peer| routes.of(peer.ip())) => never,
        never = changes => never,
    }
}

/// What is answered to whom.
struct Routes {
    /// To peers on this machine, or in this task.
    near: Router,
    /// To all others.
    far: Router,
}

impl Routes {
    /// On an address that is not loopback only what health checks and scrapers need is there.
    fn new(state: ReadinessState, on_loopback: bool) -> Self {
        let shown = |in_full| Visible { state: state.clone(), in_full };
        let near = if on_loopback { everything() } else { essentials() };
        Self { near: finished(near, shown(true)), far: finished(essentials(), shown(false)) }
    }

    fn of(&self, peer: IpAddr) -> Router {
        if is_loopback(peer) { self.near.clone() } else { self.far.clone() }
    }
}

fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// The state, and whether logins, ARNs and faults are shown.
#[derive(Clone)]
struct Visible {
    state: ReadinessState,
    in_full: bool,
}

fn essentials() -> Router<Visible> {
    Router::new()
        .route("/health", get(|| async { "ok\n" }))
        .route("/ready", get(ready))
        .route("/gate", get(gate))
        .route("/metrics", get(scrape))
}

fn everything() -> Router<Visible> {
    essentials().route("/leases", get(leases)).route("/refresh", post(refresh)).route("/", get(status_page))
}

fn finished(router: Router<Visible>, shown: Visible) -> Router {
    router
        .fallback(|| async { (StatusCode::NOT_FOUND, "not found\n") })
        .layer(middleware::from_fn(guard))
        .with_state(shown)
}

async fn ready(extract::State(Visible { state, in_full }): extract::State<Visible>) -> Response {
    let (status, now) = (state.status.borrow(), clock::now());
    json(yes_or_no(status.is_ready(now)), &report::ReadyReport::new(&status, now, in_full))
}

/// What `gmsa-sidecar health` asks; it tells the same as `/ready`, for the reason of a no.
async fn gate(extract::State(Visible { state, in_full }): extract::State<Visible>) -> Response {
    let (status, now) = (state.status.borrow(), clock::now());
    json(yes_or_no(status.is_open(now)), &report::ReadyReport::new(&status, now, in_full))
}

async fn leases(extract::State(Visible { state, .. }): extract::State<Visible>) -> Response {
    json(StatusCode::OK, &report::Details::new(&state.status.borrow(), clock::now()))
}

async fn scrape(extract::State(Visible { state, .. }): extract::State<Visible>) -> Response {
    let text = state.metrics.render(&state.status.borrow(), clock::now());
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response()
}

async fn status_page(extract::State(Visible { state, .. }): extract::State<Visible>) -> Response {
    let page = page::render(&report::Details::new(&state.status.borrow(), clock::now()));
    let headers =
        [(header::CONTENT_TYPE, "text/html; charset=utf-8"), (header::CONTENT_SECURITY_POLICY, page::SECURITY_POLICY)];
    (headers, page).into_response()
}

async fn refresh(extract::State(Visible { state, .. }): extract::State<Visible>) -> Response {
    match state.refresh.ask(Instant::now()) {
        Ok(()) => (StatusCode::ACCEPTED, "asked every lease to renew now\n").into_response(),
        Err(wait) => {
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            let headers = [(header::RETRY_AFTER, seconds.to_string())];
            (StatusCode::TOO_MANY_REQUESTS, headers, "a refresh was asked for just now\n").into_response()
        }
    }
}

fn yes_or_no(yes: bool) -> StatusCode {
    if yes { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

fn json(status: StatusCode, value: &impl Serialize) -> Response {
    match serde_json::to_string(value) {
        Ok(mut body) => {
            body.push('\n');
            (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// Refuses requests that a web page made a browser send here under a name of its own (DNS rebinding).
async fn guard(request: Request, next: Next) -> Response {
    let (method, headers) = (request.method(), request.headers());
    let checked = meant_for_us(headers, request.version()).and_then(|()| of_our_own(method, headers));
    let mut response = match checked {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    };
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// `Host` must be an address or `localhost`; the listen host is always an address. HTTP/1.0 needs none.
fn meant_for_us(headers: &HeaderMap, version: Version) -> Result<(), (StatusCode, &'static str)> {
    let mut hosts = headers.get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (None, _) if version < Version::HTTP_11 => Ok(()),
        (Some(host), None) if is_address_or_localhost(host) => Ok(()),
        (Some(_), None) => Err((StatusCode::FORBIDDEN, "Host must be an address or localhost\n")),
        // RFC 9112 section 3.2
        _ => Err((StatusCode::BAD_REQUEST, "exactly one Host is needed\n")),
    }
}

/// What changes something is refused to web pages of other origins: a browser lets them send it, though not read the
/// answer. A client that is no browser sends neither header.
fn of_our_own(method: &Method, headers: &HeaderMap) -> Result<(), (StatusCode, &'static str)> {
    if method.is_safe() {
        return Ok(());
    }
    let host = headers.get(header::HOST).map(HeaderValue::as_bytes).unwrap_or_default();
    let same = |origin: &HeaderValue| {
        origin.as_bytes().strip_prefix(b"http://").is_some_and(|origin| origin.eq_ignore_ascii_case(host))
    };
    let direct = |site: &HeaderValue| site == "same-origin" || site == "none";
    if headers.get_all(header::ORIGIN).iter().all(same) && headers.get_all("sec-fetch-site").iter().all(direct) {
        Ok(())
    } else {
        Err((StatusCode::FORBIDDEN, "refused to a page of another origin\n"))
    }
}

fn is_address_or_localhost(host: &HeaderValue) -> bool {
    let Ok(authority) = Authority::try_from(host.as_bytes()) else { return false };
    let host = authority.host();
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    bare.parse::<IpAddr>().is_ok() || host.eq_ignore_ascii_case("localhost")
}

/// Logs each change of readiness, and from time to time how things stand: what health checks print is seen by nobody
/// on Fargate.
async fn announce(mut status: watch::Receiver<Status>, heartbeat: Duration) -> Infallible {
    let mut was = false;
    let mut beat = Instant::now() + heartbeat;
    loop {
        let now = clock::now();
        // A copy: nothing is logged while the status is lent out.
        let current = status.borrow_and_update().clone();
        if beat <= Instant::now() {
            beat = Instant::now() + heartbeat;
            tell_state(&current, now);
        }
        was = tell_change(&current, was, now);
        let wait = until_next_expiry(&current, now).min(beat.saturating_duration_since(Instant::now()));
        tokio::select! {
            changed = status.changed() => if changed.is_err() {
                // Nobody publishes any more, but tickets still expire.
                sleep(wait).await;
            },
            () = sleep(wait) => {}
        }
    }
}

/// Logs the readiness if it is not what it was, and returns it.
fn tell_change(status: &Status, was: bool, now: SystemTime) -> bool {
    let is = status.is_ready(now);
    match (was, is) {
        (false, true) => tracing::info!(event = "sidecar.ready", leases = status.leases.len()),
        (true, false) => {
            let report = report::ReadyReport::new(status, now, true);
            let culprit = report.leases.iter().find(|lease| lease.state != "held" && lease.state != "overdue");
            let (account, state) = culprit.map(|lease| (lease.account, lease.state)).unzip();
            let code = culprit.and_then(|lease| lease.fault).map(|fault| fault.code.name());
            tracing::warn!(event = "sidecar.unready", account = account.flatten(), state, code);
        }
        _ => {}
    }
    is
}

/// A sign of life.
fn tell_state(status: &Status, now: SystemTime) {
    let report = report::ReadyReport::new(status, now, true);
    let number = |state: &str| report.leases.iter().filter(|lease| lease.state == state).count();
    tracing::info!(
        event = "sidecar.heartbeat",
        ready = status.is_ready(now),
        held = number("held"),
        overdue = number("overdue"),
        pending = number("pending"),
        expired = number("expired"),
        next_expiry = report.leases.iter().filter_map(|lease| lease.expires_at.as_deref()).min(),
        next_renewal = report.leases.iter().filter_map(|lease| lease.next_renewal_at.as_deref()).min(),
    );
}

/// In a steady state nothing else is logged.
const HEARTBEAT: Duration = Duration::from_secs(3600);

/// How long nothing can change without being published; never more than a minute, since clocks are set.
fn until_next_expiry(status: &Status, now: SystemTime) -> Duration {
    let held = status.leases.iter().filter_map(|lease| lease.state.held());
    let ends = held.flat_map(|held| held.services.iter().filter_map(|s| s.expires_at).chain([held.expires_at]));
    let expiries = ends.filter_map(|end| end.duration_since(now).ok());
    let next = expiries.filter(|left| !left.is_zero()).min().unwrap_or(Duration::MAX);
    next.min(Duration::from_secs(60))
}

#[cfg(test)]
mod tests;
