//! What a successor is told.

use super::*;
use crate::service::Method;
use std::collections::HashMap;

/// The records that a copy holds.
#[derive(Default)]
struct Copy {
    records: HashMap<FiveTuple, IpAddr>,
    unacknowledged: Vec<PinEvent>,
}

impl Copy {
    fn read(&mut self, scene: &mut Scene) {
        while let Some(event) = scene.table.poll_pin() {
            match event {
                PinEvent::Pinned { tuple, target, .. } => {
                    self.records.insert(tuple, target);
                }
                PinEvent::Released { tuple } => assert!(self.records.remove(&tuple).is_some(), "{tuple}"),
            }
            self.unacknowledged.push(event);
        }
    }

    fn acknowledge(&mut self, scene: &mut Scene) {
        self.unacknowledged.drain(..).for_each(|event| scene.table.acknowledge(&event));
    }
}

fn in_turns(states: &[TargetState]) -> Arc<ServiceTable> {
    service_of(targets(states), |service| service.method = Method::WeightedRoundRobin)
}

/// A table that a successor may need.
fn reporting(connections_max: usize, services: Arc<ServiceTable>) -> Scene {
    let mut scene = Scene::new(connections_max, services);
    scene.table.report_pins();
    scene
}

/// One whose connections are pinned unless chance has it otherwise.
fn counted(connections_max: usize) -> Scene {
    reporting(connections_max, in_turns(&[TargetState::Up; 3]))
}

/// What is told of a connection for the first time.
fn told(tuple: FiveTuple, target: IpAddr) -> PinEvent {
    PinEvent::Pinned { tuple, origin: Origin::Decrypted, target, replaces: false, goes_on: false }
}

/// A connection that is pinned when it begins.
fn pinned(scene: &mut Scene) -> (FiveTuple, Choice) {
    (0..)
        .map(|port| tuple(6, port))
        .find_map(|tuple| {
            let choice = scene.send(&tuple, &SYN).unwrap();
            (choice.tracking == Tracking::New && choice.pin != Pin::Computed).then_some((tuple, choice))
        })
        .unwrap()
}

#[test]
fn a_pinned_connection_waits_until_every_copy_knows() {
    let mut scene = counted(100);
    let (tuple, choice) = pinned(&mut scene);
    let target = scene.address(choice.target);
    assert_eq!(choice.pin, Pin::Awaited);
    assert_eq!(scene.table.poll_pin(), Some(told(tuple, target)));
    assert_eq!(scene.send(&tuple, &SYN).unwrap().pin, Pin::Awaited);
    assert_eq!(scene.table.pin_progress().unacknowledged, 1);
    scene.table.acknowledge(&told(tuple, address(77)));
    assert_eq!(scene.send(&tuple, &SYN).unwrap().pin, Pin::Awaited, "that was about another target");
    assert_eq!(scene.table.standing(&tuple), Some((choice.target, Pin::Awaited)));
    scene.table.acknowledge(&told(tuple, target));
    assert_eq!(scene.send(&tuple, &SYN).unwrap().pin, Pin::Settled);
    assert_eq!(scene.table.standing(&tuple), Some((choice.target, Pin::Settled)));
    assert_eq!(scene.table.pin_progress(), PinProgress { pinned: 1, ..PinProgress::default() });
}

#[test]
fn nothing_waits_and_nothing_is_reported_where_no_successor_can_come() {
    let mut scene = Scene::new(100, in_turns(&[TargetState::Up; 3]));
    let (_, choice) = pinned(&mut scene);
    assert_eq!((choice.pin, scene.table.poll_pin()), (Pin::Settled, None));
    scene.table.announce(in_turns(&[TargetState::Up; 2]));
    assert!(scene.table.pin_progress().is_complete());
}

