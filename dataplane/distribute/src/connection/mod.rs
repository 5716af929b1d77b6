//! The connection table of one worker: which target each connection is on.
//!
//! A new connection goes where its service's method says; from then on the entry says, whatever happens to the services, as long
//! as the target isn't down. Nothing is allocated once the services are in force, and every step is bounded.
//!
//! - [`ConnectionTable::prepare`], then [`to_target`](ConnectionTable::to_target) or [`to_remote`](ConnectionTable::to_remote):
//!   the packets of a burst.
//! - [`ConnectionTable::sweep`]: forgets what is over, a few places at a time.
//! - [`ConnectionTable::announce`], then [`use_services`](ConnectionTable::use_services): other services.
//! - [`ConnectionTable::report_pins`], [`poll_pin`](ConnectionTable::poll_pin), [`acknowledge`](ConnectionTable::acknowledge),
//!   [`restore`](ConnectionTable::restore), [`inherit`](ConnectionTable::inherit): what a successor has to be told (rule R6), and what
//!   this one was told.
//!
//! When every place is taken, those give way that no target has answered yet, the oldest first: whoever sends only first packets
//! displaces nobody else. If nobody gives way, a connection is forwarded without an entry, packet by packet, to the target that
//! depends on nothing but the services.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use ahash::RandomState;
use arrayvec::ArrayVec;
use vipsec_wire::buffer::BURST_MAX;
use vipsec_wire::tcp::Flags as TcpFlags;

use crate::hash;
use crate::service::{Candidate, Origin, Refusal, ServiceTable, TargetIndex, TargetState};
use crate::tuple::FiveTuple;

mod affinity;
mod choosing;
mod clock;
mod entry;
mod heritage;
mod index;
mod pinning;
mod pins;
mod places;
mod registry;
mod report;
mod state;
mod sweep;

pub use pinning::NotRestored;
pub use pins::{PinEvent, PinProgress};
pub use report::ConnectionReport;
pub use state::{ConnectionState, Direction, Timeouts};

use choosing::Chooser;
use clock::{Clock, Moment, Tick};
use entry::{Entry, Flags, Key};
use heritage::Heritages;
use index::{Index, Spot};
use pinning::{Need, needs_pin};
use pins::Journal;
use places::{NONE, Places};
use registry::Registry;
use state::Silence;

/// Limits of a connection table.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Most entries; 16,777,215 are the most that there can be.
    pub connections_max: usize,
    /// Most remote hosts whose target is remembered, if a service keeps affinities.
    pub affinities_max: usize,
    /// Most events about pins that wait for [`ConnectionTable::poll_pin`].
    pub pin_events_max: usize,
    /// When silent connections are forgotten.
    pub timeouts: Timeouts,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections_max: 1_000_000, affinities_max: 65_536, pin_events_max: 1024, timeouts: Timeouts::default() }
    }
}

impl Limits {
    /// Memory of the entries and of what finds them, in bytes, once all are in use.
    pub const fn connection_bytes(&self) -> usize {
        let places = self.places_max();
        places * (entry::ENTRY_BYTES + size_of::<u32>()) + Index::bytes(places)
    }

    const fn places_max(&self) -> usize {
        match self.connections_max {
            0 => 1,
            max if max > index::PLACES_MAX => index::PLACES_MAX,
            max => max,
        }
    }
}

const _: () = {
    let million = Limits {
        connections_max: 1_000_000,
        affinities_max: 0,
        pin_events_max: 0,
        timeouts: Timeouts::const_default(),
    };
    assert!(million.connection_bytes() < 76_100_000, "a million connections in 76 bytes each");
};

/// What the table needs to know of a packet.
#[derive(Debug, Clone, Copy)]
pub struct PacketInfo {
    /// TCP's control bits.
    pub tcp: Option<TcpFlags>,
    /// Length in bytes, IP header included.
    pub bytes: u32,
}

impl PacketInfo {
    #[inline]
    fn opens(&self) -> bool {
        self.tcp.is_some_and(TcpFlags::opens)
    }
}

/// Where a packet from the remote side goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// The target, by its place in the services in force.
    pub target: TargetIndex,
    /// How the connection stands.
    pub tracking: Tracking,
    /// What a successor has to know before the packet goes.
    pub pin: Pin,
}

