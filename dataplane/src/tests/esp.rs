//! Inbound ESP: what is opened, what is refused, and where the peer is.

use std::net::Ipv4Addr;

use vipsec_esp::engine::{Context, EngineKind};
use vipsec_esp::sa::{DORMANT, Lifetime, Processing, Selector, Spi};
use vipsec_wire::ethernet::Header;
use vipsec_wire::icmp;
use vipsec_wire::ip::{Ecn, protocol};
use vipsec_wire::ipv4::{self, Packet};
use vipsec_wire::iv::{ApplianceId, Epoch, IvPrefix};
use vipsec_wire::tcp::Flags;

use super::peer::{PEER, Peer, child, selector};
use super::scene::*;
use crate::api::{ChildRefusal, Command, Event, Report, ReportKind, VipState, Wake};
use crate::drops::{DropReason, Tally};
use crate::worker::WorkerConfig;

fn scene_with(child: vipsec_esp::sa::ChildSa) -> (Scene, Peer) {
    let mut scene = Scene::new();
    let peer = Peer::new(child);
    scene.command(peer.install());
    assert!(matches!(scene.events().as_slice(), [Event::ChildInstalled(spi)] if *spi == peer.spi()));
    (scene, peer)
}

fn syn() -> Vec<u8> {
    tcp((REMOTE, 40000), (VIP, 80), Flags::SYN, b"")
}

#[test]
fn a_ping_through_the_tunnel_is_answered_through_the_tunnel() {
    for udp in [None, Some((4500, 61000))] {
        let mut child = child(1);
        child.tunnel.udp = udp;
        let (mut scene, mut peer) = scene_with(child);
        let ping = peer.seal(&echo_request(REMOTE, VIP));
        scene.receive(OUTSIDE, &ping);
        let frame = scene.one_sent_with_arp(OUTSIDE);
        assert_eq!(Header::parse(&frame).unwrap().0.source, VIP_MAC);
        let inner = peer.open(&frame);
        let reply = Packet::parse(&inner).unwrap();
        assert_eq!((reply.source(), reply.destination()), (VIP, REMOTE));
        assert_eq!(icmp::Message::parse(reply.payload()).unwrap().kind(), icmp::kind::ECHO_REPLY);
        scene.assert_nothing_dropped();
        assert_eq!(scene.counters.tally(Tally::EchoReplies), 1);
        assert_eq!((scene.counters.esp_in.packets(), scene.counters.esp_out.packets()), (1, 1));
        assert!(matches!(scene.events().as_slice(), [Event::Alive(_)]));
    }
}

#[test]
fn each_number_is_delivered_once() {
    let (mut scene, mut peer) = scene_with(child(1));
    let frames = [peer.seal(&syn()), peer.seal(&syn()), peer.seal(&syn())];
    for n in [1, 0, 2] {
        scene.receive(OUTSIDE, &frames[n]);
    }
    assert_eq!(scene.sent_with_arp(INSIDE).len(), 3, "out of order is fine");
    for frame in &frames {
        scene.receive(OUTSIDE, frame);
        scene.assert_dropped(DropReason::EspReplayed);
    }
    scene.receive_burst(OUTSIDE, &vec![peer.seal(&syn()); 2]);
    assert_eq!(scene.dropped(), [(DropReason::EspReplayed, 1)], "within one burst, too");
}

#[test]
fn what_is_not_authentic_or_not_esp_is_refused() {
    let (mut scene, mut peer) = scene_with(child(1));
    let good = peer.seal(&syn());
    let mut forged = good.clone();
    *forged.last_mut().unwrap() ^= 1;
    scene.receive(OUTSIDE, &forged);
    scene.assert_dropped(DropReason::EspBadIcv);

    let esp = |bytes: &[u8]| to_vip(&ipv4(PEER, VIP, protocol::ESP, bytes));
    scene.receive(OUTSIDE, &esp(&[1, 0, 0]));
    scene.assert_dropped(DropReason::EspTruncated);
    scene.receive(OUTSIDE, &esp(&[[1, 0, 0, 1].as_slice(), &[0; 20]].concat()));
    scene.assert_dropped(DropReason::EspTruncated);
    scene.receive(OUTSIDE, &esp(&[[1, 0, 0, 1].as_slice(), &[0; 35]].concat()));
    scene.assert_dropped(DropReason::EspMisaligned);
    scene.receive(OUTSIDE, &esp(&with_padding(&[3, 2, 1], 3)));
    scene.assert_dropped(DropReason::EspBadPadding);
    scene.receive(OUTSIDE, &esp(&with_padding(&[1, 2, 3], 200)));
    scene.assert_dropped(DropReason::EspBadPadding);
    scene.receive(OUTSIDE, &good);
    assert_eq!(scene.sent_with_arp(INSIDE).len(), 1, "none of this moved the window");
}

