//! The pair's decisions about a group, carried out: what its actions mean for IKE, workers, store and wire.

use std::collections::BTreeSet;
use std::time::Instant;

use vipsec_dataplane::api::{Command, PortId, VipState};
use vipsec_esp::sa::Spi;
use vipsec_store::{Reader, StoreWriter};
use vipsec_takeover::advertisement::{Advertisement, AdvertisementKey};
use vipsec_takeover::message::Message;
use vipsec_takeover::pair::{Action, Pair, PairStatus, Role, StepDownReason};
use vipsec_wire::iv::{ApplianceId, Epoch};

use super::groups::side;
use super::inheritance::{Heir, Inheritance};
use super::ownership::Ownership;
use super::records::WarmCopy;
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

/// This appliance's side of a pair, for one group.
pub(super) struct PairSide {
    pub(super) pair: Pair,
    me: ApplianceId,
    peer: ApplianceId,
    key: AdvertisementKey,
    incarnation: u64,
    advertisements: u64,
    /// Of the standing pairing: not used yet.
    writer: Option<Box<dyn StoreWriter + Send>>,
    reader: Option<WarmCopy>,
    /// The region whose join was completed: what a takeover reads.
    held: Option<WarmCopy>,
    /// What a takeover has read, until it is judged.
    staged: Option<Staged>,
    /// It was told to stop: the version of the tables that says so.
    stopping: Option<u64>,
    /// It is on its way to the peer.
    leaving: Option<Leaving>,
}

/// On its way to the peer: the group's frames are held until every network knows where it is now.
struct Leaving {
    /// Under which it was ours.
    epoch: Epoch,
    /// VIPs, and where their new owner has not been heard yet. Until its advertisement came by, the network would bring a frame that
    /// is passed on back to us; and frames may be under way that it had sent to us before.
    unheard: BTreeSet<(u16, PortId)>,
    /// We have stepped down, and frames can be passed on until then.
    until: Option<Instant>,
}

/// What was read of the group, and the child SAs whose installation is not confirmed yet.
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
            staged: None,
            stopping: None,
            leaving: None,
        }
    }

    /// The other appliance.
    pub(super) fn peer(&self) -> ApplianceId {
        self.peer
    }

    /// Is the store link to the other appliance paired?
    pub(super) fn is_linked(&self) -> bool {
        self.pair.is_linked()
    }

    /// Is it on its way to the peer, or are frames of it still to be passed on?
    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.is_some()
    }

    /// The region that the peer writes: that of the completed join, before that of the standing pairing.
    pub(super) fn kept(&self) -> Option<&Reader> {
        self.held.as_ref().or(self.reader.as_ref()).map(WarmCopy::reader)
    }

    /// Opens what the peer has written since the last look.
    pub(super) fn follow(&mut self) {
        self.reader.iter_mut().chain(&mut self.held).for_each(WarmCopy::follow);
    }

    /// The link is closed from our side.
    pub(super) fn close(&mut self, now: Instant) {
        self.writer = None;
        self.reader = None;
        self.pair.handle_link_down(now);
    }
}

impl Core {
    /// A group's store link is paired.
    pub fn handle_link_up(&mut self, now: Instant, group: usize, paired: Paired) {
        if let Some(entry) = self.groups.get_mut(group) {
            tracing::info!(group = entry.name, agreed = paired.agreed, "paired with the other appliance");
            entry.peer_process = paired.incarnation;
            if let Some(side) = entry.side() {
                side.writer = Some(paired.writer);
                side.reader = Some(WarmCopy::new(paired.reader));
                side.pair.handle_link_up(now, paired.incarnation, paired.agreed);
            }
        }
        // What the dead process left is taken before it is let go.
        self.settle(now);
        if let Some(side) = side(&mut self.groups, group)
            && !side.pair.holds_copy()
        {
            side.held = None;
        }
    }

