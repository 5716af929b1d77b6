//! What waits to be told to the control core.

use std::collections::VecDeque;

use crate::api::Event;

/// No room for an event that may be lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full;

impl Event {
    /// Must it arrive? Answers, numbers and pins are waited for; each is bounded by a command, an SA or a batch. The rest reports what will
    /// be seen again.
    pub fn is_owed(&self) -> bool {
        match self {
            Self::TablesInForce(_)
            | Self::ChildInstalled(_)
            | Self::ChildRefused(..)
            | Self::Steered { .. }
            | Self::Numbers(_)
            | Self::Pins(_)
            | Self::ServicesPinned(_)
            | Self::PinsRestored { .. }
            | Self::Lifetime { .. }
            | Self::Report { .. } => true,
            Self::Ike(_)
            | Self::PeerMoved { .. }
            | Self::Alive(_)
            | Self::UnknownSpi { .. }
            | Self::Advertisement { .. } => false,
        }
    }
}

#[derive(Debug)]
pub(crate) struct EventQueue {
    queue: VecDeque<Event>,
    events_max: usize,
}

impl EventQueue {
    pub(crate) fn new(events_max: usize) -> Self {
        Self { queue: VecDeque::with_capacity(events_max), events_max }
    }

    /// Is there room for an event that may be lost?
    pub(crate) fn has_room(&self) -> bool {
        self.queue.len() < self.events_max
    }

    pub(crate) fn push(&mut self, event: Event) -> Result<(), Full> {
        if !event.is_owed() && !self.has_room() {
            return Err(Full);
        }
        self.queue.push_back(event);
        Ok(())
    }

    pub(crate) fn pop(&mut self) -> Option<Event> {
        self.queue.pop_front()
    }
}
