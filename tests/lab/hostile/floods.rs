use std::time::{Duration, Instant};

use super::{Cell, Cost, Peer, assert_bounded, baseline, observe, report};
use crate::sources::{documents, task};
use crate::support::{PATIENCE, Sidecar, cred_spec, lab, secret_arn};

/// How long a peer goes on once the sidecar has come to it.
const ATTACK: Duration = Duration::from_millis(1500);

/// Two domain controllers, so that there is a choice and with it a site ping. The KDC knows both names.
fn controllers() -> [&'static str; 2] {
    [lab("LAB_DC1"), lab("LAB_RODC")]
}

/// Runs the sidecar for a while once `reached` says that it has come to the peer.
fn attacked(sidecar: Sidecar, cell: &Cell, reached: impl Fn() -> bool) -> Cost {
    let start = Instant::now();
    let since = std::cell::Cell::new(None);
    observe(sidecar, cell, |running| {
        if since.get().is_none() && reached() {
            since.set(Some(Instant::now()));
        }
        assert!(start.elapsed() < PATIENCE, "it never came to the peer:\n{}", running.text());
        since.get().is_some_and(|since: Instant| since.elapsed() > ATTACK)
    })
}

fn row(name: &str, tried: &str, sidecar: Sidecar, reached: impl Fn() -> bool) -> Cost {
    row_in(&Cell::new(), name, tried, sidecar, reached)
}

fn row_in(cell: &Cell, name: &str, tried: &str, sidecar: Sidecar, reached: impl Fn() -> bool) -> Cost {
    let honest = baseline();
    let cost = attacked(sidecar, cell, reached);
    report(name, tried, &cost, &honest);
    assert_bounded(name, &cost, &honest);
    cost
}

#[track_caller]
fn assert_no_ticket(cost: &Cost) {
    let is_one = |file: &&String| file.ends_with("krb5cc") || file.ends_with("keytab");
    assert_eq!(cost.files.iter().find(is_one), None, "a ticket from a hostile peer");
}

/// A domain whose DNS, KDC or LDAP misbehaves: the option, and the event that tells that it was asked.
fn domain(name: &str, tried: &str, option: &str, event: &str) {
    let peer = Peer::domain(&controllers(), &[option]);
    let cost = row(name, tried, peer.sidecar(), || peer.count(event) > 0);
    if event != "dns" {
        assert_no_ticket(&cost);
    }
}

macro_rules! domains {
    ($($name:ident: $tried:literal, $option:literal, $event:literal;)*) => {
        $(#[test]
        fn $name() {
            domain(stringify!($name), $tried, $option, $event);
        })*
    };
}

