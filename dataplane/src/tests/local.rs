//! The appliance's own host as a target, behind a port of its own.

use vipsec_distribute::service::{Forwarding, ServiceTable};
use vipsec_wire::ethernet::{EtherType, Header, MacAddr};
use vipsec_wire::ip::{self, protocol};
use vipsec_wire::ipv4::{self, Packet};
use vipsec_wire::tcp::Flags;

use super::fragments::split;
use super::peer::{Peer, child};
use super::scene::*;
use crate::api::{PortId, PortTable, Side, Tables, VipState};
use crate::drops::{DropReason, Tally};
use crate::worker::WorkerConfig;

pub(super) const LOCAL: PortId = PortId(2);
/// The port's, and the host's.
pub(super) const LOCAL_MAC: MacAddr = MacAddr([2, 0, 0, 0, 3, 0x0a]);

/// Both services' first target is this host, under the appliance's own inside address; the second is down.
pub(super) fn tables_with_host() -> Tables {
    let mut tables = tables();
    tables.ports.push(PortTable { side: Side::Local, mac: LOCAL_MAC, addresses: Vec::new(), mtu: 1500 });
    let mut targets = tables.services.targets().to_vec();
    (targets[0].address, targets[0].forwarding) = ("10.1.0.11".parse().unwrap(), Forwarding::Local);
    targets[1].state = vipsec_distribute::service::TargetState::Down;
    tables.services = ServiceTable::new(targets, tables.services.services().to_vec()).unwrap().into();
    tables
}

fn scene() -> (Scene, Peer) {
    let mut scene = Scene::with(tables_with_host(), &WorkerConfig::default());
    let peer = Peer::new(child(1));
    scene.command(peer.install());
    scene.events();
    (scene, peer)
}

pub(super) fn from_host(packet: &[u8]) -> Vec<u8> {
    frame(LOCAL_MAC, LOCAL_MAC, EtherType::IPV4, packet)
}

#[test]
fn a_connection_to_the_host_and_back_asks_nobody_for_a_mac_address() {
    let (mut scene, mut peer) = scene();
    scene.receive(OUTSIDE, &peer.seal(&tcp((REMOTE, 40000), (VIP, 80), Flags::SYN, b"")));
    let delivered = scene.one_sent(LOCAL);
    let (ethernet, packet) = Header::parse(&delivered).unwrap();
    assert_eq!((ethernet.destination, ethernet.ethertype), (LOCAL_MAC, EtherType::IPV4));
    let packet = Packet::parse(packet).unwrap();
    assert_eq!((packet.source(), packet.destination(), packet.ttl()), (REMOTE, VIP, 63));
    assert!(scene.sent(INSIDE).is_empty());

    // Whatever MAC address the host writes to: it is alone with us.
    for destination in [LOCAL_MAC, GATEWAY_MAC] {
        let answer = tcp((VIP, 80), (REMOTE, 40000), Flags::SYN.union(Flags::ACK), b"");
        scene.receive(LOCAL, &frame(destination, LOCAL_MAC, EtherType::IPV4, &answer));
        let inner = peer.open(&scene.one_sent_with_arp(OUTSIDE));
        let header = ip::Header::parse(&inner).unwrap();
        assert_eq!((header.source, header.destination, header.protocol), (VIP.into(), REMOTE.into(), protocol::TCP));
    }
    assert_eq!(scene.counters.tally(Tally::RepliesUnknown), 0);
    scene.assert_nothing_dropped();
}

#[test]
fn a_takeover_asks_nobody_about_the_host() {
    let mut elsewhere = tables_with_host();
    elsewhere.vips[0].state = VipState::Elsewhere;
    let mut scene = Scene::with(elsewhere, &WorkerConfig::default());
    scene.use_tables(tables_with_host());
    let asked = scene.sent(INSIDE);
    assert_eq!(asked.len(), 1, "the other target alone: {asked:02x?}");
    assert!(scene.sent(LOCAL).is_empty());
}

