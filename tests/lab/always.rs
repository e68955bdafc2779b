use std::io::Write;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::{
    Sidecar, attribute, count, cred_spec, inode, lab, put_object, put_pending, put_secret, refresh, root, samba_tool,
    secret_arn, write,
};

/// A login of this test alone, with the right to read; returns its secret's ARN.
fn login(name: &str, password: &str) -> String {
    samba_tool(&["user", "create", name, password]);
    samba_tool(&["user", "setpassword", name, &format!("--newpassword={password}")]);
    samba_tool(&["group", "addmembers", lab("LAB_GROUP"), name]);
    secret(name, password)
}

/// Makes the directory count the account's failed logins, which it does where a policy could lock it.
pub fn count_failures_of(name: &str) {
    let user = attribute(name, "distinguishedName");
    let policy = format!("CN=lock-after-3,CN=Password Settings Container,CN=System,{}", lab("LAB_BASEDN"));
    let change = format!("dn: {policy}\nchangetype: modify\nadd: msDS-PSOAppliesTo\nmsDS-PSOAppliesTo: {user}\n");
    let mut modify = Command::new("ldbmodify").args(["-H", lab("LAB_SAMDB")]).stdin(Stdio::piped()).spawn().unwrap();
    modify.stdin.take().unwrap().write_all(change.as_bytes()).unwrap();
    // The account of an earlier run is there already.
    let _ = modify.wait().unwrap();
    samba_tool(&["user", "unlock", name]);
}

pub fn secret(name: &str, password: &str) -> String {
    let login = serde_json::json!({"username": name, "password": password, "domainName": lab("LAB_DOMAIN")});
    put_secret(&format!("gmsa/{name}"), &login.to_string())
}

#[test]
fn the_kept_key_serves_while_secret_and_ldap_are_gone() {
    let arn = login("svc-kept", "Kept-Passw0rd");
    let spec = cred_spec("WebApp01", lab("LAB_DOMAIN"), &arn);
    let sidecar = Sidecar::new().with("GMSA_CREDENTIAL_SPECS", &spec);
    let running = sidecar.run();
    running.wait_ready();
    // The login is of no use any more: only the kept key can renew.
    samba_tool(&["user", "disable", "svc-kept"]);
    let before = inode(&sidecar.path("krb5cc"));
    refresh(&running);
    running.wait("a new ticket", || inode(&sidecar.path("krb5cc")) != before);
    running.wait("its report", || count(&running, "lease.renewed") == 2);
    assert!(sidecar.json("/ready")["leases"][0]["fault"].is_null());
}

