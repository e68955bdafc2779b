//! The examples: what the services accept, and what the binary makes of them in the lab.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::process::Command;

use serde::Deserialize;
use serde_json::Value;

use crate::support::{self, Sidecar, lab, root};

#[test]
#[ignore = "needs what scripts/test-container installs"]
fn task_definitions_are_what_ecs_takes() {
    check("task_definitions");
}

#[test]
#[ignore = "needs what scripts/test-container installs"]
fn policies_are_what_iam_takes() {
    check("policies");
}

#[test]
#[ignore = "needs what scripts/test-container installs"]
fn the_template_is_what_cloudformation_takes() {
    check("template");
}

#[test]
#[ignore = "needs what scripts/test-container installs"]
fn the_manifest_is_what_kubernetes_takes() {
    check("manifest");
}

#[test]
#[ignore = "needs what scripts/test-container installs"]
fn compose_files_are_what_docker_takes() {
    check("compose");
}

/// Names are those of the README, and the same everywhere.
#[test]
#[ignore = "needs what scripts/test-container installs"]
fn examples_and_pages_agree_on_names() {
    check("names");
}

/// Each sidecar of the examples, as its user and with its environment and command, gets its tickets in the lab; each
/// app looks for them where they are.
#[test]
#[ignore = "needs what scripts/test-container installs"]
fn the_binary_does_what_the_examples_say() {
    check("prepare");
    let mut sidecars = 0;
    for line in check("containers").lines() {
        let container: Container = serde_json::from_str(line).expect("a container");
        match container.name.as_str() {
            "gmsa-sidecar" => {
                sidecars += 1;
                container.runs(sidecars);
            }
            _ => container.finds(),
        }
    }
    assert_eq!(sidecars, 7);
}

/// A container of ours in an example.
#[derive(Debug, Deserialize)]
struct Container {
    path: String,
    name: String,
    environment: BTreeMap<String, String>,
    labels: Value,
    command: Option<Vec<String>>,
    user: String,
}

impl Container {
    /// The sidecar's.
    fn runs(&self, number: usize) {
        println!("{}", self.path);
        let (uid, gid) = self.user.split_once(':').expect("user and group");
        // Where the example leaves something open, it is as the lab has it.
        let mut sidecar = Sidecar::new();
        for (name, value) in &self.environment {
            sidecar = match (name.as_str(), value.as_str()) {
                ("GMSA_LISTEN", listen) => {
                    assert_eq!(listen, "[::]:8488");
                    let port = sidecar.listen.port();
                    sidecar.with(name, &format!("[::]:{port}"))
                }
                ("AWS_ENDPOINT_URL", _) => sidecar,
                (_, value) if value.starts_with("${") => sidecar,
                (name, value) => sidecar.with(name, value),
            };
        }
        if !self.labels.is_null() {
            sidecar = sidecar.with("ECS_CONTAINER_METADATA_URI_V4", &task(&format!("example-{number}"), &self.labels));
        }
        let (uid, gid): (u32, u32) = (uid.parse().expect("a uid"), gid.parse().expect("a gid"));
        // The image's folder; a host path is root's.
        let owner = if uid == 0 { 0 } else { 65532 };
        chown(sidecar.volume.path(), Some(owner), Some(owner)).expect("an owner");
        std::fs::set_permissions(sidecar.volume.path(), Permissions::from_mode(0o775)).expect("a mode");
        let (reuid, regid) = (format!("--reuid={uid}"), format!("--regid={gid}"));
        let wrapper = ["setpriv", &reuid, &regid, "--clear-groups", "--bounding-set=-all", "--inh-caps=-all"];
        let sidecar = sidecar.through(&wrapper);

        let log = match self.command.as_deref() {
            None => {
                let running = sidecar.run();
                running.wait_ready();
                let health = sidecar.call(&["health"]);
                assert_eq!((health.code, health.stderr.as_str()), (Some(0), ""));
                running.text()
            }
            Some([command]) => {
                let ended = sidecar.call(&[command]);
                assert_eq!(ended.code, Some(0), "{ended:#?}");
                ended.stderr
            }
            Some(other) => panic!("{other:?}"),
        };
        assert!(!log.contains("config.unknown-variable"), "{log}");
        let ticket = sidecar.path("krb5cc").metadata().expect("a ticket");
        assert_eq!((ticket.uid(), ticket.gid(), ticket.mode() & 0o777), (uid, gid, 0o640));
    }

    /// The app's.
    fn finds(&self) {
        let volume = "/var/credentials-fetcher/krbdir";
        assert_eq!(self.environment["KRB5CCNAME"], format!("{volume}/krb5cc"), "{}", self.path);
        assert_eq!(self.environment["KRB5_CONFIG"], format!("{volume}/krb5.conf"), "{}", self.path);
        assert_eq!(self.user, "1654:1654", "{}", self.path);
    }
}

/// Runs one check of `check.py`; returns what it printed.
fn check(name: &str) -> String {
    let python = root().join("build/examples/bin/python");
    let mut command = Command::new(python);
    command.arg("-B").arg("tests/container/examples.py").arg(name).arg(lab("LAB_AWS_ENDPOINT")).current_dir(root());
    command.envs(["LAB_USER", "LAB_USER_PW"].map(|name| (name, lab(name))));
    let output = command.output().expect("Python runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    assert!(output.status.success(), "{}", text(output.stderr));
    text(output.stdout)
}

/// A task whose sidecar has these labels; returns where its metadata are.
fn task(id: &str, labels: &Value) -> String {
    let documents = std::path::Path::new(lab("LAB_ECS_DOCS"));
    for name in ["container.json", "task.json"] {
        let text = std::fs::read_to_string(documents.join("bare").join(name)).expect("the seed wrote it");
        let mut document: Value = serde_json::from_str(&text).expect("JSON");
        let container = if name == "task.json" { &mut document["Containers"][0] } else { &mut document };
        let theirs = container["Labels"].as_object_mut().expect("labels");
        theirs.extend(labels.as_object().expect("labels").clone());
        std::fs::create_dir_all(documents.join(id)).expect("a folder");
        support::write(&documents.join(id).join(name), &document.to_string());
    }
    format!("{}/v4/{id}", lab("LAB_ECS_ENDPOINT"))
}
