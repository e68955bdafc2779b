//! Amazon Resource Names: `arn:PARTITION:SERVICE:REGION:ACCOUNT:RESOURCE`.
//!
//! <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference-arns.html>

use std::fmt;
use std::str::FromStr;

use crate::name::Domain;
use crate::text::plain;

/// The parts of an ARN, checked so that none can steer a host name or a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arn<'a> {
    /// `aws`, `aws-cn`, `aws-us-gov`, `aws-iso`, `aws-iso-b`, `aws-iso-e`, `aws-iso-f`, `aws-eusc` or one to come.
    pub partition: &'a str,
    /// `s3`, `secretsmanager`, `ssm`, `ecs`, ...
    pub service: &'a str,
    /// Empty where the service's ARNs have none, as S3's.
    pub region: &'a str,
    /// Twelve digits; empty where the service's ARNs have none, as S3's.
    pub account: &'a str,
    /// What the service makes of it, raw: it may hold colons, spaces and any script.
    pub resource: &'a str,
}

/// A text is not an ARN; the message is a clause to put after the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ArnError(&'static str);

impl<'a> Arn<'a> {
    /// Takes an ARN apart.
    pub fn parse(text: &'a str) -> Result<Self, ArnError> {
        let mut parts = text.splitn(6, ':');
        let mut part = || parts.next().ok_or(ArnError("has fewer than the six parts of an ARN"));
        if part()? != "arn" {
            return Err(ArnError("does not begin with `arn:`"));
        }
        let arn = Self { partition: part()?, service: part()?, region: part()?, account: part()?, resource: part()? };
        let word = |part: &str| {
            part.len() <= 40 && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        };
        if !word(arn.partition) || !(arn.partition == "aws" || arn.partition.starts_with("aws-")) {
            return Err(ArnError("does not name a partition of AWS, such as `aws`, `aws-cn` or `aws-us-gov`"));
        }
        if arn.service.is_empty() || !word(arn.service) {
            return Err(ArnError("does not name a service"));
        }
        if !is_region(arn.region) && !arn.region.is_empty() {
            return Err(ArnError("does not name a region"));
        }
        let account = |account: &str| account.len() == 12 && account.bytes().all(|b| b.is_ascii_digit());
        if !arn.account.is_empty() && !account(arn.account) {
            return Err(ArnError("does not name an account of twelve digits"));
        }
        if arn.resource.is_empty() {
            return Err(ArnError("does not name a resource"));
        }
        if arn.resource.chars().any(char::is_control) {
            return Err(ArnError("holds control characters"));
        }
        Ok(arn)
    }
}

/// Where the login is kept: the ARN of a secret in Secrets Manager with or without the six random characters, or the form
/// of ECS's `valueFrom`, `ARN:JSON-KEY:VERSION-STAGE:VERSION-ID`, in which each of the three may be empty; the ARN of a
/// parameter in Systems Manager; or the name of a secret in the task's own region.
///
/// With a JSON key the login is the object under that key of the secret (or a string that holds such an object), so
/// that one secret can hold several logins. A key whose value is a plain text, as ECS injects it, is not a login.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SecretArn {
    pub(crate) store: Store,
    /// The ARN, or the name.
    pub(crate) arn: String,
    /// Unknown for a name.
    pub(crate) region: Option<String>,
    pub(crate) partition: String,
    pub(crate) json_key: Option<String>,
    pub(crate) stage: Option<String>,
    pub(crate) version: Option<String>,
    /// The login's domain if the secret names none, where it is not that of the gMSA.
    pub(crate) login_domain: Option<Domain>,
    /// What the document around it tells.
    pub(crate) hints: Box<Hints>,
}

/// Which service keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Store {
    SecretsManager,
    Parameter,
}

/// What helps to understand a secret, and says nothing of which one it is: all hints are equal.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hints {
    /// Where the ARN is written.
    pub(crate) document: Option<String>,
    /// The NetBIOS name of the CredSpec's domain.
    pub(crate) netbios: Option<String>,
}

impl PartialEq for Hints {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Hints {}

impl std::hash::Hash for Hints {
    fn hash<H: std::hash::Hasher>(&self, _: &mut H) {}
}

impl FromStr for SecretArn {
    type Err = SecretArnError;

