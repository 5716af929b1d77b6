//! From the targets into the tunnels.

use std::net::Ipv4Addr;

use vipsec_esp::sa::{ChildSa, TunnelEnds};
use vipsec_wire::buffer::PacketBuf;
use vipsec_wire::ethernet::{EtherType, Header};
use vipsec_wire::ipv4::Packet;
use vipsec_wire::tcp::Flags;
use vipsec_wire::{icmp, udp};

use super::peer::{Peer, child, selector};
use super::scene::*;
use crate::api::{Command, VipState};
use crate::drops::{DropReason, Tally};

fn scene_with(children: &[ChildSa]) -> (Scene, Vec<Peer>) {
    let mut scene = Scene::new();
    let peers: Vec<Peer> = children.iter().cloned().map(Peer::new).collect();
    for peer in &peers {
        scene.command(peer.install());
    }
    (scene, peers)
}

fn answer(remote: Ipv4Addr) -> Vec<u8> {
    tcp((VIP, 80), (remote, 40000), Flags::ACK, b"answer")
}

#[test]
fn a_targets_answer_goes_through_the_tunnel() {
    for udp_ports in [None, Some((4500, 61000))] {
        let mut child = child(1);
        child.tunnel.udp = udp_ports;
        let (mut scene, mut peers) = scene_with(&[child]);
        let mut inner = answer(REMOTE);
        inner[1] = 0xb9; // DSCP EF, ECT(1)
        let inner = with_checksum(inner);
        scene.receive(INSIDE, &to_gateway(&inner));
        let frame = scene.one_sent_with_arp(OUTSIDE);
        let (ethernet, payload) = Header::parse(&frame).unwrap();
        assert_eq!((ethernet.source, ethernet.destination), (VIP_MAC, ROUTER_MAC));
        let outer = Packet::parse(payload).unwrap();
        assert_eq!((outer.traffic_class(), outer.ttl(), outer.is_fragment()), (0xb9, 64, false));
        if udp_ports.is_some() {
            assert_eq!(udp::Datagram::parse(outer.payload()).unwrap().checksum(), 0, "RFC 3948 section 2.1");
        }
        let received = peers[0].open(&frame);
        assert_eq!(Packet::parse(&received).unwrap().ttl(), 63);
        assert_eq!(received[12..], inner[12..]);
        assert_eq!(scene.counters.to_remotes.bytes(), inner.len() as u64);
        assert_eq!(scene.counters.tally(Tally::RepliesUnknown), 1, "nobody asked, but it is no crime");
        scene.assert_nothing_dropped();
    }
}

fn with_checksum(mut packet: Vec<u8>) -> Vec<u8> {
    packet[10..12].copy_from_slice(&[0, 0]);
    let checksum = vipsec_wire::checksum::Sum::new().bytes(&packet[..20]).finish();
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet
}

#[test]
fn the_newest_matching_sa_carries_it() {
    let mut host = child(2);
    host.remote_selectors = vec![selector("10.9.0.7/32")];
    let mut rekeyed = child(3);
    rekeyed.remote_selectors = vec![selector("10.9.0.0/16")];
    let mut elsewhere = child(4);
    elsewhere.remote_selectors = vec![selector("10.8.0.0/16")];
    elsewhere.tunnel = TunnelEnds { remote: [203, 0, 113, 6].into(), ..elsewhere.tunnel };
    let (mut scene, mut peers) = scene_with(&[child(1), host, elsewhere]);

    let send = |scene: &mut Scene, remote| {
        scene.receive(INSIDE, &to_gateway(&answer(remote)));
        scene.one_sent_with_arp(OUTSIDE)
    };
    let frame = send(&mut scene, REMOTE);
    peers[1].open(&frame);
    let frame = send(&mut scene, Ipv4Addr::new(10, 9, 1, 1));
    peers[0].open(&frame);
    let frame = send(&mut scene, Ipv4Addr::new(10, 8, 1, 1));
    peers[2].open(&frame);

    let mut newest = Peer::new(rekeyed);
    scene.command(newest.install());
    let frame = send(&mut scene, REMOTE);
    newest.open(&frame);
    scene.command(Command::RemoveChild(newest.spi()));
    let frame = send(&mut scene, REMOTE);
    peers[1].open(&frame);
    scene.command(Command::RemoveChild(peers[1].spi()));
    let frame = send(&mut scene, REMOTE);
    peers[0].open(&frame);
}

