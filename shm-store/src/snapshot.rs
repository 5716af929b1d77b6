//! A private copy of a region, and what is authentic in it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use zeroize::Zeroizing;

use crate::counters::{self, CounterBlock};
use crate::geometry::Geometry;
use crate::history;
use crate::place::{Content, Copied, Header, Look, look_at};
use crate::seal::{Opener, Reason, Rejected};
use crate::words::Words;
use crate::{Record, WriteId};

/// Copies a region place by place.
#[derive(Debug)]
pub(crate) struct Copier {
    cut: u64,
    next: u32,
    copied: Vec<Copied>,
    unfinished: u32,
}

impl Copier {
    /// Notes the newest published write first: that is where the copy ends, whatever is written while it is made.
    pub(crate) fn new(words: &impl Words) -> Self {
        let cut = words.last();
        words.fence(Ordering::Acquire);
        Self::upto(cut)
    }

    /// A copy that ends with a write that was published before.
    pub(crate) fn upto(cut: u64) -> Self {
        Self { cut, next: 0, copied: Vec::new(), unfinished: 0 }
    }

    /// Copies the next `places`.
    pub(crate) fn step(&mut self, words: &impl Words, geometry: &Geometry, places: u32) {
        let end = self.next.saturating_add(places).min(geometry.places());
        for place in self.next..end {
            match look_at(words, geometry, place) {
                Look::Empty => {}
                Look::Torn => self.unfinished += 1,
                Look::Found(copied) => self.copied.push(copied),
            }
        }
        self.next = end;
    }

    pub(crate) fn is_done(&self, geometry: &Geometry) -> bool {
        self.next >= geometry.places()
    }

    pub(crate) fn finish(self, words: &impl Words, geometry: &Geometry) -> RegionCopy {
        words.fence(Ordering::Acquire);
        // Whoever writes while we copy may be in the middle of one more batch.
        let end = words.last().max(self.cut).saturating_add(geometry.batch_writes_max());
        let Self { cut, copied, mut unfinished, .. } = self;
        let mut copy = RegionCopy {
            bounds: Bounds { cut, end },
            records: Vec::new(),
            counters: BTreeMap::new(),
            rejected: Vec::new(),
            unfinished: 0,
        };
        for copied in copied {
            if copied.version() > cut && copied.version() <= end {
                unfinished += 1;
            }
            if geometry.is_counter_place(copied.place) {
                copy.counters.entry(geometry.block_of(copied.place)).or_default().push(copied);
            } else if copied.header().is_some_and(|header| header.content != Content::Counters) {
                copy.records.push(copied);
            } else {
                copy.rejected.push(Rejected { place: copied.place, claimed: None, reason: Reason::UnknownLayout });
            }
        }
        copy.unfinished = unfinished;
        copy.records.sort_by_key(|copied| (copied.header().map(|header| header.key), copied.version()));
        copy
    }
}

/// Which writes a copy knows of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// The newest write that belongs to it.
    pub(crate) cut: u64,
    /// The newest write that may have been under way while it was made.
    pub(crate) end: u64,
}

/// One version of something, authentic.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) place: u32,
    pub(crate) header: Header,
    pub(crate) bytes: Zeroizing<Vec<u8>>,
}

/// A finished copy, ordered.
#[derive(Debug)]
pub(crate) struct RegionCopy {
    bounds: Bounds,
    /// By claimed key, then version.
    records: Vec<Copied>,
    /// By block.
    counters: BTreeMap<u32, Vec<Copied>>,
    rejected: Vec<Rejected>,
    unfinished: u32,
}

impl RegionCopy {
    /// All places that claim the same record, newest last.
    pub(crate) fn records(&self) -> impl Iterator<Item = &[Copied]> {
        self.records.chunk_by(|a, b| a.header().map(|h| h.key) == b.header().map(|h| h.key))
    }

