//! IP from the inside network: targets' packets to remote hosts, sent to the inside gateway.

use std::time::Instant;

use vipsec_wire::buffer::{BufferPool, PacketBuf};
use vipsec_wire::ethernet;
use vipsec_wire::ip::{self, protocol};

use super::Stage;
use crate::api::{PortId, VipState};
use crate::drops::{DropReason, Tally};
use crate::flow::Flow;
use crate::lookup::OwnAddress;
use crate::sad::SaIndex;
use crate::worker::{Verdict, Worker};

/// A frame from a target with a VIP's packet to a remote host.
pub(super) struct Reply<B> {
    pub(super) frame: B,
    pub(super) flow: Flow,
    pub(super) vip: u16,
}

impl<P: BufferPool> Worker<P> {
    #[inline]
    pub(super) fn inside(
        &mut self,
        now: Instant,
        port: PortId,
        ethernet: &ethernet::Header,
        mut frame: P::Buf,
        replies: &mut Stage<Reply<P::Buf>>,
    ) -> Verdict {
        let bytes = frame.data().get(ethernet::HEADER_LEN..).unwrap_or_default();
        let flow = Flow::parse(bytes).map_err(|_| DropReason::MalformedIpv4)?;
        let padding = bytes.len().saturating_sub(flow.header.total_len);

        if let Some(own) = self.lookup.own_address(port, flow.header.destination) {
            if !own.is_active() {
                return self.hold(now, port, ethernet, own, frame);
            }
            frame.trim_back(padding)?;
            return match own {
                own if own.mac != ethernet.destination => Err(DropReason::OtherStation),
                _ if flow.header.protocol == protocol::ICMP => self.answer_echo(port, ethernet, frame),
                _ => Err(DropReason::UnservedProtocol),
            };
        }
        let (vip, table) = self.lookup.vip_at(flow.header.source).ok_or(DropReason::SourceNotVip)?;
        let gateway = table.gateways.iter().find(|gateway| gateway.port == port).ok_or(DropReason::SourceNotVip)?;
        if table.state != VipState::Owned {
            let own = OwnAddress { mac: gateway.mac, vip: Some(vip), is_vip: false, state: table.state };
            return self.hold(now, port, ethernet, own, frame);
        }
        if gateway.mac != ethernet.destination {
            return Err(DropReason::OtherStation);
        }
        frame.trim_back(padding)?;
        replies.push(Reply { frame, flow, vip });
        Ok(())
    }

    /// Sends packets of targets through the tunnels that lead to their destinations.
    pub(super) fn to_remotes(&mut self, now: Instant, port: PortId, replies: Stage<Reply<P::Buf>>) {
        if replies.is_empty() {
            return;
        }
        let mut unknown = 0;
        let mut found: Stage<(SaIndex, Reply<P::Buf>)> = Stage::new();
        let connections = self.connections.prepare(now, replies.iter().map(|reply| reply.flow.tuple_from_target()));
        for (reply, connection) in replies.into_iter().zip(&connections) {
            let Some(index) = self.sad.find_outbound(reply.vip, &reply.flow.ends_from_target()) else {
                self.count(Err(DropReason::NoOutboundSa));
                continue;
            };
            let known = self.connections.to_remote(connection, &reply.flow.packet_info());
            unknown += usize::from(known.is_none());
            found.push((index, reply));
        }
        if unknown > 0 {
            self.counters.count_many(Tally::RepliesUnknown, unknown);
        }
        let (mut packets, mut bytes) = (0, 0);
        for (index, reply) in found {
            let total_len = reply.flow.header.total_len;
            let verdict = self.to_remote(now, port, index, reply);
            if verdict.is_ok() {
                packets += 1;
                bytes += total_len;
            }
            self.count(verdict);
        }
        self.counters.to_remotes.add(packets, bytes);
    }

    #[inline]
    fn to_remote(&mut self, now: Instant, port: PortId, index: SaIndex, reply: Reply<P::Buf>) -> Verdict {
        let inner_mtu = self.ready(index)?;
        if reply.flow.header.total_len > inner_mtu {
            if reply.flow.header.dont_fragment {
                self.say_too_big(now, port, inner_mtu, &reply)?;
            }
            return Err(DropReason::TooBig);
        }
        let Reply { mut frame, flow, .. } = reply;
        frame.trim_front(ethernet::HEADER_LEN)?;
        // RFC 4301 §5.1.2.1 (2): "decremented by the encapsulator prior to forwarding".
        ip::decrement_ttl(frame.data_mut()).map_err(|_| DropReason::TtlExpired)?;
        self.encapsulate(now, index, &flow.header, frame)
    }
}
