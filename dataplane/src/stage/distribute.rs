//! To the target: which one, and how it is reached.

use std::net::IpAddr;
use std::time::Instant;

use vipsec_distribute::connection::Tracking;
use vipsec_wire::buffer::{BufferPool, PacketBuf};
use vipsec_wire::ipv4;

use crate::drops::{DropReason, Tally};
use crate::flow::Flow;
use crate::route::NextHop;
use crate::worker::{Verdict, Worker};

impl<P: BufferPool> Worker<P> {
    /// Hands a packet from a tunnel to the target of its connection.
    pub(super) fn distribute(&mut self, now: Instant, vip: u16, flow: &Flow, packet: P::Buf) -> Verdict {
        let tuple = flow.tuple_from_remote();
        let choice = self.connections.to_target(now, self.lookup.services(), &tuple, &flow.packet_info())?;
        match choice.tracking {
            Tracking::New => self.counters.count(Tally::ConnectionsNew),
            Tracking::Moved => self.counters.count(Tally::ConnectionsMoved),
            Tracking::Stateless => self.counters.count(Tally::ConnectionsStateless),
            Tracking::Known => {}
        }
        self.deliver(now, vip, choice.target, packet)
    }

    /// Sends a packet as it is, but for its TTL, to a target's MAC address: the target has the VIP itself.
    pub(super) fn deliver(&mut self, now: Instant, vip: u16, target: IpAddr, mut packet: P::Buf) -> Verdict {
        // RFC 4301 §5.1.2.1 (2): decremented "by the decapsulator if it forwards the packet".
        ipv4::decrement_ttl(packet.data_mut()).map_err(|_| DropReason::TtlExpired)?;
        let port = self.lookup.routes.inside_port(target).ok_or(DropReason::TargetNotOnLink)?;
        let mtu = self.lookup.port(port).ok_or(DropReason::UnknownPort)?.mtu;
        let bytes = packet.data().len();
        if bytes > usize::from(mtu) {
            return Err(DropReason::TooBig);
        }
        self.send_to(now, vip, NextHop { port, address: target }, packet)?;
        self.counters.to_targets.count(bytes);
        Ok(())
    }
}