#[test]
fn a_password_that_rolls_leaves_no_gap() {
    let rotate = |arguments: &[&str]| {
        let output = Command::new(root().join("lab/rotate")).args(arguments).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    rotate(&["new", "Rolling"]);
    let sidecar = Sidecar::inline("Rolling", "gmsa/login").with("GMSA_DOMAIN_CONTROLLERS", lab("LAB_DC1"));
    let running = sidecar.run();
    running.wait_ready();
    let works = || {
        let service = format!("postgres/{}", lab("LAB_DB"));
        // Into a cache of its own, so that each time the ticket itself is used.
        sidecar.app(0, &["sh", "-c", "cp $KRB5CCNAME $HOME/copy && KRB5CCNAME=$HOME/copy kvno $0", &service]).ok();
    };
    works();
    assert_eq!(sidecar.json("/leases")["leases"][0]["kvno"], 1);
    rotate(&["Rolling"]);
    works();
    refresh(&running);
    running.wait("the new password", || sidecar.json("/leases")["leases"][0]["kvno"] == 2);
    works();
    rotate(&["del", "Rolling"]);
}

#[test]
fn a_wrong_password_is_sent_once_however_many_leases_ask() {
    let arn = login("svc-wrong", "Right-Passw0rd");
    count_failures_of("svc-wrong");
    secret("svc-wrong", "Wrong-Passw0rd");
    let spec = |account: &str, key: &str| {
        put_object(key, cred_spec(account, lab("LAB_DOMAIN"), &arn).as_bytes());
        format!("arn:aws:s3:::{}/{key}", lab("LAB_BUCKET"))
    };
    let specs = [spec("WebApp01", "wrong/1.json"), spec("WebApp-15-chars", "wrong/2.json")].join(" ");
    let sidecar = Sidecar::new().with("GMSA_CREDENTIAL_SPECS", &specs).with("GMSA_DOMAIN_CONTROLLERS", lab("LAB_DC1"));
    let running = sidecar.run();
    let refused = || {
        let leases = sidecar.json("/ready")["leases"].as_array().unwrap().clone();
        leases.len() == 2 && leases.iter().all(|lease| lease["fault"]["code"] == "ticket-login-refused")
    };
    running.wait("both refusals", || sidecar.http("GET", "/ready").is_some() && refused());
    refresh(&running);
    assert_eq!(attribute("svc-wrong", "badPwdCount"), "1");
    let attempts = |lease: &serde_json::Value| lease["attempts"].as_u64().unwrap();
    let leases = sidecar.json("/leases")["leases"].as_array().unwrap().clone();
    assert!(leases.iter().all(|lease| attempts(lease) == 1), "a refresh cut a back-off short: {leases:?}");

    // A new version is tried: here by new leases, since the old ones wait.
    drop(running);
    secret("svc-wrong", "Right-Passw0rd");
    sidecar.init().ok();
}

#[test]
fn a_rotation_of_the_secret_is_survived_while_it_is_under_way() {
    let arn = login("svc-rotating", "First-Passw0rd");
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("spec.json");
    write(&file, &cred_spec("WebApp01", lab("LAB_DOMAIN"), &arn));
    let sidecar = Sidecar::new()
        .with("GMSA_CREDENTIAL_SPECS", &format!("file://{}", file.display()))
        .with("GMSA_DOMAIN_CONTROLLERS", lab("LAB_DC1"));
    let running = sidecar.run();
    running.wait_ready();

    // AWSPENDING is there and AD has it; AWSCURRENT is still the old one.
    let second = serde_json::json!({"username": "svc-rotating", "password": "Second-Passw0rd"});
    put_pending(&arn, &second.to_string());
    samba_tool(&["user", "setpassword", "svc-rotating", "--newpassword=Second-Passw0rd"]);
    // A fresh process cannot know that a rotation is under way: it tries AWSCURRENT only.
    assert_eq!(sidecar.init_with("GMSA_LOG", "info").code, Some(77));

    // The one that logged in before tries both. Another gMSA makes it log in: the kept key is of no use to that.
    write(&file, &cred_spec("WebApp-15-chars", lab("LAB_DOMAIN"), &arn));
    running.wait("the other gMSA", || {
        let lease = &sidecar.json("/ready")["leases"][0];
        lease["account"] == "WebApp-15-chars" && lease["state"] == "held"
    });
    assert_eq!(count(&running, "secret.pending-used"), 1, "{}", running.text());
}

#[test]
fn a_dc_that_hangs_costs_its_deadline_once() {
    // A DC that takes connections and says nothing, as a stopped process does.
    let kdc = TcpListener::bind((lab("LAB_DB_IP"), 88)).unwrap();
    let ldap = TcpListener::bind((lab("LAB_DB_IP"), 389)).unwrap();
    let sidecar =
        Sidecar::of("webapp01.json").with("GMSA_DOMAIN_CONTROLLERS", &format!("{} {}", lab("LAB_DB"), lab("LAB_DC1")));
    let running = sidecar.run();
    running.wait_ready();
    let failed = count(&running, "dc.failed");
    assert!((1..=2).contains(&failed), "its KDC, perhaps its LDAP: {}", running.text());
    let took = running.log().iter().find_map(|line| line["took_ms"].as_u64()).unwrap();
    println!("ready after {took} ms beside a DC that hangs");
    refresh(&running);
    running.wait("a renewal", || count(&running, "lease.renewed") == 2);
    assert_eq!(count(&running, "dc.failed"), failed, "the DC in trouble was asked again: {}", running.text());
    drop((kdc, ldap));
}

#[test]
fn a_cache_that_somebody_spoils_is_put_back() {
    let sidecar = Sidecar::of("webapp01.json");
    let running = sidecar.run();
    running.wait_ready();
    let path = sidecar.path("krb5cc");
    let good = std::fs::read(&path).unwrap();
    let restored = |times: usize| {
        running.wait("the cache", || std::fs::read(&path).is_ok_and(|bytes| bytes == good));
        // Each file is reported once in ten seconds.
        running.wait("its report", || count(&running, "volume.restored") >= times.min(1));
    };
    std::fs::remove_file(&path).unwrap();
    restored(1);
    write(&path, "");
    restored(2);
    write(&path, "FILE of somebody else");
    restored(3);
    std::fs::remove_dir_all(sidecar.path("WebApp01")).unwrap();
    running.wait("the folder", || sidecar.path("WebApp01/krb5cc").exists());
    restored(4);

    // What a client adds is its own business, until the next renewal.
    let service = format!("postgres/{}", lab("LAB_DB"));
    sidecar.app(0, &["kvno", &service]).ok();
    let grown = std::fs::read(&path).unwrap();
    assert!(grown.len() > good.len() && grown.starts_with(&good));
    std::fs::remove_file(sidecar.path("krb5.conf")).unwrap();
    running.wait("krb5.conf", || sidecar.path("krb5.conf").exists());
    running.wait("its report", || running.text().contains(&sidecar.path("krb5.conf").display().to_string()));
    assert_eq!(std::fs::read(&path).unwrap(), grown);
}

#[test]
fn a_full_disk_keeps_the_old_ticket_and_heals() {
    let sidecar = Sidecar::of("webapp01.json");
    let mount = |arguments: &[&str]| {
        let status = Command::new("mount").args(arguments).arg(sidecar.volume.path()).status().unwrap();
        assert!(status.success());
    };
    mount(&["-t", "tmpfs", "-o", "size=64k,mode=0755", "tmpfs"]);
    let _unmount = Unmount(sidecar.volume.path());
    let running = sidecar.run();
    running.wait_ready();
    let before = std::fs::read(sidecar.path("krb5cc")).unwrap();
    let filler = sidecar.path("filler");
    let fill = Command::new("dd").args(["if=/dev/zero", "bs=4096"]).arg(format!("of={}", filler.display())).output();
    assert!(!fill.unwrap().status.success(), "the disk is not full");
    refresh(&running);
    running.wait_fault("volume-write-failed");
    assert_eq!(std::fs::read(sidecar.path("krb5cc")).unwrap(), before);
    assert_eq!(sidecar.http("GET", "/ready").unwrap().0, 200, "the old ticket is good");
    std::fs::remove_file(filler).unwrap();
    running.wait("the new ticket", || std::fs::read(sidecar.path("krb5cc")).is_ok_and(|bytes| bytes != before));
    running.wait("the end of the fault", || sidecar.json("/ready")["leases"][0]["fault"].is_null());
}

struct Unmount<'a>(&'a Path);

