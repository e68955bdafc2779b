//! What a failed call to AWS may say, and what it means to the caller.

use std::error::Error;
use std::fmt;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::error::{ConnectorError, ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

use super::arn::{Arn, is_region};
use super::http::{ANSWER_LIMIT, Unanswered};
use crate::fault::{Code, Fault};

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

    pub(super) fn no_credentials(error: &CredentialsError) -> Self {
        Self::Credentials(match error {
            // The SDK's own list of what it tried has a line for each.
            CredentialsError::CredentialsNotLoaded(_) => {
                "neither environment, web identity, container endpoint nor instance role offers any".into()
            }
            error => chain(error),
        })
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
    pub(super) fn new(status: u16, name: Option<&str>, message: Option<&str>, region: Option<String>) -> Self {
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
pub(super) fn denial(message: &str) -> Option<String> {
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
pub(super) fn chain(error: &(dyn Error + 'static)) -> String {
    Fault::new(Code::InternalBug, "").caused_by(error).why.unwrap_or_default()
}
