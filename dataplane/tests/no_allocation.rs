//! Packets cost no memory from the heap, in the clear or through tunnels, on the core or in a crypto device, both ways.

#[path = "../benches/support/mod.rs"]
mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use support::{BoxBuf, INSIDE, OUTSIDE, ROUTER_MAC, Scene, VIP_MAC, Way, framed, from_remote, from_target, sealed};
use vipsec_wire::buffer::{BURST_MAX, Burst};

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

/// SAs, and remote hosts with a connection each.
const HOSTS: usize = 4 * BURST_MAX;

#[test]
fn a_packet_costs_no_allocation() {
    for way in [Way::Clear, Way::Tunnel, Way::Lookaside] {
        let mut scene = Scene::new(HOSTS, way);
        // The first round opens the connections and makes the paths.
        for round in 0..3 {
            for first in (0..HOSTS).step_by(BURST_MAX) {
                let mut inbound = Burst::new();
                let mut outbound = Burst::new();
                for n in first..first + BURST_MAX {
                    let (mut query, mut answer) = (BoxBuf::new(), BoxBuf::new());
                    match way {
                        Way::Clear => query.fill(&framed(VIP_MAC, ROUTER_MAC, &from_remote(n, 200))),
                        Way::Tunnel | Way::Lookaside => sealed(&mut scene.far[n], n, 200, &mut query),
                    }
                    answer.fill(&from_target(n, 200));
                    inbound.push(query);
                    outbound.push(answer);
                }
                let (mut to_target, mut to_remote) = (Burst::new(), Burst::new());
                let before = ALLOCATIONS.get();
                scene.worker.handle_burst(scene.now, OUTSIDE, inbound);
                while scene.worker.handle_completions(scene.now) > 0 {}
                scene.worker.poll_transmit(scene.now, INSIDE, &mut to_target);
                scene.worker.handle_burst(scene.now, INSIDE, outbound);
                while scene.worker.handle_completions(scene.now) > 0 {}
                scene.worker.poll_transmit(scene.now, OUTSIDE, &mut to_remote);
                let allocations = ALLOCATIONS.get() - before;
                assert_eq!((to_target.len(), to_remote.len()), (BURST_MAX, BURST_MAX), "{:?}", scene.drops());
                if round > 0 {
                    assert_eq!(allocations, 0);
                }
            }
        }
    }
}
