//! IPv4 and IPv6 outside and inside of tunnels, in all four combinations.

use std::net::{IpAddr, Ipv6Addr};

use vipsec_esp::sa::{ChildSa, Selector, TunnelEnds};
use vipsec_wire::ethernet::{EtherType, Header};
use vipsec_wire::icmpv6::{self, kind};
use vipsec_wire::ip;
use vipsec_wire::udp::{ChecksumState, Datagram};

use super::peer::{PEER, Peer, child, selector};
use super::scene::*;
use crate::api::{Command, Event, IkeDatagram};
use crate::drops::{DropReason, Tally};
use crate::worker::WorkerConfig;

pub(super) const PEER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xf, 0, 0, 0, 0, 5);

/// A child SA for both families inside, with tunnels of that family.
pub(super) fn both(is_v6: bool, udp: Option<(u16, u16)>) -> ChildSa {
    let (local, remote): (IpAddr, IpAddr) = if is_v6 { (VIP6.into(), PEER6.into()) } else { (VIP.into(), PEER.into()) };
    ChildSa {
        tunnel: TunnelEnds { local, remote, udp },
        local_selectors: vec![selector("192.0.2.1/32"), selector("2001:db8:1::1/128")],
        remote_selectors: vec![selector("10.9.0.0/16"), selector("2001:db8:9::/48")],
        ..child(1)
    }
}

fn scene_with(child: ChildSa) -> (Scene, Peer) {
    let mut scene = Scene::with(dual_stack(), &WorkerConfig::default());
    let peer = Peer::new(child);
    scene.command(peer.install());
    scene.events();
    (scene, peer)
}

fn ends(is_v6: bool) -> (IpAddr, IpAddr) {
    if is_v6 { (REMOTE6.into(), VIP6.into()) } else { (REMOTE.into(), VIP.into()) }
}

#[test]
fn every_family_in_every_family() {
    for (outer_v6, inner_v6, udp) in [false, true]
        .into_iter()
        .flat_map(|outer| [(outer, false), (outer, true)])
        .flat_map(|(outer, inner)| [(outer, inner, None), (outer, inner, Some((4500, 61000)))])
    {
        let (mut scene, mut peer) = scene_with(both(outer_v6, udp));
        let (remote, vip) = ends(inner_v6);
        let query = udp_between((remote, 40000), (vip, 53), b"query");
        let frame = peer.seal(&query);
        scene.receive(OUTSIDE, &frame);
        let delivered = scene.one_sent_with_arp(INSIDE);
        let (ethernet, packet) = Header::parse(&delivered).unwrap();
        assert_eq!(ethernet.source, GATEWAY_MAC);
        let header = ip::Header::parse(packet).unwrap();
        assert_eq!((header.source, header.destination, header.ttl), (remote.into(), vip.into(), 63));
        assert_eq!(packet[header.header_len..], query[header.header_len..]);

        let answer = udp_between((vip, 53), (remote, 40000), b"answer");
        scene.receive(INSIDE, &to_gateway(&answer));
        let frame = scene.one_sent_with_arp(OUTSIDE);
        assert_eq!(Header::parse(&frame).unwrap().0.source, VIP_MAC);
        let received = peer.open(&frame);
        let header = ip::Header::parse(&received).unwrap();
        assert_eq!((header.source, header.destination, header.ttl), (vip.into(), remote.into(), 63));
        assert!(received.ends_with(b"answer"));
        scene.assert_nothing_dropped();
        assert_eq!(scene.counters.tally(Tally::RepliesUnknown), 0);
    }
}

#[test]
fn an_ipv6_target_is_found_by_neighbour_discovery() {
    let (mut scene, mut peer) = scene_with(both(false, None));
    let frame = peer.seal(&udp_between((REMOTE6, 40000), (VIP6, 53), b"query"));
    scene.receive(OUTSIDE, &frame);
    let delivered = scene.one_sent_with_arp(INSIDE);
    let (ethernet, _) = Header::parse(&delivered).unwrap();
    assert_eq!((ethernet.destination, ethernet.ethertype), (TARGET6_MAC, EtherType::IPV6));
    assert_eq!(scene.counters.tally(Tally::NdpRequests), 1);
}

#[test]
fn an_ipv6_ping_is_answered_in_the_clear_and_through_the_tunnel() {
    let ping = |from| icmpv6(from, VIP6, kind::ECHO_REQUEST, 0, b"\x12\x34\x00\x01some data");
    let (mut scene, mut peer) = scene_with(both(false, None));
    let frame = peer.seal(&ping(REMOTE6));
    scene.receive(OUTSIDE, &frame);
    let through = scene.one_sent_with_arp(OUTSIDE);
    scene.receive(OUTSIDE, &to_vip(&ping(PEER6)));
    let clear = scene.one_sent(OUTSIDE);
    for (reply, to) in [(peer.open(&through), REMOTE6), (clear[14..].to_vec(), PEER6)] {
        let header = ip::Header::parse(&reply).unwrap();
        assert_eq!((header.source, header.destination, header.ttl), (VIP6.into(), to.into(), 64));
        let message = icmpv6::Message::parse(header.source, header.destination, header.payload(&reply)).unwrap();
        assert_eq!((message.kind(), message.identifier(), message.sequence()), (kind::ECHO_REPLY, 0x1234, 1));
        assert_eq!(message.payload(), b"some data");
    }
    assert_eq!(scene.counters.tally(Tally::EchoReplies), 2);
}

