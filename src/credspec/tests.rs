use super::*;

use proptest::prelude::*;
use serde_json::json;

use super::reference::*;
use crate::aws::arn::Arn;
use crate::aws::tests::{aws_at, http, server};

const SECRET: &str = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:gmsa/login-AbCdEf";

fn document() -> Value {
    json!({
        "CmsPlugins": ["ActiveDirectory"],
        "DomainJoinConfig": {"DnsName": "Corp.Example.COM", "NetBiosName": "CORP", "Sid": "S-1-5-21"},
        "ActiveDirectoryConfig": {
            "GroupManagedServiceAccounts": [
                {"Name": "WebApp01", "Scope": "corp.example.com"},
                {"Name": "WEBAPP01$", "Scope": "CORP"},
                {"Name": "WebApp02", "Scope": "CORP"},
            ],
            "HostAccountConfig": {"PortableCcgVersion": "1", "PluginInput": {"CredentialArn": SECRET}},
        },
    })
}

fn parse(document: &Value) -> Result<CredSpec, Fault> {
    CredSpec::parse(document.to_string().as_bytes())
}

#[test]
fn a_sound_document_is_read_and_one_account_is_one() {
    let spec = parse(&document()).unwrap();
    assert_eq!(spec.domain().as_str(), "corp.example.com");
    let names: Vec<_> = spec.accounts().iter().map(Account::as_str).collect();
    assert_eq!(names, ["WebApp01", "WebApp02"]);
    assert_eq!(spec.login(), &LoginSource::Secret(SECRET.parse().unwrap()));
    let with_bom = format!("\u{feff}{}", document());
    assert_eq!(CredSpec::parse(with_bom.as_bytes()).unwrap(), spec);
    let mut windows = document();
    let input = json!({"CredentialArn": SECRET}).to_string();
    windows["ActiveDirectoryConfig"]["HostAccountConfig"]["PluginInput"] = input.into();
    assert_eq!(parse(&windows).unwrap(), spec);
    let mut joined = document();
    joined["ActiveDirectoryConfig"]["HostAccountConfig"] = Value::Null;
    assert_eq!(parse(&joined).unwrap().login(), &LoginSource::DomainJoined);
}

#[test]
fn a_fault_names_the_field() {
    let directory = "/ActiveDirectoryConfig";
    for (at, value, why) in [
        ("/DomainJoinConfig", json!(null), "`DomainJoinConfig.DnsName` is missing"),
        ("/DomainJoinConfig/DnsName", json!(7), "`DomainJoinConfig.DnsName` is no string"),
        ("/DomainJoinConfig/DnsName", json!("a b"), "`DomainJoinConfig.DnsName`: domain `a b` is not"),
        (directory, json!([]), "`ActiveDirectoryConfig.GroupManagedServiceAccounts` is missing"),
        ("/ActiveDirectoryConfig/GroupManagedServiceAccounts", json!([]), "is empty"),
        ("/ActiveDirectoryConfig/GroupManagedServiceAccounts", json!({}), "is no array"),
        ("/ActiveDirectoryConfig/GroupManagedServiceAccounts/1/Name", json!(null), "[1].Name` is missing"),
        ("/ActiveDirectoryConfig/GroupManagedServiceAccounts/0/Name", json!("../x"), "[0].Name`: account name"),
        ("/ActiveDirectoryConfig/HostAccountConfig/PluginInput", json!("x"), "PluginInput` is a string without"),
        ("/ActiveDirectoryConfig/HostAccountConfig/PluginInput", json!(1), "PluginInput` is no object"),
        ("/ActiveDirectoryConfig/HostAccountConfig/PluginInput/CredentialArn", json!("x"), "CredentialArn`: `x`"),
        ("/ActiveDirectoryConfig/HostAccountConfig/PluginInput/CredentialArn", json!(""), "CredentialArn` is empty"),
    ] {
        let mut broken = document();
        *broken.pointer_mut(at).unwrap() = value;
        let fault = parse(&broken).unwrap_err();
        assert_eq!(fault.code, Code::CredSpecMalformed);
        assert!(fault.why.as_deref().unwrap().contains(why), "{fault}");
    }
    let code = |text: &[u8]| CredSpec::parse(text).unwrap_err();
    assert_eq!(code(b" \n").why.as_deref(), Some("it is empty"));
    assert_eq!(code(b"[]").why.as_deref(), Some("it is no JSON object"));
    assert_eq!(code(b"{\"a\":").why.as_deref(), Some("it ends too early (line 1, column 5)"));
    assert_eq!(code(b"{\"a\" 1}").why.as_deref(), Some("it is not JSON (line 1, column 6)"));
    assert_eq!(code(&vec![b' '; LIMIT + 1]).code, Code::CredSpecTooLarge);
}

