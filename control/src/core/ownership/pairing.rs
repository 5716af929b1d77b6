//! Decisions about a group, carried out: what their actions mean for IKE, workers, store and wire.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use vipsec_dataplane::api::{ALIVE_INTERVAL, Command, PortId, VipState};
use vipsec_esp::sa::Spi;
use vipsec_store::{Reader, StoreWriter};
use vipsec_takeover::advertisement::{Advertisement, AdvertisementKey};
use vipsec_takeover::decider::{Action, Decider, Fitness, Role, Status, StepDownReason};
use vipsec_takeover::message::Message;
use vipsec_takeover::registry::{Process, Reply};
use vipsec_wire::iv::{ApplianceId, Epoch};

use super::Ownership;
use super::announce;
use super::groups::side;
use crate::core::store::pins::Restoration;
use crate::core::store::publishing::ToCopy;
use crate::core::store::records::WarmCopy;
use crate::core::takeover::inheritance::{Heir, Inheritance};
use crate::core::{Core, Effect, Output};

/// A pairing that both sides have completed.
pub struct Paired {
    /// The peer's process.
    pub incarnation: u64,
    /// The version of the link that both speak.
    pub version: u16,
    /// The configurations that matter are the same.
    pub agreed: bool,
    /// Into the peer's region.
    pub writer: Box<dyn StoreWriter + Send>,
    /// The region that the peer writes.
    pub reader: Reader,
}

/// This appliance's part in the decision over one group, and its links to the others who have one.
pub(in crate::core) struct Side {
    pub(in crate::core) decider: Box<dyn Decider>,
    me: ApplianceId,
    key: AdvertisementKey,
    incarnation: u64,
    advertisements: u64,
    /// Standing pairings, as far as they are not used yet.
    links: BTreeMap<ApplianceId, Ends>,
    /// The region whose join was completed, and who had filled it: what a takeover reads.
    held: Option<(ApplianceId, WarmCopy)>,
    /// What a takeover has read, until it is judged.
    staged: Option<Staged>,
    /// It was told to stop: the version of the tables that says so.
    stopping: Option<u64>,
    /// It is on its way to another appliance.
    leaving: Option<Leaving>,
}

/// Both ends of a pairing: our way into the other one's region, and the region that it writes here.
struct Ends {
    /// What the two may say to each other.
    version: u16,
    writer: Option<Box<dyn StoreWriter + Send>>,
    copy: Option<WarmCopy>,
    /// Parts of the configuration in which the two differ, as far as they have told each other.
    differs: Vec<String>,
}

/// On its way to another appliance: the group's frames are held until every network knows where it is now.
struct Leaving {
    /// Under which it was ours.
    epoch: Epoch,
    /// VIPs, and where their new owner has not been heard yet. Until its advertisement came by, the network would bring a frame that
    /// is passed on back to us; and frames may be under way that it had sent to us before.
    unheard: BTreeSet<(u16, PortId)>,
    /// We have stepped down, and frames can be passed on until then.
    until: Option<Instant>,
}

/// What was read of the group, and its connections as far as the workers don't have them yet.
struct Staged {
    inheritance: Inheritance,
    pins: Restoration,
}

impl Side {
    pub(in crate::core) fn new(
        decider: Box<dyn Decider>,
        me: ApplianceId,
        key: AdvertisementKey,
        incarnation: u64,
    ) -> Self {
        Self {
            decider,
            me,
            key,
            incarnation,
            advertisements: 0,
            links: BTreeMap::new(),
            held: None,
            staged: None,
            stopping: None,
            leaving: None,
        }
    }

    /// The appliances whose store links are paired.
    pub(in crate::core) fn linked(&self) -> impl Iterator<Item = ApplianceId> {
        self.links.keys().copied()
    }

    /// The version of the link to that appliance, if the two are paired.
    pub(in crate::core) fn version(&self, of: ApplianceId) -> Option<u16> {
        self.links.get(&of).map(|ends| ends.version)
    }

    /// In which parts of the configuration we differ from that appliance, as far as the two have told each other.
    pub(in crate::core) fn differs(&self, from: ApplianceId) -> &[String] {
        self.links.get(&from).map_or(&[], |ends| &ends.differs)
    }

    /// Is it on its way to another appliance, or are frames of it still to be passed on?
    pub(in crate::core) fn is_leaving(&self) -> bool {
        self.leaving.is_some()
    }

    /// The region that an appliance writes: that of the completed join, before that of the standing pairing.
    pub(in crate::core) fn kept(&self, of: ApplianceId) -> Option<&WarmCopy> {
        let held = self.held.as_ref().filter(|(filler, _)| *filler == of).map(|(_, copy)| copy);
        held.or_else(|| self.links.get(&of)?.copy.as_ref())
    }

