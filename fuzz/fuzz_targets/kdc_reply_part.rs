//! The encrypted part of an AS-REP, from a KDC that has the key.

#![no_main]

use gmsa_sidecar::kerberos::Proof;
use gmsa_sidecar_fuzz::{bounded, exchange, key, now, reply_with};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|part: &[u8]| {
    let (mut exchange, reply) = (exchange(Proof::Key(key())), reply_with(part));
    bounded(&reply, || exchange.receive(&reply, now()).is_ok());
});
