//! The protection of the Encrypted payload: combined-mode ciphers (RFC 5282, RFC 7634), and encryption beside integrity
//! (RFC 7296 §3.14).

use aws_lc_rs::aead::{Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::cipher::{DecryptingKey, DecryptionContext, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;
use aws_lc_rs::iv::FixedLength;
use serde::{Deserialize, Serialize};
use vipsec_wire::iv::Iv;
use zeroize::Zeroizing;

use super::transform::{Cbc, Encryption, Integrity};
use super::{CryptoError, Secret};
use crate::message::{Envelope, Sealed, Unsealed};

const AEAD_IV_LEN: usize = 8;
const AEAD_ICV_LEN: usize = 16;
const AES_BLOCK_LEN: usize = 16;

/// How an IKE SA protects its messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cipher {
    /// One algorithm does both.
    Combined(Encryption),
    /// Encryption, then integrity over what was encrypted.
    Separate(Cbc, Integrity),
}

/// The keys of one direction: SK_e and SK_a, the latter empty for a combined-mode cipher.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DirectionKeys<'a> {
    pub(crate) encryption: &'a Secret,
    pub(crate) integrity: &'a Secret,
}

impl Cipher {
    /// Length of SK_e in bytes: the key, and the salt of a combined-mode cipher (RFC 5282 §7.1).
    pub(super) const fn encryption_key_len(self) -> usize {
        match self {
            Self::Combined(encryption) => encryption.keymat_len(),
            Self::Separate(cbc, _) => cbc.key_len(),
        }
    }

    /// Length of SK_a in bytes. RFC 5282 §7.1: a combined-mode cipher has none.
    pub(super) const fn integrity_key_len(self) -> usize {
        match self {
            Self::Combined(_) => 0,
            Self::Separate(_, integrity) => integrity.key_len(),
        }
    }

    /// What it puts around the content.
    pub(crate) const fn envelope(self) -> Envelope {
        match self {
            // RFC 5282 §3: no alignment requirements.
            Self::Combined(_) => Envelope { iv_len: AEAD_IV_LEN, block_len: 1, icv_len: AEAD_ICV_LEN },
            Self::Separate(_, integrity) => {
                Envelope { iv_len: AES_BLOCK_LEN, block_len: AES_BLOCK_LEN, icv_len: integrity.icv_len() }
            }
        }
    }

    /// Protects a message. `iv` was never used with these keys before.
    pub(crate) fn seal(self, keys: DirectionKeys<'_>, iv: Iv, message: Unsealed) -> Result<Vec<u8>, CryptoError> {
        match self {
            Self::Combined(encryption) => seal_combined(encryption, keys.encryption, iv, message),
            Self::Separate(cbc, integrity) => seal_separate(cbc, integrity, keys, iv, message),
        }
    }

    /// Opens an Encrypted payload: its content, with padding and pad length.
    pub(crate) fn open(self, keys: DirectionKeys<'_>, sealed: &Sealed<'_>) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
        match self {
            Self::Combined(encryption) => open_combined(encryption, keys.encryption, sealed),
            Self::Separate(cbc, integrity) => open_separate(cbc, integrity, keys, sealed),
        }
    }
}

/// Key and salt.
fn combined_key(
    encryption: Encryption,
    keymat: &Secret,
) -> Result<(LessSafeKey, [u8; Encryption::SALT_LEN]), CryptoError> {
    let (key, salt) = keymat.expose().split_last_chunk().ok_or(CryptoError)?;
    let key = UnboundKey::new(encryption.aead(), key).map_err(|_| CryptoError)?;
    Ok((LessSafeKey::new(key), *salt))
}

/// RFC 5282 §4, RFC 7634 §2: the nonce is the salt followed by the IV.
fn nonce(salt: [u8; Encryption::SALT_LEN], iv: Iv) -> Nonce {
    let mut nonce = [0; Encryption::SALT_LEN + AEAD_IV_LEN];
    let (head, tail) = nonce.split_at_mut(Encryption::SALT_LEN);
    head.copy_from_slice(&salt);
    tail.copy_from_slice(&iv);
    Nonce::assume_unique_for_key(nonce)
}

fn seal_combined(encryption: Encryption, keymat: &Secret, iv: Iv, message: Unsealed) -> Result<Vec<u8>, CryptoError> {
    let Unsealed { associated_data: mut out, mut plaintext } = message;
    let (key, salt) = combined_key(encryption, keymat)?;
    let tag =
        key.seal_in_place_separate_tag(nonce(salt, iv), Aad::from(&out), &mut plaintext).map_err(|_| CryptoError)?;
    out.extend_from_slice(&iv);
    out.extend_from_slice(&plaintext);
    out.extend_from_slice(tag.as_ref());
    Ok(out)
}

