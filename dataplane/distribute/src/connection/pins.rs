//! What a successor has to be told: connections that it couldn't compute.

use std::collections::VecDeque;
use std::net::IpAddr;

use crate::tuple::FiveTuple;

/// A connection's record in the store is to change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PinEvent {
    /// To be written, in place of an earlier one: the connection is on that target.
    Pinned {
        /// Which connection.
        tuple: FiveTuple,
        /// Its target.
        target: IpAddr,
    },
    /// To be cleared: the connection is over, or a successor can compute its target again.
    Released {
        /// Which connection.
        tuple: FiveTuple,
    },
}

/// How far the reporting of pins is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PinProgress {
    /// Pinned connections.
    pub pinned: usize,
    /// Those among them that are not acknowledged yet.
    pub unacknowledged: usize,
    /// Events that found no room in the queue yet.
    pub owed: usize,
    /// Places of the table that are still to be looked at since the services changed or reporting began.
    pub unchecked: usize,
}

impl PinProgress {
    /// Does every copy that was told know all that it has to?
    pub const fn is_complete(&self) -> bool {
        self.unacknowledged == 0 && self.owed == 0 && self.unchecked == 0
    }
}

/// No room for another event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full;

/// Events on their way to the control core, oldest first.
#[derive(Debug)]
pub(super) struct Journal {
    events: VecDeque<PinEvent>,
    events_max: usize,
}

impl Journal {
    pub(super) fn new(events_max: usize) -> Self {
        Self { events: VecDeque::with_capacity(events_max), events_max }
    }

    pub(super) fn has_room(&self) -> bool {
        self.events.len() < self.events_max
    }

    pub(super) fn push(&mut self, event: PinEvent) -> Result<(), Full> {
        if !self.has_room() {
            return Err(Full);
        }
        self.events.push_back(event);
        Ok(())
    }

    pub(super) fn pop(&mut self) -> Option<PinEvent> {
        self.events.pop_front()
    }

    pub(super) fn clear(&mut self) {
        self.events.clear();
    }

    /// Forgets what is about a VIP.
    pub(super) fn forget_vip(&mut self, vip: IpAddr) {
        self.events.retain(|event| {
            let (PinEvent::Pinned { tuple, .. } | PinEvent::Released { tuple }) = event;
            tuple.vip != vip
        });
    }
}
