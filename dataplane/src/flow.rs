//! What the pipeline needs to know of an IP packet, read once.

use vipsec_distribute::connection::PacketInfo;
use vipsec_distribute::tuple::FiveTuple;
use vipsec_wire::ip::{self, Header, protocol};
use vipsec_wire::transport::Transport;
use vipsec_wire::{ipv4, ipv6};

use crate::selector::Ends;

/// An IP header and what forwarding looks at behind it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flow {
    pub(crate) header: Header,
    pub(crate) transport: Transport,
}

/// The packet's own header or that of what it carries makes no sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

impl Flow {
    /// Reads a packet. `bytes` may be longer than it.
    #[inline]
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let header = Header::parse(bytes).map_err(|_| Malformed)?;
        let transport = Transport::parse(&header, bytes).map_err(|_| Malformed)?;
        Ok(Self { header, transport })
    }

    /// What selectors compare, for a packet from the remote side.
    #[inline]
    pub(crate) fn ends_from_remote(&self) -> Ends {
        let Header { source, destination, protocol, .. } = self.header;
        let ports = self.transport.selector_ports().map(|(remote, local)| (local, remote));
        Ends { local: destination, remote: source, protocol, ports }
    }

    /// What selectors compare, for a packet from a target.
    #[inline]
    pub(crate) fn ends_from_target(&self) -> Ends {
        let Header { source, destination, protocol, .. } = self.header;
        Ends { local: source, remote: destination, protocol, ports: self.transport.selector_ports() }
    }

    /// The connection, for a packet from the remote side.
    #[inline]
    pub(crate) fn tuple_from_remote(&self) -> FiveTuple {
        let Header { source, destination, protocol, .. } = self.header;
        let (remote_port, vip_port) = self.transport.ports().unwrap_or_default();
        FiveTuple { protocol, remote: source.into(), remote_port, vip: destination.into(), vip_port }
    }

    /// The connection, for a packet from a target.
    #[inline]
    pub(crate) fn tuple_from_target(&self) -> FiveTuple {
        let Header { source, destination, protocol, .. } = self.header;
        let (vip_port, remote_port) = self.transport.ports().unwrap_or_default();
        FiveTuple { protocol, remote: destination.into(), remote_port, vip: source.into(), vip_port }
    }

    #[inline]
    pub(crate) fn packet_info(&self) -> PacketInfo {
        PacketInfo { tcp: self.transport.tcp_flags(), bytes: self.header.total_len as u32 }
    }
}

/// The connection that an ICMP error to the VIP is about: read from the packet that it quotes, which a target sent.
///
/// A quote is cut short (RFC 792: the header and 64 bits), so neither its total length nor what is behind can be checked.
pub(crate) fn quoted_tuple(quote: &[u8]) -> Option<FiveTuple> {
    let (source, destination, protocol, upper) = match ip::Version::of(quote)? {
        ip::Version::V4 => {
            let header = quote.first_chunk::<{ ipv4::HEADER_LEN }>()?;
            let header_len = usize::from(header[0] & 0x0f) * 4;
            let is_first_fragment = u16::from_be_bytes([header[6], header[7]]) & 0x1fff == 0;
            if header_len < ipv4::HEADER_LEN || !is_first_fragment {
                return None;
            }
            let [.., s0, s1, s2, s3, d0, d1, d2, d3] = *header;
            let address = |octets| ip::Address::from_v4_octets(octets);
            (address([s0, s1, s2, s3]), address([d0, d1, d2, d3]), header[9], quote.get(header_len..)?)
        }
        ip::Version::V6 => {
            let (header, upper) = quote.split_first_chunk::<{ ipv6::HEADER_LEN }>()?;
            let (source, destination) = header.last_chunk::<32>()?.split_at(16);
            let address = |octets: &[u8]| Some(ip::Address::from_octets(*octets.first_chunk()?));
            (address(source)?, address(destination)?, header[6], upper)
        }
    };
    let [p0, p1, p2, p3] = *upper.first_chunk::<4>()?;
    let (vip_port, remote_port) = match protocol {
        protocol::TCP | protocol::UDP | protocol::SCTP | protocol::DCCP | protocol::UDP_LITE => {
            (u16::from_be_bytes([p0, p1]), u16::from_be_bytes([p2, p3]))
        }
        _ => (0, 0),
    };
    Some(FiveTuple { protocol, remote: destination.into(), remote_port, vip: source.into(), vip_port })
}
