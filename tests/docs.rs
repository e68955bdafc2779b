//! The documents tell what the program does.
#![cfg(test)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(root().join(path)).unwrap()
}

fn sources(folder: PathBuf, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(path, found);
        } else if path.extension().is_some_and(|end| end == "rs") && !path.ends_with("tests.rs") {
            found.push(path);
        }
    }
}

/// Every name of an event that stands in the source, outside of tests: `"lease.renewed"`.
fn events() -> BTreeSet<String> {
    let mut paths = Vec::new();
    sources(root().join("src"), &mut paths);
    let mut events = BTreeSet::new();
    for path in paths {
        let text = read(&path);
        let product = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        // Every other part between quotes is a literal, or at worst something that is no event's name.
        events.extend(product.split('"').filter(|literal| is_event(literal)).map(str::to_owned));
    }
    events
}

fn is_event(literal: &str) -> bool {
    const STEPS: [&str; 16] = [
        "aws", "sidecar", "config", "task", "credspec", "secret", "login", "dc", "clock", "lease", "ticket", "gmsa",
        "volume", "refresh", "log", "step",
    ];
    let Some((step, name)) = literal.split_once('.') else { return false };
    (STEPS.contains(&step) || ["http", "host"].contains(&step))
        && !name.is_empty()
        && name != "json"
        && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-')
}

#[test]
fn events_md_lists_every_event_and_no_other() {
    let told: BTreeSet<_> = read("docs/events.md")
        .lines()
        .filter_map(|line| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_owned()))
        .collect();
    assert_eq!(told, events(), "docs/events.md (left) and the source (right) differ");
    assert!(told.contains("lease.renewed"));
}

/// The texts that people read name codes: each of them is in the registry.
#[test]
fn documents_name_only_codes_that_exist() {
    let faults = read("docs/faults.md");
    for document in ["docs/troubleshooting.md", "examples/alert-rules.yaml", "examples/grafana-dashboard.json"] {
        let text = read(document);
        for part in text.split("faults.md#").skip(1) {
            let code: String = part.chars().take_while(|c| c.is_ascii_lowercase() || *c == '-').collect();
            assert!(faults.contains(&format!("\n## {code}\n")), "{document}: {code}");
        }
    }
}

/// gokrb5, and with it every Go client, takes `FILE:/path` for a relative path.
#[test]
fn documents_and_examples_name_the_cache_by_its_plain_path() {
    fn texts(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { texts(&path, found) } else { found.push(path) }
        }
    }
    let mut paths = vec![root().join("README.md"), root().join("task-definition.example.json")];
    for folder in ["docs", "examples"] {
        texts(&root().join(folder), &mut paths);
    }
    let mut named = 0;
    for path in paths {
        let text = read(&path);
        assert!(!text.contains("FILE:/var/"), "{} names the type of the cache", path.display());
        named += text.matches("KRB5CCNAME").count();
    }
    assert!(named > 8, "{named}");
}
