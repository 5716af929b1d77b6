//! Rule R6: no packet goes to a target to which a successor wouldn't send the next one.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use vipsec_distribute::connection::{Limits, PinEvent};
use vipsec_distribute::service::{Method, Origin, Service, ServiceTable, TargetState};
use vipsec_distribute::tuple::FiveTuple;
use vipsec_wire::ethernet::{Header, MacAddr};
use vipsec_wire::ip::protocol;
use vipsec_wire::tcp::Flags;

use super::crew::Crew;
use super::peer::{Peer, child, selector};
use super::scene::*;
use crate::api::{Command, Event, PinBatch, RESTORED_MAX, RestoredPin, Tables, VipState};
use crate::drops::{DropReason, Tally};
use crate::waiting::WAITING_TIME_MAX;
use crate::worker::WorkerConfig;

fn config() -> WorkerConfig {
    WorkerConfig { pins: true, ..WorkerConfig::default() }
}

/// Every service in turns: each of its UDP flows is pinned.
fn in_turns() -> Tables {
    let hashed = services([TargetState::Up; 2]);
    let turn = |service: &Service| Service { method: Method::WeightedRoundRobin, ..service.clone() };
    let services = hashed.services().iter().map(turn).collect();
    Tables { services: ServiceTable::new(hashed.targets().to_vec(), services).unwrap().into(), ..tables() }
}

fn scene_with(config: &WorkerConfig) -> (Scene, Peer) {
    let mut scene = Scene::with(in_turns(), config);
    let peer = Peer::new(child(1));
    scene.command(peer.install());
    scene.events();
    (scene, peer)
}

fn scene() -> (Scene, Peer) {
    scene_with(&config())
}

/// A datagram from that port, whose last byte is `n`.
fn datagram(peer: &mut Peer, port: u16, n: u8) -> Vec<u8> {
    peer.seal(&udp((REMOTE, port), (VIP, 53), &[n]))
}

#[expect(clippy::vec_box, reason = "each goes back in its box")]
fn batches(scene: &mut Scene) -> Vec<Box<PinBatch>> {
    let batch = |event| if let Event::Pins(batch) = event { Some(batch) } else { None };
    scene.events().into_iter().filter_map(batch).collect()
}

fn one_batch(scene: &mut Scene) -> Box<PinBatch> {
    let mut all = batches(scene);
    assert_eq!(all.len(), 1);
    all.remove(0)
}

/// The last byte of each frame.
fn order(frames: &[Vec<u8>]) -> Vec<u8> {
    frames.iter().filter_map(|frame| frame.last().copied()).collect()
}

fn destination(frame: &[u8]) -> MacAddr {
    Header::parse(frame).unwrap().0.destination
}

#[test]
fn a_connection_waits_until_its_record_is_acknowledged() {
    let (mut scene, mut peer) = scene();
    let burst: Vec<_> = (1..=3).map(|n| datagram(&mut peer, 40000 + u16::from(n) % 2, n)).collect();
    scene.receive_burst(OUTSIDE, &burst);
    assert!(scene.sent_with_arp(INSIDE).is_empty());
    let batch = one_batch(&mut scene);
    assert_eq!((batch.vip, batch.pins.len()), (0, 2), "one for a connection");
    let late = datagram(&mut peer, 40000, 4);
    scene.receive(OUTSIDE, &late);
    assert!(scene.sent_with_arp(INSIDE).is_empty() && batches(&mut scene).is_empty());
    scene.command(Command::PinsKnown(batch));
    let frames = scene.sent_with_arp(INSIDE);
    let of_flow = |flow: u8| -> Vec<u8> { order(&frames).into_iter().filter(|n| n % 2 == flow).collect() };
    assert_eq!((of_flow(1), of_flow(0)), (vec![1, 3], vec![2, 4]), "in order");
    let last = datagram(&mut peer, 40001, 5);
    scene.receive(OUTSIDE, &last);
    assert_eq!(order(&scene.sent_with_arp(INSIDE)), [5]);
    assert_eq!((scene.counters.tally(Tally::PinWaits), scene.counters.tally(Tally::PinReleased)), (4, 4));
    assert_eq!(scene.counters.to_targets.packets(), 5, "each is counted once");
    scene.assert_nothing_dropped();
}

