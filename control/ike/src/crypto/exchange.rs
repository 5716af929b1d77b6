//! Diffie-Hellman key exchange with private keys out of the injected generator.

use aws_lc_rs::agreement::{self, PrivateKey, UnparsedPublicKey, agree};
use rand_core::CryptoRng;
use serde::{Deserialize, Serialize};

use super::modp::{EXPONENT_LEN, Modp};
use super::transform::Group;
use super::{CryptoError, Secret};

/// Our half of a key exchange, in a form that another appliance can go on with.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct KeyPair {
    pub(crate) group: Group,
    private: Secret,
}

/// Who computes in a group.
enum Arithmetic {
    /// Curves: with the length of a private key in bytes, and what the encoding of a point begins with that a KE payload leaves
    /// out.
    Curve(&'static agreement::Algorithm, usize, &'static [u8]),
    Modp(Modp),
}

/// Says that a point of an elliptic curve is uncompressed; RFC 5903 §7 leaves it out.
const UNCOMPRESSED: &[u8] = &[4];

/// How often a private key is drawn anew; for P-256 one in 2^32 is none.
const DRAWS_MAX: usize = 16;

const fn arithmetic(group: Group) -> Arithmetic {
    match group {
        Group::X25519 => Arithmetic::Curve(&agreement::X25519, 32, &[]),
        Group::EcpP256 => Arithmetic::Curve(&agreement::ECDH_P256, 32, UNCOMPRESSED),
        Group::EcpP384 => Arithmetic::Curve(&agreement::ECDH_P384, 48, UNCOMPRESSED),
        Group::Modp2048 => Arithmetic::Modp(Modp::Modp2048),
        Group::Modp3072 => Arithmetic::Modp(Modp::Modp3072),
    }
}

impl KeyPair {
    pub(crate) fn generate(group: Group, rng: &mut dyn CryptoRng) -> Result<Self, CryptoError> {
        let mut draw = |len| {
            let mut private = vec![0; len];
            rng.fill_bytes(&mut private);
            Secret::new(private)
        };
        match arithmetic(group) {
            Arithmetic::Curve(algorithm, len, _) => (0..DRAWS_MAX)
                .map(|_| draw(len))
                .find(|private| curve_key(algorithm, private).is_ok())
                .map(|private| Self { group, private })
                .ok_or(CryptoError),
            Arithmetic::Modp(_) => Ok(Self { group, private: draw(EXPONENT_LEN) }),
        }
    }

    /// The public value as a KE payload carries it.
    pub(crate) fn public(&self) -> Result<Vec<u8>, CryptoError> {
        match arithmetic(self.group) {
            Arithmetic::Curve(algorithm, _, prefix) => {
                let public = curve_key(algorithm, &self.private)?.compute_public_key().map_err(|_| CryptoError)?;
                public.as_ref().strip_prefix(prefix).map(<[u8]>::to_vec).ok_or(CryptoError)
            }
            Arithmetic::Modp(group) => group.public(&self.private),
        }
    }

    /// g^ir, from the peer's public value. Refuses values that are no points, numbers outside of 1 < y < p-1, and a shared secret
    /// of zero (RFC 7748 §6.1).
    pub(crate) fn agree(&self, public: &[u8]) -> Result<Secret, CryptoError> {
        match arithmetic(self.group) {
            Arithmetic::Curve(algorithm, _, prefix) => {
                let public = UnparsedPublicKey::new(algorithm, [prefix, public].concat());
                // RFC 5903 §7: the shared secret is the x coordinate.
                agree(&curve_key(algorithm, &self.private)?, public, CryptoError, |shared| {
                    Ok(Secret::new(shared.to_vec()))
                })
            }
            Arithmetic::Modp(group) => group.agree(&self.private, public),
        }
    }

    #[cfg(test)]
    pub(super) fn from_private(group: Group, private: Vec<u8>) -> Self {
        Self { group, private: Secret::new(private) }
    }
}

fn curve_key(algorithm: &'static agreement::Algorithm, private: &Secret) -> Result<PrivateKey, CryptoError> {
    PrivateKey::from_private_key(algorithm, private.expose()).map_err(|_| CryptoError)
}
