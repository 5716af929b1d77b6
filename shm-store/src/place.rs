//! One place: a header in the clear, then the sealed bytes.
//!
//! ```text
//! word 0   kind (8) | flags (8) | VIP (16) | epoch (32), from the low end
//! word 1   id
//! word 2   length of the sealed bytes (32) | writer (8) | 0 (24)
//! word 3,4 tag
//! word 5.. sealed bytes, filled up with zeros
//!
//! elsewhere, with those of all places: version of the content: the number of the write, between two marks; 0: nothing here
//! ```
//!
//! The version, words 0 to 2 and the number of the place are authenticated with the bytes. The marks are the lowest and the
//! highest byte of the version's word: where the link moves bytes (TCP), in their order, a version that was cut off halfway lacks one
//! of them.

use std::sync::atomic::Ordering;

use vipsec_wire::iv::{ApplianceId, Epoch};

use crate::RecordKey;
use crate::geometry::{Geometry, HEADER_WORDS};
use crate::words::Words;

/// The numbers are part of the layout: kept in the flags of word 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    Record = 0,
    /// The record is gone; the place tells the reader.
    Tombstone = 1,
    Counters = 2,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) version: u64,
    pub(crate) content: Content,
    pub(crate) key: RecordKey,
    pub(crate) epoch: Epoch,
    pub(crate) writer: ApplianceId,
    pub(crate) len: u32,
}

impl Header {
    pub(crate) fn encode(&self) -> [u64; 4] {
        let meta = u64::from(self.key.kind)
            | (self.content as u64) << 8
            | u64::from(self.key.vip) << 16
            | u64::from(self.epoch.0) << 32;
        [self.version, meta, self.key.id, u64::from(self.len) | u64::from(self.writer.get()) << 32]
    }

    /// `None`: written by nobody who knows this layout.
    pub(crate) fn decode([version, meta, id, len_writer]: [u64; 4]) -> Option<Self> {
        let content = match (meta >> 8) as u8 {
            0 => Content::Record,
            1 => Content::Tombstone,
            2 => Content::Counters,
            _ => return None,
        };
        Some(Self {
            version,
            content,
            key: RecordKey { kind: meta as u8, vip: (meta >> 16) as u16, id },
            epoch: Epoch((meta >> 32) as u32),
            writer: ApplianceId::new(u8::try_from(len_writer >> 32).ok()?).ok()?,
            len: len_writer as u32,
        })
    }
}

/// What is authenticated beside the sealed bytes.
pub(crate) fn associated_data(place: u32, head: [u64; 4]) -> [u8; 40] {
    let [version, meta, id, len_writer] = head;
    let mut out = [0; 40];
    for (into, word) in out.chunks_exact_mut(8).zip([u64::from(place), version, meta, id, len_writer]) {
        into.copy_from_slice(&word.to_le_bytes());
    }
    out
}

/// A private copy of one place.
#[derive(Debug, Clone)]
pub(crate) struct Copied {
    pub(crate) place: u32,
    pub(crate) head: [u64; 4],
    pub(crate) tag: [u8; 16],
    /// `None`: the header's length doesn't fit the place, or its version has wrong marks.
    pub(crate) sealed: Option<Vec<u8>>,
}

/// What a look at a place found.
#[derive(Debug, Clone)]
pub(crate) enum Look {
    Empty,
    /// The writer began to reuse the place meanwhile, and what it held was superseded by an acknowledged write; or the link broke
    /// while the place was emptied or given its version, which no acknowledgement waits for.
    Torn,
    Found(Copied),
}

impl Copied {
    pub(crate) fn version(&self) -> u64 {
        self.head[0]
    }

    /// What the header claims, authentic or not.
    pub(crate) fn header(&self) -> Option<Header> {
        Header::decode(self.head)
    }
}

/// The word of a place with that version.
pub(crate) fn version_word(version: u64) -> u64 {
    Marks::BOTH.0 | version << 8
}

/// The lowest and the highest byte of a version's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Marks(u64);

impl Marks {
    const LOW: u64 = 0x5a;
    const HIGH: u64 = 0xa5 << 56;
    const BOTH: Self = Self(Self::LOW | Self::HIGH);
    /// The link broke while the version was set: whatever it was, it wasn't acknowledged.
    const CUT_OFF_FILLING: Self = Self(Self::LOW);
    /// The link broke while the version was set to 0: an acknowledged write has superseded it.
    const CUT_OFF_EMPTYING: Self = Self(Self::HIGH);

    fn split(word: u64) -> (Self, u64) {
        let marks = 0xff | 0xff << 56;
        (Self(word & marks), (word & !marks) >> 8)
    }
}

const _: () = assert!(crate::seal::WRITES_MAX < 1 << 48);

/// The version in a place, without a look at what it belongs to. `None`: not a whole version.
pub(crate) fn version_of(words: &impl Words, geometry: &Geometry, place: u32) -> Option<u64> {
    let word = words.load(geometry.version_at(place)?);
    let (marks, version) = Marks::split(word);
    match marks {
        Marks::BOTH => Some(version),
        _ if word == 0 => Some(0),
        _ => None,
    }
}

/// Copies a place out.
///
/// A place is only overwritten after its version was set to 0, and versions never return: when the version is the same
/// before and after, the words read between belong together. The acquire fences pair with the release fence between the writer's steps.
pub(crate) fn look_at(words: &impl Words, geometry: &Geometry, place: u32) -> Look {
    let Some((bounds, version_at)) = geometry.place(place).zip(geometry.version_at(place)) else { return Look::Empty };
    let word = words.load(version_at);
    if word == 0 {
        return Look::Empty;
    }
    let (marks, version) = Marks::split(word);
    words.fence(Ordering::Acquire);
    let [meta, id, len_writer, tag_low, tag_high] = [0, 1, 2, 3, 4].map(|nth| words.load(bounds.at + nth));
    let len = len_writer as u32 as usize;
    let sealed = (len <= bounds.bytes_max && marks == Marks::BOTH).then(|| {
        let mut bytes = Vec::with_capacity(len.next_multiple_of(8));
        for nth in 0..len.div_ceil(8) {
            bytes.extend_from_slice(&words.load(bounds.at + HEADER_WORDS + nth).to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    });
    words.fence(Ordering::Acquire);
    if words.load(version_at) != word || marks == Marks::CUT_OFF_FILLING || marks == Marks::CUT_OFF_EMPTYING {
        return Look::Torn;
    }
    let mut tag = [0; 16];
    for (into, word) in tag.chunks_exact_mut(8).zip([tag_low, tag_high]) {
        into.copy_from_slice(&word.to_le_bytes());
    }
    Look::Found(Copied { place, head: [version, meta, id, len_writer], tag, sealed })
}
