//! The units in `packaging/`, by systemd's own eyes.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// `systemd-analyze verify` over a root that holds the units and the binary.
fn verify(service: &str) -> (bool, String) {
    let folder = tempfile::tempdir().unwrap();
    let units = folder.path().join("usr/lib/systemd/system");
    fs::create_dir_all(&units).unwrap();
    let packaging = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging");
    fs::copy(packaging.join("gmsa-host.socket"), units.join("gmsa-host.socket")).unwrap();
    fs::File::create_new(units.join("gmsa-host.service"))
        .and_then(|mut file| file.write_all(service.as_bytes()))
        .unwrap();
    for entry in fs::read_dir("/usr/lib/systemd/system").unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        if name.ends_with(".target") || name.ends_with(".slice") || name.starts_with("-.") {
            let _ = fs::copy(entry.path(), units.join(name));
        }
    }
    let binary = folder.path().join("usr/bin/gmsa-sidecar");
    fs::create_dir_all(binary.parent().unwrap()).unwrap();
    fs::File::create_new(&binary).unwrap();
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).unwrap();
    let output = Command::new("systemd-analyze")
        .arg(format!("--root={}", folder.path().display()))
        .args(["--man=no", "verify", "gmsa-host.service", "gmsa-host.socket"])
        .output()
        .expect("systemd-analyze: Debian's package systemd");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.success() && told.trim().is_empty(), told)
}

#[test]
fn systemd_finds_nothing_to_complain_of() {
    let unit = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/gmsa-host.service")).unwrap();
    let (good, told) = verify(&unit);
    assert!(good, "{told}");
    // And it would.
    for (word, wrong) in [("WatchdogSec=60", "WatchdogSecs=60"), ("/usr/bin/gmsa-sidecar", "/usr/bin/no-such-file")] {
        let (good, told) = verify(&unit.replace(word, wrong));
        assert!(!good, "{wrong}: {told}");
    }
    assert!(!unit.contains("Alias="), "it would replace the unit of credentials-fetcher");
    let conflicts = unit.lines().any(|line| line == "Conflicts=credentials-fetcher.service");
    assert!(conflicts && unit.contains("Type=notify"));
}
