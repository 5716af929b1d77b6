//! The IKE SA itself: liveness, rekeying, deletion (RFC 7296 §1.3.2, §1.4, §2.4).

use std::time::Duration;

use super::bench::{VIP, lose_all, lose_nth};
use super::{ALICE, BOB, Bench, Setup};
use crate::message::{Delete, Direction, ExchangeType, NotifyType, Payload};
use crate::{Event, GoneReason, Phase, Role};

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn liveness_is_checked_in_silence_only() {
    let mut bench = Bench::established(Setup { dpd_delay: Some(Duration::from_secs(10)), ..Setup::default() });
    let delivered = bench.delivered;
    bench.pass(Duration::from_secs(9));
    assert_eq!(bench.delivered, delivered);
    // ESP arrives at both ends: no need to ask.
    for side in [ALICE, BOB] {
        let spi = bench.child(side).spi_in;
        bench.sides[side].endpoint.peer_alive(spi, bench.now);
    }
    bench.pass(Duration::from_secs(9));
    assert_eq!(bench.delivered, delivered);
    /* INFORMATIONAL { } -->, <-- INFORMATIONAL { } */
    bench.pass(Duration::from_secs(1));
    assert!(bench.delivered >= delivered + 2);
    assert!(bench.sa(ALICE).silent < Duration::from_secs(1));
    assert!(bench.sa(BOB).silent < Duration::from_secs(1));
    bench.pass(10 * MINUTE);
    assert_eq!(bench.phases(), [vec![Phase::Established], vec![Phase::Established]]);
}

#[test]
fn a_dead_peer_is_noticed() {
    let mut bench = Bench::established(Setup { dpd_delay: Some(Duration::from_secs(10)), ..Setup::default() });
    bench.loss = Some(lose_all(BOB, Direction::Request));
    // 10 s of silence, then 23.5 s of retransmissions.
    bench.pass(Duration::from_secs(33));
    assert!(bench.sides[ALICE].gone().is_empty());
    bench.pass(Duration::from_secs(1));
    assert_eq!(bench.sides[ALICE].gone(), [GoneReason::PeerDead]);
    assert!(bench.sides[ALICE].installed.is_empty());
}

#[test]
fn rekey_by_either_end() {
    for side in [ALICE, BOB] {
        let mut bench = Bench::established(Setup::default());
        let other = 1 - side;
        let (old, old_there) = (bench.sa(side), bench.sa(other));
        let child = bench.child(side);
        bench.sides[side].endpoint.rekey_ike(old.id, bench.now).unwrap();
        /* CREATE_CHILD_SA { SA, Ni, KEi } --> */
        bench.deliver();
        let there = bench.sides[other].sas(bench.now);
        let heir = there.iter().find(|sa| sa.id != old_there.id).unwrap();
        assert_eq!(there.iter().find(|sa| sa.id == old_there.id).unwrap().phase, Phase::Rekeyed { heir: heir.id });
        assert_eq!((heir.role, heir.children.len()), (Role::Responder, 1));
        /* <-- CREATE_CHILD_SA { SA, Nr, KEr } */
        bench.deliver();
        /* INFORMATIONAL { D(IKE) } -->, over the old one */
        let delete = bench.deliver().unwrap();
        assert_eq!(delete.transmit.ike_sa, Some(old.id));
        /* <-- INFORMATIONAL { } */
        bench.run();
        let (new, new_there) = (bench.sa(side), bench.sa(other));
        assert_eq!((new.id.get(), new.remote_spi), (new_there.remote_spi, new_there.id.get()));
        // RFC 7296 §1.3.2: the rekeying's initiator is the new original initiator; counters start at 0.
        assert_eq!((new.role, new_there.role), (Role::Initiator, Role::Responder));
        assert_eq!((new.next_request, new.next_expected), (0, 0));
        assert_eq!(new.remote_id, old.remote_id);
        // The child SA was inherited, not touched.
        assert_eq!(bench.child(side), child);
        bench.assert_children_match();
        for side in &bench.sides {
            assert_eq!(side.gone(), [GoneReason::Rekeyed]);
            assert!(side.events.iter().any(|event| matches!(event, Event::IkeRekeyed { .. })));
        }
        // And it can be used: the keys fit.
        for side in [ALICE, BOB] {
            let spi = bench.child(side).spi_in;
            bench.sides[side].endpoint.rekey_child(spi, bench.now).unwrap();
            bench.run();
            bench.assert_children_match();
        }
    }
}

