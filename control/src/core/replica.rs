//! What stands between a decision and its effect: while a backup's copy counts, the decision is published first.
//!
//! Rules R1 to R3 are all the same: something may happen (a message may leave, numbers may be used) when everything that a
//! successor would have to know is acknowledged. So effects queue here behind the write that they wait for.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use vipsec_esp::sa::Spi;
use vipsec_store::{BLOCK_ENTRIES_MAX, CounterEntry, RecordKey, StoreError, StoreWriter, Usage, WriteId};
use vipsec_wire::iv::Epoch;

use super::Effect;

/// The copy at the backup, as the core writes it.
pub(super) struct Replica {
    copy: Copy,
    /// The newest write.
    written: WriteId,
    waiting: VecDeque<(WriteId, Effect)>,
    ready: VecDeque<Effect>,
    counters: CounterTable,
}

enum Copy {
    /// Nobody to wait for: effects happen at once.
    Off,
    /// Written to, and waited for.
    On(Box<dyn StoreWriter + Send>),
    /// The link is lost, but the backup may still trust what it has: effects wait until it can't any more.
    Stranded,
}

/// Later than every write: for effects that wait for a stranded copy.
const NEVER: WriteId = WriteId(u64::MAX);

impl Replica {
    pub(super) fn new() -> Self {
        Self {
            copy: Copy::Off,
            written: WriteId::default(),
            waiting: VecDeque::new(),
            ready: VecDeque::new(),
            counters: CounterTable::default(),
        }
    }

    /// How much of the copy's region is in use; `None`: nobody is written to.
    pub(super) fn usage(&self) -> Option<Usage> {
        match &self.copy {
            Copy::On(writer) => Some(writer.usage()),
            Copy::Off | Copy::Stranded => None,
        }
    }

    /// Is there anybody to wait for?
    pub(super) fn is_on(&self) -> bool {
        !matches!(self.copy, Copy::Off)
    }

    /// A join begins: from here on acknowledgements are waited for. What waited for an earlier copy may happen: the backup has
    /// emptied that one by pairing anew, and the new one doesn't count before its mark.
    pub(super) fn begin(&mut self, writer: Box<dyn StoreWriter + Send>) {
        self.end();
        self.copy = Copy::On(writer);
        self.written = WriteId::default();
        self.counters.all_dirty();
    }

    /// The link is lost.
    pub(super) fn strand(&mut self) {
        if self.is_on() {
            self.copy = Copy::Stranded;
            self.waiting.iter_mut().for_each(|(write, _)| *write = NEVER);
            let unwritten = std::mem::take(&mut self.counters.dirty).into_values().flatten();
            self.waiting.extend(unwritten.map(|effect| (NEVER, effect)));
        }
    }

    /// Nobody is waited for any more: everything that waited may happen.
    pub(super) fn end(&mut self) {
        self.copy = Copy::Off;
        self.ready.extend(self.waiting.drain(..).map(|(_, effect)| effect));
        self.ready.extend(std::mem::take(&mut self.counters.dirty).into_values().flatten());
    }

    /// The VIPs are not ours any more: nothing that waited may happen.
    pub(super) fn abandon(&mut self) {
        self.copy = Copy::Off;
        self.waiting.clear();
        self.ready.clear();
        self.counters = CounterTable::default();
    }

    /// Publishes a record; what depends on it is queued with [`Replica::after`] next.
    pub(super) fn put(&mut self, key: RecordKey, epoch: Epoch, bytes: &[u8]) -> Result<(), StoreError> {
        self.try_write(|writer| writer.put(key, epoch, bytes).map(Some))
    }

    /// Removes a record.
    pub(super) fn remove(&mut self, key: RecordKey) -> Result<(), StoreError> {
        self.try_write(|writer| writer.remove(key))
    }

    fn try_write(
        &mut self,
        mut write: impl FnMut(&mut Box<dyn StoreWriter + Send>) -> Result<Option<WriteId>, StoreError>,
    ) -> Result<(), StoreError> {
        let Copy::On(writer) = &mut self.copy else { return Ok(()) };
        let written = match write(writer) {
            // The local store acknowledges when it is asked; a far one that lags this much is left behind.
            Err(StoreError::Behind) => {
                writer.poll_acknowledged()?;
                write(writer)?
            }
            result => result?,
        };
        self.written = written.unwrap_or(self.written);
        Ok(())
    }

    /// `effect` happens when everything written so far is acknowledged.
    pub(super) fn after(&mut self, effect: Effect) {
        match self.copy {
            Copy::Off => self.ready.push_back(effect),
            Copy::On(_) => self.waiting.push_back((self.written, effect)),
            Copy::Stranded => self.waiting.push_back((NEVER, effect)),
        }
    }

    /// The numbers of a child SA, for the next flush; `then` happens when they are acknowledged. What was published before may be
    /// granted already, so horizon and lease never move back.
    pub(super) fn publish_numbers(&mut self, mut entry: CounterEntry, then: Option<Effect>) {
        if let Some(known) = self.counters.get(entry.spi) {
            entry.horizon = entry.horizon.max(known.horizon);
            entry.lease = entry.lease.max(known.lease);
        }
        self.set_numbers(entry, then);
    }

