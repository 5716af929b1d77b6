//! A peer over whose messages owners die.

use std::time::Duration;

use vipsec_control::api::{Request, Response, Status};

use super::bench::{Peer, connection, peer_policy};
use super::pair::Pair;

const SECOND: Duration = Duration::from_secs(1);
const FAR: &str = "198.51.100.7";
const OTHER: &str = "198.51.100.8";

fn status(pair: &mut Pair, side: usize) -> Status {
    match pair.sides[side].ask(Request::Status) {
        Ok(Response::Status(status)) => *status,
        other => panic!("{other:?}"),
    }
}

fn connections(pair: &mut Pair, side: usize) -> Vec<String> {
    let mut names: Vec<_> = pair.sides[side].sas().into_iter().map(|sa| sa.connection).collect();
    names.sort();
    names
}

/// The first peer sends something, and the owner dies over it: nothing gets out any more.
fn die_over_a_message(pair: &mut Pair, owner: usize) {
    let now = pair.now();
    let side = &mut pair.sides[owner];
    side.hold = true;
    let id = side.peers[0].endpoint.sas(now).next().unwrap().id;
    side.peers[0].endpoint.check_liveness(id, now).unwrap();
    side.run();
    side.peers[0].cut = true;
    pair.let_die_over_the_next_peer(owner);
    let message = pair.sides[owner].held.pop_front().expect("a message");
    pair.sides[owner].hear(0, message);
    succeed(pair, owner);
    pair.sides[1 - owner].peers[0].cut = false;
    pair.pass(2 * SECOND);
}

/// The owner is dead, and the other one serves the peers.
fn succeed(pair: &mut Pair, owner: usize) {
    pair.kill(owner);
    pair.in_earshot = false;
    let heir = 1 - owner;
    pair.sides[heir].peers = std::mem::take(&mut pair.sides[owner].peers);
    pair.sides[heir].hold = false;
    while !pair.sides[heir].core.is_serving() {
        pair.pass(Duration::from_millis(5));
    }
}

/// Two peers, whose connections stand.
fn pair_with_two_peers() -> Pair {
    let two = connection("branch", FAR, 9, "") + &connection("other", OTHER, 8, "");
    let mut pair = Pair::new(&two);
    for (seed, name, address, net) in [(1, "branch", FAR, 9), (2, "other", OTHER, 8)] {
        pair.sides[0].peers.push(Peer::new(seed, peer_policy(name, address, net)));
        pair.ask(0, Request::Initiate { connection: name.to_owned(), child: None });
    }
    pair.pass(SECOND);
    assert_eq!(connections(&mut pair, 0), ["branch", "other"]);
    pair
}

#[test]
fn a_peer_that_was_in_hand_at_two_deaths_in_a_row_is_left_out_until_it_is_released() {
    let mut pair = pair_with_two_peers();
    die_over_a_message(&mut pair, 0);
    assert_eq!(connections(&mut pair, 1), ["branch", "other"], "anybody may be in hand once");
    assert!(status(&mut pair, 1).quarantine.is_empty());
    pair.revive(0);
    pair.pass(SECOND);

    die_over_a_message(&mut pair, 1);
    assert_eq!(connections(&mut pair, 0), ["other"]);
    assert_eq!(pair.sides[0].opened_with, Some(1), "its child SA is not there when the VIP opens");
    let takeover = pair.sides[0].takeover();
    assert!(
        takeover.iter().any(|(way, why, _)| way == "lost" && why == "in hand at two crashes in a row"),
        "{takeover:?}"
    );
    let quarantine = status(&mut pair, 0).quarantine;
    assert_eq!(quarantine.len(), 1);
    assert_eq!(quarantine[0].remote.to_string(), FAR);
    assert_eq!(pair.sides[0].children.len(), 1, "the other one's child SA carries packets");

    // It calls, and isn't heard.
    let call = |pair: &mut Pair| {
        pair.sides[0].peers[0] = Peer::new(3, peer_policy("branch", FAR, 9));
        let now = pair.now();
        pair.sides[0].peers[0].endpoint.initiate("vip", "net", now).unwrap();
        pair.pass(SECOND);
    };
    call(&mut pair);
    assert_eq!(connections(&mut pair, 0), ["other"]);
    assert!(pair.sides[0].core.counter_sums().drops["ike_quarantined"] > 0);

    let release = Request::ReleasePeer { remote: FAR.parse().unwrap() };
    pair.ask(0, release.clone());
    assert!(pair.sides[0].ask(release).is_err(), "it isn't quarantined any more");
    call(&mut pair);
    assert_eq!(connections(&mut pair, 0), ["branch", "other"]);
}

/// It doesn't answer, and owners die when they ask it again.
#[test]
fn a_peer_over_whose_timers_two_owners_died_is_left_out() {
    let mut pair = pair_with_two_peers();
    pair.sides[0].peers[0].cut = true;
    let branch = pair.sides[0].sas().into_iter().find(|sa| sa.connection == "branch").unwrap();
    pair.ask(0, Request::RekeyIke { spi: branch.spi });
    for owner in [0, 1] {
        pair.let_die_over_the_next_peer(owner);
        let begin = pair.now();
        while !pair.has_died(owner) {
            assert!(pair.now() < begin + 60 * SECOND, "nothing was sent again");
            pair.pass(Duration::from_millis(5));
        }
        succeed(&mut pair, owner);
        // The other one's turn on the ladder is over.
        pair.pass(SECOND);
        if owner == 0 {
            assert_eq!(connections(&mut pair, 1), ["branch", "other"]);
            pair.revive(0);
            pair.pass(SECOND);
        }
    }
    assert_eq!(connections(&mut pair, 0), ["other"]);
    assert_eq!(status(&mut pair, 0).quarantine.len(), 1);
}
