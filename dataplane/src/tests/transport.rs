//! Transport mode: ESP between the IP header and its payload, with and without a NAT on the way.

use vipsec_esp::sa::{ChildSa, Mode, TunnelEnds};
use vipsec_wire::ethernet::Header;
use vipsec_wire::ip::{self, protocol};
use vipsec_wire::tcp::Flags;
use vipsec_wire::udp::{ChecksumState, Datagram};

use super::dual_stack::PEER6;
use super::fragments::{split, with_checksum};
use super::peer::{PEER, Peer, child, selector};
use super::scene::*;
use crate::drops::DropReason;
use crate::worker::WorkerConfig;

fn transport(is_v6: bool, udp: Option<(u16, u16)>) -> ChildSa {
    let (tunnel, local, remote) = if is_v6 {
        (TunnelEnds { local: VIP6.into(), remote: PEER6.into(), udp }, "2001:db8:1::1/128", "2001:db8:f::5/128")
    } else {
        (TunnelEnds { local: VIP.into(), remote: PEER.into(), udp }, "192.0.2.1/32", "203.0.113.5/32")
    };
    ChildSa {
        mode: Mode::Transport,
        tunnel,
        local_selectors: vec![selector(local)],
        remote_selectors: vec![selector(remote)],
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

#[test]
fn a_packet_has_its_own_header_on_both_sides() {
    for (is_v6, udp) in [(false, None), (false, Some((4500, 61000))), (true, None), (true, Some((4500, 61000)))] {
        let (mut scene, mut peer) = scene_with(transport(is_v6, udp));
        let TunnelEnds { local, remote, .. } = peer.child.tunnel;
        let query = udp_between((remote, 40000), (local, 53), b"query");
        let frame = peer.seal(&query);
        scene.receive(OUTSIDE, &frame);
        let delivered = scene.one_sent_with_arp(INSIDE);
        let (_, packet) = Header::parse(&delivered).unwrap();
        let header = ip::Header::parse(packet).unwrap();
        assert_eq!((header.source, header.destination, header.ttl), (remote.into(), local.into(), 63));
        assert_eq!(packet[header.header_len..], query[header.header_len..]);

        let mut answer = udp_between((local, 53), (remote, 40000), b"answer");
        if !is_v6 {
            // What the target set stays: class, identification, DF and time to live.
            answer[1] = 0xb8;
            answer[4..7].copy_from_slice(&[0x12, 0x34, 0x40]);
            answer[8] = 99;
            answer = with_checksum(answer);
        }
        scene.receive(INSIDE, &to_gateway(&answer));
        let frame = scene.one_sent_with_arp(OUTSIDE);
        let header = ip::Header::parse(&frame[14..]).unwrap();
        let before = ip::Header::parse(&answer).unwrap();
        assert_eq!((header.ttl, header.traffic_class), (before.ttl - 1, before.traffic_class));
        assert_eq!(header.dont_fragment, before.dont_fragment);
        assert_eq!(peer.open(&frame), before.payload(&answer));
        scene.assert_nothing_dropped();
    }
}

/// RFC 3948 §3.1.2: behind a NAT the peer made its checksums over an address that nobody here sees.
#[test]
fn checksums_from_behind_a_nat_are_made_anew() {
    let (mut scene, mut peer) = scene_with(transport(false, Some((4500, 61000))));
    let private = [192, 168, 1, 5];
    for packet in
        [udp_between((private, 40000), (VIP, 53), b"query"), tcp_between((private, 40000), (VIP, 80), Flags::ACK, &[])]
    {
        let sent = ip::Header::parse(&packet).unwrap();
        let esp = peer.esp(sent.payload(&packet), sent.protocol);
        scene.receive(OUTSIDE, &Peer::in_udp((PEER, 61000), &esp));
        let delivered = scene.one_sent_with_arp(INSIDE);
        let header = ip::Header::parse(&delivered[14..]).unwrap();
        assert_eq!(header.source, PEER.into());
        let payload = header.payload(&delivered[14..]);
        let len = payload.len() as u32;
        let sum = vipsec_wire::checksum::Sum::new();
        let sum = sum.pseudo_header(header.source, header.destination, header.protocol, len).bytes(payload);
        assert_eq!(sum.finish(), 0);
    }
    // One that says that it has no checksum is left alone.
    let mut unchecked = udp_between((private, 40000), (VIP, 53), b"query");
    unchecked[26..28].copy_from_slice(&[0, 0]);
    let esp = peer.esp(&unchecked[20..], protocol::UDP);
    scene.receive(OUTSIDE, &Peer::in_udp((PEER, 61000), &esp));
    let delivered = scene.one_sent_with_arp(INSIDE);
    let datagram = Datagram::parse(&delivered[34..]).unwrap();
    assert_eq!(datagram.checksum_state(PEER, VIP), ChecksumState::Absent);
}

#[test]
fn the_header_restored_is_judged_by_the_selectors() {
    let (mut scene, mut peer) = scene_with(transport(false, None));
    let stranger = [203, 0, 113, 6];
    let packet = udp_between((stranger, 40000), (VIP, 53), b"query");
    let esp = peer.esp(&packet[20..], protocol::UDP);
    scene.receive(OUTSIDE, &to_vip(&ip(stranger, VIP, protocol::ESP, &esp)));
    scene.assert_dropped(DropReason::InboundSelectorMismatch);
    let dummy = peer.esp(b"rubbish", protocol::NO_NEXT_HEADER);
    scene.receive(OUTSIDE, &to_vip(&ip(PEER, VIP, protocol::ESP, &dummy)));
    scene.assert_dropped(DropReason::EspDummy);
}

/// RFC 4301 §4.1: whatever its selectors say, between those two hosts alone.
#[test]
fn nothing_but_what_its_two_ends_say_to_each_other_goes_through_it() {
    let wide = ChildSa {
        local_selectors: vec![selector("192.0.2.1/32"), selector("2001:db8:1::1/128")],
        remote_selectors: vec![selector("203.0.113.0/24"), selector("2001:db8:f::/48")],
        ..transport(false, None)
    };
    let (mut scene, mut peer) = scene_with(wide);
    for other in [
        udp((VIP, 53), ([203, 0, 113, 6].into(), 40000), b"answer"),
        udp_between((VIP6, 53), (PEER6, 40000), b"answer"),
    ] {
        scene.receive(INSIDE, &to_gateway(&other));
        scene.assert_dropped(DropReason::NoOutboundSa);
    }
    scene.receive(INSIDE, &to_gateway(&udp((VIP, 53), (PEER, 40000), b"answer")));
    assert!(peer.open(&scene.one_sent_with_arp(OUTSIDE)).ends_with(b"answer"));
}

/// RFC 4303 §3.3.4: transport mode protects whole datagrams, so a big one is split behind ESP.
#[test]
fn a_big_packet_is_split_after_it_was_encrypted() {
    let (mut scene, mut peer) = scene_with(transport(false, None));
    let answer = udp_between((VIP, 53), (PEER, 40000), &[7; 1472]);
    scene.receive(INSIDE, &to_gateway(&answer));
    let frames = scene.sent_with_arp(OUTSIDE);
    assert_eq!(frames.len(), 2);
    let mut esp = Vec::new();
    for frame in &frames {
        let header = ip::Header::parse(&frame[14..]).unwrap();
        assert_eq!((header.protocol, header.total_len <= 1500, header.is_fragment()), (protocol::ESP, true, true));
        esp.extend_from_slice(header.payload(&frame[14..]));
    }
    let whole = to_vip(&ip(VIP, PEER, protocol::ESP, &esp));
    assert_eq!(peer.open(&whole), answer[20..]);

    let mut whole = answer;
    whole[6] = 0x40;
    scene.receive(INSIDE, &to_gateway(&with_checksum(whole)));
    let error = scene.one_sent(INSIDE);
    // 1500 less ESP's 16 + 2 + 16, a multiple of four with the trailer, the IP header outside.
    assert_eq!(u16::from_be_bytes([error[40], error[41]]), 1466);
    assert_eq!(scene.dropped(), [(DropReason::TooBig, 1)]);
}

#[test]
fn a_datagram_in_fragments_is_put_together_first() {
    let (mut scene, mut peer) = scene_with(transport(false, None));
    for fragment in split(&udp_between((VIP, 53), (PEER, 40000), &[7; 1000]), 600) {
        scene.receive(INSIDE, &to_gateway(&fragment));
    }
    let frame = scene.one_sent_with_arp(OUTSIDE);
    assert_eq!(peer.open(&frame).len(), 8 + 1000);
}

#[test]
fn a_ping_in_transport_mode_is_answered() {
    let (mut scene, mut peer) = scene_with(transport(false, None));
    let ping = peer.seal(&echo_request(PEER, VIP));
    scene.receive(OUTSIDE, &ping);
    let frame = scene.one_sent_with_arp(OUTSIDE);
    assert_eq!(peer.open(&frame)[0], 0, "an echo reply");
}
