//! Message IDs and replay counters after a failover (RFC 6311).

use std::time::Duration;

use super::bench::{Flying, VIP, lose_all, lose_nth};
use super::{ALICE, BOB, Bench, Setup};
use crate::message::{Direction, ExchangeType, NotifyType, Payload};
use crate::{ChildSaRecord, Drop, Event, GoneReason, IkeSaRecord, ImportError, OperateError, Phase, Unique};

type Records = (IkeSaRecord, Vec<ChildSaRecord>);

fn records(bench: &Bench, side: usize) -> Records {
    bench.sides[side].endpoint.export(bench.sa(side).id, bench.now).unwrap()
}

/// An end fails over to a successor with an old copy.
fn fail_over(bench: &mut Bench, side: usize, stale: Records) {
    bench.replace_with(side, |successor, now| {
        let id = successor.import_stale(stale.0, stale.1, now).unwrap();
        successor.synchronise(id, now).unwrap();
        successor.handle_timeout(now);
    });
}

/// Nonce, EXPECTED_SEND_REQ_MESSAGE_ID, EXPECTED_RECV_REQ_MESSAGE_ID.
fn sync(bench: &Bench, flying: &Flying) -> ([u8; 4], u32, u32) {
    assert_eq!(flying.transmit.payload[20..24], [0; 4], "the message ID is zero");
    let payloads = bench.read(flying);
    let [Payload::Notify(notify)] = &payloads[..] else { panic!("{payloads:?}") };
    assert_eq!(notify.kind, NotifyType::IKEV2_MESSAGE_ID_SYNC);
    let word = |at: usize| u32::from_be_bytes(notify.data[at..at + 4].try_into().unwrap());
    (notify.data[..4].try_into().unwrap(), word(4), word(8))
}

/// What the copy misses: a liveness check by Alice, two by Bob.
fn three_exchanges(bench: &mut Bench) {
    for side in [ALICE, BOB, BOB] {
        let id = bench.sa(side).id;
        bench.sides[side].endpoint.check_liveness(id, bench.now).unwrap();
        bench.run();
    }
}

fn assert_in_step(bench: &Bench) {
    let (alice, bob) = (bench.sa(ALICE), bench.sa(BOB));
    assert_eq!((alice.next_request, alice.next_expected), (bob.next_expected, bob.next_request));
}

#[test]
fn both_announce_it_in_ike_auth() {
    let mut bench = Bench::new(Setup::default());
    bench.call();
    bench.deliver();
    bench.deliver();
    let supported = [NotifyType::IKEV2_MESSAGE_ID_SYNC_SUPPORTED, NotifyType::IPSEC_REPLAY_COUNTER_SYNC_SUPPORTED]
        .map(Payload::from);
    for _ in 0..2 {
        let message = bench.deliver().unwrap();
        let payloads = bench.read(&message);
        assert!(supported.iter().all(|notify| payloads.contains(notify)));
    }
}

/// RFC 6311 §5: the responder MUST NOT assert a capability that the initiator didn't; what isn't asserted by both isn't used.
#[test]
fn only_what_both_assert() {
    let mut bench = Bench::new(Setup::default());
    bench.call();
    bench.deliver();
    bench.deliver();
    let asserted = Payload::from(NotifyType::IKEV2_MESSAGE_ID_SYNC_SUPPORTED);
    bench.rewrite_next(|payloads| payloads.retain(|payload| *payload != asserted));
    bench.deliver();
    let answer = bench.wire.front().unwrap().clone();
    assert!(!bench.read(&answer).contains(&asserted));
    bench.run();
    let stale = records(&bench, BOB);
    bench.replace_with(BOB, |successor, now| {
        assert_eq!(successor.import_stale(stale.0, stale.1, now), Err(ImportError::NotSynchronisable));
    });
}

