//! Places for entries, in one allocation. A place keeps its number as long as its entry lives.
//!
//! The allocation is made once; its pages are first touched when connections first need them.

use super::entry::{Entry, Key};

/// The number of no place.
pub(super) const NONE: u32 = u32::MAX;

#[derive(Debug)]
pub(super) struct Places {
    /// Those that were in use at some time.
    entries: Vec<Entry>,
    free: Vec<u32>,
    max: usize,
}

impl Places {
    pub(super) fn new(max: usize) -> Self {
        Self { entries: Vec::with_capacity(max), free: Vec::with_capacity(max), max }
    }

    /// Entries in use.
    pub(super) const fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// Places that were in use at some time: their numbers are below.
    pub(super) const fn touched(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn has_room(&self) -> bool {
        !self.free.is_empty() || self.entries.len() < self.max
    }

    #[inline]
    pub(super) fn is_taken(&self, place: u32) -> bool {
        self.entries.get(place as usize).is_some_and(|entry| entry.key.is_connection())
    }

    #[inline]
    pub(super) fn holds(&self, place: u32, key: &Key) -> bool {
        self.entries.get(place as usize).is_some_and(|entry| entry.key == *key)
    }

    /// The entry at a place in use.
    pub(super) fn get(&self, place: u32) -> Option<&Entry> {
        self.entries.get(place as usize).filter(|entry| entry.key.is_connection())
    }

    pub(super) fn get_mut(&mut self, place: u32) -> Option<&mut Entry> {
        self.entries.get_mut(place as usize).filter(|entry| entry.key.is_connection())
    }

    /// The entry at a place if it has that key.
    #[inline]
    pub(super) fn get_if(&mut self, place: u32, key: &Key) -> Option<&mut Entry> {
        self.entries.get_mut(place as usize).filter(|entry| entry.key == *key)
    }

    /// `None`: no room.
    pub(super) fn insert(&mut self, entry: Entry) -> Option<u32> {
        if let Some(place) = self.free.pop() {
            *self.entries.get_mut(place as usize)? = entry;
            return Some(place);
        }
        if self.entries.len() >= self.max {
            return None;
        }
        self.entries.push(entry);
        Some(self.entries.len() as u32 - 1)
    }

    pub(super) fn remove(&mut self, place: u32) {
        if let Some(entry) = self.get_mut(place) {
            *entry = Entry::FREE;
            self.free.push(place);
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| entry.key.is_connection())
    }
}
