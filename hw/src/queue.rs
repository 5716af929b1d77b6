//! The hot path: one receive and one transmit queue of a port.

use std::ptr;
use std::sync::Arc;

use vipsec_dpdk_sys as sys;
use vipsec_wire::buffer::{BURST_MAX, Burst, PortIo};

use crate::mbuf::Mbuf;
use crate::port::PortInner;

/// One receive and one transmit queue of a port, for one worker. Holds the port started.
#[derive(Debug)]
pub struct QueuePair {
    port: Arc<PortInner>,
    port_id: u16,
    queue: u16,
    unusable: u64,
    input: Input,
}

/// A capture file's end is no event in DPDK: its driver returns nothing, just as it does when the pool has no buffer (then it
/// counts). So: an empty poll without such a count since the poll before is the end.
#[derive(Debug)]
enum Input {
    Endless,
    Capture { no_buffer: u64 },
    Ended,
}

impl QueuePair {
    pub(crate) fn new(port: Arc<PortInner>, queue: u16) -> Self {
        let input = if port.input_is_finite() { Input::Capture { no_buffer: 0 } } else { Input::Endless };
        Self { port_id: port.id(), port, queue, unusable: 0, input }
    }

    /// Which pair of the port's this is, from 0.
    pub fn index(&self) -> u16 {
        self.queue
    }

    /// Has the capture file behind this queue been received to its end? Known after the [`PortIo::receive`] that found nothing
    /// more; never true for a queue whose input doesn't end.
    pub fn input_ended(&self) -> bool {
        matches!(self.input, Input::Ended)
    }

    /// Received packets that were dropped because they came in several buffers, or in one that the driver shares, and a buffer of
    /// the pool is too small for them or there was none.
    pub fn unusable_packets(&self) -> u64 {
        self.unusable
    }

    /// After an empty poll of a capture; `before` is the driver's count of packets without a buffer at the last such poll.
    #[cold]
    fn notice_end(&mut self, before: u64) {
        let no_buffer = self.port.raw_stats().rx_nombuf;
        self.input = if no_buffer == before { Input::Ended } else { Input::Capture { no_buffer } };
    }

    /// Makes packets of one segment of everything in the burst, or drops it.
    #[cold]
    fn repair(&mut self, into: &mut Burst<Mbuf>) {
        let before = into.len();
        into.retain(|mbuf| mbuf.is_contiguous_and_ours() || mbuf.flatten(self.port.pool()));
        self.unusable += (before - into.len()) as u64;
    }

    /// Receives and drops what a stopped port's ring would lose.
    ///
    /// # Safety
    /// The port is started and nobody uses its queues.
    pub(crate) unsafe fn drain(port: u16, queues: u16) {
        for queue in 0..queues {
            let mut burst = Burst::<Mbuf>::new();
            // SAFETY: the caller's promise; `receive_raw` as in `PortIo::receive`.
            while unsafe { receive_raw(port, queue, &mut burst) } > 0 {
                burst.clear();
            }
        }
    }
}

/// Receives into the burst's free capacity.
///
/// # Safety
/// The port is started, has that queue, and nobody else receives from it meanwhile.
#[inline]
unsafe fn receive_raw(port: u16, queue: u16, into: &mut Burst<Mbuf>) -> usize {
    const { assert!(size_of::<Mbuf>() == size_of::<*mut sys::rte_mbuf>() && BURST_MAX <= u16::MAX as usize) };
    let (len, room) = (into.len(), into.remaining_capacity());
    // SAFETY: the driver writes at most `room` pointers behind the `len` elements that are there, each to an mbuf that it
    // gives away; Mbuf is a transparent pointer. The drivers fill the array from its start and return how far.
    unsafe {
        let free = into.as_mut_ptr().add(len).cast::<*mut sys::rte_mbuf>();
        let received = usize::from(sys::shim_rte_eth_rx_burst(port, queue, free, room as u16)).min(room);
        into.set_len(len + received);
        received
    }
}

impl PortIo for QueuePair {
    type Buf = Mbuf;

    #[inline]
    fn receive(&mut self, into: &mut Burst<Mbuf>) -> usize {
        let before = into.len();
        if into.is_full() {
            return 0;
        }
        // SAFETY: `self.port` holds the port started, and the queue is only here and `&mut`.
        let received = unsafe { receive_raw(self.port_id, self.queue, into) };
        if received == 0 {
            if let Input::Capture { no_buffer } = self.input {
                self.notice_end(no_buffer);
            }
            return 0;
        }
        let mut are_sound = true;
        for mbuf in into.iter().skip(before) {
            mbuf.prefetch();
            are_sound &= mbuf.is_contiguous_and_ours();
        }
        if !are_sound {
            self.repair(into);
        }
        into.len() - before
    }

    #[inline]
    fn transmit(&mut self, packets: &mut Burst<Mbuf>) -> usize {
        let len = packets.len();
        // SAFETY: `self.port` holds the port started, and the queue is only here and `&mut`. The array holds `len` mbufs, of
        // which the driver takes over those from the start that it counts; the rest moves down and stays ours.
        // The length is 0 meanwhile, so nothing is dropped twice whatever happens in between.
        unsafe {
            let start = packets.as_mut_ptr();
            packets.set_len(0);
            let mbufs = start.cast::<*mut sys::rte_mbuf>();
            let sent = usize::from(sys::shim_rte_eth_tx_burst(self.port_id, self.queue, mbufs, len as u16)).min(len);
            if sent < len {
                ptr::copy(start.add(sent), start, len - sent);
            }
            packets.set_len(len - sent);
            sent
        }
    }
}
