//! How large packets may be, and who is told: targets, remote hosts, and us.

use std::time::Duration;

use vipsec_esp::sa::{ChildSa, DfPolicy, TunnelPolicy};
use vipsec_wire::icmp::kind;
use vipsec_wire::ip::{self, protocol};
use vipsec_wire::tcp::{Flags, Segment};
use vipsec_wire::{icmp, icmpv6};

use super::dual_stack::{PEER6, both};
use super::fragments::with_checksum;
use super::peer::{PEER, Peer, child};
use super::scene::*;
use crate::api::Tables;
use crate::drops::{DropReason, Tally};
use crate::worker::WorkerConfig;

fn scene_with(tables: Tables, child: ChildSa) -> (Scene, Peer) {
    let mut scene = Scene::with(tables, &WorkerConfig::default());
    let peer = Peer::new(child);
    scene.command(peer.install());
    scene.events();
    (scene, peer)
}

/// A packet of that many bytes from the VIP, with DF.
fn sized(bytes: usize) -> Vec<u8> {
    let mut packet = udp((VIP, 53), (REMOTE, 40000), &vec![0x55; bytes - 28]);
    packet[6] = 0x40;
    with_checksum(packet)
}

#[test]
fn an_ipv6_target_is_told_that_its_packet_is_too_big() {
    let (mut scene, _) = scene_with(dual_stack(), both(false, None));
    let big = udp_between((VIP6, 53), (REMOTE6, 40000), &[7; 1452]);
    scene.receive(INSIDE, &to_gateway(&big));
    let frame = scene.one_sent(INSIDE);
    let packet = &frame[14..];
    let header = ip::Header::parse(packet).unwrap();
    assert_eq!((header.source, header.destination), (GATEWAY6.into(), VIP6.into()));
    assert!(header.total_len <= 1280, "RFC 4443 section 2.4 (c)");
    let message = icmpv6::Message::parse(header.source, header.destination, header.payload(packet)).unwrap();
    // RFC 4443 §3.2; 1500 - 20 - 16 - 2 - 16.
    assert_eq!((message.kind(), message.next_hop_mtu()), (icmpv6::kind::PACKET_TOO_BIG, Some(1446)));
    assert!(big.starts_with(message.payload()));
    assert_eq!(scene.dropped(), [(DropReason::TooBig, 1)]);
}

#[test]
fn a_packet_whose_time_is_over_is_answered_both_ways() {
    let (mut scene, mut peer) = scene_with(tables(), child(1));
    let dying = |mut packet: Vec<u8>| {
        packet[8] = 1;
        with_checksum(packet)
    };
    let query = dying(udp((REMOTE, 40000), (VIP, 53), b"query"));
    let frame = peer.seal(&query);
    scene.receive(OUTSIDE, &frame);
    let through = scene.one_sent_with_arp(OUTSIDE);
    let answer = dying(udp((VIP, 53), (REMOTE, 40000), b"answer"));
    scene.receive(INSIDE, &to_gateway(&answer));
    let clear = scene.one_sent(INSIDE)[14..].to_vec();
    for (error, from, to, quoted) in [(peer.open(&through), VIP, REMOTE, query), (clear, GATEWAY, VIP, answer)] {
        let header = ip::Header::parse(&error).unwrap();
        assert_eq!((header.source, header.destination), (from.into(), to.into()));
        let message = icmp::Message::parse(header.payload(&error)).unwrap();
        assert_eq!((message.kind(), message.code()), (kind::TIME_EXCEEDED, 0));
        assert!(quoted.starts_with(message.payload()));
    }
    assert_eq!(scene.dropped(), [(DropReason::TtlExpired, 2)]);
}