/// An outdated record is as bad as a missing one.
#[test]
fn a_connection_of_the_same_name_waits_until_the_record_of_the_last_one_is_gone() {
    let mut scene = counted(100);
    let mut copy = Copy::default();
    let datagrams = tuple(17, 1);
    scene.sends(&datagrams, &DATAGRAM);
    copy.read(&mut scene);
    copy.acknowledge(&mut scene);
    // In turns, it would be on another target next time; by hash, every successor finds it.
    scene.now += Timeouts::default().udp_one_way;
    scene.sweep();
    let hashed = services(&[TargetState::Up; 3]);
    scene.table.use_services(hashed);
    assert_eq!(scene.send(&datagrams, &DATAGRAM).unwrap().pin, Pin::Awaited);
    copy.read(&mut scene);
    assert_eq!(scene.send(&datagrams, &DATAGRAM).unwrap().pin, Pin::Awaited);
    copy.acknowledge(&mut scene);
    assert_ne!(scene.send(&datagrams, &DATAGRAM).unwrap().pin, Pin::Awaited);
}

#[test]
fn the_record_goes_with_the_connection() {
    let mut scene = counted(100);
    let mut copy = Copy::default();
    let (tuple, _) = pinned(&mut scene);
    copy.read(&mut scene);
    assert!(copy.records.contains_key(&tuple));
    scene.now += Timeouts::default().tcp_opening;
    scene.sweep();
    copy.read(&mut scene);
    assert!(copy.records.is_empty());
    assert_eq!(scene.table.pin_progress(), PinProgress::default());
}

#[test]
fn other_services_are_announced_before_they_are_in_force() {
    let all: Vec<FiveTuple> = (0..200).map(|port| tuple(6, port)).collect();
    let mut scene = reporting(1000, services(&[TargetState::Up; 3]));
    let mut copy = Copy::default();
    for tuple in &all {
        scene.establish(tuple);
    }
    assert!(scene.table.pin_progress().is_complete());

    let next = services(&[TargetState::Drain, TargetState::Up, TargetState::Up, TargetState::Up]);
    scene.table.announce(next.clone());
    // One that begins meanwhile has to be computable by both.
    let late = (200..).map(|port| tuple(6, port)).find(|tuple| scene.chosen(tuple) == address(1)).unwrap();
    assert_eq!(scene.send(&late, &SYN).unwrap().pin, Pin::Computed, "by what is in force, so it doesn't wait");
    assert!(scene.table.is_pressed());
    while scene.table.pin_progress().unchecked > 0 {
        let waits = all.iter().any(|tuple| scene.send(tuple, &ACK).unwrap().pin == Pin::Awaited);
        assert!(!waits, "established ones go on while the table is checked");
        scene.table.sweep(scene.now, 10);
    }
    let last = (300..).map(|port| tuple(6, port)).find(|tuple| scene.chosen(tuple) == address(1)).unwrap();
    assert_eq!(scene.send(&last, &SYN).unwrap().pin, Pin::Awaited, "nothing new keeps the services waiting");
    copy.read(&mut scene);
    assert!(!scene.table.pin_progress().is_complete());
    copy.acknowledge(&mut scene);
    assert!(scene.table.pin_progress().is_complete());

    scene.table.use_services(next);
    for tuple in all.iter().chain([&late]) {
        let choice = scene.send(tuple, &ACK).unwrap();
        assert_eq!((choice.tracking, choice.pin == Pin::Awaited), (Tracking::Known, false), "{tuple}");
        // Who asks a successor gets the right answer.
        let computed = scene.chosen(tuple);
        assert_eq!(copy.records.get(tuple).copied().unwrap_or(computed), scene.address(choice.target), "{tuple}");
    }
    // Back again: what the old services compute needs no record any more.
    scene.table.use_services(services(&[TargetState::Up; 3]));
    scene.sweep();
    copy.read(&mut scene);
    let needed: usize = all.iter().filter(|tuple| scene.table.is_pinned(tuple).unwrap()).count();
    assert_eq!((copy.records.len(), needed), (0, 0));
}

