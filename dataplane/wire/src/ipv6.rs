//! IPv6 (RFC 8200), as much as it takes to recognise a packet. Extension headers are not walked.
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

/// Length of the header in bytes.
pub const HEADER_LEN: usize = 40;

/// Why bytes are not an IPv6 packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Ipv6Error {
    /// Shorter than the header, or than the payload length says.
    #[error("the IPv6 packet is truncated")]
    Truncated,
    /// Another version.
    #[error("IP version {0} where 6 was expected")]
    Version(u8),
}

/// A checked IPv6 packet, read in place.
#[derive(Debug, Clone, Copy)]
pub struct Packet<'a> {
    header: &'a [u8; HEADER_LEN],
    payload: &'a [u8],
}

impl<'a> Packet<'a> {
    /// Checks version and lengths. `bytes` may be longer than the packet.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Ipv6Error> {
        let (header, rest) = bytes.split_first_chunk::<HEADER_LEN>().ok_or(Ipv6Error::Truncated)?;
        let version = header[0] >> 4;
        if version != 6 {
            return Err(Ipv6Error::Version(version));
        }
        let payload_len = usize::from(u16::from_be_bytes([header[4], header[5]]));
        let payload = rest.get(..payload_len).ok_or(Ipv6Error::Truncated)?;
        Ok(Self { header, payload })
    }

    /// Differentiated services and ECN.
    pub const fn traffic_class(&self) -> u8 {
        self.header[0] << 4 | self.header[1] >> 4
    }

    /// Type of the first extension header, or of the payload.
    pub const fn next_header(&self) -> u8 {
        self.header[6]
    }

    /// Hop limit.
    pub const fn hop_limit(&self) -> u8 {
        self.header[7]
    }

    fn address(&self, at: usize) -> Ipv6Addr {
        let octets = self.header.get(at..).and_then(|rest| rest.first_chunk::<16>());
        octets.map_or(Ipv6Addr::UNSPECIFIED, |octets| Ipv6Addr::from(*octets))
    }

    /// Source address.
    pub fn source(&self) -> Ipv6Addr {
        self.address(8)
    }

    /// Destination address.
    pub fn destination(&self) -> Ipv6Addr {
        self.address(24)
    }

    /// What follows the header, up to the payload length.
    pub const fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_header() {
        let mut bytes = vec![0x6a, 0xb0, 0, 0, 0, 2, 17, 63];
        bytes.extend("2001:db8::1".parse::<Ipv6Addr>().unwrap().octets());
        bytes.extend("2001:db8::2".parse::<Ipv6Addr>().unwrap().octets());
        bytes.extend([1, 2, 3]);
        let packet = Packet::parse(&bytes).unwrap();
        assert_eq!((packet.traffic_class(), packet.next_header(), packet.hop_limit()), (0xab, 17, 63));
        assert_eq!(packet.source(), "2001:db8::1".parse::<Ipv6Addr>().unwrap());
        assert_eq!(packet.destination(), "2001:db8::2".parse::<Ipv6Addr>().unwrap());
        assert_eq!(packet.payload(), [1, 2]);
        assert_eq!(Packet::parse(&bytes[..41]).unwrap_err(), Ipv6Error::Truncated);
        bytes[0] = 0x45;
        assert_eq!(Packet::parse(&bytes).unwrap_err(), Ipv6Error::Version(4));
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = Packet::parse(&bytes).map(|packet| (packet.source(), packet.payload().len()));
        }
    }
}
