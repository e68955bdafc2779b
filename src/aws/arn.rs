//! Amazon Resource Names: `arn:PARTITION:SERVICE:REGION:ACCOUNT:RESOURCE`.
//!
//! <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference-arns.html>

use std::fmt;
use std::str::FromStr;

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

/// A text is no ARN; the message is a clause to put after the text.
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
            return Err(ArnError("names no partition of AWS, such as `aws`, `aws-cn` or `aws-us-gov`"));
        }
        if arn.service.is_empty() || !word(arn.service) {
            return Err(ArnError("names no service"));
        }
        if !is_region(arn.region) && !arn.region.is_empty() {
            return Err(ArnError("names no region"));
        }
        let account = |account: &str| account.len() == 12 && account.bytes().all(|b| b.is_ascii_digit());
        if !arn.account.is_empty() && !account(arn.account) {
            return Err(ArnError("names no account of twelve digits"));
        }
        if arn.resource.is_empty() {
            return Err(ArnError("names no resource"));
        }
        if arn.resource.chars().any(char::is_control) {
            return Err(ArnError("holds control characters"));
        }
        Ok(arn)
    }
}

/// Where a secret is: its ARN with or without the six random characters, or the form of ECS's `valueFrom`,
/// `ARN:JSON-KEY:VERSION-STAGE:VERSION-ID`, in which each of the three may be empty.
///
/// With a JSON key the login is the object under that key of the secret (or a string that holds such an object), so
/// that one secret can hold several logins. A key whose value is a plain text, as ECS injects it, is no login.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SecretArn {
    pub(crate) arn: String,
    pub(crate) region: String,
    pub(crate) json_key: Option<String>,
    pub(crate) stage: Option<String>,
    pub(crate) version: Option<String>,
}

impl FromStr for SecretArn {
    type Err = SecretArnError;

    fn from_str(text: &str) -> Result<Self, SecretArnError> {
        let refuse = |why: &'static str| SecretArnError { text: text.chars().take(300).collect(), why: why.to_owned() };
        let arn = Arn::parse(text).map_err(|error| refuse("").because(error))?;
        if arn.service != "secretsmanager" {
            return Err(refuse("is not of Secrets Manager"));
        }
        if arn.region.is_empty() || arn.account.is_empty() {
            return Err(refuse("lacks region or account"));
        }
        let resource = arn.resource.strip_prefix("secret:").ok_or_else(|| refuse("names no secret"))?;
        let mut parts = resource.split(':');
        let name = parts.next().unwrap_or_default();
        let in_name = |c: char| c.is_ascii_alphanumeric() || "/_+=.@-".contains(c);
        if name.is_empty() || name.len() > 519 || !name.chars().all(in_name) {
            return Err(refuse("names no secret"));
        }
        let mut part = || parts.next().filter(|part| !part.is_empty()).map(str::to_owned);
        let (json_key, stage, version) = (part(), part(), part());
        if parts.next().is_some() {
            return Err(refuse("has more parts than `ARN:JSON-KEY:VERSION-STAGE:VERSION-ID`"));
        }
        let arn_alone = text.strip_suffix(&resource[name.len()..]).unwrap_or(text).to_owned();
        Ok(Self { arn: arn_alone, region: arn.region.to_owned(), json_key, stage, version })
    }
}

impl fmt::Display for SecretArn {
    /// The ARN without what `valueFrom` appends.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.arn)
    }
}

/// A text is no ARN of a secret; the message quotes it with its control characters escaped.
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
    fn what_is_no_arn_is_refused() {
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
        assert_eq!((plain.to_string().as_str(), plain.region.as_str()), (SECRET, "eu-central-1"));
        let short = "arn:aws-cn:secretsmanager:cn-north-1:123456789012:secret:gmsa/login";
        assert_eq!(read(short).unwrap().arn, short);
        let pinned = read(&format!("{SECRET}:key:AWSPREVIOUS:id-1")).unwrap();
        assert_eq!(pinned.arn, SECRET);
        assert_eq!(pinned.json_key.as_deref(), Some("key"));
        assert_eq!((pinned.stage.as_deref(), pinned.version.as_deref()), (Some("AWSPREVIOUS"), Some("id-1")));
        assert_eq!(read(&format!("{SECRET}:::")).unwrap(), plain);
        assert_eq!(read(&format!("{SECRET}:key::")).unwrap().json_key.as_deref(), Some("key"));
        for text in [
            "gmsa/login",
            "arn:aws:s3:::bucket/key",
            "arn:aws:secretsmanager:eu-central-1:123456789012:secret:",
            "arn:aws:secretsmanager::123456789012:secret:x",
            "arn:aws:secretsmanager:eu-central-1:123456789012:x",
            "arn:aws:secretsmanager:eu-central-1:123456789012:secret:a b",
            &format!("{SECRET}:a:b:c:d"),
        ] {
            assert!(read(text).is_err(), "{text}");
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
