//! AES-GCM and ChaCha20-Poly1305 by Intel's Multi-Buffer Crypto for IPsec (the system's libIPSec_MB), one packet per call.
//!
//! A [`Key`] holds everything that the library expanded from a key, inline: who owns it decides where it lies, and no packet
//! follows a pointer into the heap. The library is used through the direct calls of its manager, which keep no state; the manager
//! itself is only needed to find them.
//!
//! Only where the CPU has VAES and AVX-512 is this the fastest way to encrypt, and only there is it offered ([`available`]):
//! with AVX2 and less other libraries are faster. On other architectures the crate is empty, and [`Key`] can't be made.
//!
//! Before version 1.4 every call writes to one variable of the whole process ([`shares_a_variable`]): threads that encrypt many small
//! messages at once slow each other down.
//!
//! Also here, because they take the same kind of code: [`prefetch`], and a [`Block`] that is stored in one piece.
#![warn(missing_docs)]

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
mod absent;
mod block;
mod prefetch;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod x86_64;

use std::ops::Range;

use thiserror::Error;

pub use block::Block;
pub use prefetch::{LINE_LEN, prefetch};

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
pub use absent::{Key, available, shares_a_variable};
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub use x86_64::{Key, available, shares_a_variable};

/// Bytes of a nonce.
pub const NONCE_LEN: usize = 12;

/// Bytes of a tag.
pub const TAG_LEN: usize = 16;

/// Most bytes that one call encrypts or decrypts: AES-GCM's 2^32 - 2 blocks (NIST SP 800-38D §5.2.1.1), rounded down to what any
/// buffer of packets stays far below.
pub const TEXT_BYTES_MAX: usize = 1 << 30;

/// Bytes of key data in a [`Key`], from its beginning on: 15 places for round keys, of which AES-128 uses 11, then the 48 lowest
/// powers of the GHASH key, the highest first.
const KEY_DATA_LEN: usize = (15 + POWERS) * BLOCK_LEN;
const POWERS: usize = 48;
const BLOCK_LEN: usize = 16;

/// Where in a [`Key`] the powers of the GHASH key stand that a message of `len` bytes takes.
#[inline]
pub fn powers(len: usize) -> Range<usize> {
    // One for each block, one for the lengths. A message with more blocks than there are powers goes round.
    let count = (len / BLOCK_LEN + 2).min(POWERS);
    KEY_DATA_LEN - count * BLOCK_LEN..KEY_DATA_LEN
}

/// What a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cipher {
    /// AES-GCM with a key of 16 bytes.
    Aes128Gcm,
    /// AES-GCM with a key of 32 bytes.
    Aes256Gcm,
    /// ChaCha20-Poly1305 (RFC 8439) with a key of 32 bytes.
    ChaCha20Poly1305,
}

impl Cipher {
    /// Bytes of its key.
    pub const fn key_len(self) -> usize {
        match self {
            Self::Aes128Gcm => 16,
            Self::Aes256Gcm | Self::ChaCha20Poly1305 => 32,
        }
    }
}

/// Why there is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum KeyError {
    /// See [`available`].
    #[error("ipsec-mb needs a CPU with VAES and AVX-512")]
    Unavailable,
    /// The key does not have [`Cipher::key_len`] bytes.
    #[error("the key's length does not fit the cipher")]
    Length,
}

/// More than [`TEXT_BYTES_MAX`] bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the text is too long for one call")]
pub struct TooLong;

/// The tag does not fit key, nonce, AAD and ciphertext.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the authentication tag does not fit")]
pub struct BadTag;
