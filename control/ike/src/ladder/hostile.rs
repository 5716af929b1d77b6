//! Forged, replayed, malformed and mistimed messages.

use std::time::Duration;

use proptest::prelude::*;

use super::{ALICE, BOB, Bench, Setup};
use crate::message::sa::{Proposal, Protocol};
use crate::message::{Direction, ExchangeType, Header, NotifyType, ParseLimits, Payload, Role, encode_clear};
use crate::{Drop, GoneReason, Phase};

fn init_header() -> Header {
    Header {
        initiator_spi: 0x0102_0304_0506_0708,
        responder_spi: 0,
        exchange: ExchangeType::IkeSaInit,
        sender: Role::Initiator,
        direction: Direction::Request,
        message_id: 0,
    }
}

fn throw(bench: &mut Bench, to: usize, payload: &[u8]) -> usize {
    let (local, remote) =
        if to == BOB { ("198.51.100.7:500", "192.0.2.1:500") } else { ("192.0.2.1:500", "198.51.100.7:500") };
    bench.sides[to].endpoint.handle_datagram(bench.now, local.parse().unwrap(), remote.parse().unwrap(), payload);
    bench.collect();
    std::mem::take(&mut bench.wire).iter().map(|flying| flying.transmit.payload.len()).sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever arrives, the established IKE SA stays, nothing is amplified, and nothing is kept.
    #[test]
    fn noise(datagrams in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 1..20)) {
        let mut bench = Bench::established(Setup::default());
        for datagram in &datagrams {
            // Something with a higher version gets a short answer.
            prop_assert!(throw(&mut bench, BOB, datagram) <= datagram.len());
        }
        prop_assert_eq!(bench.phases(), [vec![Phase::Established], vec![Phase::Established]]);
        prop_assert_eq!(bench.sides[BOB].endpoint.half_open(), 0);
    }

    /// Messages of a whole session with bytes changed: no panic, no amplification.
    #[test]
    fn mutated_session(
        changes in proptest::collection::vec((0usize..12, any::<prop::sample::Index>(), any::<u8>()), 1..30),
        seed in 0u64..4,
    ) {
        let mut bench = Bench::new(Setup { seed, ..Setup::default() });
        bench.call();
        for step in 0..12 {
            bench.collect();
            let Some(flying) = bench.wire.pop_front() else { break };
            for (at, index, value) in &changes {
                if *at == step {
                    let mut payload = flying.transmit.payload.clone();
                    let index = index.index(payload.len());
                    payload[index] = *value;
                    let wire = std::mem::take(&mut bench.wire);
                    if payload != flying.transmit.payload {
                        let answered = throw(&mut bench, flying.to, &payload);
                        // Bob only answers. (Alice goes on with what looks like an answer to her.)
                        let bound = if flying.to == BOB { payload.len() + 16 } else { usize::MAX };
                        prop_assert!(answered <= bound, "{answered} bytes for {}", payload.len());
                    }
                    bench.wire = wire;
                }
            }
            bench.hand_over(&flying);
            if step == 4 {
                for side in [ALICE, BOB] {
                    if let [sa] = &bench.sides[side].sas(bench.now)[..] {
                        let id = sa.id;
                        let _ = bench.sides[side].endpoint.rekey_ike(id, bench.now);
                    }
                }
            }
        }
        bench.pass(Duration::from_secs(200));
    }
}

