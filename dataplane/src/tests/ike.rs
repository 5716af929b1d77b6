//! IKE between the wire and the control core, and the rest of what a VIP gets in the clear.

use std::net::Ipv4Addr;

use vipsec_wire::cookie::Caller;
use vipsec_wire::ethernet::Header;
use vipsec_wire::ip::protocol;
use vipsec_wire::ipv4::Packet;
use vipsec_wire::udp::Datagram;

use super::scene::*;
use crate::api::{Command, Event, IkeDatagram};
use crate::drops::{DropReason, Tally};
use crate::worker::WorkerConfig;

const PEER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 5);

#[track_caller]
fn ike(scene: &mut Scene) -> IkeDatagram {
    let mut events = scene.events();
    match events.pop() {
        Some(Event::Ike(datagram)) if events.is_empty() => datagram,
        other => panic!("{other:?}, drops: {:?}", scene.dropped()),
    }
}

#[test]
fn messages_arrive_without_headers_and_marker() {
    let mut scene = Scene::new();
    scene.receive(OUTSIDE, &to_vip(&udp((PEER, 500), (VIP, 500), b"IKE_SA_INIT")));
    let expected =
        IkeDatagram { local: (VIP, 500).into(), remote: (PEER, 500).into(), payload: b"IKE_SA_INIT".to_vec() };
    assert_eq!(ike(&mut scene), expected);
    // RFC 3948 §2.2
    scene.receive(OUTSIDE, &to_vip(&udp((PEER, 61000), (VIP, 4500), b"\0\0\0\0IKE_AUTH")));
    let expected =
        IkeDatagram { local: (VIP, 4500).into(), remote: (PEER, 61000).into(), payload: b"IKE_AUTH".to_vec() };
    assert_eq!(ike(&mut scene), expected);
}

#[test]
fn padding_of_short_frames_is_no_part_of_the_message() {
    let mut scene = Scene::new();
    let mut frame = to_vip(&udp((PEER, 500), (VIP, 500), b"short"));
    frame.resize(60, 0xee);
    scene.receive(OUTSIDE, &frame);
    assert_eq!(ike(&mut scene).payload, b"short");
}

#[test]
fn keepalives_are_swallowed() {
    let mut scene = Scene::new();
    scene.receive(OUTSIDE, &to_vip(&udp((PEER, 61000), (VIP, 4500), &[0xff])));
    assert_eq!(scene.counters.tally(Tally::NatKeepalives), 1);
    assert!(scene.events().is_empty());
    scene.assert_nothing_dropped();
}

#[test]
fn ike_is_policed() {
    let mut scene = Scene::new();
    let message = to_vip(&udp((PEER, 500), (VIP, 500), b"again"));
    scene.receive_burst(OUTSIDE, &vec![message.clone(); 6]);
    assert_eq!(scene.events().len(), 5);
    scene.assert_dropped(DropReason::IkePoliced);
    scene.advance(SECOND / 10);
    scene.receive(OUTSIDE, &message);
    assert_eq!(scene.events().len(), 1);
}

/// An IKE_SA_INIT request of RFC 7296 §1.2, with a cookie in front if there is one (§2.6).
fn call(spi: u64, cookie: Option<&[u8]>) -> Vec<u8> {
    let cookie = cookie.map(|cookie| (41, [b"\0\0\x40\x06".as_slice(), cookie].concat()));
    let payloads: Vec<(u8, Vec<u8>)> =
        cookie.into_iter().chain([(33, vec![0; 40]), (34, vec![0; 36]), (40, NONCE.to_vec())]).collect();
    let mut message = spi.to_be_bytes().to_vec();
    message.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, payloads[0].0, 0x20, 34, 0x08, 0, 0, 0, 0]);
    let len = 28 + payloads.iter().map(|(_, content)| 4 + content.len()).sum::<usize>();
    message.extend_from_slice(&u32::try_from(len).unwrap().to_be_bytes());
    for (n, (_, content)) in payloads.iter().enumerate() {
        let next = payloads.get(n + 1).map_or(0, |(kind, _)| *kind);
        message.extend_from_slice(&[next, 0]);
        message.extend_from_slice(&u16::try_from(4 + content.len()).unwrap().to_be_bytes());
        message.extend_from_slice(content);
    }
    message
}