#[test]
fn a_full_queue_loses_nothing() {
    let now = Instant::now();
    let limits = Limits { connections_max: 64, pin_events_max: 2, ..Limits::default() };
    let table = ConnectionTable::new(&limits, 1, now, in_turns(&[TargetState::Up; 3]));
    let mut scene = Scene { table, now };
    scene.table.report_pins();
    let mut copy = Copy::default();
    for port in 0..64 {
        scene.send(&tuple(17, port), &DATAGRAM).unwrap();
    }
    let PinProgress { pinned, owed, .. } = scene.table.pin_progress();
    assert_eq!((pinned, owed), (64, 62));
    for _ in 0..32 {
        copy.read(&mut scene);
        scene.sweep();
    }
    assert_eq!((copy.records.len(), scene.table.pin_progress().owed), (64, 0));
    // None is forgotten before its record can be released, not even where places are scarce.
    scene.now += Timeouts::default().udp_one_way;
    scene.sweep();
    assert_eq!(scene.table.len(), 62);
    scene.establish(&tuple(6, 100));
    scene.establish(&tuple(6, 101));
    assert_eq!(scene.send(&tuple(6, 102), &SYN).unwrap().tracking, Tracking::Stateless);
    for _ in 0..40 {
        copy.read(&mut scene);
        scene.sweep();
    }
    assert_eq!((copy.records.len(), scene.table.len()), (scene.table.pin_progress().pinned, 2));
}

#[test]
fn a_moved_connection_is_told_again() {
    let mut scene = counted(100);
    let mut copy = Copy::default();
    let datagrams = tuple(17, 1);
    let (first, _) = scene.sends(&datagrams, &DATAGRAM);
    copy.read(&mut scene);
    copy.acknowledge(&mut scene);
    let states = [1, 2, 3].map(|n| if address(n) == first { TargetState::Down } else { TargetState::Up });
    scene.table.use_services(in_turns(&states));
    let choice = scene.send(&datagrams, &DATAGRAM).unwrap();
    assert_eq!((choice.tracking, choice.pin), (Tracking::Moved, Pin::Awaited));
    scene.table.acknowledge(&told(datagrams, first));
    assert_eq!(scene.send(&datagrams, &DATAGRAM).unwrap().pin, Pin::Awaited, "that was the old record");
    copy.read(&mut scene);
    assert_eq!(copy.records[&datagrams], scene.address(choice.target));
    copy.acknowledge(&mut scene);
    assert_eq!(scene.send(&datagrams, &DATAGRAM).unwrap().pin, Pin::Settled);
}

#[test]
fn a_successor_goes_on_with_what_it_was_told() {
    let mut owner = counted(1000);
    let mut copy = Copy::default();
    let all: Vec<FiveTuple> = (0..100).flat_map(|port| [tuple(6, port), tuple(17, port)]).collect();
    for tuple in &all {
        let packet = if tuple.protocol == 6 { SYN } else { DATAGRAM };
        owner.sends(tuple, &packet);
        owner.answer(tuple, &if tuple.protocol == 6 { SYN_ACK } else { DATAGRAM });
    }
    copy.read(&mut owner);

    let table = ConnectionTable::new(&Limits::default(), 7, owner.now, in_turns(&[TargetState::Up; 3]));
    let mut successor = Scene { table, now: owner.now };
    successor.table.report_pins();
    for (tuple, target) in &copy.records {
        assert_eq!(successor.table.restore(successor.now, tuple, Origin::Decrypted, *target), Ok(()));
    }
    for tuple in &all {
        let packet = if tuple.protocol == 6 { ACK } else { DATAGRAM };
        assert_eq!(successor.sends(tuple, &packet).0, owner.sends(tuple, &packet).0, "{tuple}");
    }
    // Who restores knows of the records: they are told when the connections are over.
    assert_eq!(successor.table.poll_pin(), None);
    successor.now += Timeouts::default().tcp_established;
    successor.sweep();
    let mut next = Copy { records: copy.records.clone(), ..Copy::default() };
    next.read(&mut successor);
    assert!(next.records.is_empty());
}

