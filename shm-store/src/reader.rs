//! The backup's side: grant, watch, fence, copy.

use std::fmt;
use std::sync::Arc;

use rand_core::CryptoRng;
use thiserror::Error;

use crate::changes::{self, Change, Watch};
use crate::grant::{Grant, ReaderKeys};
use crate::history::History;
use crate::region::Region;
use crate::seal::{Opener, Rejected};
use crate::snapshot::{Copier, Snapshot};
use crate::words::{Words, set_grant};
use crate::{CounterBlock, WriteId};

/// The region can't be copied, or joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ReaderError {
    /// The writer may still be granted to write: fence first.
    #[error("the region is not fenced")]
    NotFenced,
    /// Nothing was ever granted: there is nothing to copy.
    #[error("no grant was given under this pairing")]
    NothingGranted,
    /// The pairing's grants are used up: pair anew.
    #[error("the pairing's grants are used up")]
    GrantsUsedUp,
}

/// Shuts a region's writer out from outside. When it returns, no write is in flight, and none comes any more.
pub trait Shutter: Send {
    /// Once and for all.
    fn shut(&mut self);
}

/// The backup's hold on the region that a peer writes.
pub struct Reader {
    /// Before the region that it serves.
    shutter: Option<Box<dyn Shutter>>,
    region: Arc<Region>,
    keys: ReaderKeys,
    opener: Option<Arc<Opener>>,
    history: History,
    watch: Watch,
    /// The follower was told of something that was left out.
    has_rejected: bool,
    standing: bool,
}

/// What a follower still has to be told at the fence; then it knows all that the region holds, and nothing else.
#[derive(Debug)]
pub struct Conclusion {
    /// The newest write that belongs to it.
    pub cut: WriteId,
    /// What changed since it looked last.
    pub changes: Vec<Change>,
    /// Each counter block that was ever written.
    pub counters: Vec<Result<CounterBlock, Rejected>>,
}

impl Reader {
    /// Takes a fresh region. Nobody can write into it before [`Self::join`].
    pub fn new(region: Arc<Region>, keys: ReaderKeys) -> Self {
        let history = History::new(region.geometry().places());
        Self {
            shutter: None,
            region,
            keys,
            opener: None,
            history,
            watch: Watch::default(),
            has_rejected: false,
            standing: false,
        }
    }

    /// The same, where the writer can be shut out.
    pub(crate) fn with_shutter(region: Arc<Region>, keys: ReaderKeys, shutter: Box<dyn Shutter>) -> Self {
        Self { shutter: Some(shutter), ..Self::new(region, keys) }
    }

    /// Begins a join: fences what was granted before, empties the region, and grants anew. What was written under an
    /// earlier grant is gone, and can't come back: it doesn't authenticate under the new one.
    pub fn join(&mut self, rng: &mut impl CryptoRng) -> Result<Grant, ReaderError> {
        if self.standing {
            self.fence();
        }
        let (grant, opener) = self.keys.next_grant(rng).ok_or(ReaderError::GrantsUsedUp)?;
        self.region.empty();
        self.history = History::new(self.region.geometry().places());
        self.watch = Watch::default();
        self.has_rejected = false;
        self.opener = Some(Arc::new(opener));
        set_grant(&*self.region, grant.word());
        self.standing = true;
        Ok(grant)
    }

    /// Revokes the grant: from here on no write is acknowledged any more. A link that can also shut the writer out from
    /// outside (the fabric's endpoint and memory registration) does that first and waits until nothing is in flight; who was shut out
    /// is granted nothing any more, but has to pair anew.
    pub fn fence(&mut self) {
        if let Some(shutter) = &mut self.shutter {
            shutter.shut();
        }
        set_grant(&*self.region, 0);
        self.standing = false;
    }

    /// Copies the fenced region out.
    pub fn copy(&self) -> Result<Snapshot, ReaderError> {
        let opener = self.opener.as_ref().ok_or(ReaderError::NothingGranted)?;
        if self.standing {
            return Err(ReaderError::NotFenced);
        }
        Ok(self.copy_from(&*self.region, opener))
    }

