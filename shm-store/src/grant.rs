//! Grants: the right to write into a region, from one join to the next fence, and the key that goes with it.
//!
//! A write that was under way when its grant ended can't authenticate under the next one: the key is another.

use std::fmt;

use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk};
use rand_core::CryptoRng;
use vipsec_wire::iv::ApplianceId;
use zeroize::Zeroizing;

use crate::StoreError;
use crate::seal::{Opener, Sealer};

/// The value of a region's grant word while the grant stands. Travels from the backup to the owner in a sealed message.
///
/// The high half is random, the low half counts the joins of a pairing: no two grants of a pairing are equal.
#[derive(Debug, PartialEq, Eq)]
pub struct Grant(u64);

impl Grant {
    /// As it travels.
    pub fn to_bytes(&self) -> [u8; 8] {
        self.0.to_le_bytes()
    }

    /// As it arrived.
    pub fn from_bytes(bytes: [u8; 8]) -> Self {
        Self(u64::from_le_bytes(bytes))
    }

    pub(crate) fn word(&self) -> u64 {
        self.0
    }

    fn join(&self) -> u32 {
        self.0 as u32
    }
}

pub(crate) type Secret = Zeroizing<[u8; 32]>;

/// HKDF-Expand (RFC 5869 §2.3) to 32 bytes.
pub(crate) fn expand(prk: &Prk, info: &[&[u8]]) -> Secret {
    struct Len;
    impl KeyType for Len {
        fn len(&self) -> usize {
            32
        }
    }
    let mut out = Zeroizing::new([0; 32]);
    prk.expand(info, Len).and_then(|okm| okm.fill(&mut *out)).expect("HKDF-SHA256 gives up to 255 * 32 bytes");
    out
}

fn grant_key(secret: &Secret, grant: &Grant) -> Secret {
    expand(&Prk::new_less_safe(HKDF_SHA256, &**secret), &[b"vipsec store grant", &grant.to_bytes()])
}

/// What a pairing leaves with the owner: turns a grant into the right to write, each grant once.
pub struct WriterKeys {
    secret: Secret,
    own: ApplianceId,
    last_join: u32,
}

impl WriterKeys {
    pub(crate) fn new(secret: Secret, own: ApplianceId) -> Self {
        Self { secret, own, last_join: 0 }
    }

    pub(crate) fn own(&self) -> ApplianceId {
        self.own
    }

    /// A grant that isn't newer than the last one is stale: its key may have sealed writes already.
    pub(crate) fn sealer(&mut self, grant: &Grant) -> Result<Sealer, StoreError> {
        if grant.join() <= self.last_join {
            return Err(StoreError::StaleGrant);
        }
        self.last_join = grant.join();
        Ok(Sealer::new(&grant_key(&self.secret, grant)))
    }
}

/// What a pairing leaves with the backup: makes grants, and opens what was written under them.
pub struct ReaderKeys {
    secret: Secret,
    peer: ApplianceId,
    last_join: u32,
}

impl ReaderKeys {
    pub(crate) fn new(secret: Secret, peer: ApplianceId) -> Self {
        Self { secret, peer, last_join: 0 }
    }

    pub(crate) fn peer(&self) -> ApplianceId {
        self.peer
    }

    /// `None` after 2^32 joins.
    pub(crate) fn next_grant(&mut self, rng: &mut impl CryptoRng) -> Option<(Grant, Opener)> {
        self.last_join = self.last_join.checked_add(1)?;
        let grant = Grant(u64::from(rng.next_u32()) << 32 | u64::from(self.last_join));
        let opener = Opener::new(&grant_key(&self.secret, &grant), self.peer);
        Some((grant, opener))
    }
}

impl fmt::Debug for WriterKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriterKeys").field("own", &self.own).finish_non_exhaustive()
    }
}

impl fmt::Debug for ReaderKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReaderKeys").field("peer", &self.peer).finish_non_exhaustive()
    }
}
