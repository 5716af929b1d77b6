//! The rings between workers: one from each to each other, bounded, without locks.

use rtrb::{Consumer, Producer, RingBuffer};

use crate::api::WorkerId;
use crate::handoff::Handoff;

/// One worker's ends of the rings: what it hands over, what it is handed.
#[derive(Debug)]
pub struct Mesh<B> {
    pub(crate) to: Vec<(WorkerId, Producer<Handoff<B>>)>,
    pub(crate) from: Vec<Consumer<Handoff<B>>>,
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
}
