//! Rules that this repository keeps: its workflows, its scripts. No lab and no container engine.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "tests read the environment, write files, and panic where they cannot go on"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use yaml_rust2::{Yaml, YamlLoader};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(root().join(path)).unwrap()
}

fn workflows() -> Vec<(PathBuf, String)> {
    let folder = root().join(".github/workflows");
    let mut found: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), read(path)))
        .collect();
    found.sort();
    found
}

/// The first names of all paths below `crate` in a source file, tests left out.
fn imports(source: &str) -> Vec<&str> {
    let code = source.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let name = |text: &str| text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    code.split("crate::")
        .skip(1)
        .flat_map(|path| match path.strip_prefix('{') {
            Some(list) => list.split('}').next().unwrap().split(',').map(str::trim).collect(),
            None => vec![path],
        })
        .map(|path| &path[..name(path)])
        .collect()
}

/// The modules of `src`, each with those that it imports.
fn modules() -> BTreeMap<String, BTreeSet<String>> {
    let mut found = BTreeMap::<_, BTreeSet<_>>::new();
    let mut left = vec![root().join("src")];
    while let Some(path) = left.pop() {
        if path.is_dir() {
            left.extend(std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        let inside = path.strip_prefix(root().join("src")).unwrap().to_str().unwrap();
        // The document of the faults is made from examples of all of them; tests and their stand-ins look everywhere.
        if inside.contains("tests") || inside.ends_with("fakes.rs") || inside == "fault/document.rs" {
            continue;
        }
        let module = inside.split(['/', '.']).next().unwrap().to_owned();
        let all = found.entry(module.clone()).or_default();
        all.extend(imports(&read(&path)).into_iter().filter(|name| *name != module).map(str::to_owned));
    }
    found
}

/// One circle of imports, if there is one.
fn circle(modules: &BTreeMap<String, BTreeSet<String>>) -> Option<Vec<String>> {
    fn walk(
        modules: &BTreeMap<String, BTreeSet<String>>,
        path: &mut Vec<String>,
        done: &mut BTreeSet<String>,
    ) -> Option<Vec<String>> {
        let here = path.last().unwrap().clone();
        for next in modules.get(&here).into_iter().flatten() {
            if let Some(at) = path.iter().position(|module| module == next) {
                return Some(path[at..].to_vec());
            }
            if !done.contains(next) {
                path.push(next.clone());
                if let Some(found) = walk(modules, path, done) {
                    return Some(found);
                }
                path.pop();
            }
        }
        done.insert(here);
        None
    }
    let mut done = BTreeSet::new();
    modules.keys().find_map(|module| walk(modules, &mut vec![module.clone()], &mut done))
}

#[test]
fn no_modules_import_each_other() {
    let modules = modules();
    assert!(modules.len() > 15 && modules["directory"].contains("kerberos"), "{modules:?}");
    assert_eq!(circle(&modules), None);
    let mut turned = modules;
    turned.get_mut("kerberos").unwrap().insert("directory".to_owned());
    assert!(circle(&turned).is_some(), "a circle is found");
}

#[test]
fn every_workflow_keeps_the_rules() {
    let found = workflows();
    assert!(found.len() >= 3, "{found:?}");
    for (path, text) in found {
        assert_eq!(complaints(&text), "", "{}", path.display());
    }
}

#[test]
fn a_workflow_that_breaks_a_rule_is_found() {
    let release = read(".github/workflows/release.yml");
    let checkout = "actions/checkout@de0fac2e4500dabe0009e67214ff5f5447ce83dd # v6.0.2";
    for (from, to, complaint) in [
        (checkout, "actions/checkout@v6", "no commit"),
        (checkout, "actions/checkout@de0fac2", "no commit"),
        (checkout, "actions/checkout@main # v6.0.2", "no commit"),
        (checkout, "actions/checkout@de0fac2e4500dabe0009e67214ff5f5447ce83dd", "no version"),
        (checkout, "docker://alpine:3", "no commit"),
        ("permissions: {}", "permissions: { contents: read }", "permissions of the workflow"),
        ("permissions: {}\n", "", "permissions of the workflow"),
        ("    permissions: { contents: write }\n", "", "release: permissions"),
        ("permissions: { contents: write }", "permissions: write-all", "release: permissions"),
        ("permissions: { contents: read }\n    env:", "permissions: { packages: write }\n    env:", "build: compiles"),
        ("persist-credentials: false", "persist-credentials: true", "credentials"),
        ("runs-on: ubuntu-24.04\n", "runs-on: ubuntu-latest\n", "runner"),
        ("    timeout-minutes: 15\n", "", "timeout"),
        ("needs: test\n", "needs: []\n", "before the tests"),
        ("uses: ./.github/workflows/test.yml", "uses: ./.github/workflows/other.yml", "before the tests"),
        ("dist/*\n        env", "${{ github.event.head_commit.message }}\n        env", "in a command"),
        ("tags: [\"v*\"]", "tags: [\"v*\"]\n  pull_request_target:", "trigger"),
        ("--provenance", "--provenance", ""),
    ] {
        let changed = release.replacen(from, to, 1);
        assert_eq!(complaint.is_empty(), changed == release, "{from}: is not there");
        let said = complaints(&changed);
        assert!(said.contains(complaint), "{from} -> {to}: {said}");
    }
    // The job that signs, and what it might do instead.
    let login = "docker login ghcr.io --username \"$GITHUB_ACTOR\" --password-stdin <<<\"$TOKEN\"";
    let (before, attest) = release.split_once("  attest:\n").unwrap();
    for command in [
        "cargo install cosign",
        "pip install sigstore",
        "apt-get install cosign",
        "curl -o cosign https://example.com/cosign",
        "scripts/release sbom amd64 dist",
        "sha256sum --check x && npm ci",
        "docker run alpine",
        "./dist/gmsa-sidecar-*-amd64 --version",
        "docker login; sh x",
    ] {
        let changed = format!("{before}  attest:\n{}", attest.replacen(login, command, 1));
        assert_ne!(changed, release);
        let said = complaints(&changed);
        assert!(said.contains("attest: signs and runs"), "{command}: {said}");
    }
    let other = "actions/attest@59d89421af93a897026c735860bf21b6eb4f7b26 # v4.1.0";
    let said = complaints(&release.replacen(other, checkout, 1));
    assert!(said.contains("attest: signs and uses"), "{said}");
    // A container that is not pinned.
    let test = read(".github/workflows/test.yml");
    let at = test.find("@sha256:").unwrap();
    let said = complaints(&format!("{}{}", &test[..at], &test[at + "@sha256:".len() + 64..]));
    assert!(said.contains("image"), "{said}");
}

/// One line for each rule that a workflow breaks.
fn complaints(text: &str) -> String {
    let document = &YamlLoader::load_from_str(text).unwrap()[0];
    let mut said = String::new();
    let mut say = |complaint: &str| writeln!(said, "{complaint}").unwrap();
    for line in text.lines() {
        let Some((_, action)) =
            line.trim_start_matches([' ', '-']).split_once("uses: ").filter(|(key, _)| key.is_empty())
        else {
            continue;
        };
        if action.starts_with("./") {
            continue;
        }
        let (name, comment) = action.split_once(" # ").unwrap_or((action, ""));
        let commit = name.split_once('@').map_or("", |(_, commit)| commit);
        if commit.len() != 40 || !commit.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            say(&format!("{name}: no commit"));
        }
        if !comment.starts_with('v') || comment.matches('.').count() != 2 {
            say(&format!("{name}: no version in a comment"));
        }
    }
    if !document["permissions"].as_hash().is_some_and(|permissions| permissions.is_empty()) {
        say("permissions of the workflow: they belong to each job");
    }
    let triggers: Vec<_> = match &document["on"] {
        Yaml::Hash(map) => map.keys().filter_map(Yaml::as_str).collect(),
        Yaml::Array(list) => list.iter().filter_map(Yaml::as_str).collect(),
        other => other.as_str().into_iter().collect(),
    };
    let harmless = ["pull_request", "push", "schedule", "workflow_call", "workflow_dispatch"];
    if triggers.is_empty() || triggers.iter().any(|trigger| !harmless.contains(trigger)) {
        say(&format!("trigger: {triggers:?}"));
    }
    let jobs = document["jobs"].as_hash().unwrap();
    let releases = document["on"]["push"]["tags"].as_vec().is_some();
    for (name, job) in jobs {
        let name = name.as_str().unwrap();
        for complaint in of_job(job) {
            say(&format!("{name}: {complaint}"));
        }
        if releases && !tested(document, name, jobs.len()) {
            say(&format!("{name}: runs before the tests"));
        }
    }
    said
}

/// Whether the job is the one that runs the tests, or needs it, by others perhaps.
fn tested(document: &Yaml, name: &str, depth: usize) -> bool {
    let job = &document["jobs"][name];
    let needs = match &job["needs"] {
        Yaml::Array(list) => list.iter().filter_map(Yaml::as_str).collect(),
        one => Vec::from_iter(one.as_str()),
    };
    job["uses"].as_str() == Some("./.github/workflows/test.yml")
        || depth > 0 && needs.into_iter().any(|needed| tested(document, needed, depth - 1))
}

fn of_job(job: &Yaml) -> Vec<String> {
    let mut said = Vec::new();
    let Some(permissions) = job["permissions"].as_hash() else {
        return vec!["permissions are missing, or all".to_owned()];
    };
    let writes = |what: &str| permissions.get(&Yaml::from_str(what)).and_then(Yaml::as_str) == Some("write");
    if job["uses"].as_str().is_some() {
        return said; // what it calls is looked at by itself
    }
    if job["timeout-minutes"].as_i64().is_none() {
        said.push("timeout is missing".to_owned());
    }
    if job["runs-on"].as_str().is_none_or(|runner| runner.ends_with("latest")) {
        said.push("runner without a version".to_owned());
    }
    for image in [&job["container"], &job["container"]["image"]].into_iter().filter_map(Yaml::as_str) {
        if image.split_once("@sha256:").is_none_or(|(_, digest)| digest.len() != 64) {
            said.push(format!("image {image} is not pinned"));
        }
    }
    if !job["services"].is_badvalue() {
        said.push("image of a service: nothing looks at it".to_owned());
    }
    for step in job["steps"].as_vec().unwrap() {
        let (uses, run) = (step["uses"].as_str().unwrap_or_default(), step["run"].as_str().unwrap_or_default());
        // What is put into a command is run; an environment variable is not.
        if run.contains("${{") {
            said.push(format!("an expression in a command: {run}"));
        }
        if uses.starts_with("actions/checkout@") && step["with"]["persist-credentials"].as_bool() != Some(false) {
            said.push("checkout leaves its credentials".to_owned());
        }
        if ["scripts/build-", "scripts/test", "scripts/release sbom", "cargo "]
            .iter()
            .any(|start| run.starts_with(start))
            && permissions.values().any(|level| level.as_str() != Some("read"))
        {
            said.push(format!("compiles where something may be written: {run}"));
        }
        if writes("id-token") {
            if !uses.is_empty()
                && !["actions/attest@", "actions/download-artifact@"].iter().any(|one| uses.starts_with(one))
            {
                said.push(format!("signs and uses {uses}"));
            }
            if !run.is_empty() && !harmless_by_the_key(run) {
                said.push(format!("signs and runs {run}"));
            }
        }
    }
    said
}

/// What a job that may sign runs: checksums and the login to the registry, which are on the runner.
fn harmless_by_the_key(run: &str) -> bool {
    let harmless = ["sha256sum --check ", "docker login ghcr.io --username \"$GITHUB_ACTOR\" --password-stdin <<<"];
    !run.contains([';', '|', '`', '\n'])
        && !run.contains("$(")
        && run.split(" && ").all(|command| harmless.iter().any(|start| command.starts_with(start)))
}

/// A tag can be moved, and what is built would be another's.
#[test]
fn every_image_that_a_release_is_built_on_is_pinned_by_digest() {
    let dockerfile = read("Dockerfile");
    let mut known = vec!["scratch".to_owned()];
    let mut bases = 0;
    for line in dockerfile.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        match words.as_slice() {
            ["ARG", default] if default.contains("_IMAGE=") => {
                let (name, image) = default.split_once('=').unwrap();
                let digest = image.split_once("@sha256:").map_or("", |(_, digest)| digest);
                assert!(digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()), "{line}");
                known.push(format!("${{{name}}}"));
                bases += 1;
            }
            ["FROM", image, rest @ ..] => {
                assert!(known.iter().any(|one| one == image), "{line}");
                known.extend(rest.get(1).map(|&stage| stage.to_owned()));
            }
            ["COPY", from, ..] if from.starts_with("--from=") => {
                assert!(known.iter().any(|one| from.ends_with(one.as_str())), "{line}");
            }
            _ => assert!(!line.starts_with("# syntax"), "{line}"),
        }
    }
    assert_eq!(bases, 1);
    assert!(read(".github/workflows/release.yml").contains("PINNED_BASE: \"yes\""));
}