/// Authentic for the first child SA's number 1, with the padding and pad length given; three bytes of payload.
fn with_padding(padding: &[u8; 3], pad_len: u8) -> Vec<u8> {
    let params = child(1).inbound;
    let context = Context::new(EngineKind::AesGcm, params.algorithm, params.key.key()).unwrap();
    let (iv, number) = ([7; 8], 1u64);
    let nonce: Vec<u8> = [params.key.salt().as_slice(), &iv].concat();
    let spi = params.spi.get().to_be_bytes();
    let aad = [spi.as_slice(), &number.to_be_bytes()].concat();
    let mut text = [b"xxx".as_slice(), padding, &[pad_len, protocol::IPV4]].concat();
    let mut icv = [0; 16];
    context.seal_in_place(nonce.as_slice().try_into().unwrap(), &aad, &mut text, &mut icv).unwrap();
    [spi.as_slice(), &(number as u32).to_be_bytes(), &iv, &text, &icv].concat()
}

#[test]
fn an_unknown_spi_is_reported_at_a_bounded_rate() {
    let mut scene = Scene::new();
    let frame = to_vip(&ipv4(PEER, VIP, protocol::ESP, &[0xab; 64]));
    scene.receive_burst(OUTSIDE, &vec![frame; 30]);
    assert_eq!(scene.dropped(), [(DropReason::UnknownSpi, 30)]);
    let events = scene.events();
    assert_eq!(events.len(), 10);
    assert!(matches!(events[0], Event::UnknownSpi { spi: 0xabab_abab, remote } if remote == PEER));
}

#[test]
fn an_sa_is_good_for_its_own_vip_only() {
    let mut both = tables();
    both.vips[1].state = VipState::Owned;
    let mut scene = Scene::with(both, &WorkerConfig::default());
    let mut peer = Peer::new(child(1));
    scene.command(peer.install());
    let esp = peer.esp(&syn(), protocol::IPV4);
    let packet = ipv4(PEER, OTHER_VIP, protocol::ESP, &esp);
    let misdirected = frame(OTHER_VIP_MAC, ROUTER_MAC, vipsec_wire::ethernet::EtherType::IPV4, &packet);
    scene.receive(OUTSIDE, &misdirected);
    scene.assert_dropped(DropReason::WrongVip);
}

#[test]
fn a_vip_that_is_lost_takes_nothing() {
    let (mut scene, mut peer) = scene_with(child(1));
    let mut lost = tables();
    lost.vips[0].state = VipState::Elsewhere;
    scene.use_tables(lost);
    let frame = peer.seal(&syn());
    scene.receive(OUTSIDE, &frame);
    scene.assert_dropped(DropReason::VipNotOwned);
}

#[test]
fn both_encapsulations_are_taken_at_any_time() {
    // RFC 7296 §2.23: "MUST be able to receive and process both UDP-encapsulated ESP and non-UDP-encapsulated ESP packets".
    for udp in [None, Some((4500, 61000))] {
        let mut child = child(1);
        child.tunnel.udp = udp;
        let (mut scene, mut peer) = scene_with(child);
        let plain = to_vip(&ipv4(PEER, VIP, protocol::ESP, &peer.esp(&syn(), protocol::IPV4)));
        let in_udp = Peer::in_udp((PEER, 61000), &peer.esp(&syn(), protocol::IPV4));
        scene.receive_burst(OUTSIDE, &[plain, in_udp]);
        assert_eq!(scene.sent_with_arp(INSIDE).len(), 2);
        assert_eq!(scene.counters.tally(Tally::PeersMoved), 0);
    }
}