#[test]
fn stale_message_ids_are_agreed_on_anew() {
    for side in [ALICE, BOB] {
        let mut bench = Bench::established(Setup::default());
        let stale = records(&bench, side);
        three_exchanges(&mut bench);
        let (before, peer) = (bench.sa(side), bench.sa(1 - side));
        bench.forget_events();
        fail_over(&mut bench, side, stale);
        /* INFORMATIONAL { N(IKEV2_MESSAGE_ID_SYNC: nonce, M1, P1) } --> */
        let request = bench.deliver().unwrap();
        let (nonce, m1, p1) = sync(&bench, &request);
        assert!(m1 > before.next_request, "M1 lies above what the old owner has used");
        assert!(p1 < before.next_expected, "the copy is stale");
        /* <-- INFORMATIONAL { N(IKEV2_MESSAGE_ID_SYNC: nonce, P2, M2) } */
        let answer = bench.deliver().unwrap();
        assert_eq!(sync(&bench, &answer), (nonce, peer.next_request, m1));
        assert!(bench.deliver().is_none());
        assert_in_step(&bench);
        let id = bench.sa(side).id;
        assert!(bench.sides[side].events.contains(&Event::Synchronised(id)));
        // And both can ask and answer again.
        for side in [ALICE, BOB] {
            let spi = bench.sa(side).children[0].spi_in;
            bench.sides[side].endpoint.rekey_child(spi, bench.now).unwrap();
            bench.run();
            assert_in_step(&bench);
        }
        bench.assert_children_match();
    }
}

/// RFC 6311 §5.1: the peer drops what it has seen, so a lost answer takes another try with a higher M1 and another nonce.
#[test]
fn a_lost_answer_takes_a_higher_id() {
    let mut bench = Bench::established(Setup::default());
    let stale = records(&bench, BOB);
    fail_over(&mut bench, BOB, stale);
    bench.collect();
    bench.loss = Some(lose_nth(0));
    let first = bench.wire.front().unwrap().clone();
    bench.deliver();
    // The answer was lost; the same bytes again are dropped.
    bench.hand_over(&first);
    assert!(bench.wire.is_empty());
    assert_eq!(bench.sides[ALICE].endpoint.counters().get(Drop::UnexpectedMessageId), 1);
    bench.pass(Duration::from_millis(499));
    assert!(bench.wire.is_empty());
    bench.now += Duration::from_millis(1);
    let now = bench.now;
    bench.sides[BOB].endpoint.handle_timeout(now);
    bench.collect();
    let second = bench.wire.front().unwrap().clone();
    // It is a new message: it waits for its record to be acknowledged.
    assert!(second.transmit.fresh);
    let ((old_nonce, old_m1, _), (nonce, m1, _)) = (sync(&bench, &first), sync(&bench, &second));
    assert!(nonce != old_nonce && m1 > old_m1);
    bench.run();
    assert_in_step(&bench);
}

#[test]
fn a_peer_that_never_answers_is_given_up() {
    let mut bench = Bench::established(Setup::default());
    let stale = records(&bench, BOB);
    bench.loss = Some(lose_all(BOB, Direction::Response));
    fail_over(&mut bench, BOB, stale);
    bench.pass(Duration::from_secs(60));
    assert_eq!(bench.sides[BOB].gone(), [GoneReason::PeerDead]);
}

/// It may be served elsewhere for long: message IDs last until it is heard again.
#[test]
fn a_peer_whose_silence_is_excused_is_asked_for_new_ids_until_it_answers() {
    let mut bench = Bench::established(Setup::default());
    let stale = records(&bench, BOB);
    let id = bench.sa(BOB).id;
    fail_over(&mut bench, BOB, stale);
    bench.sides[BOB].endpoint.excuse_silence(VIP, Some(bench.now + Duration::from_secs(7200)));
    bench.loss = Some(Box::new(|_| true));
    bench.pass(Duration::from_secs(3600));
    assert_eq!(bench.sa(BOB).id, id);
    bench.loss = None;
    bench.pass(Duration::from_secs(60));
    assert!(bench.sides[BOB].events.contains(&Event::Synchronised(id)));
    assert_in_step(&bench);
}

