//! Several workers: wherever a packet arrives, its home deals with it, as if there were only one.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;
use vipsec_distribute::service::{Accepts, Method, Service, ServiceTable};
use vipsec_esp::sa::ChildSa;
use vipsec_wire::ethernet::Header;
use vipsec_wire::icmp::kind;
use vipsec_wire::ip;
use vipsec_wire::tcp::Flags;

use super::clear::{CLIENT, accepting};
use super::crew::Crew;
use super::dual_stack::both;
use super::fragments::{split, with_checksum};
use super::peer::{Peer, child, selector};
use super::scene::*;
use crate::api::{Command, Event, Tables, VipState, WorkerId};
use crate::drops::{DropReason, Tally};
use crate::worker::WorkerConfig;

/// The host behind a remote peer.
fn host(net: u8, last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 9, net, last)
}

/// A child SA of the hosts of one net.
fn child_of(net: u8) -> ChildSa {
    ChildSa { remote_selectors: vec![selector(&format!("10.9.{net}.0/24"))], ..child(net) }
}

fn query(from: Ipv4Addr, port: u16) -> Vec<u8> {
    udp((from, port), (VIP, 53), b"query")
}

fn answer(to: Ipv4Addr, port: u16) -> Vec<u8> {
    udp((VIP, 53), (to, port), b"answer")
}

/// Two workers with one child SA each, of the nets 0 and 1.
fn pair() -> (Crew, [Peer; 2]) {
    let mut crew = Crew::new(2, tables());
    let peers = [0, 1].map(|net| Peer::new(child_of(net)));
    for (worker, peer) in peers.iter().enumerate() {
        crew.install(worker, &peer.child);
    }
    (crew, peers)
}

fn with_state(state: VipState) -> Tables {
    let mut tables = tables();
    tables.vips[0].state = state;
    tables
}

#[test]
fn wherever_esp_arrives_the_worker_that_has_the_sa_takes_it() {
    let (mut crew, mut peers) = pair();
    for (net, peer) in (0u8..).zip(&mut peers) {
        for arrival in 0..2 {
            crew.receive(arrival, OUTSIDE, &peer.seal(&query(host(net, 7), 40_000 + arrival as u16)));
            let frame = crew.one_sent_at_last(INSIDE);
            assert!(frame.ends_with(b"query"));
        }
    }
    assert_eq!(crew.connections(), [2, 2]);
    for (worker, peer) in peers.iter().enumerate() {
        let sas = crew.sas(worker);
        let seen: Vec<_> = sas.iter().map(|sa| (sa.spi, sa.edge, sa.packets_in)).collect();
        assert_eq!(seen, [(peer.spi(), 2, 2)]);
        assert_eq!(crew.tally_of(worker, Tally::HandedOver), 1);
        assert_eq!(crew.tally_of(worker, Tally::TakenFromOthers), 1);
    }
    assert_eq!(crew.dropped(), []);
}

#[test]
fn wherever_an_answer_arrives_it_meets_its_connection_and_its_sa() {
    let (mut crew, mut peers) = pair();
    for (net, peer) in (0u8..).zip(&mut peers) {
        crew.receive(usize::from(net), OUTSIDE, &peer.seal(&query(host(net, 7), 40_000)));
        crew.sent_at_last(INSIDE);
        for arrival in [0, 1, 0, 1] {
            crew.receive(arrival, INSIDE, &to_gateway(&answer(host(net, 7), 40_000)));
            let frame = crew.one_sent_at_last(OUTSIDE);
            // The peer's replay window takes no number twice.
            assert!(peer.open(&frame).ends_with(b"answer"));
        }
    }
    assert_eq!((crew.dropped(), crew.tally(Tally::RepliesUnknown)), (vec![], 0));
    assert_eq!([0, 1].map(|worker| crew.sas(worker)[0].sent), [4, 4]);
}

