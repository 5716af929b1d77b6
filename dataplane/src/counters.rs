//! A worker's counters: written by the worker alone, read by the control core at any time.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::api::PortId;
use crate::drops::{DropReason, Tally};

/// Most ports that a worker counts for.
pub const PORTS_MAX: usize = 16;

/// A number with one writer and any number of readers.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds. Only the worker that owns the counter may: load and store are two steps, which spares the locked instruction.
    pub(crate) fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Reads.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Packets and bytes.
#[derive(Debug, Default)]
pub struct TrafficCounter {
    packets: Counter,
    bytes: Counter,
}

impl TrafficCounter {
    pub(crate) fn count(&self, bytes: usize) {
        self.add(1, bytes);
    }

    pub(crate) fn add(&self, packets: usize, bytes: usize) {
        self.packets.add(packets as u64);
        self.bytes.add(bytes as u64);
    }

    /// Packets.
    pub fn packets(&self) -> u64 {
        self.packets.get()
    }

    /// Bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes.get()
    }
}

/// Frames of one port, in bytes without FCS.
#[derive(Debug, Default)]
pub struct PortCounters {
    /// Received, dropped ones included.
    pub received: TrafficCounter,
    /// Handed to the port.
    pub transmitted: TrafficCounter,
}

/// All counters of one worker. Aligned so that two workers' never share a cache line (64 bytes, fetched in pairs).
#[derive(Debug)]
#[repr(align(128))]
pub struct Counters {
    drops: [Counter; DropReason::COUNT],
    tallies: [Counter; Tally::COUNT],
    ports: [PortCounters; PORTS_MAX],
    /// ESP packets that were authentic and delivered; bytes of the packets inside.
    pub esp_in: TrafficCounter,
    /// ESP packets sealed; bytes of the packets inside.
    pub esp_out: TrafficCounter,
    /// Packets handed to targets, IP bytes.
    pub to_targets: TrafficCounter,
    /// Packets of targets handed to tunnels, IP bytes.
    pub to_remotes: TrafficCounter,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            drops: std::array::from_fn(|_| Counter::default()),
            tallies: std::array::from_fn(|_| Counter::default()),
            ports: std::array::from_fn(|_| PortCounters::default()),
            esp_in: TrafficCounter::default(),
            esp_out: TrafficCounter::default(),
            to_targets: TrafficCounter::default(),
            to_remotes: TrafficCounter::default(),
        }
    }
}

impl Counters {
    /// Packets dropped for that reason.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops.get(reason as usize).map_or(0, Counter::get)
    }

    /// How often that happened.
    pub fn tally(&self, tally: Tally) -> u64 {
        self.tallies.get(tally as usize).map_or(0, Counter::get)
    }

    /// A port's frames; `None` beyond [`PORTS_MAX`].
    pub fn port(&self, port: PortId) -> Option<&PortCounters> {
        self.ports.get(usize::from(port.0))
    }

    /// Every reason with its count.
    pub fn drops(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL.iter().map(|&reason| (reason, self.dropped(reason)))
    }

    /// Every other count.
    pub fn tallies(&self) -> impl Iterator<Item = (Tally, u64)> + '_ {
        Tally::ALL.iter().map(|&tally| (tally, self.tally(tally)))
    }

    pub(crate) fn count_drops(&self, reason: DropReason, packets: usize) {
        if let Some(counter) = self.drops.get(reason as usize) {
            counter.add(packets as u64);
        }
    }

    pub(crate) fn count(&self, tally: Tally) {
        self.count_many(tally, 1);
    }

    pub(crate) fn count_many(&self, tally: Tally, n: usize) {
        if let Some(counter) = self.tallies.get(tally as usize) {
            counter.add(n as u64);
        }
    }
}
