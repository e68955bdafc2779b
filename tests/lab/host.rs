//! The host daemon between another implementation of gRPC and the lab's domain.

use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::agent::{Agent, python};
use crate::always::count_failures_of;
use crate::hostile::Peer;
use crate::support::{
    Ended, Running, Sidecar, assert_no_secret, attribute, count, cred_spec, inode, lab, put_object, root, samba_tool,
    secret_arn, write,
};

/// A daemon in a folder of its own, and whoever holds its socket.
struct Host(Sidecar);

impl Host {
    fn new() -> Self {
        let sidecar = Sidecar::new();
        let (dir, socket) = (sidecar.path("krbdir"), sidecar.path("socket/cf.sock"));
        let sidecar = sidecar.with("GMSA_DIR", &text(&dir)).with("GMSA_HOST_SOCKET", &text(&socket));
        Self(sidecar.without("AWS_ACCESS_KEY_ID").without("AWS_SECRET_ACCESS_KEY"))
    }

    fn with(self, name: &str, value: &str) -> Self {
        Self(self.0.with(name, value))
    }

    /// As systemd does: the socket outlives the daemon, which is started again when it ends.
    fn held(self) -> Self {
        std::fs::create_dir(self.0.path("socket")).unwrap();
        let holder = root().join("tests/host/holder.py");
        let mut words = vec!["/usr/bin/python3".to_owned(), text(&holder), "--forever".to_owned()];
        words.extend([text(&self.socket()), text(&self.0.path("pid"))]);
        words.extend(["/usr/bin/setpriv", "--pdeathsig", "KILL", "--"].map(str::to_owned));
        Self(self.0.through(&words))
    }

    fn start(&self) -> (Running<'_>, Agent) {
        let running = self.0.start("host");
        running.wait("the daemon", || count(&running, "host.started") > 0);
        let agent = Agent::start(Command::new(python()), &self.socket());
        (running, agent)
    }

    fn socket(&self) -> PathBuf {
        self.0.path("socket/cf.sock")
    }

    /// All that lies there for leases, without what is always there.
    fn files(&self) -> Vec<PathBuf> {
        let (dir, private) = (self.0.path("krbdir"), self.0.path("gmsa-sidecar"));
        let below = |path: &PathBuf| path.starts_with(&dir) || path.starts_with(&private);
        self.0.files().into_iter().filter(|path| below(path) && !path.ends_with(".gmsa-host")).collect()
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn spec(account: &str) -> String {
    cred_spec(account, lab("LAB_DOMAIN"), &secret_arn("gmsa/login"))
}

fn add_spec(spec: &str, user: &str, password: &str) -> Value {
    let request =
        json!({"credspec_contents": [spec], "username": user, "password": password, "domain": lab("LAB_DOMAIN")});
    json!({"method": "AddNonDomainJoinedKerberosLease", "request": request, "back_off": 0.01})
}

fn add(account: &str) -> Value {
    add_spec(&spec(account), "svc-fetcher", lab("LAB_USER_PW"))
}

fn renew(user: &str, password: &str) -> Value {
    let request = json!({"username": user, "password": password, "domain": lab("LAB_DOMAIN")});
    json!({"method": "RenewNonDomainJoinedKerberosLease", "request": request})
}

fn delete(lease: &Value) -> Value {
    json!({"method": "DeleteKerberosLease", "request": {"lease_id": lease}})
}

#[track_caller]
fn ok(agent: &mut Agent, call: &Value) -> Value {
    let answer = agent.call(call);
    assert_eq!(answer["code"], "OK", "{answer}");
    answer["reply"].clone()
}

/// The lease's id and its first folder.
#[track_caller]
fn granted(agent: &mut Agent, call: &Value) -> (Value, PathBuf) {
    let reply = ok(agent, call);
    (reply["lease_id"].clone(), reply["created_kerberos_file_paths"][0].as_str().unwrap().into())
}

/// What an app does that finds this folder as its krbdir: a service ticket with the TGT, as another user and group.
fn use_ticket(folder: &Path, uid: u32, gid: u32) -> Ended {
    let copy = tempfile::tempdir().unwrap();
    let script = format!(
        "cp {folder}/krb5cc {copy}/cc && KRB5CCNAME=FILE:{copy}/cc KRB5_CONFIG={folder}/krb5.conf kvno -q ldap/{dc} && \
         KRB5CCNAME=FILE:{folder}/krb5cc klist -f",
        folder = folder.display(),
        copy = copy.path().display(),
        dc = lab("LAB_DC1"),
    );
    std::os::unix::fs::chown(copy.path(), Some(uid), Some(gid)).unwrap();
    for path in folder.ancestors().take(5).filter(|path| path.starts_with("/tmp/")) {
        let _ = std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755));
    }
    let mut app = Command::new("setpriv");
    app.args([format!("--reuid={uid}"), format!("--regid={gid}"), "--clear-groups".into(), "--".into()]);
    Ended::of(app.args(["sh", "-ec", &script]).output().unwrap())
}

