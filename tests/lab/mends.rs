//! Set-ups that are broken in one place or in two: the line of the log alone names the exact object to change and the
//! command or value, and no fix that does not apply.
//!
//! `scripts/mends` prints the lines, for people to judge.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use serde_json::{Value, json};

use crate::examples::{Fake, bind_refused, dc1, extended, krb_error, krb_error_of, now, relayed};
use crate::sources::{FaultProxy, documents, task};
use crate::support::{Sidecar, assert_no_secret, cred_spec, lab, put_object, put_secret, secret_arn};
use crate::unreachable::dead;

/// One broken set-up.
struct Case {
    name: &'static str,
    sidecar: Sidecar,
    command: &'static str,
    /// In how many places it is broken.
    broken: usize,
    /// The code of the first error.
    code: &'static str,
    /// What `next` of that error has to hold: the object to change, and the value or the command.
    next: Vec<String>,
    /// What the rest of the line has to hold: where a bad value comes from.
    line: Vec<String>,
    /// What no part of the line may hold: fixes that do not apply.
    never: &'static [&'static str],
}

fn one(name: &'static str, sidecar: Sidecar, code: &'static str, next: &[&str]) -> Case {
    let next = next.iter().map(ToString::to_string).collect();
    Case { name, sidecar, command: "init", broken: 1, code, next, line: Vec::new(), never: &[] }
}

fn two(name: &'static str, sidecar: Sidecar, code: &'static str, next: &[&str]) -> Case {
    Case { broken: 2, ..one(name, sidecar, code, next) }
}

impl Case {
    fn says(mut self, line: &[&str]) -> Self {
        self.line = line.iter().map(ToString::to_string).collect();
        self
    }

    fn never(self, never: &'static [&'static str]) -> Self {
        Self { never, ..self }
    }

    fn of(self, command: &'static str) -> Self {
        Self { command, ..self }
    }

    /// Runs it; what is wrong with its line, and the line.
    fn judge(&self) -> (Vec<String>, String) {
        let ended = self.sidecar.call(&[self.command]);
        assert_no_secret(&ended.stderr);
        let log = ended.log();
        let Some(fault) = log.iter().find(|line| line["level"] == "ERROR" && line["code"].is_string()) else {
            return (vec!["no fault is logged".to_owned()], ended.stderr);
        };
        let part = |name: &str| fault[name].as_str().unwrap_or_default();
        let next = part("next");
        let unknown = part("unknown_variables");
        let whole =
            format!("{}\n  what: {}\n  why:  {}\n  next: {next}\n  {unknown}", part("code"), part("what"), part("why"));
        let mut wrong = Vec::new();
        if part("code") != self.code {
            wrong.push(format!("the code is not {}", self.code));
        }
        wrong.extend(
            self.next.iter().filter(|words| !next.contains(*words)).map(|words| format!("next lacks: {words}")),
        );
        wrong.extend(self.line.iter().filter(|words| !whole.contains(*words)).map(|words| format!("lacks: {words}")));
        let never = self.never.iter().chain(&NEVER);
        wrong.extend(never.filter(|words| next.contains(**words)).map(|words| format!("next has: {words}")));
        (wrong, whole)
    }
}

/// Words that stand for a value that is known, in every case.
const NEVER: [&str; 8] = ["GROUP", "NAME,", " NAME ", " REGION", "HOST/", "os error", "(Get-ADUser NAME)", "LOGIN "];

/// The ways of Kerberos and of LDAP that have nothing to do with the login's account.
const OTHER_WAYS: &[&str] = &["GMSA_DNS_SERVERS", "security group", "636", "GMSA_LOGIN_KEYTAB", "taskRoleArn"];

fn of_spec(account: &str, domain: &str, secret: &str) -> Sidecar {
    Sidecar::new().with("GMSA_CREDENTIAL_SPECS", &cred_spec(account, domain, secret))
}

fn own(account: &str, secret: &str) -> Sidecar {
    Sidecar::inline(account, secret).with("GMSA_DOMAIN_CONTROLLERS", lab("LAB_DC1"))
}

fn as_user(sidecar: Sidecar, uid: &str) -> Sidecar {
    sidecar.through(&[
        "setpriv".to_owned(),
        format!("--reuid={uid}"),
        format!("--regid={uid}"),
        "--clear-groups".into(),
    ])
}

/// A secret of this test alone.
fn login(name: &str, login: &Value) -> String {
    put_secret(&format!("gmsa/mends-{name}"), &login.to_string())
}

fn mount(options: &[&str], path: &Path) {
    let done = Command::new("mount").args(options).arg("tmpfs").arg(path).status().unwrap();
    assert!(done.success());
}

fn denied(service: &str, action: &str, reason: &str) -> Value {
    let message = format!(
        "User: arn:aws:sts::123456789012:assumed-role/web-task/0123 is not authorized to perform: {action} on resource: \
         arn:aws:x {reason}"
    );
    if service == "s3" {
        let body = format!("<Error><Code>AccessDenied</Code><Message>{message}</Message></Error>");
        return json!([{"path": "/gmsa-specs/*", "action": "status", "status": 403, "body": body}]);
    }
    let body = json!({"__type": "AccessDeniedException", "message": message});
    json!([{"target": format!("{service}.*"), "action": "status", "status": 400, "body": body}])
}

