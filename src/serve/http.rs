//! Connections -> answers, whatever the neighbours do: one listener, few places, and nobody waits for anybody.
//!
//! Other containers of the task share the network, and may open as many connections as they like, say nothing on them, or
//! never read an answer. A new connection is taken at once; if all places are taken, the incomplete request that has
//! waited longest loses its own.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use rustix::io::Errno;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, Id, JoinSet, yield_now};
use tokio::time::{sleep, timeout};

/// Answers one request a connection by the routes that `routes` has for the peer, until it is dropped.
pub(super) async fn accept(listener: TcpListener, routes: impl Fn(SocketAddr) -> Router) -> Infallible {
    let mut places = ConnectionSlots::default();
    let mut spare = None;
    loop {
        // Given away when descriptors run out, so that one connection can still be taken at a time.
        spare = spare.or_else(|| listener.as_fd().try_clone_to_owned().ok());
        tokio::select! {
            biased;
            Some(ended) = places.tasks.join_next_with_id() => places.left(ended.map_or_else(|e| e.id(), |(id, ())| id)),
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    places.take(stream, routes(peer));
                    // It reads what has come already before another one can take its place.
                    yield_now().await;
                }
                Err(error) => {
                    tracing::debug!(event = "http.accept-failed", %error);
                    make_descriptor(&error, &mut places, &mut spare).await;
                }
            }
        }
    }
}

/// A connection could not be taken: without a free descriptor, frees one.
async fn make_descriptor(error: &io::Error, places: &mut ConnectionSlots, spare: &mut Option<OwnedFd>) {
    match Errno::from_io_error(error) {
        // The peer has hung up already.
        Some(Errno::CONNABORTED | Errno::INTR) => {}
        _ if places.evict() => yield_now().await,
        _ if spare.take().is_some() => {}
        // Trying again at once would only spin.
        _ => sleep(Duration::from_millis(100)).await,
    }
}

/// The connections that are served.
#[derive(Default)]
struct ConnectionSlots {
    tasks: JoinSet<()>,
    /// In the order of their arrival.
    taken: Vec<ConnectionSlot>,
}

struct ConnectionSlot {
    task: AbortHandle,
    /// The request is there: only its answer is still to be taken by the peer.
    answering: Arc<AtomicBool>,
}

impl ConnectionSlot {
    fn is_answering(&self) -> bool {
        self.answering.load(Ordering::Relaxed)
    }
}

impl ConnectionSlots {
    fn take(&mut self, stream: TcpStream, router: Router) {
        if self.taken.len() >= PLACES {
            self.evict();
        }
        // An answer may be long, and the peer need not read it.
        if self.taken.iter().filter(|place| place.is_answering()).count() > ANSWERS {
            self.evict_first(ConnectionSlot::is_answering);
        }
        let answering = Arc::new(AtomicBool::new(false));
        let task = self.tasks.spawn(serve(stream, router, Arc::clone(&answering)));
        self.taken.push(ConnectionSlot { task, answering });
    }

    /// Closes the incomplete request that has waited longest, else the answer; tells whether there was one.
    fn evict(&mut self) -> bool {
        self.evict_first(|place| !place.is_answering()) || self.evict_first(|_| true)
    }

    fn evict_first(&mut self, which: impl Fn(&ConnectionSlot) -> bool) -> bool {
        let Some(at) = self.taken.iter().position(which) else { return false };
        self.taken.remove(at).task.abort();
        true
    }

    fn left(&mut self, task: Id) {
        self.taken.retain(|place| place.task.id() != task);
    }
}

/// Serves one request, within its deadlines. Whatever goes wrong is the peer's: it hung up, was too slow, or spoke no HTTP.
async fn serve(stream: TcpStream, router: Router, answering: Arc<AtomicBool>) {
    let service = TowerToHyperService::new(router);
    let service = service_fn(|request| {
        answering.store(true, Ordering::Relaxed);
        service.call(request)
    });
    let mut http = http1::Builder::new();
    http.keep_alive(false).max_buf_size(HEAD);
    let mut connection = std::pin::pin!(http.serve_connection(TokioIo::new(stream), service));
    let done = timeout(HEAD_DEADLINE, &mut connection).await;
    if done.is_err() && answering.load(Ordering::Relaxed) {
        let _ = timeout(DEADLINE - HEAD_DEADLINE, connection).await;
    }
}

/// How long the head of a request may take.
pub(super) const HEAD_DEADLINE: Duration = Duration::from_secs(1);

/// How long one request and its answer may take.
const DEADLINE: Duration = Duration::from_secs(5);

/// How many connections are served at a time.
pub(super) const PLACES: usize = 64;

/// How many answers may wait for their peers to read on.
const ANSWERS: usize = 8;

/// How many bytes the head of a request may have: with all places taken this is 1 MiB.
pub(super) const HEAD: usize = 16 * 1024;
