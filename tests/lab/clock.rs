//! A domain controller whose clock moves: in a lab of its own, since nobody else's tickets would survive it.

use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use crate::support::{Ended, Running, Sidecar, lab, root, write};
use crate::tickets::ACCEPT;

/// A lab of a test's own, whose DC reads its clock's shift from a file. Goes down when dropped.
pub struct OwnLab {
    folder: TempDir,
}

impl OwnLab {
    pub fn up() -> Self {
        // The sockets in its state bear no long path.
        let clock = Self { folder: TempDir::with_prefix_in("clock-", root().join("build")).unwrap() };
        clock.set("+0");
        clock.lab("up");
        clock
    }

    /// Sets the clock: `+2h`, `-7m` from the real one.
    fn set(&self, shift: &str) {
        write(&self.file(), shift);
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("shift")
    }

    /// Runs a script of the lab for this one.
    pub fn lab(&self, script: &str) {
        let mut command = Command::new(root().join("lab").join(script));
        command.envs(self.names()).env("LAB_FAKETIME_FILE", self.file());
        if script == "down" {
            command.arg("--wipe");
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    fn names(&self) -> [(&'static str, String); 2] {
        [
            ("LAB_STATE", self.folder.path().join("lab").display().to_string()),
            ("LAB_NETNS", format!("{}-{}", lab("LAB_NETNS"), std::process::id())),
        ]
    }

    /// What runs a command in this lab, its clock the DC's one if `moved`.
    pub fn wrapper(&self, moved: bool) -> Vec<String> {
        let names = self.names().map(|(name, value)| format!("{name}={value}"));
        let mut words = vec!["env".to_owned()];
        words.extend(names);
        words.push(root().join("lab/run").display().to_string());
        if moved {
            words.push("env".to_owned());
            words.extend([
                format!("LD_PRELOAD={FAKETIME}"),
                "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned(),
                "FAKETIME_NO_CACHE=1".to_owned(),
                format!("FAKETIME_TIMESTAMP_FILE={}", self.file().display()),
            ]);
        }
        words
    }

    /// An app with a fresh copy of the sidecar's cache gets a ticket for a service.
    fn app(&self, sidecar: &Sidecar, moved: bool) -> Ended {
        let service = format!("postgres/{}", lab("LAB_DB"));
        let mut words = self.wrapper(moved);
        let script = "cp $KRB5CCNAME $HOME/copy && KRB5CCNAME=$HOME/copy kvno $0";
        words.extend(["sh", "-c", script, &service].map(ToOwned::to_owned));
        sidecar.app(0, &words.iter().map(String::as_str).collect::<Vec<_>>())
    }
}

impl Drop for OwnLab {
    fn drop(&mut self) {
        self.lab("down");
    }
}

fn renewals(running: &Running<'_>) -> Vec<serde_json::Value> {
    running.log().into_iter().filter(|line| line["event"] == "lease.renewed").collect()
}

/// A DC seven minutes ahead of the sidecar and the app, from the first login on.
#[test]
fn a_dc_with_a_clock_of_its_own_gives_tickets_that_work() {
    let clock = OwnLab::up();
    for (shift, offset) in [("+420", 419..=421), ("-420", -421..=-419)] {
        clock.set(shift);
        let sidecar = Sidecar::of("webapp01.json").through(&clock.wrapper(false));
        let ended = sidecar.init();
        let told = ended.log().into_iter().find(|line| line["event"] == "dc.clock");
        ended.ok();
        let told = told.and_then(|line| line["offset_seconds"].as_i64());
        assert!(told.is_some_and(|told| offset.contains(&told)), "{shift}: {told:?}");
        clock.app(&sidecar, false).ok();
    }
}

/// Days go by in seconds: the DC, the sidecar and the app share a clock that is moved on three hours at a time.
/// `WebApp02` has a new password every day.
#[test]
fn a_password_that_rolls_by_the_clock_leaves_no_gap() {
    let clock = OwnLab::up();
    // A static binary takes no notice of libfaketime.
    let sidecar = Sidecar::of("webapp02.json").dynamic().through(&clock.wrapper(true));
    let running = sidecar.run();
    running.wait("the first ticket", || renewals(&running).len() == 1);
    for step in 1..=12 {
        clock.set(&format!("+{}h", 3 * step));
        clock.app(&sidecar, true).ok();
        running.wait("a renewal, since the clock was set", || renewals(&running).len() > step);
        clock.app(&sidecar, true).ok();
    }
    let versions: Vec<_> = renewals(&running).iter().map(|line| line["kvno"].as_u64().unwrap()).collect();
    assert!(versions.is_sorted() && versions.first() < versions.last(), "the password did not roll: {versions:?}");
    println!("versions of the password, renewal by renewal: {versions:?}");
}

/// The directory tells the next password five minutes before its KDC uses it: in that time a keytab gets the new key.
#[test]
fn a_keytab_has_the_next_key_before_the_kdc_uses_it() {
    let clock = OwnLab::up();
    let sidecar = Sidecar::of("webapp02.json").dynamic().through(&clock.wrapper(true)).with("GMSA_KEYTAB", "true");
    let mut running = sidecar.run();
    running.wait("the first ticket", || renewals(&running).len() == 1);
    let call = |script: &str, arguments: &[&str]| {
        let mut words = clock.wrapper(true);
        words.extend(["sh", "-ec", script].iter().chain(arguments).map(ToString::to_string));
        sidecar.app(0, &words.iter().map(String::as_str).collect::<Vec<_>>()).ok()
    };
    let versions = || {
        let listed = call("klist -k \"$0\"", &[sidecar.path("krb5.keytab").to_str().unwrap()]);
        let versions = listed.lines().filter(|line| line.contains("WebApp02$")).map(|line| line[..4].trim().to_owned());
        versions.collect::<Vec<_>>().join(" ")
    };
    // Who logs in has a ticket of his own each time.
    let service = "HTTP/webapp02.example.com";
    let keytab = sidecar.path("krb5.keytab");
    let login = format!("echo '{}' | kinit -c $HOME/cc {} >/dev/null", lab("LAB_USER_PW"), lab("LAB_USER"));
    let accept = || {
        let script = format!("{login}; KRB5RCACHETYPE=none /usr/bin/python3 -c \"$0\" {service} $HOME/cc $1");
        call(&script, &[ACCEPT, keytab.to_str().unwrap()])
    };
    let issued = || {
        let told = call(&format!("{login}; kvno -c $HOME/cc {service}"), &[]);
        told.trim().rsplit_once("kvno = ").unwrap().1.to_owned()
    };
    accept();
    let first = issued();
    assert_eq!(versions(), format!("{first} {first}"));

    // How long until the password changes, by the directory.
    let ask = format!(
        "export KRB5CCNAME=$HOME/cc; {login}; ldapsearch -Q -Y GSSAPI -LLL -o ldif-wrap=no -H ldap://{} -b {} \
         '(sAMAccountName=WebApp02$)' msDS-ManagedPassword | /usr/bin/python3 $0 show -",
        lab("LAB_DC1"),
        lab("LAB_BASEDN")
    );
    let told = call(&ask, &[root().join("lab/gmsa.py").to_str().unwrap()]);
    println!("{told}");
    let left: u64 =
        told.split("query interval: ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap().parse().unwrap();

    // Two minutes before: the keytab gets the next key, while the KDC still uses the old one.
    clock.set(&format!("+{}s", left - 120));
    let next = first.parse::<u32>().unwrap() + 1;
    running.wait("the next key", || versions() == format!("{next} {next} {first} {first}"));
    accept();
    assert_eq!(issued(), first, "the KDC uses the new key already");

    // The sidecar is gone, the password changes: the keytab needs nobody.
    running.signal("KILL");
    running.wait_end();
    clock.set(&format!("+{}s", left + 600));
    accept();
    assert_eq!(issued(), next.to_string());
}

const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";
