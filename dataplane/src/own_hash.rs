//! A fast hash for tables on the packet path.
//!
//! Each word is multiplied by a secret number and the product folded, so that nobody outside can aim for one bucket. Tables whose
//! keys are our own (configured addresses) need no secret: they start from 0.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};

/// A map with a keyed hash: `KeyedMap::with_hasher(seed.into())`.
pub(crate) type KeyedMap<K, V> = HashMap<K, V, Seed>;

/// Odd numbers without structure: the fractions of the golden ratio and of the square root of 3 in 64 bits.
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;
const SECOND: u64 = 0xbb67_ae85_84ca_a73b;

/// What keys the hash of one table.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Seed(u64);

impl From<u64> for Seed {
    fn from(seed: u64) -> Self {
        Self(seed)
    }
}

impl BuildHasher for Seed {
    type Hasher = FoldHasher;

    #[inline]
    fn build_hasher(&self) -> FoldHasher {
        FoldHasher(self.0 ^ MULTIPLIER)
    }
}

#[derive(Debug)]
pub(crate) struct FoldHasher(u64);

/// Both halves of a product: all bits of the result depend on all bits of both factors.
#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

impl FoldHasher {
    #[inline]
    fn mix(&mut self, word: u64) {
        self.0 = fold(self.0 ^ word, MULTIPLIER);
    }
}

impl Hasher for FoldHasher {
    fn write(&mut self, bytes: &[u8]) {
        for piece in bytes.chunks(8) {
            let mut word = [0; 8];
            for (to, from) in word.iter_mut().zip(piece) {
                *to = *from;
            }
            self.mix(u64::from_le_bytes(word));
        }
    }

    #[inline]
    fn write_u8(&mut self, n: u8) {
        self.mix(u64::from(n));
    }

    #[inline]
    fn write_u16(&mut self, n: u16) {
        self.mix(u64::from(n));
    }

    #[inline]
    fn write_u32(&mut self, n: u32) {
        self.mix(u64::from(n));
    }

    #[inline]
    fn write_u64(&mut self, n: u64) {
        self.mix(n);
    }

    #[inline]
    fn write_u128(&mut self, n: u128) {
        self.0 = fold(self.0 ^ n as u64, SECOND ^ (n >> 64) as u64);
    }

    #[inline]
    fn write_usize(&mut self, n: usize) {
        self.mix(n as u64);
    }

    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::net::Ipv4Addr;
    use vipsec_wire::ip::Address;

    #[test]
    fn neighbouring_keys_spread() {
        for seed in [0, 1, 0x1234_5678_9abc_def0] {
            let addresses = (0..4096u32).map(|n| Address::from(Ipv4Addr::from_bits(0x0a01_0000 + n)));
            let hashes: Vec<u64> = addresses.map(|address| Seed(seed).hash_one((1u8, address))).collect();
            // Thrown at random, 4096 balls hit 63 % of 4096 buckets. The table takes the low bits, and tells entries apart by the
            // seven highest.
            let buckets: HashSet<u64> = hashes.iter().map(|hash| hash % 4096).collect();
            assert!(buckets.len() > 4096 / 2, "{}", buckets.len());
            let tags: HashSet<u64> = hashes.iter().map(|hash| hash >> 57).collect();
            assert_eq!(tags.len(), 128);
        }
    }
}
