//! Services that take packets in the clear, and the policies above them.

use std::sync::Arc;

use vipsec_distribute::connection::{ConnectionState, Limits};
use vipsec_distribute::service::{Accepts, Service, ServiceTable};
use vipsec_wire::ethernet::Header;
use vipsec_wire::icmp::kind;
use vipsec_wire::ip;
use vipsec_wire::tcp::Flags;

use super::peer::{Peer, child, selector};
use super::scene::*;
use crate::api::{Command, Event, Policy, PolicyAction, Report, ReportKind, Tables, VipState};
use crate::drops::{DropReason, Tally};
use crate::worker::WorkerConfig;

/// A host on the outside network without a tunnel.
pub(super) const CLIENT: std::net::Ipv4Addr = std::net::Ipv4Addr::new(198, 51, 100, 9);

/// The VIP's services take that.
pub(super) fn accepting(accepts: Accepts) -> Tables {
    let base = tables();
    let services = base.services.services().iter().map(|service| Service { accepts, ..service.clone() });
    let services = ServiceTable::new(base.services.targets().to_vec(), services.collect()).unwrap();
    Tables { services: Arc::new(services), ..base }
}

fn scene_with(tables: Tables) -> (Scene, Peer) {
    let mut scene = Scene::with(tables, &WorkerConfig::default());
    let peer = Peer::new(child(1));
    scene.command(peer.install());
    scene.events();
    (scene, peer)
}

fn query() -> Vec<u8> {
    udp((CLIENT, 40000), (VIP, 53), b"query")
}

fn answer() -> Vec<u8> {
    udp((VIP, 53), (CLIENT, 40000), b"answer")
}

#[test]
fn a_clear_service_is_served_both_ways_in_the_clear() {
    for accepts in [Accepts::Clear, Accepts::Both] {
        let (mut scene, _) = scene_with(accepting(accepts));
        scene.receive(OUTSIDE, &to_vip(&query()));
        let frame = scene.one_sent_with_arp(INSIDE);
        let (ethernet, packet) = Header::parse(&frame).unwrap();
        assert!(TARGET_MACS.contains(&ethernet.destination) && ethernet.source == GATEWAY_MAC);
        let header = ip::Header::parse(packet).unwrap();
        assert_eq!((header.source, header.destination, header.ttl), (CLIENT.into(), VIP.into(), 63));

        scene.receive(INSIDE, &to_gateway(&answer()));
        let frame = scene.one_sent_with_arp(OUTSIDE);
        let (ethernet, packet) = Header::parse(&frame).unwrap();
        assert_eq!((ethernet.source, ethernet.destination), (VIP_MAC, ROUTER_MAC));
        let header = ip::Header::parse(packet).unwrap();
        assert_eq!((header.source, header.destination, header.ttl), (VIP.into(), CLIENT.into(), 63));
        assert!(packet.ends_with(b"answer"));
        scene.assert_nothing_dropped();
        assert_eq!((scene.counters.to_targets.packets(), scene.counters.to_remotes.packets()), (1, 1));
        assert_eq!(scene.counters.esp_out.packets(), 0);
    }
}

#[test]
fn a_service_for_tunnels_takes_nothing_in_the_clear_and_the_other_way_round() {
    let (mut scene, mut peer) = scene_with(accepting(Accepts::Decrypted));
    scene.receive(OUTSIDE, &to_vip(&query()));
    scene.assert_dropped(DropReason::ClearText);
    let (mut scene, _) = scene_with(accepting(Accepts::Clear));
    let frame = peer.seal(&udp((REMOTE, 40000), (VIP, 53), b"query"));
    scene.receive(OUTSIDE, &frame);
    scene.assert_dropped(DropReason::NotInTunnel);
}

/// What came through a tunnel is never answered in the clear, and nobody outside takes over a connection that did.
#[test]
fn a_connection_stays_where_it_came_from() {
    let (mut scene, mut peer) = scene_with(accepting(Accepts::Both));
    let frame = peer.seal(&udp((REMOTE, 40000), (VIP, 53), b"query"));
    scene.receive(OUTSIDE, &frame);
    scene.sent_with_arp(INSIDE);
    scene.receive(OUTSIDE, &to_vip(&udp((REMOTE, 40000), (VIP, 53), b"spoofed")));
    scene.assert_dropped(DropReason::ClearText);
    scene.receive(INSIDE, &to_gateway(&udp((VIP, 53), (REMOTE, 40000), b"answer")));
    let frame = scene.one_sent_with_arp(OUTSIDE);
    assert!(peer.open(&frame).ends_with(b"answer"));
}

#[test]
fn an_answer_of_no_known_connection_is_protected_unless_its_service_is_clear() {
    let config = WorkerConfig { connections: Limits { connections_max: 1, ..Limits::default() }, ..Default::default() };
    for (accepts, reason) in [(Accepts::Clear, None), (Accepts::Both, Some(DropReason::NoOutboundSa))] {
        let mut scene = Scene::with(accepting(accepts), &config);
        scene.receive(INSIDE, &to_gateway(&answer()));
        match reason {
            Some(reason) => scene.assert_dropped(reason),
            None => assert!(scene.one_sent_with_arp(OUTSIDE).ends_with(b"answer")),
        }
        assert_eq!(scene.counters.tally(Tally::RepliesUnknown), 1);
    }
}

