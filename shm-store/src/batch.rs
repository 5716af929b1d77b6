//! Writes whose bytes are in their places already, but which no reader believes in yet.
//!
//! What makes them true is small and lies together: versions, journal entries, and one number for all of them. So it is written once for
//! many, in three steps, each behind the one before.

use crate::StoreError;
use crate::one_sided::OneSided;
use crate::place::version_word;
use crate::words::last_entry;

/// One of them.
#[derive(Debug, Clone, Copy)]
struct Written {
    version: u64,
    place: u32,
}

/// Those since the last publication, in their order.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    writes: Vec<Written>,
    journal: Vec<u64>,
    /// Batches that were.
    published: u64,
}

impl Batch {
    /// How many they are.
    pub(crate) fn writes(&self) -> u64 {
        self.writes.len() as u64
    }

    /// The bytes of write `version` are in `place`; `superseded`: where the record was before.
    pub(crate) fn push(&mut self, version: u64, place: u32, superseded: Option<u32>) {
        self.writes.push(Written { version, place });
        self.journal.push(journal_entry(place, superseded));
    }

    /// Publishes all of them at once: a reader believes in nothing beyond the number in the region's head.
    pub(crate) fn publish(&mut self, link: &mut impl OneSided) -> Result<(), StoreError> {
        let Self { writes, journal, published } = self;
        let Some(&Written { version: newest, .. }) = writes.last() else { return Ok(()) };
        // A place that has a version is whole.
        link.order()?;
        for (write, entry) in writes.iter().zip(journal.drain(..)) {
            let at = link.geometry().journal_at(write.version);
            link.write(at, &[entry])?;
        }
        // Neighbours go together.
        writes.sort_unstable_by_key(|write| write.place);
        for write in writes.drain(..) {
            let at = link.geometry().version_at(write.place).ok_or(StoreError::Full)?;
            link.write(at, &[version_word(write.version)])?;
        }
        link.order()?;
        *published += 1;
        let (at, words) = last_entry(*published, newest);
        link.write(at, &words)
    }
}

/// Place written (low half) and place superseded (high half, all ones: none).
fn journal_entry(place: u32, old: Option<u32>) -> u64 {
    u64::from(place) | u64::from(old.unwrap_or(u32::MAX)) << 32
}
