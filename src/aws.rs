//! What `task`, `credspec` and `secret` share of AWS: one HTTP stack, credentials, regions, and what a failed call
//! may say.
//!
//! The AWS SDK does S3, Secrets Manager and credentials. `ecs:DescribeTaskDefinition` and `ssm:GetParameters` are
//! signed requests made here, since `aws-sdk-ecs` and `aws-sdk-ssm` would add about 168 s of build each (two busy
//! cores) and their bytes for one call. Where they go: `AWS_ENDPOINT_URL_..`, else `https://SERVICE.REGION.SUFFIX`.
//! Everything goes through one `Router`: one TLS library (rustls with ring), one set of roots, deadlines, proxies
//! and limits.

mod endpoint;

pub use endpoint::LONGEST_CALL;

use std::collections::HashMap;
use std::error::Error;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use aws_config::SdkConfig;
use aws_config::timeout::TimeoutConfig;
use aws_credential_types::Credentials;
use aws_credential_types::provider::ProvideCredentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::config::Region;
use aws_sdk_s3::error::{ConnectorError, ProvideErrorMetadata, SdkError};
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings};
use aws_sigv4::sign::v4;
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::{self, TlsContext, TrustStore};
use aws_smithy_http_client::{Connector, ConnectorBuilder};
use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient, SharedHttpConnector, http_client_fn,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_types::body::SdkBody;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use rustls::pki_types::CertificateDer;
use tokio::sync::OnceCell;
use tokio::time::timeout;
use tracing::{Level, Metadata};

use crate::arn::{Arn, dns_suffix, is_region};
use crate::clock;
use crate::fault::{Code, Fault};
use crate::trust::trust_anchors;

/// What the environment says about AWS. Credentials are not here: the SDK's own chain finds them (environment, web
/// identity, profile files, the container's endpoint by relative or full URI, the instance's role).
#[derive(Clone, Default, PartialEq, Eq)]
pub struct AwsSettings {
    /// `AWS_REGION`, else `AWS_DEFAULT_REGION`.
    pub region: Option<String>,
    /// `AWS_CA_BUNDLE`: PEM certificates trusted besides the system's (which `SSL_CERT_FILE` moves).
    pub ca_bundle: Option<PathBuf>,
    /// `HTTP_PROXY`, `http_proxy`, else `ALL_PROXY`, `all_proxy`: for plain HTTP, that is for endpoint overrides.
    pub http_proxy: Option<String>,
    /// `HTTPS_PROXY`, `https_proxy`, else `ALL_PROXY`, `all_proxy`.
    pub https_proxy: Option<String>,
    /// `NO_PROXY`, `no_proxy`: names, domains, addresses and networks that are reached directly.
    pub no_proxy: Option<String>,
    /// `AWS_ENDPOINT_URL_S3`, else `AWS_ENDPOINT_URL`; with one S3 is addressed in path style.
    pub endpoint_s3: Option<String>,
    /// `AWS_ENDPOINT_URL_SECRETS_MANAGER`, else `AWS_ENDPOINT_URL`.
    pub endpoint_secrets_manager: Option<String>,
    /// `AWS_ENDPOINT_URL_ECS`, else `AWS_ENDPOINT_URL`, else `https://ecs.REGION.SUFFIX` of the task's partition.
    pub endpoint_ecs: Option<String>,
    /// `AWS_ENDPOINT_URL_SSM`, else `AWS_ENDPOINT_URL`, else `https://ssm.REGION.SUFFIX` of the parameter's partition.
    pub endpoint_ssm: Option<String>,
    /// `ECS_CONTAINER_METADATA_URI_V4`: set by the ECS agent in every container of a task.
    pub metadata_uri: Option<String>,
}

impl AwsSettings {
    /// Reads the variables through `lookup`; an empty variable is an unset one.
    /// `AWS_IGNORE_CONFIGURED_ENDPOINT_URLS=true` leaves the endpoints as AWS has them.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Self {
        let first = |names: &[&str]| names.iter().find_map(|name| lookup(name).filter(|value| !value.is_empty()));
        let ignore = first(&["AWS_IGNORE_CONFIGURED_ENDPOINT_URLS"]).is_some_and(|v| v.eq_ignore_ascii_case("true"));
        let endpoint = |name| if ignore { None } else { first(&[name, "AWS_ENDPOINT_URL"]) };
        Self {
            region: first(&["AWS_REGION", "AWS_DEFAULT_REGION"]),
            ca_bundle: first(&["AWS_CA_BUNDLE"]).map(PathBuf::from),
            http_proxy: first(&["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"]),
            https_proxy: first(&["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"]),
            no_proxy: first(&["NO_PROXY", "no_proxy"]),
            endpoint_s3: endpoint("AWS_ENDPOINT_URL_S3"),
            endpoint_secrets_manager: endpoint("AWS_ENDPOINT_URL_SECRETS_MANAGER"),
            endpoint_ecs: endpoint("AWS_ENDPOINT_URL_ECS"),
            endpoint_ssm: endpoint("AWS_ENDPOINT_URL_SSM"),
            metadata_uri: first(&["ECS_CONTAINER_METADATA_URI_V4"]),
        }
    }
}

