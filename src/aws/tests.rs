use super::failure::Denial;
use super::http::is_local;
use super::*;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Duration;

/// An HTTP server on loopback that gives each request the next answer, and its address.
pub(crate) fn server(answers: Vec<Vec<u8>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            let mut part = [0; 4096];
            // The requests here are short; their bodies come with their heads or right after.
            while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                let count = stream.read(&mut part).unwrap();
                if count == 0 {
                    break;
                }
                request.extend_from_slice(&part[..count]);
            }
            let _ = stream.set_read_timeout(Some(Duration::from_millis(20)));
            let _ = stream.read(&mut part);
            let _ = stream.write_all(&answer);
        }
    });
    url
}

/// An HTTP/1.1 answer.
pub(crate) fn http(status: u16, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!("HTTP/1.1 {status} Said\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}\r\n");
    [head.as_bytes(), body].concat()
}

/// The lab's stand-in for AWS, where a test runs in the lab.
#[expect(clippy::disallowed_methods, reason = "only a test in the lab knows where that is")]
pub(crate) fn lab_endpoint() -> Option<String> {
    std::env::var("LAB_AWS_ENDPOINT").ok()
}

/// A fault without the port of the test's server.
pub(crate) fn shown(fault: &Fault) -> String {
    let text = fault.to_string();
    let Some((before, rest)) = text.split_once("http://127.0.0.1:") else { return text };
    format!("{before}http://ENDPOINT{}", rest.trim_start_matches(|c: char| c.is_ascii_digit()))
}

/// Everything at `url`, in eu-central-1, with the SDK's test credentials.
pub(crate) fn aws_at(url: &str) -> Aws {
    let endpoint = Some(Endpoint { url: url.to_owned(), named_by: "AWS_ENDPOINT_URL".to_owned() });
    Aws::new(AwsSettings {
        region: Some("eu-central-1".into()),
        endpoint_s3: endpoint.clone(),
        endpoint_secrets_manager: endpoint.clone(),
        endpoint_ecs: endpoint.clone(),
        endpoint_ssm: endpoint,
        metadata_uri: Some(url.to_owned()),
        ..AwsSettings::default()
    })
    .unwrap()
}

#[test]
fn an_empty_variable_is_unset_and_the_special_endpoint_wins() {
    let settings = AwsSettings::from_lookup(|name| {
        let value = match name {
            "AWS_REGION" => "",
            "AWS_DEFAULT_REGION" => "eu-west-1",
            "AWS_ENDPOINT_URL" => "http://all",
            "AWS_ENDPOINT_URL_S3" => "http://s3",
            "all_proxy" => "http://user:pa55word@proxy:3128",
            "https_proxy" => "http://other:3128",
            _ => return None,
        };
        Some(value.to_owned())
    });
    assert_eq!(settings.region.as_deref(), Some("eu-west-1"));
    assert_eq!(settings.endpoint_s3.as_ref().map(|e| e.url.as_str()), Some("http://s3"));
    assert_eq!(settings.endpoint_ecs.as_ref().map(|e| e.named_by.as_str()), Some("AWS_ENDPOINT_URL"));
    assert_eq!(settings.https_proxy.as_deref(), Some("http://other:3128"));
    assert_eq!(settings.http_proxy.as_deref(), Some("http://user:pa55word@proxy:3128"));
    assert!(!format!("{settings:?}").contains("pa55word"));
}

#[test]
fn a_signed_request_goes_to_the_region_and_partition() {
    let aws = Aws::new(AwsSettings::default()).unwrap();
    let place = CallTarget { region: "cn-north-1", partition: "aws-cn" };
    let credentials = Credentials::for_tests();
    let request = aws.request(AwsService::Ssm, "GetParameters", String::new(), place, credentials).unwrap();
    assert_eq!(request.uri(), "https://ssm.cn-north-1.amazonaws.com.cn/");
    assert_eq!(request.headers().get("x-amz-target"), Some("AmazonSSM.GetParameters"));
    assert!(request.headers().get("authorization").unwrap().contains("/cn-north-1/ssm/aws4_request"));
}

