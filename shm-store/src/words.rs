//! A region's memory as words that two processes share, and the steps with their orderings, from which writer and reader are made.
//!
//! All orderings of the store are in this file, beside the two looks at a place (`place.rs`) and the reader's at `last` and journal,
//! whose [`Words::fence`] is the same. They are written against a trait, so that a model checker runs the very steps
//! (`tests/orderings.rs`).

use std::sync::atomic::{Ordering, fence};

use crate::geometry::{AT_GRANT, AT_LAST, LAST_WORDS};

/// Memory as a reader sees it: one relaxed load at a time.
pub(crate) trait Words {
    /// The word at an offset, which the geometry keeps within the region; 0 beyond its end.
    fn load(&self, at: usize) -> u64;

    /// A fence between the accesses of this thread.
    fn fence(&self, ordering: Ordering) {
        fence(ordering);
    }

    /// Number of the newest published write; 0: none.
    ///
    /// Of its two places one is whole at any time. Where both are, none that was there before this call is missed; where one isn't,
    /// the writer is at work, or its link broke: then nothing changes from one look to the next.
    fn last(&self) -> u64 {
        let mut before = None;
        for _ in 0..LAST_LOOKS_MAX {
            let words: [u64; LAST_WORDS] = std::array::from_fn(|nth| self.load(AT_LAST + nth));
            let [even, odd] = [[words[0], words[1]], [words[2], words[3]]].map(|[number, complement]| {
                (number == !complement || (number, complement) == (0, 0)).then_some(number)
            });
            if (even.is_some() && odd.is_some()) || before == Some(words) {
                return even.max(odd).unwrap_or(0);
            }
            before = Some(words);
        }
        0
    }
}

/// A writer who spoils that many looks, one write each, writes for a millisecond without ever asking whether it still may.
const LAST_LOOKS_MAX: u32 = 10_000;

/// Memory that can be written; offsets lie within the region.
pub(crate) trait WordsMut: Words {
    /// A relaxed store.
    fn store(&self, at: usize, word: u64);

    /// Swaps the word for another one, sequentially consistent.
    fn swap(&self, at: usize, word: u64);
}

/// Who sees a word that is written from now on sees everything that this thread wrote before.
pub(crate) fn order(words: &impl Words) {
    // Pairs with the readers' acquire fences.
    words.fence(Ordering::Release);
}

/// Writes words, in no order.
pub(crate) fn write(to: &impl WordsMut, at: usize, words: &[u64]) {
    for (at, word) in (at..).zip(words) {
        to.store(at, *word);
    }
}

/// The grant word, after everything that this thread wrote.
pub(crate) fn ask(words: &impl Words) -> u64 {
    // The reader swaps the grant, passes its own full fence, and then reads. When the load below misses the swap, this fence comes before
    // that one, and the reader sees all stores above it.
    words.fence(Ordering::SeqCst);
    words.load(AT_GRANT)
}

/// Grants to whom this word was given; 0: to nobody. What was acknowledged before is visible to all loads after.
pub(crate) fn set_grant(words: &impl WordsMut, grant: u64) {
    words.swap(AT_GRANT, grant);
    // Pairs with the fence in `ask`.
    words.fence(Ordering::SeqCst);
}

/// Where a batch announces itself, by the number of its last write, and with what words.
/// Batches, which are counted, take turns at two places.
pub(crate) fn last_entry(batch: u64, version: u64) -> (usize, [u64; 2]) {
    (AT_LAST + 2 * (batch % 2) as usize, [version, !version])
}
