//! What the driver of a decider does for it: at once, or, where it is slow, later.

use std::time::Instant;

use vipsec_takeover::advertisement::Advertisement;
use vipsec_takeover::decider::{Action, Copy, Fitness, Role, StepDownReason};
use vipsec_takeover::floor::Floor;
use vipsec_takeover::message::Message;
use vipsec_takeover::registry;
use vipsec_wire::iv::Epoch;

use crate::checks::{Broken, Event};
use crate::planted::Planted;
use crate::registry::TIMEOUT;
use crate::side::{Chore, Connection, Process, Region, Wire};
use crate::subject::{Subject, id, timing};
use crate::world::{State, World};

impl<D: Subject> World<D> {
    /// A new process begins.
    pub(crate) fn start(&self, state: &mut State<D>, number: usize) {
        let now = self.now(state);
        let side = &mut state.sides[number];
        side.lives += 1;
        let old = self.planted == Some(Planted::OldFloor) && side.lives > 1;
        let floor = Floor::from_disk(if old { Some(0) } else { side.disk });
        let incarnation = 100 * (number as u64 + 1) + u64::from(side.lives);
        let timing = Planted::timing(self.planted, number, timing());
        side.process = Some(Process {
            decider: D::start(number, incarnation, timing, floor, now),
            incarnation,
            link: None,
            deadline: None,
            open: false,
            advertisements: 0,
            region: None,
            held: None,
            fenced: None,
            chores: Vec::new(),
            has_missed: false,
        });
        self.carry_out_all(state, number);
    }

    /// Does something with a decider, and what follows from it.
    pub(crate) fn with(&self, state: &mut State<D>, number: usize, f: impl FnOnce(&mut D, Instant)) {
        let now = self.now(state);
        if let Some(process) = &mut state.sides[number].process {
            f(&mut process.decider, now);
        }
        self.carry_out_all(state, number);
    }

    /// An appliance's turn: it takes what has arrived, and does what is due.
    pub(crate) fn take_turn(&self, state: &mut State<D>, number: usize) {
        if !state.sides[number].runs() {
            return;
        }
        let peer = id(1 - number);
        if D::ASKS_REGISTRY && state.registry.mute.is_none() {
            let me = registry::Process { appliance: id(number), incarnation: self.incarnation(state, number) };
            state.registry.hear(number, me, state.tick);
        }
        while let Some((_, reply)) = {
            let tick = state.tick;
            state.sides[number].replies.pop_front_if(|(due, _)| *due <= tick)
        } {
            self.with(state, number, |decider, now| decider.handle_registry(now, reply));
        }
        while !state.sides[number].holds_advertisements
            && let Some(advertisement) = state.sides[number].advertisements.pop_front()
        {
            // What is old or foreign is left out.
            self.with(state, number, |decider, now| {
                let _ = decider.handle_advertisement(now, &advertisement);
            });
        }
        while !state.sides[number].holds_wires
            && let Some((connection, wire)) = state.sides[number].wires.pop_front()
        {
            self.take_wire(state, number, connection, wire);
        }
        if self.is_refused(state, number) {
            self.with(state, number, |decider, now| decider.handle_refused(now, peer));
        }
        if !state.sides[number].slow {
            let chores = state.sides[number].process.as_mut().map(|process| std::mem::take(&mut process.chores));
            chores.into_iter().flatten().for_each(|chore| self.do_chore(state, number, chore));
        }
        let fitness = if state.sides[number].unfit { Fitness::LinkDown } else { Fitness::Fit };
        self.with(state, number, |decider, now| {
            decider.handle_health(fitness);
            decider.handle_timeout(now);
        });
    }

    fn incarnation(&self, state: &State<D>, number: usize) -> u64 {
        state.sides[number].process.as_ref().map_or(0, |process| process.incarnation)
    }