/// Whatever this machine trusts: its folders of certificates are hidden from the script.
#[test]
fn the_certificate_authorities_of_the_image_are_not_those_of_the_builder() {
    let folder = tempfile::tempdir().unwrap();
    let script = "
        for store in /etc/ssl /usr/share/ca-certificates /usr/local/share/ca-certificates /etc/pki; do
            if [ -d $store ]; then mount -t tmpfs none $store; fi
        done
        unset \"${!CARGO_PKG@}\" CARGO_MANIFEST_DIR
        CARGO_NET_OFFLINE=true scripts/image-root /bin/true \"$0\"";
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "bash", "-euc", script]).arg(folder.path().join("out")).current_dir(root());
    let output = unshare.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let bundle = std::fs::read_to_string(folder.path().join("out/etc/ssl/certs/ca-certificates.crt")).unwrap();
    let count = bundle.matches("-----BEGIN CERTIFICATE-----").count();
    assert!(count > 100 && count == bundle.matches("-----END CERTIFICATE-----").count(), "{count}");
    assert!(read("scripts/ca-bundle/Cargo.lock").matches("checksum = ").count() >= 2);
}

/// A panic, or an assertion in C, would say where it was built.
#[test]
fn the_static_binary_holds_no_path_of_its_builder() {
    let Some(binary) = std::env::var_os("GMSA_SIDECAR_UNDER_TEST")
        .filter(|path| !path.is_empty() && !path.to_string_lossy().contains("debug"))
    else {
        println!("no static binary is under test");
        return;
    };
    let bytes = std::fs::read(root().join(binary)).unwrap();
    let printable = |byte: &u8| (b' '..=b'~').contains(byte);
    let texts: Vec<_> = bytes.split(|byte| !printable(byte)).map(String::from_utf8_lossy).collect();
    let here = root().to_str().unwrap();
    let told: Vec<_> = ["/.cargo/", "/root/", "/home/", "registry/src", "/.rustup/", here]
        .iter()
        .flat_map(|path| texts.iter().filter(move |text| text.contains(path)))
        .collect();
    assert!(told.is_empty(), "{told:#?}");
    // It does name files, and these are the words for them.
    assert!(texts.iter().any(|text| text.contains("/crates/tokio-")));
}

