//! Child SAs under an established IKE SA (RFC 7296 §1.3.1, §1.3.3, §1.4.1).

use std::time::Duration;

use super::bench::{lose_all, lose_nth};
use super::{ALICE, BOB, Bench, Setup};
use crate::message::{Delete, Direction, ExchangeType, NotifyType, Payload};
use crate::{ChildPhase, Event, GoneReason, Limits};

const MINUTE: Duration = Duration::from_secs(60);

fn rekey(bench: &mut Bench, side: usize) -> u32 {
    let spi = bench.child(side).spi_in;
    bench.sides[side].endpoint.rekey_child(spi, bench.now).unwrap();
    spi
}

#[test]
fn rekey_by_either_end() {
    for side in [ALICE, BOB] {
        let mut bench = Bench::established(Setup::default());
        let other = 1 - side;
        let old = bench.child(side);
        rekey(&mut bench, side);
        /* CREATE_CHILD_SA { N(REKEY_SA), SA, Ni, KEi, TSi, TSr } --> */
        let request = bench.deliver().unwrap();
        let payloads = bench.read(&request);
        assert_eq!(payloads[0], Payload::notify_esp(NotifyType::REKEY_SA, old.spi_in));
        // The answering end has both; it may receive on the new one at once.
        assert_eq!((bench.sides[side].installed.len(), bench.sides[other].installed.len()), (1, 2));
        let old_there = bench.sa(other).children.iter().find(|c| c.spi_in == old.spi_out).unwrap().phase;
        assert_eq!(old_there, ChildPhase::Rekeyed);
        /* <-- CREATE_CHILD_SA { SA, Nr, KEr, TSi, TSr } */
        bench.deliver();
        assert_eq!(bench.sides[side].installed.len(), 2);
        /* INFORMATIONAL { D(old) } --> */
        let delete = bench.deliver().unwrap();
        assert_eq!(bench.read(&delete), [Payload::Delete(Delete::Esp(vec![old.spi_in]))]);
        assert_eq!((bench.sides[side].installed.len(), bench.sides[other].installed.len()), (2, 1));
        /* <-- INFORMATIONAL { D(old) } */
        let answer = bench.deliver().unwrap();
        assert_eq!(bench.read(&answer), [Payload::Delete(Delete::Esp(vec![old.spi_out]))]);
        assert!(bench.deliver().is_none());
        bench.assert_children_match();
        let new = bench.child(side);
        assert_ne!(new.spi_in, old.spi_in);
        assert_ne!(new.key_in, old.key_in);
        assert_eq!(new.replaces, Some(old.spi_in));
        assert_eq!(bench.child(other).replaces, Some(old.spi_out));
        // Now it has a key exchange of its own.
        assert_eq!(new.suite.to_string(), "aes256gcm16-x25519");
        assert_eq!(new.local_selectors, old.local_selectors);
    }
}

#[test]
fn rekey_with_any_one_message_lost() {
    for n in 0..4 {
        let mut bench = Bench::established(Setup::default());
        let old = rekey(&mut bench, BOB);
        bench.loss = Some(lose_nth(n));
        bench.pass(Duration::from_secs(1));
        bench.assert_children_match();
        assert_ne!(bench.child(BOB).spi_in, old, "message {n}");
    }
}

/// We made a child SA at the peer's request, and rekey it before the answer has reached the peer, as a successor may: the peer doesn't
/// know it yet, but will.
#[test]
fn rekey_of_a_child_that_the_peer_has_not_heard_of_yet() {
    let mut bench = Bench::established(Setup::default());
    rekey(&mut bench, BOB);
    bench.collect();
    bench.loss = Some(lose_nth(0));
    /* CREATE_CHILD_SA { N(REKEY_SA), ... } -->, and the answer is lost */
    bench.deliver();
    let made = bench.sa(ALICE).children.iter().find(|child| child.phase == ChildPhase::Installed).unwrap().spi_in;
    bench.sides[ALICE].endpoint.rekey_child(made, bench.now).unwrap();
    /* <-- CREATE_CHILD_SA { N(REKEY_SA), ... }; { N(CHILD_SA_NOT_FOUND) } --> */
    bench.run();
    assert!(bench.sides[ALICE].installed.contains_key(&made));
    // Bob asks once more, and gets the same answer.
    bench.pass(Duration::from_secs(1));
    bench.assert_children_match();
}

