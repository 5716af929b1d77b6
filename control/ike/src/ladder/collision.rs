//! Both ends want something at once (RFC 7296 §2.8.1, §2.8.2, §2.25), beside what [`crossing`](super::crossing) tells message by message.

use std::time::Duration;

use super::{ALICE, BOB, Bench, Setup};
use crate::message::NotifyType;
use crate::{GoneReason, Phase};

/// Enough seeds that the lowest nonce is each end's, in each role, some times.
const SEEDS: std::ops::Range<u64> = 0..16;

/// RFC 7296 §2.25.1: TEMPORARY_FAILURE for a child SA that we are trying to close.
#[test]
fn one_deletes_what_the_other_rekeys() {
    let mut bench = Bench::established(Setup::default());
    let (alice, bob) = (bench.child(ALICE).spi_in, bench.child(BOB).spi_in);
    bench.sides[ALICE].endpoint.rekey_child(alice, bench.now).unwrap();
    bench.sides[BOB].endpoint.delete_child(bob, bench.now).unwrap();
    /* CREATE_CHILD_SA { N(REKEY_SA), ... } -->, <-- INFORMATIONAL { D } */
    bench.deliver();
    bench.deliver();
    /* <-- CREATE_CHILD_SA { N(TEMPORARY_FAILURE) } */
    let answer = bench.wire.iter().find(|flying| flying.to == ALICE).unwrap().clone();
    assert_eq!(bench.read(&answer), [NotifyType::TEMPORARY_FAILURE.into()]);
    bench.run();
    // RFC 7296 §2.25.1: the delete of a child SA that is being rekeyed is answered as usual.
    bench.assert_children_match();
    assert!(bench.sides[ALICE].installed.is_empty());
    bench.pass(Duration::from_secs(60));
    assert!(bench.sides[ALICE].installed.is_empty());
}

fn rekey_ikes(bench: &mut Bench) {
    for side in [ALICE, BOB] {
        let id = bench.sa(side).id;
        bench.sides[side].endpoint.rekey_ike(id, bench.now).unwrap();
    }
}

fn assert_one_left(bench: &Bench) {
    assert_eq!(bench.phases(), [vec![Phase::Established], vec![Phase::Established]]);
    let (alice, bob) = (bench.sa(ALICE), bench.sa(BOB));
    assert_eq!((alice.id.get(), alice.remote_spi), (bob.remote_spi, bob.id.get()));
    assert_eq!((alice.children.len(), bob.children.len()), (1, 1));
    bench.assert_children_match();
}

/// RFC 7296 §2.8.2, §2.25.2: a request to rekey what is being closed gets TEMPORARY_FAILURE, and the other's IKE SA inherits.
#[test]
fn both_rekey_the_ike_sa_and_one_is_refused() {
    let mut bench = Bench::established(Setup::default());
    rekey_ikes(&mut bench);
    bench.collect();
    let late = bench.wire.pop_back().unwrap();
    /* req1 -->, <-- resp1, then D() --> is late too */
    bench.deliver();
    bench.deliver();
    bench.collect();
    let delete = bench.wire.pop_front().unwrap();
    /* <-- req2, N(TEMPORARY_FAILURE) --> */
    bench.hand_over(&late);
    let answer = bench.wire.front().unwrap().clone();
    assert_eq!(bench.read(&answer), [NotifyType::TEMPORARY_FAILURE.into()]);
    bench.run();
    bench.hand_over(&delete);
    bench.run();
    assert_one_left(&bench);
    assert!(bench.sides.iter().all(|side| side.gone() == [GoneReason::Rekeyed]));
}

/// One end rekeys, the other deletes.
#[test]
fn one_deletes_the_ike_sa_that_the_other_rekeys() {
    for order in [[ALICE, BOB], [BOB, ALICE]] {
        let mut bench = Bench::established(Setup::default());
        for side in order {
            let id = bench.sa(side).id;
            let endpoint = &mut bench.sides[side].endpoint;
            if side == ALICE { endpoint.rekey_ike(id, bench.now) } else { endpoint.delete_ike(id, bench.now) }.unwrap();
        }
        bench.run();
        bench.pass(Duration::from_secs(60));
        assert_eq!(bench.phases(), [vec![], vec![]], "{order:?}");
        assert!(bench.sides.iter().all(|side| side.installed.is_empty()));
    }
}

