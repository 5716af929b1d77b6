//! VIPs that move by themselves: given back, or held because they moved too often.

use std::time::Duration;

use vipsec_control::api::{Request, Response};
use vipsec_takeover::decider::Fitness;

use super::pair::Pair;

const SECOND: Duration = Duration::from_secs(1);

/// Which of the two serves.
pub(crate) fn serves(pair: &Pair) -> [bool; 2] {
    [0, 1].map(|side| pair.sides[side].core.is_serving())
}

/// For how long the VIP is held, as an appliance sees it.
fn held(pair: &mut Pair, side: usize) -> Option<u64> {
    match pair.sides[side].ask(Request::Status) {
        Ok(Response::Status(status)) => status.vips[0].held_s,
        other => panic!("{other:?}"),
    }
}

/// The owner can't serve for that reason, though it lives: the other one serves, and the two pair anew.
pub(crate) fn fail_over(pair: &mut Pair, from: usize, because: Fitness) {
    pair.sides[from].core.handle_health(because);
    pair.pass(SECOND);
    pair.sides[from].core.handle_health(Fitness::Fit);
    pair.link();
    pair.pass(2 * SECOND);
}

/// Its worker is stuck, or a data link is down: it can't renew its deadline, and has nothing to ask.
#[test]
fn an_owner_that_lives_and_cannot_serve_is_succeeded() {
    let mut pair = Pair::new("");
    fail_over(&mut pair, 0, Fitness::WorkerStuck);
    assert_eq!(serves(&pair), [false, true]);
}

/// Its backup hears of it before its silence would tell: and it is no order of the operator's.
#[test]
fn an_owner_whose_data_link_goes_down_hands_over_and_gets_it_back() {
    let mut pair = Pair::with_vip("give_back = \"10s\"", "");
    pair.sides[0].core.handle_health(Fitness::LinkDown);
    pair.pass(Duration::from_millis(30));
    assert_eq!(serves(&pair), [false, true]);
    pair.link();
    pair.pass(20 * SECOND);
    assert_eq!(serves(&pair), [false, true], "its link is down");
    pair.sides[0].core.handle_health(Fitness::Fit);
    pair.pass(12 * SECOND);
    assert_eq!(serves(&pair), [true, false]);
}

/// One whose data links flap is held, too.
#[test]
fn a_vip_that_was_handed_over_too_often_because_of_data_links_is_held() {
    let mut pair = Pair::with_peer("moves_max = 2\nmoves_window = \"60s\"\nmoves_hold = \"100s\"");
    for from in [0, 1] {
        fail_over(&mut pair, from, Fitness::LinkDown);
        assert_eq!(serves(&pair), [from == 1, from == 0]);
    }
    assert!(held(&mut pair, 0).is_some() && held(&mut pair, 1).is_some());
    pair.sides[0].core.handle_health(Fitness::LinkDown);
    pair.pass(5 * SECOND);
    assert!(!pair.sides[1].core.is_serving());
}

#[test]
fn an_owner_that_could_not_serve_for_a_moment_goes_on() {
    let mut pair = Pair::new("");
    pair.sides[0].core.handle_health(Fitness::WorkerStuck);
    pair.pass(Duration::from_millis(40));
    pair.sides[0].core.handle_health(Fitness::Fit);
    pair.pass(SECOND);
    assert_eq!(serves(&pair), [true, false]);
}

/// A pair whose VIP has moved there and back, which is too often.
fn flapping() -> Pair {
    let mut pair = Pair::with_peer("moves_max = 2\nmoves_window = \"60s\"\nmoves_hold = \"100s\"");
    for from in [0, 1] {
        assert_eq!(held(&mut pair, 1 - from), None);
        fail_over(&mut pair, from, Fitness::WorkerStuck);
        assert_eq!(serves(&pair), [from == 1, from == 0]);
    }
    assert!(held(&mut pair, 1).is_some_and(|seconds| (90..100).contains(&seconds)));
    pair
}

#[test]
fn a_vip_that_moved_too_often_stays_with_an_owner_that_lives() {
    let mut pair = flapping();
    pair.sides[0].core.handle_health(Fitness::WorkerStuck);
    pair.pass(5 * SECOND);
    assert!(!pair.sides[1].core.is_serving(), "held");
    pair.pass(100 * SECOND);
    assert!(pair.sides[1].core.is_serving(), "time has released it");
}

#[test]
fn a_vip_that_moved_too_often_leaves_a_dead_owner() {
    let mut pair = flapping();
    pair.kill(0);
    pair.pass(SECOND);
    assert!(pair.sides[1].core.is_serving());
}

