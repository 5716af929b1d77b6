//! The owner's side: publish, remove, and learn what is acknowledged.
//!
//! The rule that carries everything: **a place is overwritten only when an acknowledged write has superseded it.** As
//! long as the grant stands, the newest acknowledged version of every record lies in the region; once it is revoked no
//! acknowledgement comes, so the writer, however late it learns, has nothing left to overwrite but versions that an
//! acknowledged write superseded, all of which the fencing reader sees.

use std::collections::{HashMap, HashSet, VecDeque};

use vipsec_wire::iv::Epoch;

use crate::batch::Batch;
use crate::counters::{self, BLOCK_ENTRIES_MAX, CounterEntry};
use crate::grant::{Grant, WriterKeys};
use crate::one_sided::OneSided;
use crate::place::{Content, Header};
use crate::pool::Pool;
use crate::seal::Sealer;
use crate::{RecordKey, StoreError, WriteId};

/// The owner's view of a copy, over any transport.
///
/// Writing and learning of the acknowledgement are separate: what is written counts for nothing before
/// [`Self::poll_acknowledged`] has returned its number.
pub trait StoreWriter {
    /// Writes a record, in place of an older version under the same key. The old version stays until the new one is
    /// acknowledged.
    fn put(&mut self, key: RecordKey, epoch: Epoch, bytes: &[u8]) -> Result<WriteId, StoreError>;

    /// Removes a record. A write like any other; `None`: there was none.
    fn remove(&mut self, key: RecordKey) -> Result<Option<WriteId>, StoreError>;

    /// Writes a whole counter block. One write per block may wait for its acknowledgement ([`StoreError::Behind`]).
    fn put_counters(&mut self, block: u32, entries: &[CounterEntry]) -> Result<WriteId, StoreError>;

    /// Lets a reader see what was written since the last call, all of it at once. What is written much is published without being asked.
    fn publish(&mut self) -> Result<(), StoreError>;

    /// Publishes, asks, where that needs asking, and tells up to which number all writes are acknowledged. Never waits.
    /// [`StoreError::Refused`], once returned, is returned for ever, by every method.
    fn poll_acknowledged(&mut self) -> Result<WriteId, StoreError>;

    /// How many more records of `bytes` each there is room for.
    fn free_slots(&self, bytes: usize) -> u32;

    /// How much of the region is in use, for an operator.
    fn usage(&self) -> Usage;
}

/// How much of a region is in use, as its owner knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// Memory that the region takes.
    pub bytes: usize,
    /// By size, smallest first.
    pub classes: Vec<ClassUsage>,
    /// Counter blocks that were ever written.
    pub counter_blocks: u32,
    /// Counter blocks that there are.
    pub counter_blocks_max: u32,
    /// The newest write.
    pub written: WriteId,
    /// The newest write that is acknowledged.
    pub acknowledged: WriteId,
}

/// How full a size class is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClassUsage {
    /// Bytes of the largest record.
    pub bytes: u32,
    /// Records that exist.
    pub records: u32,
    /// Records that there is room for.
    pub records_max: u32,
}

/// A place that an acknowledgement sets free.
#[derive(Debug)]
struct Superseded {
    by: u64,
    place: u32,
    tombstone: Option<u32>,
}

/// A tombstone whose record is gone from the region.
#[derive(Debug)]
struct Grave {
    /// Newest write when the record's place was emptied.
    emptied_after: u64,
    tombstone: u32,
}

#[derive(Debug, Clone, Copy, Default)]
struct BlockState {
    newest: u64,
    /// Which of the block's two places holds it.
    odd: bool,
}

/// [`StoreWriter`] over a link.
#[derive(Debug)]
pub struct Writer<L> {
    link: L,
    own: vipsec_wire::iv::ApplianceId,
    grant: u64,
    sealer: Sealer,
    pool: Pool,
    /// Place of the newest version, by key.
    index: HashMap<RecordKey, (u32, Epoch)>,
    blocks: Vec<BlockState>,
    superseded: VecDeque<Superseded>,
    graves: VecDeque<Grave>,
    /// Places with a tombstone, free or not: it stays until its place is needed, for readers who come late.
    tombstones: HashSet<u32>,
    batch: Batch,
    acknowledged: u64,
    asked: u64,
    asking: bool,
    ended: Option<StoreError>,
    sealed: Vec<u64>,
    emptied: Vec<u32>,
    plain: Vec<u8>,
}

