//! The faults that no other test shows in a snapshot. `docs/faults.md` takes its examples from the snapshots.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::BytesMut;
use gmsa_sidecar::kerberos::Key;
use ldap3_proto::LdapCodec;
use ldap3_proto::proto::{
    LdapBindCred, LdapBindRequest, LdapBindResponse, LdapMsg, LdapOp, LdapPartialAttribute, LdapResult, LdapResultCode,
    LdapSearchResultEntry,
};
use serde_json::json;
use tokio_util::codec::{Decoder, Encoder};

use crate::acceptor;
use crate::faults::{normal, told};
use crate::sources::{FaultProxy, documents, task};
use crate::support::{Sidecar, cred_spec, lab, put_object, put_secret, secret_arn, write};

#[test]
fn tasks_that_tell_no_credspec() {
    let (container, document) = documents();
    let in_task = |id: &str, container: &serde_json::Value, document: &serde_json::Value| {
        Sidecar::new().with("ECS_CONTAINER_METADATA_URI_V4", &task(id, container, document))
    };
    let mut labelled = container.clone();
    labelled["Labels"]["gmsa-sidecar.credential-specs"] = "file:///etc/passwd".into();
    let mut nameless = document.clone();
    nameless["Family"] = serde_json::Value::Null;
    let bare = || in_task("examples-bare", &container, &document);
    let denied = json!([{"target": "*DescribeTaskDefinition", "action": "status", "status": 400, "body":
        {"__type": "AccessDeniedException", "message": "User: arn:aws:sts::123456789012:assumed-role/task/id is not authorized to perform: ecs:DescribeTaskDefinition on resource: * because no identity-based policy allows the ecs:DescribeTaskDefinition action"}}]);
    let denied = FaultProxy::start(&denied, &[]);
    let report = told(vec![
        ("no settings at all", Sidecar::new()),
        ("nobody listens", Sidecar::new().with("ECS_CONTAINER_METADATA_URI_V4", "http://127.0.10.99/v4/x")),
        ("metadata that is none", in_task("examples-malformed", &json!([]), &document)),
        ("a label that names a file", in_task("examples-label", &labelled, &document)),
        ("a task that names none", in_task("examples-nameless", &container, &nameless)),
        ("no right to ask ECS", bare().with("AWS_ENDPOINT_URL_ECS", &format!("http://{}", denied.address))),
        ("no way to ECS", bare().with("AWS_ENDPOINT_URL_ECS", "http://127.0.10.99:1")),
    ]);
    let report = report.replace(&denied.address, "127.0.0.1:PORT");
    insta::assert_snapshot!(report);
}

