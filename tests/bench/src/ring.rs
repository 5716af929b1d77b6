//! A ring of DPDK's as one way in or out of a worker.

use std::sync::atomic::{AtomicU32, Ordering};

use vipsec_hw::{Eal, Mbuf, Mempool, Port, PortOptions, QueuePair};
use vipsec_wire::buffer::{Burst, PortIo};

use crate::error::BenchError;

/// Packets that a ring holds, a window's at most.
pub(crate) const PACKETS_MAX: usize = 1023;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A ring port: what is transmitted on it is what is received from it.
pub(crate) struct Ring(QueuePair);

impl Ring {
    pub(crate) fn new(eal: &Eal, pool: &Mempool) -> Result<Self, BenchError> {
        let device = format!("net_ring{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let (_port, mut queues) =
            Port::start(eal, &device, pool, &PortOptions::default()).map_err(BenchError::setup)?;
        queues.pop().map(Self).ok_or_else(|| BenchError::setup("a ring without a queue"))
    }

    #[inline]
    pub(crate) fn receive(&mut self, into: &mut Burst<Mbuf>) -> usize {
        self.0.receive(into)
    }

    #[inline]
    pub(crate) fn transmit(&mut self, packets: &mut Burst<Mbuf>) -> usize {
        self.0.transmit(packets)
    }

    /// Puts in as many as it holds.
    pub(crate) fn put_in(&mut self, packets: Vec<Mbuf>) {
        let mut packets = packets.into_iter();
        loop {
            let mut burst: Burst<Mbuf> = packets.by_ref().take(Burst::<Mbuf>::new().capacity()).collect();
            if burst.is_empty() || self.0.transmit(&mut burst) == 0 {
                return;
            }
        }
    }

    /// Takes out all that are in.
    pub(crate) fn take_out(&mut self) -> Vec<Mbuf> {
        let mut packets = Vec::new();
        let mut burst = Burst::new();
        while self.0.receive(&mut burst) > 0 {
            packets.extend(burst.drain(..));
        }
        packets
    }
}
