//! A KDC's reply, to an exchange that has sent no proof yet and to one that has.

#![no_main]

use gmsa_sidecar::kerberos::Proof;
use gmsa_sidecar_fuzz::{bounded, exchange, key, now, password};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|reply: &[u8]| {
    for proof in [Proof::Password(password()), Proof::Key(key())] {
        let mut exchange = exchange(proof);
        bounded(reply, || exchange.receive(reply, now()).is_ok());
    }
});
