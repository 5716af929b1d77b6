//! The layout of an ESP packet with an AEAD of the AES-GCM family.

use vipsec_wire::iv::Iv;
use zerocopy::byteorder::network_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// SPI, sequence number and explicit IV: what stands before the ciphertext.
///
/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |               Security Parameters Index (SPI)                 |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |             Sequence Number, low 32 bits                      |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                  Initialization Vector                        |
/// |                       (8 bytes)                               |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ~  inner packet, then padding 1, 2, 3, …        (ciphertext)    ~
/// +                               +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                               |  Pad Length   |  Next Header  |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ~              Integrity Check Value (16 bytes)                 ~
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
///
/// RFC 4303 §2, RFC 4106 §3, RFC 7634 §2.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Header {
    /// Security parameters index.
    pub spi: U32,
    /// Sequence number, the low 32 bits of an extended one.
    pub sequence: U32,
    /// Explicit IV.
    pub iv: Iv,
}

/// Bytes in front of the ciphertext.
pub const HEADER_LEN: usize = size_of::<Header>();

/// Pad Length and Next Header.
pub const TRAILER_LEN: usize = 2;

/// Bytes of integrity check value (RFC 4106 §6: a full-length ICV MUST be supported; no other is negotiated here. RFC 7634 §2.2
/// knows no other).
pub const ICV_LEN: usize = 16;

/// RFC 4303 §2.4: the ciphertext ends on a boundary of that many bytes.
pub const ALIGNMENT: usize = 4;

/// Most bytes that sealing adds to a packet: header, padding, trailer, ICV (RFC 4106 §7).
pub const OVERHEAD_MAX: usize = HEADER_LEN + (ALIGNMENT - 1) + TRAILER_LEN + ICV_LEN;

/// RFC 4303 §2.6: the Next Header of a dummy packet.
pub const NO_NEXT_HEADER: u8 = 59;

/// The SPI of a packet that starts at its ESP header, reserved values included; `None` if it is too short to carry one.
pub fn spi_of(packet: &[u8]) -> Option<u32> {
    packet.first_chunk().map(|spi| u32::from_be_bytes(*spi))
}

/// Bytes of a nonce: salt and IV.
pub const NONCE_LEN: usize = 12;
