//! IPv6 (RFC 8200). [`extension`] has the headers between the first and the upper layer.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |Version| Traffic Class |              Flow Label               |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |        Payload Length         |  Next Header  |   Hop Limit   |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                  Source Address, 16 bytes                     |
//! |                Destination Address, 16 bytes                  |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```

use std::net::Ipv6Addr;

use thiserror::Error;

use crate::Truncated;
use crate::ip::{Ecn, TtlExpired};

pub mod extension;

pub use extension::{FoundFragment, FragmentHeader, UpperLayer};

/// Length of the header in bytes, without extension headers.
pub const HEADER_LEN: usize = 40;

/// The smallest MTU that a link may have, in bytes (RFC 8200 §5).
pub const MTU_MIN: usize = 1280;

/// Why bytes are not an IPv6 packet that we take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Ipv6Error {
    /// Shorter than the header, or than the payload length says.
    #[error("the IPv6 packet is truncated")]
    Truncated,
    /// Another version.
    #[error("IP version {0} where 6 was expected")]
    Version(u8),
    /// An IPv4-mapped address as source or destination.
    #[error("an IPv4-mapped address in an IPv6 header")]
    MappedAddress,
    /// The packet ends within its extension headers (in a first fragment: RFC 7112 §5).
    #[error("the IPv6 extension headers are truncated")]
    ExtensionTruncated,
    /// More or longer extension headers than we look through.
    #[error("too many IPv6 extension headers")]
    TooManyExtensions,
    /// A hop-by-hop options header that doesn't stand first, or a second fragment header.
    #[error("an IPv6 extension header in the wrong place")]
    MisplacedExtension,
    /// A routing header of this type that still has segments to visit.
    #[error("an IPv6 routing header of type {0} with segments left")]
    SourceRoute(u8),
}

/// A checked IPv6 packet, read in place.
#[derive(Debug, Clone, Copy)]
pub struct Packet<'a> {
    header: &'a [u8; HEADER_LEN],
    bytes: &'a [u8],
}

impl<'a> Packet<'a> {
    /// Checks version and lengths. `bytes` may be longer than the packet.
    ///
    /// Jumbograms (RFC 2675) are not understood: their payload length of 0 leaves nothing to read.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Ipv6Error> {
        let header = bytes.first_chunk::<HEADER_LEN>().ok_or(Ipv6Error::Truncated)?;
        let version = header[0] >> 4;
        if version != 6 {
            return Err(Ipv6Error::Version(version));
        }
        let payload_len = usize::from(u16::from_be_bytes([header[4], header[5]]));
        let bytes = bytes.get(..HEADER_LEN + payload_len).ok_or(Ipv6Error::Truncated)?;
        Ok(Self { header, bytes })
    }

    /// Differentiated services and ECN.
    #[inline]
    pub const fn traffic_class(&self) -> u8 {
        self.header[0] << 4 | self.header[1] >> 4
    }

    /// Explicit congestion notification.
    #[inline]
    pub const fn ecn(&self) -> Ecn {
        Ecn::of(self.traffic_class())
    }

    /// Flow label, 20 bits (RFC 6437).
    #[inline]
    pub const fn flow_label(&self) -> u32 {
        u32::from_be_bytes([0, self.header[1] & 0x0f, self.header[2], self.header[3]])
    }

    /// Type of the first extension header, or of the payload.
    #[inline]
    pub const fn next_header(&self) -> u8 {
        self.header[6]
    }

    /// Hop limit.
    #[inline]
    pub const fn hop_limit(&self) -> u8 {
        self.header[7]
    }

    /// Source address.
    #[inline]
    pub fn source(&self) -> Ipv6Addr {
        address(self.header, 8)
    }

    /// Destination address.
    #[inline]
    pub fn destination(&self) -> Ipv6Addr {
        address(self.header, 24)
    }

    /// Length of header and payload in bytes.
    #[inline]
    pub const fn total_len(&self) -> usize {
        self.bytes.len()
    }

    /// What follows the first header, up to the payload length: extension headers included.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        self.bytes.get(HEADER_LEN..).unwrap_or_default()
    }

    /// Header and payload, up to the payload length.
    #[inline]
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Walks the extension headers to the upper layer. Costs one comparison where there are none.
    #[inline]
    pub fn upper_layer(&self) -> Result<UpperLayer, Ipv6Error> {
        extension::upper_layer(self.bytes, self.next_header())
    }
}

#[inline]
fn address(header: &[u8; HEADER_LEN], at: usize) -> Ipv6Addr {
    let octets = header.get(at..).and_then(|rest| rest.first_chunk::<16>());
    octets.map_or(Ipv6Addr::UNSPECIFIED, |octets| Ipv6Addr::from_bits(u128::from_be_bytes(*octets)))
}

/// A header without extension headers, to emit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repr {
    /// Differentiated services and ECN.
    pub traffic_class: u8,
    /// Flow label; its low 20 bits are used (RFC 6437).
    pub flow_label: u32,
    /// Type of what follows.
    pub next_header: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Source address.
    pub source: Ipv6Addr,
    /// Destination address.
    pub destination: Ipv6Addr,
    /// Length of what follows the header in bytes.
    pub payload_len: u16,
}

impl Repr {
    /// A packet with hop limit 64.
    pub const fn new(source: Ipv6Addr, destination: Ipv6Addr, next_header: u8, payload_len: u16) -> Self {
        Self { traffic_class: 0, flow_label: 0, next_header, hop_limit: 64, source, destination, payload_len }
    }

