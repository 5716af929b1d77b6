//! Rule R3: nothing above the horizon is delivered; grants, numbers, and the queue in between.

use vipsec_esp::sa::ChildSa;
use vipsec_wire::tcp::Flags;

use super::peer::{Peer, child};
use super::scene::*;
use crate::api::{Command, Event, Numbers, VipState};
use crate::drops::{DropReason, Tally};
use crate::waiting::WAITING_TIME_MAX;
use crate::worker::WorkerConfig;

fn bound(horizon: u64) -> ChildSa {
    let mut child = child(1);
    child.inbound.horizon = horizon;
    child
}

fn segment(n: u8) -> Vec<u8> {
    tcp((REMOTE, 40000), (VIP, 80), Flags::ACK, &[n])
}

fn numbers(scene: &mut Scene) -> Vec<Numbers> {
    let numbers = |event| if let Event::Numbers(numbers) = event { Some(numbers) } else { None };
    scene.events().into_iter().filter_map(numbers).collect()
}

/// The last byte of each frame.
fn order(frames: &[Vec<u8>]) -> Vec<u8> {
    frames.iter().filter_map(|frame| frame.last().copied()).collect()
}

#[test]
fn packets_above_the_horizon_wait_for_the_grant() {
    let mut scene = Scene::new();
    let mut peer = Peer::new(bound(2));
    scene.command(peer.install());
    let frames: Vec<Vec<u8>> = (1..=5).map(|n| peer.seal(&segment(n))).collect();
    /* <-- numbers 1 to 5, horizon 2 */
    scene.receive_burst(OUTSIDE, &frames);
    assert_eq!(order(&scene.sent_with_arp(INSIDE)), [1, 2]);
    /* edge 2, wanted at least 5 --> */
    let asked = numbers(&mut scene);
    let [Numbers { spi, edge: 2, horizon_wanted, .. }] = asked.as_slice() else { panic!("{asked:?}") };
    assert!(*spi == peer.spi() && *horizon_wanted >= 5);
    /* <-- grant 4 */
    scene.command(Command::Grant { spi: *spi, horizon: 4, lease: u64::MAX });
    assert_eq!(order(&scene.sent_with_arp(INSIDE)), [3, 4]);
    /* edge 4, wanted at least 5 --> */
    let asked = numbers(&mut scene);
    assert!(matches!(asked.as_slice(), [Numbers { edge: 4, horizon_wanted: 5.., .. }]), "{asked:?}");
    /* <-- grant 5 */
    scene.command(Command::Grant { spi: *spi, horizon: 5, lease: u64::MAX });
    assert_eq!(order(&scene.sent_with_arp(INSIDE)), [5]);
    scene.assert_nothing_dropped();
    assert_eq!((scene.counters.tally(Tally::Parked), scene.counters.tally(Tally::Released)), (3, 3));
}

#[test]
fn one_report_is_on_its_way_at_a_time() {
    let mut scene = Scene::new();
    let mut peer = Peer::new(bound(0));
    scene.command(peer.install());
    for n in 1..=3 {
        let frame = peer.seal(&segment(n));
        scene.receive(OUTSIDE, &frame);
    }
    assert_eq!(numbers(&mut scene).len(), 1);
    scene.command(Command::Grant { spi: peer.spi(), horizon: 1, lease: u64::MAX });
    assert_eq!(numbers(&mut scene).len(), 1, "and the next when it was answered");
}

#[test]
fn a_packet_that_was_parked_twice_is_delivered_once() {
    let mut scene = Scene::new();
    let mut peer = Peer::new(bound(0));
    scene.command(peer.install());
    let frame = peer.seal(&segment(1));
    scene.receive_burst(OUTSIDE, &[frame.clone(), frame.clone()]);
    scene.command(Command::Grant { spi: peer.spi(), horizon: 1, lease: u64::MAX });
    assert_eq!(scene.sent_with_arp(INSIDE).len(), 1);
    assert_eq!(scene.dropped(), [(DropReason::EspReplayed, 1)]);
}

/// An adversary may send a packet again and again while it waits.
#[test]
fn copies_of_a_parked_packet_take_no_room_from_others() {
    let mut scene = Scene::with(tables(), &WorkerConfig { parked_packets_max: 2, ..Default::default() });
    let mut peer = Peer::new(bound(0));
    scene.command(peer.install());
    let frames: Vec<Vec<u8>> = (1..=2).map(|n| peer.seal(&segment(n))).collect();
    scene.receive_burst(OUTSIDE, &vec![frames[0].clone(); 8]);
    assert_eq!(scene.dropped(), [(DropReason::EspReplayed, 7)]);
    scene.receive(OUTSIDE, &frames[1]);
    scene.command(Command::Grant { spi: peer.spi(), horizon: 2, lease: u64::MAX });
    assert_eq!(order(&scene.sent_with_arp(INSIDE)), [1, 2]);
    scene.assert_nothing_dropped();
}

