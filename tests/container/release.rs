//! What the release workflow runs.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

use crate::docker::image;
use crate::support::root;

const VERSION: &str = env!("CARGO_PKG_VERSION");

#[test]
#[ignore = "needs a container engine: scripts/test-container"]
fn binaries_sbom_and_checksums_are_made() {
    let dist = TempDir::new().expect("a folder");
    let dir = dist.path().to_str().expect("a path");
    release(root(), &["files", &image(), dir]);
    release(root(), &["sbom", dir]);
    release(root(), &["sums", dir]);

    let binary = format!("gmsa-sidecar-{VERSION}-linux-amd64");
    let sums = Command::new("sha256sum").args(["--check", "SHA256SUMS"]).current_dir(dir).output().expect("it runs");
    let bill = format!("gmsa-sidecar-{VERSION}.cdx.json");
    assert_eq!(text(sums.stdout), format!("{binary}: OK\n{bill}: OK\n"));

    let said = Command::new(dist.path().join(binary)).arg("--version").output().expect("the binary runs");
    assert_eq!(text(said.stdout), format!("gmsa-sidecar {VERSION}\n"));

    let bill = std::fs::read_to_string(dist.path().join(bill)).expect("an SBOM");
    assert!(!bill.contains(root().to_str().expect("a path")));
    let bill: Value = serde_json::from_str(&bill).expect("JSON");
    assert_eq!(
        (&bill["bomFormat"], &bill["metadata"]["component"]["name"]),
        (&"CycloneDX".into(), &"gmsa-sidecar".into())
    );
    let components = bill["components"].as_array().expect("components");
    let has = |name: &str| components.iter().any(|component| component["name"] == name);
    assert!(has("krb5") && has("rustls") && has("tokio"), "what is in the binary");
    assert!(!has("insta") && !has("proptest"), "what only tests use");
}

#[test]
#[ignore = "needs a container engine: scripts/test-container"]
fn one_command_sets_the_version_everywhere() {
    let clone = TempDir::new().expect("a folder");
    let copy = clone.path();
    // What git knows, as it is now.
    let list =
        "git ls-files -z | xargs -0 cp --parents --target-directory \"$0\" && cd \"$0\" && git init -q && git add -A";
    let copied = Command::new("sh").args(["-c", list]).arg(copy).current_dir(root()).output().expect("sh runs");
    assert!(copied.status.success(), "{}", text(copied.stderr));

    release(copy, &["check", &format!("v{VERSION}")]);
    release(copy, &["bump", "97.98.99"]);
    release(copy, &["check", "v97.98.99"]);
    assert!(!call(copy, &["check", &format!("v{VERSION}")]).status.success());

    // Cargo would change a lock file that does not fit.
    let metadata = ["metadata", "--locked", "--offline", "--format-version=1", "--no-deps"];
    let metadata = Command::new("cargo").args(metadata).current_dir(copy).output().expect("cargo runs");
    let metadata: Value = serde_json::from_slice(&metadata.stdout).expect("JSON");
    assert_eq!(metadata["packages"][0]["version"], "97.98.99");
    let left = Command::new("git").args(["grep", "-F", &format!("gmsa-sidecar:{VERSION}")]).current_dir(copy).output();
    assert_eq!(text(left.expect("git runs").stdout), "");
    let example = std::fs::read_to_string(copy.join("task-definition.example.json")).expect("an example");
    assert!(example.contains("gmsa-sidecar:97.98.99"));
}

/// Every script and subcommand that the workflow calls is there.
#[test]
#[ignore = "needs a container engine: scripts/test-container"]
fn the_workflow_calls_what_there_is() {
    let workflow = std::fs::read_to_string(root().join(".github/workflows/release.yml")).expect("the workflow");
    let script = std::fs::read_to_string(root().join("scripts/release")).expect("the script");
    let calls: Vec<Vec<&str>> = workflow
        .lines()
        .filter_map(|line| line.split_once("run: scripts/").map(|(_, call)| call.split(' ').collect()))
        .collect();
    assert!(calls.len() >= 4, "{calls:?}");
    for call in calls {
        assert!(root().join("scripts").join(call[0]).exists(), "{call:?}");
        if call[0] == "release" {
            assert!(script.contains(&format!("  '{} {}')", call[1], call.len() - 1)), "{call:?}");
        }
    }
}

#[track_caller]
fn release(root: &Path, arguments: &[&str]) {
    let output = call(root, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", text(output.stderr));
}

fn call(root: &Path, arguments: &[&str]) -> Output {
    Command::new(root.join("scripts/release")).args(arguments).current_dir(root).output().expect("the script runs")
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("text")
}