#[test]
fn an_unknown_spi_is_told_once_and_handed_to_nobody() {
    let (mut crew, _) = pair();
    let mut stranger = Peer::new(child(77));
    crew.events(1);
    crew.receive(1, OUTSIDE, &stranger.seal(&query(host(0, 7), 1)));
    assert!(matches!(crew.events(1)[..], [Event::UnknownSpi { .. }]));
    assert_eq!((crew.dropped(), crew.filled_rings()), (vec![(DropReason::UnknownSpi, 1)], vec![]));
}

/// Two workers may see the same SA at each other for a moment.
#[test]
fn a_packet_is_handed_over_once() {
    let (mut crew, mut peers) = pair();
    let steering = |crew: &mut Crew, at: usize, peer: &Peer, worker: u8| {
        let child = &peer.child;
        let steering = crate::api::Steering {
            spi: child.inbound.spi,
            worker: WorkerId(worker),
            token: 2,
            vip: child.vip,
            lane: None,
            local_selectors: child.local_selectors.clone(),
            remote_selectors: child.remote_selectors.clone(),
        };
        crew.command(at, Command::Steer(Box::new(steering)));
    };
    steering(&mut crew, 0, &peers[0], 1);
    steering(&mut crew, 1, &peers[0], 0);
    crew.receive(0, OUTSIDE, &peers[0].seal(&query(host(0, 7), 1)));
    crew.settle();
    assert_eq!(crew.dropped(), [(DropReason::UnknownSpi, 1)]);
    crew.receive(1, INSIDE, &to_gateway(&answer(host(0, 7), 1)));
    crew.settle();
    assert_eq!(crew.dropped(), [(DropReason::NoOutboundSa, 1)]);
}

#[test]
fn an_sa_that_is_gone_is_nowhere() {
    let (mut crew, mut peers) = pair();
    crew.command(0, Command::RemoveChild(peers[0].spi()));
    crew.receive(1, OUTSIDE, &peers[0].seal(&query(host(0, 7), 1)));
    crew.settle();
    assert_eq!(crew.dropped(), [(DropReason::UnknownSpi, 1)], "its home knows first");
    crew.command(1, Command::Unsteer(peers[0].spi()));
    crew.receive(1, OUTSIDE, &peers[0].seal(&query(host(0, 7), 1)));
    crew.receive(1, INSIDE, &to_gateway(&answer(host(0, 7), 1)));
    assert_eq!(crew.dropped(), [(DropReason::UnknownSpi, 1), (DropReason::NoOutboundSa, 1)]);
    /* and comes back elsewhere */
    crew.install(1, &peers[0].child.clone());
    crew.receive(0, OUTSIDE, &peers[0].seal(&query(host(0, 7), 1)));
    assert_eq!(crew.sent_at_last(INSIDE).len(), 1);
}

#[test]
fn the_newest_of_all_workers_sas_carries_a_packet() {
    let (mut crew, mut peers) = pair();
    let mut newer = Peer::new(ChildSa { remote_selectors: vec![selector("10.9.0.0/25")], ..child(9) });
    crew.install(1, &newer.child);
    for (last, in_newer) in [(7, true), (200, false)] {
        crew.receive(0, INSIDE, &to_gateway(&answer(host(0, last), 1)));
        let frame = crew.one_sent_at_last(OUTSIDE);
        let peer = if in_newer { &mut newer } else { &mut peers[0] };
        assert!(peer.open(&frame).ends_with(b"answer"));
    }
}

#[test]
fn a_connection_in_the_clear_has_one_home_for_both_directions() {
    for accepts in [Accepts::Clear, Accepts::Both] {
        let mut crew = Crew::new(3, accepting(accepts));
        // An SA of that client says nothing about what is in the clear.
        crew.install(1, &ChildSa { remote_selectors: vec![selector("0.0.0.0/0")], ..child(1) });
        for port in 0..30 {
            crew.receive(usize::from(port % 3), OUTSIDE, &to_vip(&query(CLIENT, 40_000 + port)));
            assert_eq!(crew.sent_at_last(INSIDE).len(), 1);
            crew.receive(usize::from((port + 1) % 3), INSIDE, &to_gateway(&answer(CLIENT, 40_000 + port)));
            let frame = crew.one_sent_at_last(OUTSIDE);
            let (_, packet) = Header::parse(&frame).unwrap();
            assert_eq!(ip::Header::parse(packet).unwrap().destination, CLIENT.into());
        }
        let connections = crew.connections();
        assert_eq!(connections.iter().sum::<usize>(), 30);
        assert!(connections.iter().all(|count| *count >= 2), "spread: {connections:?}");
        assert_eq!((crew.dropped(), crew.tally(Tally::RepliesUnknown)), (vec![], 0));
    }
}

