//! After each message of each exchange an end is replaced by a successor that knows nothing but the records.

use std::time::Duration;

use proptest::prelude::*;
use vipsec_wire::iv::Epoch;

use super::bench::{VIP, lose_all};
use super::{ALICE, BOB, Bench, Setup};
use crate::message::Direction;
use crate::{ChildSaRecord, Endpoint, Event, IkeSaRecord, ImportError, Mode, Phase, RecordError};

const SECOND: Duration = Duration::from_secs(1);

type Exchange = fn(&mut Bench, usize);

fn first_child(bench: &Bench, side: usize) -> u32 {
    bench.sa(side).children[0].spi_in
}

pub(super) const EXCHANGES: [(&str, Exchange); 6] = [
    ("rekey child", |bench, side| {
        let spi = first_child(bench, side);
        bench.sides[side].endpoint.rekey_child(spi, bench.now).unwrap();
    }),
    ("rekey IKE SA", |bench, side| {
        let id = bench.sa(side).id;
        bench.sides[side].endpoint.rekey_ike(id, bench.now).unwrap();
    }),
    ("create child", |bench, side| {
        let id = bench.sa(side).id;
        bench.sides[side].endpoint.create_child(id, "spare", bench.now).unwrap();
    }),
    ("all of them, waiting", |bench, side| {
        let (id, spi) = (bench.sa(side).id, first_child(bench, side));
        let endpoint = &mut bench.sides[side].endpoint;
        endpoint.create_child(id, "spare", bench.now).unwrap();
        endpoint.rekey_child(spi, bench.now).unwrap();
        endpoint.rekey_ike(id, bench.now).unwrap();
    }),
    ("liveness", |bench, side| {
        let id = bench.sa(side).id;
        bench.sides[side].endpoint.check_liveness(id, bench.now).unwrap();
    }),
    ("delete child", |bench, side| {
        let spi = first_child(bench, side);
        bench.sides[side].endpoint.delete_child(spi, bench.now).unwrap();
    }),
];

fn assert_at_rest(bench: &Bench, what: &str) {
    assert_eq!(bench.phases(), [vec![Phase::Established], vec![Phase::Established]], "{what}");
    bench.assert_children_match();
    assert!(!bench.sa(ALICE).waiting && !bench.sa(BOB).waiting, "{what}");
    let (alice, bob) = (bench.sa(ALICE), bench.sa(BOB));
    assert_eq!((alice.next_request, alice.next_expected), (bob.next_expected, bob.next_request), "{what}");
}

/// IKE SAs with everything that a record may have to tell of one.
fn scenes() -> Vec<(&'static str, Bench)> {
    let hosts = ("192.0.2.0/24", "198.51.100.0/24");
    let transport = Setup {
        mode: [Mode::Transport; 2],
        alice_net: hosts.0,
        bob_net: hosts.1,
        bob_net_for_alice: hosts.1,
        ..Setup::default()
    };
    let nat = || {
        let mut bench = Bench::new(Setup::default());
        bench.nat = Some("203.0.113.9:61000".parse().unwrap());
        bench.sides[BOB].endpoint.initiate("between", "net", bench.now).unwrap();
        bench.run();
        bench.forget_events();
        bench
    };
    vec![
        ("plain", Bench::established(Setup::default())),
        ("in fragments", Bench::established(Setup { packet_bytes_max: [200; 2], ..Setup::default() })),
        ("transport mode", Bench::established(transport)),
        ("an inside address", super::pools::established()),
        ("a child SA for each worker", Bench::established(Setup { lanes_max: [2; 2], ..Setup::default() })),
        ("behind a NAT", nat()),
        ("CBC and ESN", {
            let ike = ["aes256-sha256-prfsha256-modp2048"; 2];
            Bench::established(Setup { ike, esp: ["aes256gcm16-esn"; 2], ..Setup::default() })
        }),
    ]
}