const NONCE: [u8; 32] = [0x11; 32];

fn call_from(port: u16, local_port: u16, message: &[u8]) -> Vec<u8> {
    let marker: &[u8] = if local_port == 4500 { &[0; 4] } else { &[] };
    to_vip(&udp((PEER, port), (VIP, local_port), &[marker, message].concat()))
}

/// Those who have shown nothing yet use their share up.
fn flood(scene: &mut Scene) {
    scene.receive_burst(OUTSIDE, &vec![call_from(500, 500, &call(1, None)); 3]);
    assert_eq!(scene.events().len(), 3);
}

#[test]
fn above_the_limit_callers_have_to_show_a_cookie() {
    for (port, local_port) in [(500, 500), (61000, 4500)] {
        let mut scene = Scene::new();
        flood(&mut scene);
        scene.receive(OUTSIDE, &call_from(port, local_port, &call(7, None)));
        assert!(scene.events().is_empty());
        let answer = scene.one_sent(OUTSIDE);
        let (ethernet, packet) = Header::parse(&answer).unwrap();
        // To where the request came from: nobody is asked who that is.
        assert_eq!((ethernet.source, ethernet.destination), (VIP_MAC, ROUTER_MAC));
        let packet = Packet::parse(packet).unwrap();
        assert_eq!((packet.source(), packet.destination()), (VIP, PEER));
        let datagram = Datagram::parse(packet.payload()).unwrap();
        assert!(datagram.checksum() != 0 && datagram.checksum_is_valid_v4(VIP, PEER));
        assert_eq!((datagram.source_port(), datagram.destination_port()), (local_port, port));
        let message = datagram.payload().strip_prefix(if local_port == 4500 { &[0; 4][..] } else { &[] }).unwrap();
        let cookie = message.last_chunk::<17>().unwrap();
        let mut expected = vec![0; vipsec_wire::ike::COOKIE_REQUEST_LEN];
        vipsec_wire::ike::emit_cookie_request(7, cookie, &mut expected).unwrap();
        assert_eq!(message, expected);
        assert_eq!(scene.counters.tally(Tally::CookiesAsked), 1);
        scene.assert_nothing_dropped();
        // With it the caller is let through, cookie and all: the control core may want to see it as well.
        let again = call(7, Some(cookie));
        scene.receive(OUTSIDE, &call_from(port, local_port, &again));
        assert_eq!(ike(&mut scene).payload, again);
    }
}

#[test]
fn a_cookie_of_another_caller_is_as_good_as_none() {
    let mut scene = Scene::new();
    flood(&mut scene);
    let caller = Caller { nonce: &NONCE, address: PEER.into(), spi: 7 };
    for caller in [Caller { spi: 8, ..caller }, Caller { address: ROUTER.into(), ..caller }] {
        scene.receive(OUTSIDE, &call_from(500, 500, &call(7, Some(&COOKIES.make(caller)))));
        assert!(scene.events().is_empty());
        assert_eq!(scene.sent(OUTSIDE).len(), 1, "another cookie");
    }
}

/// Each kind has a limit of its own.
#[test]
fn a_flood_of_calls_takes_nothing_from_ike_sas_and_from_callers_with_cookies() {
    let mut scene = Scene::new();
    for spi in 0..100 {
        scene.receive(OUTSIDE, &call_from(500, 500, &call(spi, None)));
    }
    scene.events();
    scene.sent(OUTSIDE);
    let of_an_ike_sa = [&[1; 16][..], &[46, 0x20, 37, 8, 0, 0, 0, 1, 0, 0, 0, 28]].concat();
    scene.receive_burst(OUTSIDE, &vec![call_from(500, 4500, &of_an_ike_sa); 5]);
    assert_eq!(scene.events().len(), 5);
    let cookie = COOKIES.make(Caller { nonce: &NONCE, address: PEER.into(), spi: 7 });
    scene.receive_burst(OUTSIDE, &vec![call_from(500, 500, &call(7, Some(&cookie))); 5]);
    assert_eq!(scene.events().len(), 4);
    scene.assert_dropped(DropReason::IkeCallPoliced);
}

