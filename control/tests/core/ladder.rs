//! In which ways inherited IKE SAs go on, in which order, and how fast.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use vipsec_control::api::Request;
use vipsec_dataplane::api::{Event, Numbers};
use vipsec_esp::sa::Spi;

use super::bench::{Peer, connection, peer_policy};
use super::pair::Pair;

const SECOND: Duration = Duration::from_secs(1);
const FAR: &str = "198.51.100.7";

/// The first appliance has a remote peer with that many IKE SAs.
pub(crate) fn established(count: u32, more: &str) -> Pair {
    let limits = "[ike.limits]\nike_sas_per_peer_max = 20000\n";
    let mut pair = Pair::with_room(&format!("{}{limits}{more}", connection("branch", FAR, 9, "")), 2 * count + 32);
    pair.sides[0].peers.push(Peer::new(1, peer_policy("branch", FAR, 9)));
    for _ in 0..count {
        let now = pair.now();
        pair.sides[0].peers[0].endpoint.initiate("vip", "net", now).unwrap();
        pair.sides[0].run();
    }
    pair.pass(Duration::from_millis(50));
    assert_eq!(pair.sides[0].children.len(), count as usize);
    pair
}

/// The owner dies; the second one serves. Its remote peer isn't there.
pub(crate) fn take_over(pair: &mut Pair) -> Option<Peer> {
    pair.kill(0);
    pair.in_earshot = false;
    while !pair.sides[1].core.is_serving() {
        pair.pass(Duration::from_millis(5));
    }
    pair.sides[0].peers.pop()
}

pub(crate) fn expected(ways: &[(&str, &str, u64)]) -> Vec<(String, String, u64)> {
    ways.iter().map(|(way, reason, count)| ((*way).to_owned(), (*reason).to_owned(), *count)).collect()
}

/// How often the successor took that way.
pub(crate) fn counted(pair: &Pair, way: &str) -> u64 {
    pair.sides[1].core.counter_sums().counters[&format!("takeover_{way}")]
}

/// IKE SAs, by the SPIs in their messages, in the order in which they were first heard; and when.
fn heard(pair: &mut Pair, known: &mut BTreeSet<Vec<u8>>) -> Vec<(Instant, Vec<u8>)> {
    let now = pair.now();
    let messages = std::mem::take(&mut pair.sides[1].unheard);
    let spis = messages.into_iter().map(|datagram| datagram.payload[..16].to_vec());
    spis.filter(|spis| known.insert(spis.clone())).map(|spis| (now, spis)).collect()
}

#[test]
fn ten_thousand_ike_sas_are_dealt_with_at_the_rate_and_those_with_traffic_first() {
    const COUNT: u32 = 10_000;
    const RATE: u32 = 5000;
    let mut pair = established(COUNT, "");
    take_over(&mut pair);
    assert_eq!(pair.sides[1].children.len(), COUNT as usize, "all of them carry packets at once");
    pair.pass(Duration::from_millis(5));
    // Every hundredth does.
    let busy: BTreeSet<Spi> = pair.sides[1].children.keys().step_by(100).copied().collect();
    for spi in &busy {
        pair.sides[1].hear(0, Event::Alive(*spi));
    }
    let (mut known, mut turns, start) = (BTreeSet::new(), Vec::new(), pair.now());
    // IKE is given them a few at a time.
    let mut sas = pair.sides[1].sas();
    while sas.len() < COUNT as usize {
        assert!(pair.now() < start + SECOND, "{} IKE SAs", sas.len());
        pair.pass(Duration::from_millis(5));
        sas = pair.sides[1].sas();
    }
    assert_eq!(pair.sides[1].takeover(), expected(&[("keep", "trusted copy", COUNT.into())]));
    assert_eq!(counted(&pair, "keep"), u64::from(COUNT));
    let carries = |sa: &&vipsec_control::api::IkeSa| busy.contains(&Spi::new(sa.children[0].spi_in.0).unwrap());
    let busy: BTreeSet<_> = sas.iter().filter(carries).map(|sa| sa.spi.0.to_be_bytes()).collect();
    assert_eq!(busy.len(), COUNT as usize / 100);
    while turns.len() < COUNT as usize {
        pair.pass(Duration::from_millis(5));
        turns.extend(heard(&mut pair, &mut known));
        assert!(pair.now() < start + 10 * SECOND, "{} turns", turns.len());
    }
    let is_busy = |spis: &Vec<u8>| spis.chunks(8).any(|spi| busy.iter().any(|known| known == spi));
    assert!(turns.iter().take(busy.len()).all(|(_, spis)| is_busy(spis)), "those with traffic come first");
    // No more in any tenth of a second than the rate allows, arrears included.
    let mut per_tenth = BTreeMap::<u128, u32>::new();
    for (at, _) in &turns {
        *per_tenth.entry((*at - start).as_millis() / 100).or_default() += 1;
    }
    let most = *per_tenth.values().max().unwrap();
    assert!(most <= RATE / 10 + RATE / 50, "{most} in a tenth of a second");
}