/// What a service takes both ways is found both ways: through the tunnel, and back through it.
#[test]
fn a_connection_through_a_tunnel_to_a_mixed_service_lives_at_its_hash() {
    let mut crew = Crew::new(2, accepting(Accepts::Both));
    let mut peer = Peer::new(child(1));
    crew.install(0, &peer.child);
    for port in 0..20 {
        crew.receive(usize::from(port % 2), OUTSIDE, &peer.seal(&query(REMOTE, 40_000 + port)));
        assert_eq!(crew.sent_at_last(INSIDE).len(), 1);
        crew.receive(usize::from(port / 2 % 2), INSIDE, &to_gateway(&answer(REMOTE, 40_000 + port)));
        let frame = crew.one_sent_at_last(OUTSIDE);
        assert!(peer.open(&frame).ends_with(b"answer"));
    }
    assert!(crew.connections().iter().all(|count| *count >= 2));
    assert_eq!((crew.dropped(), crew.tally(Tally::RepliesUnknown)), (vec![], 0));
}

/// RFC 9611: each worker has an SA of its own for the same traffic.
#[test]
fn with_lanes_each_worker_sends_by_its_own_and_connections_stay_whole() {
    let base = tables();
    let in_turns = |service: &Service| Service { method: Method::WeightedRoundRobin, ..service.clone() };
    let services =
        ServiceTable::new(base.services.targets().to_vec(), base.services.services().iter().map(in_turns).collect());
    let mut crew = Crew::new(2, Tables { services: services.unwrap().into(), ..base });
    let mut lanes = [0u16, 1].map(|lane| Peer::new(ChildSa { lane: Some(lane), ..child(1 + lane as u8) }));
    for (worker, lane) in lanes.iter().enumerate() {
        crew.install(worker, &lane.child);
    }
    let mut targets = BTreeMap::new();
    // The remote peer sends a connection's packets by either lane: it may move between its own processors.
    for round in 0..4usize {
        for port in 0..16u16 {
            let lane = (round + usize::from(port)) % 2;
            crew.receive(usize::from(port % 2), OUTSIDE, &lanes[lane].seal(&query(REMOTE, 40_000 + port)));
            let frame = crew.one_sent_at_last(INSIDE);
            let target = frame[..6].to_vec();
            assert_eq!(*targets.entry(port).or_insert(target.clone()), target, "the connection's target");
            crew.receive(round % 2, INSIDE, &to_gateway(&answer(REMOTE, 40_000 + port)));
            let [(worker, frame)] = crew.sent_at_last_by_whom(OUTSIDE).try_into().unwrap();
            assert!(lanes[worker].open(&frame).ends_with(b"answer"), "by the worker's own SA");
        }
    }
    assert_eq!(crew.connections().iter().sum::<usize>(), 16);
    assert!(crew.connections().iter().all(|count| *count >= 2));
    assert_eq!((crew.dropped(), crew.tally(Tally::RepliesUnknown)), (vec![], 0));
}

#[test]
fn a_worker_without_a_lane_of_its_own_uses_anothers() {
    let mut crew = Crew::new(2, tables());
    let mut only = Peer::new(ChildSa { lane: Some(0), ..child(1) });
    crew.install(0, &only.child);
    for port in 0..12 {
        crew.receive(1, OUTSIDE, &only.seal(&query(REMOTE, 40_000 + port)));
        assert_eq!(crew.sent_at_last(INSIDE).len(), 1);
        crew.receive(1, INSIDE, &to_gateway(&answer(REMOTE, 40_000 + port)));
        let frame = crew.one_sent_at_last(OUTSIDE);
        assert!(only.open(&frame).ends_with(b"answer"));
    }
    assert!(crew.connections().iter().all(|count| *count >= 2));
    assert_eq!((crew.dropped(), crew.tally(Tally::RepliesUnknown)), (vec![], 0));
}

