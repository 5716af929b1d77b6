//! Pins: the connections that a successor couldn't compute from the services in force, and how it comes to know of them (rule R6).
//!
//! Where a successor may come, each change of a pin becomes an event. The queue of events is bounded; what finds it full is owed, and
//! made up for when the connection has its next packet or the sweep comes by. An entry whose pin was reported is only forgotten when
//! there is room to release it. So nothing is lost, and nothing here waits.
//!
//! A packet waits ([`Pin::Awaited`](super::Pin::Awaited)) as long as a successor would send it elsewhere: the services in force choose
//! another target and the record isn't acknowledged; or the store may still hold an outdated record of such a connection. One that is
//! pinned for the sake of services that are only announced goes on: they wait. Only once all entries were checked the rest waits as well,
//! so that the last acknowledgement isn't put off by new connections.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use thiserror::Error;

use super::entry::{Entry, Flags};
use super::pins::{PinEvent, PinProgress};
use super::state::ConnectionState;
use super::{ConnectionTable, Pin};
use crate::service::{Origin, ServiceTable, TargetIndex, TargetState};
use crate::tuple::FiveTuple;

/// The pins of all entries together.
#[derive(Debug, Default)]
pub(super) struct Pins {
    /// A successor may come: changes are reported, and what isn't acknowledged waits.
    is_reporting: bool,
    pinned: usize,
    acknowledged: usize,
    owed: usize,
}

impl Pins {
    pub(super) const fn is_reporting(&self) -> bool {
        self.is_reporting
    }
}

/// Does a successor have to be told of a connection?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// It computes the target.
    Computed,
    /// It has to be told.
    Pinned,
}

/// Would a successor without the entry send this connection elsewhere? One whose target is down moves anyway.
pub(super) fn needs_pin(services: &ServiceTable, tuple: &FiveTuple, target: IpAddr) -> bool {
    !matches!(services.state(target), None | Some(TargetState::Down)) && !services.reproduces(tuple, target)
}

/// Why a connection could not be restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NotRestored {
    /// Its VIP has no services.
    #[error("the VIP has no services")]
    UnknownVip,
    /// Its target is not among the services' targets.
    #[error("the target is unknown")]
    UnknownTarget,
    /// Every place is taken by a connection that doesn't give way.
    #[error("the connection table is full")]
    Full,
}

impl ConnectionTable {
    /// Says which services will be in force next. From now on a connection is pinned as well if it is those that couldn't reproduce
    /// it; once [`pin_progress`](Self::pin_progress) is complete, they may be put in force (rule R6).
    pub fn announce(&mut self, next: Arc<ServiceTable>) {
        self.next = Some(next);
        self.check_pins();
    }

    /// A successor may come: from now on every change of a pin is reported, and a pinned connection waits until its record is
    /// acknowledged. For a table that is empty.
    pub fn report_pins(&mut self) {
        self.pins.is_reporting = true;
    }

    /// The next thing that the store has to be told.
    pub fn poll_pin(&mut self) -> Option<PinEvent> {
        self.journal.pop()
    }

    /// What [`poll_pin`](Self::poll_pin) would return.
    pub fn next_pin(&self) -> Option<&PinEvent> {
        self.journal.front()
    }

    /// Every counted copy knows of an event; or there is none any more.
    pub fn acknowledge(&mut self, event: &PinEvent) {
        self.journal.settle(event);
        let PinEvent::Pinned { tuple, target, .. } = event else { return };
        let Some(place) = self.find(&self.look_up(tuple)) else { return };
        let Some(entry) = self.places.get(place) else { return };
        let is_that = self.targets.get(entry.target).is_some_and(|slot| slot.address == *target);
        if is_that && entry.flags.has(Flags::PINNED.with(Flags::TOLD)) && !entry.flags.has(Flags::OWED) {
            // If more is under way, this may have been about an earlier connection of the same name: it will be told again.
            let is_certain = !self.journal.is_stale(tuple);
            self.set_flags(place, |flags| flags.with(if is_certain { Flags::ACKNOWLEDGED } else { Flags::OWED }));
            if !is_certain && event.goes_on() {
                self.check_pins();
            }
        }
    }

    /// Nobody will acknowledge an event: its VIP went elsewhere, and [`forget_vip`](Self::forget_vip) was called or will be.
    pub fn abandon(&mut self, event: &PinEvent) {
        self.journal.settle(event);
    }

