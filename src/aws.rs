//! What `task`, `credspec` and `secret` share of AWS: one HTTP stack, credentials, regions, and what a failed call
//! may say.
//!
//! The AWS SDK does S3, Secrets Manager and credentials. `ecs:DescribeTaskDefinition` and `ssm:GetParameters` are
//! signed requests made here, since `aws-sdk-ecs` and `aws-sdk-ssm` would add about 168 s of build each (two busy
//! cores) and their bytes for one call. Where they go: `AWS_ENDPOINT_URL_..`, else `https://SERVICE.REGION.SUFFIX`.
//! Everything goes through one `Router`: one TLS library (rustls with ring), one set of roots, deadlines, proxies
//! and limits.

mod advice;
pub mod arn;
mod asked;
mod bounded;
mod endpoint;
mod failure;
mod http;
mod profile;
pub(crate) mod secret;
mod settings;

pub use asked::LONGEST_CALL;

use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{ConfigLoader, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::ProvideCredentials;
use aws_sdk_s3::config::Region;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings};
use aws_sigv4::sign::v4;
use aws_smithy_runtime_api::client::http::HttpConnector;
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_types::body::SdkBody;
use aws_types::os_shim_internal::Env;
use tokio::sync::{OnceCell, Semaphore, SemaphorePermit};
use tokio::time::timeout;
use tracing::{Level, Metadata};

pub(crate) use self::advice::Call;
use self::arn::Arn;
pub(crate) use self::endpoint::{AwsService, CallTarget};
pub(crate) use self::failure::{AnswerSecrecy, AwsRefusal, Codes, Failure, RefusalKind};
use self::http::{
    ATTEMPT_DEADLINE, CONNECT_DEADLINE, METADATA_DEADLINE, Network, OPERATION_DEADLINE, READ_DEADLINE, Router,
    Unanswered, answer,
};
pub use self::settings::{AwsSettings, Endpoint};
use crate::clock;
use crate::fault::{Code, Fault};

/// The way to AWS, shared by all leases. Nothing is dialled or loaded before the first call.
pub struct Aws {
    settings: AwsSettings,
    network: Network,
    router: OnceLock<Arc<Router>>,
    config: OnceCell<SdkConfig>,
    task_region: OnceCell<String>,
    /// Where S3 said that a bucket lies, if not where it was looked for.
    buckets: Mutex<HashMap<String, String>>,
    /// What was told already.
    told: Mutex<HashSet<String>>,
    turns: Turns,
}

/// How many calls of a service are under way: what lies in a bucket, or a label, decides how many there are to be made,
/// and each takes memory of its own. One service that hangs does not keep the others waiting.
struct Turns {
    s3: Semaphore,
    secrets_manager: Semaphore,
    other: Semaphore,
}

impl Default for Turns {
    fn default() -> Self {
        let [s3, secrets_manager, other] = [(); 3].map(|()| Semaphore::new(CALLS));
        Self { s3, secrets_manager, other }
    }
}

/// Calls of one service at a time.
const CALLS: usize = 16;

