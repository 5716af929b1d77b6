//! A takeover without a trusted copy: no child SA is resumed, but a remote peer that synchronises message IDs (RFC 6311) keeps its IKE
//! SA and gets fresh child SAs.

use std::collections::BTreeSet;
use std::time::Duration;

use vipsec_control::api::{IkeSa, Request};
use vipsec_dataplane::api::Event;
use vipsec_esp::sa::Spi;

use super::bench::{Peer, connection, peer_policy};
use super::ladder::die_between_a_call_and_its_end;
use super::pair::Pair;

const SECOND: Duration = Duration::from_secs(1);
const FAR: &str = "198.51.100.7";

fn spis(sas: &[IkeSa]) -> BTreeSet<u32> {
    sas.iter().flat_map(|sa| &sa.children).map(|child| child.spi_in.0).collect()
}

/// The first appliance has a remote peer with a child SA; the second one's copy isn't trusted any more, for the link is cut.
fn left_behind() -> Pair {
    let mut pair = Pair::new(&connection("branch", FAR, 9, ""));
    pair.sides[0].peers.push(Peer::new(1, peer_policy("branch", FAR, 9)));
    pair.ask(0, Request::Initiate { connection: "branch".to_owned(), child: None });
    pair.pass(SECOND);
    assert_eq!(pair.sides[0].peers[0].children.len(), 1);
    pair.cut_link();
    // Longer than trust lasts; the owner is heard all the while.
    pair.pass(SECOND);
    assert!(pair.sides[0].core.is_serving() && !pair.sides[1].core.is_serving());
    pair
}

/// The owner dies, and its remote peer talks to the successor.
fn succeed(pair: &mut Pair) {
    pair.kill(0);
    pair.in_earshot = false;
    let peer = pair.sides[0].peers.remove(0);
    pair.sides[1].peers.push(peer);
    // Detection; then the message IDs are agreed on.
    pair.pass(Duration::from_millis(45));
    while !pair.sides[1].core.is_serving() {
        pair.pass(Duration::from_millis(5));
    }
}

#[test]
fn the_ike_sa_stays_and_its_child_sas_are_made_anew() {
    let mut pair = left_behind();
    let before = pair.sides[0].sas();
    succeed(&mut pair);
    // At once: the IKE SA is there, its child SA is nowhere in use.
    let inherited = pair.sides[1].sas();
    assert_eq!(inherited[0].spi, before[0].spi);
    assert_eq!(inherited[0].children[0].state, "stale");
    assert!(pair.sides[1].children.is_empty());
    pair.pass(SECOND);
    let after = pair.sides[1].sas();
    assert_eq!(after.len(), 1);
    assert_ne!(after[0].spi, before[0].spi, "its keys are fresh, too");
    assert!(spis(&after).is_disjoint(&spis(&before)));
    assert_eq!(after[0].children[0].state, "installed");
    let [peer] = &pair.sides[1].peers[..] else { panic!("one peer") };
    let (ours, theirs) = (pair.sides[1].children.keys(), peer.children.values());
    assert!(ours.map(|spi| spi.get()).eq(theirs.map(|child| child.spi_out)), "both ends have the same child SA");
}

/// Workers take packets of a VIP from the moment that it is opened: a child SA that must never be used is gone before.
#[test]
fn no_child_sa_of_an_untrusted_copy_is_there_when_the_vip_opens() {
    let mut pair = left_behind();
    succeed(&mut pair);
    assert_eq!(pair.sides[1].opened_with, Some(0));
}

/// What the remote peer has got since the copy was left behind would be a hole that its liveness checks don't find.
#[test]
fn a_child_sa_that_the_copy_does_not_know_is_deleted_at_the_peer() {
    let mut pair = left_behind();
    let (now, before) = (pair.now(), spis(&pair.sides[0].sas()));
    let peer = &mut pair.sides[0].peers[0].endpoint;
    let id = peer.sas(now).next().unwrap().id;
    peer.create_child(id, "net", now).unwrap();
    pair.pass(SECOND);
    let unknown = *spis(&pair.sides[0].sas()).difference(&before).next().unwrap();
    succeed(&mut pair);
    pair.pass(SECOND);
    let uses = |pair: &Pair| pair.sides[1].peers[0].children.values().any(|child| child.spi_out == unknown);
    assert!(uses(&pair));
    let esp = |pair: &mut Pair, spi| {
        let event = Event::UnknownSpi { spi, remote: FAR.parse().unwrap() };
        let now = pair.now();
        pair.sides[1].core.handle_events(now, [(0, event)]);
        pair.sides[1].run();
    };
    // Of anybody else's making: nobody's business.
    esp(&mut pair, 0xabab_abab);
    esp(&mut pair, unknown);
    assert!(!uses(&pair));
    let [peer] = &pair.sides[1].peers[..] else { panic!("one peer") };
    assert_eq!(peer.children.len(), 1, "the one that was made anew");
    assert!(peer.children.values().all(|child| pair.sides[1].children.contains_key(&Spi::new(child.spi_out).unwrap())));
}

