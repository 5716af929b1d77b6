//! A packet inside another one: IP in IP of any two families (RFC 2003, RFC 2473, RFC 4213 §3), or in GUE.

use std::net::IpAddr;

use thiserror::Error;

use crate::Truncated;
use crate::buffer::{NoRoom, PacketBuf};
use crate::ip::{self, MixedFamilies, Version, protocol};
use crate::{gue, ipv4, udp};

/// What stands between the outer and the inner IP header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encapsulation {
    /// Nothing.
    IpInIp,
    /// UDP and GUE variant 0.
    Gue {
        /// The UDP port that the other end listens on: [`gue::PORT`] unless it was told another.
        port: u16,
        /// Whether the UDP checksum is made.
        checksum: UdpChecksum,
    },
}

/// Whether a tunnel's UDP checksum is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UdpChecksum {
    /// It is: over the whole packet.
    Computed,
    /// It is zero. Over IPv6 only where the other end is set to take it (RFC 6935 §5, RFC 6936 §4).
    Zero,
}

/// A tunnel in the clear, to wrap packets for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tunnel {
    outer: ip::Repr,
    encapsulation: Encapsulation,
}

/// What differs from packet to packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PerPacket {
    /// The outer header's identification, in IPv4.
    pub identification: u16,
    /// A hash of the inner flow; it becomes GUE's source port and the IPv6 flow label (RFC 6438 §3), for routers that share load.
    pub flow_hash: u32,
}

/// Why a packet could not be wrapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum EncapsulationError {
    /// It is no IP packet.
    #[error("no IP packet to encapsulate")]
    NotIp,
    /// The outer packet would be longer than IP can say.
    #[error("the packet is too long to encapsulate")]
    TooLong,
    /// The buffer has no room in front.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
}

impl From<Truncated> for EncapsulationError {
    fn from(_: Truncated) -> Self {
        Self::NoRoom(NoRoom)
    }
}

impl Tunnel {
    /// A tunnel between two addresses of one family.
    pub fn new(source: IpAddr, destination: IpAddr, encapsulation: Encapsulation) -> Result<Self, MixedFamilies> {
        Ok(Self { outer: ip::Repr::new(source, destination, protocol::IPV4, 0)?, encapsulation })
    }

    /// Bytes that it puts in front of a packet.
    pub const fn overhead(&self) -> usize {
        let between = match self.encapsulation {
            Encapsulation::IpInIp => 0,
            Encapsulation::Gue { .. } => udp::HEADER_LEN + gue::HEADER_LEN,
        };
        self.outer.header_len() + between
    }

    /// Puts the outer headers in front of an IP packet that was checked and fills its buffer. When this fails the packet is spoilt.
    ///
    /// The outer header has the inner traffic class (RFC 6040 §4.1, normal mode) and a time to live of its own, and DF where the inner
    /// packet has it. Whoever forwards the inner packet has counted its time to live down (RFC 2003 §3.1).
    pub fn encapsulate<B: PacketBuf>(&self, packet: &mut B, varying: PerPacket) -> Result<(), EncapsulationError> {
        let inner = Inner::read(packet.data()).ok_or(EncapsulationError::NotIp)?;
        let protocol = match self.encapsulation {
            Encapsulation::IpInIp => inner.version.protocol(),
            Encapsulation::Gue { port, checksum } => {
                self.prepend_gue(packet, inner.version, (port, checksum), varying.flow_hash)?;
                protocol::UDP
            }
        };
        let payload_len = u16::try_from(packet.data().len()).map_err(|_| EncapsulationError::TooLong)?;
        let mut outer = self.outer.with_traffic_class(inner.traffic_class);
        match &mut outer {
            ip::Repr::V4(header) => {
                if payload_len > u16::MAX - ipv4::HEADER_LEN as u16 {
                    return Err(EncapsulationError::TooLong);
                }
                (header.protocol, header.payload_len) = (protocol, payload_len);
                header.identification = varying.identification;
                header.dont_fragment = inner.dont_fragment;
            }
            ip::Repr::V6(header) => {
                (header.next_header, header.payload_len) = (protocol, payload_len);
                header.flow_label = varying.flow_hash;
            }
        }
        packet.prepend(outer.header_len())?;
        outer.emit(packet.data_mut())?;
        Ok(())
    }

    fn prepend_gue<B: PacketBuf>(
        &self,
        packet: &mut B,
        version: Version,
        (port, checksum): (u16, UdpChecksum),
        flow_hash: u32,
    ) -> Result<(), EncapsulationError> {
        packet.prepend(gue::HEADER_LEN)?;
        gue::Header::of_ip(version).emit(packet.data_mut())?;
        let payload_len = u16::try_from(packet.data().len()).map_err(|_| EncapsulationError::TooLong)?;
        packet.prepend(udp::HEADER_LEN)?;
        let header = udp::Repr { source_port: gue::source_port(flow_hash), destination_port: port, payload_len };
        header.emit(packet.data_mut())?;
        if checksum == UdpChecksum::Computed {
            udp::fill_checksum(self.outer.source(), self.outer.destination(), packet.data_mut())?;
        }
        Ok(())
    }
}

/// What the outer header takes from the inner one.
struct Inner {
    version: Version,
    traffic_class: u8,
    dont_fragment: bool,
}

impl Inner {
    fn read(packet: &[u8]) -> Option<Self> {
        let [first, second, _, _, _, _, flags, ..] = *packet else { return None };
        match Version::of(packet)? {
            // RFC 2003 §3.1: "If the "Don't Fragment" bit is set in the inner IP header, it MUST be set in the outer IP header".
            Version::V4 => Some(Self { version: Version::V4, traffic_class: second, dont_fragment: flags & 0x40 != 0 }),
            // RFC 4213 §3.2.1: a tunnel whose MTU is configured doesn't set it for IPv6 packets.
            Version::V6 => {
                let traffic_class = first << 4 | second >> 4;
                Some(Self { version: Version::V6, traffic_class, dont_fragment: false })
            }
        }
    }
}
