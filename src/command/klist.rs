//! `gmsa-sidecar klist`: what is in the caches, for someone who asks why the app has no ticket.
//!
//! The files are untrusted: at most 1 MiB is read, damage is told, keys are never shown.

use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{CWD, OFlags};
use serde::Serialize;

use crate::clock;
use crate::kerberos::Principal;
use crate::kerberos::ccache::{self, CcacheEntry};
use crate::name::Account;
use crate::volume::{self, CCACHE, KRB5_CONF};

/// Prints what is in the ccache `path`, or in all ccaches of the volume `path`; true if a valid TGT is among them.
/// The error is that of `out`.
pub fn klist(path: &Path, json: bool, now: SystemTime, out: &mut dyn Write) -> io::Result<bool> {
    let report = CcacheListing::of(path, now);
    if json {
        serde_json::to_writer_pretty(&mut *out, &report)?;
        writeln!(out)?;
    } else {
        write!(out, "{report}")?;
    }
    out.flush()?;
    Ok(report.valid)
}

/// What is in the ccaches; its [`Display`](fmt::Display) is the form for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CcacheListing {
    /// Whether one of the caches holds a valid TGT.
    pub valid: bool,
    /// What the app sets so that it uses the first cache that is valid, else the first that is a cache at all.
    pub environment: ClientEnvironment,
    /// The caches: a volume's own first, then its accounts' by name.
    pub caches: Vec<ListedCache>,
    /// Why there is no valid ticket.
    pub problem: Option<Problem>,
}

/// The app's variables.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub struct ClientEnvironment {
    /// The ccache.
    pub krb5ccname: Option<String>,
    /// The `krb5.conf` on the same volume.
    pub krb5_config: Option<String>,
}

/// One ccache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ListedCache {
    /// Its path.
    pub path: String,
    /// Whose tickets these are.
    pub principal: Option<String>,
    /// Whether it holds a valid TGT of the principal's realm.
    pub valid: bool,
    /// The tickets, in the file's order.
    pub tickets: Vec<ListedTicket>,
    /// Why it cannot be read, or not to its end.
    pub problem: Option<Problem>,
}

/// One ticket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ListedTicket {
    /// The service it is for.
    pub server: String,
    /// Whether it is a TGT of the principal's own realm.
    pub tgt: bool,
    /// How it stands.
    pub state: Validity,
    /// How long it is valid from now on, in words.
    pub left: Option<String>,
    /// When it becomes or became valid, RFC 3339.
    pub starts_at: String,
    /// When it expires or expired, RFC 3339.
    pub expires_at: String,
    /// Until when it can be renewed, RFC 3339.
    pub renewable_until: Option<String>,
    /// The enctype of the session key.
    pub session_enctype: String,
    /// The enctype of the service's key, where it can be told.
    pub ticket_enctype: Option<String>,
    /// The ticket flags of RFC 4120 5.3.
    pub flags: Vec<&'static str>,
}

/// How a ticket stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Validity {
    /// Good now.
    Valid,
    /// Good later: a clock is wrong.
    NotYet,
    /// No longer good.
    Expired,
}

/// What is wrong, why, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// What is wrong.
    pub what: String,
    /// Why, as far as known.
    pub why: Option<String>,
    /// What to do next.
    pub next: String,
}

impl CcacheListing {
    /// Looks at the ccache `path`, or at those of the volume `path`.
    pub fn of(path: &Path, now: SystemTime) -> Self {
        let path = &std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let listed = if path.is_dir() { caches_on(path) } else { Ok(vec![path.clone()]) };
        let (caches, unlisted) = match listed {
            Ok(paths) => (paths.iter().filter_map(|path| ListedCache::of(path, now)).collect(), None),
            Err(error) => (vec![], Some(Problem::unread(path, &error))),
        };
        let mut report = Self::new(path, caches, now);
        report.problem = unlisted.or(report.problem);
        report
    }

    fn new(path: &Path, caches: Vec<ListedCache>, now: SystemTime) -> Self {
        let valid = caches.iter().any(|cache| cache.valid);
        let first = caches.iter().find(|cache| if valid { cache.valid } else { cache.principal.is_some() });
        let conf = path.ancestors().take(3).map(|folder| folder.join(KRB5_CONF)).find(|conf| conf.is_file());
        let what = if caches.is_empty() { "no ticket cache" } else { "no valid ticket-granting ticket" };
        Self {
            valid,
            environment: ClientEnvironment {
                krb5ccname: first.map(|cache| cache.path.clone()),
                krb5_config: conf.map(|conf| conf.display().to_string()),
            },
            problem: (!valid).then(|| Problem {
                what: format!("{what} in `{}` at {}", path.display(), clock::rfc3339(now)),
                why: None,
                next: "read the sidecar's log, or run `gmsa-sidecar check` in its container".to_owned(),
            }),
            caches,
        }
    }
}

