//! Rule R6: connections that a successor couldn't compute, and distribution tables that would move some.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use vipsec_control::api::{GroupStore, Request, Response};
use vipsec_dataplane::api::{Event, PinBatch, RestoredPin, WorkerId};
use vipsec_distribute::connection::PinEvent;
use vipsec_distribute::service::{Origin, TargetState};
use vipsec_distribute::tuple::FiveTuple;

use super::bench::{Bench, TARGETS, VIP};
use super::pair::Pair;

/// A service that chooses in turns, which nobody can compute again.
fn in_turns() -> String {
    format!("{TARGETS}method = \"round-robin\"")
}

fn pin(n: u16, target: u8) -> RestoredPin {
    let tuple = FiveTuple {
        protocol: 17,
        remote: IpAddr::from([10, 9, 0, 1]),
        remote_port: n,
        vip: VIP.parse().unwrap(),
        vip_port: 53,
    };
    RestoredPin { vip: 0, tuple, origin: Origin::Decrypted, target: IpAddr::from([10, 1, 0, target]) }
}

fn pinned(pin: &RestoredPin) -> PinEvent {
    let RestoredPin { tuple, origin, target, .. } = *pin;
    PinEvent::Pinned { tuple, origin, target, replaces: false, goes_on: false }
}

fn batch(worker: u8, events: impl IntoIterator<Item = PinEvent>) -> Event {
    let pins = events.into_iter().collect();
    Event::Pins(Box::new(PinBatch { worker: WorkerId(worker), vip: 0, tables: u64::MAX, pins }))
}

fn ports(pins: &[RestoredPin]) -> Vec<(u16, IpAddr)> {
    let mut ports: Vec<_> = pins.iter().map(|pin| (pin.tuple.remote_port, pin.target)).collect();
    ports.sort();
    ports
}

