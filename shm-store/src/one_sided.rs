//! What the owner needs from a link to a region in another process: ordered one-sided writes, and a look at the grant.

use std::sync::Arc;

use crate::geometry::Geometry;
use crate::region::Region;
use crate::words;
use crate::{StoreError, WriteId};

/// The grant word, as it stood after all writes up to `upto` were in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// The newest write that was in place when the word was read.
    pub upto: WriteId,
    /// The word.
    pub grant: u64,
}

/// A region, written from afar. Nobody at the other end takes part.
///
/// | | shared memory | RDMA |
/// | --- | --- | --- |
/// | `write` | stores | a part of a WRITE |
/// | `order` | release fence | what comes next is a WRITE of its own, ordered after earlier ones |
/// | `ask` | full fence, load of the grant word | READ of the grant word, ordered after earlier writes |
/// | `answered` | what the load saw | the READ's completion |
///
/// An error is final: the link is gone ([`StoreError::LinkLost`]).
pub trait OneSided {
    /// What lies where in the region.
    fn geometry(&self) -> &Geometry;

    /// Writes `words` from word offset `at` on. There is no order among words, not even of one call, but that of [`Self::order`].
    fn write(&mut self, at: usize, words: &[u64]) -> Result<(), StoreError>;

    /// Who sees a word that is written from now on sees all that was written before.
    fn order(&mut self) -> Result<(), StoreError>;

    /// Starts reading the grant word, ordered after all writes so far, of which `upto` is the newest. Never waits.
    fn ask(&mut self, upto: WriteId) -> Result<(), StoreError>;

    /// The answer to the newest question that has been answered since the last call.
    fn answered(&mut self) -> Result<Option<Answer>, StoreError>;
}

/// A region in shared memory, or in this very process.
#[derive(Debug)]
pub struct LocalMemory {
    region: Arc<Region>,
    answer: Option<Answer>,
}

impl LocalMemory {
    /// A way to write into `region`.
    pub fn new(region: Arc<Region>) -> Self {
        Self { region, answer: None }
    }
}

impl OneSided for LocalMemory {
    fn geometry(&self) -> &Geometry {
        self.region.geometry()
    }

    fn write(&mut self, at: usize, words: &[u64]) -> Result<(), StoreError> {
        if at.checked_add(words.len()).is_none_or(|end| end > self.region.words().len()) {
            return Err(StoreError::LinkLost);
        }
        words::write(&*self.region, at, words);
        Ok(())
    }

    fn order(&mut self) -> Result<(), StoreError> {
        words::order(&*self.region);
        Ok(())
    }

    fn ask(&mut self, upto: WriteId) -> Result<(), StoreError> {
        let grant = words::ask(&*self.region);
        self.answer = Some(Answer { upto, grant });
        Ok(())
    }

    fn answered(&mut self) -> Result<Option<Answer>, StoreError> {
        Ok(self.answer.take())
    }
}
