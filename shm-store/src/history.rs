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
    /// The authentic version that was read in a place last, by place.
    seen: Vec<u64>,
    /// That version, where it is a record's newest.
    newest: Vec<u64>,
    known: HashMap<RecordKey, Known>,
    /// The reverse of `Known::at`.
    occupants: HashMap<u32, RecordKey>,
}

impl History {
    pub(crate) fn new(places: u32) -> Self {
        let zeros = vec![0; places as usize];
        Self { floors: zeros.clone(), seen: zeros.clone(), newest: zeros, ..Self::default() }
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
        self.newest.fill(0);
        self.known.clear();
        self.occupants.clear();
    }

    /// The journal says that `place` was written in place of `old`. Returns a record that is gone: nothing superseded it,
    /// and yet its place was reused, so a tombstone was missed.
    pub(crate) fn moved(&mut self, place: u32, old: Option<u32>) -> Option<RecordKey> {
        let gone = self.occupants.remove(&place);
        if let Some(known) = gone.and_then(|key| self.forget(key))
            && self.seen.get(known.place as usize) == Some(&known.version)
        {
            // The journal alone says that it is gone: then it isn't where it was.
            set(&mut self.seen, known.place, 0);
        }
        if let Some(key) = old.and_then(|old| self.occupants.remove(&old)) {
            self.occupants.insert(place, key);
            if let Some(known) = self.known.get_mut(&key) {
                known.at = place;
            }
        }
        gone
    }

    fn forget(&mut self, key: RecordKey) -> Option<Known> {
        let known = self.known.remove(&key)?;
        set(&mut self.newest, known.place, 0);
        Some(known)
    }

    /// A version was read in a place and authenticated, newest or not.
    pub(crate) fn saw(&mut self, place: u32, version: u64) {
        set(&mut self.seen, place, version);
    }

    fn supersede(&mut self, key: RecordKey, place: u32, version: u64) {
        self.raise(place, version);
        self.saw(place, version);
        if let Some(before) = self.forget(key) {
            self.occupants.remove(&before.at);
            if before.version < version {
                self.raise(before.place, before.version + 1);
            }
        }
    }

    /// A record was read and authenticated. Returns another record that was believed to be in its place.
    pub(crate) fn stored(&mut self, key: RecordKey, place: u32, version: u64) -> Option<RecordKey> {
        self.supersede(key, place, version);
        let gone = self.occupants.insert(place, key);
        if let Some(key) = gone {
            self.forget(key);
        }
        self.known.insert(key, Known { place, version, at: place });
        set(&mut self.newest, place, version);
        gone
    }

    /// Is what a place holds at the fence what is remembered of it? `version`: what it has now, as far as the copy goes; 0: nothing.
    ///
    /// Nothing may be there that wasn't read, and a record's newest version may not be missing. An older one may: the writer was about
    /// to empty its place.
    pub(crate) fn agrees(&self, place: u32, version: u64) -> bool {
        let remembered = |versions: &[u64]| versions.get(place as usize).copied().unwrap_or(0);
        match remembered(&self.newest) {
            0 => version == 0 || version == remembered(&self.seen),
            newest => version == newest,
        }
    }

    /// A tombstone was read and authenticated.
    pub(crate) fn removed(&mut self, key: RecordKey, place: u32, version: u64) {
        self.supersede(key, place, version);
    }
}

fn set(versions: &mut [u64], place: u32, version: u64) {
    if let Some(known) = versions.get_mut(place as usize) {
        *known = version;
    }
}

/// The floor of a place: 0 where nothing was seen.
pub(crate) fn floor(floors: &[u64], place: u32) -> u64 {
    floors.get(place as usize).copied().unwrap_or(0)
}