#[test]
fn all_seven_methods_get_tickets_that_serve() {
    let host = Host::new()
        .with("CREDENTIALS_FETCHER_SECRET_NAME_FOR_DOMAINLESS_GMSA", "gmsa/login")
        .with("AWS_ACCESS_KEY_ID", "testing")
        .with("AWS_SECRET_ACCESS_KEY", "testing");
    let (running, mut agent) = host.start();
    assert_eq!(ok(&mut agent, &json!({"method": "HealthCheck", "request": {"service": "x"}}))["status"], "OK");

    let (lease, folder) = granted(&mut agent, &add("WebApp01"));
    let told = use_ticket(&folder, 0, 0).ok();
    assert!(told.contains("WebApp01$@EXAMPLE.COM"), "{told}");
    assert!(!told.contains("Flags: FR"), "the app's ticket cannot be renewed: {told}");

    // One call for all CredSpecs of a task, by the secret that ecs.config names; the names differ in case.
    let specs = json!([spec("webapp01"), spec("WebApp02")]);
    let joined = ok(&mut agent, &json!({"method": "AddKerberosLease", "request": {"credspec_contents": specs}}));
    for (path, machine) in
        joined["created_kerberos_file_paths"].as_array().unwrap().iter().zip(["webapp01", "webapp02"])
    {
        let path = path.as_str().unwrap();
        assert!(path.to_lowercase().contains(machine), "{path}");
        use_ticket(Path::new(path), 0, 0).ok();
    }
    assert_eq!(
        ok(&mut agent, &renew("svc-fetcher", lab("LAB_USER_PW")))["renewed_kerberos_file_paths"],
        json!([text(&folder)])
    );

    put_object("host-daemon/webapp02.json", spec("WebApp02").as_bytes());
    let keys = json!({"access_key_id": "testing", "secret_access_key": "testing", "session_token": "token",
        "region": lab("LAB_AWS_REGION")});
    let mut request = keys.clone();
    let arn = format!("arn:aws:s3:::{}/host-daemon/webapp02.json", lab("LAB_BUCKET"));
    request["credspec_arns"] = json!([format!("{arn}#fargate-1/WebApp02")]);
    let by_arn = ok(&mut agent, &json!({"method": "AddKerberosArnLease", "request": request}));
    let pair = &by_arn["krb_ticket_response_map"][0];
    assert_eq!((&by_arn["lease_id"], pair["credspec_arns"].as_str()), (&json!("fargate-1"), Some(arn.as_str())));
    use_ticket(Path::new(pair["created_kerberos_file_paths"].as_str().unwrap()), 0, 0).ok();
    let renewed = ok(&mut agent, &json!({"method": "RenewKerberosArnLease", "request": keys}));
    assert_eq!(renewed["status"], "successful");

    assert_eq!(host.0.json("/leases")["leases"].as_array().unwrap().len(), 4);
    let (_, metrics) = host.0.http("GET", "/metrics").unwrap();
    assert!(metrics.contains("gmsa_ticket_expiry_timestamp_seconds{account=\"WebApp01\""), "{metrics}");
    for id in [&lease, &joined["lease_id"], &json!("fargate-1"), &json!("unknown")] {
        assert_eq!(ok(&mut agent, &delete(id))["lease_id"], *id);
    }
    assert_eq!(host.files(), Vec::<PathBuf>::new());
    assert_eq!(host.0.json("/leases")["leases"], json!([]));
    let (_, metrics) = host.0.http("GET", "/metrics").unwrap();
    assert!(!metrics.contains("account=\"WebApp"), "what was counted for a lease goes with it: {metrics}");
    assert_no_secret(&running.text());
}

