//! Neighbour discovery at both ports.

use std::net::Ipv6Addr;

use vipsec_wire::ethernet::{Header, MacAddr};
use vipsec_wire::ip;
use vipsec_wire::ndp::{ALL_NODES, Advertisement, Message, Solicitation, solicited_node};

use super::peer::Peer;
use super::scene::*;
use crate::api::{Command, PortId, VipState};
use crate::drops::{DropReason, Tally};
use crate::worker::WorkerConfig;

const HOST: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x99);
const HOST_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x99]);

fn scene() -> Scene {
    Scene::with(dual_stack(), &WorkerConfig::default())
}

fn parse(frame: &[u8]) -> (Header, ip::Header, Message) {
    let (ethernet, packet) = Header::parse(frame).unwrap();
    let header = ip::Header::parse(packet).unwrap();
    let message = Message::parse(&header, packet).unwrap();
    (ethernet, header, message)
}

fn asks(target: Ipv6Addr) -> Vec<u8> {
    Solicitation::new(HOST, HOST_MAC, target).to_frame(HOST_MAC, MacAddr::default()).to_vec()
}

#[test]
fn answers_for_what_is_ours_from_the_virtual_mac() {
    let mut scene = scene();
    // RFC 4291 §2.5.1: the link-local address made from 02:00:00:00:01:0a.
    let link_local: Ipv6Addr = "fe80::ff:fe00:10a".parse().unwrap();
    let own: [(PortId, Ipv6Addr, MacAddr, bool); 4] = [
        (OUTSIDE, VIP6, VIP_MAC, false),
        (OUTSIDE, OUTSIDE_ADDRESS6, OUTSIDE_MAC, false),
        (OUTSIDE, link_local, OUTSIDE_MAC, false),
        (INSIDE, GATEWAY6, GATEWAY_MAC, true),
    ];
    for (port, address, mac, is_router) in own {
        scene.receive(port, &asks(address));
        let (ethernet, header, message) = parse(&scene.one_sent(port));
        assert_eq!((ethernet.source, ethernet.destination), (mac, HOST_MAC));
        assert_eq!((header.source, header.destination), (address.into(), HOST.into()));
        let expected = Solicitation::new(HOST, HOST_MAC, address).answer(mac, is_router);
        assert_eq!(message, Message::Advertisement(expected));
        assert!(expected.is_solicited && expected.overrides);
    }
    assert_eq!(scene.counters.tally(Tally::NdpReplies), 4);
}

/// RFC 4861 §7.2.4 and RFC 4862 §5.4: whoever wants our address for itself hears that it is taken, and so does everybody else.
#[test]
fn a_duplicate_address_probe_is_answered_to_all() {
    let mut scene = scene();
    let probe = Solicitation { source: None, destination: solicited_node(VIP6), target: VIP6, link_layer: None };
    scene.receive(OUTSIDE, &probe.to_frame(HOST_MAC, MacAddr::default()));
    let (_, header, message) = parse(&scene.one_sent(OUTSIDE));
    assert_eq!(header.destination, ALL_NODES.into());
    assert!(matches!(message, Message::Advertisement(Advertisement { is_solicited: false, target: VIP6, .. })));
}

#[test]
fn is_silent_about_what_is_not_ours() {
    let mut elsewhere = dual_stack();
    elsewhere.vips[0].state = VipState::Elsewhere;
    let mut scene = Scene::with(elsewhere, &WorkerConfig::default());
    for (port, address) in [(OUTSIDE, VIP6), (INSIDE, GATEWAY6), (INSIDE, VIP6), (OUTSIDE, ROUTER6)] {
        scene.receive(port, &asks(address));
        scene.assert_dropped(DropReason::NdpNotForUs);
    }
    // RFC 4861 §7.1.1: a hop limit below 255 may come from another network.
    let mut far = asks(OUTSIDE_ADDRESS6);
    far[21] = 254;
    scene.receive(OUTSIDE, &far);
    scene.assert_dropped(DropReason::MalformedNdp);
}

/// RFC 4861 §4.1: every host sends it when its interface comes up.
#[test]
fn a_router_solicitation_is_not_malformed() {
    let mut scene = Scene::with(dual_stack(), &WorkerConfig::default());
    let mut frame = asks(OUTSIDE_ADDRESS6);
    frame[54] = 133;
    scene.receive(OUTSIDE, &frame);
    scene.assert_dropped(DropReason::NdpNotForUs);
}

