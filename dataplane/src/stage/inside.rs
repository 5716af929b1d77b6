//! IP from the inside network: targets' packets to remote hosts, sent to the inside gateway.

use std::time::Instant;

use vipsec_distribute::service::{Accepts, Origin};
use vipsec_esp::KEY_AHEAD;
use vipsec_wire::buffer::{BufferPool, PacketBuf};
use vipsec_wire::ethernet;
use vipsec_wire::fragment::Fragments;
use vipsec_wire::icmp_error::Problem;
use vipsec_wire::ip::{self, Header, protocol};
use vipsec_wire::quote::Quote;
use vipsec_wire::tcp::Flags;

use super::path_mtu::is_icmp_error;
use super::{Stage, fragments, ndp};
use crate::api::{PolicyAction, PortId, VipState, WorkerId};
use crate::drops::{DropReason, Tally};
use crate::flow::{Flow, quoted_tuple_from_remote};
use crate::handoff::{Came, What};
use crate::lookup::OwnAddress;
use crate::sad::{Carrier, SaIndex};
use crate::selector::Ends;
use crate::worker::{Verdict, Worker};

/// A frame from a target with a VIP's packet to a remote host, without padding behind.
pub(super) struct Reply<B> {
    pub(super) frame: B,
    pub(super) flow: Flow,
    /// Where it came in.
    pub(super) port: PortId,
    pub(super) vip: u16,
    /// It came in fragments, so it may leave in fragments.
    pub(super) was_fragmented: bool,
    /// How it goes on, once that was decided; `None` stays here.
    pub(super) way: Option<Way>,
}

/// How a packet goes to its remote host.
#[derive(Debug, Clone, Copy)]
pub(super) enum Way {
    Clear,
    Tunnel(SaIndex),
    /// Through a tunnel of another worker.
    TunnelOf(WorkerId),
}

impl<P: BufferPool> Worker<P> {
    #[inline]
    pub(super) fn inside(
        &mut self,
        now: Instant,
        port: PortId,
        ethernet: &ethernet::Header,
        mut frame: P::Buf,
        came: Came,
        replies: &mut Stage<Reply<P::Buf>>,
    ) -> Verdict {
        let bytes = frame.data().get(ethernet::HEADER_LEN..).unwrap_or_default();
        let flow = flow_of(ethernet, bytes)?;
        let header = &flow.header;
        if ndp::is_ndp(header, bytes) {
            return self.ndp(now, port, ethernet, header, frame);
        }
        let padding = bytes.len().saturating_sub(header.total_len);
        if let Some(own) = self.lookup.own_address(port, header.destination) {
            if !own.is_active() {
                return self.hold(now, port, ethernet, own, frame);
            }
            frame.trim_back(padding)?;
            return match own {
                own if own.mac != ethernet.destination => Err(DropReason::OtherStation),
                _ if matches!(header.protocol, protocol::ICMP | protocol::ICMPV6) => {
                    self.answer_echo(port, ethernet, frame)
                }
                _ => Err(DropReason::UnservedProtocol),
            };
        }
        let Some((vip, table)) = self.lookup.vip_at(header.source) else {
            return self.take_as_target(port, ethernet, &flow, frame);
        };
        if table.state != VipState::Owned {
            let own = self.gateway_of(vip, port).ok_or(DropReason::SourceNotVip)?;
            return self.hold(now, port, ethernet, own, frame);
        }
        let mut gateways = table.gateways.iter().filter(|gateway| gateway.port == port);
        if !gateways.any(|gateway| gateway.mac == ethernet.destination) {
            let is_gateway_here = table.gateways.iter().any(|gateway| gateway.port == port);
            return Err(if is_gateway_here { DropReason::OtherStation } else { DropReason::SourceNotVip });
        }
        self.reply(now, (port, vip), ethernet, flow, frame, came, replies)
    }

    /// A packet of a VIP that is ours, from a target or the own host.
    #[inline]
    #[expect(clippy::too_many_arguments, reason = "all of them are about one frame")]
    pub(super) fn reply(
        &mut self,
        now: Instant,
        (port, vip): (PortId, u16),
        ethernet: &ethernet::Header,
        flow: Flow,
        mut frame: P::Buf,
        came: Came,
        replies: &mut Stage<Reply<P::Buf>>,
    ) -> Verdict {
        let bytes = frame.data().get(ethernet::HEADER_LEN..).unwrap_or_default();
        if flow.header.is_fragment() {
            if let Some(mate) = self.home_of_fragment(port, bytes).filter(|_| came == Came::ByPort) {
                return self.hand_over(mate, What::Frame { port, frame, came: Came::ByHandoff });
            }
            return self.inside_fragment(now, port, vip, ethernet, frame, replies);
        }
        // Ethernet's padding to its minimum goes.
        let padding = bytes.len().saturating_sub(flow.header.total_len);
        frame.trim_back(padding)?;
        let was_fragmented = came == Came::Reassembled;
        self.at_home(Reply { frame, flow, port, vip, was_fragmented, way: None }, came, replies)
    }

