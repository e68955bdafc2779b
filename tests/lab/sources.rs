use crate::support::{Sidecar, cred_spec, lab, put_object, root, secret_arn, write};

fn arn() -> String {
    format!("arn:aws:s3:::{}/webapp01.json", lab("LAB_BUCKET"))
}

fn gets_a_ticket(sidecar: &Sidecar) -> String {
    let ended = sidecar.init();
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    assert!(sidecar.path("WebApp01/krb5cc").exists());
    ended.stderr
}

/// Documents of the ECS agent for a task of this test alone; returns the metadata URI.
pub fn task(id: &str, container: &serde_json::Value, task: &serde_json::Value) -> String {
    let folder = std::path::Path::new(lab("LAB_ECS_DOCS")).join(id);
    std::fs::create_dir_all(&folder).unwrap();
    write(&folder.join("container.json"), &container.to_string());
    write(&folder.join("task.json"), &task.to_string());
    format!("{}/v4/{id}", lab("LAB_ECS_ENDPOINT"))
}

pub fn documents() -> (serde_json::Value, serde_json::Value) {
    let read = |name: &str| {
        let path = std::path::Path::new(lab("LAB_ECS_DOCS")).join("bare").join(name);
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    };
    (read("container.json"), read("task.json"))
}

#[test]
fn an_arn_with_each_prefix_and_without() {
    for prefix in ["", "credentialspecdomainless:", "credentialspec:"] {
        gets_a_ticket(&Sidecar::new().with("GMSA_CREDENTIAL_SPECS", &format!("{prefix}{}", arn())));
    }
}

/// The lab's parameter is a SecureString: undecrypted it is no CredSpec.
#[test]
fn a_parameter_in_ssm() {
    let arn = format!("arn:aws:ssm:{}:{}:parameter/gmsa/webapp01", lab("LAB_AWS_REGION"), lab("LAB_AWS_ACCOUNT"));
    // Its region counts, not that of the task.
    for prefix in ["", "credentialspecdomainless:"] {
        let sidecar = Sidecar::new().with("GMSA_CREDENTIAL_SPECS", &format!("{prefix}{arn}"));
        gets_a_ticket(&sidecar.with("AWS_REGION", "us-east-1"));
    }
    let (mut container, document) = documents();
    container["Labels"]["gmsa-sidecar.credential-specs"] = arn.clone().into();
    gets_a_ticket(&Sidecar::new().with("ECS_CONTAINER_METADATA_URI_V4", &task("label-ssm", &container, &document)));
    let report = Sidecar::new().with("GMSA_CREDENTIAL_SPECS", &arn).call(&["check", "--json"]).ok();
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    let step = report["steps"].as_array().unwrap().iter().find(|step| step["step"] == "credspec").unwrap();
    assert_eq!((step["subject"].as_str(), step["result"].as_str()), (Some(arn.as_str()), Some("pass")), "{step:#}");
}

/// moto has no access points: what arrives is the name of the host that a real one has, and the key.
#[test]
fn an_object_behind_an_access_point() {
    let spec = cred_spec("WebApp01", lab("LAB_DOMAIN"), &secret_arn("gmsa/login"));
    let rules = serde_json::json!([{"host": "*.s3.test", "action": "status", "status": 200, "body": spec}]);
    let proxy = FaultProxy::start(&rules, &[]);
    let arn = "arn:aws:s3:eu-west-1:123456789012:accesspoint/webapp-ap/object/specs/webapp01.json";
    let sidecar = Sidecar::new()
        .with("GMSA_CREDENTIAL_SPECS", arn)
        .with("HTTP_PROXY", &format!("http://{}", proxy.address))
        .with("AWS_ENDPOINT_URL_S3", "http://s3.test");
    gets_a_ticket(&sidecar);
    let asked = proxy.log();
    assert!(asked.contains("GET\twebapp-ap-123456789012.s3.test\t/specs/webapp01.json"), "{asked}");
}

#[test]
fn an_inline_document_and_a_file() {
    gets_a_ticket(&Sidecar::inline("WebApp01", "gmsa/login"));
    let file = tempfile::NamedTempFile::new().unwrap();
    let bom = format!("\u{feff}{}", cred_spec("WebApp01", lab("LAB_DOMAIN"), &secret_arn("gmsa/login")));
    write(file.path(), &bom);
    gets_a_ticket(&Sidecar::new().with("GMSA_CREDENTIAL_SPECS", &format!("file://{}", file.path().display())));
}

