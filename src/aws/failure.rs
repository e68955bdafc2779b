//! What a failed call to AWS may say, and what it means to the caller.

use std::error::Error;
use std::fmt;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::error::{ConnectorError, ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

use super::arn::{Arn, is_region};
use super::http::Unanswered;
use crate::fault::{Code, Fault};
use crate::text::plain;

/// Why a call to AWS failed. Of an answer about a secret it holds nothing but words that this file knows: no body, no
/// message, so that the secret cannot be in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// There are no AWS credentials; why.
    Credentials(String),
    /// There should be AWS credentials and just now there are none; why.
    CredentialsLater(String),
    /// No whole answer came; why.
    Unreachable(String),
    /// The service said no.
    Refused(Box<AwsRefusal>),
    /// What answered does not speak as the service does; its status, and the region it named.
    Strange(u16, Option<String>),
}

/// A service's no.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AwsRefusal {
    pub(crate) status: u16,
    /// The error's name, if it is one of [`ERRORS`] or nothing in it can be a secret.
    pub(crate) name: Option<String>,
    pub(crate) kind: RefusalKind,
    /// Who may not do what, if the service told.
    pub(crate) denial: Option<Denial>,
    /// AWS's own words, where no secret can be in them.
    pub(crate) message: Option<String>,
    /// What AWS's support asks for.
    request_id: Option<String>,
    /// `x-amz-bucket-region`.
    region: Option<String>,
}

/// What IAM says when it denies something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Denial {
    /// `arn:aws:sts::123456789012:assumed-role/gmsa-task/e408`.
    pub(crate) principal: Option<String>,
    /// `s3:GetObject`.
    pub(crate) action: Option<&'static str>,
    /// The key that encrypts it, if the denial is about that.
    pub(crate) key: Option<String>,
    /// One of [`POLICIES`].
    pub(crate) policy: Option<&'static str>,
}

/// What a refusal means to the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RefusalKind {
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
#[derive(Debug, Clone, Copy)]
pub(crate) struct Codes {
    pub(crate) credentials: Code,
    pub(crate) credentials_later: Code,
    pub(crate) denied: Code,
    pub(crate) unreachable: Code,
    pub(crate) not_found: Code,
    pub(crate) unusable: Code,
}

/// Whether an answer may hold a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AnswerSecrecy {
    /// It may: nothing of it is repeated but what this file knows.
    Known,
    /// It cannot: AWS's own message is repeated.
    Free,
}

