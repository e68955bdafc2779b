//! An ARN, and that of a secret.

#![no_main]

use gmsa_sidecar::arn::Arn;
use gmsa_sidecar::aws::arn::SecretArn;
use gmsa_sidecar_fuzz::bounded;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    bounded(text.as_bytes(), || {
        let _ = text.parse::<SecretArn>();
        if let Ok(arn) = Arn::parse(text) {
            let head = [arn.partition, arn.service, arn.region, arn.account].concat();
            assert!(head.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'), "not fit for a host name");
        }
    });
});
