//! What the pipeline needs to know of an IPv4 packet, read once.

use std::net::Ipv4Addr;

use vipsec_distribute::connection::PacketInfo;
use vipsec_distribute::tuple::FiveTuple;
use vipsec_wire::icmp;
use vipsec_wire::ip::{Ecn, protocol};
use vipsec_wire::ipv4::{self, Ipv4Error};
use vipsec_wire::tcp::{self, Flags};
use vipsec_wire::udp;

/// Addresses, ports and the fields that forwarding looks at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flow {
    pub(crate) source: Ipv4Addr,
    pub(crate) destination: Ipv4Addr,
    pub(crate) protocol: u8,
    /// Source and destination port. `None`: the protocol has none, or the packet is a fragment that doesn't carry them.
    /// For ICMP type and code stand in both (RFC 4301 §4.4.1.1).
    pub(crate) ports: Option<(u16, u16)>,
    pub(crate) tcp: Option<Flags>,
    pub(crate) is_fragment: bool,
    pub(crate) dont_fragment: bool,
    pub(crate) traffic_class: u8,
    pub(crate) header_len: usize,
    pub(crate) total_len: usize,
}

/// The packet's own header or that of what it carries makes no sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

impl From<Ipv4Error> for Malformed {
    fn from(_: Ipv4Error) -> Self {
        Self
    }
}

impl Flow {
    /// Reads a packet. `bytes` may be longer than it.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let packet = ipv4::Packet::parse(bytes)?;
        let mut flow = Self {
            source: packet.source(),
            destination: packet.destination(),
            protocol: packet.protocol(),
            ports: None,
            tcp: None,
            is_fragment: packet.is_fragment(),
            dont_fragment: packet.dont_fragment(),
            traffic_class: packet.traffic_class(),
            header_len: packet.header_len(),
            total_len: packet.total_len(),
        };
        if !flow.is_fragment {
            flow.read_transport(packet.payload())?;
        }
        Ok(flow)
    }

    fn read_transport(&mut self, payload: &[u8]) -> Result<(), Malformed> {
        match self.protocol {
            protocol::TCP => {
                let segment = tcp::Segment::parse(payload).map_err(|_| Malformed)?;
                self.ports = Some((segment.source_port(), segment.destination_port()));
                self.tcp = Some(segment.flags());
            }
            protocol::UDP => {
                let datagram = udp::Datagram::parse(payload).map_err(|_| Malformed)?;
                self.ports = Some((datagram.source_port(), datagram.destination_port()));
            }
            protocol::ICMP => {
                let message = icmp::Message::parse(payload).map_err(|_| Malformed)?;
                let type_and_code = u16::from_be_bytes([message.kind(), message.code()]);
                self.ports = Some((type_and_code, type_and_code));
            }
            _ => {}
        }
        Ok(())
    }

    pub(crate) fn ecn(&self) -> Ecn {
        Ecn::of(self.traffic_class)
    }

    /// The ports that tell connections apart: those of TCP and UDP.
    fn connection_ports(&self) -> (u16, u16) {
        match (self.protocol, self.ports) {
            (protocol::TCP | protocol::UDP, Some(ports)) => ports,
            _ => (0, 0),
        }
    }

    /// The connection, for a packet from the remote side.
    pub(crate) fn tuple_from_remote(&self) -> FiveTuple {
        let (remote_port, vip_port) = self.connection_ports();
        FiveTuple {
            protocol: self.protocol,
            remote: self.source.into(),
            remote_port,
            vip: self.destination.into(),
            vip_port,
        }
    }

    /// The connection, for a packet from a target.
    pub(crate) fn tuple_from_target(&self) -> FiveTuple {
        let (vip_port, remote_port) = self.connection_ports();
        FiveTuple {
            protocol: self.protocol,
            remote: self.destination.into(),
            remote_port,
            vip: self.source.into(),
            vip_port,
        }
    }

    pub(crate) fn packet_info(&self) -> PacketInfo {
        PacketInfo { tcp: self.tcp, bytes: self.total_len as u32 }
    }
}

/// The connection that an ICMP error to the VIP is about: read from the packet that it quotes, which a target sent.
pub(crate) fn quoted_tuple(quote: &[u8]) -> Option<FiveTuple> {
    // A quote is cut short (RFC 792: the header and 64 bits), so neither its total length nor what is behind can be checked.
    let header = quote.first_chunk::<{ ipv4::HEADER_LEN }>()?;
    let header_len = usize::from(header[0] & 0x0f) * 4;
    let is_first_fragment = u16::from_be_bytes([header[6], header[7]]) & 0x1fff == 0;
    if header[0] >> 4 != 4 || header_len < ipv4::HEADER_LEN || !is_first_fragment {
        return None;
    }
    let protocol = header[9];
    let ports = quote.get(header_len..)?.first_chunk::<4>()?;
    let (vip_port, remote_port) = match protocol {
        protocol::TCP | protocol::UDP => {
            (u16::from_be_bytes([ports[0], ports[1]]), u16::from_be_bytes([ports[2], ports[3]]))
        }
        _ => (0, 0),
    };
    Some(FiveTuple {
        protocol,
        remote: Ipv4Addr::new(header[16], header[17], header[18], header[19]).into(),
        remote_port,
        vip: Ipv4Addr::new(header[12], header[13], header[14], header[15]).into(),
        vip_port,
    })
}
