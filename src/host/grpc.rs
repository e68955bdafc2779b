//! The seven methods: messages in, messages or statuses out. All they do is in [`Daemon`].

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};
use zeroize::Zeroizing;

use super::daemon::Daemon;
use super::keeper::{AwsKeys, Given, Keeper};
use super::name::{LoginName, quoted};
use super::protocol::credentials_fetcher_service_server::CredentialsFetcherService;
use super::protocol::{
    CreateKerberosArnLeaseResponse, CreateKerberosLeaseRequest, CreateKerberosLeaseResponse,
    CreateNonDomainJoinedKerberosLeaseRequest, CreateNonDomainJoinedKerberosLeaseResponse, DeleteKerberosLeaseRequest,
    DeleteKerberosLeaseResponse, HealthCheckRequest, HealthCheckResponse, KerberosArnLeaseRequest,
    KerberosTicketArnResponse, RenewKerberosArnLeaseRequest, RenewKerberosArnLeaseResponse,
    RenewNonDomainJoinedKerberosLeaseRequest, RenewNonDomainJoinedKerberosLeaseResponse,
};
use super::status::Refused;

/// The service.
pub(super) struct Service<K>(pub(super) Arc<Daemon<K>>);

#[tonic::async_trait]
impl<K: Keeper> CredentialsFetcherService for Service<K> {
    async fn add_kerberos_lease(
        &self,
        request: Request<CreateKerberosLeaseRequest>,
    ) -> Result<Response<CreateKerberosLeaseResponse>, Status> {
        let deadline = deadline(request.metadata());
        let granted = self.0.add_joined(&request.into_inner().credspec_contents, deadline).await?;
        let created_kerberos_file_paths = paths(&granted.folders);
        Ok(Response::new(CreateKerberosLeaseResponse {
            lease_id: granted.lease.to_string(),
            created_kerberos_file_paths,
        }))
    }

    async fn add_non_domain_joined_kerberos_lease(
        &self,
        request: Request<CreateNonDomainJoinedKerberosLeaseRequest>,
    ) -> Result<Response<CreateNonDomainJoinedKerberosLeaseResponse>, Status> {
        let deadline = deadline(request.metadata());
        let CreateNonDomainJoinedKerberosLeaseRequest { credspec_contents, username, password, domain } =
            request.into_inner();
        let login = given(&username, password, &domain)?;
        let granted = self.0.add_domainless(&credspec_contents, login, deadline).await?;
        let created_kerberos_file_paths = paths(&granted.folders);
        Ok(Response::new(CreateNonDomainJoinedKerberosLeaseResponse {
            lease_id: granted.lease.to_string(),
            created_kerberos_file_paths,
        }))
    }

    async fn renew_non_domain_joined_kerberos_lease(
        &self,
        request: Request<RenewNonDomainJoinedKerberosLeaseRequest>,
    ) -> Result<Response<RenewNonDomainJoinedKerberosLeaseResponse>, Status> {
        let deadline = deadline(request.metadata());
        let RenewNonDomainJoinedKerberosLeaseRequest { username, password, domain, lease_id, .. } =
            request.into_inner();
        let login = given(&username, password, &domain)?;
        let lease = if lease_id.is_empty() { None } else { Some(lease_id.parse()?) };
        let renewed = self.0.renew(login, lease, deadline).await?;
        let renewed_kerberos_file_paths = paths(&renewed);
        Ok(Response::new(RenewNonDomainJoinedKerberosLeaseResponse { renewed_kerberos_file_paths }))
    }

    async fn delete_kerberos_lease(
        &self,
        request: Request<DeleteKerberosLeaseRequest>,
    ) -> Result<Response<DeleteKerberosLeaseResponse>, Status> {
        let lease_id = request.into_inner().lease_id;
        let deleted = self.0.delete(lease_id.parse()?).await?;
        let deleted_kerberos_file_paths = paths(&deleted);
        Ok(Response::new(DeleteKerberosLeaseResponse { lease_id, deleted_kerberos_file_paths }))
    }

    async fn health_check(&self, _: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        Ok(Response::new(HealthCheckResponse { status: "OK".to_owned() }))
    }

    async fn add_kerberos_arn_lease(
        &self,
        request: Request<KerberosArnLeaseRequest>,
    ) -> Result<Response<CreateKerberosArnLeaseResponse>, Status> {
        let deadline = deadline(request.metadata());
        let KerberosArnLeaseRequest { credspec_arns, access_key_id, secret_access_key, session_token, region } =
            request.into_inner();
        let keys = aws_keys(access_key_id, secret_access_key, session_token, region)?;
        let granted = self.0.add_by_arn(&credspec_arns, keys, deadline).await?;
        let pairs = credspec_arns.iter().zip(&granted.folders).map(|(arn, folder)| KerberosTicketArnResponse {
            credspec_arns: arn.split('#').next().unwrap_or_default().to_owned(),
            created_kerberos_file_paths: path(folder),
        });
        let krb_ticket_response_map = pairs.collect();
        let lease_id = granted.lease.to_string();
        Ok(Response::new(CreateKerberosArnLeaseResponse { lease_id, krb_ticket_response_map }))
    }

