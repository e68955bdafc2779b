use serde_json::Value;

use crate::support::{Sidecar, cred_spec, lab, put_object, put_secret, secret_arn};

/// What `check --json` says.
struct Checked {
    code: i32,
    report: Value,
}

impl Checked {
    fn of(sidecar: &Sidecar) -> Self {
        let ended = sidecar.call(&["check", "--json"]);
        let report: Value = serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {ended:#?}"));
        assert_eq!(report["exit_code"], ended.code.unwrap(), "{report:#}");
        for step in report["steps"].as_array().unwrap() {
            let fields: Vec<_> = step.as_object().unwrap().keys().collect();
            assert_eq!(
                fields,
                ["code", "next", "owner", "result", "step", "subject", "took_ms", "what", "why"],
                "{step:#}"
            );
        }
        Self { code: ended.code.unwrap(), report }
    }

    fn steps(&self) -> impl Iterator<Item = &Value> {
        self.report["steps"].as_array().unwrap().iter()
    }

    /// `step result`, or `step code` where it failed; one of several DCs is told apart by its name.
    fn told(&self) -> Vec<String> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let told = |step: &Value| {
            let result = step["code"].as_str().map_or_else(|| text(&step["result"]), str::to_owned);
            format!("{} {result}", text(&step["step"]))
        };
        self.steps().map(told).collect()
    }

    #[track_caller]
    fn step(&self, name: &str) -> &Value {
        self.steps().find(|step| step["step"] == name).unwrap_or_else(|| panic!("no step {name}: {:#}", self.report))
    }

    /// What a step that passed saw.
    #[track_caller]
    fn seen(&self, name: &str) -> &str {
        let step = self.step(name);
        assert_eq!(step["result"], "pass", "{step:#}");
        step["what"].as_str().unwrap()
    }
}

/// One DC, so that the steps do not depend on which of them runs.
fn with_dc1(sidecar: Sidecar) -> Sidecar {
    sidecar.with("GMSA_DOMAIN_CONTROLLERS", lab("LAB_DC1"))
}

fn with_secret(secret: &str) -> Sidecar {
    with_dc1(Sidecar::inline("WebApp01", secret))
}

#[test]
fn everything_that_works_is_seen_and_nothing_is_written() {
    let sidecar = Sidecar::of("webapp01.json");
    let checked = Checked::of(&sidecar);
    assert_eq!(checked.code, 0, "{:#}", checked.report);
    assert!(sidecar.files().is_empty(), "{:?}", sidecar.files());
    assert!(checked.seen("credspec").contains("gMSA `WebApp01` of `example.com`"));
    assert!(checked.seen("secret").contains("keys present: username, password, domainName"));
    assert!(checked.seen("dns").contains(&format!("{} named", lab("LAB_DC1_IP"))), "{:#}", checked.report);
    let dc1 = checked.steps().find(|step| step["step"] == "dc" && step["subject"] == lab("LAB_DC1")).unwrap();
    for port in ["TCP 88 in ", "TCP 389 in ", "TCP 636 in "] {
        assert!(dc1["what"].as_str().unwrap().contains(port), "{dc1:#}");
    }
    assert!(dc1["what"].as_str().unwrap().contains("; its clock is "), "{dc1:#}");
    assert!(checked.seen("gmsa").contains("msDS-SupportedEncryptionTypes 28 (RC4, AES128, AES256)"));
    assert!(checked.seen("password").contains("may read it; version 1"));
    assert!(checked.seen("ticket").contains("a ticket for WebApp01$@EXAMPLE.COM until 20"));
    assert!(checked.seen("volume").contains("folder of 0:0 with mode 0755"));
}

#[test]
fn a_task_is_told_and_asked_for_its_credspecs() {
    let uri = format!("{}/v4/sidecar", lab("LAB_ECS_ENDPOINT"));
    let checked = Checked::of(&with_dc1(Sidecar::new()).with("ECS_CONTAINER_METADATA_URI_V4", &uri));
    assert_eq!(checked.code, 0, "{:#}", checked.report);
    assert!(checked.seen("task").contains("task definition webapp:"), "{:#}", checked.report);
    assert!(checked.seen("task").contains("region eu-central-1"), "{:#}", checked.report);
    assert!(checked.seen("discovery").contains("webapp01.json"), "{:#}", checked.report);
}