#[test]
fn a_remote_host_is_told_through_its_tunnel_that_the_inside_network_is_narrower() {
    let mut narrow = dual_stack();
    narrow.ports[1].mtu = 1280;
    let (mut scene, mut peer) = scene_with(narrow, both(false, None));
    let mut query = udp((REMOTE, 40000), (VIP, 53), &[7; 1300]);
    query[6] = 0x40;
    let query = with_checksum(query);
    let frame = peer.seal(&query);
    scene.receive(OUTSIDE, &frame);
    let error = peer.open(&scene.one_sent_with_arp(OUTSIDE));
    let header = ip::Header::parse(&error).unwrap();
    assert_eq!((header.source, header.destination), (VIP.into(), REMOTE.into()));
    let message = icmp::Message::parse(header.payload(&error)).unwrap();
    assert_eq!((message.kind(), message.code(), message.next_hop_mtu()), (3, 4, Some(1280)));
    assert_eq!(scene.dropped(), [(DropReason::TooBig, 1)]);

    let frame = peer.seal(&udp((REMOTE, 40000), (VIP, 53), &[7; 1300]));
    scene.receive(OUTSIDE, &frame);
    assert_eq!(scene.sent_with_arp(INSIDE).len(), 2, "without DF it is split");
}

/// RFC 9293 §3.7.1: option kind 2, length 4.
fn mss_option(mss: u16) -> Vec<u8> {
    [[2, 4], mss.to_be_bytes()].concat()
}

fn mss_of(packet: &[u8]) -> u16 {
    let header = ip::Header::parse(packet).unwrap();
    let segment = header.payload(packet);
    let sum = vipsec_wire::checksum::Sum::new();
    let sum = sum.pseudo_header(header.source, header.destination, protocol::TCP, segment.len() as u32).bytes(segment);
    assert_eq!(sum.finish(), 0, "the checksum is right");
    Segment::parse(segment).unwrap().mss().unwrap()
}

#[test]
fn segment_sizes_are_lowered_to_what_fits_the_tunnel_both_ways() {
    // 1446 bytes fit the tunnel; 40 of them are headers, or 60.
    for (is_v6, fits) in [(false, 1406), (true, 1386)] {
        let (mut scene, mut peer) = scene_with(dual_stack(), both(false, None));
        let (vip, remote): (std::net::IpAddr, std::net::IpAddr) =
            if is_v6 { (VIP6.into(), REMOTE6.into()) } else { (VIP.into(), REMOTE.into()) };
        for (announced, expected) in [(1460, fits), (fits, fits), (536, 536)] {
            let syn = tcp_between((remote, 40000), (vip, 80), Flags::SYN, &mss_option(announced));
            let frame = peer.seal(&syn);
            scene.receive(OUTSIDE, &frame);
            assert_eq!(mss_of(&scene.one_sent_with_arp(INSIDE)[14..]), expected);
            let answer = tcp_between((vip, 80), (remote, 40000), Flags(0x12), &mss_option(announced));
            scene.receive(INSIDE, &to_gateway(&answer));
            let frame = scene.one_sent_with_arp(OUTSIDE);
            assert_eq!(mss_of(&peer.open(&frame)), expected);
        }
        assert_eq!(scene.counters.tally(Tally::MssClamped), 2);
    }
}

/// "Fragmentation needed" of a router on the way, about a packet that left us.
fn too_big(frame: &[u8], mtu: u16) -> Vec<u8> {
    let [high, low] = mtu.to_be_bytes();
    let quote = &frame[14..14 + 36];
    to_vip(&icmp(ROUTER, VIP, kind::UNREACHABLE, 4, &[&[0, 0, high, low], quote].concat()))
}

#[test]
fn a_router_on_the_way_lowers_the_tunnels_mtu_for_ten_minutes() {
    let policy = TunnelPolicy { df: DfPolicy::Set, ..Default::default() };
    for udp_ports in [None, Some((4500, 61000))] {
        let mut with_df = ChildSa { policy, ..child(1) };
        with_df.tunnel.udp = udp_ports;
        let (mut scene, mut peer) = scene_with(tables(), with_df);
        scene.receive(INSIDE, &to_gateway(&sized(1400)));
        let frame = scene.one_sent_with_arp(OUTSIDE);
        peer.open(&frame);
        scene.receive(OUTSIDE, &too_big(&frame, 1400));
        assert_eq!(scene.counters.tally(Tally::PathMtuLowered), 1);
        scene.assert_nothing_dropped();

        scene.receive(INSIDE, &to_gateway(&sized(1400)));
        let error = scene.one_sent(INSIDE);
        let told = u16::from_be_bytes([error[40], error[41]]);
        assert_eq!(told, if udp_ports.is_some() { 1338 } else { 1346 });
        scene.receive(INSIDE, &to_gateway(&sized(usize::from(told))));
        let fits = scene.one_sent_with_arp(OUTSIDE);
        assert!(fits.len() <= 14 + 1400);
        scene.dropped();

        // RFC 1191 §6.3: after ten minutes it is tried again.
        scene.advance(Duration::from_secs(602));
        scene.sent(OUTSIDE);
        scene.receive(INSIDE, &to_gateway(&sized(1400)));
        assert_eq!(scene.sent_with_arp(OUTSIDE).len(), 1);
    }
}