/// The words that texts avoid are looked for where users read them, and nowhere else.
#[test]
fn the_check_of_the_prose_finds_words_in_strings_and_pages() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let source = file(
        "source.rs",
        r##"
/// Whoever reads this shall cure it: a comment.
/* beside /* lest */ anew */
fn f<'a>(told: &'a str) -> String {
    let quote = '"';
    let escaped = "\" // shall"; // nobody
    let raw = r#"a "b" // is no CredSpec"#;
    format!("{told} is \
             wanted {told:?}, and there is no other, which is no longer")
}
#[cfg(test)]
mod tests {
    const X: &str = "make it anew";
}
"##,
    );
    let page = file("page.md", "# Page\n\nAn attacker sends what he\nlikes, all the\nsame. She is no `X`.\n");
    let clean = file("clean.md", "There is no way to say besides that the shell is a place of this_is_no_name.\n");
    let check = |arguments: &[&str], files: &[&PathBuf]| {
        let mut command = Command::new(root().join("scripts/check-prose"));
        let output = command.args(arguments).args(files).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, said) = check(&["--list", "--fatal"], &[&source, &page]);
    let lines: Vec<_> = said
        .lines()
        .filter_map(|line| line.strip_prefix("  ")?.split_once(": "))
        .filter_map(|(line, rest)| Some((line.trim().parse::<u32>().ok()?, rest.split_once("    -> ")?.1)))
        .collect();
    let expected = [
        (6, "must, or the present tense"),
        (7, "is not a valid ..."),
        (8, "expected"),
        (3, "they, for an attacker"),
        (4, "anyway"),
        (5, "is not a valid ..."),
    ];
    assert_eq!((code, lines.as_slice()), (1, expected.as_slice()), "{said}");
    assert_eq!(check(&[], &[&source, &page]).0, 0, "it counts until it is asked to fail");
    let (code, said) = check(&["--fatal"], &[&clean]);
    assert_eq!((code, said.as_str()), (0, "0 words to avoid in 1 texts\n"));
}

