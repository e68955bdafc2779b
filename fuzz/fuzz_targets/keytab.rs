//! A login's keytab, `GMSA_LOGIN_KEYTAB`.

#![no_main]

use gmsa_sidecar::login::HostKeytab;
use gmsa_sidecar_fuzz::bounded;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|file: &[u8]| {
    bounded(file, || {
        for principal in [None, Some("HOST$".to_owned())] {
            let keytab = HostKeytab { path: "/etc/krb5.keytab".into(), principal };
            let told = keytab.decode(file).unwrap_or_else(|why| why);
            assert!(!told.contains(char::is_control), "a file steers the terminal");
        }
    });
});
