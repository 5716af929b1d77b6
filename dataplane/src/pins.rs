//! What a worker has on its way to the store of its connections' records, and the packets that wait for that (rule R6).

use std::time::Instant;

use arrayvec::ArrayVec;
use vipsec_distribute::service::Origin;

use crate::api::{PinBatch, WorkerId};
use crate::flow::Flow;
use crate::waiting::{Waiting, WaitingQueue};

/// Batches of a worker. All that a store's round trip can have under way: a thousand connections.
const BATCHES: usize = 32;

/// A packet to a target whose connection's record isn't acknowledged.
#[derive(Debug)]
pub(crate) struct Unpinned<B> {
    pub(crate) packet: B,
    pub(crate) flow: Flow,
    pub(crate) vip: u16,
    pub(crate) origin: Origin,
    pub(crate) was_fragmented: bool,
    pub(crate) since: Instant,
}

impl<B> Waiting for Unpinned<B> {
    fn since(&self) -> Instant {
        self.since
    }
}

/// The records of a worker's connections, as far as they are under way.
#[derive(Debug)]
pub(crate) struct Pins<B> {
    /// Batches that carry nothing.
    #[expect(clippy::vec_box, reason = "each travels to the control core and back in its box")]
    idle: Vec<Box<PinBatch>>,
    pub(crate) waiting: WaitingQueue<Unpinned<B>>,
    /// The announced services whose confirmation is owed.
    pub(crate) announced: Option<u64>,
}

impl<B> Pins<B> {
    /// `has_batches`: there is somebody to tell.
    pub(crate) fn new(packets_max: usize, has_batches: bool) -> Self {
        let empty = || Box::new(PinBatch { worker: WorkerId::FIRST, vip: 0, tables: 0, pins: ArrayVec::new() });
        let count = if has_batches { BATCHES } else { 0 };
        Self {
            idle: std::iter::repeat_with(empty).take(count).collect(),
            waiting: WaitingQueue::new(if has_batches { packets_max } else { 0 }),
            announced: None,
        }
    }

    /// A batch to fill.
    pub(crate) fn take(&mut self) -> Option<Box<PinBatch>> {
        self.idle.pop()
    }

    /// A batch came back.
    pub(crate) fn give(&mut self, mut batch: Box<PinBatch>) {
        batch.pins.clear();
        if self.idle.len() < BATCHES {
            self.idle.push(batch);
        }
    }
}