    /// Passes a frame on, or hands it to the home of its connection.
    #[inline]
    pub(super) fn at_home(&mut self, reply: Reply<P::Buf>, came: Came, replies: &mut Stage<Reply<P::Buf>>) -> Verdict {
        if came == Came::ByPort
            && !self.mates.is_alone()
            && let Some(home) = self.home_of_reply(&reply)
        {
            let came = if reply.was_fragmented { Came::Reassembled } else { Came::ByHandoff };
            return self.hand_over(home, What::Frame { port: reply.port, frame: reply.frame, came });
        }
        replies.push(reply);
        Ok(())
    }

    fn home_of_reply(&self, reply: &Reply<P::Buf>) -> Option<WorkerId> {
        let tuple = tuple(reply);
        let is_own = tuple == reply.flow.tuple_from_target();
        let ends = if is_own { reply.flow.ends_from_target() } else { Ends::of_connection(&tuple) };
        self.home_of(reply.vip, &tuple, &ends)
    }

    /// The gateway of a VIP on a port, as an address of ours.
    pub(super) fn gateway_of(&self, vip: u16, port: PortId) -> Option<OwnAddress> {
        let table = self.lookup.vip(vip)?;
        let gateway = table.gateways.iter().find(|gateway| gateway.port == port)?;
        Some(OwnAddress { mac: gateway.mac, vip: Some(vip), is_vip: false, state: table.state })
    }

    /// Puts a datagram together: its connection and its selectors may depend on its ports (RFC 4301 §7).
    #[cold]
    pub(super) fn inside_fragment(
        &mut self,
        now: Instant,
        port: PortId,
        vip: u16,
        ethernet: &ethernet::Header,
        frame: P::Buf,
        replies: &mut Stage<Reply<P::Buf>>,
    ) -> Verdict {
        let fragment = frame.data().get(ethernet::HEADER_LEN..).unwrap_or_default();
        let Some(mut frame) = self.reassemble(now, fragments::of_port(port), fragment)? else { return Ok(()) };
        let flow = Flow::parse(frame.data()).map_err(|_| DropReason::MalformedIp)?;
        frame.prepend(ethernet::HEADER_LEN)?;
        ethernet.emit(frame.data_mut())?;
        self.at_home(Reply { frame, flow, port, vip, was_fragmented: true, way: None }, Came::ByPort, replies)
    }

    /// Sends packets of targets through the tunnels that lead to their destinations, or in the clear where they may.
    pub(super) fn answer_remotes(&mut self, now: Instant, replies: &mut Stage<Reply<P::Buf>>) {
        if replies.is_empty() {
            return;
        }
        replies.iter().for_each(|reply| self.sad.prefetch_carrier(reply.flow.header.destination));
        let mut unknown = 0;
        let connections = self.connections.prepare(now, replies.iter().map(tuple));
        for (reply, connection) in replies.iter_mut().zip(&connections) {
            let origin = self.connections.to_remote(connection, &reply.flow.packet_info());
            unknown += usize::from(origin.is_none());
            reply.way = self.passed(self.way(origin, reply));
        }
        if unknown > 0 {
            self.counters.count_many(Tally::RepliesUnknown, unknown);
        }
        self.send_replies(now, replies);
    }

    /// Sends packets of targets the way that was decided for them.
    pub(super) fn send_replies(&mut self, now: Instant, replies: &mut Stage<Reply<P::Buf>>) {
        if replies.is_empty() {
            return;
        }
        let keys: Stage<(Option<Way>, usize)> =
            replies.iter().map(|reply| (reply.way, reply.flow.header.total_len)).collect();
        for key in keys.iter().take(KEY_AHEAD) {
            self.prefetch_outbound_key(Some(key));
        }
        let (mut packets, mut bytes) = (0, 0);
        for (n, reply) in replies.drain(..).enumerate() {
            self.prefetch_outbound_key(keys.get(n + KEY_AHEAD));
            let Some(way) = reply.way else { continue };
            let total_len = reply.flow.header.total_len;
            let verdict = match way {
                Way::Tunnel(index) => self.reply_in_tunnel(now, index, reply),
                Way::Clear => self.reply_in_clear(now, reply),
                Way::TunnelOf(worker) => {
                    let Reply { frame, port, was_fragmented, .. } = reply;
                    let handed_over = self.hand_over(worker, What::Reply { port, frame, was_fragmented });
                    self.count(handed_over);
                    continue;
                }
            };
            if verdict.is_ok() {
                packets += 1;
                bytes += total_len;
            }
            self.count(verdict);
        }
        self.counters.to_remotes.add(packets, bytes);
    }

    #[inline]
    fn prefetch_outbound_key(&self, key: Option<&(Option<Way>, usize)>) {
        if let Some((Some(Way::Tunnel(index)), len)) = key
            && let Some(sa) = self.sad.outbound(*index)
        {
            sa.esp.prefetch_key(*len);
        }
    }

