//! The end of the process: what is ours goes to the backup first, if there is one in sync; what we hold of others is given up, and they
//! hear of it, so that none of them waits for a copy that is gone.

use std::time::{Duration, Instant};

use vipsec_takeover::decider::Role;

use super::{Core, Output};

/// For a backup to take our VIPs over. An operator's order takes a few ten milliseconds.
const HAND_OVER_MAX: Duration = Duration::from_secs(2);

impl Core {
    /// The process is to end: [`Output::Shutdown`] follows once the VIPs have been handed over, or can't be, or time is up; at once
    /// when this is the second call.
    pub fn handle_shutdown(&mut self, now: Instant) {
        let handing_over = self.ends_at.is_none() && self.hand_over_all(now);
        self.ends_at = Some(if handing_over { now + HAND_OVER_MAX } else { now });
        self.settle(now);
        self.check_end(now);
    }

    /// Orders every group of ours to the best rank that can take it. True if one is on its way.
    fn hand_over_all(&mut self, now: Instant) -> bool {
        let mut any = false;
        for side in self.groups.iter_mut().filter_map(|group| group.side()) {
            let peers = side.decider.status(now).peers;
            let _ = peers.iter().any(|peer| side.decider.order_move(peer.appliance).is_ok());
            any |= matches!(side.decider.role(), Role::HandingOver { .. });
        }
        if any {
            tracing::info!("hand over before the end");
        }
        any
    }

    /// Gives up the copies of others' groups.
    fn retire(&mut self, now: Instant) {
        for side in self.groups.iter_mut().filter_map(|group| group.side()) {
            side.retire();
        }
        self.settle(now);
    }

    /// Is what was to be handed over gone, its last frames included?
    pub(super) fn check_end(&mut self, now: Instant) {
        let Some(ends_at) = self.ends_at else { return };
        // Workers confirm that a VIP isn't ours any more once they have passed on what they held of it.
        let confirmed = self.workers.tables_in_force() == self.tables_version;
        let mut sides = self.groups.iter_mut().filter_map(|group| group.side()).peekable();
        let busy = sides.peek().is_some() && (sides.any(|side| side.is_leaving()) || !confirmed);
        if !busy || now >= ends_at {
            if busy {
                tracing::warn!("the other appliance did not take over in time: end all the same");
            }
            self.ends_at = None;
            self.retire(now);
            self.outputs.push_back(Output::Shutdown);
        }
    }
}
