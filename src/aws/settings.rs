//! What the environment says about AWS.
//!
//! Everything that the SDK would read by itself is read here first: it takes an empty value for one, panics at some,
//! and says of others only in the end that something does not work. What it gets afterwards is sound.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use hyper::Uri;

use super::arn::is_region;
use super::http::{Network, is_local};
use super::profile::Profile;
use crate::text::quoted;

/// What the environment says about AWS. Credentials are not here: the SDK's own chain finds them (environment, web
/// identity, profile files, the container's endpoint by relative or full URI, the instance's role).
#[derive(Clone, Default, PartialEq, Eq)]
pub struct AwsSettings {
    /// `AWS_REGION`, else `AWS_DEFAULT_REGION`, else that of the profile.
    pub region: Option<String>,
    /// `AWS_CA_BUNDLE`: PEM certificates trusted in addition to the system's (which `SSL_CERT_FILE` moves).
    pub ca_bundle: Option<PathBuf>,
    /// `HTTP_PROXY`, `http_proxy`, else `ALL_PROXY`, `all_proxy`: for plain HTTP, that is for endpoint overrides.
    pub http_proxy: Option<String>,
    /// `HTTPS_PROXY`, `https_proxy`, else `ALL_PROXY`, `all_proxy`.
    pub https_proxy: Option<String>,
    /// `NO_PROXY`, `no_proxy`: names, domains, addresses and networks that are reached directly.
    pub no_proxy: Option<String>,
    /// `AWS_ENDPOINT_URL_S3`, else `AWS_ENDPOINT_URL`; with one S3 is addressed in path style.
    pub endpoint_s3: Option<Endpoint>,
    /// `AWS_ENDPOINT_URL_SECRETS_MANAGER`, else `AWS_ENDPOINT_URL`.
    pub endpoint_secrets_manager: Option<Endpoint>,
    /// `AWS_ENDPOINT_URL_ECS`, else `AWS_ENDPOINT_URL`, else `https://ecs.REGION.SUFFIX` of the task's partition.
    pub endpoint_ecs: Option<Endpoint>,
    /// `AWS_ENDPOINT_URL_SSM`, else `AWS_ENDPOINT_URL`, else `https://ssm.REGION.SUFFIX` of the parameter's partition.
    pub endpoint_ssm: Option<Endpoint>,
    /// `ECS_CONTAINER_METADATA_URI_V4`: set by the ECS agent in every container of a task.
    pub metadata_uri: Option<String>,
    /// `AWS_USE_FIPS_ENDPOINT`.
    pub fips: bool,
    /// `AWS_USE_DUALSTACK_ENDPOINT`.
    pub dual_stack: bool,
    /// `AWS_RETRY_MODE` is `adaptive`.
    pub(super) adaptive: bool,
    /// `AWS_MAX_ATTEMPTS`.
    pub(super) max_attempts: Option<u32>,
    /// The address that the task role's credentials come from, for messages.
    pub(super) credentials_uri: Option<String>,
    /// What the SDK may read: variables without empty ones.
    pub(super) variables: BTreeMap<String, String>,
    /// What the SDK may read: files without empty keys.
    pub(super) profile: Profile,
    pub(super) problems: Vec<String>,
}

/// An endpoint that somebody named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// `http://127.0.0.1:5000`.
    pub url: String,
    /// The variable that names it, or the key, file and line.
    pub named_by: String,
}

impl AwsSettings {
    /// Reads the variables through `lookup`; one that is empty or blank is an unset one.
    /// `AWS_IGNORE_CONFIGURED_ENDPOINT_URLS=true` leaves the endpoints as AWS has them.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Self {
        let lookup = |name: &str| lookup(name).filter(|value| !value.trim().is_empty());
        let mut problems = Vec::new();
        let profile = Profile::read(lookup, &mut problems);
        let mut reader = SettingsReader { lookup, name: String::new(), profile, problems };
        reader.name = reader.variable("AWS_PROFILE").unwrap_or_else(|| "default".to_owned());
        reader.settings()
    }

    /// The same way to AWS with the credentials that a request brought, and its region.
    #[must_use]
    pub fn with_keys(&self, access_key: &str, secret_key: &str, session_token: &str, region: &str) -> Self {
        let mut settings = self.clone();
        settings.region = Some(region.to_owned());
        for (name, value) in [
            ("AWS_ACCESS_KEY_ID", access_key),
            ("AWS_SECRET_ACCESS_KEY", secret_key),
            ("AWS_SESSION_TOKEN", session_token),
        ] {
            settings.variables.insert(name.to_owned(), value.to_owned());
        }
        settings
    }

    /// What of it cannot be used.
    pub fn problems(&self) -> Vec<String> {
        self.problems.iter().cloned().chain(Network::new(self).err()).collect()
    }

    /// The endpoints over which secrets and signatures would travel in the clear beyond this host and its link: the
    /// variable and the URL.
    pub fn plain_http(&self) -> Vec<&Endpoint> {
        let all = [&self.endpoint_s3, &self.endpoint_secrets_manager, &self.endpoint_ecs, &self.endpoint_ssm];
        let is_plain = |endpoint: &&Endpoint| {
            let uri = endpoint.url.parse::<Uri>().unwrap_or_default();
            uri.scheme_str() == Some("http") && !uri.host().is_some_and(is_local)
        };
        let mut plain: Vec<&Endpoint> = Vec::new();
        for endpoint in all.into_iter().flatten().filter(is_plain) {
            if !plain.contains(&endpoint) {
                plain.push(endpoint);
            }
        }
        plain
    }
}

