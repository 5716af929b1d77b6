//! The end of the process: what is ours goes to the backup first, if there is one in sync.

use std::time::{Duration, Instant};

use vipsec_takeover::pair::Role;

use super::ownership::Ownership;
use super::{Core, Output};

/// For a backup to take our VIPs over. An operator's order takes a few ten milliseconds.
const HAND_OVER_MAX: Duration = Duration::from_secs(2);

impl Core {
    /// The process is to end: [`Output::Shutdown`] follows once the VIPs have been handed over, or can't be, or time is up; at once
    /// when this is the second call.
    pub fn handle_shutdown(&mut self, now: Instant) {
        let handing_over = self.ends_at.is_none() && self.hand_over_all();
        self.ends_at = Some(if handing_over { now + HAND_OVER_MAX } else { now });
        self.settle(now);
        self.check_end(now);
    }

    /// Orders every VIP of ours to the peer. True if one is on its way.
    fn hand_over_all(&mut self) -> bool {
        let Ownership::Pair(side) = &mut self.ownership else { return false };
        for vip in (0..).take(self.config.vips.len()) {
            side.pair.order_move(vip);
        }
        let on_its_way = |vip| matches!(side.pair.role(vip), Some(Role::HandingOver { .. }));
        let any = (0..).take(self.config.vips.len()).any(on_its_way);
        if any {
            tracing::info!("hand over before the end");
        }
        any
    }

    /// Is what was to be handed over gone, its last frames included?
    pub(super) fn check_end(&mut self, now: Instant) {
        let Some(ends_at) = self.ends_at else { return };
        let busy = match &self.ownership {
            Ownership::Solo(_) => false,
            // Workers confirm that a VIP isn't ours any more once they have passed on what they held of it.
            Ownership::Pair(side) => side.is_leaving() || self.workers.tables_in_force() != self.tables_version,
        };
        if !busy || now >= ends_at {
            if busy {
                tracing::warn!("the other appliance did not take over in time: end all the same");
            }
            self.outputs.push_back(Output::Shutdown);
        }
    }
}