#[test]
fn configured_endpoints_can_be_ignored() {
    let settings = AwsSettings::from_lookup(|name| match name {
        "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS" => Some("true".into()),
        "AWS_ENDPOINT_URL" => Some("http://all".into()),
        _ => None,
    });
    assert_eq!(settings.endpoint_s3, None);
}

#[test]
fn local_addresses_are_known() {
    for host in [
        "169.254.170.2",
        "169.254.170.23",
        "169.254.169.254",
        "127.0.0.1",
        "127.0.10.20",
        "localhost",
        "[::1]",
        "[fd00:ec2::254]",
        "[fd00:ec2::23]",
        "[fe80::1]",
        "[::ffff:169.254.170.2]",
    ] {
        assert!(is_local(host), "{host}");
    }
    for host in ["s3.eu-central-1.amazonaws.com", "10.0.0.1", "[fd00:ec3::1]", "localhost.evil.com", "8.8.8.8"] {
        assert!(!is_local(host), "{host}");
    }
}

#[test]
fn a_bundle_that_cannot_be_used_is_a_configuration_fault() {
    let folder = tempfile::tempdir().unwrap();
    for (name, text, why) in [
        ("missing", None, "No such file"),
        ("empty", Some(""), "it holds no CA certificate"),
        ("text", Some("hello"), "it holds no CA certificate"),
        ("broken", Some("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"), "it is not PEM"),
        ("odd", Some("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), "no CA certificate"),
    ] {
        let path = folder.path().join(name);
        if let Some(text) = text {
            let mut file = std::fs::OpenOptions::new().create_new(true).write(true).open(&path).unwrap();
            file.write_all(text.as_bytes()).unwrap();
        }
        let fault = Aws::new(AwsSettings { ca_bundle: Some(path), ..AwsSettings::default() }).unwrap_err();
        assert_eq!(fault.code, Code::ConfigInvalid);
        assert!(fault.why.as_deref().unwrap().contains(why), "{fault}");
    }
}

#[test]
fn a_proxy_that_cannot_be_used_is_told_without_its_password() {
    for url in ["ftp://me:pa55word@proxy", "http://me:pa55word@", "http://me:pa55 word@proxy"] {
        let settings = AwsSettings { https_proxy: Some(url.into()), ..AwsSettings::default() };
        let fault = Aws::new(settings).unwrap_err();
        assert_eq!(fault.code, Code::ConfigInvalid);
        assert!(!format!("{fault} {fault:?}").contains("pa55"), "{fault}");
    }
    assert!(Aws::new(AwsSettings { https_proxy: Some("proxy:3128".into()), ..AwsSettings::default() }).is_ok());
}

#[test]
fn a_denial_names_principal_action_and_policy_and_nothing_else() {
    let denial = |message: &str| Denial::read(message).map(|denial| denial.to_string());
    let told = denial(
        "User: arn:aws:sts::123456789012:assumed-role/gmsa-task/e408 is not authorized to perform: s3:GetObject \
             on resource: \"arn:aws:s3:::b/k\" because no identity-based policy allows the s3:GetObject action",
    );
    let expected = "arn:aws:sts::123456789012:assumed-role/gmsa-task/e408 is not allowed to perform s3:GetObject \
                        (no identity-based policy allows it)";
    assert_eq!(told.as_deref(), Some(expected));
    assert_eq!(denial("Access to KMS is not allowed").as_deref(), Some("kms:Decrypt is not allowed"));
    assert_eq!(denial("Access Denied"), None);
    assert_eq!(denial("User: pa55word perform: pa55word on"), None);
}

#[tokio::test]
async fn the_region_is_the_tasks_if_the_environment_names_none() {
    let task = br#"{"TaskARN":"arn:aws-cn:ecs:cn-north-1:123456789012:task/c/e408"}"#;
    let url = server(vec![http(500, "", b""), http(200, "", task)]);
    let aws = Aws::new(AwsSettings { metadata_uri: Some(url), ..AwsSettings::default() }).unwrap();
    assert_eq!(aws.region().await.unwrap_err().code, Code::TaskMetadataUnreachable);
    assert_eq!(aws.region().await.unwrap(), "cn-north-1");
    // From memory now: the server is gone.
    assert_eq!(aws.region().await.unwrap(), "cn-north-1");
    let nowhere = Aws::new(AwsSettings::default()).unwrap();
    assert_eq!(nowhere.region().await.unwrap_err().code, Code::CredSpecRegion);
}

#[tokio::test]
async fn metadata_is_limited_in_size() {
    let url = server(vec![
        http(200, "", &vec![b' '; http::ANSWER_LIMIT]),
        http(200, "", &vec![b' '; http::ANSWER_LIMIT + 1]),
    ]);
    let aws = aws_at(&url);
    assert_eq!(aws.metadata("").await.unwrap().len(), http::ANSWER_LIMIT);
    assert_eq!(aws.metadata("").await.unwrap_err().code, Code::TaskMetadataMalformed);
}

/// What nobody should write, and somebody will.
const ODD: &[&str] =
    &["", " ", "0", "-1", "ten", "legacy", "localhost:5000", "//", "/a b", "\u{7f}", "http://", "\u{e4}"];

/// All variables that are read here or by the SDK.
fn variables() -> impl Iterator<Item = &'static str> {
    const OWN: &[&str] = &[
        "AWS_REGION",
        "AWS_DEFAULT_REGION",
        "AWS_CA_BUNDLE",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "NO_PROXY",
        "AWS_CONFIG_FILE",
        "AWS_SHARED_CREDENTIALS_FILE",
        "AWS_ENDPOINT_URL_S3",
        "AWS_ENDPOINT_URL_SECRETS_MANAGER",
        "AWS_ENDPOINT_URL_ECS",
        "AWS_ENDPOINT_URL_SSM",
        "AWS_RETRY_MODE",
        "AWS_MAX_ATTEMPTS",
        "AWS_NEW_RETRIES_2026",
        "AWS_EXECUTION_ENV",
        "AWS_SDK_UA_APP_ID",
        "AWS_REQUEST_CHECKSUM_CALCULATION",
        "AWS_RESPONSE_CHECKSUM_VALIDATION",
        "AWS_ACCOUNT_ID_ENDPOINT_MODE",
        "ECS_CONTAINER_METADATA_URI_V4",
    ];
    OWN.iter().chain(super::settings::SDK_VARIABLES).copied()
}

/// The whole way that a process goes with these settings: refused at the start, or to the credentials, whatever comes.
async fn walk(settings: AwsSettings) -> Vec<String> {
    let problems = settings.problems();
    if problems.is_empty() {
        let aws = Aws::new(settings).unwrap();
        let chain = aws.loader().await.load().await;
        let credentials = chain.credentials_provider().unwrap();
        let _ = timeout(std::time::Duration::from_millis(50), credentials.provide_credentials()).await;
        let _ = aws.s3("bucket", "eu-west-1").await;
        let _ = aws.secrets_manager("eu-west-1").await;
    }
    problems
}

#[tokio::test]
async fn no_variable_that_a_person_can_write_ends_in_a_panic() {
    let long = "x".repeat(64 * 1024);
    for variable in variables() {
        for value in ODD.iter().copied().chain([long.as_str()]) {
            let lookup = |name: &str| match name {
                _ if name == variable => Some(value.to_owned()),
                "AWS_EC2_METADATA_DISABLED" => Some("true".to_owned()),
                _ => None,
            };
            let settings = AwsSettings::from_lookup(lookup);
            let problems = walk(settings).await;
            if value.trim().is_empty() {
                assert!(problems.is_empty(), "{variable}={value:?}: an empty value is no value: {problems:?}");
            }
            for problem in problems {
                assert!(problem.starts_with(variable) || problem.starts_with("HTTP"), "{variable}: {problem}");
                assert!(problem.len() < 400, "{problem}");
            }
        }
    }
}

#[tokio::test]
async fn no_key_of_a_profile_ends_in_a_panic() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config");
    let long = "x".repeat(64 * 1024);
    for key in [
        "region",
        "retry_mode",
        "max_attempts",
        "endpoint_url",
        "use_fips_endpoint",
        "use_dualstack_endpoint",
        "ignore_configured_endpoint_urls",
        "services",
        "role_arn",
        "source_profile",
        "credential_source",
        "web_identity_token_file",
        "aws_access_key_id",
        "sso_session",
        "ec2_metadata_service_endpoint",
        "request_checksum_calculation",
        "account_id_endpoint_mode",
        "",
        "[",
    ] {
        for value in ODD.iter().copied().chain([long.as_str()]) {
            let text = format!("[default]\n{key} = {value}\n[services lab]\ns3 =\n  {key} = {value}\n");
            #[expect(clippy::disallowed_methods, reason = "a file of the test's own")]
            std::fs::write(&path, text).unwrap();
            let settings = AwsSettings::from_lookup(|name| match name {
                "AWS_CONFIG_FILE" => Some(path.display().to_string()),
                "AWS_EC2_METADATA_DISABLED" => Some("true".to_owned()),
                _ => None,
            });
            for problem in walk(settings).await {
                assert!(problem.contains(&path.display().to_string()) && problem.contains("line 2"), "{problem}");
            }
        }
    }
}