/// RFC 6311 §11: a response is accepted once, and only with the nonce of the present request.
#[test]
fn responses_are_for_the_present_request() {
    let mut bench = Bench::established(Setup::default());
    let stale = records(&bench, BOB);
    fail_over(&mut bench, BOB, stale);
    bench.deliver();
    bench.collect();
    let answer = bench.wire.front().unwrap().clone();
    // As the peer could say it: with another nonce, a lower P2, a lower M2, more payloads.
    let wrong: [fn(&mut Vec<Payload>); 4] = [
        |payloads| change(payloads, 0, 0xff),
        |payloads| change(payloads, 7, 2),
        |payloads| change(payloads, 10, 1),
        |payloads| payloads.push(Payload::Vendor(vec![1])),
    ];
    let synchronised =
        |bench: &Bench| bench.sides[BOB].events.iter().filter(|event| matches!(event, Event::Synchronised(_))).count();
    for (i, wrong) in wrong.into_iter().enumerate() {
        bench.wire = [answer.clone()].into();
        bench.rewrite_next(wrong);
        bench.deliver();
        assert_eq!(synchronised(&bench), 0, "{i}");
    }
    for _ in 0..2 {
        bench.hand_over(&answer);
        assert_eq!(synchronised(&bench), 1);
    }
}

/// Changes a byte of the notification's data.
fn change(payloads: &mut [Payload], at: usize, mask: u8) {
    let Payload::Notify(notify) = &mut payloads[0] else { panic!() };
    notify.data[at] ^= mask;
}

/// RFC 6311 §5.1: nothing else stands in the message; else it is dropped.
#[test]
fn requests_with_other_payloads_are_dropped() {
    let mut bench = Bench::established(Setup::default());
    let before = bench.sa(BOB);
    let sync = |send: u32| {
        let data = [[9; 4], send.to_be_bytes(), [0; 4]].concat();
        Payload::notify(NotifyType::IKEV2_MESSAGE_ID_SYNC, data)
    };
    let wrong = [
        vec![sync(100), Payload::Vendor(vec![1])],
        vec![sync(100), sync(100)],
        vec![Payload::notify(NotifyType::IKEV2_MESSAGE_ID_SYNC, vec![9; 11])],
        // M1 isn't above what Bob has seen: IKE_AUTH had 1.
        vec![sync(1)],
    ];
    for payloads in wrong {
        let forged = bench.forge(ALICE, ExchangeType::Informational, 0, &payloads);
        bench.hand_over(&forged);
        assert!(bench.wire.is_empty(), "{payloads:?}");
    }
    assert_eq!(bench.sa(BOB).next_expected, before.next_expected);
    let right = bench.forge(ALICE, ExchangeType::Informational, 0, &[sync(2)]);
    bench.hand_over(&right);
    assert_eq!(bench.wire.len(), 1);
    // A replay.
    bench.wire.clear();
    bench.hand_over(&right);
    assert!(bench.wire.is_empty());
}

/// RFC 6311 §8.1: no other request is taken before.
#[test]
fn requests_wait_until_the_ids_are_agreed_on() {
    let mut bench = Bench::established(Setup::default());
    let stale = records(&bench, BOB);
    let early = bench.forge(ALICE, ExchangeType::Informational, bench.sa(ALICE).next_request, &[]);
    fail_over(&mut bench, BOB, stale);
    bench.collect();
    let request = bench.wire.pop_front().unwrap();
    bench.hand_over(&early);
    assert!(bench.wire.is_empty());
    // Nor does Bob ask anything.
    let id = bench.sa(BOB).id;
    bench.sides[BOB].endpoint.rekey_ike(id, bench.now).unwrap();
    bench.collect();
    assert!(bench.wire.is_empty());
    bench.hand_over(&request);
    bench.run();
    assert_ne!(bench.sa(BOB).id, id);
    assert_eq!(bench.phases(), [vec![Phase::Established], vec![Phase::Established]]);
    bench.assert_children_match();
}