/// Variables, volumes and owners.
fn settings() -> Vec<Case> {
    let missing = Sidecar::of("webapp01.json").with("GMSA_DIR", "/no/such/volume");
    let foreign = as_user(Sidecar::of("webapp01.json"), "1654");
    let dir = foreign.volume.path().display().to_string();
    let taken = Sidecar::of("webapp01.json").with("GMSA_DOMAIN_CONTROLLERS", lab("LAB_DC1"));
    std::fs::create_dir_all(taken.path("WebApp01/krb5cc")).unwrap();
    let in_the_way = taken.path("WebApp01/krb5cc").display().to_string();
    let owner = as_user(Sidecar::of("webapp01.json").with("GMSA_OWNER", "1000:1000"), "65532");
    std::os::unix::fs::chown(owner.volume.path(), Some(65532), Some(65532)).unwrap();
    let group = as_user(Sidecar::of("webapp01.json"), "1654");
    std::os::unix::fs::chown(group.volume.path(), Some(65532), Some(65532)).unwrap();
    std::fs::set_permissions(group.volume.path(), PermissionsExt::from_mode(0o775)).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap().into_temp_path().keep().unwrap();
    let no_folder = Sidecar::of("webapp01.json").with("GMSA_DIR", file.to_str().unwrap());
    let both = Sidecar::of("missing.json").with("GMSA_DIR", "/no/such/volume");
    vec![
        one("the volume is not mounted", missing, "volume-not-writable", &["mount point", "/no/such/volume"])
            .never(&["65532", "setspn"]),
        one("the volume belongs to root", foreign, "volume-not-writable", &["chown 1654:1654", &dir])
            .never(&["mount point", "65532"]),
        one("the volume belongs to a group that may write", group, "volume-not-writable", &["\"1654:65532\"", "user"])
            .never(&["chown", "mount point"]),
        one("GMSA_DIR is a file", no_folder, "volume-not-writable", &["correct GMSA_DIR", "is a file"]),
        one("a folder stands in the place of the ticket", taken, "volume-path-taken", &["rm -r", &in_the_way]),
        one("files for another owner", owner, "config-owner-denied", &["\"1000:1000\"", "65532:65532"])
            .never(&["GMSA_MODE"]),
        two("no volume and no CredSpec", both, "volume-not-writable", &["/no/such/volume"]).never(&["s3", "65532"]),
        one(
            "a mode that lets everyone write",
            Sidecar::of("webapp01.json").with("GMSA_MODE", "0666"),
            "config-invalid",
            &[],
        )
        .says(&["GMSA_MODE", "0666"]),
        two(
            "two values that are not valid",
            Sidecar::of("webapp01.json").with("GMSA_MODE", "0666").with("GMSA_INIT_TIMEOUT", "soon"),
            "config-invalid",
            &[],
        )
        .says(&["GMSA_MODE", "GMSA_INIT_TIMEOUT", "soon"]),
        two(
            "the variable of the CredSpecs is misspelt",
            Sidecar::new().with("GMSA_CREDENTIAL_SPEC", "arn:aws:s3:::gmsa-specs/webapp01.json"),
            "config-no-credspec",
            &["rename the variable GMSA_CREDENTIAL_SPEC to GMSA_CREDENTIAL_SPECS"],
        )
        .says(&["GMSA_CREDENTIAL_SPEC (is GMSA_CREDENTIAL_SPECS meant?)"]),
        two(
            "the variable of the domain controllers is misspelt, and DNS is silent",
            Sidecar::inline("WebApp01", "gmsa/login")
                .with("GMSA_DOMAIN_CONTROLLER", lab("LAB_DC1"))
                .with("GMSA_DNS_SERVERS", "127.0.10.99"),
            "dc-dns-unreachable",
            &["127.0.10.99", "GMSA_DNS_SERVERS"],
        )
        .says(&["GMSA_DOMAIN_CONTROLLER (is GMSA_DOMAIN_CONTROLLERS meant?)"]),
        two(
            "a mode that lets everyone write, and no volume",
            Sidecar::of("webapp01.json").with("GMSA_MODE", "0666").with("GMSA_DIR", "/no/such/volume"),
            "config-invalid",
            &["GMSA_MODE"],
        )
        .never(&["mount"]),
        two(
            "the variable of the owner is misspelt, and the volume belongs to root",
            as_user(Sidecar::of("webapp01.json").with("GMSA_OWNR", "1654"), "1655"),
            "volume-not-writable",
            &["chown 1655:1655"],
        )
        .says(&["GMSA_OWNR (is GMSA_OWNER meant?)"]),
    ]
}