#[test]
fn what_aws_refuses() {
    let denied = |action: &str| {
        let message = format!(
            "User: arn:aws:sts::123456789012:assumed-role/task/id is not authorized to perform: {action} on resource: x \
             because no identity-based policy allows the {action} action"
        );
        json!({"__type": "AccessDeniedException", "message": message})
    };
    let s3 = "<Error><Code>AccessDenied</Code><Message>User: arn:aws:sts::123456789012:assumed-role/task/id is not \
              authorized to perform: s3:GetObject on resource: \"x\" because no identity-based policy allows the \
              s3:GetObject action</Message></Error>";
    let proxy = FaultProxy::start(
        &json!([
            {"path": "/gmsa-specs/*", "action": "status", "status": 403, "body": s3},
            {"target": "secretsmanager.*", "action": "status", "status": 400, "body": denied("secretsmanager:GetSecretValue")},
            {"target": "AmazonSSM.*", "action": "status", "status": 400, "body": denied("ssm:GetParameters")}
        ]),
        &[],
    );
    let endpoint = format!("http://{}", proxy.address);
    let deleted = FaultProxy::start(
        &json!([{"target": "secretsmanager.*", "action": "status", "status": 400, "body": {
            "__type": "InvalidRequestException",
            "message": "You can't perform this operation on the secret because it was marked for deletion."
        }}]),
        &[],
    );
    let inline = || Sidecar::inline("WebApp01", "gmsa/login");
    let parameter = |name: &str| {
        let arn = format!("arn:aws:ssm:{}:{}:parameter{name}", lab("LAB_AWS_REGION"), lab("LAB_AWS_ACCOUNT"));
        Sidecar::new().with("GMSA_CREDENTIAL_SPECS", &format!("credentialspecdomainless:{arn}"))
    };
    let keyless = |sidecar: Sidecar| sidecar.without("AWS_ACCESS_KEY_ID").without("AWS_SECRET_ACCESS_KEY");
    let down = FaultProxy::start(&json!([{"path": "/v2/*", "action": "status", "status": 503, "body": "down"}]), &[]);
    let uri = format!("http://{}/v2/credentials/sidecar", down.address);
    let roleless = |sidecar: Sidecar| keyless(sidecar).with("AWS_CONTAINER_CREDENTIALS_FULL_URI", &uri);
    let long = put_secret("gmsa/examples-long", &"x".repeat(65_537));
    let long = cred_spec("WebApp01", lab("LAB_DOMAIN"), &format!("{long}:key::"));
    let report = told(vec![
        ("no right to read S3", Sidecar::of("webapp01.json").with("AWS_ENDPOINT_URL_S3", &endpoint)),
        ("no role", keyless(Sidecar::of("webapp01.json"))),
        ("an endpoint of credentials that is down", roleless(Sidecar::of("webapp01.json"))),
        ("no way to S3", Sidecar::of("webapp01.json").with("AWS_ENDPOINT_URL_S3", "http://127.0.10.99:1")),
        ("no region", Sidecar::of("webapp01.json").without("AWS_REGION")),
        ("no right to read the parameter", parameter("/gmsa/webapp01").with("AWS_ENDPOINT_URL_SSM", &endpoint)),
        ("a parameter that is not there", parameter("/gmsa/no-such")),
        ("no right to read the secret", inline().with("AWS_ENDPOINT_URL_SECRETS_MANAGER", &endpoint)),
        ("no role for the secret", keyless(inline())),
        ("an endpoint of credentials that is down, for the secret", roleless(inline())),
        ("no way to Secrets Manager", inline().with("AWS_ENDPOINT_URL_SECRETS_MANAGER", "http://127.0.10.99:1")),
        ("a deleted secret", inline().with("AWS_ENDPOINT_URL_SECRETS_MANAGER", &format!("http://{}", deleted.address))),
        ("a secret that is no login", Sidecar::new().with("GMSA_CREDENTIAL_SPECS", &long)),
    ]);
    let report =
        [&proxy, &deleted, &down].iter().fold(report, |report, proxy| report.replace(&proxy.address, "127.0.0.1:PORT"));
    insta::assert_snapshot!(report);
}