#[test]
fn hosts_that_keep_their_target_keep_their_worker() {
    let base = accepting(Accepts::Clear);
    let sticky = |service: &Service| Service {
        affinity: Some(60 * SECOND),
        method: Method::WeightedRoundRobin,
        ..service.clone()
    };
    let services =
        ServiceTable::new(base.services.targets().to_vec(), base.services.services().iter().map(sticky).collect());
    let mut crew = Crew::new(4, Tables { services: services.unwrap().into(), ..base });
    let mut targets = BTreeMap::new();
    for port in 0..20 {
        crew.receive(usize::from(port % 4), OUTSIDE, &to_vip(&query(CLIENT, 40_000 + port)));
        let frame = crew.one_sent_at_last(INSIDE);
        targets.insert(frame[..6].to_vec(), port);
    }
    assert_eq!(targets.len(), 1);
}

#[test]
fn fragments_meet_wherever_they_arrive() {
    let (mut crew, mut peers) = pair();
    /* outside, of ESP */
    let big = udp((host(1, 7), 40_000), (VIP, 53), &[7; 1400]);
    let frame = peers[1].seal(&big);
    let fragments = split(&frame[14..], 600);
    assert!(fragments.len() > 2);
    for (n, fragment) in fragments.iter().enumerate() {
        crew.receive(n % 2, OUTSIDE, &to_vip(fragment));
    }
    assert!(crew.one_sent_at_last(INSIDE).ends_with(&[7; 1400]));
    /* inside, of an answer */
    let big = udp((VIP, 53), (host(1, 7), 40_000), &[8; 1400]);
    for (n, fragment) in split(&big, 600).iter().enumerate() {
        crew.receive((n + 1) % 2, INSIDE, &to_gateway(fragment));
    }
    let frame = crew.one_sent_at_last(OUTSIDE);
    assert!(peers[1].open(&frame).ends_with(&[8; 1400]));
    /* in a tunnel */
    let big = udp((host(0, 7), 40_000), (VIP, 53), &[9; 1400]);
    for (n, fragment) in split(&big, 600).iter().enumerate() {
        crew.receive((n + 1) % 2, OUTSIDE, &peers[0].seal(fragment));
    }
    assert!(crew.one_sent_at_last(INSIDE).ends_with(&[9; 1400]));
    assert_eq!((crew.dropped(), crew.tally(Tally::Reassembled)), (vec![], 3));
}

#[test]
fn what_came_in_fragments_may_leave_in_fragments_after_it_was_handed_over() {
    let mut crew = Crew::new(2, dual_stack());
    let mut peer = Peer::new(both(false, None));
    crew.install(1, &peer.child);
    for host in 0..8 {
        let remote = Ipv6Addr::from_bits(REMOTE6.to_bits() + host);
        let answer = udp_between((VIP6, 53), (remote, 40_000), &[8; 1440]);
        for (n, fragment) in split(&answer, 1400).iter().enumerate() {
            crew.receive(n % 2, INSIDE, &to_gateway(fragment));
        }
        let frames = crew.sent_at_last(OUTSIDE);
        assert_eq!(frames.len(), 2);
        frames.iter().for_each(|frame| drop(peer.open(frame)));
    }
    assert_eq!(crew.dropped(), []);
    assert!([0, 1].iter().all(|worker| crew.tally_of(*worker, Tally::Reassembled) > 0), "by their hash");
}

#[test]
fn the_answer_to_a_workers_question_may_arrive_at_another_one() {
    let (mut crew, mut peers) = pair();
    crew.receive(1, OUTSIDE, &peers[1].seal(&query(host(1, 7), 40_000)));
    let request = crew.sent_by(1, INSIDE).pop().unwrap();
    let answer = answer_of_neighbour(&request).flatten().unwrap();
    crew.receive(0, INSIDE, &answer);
    assert!(crew.sent_by(1, INSIDE).is_empty());
    crew.settle();
    let frames = crew.sent_by(1, INSIDE);
    assert!(frames[0].ends_with(b"query"));
}

