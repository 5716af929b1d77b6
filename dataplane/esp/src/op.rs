//! One packet's work for whoever encrypts or decrypts: a crypto engine on this core or a device.

use std::fmt;
use std::ops::Range;

use vipsec_ipsec_mb::Block;
use vipsec_wire::iv::Iv;

use crate::header::{HEADER_LEN, ICV_LEN, NONCE_LEN};
use crate::sa::{SALT_LEN, Spi};

/// What has to be done with one packet under its SA's key: an AEAD in place, with everything but the key.
///
/// Offsets count from the packet's first byte, that of the ESP header. Header and trailer are in place already.
pub struct CryptoOp {
    nonce: Block,
    aad: Block,
    aad_len: usize,
    text_len: usize,
}

impl CryptoOp {
    /// The op of a packet with `text_len` bytes between header and ICV.
    #[inline(always)]
    pub(crate) fn new(spi: Spi, salt: [u8; SALT_LEN], iv: Iv, number: u64, esn: bool, text_len: usize) -> Self {
        // RFC 4106 §4, RFC 7634 §2: the nonce is the salt, then the IV. Sealing and opening want it in one piece: see `Block`.
        let nonce = (u128::from(u32::from_be_bytes(salt)) << 96) | (u128::from(u64::from_be_bytes(iv)) << 32);
        // RFC 4106 §5, RFC 7634 §2.1: SPI and number, 8 bytes with 32-bit numbers, 12 with extended ones.
        let spi = u128::from(spi.get()) << 96;
        let (aad, aad_len) = if esn {
            (spi | (u128::from(number) << 32), AAD_ESN_LEN)
        } else {
            (spi | (u128::from(number as u32) << 64), AAD_LEN)
        };
        Self { nonce: Block::from_be(nonce), aad: Block::from_be(aad), aad_len, text_len }
    }

    /// Salt and IV.
    #[inline(always)]
    pub fn nonce(&self) -> &[u8; NONCE_LEN] {
        let [nonce @ .., _, _, _, _] = self.nonce.as_bytes();
        nonce
    }

    /// SPI and sequence number: [`AAD_LEN`] or [`AAD_ESN_LEN`] bytes.
    #[inline(always)]
    pub fn aad(&self) -> &[u8] {
        self.aad.as_bytes().get(..self.aad_len).unwrap_or_default()
    }

    /// Where the plaintext stands that becomes ciphertext, or the other way round.
    #[inline(always)]
    pub fn text(&self) -> Range<usize> {
        HEADER_LEN..HEADER_LEN + self.text_len
    }

    /// Where the ICV stands, or belongs.
    #[inline(always)]
    pub fn icv(&self) -> Range<usize> {
        let start = HEADER_LEN + self.text_len;
        start..start + ICV_LEN
    }

    /// Text and ICV of the packet that this op is for; `None` if the packet is shorter than that.
    #[inline(always)]
    pub(crate) fn split<'a>(&self, packet: &'a mut [u8]) -> Option<(&'a mut [u8], &'a mut [u8; ICV_LEN])> {
        let (text, rest) = packet.get_mut(HEADER_LEN..)?.split_at_mut_checked(self.text_len)?;
        Some((text, rest.first_chunk_mut()?))
    }
}

/// Bytes of AAD with 32-bit sequence numbers.
pub const AAD_LEN: usize = 8;

/// Bytes of AAD with extended sequence numbers.
pub const AAD_ESN_LEN: usize = 12;

impl fmt::Debug for CryptoOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The salt is secret.
        f.debug_struct("CryptoOp").field("aad", &self.aad()).field("text", &self.text()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(number: u64, esn: bool) -> CryptoOp {
        let spi = Spi::new(0xaabb_ccdd).unwrap();
        CryptoOp::new(spi, [0xca, 0xfe, 0xba, 0xbe], [1, 2, 3, 4, 5, 6, 7, 8], number, esn, 20)
    }

    #[test]
    fn nonce_is_salt_then_iv() {
        assert_eq!(op(1, false).nonce(), &[0xca, 0xfe, 0xba, 0xbe, 1, 2, 3, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn aad_is_spi_then_number() {
        let number = 0x0102_0304_0506_0708;
        assert_eq!(op(number, false).aad(), &[0xaa, 0xbb, 0xcc, 0xdd, 5, 6, 7, 8]);
        assert_eq!(op(number, true).aad(), &[0xaa, 0xbb, 0xcc, 0xdd, 1, 2, 3, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn text_and_icv_follow_the_header() {
        let mut packet: Vec<u8> = (0..16 + 20 + 16).collect();
        assert_eq!((op(1, false).text(), op(1, false).icv()), (16..36, 36..52));
        let (text, icv) = op(1, false).split(&mut packet).unwrap();
        assert_eq!((text.len(), text[0], icv[0]), (20, 16, 36));
        assert!(op(1, false).split(&mut packet[..51]).is_none());
    }
}
