//! Whom a call asks, in words for people who wait for the answer.

use std::time::Duration;

use super::Aws;
use super::arn::{Arn, dns_suffix};

impl Aws {
    /// The URL that is asked for what an ARN names, as far as it can be known before the call.
    pub fn endpoint_for(&self, arn: &str) -> String {
        let arn = arn.find("arn:").map_or(arn, |start| &arn[start..]);
        let Ok(parsed) = Arn::parse(arn) else { return arn.to_owned() };
        let configured = match parsed.service {
            "s3" => &self.settings.endpoint_s3,
            "secretsmanager" => &self.settings.endpoint_secrets_manager,
            "ssm" => &self.settings.endpoint_ssm,
            _ => &None,
        };
        if let Some(endpoint) = configured {
            return endpoint.url.clone();
        }
        let region = Some(parsed.region).filter(|region| !region.is_empty()).or(self.settings.region.as_deref());
        let region = region.map(|region| format!(".{region}")).unwrap_or_default();
        format!("https://{}{region}.{}", parsed.service, dns_suffix(parsed.partition))
    }

    /// The URL of the task's metadata.
    pub fn metadata_url(&self) -> &str {
        self.settings.metadata_uri.as_deref().unwrap_or("the ECS agent")
    }
}

/// How long a call to AWS takes at most, all attempts included.
pub const LONGEST_CALL: Duration = super::OPERATION_DEADLINE;

#[cfg(test)]
mod tests {
    use crate::aws::{Aws, AwsSettings};

    #[test]
    fn the_url_is_that_of_the_region_or_the_configured_one() {
        let asked = |variables: &[(&str, &str)], arn: &str| {
            let lookup = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
            Aws::new(AwsSettings::from_lookup(lookup)).unwrap().endpoint_for(arn)
        };
        let secret = "arn:aws:secretsmanager:eu-west-3:123456789012:secret:gmsa/login-AbCdEf";
        let object = "credentialspecdomainless:arn:aws:s3:::specs/webapp01.json";
        let parameter = "arn:aws-cn:ssm:cn-north-1:123456789012:parameter/gmsa";
        assert_eq!(asked(&[], secret), "https://secretsmanager.eu-west-3.amazonaws.com");
        assert_eq!(asked(&[], object), "https://s3.amazonaws.com");
        assert_eq!(asked(&[("AWS_REGION", "eu-west-1")], object), "https://s3.eu-west-1.amazonaws.com");
        assert_eq!(asked(&[], parameter), "https://ssm.cn-north-1.amazonaws.com.cn");
        assert_eq!(asked(&[("AWS_ENDPOINT_URL", "http://10.0.0.9:4566")], secret), "http://10.0.0.9:4566");
        assert_eq!(asked(&[], "file:///specs/webapp01.json"), "file:///specs/webapp01.json");
    }
}