impl Failure {
    /// Reads an error of the SDK.
    pub(crate) fn of<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>, words: AnswerSecrecy) -> Self {
        match error {
            SdkError::ConstructionFailure(_) => Self::Unreachable("the request could not be built".into()),
            SdkError::TimeoutError(_) => Self::Unreachable("no complete answer came in time".into()),
            SdkError::DispatchFailure(failure) => match failure.as_connector_error() {
                Some(error) => credentials_error(error).unwrap_or_else(|| Self::Unreachable(chain(error))),
                None => Self::Unreachable("the request was not sent".into()),
            },
            SdkError::ServiceError(service) => {
                let (answer, error) = (service.raw(), service.err());
                match error.code() {
                    Some(name) => Self::Refused(Box::new(
                        AwsRefusal::new(answer.status().as_u16(), Some(name), error.message(), words).told_by(answer),
                    )),
                    None => Self::without_words(answer),
                }
            }
            SdkError::ResponseError(response) => Self::without_words(response.raw()),
            _ => Self::Unreachable("the call failed in a way that this version does not know".into()),
        }
    }

    /// An answer that says nothing, as S3's to a HEAD or a proxy's page.
    fn without_words(answer: &HttpResponse) -> Self {
        match answer.status().as_u16() {
            status @ (403 | 404 | 429 | 500..) => {
                Self::Refused(Box::new(AwsRefusal::new(status, None, None, AnswerSecrecy::Known).told_by(answer)))
            }
            status => Self::Strange(status, bucket_region(answer)),
        }
    }

    pub(super) fn no_credentials(error: &CredentialsError) -> Self {
        match error {
            // The SDK's own list of what it tried has a line for each.
            CredentialsError::CredentialsNotLoaded(_) => Self::Credentials(
                "neither environment, web identity, container endpoint nor instance role offers any".into(),
            ),
            CredentialsError::InvalidConfiguration(_) => Self::Credentials(chain(error)),
            // It is configured and did not answer, or not as it should: another answer may follow.
            CredentialsError::ProviderTimedOut(_) => Self::CredentialsLater("no answer came in time".into()),
            CredentialsError::ProviderError(_) => Self::CredentialsLater(status_of(&chain(error))),
            // A parser's words may quote what it parsed: keys.
            error => Self::CredentialsLater(
                connector_error(error).map_or_else(|| "the answer does not hold credentials".into(), chain),
            ),
        }
    }

    pub(super) fn lost(error: Box<dyn Error + Send + Sync>) -> Self {
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

    /// The code of a step for this failure.
    pub(crate) fn code(&self, codes: &Codes) -> Code {
        match self {
            Self::Credentials(_) => codes.credentials,
            Self::CredentialsLater(_) => codes.credentials_later,
            Self::Unreachable(_) | Self::Strange(..) => codes.unreachable,
            Self::Refused(refusal) => match refusal.kind {
                RefusalKind::NotFound => codes.not_found,
                RefusalKind::Denied => codes.denied,
                RefusalKind::Credentials => codes.credentials,
                RefusalKind::Unusable => codes.unusable,
                RefusalKind::Transient => codes.unreachable,
            },
        }
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
            Unanswered::TooLong(has) => Self::Unreachable(format!("the answer has {has}")),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Credentials(why) => write!(f, "there are no AWS credentials: {why}"),
            Self::CredentialsLater(why) => write!(f, "the AWS credentials could not be fetched: {why}"),
            Self::Unreachable(why) => f.write_str(why),
            Self::Strange(status, _) => {
                write!(f, "the answer (HTTP {status}) is not one of AWS; a proxy may have sent it")
            }
            Self::Refused(refusal) => refusal.fmt(f),
        }
    }
}

impl AwsRefusal {
    pub(super) fn new(status: u16, name: Option<&str>, message: Option<&str>, words: AnswerSecrecy) -> Self {
        let known = ERRORS.iter().find(|(known, _)| Some(*known) == name);
        let mut kind = known.map_or_else(|| RefusalKind::of_status(status), |(_, kind)| *kind);
        let free = |text: &str| (words == AnswerSecrecy::Free).then(|| plain(text, MESSAGE));
        let name = known.map(|(name, _)| (*name).to_owned()).or_else(|| name.and_then(free));
        let denial = if kind == RefusalKind::Denied { message.and_then(Denial::read) } else { None };
        if denial.as_ref().is_some_and(|denial| denial.action == Some("s3:ListBucket")) {
            // Only to whom asks for a key that is not there, and may not know that either.
            kind = RefusalKind::NotFound;
        }
        let set_phrase = |message: &str| PHRASES.iter().find(|phrase| message.contains(**phrase));
        let message = match (words, message) {
            (AnswerSecrecy::Free, Some(message)) if !message.trim().is_empty() => {
                free(message.trim().trim_end_matches('.'))
            }
            (AnswerSecrecy::Known, Some(message)) => set_phrase(message).map(|phrase| (*phrase).to_owned()),
            _ => None,
        };
        Self { status, name, kind, denial, message, request_id: None, region: None }
    }

    /// One that AWS tells in an answer of its own kind.
    pub(super) fn named(status: u16, name: &str, kind: RefusalKind) -> Self {
        let mut refusal = Self::new(status, None, None, AnswerSecrecy::Known);
        (refusal.name, refusal.kind) = (Some(name.to_owned()), kind);
        refusal
    }

    /// What the head of the answer adds.
    pub(super) fn told_by(mut self, answer: &HttpResponse) -> Self {
        self.region = bucket_region(answer);
        let headers = answer.headers();
        let id = headers.get("x-amzn-requestid").or_else(|| headers.get("x-amz-request-id"));
        self.request_id = id.filter(|id| is_request_id(id)).map(str::to_owned);
        self
    }
}