    /// Writes the header to the front of `packet`.
    #[inline]
    pub fn emit(&self, packet: &mut [u8]) -> Result<(), Truncated> {
        let header = packet.first_chunk_mut::<HEADER_LEN>().ok_or(Truncated)?;
        let first = 6 << 28 | u32::from(self.traffic_class) << 20 | self.flow_label & 0xf_ffff;
        header[0..4].copy_from_slice(&first.to_be_bytes());
        header[4..6].copy_from_slice(&self.payload_len.to_be_bytes());
        header[6] = self.next_header;
        header[7] = self.hop_limit;
        header[8..24].copy_from_slice(&self.source.octets());
        header[24..40].copy_from_slice(&self.destination.octets());
        Ok(())
    }
}

/// Counts the hop limit of a checked packet down by one in place.
#[inline]
pub fn decrement_hop_limit(packet: &mut [u8]) -> Result<(), TtlExpired> {
    let header = packet.first_chunk_mut::<HEADER_LEN>().ok_or(TtlExpired)?;
    // RFC 8200 §3: a packet is discarded if its hop limit was zero when received or is decremented to zero.
    if header[7] <= 1 {
        return Err(TtlExpired);
    }
    header[7] = header[7].saturating_sub(1);
    Ok(())
}

/// Sets the traffic class (DSCP and ECN) of a checked packet in place.
#[inline]
pub fn set_traffic_class(packet: &mut [u8], traffic_class: u8) -> Result<(), Truncated> {
    let header = packet.first_chunk_mut::<HEADER_LEN>().ok_or(Truncated)?;
    header[0] = 0x60 | traffic_class >> 4;
    header[1] = traffic_class << 4 | header[1] & 0x0f;
    Ok(())
}

/// Sets the ECN bits of a checked packet in place.
#[inline]
pub fn set_ecn(packet: &mut [u8], ecn: Ecn) -> Result<(), Truncated> {
    let header = packet.first_chunk_mut::<HEADER_LEN>().ok_or(Truncated)?;
    header[1] = header[1] & !0x30 | ecn.bits() << 4;
    Ok(())
}

/// Sets the payload length of a packet in place.
#[inline]
pub fn set_payload_len(packet: &mut [u8], payload_len: u16) -> Result<(), Truncated> {
    let header = packet.first_chunk_mut::<HEADER_LEN>().ok_or(Truncated)?;
    header[4..6].copy_from_slice(&payload_len.to_be_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_header() {
        let mut bytes = vec![0x6a, 0xb1, 0x23, 0x45, 0, 2, 17, 63];
        bytes.extend("2001:db8::1".parse::<Ipv6Addr>().unwrap().octets());
        bytes.extend("2001:db8::2".parse::<Ipv6Addr>().unwrap().octets());
        bytes.extend([1, 2, 3]);
        let packet = Packet::parse(&bytes).unwrap();
        assert_eq!((packet.traffic_class(), packet.next_header(), packet.hop_limit()), (0xab, 17, 63));
        assert_eq!(packet.flow_label(), 0x12345);
        assert_eq!(packet.source(), "2001:db8::1".parse::<Ipv6Addr>().unwrap());
        assert_eq!(packet.destination(), "2001:db8::2".parse::<Ipv6Addr>().unwrap());
        assert_eq!((packet.total_len(), packet.payload()), (42, [1, 2].as_slice()), "padding is cut off");
        assert_eq!(packet.upper_layer(), Ok(UpperLayer { protocol: 17, offset: 40, fragment: None }));
        assert_eq!(Packet::parse(&bytes[..41]).unwrap_err(), Ipv6Error::Truncated);
        bytes[0] = 0x45;
        assert_eq!(Packet::parse(&bytes).unwrap_err(), Ipv6Error::Version(4));
    }

    #[test]
    fn hop_limit_runs_out() {
        let mut bytes = [0; HEADER_LEN];
        Repr { hop_limit: 2, ..Repr::new(Ipv6Addr::LOCALHOST, Ipv6Addr::LOCALHOST, 59, 0) }.emit(&mut bytes).unwrap();
        assert_eq!(decrement_hop_limit(&mut bytes), Ok(()));
        assert_eq!(Packet::parse(&bytes).unwrap().hop_limit(), 1);
        assert_eq!(decrement_hop_limit(&mut bytes), Err(TtlExpired));
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = Packet::parse(&bytes).map(|packet| (packet.source(), packet.upper_layer()));
            let mut bytes = bytes;
            let _ = decrement_hop_limit(&mut bytes);
            let _ = set_traffic_class(&mut bytes, 0xff);
            let _ = set_ecn(&mut bytes, Ecn::Ce);
        }

        #[test]
        fn emit_and_parse_agree(
            (traffic_class, hop_limit, next_header) in any::<(u8, u8, u8)>(), flow_label in 0u32..1 << 20,
            source: [u8; 16], destination: [u8; 16], payload_len in 0u16..64, class: u8,
        ) {
            let repr = Repr {
                traffic_class, flow_label, next_header, hop_limit, source: source.into(), destination: destination.into(), payload_len,
            };
            let mut bytes = vec![0; HEADER_LEN + usize::from(payload_len)];
            repr.emit(&mut bytes).unwrap();
            let read = |bytes: &[u8]| {
                let packet = Packet::parse(bytes).unwrap();
                Repr {
                    traffic_class: packet.traffic_class(), flow_label: packet.flow_label(), next_header: packet.next_header(),
                    hop_limit: packet.hop_limit(), source: packet.source(), destination: packet.destination(),
                    payload_len: packet.payload().len() as u16,
                }
            };
            prop_assert_eq!(read(&bytes), repr);
            set_ecn(&mut bytes, Ecn::Ce).unwrap();
            prop_assert_eq!(read(&bytes), Repr { traffic_class: traffic_class | 0b11, ..repr });
            set_traffic_class(&mut bytes, class).unwrap();
            prop_assert_eq!(read(&bytes), Repr { traffic_class: class, ..repr });
        }
    }
}
