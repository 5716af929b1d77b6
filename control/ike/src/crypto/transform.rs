//! The algorithms that we know: their names in a configuration, their numbers on the wire, their sizes.
//!
//! To add one is to add a variant and its row here, and its arm where it is computed: [`super::seal`], [`super::prf`] or
//! [`super::exchange`].

use aws_lc_rs::{aead, agreement, hmac};
use serde::{Deserialize, Serialize};

use crate::message::sa::{Attribute, Transform};

/// Transform types (RFC 7296 §3.3.2).
pub(super) mod kind {
    pub(crate) const ENCR: u8 = 1;
    pub(crate) const PRF: u8 = 2;
    pub(crate) const INTEG: u8 = 3;
    pub(crate) const DH: u8 = 4;
    pub(crate) const ESN: u8 = 5;
}

/// Transform ID 0 of INTEG and D-H.
pub(super) const NONE: u16 = 0;

/// A kind of algorithm with a table of its members.
pub(super) trait Algorithm: Copy + PartialEq + 'static {
    /// All of them, by the names that a configuration uses (those of swanctl.conf).
    const NAMES: &'static [(&'static str, Self)];
    /// How it is proposed.
    fn transform(self) -> Transform;

    /// The one called `name`.
    fn by_name(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, algorithm)| *algorithm)
    }

    /// Its first name.
    fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, algorithm)| *algorithm == self).map_or("?", |(name, _)| name)
    }
}

/// Encryption algorithms, all of them with integrity protection of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Encryption {
    /// AES-GCM with a 128-bit key and a 16-byte ICV (RFC 5282, RFC 4106).
    Aes128Gcm,
    /// AES-GCM with a 256-bit key and a 16-byte ICV.
    Aes256Gcm,
}

const ENCR_AES_GCM_16: u16 = 20;

impl Encryption {
    /// Key length in bytes, without the salt.
    pub const fn key_len(self) -> usize {
        match self {
            Self::Aes128Gcm => 16,
            Self::Aes256Gcm => 32,
        }
    }

    /// Bytes of keying material: the key, then the salt (RFC 4106 §8.1, RFC 5282 §7.1).
    pub const fn keymat_len(self) -> usize {
        self.key_len() + Self::SALT_LEN
    }

    /// Length of the salt in bytes.
    pub const SALT_LEN: usize = 4;

    pub(super) fn aead(self) -> &'static aead::Algorithm {
        match self {
            Self::Aes128Gcm => &aead::AES_128_GCM,
            Self::Aes256Gcm => &aead::AES_256_GCM,
        }
    }
}

impl Algorithm for Encryption {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("aes128gcm16", Self::Aes128Gcm),
        ("aes256gcm16", Self::Aes256Gcm),
        ("aes128gcm128", Self::Aes128Gcm),
        ("aes256gcm128", Self::Aes256Gcm),
    ];

    fn transform(self) -> Transform {
        let bits = match self {
            Self::Aes128Gcm => 128,
            Self::Aes256Gcm => 256,
        };
        // RFC 5282 §7.3: the Key Length attribute MUST be specified.
        Transform { kind: kind::ENCR, id: ENCR_AES_GCM_16, attributes: vec![Attribute::KeyLength(bits)] }
    }
}

/// Pseudorandom functions (RFC 4868).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Prf {
    /// PRF_HMAC_SHA2_256.
    HmacSha256,
    /// PRF_HMAC_SHA2_384.
    HmacSha384,
    /// PRF_HMAC_SHA2_512.
    HmacSha512,
}

impl Prf {
    pub(super) const fn hmac(self) -> hmac::Algorithm {
        match self {
            Self::HmacSha256 => hmac::HMAC_SHA256,
            Self::HmacSha384 => hmac::HMAC_SHA384,
            Self::HmacSha512 => hmac::HMAC_SHA512,
        }
    }

    /// Preferred key length in bytes: that of the output (RFC 7296 §2.13).
    pub const fn key_len(self) -> usize {
        match self {
            Self::HmacSha256 => 32,
            Self::HmacSha384 => 48,
            Self::HmacSha512 => 64,
        }
    }
}

impl Algorithm for Prf {
    const NAMES: &'static [(&'static str, Self)] =
        &[("prfsha256", Self::HmacSha256), ("prfsha384", Self::HmacSha384), ("prfsha512", Self::HmacSha512)];

    fn transform(self) -> Transform {
        let id = match self {
            Self::HmacSha256 => 5,
            Self::HmacSha384 => 6,
            Self::HmacSha512 => 7,
        };
        Transform { kind: kind::PRF, id, attributes: Vec::new() }
    }
}

/// Diffie-Hellman groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Group {
    /// Curve25519 (RFC 8031).
    X25519,
    /// The 256-bit random ECP group (RFC 5903).
    EcpP256,
    /// The 384-bit random ECP group (RFC 5903).
    EcpP384,
}

impl Group {
    /// Its number in KE and INVALID_KE_PAYLOAD payloads.
    pub const fn number(self) -> u16 {
        match self {
            Self::X25519 => 31,
            Self::EcpP256 => 19,
            Self::EcpP384 => 20,
        }
    }

    /// The one with that number.
    pub fn by_number(number: u16) -> Option<Self> {
        Self::NAMES.iter().map(|(_, group)| *group).find(|group| group.number() == number)
    }

    pub(super) fn agreement(self) -> &'static agreement::Algorithm {
        match self {
            Self::X25519 => &agreement::X25519,
            Self::EcpP256 => &agreement::ECDH_P256,
            Self::EcpP384 => &agreement::ECDH_P384,
        }
    }

    /// Length of a private key in bytes.
    pub(super) const fn private_len(self) -> usize {
        match self {
            Self::X25519 | Self::EcpP256 => 32,
            Self::EcpP384 => 48,
        }
    }
}

impl Algorithm for Group {
    const NAMES: &'static [(&'static str, Self)] =
        &[("x25519", Self::X25519), ("curve25519", Self::X25519), ("ecp256", Self::EcpP256), ("ecp384", Self::EcpP384)];

    fn transform(self) -> Transform {
        Transform { kind: kind::DH, id: self.number(), attributes: Vec::new() }
    }
}

/// Sequence numbers of ESP (RFC 4303 §2.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) enum SequenceNumbers {
    /// 32 bits.
    Short,
    /// 64 bits, extended.
    Extended,
}

impl Algorithm for SequenceNumbers {
    const NAMES: &'static [(&'static str, Self)] = &[("noesn", Self::Short), ("esn", Self::Extended)];

    fn transform(self) -> Transform {
        Transform { kind: kind::ESN, id: u16::from(self == Self::Extended), attributes: Vec::new() }
    }
}
