#![expect(clippy::disallowed_methods, reason = "tests plant files of all kinds")]

use super::*;
use crate::kerberos::ccache::sample;
use crate::name::Account;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use tempfile::TempDir;

const APP: Owner = Owner { uid: 1654, gid: Some(1655) };

/// In memory where that can be had: thousands of files on a disk take minutes.
pub(crate) fn folder() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn open(folder: &TempDir) -> Volume {
    Volume::open(folder.path(), None, Mode::default()).unwrap()
}

fn account() -> Account {
    "WebApp01".parse().unwrap()
}

fn at(folder: LeaseFolder, at_root: bool, ownership: Ownership) -> Location {
    Location { folder, at_root, ownership }
}

/// As the volume itself has it.
fn of(volume: &Volume, account: &Account, at_root: bool) -> Location {
    at(LeaseFolder::of(account), at_root, volume.ownership)
}

fn image(bytes: &[u8]) -> CacheImage {
    CacheImage::of_bytes(bytes)
}

fn conf(address: &str) -> Krb5Conf {
    let domain: crate::name::Domain = "example.com".parse().unwrap();
    let kdcs = vec![KdcAddress::Address(address.parse().unwrap())];
    Krb5Conf { default: domain.clone(), realms: vec![RealmEntry { domain, kdcs }] }
}

/// Every path below the folder, relative, sorted.
fn tree(folder: &Path) -> Vec<String> {
    let mut paths = vec![];
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            paths.push(path.strip_prefix(folder).unwrap().display().to_string());
            if path.symlink_metadata().unwrap().is_dir() {
                folders.push(path);
            }
        }
    }
    paths.sort();
    paths
}

fn mode(path: impl AsRef<Path>) -> u32 {
    path.as_ref().symlink_metadata().unwrap().mode() & 0o7777
}

/// Whether the test runs as root; says so if not, since it then checks nothing.
fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: only root may do what this tests");
    }
    root
}

#[test]
fn owners_are_numeric() {
    assert_eq!("1654".parse(), Ok(Owner { uid: 1654, gid: None }));
    assert_eq!("1654:1655".parse(), Ok(APP));
    assert_eq!((APP.to_string(), Owner { uid: 0, gid: None }.to_string()), ("1654:1655".to_owned(), "0".to_owned()));
    for bad in ["", "app", "-1", "+1", "1:", ":1", "1:2:3", "1 ", "4294967295", "1:4294967295", "4294967296"] {
        assert!(bad.parse::<Owner>().is_err(), "{bad:?}");
    }
}

#[test]
fn modes_are_octal_and_keep_tickets_from_being_changed() {
    for (text, file, folder) in [
        ("0600", 0o600, 0o700),
        ("640", 0o640, 0o750),
        ("0660", 0o660, 0o770),
        ("0644", 0o644, 0o755),
        ("400", 0o400, 0o700),
    ] {
        let mode: Mode = text.parse().unwrap();
        assert_eq!((mode.0, mode.of_folder().0), (file, folder), "{text}");
    }
    assert_eq!("640".parse::<Mode>().unwrap().to_string(), "0640");
    for bad in ["", "0", "0602", "0666", "0240", "4600", "1777", "0o600", "+600", "rw", "0680", "77777777777777777"] {
        assert!(bad.parse::<Mode>().is_err(), "{bad:?}");
    }
}

#[test]
fn the_first_lease_is_written_twice_and_nothing_else_is_left() {
    let folder = folder();
    let volume = open(&folder);
    volume.write_ccache(&of(&volume, &"WebApp02".parse().unwrap(), false), &image(b"two")).unwrap();
    volume.write_ccache(&of(&volume, &account(), true), &image(b"one")).unwrap();
    let names = ["WebApp01", "WebApp01/krb5cc", "WebApp02", "WebApp02/krb5cc"];
    assert_eq!(tree(folder.path()), [&names[..], &["krb5cc"]].concat());
    assert_eq!(fs::read(folder.path().join("krb5cc")).unwrap(), b"one");
    assert_eq!(volume.ccache_path(&LeaseFolder::of(&account())), folder.path().join("WebApp01/krb5cc"));
    assert_eq!(**volume.read_ccache(&of(&volume, &account(), false)).unwrap(), *b"one");
    assert_eq!(volume.read_ccache(&of(&volume, &"WebApp03".parse().unwrap(), false)), None);
}