/// RFC 7296 §2.8: the responder of a rekeying continues to send on the old SA until it hears something on the new one, or the old
/// one is closed.
#[test]
fn after_a_rekeying_by_the_peer_packets_leave_by_the_old_sa_until_the_peer_is_ready() {
    let (mut scene, mut peers) = scene_with(&[child(1)]);
    let send = |scene: &mut Scene| {
        scene.receive(INSIDE, &to_gateway(&answer(REMOTE)));
        scene.one_sent_with_arp(OUTSIDE)
    };
    let mut second = Peer::new(ChildSa { succeeds: Some(peers[0].spi()), ..child(2) });
    let third = Peer::new(ChildSa { succeeds: Some(second.spi()), ..child(3) });

    scene.command(second.install());
    let frame = send(&mut scene);
    peers[0].open(&frame);
    let heard = second.seal(&udp((REMOTE, 1), (VIP, 9), b"ready"));
    scene.receive(OUTSIDE, &heard);
    let frame = send(&mut scene);
    second.open(&frame);

    scene.command(third.install());
    let frame = send(&mut scene);
    second.open(&frame);
    scene.command(Command::RemoveChild(second.spi()));
    let frame = send(&mut scene);
    let mut third = third;
    third.open(&frame);
}

#[test]
fn an_sa_carries_its_own_vips_packets_only() {
    let mut both = tables();
    both.vips[1].state = VipState::Owned;
    let mut scene = Scene::with(both, &Default::default());
    let mut wide = [child(1), child(2)];
    for (vip, child) in (0u16..).zip(&mut wide) {
        child.vip = vip;
        child.local_selectors = vec![selector("192.0.2.0/24")];
    }
    let [mut first, second] = wide.map(Peer::new);
    scene.command(first.install());
    scene.command(second.install());
    scene.receive(INSIDE, &to_gateway(&answer(REMOTE)));
    let frame = scene.one_sent_with_arp(OUTSIDE);
    first.open(&frame);
}

#[test]
fn what_the_gateway_does_not_take() {
    let (mut scene, _peers) = scene_with(&[child(1)]);
    let from_target = |mac, packet: &[u8]| frame(mac, TARGET_MACS[0], EtherType::IPV4, packet);
    let mut bad = answer(REMOTE);
    bad[10] ^= 1;
    let cases = [
        (from_target(GATEWAY_MAC, &bad), DropReason::MalformedIp),
        (from_target(TARGET_MACS[1], &answer(REMOTE)), DropReason::OtherStation),
        (from_target(INSIDE_MAC, &answer(REMOTE)), DropReason::OtherStation),
        (from_target(GATEWAY_MAC, &udp((TARGETS[0], 1), (REMOTE, 2), b"")), DropReason::SourceNotVip),
        (from_target(OTHER_GATEWAY_MAC, &udp((OTHER_VIP, 1), (REMOTE, 2), b"")), DropReason::VipNotOwned),
        (from_target(OTHER_GATEWAY_MAC, &echo_request(TARGETS[0], OTHER_GATEWAY)), DropReason::VipNotOwned),
        (from_target(INSIDE_MAC, &echo_request(TARGETS[0], GATEWAY)), DropReason::OtherStation),
        (from_target(GATEWAY_MAC, &answer(Ipv4Addr::new(10, 8, 0, 1))), DropReason::NoOutboundSa),
        (from_target(GATEWAY_MAC, &udp((TARGETS[0], 1), (GATEWAY, 2), b"")), DropReason::UnservedProtocol),
    ];
    for (frame, reason) in cases {
        scene.receive(INSIDE, &frame);
        scene.assert_dropped(reason);
    }
    let mut islanded = tables();
    islanded.routes.clear();
    scene.use_tables(islanded);
    scene.receive(INSIDE, &to_gateway(&answer(REMOTE)));
    scene.assert_dropped(DropReason::NoRoute);
}

#[test]
fn the_gateway_answers_pings() {
    let mut scene = Scene::new();
    scene.receive(INSIDE, &to_gateway(&echo_request(TARGETS[0], GATEWAY)));
    let frame = scene.one_sent(INSIDE);
    let (ethernet, payload) = Header::parse(&frame).unwrap();
    assert_eq!((ethernet.source, ethernet.destination), (GATEWAY_MAC, TARGET_MACS[0]));
    let reply = Packet::parse(payload).unwrap();
    assert_eq!((reply.source(), reply.destination()), (GATEWAY, TARGETS[0]));
}

/// A packet of that many bytes, IP header included.
fn sized(bytes: usize, dont_fragment: bool) -> Vec<u8> {
    let mut packet = udp((VIP, 53), (REMOTE, 40000), &vec![0x55; bytes - 28]);
    packet[6] = if dont_fragment { 0x40 } else { 0 };
    with_checksum(packet)
}

