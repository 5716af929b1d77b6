//! IPv4 from the outside network: to whom, and what?

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use vipsec_wire::buffer::{BufferPool, PacketBuf};
use vipsec_wire::ethernet;
use vipsec_wire::ip::protocol;
use vipsec_wire::ipv4::Packet;
use vipsec_wire::udp::{self, Datagram};

use crate::api::PortId;
use crate::drops::{DropReason, Tally};
use crate::outer::Outer;
use crate::worker::{Verdict, Worker};

/// IKE (RFC 7296 §2).
pub(super) const IKE_PORT: u16 = 500;
/// IKE and ESP in UDP (RFC 3948 §2).
pub(super) const NAT_TRAVERSAL_PORT: u16 = 4500;
/// What stands before an IKE message on port 4500, where an SPI would stand otherwise (RFC 3948 §2.2).
pub(super) const NON_ESP_MARKER: [u8; 4] = [0; 4];

/// What a packet to a VIP is.
enum Kind {
    Echo,
    Esp { headers: usize, udp_port: Option<u16> },
    Ike { headers: usize, local: SocketAddr, remote: SocketAddr },
    NatKeepalive,
}

impl<P: BufferPool> Worker<P> {
    pub(super) fn outside(
        &mut self,
        now: Instant,
        port: PortId,
        ethernet: &ethernet::Header,
        mut frame: P::Buf,
    ) -> Verdict {
        let bytes = frame.data().get(ethernet::HEADER_LEN..).unwrap_or_default();
        let packet = Packet::parse(bytes).map_err(|_| DropReason::MalformedIpv4)?;
        let destination = IpAddr::from(packet.destination());
        let own = self.lookup.own_address(port, destination).ok_or(DropReason::NotForUs)?;
        if !own.is_active() {
            return self.hold(now, port, ethernet, own, frame);
        }
        if own.mac != ethernet.destination {
            return Err(DropReason::OtherStation);
        }
        if packet.is_fragment() {
            return Err(DropReason::OuterFragment);
        }
        let vip = self.lookup.vip_at(destination).map(|(number, _)| number);
        let kind = match vip {
            Some(_) => kind_of(&packet)?,
            None if packet.protocol() == protocol::ICMP => Kind::Echo,
            None => return Err(DropReason::UnservedProtocol),
        };
        let (source, ecn) = (packet.source(), packet.ecn());
        // Ethernet's padding to its minimum goes.
        let padding = bytes.len() - packet.total_len();
        frame.trim_back(padding)?;
        match (kind, vip) {
            (Kind::Echo, _) => self.answer_echo(port, ethernet, frame),
            (Kind::NatKeepalive, _) => {
                // RFC 3948 §2.3: "The receiver SHOULD ignore a received NAT-keepalive packet."
                self.counters.count(Tally::NatKeepalives);
                Ok(())
            }
            (Kind::Ike { headers, local, remote }, _) => self.punt_ike(now, frame.data().get(headers..), local, remote),
            (Kind::Esp { headers, udp_port }, Some(vip)) => {
                frame.trim_front(headers)?;
                self.esp(now, Outer { vip, source: source.into(), udp_port, ecn }, frame)
            }
            (Kind::Esp { .. }, None) => Err(DropReason::UnservedProtocol),
        }
    }
}

fn kind_of(packet: &Packet<'_>) -> Result<Kind, DropReason> {
    let headers = ethernet::HEADER_LEN + packet.header_len();
    match packet.protocol() {
        protocol::ESP => Ok(Kind::Esp { headers, udp_port: None }),
        protocol::ICMP => Ok(Kind::Echo),
        protocol::UDP => {
            let datagram = Datagram::parse(packet.payload()).map_err(|_| DropReason::MalformedUdp)?;
            kind_of_datagram(packet, &datagram, headers + udp::HEADER_LEN)
        }
        // RFC 4301 §5.2: what should have come through a tunnel is not taken outside one.
        _ => Err(DropReason::ClearText),
    }
}

fn kind_of_datagram(packet: &Packet<'_>, datagram: &Datagram<'_>, headers: usize) -> Result<Kind, DropReason> {
    let local = SocketAddr::new(packet.destination().into(), datagram.destination_port());
    let remote = SocketAddr::new(packet.source().into(), datagram.source_port());
    let ike = |headers| {
        if datagram.checksum_is_valid_v4(packet.source(), packet.destination()) {
            Ok(Kind::Ike { headers, local, remote })
        } else {
            Err(DropReason::MalformedUdp)
        }
    };
    match (datagram.destination_port(), datagram.payload()) {
        (IKE_PORT, _) => ike(headers),
        (NAT_TRAVERSAL_PORT, [0xff]) => Ok(Kind::NatKeepalive),
        (NAT_TRAVERSAL_PORT, payload) => match payload.first_chunk() {
            Some(&NON_ESP_MARKER) => ike(headers + NON_ESP_MARKER.len()),
            // RFC 3948 §2.1: receivers MUST NOT depend on the UDP checksum of ESP being zero; the ICV covers it.
            Some(_) => Ok(Kind::Esp { headers, udp_port: Some(datagram.source_port()) }),
            None => Err(DropReason::MalformedIke),
        },
        _ => Err(DropReason::ClearText),
    }
}