#[test]
fn a_peer_behind_a_nat_is_followed_by_its_newest_packet_only() {
    let mut child = child(1);
    child.tunnel.udp = Some((4500, 61000));
    let (mut scene, mut peer) = scene_with(child);
    let moved = (Ipv4Addr::new(198, 51, 100, 77), 62000);
    let old = peer.esp(&echo_request(REMOTE, VIP), protocol::IPV4);
    let new = peer.esp(&echo_request(REMOTE, VIP), protocol::IPV4);
    let mut forged = peer.esp(&echo_request(REMOTE, VIP), protocol::IPV4);
    *forged.last_mut().unwrap() ^= 1;

    scene.receive(OUTSIDE, &Peer::in_udp(moved, &forged));
    assert_eq!(scene.counters.tally(Tally::PeersMoved), 0, "not authentic");
    /* <-- ESP from the new address */
    scene.receive(OUTSIDE, &Peer::in_udp(moved, &new));
    let events = scene.events();
    let [Event::Alive(_), Event::PeerMoved { spi, remote }] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!((*spi, *remote), (peer.spi(), moved.into()));
    /* ESP to the new address --> */
    peer.child.tunnel.remote = moved.0.into();
    peer.child.tunnel.udp = Some((4500, moved.1));
    let frame = scene.one_sent_with_arp(OUTSIDE);
    peer.open(&frame);
    // An older packet that comes late from the old address, or is held back and replayed from elsewhere, moves nothing.
    scene.receive(OUTSIDE, &Peer::in_udp((PEER, 61000), &old));
    let frame = scene.one_sent(OUTSIDE);
    peer.open(&frame);
    assert_eq!(scene.counters.tally(Tally::PeersMoved), 1);
}

#[test]
fn the_control_core_moves_a_peer() {
    let mut child = child(1);
    child.tunnel.udp = Some((4500, 61000));
    let (mut scene, mut peer) = scene_with(child);
    let moved = Ipv4Addr::new(198, 51, 100, 77);
    scene.command(Command::MovePeer { spi: peer.spi(), remote: (moved, 62000).into() });
    peer.child.tunnel.remote = moved.into();
    peer.child.tunnel.udp = Some((4500, 62000));
    scene.receive(INSIDE, &to_gateway(&udp((VIP, 53), (REMOTE, 40000), b"answer")));
    let frame = scene.one_sent_with_arp(OUTSIDE);
    peer.open(&frame);
    scene.command(Command::MovePeer { spi: Spi::new(0x999).unwrap(), remote: (moved, 1).into() });
    assert_eq!(scene.counters.tally(Tally::CommandsRefused), 1);
}

/// RFC 6311 §5.2: a remote peer that failed over may have lost count.
#[test]
fn outbound_numbers_skip() {
    let (mut scene, peer) = scene_with(child(1));
    scene.command(Command::SkipNumbers { spi: peer.spi(), delta: 1000 });
    scene.receive(INSIDE, &to_gateway(&udp((VIP, 53), (REMOTE, 40000), b"answer")));
    let frame = scene.one_sent_with_arp(OUTSIDE);
    let sequence = vipsec_wire::ethernet::HEADER_LEN + ipv4::HEADER_LEN + 4;
    assert_eq!(frame[sequence..sequence + 4], 1001u32.to_be_bytes());
}

#[test]
fn the_inner_packet_must_be_what_the_sa_carries() {
    let (mut scene, mut peer) = scene_with(child(1));
    let stranger = Ipv4Addr::new(10, 8, 0, 1);
    let mut bad_checksum = syn();
    bad_checksum[10] ^= 1;
    let mut bad_icmp = echo_request(REMOTE, VIP);
    bad_icmp[22] ^= 1;
    let cases: [(Vec<u8>, u8, DropReason); 11] = [
        (syn(), protocol::IPV6, DropReason::InnerMalformed),
        (syn(), protocol::TCP, DropReason::UnexpectedNextHeader),
        (b"any rubbish".to_vec(), protocol::NO_NEXT_HEADER, DropReason::EspDummy),
        (bad_checksum, protocol::IPV4, DropReason::InnerMalformed),
        (syn()[..30].to_vec(), protocol::IPV4, DropReason::InnerMalformed),
        (bad_icmp, protocol::IPV4, DropReason::MalformedIcmp),
        (tcp((stranger, 1), (VIP, 80), Flags::SYN, b""), protocol::IPV4, DropReason::InboundSelectorMismatch),
        (tcp((REMOTE, 1), (OTHER_VIP, 80), Flags::SYN, b""), protocol::IPV4, DropReason::InboundSelectorMismatch),
        (tcp((REMOTE, 1), (VIP, 81), Flags::SYN, b""), protocol::IPV4, DropReason::UnknownService),
        (udp((REMOTE, 1), (VIP, 54), b"query"), protocol::IPV4, DropReason::TargetNotOnLink),
        (icmp(REMOTE, VIP, 3, 4, &[0; 10]), protocol::IPV4, DropReason::MalformedIcmp),
    ];
    for (inner, next_header, reason) in cases {
        let esp = peer.esp(&inner, next_header);
        scene.receive(OUTSIDE, &to_vip(&ipv4(PEER, VIP, protocol::ESP, &esp)));
        scene.assert_dropped(reason);
    }
}