    fn take_wire(&self, state: &mut State<D>, number: usize, connection: Connection, wire: Wire) {
        let peer = id(1 - number);
        let Some(process) = &mut state.sides[number].process else { return };
        match wire {
            Wire::Up(incarnation) => {
                process.link = Some(connection);
                process.region = Some(Region { connection, writer: incarnation, complete: false, fenced: false });
                self.with(state, number, |decider, now| decider.handle_link_up(now, peer, incarnation, true));
                if let Some(process) = &mut state.sides[number].process
                    && !process.decider.holds_copy()
                {
                    process.held = None;
                }
            }
            // Of an earlier connection.
            _ if process.link != Some(connection) => {}
            Wire::Message(message) => {
                if message == Message::Joined {
                    process.held = process.region.take();
                }
                self.with(state, number, |decider, now| decider.handle_message(now, peer, &message));
            }
            Wire::Closed => {
                process.link = None;
                process.region = None;
                self.with(state, number, |decider, now| decider.handle_link_down(now, peer));
            }
        }
    }

    /// Does it wait for a copy whose region has been fenced?
    fn is_refused(&self, state: &State<D>, number: usize) -> bool {
        let now = self.now(state);
        let Some(process) = &state.sides[number].process else { return false };
        let writes = matches!(process.copy(now), Copy::Joining | Copy::Counted);
        let fenced = state.sides[1 - number].process.as_ref().and_then(|peer| peer.fenced);
        process.owns() && writes && process.link.is_some() && fenced == process.link
    }

    fn do_chore(&self, state: &mut State<D>, number: usize, chore: Chore) {
        let peer = id(1 - number);
        match chore {
            Chore::Reserve(value) => {
                let side = &mut state.sides[number];
                side.disk = Some(side.disk.unwrap_or(0).max(value));
                self.with(state, number, |decider, now| decider.handle_floor_reserved(now, value));
            }
            Chore::Fill(connection) => {
                let is_open = state.sides[number].process.as_ref().is_some_and(|it| it.link == Some(connection));
                if !is_open || self.is_refused(state, number) {
                    return;
                }
                let regions = state.sides[1 - number].process.iter_mut().flat_map(Process::regions);
                regions.filter(|region| region.connection == connection).for_each(|region| region.complete = true);
                self.with(state, number, |decider, now| decider.handle_join_published(now, peer));
            }
            Chore::Install => self.with(state, number, |decider, now| decider.handle_staged(now)),
            Chore::Halt => self.with(state, number, |decider, now| decider.handle_stopped(now)),
        }
    }

    fn carry_out_all(&self, state: &mut State<D>, number: usize) {
        while let Some(action) = state.sides[number].process.as_mut().and_then(|process| process.decider.poll_action())
        {
            self.carry_out(state, number, action);
        }
    }

