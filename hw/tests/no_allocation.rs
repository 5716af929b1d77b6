//! Receiving, changing and sending packets never asks the allocator for memory.

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use vipsec_hw::{Mempool, MempoolOptions, Port, PortOptions};
use vipsec_wire::buffer::{BURST_MAX, Burst, PacketBuf, PortIo};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: the system's allocator, with a thread's own counter beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn the_hot_path_allocates_nothing() {
    let eal = support::eal("no_allocation");
    let pool = Mempool::new(&eal, &MempoolOptions { buffers: 1023, ..MempoolOptions::new("packets") }).unwrap();
    let (port, mut queues) = Port::start(&eal, "net_ring0", &pool, &PortOptions::default()).unwrap();
    let queue = queues.first_mut().unwrap();
    let mut burst = Burst::new();

    let before = ALLOCATIONS.get();
    assert!(before > 0, "the counter works");
    for _ in 0..100 {
        while let Some(packet) = (!burst.is_full()).then(|| pool.alloc()).flatten() {
            burst.push(packet);
        }
        for packet in &mut burst {
            packet.append(60).unwrap();
            packet.prepend(20).unwrap();
            packet.data_mut().fill(1);
        }
        queue.transmit(&mut burst);
        queue.receive(&mut burst);
        burst.clear();
    }
    assert_eq!(ALLOCATIONS.get(), before);
    assert_eq!(port.stats().rx_packets, 100 * BURST_MAX as u64);
}