#[test]
fn plain_lines_read_as_in_the_snapshot() {
    let sidecar = with_secret("gmsa/outsider");
    let ended = sidecar.call(&["check"]);
    assert_eq!(ended.code, Some(77), "{ended:#?}");
    let mut told = ended.stdout.replace(&sidecar.volume.path().display().to_string(), "VOLUME");
    told = told.replace(&sidecar.listen.to_string(), "LISTEN");
    // Times, versions and free space differ.
    for (before, after) in [("(", "):"), ("version ", ";"), ("took: ", "\n"), ("its clock is ", "\n"), ("; TCP", "\n")]
    {
        let mut from = 0;
        while let Some(at) = told[from..].find(before).map(|at| from + at + before.len()) {
            let Some(end) = told[at..].find(after).map(|end| at + end) else { break };
            if told[at..end].starts_with(|c: char| c.is_ascii_hexdigit() || c == ' ') && !told[at..end].contains('\n') {
                told.replace_range(at..end, "..");
            }
            from = at;
        }
    }
    while let Some(at) = told.find(":secret:gmsa/outsider-") {
        told.replace_range(at..at + ":secret:gmsa/outsider-xxxxxx".len(), " secret gmsa/outsider");
    }
    let free = told.find(" MiB free").unwrap();
    let number = told[..free].rfind(' ').unwrap();
    told.replace_range(number + 1..free, "..");
    insta::assert_snapshot!(told);
}

/// An account of this test's own, locked as if by wrong passwords a moment ago.
fn lock_account(name: &str) {
    use std::io::Write;
    use std::process::{Command, Stdio};
    let database = ["-H", lab("LAB_SAMDB")];
    let create = ["user", "create", name, "L0cked-Passw0rd", "-s", lab("LAB_SMB_CONF")];
    // It may be there from an earlier run.
    let _ = Command::new("samba-tool").args(create).args(database).output().unwrap();
    let epoch = std::time::SystemTime::UNIX_EPOCH;
    #[expect(clippy::disallowed_methods, reason = "a test has no other clock")]
    let now = std::time::SystemTime::now().duration_since(epoch).unwrap().as_secs();
    // Seconds from 1601 to 1970; 100 ns units.
    let (base, time) = (lab("LAB_BASEDN"), (now + 11_644_473_600) * 10_000_000);
    let change =
        format!("dn: CN={name},CN=Users,{base}\nchangetype: modify\nreplace: lockoutTime\nlockoutTime: {time}\n");
    let mut modify = Command::new("ldbmodify").args(database).stdin(Stdio::piped()).spawn().unwrap();
    modify.stdin.take().unwrap().write_all(change.as_bytes()).unwrap();
    assert!(modify.wait().unwrap().success());
}

#[test]
fn states_of_the_login_are_told_apart() {
    lock_account("check-locked");
    let login = serde_json::json!({"username": "check-locked", "password": "L0cked-Passw0rd"});
    let locked = put_secret("gmsa/check-locked", &login.to_string());
    let states = [
        ("gmsa/wrong-password", "ticket-login-refused", "the password is wrong"),
        ("gmsa/unknown-login", "ticket-login-unknown", "it does not know the account"),
        ("gmsa/disabled", "ticket-login-revoked", "the account is disabled"),
        ("gmsa/expired", "ticket-login-revoked", "the account has expired"),
        ("gmsa/mustchange", "ticket-login-password-expired", "the password must be changed first"),
    ];
    let mut cases = states.map(|(secret, code, words)| (secret_arn(secret), code, words)).to_vec();
    cases.push((locked, "ticket-login-revoked", "the account is locked"));
    for (secret, code, words) in cases {
        let spec = cred_spec("WebApp01", lab("LAB_DOMAIN"), &secret);
        let checked = Checked::of(&with_dc1(Sidecar::new()).with("GMSA_CREDENTIAL_SPECS", &spec));
        let login = checked.step("login");
        assert_eq!(login["code"], code, "{login:#}");
        assert!(login["what"].as_str().unwrap().ends_with(words), "{login:#}");
        assert_eq!(checked.report["fault"]["code"], code, "a consequence hides the cause: {:#}", checked.report);
        assert_eq!(checked.step("ticket")["result"], "skipped");
        assert_eq!(checked.step("volume")["result"], "pass");
    }
}