domains! {
    ldap_entries: "search entries without an end, to the site ping and to the bind", "--ldap=entries", "ldap-request";
    ldap_large_entries: "the same, of 16 KiB each", "--ldap=large-entries", "ldap-request";
    ldap_references: "references without an end", "--ldap=references", "ldap-request";
    ldap_tiny: "one message of 1 MB, of tiny elements", "--ldap=tiny=1000000", "ldap-request";
    ldap_tiny_2mb: "one message of 2 MB, of tiny elements", "--ldap=tiny=2000000", "ldap-request";
    ldap_values: "one entry with 500,000 empty values", "--ldap=values=1000000", "ldap-request";
    ldap_nested: "60,000 octets of sequences within sequences", "--ldap=nested=60000", "ldap-request";
    ldap_nested_deep: "the same, of 1 MB", "--ldap=nested=1000000", "ldap-request";
    ldap_length: "a message of 2 GiB", "--ldap=length", "ldap-request";
    ldap_long_length: "a length of 126 octets", "--ldap=long-length", "ldap-request";
    ldap_garbage: "random octets without an end", "--ldap=garbage", "ldap-request";
    ldap_notices: "notices without an end", "--ldap=notices", "ldap";
    ldap_text: "a refusal with a text of 60,000 octets", "--ldap=text=60000", "ldap-request";
    ldap_drip: "an octet in a tenth of a second", "--ldap=drip", "ldap-request";
    ldap_silence: "nothing", "--ldap=silence", "ldap-request";

    kdc_length: "a reply of 4 GiB", "--kdc=length", "kdc";
    kdc_garbage: "128 KiB of random octets", "--kdc=garbage", "kdc";
    kdc_nested: "120 KiB of sequences within sequences", "--kdc=nested", "kdc";
    kdc_padata: "100,000 pieces of pre-authentication data", "--kdc=padata=100000", "kdc";
    kdc_padata_that_fit: "13,000 of them, in 118 KiB", "--kdc=padata=13000", "kdc";
    kdc_etypes: "3,000 ways to derive the key", "--kdc=etypes=3000", "kdc";
    kdc_rounds: "65,536 rounds of key derivation, each time", "--kdc=rounds=65536", "kdc";
    kdc_all_rounds: "2^32 rounds", "--kdc=rounds=0", "kdc";
    kdc_salt: "a salt of 100 KiB", "--kdc=salt=100000", "kdc";
    kdc_text: "a refusal with a text of 100 KiB", "--kdc=text=100000", "kdc";
    kdc_flood: "a thousand requests for a proof, in answer to one", "--kdc=flood", "kdc";
    kdc_drip: "an octet in a tenth of a second", "--kdc=drip", "kdc";
    kdc_silence: "nothing", "--kdc=silence", "kdc";

    dns_400_controllers: "400 domain controllers", "--dns=srv=400", "dns";
    dns_2500_controllers: "2,500 domain controllers, as many as a message holds", "--dns=srv=2500", "dns";
    dns_long_names: "255 domain controllers with names of 250 characters", "--dns=long-names", "dns";
    dns_addresses: "1,000 addresses for each", "--dns=addresses=1000", "dns";
    dns_alias_loop: "aliases that lead back", "--dns=cname-loop", "dns";
    dns_alias_chain: "aliases without an end", "--dns=cname-chain", "dns";
    dns_texts: "60 KiB of other records", "--dns=txt", "dns";
    dns_slow: "answers after 4 s", "--dns=slow=4", "dns";
    dns_garbage: "random octets", "--dns=garbage", "dns";
    dns_questions: "65,535 questions, as the head says, again and again", "--dns=questions", "dns";
    dns_tcp_endless: "an answer by TCP without an end", "--dns=tcp-endless", "dns";
    dns_tcp_drip: "an answer by TCP, an octet in a tenth of a second", "--dns=tcp-drip", "dns";
    dns_silence: "nothing", "--dns=silence", "dns";
}

/// 65,536 rounds of key derivation with `cpu: 32` of a task definition.
#[test]
fn kdc_rounds_on_a_slow_processor() {
    let Some(cell) = Cell::slow() else {
        println!("skipped: no control group for processors");
        return;
    };
    let peer = Peer::domain(&controllers(), &["--kdc=rounds=65536"]);
    let reached = || peer.count("kdc-error") > 0;
    row_in(&cell, "kdc_rounds_on_a_slow_processor", "65,536 rounds, with 3 % of a processor", peer.sidecar(), reached);
}

/// A domain controller that the KDC knows, and that misbehaves once it is bound.
fn sealed(name: &str, tried: &str, mode: &str, sidecar: impl Fn(Sidecar) -> Sidecar) {
    let peer = Peer::impostor("evil-dc", &[&format!("--sealed={mode}")]);
    let cost = row(name, tried, sidecar(peer.sidecar()), || peer.count("sealed") > 0);
    assert_no_ticket(&cost);
}

macro_rules! sealed {
    ($($name:ident: $tried:literal, $mode:literal;)*) => {
        $(#[test]
        fn $name() {
            sealed(stringify!($name), $tried, $mode, |sidecar| sidecar);
        })*
    };
}

sealed! {
    sealed_entries: "search entries without an end, after the bind", "entries";
    sealed_tiny: "one message of 1 MB of tiny elements, after the bind", "tiny=1000000";
    sealed_values: "one entry with 500,000 empty values, after the bind", "values=500000";
    sealed_long: "entries of 1 MB each, after the bind", "long=1000000";
    sealed_longest: "entries as long as is allowed, after the bind", "long=250000";
    sealed_readers: "50,000 accounts that may read the password", "readers=50000";
    sealed_readers_most: "as many as an answer holds", "readers=6500";
    sealed_frame: "a sealed frame of 4 GiB", "frame";
    sealed_frames: "sealed frames of one octet, without an end", "frames";
    sealed_blob: "a managed password of 900 KB", "blob=900000";
    sealed_blob_longest: "a managed password as long as is allowed", "blob=250000";
    sealed_tiny_longest: "a message as long as is allowed, of tiny elements, after the bind", "tiny=250000";
    sealed_silence: "nothing, after the bind", "silence";
}

