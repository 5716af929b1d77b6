//! Into the tunnel: seal, and put the outer headers on.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use vipsec_esp::header::{ALIGNMENT, HEADER_LEN as ESP_HEADER_LEN, ICV_LEN, TRAILER_LEN};
use vipsec_esp::sa::TunnelEnds;
use vipsec_wire::buffer::{BufferPool, PacketBuf};
use vipsec_wire::ip::protocol;
use vipsec_wire::{ipv4, udp};

use crate::drops::DropReason;
use crate::sad::SaIndex;
use crate::worker::{Verdict, Worker};

fn outer_len(tunnel: &TunnelEnds) -> usize {
    ipv4::HEADER_LEN + if tunnel.udp.is_some() { udp::HEADER_LEN } else { 0 }
}

fn ipv4_ends(tunnel: &TunnelEnds) -> Result<(Ipv4Addr, Ipv4Addr), DropReason> {
    match (tunnel.local, tunnel.remote) {
        (IpAddr::V4(local), IpAddr::V4(remote)) => Ok((local, remote)),
        _ => Err(DropReason::OtherFamily),
    }
}

impl<P: BufferPool> Worker<P> {
    /// The largest inner packet that fits the outer network in one piece, in bytes.
    pub(super) fn inner_mtu(&self, index: SaIndex) -> Result<usize, DropReason> {
        let sa = self.sad.get(index).ok_or(DropReason::NoOutboundSa)?;
        let next_hop = self.lookup.routes.next_hop(sa.tunnel.remote).ok_or(DropReason::NoRoute)?;
        let mtu = usize::from(self.lookup.port(next_hop.port).ok_or(DropReason::UnknownPort)?.mtu);
        let room = mtu.saturating_sub(outer_len(&sa.tunnel) + ESP_HEADER_LEN + ICV_LEN);
        Ok((room / ALIGNMENT * ALIGNMENT).saturating_sub(TRAILER_LEN))
    }

    /// Sends an inner IPv4 packet through an SA.
    pub(super) fn encapsulate(&mut self, now: Instant, index: SaIndex, mut packet: P::Buf) -> Verdict {
        let inner_len = packet.data().len();
        // DSCP and ECN of the inner header are copied: RFC 4301 §5.1.2.1, RFC 6040 §4.1 (normal mode).
        let traffic_class = packet.data().get(1).copied().unwrap_or_default();
        let identification = self.next_identification();
        let sa = self.sad.get_mut(index).ok_or(DropReason::NoOutboundSa)?;
        let (vip, tunnel) = (sa.vip, sa.tunnel);
        let (source, destination) = ipv4_ends(&tunnel)?;
        let next_hop = self.lookup.routes.next_hop(tunnel.remote).ok_or(DropReason::NoRoute)?;

        sa.outbound.seal(&mut packet, protocol::IPV4)?;
        sa.sealed.packets = sa.sealed.packets.saturating_add(1);
        sa.sealed.bytes = sa.sealed.bytes.saturating_add(inner_len as u64);
        self.counters.esp_out.count(inner_len);

        let mut payload_len = u16::try_from(packet.data().len()).map_err(|_| DropReason::TooBig)?;
        let outer_protocol = match tunnel.udp {
            None => protocol::ESP,
            Some((source_port, destination_port)) => {
                packet.prepend(udp::HEADER_LEN)?;
                // RFC 3948 §2.1: "the IPv4 UDP Checksum SHOULD be transmitted as a zero value".
                udp::Repr { source_port, destination_port, payload_len }.emit(packet.data_mut())?;
                payload_len = payload_len.checked_add(udp::HEADER_LEN as u16).ok_or(DropReason::TooBig)?;
                protocol::UDP
            }
        };
        packet.prepend(ipv4::HEADER_LEN)?;
        let mut header = ipv4::Repr::new(source, destination, outer_protocol, payload_len);
        header.traffic_class = traffic_class;
        header.identification = identification;
        // RFC 4301 §5.1.2.1 (4): "Configuration determines whether to copy from the inner header (IPv4 only), clear, or set the
        // DF". Clear: path MTU messages from the outer network are unauthenticated and not taken, so with DF set a smaller MTU on
        // the way would be a black hole.
        header.dont_fragment = false;
        header.emit(packet.data_mut())?;
        self.touch(index);
        self.send_to(now, vip, next_hop, packet)
    }
}