/// The successor of either end, in either role, goes on after every message of every exchange, whatever kind of IKE SA it is.
#[test]
fn after_every_message() {
    for replaced in [ALICE, BOB] {
        for asking in [ALICE, BOB] {
            for (name, exchange) in EXCHANGES {
                for (kind, mut bench) in scenes() {
                    let what = format!("{kind}, {name}: {asking} asks, {replaced} is replaced");
                    let before = bench.sides[BOB].endpoint.addresses_assigned();
                    bench.take_over = Some(replaced);
                    exchange(&mut bench, asking);
                    bench.replace(replaced);
                    bench.pass(SECOND);
                    assert_at_rest(&bench, &what);
                    assert_eq!(bench.sides[BOB].endpoint.addresses_assigned(), before, "{what}");
                }
            }
        }
    }
}

/// Only whole messages count: one that dies in the middle of one has nothing of it, and gets it once more.
#[test]
fn in_the_middle_of_fragments() {
    for replaced in [ALICE, BOB] {
        for n in 0..6 {
            let mut bench = Bench::established(Setup { packet_bytes_max: [200; 2], ..Setup::default() });
            EXCHANGES[0].1(&mut bench, ALICE);
            for _ in 0..n {
                bench.deliver();
            }
            bench.replace(replaced);
            bench.pass(SECOND);
            bench.pass(60 * SECOND);
            assert_at_rest(&bench, &format!("{replaced} is replaced after {n} fragments"));
        }
    }
}