    /// Opens what others have written since the last look.
    pub(in crate::core) fn follow(&mut self) {
        let joining = self.links.values_mut().filter_map(|ends| ends.copy.as_mut());
        joining.chain(self.held.iter_mut().map(|(_, copy)| copy)).for_each(WarmCopy::follow);
    }

    /// Is that the region which a takeover would read?
    pub(in crate::core) fn holds(&self, of: ApplianceId) -> bool {
        self.held.as_ref().is_some_and(|(filler, _)| *filler == of)
    }

    /// What of it we could go on with.
    pub(in crate::core) fn heir(&self) -> Heir {
        let process = Process { appliance: self.me, incarnation: self.incarnation };
        Heir { floor_known: self.decider.floor_is_known(), process }
    }

    /// The region which a takeover would read.
    pub(in crate::core) fn held_copy(&mut self) -> Option<&mut WarmCopy> {
        self.held.as_mut().map(|(_, copy)| copy)
    }

    /// The connections that a takeover has read.
    pub(in crate::core) fn restoration(&mut self) -> Option<&mut Restoration> {
        self.staged.as_mut().map(|staged| &mut staged.pins)
    }

    /// The process is about to end: nobody is to wait for what we hold.
    pub(in crate::core) fn retire(&mut self) {
        self.decider.retire();
        if !self.decider.holds_copy() {
            self.held = None;
        }
    }

    /// The link is closed from our side.
    pub(in crate::core) fn close(&mut self, now: Instant, peer: ApplianceId) {
        self.links.remove(&peer);
        self.decider.handle_link_down(now, peer);
    }
}

impl Core {
    /// A group's store link to another appliance is paired.
    pub fn handle_link_up(&mut self, now: Instant, group: usize, peer: ApplianceId, paired: Paired) {
        let Paired { incarnation, version, agreed, writer, reader } = paired;
        let pins_max = self.pins_max();
        if let Some(entry) = self.groups.get_mut(group) {
            tracing::info!(group = entry.name, appliance = %peer, agreed, version, "paired with the other appliance");
            entry.paired.insert(peer, incarnation);
            if let Some(side) = entry.side() {
                let ends = Ends {
                    version,
                    writer: Some(writer),
                    copy: Some(WarmCopy::new(reader, pins_max)),
                    differs: Vec::new(),
                };
                side.links.insert(peer, ends);
                side.decider.handle_link_up(now, peer, incarnation, agreed);
            }
            let seen = entry.moves.seen(now);
            self.say(group, peer, &Message::Moves(seen));
        }
        if !agreed {
            let sections = self.config.sections().into_iter().map(|(name, digest)| (name.to_owned(), digest)).collect();
            self.carry_out(now, group, Action::Send { to: peer, message: Message::Configuration { sections } });
        }
        // What the dead process left is taken before it is let go.
        self.settle(now);
        if let Some(side) = side(&mut self.groups, group)
            && !side.decider.holds_copy()
        {
            side.held = None;
        }
    }

    /// A group's store link to another appliance is gone.
    pub fn handle_link_down(&mut self, now: Instant, group: usize, peer: ApplianceId) {
        if let Some(entry) = self.groups.get_mut(group) {
            entry.replica.strand(peer);
            if let Some(side) = entry.side() {
                side.close(now, peer);
            }
        }
        self.settle(now);
    }

    /// A message over a group's store link: authenticated, numbered, in order.
    pub fn handle_link_message(&mut self, now: Instant, group: usize, peer: ApplianceId, bytes: &[u8]) {
        let message = Message::decode(bytes);
        match &message {
            Ok(Message::Configuration { sections }) => self.compare_sections(group, peer, sections),
            Ok(Message::NotMoved { reason }) => self.note_refused(group, peer, *reason),
            Ok(Message::HandOver { .. }) => self.note_handed_over(now, group, peer),
            Ok(Message::Moves(seen)) => self.note_moves(now, group, seen),
            Ok(Message::Released) => self.note_released(group),
            _ => {}
        }
        let mut wanted = None;
        if let Some(side) = side(&mut self.groups, group) {
            match message {
                Ok(message) => {
                    let owned = side.decider.owned_epoch().filter(|_| message == Message::WantGroup);
                    if message == Message::Joined {
                        // From here on a takeover reads this region, whatever becomes of the link.
                        let copy = side.links.get_mut(&peer).and_then(|ends| ends.copy.take());
                        side.held = copy.map(|mut copy| {
                            copy.tell_news();
                            (peer, copy)
                        });
                    }
                    side.decider.handle_message(now, peer, &message);
                    wanted = owned.filter(|_| matches!(side.decider.role(), Role::HandingOver { .. }));
                }
                Err(error) => tracing::warn!(%error, "message of the other appliance"),
            }
        }
        if let Some(epoch) = wanted {
            self.note_wanted(now, group, peer, epoch);
        }
        self.settle(now);
    }

