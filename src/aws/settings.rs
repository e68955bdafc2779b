//! What the environment says about AWS.

use std::fmt;
use std::path::PathBuf;

/// What the environment says about AWS. Credentials are not here: the SDK's own chain finds them (environment, web
/// identity, profile files, the container's endpoint by relative or full URI, the instance's role).
#[derive(Clone, Default, PartialEq, Eq)]
pub struct AwsSettings {
    /// `AWS_REGION`, else `AWS_DEFAULT_REGION`.
    pub region: Option<String>,
    /// `AWS_CA_BUNDLE`: PEM certificates trusted besides the system's (which `SSL_CERT_FILE` moves).
    pub ca_bundle: Option<PathBuf>,
    /// `HTTP_PROXY`, `http_proxy`, else `ALL_PROXY`, `all_proxy`: for plain HTTP, that is for endpoint overrides.
    pub http_proxy: Option<String>,
    /// `HTTPS_PROXY`, `https_proxy`, else `ALL_PROXY`, `all_proxy`.
    pub https_proxy: Option<String>,
    /// `NO_PROXY`, `no_proxy`: names, domains, addresses and networks that are reached directly.
    pub no_proxy: Option<String>,
    /// `AWS_ENDPOINT_URL_S3`, else `AWS_ENDPOINT_URL`; with one S3 is addressed in path style.
    pub endpoint_s3: Option<String>,
    /// `AWS_ENDPOINT_URL_SECRETS_MANAGER`, else `AWS_ENDPOINT_URL`.
    pub endpoint_secrets_manager: Option<String>,
    /// `AWS_ENDPOINT_URL_ECS`, else `AWS_ENDPOINT_URL`, else `https://ecs.REGION.SUFFIX` of the task's partition.
    pub endpoint_ecs: Option<String>,
    /// `AWS_ENDPOINT_URL_SSM`, else `AWS_ENDPOINT_URL`, else `https://ssm.REGION.SUFFIX` of the parameter's partition.
    pub endpoint_ssm: Option<String>,
    /// `ECS_CONTAINER_METADATA_URI_V4`: set by the ECS agent in every container of a task.
    pub metadata_uri: Option<String>,
}

impl AwsSettings {
    /// Reads the variables through `lookup`; an empty variable is an unset one.
    /// `AWS_IGNORE_CONFIGURED_ENDPOINT_URLS=true` leaves the endpoints as AWS has them.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Self {
        let first = |names: &[&str]| names.iter().find_map(|name| lookup(name).filter(|value| !value.is_empty()));
        let ignore = first(&["AWS_IGNORE_CONFIGURED_ENDPOINT_URLS"]).is_some_and(|v| v.eq_ignore_ascii_case("true"));
        let endpoint = |name| if ignore { None } else { first(&[name, "AWS_ENDPOINT_URL"]) };
        Self {
            region: first(&["AWS_REGION", "AWS_DEFAULT_REGION"]),
            ca_bundle: first(&["AWS_CA_BUNDLE"]).map(PathBuf::from),
            http_proxy: first(&["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"]),
            https_proxy: first(&["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"]),
            no_proxy: first(&["NO_PROXY", "no_proxy"]),
            endpoint_s3: endpoint("AWS_ENDPOINT_URL_S3"),
            endpoint_secrets_manager: endpoint("AWS_ENDPOINT_URL_SECRETS_MANAGER"),
            endpoint_ecs: endpoint("AWS_ENDPOINT_URL_ECS"),
            endpoint_ssm: endpoint("AWS_ENDPOINT_URL_SSM"),
            metadata_uri: first(&["ECS_CONTAINER_METADATA_URI_V4"]),
        }
    }
}

impl fmt::Debug for AwsSettings {
    /// Without the proxies, whose URLs may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AwsSettings")
            .field("region", &self.region)
            .field("ca_bundle", &self.ca_bundle)
            .field("metadata_uri", &self.metadata_uri)
            .finish_non_exhaustive()
    }
}
