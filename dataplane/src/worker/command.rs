//! What the control core wants of a worker.

use std::sync::Arc;
use std::time::Instant;

use arrayvec::ArrayVec;
use vipsec_esp::sa::{ChildSa, Processing, Spi};
use vipsec_wire::buffer::{BufferPool, PacketBuf};
use vipsec_wire::iv::IvPrefix;

use super::{Verdict, Worker};
use crate::api::{ChildRefusal, Command, Event, PortId, Report, ReportKind, Tables, Wake};
use crate::drops::{DropReason, Tally};
use crate::lookup::Lookup;
use crate::route::NextHop;
use crate::sad::{NoSuchSa, SaIndex, Sessions};

/// Child SAs whose memory is asked for together: more would push each other out of the nearest cache.
const WOKEN_AT_ONCE: usize = 16;

impl<P: BufferPool> Worker<P> {
    /// Does what the control core wants.
    pub fn handle_command(&mut self, now: Instant, command: Command) {
        match command {
            Command::Tables { version, tables } => self.use_tables(now, version, tables),
            Command::InstallChild(child) => self.install(*child),
            Command::WakeChildren { iv_prefix, wakes } => self.wake(iv_prefix, &wakes),
            Command::RemoveChild(spi) => self.remove(spi),
            Command::Steer(steering) => {
                // The same SPI may have been here, before its VIP was elsewhere.
                if self.sad.find_inbound(steering.spi.get()).is_some() {
                    self.remove(steering.spi);
                }
                self.sad.steer(&steering);
                self.tell(Event::Steered { spi: steering.spi, token: steering.token });
            }
            Command::Unsteer(spi) => {
                if self.sad.unsteer(spi).is_err() {
                    self.counters.count(Tally::CommandsRefused);
                }
            }
            Command::Grant { spi, horizon, lease } => self.grant(now, spi, horizon, lease),
            Command::Bind(spi) => self.bind(spi),
            Command::Announce { version, services } => self.announce(version, services),
            Command::PinsKnown(batch) => self.settle_pins(now, batch),
            Command::PinsAbandoned(batch) => self.abandon_pins(now, batch),
            Command::ForgetConnections(vip) => self.forget_connections(vip),
            Command::Inherit { vip, services } => self.inherit(now, vip, services),
            Command::RestorePins { token, pins } => self.restore_pins(now, token, &pins),
            Command::SendIke(datagram) => {
                let verdict = self.send_ike(now, &datagram);
                self.count(verdict);
            }
            Command::MovePeer { spi, remote } => {
                if let Some(index) = self.known(spi) {
                    self.sad.move_peer(index, remote);
                }
            }
            Command::SkipNumbers { spi, delta } => {
                let index = self.known(spi);
                if let Some(sa) = index.and_then(|index| self.sad.outbound_mut(index)) {
                    sa.esp.skip(delta);
                }
            }
            Command::SendFrame { port, frame } => {
                let verdict = self.send_frame(port, &frame);
                self.count(verdict);
            }
            Command::Report { token, what } => {
                let report = self.report(now, what);
                self.tell(Event::Report { token, report });
            }
        }
        self.end_round(now);
    }

    /// Would following it take a VIP away from here?
    pub(crate) fn loses_a_vip_by(&self, command: &Command) -> bool {
        matches!(command, Command::Tables { tables, .. } if self.lookup.loses_a_vip_to(tables))
    }

    fn use_tables(&mut self, now: Instant, version: u64, tables: Arc<Tables>) {
        self.mates.use_services(&tables.services);
        let loses_a_vip = self.lookup.loses_a_vip_to(&tables);
        let next = Lookup::new(tables);
        if loses_a_vip {
            self.drop_waiting(&next);
            self.vip_lost_in = version;
        }
        self.drop_unresolved(&next);
        self.tables_version = version;
        // The first worker asks for all: the others hear the answers.
        if self.mates.is_first() && next.gains_a_vip_over(&self.lookup) {
            // A takeover meets a stream of packets, not a first one: ask before they come.
            for NextHop { port, address } in next.expected_neighbours() {
                self.neighbours.prepare(now, port, address);
            }
        }
        let services_stay = Arc::ptr_eq(next.services(), self.lookup.services());
        self.lookup = next;
        self.limit_ike();
        self.tables_changed(version);
        // Otherwise what was announced stays announced.
        if !services_stay {
            self.connections.use_services(self.lookup.services().clone());
        }
        self.release_held();
        self.release_unpinned(now);
        self.confirm_tables();
    }

    fn install(&mut self, child: ChildSa) {
        let spi = child.inbound.spi;
        self.forget_parked(spi);
        match self.place(&child) {
            Ok(index) => {
                self.tell(Event::ChildInstalled(spi));
                self.touch(index);
            }
            Err(refusal) => self.tell(Event::ChildRefused(spi, refusal)),
        }
    }

