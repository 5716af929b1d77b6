//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::ip::Address;

/// A ones' complement sum in progress. Each piece that is added starts at an even offset of what is summed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sum(u64);

impl Sum {
    /// An empty sum.
    pub const fn new() -> Self {
        Self(0)
    }

    /// Adds bytes, an odd last one as if a zero followed it (RFC 1071 §1).
    #[must_use]
    #[inline]
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        let (words, rest) = bytes.as_chunks::<4>();
        for word in words {
            // RFC 1071 §2 (C): wider sums fold to the same checksum. 2^32 words of 32 bits fit a u64.
            self.0 += u64::from(u32::from_be_bytes(*word));
        }
        let mut last = [0; 4];
        for (to, from) in last.iter_mut().zip(rest) {
            *to = *from;
        }
        self.0 += u64::from(u32::from_be_bytes(last));
        self
    }

    /// Adds a 16-bit word.
    #[must_use]
    #[inline]
    pub const fn word(mut self, word: u16) -> Self {
        self.0 += word as u64;
        self
    }

    /// Adds two 16-bit words.
    #[must_use]
    #[inline]
    pub const fn double_word(mut self, words: u32) -> Self {
        self.0 += words as u64;
        self
    }

    /// Adds the pseudo-header of UDP and TCP over IPv4 (RFC 768). `len` counts header and payload, in bytes.
    #[must_use]
    pub fn pseudo_header_v4(self, source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, len: u16) -> Self {
        self.bytes(&source.octets()).bytes(&destination.octets()).word(u16::from(protocol)).word(len)
    }

    /// Adds the pseudo-header over IPv6 (RFC 8200 §8.1). `len` counts header and payload, in bytes.
    #[must_use]
    pub fn pseudo_header_v6(self, source: Ipv6Addr, destination: Ipv6Addr, protocol: u8, len: u32) -> Self {
        self.bytes(&source.octets()).bytes(&destination.octets()).bytes(&len.to_be_bytes()).word(u16::from(protocol))
    }

    /// Adds the pseudo-header of the family that both addresses are of. `len` counts header and payload, in bytes.
    #[must_use]
    #[inline]
    pub fn pseudo_header(self, source: Address, destination: Address, protocol: u8, len: u32) -> Self {
        let sum = match (source.to_v4(), destination.to_v4()) {
            (Some(source), Some(destination)) => self.bytes(&source.octets()).bytes(&destination.octets()),
            _ => self.bytes(&source.octets()).bytes(&destination.octets()),
        };
        // In the pseudo-header over IPv4 the length has 16 bits: the upper half is zero, and zero doesn't change a sum.
        sum.bytes(&len.to_be_bytes()).word(u16::from(protocol))
    }

    /// The checksum to write into the header. Over data that already holds its checksum it is 0 when that is right.
    #[inline]
    pub const fn finish(self) -> u16 {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }
}

/// The checksum after one 16-bit word of the data changed from `old` to `new`. For a pair of bytes at an odd offset, which lies in two
/// words, both are given with their bytes swapped (RFC 1071 §2 (B)).
#[inline]
pub const fn update(checksum: u16, old: u16, new: u16) -> u16 {
    // RFC 1624 §3: HC' = ~(~HC + ~m + m')  [Eqn. 3]
    let mut sum = !checksum as u32 + !old as u32 + new as u32;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rfc_1071_example() {
        // RFC 1071 §3: the bytes 00 01 f2 03 f4 f5 f6 f7 sum to ddf2.
        assert_eq!(Sum::new().bytes(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]).finish(), !0xddf2);
    }

    #[test]
    fn rfc_1624_example() {
        // RFC 1624 §4: HC = DD2F, m = 5555, m' = 3285 gives 0000, where the older equation gave FFFF.
        assert_eq!(update(0xdd2f, 0x5555, 0x3285), 0x0000);
    }

    /// The definition, word by word.
    fn slow(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    proptest! {
        #[test]
        fn is_the_ones_complement_sum(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(Sum::new().bytes(&bytes).finish(), slow(&bytes));
        }

        #[test]
        fn update_is_recomputation(mut bytes in proptest::collection::vec(any::<u8>(), 20), at in 0usize..9, new: u16) {
            bytes[19] |= 1; // a header is never all zero, which is where the two representations of 0 would differ
            let before = Sum::new().bytes(&bytes).finish();
            let old = u16::from_be_bytes([bytes[at * 2], bytes[at * 2 + 1]]);
            bytes[at * 2..at * 2 + 2].copy_from_slice(&new.to_be_bytes());
            prop_assert_eq!(update(before, old, new), Sum::new().bytes(&bytes).finish());
        }
    }
}
