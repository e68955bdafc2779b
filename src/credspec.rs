//! The CredSpec: which gMSA of which domain, and where the login is.
//!
//! <https://docs.aws.amazon.com/AmazonECS/latest/developerguide/linux-gmsa.html>

use std::fmt;
use std::hash::{Hash, Hasher};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::arn::Arn;
use crate::aws::{Aws, Codes, Failure, Place, Service};
use crate::fault::{Code, Fault};
use crate::name::{Account, Domain};
use crate::secret::SecretArn;
use crate::text::json_reason;

/// A CredSpec, read and sound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredSpec {
    domain: Domain,
    accounts: Vec<Account>,
    login: LoginSource,
}

/// Where the login comes from. The document decides, not the prefix of its reference.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum LoginSource {
    /// Domainless: `HostAccountConfig.PluginInput.CredentialArn`.
    Secret(SecretArn),
    /// Domain-joined: the document names no secret, so the login is the sidecar's own.
    DomainJoined,
    /// Brought by the request that asks for the lease.
    Given(Arc<GivenLogin>),
    /// None is at hand until the next request: a lease goes on with the gMSA's key, if it has that.
    Absent,
}

/// A login that a request brought. It is held in memory only, while a lease uses it.
#[derive(Clone, PartialEq, Eq)]
pub struct GivenLogin {
    /// The account.
    pub user: String,
    /// Its domain.
    pub domain: Domain,
    /// Its password.
    pub password: Zeroizing<String>,
}

impl fmt::Debug for GivenLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GivenLogin({}@{})", self.user, self.domain)
    }
}

impl Hash for GivenLogin {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.user, &self.domain).hash(state);
    }
}

impl CredSpec {
    /// Reads a document of at most 64 KiB (UTF-8, a BOM is ignored, unknown fields are too).
    pub fn parse(document: &[u8]) -> Result<Self, Fault> {
        if document.len() > LIMIT {
            return Err(too_large());
        }
        let document = document.strip_prefix(b"\xef\xbb\xbf").unwrap_or(document);
        if document.trim_ascii().is_empty() {
            return Err(malformed("it is empty"));
        }
        let document: Value = serde_json::from_slice(document).map_err(|error| malformed(json_reason(&error)))?;
        if !document.is_object() {
            return Err(malformed("it is no JSON object"));
        }
        let domain = text(&document["DomainJoinConfig"]["DnsName"], "DomainJoinConfig.DnsName")?;
        let domain = domain.parse().map_err(|error| malformed(format!("`DomainJoinConfig.DnsName`: {error}")))?;
        let directory = &document["ActiveDirectoryConfig"];
        let accounts = accounts(&directory["GroupManagedServiceAccounts"])?;
        let login = login_source(&directory["HostAccountConfig"]["PluginInput"])?;
        Ok(Self { domain, accounts, login })
    }

    /// The gMSAs' domain (`DomainJoinConfig.DnsName`), and the login's if its secret names none.
    pub fn domain(&self) -> &Domain {
        &self.domain
    }

    /// The gMSAs, at least one, all different: one lease each.
    pub fn accounts(&self) -> &[Account] {
        &self.accounts
    }

    /// Where the login comes from.
    pub fn login(&self) -> &LoginSource {
        &self.login
    }
}

/// One account is usually listed twice, with the domain's NetBIOS name and its DNS name as `Scope`.
fn accounts(list: &Value) -> Result<Vec<Account>, Fault> {
    const FIELD: &str = "ActiveDirectoryConfig.GroupManagedServiceAccounts";
    let entries = match list {
        Value::Null => return Err(malformed(format!("`{FIELD}` is missing"))),
        Value::Array(entries) => entries,
        _ => return Err(malformed(format!("`{FIELD}` is no array"))),
    };
    let mut accounts: Vec<Account> = Vec::new();
    for (place, entry) in entries.iter().enumerate() {
        let field = format!("{FIELD}[{place}].Name");
        let account = text(&entry["Name"], &field)?;
        let account: Account = account.parse().map_err(|error| malformed(format!("`{field}`: {error}")))?;
        if !accounts.iter().any(|known| known.same_as(account.as_str())) {
            accounts.push(account);
        }
    }
    if accounts.is_empty() { Err(malformed(format!("`{FIELD}` is empty"))) } else { Ok(accounts) }
}