#[test]
fn a_peer_is_asked_to_skip_the_numbers_that_count_as_seen() {
    let mut pair = established(1, "");
    let spi = *pair.sides[0].children.keys().next().unwrap();
    let numbers = Numbers { spi, edge: 10, horizon_wanted: 100, sent: 0, lease_wanted: 4096 };
    pair.sides[0].hear(0, Event::Numbers(numbers));
    let peer = take_over(&mut pair).unwrap();
    assert_eq!(pair.sides[1].takeover(), expected(&[("replay sync", "numbers ahead of the peer", 1)]));
    assert_eq!(pair.sides[1].sas()[0].takeover.as_deref(), Some("replay sync (numbers ahead of the peer)"));
    pair.sides[1].peers.push(peer);
    pair.pass(SECOND);
    assert_eq!(pair.sides[1].peers[0].skips, [90]);
    let after = pair.sides[1].sas();
    assert_eq!((after.len(), after[0].takeover.as_deref()), (1, None), "rekeyed, and through with it");
    assert_eq!([counted(&pair, "replay_sync"), counted(&pair, "keep")], [1, 0]);
}

/// So many IKE SAs of before the second appliance lost its floor, one of which was rekeyed since.
fn established_before_the_floor_was_lost(count: u32) -> Pair {
    let mut pair = established(count, "");
    pair.kill(1);
    pair.revive_with_a_new_disk(1);
    pair.pass(SECOND);
    let now = pair.now();
    let peer = &mut pair.sides[0].peers[0].endpoint;
    let rekeyed = peer.sas(now).next().unwrap().id;
    peer.rekey_ike(rekeyed, now).unwrap();
    pair.pass(SECOND);
    pair
}

/// The successor dies as soon as the peer has answered its call, before it has deleted what that replaces. One tunnel is left.
pub(crate) fn die_between_a_call_and_its_end(pair: &mut Pair, patience: Duration) {
    let start = pair.now();
    let is_called = |pair: &mut Pair| pair.sides[1].sas().iter().any(|sa| sa.initiator && sa.children.len() == 1);
    while !is_called(pair) {
        pair.pass(Duration::from_millis(5));
        assert!(pair.now() < start + patience, "{:?}", pair.sides[1].sas());
    }
    pair.kill(1);
    let peer = pair.sides[1].peers.pop().unwrap();
    pair.sides[0].peers.push(peer);
    while !pair.sides[0].core.is_serving() {
        pair.pass(Duration::from_millis(1));
    }
    pair.revive(1);
    pair.pass(patience);
    assert_eq!((pair.sides[0].sas().len(), pair.sides[0].children.len()), (1, 1));
    assert_eq!(pair.sides[0].peers[0].children.len(), 1);
}

/// It may have used them itself, under an epoch that it forgot with its floor (I1): a child SA of before stays shut until it is rekeyed, and
/// the peer of an IKE SA of before is called.
#[test]
fn keys_that_are_older_than_an_appliances_floor_are_replaced_and_not_used() {
    let mut pair = established_before_the_floor_was_lost(2);
    let before: BTreeSet<u32> = pair.sides[0].children.keys().map(|spi| spi.get()).collect();
    let peer = take_over(&mut pair).unwrap();
    let why = "born before the floor was lost";
    assert_eq!(pair.sides[1].takeover(), expected(&[("rekey", why, 1), ("renegotiate", why, 1)]));
    assert_eq!(pair.sides[1].opened_with, Some(0), "none of their child SAs is there when the VIP opens");
    pair.sides[1].peers.push(peer);
    pair.pass(SECOND);
    let after = pair.sides[1].sas();
    assert_eq!(after.iter().map(|sa| sa.children.len()).collect::<Vec<_>>(), [1, 1]);
    let carry = pair.sides[1].children.keys().map(|spi| spi.get()).collect::<BTreeSet<_>>();
    assert!(carry.len() == 2 && carry.is_disjoint(&before), "{carry:?}, {before:?}");
    assert_eq!(["keep", "rekey", "renegotiate"].map(|way| counted(&pair, way)), [0, 1, 1]);
}

