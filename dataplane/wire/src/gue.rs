//! Generic UDP encapsulation, variant 0 (draft-ietf-intarea-gue-09 §3).
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! | 0 |C|   Hlen  |  Proto/ctype  |             Flags             |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |  Extension fields and private data, Hlen * 4 bytes ...
//! ```

use thiserror::Error;

use crate::Truncated;
use crate::ip::Version;

/// Length of the header without fields in bytes.
pub const HEADER_LEN: usize = 4;

/// The UDP port that IANA assigned.
pub const PORT: u16 = 6080;

/// Why bytes are not a GUE packet that we take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum GueError {
    /// Shorter than its header.
    #[error("the GUE packet is truncated")]
    Truncated,
    /// Another variant than 0.
    #[error("GUE variant {0}")]
    Variant(u8),
    /// A control message.
    #[error("a GUE control message")]
    Control,
    /// Flags for extensions that we don't know, and so can't skip.
    #[error("unknown GUE flags {0:#06x}")]
    UnknownFlags(u16),
}

/// A GUE data header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// IP protocol of what is carried.
    pub protocol: u8,
}

impl Header {
    /// A header in front of an IP packet.
    pub const fn of_ip(version: Version) -> Self {
        Self { protocol: version.protocol() }
    }

    /// Reads the header, returns it and what is carried. Private data is skipped.
    pub fn parse(bytes: &[u8]) -> Result<(Self, &[u8]), GueError> {
        let ([first, protocol, f0, f1], rest) = bytes.split_first_chunk::<HEADER_LEN>().ok_or(GueError::Truncated)?;
        let variant = first >> 6;
        if variant != 0 {
            return Err(GueError::Variant(variant));
        }
        if first & 0x20 != 0 {
            return Err(GueError::Control);
        }
        let flags = u16::from_be_bytes([*f0, *f1]);
        if flags != 0 {
            return Err(GueError::UnknownFlags(flags));
        }
        let payload = rest.get(usize::from(first & 0x1f) * 4..).ok_or(GueError::Truncated)?;
        Ok((Self { protocol: *protocol }, payload))
    }

    /// Writes the header to the front of `bytes`.
    pub fn emit(&self, bytes: &mut [u8]) -> Result<(), Truncated> {
        *bytes.first_chunk_mut().ok_or(Truncated)? = [0, self.protocol, 0, 0];
        Ok(())
    }
}

/// The source port for a flow: packets of one flow have one, so that routers that share load by ports keep their order.
///
/// From the ephemeral range, 49152 to 65535, as the draft asks for (§5.11).
pub const fn source_port(flow_hash: u32) -> u16 {
    const FIRST: u16 = 49152;
    // The range is 2^14 ports wide.
    FIRST | (flow_hash ^ flow_hash >> 16) as u16 & 0x3fff
}