/// Who was heard before is no news by new keys: which of two owners has served it (docs/takeover.md, "Healing a split") turns on that.
#[test]
fn a_remote_peer_that_is_rekeyed_has_been_heard_before() {
    let mut bench = Bench::established(Setup::default());
    bench.pass(MINUTE);
    let before = bench.now;
    bench.pass(MINUTE);
    let old = bench.sa(BOB).id;
    bench.sides[BOB].endpoint.rekey_ike(old, bench.now).unwrap();
    bench.run();
    for side in &bench.sides {
        assert_eq!(side.endpoint.remotes_heard(before, before).count(), 1);
    }
}

#[test]
fn rekey_with_any_one_message_lost() {
    for n in 0..4 {
        let mut bench = Bench::established(Setup::default());
        let old = bench.sa(BOB).id;
        bench.sides[BOB].endpoint.rekey_ike(old, bench.now).unwrap();
        bench.loss = Some(lose_nth(n));
        bench.pass(Duration::from_secs(1));
        assert_ne!(bench.sa(BOB).id, old, "message {n}");
        assert_eq!(bench.phases(), [vec![Phase::Established], vec![Phase::Established]]);
        bench.assert_children_match();
    }
}

/// RFC 7296 §1.3, §2.18: a wrong group is tried again with the right one.
#[test]
fn rekey_in_another_group() {
    let mut bench = Bench::established(Setup { ike: ["aes256gcm16-prfsha256-ecp256-x25519"; 2], ..Setup::default() });
    let old = bench.sa(ALICE);
    assert_eq!(old.suite, "aes256gcm16-prfsha256-ecp256");
    // Bob's successor has another configuration.
    bench.setup.ike[BOB] = "aes256gcm16-prfsha256-x25519";
    bench.replace(BOB);
    bench.sides[ALICE].endpoint.rekey_ike(old.id, bench.now).unwrap();
    bench.deliver();
    /* <-- CREATE_CHILD_SA { N(INVALID_KE_PAYLOAD, X25519) } */
    let refusal = bench.deliver().unwrap();
    assert_eq!(bench.read(&refusal), [Payload::notify(NotifyType::INVALID_KE_PAYLOAD, vec![0, 31])]);
    bench.run();
    assert_eq!(bench.sa(ALICE).suite, "aes256gcm16-prfsha256-x25519");
    bench.assert_children_match();
}

#[test]
fn rekeyed_by_time() {
    let mut bench = Bench::established(Setup { ike_rekey_time: [Some(10 * MINUTE), None], ..Setup::default() });
    let first = bench.sa(ALICE).id;
    bench.pass(9 * MINUTE);
    assert_eq!(bench.sa(ALICE).id, first);
    bench.pass(MINUTE);
    assert_ne!(bench.sa(ALICE).id, first);
    assert_eq!(bench.sides[ALICE].gone(), [GoneReason::Rekeyed]);
}

/// A peer may be served elsewhere: it is asked again and again, and taken for dead only when silence counts again.
#[test]
fn silence_that_is_excused_ends_no_ike_sa() {
    let setup = Setup { dpd_delay: Some(Duration::from_secs(10)), ..Setup::default() };
    let mut bench = Bench::established(setup.clone());
    let alices = bench.sa(ALICE).id;
    bench.sides[ALICE].endpoint.excuse_silence(VIP, Some(bench.now + 30 * MINUTE));
    bench.loss = Some(Box::new(|_| true));
    bench.pass(25 * MINUTE);
    assert_eq!((bench.sa(ALICE).id, bench.sides[BOB].gone().as_slice()), (alices, [GoneReason::PeerDead].as_slice()));
    bench.pass(15 * MINUTE);
    assert_eq!(bench.sides[ALICE].gone(), [GoneReason::PeerDead]);

    // Once it answers, nothing has happened.
    let mut bench = Bench::established(Setup { dpd_delay: Some(Duration::from_secs(10)), ..setup });
    let alices = bench.sa(ALICE).id;
    for side in [ALICE, BOB] {
        bench.sides[side].endpoint.excuse_silence(VIP, Some(bench.now + 30 * MINUTE));
    }
    bench.loss = Some(Box::new(|_| true));
    bench.pass(25 * MINUTE);
    bench.loss = None;
    bench.pass(MINUTE);
    assert_eq!((bench.sa(ALICE).id, bench.phases()), (alices, [vec![Phase::Established], vec![Phase::Established]]));
    // And silence counts again.
    bench.sides[ALICE].endpoint.excuse_silence(VIP, None);
    bench.loss = Some(Box::new(|_| true));
    bench.pass(10 * MINUTE);
    assert_eq!(bench.sides[ALICE].gone(), [GoneReason::PeerDead]);
}