/// The CredSpec, and how to get it.
fn credspecs(proxies: &mut Vec<FaultProxy>) -> Vec<Case> {
    let of = |key: &str, body: &str| {
        let key = format!("mends/{key}");
        put_object(&key, body.as_bytes());
        Sidecar::of(&key)
    };
    let arn = secret_arn("gmsa/login");
    let domain = lab("LAB_DOMAIN");
    let mut joined: Value = serde_json::from_str(&cred_spec("WebApp01", domain, &arn)).unwrap();
    joined["ActiveDirectoryConfig"]["HostAccountConfig"] = Value::Null;
    let joined = joined.to_string();
    put_object("mends/joined.json", joined.as_bytes());
    let domainless = format!("credentialspecdomainless:arn:aws:s3:::{}/mends/joined.json", lab("LAB_BUCKET"));
    let bucket = lab("LAB_BUCKET");
    put_object("mends/twice.json", cred_spec("webapp01", domain, &arn).as_bytes());
    let twice = format!("arn:aws:s3:::{bucket}/webapp01.json, arn:aws:s3:::{bucket}/mends/twice.json");
    let mut proxy = |rules: Value| {
        proxies.push(FaultProxy::start(&rules, &[]));
        proxies.last().unwrap().address.clone()
    };
    let at = |sidecar: Sidecar, variable: &str, address: &str| sidecar.with(variable, &format!("http://{address}"));
    let s3 = proxy(denied("s3", "s3:GetObject", "because no identity-based policy allows the s3:GetObject action"));
    let endpoint = proxy(denied("s3", "s3:GetObject", "because no VPC endpoint policy allows the s3:GetObject action"));
    let boundary = proxy(denied("s3", "s3:GetObject", "with an explicit deny in a service control policy"));
    let (container, document) = documents();
    let mut labelled = container;
    labelled["Labels"]["gmsa-sidecar.credential-specs"] = "file:///etc/passwd".into();
    let labelled = task("mends-label", &labelled, &document);
    let no_keys = |sidecar: Sidecar| sidecar.without("AWS_ACCESS_KEY_ID").without("AWS_SECRET_ACCESS_KEY");
    vec![
        one(
            "the object is not there",
            Sidecar::of("mising.json"),
            "credspec-not-found",
            &["GMSA_CREDENTIAL_SPECS", "aws s3 ls s3://gmsa-specs/"],
        )
        .says(&["arn:aws:s3:::gmsa-specs/mising.json"])
        .never(&["policy", "taskRoleArn"]),
        one(
            "the bucket is not there",
            Sidecar::new().with("GMSA_CREDENTIAL_SPECS", "arn:aws:s3:::gmsa-spec/webapp01.json"),
            "credspec-not-found",
            &["`gmsa-spec`", "aws s3 ls"],
        ),
        one(
            "the file is not there",
            Sidecar::new().with("GMSA_CREDENTIAL_SPECS", "file:///no/such/file.json"),
            "credspec-unreadable",
            &["/no/such/file.json"],
        )
        .never(&["65532"]),
        one(
            "a comma too many",
            of("comma.json", "{\n  \"CmsPlugins\": [\"ActiveDirectory\"],\n}"),
            "credspec-malformed",
            &["mends/comma.json"],
        )
        .says(&["line 3"])
        .never(&["New-CredentialSpec"]),
        one(
            "DnsName is missing",
            of("no-domain.json", "{\"DomainJoinConfig\": {}}"),
            "credspec-malformed",
            &["DomainJoinConfig.DnsName"],
        )
        .says(&["mends/no-domain.json"]),
        one(
            "DnsName is a NetBIOS name",
            of(
                "netbios.json",
                &cred_spec("WebApp01", "CORP", "arn:aws:secretsmanager:eu-central-1:123456789012:secret:x-AbCdEf"),
            ),
            "secret-not-found",
            &["secretsmanager list-secrets"],
        ),
        one(
            "the CredentialArn is a placeholder",
            of(
                "placeholder.json",
                &cred_spec("WebApp01", domain, "arn:aws:secretsmanager:aws-region:111122223333:secret:MySecret"),
            ),
            "credspec-malformed",
            &["CredentialArn"],
        )
        .says(&["aws-region", "mends/placeholder.json"]),
        one(
            "no CredentialArn although the prefix asks for one",
            Sidecar::new().with("GMSA_CREDENTIAL_SPECS", &domainless),
            "credspec-credential-arn-missing",
            &["CredentialArn", "mends/joined.json"],
        ),
        one("no CredentialArn", Sidecar::of("mends/joined.json"), "config-login-missing", &["CredentialArn"]),
        two(
            "two CredSpecs of one gMSA",
            Sidecar::new().with("GMSA_CREDENTIAL_SPECS", &twice),
            "config-account-twice",
            &["arn:aws:s3:::gmsa-specs/mends/twice.json", "arn:aws:s3:::gmsa-specs/webapp01.json"],
        )
        .says(&["webapp01.json", "mends/twice.json"]),
        one(
            "a label that names a file",
            Sidecar::new().with("ECS_CONTAINER_METADATA_URI_V4", &labelled),
            "task-label-invalid",
            &["gmsa-sidecar.credential-specs"],
        )
        .says(&["file:///etc/passwd"]),
        one(
            "S3 denies",
            at(Sidecar::of("webapp01.json"), "AWS_ENDPOINT_URL_S3", &s3),
            "credspec-denied",
            &["aws iam put-role-policy --role-name web-task", "s3:GetObject", "arn:aws:s3:::gmsa-specs/webapp01.json"],
        )
        .never(&["execution role", "ssm:"]),
        one(
            "the VPC endpoint denies",
            at(Sidecar::of("webapp01.json"), "AWS_ENDPOINT_URL_S3", &endpoint),
            "credspec-denied",
            &["VPC endpoint", "s3:GetObject"],
        )
        .never(&["put-role-policy"]),
        one(
            "an SCP denies",
            at(Sidecar::of("webapp01.json"), "AWS_ENDPOINT_URL_S3", &boundary),
            "credspec-denied",
            &["service control policy"],
        )
        .never(&["put-role-policy"]),
        one(
            "no server at the endpoint of S3",
            Sidecar::of("webapp01.json").with("AWS_ENDPOINT_URL_S3", "http://127.0.10.99:1"),
            "credspec-unreachable",
            &["AWS_ENDPOINT_URL_S3", "http://127.0.10.99:1"],
        )
        .never(&["NAT", "VPC endpoint"]),
        one("no region", Sidecar::of("webapp01.json").without("AWS_REGION"), "credspec-region", &["AWS_REGION"]),
        one("no task role", no_keys(Sidecar::of("webapp01.json")), "credspec-aws-credentials", &["AWS_ACCESS_KEY_ID"]),
        two(
            "S3 denies, and DNS is silent",
            at(Sidecar::of("webapp01.json"), "AWS_ENDPOINT_URL_S3", &s3).with("GMSA_DNS_SERVERS", "127.0.10.99"),
            "credspec-denied",
            &["put-role-policy"],
        )
        .never(&["127.0.10.99"]),
        two(
            "the object is not there, and no domain controller answers",
            Sidecar::of("mising.json").with("GMSA_DOMAIN_CONTROLLERS", "nowhere.example.com"),
            "credspec-not-found",
            &["aws s3 ls"],
        )
        .never(&["nowhere"]),
        two(
            "a comma too many, and DNS is silent",
            of("comma2.json", "{\"CmsPlugins\": [],}").with("GMSA_DNS_SERVERS", "127.0.10.99"),
            "credspec-malformed",
            &["mends/comma2.json"],
        )
        .never(&["127.0.10.99"]),
        two(
            "no region and no task role",
            no_keys(Sidecar::of("webapp01.json").without("AWS_REGION")),
            "credspec-region",
            &["AWS_REGION"],
        )
        .never(&["taskRoleArn"]),
    ]
}