/// What a KDC may answer that the lab's never does.
#[test]
fn kdcs_that_refuse() {
    let fake = |answer: Vec<u8>| Fake::start(move |_, _| answer.clone());
    let (day, time) = (Duration::from_secs(86_400), now());
    let cases = [
        ("a clock a day ahead", fake(krb_error(37, time + day, &[]))),
        ("a KDC that failed", fake(krb_error(60, time, &[]))),
        ("a reply that is none", fake(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec())),
        ("a login by smart card only", fake(krb_error(25, time, &[0x30, 0]))),
        ("a login without AES", fake(krb_error(14, time, &[]))),
        ("a DC without its SPN", fake(krb_error(7, time, &[]))),
        ("a revoked login, which may be anything", fake(krb_error(18, time, &[]))),
        ("a locked login", fake(krb_error(18, time, &extended(0xc000_0234)))),
        ("a password that has expired", fake(krb_error(23, time, &extended(0xc000_0071)))),
        ("a login out of its hours", fake(krb_error(12, time, &extended(0xc000_006f)))),
        (
            "a gMSA that has not replicated",
            Fake::start(|count, request| if count < 4 { relayed(request) } else { krb_error(6, now(), &[]) }),
        ),
        (
            "a password that has not replicated",
            Fake::start(|count, request| if count < 4 { relayed(request) } else { krb_error(24, now(), &[]) }),
        ),
        (
            "a gMSA that the KDC gives no tickets for",
            Fake::start(|count, request| if count == 3 { krb_error(27, now(), &[]) } else { relayed(request) }),
        ),
        ("an LDAP server that hangs up", Fake::start(|_, request| relayed(request)).with_ldap(Vec::new())),
        ("an LDAP server that refuses", Fake::start(|_, request| relayed(request)).with_ldap(bind_refused("52e"))),
    ];
    // A keytab needs more proof than a ticket.
    let with = |name: &str, sidecar: Sidecar| match name {
        "a gMSA that the KDC gives no tickets for" => sidecar.with("GMSA_KEYTAB", "true"),
        _ => sidecar,
    };
    let sidecars = cases.iter().map(|(name, fake)| (*name, with(name, fake.sidecar()))).collect();
    let report = told(sidecars);
    // The second and the addresses differ.
    let report = report.lines().map(|line| match line.split_once("its clock is ") {
        Some((before, _)) => format!("{before}its clock is 1day ahead of ours"),
        None => line.to_owned(),
    });
    insta::assert_snapshot!(report.collect::<Vec<_>>().join("\n"));
}

/// The TGT is written all the same.
#[test]
fn a_service_that_nobody_has() {
    let sidecar = Sidecar::of("webapp01.json")
        .with("GMSA_DOMAIN_CONTROLLERS", lab("LAB_DC1"))
        .with("GMSA_SERVICE_TICKETS", "HTTP/missing.example.com")
        .with("GMSA_INIT_TIMEOUT", "1s");
    let ended = sidecar.init();
    assert!(sidecar.path("krb5cc").exists(), "{ended:#?}");
    insta::assert_snapshot!(normal(&ended.fault(), &sidecar));
}

/// What an LDAP server may answer on a good, sealed connection that Samba's never does.
#[test]
fn directories_that_answer_nonsense() {
    let keytab = dc_keys();
    let directory = |answers: Vec<LdapOp>| {
        let keytab = Arc::clone(&keytab);
        Fake::start(|_, request| relayed(request)).with_ldap_server(move |stream| {
            serve_directory(stream, &keytab, &|_| answers.clone());
        })
    };
    let done = |code, message: &str| {
        let (matcheddn, message, referral) = (String::new(), message.to_owned(), Vec::new());
        LdapOp::SearchResultDone(LdapResult { code, matcheddn, message, referral })
    };
    let attribute =
        |name: &str, value: &[u8]| LdapPartialAttribute { atype: name.to_owned(), vals: vec![value.to_vec()] };
    let mut blob = vec![0; 300];
    blob[0] = 2;
    let entry = LdapOp::SearchResultEntry(LdapSearchResultEntry {
        dn: "CN=WebApp01,CN=Managed Service Accounts,DC=example,DC=com".to_owned(),
        attributes: vec![attribute("sAMAccountName", b"WebApp01$"), attribute("msDS-ManagedPassword", &blob)],
    });
    let busy = "00002024: SvcErr: DSID-03210B67, problem 5001 (BUSY), data 0";
    let cases = [
        ("a directory that is busy", directory(vec![done(LdapResultCode::Busy, busy)])),
        ("a blob of another version", directory(vec![entry, done(LdapResultCode::Success, "")])),
    ];
    let report = told(cases.iter().map(|(name, fake)| (*name, fake.sidecar())).collect());
    insta::assert_snapshot!(report);
}