impl fmt::Display for AwsRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AWS answered {} (HTTP {}", self.name.as_deref().unwrap_or("with an error"), self.status)?;
        if let Some(id) = &self.request_id {
            write!(f, ", request ID {id}")?;
        }
        f.write_str(")")?;
        match (&self.message, &self.denial) {
            (Some(message), _) => write!(f, ": {message}"),
            (None, Some(denial)) => write!(f, ": {denial}"),
            (None, None) => Ok(()),
        }
    }
}

/// The forms that AWS has: a UUID, or sixteen capitals and digits. Nothing else is repeated, lest it be a secret.
fn is_request_id(id: &str) -> bool {
    let parts: Vec<_> = id.split('-').collect();
    let lengths: Vec<_> = parts.iter().map(|part| part.len()).collect();
    let uuid = lengths == [8, 4, 4, 4, 12] && parts.concat().bytes().all(|b| b.is_ascii_hexdigit());
    uuid || (id.len() == 16 && id.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit()))
}

impl Denial {
    /// Who may not do what, and by which policy, out of IAM's sentence: "User: ARN is not authorized to perform:
    /// ACTION on resource: ARN because no identity-based policy allows the ACTION action". Only an ARN of a principal,
    /// that of a key and set phrases are taken over.
    pub(super) fn read(message: &str) -> Option<Self> {
        let word_after = |mark: &str| message.split_once(mark).and_then(|(_, rest)| rest.split_whitespace().next());
        let is_plain = |arn: &&str| {
            arn.len() <= 300 && arn.bytes().all(|b| b.is_ascii_alphanumeric() || b":/+=,.@_-".contains(&b))
        };
        let of = |arn: &str, services: &[&str]| Arn::parse(arn).is_ok_and(|arn| services.contains(&arn.service));
        let principal = word_after("User: ").filter(is_plain).filter(|arn| of(arn, &["sts", "iam"]));
        let said = word_after("perform: ");
        let action = said.and_then(|said| ACTIONS.iter().find(|action| said.starts_with(**action)).copied());
        let kms = message.to_ascii_lowercase().contains("kms").then_some("kms:Decrypt");
        let key = word_after("on resource: ").map(|arn| arn.trim_matches('"')).filter(is_plain);
        let denial = Self {
            principal: principal.map(str::to_owned),
            action: action.or(kms),
            key: key.filter(|arn| of(arn, &["kms"])).map(str::to_owned),
            policy: POLICIES.iter().find(|policy| message.contains(**policy)).copied(),
        };
        (denial.principal.is_some() || denial.action.is_some()).then_some(denial)
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.principal, self.action) {
            (Some(who), Some(action)) => write!(f, "{who} is not allowed to perform {action}")?,
            (Some(who), None) => write!(f, "{who} is not allowed to do this")?,
            (None, Some(action)) => write!(f, "{action} is not allowed")?,
            (None, None) => {}
        }
        self.policy.map_or(Ok(()), |policy| write!(f, " ({policy} it)"))
    }
}

impl RefusalKind {
    fn of_status(status: u16) -> Self {
        match status {
            403 => Self::Denied,
            404 => Self::NotFound,
            // An unknown no may be one of a proxy, or new: trying again is the lesser harm.
            _ => Self::Transient,
        }
    }
}

/// Characters of AWS's own message.
const MESSAGE: usize = 400;

