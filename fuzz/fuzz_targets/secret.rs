//! A secret's text; and, as a JSON string, a user name in a secret.

#![no_main]

use gmsa_sidecar::secret::decode;
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
        assert!(user.is_none_or(|user| !user.is_empty() && !user.contains(['/', '@', '\\', '*', '\0', '\n'])));
    }
});