    fn from_str(text: &str) -> Result<Self, SecretArnError> {
        let refuse = |why: &'static str| SecretArnError { text: text.chars().take(300).collect(), why: why.to_owned() };
        let in_name = |c: char| c.is_ascii_alphanumeric() || "/_+=.@-".contains(c);
        let is_name = |name: &str| !name.is_empty() && name.len() <= 519 && name.chars().all(in_name);
        let of = |store, arn: &str, region: Option<&str>, partition: &str| Self {
            store,
            arn: arn.to_owned(),
            region: region.map(str::to_owned),
            partition: partition.to_owned(),
            json_key: None,
            stage: None,
            version: None,
            login_domain: None,
            hints: Box::default(),
        };
        if !text.starts_with("arn:") {
            if !is_name(text) || !text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/') {
                return Err(refuse("is neither the ARN nor the name of a secret"));
            }
            return Ok(of(Store::SecretsManager, text, None, "aws"));
        }
        let arn = Arn::parse(text).map_err(|error| refuse("").because(error))?;
        if !["secretsmanager", "ssm"].contains(&arn.service) {
            return Err(refuse("is not an ARN of Secrets Manager or of an SSM parameter"));
        }
        if arn.region.is_empty() || arn.account.is_empty() {
            return Err(refuse("lacks region or account"));
        }
        if arn.service == "ssm" {
            let name = arn.resource.strip_prefix("parameter/").filter(|name| !name.is_empty());
            name.ok_or_else(|| refuse("does not name a parameter, arn:aws:ssm:REGION:ACCOUNT:parameter/NAME"))?;
            return Ok(of(Store::Parameter, text, Some(arn.region), arn.partition));
        }
        let resource = arn.resource.strip_prefix("secret:").ok_or_else(|| refuse("does not name a secret"))?;
        let mut parts = resource.split(':');
        let name = parts.next().unwrap_or_default();
        if !is_name(name) {
            return Err(refuse("does not name a secret"));
        }
        let mut part = || parts.next().filter(|part| !part.is_empty()).map(str::to_owned);
        let (json_key, stage, version) = (part(), part(), part());
        if parts.next().is_some() {
            return Err(refuse("has more parts than `ARN:JSON-KEY:VERSION-STAGE:VERSION-ID`"));
        }
        let arn_alone = text.strip_suffix(&resource[name.len()..]).unwrap_or(text);
        let alone = of(Store::SecretsManager, arn_alone, Some(arn.region), arn.partition);
        Ok(Self { json_key, stage, version, ..alone })
    }
}

impl fmt::Display for SecretArn {
    /// The ARN without what `valueFrom` appends.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.arn)
    }
}

/// A text does not name a secret; the message quotes it with its control characters escaped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}` {why}", .text.escape_debug())]
pub struct SecretArnError {
    text: String,
    why: String,
}

impl SecretArnError {
    fn because(self, why: impl fmt::Display) -> Self {
        Self { why: why.to_string(), ..self }
    }
}

/// What of a text was copied from documentation or left in a template, as a clause: `the region `aws-region``.
pub(crate) fn placeholder(text: &str) -> Option<String> {
    let template = ["${", "{{", "<", "$("].iter().find_map(|mark| Some((text.find(mark)?, *mark)));
    if let Some((at, _)) = template {
        let rest = &text[at..];
        let end = rest.find(['}', '>', ')']).map_or(rest.len(), |end| end + 1);
        return Some(format!("`{}`", plain(&rest[..end], 60)));
    }
    let parts: Vec<&str> = text.strip_prefix("arn:")?.splitn(5, ':').collect();
    let [_, _, region, account, _] = parts[..] else { return None };
    let region_lower = region.to_ascii_lowercase();
    if region_lower.contains("region") || region_lower.starts_with("xx") {
        return Some(format!("the region `{}`", plain(region, 60)));
    }
    let is_word = !account.is_empty() && !account.bytes().any(|b| b.is_ascii_digit());
    if is_word || account == "111122223333" {
        return Some(format!("the account `{}`", plain(account, 60)));
    }
    None
}

/// Whether a region's name can become part of a host name: `eu-central-1`.
pub fn is_region(name: &str) -> bool {
    (1..=40).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && !name.ends_with('-')
}

/// The DNS suffix of a partition's endpoints (`partitions.json` of the AWS SDKs).
pub fn dns_suffix(partition: &str) -> &'static str {
    match partition {
        "aws-cn" => "amazonaws.com.cn",
        "aws-iso" => "c2s.ic.gov",
        "aws-iso-b" => "sc2s.sgov.gov",
        "aws-iso-e" => "cloud.adc-e.uk",
        "aws-iso-f" => "csp.hci.ic.gov",
        "aws-eusc" => "amazonaws.eu",
        _ => "amazonaws.com",
    }
}

