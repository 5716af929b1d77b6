//! Kinds of child SAs: transport mode (RFC 7296 §1.3.1, §2.23.1), single pairs (§2.9), one per worker (RFC 9611).

use super::{ALICE, BOB, Bench, Setup};
use crate::message::{NotifyType, Payload};
use crate::{Event, Mode, OriginalAddresses, Pairs, TrafficSelector};

fn ts(text: &str) -> TrafficSelector {
    text.parse().unwrap()
}

fn has(payloads: &[Payload], kind: NotifyType) -> bool {
    payloads.iter().any(|payload| matches!(payload, Payload::Notify(notify) if notify.kind == kind))
}

fn failures(bench: &Bench, side: usize) -> Vec<NotifyType> {
    let failed = |event: &Event| if let Event::ChildFailed { reason, .. } = event { Some(*reason) } else { None };
    bench.sides[side].events.iter().filter_map(failed).collect()
}

fn transport() -> Setup {
    Setup { mode: [Mode::Transport; 2], alice_net: "192.0.2.0/24", bob_net: "0.0.0.0/0", ..Setup::default() }
}

#[test]
fn transport_mode() {
    // Bob's policy is wider than his address; so is what Alice may propose.
    let mut bench =
        Bench::new(Setup { bob_net: "198.51.100.0/24", bob_net_for_alice: "198.51.100.0/24", ..transport() });
    bench.call();
    bench.deliver();
    bench.deliver();
    /* IKE_AUTH { ..., N(USE_TRANSPORT_MODE), SA, TSi, TSr } --> */
    let request = bench.deliver().unwrap();
    let payloads = bench.read(&request);
    assert!(has(&payloads, NotifyType::USE_TRANSPORT_MODE));
    // RFC 7296 §2.23.1: exactly one address at each end.
    assert!(payloads.contains(&Payload::TsInitiator(vec![ts("192.0.2.1")])));
    assert!(payloads.contains(&Payload::TsResponder(vec![ts("198.51.100.7")])));
    /* <-- IKE_AUTH { ..., N(USE_TRANSPORT_MODE), SA, TSi, TSr } */
    let answer = bench.deliver().unwrap();
    assert!(has(&bench.read(&answer), NotifyType::USE_TRANSPORT_MODE));
    bench.assert_children_match();
    for side in [ALICE, BOB] {
        let child = bench.child(side);
        assert_eq!((child.mode, child.original), (Mode::Transport, None));
    }
    // It stays so when it is rekeyed.
    let spi = bench.child(BOB).spi_in;
    bench.sides[BOB].endpoint.rekey_child(spi, bench.now).unwrap();
    bench.run();
    assert_eq!(bench.child(ALICE).mode, Mode::Transport);
    bench.assert_children_match();
}

/// RFC 7296 §1.3.1: the responder declines by leaving the notification out; whoever can't live with that deletes the SA.
#[test]
fn transport_mode_is_declined() {
    let mut bench = Bench::new(Setup {
        mode: [Mode::Transport, Mode::Tunnel],
        bob_net_for_alice: "198.51.100.0/24",
        ..transport()
    });
    bench.call();
    for _ in 0..3 {
        bench.deliver();
    }
    assert_eq!(bench.child(BOB).mode, Mode::Tunnel);
    bench.run();
    assert_eq!(failures(&bench, ALICE), [NotifyType::INVALID_SYNTAX]);
    assert!(bench.sides.iter().all(|side| side.installed.is_empty()));
    // And who never asked for it doesn't get it.
    let mut bench = Bench::new(Setup { mode: [Mode::Tunnel, Mode::Transport], ..transport() });
    bench.call();
    bench.run();
    assert_eq!(failures(&bench, ALICE), [NotifyType::TS_UNACCEPTABLE]);
}

/// RFC 7296 §2.23.1: the selectors carry the addresses that IKE's packets have; the peer's own are kept for checksums.
#[test]
fn transport_mode_behind_a_nat() {
    let setup = Setup { bob_net_for_alice: "0.0.0.0/0", ..transport() };
    let mut bench = Bench::new(setup);
    bench.nat = Some("203.0.113.9:61000".parse().unwrap());
    bench.sides[BOB].endpoint.initiate("between", "net", bench.now).unwrap();
    bench.run();
    let (alice, bob) = (bench.child(ALICE), bench.child(BOB));
    assert_eq!((alice.mode, bob.mode), (Mode::Transport, Mode::Transport));
    assert_eq!(alice.remote_selectors, [ts("203.0.113.9")]);
    assert_eq!(alice.local_selectors, [ts("192.0.2.1")]);
    let own = "198.51.100.7".parse().unwrap();
    assert_eq!(alice.original, Some(OriginalAddresses { local: "192.0.2.1".parse().unwrap(), remote: own }));
    // The client substitutes its own address back.
    assert_eq!(bob.local_selectors, [ts("198.51.100.7")]);
    assert_eq!(bob.remote_selectors, [ts("192.0.2.1")]);
    assert_eq!(bob.original.unwrap().local.to_string(), "203.0.113.9");
}