impl Aws {
    /// The way that the settings describe; `config-invalid` if they cannot be used.
    pub fn new(settings: AwsSettings) -> Result<Self, Fault> {
        let network = Network::new(&settings).map_err(|why| {
            Fault::new(Code::ConfigInvalid, "The configuration of the way to AWS cannot be used").because(why)
        })?;
        for endpoint in settings.plain_http() {
            tracing::warn!(
                event = "aws.endpoint-plain-http",
                endpoint = endpoint.url,
                named_by = endpoint.named_by,
                "CredSpecs and secrets can be read and changed on the way: use https://",
            );
        }
        Ok(Self {
            settings,
            network,
            router: OnceLock::new(),
            config: OnceCell::new(),
            task_region: OnceCell::new(),
            buckets: Mutex::default(),
            told: Mutex::default(),
            turns: Turns::default(),
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
            let fault = Fault::new(Code::CredSpecRegion, "The AWS region is unknown");
            let why = "AWS_REGION is not set, and the sidecar is not running in ECS (ECS_CONTAINER_METADATA_URI_V4 is not set)";
            return Err(fault
                .because(why)
                .with_next("set AWS_REGION to the region of the S3 bucket, e.g. AWS_REGION=eu-central-1"));
        }
        let ask = async || -> Result<String, Fault> {
            let document = self.metadata("/task").await?;
            let task: serde_json::Value = serde_json::from_slice(&document).unwrap_or_default();
            let arn = task["TaskARN"].as_str().and_then(|arn| Arn::parse(arn).ok());
            arn.map(|arn| arn.region.to_owned()).filter(|region| !region.is_empty()).ok_or_else(|| {
                let fault = Fault::new(Code::CredSpecRegion, "The AWS region is unknown");
                fault.because("AWS_REGION is not set, and the task metadata has no TaskARN")
            })
        };
        self.task_region.get_or_try_init(ask).await.cloned()
    }

    /// One document of the ECS agent: `path` is empty for the own container's, `/task` for the task's.
    pub(crate) async fn metadata(&self, path: &str) -> Result<Vec<u8>, Fault> {
        let Some(base) = &self.settings.metadata_uri else {
            let fault =
                Fault::new(Code::ConfigNoCredSpec, "No CredSpec is configured, and the sidecar is not running in ECS");
            return Err(fault.because("ECS_CONTAINER_METADATA_URI_V4 is not set"));
        };
        let uri = format!("{}{path}", base.trim_end_matches('/'));
        let unreachable =
            || Fault::new(Code::TaskMetadataUnreachable, format!("Could not read the task metadata at {uri}"));
        let request = HttpRequest::get(&uri).map_err(|error| unreachable().caused_by(&error))?;
        // Whatever its host is called: the agent is never behind a proxy.
        let call = async { answer(self.router().directly(request).await?).await };
        match timeout(METADATA_DEADLINE, call).await {
            Err(_) => Err(unreachable().because(format!("no answer came within {METADATA_DEADLINE:?}"))),
            Ok(Err(Unanswered::TooLong(has))) => {
                let what = format!("The task metadata at {uri} has {has}");
                Err(Fault::new(Code::TaskMetadataMalformed, what))
            }
            Ok(Err(Unanswered::Lost(why))) => Err(unreachable().because(why)),
            Ok(Ok((200, body))) => Ok(body),
            Ok(Ok((status, _))) => Err(unreachable().because(format!("the endpoint answered with HTTP {status}"))),
        }
    }

    /// Waits for the turn to call a service. It is over once it is dropped.
    pub(crate) async fn turn(&self, service: AwsService) -> Option<SemaphorePermit<'_>> {
        let turns = match service {
            AwsService::S3 => &self.turns.s3,
            AwsService::SecretsManager => &self.turns.secrets_manager,
            _ => &self.turns.other,
        };
        // None is ever closed.
        turns.acquire().await.ok()
    }

    /// A client for `bucket` of S3 in `region`.
    pub(crate) async fn s3(&self, bucket: &str, region: &str) -> aws_sdk_s3::Client {
        let region = Region::new(region.to_owned());
        let mut config = aws_sdk_s3::config::Builder::from(self.config().await).region(region);
        if let Some(endpoint) = &self.settings.endpoint_s3 {
            // An access point has a host name of its own, never a path.
            config = config.endpoint_url(&endpoint.url).force_path_style(!bucket.starts_with("arn:"));
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
            config = config.endpoint_url(&endpoint.url);
        }
        aws_sdk_secretsmanager::Client::from_conf(config.build())
    }

