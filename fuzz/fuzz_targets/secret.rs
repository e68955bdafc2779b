//! A secret's text; and, as a JSON string, a user name in a secret.

#![no_main]

use gmsa_sidecar::name::Domain;
use gmsa_sidecar::secret::{UserName, decode};
use gmsa_sidecar_fuzz::bounded;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    bounded(text, || {
        decode(text, None);
        decode(text, Some("login"));
    });
    if let Ok(user) = std::str::from_utf8(text) {
        let document = serde_json::json!({"username": user, "password": "x"}).to_string();
        let user = bounded(document.as_bytes(), || decode(document.as_bytes(), None));
        let is_plain = |name: &str| !name.is_empty() && !name.contains(['/', '@', '\\', '*', '\0', '\n']);
        assert!(match &user {
            None => true,
            Some(UserName::Plain(name)) => is_plain(name),
            // A user principal name of another suffix than the domain's.
            Some(UserName::Enterprise(name)) => name.split_once('@').is_some_and(|(name, suffix)| {
                is_plain(name) && suffix.parse::<Domain>().is_ok() && suffix != "example.com"
            }),
        });
    }
});
