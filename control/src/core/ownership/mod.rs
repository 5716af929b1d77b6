//! Who owns a group: this appliance alone, or one of several; and what follows from that for IKE, workers and store.

pub(super) mod announce;
pub(super) mod deadlines;
pub(super) mod forgetting;
pub(super) mod give_back;
pub(super) mod groups;
pub(super) mod orders;
pub(super) mod pairing;
pub(super) mod patience;
pub(super) mod protection;
pub(super) mod shutdown;

use std::time::Instant;

use vipsec_dataplane::api::VipState;
use vipsec_store::StoreError;
use vipsec_takeover::advertisement::AdvertisementKey;
use vipsec_takeover::decider::{Decider, Role};
use vipsec_takeover::floor::Floor;
use vipsec_takeover::pair::{Pair, PairConfig};
use vipsec_takeover::registry::{Member, MemberConfig, Process};
use vipsec_wire::iv::Epoch;

use crate::config::Config;
use crate::core::store::replica::CopyError;
use crate::core::{Core, Output};
use pairing::Side;

/// Who decides over a group.
pub(in crate::core) enum Ownership {
    /// Nobody else could own it.
    Solo(Solo),
    /// Other appliances and we.
    Shared(Box<Side>),
    /// Others: this appliance has no rank in it.
    Elsewhere,
}

/// A group without a peer. Its epochs are counted all the same, so that it may get one later.
pub(in crate::core) struct Solo {
    floor: Floor,
    epoch: Option<Epoch>,
    asked: bool,
}

impl Ownership {
    /// As the configuration says.
    pub(in crate::core) fn new(config: &Config, group: usize, floor: Floor, incarnation: u64, now: Instant) -> Self {
        let me = config.appliance.id;
        let Some(peer) = config.shared() else { return Self::Solo(Solo { floor, epoch: None, asked: false }) };
        let Some(group) = config.groups.get(group) else { return Self::Elsewhere };
        let ranks = group.ranks();
        let decider: Box<dyn Decider> = match &config.etcd {
            Some(_) if !ranks.contains(&me) => return Self::Elsewhere,
            Some(_) => {
                let me = Process { appliance: me, incarnation };
                Box::new(Member::new(MemberConfig { me, ranks, timing: peer.timing, floor }, now))
            }
            None => {
                let preferred = group.owner == Some(me);
                let pair = PairConfig { me, peer: peer.id, timing: peer.timing, preferred, floor };
                Box::new(Pair::new(pair, now))
            }
        };
        let key = AdvertisementKey::new(peer.secret.expose());
        Self::Shared(Box::new(Side::new(decider, me, key, incarnation)))
    }

    /// The epoch under which the group is ours.
    pub(in crate::core) fn owned_epoch(&self) -> Option<Epoch> {
        match self {
            Self::Solo(solo) => solo.epoch,
            Self::Shared(side) => side.decider.owned_epoch(),
            Self::Elsewhere => None,
        }
    }

    /// The epoch under which its SAs are ours: owned, or not yet handed over.
    pub(in crate::core) fn epoch_of_sas(&self) -> Option<Epoch> {
        match self {
            Self::Solo(solo) => solo.epoch,
            Self::Elsewhere => None,
            Self::Shared(side) => match side.decider.role() {
                Role::Owner { epoch } | Role::HandingOver { epoch, .. } => Some(epoch),
                Role::Standby | Role::Taking { .. } => None,
            },
        }
    }

    pub(in crate::core) fn poll_timeout(&self) -> Option<Instant> {
        match self {
            Self::Solo(_) | Self::Elsewhere => None,
            Self::Shared(side) => Some(side.decider.poll_timeout()),
        }
    }
}

impl Core {
    /// The floor that [`Output::SaveFloor`] named is on disk.
    pub fn handle_floor_saved(&mut self, now: Instant, vip: u16, value: u32) {
        let number = self.group_of(vip);
        let Some(group) = self.groups.get_mut(number) else { return };
        let value = group.handle_floor_saved(vip, value);
        match &mut group.ownership {
            Ownership::Elsewhere => {}
            Ownership::Shared(side) => side.decider.handle_floor_reserved(now, value),
            Ownership::Solo(solo) => {
                solo.floor.reserved(value);
                if solo.epoch.is_none()
                    && let Some(epoch) = solo.floor.next(Epoch(0))
                {
                    solo.floor.take(epoch);
                    solo.epoch = Some(epoch);
                    self.deadlines.lift();
                    self.open(now, number, epoch);
                }
            }
        }
        self.settle(now);
    }

