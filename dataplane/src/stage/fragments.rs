//! Fragments: put together when they arrive, made when a packet is too big for the way ahead.

use std::time::Instant;

use vipsec_wire::buffer::BufferPool;
use vipsec_wire::fragment::Fragments;

use crate::api::{PortId, WorkerId};
use crate::drops::{DropReason, Tally};
use crate::path::Path;
use crate::reassembly::{Origin, Progress};
use crate::worker::{Verdict, Worker};

/// Fragments that came in by a port.
pub(super) fn of_port(port: PortId) -> Origin {
    Origin(u64::from(port.0))
}

/// Fragments that came out of a tunnel: those of different remote peers never meet (RFC 4301 §7.4 leaves how to the implementation).
pub(super) fn of_tunnel(spi: u32) -> Origin {
    Origin(1 << 32 | u64::from(spi))
}

impl<P: BufferPool> Worker<P> {
    /// The other worker that puts a fragment's datagram together, if there is one.
    pub(super) fn home_of_fragment(&self, port: PortId, packet: &[u8]) -> Option<WorkerId> {
        if self.mates.is_alone() {
            return None;
        }
        self.unless_here(self.mates.pick(self.reassembler.hash(of_port(port), packet)?))
    }

    /// Takes a fragment. Returns the datagram once it is whole.
    #[cold]
    pub(super) fn reassemble(
        &mut self,
        now: Instant,
        origin: Origin,
        packet: &[u8],
    ) -> Result<Option<P::Buf>, DropReason> {
        self.counters.count(Tally::Fragments);
        let pool = self.large_pool.as_mut().unwrap_or(&mut self.pool);
        match self.reassembler.handle_fragment(now, origin, packet, pool) {
            Ok(Progress::Whole { packet, .. }) => {
                self.counters.count(Tally::Reassembled);
                Ok(Some(packet))
            }
            Ok(Progress::Held) => Ok(None),
            Ok(Progress::HeldInstead(dropped)) => {
                self.counters.count_drops(dropped.reason.into(), dropped.fragments);
                Ok(None)
            }
            Err(dropped) => {
                // The caller counts the packet at hand.
                self.counters.count_drops(dropped.reason.into(), dropped.fragments.saturating_sub(1));
                Err(dropped.reason.into())
            }
        }
    }

    /// Forgets datagrams whose fragments didn't come in time.
    pub(crate) fn expire_fragments(&mut self, now: Instant) {
        while let Some(dropped) = self.reassembler.handle_timeout(now) {
            self.counters.count_drops(dropped.reason.into(), dropped.fragments);
        }
    }

    /// Sends an IP packet along a path, in fragments if it has to be.
    #[cold]
    pub(super) fn send_in_fragments(&mut self, now: Instant, path: &Path, packet: &[u8]) -> Verdict {
        let identification = self.next_identification();
        let mut fragments = Fragments::new(packet, usize::from(path.mtu), identification)?;
        while let Some(piece) = fragments.next(&mut self.pool) {
            self.send_along(now, path, piece?)?;
        }
        self.counters.count(Tally::Fragmented);
        Ok(())
    }
}