/// The volume's own ccache and those of its accounts; whatever else lies there is not looked at.
fn caches_on(volume: &Path) -> io::Result<Vec<PathBuf>> {
    let mut accounts = vec![];
    for entry in volume.read_dir()? {
        let name = entry?.file_name().into_string().unwrap_or_default();
        if name.parse::<Account>().is_ok_and(|account| account.as_str() == name) {
            accounts.push(volume.join(name).join(CCACHE));
        }
    }
    accounts.sort();
    accounts.insert(0, volume.join(CCACHE));
    // What cannot be seen is told later; what is not there is nothing to tell.
    let absent = |error: &io::Error| matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory);
    accounts.retain(|path| !path.symlink_metadata().is_err_and(|error| absent(&error)));
    Ok(accounts)
}

impl ListedCache {
    /// Reads the file; nothing if there is none.
    fn of(path: &Path, now: SystemTime) -> Option<Self> {
        match volume::read(CWD, path, OFlags::empty()) {
            Ok((bytes, _)) => Some(Self::read(path, &bytes, now)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => Some(Self::unread(path, Problem::unread(path, &error))),
        }
    }

    /// What the bytes of a ccache hold at `now`.
    pub fn read(path: &Path, bytes: &[u8], now: SystemTime) -> Self {
        // Of a damaged file nothing is shown: where a length is wrong, a name may run on into a key, over the zeros
        // of the lengths between them.
        let plain = |principal: &Principal| !principal.to_string().contains(char::is_control);
        let sound = |cache: &ccache::Cache<'_>| {
            let mut names = cache.entries.iter().flat_map(|entry| [&entry.client, &entry.server]);
            plain(&cache.principal) && names.all(plain)
        };
        let Some(cache) = ccache::Cache::decode(bytes).filter(sound) else {
            return Self::unread(path, Problem::damaged("it is not a Kerberos ticket cache, or a damaged one"));
        };
        let tickets: Vec<_> = cache
            .entries
            .iter()
            .filter(|entry| entry.is_ticket() && entry.client.same_as(&cache.principal))
            .map(|entry| ListedTicket::new(entry, &cache.principal, now))
            .collect();
        Self {
            path: path.display().to_string(),
            principal: Some(words(&cache.principal)),
            valid: tickets.iter().any(|ticket| ticket.tgt && ticket.state == Validity::Valid),
            tickets,
            problem: (!cache.is_whole).then(|| Problem::damaged("the file ends in the middle of a ticket")),
        }
    }

    fn unread(path: &Path, problem: Problem) -> Self {
        let path = path.display().to_string();
        Self { path, principal: None, valid: false, tickets: vec![], problem: Some(problem) }
    }
}

impl ListedTicket {
    fn new(entry: &CcacheEntry<'_>, principal: &Principal, now: SystemTime) -> Self {
        let [start, end, renew] =
            [entry.starttime, entry.endtime, entry.renew_till].map(|time| clock::from_unix(i64::from(time)));
        let state = match () {
            () if now >= end => Validity::Expired,
            () if now < start => Validity::NotYet,
            () => Validity::Valid,
        };
        Self {
            server: words(&entry.server),
            tgt: entry.server.same_as(&Principal::krbtgt(&principal.realm)),
            state,
            left: (state == Validity::Valid).then(|| span(now, end)),
            starts_at: clock::rfc3339(start),
            expires_at: clock::rfc3339(end),
            renewable_until: (entry.renew_till != 0).then(|| clock::rfc3339(renew)),
            session_enctype: enctype(entry.enctype),
            ticket_enctype: entry.ticket_enctype().map(enctype),
            flags: FLAGS.iter().filter(|(bit, _)| entry.flags >> (31 - bit) & 1 == 1).map(|(_, name)| *name).collect(),
        }
    }
}

