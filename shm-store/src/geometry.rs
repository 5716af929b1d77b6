//! Where everything in a region lies. Both appliances compute it from the same [`Sizes`].

use thiserror::Error;

use crate::counters::BLOCK_BYTES;

/// Raised whenever the bytes in a region change their meaning, together with the version of the link.
pub(crate) const LAYOUT_VERSION: u32 = 3;
/// The size classes that a region may have.
pub const CLASSES_MAX: usize = 4;
/// The records that one size class may have.
pub const RECORDS_MAX: u32 = 1 << 22;
/// The bytes that one record may have.
pub const RECORD_BYTES_MAX: u32 = 64 * 1024;
/// The counter blocks that a region may have.
pub const COUNTER_BLOCKS_MAX: u32 = 1 << 16;
/// The journal entries that a region may have.
pub const JOURNAL_ENTRIES_MAX: u32 = 1 << 20;
/// The writes that are published together.
pub(crate) const BATCH_WRITES_MAX: u32 = 1024;
/// Entries of a journal whatever it is for.
const JOURNAL_ENTRIES_MIN: u32 = 4096;

/// "VIPSTORE" in a memory dump.
pub(crate) const MAGIC: u64 = u64::from_le_bytes(*b"VIPSTORE");
// Word offsets of the fixed part. Grant and journal head have cache lines of their own.
pub(crate) const AT_MAGIC: usize = 0;
pub(crate) const AT_LAYOUT_VERSION: usize = 1;
pub(crate) const AT_REGION_ID: usize = 2;
pub(crate) const AT_SIZES: usize = 4;
pub(crate) const AT_GRANT: usize = 64;
/// Two places of two words each, written in turn: a number and its complement. Bytes may arrive one by one; a number that is not
/// whole is not believed, and the one before stands beside it.
pub(crate) const AT_LAST: usize = 72;
pub(crate) const LAST_WORDS: usize = 4;
pub(crate) const AT_JOURNAL: usize = 512;

/// Words of a place before its sealed bytes.
pub(crate) const HEADER_WORDS: usize = 5;
/// A place is so many, or a multiple of it.
pub(crate) const LINE_WORDS: usize = 8;

/// Records up to a size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SizeClass {
    /// How many records, at most [`RECORDS_MAX`].
    pub records: u32,
    /// Bytes of the largest one, at most [`RECORD_BYTES_MAX`].
    pub bytes: u32,
}

impl SizeClass {
    /// Places beyond `records`, so that a record is written anew beside its old version.
    pub(crate) fn spares(self) -> u32 {
        16 + self.records / 16
    }

    fn places(self) -> u32 {
        self.records + self.spares()
    }

    /// Memory that a record takes, whatever its size.
    pub fn place_bytes(self) -> usize {
        self.place_words() * 8
    }

    fn place_words(self) -> usize {
        (HEADER_WORDS + (self.bytes as usize).div_ceil(8)).next_multiple_of(LINE_WORDS)
    }
}

/// What a region is made for; comes from the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sizes {
    /// One to [`CLASSES_MAX`] size classes, smallest first.
    pub classes: Vec<SizeClass>,
    /// Counter blocks, at most [`COUNTER_BLOCKS_MAX`].
    pub counter_blocks: u32,
    /// Writes by which a live reader may lag before it has to look at everything again.
    pub journal_entries: u32,
}

impl Sizes {
    /// Journal entries with which a reader may sleep while a join of so many records goes by, rather than look at everything again and
    /// again until its writer pauses: four writes each, 8 bytes a write.
    pub fn journal_for(records: u32) -> u32 {
        records.saturating_mul(4).clamp(JOURNAL_ENTRIES_MIN, JOURNAL_ENTRIES_MAX)
    }
}

/// The sizes of a region make no sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a region's sizes are out of bounds, or its size classes don't rise")]
pub struct BadSizes;

/// A place: room for one version of one record or counter block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// Word offset of its header.
    pub(crate) at: usize,
    /// Room for sealed bytes.
    pub(crate) bytes_max: usize,
}

/// Offsets of everything in a region of certain sizes, in 64-bit words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Geometry {
    sizes: Sizes,
    versions_at: usize,
    counters_at: usize,
    /// First place, word offset and class of each run of equal places.
    runs: Vec<(u32, usize, SizeClass)>,
    places: u32,
    words: usize,
}