    /// The other appliance's configuration differs. Where?
    fn compare_sections(&mut self, group: usize, peer: ApplianceId, theirs: &[(String, u64)]) {
        let ours = self.config.sections();
        let same = |(name, digest): &(&str, u64)| theirs.iter().any(|(their, value)| their == name && value == digest);
        let differs: Vec<_> =
            ours.iter().filter(|section| !same(section)).map(|(name, _)| (*name).to_owned()).collect();
        tracing::warn!(appliance = %peer, ?differs, "the configurations of the two appliances differ");
        if let Some(ends) = side(&mut self.groups, group).and_then(|side| side.links.get_mut(&peer)) {
            ends.differs = differs;
        }
    }

    /// What came of [`Output::Registry`].
    pub fn handle_registry(&mut self, now: Instant, group: usize, reply: Reply) {
        if let Some(side) = side(&mut self.groups, group) {
            side.decider.handle_registry(now, reply);
        }
        self.settle(now);
    }

    /// Where a group stands; `None` where nobody has to decide, or others do.
    pub fn ownership_status(&self, now: Instant, group: usize) -> Option<Status> {
        match &self.groups.get(group)?.ownership {
            Ownership::Shared(side) => Some(side.decider.status(now)),
            Ownership::Solo(_) | Ownership::Elsewhere => None,
        }
    }

    /// Carriers and workers, as the daemon sees them.
    pub fn handle_health(&mut self, fitness: Fitness) {
        for side in self.groups.iter_mut().filter_map(|group| group.side()) {
            side.decider.handle_health(fitness);
        }
    }

    pub(in crate::core) fn ownership_timeout(&mut self, now: Instant) {
        for group in 0..self.groups.len() {
            let Some(entry) = self.groups.get_mut(group) else { return };
            entry.replica.check();
            while let Some(error) = self.groups.get_mut(group).and_then(|entry| entry.replica.poll_failed()) {
                self.handle_store_error(now, group, error);
            }
            if let Some(side) = side(&mut self.groups, group) {
                side.decider.handle_timeout(now);
                side.follow();
            }
            self.check_left(now, group);
            self.watch_moves(now, group);
            self.watch_silence(now, group);
        }
        self.prepare();
        // A group whose SAs waited for grants when it stopped is asked about again.
        self.check_stopped();
    }

    pub(in crate::core) fn handle_advertisement(&mut self, now: Instant, port: PortId, frame: &[u8]) {
        let Some(payload) = announce::advertisement_payload(frame) else { return };
        // All groups have the same key.
        let Some(any) = self.groups.iter_mut().find_map(|group| group.side()) else { return };
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
        if let Err(error) = side.decider.handle_advertisement(now, &advertisement) {
            tracing::debug!(%error, "advertisement left out");
        }
        self.check_left(now, group);
    }

    /// Carries out what was decided about a group. True if there was anything.
    pub(in crate::core) fn pump_decisions(&mut self, now: Instant, group: usize) -> bool {
        let mut any = false;
        while let Some(action) = side(&mut self.groups, group).and_then(|side| side.decider.poll_action()) {
            any = true;
            self.carry_out(now, group, action);
        }
        any
    }

    /// Over the group's store link. To an older release this may be no word at all: it goes by what it knows.
    pub(in crate::core) fn say(&mut self, group: usize, to: ApplianceId, message: &Message) {
        let version = side(&mut self.groups, group).and_then(|side| side.version(to));
        if version.is_some_and(|version| message.since() <= version) {
            self.outputs.push_back(Output::LinkSend { group, peer: to, message: message.encode() });
        }
    }