    /// Lets the decisions' consequences happen. True if there were any.
    pub(in crate::core) fn pump_ownership(&mut self, now: Instant) -> bool {
        let mut busy = false;
        for group in 0..self.groups.len() {
            match self.groups.get_mut(group).map(|group| &mut group.ownership) {
                Some(Ownership::Solo(solo)) if !solo.asked => {
                    solo.asked = true;
                    let value = solo.floor.require(Epoch(0));
                    self.save_floor(group, value);
                    busy = true;
                }
                Some(Ownership::Shared(_)) => busy |= self.pump_decisions(now, group),
                Some(Ownership::Solo(_) | Ownership::Elsewhere) | None => {}
            }
        }
        busy | self.open_late(now)
    }

    /// A group's floor goes to disk under the names of all its VIPs, so that none of them ever uses an epoch again.
    pub(in crate::core) fn save_floor(&mut self, group: usize, value: u32) {
        for vip in self.vips_of(group) {
            self.outputs.push_back(Output::SaveFloor { vip, value });
        }
    }

    /// From now on the group is served here; if another one's doubt stops the workers, once they act again. Stopped workers would
    /// lose the frames that make it known, but not the tables, and begin with its packets.
    pub(in crate::core) fn open(&mut self, now: Instant, group: usize, epoch: Epoch) {
        let stopped = self.deadlines.have_passed(now);
        let held = !stopped && self.hold_frames(group);
        for vip in self.vips_of(group) {
            let index = usize::from(vip);
            if let Err(error) = self.ike.set_origin(vip, epoch) {
                tracing::error!(%error, "the VIP's epoch went back: it stays shut");
                continue;
            }
            if stopped {
                continue;
            }
            if let Some(entry) = self.tables.vips.get_mut(index) {
                entry.state = if held { VipState::HandingOver } else { VipState::Owned };
            }
            // The announcement leaves before the first packet: workers take commands in order.
            self.announce(index);
            let name = self.config.vips.get(index).map_or("?", |vip| vip.name.as_str());
            tracing::info!(vip = name, %epoch, "own the VIP");
            self.begin_notices(now, vip, epoch);
        }
        self.stay(group);
        self.calls.look(now);
        if stopped {
            self.opening.insert(group, epoch);
        } else {
            self.opening.remove(&group);
            self.publish_tables();
        }
    }

    /// Opens what became ours while the workers stood still. True if there was anything.
    fn open_late(&mut self, now: Instant) -> bool {
        if self.opening.is_empty() || self.deadlines.have_passed(now) {
            return false;
        }
        for (group, epoch) in std::mem::take(&mut self.opening) {
            let status = self.ownership_status(now, group);
            self.advertise(group, epoch, status.is_some_and(|status| status.is_protected()));
            self.open(now, group, epoch);
        }
        true
    }

    /// The group that was told to stop goes on.
    pub(in crate::core) fn reopen(&mut self, now: Instant, group: usize) {
        if let Some(epoch) = self.groups.get(group).and_then(|group| group.ownership.epoch_of_sas()) {
            tracing::warn!(group = self.group_name(group), "the move was not taken: open it again");
            self.open(now, group, epoch);
        }
    }

    /// Tells the workers where the group is.
    pub(in crate::core) fn set_state(&mut self, group: usize, state: VipState) {
        self.opening.remove(&group);
        self.stop_holding(group);
        for vip in self.vips_of(group) {
            if let Some(entry) = self.tables.vips.get_mut(usize::from(vip)) {
                entry.state = state;
            }
        }
        self.publish_tables();
    }

    /// A group's copy can't be written: what it has isn't complete any more.
    pub(in crate::core) fn handle_store_error(&mut self, now: Instant, group: usize, error: CopyError) {
        let CopyError { at, error } = error;
        let Some(entry) = self.groups.get_mut(group) else { return };
        let Ownership::Shared(side) = &mut entry.ownership else { return };
        match error {
            StoreError::Refused => side.decider.handle_refused(now, at),
            _ => {
                tracing::error!(group = entry.name, appliance = %at, %error, "that appliance's store doesn't take our records");
                // Pairing anew would only meet the same error.
                if side.decider.give_up_join(at) {
                    return;
                }
                side.close(now, at);
                self.outputs.push_back(Output::LinkClose { group, peer: at });
            }
        }
    }
}