/// What CONTRIBUTING.md and the decisions point to is there.
#[test]
fn the_places_that_contributors_are_sent_to_exist() {
    let mut pages: Vec<_> =
        std::fs::read_dir(root().join("docs/adr")).unwrap().map(|entry| entry.unwrap().path()).collect();
    pages.push(root().join("CONTRIBUTING.md"));
    let (mut looked, index) = (0, read("docs/adr/README.md"));
    for page in &pages {
        let text = read(page);
        let is_path = |word: &&str| {
            let known = ["src/", "tests/", "docs/", "scripts/", "lab/", "fuzz/", ".github/"];
            known.iter().any(|start| word.starts_with(start))
        };
        for word in text.split('`').skip(1).step_by(2).filter_map(|code| code.split_whitespace().next()).filter(is_path)
        {
            assert!(root().join(word).exists(), "{}: {word}", page.display());
            looked += 1;
        }
        for link in text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next()) {
            assert!(page.parent().unwrap().join(link).exists(), "{}: {link}", page.display());
            looked += 1;
        }
        let name = page.file_name().unwrap().to_str().unwrap();
        assert!(!name.starts_with("0") || index.contains(&format!("]({name})")), "docs/adr/README.md lists {name}");
    }
    assert!(looked > 40, "{looked}");
}