    /// Where the packets of a connection go that has an entry, and whether they may.
    pub fn standing(&self, tuple: &FiveTuple) -> Option<(TargetIndex, Pin)> {
        let place = self.find(&self.look_up(tuple))?;
        let entry = self.places.get(place)?;
        let target = self.targets.get(entry.target)?.value.index?;
        Some((target, self.pin(tuple, self.targets.get(entry.target)?.address, entry.flags)))
    }

    /// Has the sweep something to do that others wait for? Then it should not take its time.
    pub fn is_pressed(&self) -> bool {
        self.pins.is_reporting && self.journal.has_room() && (self.sweep.unchecked > 0 || self.pins.owed > 0)
    }

    /// How far the reporting is. Where no successor can come there is nothing to wait for.
    pub fn pin_progress(&self) -> PinProgress {
        if !self.pins.is_reporting {
            return PinProgress { pinned: self.pins.pinned, ..PinProgress::default() };
        }
        PinProgress {
            pinned: self.pins.pinned,
            unacknowledged: self.pins.pinned - self.pins.acknowledged,
            owed: self.pins.owed,
            unchecked: self.sweep.unchecked,
            ahead: self.journal.ahead(),
        }
    }

    /// Takes over a connection that the VIP's last owner has pinned: whoever calls knows of its record.
    ///
    /// # Errors
    /// Why it is left out; its packets go where the services say.
    pub fn restore(
        &mut self,
        now: Instant,
        tuple: &FiveTuple,
        origin: Origin,
        target: IpAddr,
    ) -> Result<(), NotRestored> {
        let prepared = self.prepare_one(now, tuple);
        if !prepared.key.is_connection() {
            return Err(NotRestored::UnknownVip);
        }
        self.targets.find(target).ok_or(NotRestored::UnknownTarget)?;
        if let Some(place) = self.find(&prepared) {
            // The record is that of the connection that is restored.
            self.set_flags(place, |flags| flags.without(Flags::TOLD));
            self.forget(place);
        }
        if !self.make_room(self.now.tick) {
            return Err(NotRestored::Full);
        }
        let mut flags = Flags::of_origin(origin).with(Flags::ANSWERED);
        if self.services.plan(tuple).is_ok_and(|(_, plan)| plan.affinity.is_some()) {
            flags = flags.with(Flags::AFFINE);
            self.chooser.keep_affinity(self.now.tick, &self.services, tuple, target);
        }
        let state = ConnectionState::midway(tuple.protocol);
        let entry = Entry::new(prepared.key, self.now, state, flags);
        let place = self.insert(prepared.spot, entry, target).ok_or(NotRestored::Full)?;
        self.set_flags(place, |flags| flags.with(Flags::PINNED));
        if self.pins.is_reporting {
            self.set_flags(place, |flags| flags.with(Flags::TOLD).with(Flags::ACKNOWLEDGED));
        }
        Ok(())
    }

    /// Would a successor send this connection elsewhere, under the services in force or the next ones?
    pub(super) fn needs_pin(&self, tuple: &FiveTuple, target: IpAddr) -> bool {
        let next = self.next.as_deref();
        needs_pin(&self.services, tuple, target) || next.is_some_and(|next| needs_pin(next, tuple, target))
    }

    /// Every entry's pin has to be looked at: the sweep does so from now on.
    pub(super) fn check_pins(&mut self) {
        self.sweep.unchecked = self.places.touched();
    }

    /// Brings an entry's pin up to date.
    pub(super) fn check_pin(&mut self, place: u32) {
        let Some((tuple, target, flags)) = self.subject(place) else { return };
        match (self.needs_pin(&tuple, target), flags.has(Flags::PINNED)) {
            (true, false) => self.set_pin(place, Need::Pinned),
            // Otherwise it stays pinned without need, until another check.
            (false, true) if !self.has_outdated_record(&tuple, flags) => self.set_pin(place, Need::Computed),
            _ => {}
        }
    }

    /// The entry has another target: whatever the store holds of it is outdated.
    pub(super) fn renew_pin(&mut self, place: u32) {
        let Some((tuple, target, flags)) = self.subject(place) else { return };
        let has_record = flags.has(Flags::TOLD) || self.journal.is_stale(&tuple);
        if has_record || self.needs_pin(&tuple, target) {
            self.set_pin(place, Need::Pinned);
        } else if flags.has(Flags::PINNED) {
            self.set_pin(place, Need::Computed);
        }
    }

    /// What a packet has to wait for, of a connection whose record isn't acknowledged.
    #[cold]
    pub(super) fn pin_at(&mut self, place: u32) -> Pin {
        // There may be room by now.
        self.report_pin(place);
        self.subject(place).map_or(Pin::Computed, |(tuple, target, flags)| self.pin(&tuple, target, flags))
    }