#[test]
fn a_wrong_password_costs_one_proof_and_delays_nobody() {
    let user = "svc-host-wrong";
    samba_tool(&["user", "create", user, "Right-Passw0rd-1"]);
    count_failures_of(user);
    let host = Host::new();
    let (_running, mut agent) = host.start();
    let wrong = add_spec(&spec("WebApp01"), user, "Wrong-Passw0rd-1");
    let answers = agent.call(&json!({"at_once": [wrong, add("WebApp02"), add("WebApp01")]}));
    let [wrong, good @ ..] = answers.as_array().unwrap().as_slice() else { panic!("{answers}") };
    assert_eq!((wrong["code"].as_str(), wrong["attempts"].as_u64()), (Some("UNAUTHENTICATED"), Some(1)), "{wrong}");
    let told = wrong["text"].as_str().unwrap();
    assert!(
        told.starts_with("ticket-login-refused: ") && told.contains("Next: ") && !told.contains("Wrong-"),
        "{told}"
    );
    assert_eq!(attribute(user, "badPwdCount"), "1");
    for answer in good {
        assert_eq!((&answer["code"], answer["seconds"].as_f64().unwrap() < 2.0), (&json!("OK"), true), "{answer}");
    }
    assert_eq!(host.0.json("/leases")["leases"].as_array().unwrap().len(), 2);
    for (account, user, password, code) in [
        ("WebApp02", "svc-outsider", "LAB_OUTSIDER_PW", "PERMISSION_DENIED"),
        ("NoSuchApp", "svc-fetcher", "LAB_USER_PW", "NOT_FOUND"),
        ("WebApp01", "svc-disabled", "LAB_DISABLED_PW", "UNAUTHENTICATED"),
    ] {
        let answer = agent.call(&add_spec(&spec(account), user, lab(password)));
        assert_eq!((answer["code"].as_str(), answer["attempts"].as_u64()), (Some(code), Some(1)), "{answer}");
    }
}

/// Whoever may call tries one wrong password under each name that the account has.
#[test]
fn one_wrong_password_under_many_names_costs_one_proof() {
    let user = "svc-host-spelled";
    samba_tool(&["user", "create", user, "Right-Passw0rd-1"]);
    count_failures_of(user);
    let host = Host::new();
    let (_running, mut agent) = host.start();
    let names = [
        user.to_owned(),
        user.to_uppercase(),
        format!("{user}@{}", lab("LAB_DOMAIN")),
        format!("EXAMPLE\\{user}"),
        format!("another:{user}"),
        format!("{user}@EXAMPLE.COM"),
    ];
    let calls: Vec<_> = names.iter().map(|name| add_spec(&spec("WebApp01"), name, "Wrong-Passw0rd-1")).collect();
    for answer in agent.call(&json!({"at_once": calls})).as_array().unwrap() {
        assert_eq!(answer["code"], "UNAUTHENTICATED", "{answer}");
    }
    for call in &calls {
        assert_eq!(agent.call(call)["code"], "UNAUTHENTICATED");
    }
    assert_eq!(attribute(user, "badPwdCount"), "1");
    // Other wrong passwords are other proofs: two in half an hour.
    for at in 2..6 {
        agent.call(&add_spec(&spec("WebApp01"), user, &format!("Wrong-Passw0rd-{at}")));
    }
    assert_eq!(attribute(user, "badPwdCount"), "2");
    assert_eq!(host.0.json("/leases")["leases"], json!([]));
}

