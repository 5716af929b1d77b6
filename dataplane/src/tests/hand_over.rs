//! A VIP on its way to the peer: its frames are held, then passed on or taken after all.

use std::sync::Arc;

use vipsec_wire::buffer::BURST_MAX;
use vipsec_wire::ethernet::{EtherType, MacAddr};
use vipsec_wire::tcp::Flags;

use super::peer::{PEER, Peer, child};
use super::scene::*;
use crate::api::{Command, Event, IkeDatagram, PortId, Report, ReportKind, Tables, VipState};
use crate::drops::{DropReason, Tally};
use crate::waiting::WAITING_TIME_MAX;
use crate::worker::WorkerConfig;

fn tables_with(state: VipState) -> Tables {
    let mut tables = tables();
    tables.vips[0].state = state;
    tables
}

/// The VIP is owned and has an SA; then it is handed over.
fn scene() -> (Scene, Peer) {
    let mut scene = Scene::new();
    let peer = Peer::new(child(1));
    scene.command(peer.install());
    scene.events();
    scene.use_tables(tables_with(VipState::HandingOver));
    assert!(matches!(scene.events().as_slice(), [Event::TablesInForce(_)]));
    (scene, peer)
}

fn segment(n: u8) -> Vec<u8> {
    tcp((REMOTE, 40000), (VIP, 80), Flags::ACK, &[n])
}

/// A frame with Ethernet's padding.
fn padded(mut frame: Vec<u8>) -> Vec<u8> {
    frame.resize(frame.len().max(60), 0);
    frame
}

/// One of each kind.
fn frames(peer: &mut Peer) -> Vec<(PortId, Vec<u8>)> {
    let mut probe = arp_request((ROUTER, ROUTER_MAC), VIP);
    probe[..6].copy_from_slice(&VIP_MAC.octets());
    let mut inside_probe = arp_request((TARGETS[0], TARGET_MACS[0]), GATEWAY);
    inside_probe[..6].copy_from_slice(&GATEWAY_MAC.octets());
    vec![
        (OUTSIDE, peer.seal(&segment(1))),
        (OUTSIDE, to_vip(&udp((PEER, 500), (VIP, 500), b"an IKE message"))),
        (OUTSIDE, padded(to_vip(&udp((PEER, 4500), (VIP, 4500), b"\xff")))),
        (OUTSIDE, to_vip(&echo_request(PEER, VIP))),
        (OUTSIDE, probe),
        (INSIDE, padded(to_gateway(&tcp((VIP, 80), (REMOTE, 40000), Flags::ACK, &[])))),
        (INSIDE, to_gateway(&echo_request(TARGETS[0], GATEWAY))),
        (INSIDE, inside_probe),
    ]
}

/// Two groups move at the same time: what is passed on for the one is nothing that could draw the other one's traffic.
#[test]
fn what_is_passed_on_is_not_lost_to_another_vip_that_goes() {
    let with = |states: [VipState; 2]| {
        let mut tables = tables();
        let mut second = tables.vips[0].clone();
        (second.vip.address, second.vip.mac) = ([192, 0, 2, 77].into(), MacAddr([2, 0, 0, 0, 0, 77]));
        second.gateways.clear();
        tables.vips.push(second);
        tables.vips.iter_mut().zip(states).for_each(|(vip, state)| vip.state = state);
        tables
    };
    let (mut scene, mut peer) = scene();
    scene.use_tables(with([VipState::HandingOver, VipState::Owned]));
    scene.receive(OUTSIDE, &peer.seal(&segment(1)));
    scene.use_tables(with([VipState::Elsewhere, VipState::Owned]));
    scene.use_tables(with([VipState::Elsewhere, VipState::Elsewhere]));
    let passed_on = scene.sent(OUTSIDE).into_iter().filter(|frame| frame[..6] == VIP_MAC.octets());
    assert_eq!(passed_on.count(), 1);
    scene.assert_nothing_dropped();
}

#[test]
fn frames_are_held_and_passed_on_unchanged() {
    let (mut scene, mut peer) = scene();
    let frames = frames(&mut peer);
    for (port, frame) in &frames {
        scene.receive(*port, frame);
    }
    assert!(scene.sent(OUTSIDE).is_empty() && scene.sent(INSIDE).is_empty(), "nothing is answered");
    assert!(scene.events().is_empty(), "and nothing told");
    assert_eq!(scene.held(), frames.len());
    /* the new owner was heard */
    scene.use_tables(tables_with(VipState::Elsewhere));
    for (port, own_mac) in [(OUTSIDE, OUTSIDE_MAC), (INSIDE, INSIDE_MAC)] {
        let came_in = frames.iter().filter(|(at, _)| *at == port).map(|(_, frame)| frame.clone());
        let expected = came_in.map(|mut frame| {
            frame[6..12].copy_from_slice(&own_mac.octets());
            frame
        });
        assert_eq!(scene.sent(port), expected.collect::<Vec<_>>(), "all but the source MAC address, in order");
    }
    scene.assert_nothing_dropped();
    let count = frames.len() as u64;
    assert_eq!((scene.counters.tally(Tally::Held), scene.counters.tally(Tally::PassedOn)), (count, count));
    assert_eq!(scene.held(), 0);
    /* too late */
    scene.receive(OUTSIDE, &frames[0].1);
    scene.assert_dropped(DropReason::VipNotOwned);
}

