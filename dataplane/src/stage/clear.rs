//! Packets in the clear between the outside network and targets, where a policy or a service allows it (RFC 4301 §4.4.1, BYPASS).

use std::time::Instant;

use vipsec_wire::buffer::{BufferPool, PacketBuf};
use vipsec_wire::icmp_error::Problem;
use vipsec_wire::ip::Header;

use super::inner::{Inner, Via};
use super::inside::Reply;
use crate::api::PolicyAction;
use crate::drops::DropReason;
use crate::flow::Flow;
use crate::worker::{Verdict, Worker};

impl<P: BufferPool> Worker<P> {
    /// Checks a packet in the clear to a VIP. Whether its service takes it, the connection says.
    #[inline]
    pub(super) fn clear(&self, vip: u16, packet: P::Buf) -> Result<Inner<P::Buf>, DropReason> {
        let flow = Flow::parse(packet.data()).map_err(|_| DropReason::MalformedIp)?;
        match self.lookup.policies.decide(&flow.ends_from_remote()) {
            Some(PolicyAction::Discard) => return Err(DropReason::Discarded),
            // RFC 4301 §5.2: what should have come through a tunnel is not taken outside one.
            Some(PolicyAction::Protect) => return Err(DropReason::ClearText),
            Some(PolicyAction::Bypass) | None => {}
        }
        Ok(Inner { packet, flow, vip, via: Via::Clear, was_fragmented: false })
    }

    /// Sends a packet of a target to a remote host as it is, but for its time to live. It begins with its frame's Ethernet header.
    #[inline]
    pub(super) fn reply_in_clear(&mut self, now: Instant, mut reply: Reply<P::Buf>) -> Verdict {
        let header = reply.flow.header;
        let path = self.path_to_remote(reply.vip, header.destination)?;
        if header.total_len > usize::from(path.mtu) && header.dont_fragment && !reply.was_fragmented {
            self.tell_target(now, Problem::TooBig { mtu: u32::from(path.mtu) }, &reply)?;
            return Err(DropReason::TooBig);
        }
        self.forward(now, &mut reply)?;
        self.send_or_fragment(now, &path, &header, reply.frame)
    }

    /// Sends a packet of our own from a VIP.
    pub(super) fn send_clear(&mut self, now: Instant, vip: u16, header: &Header, packet: P::Buf) -> Verdict {
        let path = self.path_to_remote(vip, header.destination)?;
        self.send_or_fragment(now, &path, header, packet)
    }

    #[inline]
    fn send_or_fragment(&mut self, now: Instant, path: &crate::path::Path, header: &Header, packet: P::Buf) -> Verdict {
        if header.total_len > usize::from(path.mtu) {
            return self.send_in_fragments(now, path, packet.data());
        }
        self.send_along(now, path, packet)
    }
}
