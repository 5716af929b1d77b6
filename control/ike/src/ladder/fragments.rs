//! Messages in fragments (RFC 7383).

use std::time::Duration;

use super::bench::{Flying, lose_nth};
use super::{ALICE, BOB, Bench, Setup};
use crate::message::{Direction, ExchangeType, NotifyType, ParseLimits, Part, Payload, Received};
use crate::{Drop, Limits, Phase};

/// So small that every protected message with something in it goes in fragments.
const SMALL: usize = 180;

fn small() -> Setup {
    Setup { packet_bytes_max: [SMALL; 2], ..Setup::default() }
}

/// Number and total of a fragment.
fn fragment(flying: &Flying) -> Option<(u16, u16)> {
    let received = Received::parse(&flying.transmit.payload, ParseLimits::default()).unwrap();
    match received.sealed().ok()?.part {
        Part::Whole => None,
        Part::Fragment { number, total } => Some((number, total)),
    }
}

/// Delivers what is on the wire to the end of one message; its fragments.
fn deliver_message(bench: &mut Bench) -> Vec<Flying> {
    let mut all = Vec::new();
    loop {
        let flying = bench.deliver().unwrap();
        let last = fragment(&flying).is_none_or(|(number, total)| number == total);
        all.push(flying);
        if last {
            return all;
        }
    }
}

#[test]
fn ike_auth_in_fragments() {
    let mut bench = Bench::new(small());
    bench.call();
    /* IKE_SA_INIT { SA, KEi, Ni, N(IKEV2_FRAGMENTATION_SUPPORTED), ... } -->, in one piece (RFC 7383 §2.2) */
    assert_eq!(fragment(&bench.deliver().unwrap()), None);
    /* <-- IKE_SA_INIT { SA, KEr, Nr, N(IKEV2_FRAGMENTATION_SUPPORTED), ... } */
    assert_eq!(fragment(&bench.deliver().unwrap()), None);
    /* IKE_AUTH { SKF(1/n) } -->, ..., IKE_AUTH { SKF(n/n) } --> */
    let request = deliver_message(&mut bench);
    assert!(request.len() >= 2);
    for (i, flying) in request.iter().enumerate() {
        assert_eq!(fragment(flying), Some((i as u16 + 1, request.len() as u16)));
        // IPv4 and UDP headers.
        assert!(flying.transmit.payload.len() + 28 <= SMALL);
        // RFC 7383 §2.5: the type of the first inner payload (IDi) in the first one, 0 in the rest.
        assert_eq!(flying.transmit.payload[28], if i == 0 { 35 } else { 0 });
    }
    assert_eq!(bench.phases()[BOB], [Phase::Established]);
    /* <-- IKE_AUTH { SKF(1/n) }, ..., IKE_AUTH { SKF(n/n) } */
    assert!(deliver_message(&mut bench).len() >= 2);
    bench.assert_children_match();
    assert_eq!(bench.phases(), [vec![Phase::Established], vec![Phase::Established]]);
    // RFC 7383 §2.4: there is no point in fragmenting liveness checks.
    let id = bench.sa(ALICE).id;
    bench.sides[ALICE].endpoint.check_liveness(id, bench.now).unwrap();
    assert_eq!(fragment(&bench.deliver().unwrap()), None);
}

/// RFC 7383 §2.4: MUST NOT be used unless both have said that they can.
#[test]
fn not_unless_both_can() {
    let mut bench = Bench::new(small());
    bench.call();
    // Bob's peer doesn't announce it, so he doesn't either.
    bench.collect();
    let mut request = bench.wire.pop_front().unwrap();
    let received = Received::parse(&request.transmit.payload, ParseLimits::default()).unwrap();
    let mut payloads = received.clear().unwrap();
    let supported = Payload::from(NotifyType::IKEV2_FRAGMENTATION_SUPPORTED);
    assert!(payloads.contains(&supported));
    payloads.retain(|payload| *payload != supported);
    request.transmit.payload = crate::message::encode_clear(&received.header, &payloads);
    bench.hand_over(&request);
    bench.collect();
    let answer = bench.wire.pop_front().unwrap();
    let answer = Received::parse(&answer.transmit.payload, ParseLimits::default()).unwrap().clear().unwrap();
    assert!(!answer.contains(&supported));
}

