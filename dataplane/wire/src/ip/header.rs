//! One view of a packet of either family, read once for the whole pipeline.

use thiserror::Error;

use super::{Address, Ecn, Version};
use crate::ipv4::{self, Ipv4Error};
use crate::ipv6::{self, Ipv6Error};

/// Why bytes are not an IP packet that we take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum IpError {
    /// No bytes.
    #[error("the IP packet is empty")]
    Empty,
    /// Neither 4 nor 6.
    #[error("IP version {0}")]
    Version(u8),
    /// Malformed IPv4.
    #[error(transparent)]
    V4(#[from] Ipv4Error),
    /// Malformed IPv6.
    #[error(transparent)]
    V6(#[from] Ipv6Error),
}

/// Where a fragment belongs in its datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fragment {
    /// What tells the datagram from others between the same hosts; 16 bits in IPv4.
    pub identification: u32,
    /// Bytes of the datagram's fragmentable part before this one, a multiple of 8.
    pub offset: u16,
    /// Do more fragments follow?
    pub more: bool,
}

/// What forwarding needs to know of a packet, checked once. It borrows nothing, so the packet may be changed meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Length of the IP header with its options or extension headers, in bytes: where the upper layer begins. In a fragment that is not
    /// the first, where its piece of the datagram begins.
    pub header_len: usize,
    /// Length of header and payload in bytes. The buffer may hold more: padding of Ethernet or of ESP.
    pub total_len: usize,
    /// Its place, if it is one of several fragments. An IPv6 packet that is its datagram's only fragment is none (RFC 6946 §4).
    pub fragment: Option<Fragment>,
    /// The upper-layer protocol, behind all extension headers. In an IPv6 fragment that is not the first, that of its first header.
    pub protocol: u8,
    /// Differentiated services and ECN.
    pub traffic_class: u8,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// May routers not fragment it? Always so in IPv6.
    pub dont_fragment: bool,
}

impl Header {
    /// Reads and checks a packet of either family; see [`ipv4::Packet::parse`] and [`ipv6::Packet::parse`].
    #[inline]
    pub fn parse(packet: &[u8]) -> Result<Self, IpError> {
        match packet.first().map(|first| first >> 4) {
            Some(4) => Ok(Self::of_v4(&ipv4::Packet::parse(packet)?)),
            Some(6) => Ok(Self::of_v6(&ipv6::Packet::parse(packet)?)?),
            Some(version) => Err(IpError::Version(version)),
            None => Err(IpError::Empty),
        }
    }

    /// Of a checked IPv4 packet.
    #[inline]
    pub fn of_v4(packet: &ipv4::Packet<'_>) -> Self {
        let fragment = packet.is_fragment().then(|| Fragment {
            identification: u32::from(packet.identification()),
            offset: packet.fragment_offset() as u16,
            more: packet.more_fragments(),
        });
        Self {
            source: packet.source().into(),
            destination: packet.destination().into(),
            header_len: packet.header_len(),
            total_len: packet.total_len(),
            fragment,
            protocol: packet.protocol(),
            traffic_class: packet.traffic_class(),
            ttl: packet.ttl(),
            dont_fragment: packet.dont_fragment(),
        }
    }

    /// Of a checked IPv6 packet; walks its extension headers.
    #[inline]
    pub fn of_v6(packet: &ipv6::Packet<'_>) -> Result<Self, Ipv6Error> {
        let (source, destination) = (Address::v6(packet.source()), Address::v6(packet.destination()));
        // RFC 4942 §2.2: IPv4-mapped addresses in packets would slip past rules for IPv4. They mean nothing on the wire.
        if source.is_v4() || destination.is_v4() {
            return Err(Ipv6Error::MappedAddress);
        }
        let upper = packet.upper_layer()?;
        let fragment = upper.fragment.filter(|found| !found.header.is_atomic()).map(|found| Fragment {
            identification: found.header.identification,
            offset: found.header.offset,
            more: found.header.more_fragments,
        });
        Ok(Self {
            source,
            destination,
            header_len: upper.offset,
            total_len: packet.total_len(),
            fragment,
            protocol: upper.protocol,
            traffic_class: packet.traffic_class(),
            ttl: packet.hop_limit(),
            dont_fragment: true,
        })
    }

    /// The packet's family.
    #[inline]
    pub const fn version(&self) -> Version {
        self.source.version()
    }

    /// Explicit congestion notification.
    #[inline]
    pub const fn ecn(&self) -> Ecn {
        Ecn::of(self.traffic_class)
    }

    /// Is it one of several fragments?
    #[inline]
    pub const fn is_fragment(&self) -> bool {
        self.fragment.is_some()
    }

    /// Does the upper-layer header stand in this packet? Not in a fragment other than the first.
    #[inline]
    pub const fn has_upper_layer(&self) -> bool {
        match self.fragment {
            None => true,
            Some(fragment) => fragment.offset == 0,
        }
    }

    /// Length of what follows the header, in bytes.
    #[inline]
    pub const fn payload_len(&self) -> usize {
        self.total_len.saturating_sub(self.header_len)
    }

    /// What follows the header in the packet that this was read from, padding left out; empty in a shorter one.
    #[inline]
    pub fn payload<'a>(&self, packet: &'a [u8]) -> &'a [u8] {
        packet.get(self.header_len..self.total_len).unwrap_or_default()
    }
}