impl AwsSettings {
    /// What of it cannot be used: region, CA bundle, proxies.
    pub fn problems(&self) -> Vec<String> {
        let region = self.region.as_deref().filter(|region| !is_region(region));
        let region = region.map(|region| format!("AWS_REGION: `{}` is no region's name", region.escape_debug()));
        region.into_iter().chain(Network::new(self).err()).collect()
    }
}

impl fmt::Debug for AwsSettings {
    /// Without the proxies, whose URLs may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AwsSettings")
            .field("region", &self.region)
            .field("ca_bundle", &self.ca_bundle)
            .field("metadata_uri", &self.metadata_uri)
            .finish_non_exhaustive()
    }
}

/// The way to AWS, shared by all leases. Nothing is dialled or loaded before the first call.
pub struct Aws {
    settings: AwsSettings,
    network: Network,
    router: OnceLock<Arc<Router>>,
    config: OnceCell<SdkConfig>,
    task_region: OnceCell<String>,
    /// Where S3 said that a bucket lies, if not where it was looked for.
    buckets: Mutex<HashMap<String, String>>,
}

impl Aws {
    /// The way that the settings describe; `config-invalid` if it cannot be gone.
    pub fn new(settings: AwsSettings) -> Result<Self, Fault> {
        let network = Network::new(&settings)
            .map_err(|why| Fault::new(Code::ConfigInvalid, "AWS cannot be reached as configured").because(why))?;
        Ok(Self {
            settings,
            network,
            router: OnceLock::new(),
            config: OnceCell::new(),
            task_region: OnceCell::new(),
            buckets: Mutex::default(),
        })
    }

    /// The region of what names none itself: `AWS_REGION`, else the task's.
    ///
    /// The SDK would ask the instance's metadata as well, a call that hangs where that address is a black hole and
    /// that answers with the instance's region to a container that has no business there.
    pub async fn region(&self) -> Result<String, Fault> {
        if let Some(region) = &self.settings.region {
            return Ok(region.clone());
        }
        if self.settings.metadata_uri.is_none() {
            let fault = Fault::new(Code::CredSpecRegion, "the AWS region is unknown");
            return Err(fault.because("AWS_REGION is not set and this is no ECS task"));
        }
        let ask = async || -> Result<String, Fault> {
            let document = self.metadata("/task").await?;
            let task: serde_json::Value = serde_json::from_slice(&document).unwrap_or_default();
            let arn = task["TaskARN"].as_str().and_then(|arn| Arn::parse(arn).ok());
            arn.map(|arn| arn.region.to_owned()).filter(|region| !region.is_empty()).ok_or_else(|| {
                let fault = Fault::new(Code::CredSpecRegion, "the AWS region is unknown");
                fault.because("AWS_REGION is not set and the task metadata has no TaskARN")
            })
        };
        self.task_region.get_or_try_init(ask).await.cloned()
    }

    /// One document of the ECS agent: `path` is empty for the own container's, `/task` for the task's.
    pub(crate) async fn metadata(&self, path: &str) -> Result<Vec<u8>, Fault> {
        let Some(base) = &self.settings.metadata_uri else {
            let fault = Fault::new(Code::ConfigNoCredSpec, "no CredSpec is configured and this is no ECS task");
            return Err(fault.because("ECS_CONTAINER_METADATA_URI_V4 is not set"));
        };
        let uri = format!("{}{path}", base.trim_end_matches('/'));
        let unreachable = || Fault::new(Code::TaskMetadataUnreachable, format!("no answer from {uri}"));
        let request = HttpRequest::get(&uri).map_err(|error| unreachable().caused_by(&error))?;
        // Whatever its host is called: the agent is never behind a proxy.
        let call = async { answer(limited(self.router().direct.call(request)).await?).await };
        match timeout(METADATA_DEADLINE, call).await {
            Err(_) => Err(unreachable().because(format!("nothing came within {METADATA_DEADLINE:?}"))),
            Ok(Err(Unanswered::TooLong)) => {
                let what = format!("{uri} answered with more than {ANSWER_LIMIT} bytes");
                Err(Fault::new(Code::TaskMetadataMalformed, what))
            }
            Ok(Err(Unanswered::Lost(why))) => Err(unreachable().because(why)),
            Ok(Ok((200, body))) => Ok(body),
            Ok(Ok((status, _))) => Err(unreachable().because(format!("it answered with status {status}"))),
        }
    }

    /// A client for `bucket` of S3 in `region`.
    pub(crate) async fn s3(&self, bucket: &str, region: &str) -> aws_sdk_s3::Client {
        let region = Region::new(region.to_owned());
        let mut config = aws_sdk_s3::config::Builder::from(self.config().await).region(region);
        if let Some(endpoint) = &self.settings.endpoint_s3 {
            // An access point has a host name of its own, never a path.
            config = config.endpoint_url(endpoint).force_path_style(!bucket.starts_with("arn:"));
        }
        aws_sdk_s3::Client::from_conf(config.build())
    }