#[test]
fn ike_speaks_ipv6() {
    let mut scene = Scene::with(dual_stack(), &WorkerConfig::default());
    scene.receive(OUTSIDE, &to_vip(&udp_between((PEER6, 61000), (VIP6, 4500), b"\0\0\0\0IKE_AUTH")));
    let (local, remote) = ((VIP6, 4500).into(), (PEER6, 61000).into());
    let events = scene.events();
    let [Event::Ike(datagram)] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!(*datagram, IkeDatagram { local, remote, payload: b"IKE_AUTH".to_vec() });

    for len in [8, 4000] {
        scene.command(Command::SendIke(IkeDatagram { local, remote, payload: vec![7; len] }));
        let frames = scene.sent_with_arp(OUTSIDE);
        assert_eq!(frames.len(), if len < 1400 { 1 } else { 3 });
        if let [frame] = frames.as_slice() {
            let packet = &frame[14..];
            let header = ip::Header::parse(packet).unwrap();
            let datagram = Datagram::parse(header.payload(packet)).unwrap();
            assert_eq!(datagram.checksum_state(header.source, header.destination), ChecksumState::Right);
            assert_eq!(datagram.payload(), [&[0; 4], [7; 8].as_slice()].concat());
        }
        assert!(frames.iter().all(|frame| frame.len() <= 14 + 1500));
    }

    // RFC 8200 §8.1: a zero checksum is no checksum.
    let mut unchecked = udp_between((PEER6, 500), (VIP6, 500), b"message");
    unchecked[46..48].copy_from_slice(&[0, 0]);
    scene.receive(OUTSIDE, &to_vip(&unchecked));
    scene.assert_dropped(DropReason::MalformedUdp);
}

#[test]
fn a_packet_is_what_its_frame_and_its_tunnel_say() {
    let (mut scene, mut peer) = scene_with(both(false, None));
    let query = udp_between((REMOTE6, 40000), (VIP6, 53), b"query");
    scene.receive(OUTSIDE, &frame(VIP_MAC, ROUTER_MAC, EtherType::IPV4, &query));
    scene.assert_dropped(DropReason::MalformedIp);
    scene.receive(INSIDE, &frame(GATEWAY_MAC, TARGET6_MAC, EtherType::IPV4, &query));
    scene.assert_dropped(DropReason::MalformedIp);
    let esp = peer.esp(&query, vipsec_wire::ip::protocol::IPV4);
    scene.receive(OUTSIDE, &to_vip(&ip(PEER, VIP, vipsec_wire::ip::protocol::ESP, &esp)));
    scene.assert_dropped(DropReason::InnerMalformed);
    // RFC 4942 §2.2: an IPv4-mapped address must not pass for the IPv4 address.
    let mapped = udp_between((REMOTE.to_ipv6_mapped(), 40000), (VIP.to_ipv6_mapped(), 53), b"query");
    let frame = peer.seal_as_v6(&mapped);
    scene.receive(OUTSIDE, &frame);
    scene.assert_dropped(DropReason::InnerMalformed);
}

#[test]
fn selectors_of_one_family_keep_the_other_out() {
    let all_v6 = Selector {
        addresses: "::".parse::<IpAddr>().unwrap()..=Ipv6Addr::from_bits(u128::MAX).into(),
        ..selector("10.0.0.0/8")
    };
    let only_v6 = ChildSa { remote_selectors: vec![all_v6], ..both(false, None) };
    let (mut scene, mut peer) = scene_with(only_v6);
    let frame = peer.seal(&udp_between((REMOTE, 40000), (VIP, 53), b"query"));
    scene.receive(OUTSIDE, &frame);
    scene.assert_dropped(DropReason::InboundSelectorMismatch);
    scene.receive(INSIDE, &to_gateway(&udp_between((VIP, 53), (REMOTE, 40000), b"answer")));
    scene.assert_dropped(DropReason::NoOutboundSa);
    let frame = peer.seal(&udp_between((REMOTE6, 40000), (VIP6, 53), b"query"));
    scene.receive(OUTSIDE, &frame);
    scene.one_sent_with_arp(INSIDE);
}

#[test]
fn errors_about_ipv6_reach_their_target() {
    let (mut scene, mut peer) = scene_with(both(false, None));
    let frame = peer.seal(&udp_between((REMOTE6, 40000), (VIP6, 53), b"query"));
    scene.receive(OUTSIDE, &frame);
    scene.one_sent_with_arp(INSIDE);
    let answer = udp_between((VIP6, 53), (REMOTE6, 40000), &[0; 1400]);
    let error = icmpv6(REMOTE6, VIP6, kind::PACKET_TOO_BIG, 0, &[&[0, 0, 5, 0], &answer[..80]].concat());
    let frame = peer.seal(&error);
    scene.receive(OUTSIDE, &frame);
    assert_eq!(Header::parse(&scene.one_sent(INSIDE)).unwrap().0.destination, TARGET6_MAC);
}