#[test]
fn one_worker_asks_for_all_when_a_vip_comes() {
    let mut crew = Crew::new(3, with_state(VipState::Elsewhere));
    let peers = [0, 1, 2].map(|net| Peer::new(child_of(net)));
    for (worker, peer) in peers.iter().enumerate() {
        crew.install(worker, &peer.child);
    }
    crew.use_tables(&with_state(VipState::Owned));
    assert_eq!([1, 2].map(|worker| crew.sent_by(worker, INSIDE).len() + crew.sent_by(worker, OUTSIDE).len()), [0, 0]);
    assert!(crew.sent_at_last(INSIDE).is_empty() && crew.sent_at_last(OUTSIDE).is_empty());
    assert_eq!(crew.tally(Tally::ArpRequests), 3, "two targets and the router");
    for (worker, mut peer) in peers.into_iter().enumerate() {
        crew.receive(worker, OUTSIDE, &peer.seal(&query(host(worker as u8, 7), 40_000)));
        assert!(crew.sent_by(worker, INSIDE)[0].ends_with(b"query"), "nothing to ask for any more");
    }
}

#[test]
fn a_full_ring_loses_packets_under_a_name() {
    let config = WorkerConfig { handoffs_max: 4, ..Default::default() };
    let mut crew = Crew::with(2, tables(), &config, |worker, _| worker);
    let mut peer = Peer::new(child(1));
    crew.install(1, &peer.child);
    let burst: Vec<_> = (0..6).map(|n| peer.seal(&query(REMOTE, 40_000 + n))).collect();
    crew.receive_burst(0, OUTSIDE, &burst);
    assert_eq!(crew.dropped(), [(DropReason::HandoffQueueFull, 2)]);
    assert_eq!(crew.sent_at_last(INSIDE).len(), 4);
}

#[test]
fn past_the_deadline_nothing_that_was_handed_over_is_touched() {
    let mut crew = Crew::new(2, accepting(Accepts::Both));
    let mut peer = Peer::new(child(1));
    crew.install(0, &peer.child);
    let sealed: Vec<_> = (0..8).map(|n| peer.seal(&query(REMOTE, 40_000 + n))).collect();
    for frame in &sealed[..4] {
        crew.receive(1, OUTSIDE, frame);
    }
    for frame in &sealed[4..] {
        crew.receive(0, OUTSIDE, frame);
    }
    let waiting = crew.tally(Tally::HandedOver);
    assert!(waiting > 4, "frames, and packets that were decrypted");
    crew.deadline.expire();
    crew.settle();
    let dropped = crew.dropped();
    crew.deadline.lift();
    assert_eq!(dropped, [(DropReason::DeadlinePassed, waiting)]);
    crew.receive(0, OUTSIDE, &sealed[0]);
    assert_eq!(
        crew.sent_at_last(INSIDE).iter().filter(|frame| frame.ends_with(b"query")).count(),
        1 + 8 - waiting as usize
    );
}

/// A move by order loses nothing of what is under way between workers, and the home holds what it can't take any more.
#[test]
fn a_vip_that_stops_while_packets_are_under_way() {
    let mut crew = Crew::new(2, accepting(Accepts::Both));
    let mut peer = Peer::new(child(1));
    crew.install(0, &peer.child);
    let mut to_deliver = 0;
    for port in 0..8 {
        let before = crew.tally(Tally::HandedOver);
        crew.receive(0, OUTSIDE, &peer.seal(&query(REMOTE, 40_000 + port)));
        to_deliver += crew.tally(Tally::HandedOver) - before;
    }
    assert!(to_deliver > 0, "admitted, on its way to its connection");
    let at_home = crew.sent(INSIDE).len() as u64;
    assert_eq!(at_home + to_deliver, 8);
    let frame = peer.seal(&query(REMOTE, 50_000));
    crew.receive(1, OUTSIDE, &frame);
    crew.use_tables(&Tables { vips: with_state(VipState::HandingOver).vips, ..accepting(Accepts::Both) });
    crew.settle();
    assert_eq!(crew.tally(Tally::Held), 1, "the frame");
    assert_eq!(crew.sent_at_last(INSIDE).len() as u64, to_deliver, "what was admitted");
    crew.use_tables(&Tables { vips: with_state(VipState::Elsewhere).vips, ..accepting(Accepts::Both) });
    let passed_on = crew.one_sent_at_last(OUTSIDE);
    assert_eq!(passed_on[14..], frame[14..]);
    assert_eq!(crew.dropped(), []);
}

