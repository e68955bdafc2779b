//! `docs/faults.md`, made from the registry, the manual and the faults that the tests provoke in the lab.
//!
//! `UPDATE_DOCS=1 cargo test --lib faults_md` writes it; without the variable the test says whether it is current.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use super::manual::{PAGES, Page, owner_in_words, retry_in_words};
use super::{Code, RegistryEntry, Retry};

/// The faults that no test can provoke from outside, as the code writes them: what and why.
const UNSEEN: &[(Code, &str, &str)] = &[
    (Code::InternalBug, "the sidecar stopped because of a bug of its own", "it panicked at src/main.rs:1"),
    // Those that a caller of the host daemon sees: tests/host shows them.
    (Code::TaskRequestInvalid, "The request holds no CredSpec", ""),
    (Code::TaskHostBusy, "This host has as many calls under way as it may have", ""),
    (Code::TaskHostTimeout, "There was no ticket in time", ""),
    (Code::TaskHostDenied, "The caller runs as 1000:1000 and may not call", ""),
];

/// What and why of each code, from the snapshots of the lab's tests: blocks of `CODE exit N`, `what:`, `why:`.
fn seen() -> BTreeMap<String, (String, Option<String>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lab/snapshots");
    let mut paths: Vec<_> = folder.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let mut seen = BTreeMap::new();
    for path in paths {
        let text = std::fs::read_to_string(path).unwrap();
        let lines: Vec<_> = text.lines().collect();
        for block in lines.windows(3) {
            let [head, what, why] = block else { continue };
            let (Some((code, _)), Some(what)) = (head.split_once(" exit "), what.strip_prefix("what: ")) else {
                continue;
            };
            let why = why.strip_prefix("why:").map(str::trim).filter(|why| *why != "-").map(str::to_owned);
            // Whatever the tests blot out is put back.
            let real = |text: &str| {
                let text =
                    text.replace("VOLUME", "/var/credentials-fetcher/krbdir").replace("ADDRESS", "127.0.0.1:8488");
                text.replace(":123456789012 secret gmsa/", ":123456789012:secret:gmsa/")
            };
            seen.entry(code.to_owned()).or_insert((real(what), why.as_deref().map(real)));
        }
    }
    for (code, what, why) in UNSEEN {
        let why = Some((*why).to_owned()).filter(|why| !why.is_empty());
        assert!(seen.insert(code.name().to_owned(), ((*what).to_owned(), why)).is_none(), "{code} is seen by a test");
    }
    seen
}

fn document() -> String {
    let seen = seen();
    let mut text = String::from(HEAD);
    for RegistryEntry { code, name, exit, owner, .. } in Code::ALL {
        let (exit, retry) = (*exit as u8, code.retry().name());
        writeln!(text, "| [`{name}`](#{name}) | {exit} | {} | {retry} |", owner.name()).unwrap();
    }
    for RegistryEntry { code, name, exit, owner, next } in Code::ALL {
        let page = Page::of(*code).unwrap_or_else(|| panic!("no page for {code}"));
        let (what, why) = seen.get(*name).unwrap_or_else(|| panic!("no test shows {code}: tests/lab/examples.rs"));
        let why = why.as_ref().map(|why| format!("\n  why:  {why}")).unwrap_or_default();
        write!(
            text,
            "\n## {name}\n\nExit code {}. Fixed in {}. {}\n\n```text\ncode={name}\n  what: {what}{why}\n  next: {next}\n```\n\n\
             **Cause.** {}\n\n**Fix.** {}\n\n**See it:** `{}`\n",
            *exit as u8,
            owner_in_words(*owner),
            retry_in_words(code.retry(), *exit),
            page.cause,
            page.cure,
            page.show
        )
        .unwrap();
    }
    text
}

const HEAD: &str = "\
<!-- Made from src/fault.rs, src/fault/manual.rs and tests/lab/snapshots: UPDATE_DOCS=1 cargo test --lib faults_md -->

# Faults

Every failure has a code. Its prefix is the step that failed: `config-` settings, `task-` discovery, `credspec-` the
CredSpec, `secret-` the login, `dc-` DNS and connections, `ticket-` Kerberos, `gmsa-` the directory, `volume-` files.
The log, `/ready`, the status page and `gmsa-sidecar check` show the same four things: the *code*, *what* failed, *why*, and
what to do *next*. If several steps fail, fix the first one; `gmsa-sidecar check` lists the steps in order. In a container,
`gmsa-sidecar explain CODE` prints the page of a code.

The examples use the names of the project's lab: the domain `example.com`, the gMSA `WebApp01`, the login `svc-fetcher`. Replace
words in capitals. Commands with `AD` in their name are PowerShell, on a host with the RSAT tools. In the examples, *next* is the
general advice; the log names the real values where it knows them.

| code | exit | owner | retried |
| --- | --- | --- | --- |
";

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "a test reads the variable of the test command, and writes where it is asked to"
)]
fn faults_md_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/faults.md");
    let wanted = document();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &wanted).unwrap();
    }
    let current = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(current == wanted, "docs/faults.md is not current: UPDATE_DOCS=1 cargo test --lib faults_md");
}

#[test]
fn every_code_has_one_page() {
    let mut codes: Vec<_> = PAGES.iter().map(|page| page.code as usize).collect();
    codes.sort_unstable();
    assert!(codes.iter().copied().eq(0..Code::ALL.len()), "{codes:?}");
}

/// What is told of the retries is what the schedule does.
#[test]
fn the_schedule_keeps_what_the_registry_says() {
    for entry in Code::ALL {
        let first = crate::lease::schedule::retry(entry.code, 1, 1.0).as_secs();
        assert_eq!(entry.code.retry() == Retry::Slowly, first >= 30, "{}", entry.name);
        assert_eq!(entry.code.retry() == Retry::Never, entry.code.is_config() || entry.code == Code::InternalBug);
    }
}
