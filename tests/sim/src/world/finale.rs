//! The end of a schedule: the faults are over, and within bounded time everything is as it should be.

use std::time::{Duration, Instant};

use vipsec_takeover::decider::{Copy, Status};

use super::World;
use crate::checks::Violation;
use crate::frames::PayloadId;
use crate::remote::Operation;

/// Within that time everything flows and is protected again. The remote peer needs 1.5 s to find out that its SAs are lost.
const RECOVERY_MAX: Duration = Duration::from_secs(6);
/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// And it stays that way.
const CALM: Duration = Duration::from_millis(400);
/// What leaves so long before a VIP has moved.
const BEFORE_MOVE: Duration = Duration::from_millis(30);
/// And after. Then the other one joins: over a slow store more packets wait for it than there is room for.
const AFTER_MOVE: Duration = Duration::from_millis(10);

impl World {
    pub(super) fn finale(&mut self) {
        if self.violation.is_some() {
            return;
        }
        self.mend_all();
        let mut missing = self.recover();
        if missing.is_some() && self.owners.iter().any(|owners| owners.split) {
            // Two owners served a remote peer in turn, and what one of them knew is gone: it may have to call again.
            for vip in 0..self.remotes.len() {
                let reaction = self.remotes[vip].operate(self.agenda.now(), Operation::DeleteIke);
                self.remote_reacts(vip, reaction);
            }
            missing = self.recover();
        }
        if let Some(missing) = missing {
            self.broken(Violation::Stuck(missing.to_owned()));
        }
        self.run_until(self.agenda.elapsed() + CALM);
        if let Some((group, rightful)) = self.rightful
            && let Some(owner) = self.owners[group].owner().filter(|owner| *owner != rightful)
        {
            self.broken(Violation::Usurped { rightful, owner });
        }
        if let Some(payload) = self.lost_in_moves() {
            self.broken(Violation::PacketLost { payload: payload.0 });
        }
        if self.violation.is_none() && self.owners.iter().any(|owners| owners.count() > 1) {
            self.broken(Violation::TwoOwners);
        }
    }

    /// A packet that left while its VIP moved, and was never delivered.
    fn lost_in_moves(&self) -> Option<PayloadId> {
        let mut sent =
            self.moves.iter().flat_map(|(vip, at)| self.remotes[*vip].sent(*at - BEFORE_MOVE, *at + AFTER_MOVE));
        sent.find(|sent| !self.deliveries.has(*sent))
    }

    /// Gives everybody time; returns what is still missing.
    fn recover(&mut self) -> Option<&'static str> {
        let since = self.agenda.now();
        let end = self.agenda.elapsed() + RECOVERY_MAX;
        loop {
            self.run_until(self.agenda.elapsed() + LOOK);
            let missing = self.what_is_missing(since);
            if missing.is_none() || self.violation.is_some() || self.agenda.elapsed() >= end {
                return missing;
            }
        }
    }

    fn what_is_missing(&self, mended: Instant) -> Option<&'static str> {
        let now = self.agenda.now();
        for (group, owners) in self.owners.iter().enumerate() {
            if owners.count() != 1 {
                return Some("not exactly one appliance owns each VIP");
            }
            let owner = self.appliances.iter().filter_map(|appliance| appliance.process.as_ref());
            let owner = owner.filter(|process| owners.owns(process.id.appliance));
            let mut copies = owner.filter_map(|process| process.core.ownership_status(process.clock.at(now), group));
            let all_count = |status: Status| status.peers.iter().all(|peer| peer.copy == Copy::Counted);
            if !copies.next().is_some_and(all_count) {
                return Some("an owner has no counted copy");
            }
        }
        if self.remotes.iter().any(|remote| remote.answered.is_none_or(|answered| answered <= mended)) {
            return Some("no packet that left after the last fault was answered");
        }
        None
    }
}
