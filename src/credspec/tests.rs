use super::*;

use proptest::prelude::*;
use serde_json::json;

use super::reference::{self, SpecLocation};
use crate::aws::arn::Arn;
use crate::aws::tests::{aws_at, http, server, shown};

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
        ("/DomainJoinConfig/DnsName", json!(7), "`DomainJoinConfig.DnsName` is not a string"),
        ("/DomainJoinConfig/DnsName", json!("a b"), "`DomainJoinConfig.DnsName`: domain `a b` is not"),
        (directory, json!([]), "`ActiveDirectoryConfig` is not an object"),
        ("/ActiveDirectoryConfig/GroupManagedServiceAccounts", json!([]), "is empty"),
        ("/ActiveDirectoryConfig/GroupManagedServiceAccounts", json!(7), "is not an array"),
        ("/ActiveDirectoryConfig/GroupManagedServiceAccounts/1/Name", json!(null), "[1].Name` is missing"),
        ("/ActiveDirectoryConfig/GroupManagedServiceAccounts/0/Name", json!("../x"), "[0].Name`: account name"),
        ("/ActiveDirectoryConfig/HostAccountConfig/PluginInput", json!("{x"), "PluginInput` is a string in which"),
        ("/ActiveDirectoryConfig/HostAccountConfig/PluginInput", json!(1), "PluginInput` is not an object"),
        ("/ActiveDirectoryConfig/HostAccountConfig/PluginInput/CredentialArn", json!("x y"), "CredentialArn`: `x y`"),
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
    assert_eq!(code(b"[]").why.as_deref(), Some("it is JSON, but not an object (`{ .. }`)"));
    assert_eq!(
        code(b"{\"a\":").why.as_deref(),
        Some("the JSON text ends too early at line 1, column 5: EOF while parsing a value")
    );
    assert_eq!(code(b"{\"a\" 1}").why.as_deref(), Some("the JSON syntax is wrong at line 1, column 6: expected `:`"));
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
            "`x` is not the place of a CredSpec: expected are the ARN of an S3 object or an SSM parameter or `file:///path`, alone or after `credentialspecdomainless:` or `credentialspec:`; or `s3://bucket/prefix/`; or a JSON document",
            "`arn:aws:s3:::bucket` names a bucket but no key",
            "`file://x` needs an absolute path: file:///path",
            "`arn:aws:iam::1:x` does not name an account of twelve digits",
        ]
    );
    assert_eq!(parse_references(" , ").unwrap_err()[0].to_string(), "`,` does not name a CredSpec");
}

