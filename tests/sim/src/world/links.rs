//! The store link as the world carries it: connections, messages, and writes on their way.

use std::time::Duration;

use rand::RngExt;
use vipsec_takeover::message::Message;

use super::World;
use crate::agenda::Step;
use crate::appliance::{Input, ProcessId};
use crate::far;
use crate::link::{LinkEnd, LinkId, LinkNews, MEET_INTERVAL};
use crate::planted::Planted;
use crate::scene;

/// Planted: when the mark comes.
const EARLY_MARK: Duration = Duration::from_millis(11);

impl World {
    /// Planted: the mark comes before the join is through.
    pub(super) fn early_mark(&mut self, to: ProcessId, link: LinkId, connection: u64) {
        let Some(process) = self.process(to).filter(|process| process.connection(link) == Some(connection)) else {
            return;
        };
        process.inbox.push_back(Input::Forged { link, message: Message::Joined });
        self.wake_core(to);
    }

    /// The higher id calls the lower one for each group, where both run and neither has a connection.
    pub(super) fn meet(&mut self) {
        self.agenda.after(MEET_INTERVAL, Step::Meet);
        for group in 0..self.variant.groups.len() {
            for caller in 0..self.appliances.len() {
                for called in 0..caller {
                    self.meet_for(group, called, caller);
                }
            }
        }
    }

    fn meet_for(&mut self, group: usize, called: usize, caller: usize) {
        let ends = [(called, caller), (caller, called)];
        let ready = ends.iter().all(|(here, peer)| {
            let process = self.appliances[*here].process.as_ref();
            process.is_some_and(|process| process.runs() && process.connection(LinkId { group, peer: *peer }).is_none())
        });
        if !ready || self.wires.is_cut(called, caller) {
            return;
        }
        *self.wires.newest(group, called, caller) += 1;
        let connection = *self.wires.newest(group, called, caller);
        for (here, peer) in ends {
            self.wires.last_arrival.remove(&(LinkId { group, peer }, here));
        }
        for (here, peer) in ends {
            let (link, digest) = (LinkId { group, peer }, self.appliances[here].config_digest);
            let Some(process) = &mut self.appliances[here].process else { return };
            let id = scene::appliance_id(here);
            let (end, hello) = self.wires.shake(connection, id, process.incarnation, digest, &mut process.rng);
            *process.link(link) = end;
            let id = process.id;
            self.transmit_link(id, link, hello);
        }
    }

    /// A control core sends over a group's link, if there is one.
    pub(super) fn link_send(&mut self, id: ProcessId, link: LinkId, message: &[u8]) {
        if self.forge_answer(id, link, message) {
            return;
        }
        if let Some(sealed) = self.process(id).and_then(|process| process.link(link).seal(message)) {
            self.transmit_link(id, link, sealed);
        }
    }

    fn transmit_link(&mut self, from: ProcessId, link: LinkId, bytes: Vec<u8>) {
        let Some(connection) = self.process(from).and_then(|process| process.connection(link)) else { return };
        let Some(to) = self.running(link.peer) else { return };
        if self.wires.is_cut(from.appliance, link.peer) {
            return;
        }
        let theirs = LinkId { group: link.group, peer: from.appliance };
        let arrival = self.agenda.now() + self.micros(5, 30) + self.wires.delay;
        let last = self.wires.last_arrival.entry((theirs, to.appliance)).or_insert(arrival);
        let arrival = arrival.max(*last);
        *last = arrival;
        self.agenda.at(arrival, Step::LinkMessage { to, link: theirs, connection, bytes });
    }

    /// A message reaches the socket of a process.
    pub(super) fn link_message(&mut self, to: ProcessId, link: LinkId, connection: u64, bytes: Vec<u8>) {
        // What was under way when the link broke is lost.
        let is_newest = connection == *self.wires.newest(link.group, to.appliance, link.peer);
        if self.wires.is_cut(to.appliance, link.peer) || !is_newest {
            return;
        }
        if let Some(process) = self.process(to) {
            process.inbox.push_back(Input::LinkMessage { link, connection, bytes });
            self.wake_core(to);
        }
    }

    pub(super) fn link_closed(&mut self, to: ProcessId, link: LinkId, connection: u64) {
        if let Some(process) = self.process(to) {
            process.inbox.push_back(Input::LinkClosed { link, connection });
            self.wake_core(to);
        }
    }