#[test]
fn modes_are_exact_and_follow_a_changed_setting() {
    let folder = folder();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o2775)).unwrap();
    for (setting, file, inner) in [("0600", 0o600, 0o700), ("0640", 0o640, 0o750), ("0600", 0o600, 0o700)] {
        let volume = Volume::open(folder.path(), None, setting.parse().unwrap()).unwrap();
        volume.write_ccache(&of(&volume, &account(), true), &image(b"one")).unwrap();
        volume.write_krb5_conf(&conf("10.0.0.1")).unwrap();
        let modes = ["krb5cc", "WebApp01/krb5cc", "WebApp01", "krb5.conf"].map(|name| mode(folder.path().join(name)));
        assert_eq!(modes, [file, file, inner, 0o644], "{setting}");
    }
    assert_eq!(mode(folder.path()), 0o2775, "the volume's own mode changed");
}

#[test]
fn files_are_given_to_the_owner() {
    if !is_root() {
        return;
    }
    let folder = folder();
    let owners = |name: &str| {
        let stat = folder.path().join(name).symlink_metadata().unwrap();
        (stat.uid(), stat.gid())
    };
    let volume = Volume::open(folder.path(), Some(APP), Mode::default()).unwrap();
    volume.write_ccache(&of(&volume, &account(), true), &image(b"one")).unwrap();
    volume.write_ccache(&of(&volume, &account(), true), &image(b"two")).unwrap();
    volume.write_krb5_conf(&conf("10.0.0.1")).unwrap();
    assert!(!volume.write_krb5_conf(&conf("10.0.0.1")).unwrap());
    for name in ["krb5cc", "WebApp01", "WebApp01/krb5cc", "krb5.conf"] {
        assert_eq!(owners(name), (1654, 1655), "{name}");
    }
    assert_eq!(owners(""), (0, 0), "the volume's own owner changed");
    assert_eq!(**volume.read_ccache(&of(&volume, &account(), false)).unwrap(), *b"two");

    // Another owner from the next start on: the folder of the old one is not ours any more.
    let other = Volume::open(folder.path(), Some(Owner { uid: 7, gid: None }), Mode::default()).unwrap();
    let fault = other.write_ccache(&of(&other, &account(), false), &image(b"three")).unwrap_err();
    assert_eq!(fault.code, Code::VolumePathTaken);
    assert_eq!(fault.why.unwrap(), "the folder belongs to uid 1654, not to the sidecar");
    assert_eq!(other.read_ccache(&of(&other, &account(), false)), None);
}

#[test]
fn krb5_conf_is_written_only_when_it_changes() {
    let folder = folder();
    let volume = open(&folder);
    let path = folder.path().join("krb5.conf");
    assert!(volume.write_krb5_conf(&conf("10.0.0.1")).unwrap());
    let before = path.metadata().unwrap().ino();
    assert!(!volume.write_krb5_conf(&conf("10.0.0.1")).unwrap());
    assert_eq!(path.metadata().unwrap().ino(), before);
    assert!(volume.write_krb5_conf(&conf("10.0.0.2")).unwrap());
    // The same text, but open to change by others: not ours to trust.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    assert!(volume.write_krb5_conf(&conf("10.0.0.2")).unwrap());
    assert_eq!(mode(&path), 0o644);
}

#[test]
fn links_are_replaced_never_followed() {
    let (folder, elsewhere) = (folder(), folder());
    let volume = open(&folder);
    let victim = elsewhere.path().join("victim");
    fs::write(&victim, "precious").unwrap();
    symlink(&victim, folder.path().join("krb5cc")).unwrap();
    symlink(&victim, folder.path().join("krb5.conf")).unwrap();
    fs::create_dir(folder.path().join("WebApp01")).unwrap();
    symlink(&victim, folder.path().join("WebApp01/krb5cc")).unwrap();
    assert_eq!(volume.read_ccache(&of(&volume, &account(), false)), None);

    volume.write_ccache(&of(&volume, &account(), true), &image(b"one")).unwrap();
    volume.write_krb5_conf(&conf("10.0.0.1")).unwrap();
    assert_eq!(fs::read(&victim).unwrap(), b"precious");
    for name in ["krb5cc", "WebApp01/krb5cc", "krb5.conf"] {
        assert!(folder.path().join(name).symlink_metadata().unwrap().is_file(), "{name}");
    }
}

