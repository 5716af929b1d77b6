//! The end of the process: what is ours goes to the backup first, if there is one in sync or soon will be; what we hold of others is
//! given up, and they hear of it, so that none of them waits for a copy that is gone.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use vipsec_takeover::decider::{Copy, NotMoved, Role};

use super::Ownership;
use crate::core::{Core, Output};

/// For backups to take our VIPs over, and for a copy to be filled before. An operator's order takes a few ten milliseconds.
const HAND_OVER_MAX: Duration = Duration::from_secs(2);

/// The process is to end.
#[derive(Debug)]
pub(in crate::core) struct End {
    /// At the latest.
    pub(in crate::core) at: Instant,
    /// By group: was it ordered to another appliance, or why not? An order that nobody takes isn't given again.
    orders: BTreeMap<usize, Result<(), NotMoved>>,
}

impl Core {
    /// The process is to end: [`Output::Shutdown`] follows once the VIPs have been handed over, or can't be, or time is up; at once
    /// when this is the second call.
    pub fn handle_shutdown(&mut self, now: Instant) {
        match &mut self.end {
            Some(end) => end.at = now,
            none => *none = Some(End { at: now + HAND_OVER_MAX, orders: BTreeMap::new() }),
        }
        self.check_end(now);
        if self.end.is_some() {
            tracing::info!("hand over before the end");
        }
    }

    /// Orders every group of ours to the best rank that can take it. True if one waits for a copy that is being filled.
    fn hand_over_all(&mut self, now: Instant) -> bool {
        let Some(end) = self.end.as_mut().filter(|end| now < end.at) else { return false };
        let mut waits = false;
        for (number, group) in self.groups.iter_mut().enumerate() {
            let Some(side) = group.side() else { continue };
            if !matches!(side.decider.role(), Role::Owner { .. }) || end.orders.get(&number) == Some(&Ok(())) {
                continue;
            }
            let peers = side.decider.status(now).peers;
            let mut order = Err(NotMoved::NotLinked);
            for peer in &peers {
                match side.decider.order_move(peer.appliance) {
                    Ok(()) => {
                        order = Ok(());
                        break;
                    }
                    // The best rank's reason is the one that is told.
                    Err(reason) if order == Err(NotMoved::NotLinked) => order = Err(reason),
                    Err(_) => {}
                }
            }
            waits |= order.is_err() && peers.iter().any(|peer| peer.copy == Copy::Joining && peer.healthy);
            end.orders.insert(number, order);
        }
        waits
    }

    /// Gives up the copies of others' groups.
    fn retire(&mut self, now: Instant) {
        for side in self.groups.iter_mut().filter_map(|group| group.side()) {
            side.retire();
        }
        self.settle(now);
    }

    /// Is what was to be handed over gone, its last frames included?
    pub(in crate::core) fn check_end(&mut self, now: Instant) {
        if self.end.is_none() {
            return;
        }
        let waits = self.hand_over_all(now);
        self.settle(now);
        let Some(end) = &self.end else { return };
        let (at, ordered) = (end.at, end.orders.values().any(Result::is_ok));
        // Workers confirm that a VIP isn't ours any more once they have passed on what they held of it.
        let confirmed = self.workers.tables_in_force() == self.tables_version;
        let leaving = self.groups.iter_mut().filter_map(|group| group.side()).any(|side| side.is_leaving());
        let busy = leaving || waits || (ordered && !confirmed);
        if busy && now < at {
            return;
        }
        let orders = self.end.take().map(|end| end.orders).unwrap_or_default();
        self.report_lost(now, &orders);
        self.retire(now);
        self.outputs.push_back(Output::Shutdown);
    }

    /// What is still ours ends with the process.
    fn report_lost(&self, now: Instant, orders: &BTreeMap<usize, Result<(), NotMoved>>) {
        let mut ike_sas = vec![0u64; self.groups.len()];
        for sa in self.ike.sas(now) {
            if let Some(count) = ike_sas.get_mut(self.group_of(sa.vip)) {
                *count += 1;
            }
        }
        for ((number, group), ike_sas) in self.groups.iter().enumerate().zip(ike_sas) {
            if group.ownership.epoch_of_sas().is_none() || ike_sas == 0 {
                continue;
            }
            let name = &group.name;
            match (&group.ownership, orders.get(&number)) {
                (Ownership::Solo(_), _) => tracing::info!(group = name, ike_sas, "IKE SAs end with the process"),
                (_, Some(Err(reason))) => {
                    tracing::warn!(group = name, ike_sas, %reason, "IKE SAs end with the process")
                }
                (_, Some(Ok(()))) => {
                    tracing::warn!(
                        group = name,
                        ike_sas,
                        "the other appliance did not take over in time: IKE SAs end with the process"
                    );
                }
                (_, None) => tracing::warn!(group = name, ike_sas, "IKE SAs end with the process"),
            }
        }
    }
}
