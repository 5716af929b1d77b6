//! Diffie-Hellman in MODP groups (RFC 3526). The arithmetic is `crypto-bigint`'s, constant in time for a given group.

use crypto_bigint::modular::{ConstMontyForm, ConstMontyParams};
use crypto_bigint::{U448, U2048, U3072, Uint, const_monty_params};
use zeroize::Zeroize;

use super::{CryptoError, Secret};

const_monty_params!(
    Prime2048,
    U2048,
    "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74020BBEA63B139B22514A08798E3404DD\
     EF9519B3CD3A431B302B0A6DF25F14374FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7ED\
     EE386BFB5A899FA5AE9F24117C4B1FE649286651ECE45B3DC2007CB8A163BF0598DA48361C55D39A69163FA8FD24CF5F\
     83655D23DCA3AD961C62F356208552BB9ED529077096966D670C354E4ABC9804F1746C08CA18217C32905E462E36CE3B\
     E39E772C180E86039B2783A2EC07A28FB5C55DF06F4C52C9DE2BCBF6955817183995497CEA956AE515D2261898FA0510\
     15728E5A8AACAA68FFFFFFFFFFFFFFFF",
    "RFC 3526 §3: 2^2048 - 2^1984 - 1 + 2^64 * { [2^1918 pi] + 124476 }"
);

const_monty_params!(
    Prime3072,
    U3072,
    "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74020BBEA63B139B22514A08798E3404DD\
     EF9519B3CD3A431B302B0A6DF25F14374FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7ED\
     EE386BFB5A899FA5AE9F24117C4B1FE649286651ECE45B3DC2007CB8A163BF0598DA48361C55D39A69163FA8FD24CF5F\
     83655D23DCA3AD961C62F356208552BB9ED529077096966D670C354E4ABC9804F1746C08CA18217C32905E462E36CE3B\
     E39E772C180E86039B2783A2EC07A28FB5C55DF06F4C52C9DE2BCBF6955817183995497CEA956AE515D2261898FA0510\
     15728E5A8AAAC42DAD33170D04507A33A85521ABDF1CBA64ECFB850458DBEF0A8AEA71575D060C7DB3970F85A6E1E4C7\
     ABF5AE8CDB0933D71E8C94E04A25619DCEE3D2261AD2EE6BF12FFA06D98A0864D87602733EC86A64521F2B18177B200C\
     BBE117577A615D6C770988C0BAD946E208E24FA074E5AB3143DB5BFCE0FD108E4B82D120A93AD2CAFFFFFFFFFFFFFFFF",
    "RFC 3526 §4: 2^3072 - 2^3008 - 1 + 2^64 * { [2^2942 pi] + 1690314 }"
);

/// Length of a private exponent in bytes. RFC 3526 §8: exponents of 320 and 420 bits are as strong as the higher estimate for the
/// 2048-bit and the 3072-bit group; both primes are safe, so that a short exponent gives nothing away.
pub(super) const EXPONENT_LEN: usize = 56;

/// A MODP group.
#[derive(Debug, Clone, Copy)]
pub(super) enum Modp {
    Modp2048,
    Modp3072,
}

impl Modp {
    /// g^x, as long as the prime (RFC 7296 §3.4). `private` is x, [`EXPONENT_LEN`] bytes.
    pub(super) fn public(self, private: &Secret) -> Result<Vec<u8>, CryptoError> {
        const GENERATOR: u8 = 2;
        let power = match self {
            Self::Modp2048 => power::<Prime2048, _>(&Uint::from(GENERATOR), private)?,
            Self::Modp3072 => power::<Prime3072, _>(&Uint::from(GENERATOR), private)?,
        };
        Ok(power.expose().to_vec())
    }

    /// g^xy, as long as the prime (RFC 7296 §2.14).
    pub(super) fn agree(self, private: &Secret, public: &[u8]) -> Result<Secret, CryptoError> {
        match self {
            Self::Modp2048 => power::<Prime2048, _>(&value::<Prime2048, _>(public)?, private),
            Self::Modp3072 => power::<Prime3072, _>(&value::<Prime3072, _>(public)?, private),
        }
    }
}

/// A public value of the peer.
fn value<P: ConstMontyParams<L>, const L: usize>(bytes: &[u8]) -> Result<Uint<L>, CryptoError> {
    // RFC 7296 §3.4: the length MUST be equal to that of the prime.
    if bytes.len() != Uint::<L>::BYTES {
        return Err(CryptoError);
    }
    let y = Uint::from_be_slice(bytes);
    let last = P::PARAMS.modulus().as_ref().wrapping_sub(&Uint::ONE);
    // RFC 6989 §2.1: 1 < y < p-1. It isn't secret.
    if y > Uint::ONE && y < last { Ok(y) } else { Err(CryptoError) }
}

fn power<P: ConstMontyParams<L>, const L: usize>(base: &Uint<L>, exponent: &Secret) -> Result<Secret, CryptoError> {
    if exponent.len() != EXPONENT_LEN {
        return Err(CryptoError);
    }
    let mut exponent = U448::from_be_slice(exponent.expose());
    let mut power = ConstMontyForm::<P, L>::new(base).pow(&exponent).retrieve();
    let secret = Secret::new(power.to_be_bytes().as_ref().to_vec());
    exponent.zeroize();
    power.zeroize();
    Ok(secret)
}
