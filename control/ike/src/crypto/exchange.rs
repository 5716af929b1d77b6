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
    Curve(Curve),
    Modp(Modp),
}

/// An elliptic curve.
#[derive(Clone, Copy)]
struct Curve {
    algorithm: &'static agreement::Algorithm,
    /// Length of a private key in bytes.
    private_len: usize,
    /// What the encoding of a point begins with that a KE payload leaves out.
    prefix: &'static [u8],
}

/// Says that a point of an elliptic curve is uncompressed; RFC 5903 §7 leaves it out.
const UNCOMPRESSED: &[u8] = &[4];

/// How often a private key is drawn anew; for P-256 one in 2^32 is none.
const DRAWS_MAX: usize = 16;

const fn arithmetic(group: Group) -> Arithmetic {
    let (algorithm, private_len, prefix) = match group {
        Group::X25519 => (&agreement::X25519, 32, &[] as &[u8]),
        Group::EcpP256 => (&agreement::ECDH_P256, 32, UNCOMPRESSED),
        Group::EcpP384 => (&agreement::ECDH_P384, 48, UNCOMPRESSED),
        Group::Modp2048 => return Arithmetic::Modp(Modp::Modp2048),
        Group::Modp3072 => return Arithmetic::Modp(Modp::Modp3072),
    };
    Arithmetic::Curve(Curve { algorithm, private_len, prefix })
}

impl KeyPair {
    /// For the side that asks: its private key waits for the answer.
    pub(crate) fn generate(group: Group, rng: &mut dyn CryptoRng) -> Result<Self, CryptoError> {
        let private = match arithmetic(group) {
            Arithmetic::Curve(curve) => curve.draw(rng)?.0,
            Arithmetic::Modp(_) => draw(EXPONENT_LEN, rng),
        };
        Ok(Self { group, private })
    }

    /// For the side that answers: its public value and g^ir at once, so that its key is worked out a single time. Refuses what
    /// [`agree`](Self::agree) refuses.
    pub(crate) fn answer(
        group: Group,
        public: &[u8],
        rng: &mut dyn CryptoRng,
    ) -> Result<(Vec<u8>, Secret), CryptoError> {
        match arithmetic(group) {
            Arithmetic::Curve(curve) => {
                let (_, key) = curve.draw(rng)?;
                Ok((curve.public(&key)?, curve.agree(&key, public)?))
            }
            Arithmetic::Modp(group) => {
                let private = draw(EXPONENT_LEN, rng);
                Ok((group.public(&private)?, group.agree(&private, public)?))
            }
        }
    }

    /// The public value as a KE payload carries it.
    pub(crate) fn public(&self) -> Result<Vec<u8>, CryptoError> {
        match arithmetic(self.group) {
            Arithmetic::Curve(curve) => curve.public(&curve.key(&self.private)?),
            Arithmetic::Modp(group) => group.public(&self.private),
        }
    }

    /// g^ir, from the peer's public value. Refuses values that are no points, numbers outside of 1 < y < p-1, and a shared secret
    /// of zero (RFC 7748 §6.1).
    pub(crate) fn agree(&self, public: &[u8]) -> Result<Secret, CryptoError> {
        match arithmetic(self.group) {
            Arithmetic::Curve(curve) => curve.agree(&curve.key(&self.private)?, public),
            Arithmetic::Modp(group) => group.agree(&self.private, public),
        }
    }

    #[cfg(test)]
    pub(super) fn from_private(group: Group, private: Vec<u8>) -> Self {
        Self { group, private: Secret::new(private) }
    }
}

impl Curve {
    /// A private key, as bytes and worked out.
    fn draw(self, rng: &mut dyn CryptoRng) -> Result<(Secret, PrivateKey), CryptoError> {
        let mut drawn = (0..DRAWS_MAX).map(|_| draw(self.private_len, rng));
        drawn.find_map(|private| self.key(&private).ok().map(|key| (private, key))).ok_or(CryptoError)
    }

    fn key(self, private: &Secret) -> Result<PrivateKey, CryptoError> {
        PrivateKey::from_private_key(self.algorithm, private.expose()).map_err(|_| CryptoError)
    }

    fn public(self, key: &PrivateKey) -> Result<Vec<u8>, CryptoError> {
        let public = key.compute_public_key().map_err(|_| CryptoError)?;
        public.as_ref().strip_prefix(self.prefix).map(<[u8]>::to_vec).ok_or(CryptoError)
    }

    fn agree(self, key: &PrivateKey, public: &[u8]) -> Result<Secret, CryptoError> {
        let public = UnparsedPublicKey::new(self.algorithm, [self.prefix, public].concat());
        // RFC 5903 §7: the shared secret is the x coordinate.
        agree(key, public, CryptoError, |shared| Ok(Secret::new(shared.to_vec())))
    }
}

fn draw(len: usize, rng: &mut dyn CryptoRng) -> Secret {
    let mut private = vec![0; len];
    rng.fill_bytes(&mut private);
    Secret::new(private)
}