/// A peer that was silent for long has been called when it answers: both what it was asked before and the call. The one who called dies
/// before it has deleted what the call replaces.
#[test]
fn a_successor_that_dies_between_a_call_for_want_of_an_answer_and_its_end_leaves_one_tunnel() {
    let mut pair = established_before_the_floor_was_lost(1);
    let mut peer = take_over(&mut pair).unwrap();
    peer.cut = true;
    pair.sides[1].peers.push(peer);
    pair.revive(0);
    pair.pass(11 * SECOND);
    assert_eq!(pair.sides[1].takeover(), expected(&[("renegotiate", "no answer", 1)]));
    pair.sides[1].peers[0].cut = false;
    die_between_a_call_and_its_end(&mut pair, 20 * SECOND);
}

#[test]
fn what_the_policy_has_renegotiated_is_said_and_counted() {
    let mut pair = Pair::renegotiating(&connection("branch", FAR, 9, ""));
    pair.sides[0].peers.push(Peer::new(1, peer_policy("branch", FAR, 9)));
    pair.ask(0, Request::Initiate { connection: "branch".to_owned(), child: None });
    pair.pass(SECOND);
    take_over(&mut pair);
    assert_eq!(pair.sides[1].takeover(), expected(&[("renegotiate", "policy", 1)]));
    assert_eq!(counted(&pair, "renegotiate"), 1);
}

#[test]
fn a_peer_that_does_not_answer_a_synchronisation_is_called_anew() {
    let mut pair = established(1, "");
    let old = pair.sides[0].sas()[0].spi;
    pair.cut_link();
    // Longer than trust lasts.
    pair.pass(SECOND);
    let peer = take_over(&mut pair).unwrap();
    assert_eq!(pair.sides[1].takeover(), expected(&[("message-id sync", "copy not trusted", 1)]));
    // Nobody hears it. The old owner may be serving the peer, as long as nothing proves it dead: it is called, and its IKE SA stays.
    pair.pass(30 * SECOND);
    assert_eq!(pair.sides[1].takeover(), expected(&[("renegotiate", "no answer", 1)]));
    assert!(pair.sides[1].sas().iter().any(|sa| sa.spi == old));
    pair.revive(0);
    pair.sides[1].peers.push(peer);
    // Once the new one carries traffic, or might, the old one goes, the next time that it is asked.
    pair.pass(40 * SECOND);
    let [sa] = &pair.sides[1].sas()[..] else { panic!("one IKE SA") };
    assert!(sa.spi != old && sa.initiator && sa.children.len() == 1, "{sa:?}");
    assert_eq!(pair.sides[1].children.len(), 1);
    assert_eq!(pair.sides[1].takeover(), expected(&[("renegotiate", "no answer", 1)]));
    assert_eq!(["message_id_sync", "renegotiate"].map(|way| counted(&pair, way)), [1, 1], "each way that was tried");
}

#[test]
fn a_peer_that_cannot_be_reached_at_all_is_lost_and_that_is_said() {
    let mut pair = established(1, "");
    pair.cut_link();
    pair.pass(SECOND);
    take_over(&mut pair);
    // Longer than its old owner may be serving it, and a call with all its retransmissions takes.
    pair.pass(1200 * SECOND);
    assert_eq!(pair.sides[1].takeover(), expected(&[("lost", "no answer", 1)]));
    assert_eq!(counted(&pair, "lost"), 1);
    assert!(pair.sides[1].sas().is_empty());
}

#[test]
fn an_operator_sees_how_many_still_wait() {
    let mut pair = established(20, "");
    take_over(&mut pair);
    let waiting = |pair: &mut Pair| match pair.sides[1].ask(Request::Status) {
        Ok(vipsec_control::api::Response::Status(status)) => status.vips[0].takeover.clone().unwrap().waiting,
        other => panic!("{other:?}"),
    };
    assert_eq!(waiting(&mut pair), 20);
    pair.pass(SECOND);
    assert_eq!(waiting(&mut pair), 0);
}
