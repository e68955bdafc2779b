//! One HTTP stack for every request: trust, proxies, deadlines and limits.

use std::error::Error;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use std::{fmt, io};

use aws_sdk_s3::error::ConnectorError;
use aws_smithy_http_client::Connector;
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::{self, TlsContext, TrustStore};
use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient, SharedHttpConnector, http_client_fn,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_types::body::SdkBody;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use rustls::pki_types::CertificateDer;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::AwsSettings;
use super::bounded::{BoundedBody, ELEMENTS, TooMany};
use super::failure::chain;
use crate::file;
use crate::text::quoted;
use crate::trust::trust_anchors;

pub(super) const CONNECT_DEADLINE: Duration = Duration::from_secs(3);
pub(super) const READ_DEADLINE: Duration = Duration::from_secs(5);
pub(super) const ATTEMPT_DEADLINE: Duration = Duration::from_secs(5);
pub(super) const OPERATION_DEADLINE: Duration = Duration::from_secs(15);
/// What is on this host or link answers the connect at once or never.
pub(super) const LOCAL_CONNECT_DEADLINE: Duration = Duration::from_secs(1);
pub(super) const METADATA_DEADLINE: Duration = Duration::from_secs(3);
/// No answer that this program asks for is longer: task metadata is limited to it, all others are far shorter.
pub(super) const ANSWER_LIMIT: usize = 1024 * 1024;

/// Bytes of `AWS_CA_BUNDLE`; the system's own bundle has a quarter of a megabyte.
const BUNDLE_LIMIT: usize = 4 * 1024 * 1024;

/// Trust and proxies: what connections are made with.
pub(super) struct Network {
    worker: Worker,
    tls: TlsContext,
    http_proxy: Option<ProxyConfig>,
    https_proxy: Option<ProxyConfig>,
}

impl Network {
    /// The error tells the variable that cannot be used.
    pub(super) fn new(settings: &AwsSettings) -> Result<Self, String> {
        let mut store = TrustStore::default();
        if let Some(path) = &settings.ca_bundle {
            let refused =
                |why: &str| format!("AWS_CA_BUNDLE: {} cannot be used: {why}", quoted(&path.to_string_lossy()));
            let pem = file::read(path, BUNDLE_LIMIT).map_err(|error| refused(&error.to_string()))?;
            store.add_pem_certificate(usable_certificates(&pem).map_err(refused)?);
        }
        let tls = TlsContext::builder().with_trust_store(store).build();
        let tls = tls.map_err(|error| format!("AWS_CA_BUNDLE: {error}"))?;
        let proxy = |name, url: &Option<String>| match url {
            None => Ok(None),
            Some(url) => proxy(name, url, settings.no_proxy.as_deref()).map(Some),
        };
        let http_proxy = proxy("HTTP_PROXY", &settings.http_proxy)?;
        let https_proxy = proxy("HTTPS_PROXY", &settings.https_proxy)?;
        Ok(Self { worker: Worker::default(), tls, http_proxy, https_proxy })
    }

    /// New connections, none of them open yet.
    pub(super) fn router(&self) -> Router {
        let way = |deadline, proxy: Option<&ProxyConfig>| TlsConnector {
            tls: self.tls.clone(),
            proxy: proxy.cloned(),
            deadline,
            plain: OnceLock::new(),
            secure: OnceLock::new(),
        };
        Router {
            worker: self.worker.clone(),
            ways: Arc::new(Connectors {
                direct: way(LOCAL_CONNECT_DEADLINE, None),
                http: way(CONNECT_DEADLINE, self.http_proxy.as_ref()),
                https: way(CONNECT_DEADLINE, self.https_proxy.as_ref()),
            }),
        }
    }
}

/// `no_proxy` is the proxy library's to interpret; local addresses never get that far, see [`is_local`].
fn proxy(name: &str, url: &str, no_proxy: Option<&str>) -> Result<ProxyConfig, String> {
    let url = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
    let Ok(proxy) = ProxyConfig::all(url) else {
        // Not quoted: it may hold a password.
        return Err(format!("{name}: cannot be used: it takes `http://[USER:PASSWORD@]HOST:PORT`, https:// as well"));
    };
    Ok(match no_proxy {
        Some(rules) => proxy.no_proxy(rules),
        None => proxy,
    })
}