#[test]
fn an_object_is_in_a_bucket_or_behind_an_access_point() {
    let parse = |text: &str| reference::object(text, Arn::parse(text).unwrap());
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

const PLUGIN_INPUT: &str = "/ActiveDirectoryConfig/HostAccountConfig/PluginInput";

/// The sound document with another value at a place.
fn with(at: &str, value: Value) -> Value {
    let mut document = document();
    *document.pointer_mut(at).unwrap() = value;
    document
}

#[test]
fn keys_match_without_case() {
    let lower = document().to_string();
    for key in ["DnsName", "DomainJoinConfig", "ActiveDirectoryConfig", "HostAccountConfig", "PluginInput", "Name"] {
        let lower = lower.replace(&format!("\"{key}\""), &format!("\"{}\"", key.to_lowercase()));
        assert_eq!(CredSpec::parse(lower.as_bytes()).unwrap(), parse(&document()).unwrap(), "{key}");
    }
    for input in [json!({"credentialArn": SECRET}), json!({"credentialarn": SECRET}).to_string().into(), SECRET.into()]
    {
        assert_eq!(parse(&with(PLUGIN_INPUT, input)).unwrap(), parse(&document()).unwrap());
    }
    let both = with(PLUGIN_INPUT, json!({"credentialArn": SECRET, "CredentialArn": SECRET}));
    assert!(parse(&both).unwrap_err().why.unwrap().contains("both `"));
}

#[test]
fn a_login_at_the_wrong_place_or_of_another_type_is_never_taken_for_a_joined_host() {
    let host = document()["ActiveDirectoryConfig"]["HostAccountConfig"].clone();
    let moved = |to: &str| {
        let mut moved = with("/ActiveDirectoryConfig/HostAccountConfig", Value::Null);
        moved["ActiveDirectoryConfig"].as_object_mut().unwrap().remove("HostAccountConfig");
        match to {
            "" => moved["hostAccountConfig"] = host.clone(),
            _ => moved[to]["HostAccountConfig"] = host.clone(),
        }
        parse(&moved).unwrap_err()
    };
    assert!(moved("").why.unwrap().starts_with("`hostAccountConfig` is not at its place"));
    let fault = moved("DomainJoinConfig");
    assert!(fault.why.as_deref().unwrap().starts_with("`DomainJoinConfig.HostAccountConfig` is not at its place"));
    assert_eq!(fault.next(), "move it to `ActiveDirectoryConfig.HostAccountConfig`");
    let mut flat = with("/ActiveDirectoryConfig/HostAccountConfig/PluginInput", json!({}));
    flat["ActiveDirectoryConfig"]["HostAccountConfig"]["CredentialArn"] = SECRET.into();
    assert!(parse(&flat).unwrap_err().why.unwrap().contains("HostAccountConfig.CredentialArn` is not at its place"));
    let host = "/ActiveDirectoryConfig/HostAccountConfig";
    for (value, why) in [
        (json!("System.Collections.Hashtable"), "ConvertTo-Json cut the document off"),
        (json!([1]), "HostAccountConfig` is not an object"),
        (json!(true), "HostAccountConfig` is not an object"),
        (json!({"PortableCcgVersion": "1"}), "has no `PluginInput`"),
        (json!({"PluginInput": {"Arn": SECRET}}), "its keys: Arn"),
    ] {
        let fault = parse(&with(host, value)).unwrap_err();
        assert!(fault.why.as_deref().unwrap().contains(why), "{fault}");
    }
    let cut_off = json!(["@{Name=WebApp01; Scope=example.com}"]);
    let fault = parse(&with("/ActiveDirectoryConfig/GroupManagedServiceAccounts", cut_off)).unwrap_err();
    assert_eq!(fault.next(), "create the document again with ConvertTo-Json -Depth 10");
}

#[test]
fn the_input_of_another_plugin_is_named_as_such_and_never_repeated() {
    for (input, guid, of) in [
        ("corp.example.com:svc:pa55W0RD", "", "the sample plugin of Windows"),
        ("ObjectId=x;SecretUri=https://vault/pa55W0RD", "", "Azure Key Vault"),
        ("pa55W0RD", "{CCC2A336-D7F3-4818-A213-272B7924213E}", "Azure Key Vault"),
        ("pa55W0RD", "{e4781092-f116-4b79-b55e-28eb6a224e26}", "Rancher"),
        ("pa55W0RD with blanks", "", "neither a JSON object nor the ARN"),
    ] {
        let mut document = with(PLUGIN_INPUT, input.into());
        document["ActiveDirectoryConfig"]["HostAccountConfig"]["PluginGUID"] = guid.into();
        let fault = parse(&document).unwrap_err();
        assert!(fault.why.as_deref().unwrap().contains(of), "{fault}");
        assert!(!format!("{fault:?}").contains("pa55W0RD"), "{fault}");
    }
}

#[test]
fn a_name_and_a_parameter_stand_for_a_secret() {
    for text in ["gmsa/login", "arn:aws:ssm:eu-central-1:123456789012:parameter/gmsa-login"] {
        for input in [json!(text), json!({"CredentialArn": text})] {
            let spec = parse(&with(PLUGIN_INPUT, input)).unwrap();
            assert_eq!(spec.login(), &LoginSource::Secret(text.parse().unwrap()));
        }
    }
}

#[test]
fn utf_16_and_kubernetes_resources_are_read() {
    let spec = parse(&document()).unwrap();
    let text = document().to_string();
    let little: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let big: Vec<u8> = text.encode_utf16().flat_map(u16::to_be_bytes).collect();
    for bytes in [[b"\xff\xfe", little.as_slice()].concat(), [b"\xfe\xff", big.as_slice()].concat(), little, big] {
        assert_eq!(CredSpec::parse(&bytes).unwrap(), spec);
    }
    let resource = json!({"apiVersion": "windows.k8s.io/v1", "kind": "GMSACredentialSpec", "credspec": document()});
    assert_eq!(parse(&resource).unwrap(), spec);
    assert_eq!(parse(&json!({"kind": "List", "items": [resource]})).unwrap(), spec);
    let many = json!({"kind": "List", "items": [resource, resource]});
    assert!(parse(&many).unwrap_err().next().contains("kubectl get gmsacredentialspec"));
}

#[test]
fn a_text_that_is_not_json_is_described() {
    for (bytes, why, next) in [
        (b"\x1f\x8b\x08\x00".as_slice(), "gzip data; it begins with the bytes 1F 8B 08 00", "UTF-8"),
        (b"PK\x03\x04\xff", "a ZIP archive", "UTF-8"),
        (b"\xff\xfe{", "begins as UTF-16", "UTF-8"),
        (b"<html>", "begins with `<`", "proxy"),
        (b"apiVersion: windows.k8s.io/v1\nkind: x", "it is YAML", "kubectl get gmsacredentialspec NAME -o json"),
        (b"{\n  \"a\": 1, // always 1\n}", "line 2, column 11", "remove the comment in line 2"),
        ("{\n  \u{201c}a\": 1}".as_bytes(), "U+201C", "quotation marks in line 2"),
        (b"{\"a\": 1,}", "line 1, column 9: trailing comma", "correct line 1, column 9"),
    ] {
        let fault = CredSpec::parse(bytes).unwrap_err();
        assert!(fault.why.as_deref().unwrap().contains(why) && fault.next().contains(next), "{fault}");
    }
    let deep = [vec![b'['; 30_000], vec![b']'; 30_000]].concat();
    assert!(CredSpec::parse(&deep).unwrap_err().why.unwrap().contains("recursion limit exceeded"));
}

#[test]
fn placeholders_are_named_before_anything_is_asked() {
    for arn in ["arn:aws:secretsmanager:aws-region:111122223333:secret:MySecret", "arn:${AWS::Partition}:x", "<ARN>"] {
        let fault = parse(&with(PLUGIN_INPUT, json!({"CredentialArn": arn}))).unwrap_err();
        assert!(fault.why.as_deref().unwrap().contains("is a placeholder"), "{fault}");
    }
    let told = parse_references("arn:aws:s3:::<bucket>/key").unwrap_err()[0].to_string();
    assert!(told.contains("placeholder, `<bucket>`"), "{told}");
}

#[test]
fn a_netbios_name_is_replaced_by_a_dns_name_of_the_document_or_refused() {
    let domain = |document: Value| parse(&document).map(|spec| spec.domain().to_string());
    let mut named = with("/DomainJoinConfig/DnsName", json!("CORP"));
    assert_eq!(domain(named.clone()).unwrap(), "corp.example.com", "by a Scope");
    named["ActiveDirectoryConfig"]["GroupManagedServiceAccounts"] = json!([{"Name": "a", "Scope": "CORP"}]);
    let fault = domain(named.clone()).unwrap_err();
    assert!(fault.why.as_deref().unwrap().contains("looks like a NetBIOS name"), "{fault}");
    assert!(fault.why.as_deref().unwrap().contains("`DomainJoinConfig.DnsName`"), "{fault}");
    named["DomainJoinConfig"]["DnsTreeName"] = json!("forest.test");
    assert!(domain(named.clone()).is_err(), "the root of the tree need not be this domain");
    named["DomainJoinConfig"]["DnsTreeName"] = json!("corp.forest.test");
    assert_eq!(domain(named).unwrap(), "corp.forest.test");
}

#[test]
fn a_gmsa_is_looked_for_in_the_domain_of_its_scope() {
    let accounts = json!([
        {"Name": "A", "Scope": "CORP"},
        {"Name": "B", "Scope": "Other.Test"},
        {"Name": "C", "Scope": "other.test"},
        {"Name": "C", "Scope": "corp.example.com"},
    ]);
    let spec = parse(&with("/ActiveDirectoryConfig/GroupManagedServiceAccounts", accounts)).unwrap();
    let domains: Vec<_> = spec.accounts().iter().map(|account| spec.domain_of(account).as_str()).collect();
    assert_eq!(domains, ["corp.example.com", "other.test", "corp.example.com"]);
    let LoginSource::Secret(arn) = spec.login() else { panic!() };
    assert_eq!(arn.login_domain.as_ref().unwrap().as_str(), "corp.example.com", "the login's domain stays DnsName");
    let one = json!({"Name": "WebApp01", "Scope": "corp.example.com"});
    let spec = parse(&with("/ActiveDirectoryConfig/GroupManagedServiceAccounts", one)).unwrap();
    assert_eq!(spec.accounts().len(), 1, "PowerShell writes a list of one as the element");
    let many: Vec<_> = (0..65).map(|n| json!({"Name": format!("a{n}")})).collect();
    let fault = parse(&with("/ActiveDirectoryConfig/GroupManagedServiceAccounts", many.into())).unwrap_err();
    assert!(fault.why.unwrap().contains("65 gMSAs"));
}

#[test]
fn gmsa_sidecar_sets_what_no_variable_does() {
    let of = |object: Value| {
        let mut document = document();
        document["GmsaSidecar"] = object;
        parse(&document).map(|spec| spec.overrides().clone())
    };
    assert_eq!(parse(&document()).unwrap().overrides(), &Overrides::default());
    let all = of(json!({
        "owner": "1654:1655", "Mode": "0640", "Keytab": true, "ServiceTickets": ["HTTP/web.example.com", "http/WEB.example.com"],
    }))
    .unwrap();
    assert_eq!(all.owner, "1654:1655".parse().ok());
    assert_eq!(all.mode, "0640".parse().ok());
    assert_eq!((all.keytab, all.service_tickets.unwrap().len()), (Some(true), 1));
    assert_eq!(of(json!({"Owner": 7})).unwrap().owner, "7".parse().ok());
    let own = rustix::process::geteuid().as_raw();
    assert_eq!(of(json!({"Owner": ":1654"})).unwrap().owner, format!("{own}:1654").parse().ok());
    for (object, why) in [
        (json!([]), "`GmsaSidecar` is not an object"),
        (json!({"Modus": "0640"}), "`GmsaSidecar.Modus` is not known; known are Owner, Mode"),
        (json!({"Mode": "0666"}), "`GmsaSidecar.Mode`: this mode would let everyone change"),
        (json!({"Mode": 640}), "`GmsaSidecar.Mode`: a mode is an octal number in quotation marks"),
        (json!({"Owner": "root"}), "`GmsaSidecar.Owner`: an owner is numeric"),
        (json!({"Owner": -1}), "`GmsaSidecar.Owner`"),
        (json!({"Keytab": "yes"}), "`GmsaSidecar.Keytab`"),
        (json!({"ServiceTickets": ["HTTP"]}), "`GmsaSidecar.ServiceTickets`: service principal name `HTTP`"),
        (json!({"ServiceTickets": 1}), "`GmsaSidecar.ServiceTickets`: it is not a list"),
    ] {
        let fault = of(object).unwrap_err();
        assert!(fault.why.as_deref().unwrap().contains(why), "{fault}");
    }
}

#[test]
fn lists_are_named_by_a_prefix_or_a_path() {
    for text in [
        "s3://gmsa-specs/teams/",
        "s3://gmsa-specs/",
        "arn:aws:ssm:eu-central-1:123456789012:parameter/gmsa/specs/",
        "/gmsa/specs/",
    ] {
        let reference: Reference = text.parse().unwrap();
        assert!(reference.is_list());
        assert_eq!(reference.to_string(), text);
    }
    for (text, why) in [
        ("s3://gmsa-specs/a.json", "one object is named by its ARN, arn:aws:s3:::gmsa-specs/a.json"),
        ("s3://gm sa/", "does not name a bucket"),
        ("s3:///", "does not name a bucket"),
        ("/gmsa/specs", "is not the place of a CredSpec"),
        ("/a b/", "is not a path of SSM parameters"),
    ] {
        assert!(text.parse::<Reference>().unwrap_err().to_string().contains(why), "{text}");
    }
}

#[tokio::test]
async fn a_list_holds_the_documents_under_its_prefix() {
    let page = |keys: &[&str], next: &str| {
        let contents: String = keys.iter().map(|key| format!("<Contents><Key>{key}</Key></Contents>")).collect();
        let body = format!(
            "<ListBucketResult>{contents}<NextContinuationToken>{next}</NextContinuationToken></ListBucketResult>"
        );
        http(
            200,
            "content-type: application/xml\r\n",
            body.replace("<NextContinuationToken></NextContinuationToken>", "").as_bytes(),
        )
    };
    let aws = aws_at(&server(vec![page(&["t/b.json", "t/", "t/x.txt"], "more"), page(&["t/a.json"], "")]));
    let reference: Reference = "credentialspecdomainless:s3://gmsa-specs/t/".parse().unwrap();
    let found = list(&reference, &aws).await.unwrap();
    let shown: Vec<_> = found.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["arn:aws:s3:::gmsa-specs/t/a.json", "arn:aws:s3:::gmsa-specs/t/b.json"]);
    assert_eq!(found[0].origin(), "the list s3://gmsa-specs/t/");
    assert!(found[0].domainless && matches!(found[0].source, SpecLocation::S3(_)));
    let keys: Vec<String> = (0..501).map(|n| format!("t/{n}.json")).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let fault = list(&reference, &aws_at(&server(vec![page(&keys, "")]))).await.unwrap_err();
    assert_eq!(fault.code, Code::CredSpecTooLarge);
    // One that never ends.
    let pages = (0..60).map(|_| page(&["t/x.txt"], "more")).collect();
    assert_eq!(list(&reference, &aws_at(&server(pages))).await.unwrap_err().code, Code::CredSpecTooLarge);
    let arn = |name: &str| format!("arn:aws:ssm:eu-central-1:123456789012:parameter/gmsa/{name}");
    let answers = vec![
        http(200, "", json!({"Parameters": [{"ARN": arn("b")}], "NextToken": "x"}).to_string().as_bytes()),
        http(200, "", json!({"Parameters": [{"ARN": arn("a")}]}).to_string().as_bytes()),
    ];
    let found = list(&"/gmsa/".parse().unwrap(), &aws_at(&server(answers))).await.unwrap();
    assert_eq!(found.iter().map(ToString::to_string).collect::<Vec<_>>(), [arn("a"), arn("b")]);
}