/// It calls before its turn has come: then there is but what it called for.
#[test]
fn a_peer_that_calls_by_itself_gets_what_it_calls_for() {
    let mut pair = left_behind();
    pair.sides[0].peers[0].cut = true;
    succeed(&mut pair);
    pair.pass(SECOND);
    let old = pair.sides[1].sas()[0].spi;
    pair.sides[1].peers[0] = Peer::new(2, peer_policy("branch", FAR, 9));
    let now = pair.now();
    pair.sides[1].peers[0].endpoint.initiate("vip", "net", now).unwrap();
    pair.pass(SECOND);
    let after = pair.sides[1].sas();
    assert_eq!((after.len(), pair.sides[1].children.len()), (1, 1));
    assert_ne!(after[0].spi, old);
}

/// strongSwan does, over the question for new message IDs, once it has sent what would take the answer's IV. The old owner may be cut off
/// and serve the peer, as far as its successor knows; a call takes nothing from who is served there.
#[test]
fn a_peer_that_has_dropped_its_ike_sa_is_called_though_the_owner_may_live() {
    let mut pair = left_behind();
    let old = pair.sides[0].sas()[0].spi;
    pair.sides[0].peers[0] = Peer::new(2, peer_policy("branch", FAR, 9));
    succeed(&mut pair);
    pair.pass(12 * SECOND);
    let [peer] = &pair.sides[1].peers[..] else { panic!("one peer") };
    assert_eq!((pair.sides[1].children.len(), peer.children.len()), (1, 1), "both have a child SA again");
    // What its peer has forgotten goes, in the end.
    pair.pass(400 * SECOND);
    let [sa] = &pair.sides[1].sas()[..] else { panic!("one IKE SA") };
    assert!(sa.spi != old && sa.initiator, "{sa:?}");
    assert_eq!(pair.sides[1].children.len(), 1);
}

/// It can't be heard, as one that the old owner serves behind a cut: its IKE SA stays, however many calls come to nothing, and when it is
/// heard again both ends have the same.
#[test]
fn a_peer_that_may_be_served_elsewhere_is_called_and_kept() {
    let mut pair = left_behind();
    let old = pair.sides[0].sas()[0].spi;
    pair.sides[0].peers[0].cut = true;
    succeed(&mut pair);
    pair.pass(400 * SECOND);
    assert!(pair.sides[1].sas().iter().any(|sa| sa.spi == old));
    pair.sides[1].peers[0].cut = false;
    pair.pass(120 * SECOND);
    let [sa] = &pair.sides[1].sas()[..] else { panic!("one IKE SA") };
    assert!(sa.spi != old && sa.children.len() == 1 && sa.children[0].state == "installed", "{sa:?}");
    let [peer] = &pair.sides[1].peers[..] else { panic!("one peer") };
    let (ours, theirs) = (pair.sides[1].children.keys(), peer.children.values());
    assert!(ours.map(|spi| spi.get()).eq(theirs.map(|child| child.spi_out)), "both ends have the same child SA");
}

/// It was called while the old owner might have served it, and answers both the call and what it was asked before.
#[test]
fn a_successor_that_dies_between_such_a_call_and_its_end_leaves_one_tunnel() {
    let mut pair = left_behind();
    pair.sides[0].peers[0].cut = true;
    succeed(&mut pair);
    pair.pass(12 * SECOND);
    pair.revive(0);
    pair.pass(SECOND);
    pair.sides[1].peers[0].cut = false;
    die_between_a_call_and_its_end(&mut pair, 40 * SECOND);
}
