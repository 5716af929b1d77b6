//! The operator's orders to move a VIP, and what they are answered; and the last of them, that the process end.

use std::time::Duration;

use vipsec_control::api::{ApiError, ErrorKind, Moved, Request, Response};
use vipsec_takeover::decider::{Copy, Fitness};
use vipsec_takeover::message::VERSION_NEWEST;

use super::moves::{fail_over, serves};
use super::pair::Pair;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// The VIP shall be at the appliance of that id: where it is then, and under which epoch.
fn order(pair: &mut Pair, at: usize, to: &str) -> Result<Moved, ApiError> {
    let order = Request::MoveVip { vip: "web".to_owned(), to: to.to_owned() };
    pair.order(at, order).map(|answer| match answer {
        Response::Done { moved: Some(moved) } => moved,
        other => panic!("{other:?}"),
    })
}

#[test]
fn an_order_is_answered_when_the_vip_is_there() {
    // Given at the owner, and at the one that is to have it.
    for at in [0, 1] {
        let mut pair = Pair::new("");
        let epoch = pair.sides[0].core.ownership_status(pair.now(), 0).unwrap().seen.0;
        let moved = order(&mut pair, at, "2").unwrap();
        assert_eq!(
            moved,
            Moved { vips: vec!["web".to_owned()], appliance: 2, name: moved.name.clone(), epoch: epoch + 1 }
        );
        assert_eq!(serves(&pair), [false, true]);
        let again = order(&mut pair, at, "2").unwrap_err();
        assert_eq!((again.kind, again.message.as_str()), (ErrorKind::Refused, "it is there already"));
    }
}

/// It is told to take it and doesn't, for its data link went down after its last beat.
#[test]
fn an_order_that_nobody_takes_is_answered_when_the_vip_stays() {
    let mut pair = Pair::new("");
    pair.sides[1].core.handle_health(Fitness::LinkDown);
    let error = order(&mut pair, 0, "2").unwrap_err();
    assert!(error.message.contains("did not take it over, it stays here"), "{error}");
    pair.pass(100 * MS);
    assert_eq!(serves(&pair), [true, false]);
}

#[test]
fn an_order_that_cannot_be_carried_out_is_refused_with_its_reason() {
    let mut pair = Pair::new("");
    pair.sides[1].core.handle_health(Fitness::LinkDown);
    pair.pass(20 * MS);
    for at in [0, 1] {
        let error = order(&mut pair, at, "2").unwrap_err();
        assert_eq!(error.kind, ErrorKind::Refused);
        assert!(error.message.contains("its new owner can't serve"), "{error}");
    }
    pair.cut_link();
    pair.pass(SECOND);
    let error = order(&mut pair, 0, "2").unwrap_err();
    assert!(error.message.contains("store link between the two appliances is down"), "{error}");
    assert_eq!(order(&mut pair, 0, "3").unwrap_err().kind, ErrorKind::NotFound);
    assert_eq!(serves(&pair), [true, false]);
}

/// As far as its owner knows it can't serve: its next beat will say that it can.
fn fetched_too_soon(owners_release: u16) -> ApiError {
    let mut pair = Pair::of_releases([owners_release, VERSION_NEWEST], "");
    pair.sides[1].core.handle_health(Fitness::LinkDown);
    pair.pass(20 * MS);
    pair.sides[1].core.handle_health(Fitness::Fit);
    let error = order(&mut pair, 1, "2").unwrap_err();
    assert_eq!(serves(&pair), [true, false]);
    error
}

#[test]
fn who_fetches_a_vip_hears_why_its_owner_keeps_it() {
    let error = fetched_too_soon(VERSION_NEWEST);
    assert_eq!(error.kind, ErrorKind::Refused);
    assert!(error.message.contains("doesn't hand it over: its new owner can't serve"), "{error}");
    // An older release doesn't say.
    let error = fetched_too_soon(3);
    assert_eq!(error.kind, ErrorKind::Timeout);
    assert!(error.message.contains("not taken within 3 s"), "{error}");
}