#[test]
fn what_a_successor_computes_waits_for_nobody() {
    let mut scene = Scene::with(tables(), &config());
    let mut peer = Peer::new(child(1));
    scene.command(peer.install());
    let frame = datagram(&mut peer, 40000, 1);
    scene.receive(OUTSIDE, &frame);
    assert_eq!(scene.sent_with_arp(INSIDE).len(), 1);
    assert!(batches(&mut scene).is_empty());
}

#[test]
fn nobody_is_told_where_no_successor_can_come() {
    let (mut scene, mut peer) = scene_with(&WorkerConfig::default());
    let frame = datagram(&mut peer, 40000, 1);
    scene.receive(OUTSIDE, &frame);
    assert_eq!(scene.sent_with_arp(INSIDE).len(), 1);
    assert!(batches(&mut scene).is_empty());
}

#[test]
fn the_queue_of_packets_is_bounded() {
    let (mut scene, mut peer) = scene_with(&WorkerConfig { unpinned_packets_max: 2, ..config() });
    let burst: Vec<_> = (1..=3).map(|n| datagram(&mut peer, 40000, n)).collect();
    scene.receive_burst(OUTSIDE, &burst);
    scene.assert_dropped(DropReason::PinQueueFull);
    let batch = one_batch(&mut scene);
    scene.command(Command::PinsKnown(batch));
    assert_eq!(order(&scene.sent_with_arp(INSIDE)), [1, 2]);
}

/// However many connections begin while the store is slow, what is under way to it is bounded, and none is forgotten.
#[test]
fn what_is_under_way_to_the_store_is_bounded() {
    let connections = Limits { pin_events_max: 16, ..Limits::default() };
    let (mut scene, mut peer) = scene_with(&WorkerConfig { connections, unpinned_packets_max: 4096, ..config() });
    let mut sent = 0;
    for port in 0..2000 {
        let frame = datagram(&mut peer, 30000 + port, 1);
        scene.receive(OUTSIDE, &frame);
        sent += 1;
    }
    let mut first = batches(&mut scene);
    assert_eq!(first.iter().map(|batch| batch.pins.len()).sum::<usize>(), first.len(), "each went at once");
    assert!(first.len() < 100, "{}", first.len());
    let mut arrived = 0;
    while arrived < sent {
        for batch in std::mem::take(&mut first) {
            scene.command(Command::PinsKnown(batch));
        }
        arrived += scene.sent_with_arp(INSIDE).len();
        first = batches(&mut scene);
        if first.is_empty() {
            scene.advance(Duration::from_millis(1));
            first = batches(&mut scene);
        }
    }
    scene.assert_nothing_dropped();
}

#[test]
fn who_has_waited_too_long_is_not_delivered() {
    let (mut scene, mut peer) = scene();
    let frame = datagram(&mut peer, 40000, 1);
    scene.receive(OUTSIDE, &frame);
    let batch = one_batch(&mut scene);
    scene.advance(WAITING_TIME_MAX);
    scene.assert_dropped(DropReason::PinTooLong);
    scene.command(Command::PinsKnown(batch));
    assert!(scene.sent_with_arp(INSIDE).is_empty());
}

#[test]
fn past_the_deadline_nothing_is_released() {
    let (mut scene, mut peer) = scene();
    let frame = datagram(&mut peer, 40000, 1);
    scene.receive(OUTSIDE, &frame);
    let batch = one_batch(&mut scene);
    scene.deadline.expire();
    scene.command(Command::PinsKnown(batch));
    scene.deadline.lift();
    scene.assert_dropped(DropReason::DeadlinePassed);
}