#[test]
fn references_are_read_in_every_form() {
    let text = "credentialspecdomainless:arn:aws:s3:::bucket/a.json, credentialspec:arn:aws-cn:s3:::bucket/b%20c+d\n\
                arn:aws-us-gov:ssm:us-gov-west-1:123456789012:parameter/gmsa/x file:///etc/spec.json,,\
                credentialspec:file:///x arn:aws:s3:::bucket/a.json arn:aws:s3:::bucket/a.json";
    let references = parse_references(text).unwrap();
    let shown: Vec<_> = references.iter().map(ToString::to_string).collect();
    assert_eq!(
        shown,
        [
            "arn:aws:s3:::bucket/a.json",
            "arn:aws-cn:s3:::bucket/b%20c+d",
            "arn:aws-us-gov:ssm:us-gov-west-1:123456789012:parameter/gmsa/x",
            "file:///etc/spec.json",
            "file:///x",
            "arn:aws:s3:::bucket/a.json",
        ]
    );
    assert!(references[0].domainless && !references[1].domainless && !references[5].domainless);
    let inline = parse_references(" {\"a\": 1} ").unwrap();
    assert_eq!((inline.len(), inline[0].to_string().as_str()), (1, "inline"));
}

#[test]
fn a_json_array_takes_keys_with_spaces_commas_and_any_script() {
    let text = r#"["arn:aws:s3:::bucket/teams/a b,c/wëb 01.json", "file:///a b"]"#;
    let references = parse_references(text).unwrap();
    assert_eq!(references[0].to_string(), "arn:aws:s3:::bucket/teams/a b,c/wëb 01.json");
    assert_eq!(references[1].to_string(), "file:///a b");
    for text in ["[", "[1]", r#"["arn:aws:s3:::b\u0000ucket/k"]"#, "[]", r#"[{"CmsPlugins":[]}]"#] {
        assert!(parse_references(text).is_err(), "{text}");
    }
}

#[test]
fn all_errors_are_told() {
    let errors = parse_references("x arn:aws:s3:::bucket file://x arn:aws:s3:::bucket/k arn:aws:iam::1:x").unwrap_err();
    let told: Vec<_> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "`x` is no CredSpec: the ARN of an S3 object or an SSM parameter, or `file:///path` is wanted, alone or after `credentialspecdomainless:` or `credentialspec:`, or a JSON document",
            "`arn:aws:s3:::bucket` names a bucket but no key",
            "`file://x` needs an absolute path: file:///path",
            "`arn:aws:iam::1:x` names no account of twelve digits",
        ]
    );
    assert_eq!(parse_references(" , ").unwrap_err()[0].to_string(), "`,` names no CredSpec");
}

#[test]
fn an_object_is_in_a_bucket_or_behind_an_access_point() {
    let parse = |text: &str| object(text, Arn::parse(text).unwrap());
    let behind = parse("arn:aws-cn:s3:cn-north-1:123456789012:accesspoint/my-ap/object/a/object/b.json").unwrap();
    assert_eq!(behind.bucket, "arn:aws-cn:s3:cn-north-1:123456789012:accesspoint/my-ap");
    assert_eq!((behind.region.as_deref(), behind.key.as_str()), (Some("cn-north-1"), "a/object/b.json"));
    for text in [
        "arn:aws:s3:eu-west-1:123456789012:bucket/key",
        "arn:aws:s3:eu-west-1:123456789012:accesspoint/my-ap/key",
        "arn:aws:s3:eu-west-1:123456789012:accesspoint/my-ap/object/",
        "arn:aws:s3:eu-west-1:123456789012:accesspoint/a/b/object/key",
        "arn:aws:s3:eu-west-1::accesspoint/my-ap/object/key",
    ] {
        assert!(parse(text).is_err(), "{text}");
    }
}