/// Whether a successor has to be told of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pin {
    /// No: it computes the same target from the services in force.
    Computed,
    /// It has been told, or nobody is there to be told.
    Settled,
    /// It is being told. Rule R6: the packet waits until [`ConnectionTable::standing`] says something else, which may be so after each
    /// [`ConnectionTable::acknowledge`].
    Awaited,
}

/// How a connection stands with the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tracking {
    /// It has an entry now and had none before.
    New,
    /// It had an entry.
    Known,
    /// It had an entry, but its target is down or gone: it was sent to another.
    Moved,
    /// The packet makes no entry (a stray reset), or the table is full.
    Stateless,
}

/// Packets and bytes of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Packets.
    pub packets: u64,
    /// Bytes, IP header included.
    pub bytes: u64,
}

/// A packet's connection, looked up ahead. Good until the services change; what other packets do to the table meanwhile is minded.
#[derive(Debug, Clone, Copy)]
pub struct Prepared {
    key: Key,
    spot: Spot,
    /// Where it was found.
    place: u32,
}

/// A target that entries name.
#[derive(Debug, Default)]
struct TargetSlot {
    /// Its place in the services in force; `None`: its connections move to other targets.
    index: Option<TargetIndex>,
    /// Its connections that are not over.
    active: u32,
}

/// A bounded table of connections.
#[derive(Debug)]
pub struct ConnectionTable {
    places: Places,
    index: Index,
    hasher: RandomState,
    clock: Clock,
    /// When the burst at hand came.
    now: Moment,
    silence: Silence,
    services: Arc<ServiceTable>,
    /// Services that are going to be in force.
    next: Option<Arc<ServiceTable>>,
    vips: Registry<()>,
    targets: Registry<TargetSlot>,
    /// The slot of each of the services' targets.
    target_slots: Vec<u16>,
    chooser: Chooser,
    journal: Journal,
    pins: pinning::Pins,
    heritages: Heritages,
    sweep: sweep::Hands,
}

impl ConnectionTable {
    /// An empty table. `seed` keys its hashes: random, so that nobody outside can aim for one bucket. `now` is the beginning of its
    /// time.
    pub fn new(limits: &Limits, seed: u64, now: Instant, services: Arc<ServiceTable>) -> Self {
        let places_max = limits.places_max();
        let mut table = Self {
            places: Places::new(places_max),
            index: Index::new(places_max),
            hasher: hash::keyed(seed),
            clock: Clock::new(now),
            now: Moment::default(),
            silence: Silence::new(&limits.timeouts),
            services: Arc::default(),
            next: None,
            vips: Registry::new(),
            targets: Registry::new(),
            target_slots: Vec::new(),
            chooser: Chooser::new(limits.affinities_max, seed),
            journal: Journal::new(limits.pin_events_max, hash::keyed(seed.rotate_left(32))),
            pins: pinning::Pins::default(),
            heritages: Heritages::new(&limits.timeouts),
            sweep: sweep::Hands::default(),
        };
        table.use_services(services);
        table
    }

    /// The services in force.
    pub fn services(&self) -> &ServiceTable {
        &self.services
    }

    /// Puts services in force. Connections stay on their targets but for those whose target is down or gone; a VIP without services
    /// loses its connections.
    pub fn use_services(&mut self, services: Arc<ServiceTable>) {
        let addresses = services.targets().iter().map(|target| target.address);
        if self.targets.list(addresses.clone()).is_err() || self.vips.list(services.vips()).is_err() {
            // Over 60,000 addresses came and went while connections of theirs were still remembered.
            self.forget_unlisted();
            let _ = self.targets.list(addresses);
            let _ = self.vips.list(services.vips());
        }
        self.target_slots.clear();
        for slot in self.targets.iter_mut() {
            slot.value.index = None;
        }
        for (index, target) in (0..).map(TargetIndex).zip(services.targets()) {
            let number = self.targets.find(target.address).unwrap_or(u16::MAX);
            self.target_slots.push(number);
            if let Some(slot) = self.targets.get_mut(number)
                && target.state != TargetState::Down
            {
                slot.value.index = Some(index);
            }
        }
        self.services = services;
        self.next = None;
        self.chooser.use_services(&self.services);
        self.check_pins();
    }