    async fn renew_kerberos_arn_lease(
        &self,
        request: Request<RenewKerberosArnLeaseRequest>,
    ) -> Result<Response<RenewKerberosArnLeaseResponse>, Status> {
        let deadline = deadline(request.metadata());
        let RenewKerberosArnLeaseRequest { access_key_id, secret_access_key, session_token, region } =
            request.into_inner();
        let keys = aws_keys(access_key_id, secret_access_key, session_token, region)?;
        self.0.renew_by_arn(keys, deadline).await?;
        Ok(Response::new(RenewKerberosArnLeaseResponse { status: "successful".to_owned() }))
    }
}

/// The login in a request. Its password has one copy, which is wiped.
fn given(username: &str, password: String, domain: &str) -> Result<Given, Refused> {
    let password = Zeroizing::new(password);
    let missing = |key| Refused::invalid(format!("`{key}` of the login's secret is empty"));
    match (username, password.as_str(), domain) {
        ("", ..) => return Err(missing("username")),
        (_, "", _) => return Err(missing("password")),
        (.., "") => return Err(missing("domainName")),
        _ => {}
    }
    if password.len() > PASSWORD {
        return Err(Refused::invalid("`password` of the login's secret is longer than 1024 bytes"));
    }
    let domain =
        domain.parse().map_err(|error| Refused::invalid(format!("`domainName` of the login's secret: {error}")))?;
    let name = LoginName::new(username, &domain)?;
    Ok(Given { name, password, domain })
}

fn aws_keys(access: String, secret: String, token: String, region: String) -> Result<AwsKeys, Refused> {
    let (secret_access_key, session_token) = (Zeroizing::new(secret), Zeroizing::new(token));
    if access.is_empty() || secret_access_key.is_empty() || session_token.is_empty() || region.is_empty() {
        return Err(Refused::invalid("access_key_id, secret_access_key, session_token and region must all be set"));
    }
    if !crate::arn::is_region(&region) {
        return Err(Refused::invalid(format!("{} is not a region", quoted(&region))));
    }
    let plain = |text: &str| text.len() <= 16 * 1024 && text.bytes().all(|b| b.is_ascii_graphic());
    if ![&access, &*secret_access_key, &*session_token].into_iter().all(|text| plain(text)) {
        return Err(Refused::invalid("The AWS credentials hold characters that they cannot have"));
    }
    Ok(AwsKeys { access_key_id: access, secret_access_key, session_token, region })
}

/// The answer has to be there before the agent gives up, after 20 s.
fn deadline(metadata: &MetadataMap) -> Instant {
    let asked = metadata.get("grpc-timeout").and_then(|value| value.to_str().ok()).and_then(timeout);
    Instant::now() + asked.map_or(BUDGET, |asked| asked.mul_f64(0.9).min(BUDGET))
}

/// At most eight digits and a unit (the gRPC protocol over HTTP/2).
fn timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(value * 3600),
        "M" => Duration::from_secs(value * 60),
        "S" => Duration::from_secs(value),
        "m" => Duration::from_millis(value),
        "u" => Duration::from_micros(value),
        "n" => Duration::from_nanos(value),
        _ => return None,
    })
}

fn paths(folders: &[PathBuf]) -> Vec<String> {
    folders.iter().map(|folder| path(folder)).collect()
}

fn path(folder: &Path) -> String {
    folder.display().to_string()
}

/// How long a call may take.
pub(super) const BUDGET: Duration = Duration::from_secs(18);

/// Bytes; Active Directory's passwords have at most 127 characters.
const PASSWORD: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_limits_of_the_caller_are_kept() {
        for (text, wanted) in [("20S", Some(20_000)), ("1500m", Some(1500)), ("1H", Some(3_600_000)), ("7u", Some(0))] {
            assert_eq!(timeout(text).map(|it| it.as_millis()), wanted);
        }
        for bad in ["", "S", "1", "1x", "-1S", "123456789S", "é", "1é"] {
            assert_eq!(timeout(bad), None, "{bad}");
        }
    }

    #[test]
    fn logins_that_cannot_be_are_refused_without_their_password() {
        for (user, password, domain) in [
            ("", "marker", "example.com"),
            ("svc", "", "example.com"),
            ("svc", "marker", ""),
            ("a:", "marker", "example.com"),
            ("svc", "marker", "exa mple"),
            ("svc", &"marker".repeat(200), "example.com"),
        ] {
            let refused = given(user, password.to_owned(), domain).unwrap_err();
            assert_eq!(refused.grpc(), tonic::Code::InvalidArgument);
            assert!(!refused.text().contains("marker"), "{}", refused.text());
        }
        let login = given("old:new", "marker".to_owned(), "Example.com").unwrap();
        assert!(!format!("{login:?}").contains("marker"));
    }

    #[test]
    fn aws_credentials_are_all_there_or_refused() {
        let keys = |parts: [&str; 4]| {
            let [a, b, c, d] = parts.map(str::to_owned);
            aws_keys(a, b, c, d)
        };
        assert!(keys(["AKIA", "secret", "token", "eu-central-1"]).is_ok());
        for bad in [
            ["", "s", "t", "eu-central-1"],
            ["A", "", "t", "eu-central-1"],
            ["A", "s", "", "eu-central-1"],
            ["A", "s", "t", ""],
            ["A", "s", "t", "evil.com/"],
            ["A", "s\n", "t", "eu-central-1"],
        ] {
            assert!(keys(bad).is_err(), "{bad:?}");
        }
    }
}