#[test]
fn a_json_array_of_keys_that_hold_spaces_and_commas() {
    let bucket = lab("LAB_BUCKET");
    let keys = ["teams/a b+c%20d/wëbapp01.json", "a, b.json"];
    put_object(keys[1], cred_spec("WebApp02", lab("LAB_DOMAIN"), &secret_arn("gmsa/login")).as_bytes());
    let specs: Vec<_> = keys.iter().map(|key| format!("arn:aws:s3:::{bucket}/{key}")).collect();
    let specs = serde_json::to_string(&specs).unwrap();
    let sidecar = Sidecar::new().with("GMSA_CREDENTIAL_SPECS", &specs);
    gets_a_ticket(&sidecar);
    assert!(sidecar.path("WebApp02/krb5cc").exists());
}

#[test]
fn every_form_of_the_secrets_arn_and_of_its_keys() {
    let full = secret_arn("gmsa/login");
    let without_suffix = full.rsplit_once('-').unwrap().0.to_owned();
    let value_from = format!("{full}::AWSCURRENT:");
    for arn in [without_suffix, value_from, secret_arn("gmsa/alias-keys")] {
        let spec = cred_spec("WebApp01", lab("LAB_DOMAIN"), &arn);
        gets_a_ticket(&Sidecar::new().with("GMSA_CREDENTIAL_SPECS", &spec));
    }
}

/// As on Fargate: nothing but task metadata and the task role's credentials.
#[test]
fn the_label_on_the_sidecars_own_container() {
    let sidecar = Sidecar::new()
        .without("AWS_ACCESS_KEY_ID")
        .without("AWS_SECRET_ACCESS_KEY")
        .without("AWS_REGION")
        .with("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/v2/credentials/sidecar")
        .with("ECS_CONTAINER_METADATA_URI_V4", &format!("{}/v4/sidecar", lab("LAB_ECS_ENDPOINT")));
    gets_a_ticket(&sidecar);
}

#[test]
fn credentials_from_the_full_uri_from_web_identity_and_from_the_instance() {
    let bare = || Sidecar::of("webapp01.json").without("AWS_ACCESS_KEY_ID").without("AWS_SECRET_ACCESS_KEY");
    let endpoint = lab("LAB_AWS_ENDPOINT");
    let role = format!("{endpoint}/latest/meta-data/iam/security-credentials/default-role");
    gets_a_ticket(&bare().with("AWS_CONTAINER_CREDENTIALS_FULL_URI", &role));
    let token = tempfile::NamedTempFile::new().unwrap();
    write(token.path(), "a.web.token");
    let web = bare()
        .with("AWS_WEB_IDENTITY_TOKEN_FILE", token.path().to_str().unwrap())
        .with("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/webapp-task");
    gets_a_ticket(&web);
    // moto's instance metadata forgets a header that version 2 of the service has.
    let token = serde_json::json!([
        {"path": "/latest/api/token", "action": "status", "status": 200, "body": "token",
         "headers": {"x-aws-ec2-metadata-token-ttl-seconds": "21600"}}
    ]);
    let metadata = FaultProxy::start(&token, &[]);
    let instance = bare()
        .without("AWS_EC2_METADATA_DISABLED")
        .with("AWS_EC2_METADATA_SERVICE_ENDPOINT", &format!("http://{}", metadata.address));
    gets_a_ticket(&instance);
}

#[test]
fn dns_servers_and_domain_controllers_that_are_named() {
    let conf = |sidecar: &Sidecar| {
        gets_a_ticket(sidecar);
        std::fs::read_to_string(sidecar.path("krb5.conf")).unwrap()
    };
    // The app's resolver does not know the names then, so it gets addresses.
    let by_server = Sidecar::of("webapp01.json").with("GMSA_DNS_SERVERS", &format!("{}:53", lab("LAB_DC1_IP")));
    assert!(conf(&by_server).contains(&format!("kdc = {}\n", lab("LAB_DC1_IP"))));
    let named = format!("example.com={}; other.test=dc.other.test", lab("LAB_DC1"));
    let by_name = Sidecar::of("webapp01.json").with("GMSA_DOMAIN_CONTROLLERS", &named);
    let conf = conf(&by_name);
    assert!(conf.contains(&format!("kdc = {}\n", lab("LAB_DC1"))) && !conf.contains(lab("LAB_DC2")), "{conf}");
}

#[test]
fn a_shorter_ticket_than_the_kdc_would_give() {
    let sidecar = Sidecar::of("webapp01.json").with("GMSA_TICKET_LIFETIME", "5m");
    gets_a_ticket(&sidecar);
    let report: serde_json::Value = serde_json::from_str(&sidecar.call(&["klist", "--json"]).ok()).unwrap();
    let left = report["caches"][0]["tickets"][0]["left"].as_str().unwrap();
    assert!(left.starts_with("4m") || left.starts_with("5m"), "{left}");
}