#[test]
fn a_vip_that_was_lost_in_the_meantime_gets_nothing() {
    let (mut scene, mut peer) = scene();
    let frame = datagram(&mut peer, 40000, 1);
    scene.receive(OUTSIDE, &frame);
    let batch = one_batch(&mut scene);
    let mut lost = in_turns();
    lost.vips[0].state = VipState::Elsewhere;
    scene.use_tables(lost);
    scene.command(Command::ForgetConnections(0));
    scene.assert_dropped(DropReason::VipNotOwned);
    scene.command(Command::PinsAbandoned(batch));
    assert!(scene.sent_with_arp(INSIDE).is_empty());
    // It comes back, without what it was.
    scene.use_tables(in_turns());
    let frame = datagram(&mut peer, 40000, 2);
    scene.receive(OUTSIDE, &frame);
    let batch = one_batch(&mut scene);
    scene.command(Command::PinsKnown(batch));
    assert_eq!(order(&scene.sent_with_arp(INSIDE)), [2]);
}

/// What was admitted here is seen by a successor as delivered: it has to be.
#[test]
fn a_vip_stops_when_no_packet_waits_any_more() {
    let (mut scene, mut peer) = scene();
    let frame = datagram(&mut peer, 40000, 1);
    scene.receive(OUTSIDE, &frame);
    let batch = one_batch(&mut scene);
    let mut leaving = in_turns();
    leaving.vips[0].state = VipState::HandingOver;
    scene.use_tables(leaving);
    let confirmed = |scene: &mut Scene| scene.events().iter().any(|event| matches!(event, Event::TablesInForce(2)));
    assert!(!confirmed(&mut scene));
    scene.command(Command::PinsKnown(batch));
    assert_eq!(order(&scene.sent_with_arp(INSIDE)), [1]);
    assert!(confirmed(&mut scene));
}

#[test]
fn other_services_are_ready_when_what_they_would_move_is_acknowledged() {
    let mut scene = Scene::with(tables(), &config());
    let mut peer = Peer::new(child(1));
    scene.command(peer.install());
    let ports = 40000..40200;
    let mut before = Vec::new();
    for port in ports.clone() {
        let frame = peer.seal(&tcp((REMOTE, port), (VIP, 80), Flags::SYN, b""));
        scene.receive(OUTSIDE, &frame);
        before.push(destination(&scene.one_sent_with_arp(INSIDE)));
    }
    scene.events();
    let next: Arc<ServiceTable> = services([TargetState::Drain, TargetState::Up]).into();
    scene.command(Command::Announce { version: 7, services: next.clone() });
    let ready = |events: &[Event]| events.iter().any(|event| matches!(event, Event::ServicesPinned(7)));
    let mut pinned = 0;
    let mut is_ready = false;
    for _ in 0..100 {
        scene.advance(Duration::from_millis(1));
        for event in scene.events() {
            is_ready |= ready(std::slice::from_ref(&event));
            if let Event::Pins(batch) = event {
                assert!(!is_ready);
                pinned += batch.pins.len();
                scene.command(Command::PinsKnown(batch));
            }
        }
    }
    assert!(is_ready);
    assert_eq!(pinned, before.iter().filter(|mac| **mac == TARGET_MACS[0]).count());
    scene.use_tables(Tables { services: next, ..tables() });
    for (port, mac) in ports.zip(before) {
        let frame = peer.seal(&tcp((REMOTE, port), (VIP, 80), Flags::ACK, b""));
        scene.receive(OUTSIDE, &frame);
        assert_eq!(destination(&scene.one_sent_with_arp(INSIDE)), mac);
    }
}

fn restored(remote: Ipv4Addr, port: u16, target: usize) -> RestoredPin {
    let tuple =
        FiveTuple { protocol: protocol::UDP, remote: remote.into(), remote_port: port, vip: VIP.into(), vip_port: 53 };
    RestoredPin { vip: 0, tuple, origin: Origin::Decrypted, target: TARGETS[target].into() }
}

