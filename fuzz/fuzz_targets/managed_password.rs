//! `msDS-ManagedPassword`.

#![no_main]

use gmsa_sidecar::directory::gmsa::ManagedPassword;
use gmsa_sidecar_fuzz::bounded;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|blob: &[u8]| {
    bounded(blob, || ManagedPassword::parse(blob).is_ok());
});
