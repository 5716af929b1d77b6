//! From a prefix to the newest child SA at it: open addressing with linear probing, for IPv4 sixteen bytes a place.
//!
//! A place holds what a packet compares where nothing but addresses is selected, so that a look-up touches one cache line. Which that
//! is, can be told and asked for ahead: see [`PrefixTable::prefetch`].

use std::hash::BuildHasher;

use vipsec_esp::prefetch;
use vipsec_wire::ip::Address;

use crate::own_hash::Seed;
use crate::prefix::{AddressPrefix, Lengths, mask};

/// No candidate.
pub(super) const NONE: u32 = u32::MAX;

/// Places for each prefix at least: half of them stay free, so that a prefix that isn't there is soon known not to be.
const PLACES_PER_PREFIX: usize = 2;
const PLACES_MIN: usize = 64;

/// A table of so many bytes is in a cache that is near, and nothing is gained by asking for it ahead.
const NEAR_BYTES: usize = 48 << 10;

/// The bits that tell prefixes of a family apart.
pub(super) trait Bits: Copy + Eq + Default {
    /// The prefix of that length that an address of the family lies in.
    fn containing(address: Address, len: u8) -> Self;

    fn hash(self, len: u8, seed: Seed) -> u64;
}

impl Bits for u32 {
    #[inline]
    fn containing(address: Address, len: u8) -> Self {
        (address.to_bits() & mask(len)) as u32
    }

    #[inline]
    fn hash(self, len: u8, seed: Seed) -> u64 {
        seed.hash_one(u64::from(self) << 8 | u64::from(len))
    }
}

impl Bits for u128 {
    #[inline]
    fn containing(address: Address, len: u8) -> Self {
        address.to_bits() & mask(len)
    }

    #[inline]
    fn hash(self, len: u8, seed: Seed) -> u64 {
        seed.hash_one((self, len))
    }
}

/// The newest child SA at a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Newest {
    /// Its candidate, [`NONE`] in a free place.
    pub(super) candidate: u32,
    pub(super) sa: u32,
    pub(super) vip: u16,
    /// The number of our end's address, where any protocol and port will do; else more has to be compared.
    pub(super) host: u8,
}

#[derive(Debug, Clone, Copy)]
struct Place<B> {
    bits: B,
    candidate: u32,
    sa: u32,
    vip: u16,
    host: u8,
    len: u8,
}

const _: () = assert!(size_of::<Place<u32>>() == 16 && size_of::<Place<u128>>() == 32);

impl<B: Bits> Place<B> {
    fn free() -> Self {
        Self { bits: B::default(), candidate: NONE, sa: 0, vip: 0, host: 0, len: 0 }
    }

    #[inline]
    fn is_free(&self) -> bool {
        self.candidate == NONE
    }
}

#[derive(Debug)]
pub(super) struct PrefixTable<B> {
    /// A power of two of them.
    places: Vec<Place<B>>,
    taken: usize,
    pub(super) lengths: Lengths,
    seed: Seed,
}

impl<B: Bits> PrefixTable<B> {
    pub(super) fn new(seed: u64) -> Self {
        let places = vec![Place::free(); PLACES_MIN];
        Self { places, taken: 0, lengths: Lengths::default(), seed: seed.into() }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.taken == 0
    }

    #[inline]
    fn home(&self, bits: B, len: u8) -> usize {
        bits.hash(len, self.seed) as usize & (self.places.len() - 1)
    }

    /// Asks for what [`newest`](Self::newest) touches for an address, without waiting: call it for a whole burst first.
    #[inline]
    pub(super) fn prefetch(&self, address: Address) {
        if size_of_val(self.places.as_slice()) <= NEAR_BYTES {
            return;
        }
        for len in self.lengths.iter() {
            if let Some(place) = self.places.get(self.home(B::containing(address, len), len)) {
                prefetch(place);
            }
        }
    }

    /// The newest child SA at each prefix that an address lies in, of the shortest first.
    #[inline]
    pub(super) fn newest(&self, address: Address) -> impl Iterator<Item = Newest> {
        self.lengths.iter().filter_map(move |len| {
            let (_, place) = self.find(B::containing(address, len), len)?;
            let &Place { candidate, sa, vip, host, .. } = place;
            Some(Newest { candidate, sa, vip, host })
        })
    }

