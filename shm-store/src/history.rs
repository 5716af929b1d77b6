//! What a reader remembers of what it saw, so that old bytes put back into the region are refused.

use std::collections::HashMap;

use crate::RecordKey;

#[derive(Debug, Clone, Copy)]
struct Known {
    /// Where the version below was read, authentic.
    place: u32,
    version: u64,
    /// Where the journal says the record is now.
    at: u32,
}

/// Bounded by the region: one number per place, and one known record per place at most.
#[derive(Debug, Default)]
pub(crate) struct History {
    /// Lowest version that a place may hold, by place. Only authentic records raise it: to the version seen in the place,
    /// and above it when the record was seen elsewhere with a newer one.
    floors: Vec<u64>,
    known: HashMap<RecordKey, Known>,
    /// The reverse of `Known::at`.
    occupants: HashMap<u32, RecordKey>,
}

impl History {
    pub(crate) fn new(places: u32) -> Self {
        Self { floors: vec![0; places as usize], ..Self::default() }
    }

    pub(crate) fn floors(&self) -> &[u64] {
        &self.floors
    }

    pub(crate) fn floor(&self, place: u32) -> u64 {
        floor(&self.floors, place)
    }

    fn raise(&mut self, place: u32, version: u64) {
        if let Some(floor) = self.floors.get_mut(place as usize) {
            *floor = version.max(*floor);
        }
    }

    /// Forgets which records there are, but not what was seen.
    pub(crate) fn forget_records(&mut self) {
        self.known.clear();
        self.occupants.clear();
    }

    /// The journal says that `place` was written in place of `old`. Returns a record that is gone: nothing superseded it,
    /// and yet its place was reused, so a tombstone was missed.
    pub(crate) fn moved(&mut self, place: u32, old: Option<u32>) -> Option<RecordKey> {
        let gone = self.occupants.remove(&place);
        if let Some(key) = gone {
            self.known.remove(&key);
        }
        if let Some(key) = old.and_then(|old| self.occupants.remove(&old)) {
            self.occupants.insert(place, key);
            if let Some(known) = self.known.get_mut(&key) {
                known.at = place;
            }
        }
        gone
    }

    fn supersede(&mut self, key: RecordKey, place: u32, version: u64) {
        self.raise(place, version);
        if let Some(before) = self.known.remove(&key) {
            self.occupants.remove(&before.at);
            if before.version < version {
                self.raise(before.place, before.version + 1);
            }
        }
    }

    /// A record was read and authenticated. Returns another record that was believed to be in its place.
    pub(crate) fn stored(&mut self, key: RecordKey, place: u32, version: u64) -> Option<RecordKey> {
        self.supersede(key, place, version);
        self.known.insert(key, Known { place, version, at: place });
        let gone = self.occupants.insert(place, key);
        if let Some(key) = gone {
            self.known.remove(&key);
        }
        gone
    }

    /// A tombstone was read and authenticated.
    pub(crate) fn removed(&mut self, key: RecordKey, place: u32, version: u64) {
        self.supersede(key, place, version);
    }
}

/// The floor of a place: 0 where nothing was seen.
pub(crate) fn floor(floors: &[u64], place: u32) -> u64 {
    floors.get(place as usize).copied().unwrap_or(0)
}
