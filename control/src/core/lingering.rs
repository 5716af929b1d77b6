//! Child SAs that were replaced and are deleted, for a moment longer.
//!
//! The IKE message that deletes one may overtake packets that the remote peer sent before it: an old owner passes on what it held for its
//! successor, which has rekeyed meanwhile. So the workers keep a replaced child SA until those have come. What leaves goes by the newer
//! one; and no copy knows the old one any more, so nobody else ever delivers what comes for it (I2). If the VIP goes, it goes at once; and
//! if the newer one ends, lest what leaves goes by the older one. Whose newer one that is doesn't matter: all of the VIP go then.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use vipsec_esp::sa::Spi;
use vipsec_ike::Removal;

use super::Core;

/// More than what was held while a VIP moved takes to arrive.
const LINGER: Duration = Duration::from_millis(100);
/// Where that many linger, further ones don't.
const LINGERING_MAX: usize = 4096;

/// A child SA that IKE has deleted.
#[derive(Debug, Clone, Copy)]
pub(in crate::core) struct GoneChild {
    pub(in crate::core) vip: u16,
    pub(in crate::core) spi: Spi,
    pub(in crate::core) removal: Removal,
}

/// Those that no copy knows any more and the workers still have, in the order in which they go.
#[derive(Debug, Default)]
pub(in crate::core) struct Lingering {
    children: VecDeque<(Instant, GoneChild)>,
}

impl Lingering {
    /// Takes one that is to linger; false where it isn't.
    pub(in crate::core) fn take(&mut self, now: Instant, child: GoneChild) -> bool {
        let lingers = child.removal == Removal::Replaced && self.children.len() < LINGERING_MAX;
        if lingers {
            self.children.push_back((now + LINGER, child));
        }
        lingers
    }

    /// Those of a VIP, which linger no more.
    fn leave(&mut self, vip: u16) -> Vec<Spi> {
        let (leave, stay): (VecDeque<_>, _) =
            std::mem::take(&mut self.children).into_iter().partition(|(_, child)| child.vip == vip);
        self.children = stay;
        leave.into_iter().map(|(_, child): (Instant, GoneChild)| child.spi).collect()
    }

    pub(in crate::core) fn poll_timeout(&self) -> Option<Instant> {
        self.children.front().map(|(until, _)| *until)
    }
}

impl Core {
    /// Those of a VIP go.
    pub(in crate::core) fn forget_lingering(&mut self, vip: u16) {
        for spi in self.lingering.leave(vip) {
            self.forget_gone(spi);
        }
    }

    /// Those whose time is over go.
    pub(in crate::core) fn handle_lingering_timeout(&mut self, now: Instant) {
        while let Some((_, child)) = self.lingering.children.pop_front_if(|(until, _)| *until <= now) {
            self.forget_gone(child.spi);
        }
    }
}
