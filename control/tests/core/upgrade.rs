//! Two releases in a pair: what the newer one would like to say, the older one never hears.

use std::time::Duration;

use vipsec_control::api::{Request, Response};
use vipsec_takeover::decider::Copy;
use vipsec_takeover::message::{Message, VERSION_NEWEST, VERSION_OLDEST};

use super::bench::{Peer, connection, peer_policy};
use super::pair::Pair;

const FAR: &str = "198.51.100.7";
const SECOND: Duration = Duration::from_secs(1);
/// Longer than a copy is trusted.
const TRUST_AND_MORE: Duration = Duration::from_millis(400);

/// How far the owner's copy is at the backup.
fn copy_of(pair: &Pair) -> Copy {
    pair.sides[0].core.ownership_status(pair.now(), 0).unwrap().peers[0].copy
}

fn version_of(pair: &mut Pair) -> Option<u16> {
    let Response::Store(store) = pair.sides[0].ask(Request::Store).unwrap() else { panic!("the store") };
    store.groups[0].peers[0].version
}

/// The backup, of a release that speaks so much, is told to end.
fn backup_ends(newest: u16) -> Pair {
    let mut pair = Pair::of_releases([VERSION_NEWEST, newest], "");
    assert_eq!(version_of(&mut pair), Some(newest));
    assert_eq!(copy_of(&pair), Copy::Counted);
    let now = pair.now();
    pair.sides[1].core.handle_shutdown(now);
    pair.sides[1].run();
    pair
}

#[test]
fn a_backup_that_ends_as_planned_is_waited_for_no_longer() {
    let mut pair = backup_ends(VERSION_NEWEST);
    pair.pass(Duration::from_millis(5));
    assert_eq!(copy_of(&pair), Copy::None, "it has said that it is gone");
    pair.kill(1);
    pair.pass(SECOND);
    assert!(pair.sides[0].core.is_serving());
}

#[test]
fn an_older_backup_is_waited_for_until_its_trust_has_run_out() {
    let mut pair = backup_ends(VERSION_OLDEST);
    let given_up = Message::GivenUp.encode();
    assert!(!pair.sides[1].link_messages.contains(&given_up), "a word that the older release doesn't know");
    pair.pass(Duration::from_millis(5));
    pair.kill(1);
    assert!(matches!(copy_of(&pair), Copy::Leaving { .. }), "it may still act on its copy");
    pair.pass(TRUST_AND_MORE);
    assert_eq!(copy_of(&pair), Copy::None);
    assert!(pair.sides[0].core.is_serving());
}

#[test]
fn what_an_older_release_had_a_newer_one_goes_on_with_and_back() {
    let older = VERSION_OLDEST..VERSION_NEWEST;
    for releases in older.flat_map(|older| [[older, VERSION_NEWEST], [VERSION_NEWEST, older]]) {
        let older = releases[0].min(releases[1]);
        let mut pair = Pair::of_releases(releases, &connection("branch", FAR, 9, ""));
        pair.sides[0].peers.push(Peer::new(1, peer_policy("branch", FAR, 9)));
        pair.ask(0, Request::Initiate { connection: "branch".to_owned(), child: None });
        pair.pass(SECOND);
        let before = pair.sides[0].sas();
        assert_eq!((before.len(), version_of(&mut pair)), (1, Some(older)));
        pair.kill(0);
        pair.in_earshot = false;
        while !pair.sides[1].core.is_serving() {
            pair.pass(Duration::from_millis(5));
        }
        let after = pair.sides[1].sas();
        assert_eq!(after[0].spi, before[0].spi);
        assert_eq!(after[0].children[0].spi_in, before[0].children[0].spi_in);
        assert_eq!(after[0].children[0].state, "installed");
    }
}
