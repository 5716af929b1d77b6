//! An owner that can't be sure that nobody has acted in its place (R7).

use super::*;

#[test]
fn an_owner_that_overslept_asks_and_goes_on_when_nobody_has_begun() {
    let mut world = World::settled();
    world.nodes[0].running = false;
    world.run(40 * MS);
    world.nodes[0].running = true;
    world.run(MS);
    assert!(!world.may_act(0), "stopped until the answer");
    world.run(20 * MS);
    assert!(world.may_act(0));
    assert!(world.nodes[0].stepped_down.is_empty() && world.nodes[1].activated.is_empty());
}

/// Its backup answers that it has not begun, but what it says besides was under way: the newest echo is as old as the sleep was long.
#[test]
fn an_owner_that_slept_gives_its_backup_the_time_to_have_heard_it() {
    let mut world = World::settled();
    world.now += 2 * Timing::default().trust;
    let (now, epoch) = (world.now, world.nodes[0].pair.status(world.now).seen.0);
    let owner = &mut world.nodes[0].pair;
    owner.handle_timeout(now);
    let nonce = std::iter::from_fn(|| owner.poll_action()).find_map(|action| match action {
        Action::Send { message: Message::Question { nonce }, .. } => Some(nonce),
        _ => None,
    });
    let status = GroupStatus { owned: false, epoch, holds_copy: true, revision: 0 };
    let beat = Message::Beat { stamp: u64::MAX, echo: Some(1), healthy: true, status };
    let answer = Message::Answer { nonce: nonce.expect("it asks"), begun: false };
    for message in [beat, answer] {
        owner.handle_message(now, id(1), &message);
    }
    owner.handle_timeout(now + Timing::default().interval);
    assert_eq!(world.copy(0), Copy::Counted);
}

/// It is in doubt and has asked. The answer, that nobody has begun, must not take back a move that was ordered after it was given.
#[test]
fn an_owner_in_doubt_hands_nothing_over() {
    let mut world = World::in_doubt();
    let owner = &mut world.nodes[0].pair;
    assert!(owner.question.is_some());
    assert_eq!(owner.order_move(), Err(NotMoved::InDoubt));
    world.nodes[0].running = true;
    world.run(20 * MS);
    assert!(world.may_act(0));
    world.nodes[0].pair.order_move().expect("once it is certain it does");
}

/// It asked because it had slept; the backup's last word is that it has not begun and never will.
#[test]
fn a_backup_that_gives_up_answers_the_question_whether_it_has_begun() {
    let mut world = World::settled();
    world.nodes[0].running = false;
    world.run(40 * MS);
    world.nodes[1].pair.retire();
    world.drain(1);
    world.kill(1);
    world.linked = true;
    let now = world.now;
    world.nodes[0].pair.handle_timeout(now);
    assert!(world.nodes[0].pair.question.is_some());
    world.nodes[0].pair.handle_message(now, id(1), &Message::GivenUp);
    world.nodes[0].running = true;
    world.run(20 * MS);
    assert!(world.may_act(0) && world.nodes[0].stepped_down.is_empty());
}

#[test]
fn an_owner_that_slept_while_it_left_a_copy_behind_gives_up() {
    let mut world = World::settled();
    world.link_works = false;
    world.cut(0);
    world.nodes[0].pair.handle_link_down(world.now);
    world.nodes[0].running = false;
    world.run(100 * MS);
    assert!(world.nodes[1].activated[0].1, "the backup acts on a copy that it trusts");
    // It dies before the owner wakes, and its advertisements are lost: nobody is there to tell.
    world.kill(1);
    world.adverts = Default::default();
    world.run(400 * MS);
    world.nodes[0].running = true;
    world.run(10 * MS);
    assert!(!world.may_act(0));
    assert_eq!(world.nodes[0].stepped_down, [StepDownReason::Uncertain]);
}

/// The owner outwaits the trust of a backup that it can't reach. If that one had judged its copy just before and slept since, it
/// must not act on it any more.
#[test]
fn what_was_resumed_and_not_told_anybody_is_given_up_after_a_sleep() {
    let mut world = World::settled();
    world.link_works = false;
    world.network_works = false;
    world.cut(0);
    world.nodes[0].pair.handle_link_down(world.now);
    while world.nodes[1].activated.is_empty() {
        world.run(MS);
    }
    assert!(world.nodes[1].activated[0].1, "trusted when it was judged");
    world.nodes[1].running = false;
    world.run(1000 * MS);
    world.nodes[1].running = true;
    world.run(2 * MS);
    assert!(!world.may_act(1));
    assert_eq!(world.nodes[1].stepped_down, [StepDownReason::Uncertain]);
}

/// Another process of the peer knows nothing of what the one did that we asked.
#[test]
fn an_answer_of_another_process_is_no_answer() {
    let mut world = World::in_doubt();
    let now = world.now;
    let owner = &mut world.nodes[0].pair;
    let question = owner.question.as_ref().map(|question| question.nonce);
    let Some(nonce) = question else { panic!("it asks") };
    owner.link.as_mut().unwrap().incarnation = 999;
    owner.handle_message(now, id(1), &Message::Answer { nonce, begun: false });
    assert_eq!(owner.owned_epoch(), None);
}
