//! A child SA that IKE deletes stays with its worker until no copy knows it: packets of it may wait for the store. One that was replaced
//! stays for a moment longer: packets of it may still be on their way.

use std::time::Duration;

use vipsec_esp::sa::Spi;
use vipsec_takeover::decider::Fitness;

use super::ladder::established;
use super::pair::Pair;

/// The peer deletes its only child SA, and what the owner writes then isn't acknowledged yet.
fn deleted() -> (Pair, Spi) {
    let mut pair = established(1, "");
    let now = pair.now();
    let (spi, _) = pair.sides[0].children.first_key_value().unwrap();
    let spi = *spi;
    pair.delay_acknowledgements(0, true);
    let peer = &mut pair.sides[0].peers[0];
    let (theirs, _) = peer.children.first_key_value().unwrap();
    peer.endpoint.delete_child(*theirs, now).unwrap();
    pair.sides[0].run();
    (pair, spi)
}

#[test]
fn what_waits_for_the_store_is_delivered_when_its_child_sa_is_deleted() {
    let (mut pair, spi) = deleted();
    let owner = &pair.sides[0];
    assert!(owner.children.contains_key(&spi) && owner.horizons.get(&spi) != Some(&u64::MAX));
    pair.delay_acknowledgements(0, false);
    let now = pair.now();
    pair.sides[0].core.handle_acknowledgements(now);
    pair.sides[0].run();
    let owner = &pair.sides[0];
    // Granted while it was there.
    assert!(!owner.children.contains_key(&spi) && owner.horizons.get(&spi) == Some(&u64::MAX));
}

/// Its heir may have that child SA, and its packets.
#[test]
fn an_owner_that_is_deposed_delivers_nothing_of_a_deleted_child_sa() {
    let (mut pair, spi) = deleted();
    // It sleeps.
    pair.sides[1].pass(Duration::from_millis(200));
    assert!(pair.sides[1].core.is_serving());
    pair.pass(Duration::from_millis(50));
    let slept = &pair.sides[0];
    assert!(!slept.core.is_serving());
    assert!(!slept.children.contains_key(&spi) && slept.horizons.get(&spi) != Some(&u64::MAX));
}

/// The peer has replaced its only child SA, and deleted it.
fn replaced() -> (Pair, Spi) {
    let mut pair = established(1, "");
    let now = pair.now();
    let (spi, _) = pair.sides[0].children.first_key_value().unwrap();
    let spi = *spi;
    let peer = &mut pair.sides[0].peers[0];
    let (theirs, _) = peer.children.first_key_value().unwrap();
    peer.endpoint.rekey_child(*theirs, now).unwrap();
    pair.pass(Duration::from_millis(5));
    assert_eq!(pair.sides[0].peers[0].children.len(), 1);
    (pair, spi)
}

/// An old owner may pass on what it held: the message that deletes its child SA may come before it.
#[test]
fn what_comes_late_for_a_replaced_child_sa_is_delivered() {
    let (mut pair, spi) = replaced();
    let owner = &pair.sides[0];
    assert!(owner.children.contains_key(&spi) && owner.horizons.get(&spi) == Some(&u64::MAX));
    pair.pass(Duration::from_millis(200));
    let owner = &pair.sides[0];
    assert!(!owner.children.contains_key(&spi) && owner.children.len() == 1);
}

/// Its successor doesn't have it, and who gets the VIP back has nothing of before.
#[test]
fn a_child_sa_that_lingers_goes_with_its_vip() {
    let (mut pair, spi) = replaced();
    pair.sides[0].core.handle_health(Fitness::LinkDown);
    pair.pass(Duration::from_millis(30));
    assert!(pair.sides[1].core.is_serving());
    assert!(!pair.sides[0].children.contains_key(&spi) && !pair.sides[1].children.contains_key(&spi));
}

/// What leaves goes by the newest that there is.
#[test]
fn a_child_sa_that_lingers_carries_nothing_on_for_one_that_ends() {
    let (mut pair, _) = replaced();
    let now = pair.now();
    let peer = &mut pair.sides[0].peers[0];
    let (theirs, _) = peer.children.first_key_value().unwrap();
    peer.endpoint.delete_child(*theirs, now).unwrap();
    pair.pass(Duration::from_millis(5));
    assert!(pair.sides[0].children.is_empty());
}