#[test]
fn the_largest_packet_fits_and_one_byte_more_does_not() {
    for udp_ports in [None, Some((4500, 61000))] {
        let mut child = child(1);
        child.tunnel.udp = udp_ports;
        let (mut scene, mut peers) = scene_with(&[child]);
        // 1500 - 20 (IPv4) - 8 (UDP) - 16 (SPI, number, IV) - 2 (trailer) - 16 (ICV), and a multiple of four with the trailer
        let fits = if udp_ports.is_some() { 1438 } else { 1446 };
        scene.receive(INSIDE, &to_gateway(&sized(fits, true)));
        let frame = scene.one_sent_with_arp(OUTSIDE);
        assert!(frame.len() <= 14 + 1500 && frame.len() > 14 + 1496);
        assert_eq!(peers[0].open(&frame).len(), fits);

        let too_big = sized(fits + 1, true);
        scene.receive(INSIDE, &to_gateway(&too_big));
        /* <-- fragmentation needed, from the gateway, to the target that sent it (RFC 1191) */
        let frame = scene.one_sent(INSIDE);
        let (ethernet, payload) = Header::parse(&frame).unwrap();
        assert_eq!((ethernet.source, ethernet.destination), (GATEWAY_MAC, TARGET_MACS[0]));
        let packet = Packet::parse(payload).unwrap();
        assert_eq!((packet.source(), packet.destination()), (GATEWAY, VIP));
        assert!(packet.total_len() <= 576);
        let message = icmp::Message::parse(packet.payload()).unwrap();
        assert_eq!((message.kind(), message.code(), usize::from(message.sequence())), (3, 4, fits));
        assert_eq!(message.payload(), &too_big[..message.payload().len()]);
        assert_eq!(scene.dropped(), [(DropReason::TooBig, 1)]);
    }
}

#[test]
fn errors_are_not_sent_about_errors_and_not_without_bound() {
    let (mut scene, _peers) = scene_with(&[child(1)]);
    let mut error = icmp(VIP, REMOTE, 3, 1, &[0; 1470]);
    error[6] = 0x40;
    scene.receive(INSIDE, &to_gateway(&with_checksum(error)));
    scene.assert_dropped(DropReason::TooBig);
    scene.receive_burst(INSIDE, &vec![to_gateway(&sized(1500, true)); 32]);
    scene.receive_burst(INSIDE, &vec![to_gateway(&sized(1500, true)); 32]);
    let errors = scene.sent(INSIDE).len();
    assert!((1..64).contains(&errors), "{errors}");
    assert_eq!(scene.counters.tally(Tally::IcmpErrors), errors as u64);
}

#[test]
fn an_sa_without_numbers_sends_no_more() {
    let mut worn = child(1);
    worn.outbound.esn = false;
    worn.outbound.sent = u64::from(u32::MAX);
    let (mut scene, _peers) = scene_with(&[worn]);
    scene.receive(INSIDE, &to_gateway(&answer(REMOTE)));
    scene.assert_dropped(DropReason::EspNumbersExhausted);
}

#[test]
fn outbound_numbers_are_reported_before_the_lease_is_used_up() {
    let mut leased = child(1);
    leased.outbound.lease = 10;
    let (mut scene, _peers) = scene_with(&[leased]);
    let asked: Vec<_> = scene.events().into_iter().filter_map(numbers).collect();
    let [(spi, 0, wanted)] = asked.as_slice() else { panic!("{asked:?}") };
    assert!(*wanted > 10);
    scene.command(Command::Grant { spi: *spi, horizon: u64::MAX, lease: *wanted });
    scene.receive(INSIDE, &to_gateway(&answer(REMOTE)));
    assert!(scene.events().into_iter().filter_map(numbers).next().is_none(), "there is room again");
}

fn numbers(event: crate::api::Event) -> Option<(vipsec_esp::sa::Spi, u64, u64)> {
    match event {
        crate::api::Event::Numbers(numbers) => Some((numbers.spi, numbers.sent, numbers.lease_wanted)),
        _ => None,
    }
}

#[test]
fn an_empty_pool_is_a_reason_too() {
    let mut scene = Scene::new();
    let hoard: Vec<_> = std::iter::from_fn(|| vipsec_wire::buffer::BufferPool::alloc(&mut scene.worker.pool)).collect();
    assert!(hoard.iter().all(|buffer| buffer.data().is_empty()));
    scene.command(Command::SendFrame { port: INSIDE, frame: vec![0; 60] });
    scene.assert_dropped(DropReason::BufferPoolEmpty);
}
