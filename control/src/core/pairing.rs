//! The pair's decisions, carried out: what its actions mean for IKE, workers, store and wire.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use vipsec_dataplane::api::{Command, PortId, VipState};
use vipsec_esp::sa::Spi;
use vipsec_store::{Reader, StoreWriter};
use vipsec_takeover::advertisement::{Advertisement, AdvertisementKey};
use vipsec_takeover::message::Message;
use vipsec_takeover::pair::{Action, Pair, PairStatus, Role, StepDownReason};
use vipsec_wire::iv::{ApplianceId, Epoch};

use super::inheritance::{Heir, Inheritance};
use super::ownership::Ownership;
use super::{Core, Output, announce};

/// A pairing that both sides completed.
pub struct Paired {
    /// The peer's process.
    pub incarnation: u64,
    /// The configurations that matter are the same.
    pub agreed: bool,
    /// Into the peer's region.
    pub writer: Box<dyn StoreWriter + Send>,
    /// The region that the peer writes.
    pub reader: Reader,
}

/// This appliance's side of a pair.
pub(super) struct PairSide {
    pub(super) pair: Pair,
    me: ApplianceId,
    peer: ApplianceId,
    key: AdvertisementKey,
    incarnation: u64,
    advertisements: u64,
    /// Of the standing pairing: not used yet.
    writer: Option<Box<dyn StoreWriter + Send>>,
    reader: Option<Reader>,
    /// The region whose join was completed: what a takeover reads.
    held: Option<Reader>,
    /// What a takeover has read, until it is judged.
    staged: BTreeMap<u16, Staged>,
    /// VIPs that were told to stop, and the version of the tables that says so.
    stopping: BTreeMap<u16, u64>,
    /// VIPs on their way to the peer.
    leaving: BTreeMap<u16, Leaving>,
}

/// A VIP on its way to the peer: its frames are held until every network knows where it is now.
struct Leaving {
    /// Under which it was ours.
    epoch: Epoch,
    /// Where the new owner has not been heard yet. Until its advertisement came by, the network would bring a frame that is passed
    /// on back to us; and frames may be under way that it had sent to us before.
    unheard: BTreeSet<PortId>,
    /// We have stepped down, and frames can be passed on until then.
    until: Option<Instant>,
}

/// What was read of a VIP, and the child SAs whose installation is not confirmed yet.
struct Staged {
    inheritance: Inheritance,
    unconfirmed: BTreeSet<Spi>,
}

impl PairSide {
    pub(super) fn new(pair: Pair, me: ApplianceId, peer: ApplianceId, key: AdvertisementKey, incarnation: u64) -> Self {
        Self {
            pair,
            me,
            peer,
            key,
            incarnation,
            advertisements: 0,
            writer: None,
            reader: None,
            held: None,
            staged: BTreeMap::new(),
            stopping: BTreeMap::new(),
            leaving: BTreeMap::new(),
        }
    }

    /// The other appliance.
    pub(super) fn peer(&self) -> ApplianceId {
        self.peer
    }

    /// Is a VIP on its way to the peer, or are frames of one still to be passed on?
    pub(super) fn is_leaving(&self) -> bool {
        !self.leaving.is_empty()
    }

    /// The link is closed from our side.
    pub(super) fn close(&mut self, now: Instant) {
        self.writer = None;
        self.reader = None;
        self.pair.handle_link_down(now);
    }
}

impl Core {
    /// The store link is paired.
    pub fn handle_link_up(&mut self, now: Instant, paired: Paired) {
        if let Ownership::Pair(side) = &mut self.ownership {
            tracing::info!(agreed = paired.agreed, "paired with the other appliance");
            self.publications.peer_process = paired.incarnation;
            side.writer = Some(paired.writer);
            side.reader = Some(paired.reader);
            side.pair.handle_link_up(now, paired.incarnation, paired.agreed);
        }
        // What the dead process left is taken before it is let go.
        self.settle(now);
        if let Ownership::Pair(side) = &mut self.ownership
            && !side.pair.holds_copy()
        {
            side.held = None;
        }
    }

