//! The one door to random numbers. Protocol code is handed it, so that a test knows what it drew.

use rand::RngCore;

/// Fills a buffer with random octets that nobody can guess.
pub type Entropy = fn(&mut [u8]);

/// From the operating system, by way of a generator of this thread.
pub fn system(octets: &mut [u8]) {
    rand::thread_rng().fill_bytes(octets);
}