/// The proof of a caller who goes is under way all the same: it counts, and nobody sends the next one meanwhile.
#[test]
fn callers_who_go_do_not_take_their_counts_along() {
    let peer = Peer::domain(&[lab("LAB_DC1"), lab("LAB_RODC")], &["--kdc=proof-hang"]);
    let host = Host::new().with("GMSA_DNS_SERVERS", &peer.address.to_string());
    let (_running, mut agent) = host.start();
    for at in 0..16 {
        let mut call = add("WebApp01");
        call["cancel_after"] = json!(1.5);
        agent.call(&call);
        // The first one is waited for ten seconds.
        let most = if at < 5 { 1 } else { 2 };
        assert!((1..=most).contains(&peer.proofs().len()), "{at}: {:#?}", peer.proofs());
    }
}

#[test]
fn a_domain_controller_that_hangs_delays_nobody_else() {
    let ports = [88, 389].map(|port| TcpListener::bind(("127.71.1.1", port)).unwrap());
    let host = Host::new()
        .with("GMSA_DOMAIN_CONTROLLERS", &format!("{}={};hung.test=127.71.1.1", lab("LAB_DOMAIN"), lab("LAB_DC1")));
    let (_running, mut agent) = host.start();
    let mut hung = add_spec(&cred_spec("WebApp01", "hung.test", &secret_arn("gmsa/login")), "svc", "any");
    hung["request"]["domain"] = json!("hung.test");
    hung["deadline"] = json!(3.0);
    let answers = agent.call(&json!({"at_once": [hung, add("WebApp01"), add("WebApp02")]}));
    assert_eq!(
        (answers[0]["code"].as_str(), answers[0]["attempts"].as_u64()),
        (Some("UNAVAILABLE"), Some(3)),
        "{answers}"
    );
    for answer in &answers.as_array().unwrap()[1..] {
        assert_eq!((&answer["code"], answer["seconds"].as_f64().unwrap() < 2.0), (&json!("OK"), true), "{answer}");
    }
    assert_eq!(host.0.json("/leases")["leases"].as_array().unwrap().len(), 2);
    drop(ports);
}

#[test]
fn a_caller_who_goes_leaves_neither_files_nor_a_lease() {
    let host = Host::new();
    let (running, mut agent) = host.start();
    for after in [0.0, 0.005, 0.02, 0.04] {
        let mut call = add("WebApp01");
        call["cancel_after"] = json!(after);
        agent.call(&call);
    }
    // One that came before the call went has its answer, and with it its lease.
    let answered = count(&running, "host.lease-granted");
    running.wait("what is left to go", || {
        let leases = host.0.json("/leases")["leases"].as_array().unwrap().len();
        leases == answered && host.files().iter().filter(|path| path.ends_with("krb5cc")).count() == answered
    });
}

