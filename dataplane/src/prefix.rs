//! Prefixes as keys of a hash table, and a range of addresses as the prefixes that it is made of.

use vipsec_wire::ip::{Address, Prefix};

/// Bits of an [`Address`]; an IPv4 prefix of n bits is one of 96 + n here.
const WIDTH: u32 = 128;
const V4_OFFSET: u8 = 96;

/// A prefix in the space of [`Address`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct AddressPrefix {
    /// No bit is set behind the length.
    bits: u128,
    len: u8,
}

impl AddressPrefix {
    /// The prefix of that length that an address lies in.
    #[inline]
    pub(crate) fn containing(address: Address, len: u8) -> Self {
        Self { bits: address.to_bits() & mask(len), len }
    }

    /// A configured prefix.
    pub(crate) fn of(prefix: Prefix) -> Self {
        let offset = if prefix.address().is_ipv4() { V4_OFFSET } else { 0 };
        Self::containing(prefix.address().into(), prefix.bits().saturating_add(offset))
    }

    /// Do only IPv4 addresses lie in it?
    #[inline]
    pub(crate) fn is_v4(self) -> bool {
        self.len >= V4_OFFSET && Address::from_octets(self.bits.to_be_bytes()).is_v4()
    }

    /// The bits of the [`Address`] that it begins with.
    #[inline]
    pub(crate) fn bits(self) -> u128 {
        self.bits
    }

    /// Its length in bits, 0..=128.
    pub(crate) fn len(self) -> u8 {
        self.len
    }
}

/// How many prefixes there are of each length: those that occur, in order. A packet asks a table of prefixes once for each.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lengths(Vec<(u8, usize)>);

impl Lengths {
    pub(crate) fn add(&mut self, len: u8) {
        match self.0.binary_search_by_key(&len, |(len, _)| *len) {
            Ok(at) => self.0.iter_mut().skip(at).take(1).for_each(|(_, count)| *count += 1),
            Err(at) => self.0.insert(at, (len, 1)),
        }
    }

    pub(crate) fn remove(&mut self, len: u8) {
        self.0.iter_mut().filter(|(own, _)| *own == len).for_each(|(_, count)| *count = count.saturating_sub(1));
        self.0.retain(|(_, count)| *count > 0);
    }

    /// The shortest first.
    #[inline]
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = u8> + '_ {
        self.0.iter().map(|(len, _)| *len)
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The bits of a prefix of that length.
#[inline]
pub(crate) fn mask(len: u8) -> u128 {
    u128::MAX.checked_shl(WIDTH - u32::from(len).min(WIDTH)).unwrap_or(0)
}

/// The fewest prefixes that make up the range, both ends included; none if it is empty. At most 2 * 128 - 2.
pub(crate) fn split(first: Address, last: Address) -> impl Iterator<Item = AddressPrefix> {
    let (mut next, last) = (Some(first.to_bits()), last.to_bits());
    std::iter::from_fn(move || {
        let start = next.filter(|start| *start <= last)?;
        // As many host bits as the start is aligned to, and as leave the prefix within the range.
        let aligned = start.trailing_zeros();
        let left = last - start;
        let fits = left.checked_add(1).map_or(WIDTH, u128::ilog2);
        let host_bits = aligned.min(fits);
        let prefix = AddressPrefix { bits: start, len: (WIDTH - host_bits) as u8 };
        next = 1u128.checked_shl(host_bits).and_then(|size| start.checked_add(size));
        Some(prefix)
    })
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use proptest::prelude::*;

    fn address(text: &str) -> Address {
        text.parse::<IpAddr>().unwrap().into()
    }

    fn prefixes(first: &str, last: &str) -> Vec<(Address, u8)> {
        let prefixes = split(address(first), address(last));
        prefixes.map(|prefix| (Address::from_octets(prefix.bits.to_be_bytes()), prefix.len)).collect()
    }

    #[test]
    fn known_ranges() {
        assert_eq!(prefixes("10.9.0.7", "10.9.0.7"), [(address("10.9.0.7"), 128)]);
        assert_eq!(prefixes("10.9.0.0", "10.9.255.255"), [(address("10.9.0.0"), 112)]);
        assert_eq!(prefixes("0.0.0.0", "255.255.255.255"), [(address("0.0.0.0"), 96)]);
        assert_eq!(
            prefixes("10.0.0.1", "10.0.0.6"),
            [("10.0.0.1", 128), ("10.0.0.2", 127), ("10.0.0.4", 127), ("10.0.0.6", 128)].map(|(a, n)| (address(a), n))
        );
        assert_eq!(prefixes("::", &"ffff:".repeat(8)[..39]), [(address("::"), 0)]);
        assert_eq!(prefixes("10.0.0.2", "10.0.0.1"), []);
    }

    proptest! {
        /// Adjacent, aligned, and no two neighbours would make one.
        #[test]
        fn prefixes_make_up_the_range(a: u128, b: u128, narrow in 0u32..128) {
            let (first, last) = (a.min(a ^ (b >> narrow)), a.max(a ^ (b >> narrow)));
            let octets = |bits: u128| Address::from_octets(bits.to_be_bytes());
            let prefixes: Vec<_> = split(octets(first), octets(last)).collect();
            prop_assert!(prefixes.len() <= 254);
            let mut expected = Some(first);
            for prefix in &prefixes {
                prop_assert_eq!(Some(prefix.bits), expected);
                prop_assert_eq!(prefix.bits & mask(prefix.len), prefix.bits);
                expected = (prefix.bits | !mask(prefix.len)).checked_add(1);
            }
            prop_assert_eq!(expected, last.checked_add(1));
            for pair in prefixes.windows(2) {
                prop_assert!(pair[0].len != pair[1].len || pair[0].bits & mask(pair[0].len - 1) != pair[0].bits);
            }
        }
    }
}
