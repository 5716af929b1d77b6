//! Connections that a successor couldn't compute: from the workers into the store, and out of it into a successor's workers (rule R6).
//!
//! Workers report each change and wait for the answer, whether there is a copy or not. So what a copy that joins has to be told
//! is all here, and nothing that went before is unknown.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use vipsec_dataplane::api::{Command, PinBatch, PinSet, RESTORED_MAX, RestoredPin};
use vipsec_distribute::connection::PinEvent;

use super::pin_table::{BLOCK_PINS_MAX, PinTable, Spot};
use crate::core::ownership::groups::side;
use crate::core::{Core, Effect};

pub use super::pin_table::PIN_RECORD_BYTES;

/// Batches of restored pins that may wait for the workers at once: so their loops go on, and the core's.
const BATCHES_UNDER_WAY_MAX: usize = 8;

/// Records of [`PIN_RECORD_BYTES`] that so many pins take.
pub fn pin_blocks(pins: u32) -> u32 {
    pins.div_ceil(BLOCK_PINS_MAX as u32)
}

/// The connections of a group on their way to the workers of its successor.
///
/// They stay where they were read. So what is done for each at a takeover is little: it is told to the workers, and who has it is noted.
#[derive(Debug)]
pub(in crate::core) struct Restoration {
    table: PinTable,
    vips: BTreeMap<u16, IpAddr>,
    /// The first block that no worker was told of.
    next: u32,
    under_way: BTreeMap<u64, UnderWay>,
    /// What no worker has taken.
    left_out: Vec<Spot>,
}

#[derive(Debug)]
struct UnderWay {
    spots: Vec<Spot>,
    /// By pin: the workers that have it.
    workers: Vec<u32>,
    unconfirmed: usize,
}

impl Restoration {
    /// `pins_max`: connections that we have room for; `vips`: whose pins they may be.
    pub(in crate::core) fn new(mut table: PinTable, pins_max: u32, vips: BTreeMap<u16, IpAddr>) -> Self {
        table.take_over(pins_max);
        Self { table, vips, next: 0, under_way: BTreeMap::new(), left_out: Vec::new() }
    }

    pub(in crate::core) fn is_done(&self) -> bool {
        self.next >= self.table.blocks_len() && self.under_way.is_empty()
    }

    /// What came of it: the pins, and how many found no place.
    pub(in crate::core) fn finish(self) -> (PinTable, usize) {
        let Self { mut table, left_out, .. } = self;
        let count = left_out.len();
        table.remove(left_out);
        (table, count)
    }

    /// What is to be restored next, unless so much is under way already.
    fn poll_batch(&mut self, token: u64, workers: usize) -> Option<Arc<[RestoredPin]>> {
        let Self { table, vips, next, under_way, left_out } = self;
        let (mut pins, mut spots) = (Vec::new(), Vec::new());
        while under_way.len() < BATCHES_UNDER_WAY_MAX && *next < table.blocks_len() {
            if pins.len() + BLOCK_PINS_MAX > RESTORED_MAX {
                break;
            }
            for (spot, pin) in table.restorable(*next, |vip| vips.get(&vip).copied()) {
                match pin {
                    Some(pin) => {
                        pins.push(pin);
                        spots.push(spot);
                    }
                    None => left_out.push(spot),
                }
            }
            *next += 1;
        }
        if pins.is_empty() {
            return None;
        }
        under_way.insert(token, UnderWay { workers: vec![0; spots.len()], spots, unconfirmed: workers });
        Some(pins.into())
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
        let Some(UnderWay { spots, workers, .. }) = self.under_way.remove(&token) else { return };
        for (spot, workers) in spots.into_iter().zip(workers) {
            match workers {
                0 => self.left_out.push(spot),
                workers => self.table.restored(spot, workers),
            }
        }
    }
}

impl Core {
    /// Connections that find room in a group's copy.
    pub(in crate::core) fn pins_max(&self) -> u32 {
        self.config.peers.first().map_or(0, |peer| peer.store_pins)
    }

    /// A worker's connections changed: it is answered when every counted copy knows.
    pub(in crate::core) fn handle_pins(&mut self, batch: Box<PinBatch>) {
        let number = self.group_of(batch.vip);
        let group = self.groups.get_mut(number);
        let ours = |group: &&mut crate::core::ownership::groups::Group| {
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
    pub(in crate::core) fn forget_connections(&mut self, group: usize) {
        for vip in self.vips_of(group) {
            self.tell(Command::ForgetConnections(vip));
        }
        let since = self.tables_version + 1;
        if let Some(group) = self.groups.get_mut(group) {
            group.pins_since = since;
        }
    }

    /// The group is ours with the connections that were read.
    pub(in crate::core) fn adopt_pins(&mut self, group: usize, restoration: Restoration) {
        let (pins, left_out) = restoration.finish();
        let Some(group) = self.groups.get_mut(group) else { return };
        if left_out > 0 {
            tracing::warn!(group = group.name, left_out, "pinned connections that find no place here go elsewhere");
        }
        group.replica.set_pins(pins);
    }

    /// Sends the workers more of what a takeover has read.
    pub(in crate::core) fn restore_pins(&mut self, group: usize) {
        let workers = self.workers.len();
        loop {
            self.restorations += 1;
            let token = self.restorations;
            let Some(side) = side(&mut self.groups, group) else { return };
            let Some(restoration) = side.restoration() else { return };
            let Some(pins) = restoration.poll_batch(token, workers) else { return };
            self.tell(Command::RestorePins { token, pins });
        }
    }

    /// A worker has taken over what belongs to it.
    pub(in crate::core) fn handle_pins_restored(&mut self, now: Instant, worker: usize, token: u64, taken: PinSet) {
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
