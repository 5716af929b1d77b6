//! The appliance's own host as a target, at the other end of a tap port: packets to it, and its replies.
//!
//! There is nobody else on that wire, and the kernel's interface has the port's own MAC address: so nobody is asked for, and a packet
//! to the host never waits for a neighbour.

use std::net::Ipv4Addr;
use std::time::Instant;

use vipsec_wire::buffer::{BufferPool, PacketBuf};
use vipsec_wire::ethernet;
use vipsec_wire::ip::Version;

use super::Stage;
use super::inside::{Reply, flow_of};
use crate::api::{PortId, VipState};
use crate::drops::{DropReason, Tally};
use crate::handoff::Came;
use crate::holding::Held;
use crate::path::Path;
use crate::route::NextHop;
use crate::worker::{Verdict, Worker};

impl<P: BufferPool> Worker<P> {
    /// A packet of a service on the host: from a VIP to a remote host.
    #[inline]
    pub(super) fn local(
        &mut self,
        now: Instant,
        port: PortId,
        ethernet: &ethernet::Header,
        frame: P::Buf,
        came: Came,
        replies: &mut Stage<Reply<P::Buf>>,
    ) -> Verdict {
        let bytes = frame.data().get(ethernet::HEADER_LEN..).unwrap_or_default();
        let flow = flow_of(ethernet, bytes)?;
        let (vip, table) = self.lookup.vip_at(flow.header.source).ok_or(DropReason::SourceNotVip)?;
        match table.state {
            VipState::Owned => {}
            VipState::HandingOver => {
                self.holding.push(Held { frame, port, vip, since: now }).map_err(|_| DropReason::HeldQueueFull)?;
                self.counters.count(Tally::Held);
                return Ok(());
            }
            VipState::Elsewhere => return self.reply_as_target(vip, &flow, frame),
        }
        self.reply(now, (port, vip), ethernet, flow, frame, came, replies)
    }

    /// The way to the host.
    pub(super) fn path_to_host(&self, version: Version) -> Result<Path, DropReason> {
        let port = self.lookup.local_port().ok_or(DropReason::NoLocalPort)?;
        let table = self.lookup.port(port).ok_or(DropReason::UnknownPort)?;
        let ethernet = ethernet::Header { destination: table.mac, source: table.mac, ethertype: version.ethertype() };
        let next_hop = NextHop { port, address: Ipv4Addr::UNSPECIFIED.into() };
        Ok(Path { next_hop, ethernet: ethernet.to_bytes(), mtu: table.mtu, is_resolved: true })
    }
}
