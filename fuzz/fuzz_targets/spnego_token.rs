//! The token that answers our bind.

#![no_main]

use gmsa_sidecar::kerberos::SecurityContext;
use gmsa_sidecar_fuzz::{bounded, ldap_ticket};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|token: &[u8]| {
    let (mut context, _token) = SecurityContext::initiate(ldap_ticket()).expect("the ticket is a real one");
    bounded(token, || {
        let accepted = context.step(token).is_ok();
        // A token that nobody made with the session key must not finish the negotiation.
        assert!(context.into_sealer().is_err(), "a context without a peer that knows the key: {accepted}");
    });
});