/// RFC 6311 §9: the peer doesn't wait for the answer to its own request any more; it asks once more.
#[test]
fn the_peers_exchange_is_begun_anew() {
    type Ask = fn(&mut Bench);
    let asks: [(&str, Ask); 4] = [
        ("rekey child", |bench| {
            let spi = bench.child(ALICE).spi_in;
            bench.sides[ALICE].endpoint.rekey_child(spi, bench.now).unwrap();
        }),
        ("rekey IKE SA", |bench| {
            let id = bench.sa(ALICE).id;
            bench.sides[ALICE].endpoint.rekey_ike(id, bench.now).unwrap();
        }),
        ("create child", |bench| {
            let id = bench.sa(ALICE).id;
            bench.sides[ALICE].endpoint.create_child(id, "spare", bench.now).unwrap();
        }),
        ("delete child", |bench| {
            let spi = bench.child(ALICE).spi_in;
            bench.sides[ALICE].endpoint.delete_child(spi, bench.now).unwrap();
        }),
    ];
    for (name, ask) in asks {
        let mut bench = Bench::established(Setup::default());
        let stale = records(&bench, BOB);
        ask(&mut bench);
        // The old owner dies before the request is there.
        bench.collect();
        bench.wire.clear();
        fail_over(&mut bench, BOB, stale);
        bench.run();
        bench.assert_children_match();
        assert_in_step(&bench);
        assert!(!bench.sa(ALICE).waiting, "{name}");
        let children = bench.sides[BOB].installed.len();
        assert_eq!(children, if name == "create child" { 2 } else { usize::from(name != "delete child") }, "{name}");
    }
}

/// RFC 6311 §A.4.
#[test]
fn both_fail_over_at_once() {
    for order in [[0, 1], [1, 0]] {
        let mut bench = Bench::established(Setup::default());
        let stale = [records(&bench, ALICE), records(&bench, BOB)];
        three_exchanges(&mut bench);
        let [alice, bob] = stale;
        fail_over(&mut bench, ALICE, alice);
        fail_over(&mut bench, BOB, bob);
        bench.collect();
        let requests: Vec<Flying> = bench.wire.drain(..).collect();
        /* Sync Request -->, <-- Sync Request */
        order.iter().for_each(|i| bench.hand_over(&requests[*i]));
        /* Sync Response -->, <-- Sync Response */
        bench.run();
        assert_in_step(&bench);
        for side in [ALICE, BOB] {
            let id = bench.sa(side).id;
            bench.sides[side].endpoint.check_liveness(id, bench.now).unwrap();
            bench.run();
            assert!(!bench.sa(side).waiting);
        }
    }
}

/// A second failover while the first is being dealt with: M1 was published, so the next one is higher.
#[test]
fn a_successor_of_the_successor() {
    let mut bench = Bench::established(Setup::default());
    let stale = records(&bench, BOB);
    fail_over(&mut bench, BOB, stale);
    bench.collect();
    let first = bench.wire.pop_front().unwrap();
    // Its copy of the copy is trusted.
    bench.replace(BOB);
    let now = bench.now;
    bench.sides[BOB].endpoint.handle_timeout(now);
    bench.collect();
    let second = bench.wire.front().unwrap().clone();
    assert!(sync(&bench, &second).1 > sync(&bench, &first).1);
    // The first one comes late all the same.
    bench.hand_over(&first);
    bench.run();
    assert_in_step(&bench);
    assert_eq!(bench.sides[BOB].epoch, 3);
    assert_eq!(bench.sides[BOB].endpoint.sas(now).next().unwrap().vip, VIP);
}

fn skips(bench: &Bench, side: usize) -> Vec<(Vec<u32>, u64)> {
    let skips = bench.sides[side].events.iter().filter_map(|event| match event {
        Event::SkipNumbers { children, delta, .. } => Some((children.clone(), *delta)),
        _ => None,
    });
    skips.collect()
}