/// The keys of the DC's LDAP service.
pub fn dc_keys() -> Arc<Vec<Key>> {
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("dc.keytab");
    let export = Command::new("samba-tool")
        .args([
            "domain",
            "exportkeytab",
            &path.display().to_string(),
            "-H",
            lab("LAB_SAMDB"),
            "-s",
            lab("LAB_SMB_CONF"),
        ])
        .arg(format!("--principal=ldap/{}/{}", lab("LAB_DC1"), lab("LAB_DOMAIN")))
        .output()
        .unwrap();
    assert!(export.status.success(), "{export:?}");
    Arc::new(acceptor::keys(&path))
}

/// An LDAP server with the DC's own key: takes one bind and answers searches.
pub fn serve_directory(mut stream: TcpStream, keys: &[Key], answers: &dyn Fn(&LdapMsg) -> Vec<LdapOp>) -> Option<()> {
    let mut codec = LdapCodec::default();
    let mut received = BytesMut::new();
    let mut send = |message: LdapMsg| {
        let mut bytes = BytesMut::new();
        codec.encode(message, &mut bytes).unwrap();
        bytes
    };
    let bind = loop {
        let mut bytes = [0; 4096];
        let count = stream.read(&mut bytes).ok().filter(|count| *count > 0)?;
        received.extend_from_slice(&bytes[..count]);
        if let Some(bind) = LdapCodec::default().decode(&mut received).ok()? {
            break bind;
        }
    };
    let LdapOp::BindRequest(LdapBindRequest { cred: LdapBindCred::SASL(sasl), .. }) = bind.op else { return None };
    let (answer, tokens, first) = acceptor::accept(&sasl.credentials, keys);
    let res = LdapResult {
        code: LdapResultCode::Success,
        matcheddn: String::new(),
        message: String::new(),
        referral: Vec::new(),
    };
    let bound = LdapOp::BindResponse(LdapBindResponse { res, saslcreds: Some(answer) });
    stream.write_all(&send(LdapMsg::new(bind.msgid, bound))).ok()?;
    let mut sequence = first;
    loop {
        let frame = read_message(&mut stream).ok()?;
        let (_, search) = tokens.unseal(&frame).unwrap();
        let search = LdapCodec::default().decode(&mut BytesMut::from(search.as_slice())).unwrap()?;
        for answer in answers(&search) {
            let message = send(LdapMsg::new(search.msgid, answer));
            write_message(&mut stream, &tokens.seal(sequence, &message).unwrap()).ok()?;
            sequence += 1;
        }
    }
}