#[test]
fn who_did_not_see_our_packets_cannot_lower_the_mtu() {
    let (mut scene, mut peer) = scene_with(tables(), child(1));
    scene.receive(INSIDE, &to_gateway(&sized(1400)));
    let frame = scene.one_sent_with_arp(OUTSIDE);
    let mut other_spi = frame.clone();
    other_spi[14 + 20] ^= 1;
    scene.receive(OUTSIDE, &too_big(&other_spi, 600));
    scene.assert_dropped(DropReason::UnansweredIcmp);
    let mut other_peer = frame.clone();
    other_peer[14 + 19] ^= 1;
    scene.receive(OUTSIDE, &too_big(&other_peer, 600));
    scene.assert_dropped(DropReason::UnansweredIcmp);
    let mut not_ours = frame.clone();
    not_ours[14 + 15] ^= 1;
    scene.receive(OUTSIDE, &too_big(&not_ours, 600));
    scene.assert_dropped(DropReason::MalformedIcmp);
    // And nobody lowers it below what every link carries, or raises it.
    scene.receive(OUTSIDE, &too_big(&frame, 68));
    scene.receive(OUTSIDE, &too_big(&frame, 1400));
    assert_eq!(scene.counters.tally(Tally::PathMtuLowered), 1);
    // 576 - 20 - 16 - 16, a multiple of four, less the trailer.
    scene.receive(INSIDE, &to_gateway(&sized(522)));
    let frame = scene.one_sent_with_arp(OUTSIDE);
    assert_eq!(peer.open(&frame).len(), 522);
    scene.receive(INSIDE, &to_gateway(&sized(523)));
    assert_eq!(scene.dropped(), [(DropReason::TooBig, 1)]);
}

#[test]
fn packet_too_big_lowers_a_tunnel_over_ipv6() {
    let (mut scene, mut peer) = scene_with(dual_stack(), both(true, None));
    scene.receive(INSIDE, &to_gateway(&sized(1400)));
    let frame = scene.one_sent_with_arp(OUTSIDE);
    peer.open(&frame);
    let error =
        icmpv6(PEER6, VIP6, icmpv6::kind::PACKET_TOO_BIG, 0, &[&1300u32.to_be_bytes(), &frame[14..14 + 60]].concat());
    scene.receive(OUTSIDE, &to_vip(&error));
    assert_eq!(scene.counters.tally(Tally::PathMtuLowered), 1);
    scene.receive(INSIDE, &to_gateway(&sized(1400)));
    let error = scene.one_sent(INSIDE);
    // 1300 - 40 - 16 - 16, a multiple of four, less the trailer.
    assert_eq!(u16::from_be_bytes([error[40], error[41]]), 1226);
}

#[test]
fn a_peer_that_moved_is_on_another_path() {
    let mut natted = child(1);
    natted.tunnel.udp = Some((4500, 61000));
    natted.policy.df = DfPolicy::Set;
    let (mut scene, mut peer) = scene_with(tables(), natted);
    scene.receive(INSIDE, &to_gateway(&sized(1400)));
    let frame = scene.one_sent_with_arp(OUTSIDE);
    scene.receive(OUTSIDE, &too_big(&frame, 1000));
    let esp = peer.esp(&echo_request(REMOTE, VIP), protocol::IPV4);
    scene.receive(OUTSIDE, &Peer::in_udp((PEER, 62000), &esp));
    scene.sent_with_arp(OUTSIDE);
    scene.receive(INSIDE, &to_gateway(&sized(1400)));
    assert_eq!(scene.sent_with_arp(OUTSIDE).len(), 1);
}