#[test]
fn nothing_of_a_lost_vip_outlives_it_in_a_ring() {
    let accepting = |state| Tables { vips: with_state(state).vips, ..accepting(Accepts::Both) };
    let without_queue = |worker: crate::worker::Worker<_>, me: WorkerId| {
        if me == WorkerId(1) { worker.leaving_by(INSIDE, WorkerId(0)) } else { worker }
    };
    let mut crew = Crew::with(2, accepting(VipState::Owned), &WorkerConfig::default(), without_queue);
    let mut peer = Peer::new(child(1));
    crew.install(0, &peer.child);
    /* until both targets are neighbours */
    for port in 0..8 {
        crew.receive(0, OUTSIDE, &peer.seal(&query(REMOTE, port)));
    }
    crew.sent_at_last(INSIDE);
    for port in 0..12 {
        crew.receive(0, OUTSIDE, &peer.seal(&query(REMOTE, 40_000 + port)));
    }
    /* half of what is decrypted gets as far as the way out */
    crew.take((0, 1), 3);
    crew.receive(1, OUTSIDE, &peer.seal(&query(REMOTE, 50_000)));
    let rings = crew.filled_rings();
    assert_eq!(rings, [(0, 1), (1, 0)]);
    /* the VIP goes, and comes back, before the rings are looked at */
    crew.use_tables_at(0, 2, &accepting(VipState::Elsewhere));
    crew.use_tables_at(1, 2, &accepting(VipState::Elsewhere));
    crew.use_tables_at(0, 3, &accepting(VipState::Owned));
    crew.use_tables_at(1, 3, &accepting(VipState::Owned));
    let before = crew.dropped();
    assert!(before.iter().all(|(reason, _)| *reason == DropReason::VipNotOwned));
    let delivered: Vec<_> = crew.sent_at_last(INSIDE).into_iter().filter(|frame| frame.ends_with(b"query")).collect();
    let (_, packet) = Header::parse(&delivered[0]).unwrap();
    let ports = &packet[20..22];
    assert_eq!((delivered.len(), ports), (1, &50_000u16.to_be_bytes()[..]), "only the frame is judged anew");
    assert!(crew.dropped().iter().all(|(reason, _)| *reason == DropReason::VipNotOwned));
}

#[test]
fn a_port_with_one_queue_serves_all_workers() {
    let one_queue =
        |worker: crate::worker::Worker<_>, _| worker.leaving_by(OUTSIDE, WorkerId(0)).leaving_by(INSIDE, WorkerId(0));
    let mut crew = Crew::with(3, tables(), &WorkerConfig::default(), one_queue);
    let mut peers = [0, 1, 2].map(|net| Peer::new(child_of(net)));
    for (worker, peer) in peers.iter().enumerate() {
        crew.install(worker, &peer.child);
    }
    for (net, peer) in (0u8..).zip(&mut peers) {
        crew.receive(0, OUTSIDE, &peer.seal(&query(host(net, 7), 40_000)));
        assert_eq!(crew.sent_at_last(INSIDE).len(), 1);
        crew.receive(0, INSIDE, &to_gateway(&answer(host(net, 7), 40_000)));
        let frame = crew.one_sent_at_last(OUTSIDE);
        assert!(peer.open(&frame).ends_with(b"answer"));
    }
    assert_eq!([1, 2].map(|worker| crew.sent_by(worker, OUTSIDE).len()), [0, 0]);
    assert_eq!(crew.dropped(), []);
}

