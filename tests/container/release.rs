//! What the release workflow runs.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::{NamedTempFile, TempDir};
use yaml_rust2::YamlLoader;

use crate::docker::docker;
use crate::support::{root, write};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Runs the lines of the workflow's job `build`, in their order, as a tag would; only the image of Rust need not be pulled.
/// What other jobs do with the registry and the attestations is not for here; tests/house.rs reads them.
#[test]
#[ignore = "needs a container engine: scripts/test-container"]
fn the_workflow_makes_image_binary_sbom_and_checksums() {
    let dist = TempDir::new().expect("a folder");
    let dir = dist.path().to_str().expect("a path");
    let tag = format!("gmsa-sidecar:release-test-{}", std::process::id());
    let workflow = std::fs::read_to_string(root().join(".github/workflows/release.yml")).expect("the workflow");
    let workflow = &YamlLoader::load_from_str(&workflow).expect("YAML")[0];
    let steps = workflow["jobs"]["build"]["steps"].as_vec().expect("steps").iter();
    let output = NamedTempFile::new().expect("a file");
    let mut ran = 0;
    for step in steps.filter_map(|step| step["run"].as_str()) {
        let step = step.replace(" dist", &format!(" {dir}"));
        let mut command = bash(&step);
        command.env("TAG", &tag).env("ARCH", "amd64").env("GITHUB_REF_NAME", format!("v{VERSION}"));
        let output = command.env("GITHUB_OUTPUT", output.path()).output().expect("bash runs");
        assert!(output.status.success(), "{step}: {}", text(output.stderr));
        ran += 1;
    }
    assert_eq!(ran, 5);
    let made = docker(&["image", "inspect", &tag]).json();
    assert_eq!((&made[0]["Architecture"], &made[0]["Os"]), (&"amd64".into(), &"linux".into()));
    docker(&["image", "rm", &tag]).ok();
    let mut load = vec!["load", "--quiet", "--input"];
    let saved = format!("{dir}/image-amd64.tar");
    load.push(&saved);
    assert_eq!(docker(&load).ok().trim(), format!("Loaded image: {tag}"));
    docker(&["image", "rm", &tag]).ok();

    let binary = format!("gmsa-sidecar-{VERSION}-linux-amd64");
    let bill = format!("{binary}.cdx.json");
    let sums = Command::new("sha256sum").args(["--check", "SHA256SUMS"]).current_dir(dir).output().expect("it runs");
    assert_eq!(text(sums.stdout), format!("{binary}: OK\n{bill}: OK\nimage-amd64.tar: OK\n"));

    let said = Command::new(dist.path().join(&binary)).arg("--version").output().expect("the binary runs");
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
    assert!(has("rustls") && has("tokio"), "what is in the binary");
    assert!(!has("insta") && !has("proptest"), "what only tests use");

    // What the next job gets is what its output says.
    let output = std::fs::read_to_string(output.path()).expect("the outputs");
    let sum = output.strip_prefix("amd64=").and_then(|sum| sum.strip_suffix('\n')).expect("one output");
    release(root(), &["verify", dir, sum]);
    let fails = |sum: &str| !call(root(), &["verify", dir, sum]).status.success();
    assert!(fails(&sum.replace(|_: char| true, "0")));
    bash("touch \"$0\"").arg(dist.path().join("more")).output().expect("bash runs");
    assert!(fails(sum), "a file that is not in the list");
    std::fs::remove_file(dist.path().join("more")).expect("it goes");
    bash("echo more >>\"$0\"").arg(dist.path().join(&binary)).output().expect("bash runs");
    assert!(fails(sum), "a file that was changed");
}

