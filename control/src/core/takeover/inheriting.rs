//! Taking over the SAs that a copy holds, a few at a time: ten thousand at once would keep the core from renewing the workers' deadline,
//! and the first from carrying before the last is looked at.
//!
//! First the child SAs are woken, so that traffic flows: those at once whose records were found good when they came, which are nearly all; the
//! others after a look at these. The VIP is announced before, and the workers hold its frames until all are awake: none meets an SA that
//! sleeps. Then IKE is given what they belong to. What comes meanwhile for SAs that IKE doesn't know yet waits.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use vipsec_dataplane::api::{Command, Event, VipState, Wake};
use vipsec_esp::sa::Spi;
use vipsec_wire::iv::{Epoch, IvPrefix};

use super::inheritance::{Found, Inheritance, Inherited, InheritedChild, Unusable};
use super::ladder::{Climb, Rung, Why};
use super::standby::Prepared;
use super::succession::FIRST_TURN;
use crate::core::store::records::WarmCopy;
use crate::core::{Core, InstalledChild};

/// For how long frames are held at most. Some ten thousand child SAs are awake by then; of more, those that are carry meanwhile.
const HELD_MAX: Duration = Duration::from_millis(20);
/// What may wait until IKE knows all of its SAs.
const WAITING_MAX: usize = 4096;

/// What is being taken over of a group.
pub(in crate::core) struct Inheriting {
    inheritance: Inheritance,
    /// What the workers had before.
    prepared: HashMap<Spi, Prepared>,
    /// What was looked at, and IKE doesn't know yet.
    sets: VecDeque<Inherited>,
    unusable: Vec<Unusable>,
    /// Of both.
    count: usize,
    epoch: Epoch,
    trusted: bool,
    /// Frames are held for want of child SAs that carry.
    is_holding: bool,
    /// But no longer than until then: what went before the first slice doesn't count.
    held_until: Option<Instant>,
    waiting: VecDeque<Event>,
    /// To let go of so much memory takes a while, too.
    _copy: Option<WarmCopy>,
}

impl Core {
    /// The group is about to be opened: what becomes of the SAs that were read?
    pub(in crate::core) fn begin_inheriting(
        &mut self,
        now: Instant,
        group: usize,
        epoch: Epoch,
        inheritance: Inheritance,
        trusted: bool,
        copy: Option<WarmCopy>,
    ) {
        self.succession.ladder.begin(now, now + FIRST_TURN, group, trusted);
        self.judge_hand(now, group, inheritance.hand.clone());
        let Some(entry) = self.groups.get_mut(group) else { return };
        let mut prepared = std::mem::take(&mut entry.prepared);
        if !trusted {
            // What must never be used is gone before the first packet.
            self.forget_prepared(std::mem::take(&mut prepared));
        }
        let few = inheritance.len() <= self.slices.read;
        let inheriting = Inheriting {
            inheritance,
            prepared,
            sets: VecDeque::new(),
            unusable: Vec::new(),
            count: 0,
            epoch,
            trusted,
            is_holding: false,
            held_until: None,
            waiting: VecDeque::new(),
            _copy: copy,
        };
        if let Some(entry) = self.groups.get_mut(group) {
            entry.inheriting = Some(Box::new(inheriting));
        }
        // Few are awake when the VIP opens. Many are waited for: nothing is to keep the announcement waiting.
        if few {
            self.wake_ahead(group);
            self.wake_some(group);
        }
    }

    /// A slice of what is being taken over. True if there was anything.
    pub(in crate::core) fn inherit_some(&mut self, now: Instant) -> bool {
        let find = |which: fn(&Inheriting) -> bool| {
            self.groups.iter().position(|group| group.inheriting.as_deref().is_some_and(which))
        };
        if let Some(group) = find(|inheriting| inheriting.trusted && inheriting.inheritance.is_unseen()) {
            self.wake_ahead(group);
            self.release_held(now, group);
            true
        } else if let Some(group) = find(|inheriting| inheriting.inheritance.len() > 0) {
            self.wake_some(group);
            self.release_held(now, group);
            true
        } else if let Some(group) = find(|_| true) {
            self.give_some(now, group);
            true
        } else {
            false
        }
    }

    /// The group is ours. If some of its child SAs sleep yet, its frames are to be held: true.
    pub(in crate::core) fn hold_frames(&mut self, group: usize) -> bool {
        let inheriting = self.groups.get_mut(group).and_then(|entry| entry.inheriting.as_mut());
        let sleeping = inheriting.filter(|inheriting| inheriting.trusted && inheriting.inheritance.may_sleep());
        let Some(inheriting) = sleeping else { return false };
        inheriting.is_holding = true;
        true
    }