/// Each appliance that can't serve is started anew, so that no process has seen all of it.
#[test]
fn a_vip_that_moved_too_often_is_held_though_every_process_is_new() {
    let mut pair = Pair::with_peer("moves_max = 3\nmoves_window = \"60s\"\nmoves_hold = \"100s\"");
    for from in [0, 1, 0] {
        assert_eq!(held(&mut pair, 1 - from), None);
        pair.sides[from].core.handle_health(Fitness::WorkerStuck);
        pair.pass(SECOND);
        assert!(pair.sides[1 - from].core.is_serving());
        pair.kill(from);
        pair.revive(from);
        pair.pass(3 * SECOND);
    }
    assert!([0, 1].into_iter().all(|side| held(&mut pair, side).is_some_and(|seconds| (90..100).contains(&seconds))));
    pair.sides[1].core.handle_health(Fitness::WorkerStuck);
    pair.pass(5 * SECOND);
    assert!(!pair.sides[0].core.is_serving(), "held");
}

#[test]
fn the_operators_move_releases_a_vip_at_both_appliances() {
    let mut pair = flapping();
    pair.ask(1, Request::MoveVip { vip: "web".to_owned(), to: "2".to_owned() });
    pair.pass(SECOND);
    assert_eq!(serves(&pair), [false, true]);
    assert_eq!([held(&mut pair, 0), held(&mut pair, 1)], [None, None]);
    pair.link();
    pair.pass(SECOND);
    fail_over(&mut pair, 1, Fitness::WorkerStuck);
    assert_eq!(serves(&pair), [true, false], "it moves by itself again");
}

#[test]
fn a_vip_goes_back_when_its_first_choice_has_had_a_copy_for_a_while() {
    let mut pair = Pair::with_vip("give_back = \"10s\"", "");
    pair.kill(0);
    pair.pass(SECOND);
    assert!(pair.sides[1].core.is_serving());
    pair.revive(0);
    pair.pass(9 * SECOND);
    assert_eq!(serves(&pair), [false, true]);
    pair.pass(3 * SECOND);
    assert_eq!(serves(&pair), [true, false]);
    pair.link();
    pair.pass(60 * SECOND);
    assert_eq!(serves(&pair), [true, false], "where it belongs");
}

/// Its copy counts, and it would ignore the order: without this the VIP stood still each time.
#[test]
fn a_vip_does_not_go_back_to_a_first_choice_that_cannot_serve() {
    let mut pair = Pair::with_vip("give_back = \"10s\"", "");
    fail_over(&mut pair, 0, Fitness::WorkerStuck);
    pair.sides[0].core.handle_health(Fitness::WorkerStuck);
    for _ in 0..6000 {
        pair.pass(Duration::from_millis(10));
        assert_eq!(serves(&pair), [false, true]);
    }
    pair.sides[0].core.handle_health(Fitness::Fit);
    pair.pass(12 * SECOND);
    assert_eq!(serves(&pair), [true, false]);
}

#[test]
fn a_vip_that_the_operator_moved_does_not_go_back_by_itself() {
    let mut pair = Pair::with_vip("give_back = \"10s\"", "");
    pair.ask(0, Request::MoveVip { vip: "web".to_owned(), to: "2".to_owned() });
    pair.pass(SECOND);
    pair.link();
    pair.pass(60 * SECOND);
    assert_eq!(serves(&pair), [false, true]);
    // Its first choice begins anew: that it went away by order is long ago.
    pair.kill(0);
    pair.revive(0);
    pair.pass(20 * SECOND);
    assert_eq!(serves(&pair), [true, false]);
}

/// The heir was told to take it and didn't, for its data link went down after its last beat. What it takes later nobody has ordered.
#[test]
fn an_order_that_nobody_took_does_not_keep_a_vip_from_going_back() {
    let mut pair = Pair::with_vip("give_back = \"10s\"", "");
    pair.sides[1].core.handle_health(Fitness::LinkDown);
    let order = Request::MoveVip { vip: "web".to_owned(), to: "2".to_owned() };
    pair.order(0, order).expect_err("it stays where it is");
    pair.sides[1].core.handle_health(Fitness::Fit);
    pair.pass(SECOND);
    fail_over(&mut pair, 0, Fitness::WorkerStuck);
    assert_eq!(serves(&pair), [false, true]);
    pair.pass(12 * SECOND);
    assert_eq!(serves(&pair), [true, false]);
}

#[test]
fn a_vip_waits_for_the_operator_where_nothing_else_is_configured() {
    let mut pair = Pair::new("");
    pair.kill(0);
    pair.pass(SECOND);
    pair.revive(0);
    pair.pass(60 * SECOND);
    assert_eq!(serves(&pair), [false, true]);
    pair.ask(0, Request::MoveVip { vip: "web".to_owned(), to: "1".to_owned() });
    pair.pass(SECOND);
    assert_eq!(serves(&pair), [true, false]);
}