/// The same with ten leases.
fn ten(sidecar: Sidecar) -> Sidecar {
    let specs: Vec<_> =
        (0..10).map(|at| cred_spec(&format!("Hostile{at}"), lab("LAB_DOMAIN"), &secret_arn("gmsa/login"))).collect();
    let folder = sidecar.volume.path().join(".specs");
    std::fs::create_dir(&folder).unwrap();
    let path = |at: usize| folder.join(format!("{at}.json"));
    specs.iter().enumerate().for_each(|(at, spec)| crate::support::write(&path(at), spec));
    let references: Vec<_> = (0..10).map(|at| format!("file://{}", path(at).display())).collect();
    sidecar.with("GMSA_CREDENTIAL_SPECS", &references.join(" "))
}

#[test]
fn ten_leases_ldap_entries() {
    let peer = Peer::domain(&controllers(), &["--ldap=entries"]);
    row("ten_leases_ldap_entries", "search entries without an end, to ten leases", ten(peer.sidecar()), || {
        peer.count("ldap-request") > 0
    });
}

#[test]
fn ten_leases_sealed_values() {
    sealed("ten_leases_sealed_values", "one entry with 500,000 empty values, to ten leases", "values=500000", ten);
}

#[test]
fn ten_leases_sealed_long() {
    sealed("ten_leases_sealed_long", "entries of 1 MB each, to ten leases", "long=1000000", ten);
}

#[test]
fn ten_leases_sealed_longest() {
    sealed("ten_leases_sealed_longest", "entries as long as is allowed, to ten leases", "long=250000", ten);
}

#[test]
fn ten_leases_controllers() {
    let peer = Peer::domain(&controllers(), &["--dns=srv=2500"]);
    row("ten_leases_controllers", "2,500 domain controllers, to ten leases", ten(peer.sidecar()), || {
        peer.count("dns") > 0
    });
}

/// Names by the hundred, and behind each a server that answers and that no KDC knows.
#[test]
fn dns_crowd() {
    let names = "--dns=crowd=256";
    let peer = Peer::impostor("evil", &[names]);
    let cost = row("dns_crowd", "256 controllers, of which each is an impostor", peer.sidecar(), || {
        peer.count("ldap-request") > 40
    });
    assert_no_ticket(&cost);
}

/// 50 KB of `/ready` were that.
#[test]
fn a_fault_names_five_controllers_at_most() {
    let peer = Peer::domain(&controllers(), &["--dns=srv=400"]);
    let sidecar = peer.sidecar();
    let running = sidecar.run();
    let fault = || sidecar.http("GET", "/ready").filter(|(_, body)| body.contains("\"code\":\"dc-"));
    running.wait("the fault", || fault().is_some());
    let (_, body) = fault().unwrap();
    assert!(body.len() < 4096, "{} octets: {body}", body.len());
    let named = body.matches("dc00").count();
    assert!((1..=12).contains(&named), "{named} controllers are named: {body}");
}

/// Where an HTTP server is asked.
#[derive(Clone, Copy)]
enum Asked {
    S3,
    S3List,
    Secrets,
    Ssm,
    Ecs,
    Metadata,
    /// The metadata, and everything else.
    Task,
    Credentials,
}

