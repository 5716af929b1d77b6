//! Memory that is far from its writer: every write takes its time, and so does the look at the grant.
//!
//! What the store promises has to hold for whatever part of the writes has landed when something happens.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use vipsec_store::{Answer, Geometry, LocalMemory, OneSided, StoreError, WriteId};

use crate::writer::{self, Lie, SharedKnown};

/// What is on its way to a region.
#[derive(Debug)]
enum Op {
    Write { at: usize, words: Vec<u64> },
    Ask(WriteId),
}

/// The way to a region, shared by the writer and the world that lets time pass.
#[derive(Debug)]
pub(crate) struct Flight {
    region: LocalMemory,
    ops: VecDeque<Op>,
    /// Something lands sooner or later.
    under_way: bool,
    answer: Option<Answer>,
    /// Nothing lands any more.
    cut: bool,
    /// Writes land at once, as in shared memory.
    near: bool,
    /// Planted: the grant that the writer had at first is all that it ever sees.
    fence_leaks: bool,
    first_grant: Option<u64>,
    /// What the owner knows of its writes.
    pub(crate) known: SharedKnown,
}

/// See [`Flight`].
pub(crate) type SharedFlight = Arc<Mutex<Flight>>;

/// Runs `f` on the flight behind a handle.
pub(crate) fn with<T>(flight: &SharedFlight, f: impl FnOnce(&mut Flight) -> T) -> T {
    f(&mut flight.lock().unwrap_or_else(PoisonError::into_inner))
}

impl Flight {
    pub(crate) fn new(region: LocalMemory, manner: StoreManner) -> SharedFlight {
        Arc::new(Mutex::new(Self {
            region,
            ops: VecDeque::new(),
            under_way: false,
            answer: None,
            cut: false,
            near: manner.near,
            fence_leaks: manner.fence_leaks,
            first_grant: None,
            known: SharedKnown::default(),
        }))
    }

    /// The newest write that is acknowledged by now, be the answer still on its way.
    pub(crate) fn acknowledged(&self) -> WriteId {
        let under_way =
            self.answer.as_ref().filter(|answer| self.first_grant.is_none_or(|first| answer.grant == first));
        let known = writer::with(&self.known, |known| known.acknowledged());
        under_way.map_or(known, |answer| answer.upto.max(known))
    }

    /// What the region has to say to the newest question.
    fn answer_of_region(&mut self) -> Result<Option<Answer>, StoreError> {
        let Some(answer) = self.region.answered()? else { return Ok(None) };
        let first = *self.first_grant.get_or_insert(answer.grant);
        Ok(Some(if self.fence_leaks { Answer { grant: first, ..answer } } else { answer }))
    }

    /// True if something sets out and nothing was under way.
    pub(crate) fn depart(&mut self) -> bool {
        !self.ops.is_empty() && !std::mem::replace(&mut self.under_way, true)
    }

    /// Does anything follow what has just landed?
    pub(crate) fn is_busy(&mut self) -> bool {
        self.under_way = !self.ops.is_empty();
        self.under_way
    }

    /// The next thing arrives. True if it was a question: its answer waits for the writer.
    pub(crate) fn land(&mut self) -> bool {
        match self.ops.pop_front() {
            Some(Op::Write { at, words }) => {
                // The geometry was the writer's own: nothing lies beyond the region.
                let _ = self.region.write(at, &words);
                false
            }
            Some(Op::Ask(upto)) => {
                let _ = self.region.ask(upto);
                if let Ok(Some(answer)) = self.answer_of_region() {
                    self.answer = Some(answer);
                }
                true
            }
            None => false,
        }
    }

    /// The writer is gone, or the way: the last of what is on its way doesn't arrive.
    pub(crate) fn cut(&mut self, arrive: usize) {
        self.cut = true;
        self.ops.truncate(arrive);
    }
}

/// The writer's end.
pub(crate) struct FarMemory {
    geometry: Geometry,
    flight: SharedFlight,
}

impl FarMemory {
    pub(crate) fn new(flight: SharedFlight) -> Self {
        let geometry = with(&flight, |flight| flight.region.geometry().clone());
        Self { geometry, flight }
    }
}

impl OneSided for FarMemory {
    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    fn write(&mut self, at: usize, words: &[u64]) -> Result<(), StoreError> {
        with(&self.flight, |flight| {
            if flight.cut {
                return Err(StoreError::LinkLost);
            }
            if flight.near {
                return flight.region.write(at, words);
            }
            flight.ops.push_back(Op::Write { at, words: words.to_vec() });
            Ok(())
        })
    }

    /// Everything lands in its order.
    fn order(&mut self) -> Result<(), StoreError> {
        if with(&self.flight, |flight| flight.cut) { Err(StoreError::LinkLost) } else { Ok(()) }
    }

    fn ask(&mut self, upto: WriteId) -> Result<(), StoreError> {
        with(&self.flight, |flight| {
            if flight.near {
                return flight.region.ask(upto);
            }
            flight.ops.push_back(Op::Ask(upto));
            Ok(())
        })
    }

    fn answered(&mut self) -> Result<Option<Answer>, StoreError> {
        with(&self.flight, |flight| if flight.near { flight.answer_of_region() } else { Ok(flight.answer.take()) })
    }
}

/// How writes into a peer's region behave.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StoreManner {
    /// They land at once.
    pub(crate) near: bool,
    /// Otherwise: the longest time that one takes, in microseconds.
    pub(crate) slowest: u64,
    /// Planted: a fence keeps nobody out.
    pub(crate) fence_leaks: bool,
    /// Planted.
    pub(crate) lies: Option<Lie>,
}
