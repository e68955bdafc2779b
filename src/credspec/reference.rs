//! The places that CredSpecs come from, as users name them.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use serde_json::Value;

use super::LIMIT;
use crate::aws::arn::{Arn, placeholder};
use crate::text::json_reason;

/// A place that a CredSpec comes from, as users name it: `credentialspecdomainless:ARN`, `credentialspec:ARN`, a
/// bare ARN, `file:///path` (with or without prefix), or the document itself; or a list of such places,
/// `s3://bucket/prefix/` or an SSM path that ends in `/`.
///
/// Its `Display` is what users see as `spec` in `/ready`: the ARN, `file:///path`, `s3://bucket/prefix/`, or `inline`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// Whether it was named by `credentialspecdomainless:`, so that a document without a secret is a mistake.
    pub(super) domainless: bool,
    pub(super) source: SpecLocation,
    /// What names it, for messages.
    pub(super) named_by: ValueOrigin,
}

/// Where a value was written. It says nothing of what the value is: all origins are equal.
#[derive(Debug, Clone, Default)]
pub(super) struct ValueOrigin(Option<Arc<str>>);

impl PartialEq for ValueOrigin {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for ValueOrigin {}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SpecLocation {
    S3(Object),
    Ssm(Parameter),
    File(PathBuf),
    Inline(String),
    List(SpecList),
}

/// A list of CredSpecs, read again and again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SpecList {
    /// Every object under a prefix whose key ends in `.json`.
    S3 { bucket: String, prefix: String },
    /// Every parameter under a path; without an ARN in the task's region.
    Ssm { path: String, place: Option<(String, String)>, text: String },
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
        matches!(self.source, SpecLocation::S3(_) | SpecLocation::Ssm(_) | SpecLocation::List(_))
    }

    /// Whether it names a list of CredSpecs and not one: it is read by [`list`](super::list).
    pub fn is_list(&self) -> bool {
        matches!(self.source, SpecLocation::List(_))
    }

    /// Says what names it: a variable, a label of a container, a task definition, a list.
    #[must_use]
    pub fn named_by(mut self, origin: &str) -> Self {
        self.named_by = ValueOrigin(Some(origin.into()));
        self
    }

    /// What names it.
    pub fn origin(&self) -> &str {
        self.named_by.0.as_deref().unwrap_or("GMSA_CREDENTIAL_SPECS")
    }

    /// Where the document is, for people: its ARN or path, or the variable that holds it.
    pub(crate) fn place(&self) -> String {
        match &self.source {
            SpecLocation::Inline(_) => format!("{} (inline)", self.origin()),
            _ => self.to_string(),
        }
    }

    /// What was found in a list.
    pub(super) fn found(source: SpecLocation, list: &Self) -> Self {
        let named_by = ValueOrigin(Some(format!("the list {list}").into()));
        Self { domainless: list.domainless, source, named_by }
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let refuse = |why: &str| ReferenceError { text: text.chars().take(300).collect(), why: why.to_owned() };
        if text.trim_start().starts_with('{') {
            return Ok(Self {
                domainless: false,
                source: SpecLocation::Inline(text.to_owned()),
                named_by: ValueOrigin::default(),
            });
        }
        let domainless = text.strip_prefix("credentialspecdomainless:");
        let place = domainless.or_else(|| text.strip_prefix("credentialspec:")).unwrap_or(text);
        if let Some(placeholder) = placeholder(place) {
            return Err(refuse(&format!("holds a placeholder, {placeholder}: write the real value")));
        }
        let source = if let Some(path) = place.strip_prefix("file://") {
            if !path.starts_with('/') {
                return Err(refuse("needs an absolute path: file:///path"));
            }
            if path.contains(char::is_control) {
                return Err(refuse("holds control characters"));
            }
            SpecLocation::File(PathBuf::from(path))
        } else if place.starts_with("arn:") {
            let arn = Arn::parse(place).map_err(|error| refuse(&error.to_string()))?;
            match arn.service {
                "s3" => SpecLocation::S3(object(place, arn).map_err(refuse)?),
                "ssm" if place.ends_with('/') => SpecLocation::List(parameters(place, arn).map_err(refuse)?),
                "ssm" => SpecLocation::Ssm(parameter(place, arn).map_err(refuse)?),
                _ => return Err(refuse("is not the ARN of an S3 object or an SSM parameter")),
            }
        } else if let Some(path) = place.strip_prefix("s3://") {
            SpecLocation::List(objects(path).map_err(|why| refuse(&why))?)
        } else if place.len() > 1 && place.starts_with('/') && place.ends_with('/') {
            let path = parameter_path(place).map_err(refuse)?;
            SpecLocation::List(SpecList::Ssm { path, place: None, text: place.to_owned() })
        } else {
            return Err(refuse(
                "is not the place of a CredSpec: expected are the ARN of an S3 object or an SSM parameter or `file:///path`, alone or after `credentialspecdomainless:` or `credentialspec:`; or `s3://bucket/prefix/`; or a JSON document",
            ));
        };
        Ok(Self { domainless: domainless.is_some(), source, named_by: ValueOrigin::default() })
    }
}

