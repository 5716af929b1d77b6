//! Packets whose connection a successor would send elsewhere, until it has been told (rule R6).

use std::sync::Arc;
use std::time::Instant;

use vipsec_distribute::connection::Pin;
use vipsec_distribute::service::{Origin, ServiceTable};
use vipsec_wire::buffer::BufferPool;

use super::inner::{Inner, Via};
use crate::api::{Event, PinBatch, PinSet, RestoredPin, VipState};
use crate::drops::{DropReason, Tally};
use crate::pins::Unpinned;
use crate::selector::Ends;
use crate::worker::{Verdict, Worker};

impl<P: BufferPool> Worker<P> {
    /// Keeps a packet until its connection's record is acknowledged.
    #[cold]
    pub(super) fn await_pin(&mut self, since: Instant, inner: Inner<P::Buf>) -> Verdict {
        let origin = inner.origin();
        let Inner { packet, flow, vip, was_fragmented, .. } = inner;
        let unpinned = Unpinned { packet, flow, vip, origin, was_fragmented, since };
        self.pins.waiting.push(unpinned).map_err(|_| DropReason::PinQueueFull)?;
        self.counters.count(Tally::PinWaits);
        Ok(())
    }

    /// Passes on what a successor has to be told, as far as there are batches to carry it; and what has been waited for.
    pub(crate) fn report_pins(&mut self) {
        while let Some(address) = self.connections.next_pin().map(|event| event.tuple().vip) {
            let Some((vip, _)) = self.lookup.vip_at(address) else {
                // Of a service whose VIP is no longer in the tables: nobody takes over that.
                if let Some(event) = self.connections.poll_pin() {
                    self.connections.abandon(&event);
                }
                continue;
            };
            let Some(mut batch) = self.pins.take() else { break };
            (batch.worker, batch.vip, batch.tables) = (self.mates.me(), vip, self.tables_version);
            while !batch.pins.is_full()
                && self.connections.next_pin().is_some_and(|event| event.tuple().vip == address)
                && let Some(event) = self.connections.poll_pin()
            {
                batch.pins.push(event);
            }
            self.tell(Event::Pins(batch));
        }
        if let Some(version) = self.pins.announced
            && self.connections.pin_progress().is_complete()
        {
            self.pins.announced = None;
            self.tell(Event::ServicesPinned(version));
        }
    }

    /// Every counted copy knows what a batch says.
    pub(crate) fn settle_pins(&mut self, now: Instant, batch: Box<PinBatch>) {
        batch.pins.iter().for_each(|event| self.connections.acknowledge(event));
        self.pins.give(batch);
        self.release_unpinned(now);
    }

    /// Nobody will ever say whether the store knows it.
    pub(crate) fn abandon_pins(&mut self, now: Instant, batch: Box<PinBatch>) {
        batch.pins.iter().for_each(|event| self.connections.abandon(event));
        self.pins.give(batch);
        self.release_unpinned(now);
    }

    /// Other services are going to be in force.
    pub(crate) fn announce(&mut self, version: u64, services: Arc<ServiceTable>) {
        self.connections.announce(services);
        self.pins.announced = Some(version);
    }

    /// Delivers the packets whose connections are settled by now. Everything that may have changed while they waited is asked again:
    /// the deadline, whether the VIP is still here, where the connection is.
    pub(crate) fn release_unpinned(&mut self, now: Instant) {
        if self.pins.waiting.len() == 0 {
            return;
        }
        self.paths.enter(self.generation());
        let may_act = !self.deadline.has_passed(now);
        for _ in 0..self.pins.waiting.len() {
            let Some(unpinned) = self.pins.waiting.take() else { break };
            let verdict = self.release_one(now, may_act, unpinned);
            self.count(verdict);
        }
        self.confirm_tables();
    }

    fn release_one(&mut self, now: Instant, may_act: bool, unpinned: Unpinned<P::Buf>) -> Verdict {
        if !may_act {
            return Err(DropReason::DeadlinePassed);
        }
        let state = self.lookup.vip(unpinned.vip).map(|vip| vip.state).unwrap_or_default();
        if state == VipState::Elsewhere {
            return Err(DropReason::VipNotOwned);
        }
        let tuple = unpinned.flow.tuple_from_remote();
        let standing = self.connections.standing(&tuple);
        if standing.is_some_and(|(_, pin)| pin == Pin::Awaited) {
            return self.pins.waiting.push(unpinned).map_err(|_| DropReason::PinQueueFull);
        }
        let Unpinned { packet, flow, vip, origin, was_fragmented, since } = unpinned;
        // Where it came through a tunnel, which one doesn't matter any more: its SA may be gone.
        let via = match origin {
            Origin::Decrypted => Via::Handoff,
            Origin::Clear => Via::Clear,
        };
        let inner = Inner { packet, flow, vip, via, was_fragmented };
        let total_len = flow.header.total_len;
        match standing {
            Some((target, _)) => {
                self.counters.count(Tally::PinReleased);
                self.deliver(now, target, inner)?;
                self.counters.to_targets.add(1, total_len);
                Ok(())
            }
            // Its connection was forgotten, or is to move to another target: as if it had just come.
            None => {
                let prepared = self.connections.prepare_one(now, &tuple);
                self.choose(now, since, &prepared, inner)
            }
        }
    }

    /// Frees what has waited too long.
    pub(crate) fn expire_unpinned(&mut self, now: Instant) {
        let expired = self.pins.waiting.expire(now);
        self.counters.count_drops(DropReason::PinTooLong, expired);
        if expired > 0 {
            self.confirm_tables();
        }
    }

    /// Forgets the connections of a VIP.
    pub(crate) fn forget_connections(&mut self, vip: u16) {
        if let Some(table) = self.lookup.vip(vip) {
            table.addresses().for_each(|floating| self.connections.forget_vip(floating.address));
        }
    }

    /// A VIP comes from an owner that went by these services.
    pub(crate) fn inherit(&mut self, now: Instant, vip: u16, services: Arc<ServiceTable>) {
        if let Some(table) = self.lookup.vip(vip) {
            table.addresses().for_each(|floating| self.connections.inherit(now, floating.address, services.clone()));
        }
    }

    /// Takes over connections: those whose packets will arrive here, or may, as far as can be told by now.
    pub(crate) fn restore_pins(&mut self, now: Instant, token: u64, pins: &[RestoredPin]) {
        let mut taken = PinSet::default();
        for (place, pin) in pins.iter().enumerate() {
            if self.home_of(pin.vip, &pin.tuple, &Ends::of_connection(&pin.tuple)).is_some() {
                continue;
            }
            match self.connections.restore(now, &pin.tuple, pin.origin, pin.target) {
                Ok(()) => taken.insert(place),
                Err(_) => self.counters.count(Tally::PinsNotRestored),
            }
        }
        self.tell(Event::PinsRestored { token, taken });
    }
}