#[test]
fn a_label_takes_arns_only() {
    assert!(parse_label("arn:aws:s3:::bucket/k arn:aws:ssm:eu-central-1:123456789012:parameter/x").is_ok());
    for text in ["file:///etc/shadow", "{}", "arn:aws:s3:::bucket/k credentialspec:file:///x"] {
        assert!(parse_label(text).unwrap_err()[0].to_string().ends_with("only ARNs are"), "{text}");
    }
}

async fn fetch_from(reference: &str, answers: Vec<Vec<u8>>) -> Result<CredSpec, Fault> {
    fetch(&reference.parse().unwrap(), &aws_at(&server(answers))).await
}

#[tokio::test]
async fn refusals_of_s3_have_their_codes() {
    const OBJECT: &str = "arn:aws:s3:::bucket/key";
    let error = |status, name: &str| http(status, "", format!("<Error><Code>{name}</Code></Error>").as_bytes());
    for (answer, code) in [
        (error(404, "NoSuchKey"), Code::CredSpecNotFound),
        (error(404, "NoSuchBucket"), Code::CredSpecNotFound),
        (error(403, "AccessDenied"), Code::CredSpecDenied),
        (error(403, "InvalidAccessKeyId"), Code::CredSpecAwsCredentials),
        (http(403, "", b""), Code::CredSpecDenied),
        (http(200, "", b"<html>log in to the network</html>"), Code::CredSpecMalformed),
        (http(200, "", &vec![b' '; LIMIT + 1]), Code::CredSpecTooLarge),
    ] {
        let fault = fetch_from(OBJECT, vec![answer]).await.unwrap_err();
        assert_eq!(fault.code, code, "{fault}");
        assert!(fault.what.contains(OBJECT), "{fault}");
    }
}

#[tokio::test]
async fn a_bucket_elsewhere_is_read_there_and_remembered() {
    let moved = || http(301, "x-amz-bucket-region: us-west-2\r\n", b"<Error><Code>PermanentRedirect</Code></Error>");
    let found = || http(200, "", document().to_string().as_bytes());
    let aws = aws_at(&server(vec![moved(), found(), found(), moved(), moved()]));
    let reference: Reference = "arn:aws:s3:::bucket/key".parse().unwrap();
    fetch(&reference, &aws).await.unwrap();
    assert_eq!(aws.bucket_region("bucket").as_deref(), Some("us-west-2"));
    fetch(&reference, &aws).await.unwrap();
    // Sent to and fro: once is enough.
    let other: Reference = "arn:aws:s3:::other/key".parse().unwrap();
    assert_eq!(fetch(&other, &aws).await.unwrap_err().code, Code::CredSpecUnreachable);
}

#[tokio::test]
async fn files_are_read_within_limits() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a b.json");
    let write = |text: &str| {
        use std::io::Write;
        let mut file = std::fs::OpenOptions::new().create(true).truncate(true).write(true).open(&path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    };
    let reference = format!("credentialspecdomainless:file://{}", path.display());
    let code = async || fetch_from(&reference, vec![]).await.map_err(|fault| fault.code);
    assert_eq!(code().await.unwrap_err(), Code::CredSpecUnreadable);
    write(&document().to_string());
    assert!(code().await.is_ok());
    let mut joined = document();
    joined["ActiveDirectoryConfig"]["HostAccountConfig"] = Value::Null;
    write(&joined.to_string());
    assert_eq!(code().await.unwrap_err(), Code::CredSpecCredentialArnMissing);
    let zeros = fetch_from("file:///dev/zero", vec![]).await.unwrap_err();
    assert_eq!(zeros.code, Code::CredSpecTooLarge);
}

proptest! {
    #[test]
    fn any_document_is_read_or_refused(text in "\\PC{0,200}") {
        let _ = CredSpec::parse(text.as_bytes());
    }

    #[test]
    fn what_a_reference_shows_has_no_control_characters(text in "(credentialspec:)?(arn:aws:s3:::bucket/|file:///).{0,40}") {
        if let Ok(reference) = text.parse::<Reference>() {
            prop_assert!(!reference.to_string().contains(char::is_control));
        }
        let _ = parse_references(&text);
    }
}
