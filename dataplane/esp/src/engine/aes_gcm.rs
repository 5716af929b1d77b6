//! RustCrypto's aes-gcm.

use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes128Gcm, Aes256Gcm};

use super::{Aead, BadKey, BadTag, SealFailed};
use crate::header::{ICV_LEN, NONCE_LEN};
use crate::sa::Algorithm;

/// An expanded key and the GHASH key, inline; wiped on drop.
pub struct AesGcm(Width);

enum Width {
    Aes128(Aes128Gcm),
    Aes256(Aes256Gcm),
}

impl Aead for AesGcm {
    fn new(algorithm: Algorithm, key: &[u8]) -> Result<Self, BadKey> {
        Ok(Self(match algorithm {
            Algorithm::Aes128Gcm => Width::Aes128(Aes128Gcm::new_from_slice(key).map_err(|_| BadKey)?),
            Algorithm::Aes256Gcm => Width::Aes256(Aes256Gcm::new_from_slice(key).map_err(|_| BadKey)?),
        }))
    }

    fn seal_in_place(
        &self,
        nonce: &[u8; NONCE_LEN],
        aad: &[u8],
        buffer: &mut [u8],
    ) -> Result<[u8; ICV_LEN], SealFailed> {
        let tag = match &self.0 {
            Width::Aes128(aead) => aead.encrypt_inout_detached(nonce.into(), aad, buffer.into()),
            Width::Aes256(aead) => aead.encrypt_inout_detached(nonce.into(), aad, buffer.into()),
        };
        tag.map(Into::into).map_err(|_| SealFailed)
    }

    fn open_in_place(
        &self,
        nonce: &[u8; NONCE_LEN],
        aad: &[u8],
        buffer: &mut [u8],
        tag: &[u8; ICV_LEN],
    ) -> Result<(), BadTag> {
        match &self.0 {
            Width::Aes128(aead) => aead.decrypt_inout_detached(nonce.into(), aad, buffer.into(), tag.into()),
            Width::Aes256(aead) => aead.decrypt_inout_detached(nonce.into(), aad, buffer.into(), tag.into()),
        }
        .map_err(|_| BadTag)
    }
}
