//! Who owns the VIPs: this appliance alone, or one of a pair; and what follows from that for IKE, workers and store.

use std::time::Instant;

use vipsec_dataplane::api::{Command, VipState};
use vipsec_esp::sa::Spi;
use vipsec_store::StoreError;
use vipsec_takeover::advertisement::AdvertisementKey;
use vipsec_takeover::floor::Floor;
use vipsec_takeover::pair::{Pair, PairConfig, Role, VipConfig};
use vipsec_wire::iv::Epoch;

use super::pairing::PairSide;
use super::{Core, Output};
use crate::config::Config;

/// Who decides.
pub(super) enum Ownership {
    /// Nobody else could own them.
    Solo(Solo),
    /// The peer appliance and we.
    Pair(Box<PairSide>),
}

/// An appliance without a peer. It still counts its epochs, so that it may get one later.
pub(super) struct Solo {
    floors: Vec<Floor>,
    epochs: Vec<Option<Epoch>>,
    asked: bool,
}

impl Ownership {
    /// As the configuration says.
    pub(super) fn new(config: &Config, floors: Vec<Floor>, incarnation: u64, now: Instant) -> Self {
        match &config.peer {
            None => {
                let epochs = vec![None; floors.len()];
                Self::Solo(Solo { floors, epochs, asked: false })
            }
            Some(peer) => {
                let me = config.appliance.id;
                let vips = config.vips.iter().zip(floors);
                let vips = vips.map(|(vip, floor)| VipConfig { preferred: vip.owner == Some(me), floor });
                let pair_config = PairConfig { me, peer: peer.id, timing: peer.timing, vips: vips.collect() };
                let key = AdvertisementKey::new(peer.secret.expose());
                let pair = Pair::new(pair_config, now);
                Self::Pair(Box::new(PairSide::new(pair, me, peer.id, key, incarnation)))
            }
        }
    }

    /// The epoch under which the VIP is ours.
    pub(super) fn owned_epoch(&self, vip: u16) -> Option<Epoch> {
        match self {
            Self::Solo(solo) => *solo.epochs.get(usize::from(vip))?,
            Self::Pair(side) => side.pair.owned_epoch(vip),
        }
    }

    /// The epoch under which its SAs are ours: owned, or not yet handed over.
    pub(super) fn epoch_of_sas(&self, vip: u16) -> Option<Epoch> {
        match self {
            Self::Solo(_) => self.owned_epoch(vip),
            Self::Pair(side) => match side.pair.role(vip)? {
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
        match &mut self.ownership {
            Ownership::Pair(side) => side.pair.handle_floor_reserved(now, vip, value),
            Ownership::Solo(solo) => {
                let Some(floor) = solo.floors.get_mut(usize::from(vip)) else { return };
                floor.reserved(value);
                let Some(epoch) = floor.next(Epoch(0)) else { return };
                floor.take(epoch);
                if let Some(entry) = solo.epochs.get_mut(usize::from(vip)) {
                    *entry = Some(epoch);
                }
                self.deadline.lift();
                self.open_vip(now, vip, epoch);
            }
        }
        self.settle(now);
    }

    /// Lets the decision's consequences happen. True if there were any.
    pub(super) fn pump_ownership(&mut self, now: Instant) -> bool {
        match &mut self.ownership {
            Ownership::Solo(solo) => {
                if std::mem::replace(&mut solo.asked, true) {
                    return false;
                }
                for (vip, floor) in (0..).zip(&solo.floors) {
                    self.outputs.push_back(Output::SaveFloor { vip, value: floor.require(Epoch(0)) });
                }
                true
            }
            Ownership::Pair(_) => self.pump_pair(now),
        }
    }

    /// From now on the VIP is served here.
    pub(super) fn open_vip(&mut self, now: Instant, vip: u16, epoch: Epoch) {
        let index = usize::from(vip);
        if let Err(error) = self.ike.set_origin(vip, epoch) {
            tracing::error!(%error, "the VIP's epoch went back: it stays shut");
            return;
        }
        if let Some(entry) = self.tables.vips.get_mut(index) {
            entry.state = VipState::Owned;
        }
        self.stay(vip);
        self.calls.look(now);
        // The announcement leaves before the first packet: workers take commands in order.
        self.announce(index);
        self.publish_tables();
        let name = self.config.vips.get(index).map_or("?", |vip| vip.name.as_str());
        tracing::info!(vip = name, %epoch, "own the VIP");
    }

    /// The VIP that was told to stop goes on.
    pub(super) fn reopen_vip(&mut self, now: Instant, vip: u16) {
        if let Some(epoch) = self.epoch_of(vip) {
            tracing::warn!("the move was not taken: open the VIP again");
            self.open_vip(now, vip, epoch);
        }
    }

    /// Tells the workers where the VIP is.
    pub(super) fn set_vip_state(&mut self, vip: u16, state: VipState) {
        if let Some(entry) = self.tables.vips.get_mut(usize::from(vip)) {
            entry.state = state;
        }
        self.publish_tables();
    }

    /// Forgets the VIP's SAs, without a word to the remote peers.
    pub(super) fn forget_sas(&mut self, now: Instant, vip: u16) {
        self.ike.forget_vip(vip, now);
        let gone: Vec<Spi> = self.children.iter().filter(|(_, child)| child.vip == vip).map(|(spi, _)| *spi).collect();
        for spi in gone {
            self.children.remove(&spi);
            self.replica.forget_numbers(spi);
            self.tell(Command::RemoveChild(spi));
        }
    }

    /// The copy can't be written: what it has isn't complete any more.
    pub(super) fn handle_store_error(&mut self, now: Instant, error: StoreError) {
        if let Ownership::Pair(side) = &mut self.ownership {
            match error {
                StoreError::Refused => side.pair.handle_refused(now),
                _ => {
                    tracing::error!(%error, "the other appliance's store doesn't take our records: unprotected");
                    // Pairing anew would only meet the same error.
                    if side.pair.give_up_join() {
                        return;
                    }
                    self.replica.strand();
                    side.close(now);
                    self.outputs.push_back(Output::LinkClose);
                }
            }
        }
    }
}