#[tokio::test]
async fn the_secret_tells_the_dns_name_of_a_netbios_name() {
    let mut document = with("/DomainJoinConfig/DnsName", json!("corp"));
    document["ActiveDirectoryConfig"]["GroupManagedServiceAccounts"] = json!([{"Name": "a", "Scope": "CORP"}]);
    let secret = |domain: &str| {
        let secret = json!({"username": "s", "password": "x", "DomainName": domain}).to_string();
        http(200, "", json!({"VersionId": "1", "SecretString": secret}).to_string().as_bytes())
    };
    let found = || http(200, "", document.to_string().as_bytes());
    let spec = fetch_from("arn:aws:s3:::bucket/key", vec![found(), secret("corp.example.com")]).await.unwrap();
    assert_eq!(spec.domain().as_str(), "corp.example.com");
    assert_eq!(spec.domain_of(&spec.accounts()[0]).as_str(), "corp.example.com");
    let fault = fetch_from("arn:aws:s3:::bucket/key", vec![found(), secret("other.test")]).await.unwrap_err();
    assert!(fault.why.as_deref().unwrap().contains("looks like a NetBIOS name"), "{fault}");
}

#[tokio::test]
async fn a_fault_of_s3_says_what_to_change() {
    const OBJECT: &str = "arn:aws:s3:::bucket/teams/we b.json";
    let error = |status, name: &str, message: &str| {
        let body = format!("<Error><Code>{name}</Code><Message>{message}</Message></Error>");
        http(status, "x-amz-request-id: 0123456789ABCDEF\r\n", body.as_bytes())
    };
    let denied = |action: &str| {
        let role = "arn:aws:sts::123456789012:assumed-role/gmsa-task/e408";
        format!(
            "User: {role} is not authorized to perform: {action} on resource: \"arn:aws:s3:::bucket\" because no identity-based policy allows the {action} action"
        )
    };
    let fault =
        async |answer| shown(&fetch(&OBJECT.parse().unwrap(), &aws_at(&server(vec![answer; 3]))).await.unwrap_err());
    insta::assert_snapshot!(fault(error(404, "NoSuchKey", "The specified key does not exist.")).await, @r"
    code=credspec-not-found
      what: Could not read the CredSpec from Amazon S3 (`arn:aws:s3:::bucket/teams/we b.json`, named by GMSA_CREDENTIAL_SPECS)
      why:  AWS answered NoSuchKey (HTTP 404, request ID 0123456789ABCDEF): The specified key does not exist; endpoint: http://ENDPOINT (set by AWS_ENDPOINT_URL)
      next: correct the name in GMSA_CREDENTIAL_SPECS, character for character; this lists what there is: aws s3 ls s3://bucket/teams/
      more: gmsa-sidecar explain credspec-not-found
    ");
    let told = fault(error(403, "AccessDenied", &denied("s3:GetObject"))).await;
    assert!(
        told.contains("aws iam put-role-policy --role-name gmsa-task") && told.contains("bucket/teams/we b.json\"}]"),
        "{told}"
    );
    // A key that is not there, told to whom may not list the bucket.
    let told = fault(error(403, "AccessDenied", &denied("s3:ListBucket"))).await;
    assert!(told.starts_with("code=credspec-not-found") && told.contains("aws s3 ls s3://bucket/teams/"), "{told}");
    let told = fault(error(503, "SlowDown", "Please reduce your request rate.")).await;
    assert!(told.starts_with("code=credspec-unreachable") && told.contains("HTTP 503"), "{told}");
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
    assert_eq!(zeros.why.as_deref(), Some("it is a device, not a regular file"));
    let folder = fetch_from(&format!("file://{}", folder.path().display()), vec![]).await.unwrap_err();
    assert_eq!((folder.code, folder.owner()), (Code::CredSpecUnreadable, crate::fault::Owner::TaskDefinition));
    write(&" ".repeat(LIMIT + 1));
    assert_eq!(code().await.unwrap_err(), Code::CredSpecTooLarge);
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

/// The lab's moto: `list/` has two documents and a text, `/list/specs/` two parameters.
#[tokio::test]
async fn lists_of_moto_are_read() {
    let mut listed = Vec::new();
    let Some(endpoint) = crate::aws::tests::lab_endpoint() else { return };
    for text in ["s3://gmsa-specs/list/", "/list/specs/"] {
        let found = list(&text.parse().unwrap(), &aws_at(&endpoint)).await.unwrap();
        listed.extend(found.iter().map(ToString::to_string));
    }
    assert_eq!(
        listed,
        [
            "arn:aws:s3:::gmsa-specs/list/webapp01.json",
            "arn:aws:s3:::gmsa-specs/list/webapp02.json",
            "arn:aws:ssm:eu-central-1:123456789012:parameter/list/specs/webapp01",
            "arn:aws:ssm:eu-central-1:123456789012:parameter/list/specs/webapp02",
        ]
    );
}
