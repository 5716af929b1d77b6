//! Ethernet II.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                       destination MAC                         |
//! +                               +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                               |                               |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+                               +
//! |                          source MAC                           |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |           EtherType           |  payload ...
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-
//! ```

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::Truncated;

/// Length of the header in bytes.
pub const HEADER_LEN: usize = 14;

/// A MAC address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// All stations.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// The six bytes.
    pub const fn octets(self) -> [u8; 6] {
        self.0
    }

    /// Is it a group address (broadcast included)?
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// Is it `00:00:00:00:00:00`, which no station has?
    pub fn is_unspecified(self) -> bool {
        self.0 == [0; 6]
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text is not six hexadecimal bytes separated by colons.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is not a MAC address (aa:bb:cc:dd:ee:ff)")]
pub struct InvalidMacAddr(pub String);

impl FromStr for MacAddr {
    type Err = InvalidMacAddr;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidMacAddr(text.to_owned());
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let part = parts.next().ok_or_else(invalid)?;
            if part.len() != 2 || !part.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(invalid());
            }
            *octet = u8::from_str_radix(part, 16).map_err(|_| invalid())?;
        }
        if parts.next().is_some() {
            return Err(invalid());
        }
        Ok(Self(octets))
    }
}

/// What an Ethernet frame carries.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct EtherType(pub u16);

impl EtherType {
    /// IPv4.
    pub const IPV4: Self = Self(0x0800);
    /// ARP.
    pub const ARP: Self = Self(0x0806);
    /// IPv6.
    pub const IPV6: Self = Self(0x86dd);
    /// Our advertisements: IEEE 802 local experimental EtherType 1 (IEEE 802 §9.2.4).
    pub const ADVERTISEMENT: Self = Self(0x88b5);
}

impl fmt::Debug for EtherType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#06x}", self.0)
    }
}

/// An Ethernet header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Receiver.
    pub destination: MacAddr,
    /// Sender.
    pub source: MacAddr,
    /// Type of the payload.
    pub ethertype: EtherType,
}

impl Header {
    /// Reads the header, returns it and the payload (with what padding the frame has).
    pub fn parse(frame: &[u8]) -> Result<(Self, &[u8]), Truncated> {
        let (header, payload) = frame.split_first_chunk::<HEADER_LEN>().ok_or(Truncated)?;
        let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1] = *header;
        let header = Self {
            destination: MacAddr([d0, d1, d2, d3, d4, d5]),
            source: MacAddr([s0, s1, s2, s3, s4, s5]),
            ethertype: EtherType(u16::from_be_bytes([t0, t1])),
        };
        Ok((header, payload))
    }

    /// The header's bytes.
    pub fn to_bytes(&self) -> [u8; HEADER_LEN] {
        let [d0, d1, d2, d3, d4, d5] = self.destination.0;
        let [s0, s1, s2, s3, s4, s5] = self.source.0;
        let [t0, t1] = self.ethertype.0.to_be_bytes();
        [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1]
    }

    /// Writes the header to the front of `frame`.
    pub fn emit(&self, frame: &mut [u8]) -> Result<(), Truncated> {
        *frame.first_chunk_mut::<HEADER_LEN>().ok_or(Truncated)? = self.to_bytes();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn mac_text() {
        let mac: MacAddr = "02:76:70:00:0A:ff".parse().unwrap();
        assert_eq!(mac, MacAddr([0x02, 0x76, 0x70, 0, 0x0a, 0xff]));
        assert_eq!(mac.to_string(), "02:76:70:00:0a:ff");
        for wrong in
            ["", "02:76:70:00:0a", "02:76:70:00:0a:ff:00", "2:76:70:0:a:ff", "02-76-70-00-0a-ff", "+2:76:70:00:0a:ff"]
        {
            assert!(wrong.parse::<MacAddr>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn known_frame() {
        let frame = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 0x08, 0x06, 0xaa];
        let (header, payload) = Header::parse(&frame).unwrap();
        assert_eq!(header.destination, MacAddr::BROADCAST);
        assert_eq!(header.source, MacAddr([2, 0, 0, 0, 0, 1]));
        assert_eq!(header.ethertype, EtherType::ARP);
        assert_eq!(payload, [0xaa]);
        assert_eq!(Header::parse(&frame[..13]), Err(Truncated));
    }

    proptest! {
        #[test]
        fn emit_and_parse_agree(destination: [u8; 6], source: [u8; 6], ethertype: u16) {
            let header = Header { destination: MacAddr(destination), source: MacAddr(source), ethertype: EtherType(ethertype) };
            let mut frame = [0; 20];
            header.emit(&mut frame).unwrap();
            prop_assert_eq!(Header::parse(&frame).unwrap().0, header);
            prop_assert_eq!(MacAddr(source).to_string().parse(), Ok(MacAddr(source)));
        }
    }
}
