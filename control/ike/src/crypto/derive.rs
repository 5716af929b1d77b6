//! Keys of IKE SAs and child SAs (RFC 7296 §2.14, §2.17, §2.18).

use serde::{Deserialize, Serialize};

use super::transform::Prf;
use super::{DirectionKeys, EspSuite, IkeSuite, Secret};
use crate::message::Role;

/// The secrets of an IKE SA. SK_a is empty where the cipher protects integrity itself (RFC 5282 §7.1).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct IkeKeys {
    pub(crate) sk_d: Secret,
    pub(crate) sk_ai: Secret,
    pub(crate) sk_ar: Secret,
    pub(crate) sk_ei: Secret,
    pub(crate) sk_er: Secret,
    pub(crate) sk_pi: Secret,
    pub(crate) sk_pr: Secret,
}

/// What both sides of an exchange put into its keys.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Nonces<'a> {
    pub(crate) initiator: &'a [u8],
    pub(crate) responder: &'a [u8],
}

/// The two SPIs of an IKE SA.
#[derive(Debug, Clone, Copy)]
pub(crate) struct IkeSpis {
    pub(crate) initiator: u64,
    pub(crate) responder: u64,
}

impl IkeKeys {
    /// RFC 7296 §2.14: SKEYSEED = prf(Ni | Nr, g^ir).
    pub(crate) fn initial(suite: IkeSuite, shared: &Secret, nonces: Nonces<'_>, spis: IkeSpis) -> Self {
        let key = [nonces.initiator, nonces.responder].concat();
        let skeyseed = suite.prf.compute(&key, &[shared.expose()]);
        Self::from_seed(suite, &skeyseed, nonces, spis)
    }

    /// RFC 7296 §2.18: SKEYSEED = prf(SK_d (old), g^ir (new) | Ni | Nr), with the old IKE SA's PRF.
    pub(crate) fn rekeyed(
        suite: IkeSuite,
        old: (Prf, &Secret),
        shared: &Secret,
        nonces: Nonces<'_>,
        spis: IkeSpis,
    ) -> Self {
        let (prf, sk_d) = old;
        let skeyseed = prf.compute(sk_d.expose(), &[shared.expose(), nonces.initiator, nonces.responder]);
        Self::from_seed(suite, &skeyseed, nonces, spis)
    }

    /// {SK_d | SK_ai | SK_ar | SK_ei | SK_er | SK_pi | SK_pr} = prf+(SKEYSEED, Ni | Nr | SPIi | SPIr)
    fn from_seed(suite: IkeSuite, skeyseed: &[u8], nonces: Nonces<'_>, spis: IkeSpis) -> Self {
        let prf_len = suite.prf.key_len();
        let (integrity_len, key_len) = (suite.cipher.integrity_key_len(), suite.cipher.encryption_key_len());
        let (spi_i, spi_r) = (spis.initiator.to_be_bytes(), spis.responder.to_be_bytes());
        let seed: [&[u8]; 4] = [nonces.initiator, nonces.responder, &spi_i, &spi_r];
        let stream = suite.prf.expand(skeyseed, &seed, 3 * prf_len + 2 * integrity_len + 2 * key_len);
        let mut cut = Cutter(&stream);
        Self {
            sk_d: cut.next(prf_len),
            sk_ai: cut.next(integrity_len),
            sk_ar: cut.next(integrity_len),
            sk_ei: cut.next(key_len),
            sk_er: cut.next(key_len),
            sk_pi: cut.next(prf_len),
            sk_pr: cut.next(prf_len),
        }
    }

    /// The keys that protect what `sender` sends.
    pub(crate) const fn protection(&self, sender: Role) -> DirectionKeys<'_> {
        match sender {
            Role::Initiator => DirectionKeys { encryption: &self.sk_ei, integrity: &self.sk_ai },
            Role::Responder => DirectionKeys { encryption: &self.sk_er, integrity: &self.sk_ar },
        }
    }

    /// The key for `role`'s AUTH payload.
    pub(crate) const fn authentication(&self, role: Role) -> &Secret {
        match role {
            Role::Initiator => &self.sk_pi,
            Role::Responder => &self.sk_pr,
        }
    }

    /// Do the lengths fit the suite? A record says what it likes.
    pub(crate) fn fit(&self, suite: IkeSuite) -> bool {
        let (prf, cipher) = (suite.prf.key_len(), suite.cipher);
        [&self.sk_d, &self.sk_pi, &self.sk_pr].iter().all(|secret| secret.len() == prf)
            && [&self.sk_ai, &self.sk_ar].iter().all(|secret| secret.len() == cipher.integrity_key_len())
            && [&self.sk_ei, &self.sk_er].iter().all(|secret| secret.len() == cipher.encryption_key_len())
    }
}

/// The keys of a child SA pair: cipher key, then salt.
#[derive(Debug, Clone)]
pub(crate) struct ChildKeys {
    /// For what the exchange's initiator sends.
    pub(crate) initiator: Secret,
    /// For what its responder sends.
    pub(crate) responder: Secret,
}

impl ChildKeys {
    /// RFC 7296 §2.17: KEYMAT = prf+(SK_d, [g^ir (new) |] Ni | Nr).
    pub(crate) fn derive(
        suite: EspSuite,
        prf: Prf,
        sk_d: &Secret,
        shared: Option<&Secret>,
        nonces: Nonces<'_>,
    ) -> Self {
        let len = suite.encryption.keymat_len();
        let shared = shared.map_or(&[][..], Secret::expose);
        let stream = prf.expand(sk_d.expose(), &[shared, nonces.initiator, nonces.responder], 2 * len);
        // RFC 7296 §2.17: keys for what the initiator sends are taken first.
        let mut cut = Cutter(&stream);
        Self { initiator: cut.next(len), responder: cut.next(len) }
    }
}

/// Takes keys from a stream without regard to block boundaries.
struct Cutter<'a>(&'a [u8]);

impl Cutter<'_> {
    fn next(&mut self, len: usize) -> Secret {
        let (head, tail) = self.0.split_at_checked(len).unwrap_or((self.0, &[]));
        self.0 = tail;
        Secret::new(head.to_vec())
    }
}
