//! Places for SAs that never move: what a key left behind in memory when its SA moved, nobody would wipe.

/// Places that are allocated together.
const CHUNK: usize = 32;

/// Numbered places, made in chunks as they are needed.
#[derive(Debug)]
pub(super) struct Arena<T> {
    chunks: Vec<Box<[Option<T>]>>,
}

impl<T> Arena<T> {
    pub(super) const fn new() -> Self {
        Self { chunks: Vec::new() }
    }

    /// How many places there are.
    pub(super) fn places(&self) -> usize {
        self.chunks.len() * CHUNK
    }

    /// Puts something into a place that exists, or into the next chunk's.
    pub(super) fn put(&mut self, at: u32, value: T) {
        let at = at as usize;
        while self.places() <= at {
            self.chunks.push((0..CHUNK).map(|_| None).collect());
        }
        if let Some(place) = self.chunks.get_mut(at / CHUNK).and_then(|chunk| chunk.get_mut(at % CHUNK)) {
            *place = Some(value);
        }
    }

    #[inline]
    pub(super) fn get(&self, at: u32) -> Option<&T> {
        let at = at as usize;
        self.chunks.get(at / CHUNK)?.get(at % CHUNK)?.as_ref()
    }

    #[inline]
    pub(super) fn get_mut(&mut self, at: u32) -> Option<&mut T> {
        let at = at as usize;
        self.chunks.get_mut(at / CHUNK)?.get_mut(at % CHUNK)?.as_mut()
    }

    /// Drops what is in a place, where it is.
    pub(super) fn clear(&mut self, at: u32) {
        let at = at as usize;
        if let Some(place) = self.chunks.get_mut(at / CHUNK).and_then(|chunk| chunk.get_mut(at % CHUNK)) {
            *place = None;
        }
    }
}