impl Reference {
    /// The file it names, if it names one.
    pub fn path(&self) -> Option<&std::path::Path> {
        match &self.source {
            SpecLocation::File(path) => Some(path),
            _ => None,
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            SpecLocation::S3(object) => f.write_str(&object.arn),
            SpecLocation::Ssm(parameter) => f.write_str(&parameter.arn),
            SpecLocation::File(path) => write!(f, "file://{}", path.display()),
            SpecLocation::Inline(_) => f.write_str("inline"),
            SpecLocation::List(SpecList::S3 { bucket, prefix }) => write!(f, "s3://{bucket}/{prefix}"),
            SpecLocation::List(SpecList::Ssm { text, .. }) => f.write_str(text),
        }
    }
}

/// `arn:PARTITION:s3:::BUCKET/KEY`, or `arn:PARTITION:s3:REGION:ACCOUNT:accesspoint/NAME/object/KEY`, as policies name
/// an object behind an access point.
pub(super) fn object(text: &str, arn: Arn<'_>) -> Result<Object, &'static str> {
    const ACCESS_POINT: &str = "is not the ARN of an S3 object: neither arn:aws:s3:::BUCKET/KEY, which has no region and no \
                                account, nor arn:aws:s3:REGION:ACCOUNT:accesspoint/NAME/object/KEY";
    let (bucket, region, key) = if arn.region.is_empty() && arn.account.is_empty() {
        let (bucket, key) = arn.resource.split_once('/').ok_or("names a bucket but no key")?;
        if !is_name(bucket) {
            return Err("does not name a bucket");
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
        return Err("does not name a key of 1 to 1024 bytes");
    }
    Ok(Object { arn: text.to_owned(), bucket, region, key: key.to_owned() })
}

/// The name of a bucket or an access point.
fn is_name(name: &str) -> bool {
    let in_name = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    (3..=255).contains(&name.len()) && name.chars().all(in_name)
}

/// `BUCKET/PREFIX/`, from behind `s3://`.
fn objects(path: &str) -> Result<SpecList, String> {
    let (bucket, prefix) = path.split_once('/').unwrap_or((path, ""));
    if !is_name(bucket) {
        return Err("does not name a bucket".to_owned());
    }
    if path.chars().any(char::is_control) || prefix.len() > 1024 {
        return Err("does not name a prefix of at most 1024 bytes without control characters".to_owned());
    }
    if !path.ends_with('/') {
        let arn = format!("arn:aws:s3:::{bucket}/{prefix}").escape_debug().to_string();
        return Err(format!("names a list and must end in `/`; one object is named by its ARN, {arn}"));
    }
    Ok(SpecList::S3 { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
}

/// `arn:PARTITION:ssm:REGION:ACCOUNT:parameter/PATH/`.
fn parameters(text: &str, arn: Arn<'_>) -> Result<SpecList, &'static str> {
    parameter(text, arn)?;
    let path = parameter_path(arn.resource.strip_prefix("parameter").unwrap_or_default())?;
    let place = Some((arn.region.to_owned(), arn.partition.to_owned()));
    Ok(SpecList::Ssm { path, place, text: text.to_owned() })
}

/// A path of parameters without the slash at its end, as the API takes it.
fn parameter_path(path: &str) -> Result<String, &'static str> {
    let name = path.trim_end_matches('/');
    let in_path = |c: char| c.is_ascii_alphanumeric() || "/_.-".contains(c);
    if !(2..=1011).contains(&name.len()) || !name.starts_with('/') || !name.chars().all(in_path) {
        return Err("is not a path of SSM parameters, /NAME/NAME/");
    }
    Ok(name.to_owned())
}

/// `arn:PARTITION:ssm:REGION:ACCOUNT:parameter/NAME`, with `:VERSION` or `:LABEL` if need be.
fn parameter(text: &str, arn: Arn<'_>) -> Result<Parameter, &'static str> {
    if arn.region.is_empty() || arn.account.is_empty() || !arn.resource.starts_with("parameter/") {
        return Err("is not the ARN of a parameter, arn:aws:ssm:REGION:ACCOUNT:parameter/NAME");
    }
    Ok(Parameter { arn: text.to_owned(), region: arn.region.to_owned(), partition: arn.partition.to_owned() })
}

/// A text does not name the place of a CredSpec; the message quotes it with its control characters escaped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}` {why}", .text.escape_debug())]
pub struct ReferenceError {
    text: String,
    why: String,
}

impl ReferenceError {
    /// A task or a list names more than [`MOST_LISTED`].
    pub(super) fn too_many(first: &Reference, count: usize) -> Self {
        let why = format!("is one of {count} CredSpecs, and a task may name {MOST_LISTED} at most");
        Self { text: first.to_string().chars().take(300).collect(), why }
    }
}

/// CredSpecs that a task or a list may name.
pub(super) const MOST_LISTED: usize = 500;

/// Reads `GMSA_CREDENTIAL_SPECS`: references separated by white space or commas; or a JSON array of them, so that
/// keys may hold both; or one document. What is named twice is one. All errors are told.
pub fn parse_references(text: &str) -> Result<Vec<Reference>, Vec<ReferenceError>> {
    let text = text.trim();
    let refuse = |why: String| vec![ReferenceError { text: text.chars().take(300).collect(), why }];
    let words: Vec<String> = if text.starts_with('{') {
        vec![text.to_owned()]
    } else if text.starts_with('[') {
        let array: Vec<Value> = serde_json::from_str(text)
            .map_err(|error| refuse(format!("is not a JSON array of strings: {}", json_reason(&error))))?;
        let strings = array.iter().map(|word| word.as_str().map(str::to_owned)).collect::<Option<_>>();
        strings.ok_or_else(|| refuse("is not a JSON array of strings".into()))?
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
        (true, true) => Err(refuse("does not name a CredSpec".into())),
        (_, true) => Ok(references),
        (_, false) => Err(errors),
    }
}

/// Whether what names CredSpecs can come from a task definition, which has at most 64 KiB: `octets` so far, `text` the last.
pub(super) fn fits(text: &str, octets: usize) -> Result<(), ReferenceError> {
    if octets <= LIMIT {
        return Ok(());
    }
    let why = format!("is too much: {octets} bytes name CredSpecs, and a task definition has {LIMIT} at most");
    Err(ReferenceError { text: text.chars().take(40).collect(), why })
}

/// The same syntax as the label has it: ARNs only, since neither the sidecar's files nor a document belong to
/// whoever sets the label of some container.
pub fn parse_label(text: &str) -> Result<Vec<Reference>, Vec<ReferenceError>> {
    fits(text, text.len()).map_err(|error| vec![error])?;
    let references = parse_references(text)?;
    let elsewhere: Vec<_> = references.iter().filter(|reference| !reference.is_in_aws()).collect();
    if elsewhere.is_empty() {
        return Ok(references);
    }
    let refuse = |reference: &&Reference| ReferenceError {
        text: reference.to_string(),
        why: "is not allowed in a label or a task definition: only ARNs are".to_owned(),
    };
    Err(elsewhere.iter().map(refuse).collect())
}