fn is_held(pair: &mut Pair, side: usize) -> bool {
    match pair.sides[side].ask(Request::Status) {
        Ok(Response::Status(status)) => status.vips[0].held_s.is_some(),
        other => panic!("{other:?}"),
    }
}

/// What is held is released by a move that has begun.
#[test]
fn an_order_that_is_refused_releases_no_vip_that_moved_too_often() {
    let mut pair = Pair::with_peer("moves_max = 2\nmoves_window = \"60s\"\nmoves_hold = \"100s\"");
    for from in [0, 1] {
        fail_over(&mut pair, from, Fitness::WorkerStuck);
    }
    assert_eq!(serves(&pair), [true, false]);
    assert!(is_held(&mut pair, 0));
    pair.sides[1].core.handle_health(Fitness::LinkDown);
    pair.pass(20 * MS);
    for at in [0, 1] {
        order(&mut pair, at, "2").unwrap_err();
    }
    assert!(is_held(&mut pair, 0));
}

/// It was released when the move began.
#[test]
fn an_order_that_nobody_takes_leaves_a_vip_held_that_moved_too_often() {
    let mut pair = Pair::with_peer("moves_max = 2\nmoves_window = \"60s\"\nmoves_hold = \"100s\"");
    for from in [0, 1] {
        fail_over(&mut pair, from, Fitness::WorkerStuck);
    }
    assert_eq!([0, 1].map(|side| is_held(&mut pair, side)), [true; 2]);
    pair.sides[1].core.handle_health(Fitness::LinkDown);
    order(&mut pair, 0, "2").unwrap_err();
    assert_eq!(serves(&pair), [true, false]);
    pair.pass(100 * MS);
    assert_eq!([0, 1].map(|side| is_held(&mut pair, side)), [true; 2], "at both appliances");
    pair.pass(100 * SECOND);
    assert_eq!([0, 1].map(|side| is_held(&mut pair, side)), [false; 2], "and for no longer than it was");
}

/// A pair whose backup has just come, and whose copy takes its time.
fn joining() -> Pair {
    let mut pair = Pair::new("");
    pair.cut_link();
    pair.pass(SECOND);
    pair.delay_acknowledgements(0, true);
    pair.link();
    pair.pass(100 * MS);
    let status = pair.sides[0].core.ownership_status(pair.now(), 0).unwrap();
    assert_eq!(status.peers[0].copy, Copy::Joining);
    pair
}

fn end(pair: &mut Pair) {
    let now = pair.now();
    pair.sides[0].core.handle_shutdown(now);
    pair.sides[0].run();
}

#[test]
fn an_owner_that_ends_waits_for_a_copy_that_is_being_filled() {
    let mut pair = joining();
    end(&mut pair);
    pair.pass(500 * MS);
    assert!(!pair.sides[0].has_ended && serves(&pair)[0], "it serves on meanwhile");
    pair.delay_acknowledgements(0, false);
    pair.pass(500 * MS);
    assert!(pair.sides[0].has_ended);
    assert_eq!(serves(&pair), [false, true]);
}

#[test]
fn an_owner_that_ends_does_not_wait_for_ever() {
    let mut pair = joining();
    end(&mut pair);
    pair.pass(1900 * MS);
    assert!(!pair.sides[0].has_ended);
    pair.pass(200 * MS);
    assert!(pair.sides[0].has_ended);
    // Whoever tells it twice means it.
    let mut pair = joining();
    end(&mut pair);
    end(&mut pair);
    assert!(pair.sides[0].has_ended);
}

#[test]
fn an_owner_whose_backup_is_gone_or_cannot_serve_ends_at_once() {
    let mut pair = Pair::new("");
    pair.cut_link();
    pair.pass(SECOND);
    end(&mut pair);
    assert!(pair.sides[0].has_ended);
    let mut pair = Pair::new("");
    pair.sides[1].core.handle_health(Fitness::WorkerStuck);
    pair.pass(20 * MS);
    end(&mut pair);
    assert!(pair.sides[0].has_ended);
}