impl Asked {
    fn sidecar(self, peer: &Peer, row: &str) -> Sidecar {
        let url = format!("http://{}:5000", peer.address);
        let inline = || Sidecar::inline("WebApp01", "gmsa/login");
        let in_task = |metadata: &str| Sidecar::new().with("ECS_CONTAINER_METADATA_URI_V4", metadata);
        match self {
            Self::S3 => Sidecar::of("webapp01.json").with("AWS_ENDPOINT_URL_S3", &url),
            Self::S3List => {
                Sidecar::new().with("GMSA_CREDENTIAL_SPECS", "s3://gmsa-specs/list/").with("AWS_ENDPOINT_URL_S3", &url)
            }
            Self::Secrets => inline().with("AWS_ENDPOINT_URL_SECRETS_MANAGER", &url),
            Self::Ssm => {
                let account = lab("LAB_AWS_ACCOUNT");
                let arn = format!("arn:aws:ssm:{}:{account}:parameter/gmsa/webapp01", lab("LAB_AWS_REGION"));
                Sidecar::new().with("GMSA_CREDENTIAL_SPECS", &arn).with("AWS_ENDPOINT_URL_SSM", &url)
            }
            Self::Ecs => {
                let (container, document) = documents();
                in_task(&task(&format!("hostile-{row}"), &container, &document)).with("AWS_ENDPOINT_URL_ECS", &url)
            }
            Self::Metadata => in_task(&format!("{url}/v4/hostile")),
            Self::Task => in_task(&format!("{url}/v4/hostile")).with("AWS_ENDPOINT_URL", &url),
            Self::Credentials => inline()
                .without("AWS_ACCESS_KEY_ID")
                .without("AWS_SECRET_ACCESS_KEY")
                .with("AWS_CONTAINER_CREDENTIALS_FULL_URI", &format!("{url}/credentials")),
        }
    }
}

fn web(name: &str, tried: &str, asked: Asked, mode: &str) {
    let peer = Peer::http(mode, &[]);
    let cost = row(name, tried, asked.sidecar(&peer, name), || peer.count("http") > 0);
    assert_no_ticket(&cost);
}

macro_rules! web {
    ($($name:ident: $tried:literal, $asked:ident, $mode:literal;)*) => {
        $(#[test]
        fn $name() {
            web(stringify!($name), $tried, Asked::$asked, $mode);
        })*
    };
}

web! {
    secrets_body: "a body without an end", Secrets, "body";
    secrets_error_body: "an error without an end", Secrets, "error-body";
    secrets_large: "a body of 100 MB", Secrets, "large=100000000";
    secrets_chunks: "chunks without an end", Secrets, "chunks";
    secrets_chunk_size: "a chunk of 2^64 octets", Secrets, "chunk-size";
    secrets_chunk_drip: "a chunk in a tenth of a second", Secrets, "chunk-drip";
    secrets_drip: "an octet in a tenth of a second", Secrets, "drip";
    secrets_head_drip: "a head, an octet in a tenth of a second", Secrets, "head-drip";
    secrets_headers: "headers without an end", Secrets, "headers";
    secrets_line: "one header without an end", Secrets, "line";
    secrets_status_line: "a status line without an end", Secrets, "status-line";
    secrets_continue: "100 Continue without an end", Secrets, "continue";
    secrets_redirect: "redirects without an end", Secrets, "redirect";
    secrets_gzip: "100 MB of zeros, compressed", Secrets, "gzip";
    secrets_garbage: "random octets", Secrets, "garbage";
    secrets_text: "an error with a text of 60,000 octets", Secrets, "text=60000";
    secrets_nested: "60,000 arrays within arrays", Secrets, "nested=60000";
    secrets_elements: "an array of 500,000 numbers", Secrets, "elements=1000000";
    secrets_maps: "an array of 142,000 objects", Secrets, "maps=1000000";
    secrets_silence: "nothing", Secrets, "silence";

    s3_body: "a body without an end", S3, "body";
    s3_error_body: "an error without an end", S3, "error-body";
    s3_headers: "headers without an end", S3, "headers";
    s3_large: "a body of 100 MB", S3, "large=100000000";
    s3_records: "a list of 90,000 empty entries", S3List, "records=1000000";
    s3_attributes: "a tag with 200,000 attributes", S3List, "attributes=1000000";
    s3_gzip: "100 MB of zeros, compressed", S3, "gzip";
    ssm_body: "a body without an end", Ssm, "body";
    ssm_error_body: "an error without an end", Ssm, "error-body";
    ssm_headers: "headers without an end", Ssm, "headers";
    ssm_elements: "an array of 500,000 numbers", Ssm, "elements=1000000";
    ecs_body: "a body without an end", Ecs, "body";
    ecs_error_body: "an error without an end", Ecs, "error-body";
    ecs_headers: "headers without an end", Ecs, "headers";
    ecs_elements: "an array of 500,000 numbers", Ecs, "elements=1000000";
    metadata_body: "a body without an end", Metadata, "body";
    metadata_error_body: "an error without an end", Metadata, "error-body";
    metadata_headers: "headers without an end", Metadata, "headers";
    metadata_elements: "an array of 450,000 numbers", Metadata, "elements=900000";
    metadata_maps: "an array of 128,000 objects", Metadata, "maps=900000";
    metadata_few_maps: "an array of 9,000 objects, in 64 KB", Metadata, "maps=65000";
    metadata_labels: "45,000 CredSpecs in one label", Metadata, "labels=900000";
    metadata_many_labels: "3,000 CredSpecs in a label of each container", Metadata, "labels=60000";
    metadata_task: "2,900 CredSpecs in one label, and no word of S3", Task, "task=2900";
    metadata_task_most: "500 CredSpecs in one label, and no word of S3", Task, "task=500";
    metadata_task_refused: "2,900 CredSpecs in one label, which S3 denies", Task, "task-refused=2900";
    metadata_task_most_refused: "500 CredSpecs in one label, which S3 denies", Task, "task-refused=500";
    metadata_nested: "900,000 arrays within arrays", Metadata, "nested=900000";
    metadata_redirect: "redirects without an end", Metadata, "redirect";
    credentials_body: "a body without an end", Credentials, "body";
    credentials_error_body: "an error without an end", Credentials, "error-body";
    credentials_headers: "headers without an end", Credentials, "headers";
    credentials_elements: "an array of 500,000 numbers", Credentials, "elements=1000000";
    credentials_drip: "an octet in a tenth of a second", Credentials, "drip";
}

