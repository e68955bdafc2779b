//! Reading a CredSpec from where a reference names it.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::timeout;

use super::reference::{MOST_LISTED, Object, Parameter, Reference, ReferenceError, SpecList, SpecLocation};
use super::{CredSpec, Draft, LIMIT, LoginSource, looks_like_netbios, too_large};
use crate::aws::secret::{self, Stage};
use crate::aws::{AnswerSecrecy, Aws, AwsService, Call, CallTarget, Codes, Failure};
use crate::fault::{Code, Fault};
use crate::file::{self, Unread};
use crate::name::Domain;
use crate::text::{json_reason, plain, shell};
use crate::volume::{belongs, caller};

/// Reads the CredSpec a reference names. Its faults name the reference, and what names that.
pub async fn fetch(reference: &Reference, aws: &Aws) -> Result<CredSpec, Fault> {
    let named = |mut fault: Fault| {
        fault.what = format!("{} (`{reference}`, named by {})", fault.what, reference.origin());
        let place = reference.place();
        match fault.fix.take() {
            Some(fix) if fault.code == Code::CredSpecMalformed && !fix.contains(&place) => {
                fault.with_next(format!("in {place}: {fix}"))
            }
            fix => Fault { fix, ..fault },
        }
    };
    let bytes = match &reference.source {
        SpecLocation::S3(object) => object.read(aws, reference.origin()).await,
        SpecLocation::Ssm(parameter) => parameter.read(aws, reference.origin()).await,
        SpecLocation::File(path) => read_file(path, reference.origin()).await,
        SpecLocation::Inline(document) => Ok(document.clone().into_bytes()),
        SpecLocation::List(_) => {
            let fault = Fault::new(Code::CredSpecMalformed, "A list of CredSpecs cannot be used as one CredSpec");
            Err(fault.because("it is named where one CredSpec is expected"))
        }
    };
    let mut draft = Draft::parse(&bytes.map_err(named)?).map_err(named)?;
    if let LoginSource::Secret(arn) = &mut draft.spec.login {
        arn.hints.document = Some(reference.place());
    }
    let spec = match draft.netbios.take() {
        None => draft.spec,
        // Nothing in the document tells the DNS name; the secret may.
        Some(name) => match in_secret(&draft.spec.login, &name, aws).await? {
            Some(domain) => draft.of_domain(domain),
            None => return Err(named(looks_like_netbios(&name))),
        },
    };
    if reference.domainless && spec.login == LoginSource::DomainJoined {
        let fault = Fault::new(Code::CredSpecCredentialArnMissing, "The CredSpec does not name the login's secret");
        let fault = fault
            .because("the prefix `credentialspecdomainless:` needs a `CredentialArn`, and the document has none")
            .with_next(format!(
                "write the ARN of the login's secret into HostAccountConfig.PluginInput.CredentialArn of {reference}"
            ));
        return Err(named(fault));
    }
    Ok(spec)
}

/// Reads the document of an S3 object as it is.
///
/// # Errors
/// Something else than an object in S3, or one that cannot be read.
pub async fn object(arn: &str, aws: &Aws) -> Result<Vec<u8>, Fault> {
    let malformed = |why: String| {
        Fault::new(Code::CredSpecMalformed, format!("`{}` is not an object in S3", plain(arn, 200))).because(why)
    };
    let reference: Reference = arn.parse().map_err(|error: ReferenceError| malformed(error.to_string()))?;
    match &reference.source {
        SpecLocation::S3(object) => object.read(aws, "the request").await,
        _ => Err(malformed("the request names CredSpecs by the ARNs of objects in S3".to_owned())),
    }
}

