use std::os::unix::fs::{MetadataExt, PermissionsExt};

use crate::support::{Sidecar, lab, write};

/// The recommended form: the sidecar writes for the app's group, the app reads and cannot write.
fn with_a_ticket() -> Sidecar {
    let sidecar = Sidecar::of("webapp01.json").with("GMSA_OWNER", "65532:1654").with("GMSA_MODE", "0640");
    sidecar.init().ok();
    sidecar
}

const APP: u32 = 1654;

#[test]
fn mit_klist_and_kvno_use_the_cache() {
    let sidecar = with_a_ticket();
    let listed = sidecar.app(APP, &["klist", "-ef"]).ok();
    assert!(listed.contains("Default principal: WebApp01$@EXAMPLE.COM"), "{listed}");
    assert!(listed.contains("krbtgt/EXAMPLE.COM@EXAMPLE.COM"), "{listed}");
    let flags = listed.lines().find_map(|line| line.split_once("Flags: ")).unwrap().1;
    for (flag, what, expected) in [('F', "forwardable", true), ('I', "initial", true), ('R', "renewable", false)] {
        assert_eq!(flags.split(',').next().unwrap().contains(flag), expected, "{what}: {listed}");
    }
    assert!(!listed.contains("renew until"), "{listed}");
    let renewed = sidecar.app(APP, &["kinit", "-R"]);
    assert_ne!(renewed.code, Some(0), "whoever takes the ticket must not keep it alive: {renewed:?}");
    assert!(listed.contains("aes256-cts-hmac-sha1-96"), "{listed}");
    let service = format!("postgres/{}", lab("LAB_DB"));
    let ticket = sidecar.app(APP, &["kvno", &service]).ok();
    assert!(ticket.contains("kvno = "), "{ticket}");
}

#[test]
fn postgresql_sees_the_gmsa() {
    let sidecar = with_a_ticket();
    let database = format!("host={} user='WebApp01$@EXAMPLE.COM' dbname=app gssencmode=require", lab("LAB_DB"));
    let query = "SELECT current_user, principal, encrypted FROM pg_stat_gssapi WHERE pid = pg_backend_pid()";
    let seen = sidecar.app(APP, &["psql", &database, "-tAc", query]).ok();
    assert_eq!(seen.trim(), "WebApp01$@EXAMPLE.COM|WebApp01$@EXAMPLE.COM|t");
}

#[test]
fn the_directory_and_a_share_see_the_gmsa() {
    let sidecar = with_a_ticket();
    let directory = format!("ldap://{}", lab("LAB_DC1"));
    let who = sidecar.app(APP, &["ldapwhoami", "-Q", "-Y", "GSSAPI", "-H", &directory]).ok();
    assert_eq!(who.trim(), "u:EXAMPLE\\WebApp01$");
    // Heimdal inside: it reads a cache of another owner only because krb5.conf allows it.
    let cache = format!("--use-krb5-ccache={}", sidecar.path("krb5cc").display());
    sidecar.app(APP, &["smbclient", "--configfile=/dev/null", &cache, lab("LAB_SMB"), "-c", "ls"]).ok();
}

#[test]
fn a_program_in_python_initiates_a_context() {
    let sidecar = with_a_ticket();
    let program = format!(
        "import gssapi\n\
         who = gssapi.Credentials(usage='initiate').name\n\
         service = gssapi.Name('postgres@{}', gssapi.NameType.hostbased_service)\n\
         token = gssapi.SecurityContext(name=service, usage='initiate').step()\n\
         print(who, len(token) > 1000)",
        lab("LAB_DB")
    );
    let told = sidecar.app(APP, &["/usr/bin/python3", "-c", &program]).ok();
    assert_eq!(told.trim(), "WebApp01$@EXAMPLE.COM True");
}

#[test]
fn the_volume_is_as_the_contract_says() {
    let sidecar = with_a_ticket();
    let names: Vec<_> =
        sidecar.files().iter().map(|path| path.strip_prefix(sidecar.volume.path()).unwrap().to_owned()).collect();
    assert_eq!(names, ["WebApp01/krb5cc", "krb5.conf", "krb5cc"].map(std::path::PathBuf::from));
    let seen = |name: &str| {
        let stat = std::fs::metadata(sidecar.path(name)).unwrap();
        (stat.uid(), stat.gid(), stat.permissions().mode() & 0o7777)
    };
    assert_eq!(seen("krb5cc"), (65532, 1654, 0o640));
    assert_eq!(seen("WebApp01"), (65532, 1654, 0o750));
    assert_eq!(seen("WebApp01/krb5cc"), (65532, 1654, 0o640));
    assert_eq!(seen("krb5.conf"), (65532, 1654, 0o644));
    let app = sidecar.app(APP, &["sh", "-c", "echo x > \"$KRB5CCNAME\""]);
    assert_ne!(app.code, Some(0), "the app could write to the cache");
}

#[test]
fn the_logins_own_tickets_never_reach_the_disk() {
    let sidecar = with_a_ticket();
    for path in sidecar.files() {
        let bytes = std::fs::read(&path).unwrap();
        let found = bytes.windows(lab("LAB_USER").len()).any(|window| window == lab("LAB_USER").as_bytes());
        assert!(!found, "{} names the login", path.display());
    }
}

#[test]
fn two_gmsas_get_a_folder_each_and_the_first_one_the_root() {
    let bucket = lab("LAB_BUCKET");
    let specs = format!("arn:aws:s3:::{bucket}/webapp02.json arn:aws:s3:::{bucket}/webapp01.json");
    let sidecar = Sidecar::new().with("GMSA_CREDENTIAL_SPECS", &specs);
    sidecar.init().ok();
    let default = |path: &str| {
        let path = sidecar.path(path);
        sidecar.app(0, &["klist", "-c", path.to_str().unwrap()]).ok()
    };
    assert!(default("krb5cc").contains("WebApp02$@EXAMPLE.COM"));
    assert!(default("WebApp02/krb5cc").contains("WebApp02$@EXAMPLE.COM"));
    assert!(default("WebApp01/krb5cc").contains("WebApp01$@EXAMPLE.COM"));
}

/// Managed passwords are random: most hold lone surrogates, some a newline or a NUL. All of them must work.
#[test]
fn dozens_of_random_managed_passwords_work() {
    let accounts = std::process::Command::new(crate::support::root().join("lab/accounts"));
    let made = { accounts }.args(["30", "Random"]).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let names: Vec<_> = String::from_utf8(made.stdout).unwrap().split_whitespace().map(str::to_owned).collect();
    assert_eq!(names.len(), 30);
    let folder = tempfile::TempDir::new().unwrap();
    let arn = crate::support::secret_arn("gmsa/login");
    let specs = names.iter().map(|name| {
        let path = folder.path().join(format!("{name}.json"));
        write(&path, &crate::support::cred_spec(name, lab("LAB_DOMAIN"), &arn));
        format!("file://{}", path.display())
    });
    let specs: Vec<_> = specs.collect();
    let sidecar = Sidecar::new().with("GMSA_CREDENTIAL_SPECS", &specs.join(","));
    sidecar.init().ok();
    let report = sidecar.call(&["klist", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&report.ok()).unwrap();
    let caches = report["caches"].as_array().unwrap();
    assert_eq!(caches.len(), 31, "one for each and the first one's copy: {report:#}");
    assert!(caches.iter().all(|cache| cache["valid"] == true), "{report:#}");
}
