//! The store link as the world carries it: connections, messages, and writes on their way.

use std::time::Duration;

use rand::RngExt;

use super::World;
use crate::agenda::Step;
use crate::appliance::{Input, ProcessId};
use crate::far;
use crate::link::{LinkEnd, LinkNews, MEET_INTERVAL};
use crate::scene;

impl World {
    /// The higher id calls the lower one for each group, where both run and neither has a connection.
    pub(super) fn meet(&mut self) {
        self.agenda.after(MEET_INTERVAL, Step::Meet);
        for group in 0..self.variant.groups.len() {
            self.meet_for(group);
        }
    }

    fn meet_for(&mut self, group: usize) {
        let ready = self.appliances.iter().all(|appliance| {
            let process = appliance.process.as_ref();
            process.is_some_and(|process| process.runs() && process.links[group].connection().is_none())
        });
        if !ready || self.wires.cut {
            return;
        }
        self.wires.connections[group] += 1;
        self.wires.last_arrival[group] = [None; 2];
        for appliance in 0..2 {
            let digest = self.appliances[appliance].config_digest;
            let Some(process) = &mut self.appliances[appliance].process else { return };
            let (end, hello) =
                self.wires.shake(group, scene::appliance_id(appliance), process.incarnation, digest, &mut process.rng);
            process.links[group] = end;
            let id = process.id;
            self.transmit_link(id, group, hello);
        }
    }

    /// A control core sends over a group's link, if there is one.
    pub(super) fn link_send(&mut self, id: ProcessId, group: usize, message: &[u8]) {
        if self.forge_answer(id, group, message) {
            return;
        }
        if let Some(sealed) = self.process(id).and_then(|process| process.links[group].seal(message)) {
            self.transmit_link(id, group, sealed);
        }
    }

    fn transmit_link(&mut self, from: ProcessId, group: usize, bytes: Vec<u8>) {
        let receiver = 1 - from.appliance;
        let Some(connection) = self.process(from).and_then(|process| process.links[group].connection()) else {
            return;
        };
        let Some(to) = self.appliances[receiver].process.as_ref().map(|process| process.id) else { return };
        if self.wires.cut {
            return;
        }
        let arrival = self.agenda.now() + self.micros(5, 30) + self.wires.delay;
        let arrival = self.wires.last_arrival[group][receiver].map_or(arrival, |last| arrival.max(last));
        self.wires.last_arrival[group][receiver] = Some(arrival);
        self.agenda.at(arrival, Step::LinkMessage { to, group, connection, bytes });
    }

    /// A message reaches the socket of a process.
    pub(super) fn link_message(&mut self, to: ProcessId, group: usize, connection: u64, bytes: Vec<u8>) {
        // What was under way when the link broke is lost.
        if self.wires.cut || connection != self.wires.connections[group] {
            return;
        }
        if let Some(process) = self.process(to) {
            process.inbox.push_back(Input::LinkMessage { group, connection, bytes });
            self.wake_core(to);
        }
    }

    pub(super) fn link_closed(&mut self, to: ProcessId, group: usize, connection: u64) {
        if let Some(process) = self.process(to) {
            process.inbox.push_back(Input::LinkClosed { group, connection });
            self.wake_core(to);
        }
    }

    /// A control core's process reads a message.
    pub(super) fn handle_link_message(&mut self, id: ProcessId, group: usize, connection: u64, bytes: &[u8]) {
        let (now, manner) = (self.agenda.now(), self.manner);
        let Some(process) = self.appliances[id.appliance].process.as_mut() else { return };
        if process.links[group].connection() != Some(connection) {
            return;
        }
        let clock = now - process.behind;
        let peer = scene::appliance_id(1 - id.appliance);
        let mut answers = Vec::new();
        let news = self.wires.receive(&mut process.links[group], bytes, manner, &mut process.rng, &mut answers);
        match news {
            LinkNews::Nothing => {}
            LinkNews::Up(paired, flight) => {
                process.flights[group] = Some(flight);
                process.core.handle_link_up(clock, group, peer, *paired);
            }
            LinkNews::Message(message) => process.core.handle_link_message(clock, group, peer, &message),
            LinkNews::Broken => self.close_link(id, group),
        }
        for answer in answers {
            self.transmit_link(id, group, answer);
        }
    }

    pub(super) fn handle_link_closed(&mut self, id: ProcessId, group: usize, connection: u64) {
        let now = self.agenda.now();
        let Some(process) = self.process(id) else { return };
        if process.links[group].connection() != Some(connection) {
            return;
        }
        let was_up = process.links[group].is_up();
        process.links[group] = LinkEnd::Idle;
        if was_up {
            process.core.handle_link_down(now - process.behind, group, scene::appliance_id(1 - id.appliance));
        }
    }

    /// A process closes its end, or is gone: the other end learns of it behind what was sent before.
    pub(super) fn close_link(&mut self, id: ProcessId, group: usize) {
        let Some(process) = self.process(id) else { return };
        let Some(connection) = process.links[group].connection() else { return };
        process.links[group] = LinkEnd::Idle;
        let receiver = 1 - id.appliance;
        let arrival = self.agenda.now() + self.micros(5, 500);
        let arrival = self.wires.last_arrival[group][receiver].map_or(arrival, |last| arrival.max(last));
        if let Some(to) = self.appliances[receiver].process.as_ref().map(|process| process.id) {
            self.agenda.at(arrival, Step::LinkClosed { to, group, connection });
        }
    }

    /// The link breaks: both ends notice, each in its time. Of the writes under way some still land.
    pub(super) fn break_link(&mut self) {
        self.wires.cut = true;
        for appliance in 0..2 {
            for group in 0..self.variant.groups.len() {
                let delay = self.micros(10, 4000);
                let Some(process) = &self.appliances[appliance].process else { continue };
                let id = process.id;
                if let Some(connection) = process.links[group].connection() {
                    self.agenda.after(delay, Step::LinkClosed { to: id, group, connection });
                }
                self.cut_flight(id, group);
            }
        }
    }

    /// Of the writes that are under way some still land, the last ones don't.
    pub(super) fn cut_flight(&mut self, id: ProcessId, group: usize) {
        let arrive = self.rng.random_range(0..40);
        if let Some(flight) = self.process(id).and_then(|process| process.flights[group].as_ref()) {
            far::with(flight, |flight| flight.cut(arrive));
        }
    }

    /// Writes of an owner set out.
    pub(super) fn launch_writes(&mut self, id: ProcessId) {
        let flights = self.process(id).map_or_else(Vec::new, |process| process.flights.clone());
        for flight in flights.into_iter().flatten() {
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