impl Drop for Unmount<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-l"]).arg(self.0).status();
    }
}

#[test]
fn a_credspec_that_changes_is_followed_and_a_broken_one_is_not() {
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("spec.json");
    let arn = secret_arn("gmsa/login");
    write(&file, &cred_spec("WebApp01", lab("LAB_DOMAIN"), &arn));
    let sidecar = Sidecar::new().with("GMSA_CREDENTIAL_SPECS", &format!("file://{}", file.display()));
    let running = sidecar.run();
    running.wait_ready();
    write(&file, "{ broken");
    running.wait_fault("credspec-malformed");
    assert_eq!(sidecar.http("GET", "/ready").unwrap().0, 200);
    write(&file, &cred_spec("WebApp02", lab("LAB_DOMAIN"), &arn));
    running.wait("the other gMSA", || {
        let lease = &sidecar.json("/ready")["leases"][0];
        lease["account"] == "WebApp02" && lease["state"] == "held"
    });
    let listed = sidecar.app(0, &["klist"]).ok();
    assert!(listed.contains("WebApp02$@EXAMPLE.COM"), "{listed}");
}

#[test]
fn an_object_that_is_replaced_is_picked_up_at_a_refresh() {
    let arn = secret_arn("gmsa/login");
    put_object("changing.json", cred_spec("WebApp01", lab("LAB_DOMAIN"), &arn).as_bytes());
    let sidecar = Sidecar::of("changing.json");
    let running = sidecar.run();
    running.wait_ready();
    put_object("changing.json", cred_spec("WebApp-15-chars", lab("LAB_DOMAIN"), &arn).as_bytes());
    running.signal("HUP");
    running.wait("the other gMSA", || {
        let lease = &sidecar.json("/ready")["leases"][0];
        lease["account"] == "WebApp-15-chars" && lease["state"] == "held"
    });
}

#[test]
fn after_a_kill_the_next_start_is_ready_from_the_volume() {
    let sidecar = Sidecar::of("webapp01.json");
    let mut running = sidecar.run();
    running.wait_ready();
    running.signal("KILL");
    running.wait_end();
    let again = sidecar.run();
    again.wait_ready();
    assert_eq!(count(&again, "lease.warm"), 1, "{}", again.text());
    let leftovers = sidecar.files().iter().any(|path| path.to_string_lossy().contains(".gmsa-"));
    assert!(!leftovers);
}
