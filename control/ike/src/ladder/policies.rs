//! What an operator may set for a connection, as both ends feel it.

use std::time::Duration;

use super::bench::lose_all;
use super::{ALICE, BOB, Bench, Setup};
use crate::message::{Direction, NotifyType, ParseLimits, Part, Received};
use crate::{Encapsulation, Fragmentation, GoneReason, Phase, Retransmission, Unique};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// A child SA ends at the age that was set, though it wouldn't be rekeyed before 20 minutes.
#[test]
fn life_time_of_a_child_sa() {
    let setup =
        Setup { child_rekey_time: [Some(20 * MINUTE), None], child_life_time: Some(13 * MINUTE), ..Setup::default() };
    let mut bench = Bench::established(setup);
    bench.pass(13 * MINUTE - SECOND);
    assert_eq!(bench.sides[ALICE].installed.len(), 1);
    bench.pass(2 * SECOND);
    assert!(bench.sides[ALICE].installed.is_empty() && bench.sides[BOB].installed.is_empty());
}

/// An IKE SA whose rekeying doesn't succeed ends that long after it was due.
#[test]
fn over_time_of_an_ike_sa() {
    let retransmission = Retransmission { tries_max: 1000, ..Retransmission::default() };
    let setup = Setup {
        ike_rekey_time: [Some(10 * MINUTE), None],
        over_time: Some(5 * MINUTE),
        retransmission,
        ..Setup::default()
    };
    let mut bench = Bench::established(setup);
    bench.loss = Some(lose_all(ALICE, Direction::Response));
    bench.pass(15 * MINUTE - SECOND);
    assert_eq!(bench.phases()[ALICE], [Phase::Established]);
    bench.pass(2 * SECOND);
    assert_eq!(bench.phases()[ALICE], [Phase::Deleting]);
}

/// A NAT that isn't there: ESP goes in UDP, from and to port 4500.
#[test]
fn encapsulation_always() {
    for (side, other) in [(ALICE, BOB), (BOB, ALICE)] {
        let mut encapsulation = [Encapsulation::WhereNeeded; 2];
        encapsulation[side] = Encapsulation::Always;
        let mut bench = Bench::established(Setup { encapsulation, ..Setup::default() });
        for end in [side, other] {
            assert_eq!(bench.child(end).tunnel.udp, Some((4500, 4500)), "{side} wants it, {end}");
            assert!(bench.sa(end).nat);
        }
        bench.replace(side);
        assert_eq!(bench.sa(side).children[0].tunnel.udp, Some((4500, 4500)), "a successor does the same");
    }
}

fn is_fragmented(payload: &[u8]) -> bool {
    let received = Received::parse(payload, ParseLimits::default()).unwrap();
    received.sealed().is_ok_and(|sealed| matches!(sealed.part, Part::Fragment { .. }))
}

/// Who only accepts fragments sends none; who wants none announces nothing, and gets none.
#[test]
fn fragmentation_as_set() {
    for (alice, bob, expected) in [
        (Fragmentation::Yes, Fragmentation::Yes, [true, true]),
        (Fragmentation::Accept, Fragmentation::Yes, [false, true]),
        (Fragmentation::Yes, Fragmentation::Accept, [true, false]),
        (Fragmentation::No, Fragmentation::Yes, [false, false]),
        (Fragmentation::Yes, Fragmentation::No, [false, false]),
    ] {
        let setup = Setup { fragmentation: [alice, bob], packet_bytes_max: [180; 2], ..Setup::default() };
        let mut bench = Bench::new(setup);
        bench.call();
        let mut fragmented = [false, false];
        while let Some(flying) = bench.deliver() {
            fragmented[1 - flying.to] |= is_fragmented(&flying.transmit.payload);
        }
        assert_eq!(fragmented, expected, "{alice:?}, {bob:?}");
        assert_eq!(bench.phases(), [vec![Phase::Established], vec![Phase::Established]]);
    }
}

/// A peer that starts anew without INITIAL_CONTACT.
#[test]
fn one_ike_sa_for_each_peer() {
    for (unique, left, gone) in [(Unique::No, 2, None), (Unique::Replace, 1, None), (Unique::Keep, 1, Some(()))] {
        let mut bench = Bench::established(Setup { unique: [Unique::No, unique], ..Setup::default() });
        let first = bench.sa(BOB).id;
        bench.restart(ALICE);
        bench.call();
        bench.run();
        // The deletion of the older one has no answer: Alice doesn't know it any more.
        bench.pass(2 * MINUTE);
        let ids: Vec<_> = bench.sides[BOB].sas(bench.now).iter().map(|sa| sa.id).collect();
        assert_eq!(ids.len(), left, "{unique:?}");
        assert_eq!(ids.contains(&first), unique != Unique::Replace, "{unique:?}");
        let refused = GoneReason::Refused(NotifyType::NO_ADDITIONAL_SAS);
        assert_eq!(bench.sides[ALICE].gone(), gone.map(|()| refused).into_iter().collect::<Vec<_>>(), "{unique:?}");
    }
}

/// Each of two that set up an IKE SA under `replace` keeps its reauthentication: the old one goes by the new one's end.
#[test]
fn reauthentication_under_replace() {
    let setup = Setup { unique: [Unique::Replace; 2], reauth_time: [Some(10 * MINUTE), None], ..Setup::default() };
    let mut bench = Bench::established(setup);
    let first = bench.sa(ALICE).id;
    bench.pass(11 * MINUTE);
    assert_ne!(bench.sa(ALICE).id, first);
    bench.assert_children_match();
    assert_eq!(bench.phases(), [vec![Phase::Established], vec![Phase::Established]]);
}

/// RFC 7296 §4: a minimal peer refuses every CREATE_CHILD_SA; then a new IKE SA is set up with a child SA, and the old one deleted.
#[test]
fn a_minimal_peer_is_called_anew_instead_of_rekeyed() {
    type Rekey = fn(&mut Bench);
    let rekeys: [Rekey; 2] = [
        |bench| {
            let spi = bench.child(ALICE).spi_in;
            bench.sides[ALICE].endpoint.rekey_child(spi, bench.now).unwrap();
        },
        |bench| {
            let id = bench.sa(ALICE).id;
            bench.sides[ALICE].endpoint.rekey_ike(id, bench.now).unwrap();
        },
    ];
    for rekey in rekeys {
        let mut bench = Bench::established(Setup::default());
        let old = bench.sa(ALICE).id;
        rekey(&mut bench);
        bench.deliver();
        // What Bob would answer if he were such a peer.
        bench.rewrite_next(|payloads| *payloads = vec![NotifyType::NO_ADDITIONAL_SAS.into()]);
        bench.pass(SECOND);
        let alice = bench.sa(ALICE);
        assert!(alice.id != old && alice.phase == Phase::Established);
        assert_eq!(bench.sides[ALICE].gone(), [GoneReason::Deleted]);
        // It is one of Bob's, with the same child SA.
        let spi_out = bench.child(ALICE).spi_out;
        assert!(bench.sides[BOB].sas(bench.now).iter().any(|sa| sa.id.get() == alice.remote_spi));
        assert!(bench.sides[BOB].installed.contains_key(&spi_out));
    }
}