impl Problem {
    fn unread(path: &Path, error: &io::Error) -> Self {
        let what = format!("`{}` cannot be read", path.display());
        if error.kind() != io::ErrorKind::PermissionDenied {
            let next = "name the sidecar's volume, or a ticket cache on it".to_owned();
            return Self { what, why: Some(error.to_string()), next };
        }
        let (why, caller) = (volume::belongs(path), volume::caller());
        Self {
            what,
            why: Some(format!("{why}, and you are {caller}")),
            next: format!(
                "run sidecar and app as the same user; or give the sidecar the app's group and GMSA_MODE=0640; or run \
                 the sidecar as root with GMSA_OWNER={caller}"
            ),
        }
    }

    fn damaged(what: &str) -> Self {
        let next = "the sidecar replaces it when it renews the ticket: POST /refresh or SIGHUP makes it do so now";
        Self { what: what.to_owned(), why: None, next: next.to_owned() }
    }
}

impl fmt::Display for CcacheListing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for cache in &self.caches {
            writeln!(f, "{cache}")?;
        }
        if let Some(problem) = &self.problem {
            writeln!(f, "{problem}")?;
        }
        let ClientEnvironment { krb5ccname, krb5_config } = &self.environment;
        for (name, value) in [("KRB5CCNAME", krb5ccname), ("KRB5_CONFIG", krb5_config)] {
            if let Some(value) = value {
                writeln!(f, "export {name}={}", quoted(value))?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for ListedCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.path)?;
        if let Some(principal) = &self.principal {
            writeln!(f, "  {principal}")?;
        }
        for ticket in &self.tickets {
            write!(f, "{ticket}")?;
        }
        match &self.problem {
            Some(problem) => write!(f, "{problem}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for ListedTicket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.tgt { "TGT" } else { "service ticket" };
        writeln!(f, "  {kind} {}", self.server)?;
        match (self.state, &self.left) {
            (Validity::NotYet, _) => write!(f, "    NOT VALID before {}: check the clocks", self.starts_at)?,
            (_, Some(left)) => write!(f, "    valid for {left}, until {}", self.expires_at)?,
            (_, None) => write!(f, "    EXPIRED at {}", self.expires_at)?,
        }
        write!(f, "\n    {}", self.session_enctype)?;
        match &self.ticket_enctype {
            Some(other) if *other != self.session_enctype => write!(f, " (ticket {other})")?,
            _ => {}
        }
        writeln!(f, "; {}", if self.flags.is_empty() { "no flags".to_owned() } else { self.flags.join(", ") })
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  what: {}", self.what)?;
        if let Some(why) = &self.why {
            writeln!(f, "  why:  {why}")?;
        }
        writeln!(f, "  next: {}", self.next)
    }
}

/// A principal for a terminal: names from a file may hold anything.
fn words(principal: &Principal) -> String {
    format!("{}@{}", principal.name().escape_debug(), principal.realm.escape_debug())
}

/// A span of time to what matters: seconds only below an hour.
fn span(from: SystemTime, to: SystemTime) -> String {
    let seconds = to.duration_since(from).unwrap_or_default().as_secs();
    let coarse = if seconds < 3600 { seconds } else { seconds - seconds % 60 };
    humantime::format_duration(Duration::from_secs(coarse)).to_string()
}

/// A path as a shell takes it.
fn quoted(path: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    if path.chars().all(plain) { path.to_owned() } else { format!("'{}'", path.replace('\'', r"'\''")) }
}

/// IANA's Kerberos encryption type names; those that MIT or AD may have put into a cache.
fn enctype(number: i32) -> String {
    let name = match number {
        1 => "des-cbc-crc",
        3 => "des-cbc-md5",
        16 => "des3-cbc-sha1-kd",
        17 => "aes128-cts-hmac-sha1-96",
        18 => "aes256-cts-hmac-sha1-96",
        19 => "aes128-cts-hmac-sha256-128",
        20 => "aes256-cts-hmac-sha384-192",
        23 => "rc4-hmac",
        24 => "rc4-hmac-exp",
        25 => "camellia128-cts-cmac",
        26 => "camellia256-cts-cmac",
        _ => return format!("enctype {number}"),
    };
    name.to_owned()
}

/// Bit, counted from the most significant, and name (RFC 4120 5.3; 15: RFC 6806 11; 16: RFC 8062 3).
const FLAGS: &[(u32, &str)] = &[
    (1, "forwardable"),
    (2, "forwarded"),
    (3, "proxiable"),
    (4, "proxy"),
    (5, "may-postdate"),
    (6, "postdated"),
    (7, "invalid"),
    (8, "renewable"),
    (9, "initial"),
    (10, "pre-authenticated"),
    (11, "hardware-authenticated"),
    (12, "transited-policy-checked"),
    (13, "ok-as-delegate"),
    (15, "enc-pa-rep"),
    (16, "anonymous"),
];

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests plant files of all kinds")]
mod tests {
    use super::*;
    use crate::kerberos::ccache::sample::{self, WrittenTicket as Sample, cache};
    use proptest::prelude::*;
    use std::fs;

    const TGT: &[&str] = &["krbtgt", "EXAMPLE.COM"];
    const START: u32 = 1_800_000_000;

    fn now() -> SystemTime {
        clock::from_unix(i64::from(START) + 1080)
    }

    fn webapp() -> Vec<u8> {
        let service = Sample(&["MSSQLSvc", "db.example.com:1433"], START, START + 1100);
        cache("WebApp01$", &[Sample(TGT, START, START + 36_000), service])
    }

    fn read(bytes: &[u8]) -> ListedCache {
        ListedCache::read(Path::new("/v/krb5cc"), bytes, now())
    }

    #[test]
    fn a_cache_reads_in_words() {
        insta::assert_snapshot!(read(&webapp()), @r"
        /v/krb5cc
          WebApp01$@EXAMPLE.COM
          TGT krbtgt/EXAMPLE.COM@EXAMPLE.COM
            valid for 9h 42m, until 2027-01-15T18:00:00Z
            aes256-cts-hmac-sha1-96; forwardable, renewable, initial, pre-authenticated, enc-pa-rep
          service ticket MSSQLSvc/db.example.com:1433@EXAMPLE.COM
            valid for 20s, until 2027-01-15T08:18:20Z
            aes256-cts-hmac-sha1-96; forwardable, renewable, initial, pre-authenticated, enc-pa-rep
        ");
    }

    #[test]
    fn a_cache_reads_as_json() {
        let mut cache = read(&webapp());
        cache.tickets.truncate(1);
        let report = CcacheListing::new(Path::new("/v"), vec![cache], now());
        insta::assert_snapshot!(serde_json::to_string_pretty(&report).unwrap(), @r#"
        {
          "valid": true,
          "environment": {
            "KRB5CCNAME": "/v/krb5cc",
            "KRB5_CONFIG": null
          },
          "caches": [
            {
              "path": "/v/krb5cc",
              "principal": "WebApp01$@EXAMPLE.COM",
              "valid": true,
              "tickets": [
                {
                  "server": "krbtgt/EXAMPLE.COM@EXAMPLE.COM",
                  "tgt": true,
                  "state": "valid",
                  "left": "9h 42m",
                  "starts_at": "2027-01-15T08:00:00Z",
                  "expires_at": "2027-01-15T18:00:00Z",
                  "renewable_until": "2027-01-16T18:00:00Z",
                  "session_enctype": "aes256-cts-hmac-sha1-96",
                  "ticket_enctype": "aes256-cts-hmac-sha1-96",
                  "flags": [
                    "forwardable",
                    "renewable",
                    "initial",
                    "pre-authenticated",
                    "enc-pa-rep"
                  ]
                }
              ],
              "problem": null
            }
          ],
          "problem": null
        }
        "#);
    }

    #[test]
    fn an_expired_or_damaged_cache_is_told() {
        let bytes = cache("WebApp01$", &[Sample(TGT, START, START + 600)]);
        let expired = read(&bytes);
        let cut = read(&bytes[..bytes.len() - 1]);
        let noise = read(b"ssh-rsa AAAA");
        insta::assert_snapshot!(CcacheListing::new(Path::new("/v"), vec![expired, cut, noise], now()), @r"
        /v/krb5cc
          WebApp01$@EXAMPLE.COM
          TGT krbtgt/EXAMPLE.COM@EXAMPLE.COM
            EXPIRED at 2027-01-15T08:10:00Z
            aes256-cts-hmac-sha1-96; forwardable, renewable, initial, pre-authenticated, enc-pa-rep

        /v/krb5cc
          WebApp01$@EXAMPLE.COM
          what: the file ends in the middle of a ticket
          next: the sidecar replaces it when it renews the ticket: POST /refresh or SIGHUP makes it do so now

        /v/krb5cc
          what: it is not a Kerberos ticket cache, or a damaged one
          next: the sidecar replaces it when it renews the ticket: POST /refresh or SIGHUP makes it do so now

          what: no valid ticket-granting ticket in `/v` at 2027-01-15T08:18:00Z
          next: read the sidecar's log, or run `gmsa-sidecar check` in its container

        export KRB5CCNAME=/v/krb5cc
        ");
    }

    #[test]
    fn only_a_valid_tgt_of_the_own_realm_counts() {
        assert!(read(&webapp()).valid);
        for (server, start, end) in [
            (["krbtgt", "OTHER.TEST"], START, START + 36_000),
            (["HTTP", "web"], START, START + 36_000),
            (["krbtgt", "EXAMPLE.COM"], START, START + 1080),
            (["krbtgt", "EXAMPLE.COM"], START + 1081, START + 36_000),
        ] {
            assert!(!read(&cache("WebApp01$", &[Sample(&server, start, end)])).valid, "{server:?} {start} {end}");
        }
    }

    #[test]
    fn names_cannot_steer_the_terminal() {
        assert_eq!(read(&cache("a\u{202e}b", &[])).principal.unwrap(), r"a\u{202e}b@EXAMPLE.COM");
        assert_eq!(read(&cache("a\x1b[2J", &[])).principal, None);
    }

    #[test]
    fn a_volume_lists_its_own_cache_then_the_accounts() {
        let volume = tempfile::tempdir().unwrap();
        for folder in ["b c", "A", "empty", "a\x1bx", ".gmsa-x", "A$"] {
            fs::create_dir(volume.path().join(folder)).unwrap();
        }
        for file in ["b c/krb5cc", "krb5cc", "A/krb5cc", "a\x1bx/krb5cc", ".gmsa-x/krb5cc", "A$/krb5cc", "file"] {
            fs::write(volume.path().join(file), webapp()).unwrap();
        }
        let report = CcacheListing::of(volume.path(), now());
        let paths: Vec<_> = report.caches.iter().map(|cache| cache.path.clone()).collect();
        let expected = ["krb5cc", "A/krb5cc", "b c/krb5cc"].map(|file| volume.path().join(file).display().to_string());
        assert_eq!(paths, expected);
        assert_eq!(report.environment, ClientEnvironment { krb5ccname: Some(expected[0].clone()), krb5_config: None });

        let mut out = vec![];
        fs::write(volume.path().join("krb5.conf"), "").unwrap();
        assert!(klist(&volume.path().join("b c/krb5cc"), false, now(), &mut out).unwrap());
        let out = String::from_utf8(out).unwrap();
        let dir = volume.path().display();
        assert!(out.contains(&format!("\nexport KRB5CCNAME='{dir}/b c/krb5cc'\nexport KRB5_CONFIG={dir}/krb5.conf\n")));
    }

    #[test]
    fn nothing_there_is_a_no_with_a_reason() {
        let volume = tempfile::tempdir().unwrap();
        let mut out = vec![];
        assert!(!klist(volume.path(), false, now(), &mut out).unwrap());
        assert!(!klist(&volume.path().join("none"), true, now(), &mut out).unwrap());
        let out = String::from_utf8(out).unwrap();
        assert!(out.contains("what: no ticket cache in `"), "{out}");
        assert!(out.contains(r#""caches": []"#), "{out}");
    }

    #[test]
    fn devices_fifos_and_giants_are_not_read() {
        for path in ["/dev/zero", "/dev/null"] {
            let cache = ListedCache::of(Path::new(path), now()).unwrap();
            assert!(cache.problem.unwrap().why.unwrap().contains("regular file"));
        }
        let giant = tempfile::NamedTempFile::new().unwrap();
        giant.as_file().set_len(1 << 40).unwrap();
        let problem = ListedCache::of(giant.path(), now()).unwrap().problem.unwrap();
        assert_eq!(problem.why.unwrap(), "it is larger than 1 MiB");
    }

    #[test]
    fn no_damage_brings_a_key_to_light() {
        let whole = webapp();
        let key = std::str::from_utf8(&sample::KEY[4..]).unwrap();
        for place in 0..whole.len() {
            for byte in (0..16).chain((16..=255).step_by(5)) {
                let mut bytes = whole.clone();
                bytes[place] = byte;
                let cache = read(&bytes);
                let text = format!("{cache}{cache:?}");
                assert!(!text.contains(key), "byte {place} as {byte}: {text}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = read(&bytes).to_string();
        }
    }
}