/// The domain that the secret names, if it is the one that the NetBIOS name stands for.
async fn in_secret(login: &LoginSource, netbios: &str, aws: &Aws) -> Result<Option<Domain>, Fault> {
    let LoginSource::Secret(arn) = login else { return Ok(None) };
    let raw = secret::read(arn, aws, Stage::Current).await?;
    // The login's own look at it refuses one that is longer.
    if raw.text.len() > LIMIT {
        return Ok(None);
    }
    let Ok(Value::Object(fields)) = serde_json::from_slice(&raw.text) else { return Ok(None) };
    let text = |(_, value): (&String, &Value)| value.as_str().map(str::to_owned);
    let name = fields.iter().find(|(key, _)| key.eq_ignore_ascii_case("domainName")).and_then(text);
    // What is left of the secret is wiped by the allocator.
    let is_it = |name: &String| name.split_once('.').is_some_and(|(first, _)| first.eq_ignore_ascii_case(netbios));
    Ok(name.filter(is_it).and_then(|name| name.parse().ok()))
}

/// Reads a list of CredSpecs: every object under the prefix whose key ends in `.json`, every parameter under the path;
/// at most 500, in the order of their names.
pub async fn list(reference: &Reference, aws: &Aws) -> Result<Vec<Reference>, Fault> {
    let SpecLocation::List(list) = &reference.source else { return Ok(vec![reference.clone()]) };
    let mut found = match list {
        SpecList::S3 { bucket, prefix } => objects(bucket, prefix, reference, aws).await?,
        SpecList::Ssm { path, place, .. } => parameters(path, place.as_ref(), reference, aws).await?,
    };
    found.sort_by_key(ToString::to_string);
    Ok(found)
}

/// Answers for one list: most of a bucket may be something else.
const MOST_PAGES: usize = 60;

fn too_many(reference: &Reference) -> Fault {
    let what = format!("The list {reference} is longer than {MOST_LISTED} CredSpecs");
    Fault::new(Code::CredSpecTooLarge, what).with_next(format!("name a longer prefix in {}", reference.origin()))
}

async fn objects(bucket: &str, prefix: &str, list: &Reference, aws: &Aws) -> Result<Vec<Reference>, Fault> {
    let mut region = match aws.bucket_region(bucket) {
        Some(region) => region,
        None => aws.region().await?,
    };
    let resource = format!("arn:aws:s3:::{bucket}");
    let (mut found, mut next, mut moved) = (Vec::new(), None::<String>, false);
    for _ in 0..MOST_PAGES {
        let _turn = aws.turn(AwsService::S3).await;
        let request = aws.s3(bucket, &region).await.list_objects_v2().bucket(bucket).prefix(prefix).max_keys(500);
        let page = match request.set_continuation_token(next.take()).send().await {
            Ok(page) => page,
            Err(error) => {
                let failure = Failure::of(&error, AnswerSecrecy::Free);
                if let Some(other) = failure.redirect(&region).map(str::to_owned).filter(|_| !moved) {
                    aws.remember_bucket(bucket, &other);
                    (region, moved) = (other, true);
                    continue;
                }
                let call = Call {
                    service: AwsService::S3,
                    place: CallTarget { region: &region, partition: partition_of(&region) },
                    action: "s3:ListBucket",
                    resource: &resource,
                    named_by: list.origin(),
                };
                return Err(aws.fault(
                    &failure,
                    &format!("Could not read the list {list} from Amazon S3"),
                    &CODES,
                    &call,
                ));
            }
        };
        let keys = page.contents().iter().filter_map(|object| object.key()).filter(|key| key.ends_with(".json"));
        found.extend(keys.filter(|key| !key.contains(char::is_control)).map(|key| {
            let arn = format!("arn:{}:s3:::{bucket}/{key}", partition_of(&region));
            let object = Object { arn, bucket: bucket.to_owned(), region: None, key: key.to_owned() };
            Reference::found(SpecLocation::S3(object), list)
        }));
        if found.len() > MOST_LISTED {
            return Err(too_many(list));
        }
        next = page.next_continuation_token().map(str::to_owned);
        if next.is_none() {
            return Ok(found);
        }
    }
    Err(too_many(list))
}