#[test]
fn replay_counters_in_an_ordinary_exchange() {
    for (esp, len) in [("aes256gcm16", 4), ("aes256gcm16-esn", 8)] {
        let mut bench = Bench::established(Setup { esp: [esp; 2], ..Setup::default() });
        let id = bench.sa(BOB).id;
        bench.sides[BOB].endpoint.sync_replay_counters(id, 1000, bench.now).unwrap();
        /* INFORMATIONAL { N(IPSEC_REPLAY_COUNTER_SYNC) } --> */
        let request = bench.deliver().unwrap();
        let payloads = bench.read(&request);
        let [Payload::Notify(notify)] = &payloads[..] else { panic!("{payloads:?}") };
        assert_eq!((notify.kind, notify.data.len()), (NotifyType::IPSEC_REPLAY_COUNTER_SYNC, len));
        /* <-- INFORMATIONAL { } */
        let answer = bench.deliver().unwrap();
        assert_eq!(bench.read(&answer), []);
        assert_eq!(skips(&bench, ALICE), [(vec![bench.child(ALICE).spi_in], 1000)]);
        assert!(!bench.sa(BOB).waiting);
        let too_far = bench.sides[BOB].endpoint.sync_replay_counters(id, 1 << 31, bench.now);
        assert_eq!(too_far, Err(OperateError::NotSynchronisable));
    }
}

/// RFC 6311 §5.2: with IKEV2_MESSAGE_ID_SYNC in one message too; a size that doesn't fit the child SAs is ignored.
#[test]
fn replay_counters_beside_message_ids() {
    let mut bench = Bench::established(Setup { esp: ["aes256gcm16-esn"; 2], ..Setup::default() });
    let sync = |send: u32| {
        let data = [[9; 4], send.to_be_bytes(), [0; 4]].concat();
        Payload::notify(NotifyType::IKEV2_MESSAGE_ID_SYNC, data)
    };
    let delta = |bytes: &[u8]| Payload::notify(NotifyType::IPSEC_REPLAY_COUNTER_SYNC, bytes.to_vec());
    for (send, bytes, expected) in [
        (10, &[0, 0, 0, 0, 0, 0, 1, 0][..], Some(256)),
        // A replay: dropped as a whole.
        (10, &[0, 0, 0, 0, 0, 0, 1, 0], None),
        (11, &[0, 0, 1, 0], None),
        (12, &[0, 0, 0, 0, 0x80, 0, 0, 0], None),
        (13, &[1], None),
    ] {
        bench.forget_events();
        let forged = bench.forge(ALICE, ExchangeType::Informational, 0, &[sync(send), delta(bytes)]);
        bench.hand_over(&forged);
        assert_eq!(skips(&bench, BOB).first().map(|(_, delta)| *delta), expected, "{send}");
    }
    assert_eq!(bench.sa(BOB).next_expected, 13);
}

/// A child SA of a stale copy stays one in the records of whoever imported it, until it is replaced.
#[test]
fn stale_child_sas_are_recorded_as_such() {
    let mut bench = Bench::established(Setup::default());
    let stale = records(&bench, BOB);
    three_exchanges(&mut bench);
    fail_over(&mut bench, BOB, stale);
    let is_stale = |bench: &Bench| {
        let id = bench.sa(BOB).id;
        let (_, children) = bench.sides[BOB].endpoint.export(id, bench.now).unwrap();
        let recorded: Vec<bool> = children.iter().map(|child| child.is_stale()).collect();
        let shown: Vec<bool> = bench.sa(BOB).children.iter().map(|child| child.stale).collect();
        assert_eq!(recorded, shown);
        recorded
    };
    assert_eq!(is_stale(&bench), [true]);
    // A successor with a trusted copy of that knows it, too.
    bench.replace(BOB);
    assert_eq!(is_stale(&bench), [true]);
    bench.pass(Duration::from_secs(2));
    assert_eq!(is_stale(&bench), [true], "message IDs are agreed on; that says nothing of ESP's numbers");
    let spi = bench.sa(BOB).children[0].spi_in;
    bench.sides[BOB].endpoint.rekey_child(spi, bench.now).unwrap();
    bench.run();
    assert_eq!(is_stale(&bench), [false]);
}