#[test]
fn a_link_or_file_in_place_of_the_folder_is_a_fault() {
    let (folder, elsewhere) = (folder(), folder());
    let volume = open(&folder);
    fs::write(elsewhere.path().join("krb5cc"), "planted").unwrap();
    let path = folder.path().join("WebApp01");
    for plant in [|path: &Path, _: &Path| fs::write(path, "file"), |path: &Path, to: &Path| symlink(to, path)] {
        plant(&path, elsewhere.path()).unwrap();
        let fault = volume.write_ccache(&of(&volume, &account(), false), &image(b"one")).unwrap_err();
        assert_eq!((fault.code, fault.why.as_deref()), (Code::VolumePathTaken, Some("it is not a folder")));
        assert_eq!(volume.read_ccache(&of(&volume, &account(), false)), None);
        fs::remove_file(&path).unwrap();
    }
    assert_eq!(tree(elsewhere.path()), ["krb5cc"]);
}

#[test]
fn someone_elses_folder_or_file_is_not_used() {
    if !is_root() {
        return;
    }
    let folder = folder();
    let volume = open(&folder);
    let path = folder.path().join("WebApp01");
    volume.write_ccache(&of(&volume, &account(), false), &image(b"one")).unwrap();
    std::os::unix::fs::chown(path.join("krb5cc"), Some(1654), None).unwrap();
    assert_eq!(volume.read_ccache(&of(&volume, &account(), false)), None);
    std::os::unix::fs::chown(&path, Some(1654), None).unwrap();
    assert_eq!(
        volume.write_ccache(&of(&volume, &account(), false), &image(b"two")).unwrap_err().code,
        Code::VolumePathTaken
    );
}

#[test]
fn a_failed_write_leaves_no_trace() {
    let folder = folder();
    let volume = open(&folder);
    volume.write_ccache(&of(&volume, &account(), false), &image(b"old")).unwrap();
    fs::create_dir(folder.path().join("krb5cc")).unwrap();
    let fault = volume.write_ccache(&of(&volume, &account(), true), &image(b"new")).unwrap_err();
    assert_eq!((fault.code, fault.why.as_deref()), (Code::VolumePathTaken, Some("a folder stands in its place")));
    assert_eq!(tree(folder.path()), ["WebApp01", "WebApp01/krb5cc", "krb5cc"]);
}

#[test]
fn only_a_small_regular_file_is_read_back() {
    let folder = folder();
    let volume = open(&folder);
    volume.write_ccache(&of(&volume, &account(), false), &image(b"old")).unwrap();
    let path = volume.ccache_path(&LeaseFolder::of(&account()));
    fs::File::options().write(true).open(&path).unwrap().set_len(LIMIT + 1).unwrap();
    assert_eq!(volume.read_ccache(&of(&volume, &account(), false)), None);
    fs::remove_file(&path).unwrap();
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    assert_eq!(volume.read_ccache(&of(&volume, &account(), false)), None, "a FIFO was read");
}

#[test]
fn a_start_removes_leftovers_of_its_own() {
    let (folder, elsewhere) = (folder(), folder());
    let volume = open(&folder);
    volume.write_ccache(&of(&volume, &account(), true), &image(b"one")).unwrap();
    fs::write(elsewhere.path().join(".gmsa-victim"), "precious").unwrap();
    let kept = ["WebApp01", "WebApp01/.gmsa-folder", "WebApp01/krb5cc", "krb5cc", "link"];
    fs::create_dir(folder.path().join("WebApp01/.gmsa-folder")).unwrap();
    symlink(elsewhere.path(), folder.path().join("link")).unwrap();
    fs::create_dir(folder.path().join(".gmsa-probe")).unwrap();
    for leftover in [".gmsa-1", ".gmsa-probe/.gmsa-2", "WebApp01/.gmsa-3"] {
        fs::write(folder.path().join(leftover), "half").unwrap();
    }
    open(&folder);
    assert_eq!(tree(folder.path()), kept);
    assert_eq!(tree(elsewhere.path()), [".gmsa-victim"]);

    if is_root() {
        let foreign = folder.path().join(".gmsa-4");
        fs::write(&foreign, "someone else's").unwrap();
        std::os::unix::fs::chown(&foreign, Some(1654), None).unwrap();
        open(&folder);
        assert!(foreign.exists());
    }
}