#[test]
fn what_cannot_be_restored_is_named() {
    let mut scene = Scene::new(1, services(&[TargetState::Up, TargetState::Down]));
    let restore =
        |scene: &mut Scene, tuple: &FiveTuple, target| scene.table.restore(scene.now, tuple, Origin::Decrypted, target);
    let elsewhere = FiveTuple { vip: address(9), ..tuple(6, 1) };
    assert_eq!(restore(&mut scene, &elsewhere, address(1)), Err(NotRestored::UnknownVip));
    assert_eq!(restore(&mut scene, &tuple(6, 1), address(9)), Err(NotRestored::UnknownTarget));
    assert_eq!(restore(&mut scene, &tuple(6, 1), address(2)), Ok(()));
    assert_eq!(scene.sends(&tuple(6, 1), &ACK), (address(1), Tracking::Moved), "that target is down here");
    assert_eq!(restore(&mut scene, &tuple(6, 2), address(1)), Err(NotRestored::Full));
}

#[test]
fn a_vip_that_was_elsewhere_comes_back_without_its_connections() {
    let mut scene = counted(100);
    let mut copy = Copy::default();
    let (tuple, choice) = pinned(&mut scene);
    copy.read(&mut scene);
    scene.table.forget_vip(VIP);
    assert_eq!(scene.table.reports(scene.now).count(), 0);
    let again = scene.send(&tuple, &SYN).unwrap();
    assert_eq!(again.tracking, Tracking::New);
    scene.sweep();
    let mut events = Vec::new();
    while let Some(event) = scene.table.poll_pin() {
        events.push(event);
    }
    let released = PinEvent::Released { tuple };
    assert!(!events.contains(&released), "the old entry says nothing about the new one: {events:?}, {choice:?}");
    let entries = scene.table.len();
    assert_eq!(entries, scene.table.reports(scene.now).count(), "the old ones were swept");
}

/// What the last owner computed has no record. It stays where it is all the same, whatever table comes.
#[test]
fn connections_that_the_last_owner_computed_stay_when_targets_change() {
    let theirs = services(&[TargetState::Up; 3]);
    let mut owner = Scene::new(1000, theirs.clone());
    let all: Vec<FiveTuple> = (0..200).flat_map(|port| [tuple(6, port), tuple(17, port)]).collect();
    let packet = |tuple: &FiveTuple, first| match (tuple.protocol, first) {
        (6, true) => SYN,
        (6, false) => ACK,
        _ => DATAGRAM,
    };
    let before: Vec<IpAddr> = all.iter().map(|tuple| owner.sends(tuple, &packet(tuple, true)).0).collect();
    // Its successor drains a target before most of them have sent anything; another is down.
    let mut successor = reporting(1000, theirs.clone());
    successor.table.inherit(successor.now, VIP, theirs);
    successor.table.use_services(services(&[TargetState::Drain, TargetState::Up, TargetState::Down]));
    for (tuple, before) in all.iter().zip(&before) {
        let choice = successor.send(tuple, &packet(tuple, false)).unwrap();
        let target = successor.address(choice.target);
        if *before == address(3) {
            assert_eq!(target, address(2), "its target is gone");
        } else {
            assert_eq!(target, *before, "{tuple}");
        }
        assert_eq!(choice.pin == Pin::Awaited, target == address(1), "the next successor has to be told");
    }
    // New ones go by the new table; what doesn't show that it is new does so after a while.
    let drained = |tuple: &FiveTuple| owner.chosen(tuple) == address(1);
    let new = (1000..).map(|port| tuple(6, port)).find(drained).unwrap();
    assert_eq!(successor.sends(&new, &SYN).0, address(2));
    successor.now += Timeouts::default().udp_two_way;
    let new = (1000..).map(|port| tuple(17, port)).find(drained).unwrap();
    assert_eq!(successor.sends(&new, &DATAGRAM).0, address(2));
    // A VIP that was elsewhere comes back without it.
    let old = (1000..).map(|port| tuple(6, port)).find(drained).unwrap();
    successor.table.forget_vip(VIP);
    assert_eq!(successor.sends(&old, &ACK).0, address(2));
}