impl<L: OneSided> Writer<L> {
    /// Starts writing into a region that was emptied for `grant`.
    pub fn new(link: L, keys: &mut WriterKeys, grant: Grant) -> Result<Self, StoreError> {
        let geometry = link.geometry();
        Ok(Self {
            own: keys.own(),
            grant: grant.word(),
            sealer: keys.sealer(&grant)?,
            pool: Pool::new(geometry),
            index: HashMap::new(),
            blocks: vec![BlockState::default(); geometry.sizes().counter_blocks as usize],
            superseded: VecDeque::new(),
            graves: VecDeque::new(),
            tombstones: HashSet::new(),
            batch: Batch::default(),
            acknowledged: 0,
            asked: 0,
            asking: false,
            ended: None,
            sealed: Vec::new(),
            emptied: Vec::new(),
            plain: Vec::new(),
            link,
        })
    }

    /// The newest write.
    pub fn written(&self) -> WriteId {
        WriteId(self.sealer.written())
    }

    fn standing(&self) -> Result<(), StoreError> {
        self.ended.map_or(Ok(()), Err)
    }

    /// After an error of the link nothing is certain any more.
    fn or_end<T>(&mut self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        result.inspect_err(|error| self.ended = Some(*error))
    }

    /// Seals `bytes` into a free place. It is published with its batch.
    fn write(&mut self, place: u32, old: Option<u32>, header: Header, bytes: &[u8]) -> Result<WriteId, StoreError> {
        if self.tombstones.remove(&place) {
            self.emptied.push(place);
            self.empty()?;
        }
        let version = self.sealer.seal(place, header, bytes, &mut self.sealed)?;
        let at = self.link.geometry().place(place).ok_or(StoreError::Full)?.at;
        let written = self.link.write(at, &self.sealed);
        self.or_end(written)?;
        self.batch.push(version, place, old);
        if self.batch.writes() >= self.link.geometry().batch_writes_max() {
            self.publish_batch()?;
        }
        Ok(WriteId(version))
    }

    fn publish_batch(&mut self) -> Result<(), StoreError> {
        let published = self.batch.publish(&mut self.link);
        self.or_end(published)
    }

    /// Empties places, before anything else is written into them.
    fn empty(&mut self) -> Result<(), StoreError> {
        if self.emptied.is_empty() {
            return Ok(());
        }
        // Neighbours go together.
        self.emptied.sort_unstable();
        let Self { link, emptied, .. } = self;
        let emptied = emptied.drain(..).try_for_each(|place| {
            let at = link.geometry().version_at(place).ok_or(StoreError::Full)?;
            link.write(at, &[0])
        });
        let emptied = emptied.and_then(|()| self.link.order());
        self.or_end(emptied)
    }

    /// Frees what acknowledged writes superseded.
    ///
    /// A tombstone goes later: when its record's place was seen empty before a fence, which the acknowledgement of any
    /// write after the emptying proves. Otherwise a reader could miss the tombstone and still meet the record.
    fn free_superseded(&mut self) -> Result<(), StoreError> {
        while let Some(grave) = self.graves.pop_front_if(|grave| self.acknowledged > grave.emptied_after) {
            self.pool.give(grave.tombstone);
        }
        while let Some(superseded) = self.superseded.pop_front_if(|superseded| superseded.by <= self.acknowledged) {
            self.emptied.push(superseded.place);
            self.pool.give(superseded.place);
            if let Some(tombstone) = superseded.tombstone {
                self.graves.push_back(Grave { emptied_after: self.sealer.written(), tombstone });
            }
        }
        self.empty()
    }