async fn parameters(
    path: &str,
    place: Option<&(String, String)>,
    list: &Reference,
    aws: &Aws,
) -> Result<Vec<Reference>, Fault> {
    let (region, partition) = match place {
        Some(place) => place.clone(),
        None => {
            let region = aws.region().await?;
            let partition = partition_of(&region).to_owned();
            (region, partition)
        }
    };
    let what = format!("Could not read the list {list} from AWS Systems Manager");
    let resource = format!("arn:{partition}:ssm:{region}:*:parameter{path}/*");
    let place = CallTarget { region: &region, partition: &partition };
    let (mut found, mut next) = (Vec::new(), Value::Null);
    for _ in 0..MOST_PAGES {
        let mut body = json!({"Path": path, "Recursive": true, "WithDecryption": false, "MaxResults": 10});
        if !next.is_null() {
            body["NextToken"] = next;
        }
        let page = aws.call(AwsService::Ssm, "GetParametersByPath", body.to_string(), place, AnswerSecrecy::Free).await;
        let page = page.map_err(|failure| {
            let action = "ssm:GetParametersByPath";
            let call = Call { service: AwsService::Ssm, place, action, resource: &resource, named_by: list.origin() };
            aws.fault(&failure, &what, &CODES, &call)
        })?;
        let page: Value = serde_json::from_slice(&page)
            .map_err(|error| Fault::new(Code::CredSpecUnreachable, what.as_str()).because(json_reason(&error)))?;
        let arns = page["Parameters"].as_array().into_iter().flatten().filter_map(|entry| entry["ARN"].as_str());
        found.extend(arns.filter(|arn| !arn.contains(char::is_control)).map(|arn| {
            let (region, partition) = (region.clone(), partition.clone());
            Reference::found(SpecLocation::Ssm(Parameter { arn: arn.to_owned(), region, partition }), list)
        }));
        if found.len() > MOST_LISTED {
            return Err(too_many(list));
        }
        next = page["NextToken"].clone();
        if next.as_str().is_none_or(str::is_empty) {
            return Ok(found);
        }
    }
    Err(too_many(list))
}

/// Where a region is, for an ARN that nobody wrote.
fn partition_of(region: &str) -> &'static str {
    match region {
        _ if region.starts_with("cn-") => "aws-cn",
        _ if region.starts_with("us-gov-") => "aws-us-gov",
        _ if region.starts_with("eusc-") => "aws-eusc",
        _ if region.starts_with("us-iso-") => "aws-iso",
        _ if region.starts_with("us-isob-") => "aws-iso-b",
        _ => "aws",
    }
}

impl Object {
    /// Reads the object; where S3 says that the bucket lies in another region, there.
    async fn read(&self, aws: &Aws, named_by: &str) -> Result<Vec<u8>, Fault> {
        let mut region = match self.region.clone().or_else(|| aws.bucket_region(&self.bucket)) {
            Some(region) => region,
            None => aws.region().await?,
        };
        let mut result = self.read_in(&region, aws).await;
        if let Err(ReadFailure::Failed(failure)) = &result
            && let Some(other) = failure.redirect(&region).map(str::to_owned)
        {
            aws.remember_bucket(&self.bucket, &other);
            result = self.read_in(&other, aws).await;
            region = other;
        }
        result.map_err(|lost| match lost {
            ReadFailure::TooLarge => too_large(),
            ReadFailure::Failed(failure) => {
                let partition = self.arn.split(':').nth(1).unwrap_or("aws");
                let place = CallTarget { region: &region, partition };
                let action = "s3:GetObject";
                let call = Call { service: AwsService::S3, place, action, resource: &self.arn, named_by };
                aws.fault(&failure, "Could not read the CredSpec from Amazon S3", &CODES, &call)
            }
        })
    }