/// RFC 7296 §2.5: an answer with the highest version that we speak, not longer than the question, not too often.
#[test]
fn higher_major_version() {
    let mut bench = Bench::new(Setup::default());
    let mut datagram = encode_clear(&init_header(), &[Payload::Vendor(vec![0; 20])]);
    datagram[17] = 0x30;
    let (local, remote) = ("198.51.100.7:500".parse().unwrap(), "192.0.2.1:500".parse().unwrap());
    bench.sides[BOB].endpoint.handle_datagram(bench.now, local, remote, &datagram);
    bench.collect();
    let answer = bench.wire.pop_front().unwrap().transmit.payload;
    let received = crate::message::Received::parse(&answer, ParseLimits::default()).unwrap();
    assert_eq!(received.clear().unwrap(), [NotifyType::INVALID_MAJOR_VERSION.into()]);
    assert_eq!(
        (received.header.direction, received.header.initiator_spi),
        (Direction::Response, 0x0102_0304_0506_0708)
    );
    assert!(answer.len() <= datagram.len());
    for _ in 0..1000 {
        throw(&mut bench, BOB, &datagram);
    }
    assert!(bench.sides[BOB].endpoint.counters().get(Drop::RateLimited) > 800);
    // Never to a response: two such nodes would talk for ever.
    datagram[19] |= 0x20;
    bench.now += Duration::from_secs(2);
    assert_eq!(throw(&mut bench, BOB, &datagram), 0);
}

/// RFC 7296 §2.5.
#[test]
fn unknown_critical_payload() {
    let mut bench = Bench::established(Setup::default());
    let id = bench.sa(ALICE).next_request;
    let mut critical = bench.forge(ALICE, ExchangeType::Informational, id, &[Payload::Unknown(200, vec![1, 2, 3])]);
    bench.hand_over(&critical);
    // Without the critical bit it is ignored.
    let answer = bench.wire.pop_front().unwrap();
    assert_eq!(bench.read(&answer), []);
    critical = bench.forge_critical(ALICE, id + 1, 200);
    bench.hand_over(&critical);
    let answer = bench.wire.pop_front().unwrap();
    assert_eq!(bench.read(&answer), [Payload::notify(NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD, vec![200])]);
    assert_eq!(bench.phases()[BOB], [Phase::Established]);
    // In the clear too, before there is an IKE SA.
    let mut init = encode_clear(&init_header(), &[Payload::Unknown(200, vec![0; 20])]);
    init[29] = 0x80;
    assert!(throw(&mut bench, BOB, &init) > 0);
}

/// RFC 7296 §2.21.3: a malformed request that is authentic ends the IKE SA at both ends.
#[test]
fn invalid_syntax_is_fatal() {
    let mut bench = Bench::established(Setup::default());
    let id = bench.sa(ALICE).next_request;
    // CREATE_CHILD_SA without nonce
    let forged = bench.forge(ALICE, ExchangeType::CreateChildSa, id, &[Payload::TsInitiator(vec![])]);
    bench.hand_over(&forged);
    assert_eq!(bench.sides[BOB].gone(), [GoneReason::ProtocolError]);
    assert!(bench.sides[BOB].installed.is_empty());
    // ... and the answer says so.
    assert_eq!(bench.wire.len(), 1);
}

/// RFC 7296 §2.2, §2.3.
#[test]
fn message_ids() {
    let mut bench = Bench::established(Setup::default());
    let next = bench.sa(ALICE).next_request;
    for wrong in [next + 1, next - 1, 0, u32::MAX] {
        let forged = bench.forge(ALICE, ExchangeType::Informational, wrong, &[]);
        bench.hand_over(&forged);
        assert!(bench.wire.is_empty(), "{wrong}");
    }
    assert_eq!(bench.sides[BOB].endpoint.counters().get(Drop::UnexpectedMessageId), 4);
    let right = bench.forge(ALICE, ExchangeType::Informational, next, &[]);
    bench.hand_over(&right);
    assert_eq!(bench.wire.len(), 1);
    // RFC 7296 §2.1: the retransmission gets the same response ...
    let first = bench.wire.pop_front().unwrap().transmit;
    bench.hand_over(&right);
    let again = bench.wire.pop_front().unwrap().transmit;
    assert_eq!((again.payload, again.fresh), (first.payload, false));
    // ... another message with that ID doesn't.
    let other = bench.forge(ALICE, ExchangeType::Informational, next, &[Payload::Vendor(vec![1])]);
    bench.hand_over(&other);
    assert!(bench.wire.is_empty());
}