/// 24,000 gMSAs that the bucket of a list names: as many as a task may have are begun, and what runs with 64 MiB goes on.
#[test]
fn metadata_task_many() {
    let peer = Peer::http("task-many=400", &[]);
    let sidecar = Asked::Task.sidecar(&peer, "metadata_task_many");
    let cost = attacked(sidecar, &Cell::new(), || peer.count("http") > 100);
    report("metadata_task_many", "a list of 400 CredSpecs with 60 gMSAs each", &cost, &baseline());
    assert!(!cost.died, "it was killed, {} KiB before", cost.peak);
    assert_eq!(cost.beats.failed, 0, "{:?}", cost.beats);
    assert!(
        cost.beats.slowest < Duration::from_secs(5) && cost.log.len() <= 128,
        "{:?}, {} lines",
        cost.beats,
        cost.log.len()
    );
    assert_no_ticket(&cost);
}

fn file(name: &str, tried: &str, path: &str, asked: Duration) -> (Cost, Cost) {
    let sidecar = Sidecar::new().with("GMSA_CREDENTIAL_SPECS", &format!("file://{path}"));
    let start = Instant::now();
    let cost = row(name, tried, sidecar, || start.elapsed() > asked);
    assert_no_ticket(&cost);
    (cost, baseline())
}

/// A thread that waits for a FIFO waits for ever: there is one for all tries, not one for each.
#[test]
fn file_fifo() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    let tries = Duration::from_secs(5);
    let (cost, honest) = file("file_fifo", "a FIFO without a writer", path.to_str().unwrap(), tries);
    assert!(cost.threads <= honest.threads + 2, "{} threads, {} with an honest file", cost.threads, honest.threads);
}

#[test]
fn file_zeros() {
    file("file_zeros", "/dev/zero", "/dev/zero", Duration::from_millis(200));
}

fn accounts(name: &str, tried: &str, count: usize) {
    let peer = Peer::domain(&controllers(), &[]);
    let mut spec: serde_json::Value =
        serde_json::from_str(&cred_spec("Many", lab("LAB_DOMAIN"), &secret_arn("gmsa/login"))).unwrap();
    let account = |at: usize| serde_json::json!({"Name": format!("a{at}"), "Scope": "x"});
    spec["ActiveDirectoryConfig"]["GroupManagedServiceAccounts"] = (0..count).map(account).collect();
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("spec.json");
    crate::support::write(&path, &spec.to_string());
    let sidecar = peer.sidecar().with("GMSA_CREDENTIAL_SPECS", &format!("file://{}", path.display()));
    let start = Instant::now();
    row(name, tried, sidecar, || start.elapsed() > Duration::from_millis(500));
}

#[test]
fn accounts_10000() {
    accounts("accounts_10000", "a CredSpec with 10,000 accounts", 10_000);
}

/// As many as 64 KiB hold.
#[test]
fn accounts_that_fit() {
    accounts("accounts_that_fit", "a CredSpec with 2,200 accounts, in 63 KB", 2_200);
}
