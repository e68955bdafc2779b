//! Names of accounts, domains and hosts.

#![no_main]

use std::path::{Component, Path};

use gmsa_sidecar::name::{Account, Domain, Host};
use gmsa_sidecar_fuzz::bounded;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    bounded(text.as_bytes(), || {
        if let Ok(account) = text.parse::<Account>() {
            let parts: Vec<_> = Path::new(account.as_str()).components().collect();
            assert!(matches!(parts[..], [Component::Normal(_)]), "no plain folder");
        }
        let (domain, host) = (text.parse::<Domain>(), text.parse::<Host>());
        let accepted = [domain.map(|domain| domain.to_string()), host.map(|host| host.to_string())];
        let plain = |name: &String| name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        assert!(accepted.iter().flatten().all(plain), "syntax for krb5.conf");
    });
});
