//! The appliance's own host as a target of another appliance, which owns the VIP.

use vipsec_distribute::service::{Forwarding, ServiceTable};
use vipsec_wire::ethernet::{EtherType, Header, MacAddr};
use vipsec_wire::ip as wire_ip;
use vipsec_wire::ip::{parse_interface, protocol};
use vipsec_wire::ndp;
use vipsec_wire::tcp::Flags;

use super::fragments::split;
use super::local::{LOCAL, LOCAL_MAC, from_host, tables_with_host};
use super::peer::{Peer, child};
use super::scene::*;
use crate::api::{Side, Tables, VipState};
use crate::drops::{DropReason, Tally};
use crate::worker::WorkerConfig;

/// The owner's.
const OWNER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 2, 0x0b]);

/// The VIP is elsewhere; UDP port 54 has no target here.
fn elsewhere() -> Tables {
    let mut tables = tables_with_host();
    tables.vips[0].state = VipState::Elsewhere;
    tables
}

/// An appliance that owns nothing, so that nothing renews its workers' deadline.
fn backup() -> Scene {
    let scene = Scene::with(elsewhere(), &WorkerConfig::default());
    scene.deadline.expire();
    scene
}

/// The other appliance, for which the first target is that host.
fn owner() -> (Scene, Peer) {
    let mut tables = tables();
    (tables.ports[1].addresses, tables.ports[1].mac) = (vec![parse_interface("10.1.0.12/24").unwrap()], OWNER_MAC);
    let mut targets = tables_with_host().services.targets().to_vec();
    targets[0].forwarding = Forwarding::Mac;
    tables.services = ServiceTable::new(targets, tables.services.services().to_vec()).unwrap().into();
    let mut scene = Scene::with(tables, &WorkerConfig::default());
    let peer = Peer::new(child(1));
    scene.command(peer.install());
    scene.events();
    (scene, peer)
}

/// As the owner sends it: from its gateway to the appliance's own address.
fn distributed(packet: &[u8]) -> Vec<u8> {
    frame(INSIDE_MAC, GATEWAY_MAC, EtherType::IPV4, packet)
}

#[test]
fn a_connection_goes_through_the_owner_to_the_backups_host_and_back() {
    let (mut owner, mut peer) = owner();
    let mut backup = backup();
    owner.receive(OUTSIDE, &peer.seal(&tcp((REMOTE, 40000), (VIP, 80), Flags::SYN, b"")));
    /* who has 10.1.0.11? --> */
    backup.receive(INSIDE, &owner.one_sent(INSIDE));
    /* <-- I have */
    owner.receive(INSIDE, &backup.one_sent(INSIDE));
    /* SYN --> */
    let mut syn = owner.one_sent(INSIDE);
    syn.resize(60, 0); // Ethernet's minimum
    backup.receive(INSIDE, &syn);
    let delivered = backup.one_sent(LOCAL);
    let (ethernet, packet) = Header::parse(&delivered).unwrap();
    assert_eq!((ethernet.source, ethernet.destination), (LOCAL_MAC, LOCAL_MAC));
    let header = wire_ip::Header::parse(packet).unwrap();
    assert_eq!(header.total_len, packet.len(), "nothing behind it");
    assert_eq!(
        (header.source, header.destination, header.ttl),
        (REMOTE.into(), VIP.into(), 63),
        "one hop, the owner's"
    );
    /* <-- SYN, ACK */
    let answer = tcp((VIP, 80), (REMOTE, 40000), Flags::SYN.union(Flags::ACK), b"");
    backup.receive(LOCAL, &from_host(&answer));
    let reply = backup.one_sent(INSIDE);
    assert_eq!(reply, frame(GATEWAY_MAC, INSIDE_MAC, EtherType::IPV4, &answer), "as it was");
    owner.receive(INSIDE, &reply);
    let inner = peer.open(&owner.one_sent_with_arp(OUTSIDE));
    assert_eq!(wire_ip::Header::parse(&inner).unwrap().source, VIP.into());
    owner.assert_nothing_dropped();
    backup.assert_nothing_dropped();
    assert_eq!((backup.counters.tally(Tally::AsTarget), owner.counters.tally(Tally::RepliesUnknown)), (2, 0));
}

