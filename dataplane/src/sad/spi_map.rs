//! From SPI to SA: open addressing with linear probing, eight bytes a place.
//!
//! The SPIs are our own and, but for the appliance's id in front, random: their low bits are their hash.

/// Places for each SPI at most: half of them stay free, so that an unknown SPI is soon known to be one.
const PLACES_PER_SPI: usize = 2;

const PLACES_MIN: usize = 64;

/// No SPI is 0 (RFC 4303 §2.1).
const FREE: Place = Place { spi: 0, sa: 0 };

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    spi: u32,
    sa: u32,
}

const _: () = assert!(size_of::<Place>() == 8);

#[derive(Debug)]
pub(super) struct SpiMap {
    /// A power of two of them.
    places: Vec<Place>,
    len: usize,
}

impl SpiMap {
    pub(super) fn new() -> Self {
        Self { places: vec![FREE; PLACES_MIN], len: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    #[inline]
    fn mask(&self) -> usize {
        self.places.len() - 1
    }

    #[inline]
    pub(super) fn get(&self, spi: u32) -> Option<u32> {
        let mut at = spi as usize & self.mask();
        loop {
            let place = *self.places.get(at)?;
            if place == FREE {
                return None;
            }
            if place.spi == spi {
                return Some(place.sa);
            }
            at = (at + 1) & self.mask();
        }
    }

    /// Adds an SPI that isn't there.
    pub(super) fn insert(&mut self, spi: u32, sa: u32) {
        if (self.len + 1) * PLACES_PER_SPI > self.places.len() {
            let larger = vec![FREE; self.places.len() * 2];
            for place in std::mem::replace(&mut self.places, larger) {
                if place != FREE {
                    self.put(place);
                }
            }
        }
        self.put(Place { spi, sa });
        self.len += 1;
    }

    fn put(&mut self, new: Place) {
        let mask = self.mask();
        let mut at = new.spi as usize & mask;
        while let Some(place) = self.places.get_mut(at) {
            if *place == FREE {
                *place = new;
                return;
            }
            at = (at + 1) & mask;
        }
    }

    /// Takes an SPI out and returns its SA.
    pub(super) fn remove(&mut self, spi: u32) -> Option<u32> {
        let sa = self.get(spi)?;
        let mask = self.mask();
        let mut hole = spi as usize & mask;
        while self.places.get(hole)?.spi != spi {
            hole = (hole + 1) & mask;
        }
        // What stands behind moves up, unless it would get in front of where its search begins.
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            let place = *self.places.get(at)?;
            if place == FREE {
                break;
            }
            let from_home = at.wrapping_sub(place.spi as usize) & mask;
            let from_hole = at.wrapping_sub(hole) & mask;
            if from_home >= from_hole {
                *self.places.get_mut(hole)? = place;
                hole = at;
            }
        }
        *self.places.get_mut(hole)? = FREE;
        self.len -= 1;
        Some(sa)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against a map. Low bits collide, so that runs are long and wrap around.
        #[test]
        fn behaves_like_a_map(steps in prop::collection::vec((0u32..8, 0u32..24, any::<bool>()), 0..300)) {
            let mut map = SpiMap::new();
            let mut model = BTreeMap::new();
            for (step, (high, low, insert)) in (0u32..).zip(steps) {
                let spi = 0x0100_0000 | high << 16 | ((low + 50) % 64);
                if insert && !model.contains_key(&spi) {
                    map.insert(spi, step);
                    model.insert(spi, step);
                } else if !insert {
                    prop_assert_eq!(map.remove(spi), model.remove(&spi));
                }
                prop_assert_eq!(map.len(), model.len());
                for high in 0..8 {
                    for low in 0..64 {
                        let spi = 0x0100_0000 | high << 16 | low;
                        prop_assert_eq!(map.get(spi), model.get(&spi).copied());
                    }
                }
            }
            prop_assert_eq!(map.get(0), None);
        }
    }
}
