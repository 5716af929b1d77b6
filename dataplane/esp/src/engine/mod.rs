//! Crypto engines: one trait, one implementation per library, one enum that holds a keyed context.
//!
//! The enum keeps contexts inline in the SA and lets the compiler see through the call; there is no `dyn` on the packet path.
//! A further engine is a type that implements [`Aead`] and a variant of [`EngineKind`] and [`Context`].

mod aes_gcm;
mod aws_lc;
mod ipsec_mb;
#[cfg(test)]
mod tests;

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use thiserror::Error;
use vipsec_ipsec_mb::{LINE_LEN, prefetch};

use crate::header::{ICV_LEN, NONCE_LEN};
use crate::sa::Algorithm;

pub use aes_gcm::AesGcm;
pub use aws_lc::AwsLc;
pub use ipsec_mb::IpsecMb;

/// Why there is no context.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ContextError {
    /// A key of the wrong length for its algorithm.
    #[error("the key's length does not fit the algorithm")]
    KeyLength,
    /// See [`EngineKind::is_available`].
    #[error("the crypto engine is not available on this machine")]
    Unavailable,
}

/// The engine refused to encrypt: the message is longer than its algorithm allows, and than any packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the crypto engine refused to encrypt")]
pub struct SealFailed;

/// The tag does not fit key, nonce, AAD and ciphertext.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the authentication tag does not fit")]
pub struct BadTag;

/// An AEAD under one key.
///
/// A context is made once per SA and wipes its key material when dropped.
pub trait Aead: Sized + Send {
    /// Expands a key of [`Algorithm::key_len`] bytes.
    fn new(algorithm: Algorithm, key: &[u8]) -> Result<Self, ContextError>;

    /// Encrypts `buffer` in place and writes the tag over `aad` and the ciphertext to `icv`.
    ///
    /// The caller answers for the nonce: it is never used twice under one key.
    fn seal_in_place(
        &self,
        nonce: &[u8; NONCE_LEN],
        aad: &[u8],
        buffer: &mut [u8],
        icv: &mut [u8; ICV_LEN],
    ) -> Result<(), SealFailed>;

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
    /// Intel's Multi-Buffer Crypto for IPsec (the system's libIPSec_MB): the fastest where the CPU has VAES and AVX-512, and only
    /// offered there.
    IpsecMb,
    /// AWS-LC's assembly through aws-lc-rs.
    AwsLc,
    /// RustCrypto's aes-gcm and chacha20poly1305: pure Rust, the other engines' reference.
    AesGcm,
}

impl EngineKind {
    /// Every engine, the fastest first.
    pub const ALL: [Self; 3] = [Self::IpsecMb, Self::AwsLc, Self::AesGcm];

    /// The fastest engine on this machine.
    pub fn auto() -> Self {
        if Self::IpsecMb.is_available() { Self::IpsecMb } else { Self::AwsLc }
    }

    /// Can this machine use it?
    pub fn is_available(self) -> bool {
        match self {
            Self::IpsecMb => vipsec_ipsec_mb::available(),
            Self::AwsLc | Self::AesGcm => true,
        }
    }

    /// The engines that this machine can use, the fastest first.
    pub fn available() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|engine| engine.is_available())
    }

    /// What an operator should know who runs it on that many workers.
    pub fn caveat(self, workers: usize) -> Option<&'static str> {
        let shared = self == Self::IpsecMb && workers > 1 && vipsec_ipsec_mb::shares_a_variable();
        shared.then_some(
            "libIPSec_MB before 1.4 writes to one variable in every call, which slows workers down that encrypt at the same time: \
             install a later version, or compare with aws-lc-rs",
        )
    }

    /// Its name in configuration and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::IpsecMb => "ipsec-mb",
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

/// Why a name stands for no engine.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EngineError {
    /// Nothing is called that.
    #[error("no crypto engine is called {0:?}; there are auto, ipsec-mb, aws-lc-rs and aes-gcm")]
    Unknown(String),
    /// See [`EngineKind::is_available`].
    #[error("the crypto engine {0} can't be used on this machine: it needs an x86-64 CPU with VAES and AVX-512")]
    Unavailable(EngineKind),
}

impl FromStr for EngineKind {
    type Err = EngineError;