    /// What a call takes of memory it takes once it has its turn.
    async fn read_in(&self, region: &str, aws: &Aws) -> Result<Vec<u8>, ReadFailure> {
        let _turn = aws.turn(AwsService::S3).await;
        Box::pin(self.read_now(region, aws)).await
    }

    async fn read_now(&self, region: &str, aws: &Aws) -> Result<Vec<u8>, ReadFailure> {
        let request = aws.s3(&self.bucket, region).await.get_object().bucket(&self.bucket).key(&self.key);
        let sent =
            request.send().await.map_err(|error| ReadFailure::Failed(Failure::of(&error, AnswerSecrecy::Free)))?;
        let mut body = sent.body;
        let mut document = Vec::new();
        let broken = |why: &str| ReadFailure::Failed(Failure::Unreachable(why.to_owned()));
        // The deadlines of the SDK end with the head of the answer.
        let read = async {
            while let Some(part) = body.next().await {
                document.extend_from_slice(&part.map_err(|_| broken("the answer broke off"))?);
                if document.len() > LIMIT {
                    return Err(ReadFailure::TooLarge);
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
    async fn read(&self, aws: &Aws, named_by: &str) -> Result<Vec<u8>, Fault> {
        const WHAT: &str = "Could not read the CredSpec from AWS Systems Manager";
        let place = CallTarget { region: &self.region, partition: &self.partition };
        let value = secret::parameter(&self.arn, place, aws, AnswerSecrecy::Free).await.map_err(|failure| {
            let action = "ssm:GetParameters";
            let call = Call { service: AwsService::Ssm, place, action, resource: &self.arn, named_by };
            aws.fault(&failure, WHAT, &CODES, &call)
        })?;
        Ok(value.text.as_bytes().to_vec())
    }
}

/// Why an object was not read.
enum ReadFailure {
    TooLarge,
    Failed(Failure),
}

/// Reads a file of at most 64 KiB, within a deadline: it may lie on a network's file system.
async fn read_file(path: &Path, named_by: &str) -> Result<Vec<u8>, Fault> {
    let unreadable = || Fault::new(Code::CredSpecUnreadable, "Could not read the CredSpec file");
    let file = path.to_owned();
    let read = tokio::task::spawn_blocking(move || file::read(&file, LIMIT));
    let shown = path.display().to_string();
    match timeout(BODY_DEADLINE, read).await {
        Err(_) => Err(unreadable().because(format!("the file system did not answer within {BODY_DEADLINE:?}"))),
        Ok(Err(error)) => Err(unreadable().caused_by(&error)),
        Ok(Ok(Ok(document))) => Ok(document),
        Ok(Ok(Err(Unread::TooLarge(_)))) => Err(too_large()),
        Ok(Ok(Err(Unread::Io(error)))) if error.kind() == std::io::ErrorKind::NotFound => {
            let shown = plain(&shown, 200);
            let fault = unreadable().because("no such file in the sidecar's container");
            Err(fault
                .with_next(format!("mount the file at {shown} into the sidecar's container, or correct {named_by}")))
        }
        Ok(Ok(Err(Unread::Io(error)))) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            let fault = unreadable().because(format!("permission denied for {}: {}", caller(), belongs(path)));
            Err(fault.with_next(format!("chmod o+r {} (and o+x on its folders)", shell(&shown))))
        }
        Ok(Ok(Err(error))) => {
            let fault = unreadable().because(error);
            Err(fault.with_next(format!("name a regular file in {named_by}")))
        }
    }
}

const BODY_DEADLINE: Duration = Duration::from_secs(5);

const CODES: Codes = Codes {
    credentials: Code::CredSpecAwsCredentials,
    credentials_later: Code::CredSpecAwsCredentialsFailed,
    denied: Code::CredSpecDenied,
    unreachable: Code::CredSpecUnreachable,
    not_found: Code::CredSpecNotFound,
    unusable: Code::CredSpecUnreachable,
};
