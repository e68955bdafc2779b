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

/// Every file of Rust below a folder.
fn rust(folder: PathBuf, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust(path, found);
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push(path);
        }
    }
}

/// The same without those that hold tests only.
fn sources(folder: PathBuf, found: &mut Vec<PathBuf>) {
    rust(folder, found);
    found.retain(|path| !path.ends_with("tests.rs"));
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
            match path.extension() {
                _ if path.is_dir() => texts(&path, found),
                Some(picture) if picture == "png" => {}
                _ => found.push(path),
            }
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

/// What a text names in backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// Each claim of the threat model, and each case from the field, has the test that shows it: a test named there exists.
#[test]
fn documents_name_tests_that_exist() {
    let mut files = Vec::new();
    rust(root().join("src"), &mut files);
    rust(root().join("tests"), &mut files);
    // A function, or a row of a macro that makes tests.
    let names = |text: &str| -> BTreeSet<String> {
        let word = |rest: &str| rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or("").to_owned();
        let line = |line: &str| {
            let line = line.trim_start();
            let function = line.split("fn ").nth(1).map(word);
            function.or_else(|| line.split_once(": \"").map(|(row, _)| row.to_owned()))
        };
        text.lines().filter_map(line).collect()
    };
    let known: BTreeSet<String> = files.iter().flat_map(|path| names(&read(path))).collect();
    for page in ["docs/field-cases.md", "docs/reliability.md"] {
        for name in quoted(&read(page)).filter(|name| name.contains("::")) {
            let last = name.rsplit("::").next().unwrap();
            assert!(known.contains(last) || last.ends_with(".."), "{page} names a test that does not exist: {name}");
        }
    }
    let mut tests = 0;
    for name in quoted(&read("docs/threat-model.md")) {
        let is_path = name.starts_with("hostile::");
        let is_word =
            |part: &str| part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '.');
        let last = name.rsplit("::").next().unwrap();
        // A setting of MIT's library, and tests are called by sentences.
        if !is_word(last) || !last.contains('_') || last.contains(".r") || last == "enforce_ok_as_delegate" {
            continue;
        }
        tests += 1;
        let place = match name.split("::").collect::<Vec<_>>().as_slice() {
            ["hostile", module, _] => names(&read(format!("tests/lab/hostile/{module}.rs"))),
            _ => known.clone(),
        };
        let exists = match last.strip_suffix("..") {
            Some(prefix) => place.iter().any(|name| name.starts_with(prefix)),
            None => match last.strip_prefix("..") {
                Some(suffix) => place.iter().any(|name| name.ends_with(suffix)),
                None => place.contains(last),
            },
        };
        assert!(
            exists,
            "docs/threat-model.md names `{name}`: there is no such test{}",
            if is_path { " there" } else { "" }
        );
    }
    assert!(tests > 25, "{tests}: names of tests are not found any more");
}