#[test]
fn a_missing_folder_is_told_not_made() {
    let folder = folder();
    let path = folder.path().join("absent");
    let fault = Volume::open(&path, None, Mode::default()).unwrap_err();
    assert_eq!(fault.code, Code::VolumeNotWritable);
    assert_eq!(fault.why.unwrap(), "the folder does not exist: is the volume mounted there?");
    assert!(!path.exists());
    fs::write(&path, "").unwrap();
    let fault = Volume::open(&path, None, Mode::default()).unwrap_err();
    assert_eq!((fault.code, fault.why.as_deref()), (Code::VolumeNotWritable, Some("it is not a folder")));
}

#[test]
fn a_folder_that_comes_back_is_written_again() {
    let folder = folder();
    let path = folder.path().join("volume");
    fs::create_dir(&path).unwrap();
    let volume = Volume::open(&path, None, Mode::default()).unwrap();
    fs::remove_dir(&path).unwrap();
    let fault = volume.write_ccache(&of(&volume, &account(), true), &image(b"one")).unwrap_err();
    assert_eq!(fault.code, Code::VolumeWriteFailed);
    fs::create_dir(&path).unwrap();
    volume.write_ccache(&of(&volume, &account(), true), &image(b"one")).unwrap();
}

/// An app that opens the path over and over and one that holds the file open both always read a whole image.
#[test]
fn a_reader_never_sees_half_a_file() {
    let folder = folder();
    let volume = open(&folder);
    let picture = |n: usize| vec![b'a' + (n % 26) as u8; 1000 + n % 7 * 900];
    let whole = |bytes: &[u8]| (0..26 * 7).any(|n| picture(n) == bytes);
    volume.write_ccache(&of(&volume, &account(), true), &image(&picture(0))).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers = ["krb5cc", "WebApp01/krb5cc"].map(|name| {
            let (path, done) = (folder.path().join(name), &done);
            scope.spawn(move || {
                let mut reads = 0;
                while !done.load(Ordering::Relaxed) {
                    let mut held = File::open(&path).unwrap();
                    let mut first = vec![0; 500];
                    held.read_exact(&mut first).unwrap();
                    assert!(whole(&fs::read(&path).unwrap()), "{name} broken after {reads} reads");
                    held.read_to_end(&mut first).unwrap();
                    assert!(whole(&first), "{name} changed while it was held, after {reads} reads");
                    reads += 1;
                }
                reads
            })
        });
        for n in 1..=1000 {
            volume.write_ccache(&of(&volume, &account(), true), &image(&picture(n))).unwrap();
        }
        done.store(true, Ordering::Relaxed);
        for reader in readers {
            assert!(reader.join().unwrap() > 100, "the reader hardly ran");
        }
    });
    assert_eq!(tree(folder.path()), ["WebApp01", "WebApp01/krb5cc", "krb5cc"]);
}

/// Runs one of the ignored tests below in a shell: `$TEST`, with `$DIR` to work in.
fn in_shell(name: &str, script: &str) {
    let folder = folder();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let test = format!("{} --exact volume::tests::{name} --ignored", std::env::current_exe().unwrap().display());
    let done = Command::new("sh").args(["-ec", script]).env("DIR", folder.path()).env("TEST", test).output().unwrap();
    let told = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success() && told.contains("1 passed"), "{told}{}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn a_full_or_read_only_volume_keeps_the_old_tickets() {
    if is_root() {
        let mount = "mount -t tmpfs -o size=64k tmpfs $DIR && cd $DIR && $TEST";
        in_shell("inside_a_full_volume", &format!("exec unshare --mount sh -ec '{mount}'"));
    }
}

