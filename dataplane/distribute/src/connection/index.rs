//! From a hash to a place: a flat hash table whose buckets are cache lines.
//!
//! A bucket has 12 lanes. A lane is a place, and a byte of its hash (the tag) that lets most other places be passed over unread.
//! What finds its bucket full goes to the next one; each bucket counts how many went by it, so that a search ends where none did,
//! and nothing is ever moved.

use super::places::NONE;

/// Lanes of a bucket.
const LANES: usize = 12;
/// Taken lanes of all lanes when every place is taken: few find their bucket full.
const LOAD: (usize, usize) = (2, 3);

/// Most places.
pub(super) const PLACES_MAX: usize = 1 << 28;

#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Bucket {
    /// Tags of the lanes from 0, a byte each; 0 is a free lane.
    tags: u64,
    /// Those from 8.
    more_tags: u32,
    /// How many went by because every lane was taken.
    passed: u32,
    places: [u32; LANES],
}

/// Bytes of a bucket.
const BUCKET_BYTES: usize = size_of::<Bucket>();
const _: () = assert!(BUCKET_BYTES == 64, "a bucket is one cache line");

/// Where a hash belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spot {
    /// The bucket where a search begins.
    bucket: u32,
    /// Never that of a free lane.
    tag: u8,
}

/// Lanes of a bucket, the highest bit of a byte each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Lanes(u128);

impl Lanes {
    /// The first one; no lane's number when there is none.
    #[inline]
    const fn first(self) -> usize {
        self.0.trailing_zeros() as usize / 8
    }

    #[inline]
    const fn others(self) -> Self {
        Self(self.0 & self.0.wrapping_sub(1))
    }
}

impl Bucket {
    const EMPTY: Self = Self { tags: 0, more_tags: 0, passed: 0, places: [NONE; LANES] };

    /// The lanes with that tag, and perhaps others behind the first.
    #[inline]
    const fn tagged(&self, tag: u8) -> Lanes {
        const LOW: u64 = 0x0101_0101_0101_0101;
        const HIGH: u64 = LOW << 7;
        let wanted = LOW * tag as u64;
        // A byte that is wanted becomes 0, and only below a 0 does the subtraction borrow nothing.
        let (tags, more) = (self.tags ^ wanted, self.more_tags as u64 ^ wanted);
        let (tags, more) = (tags.wrapping_sub(LOW) & !tags & HIGH, more.wrapping_sub(LOW) & !more & HIGH);
        Lanes(tags as u128 | (more as u128) << 64)
    }

    #[inline]
    fn place(&self, lane: usize) -> u32 {
        self.places.get(lane).copied().unwrap_or(NONE)
    }

    fn set(&mut self, lane: usize, tag: u8, place: u32) {
        let bits = 8 * lane;
        let tags = u128::from(self.tags) | u128::from(self.more_tags) << 64;
        let tags = tags & !(0xff << bits) | u128::from(tag) << bits;
        (self.tags, self.more_tags) = (tags as u64, (tags >> 64) as u32);
        if let Some(lane) = self.places.get_mut(lane) {
            *lane = place;
        }
    }
}

#[derive(Debug)]
pub(super) struct Index {
    buckets: Box<[Bucket]>,
}

impl Index {
    /// For that many places.
    pub(super) fn new(places_max: usize) -> Self {
        Self { buckets: vec![Bucket::EMPTY; Self::buckets(places_max)].into_boxed_slice() }
    }

    const fn buckets(places_max: usize) -> usize {
        (places_max * LOAD.1).div_ceil(LANES * LOAD.0) + 1
    }

    /// Bytes of an index.
    pub(super) const fn bytes(places_max: usize) -> usize {
        Self::buckets(places_max) * BUCKET_BYTES
    }

    /// Where a hash belongs: its high half, scaled, says in which bucket, its lowest byte under which tag.
    #[inline]
    pub(super) const fn spot(&self, hash: u64) -> Spot {
        let bucket = ((hash >> 32) * self.buckets.len() as u64) >> 32;
        let tag = hash as u8;
        Spot { bucket: bucket as u32, tag: if tag == 0 { 1 } else { tag } }
    }

    fn after(&self, bucket: usize) -> usize {
        if bucket + 1 < self.buckets.len() { bucket + 1 } else { 0 }
    }

