//! Connections that a successor couldn't compute: from the workers into the store, and out of it into a successor's workers (rule R6).
//!
//! Workers report each change and wait for the answer, whether there is a copy or not. So what a copy that joins has to be told
//! is all here, and nothing that went before is unknown.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use vipsec_dataplane::api::{Command, PinBatch, PinSet, RESTORED_MAX, RestoredPin};
use vipsec_distribute::connection::PinEvent;

use super::groups::side;
use super::pin_table::{BLOCK_PINS_MAX, PinTable};
use super::{Core, Effect};

pub use super::pin_table::PIN_RECORD_BYTES;

/// Batches of restored pins that may wait for the workers at once: so their loops go on, and the core's.
const BATCHES_UNDER_WAY_MAX: usize = 8;

/// Records of [`PIN_RECORD_BYTES`] that so many pins take.
pub fn pin_blocks(pins: u32) -> u32 {
    pins.div_ceil(BLOCK_PINS_MAX as u32)
}

/// The connections of a group on their way to the workers of its successor.
#[derive(Debug, Default)]
pub(super) struct Restoration {
    batches: VecDeque<Arc<[RestoredPin]>>,
    under_way: BTreeMap<u64, UnderWay>,
    /// What a worker has taken.
    table: PinTable,
    /// What none has.
    left_out: usize,
}

#[derive(Debug)]
struct UnderWay {
    pins: Arc<[RestoredPin]>,
    /// By pin: the workers that have it.
    workers: Vec<u32>,
    unconfirmed: usize,
}

impl Restoration {
    /// `pins`: of those with the same name the last one counts.
    pub(super) fn new(pins: &[RestoredPin], pins_max: u32) -> Self {
        let batches = pins.chunks(RESTORED_MAX).map(Arc::from).collect();
        Self { batches, table: PinTable::with_capacity(pins_max, pins.len()), ..Self::default() }
    }

    pub(super) fn is_done(&self) -> bool {
        self.batches.is_empty() && self.under_way.is_empty()
    }

    /// What came of it: the pins, and how many found no place.
    pub(super) fn finish(self) -> (PinTable, usize) {
        (self.table, self.left_out)
    }

    fn confirm(&mut self, token: u64, worker: usize, taken: PinSet) {
        let Some(under_way) = self.under_way.get_mut(&token) else { return };
        for (place, workers) in under_way.workers.iter_mut().enumerate() {
            *workers |= u32::from(taken.contains(place)) << (worker % 32);
        }
        under_way.unconfirmed = under_way.unconfirmed.saturating_sub(1);
        if under_way.unconfirmed > 0 {
            return;
        }
        let Some(UnderWay { pins, workers, .. }) = self.under_way.remove(&token) else { return };
        for (pin, workers) in pins.iter().zip(workers) {
            let kept = workers != 0 && self.table.restore(workers, pin).is_ok();
            self.left_out += usize::from(!kept);
        }
    }
}

impl Core {
    /// A worker's connections changed: it is answered when every counted copy knows.
    pub(super) fn handle_pins(&mut self, batch: Box<PinBatch>) {
        let number = self.group_of(batch.vip);
        let group = self.groups.get_mut(number);
        let ours = |group: &&mut super::groups::Group| {
            group.ownership.epoch_of_sas().is_some() && batch.tables >= group.pins_since
        };
        let Some(group) = group.filter(ours) else {
            return self.tell(Command::PinsAbandoned(batch));
        };
        let had_room = group.replica.pins().left_out() == 0;
        let (worker, vip, pins) = (batch.worker.0, batch.vip, batch.pins.clone());
        let change = |table: &mut PinTable| {
            for event in &pins {
                match *event {
                    // What finds no room is counted, and goes on without a record.
                    PinEvent::Pinned { tuple, origin, target, .. } => {
                        let _ = table.pin(worker, &RestoredPin { vip, tuple, origin, target });
                    }
                    PinEvent::Released { tuple } => table.release(worker, vip, &tuple),
                }
            }
        };
        group.replica.change_pins(change, Effect::Command(Command::PinsKnown(batch)));
        if had_room && group.replica.pins().left_out() > 0 {
            tracing::error!(
                group = group.name,
                "no room for another pinned connection: raise store_pins; a successor will send it elsewhere"
            );
        }
    }

    /// The workers forget a group's connections: it goes elsewhere, or comes and nothing that they know of it counts.
    pub(super) fn forget_connections(&mut self, group: usize) {
        for vip in self.vips_of(group) {
            self.tell(Command::ForgetConnections(vip));
        }
        let since = self.tables_version + 1;
        if let Some(group) = self.groups.get_mut(group) {
            group.pins_since = since;
        }
    }

    /// The group is ours with the connections that were read.
    pub(super) fn adopt_pins(&mut self, group: usize, restoration: Restoration) {
        let (pins, left_out) = restoration.finish();
        let Some(group) = self.groups.get_mut(group) else { return };
        if left_out > 0 {
            tracing::warn!(group = group.name, left_out, "pinned connections that find no place here go elsewhere");
        }
        group.replica.set_pins(pins);
    }

    /// Sends the workers more of what a takeover has read.
    pub(super) fn restore_pins(&mut self, group: usize) {
        let workers = self.workers.len();
        loop {
            self.restorations += 1;
            let token = self.restorations;
            let Some(side) = side(&mut self.groups, group) else { return };
            let Some(restoration) = side.restoration() else { return };
            if restoration.under_way.len() >= BATCHES_UNDER_WAY_MAX {
                return;
            }
            let Some(pins) = restoration.batches.pop_front() else { return };
            let under_way = UnderWay { pins: pins.clone(), workers: vec![0; pins.len()], unconfirmed: workers };
            restoration.under_way.insert(token, under_way);
            self.tell(Command::RestorePins { token, pins });
        }
    }

    /// A worker has taken over what belongs to it.
    pub(super) fn handle_pins_restored(&mut self, now: Instant, worker: usize, token: u64, taken: PinSet) {
        for group in 0..self.groups.len() {
            let restoration = side(&mut self.groups, group).and_then(|side| side.restoration());
            let Some(restoration) = restoration.filter(|restoration| restoration.under_way.contains_key(&token)) else {
                continue;
            };
            restoration.confirm(token, worker, taken);
            self.restore_pins(group);
            self.check_staged(now, group);
        }
    }
}
