//! RustCrypto's aes-gcm and chacha20poly1305.

use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes128Gcm, Aes256Gcm};
use chacha20poly1305::ChaCha20Poly1305;

use super::{Aead, BadTag, ContextError, SealFailed};
use crate::header::{ICV_LEN, NONCE_LEN};
use crate::sa::Algorithm;

/// An expanded key (with AES the GHASH key too), inline; wiped on drop.
pub struct AesGcm(Cipher);

enum Cipher {
    Aes128(Aes128Gcm),
    Aes256(Aes256Gcm),
    ChaCha20(ChaCha20Poly1305),
}

impl Aead for AesGcm {
    fn new(algorithm: Algorithm, key: &[u8]) -> Result<Self, ContextError> {
        Ok(Self(match algorithm {
            Algorithm::Aes128Gcm => {
                Cipher::Aes128(Aes128Gcm::new_from_slice(key).map_err(|_| ContextError::KeyLength)?)
            }
            Algorithm::Aes256Gcm => {
                Cipher::Aes256(Aes256Gcm::new_from_slice(key).map_err(|_| ContextError::KeyLength)?)
            }
            Algorithm::ChaCha20Poly1305 => {
                Cipher::ChaCha20(ChaCha20Poly1305::new_from_slice(key).map_err(|_| ContextError::KeyLength)?)
            }
        }))
    }

    fn seal_in_place(
        &self,
        nonce: &[u8; NONCE_LEN],
        aad: &[u8],
        buffer: &mut [u8],
        icv: &mut [u8; ICV_LEN],
    ) -> Result<(), SealFailed> {
        let tag = match &self.0 {
            Cipher::Aes128(aead) => aead.encrypt_inout_detached(nonce.into(), aad, buffer.into()),
            Cipher::Aes256(aead) => aead.encrypt_inout_detached(nonce.into(), aad, buffer.into()),
            Cipher::ChaCha20(aead) => aead.encrypt_inout_detached(nonce.into(), aad, buffer.into()),
        };
        *icv = tag.map(Into::into).map_err(|_| SealFailed)?;
        Ok(())
    }

    fn open_in_place(
        &self,
        nonce: &[u8; NONCE_LEN],
        aad: &[u8],
        buffer: &mut [u8],
        tag: &[u8; ICV_LEN],
    ) -> Result<(), BadTag> {
        match &self.0 {
            Cipher::Aes128(aead) => aead.decrypt_inout_detached(nonce.into(), aad, buffer.into(), tag.into()),
            Cipher::Aes256(aead) => aead.decrypt_inout_detached(nonce.into(), aad, buffer.into(), tag.into()),
            Cipher::ChaCha20(aead) => aead.decrypt_inout_detached(nonce.into(), aad, buffer.into(), tag.into()),
        }
        .map_err(|_| BadTag)
    }
}