#[test]
fn counts_another_station_with_our_address() {
    let mut scene = scene();
    let claim = |mac| Advertisement::unsolicited(VIP6, mac, false).to_frame(mac, MacAddr::default()).to_vec();
    scene.receive(OUTSIDE, &claim(HOST_MAC));
    assert_eq!(scene.counters.tally(Tally::AddressConflicts), 1);
    scene.receive(OUTSIDE, &claim(VIP_MAC));
    assert_eq!(scene.counters.tally(Tally::AddressConflicts), 1, "our own announcement coming back is none");
}

#[test]
fn the_router_is_asked_for_at_its_solicited_node_address_and_then_polled() {
    let mut scene = scene();
    let mut peer = Peer::new(super::dual_stack::both(true, None));
    scene.command(peer.install());
    let ping = peer.seal(&echo_request(REMOTE, VIP));
    scene.receive(OUTSIDE, &ping);
    let asked = scene.one_sent(OUTSIDE);
    let (ethernet, header, message) = parse(&asked);
    assert_eq!(ethernet.source, OUTSIDE_MAC);
    assert_eq!(header.destination, solicited_node(ROUTER6).into());
    let Message::Solicitation(solicitation) = message else { panic!("{message:?}") };
    assert_eq!((solicitation.target, solicitation.link_layer), (ROUTER6, Some(OUTSIDE_MAC)));
    let source = solicitation.source.unwrap();
    assert!(source.is_unicast_link_local(), "a link's neighbour is asked from an address of the link: {source}");
    let answer = solicitation.answer(ROUTER_MAC, true).to_frame(ROUTER_MAC, OUTSIDE_MAC);
    scene.receive(OUTSIDE, &answer);
    peer.open(&scene.one_sent(OUTSIDE));
    scene.assert_nothing_dropped();

    scene.advance(30 * SECOND);
    let probe = scene.sent(OUTSIDE).pop().expect("a used neighbour is asked whether it is still there");
    let (ethernet, header, _) = parse(&probe);
    assert_eq!((ethernet.destination, header.destination), (ROUTER_MAC, ROUTER6.into()));
}

#[test]
fn a_neighbour_moves_only_with_the_override_flag() {
    let mut scene = scene();
    let mut peer = Peer::new(super::dual_stack::both(true, None));
    scene.command(peer.install());
    let mut ping = |scene: &mut Scene| {
        let frame = peer.seal(&echo_request(REMOTE, VIP));
        scene.receive(OUTSIDE, &frame);
        Header::parse(&scene.one_sent_with_arp(OUTSIDE)).unwrap().0.destination
    };
    assert_eq!(ping(&mut scene), ROUTER_MAC);
    for (overrides, expected) in [(false, ROUTER_MAC), (true, HOST_MAC)] {
        let moved = Advertisement { overrides, ..Advertisement::unsolicited(ROUTER6, HOST_MAC, true) };
        scene.receive(OUTSIDE, &moved.to_frame(HOST_MAC, MacAddr::default()));
        assert_eq!(ping(&mut scene), expected, "override {overrides}");
    }
}

#[test]
fn who_asks_for_us_is_not_asked_back() {
    let mut scene = scene();
    let mut peer = Peer::new(super::dual_stack::both(false, None));
    scene.command(peer.install());
    let asks = Solicitation::new(TARGET6, TARGET6_MAC, GATEWAY6).to_frame(TARGET6_MAC, MacAddr::default());
    scene.receive(INSIDE, &asks);
    scene.one_sent(INSIDE);
    let frame = peer.seal(&udp_between((REMOTE6, 40000), (VIP6, 53), b"query"));
    scene.receive(OUTSIDE, &frame);
    assert_eq!(Header::parse(&scene.one_sent(INSIDE)).unwrap().0.destination, TARGET6_MAC);
}

#[test]
fn a_question_is_held_while_its_vip_moves_only_when_it_is_for_us_alone() {
    let mut moving = dual_stack();
    moving.vips[0].state = VipState::HandingOver;
    let mut scene = Scene::with(moving.clone(), &WorkerConfig::default());
    scene.receive(OUTSIDE, &asks(VIP6));
    scene.assert_dropped(DropReason::NdpNotForUs);
    let poll = Solicitation::probe(HOST, HOST_MAC, VIP6).to_frame(HOST_MAC, VIP_MAC).to_vec();
    scene.receive(OUTSIDE, &poll);
    assert_eq!(scene.counters.tally(Tally::Held), 1);
    moving.vips[0].state = VipState::Elsewhere;
    scene.command(Command::Tables { version: 3, tables: moving.into() });
    assert_eq!(scene.one_sent(OUTSIDE)[12..], poll[12..]);
}