    /// Forgets the connections of a VIP, all at once: another appliance serves them, and they may be on other targets when the VIP
    /// comes back. Their pins go without an event: so does everything else that the store holds of the VIP. Events that were taken
    /// before are still to be acknowledged or abandoned.
    pub fn forget_vip(&mut self, vip: IpAddr) {
        self.journal.forget_vip(vip);
        self.heritages.forget(vip);
        if self.vips.renew(vip).is_err() {
            self.forget_unlisted();
            let _ = self.vips.list(self.services.vips());
        }
    }

    /// Looks up the connections of a burst's packets, the first [`BURST_MAX`] of them. `now` is the time of what is done with them.
    ///
    /// A table of a million connections doesn't fit into a cache. Its lines are read in passes over the burst that do little else,
    /// and within a pass no read depends on another: the processor waits for all of them at once.
    #[inline]
    pub fn prepare(
        &mut self,
        now: Instant,
        tuples: impl IntoIterator<Item = FiveTuple>,
    ) -> ArrayVec<Prepared, BURST_MAX> {
        self.now = self.clock.moment(now);
        let mut burst: ArrayVec<Prepared, BURST_MAX> = ArrayVec::new();
        // Neighbours in a burst mostly have one VIP.
        let mut last = None;
        for tuple in tuples.into_iter().take(BURST_MAX) {
            let vip = match last {
                Some((address, vip)) if address == tuple.vip => vip,
                _ => self.vips.find(tuple.vip),
            };
            last = Some((tuple.vip, vip));
            burst.push(self.key(&tuple, vip));
        }
        // The line of the index.
        let tags: ArrayVec<u64, BURST_MAX> = burst.iter().map(|prepared| self.index.touch(prepared.spot)).collect();
        for (prepared, tags) in burst.iter_mut().zip(tags) {
            prepared.place = self.index.guess(prepared.spot, tags);
        }
        // The line of the entry. Whether it is the right one shows when it is used.
        for prepared in &mut burst {
            prepared.place = if self.places.is_taken(prepared.place) { prepared.place } else { NONE };
        }
        burst
    }

    /// Looks up one connection.
    pub fn prepare_one(&mut self, now: Instant, tuple: &FiveTuple) -> Prepared {
        self.now = self.clock.moment(now);
        self.look_up(tuple)
    }

    /// Takes a packet from the remote side: says which target it goes to, and remembers.
    ///
    /// # Errors
    /// Nobody takes it, or not if it came in that way.
    #[inline]
    pub fn to_target(&mut self, prepared: &Prepared, origin: Origin, packet: &PacketInfo) -> Result<Choice, Refusal> {
        // What nearly every packet is: of a connection that lives, found ahead, on a target that lives.
        if let Some(entry) = self.places.get_if(prepared.place, &prepared.key)
            && !self.silence.is_over(entry, self.now.tick)
            && entry.flags.origin() == origin
            && !(entry.state.is_over() && packet.opens())
            && let Some(target) = self.targets.get(entry.target).and_then(|slot| slot.value.index)
        {
            let ended = entry.touch(self.now.tick, Direction::ToTarget, packet);
            let (slot, flags) = (entry.target, entry.flags);
            if ended {
                self.count_active(slot, -1);
            }
            return Ok(self.choice(target, Tracking::Known, prepared.place, flags));
        }
        self.take_unusual(prepared, origin, packet)
    }

    /// Takes a packet from the target's side. Returns how the connection came in; `None` when it isn't known.
    #[inline]
    pub fn to_remote(&mut self, prepared: &Prepared, packet: &PacketInfo) -> Option<Origin> {
        let place = self.find(prepared)?;
        let entry = self.places.get_if(place, &prepared.key)?;
        if self.silence.is_over(entry, self.now.tick) {
            return None;
        }
        let ended = entry.touch(self.now.tick, Direction::ToRemote, packet);
        let (slot, flags) = (entry.target, entry.flags);
        if ended {
            self.count_active(slot, -1);
        }
        Some(flags.origin())
    }

    /// The target of a connection, known or not, without touching it: for ICMP errors about it.
    ///
    /// # Errors
    /// Nobody takes such a connection.
    pub fn target_of(&self, tuple: &FiveTuple) -> Result<TargetIndex, Refusal> {
        let known = self.entry_of(tuple).and_then(|entry| self.targets.get(entry.target)?.value.index);
        match known {
            Some(target) => Ok(target),
            None => self.services.choose(tuple),
        }
    }