#[test]
fn settings_that_other_sdks_know_are_taken_and_wrong_ones_are_named() {
    let of = |variable: &'static str, value: &'static str| {
        AwsSettings::from_lookup(|name| (name == variable).then(|| value.to_owned()))
    };
    for (variable, value) in [
        ("AWS_RETRY_MODE", "legacy"),
        ("AWS_RETRY_MODE", "Standard"),
        ("AWS_RETRY_MODE", ""),
        ("AWS_MAX_ATTEMPTS", "5"),
        ("AWS_MAX_ATTEMPTS", ""),
        ("AWS_ENDPOINT_URL", ""),
        ("AWS_USE_FIPS_ENDPOINT", "TRUE"),
        ("AWS_CONFIG_FILE", "/dev/null"),
        ("AWS_CONFIG_FILE", "/no/such/file"),
    ] {
        assert_eq!(of(variable, value).problems(), [""; 0], "{variable}={value}");
    }
    assert!(of("AWS_RETRY_MODE", "adaptive").adaptive && !of("AWS_RETRY_MODE", "legacy").adaptive);
    for (variable, value, problem) in [
        ("AWS_MAX_ATTEMPTS", "0", "AWS_MAX_ATTEMPTS: `0` is not a number from 1 to 100"),
        ("AWS_MAX_ATTEMPTS", "ten", "AWS_MAX_ATTEMPTS: `ten` is not a number from 1 to 100"),
        ("AWS_RETRY_MODE", "x", "AWS_RETRY_MODE: `x` is not `standard`, `adaptive` or `legacy`"),
        (
            "AWS_ENDPOINT_URL",
            "moto:5000",
            "AWS_ENDPOINT_URL: `moto:5000` is not a URL that begins with `http://` or `https://`",
        ),
        (
            "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
            "x",
            "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI: `x` is not a path that begins with `/`",
        ),
        ("AWS_CONFIG_FILE", "/", "AWS_CONFIG_FILE: `/`: it is a directory, not a regular file"),
        ("AWS_CA_BUNDLE", "/", "AWS_CA_BUNDLE: `/` cannot be used: it is a directory, not a regular file"),
    ] {
        assert_eq!(of(variable, value).problems(), [problem]);
    }
}

