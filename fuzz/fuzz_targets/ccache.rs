//! A ccache found on the volume.

#![no_main]

use std::path::Path;

use gmsa_sidecar::command::klist::ListedCache;
use gmsa_sidecar::kerberos::warm;
use gmsa_sidecar_fuzz::{account, bounded, now};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|image: &[u8]| {
    bounded(image, || {
        if let Some(warm) = warm(image, &account(), "EXAMPLE.COM", now()) {
            assert!(warm.expires_at > now());
        }
        let shown = ListedCache::read(Path::new("/krb5cc"), image, now()).to_string();
        assert!(!shown.contains(|c: char| c.is_control() && c != '\n'), "a file steers the terminal");
    });
});