    pub(crate) fn into_records(self) -> (Vec<Vec<Copied>>, Vec<Rejected>) {
        (self.records().map(<[Copied]>::to_vec).collect(), self.rejected)
    }

    /// Opens all versions of one thing, and returns the newest that belongs to the copy.
    ///
    /// Nothing of it is used when any of them fails: an older version is no substitute for a damaged newer one, since the
    /// owner has moved on. A place that has a version is whole, so also a write that came too late authenticates.
    pub(crate) fn open(
        bounds: Bounds,
        opener: &Opener,
        floors: &[u64],
        versions: &[Copied],
    ) -> Result<Option<Opened>, Rejected> {
        let mut newest: Option<Opened> = None;
        for copied in versions {
            let (header, bytes) = opener.open(copied)?;
            if header.version > bounds.end {
                return Err(Rejected { place: copied.place, claimed: Some(header.key), reason: Reason::Unpublished });
            }
            if header.version <= bounds.cut
                && newest.as_ref().is_none_or(|newest| newest.header.version < header.version)
            {
                newest = Some(Opened { place: copied.place, header, bytes });
            }
        }
        if let Some(Opened { place, header, .. }) = &newest
            && header.version < history::floor(floors, *place)
        {
            return Err(Rejected { place: *place, claimed: Some(header.key), reason: Reason::Rollback });
        }
        Ok(newest)
    }

    pub(crate) fn bounds(&self) -> Bounds {
        self.bounds
    }
}

impl From<Opened> for Record {
    fn from(Opened { header, bytes, .. }: Opened) -> Self {
        let Header { version, key, epoch, writer, .. } = header;
        Self { key, epoch, writer, version: WriteId(version), bytes }
    }
}

/// A private copy of a fenced region: the state after write [`Self::cut`], to which all acknowledged writes belong, and
/// to which no later one can add.
#[derive(Debug)]
pub struct Snapshot {
    copy: RegionCopy,
    opener: Arc<Opener>,
    floors: Vec<u64>,
}

impl Snapshot {
    pub(crate) fn new(copy: RegionCopy, opener: Arc<Opener>, floors: Vec<u64>) -> Self {
        Self { copy, opener, floors }
    }

    /// The newest write that belongs to it.
    pub fn cut(&self) -> WriteId {
        WriteId(self.copy.bounds.cut)
    }

    /// Places in which a write was under way or came too late. None of these writes was acknowledged; what they would
    /// have replaced is in the snapshot.
    pub fn unfinished(&self) -> u32 {
        self.copy.unfinished
    }

    /// Authenticates and opens each record, in the order of their keys; what fails comes with its reason, and no older
    /// version instead.
    pub fn records(&self) -> impl Iterator<Item = Result<Record, Rejected>> {
        let opened = self.copy.records().filter_map(|versions| {
            match RegionCopy::open(self.copy.bounds, &self.opener, &self.floors, versions) {
                Err(rejected) => Some(Err(rejected)),
                Ok(newest) => {
                    newest.filter(|newest| newest.header.content == Content::Record).map(|newest| Ok(newest.into()))
                }
            }
        });
        self.copy.rejected.iter().map(|rejected| Err(*rejected)).chain(opened)
    }

    /// Authenticates and opens each counter block that was ever written.
    pub fn counters(&self) -> impl Iterator<Item = Result<CounterBlock, Rejected>> {
        self.copy.counters.iter().filter_map(|(index, versions)| {
            let newest = RegionCopy::open(self.copy.bounds, &self.opener, &self.floors, versions).transpose()?;
            Some(newest.and_then(|Opened { place, header, bytes }| {
                let entries = counters::decode(&bytes).filter(|_| header.content == Content::Counters);
                let entries =
                    entries.ok_or(Rejected { place, claimed: Some(header.key), reason: Reason::UnknownLayout })?;
                Ok(CounterBlock { index: *index, version: WriteId(header.version), entries })
            }))
        })
    }
}