#[test]
fn plain_http_beyond_this_host_is_told_once() {
    let settings = AwsSettings::from_lookup(|name| match name {
        "AWS_ENDPOINT_URL" => Some("http://minio.example.com:9000".to_owned()),
        "AWS_ENDPOINT_URL_S3" => Some("http://127.0.0.1:5000".to_owned()),
        "AWS_ENDPOINT_URL_SSM" => Some("https://ssm.example.com".to_owned()),
        _ => None,
    });
    let told: Vec<_> = settings.plain_http().into_iter().map(|endpoint| endpoint.named_by.as_str()).collect();
    assert_eq!(told, ["AWS_ENDPOINT_URL"]);
}

/// Credentials from the container's endpoint, as a process gets them.
async fn credentials_after(answer: Vec<u8>) -> Failure {
    let url = server(vec![answer.clone(), answer.clone(), answer]);
    let settings = AwsSettings::from_lookup(|name| match name {
        "AWS_CONTAINER_CREDENTIALS_FULL_URI" => Some(format!("{url}/v2/credentials/x")),
        "AWS_EC2_METADATA_DISABLED" => Some("true".to_owned()),
        _ => None,
    });
    let chain = Aws::new(settings).unwrap().loader().await.load().await;
    Failure::no_credentials(&chain.credentials_provider().unwrap().provide_credentials().await.unwrap_err())
}