    /// Calls `action` of a service (JSON 1.1 under SigV4) and returns the body of its answer.
    pub(crate) async fn call(
        &self,
        service: AwsService,
        action: &str,
        body: String,
        at: CallTarget<'_>,
        words: AnswerSecrecy,
    ) -> Result<Vec<u8>, Failure> {
        let _turn = self.turn(service).await;
        let call = async {
            let provider = self.config().await.credentials_provider();
            let provider = provider.ok_or_else(|| Failure::Credentials("no provider".into()))?;
            let credentials = provider.provide_credentials().await.map_err(|error| Failure::no_credentials(&error))?;
            let request = self.request(service, action, body, at, credentials).map_err(Failure::lost)?;
            let response = self.router().call(request).await?;
            // What it says of itself, for a refusal.
            let head = HttpResponse::new(response.status(), SdkBody::empty());
            let head = response.headers().iter().fold(head, |mut head, (name, value)| {
                let _ = head.headers_mut().try_insert(name.to_owned(), value.to_owned());
                head
            });
            let (status, body) = answer(response).await?;
            Ok::<_, Failure>((status, head, body))
        };
        let lost = |_| Failure::Unreachable(format!("no complete answer came within {OPERATION_DEADLINE:?}"));
        let (status, head, body) = Box::pin(timeout(OPERATION_DEADLINE, call)).await.map_err(lost)??;
        if status == 200 {
            return Ok(body);
        }
        let document: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        // The name may come with its name space before a `#` (JSON 1.1 protocol of Smithy, "Operation error").
        let name = document["__type"].as_str().map(|name| name.rsplit('#').next().unwrap_or(name));
        let message = document["message"].as_str().or(document["Message"].as_str());
        if name.is_none() && !matches!(status, 403 | 404 | 429 | 500..) {
            return Err(Failure::Strange(status, None));
        }
        Err(Failure::Refused(Box::new(AwsRefusal::new(status, name, message, words).told_by(&head))))
    }

    fn request(
        &self,
        service: AwsService,
        action: &str,
        body: String,
        at: CallTarget<'_>,
        credentials: Credentials,
    ) -> Result<HttpRequest, Box<dyn Error + Send + Sync>> {
        let name = service.name();
        let target = match service {
            AwsService::Ssm => "AmazonSSM",
            _ => "AmazonEC2ContainerServiceV20141113",
        };
        let uri = format!("{}/", service.url(at, &self.settings));
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

    /// Whether this is told for the first time.
    fn is_news(&self, text: &str) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        // CredSpecs change; a process that lives for years need not remember all of them.
        if told.len() >= 1024 {
            told.clear();
        }
        told.insert(text.to_owned())
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
            let loader = self.loader().await;
            #[cfg(test)]
            let loader = loader.credentials_provider(Credentials::for_tests());
            loader.load().await
        };
        self.config.get_or_init(load).await
    }

    /// The SDK, with nothing but what was read here.
    async fn loader(&self) -> ConfigLoader {
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT_DEADLINE)
            .read_timeout(READ_DEADLINE)
            .operation_attempt_timeout(ATTEMPT_DEADLINE)
            .operation_timeout(OPERATION_DEADLINE)
            .build();
        // Of use to STS only. Given even if unknown, so that the SDK does not go and ask the instance.
        let region = self.region().await.ok().map(Region::new);
        let settings = &self.settings;
        let retries = if settings.adaptive { RetryConfig::adaptive() } else { RetryConfig::standard() };
        let retries = retries.with_max_attempts(settings.max_attempts.unwrap_or(3));
        let variables: HashMap<String, String> = settings.variables.clone().into_iter().collect();
        aws_config::defaults(aws_config::BehaviorVersion::latest())
            .env(Env::from(variables))
            .profile_files(settings.profile.files())
            .use_fips(settings.fips)
            .use_dual_stack(settings.dual_stack)
            .retry_config(retries)
            .http_client(self.router().client())
            .timeout_config(timeouts)
            .region(region)
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

/// The variable whose proxy requests to a URL go through, as far as it can be told.
fn is_proxied(settings: &AwsSettings, url: &str) -> Option<&'static str> {
    let uri = url.parse::<hyper::Uri>().ok()?;
    let host = uri.host().filter(|host| !http::is_local(host))?;
    let excepted = |rule: &str| {
        let rule = rule.trim().trim_start_matches("*.").trim_start_matches('.');
        rule == "*" || (!rule.is_empty() && (host == rule || host.ends_with(&format!(".{rule}"))))
    };
    if settings.no_proxy.as_deref().is_some_and(|rules| rules.split(',').any(excepted)) {
        return None;
    }
    match uri.scheme_str() {
        Some("http") => settings.http_proxy.as_ref().map(|_| "HTTP_PROXY"),
        _ => settings.https_proxy.as_ref().map(|_| "HTTPS_PROXY"),
    }
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

#[cfg(test)]
pub(crate) mod tests;