#[test]
fn rekey_without_key_exchange() {
    let mut bench = Bench::established(Setup { esp: ["aes128gcm16"; 2], ..Setup::default() });
    let old = rekey(&mut bench, ALICE);
    bench.run();
    bench.assert_children_match();
    assert_ne!(bench.child(ALICE).spi_in, old);
}

/// RFC 7296 §1.3: the group that the responder gave is tried next.
#[test]
fn rekey_in_another_group() {
    let esp = ["aes256gcm16-ecp256-x25519", "aes256gcm16-x25519"];
    let mut bench = Bench::established(Setup { esp, ..Setup::default() });
    let old = rekey(&mut bench, ALICE);
    bench.deliver();
    /* <-- CREATE_CHILD_SA { N(INVALID_KE_PAYLOAD, X25519) } */
    let refusal = bench.deliver().unwrap();
    assert_eq!(bench.read(&refusal), [Payload::notify(NotifyType::INVALID_KE_PAYLOAD, vec![0, 31])]);
    bench.run();
    bench.assert_children_match();
    assert_ne!(bench.child(ALICE).spi_in, old);
    assert_eq!(bench.child(ALICE).suite.to_string(), "aes256gcm16-x25519");
}

#[test]
fn another_child() {
    let mut bench = Bench::established(Setup::default());
    let ike = bench.sa(ALICE).id;
    bench.sides[ALICE].endpoint.create_child(ike, "spare", bench.now).unwrap();
    /* CREATE_CHILD_SA { SA, Ni, KEi, TSi, TSr } --> */
    bench.deliver();
    /* <-- CREATE_CHILD_SA { SA, Nr, KEr, TSi, TSr } */
    bench.deliver();
    assert!(bench.deliver().is_none());
    bench.assert_children_match();
    assert_eq!(bench.sides[ALICE].installed.len(), 2);
}

/// RFC 7296 §1.3.
#[test]
fn no_additional_sas() {
    let limits = Limits { children_per_ike_sa_max: 1, ..Limits::default() };
    let mut bench = Bench::established(Setup { limits, ..Setup::default() });
    let ike = bench.sa(ALICE).id;
    bench.sides[ALICE].endpoint.create_child(ike, "spare", bench.now).unwrap();
    bench.run();
    let reason = NotifyType::NO_ADDITIONAL_SAS;
    let failed = Event::ChildFailed { ike_sa: ike, child: Some("spare".to_owned()), reason };
    assert!(bench.sides[ALICE].events.contains(&failed));
    assert_eq!(bench.sides[BOB].installed.len(), 1);
}

#[test]
fn delete_by_either_end() {
    for side in [ALICE, BOB] {
        let mut bench = Bench::established(Setup::default());
        let spi = bench.child(side).spi_in;
        bench.sides[side].endpoint.delete_child(spi, bench.now).unwrap();
        bench.run();
        bench.assert_children_match();
        assert!(bench.sides[side].installed.is_empty());
        // The IKE SA stays.
        assert_eq!((bench.sa(ALICE).children.len(), bench.sa(BOB).children.len()), (0, 0));
    }
}