    fn carry_out(&self, state: &mut State<D>, number: usize, action: Action) {
        let now = self.now(state);
        let (tick, planted) = (state.tick, self.planted);
        let slow = state.sides[number].slow;
        let Some(process) = &mut state.sides[number].process else { return };
        let mut chore = None;
        match action {
            Action::Send { message, .. } => self.send(state, number, message),
            Action::Advertise { epoch, protected } => self.advertise(state, number, epoch, protected),
            Action::Deadline(until) => process.deadline = until,
            Action::ReserveFloor(value) => chore = Some(Chore::Reserve(value)),
            Action::CloseLink(_) => {
                process.region = None;
                if let Some(connection) = process.link.take() {
                    state.hang_up(connection, 1 - number);
                }
            }
            Action::Join(_) => {
                if planted == Some(Planted::EarlyMark) && slow {
                    process.decider.handle_join_published(now, id(1 - number));
                }
                chore = process.link.map(Chore::Fill);
            }
            Action::Release(_) => {}
            Action::Stage { epoch } => {
                if let Some(held) = &mut process.held {
                    held.fenced = true;
                    process.fenced = Some(held.connection);
                }
                state.note_epoch(number, epoch);
                chore = Some(Chore::Install);
            }
            Action::Activate { trusted, .. } => {
                let complete = process.held.take().is_some_and(|held| held.complete);
                process.open = true;
                state.note(if trusted { Event::Resumed } else { Event::BegunAnew });
                if trusted && !complete {
                    state.broken(Broken::IncompleteResumed);
                }
            }
            Action::CountServed { .. } => {
                let served = u32::from(state.serves == number);
                process.decider.handle_served(now, served);
            }
            Action::Raise { .. } => {
                process.open = true;
                state.note(Event::Raised);
            }
            Action::Stop => {
                process.open = false;
                chore = Some(Chore::Halt);
            }
            Action::TakeBack => {
                process.open = true;
                state.note(Event::TakenBack);
            }
            Action::StepDown(reason) => {
                process.open = false;
                process.chores.retain(|chore| matches!(chore, Chore::Reserve(_)));
                state.note(match reason {
                    StepDownReason::Deposed => Event::Deposed,
                    StepDownReason::Uncertain => Event::GaveUp,
                    StepDownReason::Refused => Event::Refused,
                    StepDownReason::Moved => Event::Moved,
                    StepDownReason::Unfit => Event::Unfit,
                });
            }
            Action::Ask(request) => {
                let (due, reply) = match state.registry.ask(request, tick, planted) {
                    Some(reply) => (tick, reply),
                    None => (tick + TIMEOUT, registry::Reply::Silence),
                };
                state.sides[number].replies.push_back((due, reply));
            }
        }
        if let Some(chore) = chore {
            match &mut state.sides[number].process {
                Some(process) if slow => process.chores.push(chore),
                _ => self.do_chore(state, number, chore),
            }
        }
    }

    fn send(&self, state: &mut State<D>, number: usize, message: Message) {
        let Some(connection) = state.sides[number].process.as_ref().and_then(|process| process.link) else { return };
        if state.link_cut {
            return;
        }
        if state.link == Some(connection) {
            state.sides[1 - number].wires.push_back((connection, Wire::Message(message)));
        } else {
            // The other end is gone: the socket says so.
            state.sides[number].wires.push_back((connection, Wire::Closed));
        }
    }

    fn advertise(&self, state: &mut State<D>, number: usize, epoch: Epoch, protected: bool) {
        let Some(process) = &mut state.sides[number].process else { return };
        process.advertisements += 1;
        let advertisement = Advertisement {
            owner: id(number),
            vip: 0,
            epoch,
            protected,
            incarnation: process.incarnation,
            number: process.advertisements,
        };
        if !state.networks_cut && state.sides[1 - number].process.is_some() {
            state.sides[1 - number].advertisements.push_back(advertisement);
        }
    }

    /// Whatever acts now gets on without what doesn't wait for it.
    pub(crate) fn let_workers_act(&self, state: &mut State<D>) {
        let now = self.now(state);
        for number in 0..2 {
            if !state.sides[number].acts(now, self.planted) {
                continue;
            }
            let Some(process) = &state.sides[number].process else { continue };
            let (copy, link) = (process.copy(now), process.link);
            if copy == Copy::Counted && self.is_refused(state, number) {
                if self.planted == Some(Planted::LeakyFence) {
                    state.broken(Broken::DeposedAcknowledged);
                }
                continue;
            }
            let known = match copy {
                // What acts is parked until it is known what the backup did.
                Copy::Leaving { .. } => continue,
                Copy::Counted => link,
                Copy::None | Copy::Joining => None,
            };
            let is_owner = matches!(process.decider.role(), Role::Owner { .. });
            if !is_owner {
                continue;
            }
            let writer = process.incarnation;
            let regions = state.sides[1 - number].process.iter_mut().flat_map(Process::regions);
            for region in regions.filter(|region| region.writer == writer) {
                // What is being filled is filled with this, too.
                let filling = copy == Copy::Joining && Some(region.connection) == link;
                region.complete &= Some(region.connection) == known || filling;
            }
        }
    }
}