    fn header(&self, content: Content, key: RecordKey, epoch: Epoch) -> Header {
        Header { version: 0, content, key, epoch, writer: self.own, len: 0 }
    }
}

impl<L: OneSided> StoreWriter for Writer<L> {
    fn put(&mut self, key: RecordKey, epoch: Epoch, bytes: &[u8]) -> Result<WriteId, StoreError> {
        self.standing()?;
        let old = self.index.get(&key).map(|(place, _)| *place);
        let place = self.pool.take(bytes.len(), old)?;
        let id = self.write(place, old, self.header(Content::Record, key, epoch), bytes)?;
        self.index.insert(key, (place, epoch));
        if let Some(place) = old {
            self.superseded.push_back(Superseded { by: id.0, place, tombstone: None });
        }
        Ok(id)
    }

    fn remove(&mut self, key: RecordKey) -> Result<Option<WriteId>, StoreError> {
        self.standing()?;
        let Some(&(place, epoch)) = self.index.get(&key) else { return Ok(None) };
        let tombstone = self.pool.take_tombstone(place)?;
        let id = self.write(tombstone, Some(place), self.header(Content::Tombstone, key, epoch), &[])?;
        self.index.remove(&key);
        self.tombstones.insert(tombstone);
        self.superseded.push_back(Superseded { by: id.0, place, tombstone: Some(tombstone) });
        Ok(Some(id))
    }

    fn put_counters(&mut self, block: u32, entries: &[CounterEntry]) -> Result<WriteId, StoreError> {
        self.standing()?;
        let state = *self.blocks.get(block as usize).ok_or(StoreError::NoSuchBlock)?;
        if entries.len() > BLOCK_ENTRIES_MAX {
            return Err(StoreError::NoSuchBlock);
        }
        if state.newest > self.acknowledged {
            return Err(StoreError::Behind);
        }
        let geometry = self.link.geometry();
        let (place, old) = (geometry.counter_place(block, !state.odd), geometry.counter_place(block, state.odd));
        let mut plain = std::mem::take(&mut self.plain);
        counters::encode(entries, &mut plain);
        let key = RecordKey { kind: 0, vip: 0, id: u64::from(block) };
        let written = self.write(place, None, self.header(Content::Counters, key, Epoch(0)), &plain);
        self.plain = plain;
        let id = written?;
        if let Some(state) = self.blocks.get_mut(block as usize) {
            *state = BlockState { newest: id.0, odd: !state.odd };
        }
        if state.newest > 0 {
            self.superseded.push_back(Superseded { by: id.0, place: old, tombstone: None });
        }
        Ok(id)
    }

    fn publish(&mut self) -> Result<(), StoreError> {
        self.standing()?;
        self.publish_batch()
    }

    fn poll_acknowledged(&mut self) -> Result<WriteId, StoreError> {
        self.publish()?;
        let written = self.sealer.written();
        // With nothing new to ask about, ask again all the same: that the grant still stands.
        if written > self.asked || !self.asking {
            let asked = self.link.ask(WriteId(written));
            self.or_end(asked)?;
            self.asked = written;
            self.asking = true;
        }
        let answered = self.link.answered();
        if let Some(answer) = self.or_end(answered)? {
            if answer.grant != self.grant {
                return self.or_end(Err(StoreError::Refused));
            }
            self.asking = answer.upto.0 < self.asked;
            self.acknowledged = self.acknowledged.max(answer.upto.0);
            self.free_superseded()?;
        }
        Ok(WriteId(self.acknowledged))
    }

    fn free_slots(&self, bytes: usize) -> u32 {
        self.pool.room(bytes)
    }

    fn usage(&self) -> Usage {
        let geometry = self.link.geometry();
        let written = self.blocks.iter().filter(|block| block.newest > 0).count();
        Usage {
            bytes: geometry.bytes(),
            classes: self.pool.usage(),
            counter_blocks: u32::try_from(written).unwrap_or(u32::MAX),
            counter_blocks_max: geometry.sizes().counter_blocks,
            written: self.written(),
            acknowledged: WriteId(self.acknowledged),
        }
    }
}