#[test]
fn a_killed_daemon_renews_without_a_login_on_the_same_socket() {
    let host = Host::new().held();
    let (running, mut agent) = host.start();
    let socket = inode(&host.socket()).unwrap();
    let (lease, folder) = granted(&mut agent, &add("WebApp01"));
    let id = lease.as_str().unwrap();
    let private = host.0.path("gmsa-sidecar").join(id).join("WebApp01/krbtgt");
    running.wait("the bridge, which comes after the answer", || private.exists());
    let stat = std::fs::metadata(&private).unwrap();
    assert_eq!((stat.mode() & 0o7777, stat.uid()), (0o600, 0));
    let (before, bridge) = (inode(&folder.join("krb5cc")), inode(&private));
    let pid = std::fs::read_to_string(host.0.path("pid")).unwrap();
    assert!(Command::new("kill").args(["-9", &pid]).status().unwrap().success());
    // A call that comes meanwhile waits.
    assert_eq!(ok(&mut agent, &json!({"method": "HealthCheck", "request": {"service": "x"}}))["status"], "OK");
    running.wait("another daemon", || count(&running, "host.lease-adopted") == 1);
    running.wait("a renewal without a login", || count(&running, "lease.renewed") == 2);
    assert_eq!(inode(&host.socket()), Some(socket));
    assert_ne!(inode(&folder.join("krb5cc")), before);
    assert_ne!(inode(&private), bridge);
    let told = use_ticket(&folder, 0, 0).ok();
    let flags: Vec<_> = told.lines().filter_map(|line| line.trim().strip_prefix("Flags: ")).collect();
    assert!(!flags.is_empty() && flags.iter().all(|flags| !flags.contains('R')), "{told}");
    // The next call brings a login, which is proven in the background.
    assert_eq!(
        ok(&mut agent, &renew("svc-fetcher", lab("LAB_USER_PW")))["renewed_kerberos_file_paths"],
        json!([text(&folder)])
    );
    running.wait("a renewal with the login", || {
        count(&running, "host.renewed") == 1 && count(&running, "lease.renewed") == 3
    });
    let metadata = std::fs::read_to_string(host.0.path("krbdir").join(id).join(format!("{id}_metadata.json"))).unwrap();
    assert!(metadata.contains("\"domainless_user\": \"svc-fetcher\""), "{metadata}");
    for path in host.files() {
        let bytes = std::fs::read(&path).unwrap();
        assert!(!bytes.windows(16).any(|part| part == lab("LAB_USER_PW").as_bytes()), "{path:?}");
    }
    assert_eq!(ok(&mut agent, &delete(&lease))["deleted_kerberos_file_paths"], json!([text(&folder)]));
    assert_eq!(host.files(), Vec::<PathBuf>::new());
}

#[test]
fn an_app_that_is_not_root_reads_its_ticket_by_the_hosts_setting_or_by_its_credspec() {
    let mut own: Value = serde_json::from_str(&spec("WebApp02")).unwrap();
    own["GmsaSidecar"] =
        json!({"Owner": ":1655", "Mode": "0640", "ServiceTickets": [format!("ldap/{}", lab("LAB_DC1"))]});
    let host = Host::new().with("GMSA_OWNER", ":1654").with("GMSA_MODE", "0640");
    let (_running, mut agent) = host.start();
    let (_, by_host) = granted(&mut agent, &add("WebApp01"));
    let (_, by_spec) = granted(&mut agent, &add_spec(&own.to_string(), "svc-fetcher", lab("LAB_USER_PW")));
    for (folder, gid) in [(&by_host, 1654), (&by_spec, 1655)] {
        let stat = std::fs::metadata(folder.join("krb5cc")).unwrap();
        assert_eq!((stat.mode() & 0o7777, stat.uid(), stat.gid()), (0o640, 0, gid));
        use_ticket(folder, gid, gid).ok();
        assert_ne!(use_ticket(folder, 1700, 1700).code, Some(0), "others cannot");
    }
    let klist = Ended::of(Command::new("klist").arg(by_spec.join("krb5cc")).output().unwrap()).ok();
    assert!(klist.contains(&format!("ldap/{}", lab("LAB_DC1"))), "{klist}");
    // As the agent mounts it, in a container's mount namespace.
    let script = format!(
        "mount -t tmpfs tmpfs /mnt && mkdir /mnt/krbdir && mount --bind {folder} /mnt/krbdir && \
         mount -o remount,bind,ro /mnt/krbdir && export KRB5CCNAME=FILE:/mnt/krbdir/krb5cc KRB5_CONFIG=/mnt/krbdir/krb5.conf && \
         exec setpriv --reuid=1655 --regid=1655 --clear-groups -- klist -s",
        folder = by_spec.display()
    );
    Ended::of(Command::new("unshare").args(["--mount", "sh", "-ec", &script]).output().unwrap()).ok();
}

