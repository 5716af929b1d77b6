//! The connection table of one worker: which target each established connection is on.
//!
//! A new connection goes where the service table says; from then on the entry says, whatever happens to the table, as long as the
//! target isn't down. A full table forgets nobody: connections that find no room are forwarded as the service table says, packet
//! by packet. Nothing is allocated after construction, and expiry takes a bounded step at a time.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use vipsec_wire::tcp::Flags;

use crate::service::{Refusal, ServiceTable, TargetState};
use crate::tuple::FiveTuple;

mod slab;
mod state;

pub use state::{ConnectionState, Direction, Timeouts};

use slab::Slab;

/// Limits of a connection table.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Most entries.
    pub connections_max: usize,
    /// When silent connections are forgotten.
    pub timeouts: Timeouts,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections_max: 65_536, timeouts: Timeouts::default() }
    }
}

/// What the table needs to know of a packet.
#[derive(Debug, Clone, Copy)]
pub struct PacketInfo {
    /// TCP's control bits.
    pub tcp: Option<Flags>,
    /// Length in bytes, IP header included.
    pub bytes: u32,
}

/// Where a packet from the remote side goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// The target's address.
    pub target: IpAddr,
    /// How the connection stands.
    pub tracking: Tracking,
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

impl Traffic {
    fn count(&mut self, packet: &PacketInfo) {
        self.packets = self.packets.saturating_add(1);
        self.bytes = self.bytes.saturating_add(u64::from(packet.bytes));
    }
}

/// A connection as an operator sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionReport {
    /// Which one.
    pub tuple: FiveTuple,
    /// Its target.
    pub target: IpAddr,
    /// How far it has come.
    pub state: ConnectionState,
    /// Time since its first packet.
    pub age: Duration,
    /// Time since its last packet.
    pub idle: Duration,
    /// From the remote host to the target.
    pub to_target: Traffic,
    /// From the target to the remote host.
    pub to_remote: Traffic,
    /// Would the table in force choose another target? Then a successor can't compute it and has to be told.
    pub pinned: bool,
}

/// An entry.
#[derive(Debug, Clone, Copy)]
struct Connection {
    tuple: FiveTuple,
    target: IpAddr,
    state: ConnectionState,
    created: Instant,
    last_packet: Instant,
    to_target: Traffic,
    to_remote: Traffic,
    /// Generation of the service table under which `target` was last found alive.
    checked: u64,
}

impl Connection {
    fn touch(&mut self, now: Instant, direction: Direction, packet: &PacketInfo) {
        self.state = self.state.after(direction, packet.tcp);
        self.last_packet = now;
        match direction {
            Direction::ToTarget => self.to_target.count(packet),
            Direction::ToRemote => self.to_remote.count(packet),
        }
    }

    fn is_expired(&self, now: Instant, timeouts: &Timeouts) -> bool {
        now.saturating_duration_since(self.last_packet) >= timeouts.of(self.state)
    }

    fn is_pinned(&self, services: &ServiceTable) -> bool {
        services.choose(&self.tuple) != Ok(self.target)
    }
}

/// A bounded table of connections.
#[derive(Debug)]
pub struct ConnectionTable {
    slab: Slab<Connection>,
    timeouts: Timeouts,
    seed: u64,
    generation: u64,
}

/// Entries looked at for an expired one when the table is full.
const EXPIRE_WHEN_FULL: usize = 16;

impl ConnectionTable {
    /// An empty table. `seed` keys its hash: random, so that nobody outside can aim for one bucket.
    pub fn new(limits: &Limits, seed: u64) -> Self {
        Self { slab: Slab::new(limits.connections_max), timeouts: limits.timeouts, seed, generation: 0 }
    }

    /// Another service table is in force: entries check their target against it with their next packet.
    pub fn services_changed(&mut self) {
        self.generation += 1;
    }

    /// Takes a packet from the remote side: says which target it goes to, and remembers.
    pub fn to_target(
        &mut self,
        now: Instant,
        services: &ServiceTable,
        tuple: &FiveTuple,
        packet: &PacketInfo,
    ) -> Result<Choice, Refusal> {
        let hash = tuple.table_hash(self.seed);
        let (timeouts, generation) = (self.timeouts, self.generation);
        let Some((place, connection)) = self.slab.find(hash, |entry| entry.tuple == *tuple) else {
            return self.open(now, services, tuple, packet, hash);
        };
        let reopens = packet.tcp.is_some_and(Flags::opens) && connection.state.is_over();
        if reopens || connection.is_expired(now, &timeouts) {
            self.slab.remove(place);
            return self.open(now, services, tuple, packet, hash);
        }
        let mut tracking = Tracking::Known;
        if connection.checked != generation {
            if matches!(services.state(connection.target), None | Some(TargetState::Down)) {
                connection.target = services.choose(tuple)?;
                tracking = Tracking::Moved;
            }
            connection.checked = generation;
        }
        connection.touch(now, Direction::ToTarget, packet);
        Ok(Choice { target: connection.target, tracking })
    }

