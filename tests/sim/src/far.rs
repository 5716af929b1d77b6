//! Memory that is far from its writer: every write takes its time, and so does the look at the grant.
//!
//! What the store promises has to hold for whatever part of the writes has landed when something happens.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use vipsec_store::{
    Answer, CounterEntry, Geometry, LocalMemory, OneSided, RecordKey, StoreError, StoreWriter, Usage, WriteId,
};
use vipsec_wire::iv::Epoch;

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
}

/// See [`Flight`].
pub(crate) type SharedFlight = Arc<Mutex<Flight>>;

/// Runs `f` on the flight behind a handle.
pub(crate) fn with<T>(flight: &SharedFlight, f: impl FnOnce(&mut Flight) -> T) -> T {
    f(&mut flight.lock().unwrap_or_else(PoisonError::into_inner))
}

impl Flight {
    pub(crate) fn new(region: LocalMemory, near: bool) -> SharedFlight {
        Arc::new(Mutex::new(Self { region, ops: VecDeque::new(), under_way: false, answer: None, cut: false, near }))
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
                if let Ok(Some(answer)) = self.region.answered() {
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
        with(&self.flight, |flight| if flight.near { flight.region.answered() } else { Ok(flight.answer.take()) })
    }
}

/// What an owner is told instead of the truth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lie {
    /// What is written counts as acknowledged before it has landed.
    Early,
    /// Writes are acknowledged though the grant is gone.
    NeverRefused,
    /// Of records that are written together the last one is written first.
    CommitFirst,
}

/// How writes into a peer's region behave.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StoreManner {
    /// They land at once.
    pub(crate) near: bool,
    /// Otherwise: the longest time that one takes, in microseconds.
    pub(crate) slowest: u64,
    /// Planted.
    pub(crate) lies: Option<Lie>,
}

/// A planted fault: a writer that doesn't tell its owner the truth.
pub(crate) struct LyingWriter<W> {
    inner: W,
    lie: Lie,
    written: WriteId,
    /// Records that are still to be written, the last one first.
    held_back: Vec<(RecordKey, Epoch, Vec<u8>)>,
}

impl<W: StoreWriter> LyingWriter<W> {
    pub(crate) fn new(inner: W, lie: Lie) -> Self {
        Self { inner, lie, written: WriteId::default(), held_back: Vec::new() }
    }

    fn write_held_back(&mut self) -> Result<(), StoreError> {
        while let Some((key, epoch, bytes)) = self.held_back.pop() {
            self.written = self.inner.put(key, epoch, &bytes)?;
            // What is published together is seen together, in whatever order it was written.
            self.inner.publish()?;
        }
        Ok(())
    }

    fn tell<T>(&mut self, truth: Result<T, StoreError>, instead: T) -> Result<T, StoreError> {
        match truth {
            Err(StoreError::Refused) if self.lie == Lie::NeverRefused => Ok(instead),
            truth => truth,
        }
    }
}

impl<W: StoreWriter> StoreWriter for LyingWriter<W> {
    fn put(&mut self, key: RecordKey, epoch: Epoch, bytes: &[u8]) -> Result<WriteId, StoreError> {
        if self.lie == Lie::CommitFirst {
            self.held_back.push((key, epoch, bytes.to_vec()));
            return Ok(WriteId(self.written.0 + self.held_back.len() as u64));
        }
        let truth = self.inner.put(key, epoch, bytes);
        self.written = self.tell(truth, self.written)?;
        Ok(self.written)
    }

    fn remove(&mut self, key: RecordKey) -> Result<Option<WriteId>, StoreError> {
        self.write_held_back()?;
        let truth = self.inner.remove(key);
        let removed = self.tell(truth, None)?;
        self.written = removed.unwrap_or(self.written);
        Ok(removed)
    }

    fn put_counters(&mut self, block: u32, entries: &[CounterEntry]) -> Result<WriteId, StoreError> {
        self.write_held_back()?;
        let truth = self.inner.put_counters(block, entries);
        self.written = self.tell(truth, self.written)?;
        Ok(self.written)
    }

    fn publish(&mut self) -> Result<(), StoreError> {
        self.write_held_back()?;
        let truth = self.inner.publish();
        self.tell(truth, ())
    }

    fn poll_acknowledged(&mut self) -> Result<WriteId, StoreError> {
        self.write_held_back()?;
        let truth = self.inner.poll_acknowledged();
        let acknowledged = self.tell(truth, self.written)?;
        Ok(if self.lie == Lie::Early { self.written } else { acknowledged })
    }

    fn free_slots(&self, bytes: usize) -> u32 {
        self.inner.free_slots(bytes)
    }

    fn usage(&self) -> Usage {
        self.inner.usage()
    }
}
