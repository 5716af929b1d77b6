//! Packets cost no memory from the heap, in the clear or through tunnels, on the core or in a crypto device, both ways.

#[path = "../benches/support/mod.rs"]
mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use support::{BoxBuf, INSIDE, OUTSIDE, ROUTER_MAC, Scene, VIP_MAC, Way, framed, from_remote, from_target, sealed};
use vipsec_dataplane::api::{Command, Event, Steering, WorkerId};
use vipsec_dataplane::drops::Tally;
use vipsec_dataplane::mesh::Mesh;
use vipsec_dataplane::worker::WorkerConfig;
use vipsec_distribute::service::{Method, ServiceTable};
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

/// What a successor is told of, and what waits for that, goes in what was allocated at the start.
#[test]
fn a_connection_that_is_pinned_costs_no_allocation() {
    let mut tables = support::tables();
    let mut service = tables.services.services()[0].clone();
    service.method = Method::WeightedRoundRobin;
    tables.services = ServiceTable::new(tables.services.targets().to_vec(), vec![service]).unwrap().into();
    let config = WorkerConfig { pins: true, ..WorkerConfig::default() };
    let mut scene = Scene::made(HOSTS, Way::Tunnel, tables, &config, |worker| worker);
    for (round, first) in (0..HOSTS).step_by(BURST_MAX).enumerate() {
        let mut inbound = Burst::new();
        for n in first..first + BURST_MAX {
            let mut query = BoxBuf::new();
            sealed(&mut scene.far[n], n, 200, &mut query);
            inbound.push(query);
        }
        let (mut held, mut released) = (Burst::new(), Burst::new());
        let before = ALLOCATIONS.get();
        scene.worker.handle_burst(scene.now, OUTSIDE, inbound);
        scene.worker.poll_transmit(scene.now, INSIDE, &mut held);
        let mut batches = 0;
        while let Some(event) = scene.worker.poll_event() {
            if let Event::Pins(batch) = event {
                batches += 1;
                scene.worker.handle_command(scene.now, Command::PinsKnown(batch));
            }
        }
        scene.worker.poll_transmit(scene.now, INSIDE, &mut released);
        let allocations = ALLOCATIONS.get() - before;
        assert_eq!((held.len(), released.len(), batches), (0, BURST_MAX, 1), "{:?}", scene.drops());
        if round > 0 {
            assert_eq!(allocations, 0);
        }
    }
}

/// Neither does the grant that it waits for.
#[test]
fn a_packet_that_is_parked_costs_no_allocation() {
    let mut scene = Scene::new(HOSTS, Way::Tunnel);
    let spis: Vec<_> = (0..HOSTS).map(|n| support::child(n).inbound.spi).collect();
    for n in 0..HOSTS {
        let mut bound = support::child(n);
        bound.inbound.horizon = 0;
        scene.worker.handle_command(scene.now, Command::InstallChild(Box::new(bound)));
    }
    while scene.worker.poll_event().is_some() {}
    for horizon in 1..4 {
        let mut packets: Vec<Burst<BoxBuf>> = Vec::new();
        for first in (0..HOSTS).step_by(BURST_MAX) {
            let mut burst = Burst::new();
            for n in first..first + BURST_MAX {
                let mut query = BoxBuf::new();
                sealed(&mut scene.far[n], n, 200, &mut query);
                burst.push(query);
            }
            packets.push(burst);
        }
        let (mut sent, before) = (0, ALLOCATIONS.get());
        for burst in packets.drain(..) {
            scene.worker.handle_burst(scene.now, OUTSIDE, burst);
            while scene.worker.poll_event().is_some() {}
        }
        let mut delivered = Burst::new();
        scene.worker.poll_transmit(scene.now, INSIDE, &mut delivered);
        assert!(delivered.is_empty(), "all are parked");
        for spi in spis.iter().copied() {
            scene.worker.handle_command(scene.now, Command::Grant { spi, horizon, lease: u64::MAX });
            while scene.worker.poll_event().is_some() {}
        }
        loop {
            let mut burst = Burst::new();
            scene.worker.poll_transmit(scene.now, INSIDE, &mut burst);
            if burst.is_empty() {
                break;
            }
            sent += burst.len();
        }
        let allocations = ALLOCATIONS.get() - before;
        assert_eq!(sent, HOSTS, "{:?}", scene.drops());
        // The first round opens the connections and makes the paths.
        if horizon > 1 {
            assert_eq!(allocations, 0);
        }
    }
}

/// Every SA is on the first of two workers, and everything arrives at the second one. The connections are at their hash, so some packets
/// cross a second time.
#[test]
fn a_packet_that_is_handed_over_costs_no_allocation() {
    let mut scenes = [0, 1].map(|number| {
        let way = if number == 0 { Way::Tunnel } else { Way::Clear };
        Scene::with(HOSTS, way, |worker| worker.among(WorkerId(number), 2))
    });
    for n in 0..HOSTS {
        let child = support::child(n);
        let steering = Steering {
            spi: child.inbound.spi,
            worker: WorkerId::FIRST,
            token: 0,
            vip: child.vip,
            lane: None,
            local_selectors: child.local_selectors,
            remote_selectors: child.remote_selectors,
        };
        scenes[1].worker.handle_command(scenes[1].now, Command::Steer(Box::new(steering)));
    }
    let mut meshes = Mesh::between(2, 4 * BURST_MAX);
    let [first, second] = &mut scenes;
    for round in 0..3 {
        for at in (0..HOSTS).step_by(BURST_MAX) {
            let (mut inbound, mut outbound) = (Burst::new(), Burst::new());
            for n in at..at + BURST_MAX {
                let (mut query, mut answer) = (BoxBuf::new(), BoxBuf::new());
                sealed(&mut first.far[n], n, 200, &mut query);
                answer.fill(&from_target(n, 200));
                inbound.push(query);
                outbound.push(answer);
            }
            let mut counts = Vec::with_capacity(2);
            let before = ALLOCATIONS.get();
            for (port, out, burst) in [(OUTSIDE, INSIDE, inbound), (INSIDE, OUTSIDE, outbound)] {
                let mut count = 0;
                second.worker.handle_burst(second.now, port, burst);
                for _ in 0..2 {
                    for (mesh, scene) in meshes.iter_mut().rev().zip([&mut *second, &mut *first]) {
                        let now = scene.now;
                        mesh.put(&mut scene.worker);
                        mesh.take(&mut scene.worker, &mut || now);
                        mesh.put(&mut scene.worker);
                        let mut leaving = Burst::new();
                        scene.worker.poll_transmit(now, out, &mut leaving);
                        count += leaving.len();
                    }
                }
                counts.push(count);
            }
            let allocations = ALLOCATIONS.get() - before;
            assert_eq!(counts, [BURST_MAX; 2], "{:?} {:?}", first.drops(), second.drops());
            if round > 0 {
                assert_eq!(allocations, 0);
            }
        }
    }
    let [first, second] = scenes.map(|scene| scene.worker.counters().tally(Tally::HandedOver));
    assert_eq!(second, 6 * HOSTS as u64, "all that arrived");
    assert!(first > 0, "what was decrypted, to its connection");
}