#[test]
fn a_successor_takes_what_is_passed_on() {
    let (mut old, mut peer) = scene();
    let frame = peer.seal(&segment(7));
    old.receive(OUTSIDE, &frame);
    old.use_tables(tables_with(VipState::Elsewhere));
    let passed_on = old.one_sent(OUTSIDE);
    let mut new = Scene::new();
    new.command(peer.install());
    new.receive(OUTSIDE, &passed_on);
    assert_eq!(new.one_sent_with_arp(INSIDE).last(), Some(&7));
    new.command(Command::Report { token: 1, what: ReportKind::Neighbours });
    let events = new.events();
    let known = events.iter().find_map(|event| match event {
        Event::Report { report: Report::Neighbours(known), .. } => Some(known),
        _ => None,
    });
    let is_old = |mac: &Option<MacAddr>| *mac == Some(OUTSIDE_MAC);
    assert!(known.is_some_and(|known| !known.iter().any(|(_, mac, _)| is_old(mac))), "{known:?}");
}

#[test]
fn a_move_that_was_taken_back_is_served_late_and_once() {
    let (mut scene, mut peer) = scene();
    let held: Vec<Vec<u8>> = (1..=3).map(|n| peer.seal(&segment(n))).collect();
    scene.receive_burst(OUTSIDE, &held);
    scene.receive(INSIDE, &to_gateway(&tcp((VIP, 80), (REMOTE, 40000), Flags::ACK, b"answer")));
    scene.use_tables(tables_with(VipState::Owned));
    let delivered: Vec<u8> = scene.sent_with_arp(INSIDE).iter().filter_map(|frame| frame.last().copied()).collect();
    assert_eq!(delivered, [1, 2, 3]);
    let frame = scene.one_sent_with_arp(OUTSIDE);
    assert!(peer.open(&frame).ends_with(b"answer"));
    scene.assert_nothing_dropped();
    assert_eq!((scene.counters.tally(Tally::PassedOn), scene.held()), (0, 0));
    scene.receive(OUTSIDE, &held[0]);
    scene.assert_dropped(DropReason::EspReplayed);
}

#[test]
fn only_frames_to_the_vips_own_macs_are_held() {
    let (mut scene, mut peer) = scene();
    let mut to_another = peer.seal(&segment(1));
    to_another[..6].copy_from_slice(&OUTSIDE_MAC.octets());
    let from_vip = tcp((VIP, 80), (REMOTE, 40000), Flags::ACK, &[]);
    let other_vip = frame(OTHER_VIP_MAC, ROUTER_MAC, EtherType::IPV4, &echo_request(PEER, OTHER_VIP));
    for (port, frame, reason) in [
        (OUTSIDE, to_another, DropReason::OtherStation),
        (INSIDE, frame(INSIDE_MAC, TARGET_MACS[0], EtherType::IPV4, &from_vip), DropReason::OtherStation),
        (OUTSIDE, other_vip, DropReason::VipNotOwned),
        (OUTSIDE, arp_request((ROUTER, ROUTER_MAC), VIP), DropReason::ArpNotForUs),
    ] {
        scene.receive(port, &frame);
        scene.assert_dropped(reason);
    }
    /* our own address goes nowhere */
    scene.receive(OUTSIDE, &arp_request((ROUTER, ROUTER_MAC), OUTSIDE_ADDRESS));
    scene.one_sent(OUTSIDE);
    let message = IkeDatagram { local: (VIP, 500).into(), remote: (PEER, 500).into(), payload: b"late".to_vec() };
    scene.command(Command::SendIke(message));
    scene.assert_dropped(DropReason::VipNotOwned);
}

#[test]
fn a_vip_that_stays_is_served_at_a_gateway_that_it_shares() {
    let mut shared = tables();
    for (vip, state) in shared.vips.iter_mut().zip([VipState::HandingOver, VipState::Owned]) {
        vip.state = state;
        (vip.gateways[0].address, vip.gateways[0].mac) = (GATEWAY.into(), GATEWAY_MAC);
    }
    let mut scene = Scene::with(shared.clone(), &WorkerConfig::default());
    let leaving = to_gateway(&tcp((VIP, 80), (REMOTE, 40000), Flags::ACK, b"a"));
    scene.receive(INSIDE, &to_gateway(&echo_request(TARGETS[0], GATEWAY)));
    scene.one_sent(INSIDE);
    scene.receive(INSIDE, &leaving);
    scene.receive(INSIDE, &to_gateway(&tcp((OTHER_VIP, 80), (REMOTE, 40000), Flags::ACK, b"b")));
    scene.assert_dropped(DropReason::NoOutboundSa);
    shared.vips[0].state = VipState::Elsewhere;
    scene.use_tables(shared);
    assert_eq!(scene.one_sent(INSIDE)[12..], leaving[12..]);
}

