//! Addresses that entries share: each stands in a slot once, and entries name the slot.
//!
//! A slot is *listed* while the services in force know its address. One that isn't stays until the last entry that names it is gone.

use std::collections::HashMap;
use std::net::IpAddr;

use ahash::RandomState;

use crate::hash;

/// Most slots: their numbers have 16 bits.
const SLOTS_MAX: usize = u16::MAX as usize;

/// Every slot is listed or named by an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full;

#[derive(Debug)]
pub(super) struct Slot<V> {
    pub(super) address: IpAddr,
    pub(super) value: V,
    listed: bool,
    /// Entries that name it.
    entries: u32,
    free: bool,
}

#[derive(Debug)]
pub(super) struct Registry<V> {
    slots: Vec<Slot<V>>,
    /// Those that are listed or that an entry names; of those with the same address the newest.
    by_address: HashMap<IpAddr, u16, RandomState>,
    free: Vec<u16>,
}

impl<V: Default> Registry<V> {
    pub(super) fn new() -> Self {
        Self { slots: Vec::new(), by_address: HashMap::with_hasher(hash::fixed()), free: Vec::new() }
    }

    /// The slot of a listed address.
    pub(super) fn find(&self, address: IpAddr) -> Option<u16> {
        self.by_address.get(&address).copied().filter(|&slot| self.is_listed(slot))
    }

    #[inline]
    pub(super) fn get(&self, slot: u16) -> Option<&Slot<V>> {
        self.slots.get(usize::from(slot))
    }

    pub(super) fn get_mut(&mut self, slot: u16) -> Option<&mut Slot<V>> {
        self.slots.get_mut(usize::from(slot))
    }

    pub(super) fn is_listed(&self, slot: u16) -> bool {
        self.get(slot).is_some_and(|slot| slot.listed)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Slot<V>> {
        self.slots.iter_mut()
    }

    /// Lists these addresses and no others.
    pub(super) fn list(&mut self, addresses: impl Iterator<Item = IpAddr> + Clone) -> Result<(), Full> {
        for slot in &mut self.slots {
            slot.listed = false;
        }
        for address in addresses.clone() {
            self.list_again(address);
        }
        for number in 0..self.slots.len() as u16 {
            self.free_if_unused(number);
        }
        addresses.into_iter().try_for_each(|address| self.add(address))
    }

    /// Lists an address that has a slot. Returns whether it has.
    fn list_again(&mut self, address: IpAddr) -> bool {
        let number = self.by_address.get(&address).copied();
        let slot = number.and_then(|number| self.get_mut(number));
        slot.map(|slot| slot.listed = true).is_some()
    }

    /// Gives a listed address a fresh slot: whoever names the old one has nothing to do with the address any more.
    pub(super) fn renew(&mut self, address: IpAddr) -> Result<(), Full> {
        let Some(number) = self.find(address) else { return Ok(()) };
        self.by_address.remove(&address);
        if let Some(slot) = self.get_mut(number) {
            slot.listed = false;
        }
        let added = self.add(address);
        self.free_if_unused(number);
        added
    }

    fn add(&mut self, address: IpAddr) -> Result<(), Full> {
        if self.list_again(address) {
            return Ok(());
        }
        let new = Slot { address, value: V::default(), listed: true, entries: 0, free: false };
        let number = match self.free.pop() {
            Some(number) => number,
            None if self.slots.len() < SLOTS_MAX => self.slots.len() as u16,
            None => return Err(Full),
        };
        match self.get_mut(number) {
            Some(slot) => *slot = new,
            None => self.slots.push(new),
        }
        self.by_address.insert(address, number);
        Ok(())
    }

    fn free_if_unused(&mut self, number: u16) {
        let Some(slot) = self.get_mut(number).filter(|slot| !slot.listed && slot.entries == 0 && !slot.free) else {
            return;
        };
        slot.free = true;
        let address = slot.address;
        if self.by_address.get(&address) == Some(&number) {
            self.by_address.remove(&address);
        }
        self.free.push(number);
    }

    /// An entry names the slot.
    pub(super) fn hold(&mut self, number: u16) {
        if let Some(slot) = self.get_mut(number) {
            slot.entries += 1;
        }
    }

    /// An entry that named the slot is gone.
    pub(super) fn release(&mut self, number: u16) {
        if let Some(slot) = self.get_mut(number) {
            slot.entries = slot.entries.saturating_sub(1);
            self.free_if_unused(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u32) -> IpAddr {
        IpAddr::V4(n.into())
    }

    #[test]
    fn a_slot_lives_as_long_as_somebody_names_it() {
        let mut registry = Registry::<()>::new();
        registry.list([address(1), address(2)].into_iter()).unwrap();
        let (one, two) = (registry.find(address(1)).unwrap(), registry.find(address(2)).unwrap());
        registry.hold(one);
        registry.list([].into_iter()).unwrap();
        assert_eq!((registry.find(address(1)), registry.find(address(2))), (None, None));
        registry.list([address(3)].into_iter()).unwrap();
        assert_eq!(registry.find(address(3)), Some(two), "used again");
        assert_eq!(registry.get(one).unwrap().address, address(1), "an entry names it");
        registry.list([address(3), address(1)].into_iter()).unwrap();
        assert_eq!(registry.find(address(1)), Some(one));
        registry.list([address(3)].into_iter()).unwrap();
        registry.release(one);
        registry.list([address(3), address(4)].into_iter()).unwrap();
        assert_eq!(registry.find(address(4)), Some(one), "used again");
    }

    #[test]
    fn a_renewed_address_has_another_slot() {
        let mut registry = Registry::<()>::new();
        registry.list([address(1)].into_iter()).unwrap();
        let before = registry.find(address(1)).unwrap();
        registry.hold(before);
        registry.renew(address(1)).unwrap();
        assert_ne!(registry.find(address(1)), Some(before));
        assert!(!registry.is_listed(before));
    }

    #[test]
    fn full_of_slots_that_entries_name() {
        let mut registry = Registry::<()>::new();
        registry.list((0..SLOTS_MAX as u32).map(address)).unwrap();
        (0..SLOTS_MAX as u16).for_each(|slot| registry.hold(slot));
        assert_eq!(registry.list([address(u32::MAX)].into_iter()), Err(Full));
        registry.release(7);
        assert_eq!(registry.list([address(u32::MAX)].into_iter()), Ok(()));
        assert_eq!(registry.find(address(u32::MAX)), Some(7));
    }
}