#[tokio::test]
async fn an_endpoint_of_credentials_that_fails_is_no_missing_role() {
    for status in [400, 403, 429, 500, 503] {
        let failure = credentials_after(http(status, "", b"{\"code\":\"x\"}")).await;
        assert_eq!(failure, Failure::CredentialsLater(format!("the endpoint answered with HTTP {status}")));
    }
    let Failure::CredentialsLater(why) = credentials_after(http(200, "", b"{\"SecretAccessKey\":\"pa55W0RD")).await
    else {
        panic!()
    };
    assert_eq!(why, "the answer does not hold credentials");
    let none = AwsSettings::from_lookup(|name| (name == "AWS_EC2_METADATA_DISABLED").then(|| "true".to_owned()));
    let chain = Aws::new(none).unwrap().loader().await.load().await;
    let error = chain.credentials_provider().unwrap().provide_credentials().await.unwrap_err();
    assert!(matches!(Failure::no_credentials(&error), Failure::Credentials(_)));
}

#[test]
fn a_denial_is_mended_by_one_command_with_the_real_names() {
    let aws = Aws::new(AwsSettings::default()).unwrap();
    let codes = &super::secret::CODES;
    let next = |message: &str, words| {
        let refusal = AwsRefusal::new(400, Some("AccessDeniedException"), Some(message), words);
        let place = CallTarget { region: "eu-west-3", partition: "aws" };
        let resource = "arn:aws:secretsmanager:eu-west-3:123456789012:secret:gmsa/login-AbCdEf";
        let action = "secretsmanager:GetSecretValue";
        let call = Call { service: AwsService::SecretsManager, place, action, resource, named_by: "x" };
        aws.fault(&Failure::Refused(Box::new(refusal)), "x", codes, &call).next().to_owned()
    };
    let who = "User: arn:aws:sts::123456789012:assumed-role/gmsa-task/e408 is not authorized to perform: \
               secretsmanager:GetSecretValue on resource: x because";
    insta::assert_snapshot!(next(&format!("{who} no identity-based policy allows the action"), AnswerSecrecy::Known), @r#"aws iam put-role-policy --role-name gmsa-task --policy-name gmsa-sidecar-secretsmanager-GetSecretValue --policy-document '{"Statement":[{"Action":"secretsmanager:GetSecretValue","Effect":"Allow","Resource":"arn:aws:secretsmanager:eu-west-3:123456789012:secret:gmsa/login-AbCdEf"}],"Version":"2012-10-17"}'"#);
    insta::assert_snapshot!(next(&format!("{who} no VPC endpoint policy allows the action"), AnswerSecrecy::Known), @"allow secretsmanager:GetSecretValue on arn:aws:secretsmanager:eu-west-3:123456789012:secret:gmsa/login-AbCdEf in the policy of the VPC endpoint com.amazonaws.eu-west-3.secretsmanager");
    insta::assert_snapshot!(next(&format!("{who} of an explicit deny in a service control policy"), AnswerSecrecy::Known), @"remove the statement that denies secretsmanager:GetSecretValue on arn:aws:secretsmanager:eu-west-3:123456789012:secret:gmsa/login-AbCdEf from a service control policy in force for the task role");
    insta::assert_snapshot!(next("Access to KMS is not allowed", AnswerSecrecy::Known), @r#"add to the policy of the task role (taskRoleArn; the execution role does not count): {"Action":"kms:Decrypt","Condition":{"StringEquals":{"kms:ViaService":"secretsmanager.eu-west-3.amazonaws.com"}},"Effect":"Allow","Resource":"*"}"#);
}
