//! The daemon over a keeper without a directory, on a clock that runs by itself.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use tempfile::TempDir;
use tokio::time::Instant;
use tonic::Code as Grpc;
use zeroize::Zeroizing;

use super::document::sample;
use super::{AwsKeys, Daemon, Duty, Given, Got, Health, Host, Keeper, LeaseId, Login, Mounts, Need, Place};
use super::{Granted, Refused};
use crate::clock;
use crate::fault::{Code, Fault};

include!("../../tests/host/fake.rs");

struct Lab {
    /// Holds the folder.
    folder: TempDir,
    daemon: Arc<Daemon<Fake>>,
}

impl Lab {
    async fn new() -> Self {
        Self::with(Host::default()).await
    }

    async fn with(host: Host) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let daemon = start(folder.path(), host).await;
        Self { folder, daemon }
    }

    /// As after kill -9.
    async fn restart(&mut self) {
        self.daemon = start(self.folder.path(), Host::default()).await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.daemon.keeper.state()
    }

    async fn add(&self, accounts: &[&str], password: &str) -> Result<Granted, Refused> {
        self.daemon.add_domainless(&specs(accounts), given("svc", password), soon()).await
    }

    async fn renew(&self, user: &str, password: &str) -> Result<Vec<PathBuf>, Refused> {
        self.daemon.renew(given(user, password), None, soon()).await
    }

    /// All files and folders, by their paths below the folder that is shared and the private one.
    fn all(&self) -> Vec<String> {
        fn walk(path: &Path, found: &mut Vec<String>) {
            for entry in fs::read_dir(path).unwrap().flatten() {
                found.push(entry.path().display().to_string());
                if entry.path().is_dir() {
                    walk(&entry.path(), found);
                }
            }
        }
        let mut found = Vec::new();
        walk(self.folder.path(), &mut found);
        let root = format!("{}/", self.folder.path().display());
        let mut found: Vec<_> = found.iter().map(|path| path.replace(&root, "")).collect();
        found.sort();
        found
    }

    fn need(&self, need: Need) {
        self.state().kept.values_mut().for_each(|kept| kept.need = need);
    }

    fn metadata(&self, id: &LeaseId) -> serde_json::Value {
        let path = self.folder.path().join(format!("krbdir/{id}/{id}_metadata.json"));
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
    }
}

async fn start(folder: &Path, host: Host) -> Arc<Daemon<Fake>> {
    Daemon::start(folder.join("krbdir"), host, Fake::default()).await.unwrap()
}

fn specs(accounts: &[&str]) -> Vec<String> {
    accounts.iter().map(|account| sample(account, account)).collect()
}

fn given(user: &str, password: &str) -> Given {
    let password = Zeroizing::new(password.to_owned());
    let domain = "example.com".parse().unwrap();
    Given { name: super::LoginName::new(user, &domain).unwrap(), password, domain }
}

fn keys() -> AwsKeys {
    let text = |text: &str| Zeroizing::new(text.to_owned());
    AwsKeys { access_key_id: "A".into(), secret_access_key: text("s"), session_token: text("t"), region: "eu-1".into() }
}

fn soon() -> Instant {
    Instant::now() + super::grpc::BUDGET
}

/// What lies there when there is no lease.
const NOTHING: [&str; 3] = ["gmsa-sidecar", "gmsa-sidecar/.gmsa-host", "krbdir"];

#[tokio::test(start_paused = true)]
async fn a_lease_lies_where_and_as_credentials_fetcher_would_put_it() {
    let lab = Lab::new().await;
    let Granted { lease, folders } = lab.add(&["WebApp01"], "right").await.unwrap();
    let root = fs::canonicalize(lab.folder.path()).unwrap();
    assert_eq!(folders, [root.join(format!("krbdir/{lease}/WebApp01"))]);
    assert_eq!(fs::read(folders[0].join("krb5cc")).unwrap(), b"WebApp01");
    let mode = |path: &Path| std::os::unix::fs::MetadataExt::mode(&fs::metadata(path).unwrap()) & 0o7777;
    assert_eq!(mode(&folders[0]), 0o755);
    assert_eq!(mode(&root.join(format!("krbdir/{lease}/{lease}_metadata.json"))), 0o644);
    assert_eq!(mode(&root.join("gmsa-sidecar")), 0o700);
    let metadata = lab.metadata(&lease);
    assert_eq!(
        metadata,
        serde_json::json!({"krb_ticket_info": [{
            "krb_file_path": folders[0].join("krb5cc").display().to_string(),
            "service_account_name": "WebApp01",
            "domain_name": "example.com",
            "domainless_user": "svc",
            "distinguished_name": "CN=x",
            "credspec_info": "",
        }]})
    );
    let all = lab.all();
    for path in &all {
        let path = lab.folder.path().join(path);
        assert!(!path.is_file() || !String::from_utf8_lossy(&fs::read(&path).unwrap()).contains("right"), "{path:?}");
    }
    let deleted = lab.daemon.delete(lease.clone()).await.unwrap();
    assert_eq!(deleted, folders);
    assert_eq!(lab.daemon.delete(lease).await.unwrap(), Vec::<PathBuf>::new(), "deleted already");
    assert_eq!(lab.all(), NOTHING);
    assert!(lab.state().kept.is_empty());
}