/// The DNS suffix of a partition's endpoints that also have IPv6 addresses.
pub(crate) fn dual_stack_suffix(partition: &str) -> &'static str {
    match partition {
        "aws-cn" => "api.amazonwebservices.com.cn",
        "aws-iso" => "api.aws.ic.gov",
        "aws-iso-b" => "api.aws.scloud",
        "aws-iso-e" => "api.cloud-aws.adc-e.uk",
        "aws-iso-f" => "api.aws.hci.ic.gov",
        "aws-eusc" => "api.amazonwebservices.eu",
        _ => "api.aws",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn arns_of_every_partition_are_taken_apart() {
        for partition in ["aws", "aws-cn", "aws-us-gov", "aws-iso", "aws-iso-b", "aws-iso-e", "aws-iso-f", "aws-eusc"] {
            let text = format!("arn:{partition}:secretsmanager:xx-west-1:123456789012:secret:a/b-AbCdEf");
            let arn = Arn::parse(&text).unwrap();
            assert_eq!((arn.partition, arn.service, arn.region), (partition, "secretsmanager", "xx-west-1"));
            assert_eq!((arn.account, arn.resource), ("123456789012", "secret:a/b-AbCdEf"));
        }
        let arn = Arn::parse("arn:aws:s3:::bucket/a b:c%20d").unwrap();
        assert_eq!((arn.region, arn.account, arn.resource), ("", "", "bucket/a b:c%20d"));
    }

    #[test]
    fn what_is_not_an_arn_is_refused() {
        for text in [
            "",
            "arn",
            "arn:aws:s3:::",
            "arn:aws:s3::bucket/key",
            "arn:awsome:s3:::b/k",
            "arn:aws.evil:s3:::b/k",
            "arn:aws::::b/k",
            "arn:aws:secretsmanager:evil.com/:123456789012:secret:x",
            "arn:aws:secretsmanager:-:123456789012:secret:x",
            "arn:aws:secretsmanager:eu-central-1:12345678901:secret:x",
            "arn:aws:s3:::b/k\n",
        ] {
            assert!(Arn::parse(text).is_err(), "{text:?} was accepted");
        }
    }

    const SECRET: &str = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:gmsa/login-AbCdEf";

    #[test]
    fn arns_with_and_without_suffixes_are_read() {
        let read = |text: &str| text.parse::<SecretArn>();
        let plain = read(SECRET).unwrap();
        assert_eq!((plain.to_string().as_str(), plain.region.as_deref()), (SECRET, Some("eu-central-1")));
        let short = "arn:aws-cn:secretsmanager:cn-north-1:123456789012:secret:gmsa/login";
        assert_eq!(read(short).unwrap().arn, short);
        let pinned = read(&format!("{SECRET}:key:AWSPREVIOUS:id-1")).unwrap();
        assert_eq!(pinned.arn, SECRET);
        assert_eq!(pinned.json_key.as_deref(), Some("key"));
        assert_eq!((pinned.stage.as_deref(), pinned.version.as_deref()), (Some("AWSPREVIOUS"), Some("id-1")));
        assert_eq!(read(&format!("{SECRET}:::")).unwrap(), plain);
        assert_eq!(read(&format!("{SECRET}:key::")).unwrap().json_key.as_deref(), Some("key"));
        for text in [
            "gmsa login",
            "-gmsa",
            "domain:user:password",
            "arn:aws:s3:::bucket/key",
            "arn:aws:ssm:eu-central-1:123456789012:document/x",
            "arn:aws:secretsmanager:eu-central-1:123456789012:secret:",
            "arn:aws:secretsmanager::123456789012:secret:x",
            "arn:aws:secretsmanager:eu-central-1:123456789012:x",
            "arn:aws:secretsmanager:eu-central-1:123456789012:secret:a b",
            &format!("{SECRET}:a:b:c:d"),
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn names_of_secrets_and_parameters_are_read() {
        let name: SecretArn = "gmsa/login".parse().unwrap();
        assert_eq!(
            (name.store, name.region.as_deref(), name.arn.as_str()),
            (Store::SecretsManager, None, "gmsa/login")
        );
        let parameter: SecretArn = "arn:aws-cn:ssm:cn-north-1:123456789012:parameter/gmsa/login".parse().unwrap();
        assert_eq!((parameter.store, parameter.region.as_deref()), (Store::Parameter, Some("cn-north-1")));
        assert_eq!(parameter.partition, "aws-cn");
    }

    #[test]
    fn placeholders_of_documents_and_templates_are_found() {
        for (text, found) in [
            ("arn:aws:secretsmanager:aws-region:111122223333:secret:MySecret", "the region `aws-region`"),
            ("arn:aws:secretsmanager:eu-west-1:111122223333:secret:MySecret", "the account `111122223333`"),
            ("arn:aws:secretsmanager:REGION:123456789012:secret:x", "the region `REGION`"),
            ("arn:aws:ssm:eu-west-1:ACCOUNT_ID:parameter/x", "the account `ACCOUNT_ID`"),
            ("arn:aws:s3:::${BUCKET}/key", "`${BUCKET}`"),
            ("arn:aws:s3:::<bucket>/key", "`<bucket>`"),
            ("arn:${AWS::Partition}:s3:::b/k", "`${AWS::Partition}`"),
            ("arn:aws:secretsmanager:eu-west-1:123456789012:secret:{{name}}", "`{{name}`"),
        ] {
            assert_eq!(placeholder(text).as_deref(), Some(found), "{text}");
        }
        for text in [SECRET, "arn:aws:s3:::bucket/key", "gmsa/login"] {
            assert_eq!(placeholder(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn an_accepted_arn_holds_only_host_name_characters_before_its_resource(text in "(arn:aws:)?[a-z0-9:./@ -]{0,60}") {
            let _ = text.parse::<SecretArn>();
            if let Ok(arn) = Arn::parse(&text) {
                let head = format!("{}{}{}{}", arn.partition, arn.service, arn.region, arn.account);
                prop_assert!(head.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'));
            }
        }
    }
}