/// The certificates of a PEM bundle that can be trust anchors, as PEM: the SDK panics at any that cannot.
fn usable_certificates(pem: &[u8]) -> Result<Vec<u8>, &'static str> {
    let block = |certificate: &CertificateDer<'_>| {
        let text = BASE64_STANDARD.encode(certificate);
        format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
    };
    let usable: String = trust_anchors(pem)?.iter().map(block).collect();
    Ok(usable.into_bytes())
}

/// Sends every request the right way: local ones directly, others by the proxy for their scheme. No answer is read
/// beyond [`ANSWER_LIMIT`].
#[derive(Clone)]
pub(super) struct Router {
    worker: Worker,
    ways: Arc<Connectors>,
}

struct Connectors {
    direct: TlsConnector,
    http: TlsConnector,
    https: TlsConnector,
}

/// Connectors of one way, each made when it is first needed: one with TLS reads and checks the system's CA certificates,
/// an eighth of the instructions of `init`.
struct TlsConnector {
    tls: TlsContext,
    proxy: Option<ProxyConfig>,
    deadline: Duration,
    plain: OnceLock<SharedHttpConnector>,
    secure: OnceLock<SharedHttpConnector>,
}

impl TlsConnector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let proxy = || self.proxy.clone().unwrap_or_else(ProxyConfig::disabled);
        let connector = || {
            let settings = HttpConnectorSettings::builder();
            let settings = settings.connect_timeout(self.deadline).read_timeout(READ_DEADLINE).build();
            Connector::builder().connector_settings(settings).proxy_config(proxy())
        };
        let made = if self.proxy.is_none() && uri(&request).scheme_str() == Some("http") {
            self.plain.get_or_init(|| SharedHttpConnector::new(connector().build_http()))
        } else {
            let ring = tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring);
            let secure = || connector().tls_provider(ring.clone()).tls_context(self.tls.clone()).build();
            self.secure.get_or_init(|| SharedHttpConnector::new(secure()))
        };
        made.call(request)
    }
}

impl Router {
    pub(super) fn client(&self) -> SharedHttpClient {
        let connector = SharedHttpConnector::new(self.clone());
        http_client_fn(move |_, _| connector.clone())
    }

    /// Sends a request past all proxies, whatever its host is called.
    pub(super) fn directly(&self, request: HttpRequest) -> HttpConnectorFuture {
        self.send(request, |ways| &ways.direct)
    }

    fn send(&self, request: HttpRequest, way: fn(&Connectors) -> &TlsConnector) -> HttpConnectorFuture {
        let ways = Arc::clone(&self.ways);
        self.worker.send(async move { limited(way(&ways).call(request)).await })
    }
}

fn uri(request: &HttpRequest) -> hyper::Uri {
    request.uri().parse().unwrap_or_default()
}

/// The thread on which connections are read. The library reads a head as long as something comes, an endless one too;
/// meanwhile everything else goes on, `/health` first.
#[derive(Debug, Clone, Default)]
struct Worker(Arc<OnceLock<Option<PendingRequest>>>);

#[derive(Debug)]
struct PendingRequest {
    runtime: Handle,
    /// The thread ends when it is dropped.
    _stop: oneshot::Sender<()>,
}

impl Worker {
    fn send(
        &self,
        call: impl Future<Output = Result<HttpResponse, ConnectorError>> + Send + 'static,
    ) -> HttpConnectorFuture {
        let worker = self.clone();
        HttpConnectorFuture::new(async move {
            let runtime = worker.0.get_or_init(|| start().ok()).as_ref().map(|running| running.runtime.clone());
            let mut calls = JoinSet::new();
            // Without a thread of its own it is sent as everything else is. Dropped with this future, it is aborted.
            calls.spawn_on(call, &runtime.unwrap_or_else(Handle::current));
            match calls.join_next().await {
                Some(Ok(outcome)) => outcome,
                Some(Err(error)) => Err(ConnectorError::other(error.into(), None)),
                None => Err(ConnectorError::other("the request was not sent".into(), None)),
            }
        })
    }
}

