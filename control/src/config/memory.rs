//! How packet memory is divided: what the ports' queues always have, and what may wait in a worker's.
//!
//! A packet that waits (for a grant, for its connection's record, for the end of a move, to leave) keeps its buffer. All of them come
//! from one pool, so what waits must leave the ports enough to receive with: an empty pool would lose everybody's packets, those that say
//! that an appliance lives among them.

use super::error::Reason;
use super::model::Eal;
use super::read::Section;

/// What a buffer takes: a packet, its headroom and what DPDK knows of it, rounded up, in bytes.
const BUFFER_BYTES: u64 = 2560;
/// The share of `memory_mib` that buffers take; rings, descriptors and the allocator need the rest.
const BUFFERS_SHARE: u64 = 2;
const MIB: u64 = 1 << 20;
/// Places of each queue of a port, each way. Those to receive with are never empty.
pub const DESCRIPTORS: u16 = 1024;
/// What else a worker has of buffers: those that it keeps at hand, fragments, packets to neighbours that don't answer.
const OTHERS: u64 = 1024;
/// Queues of a worker in which packets wait, beside one for each port: above the horizon, for a record, for the end of a move.
const WAITING_QUEUES: u64 = 3;
/// Most packets in each of them: those of half a second, at 16,000 a second.
const WAITING_PACKETS_MAX: u64 = 8192;
/// With fewer, every takeover loses packets.
const WAITING_PACKETS_MIN: u64 = 256;

/// How packet memory is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PacketMemory {
    /// Buffers of the pool.
    pub buffers: u32,
    /// Most packets in each queue of a worker in which they wait.
    pub waiting_packets_max: usize,
}

impl PacketMemory {
    /// That much, among so many workers and ports.
    pub fn of(memory_mib: u32, workers: usize, ports: usize) -> Self {
        let (taken, queues) = demand(workers, ports);
        // More would be of no use.
        let buffers =
            (u64::from(memory_mib) * MIB / BUFFERS_SHARE / BUFFER_BYTES).min(taken + queues * WAITING_PACKETS_MAX);
        let waiting_packets_max = buffers.saturating_sub(taken) / queues;
        Self { buffers: buffers as u32, waiting_packets_max: waiting_packets_max as usize }
    }
}

/// Buffers that are not there to wait, and queues in which they may.
fn demand(workers: usize, ports: usize) -> (u64, u64) {
    let (workers, ports) = (workers.max(1) as u64, ports as u64);
    (workers * (ports * 2 * u64::from(DESCRIPTORS) + OTHERS), workers * (WAITING_QUEUES + ports))
}

/// Does packet memory hold enough for so many workers and ports?
pub(super) fn check(root: &Section, eal: &Eal, workers: usize, ports: usize) {
    let (taken, queues) = demand(workers, ports);
    let least = (taken + queues * WAITING_PACKETS_MIN) * BUFFER_BYTES * BUFFERS_SHARE;
    let least_mib = least.div_ceil(MIB);
    if u64::from(eal.memory_mib) >= least_mib {
        return;
    }
    let reason = Reason::TooLittleMemory { memory_mib: eal.memory_mib, workers, ports, least_mib };
    match root.optional("eal").and_then(|field| field.table()) {
        Some(section) => section.report("memory_mib", reason),
        None => root.report("eal", reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Held by one worker for a quarter of a second: what comes both ways at 10,000 a second each.
    #[test]
    fn the_default_memory_holds_what_comes_during_a_takeover() {
        assert!(PacketMemory::of(256, 1, 2).waiting_packets_max >= 2 * 10_000 / 4);
    }

    #[test]
    fn what_waits_leaves_the_ports_enough_to_receive_with() {
        for (memory_mib, workers, ports) in [(64, 1, 2), (128, 3, 2), (256, 4, 3), (65_536, 32, 16)] {
            let memory = PacketMemory::of(memory_mib, workers, ports);
            let all_wait = workers * (3 + ports) * memory.waiting_packets_max;
            let received = workers * ports * 2 * usize::from(DESCRIPTORS);
            assert!(all_wait + received <= memory.buffers as usize);
            assert!(u64::from(memory.buffers) * BUFFER_BYTES <= u64::from(memory_mib) * MIB / 2);
        }
    }
}
