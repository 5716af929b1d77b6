//! Diffie-Hellman key exchange with private keys out of the injected generator.

use aws_lc_rs::agreement::{PrivateKey, UnparsedPublicKey, agree};
use rand_core::CryptoRng;
use serde::{Deserialize, Serialize};

use super::transform::Group;
use super::{CryptoError, Secret};

/// Our half of a key exchange, in a form that another appliance can go on with.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct KeyPair {
    pub(crate) group: Group,
    private: Secret,
}

/// Bytes of an elliptic curve point's encoding that say it is uncompressed; RFC 5903 §7 leaves it out.
const UNCOMPRESSED: u8 = 4;

/// How often a private key is drawn anew; for P-256 one in 2^32 is none.
const DRAWS_MAX: usize = 16;

impl KeyPair {
    pub(crate) fn generate(group: Group, rng: &mut dyn CryptoRng) -> Result<Self, CryptoError> {
        for _ in 0..DRAWS_MAX {
            let mut private = vec![0; group.private_len()];
            rng.fill_bytes(&mut private);
            let pair = Self { group, private: Secret::new(private) };
            if pair.key().is_ok() {
                return Ok(pair);
            }
        }
        Err(CryptoError)
    }

    fn key(&self) -> Result<PrivateKey, CryptoError> {
        PrivateKey::from_private_key(self.group.agreement(), self.private.expose()).map_err(|_| CryptoError)
    }

    /// The public value as a KE payload carries it.
    pub(crate) fn public(&self) -> Result<Vec<u8>, CryptoError> {
        let public = self.key()?.compute_public_key().map_err(|_| CryptoError)?;
        let bytes = public.as_ref();
        match self.group {
            Group::X25519 => Ok(bytes.to_vec()),
            Group::EcpP256 | Group::EcpP384 => {
                bytes.strip_prefix(&[UNCOMPRESSED]).map(<[u8]>::to_vec).ok_or(CryptoError)
            }
        }
    }

    /// g^ir, from the peer's public value. Refuses values that are no points, and a shared secret of zero (RFC 7748 §6.1).
    pub(crate) fn agree(&self, public: &[u8]) -> Result<Secret, CryptoError> {
        let encoded = match self.group {
            Group::X25519 => public.to_vec(),
            Group::EcpP256 | Group::EcpP384 => [&[UNCOMPRESSED], public].concat(),
        };
        let public = UnparsedPublicKey::new(self.group.agreement(), encoded);
        // RFC 5903 §7: the shared secret is the x coordinate.
        agree(&self.key()?, public, CryptoError, |shared| Ok(Secret::new(shared.to_vec())))
    }

    #[cfg(test)]
    pub(super) fn from_private(group: Group, private: Vec<u8>) -> Self {
        Self { group, private: Secret::new(private) }
    }
}
