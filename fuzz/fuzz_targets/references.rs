//! `GMSA_CREDENTIAL_SPECS` and the label of a container.

#![no_main]

use gmsa_sidecar::credspec::{parse_label, parse_references};
use gmsa_sidecar_fuzz::bounded;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    bounded(text.as_bytes(), || {
        let _ = parse_label(text);
        match parse_references(text) {
            Ok(references) => assert!(!references.is_empty()),
            Err(errors) => assert!(errors.iter().all(|error| !error.to_string().contains(char::is_control))),
        }
    });
});
