//! A hash table of fixed capacity that knows the order of insertion: places in one allocation, chained per bucket and by age.

/// No place.
const NONE: u32 = u32::MAX;

#[derive(Debug)]
struct Place<T> {
    hash: u64,
    /// Next in the bucket's chain, or in the chain of free places.
    next: u32,
    older: u32,
    newer: u32,
    entry: Option<T>,
}

impl<T> Place<T> {
    const fn free(next: u32) -> Self {
        Self { hash: 0, next, older: NONE, newer: NONE, entry: None }
    }
}

#[derive(Debug)]
pub(crate) struct AgedTable<T> {
    places: Box<[Place<T>]>,
    /// First place of each bucket; their number is a power of two.
    buckets: Box<[u32]>,
    free: u32,
    oldest: u32,
    newest: u32,
    len: usize,
}

impl<T> AgedTable<T> {
    /// Room for `capacity` entries (at least one), all of it allocated now.
    pub(crate) fn new(capacity: usize) -> Self {
        let capacity = capacity.clamp(1, NONE as usize);
        Self {
            places: (1..=capacity).map(|next| Place::free(if next < capacity { next as u32 } else { NONE })).collect(),
            buckets: vec![NONE; capacity.next_power_of_two()].into_boxed_slice(),
            free: 0,
            oldest: NONE,
            newest: NONE,
            len: 0,
        }
    }

    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    pub(crate) const fn is_full(&self) -> bool {
        self.free == NONE
    }

    fn bucket(&mut self, hash: u64) -> Option<&mut u32> {
        let mask = self.buckets.len() as u64 - 1;
        self.buckets.get_mut((hash & mask) as usize)
    }

    /// The entry with that hash that `is_it` recognises, and its place.
    pub(crate) fn find(&mut self, hash: u64, is_it: impl Fn(&T) -> bool) -> Option<(u32, &mut T)> {
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

    /// The entry that was inserted first, and its place.
    pub(crate) fn oldest(&self) -> Option<(u32, &T)> {
        let entry = self.places.get(self.oldest as usize)?.entry.as_ref()?;
        Some((self.oldest, entry))
    }

    /// What is in a place.
    pub(crate) fn get(&self, at: u32) -> Option<&T> {
        self.places.get(at as usize)?.entry.as_ref()
    }

    /// The same, to be changed.
    pub(crate) fn get_mut(&mut self, at: u32) -> Option<&mut T> {
        self.places.get_mut(at as usize)?.entry.as_mut()
    }

    /// Adds an entry that `find` didn't find, and says where it is. Gives it back when the table is full.
    pub(crate) fn insert(&mut self, hash: u64, entry: T) -> Result<u32, T> {
        let (at, older) = (self.free, self.newest);
        let next = self.bucket(hash).map_or(NONE, |first| *first);
        let Some(place) = self.places.get_mut(at as usize) else { return Err(entry) };
        self.free = place.next;
        *place = Place { hash, next, older, newer: NONE, entry: Some(entry) };
        if let Some(bucket) = self.bucket(hash) {
            *bucket = at;
        }
        match self.places.get_mut(older as usize) {
            Some(older) => older.newer = at,
            None => self.oldest = at,
        }
        self.newest = at;
        self.len += 1;
        Ok(at)
    }

    /// Takes out the entry of a place that `find`, `insert` or `oldest` gave.
    pub(crate) fn remove(&mut self, at: u32) -> Option<T> {
        let place = self.places.get_mut(at as usize)?;
        let entry = place.entry.take()?;
        let Place { hash, next, older, newer, .. } = *place;
        *place = Place::free(self.free);
        self.free = at;
        self.len -= 1;
        match self.places.get_mut(older as usize) {
            Some(older) => older.newer = newer,
            None => self.oldest = newer,
        }
        match self.places.get_mut(newer as usize) {
            Some(newer) => newer.older = older,
            None => self.newest = older,
        }
        self.unchain(hash, at, next);
        Some(entry)
    }

    /// Takes a place out of its bucket's chain.
    fn unchain(&mut self, hash: u64, at: u32, next: u32) {
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Insert(u8),
        Remove(u8),
        RemoveOldest,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (0u8..24).prop_map(Step::Insert),
            2 => (0u8..24).prop_map(Step::Remove),
            1 => Just(Step::RemoveOldest),
        ]
    }

    proptest! {
        /// Against a list in order of insertion. Eight keys share each hash, so that chains are long.
        #[test]
        fn behaves_like_a_list(steps in proptest::collection::vec(step(), 0..200)) {
            const CAPACITY: usize = 10;
            let hash = |key: u8| u64::from(key % 3);
            let mut table = AgedTable::new(CAPACITY);
            let mut list = Vec::new();
            for step in steps {
                match step {
                    Step::Insert(key) => {
                        let found = table.find(hash(key), |entry: &u8| *entry == key).map(|(_, entry)| *entry);
                        prop_assert_eq!(found.is_some(), list.contains(&key));
                        if found.is_none() {
                            let expected = if list.len() < CAPACITY { list.push(key); Ok(()) } else { Err(key) };
                            prop_assert_eq!(table.insert(hash(key), key).map(|at| table.get(at).copied()), expected.map(|()| Some(key)));
                        }
                    }
                    Step::Remove(key) => {
                        let at = table.find(hash(key), |entry| *entry == key).map(|(at, _)| at);
                        prop_assert_eq!(at.and_then(|at| table.remove(at)), list.contains(&key).then_some(key));
                        list.retain(|other| *other != key);
                    }
                    Step::RemoveOldest => {
                        let at = table.oldest().map(|(at, _)| at);
                        let expected = if list.is_empty() { None } else { Some(list.remove(0)) };
                        prop_assert_eq!(at.and_then(|at| table.remove(at)), expected);
                    }
                }
                prop_assert_eq!((table.len(), table.is_full()), (list.len(), list.len() == CAPACITY));
                prop_assert_eq!(table.oldest().map(|(_, entry)| *entry), list.first().copied());
            }
        }
    }
}