#[test]
fn the_queue_is_bounded() {
    let config = WorkerConfig { held_packets_max: 2, ..Default::default() };
    let mut scene = Scene::with(tables_with(VipState::HandingOver), &config);
    let frame = to_vip(&echo_request(PEER, VIP));
    scene.receive_burst(OUTSIDE, &vec![frame; 3]);
    scene.assert_dropped(DropReason::HeldQueueFull);
    scene.use_tables(tables_with(VipState::HandingOver));
    scene.assert_nothing_dropped();
    scene.use_tables(tables_with(VipState::Elsewhere));
    assert_eq!(scene.sent(OUTSIDE).len(), 2);
}

/// Thousands may be held, and each takes its time: a deadline that passes meanwhile ends it.
#[test]
fn what_was_held_goes_burst_by_burst_and_not_beyond_the_deadline() {
    let (mut scene, _) = scene();
    for _ in 0..3 {
        scene.receive_burst(OUTSIDE, &vec![to_vip(&echo_request(PEER, VIP)); BURST_MAX]);
    }
    let tables = Arc::new(tables_with(VipState::Elsewhere));
    scene.worker.handle_command(scene.now, Command::Tables { version: 2, tables });
    for _ in 0..2 {
        assert!(scene.worker.is_releasing());
        scene.worker.handle_released(scene.now);
        assert_eq!(scene.sent(OUTSIDE).len(), BURST_MAX);
    }
    scene.deadline.expire();
    scene.worker.handle_released(scene.now);
    assert_eq!(scene.dropped(), [(DropReason::DeadlinePassed, BURST_MAX as u64)]);
    assert!(!scene.worker.is_releasing() && scene.sent(OUTSIDE).is_empty());
}

#[test]
fn nothing_is_held_for_ever() {
    let (mut scene, _) = scene();
    scene.receive(OUTSIDE, &to_vip(&echo_request(PEER, VIP)));
    scene.advance(WAITING_TIME_MAX - SECOND / 1000);
    assert_eq!(scene.held(), 1);
    scene.advance(SECOND / 1000);
    scene.assert_dropped(DropReason::HeldTooLong);
    assert_eq!(scene.held(), 0);
}

#[test]
fn past_the_deadline_nothing_is_passed_on_or_taken() {
    for state in [VipState::Elsewhere, VipState::Owned] {
        let (mut scene, _) = scene();
        scene.receive(OUTSIDE, &to_vip(&echo_request(PEER, VIP)));
        scene.deadline.expire();
        scene.use_tables(tables_with(state));
        scene.assert_dropped(DropReason::DeadlinePassed);
    }
}

#[test]
fn what_was_parked_is_delivered_with_its_grant_and_the_report_says_so() {
    let mut scene = Scene::new();
    let mut bound = child(1);
    bound.inbound.horizon = 0;
    let mut peer = Peer::new(bound);
    scene.command(peer.install());
    let frame = peer.seal(&segment(9));
    scene.receive(OUTSIDE, &frame);
    scene.use_tables(tables_with(VipState::HandingOver));
    let report = |scene: &mut Scene| {
        scene.command(Command::Report { token: 1, what: ReportKind::Sas });
        scene.events().into_iter().find_map(|event| match event {
            Event::Report { report: Report::Sas(sas), .. } => sas.first().map(|sa| (sa.edge, sa.awaits_grant)),
            _ => None,
        })
    };
    assert_eq!(report(&mut scene), Some((0, true)));
    scene.command(Command::Grant { spi: peer.spi(), horizon: 1, lease: u64::MAX });
    assert_eq!(scene.one_sent_with_arp(INSIDE).last(), Some(&9));
    assert_eq!(report(&mut scene), Some((1, false)), "exact");
    scene.assert_nothing_dropped();
}

/// R5: when the answer comes, its new owner may act already.
#[test]
fn what_waits_for_a_neighbour_does_not_leave_once_the_vip_has_stopped() {
    let mut scene = Scene::new();
    let message = IkeDatagram {
        local: (VIP, 500).into(),
        remote: (PEER, 500).into(),
        payload: b"an IKE message".as_slice().into(),
    };
    scene.command(Command::SendIke(message));
    let request = scene.one_sent(OUTSIDE);
    scene.use_tables(tables_with(VipState::HandingOver));
    scene.receive(OUTSIDE, &answer_of_neighbour(&request).flatten().unwrap());
    assert_eq!(scene.sent(OUTSIDE), Vec::<Vec<u8>>::new());
    scene.assert_dropped(DropReason::VipNotOwned);
}

#[test]
fn what_waited_to_leave_leaves_before_the_vip_is_elsewhere() {
    for (state, count) in [(VipState::HandingOver, 1), (VipState::Elsewhere, 0)] {
        let mut scene = Scene::new();
        scene.receive(OUTSIDE, &to_vip(&echo_request(PEER, VIP)));
        scene.use_tables(tables_with(state));
        assert_eq!(scene.sent(OUTSIDE).len(), count);
    }
}