/// RFC 7296 §1.3: one of two simultaneous rekeyings comes in the wrong group, and is tried again when the other is under way or done.
#[test]
fn both_rekey_the_child_and_one_in_the_wrong_group() {
    for seed in SEEDS {
        for order in [[ALICE, BOB], [BOB, ALICE]] {
            let esp = ["aes256gcm16-ecp256-x25519", "aes256gcm16-x25519"];
            let mut bench = Bench::established(Setup { esp, seed, ..Setup::default() });
            for side in order {
                let spi = bench.child(side).spi_in;
                bench.sides[side].endpoint.rekey_child(spi, bench.now).unwrap();
            }
            bench.run();
            bench.pass(Duration::from_secs(60));
            bench.assert_children_match();
            assert_eq!(bench.sides[ALICE].installed.len(), 1);
            assert_eq!(bench.child(ALICE).suite.to_string(), "aes256gcm16-x25519");
        }
    }
}

/// RFC 7296 §2.25.1, §2.25.2: a child SA is rekeyed by one end, the IKE SA by the other: both are refused, and both come about later.
#[test]
fn one_rekeys_the_child_and_the_other_the_ike_sa() {
    for rekeys_child in [ALICE, BOB] {
        let mut bench = Bench::established(Setup::default());
        let (child, ike) = (bench.child(rekeys_child).spi_in, bench.sa(1 - rekeys_child).id);
        bench.sides[rekeys_child].endpoint.rekey_child(child, bench.now).unwrap();
        bench.sides[1 - rekeys_child].endpoint.rekey_ike(ike, bench.now).unwrap();
        bench.deliver();
        bench.deliver();
        for _ in 0..2 {
            let answer = bench.deliver().unwrap();
            assert_eq!(bench.read(&answer), [NotifyType::TEMPORARY_FAILURE.into()]);
        }
        // RFC 7296 §2.25: MUST NOT immediately retry.
        assert!(bench.deliver().is_none());
        bench.pass(Duration::from_secs(60));
        assert_one_left(&bench);
        assert_ne!(bench.sa(1 - rekeys_child).id, ike);
        assert_ne!(bench.child(rekeys_child).spi_in, child);
    }
}

/// RFC 7296 §2.25.2: what is asked on an IKE SA that is being closed is refused, and everything goes.
#[test]
fn one_rekeys_the_child_and_the_other_deletes_the_ike_sa() {
    for rekeys in [ALICE, BOB] {
        let mut bench = Bench::established(Setup::default());
        let (child, ike) = (bench.child(rekeys).spi_in, bench.sa(1 - rekeys).id);
        bench.sides[rekeys].endpoint.rekey_child(child, bench.now).unwrap();
        bench.sides[1 - rekeys].endpoint.delete_ike(ike, bench.now).unwrap();
        bench.run();
        assert_eq!(bench.phases(), [vec![], vec![]]);
        assert!(bench.sides.iter().all(|side| side.installed.is_empty()));
    }
}

/// One end deletes a child SA, the other rekeys the IKE SA: the deletion is not lost with the old IKE SA.
#[test]
fn one_deletes_the_child_and_the_other_rekeys_the_ike_sa() {
    for deletes in [ALICE, BOB] {
        for late in [false, true] {
            let mut bench = Bench::established(Setup::default());
            let (child, ike) = (bench.child(deletes).spi_in, bench.sa(1 - deletes).id);
            bench.sides[deletes].endpoint.delete_child(child, bench.now).unwrap();
            bench.sides[1 - deletes].endpoint.rekey_ike(ike, bench.now).unwrap();
            bench.collect();
            if late {
                bench.wire.swap(0, 1);
            }
            bench.run();
            bench.pass(Duration::from_secs(60));
            bench.assert_children_match();
            assert!(bench.sides.iter().all(|side| side.installed.is_empty()));
            assert_eq!(bench.phases(), [vec![Phase::Established], vec![Phase::Established]]);
        }
    }
}

/// Both rekey the IKE SA, one of them in the wrong group.
#[test]
fn both_rekey_the_ike_sa_and_one_in_the_wrong_group() {
    for seed in SEEDS {
        let ike = ["aes256gcm16-prfsha256-ecp256-x25519", "aes256gcm16-prfsha256-x25519-ecp256"];
        let mut bench = Bench::established(Setup { ike, seed, ..Setup::default() });
        // From now on Bob takes X25519 alone.
        bench.setup.ike[BOB] = "aes256gcm16-prfsha256-x25519";
        bench.replace(BOB);
        rekey_ikes(&mut bench);
        bench.run();
        bench.pass(Duration::from_secs(120));
        assert_one_left(&bench);
    }
}
