//! ARP at both ports.

use std::net::Ipv4Addr;

use vipsec_wire::arp::{Operation, Packet};
use vipsec_wire::ethernet::{EtherType, Header, MacAddr};
use vipsec_wire::tcp::Flags;

use super::peer::{Peer, child};
use super::scene::*;
use crate::api::{Command, Report, ReportKind, VipState};
use crate::drops::{DropReason, Tally};
use crate::neighbour::PENDING_MAX;

fn parse(frame: &[u8]) -> (Header, Packet) {
    let (header, payload) = Header::parse(frame).unwrap();
    assert_eq!(header.ethertype, EtherType::ARP);
    (header, Packet::parse(payload).unwrap())
}

#[test]
fn answers_for_what_is_ours_from_the_virtual_mac() {
    let mut scene = Scene::new();
    let own = [
        (OUTSIDE, VIP, VIP_MAC),
        (OUTSIDE, OUTSIDE_ADDRESS, OUTSIDE_MAC),
        (INSIDE, GATEWAY, GATEWAY_MAC),
        (INSIDE, "10.1.0.11".parse().unwrap(), INSIDE_MAC),
    ];
    for (port, address, mac) in own {
        scene.receive(port, &arp_request((ROUTER, ROUTER_MAC), address));
        let (header, reply) = parse(&scene.one_sent(port));
        assert_eq!((header.source, header.destination), (mac, ROUTER_MAC));
        assert_eq!((reply.operation, reply.sender_ip, reply.sender_mac), (Operation::Reply, address, mac));
        assert_eq!((reply.target_ip, reply.target_mac), (ROUTER, ROUTER_MAC));
    }
    assert_eq!(scene.counters.tally(Tally::ArpReplies), 4);
}

#[test]
fn a_gateway_that_vips_share_is_ours_when_one_of_them_is() {
    for owned in [[true, false], [false, true], [false, false]] {
        let mut shared = tables();
        for (vip, owned) in shared.vips.iter_mut().zip(owned) {
            vip.state = if owned { VipState::Owned } else { VipState::Elsewhere };
            vip.gateways[0].address = GATEWAY.into();
            vip.gateways[0].mac = GATEWAY_MAC;
        }
        let mut scene = Scene::with(shared, &Default::default());
        scene.receive(INSIDE, &arp_request((TARGETS[0], TARGET_MACS[0]), GATEWAY));
        assert_eq!(scene.sent(INSIDE).len(), usize::from(owned != [false, false]), "{owned:?}");
    }
}

/// Of one whose frames are held until its SAs are awake, too: when it opens, nothing is to wait for answers.
#[test]
fn asks_for_targets_and_routers_when_a_vip_becomes_ours() {
    let tables_with = |state| {
        let mut tables = tables();
        tables.vips[0].state = state;
        tables
    };
    for gained in [VipState::Owned, VipState::HandingOver] {
        let mut scene = Scene::with(tables_with(VipState::Elsewhere), &Default::default());
        scene.use_tables(tables_with(gained));
        let mut asked_for = |port| -> Vec<_> {
            let frames = scene.sent(port);
            frames.iter().map(|frame| parse(frame).1.target_ip).collect()
        };
        assert_eq!((asked_for(INSIDE), asked_for(OUTSIDE)), (TARGETS.to_vec(), vec![ROUTER]), "{gained:?}");
        scene.use_tables(tables_with(VipState::Owned));
        assert!(scene.sent(INSIDE).is_empty() && scene.sent(OUTSIDE).is_empty(), "{gained:?}: once");
    }
}

#[test]
fn is_silent_about_what_is_not_ours() {
    let mut scene = Scene::new();
    for (port, address) in [(OUTSIDE, OTHER_VIP), (INSIDE, OTHER_GATEWAY), (INSIDE, VIP), (OUTSIDE, ROUTER)] {
        scene.receive(port, &arp_request((ROUTER, ROUTER_MAC), address));
        scene.assert_dropped(DropReason::ArpNotForUs);
    }
    let mut token_ring = arp_request((ROUTER, ROUTER_MAC), VIP);
    token_ring[15] = 6;
    scene.receive(OUTSIDE, &token_ring);
    scene.assert_dropped(DropReason::MalformedArp);
    scene.receive(OUTSIDE, &arp_request((ROUTER, MacAddr::BROADCAST), VIP));
    scene.assert_dropped(DropReason::MalformedFrame);
}

#[test]
fn counts_another_station_with_our_address() {
    let mut scene = Scene::new();
    scene.receive(OUTSIDE, &arp_request((VIP, ROUTER_MAC), VIP));
    assert_eq!(scene.counters.tally(Tally::AddressConflicts), 1);
    scene.sent(OUTSIDE);
    scene.receive(OUTSIDE, &arp_request((VIP, VIP_MAC), VIP));
    assert_eq!(scene.counters.tally(Tally::AddressConflicts), 1, "our own announcement coming back is none");
    assert!(scene.sent(OUTSIDE).is_empty(), "and is not answered");
}

fn syn(port: u16) -> Vec<u8> {
    tcp((REMOTE, port), (VIP, 80), Flags::SYN, b"")
}