#[test]
fn volumes_that_fail_later() {
    let taken = Sidecar::of("webapp01.json");
    std::fs::create_dir_all(taken.path("WebApp01/krb5cc")).unwrap();
    let full = Sidecar::of("webapp01.json").with("GMSA_DOMAIN_CONTROLLERS", lab("LAB_DC1"));
    let mount = |arguments: &[&str]| {
        let done = std::process::Command::new(arguments[0]).args(&arguments[1..]).arg(full.volume.path()).status();
        assert!(done.unwrap().success(), "{arguments:?}");
    };
    // Room for krb5.conf, not for a ticket.
    mount(&["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs"]);
    let locked = Sidecar::of("webapp01.json").with("GMSA_OWNER", "1654:1654");
    std::fs::set_permissions(locked.volume.path(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let mut report = String::new();
    for (name, sidecar) in [("a folder in the way", &taken), ("a full volume", &full)] {
        writeln!(report, "# {name}\n{}\n", normal(&sidecar.init().fault(), sidecar)).unwrap();
    }
    writeln!(report, "# a closed volume\n{}\n", normal(&checked(&locked), &locked)).unwrap();
    mount(&["umount"]);
    insta::assert_snapshot!(report);
}

/// Two versions of the secret are refused; the third is not sent, good as it is.
#[test]
fn a_login_that_is_held_back() {
    let user = "svc-held";
    let output = Command::new("samba-tool")
        .args(["user", "create", user, "Right-Passw0rd", "-H", lab("LAB_SAMDB"), "-s", lab("LAB_SMB_CONF")])
        .output();
    drop(output); // it may be there from an earlier run
    let login = |password: &str| {
        let login = json!({"username": user, "password": password, "domainName": lab("LAB_DOMAIN")});
        put_secret("gmsa/examples-held", &login.to_string())
    };
    let arn = login("Wrong-Passw0rd-1");
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("spec.json");
    // Another gMSA is a new lease, which tries at once.
    let spec = |account: &str| write(&file, &cred_spec(account, lab("LAB_DOMAIN"), &arn));
    spec("WebApp01");
    let sidecar = Sidecar::new().with("GMSA_CREDENTIAL_SPECS", &format!("file://{}", file.display()));
    let running = sidecar.run();
    running.wait_fault("ticket-login-refused");
    login("Wrong-Passw0rd-2");
    spec("WebApp02");
    running.wait("the second refusal", || {
        let lease = &sidecar.json("/ready")["leases"][0];
        lease["account"] == "WebApp02" && lease["fault"]["code"] == "ticket-login-refused"
    });
    login("Right-Passw0rd");
    spec("WebApp-15-chars");
    running.wait_fault("ticket-login-held");
    let fault = &sidecar.json("/ready")["leases"][0]["fault"];
    let part = |name: &str| fault[name].as_str().unwrap_or("-").to_owned();
    let report = format!("{} exit 77\nwhat: {}\nwhy:  {}\n", part("code"), part("what"), part("why"));
    insta::assert_snapshot!(normal(&report, &sidecar));
}

#[test]
fn starts_that_fail() {
    let bucket = lab("LAB_BUCKET");
    put_object("examples/twice.json", cred_spec("webapp01", lab("LAB_DOMAIN"), &secret_arn("gmsa/login")).as_bytes());
    let twice = format!("arn:aws:s3:::{bucket}/webapp01.json, arn:aws:s3:::{bucket}/examples/twice.json");
    let twice = Sidecar::new().with("GMSA_CREDENTIAL_SPECS", &twice);
    // A port in use, and AWS that hangs: nobody accepts.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let busy = Sidecar::of("webapp01.json").with("GMSA_LISTEN", &address);
    let hanging = Sidecar::of("webapp01.json")
        .with("AWS_ENDPOINT_URL", &format!("http://{address}"))
        .with("GMSA_START_TIMEOUT", "1s");
    let mut report = format!("# two CredSpecs for one gMSA\n{}\n\n", checked(&twice));
    // The words are those of musl, of which the product is made.
    let fault = busy.call(&["run"]).fault().replace(&address, "ADDRESS").replace("Address already in", "Address in");
    writeln!(report, "# a port in use\n{fault}\n").unwrap();
    writeln!(report, "# AWS that hangs\n{}\n", hanging.call(&["run"]).fault()).unwrap();
    insta::assert_snapshot!(report);
}

/// The first fault that `check` tells: it goes step by step, where `run` does many at once.
fn checked(sidecar: &Sidecar) -> String {
    let ended = sidecar.call(&["check", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    let part = |name: &str| report["fault"][name].as_str().unwrap_or("-").to_owned();
    format!("{} exit {}\nwhat: {}\nwhy:  {}", part("code"), ended.code.unwrap(), part("what"), part("why"))
}

/// A host that says it is the lab's first DC, on an address of its own with a DNS server of its own.
pub struct Fake {
    pub address: IpAddr,
    ldap: Arc<dyn Fn(TcpStream) + Send + Sync>,
}

impl Fake {
    /// `kdc` is given the number of the request on its connection, from 1, and the request.
    pub fn start(kdc: impl Fn(usize, &[u8]) -> Vec<u8> + Send + Sync + 'static) -> Self {
        static COUNT: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(1);
        let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let [_, _, high, low] = std::process::id().to_be_bytes();
        Self::start_on(Ipv4Addr::new(127, 0xc0 | number, high, low).into(), kdc)
    }

    /// The same on a given address, which is the only one that its DNS server knows.
    pub fn start_on(address: IpAddr, kdc: impl Fn(usize, &[u8]) -> Vec<u8> + Send + Sync + 'static) -> Self {
        Self::start_with(address, |_| vec![(100, lab("LAB_DC1"))], kdc)
    }

    /// The same with SRV records: for a name the weights and hosts.
    pub fn start_with(
        address: IpAddr,
        services: impl Fn(&str) -> Vec<(u16, &'static str)> + Send + 'static,
        kdc: impl Fn(usize, &[u8]) -> Vec<u8> + Send + Sync + 'static,
    ) -> Self {
        let dns = UdpSocket::bind((address, 53)).unwrap();
        std::thread::spawn(move || answer_names(&dns, address, &services));
        let listener = TcpListener::bind((address, 88)).unwrap();
        let kdc = Arc::new(kdc);
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let kdc = Arc::clone(&kdc);
                std::thread::spawn(move || {
                    for count in 1.. {
                        let Ok(request) = read_message(&mut stream) else { break };
                        if write_message(&mut stream, &kdc(count, &request)).is_err() {
                            break;
                        }
                    }
                });
            }
        });
        Self { address, ldap: Arc::new(|stream| relay(stream, SocketAddr::from((dc1(), 389)))) }
    }

    /// What its LDAP server answers before it hangs up; by default it is the real one.
    pub fn with_ldap(self, answer: Vec<u8>) -> Self {
        self.with_ldap_server(move |mut stream| {
            let _ = stream.read(&mut [0; 4096]).and_then(|_| stream.write_all(&answer));
        })
    }

    pub fn with_ldap_server(mut self, serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        self.ldap = Arc::new(serve);
        self
    }

    pub fn sidecar(&self) -> Sidecar {
        let listener = TcpListener::bind((self.address, 389)).unwrap();
        let serve = Arc::clone(&self.ldap);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let serve = Arc::clone(&serve);
                std::thread::spawn(move || serve(stream));
            }
        });
        Sidecar::inline("WebApp01", "gmsa/login")
            .with("GMSA_DOMAIN_CONTROLLERS", lab("LAB_DC1"))
            .with("GMSA_DNS_SERVERS", &self.address.to_string())
    }
}