#[test]
fn delete_by_either_end() {
    for side in [ALICE, BOB] {
        let mut bench = Bench::established(Setup::default());
        let id = bench.sa(side).id;
        bench.sides[side].endpoint.delete_ike(id, bench.now).unwrap();
        /* INFORMATIONAL { D(IKE) } --> */
        bench.deliver();
        /* <-- INFORMATIONAL { } */
        bench.deliver();
        assert_eq!(bench.phases(), [vec![], vec![]]);
        assert!(bench.sides.iter().all(|side| side.installed.is_empty()));
        assert_eq!(bench.sides[side].gone(), [GoneReason::Deleted]);
        assert_eq!(bench.sides[1 - side].gone(), [GoneReason::DeletedByPeer]);
    }
}

/// The deleted IKE SA still answers, so that the peer needn't wait for its patience to end.
#[test]
fn delete_and_the_answer_is_lost() {
    let mut bench = Bench::established(Setup::default());
    let id = bench.sa(ALICE).id;
    bench.sides[ALICE].endpoint.delete_ike(id, bench.now).unwrap();
    bench.loss = Some(lose_nth(1));
    bench.pass(Duration::from_millis(500));
    assert_eq!(bench.sides[ALICE].gone(), [GoneReason::Deleted]);
    // Not for ever.
    bench.pass(MINUTE);
    assert!(bench.sides.iter().all(|side| side.endpoint.poll_timeout().is_none()));
}

/// R2: what was answered first may still be waiting for the copies to learn that the IKE SA is gone.
#[test]
fn the_answer_to_a_deletion_is_that_ike_sas_message_however_often_it_is_asked_for() {
    let mut bench = Bench::established(Setup::default());
    let (id, bobs) = (bench.sa(ALICE).id, bench.sa(BOB).id);
    bench.sides[ALICE].endpoint.delete_ike(id, bench.now).unwrap();
    let request = bench.deliver().unwrap();
    bench.hand_over(&request);
    let answers = [bench.deliver().unwrap(), bench.deliver().unwrap()];
    assert!(answers.iter().all(|answer| answer.transmit.ike_sa == Some(bobs)));
    assert_eq!(answers[0].transmit.payload, answers[1].transmit.payload);
}

#[test]
fn delete_by_both_ends_at_once() {
    let mut bench = Bench::established(Setup::default());
    for side in [ALICE, BOB] {
        let id = bench.sa(side).id;
        bench.sides[side].endpoint.delete_ike(id, bench.now).unwrap();
    }
    bench.run();
    assert_eq!(bench.phases(), [vec![], vec![]]);
}

/// RFC 7296 §2.3: one request at a time, the others wait.
#[test]
fn requests_wait_for_their_turn() {
    let mut bench = Bench::established(Setup::default());
    let (ike, spi) = (bench.sa(ALICE).id, bench.child(ALICE).spi_in);
    let endpoint = &mut bench.sides[ALICE].endpoint;
    endpoint.create_child(ike, "spare", bench.now).unwrap();
    endpoint.rekey_child(spi, bench.now).unwrap();
    endpoint.rekey_ike(ike, bench.now).unwrap();
    bench.collect();
    assert_eq!(bench.wire.len(), 1);
    bench.run();
    assert_ne!(bench.sa(ALICE).id, ike);
    assert_eq!(bench.sa(ALICE).children.len(), 2);
    assert!(!bench.sides[ALICE].installed.contains_key(&spi));
    bench.assert_children_match();
}