#[test]
fn selectors_may_name_ports_and_wider_networks() {
    let mut child = child(1);
    child.local_selectors = vec![
        Selector { protocol: Some(6), ports: 80..=80, ..selector("192.0.2.0/24") },
        Selector { protocol: Some(17), ports: 53..=53, ..selector("192.0.2.0/24") },
    ];
    let (mut scene, mut peer) = scene_with(child);
    let good = peer.seal(&syn());
    scene.receive(OUTSIDE, &good);
    assert_eq!(scene.sent_with_arp(INSIDE).len(), 1);
    let other_port = peer.seal(&udp((REMOTE, 1), (VIP, 80), b"not TCP"));
    scene.receive(OUTSIDE, &other_port);
    scene.assert_dropped(DropReason::InboundSelectorMismatch);
    let other_host = peer.seal(&tcp((REMOTE, 1), (Ipv4Addr::new(192, 0, 2, 99), 80), Flags::SYN, b""));
    scene.receive(OUTSIDE, &other_host);
    scene.assert_dropped(DropReason::NotToVip);
}

#[test]
fn traffic_flow_padding_is_cut_off() {
    let (mut scene, mut peer) = scene_with(child(1));
    let mut padded = syn();
    padded.extend([0; 100]);
    let frame = peer.seal(&padded);
    scene.receive(OUTSIDE, &frame);
    assert_eq!(scene.one_sent_with_arp(INSIDE).len(), 14 + syn().len());
}

#[test]
fn congestion_on_the_way_reaches_the_target() {
    let (mut scene, mut peer) = scene_with(child(1));
    let inner = |ecn: Ecn| {
        let payload = udp((REMOTE, 40000), (VIP, 53), b"query")[ipv4::HEADER_LEN..].to_vec();
        let header = ipv4::Repr::new(REMOTE, VIP, protocol::UDP, payload.len() as u16);
        ipv4_with(ipv4::Repr { traffic_class: 0x28 | ecn.bits(), ..header }, &payload)
    };
    let mut send = |scene: &mut Scene, ecn| {
        let esp = peer.esp(&inner(ecn), protocol::IPV4);
        let header = ipv4::Repr::new(PEER, VIP, protocol::ESP, esp.len() as u16);
        let outer = ipv4_with(ipv4::Repr { traffic_class: Ecn::Ce.bits(), ..header }, &esp);
        scene.receive(OUTSIDE, &to_vip(&outer));
    };
    send(&mut scene, Ecn::Ect0);
    let frame = scene.one_sent_with_arp(INSIDE);
    let packet = Packet::parse(Header::parse(&frame).unwrap().1).unwrap();
    assert_eq!(packet.traffic_class(), 0x28 | Ecn::Ce.bits(), "its DSCP stays its own");
    send(&mut scene, Ecn::NotEct);
    scene.assert_dropped(DropReason::InnerCongestion);
}

#[test]
fn an_sa_says_once_a_second_that_it_is_alive() {
    let (mut scene, mut peer) = scene_with(child(1));
    let mut alive = |scene: &mut Scene| {
        let frame = peer.seal(&syn());
        scene.receive(OUTSIDE, &frame);
        scene.events().iter().filter(|event| matches!(event, Event::Alive(_))).count()
    };
    assert_eq!([alive(&mut scene), alive(&mut scene)], [1, 0]);
    scene.advance(SECOND);
    assert_eq!([alive(&mut scene), alive(&mut scene)], [1, 0]);
}

#[test]
fn removal_and_refusal() {
    let config = WorkerConfig { sas_max: 1, ..Default::default() };
    let mut scene = Scene::with(tables(), &config);
    let mut first = Peer::new(child(1));
    scene.command(first.install());
    scene.command(first.install());
    scene.command(Peer::new(child(2)).install());
    let mut elsewhere = child(3);
    elsewhere.vip = 7;
    scene.command(Peer::new(elsewhere).install());
    let mut odd_window = child(1);
    odd_window.inbound.window = 63;
    let odd = Command::InstallChild(Box::new(odd_window));
    scene.command(odd);
    let mut by_device = child(1);
    by_device.processing = Processing::Lookaside;
    scene.command(Command::InstallChild(Box::new(by_device)));
    let events = scene.events();
    assert!(
        matches!(
            events.as_slice(),
            [
                Event::ChildInstalled(_),
                Event::ChildInstalled(_),
                Event::ChildRefused(_, ChildRefusal::TooMany),
                Event::ChildRefused(_, ChildRefusal::UnknownVip),
                Event::ChildRefused(_, ChildRefusal::Setup),
                Event::ChildRefused(_, ChildRefusal::Processing(Processing::Lookaside)),
            ]
        ),
        "{events:?}"
    );
    let frame = first.seal(&syn());
    scene.receive(OUTSIDE, &frame);
    assert_eq!(scene.sent_with_arp(INSIDE).len(), 1, "the one that was there stays");
    scene.command(Command::RemoveChild(first.spi()));
    let frame = first.seal(&syn());
    scene.receive(OUTSIDE, &frame);
    scene.assert_dropped(DropReason::UnknownSpi);
    scene.receive(INSIDE, &to_gateway(&udp((VIP, 53), (REMOTE, 40000), b"answer")));
    scene.assert_dropped(DropReason::NoOutboundSa);
}