#[test]
fn resolves_a_target_then_sends_what_waited() {
    let mut scene = Scene::new();
    let mut peer = Peer::new(child(1));
    scene.command(peer.install());
    let first = peer.seal(&syn(40000));
    let second = peer.seal(&syn(40000));
    scene.receive_burst(OUTSIDE, &[first, second]);

    /* who has the target? --> */
    let (header, request) = parse(&scene.one_sent(INSIDE));
    assert_eq!((header.source, header.destination), (INSIDE_MAC, MacAddr::BROADCAST));
    assert_eq!((request.operation, request.sender_ip.octets()), (Operation::Request, [10, 1, 0, 11]));
    let n = TARGETS.iter().position(|target| *target == request.target_ip).unwrap();

    /* <-- the target has */
    scene.receive(INSIDE, &request.reply_from(TARGET_MACS[n]).to_frame(INSIDE_MAC));
    let frames = scene.sent(INSIDE);
    assert_eq!(frames.len(), 2);
    for frame in frames {
        assert_eq!(Header::parse(&frame).unwrap().0.destination, TARGET_MACS[n]);
    }
    scene.assert_nothing_dropped();

    scene.command(Command::Report { token: 5, what: ReportKind::Neighbours });
    let report = scene.events().into_iter().find_map(|event| match event {
        crate::api::Event::Report { token: 5, report: Report::Neighbours(neighbours) } => Some(neighbours),
        _ => None,
    });
    assert_eq!(report.unwrap(), [(TARGETS[n].into(), Some(TARGET_MACS[n]), INSIDE)]);
}

#[test]
fn who_asks_for_us_is_not_asked_back() {
    let mut scene = Scene::new();
    let mut peer = Peer::new(child(1));
    scene.command(peer.install());
    for (address, mac) in TARGETS.into_iter().zip(TARGET_MACS) {
        scene.receive(INSIDE, &arp_request((address, mac), GATEWAY));
    }
    scene.receive(INSIDE, &arp_request((Ipv4Addr::UNSPECIFIED, TARGET_MACS[0]), GATEWAY));
    scene.receive(INSIDE, &arp_request((ROUTER, ROUTER_MAC), GATEWAY));
    scene.sent(INSIDE);
    let frame = peer.seal(&syn(40000));
    scene.receive(OUTSIDE, &frame);
    let destination = Header::parse(&scene.one_sent(INSIDE)).unwrap().0.destination;
    assert!(TARGET_MACS.contains(&destination), "delivered at once to {destination}");

    scene.command(Command::Report { token: 5, what: ReportKind::Neighbours });
    let report = scene.events().into_iter().find_map(|event| match event {
        crate::api::Event::Report { token: 5, report: Report::Neighbours(neighbours) } => Some(neighbours),
        _ => None,
    });
    assert_eq!(report.unwrap().len(), 2, "neither the probe's sender nor a stranger to this network is remembered");
}

#[test]
fn a_target_that_never_answers_costs_its_packets() {
    let mut scene = Scene::new();
    let mut peer = Peer::new(child(1));
    scene.command(peer.install());
    for _ in 0..PENDING_MAX + 1 {
        let frame = peer.seal(&syn(40000));
        scene.receive(OUTSIDE, &frame);
    }
    assert_eq!(scene.dropped(), [(DropReason::NeighbourQueueFull, 1)]);
    scene.advance(3 * SECOND);
    assert_eq!(scene.sent(INSIDE).len(), 3, "one request a second");
    assert_eq!(scene.dropped(), [(DropReason::NeighbourUnresolved, PENDING_MAX as u64)]);
}

#[test]
fn the_neighbour_cache_is_bounded() {
    let config = crate::worker::WorkerConfig { neighbours_max: 1, ..Default::default() };
    let mut scene = Scene::with(tables(), &config);
    let mut peer = Peer::new(child(1));
    scene.command(peer.install());
    for port in 40000..40020 {
        let frame = peer.seal(&syn(port));
        scene.receive(OUTSIDE, &frame);
        scene.sent_with_arp(INSIDE);
    }
    let dropped = scene.dropped();
    assert!(matches!(dropped.as_slice(), [(DropReason::NeighbourTableFull, 1..=19)]), "{dropped:?}");
}

#[test]
fn a_router_that_moves_is_followed() {
    let mut scene = Scene::new();
    let mut peer = Peer::new(child(1));
    scene.command(peer.install());
    let ping = peer.seal(&echo_request(REMOTE, VIP));
    scene.receive(OUTSIDE, &ping);
    scene.one_sent_with_arp(OUTSIDE);
    let moved = MacAddr([2, 0, 0, 0, 0, 0xfd]);
    /* <-- the router's successor announces itself */
    scene.receive(OUTSIDE, &Packet::announcement(ROUTER, moved).to_frame(MacAddr::BROADCAST));
    assert_eq!(scene.dropped(), [(DropReason::ArpNotForUs, 1)], "taken note of, but not ours to answer");
    let ping = peer.seal(&echo_request(REMOTE, VIP));
    scene.receive(OUTSIDE, &ping);
    assert_eq!(Header::parse(&scene.one_sent(OUTSIDE)).unwrap().0.destination, moved);
}