    fn carry_out(&mut self, now: Instant, group: usize, action: Action) {
        match action {
            Action::Send { to, message } => {
                if let Message::NotMoved { reason } = message {
                    tracing::warn!(group = self.group_name(group), appliance = %to, %reason, "asked for it, and doesn't get it");
                }
                self.say(group, to, &message);
            }
            Action::Advertise { epoch, protected } => self.advertise(group, epoch, protected),
            Action::Deadline(until) => self.deadlines.renew(group, until),
            Action::ReserveFloor(value) => self.save_floor(group, value),
            Action::CloseLink(peer) => {
                if let Some(entry) = self.groups.get_mut(group) {
                    entry.replica.strand(peer);
                    if let Some(side) = entry.side() {
                        side.links.remove(&peer);
                    }
                }
                self.outputs.push_back(Output::LinkClose { group, peer });
            }
            Action::Join(peer) => self.begin_join(now, group, peer),
            Action::Release(peer) => self.release(group, peer),
            Action::Ask(request) => self.outputs.push_back(Output::Registry { group, request }),
            Action::Stage { epoch } => self.stage(now, group, epoch),
            Action::Activate { epoch, trusted } => self.activate(now, group, epoch, trusted),
            Action::Stop => self.stop(group),
            Action::TakeBack => self.take_back(group),
            Action::CountServed { since, until } => self.count_served(now, group, since, until),
            Action::Raise { epoch } => {
                tracing::warn!(group = self.group_name(group), %epoch, "the other appliance owned it, too, and has stopped: it stays here");
                self.open(now, group, epoch);
            }
            Action::StepDown(reason) => self.carry_out_step_down(now, group, reason),
        }
    }

    fn carry_out_step_down(&mut self, now: Instant, group: usize, reason: StepDownReason) {
        let name = self.group_name(group);
        match reason {
            StepDownReason::Moved => tracing::info!(group = name, "moved to another appliance"),
            StepDownReason::Deposed => tracing::warn!(group = name, "deposed: another appliance owns it"),
            StepDownReason::Refused => {
                tracing::warn!(group = name, "deposed: another appliance took our store grant back")
            }
            StepDownReason::Unfit => {
                tracing::warn!(group = name, "given up: nothing can be served here, and nobody has a copy");
            }
            StepDownReason::Uncertain => {
                tracing::warn!(group = name, "deposed: it can't be excluded that another appliance took over");
            }
        }
        self.abandon_copies(group);
        self.forget_sas(group);
        if let Some(side) = side(&mut self.groups, group) {
            side.stopping = None;
            side.staged = None;
            if reason == StepDownReason::Moved
                && let Some(leaving) = &mut side.leaving
            {
                // A beat may have told us of the new owner before it advertises.
                leaving.until = self.config.shared().map(|peer| now + peer.timing.deadline);
                self.deadlines.let_go(group);
                return self.check_left(now, group);
            }
            side.leaving = None;
        }
        self.set_state(group, VipState::Elsewhere);
        self.deadlines.leave(group, self.tables_version);
    }

    /// How many remote peers of the group have been heard since?
    fn count_served(&mut self, now: Instant, group: usize, since: Instant, until: Instant) {
        // An SA that was in use then may not have had reason to say so since.
        let since = since.checked_sub(ALIVE_INTERVAL).unwrap_or(since);
        let served: BTreeSet<_> =
            self.ike.remotes_heard(since, until).filter(|(vip, _)| self.group_of(*vip) == group).collect();
        if let Some(side) = side(&mut self.groups, group) {
            side.decider.handle_served(now, u32::try_from(served.len()).unwrap_or(u32::MAX));
        }
    }