/// RFC 7296 §2.25.2: no new child SA while the IKE SA is being rekeyed.
#[test]
fn temporary_failure_while_rekeying() {
    let mut bench = Bench::established(Setup::default());
    let (alice, bob) = (bench.sa(ALICE).id, bench.sa(BOB).id);
    bench.sides[ALICE].endpoint.rekey_ike(alice, bench.now).unwrap();
    bench.sides[BOB].endpoint.create_child(bob, "spare", bench.now).unwrap();
    /* CREATE_CHILD_SA { SA, Ni, KEi } --> */
    bench.deliver();
    /* <-- CREATE_CHILD_SA { SA, Ni, KEi, TSi, TSr } */
    bench.deliver();
    // Bob is creating a child SA (§2.25.1), Alice is rekeying the IKE SA: both refuse.
    for _ in 0..2 {
        let answer = bench.deliver().unwrap();
        assert_eq!(bench.read(&answer), [NotifyType::TEMPORARY_FAILURE.into()]);
    }
    bench.run();
    // RFC 7296 §2.25: MUST NOT immediately retry; later it works.
    assert_eq!(bench.sa(ALICE).id, alice);
    bench.pass(Duration::from_secs(20));
    assert_ne!(bench.sa(ALICE).id, alice);
    bench.assert_children_match();
}

/// RFC 7296 §2.21.2: the initiator tells the responder that it is not convinced.
#[test]
fn responder_is_not_who_it_should_be() {
    let mut bench = Bench::new(Setup::default());
    bench.call();
    bench.deliver();
    bench.deliver();
    bench.deliver();
    /* <-- IKE_AUTH { IDr, AUTH, ... } */
    bench.rewrite_next(|payloads| payloads[0] = Payload::IdResponder("mallory.example".parse().unwrap()));
    bench.deliver();
    assert_eq!(bench.phases()[ALICE], [Phase::Deleting]);
    assert!(bench.sides[ALICE].installed.is_empty());
    /* INFORMATIONAL { N(AUTHENTICATION_FAILED) } --> */
    let told = bench.deliver().unwrap();
    assert_eq!(bench.sides[BOB].gone(), [GoneReason::AuthenticationFailed]);
    assert_eq!(told.transmit.payload[18], ExchangeType::Informational.get());
    bench.run();
    assert_eq!(bench.phases(), [vec![], vec![]]);
    assert_eq!(bench.sides[ALICE].gone(), [GoneReason::AuthenticationFailed]);
}

/// RFC 7296 §1.4.1: deleting the IKE SA closes its child SAs implicitly, and other Delete payloads don't matter.
#[test]
fn delete_payloads_of_other_protocols() {
    let mut bench = Bench::established(Setup::default());
    let id = bench.sa(ALICE).next_request;
    let forged = bench.forge(ALICE, ExchangeType::Informational, id, &[Payload::Delete(Delete::Other(2))]);
    bench.hand_over(&forged);
    assert_eq!(bench.sa(BOB).children.len(), 1);
}

/// Bob has his answer and goes on with the new IKE SA, before Alice's own request to rekey the old one is there.
#[test]
fn the_peer_goes_on_over_its_own_heir_while_our_rekeying_is_under_way() {
    let mut bench = Bench::established(Setup::default());
    let old = [ALICE, BOB].map(|side| bench.sa(side).id);
    for side in [ALICE, BOB] {
        bench.sides[side].endpoint.rekey_ike(old[side], bench.now).unwrap();
    }
    bench.collect();
    let (alices, bobs): (Vec<_>, Vec<_>) = bench.wire.drain(..).partition(|flying| flying.to == BOB);
    /* <-- CREATE_CHILD_SA { SA, Ni, KEi } */
    bench.hand_over(&bobs[0]);
    /* CREATE_CHILD_SA { SA, Nr, KEr } --> */
    let answer = bench.wire.pop_front().unwrap();
    let spi = bench.child(BOB).spi_in;
    bench.hand_over(&answer);
    bench.sides[BOB].endpoint.delete_child(spi, bench.now).unwrap();
    /* <-- INFORMATIONAL { D } over the new IKE SA, and one that deletes the old one */
    bench.run();
    assert!(
        bench.sides.iter().all(|side| side.installed.is_empty()),
        "a child SA that only one end has is a black hole"
    );
    /* CREATE_CHILD_SA { SA, Ni, KEi } -->, <-- N(TEMPORARY_FAILURE), at last */
    bench.hand_over(&alices[0]);
    bench.pass(Duration::from_secs(60));
    bench.assert_children_match();
    assert_eq!(bench.phases(), [vec![Phase::Established], vec![Phase::Established]]);
    assert!(bench.sa(ALICE).id != old[ALICE] && bench.sa(BOB).id != old[BOB]);
}
