//! Reading a CredSpec from where a reference names it.

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tokio::time::timeout;

use super::reference::{Object, Parameter, Reference, Source};
use super::{CredSpec, LIMIT, LoginSource, too_large};
use crate::aws::{Aws, Codes, Failure, Place, Service};
use crate::fault::{Code, Fault};
use crate::text::json_reason;

/// Reads the CredSpec a reference names. Its faults name the reference.
pub async fn fetch(reference: &Reference, aws: &Aws) -> Result<CredSpec, Fault> {
    let named = |mut fault: Fault| {
        fault.what = format!("{} (`{reference}`)", fault.what);
        fault
    };
    let spec = match &reference.source {
        Source::S3(object) => CredSpec::parse(&object.read(aws).await.map_err(named)?),
        Source::Ssm(parameter) => CredSpec::parse(&parameter.read(aws).await.map_err(named)?),
        Source::File(path) => CredSpec::parse(&read_file(path).await.map_err(named)?),
        Source::Inline(document) => CredSpec::parse(document.as_bytes()),
    }
    .map_err(named)?;
    if reference.domainless && spec.login == LoginSource::DomainJoined {
        let fault = Fault::new(Code::CredSpecCredentialArnMissing, "the CredSpec names no login");
        return Err(named(fault.because("it was named by `credentialspecdomainless:` and has no `CredentialArn`")));
    }
    Ok(spec)
}

impl Object {
    /// Reads the object; where S3 says that the bucket lies in another region, there.
    async fn read(&self, aws: &Aws) -> Result<Vec<u8>, Fault> {
        let region = match self.region.clone().or_else(|| aws.bucket_region(&self.bucket)) {
            Some(region) => region,
            None => aws.region().await?,
        };
        let mut result = self.read_in(&region, aws).await;
        if let Err(Lost::Failed(failure)) = &result
            && let Some(other) = failure.redirect(&region).map(str::to_owned)
        {
            aws.remember_bucket(&self.bucket, &other);
            result = self.read_in(&other, aws).await;
        }
        result.map_err(|lost| match lost {
            Lost::TooLarge => too_large(),
            Lost::Failed(failure) => failure.fault("the CredSpec was not read from S3".to_owned(), &CODES),
        })
    }

    async fn read_in(&self, region: &str, aws: &Aws) -> Result<Vec<u8>, Lost> {
        let request = aws.s3(&self.bucket, region).await.get_object().bucket(&self.bucket).key(&self.key);
        let mut body = request.send().await.map_err(|error| Lost::Failed(Failure::of(&error)))?.body;
        let mut document = Vec::new();
        let broken = |why: &str| Lost::Failed(Failure::Unreachable(why.to_owned()));
        // The deadlines of the SDK end with the head of the answer.
        let read = async {
            while let Some(part) = body.next().await {
                document.extend_from_slice(&part.map_err(|_| broken("the answer broke off"))?);
                if document.len() > LIMIT {
                    return Err(Lost::TooLarge);
                }
            }
            Ok(())
        };
        timeout(BODY_DEADLINE, read).await.map_err(|_| broken("the answer stopped half-way"))??;
        Ok(document)
    }
}

impl Parameter {
    /// Reads the parameter, decrypted if it is a SecureString. `GetParameters`, since that is the right which the
    /// platform's own fetcher asks for, so that policies can be moved as they are.
    async fn read(&self, aws: &Aws) -> Result<Vec<u8>, Fault> {
        const WHAT: &str = "the CredSpec was not read from SSM";
        let body = serde_json::json!({"Names": [self.arn], "WithDecryption": true}).to_string();
        let place = Place { region: &self.region, partition: &self.partition };
        let answer = aws.call(Service::Ssm, "GetParameters", body, place).await;
        let answer = answer.map_err(|failure| failure.fault(WHAT.to_owned(), &CODES))?;
        let answer: Value = serde_json::from_slice(&answer)
            .map_err(|error| Fault::new(Code::CredSpecUnreachable, WHAT).because(json_reason(&error)))?;
        match &answer["Parameters"][0]["Value"] {
            Value::String(document) => Ok(document.clone().into_bytes()),
            _ => {
                Err(Fault::new(Code::CredSpecNotFound, WHAT).because("there is no such parameter (InvalidParameters)"))
            }
        }
    }
}

/// Why an object was not read.
enum Lost {
    TooLarge,
    Failed(Failure),
}

/// Reads a file of at most 64 KiB, within a deadline: it may be a pipe or lie on a network's file system.
async fn read_file(path: &Path) -> Result<Vec<u8>, Fault> {
    let unreadable = || Fault::new(Code::CredSpecUnreadable, "the CredSpec file cannot be read");
    let path = path.to_owned();
    let read = tokio::task::spawn_blocking(move || {
        let mut document = Vec::new();
        std::fs::File::open(path)?.take(LIMIT as u64 + 1).read_to_end(&mut document)?;
        Ok::<_, std::io::Error>(document)
    });
    match timeout(BODY_DEADLINE, read).await {
        Err(_) => Err(unreadable().because(format!("nothing came within {BODY_DEADLINE:?}"))),
        Ok(Err(error)) => Err(unreadable().caused_by(&error)),
        Ok(Ok(Err(error))) => Err(unreadable().because(error)),
        Ok(Ok(Ok(document))) => Ok(document),
    }
}

const BODY_DEADLINE: Duration = Duration::from_secs(5);

const CODES: Codes = Codes {
    credentials: Code::CredSpecAwsCredentials,
    denied: Code::CredSpecDenied,
    unreachable: Code::CredSpecUnreachable,
    not_found: Code::CredSpecNotFound,
    unusable: Code::CredSpecUnreachable,
};
