//! What stands between a decision and its effect: while a backup's copy counts, the decision is published first.
//!
//! Rules R1 to R3 are all the same: something may happen (a message may leave, numbers may be used) when everything that a
//! successor would have to know is acknowledged, by every copy. So effects queue here behind the writes that they wait for.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use vipsec_esp::sa::Spi;
use vipsec_store::{BLOCK_ENTRIES_MAX, CounterEntry, RecordKey, StoreError, StoreWriter, Usage, WriteId};
use vipsec_wire::iv::{ApplianceId, Epoch};

use super::pin_table::PinTable;
use super::publishing::KIND_PINS;
use crate::core::Effect;

/// The copies at the backups, as the core writes them.
pub(in crate::core) struct Replica {
    /// Those that are waited for; none: effects happen at once.
    copies: BTreeMap<ApplianceId, Copy>,
    effects: Effects,
    counters: CounterTable,
    pins: PinTable,
    /// What became of copies that could not be written: nobody has been told yet.
    failed: VecDeque<CopyError>,
}

/// A copy that could not be written, and why. Nothing more is written there; what waits for it goes on waiting.
#[derive(Debug)]
pub(in crate::core) struct CopyError {
    /// Whose.
    pub(in crate::core) at: ApplianceId,
    /// See [`StoreError`].
    pub(in crate::core) error: StoreError,
}

/// Effects that wait for at least one copy, and those that wait for none any more.
#[derive(Default)]
struct Effects {
    next: u64,
    /// Each with how many copies have not acknowledged what it waits for.
    waiting: BTreeMap<u64, (usize, Effect)>,
    ready: VecDeque<Effect>,
}

impl Effects {
    /// Waits for that many copies.
    fn wait(&mut self, copies: usize, effect: Effect) -> u64 {
        self.next += 1;
        self.waiting.insert(self.next, (copies, effect));
        self.next
    }

    /// One copy less to wait for.
    fn arrive(&mut self, number: u64) {
        let Some((copies, _)) = self.waiting.get_mut(&number) else { return };
        *copies -= 1;
        if *copies == 0
            && let Some((_, effect)) = self.waiting.remove(&number)
        {
            self.ready.push_back(effect);
        }
    }
}

/// One copy.
struct Copy {
    /// `None`: the link is lost, but the backup may still trust what it has. Effects wait until it can't any more.
    writer: Option<Box<dyn StoreWriter + Send>>,
    /// The newest write.
    written: WriteId,
    /// Effects behind the writes that they wait for.
    waiting: VecDeque<(WriteId, u64)>,
    /// Counter blocks to write, and the effects that wait for their acknowledgement.
    dirty: BTreeMap<u32, Vec<u64>>,
    /// Blocks of pins that a join still has to write. There may be ten thousand: they go slice by slice.
    pins_to_copy: BTreeSet<u32>,
    /// Too much is under way: no more of them now.
    pins_behind: bool,
    /// Blocks of pins to write, and the effects that wait until all of them are acknowledged.
    dirty_pins: BTreeSet<u32>,
    after_pins: Vec<u64>,
    /// Effects that are void once it ends.
    own: Vec<u64>,
}

/// Blocks of pins that are written for a join in one go.
const PIN_BLOCKS_SLICE: u32 = 64;

/// Later than every write: for effects that wait for a stranded copy.
const NEVER: WriteId = WriteId(u64::MAX);

impl Copy {
    fn new(writer: Box<dyn StoreWriter + Send>) -> Self {
        Self {
            writer: Some(writer),
            written: WriteId::default(),
            waiting: VecDeque::new(),
            dirty: BTreeMap::new(),
            pins_to_copy: BTreeSet::new(),
            pins_behind: false,
            dirty_pins: BTreeSet::new(),
            after_pins: Vec::new(),
            own: Vec::new(),
        }
    }