/// RFC 6311 with either end as the one that failed over, and either as the one that is replaced meanwhile.
#[test]
fn after_every_message_of_a_synchronisation() {
    for stale in [ALICE, BOB] {
        for replaced in [ALICE, BOB] {
            for (name, exchange) in &EXCHANGES[..5] {
                let mut bench = Bench::established(Setup::default());
                let (record, children) = bench.sides[stale].endpoint.export(bench.sa(stale).id, bench.now).unwrap();
                let id = bench.sa(ALICE).id;
                bench.sides[ALICE].endpoint.check_liveness(id, bench.now).unwrap();
                bench.run();
                bench.replace_with(stale, |successor, now| {
                    let id = successor.import_stale(record, children, now).unwrap();
                    successor.synchronise(id, now).unwrap();
                });
                bench.take_over = Some(replaced);
                exchange(&mut bench, 1 - stale);
                exchange(&mut bench, stale);
                bench.pass(SECOND);
                bench.pass(120 * SECOND);
                assert_at_rest(&bench, &format!("{name}: {stale} has failed over, {replaced} is replaced"));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Any exchanges of both ends, one after the other or at once; after each message one end goes on from its records alone.
    #[test]
    fn after_every_message_of_any_exchanges(
        steps in proptest::collection::vec((0..EXCHANGES.len() - 1, 0usize..2, 0usize..2, any::<bool>()), 1..6),
        seed in 0u64..1000,
        packet_bytes_max in prop_oneof![Just(crate::PACKET_BYTES_MAX), 200usize..600],
    ) {
        let mut bench = Bench::established(Setup { seed, packet_bytes_max: [packet_bytes_max; 2], ..Setup::default() });
        for (exchange, asking, replaced, at_once) in steps {
            // Some need the one child SA that there is at first.
            if bench.sides.iter().any(|side| side.installed.len() != 1) || bench.phases().iter().any(|p| p.len() != 1) {
                break;
            }
            bench.take_over = Some(replaced);
            EXCHANGES[exchange].1(&mut bench, asking);
            if at_once {
                EXCHANGES[exchange].1(&mut bench, 1 - asking);
            }
            bench.replace(replaced);
            bench.pass(SECOND);
            bench.pass(120 * SECOND);
            assert_at_rest(&bench, EXCHANGES[exchange].0);
        }
    }
}

/// The same while the IKE SA is being set up: half-open ones have no record, so from the IKE_AUTH request on.
#[test]
fn in_the_middle_of_ike_auth() {
    let mut bench = Bench::new(Setup::default());
    bench.call();
    bench.deliver();
    bench.deliver();
    bench.collect();
    assert_eq!(bench.phases(), [vec![Phase::Authenticating], vec![]]);
    // Alice's successor verifies the answer to her predecessor's request.
    bench.take_over = Some(ALICE);
    bench.replace(ALICE);
    bench.pass(SECOND);
    assert_at_rest(&bench, "initiator");

    let mut bench = Bench::new(Setup::default());
    bench.call();
    bench.deliver();
    bench.deliver();
    bench.take_over = Some(BOB);
    bench.pass(SECOND);
    assert_at_rest(&bench, "responder");
}

/// The owner dies after its records were acknowledged, and before the message left: at every message, of both ends.
#[test]
fn the_message_never_left() {
    for replaced in [ALICE, BOB] {
        for asking in [ALICE, BOB] {
            for (name, exchange) in EXCHANGES {
                for n in 0..8 {
                    let what = format!("{name}: {asking} asks, {replaced} dies before message {n} from it");
                    let mut bench = Bench::established(Setup::default());
                    exchange(&mut bench, asking);
                    let mut sent = 0;
                    let died = loop {
                        bench.collect();
                        let Some(flying) = bench.wire.pop_front() else { break false };
                        if flying.to != replaced {
                            if sent == n {
                                break true;
                            }
                            sent += 1;
                        }
                        bench.hand_over(&flying);
                    };
                    if !died {
                        break;
                    }
                    bench.replace(replaced);
                    // An IKE SA whose deletion was lost with its owner is known to nobody: the peer has to give it up.
                    bench.pass(60 * SECOND);
                    assert_at_rest(&bench, &what);
                }
            }
        }
    }
}

/// RFC 7296 §2.1: what the successor sends for a request in progress is bitwise identical.
#[test]
fn the_same_bytes_again() {
    let mut bench = Bench::established(Setup::default());
    EXCHANGES[0].1(&mut bench, ALICE);
    bench.collect();
    let first = bench.wire.pop_front().unwrap();
    assert!(first.transmit.fresh);
    bench.replace(ALICE);
    assert_eq!(bench.sides[ALICE].endpoint.poll_timeout(), Some(bench.now));
    bench.sides[ALICE].endpoint.handle_timeout(bench.now);
    bench.collect();
    let again = bench.wire.pop_front().unwrap();
    assert_eq!(again.transmit.payload, first.transmit.payload);
    // It may never have left, so it waits for the successor's own copies.
    assert!(again.transmit.fresh);
    // The ordinary retransmission after that doesn't.
    bench.sides[ALICE].endpoint.handle_timeout(bench.now + SECOND);
    bench.collect();
    assert!(!bench.wire.pop_front().unwrap().transmit.fresh);
}

/// A request answered by the owner is answered by its successor with the same bytes.
#[test]
fn the_same_answer_again() {
    let mut bench = Bench::established(Setup::default());
    EXCHANGES[0].1(&mut bench, ALICE);
    bench.loss = Some(lose_all(ALICE, Direction::Response));
    let request = bench.deliver().unwrap();
    bench.loss = None;
    let answer = |bench: &mut Bench| {
        bench.hand_over(&request);
        bench.wire.pop_front().unwrap().transmit
    };
    let first = answer(&mut bench);
    bench.replace(BOB);
    let again = answer(&mut bench);
    assert_eq!(again.payload, first.payload);
    assert!(!again.fresh);
    assert_eq!(bench.sides[BOB].installed.len(), 2);
}

/// The owner dies while it writes: the child SA's own record knows of a replacement or a deletion that the IKE SA's record, which commits
/// the set, doesn't. So nobody has heard of it.
#[test]
fn a_child_sa_whose_change_was_not_committed_is_as_it_was() {
    for (name, exchange, asking) in [
        ("rekey child", EXCHANGES[0].1, ALICE),
        ("rekey child", EXCHANGES[0].1, BOB),
        ("delete child", EXCHANGES[5].1, BOB),
    ] {
        let mut bench = Bench::established(Setup::default());
        let (record, _) = records(&bench);
        let old = first_child(&bench, BOB);
        exchange(&mut bench, asking);
        if asking == ALICE {
            let request = bench.deliver().unwrap();
            bench.wire.clear();
            // She asks once more, later.
            bench.wire.push_back(request);
        } else {
            bench.collect();
            bench.wire.clear();
        }
        let (_, mut children) = records(&bench);
        children.retain(|child| child.spi_in() == old);
        bench.sides[BOB].installed.retain(|spi, _| *spi == old);
        bench.replace_with(BOB, |successor, now| {
            successor.import(record, children, now).unwrap();
        });
        bench.pass(SECOND);
        // And it can be replaced by the successor.
        let spi = first_child(&bench, BOB);
        bench.sides[BOB].endpoint.rekey_child(spi, bench.now).unwrap();
        bench.pass(120 * SECOND);
        assert_at_rest(&bench, &format!("{name}, asked by {asking}"));
        assert_eq!(bench.sides[BOB].installed.len(), 1, "{name}, asked by {asking}");
    }
}

/// Collisions are remembered across a takeover.
#[test]
fn in_the_middle_of_collisions() {
    for seed in 0..8 {
        for replaced in [ALICE, BOB] {
            for (name, exchange) in &EXCHANGES[..2] {
                let mut bench = Bench::established(Setup { seed, ..Setup::default() });
                bench.take_over = Some(replaced);
                exchange(&mut bench, ALICE);
                exchange(&mut bench, BOB);
                bench.pass(SECOND);
                assert_at_rest(&bench, &format!("{name}, seed {seed}, {replaced}"));
            }
        }
    }
}

/// Ages go on, liveness starts anew.
#[test]
fn timers_of_a_successor() {
    let hour = 3600 * SECOND;
    let setup = Setup {
        dpd_delay: Some(10 * SECOND),
        ike_rekey_time: [Some(hour), None],
        child_rekey_time: [Some(hour), None],
        ..Setup::default()
    };
    let mut bench = Bench::established(setup);
    bench.pass(hour / 2);
    bench.now += 9 * SECOND;
    bench.replace(ALICE);
    let sa = bench.sa(ALICE);
    assert_eq!(sa.age, hour / 2 + 9 * SECOND);
    assert!(sa.silent == Duration::ZERO);
    for rekey_in in [sa.rekey_in.unwrap(), sa.children[0].rekey_in.unwrap()] {
        assert!(rekey_in <= hour / 2 - 9 * SECOND && rekey_in >= hour / 2 - hour / 10 - 9 * SECOND, "{rekey_in:?}");
    }
    let first = bench.sa(ALICE).id;
    bench.pass(hour / 2);
    assert_ne!(bench.sa(ALICE).id, first);
    assert_eq!(bench.phases(), [vec![Phase::Established], vec![Phase::Established]]);
}

/// What was overdue when nobody served it is rekeyed soon, and doesn't just expire.
#[test]
fn overdue_at_the_takeover() {
    let hour = 3600 * SECOND;
    let mut bench = Bench::established(Setup { ike_rekey_time: [Some(hour), None], ..Setup::default() });
    let first = bench.sa(ALICE).id;
    bench.now += 2 * hour;
    bench.replace(ALICE);
    assert!(bench.sa(ALICE).rekey_in.unwrap() <= 10 * SECOND);
    bench.pass(20 * SECOND);
    assert_ne!(bench.sa(ALICE).id, first);
    assert!(bench.sides[ALICE].installed.len() == 1);
}

fn records(bench: &Bench) -> (IkeSaRecord, Vec<crate::ChildSaRecord>) {
    bench.sides[BOB].endpoint.export(bench.sa(BOB).id, bench.now).unwrap()
}

fn forget_vip(endpoint: &mut Endpoint) {
    endpoint.leave_vip(VIP);
    endpoint.forget_some(VIP, usize::MAX);
}

fn successor(bench: &Bench, epoch: u32) -> Endpoint {
    let mut other = Bench::new(Setup { seed: 99, ..bench.setup.clone() });
    let [_, bob] = std::mem::replace(&mut other.sides, Bench::new(Setup::default()).sides);
    let mut endpoint = bob.endpoint;
    if epoch > 0 {
        endpoint.set_origin(VIP, Epoch(epoch)).unwrap();
    } else {
        forget_vip(&mut endpoint);
    }
    endpoint
}

/// I1: under the writer's epoch its IVs could repeat.
#[test]
fn what_is_not_resumed() {
    let bench = Bench::established(Setup::default());
    let import = |endpoint: &mut Endpoint, change: fn(&mut IkeSaRecord, &mut Vec<crate::ChildSaRecord>)| {
        let (mut record, mut children) = records(&bench);
        change(&mut record, &mut children);
        endpoint.import(record, children, bench.now).map(|_| ())
    };
    let unchanged: fn(&mut IkeSaRecord, &mut Vec<crate::ChildSaRecord>) = |_, _| {};
    let not_above = ImportError::EpochNotAbove { ours: Epoch(1), theirs: Epoch(1) };
    assert_eq!(import(&mut successor(&bench, 1), unchanged), Err(not_above));
    assert_eq!(import(&mut successor(&bench, 0), unchanged), Err(ImportError::NotOwned(VIP)));
    // The epochs in the IVs would come round.
    assert_eq!(import(&mut successor(&bench, 0x8001), unchanged), Err(ImportError::TooOld(Epoch(1))));
    assert_eq!(import(&mut successor(&bench, 0x8000), unchanged), Ok(()));
    let mut twice = successor(&bench, 2);
    assert_eq!(import(&mut twice, unchanged), Ok(()));
    assert_eq!(import(&mut twice, unchanged), Err(ImportError::AlreadyHere));
    let mut fresh = successor(&bench, 2);
    // A child SA that no IKE record names doesn't exist; one that is named must be there.
    assert_eq!(import(&mut fresh, |_, children| children.clear()), Err(ImportError::WrongChildren));
    assert_eq!(import(&mut fresh, |record, _| record.children.clear()), Err(ImportError::WrongChildren));
    let short_key = |_: &mut IkeSaRecord, children: &mut Vec<crate::ChildSaRecord>| {
        children[0].info.key_in = crate::Secret::new(vec![0; 20]);
    };
    assert_eq!(import(&mut fresh, short_key), Err(ImportError::Inconsistent));
    let unknown = |record: &mut IkeSaRecord, _: &mut Vec<_>| record.state.connection = "gone".to_owned();
    assert_eq!(import(&mut fresh, unknown), Err(ImportError::UnknownConnection));
    // Nothing of the refused ones has stayed.
    assert_eq!(import(&mut fresh, unchanged), Ok(()));
}

/// A later release may put more behind what this one knows.
#[test]
fn what_a_later_release_adds_to_a_record_is_passed_over() {
    let bench = Bench::established(Setup::default());
    let (ike, children) = records(&bench);
    let later = |bytes: &[u8]| [bytes, &rmp_serde::to_vec(&("later", [1, 2, 3])).unwrap()].concat();
    assert_eq!(IkeSaRecord::decode(&later(&ike.encode())).unwrap().encode(), ike.encode());
    let child = &children[0];
    assert_eq!(ChildSaRecord::decode(&later(&child.encode())).unwrap().encode(), child.encode());
}

#[test]
fn bytes_that_are_no_record() {
    let bench = Bench::established(Setup::default());
    let bytes = records(&bench).0.encode();
    assert_eq!(IkeSaRecord::decode(&bytes).unwrap().encode(), bytes);
    let mut newer = bytes.to_vec();
    newer[1] += 1;
    assert!(matches!(IkeSaRecord::decode(&newer), Err(RecordError::Version(5))));
    for len in 0..bytes.len() {
        assert!(IkeSaRecord::decode(&bytes[..len]).is_err(), "{len}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// The store authenticates its records; all the same none of them can bring a successor down.
    #[test]
    fn mutated_records_do_no_harm(changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let mut bench = Bench::established(Setup { dpd_delay: Some(SECOND), ..Setup::default() });
        EXCHANGES[1].1(&mut bench, BOB);
        bench.collect();
        let (record, children) = records(&bench);
        let mut bytes = record.encode().to_vec();
        for (at, value) in changes {
            let at = at.index(bytes.len() - 2) + 2;
            bytes[at] = value;
        }
        let Ok(record) = IkeSaRecord::decode(&bytes) else { return Ok(()) };
        let mut successor = successor(&bench, 2);
        let mut now = bench.now;
        if successor.import(record, children, now).is_ok() {
            for _ in 0..20 {
                now = successor.poll_timeout().map_or(now, |at| at.max(now));
                successor.handle_timeout(now);
            }
        }
    }
}

#[test]
fn epochs_do_not_go_back() {
    let mut bench = Bench::established(Setup::default());
    let endpoint = &mut bench.sides[BOB].endpoint;
    endpoint.set_origin(VIP, Epoch(5)).unwrap();
    assert!(endpoint.set_origin(VIP, Epoch(4)).is_err());
}

/// A deposed owner goes without a word, and is deaf.
#[test]
fn deposed() {
    let mut bench = Bench::established(Setup::default());
    forget_vip(&mut bench.sides[BOB].endpoint);
    bench.collect();
    assert!(bench.wire.is_empty());
    assert!(bench.sides[BOB].installed.is_empty());
    assert!(matches!(bench.sides[BOB].events.last(), Some(Event::IkeGone { .. })));
    bench.call();
    bench.run();
    assert_eq!(bench.sides[BOB].endpoint.half_open(), 0);
}

/// Keys don't show when somebody prints a record.
#[test]
fn records_do_not_print_secrets() {
    let bench = Bench::established(Setup::default());
    let (record, children) = records(&bench);
    let text = format!("{record:?}{children:?}");
    assert!(text.contains("sk_d: Secret(..)") && text.contains("key_in: Secret(..)"));
}

/// I1: until the last one is forgotten nothing is said for a VIP that was left, and nothing of it comes back with the VIP.
#[test]
fn nothing_is_done_with_what_is_to_be_forgotten() {
    let mut bench = Bench::established(Setup::default());
    let now = bench.now;
    let (id, child) = (bench.sa(BOB).id, bench.child(BOB).spi_in);
    let endpoint = &mut bench.sides[BOB].endpoint;
    endpoint.leave_vip(VIP);
    assert_eq!(endpoint.sas(now).count(), 1);
    assert!(endpoint.rekey_ike(id, now).is_err() && endpoint.rekey_child(child, now).is_err());
    assert!(endpoint.delete_ike(id, now).is_err() && endpoint.export(id, now).is_none());
    endpoint.peer_alive(child, now);
    endpoint.handle_timeout(now + Duration::from_secs(1_000_000));
    assert!(endpoint.poll_transmit().is_none());
    assert_eq!(endpoint.sas(now).count(), 1);
    endpoint.set_origin(VIP, Epoch(9)).unwrap();
    assert_eq!((endpoint.sas(now).count(), endpoint.has_child(child)), (0, false));
    assert!(!endpoint.forget_some(VIP, 1) && endpoint.poll_timeout().is_none());
}

/// As many as are asked for, each once.
#[test]
fn a_vip_is_forgotten_in_parts() {
    let mut bench = Bench::established(Setup::default());
    for _ in 0..4 {
        bench.call();
        bench.run();
    }
    let count = bench.sides[BOB].endpoint.sas(bench.now).count();
    let endpoint = &mut bench.sides[BOB].endpoint;
    endpoint.leave_vip(VIP);
    let mut left = vec![count];
    while endpoint.forget_some(VIP, 2) {
        left.push(endpoint.sas(bench.now).count());
    }
    left.push(endpoint.sas(bench.now).count());
    assert!(left.windows(2).all(|pair| pair[0] - pair[1] <= 2), "{left:?}");
    assert_eq!((count, left.last()), (5, Some(&0)));
}
