//! What an owner says on the data networks, again and again, from its virtual MACs: "this VIP is mine, under this epoch".
//!
//! VRRP's timing, but authenticated and numbered. The frame carries our own EtherType. Two releases have to understand each other's
//! even where they have no version of the store link in common, or both would own the VIP: so all of this stays where it is, and a
//! later version adds behind it. The payload is
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                   magic "VSAD"                                |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |    version    |  appliance id |              VIP              |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                             epoch                             |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |   protected   |                  zero                         |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                     process incarnation                       |
//! |                                                               |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                           number                              |
//! |                                                               |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |         HMAC-SHA-256 of all before, first 16 bytes            |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```

use aws_lc_rs::{constant_time, hkdf, hmac};
use thiserror::Error;

use vipsec_wire::iv::{ApplianceId, Epoch};

const MAGIC: [u8; 4] = *b"VSAD";
const VERSION: u8 = 1;
const BODY_LEN: usize = 32;
const TAG_LEN: usize = 16;

/// Length of an advertisement's payload, in bytes.
pub const ADVERTISEMENT_LEN: usize = BODY_LEN + TAG_LEN;

/// An advertisement's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Advertisement {
    /// Who speaks.
    pub owner: ApplianceId,
    /// The VIP's place in the configuration.
    pub vip: u16,
    /// Under which epoch it is owned.
    pub epoch: Epoch,
    /// Does a backup hold a counted copy?
    pub protected: bool,
    /// Random, new with every process.
    pub incarnation: u64,
    /// Rises with every advertisement of one process.
    pub number: u64,
}

/// Why an advertisement was not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum AdvertisementError {
    /// Too short, another magic, or an impossible value.
    #[error("not an advertisement")]
    Malformed,
    /// No version that ever was.
    #[error("advertisement of version {0}")]
    Version(u8),
    /// Made with another pairing secret, or changed on the way.
    #[error("advertisement does not authenticate")]
    BadTag,
    /// Sent before one that was already seen.
    #[error("advertisement was seen before")]
    Replayed,
}

/// Makes and checks the tags: keyed by the pairing secret.
pub struct AdvertisementKey(hmac::Key);

struct KeyLen;
impl hkdf::KeyType for KeyLen {
    fn len(&self) -> usize {
        32
    }
}

impl AdvertisementKey {
    /// Derives the key from the pairing secret.
    pub fn new(pairing_secret: &[u8]) -> Self {
        let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, b"vipsec advertisement").extract(pairing_secret);
        let mut key = zeroize::Zeroizing::new([0u8; 32]);
        // 32 bytes are far below HKDF's limit of 255 hashes; if that ever failed, the all-zero key would match no other side's.
        if let Ok(okm) = prk.expand(&[b"hmac key"], KeyLen) {
            let _ = okm.fill(key.as_mut());
        }
        Self(hmac::Key::new(hmac::HMAC_SHA256, key.as_ref()))
    }

    /// The payload on the wire.
    pub fn encode(&self, advertisement: &Advertisement) -> [u8; ADVERTISEMENT_LEN] {
        let mut out = [0u8; ADVERTISEMENT_LEN];
        let (body, tag) = out.split_at_mut(BODY_LEN);
        body[..4].copy_from_slice(&MAGIC);
        body[4] = VERSION;
        body[5] = advertisement.owner.get();
        body[6..8].copy_from_slice(&advertisement.vip.to_be_bytes());
        body[8..12].copy_from_slice(&advertisement.epoch.0.to_be_bytes());
        body[12] = advertisement.protected.into();
        body[16..24].copy_from_slice(&advertisement.incarnation.to_be_bytes());
        body[24..32].copy_from_slice(&advertisement.number.to_be_bytes());
        tag.copy_from_slice(&hmac::sign(&self.0, body).as_ref()[..TAG_LEN]);
        out
    }

    /// Reads a payload that may be followed by what a later version adds, and by an Ethernet frame's padding.
    pub fn decode(&self, payload: &[u8]) -> Result<Advertisement, AdvertisementError> {
        let fixed: &[u8; ADVERTISEMENT_LEN] = payload.first_chunk().ok_or(AdvertisementError::Malformed)?;
        let (body, tag) = fixed.split_at(BODY_LEN);
        if body[..4] != MAGIC {
            return Err(AdvertisementError::Malformed);
        }
        if body[4] < VERSION {
            return Err(AdvertisementError::Version(body[4]));
        }
        let expected = hmac::sign(&self.0, body);
        constant_time::verify_slices_are_equal(&expected.as_ref()[..TAG_LEN], tag)
            .map_err(|_| AdvertisementError::BadTag)?;
        let word = |at: usize| -> u64 {
            body.get(at..).and_then(|rest| rest.first_chunk::<8>()).map_or(0, |bytes| u64::from_be_bytes(*bytes))
        };
        Ok(Advertisement {
            owner: ApplianceId::new(body[5]).map_err(|_| AdvertisementError::Malformed)?,
            vip: u16::from_be_bytes([body[6], body[7]]),
            epoch: Epoch(u32::from_be_bytes([body[8], body[9], body[10], body[11]])),
            protected: body[12] != 0,
            incarnation: word(16),
            number: word(24),
        })
    }
}