    /// A control core's process reads a message.
    pub(super) fn handle_link_message(&mut self, id: ProcessId, link: LinkId, connection: u64, bytes: &[u8]) {
        let (now, manner) = (self.agenda.now(), self.manner);
        let Some(process) = self.appliances[id.appliance].process.as_mut() else { return };
        if process.connection(link) != Some(connection) {
            return;
        }
        let clock = process.clock.at(now);
        let (group, peer) = (link.group, scene::appliance_id(link.peer));
        let mut answers = Vec::new();
        let end = process.links.entry(link).or_insert(LinkEnd::Idle);
        let news = self.wires.receive(end, bytes, manner, &mut process.rng, &mut answers);
        match news {
            LinkNews::Nothing => {}
            LinkNews::Up(paired, flight) => {
                process.flights.insert(link, flight);
                process.core.handle_link_up(clock, group, peer, *paired);
                if self.planted == Some(Planted::EarlyMark) {
                    // Behind the first beats: the peer is an owner, or it doesn't matter.
                    self.agenda.after(EARLY_MARK, Step::EarlyMark { to: id, link, connection });
                }
            }
            LinkNews::Message(message) => process.core.handle_link_message(clock, group, peer, &message),
            LinkNews::Broken => self.close_link(id, link),
        }
        for answer in answers {
            self.transmit_link(id, link, answer);
        }
    }

    pub(super) fn handle_link_closed(&mut self, id: ProcessId, link: LinkId, connection: u64) {
        let now = self.agenda.now();
        let Some(process) = self.process(id) else { return };
        if process.connection(link) != Some(connection) {
            return;
        }
        let was_up = process.is_linked(link);
        *process.link(link) = LinkEnd::Idle;
        if was_up {
            let peer = scene::appliance_id(link.peer);
            process.core.handle_link_down(process.clock.at(now), link.group, peer);
        }
    }

    /// A process closes its end, or is gone: the other end learns of it behind what was sent before.
    pub(super) fn close_link(&mut self, id: ProcessId, link: LinkId) {
        let Some(process) = self.process(id) else { return };
        let Some(connection) = process.connection(link) else { return };
        *process.link(link) = LinkEnd::Idle;
        let theirs = LinkId { group: link.group, peer: id.appliance };
        let arrival = self.agenda.now() + self.micros(5, 500);
        let last = self.wires.last_arrival.get(&(theirs, link.peer));
        let arrival = last.map_or(arrival, |last| arrival.max(*last));
        if let Some(to) = self.running(link.peer) {
            self.agenda.at(arrival, Step::LinkClosed { to, link: theirs, connection });
        }
    }

    /// All links of an appliance.
    pub(super) fn links_of(&self, appliance: usize) -> Vec<LinkId> {
        let groups = 0..self.variant.groups.len();
        let links = groups
            .flat_map(|group| scene::others(appliance, self.appliances.len()).map(move |peer| LinkId { group, peer }));
        links.collect()
    }

    /// The links of an appliance break: both ends notice, each in its time. Of the writes under way some still land.
    pub(super) fn break_links(&mut self, appliance: usize) {
        for peer in scene::others(appliance, self.appliances.len()) {
            self.wires.cut(appliance, peer, true);
        }
        for (group, peer) in self.links_of(appliance).into_iter().map(|link| (link.group, link.peer)) {
            for (here, there) in [(appliance, peer), (peer, appliance)] {
                let delay = self.micros(10, 4000);
                let Some(id) = self.running(here) else { continue };
                let link = LinkId { group, peer: there };
                if let Some(connection) = self.process(id).and_then(|process| process.connection(link)) {
                    self.agenda.after(delay, Step::LinkClosed { to: id, link, connection });
                }
                self.cut_flight(id, link);
            }
        }
    }

    /// And are mended.
    pub(super) fn mend_links(&mut self, appliance: usize) {
        for peer in scene::others(appliance, self.appliances.len()) {
            self.wires.cut(appliance, peer, false);
        }
    }

    /// Of the writes that are under way some still land, the last ones don't.
    pub(super) fn cut_flight(&mut self, id: ProcessId, link: LinkId) {
        let arrive = self.rng.random_range(0..40);
        if let Some(flight) = self.process(id).and_then(|process| process.flights.get(&link)) {
            far::with(flight, |flight| flight.cut(arrive));
        }
    }

    /// Writes of an owner set out.
    pub(super) fn launch_writes(&mut self, id: ProcessId) {
        let flights: Vec<_> =
            self.process(id).map_or_else(Vec::new, |process| process.flights.values().cloned().collect());
        for flight in flights {
            if far::with(&flight, |flight| flight.depart()) {
                let delay = self.store_delay();
                self.agenda.after(delay, Step::StoreLands { writer: id, flight });
            }
        }
    }

    /// The next write lands, or the next question is answered.
    pub(super) fn store_lands(&mut self, writer: ProcessId, flight: far::SharedFlight) {
        let (answered, more) = far::with(&flight, |flight| (flight.land(), flight.is_busy()));
        if answered {
            self.wake_core(writer);
        }
        if more {
            let delay = self.store_delay();
            self.agenda.after(delay, Step::StoreLands { writer, flight });
        }
    }

    fn store_delay(&mut self) -> Duration {
        self.micros(1, self.manner.slowest)
    }
}
