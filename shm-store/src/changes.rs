//! Following a writer through the journal.
//!
//! The journal is a ring with one word per write: the place that was written and the one that it superseded. A reader
//! that was lapped looks at the whole region and goes on from there. The journal isn't authenticated: it says where to
//! look, never what to believe.

use std::sync::atomic::Ordering;

use crate::geometry::Geometry;
use crate::history::History;
use crate::place::{Content, Copied, Header, Look, look_at, version_of};
use crate::seal::{Opener, Reason, Rejected};
use crate::snapshot::{Bounds, Copier, Opened, RegionCopy};
use crate::words::Words;
use crate::{Record, RecordKey};

/// A change that a live reader saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The reader lagged too far behind: forget all records; those that exist follow as `Stored`.
    Resync,
    /// A record is new, or has a new version.
    Stored(Record),
    /// A record is gone.
    Removed(RecordKey),
    /// A place was left out.
    Rejected(Rejected),
}

/// How far a live reader is.
#[derive(Debug)]
pub(crate) enum Watch {
    /// All writes up to this one were looked at.
    Following(u64),
    Copying(Copier),
    Opening {
        bounds: Bounds,
        records: std::vec::IntoIter<Vec<Copied>>,
    },
}

impl Default for Watch {
    fn default() -> Self {
        Self::Following(0)
    }
}

impl Watch {
    pub(crate) fn poll(
        &mut self,
        words: &impl Words,
        geometry: &Geometry,
        opener: &Opener,
        history: &mut History,
        places_max: u32,
    ) -> Vec<Change> {
        let mut changes = Vec::new();
        match self {
            Self::Following(seen) => match follow(*seen, words, geometry, opener, history, places_max, &mut changes) {
                Ok(now) => *seen = now,
                Err(Lapped) => {
                    history.forget_records();
                    changes.push(Change::Resync);
                    *self = Self::Copying(Copier::new(words));
                }
            },
            Self::Copying(copier) => {
                copier.step(words, geometry, places_max);
                if copier.is_done(geometry) {
                    let copier = std::mem::replace(copier, Copier::new(words));
                    let copy = copier.finish(words, geometry);
                    let bounds = copy.bounds();
                    let (records, rejected) = copy.into_records();
                    changes.extend(rejected.into_iter().map(Change::Rejected));
                    *self = Self::Opening { bounds, records: records.into_iter() };
                }
            }
            Self::Opening { bounds, records } => {
                for versions in records.by_ref().take(places_max as usize) {
                    let opened = RegionCopy::open(*bounds, opener, history.floors(), &versions);
                    if opened.is_ok() {
                        versions.iter().for_each(|copied| history.saw(copied.place, copied.version()));
                    }
                    match opened {
                        // The newer version moved while we copied; the journal will say where to.
                        Err(Rejected { reason: Reason::Rollback, .. }) => {}
                        Err(rejected) => changes.push(Change::Rejected(rejected)),
                        Ok(None) => {}
                        Ok(Some(opened)) => {
                            let Header { key, version, content, .. } = opened.header;
                            if content == Content::Record {
                                history.stored(key, opened.place, version);
                                changes.push(Change::Stored(opened.into()));
                            } else {
                                history.removed(key, opened.place, version);
                            }
                        }
                    }
                }
                if records.len() == 0 {
                    *self = Self::Following(bounds.cut);
                }
            }
        }
        changes
    }
}

/// Brings a follower to the fence: what changed since it looked last, up to the write that is returned with it, if then all it was
/// told is exactly what the region holds. `None`: it isn't, or it was behind; only a copy of the whole region tells.
///
/// The journal isn't authenticated, so that the follower may have been kept from looking. But a place's version is: so each place is
/// asked for the version that it holds, and there must be none that wasn't read, and none missing.
pub(crate) fn conclude(
    watch: &mut Watch,
    words: &impl Words,
    geometry: &Geometry,
    opener: &Opener,
    history: &mut History,
) -> Option<(u64, Vec<Change>)> {
    let Watch::Following(seen) = watch else { return None };
    let mut changes = Vec::new();
    let cut = follow(*seen, words, geometry, opener, history, u32::MAX, &mut changes).ok()?;
    *seen = cut;
    let is_whole = geometry.record_places().all(|place| match version_of(words, geometry, place) {
        // Who writes on behind the fence writes where nothing is that counts.
        Some(version) if version > cut => history.agrees(place, 0),
        Some(version) => history.agrees(place, version),
        None => history.agrees(place, 0),
    });
    is_whole.then_some((cut, changes))
}

struct Lapped;

fn follow(
    seen: u64,
    words: &impl Words,
    geometry: &Geometry,
    opener: &Opener,
    history: &mut History,
    places_max: u32,
    changes: &mut Vec<Change>,
) -> Result<u64, Lapped> {
    let last = words.last();
    words.fence(Ordering::Acquire);
    if last < seen || last - seen > geometry.journal_entries() {
        return Err(Lapped);
    }
    let upto = last.min(seen.saturating_add(u64::from(places_max)));
    let entries: Vec<(u64, u64)> =
        (seen.saturating_add(1)..=upto).map(|version| (version, words.load(geometry.journal_at(version)))).collect();
    words.fence(Ordering::Acquire);
    // The entry of write n + entries overwrites that of write n, before the head says so: with its whole batch.
    let now = words.last();
    let begun = now.saturating_sub(seen).saturating_add(geometry.batch_writes_max());
    if begun > geometry.journal_entries() && !entries.is_empty() {
        return Err(Lapped);
    }
    for (version, entry) in entries {
        let (place, old) = (entry as u32, (entry >> 32) as u32);
        if geometry.is_counter_place(place) || geometry.place(place).is_none() {
            continue;
        }
        let gone = history.moved(place, (old != u32::MAX).then_some(old));
        changes.extend(gone.map(Change::Removed));
        // Another version: overwritten since, which a later entry tells.
        if let Look::Found(copied) = look_at(words, geometry, place)
            && copied.version() == version
        {
            changes.extend(look(&copied, opener, history));
        }
    }
    Ok(upto)
}

fn look(copied: &Copied, opener: &Opener, history: &mut History) -> Vec<Change> {
    let (header, bytes) = match opener.open(copied) {
        Ok(opened) => opened,
        Err(rejected) => return vec![Change::Rejected(rejected)],
    };
    let reject = |reason| vec![Change::Rejected(Rejected { place: copied.place, claimed: Some(header.key), reason })];
    if header.version < history.floor(copied.place) {
        return reject(Reason::Rollback);
    }
    match header.content {
        Content::Counters => reject(Reason::UnknownLayout),
        Content::Tombstone => {
            history.removed(header.key, copied.place, header.version);
            vec![Change::Removed(header.key)]
        }
        Content::Record => {
            let gone = history.stored(header.key, copied.place, header.version);
            let stored = Change::Stored(Opened { place: copied.place, header, bytes }.into());
            gone.map(Change::Removed).into_iter().chain([stored]).collect()
        }
    }
}