    /// A client for Secrets Manager in `region`, with connections of its own: drop it, and the buffers that carried
    /// the secret are freed, which wipes them.
    pub(crate) async fn secrets_manager(&self, region: &str) -> aws_sdk_secretsmanager::Client {
        let region = Region::new(region.to_owned());
        let client = self.network.router().client();
        let builder = aws_sdk_secretsmanager::config::Builder::from(self.config().await);
        let mut config = builder.region(region).http_client(client);
        if let Some(endpoint) = &self.settings.endpoint_secrets_manager {
            config = config.endpoint_url(endpoint);
        }
        aws_sdk_secretsmanager::Client::from_conf(config.build())
    }

    /// Calls `action` of a service (JSON 1.1 under SigV4) and returns the body of its answer.
    pub(crate) async fn call(
        &self,
        service: Service,
        action: &str,
        body: String,
        at: Place<'_>,
    ) -> Result<Vec<u8>, Failure> {
        let call = async {
            let provider = self.config().await.credentials_provider();
            let provider = provider.ok_or_else(|| Failure::Credentials("no provider".into()))?;
            let credentials = provider.provide_credentials().await.map_err(|error| Failure::no_credentials(&error))?;
            let request = self.request(service, action, body, at, credentials).map_err(Failure::lost)?;
            answer(self.router().call(request).await?).await.map_err(Failure::from)
        };
        let lost = |_| Failure::Unreachable(format!("nothing came within {OPERATION_DEADLINE:?}"));
        let (status, body) = timeout(OPERATION_DEADLINE, call).await.map_err(lost)??;
        if status == 200 {
            return Ok(body);
        }
        let document: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        // The name may come with its name space before a `#` (JSON 1.1 protocol of Smithy, "Operation error").
        let name = document["__type"].as_str().map(|name| name.rsplit('#').next().unwrap_or(name));
        let message = document["message"].as_str().or(document["Message"].as_str());
        Err(Failure::Refused(Refusal::new(status, name, message, None)))
    }

    fn request(
        &self,
        service: Service,
        action: &str,
        body: String,
        at: Place<'_>,
        credentials: Credentials,
    ) -> Result<HttpRequest, Box<dyn Error + Send + Sync>> {
        let (name, target, endpoint) = match service {
            Service::Ecs => ("ecs", "AmazonEC2ContainerServiceV20141113", &self.settings.endpoint_ecs),
            Service::Ssm => ("ssm", "AmazonSSM", &self.settings.endpoint_ssm),
        };
        let uri = match endpoint {
            Some(endpoint) => format!("{}/", endpoint.trim_end_matches('/')),
            None => format!("https://{name}.{}.{}/", at.region, dns_suffix(at.partition)),
        };
        let identity = credentials.into();
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(at.region)
            .name(name)
            .time(clock::now())
            .settings(SigningSettings::default())
            .build()?
            .into();
        let headers =
            [("content-type", "application/x-amz-json-1.1".to_owned()), ("x-amz-target", format!("{target}.{action}"))];
        let signed = headers.iter().map(|(name, value)| (*name, value.as_str()));
        let signable = SignableRequest::new("POST", &uri, signed, SignableBody::Bytes(body.as_bytes()))?;
        let (instructions, _) = aws_sigv4::http_request::sign(signable, &params)?.into_parts();
        let mut request = HttpRequest::new(SdkBody::from(body));
        request.set_method("POST")?;
        request.set_uri(uri)?;
        for (name, value) in headers {
            request.headers_mut().try_insert(name, value)?;
        }
        for header in instructions.into_parts().0 {
            request.headers_mut().try_insert(header.name().to_owned(), header.value().to_owned())?;
        }
        Ok(request)
    }

    /// The region that S3 named for the bucket.
    pub(crate) fn bucket_region(&self, bucket: &str) -> Option<String> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner).get(bucket).cloned()
    }

    /// Remembers the region that S3 named for the bucket.
    pub(crate) fn remember_bucket(&self, bucket: &str, region: &str) {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        buckets.insert(bucket.to_owned(), region.to_owned());
    }

    async fn config(&self) -> &SdkConfig {
        let load = async || {
            let timeouts = TimeoutConfig::builder()
                .connect_timeout(CONNECT_DEADLINE)
                .read_timeout(READ_DEADLINE)
                .operation_attempt_timeout(ATTEMPT_DEADLINE)
                .operation_timeout(OPERATION_DEADLINE)
                .build();
            // Of use to STS only. Given even if unknown, so that the SDK does not go and ask the instance.
            let region = self.region().await.ok().map(Region::new);
            let loader = aws_config::defaults(aws_config::BehaviorVersion::latest())
                .http_client(self.router().client())
                .timeout_config(timeouts)
                .region(region);
            #[cfg(test)]
            let loader = loader.credentials_provider(Credentials::for_tests());
            loader.load().await
        };
        self.config.get_or_init(load).await
    }

    fn router(&self) -> Arc<Router> {
        self.router.get_or_init(|| Arc::new(self.network.router())).clone()
    }
}

