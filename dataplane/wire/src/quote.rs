//! The packet that an ICMP error quotes, cut short: whose was it?

use thiserror::Error;

use crate::ip::{Address, Version, protocol};
use crate::ipv6::{self, extension};
use crate::{ipv4, udp};

/// Why a quote says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum QuoteError {
    /// Too short for an IP header and eight bytes behind it.
    #[error("the quoted packet is too short")]
    Truncated,
    /// No IP header.
    #[error("no IP packet is quoted")]
    NotIp,
    /// A fragment that doesn't have the upper layer's header.
    #[error("the quoted packet is a later fragment")]
    LaterFragment,
}

/// What can be read of a quoted packet. Neither its lengths nor its checksum can be verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quote<'a> {
    /// Its source: who may have sent the packet that caused the error.
    pub source: Address,
    /// Its destination.
    pub destination: Address,
    /// Its upper-layer protocol.
    pub protocol: u8,
    /// Length that the packet had, in bytes, as its header says.
    pub total_len: usize,
    /// What is there of its upper layer: at least eight bytes.
    pub upper: &'a [u8],
}

/// Bytes of the upper layer that every error quotes (RFC 792: 64 bits).
const UPPER_MIN: usize = 8;

impl<'a> Quote<'a> {
    /// Reads what stands behind the header of an ICMP error.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, QuoteError> {
        match Version::of(bytes) {
            Some(Version::V4) => Self::parse_v4(bytes),
            Some(Version::V6) => Self::parse_v6(bytes),
            None => Err(QuoteError::NotIp),
        }
    }

    fn parse_v4(bytes: &'a [u8]) -> Result<Self, QuoteError> {
        let header = bytes.first_chunk::<{ ipv4::HEADER_LEN }>().ok_or(QuoteError::Truncated)?;
        let [first, _, l0, l1, _, _, o0, o1, _, protocol, _, _, s0, s1, s2, s3, d0, d1, d2, d3] = *header;
        let header_len = usize::from(first & 0x0f) * 4;
        if header_len < ipv4::HEADER_LEN {
            return Err(QuoteError::NotIp);
        }
        if u16::from_be_bytes([o0, o1]) & 0x1fff != 0 {
            return Err(QuoteError::LaterFragment);
        }
        Self {
            source: Address::from_v4_octets([s0, s1, s2, s3]),
            destination: Address::from_v4_octets([d0, d1, d2, d3]),
            protocol,
            total_len: usize::from(u16::from_be_bytes([l0, l1])),
            upper: bytes.get(header_len..).unwrap_or_default(),
        }
        .with_enough()
    }

    fn parse_v6(bytes: &'a [u8]) -> Result<Self, QuoteError> {
        let header = bytes.first_chunk::<{ ipv6::HEADER_LEN }>().ok_or(QuoteError::Truncated)?;
        let [_, _, _, _, l0, l1, next_header, _, addresses @ ..] = header;
        let (source, destination) = addresses.split_first_chunk::<16>().ok_or(QuoteError::Truncated)?;
        let destination = destination.first_chunk::<16>().ok_or(QuoteError::Truncated)?;
        let (source, destination) = (Address::from_octets(*source), Address::from_octets(*destination));
        if source.is_v4() || destination.is_v4() {
            return Err(QuoteError::NotIp);
        }
        let upper = extension::upper_layer(bytes, *next_header).map_err(|error| match error {
            ipv6::Ipv6Error::ExtensionTruncated => QuoteError::Truncated,
            _ => QuoteError::NotIp,
        })?;
        if upper.fragment.is_some_and(|found| found.header.offset != 0) {
            return Err(QuoteError::LaterFragment);
        }
        Self {
            source,
            destination,
            protocol: upper.protocol,
            total_len: ipv6::HEADER_LEN + usize::from(u16::from_be_bytes([*l0, *l1])),
            upper: bytes.get(upper.offset..).unwrap_or_default(),
        }
        .with_enough()
    }

    fn with_enough(self) -> Result<Self, QuoteError> {
        if self.upper.len() < UPPER_MIN { Err(QuoteError::Truncated) } else { Ok(self) }
    }

    /// Source and destination port, where the protocol has them.
    pub fn ports(&self) -> Option<(u16, u16)> {
        if !protocol::has_ports(self.protocol) {
            return None;
        }
        let [s0, s1, d0, d1] = *self.upper.first_chunk::<4>()?;
        Some((u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1])))
    }

    /// The SPI of a quoted ESP packet.
    pub fn esp_spi(&self) -> Option<u32> {
        if self.protocol == protocol::ESP { spi(self.upper) } else { None }
    }

    /// The SPI of a quoted ESP packet in UDP (RFC 3948 §2.1), if the quote reaches that far: eight bytes don't. The caller knows by the
    /// ports that it is one.
    pub fn esp_in_udp_spi(&self) -> Option<u32> {
        if self.protocol == protocol::UDP { spi(self.upper.get(udp::HEADER_LEN..)?) } else { None }
    }

    /// Type and code of a quoted ICMP message of either family.
    pub fn icmp(&self) -> Option<(u8, u8)> {
        match (self.protocol, self.upper) {
            (protocol::ICMP | protocol::ICMPV6, [kind, code, ..]) => Some((*kind, *code)),
            _ => None,
        }
    }
}

/// The SPI at the front of an ESP packet (RFC 4303 §2).
fn spi(esp: &[u8]) -> Option<u32> {
    esp.first_chunk().map(|spi| u32::from_be_bytes(*spi))
}
