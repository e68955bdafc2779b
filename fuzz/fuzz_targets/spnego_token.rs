//! The token that answers our bind, on port 389 and within TLS.

#![no_main]

use gmsa_sidecar::kerberos::SecurityContext;
use gmsa_sidecar_fuzz::{bounded, entropy, ldap_ticket, now};
use libfuzzer_sys::fuzz_target;

const CERTIFICATE: &[u8] = include_bytes!("../seeds/certificate/ad");

fuzz_target!(|token: &[u8]| {
    let sealed = SecurityContext::initiate(ldap_ticket(), now(), entropy);
    let bound = SecurityContext::initiate_in_tls(ldap_ticket(), CERTIFICATE, now(), entropy);
    for started in [sealed, bound] {
        let (mut context, _token) = started.expect("the ticket is a real one");
        bounded(token, || {
            let accepted = context.step(token).is_ok();
            // A token that nobody made with the session key must not finish the negotiation.
            assert!(context.into_sealer().is_err(), "a context without a peer that knows the key: {accepted}");
        });
    }
});