impl fmt::Debug for AwsSettings {
    /// Without the proxies, whose URLs may hold a password, and without keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AwsSettings")
            .field("region", &self.region)
            .field("ca_bundle", &self.ca_bundle)
            .field("metadata_uri", &self.metadata_uri)
            .finish_non_exhaustive()
    }
}

struct SettingsReader<L> {
    lookup: L,
    /// The profile's name.
    name: String,
    profile: Profile,
    problems: Vec<String>,
}

impl<L: Fn(&str) -> Option<String>> SettingsReader<L> {
    fn settings(mut self) -> AwsSettings {
        let region = self.first(&["AWS_REGION", "AWS_DEFAULT_REGION"], "region");
        let region = region.filter(|(region, named_by)| {
            let good = is_region(region);
            if !good {
                self.problems.push(format!("{named_by}: {} is not the name of a region", quoted(region)));
            }
            good
        });
        let mut flag = |variable, key| self.parsed(&[variable], key, boolean).unwrap_or_default();
        let fips = flag("AWS_USE_FIPS_ENDPOINT", "use_fips_endpoint");
        let dual_stack = flag("AWS_USE_DUALSTACK_ENDPOINT", "use_dualstack_endpoint");
        let ignore = flag("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "ignore_configured_endpoint_urls");
        let adaptive = self.parsed(&["AWS_RETRY_MODE"], "retry_mode", retry_mode).unwrap_or_default();
        let max_attempts = self.parsed(&["AWS_MAX_ATTEMPTS"], "max_attempts", attempts);
        let proxy = |names: &[&str]| names.iter().find_map(|name| (self.lookup)(name));
        let http_proxy = proxy(&["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"]);
        let https_proxy = proxy(&["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"]);
        let no_proxy = proxy(&["NO_PROXY", "no_proxy"]);
        let [endpoint_s3, endpoint_secrets_manager, endpoint_ecs, endpoint_ssm] =
            ["S3", "SECRETS_MANAGER", "ECS", "SSM"].map(|service| self.endpoint(service).filter(|_| !ignore));
        // Asked with web identity, by the SDK.
        self.endpoint("STS");
        AwsSettings {
            region: region.map(|(region, _)| region),
            ca_bundle: self.variable("AWS_CA_BUNDLE").map(PathBuf::from),
            http_proxy,
            https_proxy,
            no_proxy,
            endpoint_s3,
            endpoint_secrets_manager,
            endpoint_ecs,
            endpoint_ssm,
            metadata_uri: self.variable("ECS_CONTAINER_METADATA_URI_V4"),
            fips,
            dual_stack,
            adaptive,
            max_attempts,
            credentials_uri: self.credentials_uri(),
            variables: self.variables(),
            profile: self.profile,
            problems: self.problems,
        }
    }

    fn variable(&self, name: &str) -> Option<String> {
        (self.lookup)(name)
    }

    /// The first of the variables that has a value, else that of the profile; and what names it.
    fn first(&self, variables: &[&str], key: &str) -> Option<(String, String)> {
        let variable = |name: &&str| Some((self.variable(name)?, (*name).to_owned()));
        let in_profile = || {
            let (value, place) = self.profile.get(&self.name, key)?;
            Some((value.to_owned(), place))
        };
        variables.iter().find_map(variable).or_else(in_profile)
    }

    fn parsed<T>(
        &mut self,
        variables: &[&str],
        key: &str,
        parse: impl Fn(&str) -> Result<T, &'static str>,
    ) -> Option<T> {
        let (value, named_by) = self.first(variables, key)?;
        match parse(value.trim()) {
            Ok(parsed) => Some(parsed),
            Err(expected) => {
                self.problems.push(format!("{named_by}: {} is not {expected}", quoted(&value)));
                None
            }
        }
    }

    /// For one service: its own variable, the common one, then the profile's.
    fn endpoint(&mut self, service: &str) -> Option<Endpoint> {
        let own = format!("AWS_ENDPOINT_URL_{service}");
        let variable = [own.as_str(), "AWS_ENDPOINT_URL"].into_iter().find_map(|name| {
            let url = self.variable(name)?;
            Some((url, name.to_owned()))
        });
        let in_profile = || {
            let of_service = self.profile.service_endpoint(&self.name, &service.to_ascii_lowercase());
            let (url, place) = of_service.or_else(|| self.profile.get(&self.name, "endpoint_url"))?;
            Some((url.to_owned(), place))
        };
        let (url, named_by) = variable.or_else(in_profile)?;
        self.url(url.trim(), &named_by).then(|| Endpoint { url: url.trim().to_owned(), named_by })
    }

    /// Whether a text is a URL of HTTP; else it is noted, once.
    fn url(&mut self, url: &str, named_by: &str) -> bool {
        let usable = |uri: Uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some();
        if url.parse::<Uri>().is_ok_and(usable) {
            return true;
        }
        let problem = format!("{named_by}: {} is not a URL that begins with `http://` or `https://`", quoted(url));
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
        false
    }

    /// Where the credentials come from in a container. The SDK builds URLs of it and panics at those it cannot build.
    fn credentials_uri(&mut self) -> Option<String> {
        const RELATIVE: &str = "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI";
        const FULL: &str = "AWS_CONTAINER_CREDENTIALS_FULL_URI";
        const INSTANCE: &str = "AWS_EC2_METADATA_SERVICE_ENDPOINT";
        if let Some(token) = self.variable("AWS_CONTAINER_AUTHORIZATION_TOKEN")
            && token.chars().any(char::is_control)
        {
            // Not quoted: it is a secret.
            self.problems.push("AWS_CONTAINER_AUTHORIZATION_TOKEN: holds control characters".to_owned());
        }
        if let Some(url) = self.variable(INSTANCE) {
            self.url(&url, INSTANCE);
        }
        if let Some(mode) = self.variable("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE")
            && !["ipv4", "ipv6"].contains(&mode.to_ascii_lowercase().as_str())
        {
            let problem = format!("{} is neither `IPv4` nor `IPv6`", quoted(&mode));
            self.problems.push(format!("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE: {problem}"));
        }
        if let Some(path) = self.variable(RELATIVE) {
            let url = format!("http://169.254.170.2{path}");
            let good = path.starts_with('/') && url.parse::<Uri>().is_ok() && path.parse::<Uri>().is_ok();
            if good && !path.starts_with("//") {
                return Some(url);
            }
            self.problems.push(format!("{RELATIVE}: {} is not a path that begins with `/`", quoted(&path)));
            return None;
        }
        let url = self.variable(FULL)?;
        self.url(&url, FULL).then_some(url)
    }

    /// What the SDK may see of the environment.
    fn variables(&self) -> BTreeMap<String, String> {
        let seen = |name: &&str| Some(((*name).to_owned(), self.variable(name)?.trim().to_owned()));
        SDK_VARIABLES.iter().filter_map(seen).collect()
    }
}

fn boolean(text: &str) -> Result<bool, &'static str> {
    text.to_ascii_lowercase().parse().map_err(|_| "`true` or `false`")
}

/// Whether it is the adaptive one. `legacy` is other SDKs' name for what they did before `standard`.
fn retry_mode(text: &str) -> Result<bool, &'static str> {
    match text.to_ascii_lowercase().as_str() {
        "standard" | "legacy" => Ok(false),
        "adaptive" => Ok(true),
        _ => Err("`standard`, `adaptive` or `legacy`"),
    }
}

fn attempts(text: &str) -> Result<u32, &'static str> {
    text.parse().ok().filter(|attempts| (1..=100).contains(attempts)).ok_or("a number from 1 to 100")
}

/// All that `aws-config` and the services' crates read and that is of use here. Retries, endpoints and regions are not
/// among them: they are set from here; nor are the files, whose texts the SDK gets, but for their profile's name.
pub(super) const SDK_VARIABLES: &[&str] = &[
    "HOME",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_ACCOUNT_ID",
    "AWS_PROFILE",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_EC2_METADATA_DISABLED",
    "AWS_EC2_METADATA_SERVICE_ENDPOINT",
    "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE",
    "AWS_EC2_METADATA_V1_DISABLED",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_STS",
    "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS",
    "AWS_USE_FIPS_ENDPOINT",
    "AWS_USE_DUALSTACK_ENDPOINT",
];