pub fn dc1() -> Ipv4Addr {
    lab("LAB_DC1_IP").parse().unwrap()
}

/// Answers every question for an A or AAAA record, whichever `address` is, with it, one for an SRV record with what
/// `services` says, and every other with nothing (RFC 1035 section 4, RFC 2782).
pub fn answer_names(dns: &UdpSocket, address: IpAddr, services: &dyn Fn(&str) -> Vec<(u16, &'static str)>) {
    let (kind, octets) = match address {
        IpAddr::V4(address) => (1, address.octets().to_vec()),
        IpAddr::V6(address) => (28, address.octets().to_vec()),
    };
    let labels = |name: &str| -> Vec<u8> {
        let label = |label: &str| [&[u8::try_from(label.len()).unwrap()], label.as_bytes()].concat();
        name.split('.').chain([""]).flat_map(label).collect()
    };
    let target =
        |(weight, host): (u16, &str)| [&[0, 0], weight.to_be_bytes().as_slice(), &[1, 0x85], &labels(host)].concat();
    let mut question = [0; 512];
    while let Ok((length, from)) = dns.recv_from(&mut question) {
        let end = 12 + question[12..length].iter().position(|octet| *octet == 0).unwrap();
        let mut name = question[13..end].to_vec();
        let mut dot = usize::from(question[12]);
        while dot < name.len() {
            dot += 1 + usize::from(std::mem::replace(&mut name[dot], b'.'));
        }
        let data: Vec<Vec<u8>> = match question[end + 2] {
            asked if asked == kind => vec![octets.clone()],
            33 => services(std::str::from_utf8(&name).unwrap()).into_iter().map(target).collect(),
            _ => Vec::new(),
        };
        let mut answer = question[..2].to_vec();
        answer.extend([0x81, 0x80, 0, 1, 0, u8::try_from(data.len()).unwrap(), 0, 0, 0, 0]);
        answer.extend(&question[12..end + 5]);
        for data in data {
            answer.extend([0xc0, 12, 0, question[end + 2], 0, 1, 0, 0, 0, 60, 0, u8::try_from(data.len()).unwrap()]);
            answer.extend(data);
        }
        dns.send_to(&answer, from).unwrap();
    }
}

pub fn relay(stream: TcpStream, to: SocketAddr) {
    let other = TcpStream::connect(to).unwrap();
    for (mut from, mut to) in [
        (stream.try_clone().unwrap(), other.try_clone().unwrap()),
        (other.try_clone().unwrap(), stream.try_clone().unwrap()),
    ] {
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut from, &mut to);
            let _ = to.shutdown(std::net::Shutdown::Write);
        });
    }
}