#[test]
#[ignore = "run inside a small tmpfs"]
fn inside_a_full_volume() {
    let volume = Volume::open(".", None, Mode::default()).unwrap();
    volume.write_ccache(&of(&volume, &account(), true), &image(b"old")).unwrap();
    let fault = volume.write_ccache(&of(&volume, &account(), true), &image(&[0; 128 * 1024])).unwrap_err();
    assert_eq!((fault.code, fault.why.as_deref()), (Code::VolumeWriteFailed, Some("no space is left on the volume")));
    assert_eq!(tree(Path::new(".")), ["WebApp01", "WebApp01/krb5cc", "krb5cc"]);

    assert!(Command::new("mount").args(["-o", "remount,ro", "."]).status().unwrap().success());
    let fault = volume.write_ccache(&of(&volume, &account(), true), &image(b"new")).unwrap_err();
    assert_eq!((fault.code, fault.why.as_deref()), (Code::VolumeWriteFailed, Some("the volume is mounted read-only")));
    assert_eq!(**volume.read_ccache(&of(&volume, &account(), false)).unwrap(), *b"old");
    let fault = Volume::open(".", None, Mode::default()).unwrap_err();
    assert_eq!((fault.code, fault.why.as_deref()), (Code::VolumeNotWritable, Some("the volume is mounted read-only")));
}