/// takeover.md, step 8: the connection was local to the appliance that owned the VIP, and becomes a distributed one.
#[test]
fn a_connection_to_the_old_owners_host_lives_on_after_a_move() {
    let mut old = Scene::with(tables_with_host(), &WorkerConfig::default());
    let (mut new, mut peer) = owner();
    old.command(peer.install());
    let answer = tcp((VIP, 80), (REMOTE, 40000), Flags::ACK, b"an answer");
    old.receive(OUTSIDE, &peer.seal(&tcp((REMOTE, 40000), (VIP, 80), Flags::SYN, b"")));
    old.one_sent(LOCAL);
    /* the VIP moves, and its replies with it */
    old.use_tables(elsewhere());
    old.deadline.expire();
    old.receive(LOCAL, &from_host(&answer));
    new.receive(INSIDE, &old.one_sent(INSIDE));
    let inner = peer.open(&new.one_sent_with_arp(OUTSIDE));
    assert!(inner.ends_with(b"an answer"));
    /* and so do the client's packets */
    new.receive(OUTSIDE, &peer.seal(&tcp((REMOTE, 40000), (VIP, 80), Flags::ACK, b"a request")));
    old.receive(INSIDE, &new.one_sent(INSIDE));
    new.receive(INSIDE, &old.one_sent(INSIDE));
    old.receive(INSIDE, &new.one_sent(INSIDE));
    assert!(old.one_sent(LOCAL).ends_with(b"a request"));
    old.assert_nothing_dropped();
}

#[test]
fn the_host_gets_only_what_is_for_a_service_that_it_has() {
    let mut backup = backup();
    let packet = |port| udp((REMOTE, 40000), (VIP, port), b"query");
    backup.receive(INSIDE, &distributed(&packet(53)));
    backup.one_sent(LOCAL);
    for port in [54, 55] {
        backup.receive(INSIDE, &distributed(&packet(port)));
        backup.assert_dropped(DropReason::NoLocalTarget);
    }
    // To the gateway's own address, which is another appliance's.
    backup.receive(INSIDE, &to_gateway(&packet(53)));
    backup.assert_dropped(DropReason::OtherStation);
    backup.receive(INSIDE, &distributed(&udp((REMOTE, 40000), (TARGETS[0], 53), b"query")));
    backup.assert_dropped(DropReason::DeadlinePassed);
    let mut malformed = distributed(&packet(53));
    malformed[12..14].copy_from_slice(&[0x86, 0xdd]);
    backup.receive(INSIDE, &malformed);
    backup.assert_dropped(DropReason::MalformedIp);
    assert!(backup.sent(LOCAL).is_empty());
}

#[test]
fn without_a_port_to_the_host_nothing_is_taken_for_it() {
    let mut tables = tables();
    tables.vips[0].state = VipState::Elsewhere;
    let mut scene = Scene::with(tables, &WorkerConfig::default());
    scene.receive(INSIDE, &distributed(&udp((REMOTE, 40000), (VIP, 53), b"query")));
    scene.assert_dropped(DropReason::NoLocalTarget);
}

#[test]
fn the_host_gets_fragments_and_errors_about_its_connections() {
    let mut backup = backup();
    let pieces = split(&udp((REMOTE, 40000), (VIP, 53), &[7; 1000]), 600);
    for piece in &pieces {
        backup.receive(INSIDE, &distributed(piece));
        assert_eq!(&backup.one_sent(LOCAL)[14..], piece);
    }
    let error = |port| {
        let mut rest = vec![0, 0, 5, 0xdc];
        rest.extend_from_slice(&udp((VIP, port), (REMOTE, 40000), b"an answer")[..28]);
        icmp(ROUTER, VIP, 3, 4, &rest)
    };
    backup.receive(INSIDE, &distributed(&error(53)));
    backup.one_sent(LOCAL);
    backup.receive(INSIDE, &distributed(&error(54)));
    backup.assert_dropped(DropReason::NoLocalTarget);
}