/// The login's secret.
fn secrets(proxies: &mut Vec<FaultProxy>) -> Vec<Case> {
    let domain = lab("LAB_DOMAIN");
    let missing = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:gmsa/missing-AbCdEf";
    let password = lab("LAB_USER_PW");
    let keyless = login("keyless", &json!({"username": "svc-fetcher", "domainName": domain}));
    let short = login("short", &json!({"username": "svc-fetcher", "password": password, "domainName": "OTHERCORP"}));
    let nowhere =
        login("nowhere", &json!({"username": "svc-fetcher", "password": password, "domainName": "nowhere.test"}));
    let twice = login("twice", &json!({"username": "svc-fetcher", "domainName": "OTHERCORP"}));
    let mut proxy = |rules: Value| {
        proxies.push(FaultProxy::start(&rules, &[]));
        format!("http://{}", proxies.last().unwrap().address)
    };
    let action = "secretsmanager:GetSecretValue";
    let refused = proxy(denied("secretsmanager", action, "because no identity-based policy allows it"));
    let deleted = proxy(json!([{"target": "secretsmanager.*", "action": "status", "status": 400, "body": {
        "__type": "InvalidRequestException",
        "message": "You can't perform this operation on the secret because it was marked for deletion."
    }}]));
    let full = secret_arn("gmsa/login");
    let at = |url: &str| own("WebApp01", "gmsa/login").with("AWS_ENDPOINT_URL_SECRETS_MANAGER", url);
    vec![
        one(
            "the secret is not there",
            of_spec("WebApp01", domain, missing),
            "secret-not-found",
            &["CredentialArn", "aws secretsmanager list-secrets --region eu-central-1"],
        )
        .says(&[missing]),
        one(
            "the secret is denied",
            at(&refused),
            "secret-denied",
            &["put-role-policy --role-name web-task", action, &full],
        ),
        one("the secret is deleted", at(&deleted), "secret-unusable", &["aws secretsmanager restore-secret", &full])
            .never(&["CredentialArn"]),
        one(
            "the secret is not JSON",
            own("WebApp01", "gmsa/not-json"),
            "secret-malformed",
            &["aws secretsmanager put-secret-value --region eu-central-1", &secret_arn("gmsa/not-json")],
        ),
        one(
            "the secret has no password",
            of_spec("WebApp01", domain, &keyless),
            "secret-key-missing",
            &["put-secret-value", &keyless],
        )
        .says(&["`password`"]),
        one(
            "domainName is a NetBIOS name",
            of_spec("WebApp01", domain, &short),
            "secret-malformed",
            &["`domainName`", &short],
        )
        .says(&["NetBIOS"]),
        one(
            "DNS does not know domainName",
            of_spec("WebApp01", domain, &nowhere),
            "dc-srv-not-found",
            &["`domainName` in the secret", &nowhere, "\"domainName\":\"example.com\""],
        )
        .says(&["nowhere.test"])
        .never(&["DHCP", "GMSA_DNS_SERVERS"]),
        two(
            "no password, and domainName is a NetBIOS name",
            of_spec("WebApp01", domain, &twice),
            "secret-key-missing",
            &[&twice, "\"domainName\":\"example.com\""],
        ),
        two(
            "the secret is not there, and neither is the domain controller",
            of_spec("WebApp01", domain, missing).with("GMSA_DOMAIN_CONTROLLERS", lab("LAB_DB")),
            "secret-not-found",
            &["list-secrets"],
        )
        .never(&["GMSA_DOMAIN_CONTROLLERS"]),
        two(
            "the secret is denied, and the gMSA is not there",
            Sidecar::inline("NoSuchApp", "gmsa/login").with("AWS_ENDPOINT_URL_SECRETS_MANAGER", &refused),
            "secret-denied",
            &["put-role-policy"],
        )
        .never(&["Get-ADServiceAccount"]),
        two(
            "the secret is not JSON, and the domain controller has no address",
            Sidecar::inline("WebApp01", "gmsa/not-json").with("GMSA_DOMAIN_CONTROLLERS", "dc9.example.com"),
            "secret-malformed",
            &["put-secret-value"],
        )
        .never(&["dc9"]),
        two(
            "the secret has no password, and the gMSA is not there",
            of_spec("NoSuchApp", domain, &keyless),
            "secret-key-missing",
            &["`password`", &keyless],
        )
        .never(&["NoSuchApp"]),
    ]
}

