use std::fmt::Write;

use crate::sources::FaultProxy;
use crate::support::{Sidecar, assert_no_secret, cred_spec, lab, put_object, put_secret, secret_arn};

/// Runs `init` for each case and tells what the user reads. Whatever the case, no ticket is written, nothing but
/// one fault ends it, and it does not panic.
pub fn told(cases: Vec<(&str, Sidecar)>) -> String {
    let mut told = String::new();
    for (name, sidecar) in cases {
        let sidecar = sidecar.with("GMSA_INIT_TIMEOUT", "1s");
        let ended = sidecar.init();
        assert!(!ended.stderr.contains("internal-bug"), "{name}: {ended:#?}");
        assert!(!sidecar.path("krb5cc").exists(), "{name}: a ticket was written");
        writeln!(told, "# {name}\n{}\n", normal(&ended.fault(), &sidecar)).unwrap();
    }
    told
}

/// Without what differs from run to run: the secrets' random suffixes, folders, the order of DCs.
pub fn normal(text: &str, sidecar: &Sidecar) -> String {
    let mut text = text.replace(&sidecar.volume.path().display().to_string(), "VOLUME");
    while let Some(at) = text.find(":secret:gmsa/") {
        let end = text[at..].find(['`', ' ', ')', ';']).map_or(text.len(), |end| at + end);
        let name = text[at + 8..end].rsplit_once('-').map_or(&text[at + 8..end], |(name, _)| name).to_owned();
        text.replace_range(at..end, &format!(" secret {name}"));
    }
    text
}

#[test]
fn credspecs_that_cannot_be_used() {
    let of = |key: &str, body: &str| {
        let key = format!("bad/{key}");
        put_object(&key, body.as_bytes());
        Sidecar::of(&key)
    };
    let arn = secret_arn("gmsa/login");
    let domain = lab("LAB_DOMAIN");
    let mut joined: serde_json::Value = serde_json::from_str(&cred_spec("WebApp01", domain, &arn)).unwrap();
    joined["ActiveDirectoryConfig"]["HostAccountConfig"] = serde_json::Value::Null;
    let prefixed = |key: &str, body: &str| {
        let key = format!("bad/{key}");
        put_object(&key, body.as_bytes());
        let spec = format!("credentialspecdomainless:arn:aws:s3:::{}/{key}", lab("LAB_BUCKET"));
        Sidecar::new().with("GMSA_CREDENTIAL_SPECS", &spec)
    };
    let report = told(vec![
        ("missing object", Sidecar::of("missing.json")),
        ("missing bucket", Sidecar::new().with("GMSA_CREDENTIAL_SPECS", "arn:aws:s3:::no-such-bucket/x.json")),
        ("missing file", Sidecar::new().with("GMSA_CREDENTIAL_SPECS", "file:///no/such/file.json")),
        ("empty file", of("empty.json", "")),
        ("bad JSON", of("bad.json", "{\"CmsPlugins\": [")),
        ("not an object", of("array.json", "[]")),
        ("too large", of("large.json", &" ".repeat(70_000))),
        ("no DnsName", of("no-domain.json", "{\"DomainJoinConfig\": {}}")),
        ("no account", of("no-account.json", &format!("{{\"DomainJoinConfig\": {{\"DnsName\": \"{domain}\"}}}}"))),
        ("no CredentialArn, domainless prefix", prefixed("joined.json", &joined.to_string())),
        ("no CredentialArn", of("joined.json", &joined.to_string())),
        ("account steers a path", of("path.json", &cred_spec("../../x", domain, &arn))),
        ("account steers a filter", of("filter.json", &cred_spec("*)(objectClass=*", domain, &arn))),
        ("account is a file of the volume", of("file.json", &cred_spec("krb5.conf", domain, &arn))),
        ("domain with a newline", of("newline.json", &cred_spec("WebApp01", "example.com\n[realms]", &arn))),
        ("CredentialArn of another service", of("arn.json", &cred_spec("WebApp01", domain, "arn:aws:s3:::x/y"))),
    ]);
    insta::assert_snapshot!(report);
}

