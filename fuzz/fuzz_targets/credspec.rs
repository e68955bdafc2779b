//! A CredSpec.

#![no_main]

use gmsa_sidecar::credspec::CredSpec;
use gmsa_sidecar_fuzz::bounded;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|document: &[u8]| {
    bounded(document, || {
        if let Ok(spec) = CredSpec::parse(document) {
            assert!(!spec.accounts().is_empty());
        }
    });
});