impl fmt::Debug for Aws {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Aws").field(&self.settings).finish()
    }
}

/// A service whose calls are made here.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Service {
    Ecs,
    Ssm,
}

/// Where an API is called.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    /// `eu-central-1`.
    pub(crate) region: &'a str,
    /// `aws-cn`.
    pub(crate) partition: &'a str,
}

/// Whether a log may show a record, whatever `GMSA_LOG` says: a `filter_fn` for every layer that writes one.
pub fn may_log(metadata: &Metadata<'_>) -> bool {
    *metadata.level() <= Level::WARN || !QUIET_TARGETS.iter().any(|target| metadata.target().starts_with(target))
}

/// Targets (prefixes) whose records below WARN must never reach a log; see [`may_log`].
///
/// At TRACE `aws_smithy_runtime::client::orchestrator` logs errors with the text of the answer they came from, and,
/// if `LOG_SENSITIVE_BODIES=true` is set, every answer whole: the secret, and the role's keys. The others speak of
/// frames and headers.
pub const QUIET_TARGETS: [&str; 5] = ["aws_", "h2", "hyper", "rustls", "tower"];

const CONNECT_DEADLINE: Duration = Duration::from_secs(3);
const READ_DEADLINE: Duration = Duration::from_secs(5);
const ATTEMPT_DEADLINE: Duration = Duration::from_secs(5);
const OPERATION_DEADLINE: Duration = Duration::from_secs(15);
/// What is on this host or link answers the connect at once or never.
const LOCAL_CONNECT_DEADLINE: Duration = Duration::from_secs(1);
const METADATA_DEADLINE: Duration = Duration::from_secs(3);
/// No answer that this program asks for is longer: task metadata is limited to it, all others are far shorter.
const ANSWER_LIMIT: usize = 1024 * 1024;

/// Trust and proxies: what connections are made with.
struct Network {
    tls: TlsContext,
    http_proxy: Option<ProxyConfig>,
    https_proxy: Option<ProxyConfig>,
}