/// RFC 7296 §2.21.4: an unprotected notification changes nothing.
#[test]
fn unprotected_notifications() {
    let mut bench = Bench::established(Setup::default());
    let spi = bench.child(ALICE).spi_in;
    bench.sides[ALICE].endpoint.rekey_child(spi, bench.now).unwrap();
    bench.collect();
    let request = bench.wire.pop_front().unwrap();
    let header = crate::message::Received::parse(&request.transmit.payload, ParseLimits::default()).unwrap().header;
    let header = Header { direction: Direction::Response, sender: Role::Responder, ..header };
    for kind in [NotifyType::INVALID_IKE_SPI, NotifyType::NO_PROPOSAL_CHOSEN, NotifyType::AUTHENTICATION_FAILED] {
        assert_eq!(throw(&mut bench, ALICE, &encode_clear(&header, &[kind.into()])), 0);
    }
    assert!(bench.sa(ALICE).waiting);
    bench.hand_over(&request);
    bench.run();
    bench.assert_children_match();
    assert_ne!(bench.child(ALICE).spi_in, spi);
}

/// A forged refusal doesn't keep the true answer out (RFC 7296 §2.21.1), nor does a forged acceptance.
#[test]
fn forged_init_responses() {
    let mut bench = Bench::new(Setup::default());
    let id = bench.call();
    bench.collect();
    let header = Header {
        initiator_spi: id.get(),
        responder_spi: 0,
        sender: Role::Responder,
        direction: Direction::Response,
        ..init_header()
    };
    let proposal = Proposal { number: 9, protocol: Protocol::Ike, spi: vec![], transforms: vec![] };
    let ours = Proposal { number: 1, ..proposal.clone() };
    for payloads in [
        vec![NotifyType::NO_PROPOSAL_CHOSEN.into()],
        vec![Payload::notify(NotifyType::INVALID_KE_PAYLOAD, vec![0, 2])],
        vec![Payload::Sa(vec![proposal]), Payload::KeyExchange(31, vec![9; 32]), Payload::Nonce(vec![1; 32])],
        vec![Payload::Sa(vec![ours]), Payload::KeyExchange(31, vec![0; 32]), Payload::Nonce(vec![1; 32])],
        vec![],
    ] {
        let wire = std::mem::take(&mut bench.wire);
        throw(&mut bench, ALICE, &encode_clear(&header, &payloads));
        throw(&mut bench, ALICE, &encode_clear(&Header { responder_spi: 7, ..header }, &payloads));
        bench.wire = wire;
    }
    bench.run();
    assert_eq!(bench.phases(), [vec![Phase::Established], vec![Phase::Established]]);
}

/// RFC 7296 §2.6: forged cookies don't make the initiator start over without end.
#[test]
fn endless_cookies() {
    let mut bench = Bench::new(Setup::default());
    let id = bench.call();
    bench.collect();
    bench.wire.clear();
    let header =
        Header { initiator_spi: id.get(), sender: Role::Responder, direction: Direction::Response, ..init_header() };
    let mut restarts = 0;
    for n in 0..100u8 {
        let cookie = Payload::notify(NotifyType::COOKIE, vec![n; 8]);
        restarts += usize::from(throw(&mut bench, ALICE, &encode_clear(&header, &[cookie])) > 0);
    }
    assert_eq!(restarts, 8);
}

/// Everything of a recorded session, replayed to either end, from where the attacker likes.
#[test]
fn replayed_session() {
    let mut bench = Bench::established(Setup::default());
    let spi = bench.child(ALICE).spi_in;
    bench.sides[ALICE].endpoint.rekey_child(spi, bench.now).unwrap();
    let mut seen = Vec::new();
    while let Some(flying) = bench.deliver() {
        seen.push(flying);
    }
    let before = bench.sa(BOB);
    for flying in seen.iter().rev().chain(&seen) {
        let mut moved = flying.clone();
        moved.transmit.local = "203.0.113.66:4500".parse().unwrap();
        bench.hand_over(&moved);
    }
    bench.wire.clear();
    let after = bench.sa(BOB);
    assert_eq!((after.remote, after.next_expected), (before.remote, before.next_expected));
    bench.assert_children_match();
}