#[test]
fn the_label_on_another_container_of_the_task() {
    let (container, mut document) = documents();
    let label = format!("credentialspecdomainless:{}", arn());
    let mut other = container.clone();
    other["Name"] = "app".into();
    other["Labels"]["gmsa-sidecar.credential-specs"] = label.into();
    document["Containers"].as_array_mut().unwrap().push(other);
    gets_a_ticket(&Sidecar::new().with("ECS_CONTAINER_METADATA_URI_V4", &task("label-on-app", &container, &document)));
}

#[test]
fn credential_specs_in_the_metadata_in_any_casing() {
    let (container, document) = documents();
    for name in ["credentialSpecs", "CredentialSpecs"] {
        let mut document = document.clone();
        document["Containers"][0][name] = serde_json::json!([format!("credentialspecdomainless:{}", arn())]);
        let uri = task(&format!("shows-{name}"), &container, &document);
        gets_a_ticket(&Sidecar::new().with("ECS_CONTAINER_METADATA_URI_V4", &uri));
    }
}

#[test]
fn the_task_definition_with_a_warning() {
    let uri = format!("{}/v4/bare", lab("LAB_ECS_ENDPOINT"));
    let log = gets_a_ticket(&Sidecar::new().with("ECS_CONTAINER_METADATA_URI_V4", &uri));
    let warning = log.lines().find(|line| line.contains("\"WARN\"")).expect("a warning");
    assert!(warning.contains("fetcher") && warning.contains("same path"), "{warning}");
}

/// Lower-case keys in UTF-16 as Windows PowerShell writes it, a Kubernetes resource, and the secret by its name.
#[test]
fn documents_as_windows_and_kubernetes_have_them() {
    let spec = cred_spec("WebApp01", lab("LAB_DOMAIN"), &secret_arn("gmsa/login"));
    let lower = spec.replace("\"CredentialArn\"", "\"credentialArn\"");
    let utf_16: Vec<u8> = lower.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let wide = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut wide.as_file(), &[b"\xff\xfe", utf_16.as_slice()].concat()).unwrap();
    gets_a_ticket(&Sidecar::new().with("GMSA_CREDENTIAL_SPECS", &format!("file://{}", wide.path().display())));
    let resource = format!("{{\"kind\": \"GMSACredentialSpec\", \"credspec\": {spec}}}");
    gets_a_ticket(&Sidecar::new().with("GMSA_CREDENTIAL_SPECS", &resource));
    let by_name = cred_spec("WebApp01", lab("LAB_DOMAIN"), "gmsa/login");
    let log = gets_a_ticket(&Sidecar::new().with("GMSA_CREDENTIAL_SPECS", &by_name));
    assert_eq!(log.matches("secret.by-name").count(), 1, "{log}");
}

/// A SecureString, as AWS documents it for Windows containers.
#[test]
fn a_login_in_an_ssm_parameter() {
    let arn = format!("arn:aws:ssm:{}:{}:parameter/gmsa/login", lab("LAB_AWS_REGION"), lab("LAB_AWS_ACCOUNT"));
    let spec = cred_spec("WebApp01", lab("LAB_DOMAIN"), &arn);
    gets_a_ticket(&Sidecar::new().with("GMSA_CREDENTIAL_SPECS", &spec));
}

/// AWS's way to rotate the name of a login: the new name has the password.
#[test]
fn a_user_name_that_is_being_rotated() {
    let (user, password) = (lab("LAB_USER"), lab("LAB_USER_PW"));
    let secret =
        serde_json::json!({"USERNAME": format!("svc-nobody:{user}"), "Password": password, "domainname": "example"});
    let arn = crate::support::put_secret("gmsa/renamed-login", &secret.to_string());
    let spec = cred_spec("WebApp01", lab("LAB_DOMAIN"), &arn);
    gets_a_ticket(&Sidecar::new().with("GMSA_CREDENTIAL_SPECS", &spec));
}

#[test]
fn settings_of_other_sdks_and_empty_ones() {
    for (variable, value) in [("AWS_RETRY_MODE", "legacy"), ("AWS_RETRY_MODE", ""), ("AWS_MAX_ATTEMPTS", "")] {
        gets_a_ticket(&Sidecar::of("webapp01.json").with(variable, value));
    }
    for (variable, value) in
        [("AWS_MAX_ATTEMPTS", "0"), ("AWS_MAX_ATTEMPTS", "ten"), ("AWS_ENDPOINT_URL_S3", "moto:5000")]
    {
        let ended = Sidecar::of("webapp01.json").with(variable, value).init();
        assert_eq!(ended.code, Some(78), "{ended:#?}");
        assert!(ended.fault().contains(&format!("{variable}: `{value}` is not")), "{ended:#?}");
    }
}

