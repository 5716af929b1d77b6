//! A child SA that IKE deletes stays with its worker until no copy knows it: packets of it may wait for the store.

use std::time::Duration;

use vipsec_esp::sa::Spi;

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
