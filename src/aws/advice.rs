//! What to change after a call to AWS failed: one fix, made from the case, that can be pasted.

use serde_json::json;

use super::arn::Arn;
use super::endpoint::{AwsService, CallTarget};
use super::failure::{AwsRefusal, Codes, Denial, Failure, RefusalKind};
use super::{Aws, is_proxied};
use crate::fault::{Fault, Owner};
use crate::text::shell;

/// A call that was tried.
pub(crate) struct Call<'a> {
    pub(crate) service: AwsService,
    pub(crate) place: CallTarget<'a>,
    /// `s3:GetObject`: the right that it takes.
    pub(crate) action: &'static str,
    /// The ARN that it was about.
    pub(crate) resource: &'a str,
    /// Where that ARN is written: `GMSA_CREDENTIAL_SPECS`, a label, a field of a CredSpec.
    pub(crate) named_by: &'a str,
}

impl Aws {
    /// The fault of a step whose `what` failed: with the service's own words, the endpoint that was asked, and what to
    /// change.
    pub(crate) fn fault(&self, failure: &Failure, what: &str, codes: &Codes, call: &Call<'_>) -> Fault {
        let url = call.service.url(call.place, &self.settings);
        let endpoint = call.service.named(&self.settings);
        let asked = match endpoint {
            Some(endpoint) => format!("{url} (set by {})", endpoint.named_by),
            None => url,
        };
        let fault = Fault::new(failure.code(codes), what);
        let fault = match failure {
            Failure::Credentials(_) | Failure::CredentialsLater(_) => fault.because(self.about_credentials(failure)),
            Failure::Unreachable(why) => fault.because(format!("{asked} gave no usable answer: {why}")),
            _ => fault.because(format!("{failure}; endpoint: {asked}")),
        };
        match self.advice(failure, call) {
            Some((next, owner)) => fault.with_next(next).owned_by(owner),
            None => fault,
        }
    }

    fn about_credentials(&self, failure: &Failure) -> String {
        match (failure, &self.settings.credentials_uri) {
            (Failure::CredentialsLater(_), Some(uri)) => format!("{failure}; endpoint: {uri}"),
            _ => failure.to_string(),
        }
    }

    fn advice(&self, failure: &Failure, call: &Call<'_>) -> Option<(String, Owner)> {
        let Call { action, resource, .. } = call;
        Some(match failure {
            Failure::Credentials(_) if self.settings.metadata_uri.is_some() => (
                format!("set taskRoleArn in the task definition to a role that allows {action} on {resource}"),
                Owner::TaskDefinition,
            ),
            Failure::Credentials(_) => (
                "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run in an ECS task with a task role".to_owned(),
                Owner::TaskDefinition,
            ),
            Failure::CredentialsLater(_) => (
                "no change is needed if this passes: the endpoint of the credentials is asked again within seconds; if \
                 it lasts, check that taskRoleArn names a role that ecs-tasks.amazonaws.com may assume"
                    .to_owned(),
                Owner::TaskDefinition,
            ),
            Failure::Unreachable(why) => (self.open_the_way(why, call), Owner::Network),
            Failure::Strange(..) => (self.open_the_way("", call), Owner::Network),
            Failure::Refused(refusal) => match refusal.kind {
                RefusalKind::Denied => (allow(refusal.denial.as_ref(), call), Owner::TaskDefinition),
                RefusalKind::NotFound => return Some((find(refusal, call), owner_of_name(call))),
                RefusalKind::Credentials => (self.renew_credentials(refusal), Owner::TaskDefinition),
                RefusalKind::Unusable => return unusable(refusal, call).map(|next| (next, Owner::Secret)),
                RefusalKind::Transient => (self.wait_for_service(call), Owner::Network),
            },
        })
    }

    /// What to open or correct so that the service is reached.
    fn open_the_way(&self, why: &str, call: &Call<'_>) -> String {
        let url = call.service.url(call.place, &self.settings);
        let authority = url.split("://").nth(1).unwrap_or(&url).split('/').next().unwrap_or_default();
        let host = authority.split(':').next().unwrap_or(authority);
        let why = why.to_ascii_lowercase();
        if let Some(endpoint) = call.service.named(&self.settings) {
            return format!(
                "start the server at {}, or correct or remove {}, which names it",
                endpoint.url, endpoint.named_by
            );
        }
        if ["certificate", "unknownissuer", "tls", "handshake"].iter().any(|word| why.contains(word)) {
            return format!("set AWS_CA_BUNDLE to a PEM file with the CA that issued the certificate of {host}");
        }
        if let Some(variable) = is_proxied(&self.settings, &url) {
            return format!("let the proxy in {variable} connect to {host}:443, or add {host} to NO_PROXY");
        }
        let CallTarget { region, .. } = call.place;
        let name = call.service.name();
        if why.contains("dns") || why.contains("lookup") || why.contains("name resolution") {
            return format!(
                "let the task resolve {host}: turn on enableDnsSupport in its VPC, or correct its DNS server; check with \
                 `dig {host}`"
            );
        }
        let way = match call.service {
            AwsService::S3 => format!("the gateway endpoint com.amazonaws.{region}.s3"),
            _ => format!("the VPC endpoint com.amazonaws.{region}.{name}"),
        };
        format!("allow TCP 443 from the task to {host}: add {way} to its VPC, or a NAT route")
    }