#[test]
fn sas_are_reported() {
    let (mut scene, mut peer) = scene_with(child(1));
    let frame = peer.seal(&syn());
    scene.receive(OUTSIDE, &frame);
    scene.receive(INSIDE, &to_gateway(&udp((VIP, 53), (REMOTE, 40000), b"answer")));
    scene.events();
    scene.command(Command::Report { token: 9, what: ReportKind::Sas });
    let events = scene.events();
    let [Event::Report { token: 9, report: Report::Sas(sas) }] = events.as_slice() else { panic!("{events:?}") };
    let [sa] = sas.as_slice() else { panic!("{sas:?}") };
    assert_eq!((sa.spi, sa.edge, sa.horizon, sa.sent, sa.lease), (peer.spi(), 1, u64::MAX, 1, u64::MAX));
    assert_eq!((sa.packets_in, sa.bytes_in, sa.packets_out, sa.bytes_out), (1, 40, 1, 34));
    assert_eq!(sa.tunnel, peer.child.tunnel);
}

/// A backup installs the child SAs of its copy before anything is served here.
#[test]
fn a_dormant_child_sa_carries_from_the_moment_that_it_is_woken() {
    let (mut scene, mut peer) = (Scene::new(), Peer::new(child(1)));
    let mut dormant = child(1);
    (dormant.inbound.edge, dormant.inbound.horizon) = (DORMANT, DORMANT);
    (dormant.outbound.sent, dormant.outbound.lease) = (DORMANT, DORMANT);
    scene.command(Command::InstallChild(Box::new(dormant)));
    assert!(matches!(scene.events().as_slice(), [Event::ChildInstalled(spi)] if *spi == peer.spi()));
    let sas = |scene: &mut Scene| {
        scene.command(Command::Report { token: 1, what: ReportKind::Sas });
        match scene.events().pop() {
            Some(Event::Report { report: Report::Sas(sas), .. }) => sas,
            other => panic!("{other:?}"),
        }
    };
    assert!(sas(&mut scene).is_empty(), "it has no numbers to tell of");
    let early = peer.seal(&echo_request(REMOTE, VIP));
    scene.receive(OUTSIDE, &early);
    scene.assert_dropped(DropReason::EspDormant);
    scene.receive(INSIDE, &to_gateway(&udp((VIP, 53), (REMOTE, 40000), b"answer")));
    scene.assert_dropped(DropReason::EspDormant);
    assert!(scene.sent(OUTSIDE).is_empty());

    let iv_prefix = IvPrefix::new(ApplianceId::new(2).unwrap(), Epoch(7));
    let wake = |spi| Wake { spi, edge: 0, sent: 1024, lifetime: Lifetime::NONE };
    scene.command(Command::WakeChildren { iv_prefix, wakes: vec![wake(peer.spi())] });
    scene.receive(OUTSIDE, &early);
    let frame = scene.one_sent_with_arp(OUTSIDE);
    let reply = Packet::parse(&peer.open(&frame)).map(|reply| reply.destination());
    assert_eq!(reply.unwrap(), REMOTE);
    let [sa] = &sas(&mut scene)[..] else { panic!("one child SA") };
    assert_eq!((sa.edge, sa.horizon, sa.sent, sa.lease), (1, u64::MAX, 1025, u64::MAX));

    // Nothing goes back, and nobody else is woken.
    scene.command(Command::WakeChildren { iv_prefix, wakes: vec![wake(peer.spi()), wake(Spi::new(4711).unwrap())] });
    assert_eq!(scene.counters.tally(Tally::CommandsRefused), 2);
    scene.receive(OUTSIDE, &early);
    scene.assert_dropped(DropReason::EspReplayed);
}
