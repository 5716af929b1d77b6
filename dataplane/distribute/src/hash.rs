//! Hashes of tables in this process. None of their values ever leaves it.
//!
//! `ahash` on a build without AES instructions folds 64x64-bit products, both factors masked by secret keys: five nanoseconds where
//! SipHash takes twenty. An attacker who aims for one bucket would have to see in which bucket a key landed; the tables give away
//! nothing but the time that a packet takes, under the noise of all the others. Hashes that mix the key in with a public factor
//! (FxHash, or `foldhash` with its fixed secrets) are as fast, but their collisions can be computed without knowing the key.

use ahash::RandomState;
use siphasher::sip::SipHasher13;

/// For keys that anybody on the network may choose.
pub(crate) fn keyed(seed: u64) -> RandomState {
    let key = |number: u64| SipHasher13::new_with_keys(seed, number).hash(&[]);
    RandomState::with_seeds(key(0), key(1), key(2), key(3))
}

/// For keys that only the configuration puts into a table.
pub(crate) fn fixed() -> RandomState {
    RandomState::with_seeds(0, 1, 2, 3)
}