#[test]
fn a_vip_that_was_lost_in_the_meantime_gets_nothing() {
    let mut scene = Scene::new();
    let mut peer = Peer::new(bound(0));
    scene.command(peer.install());
    let frame = peer.seal(&segment(1));
    scene.receive(OUTSIDE, &frame);
    let mut lost = tables();
    lost.vips[0].state = VipState::Elsewhere;
    scene.use_tables(lost);
    scene.command(Command::Grant { spi: peer.spi(), horizon: 1, lease: u64::MAX });
    scene.assert_dropped(DropReason::VipNotOwned);
}

#[test]
fn a_grant_is_for_one_sa() {
    let mut scene = Scene::new();
    let mut first = Peer::new(bound(0));
    let mut second = child(2);
    second.inbound.horizon = 0;
    let mut second = Peer::new(second);
    scene.command(first.install());
    scene.command(second.install());
    let frames = [first.seal(&segment(1)), second.seal(&segment(2)), first.seal(&segment(3))];
    scene.receive_burst(OUTSIDE, &frames);
    scene.command(Command::Grant { spi: first.spi(), horizon: u64::MAX, lease: u64::MAX });
    assert_eq!(order(&scene.sent_with_arp(INSIDE)), [1, 3]);
    scene.command(Command::Grant { spi: second.spi(), horizon: u64::MAX, lease: u64::MAX });
    assert_eq!(order(&scene.sent_with_arp(INSIDE)), [2]);
}

#[test]
fn a_horizon_never_moves_back() {
    let mut scene = Scene::new();
    let mut peer = Peer::new(bound(5));
    scene.command(peer.install());
    scene.command(Command::Grant { spi: peer.spi(), horizon: 1, lease: 1 });
    let frames: Vec<Vec<u8>> = (1..=5).map(|n| peer.seal(&segment(n))).collect();
    scene.receive_burst(OUTSIDE, &frames);
    assert_eq!(scene.sent_with_arp(INSIDE).len(), 5);
}

#[test]
fn the_queue_is_bounded() {
    let mut scene = Scene::with(tables(), &WorkerConfig { parked_packets_max: 2, ..Default::default() });
    let mut peer = Peer::new(bound(0));
    scene.command(peer.install());
    let frames: Vec<Vec<u8>> = (1..=3).map(|n| peer.seal(&segment(n))).collect();
    scene.receive_burst(OUTSIDE, &frames);
    scene.assert_dropped(DropReason::ParkedQueueFull);
    scene.command(Command::Grant { spi: peer.spi(), horizon: 3, lease: u64::MAX });
    assert_eq!(order(&scene.sent_with_arp(INSIDE)), [1, 2]);
    scene.receive(OUTSIDE, &frames[2]);
    assert_eq!(order(&scene.sent_with_arp(INSIDE)), [3], "what was dropped has not been seen");
}

#[test]
fn nothing_is_parked_for_ever() {
    let mut scene = Scene::new();
    let mut peer = Peer::new(bound(0));
    scene.command(peer.install());
    let frame = peer.seal(&segment(1));
    scene.receive(OUTSIDE, &frame);
    scene.advance(WAITING_TIME_MAX - SECOND / 1000);
    scene.assert_nothing_dropped();
    scene.advance(SECOND / 1000);
    scene.assert_dropped(DropReason::ParkedTooLong);
    let frame = peer.seal(&segment(2));
    scene.receive(OUTSIDE, &frame);
    scene.command(Command::RemoveChild(peer.spi()));
    scene.assert_dropped(DropReason::ParkedSaGone);
}

#[test]
fn an_sa_without_limit_is_bound_and_then_waits_too() {
    let mut scene = Scene::new();
    let mut peer = Peer::new(child(1));
    scene.command(peer.install());
    let frame = peer.seal(&segment(1));
    scene.receive(OUTSIDE, &frame);
    assert_eq!(scene.sent_with_arp(INSIDE).len(), 1);
    scene.events();
    scene.command(Command::Bind(peer.spi()));
    let asked = numbers(&mut scene);
    let [Numbers { edge: 1, horizon_wanted, .. }] = asked.as_slice() else { panic!("{asked:?}") };
    let frames: Vec<Vec<u8>> = (2..=10).map(|n| peer.seal(&segment(n))).collect();
    scene.receive_burst(OUTSIDE, &frames);
    let delivered = scene.sent_with_arp(INSIDE).len() as u64;
    let room = horizon_wanted - 1;
    assert!(delivered <= room, "{delivered} delivered beyond the first, with room for {room}");
    scene.command(Command::Grant { spi: peer.spi(), horizon: u64::MAX, lease: u64::MAX });
    assert_eq!(delivered + scene.sent_with_arp(INSIDE).len() as u64, 9);
}

#[test]
fn a_takeover_starts_at_the_old_horizon() {
    let mut scene = Scene::new();
    let mut peer = Peer::new(child(1));
    let frames: Vec<Vec<u8>> = (1..=11).map(|n| peer.seal(&segment(n))).collect();
    let mut resumed = child(1);
    (resumed.inbound.edge, resumed.inbound.horizon) = (10, u64::MAX);
    scene.command(Command::InstallChild(Box::new(resumed)));
    for frame in &frames[..10] {
        scene.receive(OUTSIDE, frame);
        scene.assert_dropped(DropReason::EspReplayed);
    }
    scene.receive(OUTSIDE, &frames[10]);
    assert_eq!(order(&scene.sent_with_arp(INSIDE)), [11]);
}
