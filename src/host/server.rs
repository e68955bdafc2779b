//! Connections -> calls: HTTP/2 over the Unix socket, with limits on everything that a peer can make us hold.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::Service as HyperService;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service as TowerService;

use super::daemon::Daemon;
use super::grpc::{BUDGET, Service};
use super::keeper::Keeper;
use super::protocol::credentials_fetcher_service_server::CredentialsFetcherServiceServer as Generated;
use super::socket::admit;
use super::status::Refused;

/// Answers calls until `shutdown` says so; then those under way have a moment to end.
pub(super) async fn serve<K: Keeper>(
    listener: UnixListener,
    daemon: Arc<Daemon<K>>,
    group: Option<u32>,
    shutdown: impl Future<Output = ()>,
) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    let shared = Shared {
        generated: Generated::new(Service(daemon)).max_decoding_message_size(MESSAGE),
        calls: Arc::new(Semaphore::new(CALLS)),
    };
    let (stop, stopping) = watch::channel(false);
    tokio::pin!(shutdown);
    loop {
        let accepted = async {
            let place = Arc::clone(&connections).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            () = &mut shutdown => break,
            accepted = accepted => accepted,
        };
        let Ok((stream, _)) = accepted else {
            // Out of file descriptors, as a rule: trying again at once would only spin.
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        let refused = admit(&stream, group).err();
        if let Some(refused) = &refused {
            tracing::warn!(event = "host.caller-refused", why = refused.text());
        }
        let shared = shared.clone();
        let stopping = stopping.clone();
        tokio::spawn(async move {
            let _place = place;
            converse(stream, shared, refused, stopping).await;
        });
    }
    let _ = stop.send(true);
    let all = u32::try_from(CONNECTIONS).unwrap_or(u32::MAX);
    let _ = timeout(GRACE, connections.acquire_many(all)).await;
}

/// What all connections share.
struct Shared<K> {
    generated: Generated<Service<K>>,
    calls: Arc<Semaphore>,
}

impl<K> Clone for Shared<K> {
    fn clone(&self) -> Self {
        Self { generated: self.generated.clone(), calls: Arc::clone(&self.calls) }
    }
}

/// Serves one connection until it is closed, idle for too long, or the process ends.
async fn converse<K: Keeper>(
    stream: UnixStream,
    shared: Shared<K>,
    refused: Option<Refused>,
    mut stopping: watch::Receiver<bool>,
) {
    let usage = Arc::new(Usage::default());
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEADERS)
        .keep_alive_interval(IDLE)
        .keep_alive_timeout(Duration::from_secs(20));
    let calls = Calls { shared, refused, usage: Arc::clone(&usage) };
    let connection = http.serve_connection(TokioIo::new(stream), calls);
    tokio::pin!(connection);
    loop {
        tokio::select! {
            // Whatever goes wrong here is the peer's: it hung up, or spoke no HTTP/2.
            _ = &mut connection => return,
            _ = stopping.wait_for(|stop| *stop) => break,
            () = sleep_until(usage.last() + IDLE) => if usage.is_idle() {
                break;
            },
        }
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(GRACE, connection).await;
}

/// When a connection was last of use.
struct Usage {
    under_way: AtomicUsize,
    last: Mutex<Instant>,
}

impl Default for Usage {
    fn default() -> Self {
        Self { under_way: AtomicUsize::new(0), last: Mutex::new(Instant::now()) }
    }
}

impl Usage {
    /// Of a call that is under way the end counts, which is not known yet.
    fn last(&self) -> Instant {
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if self.under_way.load(Ordering::Relaxed) > 0 { Instant::now() } else { last }
    }

    fn is_idle(&self) -> bool {
        self.last() + IDLE <= Instant::now()
    }

    fn begin(self: &Arc<Self>) -> UnderWay {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        UnderWay(Arc::clone(self))
    }
}

/// A call; it may also be dropped by the peer.
struct UnderWay(Arc<Usage>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        *self.0.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The calls of one connection.
struct Calls<K> {
    shared: Shared<K>,
    /// Why the peer may not call.
    refused: Option<Refused>,
    usage: Arc<Usage>,
}

impl<K: Keeper> HyperService<Request<Incoming>> for Calls<K> {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let under_way = self.usage.begin();
        let refused = self.refused.clone();
        let place = Arc::clone(&self.shared.calls).try_acquire_owned();
        let mut generated = self.shared.generated.clone();
        Box::pin(async move {
            let _under_way = under_way;
            // Health is answered even if nothing else is.
            let full = place.is_err() && !request.uri().path().ends_with("/HealthCheck");
            let full = full.then_some(Refused::Busy("This host has as many calls under way as it may have"));
            let refused = refused.or(full);
            if let Some(refused) = refused {
                return Ok(Status::from(refused).into_http());
            }
            // The methods keep their own time; this is for a request whose body does not come.
            match timeout(PATIENCE, generated.call(request)).await {
                Ok(answer) => answer,
                Err(_elapsed) => {
                    Ok(Status::deadline_exceeded("task-host-timeout: The request took too long").into_http())
                }
            }
        })
    }
}

/// Bytes of one request.
const MESSAGE: usize = 4 * 1024 * 1024;
/// Bytes of the headers of one request.
const HEADERS: u32 = 16 * 1024;
/// Calls at a time, over all connections.
const CALLS: usize = 256;
/// Calls at a time on one connection; more wait with the peer.
const STREAMS: u32 = 128;
/// Connections at a time; more wait in the backlog of the socket.
const CONNECTIONS: usize = 512;
/// How long a connection may be of no use.
const IDLE: Duration = Duration::from_secs(120);
/// How long one call may take, its request included.
const PATIENCE: Duration = BUDGET.saturating_add(Duration::from_secs(1));
/// How long calls that are under way have when the process ends.
const GRACE: Duration = Duration::from_secs(5);