    /// RFC 4301 §5.1: bypass, discard or protect? A policy says; where none does, the packets of a connection go back as they came.
    #[inline]
    fn way(&self, origin: Option<Origin>, reply: &Reply<P::Buf>) -> Result<Way, DropReason> {
        let ends = reply.flow.ends_from_target();
        let is_clear = match self.lookup.policies.decide(&ends) {
            Some(PolicyAction::Discard) => return Err(DropReason::Discarded),
            Some(PolicyAction::Bypass) => true,
            Some(PolicyAction::Protect) => false,
            None => match origin {
                Some(origin) => origin == Origin::Clear,
                None => self.is_of_clear_service(reply),
            },
        };
        if is_clear {
            return Ok(Way::Clear);
        }
        let index = match self.sad.find_carrier(reply.vip, &ends).ok_or(DropReason::NoOutboundSa)? {
            Carrier::Here(index) => index,
            Carrier::There(worker) => return Ok(Way::TunnelOf(worker)),
        };
        if let Some(sa) = self.sad.outbound(index) {
            sa.prefetch();
        }
        Ok(Way::Tunnel(index))
    }

    /// Of a connection that isn't known: may it only have come in the clear?
    #[cold]
    fn is_of_clear_service(&self, reply: &Reply<P::Buf>) -> bool {
        let service = self.lookup.services().service(&tuple(reply));
        service.is_some_and(|service| service.accepts == Accepts::Clear)
    }

    #[inline]
    fn reply_in_tunnel(&mut self, now: Instant, index: SaIndex, mut reply: Reply<P::Buf>) -> Verdict {
        let inner_mtu = self.ready(index)?;
        let header = reply.flow.header;
        let is_too_big = header.total_len > inner_mtu;
        if is_too_big && header.dont_fragment && !reply.was_fragmented {
            self.tell_target(now, Problem::TooBig { mtu: inner_mtu as u32 }, &reply)?;
            return Err(DropReason::TooBig);
        }
        self.forward(now, &mut reply)?;
        if reply.flow.transport.tcp_flags().is_some_and(|flags| flags.contains(Flags::SYN)) {
            self.clamp_mss(&reply.flow, inner_mtu, reply.frame.data_mut());
        }
        if is_too_big {
            return self.encapsulate_in_fragments(now, index, inner_mtu, reply.frame);
        }
        self.encapsulate(now, index, &header, reply.frame)
    }

    /// Takes the Ethernet header off, and counts the time to live down.
    #[inline]
    pub(super) fn forward(&mut self, now: Instant, reply: &mut Reply<P::Buf>) -> Verdict {
        // RFC 4301 §5.1.2.1 (2): "decremented by the encapsulator prior to forwarding".
        let packet = reply.frame.data_mut().get_mut(ethernet::HEADER_LEN..).unwrap_or_default();
        if ip::decrement_ttl(packet).is_err() {
            self.tell_target(now, Problem::TtlExpired, reply)?;
            return Err(DropReason::TtlExpired);
        }
        reply.frame.trim_front(ethernet::HEADER_LEN)?;
        Ok(())
    }

    /// Splits a packet before it is encrypted, so that nobody has to put it together before decrypting it.
    #[cold]
    pub(super) fn encapsulate_in_fragments(
        &mut self,
        now: Instant,
        index: SaIndex,
        inner_mtu: usize,
        packet: P::Buf,
    ) -> Verdict {
        if self.is_transport(index) {
            // RFC 4303 §3.3.4: "transport mode … ESP is applied only to whole IP datagrams": it is split behind it.
            let header = Header::parse(packet.data()).map_err(|_| DropReason::MalformedIp)?;
            return self.encapsulate(now, index, &header, packet);
        }
        let identification = self.next_identification();
        let mut pieces = Fragments::new(packet.data(), inner_mtu, identification)?;
        while let Some(piece) = pieces.next(&mut self.pool) {
            let piece = piece?;
            let header = Header::parse(piece.data()).map_err(|_| DropReason::MalformedIp)?;
            self.encapsulate(now, index, &header, piece)?;
        }
        self.counters.count(Tally::Fragmented);
        Ok(())
    }
}

/// The packet in a frame, which has to be of the version that the frame says.
#[inline]
pub(super) fn flow_of(ethernet: &ethernet::Header, packet: &[u8]) -> Result<Flow, DropReason> {
    let flow = Flow::parse(packet).map_err(|_| DropReason::MalformedIp)?;
    if flow.header.version().ethertype() != ethernet.ethertype {
        return Err(DropReason::MalformedIp);
    }
    Ok(flow)
}

/// The connection of a packet from a target; of an ICMP error, that which it is about.
#[inline]
fn tuple<B: PacketBuf>(reply: &Reply<B>) -> vipsec_distribute::tuple::FiveTuple {
    let packet = reply.frame.data().get(ethernet::HEADER_LEN..).unwrap_or_default();
    if is_icmp_error(&reply.flow.header, packet)
        && let Some(quote) = reply.flow.header.payload(packet).get(vipsec_wire::icmp::HEADER_LEN..)
        && let Ok(quote) = Quote::parse(quote)
    {
        return quoted_tuple_from_remote(&quote);
    }
    reply.flow.tuple_from_target()
}