/// `PluginInput` is an object, or (as Windows has it) a string that holds one.
fn login_source(input: &Value) -> Result<LoginSource, Fault> {
    const FIELD: &str = "ActiveDirectoryConfig.HostAccountConfig.PluginInput";
    let decoded;
    let input = match input {
        Value::String(text) => {
            decoded = serde_json::from_str(text)
                .map_err(|error| malformed(format!("`{FIELD}` is a string without JSON: {}", json_reason(&error))))?;
            &decoded
        }
        input => input,
    };
    if !input.is_object() && !input.is_null() {
        return Err(malformed(format!("`{FIELD}` is no object")));
    }
    match &input["CredentialArn"] {
        Value::Null => Ok(LoginSource::DomainJoined),
        arn => {
            let field = format!("{FIELD}.CredentialArn");
            let arn = text(arn, &field)?.parse().map_err(|error| malformed(format!("`{field}`: {error}")))?;
            Ok(LoginSource::Secret(arn))
        }
    }
}

fn text<'a>(value: &'a Value, field: &str) -> Result<&'a str, Fault> {
    match value {
        Value::Null => Err(malformed(format!("`{field}` is missing"))),
        Value::String(text) if text.is_empty() => Err(malformed(format!("`{field}` is empty"))),
        Value::String(text) => Ok(text),
        _ => Err(malformed(format!("`{field}` is no string"))),
    }
}

fn malformed(why: impl fmt::Display) -> Fault {
    Fault::new(Code::CredSpecMalformed, "the CredSpec cannot be used").because(why)
}

fn too_large() -> Fault {
    Fault::new(Code::CredSpecTooLarge, format!("the CredSpec is larger than {LIMIT} bytes"))
}

/// A place that a CredSpec comes from, as users name it: `credentialspecdomainless:ARN`, `credentialspec:ARN`, a
/// bare ARN, `file:///path` (with or without prefix), or the document itself.
///
/// Its `Display` is what users see as `spec` in `/ready`: the ARN, `file:///path`, or `inline`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// Whether it was named by `credentialspecdomainless:`, so that a document without a secret is a mistake.
    domainless: bool,
    source: Source,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    S3(Object),
    Ssm(Parameter),
    File(PathBuf),
    Inline(String),
}

/// An object in S3. The key is raw: it is never URL-decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Object {
    arn: String,
    /// Its name, or the ARN of an access point.
    bucket: String,
    /// The access point's; that of a bucket is found out.
    region: Option<String>,
    key: String,
}