    /// Whatever becomes of the group's frames now, they are not held for want of its child SAs.
    pub(in crate::core) fn stop_holding(&mut self, group: usize) {
        if let Some(inheriting) = self.groups.get_mut(group).and_then(|entry| entry.inheriting.as_mut()) {
            inheriting.is_holding = false;
        }
    }

    /// Lets the held frames in, if all child SAs are awake, or it is time.
    fn release_held(&mut self, now: Instant, group: usize) {
        let inheriting = self.groups.get_mut(group).and_then(|entry| entry.inheriting.as_mut());
        let Some(inheriting) = inheriting.filter(|inheriting| inheriting.is_holding) else { return };
        let until = *inheriting.held_until.get_or_insert(now + HELD_MAX);
        if now < until && inheriting.inheritance.may_sleep() {
            return;
        }
        let (unseen, asleep) = inheriting.inheritance.sleepers();
        tracing::info!(
            group = self.group_name(group),
            unseen,
            asleep,
            "child SAs are awake: frames that were held go in"
        );
        self.stop_holding(group);
        for vip in self.vips_of(group) {
            if let Some(entry) = self.tables.vips.get_mut(usize::from(vip))
                && entry.state == VipState::HandingOver
            {
                entry.state = VipState::Owned;
            }
        }
        self.publish_tables();
    }

    /// Gives IKE what was woken, if it is all that there is.
    pub(in crate::core) fn give_few(&mut self, now: Instant, group: usize) {
        let inheriting = self.groups.get(group).and_then(|entry| entry.inheriting.as_ref());
        if inheriting.is_some_and(|inheriting| inheriting.inheritance.len() == 0) {
            self.give_some(now, group);
        }
    }

    fn give_some(&mut self, now: Instant, group: usize) {
        for _ in 0..self.slices.given {
            let Some(inheriting) = self.groups.get_mut(group).and_then(|entry| entry.inheriting.as_mut()) else {
                return;
            };
            let trusted = inheriting.trusted;
            match inheriting.sets.pop_front() {
                Some(set) if trusted => self.resume(now, group, set),
                Some(set) => self.inherit_stale(now, group, set),
                None => return self.end_inheriting(now, group),
            }
        }
    }

    /// Wakes some of what was found good before.
    fn wake_ahead(&mut self, group: usize) {
        let Some(mut inheriting) = self.groups.get_mut(group).and_then(|entry| entry.inheriting.take()) else { return };
        if inheriting.trusted {
            let Inheriting { inheritance, prepared, epoch, .. } = &mut *inheriting;
            let (mut wakes, mut awake) = (Vec::with_capacity(self.slices.woken), Vec::with_capacity(self.slices.woken));
            for _ in 0..self.slices.woken {
                let before = wakes.len();
                let Some((vip, ike)) = inheritance.look_ahead(*epoch, prepared, &mut wakes) else { break };
                // Who saw it made, its record tells when it is read.
                let installed = || InstalledChild { vip, ike: Some(ike), born: Vec::new() };
                awake.extend(wakes.iter().skip(before).map(|wake| (wake.spi, installed())));
            }
            // One where the last one was: in any order this would cost more than all else.
            awake.sort_unstable_by_key(|(spi, _)| *spi);
            self.children.extend(awake);
            self.wake(group, *epoch, wakes);
        }
        if let Some(entry) = self.groups.get_mut(group) {
            entry.inheriting = Some(inheriting);
        }
    }

    fn wake(&mut self, group: usize, epoch: Epoch, wakes: Vec<Wake>) {
        if let Some(entry) = self.groups.get_mut(group).filter(|entry| entry.replica.is_on()) {
            // A join has begun, and doesn't know of them.
            entry.to_copy.bind(wakes.iter().map(|wake| wake.spi));
        }
        let iv_prefix = IvPrefix::new(self.config.appliance.id, epoch);
        self.tell(Command::WakeChildren { iv_prefix, wakes });
    }

    /// Looks at some of the IKE SAs that were read, and wakes what may be gone on with and isn't awake yet.
    fn wake_some(&mut self, group: usize) {
        let Some(mut inheriting) = self.groups.get_mut(group).and_then(|entry| entry.inheriting.take()) else { return };
        let mut wakes = Vec::new();
        for _ in 0..self.slices.read {
            match inheriting.inheritance.next() {
                Some(Found::Set(mut set)) => {
                    if inheriting.trusted {
                        self.wake_set(&mut inheriting.prepared, &mut set, inheriting.epoch, &mut wakes);
                    }
                    inheriting.sets.push_back(set);
                    inheriting.count += 1;
                }
                Some(Found::Unusable(unusable)) => {
                    inheriting.unusable.push(unusable);
                    inheriting.count += 1;
                }
                None => break,
            }
        }
        self.wake(group, inheriting.epoch, wakes);
        if inheriting.inheritance.len() == 0 {
            self.forget_prepared(std::mem::take(&mut inheriting.prepared));
        }
        if let Some(entry) = self.groups.get_mut(group) {
            entry.inheriting = Some(inheriting);
        }
    }