/// The four causes that AWS's own troubleshooting guide names.
#[test]
fn the_four_causes_of_the_aws_guide_have_a_fault_each() {
    let bucket = lab("LAB_BUCKET");
    // 1. The prefix, or the ARN, of the CredSpec is wrong.
    let prefix = format!("credentialspecdomianless:arn:aws:s3:::{bucket}/webapp01.json");
    let prefix = Checked::of(&Sidecar::new().with("GMSA_CREDENTIAL_SPECS", &prefix));
    assert_eq!((prefix.code, &prefix.report["fault"]["code"]), (78, &Value::from("config-invalid")));
    assert_eq!(prefix.step("volume")["result"], "pass", "what can be tried still is");
    put_object("check/joined.json", &joined());
    let arn = format!("credentialspecdomainless:arn:aws:s3:::{bucket}/check/joined.json");
    let arn = Checked::of(&Sidecar::new().with("GMSA_CREDENTIAL_SPECS", &arn));
    assert_eq!(arn.report["fault"]["code"], "credspec-credential-arn-missing");
    let missing = Checked::of(&Sidecar::of("missing.json"));
    assert_eq!((missing.code, &missing.report["fault"]["code"]), (65, &Value::from("credspec-not-found")));
    // 2. The secret does not hold what it shall.
    let secret = Checked::of(&with_secret("gmsa/missing-password"));
    assert_eq!((secret.code, &secret.report["fault"]["code"]), (65, &Value::from("secret-key-missing")));
    assert_eq!(secret.step("dc")["result"], "pass", "the domain is tried without a login");
    // 3. The login has no right to read the password.
    let right = Checked::of(&with_secret("gmsa/outsider"));
    assert_eq!((right.code, &right.report["fault"]["code"]), (77, &Value::from("gmsa-read-denied")));
    let why = right.step("password")["why"].as_str().unwrap();
    assert!(why.ends_with("allowed are: the group `WebAppPrincipals`"), "{why}");
    // 4. DNS does not know the domain.
    let arn = put_secret("gmsa/check-dns", "{\"username\": \"x\", \"password\": \"y\"}");
    let dns = cred_spec("WebApp01", "nowhere.test", &arn);
    let dns = Checked::of(&Sidecar::new().with("GMSA_CREDENTIAL_SPECS", &dns));
    assert_eq!((dns.code, &dns.report["fault"]["code"]), (69, &Value::from("dc-srv-not-found")));
    assert_eq!(
        dns.told(),
        [
            "configuration pass",
            "volume pass",
            "listen pass",
            "task skipped",
            "credspec pass",
            "secret pass",
            "dns dc-srv-not-found",
            "dc skipped",
            "login skipped",
            "bind skipped",
            "gmsa skipped",
            "password skipped",
            "ticket skipped",
        ]
    );
    for skipped in ["dc", "login", "bind", "gmsa", "password", "ticket"] {
        assert_eq!(dns.step(skipped)["why"], "`dns nowhere.test` failed");
    }
}

fn joined() -> Vec<u8> {
    let mut spec: Value =
        serde_json::from_str(&cred_spec("WebApp01", lab("LAB_DOMAIN"), &secret_arn("gmsa/login"))).unwrap();
    spec["ActiveDirectoryConfig"]["HostAccountConfig"] = Value::Null;
    spec.to_string().into_bytes()
}

/// One step's failure stops only what needs it.
#[test]
fn later_steps_are_tried_after_a_failure() {
    let bucket = lab("LAB_BUCKET");
    let specs = format!("arn:aws:s3:::{bucket}/missing.json arn:aws:s3:::{bucket}/webapp01.json");
    let sidecar = with_dc1(Sidecar::new()).with("GMSA_CREDENTIAL_SPECS", &specs).with("GMSA_DIR", "/no/such/volume");
    let checked = Checked::of(&sidecar);
    assert_eq!(checked.code, 73, "the first failed step decides: {:#}", checked.report);
    assert_eq!(
        checked.told(),
        [
            "configuration pass",
            "volume volume-not-writable",
            "listen pass",
            "task skipped",
            "credspec credspec-not-found",
            "credspec pass",
            "secret pass",
            "dns skipped",
            "dc pass",
            "login pass",
            "bind pass",
            "gmsa pass",
            "password pass",
            "ticket pass",
        ]
    );
}

#[test]
fn a_domain_controller_that_is_down_is_a_warning_while_another_serves() {
    let both = format!("{} {}", lab("LAB_DB"), lab("LAB_DC1"));
    let checked = Checked::of(&Sidecar::of("webapp01.json").with("GMSA_DOMAIN_CONTROLLERS", &both));
    let down = checked.steps().filter(|step| step["step"] == "dc").last().unwrap();
    assert_eq!((&down["result"], &down["code"]), (&Value::from("warn"), &Value::from("dc-unreachable")), "{down:#}");
    assert_eq!(checked.code, 0, "{:#}", checked.report);
    let checked = Checked::of(&Sidecar::of("webapp01.json").with("GMSA_DOMAIN_CONTROLLERS", lab("LAB_DB")));
    assert_eq!((checked.code, checked.step("dc")["result"].as_str()), (69, Some("fail")), "{:#}", checked.report);
}

