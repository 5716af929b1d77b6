//! Crypto engines: one trait, one implementation per library, one enum that holds a keyed context.
//!
//! The enum keeps contexts inline in the SA and lets the compiler see through the call; there is no `dyn` on the packet path.
//! A further engine is a type that implements [`Aead`] and a variant of [`EngineKind`] and [`Context`].

mod aes_gcm;
mod aws_lc;
#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::header::{ICV_LEN, NONCE_LEN};
use crate::sa::Algorithm;

pub use aes_gcm::AesGcm;
pub use aws_lc::AwsLc;

/// A key of the wrong length for its algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the key's length does not fit the algorithm")]
pub struct BadKey;

/// The engine refused to encrypt (a message beyond AES-GCM's 2^36 - 32 bytes).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the crypto engine refused to encrypt")]
pub struct SealFailed;

/// The tag does not fit key, nonce, AAD and ciphertext.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the authentication tag does not fit")]
pub struct BadTag;

/// AES-GCM under one key.
///
/// A context is made once per SA and wipes its key material when dropped.
pub trait Aead: Sized + Send {
    /// Expands a key of [`Algorithm::key_len`] bytes.
    fn new(algorithm: Algorithm, key: &[u8]) -> Result<Self, BadKey>;

    /// Encrypts `buffer` in place and returns the tag over `aad` and the ciphertext.
    ///
    /// The caller answers for the nonce: it is never used twice under one key.
    fn seal_in_place(
        &self,
        nonce: &[u8; NONCE_LEN],
        aad: &[u8],
        buffer: &mut [u8],
    ) -> Result<[u8; ICV_LEN], SealFailed>;

    /// Checks `tag` in constant time and decrypts `buffer` in place.
    ///
    /// After [`BadTag`] the buffer holds no plaintext; what else it holds is unspecified.
    fn open_in_place(
        &self,
        nonce: &[u8; NONCE_LEN],
        aad: &[u8],
        buffer: &mut [u8],
        tag: &[u8; ICV_LEN],
    ) -> Result<(), BadTag>;
}

/// Which library does the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EngineKind {
    /// AWS-LC's assembly through aws-lc-rs.
    AwsLc,
    /// RustCrypto's aes-gcm: pure Rust, the portable fallback and the other engines' oracle.
    AesGcm,
}

impl EngineKind {
    /// Every engine, the fastest first.
    pub const ALL: [Self; 2] = [Self::AwsLc, Self::AesGcm];

    /// The fastest engine on this machine.
    pub const fn auto() -> Self {
        Self::AwsLc
    }

    /// Its name in configuration and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AwsLc => "aws-lc-rs",
            Self::AesGcm => "aes-gcm",
        }
    }
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// No engine has that name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("no crypto engine is called {0:?}; there are auto, aws-lc-rs and aes-gcm")]
pub struct UnknownEngine(pub String);

impl FromStr for EngineKind {
    type Err = UnknownEngine;

    /// A name, or `auto` for the fastest one on this machine.
    fn from_str(name: &str) -> Result<Self, UnknownEngine> {
        if name == "auto" {
            return Ok(Self::auto());
        }
        Self::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| UnknownEngine(name.to_owned()))
    }
}

/// A keyed context of any engine.
#[expect(
    clippy::large_enum_variant,
    reason = "contexts sit inline in the SA: the packet path follows no pointer that the engine does not need"
)]
pub enum Context {
    /// See [`EngineKind::AwsLc`].
    AwsLc(AwsLc),
    /// See [`EngineKind::AesGcm`].
    AesGcm(AesGcm),
}

impl Context {
    /// Expands a key of [`Algorithm::key_len`] bytes for an engine.
    pub fn new(engine: EngineKind, algorithm: Algorithm, key: &[u8]) -> Result<Self, BadKey> {
        Ok(match engine {
            EngineKind::AwsLc => Self::AwsLc(AwsLc::new(algorithm, key)?),
            EngineKind::AesGcm => Self::AesGcm(AesGcm::new(algorithm, key)?),
        })
    }

    /// The engine behind it.
    pub const fn engine(&self) -> EngineKind {
        match self {
            Self::AwsLc(_) => EngineKind::AwsLc,
            Self::AesGcm(_) => EngineKind::AesGcm,
        }
    }

    /// See [`Aead::seal_in_place`].
    #[inline]
    pub fn seal_in_place(
        &self,
        nonce: &[u8; NONCE_LEN],
        aad: &[u8],
        buffer: &mut [u8],
    ) -> Result<[u8; ICV_LEN], SealFailed> {
        match self {
            Self::AwsLc(aead) => aead.seal_in_place(nonce, aad, buffer),
            Self::AesGcm(aead) => aead.seal_in_place(nonce, aad, buffer),
        }
    }

    /// See [`Aead::open_in_place`].
    #[inline]
    pub fn open_in_place(
        &self,
        nonce: &[u8; NONCE_LEN],
        aad: &[u8],
        buffer: &mut [u8],
        tag: &[u8; ICV_LEN],
    ) -> Result<(), BadTag> {
        match self {
            Self::AwsLc(aead) => aead.open_in_place(nonce, aad, buffer, tag),
            Self::AesGcm(aead) => aead.open_in_place(nonce, aad, buffer, tag),
        }
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Context({})", self.engine())
    }
}