    /// Takes a packet from the target's side. Returns whether the connection is known.
    pub fn to_remote(&mut self, now: Instant, tuple: &FiveTuple, packet: &PacketInfo) -> bool {
        let timeouts = self.timeouts;
        let hash = tuple.table_hash(self.seed);
        match self.slab.find(hash, |entry| entry.tuple == *tuple) {
            Some((_, connection)) if !connection.is_expired(now, &timeouts) => {
                connection.touch(now, Direction::ToRemote, packet);
                true
            }
            _ => false,
        }
    }

    /// The target of a known connection, without touching it: for ICMP errors about it.
    pub fn target_of(&mut self, tuple: &FiveTuple) -> Option<IpAddr> {
        let hash = tuple.table_hash(self.seed);
        self.slab.find(hash, |entry| entry.tuple == *tuple).map(|(_, connection)| connection.target)
    }

    fn open(
        &mut self,
        now: Instant,
        services: &ServiceTable,
        tuple: &FiveTuple,
        packet: &PacketInfo,
        hash: u64,
    ) -> Result<Choice, Refusal> {
        let target = services.choose(tuple)?;
        let stateless = Ok(Choice { target, tracking: Tracking::Stateless });
        if packet.tcp.is_some_and(|flags| flags.contains(Flags::RST)) {
            return stateless;
        }
        if self.slab.is_full() {
            self.expire(now, EXPIRE_WHEN_FULL);
        }
        let mut connection = Connection {
            tuple: *tuple,
            target,
            state: ConnectionState::first(tuple.protocol, packet.tcp),
            created: now,
            last_packet: now,
            to_target: Traffic::default(),
            to_remote: Traffic::default(),
            checked: self.generation,
        };
        connection.to_target.count(packet);
        match self.slab.insert(hash, connection) {
            Ok(()) => Ok(Choice { target, tracking: Tracking::New }),
            Err(slab::Full) => stateless,
        }
    }

    /// Looks at the next `entries` places of the table and forgets what is expired there. Returns how many it forgot.
    pub fn expire(&mut self, now: Instant, entries: usize) -> usize {
        let timeouts = self.timeouts;
        self.slab.sweep(entries, |connection| connection.is_expired(now, &timeouts))
    }

    /// How many connections there are, expired ones that were not yet come across included.
    pub fn len(&self) -> usize {
        self.slab.len()
    }

    /// Are there none?
    pub fn is_empty(&self) -> bool {
        self.slab.len() == 0
    }

    /// Would `services` choose another target for this connection than the one it is on? `None` when it isn't known.
    pub fn is_pinned(&mut self, services: &ServiceTable, tuple: &FiveTuple) -> Option<bool> {
        let hash = tuple.table_hash(self.seed);
        self.slab.find(hash, |entry| entry.tuple == *tuple).map(|(_, connection)| connection.is_pinned(services))
    }

    /// Those connections that `services` would put elsewhere.
    pub fn pinned<'a>(
        &'a self,
        now: Instant,
        services: &'a ServiceTable,
    ) -> impl Iterator<Item = ConnectionReport> + 'a {
        self.reports(now, services).filter(|report| report.pinned)
    }

    /// All connections that are not expired.
    pub fn reports<'a>(
        &'a self,
        now: Instant,
        services: &'a ServiceTable,
    ) -> impl Iterator<Item = ConnectionReport> + 'a {
        self.slab.iter().filter(move |connection| !connection.is_expired(now, &self.timeouts)).map(move |connection| {
            ConnectionReport {
                tuple: connection.tuple,
                target: connection.target,
                state: connection.state,
                age: now.saturating_duration_since(connection.created),
                idle: now.saturating_duration_since(connection.last_packet),
                to_target: connection.to_target,
                to_remote: connection.to_remote,
                pinned: connection.is_pinned(services),
            }
        })
    }
}

#[cfg(test)]
mod tests;
