//! The answer to the LDAP ping, which nobody has proven.

#![no_main]

use gmsa_sidecar::directory::netlogon::Netlogon;
use gmsa_sidecar_fuzz::bounded;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|answer: &[u8]| {
    bounded(answer, || {
        if let Some(site) = Netlogon::parse(answer).and_then(|told| told.client_site) {
            let label = site.as_str().bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
            assert!(label && (1..=63).contains(&site.as_str().len()), "it could steer a question to DNS");
        }
    });
});