#[test]
fn what_is_too_big_for_the_other_side_is_dropped() {
    let mut tables = elsewhere();
    tables.ports[2].mtu = 1400;
    let mut scene = Scene::with(tables, &WorkerConfig::default());
    scene.receive(INSIDE, &distributed(&udp((REMOTE, 40000), (VIP, 53), &[7; 1400])));
    scene.assert_dropped(DropReason::TooBig);
    let mut tables = elsewhere();
    tables.ports[1].mtu = 1400;
    let mut scene = Scene::with(tables, &WorkerConfig::default());
    scene.receive(LOCAL, &from_host(&udp((VIP, 53), (REMOTE, 40000), &[7; 1400])));
    scene.assert_dropped(DropReason::TooBig);
}

/// Rule R5: past its deadline the worker does nothing for a VIP, whatever its tables say. Its own address is no VIP's.
#[test]
fn past_the_deadline_only_the_own_address_is_answered_for() {
    let mut scene = Scene::with(dual_stack_with_host(), &WorkerConfig::default());
    scene.deadline.expire();
    let own = "10.1.0.11".parse().unwrap();
    scene.receive(INSIDE, &arp_request((TARGETS[0], TARGET_MACS[0]), own));
    assert_eq!(Header::parse(&scene.one_sent(INSIDE)).unwrap().0.source, INSIDE_MAC);
    let solicitation = |target| ndp::Solicitation::new(TARGET6, TARGET6_MAC, target).to_frame(TARGET6_MAC, TARGET6_MAC);
    scene.receive(INSIDE, &solicitation("2001:db8:2::b".parse().unwrap()));
    assert_eq!(Header::parse(&scene.one_sent(INSIDE)).unwrap().0.source, INSIDE_MAC);
    scene.assert_nothing_dropped();
    let not_ours_now = [
        (INSIDE, arp_request((TARGETS[0], TARGET_MACS[0]), GATEWAY)),
        (INSIDE, solicitation(GATEWAY6).to_vec()),
        (OUTSIDE, arp_request((ROUTER, ROUTER_MAC), OUTSIDE_ADDRESS)),
        (INSIDE, to_gateway(&udp((VIP, 53), (REMOTE, 40000), b"an answer"))),
        (INSIDE, to_gateway(&echo_request(TARGETS[0], GATEWAY))),
        (LOCAL, from_host(&udp((VIP, 53), (REMOTE, 40000), b"an answer"))),
        (OUTSIDE, to_vip(&udp((REMOTE, 40000), (VIP, 53), b"query"))),
    ];
    for (port, frame) in not_ours_now {
        scene.receive(port, &frame);
        let dropped = scene.dropped();
        assert!(matches!(dropped.as_slice(), [(DropReason::DeadlinePassed, 1)]), "{frame:02x?}: {dropped:?}");
        assert!([OUTSIDE, INSIDE, LOCAL].iter().all(|port| scene.sent(*port).is_empty()));
    }
}

fn dual_stack_with_host() -> Tables {
    let mut tables = dual_stack();
    let local = tables_with_host().ports.pop().unwrap();
    assert_eq!(local.side, Side::Local);
    tables.ports.push(local);
    tables
}

/// A frame that was on its way to the wire as a host's stays when a VIP goes.
#[test]
fn a_vip_that_goes_takes_no_frame_of_the_host_with_it() {
    let mut scene = Scene::with(tables_with_host(), &WorkerConfig::default());
    scene.receive(LOCAL, &from_host(&udp((OTHER_VIP, 53), (REMOTE, 40000), b"an answer")));
    scene.receive(INSIDE, &to_gateway(&echo_request(TARGETS[0], GATEWAY)));
    scene.use_tables(elsewhere());
    let left = scene.one_sent(INSIDE);
    assert_eq!(Header::parse(&left).unwrap().0.destination, OTHER_GATEWAY_MAC);
    assert_eq!(wire_ip::Header::parse(&left[14..]).unwrap().protocol, protocol::UDP);
    assert_eq!(scene.dropped(), [(DropReason::VipNotOwned, 1)]);
}