#[test]
fn every_step_that_was_not_reached_is_named_with_the_one_that_stopped_it() {
    let nothing = Checked::of(&Sidecar::new());
    let skipped = ["credspec", "secret", "dns", "dc", "login", "bind", "gmsa", "password", "ticket"];
    assert_eq!(nothing.step("discovery")["code"], "config-no-credspec");
    for name in skipped {
        let step = nothing.step(name);
        assert_eq!((&step["result"], &step["why"]), (&"skipped".into(), &"`discovery` failed".into()));
    }
    let ended = Sidecar::new().call(&["check"]);
    let line = "skip  credspec, secret, dns, dc, login, bind, gmsa, password, ticket: not tried, `discovery` failed\n";
    assert!(ended.stdout.contains(line), "{}", ended.stdout);
    assert!(ended.stdout.contains("      owner: task-definition\n"), "{}", ended.stdout);
}

#[test]
fn an_address_that_is_taken_fails_and_a_sidecar_that_listens_does_not() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let checked = Checked::of(&with_secret("gmsa/login").with("GMSA_LISTEN", &address));
    assert_eq!((checked.code, &checked.step("listen")["code"]), (78, &"config-listen".into()));
    assert_eq!(checked.step("ticket")["result"], "pass", "the rest is tried");
    let sidecar = with_secret("gmsa/login");
    let running = sidecar.run();
    running.wait_ready();
    let checked = Checked::of(&with_secret("gmsa/login").with("GMSA_LISTEN", &sidecar.listen.to_string()));
    assert_eq!(checked.seen("listen"), "a gmsa-sidecar listens there already");
}

#[test]
fn what_does_not_block_is_a_warning_after_what_does() {
    // A gMSA that is disabled, a variable that is not a setting, a DNS server that is silent.
    let disabled = with_dc1(Sidecar::inline("WebAppOff", "gmsa/login")).with("GMSA_DOMAINCONTROLLER", "x");
    let checked = Checked::of(&disabled);
    assert_eq!(checked.step("gmsa")["result"], "warn", "{:#}", checked.report);
    assert!(checked.step("gmsa")["next"].as_str().unwrap().contains("-Identity 'WebAppOff' -Enabled $true"));
    assert_eq!((checked.code, &checked.report["fault"]["code"]), (77, &checked.step("ticket")["code"]));
    let unknown = checked.steps().find(|step| step["subject"] == "GMSA_DOMAINCONTROLLER").unwrap();
    assert_eq!(unknown["result"], "warn");
    assert!(unknown["next"].as_str().unwrap().contains("GMSA_DOMAIN_CONTROLLERS"), "{unknown:#}");
    let servers = format!("{} {}", lab("LAB_DC1_IP"), lab("LAB_DB_IP"));
    let checked = Checked::of(&Sidecar::of("webapp01.json").with("GMSA_DNS_SERVERS", &servers));
    let silent = checked.steps().find(|step| step["subject"] == format!("{}:53", lab("LAB_DB_IP")));
    let silent = silent.unwrap_or_else(|| panic!("{:#}", checked.report));
    assert_eq!((&silent["step"], &silent["result"], checked.code), (&"dns".into(), &"warn".into(), 0));
}

#[test]
fn two_gmsas_of_one_login_are_read_in_one_session() {
    let bucket = lab("LAB_BUCKET");
    let specs = format!("arn:aws:s3:::{bucket}/webapp01.json arn:aws:s3:::{bucket}/webapp02.json");
    let checked = Checked::of(&with_dc1(Sidecar::new()).with("GMSA_CREDENTIAL_SPECS", &specs));
    let number = |name: &str| checked.steps().filter(|step| step["step"] == name && step["result"] == "pass").count();
    assert_eq!(["secret", "login", "bind", "gmsa", "ticket"].map(number), [1, 1, 1, 2, 2], "{:#}", checked.report);
}

#[test]
fn an_owner_who_cannot_reach_the_tickets_is_told() {
    use std::os::unix::fs::PermissionsExt;
    let sidecar = with_dc1(Sidecar::of("webapp01.json")).with("GMSA_OWNER", "1654:1654");
    assert_eq!(Checked::of(&sidecar).code, 0);
    std::fs::set_permissions(sidecar.volume.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    let checked = Checked::of(&sidecar);
    assert_eq!((checked.code, &checked.step("volume")["code"]), (73, &Value::from("volume-not-readable")));
}