#[test]
fn missing_rights_are_told_with_the_numbers() {
    if is_root() {
        in_shell(
            "inside_without_rights",
            "cp ${TEST%% *} $DIR/test && mkdir -m 0755 $DIR/root && mkdir -m 0775 $DIR/own && chown 65532:0 $DIR/own
             cd $DIR && exec setpriv --reuid 65532 --regid 1654 --clear-groups ./test ${TEST#* }",
        );
    }
}

#[test]
#[ignore = "run as 65532:1654 beside the folders own and root"]
fn inside_without_rights() {
    let fault = Volume::open("root", None, Mode::default()).unwrap_err();
    assert_eq!(fault.code, Code::VolumeNotWritable);
    assert_eq!(fault.why.unwrap(), "`root` belongs to 0:0 with mode 0755, and the sidecar is 65532:1654");

    for owner in ["1654", "65532:7"] {
        let fault = Volume::open("own", Some(owner.parse().unwrap()), Mode::default()).unwrap_err();
        assert_eq!(fault.code, Code::ConfigOwnerDenied);
        assert_eq!(fault.why.unwrap(), "Operation not permitted, as 65532:1654");
    }
    assert!(tree(Path::new("own")).is_empty());

    let itself = Owner { uid: 65532, gid: Some(1654) };
    let volume = Volume::open("own", Some(itself), "0640".parse().unwrap()).unwrap();
    volume.write_ccache(&of(&volume, &account(), true), &image(b"one")).unwrap();
    assert_eq!(mode("own/WebApp01/krb5cc"), 0o640);
}

#[test]
fn changing_the_owner_takes_no_more_than_two_capabilities() {
    if is_root() {
        in_shell(
            "inside_with_two_capabilities",
            "caps=-all,+chown,+dac_override
             cd $DIR && exec setpriv --bounding-set=$caps --inh-caps=$caps $TEST",
        );
    }
}

#[test]
#[ignore = "run as root with CAP_CHOWN and CAP_DAC_OVERRIDE only"]
fn inside_with_two_capabilities() {
    let volume = Volume::open(".", Some(APP), "0640".parse().unwrap()).unwrap();
    for bytes in [b"one", b"two"] {
        volume.write_ccache(&of(&volume, &account(), true), &image(bytes)).unwrap();
    }
    assert_eq!(mode("WebApp01"), 0o750);
    assert_eq!(fs::symlink_metadata("WebApp01/krb5cc").unwrap().gid(), 1655);
}

/// MIT's own client reads what we write; the lab's packages bring it.
#[test]
fn mit_reads_the_cache_and_the_configuration() {
    let folder = folder();
    let volume = open(&folder);
    let now = u32::try_from(crate::clock::unix(crate::clock::now())).unwrap();
    let bytes = sample::cache("WebApp01$", &[sample::WrittenTicket(&["krbtgt", "EXAMPLE.COM"], now, now + 36_000)]);
    volume.write_ccache(&of(&volume, &account(), true), &image(&bytes)).unwrap();
    volume.write_krb5_conf(&conf("2001:db8::1")).unwrap();
    let klist = Command::new("klist")
        .args(["-e", "-f", "-c"])
        .arg(folder.path().join("krb5cc"))
        .env("KRB5_CONFIG", folder.path().join("krb5.conf"))
        .output();
    let klist = klist.expect("MIT's klist is there: lab/install brings krb5-user");
    let told = String::from_utf8(klist.stdout).unwrap();
    assert!(klist.status.success(), "{told}{}", String::from_utf8_lossy(&klist.stderr));
    for part in ["Default principal: WebApp01$@EXAMPLE.COM", "krbtgt/EXAMPLE.COM@EXAMPLE.COM", "Flags: FRIA"] {
        assert!(told.contains(part), "{told}");
    }
}

fn written(volume: &Volume, folder: LeaseFolder, at_root: bool) -> Written {
    let location = at(folder, at_root, volume.ownership);
    Written { location, cache: std::sync::Arc::new(image(b"ticket")), keytab: None, conf: Some(conf("10.0.0.1")) }
}

fn write_all(volume: &Volume, what: &Written) {
    volume.write_own_krb5_conf(&what.location, what.conf.as_ref().unwrap()).unwrap();
    volume.write_ccache(&what.location, &what.cache).unwrap();
}

#[test]
fn a_folder_is_one_or_two_names_that_steer_nothing() {
    for good in [&["WebApp01"][..], &["0123456789abcdef0123", "WebApp01"], &["a b", "c_d-e.f"]] {
        let folder = LeaseFolder::new(good).unwrap();
        assert_eq!(folder.path(), good.iter().collect::<PathBuf>());
    }
    assert_eq!(LeaseFolder::new(&["A", "B"]).unwrap().folded(), LeaseFolder::new(&["a", "b"]).unwrap().folded());
    let long = "x".repeat(129);
    for bad in [
        &[][..],
        &[""],
        &["."],
        &[".."],
        &["a", ".."],
        &["a/b"],
        &["a", "b", "c"],
        &["krb5CC"],
        &["a", "krb5.conf"],
        &[".gmsa-x"],
        &[" a"],
        &["a\n"],
        &["ä"],
        &[&long],
    ] {
        assert_eq!(LeaseFolder::new(bad), None, "{bad:?}");
    }
}

#[test]
fn what_was_written_is_removed_and_nothing_else() {
    let folder = folder();
    let volume = open(&folder);
    let (one, two) = (written(&volume, LeaseFolder::of(&account()), true), {
        written(&volume, LeaseFolder::new(&["id", "WebApp02"]).unwrap(), false)
    });
    write_all(&volume, &one);
    write_all(&volume, &two);
    assert_eq!(
        tree(folder.path()),
        [
            "WebApp01",
            "WebApp01/krb5.conf",
            "WebApp01/krb5cc",
            "id",
            "id/WebApp02",
            "id/WebApp02/krb5.conf",
            "id/WebApp02/krb5cc",
            "krb5cc"
        ]
    );
    // An app appended its own service tickets; somebody else keeps a file there.
    fs::write(folder.path().join("WebApp01/krb5cc"), b"ticket and more").unwrap();
    fs::write(folder.path().join("id/state.json"), b"{}").unwrap();
    volume.remove(&one, true).unwrap();
    volume.remove(&two, false).unwrap();
    assert_eq!(tree(folder.path()), ["id", "id/state.json"]);
    // What is gone is gone.
    volume.remove(&one, true).unwrap();

    // Another process has written since: its tickets stay, and so does the folder.
    write_all(&volume, &one);
    fs::write(folder.path().join("WebApp01/krb5cc"), b"another's").unwrap();
    fs::write(folder.path().join("krb5cc"), b"another's").unwrap();
    volume.remove(&one, true).unwrap();
    assert_eq!(tree(folder.path()), ["WebApp01", "WebApp01/krb5cc", "id", "id/state.json", "krb5cc"]);

    volume.write_krb5_conf(&conf("10.0.0.1")).unwrap();
    volume.remove_krb5_conf(&conf("10.0.0.2")).unwrap();
    assert!(folder.path().join("krb5.conf").exists(), "a newer one was removed");
    volume.remove_krb5_conf(&conf("10.0.0.1")).unwrap();
    assert!(!folder.path().join("krb5.conf").exists());
}

#[test]
fn removal_follows_no_link() {
    let (folder, elsewhere) = (folder(), folder());
    let volume = open(&folder);
    let one = written(&volume, LeaseFolder::of(&account()), false);
    fs::write(elsewhere.path().join("krb5cc"), b"ticket").unwrap();
    symlink(elsewhere.path(), folder.path().join("WebApp01")).unwrap();
    assert!(volume.remove(&one, false).is_err());
    assert!(elsewhere.path().join("krb5cc").exists());
}

#[test]
fn a_lease_has_an_owner_and_a_mode_of_its_own() {
    if !is_root() {
        return;
    }
    let folder = folder();
    let volume = open(&folder);
    let ownership = Ownership { owner: Some(APP), mode: "0640".parse().unwrap() };
    let location = at(LeaseFolder::new(&["id", "WebApp01"]).unwrap(), false, ownership);
    for bytes in [&b"one"[..], b"two"] {
        volume.write_ccache(&location, &image(bytes)).unwrap();
        volume.write_own_krb5_conf(&location, &conf("10.0.0.1")).unwrap();
    }
    assert!(!volume.write_own_krb5_conf(&location, &conf("10.0.0.1")).unwrap(), "it stands there already");
    let seen = |name: &str| {
        let stat = folder.path().join(name).symlink_metadata().unwrap();
        (stat.uid(), stat.gid(), stat.mode() & 0o7777)
    };
    assert_eq!(seen("id"), (0, 0, 0o755), "the folder around it lets the app through");
    assert_eq!(seen("id/WebApp01"), (1654, 1655, 0o755), "krb5.conf is for everyone who mounts it");
    assert_eq!(seen("id/WebApp01/krb5cc"), (1654, 1655, 0o640));
    assert_eq!(seen("id/WebApp01/krb5.conf"), (1654, 1655, 0o644));
    assert_eq!(**volume.read_ccache(&location).unwrap(), *b"two");
    assert_eq!(volume.restore_ccache(&location, &image(b"two")).unwrap(), [""; 0].map(PathBuf::from));
    fs::write(folder.path().join("id/WebApp01/.gmsa-left"), "").unwrap();
    volume.sweep_lease(&location);
    assert!(!folder.path().join("id/WebApp01/.gmsa-left").exists());
    let what = Written { location, cache: std::sync::Arc::new(image(b"two")), keytab: None, conf: None };
    fs::remove_file(folder.path().join("id/WebApp01/krb5.conf")).unwrap();
    volume.remove(&what, false).unwrap();
    assert_eq!(tree(folder.path()), [""; 0]);
}

/// Only an account's folder in which all is ours, and whose TGT expired over a day ago.
#[test]
fn stale_folders_are_removed_and_no_others() {
    use crate::clock;
    let folder = folder();
    let volume = open(&folder);
    let now = clock::from_unix(2_000_000_000);
    let ccache = |end| sample::cache("WebApp01$", &[sample::WrittenTicket(&["krbtgt", "EXAMPLE.COM"], 1, end)]);
    let plant = |account: &str, end: u32| {
        let location = at(LeaseFolder::new(&[account]).unwrap(), false, volume.ownership);
        volume.write_ccache(&location, &image(&ccache(end))).unwrap();
        folder.path().join(account)
    };
    let day = 86_400;
    let old = 2_000_000_000 - day - 1;
    plant("Stale", old);
    fs::write(folder.path().join("Stale/krb5.keytab"), "").unwrap();
    plant("Named", old);
    plant("Fresh", 2_000_000_000 - day + 1);
    fs::write(plant("Shared", old).join("notes.txt"), "").unwrap();
    fs::create_dir(plant("Deeper", old).join("krb5.conf")).unwrap();
    symlink("/etc/passwd", plant("Linked", old).join("krb5.keytab")).unwrap();
    fs::create_dir(folder.path().join("Empty")).unwrap();
    fs::create_dir(folder.path().join("not an account, but a folder of somebody")).unwrap();
    fs::write(plant("Broken", old).join("krb5cc"), "FILE").unwrap();
    if is_root() {
        let path = plant("Theirs", old);
        std::os::unix::fs::chown(path.join("krb5cc"), Some(1654), None).unwrap();
    }
    let before = tree(folder.path());
    let removed = volume.remove_stale(&["named".to_owned()], now);
    let stale = Stale { path: folder.path().join("Stale"), expired_at: clock::from_unix(i64::from(old)) };
    assert_eq!(removed, [stale]);
    let left: Vec<_> = before.into_iter().filter(|path| !path.starts_with("Stale")).collect();
    assert_eq!(tree(folder.path()), left);
}