#[test]
fn errors_from_both_sides_find_their_connection_and_their_sa() {
    /* of the path to the remote peer, where its SA isn't */
    let (mut crew, mut peers) = pair();
    crew.receive(0, INSIDE, &to_gateway(&udp((VIP, 53), (host(1, 7), 40_000), &[1; 900])));
    let frame = crew.one_sent_at_last(OUTSIDE);
    let quoting = |quoted: &[u8], code, mtu: u16| {
        let mut rest = vec![0, 0];
        rest.extend_from_slice(&mtu.to_be_bytes());
        rest.extend_from_slice(&quoted[..quoted.len().min(128)]);
        move |from, to| icmp(from, to, kind::UNREACHABLE, code, &rest)
    };
    crew.receive(0, OUTSIDE, &to_vip(&quoting(&frame[14..], 4, 900)(ROUTER, VIP)));
    crew.settle();
    assert_eq!([0, 1].map(|worker| crew.tally_of(worker, Tally::PathMtuLowered)), [0, 1]);
    /* of a remote host to a target, through the SA of another worker than the connection's */
    crew.receive(1, OUTSIDE, &peers[1].seal(&query(host(1, 7), 40_000)));
    let target = crew.one_sent_at_last(INSIDE)[..6].to_vec();
    let error = quoting(&answer(host(1, 7), 40_000), 3, 0)(host(0, 1), VIP);
    crew.receive(1, OUTSIDE, &peers[0].seal(&error));
    let frame = crew.one_sent_at_last(INSIDE);
    assert_eq!(frame[..6], target);
    /* of a target to a remote host */
    let error = quoting(&query(host(1, 7), 40_000), 3, 0)(VIP, host(1, 7));
    crew.receive(0, INSIDE, &to_gateway(&error));
    let frame = crew.one_sent_at_last(OUTSIDE);
    peers[1].open(&frame);
    assert_eq!((crew.dropped(), crew.tally(Tally::RepliesUnknown)), (vec![], 1), "the first answer was to no question");
}

#[test]
fn a_remote_host_is_told_through_the_tunnel_of_another_worker() {
    let mut crew = Crew::new(2, accepting(Accepts::Both));
    let mut peer = Peer::new(child(1));
    crew.install(0, &peer.child);
    let mut told = 0;
    for port in 0..12 {
        let mut dying = query(REMOTE, 40_000 + port);
        dying[8] = 1;
        crew.receive(0, OUTSIDE, &peer.seal(&with_checksum(dying)));
        let frame = crew.one_sent_at_last(OUTSIDE);
        told += u32::from(peer.open(&frame)[20] == kind::TIME_EXCEEDED);
    }
    assert_eq!(told, 12);
    assert!(crew.tally_of(1, Tally::IcmpErrors) >= 2);
    assert_eq!(crew.dropped(), [(DropReason::TtlExpired, 12)]);
}

#[test]
fn identifications_of_workers_don_t_meet() {
    let (mut crew, mut peers) = pair();
    let mut seen = BTreeMap::new();
    for (net, peer) in (0u8..).zip(&mut peers) {
        for n in 0..50 {
            crew.receive(0, INSIDE, &to_gateway(&answer(host(net, 7), n)));
            let frame = crew.one_sent_at_last(OUTSIDE);
            peer.open(&frame);
            let identification = [frame[18], frame[19]];
            assert_eq!(seen.insert(identification, net), None);
        }
    }
}

/// A packet of the property below.
#[derive(Debug, Clone)]
struct Sent {
    way: Way,
    net: u8,
    port: u16,
    arrival: usize,
    /// Which of the rings that hold something are looked at afterwards, and how much is taken.
    taken: Vec<(prop::sample::Index, usize)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    InTunnel,
    InClear,
    FromTarget,
}

