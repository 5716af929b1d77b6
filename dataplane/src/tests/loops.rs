//! The worker's loop on a thread, with ports made of queues.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use vipsec_wire::buffer::{PacketBuf, VecBuf, VecPool, VecPort};
use vipsec_wire::ethernet::{EtherType, Header};

use super::peer::{Peer, child};
use super::scene::*;
use crate::api::{Command, Event, Steering, VipState, WorkerId};
use crate::counters::Counters;
use crate::deadline::Deadline;
use crate::drops::Tally;
use crate::mesh::Mesh;
use crate::run::{Polling, Ties, run};
use crate::worker::{Worker, WorkerConfig};

struct Running {
    outside: VecPort,
    commands: Sender<Command>,
    events: Receiver<Event>,
    counters: Arc<Counters>,
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<()>,
}

fn start(polling: Polling, events_max: usize) -> Running {
    start_with(VecPort::new(256), polling, events_max)
}

fn start_with(near: VecPort, polling: Polling, events_max: usize) -> Running {
    let counters = Arc::new(Counters::default());
    let deadline = Deadline::never(Instant::now());
    let config = WorkerConfig::default();
    let worker = Worker::new(&config, Arc::new(tables()), deadline, counters.clone(), VecPool::new(1024));
    let inside = VecPort::new(256);
    let outside = near.other_end();
    let (commands, command_queue) = bounded(256);
    let (event_queue, events) = bounded(events_max);
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let thread = std::thread::spawn(move || {
        let mut ports = [(OUTSIDE, near), (INSIDE, inside)];
        let ties = Ties { commands: command_queue, events: event_queue, mesh: Mesh::none() };
        run(worker, &mut ports, ties, Instant::now, polling, &stopped);
    });
    Running { outside, commands, events, counters, stop, thread }
}

fn take(outside: &VecPort) -> VecBuf {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        match outside.take() {
            Some(frame) => return frame,
            None if Instant::now() > end => panic!("nothing came"),
            None => std::thread::sleep(Duration::from_micros(100)),
        }
    }
}

impl Running {
    fn receive(&self) -> VecBuf {
        take(&self.outside)
    }

    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
    }
}

#[test]
fn moves_packets_commands_and_events() {
    for polling in [Polling::Busy, Polling::ADAPTIVE] {
        let running = start(polling, 64);
        let mut peer = Peer::new(child(1));
        running.commands.send(peer.install()).unwrap();
        let installed = running.events.recv_timeout(Duration::from_secs(10)).unwrap();
        assert!(matches!(installed, Event::ChildInstalled(_)));
        running.outside.send(VecBuf::from_bytes(&peer.seal(&echo_request(REMOTE, VIP)))).unwrap();
        /* who has the router? --> */
        let request = running.receive();
        let (header, payload) = Header::parse(request.data()).unwrap();
        assert_eq!(header.ethertype, EtherType::ARP);
        let reply = vipsec_wire::arp::Packet::parse(payload).unwrap().reply_from(ROUTER_MAC).to_frame(OUTSIDE_MAC);
        running.outside.send(VecBuf::from_bytes(&reply)).unwrap();
        /* ESP { echo reply } --> */
        peer.open(running.receive().data());
        assert!(running.counters.tally(Tally::Loops) > 0);
        running.end();
    }
}

/// A takeover would wait for it.
#[test]
fn a_command_wakes_a_worker_that_sleeps() {
    const LONG: Duration = Duration::from_secs(3600);
    let running = start(Polling::Adaptive { spin_rounds: 0, sleep_min: LONG, sleep_max: LONG, busy_max: LONG }, 64);
    while running.counters.tally(Tally::Loops) == 0 {
        std::thread::sleep(Duration::from_micros(100));
    }
    running.commands.send(Peer::new(child(1)).install()).unwrap();
    running.thread.thread().unpark();
    assert!(matches!(running.events.recv_timeout(Duration::from_secs(10)), Ok(Event::ChildInstalled(_))));
    running.stop.store(true, Ordering::Relaxed);
    running.thread.thread().unpark();
    running.thread.join().unwrap();
}