    /// The exact numbers of a child SA that has stopped, lower than what was granted; returns what was published before.
    pub(super) fn publish_exact_numbers(&mut self, entry: CounterEntry) -> Option<CounterEntry> {
        let before = self.counters.get(entry.spi);
        self.set_numbers(entry, None);
        before
    }

    fn set_numbers(&mut self, entry: CounterEntry, then: Option<Effect>) {
        let block = self.counters.set(entry);
        match self.copy {
            Copy::Off | Copy::Stranded => then.into_iter().for_each(|effect| self.after(effect)),
            Copy::On(_) => self.counters.dirty.entry(block).or_default().extend(then),
        }
    }

    /// `effect` happens when all numbers, unwritten ones included, and everything written so far are acknowledged.
    pub(super) fn after_numbers(&mut self, effect: Effect) {
        match (&self.copy, self.counters.dirty.last_entry()) {
            // Blocks are written in order: the last one's acknowledgement is the last.
            (Copy::On(_), Some(mut last)) => last.get_mut().push(effect),
            _ => self.after(effect),
        }
    }

    /// Do numbers wait for their turn to be written?
    pub(super) fn has_unwritten_numbers(&self) -> bool {
        matches!(self.copy, Copy::On(_)) && !self.counters.dirty.is_empty()
    }

    /// A child SA is gone.
    pub(super) fn forget_numbers(&mut self, spi: Spi) {
        self.counters.forget(spi);
    }

    /// Writes every counter block that changed: one write for all the SAs of a block.
    pub(super) fn flush_numbers(&mut self) -> Result<(), StoreError> {
        let Copy::On(writer) = &mut self.copy else { return Ok(()) };
        let mut behind = BTreeMap::new();
        while let Some((block, effects)) = self.counters.dirty.pop_first() {
            match writer.put_counters(block, &self.counters.block(block)) {
                Ok(written) => {
                    self.written = written;
                    self.waiting.extend(effects.into_iter().map(|effect| (written, effect)));
                }
                // An older version of the block waits for its acknowledgement: its turn comes with the next flush.
                Err(StoreError::Behind) => {
                    behind.insert(block, effects);
                }
                Err(error) => {
                    // What waits for these numbers goes on waiting: for another copy, or for the end of this one.
                    behind.insert(block, effects);
                    self.counters.dirty.append(&mut behind);
                    return Err(error);
                }
            }
        }
        self.counters.dirty = behind;
        Ok(())
    }

    /// Asks whether the copy still takes our writes: how an owner that has nothing to write learns that it is deposed.
    pub(super) fn check(&mut self) -> Result<(), StoreError> {
        match &mut self.copy {
            Copy::On(writer) => writer.poll_acknowledged().map(drop),
            Copy::Off | Copy::Stranded => Ok(()),
        }
    }

    /// Effects whose time has come, in order.
    pub(super) fn poll(&mut self) -> Result<Option<Effect>, StoreError> {
        if let Copy::On(writer) = &mut self.copy
            && self.ready.is_empty()
            && !self.waiting.is_empty()
        {
            let acknowledged = writer.poll_acknowledged()?;
            while let Some((_, effect)) = self.waiting.pop_front_if(|(write, _)| *write <= acknowledged) {
                self.ready.push_back(effect);
            }
        }
        Ok(self.ready.pop_front())
    }
}

/// Which counter block holds which SA's numbers.
#[derive(Default)]
struct CounterTable {
    entries: Vec<Option<CounterEntry>>,
    index: HashMap<u32, usize>,
    free: BTreeSet<usize>,
    /// Blocks to write, and what happens when they are acknowledged.
    dirty: BTreeMap<u32, Vec<Effect>>,
}

impl CounterTable {
    fn get(&self, spi: u32) -> Option<CounterEntry> {
        *self.entries.get(*self.index.get(&spi)?)?
    }

    /// Takes an SA's numbers; returns the block that holds them.
    fn set(&mut self, entry: CounterEntry) -> u32 {
        let at = match self.index.get(&entry.spi) {
            Some(at) => *at,
            None => {
                let at = self.free.pop_first().unwrap_or(self.entries.len());
                if at == self.entries.len() {
                    self.entries.push(None);
                }
                self.index.insert(entry.spi, at);
                at
            }
        };
        if let Some(place) = self.entries.get_mut(at) {
            *place = Some(entry);
        }
        block_of(at)
    }

    fn forget(&mut self, spi: Spi) {
        let Some(at) = self.index.remove(&spi.get()) else { return };
        if let Some(place) = self.entries.get_mut(at) {
            *place = None;
            self.free.insert(at);
            self.dirty.entry(block_of(at)).or_default();
        }
    }

    fn all_dirty(&mut self) {
        for block in (0..self.entries.len()).map(block_of) {
            self.dirty.entry(block).or_default();
        }
    }

    fn block(&self, block: u32) -> Vec<CounterEntry> {
        let start = block as usize * BLOCK_ENTRIES_MAX;
        self.entries.iter().skip(start).take(BLOCK_ENTRIES_MAX).flatten().copied().collect()
    }
}

fn block_of(at: usize) -> u32 {
    u32::try_from(at / BLOCK_ENTRIES_MAX).unwrap_or(u32::MAX)
}