    /// A group's store link is gone.
    pub fn handle_link_down(&mut self, now: Instant, group: usize) {
        if let Some(entry) = self.groups.get_mut(group) {
            entry.replica.strand();
            if let Some(side) = entry.side() {
                side.close(now);
            }
        }
        self.settle(now);
    }

    /// A message over a group's store link: authenticated, numbered, in order.
    pub fn handle_link_message(&mut self, now: Instant, group: usize, bytes: &[u8]) {
        if let Some(side) = side(&mut self.groups, group) {
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

    /// Where the pair stands with a group; `None` without a peer.
    pub fn pair_status(&self, now: Instant, group: usize) -> Option<PairStatus> {
        match &self.groups.get(group)?.ownership {
            Ownership::Pair(side) => Some(side.pair.status(now)),
            Ownership::Solo(_) => None,
        }
    }

    /// Carriers and workers, as the daemon sees them.
    pub fn handle_health(&mut self, healthy: bool) {
        for side in self.groups.iter_mut().filter_map(|group| group.side()) {
            side.pair.handle_health(healthy);
        }
    }

    pub(super) fn ownership_timeout(&mut self, now: Instant) {
        for group in 0..self.groups.len() {
            let Some(entry) = self.groups.get_mut(group) else { return };
            if let Err(error) = entry.replica.check() {
                self.handle_store_error(now, group, error);
            }
            if let Some(side) = side(&mut self.groups, group) {
                side.pair.handle_timeout(now);
                side.follow();
            }
            self.check_left(now, group);
        }
        // A group whose SAs waited for grants when it stopped is asked about again.
        self.check_stopped();
    }

    pub(super) fn handle_advertisement(&mut self, now: Instant, port: PortId, frame: &[u8]) {
        let Some(payload) = announce::advertisement_payload(frame) else { return };
        // All groups have the pair's key.
        let Some(any) = side(&mut self.groups, 0) else { return };
        let advertisement = match any.key.decode(payload) {
            // A switch may hand our own multicast back.
            Ok(advertisement) if advertisement.owner == any.me => return,
            Ok(advertisement) => advertisement,
            Err(error) => return tracing::debug!(%error, "advertisement left out"),
        };
        let group = self.group_of(advertisement.vip);
        let Some(side) = side(&mut self.groups, group) else { return };
        if let Some(leaving) = &mut side.leaving
            && advertisement.epoch > leaving.epoch
        {
            leaving.unheard.remove(&(advertisement.vip, port));
        }
        if let Err(error) = side.pair.handle_advertisement(now, &advertisement) {
            tracing::debug!(%error, "advertisement left out");
        }
        self.check_left(now, group);
    }

    /// Carries out what the pair decided about a group. True if there was anything.
    pub(super) fn pump_pair(&mut self, now: Instant, group: usize) -> bool {
        let mut any = false;
        while let Some(action) = side(&mut self.groups, group).and_then(|side| side.pair.poll_action()) {
            any = true;
            self.carry_out(now, group, action);
        }
        any
    }

    fn carry_out(&mut self, now: Instant, group: usize, action: Action) {
        match action {
            Action::Send(message) => self.outputs.push_back(Output::LinkSend { group, message: message.encode() }),
            Action::Advertise { epoch, protected } => self.advertise(group, epoch, protected),
            Action::Deadline(until) => self.deadlines.renew(group, until),
            Action::ReserveFloor(value) => self.save_floor(group, value),
            Action::CloseLink => {
                if let Some(entry) = self.groups.get_mut(group) {
                    entry.replica.strand();
                    if let Some(side) = entry.side() {
                        side.writer = None;
                        side.reader = None;
                    }
                }
                self.outputs.push_back(Output::LinkClose { group });
            }
            Action::Join => self.begin_join(now, group),
            Action::Unprotected => self.end_protection(group),
            Action::Stage { epoch } => self.stage(now, group, epoch),
            Action::Activate { epoch, trusted } => self.activate(now, group, epoch, trusted),
            Action::Stop => self.stop(group),
            Action::TakeBack => self.take_back(group),
            Action::StepDown(reason) => self.carry_out_step_down(now, group, reason),
        }
    }

    fn carry_out_step_down(&mut self, now: Instant, group: usize, reason: StepDownReason) {
        let name = self.group_name(group);
        match reason {
            StepDownReason::Moved => tracing::info!(group = name, "moved to the other appliance"),
            StepDownReason::Deposed => tracing::warn!(group = name, "deposed: the other appliance owns it"),
            StepDownReason::Refused => {
                tracing::warn!(group = name, "deposed: the other appliance took our store grant back")
            }
            StepDownReason::Uncertain => {
                tracing::warn!(group = name, "deposed: it can't be excluded that the other appliance took over");
            }
        }
        self.abandon_copy(group);
        self.forget_sas(now, group);
        if let Some(side) = side(&mut self.groups, group) {
            side.stopping = None;
            side.staged = None;
            if reason == StepDownReason::Moved
                && let Some(leaving) = &mut side.leaving
            {
                // A beat may have told us of the new owner before it advertises.
                leaving.until = self.config.peer.as_ref().map(|peer| now + peer.timing.deadline);
                self.deadlines.let_go(group);
                return self.check_left(now, group);
            }
            side.leaving = None;
        }
        self.set_state(group, VipState::Elsewhere);
        self.deadlines.leave(group, self.tables_version);
    }

    /// Nothing that waited for the group's copy may happen any more.
    fn abandon_copy(&mut self, group: usize) {
        if let Some(entry) = self.groups.get_mut(group) {
            entry.replica.abandon();
            entry.binding = None;
        }
        self.note_tables_known(group);
    }

    /// From here on the group's frames are held, until it has moved or is ours again.
    fn stop(&mut self, group: usize) {
        self.set_state(group, VipState::HandingOver);
        let version = self.tables_version;
        let mut unheard = BTreeSet::new();
        for vip in self.vips_of(group) {
            let Some(entry) = self.tables.vips.get(usize::from(vip)) else { continue };
            let addresses = std::iter::once(&entry.vip).chain(&entry.more).chain(&entry.gateways);
            unheard.extend(addresses.map(|floating| (vip, floating.port)));
        }
        let Some(side) = side(&mut self.groups, group) else { return };
        side.stopping = Some(version);
        if let Role::HandingOver { epoch, .. } = side.pair.role() {
            side.leaving = Some(Leaving { epoch, unheard, until: None });
        }
    }

    /// Lets the held frames go of a group that has arrived at the peer, as far as can be heard.
    fn check_left(&mut self, now: Instant, group: usize) {
        let Some(side) = side(&mut self.groups, group) else { return };
        let has_left =
            |leaving: &mut Leaving| leaving.until.is_some_and(|until| leaving.unheard.is_empty() || until <= now);
        if side.leaving.take_if(has_left).is_some() {
            self.set_state(group, VipState::Elsewhere);
        }
    }

    fn advertise(&mut self, group: usize, epoch: Epoch, protected: bool) {
        let config = self.config.clone();
        for vip in self.vips_of(group) {
            let Some(entry) = config.vips.get(usize::from(vip)) else { continue };
            let Some(side) = side(&mut self.groups, group) else { return };
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
    }

    /// Every SA is bound, written, acknowledged; then the mark follows.
    fn begin_join(&mut self, now: Instant, group: usize) {
        let Some(entry) = self.groups.get_mut(group) else { return };
        let Some(writer) = entry.side().and_then(|side| side.writer.take()) else { return };
        entry.replica.begin(writer);
        self.replicate_all(now, group);
    }

    fn end_protection(&mut self, group: usize) {
        let Some(entry) = self.groups.get_mut(group) else { return };
        entry.replica.end();
        entry.binding = None;
        for spi in self.children_of(group) {
            self.tell(Command::Grant { spi, horizon: u64::MAX, lease: u64::MAX });
        }
    }

    /// The child SAs of a group's VIPs.
    pub(super) fn children_of(&self, group: usize) -> Vec<Spi> {
        let children = self.children.iter().filter(|(_, child)| self.group_of(child.vip) == group);
        children.map(|(spi, _)| *spi).collect()
    }

    /// Reads the copy and installs what it holds, shut: the group is not open.
    fn stage(&mut self, now: Instant, group: usize, epoch: Epoch) {
        let vips = self.vips_of(group);
        let Some(side) = side(&mut self.groups, group) else { return };
        let heir = Heir { floor_known: side.pair.floor_is_known(), process: side.incarnation };
        let inheritance = match &mut side.held {
            Some(copy) => Inheritance::new(copy.conclude(), &vips, heir),
            None => Inheritance::default(),
        };
        tracing::info!(
            group = self.group_name(group),
            %epoch,
            ike_sas = inheritance.sets.len(),
            left_out = inheritance.left_out,
            warm = inheritance.warm,
            "take over: fenced and read"
        );
        let children = inheritance.children(&self.config, epoch);
        let mut unconfirmed = BTreeSet::new();
        for (child, born) in children {
            unconfirmed.insert(child.inbound.spi);
            self.install_child(child, None, None, born);
        }
        let Some(side) = super::groups::side(&mut self.groups, group) else { return };
        let done = unconfirmed.is_empty();
        side.staged = Some(Staged { inheritance, unconfirmed });
        if done {
            side.pair.handle_staged(now);
        }
    }

    /// A worker has a child SA: did a takeover wait for it?
    pub(super) fn confirm_staged(&mut self, now: Instant, spi: Spi) {
        for side in self.groups.iter_mut().filter_map(|group| group.side()) {
            if let Some(staged) = &mut side.staged
                && staged.unconfirmed.remove(&spi)
                && staged.unconfirmed.is_empty()
            {
                side.pair.handle_staged(now);
            }
        }
    }

    /// Trust is judged: resume what was staged, or forget it.
    fn activate(&mut self, now: Instant, group: usize, epoch: Epoch, trusted: bool) {
        let Some(side) = side(&mut self.groups, group) else { return };
        let staged = side.staged.take();
        side.held = None;
        self.abandon_copy(group);
        if let Some(staged) = staged.as_ref().filter(|_| trusted) {
            self.adopt_standings(group, &staged.inheritance.standings);
        }
        self.open(now, group, epoch);
        if let Some(staged) = staged {
            self.inherit(now, group, staged.inheritance, trusted);
        }
    }

    /// Exact numbers of a group that stopped can't be had before the next tick.
    pub(super) fn stop_later(&mut self, group: usize) {
        let version = self.tables_version;
        if let Some(side) = side(&mut self.groups, group)
            && side.leaving.as_ref().is_some_and(|leaving| leaving.until.is_none())
        {
            side.stopping = Some(version);
        }
    }

    /// The group is ours, whatever was to become of it.
    pub(super) fn stay(&mut self, group: usize) {
        if let Some(side) = side(&mut self.groups, group) {
            side.leaving = None;
        }
    }

    /// Workers confirm tables, or time goes by: has a group stopped everywhere?
    pub(super) fn check_stopped(&mut self) {
        let version = self.workers.tables_in_force();
        for group in 0..self.groups.len() {
            if side(&mut self.groups, group).is_some_and(|side| side.stopping.take_if(|it| *it <= version).is_some()) {
                self.ask_exact_numbers(group);
            }
        }
    }

    pub(super) fn handle_join_published(&mut self, group: usize) {
        if let Some(side) = side(&mut self.groups, group) {
            side.pair.handle_join_published();
        }
    }

    pub(super) fn handle_stopped(&mut self, now: Instant, group: usize) {
        if let Some(side) = side(&mut self.groups, group) {
            side.pair.handle_stopped(now);
        }
    }
}
