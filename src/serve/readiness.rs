//! `watch<Status>` -> HTTP: what health checks, scrapers, people and the app's start gate ask.
//!
//! Answers are derived from the published `Status` and the clock; nothing here waits for AWS or AD, and no client
//! can hold a connection for longer than a few seconds.

mod page;
mod report;

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::extract::{self, Request};
use axum::http::header::{self, HeaderMap, HeaderValue};
use axum::http::uri::Authority;
use axum::http::{StatusCode, Version};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep, timeout};

use crate::clock;
use crate::fault::{Code, Fault};
use crate::lease::metrics::{self, Metrics};
use crate::lease::refresh::Refresh;
use crate::lease::status::Status;

/// What the answers are made of.
#[derive(Debug, Clone)]
pub struct State {
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
pub async fn bind(address: SocketAddr) -> Result<TcpListener, Fault> {
    TcpListener::bind(address)
        .await
        .map_err(|error| Fault::new(Code::ConfigListen, format!("cannot listen on {address}")).caused_by(&error))
}

/// Answers requests and logs each change of readiness, until it is dropped.
pub async fn serve(listener: TcpListener, state: State) -> Infallible {
    let loopback = listener.local_addr().is_ok_and(|address| address.ip().to_canonical().is_loopback());
    let changes = announce(state.status.clone(), HEARTBEAT);
    let router = router(state, loopback);
    tokio::select! {
        never = accept(listener, router) => never,
        never = changes => never,
    }
}

/// One request a connection, a few connections at a time, each with a deadline.
async fn accept(listener: TcpListener, router: Router) -> Infallible {
    let mut http = http1::Builder::new();
    http.keep_alive(false).max_buf_size(HEADERS);
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let place = Arc::clone(&places).acquire_owned().await;
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors, as a rule: trying again at once would only spin.
                tracing::debug!(event = "http.accept-failed", %error);
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let service = TowerToHyperService::new(router.clone());
        let connection = http.serve_connection(TokioIo::new(stream), service);
        tokio::spawn(async move {
            let _place = place;
            // Whatever goes wrong here is the client's: it hung up, was too slow, or spoke no HTTP.
            let _ = timeout(PATIENCE, connection).await;
        });
    }
}

/// How long one request and its answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// How many connections are served at a time; more wait in the backlog.
const CONNECTIONS: usize = 64;

/// How many bytes the head of a request may have.
const HEADERS: usize = 16 * 1024;

/// On an address that is not loopback only what health checks and scrapers need is there.
fn router(state: State, loopback: bool) -> Router {
    let mut router = Router::new()
        .route("/health", get(|| async { "ok\n" }))
        .route("/ready", get(ready))
        .route("/gate", get(gate))
        .route("/metrics", get(scrape));
    if loopback {
        router = router.route("/leases", get(leases)).route("/refresh", post(refresh)).route("/", get(status_page));
    }
    router
        .fallback(|| async { (StatusCode::NOT_FOUND, "not found\n") })
        .layer(middleware::from_fn(guard))
        .with_state(state)
}

async fn ready(extract::State(state): extract::State<State>) -> Response {
    let (status, now) = (state.status.borrow(), clock::now());
    json(yes_or_no(status.is_ready(now)), &report::Report::new(&status, now))
}

/// What `gmsa-sidecar health` asks; it tells the same as `/ready`, for the reason of a no.
async fn gate(extract::State(state): extract::State<State>) -> Response {
    let (status, now) = (state.status.borrow(), clock::now());
    json(yes_or_no(status.is_open(now)), &report::Report::new(&status, now))
}

async fn leases(extract::State(state): extract::State<State>) -> Response {
    json(StatusCode::OK, &report::Details::new(&state.status.borrow(), clock::now()))
}

async fn scrape(extract::State(state): extract::State<State>) -> Response {
    let text = state.metrics.render(&state.status.borrow(), clock::now());
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response()
}

async fn status_page(extract::State(state): extract::State<State>) -> Response {
    let page = page::render(&report::Details::new(&state.status.borrow(), clock::now()));
    let headers =
        [(header::CONTENT_TYPE, "text/html; charset=utf-8"), (header::CONTENT_SECURITY_POLICY, page::SECURITY_POLICY)];
    (headers, page).into_response()
}

async fn refresh(extract::State(state): extract::State<State>) -> Response {
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
    let mut response = match meant_for_us(request.headers(), request.version()) {
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
        let (is, wait) = {
            let status = status.borrow_and_update();
            if beat <= Instant::now() {
                beat = Instant::now() + heartbeat;
                tell_state(&status, now);
            }
            (tell_change(&status, was, now), until_next_expiry(&status, now))
        };
        was = is;
        let wait = wait.min(beat.saturating_duration_since(Instant::now()));
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
            let report = report::Report::new(status, now);
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
    let report = report::Report::new(status, now);
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
