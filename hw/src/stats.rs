//! A port's counters, as its driver keeps them.

use std::mem::MaybeUninit;

use vipsec_dpdk_sys as sys;

use crate::netdev;

/// A port's counters since it was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PortStats {
    /// Packets received.
    pub rx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets lost because no descriptor was free: workers too slow.
    pub rx_missed: u64,
    /// Packets received damaged.
    pub rx_errors: u64,
    /// Packets lost because the pool was empty.
    pub rx_no_buffer: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets that the device failed to send.
    pub tx_errors: u64,
}

/// One queue pair's counters since the port was started. A driver that doesn't count by queue leaves them 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QueueStats {
    /// Packets received.
    pub rx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets received damaged, or lost.
    pub rx_errors: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
}

impl From<&sys::rte_eth_stats> for PortStats {
    fn from(stats: &sys::rte_eth_stats) -> Self {
        Self {
            rx_packets: stats.ipackets,
            rx_bytes: stats.ibytes,
            rx_missed: stats.imissed,
            rx_errors: stats.ierrors,
            rx_no_buffer: stats.rx_nombuf,
            tx_packets: stats.opackets,
            tx_bytes: stats.obytes,
            tx_errors: stats.oerrors,
        }
    }
}

/// By queue, as many as DPDK keeps counters for (16).
pub(crate) fn by_queue(stats: &sys::rte_eth_stats, queues: u16) -> Vec<QueueStats> {
    let of = |counters: &[u64], queue| counters.get(queue).copied().unwrap_or_default();
    let queue = |queue| QueueStats {
        rx_packets: of(&stats.q_ipackets, queue),
        rx_bytes: of(&stats.q_ibytes, queue),
        rx_errors: of(&stats.q_errors, queue),
        tx_packets: of(&stats.q_opackets, queue),
        tx_bytes: of(&stats.q_obytes, queue),
    };
    (0..usize::from(queues).min(stats.q_ipackets.len())).map(queue).collect()
}

/// # Safety
/// The port is attached.
pub(crate) unsafe fn read(port: u16) -> sys::rte_eth_stats {
    let mut stats = MaybeUninit::<sys::rte_eth_stats>::zeroed();
    // SAFETY: the port is attached and `stats` is the struct that the call fills; zeroes are valid if it doesn't.
    unsafe {
        sys::rte_eth_stats_get(port, stats.as_mut_ptr());
        stats.assume_init()
    }
}

/// All counters that the driver has, by its own names for them.
///
/// # Safety
/// The port is attached.
pub(crate) unsafe fn read_all(port: u16) -> Vec<(String, u64)> {
    // SAFETY: with no room, the calls only say how many there are.
    let count = unsafe { sys::rte_eth_xstats_get_names(port, std::ptr::null_mut(), 0) };
    let count = usize::try_from(count).unwrap_or(0);
    // SAFETY: plain structs of numbers and bytes, for which zeroes are valid.
    let (mut names, mut values): (Vec<sys::rte_eth_xstat_name>, Vec<sys::rte_eth_xstat>) =
        unsafe { (vec![std::mem::zeroed(); count], vec![std::mem::zeroed(); count]) };
    let room = u32::try_from(count).unwrap_or(0);
    // SAFETY: each array has the room that the call is told; it fills in C strings, or numbers with the place of their name.
    let filled = unsafe {
        sys::rte_eth_xstats_get_names(port, names.as_mut_ptr(), room).min(sys::rte_eth_xstats_get(
            port,
            values.as_mut_ptr(),
            room,
        ))
    };
    let filled = usize::try_from(filled).unwrap_or(0);
    let named = values.iter().take(filled).filter_map(|value| {
        let name = names.get(usize::try_from(value.id).ok()?)?;
        // SAFETY: DPDK ends each name within its array, and an array that it left alone is an empty string.
        Some((unsafe { netdev::owned_text(name.name.as_ptr()) }, value.value))
    });
    named.collect()
}