    /// Nothing that waited for the group's copies may happen any more.
    fn abandon_copies(&mut self, group: usize) {
        if let Some(entry) = self.groups.get_mut(group) {
            let waited = entry.replica.abandon();
            entry.binding.clear();
            entry.to_copy = ToCopy::default();
            entry.joining.clear();
            for effect in waited {
                match effect {
                    // The workers want it back.
                    Effect::Command(Command::PinsKnown(batch)) => self.tell(Command::PinsAbandoned(batch)),
                    Effect::Gone(gone) => self.forget_gone(gone.spi),
                    _ => {}
                }
            }
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
        if let Role::HandingOver { epoch, .. } = side.decider.role() {
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

    pub(in crate::core) fn advertise(&mut self, group: usize, epoch: Epoch, protected: bool) {
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
    fn begin_join(&mut self, now: Instant, group: usize, peer: ApplianceId) {
        let Some(entry) = self.groups.get_mut(group) else { return };
        let Some(writer) = entry.side().and_then(|side| side.links.get_mut(&peer)?.writer.take()) else { return };
        entry.replica.begin(peer, writer);
        entry.joining.insert(peer);
        self.replicate_all(now, group);
    }

    /// A copy is not waited for any more. With the last one every limit goes.
    fn release(&mut self, group: usize, peer: ApplianceId) {
        let children = self.children_of(group);
        let Some(entry) = self.groups.get_mut(group) else { return };
        entry.replica.end(peer);
        entry.joining.remove(&peer);
        if entry.replica.is_on() {
            return;
        }
        entry.binding.clear();
        entry.to_copy = ToCopy::free(children);
    }

    /// The child SAs of a group's VIPs.
    pub(in crate::core) fn children_of(&self, group: usize) -> Vec<Spi> {
        let children = self.children.iter().filter(|(_, child)| self.group_of(child.vip) == group);
        children.map(|(spi, _)| *spi).collect()
    }

    /// Reads the copy. The workers have most of its child SAs, dormant; the rest they get here. The group is not open.
    fn stage(&mut self, now: Instant, group: usize, epoch: Epoch) {
        // The log's time stamps tell how long a takeover takes from here on.
        tracing::info!(group = self.group_name(group), %epoch, "take over: begun");
        self.forget_rest(now, group);
        let vips = self.vips_of(group);
        // Another has served it since we did, if ever.
        self.forget_connections(group);
        if let Some(copy) = side(&mut self.groups, group).and_then(Side::held_copy) {
            copy.conclude();
        }
        self.hear_news(group, usize::MAX);
        let Some(side) = side(&mut self.groups, group) else { return };
        let heir = side.heir();
        let holding = side.held_copy().map(WarmCopy::surrender).unwrap_or_default();
        let mut inheritance = Inheritance::new(holding, &vips, heir);
        tracing::info!(
            group = self.group_name(group),
            %epoch,
            ike_sas = inheritance.len(),
            pins = inheritance.pins.len(),
            left_out = inheritance.left_out,
            warm = inheritance.warm,
            "take over: fenced and read"
        );
        let addresses =
            vips.iter().filter_map(|vip| Some((*vip, self.config.vips.get(usize::from(*vip))?.floating.address)));
        let (addresses, pins_max) = (addresses.collect(), self.pins_max());
        let pins = Restoration::new(std::mem::take(&mut inheritance.pins), pins_max, addresses);
        let Some(side) = super::groups::side(&mut self.groups, group) else { return };
        side.staged = Some(Staged { inheritance, pins });
        // Behind the child SAs: where its packets will arrive, a worker knows by these.
        self.restore_pins(group);
        self.check_staged(now, group);
    }

    /// Do the workers have all that was read?
    pub(in crate::core) fn check_staged(&mut self, now: Instant, group: usize) {
        if let Some(side) = side(&mut self.groups, group)
            && side.staged.as_ref().is_some_and(|staged| staged.pins.is_done())
        {
            side.decider.handle_staged(now);
        }
    }

    /// Trust is judged: resume what was staged, or forget it.
    fn activate(&mut self, now: Instant, group: usize, epoch: Epoch, trusted: bool) {
        let Some(side) = side(&mut self.groups, group) else { return };
        let staged = side.staged.take();
        let copy = side.held.take().map(|(_, copy)| copy);
        self.abandon_copies(group);
        let Some(Staged { inheritance, pins }) = staged else { return self.open(now, group, epoch) };
        if trusted {
            self.adopt_standings(group, &inheritance.standings);
            self.adopt_pins(group, pins);
        } else {
            self.forget_connections(group);
        }
        // Workers take commands in order.
        self.begin_inheriting(now, group, epoch, inheritance, trusted, copy);
        self.open(now, group, epoch);
        // Of few, IKE knows all at once.
        self.give_few(now, group);
    }

    /// Exact numbers of a group that stopped can't be had before the next tick.
    pub(in crate::core) fn stop_later(&mut self, group: usize) {
        let version = self.tables_version;
        if let Some(side) = side(&mut self.groups, group)
            && side.leaving.as_ref().is_some_and(|leaving| leaving.until.is_none())
        {
            side.stopping = Some(version);
        }
    }

    /// The group is ours, whatever was to become of it.
    pub(in crate::core) fn stay(&mut self, group: usize) {
        if let Some(side) = side(&mut self.groups, group) {
            side.leaving = None;
        }
    }

    /// Workers confirm tables, or time goes by: has a group stopped everywhere?
    pub(in crate::core) fn check_stopped(&mut self) {
        let version = self.workers.tables_in_force();
        for group in 0..self.groups.len() {
            if side(&mut self.groups, group).is_some_and(|side| side.stopping.take_if(|it| *it <= version).is_some()) {
                self.ask_exact_numbers(group);
            }
        }
    }

    pub(in crate::core) fn handle_join_published(&mut self, now: Instant, group: usize, peer: ApplianceId) {
        if let Some(side) = side(&mut self.groups, group) {
            side.decider.handle_join_published(now, peer);
        }
    }

    pub(in crate::core) fn handle_stopped(&mut self, now: Instant, group: usize) {
        if let Some(side) = side(&mut self.groups, group) {
            side.decider.handle_stopped(now);
        }
    }
}