    fn copy_from(&self, words: &impl Words, opener: &Arc<Opener>) -> Snapshot {
        let geometry = self.region.geometry();
        let mut copier = Copier::new(words);
        copier.step(words, geometry, u32::MAX);
        let copy = copier.finish(words, geometry);
        Snapshot::new(copy, opener.clone(), self.history.floors().to_vec())
    }

    /// Ends a follower's work at the fence: what it hasn't been told yet, and the counters. `None`: what it was told isn't all that
    /// the region holds; the truth is [`Self::copy`].
    ///
    /// Takes a look at each place instead of a copy, so that a takeover isn't the longer the more there is to take over.
    pub fn conclude(&mut self) -> Result<Option<Conclusion>, ReaderError> {
        let opener = self.opener.clone().ok_or(ReaderError::NothingGranted)?;
        if self.standing {
            return Err(ReaderError::NotFenced);
        }
        Ok(self.conclude_from(&*self.region.clone(), &opener))
    }

    fn conclude_from(&mut self, words: &impl Words, opener: &Arc<Opener>) -> Option<Conclusion> {
        let Self { region, watch, history, has_rejected, .. } = self;
        let geometry = region.geometry();
        let (cut, changes) = changes::conclude(watch, words, geometry, opener, history)?;
        if *has_rejected || changes.iter().any(|change| matches!(change, Change::Rejected(_))) {
            return None;
        }
        let mut copier = Copier::upto(cut);
        copier.step(words, geometry, geometry.counter_places());
        let snapshot = Snapshot::new(copier.finish(words, geometry), opener.clone(), history.floors().to_vec());
        Some(Conclusion { cut: WriteId(cut), changes, counters: snapshot.counters().collect() })
    }

    /// Follows the writer while the grant stands: what changed since the last call, looking at `places_max` places at
    /// most. A convenience that keeps a warm copy, which [`Self::conclude`] has to confirm; the truth is [`Self::copy`].
    pub fn poll_changes(&mut self, places_max: u32) -> Vec<Change> {
        if !self.standing {
            return Vec::new();
        }
        let region = self.region.clone();
        self.follow_in(&*region, places_max)
    }

    fn follow_in(&mut self, words: &impl Words, places_max: u32) -> Vec<Change> {
        let Some(opener) = &self.opener else { return Vec::new() };
        let changes = self.watch.poll(words, self.region.geometry(), opener, &mut self.history, places_max);
        for change in &changes {
            match change {
                Change::Resync => self.has_rejected = false,
                Change::Rejected(_) => self.has_rejected = true,
                Change::Stored(_) | Change::Removed(_) => {}
            }
        }
        changes
    }

    /// Number of the newest write that its head admits to.
    pub fn written(&self) -> WriteId {
        WriteId(self.region.last())
    }

    /// The region.
    pub fn region(&self) -> &Arc<Region> {
        &self.region
    }

    /// Who writes into it.
    pub fn peer(&self) -> vipsec_wire::iv::ApplianceId {
        self.keys.peer()
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("peer", &self.peer()).field("standing", &self.standing).finish_non_exhaustive()
    }
}

#[cfg(test)]
impl Reader {
    /// The snapshot that a fenced reader would make of this memory.
    pub(crate) fn copy_of(&self, words: &impl Words) -> Snapshot {
        self.copy_from(words, self.opener.as_ref().expect("joined"))
    }

    /// [`Self::poll_changes`] in this memory.
    pub(crate) fn follow(&mut self, words: &impl Words, places_max: u32) -> Vec<Change> {
        self.follow_in(words, places_max)
    }

    /// [`Self::conclude`] in this memory.
    pub(crate) fn conclude_in(&mut self, words: &impl Words) -> Option<Conclusion> {
        let opener = self.opener.clone().expect("joined");
        self.conclude_from(words, &opener)
    }
}
