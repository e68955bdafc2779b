//! LDAP messages in the clear: what comes before the bind has succeeded.

#![no_main]

use gmsa_sidecar::directory::ldap::Plain;
use gmsa_sidecar_fuzz::{bounded, decode_all};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    bounded(bytes, || decode_all(Plain::new(), bytes));
});
