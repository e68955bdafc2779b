//! The text of a secret, from Secrets Manager or from an SSM parameter. What it says is the login's business.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::arn::{SecretArn, Store};
use super::{AnswerSecrecy, Aws, AwsService, Call, CallTarget, Codes, Failure, RefusalKind};
use crate::fault::{Code, Fault};

/// A version of a secret, as it is kept.
pub(crate) struct Raw {
    /// The service's id of the version: the same id is the same text.
    pub(crate) version_id: String,
    /// When it was made.
    pub(crate) created_at: Option<SystemTime>,
    /// What it says.
    pub(crate) text: Zeroizing<Vec<u8>>,
}

/// Which version of a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// `AWSCURRENT`, or the version that the ARN's `valueFrom` suffix pins.
    Current,
    /// `AWSPENDING`: during a rotation the directory has this one already. None is `secret-not-found`.
    Pending,
}

/// A parameter's value.
pub(crate) struct ParameterValue {
    pub(crate) text: Zeroizing<String>,
    pub(crate) version: String,
    pub(crate) changed_at: Option<SystemTime>,
}

/// Reads a secret in the region of its ARN; one that is known by its name alone in the task's.
pub(crate) async fn read(arn: &SecretArn, aws: &Aws, stage: Stage) -> Result<Raw, Fault> {
    let region = match &arn.region {
        Some(region) => region.clone(),
        None => {
            let region = aws.region().await?;
            if aws.is_news(&format!("{arn} {region}")) {
                tracing::info!(
                    event = "secret.by-name",
                    secret = %arn,
                    region,
                    "CredentialArn holds a name, not an ARN: the secret is looked for in this region",
                );
            }
            region
        }
    };
    let place = CallTarget { region: &region, partition: &arn.partition };
    let named_by = match &arn.hints.document {
        Some(document) => format!("the CredentialArn of {document}"),
        None => "the CredSpec's CredentialArn".to_owned(),
    };
    match arn.store {
        Store::SecretsManager => {
            let _turn = aws.turn(AwsService::SecretsManager).await;
            // What a call takes of memory it takes once it has its turn.
            Box::pin(from_secrets_manager(arn, aws, stage, place, &named_by)).await
        }
        Store::Parameter => from_parameter(arn, aws, stage, place, &named_by).await,
    }
}

async fn from_secrets_manager(
    arn: &SecretArn,
    aws: &Aws,
    stage: Stage,
    place: CallTarget<'_>,
    named_by: &str,
) -> Result<Raw, Fault> {
    let client = aws.secrets_manager(place.region).await;
    let request = client.get_secret_value().secret_id(&arn.arn);
    let (label, request) = match (stage, &arn.stage, &arn.version) {
        (Stage::Pending, _, _) => ("AWSPENDING", request.version_stage("AWSPENDING")),
        (Stage::Current, None, None) => ("AWSCURRENT", request.version_stage("AWSCURRENT")),
        (Stage::Current, stage, version) => (
            stage.as_deref().unwrap_or("pinned"),
            request.set_version_stage(stage.clone()).set_version_id(version.clone()),
        ),
    };
    let output = request.send().await.map_err(|error| {
        let action = "secretsmanager:GetSecretValue";
        let call = Call { service: AwsService::SecretsManager, place, action, resource: &arn.arn, named_by };
        let what = format!("Could not read the secret {arn} (version {label})");
        aws.fault(&Failure::of(&error, AnswerSecrecy::Known), &what, &CODES, &call)
    })?;
    let version_id = output.version_id.unwrap_or_default();
    let created_at = output.created_date.and_then(|made| SystemTime::try_from(made).ok());
    let text = match (output.secret_string, output.secret_binary) {
        (Some(text), _) => Zeroizing::new(text.into_bytes()),
        (None, Some(bytes)) => Zeroizing::new(bytes.into_inner()),
        (None, None) => {
            let fault = Fault::new(Code::SecretUnusable, format!("The secret {arn} does not hold a value"));
            return Err(fault.with_next(format!(
                "aws secretsmanager put-secret-value --region {} --secret-id {arn} --secret-string file://login.json",
                place.region
            )));
        }
    };
    Ok(Raw { version_id, created_at, text })
}

async fn from_parameter(
    arn: &SecretArn,
    aws: &Aws,
    stage: Stage,
    place: CallTarget<'_>,
    named_by: &str,
) -> Result<Raw, Fault> {
    if stage == Stage::Pending {
        let what = format!("The parameter {arn} does not have a pending version");
        return Err(Fault::new(Code::SecretNotFound, what).because("only secrets of Secrets Manager have stages"));
    }
    let read = parameter(&arn.arn, place, aws, AnswerSecrecy::Known).await.map_err(|failure| {
        let action = "ssm:GetParameters";
        let call = Call { service: AwsService::Ssm, place, action, resource: &arn.arn, named_by };
        aws.fault(&failure, &format!("Could not read the login from the parameter {arn}"), &CODES, &call)
    })?;
    let ParameterValue { text, version, changed_at } = read;
    Ok(Raw { version_id: version, created_at: changed_at, text: Zeroizing::new(text.as_bytes().to_vec()) })
}

/// The value of a parameter, decrypted if it is a SecureString.
pub(crate) async fn parameter(
    arn: &str,
    place: CallTarget<'_>,
    aws: &Aws,
    words: AnswerSecrecy,
) -> Result<ParameterValue, Failure> {
    let body = json!({"Names": [arn], "WithDecryption": true}).to_string();
    let answer = Zeroizing::new(aws.call(AwsService::Ssm, "GetParameters", body, place, words).await?);
    // The parser's own words may quote the value.
    let answer: Value = serde_json::from_slice(&answer)
        .map_err(|_| Failure::Unreachable("the answer is not one of AWS Systems Manager".to_owned()))?;
    let found = &answer["Parameters"][0];
    match &found["Value"] {
        Value::String(text) => Ok(ParameterValue {
            text: Zeroizing::new(text.clone()),
            version: found["Version"].as_u64().map(|version| version.to_string()).unwrap_or_default(),
            changed_at: found["LastModifiedDate"]
                .as_f64()
                .filter(|seconds| (0.0..1e11).contains(seconds))
                .map(|seconds| SystemTime::UNIX_EPOCH + Duration::from_secs_f64(seconds)),
        }),
        _ => Err(Failure::Refused(Box::new(super::AwsRefusal::named(200, "InvalidParameters", RefusalKind::NotFound)))),
    }
}

pub(crate) const CODES: Codes = Codes {
    credentials: Code::SecretAwsCredentials,
    credentials_later: Code::SecretAwsCredentialsFailed,
    denied: Code::SecretDenied,
    unreachable: Code::SecretUnreachable,
    not_found: Code::SecretNotFound,
    unusable: Code::SecretUnusable,
};
