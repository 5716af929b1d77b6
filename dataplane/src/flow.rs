//! What the pipeline needs to know of an IP packet, read once.

use std::hash::BuildHasher;

use vipsec_distribute::connection::PacketInfo;
use vipsec_distribute::tuple::FiveTuple;
use vipsec_wire::ip::Header;
use vipsec_wire::quote::Quote;
use vipsec_wire::transport::Transport;

use crate::own_hash::Seed;
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

    /// A number that the packets of a flow share, for whoever spreads load over several ways.
    pub(crate) fn hash(&self) -> u32 {
        let Header { source, destination, protocol, .. } = self.header;
        let hash = Seed::default().hash_one((source, destination, protocol, self.transport.ports()));
        (hash >> 32) as u32
    }

    #[inline]
    pub(crate) fn packet_info(&self) -> PacketInfo {
        PacketInfo { tcp: self.transport.tcp_flags(), bytes: self.header.total_len as u32 }
    }
}

/// The connection that an ICMP error to the VIP is about: the quoted packet is a target's.
pub(crate) fn quoted_tuple(quote: &Quote<'_>) -> FiveTuple {
    let (vip_port, remote_port) = quote.ports().unwrap_or_default();
    let (remote, vip) = (quote.destination.into(), quote.source.into());
    FiveTuple { protocol: quote.protocol, remote, remote_port, vip, vip_port }
}

/// The connection that a target's ICMP error is about: the quoted packet is a remote host's.
pub(crate) fn quoted_tuple_from_remote(quote: &Quote<'_>) -> FiveTuple {
    let (remote_port, vip_port) = quote.ports().unwrap_or_default();
    let (remote, vip) = (quote.source.into(), quote.destination.into());
    FiveTuple { protocol: quote.protocol, remote, remote_port, vip, vip_port }
}