/// DNS and domain controllers.
fn controllers() -> Vec<Case> {
    let domain = lab("LAB_DOMAIN");
    let at = |hosts: &str| Sidecar::inline("WebApp01", "gmsa/login").with("GMSA_DOMAIN_CONTROLLERS", hosts);
    let arn = login("local", &json!({"username": "svc-fetcher", "password": lab("LAB_USER_PW")}));
    put_object("mends/typo.json", cred_spec("WebApp01", "exmaple.com", &arn).as_bytes());
    // Its KDC answers; nothing listens on port 389.
    let closed = Fake::start(|_, request| relayed(request));
    let closed = Sidecar::inline("WebApp01", "gmsa/login")
        .with("GMSA_DOMAIN_CONTROLLERS", lab("LAB_DC1"))
        .with("GMSA_DNS_SERVERS", &closed.address.to_string());
    // A DNS server that does not know the domain.
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let stranger = std::net::Ipv4Addr::new(127, 0x8e, high, low);
    let _stranger = Fake::start_with(stranger.into(), |_| Vec::new(), |_, request| relayed(request));
    let stranger = stranger.to_string();
    vec![
        one(
            "DnsName is misspelt",
            Sidecar::of("mends/typo.json"),
            "dc-srv-not-found",
            &["correct `DnsName`", "mends/typo.json"],
        )
        .says(&["`DnsName` in the CredSpec", "mends/typo.json", "/etc/resolv.conf"]),
        one(
            "the DNS server is silent",
            at(lab("LAB_DC1")).without("GMSA_DOMAIN_CONTROLLERS").with("GMSA_DNS_SERVERS", "127.0.10.99"),
            "dc-dns-unreachable",
            &["53", "127.0.10.99", "GMSA_DNS_SERVERS"],
        )
        .never(&["DHCP"]),
        one(
            "the DNS server does not know the domain",
            at("").without("GMSA_DOMAIN_CONTROLLERS").with("GMSA_DNS_SERVERS", &stranger),
            "dc-srv-not-found",
            &["GMSA_DNS_SERVERS", &stranger, domain],
        )
        .never(&["DHCP"]),
        one(
            "a domain controller without an address",
            at("dc9.example.com"),
            "dc-address-not-found",
            &["`dc9.example.com` in GMSA_DOMAIN_CONTROLLERS"],
        )
        .never(&["security group", "VPC"]),
        one(
            "a host that is not a domain controller",
            at(lab("LAB_DB")),
            "dc-unreachable",
            &["GMSA_DOMAIN_CONTROLLERS", "port 88", lab("LAB_DB")],
        )
        .never(&["security group", "636"]),
        one("LDAP is closed, Kerberos is not", closed, "dc-unreachable", &["389"])
            .says(&["TCP port 88 of `dc1.example.com` works"])
            .never(&["636", "GMSA_DOMAIN_CONTROLLERS", "security group"]),
        two(
            "a domain controller without an address, and a wrong password",
            Sidecar::inline("WebApp01", "gmsa/wrong-password").with("GMSA_DOMAIN_CONTROLLERS", "dc9.example.com"),
            "dc-address-not-found",
            &["GMSA_DOMAIN_CONTROLLERS"],
        )
        .never(&["password"]),
        two(
            "a domain controller without an address of two, and a login without the right",
            own("WebApp01", "gmsa/outsider")
                .with("GMSA_DOMAIN_CONTROLLERS", &format!("dc9.example.com {}", lab("LAB_DC1"))),
            "gmsa-read-denied",
            &["Add-ADGroupMember"],
        )
        .never(&["dc9"]),
        one(
            "no CA for ldaps",
            at(lab("LAB_DC1")).with("GMSA_LDAP", "ldaps"),
            "gmsa-tls-untrusted",
            &["GMSA_LDAP_CA_FILE", "dc1.example.com:636"],
        ),
        two(
            "DnsName is misspelt, and the secret is not there",
            {
                let secret = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:gmsa/missing-AbCdEf";
                put_object("mends/typo2.json", cred_spec("WebApp01", "exmaple.com", secret).as_bytes());
                Sidecar::of("mends/typo2.json")
            },
            "dc-srv-not-found",
            &["exmaple.com", "correct `DnsName`", "mends/typo2.json"],
        )
        .never(&["list-secrets"]),
        two(
            "the DNS server is silent, and no CA for ldaps",
            Sidecar::inline("WebApp01", "gmsa/login")
                .with("GMSA_LDAP", "ldaps")
                .with("GMSA_DNS_SERVERS", "127.0.10.99"),
            "dc-dns-unreachable",
            &["127.0.10.99"],
        )
        .never(&["GMSA_LDAP"]),
    ]
}