#[test]
fn any_one_datagram_may_get_lost() {
    let mut bench = Bench::new(small());
    bench.call();
    bench.run();
    for n in 0..bench.delivered {
        let mut bench = Bench::new(small());
        bench.loss = Some(lose_nth(n));
        bench.call();
        bench.pass(Duration::from_secs(1));
        assert_eq!(bench.phases(), [vec![Phase::Established], vec![Phase::Established]], "datagram {n}");
        bench.assert_children_match();
    }
}

#[test]
fn in_any_order_and_more_than_once() {
    let mut bench = Bench::new(small());
    bench.call();
    bench.deliver();
    bench.deliver();
    bench.collect();
    let request: Vec<Flying> = bench.wire.drain(..).collect();
    for flying in request.iter().rev().chain(&request) {
        bench.hand_over(flying);
    }
    assert_eq!(bench.phases()[BOB], [Phase::Established]);
    // RFC 7383 §2.6.1: only fragment 1 of a request that was answered has the response sent again.
    let answers: Vec<_> = bench.wire.drain(..).collect();
    let (first, again) = answers.split_at(answers.len() / 2);
    assert_eq!(
        first.iter().map(|f| &f.transmit.payload).collect::<Vec<_>>(),
        again.iter().map(|f| &f.transmit.payload).collect::<Vec<_>>()
    );
    assert!(first.iter().all(|f| f.transmit.fresh) && again.iter().all(|f| !f.transmit.fresh));
    for flying in &request[1..] {
        bench.hand_over(flying);
        assert!(bench.wire.is_empty());
    }
    for flying in first {
        bench.hand_over(flying);
    }
    bench.assert_children_match();
}

/// RFC 7383 §2.5.2, §2.6: the peer cuts its request into smaller pieces when there is no answer.
#[test]
fn cut_anew() {
    let mut bench = Bench::established(small());
    let id = bench.sa(ALICE).next_request;
    let payloads = [Payload::Vendor(vec![1; 400])];
    let large = bench.forge_fragments(ALICE, ExchangeType::Informational, id, &payloads, 300);
    let small = bench.forge_fragments(ALICE, ExchangeType::Informational, id, &payloads, 200);
    assert!(small.len() > large.len());
    bench.hand_over(&large[0]);
    bench.hand_over(&small[1]);
    // The older set isn't wanted any more.
    bench.hand_over(&large[1]);
    assert_eq!(bench.sides[BOB].endpoint.counters().get(Drop::FragmentUnwanted), 1);
    for (i, flying) in small.iter().enumerate().filter(|(i, _)| *i != 1) {
        bench.hand_over(flying);
        assert_eq!(bench.wire.len(), usize::from(i == small.len() - 1), "{i}");
    }
    let answer = bench.wire.pop_front().unwrap();
    assert_eq!(bench.read(&answer), []);
    // Both cuts are the same request: it is not answered anew, but the answer is repeated.
    bench.hand_over(&large[0]);
    assert!(!bench.wire.pop_front().unwrap().transmit.fresh);
    assert_eq!(bench.sa(BOB).next_expected, id + 1);
}

#[test]
fn forged_fragments_are_dropped() {
    let mut bench = Bench::established(small());
    let id = bench.sa(ALICE).next_request;
    let good = bench.forge_fragments(ALICE, ExchangeType::Informational, id, &[Payload::Vendor(vec![1; 300])], 200);
    for byte in 28..good[0].transmit.payload.len() {
        let mut forged = good[0].clone();
        forged.transmit.payload[byte] ^= 1;
        bench.hand_over(&forged);
    }
    for flying in &good {
        bench.hand_over(flying);
    }
    let answer = bench.wire.pop_front().unwrap();
    assert_eq!(bench.read(&answer), []);
}