    /// The store link is gone.
    pub fn handle_link_down(&mut self, now: Instant) {
        if let Ownership::Pair(side) = &mut self.ownership {
            self.replica.strand();
            side.close(now);
        }
        self.settle(now);
    }

    /// A message over the store link: authenticated, numbered, in order.
    pub fn handle_link_message(&mut self, now: Instant, bytes: &[u8]) {
        if let Ownership::Pair(side) = &mut self.ownership {
            match Message::decode(bytes) {
                Ok(message) => {
                    if message == Message::Joined {
                        // From here on a takeover reads this region, whatever becomes of the link.
                        side.held = side.reader.take();
                    }
                    side.pair.handle_message(now, &message);
                }
                Err(error) => tracing::warn!(%error, "message of the other appliance"),
            }
        }
        self.settle(now);
    }

    /// Where the pair stands; `None` without a peer.
    pub fn pair_status(&self, now: Instant) -> Option<PairStatus> {
        match &self.ownership {
            Ownership::Pair(side) => Some(side.pair.status(now)),
            Ownership::Solo(_) => None,
        }
    }

    /// Carriers and workers, as the daemon sees them.
    pub fn handle_health(&mut self, healthy: bool) {
        if let Ownership::Pair(side) = &mut self.ownership {
            side.pair.handle_health(healthy);
        }
    }

    pub(super) fn ownership_timeout(&mut self, now: Instant) {
        if let Err(error) = self.replica.check() {
            self.handle_store_error(now, error);
        }
        if let Ownership::Pair(side) = &mut self.ownership {
            side.pair.handle_timeout(now);
        }
        // A VIP whose SAs waited for grants when it stopped is asked about again.
        self.check_stopped();
        self.check_left(now);
    }

    pub(super) fn handle_advertisement(&mut self, now: Instant, port: PortId, frame: &[u8]) {
        let Ownership::Pair(side) = &mut self.ownership else { return };
        let Some(payload) = announce::advertisement_payload(frame) else { return };
        match side.key.decode(payload) {
            // A switch may hand our own multicast back.
            Ok(advertisement) if advertisement.owner == side.me => {}
            Ok(advertisement) => {
                if let Some(leaving) = side.leaving.get_mut(&advertisement.vip)
                    && advertisement.epoch > leaving.epoch
                {
                    leaving.unheard.remove(&port);
                }
                if let Err(error) = side.pair.handle_advertisement(now, &advertisement) {
                    tracing::debug!(%error, "advertisement left out");
                }
            }
            Err(error) => tracing::debug!(%error, "advertisement left out"),
        }
        self.check_left(now);
    }

    /// Carries out what the pair decided. True if there was anything.
    pub(super) fn pump_pair(&mut self, now: Instant) -> bool {
        let mut any = false;
        while let Ownership::Pair(side) = &mut self.ownership
            && let Some(action) = side.pair.poll_action()
        {
            any = true;
            self.carry_out(now, action);
        }
        any
    }

    fn carry_out(&mut self, now: Instant, action: Action) {
        let Ownership::Pair(side) = &mut self.ownership else { return };
        match action {
            Action::Send(message) => self.outputs.push_back(Output::LinkSend(message.encode())),
            Action::Advertise { vip, epoch, protected } => self.advertise(vip, epoch, protected),
            Action::Deadline(Some(until)) => self.deadline.renew(until),
            Action::Deadline(None) => self.deadline.expire(),
            Action::ReserveFloor { vip, value } => self.outputs.push_back(Output::SaveFloor { vip, value }),
            Action::CloseLink => {
                side.writer = None;
                side.reader = None;
                self.replica.strand();
                self.outputs.push_back(Output::LinkClose);
            }
            Action::Join => self.begin_join(now),
            Action::Unprotected => self.end_protection(),
            Action::Stage { vip, epoch, .. } => self.stage(now, vip, epoch),
            Action::Activate { vip, epoch, trusted } => self.activate(now, vip, epoch, trusted),
            Action::Stop { vip } => self.stop_vip(now, vip),
            Action::TakeBack { vip } => self.take_back(vip),
            Action::StepDown { vip, reason } => self.carry_out_step_down(now, vip, reason),
        }
    }

