//! The layout of an ESP packet with AES-GCM, and the nonce and AAD made from its header.

use vipsec_wire::iv::Iv;
use zerocopy::byteorder::network_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::sa::{SALT_LEN, Spi};

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
/// RFC 4303 §2, RFC 4106 §3.
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

/// Bytes of integrity check value (RFC 4106 §6: a full-length ICV MUST be supported; no other is negotiated here).
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

/// Bytes of an AES-GCM nonce.
pub const NONCE_LEN: usize = 12;

/// The nonce (RFC 4106 §4): salt, then IV.
///
/// Built as one 16-byte word: engines load it as a whole, and a load that spans two recent stores stalls.
#[repr(align(16))]
pub(crate) struct Nonce([u8; 16]);

impl Nonce {
    pub(crate) fn new(salt: [u8; SALT_LEN], iv: Iv) -> Self {
        let word = (u128::from(u32::from_be_bytes(salt)) << 96) | (u128::from(u64::from_be_bytes(iv)) << 32);
        Self(word.to_be_bytes())
    }

    pub(crate) fn as_bytes(&self) -> &[u8; NONCE_LEN] {
        let [nonce @ .., _, _, _, _] = &self.0;
        nonce
    }
}

/// The additional authenticated data (RFC 4106 §5). One word, for the nonce's reason.
#[repr(align(16))]
pub(crate) struct Aad {
    bytes: [u8; 16],
    len: usize,
}

impl Aad {
    /// SPI and number: 8 bytes with 32-bit numbers, 12 bytes with extended ones.
    pub(crate) fn new(spi: Spi, number: u64, esn: bool) -> Self {
        let spi = u128::from(spi.get()) << 96;
        if esn {
            Self { bytes: (spi | (u128::from(number) << 32)).to_be_bytes(), len: 12 }
        } else {
            Self { bytes: (spi | (u128::from(number as u32) << 64)).to_be_bytes(), len: 8 }
        }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonce_is_salt_then_iv() {
        let nonce = Nonce::new([0xca, 0xfe, 0xba, 0xbe], [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(nonce.as_bytes(), &[0xca, 0xfe, 0xba, 0xbe, 1, 2, 3, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn aad_is_spi_then_number() {
        let spi = Spi::new(0xaabb_ccdd).unwrap();
        let number = 0x0102_0304_0506_0708;
        assert_eq!(Aad::new(spi, number, false).as_bytes(), &[0xaa, 0xbb, 0xcc, 0xdd, 5, 6, 7, 8]);
        assert_eq!(Aad::new(spi, number, true).as_bytes(), &[0xaa, 0xbb, 0xcc, 0xdd, 1, 2, 3, 4, 5, 6, 7, 8]);
    }
}