/// RFC 7383 §2.6: incomplete after a while: all of it is discarded.
#[test]
fn incomplete_requests_are_forgotten() {
    let limits = Limits { assembly_timeout: Duration::from_secs(5), ..Limits::default() };
    let mut bench = Bench::established(Setup { limits, ..small() });
    let id = bench.sa(ALICE).next_request;
    let all = bench.forge_fragments(ALICE, ExchangeType::Informational, id, &[Payload::Vendor(vec![1; 200])], 200);
    assert_eq!(all.len(), 2);
    bench.hand_over(&all[0]);
    let end = bench.now + limits.assembly_timeout;
    assert_eq!(bench.sides[BOB].endpoint.poll_timeout(), Some(end));
    bench.sides[BOB].endpoint.handle_timeout(end);
    bench.hand_over(&all[1]);
    assert!(bench.wire.is_empty());
    bench.hand_over(&all[0]);
    assert_eq!(bench.wire.len(), 1);
}

#[test]
fn fragments_are_bounded() {
    let limits = Limits { fragments_max: 4, message_bytes_max: 500, ..Limits::default() };
    let mut bench = Bench::established(Setup { limits, ..small() });
    let id = bench.sa(ALICE).next_request;
    let count = |bench: &Bench| bench.sides[BOB].endpoint.counters().get(Drop::FragmentLimit);
    let many = bench.forge_fragments(ALICE, ExchangeType::Informational, id, &[Payload::Vendor(vec![1; 300])], 120);
    assert!(many.len() > 4);
    bench.hand_over(&many[0]);
    assert_eq!(count(&bench), 1);
    let much = bench.forge_fragments(ALICE, ExchangeType::Informational, id, &[Payload::Vendor(vec![1; 600])], 250);
    assert!(much.len() <= 4);
    for flying in &much {
        bench.hand_over(flying);
    }
    assert!(count(&bench) >= 2 && bench.wire.is_empty());
    // Nothing of that keeps the true request out.
    let good = bench.forge(ALICE, ExchangeType::Informational, id, &[]);
    bench.hand_over(&good);
    assert_eq!(bench.wire.len(), 1);
}

/// A successor has all fragments of the last response and of the request in progress.
#[test]
fn a_successor_goes_on() {
    for replaced in [ALICE, BOB] {
        let mut bench = Bench::established(small());
        let id = bench.sa(ALICE).id;
        bench.sides[ALICE].endpoint.rekey_ike(id, bench.now).unwrap();
        // Fragments of a message that isn't complete yet are not kept: the peer sends them again. So the takeovers come between
        // messages.
        for _ in 0..4 {
            bench.replace(replaced);
            bench.sides[replaced].endpoint.handle_timeout(bench.now);
            deliver_message(&mut bench);
        }
        bench.run();
        assert_eq!(bench.phases(), [vec![Phase::Established], vec![Phase::Established]], "{replaced}");
        bench.assert_children_match();
        assert_ne!(bench.sa(ALICE).id, id);
    }
    let mut bench = Bench::established(small());
    let spi = bench.child(ALICE).spi_in;
    bench.sides[ALICE].endpoint.rekey_child(spi, bench.now).unwrap();
    bench.loss = Some(super::bench::lose_all(ALICE, Direction::Response));
    let request = deliver_message(&mut bench);
    assert!(request.len() > 1);
    bench.loss = None;
    bench.hand_over(&request[0]);
    let first: Vec<_> = bench.wire.drain(..).map(|flying| flying.transmit.payload).collect();
    bench.replace(BOB);
    bench.hand_over(&request[0]);
    let again: Vec<_> = bench.wire.drain(..).map(|flying| flying.transmit.payload).collect();
    assert!(first.len() > 1 && first == again);
}
