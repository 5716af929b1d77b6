//! From a hash to a place: a flat hash table whose buckets are cache lines.
//!
//! A bucket holds up to 15 words; a word is a place, plus some bits of the hash (the tag) in the bits above. So one line is read and
//! compared at once, and a line of the entries is read for nothing once in several hundred look-ups. What finds its bucket full
//! goes to the next one; each bucket counts how many went by it, so that a search ends where none did and nothing is ever moved.

/// Words of a bucket.
const LANES: usize = 15;
/// Load of the table when every place is taken: three quarters, so that few find their bucket full.
const LOAD: (usize, usize) = (3, 4);

/// Most places: a tag has at least 7 bits.
pub(super) const PLACES_MAX: usize = (1 << 24) - 1;

/// The number of words is a power of two for the vector units; the last one counts those that went by.
#[derive(Debug, Clone)]
#[repr(C, align(64))]
struct Bucket {
    words: [u32; LANES + 1],
}

/// Bytes of a bucket.
const BUCKET_BYTES: usize = size_of::<Bucket>();
const _: () = assert!(BUCKET_BYTES == 64, "a bucket is one cache line");

impl Bucket {
    /// The lanes whose word is the wanted one in the bits of `mask`, a bit for each.
    fn matches(&self, wanted: u32, mask: u32) -> u32 {
        let mut lanes = 0;
        for (lane, word) in self.words.iter().enumerate() {
            lanes |= u32::from((word ^ wanted) & mask == 0) << lane;
        }
        lanes & ((1 << LANES) - 1)
    }

    const fn passed(&self) -> u32 {
        self.words[LANES]
    }
}

#[derive(Debug)]
pub(super) struct Index {
    buckets: Box<[Bucket]>,
    /// The bits of a word that are the place, plus one: a word of a place is never 0.
    place_mask: u32,
}

impl Index {
    /// For places up to `places_max`.
    pub(super) fn new(places_max: usize) -> Self {
        let place_bits = usize::BITS - places_max.min(PLACES_MAX).leading_zeros();
        let bucket = Bucket { words: [0; LANES + 1] };
        Self {
            buckets: vec![bucket; Self::buckets(places_max)].into_boxed_slice(),
            place_mask: ((1u64 << place_bits) - 1) as u32,
        }
    }

    const fn buckets(places_max: usize) -> usize {
        (places_max * LOAD.1).div_ceil(LANES * LOAD.0) + 1
    }

    /// Bytes of an index.
    pub(super) const fn bytes(places_max: usize) -> usize {
        Self::buckets(places_max) * BUCKET_BYTES
    }

    /// The bucket where a hash belongs: its high half, scaled.
    fn home(&self, hash: u64) -> usize {
        (((hash >> 32) * self.buckets.len() as u64) >> 32) as usize
    }

    fn after(&self, bucket: usize) -> usize {
        if bucket + 1 < self.buckets.len() { bucket + 1 } else { 0 }
    }

    fn word(&self, hash: u64, place: u32) -> u32 {
        (hash as u32 & !self.place_mask) | (place.wrapping_add(1) & self.place_mask)
    }

    /// The first place in the home bucket that may be it, without looking further; [`places::NONE`](super::places::NONE) when there
    /// is none.
    pub(super) fn guess(&self, hash: u64) -> u32 {
        let Some(bucket) = self.buckets.get(self.home(hash)) else { return super::places::NONE };
        let lanes = bucket.matches(hash as u32, !self.place_mask);
        let word = bucket.words[lanes.trailing_zeros() as usize & LANES];
        if lanes == 0 { super::places::NONE } else { (word & self.place_mask).wrapping_sub(1) }
    }

    /// The place with that hash that `is_it` recognises.
    pub(super) fn find(&self, hash: u64, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        let mut at = self.home(hash);
        for _ in 0..self.buckets.len() {
            let bucket = self.buckets.get(at)?;
            let mut lanes = bucket.matches(hash as u32, !self.place_mask);
            while lanes != 0 {
                let place = (bucket.words[lanes.trailing_zeros() as usize & LANES] & self.place_mask).wrapping_sub(1);
                if is_it(place) {
                    return Some(place);
                }
                lanes &= lanes - 1;
            }
            if bucket.passed() == 0 {
                return None;
            }
            at = self.after(at);
        }
        None
    }

    /// Adds a place that `find` doesn't find. There is room for as many as the index was made for.
    pub(super) fn insert(&mut self, hash: u64, place: u32) {
        let word = self.word(hash, place);
        let mut at = self.home(hash);
        for _ in 0..self.buckets.len() {
            let next = self.after(at);
            let Some(bucket) = self.buckets.get_mut(at) else { return };
            let lanes = bucket.matches(0, u32::MAX);
            if lanes != 0 {
                bucket.words[lanes.trailing_zeros() as usize & LANES] = word;
                return;
            }
            bucket.words[LANES] = bucket.passed().saturating_add(1);
            at = next;
        }
    }

    /// Takes out a place that is there.
    pub(super) fn remove(&mut self, hash: u64, place: u32) {
        let word = self.word(hash, place);
        let mut at = self.home(hash);
        for _ in 0..self.buckets.len() {
            let next = self.after(at);
            let Some(bucket) = self.buckets.get_mut(at) else { return };
            let lanes = bucket.matches(word, u32::MAX);
            if lanes != 0 {
                bucket.words[lanes.trailing_zeros() as usize & LANES] = 0;
                return;
            }
            bucket.words[LANES] = bucket.passed().saturating_sub(1);
            at = next;
        }
    }
}