fn open_combined(
    encryption: Encryption,
    keymat: &Secret,
    sealed: &Sealed<'_>,
) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
    let (iv, ciphertext) = sealed.body.split_first_chunk::<AEAD_IV_LEN>().ok_or(CryptoError)?;
    let (key, salt) = combined_key(encryption, keymat)?;
    let mut content = Zeroizing::new(ciphertext.to_vec());
    let len = key
        .open_in_place(nonce(salt, *iv), Aad::from(sealed.associated_data), &mut content)
        .map_err(|_| CryptoError)?
        .len();
    content.truncate(len);
    Ok(content)
}

/// RFC 7296 §3.14: for CBC the sender MUST select a new unpredictable IV for every message. The unique number, encrypted under the
/// same key, is one (NIST SP 800-38A, appendix C): so two appliances never use the same, and need no randomness for it.
fn cbc_iv(cbc: Cbc, key: &Secret, iv: Iv) -> Result<[u8; AES_BLOCK_LEN], CryptoError> {
    let mut block = [0; AES_BLOCK_LEN];
    let (head, _) = block.split_at_mut(iv.len());
    head.copy_from_slice(&iv);
    let key = UnboundCipherKey::new(cbc.cipher(), key.expose()).map_err(|_| CryptoError)?;
    EncryptingKey::ecb(key).and_then(|key| key.encrypt(&mut block)).map_err(|_| CryptoError)?;
    Ok(block)
}

fn icv(integrity: Integrity, key: &Secret, parts: &[&[u8]]) -> Vec<u8> {
    let mut context = hmac::Context::with_key(&hmac::Key::new(integrity.hmac(), key.expose()));
    parts.iter().for_each(|part| context.update(part));
    // RFC 4868 §2.1: truncated to half of the hash.
    context.sign().as_ref().iter().take(integrity.icv_len()).copied().collect()
}

fn seal_separate(
    cbc: Cbc,
    integrity: Integrity,
    keys: DirectionKeys<'_>,
    iv: Iv,
    message: Unsealed,
) -> Result<Vec<u8>, CryptoError> {
    let Unsealed { associated_data: mut out, mut plaintext } = message;
    let iv = cbc_iv(cbc, keys.encryption, iv)?;
    let key = UnboundCipherKey::new(cbc.cipher(), keys.encryption.expose()).map_err(|_| CryptoError)?;
    let context = EncryptionContext::Iv128(FixedLength::from(iv));
    EncryptingKey::cbc(key).and_then(|key| key.less_safe_encrypt(&mut plaintext, context)).map_err(|_| CryptoError)?;
    out.extend_from_slice(&iv);
    out.extend_from_slice(&plaintext);
    // RFC 7296 §3.14: over the entire message, starting with the IKE header through the Pad Length.
    let icv = icv(integrity, keys.integrity, &[&out]);
    out.extend_from_slice(&icv);
    Ok(out)
}

fn open_separate(
    cbc: Cbc,
    integrity: Integrity,
    keys: DirectionKeys<'_>,
    sealed: &Sealed<'_>,
) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
    let covered = sealed.body.len().checked_sub(integrity.icv_len()).ok_or(CryptoError)?;
    let (body, found) = sealed.body.split_at_checked(covered).ok_or(CryptoError)?;
    // Before anything is decrypted, and in constant time: nobody learns anything from the padding.
    let expected = icv(integrity, keys.integrity, &[sealed.associated_data, body]);
    verify_slices_are_equal(&expected, found).map_err(|_| CryptoError)?;
    let (iv, ciphertext) = body.split_first_chunk::<AES_BLOCK_LEN>().ok_or(CryptoError)?;
    let mut content = Zeroizing::new(ciphertext.to_vec());
    let key = UnboundCipherKey::new(cbc.cipher(), keys.encryption.expose()).map_err(|_| CryptoError)?;
    let context = DecryptionContext::Iv128(FixedLength::from(*iv));
    // Refuses what is no multiple of the block length.
    DecryptingKey::cbc(key).and_then(|key| key.decrypt(&mut content, context).map(|_| ())).map_err(|_| CryptoError)?;
    Ok(content)
}

/// Whole messages at once, for tests that play a peer.
#[cfg(test)]
pub(crate) mod whole {
    use super::*;
    use crate::message::{Content, Header, ParseError, Part, Payload, Received, encode_unsealed};

    /// Why a protected message gave no payloads.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) enum OpenError {
        NotAuthentic,
        Malformed(ParseError),
    }

    pub(crate) fn seal(
        cipher: Cipher,
        keys: DirectionKeys<'_>,
        iv: Iv,
        header: &Header,
        content: &Content,
    ) -> Result<Vec<u8>, CryptoError> {
        cipher.seal(keys, iv, encode_unsealed(header, Part::Whole, content.first, &content.bytes, cipher.envelope()))
    }

    pub(crate) fn open(
        cipher: Cipher,
        keys: DirectionKeys<'_>,
        message: &Received<'_>,
    ) -> Result<Vec<Payload>, OpenError> {
        let sealed = message.sealed().map_err(|_| OpenError::NotAuthentic)?;
        let content = cipher.open(keys, &sealed).map_err(|_| OpenError::NotAuthentic)?;
        sealed.payloads(&content).map_err(OpenError::Malformed)
    }
}