/// A parameter in SSM.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Parameter {
    arn: String,
    region: String,
    partition: String,
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
fn object(text: &str, arn: Arn<'_>) -> Result<Object, &'static str> {
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

/// Bytes.
const LIMIT: usize = 64 * 1024;
const BODY_DEADLINE: Duration = Duration::from_secs(5);

const CODES: Codes = Codes {
    credentials: Code::CredSpecAwsCredentials,
    denied: Code::CredSpecDenied,
    unreachable: Code::CredSpecUnreachable,
    not_found: Code::CredSpecNotFound,
    unusable: Code::CredSpecUnreachable,
};

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;
    use serde_json::json;

    use crate::aws::tests::{aws_at, http, server};

    const SECRET: &str = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:gmsa/login-AbCdEf";

    fn document() -> Value {
        json!({
            "CmsPlugins": ["ActiveDirectory"],
            "DomainJoinConfig": {"DnsName": "Corp.Example.COM", "NetBiosName": "CORP", "Sid": "S-1-5-21"},
            "ActiveDirectoryConfig": {
                "GroupManagedServiceAccounts": [
                    {"Name": "WebApp01", "Scope": "corp.example.com"},
                    {"Name": "WEBAPP01$", "Scope": "CORP"},
                    {"Name": "WebApp02", "Scope": "CORP"},
                ],
                "HostAccountConfig": {"PortableCcgVersion": "1", "PluginInput": {"CredentialArn": SECRET}},
            },
        })
    }

    fn parse(document: &Value) -> Result<CredSpec, Fault> {
        CredSpec::parse(document.to_string().as_bytes())
    }

    #[test]
    fn a_sound_document_is_read_and_one_account_is_one() {
        let spec = parse(&document()).unwrap();
        assert_eq!(spec.domain().as_str(), "corp.example.com");
        let names: Vec<_> = spec.accounts().iter().map(Account::as_str).collect();
        assert_eq!(names, ["WebApp01", "WebApp02"]);
        assert_eq!(spec.login(), &LoginSource::Secret(SECRET.parse().unwrap()));
        let with_bom = format!("\u{feff}{}", document());
        assert_eq!(CredSpec::parse(with_bom.as_bytes()).unwrap(), spec);
        let mut windows = document();
        let input = json!({"CredentialArn": SECRET}).to_string();
        windows["ActiveDirectoryConfig"]["HostAccountConfig"]["PluginInput"] = input.into();
        assert_eq!(parse(&windows).unwrap(), spec);
        let mut joined = document();
        joined["ActiveDirectoryConfig"]["HostAccountConfig"] = Value::Null;
        assert_eq!(parse(&joined).unwrap().login(), &LoginSource::DomainJoined);
    }

    #[test]
    fn a_fault_names_the_field() {
        let directory = "/ActiveDirectoryConfig";
        for (at, value, why) in [
            ("/DomainJoinConfig", json!(null), "`DomainJoinConfig.DnsName` is missing"),
            ("/DomainJoinConfig/DnsName", json!(7), "`DomainJoinConfig.DnsName` is no string"),
            ("/DomainJoinConfig/DnsName", json!("a b"), "`DomainJoinConfig.DnsName`: domain `a b` is not"),
            (directory, json!([]), "`ActiveDirectoryConfig.GroupManagedServiceAccounts` is missing"),
            ("/ActiveDirectoryConfig/GroupManagedServiceAccounts", json!([]), "is empty"),
            ("/ActiveDirectoryConfig/GroupManagedServiceAccounts", json!({}), "is no array"),
            ("/ActiveDirectoryConfig/GroupManagedServiceAccounts/1/Name", json!(null), "[1].Name` is missing"),
            ("/ActiveDirectoryConfig/GroupManagedServiceAccounts/0/Name", json!("../x"), "[0].Name`: account name"),
            ("/ActiveDirectoryConfig/HostAccountConfig/PluginInput", json!("x"), "PluginInput` is a string without"),
            ("/ActiveDirectoryConfig/HostAccountConfig/PluginInput", json!(1), "PluginInput` is no object"),
            ("/ActiveDirectoryConfig/HostAccountConfig/PluginInput/CredentialArn", json!("x"), "CredentialArn`: `x`"),
            (
                "/ActiveDirectoryConfig/HostAccountConfig/PluginInput/CredentialArn",
                json!(""),
                "CredentialArn` is empty",
            ),
        ] {
            let mut broken = document();
            *broken.pointer_mut(at).unwrap() = value;
            let fault = parse(&broken).unwrap_err();
            assert_eq!(fault.code, Code::CredSpecMalformed);
            assert!(fault.why.as_deref().unwrap().contains(why), "{fault}");
        }
        let code = |text: &[u8]| CredSpec::parse(text).unwrap_err();
        assert_eq!(code(b" \n").why.as_deref(), Some("it is empty"));
        assert_eq!(code(b"[]").why.as_deref(), Some("it is no JSON object"));
        assert_eq!(code(b"{\"a\":").why.as_deref(), Some("it ends too early (line 1, column 5)"));
        assert_eq!(code(b"{\"a\" 1}").why.as_deref(), Some("it is not JSON (line 1, column 6)"));
        assert_eq!(code(&vec![b' '; LIMIT + 1]).code, Code::CredSpecTooLarge);
    }

    #[test]
    fn references_are_read_in_every_form() {
        let text = "credentialspecdomainless:arn:aws:s3:::bucket/a.json, credentialspec:arn:aws-cn:s3:::bucket/b%20c+d\n\
                    arn:aws-us-gov:ssm:us-gov-west-1:123456789012:parameter/gmsa/x file:///etc/spec.json,,\
                    credentialspec:file:///x arn:aws:s3:::bucket/a.json arn:aws:s3:::bucket/a.json";
        let references = parse_references(text).unwrap();
        let shown: Vec<_> = references.iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            [
                "arn:aws:s3:::bucket/a.json",
                "arn:aws-cn:s3:::bucket/b%20c+d",
                "arn:aws-us-gov:ssm:us-gov-west-1:123456789012:parameter/gmsa/x",
                "file:///etc/spec.json",
                "file:///x",
                "arn:aws:s3:::bucket/a.json",
            ]
        );
        assert!(references[0].domainless && !references[1].domainless && !references[5].domainless);
        let inline = parse_references(" {\"a\": 1} ").unwrap();
        assert_eq!((inline.len(), inline[0].to_string().as_str()), (1, "inline"));
    }

    #[test]
    fn a_json_array_takes_keys_with_spaces_commas_and_any_script() {
        let text = r#"["arn:aws:s3:::bucket/teams/a b,c/wëb 01.json", "file:///a b"]"#;
        let references = parse_references(text).unwrap();
        assert_eq!(references[0].to_string(), "arn:aws:s3:::bucket/teams/a b,c/wëb 01.json");
        assert_eq!(references[1].to_string(), "file:///a b");
        for text in ["[", "[1]", r#"["arn:aws:s3:::b\u0000ucket/k"]"#, "[]", r#"[{"CmsPlugins":[]}]"#] {
            assert!(parse_references(text).is_err(), "{text}");
        }
    }

    #[test]
    fn all_errors_are_told() {
        let errors =
            parse_references("x arn:aws:s3:::bucket file://x arn:aws:s3:::bucket/k arn:aws:iam::1:x").unwrap_err();
        let told: Vec<_> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "`x` is no CredSpec: the ARN of an S3 object or an SSM parameter, or `file:///path` is wanted, alone or after `credentialspecdomainless:` or `credentialspec:`, or a JSON document",
                "`arn:aws:s3:::bucket` names a bucket but no key",
                "`file://x` needs an absolute path: file:///path",
                "`arn:aws:iam::1:x` names no account of twelve digits",
            ]
        );
        assert_eq!(parse_references(" , ").unwrap_err()[0].to_string(), "`,` names no CredSpec");
    }

    #[test]
    fn an_object_is_in_a_bucket_or_behind_an_access_point() {
        let parse = |text: &str| object(text, Arn::parse(text).unwrap());
        let behind = parse("arn:aws-cn:s3:cn-north-1:123456789012:accesspoint/my-ap/object/a/object/b.json").unwrap();
        assert_eq!(behind.bucket, "arn:aws-cn:s3:cn-north-1:123456789012:accesspoint/my-ap");
        assert_eq!((behind.region.as_deref(), behind.key.as_str()), (Some("cn-north-1"), "a/object/b.json"));
        for text in [
            "arn:aws:s3:eu-west-1:123456789012:bucket/key",
            "arn:aws:s3:eu-west-1:123456789012:accesspoint/my-ap/key",
            "arn:aws:s3:eu-west-1:123456789012:accesspoint/my-ap/object/",
            "arn:aws:s3:eu-west-1:123456789012:accesspoint/a/b/object/key",
            "arn:aws:s3:eu-west-1::accesspoint/my-ap/object/key",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_label_takes_arns_only() {
        assert!(parse_label("arn:aws:s3:::bucket/k arn:aws:ssm:eu-central-1:123456789012:parameter/x").is_ok());
        for text in ["file:///etc/shadow", "{}", "arn:aws:s3:::bucket/k credentialspec:file:///x"] {
            assert!(parse_label(text).unwrap_err()[0].to_string().ends_with("only ARNs are"), "{text}");
        }
    }

    async fn fetch_from(reference: &str, answers: Vec<Vec<u8>>) -> Result<CredSpec, Fault> {
        fetch(&reference.parse().unwrap(), &aws_at(&server(answers))).await
    }

    #[tokio::test]
    async fn refusals_of_s3_have_their_codes() {
        const OBJECT: &str = "arn:aws:s3:::bucket/key";
        let error = |status, name: &str| http(status, "", format!("<Error><Code>{name}</Code></Error>").as_bytes());
        for (answer, code) in [
            (error(404, "NoSuchKey"), Code::CredSpecNotFound),
            (error(404, "NoSuchBucket"), Code::CredSpecNotFound),
            (error(403, "AccessDenied"), Code::CredSpecDenied),
            (error(403, "InvalidAccessKeyId"), Code::CredSpecAwsCredentials),
            (http(403, "", b""), Code::CredSpecDenied),
            (http(200, "", b"<html>log in to the network</html>"), Code::CredSpecMalformed),
            (http(200, "", &vec![b' '; LIMIT + 1]), Code::CredSpecTooLarge),
        ] {
            let fault = fetch_from(OBJECT, vec![answer]).await.unwrap_err();
            assert_eq!(fault.code, code, "{fault}");
            assert!(fault.what.contains(OBJECT), "{fault}");
        }
    }

    #[tokio::test]
    async fn a_bucket_elsewhere_is_read_there_and_remembered() {
        let moved =
            || http(301, "x-amz-bucket-region: us-west-2\r\n", b"<Error><Code>PermanentRedirect</Code></Error>");
        let found = || http(200, "", document().to_string().as_bytes());
        let aws = aws_at(&server(vec![moved(), found(), found(), moved(), moved()]));
        let reference: Reference = "arn:aws:s3:::bucket/key".parse().unwrap();
        fetch(&reference, &aws).await.unwrap();
        assert_eq!(aws.bucket_region("bucket").as_deref(), Some("us-west-2"));
        fetch(&reference, &aws).await.unwrap();
        // Sent to and fro: once is enough.
        let other: Reference = "arn:aws:s3:::other/key".parse().unwrap();
        assert_eq!(fetch(&other, &aws).await.unwrap_err().code, Code::CredSpecUnreachable);
    }

    #[tokio::test]
    async fn files_are_read_within_limits() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a b.json");
        let write = |text: &str| {
            use std::io::Write;
            let mut file = std::fs::OpenOptions::new().create(true).truncate(true).write(true).open(&path).unwrap();
            file.write_all(text.as_bytes()).unwrap();
        };
        let reference = format!("credentialspecdomainless:file://{}", path.display());
        let code = async || fetch_from(&reference, vec![]).await.map_err(|fault| fault.code);
        assert_eq!(code().await.unwrap_err(), Code::CredSpecUnreadable);
        write(&document().to_string());
        assert!(code().await.is_ok());
        let mut joined = document();
        joined["ActiveDirectoryConfig"]["HostAccountConfig"] = Value::Null;
        write(&joined.to_string());
        assert_eq!(code().await.unwrap_err(), Code::CredSpecCredentialArnMissing);
        let zeros = fetch_from("file:///dev/zero", vec![]).await.unwrap_err();
        assert_eq!(zeros.code, Code::CredSpecTooLarge);
    }

    proptest! {
        #[test]
        fn any_document_is_read_or_refused(text in "\\PC{0,200}") {
            let _ = CredSpec::parse(text.as_bytes());
        }

        #[test]
        fn what_a_reference_shows_has_no_control_characters(text in "(credentialspec:)?(arn:aws:s3:::bucket/|file:///).{0,40}") {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert!(!reference.to_string().contains(char::is_control));
            }
            let _ = parse_references(&text);
        }
    }
}