#[tokio::test(start_paused = true)]
async fn of_a_call_that_fails_nothing_stays() {
    let lab = Lab::new().await;
    for (accounts, password, status) in [
        (&["Nobody"][..], "right", Grpc::NotFound),
        (&["WebApp01"], "wrong", Grpc::Unauthenticated),
        (&["Denied"], "right", Grpc::PermissionDenied),
        (&["Held"], "right", Grpc::FailedPrecondition),
        (&["Down"], "right", Grpc::Unavailable),
        (&["WebApp01", "Down"], "right", Grpc::Unavailable),
        (&[], "right", Grpc::InvalidArgument),
        (&["../x"], "right", Grpc::InvalidArgument),
        (&["WebApp01"; 65], "right", Grpc::InvalidArgument),
    ] {
        let before = lab.state().logins;
        let refused = lab.add(accounts, password).await.unwrap_err();
        assert_eq!(refused.grpc(), status, "{accounts:?}: {}", refused.text());
        assert!(lab.state().logins - before <= accounts.len());
        assert_eq!(lab.all(), NOTHING, "{accounts:?}");
    }
    assert_eq!(lab.daemon.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_directory_that_hangs_is_answered_for_in_time_and_holds_nobody_up() {
    let lab = Lab::new().await;
    let begun = Instant::now();
    let hung = tokio::spawn({
        let daemon = Arc::clone(&lab.daemon);
        async move { daemon.add_domainless(&specs(&["Hang01"]), given("svc", "right"), soon()).await }
    });
    tokio::task::yield_now().await;
    lab.add(&["WebApp01"], "right").await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(1));
    let refused = hung.await.unwrap().unwrap_err();
    assert_eq!((refused.grpc(), begun.elapsed().as_secs()), (Grpc::Unavailable, 18));
    assert!(refused.text().starts_with("task-host-timeout: "), "{}", refused.text());
    assert_eq!(lab.daemon.len(), 1);
    assert!(!lab.all().iter().any(|path| path.contains("Hang")));
}

#[tokio::test(start_paused = true)]
async fn of_a_call_whose_caller_goes_nothing_stays() {
    let lab = Lab::new().await;
    for pause in [0, 1, 500, 999] {
        let call = lab.daemon.add_domainless(&specs(&["Slow01"])[..], given("svc", "right"), soon()).await;
        lab.daemon.delete(call.unwrap().lease).await.unwrap();
        let specs = specs(&["Slow01"]);
        let call = lab.daemon.add_domainless(&specs, given("svc", "right"), soon());
        assert!(tokio::time::timeout(Duration::from_millis(pause), call).await.is_err());
        // Its undoing runs by itself.
        for _ in 0..1000 {
            if lab.all() == NOTHING && lab.state().kept.is_empty() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(lab.all(), NOTHING, "gone after {pause} ms");
        assert_eq!(lab.daemon.len(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_joined_host_gets_one_lease_with_one_folder_for_each_account() {
    let lab = Lab::new().await;
    let specs = [sample("WebApp01", "WEBAPP01"), sample("webapp01", "WEBAPP01"), sample("WebApp02", "WebApp02")];
    let Granted { lease, folders } = lab.daemon.add_joined(&specs, soon()).await.unwrap();
    let names: Vec<_> = folders.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(names, ["WEBAPP01", "WebApp02"]);
    assert_eq!(lab.metadata(&lease)["krb_ticket_info"][1]["domainless_user"], "");
    // The agent would find both in one folder.
    let twice = [sample("WebApp01", "Host"), sample("WebApp02", "HOST")];
    let refused = lab.daemon.add_joined(&twice, soon()).await.unwrap_err();
    assert_eq!(refused.grpc(), Grpc::InvalidArgument);

    let mixed = Lab::with(Host { secret: Some("gmsa/login".into()), ..Host::default() }).await;
    let lease = mixed.daemon.add_joined(&specs, soon()).await.unwrap().lease;
    let user = mixed.metadata(&lease)["krb_ticket_info"][0]["domainless_user"].clone();
    assert_eq!(user, "awsdomainlessusersecret:gmsa/login");
    assert_eq!(mixed.renew("svc", "right").await.unwrap(), Vec::<PathBuf>::new(), "not of that login");
}

#[tokio::test(start_paused = true)]
async fn a_renewal_asks_nobody_while_tickets_are_fresh() {
    let lab = Lab::new().await;
    assert_eq!(lab.renew("svc", "right").await.unwrap(), Vec::<PathBuf>::new(), "a login without leases");
    let folders = lab.add(&["WebApp01"], "right").await.unwrap().folders;
    let logins = lab.state().logins;
    assert_eq!(lab.renew("SVC", "right").await.unwrap(), folders);
    assert_eq!(lab.renew("other", "right").await.unwrap(), Vec::<PathBuf>::new());
    assert_eq!(lab.state().logins, logins);
}

#[tokio::test(start_paused = true)]
async fn many_renewals_with_one_password_are_one() {
    let lab = Lab::new().await;
    for _ in 0..50 {
        lab.add(&["Slow01"], "right").await.unwrap();
    }
    lab.need(Need::Now);
    let before = lab.state().logins;
    let calls = (0..50).map(|_| lab.renew("svc", "right"));
    for paths in futures_util::future::join_all(calls).await {
        assert_eq!(paths.unwrap().len(), 50);
    }
    assert_eq!(lab.state().logins - before, 1);
    // A wrong password is another renewal; it waits for its turn and fails alone.
    lab.need(Need::Now);
    let (good, bad) = tokio::join!(lab.renew("svc", "right"), lab.renew("svc", "wrong"));
    assert_eq!((good.is_ok(), bad.is_ok()), (true, true), "nothing is due any more when its turn comes");
    lab.need(Need::Now);
    let bad = lab.renew("svc", "wrong").await.unwrap_err();
    assert_eq!(bad.grpc(), Grpc::Unauthenticated);
}

#[tokio::test(start_paused = true)]
async fn what_is_good_for_a_while_is_renewed_in_the_background() {
    let lab = Lab::new().await;
    lab.add(&["Slow01"], "right").await.unwrap();
    lab.need(Need::Soon);
    let (begun, before) = (Instant::now(), lab.state().logins);
    lab.renew("svc", "right").await.unwrap();
    assert!(begun.elapsed() < Duration::from_millis(50));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(lab.state().logins - before, 1);
    assert_eq!(lab.state().kept.values().next().unwrap().need, Need::Nothing);
}

#[tokio::test(start_paused = true)]
async fn a_renewal_fails_only_if_something_ends_before_the_next_one() {
    let lab = Lab::new().await;
    let lease = lab.add(&["WebApp01"], "right").await.unwrap().lease;
    let place = Place { lease, folder: "WebApp01".parse().unwrap() };
    let ends_in = |minutes: u64| {
        let mut state = lab.state();
        let kept = state.kept.get_mut(&place).unwrap();
        kept.duty.account = "Down".parse().unwrap();
        kept.need = Need::Now;
        kept.expires_at = Some(clock::now() + Duration::from_secs(60 * minutes));
    };
    ends_in(300);
    assert!(lab.renew("svc", "right").await.is_ok());
    ends_in(30);
    assert_eq!(lab.renew("svc", "right").await.unwrap_err().grpc(), Grpc::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn a_login_may_change_its_name() {
    let mut lab = Lab::new().await;
    let folders = lab.add(&["WebApp01"], "right").await.unwrap();
    let user = |lab: &Lab| lab.metadata(&folders.lease)["krb_ticket_info"][0]["domainless_user"].clone();
    assert_eq!(lab.renew("svc:svc-new", "wrong").await.unwrap(), folders.folders, "it answers at once, and tries");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(user(&lab), "svc", "the new name was refused");
    lab.renew("svc:svc-new", "right").await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(user(&lab), "svc-new");
    lab.restart().await;
    assert_eq!(lab.renew("svc-new", "right").await.unwrap(), folders.folders);
    assert_eq!(lab.renew("svc", "right").await.unwrap(), Vec::<PathBuf>::new());
    // In a new lease the secret's text is as it is.
    let added = lab.daemon.add_domainless(&specs(&["WebApp02"]), given("a:b", "right"), soon()).await.unwrap();
    assert_eq!(lab.metadata(&added.lease)["krb_ticket_info"][0]["domainless_user"], "b");
}

#[tokio::test(start_paused = true)]
async fn leases_outlive_the_process_with_all_that_was_asked_for() {
    let mut lab = Lab::new().await;
    let mut spec: serde_json::Value = serde_json::from_str(&sample("WebApp01", "WebApp01")).unwrap();
    spec["GmsaSidecar"] = serde_json::json!({"Owner": ":1654", "Mode": "0640", "Keytab": true,
        "ServiceTickets": ["HTTP/web.example.com"]});
    let granted = lab.daemon.add_domainless(&[spec.to_string()], given("svc", "right"), soon()).await.unwrap();
    let joined = lab.daemon.add_joined(&specs(&["WebApp02"]), soon()).await.unwrap();
    let duties: Vec<_> = lab.state().kept.values().map(|kept| kept.duty.clone()).collect();
    // A call that was under way.
    fs::create_dir_all(lab.folder.path().join("krbdir/0123/Half01")).unwrap();
    fs::create_dir_all(lab.folder.path().join("gmsa-sidecar/0123/Half01")).unwrap();
    lab.restart().await;
    let resumed: Vec<_> = lab.state().kept.values().map(|kept| kept.duty.clone()).collect();
    assert_eq!(resumed, duties);
    let login = |id: &LeaseId| lab.state().resumed.iter().find(|(place, _)| place.lease == *id).unwrap().1.clone();
    assert_eq!((login(&granted.lease), login(&joined.lease)), (None, Some(Login::Host)));
    assert!(!lab.all().iter().any(|path| path.contains("0123")));
    assert_eq!(lab.renew("svc", "right").await.unwrap(), granted.folders);
    for lease in [granted.lease, joined.lease] {
        assert_eq!(lab.daemon.delete(lease).await.unwrap().len(), 1);
    }
    assert_eq!(lab.all(), NOTHING);
}

/// A tree as credentials-fetcher leaves it.
#[expect(clippy::disallowed_methods, reason = "a test plants files")]
fn plant(folder: &Path, id: &str, metadata: &str) {
    let lease = folder.join("krbdir").join(id);
    fs::create_dir_all(lease.join("WebApp01")).unwrap();
    fs::write(lease.join("WebApp01/krb5cc"), "theirs").unwrap();
    let root = fs::canonicalize(folder).unwrap();
    let text = metadata.replace("ROOT", &root.join("krbdir").display().to_string());
    fs::write(lease.join(format!("{id}_metadata.json")), text).unwrap();
}

#[tokio::test(start_paused = true)]
async fn leases_of_credentials_fetcher_are_adopted() {
    let mut lab = Lab::new().await;
    let entry = |path: &str| {
        format!(
            r#"{{"krb_file_path":"{path}","service_account_name":"WebApp01","domain_name":"example.com",
            "domainless_user":"svc","distinguished_name":"CN=WebApp01","credspec_info":"","credential_arn":"x"}}"#
        )
    };
    let id = "7f3a9c0d1e2b4a5f6c7d";
    let good = format!(r#"{{"krb_ticket_info":[{}]}}"#, entry(&format!("ROOT/{id}/WebApp01/krb5cc")));
    plant(lab.folder.path(), id, &good);
    plant(lab.folder.path(), "early", &format!("[{}]", entry("ROOT/early/WebApp01/krb5cc")));
    // Each of these could make us write or delete elsewhere.
    for (id, path) in [
        ("evil1", "/etc/passwd"),
        ("evil2", "ROOT/evil2/../../WebApp01/krb5cc"),
        ("evil3", "ROOT/early/WebApp01/krb5cc"),
        ("evil4", "ROOT/evil4/WebApp01/other"),
    ] {
        plant(lab.folder.path(), id, &format!(r#"{{"krb_ticket_info":[{}]}}"#, entry(path)));
    }
    plant(lab.folder.path(), "broken", "{");
    lab.restart().await;
    let kept: Vec<_> = lab.state().kept.keys().map(|place| place.lease.to_string()).collect();
    assert_eq!(kept, [id, "early"]);
    assert_eq!(lab.renew("svc", "right").await.unwrap().len(), 2);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let metadata = lab.metadata(&id.parse().unwrap());
    assert_eq!(metadata["krb_ticket_info"][0]["distinguished_name"], "CN=WebApp01", "what they wrote is kept");
    // Every id is honoured, whatever could be made of it.
    for id in [id, "early", "evil1", "evil2", "evil3", "evil4", "broken"] {
        lab.daemon.delete(id.parse().unwrap()).await.unwrap();
    }
    assert_eq!(lab.all(), NOTHING);
    assert!(Path::new("/etc/passwd").exists());
}

#[tokio::test(start_paused = true)]
async fn leases_by_arn_lie_where_the_caller_says() {
    let lab = Lab::new().await;
    let arns = ["arn:aws:s3:::b/WebApp01.json#lease-1/App".to_owned(), "arn:aws:s3:::b/W.json#lease-1/W".to_owned()];
    let granted = lab.daemon.add_by_arn(&arns, keys(), soon()).await.unwrap();
    assert_eq!(granted.lease.as_str(), "lease-1");
    assert!(granted.folders[0].ends_with("lease-1/App") && granted.folders[1].ends_with("lease-1/W"));
    let entry = lab.metadata(&granted.lease)["krb_ticket_info"][0].clone();
    assert_eq!(entry["credspec_info"], "arn:aws:s3:::b/WebApp01.json");
    assert_eq!(entry["domainless_user"], "svc-from-secret");
    // Once more, as after an answer that was lost.
    assert_eq!(lab.daemon.add_by_arn(&arns, keys(), soon()).await.unwrap(), granted);
    for bad in [
        &[][..],
        &["arn:aws:s3:::b/WebApp01.json#lease-1/Other"],
        &["arn:aws:s3:::b/WebApp01.json#l2/A", "arn:aws:s3:::b/W.json#l3/B"],
        &["arn:aws:s3:::b/WebApp01.json#l2/A", "arn:aws:s3:::b/W.json#l2/a"],
        &["arn:aws:s3:::b/WebApp01.json#../A"],
        &["arn:aws:s3:::b/WebApp01.json"],
    ] {
        let bad: Vec<_> = bad.iter().map(|arn| (*arn).to_owned()).collect();
        let refused = lab.daemon.add_by_arn(&bad, keys(), soon()).await.unwrap_err();
        assert_eq!(refused.grpc(), Grpc::InvalidArgument, "{bad:?}");
    }
    lab.need(Need::Now);
    let before = lab.state().logins;
    lab.daemon.renew_by_arn(keys(), soon()).await.unwrap();
    assert_eq!(lab.state().logins - before, 1, "both name one secret");
    assert_eq!(lab.renew("svc-from-secret", "right").await.unwrap(), Vec::<PathBuf>::new());
    lab.daemon.delete(granted.lease).await.unwrap();
    assert_eq!(lab.all(), NOTHING);
}

#[tokio::test(start_paused = true)]
async fn orphans_are_removed_after_a_day_without_a_mount() {
    let lab = Lab::new().await;
    let used = lab.add(&["WebApp01"], "right").await.unwrap();
    let orphan = lab.add(&["WebApp02"], "right").await.unwrap();
    let own = "22 1 259:1 / / rw - xfs /dev/nvme0n1p1 rw\n";
    let container = format!("500 400 259:1 {} /x ro - xfs /dev/nvme0n1p1 rw\n", used.folders[0].display());
    let mounts = Mounts::of(own, &[own, &container]);
    let now = clock::now();
    let hours = |hours: u64| now + Duration::from_secs(3600 * hours);
    assert_eq!(lab.daemon.sweep(&mounts, hours(3)).await, 0);
    assert_eq!(lab.daemon.sweep(&mounts, hours(23)).await, 0);
    assert_eq!(lab.daemon.sweep(&mounts, hours(25)).await, 0, "not at first sight");
    assert_eq!(lab.daemon.sweep(&mounts, hours(25)).await, 1);
    assert_eq!(lab.daemon.len(), 1);
    assert_eq!(lab.daemon.delete(orphan.lease).await.unwrap(), Vec::<PathBuf>::new());
    // The day begins anew when a container is gone.
    let none = Mounts::of(own, &[own]);
    assert_eq!(lab.daemon.sweep(&none, hours(26)).await, 0);
    assert_eq!(lab.daemon.sweep(&none, hours(48)).await, 0);
    assert_eq!(lab.daemon.sweep(&none, hours(50)).await + lab.daemon.sweep(&none, hours(50)).await, 1);
    assert_eq!(lab.all(), NOTHING);
}

#[tokio::test(start_paused = true)]
async fn a_host_has_so_many_leases_and_no_more() {
    let lab = Lab::new().await;
    let calls = (0..64).map(|_| lab.add(&["WebApp01"], "right"));
    let all = futures_util::future::join_all(calls).await;
    assert!(all.iter().all(Result::is_ok));
    let ids: std::collections::HashSet<_> = all.into_iter().map(|granted| granted.unwrap().lease).collect();
    assert_eq!((ids.len(), lab.daemon.len()), (64, 64));
}
