//! The names in a certificate, which a fault tells before anyone has vouched for it.

#![no_main]

use gmsa_sidecar::directory::tls::Certificate;
use gmsa_sidecar_fuzz::bounded;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|certificate: &[u8]| {
    bounded(certificate, || {
        if let Some(told) = Certificate::of(certificate) {
            assert!(!told.to_string().contains(char::is_control), "it could steer a terminal");
        }
    });
});