    /// The child SAs of an IKE SA are ours; notes where each goes on.
    fn wake_set(
        &mut self,
        prepared: &mut HashMap<Spi, Prepared>,
        set: &mut Inherited,
        epoch: Epoch,
        wakes: &mut Vec<Wake>,
    ) {
        if set.carries {
            for InheritedChild { record, born, .. } in &mut set.children {
                let child = Spi::new(record.spi_in()).ok().and_then(|spi| self.children.get_mut(&spi));
                if let Some(child) = child {
                    child.born = std::mem::take(born);
                }
            }
            return;
        }
        // IKE will say so itself, when it is given the set.
        let records = set.children.iter().map(|child| &*child.record);
        if self.ike.check_import(&set.ike, records, epoch).is_err() {
            return;
        }
        set.carries = true;
        let (config, id) = (self.config.clone(), set.ike.id());
        for InheritedChild { record, start, born, .. } in &mut set.children {
            let info = record.info();
            let Ok(spi) = Spi::new(info.spi_in) else { continue };
            // Nobody knows where its numbers stand: it stays shut.
            if record.is_stale() {
                continue;
            }
            let known = prepared.remove(&spi).and_then(|known| known.lifetime_as(info));
            // Another one of that SPI is replaced where it is.
            let Some(lifetime) = known.or_else(|| self.place_dormant(&config, info)) else { continue };
            wakes.push(Wake { spi, edge: start.horizon, sent: start.sent, lifetime });
            self.children.insert(spi, InstalledChild { vip: info.vip, ike: Some(id), born: std::mem::take(born) });
        }
    }

    /// IKE knows all that it is going to know.
    fn end_inheriting(&mut self, now: Instant, group: usize) {
        let ended = self.groups.get_mut(group).and_then(|entry| entry.inheriting.take());
        let Some(Inheriting { count, unusable, waiting, trusted, .. }) = ended.map(|ended| *ended) else { return };
        for Unusable { id, callee, why } in unusable {
            let rung = if why == Why::Poison { Rung::Lost } else { Rung::Renegotiate };
            self.succession.ladder.place(id, Climb::new(group, rung, why, callee));
        }
        if count > 0 {
            self.report_takeover(group, self.takeover_policy());
        } else if !trusted {
            self.report_nothing_inherited(group);
        }
        waiting.into_iter().for_each(|event| self.handle_data_plane(now, event));
    }

    /// The group isn't ours any more, before all of it was taken over.
    pub(in crate::core) fn stop_inheriting(&mut self, group: usize) {
        let stopped = self.groups.get_mut(group).and_then(|entry| entry.inheriting.take());
        if let Some(Inheriting { prepared, .. }) = stopped.map(|stopped| *stopped) {
            self.forget_prepared(prepared);
        }
    }

    /// Is something being taken over?
    pub(in crate::core) fn is_inheriting(&self) -> bool {
        self.groups.iter().any(|group| group.inheriting.is_some())
    }

    /// What is about SAs that IKE doesn't know yet waits until it does. What is unknown to a successor that isn't through gets no answer.
    pub(in crate::core) fn wait_for_ike(&mut self, event: Event) -> Option<Event> {
        if !self.is_inheriting() {
            return Some(event);
        }
        let vip = match &event {
            Event::Ike(datagram) => self.vip_at(datagram.local.ip()),
            Event::PeerMoved { spi, .. }
            | Event::Alive(spi)
            | Event::Lifetime { spi, .. }
            | Event::ChildRefused(spi, _) => self.children.get(spi).map(|child| child.vip),
            Event::UnknownSpi { .. } => return None,
            _ => None,
        };
        let group = vip.map(|vip| self.group_of(vip));
        let entry = group.and_then(|group| self.groups.get_mut(group));
        let Some(inheriting) = entry.and_then(|entry| entry.inheriting.as_mut()) else { return Some(event) };
        // Peers repeat their requests.
        if !matches!(event, Event::Ike(_)) || inheriting.waiting.len() < WAITING_MAX {
            inheriting.waiting.push_back(event);
        }
        None
    }
}