fn store_of(bench: &mut Bench) -> GroupStore {
    match bench.ask(Request::Store) {
        Ok(Response::Store(mut store)) => store.groups.remove(0),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_successor_restores_what_the_owner_pinned() {
    let mut pair = Pair::new(&in_turns());
    let all: Vec<_> = (0..600).map(|n| pin(n, 21 + (n % 2) as u8)).collect();
    for some in all.chunks(32) {
        pair.sides[0].hear(0, batch(0, some.iter().map(pinned)));
    }
    assert_eq!(pair.sides[0].pins_known.len(), all.len().div_ceil(32), "each is answered");
    let gone = |pin: &&RestoredPin| pin.tuple.remote_port.is_multiple_of(3);
    for pin in all.iter().filter(gone) {
        pair.sides[0].hear(0, batch(0, [PinEvent::Released { tuple: pin.tuple }]));
    }
    let moved = pin(1, 21);
    pair.sides[0].hear(0, batch(0, [pinned(&moved)]));
    pair.kill(0);
    pair.pass(Duration::from_millis(300));
    assert!(pair.sides[1].core.is_serving());
    let mut expected: Vec<_> = all.iter().filter(|pin| !gone(pin)).copied().collect();
    expected[0] = moved;
    assert_eq!(ports(&pair.sides[1].restored), ports(&expected));
    assert_eq!(store_of(&mut pair.sides[1]).pins, expected.len() as u64);
}

/// What found no room is still said when the VIP was elsewhere in the meantime.
#[test]
fn the_operator_sees_how_many_pins_are_kept_and_what_found_no_room() {
    let mut pair = Pair::with_room(&format!("store_pins = 150\n{}", in_turns()), 34);
    let all: Vec<_> = (0..230).map(|n| pin(n, 21)).collect();
    for some in all.chunks(32) {
        pair.sides[0].hear(0, batch(0, some.iter().map(pinned)));
    }
    pair.pass(Duration::from_millis(100));
    let (owner, backup) = (store_of(&mut pair.sides[0]), store_of(&mut pair.sides[1]));
    assert_eq!((owner.pins, owner.pins_max, owner.pins_left_out), (200, 200, 30));
    assert!((2 * 4096..3 * 4096).contains(&owner.pin_bytes), "two records: {owner:?}");
    assert_eq!((backup.pins, backup.pin_bytes), (0, 0), "it has none of its own");
    assert_eq!(backup.peers[0].kept.as_ref().map(|kept| kept.pins), Some(200));
    for side in 0..2 {
        let Ok(Response::Status(status)) = pair.sides[side].ask(Request::Status) else { panic!("no status") };
        let pins = status.vips[0].pins.map(|pins| (pins.pins, pins.pins_max));
        assert_eq!(pins, Some((200, 200)), "the owner's own, and those that its backup holds");
    }
    for (from, to) in [(0, 2), (1, 1)] {
        pair.ask(from, Request::MoveVip { vip: "web".to_owned(), to: to.to_string() });
        pair.pass(Duration::from_secs(1));
        pair.cut_link();
        pair.link();
        pair.pass(Duration::from_secs(1));
    }
    let again = store_of(&mut pair.sides[0]);
    assert_eq!((again.pins, again.pins_left_out), (200, 30));
}

/// What goes while nobody holds a copy is known when one joins.
#[test]
fn a_copy_that_joins_is_told_of_every_pin() {
    let mut pair = Pair::new(&in_turns());
    pair.cut_link();
    pair.pass(Duration::from_secs(1));
    let all: Vec<_> = (0..50).map(|n| pin(n, 21)).collect();
    for some in all.chunks(25) {
        pair.sides[0].hear(0, batch(0, some.iter().map(pinned)));
    }
    assert_eq!(pair.sides[0].pins_known.len(), 2, "there is nobody to wait for");
    pair.link();
    pair.pass(Duration::from_secs(1));
    pair.kill(0);
    pair.pass(Duration::from_millis(300));
    assert_eq!(ports(&pair.sides[1].restored), ports(&all));
}

/// The backup may still trust its copy: nothing goes that it doesn't know.
#[test]
fn a_lost_link_is_waited_for_until_the_copy_is_left_behind() {
    let mut pair = Pair::new(&in_turns());
    pair.cut_link();
    pair.sides[0].hear(0, batch(0, [pinned(&pin(1, 21))]));
    pair.pass(Duration::from_millis(20));
    assert!(pair.sides[0].pins_known.is_empty());
    pair.pass(Duration::from_secs(1));
    assert_eq!(pair.sides[0].pins_known.len(), 1);
}

#[test]
fn an_appliance_that_does_not_own_the_vip_answers_that_nobody_will_know() {
    let mut pair = Pair::new(&in_turns());
    pair.sides[1].hear(0, batch(0, [pinned(&pin(1, 21))]));
    assert_eq!((pair.sides[1].pins_known.len(), pair.sides[1].pins_abandoned.len()), (0, 1));
}

#[test]
fn another_table_is_in_force_when_what_it_would_move_is_pinned() {
    let mut pair = Pair::new(&in_turns());
    let state = |bench: &Bench| bench.tables.services.targets()[0].state;
    pair.sides[0].hold_announcements = true;
    pair.ask(0, Request::DrainTarget { target: "t1".to_owned() });
    assert_eq!((state(&pair.sides[0]), pair.sides[0].announced.len()), (TargetState::Up, 1));
    // Whatever else the workers are told meanwhile, it doesn't take effect by that.
    pair.ask(0, Request::EnableTarget { target: "t1".to_owned() });
    pair.ask(0, Request::DrainTarget { target: "t1".to_owned() });
    let &[first, _, last] = pair.sides[0].announced.as_slice() else { panic!("a later one replaces it") };
    pair.sides[0].hear(0, Event::ServicesPinned(first));
    assert_eq!(state(&pair.sides[0]), TargetState::Up, "that one counts no more");
    pair.sides[0].hear(0, Event::ServicesPinned(last));
    assert_eq!(state(&pair.sides[0]), TargetState::Drain);
    // Its successor goes on from there.
    pair.kill(0);
    pair.pass(Duration::from_millis(300));
    assert_eq!(state(&pair.sides[1]), TargetState::Drain);
}

/// None is lost among many. What a million cost, for docs/takeover.md:
/// `VIPSEC_PINS=1000000 cargo test --release -p vipsec-control --test core -- --nocapture many_pins`.
#[test]
fn many_pins_reach_the_successor() {
    let count: u32 = std::env::var("VIPSEC_PINS").map_or(10_000, |count| count.parse().unwrap());
    let resident_kib = || {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4
    };
    let mut pair = Pair::with_room(&format!("store_pins = {count}\n{}", in_turns()), 32 + count / 100);
    let of_number = |n: u32| {
        let mut pin = pin(n as u16, 21 + (n % 2) as u8);
        pin.tuple.remote = IpAddr::from([10, 9, (n >> 24) as u8, (n >> 16) as u8]);
        pin
    };
    let before = resident_kib();
    let began = Instant::now();
    for first in (0..count).step_by(32) {
        pair.sides[0].hear(0, batch(0, (first..(first + 32).min(count)).map(|n| pinned(&of_number(n)))));
        pair.sides[0].pins_known.clear();
    }
    let took = began.elapsed();
    println!("published and acknowledged: {:.0} ns a pin", took.as_nanos() as f64 / f64::from(count));
    println!("memory, the store's region of the backup included: {} MiB", resident_kib().saturating_sub(before) / 1024);
    pair.pass(Duration::from_millis(1500));
    println!("with the backup's warm copy: {} MiB", resident_kib().saturating_sub(before) / 1024);
    pair.kill(0);
    let began = Instant::now();
    pair.pass(Duration::from_millis(100));
    println!("read and handed to workers: {:.0} ms", began.elapsed().as_secs_f64() * 1e3);
    assert_eq!(pair.sides[1].restored.len() as u32, count);
}

/// With many services that takes longer than anything else that a takeover waits for.
#[test]
fn a_takeover_makes_no_distribution_table_anew_where_the_targets_stand_as_before() {
    let mut pair = Pair::new(TARGETS);
    let before = pair.sides[1].tables.services.clone();
    pair.kill(0);
    pair.pass(Duration::from_millis(300));
    assert!(pair.sides[1].core.is_serving());
    assert!(Arc::ptr_eq(&before, &pair.sides[1].tables.services));
    assert!(pair.sides[1].inherited.iter().all(|services| Arc::ptr_eq(&before, services)), "nor for the last owner's");
    assert_eq!(pair.sides[1].inherited.len(), 1);
}
