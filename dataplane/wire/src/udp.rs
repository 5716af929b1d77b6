//! UDP (RFC 768).
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |          Source Port          |       Destination Port        |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |            Length             |           Checksum            |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```

use std::net::Ipv4Addr;

use crate::Truncated;
use crate::checksum::Sum;
use crate::ip::{Address, protocol};

/// Length of the header in bytes.
pub const HEADER_LEN: usize = 8;

/// A UDP datagram with a checked length, read in place.
#[derive(Debug, Clone, Copy)]
pub struct Datagram<'a> {
    header: &'a [u8; HEADER_LEN],
    bytes: &'a [u8],
}

impl<'a> Datagram<'a> {
    /// Checks the length. `bytes` may be longer than the datagram.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Truncated> {
        let header = bytes.first_chunk::<HEADER_LEN>().ok_or(Truncated)?;
        let len = usize::from(u16::from_be_bytes([header[4], header[5]]));
        if len < HEADER_LEN {
            return Err(Truncated);
        }
        Ok(Self { header, bytes: bytes.get(..len).ok_or(Truncated)? })
    }

    /// Source port.
    pub const fn source_port(&self) -> u16 {
        u16::from_be_bytes([self.header[0], self.header[1]])
    }

    /// Destination port.
    pub const fn destination_port(&self) -> u16 {
        u16::from_be_bytes([self.header[2], self.header[3]])
    }

    /// The checksum; 0 means that the sender made none.
    pub const fn checksum(&self) -> u16 {
        u16::from_be_bytes([self.header[6], self.header[7]])
    }

    /// Verifies the checksum between these addresses. Whether it may be absent is the caller's to know: see [`ChecksumState::Absent`].
    pub fn checksum_state(&self, source: impl Into<Address>, destination: impl Into<Address>) -> ChecksumState {
        match self.checksum() {
            0 => ChecksumState::Absent,
            _ if sum(source.into(), destination.into(), self.bytes).finish() == 0 => ChecksumState::Right,
            _ => ChecksumState::Wrong,
        }
    }

    /// Is the checksum right between these addresses, or absent?
    pub fn checksum_is_valid_v4(&self, source: Ipv4Addr, destination: Ipv4Addr) -> bool {
        // RFC 768: "An all zero transmitted checksum value means that the transmitter generated no checksum".
        self.checksum_state(source, destination) != ChecksumState::Wrong
    }

    /// What follows the header, up to the length.
    pub fn payload(&self) -> &'a [u8] {
        self.bytes.get(HEADER_LEN..).unwrap_or_default()
    }
}

/// What a datagram's checksum says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChecksumState {
    /// It is right.
    Right,
    /// The sender made none. Over IPv4 that is allowed (RFC 768). Over IPv6 such a datagram is discarded (RFC 8200 §8.1), except on ports
    /// of tunnels that take it (RFC 6935 §5, RFC 6936 §4).
    Absent,
    /// It is wrong.
    Wrong,
}

fn sum(source: Address, destination: Address, datagram: &[u8]) -> Sum {
    let len = u32::try_from(datagram.len()).unwrap_or(u32::MAX);
    Sum::new().pseudo_header(source, destination, protocol::UDP, len).bytes(datagram)
}

/// A header to emit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repr {
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// Length of the payload in bytes.
    pub payload_len: u16,
}

impl Repr {
    /// Writes the header without a checksum to the front of `datagram`. The length saturates at 65535.
    pub fn emit(&self, datagram: &mut [u8]) -> Result<(), Truncated> {
        let header = datagram.first_chunk_mut::<HEADER_LEN>().ok_or(Truncated)?;
        header[0..2].copy_from_slice(&self.source_port.to_be_bytes());
        header[2..4].copy_from_slice(&self.destination_port.to_be_bytes());
        header[4..6].copy_from_slice(&(HEADER_LEN as u16).saturating_add(self.payload_len).to_be_bytes());
        header[6..8].copy_from_slice(&[0, 0]);
        Ok(())
    }
}

/// Writes the checksum into a datagram whose other fields and payload are complete.
pub fn fill_checksum_v4(source: Ipv4Addr, destination: Ipv4Addr, datagram: &mut [u8]) -> Result<(), Truncated> {
    fill_checksum(source, destination, datagram)
}

/// Writes the checksum into a datagram of either family whose other fields and payload are complete.
pub fn fill_checksum(
    source: impl Into<Address>,
    destination: impl Into<Address>,
    datagram: &mut [u8],
) -> Result<(), Truncated> {
    let (source, destination) = (source.into(), destination.into());
    datagram.first_chunk_mut::<HEADER_LEN>().ok_or(Truncated)?[6..8].copy_from_slice(&[0, 0]);
    // RFC 768, RFC 8200 §8.1: a computed checksum of zero is transmitted as all ones.
    let checksum = match sum(source, destination, datagram).finish() {
        0 => 0xffff,
        checksum => checksum,
    };
    datagram.first_chunk_mut::<HEADER_LEN>().ok_or(Truncated)?[6..8].copy_from_slice(&checksum.to_be_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_datagram() {
        // From scapy: IP(src="192.0.2.1", dst="198.51.100.7") / UDP(sport=500, dport=500) / b"vipsec"
        let bytes = [0x01, 0xf4, 0x01, 0xf4, 0x00, 0x0e, 0xc3, 0x6d, b'v', b'i', b'p', b's', b'e', b'c'];
        let (source, destination) = (Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(198, 51, 100, 7));
        let datagram = Datagram::parse(&bytes).unwrap();
        assert!(datagram.checksum_is_valid_v4(source, destination));
        let mut own = bytes;
        own[6..8].copy_from_slice(&[0xaa, 0xaa]);
        assert!(!Datagram::parse(&own).unwrap().checksum_is_valid_v4(source, destination));
        fill_checksum_v4(source, destination, &mut own).unwrap();
        assert_eq!(own, bytes);
        own[6..8].copy_from_slice(&[0, 0]);
        assert!(Datagram::parse(&own).unwrap().checksum_is_valid_v4(source, destination), "absent");
    }

    #[test]
    fn length_is_checked() {
        let mut bytes = [0, 1, 0, 2, 0, 8, 0, 0, 9, 9];
        assert_eq!(Datagram::parse(&bytes).unwrap().payload(), []);
        bytes[5] = 7;
        assert_eq!(Datagram::parse(&bytes).unwrap_err(), Truncated);
        bytes[5] = 11;
        assert_eq!(Datagram::parse(&bytes).unwrap_err(), Truncated);
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(datagram) = Datagram::parse(&bytes) {
                let _ = datagram.checksum_is_valid_v4(Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST);
            }
            let _ = fill_checksum_v4(Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST, &mut bytes.clone());
        }

        #[test]
        fn emit_and_parse_agree(
            source_port: u16, destination_port: u16, a: [u8; 4], b: [u8; 4],
            payload in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            let mut bytes = vec![0; HEADER_LEN];
            bytes.extend(&payload);
            Repr { source_port, destination_port, payload_len: payload.len() as u16 }.emit(&mut bytes).unwrap();
            fill_checksum_v4(a.into(), b.into(), &mut bytes).unwrap();
            let datagram = Datagram::parse(&bytes).unwrap();
            prop_assert_eq!((datagram.source_port(), datagram.destination_port()), (source_port, destination_port));
            prop_assert_eq!(datagram.payload(), payload);
            prop_assert!(datagram.checksum() != 0 && datagram.checksum_is_valid_v4(a.into(), b.into()));
        }
    }
}