#[test]
fn leases_of_credentials_fetcher_are_taken_over_and_handed_back() {
    // A ticket as kinit gets it: renewable, in the folder that a container has.
    let helper = Sidecar::inline("WebApp01", "gmsa/login").with("GMSA_KEYTAB", "true");
    helper.init().ok();
    let host = Host::new();
    let id = "7f3a9c0d1e2b4a5f6c7d";
    let folder = host.0.path("krbdir").join(id).join("WebApp01");
    std::fs::create_dir_all(&folder).unwrap();
    let kinit = Command::new("kinit")
        .args(["-r", "7d", "-c", &format!("FILE:{}", text(&folder.join("krb5cc"))), "-k", "-t"])
        .args([text(&helper.path("WebApp01/krb5.keytab")), "WebApp01$@EXAMPLE.COM".to_owned()])
        .output();
    Ended::of(kinit.unwrap()).ok();
    let metadata = folder.parent().unwrap().join(format!("{id}_metadata.json"));
    let entry = json!({"krb_file_path": text(&folder.join("krb5cc")), "service_account_name": "WebApp01",
        "domain_name": "example.com", "domainless_user": "svc-fetcher", "distinguished_name": "CN=WebApp01", "credspec_info": ""});
    write(&metadata, &json!({"krb_ticket_info": [entry]}).to_string());
    let before = inode(&folder.join("krb5cc"));
    let (running, mut agent) = host.start();
    running.wait("a renewal of what kinit got", || count(&running, "lease.renewed") == 1);
    assert_ne!(inode(&folder.join("krb5cc")), before, "in the same folder, which a container has");
    use_ticket(&folder, 0, 0).ok();
    ok(&mut agent, &renew("svc-fetcher", lab("LAB_USER_PW")));
    running.wait("a renewal with the login", || count(&running, "lease.renewed") == 2);
    running.wait("the note of it", || std::fs::read_to_string(&metadata).unwrap().contains('\n'));
    let written: Value = serde_json::from_str(&std::fs::read_to_string(&metadata).unwrap()).unwrap();
    assert_eq!(written["krb_ticket_info"], json!([entry]), "so that credentials-fetcher finds it again");
    drop(running);
    assert!(folder.join("krb5cc").exists() && metadata.exists(), "the end of the daemon ends no lease");
    let (_running, mut agent) = host.start();
    ok(&mut agent, &delete(&json!(id)));
    assert_eq!(host.files(), Vec::<PathBuf>::new());
}

#[test]
fn a_login_changes_its_name_once_the_new_one_has_proven_itself() {
    let (old, new) = ("svc-host-old", "svc-host-new");
    for user in [old, new] {
        samba_tool(&["user", "create", user, "Passw0rd-Of-Both-1"]);
        samba_tool(&["group", "addmembers", lab("LAB_GROUP"), user]);
    }
    let host = Host::new();
    let (running, mut agent) = host.start();
    let (lease, folder) = granted(&mut agent, &add_spec(&spec("WebApp01"), old, "Passw0rd-Of-Both-1"));
    let id = lease.as_str().unwrap();
    let metadata = host.0.path("krbdir").join(id).join(format!("{id}_metadata.json"));
    let user = || {
        let text = std::fs::read_to_string(&metadata).unwrap();
        serde_json::from_str::<Value>(&text).unwrap()["krb_ticket_info"][0]["domainless_user"].clone()
    };
    let both = format!("{old}:{new}");
    ok(&mut agent, &renew(&both, "Wrong-Passw0rd-1"));
    running.wait("the refusal", || count(&running, "host.renewed") == 1);
    assert_eq!(user(), old);
    ok(&mut agent, &renew(&both, "Passw0rd-Of-Both-1"));
    running.wait("the new name", || user() == new);
    assert_eq!(attribute(new, "badPwdCount"), "0", "it has logged in since");
    assert_eq!(
        ok(&mut agent, &renew(new, "Passw0rd-Of-Both-1"))["renewed_kerberos_file_paths"],
        json!([text(&folder)])
    );
    assert_eq!(ok(&mut agent, &renew(old, "Passw0rd-Of-Both-1")).get("renewed_kerberos_file_paths"), None);
}

