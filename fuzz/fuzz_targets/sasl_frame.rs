//! Sealed frames: as they come, and with the input as the message inside.

#![no_main]

use gmsa_sidecar_fuzz::{bounded, decode_all, frames, sealed};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    bounded(bytes, || decode_all(sealed(), bytes));
    let frames = frames(bytes);
    bounded(&frames, || decode_all(sealed(), &frames));
});
