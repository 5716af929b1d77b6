//! A remote peer that doesn't answer while the other appliance of the pair is missing: that one may be serving it.

use std::time::Duration;

use vipsec_control::api::Request;

use super::bench::{Peer, connection, peer_policy};
use super::pair::Pair;

const SECOND: Duration = Duration::from_secs(1);
const FAR: &str = "198.51.100.7";

/// The first appliance has a remote peer, the second one is dead, which nobody knows, and the remote peer falls silent. Silence of some
/// ten seconds means that a peer is dead.
fn missing(patience: &str) -> Pair {
    let connection = connection("branch", FAR, 9, "dpd_delay = \"1s\"");
    let more = format!("split_patience = \"{patience}\"\n[ike]\nretransmit_tries = 4\n{connection}");
    let mut pair = Pair::with_peer(&more);
    pair.sides[0].peers.push(Peer::new(1, peer_policy("branch", FAR, 9)));
    pair.ask(0, Request::Initiate { connection: "branch".to_owned(), child: None });
    pair.pass(SECOND);
    assert_eq!(pair.sides[0].sas().len(), 1);
    pair.kill(1);
    pair.sides[0].peers[0].cut = true;
    pair
}

#[test]
fn a_silent_peer_is_kept_until_the_pair_is_whole_again() {
    let mut pair = missing("5m");
    let before = pair.sides[0].sas();
    pair.pass(60 * SECOND);
    assert_eq!(pair.sides[0].sas()[0].spi, before[0].spi);
    // A new process: the old one is dead, and so is the peer.
    pair.revive(1);
    pair.pass(60 * SECOND);
    assert!(pair.sides[0].sas().is_empty());
}

#[test]
fn a_peer_that_speaks_again_goes_on_as_it_was() {
    let mut pair = missing("5m");
    let before = pair.sides[0].sas();
    pair.pass(30 * SECOND);
    pair.sides[0].peers[0].cut = false;
    pair.pass(30 * SECOND);
    pair.revive(1);
    pair.pass(30 * SECOND);
    assert_eq!(pair.sides[0].sas()[0].spi, before[0].spi);
}

/// Who crashed and doesn't come back doesn't keep the dead for ever.
#[test]
fn patience_ends() {
    let mut pair = missing("20s");
    pair.pass(15 * SECOND);
    assert_eq!(pair.sides[0].sas().len(), 1);
    pair.pass(60 * SECOND);
    assert!(pair.sides[0].sas().is_empty());
}

/// The successor of an appliance that may only have been cut off has the same patience.
#[test]
fn a_successor_keeps_the_peers_of_an_owner_that_may_live() {
    let connection = connection("branch", FAR, 9, "dpd_delay = \"1s\"");
    let mut pair = Pair::with_peer(&format!("split_patience = \"5m\"\n[ike]\nretransmit_tries = 4\n{connection}"));
    pair.sides[0].peers.push(Peer::new(1, peer_policy("branch", FAR, 9)));
    pair.ask(0, Request::Initiate { connection: "branch".to_owned(), child: None });
    pair.pass(SECOND);
    let before = pair.sides[0].sas();
    pair.in_earshot = false;
    pair.cut_link();
    pair.pass(60 * SECOND);
    // Both own the VIP. The peer is with the first one; the second one has asked it to rekey, and hears nothing.
    let after = pair.sides[1].sas();
    assert_eq!(after.iter().map(|sa| sa.spi).collect::<Vec<_>>(), [before[0].spi]);
}
