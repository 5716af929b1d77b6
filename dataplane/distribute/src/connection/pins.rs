//! What a successor has to be told: connections that it couldn't compute.

use std::collections::VecDeque;
use std::net::IpAddr;

use ahash::RandomState;

use crate::service::Origin;
use crate::tuple::FiveTuple;

/// A connection's record in the store is to change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PinEvent {
    /// To be written, in place of an earlier one: the connection is on that target.
    Pinned {
        /// Which connection.
        tuple: FiveTuple,
        /// How it comes in.
        origin: Origin,
        /// Its target.
        target: IpAddr,
        /// There may be an earlier record, that names another target.
        replaces: bool,
        /// Its packets don't wait: only services that are announced need the record.
        goes_on: bool,
    },
    /// To be cleared: the connection is over, or a successor can compute its target again.
    Released {
        /// Which connection.
        tuple: FiveTuple,
    },
}

impl PinEvent {
    /// Which connection it is about.
    pub const fn tuple(&self) -> &FiveTuple {
        let (Self::Pinned { tuple, .. } | Self::Released { tuple }) = self;
        tuple
    }

    /// Until it is acknowledged, may the store hold something else of the connection than is so?
    const fn ends_a_record(&self) -> bool {
        matches!(self, Self::Released { .. } | Self::Pinned { replaces: true, .. })
    }

    pub(super) const fn goes_on(&self) -> bool {
        matches!(self, Self::Pinned { goes_on: true, .. })
    }
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
    /// Places of the table that are still to be looked at since the services changed.
    pub unchecked: usize,
    /// Records that only announced services need, of connections that go on meanwhile.
    pub ahead: usize,
}

impl PinProgress {
    /// May the services that were announced be put in force? Every copy knows of the connections that these would move, but of those
    /// that wait.
    pub const fn is_complete(&self) -> bool {
        self.unchecked == 0 && self.ahead == 0
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
    stale: Stale,
    /// Connections that go on while they are told of.
    ahead: usize,
}

impl Journal {
    pub(super) fn new(events_max: usize, hasher: RandomState) -> Self {
        Self { events: VecDeque::with_capacity(events_max), events_max, stale: Stale::new(hasher), ahead: 0 }
    }

    pub(super) fn has_room(&self) -> bool {
        self.events.len() < self.events_max
    }

    pub(super) fn push(&mut self, event: PinEvent) -> Result<(), Full> {
        if !self.has_room() {
            return Err(Full);
        }
        if event.ends_a_record() {
            self.stale.enter(event.tuple());
        }
        self.ahead += usize::from(event.goes_on());
        self.events.push_back(event);
        Ok(())
    }

    pub(super) fn front(&self) -> Option<&PinEvent> {
        self.events.front()
    }

    pub(super) fn pop(&mut self) -> Option<PinEvent> {
        self.events.pop_front()
    }

    /// An event that was taken is settled: the store knows, or nobody asks any more.
    pub(super) fn settle(&mut self, event: &PinEvent) {
        if event.ends_a_record() {
            self.stale.leave(event.tuple());
        }
        self.ahead = self.ahead.saturating_sub(usize::from(event.goes_on()));
    }

    /// Connections that go on while they are told of.
    pub(super) const fn ahead(&self) -> usize {
        self.ahead
    }

    /// May the store still hold what a connection was before?
    pub(super) fn is_stale(&self, tuple: &FiveTuple) -> bool {
        self.stale.may_have(tuple)
    }

    /// Forgets what is about a VIP.
    pub(super) fn forget_vip(&mut self, vip: IpAddr) {
        for _ in 0..self.events.len() {
            let Some(event) = self.events.pop_front() else { return };
            match event.tuple().vip == vip {
                true => self.settle(&event),
                false => self.events.push_back(event),
            }
        }
    }
}

/// Connections of which the store may hold an outdated record, until what ends it is acknowledged.
///
/// Counted by hash, so that memory and time are bounded. Two that share a count cost one of them a moment's wait.
#[derive(Debug)]
struct Stale {
    counts: Box<[u16]>,
    /// All counts together.
    sum: usize,
    hasher: RandomState,
}

/// Counts; a power of two.
const COUNTS: usize = 8192;

impl Stale {
    fn new(hasher: RandomState) -> Self {
        Self { counts: vec![0; COUNTS].into_boxed_slice(), sum: 0, hasher }
    }

    fn place(&self, tuple: &FiveTuple) -> usize {
        self.hasher.hash_one(tuple) as usize % COUNTS
    }

    fn enter(&mut self, tuple: &FiveTuple) {
        let place = self.place(tuple);
        if let Some(count) = self.counts.get_mut(place) {
            *count = count.saturating_add(1);
            self.sum += 1;
        }
    }

    fn leave(&mut self, tuple: &FiveTuple) {
        let place = self.place(tuple);
        if let Some(count) = self.counts.get_mut(place) {
            *count = count.saturating_sub(1);
            self.sum = self.sum.saturating_sub(1);
        }
    }

    fn may_have(&self, tuple: &FiveTuple) -> bool {
        self.sum > 0 && self.counts.get(self.place(tuple)).is_some_and(|count| *count > 0)
    }
}