    /// A name, or `auto` for the fastest one on this machine.
    fn from_str(name: &str) -> Result<Self, EngineError> {
        if name == "auto" {
            return Ok(Self::auto());
        }
        let named = Self::ALL.into_iter().find(|kind| kind.name() == name);
        let kind = named.ok_or_else(|| EngineError::Unknown(name.to_owned()))?;
        if kind.is_available() { Ok(kind) } else { Err(EngineError::Unavailable(kind)) }
    }
}

/// A keyed context of any engine.
#[expect(
    clippy::large_enum_variant,
    reason = "contexts sit inline in the SA: the packet path follows no pointer that the engine does not need"
)]
pub enum Context {
    /// See [`EngineKind::IpsecMb`].
    IpsecMb(IpsecMb),
    /// See [`EngineKind::AwsLc`].
    AwsLc(AwsLc),
    /// See [`EngineKind::AesGcm`].
    AesGcm(AesGcm),
}

impl Context {
    /// Expands a key of [`Algorithm::key_len`] bytes for an engine.
    pub fn new(engine: EngineKind, algorithm: Algorithm, key: &[u8]) -> Result<Self, ContextError> {
        Ok(match engine {
            EngineKind::IpsecMb => Self::IpsecMb(IpsecMb::new(algorithm, key)?),
            EngineKind::AwsLc => Self::AwsLc(AwsLc::new(algorithm, key)?),
            EngineKind::AesGcm => Self::AesGcm(AesGcm::new(algorithm, key)?),
        })
    }

    /// The engine behind it.
    pub const fn engine(&self) -> EngineKind {
        match self {
            Self::IpsecMb(_) => EngineKind::IpsecMb,
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
        icv: &mut [u8; ICV_LEN],
    ) -> Result<(), SealFailed> {
        match self {
            Self::IpsecMb(aead) => aead.seal_in_place(nonce, aad, buffer, icv),
            Self::AwsLc(aead) => aead.seal_in_place(nonce, aad, buffer, icv),
            Self::AesGcm(aead) => aead.seal_in_place(nonce, aad, buffer, icv),
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
            Self::IpsecMb(aead) => aead.open_in_place(nonce, aad, buffer, tag),
            Self::AwsLc(aead) => aead.open_in_place(nonce, aad, buffer, tag),
            Self::AesGcm(aead) => aead.open_in_place(nonce, aad, buffer, tag),
        }
    }

    /// Asks for the cache lines that a message of `len` bytes takes, without waiting for them and without a look at the context.
    #[inline]
    pub fn prefetch(&self, footprint: Footprint, len: usize) {
        let start: *const u8 = std::ptr::from_ref(self).cast();
        let lines = |bytes: Range<usize>| {
            for offset in bytes.step_by(LINE_LEN) {
                prefetch(start.wrapping_add(offset));
            }
        };
        // The last line tells which engine it is.
        prefetch(start.wrapping_add(size_of::<Self>() - 1));
        lines(0..usize::from(footprint.front_len));
        if footprint.powers {
            lines(vipsec_ipsec_mb::powers(len));
        }
    }
}

/// Which parts of a [`Context`] a message touches: small enough to lie beside what is touched anyway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footprint {
    /// Bytes from the beginning on.
    front_len: u8,
    /// And powers of the GHASH key at the end, more for longer messages.
    powers: bool,
}

impl Footprint {
    /// That of an engine's contexts for an algorithm.
    pub const fn of(engine: EngineKind, algorithm: Algorithm) -> Self {
        match (engine, algorithm) {
            (EngineKind::IpsecMb, Algorithm::Aes128Gcm) => Self { front_len: 176, powers: true },
            (EngineKind::IpsecMb, Algorithm::Aes256Gcm) => Self { front_len: 240, powers: true },
            (EngineKind::IpsecMb, Algorithm::ChaCha20Poly1305) => Self { front_len: 32, powers: false },
            // A pointer and little else.
            (EngineKind::AwsLc, _) => Self { front_len: 1, powers: false },
            // Key schedules of any length: the reference engine is not in a hurry.
            (EngineKind::AesGcm, _) => Self { front_len: u8::MAX, powers: false },
        }
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Context({})", self.engine())
    }
}