fn sent(workers: usize) -> impl Strategy<Value = Sent> {
    let way = prop::sample::select(vec![Way::InTunnel, Way::InClear, Way::FromTarget]);
    let taken = prop::collection::vec((any::<prop::sample::Index>(), 1..4usize), 0..3);
    (way, 0u8..4, 40_000u16..40_006, 0..workers, taken).prop_map(|(way, net, port, arrival, taken)| Sent {
        way,
        net,
        port,
        arrival,
        taken,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Wherever packets arrive, and however slowly workers look into their rings: each gets through once, and every connection has one
    /// entry.
    #[test]
    fn nothing_is_lost_or_delivered_twice(
        accepts in prop::sample::select(vec![Accepts::Decrypted, Accepts::Both]),
        has_lanes in any::<bool>(),
        packets in prop::collection::vec(sent(3), 1..60),
    ) {
        let mut crew = Crew::new(3, accepting(accepts));
        let mut peers: Vec<_> = (0..4u8).map(|net| Peer::new(ChildSa { lane: has_lanes.then_some(0), ..child_of(net) })).collect();
        for (net, peer) in peers.iter().enumerate() {
            crew.install(net % 3, &peer.child);
        }
        let (mut to_targets, mut to_remotes) = (BTreeMap::new(), BTreeMap::new());
        let mut connections = BTreeMap::new();
        let clear = |net: u8| Ipv4Addr::new(198, 51, 100, net);
        let (mut inside, mut outside) = (Vec::new(), Vec::new());
        for (number, packet) in (0u16..).zip(&packets) {
            let payload = number.to_be_bytes();
            let Sent { way, net, port, arrival, .. } = *packet;
            match way {
                Way::InTunnel => {
                    let frame = peers[usize::from(net)].seal(&udp((host(net, 7), port), (VIP, 53), &payload));
                    crew.receive(arrival, OUTSIDE, &frame);
                    to_targets.insert(payload, 1);
                    connections.insert((host(net, 7), port), ());
                }
                Way::InClear if accepts == Accepts::Both => {
                    crew.receive(arrival, OUTSIDE, &to_vip(&udp((clear(net), port), (VIP, 53), &payload)));
                    to_targets.insert(payload, 1);
                    connections.insert((clear(net), port), ());
                }
                Way::InClear | Way::FromTarget => {
                    crew.receive(arrival, INSIDE, &to_gateway(&udp((VIP, 53), (host(net, 7), port), &payload)));
                    to_remotes.insert(payload, 1);
                }
            }
            for (which, count) in &packet.taken {
                let filled = crew.filled_rings();
                if !filled.is_empty() {
                    crew.take(*which.get(&filled), *count);
                }
            }
            inside.extend(crew.sent(INSIDE));
            outside.extend(crew.sent(OUTSIDE));
        }
        inside.extend(crew.sent_at_last(INSIDE));
        outside.extend(crew.sent_at_last(OUTSIDE));
        let number = |packet: &[u8]| *packet.last_chunk::<2>().unwrap();
        let mut delivered = BTreeMap::new();
        for frame in &inside {
            *delivered.entry(number(frame)).or_insert(0) += 1;
        }
        prop_assert_eq!(delivered, to_targets);
        let mut sealed = BTreeMap::new();
        for frame in &outside {
            let spi = u32::from_be_bytes(frame[34..38].try_into().unwrap());
            let peer = peers.iter_mut().find(|peer| peer.child.outbound.spi.get() == spi).unwrap();
            let inner = peer.open(frame);
            *sealed.entry(number(&inner)).or_insert(0) += 1;
        }
        prop_assert_eq!(sealed, to_remotes);
        prop_assert_eq!(crew.connections().iter().sum::<usize>(), connections.len());
        prop_assert_eq!(crew.dropped(), []);
        prop_assert_eq!(crew.tally(Tally::HandedOver), crew.tally(Tally::TakenFromOthers));
    }
}

#[test]
fn a_segment_that_opens_a_connection_is_clamped_at_home() {
    let (mut crew, mut peers) = pair();
    let syn = tcp_between((host(1, 7), 40_000), (VIP, 80), Flags::SYN, &[2, 4, 5, 0xb4]);
    crew.receive(0, OUTSIDE, &peers[1].seal(&syn));
    crew.one_sent_at_last(INSIDE);
    assert_eq!([0, 1].map(|worker| crew.tally_of(worker, Tally::MssClamped)), [0, 1]);
}
