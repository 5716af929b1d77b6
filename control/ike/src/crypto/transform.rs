//! The algorithms that we know: their names in a configuration, their numbers on the wire, their sizes.
//!
//! To add one is to add a variant and its row here, and its arm where it is computed: [`super::cipher`], [`super::prf`] or
//! [`super::exchange`].

use aws_lc_rs::{aead, cipher, hmac};
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

/// Encryption algorithms with integrity protection of their own (combined-mode ciphers), for IKE and ESP.
///
/// Those with an implicit IV (RFC 8750) are missing on purpose: our IVs say who sent the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Encryption {
    /// AES-GCM with a 128-bit key and a 16-byte ICV (RFC 5282, RFC 4106).
    Aes128Gcm,
    /// AES-GCM with a 256-bit key and a 16-byte ICV.
    Aes256Gcm,
    /// ChaCha20-Poly1305 (RFC 7634).
    ChaCha20Poly1305,
}

const ENCR_AES_CBC: u16 = 12;
const ENCR_AES_GCM_16: u16 = 20;
const ENCR_CHACHA20_POLY1305: u16 = 28;

impl Encryption {
    /// Key length in bytes, without the salt.
    pub const fn key_len(self) -> usize {
        match self {
            Self::Aes128Gcm => 16,
            Self::Aes256Gcm | Self::ChaCha20Poly1305 => 32,
        }
    }

    /// Bytes of keying material: the key, then the salt (RFC 4106 §8.1, RFC 5282 §7.1, RFC 7634 §2).
    pub const fn keymat_len(self) -> usize {
        self.key_len() + Self::SALT_LEN
    }

    /// Length of the salt in bytes.
    pub const SALT_LEN: usize = 4;

    pub(super) fn aead(self) -> &'static aead::Algorithm {
        match self {
            Self::Aes128Gcm => &aead::AES_128_GCM,
            Self::Aes256Gcm => &aead::AES_256_GCM,
            Self::ChaCha20Poly1305 => &aead::CHACHA20_POLY1305,
        }
    }
}

impl Algorithm for Encryption {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("aes128gcm16", Self::Aes128Gcm),
        ("aes256gcm16", Self::Aes256Gcm),
        ("chacha20poly1305", Self::ChaCha20Poly1305),
        ("aes128gcm128", Self::Aes128Gcm),
        ("aes256gcm128", Self::Aes256Gcm),
    ];

    fn transform(self) -> Transform {
        // RFC 5282 §7.3: the Key Length attribute MUST be specified; RFC 7634 §4: here it MUST NOT be.
        let (id, attributes) = match self {
            Self::Aes128Gcm => (ENCR_AES_GCM_16, vec![Attribute::KeyLength(128)]),
            Self::Aes256Gcm => (ENCR_AES_GCM_16, vec![Attribute::KeyLength(256)]),
            Self::ChaCha20Poly1305 => (ENCR_CHACHA20_POLY1305, Vec::new()),
        };
        Transform { kind: kind::ENCR, id, attributes }
    }
}

/// Encryption algorithms that need an integrity algorithm beside them. For IKE alone: ESP has combined-mode ciphers only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Cbc {
    /// AES-CBC with a 128-bit key (RFC 3602).
    Aes128,
    /// AES-CBC with a 256-bit key.
    Aes256,
}

impl Cbc {
    /// Key length in bytes.
    pub const fn key_len(self) -> usize {
        match self {
            Self::Aes128 => 16,
            Self::Aes256 => 32,
        }
    }

    pub(super) fn cipher(self) -> &'static cipher::Algorithm {
        match self {
            Self::Aes128 => &cipher::AES_128,
            Self::Aes256 => &cipher::AES_256,
        }
    }
}

impl Algorithm for Cbc {
    const NAMES: &'static [(&'static str, Self)] = &[("aes128", Self::Aes128), ("aes256", Self::Aes256)];

    fn transform(self) -> Transform {
        let bits = match self {
            Self::Aes128 => 128,
            Self::Aes256 => 256,
        };
        Transform { kind: kind::ENCR, id: ENCR_AES_CBC, attributes: vec![Attribute::KeyLength(bits)] }
    }
}

/// Integrity algorithms (RFC 4868), for use with [`Cbc`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Integrity {
    /// AUTH_HMAC_SHA2_256_128.
    HmacSha256,
    /// AUTH_HMAC_SHA2_384_192.
    HmacSha384,
    /// AUTH_HMAC_SHA2_512_256.
    HmacSha512,
}

impl Integrity {
    pub(super) const fn hmac(self) -> hmac::Algorithm {
        self.prf().hmac()
    }

    /// The PRF with the same hash.
    pub(super) const fn prf(self) -> Prf {
        match self {
            Self::HmacSha256 => Prf::HmacSha256,
            Self::HmacSha384 => Prf::HmacSha384,
            Self::HmacSha512 => Prf::HmacSha512,
        }
    }

    /// Key length in bytes: that of the hash (RFC 4868 §2.1.1).
    pub const fn key_len(self) -> usize {
        self.prf().key_len()
    }

    /// Length of the ICV in bytes: half of the hash.
    pub const fn icv_len(self) -> usize {
        self.key_len() / 2
    }
}

impl Algorithm for Integrity {
    const NAMES: &'static [(&'static str, Self)] =
        &[("sha256", Self::HmacSha256), ("sha384", Self::HmacSha384), ("sha512", Self::HmacSha512)];

    fn transform(self) -> Transform {
        let id = match self {
            Self::HmacSha256 => 12,
            Self::HmacSha384 => 13,
            Self::HmacSha512 => 14,
        };
        Transform { kind: kind::INTEG, id, attributes: Vec::new() }
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
    /// The 2048-bit MODP group (RFC 3526 §3).
    Modp2048,
    /// The 3072-bit MODP group (RFC 3526 §4).
    Modp3072,
}

impl Group {
    /// Its number in KE and INVALID_KE_PAYLOAD payloads.
    pub const fn number(self) -> u16 {
        match self {
            Self::X25519 => 31,
            Self::EcpP256 => 19,
            Self::EcpP384 => 20,
            Self::Modp2048 => 14,
            Self::Modp3072 => 15,
        }
    }

    /// The one with that number.
    pub fn by_number(number: u16) -> Option<Self> {
        Self::NAMES.iter().map(|(_, group)| *group).find(|group| group.number() == number)
    }
}

impl Algorithm for Group {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("x25519", Self::X25519),
        ("ecp256", Self::EcpP256),
        ("ecp384", Self::EcpP384),
        ("modp2048", Self::Modp2048),
        ("modp3072", Self::Modp3072),
        ("curve25519", Self::X25519),
    ];

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