/// The first worker has the port, the second one the SA.
#[test]
fn two_threads_answer_together() {
    let near = VecPort::new(64);
    let outside = near.other_end();
    let (now, stop) = (Instant::now(), Arc::new(AtomicBool::new(false)));
    let mut peer = Peer::new(child(1));
    let meshes = Mesh::between(2, 64);
    let mut threads = Vec::new();
    let mut controls = Vec::new();
    for ((number, mesh), ports) in (0u8..).zip(meshes).zip([vec![(OUTSIDE, near)], Vec::new()]) {
        let config = WorkerConfig::default();
        let (counters, pool) = (Arc::new(Counters::default()), VecPool::new(1024));
        let worker = Worker::new(&config, Arc::new(tables()), Deadline::never(now), counters.clone(), pool)
            .among(WorkerId(number), 2)
            .leaving_by(OUTSIDE, WorkerId::FIRST);
        let (commands, inbox) = bounded(64);
        let (outbox, events) = bounded(64);
        let (mut ports, stop) = (ports, stop.clone());
        let ties = Ties { commands: inbox, events: outbox, mesh };
        threads.push(std::thread::spawn(move || {
            run(worker, &mut ports, ties, Instant::now, Polling::ADAPTIVE, &stop);
        }));
        controls.push((commands, events, counters));
    }
    let steering = Steering {
        spi: peer.spi(),
        worker: WorkerId(1),
        token: 3,
        vip: 0,
        lane: None,
        local_selectors: peer.child.local_selectors.clone(),
        remote_selectors: peer.child.remote_selectors.clone(),
    };
    controls[0].0.send(Command::Steer(Box::new(steering))).unwrap();
    controls[1].0.send(peer.install()).unwrap();
    let limit = Duration::from_secs(10);
    assert!(matches!(controls[0].1.recv_timeout(limit), Ok(Event::Steered { token: 3, .. })));
    assert!(matches!(controls[1].1.recv_timeout(limit), Ok(Event::ChildInstalled(_))));
    outside.send(VecBuf::from_bytes(&peer.seal(&echo_request(REMOTE, VIP)))).unwrap();
    let request = take(&outside);
    let (_, payload) = Header::parse(request.data()).unwrap();
    let reply = vipsec_wire::arp::Packet::parse(payload).unwrap().reply_from(ROUTER_MAC).to_frame(OUTSIDE_MAC);
    outside.send(VecBuf::from_bytes(&reply)).unwrap();
    peer.open(take(&outside).data());
    assert_eq!(controls[0].2.tally(Tally::HandedOver), 1, "the question");
    assert_eq!(controls[1].2.tally(Tally::HandedOver), 2, "the ARP request and the answer");
    stop.store(true, Ordering::Relaxed);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn what_a_device_has_no_room_for_leaves_later_in_order() {
    let running = start_with(VecPort::new(2), Polling::ADAPTIVE, 64);
    for n in 0..50 {
        running.commands.send(Command::SendFrame { port: OUTSIDE, frame: vec![n; 60] }).unwrap();
    }
    for n in 0..50 {
        assert_eq!(running.receive().data(), [n; 60]);
    }
    let counters = running.counters.port(OUTSIDE).unwrap();
    let end = Instant::now() + Duration::from_secs(10);
    while counters.transmitted.packets() < 50 && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!((counters.transmitted.packets(), counters.transmitted.bytes()), (50, 3000));
    running.end();
}

/// A remote peer's packets have numbers: those that were held would be too old behind those that come when the VIP opens.
#[test]
fn what_was_held_goes_before_what_is_newer() {
    const HELD: u8 = 200;
    const LONG: Duration = Duration::from_secs(3600);
    let sleepy = Polling::Adaptive { spin_rounds: 0, sleep_min: LONG, sleep_max: LONG, busy_max: LONG };
    let running = start_with(VecPort::new(512), sleepy, 64);
    let loops = || running.counters.tally(Tally::Loops);
    // Sound asleep, it finds all that waits at once.
    let wake = || {
        running.thread.thread().unpark();
        let mut before = 0;
        while loops() != before || before == 0 {
            before = loops();
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    let tables_with = |state| {
        let mut tables = tables();
        tables.vips[0].state = state;
        Command::Tables { version: 2, tables: Arc::new(tables) }
    };
    let send = |n| {
        let request = to_vip(&echo_request(Ipv4Addr::new(198, 51, 100, n), VIP));
        running.outside.send(VecBuf::from_bytes(&request)).unwrap();
    };
    running.commands.send(tables_with(VipState::HandingOver)).unwrap();
    wake();
    (0..HELD).for_each(send);
    let end = Instant::now() + Duration::from_secs(10);
    while running.counters.tally(Tally::Held) < u64::from(HELD) {
        assert!(Instant::now() < end, "{} held", running.counters.tally(Tally::Held));
        wake();
    }
    (HELD..=u8::MAX).for_each(send);
    running.commands.send(tables_with(VipState::Owned)).unwrap();
    wake();
    let answered: Vec<u8> = (0..=u8::MAX).map(|_| running.receive().data()[33]).collect();
    assert_eq!(answered, (0..=u8::MAX).collect::<Vec<_>>(), "to whom");
    running.stop.store(true, Ordering::Relaxed);
    running.thread.thread().unpark();
    running.thread.join().unwrap();
}

#[test]
fn confirmations_survive_a_full_channel() {
    let running = start(Polling::ADAPTIVE, 1);
    for _ in 0..100 {
        running.commands.send(Command::Tables { version: 7, tables: Arc::new(tables()) }).unwrap();
    }
    for _ in 0..100 {
        let event = running.events.recv_timeout(Duration::from_secs(10)).unwrap();
        assert!(matches!(event, Event::TablesInForce(7)));
    }
    assert_eq!(running.counters.tally(Tally::EventsLost), 0);
    running.end();
}

#[test]
fn what_may_be_lost_is_lost_and_counted() {
    let running = start(Polling::ADAPTIVE, 1);
    let advertisement = frame(VIP_MAC, ROUTER_MAC, EtherType::ADVERTISEMENT, b"x");
    for _ in 0..3 {
        running.outside.send(VecBuf::from_bytes(&advertisement)).unwrap();
    }
    let end = Instant::now() + Duration::from_secs(10);
    while running.counters.tally(Tally::EventsLost) < 2 {
        assert!(Instant::now() < end, "{} lost", running.counters.tally(Tally::EventsLost));
        std::thread::sleep(Duration::from_millis(1));
    }
    running.end();
}

#[test]
fn ends_when_the_control_core_is_gone() {
    let Running { events, commands, thread, .. } = start(Polling::ADAPTIVE, 1);
    drop(events);
    commands.send(Command::Tables { version: 1, tables: Arc::new(tables()) }).unwrap();
    thread.join().unwrap();
}
