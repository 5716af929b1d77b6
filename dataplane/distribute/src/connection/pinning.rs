//! Pins: the connections that a successor couldn't compute from the services in force, and how it comes to know of them (rule R6).
//!
//! While copies are told, each change of a pin becomes an event. The queue of events is bounded; what finds it full is owed, and
//! made up for when the connection has its next packet or the sweep comes by. An entry whose pin was reported is only forgotten when
//! there is room to release it. So nothing is lost, and nothing waits.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use thiserror::Error;

use super::ConnectionTable;
use super::entry::{Entry, Flags};
use super::pins::{PinEvent, PinProgress};
use super::state::ConnectionState;
use crate::service::{Origin, ServiceTable, TargetState};
use crate::tuple::FiveTuple;

/// Whether copies are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Reporting {
    /// There is no copy.
    #[default]
    Off,
    /// Every change is reported.
    On,
    /// And what was reported before is reported again while the check goes through the table: a copy joins.
    Again,
    /// The same, and what was acknowledged before counts for nothing.
    Anew,
}

/// The pins of all entries together.
#[derive(Debug, Default)]
pub(super) struct Pins {
    reporting: Reporting,
    /// A copy counts: what isn't acknowledged waits.
    hold: bool,
    pinned: usize,
    acknowledged: usize,
    owed: usize,
}

impl Pins {
    fn is_reporting(&self) -> bool {
        self.reporting != Reporting::Off
    }

    pub(super) const fn hold_unacknowledged(&self) -> bool {
        self.hold
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

    /// A copy joins: reports every pin there is in the course of a round of the sweep, and from now on every change.
    pub fn report_pins(&mut self) {
        self.pins.reporting = match self.pins.reporting {
            Reporting::Off | Reporting::Anew => Reporting::Anew,
            Reporting::On | Reporting::Again => Reporting::Again,
        };
        self.check_pins();
    }

    /// A copy counts: from now on pinned connections wait until they are acknowledged ([`Pin::Awaited`](super::Pin::Awaited)).
    pub fn hold_unacknowledged(&mut self) {
        self.pins.hold = self.pins.is_reporting();
    }

    /// No copy counts or joins any more: nothing is reported and nothing waits.
    pub fn stop_reporting_pins(&mut self) {
        self.pins.reporting = Reporting::Off;
        self.pins.hold = false;
        self.journal.clear();
    }

    /// The next thing that the store has to be told.
    pub fn poll_pin(&mut self) -> Option<PinEvent> {
        self.journal.pop()
    }

    /// Every counted copy knows that this connection is on that target.
    pub fn acknowledge(&mut self, tuple: &FiveTuple, target: IpAddr) {
        let Some(place) = self.find(&self.look_up(tuple)) else { return };
        let Some(entry) = self.places.get(place) else { return };
        let is_that = self.targets.get(entry.target).is_some_and(|slot| slot.address == target);
        if is_that && entry.flags.has(Flags::PINNED) && entry.flags.has(Flags::TOLD) && !entry.flags.has(Flags::OWED) {
            self.set_flags(place, |flags| flags.with(Flags::ACKNOWLEDGED));
        }
    }

    /// How far the reporting is.
    pub fn pin_progress(&self) -> PinProgress {
        PinProgress {
            pinned: self.pins.pinned,
            unacknowledged: self.pins.pinned - self.pins.acknowledged,
            owed: self.pins.owed,
            unchecked: self.sweep.unchecked,
        }
    }

    /// Takes over a connection that the VIP's last owner has pinned.
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
        if let Some(place) = self.find(&prepared)
            && !self.forget(place)
        {
            return Err(NotRestored::Full);
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
        self.check_pin(place);
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
        if self.sweep.unchecked == 0 {
            self.end_check();
        }
    }

    pub(super) fn end_check(&mut self) {
        if self.pins.is_reporting() {
            self.pins.reporting = Reporting::On;
        }
    }

    /// Brings an entry's pin up to date.
    pub(super) fn check_pin(&mut self, place: u32) {
        let Some((tuple, target, flags)) = self.subject(place) else { return };
        let is_pinned = flags.has(Flags::PINNED);
        match (self.needs_pin(&tuple, target), self.pins.reporting) {
            (true, _) if !is_pinned => self.set_pin(place, Need::Pinned),
            (false, _) if is_pinned => self.set_pin(place, Need::Computed),
            (true, Reporting::Again) => {
                self.set_flags(place, |flags| flags.with(Flags::OWED));
                self.report_pin(place);
            }
            (true, Reporting::Anew) => self.set_pin(place, Need::Pinned),
            _ => {}
        }
    }

    /// The entry has another target.
    pub(super) fn renew_pin(&mut self, place: u32) {
        let Some((tuple, target, flags)) = self.subject(place) else { return };
        match self.needs_pin(&tuple, target) {
            true => self.set_pin(place, Need::Pinned),
            false if flags.has(Flags::PINNED) => self.set_pin(place, Need::Computed),
            false => {}
        }
    }

    /// Says what a successor needs, as something new.
    pub(super) fn set_pin(&mut self, place: u32, need: Need) {
        let reporting = self.pins.is_reporting();
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
        if !self.pins.is_reporting() {
            self.set_flags(place, |flags| flags.without(Flags::OWED));
        } else if flags.has(Flags::PINNED) {
            if self.journal.push(PinEvent::Pinned { tuple, target }).is_ok() {
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
            entry.flags.has(Flags::TOLD) && self.pins.is_reporting() && self.vips.is_listed(entry.key.vip());
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