/// Thousands of IKE SAs don't begin at once; until its turn comes one is deaf and mute.
#[test]
fn it_begins_when_the_successor_wants() {
    let mut bench = Bench::established(Setup::default());
    let stale = records(&bench, BOB);
    three_exchanges(&mut bench);
    let early = bench.forge(ALICE, ExchangeType::Informational, bench.sa(ALICE).next_request, &[]);
    bench.replace_with(BOB, |successor, now| {
        successor.import_stale(stale.0, stale.1, now).unwrap();
    });
    bench.hand_over(&early);
    bench.pass(Duration::from_secs(3));
    assert!(bench.wire.is_empty());
    assert!(!bench.sides[BOB].events.iter().any(|event| matches!(event, Event::Synchronised(_))));
    let id = bench.sa(BOB).id;
    bench.sides[BOB].endpoint.synchronise(id, bench.now).unwrap();
    bench.pass(Duration::from_secs(1));
    // There is nothing to agree on any more.
    let again = bench.sides[BOB].endpoint.synchronise(id, bench.now);
    assert_eq!(again, Err(OperateError::NotSynchronisable));
    assert_in_step(&bench);
    assert!(bench.sides[BOB].events.iter().any(|event| matches!(event, Event::Synchronised(_))));
}

/// A peer that calls has noticed its owner's death before its successor asked: it would never answer about the old IKE SA.
#[test]
fn a_peer_that_calls_has_given_the_old_ike_sa_up() {
    for unique in [Unique::No, Unique::Keep] {
        let mut bench = Bench::established(Setup { unique: [Unique::No, unique], ..Setup::default() });
        let stale = records(&bench, BOB);
        let old = bench.sa(BOB).id;
        fail_over(&mut bench, BOB, stale);
        bench.collect();
        bench.wire.clear();
        bench.restart(ALICE);
        bench.call();
        bench.run();
        assert_ne!(bench.sa(BOB).id, old);
        assert_eq!(bench.phases(), [vec![Phase::Established], vec![Phase::Established]]);
        assert_eq!(bench.sides[BOB].gone(), [GoneReason::InitialContact]);
    }
}

/// The peer has a child SA that the copy didn't know: it is asked to delete it, whatever else is asked.
#[test]
fn what_the_copy_did_not_know_is_deleted() {
    let mut bench = Bench::established(Setup::default());
    let stale = records(&bench, BOB);
    let id = bench.sa(ALICE).id;
    bench.sides[ALICE].endpoint.create_child(id, "spare", bench.now).unwrap();
    bench.run();
    let known = stale.1[0].spi_in();
    let unknown = *bench.sides[BOB].installed.keys().find(|spi| **spi != known).unwrap();
    fail_over(&mut bench, BOB, stale);
    bench.sides[BOB].installed.remove(&unknown);
    let id = bench.sa(BOB).id;
    let endpoint = &mut bench.sides[BOB].endpoint;
    endpoint.disown_child(id, unknown, bench.now).unwrap();
    endpoint.rekey_child(known, bench.now).unwrap();
    assert_eq!(endpoint.disown_child(id, known, bench.now), Err(OperateError::UnknownChildSa));
    bench.run();
    bench.assert_children_match();
    assert_eq!(bench.child(BOB).replaces, Some(known));
}

/// A child SA that we have proposed may be in use before we hear of it.
#[test]
fn what_is_proposed_is_not_disowned() {
    let mut bench = Bench::established(Setup::default());
    let id = bench.sa(BOB).id;
    bench.sides[BOB].endpoint.create_child(id, "spare", bench.now).unwrap();
    bench.deliver();
    let installed = &bench.sides[ALICE].installed;
    let proposed = installed.values().map(|info| info.spi_out).find(|spi| *spi != bench.child(BOB).spi_in).unwrap();
    let refused = bench.sides[BOB].endpoint.disown_child(id, proposed, bench.now);
    assert_eq!(refused, Err(OperateError::UnknownChildSa));
    bench.run();
    assert_eq!(bench.sides[BOB].installed.len(), 2);
    bench.assert_children_match();
}