/// The errors of S3, Secrets Manager, SSM, ECS and of signing that are told by name.
const ERRORS: &[(&str, RefusalKind)] = &[
    ("NoSuchBucket", RefusalKind::NotFound),
    ("NoSuchKey", RefusalKind::NotFound),
    ("ParameterNotFound", RefusalKind::NotFound),
    ("ResourceNotFoundException", RefusalKind::NotFound),
    ("AccessDenied", RefusalKind::Denied),
    ("AccessDeniedException", RefusalKind::Denied),
    ("AllAccessDisabled", RefusalKind::Denied),
    ("AccountProblem", RefusalKind::Denied),
    ("DecryptionFailure", RefusalKind::Denied),
    ("NotAuthorized", RefusalKind::Denied),
    ("UnauthorizedOperation", RefusalKind::Denied),
    ("ExpiredToken", RefusalKind::Credentials),
    ("ExpiredTokenException", RefusalKind::Credentials),
    ("IncompleteSignature", RefusalKind::Credentials),
    ("InvalidAccessKeyId", RefusalKind::Credentials),
    ("InvalidClientTokenId", RefusalKind::Credentials),
    ("InvalidSignatureException", RefusalKind::Credentials),
    ("InvalidToken", RefusalKind::Credentials),
    ("MissingAuthenticationToken", RefusalKind::Credentials),
    ("MissingAuthenticationTokenException", RefusalKind::Credentials),
    ("RequestExpired", RefusalKind::Credentials),
    ("RequestTimeTooSkewed", RefusalKind::Credentials),
    ("SignatureDoesNotMatch", RefusalKind::Credentials),
    ("TokenRefreshRequired", RefusalKind::Credentials),
    ("UnrecognizedClientException", RefusalKind::Credentials),
    ("ClientException", RefusalKind::Unusable),
    ("InvalidKeyId", RefusalKind::Denied),
    ("InvalidObjectState", RefusalKind::Unusable),
    ("InvalidParameterException", RefusalKind::Unusable),
    ("InvalidRequestException", RefusalKind::Unusable),
    ("ValidationException", RefusalKind::Unusable),
    ("AuthorizationHeaderMalformed", RefusalKind::Transient),
    ("IllegalLocationConstraintException", RefusalKind::Transient),
    ("InternalError", RefusalKind::Transient),
    ("InternalServiceError", RefusalKind::Transient),
    ("InternalServiceErrorException", RefusalKind::Transient),
    ("InternalServerError", RefusalKind::Transient),
    ("PermanentRedirect", RefusalKind::Transient),
    ("RequestTimeout", RefusalKind::Transient),
    ("ServerException", RefusalKind::Transient),
    ("ServiceUnavailable", RefusalKind::Transient),
    ("SlowDown", RefusalKind::Transient),
    ("TemporaryRedirect", RefusalKind::Transient),
    ("ThrottlingException", RefusalKind::Transient),
    ("TooManyRequestsException", RefusalKind::Transient),
];

/// What Secrets Manager says in words of its own and that helps.
const PHRASES: &[&str] = &[
    "it was marked for deletion",
    "Secrets Manager can't find the specified secret value for staging label",
    "Secrets Manager can't find the specified secret",
    "Access to KMS is not allowed",
    "it was deleted",
];

/// All that a task role may need.
const ACTIONS: &[&str] = &[
    "s3:GetObjectVersion",
    "s3:GetObject",
    "s3:ListBucket",
    "ssm:GetParametersByPath",
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

/// The connection's error among the sources of an error.
fn connector_error(error: &dyn Error) -> Option<&(dyn Error + 'static)> {
    let mut cause = error.source();
    while let Some(error) = cause {
        if error.is::<ConnectorError>() {
            return Some(error);
        }
        cause = error.source();
    }
    None
}

/// The SDK's words for a status, in ours.
fn status_of(text: &str) -> String {
    const MARK: &str = "Non-success status from HTTP credential provider: StatusCode(";
    let status = text.split_once(MARK).and_then(|(_, rest)| rest.split_once(')')).map(|(status, _)| status);
    status.map_or_else(|| text.to_owned(), |status| format!("the endpoint answered with HTTP {status}"))
}

/// An error with its sources, outermost first. Never for one that holds an answer.
pub(super) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = Fault::new(Code::InternalBug, "").caused_by(error).why.unwrap_or_default();
    // The system's number says nothing that its words do not.
    while let Some(start) = text.find(" (os error ") {
        let end = text[start..].find(')').map_or(text.len(), |end| start + end + 1);
        text.replace_range(start..end, "");
    }
    let text = text.replace("io error: ", "").replace("dispatch failure: ", "").replace("client error (Connect): ", "");
    plain(&text, MESSAGE)
}
