//! What belongs to an address, where every packet asks and most tables have a handful: found by comparing, which no hash is as quick as.

use vipsec_wire::ip::Address;

use crate::own_hash::KeyedMap;

/// So many addresses are compared one by one; more are hashed.
const FEW: usize = 8;

/// A map by address. Built once per change of the tables.
#[derive(Debug, Clone)]
pub(crate) struct AddressMap<V> {
    /// In the order of insertion: what is asked for most goes in first.
    keys: Vec<Address>,
    values: Vec<V>,
    /// Their places, once there are more than [`FEW`].
    places: KeyedMap<Address, usize>,
}

impl<V> Default for AddressMap<V> {
    fn default() -> Self {
        Self { keys: Vec::new(), values: Vec::new(), places: KeyedMap::default() }
    }
}

impl<V> AddressMap<V> {
    #[inline]
    fn place(&self, address: Address) -> Option<usize> {
        if self.keys.len() <= FEW {
            self.keys.iter().position(|key| *key == address)
        } else {
            self.places.get(&address).copied()
        }
    }

    #[inline]
    pub(crate) fn get(&self, address: Address) -> Option<&V> {
        self.values.get(self.place(address)?)
    }

    pub(crate) fn get_mut(&mut self, address: Address) -> Option<&mut V> {
        let place = self.place(address)?;
        self.values.get_mut(place)
    }

    /// Adds an address, or gives it another value.
    pub(crate) fn insert(&mut self, address: Address, value: V) {
        match self.get_mut(address) {
            Some(known) => *known = value,
            None => {
                self.keys.push(address);
                self.values.push(value);
                if self.keys.len() > FEW {
                    self.places = self.keys.iter().copied().zip(0..).collect();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn few_and_many_are_found_alike() {
        let address = |n: usize| Address::from(Ipv4Addr::from_bits(0xc000_0200 + n as u32));
        let mut map = AddressMap::default();
        for n in 0..4 * FEW {
            map.insert(address(n), 0);
            map.insert(address(n), n);
            assert!((0..=n).all(|known| map.get(address(known)) == Some(&known)), "{n}");
            assert_eq!(map.get(address(n + 1)), None);
        }
    }
}