    /// Reads a bit of a bucket, for [`guess`](Self::guess).
    #[inline]
    pub(super) fn touch(&self, spot: Spot) -> u64 {
        self.buckets.get(spot.bucket as usize).map_or(0, |bucket| bucket.tags)
    }

    /// The first place in the bucket that may be it; [`NONE`] when there is none.
    #[inline]
    pub(super) fn guess(&self, spot: Spot, tags: u64) -> u32 {
        let Some(bucket) = self.buckets.get(spot.bucket as usize) else { return NONE };
        bucket.place(Bucket { tags, ..*bucket }.tagged(spot.tag).first())
    }

    /// The place with that spot that `is_it` recognises.
    pub(super) fn find(&self, spot: Spot, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        let mut at = spot.bucket as usize;
        for _ in 0..self.buckets.len() {
            let bucket = self.buckets.get(at)?;
            let mut lanes = bucket.tagged(spot.tag);
            while lanes != Lanes(0) {
                let place = bucket.place(lanes.first());
                if is_it(place) {
                    return Some(place);
                }
                lanes = lanes.others();
            }
            if bucket.passed == 0 {
                return None;
            }
            at = self.after(at);
        }
        None
    }

    /// Adds a place that `find` doesn't find. There is room for as many as the index was made for.
    pub(super) fn insert(&mut self, spot: Spot, place: u32) {
        let mut at = spot.bucket as usize;
        for _ in 0..self.buckets.len() {
            let next = self.after(at);
            let Some(bucket) = self.buckets.get_mut(at) else { return };
            let lane = bucket.tagged(0).first();
            if lane < LANES {
                return bucket.set(lane, spot.tag, place);
            }
            bucket.passed += 1;
            at = next;
        }
    }

    /// Takes out a place that is there.
    pub(super) fn remove(&mut self, spot: Spot, place: u32) {
        let mut at = spot.bucket as usize;
        for _ in 0..self.buckets.len() {
            let next = self.after(at);
            let Some(bucket) = self.buckets.get_mut(at) else { return };
            if let Some(lane) = bucket.places.iter().position(|&other| other == place) {
                return bucket.set(lane, 0, NONE);
            }
            bucket.passed = bucket.passed.saturating_sub(1);
            at = next;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    #[test]
    fn lanes_by_tag() {
        let mut bucket = Bucket::EMPTY;
        assert_eq!(bucket.tagged(0).first(), 0);
        for lane in 0..LANES {
            assert_eq!(bucket.tagged(0).first(), lane);
            bucket.set(lane, if lane % 2 == 0 { 1 } else { 0x80 }, lane as u32);
        }
        assert!(bucket.tagged(0).first() >= LANES, "full");
        assert_eq!((bucket.tagged(1).first(), bucket.tagged(0x80).first()), (0, 1));
        assert_eq!(bucket.tagged(7).first(), 16);
        bucket.set(9, 7, 99);
        assert_eq!(bucket.place(bucket.tagged(7).first()), 99);
        bucket.set(9, 0, NONE);
        assert_eq!(bucket.tagged(0).first(), 9);
    }

    proptest! {
        /// Against a set. All share a bucket and some their tag, so that buckets overflow around the end of the table.
        #[test]
        fn behaves_like_a_set(steps in proptest::collection::vec((any::<bool>(), 0u32..60), 0..400)) {
            let mut index = Index::new(60);
            let last = index.spot(u64::MAX).bucket;
            let spot = |place: u32| Spot { bucket: last, tag: 1 + (place % 5) as u8 };
            let mut set = HashSet::new();
            for (insert, place) in steps {
                if insert && set.insert(place) {
                    index.insert(spot(place), place);
                } else if !insert && set.remove(&place) {
                    index.remove(spot(place), place);
                }
                for place in 0..60 {
                    let found = index.find(spot(place), |other| other == place);
                    prop_assert_eq!(found, set.contains(&place).then_some(place));
                }
            }
            let all: Vec<u32> = set.iter().copied().collect();
            all.into_iter().for_each(|place| index.remove(spot(place), place));
            prop_assert!(index.buckets.iter().all(|bucket| bucket.passed == 0 && bucket.tagged(0).first() == 0));
        }
    }
}
