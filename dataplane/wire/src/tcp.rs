//! TCP (RFC 9293), as much as a connection table needs.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |          Source Port          |       Destination Port        |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                        Sequence Number                        |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                    Acknowledgment Number                      |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! | Offs. | Rsrvd |     Flags     |            Window             |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |           Checksum            |         Urgent Pointer        |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```

use thiserror::Error;

/// Length of a header without options, in bytes.
pub const HEADER_LEN: usize = 20;

/// The control bits CWR, ECE, URG, ACK, PSH, RST, SYN, FIN, from the highest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Flags(pub u8);

impl Flags {
    /// No more data from the sender.
    pub const FIN: Self = Self(0x01);
    /// Synchronise sequence numbers.
    pub const SYN: Self = Self(0x02);
    /// Reset the connection.
    pub const RST: Self = Self(0x04);
    /// Acknowledgment number is valid.
    pub const ACK: Self = Self(0x10);

    /// Are all bits of `flags` set?
    pub const fn contains(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }

    /// The bits of both.
    #[must_use]
    pub const fn union(self, flags: Self) -> Self {
        Self(self.0 | flags.0)
    }

    /// Does the segment open a connection (SYN without ACK)?
    pub const fn opens(self) -> bool {
        self.contains(Self::SYN) && !self.contains(Self::ACK)
    }
}

/// Why bytes are not a TCP segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TcpError {
    /// Shorter than its header.
    #[error("the TCP segment is truncated")]
    Truncated,
    /// The data offset is below 5.
    #[error("the TCP data offset is wrong")]
    DataOffset,
}

/// A TCP segment with a checked data offset, read in place.
#[derive(Debug, Clone, Copy)]
pub struct Segment<'a> {
    header: &'a [u8; HEADER_LEN],
    payload: &'a [u8],
}

impl<'a> Segment<'a> {
    /// Checks the data offset.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, TcpError> {
        let header = bytes.first_chunk::<HEADER_LEN>().ok_or(TcpError::Truncated)?;
        let header_len = usize::from(header[12] >> 4) * 4;
        if header_len < HEADER_LEN {
            return Err(TcpError::DataOffset);
        }
        Ok(Self { header, payload: bytes.get(header_len..).ok_or(TcpError::Truncated)? })
    }

    /// Source port.
    pub const fn source_port(&self) -> u16 {
        u16::from_be_bytes([self.header[0], self.header[1]])
    }

    /// Destination port.
    pub const fn destination_port(&self) -> u16 {
        u16::from_be_bytes([self.header[2], self.header[3]])
    }

    /// Control bits.
    pub const fn flags(&self) -> Flags {
        Flags(self.header[13])
    }

    /// What follows the header and its options.
    pub const fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_segment() {
        // From scapy: TCP(sport=1234, dport=80, flags="SA", options=[("MSS", 1460)]) / b"x"
        let bytes = [
            0x04, 0xd2, 0x00, 0x50, 0, 0, 0, 0, 0, 0, 0, 0, 0x60, 0x12, 0x20, 0x00, 0x0e, 0xb7, 0, 0, 0x02, 0x04, 0x05,
            0xb4, b'x',
        ];
        let segment = Segment::parse(&bytes).unwrap();
        assert_eq!((segment.source_port(), segment.destination_port()), (1234, 80));
        assert_eq!(segment.flags(), Flags::SYN.union(Flags::ACK));
        assert!(!segment.flags().opens());
        assert_eq!(segment.payload(), b"x");
        assert_eq!(Segment::parse(&bytes[..23]).unwrap_err(), TcpError::Truncated);
        let mut short = bytes;
        short[12] = 0x40;
        assert_eq!(Segment::parse(&short).unwrap_err(), TcpError::DataOffset);
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = Segment::parse(&bytes).map(|segment| segment.flags());
        }
    }
}
