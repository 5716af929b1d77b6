//! From the tunnel to the targets.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use vipsec_distribute::connection::{ConnectionState, Limits};
use vipsec_distribute::service::TargetState;
use vipsec_wire::ethernet::{Header, MacAddr};
use vipsec_wire::icmp::kind;
use vipsec_wire::ipv4::Packet;
use vipsec_wire::tcp::Flags;

use super::peer::{Peer, child};
use super::scene::*;
use crate::api::{Command, Event, Report, ReportKind, Tables};
use crate::drops::{DropReason, Tally};
use crate::worker::WorkerConfig;

fn scene() -> (Scene, Peer) {
    let mut scene = Scene::new();
    let peer = Peer::new(child(1));
    scene.command(peer.install());
    (scene, peer)
}

fn with_targets(states: [TargetState; 2]) -> Tables {
    Tables { services: services(states).into(), ..tables() }
}

/// Sends a segment from that port and says which MAC address it reaches.
fn reaches(scene: &mut Scene, peer: &mut Peer, port: u16, flags: Flags) -> MacAddr {
    let frame = peer.seal(&tcp((REMOTE, port), (VIP, 80), flags, b"x"));
    scene.receive(OUTSIDE, &frame);
    Header::parse(&scene.one_sent_with_arp(INSIDE)).unwrap().0.destination
}

#[test]
fn a_packet_reaches_its_target_as_it_was_but_for_the_ttl() {
    let (mut scene, mut peer) = scene();
    let inner = tcp((REMOTE, 40000), (VIP, 80), Flags::SYN, b"data");
    let frame = peer.seal(&inner);
    scene.receive(OUTSIDE, &frame);
    let frame = scene.one_sent_with_arp(INSIDE);
    let (ethernet, payload) = Header::parse(&frame).unwrap();
    assert!(TARGET_MACS.contains(&ethernet.destination));
    assert_eq!(ethernet.source, GATEWAY_MAC);
    let mut expected = inner.clone();
    expected[8] -= 1;
    expected[10..12].copy_from_slice(&payload[10..12]);
    assert_eq!(payload, expected);
    assert_eq!(Packet::parse(payload).unwrap().ttl(), 63, "with a right checksum");
    assert_eq!(scene.counters.to_targets.packets(), 1);
    assert_eq!(scene.counters.to_targets.bytes(), inner.len() as u64);
}

#[test]
fn connections_spread_and_each_stays() {
    let (mut scene, mut peer) = scene();
    let mut seen = BTreeSet::new();
    for port in 40000..40020 {
        let target = reaches(&mut scene, &mut peer, port, Flags::SYN);
        seen.insert(target);
        assert_eq!(reaches(&mut scene, &mut peer, port, Flags::ACK), target);
    }
    assert_eq!(seen, TARGET_MACS.into_iter().collect());
}

#[test]
fn an_established_connection_stays_when_tables_change() {
    let (mut scene, mut peer) = scene();
    let target = reaches(&mut scene, &mut peer, 40000, Flags::SYN);
    let n = TARGET_MACS.iter().position(|mac| *mac == target).unwrap();
    let mut states = [TargetState::Up; 2];
    states[n] = TargetState::Drain;
    scene.use_tables(with_targets(states));
    assert_eq!(reaches(&mut scene, &mut peer, 40000, Flags::ACK), target);
    for port in 40001..40010 {
        assert_ne!(reaches(&mut scene, &mut peer, port, Flags::SYN), target, "new ones avoid a draining target");
    }
    scene.command(Command::Report { token: 1, what: ReportKind::Connections { max: 100 } });
    let Some(Event::Report { report: Report::Connections { total: 10, entries }, .. }) = scene.events().pop() else {
        panic!("no report")
    };
    let pinned: Vec<_> = entries.iter().filter(|entry| entry.pinned).collect();
    assert!(matches!(pinned.as_slice(), [entry] if entry.tuple.remote_port == 40000), "{pinned:?}");

    states[n] = TargetState::Down;
    scene.use_tables(with_targets(states));
    assert_ne!(reaches(&mut scene, &mut peer, 40000, Flags::ACK), target);
    assert_eq!(scene.counters.tally(Tally::ConnectionsMoved), 1);
    scene.use_tables(with_targets([TargetState::Down; 2]));
    let frame = peer.seal(&tcp((REMOTE, 40000), (VIP, 80), Flags::ACK, b""));
    scene.receive(OUTSIDE, &frame);
    scene.assert_dropped(DropReason::NoTargetUp);
}