#[test]
fn calls_that_are_not_worth_an_answer() {
    let mut scene = Scene::new();
    flood(&mut scene);
    let mut without_nonce = call(7, None);
    without_nonce.truncate(28 + 44);
    // Shorter than the answer would be.
    let mut short = call(7, None);
    short[16] = 40;
    short.splice(28.., [&[0, 0, 0, 20][..], &NONCE[..16]].concat());
    for message in [without_nonce, short] {
        scene.receive(OUTSIDE, &call_from(500, 500, &message));
        scene.assert_dropped(DropReason::IkeCallPoliced);
    }
}

#[test]
fn without_a_secret_nobody_is_asked_for_cookies() {
    let mut tables = tables();
    tables.ike_calls.cookies = None;
    let mut scene = Scene::with(tables, &WorkerConfig::default());
    flood(&mut scene);
    scene.receive(OUTSIDE, &call_from(500, 500, &call(7, None)));
    scene.assert_dropped(DropReason::IkeCallPoliced);
}

#[test]
fn sends_from_the_vips_virtual_mac_with_marker_and_checksum() {
    let mut scene = Scene::new();
    for (local_port, marker) in [(500, b"".as_slice()), (4500, b"\0\0\0\0")] {
        let (local, remote) = ((VIP, local_port).into(), (PEER, 61000).into());
        scene.command(Command::SendIke(IkeDatagram { local, remote, payload: b"IKE_AUTH".to_vec() }));
        let frame = scene.one_sent_with_arp(OUTSIDE);
        let (ethernet, payload) = Header::parse(&frame).unwrap();
        assert_eq!((ethernet.source, ethernet.destination), (VIP_MAC, ROUTER_MAC));
        let packet = Packet::parse(payload).unwrap();
        assert_eq!((packet.source(), packet.destination(), packet.protocol()), (VIP, PEER, protocol::UDP));
        let datagram = Datagram::parse(packet.payload()).unwrap();
        assert_eq!((datagram.source_port(), datagram.destination_port()), (local_port, 61000));
        assert!(datagram.checksum() != 0 && datagram.checksum_is_valid_v4(VIP, PEER));
        assert_eq!(datagram.payload(), [marker, b"IKE_AUTH"].concat());
    }
    assert_eq!(scene.counters.tally(Tally::IkeOut), 2);
}

#[test]
fn large_messages_leave_in_fragments() {
    let mut scene = Scene::new();
    let payload: Vec<u8> = (0..4000u32).map(|n| n as u8).collect();
    let (local, remote) = ((VIP, 500).into(), (PEER, 500).into());
    scene.command(Command::SendIke(IkeDatagram { local, remote, payload: payload.clone() }));
    let frames = scene.sent_with_arp(OUTSIDE);
    assert_eq!(frames.len(), 3);
    let fragments: Vec<Packet<'_>> =
        frames.iter().map(|frame| Packet::parse(Header::parse(frame).unwrap().1).unwrap()).collect();
    let mut datagram = Vec::new();
    for (n, fragment) in fragments.iter().enumerate() {
        assert!(fragment.total_len() <= 1500);
        assert_eq!(fragment.fragment_offset(), datagram.len());
        assert_eq!(fragment.more_fragments(), n < 2);
        assert_eq!(fragment.identification(), fragments[0].identification());
        datagram.extend_from_slice(fragment.payload());
    }
    let datagram = Datagram::parse(&datagram).unwrap();
    assert!(datagram.checksum_is_valid_v4(VIP, PEER));
    assert_eq!(datagram.payload(), payload);
}