    /// The effect happens when everything written so far is acknowledged.
    fn after(&mut self, effect: u64) {
        let write = if self.writer.is_some() { self.written } else { NEVER };
        self.waiting.push_back((write, effect));
    }

    fn strand(&mut self) {
        self.writer = None;
        self.waiting.iter_mut().for_each(|(write, _)| *write = NEVER);
        let unwritten = std::mem::take(&mut self.dirty).into_values().flatten();
        let unwritten = unwritten.chain(self.after_pins.drain(..));
        self.waiting.extend(unwritten.map(|effect| (NEVER, effect)));
        self.dirty_pins.clear();
        self.pins_to_copy.clear();
    }

    /// Everything that waits for it, in order.
    fn into_effects(self) -> impl Iterator<Item = u64> {
        let numbers = self.dirty.into_values().flatten();
        self.waiting.into_iter().map(|(_, effect)| effect).chain(numbers).chain(self.after_pins)
    }

    fn try_write(
        &mut self,
        mut write: impl FnMut(&mut Box<dyn StoreWriter + Send>) -> Result<Option<WriteId>, StoreError>,
    ) -> Result<(), StoreError> {
        let Some(writer) = &mut self.writer else { return Ok(()) };
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

    /// Writes every counter block that changed: one write for all the SAs of a block.
    fn flush_numbers(&mut self, counters: &CounterTable) -> Result<(), StoreError> {
        let Some(writer) = &mut self.writer else { return Ok(()) };
        let mut behind = BTreeMap::new();
        while let Some((block, effects)) = self.dirty.pop_first() {
            match writer.put_counters(block, &counters.block(block)) {
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
                    self.dirty.append(&mut behind);
                    return Err(error);
                }
            }
        }
        self.dirty = behind;
        Ok(())
    }

    /// Writes every block of pins that changed, and so many of those that a join has to copy, under that VIP's name: one write for all the
    /// connections of a block. Returns how many connections found no room.
    fn flush_pins(&mut self, pins: &PinTable, vip: u16, epoch: Epoch, to_copy: u32) -> Result<u64, StoreError> {
        let mut left_out = 0;
        let mut bytes = Vec::new();
        let mut copied = 0;
        self.pins_behind = false;
        loop {
            // Something waits for those that changed.
            let changed = self.dirty_pins.first();
            let next = changed.or_else(|| self.pins_to_copy.first().filter(|_| copied < to_copy));
            let Some(block) = next.copied() else { break };
            copied += u32::from(changed.is_none());
            pins.block(block, &mut bytes);
            let key = RecordKey { kind: KIND_PINS, vip, id: u64::from(block) };
            let written = match bytes.is_empty() {
                true => self.try_write(|writer| writer.remove(key)),
                false => self.try_write(|writer| writer.put(key, epoch, &bytes).map(Some)),
            };
            match written {
                Ok(()) => {}
                // Too much is under way: its turn comes with the next flush.
                Err(StoreError::Behind) => {
                    self.pins_behind = true;
                    return Ok(left_out);
                }
                // The peer keeps less room than we count on. These connections go on without a record, and that is said.
                Err(StoreError::Full) => left_out += pins.in_block(block),
                Err(error) => return Err(error),
            }
            self.dirty_pins.remove(&block);
            self.pins_to_copy.remove(&block);
        }
        for effect in std::mem::take(&mut self.after_pins) {
            self.after(effect);
        }
        Ok(left_out)
    }

    /// Publishes what was written, and lets effects happen, in order, when this copy has acknowledged what they wait for.
    fn poll_acknowledged(&mut self, effects: &mut Effects) -> Result<(), StoreError> {
        let Some(writer) = &mut self.writer else { return Ok(()) };
        if self.waiting.is_empty() {
            return writer.publish();
        }
        let acknowledged = writer.poll_acknowledged()?;
        while let Some((_, effect)) = self.waiting.pop_front_if(|(write, _)| *write <= acknowledged) {
            effects.arrive(effect);
        }
        Ok(())
    }
}

