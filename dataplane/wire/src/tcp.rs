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
//! |  Options, Offs. * 4 - 20 bytes ...
//! ```

use thiserror::Error;

use crate::checksum;
use crate::ip::Version;

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
    options: &'a [u8],
    payload: &'a [u8],
}

impl<'a> Segment<'a> {
    /// Checks the data offset.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, TcpError> {
        let header = bytes.first_chunk::<HEADER_LEN>().ok_or(TcpError::Truncated)?;
        let header_len = usize::from(header[12] >> 4) * 4;
        if header_len < HEADER_LEN {
            return Err(TcpError::DataOffset);
        }
        let (whole_header, payload) = bytes.split_at_checked(header_len).ok_or(TcpError::Truncated)?;
        Ok(Self { header, options: whole_header.get(HEADER_LEN..).unwrap_or_default(), payload })
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

    /// The options, padding included.
    pub const fn options(&self) -> &'a [u8] {
        self.options
    }

    /// The maximum segment size that the sender of a SYN announces, in bytes.
    pub fn mss(&self) -> Option<u16> {
        let at = next_mss(self.options, 0)?;
        let value = self.options.get(at..)?.first_chunk::<2>()?;
        Some(u16::from_be_bytes(*value))
    }

    /// What follows the header and its options.
    pub const fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

/// The largest MSS whose segments fit packets of `mtu` bytes.
///
/// RFC 6691 §2: the MSS counts neither IP nor TCP options; who sends them makes the segment smaller.
pub const fn mss_for(mtu: usize, version: Version) -> u16 {
    let mss = mtu.saturating_sub(version.header_len() + HEADER_LEN);
    if mss > u16::MAX as usize { u16::MAX } else { mss as u16 }
}

/// Lowers the maximum segment size that a SYN announces to `mss_max`, and updates the checksum. Returns whether it had to.
///
/// Without the option nothing is added: the other end then takes a default that fits any path (RFC 9293 §3.7.1).
pub fn clamp_mss(segment: &mut [u8], mss_max: u16) -> Result<bool, TcpError> {
    let parsed = Segment::parse(segment)?;
    if !parsed.flags().contains(Flags::SYN) || parsed.options().is_empty() {
        return Ok(false);
    }
    let options_len = parsed.options().len();
    let (header, rest) = segment.split_first_chunk_mut::<HEADER_LEN>().ok_or(TcpError::Truncated)?;
    let options = rest.get_mut(..options_len).ok_or(TcpError::Truncated)?;
    let mut changed = false;
    let mut from = 0;
    // A SYN has one such option. Were there two, receivers would differ in which they heed.
    while let Some(at) = next_mss(options, from) {
        from = at + 2;
        let Some(value) = options.get_mut(at..).and_then(|rest| rest.first_chunk_mut::<2>()) else { break };
        let old = u16::from_be_bytes(*value);
        if old <= mss_max {
            continue;
        }
        *value = mss_max.to_be_bytes();
        let (old, new) = if at % 2 == 0 { (old, mss_max) } else { (old.swap_bytes(), mss_max.swap_bytes()) };
        let checksum = checksum::update(u16::from_be_bytes([header[16], header[17]]), old, new);
        header[16..18].copy_from_slice(&checksum.to_be_bytes());
        changed = true;
    }
    Ok(changed)
}

/// Where the next maximum segment size stands in the options, from the option at `at` on (RFC 9293 §3.1, §3.2).
fn next_mss(options: &[u8], mut at: usize) -> Option<usize> {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    const MSS: [u8; 2] = [2, 4];
    loop {
        match *options.get(at..)? {
            [] | [END, ..] => return None,
            [NO_OPERATION, ..] => at += 1,
            [kind, len, _, _, ..] if [kind, len] == MSS => return Some(at + 2),
            [_, len, ..] if len >= 2 => at += usize::from(len),
            _ => return None,
        }
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
