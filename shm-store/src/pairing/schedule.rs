//! Keys out of a pairing.
//!
//! ```text
//! transcript = SHA-256(length, hello of the lower id, length, hello of the higher id)
//! prk        = HKDF-Extract(salt: pairing secret, X25519 shared secret)
//! key        = HKDF-Expand(prk, purpose, direction, transcript)
//! ```

use aws_lc_rs::agreement::{PrivateKey, UnparsedPublicKey, X25519, agree};
use aws_lc_rs::digest::{Context, SHA256};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use aws_lc_rs::hmac;
use vipsec_wire::iv::ApplianceId;

use crate::channel::Channel;
use crate::grant::{Secret, expand};

const RECORDS: &[u8] = b"vipsec pairing records";
const MESSAGES: &[u8] = b"vipsec pairing messages";
const CONFIRM: &[u8] = b"vipsec pairing confirm";
const FROM_LOWER: u8 = 0;
const FROM_HIGHER: u8 = 1;

struct Directed {
    ours: Secret,
    theirs: Secret,
}

/// One side's part of the transcript: its hello as it was on the wire.
pub(super) struct Half<'a> {
    pub(super) appliance: ApplianceId,
    pub(super) hello: &'a [u8],
}

/// One key per purpose and direction.
pub(super) struct Schedule {
    records: Directed,
    messages: Directed,
    confirm: Directed,
    transcript: [u8; 32],
}

impl Schedule {
    /// `None`: the peer's share is no proper one (RFC 7748 §6.1: the all-zero result).
    pub(super) fn new(
        private: PrivateKey,
        secret: &[u8],
        own: Half<'_>,
        peer: Half<'_>,
        peer_share: [u8; 32],
    ) -> Option<Self> {
        let own_is_lower = own.appliance < peer.appliance;
        let (lower, higher) = if own_is_lower { (own, peer) } else { (peer, own) };
        let mut context = Context::new(&SHA256);
        for hello in [lower.hello, higher.hello] {
            context.update(&(hello.len() as u64).to_be_bytes());
            context.update(hello);
        }
        let transcript: [u8; 32] = context.finish().as_ref().try_into().ok()?;
        let prk = agree(&private, UnparsedPublicKey::new(&X25519, peer_share), (), |shared| {
            Ok(Salt::new(HKDF_SHA256, secret).extract(shared))
        })
        .ok()?;
        let (ours, theirs) = if own_is_lower { (FROM_LOWER, FROM_HIGHER) } else { (FROM_HIGHER, FROM_LOWER) };
        let directed = |purpose: &[u8]| Directed {
            ours: expand(&prk, &[purpose, &[ours], &transcript]),
            theirs: expand(&prk, &[purpose, &[theirs], &transcript]),
        };
        Some(Self { records: directed(RECORDS), messages: directed(MESSAGES), confirm: directed(CONFIRM), transcript })
    }

    pub(super) fn confirmation(&self) -> [u8; 32] {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &*self.confirm.ours);
        let mut out = [0; 32];
        out.copy_from_slice(hmac::sign(&key, &self.transcript).as_ref());
        out
    }

    pub(super) fn peer_confirms(&self, tag: &[u8]) -> bool {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &*self.confirm.theirs);
        hmac::verify(&key, &self.transcript, tag).is_ok()
    }

    /// Message channel, secret of the records we write, secret of the records we read.
    pub(super) fn into_keys(self) -> (Channel, Secret, Secret) {
        (Channel::new(&self.messages.ours, &self.messages.theirs), self.records.ours, self.records.theirs)
    }
}