fn start() -> io::Result<PendingRequest> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (handle, (stop, stopped)) = (runtime.handle().clone(), oneshot::channel());
    std::thread::Builder::new().name("aws".into()).spawn(move || runtime.block_on(stopped))?;
    Ok(PendingRequest { runtime: handle, _stop: stop })
}

impl HttpConnector for Router {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let uri = uri(&request);
        let way: fn(&Connectors) -> &TlsConnector = if uri.host().is_some_and(is_local) {
            |ways| &ways.direct
        } else if uri.scheme_str() == Some("http") {
            |ways| &ways.http
        } else {
            |ways| &ways.https
        };
        let host = uri.authority().map(ToString::to_string).unwrap_or_default();
        let call = self.send(request, way);
        HttpConnectorFuture::new(async move { call.await.map_err(|error| unanswered(host, error)) })
    }
}

/// A proxy's address may hold a password.
impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Router")
    }
}

/// Says whom a request did not reach: the SDK's own error names no host.
fn unanswered(host: String, error: ConnectorError) -> ConnectorError {
    let (is_timeout, is_io, is_user, other) = (error.is_timeout(), error.is_io(), error.is_user(), error.as_other());
    let named = |error| Box::new(NoAnswer { host, error });
    match other {
        // What the SDK tries again it tells by the kind.
        _ if is_timeout => ConnectorError::timeout(named(error)),
        _ if is_io => ConnectorError::io(named(error)),
        _ if is_user => ConnectorError::user(named(error)),
        kind => ConnectorError::other(named(error), kind),
    }
}

#[derive(Debug)]
struct NoAnswer {
    host: String,
    error: ConnectorError,
}

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no answer from {}", self.host)
    }
}

impl Error for NoAnswer {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.error.source()
    }
}

/// Whether a host is this one or on its link, as the endpoints for metadata and credentials are: 169.254.170.2,
/// 169.254.170.23, 169.254.169.254, fd00:ec2::23, fd00:ec2::254. A proxy could not reach them and would see keys.
pub(super) fn is_local(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    match host.parse::<IpAddr>().map(|address| address.to_canonical()) {
        Ok(IpAddr::V4(address)) => address.is_loopback() || address.is_link_local(),
        Ok(IpAddr::V6(address)) => {
            address.is_loopback() || address.is_unicast_link_local() || address.segments()[..2] == [0xfd00, 0x0ec2]
        }
        Err(_) => host.eq_ignore_ascii_case("localhost"),
    }
}

async fn limited(call: HttpConnectorFuture) -> Result<HttpResponse, ConnectorError> {
    Ok(call.await?.map(|body| SdkBody::from_body_1_x(Limited::new(BoundedBody::new(body), ANSWER_LIMIT))))
}

/// An HTTP exchange without a whole answer.
pub(super) enum Unanswered {
    Lost(String),
    /// It has more octets or elements than any that is asked for; what it has.
    TooLong(String),
}

impl From<ConnectorError> for Unanswered {
    fn from(error: ConnectorError) -> Self {
        Self::Lost(chain(&error))
    }
}

pub(super) async fn answer(response: HttpResponse) -> Result<(u16, Vec<u8>), Unanswered> {
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.map_err(|error| {
        let mut cause: Option<&(dyn Error + 'static)> = Some(error.as_ref());
        while let Some(error) = cause {
            if error.is::<LengthLimitError>() {
                return Unanswered::TooLong(format!("more than {ANSWER_LIMIT} bytes"));
            }
            if error.is::<TooMany>() {
                return Unanswered::TooLong(format!("more than {ELEMENTS} elements"));
            }
            cause = error.source();
        }
        Unanswered::Lost("the answer broke off".into())
    })?;
    Ok((status, body.to_bytes().to_vec()))
}
