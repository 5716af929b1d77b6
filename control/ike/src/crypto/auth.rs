//! AUTH by a pre-shared key (RFC 7296 §2.15).

use zeroize::Zeroizing;

use super::Secret;
use super::transform::Prf;
use crate::identity::Identity;

/// Shared Key Message Integrity Code (RFC 7296 §3.8).
pub(crate) const METHOD_SHARED_KEY: u8 = 2;

const KEY_PAD: &[u8] = b"Key Pad for IKEv2";

/// What one side signs.
pub(crate) struct SignedOctets<'a> {
    /// Its IKE_SA_INIT message.
    pub(crate) message: &'a [u8],
    /// The other side's nonce.
    pub(crate) nonce: &'a [u8],
    /// Its SK_p.
    pub(crate) sk_p: &'a Secret,
    /// Its identity.
    pub(crate) identity: &'a Identity,
}

/// AUTH = prf(prf(Shared Secret, "Key Pad for IKEv2"), RealMessage | Nonce | prf(SK_p, ID'))
pub(crate) fn shared_key_mac(prf: Prf, psk: &Secret, signed: &SignedOctets<'_>) -> Zeroizing<Vec<u8>> {
    let mut identity = Vec::new();
    signed.identity.encode(&mut identity);
    let maced_id = prf.compute(signed.sk_p.expose(), &[&identity]);
    let key = prf.compute(psk.expose(), &[KEY_PAD]);
    prf.compute(&key, &[signed.message, signed.nonce, &maced_id])
}

/// Compares in constant time.
pub(crate) fn verify(expected: &[u8], found: &[u8]) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(expected, found).is_ok()
}