#[test]
fn connections_in_the_clear_are_tracked() {
    let (mut scene, _) = scene_with(accepting(Accepts::Both));
    scene.receive(OUTSIDE, &to_vip(&tcp((CLIENT, 40000), (VIP, 80), Flags::SYN, b"")));
    scene.receive(INSIDE, &to_gateway(&tcp((VIP, 80), (CLIENT, 40000), Flags(0x12), b"")));
    scene.command(Command::Report { token: 1, what: ReportKind::Connections { max: 1 } });
    let Some(Event::Report { report: Report::Connections { total: 1, entries }, .. }) = scene.events().pop() else {
        panic!("no report")
    };
    assert_eq!(entries[0].state, ConnectionState::TcpEstablished);
}

#[test]
fn policies_go_before_services() {
    let any = selector("0.0.0.0/0");
    let with = |action| {
        let policy = Policy { local: any.clone(), remote: selector("198.51.100.0/24"), action };
        Tables { policies: vec![policy], ..accepting(Accepts::Both) }
    };
    for (action, reason) in
        [(PolicyAction::Discard, DropReason::Discarded), (PolicyAction::Protect, DropReason::ClearText)]
    {
        let (mut scene, _) = scene_with(with(action));
        scene.receive(OUTSIDE, &to_vip(&query()));
        scene.assert_dropped(reason);
        scene.receive(INSIDE, &to_gateway(&answer()));
        let back = if action == PolicyAction::Discard { DropReason::Discarded } else { DropReason::NoOutboundSa };
        scene.assert_dropped(back);
    }
    // A bypass lets a target speak first, even to hosts for which there is a tunnel.
    let bypass = Policy { local: any.clone(), remote: selector("10.9.0.0/16"), action: PolicyAction::Bypass };
    let (mut scene, _) = scene_with(Tables { policies: vec![bypass], ..tables() });
    scene.receive(INSIDE, &to_gateway(&udp((VIP, 9999), (REMOTE, 1), b"hello")));
    assert!(scene.one_sent_with_arp(OUTSIDE).ends_with(b"hello"));
    // It opens no service.
    scene.receive(OUTSIDE, &to_vip(&udp((REMOTE, 40000), (VIP, 53), b"query")));
    scene.assert_dropped(DropReason::ClearText);
}

#[test]
fn icmp_errors_about_clear_connections_find_their_way_both_ways() {
    let (mut scene, _) = scene_with(accepting(Accepts::Both));
    scene.receive(OUTSIDE, &to_vip(&query()));
    let target = Header::parse(&scene.one_sent_with_arp(INSIDE)).unwrap().0.destination;
    let error = icmp(ROUTER, VIP, kind::UNREACHABLE, 3, &[&[0; 4], &answer()[..28]].concat());
    scene.receive(OUTSIDE, &to_vip(&error));
    assert_eq!(Header::parse(&scene.one_sent(INSIDE)).unwrap().0.destination, target);

    let error = icmp(VIP, CLIENT, kind::UNREACHABLE, 3, &[&[0; 4], &query()[..28]].concat());
    scene.receive(INSIDE, &to_gateway(&error));
    let frame = scene.one_sent_with_arp(OUTSIDE);
    assert_eq!(ip::Header::parse(&frame[14..]).unwrap().destination, CLIENT.into());
    scene.assert_nothing_dropped();
}

#[test]
fn an_icmp_error_about_a_tunnels_service_is_not_taken_in_the_clear() {
    let (mut scene, _) = scene_with(tables());
    let error = icmp(ROUTER, VIP, kind::UNREACHABLE, 3, &[&[0; 4], &answer()[..28]].concat());
    scene.receive(OUTSIDE, &to_vip(&error));
    scene.assert_dropped(DropReason::ClearText);
}

#[test]
fn a_packet_too_big_for_the_outside_network_is_answered_or_split() {
    let mut narrow = accepting(Accepts::Both);
    narrow.ports[0].mtu = 1000;
    let (mut scene, _) = scene_with(narrow);
    scene.receive(OUTSIDE, &to_vip(&query()));
    scene.sent_with_arp(INSIDE);
    let mut big = udp((VIP, 53), (CLIENT, 40000), &[7; 1200]);
    scene.receive(INSIDE, &to_gateway(&big));
    assert_eq!(scene.sent_with_arp(OUTSIDE).len(), 2);
    big[6] = 0x40;
    scene.receive(INSIDE, &to_gateway(&super::fragments::with_checksum(big)));
    let error = scene.one_sent(INSIDE);
    assert_eq!(error[34..36], [3, 4], "fragmentation needed");
    assert_eq!(scene.dropped(), [(DropReason::TooBig, 1)]);
}

#[test]
fn a_vip_that_is_elsewhere_serves_nobody_in_the_clear() {
    let mut elsewhere = accepting(Accepts::Both);
    elsewhere.vips[0].state = VipState::Elsewhere;
    let (mut scene, _) = scene_with(elsewhere);
    scene.receive(OUTSIDE, &to_vip(&query()));
    scene.assert_dropped(DropReason::VipNotOwned);
}