/// A registry of our own, for as long as this lives.
struct Registry(Child);

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
#[ignore = "needs a container engine: scripts/test-container"]
fn images_of_two_architectures_are_joined_by_the_digests_of_their_push() {
    let folder = TempDir::new().expect("a folder");
    let path = |name: &str| folder.path().join(name).to_str().expect("a path").to_owned();
    let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
    let (address, storage) = (format!("127.0.0.1:{port}"), path("registry"));
    let settings =
        format!("version: 0.1\nstorage: {{filesystem: {{rootdirectory: {storage}}}}}\nhttp: {{addr: '{address}'}}\n");
    write(Path::new(&path("settings")), &settings);
    let mut command = Command::new("docker-registry");
    let child = command.args(["serve", &path("settings")]).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let _registry = Registry(child.expect("the registry starts"));
    let start = Instant::now();
    while std::net::TcpStream::connect(&address).is_err() {
        assert!(start.elapsed() < Duration::from_secs(30), "the registry does not answer");
        std::thread::sleep(Duration::from_millis(50));
    }

    let image = format!("{address}/owner/gmsa-sidecar");
    let push = |arch: &str| {
        let (tag, dist) = (format!("gmsa-sidecar:join-{}-{arch}", std::process::id()), path(arch));
        let out = path("out");
        let made = bash("mkdir -p \"$0/out\" && echo \"$1\" >\"$0/out/gmsa-sidecar\" && tar -C \"$0/out\" -c . | docker import --platform \"linux/$1\" - \"$2\"")
            .args([&out, arch, &tag])
            .output()
            .expect("bash runs");
        assert!(made.status.success(), "{}", text(made.stderr));
        bash("mkdir \"$0\" && docker save --output \"$0/image-$1.tar\" \"$2\" && docker image rm \"$2\"")
            .args([&dist, arch, &tag])
            .output()
            .expect("bash runs");
        let pushed = call(root(), &["push", &dist, &image]);
        assert!(pushed.status.success(), "{}", text(pushed.stderr));
        text(pushed.stdout).trim().to_owned()
    };
    let (amd64, arm64) = (push("amd64"), push("arm64"));
    // A tag may have been moved in between.
    for tag in ["latest", &format!("{VERSION}-amd64")] {
        assert!(!call(root(), &["join", &image, &amd64, tag]).status.success(), "{tag} is not a digest");
    }
    assert!(!call(root(), &["join", &image, &amd64]).status.success(), "one is missing");
    let joined = call(root(), &["join", &image, &amd64, &arm64]);
    assert!(joined.status.success(), "{}", text(joined.stderr));
    let digest = text(joined.stdout).trim().to_owned();
    for reference in [format!("{image}@{digest}"), format!("{image}:{VERSION}"), format!("{image}:latest")] {
        let list = docker(&["buildx", "imagetools", "inspect", "--raw", &reference]).json();
        let of = |n: usize| {
            (list["manifests"][n]["digest"].clone(), list["manifests"][n]["platform"]["architecture"].clone())
        };
        assert_eq!(of(0), (amd64.as_str().into(), "amd64".into()), "{reference}");
        assert_eq!(of(1), (arm64.as_str().into(), "arm64".into()), "{reference}");
    }
    for arch in ["amd64", "arm64"] {
        docker(&["image", "rm", &format!("{image}:{VERSION}-{arch}")]).ok();
    }
}

/// Where an image of Rust can be pulled the Dockerfile compiles by itself, with nothing but what .dockerignore lets through.
#[test]
#[ignore = "needs a container engine: scripts/test-container"]
fn the_image_can_be_built_from_its_context() {
    let context = TempDir::new().expect("a folder");
    let folder = context.path();
    let export = "printf 'FROM scratch\nCOPY . /\n' | docker buildx build --output type=local,dest=\"$0\" --file - .";
    let output = bash(export).arg(folder).output().expect("bash runs");
    assert!(output.status.success(), "{}", text(output.stderr));
    for script in ["image-root", "no-unwinding.ld", "remap-paths", "ca-bundle/Cargo.lock", "ca-bundle/src/main.rs"] {
        assert!(folder.join("scripts").join(script).exists(), "{script}");
    }
    assert!(!folder.join("tests").exists());

    // What is compiled already need not be again.
    let target = Path::new(env!("CARGO_BIN_EXE_gmsa-sidecar")).ancestors().nth(2).expect("a folder");
    let mut check = bash("cargo check --locked --offline --target-dir \"$0\"");
    let output = check.arg(target).current_dir(folder).output().expect("bash runs");
    assert!(output.status.success(), "{}", text(output.stderr));
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

/// A script in the root of the project, without what the test runner sets: for that the build script of a crate with C in it
/// would run anew, here and then outside.
fn bash(script: &str) -> Command {
    let mut command = Command::new("bash");
    let script = format!("unset \"${{!CARGO_PKG@}}\" CARGO_MANIFEST_DIR\n{script}");
    command.args(["-euc", &script]).current_dir(root());
    command
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