    /// The candidate of the newest child SA at a prefix, [`NONE`] if there is none.
    pub(super) fn at(&self, prefix: AddressPrefix) -> u32 {
        self.find(bits_of(prefix), prefix.len()).map_or(NONE, |(_, place)| place.candidate)
    }

    #[inline]
    fn find(&self, bits: B, len: u8) -> Option<(usize, &Place<B>)> {
        let mut at = self.home(bits, len);
        loop {
            let place = self.places.get(at)?;
            if place.is_free() {
                return None;
            }
            if place.bits == bits && place.len == len {
                return Some((at, place));
            }
            at = (at + 1) & (self.places.len() - 1);
        }
    }

    /// Makes a child SA the newest at a prefix.
    pub(super) fn put(&mut self, prefix: AddressPrefix, newest: Newest) {
        let (bits, len) = (bits_of(prefix), prefix.len());
        let Newest { candidate, sa, vip, host } = newest;
        let new = Place { bits, candidate, sa, vip, host, len };
        if let Some((at, _)) = self.find(bits, len) {
            return self.set(at, new);
        }
        if (self.taken + 1) * PLACES_PER_PREFIX > self.places.len() {
            let larger = vec![Place::free(); self.places.len() * 2];
            for place in std::mem::replace(&mut self.places, larger) {
                if !place.is_free() {
                    self.put_new(place);
                }
            }
        }
        self.put_new(new);
        self.taken += 1;
    }

    fn put_new(&mut self, new: Place<B>) {
        let mut at = self.home(new.bits, new.len);
        while self.places.get(at).is_some_and(|place| !place.is_free()) {
            at = (at + 1) & (self.places.len() - 1);
        }
        self.set(at, new);
    }

    fn set(&mut self, at: usize, new: Place<B>) {
        if let Some(place) = self.places.get_mut(at) {
            *place = new;
        }
    }

    /// There is none any more at a prefix.
    pub(super) fn remove(&mut self, prefix: AddressPrefix) {
        let Some((mut hole, _)) = self.find(bits_of(prefix), prefix.len()) else { return };
        let mask = self.places.len() - 1;
        // What stands behind moves up, unless it would get in front of where its search begins.
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            let Some(&place) = self.places.get(at).filter(|place| !place.is_free()) else { break };
            let from_home = at.wrapping_sub(self.home(place.bits, place.len)) & mask;
            let from_hole = at.wrapping_sub(hole) & mask;
            if from_home >= from_hole {
                self.set(hole, place);
                hole = at;
            }
        }
        self.set(hole, Place::free());
        self.taken -= 1;
    }
}

fn bits_of<B: Bits>(prefix: AddressPrefix) -> B {
    B::containing(Address::from_octets(prefix.bits().to_be_bytes()), prefix.len())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::Ipv4Addr;

    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against a map, with so many prefixes that the table grows, and runs of places in which holes are filled.
        #[test]
        fn behaves_like_a_map(steps in prop::collection::vec((0u32..60, 26u8..=32, any::<bool>()), 0..400)) {
            let mut table = PrefixTable::<u32>::new(7);
            let mut model = BTreeMap::new();
            let prefix = |n: u32, len| AddressPrefix::containing(Ipv4Addr::from_bits(n << 3).into(), 96 + len);
            for (step, (n, len, insert)) in (0u32..).zip(steps) {
                let prefix = prefix(n, len);
                if insert {
                    table.put(prefix, Newest { candidate: step, sa: step, vip: 0, host: 0 });
                    model.insert((prefix.bits(), prefix.len()), step);
                } else {
                    table.remove(prefix);
                    model.remove(&(prefix.bits(), prefix.len()));
                }
                prop_assert_eq!(table.taken, model.len());
            }
            for (n, len) in (0..60).flat_map(|n| (26..=32).map(move |len| (n, len))) {
                let prefix = prefix(n, len);
                let expected = model.get(&(prefix.bits(), prefix.len())).copied();
                prop_assert_eq!(table.at(prefix), expected.unwrap_or(NONE));
            }
        }
    }
}
