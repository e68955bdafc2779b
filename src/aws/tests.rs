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
    let place = Place { region: "cn-north-1", partition: "aws-cn" };
    let credentials = Credentials::for_tests();
    let request = aws.request(Service::Ssm, "GetParameters", String::new(), place, credentials).unwrap();
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
    let url = server(vec![http(200, "", &vec![b' '; ANSWER_LIMIT]), http(200, "", &vec![b' '; ANSWER_LIMIT + 1])]);
    let aws = aws_at(&url);
    assert_eq!(aws.metadata("").await.unwrap().len(), ANSWER_LIMIT);
    assert_eq!(aws.metadata("").await.unwrap_err().code, Code::TaskMetadataMalformed);
}