/// The endpoint of the role's credentials fails for a moment: that is no missing role, and it is asked again soon.
#[test]
fn credentials_that_come_a_moment_later() {
    for status in [400, 429, 503] {
        let rules = serde_json::json!([
            {"path": "/latest/*", "times": 3, "action": "status", "status": status, "body": "not yet"}
        ]);
        let proxy = FaultProxy::start(&rules, &[]);
        let uri = format!("http://{}/latest/meta-data/iam/security-credentials/default-role", proxy.address);
        let sidecar = Sidecar::of("webapp01.json")
            .without("AWS_ACCESS_KEY_ID")
            .without("AWS_SECRET_ACCESS_KEY")
            .with("AWS_CONTAINER_CREDENTIALS_FULL_URI", &uri);
        let start = std::time::Instant::now();
        let log = gets_a_ticket(&sidecar);
        assert!(start.elapsed() < std::time::Duration::from_secs(20), "HTTP {status}: {:?}\n{log}", start.elapsed());
    }
}

/// A stand-in between us and S3 or Secrets Manager that breaks what its rules say.
pub struct FaultProxy {
    child: std::process::Child,
    pub address: String,
    log: tempfile::NamedTempFile,
}

impl FaultProxy {
    pub fn start(rules: &serde_json::Value, arguments: &[&str]) -> Self {
        use std::io::BufRead;
        let file = |text: &str| {
            let file = tempfile::NamedTempFile::new().unwrap();
            write(file.path(), text);
            file
        };
        let (rules, log) = (file(&rules.to_string()), file(""));
        let upstream = lab("LAB_AWS_ENDPOINT").trim_start_matches("http://");
        let mut command = std::process::Command::new("/usr/bin/python3");
        command.arg("-B").arg(root().join("lab/aws/fault_proxy.py"));
        command.args(["--listen", "127.0.0.1:0", "--upstream", upstream]);
        command.arg("--rules").arg(rules.path()).arg("--log").arg(log.path()).args(arguments);
        let pipe = std::process::Stdio::piped;
        let mut child = command.stdin(pipe()).stdout(pipe()).spawn().unwrap();
        let mut line = String::new();
        std::io::BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().rsplit(' ').next().unwrap().to_owned();
        rules.keep().unwrap();
        Self { child, address, log }
    }

    /// One line a request.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log.path()).unwrap()
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_bucket_in_another_region_is_found_by_its_redirect() {
    let redirect = serde_json::json!([
        {"path": "/gmsa-specs/webapp01.json", "times": 1, "action": "status", "status": 301,
         "headers": {"x-amz-bucket-region": "us-west-2"}, "body": "<Error><Code>PermanentRedirect</Code></Error>"}
    ]);
    let proxy = FaultProxy::start(&redirect, &[]);
    let endpoint = format!("http://{}", proxy.address);
    gets_a_ticket(&Sidecar::of("webapp01.json").with("AWS_ENDPOINT_URL_S3", &endpoint));
    let asked = proxy.log();
    assert_eq!(asked.lines().filter(|line| line.contains("webapp01.json")).count(), 2, "{asked}");
}

#[test]
fn a_private_ca_and_a_proxy_are_honoured_and_metadata_is_never_proxied() {
    let state = lab("LAB_STATE");
    let (certificate, key) = (format!("{state}/ca/aws.pem"), format!("{state}/ca/aws.key"));
    let tls = FaultProxy::start(&serde_json::json!([]), &["--tls-cert", &certificate, "--tls-key", &key]);
    let tunnel = FaultProxy::start(&serde_json::json!([]), &["--connect-to", &tls.address]);
    let proxied = Sidecar::new()
        .without("AWS_ENDPOINT_URL")
        .without("AWS_ACCESS_KEY_ID")
        .without("AWS_SECRET_ACCESS_KEY")
        .with("HTTPS_PROXY", &format!("http://{}", tunnel.address))
        .with("HTTP_PROXY", &format!("http://{}", tunnel.address))
        .with("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/v2/credentials/sidecar")
        .with("ECS_CONTAINER_METADATA_URI_V4", &format!("{}/v4/sidecar", lab("LAB_ECS_ENDPOINT")));
    let untrusted = proxied.init_with("GMSA_INIT_TIMEOUT", "1s");
    assert_eq!(untrusted.code, Some(69), "{untrusted:#?}");
    assert!(untrusted.fault().contains("credspec-unreachable"), "{untrusted:#?}");
    gets_a_ticket(&proxied.with("AWS_CA_BUNDLE", lab("LAB_CA")));
    let asked = tunnel.log();
    assert!(asked.contains("CONNECT") && asked.contains("amazonaws.com"), "{asked}");
    assert!(!asked.contains("169.254."), "{asked}");
}
