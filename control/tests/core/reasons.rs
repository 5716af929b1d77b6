//! Each reason for a way of the ladder, by what causes it. More of them: [`ladder`](super::ladder), [`in_hand`](super::in_hand).

use std::time::Duration;

use vipsec_control::api::Request;
use vipsec_dataplane::api::{Event, Numbers};
use vipsec_ike::Secret;

use super::bench::{Peer, connection, peer_policy};
use super::ladder::{counted, expected, take_over};
use super::pair::{Flaw, Pair};

const SECOND: Duration = Duration::from_secs(1);
const FAR: &str = "198.51.100.7";

/// A takeover of one IKE SA.
#[derive(Default)]
struct Case {
    /// The policy of both appliances is to negotiate anew.
    renegotiates: bool,
    /// Of the owner's writes, from the time before the remote peer calls.
    flaw: Option<Flaw>,
    /// What else happens while the owner lives.
    before: Option<fn(&mut Pair)>,
    /// Whom the successor meets; else the remote peer isn't there.
    meets: Option<fn() -> Peer>,
    /// How it goes on, and why, and what becomes of that in the end: in what the successor says, and in what it counts.
    ways: [(&'static str, &'static str); 2],
    /// The child SAs that carry in the end.
    carries: usize,
}

fn the_link_is_cut(pair: &mut Pair) {
    pair.cut_link();
    // Longer than trust lasts.
    pair.pass(SECOND);
}

/// The successor would take more numbers for seen than its remote peer has used.
fn numbers_are_ahead(pair: &mut Pair) {
    let spi = *pair.sides[0].children.keys().next().unwrap();
    let numbers = Numbers { spi, edge: 10, horizon_wanted: 100, sent: 0, lease_wanted: 4096 };
    pair.sides[0].hear(0, Event::Numbers(numbers));
    pair.pass(Duration::from_millis(20));
}

fn numbers_are_damaged(pair: &mut Pair) {
    pair.set_flaw(0, Some(Flaw::Damages));
    numbers_are_ahead(pair);
    pair.set_flaw(0, None);
}

fn the_same_peer_anew() -> Peer {
    Peer::new(2, peer_policy("branch", FAR, 9))
}

fn a_peer_with_another_secret() -> Peer {
    let policy = peer_policy("branch", FAR, 9);
    Peer::new(2, vipsec_ike::ConnectionPolicy { psk: Secret::new(b"another one".to_vec()), ..policy })
}

#[test]
fn each_reason_has_its_way() {
    let cases = [
        Case { before: Some(numbers_are_damaged), ways: [("rekey", "numbers lost"); 2], ..Case::default() },
        Case {
            flaw: Some(Flaw::HidesReplaySync),
            before: Some(numbers_are_ahead),
            ways: [("rekey", "peer without replay counter sync"); 2],
            carries: 1,
            ..Case::default()
        },
        Case {
            flaw: Some(Flaw::LosesChildren),
            meets: Some(the_same_peer_anew),
            ways: [("renegotiate", "record lost"); 2],
            carries: 1,
            ..Case::default()
        },
        Case {
            flaw: Some(Flaw::HidesMessageIdSync),
            before: Some(the_link_is_cut),
            meets: Some(the_same_peer_anew),
            ways: [("renegotiate", "copy not trusted, peer without message-id sync"); 2],
            carries: 1,
            ..Case::default()
        },
        // Its connection isn't in the successor's configuration any more.
        Case {
            before: Some(|pair| pair.reload(1, "")),
            ways: [("renegotiate", "not resumable"), ("lost", "not callable")],
            ..Case::default()
        },
        // The old child SA does until the deletion is answered, or has not been for long.
        Case {
            renegotiates: true,
            meets: Some(a_peer_with_another_secret),
            ways: [("renegotiate", "policy"), ("lost", "refused")],
            carries: 1,
            ..Case::default()
        },
    ];
    for Case { renegotiates, flaw, before, meets, ways: [first, last], carries } in cases {
        let connection = connection("branch", FAR, 9, "");
        let mut pair = if renegotiates { Pair::renegotiating(&connection) } else { Pair::new(&connection) };
        pair.set_flaw(0, flaw);
        pair.sides[0].peers.push(Peer::new(1, peer_policy("branch", FAR, 9)));
        pair.ask(0, Request::Initiate { connection: "branch".to_owned(), child: None });
        pair.pass(SECOND);
        assert_eq!(pair.sides[0].sas().len(), 1);
        before.into_iter().for_each(|before| before(&mut pair));
        take_over(&mut pair);
        assert_eq!(pair.sides[1].takeover(), expected(&[(first.0, first.1, 1)]));
        pair.sides[1].peers.extend(meets.map(|meets| meets()));
        pair.pass(SECOND);
        assert_eq!(pair.sides[1].takeover(), expected(&[(last.0, last.1, 1)]), "after {first:?}");
        for (way, _) in [first, last] {
            assert_eq!(counted(&pair, way), 1, "{way}");
        }
        assert_eq!(pair.sides[1].children.len(), carries, "{last:?}");
    }
}