    fn place(&mut self, child: &ChildSa) -> Result<SaIndex, ChildRefusal> {
        self.lookup.vip(child.vip).ok_or(ChildRefusal::UnknownVip)?;
        let sessions = match (child.processing, &mut self.lookaside) {
            (Processing::Cpu, _) => None,
            (Processing::Lookaside, Some(device)) => Some(device.open_sessions(child).map_err(ChildRefusal::Session)?),
            // Never another tier in silence: who asked for a device relies on it.
            (other, _) => return Err(ChildRefusal::Processing(other)),
        };
        let installed = self.sad.install(child, sessions);
        self.close_sessions(match &installed {
            Ok((_, replaced)) => *replaced,
            Err(_) => sessions,
        });
        installed.map(|(index, _)| index)
    }

    fn wake(&mut self, iv_prefix: IvPrefix, wakes: &[Wake]) {
        // Nobody has touched them since they were installed: all are asked for before the first is waited for.
        for wakes in wakes.chunks(WOKEN_AT_ONCE) {
            let found: ArrayVec<_, WOKEN_AT_ONCE> = wakes.iter().map(|wake| self.known(wake.spi)).collect();
            found.iter().flatten().for_each(|index| self.sad.prefetch(*index));
            for (Wake { edge, sent, lifetime, .. }, index) in wakes.iter().zip(found) {
                if index.is_some_and(|index| !self.sad.wake(index, iv_prefix, *edge, *sent, lifetime)) {
                    self.counters.count(Tally::CommandsRefused);
                }
            }
        }
    }

    fn remove(&mut self, spi: Spi) {
        match self.sad.remove(spi) {
            Ok(sessions) => self.close_sessions(sessions),
            Err(NoSuchSa) => self.counters.count(Tally::CommandsRefused),
        }
        self.forget_parked(spi);
    }

    /// What a crypto device still has of their packets comes back, and is dropped then.
    fn close_sessions(&mut self, sessions: Option<Sessions>) {
        if let (Some(device), Some(sessions)) = (&mut self.lookaside, sessions) {
            device.close_sessions(sessions);
        }
    }

    fn forget_parked(&mut self, spi: Spi) {
        let forgotten = self.parking.forget(spi);
        self.counters.count_drops(DropReason::ParkedSaGone, forgotten);
    }

    fn grant(&mut self, now: Instant, spi: Spi, horizon: u64, lease: u64) {
        let Some(index) = self.known(spi) else { return };
        if let Some(sa) = self.sad.inbound_mut(index) {
            sa.esp.grant(horizon);
        }
        if let Some(sa) = self.sad.outbound_mut(index) {
            sa.esp.grant(lease);
        }
        if self.deadline.has_passed(now) {
            let stopped = self.parking.forget(spi);
            self.counters.count_drops(DropReason::DeadlinePassed, stopped);
        } else {
            self.release(now, spi);
        }
        self.touch(index);
    }

    fn bind(&mut self, spi: Spi) {
        let Some(index) = self.known(spi) else { return };
        if let Some(sa) = self.sad.inbound_mut(index) {
            sa.esp.bind();
        }
        if let Some(sa) = self.sad.outbound_mut(index) {
            sa.esp.bind();
        }
        if let Some(numbers) = self.sad.report_numbers(index) {
            self.tell(Event::Numbers(numbers));
        }
    }

    /// The SA of a command; one that is gone is counted.
    fn known(&self, spi: Spi) -> Option<SaIndex> {
        let index = self.sad.find_inbound(spi.get());
        if index.is_none() {
            self.counters.count(Tally::CommandsRefused);
        }
        index
    }

    fn send_frame(&mut self, port: PortId, frame: &[u8]) -> Verdict {
        let mut packet = self.pool.alloc().ok_or(DropReason::BufferPoolEmpty)?;
        packet.append(frame.len())?;
        packet.data_mut().copy_from_slice(frame);
        self.transmit(port, packet)
    }

    fn report(&self, now: Instant, what: ReportKind) -> Report {
        match what {
            ReportKind::Sas => Report::Sas(self.sad.reports().collect()),
            ReportKind::Connections { max } => Report::Connections {
                total: self.connections.len(),
                entries: self.connections.reports(now).take(max).collect(),
            },
            ReportKind::Neighbours => Report::Neighbours(self.neighbours.iter().collect()),
            ReportKind::Targets => {
                let addresses = self.connections.services().targets().iter().map(|target| target.address);
                Report::Targets(addresses.map(|address| (address, self.connections.active(address))).collect())
            }
        }
    }
}