#[test]
fn sends_from_our_own_vips_only() {
    let mut scene = Scene::new();
    let send = |local: Ipv4Addr, payload: usize| {
        let (local, remote) = ((local, 500).into(), (PEER, 500).into());
        Command::SendIke(IkeDatagram { local, remote, payload: vec![0; payload] })
    };
    scene.command(send(OTHER_VIP, 8));
    scene.assert_dropped(DropReason::VipNotOwned);
    scene.command(send(ROUTER, 8));
    scene.assert_dropped(DropReason::NotForUs);
    scene.command(send(VIP, 65_508));
    scene.assert_dropped(DropReason::TooBig);
    let mut islanded = tables();
    islanded.routes.clear();
    scene.use_tables(islanded);
    scene.command(send(VIP, 8));
    scene.assert_dropped(DropReason::NoRoute);
}

#[test]
fn a_vip_answers_pings_in_the_clear() {
    let mut scene = Scene::new();
    let ours = [(VIP, VIP_MAC), (OUTSIDE_ADDRESS, OUTSIDE_MAC)];
    for (address, mac) in ours {
        let request = echo_request(PEER, address);
        scene.receive(OUTSIDE, &frame(mac, ROUTER_MAC, vipsec_wire::ethernet::EtherType::IPV4, &request));
        let frame = scene.one_sent(OUTSIDE);
        let (ethernet, payload) = Header::parse(&frame).unwrap();
        assert_eq!((ethernet.source, ethernet.destination), (mac, ROUTER_MAC));
        let reply = Packet::parse(payload).unwrap();
        assert_eq!((reply.source(), reply.destination()), (address, PEER));
        let message = vipsec_wire::icmp::Message::parse(reply.payload()).unwrap();
        assert_eq!((message.kind(), message.identifier(), message.sequence()), (0, 0x1234, 1));
        assert_eq!(message.payload(), b"some data");
    }
}

#[test]
fn what_a_vip_does_not_take_in_the_clear() {
    use vipsec_wire::ethernet::EtherType;
    use vipsec_wire::tcp::Flags;
    let ip = |packet: &[u8]| frame(VIP_MAC, ROUTER_MAC, EtherType::IPV4, packet);
    let mut wrong_checksum = udp((PEER, 500), (VIP, 500), b"message");
    wrong_checksum[26] ^= 1;
    let mut wrong_length = udp((PEER, 500), (VIP, 500), b"message");
    wrong_length[25] += 9;
    let mut truncated = ip(&udp((PEER, 500), (VIP, 500), b"message"));
    truncated.truncate(40);
    let mut bad_echo = echo_request(PEER, VIP);
    bad_echo[22] ^= 1;
    let cases = [
        (ip(&tcp((PEER, 9), (VIP, 80), Flags::SYN, b"")), DropReason::ClearText),
        (ip(&udp((PEER, 9), (VIP, 53), b"query")), DropReason::ClearText),
        (ip(&wrong_checksum), DropReason::MalformedUdp),
        (ip(&wrong_length), DropReason::MalformedUdp),
        (ip(&udp((PEER, 9), (VIP, 4500), b"\0\0\0")), DropReason::MalformedIke),
        (truncated, DropReason::MalformedIp),
        (ip(&bad_echo), DropReason::MalformedIcmp),
        (ip(&icmp(PEER, VIP, 13, 0, &[0; 16])), DropReason::UnansweredIcmp),
        (ip(&udp((PEER, 9), (VIP, 9), b"query")), DropReason::UnknownService),
        (ip(&udp((PEER, 500), (ROUTER, 500), b"message")), DropReason::NotForUs),
        (ip(&udp((PEER, 500), (OTHER_VIP, 500), b"message")), DropReason::VipNotOwned),
        (frame(ROUTER_MAC, PEER_MAC, EtherType::IPV4, &echo_request(PEER, VIP)), DropReason::OtherStation),
        (
            frame(OUTSIDE_MAC, ROUTER_MAC, EtherType::IPV4, &udp((PEER, 500), (OUTSIDE_ADDRESS, 500), b"message")),
            DropReason::UnservedProtocol,
        ),
    ];
    let mut scene = Scene::new();
    for (frame, reason) in cases {
        scene.receive(OUTSIDE, &frame);
        scene.assert_dropped(reason);
        assert!(scene.events().is_empty());
    }
}

const PEER_MAC: vipsec_wire::ethernet::MacAddr = vipsec_wire::ethernet::MacAddr([2, 0, 0, 0, 9, 9]);
