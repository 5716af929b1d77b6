//! Connections as an operator sees them.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::entry::Entry;
use super::state::{ConnectionState, Direction};
use super::{ConnectionTable, Traffic};
use crate::tuple::FiveTuple;

/// A connection as an operator sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionReport {
    /// Which one.
    pub tuple: FiveTuple,
    /// Its target.
    pub target: IpAddr,
    /// How far it has come.
    pub state: ConnectionState,
    /// Time since its first packet, in whole seconds.
    pub age: Duration,
    /// Time since its last packet, in milliseconds.
    pub idle: Duration,
    /// From the remote host to the target.
    pub to_target: Traffic,
    /// From the target to the remote host.
    pub to_remote: Traffic,
    /// Would the services in force choose another target? Then a successor can't compute it and has to be told.
    pub pinned: bool,
}

impl ConnectionTable {
    /// All connections that are not over.
    pub fn reports(&self, now: Instant) -> impl Iterator<Item = ConnectionReport> + '_ {
        self.places.iter().filter_map(move |entry| self.report(now, entry))
    }

    /// Those connections that a successor couldn't compute.
    pub fn pinned(&self, now: Instant) -> impl Iterator<Item = ConnectionReport> + '_ {
        self.reports(now).filter(|report| report.pinned)
    }

    /// Would the services in force choose another target for this connection than the one it is on? `None` when it isn't known.
    pub fn is_pinned(&self, tuple: &FiveTuple) -> Option<bool> {
        let entry = self.entry_of(tuple)?;
        Some(self.needs_pin(tuple, self.targets.get(entry.target)?.address))
    }

    fn report(&self, now: Instant, entry: &Entry) -> Option<ConnectionReport> {
        let now = self.clock.moment(now);
        if self.is_over(entry, now.tick) {
            return None;
        }
        let tuple = self.tuple(&entry.key)?;
        let target = self.targets.get(entry.target)?.address;
        Some(ConnectionReport {
            tuple,
            target,
            state: entry.state,
            age: Duration::from_secs(now.second.wrapping_sub(entry.created).into()),
            idle: Duration::from_millis(now.tick.since(entry.last_packet).into()),
            to_target: entry.traffic(Direction::ToTarget),
            to_remote: entry.traffic(Direction::ToRemote),
            pinned: self.needs_pin(&tuple, target),
        })
    }
}