/// What the domain refuses.
fn accounts() -> Vec<Case> {
    let fake = |answer: Vec<u8>| Fake::start(move |_, _| answer.clone()).sidecar();
    let status = |code, status| fake(krb_error(code, now(), &extended(status)));
    let wrong = secret_arn("gmsa/wrong-password");
    let unknown = secret_arn("gmsa/unknown-login");
    let realm = fake(krb_error_of(68, now(), &[], Some("CHILD.EXAMPLE.COM")));
    let foreign =
        of_spec("WebApp01", "other.test", &secret_arn("gmsa/login")).with("GMSA_DOMAIN_CONTROLLERS", lab("LAB_DC1"));
    let service = own("WebApp01", "gmsa/login").with("GMSA_SERVICE_TICKETS", "HTTP/it.example.com");
    vec![
        one("a wrong password", own("WebApp01", "gmsa/wrong-password"), "ticket-login-refused", &[
            "put-secret-value --region eu-central-1",
            &wrong,
            "svc-fetcher",
        ])
        .never(OTHER_WAYS),
        one("an unknown login", own("WebApp01", "gmsa/unknown-login"), "ticket-login-unknown", &["`svc-nobody`", &unknown])
            .never(OTHER_WAYS),
        one("a disabled login", own("WebApp01", "gmsa/disabled"), "ticket-login-disabled", &[
            "Enable-ADAccount -Identity svc-disabled -Server example.com",
        ])
        .never(&["Unlock", "Expiration", "secret"]),
        one("an expired login", own("WebApp01", "gmsa/expired"), "ticket-login-expired", &[
            "Clear-ADAccountExpiration -Identity svc-expired -Server example.com",
        ])
        .never(&["Unlock", "Enable", "secret"]),
        one("a password that must be changed", own("WebApp01", "gmsa/mustchange"), "ticket-login-must-change", &[
            "Set-ADUser -Identity svc-mustchange -Server example.com -ChangePasswordAtLogon $false",
        ])
        .never(&["Unlock", "Enable"]),
        one("a locked login", status(18, 0xc000_0234), "ticket-login-locked", &[
            "Unlock-ADAccount -Identity svc-fetcher -Server example.com",
        ])
        .never(&["Enable", "Expiration"]),
        one("an expired password", status(23, 0xc000_0071), "ticket-login-password-expired", &[
            "Set-ADAccountPassword -Identity svc-fetcher -Server example.com -Reset",
            "put-secret-value",
        ])
        .never(&["ChangePasswordAtLogon"]),
        one("a wrong and expired password", status(24, 0xc000_0071), "ticket-login-refused", &["Set-ADAccountPassword"])
            .says(&["wrong, and it has expired"]),
        one("logon hours", status(12, 0xc000_006f), "ticket-login-restricted", &["-Clear logonHours"])
            .never(&["silo", "userWorkstations"]),
        one("workstations", status(12, 0xc000_0070), "ticket-login-restricted", &["-Clear userWorkstations"])
            .never(&["logonHours"]),
        one("a smart card", status(12, 0xc000_02fa), "ticket-login-restricted", &["-SmartcardLogonRequired $false"]),
        one("an account of another realm", realm, "ticket-login-unknown", &[
            "`domainName` to `child.example.com`",
            "\"domainName\":\"child.example.com\"",
            &secret_arn("gmsa/login"),
        ])
        .says(&["CHILD.EXAMPLE.COM"]),
        one("a clock a day ahead", fake(krb_error(37, now() + Duration::from_secs(86_400), &[])), "ticket-clock-skew", &[
            "w32tm /resync /computer:dc1.example.com",
        ])
        .says(&["ahead of ours"]),
        one("one service name on two accounts", fake(krb_error(8, now(), &[])), "gmsa-server-unproven", &[
            "setspn -D ldap/dc1.example.com/example.com",
        ])
        .never(&["GMSA_DOMAIN_CONTROLLERS"]),
        one("a server without the service name", fake(krb_error(7, now(), &[])), "gmsa-server-unproven", &[
            "GMSA_DOMAIN_CONTROLLERS",
            "dc1.example.com",
        ]),
        one(
            "a bind that is refused to a disabled account",
            Fake::start(|_, request| relayed(request)).with_ldap(bind_refused("533")).sidecar(),
            "gmsa-bind-refused",
            &["Enable-ADAccount -Identity svc-fetcher -Server example.com"],
        )
        .says(&["`dc1.example.com`: the LDAP server answered"]),
        one("a login without the right", own("WebApp01", "gmsa/outsider"), "gmsa-read-denied", &[
            "Add-ADGroupMember -Identity WebAppPrincipals -Members svc-outsider -Server example.com",
        ])
        .says(&["allows only the group `WebAppPrincipals`", &secret_arn("gmsa/outsider")]),
        one("a gMSA with no group", own("WebApp02", "gmsa/outsider"), "gmsa-read-denied", &[
            "Set-ADServiceAccount -Identity WebApp02 -Server example.com -PrincipalsAllowedToRetrieveManagedPassword (",
            " + 'svc-outsider')",
        ])
        .never(&["Add-ADGroupMember"]),
        one("a gMSA that is not there", own("NoSuchApp", "gmsa/login"), "gmsa-not-found", &[
            "`NoSuchApp` in the CredSpec",
            "Get-ADServiceAccount -Filter * -Server example.com",
        ])
        .never(&["Add-ADGroupMember"]),
        one("a computer in the place of a gMSA", own("DC1", "gmsa/login"), "gmsa-not-found", &["`DC1` in the CredSpec"])
            .says(&["is a computer account, not a gMSA"])
            .never(&["Add-ADGroupMember", "PrincipalsAllowed"]),
        one("a disabled gMSA", own("WebAppOff", "gmsa/login"), "ticket-gmsa-revoked", &[
            "Set-ADServiceAccount -Identity 'WebAppOff$' -Server example.com -Enabled $true",
        ])
        .never(&["secret"]),
        one("a domain without a trust", foreign, "ticket-trust", &["`domainName` in the secret", "other.test"]),
        one("a service that no account has", service, "ticket-service-unknown", &["setspn -S HTTP/it.example.com"]),
        two("a disabled login, and a gMSA that is not there", own("NoSuchApp", "gmsa/disabled"), "ticket-login-disabled", &[
            "svc-disabled",
        ])
        .never(&["NoSuchApp"]),
        two("a wrong password, and a gMSA that is not there", own("NoSuchApp", "gmsa/wrong-password"), "ticket-login-refused", &[
            &wrong,
        ])
        .never(&["NoSuchApp"]),
        two("a password that must be changed, and a disabled gMSA", own("WebAppOff", "gmsa/mustchange"), "ticket-login-must-change", &[
            "svc-mustchange",
        ])
        .never(&["WebAppOff"]),
        two("a computer in the place of a gMSA, and a login without the right", own("DC1", "gmsa/outsider"), "gmsa-not-found", &[
            "`DC1` in the CredSpec",
        ])
        .never(&["Add-ADGroupMember"]),
        two(
            "an unknown login, and a service that no account has",
            own("WebApp01", "gmsa/unknown-login").with("GMSA_SERVICE_TICKETS", "HTTP/it.example.com"),
            "ticket-login-unknown",
            &[&unknown],
        )
        .never(&["setspn"]),
        two("a wrong password, and a computer in the place of a gMSA", own("DC1", "gmsa/wrong-password"), "ticket-login-refused", &[
            &wrong,
        ])
        .never(&["DC1"]),
        two("an unknown login, and a disabled gMSA", own("WebAppOff", "gmsa/unknown-login"), "ticket-login-unknown", &[
            "svc-nobody",
        ])
        .never(&["WebAppOff"]),
        two(
            "an expired login, and a service that no account has",
            own("WebApp01", "gmsa/expired").with("GMSA_SERVICE_TICKETS", "HTTP/it.example.com"),
            "ticket-login-expired",
            &["Clear-ADAccountExpiration"],
        )
        .never(&["setspn"]),
        two(
            "a login without the right, and a service that no account has",
            own("WebApp01", "gmsa/outsider").with("GMSA_SERVICE_TICKETS", "HTTP/it.example.com"),
            "gmsa-read-denied",
            &["Add-ADGroupMember"],
        )
        .never(&["setspn"]),
        two("a password that must be changed, and a gMSA that is not there", own("NoSuchApp", "gmsa/mustchange"), "ticket-login-must-change", &[
            "-ChangePasswordAtLogon $false",
        ])
        .never(&["NoSuchApp"]),
        two("an unknown login, and a gMSA that is not there", own("NoSuchApp", "gmsa/unknown-login"), "ticket-login-unknown", &[
            &unknown,
        ])
        .never(&["NoSuchApp"]),
    ]
}

