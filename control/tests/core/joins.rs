//! A copy that is filled while everything else goes on, and what an IKE message costs once it is there.

use std::sync::atomic::Ordering;
use std::time::Duration;

use vipsec_control::api::{Request, Response};

use super::ladder::{established, take_over};
use super::pair::Pair;

const SECOND: Duration = Duration::from_secs(1);

fn copy_state(pair: &mut Pair) -> Option<String> {
    match pair.sides[0].ask(Request::Status) {
        Ok(Response::Status(status)) => status.vips[0].copy.clone(),
        other => panic!("{other:?}"),
    }
}

/// All in one go, a hundred thousand SAs would keep heartbeats from leaving for longer than a deadline.
#[test]
fn a_join_goes_slice_by_slice_and_its_mark_comes_last() {
    const COUNT: u32 = 1000;
    let mut pair = established(COUNT, "");
    pair.cut_link();
    pair.pass(SECOND);
    let is_free = |pair: &Pair| pair.sides[0].horizons.values().filter(|horizon| **horizon == u64::MAX).count();
    assert_eq!(is_free(&pair), COUNT as usize, "nobody has a copy");
    let before = pair.sides[0].writes.records.load(Ordering::Relaxed);
    pair.link();
    pair.pass(SECOND);
    assert_eq!(copy_state(&mut pair).as_deref(), Some("counted"));
    let writes = &pair.sides[0].writes;
    let copied = writes.records.load(Ordering::Relaxed) - before;
    assert!(copied >= u64::from(2 * COUNT), "{copied} records: each IKE SA has a child SA");
    assert!(writes.most_in_step() <= 160, "{} records in one step", writes.most_in_step());
    assert_eq!(is_free(&pair), 0, "each is bound");
    take_over(&mut pair);
    assert_eq!(pair.sides[1].children.len(), COUNT as usize);
}

/// What an IKE SA is told while a join is under way is in the copy, too.
#[test]
fn what_changes_during_a_join_is_copied_as_it_is_then() {
    const COUNT: u32 = 300;
    let mut pair = established(COUNT, "");
    pair.cut_link();
    pair.pass(SECOND);
    pair.link();
    // The first and the last ones: some of them are copied already.
    let ids: Vec<_> = pair.sides[0].sas().iter().map(|sa| sa.spi).collect();
    for spi in [ids[0], ids[COUNT as usize / 2], ids[COUNT as usize - 1]] {
        pair.ask(0, Request::RekeyIke { spi });
    }
    pair.ask(0, Request::Delete { spi: ids[1] });
    pair.pass(SECOND);
    assert_eq!(copy_state(&mut pair).as_deref(), Some("counted"));
    let left: Vec<_> = pair.sides[0].sas().iter().map(|sa| sa.spi).collect();
    assert_eq!(left.len(), COUNT as usize - 1);
    take_over(&mut pair);
    pair.pass(SECOND);
    let mut inherited: Vec<_> = pair.sides[1].sas().iter().map(|sa| sa.spi).collect();
    inherited.sort_by_key(|spi| spi.0);
    let mut expected = left;
    expected.sort_by_key(|spi| spi.0);
    assert_eq!(inherited, expected);
}

/// Over a network each is a few writes of its own: who is in hand, and then, together, what came of it and that nobody is.
#[test]
fn an_ike_message_is_two_batches_in_the_store() {
    let mut pair = established(1, "");
    let now = pair.now();
    let before = pair.sides[0].writes.batches.load(Ordering::Relaxed);
    let peer = &mut pair.sides[0].peers[0].endpoint;
    let id = peer.sas(now).next().unwrap().id;
    peer.check_liveness(id, now).unwrap();
    pair.sides[0].run();
    assert_eq!(pair.sides[0].writes.batches.load(Ordering::Relaxed) - before, 2);
}

/// Across a network nothing else tells that an acknowledgement has come: a message would wait for the next tick.
#[test]
fn a_message_that_waits_for_a_far_copy_leaves_with_the_next_look_at_it() {
    let mut pair = established(1, "");
    assert!(!pair.sides[0].core.awaits_acknowledgements());
    let now = pair.now();
    pair.delay_acknowledgements(0, true);
    let peer = &mut pair.sides[0].peers[0].endpoint;
    let id = peer.sas(now).next().unwrap().id;
    peer.check_liveness(id, now).unwrap();
    pair.sides[0].run();
    let is_answered = |pair: &Pair| pair.sides[0].peers[0].endpoint.standings(|_| true).iter().all(|it| !it.busy);
    assert!(!is_answered(&pair) && pair.sides[0].core.awaits_acknowledgements());
    pair.delay_acknowledgements(0, false);
    pair.sides[0].core.handle_acknowledgements(now);
    pair.sides[0].run();
    assert!(is_answered(&pair) && !pair.sides[0].core.awaits_acknowledgements());
}
