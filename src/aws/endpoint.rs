//! Where a service of AWS is called: the same rules as the SDK's own (`endpoint-rule-set-1` of each service's model).

use super::arn::{dns_suffix, dual_stack_suffix};
use super::settings::{AwsSettings, Endpoint};

/// A service that this program calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AwsService {
    S3,
    SecretsManager,
    Ssm,
    Ecs,
}

/// Where an API is called.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CallTarget<'a> {
    /// `eu-central-1`.
    pub(crate) region: &'a str,
    /// `aws-cn`.
    pub(crate) partition: &'a str,
}

impl AwsService {
    /// As it stands in host names and in names of VPC endpoints.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::SecretsManager => "secretsmanager",
            Self::Ssm => "ssm",
            Self::Ecs => "ecs",
        }
    }

    /// For people.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::S3 => "Amazon S3",
            Self::SecretsManager => "AWS Secrets Manager",
            Self::Ssm => "AWS Systems Manager",
            Self::Ecs => "the Amazon ECS API",
        }
    }

    /// The endpoint that somebody named for it.
    pub(crate) fn named(self, settings: &AwsSettings) -> Option<&Endpoint> {
        match self {
            Self::S3 => settings.endpoint_s3.as_ref(),
            Self::SecretsManager => settings.endpoint_secrets_manager.as_ref(),
            Self::Ssm => settings.endpoint_ssm.as_ref(),
            Self::Ecs => settings.endpoint_ecs.as_ref(),
        }
    }

    /// The URL that AWS has for it, or that somebody named.
    pub(crate) fn url(self, place: CallTarget<'_>, settings: &AwsSettings) -> String {
        if let Some(endpoint) = self.named(settings) {
            return endpoint.url.trim_end_matches('/').to_owned();
        }
        let CallTarget { region, partition } = place;
        let name = self.name();
        // The FIPS endpoint of Systems Manager in GovCloud is the plain one.
        let plain_is_fips = self == Self::Ssm && partition == "aws-us-gov" && !settings.dual_stack;
        let fips = if settings.fips && !plain_is_fips { "-fips" } else { "" };
        match (self, settings.dual_stack) {
            (Self::S3, true) => format!("https://{name}{fips}.dualstack.{region}.{}", dns_suffix(partition)),
            (_, true) => format!("https://{name}{fips}.{region}.{}", dual_stack_suffix(partition)),
            (_, false) => format!("https://{name}{fips}.{region}.{}", dns_suffix(partition)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fips_and_dual_stack_count_for_every_service() {
        let url = |service: AwsService, region, partition, fips, dual_stack| {
            let settings = AwsSettings { fips, dual_stack, ..AwsSettings::default() };
            service.url(CallTarget { region, partition }, &settings)
        };
        for (service, fips, dual_stack, expected) in [
            (AwsService::Ssm, false, false, "https://ssm.us-east-1.amazonaws.com"),
            (AwsService::Ssm, true, false, "https://ssm-fips.us-east-1.amazonaws.com"),
            (AwsService::Ssm, false, true, "https://ssm.us-east-1.api.aws"),
            (AwsService::Ssm, true, true, "https://ssm-fips.us-east-1.api.aws"),
            (AwsService::Ecs, true, false, "https://ecs-fips.us-east-1.amazonaws.com"),
            (AwsService::Ecs, false, true, "https://ecs.us-east-1.api.aws"),
            (AwsService::S3, true, true, "https://s3-fips.dualstack.us-east-1.amazonaws.com"),
            (AwsService::SecretsManager, true, false, "https://secretsmanager-fips.us-east-1.amazonaws.com"),
        ] {
            assert_eq!(url(service, "us-east-1", "aws", fips, dual_stack), expected);
        }
        assert_eq!(
            url(AwsService::Ssm, "us-gov-west-1", "aws-us-gov", true, false),
            "https://ssm.us-gov-west-1.amazonaws.com"
        );
        assert_eq!(
            url(AwsService::Ecs, "cn-north-1", "aws-cn", false, true),
            "https://ecs.cn-north-1.api.amazonwebservices.com.cn"
        );
    }
}
