//! Who owns a group: this appliance alone, or one of a pair; and what follows from that for IKE, workers and store.

use std::time::Instant;

use vipsec_dataplane::api::{Command, VipState};
use vipsec_esp::sa::Spi;
use vipsec_store::StoreError;
use vipsec_takeover::advertisement::AdvertisementKey;
use vipsec_takeover::floor::Floor;
use vipsec_takeover::pair::{Pair, PairConfig, Role};
use vipsec_wire::iv::Epoch;

use super::pairing::PairSide;
use super::{Core, Output};
use crate::config::Config;

/// Who decides over a group.
pub(super) enum Ownership {
    /// Nobody else could own it.
    Solo(Solo),
    /// The peer appliance and we.
    Pair(Box<PairSide>),
}

/// A group without a peer. Its epochs are counted all the same, so that it may get one later.
pub(super) struct Solo {
    floor: Floor,
    epoch: Option<Epoch>,
    asked: bool,
}

impl Ownership {
    /// As the configuration says.
    pub(super) fn new(config: &Config, group: usize, floor: Floor, incarnation: u64, now: Instant) -> Self {
        match &config.peer {
            None => Self::Solo(Solo { floor, epoch: None, asked: false }),
            Some(peer) => {
                let me = config.appliance.id;
                let preferred = config.groups.get(group).is_some_and(|group| group.owner == Some(me));
                let pair = PairConfig { me, peer: peer.id, timing: peer.timing, preferred, floor };
                let key = AdvertisementKey::new(peer.secret.expose());
                Self::Pair(Box::new(PairSide::new(Pair::new(pair, now), me, peer.id, key, incarnation)))
            }
        }
    }

    /// The epoch under which the group is ours.
    pub(super) fn owned_epoch(&self) -> Option<Epoch> {
        match self {
            Self::Solo(solo) => solo.epoch,
            Self::Pair(side) => side.pair.owned_epoch(),
        }
    }

    /// The epoch under which its SAs are ours: owned, or not yet handed over.
    pub(super) fn epoch_of_sas(&self) -> Option<Epoch> {
        match self {
            Self::Solo(solo) => solo.epoch,
            Self::Pair(side) => match side.pair.role() {
                Role::Owner { epoch } | Role::HandingOver { epoch, .. } => Some(epoch),
                Role::Standby | Role::Taking { .. } => None,
            },
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        match self {
            Self::Solo(_) => None,
            Self::Pair(side) => Some(side.pair.poll_timeout()),
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
            Ownership::Pair(side) => side.pair.handle_floor_reserved(now, value),
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
    pub(super) fn pump_ownership(&mut self, now: Instant) -> bool {
        let mut busy = false;
        for group in 0..self.groups.len() {
            match self.groups.get_mut(group).map(|group| &mut group.ownership) {
                Some(Ownership::Solo(solo)) if !solo.asked => {
                    solo.asked = true;
                    let value = solo.floor.require(Epoch(0));
                    self.save_floor(group, value);
                    busy = true;
                }
                Some(Ownership::Pair(_)) => busy |= self.pump_pair(now, group),
                Some(Ownership::Solo(_)) | None => {}
            }
        }
        busy
    }

    /// A group's floor goes to disk under the names of all its VIPs, so that none of them ever uses an epoch again.
    pub(super) fn save_floor(&mut self, group: usize, value: u32) {
        for vip in self.vips_of(group) {
            self.outputs.push_back(Output::SaveFloor { vip, value });
        }
    }

    /// From now on the group is served here.
    pub(super) fn open(&mut self, now: Instant, group: usize, epoch: Epoch) {
        for vip in self.vips_of(group) {
            let index = usize::from(vip);
            if let Err(error) = self.ike.set_origin(vip, epoch) {
                tracing::error!(%error, "the VIP's epoch went back: it stays shut");
                continue;
            }
            if let Some(entry) = self.tables.vips.get_mut(index) {
                entry.state = VipState::Owned;
            }
            // The announcement leaves before the first packet: workers take commands in order.
            self.announce(index);
            let name = self.config.vips.get(index).map_or("?", |vip| vip.name.as_str());
            tracing::info!(vip = name, %epoch, "own the VIP");
        }
        self.stay(group);
        self.calls.look(now);
        self.publish_tables();
    }

    /// The group that was told to stop goes on.
    pub(super) fn reopen(&mut self, now: Instant, group: usize) {
        if let Some(epoch) = self.groups.get(group).and_then(|group| group.ownership.epoch_of_sas()) {
            tracing::warn!(group = self.group_name(group), "the move was not taken: open it again");
            self.open(now, group, epoch);
        }
    }

    /// Tells the workers where the group is.
    pub(super) fn set_state(&mut self, group: usize, state: VipState) {
        for vip in self.vips_of(group) {
            if let Some(entry) = self.tables.vips.get_mut(usize::from(vip)) {
                entry.state = state;
            }
        }
        self.publish_tables();
    }

    /// Forgets the group's SAs, without a word to the remote peers.
    pub(super) fn forget_sas(&mut self, now: Instant, group: usize) {
        for vip in self.vips_of(group) {
            self.ike.forget_vip(vip, now);
            let gone = self.children.iter().filter(|(_, child)| child.vip == vip);
            for spi in gone.map(|(spi, _)| *spi).collect::<Vec<Spi>>() {
                self.children.remove(&spi);
                if let Some(replica) = self.replica_of(vip) {
                    replica.forget_numbers(spi);
                }
                self.tell(Command::RemoveChild(spi));
            }
        }
    }

    /// A group's copy can't be written: what it has isn't complete any more.
    pub(super) fn handle_store_error(&mut self, now: Instant, group: usize, error: StoreError) {
        let Some(entry) = self.groups.get_mut(group) else { return };
        let Ownership::Pair(side) = &mut entry.ownership else { return };
        match error {
            StoreError::Refused => side.pair.handle_refused(now),
            _ => {
                tracing::error!(group = entry.name, %error, "the other appliance's store doesn't take our records: unprotected");
                // Pairing anew would only meet the same error.
                if side.pair.give_up_join() {
                    return;
                }
                entry.replica.strand();
                side.close(now);
                self.outputs.push_back(Output::LinkClose { group });
            }
        }
    }
}
