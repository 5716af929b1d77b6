//! A hash table of fixed capacity: places in one allocation, chained per bucket.

/// No place.
const NONE: u32 = u32::MAX;

/// No entry more fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full;

#[derive(Debug)]
struct Place<T> {
    hash: u64,
    /// Next in the bucket's chain, or in the chain of free places.
    next: u32,
    entry: Option<T>,
}

#[derive(Debug)]
pub(super) struct Slab<T> {
    places: Box<[Place<T>]>,
    /// First place of each bucket; their number is a power of two.
    buckets: Box<[u32]>,
    free: u32,
    len: usize,
    /// Where the next sweep begins.
    cursor: usize,
}

impl<T> Slab<T> {
    /// Room for `capacity` entries, all of it allocated now.
    pub(super) fn new(capacity: usize) -> Self {
        let capacity = capacity.clamp(1, NONE as usize);
        let place = |n: usize| Place { hash: 0, next: if n + 1 < capacity { n as u32 + 1 } else { NONE }, entry: None };
        Self {
            places: (0..capacity).map(place).collect(),
            buckets: vec![NONE; capacity.next_power_of_two()].into_boxed_slice(),
            free: 0,
            len: 0,
            cursor: 0,
        }
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    pub(super) const fn is_full(&self) -> bool {
        self.free == NONE
    }

    fn bucket(&mut self, hash: u64) -> Option<&mut u32> {
        let mask = self.buckets.len() as u64 - 1;
        self.buckets.get_mut((hash & mask) as usize)
    }

    /// The entry with that hash that `is_it` recognises, and its place.
    pub(super) fn find(&mut self, hash: u64, is_it: impl Fn(&T) -> bool) -> Option<(u32, &mut T)> {
        let mut at = *self.bucket(hash)?;
        loop {
            let place = self.places.get(at as usize)?;
            if place.hash == hash && place.entry.as_ref().is_some_and(&is_it) {
                break;
            }
            at = place.next;
        }
        let entry = self.places.get_mut(at as usize)?.entry.as_mut()?;
        Some((at, entry))
    }

    /// Adds an entry that `find` didn't find.
    pub(super) fn insert(&mut self, hash: u64, entry: T) -> Result<(), Full> {
        let at = self.free;
        let first = *self.bucket(hash).ok_or(Full)?;
        let place = self.places.get_mut(at as usize).ok_or(Full)?;
        self.free = place.next;
        *place = Place { hash, next: first, entry: Some(entry) };
        if let Some(bucket) = self.bucket(hash) {
            *bucket = at;
        }
        self.len += 1;
        Ok(())
    }

    /// Frees a place that `find` gave.
    pub(super) fn remove(&mut self, at: u32) {
        let Some(place) = self.places.get(at as usize) else { return };
        if place.entry.is_none() {
            return;
        }
        let (hash, next) = (place.hash, place.next);
        self.unlink(hash, at, next);
        if let Some(place) = self.places.get_mut(at as usize) {
            *place = Place { hash: 0, next: self.free, entry: None };
            self.free = at;
            self.len -= 1;
        }
    }

    fn unlink(&mut self, hash: u64, at: u32, next: u32) {
        let Some(bucket) = self.bucket(hash) else { return };
        if *bucket == at {
            *bucket = next;
            return;
        }
        let mut before = *bucket;
        while let Some(place) = self.places.get_mut(before as usize) {
            if place.next == at {
                place.next = next;
                return;
            }
            before = place.next;
        }
    }

    /// Looks at the next `count` places and frees those whose entry `is_over` says so of. Returns how many it freed.
    pub(super) fn sweep(&mut self, count: usize, is_over: impl Fn(&T) -> bool) -> usize {
        let before = self.len;
        for _ in 0..count.min(self.places.len()) {
            let at = self.cursor;
            self.cursor = if at + 1 < self.places.len() { at + 1 } else { 0 };
            if self.places.get(at).and_then(|place| place.entry.as_ref()).is_some_and(&is_over) {
                self.remove(at as u32);
            }
        }
        before - self.len
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.places.iter().filter_map(|place| place.entry.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Insert(u8),
        Remove(u8),
        Sweep(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (0u8..24).prop_map(Step::Insert),
            2 => (0u8..24).prop_map(Step::Remove),
            1 => (0u8..24).prop_map(Step::Sweep),
        ]
    }

    proptest! {
        /// Against a map. Eight keys share each hash, so that chains are long.
        #[test]
        fn behaves_like_a_map(steps in proptest::collection::vec(step(), 0..200)) {
            const CAPACITY: usize = 10;
            let hash = |key: u8| u64::from(key % 3);
            let mut slab = Slab::new(CAPACITY);
            let mut map = HashMap::new();
            for (n, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Insert(key) => {
                        if slab.find(hash(key), |entry: &(u8, usize)| entry.0 == key).is_none() {
                            let expected = if map.len() < CAPACITY { map.insert(key, n); Ok(()) } else { Err(Full) };
                            prop_assert_eq!(slab.insert(hash(key), (key, n)), expected);
                        }
                    }
                    Step::Remove(key) => {
                        let found = slab.find(hash(key), |entry| entry.0 == key).map(|(place, entry)| (place, entry.1));
                        prop_assert_eq!(found.map(|(_, n)| n), map.remove(&key));
                        if let Some((place, _)) = found {
                            slab.remove(place);
                        }
                    }
                    Step::Sweep(key) => {
                        let expected = usize::from(map.remove(&key).is_some());
                        prop_assert_eq!(slab.sweep(CAPACITY, |entry| entry.0 == key), expected);
                    }
                }
                prop_assert_eq!(slab.len(), map.len());
                prop_assert_eq!(slab.is_full(), map.len() == CAPACITY);
                let seen: HashMap<u8, usize> = slab.iter().copied().collect();
                prop_assert_eq!(&seen, &map);
            }
        }
    }
}