/// RFC 7296 §1.4.1: crossing deletes are answered without Delete payloads.
#[test]
fn delete_by_both_ends_at_once() {
    let mut bench = Bench::established(Setup::default());
    for side in [ALICE, BOB] {
        let spi = bench.child(side).spi_in;
        bench.sides[side].endpoint.delete_child(spi, bench.now).unwrap();
    }
    /* INFORMATIONAL { D } -->, <-- INFORMATIONAL { D } */
    bench.deliver();
    bench.deliver();
    for _ in 0..2 {
        let answer = bench.deliver().unwrap();
        assert_eq!(bench.read(&answer), []);
    }
    assert!(bench.deliver().is_none());
    bench.assert_children_match();
    assert!(bench.sides[ALICE].installed.is_empty());
}

/// RFC 7296 §2.25.1: one that doesn't exist is answered without a Delete payload.
#[test]
fn delete_of_an_unknown_child() {
    let mut bench = Bench::established(Setup::default());
    let delete = Payload::Delete(Delete::Esp(vec![0xdead_beef]));
    let id = bench.sa(ALICE).next_request;
    let forged = bench.forge(ALICE, ExchangeType::Informational, id, &[delete]);
    bench.hand_over(&forged);
    let answer = bench.wire.pop_front().unwrap();
    assert_eq!(bench.read(&answer), []);
    assert_eq!(bench.sides[BOB].installed.len(), 1);
}

/// RFC 7296 §2.25: the SPI of the REKEY_SA notification comes back.
#[test]
fn rekey_of_an_unknown_child() {
    let mut bench = Bench::established(Setup::default());
    rekey(&mut bench, ALICE);
    bench.rewrite_next(|payloads| payloads[0] = Payload::notify_esp(NotifyType::REKEY_SA, 0x0102_0304));
    bench.deliver();
    let answer = bench.deliver().unwrap();
    assert_eq!(bench.read(&answer), [Payload::notify_esp(NotifyType::CHILD_SA_NOT_FOUND, 0x0102_0304)]);
    // RFC 7296 §2.25: Alice silently deletes hers and asks for a new one.
    bench.run();
    assert_eq!(bench.sides[ALICE].installed.len(), 1);
    assert_eq!(bench.child(ALICE).replaces, None);
    assert!(bench.sides[BOB].installed.contains_key(&bench.child(ALICE).spi_out));
}

#[test]
fn rekeyed_by_time() {
    let rekey_time = Some(10 * MINUTE);
    let mut bench = Bench::established(Setup { child_rekey_time: [None, rekey_time], ..Setup::default() });
    let first = bench.child(BOB).spi_in;
    bench.pass(9 * MINUTE);
    assert_eq!(bench.child(BOB).spi_in, first);
    // Some time in the last tenth.
    bench.pass(MINUTE);
    let second = bench.child(BOB).spi_in;
    assert_ne!(second, first);
    bench.pass(10 * MINUTE);
    assert_ne!(bench.child(BOB).spi_in, second);
    bench.assert_children_match();
    assert!(bench.sides.iter().all(|side| side.gone().is_empty()));
}

/// RFC 7296 §2.8: an SA whose lifetime ends is not used any more.
#[test]
fn expires_when_rekeying_fails() {
    let rekey_time = Some(10 * MINUTE);
    let mut bench = Bench::established(Setup { child_rekey_time: [rekey_time, None], ..Setup::default() });
    // Bob's successor takes other algorithms.
    bench.setup.esp[BOB] = "aes128gcm16";
    bench.replace(BOB);
    bench.pass(12 * MINUTE);
    bench.assert_children_match();
    assert!(bench.sides[ALICE].installed.is_empty());
    assert_eq!(bench.phases().map(|phases| phases.len()), [1, 1]);
}

/// A peer that never answers takes everything with it.
#[test]
fn nobody_answers() {
    let mut bench = Bench::established(Setup::default());
    rekey(&mut bench, ALICE);
    bench.loss = Some(lose_all(ALICE, Direction::Response));
    bench.pass(MINUTE);
    assert_eq!(bench.sides[ALICE].gone(), [GoneReason::PeerDead]);
    assert!(bench.sides[ALICE].installed.is_empty());
}
