//! Fragments outside and inside of tunnels, and packets that have to be split.

use std::net::IpAddr;

use vipsec_esp::sa::{ChildSa, Selector};
use vipsec_wire::buffer::{PacketBuf, VecPool};
use vipsec_wire::checksum::Sum;
use vipsec_wire::ethernet::Header;
use vipsec_wire::fragment::Fragments;
use vipsec_wire::ip::{self, protocol};

use super::dual_stack::both;
use super::peer::{PEER, Peer, child, selector};
use super::scene::*;
use crate::drops::{DropReason, Tally};
use crate::worker::WorkerConfig;

/// Renews the checksum of an IPv4 header without options.
pub(super) fn with_checksum(mut packet: Vec<u8>) -> Vec<u8> {
    packet[10..12].copy_from_slice(&[0, 0]);
    let checksum = Sum::new().bytes(&packet[..20]).finish();
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet
}

pub(super) fn split(packet: &[u8], mtu: usize) -> Vec<Vec<u8>> {
    let mut pool = VecPool::new(100);
    let mut fragments = Fragments::new(packet, mtu, 77).unwrap();
    std::iter::from_fn(|| fragments.next(&mut pool)).map(|piece| piece.unwrap().data().to_vec()).collect()
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

/// What a receiver makes of fragments, whatever their order.
fn payload_of(fragments: &[Vec<u8>]) -> Vec<u8> {
    let mut pieces: Vec<(u16, Vec<u8>)> = fragments
        .iter()
        .map(|packet| {
            let header = ip::Header::parse(packet).unwrap();
            (header.fragment.map_or(0, |fragment| fragment.offset), header.payload(packet).to_vec())
        })
        .collect();
    pieces.sort();
    let mut payload = Vec::new();
    for (offset, piece) in pieces {
        assert_eq!(usize::from(offset), payload.len());
        payload.extend(piece);
    }
    payload
}

#[test]
fn fragments_from_the_tunnel_reach_their_target_by_port() {
    for is_v6 in [false, true] {
        let (mut scene, mut peer) = scene_with(both(false, None));
        let (remote, vip) = ends(is_v6);
        let query = udp_between((remote, 40000), (vip, 53), &[7; 2000]);
        let mut fragments = split(&query, 1300);
        fragments.reverse();
        for fragment in fragments {
            let frame = peer.seal(&fragment);
            scene.receive(OUTSIDE, &frame);
        }
        /* too big for the inside network, and split again */
        let delivered: Vec<Vec<u8>> = scene.sent_with_arp(INSIDE).iter().map(|frame| frame[14..].to_vec()).collect();
        assert_eq!(delivered.len(), 2);
        assert!(delivered.iter().all(|packet| packet.len() <= 1500));
        assert_eq!(payload_of(&delivered), ip::Header::parse(&query).unwrap().payload(&query));
        scene.assert_nothing_dropped();
        assert_eq!((scene.counters.tally(Tally::Fragments), scene.counters.tally(Tally::Reassembled)), (2, 1));
        assert_eq!(scene.counters.esp_in.packets(), 1, "counted as the datagram that it is");
    }
}

#[test]
fn fragments_of_different_tunnels_never_meet() {
    let (mut scene, mut first) = scene_with(child(1));
    let mut second = Peer::new(child(2));
    scene.command(second.install());
    let fragments = split(&udp((REMOTE, 40000), (VIP, 53), &[7; 2000]), 1300);
    let frames = [first.seal(&fragments[0]), second.seal(&fragments[1])];
    scene.receive_burst(OUTSIDE, &frames);
    assert!(scene.sent_with_arp(INSIDE).is_empty());
    scene.advance(SECOND);
    assert_eq!(scene.dropped(), [(DropReason::FragmentsTimedOut, 2)]);
}

#[test]
fn an_sa_for_one_port_takes_its_fragments_and_no_others() {
    let dns = Selector { protocol: Some(protocol::UDP), ports: 53..=53, ..selector("192.0.2.1/32") };
    let (mut scene, mut peer) = scene_with(ChildSa { local_selectors: vec![dns], ..child(1) });
    for (port, taken) in [(53, true), (54, false)] {
        for fragment in split(&udp((REMOTE, 40000), (VIP, port), &[7; 1000]), 600) {
            let frame = peer.seal(&fragment);
            scene.receive(OUTSIDE, &frame);
        }
        assert_eq!(scene.sent_with_arp(INSIDE).len(), usize::from(taken));
    }
    assert_eq!(scene.dropped(), [(DropReason::InboundSelectorMismatch, 1)]);
    for fragment in split(&udp((VIP, 53), (REMOTE, 40000), &[7; 1000]), 600) {
        scene.receive(INSIDE, &to_gateway(&fragment));
    }
    let frame = scene.one_sent_with_arp(OUTSIDE);
    assert_eq!(peer.open(&frame).len(), 1028);
}

#[test]
fn esp_that_comes_in_fragments_is_put_together_before_it_is_opened() {
    for (outer_v6, udp) in [(false, None), (false, Some((4500, 61000))), (true, None)] {
        let (mut scene, mut peer) = scene_with(both(outer_v6, udp));
        let frame = peer.seal(&super::scene::udp((REMOTE, 40000), (VIP, 53), &[7; 1200]));
        let fragments = split(&frame[14..], 1000);
        assert_eq!(fragments.len(), 2);
        let frames: Vec<Vec<u8>> = fragments.iter().map(|fragment| to_vip(fragment)).collect();
        scene.receive_burst(OUTSIDE, &frames);
        assert_eq!(scene.one_sent_with_arp(INSIDE).len(), 14 + 28 + 1200);
        scene.assert_nothing_dropped();
        scene.receive_burst(OUTSIDE, &frames);
        scene.assert_dropped(DropReason::EspReplayed);
    }
}

#[test]
fn an_ike_message_may_come_in_fragments() {
    let mut scene = Scene::new();
    let message = udp((PEER, 500), (VIP, 500), &[9; 2500]);
    for fragment in split(&message, 1500) {
        scene.receive(OUTSIDE, &to_vip(&fragment));
    }
    let events = scene.events();
    assert!(matches!(events.as_slice(), [crate::api::Event::Ike(datagram)] if datagram.payload == [9; 2500]));
}

#[test]
fn a_big_answer_is_split_before_it_is_encrypted() {
    for (is_v6, udp) in [(false, None), (false, Some((4500, 61000))), (true, None)] {
        let (mut scene, mut peer) = scene_with(both(is_v6, udp));
        let answer = super::scene::udp((VIP, 53), (REMOTE, 40000), &[7; 1472]);
        assert_eq!(answer.len(), 1500);
        scene.receive(INSIDE, &to_gateway(&answer));
        let frames = scene.sent_with_arp(OUTSIDE);
        assert_eq!(frames.len(), 2);
        for frame in &frames {
            assert!(frame.len() <= 14 + 1500);
            assert!(
                !ip::Header::parse(&frame[14..]).unwrap().is_fragment(),
                "nobody has to reassemble before decrypting"
            );
        }
        let pieces: Vec<Vec<u8>> = frames.iter().map(|frame| peer.open(frame)).collect();
        assert_eq!(payload_of(&pieces), answer[20..]);
        scene.assert_nothing_dropped();
        assert_eq!(scene.counters.tally(Tally::Fragmented), 1);
    }
}

#[test]
fn an_answer_in_fragments_leaves_in_fragments_that_fit() {
    let (mut scene, mut peer) = scene_with(both(false, None));
    // DF says nothing about what is in fragments already; IPv6 has none.
    for (vip, remote) in [(IpAddr::from(VIP), IpAddr::from(REMOTE)), (VIP6.into(), REMOTE6.into())] {
        let answer = udp_between((vip, 53), (remote, 40000), &[7; 2800]);
        for fragment in split(&answer, 1500) {
            scene.receive(INSIDE, &to_gateway(&fragment));
        }
        let pieces: Vec<Vec<u8>> = scene.sent_with_arp(OUTSIDE).iter().map(|frame| peer.open(frame)).collect();
        assert!(payload_of(&pieces) == ip::Header::parse(&answer).unwrap().payload(&answer));
    }
    scene.assert_nothing_dropped();
}

#[test]
fn overlapping_fragments_are_dropped_with_their_datagram() {
    let (mut scene, mut peer) = scene_with(child(1));
    let query = udp((REMOTE, 40000), (VIP, 53), &[7; 1000]);
    let (first, other) = (split(&query, 600), split(&query, 400));
    for fragment in [&first[0], &other[1], &first[1]] {
        let frame = peer.seal(fragment);
        scene.receive(OUTSIDE, &frame);
    }
    assert!(scene.sent(INSIDE).is_empty());
    assert_eq!(scene.dropped(), [(DropReason::FragmentOverlap, 2), (DropReason::FragmentAbandoned, 1)]);
}

#[test]
fn a_fragment_is_for_a_station_and_a_vip_like_any_packet() {
    let mut scene = Scene::new();
    let fragment = &split(&udp((PEER, 9), (VIP, 9), &[0; 1000]), 600)[0];
    scene.receive(OUTSIDE, &frame(OUTSIDE_MAC, ROUTER_MAC, vipsec_wire::ethernet::EtherType::IPV4, fragment));
    scene.assert_dropped(DropReason::OtherStation);
    let fragment = &split(&udp((PEER, 9), (OTHER_VIP, 9), &[0; 1000]), 600)[0];
    scene.receive(OUTSIDE, &frame(OTHER_VIP_MAC, ROUTER_MAC, vipsec_wire::ethernet::EtherType::IPV4, fragment));
    scene.assert_dropped(DropReason::VipNotOwned);
    assert_eq!(Header::parse(&to_vip(fragment)).unwrap().0.destination, VIP_MAC);
}
