//! The store: a region of memory in which a peer appliance keeps an owner's records, written one-sidedly.
//!
//! The owner seals each record and writes it into the backup's memory without the backup taking part. The backup can
//! take the right to write back (the *fence*), copy the region, and act on its private copy. What is in the records is
//! the users' business; the store carries sealed bytes and counters.
//!
//! # A region
//!
//! ```text
//!        0 +--------------------------------------------------------------+
//!          | magic, layout version, region id, sizes                      |  by the backup, once
//!      512 +--------------------------------------------------------------+
//!          | grant: random half, number of the join; 0: fenced            |  by the backup, swapped
//!      576 +--------------------------------------------------------------+
//!          | last: number of the newest published write, twice            |  by the owner, last
//!     4096 +--------------------------------------------------------------+
//!          | journal: ring, one word per write                            |
//!          |   place written (32) | place superseded (32)                 |
//!          +--------------------------------------------------------------+
//!          | versions: one word per place; 0: nothing is there            |
//!          +--------------------------------------------------------------+
//!          | counter blocks: two places each, written in turn             |
//!          +--------------------------------------------------------------+
//!          | record places, by size class; a class of N records has spare |
//!          | places beside them                                           |
//!          |   kind, VIP, epoch | id | length, writer | tag               |  in the clear, authenticated
//!          |   sealed bytes                                               |
//!          +--------------------------------------------------------------+
//! ```
//!
//! Offsets in bytes; everything is a 64-bit word, read and written by relaxed atomics with fences around them.
//!
//! # A write
//!
//! 1. The record is sealed for a *free* place, under the number of the write, which is nonce and version at once. The place gets the
//!    bytes.
//! 2. With the other writes of its *batch* the place gets its version, and the journal notes it: a place that has a version is whole.
//! 3. `last` is set to the number of the batch's last write. Until then none of them exists: a reader ignores what lies beyond `last`.
//!    So a record is old or new, wherever the writer dies, and who sees a write sees all earlier ones.
//! 4. The owner asks for the grant word, ordered behind the writes. If the grant stands, they are *acknowledged*.
//! 5. Only now the place of the old version is emptied and free to be used again. A removal is a write like any other
//!    (a tombstone); its place may be used again when a later acknowledgement shows that the record's place is empty.
//!
//! # A fence
//!
//! The backup swaps the grant word for 0, passes a full fence, and notes `last`: the *cut*. The snapshot is exactly the state
//! after the write at the cut. All acknowledged writes are in it: their look at the grant came before the swap. No later
//! one adds to it: it is beyond the cut. And none takes from it: a place is emptied only when an acknowledged write has
//! superseded what it held.
//!
//! # A warm copy
//!
//! A reader that follows the journal gets each record when it is written. At the fence it is told the rest, and each place is
//! asked for its version: if there is none that was not read, and none is missing, then what it was told is what the region holds at
//! the cut. Otherwise, and when the writer was too fast for it, it takes the snapshot.
//!
//! # What the store doesn't do
//!
//! It authenticates what is in the region, not what is missing: who can write into the region (with RDMA: anyone on an
//! unprotected link) can destroy records, which is reported, or blank their places, which is not. A reader that followed the
//! writer refuses what it has seen replaced; it can't know of versions that it never saw.

pub mod channel;
pub mod fabric;
pub mod local;
pub mod pairing;

mod batch;
mod changes;
mod control;
mod counters;
mod error;
mod geometry;
mod grant;
mod history;
mod link;
mod one_sided;
mod place;
mod pool;
mod reader;
mod record;
mod region;
mod seal;
mod setup;
mod snapshot;
mod stream;
mod version;
mod words;
mod writer;

pub use changes::Change;
pub use control::Control;
pub use counters::{BLOCK_ENTRIES_MAX, CounterBlock, CounterEntry};
pub use error::{LinkError, StoreError};
pub use geometry::{
    BadSizes, CLASSES_MAX, COUNTER_BLOCKS_MAX, Geometry, JOURNAL_ENTRIES_MAX, RECORD_BYTES_MAX, RECORDS_MAX, SizeClass,
    Sizes,
};
pub use grant::{Grant, ReaderKeys, WriterKeys};
pub use link::{Link, Owner, wait_readable};
pub use one_sided::{Answer, LocalMemory, OneSided};
pub use reader::{Conclusion, Reader, ReaderError, Shutter};
pub use record::{Record, RecordKey, WriteId};
pub use region::{NotTheRegion, Region, RegionId};
pub use seal::{Reason, Rejected, WRITES_MAX};
pub use setup::Setup;
pub use snapshot::Snapshot;
pub use version::Versions;
pub use writer::{ClassUsage, StoreWriter, Usage, Writer};

#[cfg(test)]
mod tests;