/// How regions are laid out where that version of the link is spoken: in one way, by all that this build speaks.
pub(crate) fn layout_of(_version: u16) -> u32 {
    LAYOUT_VERSION
}

impl Geometry {
    /// Lays a region out. A class of N records gets spare places beside them, so [`Self::bytes`] is what the memory
    /// really takes.
    pub fn new(sizes: Sizes) -> Result<Self, BadSizes> {
        let classes_fit = (1..=CLASSES_MAX).contains(&sizes.classes.len())
            && sizes.classes.iter().all(|class| {
                (1..=RECORDS_MAX).contains(&class.records) && (1..=RECORD_BYTES_MAX).contains(&class.bytes)
            })
            && sizes.classes.is_sorted_by(|small, large| small.bytes < large.bytes);
        if !classes_fit
            || sizes.counter_blocks > COUNTER_BLOCKS_MAX
            || !(1..=JOURNAL_ENTRIES_MAX).contains(&sizes.journal_entries)
        {
            return Err(BadSizes);
        }
        // The limits above keep all sums below 2^42 words and 2^25 places.
        let versions_at = AT_JOURNAL + (sizes.journal_entries as usize).next_multiple_of(LINE_WORDS);
        let mut places = 2 * sizes.counter_blocks;
        let versions = places as usize + sizes.classes.iter().map(|class| class.places() as usize).sum::<usize>();
        let counters_at = versions_at + versions.next_multiple_of(LINE_WORDS);
        let mut words = counters_at + places as usize * COUNTER_CLASS.place_words();
        let mut runs = Vec::with_capacity(sizes.classes.len());
        for &class in &sizes.classes {
            runs.push((places, words, class));
            places += class.places();
            words += class.places() as usize * class.place_words();
        }
        Ok(Self { sizes, versions_at, counters_at, runs, places, words })
    }

    /// The sizes it was made from.
    pub fn sizes(&self) -> &Sizes {
        &self.sizes
    }

    /// Memory that the region takes.
    pub fn bytes(&self) -> usize {
        self.words * 8
    }

    pub(crate) fn words(&self) -> usize {
        self.words
    }

    /// Places in all: those of the counter blocks come first, one of each, then the other one of each.
    pub(crate) fn places(&self) -> u32 {
        self.places
    }

    pub(crate) fn is_counter_place(&self, place: u32) -> bool {
        place < self.counter_places()
    }

    pub(crate) fn place(&self, place: u32) -> Option<Place> {
        if self.is_counter_place(place) {
            let at = self.counters_at + place as usize * COUNTER_CLASS.place_words();
            return Some(Place { at, bytes_max: BLOCK_BYTES });
        }
        let (first, at, class) = self.runs.iter().rev().find(|(first, ..)| *first <= place)?;
        let nth = place - first;
        (nth < class.places())
            .then(|| Place { at: at + nth as usize * class.place_words(), bytes_max: class.bytes as usize })
    }

    /// Word offset of a place's version. Those of all places stand together, so that many are written, and seen, at once.
    pub(crate) fn version_at(&self, place: u32) -> Option<usize> {
        (place < self.places).then(|| self.versions_at + place as usize)
    }

    /// The places of records.
    pub(crate) fn record_places(&self) -> std::ops::Range<u32> {
        self.counter_places()..self.places
    }

    /// Places of counter blocks.
    pub(crate) fn counter_places(&self) -> u32 {
        2 * self.sizes.counter_blocks
    }

    /// One of a counter block's two places. Those of neighbours are neighbours.
    pub(crate) fn counter_place(&self, block: u32, odd: bool) -> u32 {
        block + if odd { self.sizes.counter_blocks } else { 0 }
    }

    /// The block whose place it is, if it is one's.
    pub(crate) fn block_of(&self, place: u32) -> u32 {
        place % self.sizes.counter_blocks.max(1)
    }

    /// Writes that are published together at most: a part of the journal, so that no reader is lapped by one batch.
    pub(crate) fn batch_writes_max(&self) -> u64 {
        u64::from((self.sizes.journal_entries / 4).clamp(1, BATCH_WRITES_MAX))
    }

