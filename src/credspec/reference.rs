//! The places that CredSpecs come from, as users name them.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde_json::Value;

use crate::aws::arn::Arn;
use crate::text::json_reason;

/// A place that a CredSpec comes from, as users name it: `credentialspecdomainless:ARN`, `credentialspec:ARN`, a
/// bare ARN, `file:///path` (with or without prefix), or the document itself.
///
/// Its `Display` is what users see as `spec` in `/ready`: the ARN, `file:///path`, or `inline`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// Whether it was named by `credentialspecdomainless:`, so that a document without a secret is a mistake.
    pub(super) domainless: bool,
    pub(super) source: Source,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    S3(Object),
    Ssm(Parameter),
    File(PathBuf),
    Inline(String),
}

/// An object in S3. The key is raw: it is never URL-decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Object {
    pub(super) arn: String,
    /// Its name, or the ARN of an access point.
    pub(super) bucket: String,
    /// The access point's; that of a bucket is found out.
    pub(super) region: Option<String>,
    pub(super) key: String,
}

/// A parameter in SSM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parameter {
    pub(super) arn: String,
    pub(super) region: String,
    pub(super) partition: String,
}

impl Reference {
    /// Whether the CredSpec lies in AWS: all that a label or a task definition may name.
    fn is_in_aws(&self) -> bool {
        matches!(self.source, Source::S3(_) | Source::Ssm(_))
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let refuse = |why: &str| ReferenceError { text: text.chars().take(300).collect(), why: why.to_owned() };
        if text.trim_start().starts_with('{') {
            return Ok(Self { domainless: false, source: Source::Inline(text.to_owned()) });
        }
        let domainless = text.strip_prefix("credentialspecdomainless:");
        let place = domainless.or_else(|| text.strip_prefix("credentialspec:")).unwrap_or(text);
        let source = if let Some(path) = place.strip_prefix("file://") {
            if !path.starts_with('/') {
                return Err(refuse("needs an absolute path: file:///path"));
            }
            if path.contains(char::is_control) {
                return Err(refuse("holds control characters"));
            }
            Source::File(PathBuf::from(path))
        } else if place.starts_with("arn:") {
            let arn = Arn::parse(place).map_err(|error| refuse(&error.to_string()))?;
            match arn.service {
                "s3" => Source::S3(object(place, arn).map_err(refuse)?),
                "ssm" => Source::Ssm(parameter(place, arn).map_err(refuse)?),
                _ => return Err(refuse("is no ARN of an S3 object or an SSM parameter")),
            }
        } else {
            return Err(refuse(
                "is no CredSpec: the ARN of an S3 object or an SSM parameter, or `file:///path` is wanted, alone or after `credentialspecdomainless:` or `credentialspec:`, or a JSON document",
            ));
        };
        Ok(Self { domainless: domainless.is_some(), source })
    }
}

impl Reference {
    /// The file it names, if it names one.
    pub fn path(&self) -> Option<&std::path::Path> {
        match &self.source {
            Source::File(path) => Some(path),
            _ => None,
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Source::S3(object) => f.write_str(&object.arn),
            Source::Ssm(parameter) => f.write_str(&parameter.arn),
            Source::File(path) => write!(f, "file://{}", path.display()),
            Source::Inline(_) => f.write_str("inline"),
        }
    }
}

