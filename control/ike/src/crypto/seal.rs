//! The Encrypted payload with AES-GCM (RFC 5282).

use aws_lc_rs::aead::{Aad, LessSafeKey, Nonce, UnboundKey};
use thiserror::Error;
use vipsec_wire::iv::Iv;
use zeroize::Zeroizing;

use super::transform::Encryption;
use super::{CryptoError, Secret};
use crate::message::{Header, ParseError, Payload, Received, Unsealed, encode_unsealed};

const IV_LEN: usize = 8;
const ICV_LEN: usize = 16;

/// Why a protected message gave no payloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum OpenError {
    /// It is no protected message, or doesn't authenticate: nobody knows who sent it.
    #[error("not authentic")]
    NotAuthentic,
    /// The peer sent it, but what is inside is malformed.
    #[error(transparent)]
    Malformed(ParseError),
}

fn key(encryption: Encryption, keymat: &Secret) -> Result<(LessSafeKey, [u8; Encryption::SALT_LEN]), CryptoError> {
    let (key, salt) = keymat.expose().split_last_chunk().ok_or(CryptoError)?;
    let key = UnboundKey::new(encryption.aead(), key).map_err(|_| CryptoError)?;
    Ok((LessSafeKey::new(key), *salt))
}

/// RFC 5282 §4: the nonce is the salt followed by the IV.
fn nonce(salt: [u8; Encryption::SALT_LEN], iv: Iv) -> Nonce {
    let mut nonce = [0; Encryption::SALT_LEN + IV_LEN];
    let (head, tail) = nonce.split_at_mut(Encryption::SALT_LEN);
    head.copy_from_slice(&salt);
    tail.copy_from_slice(&iv);
    Nonce::assume_unique_for_key(nonce)
}

/// Writes a protected message. `iv` was never used with this key before.
pub(crate) fn seal(
    encryption: Encryption,
    keymat: &Secret,
    iv: Iv,
    header: &Header,
    payloads: &[Payload],
) -> Result<Vec<u8>, CryptoError> {
    seal_unsealed(encryption, keymat, iv, encode_unsealed(header, payloads, IV_LEN + ICV_LEN))
}

/// The same, with the critical bit of the first payload set: none of ours ever has it.
#[cfg(test)]
pub(crate) fn seal_critical(
    encryption: Encryption,
    keymat: &Secret,
    iv: Iv,
    header: &Header,
    payloads: &[Payload],
) -> Result<Vec<u8>, CryptoError> {
    let mut message = encode_unsealed(header, payloads, IV_LEN + ICV_LEN);
    message.plaintext[1] |= 0x80;
    seal_unsealed(encryption, keymat, iv, message)
}

fn seal_unsealed(
    encryption: Encryption,
    keymat: &Secret,
    iv: Iv,
    mut message: Unsealed,
) -> Result<Vec<u8>, CryptoError> {
    let (key, salt) = key(encryption, keymat)?;
    let aad = Aad::from(&message.associated_data);
    let tag = key.seal_in_place_separate_tag(nonce(salt, iv), aad, &mut message.plaintext).map_err(|_| CryptoError)?;
    let mut out = message.associated_data;
    out.extend_from_slice(&iv);
    out.extend_from_slice(&message.plaintext);
    out.extend_from_slice(tag.as_ref());
    Ok(out)
}

/// Reads a protected message.
pub(crate) fn open(encryption: Encryption, keymat: &Secret, message: &Received<'_>) -> Result<Vec<Payload>, OpenError> {
    let sealed = message.sealed().map_err(|_| OpenError::NotAuthentic)?;
    let (iv, ciphertext) = sealed.body.split_first_chunk::<IV_LEN>().ok_or(OpenError::NotAuthentic)?;
    let (key, salt) = key(encryption, keymat).map_err(|_| OpenError::NotAuthentic)?;
    let mut buffer = Zeroizing::new(ciphertext.to_vec());
    let plaintext = key
        .open_in_place(nonce(salt, *iv), Aad::from(sealed.associated_data), &mut buffer)
        .map_err(|_| OpenError::NotAuthentic)?;
    sealed.inner(plaintext).map_err(OpenError::Malformed)
}