#[test]
fn a_successor_chooses_the_same_targets() {
    let (mut owner, mut peer) = scene();
    let config = WorkerConfig { hash_seed: 99, ..Default::default() };
    let mut successor = Scene::with(tables(), &config);
    let mut other_peer = Peer::new(child(1));
    successor.command(other_peer.install());
    for port in 40000..40050 {
        let before = reaches(&mut owner, &mut peer, port, Flags::SYN);
        // In the middle of a connection that this appliance has never seen.
        assert_eq!(reaches(&mut successor, &mut other_peer, port, Flags::ACK), before);
    }
}

#[test]
fn a_full_connection_table_forwards_without_it() {
    let connections = Limits { connections_max: 2, ..Limits::default() };
    let mut scene = Scene::with(tables(), &WorkerConfig { connections, ..Default::default() });
    let mut peer = Peer::new(child(1));
    scene.command(peer.install());
    for port in 40000..40005 {
        reaches(&mut scene, &mut peer, port, Flags::SYN);
        // Only what is answered holds its place.
        scene.receive(INSIDE, &to_gateway(&tcp((VIP, 80), (REMOTE, port), Flags(0x12), b"")));
        scene.sent(OUTSIDE);
    }
    assert_eq!(scene.counters.tally(Tally::ConnectionsNew), 2);
    assert_eq!(scene.counters.tally(Tally::ConnectionsStateless), 3);
    scene.assert_nothing_dropped();
}

#[test]
fn connections_end_by_themselves() {
    let connections = Limits { connections_max: 64, ..Limits::default() };
    let mut scene = Scene::with(tables(), &WorkerConfig { connections, ..Default::default() });
    let mut peer = Peer::new(child(1));
    scene.command(peer.install());
    reaches(&mut scene, &mut peer, 40000, Flags::SYN);
    scene.advance(connections.timeouts.tcp_opening + SECOND);
    assert_eq!(scene.counters.tally(Tally::ConnectionsExpired), 1);
}

#[test]
fn replies_are_seen_by_the_connection() {
    let (mut scene, mut peer) = scene();
    reaches(&mut scene, &mut peer, 40000, Flags::SYN);
    scene.receive(INSIDE, &to_gateway(&tcp((VIP, 80), (REMOTE, 40000), Flags(0x12), b"")));
    assert_eq!(scene.counters.tally(Tally::RepliesUnknown), 0);
    scene.events();
    scene.command(Command::Report { token: 1, what: ReportKind::Connections { max: 1 } });
    let Some(Event::Report { report: Report::Connections { total: 1, entries }, .. }) = scene.events().pop() else {
        panic!("no report")
    };
    assert_eq!(entries[0].state, ConnectionState::TcpEstablished);
    assert_eq!((entries[0].to_target.packets, entries[0].to_remote.packets), (1, 1));
}

#[test]
fn icmp_errors_reach_the_target_that_they_are_about() {
    let (mut scene, mut peer) = scene();
    let router = Ipv4Addr::new(10, 9, 255, 1);
    for port in 40000..40010 {
        let target = reaches(&mut scene, &mut peer, port, Flags::SYN);
        // Fragmentation needed, about a segment from the VIP: the first 28 bytes of what the target sent.
        let sent = tcp((VIP, 80), (REMOTE, port), Flags::ACK, &[0; 1400]);
        let error = icmp(router, VIP, kind::UNREACHABLE, 4, &[[0, 0, 5, 0].as_slice(), &sent[..28]].concat());
        let frame = peer.seal(&error);
        scene.receive(OUTSIDE, &frame);
        let frame = scene.one_sent(INSIDE);
        assert_eq!(Header::parse(&frame).unwrap().0.destination, target);
    }
    let sent = tcp((OTHER_VIP, 80), (REMOTE, 40000), Flags::ACK, b"");
    let error = icmp(router, VIP, kind::UNREACHABLE, 4, &[[0, 0, 5, 0].as_slice(), &sent[..28]].concat());
    let frame = peer.seal(&error);
    scene.receive(OUTSIDE, &frame);
    scene.assert_dropped(DropReason::MalformedIcmp);
}

#[test]
fn a_packet_that_the_inside_network_cannot_carry_is_split() {
    let mut narrow = tables();
    narrow.ports[1].mtu = 576;
    let mut scene = Scene::with(narrow, &WorkerConfig::default());
    let mut peer = Peer::new(child(1));
    scene.command(peer.install());
    let frame = peer.seal(&tcp((REMOTE, 40000), (VIP, 80), Flags::ACK, &[0; 577]));
    scene.receive(OUTSIDE, &frame);
    let frames = scene.sent_with_arp(INSIDE);
    assert_eq!(frames.len(), 2);
    assert!(frames.iter().all(|frame| frame.len() <= 14 + 576));
}