/// RFC 7296 §2.9: the selectors of the packet come first, and are what the responder narrows to where it wants a single pair.
#[test]
fn one_pair_of_addresses() {
    let mut bench = Bench::new(Setup { pairs: [Pairs::Any, Pairs::Single], ..Setup::default() });
    bench.call();
    bench.run();
    assert_eq!(failures(&bench, ALICE), [NotifyType::SINGLE_PAIR_REQUIRED]);
    let id = bench.sa(ALICE).id;
    let packet = (ts("10.1.0.5[tcp/4711]"), ts("10.9.0.6[tcp/80]"));
    bench.sides[ALICE].endpoint.create_child_for(id, "net", packet, bench.now).unwrap();
    /* CREATE_CHILD_SA { SA, Ni, KEi, TSi = (packet, net), TSr = (packet, net) } --> */
    let request = bench.deliver().unwrap();
    let payloads = bench.read(&request);
    assert!(payloads.contains(&Payload::TsInitiator(vec![packet.0, ts("10.1.0.0/16")])));
    /* <-- CREATE_CHILD_SA { N(ADDITIONAL_TS_POSSIBLE), SA, Nr, KEr, TSi, TSr } */
    let answer = bench.deliver().unwrap();
    assert!(has(&bench.read(&answer), NotifyType::ADDITIONAL_TS_POSSIBLE));
    bench.run();
    bench.assert_children_match();
    let child = bench.child(ALICE);
    // All that is between these two addresses, the packet's own ports first.
    assert_eq!(child.local_selectors[0], packet.0);
    assert!(child.local_selectors.iter().all(|ts| (ts.first, ts.last) == (packet.0.first, packet.0.first)));
    assert!(child.remote_selectors.iter().all(|ts| (ts.first, ts.last) == (packet.1.first, packet.1.first)));
}

/// RFC 7296 §2.9: a peer that only takes single pairs, and that doesn't look at the first selectors.
#[test]
fn single_pair_required() {
    let mut bench = Bench::established(Setup::default());
    let id = bench.sa(ALICE).id;
    let packet = (ts("10.1.0.5"), ts("10.9.0.6"));
    bench.sides[ALICE].endpoint.create_child_for(id, "net", packet, bench.now).unwrap();
    bench.deliver();
    bench.rewrite_next(|payloads| *payloads = vec![NotifyType::SINGLE_PAIR_REQUIRED.into()]);
    bench.deliver();
    let request = bench.deliver().unwrap();
    let payloads = bench.read(&request);
    assert!(payloads.contains(&Payload::TsInitiator(vec![packet.0])));
    assert!(payloads.contains(&Payload::TsResponder(vec![packet.1])));
}

/// RFC 9611 §3: as many child SAs for the same traffic as there are workers.
#[test]
fn a_child_for_each_worker() {
    let mut bench = Bench::new(Setup { lanes_max: [3, 2], ..Setup::default() });
    bench.call();
    bench.deliver();
    bench.deliver();
    for _ in 0..2 {
        let message = bench.deliver().unwrap();
        assert!(has(&bench.read(&message), NotifyType::SA_RESOURCE_INFO));
    }
    let id = bench.sa(ALICE).id;
    // Bob has agreed to the first: the other two of Alice's workers get theirs.
    bench.run();
    bench.assert_children_match();
    let lanes = |bench: &Bench, side: usize| {
        let mut lanes: Vec<_> = bench.sides[side].installed.values().map(|child| child.lane.unwrap()).collect();
        lanes.sort_unstable();
        lanes
    };
    assert_eq!(lanes(&bench, ALICE), [0, 1, 2]);
    // RFC 9611 §4: Bob has two workers; the third one goes where there are fewest.
    assert_eq!(lanes(&bench, BOB), [0, 0, 1]);
    // RFC 9611 §3: a rekeyed child SA stays on its worker.
    let spi = *bench.sides[ALICE].installed.iter().find(|(_, child)| child.lane == Some(2)).unwrap().0;
    bench.sides[ALICE].endpoint.rekey_child(spi, bench.now).unwrap();
    bench.run();
    assert_eq!((lanes(&bench, ALICE), lanes(&bench, BOB)), (vec![0, 1, 2], vec![0, 0, 1]));
    // RFC 9611 §6: twice as many as Bob has workers, then TS_MAX_QUEUE.
    bench.forget_events();
    for _ in 0..2 {
        bench.sides[ALICE].endpoint.create_lane(id, "net", 0, bench.now).unwrap();
        bench.run();
    }
    assert_eq!(failures(&bench, ALICE), [NotifyType::TS_MAX_QUEUE]);
    assert_eq!(bench.sides[BOB].installed.len(), 4);
    assert!(bench.sides[ALICE].endpoint.create_lane(id, "net", 3, bench.now).is_err());
}

/// A peer that knows nothing of it makes an ordinary child SA.
#[test]
fn a_peer_without_lanes() {
    let bench = Bench::established(Setup { lanes_max: [2, 1], ..Setup::default() });
    assert_eq!(bench.child(ALICE).lane, None);
    bench.assert_children_match();
}

/// RFC 9347: aggregation and fragmentation of inner packets is never agreed to.
#[test]
fn aggfrag_is_ignored() {
    let mut bench = Bench::established(Setup::default());
    let spi = bench.child(ALICE).spi_in;
    bench.sides[ALICE].endpoint.rekey_child(spi, bench.now).unwrap();
    bench.rewrite_next(|payloads| payloads.push(Payload::notify(NotifyType::USE_AGGFRAG, vec![0])));
    bench.deliver();
    let answer = bench.deliver().unwrap();
    assert!(!has(&bench.read(&answer), NotifyType::USE_AGGFRAG));
    bench.run();
    bench.assert_children_match();
}