/// Nothing passes before a stale child SA is replaced, so a peer that is just busy is asked again soon.
#[test]
fn a_stale_child_sa_is_not_left_to_the_usual_delay() {
    let mut bench = Bench::established(Setup::default());
    let stale = records(&bench, BOB);
    fail_over(&mut bench, BOB, stale);
    let old = bench.sa(BOB).children[0].spi_in;
    // Both ask at once when message IDs are agreed on.
    let id = bench.sa(ALICE).id;
    bench.deliver();
    bench.sides[ALICE].endpoint.rekey_ike(id, bench.now).unwrap();
    bench.sides[BOB].endpoint.rekey_child(old, bench.now).unwrap();
    bench.run();
    assert!(bench.sides[BOB].events.iter().any(|event| matches!(event, Event::ChildFailed { .. })));
    bench.pass(Duration::from_secs(3));
    assert_ne!(bench.child(BOB).spi_in, old);
    bench.assert_children_match();
}

/// One that the peer doesn't want to replace is deleted: it would go on sending into nothing.
#[test]
fn a_stale_child_sa_that_cannot_be_replaced_is_deleted() {
    let mut bench = Bench::established(Setup::default());
    let stale = records(&bench, BOB);
    fail_over(&mut bench, BOB, stale);
    bench.run();
    let old = bench.sa(BOB).children[0].spi_in;
    bench.sides[BOB].endpoint.rekey_child(old, bench.now).unwrap();
    bench.deliver();
    let made = bench.sides[ALICE].installed.values().find(|info| info.spi_out != old).unwrap().spi_in;
    bench.rewrite_next(|payloads| *payloads = vec![NotifyType::NO_PROPOSAL_CHOSEN.into()]);
    bench.run();
    assert!(bench.sides[BOB].installed.is_empty());
    // What Alice made before her answer was changed isn't Bob's to delete.
    let left: Vec<u32> = bench.sides[ALICE].installed.keys().copied().collect();
    assert_eq!(left, [made]);
}

/// Whatever was going on, and whatever of it the copy doesn't know: in the end both have the same.
#[test]
fn a_stale_copy_of_any_moment() {
    for stale_side in [ALICE, BOB] {
        for asking in [ALICE, BOB] {
            for (name, exchange) in super::takeover::EXCHANGES {
                // Without the IKE SA there is nothing to synchronise.
                if name.contains("IKE") || name.contains("all") {
                    continue;
                }
                for n in 0..6 {
                    let mut bench = Bench::established(Setup::default());
                    let stale = records(&bench, stale_side);
                    exchange(&mut bench, asking);
                    for _ in 0..n {
                        bench.deliver();
                    }
                    bench.collect();
                    bench.wire.clear();
                    bench.sides[stale_side].installed =
                        stale.1.iter().map(|child| (child.spi_in(), child.info().clone())).collect();
                    fail_over(&mut bench, stale_side, stale);
                    bench.run();
                    // As the control core does: stale child SAs are replaced, those that only the peer has are deleted there.
                    let (id, now) = (bench.sa(stale_side).id, bench.now);
                    let theirs: Vec<u32> =
                        bench.sides[1 - stale_side].installed.values().map(|info| info.spi_out).collect();
                    for child in bench.sa(stale_side).children.iter().filter(|child| child.stale) {
                        let _ = bench.sides[stale_side].endpoint.rekey_child(child.spi_in, now);
                    }
                    for spi in theirs {
                        let _ = bench.sides[stale_side].endpoint.disown_child(id, spi, now);
                    }
                    bench.pass(Duration::from_secs(120));
                    let what = format!("{name}: {asking} asks, {stale_side} has failed over after {n} messages");
                    assert_in_step(&bench);
                    assert!(!bench.sa(ALICE).waiting && !bench.sa(BOB).waiting, "{what}");
                    bench.assert_children_match();
                    assert!(
                        bench.sides[stale_side]
                            .sas(bench.now)
                            .iter()
                            .flat_map(|sa| &sa.children)
                            .all(|child| !child.stale),
                        "{what}"
                    );
                }
            }
        }
    }
}