impl Network {
    /// The error tells the variable that cannot be used.
    fn new(settings: &AwsSettings) -> Result<Self, String> {
        let mut store = TrustStore::default();
        if let Some(path) = &settings.ca_bundle {
            let refused = |why: &str| format!("AWS_CA_BUNDLE: `{}` cannot be used: {why}", path.display());
            let pem = std::fs::read(path).map_err(|error| refused(&error.to_string()))?;
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
        Ok(Self { tls, http_proxy, https_proxy })
    }

    /// New connections, none of them open yet.
    fn router(&self) -> Router {
        let connector = |connect_deadline| -> ConnectorBuilder<_> {
            let settings = HttpConnectorSettings::builder();
            let settings = settings.connect_timeout(connect_deadline).read_timeout(READ_DEADLINE).build();
            let ring = tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring);
            Connector::builder().connector_settings(settings).tls_provider(ring).tls_context(self.tls.clone())
        };
        let proxied = |proxy: &Option<ProxyConfig>| {
            let proxy = proxy.clone().unwrap_or_else(ProxyConfig::disabled);
            SharedHttpConnector::new(connector(CONNECT_DEADLINE).proxy_config(proxy).build())
        };
        Router {
            direct: SharedHttpConnector::new(connector(LOCAL_CONNECT_DEADLINE).build()),
            http: proxied(&self.http_proxy),
            https: proxied(&self.https_proxy),
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
#[derive(Debug, Clone)]
struct Router {
    direct: SharedHttpConnector,
    http: SharedHttpConnector,
    https: SharedHttpConnector,
}

impl Router {
    fn client(&self) -> SharedHttpClient {
        let connector = SharedHttpConnector::new(self.clone());
        http_client_fn(move |_, _| connector.clone())
    }
}

impl HttpConnector for Router {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let uri = request.uri().parse::<hyper::Uri>().unwrap_or_default();
        let connector = if uri.host().is_some_and(is_local) {
            &self.direct
        } else if uri.scheme_str() == Some("http") {
            &self.http
        } else {
            &self.https
        };
        let host = uri.authority().map(ToString::to_string).unwrap_or_default();
        let call = connector.call(request);
        HttpConnectorFuture::new(async move { limited(call).await.map_err(|error| unanswered(host, error)) })
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
fn is_local(host: &str) -> bool {
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
    Ok(call.await?.map(|body| SdkBody::from_body_1_x(Limited::new(body, ANSWER_LIMIT))))
}

/// An HTTP exchange without a whole answer.
enum Unanswered {
    Lost(String),
    TooLong,
}

impl From<ConnectorError> for Unanswered {
    fn from(error: ConnectorError) -> Self {
        Self::Lost(chain(&error))
    }
}

async fn answer(response: HttpResponse) -> Result<(u16, Vec<u8>), Unanswered> {
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.map_err(|error| {
        let mut cause: Option<&(dyn Error + 'static)> = Some(error.as_ref());
        while let Some(error) = cause {
            if error.is::<LengthLimitError>() {
                return Unanswered::TooLong;
            }
            cause = error.source();
        }
        Unanswered::Lost("the answer broke off".into())
    })?;
    Ok((status, body.to_bytes().to_vec()))
}

/// Why a call to AWS failed. Of an answer it holds nothing but words this file knows: no body, no message, so that
/// a secret cannot be in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// There are no AWS credentials; why.
    Credentials(String),
    /// No whole answer came; why.
    Unreachable(String),
    /// The service said no.
    Refused(Refusal),
    /// What answered does not speak as the service does; its status, and the region it named.
    Strange(u16, Option<String>),
}

/// A service's no.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    /// The error's name, if it is one of [`ERRORS`].
    pub(crate) name: Option<&'static str>,
    pub(crate) kind: Kind,
    /// Who may not do what, if the service told.
    denial: Option<String>,
    /// `x-amz-bucket-region`.
    region: Option<String>,
}

/// What a refusal means to the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    NotFound,
    Denied,
    /// The credentials themselves are no good.
    Credentials,
    /// There, but not in a state to be used.
    Unusable,
    /// It may work the next time.
    Transient,
}

/// The codes of a step for what can happen to any call.
pub(crate) struct Codes {
    pub(crate) credentials: Code,
    pub(crate) denied: Code,
    pub(crate) unreachable: Code,
    pub(crate) not_found: Code,
    pub(crate) unusable: Code,
}

impl Failure {
    /// Reads an error of the SDK.
    pub(crate) fn of<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> Self {
        match error {
            SdkError::ConstructionFailure(_) => Self::Unreachable("the request could not be built".into()),
            SdkError::TimeoutError(_) => Self::Unreachable("nothing came in time".into()),
            SdkError::DispatchFailure(failure) => match failure.as_connector_error() {
                Some(error) => credentials_error(error).unwrap_or_else(|| Self::Unreachable(chain(error))),
                None => Self::Unreachable("the request was not sent".into()),
            },
            SdkError::ServiceError(service) => {
                let (answer, error) = (service.raw(), service.err());
                match error.code() {
                    Some(name) => {
                        let region = bucket_region(answer);
                        let refusal = Refusal::new(answer.status().as_u16(), Some(name), error.message(), region);
                        Self::Refused(refusal)
                    }
                    None => Self::without_words(answer),
                }
            }
            SdkError::ResponseError(response) => Self::without_words(response.raw()),
            _ => Self::Unreachable("the call failed in a way this version does not know".into()),
        }
    }

    /// An answer that says nothing, as S3's to a HEAD or a proxy's page.
    fn without_words(answer: &HttpResponse) -> Self {
        match answer.status().as_u16() {
            status @ (403 | 404 | 429 | 500..) => {
                Self::Refused(Refusal::new(status, None, None, bucket_region(answer)))
            }
            status => Self::Strange(status, bucket_region(answer)),
        }
    }

    fn no_credentials(error: &CredentialsError) -> Self {
        Self::Credentials(match error {
            // The SDK's own list of what it tried has a line for each.
            CredentialsError::CredentialsNotLoaded(_) => {
                "neither environment, web identity, container endpoint nor instance role offers any".into()
            }
            error => chain(error),
        })
    }

    fn lost(error: Box<dyn Error + Send + Sync>) -> Self {
        Self::Unreachable(chain(error.as_ref()))
    }

    /// The region in which S3 says the bucket lies, if it is another than the one asked.
    pub(crate) fn redirect(&self, asked: &str) -> Option<&str> {
        let region = match self {
            Self::Refused(refusal) => refusal.region.as_deref(),
            Self::Strange(_, region) => region.as_deref(),
            _ => None,
        };
        region.filter(|region| *region != asked)
    }

    /// The fault of a step whose `what` failed.
    pub(crate) fn fault(&self, what: String, codes: &Codes) -> Fault {
        let code = match self {
            Self::Credentials(_) => codes.credentials,
            Self::Unreachable(_) | Self::Strange(..) => codes.unreachable,
            Self::Refused(refusal) => match refusal.kind {
                Kind::NotFound => codes.not_found,
                Kind::Denied => codes.denied,
                Kind::Credentials => codes.credentials,
                Kind::Unusable => codes.unusable,
                Kind::Transient => codes.unreachable,
            },
        };
        Fault::new(code, what).because(self)
    }
}

impl From<ConnectorError> for Failure {
    fn from(error: ConnectorError) -> Self {
        Self::Unreachable(chain(&error))
    }
}

impl From<Unanswered> for Failure {
    fn from(unanswered: Unanswered) -> Self {
        match unanswered {
            Unanswered::Lost(why) => Self::Unreachable(why),
            Unanswered::TooLong => Self::Unreachable(format!("the answer is longer than {ANSWER_LIMIT} bytes")),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Credentials(why) => write!(f, "there are no AWS credentials: {why}"),
            Self::Unreachable(why) => f.write_str(why),
            Self::Strange(status, _) => {
                write!(f, "the answer with status {status} is not the service's; a proxy may be in between")
            }
            Self::Refused(refusal) => {
                write!(f, "{}, status {}", refusal.name.unwrap_or("an error without a known name"), refusal.status)?;
                refusal.denial.as_ref().map_or(Ok(()), |denial| write!(f, ": {denial}"))
            }
        }
    }
}

impl Refusal {
    fn new(status: u16, name: Option<&str>, message: Option<&str>, region: Option<String>) -> Self {
        let known = ERRORS.iter().find(|(known, _)| Some(*known) == name);
        let kind = known.map_or_else(|| Kind::of_status(status), |(_, kind)| *kind);
        let denial = if kind == Kind::Denied { message.and_then(denial) } else { None };
        Self { status, name: known.map(|(name, _)| *name), kind, denial, region }
    }
}

impl Kind {
    fn of_status(status: u16) -> Self {
        match status {
            403 => Self::Denied,
            404 => Self::NotFound,
            // An unknown no may be one of a proxy, or new: trying again is the lesser harm.
            _ => Self::Transient,
        }
    }
}

/// The errors of S3, Secrets Manager, SSM, ECS and of signing that are told by name.
const ERRORS: &[(&str, Kind)] = &[
    ("NoSuchBucket", Kind::NotFound),
    ("NoSuchKey", Kind::NotFound),
    ("ResourceNotFoundException", Kind::NotFound),
    ("AccessDenied", Kind::Denied),
    ("AccessDeniedException", Kind::Denied),
    ("AllAccessDisabled", Kind::Denied),
    ("AccountProblem", Kind::Denied),
    ("DecryptionFailure", Kind::Denied),
    ("NotAuthorized", Kind::Denied),
    ("UnauthorizedOperation", Kind::Denied),
    ("ExpiredToken", Kind::Credentials),
    ("ExpiredTokenException", Kind::Credentials),
    ("IncompleteSignature", Kind::Credentials),
    ("InvalidAccessKeyId", Kind::Credentials),
    ("InvalidClientTokenId", Kind::Credentials),
    ("InvalidSignatureException", Kind::Credentials),
    ("InvalidToken", Kind::Credentials),
    ("MissingAuthenticationToken", Kind::Credentials),
    ("MissingAuthenticationTokenException", Kind::Credentials),
    ("RequestExpired", Kind::Credentials),
    ("RequestTimeTooSkewed", Kind::Credentials),
    ("SignatureDoesNotMatch", Kind::Credentials),
    ("TokenRefreshRequired", Kind::Credentials),
    ("UnrecognizedClientException", Kind::Credentials),
    ("ClientException", Kind::Unusable),
    ("InvalidKeyId", Kind::Denied),
    ("InvalidObjectState", Kind::Unusable),
    ("InvalidParameterException", Kind::Unusable),
    ("InvalidRequestException", Kind::Unusable),
    ("ValidationException", Kind::Unusable),
    ("AuthorizationHeaderMalformed", Kind::Transient),
    ("IllegalLocationConstraintException", Kind::Transient),
    ("InternalError", Kind::Transient),
    ("InternalServiceError", Kind::Transient),
    ("InternalServiceErrorException", Kind::Transient),
    ("PermanentRedirect", Kind::Transient),
    ("RequestTimeout", Kind::Transient),
    ("ServerException", Kind::Transient),
    ("ServiceUnavailable", Kind::Transient),
    ("SlowDown", Kind::Transient),
    ("TemporaryRedirect", Kind::Transient),
    ("ThrottlingException", Kind::Transient),
];

/// Who may not do what, and by which policy, out of IAM's sentence: "User: ARN is not authorized to perform:
/// ACTION on resource: ARN because no identity-based policy allows the ACTION action". Only an ARN of a principal and
/// set phrases are taken over.
fn denial(message: &str) -> Option<String> {
    let word_after = |mark: &str| message.split_once(mark).and_then(|(_, rest)| rest.split_whitespace().next());
    let who = word_after("User: ").filter(|who| {
        let plain = who.bytes().all(|b| b.is_ascii_alphanumeric() || b":/+=,.@_-".contains(&b));
        plain && who.len() <= 300 && Arn::parse(who).is_ok_and(|arn| matches!(arn.service, "sts" | "iam"))
    });
    let action = word_after("perform: ").and_then(|said| ACTIONS.iter().find(|action| said.starts_with(**action)));
    let kms = || message.to_ascii_lowercase().contains("kms").then_some(&"kms:Decrypt");
    let by = POLICIES.iter().find(|policy| message.contains(**policy));
    let told = match (who, action.or_else(kms)) {
        (Some(who), Some(action)) => format!("{who} may not {action}"),
        (Some(who), None) => format!("{who} may not"),
        (None, Some(action)) => format!("{action} is not allowed"),
        (None, None) => return None,
    };
    Some(by.map_or_else(|| told.clone(), |by| format!("{told} ({by})")))
}

/// All that a task role may need.
const ACTIONS: &[&str] = &[
    "s3:GetObject",
    "s3:ListBucket",
    "ssm:GetParameters",
    "secretsmanager:GetSecretValue",
    "kms:Decrypt",
    "ecs:DescribeTaskDefinition",
];

/// Longer phrases first: the first one found is told.
const POLICIES: &[&str] = &[
    "explicit deny in a service control policy",
    "explicit deny in a resource control policy",
    "explicit deny in a VPC endpoint policy",
    "explicit deny in a permissions boundary",
    "explicit deny in a session policy",
    "explicit deny in a resource-based policy",
    "explicit deny in an identity-based policy",
    "explicit deny",
    "no service control policy allows",
    "no VPC endpoint policy allows",
    "no permissions boundary allows",
    "no session policy allows",
    "no resource-based policy allows",
    "no identity-based policy allows",
];

fn bucket_region(answer: &HttpResponse) -> Option<String> {
    answer.headers().get("x-amz-bucket-region").filter(|region| is_region(region)).map(str::to_owned)
}

/// The failure of the credentials' provider, where that is what an error is about.
fn credentials_error(error: &ConnectorError) -> Option<Failure> {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<CredentialsError>() {
            return Some(Failure::no_credentials(error));
        }
        cause = error.source();
    }
    None
}

/// An error with its sources, outermost first. Never for one that holds an answer.
fn chain(error: &(dyn Error + 'static)) -> String {
    Fault::new(Code::InternalBug, "").caused_by(error).why.unwrap_or_default()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    use std::io::{Read, Write};
    use std::net::TcpListener;

    /// An HTTP server on loopback that gives each request the next answer, and its address.
    pub(crate) fn server(answers: Vec<Vec<u8>>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = Vec::new();
                let mut part = [0; 4096];
                // The requests here are short; their bodies come with their heads or right after.
                while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                    let count = stream.read(&mut part).unwrap();
                    if count == 0 {
                        break;
                    }
                    request.extend_from_slice(&part[..count]);
                }
                let _ = stream.set_read_timeout(Some(Duration::from_millis(20)));
                let _ = stream.read(&mut part);
                let _ = stream.write_all(&answer);
            }
        });
        url
    }

    /// An HTTP/1.1 answer.
    pub(crate) fn http(status: u16, headers: &str, body: &[u8]) -> Vec<u8> {
        let length = body.len();
        let head = format!("HTTP/1.1 {status} Said\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}\r\n");
        [head.as_bytes(), body].concat()
    }

    /// Everything at `url`, in eu-central-1, with the SDK's test credentials.
    pub(crate) fn aws_at(url: &str) -> Aws {
        let url = Some(url.to_owned());
        Aws::new(AwsSettings {
            region: Some("eu-central-1".into()),
            endpoint_s3: url.clone(),
            endpoint_secrets_manager: url.clone(),
            endpoint_ecs: url.clone(),
            endpoint_ssm: url.clone(),
            metadata_uri: url,
            ..AwsSettings::default()
        })
        .unwrap()
    }

    #[test]
    fn an_empty_variable_is_unset_and_the_special_endpoint_wins() {
        let settings = AwsSettings::from_lookup(|name| {
            let value = match name {
                "AWS_REGION" => "",
                "AWS_DEFAULT_REGION" => "eu-west-1",
                "AWS_ENDPOINT_URL" => "http://all",
                "AWS_ENDPOINT_URL_S3" => "http://s3",
                "all_proxy" => "http://user:pa55word@proxy:3128",
                "https_proxy" => "http://other:3128",
                _ => return None,
            };
            Some(value.to_owned())
        });
        assert_eq!(settings.region.as_deref(), Some("eu-west-1"));
        assert_eq!(settings.endpoint_s3.as_deref(), Some("http://s3"));
        assert_eq!(settings.endpoint_ecs.as_deref(), Some("http://all"));
        assert_eq!(settings.https_proxy.as_deref(), Some("http://other:3128"));
        assert_eq!(settings.http_proxy.as_deref(), Some("http://user:pa55word@proxy:3128"));
        assert!(!format!("{settings:?}").contains("pa55word"));
    }

    #[test]
    fn a_signed_request_goes_to_the_region_and_partition() {
        let aws = Aws::new(AwsSettings::default()).unwrap();
        let place = Place { region: "cn-north-1", partition: "aws-cn" };
        let credentials = Credentials::for_tests();
        let request = aws.request(Service::Ssm, "GetParameters", String::new(), place, credentials).unwrap();
        assert_eq!(request.uri(), "https://ssm.cn-north-1.amazonaws.com.cn/");
        assert_eq!(request.headers().get("x-amz-target"), Some("AmazonSSM.GetParameters"));
        assert!(request.headers().get("authorization").unwrap().contains("/cn-north-1/ssm/aws4_request"));
    }

    #[test]
    fn configured_endpoints_can_be_ignored() {
        let settings = AwsSettings::from_lookup(|name| match name {
            "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS" => Some("true".into()),
            "AWS_ENDPOINT_URL" => Some("http://all".into()),
            _ => None,
        });
        assert_eq!(settings.endpoint_s3, None);
    }

    #[test]
    fn local_addresses_are_known() {
        for host in [
            "169.254.170.2",
            "169.254.170.23",
            "169.254.169.254",
            "127.0.0.1",
            "127.0.10.20",
            "localhost",
            "[::1]",
            "[fd00:ec2::254]",
            "[fd00:ec2::23]",
            "[fe80::1]",
            "[::ffff:169.254.170.2]",
        ] {
            assert!(is_local(host), "{host}");
        }
        for host in ["s3.eu-central-1.amazonaws.com", "10.0.0.1", "[fd00:ec3::1]", "localhost.evil.com", "8.8.8.8"] {
            assert!(!is_local(host), "{host}");
        }
    }

    #[test]
    fn a_bundle_that_cannot_be_used_is_a_configuration_fault() {
        let folder = tempfile::tempdir().unwrap();
        for (name, text, why) in [
            ("missing", None, "No such file"),
            ("empty", Some(""), "it holds no CA certificate"),
            ("text", Some("hello"), "it holds no CA certificate"),
            ("broken", Some("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"), "it is not PEM"),
            ("odd", Some("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), "no CA certificate"),
        ] {
            let path = folder.path().join(name);
            if let Some(text) = text {
                let mut file = std::fs::OpenOptions::new().create_new(true).write(true).open(&path).unwrap();
                file.write_all(text.as_bytes()).unwrap();
            }
            let fault = Aws::new(AwsSettings { ca_bundle: Some(path), ..AwsSettings::default() }).unwrap_err();
            assert_eq!(fault.code, Code::ConfigInvalid);
            assert!(fault.why.as_deref().unwrap().contains(why), "{fault}");
        }
    }

    #[test]
    fn a_proxy_that_cannot_be_used_is_told_without_its_password() {
        for url in ["ftp://me:pa55word@proxy", "http://me:pa55word@", "http://me:pa55 word@proxy"] {
            let settings = AwsSettings { https_proxy: Some(url.into()), ..AwsSettings::default() };
            let fault = Aws::new(settings).unwrap_err();
            assert_eq!(fault.code, Code::ConfigInvalid);
            assert!(!format!("{fault} {fault:?}").contains("pa55"), "{fault}");
        }
        assert!(Aws::new(AwsSettings { https_proxy: Some("proxy:3128".into()), ..AwsSettings::default() }).is_ok());
    }

    #[test]
    fn a_denial_names_principal_action_and_policy_and_nothing_else() {
        let told = denial(
            "User: arn:aws:sts::123456789012:assumed-role/gmsa-task/e408 is not authorized to perform: s3:GetObject \
             on resource: \"arn:aws:s3:::b/k\" because no identity-based policy allows the s3:GetObject action",
        );
        let expected = "arn:aws:sts::123456789012:assumed-role/gmsa-task/e408 may not s3:GetObject \
                        (no identity-based policy allows)";
        assert_eq!(told.as_deref(), Some(expected));
        assert_eq!(denial("Access to KMS is not allowed").as_deref(), Some("kms:Decrypt is not allowed"));
        assert_eq!(denial("Access Denied"), None);
        assert_eq!(denial("User: pa55word perform: pa55word on"), None);
    }

    #[tokio::test]
    async fn the_region_is_the_tasks_if_the_environment_names_none() {
        let task = br#"{"TaskARN":"arn:aws-cn:ecs:cn-north-1:123456789012:task/c/e408"}"#;
        let url = server(vec![http(500, "", b""), http(200, "", task)]);
        let aws = Aws::new(AwsSettings { metadata_uri: Some(url), ..AwsSettings::default() }).unwrap();
        assert_eq!(aws.region().await.unwrap_err().code, Code::TaskMetadataUnreachable);
        assert_eq!(aws.region().await.unwrap(), "cn-north-1");
        // From memory now: the server is gone.
        assert_eq!(aws.region().await.unwrap(), "cn-north-1");
        let nowhere = Aws::new(AwsSettings::default()).unwrap();
        assert_eq!(nowhere.region().await.unwrap_err().code, Code::CredSpecRegion);
    }

    #[tokio::test]
    async fn metadata_is_limited_in_size() {
        let url = server(vec![http(200, "", &vec![b' '; ANSWER_LIMIT]), http(200, "", &vec![b' '; ANSWER_LIMIT + 1])]);
        let aws = aws_at(&url);
        assert_eq!(aws.metadata("").await.unwrap().len(), ANSWER_LIMIT);
        assert_eq!(aws.metadata("").await.unwrap_err().code, Code::TaskMetadataMalformed);
    }
}
