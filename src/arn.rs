//! Amazon Resource Names: `arn:PARTITION:SERVICE:REGION:ACCOUNT:RESOURCE`.
//!
//! <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference-arns.html>

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

    proptest! {
        #[test]
        fn an_accepted_arn_holds_only_host_name_characters_before_its_resource(text in "(arn:aws:)?[a-z0-9:./@ -]{0,60}") {
            if let Ok(arn) = Arn::parse(&text) {
                let head = format!("{}{}{}{}", arn.partition, arn.service, arn.region, arn.account);
                prop_assert!(head.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'));
            }
        }
    }
}