impl Replica {
    /// `pins_max`: connections that find room in a copy.
    pub(in crate::core) fn new(pins_max: u32) -> Self {
        Self {
            copies: BTreeMap::new(),
            effects: Effects::default(),
            counters: CounterTable::default(),
            pins: PinTable::new(pins_max),
            failed: VecDeque::new(),
        }
    }

    /// How much of a copy's region is in use; `None`: it isn't written to.
    pub(in crate::core) fn usage(&self, at: ApplianceId) -> Option<Usage> {
        self.copies.get(&at).and_then(|copy| copy.writer.as_ref()).map(|writer| writer.usage())
    }

    /// Is there anybody to wait for?
    pub(in crate::core) fn is_on(&self) -> bool {
        !self.copies.is_empty()
    }

    /// A join begins: from here on this copy's acknowledgements are waited for. What waited for an earlier one at that appliance may
    /// happen, as far as it goes by that: the backup has emptied it by pairing anew, and the new one doesn't count before its mark.
    pub(in crate::core) fn begin(&mut self, at: ApplianceId, writer: Box<dyn StoreWriter + Send>) {
        self.end(at);
        let mut copy = Copy::new(writer);
        copy.dirty = self.counters.blocks().map(|block| (block, Vec::new())).collect();
        copy.pins_to_copy = self.pins.blocks().collect();
        self.copies.insert(at, copy);
    }

    /// The link to that copy is lost.
    pub(in crate::core) fn strand(&mut self, at: ApplianceId) {
        if let Some(copy) = self.copies.get_mut(&at) {
            copy.strand();
        }
    }

    /// That copy is not waited for any more: what waited for nothing else may happen.
    pub(in crate::core) fn end(&mut self, at: ApplianceId) {
        if let Some(copy) = self.copies.remove(&at) {
            for effect in &copy.own {
                self.effects.waiting.remove(effect);
            }
            copy.into_effects().for_each(|effect| self.effects.arrive(effect));
            self.failed.retain(|failed| failed.at != at);
        }
    }

    /// The VIPs are not ours any more: nothing that waited may happen. Returns what that was.
    pub(in crate::core) fn abandon(&mut self) -> impl Iterator<Item = Effect> + use<> {
        self.copies.clear();
        self.failed.clear();
        self.counters = CounterTable::default();
        self.pins.clear();
        let Effects { waiting, ready, .. } = std::mem::take(&mut self.effects);
        waiting.into_values().map(|(_, effect)| effect).chain(ready)
    }

    /// The connections that a successor has to be told of.
    pub(in crate::core) fn pins(&self) -> &PinTable {
        &self.pins
    }

    /// Goes on with the connections of the last owner.
    pub(in crate::core) fn set_pins(&mut self, mut pins: PinTable) {
        pins.leave_out(self.pins.left_out());
        self.pins = pins;
    }

    /// Changes the pins; `effect` happens when what they are then is acknowledged (rule R6).
    pub(in crate::core) fn change_pins(&mut self, change: impl FnOnce(&mut PinTable), effect: Effect) {
        change(&mut self.pins);
        let changed = self.pins.take_changed();
        if self.copies.is_empty() {
            return self.effects.ready.push_back(effect);
        }
        let number = self.effects.wait(self.copies.len(), effect);
        for copy in self.copies.values_mut() {
            match copy.writer {
                Some(_) => {
                    copy.dirty_pins.extend(&changed);
                    copy.after_pins.push(number);
                }
                None => copy.after(number),
            }
        }
    }

    /// Blocks of pins that wait for their turn to be written there.
    pub(in crate::core) fn unwritten_pin_blocks(&self, at: ApplianceId) -> usize {
        self.copies.get(&at).map_or(0, |copy| copy.dirty_pins.union(&copy.pins_to_copy).count())
    }

    /// Is there room for more blocks of pins that a join has to copy?
    pub(in crate::core) fn has_pins_to_copy(&self) -> bool {
        self.copies.values().any(|copy| !copy.pins_to_copy.is_empty() && !copy.pins_behind)
    }

