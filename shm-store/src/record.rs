//! What a record is called, and what a reader gets.

use std::fmt;

use vipsec_wire::iv::{ApplianceId, Epoch};
use zeroize::Zeroizing;

/// Names a record within a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordKey {
    /// What the record is, in the user's numbering (ownership, IKE SA, child SA, …).
    pub kind: u8,
    /// The VIP it belongs to, in the user's numbering.
    pub vip: u16,
    /// Which one, within kind and VIP: an SPI, say.
    pub id: u64,
}

/// The number of a write under its grant, from 1. It is the write's nonce, the record's version, and the place in the
/// order of all writes: a reader that sees a write sees all earlier ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct WriteId(pub u64);

impl fmt::Display for WriteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An authenticated record, opened.
#[derive(Clone, PartialEq, Eq)]
pub struct Record {
    /// Its name.
    pub key: RecordKey,
    /// The ownership number under which it was written.
    pub epoch: Epoch,
    /// Who wrote it.
    pub writer: ApplianceId,
    /// When, in the order of writes.
    pub version: WriteId,
    /// What was written.
    pub bytes: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("key", &self.key)
            .field("epoch", &self.epoch)
            .field("writer", &self.writer)
            .field("version", &self.version)
            .field("bytes", &format_args!("[{} bytes]", self.bytes.len()))
            .finish()
    }
}