/// The steps of `check --host`: `step subject result`, and the whole report.
fn check_host(host: &Host, ecs_config: &str) -> (Vec<String>, Value) {
    let etc = host.0.path("etc");
    // In a mount namespace of its own, with another ecs.config.
    let script = format!(
        "[ -d {etc} ] || cp -a /etc {etc}; mkdir -p {etc}/ecs {etc}/gmsa-sidecar; printf '%s' '{ecs_config}' >{etc}/ecs/ecs.config; \
         echo GMSA_MODE=0640 >{etc}/gmsa-sidecar/host.conf; mount --bind {etc} /etc; exec \"$@\"",
        etc = etc.display()
    );
    let mut checked =
        Sidecar::new().with("GMSA_DIR", &text(&host.0.path("krbdir"))).with("GMSA_HOST_SOCKET", &text(&host.socket()));
    checked = checked.with("GMSA_LISTEN", &host.0.listen.to_string());
    let checked = checked.through(&["unshare", "--mount", "sh", "-ec", &script, "-"]);
    let ended = checked.call(&["check", "--host", "--json"]);
    let report: Value = serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {ended:?}"));
    assert_eq!(report["exit_code"], ended.code.unwrap(), "{report:#}");
    let steps = report["steps"].as_array().unwrap().iter();
    let word = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let told =
        steps.map(|step| format!("{} {} {}", word(&step["step"]), word(&step["subject"]), word(&step["result"])));
    (told.collect(), report)
}

#[test]
fn check_host_looks_at_files_socket_leases_and_the_way_to_their_domain() {
    let host = Host::new().held();
    let supported = "ECS_CLUSTER=apps\nECS_GMSA_SUPPORTED=true\n";
    std::fs::create_dir_all(host.0.path("krbdir")).unwrap();
    let (before, report) = check_host(&host, supported);
    let socket = text(&host.socket());
    assert!(before.contains(&format!("socket {socket} warn")), "{report:#}");
    assert!(before.iter().any(|step| step.starts_with("dns - skipped")), "no domain is known yet: {report:#}");
    assert_eq!(report["exit_code"], 0, "{report:#}");

    let (_running, mut agent) = host.start();
    let (lease, _) = granted(&mut agent, &add("WebApp01"));
    let (steps, report) = check_host(&host, supported);
    let dir = text(&host.0.path("krbdir"));
    for step in [
        "file /etc/ecs/ecs.config pass".to_owned(),
        "file /etc/gmsa-sidecar/host.conf pass".to_owned(),
        "configuration - pass".to_owned(),
        "agent /etc/ecs/ecs.config pass".to_owned(),
        format!("socket {socket} pass"),
        format!("volume {dir} pass"),
        format!("dns {} pass", lab("LAB_DOMAIN")),
        format!("dc {} pass", lab("LAB_DC1")),
    ] {
        assert!(steps.contains(&step), "{step}: {report:#}");
    }
    let seen = |name: &str| {
        let steps = report["steps"].as_array().unwrap().iter();
        steps.filter(|step| step["step"] == name).map(|step| step["what"].to_string()).collect::<String>()
    };
    assert!(seen("leases").contains("1 ticket"), "{report:#}");
    assert!(seen("configuration").contains("mode 0640"), "host.conf counts: {report:#}");
    assert!(steps.iter().any(|step| step.starts_with("keytab ")), "{report:#}");

    // What the agent would not look for.
    let (steps, report) = check_host(&host, "ECS_GMSA_SUPPORTED=yes\n");
    assert!(steps.contains(&"agent /etc/ecs/ecs.config fail".to_owned()), "{report:#}");
    assert_eq!(report["exit_code"], 78);
    let (_, report) = check_host(&host, &format!("{supported}CREDENTIALS_FETCHER_HOST=unix:///other.sock\nnonsense\n"));
    assert!(report.to_string().contains("looks for another socket"), "{report:#}");
    assert!(report.to_string().contains("ignores line 4"), "{report:#}");
    // It has changed nothing.
    assert_eq!(ok(&mut agent, &delete(&lease))["lease_id"], lease);
    assert_eq!(host.files(), Vec::<PathBuf>::new());
}