    /// Each size class with its places.
    pub(crate) fn classes(&self) -> impl Iterator<Item = (SizeClass, std::ops::Range<u32>)> {
        self.runs.iter().map(|(first, _, class)| (*class, *first..*first + class.places()))
    }

    /// Where the journal notes write `version`.
    pub(crate) fn journal_at(&self, version: u64) -> usize {
        AT_JOURNAL + (version % u64::from(self.sizes.journal_entries)) as usize
    }

    pub(crate) fn journal_entries(&self) -> u64 {
        u64::from(self.sizes.journal_entries)
    }
}

const COUNTER_CLASS: SizeClass = SizeClass { records: 1, bytes: BLOCK_BYTES as u32 };

impl Sizes {
    /// Bytes of the encoding.
    pub(crate) const ENCODED_BYTES: usize = 12 + 8 * CLASSES_MAX;

    /// Little-endian u32: counter blocks, journal entries, classes, then records and bytes of each class (absent: 0).
    pub(crate) fn encode(&self) -> [u8; Self::ENCODED_BYTES] {
        let head = [self.counter_blocks, self.journal_entries, self.classes.len() as u32];
        let classes = self.classes.iter().flat_map(|class| [class.records, class.bytes]);
        let mut out = [0; Self::ENCODED_BYTES];
        for (into, value) in out.chunks_exact_mut(4).zip(head.into_iter().chain(classes)) {
            into.copy_from_slice(&value.to_le_bytes());
        }
        out
    }

    /// The reverse of `encode`; whether the sizes make sense is for [`Geometry::new`] to say.
    pub(crate) fn decode(bytes: &[u8; Self::ENCODED_BYTES]) -> Self {
        let mut numbers = bytes.as_chunks::<4>().0.iter().map(|number| u32::from_le_bytes(*number));
        let mut next = || numbers.next().unwrap_or(0);
        let (counter_blocks, journal_entries, count) = (next(), next(), next());
        let classes =
            (0..CLASSES_MAX.min(count as usize)).map(|_| SizeClass { records: next(), bytes: next() }).collect();
        Self { classes, counter_blocks, journal_entries }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes() -> Sizes {
        Sizes {
            classes: vec![SizeClass { records: 3, bytes: 100 }, SizeClass { records: 40, bytes: 1000 }],
            counter_blocks: 2,
            journal_entries: 5,
        }
    }

    #[test]
    fn places_neither_overlap_nor_leave_the_region() {
        let geometry = Geometry::new(sizes()).unwrap();
        let mut end = AT_JOURNAL + 5;
        for n in 0..geometry.places() {
            let at = geometry.version_at(n).unwrap();
            assert!(at >= end, "version of place {n}");
            end = at + 1;
        }
        for n in 0..geometry.places() {
            let place = geometry.place(n).unwrap();
            assert!(place.at >= end && place.at.is_multiple_of(LINE_WORDS), "place {n}");
            end = place.at + HEADER_WORDS + place.bytes_max.div_ceil(8);
        }
        assert!(end <= geometry.words());
        assert_eq!(geometry.place(geometry.places()), None);
        assert_eq!(geometry.place(u32::MAX), None);
        assert_eq!(geometry.version_at(geometry.places()), None);
    }

    #[test]
    fn sizes_survive_the_wire() {
        assert_eq!(Sizes::decode(&sizes().encode()), sizes());
    }

    #[test]
    fn senseless_sizes_are_refused() {
        let with = |change: fn(&mut Sizes)| {
            let mut sizes = sizes();
            change(&mut sizes);
            Geometry::new(sizes)
        };
        assert_eq!(with(|s| s.classes.clear()), Err(BadSizes));
        assert_eq!(with(|s| s.classes.reverse()), Err(BadSizes));
        assert_eq!(with(|s| s.classes[0].records = 0), Err(BadSizes));
        assert_eq!(with(|s| s.classes[1].records = u32::MAX), Err(BadSizes));
        assert_eq!(with(|s| s.classes[1].bytes = u32::MAX), Err(BadSizes));
        assert_eq!(with(|s| s.journal_entries = 0), Err(BadSizes));
        assert_eq!(with(|s| s.counter_blocks = u32::MAX), Err(BadSizes));
    }
}