#[test]
fn a_restored_connection_goes_on_and_its_record_goes_with_it() {
    let (mut scene, mut peer) = scene();
    let pins: Vec<_> = (0..8).map(|n| restored(REMOTE, 40000 + n, usize::from(n % 3 == 0))).collect();
    scene.command(Command::RestorePins { token: 3, pins: pins.clone().into() });
    let events = scene.events();
    let [Event::PinsRestored { token: 3, taken }] = events.as_slice() else { panic!("{events:?}") };
    assert!((0..8).all(|place| taken.contains(place)) && !taken.contains(8));
    for pin in &pins {
        let frame = datagram(&mut peer, pin.tuple.remote_port, 1);
        scene.receive(OUTSIDE, &frame);
        let frame = scene.one_sent_with_arp(INSIDE);
        let target = TARGETS.iter().position(|target| IpAddr::from(*target) == pin.target).unwrap();
        assert_eq!(destination(&frame), TARGET_MACS[target]);
    }
    assert!(batches(&mut scene).is_empty(), "the control core knows of them");
    scene.advance(Duration::from_secs(400));
    let released: Vec<_> = batches(&mut scene).into_iter().flat_map(|batch| batch.pins).collect();
    assert_eq!(released.len(), 8);
    assert!(released.iter().all(|event| matches!(event, PinEvent::Released { .. })));
}

/// Where its packets will arrive: with the SA, or by the hash.
#[test]
fn each_connection_is_restored_at_its_home() {
    let mut crew = Crew::with(3, in_turns(), &config(), |worker, _| worker);
    let mut there = child(1);
    there.remote_selectors = vec![selector("10.9.0.0/24")];
    let mut peer = Peer::new(there.clone());
    crew.install(1, &there);
    let pins = vec![restored(REMOTE, 40000, 1), restored(Ipv4Addr::new(10, 9, 77, 1), 40000, 1)];
    let taken: Vec<_> = (0..3)
        .map(|worker| {
            crew.events(worker);
            crew.command(worker, Command::RestorePins { token: 1, pins: pins.clone().into() });
            let events = crew.events(worker);
            let [Event::PinsRestored { taken, .. }] = events.as_slice() else { panic!("{events:?}") };
            [taken.contains(0), taken.contains(1)]
        })
        .collect();
    assert_eq!(taken.iter().map(|taken| taken[0]).collect::<Vec<_>>(), [false, true, false], "with its SA");
    assert!(taken.iter().all(|taken| taken[1]), "an SA may come for it, nobody knows where");
    let frame = peer.seal(&udp((REMOTE, 40000), (VIP, 53), b"x"));
    crew.receive(2, OUTSIDE, &frame);
    assert_eq!(destination(&crew.one_sent_at_last(INSIDE)), TARGET_MACS[1]);
}

/// A worker takes all that it has room for. How long for a million, for docs/takeover.md:
/// `VIPSEC_PINS=1000000 cargo test --release -p vipsec-dataplane -- --nocapture many_restored`.
#[test]
fn many_restored_pins_are_taken() {
    let count: u32 = std::env::var("VIPSEC_PINS").map_or(10_000, |count| count.parse().unwrap());
    let connections = Limits { connections_max: 1_000_000, ..Limits::default() };
    let (mut scene, _) = scene_with(&WorkerConfig { connections, ..config() });
    let batches: Vec<Arc<[RestoredPin]>> = (0..count)
        .map(|n| restored(Ipv4Addr::from_bits(0x0a09_0000 | n >> 16), n as u16, usize::from(n % 2 == 0)))
        .collect::<Vec<_>>()
        .chunks(RESTORED_MAX)
        .map(Arc::from)
        .collect();
    let mut longest = Duration::ZERO;
    let began = std::time::Instant::now();
    for pins in batches {
        let batch = std::time::Instant::now();
        let in_batch = pins.len();
        scene.command(Command::RestorePins { token: 0, pins });
        longest = longest.max(batch.elapsed());
        let events = scene.events();
        let [Event::PinsRestored { taken, .. }] = events.as_slice() else { panic!("{events:?}") };
        assert!((0..in_batch).all(|nth| taken.contains(nth)));
    }
    println!("{:?} for {count}, at most {longest:?} for a batch", began.elapsed());
}
