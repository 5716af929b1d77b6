//! AWS-LC through aws-lc-rs.

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

use super::{Aead, BadTag, ContextError, SealFailed};
use crate::header::{ICV_LEN, NONCE_LEN};
use crate::sa::Algorithm;

/// An AWS-LC context. The library keeps it on the heap and cleanses it on free.
pub struct AwsLc(LessSafeKey);

impl Aead for AwsLc {
    fn new(algorithm: Algorithm, key: &[u8]) -> Result<Self, ContextError> {
        let algorithm = match algorithm {
            Algorithm::Aes128Gcm => &AES_128_GCM,
            Algorithm::Aes256Gcm => &AES_256_GCM,
            Algorithm::ChaCha20Poly1305 => &CHACHA20_POLY1305,
        };
        UnboundKey::new(algorithm, key).map(|key| Self(LessSafeKey::new(key))).map_err(|_| ContextError::KeyLength)
    }

    #[inline]
    fn seal_in_place(
        &self,
        nonce: &[u8; NONCE_LEN],
        aad: &[u8],
        buffer: &mut [u8],
        icv: &mut [u8; ICV_LEN],
    ) -> Result<(), SealFailed> {
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let tag = self.0.seal_in_place_separate_tag(nonce, Aad::from(aad), buffer).map_err(|_| SealFailed)?;
        *icv = tag.as_ref().try_into().map_err(|_| SealFailed)?;
        Ok(())
    }

    #[inline]
    fn open_in_place(
        &self,
        nonce: &[u8; NONCE_LEN],
        aad: &[u8],
        buffer: &mut [u8],
        tag: &[u8; ICV_LEN],
    ) -> Result<(), BadTag> {
        let nonce = Nonce::assume_unique_for_key(*nonce);
        self.0.open_in_place_separate_tag(nonce, Aad::from(aad), tag, buffer).map(drop).map_err(|_| BadTag)
    }
}
