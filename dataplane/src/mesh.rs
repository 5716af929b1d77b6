//! The rings between workers: one from each to each other, bounded, without locks.

use std::time::Instant;

use rtrb::{Consumer, Producer, RingBuffer};
use vipsec_wire::buffer::{BURST_MAX, BufferPool};

use crate::api::WorkerId;
use crate::drops::DropReason;
use crate::handoff::Handoff;
use crate::worker::Worker;

/// One worker's ends of the rings: what it hands over, what it is handed.
#[derive(Debug)]
pub struct Mesh<B> {
    to: Vec<(WorkerId, Producer<Handoff<B>>)>,
    from: Vec<Consumer<Handoff<B>>>,
}

impl<B> Mesh<B> {
    /// No other worker.
    pub const fn none() -> Self {
        Self { to: Vec::new(), from: Vec::new() }
    }

    /// The ends of each of so many workers, in the order of their numbers; each ring has room for `handoffs_max`.
    pub fn between(workers: usize, handoffs_max: usize) -> Vec<Self> {
        let mut meshes: Vec<Self> = (0..workers).map(|_| Self::none()).collect();
        for from in 0..workers {
            for to in (0..workers).filter(|to| *to != from) {
                let (producer, consumer) = RingBuffer::new(handoffs_max);
                if let Some(mesh) = meshes.get_mut(from) {
                    mesh.to.push((WorkerId(to as u8), producer));
                }
                if let Some(mesh) = meshes.get_mut(to) {
                    mesh.from.push(consumer);
                }
            }
        }
        meshes
    }

    /// Gives the worker what the rings to it hold now. Returns whether that was anything.
    pub fn take<P>(&mut self, worker: &mut Worker<P>, clock: &mut impl FnMut() -> Instant) -> bool
    where
        P: BufferPool<Buf = B>,
    {
        let mut any = false;
        for ring in &mut self.from {
            let mut waiting = ring.slots();
            while waiting > 0 {
                let count = waiting.min(BURST_MAX);
                let Ok(chunk) = ring.read_chunk(count) else { break };
                worker.handle_handoffs(clock(), chunk);
                waiting -= count;
                any = true;
            }
        }
        any
    }

    /// Does every ring take a burst?
    pub(crate) fn has_room(&self) -> bool {
        self.to.iter().all(|(_, ring)| ring.slots() >= BURST_MAX)
    }

    /// Puts what the worker has for others into the rings. What finds no room is lost: nothing stays behind that was judged before the
    /// next command.
    pub fn put<P>(&mut self, worker: &mut Worker<P>)
    where
        P: BufferPool<Buf = B>,
    {
        for (to, ring) in &mut self.to {
            let Some(outgoing) = worker.outgoing(*to).filter(|outgoing| !outgoing.is_empty()) else { continue };
            let count = outgoing.len().min(ring.slots());
            if let Ok(chunk) = ring.write_chunk_uninit(count) {
                chunk.fill_from_iter(outgoing.drain(..count));
            }
            let lost = outgoing.drain(..).filter(Handoff::is_packet).count();
            worker.counters().count_drops(DropReason::HandoffQueueFull, lost);
        }
    }
}