/// Volumes that are mounted here; they are unmounted at the end.
fn mounted() -> Vec<Case> {
    let read_only = Sidecar::of("webapp01.json");
    mount(&["-t", "tmpfs", "-o", "ro"], read_only.volume.path());
    // Room for krb5.conf, not for a ticket.
    let full = Sidecar::of("webapp01.json").with("GMSA_DOMAIN_CONTROLLERS", lab("LAB_DC1"));
    mount(&["-t", "tmpfs", "-o", "size=4k"], full.volume.path());
    let both = Sidecar::inline("WebApp01", "gmsa/wrong-password");
    mount(&["-t", "tmpfs", "-o", "ro"], both.volume.path());
    let dir = |sidecar: &Sidecar| sidecar.volume.path().display().to_string();
    let (ro, df) = (dir(&read_only), format!("df -h {}", dir(&full)));
    vec![
        one("a read-only volume", read_only, "volume-not-writable", &["readOnly", &ro]).never(&["65532", "chown"]),
        one("a full volume", full, "volume-write-failed", &["free space", &df]).never(&["readOnly"]),
        two("a read-only volume, and a wrong password", both, "volume-not-writable", &["readOnly"])
            .never(&["put-secret"]),
    ]
}

/// What only `run` does.
fn listening() -> (std::net::TcpListener, Vec<Case>) {
    let busy = std::net::TcpListener::bind((dc1(), 0)).unwrap();
    let address = busy.local_addr().unwrap().to_string();
    let taken = || Sidecar::of("webapp01.json").with("GMSA_LISTEN", &address);
    let cases = vec![
        one("the address is in use", taken(), "config-listen", &["GMSA_LISTEN to another port", &address]).of("run"),
        two(
            "the address is in use, and there is no volume",
            taken().with("GMSA_DIR", "/no/such/volume"),
            "config-listen",
            &["GMSA_LISTEN"],
        )
        .never(&["/no/such/volume"])
        .of("run"),
    ];
    (busy, cases)
}

