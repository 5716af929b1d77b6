//! The last stage: Ethernet header, neighbour, transmit queue.

use std::time::Instant;

use vipsec_wire::buffer::{BufferPool, PacketBuf};
use vipsec_wire::ethernet::{EtherType, HEADER_LEN, Header};

use crate::drops::DropReason;
use crate::route::NextHop;
use crate::worker::{Verdict, Worker};

impl<P: BufferPool> Worker<P> {
    /// Sends an IPv4 packet of a VIP to its next hop, once that is resolved.
    pub(super) fn send_to(&mut self, now: Instant, vip: u16, next_hop: NextHop, mut packet: P::Buf) -> Verdict {
        let NextHop { port, address } = next_hop;
        let source = self.lookup.source_mac(vip, port).ok_or(DropReason::UnknownPort)?;
        let neighbour = self.neighbours.resolved(port, address);
        packet.prepend(HEADER_LEN)?;
        // The cache fills in what is not known yet.
        let destination = neighbour.unwrap_or_default();
        Header { destination, source, ethertype: EtherType::IPV4 }.emit(packet.data_mut())?;
        match neighbour {
            Some(_) => self.transmit(port, packet),
            None if address.is_ipv6() => Err(DropReason::OtherFamily),
            None => {
                // An older packet may have made room for this one.
                let verdict = self.neighbours.wait(now, port, address, packet);
                self.count(verdict);
                Ok(())
            }
        }
    }
}