/// What the lab's own KDC answers.
pub fn relayed(request: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect((dc1(), 88)).unwrap();
    write_message(&mut stream, request).unwrap();
    read_message(&mut stream).unwrap()
}

fn read_message(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut message = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut message)?;
    Ok(message)
}

fn write_message(stream: &mut TcpStream, message: &[u8]) -> std::io::Result<()> {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    stream.write_all(&[&length, message].concat())
}

/// A KRB-ERROR (RFC 4120 section 5.9.1).
pub fn krb_error(code: u8, time: SystemTime, data: &[u8]) -> Vec<u8> {
    krb_error_of(code, time, data, None)
}

/// The same with the client's realm, as the KDC knows it.
pub fn krb_error_of(code: u8, time: SystemTime, data: &[u8], realm: Option<&str>) -> Vec<u8> {
    let time = humantime::format_rfc3339_seconds(time).to_string().replace(['-', ':', 'T'], "");
    let name = tlv(0x30, &[tlv(0xa0, &tlv(2, &[1])), tlv(0xa1, &tlv(0x30, &tlv(0x1b, b"krbtgt")))].concat());
    let mut fields = vec![
        tlv(0xa0, &tlv(2, &[5])),
        tlv(0xa1, &tlv(2, &[30])),
        tlv(0xa4, &tlv(0x18, time.as_bytes())),
        tlv(0xa5, &tlv(2, &[0])),
        tlv(0xa6, &tlv(2, &[code])),
        tlv(0xa9, &tlv(0x1b, b"EXAMPLE.COM")),
        tlv(0xaa, &name),
    ];
    if let Some(realm) = realm {
        fields.insert(5, tlv(0xa7, &tlv(0x1b, realm.as_bytes())));
    }
    if !data.is_empty() {
        fields.push(tlv(0xac, &tlv(4, data)));
    }
    tlv(0x7e, &tlv(0x30, &fields.concat()))
}

/// KERB-ERROR-DATA with an NTSTATUS (MS-KILE 2.2.1).
pub fn extended(status: u32) -> Vec<u8> {
    let value = [status.to_le_bytes(), [0; 4], [1, 0, 0, 0]].concat();
    tlv(0x30, &[tlv(0xa1, &tlv(2, &[3])), tlv(0xa2, &tlv(4, &value))].concat())
}

/// The answer of Windows to a bind that it refuses (RFC 4511 section 4.2.2), to message 1.
pub fn bind_refused(data: &str) -> Vec<u8> {
    let text = format!("80090308: LdapErr: DSID-0C090439, comment: AcceptSecurityContext error, data {data}, v4563");
    let result = [tlv(0x0a, &[49]), tlv(4, b""), tlv(4, text.as_bytes())].concat();
    tlv(0x30, &[tlv(2, &[1]), tlv(0x61, &result)].concat())
}

pub fn tlv(tag: u8, value: &[u8]) -> Vec<u8> {
    let length = u8::try_from(value.len()).unwrap();
    let length = if length < 128 { vec![length] } else { vec![0x81, length] };
    [&[tag], length.as_slice(), value].concat()
}

#[expect(clippy::disallowed_methods, reason = "a test has no other clock")]
pub fn now() -> SystemTime {
    SystemTime::now()
}