#[test]
fn what_the_host_says_of_itself_goes_nowhere() {
    let (mut scene, _) = scene();
    let from = |source| from_host(&udp((source, 68), (REMOTE, 67), b"x"));
    scene.receive(LOCAL, &from("10.1.0.11".parse().unwrap()));
    scene.assert_dropped(DropReason::SourceNotVip);
    scene.receive(LOCAL, &arp_request((VIP, LOCAL_MAC), GATEWAY));
    scene.assert_dropped(DropReason::ArpNotForUs);
    scene.receive(LOCAL, &from_host(&[0x45; 10]));
    scene.assert_dropped(DropReason::MalformedIp);
    // Where it has no tunnel it gets no further than any target.
    scene.receive(LOCAL, &from_host(&udp((VIP, 53), (ROUTER, 40000), b"x")));
    scene.assert_dropped(DropReason::NoOutboundSa);
}

#[test]
fn fragments_of_the_host_are_put_together_before_anybody_looks_at_ports() {
    let (mut scene, mut peer) = scene();
    scene.receive(OUTSIDE, &peer.seal(&udp((REMOTE, 40000), (VIP, 53), b"query")));
    scene.one_sent(LOCAL);
    let answer = udp((VIP, 53), (REMOTE, 40000), &[7; 1000]);
    for piece in split(&answer, 600) {
        scene.receive(LOCAL, &from_host(&piece));
    }
    assert!(peer.open(&scene.one_sent_with_arp(OUTSIDE)).ends_with(&[7; 1000]));
    scene.assert_nothing_dropped();
}

#[test]
fn the_host_is_told_what_is_too_big() {
    let (mut scene, mut peer) = scene();
    scene.receive(OUTSIDE, &peer.seal(&udp((REMOTE, 40000), (VIP, 53), b"query")));
    scene.one_sent(LOCAL);
    let mut answer = udp((VIP, 53), (REMOTE, 40000), &[7; 1472]);
    answer[6] = 0x40;
    let answer = super::fragments::with_checksum(answer);
    scene.receive(LOCAL, &from_host(&answer));
    assert_eq!(scene.dropped(), [(DropReason::TooBig, 1)]);
    let error = scene.one_sent(LOCAL);
    let (ethernet, packet) = Header::parse(&error).unwrap();
    assert_eq!(ethernet.destination, LOCAL_MAC);
    let header = ip::Header::parse(packet).unwrap();
    assert_eq!((header.source, header.destination, header.protocol), (GATEWAY.into(), VIP.into(), protocol::ICMP));
    assert_eq!(packet[ipv4::HEADER_LEN..][..2], [3, 4], "fragmentation needed");
}

#[test]
fn without_a_port_to_it_the_host_is_no_target() {
    let mut portless = tables_with_host();
    portless.ports.pop();
    let mut scene = Scene::with(portless, &WorkerConfig::default());
    let mut peer = Peer::new(child(1));
    scene.command(peer.install());
    scene.receive(OUTSIDE, &peer.seal(&udp((REMOTE, 40000), (VIP, 53), b"query")));
    scene.assert_dropped(DropReason::NoLocalPort);
}

#[test]
fn what_the_host_says_while_the_vip_is_handed_over_waits_for_whoever_owns_it_then() {
    for state in [VipState::Owned, VipState::Elsewhere] {
        let (mut scene, mut peer) = scene();
        scene.receive(OUTSIDE, &peer.seal(&udp((REMOTE, 40000), (VIP, 53), b"query")));
        scene.one_sent(LOCAL);
        let tables_in = |state| {
            let mut tables = tables_with_host();
            tables.vips[0].state = state;
            tables
        };
        scene.use_tables(tables_in(VipState::HandingOver));
        scene.receive(LOCAL, &from_host(&udp((VIP, 53), (REMOTE, 40000), b"answer")));
        scene.use_tables(tables_in(state));
        assert_eq!(scene.sent_with_arp(OUTSIDE).len(), usize::from(state == VipState::Owned));
        let to_new_owner = |frame: &Vec<u8>| Header::parse(frame).unwrap().0.destination == GATEWAY_MAC;
        let count = scene.sent(INSIDE).iter().filter(|frame| to_new_owner(frame)).count();
        assert_eq!(count, usize::from(state == VipState::Elsewhere));
        assert!(scene.sent(LOCAL).is_empty());
        scene.assert_nothing_dropped();
    }
}
