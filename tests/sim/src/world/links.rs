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
    /// The higher id calls the lower one, where both run and neither has a connection.
    pub(super) fn meet(&mut self) {
        self.agenda.after(MEET_INTERVAL, Step::Meet);
        let ready = self.appliances.iter().all(|appliance| {
            appliance.process.as_ref().is_some_and(|process| process.runs() && process.link.connection().is_none())
        });
        if !ready || self.wires.cut {
            return;
        }
        self.wires.connections += 1;
        self.wires.last_arrival = [None; 2];
        for appliance in 0..2 {
            let digest = self.appliances[appliance].config_digest;
            let Some(process) = &mut self.appliances[appliance].process else { return };
            let (end, hello) =
                self.wires.shake(scene::appliance_id(appliance), process.incarnation, digest, &mut process.rng);
            process.link = end;
            let id = process.id;
            self.transmit_link(id, hello);
        }
    }

    /// A control core sends over the link, if there is one.
    pub(super) fn link_send(&mut self, id: ProcessId, message: &[u8]) {
        if self.forge_answer(id, message) {
            return;
        }
        if let Some(sealed) = self.process(id).and_then(|process| process.link.seal(message)) {
            self.transmit_link(id, sealed);
        }
    }

    fn transmit_link(&mut self, from: ProcessId, bytes: Vec<u8>) {
        let receiver = 1 - from.appliance;
        let Some(connection) = self.process(from).and_then(|process| process.link.connection()) else { return };
        let Some(to) = self.appliances[receiver].process.as_ref().map(|process| process.id) else { return };
        if self.wires.cut {
            return;
        }
        let arrival = self.agenda.now() + self.micros(5, 30) + self.wires.delay;
        let arrival = self.wires.last_arrival[receiver].map_or(arrival, |last| arrival.max(last));
        self.wires.last_arrival[receiver] = Some(arrival);
        self.agenda.at(arrival, Step::LinkMessage { to, connection, bytes });
    }

    /// A message reaches the socket of a process.
    pub(super) fn link_message(&mut self, to: ProcessId, connection: u64, bytes: Vec<u8>) {
        // What was under way when the link broke is lost.
        if self.wires.cut || connection != self.wires.connections {
            return;
        }
        if let Some(process) = self.process(to) {
            process.inbox.push_back(Input::LinkMessage { connection, bytes });
            self.wake_core(to);
        }
    }

    pub(super) fn link_closed(&mut self, to: ProcessId, connection: u64) {
        if let Some(process) = self.process(to) {
            process.inbox.push_back(Input::LinkClosed { connection });
            self.wake_core(to);
        }
    }

    /// A control core's process reads a message.
    pub(super) fn handle_link_message(&mut self, id: ProcessId, connection: u64, bytes: &[u8]) {
        let (now, manner) = (self.agenda.now(), self.manner);
        let Some(process) = self.appliances[id.appliance].process.as_mut() else { return };
        if process.link.connection() != Some(connection) {
            return;
        }
        let clock = now - process.behind;
        let mut answers = Vec::new();
        let news = self.wires.receive(&mut process.link, bytes, manner, &mut process.rng, &mut answers);
        match news {
            LinkNews::Nothing => {}
            LinkNews::Up(paired, flight) => {
                process.flight = Some(flight);
                process.core.handle_link_up(clock, *paired);
            }
            LinkNews::Message(message) => process.core.handle_link_message(clock, &message),
            LinkNews::Broken => self.close_link(id),
        }
        for answer in answers {
            self.transmit_link(id, answer);
        }
    }

    pub(super) fn handle_link_closed(&mut self, id: ProcessId, connection: u64) {
        let now = self.agenda.now();
        let Some(process) = self.process(id) else { return };
        if process.link.connection() != Some(connection) {
            return;
        }
        let was_up = process.link.is_up();
        process.link = LinkEnd::Idle;
        if was_up {
            process.core.handle_link_down(now - process.behind);
        }
    }

    /// A process closes its end, or is gone: the other end learns of it behind what was sent before.
    pub(super) fn close_link(&mut self, id: ProcessId) {
        let Some(process) = self.process(id) else { return };
        let Some(connection) = process.link.connection() else { return };
        process.link = LinkEnd::Idle;
        let receiver = 1 - id.appliance;
        let arrival = self.agenda.now() + self.micros(5, 500);
        let arrival = self.wires.last_arrival[receiver].map_or(arrival, |last| arrival.max(last));
        if let Some(to) = self.appliances[receiver].process.as_ref().map(|process| process.id) {
            self.agenda.at(arrival, Step::LinkClosed { to, connection });
        }
    }

    /// The link breaks: both ends notice, each in its time. Of the writes under way some still land.
    pub(super) fn break_link(&mut self) {
        self.wires.cut = true;
        for appliance in 0..2 {
            let delay = self.micros(10, 4000);
            let Some(process) = &self.appliances[appliance].process else { continue };
            let id = process.id;
            if let Some(connection) = process.link.connection() {
                self.agenda.after(delay, Step::LinkClosed { to: id, connection });
            }
            self.cut_flight(id);
        }
    }

    /// Of the writes that are under way some still land, the last ones don't.
    pub(super) fn cut_flight(&mut self, id: ProcessId) {
        let arrive = self.rng.random_range(0..40);
        if let Some(flight) = self.process(id).and_then(|process| process.flight.as_ref()) {
            far::with(flight, |flight| flight.cut(arrive));
        }
    }

    /// Writes of an owner set out.
    pub(super) fn launch_writes(&mut self, id: ProcessId) {
        let Some(flight) = self.process(id).and_then(|process| process.flight.clone()) else { return };
        if far::with(&flight, |flight| flight.depart()) {
            let delay = self.store_delay();
            self.agenda.after(delay, Step::StoreLands { writer: id, flight });
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