    fn pin(&self, tuple: &FiveTuple, target: IpAddr, flags: Flags) -> Pin {
        if !flags.has(Flags::PINNED) {
            return Pin::Computed;
        }
        if flags.has(Flags::ACKNOWLEDGED) || !self.pins.is_reporting {
            return Pin::Settled;
        }
        let goes_on = !flags.has(Flags::OWED) && !self.journal.is_stale(tuple) && self.goes_on(tuple, target);
        if goes_on { Pin::Computed } else { Pin::Awaited }
    }

    /// Is a record needed only by services that are announced, and will it be waited for?
    fn goes_on(&self, tuple: &FiveTuple, target: IpAddr) -> bool {
        let needed_later = self.next.as_deref().is_some_and(|next| needs_pin(next, tuple, target));
        !needs_pin(&self.services, tuple, target) && (self.sweep.unchecked > 0 || !needed_later)
    }

    /// May the store hold another record of a pinned connection than it should?
    fn has_outdated_record(&self, tuple: &FiveTuple, flags: Flags) -> bool {
        !flags.has(Flags::ACKNOWLEDGED) && (flags.has(Flags::OWED.with(Flags::TOLD)) || self.journal.is_stale(tuple))
    }

    /// Says what a successor needs, as something new.
    pub(super) fn set_pin(&mut self, place: u32, need: Need) {
        let reporting = self.pins.is_reporting;
        self.set_flags(place, |flags| {
            let flags = flags.without(Flags::PINNED).without(Flags::ACKNOWLEDGED).without(Flags::OWED);
            match need {
                Need::Pinned if reporting => flags.with(Flags::PINNED).with(Flags::OWED),
                Need::Pinned => flags.with(Flags::PINNED),
                Need::Computed if reporting && flags.has(Flags::TOLD) => flags.with(Flags::OWED),
                Need::Computed => flags,
            }
        });
        self.report_pin(place);
    }

    /// Reports what is owed of an entry, if there is room.
    pub(super) fn report_pin(&mut self, place: u32) {
        let Some((tuple, target, flags)) = self.subject(place) else { return };
        if !flags.has(Flags::OWED) {
            return;
        }
        if !self.pins.is_reporting {
            self.set_flags(place, |flags| flags.without(Flags::OWED));
        } else if flags.has(Flags::PINNED) {
            let (origin, replaces) = (flags.origin(), flags.has(Flags::TOLD));
            let goes_on = self.next.is_some() && self.goes_on(&tuple, target);
            if self.journal.push(PinEvent::Pinned { tuple, origin, target, replaces, goes_on }).is_ok() {
                self.set_flags(place, |flags| flags.without(Flags::OWED).with(Flags::TOLD));
            }
        } else if self.journal.push(PinEvent::Released { tuple }).is_ok() {
            self.set_flags(place, |flags| flags.without(Flags::OWED).without(Flags::TOLD));
        }
    }

    /// An entry is about to go: releases its pin. Returns whether it may go.
    pub(super) fn release_pin(&mut self, place: u32) -> bool {
        let Some(entry) = self.places.get(place) else { return true };
        let owes_release =
            entry.flags.has(Flags::TOLD) && self.pins.is_reporting && self.vips.is_listed(entry.key.vip());
        if owes_release
            && let Some(tuple) = self.tuple(&entry.key)
            && self.journal.push(PinEvent::Released { tuple }).is_err()
        {
            return false;
        }
        self.set_flags(place, |flags| {
            flags.without(Flags::PINNED).without(Flags::ACKNOWLEDGED).without(Flags::TOLD).without(Flags::OWED)
        });
        true
    }

    /// Connection, target and flags of an entry.
    fn subject(&self, place: u32) -> Option<(FiveTuple, IpAddr, Flags)> {
        let entry = self.places.get(place)?;
        Some((self.tuple(&entry.key)?, self.targets.get(entry.target)?.address, entry.flags))
    }

    /// Changes an entry's flags and what they sum up to.
    fn set_flags(&mut self, place: u32, change: impl Fn(Flags) -> Flags) {
        let Some(entry) = self.places.get_mut(place) else { return };
        let (before, after) = (entry.flags, change(entry.flags));
        entry.flags = after;
        for (flag, count) in [
            (Flags::PINNED, &mut self.pins.pinned),
            (Flags::ACKNOWLEDGED, &mut self.pins.acknowledged),
            (Flags::OWED, &mut self.pins.owed),
        ] {
            *count = *count + usize::from(after.has(flag)) - usize::from(before.has(flag));
        }
    }
}
