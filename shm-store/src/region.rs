//! The memory of a region: 64-bit words at offsets, touched with atomics only.

use std::sync::atomic::{AtomicU64, Ordering};

use thiserror::Error;

use crate::geometry::{
    AT_GRANT, AT_LAYOUT_VERSION, AT_MAGIC, AT_REGION_ID, AT_SIZES, Geometry, LAYOUT_VERSION, MAGIC, Sizes,
};
use crate::local::Mapping;
use crate::words::{Words, WordsMut};

/// A random name, fresh for every region. A pairing binds its keys to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RegionId(pub [u8; 16]);

impl RegionId {
    /// Draws a name.
    pub fn random(rng: &mut impl rand_core::CryptoRng) -> Self {
        let mut id = [0; 16];
        rng.fill_bytes(&mut id);
        Self(id)
    }

    fn words(self) -> [u64; 2] {
        let [low, high] = [self.0.first_chunk(), self.0.last_chunk()];
        [low, high].map(|half| half.copied().map_or(0, u64::from_le_bytes))
    }
}

/// The memory behind a peer's descriptor is not the region that the peer announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the memory is not the region that the peer announced")]
pub struct NotTheRegion;

#[derive(Debug)]
enum Memory {
    Anonymous(Box<[AtomicU64]>),
    Mapped(Mapping),
}

/// A region of the store.
#[derive(Debug)]
pub struct Region {
    id: RegionId,
    geometry: Geometry,
    memory: Memory,
}

impl Region {
    /// An empty region in ordinary memory, for owner and backup in one process.
    pub fn anonymous(geometry: Geometry, id: RegionId) -> Self {
        let words = (0..geometry.words()).map(|_| AtomicU64::new(0)).collect();
        let region = Self { id, geometry, memory: Memory::Anonymous(words) };
        region.write_header();
        region
    }

    /// An empty region in memory that another process may map.
    pub(crate) fn create(mapping: Mapping, geometry: Geometry, id: RegionId) -> Result<Self, NotTheRegion> {
        let region = Self { id, geometry, memory: Memory::Mapped(mapping) };
        region.write_header();
        region.check()
    }

    /// A region that the peer created.
    pub(crate) fn attach(mapping: Mapping, geometry: Geometry, id: RegionId) -> Result<Self, NotTheRegion> {
        Self { id, geometry, memory: Memory::Mapped(mapping) }.check()
    }

    fn check(self) -> Result<Self, NotTheRegion> {
        let right =
            self.words().len() >= self.geometry.words() && self.header().all(|(at, word)| self.load(at) == word);
        if right { Ok(self) } else { Err(NotTheRegion) }
    }

    /// Its name.
    pub fn id(&self) -> RegionId {
        self.id
    }

    /// What lies where in it.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    pub(crate) fn words(&self) -> &[AtomicU64] {
        match &self.memory {
            Memory::Anonymous(words) => words,
            Memory::Mapped(mapping) => mapping.words(),
        }
    }

    pub(crate) fn word(&self, at: usize) -> Option<&AtomicU64> {
        self.words().get(at)
    }

    /// Forgets everything behind the header. Nobody must be granted to write.
    pub(crate) fn empty(&self) {
        for word in self.words().get(AT_GRANT..self.geometry.words()).unwrap_or_default() {
            word.store(0, Ordering::Relaxed);
        }
    }

    fn header(&self) -> impl Iterator<Item = (usize, u64)> {
        let [low, high] = self.id.words();
        let sizes: [u8; Sizes::ENCODED_BYTES] = self.geometry.sizes().encode();
        let sizes = sizes.chunks(8).map(|bytes| {
            let mut word = [0; 8];
            word.iter_mut().zip(bytes).for_each(|(into, byte)| *into = *byte);
            u64::from_le_bytes(word)
        });
        let fixed = [
            (AT_MAGIC, MAGIC),
            (AT_LAYOUT_VERSION, u64::from(LAYOUT_VERSION)),
            (AT_REGION_ID, low),
            (AT_REGION_ID + 1, high),
        ];
        fixed.into_iter().chain((AT_SIZES..).zip(sizes.collect::<Vec<_>>()))
    }

    fn write_header(&self) {
        for (at, value) in self.header() {
            if let Some(word) = self.word(at) {
                word.store(value, Ordering::SeqCst);
            }
        }
    }
}

impl Words for Region {
    fn load(&self, at: usize) -> u64 {
        self.word(at).map_or(0, |word| word.load(Ordering::Relaxed))
    }
}

impl WordsMut for Region {
    fn store(&self, at: usize, word: u64) {
        if let Some(place) = self.word(at) {
            place.store(word, Ordering::Relaxed);
        }
    }

    fn swap(&self, at: usize, word: u64) {
        if let Some(place) = self.word(at) {
            place.swap(word, Ordering::SeqCst);
        }
    }
}