    fn wait_for_service(&self, call: &Call<'_>) -> String {
        match call.service.named(&self.settings) {
            Some(endpoint) => format!("check the server at {}, which {} names", endpoint.url, endpoint.named_by),
            None => format!(
                "no change is needed if this passes, since the call is repeated; if it lasts, look for {} in {} at \
                 https://health.aws.amazon.com",
                call.service.title(),
                call.place.region
            ),
        }
    }

    fn renew_credentials(&self, refusal: &AwsRefusal) -> String {
        let name = refusal.name.as_deref().unwrap_or_default();
        if ["RequestTimeTooSkewed", "RequestExpired"].contains(&name) {
            return "set the clock of this host: AWS accepts a difference of five minutes (check with `chronyc tracking`)"
                .to_owned();
        }
        if self.settings.variables.contains_key("AWS_ACCESS_KEY_ID") {
            return "replace AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or remove them so that the \
                    task role counts"
                .to_owned();
        }
        "start a new task: its role's credentials are not accepted; check that the role of taskRoleArn still exists"
            .to_owned()
    }
}

/// The policy to change, and how.
fn allow(denial: Option<&Denial>, call: &Call<'_>) -> String {
    let action = denial.and_then(|denial| denial.action).unwrap_or(call.action);
    let region = call.place.region;
    let service = call.service.name();
    let key = denial.and_then(|denial| denial.key.as_deref());
    let resource = if action == "kms:Decrypt" { key.unwrap_or("*") } else { call.resource };
    let principal = denial.and_then(|denial| denial.principal.as_deref());
    let policy = denial.and_then(|denial| denial.policy).unwrap_or_default();
    if let Some(kind) = policy.strip_prefix("explicit deny in ") {
        return format!(
            "remove the statement that denies {action} on {resource} from {kind} in force for the task role"
        );
    }
    match policy {
        "no VPC endpoint policy allows" => {
            return format!(
                "allow {action} on {resource} in the policy of the VPC endpoint com.amazonaws.{region}.{service}"
            );
        }
        "no service control policy allows" => return format!("allow {action} in the account's service control policy"),
        "no permissions boundary allows" => {
            return format!("allow {action} in the permissions boundary of the task role");
        }
        "no resource-based policy allows" => {
            return format!("allow {action} to {} in the policy of {resource}", principal.unwrap_or("the task role"));
        }
        _ => {}
    }
    let mut statement = json!({"Effect": "Allow", "Action": action, "Resource": resource});
    if action == "kms:Decrypt" && key.is_none() {
        let via = format!("{service}.{region}.amazonaws.com");
        statement["Condition"] = json!({"StringEquals": {"kms:ViaService": via}});
    }
    match principal.and_then(identity) {
        Some((kind, name)) => {
            let document = json!({"Version": "2012-10-17", "Statement": [statement]}).to_string();
            format!(
                "aws iam put-{kind}-policy --{kind}-name {} --policy-name gmsa-sidecar-{} --policy-document {}",
                shell(name),
                action.replace(':', "-"),
                shell(&document)
            )
        }
        None => {
            format!("add to the policy of the task role (taskRoleArn; the execution role does not count): {statement}")
        }
    }
}

/// `role` or `user`, and its name, out of a principal's ARN.
fn identity(principal: &str) -> Option<(&'static str, &str)> {
    let resource = Arn::parse(principal).ok()?.resource;
    let mut parts = resource.split('/');
    match parts.next()? {
        "assumed-role" => Some(("role", parts.next()?)),
        "user" => Some(("user", parts.next_back()?)),
        _ => None,
    }
}

/// How to see what there is, and where to write its name.
fn find(refusal: &AwsRefusal, call: &Call<'_>) -> String {
    let Call { resource, named_by, .. } = call;
    let region = call.place.region;
    let list = match call.service {
        AwsService::S3 => {
            let path = resource.split(":::").nth(1).unwrap_or(resource);
            let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
            if refusal.name.as_deref() == Some("NoSuchBucket") {
                return format!("correct the bucket name `{bucket}` in {named_by}; `aws s3 ls` lists the buckets");
            }
            let folder = key.rfind('/').map_or("", |end| &key[..=end]);
            format!("aws s3 ls {}", shell(&format!("s3://{bucket}/{folder}")))
        }
        AwsService::SecretsManager => format!("aws secretsmanager list-secrets --region {region}"),
        AwsService::Ssm => format!("aws ssm describe-parameters --region {region}"),
        AwsService::Ecs => format!("aws ecs list-task-definitions --region {region}"),
    };
    format!("correct the name in {named_by}, character for character; this lists what there is: {list}")
}

fn owner_of_name(call: &Call<'_>) -> Owner {
    if call.named_by.contains("CredentialArn") { Owner::CredSpec } else { Owner::TaskDefinition }
}

/// What makes a secret usable again.
fn unusable(refusal: &AwsRefusal, call: &Call<'_>) -> Option<String> {
    if call.service != AwsService::SecretsManager {
        return None;
    }
    let (secret, region) = (shell(call.resource), call.place.region);
    if refusal.message.as_deref().is_some_and(|message| message.contains("delet")) {
        return Some(format!("aws secretsmanager restore-secret --region {region} --secret-id {secret}"));
    }
    Some(format!(
        "look at the state of the secret: aws secretsmanager describe-secret --region {region} --secret-id {secret}"
    ))
}
