//! Intel's Multi-Buffer Crypto for IPsec.

use vipsec_ipsec_mb::{Cipher, Key, KeyError};

use super::{Aead, BadTag, ContextError, SealFailed};
use crate::header::{ICV_LEN, NONCE_LEN};
use crate::sa::Algorithm;

const _: () = assert!(NONCE_LEN == vipsec_ipsec_mb::NONCE_LEN && ICV_LEN == vipsec_ipsec_mb::TAG_LEN);

/// An expanded key, inline; wiped on drop.
pub struct IpsecMb(Key);

impl Aead for IpsecMb {
    fn new(algorithm: Algorithm, key: &[u8]) -> Result<Self, ContextError> {
        let cipher = match algorithm {
            Algorithm::Aes128Gcm => Cipher::Aes128Gcm,
            Algorithm::Aes256Gcm => Cipher::Aes256Gcm,
            Algorithm::ChaCha20Poly1305 => Cipher::ChaCha20Poly1305,
        };
        Key::new(cipher, key).map(Self).map_err(|error| match error {
            KeyError::Unavailable => ContextError::Unavailable,
            KeyError::Length => ContextError::KeyLength,
        })
    }

    #[inline]
    fn seal_in_place(
        &self,
        nonce: &[u8; NONCE_LEN],
        aad: &[u8],
        buffer: &mut [u8],
        icv: &mut [u8; ICV_LEN],
    ) -> Result<(), SealFailed> {
        self.0.seal_in_place(nonce, aad, buffer, icv).map_err(|_| SealFailed)
    }

    #[inline]
    fn open_in_place(
        &self,
        nonce: &[u8; NONCE_LEN],
        aad: &[u8],
        buffer: &mut [u8],
        tag: &[u8; ICV_LEN],
    ) -> Result<(), BadTag> {
        self.0.open_in_place(nonce, aad, buffer, tag).map_err(|_| BadTag)
    }
}