/// The host's own login is in its keytab, which `check` proves once.
#[test]
fn check_host_proves_the_login_of_a_joined_host_once() {
    let user = "svc-host-check";
    samba_tool(&["user", "create", user, "Keytab-Passw0rd-1"]);
    let host = Host::new();
    let keytab = host.0.path("host.keytab");
    samba_tool(&["domain", "exportkeytab", &text(&keytab), &format!("--principal={user}")]);
    std::fs::create_dir_all(host.0.path("krbdir")).unwrap();
    let checked = Sidecar::new()
        .with("GMSA_DIR", &text(&host.0.path("krbdir")))
        .with("GMSA_HOST_SOCKET", &text(&host.socket()))
        .with("GMSA_LOGIN_KEYTAB", &text(&keytab));
    let ended = checked.call(&["check", "--host", "--json"]);
    let report: Value = serde_json::from_str(&ended.stdout).unwrap();
    let step =
        |name: &str| report["steps"].as_array().unwrap().iter().find(|step| step["step"] == name).unwrap().clone();
    assert_eq!(step("keytab")["result"], "pass", "{report:#}");
    assert_eq!(step("login")["result"], "pass", "{report:#}");
    assert!(step("login")["subject"].as_str().unwrap().starts_with(user), "{report:#}");
}

/// Ten logins take half a minute to make.
#[test]
fn slow_a_hundred_tasks_on_ten_logins() {
    let logins: Vec<_> = (0..10).map(|number| format!("svc-host-many{number}")).collect();
    let password = "Passw0rd-Of-Many-1";
    for user in &logins {
        samba_tool(&["user", "create", user, password]);
        samba_tool(&["group", "addmembers", lab("LAB_GROUP"), user]);
    }
    let host = Host::new();
    let (running, mut agent) = host.start();
    let calls: Vec<_> = (0..100).map(|task| add_spec(&spec("WebApp01"), &logins[task % 10], password)).collect();
    let answers = agent.call(&json!({"at_once": calls}));
    let answers = answers.as_array().unwrap();
    assert!(answers.iter().all(|answer| answer["code"] == "OK"), "{answers:?}");
    let renewals: Vec<_> = (0..100).map(|_| renew(&logins[0], password)).collect();
    let renewed = agent.call(&json!({"at_once": renewals}));
    for answer in renewed.as_array().unwrap() {
        assert_eq!(answer["reply"]["renewed_kerberos_file_paths"].as_array().unwrap().len(), 10, "{answer}");
    }
    assert_eq!(count(&running, "host.renewed"), 0, "no ticket is due: nobody is asked");
    assert_eq!(count(&running, "lease.renewed"), 100);
    let leases: Vec<_> = answers.iter().map(|answer| delete(&answer["reply"]["lease_id"])).collect();
    agent.call(&json!({"at_once": leases}));
    assert_eq!(host.files(), Vec::<PathBuf>::new());
}