    /// Writes every block of pins that changed, under that VIP's name.
    pub(in crate::core) fn flush_pins(&mut self, vip: u16, epoch: Epoch) {
        self.write_pins(vip, epoch, 0);
    }

    /// The same, and a slice of what joins have to copy.
    pub(in crate::core) fn copy_pins(&mut self, vip: u16, epoch: Epoch) {
        self.write_pins(vip, epoch, PIN_BLOCKS_SLICE);
    }

    fn write_pins(&mut self, vip: u16, epoch: Epoch, to_copy: u32) {
        let Self { copies, pins, failed, .. } = self;
        let mut left_out = 0;
        for (at, copy) in copies.iter_mut().filter(|(_, copy)| copy.writer.is_some()) {
            match copy.flush_pins(pins, vip, epoch, to_copy) {
                Ok(more) => left_out += more,
                Err(error) => {
                    copy.strand();
                    failed.push_back(CopyError { at: *at, error });
                }
            }
        }
        self.pins.leave_out(left_out);
    }

    /// Publishes a record; what depends on it is queued with [`Replica::after`] next.
    pub(in crate::core) fn put(&mut self, key: RecordKey, epoch: Epoch, bytes: &[u8]) {
        self.each(|copy, _, _| copy.try_write(|writer| writer.put(key, epoch, bytes).map(Some)));
    }

    /// Removes a record.
    pub(in crate::core) fn remove(&mut self, key: RecordKey) {
        self.each(|copy, _, _| copy.try_write(|writer| writer.remove(key)));
    }

    /// A copy that could not be written.
    pub(in crate::core) fn poll_failed(&mut self) -> Option<CopyError> {
        self.failed.pop_front()
    }

    /// Does something with every copy: that one of them fails keeps nothing from the others.
    fn each(&mut self, mut f: impl FnMut(&mut Copy, &CounterTable, &mut Effects) -> Result<(), StoreError>) {
        let Self { copies, effects, counters, failed, .. } = self;
        for (at, copy) in copies {
            if let Err(error) = f(copy, counters, effects) {
                copy.strand();
                failed.push_back(CopyError { at: *at, error });
            }
        }
    }

    /// Lets the backups see what was written so far.
    pub(in crate::core) fn publish(&mut self) {
        self.each(|copy, _, _| copy.writer.as_mut().map_or(Ok(()), |writer| writer.publish()));
    }

    /// `effect` happens when everything written so far is acknowledged.
    pub(in crate::core) fn after(&mut self, effect: Effect) {
        if self.copies.is_empty() {
            return self.effects.ready.push_back(effect);
        }
        let number = self.effects.wait(self.copies.len(), effect);
        self.copies.values_mut().for_each(|copy| copy.after(number));
    }

    /// `effect` happens when that copy has acknowledged everything written so far; not at all if it ends before.
    pub(in crate::core) fn after_at(&mut self, at: ApplianceId, effect: Effect) {
        if let Some(copy) = self.copies.get_mut(&at) {
            let number = self.effects.wait(1, effect);
            copy.own.push(number);
            copy.after(number);
        }
    }

    /// The numbers of a child SA, for the next flush; `then` happens when they are acknowledged. What was published before may be
    /// granted already, so horizon and lease never move back.
    pub(in crate::core) fn publish_numbers(&mut self, mut entry: CounterEntry, then: Option<Effect>) {
        if let Some(known) = self.counters.get(entry.spi) {
            entry.horizon = entry.horizon.max(known.horizon);
            entry.lease = entry.lease.max(known.lease);
        }
        self.set_numbers(entry, then);
    }

    /// The exact numbers of a child SA that has stopped, lower than what was granted; returns what was published before.
    pub(in crate::core) fn publish_exact_numbers(&mut self, entry: CounterEntry) -> Option<CounterEntry> {
        let before = self.counters.get(entry.spi);
        self.set_numbers(entry, None);
        before
    }