    fn carry_out_step_down(&mut self, now: Instant, vip: u16, reason: StepDownReason) {
        let name = self.config.vips.get(usize::from(vip)).map_or("?", |vip| vip.name.as_str());
        match reason {
            StepDownReason::Moved => tracing::info!(vip = name, "the VIP moved to the other appliance"),
            StepDownReason::Deposed => tracing::warn!(vip = name, "deposed: the other appliance owns the VIP"),
            StepDownReason::Refused => {
                tracing::warn!(vip = name, "deposed: the other appliance took our store grant back")
            }
            StepDownReason::Uncertain => {
                tracing::warn!(vip = name, "deposed: it can't be excluded that the other appliance took over");
            }
        }
        self.replica.abandon();
        self.abandon_join();
        self.forget_sas(now, vip);
        if let Ownership::Pair(side) = &mut self.ownership {
            side.stopping.remove(&vip);
            side.staged.remove(&vip);
            if reason == StepDownReason::Moved
                && let Some(leaving) = side.leaving.get_mut(&vip)
            {
                // A beat may have told us of the new owner before it advertises.
                leaving.until = self.config.peer.as_ref().map(|peer| now + peer.timing.deadline);
                return self.check_left(now);
            }
            side.leaving.remove(&vip);
        }
        self.set_vip_state(vip, VipState::Elsewhere);
    }

    /// From here on the VIP's frames are held, until it has moved or is ours again.
    fn stop_vip(&mut self, now: Instant, vip: u16) {
        self.set_vip_state(vip, VipState::HandingOver);
        let version = self.tables_version;
        let Some(entry) = self.tables.vips.get(usize::from(vip)) else { return };
        let unheard = std::iter::once(&entry.vip).chain(&entry.gateways).map(|floating| floating.port).collect();
        let Ownership::Pair(side) = &mut self.ownership else { return };
        side.stopping.insert(vip, version);
        if let Some(&Role::HandingOver { epoch, .. }) = side.pair.status(now).roles.get(usize::from(vip)) {
            side.leaving.insert(vip, Leaving { epoch, unheard, until: None });
        }
    }

    /// Lets the held frames of VIPs go that have arrived at the peer, as far as can be heard.
    fn check_left(&mut self, now: Instant) {
        let Ownership::Pair(side) = &mut self.ownership else { return };
        let has_left =
            |leaving: &Leaving| leaving.until.is_some_and(|until| leaving.unheard.is_empty() || until <= now);
        let left: Vec<u16> =
            side.leaving.iter().filter(|(_, leaving)| has_left(leaving)).map(|(vip, _)| *vip).collect();
        for vip in left {
            if let Ownership::Pair(side) = &mut self.ownership {
                side.leaving.remove(&vip);
            }
            self.set_vip_state(vip, VipState::Elsewhere);
        }
    }

    fn advertise(&mut self, vip: u16, epoch: Epoch, protected: bool) {
        let Ownership::Pair(side) = &mut self.ownership else { return };
        let config = self.config.clone();
        let Some(entry) = config.vips.get(usize::from(vip)) else { return };
        side.advertisements += 1;
        let payload = side.key.encode(&Advertisement {
            owner: side.me,
            vip,
            epoch,
            protected,
            incarnation: side.incarnation,
            number: side.advertisements,
        });
        for (port, frame) in announce::advertisements(entry, &payload) {
            self.tell(Command::SendFrame { port, frame });
        }
    }

    /// Every SA is bound, written, acknowledged; then the mark follows.
    fn begin_join(&mut self, now: Instant) {
        let Ownership::Pair(side) = &mut self.ownership else { return };
        let Some(writer) = side.writer.take() else { return };
        self.replica.begin(writer);
        self.replicate_all(now);
    }