#[test]
fn each_line_alone_names_the_exact_mend() {
    let mut proxies = Vec::new();
    let (busy, listening) = listening();
    let mounted = mounted();
    let mounts: Vec<_> = mounted.iter().map(|case| case.sidecar.volume.path().to_owned()).collect();
    let cases: Vec<Case> =
        [settings(), credspecs(&mut proxies), secrets(&mut proxies), controllers(), accounts(), mounted, listening]
            .into_iter()
            .flatten()
            .map(|case| match case.name {
                "two values that are not valid" => case,
                _ => Case { sidecar: case.sidecar.with("GMSA_INIT_TIMEOUT", "1s"), ..case },
            })
            .collect();
    let twice = cases.iter().filter(|case| case.broken > 1).count();
    assert!(cases.len() >= 40 && 3 * twice >= cases.len(), "{} cases, {twice} broken twice", cases.len());
    let next = Mutex::new(cases.iter());
    let judged = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _worker in 0..6 {
            scope.spawn(|| {
                loop {
                    let Some(case) = next.lock().unwrap().next() else { break };
                    let (wrong, line) = case.judge();
                    judged.lock().unwrap().push((case.name, wrong, line));
                }
            });
        }
    });
    drop(busy);
    for path in mounts {
        assert!(Command::new("umount").arg(path).status().unwrap().success());
    }
    let judged = judged.into_inner().unwrap();
    for (name, wrong, line) in &judged {
        println!("{} {name}\n  code: {line}", if wrong.is_empty() { "ok " } else { "BAD" });
        wrong.iter().for_each(|wrong| println!("  !! {wrong}"));
    }
    let bad: Vec<_> = judged.iter().filter(|(_, wrong, _)| !wrong.is_empty()).collect();
    println!(
        "{} of {} lines name the exact mend; {twice} set-ups are broken in two places",
        judged.len() - bad.len(),
        judged.len()
    );
    assert!(bad.is_empty(), "{bad:#?}");
}

/// A step that lasts is reported while it lasts: what is asked, and until when. HTTP says the same.
#[test]
fn a_wait_of_more_than_three_seconds_is_reported_while_it_lasts() {
    // A connect is given up after two seconds, and sixteen are made at a time. DNS is given up after three.
    let (_rule, mut hosts) = dead(59);
    hosts.push(lab("LAB_DC1").to_owned());
    let dead_controllers = Sidecar::of("webapp01.json").with("GMSA_DOMAIN_CONTROLLERS", &hosts.join(" "));
    let peer = hosts[0].clone();
    // It answers the question without a proof, and nothing after that.
    let hanging = Fake::start(|count, request| {
        if count > 1 {
            loop {
                std::thread::park();
            }
        }
        relayed(request)
    });
    let silent_kdc = hanging.sidecar();
    for (sidecar, step, peer) in [(dead_controllers, "dc", peer.as_str()), (silent_kdc, "ticket", "dc1.example.com:88")]
    {
        let running = sidecar.run();
        let is_told = |line: &Value| line["event"] == "step.waiting" && line["step"] == step;
        running.wait(step, || running.log().iter().any(is_told));
        let log = running.log();
        let line = log.iter().find(|line| is_told(line)).unwrap();
        assert!(line["for"].as_str().unwrap().contains(peer), "{line}");
        assert!(line["until"].as_str() > line["since"].as_str(), "{line}");
        assert!(!log.iter().any(|line| line["level"] == "ERROR"), "it failed before: {log:#?}");
        let waiting = &sidecar.json("/ready")["waiting"];
        assert!(waiting.as_array().unwrap().iter().any(|one| one["step"] == step), "{waiting}");
    }
}
