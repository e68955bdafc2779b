//! The two documents of the ECS agent, separated by a NUL.

#![no_main]

use gmsa_sidecar::task::Task;
use gmsa_sidecar_fuzz::bounded;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|documents: &[u8]| {
    let mut parts = documents.splitn(2, |byte| *byte == 0);
    let (container, task) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    bounded(documents, || Task::parse(container, task).is_ok());
});