    fn set_numbers(&mut self, entry: CounterEntry, then: Option<Effect>) {
        let block = self.counters.set(entry);
        if self.copies.is_empty() {
            return self.effects.ready.extend(then);
        }
        let number = then.map(|effect| self.effects.wait(self.copies.len(), effect));
        for copy in self.copies.values_mut() {
            match copy.writer {
                Some(_) => copy.dirty.entry(block).or_default().extend(number),
                None => number.into_iter().for_each(|number| copy.after(number)),
            }
        }
    }

    /// `effect` happens when all numbers, unwritten ones included, and everything written so far are acknowledged.
    pub(in crate::core) fn after_numbers(&mut self, effect: Effect) {
        if self.copies.is_empty() {
            return self.effects.ready.push_back(effect);
        }
        let number = self.effects.wait(self.copies.len(), effect);
        for copy in self.copies.values_mut() {
            match copy.dirty.last_entry() {
                // Blocks are written in order: the last one's acknowledgement is the last.
                Some(mut last) => last.get_mut().push(number),
                None => copy.after(number),
            }
        }
    }

    /// Do numbers wait for their turn to be written there?
    pub(in crate::core) fn has_unwritten_numbers(&self, at: ApplianceId) -> bool {
        self.copies.get(&at).is_some_and(|copy| !copy.dirty.is_empty())
    }

    /// A child SA is gone.
    pub(in crate::core) fn forget_numbers(&mut self, spi: Spi) {
        let Some(block) = self.counters.forget(spi) else { return };
        for copy in self.copies.values_mut().filter(|copy| copy.writer.is_some()) {
            copy.dirty.entry(block).or_default();
        }
    }

    /// Writes every counter block that changed.
    pub(in crate::core) fn flush_numbers(&mut self) {
        self.each(|copy, counters, _| copy.flush_numbers(counters));
    }

    /// Asks whether the copies still take our writes: how an owner that has nothing to write learns that it is deposed.
    pub(in crate::core) fn check(&mut self) {
        self.each(|copy, _, _| copy.writer.as_mut().map_or(Ok(()), |writer| writer.poll_acknowledged().map(drop)));
    }

    /// Will a look at the copies, some time soon, find an acknowledgement that something waits for?
    pub(in crate::core) fn awaits_acknowledgement(&self) -> bool {
        self.copies.values().any(|copy| copy.writer.is_some() && !copy.waiting.is_empty())
    }

    /// Effects whose time has come, in order.
    pub(in crate::core) fn poll(&mut self) -> Option<Effect> {
        if self.effects.ready.is_empty() {
            self.each(|copy, _, effects| copy.poll_acknowledged(effects));
        }
        self.effects.ready.pop_front()
    }
}

/// Which counter block holds which SA's numbers.
#[derive(Default)]
struct CounterTable {
    entries: Vec<Option<CounterEntry>>,
    index: HashMap<u32, usize>,
    free: BTreeSet<usize>,
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

    /// Returns the block that changed.
    fn forget(&mut self, spi: Spi) -> Option<u32> {
        let at = self.index.remove(&spi.get())?;
        *self.entries.get_mut(at)? = None;
        self.free.insert(at);
        Some(block_of(at))
    }

    /// Every block that is in use.
    fn blocks(&self) -> impl Iterator<Item = u32> + use<> {
        (0..self.entries.len()).step_by(BLOCK_ENTRIES_MAX).map(block_of)
    }

    fn block(&self, block: u32) -> Vec<CounterEntry> {
        let start = block as usize * BLOCK_ENTRIES_MAX;
        self.entries.iter().skip(start).take(BLOCK_ENTRIES_MAX).flatten().copied().collect()
    }
}

fn block_of(at: usize) -> u32 {
    u32::try_from(at / BLOCK_ENTRIES_MAX).unwrap_or(u32::MAX)
}