    /// How many connections there are, expired ones that were not yet come across included.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Are there none?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Connections of a target that are not over.
    pub fn active(&self, target: IpAddr) -> u32 {
        self.targets.find(target).and_then(|slot| self.targets.get(slot)).map_or(0, |slot| slot.value.active)
    }

    fn look_up(&self, tuple: &FiveTuple) -> Prepared {
        let prepared = self.key(tuple, self.vips.find(tuple.vip));
        Prepared { place: self.index.guess(prepared.spot, self.index.touch(prepared.spot)), ..prepared }
    }

    #[inline]
    fn key(&self, tuple: &FiveTuple, vip: Option<u16>) -> Prepared {
        let key = vip.and_then(|vip| Key::new(tuple, vip)).unwrap_or_default();
        Prepared { key, spot: self.spot(&key), place: NONE }
    }

    #[inline]
    fn spot(&self, key: &Key) -> Spot {
        self.index.spot(self.hasher.hash_one((key.remote_bits(), key.rest())))
    }

    fn tuple(&self, key: &Key) -> Option<FiveTuple> {
        Some(key.tuple(self.vips.get(key.vip())?.address))
    }

    #[inline]
    fn find(&self, prepared: &Prepared) -> Option<u32> {
        if !prepared.key.is_connection() {
            return None;
        }
        if self.places.holds(prepared.place, &prepared.key) {
            return Some(prepared.place);
        }
        self.index.find(prepared.spot, |place| self.places.holds(place, &prepared.key))
    }

    fn entry_of(&self, tuple: &FiveTuple) -> Option<&Entry> {
        self.places.get(self.find(&self.look_up(tuple))?)
    }

    #[inline]
    fn choice(&mut self, target: TargetIndex, tracking: Tracking, place: u32, flags: Flags) -> Choice {
        let pin = match (flags.has(Flags::PINNED), flags.has(Flags::ACKNOWLEDGED) || !self.pins.is_reporting()) {
            (false, _) => Pin::Computed,
            (true, true) => Pin::Settled,
            (true, false) => self.pin_at(place),
        };
        Choice { target, tracking, pin }
    }

    fn count_active(&mut self, slot: u16, change: i32) {
        if let Some(slot) = self.targets.get_mut(slot) {
            slot.value.active = slot.value.active.saturating_add_signed(change);
        }
    }

    /// A packet that may begin a connection, come in another way than it, or meet a target that is down; or whose connection was
    /// not found ahead.
    #[inline(never)]
    fn take_unusual(&mut self, prepared: &Prepared, origin: Origin, packet: &PacketInfo) -> Result<Choice, Refusal> {
        let Some(place) = self.find(prepared) else {
            return self.open(prepared, origin, packet);
        };
        let entry = self.places.get_mut(place).ok_or(Refusal::UnknownService)?;
        let begins = entry.state.is_over() && packet.opens();
        // What is authentic outdoes what came in the clear.
        let outdone = (entry.flags.origin(), origin) == (Origin::Clear, Origin::Decrypted);
        if (begins || outdone || self.silence.is_over(entry, self.now.tick)) && self.forget(place) {
            return self.open(prepared, origin, packet);
        }
        let entry = self.places.get_mut(place).ok_or(Refusal::UnknownService)?;
        if entry.flags.origin() != origin {
            return Err(Refusal::NotInClear);
        }
        let Some(target) = self.targets.get(entry.target).and_then(|slot| slot.value.index) else {
            return self.move_to_another(place, packet);
        };
        let ended = entry.touch(self.now.tick, Direction::ToTarget, packet);
        let (slot, flags) = (entry.target, entry.flags);
        if ended {
            self.count_active(slot, -1);
        }
        Ok(self.choice(target, Tracking::Known, place, flags))
    }