    fn end_protection(&mut self) {
        self.replica.end();
        self.abandon_join();
        for spi in self.children.keys().copied().collect::<Vec<_>>() {
            self.tell(Command::Grant { spi, horizon: u64::MAX, lease: u64::MAX });
        }
    }

    /// Reads the copy and installs what it holds, shut: the VIP is not open.
    fn stage(&mut self, now: Instant, vip: u16, epoch: Epoch) {
        let Ownership::Pair(side) = &mut self.ownership else { return };
        let heir = Heir { floor_known: side.pair.floor_is_known(vip), process: side.incarnation };
        let inheritance = match &mut side.held {
            Some(reader) => {
                reader.fence();
                Inheritance::read(reader, vip, heir)
            }
            None => Inheritance::default(),
        };
        tracing::info!(
            %epoch,
            ike_sas = inheritance.sets.len(),
            left_out = inheritance.left_out,
            "take over: fenced and read"
        );
        let children = inheritance.children(&self.config, epoch);
        let mut unconfirmed = BTreeSet::new();
        for (child, born) in children {
            unconfirmed.insert(child.inbound.spi);
            self.install_child(child, None, None, born);
        }
        let done = unconfirmed.is_empty();
        if let Ownership::Pair(side) = &mut self.ownership {
            side.staged.insert(vip, Staged { inheritance, unconfirmed });
            if done {
                side.pair.handle_staged(now, vip);
            }
        }
    }

    /// A worker has a child SA. True if a takeover waited for it.
    pub(super) fn confirm_staged(&mut self, now: Instant, spi: Spi) {
        let Ownership::Pair(side) = &mut self.ownership else { return };
        for (vip, staged) in &mut side.staged {
            if staged.unconfirmed.remove(&spi) && staged.unconfirmed.is_empty() {
                side.pair.handle_staged(now, *vip);
            }
        }
    }

    /// Trust is judged: resume what was staged, or forget it.
    fn activate(&mut self, now: Instant, vip: u16, epoch: Epoch, trusted: bool) {
        let Ownership::Pair(side) = &mut self.ownership else { return };
        let staged = side.staged.remove(&vip);
        side.held = None;
        self.replica.abandon();
        if let Some(staged) = staged.as_ref().filter(|_| trusted) {
            self.adopt_standings(&staged.inheritance.standings);
        }
        self.open_vip(now, vip, epoch);
        if let Some(staged) = staged {
            self.inherit(now, vip, staged.inheritance, trusted);
        }
    }

    /// Exact numbers of a VIP that stopped can't be had before the next tick.
    pub(super) fn stop_later(&mut self, vip: u16) {
        if let Ownership::Pair(side) = &mut self.ownership
            && side.leaving.get(&vip).is_some_and(|leaving| leaving.until.is_none())
        {
            side.stopping.insert(vip, self.tables_version);
        }
    }

    /// The VIP is ours, whatever was to become of it.
    pub(super) fn stay(&mut self, vip: u16) {
        if let Ownership::Pair(side) = &mut self.ownership {
            side.leaving.remove(&vip);
        }
    }

    /// Workers confirm tables, or time goes by: has a VIP stopped everywhere?
    pub(super) fn check_stopped(&mut self) {
        let version = self.workers.tables_in_force();
        let Ownership::Pair(side) = &mut self.ownership else { return };
        let stopped: Vec<u16> =
            side.stopping.iter().filter(|(_, wanted)| **wanted <= version).map(|(vip, _)| *vip).collect();
        for vip in stopped {
            if let Ownership::Pair(side) = &mut self.ownership {
                side.stopping.remove(&vip);
            }
            self.ask_exact_numbers(vip);
        }
    }

    pub(super) fn handle_join_published(&mut self) {
        if let Ownership::Pair(side) = &mut self.ownership {
            side.pair.handle_join_published();
        }
    }

    pub(super) fn handle_stopped(&mut self, now: Instant, vip: u16) {
        if let Ownership::Pair(side) = &mut self.ownership {
            side.pair.handle_stopped(now, vip);
        }
    }
}