/// Refuses advertisements that were sent before.
///
/// Within a process numbers rise. Of two processes the later one owns under the higher epoch, because no appliance uses an epoch
/// twice: so only a higher epoch makes another process believable. While the store link is paired, which proves freshness, no
/// process but the one at its other end is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct ReplayGuard {
    process: u64,
    number: u64,
    epoch: Epoch,
    pinned: bool,
}

impl ReplayGuard {
    /// The peer's process is this one, for as long as the store link is paired.
    pub fn pin(&mut self, incarnation: u64) {
        if self.process != incarnation {
            (self.process, self.number) = (incarnation, 0);
        }
        self.pinned = true;
    }

    /// The store link is gone: another process may follow.
    pub fn unpin(&mut self) {
        self.pinned = false;
    }

    /// Is this one newer than all before?
    pub fn check(&mut self, advertisement: &Advertisement) -> Result<(), AdvertisementError> {
        let Advertisement { incarnation, number, epoch, .. } = *advertisement;
        if incarnation == self.process {
            if number <= self.number {
                return Err(AdvertisementError::Replayed);
            }
        } else if self.pinned || epoch <= self.epoch {
            return Err(AdvertisementError::Replayed);
        }
        (self.process, self.number) = (incarnation, number);
        self.epoch = self.epoch.max(epoch);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Advertisement {
        Advertisement {
            owner: ApplianceId::new(1).unwrap(),
            vip: 2,
            epoch: Epoch(77),
            protected: true,
            incarnation: 0xdead_beef_0000_0001,
            number: 9,
        }
    }

    #[test]
    fn only_the_pairing_secret_makes_one() {
        let key = AdvertisementKey::new(b"the secret of a and b");
        let mut payload = key.encode(&sample());
        assert_eq!(key.decode(&payload), Ok(sample()));
        assert_eq!(AdvertisementKey::new(b"another").decode(&payload), Err(AdvertisementError::BadTag));
        for bit in 0..payload.len() * 8 {
            payload[bit / 8] ^= 1 << (bit % 8);
            assert!(key.decode(&payload).is_err(), "bit {bit}");
            payload[bit / 8] ^= 1 << (bit % 8);
        }
        assert_eq!(key.decode(&payload[..ADVERTISEMENT_LEN - 1]), Err(AdvertisementError::Malformed));
    }

    /// Who doesn't understand that there is an owner would become another one.
    #[test]
    fn a_later_versions_claim_is_understood() {
        let key = AdvertisementKey::new(b"the secret of a and b");
        let mut payload = key.encode(&sample()).to_vec();
        payload[4] = VERSION + 1;
        let tag = hmac::sign(&key.0, &payload[..BODY_LEN]);
        payload[BODY_LEN..].copy_from_slice(&tag.as_ref()[..TAG_LEN]);
        payload.extend_from_slice(b"what the later version adds");
        assert_eq!(key.decode(&payload), Ok(sample()));
    }

    #[test]
    fn an_old_advertisement_is_not_a_sign_of_life() {
        let mut guard = ReplayGuard::default();
        let first = sample();
        assert_eq!(guard.check(&first), Ok(()));
        assert_eq!(guard.check(&first), Err(AdvertisementError::Replayed));
        let restarted = Advertisement { incarnation: 5, number: 1, epoch: Epoch(78), ..first };
        assert_eq!(guard.check(&restarted), Ok(()));
        let of_the_dead_process = Advertisement { number: 1000, ..first };
        assert_eq!(guard.check(&of_the_dead_process), Err(AdvertisementError::Replayed));
    }

    /// A recorded frame of an earlier process must not make the guard deaf for the one that lives.
    #[test]
    fn a_replayed_process_does_not_silence_the_live_one() {
        let mut guard = ReplayGuard::default();
        let recorded = Advertisement { incarnation: 5, epoch: Epoch(3), ..sample() };
        let live = sample();
        assert_eq!(guard.check(&recorded), Ok(()), "nothing newer was heard yet");
        assert_eq!(guard.check(&live), Ok(()));
        assert_eq!(guard.check(&Advertisement { number: 1000, ..recorded }), Err(AdvertisementError::Replayed));
        guard.pin(live.incarnation);
        let later = Advertisement { incarnation: 6, epoch: Epoch(100), ..live };
        assert_eq!(guard.check(&later), Err(AdvertisementError::Replayed), "the link says who lives");
        assert_eq!(guard.check(&Advertisement { number: live.number + 1, ..live }), Ok(()));
        guard.unpin();
        assert_eq!(guard.check(&later), Ok(()));
    }
}
