//! A fast hash for tables whose keys are our own: configured addresses, SPIs that we chose.
//!
//! Nobody outside can put keys into such a table, so nobody can aim for one bucket and the hash needs no secret.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

pub(crate) type OwnMap<K, V> = HashMap<K, V, BuildHasherDefault<OwnHasher>>;

/// An odd number without structure: the golden ratio's fraction in 64 bits.
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

#[derive(Debug, Default)]
pub(crate) struct OwnHasher(u64);

impl OwnHasher {
    fn mix(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(MULTIPLIER);
    }
}

impl Hasher for OwnHasher {
    fn write(&mut self, bytes: &[u8]) {
        for piece in bytes.chunks(8) {
            let mut word = [0; 8];
            for (to, from) in word.iter_mut().zip(piece) {
                *to = *from;
            }
            self.mix(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, n: u8) {
        self.mix(u64::from(n));
    }

    fn write_u32(&mut self, n: u32) {
        self.mix(u64::from(n));
    }

    fn write_usize(&mut self, n: usize) {
        self.mix(n as u64);
    }

    fn finish(&self) -> u64 {
        // A product's high bits depend on all of the input, and the table looks at the low ones first: fold, twice.
        let folded = (self.0 ^ (self.0 >> 32)).wrapping_mul(MULTIPLIER);
        folded ^ (folded >> 32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::hash::BuildHasher;
    use std::net::{IpAddr, Ipv4Addr};

    #[test]
    fn neighbouring_keys_spread() {
        let hasher = BuildHasherDefault::<OwnHasher>::default();
        let addresses = (0..4096u32).map(|n| IpAddr::from(Ipv4Addr::from_bits(0x0a01_0000 + n)));
        let buckets: HashSet<u64> = addresses.map(|address| hasher.hash_one((1u8, address)) % 4096).collect();
        // Thrown at random, 4096 balls hit 63 % of 4096 buckets.
        assert!(buckets.len() > 4096 / 2, "{}", buckets.len());
    }
}