#[test]
fn secrets_that_cannot_be_used() {
    let missing = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:gmsa/missing-AbCdEf";
    let missing = Sidecar::new().with("GMSA_CREDENTIAL_SPECS", &cred_spec("WebApp01", lab("LAB_DOMAIN"), missing));
    let made = |name: &str, value: &str| {
        put_secret(name, value);
        let arn = put_secret(name, value);
        Sidecar::new().with("GMSA_CREDENTIAL_SPECS", &cred_spec("WebApp01", lab("LAB_DOMAIN"), &arn))
    };
    let report = told(vec![
        ("missing secret", missing),
        ("no JSON", Sidecar::inline("WebApp01", "gmsa/not-json")),
        ("no password", Sidecar::inline("WebApp01", "gmsa/missing-password")),
        ("no user name", made("gmsa/no-user", "{\"password\": \"Fetch3r-Passw0rd\"}")),
        ("password is a number", made("gmsa/number", "{\"username\": \"svc-fetcher\", \"password\": 12345678}")),
        (
            "user name with a newline",
            made("gmsa/evil", "{\"username\": \"a\\nb\", \"password\": \"Fetch3r-Passw0rd\"}"),
        ),
        (
            "domain that is none",
            made("gmsa/no-domain", "{\"username\": \"a\", \"password\": \"x\", \"domainName\": \"a b\"}"),
        ),
    ]);
    insta::assert_snapshot!(report);
}

#[test]
fn logins_and_gmsas_that_the_directory_refuses() {
    let inline = |account: &str, domain: &str, secret: &str| {
        Sidecar::new().with("GMSA_CREDENTIAL_SPECS", &cred_spec(account, domain, &secret_arn(secret)))
    };
    let own =
        |account, secret| inline(account, lab("LAB_DOMAIN"), secret).with("GMSA_DOMAIN_CONTROLLERS", lab("LAB_DC1"));
    let arn =
        put_secret("gmsa/domainless", &format!("{{\"username\": \"x\", \"password\": \"{}\"}}", lab("LAB_USER_PW")));
    let unknown_domain = cred_spec("WebApp01", "nowhere.test", &arn);
    let report = told(vec![
        ("wrong password", own("WebApp01", "gmsa/wrong-password")),
        ("unknown login", own("WebApp01", "gmsa/unknown-login")),
        ("disabled login", own("WebApp01", "gmsa/disabled")),
        ("expired login", own("WebApp01", "gmsa/expired")),
        ("password must be changed", own("WebApp01", "gmsa/mustchange")),
        ("login without the right", own("WebApp01", "gmsa/outsider")),
        ("unknown gMSA", own("NoSuchApp", "gmsa/login")),
        ("disabled gMSA", own("WebAppOff", "gmsa/login")),
        (
            "login of another domain",
            inline("WebApp01", "other.test", "gmsa/login").with("GMSA_DOMAIN_CONTROLLERS", lab("LAB_DC1")),
        ),
        ("unknown domain", Sidecar::new().with("GMSA_CREDENTIAL_SPECS", &unknown_domain)),
        ("DC without an address", own("WebApp01", "gmsa/login").with("GMSA_DOMAIN_CONTROLLERS", "nobody.example.com")),
        ("DC that nobody listens at", own("WebApp01", "gmsa/login").with("GMSA_DOMAIN_CONTROLLERS", lab("LAB_DB"))),
        (
            "DNS server that does not answer",
            own("WebApp01", "gmsa/login").without("GMSA_DOMAIN_CONTROLLERS").with("GMSA_DNS_SERVERS", "127.0.10.99"),
        ),
    ]);
    insta::assert_snapshot!(report);
}

