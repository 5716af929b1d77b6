//! What IPv4 and IPv6 have in common, and one view of both for the pipeline.

use thiserror::Error;

use crate::ethernet::EtherType;
use crate::{Truncated, ipv4, ipv6};

mod address;
mod header;
mod prefix;
mod repr;

pub use address::Address;
pub use header::{Fragment, Header, IpError};
pub use prefix::{Prefix, PrefixError, parse_interface};
pub use repr::{MixedFamilies, Repr};

/// IP protocol numbers (IANA "Assigned Internet Protocol Numbers").
pub mod protocol {
    /// IPv6 hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// ICMP for IPv4.
    pub const ICMP: u8 = 1;
    /// IPv4 in IP: the next header of an ESP tunnel.
    pub const IPV4: u8 = 4;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// DCCP.
    pub const DCCP: u8 = 33;
    /// IPv6 in IP.
    pub const IPV6: u8 = 41;
    /// IPv6 routing header.
    pub const ROUTING: u8 = 43;
    /// IPv6 fragment header.
    pub const FRAGMENT: u8 = 44;
    /// ESP.
    pub const ESP: u8 = 50;
    /// AH, which we don't speak: to us an upper layer like any other.
    pub const AH: u8 = 51;
    /// ICMP for IPv6.
    pub const ICMPV6: u8 = 58;
    /// No next header: an ESP dummy packet (RFC 4303 §2.6).
    pub const NO_NEXT_HEADER: u8 = 59;
    /// IPv6 destination options.
    pub const DESTINATION_OPTIONS: u8 = 60;
    /// SCTP.
    pub const SCTP: u8 = 132;
    /// UDP-Lite.
    pub const UDP_LITE: u8 = 136;

    /// Does its header begin with source and destination port?
    pub const fn has_ports(protocol: u8) -> bool {
        matches!(protocol, TCP | UDP | DCCP | SCTP | UDP_LITE)
    }
}

/// Explicit congestion notification, the low two bits of the traffic class (RFC 3168 §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ecn {
    /// Not ECN-capable.
    NotEct,
    /// ECN-capable, codepoint 1.
    Ect1,
    /// ECN-capable, codepoint 0.
    Ect0,
    /// Congestion experienced.
    Ce,
}

impl Ecn {
    /// Of a traffic class.
    pub const fn of(traffic_class: u8) -> Self {
        match traffic_class & 0b11 {
            0b00 => Self::NotEct,
            0b01 => Self::Ect1,
            0b10 => Self::Ect0,
            _ => Self::Ce,
        }
    }

    /// The two bits.
    pub const fn bits(self) -> u8 {
        match self {
            Self::NotEct => 0b00,
            Self::Ect1 => 0b01,
            Self::Ect0 => 0b10,
            Self::Ce => 0b11,
        }
    }
}

/// The two versions of IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Version {
    /// The protocol number of such a packet inside another one: the next header of a tunnel.
    pub const fn protocol(self) -> u8 {
        match self {
            Self::V4 => protocol::IPV4,
            Self::V6 => protocol::IPV6,
        }
    }

    /// The EtherType of such a packet in a frame.
    pub const fn ethertype(self) -> EtherType {
        match self {
            Self::V4 => EtherType::IPV4,
            Self::V6 => EtherType::IPV6,
        }
    }

    /// Length of the header without options or extension headers, in bytes.
    pub const fn header_len(self) -> usize {
        match self {
            Self::V4 => ipv4::HEADER_LEN,
            Self::V6 => ipv6::HEADER_LEN,
        }
    }

    /// The version that a packet's first bits say.
    pub fn of(packet: &[u8]) -> Option<Self> {
        match packet.first()? >> 4 {
            4 => Some(Self::V4),
            6 => Some(Self::V6),
            _ => None,
        }
    }
}

/// The packet's lifetime is over: its TTL or hop limit was 0 or 1 (RFC 1812 §5.3.1, RFC 8200 §3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the time to live has run out")]
pub struct TtlExpired;

/// Counts a checked packet's TTL or hop limit down by one in place.
#[inline]
pub fn decrement_ttl(packet: &mut [u8]) -> Result<(), TtlExpired> {
    match Version::of(packet) {
        Some(Version::V4) => ipv4::decrement_ttl(packet),
        Some(Version::V6) => ipv6::decrement_hop_limit(packet),
        None => Err(TtlExpired),
    }
}

/// Sets the traffic class of a checked packet of either family in place.
#[inline]
pub fn set_traffic_class(packet: &mut [u8], traffic_class: u8) -> Result<(), Truncated> {
    match Version::of(packet) {
        Some(Version::V4) => ipv4::set_traffic_class(packet, traffic_class),
        Some(Version::V6) => ipv6::set_traffic_class(packet, traffic_class),
        None => Err(Truncated),
    }
}

/// Sets the ECN bits of a checked packet of either family in place.
#[inline]
pub fn set_ecn(packet: &mut [u8], ecn: Ecn) -> Result<(), Truncated> {
    match Version::of(packet) {
        Some(Version::V4) => ipv4::set_ecn(packet, ecn),
        Some(Version::V6) => ipv6::set_ecn(packet, ecn),
        None => Err(Truncated),
    }
}