    /// A packet without an entry.
    #[inline(never)]
    fn open(&mut self, prepared: &Prepared, origin: Origin, packet: &PacketInfo) -> Result<Choice, Refusal> {
        if !prepared.key.is_connection() {
            return Err(Refusal::UnknownService);
        }
        let tuple = self.tuple(&prepared.key).ok_or(Refusal::UnknownService)?;
        let (_, plan) = self.services.plan(&tuple)?;
        plan.accepts.check(origin)?;
        let computed = *plan.computed(&tuple).ok_or(Refusal::NoTargetUp)?;
        let is_reset = packet.tcp.is_some_and(|flags| flags.contains(TcpFlags::RST));
        if is_reset || !self.make_room(self.now.tick) {
            let pin = if self.journal.is_stale(&tuple) { Pin::Awaited } else { Pin::Computed };
            return Ok(Choice { target: computed.index, tracking: Tracking::Stateless, pin });
        }
        let inherited = self.inherited(&tuple, packet);
        let (number, plan) = self.services.plan(&tuple)?;
        let candidate = if let Some(inherited) = inherited {
            inherited
        } else if packet.tcp.is_some_and(|flags| !flags.opens()) {
            // What began before this appliance came to know of it goes where every appliance would look for it.
            computed
        } else {
            let load = |candidate: &Candidate| {
                let slot =
                    self.target_slots.get(usize::from(candidate.index.0)).and_then(|&slot| self.targets.get(slot));
                slot.map_or(0, |slot| slot.value.active)
            };
            self.chooser.choose(self.now.tick, (number, plan), &tuple, computed, load)
        };
        let is_computed = plan.computes(tuple.protocol) && candidate.address == computed.address;
        let mut flags = Flags::of_origin(origin);
        if plan.affinity.is_some() {
            flags = flags.with(Flags::AFFINE);
        }
        let state = ConnectionState::first(tuple.protocol, packet.tcp);
        let mut entry = Entry::new(prepared.key, self.now, state, flags);
        entry.count(Direction::ToTarget, packet);
        let place = self.insert(prepared.spot, entry, candidate.address).ok_or(Refusal::NoTargetUp)?;
        let is_pinned = !is_computed
            || self.next.as_ref().is_some_and(|next| needs_pin(next, &tuple, candidate.address))
            || self.journal.is_stale(&tuple);
        if is_pinned {
            self.set_pin(place, Need::Pinned);
        }
        let flags = self.places.get(place).map_or(flags, |entry| entry.flags);
        Ok(self.choice(candidate.index, Tracking::New, place, flags))
    }

    /// Its target is down or gone: the connection goes where a successor without the entry would send it.
    #[inline(never)]
    fn move_to_another(&mut self, place: u32, packet: &PacketInfo) -> Result<Choice, Refusal> {
        let entry = self.places.get_mut(place).ok_or(Refusal::UnknownService)?;
        let tuple = entry.key.tuple(self.vips.get(entry.key.vip()).ok_or(Refusal::UnknownService)?.address);
        let target = self.services.choose(&tuple)?;
        let address = self.services.target(target).ok_or(Refusal::NoTargetUp)?.address;
        let new = self.targets.find(address).ok_or(Refusal::NoTargetUp)?;
        let old = std::mem::replace(&mut entry.target, new);
        let was_active = entry.state.is_active();
        entry.touch(self.now.tick, Direction::ToTarget, packet);
        let is_active = entry.state.is_active();
        self.targets.hold(new);
        self.targets.release(old);
        if was_active {
            self.count_active(old, -1);
        }
        if is_active {
            self.count_active(new, 1);
        }
        self.renew_pin(place);
        let flags = self.places.get(place).map_or(Flags::default(), |entry| entry.flags);
        Ok(self.choice(target, Tracking::Moved, place, flags))
    }

    /// Adds an entry that isn't there yet.
    fn insert(&mut self, spot: Spot, mut entry: Entry, target: IpAddr) -> Option<u32> {
        let slot = self.targets.find(target)?;
        entry.target = slot;
        let place = self.places.insert(entry)?;
        self.index.insert(spot, place);
        self.vips.hold(entry.key.vip());
        self.targets.hold(slot);
        if entry.state.is_active() {
            self.count_active(slot, 1);
        }
        self.sweep.grow(self.places.touched());
        Some(place)
    }

    /// Is there nothing that an entry is still good for?
    fn is_over(&self, entry: &Entry, now: Tick) -> bool {
        self.silence.is_over(entry, now) || !self.vips.is_listed(entry.key.vip())
    }

    /// Forgets an entry. Returns whether it is gone: a pin that was reported has to be released, and the queue may be full.
    fn forget(&mut self, place: u32) -> bool {
        let Some(&Entry { key, target, state, .. }) = self.places.get(place) else { return true };
        if !self.release_pin(place) {
            return false;
        }
        self.index.remove(self.spot(&key), place);
        self.places.remove(place);
        if state.is_active() {
            self.count_active(target, -1);
        }
        self.targets.release(target);
        self.vips.release(key.vip());
        true
    }
}

#[cfg(test)]
mod tests;
