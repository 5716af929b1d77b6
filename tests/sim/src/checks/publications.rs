//! R1, R2: what leaves is acknowledged by every copy that may be resumed from. Looked at when it leaves, whatever becomes of it.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use vipsec_control::core::{KIND_CHILD, KIND_IKE};
use vipsec_store::{RecordKey, WriteId};

use super::Violation;
use crate::frames::SealedIke;
use crate::remote::Use;
use crate::writer::{self, SharedKnown};

/// A copy that a successor may resume from, and whose.
pub(crate) struct CopyAt {
    pub(crate) backup: usize,
    pub(crate) known: SharedKnown,
}

/// A copy as it was when a message left.
struct Then {
    copy: CopyAt,
    acknowledged: WriteId,
}

/// Encrypted IKE messages that have left, by their digests, and who left them.
#[derive(Default)]
pub(crate) struct Publications {
    left: HashMap<u64, (usize, Vec<Then>)>,
}

fn digest(message: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    message.hash(&mut hasher);
    hasher.finish()
}

impl Publications {
    /// R2: an owner lets an IKE message go. The same bytes again are no news.
    pub(crate) fn leave(
        &mut self,
        owner: usize,
        vip: usize,
        message: &[u8],
        copies: Vec<CopyAt>,
    ) -> Result<(), Violation> {
        let Some(sealed) = SealedIke::read(message) else { return Ok(()) };
        let digest = digest(message);
        if self.left.contains_key(&digest) {
            return Ok(());
        }
        let ike_sa = sealed.sender();
        let key = RecordKey { kind: KIND_IKE, vip: vip as u16, id: ike_sa };
        let holds = |copy: &&CopyAt| {
            writer::with(&copy.known, |known| {
                // What is asked anew with each try isn't kept: that it is asked is.
                let is_asked = sealed.may_synchronise && known.holds(key, known.acknowledged());
                is_asked || known.holds_message(key, message)
            })
        };
        let ignorant = copies.iter().find(|copy| !holds(copy)).map(|copy| copy.backup);
        let then = copies.into_iter().map(|copy| {
            let acknowledged = writer::with(&copy.known, |known| known.acknowledged());
            Then { copy, acknowledged }
        });
        self.left.insert(digest, (owner, then.collect()));
        match ignorant {
            Some(backup) => Err(Violation::SpokenUnpublished { owner, backup, ike_sa }),
            None => Ok(()),
        }
    }

    /// R1: by this message a remote peer got to use an SA.
    pub(crate) fn enable(&self, vip: usize, message: &[u8], used: Use) -> Result<(), Violation> {
        let Some((owner, copies)) = self.left.get(&digest(message)) else { return Ok(()) };
        let (kind, id, what) = match used {
            Use::IkeSa(spi) => (KIND_IKE, spi, format!("IKE SA {spi:016x}")),
            Use::Child(spi) => (KIND_CHILD, spi.into(), format!("child SA {spi:08x}")),
        };
        let key = RecordKey { kind, vip: vip as u16, id };
        let holds = |then: &&Then| writer::with(&then.copy.known, |known| known.holds(key, then.acknowledged));
        match copies.iter().find(|then| !holds(then)) {
            Some(then) => Err(Violation::UsedUnpublished { owner: *owner, backup: then.copy.backup, what }),
            None => Ok(()),
        }
    }
}