/// `arn:PARTITION:s3:::BUCKET/KEY`, or `arn:PARTITION:s3:REGION:ACCOUNT:accesspoint/NAME/object/KEY`, as policies name
/// an object behind an access point.
pub(super) fn object(text: &str, arn: Arn<'_>) -> Result<Object, &'static str> {
    const ACCESS_POINT: &str = "is no ARN of an S3 object: neither arn:aws:s3:::BUCKET/KEY, which has no region and no \
                                account, nor arn:aws:s3:REGION:ACCOUNT:accesspoint/NAME/object/KEY";
    let in_name = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let is_name = |name: &str| (3..=255).contains(&name.len()) && name.chars().all(in_name);
    let (bucket, region, key) = if arn.region.is_empty() && arn.account.is_empty() {
        let (bucket, key) = arn.resource.split_once('/').ok_or("names a bucket but no key")?;
        if !is_name(bucket) {
            return Err("names no bucket");
        }
        (bucket.to_owned(), None, key)
    } else {
        let access_point = arn.resource.strip_prefix("accesspoint/").and_then(|rest| rest.split_once("/object/"));
        let (name, key) = access_point.ok_or(ACCESS_POINT)?;
        if !is_name(name) || arn.region.is_empty() || arn.account.is_empty() {
            return Err(ACCESS_POINT);
        }
        let Arn { partition, region, account, .. } = arn;
        (format!("arn:{partition}:s3:{region}:{account}:accesspoint/{name}"), Some(region.to_owned()), key)
    };
    if key.is_empty() || key.len() > 1024 {
        return Err("names no key of 1 to 1024 bytes");
    }
    Ok(Object { arn: text.to_owned(), bucket, region, key: key.to_owned() })
}

/// `arn:PARTITION:ssm:REGION:ACCOUNT:parameter/NAME`, with `:VERSION` or `:LABEL` if need be.
fn parameter(text: &str, arn: Arn<'_>) -> Result<Parameter, &'static str> {
    if arn.region.is_empty() || arn.account.is_empty() || !arn.resource.starts_with("parameter/") {
        return Err("is no ARN of a parameter, arn:aws:ssm:REGION:ACCOUNT:parameter/NAME");
    }
    Ok(Parameter { arn: text.to_owned(), region: arn.region.to_owned(), partition: arn.partition.to_owned() })
}

/// A text names no place of a CredSpec; the message quotes it with its control characters escaped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}` {why}", .text.escape_debug())]
pub struct ReferenceError {
    text: String,
    why: String,
}

/// Reads `GMSA_CREDENTIAL_SPECS`: references separated by white space or commas; or a JSON array of them, so that
/// keys may hold both; or one document. What is named twice is one. All errors are told.
pub fn parse_references(text: &str) -> Result<Vec<Reference>, Vec<ReferenceError>> {
    let text = text.trim();
    let refuse = |why: String| vec![ReferenceError { text: text.chars().take(300).collect(), why }];
    let words: Vec<String> = if text.starts_with('{') {
        vec![text.to_owned()]
    } else if text.starts_with('[') {
        let array: Vec<Value> = serde_json::from_str(text)
            .map_err(|error| refuse(format!("is no JSON array of strings: {}", json_reason(&error))))?;
        let strings = array.iter().map(|word| word.as_str().map(str::to_owned)).collect::<Option<_>>();
        strings.ok_or_else(|| refuse("is no JSON array of strings".into()))?
    } else {
        let separator = |c: char| c.is_whitespace() || c == ',';
        text.split(separator).filter(|word| !word.is_empty()).map(str::to_owned).collect()
    };
    let (mut references, mut errors) = (Vec::new(), Vec::new());
    for word in &words {
        match word.parse::<Reference>() {
            Ok(reference) if references.contains(&reference) => {}
            Ok(reference) => references.push(reference),
            Err(error) => errors.push(error),
        }
    }
    match (references.is_empty(), errors.is_empty()) {
        (true, true) => Err(refuse("names no CredSpec".into())),
        (_, true) => Ok(references),
        (_, false) => Err(errors),
    }
}

/// The same syntax as the label has it: ARNs only, since neither the sidecar's files nor a document belong to
/// whoever sets the label of some container.
pub fn parse_label(text: &str) -> Result<Vec<Reference>, Vec<ReferenceError>> {
    let references = parse_references(text)?;
    let elsewhere: Vec<_> = references.iter().filter(|reference| !reference.is_in_aws()).collect();
    if elsewhere.is_empty() {
        return Ok(references);
    }
    let refuse = |reference: &&Reference| ReferenceError {
        text: reference.to_string(),
        why: "is not allowed in a label or a task definition, only ARNs are".to_owned(),
    };
    Err(elsewhere.iter().map(refuse).collect())
}