#[test]
fn all_configuration_errors_are_reported_together() {
    let sidecar = Sidecar::new()
        .with("GMSA_CREDENTIAL_SPECS", "arn:aws:s3:::bucket arn:aws:iam::1:role/x")
        .with("GMSA_MODE", "0666")
        .with("GMSA_OWNER", "root")
        .with("GMSA_LISTEN", "localhost")
        .with("GMSA_INIT_TIMEOUT", "soon")
        .with("GMSA_LOG", "inof")
        .with("AWS_REGION", "not a region");
    let ended = sidecar.init();
    let report = ended.fault().replace("; ", ";\n      ");
    insta::assert_snapshot!(report);
    assert_eq!(sidecar.call(&["run"]).fault(), ended.fault());
    assert_eq!(sidecar.call(&["run", "--nonsense"]).code, Some(64));
    let nothing = Sidecar::new().without("AWS_REGION").init();
    assert_eq!((nothing.code, nothing.fault().split(' ').next()), (Some(78), Some("config-no-credspec")));
}

#[test]
fn two_credspecs_for_one_gmsa_are_refused() {
    let bucket = lab("LAB_BUCKET");
    let specs = format!("arn:aws:s3:::{bucket}/webapp01.json, arn:aws:s3:::{bucket}/teams/twice.json");
    put_object("teams/twice.json", cred_spec("webapp01", lab("LAB_DOMAIN"), &secret_arn("gmsa/login")).as_bytes());
    let sidecar = Sidecar::new().with("GMSA_CREDENTIAL_SPECS", &specs);
    let ended = sidecar.call(&["run"]);
    assert_eq!(ended.code, Some(78), "{ended:#?}");
    assert!(ended.fault().contains("config-account-twice"), "{ended:#?}");
}

#[test]
fn volumes_that_cannot_be_written() {
    let missing = Sidecar::of("webapp01.json").with("GMSA_DIR", "/no/such/volume");
    let not_ours = Sidecar::of("webapp01.json").through(&["setpriv", "--reuid=1654", "--regid=1654", "--clear-groups"]);
    let owner = Sidecar::of("webapp01.json").with("GMSA_OWNER", "1000:1000").through(&[
        "setpriv",
        "--reuid=65532",
        "--regid=65532",
        "--clear-groups",
    ]);
    std::os::unix::fs::chown(owner.volume.path(), Some(65532), Some(65532)).unwrap();
    let report = told(vec![
        ("no volume", missing),
        ("a volume that belongs to another", not_ours),
        ("an owner that may not be given", owner),
    ]);
    insta::assert_snapshot!(report);
}

/// Whatever Secrets Manager answers, no part of it is told.
#[test]
fn broken_answers_of_secrets_manager_are_not_repeated() {
    let secret = lab("LAB_USER_PW");
    let body = serde_json::json!({"SecretString": format!("{{\"username\": \"u\", \"password\": \"{secret}\"")});
    let answers = [
        (200, body.to_string()),
        (200, format!("{{\"SecretString\": {{\"password\": \"{secret}\"}}}}")),
        (200, format!("{{\"SecretString\": \"{secret}")),
        (200, secret.to_owned()),
        (400, format!("{{\"__type\": \"ValidationException\", \"message\": \"{secret}\"}}")),
        (500, secret.to_owned()),
    ];
    for (status, answer) in answers {
        let rules = serde_json::json!([
            {"target": "secretsmanager.*", "action": "status", "status": status, "body": answer}
        ]);
        let proxy = FaultProxy::start(&rules, &[]);
        for level in ["info", "trace"] {
            let sidecar = Sidecar::of("webapp01.json")
                .with("AWS_ENDPOINT_URL_SECRETS_MANAGER", &format!("http://{}", proxy.address))
                .with("GMSA_INIT_TIMEOUT", "1s")
                .with("GMSA_LOG", level)
                .with("LOG_SENSITIVE_BODIES", "true");
            let ended = sidecar.init();
            assert!(ended.fault().starts_with("secret-"), "{ended:#?}");
            assert_no_secret(&ended.stderr);
        }
    }
}
