//! Moves by order.

use super::*;

#[test]
fn a_vip_moves_by_order_and_comes_back() {
    let mut world = World::settled();
    world.nodes[0].pair.order_move().unwrap();
    world.run(20 * MS);
    assert!(world.may_act(1) && !world.may_act(0));
    assert_eq!(world.nodes[0].stepped_down, [StepDownReason::Moved]);
    assert!(world.nodes[1].activated[0].1);
    world.run(100 * MS);
    assert_eq!(world.copy(1), Copy::Counted);
    world.nodes[0].pair.order_here().unwrap(); // given back at the receiver's order
    world.run(100 * MS);
    assert!(world.may_act(0) && !world.may_act(1));
}

/// Until when the workers of the old owner may act when it steps down, and the time of that.
fn deadline_at_step_down(world: &mut World) -> (Option<Instant>, Instant) {
    while world.nodes[0].stepped_down.is_empty() {
        world.run(MS);
    }
    (world.nodes[0].may_act_until, world.now)
}

#[test]
fn after_a_move_the_deadline_runs_out_by_itself() {
    let mut world = World::settled();
    world.nodes[0].pair.order_move().unwrap();
    let (until, now) = deadline_at_step_down(&mut world);
    assert_eq!(world.nodes[0].stepped_down, [StepDownReason::Moved]);
    assert!(until.is_some_and(|until| until > now && until <= now + Timing::default().deadline), "{until:?}");
    world.run(100 * MS);
    assert_eq!(world.nodes[0].may_act_until, until, "nobody renews it");
}

/// The old owner has no copy yet. If it took back what it has just given away, all SAs would end.
#[test]
fn a_new_owner_that_is_slow_before_anybody_has_a_copy_is_waited_for_and_a_dead_one_is_not_for_ever() {
    for dies in [false, true] {
        let mut world = World::settled();
        world.nodes[0].pair.order_move().unwrap();
        deadline_at_step_down(&mut world);
        world.run(5 * MS);
        if dies {
            world.kill(1);
        } else {
            world.nodes[1].running = false;
        }
        let staged = world.nodes[0].stages.clone();
        world.run(300 * MS);
        assert!(!world.may_act(0) && world.nodes[0].stages == staged);
        world.nodes[1].running = !dies;
        world.run(300 * MS);
        assert_eq!([0, 1].map(|node| world.may_act(node)), [dies, !dies]);
    }
}

#[test]
fn a_refused_write_is_a_move_only_of_a_vip_that_has_stopped() {
    for told in [true, false] {
        let mut world = World::settled();
        world.nodes[0].slow_to_stop = !told;
        world.nodes[1].running = false;
        world.nodes[0].pair.order_move().unwrap();
        world.run(5 * MS);
        let now = world.now;
        world.nodes[0].pair.handle_refused(now);
        let (until, _) = deadline_at_step_down(&mut world);
        let reason = if told { StepDownReason::Moved } else { StepDownReason::Refused };
        assert_eq!(world.nodes[0].stepped_down, [reason]);
        assert_eq!(until.is_some(), told);
    }
}

#[test]
fn an_owner_that_is_deposed_while_its_workers_are_stopping_acts_no_more() {
    let mut world = World::settled();
    world.nodes[0].slow_to_stop = true;
    world.nodes[0].pair.order_move().unwrap();
    world.run(MS);
    let epoch = Epoch(world.nodes[1].pair.status(world.now).seen.0 + 1);
    let advert = Advertisement { owner: id(1), vip: 0, epoch, protected: false, incarnation: 200, number: 1 };
    world.nodes[0].pair.handle_advertisement(world.now, &advert).unwrap();
    let (until, _) = deadline_at_step_down(&mut world);
    assert_eq!((world.nodes[0].stepped_down.as_slice(), until), ([StepDownReason::Deposed].as_slice(), None));
}

#[test]
fn a_move_to_a_backup_that_died_is_taken_back_or_given_up_never_both() {
    let mut world = World::settled();
    world.nodes[1].running = false; // paused: the order waits in its inbox
    world.nodes[0].pair.order_move().unwrap();
    world.run(400 * MS);
    assert!(!world.nodes[0].stepped_down.is_empty(), "nobody answered: it can't be excluded that the peer acted");
    world.nodes[1].running = true;
    world.run(1000 * MS);
    assert!(world.may_act(0) != world.may_act(1));
}

/// It counts, and would leave the order alone: the group would stand still until that is found out.
#[test]
fn nothing_moves_to_a_backup_that_cannot_serve() {
    let mut world = World::settled();
    world.nodes[1].pair.handle_health(Fitness::WorkerStuck);
    world.run(20 * MS);
    assert_eq!(world.copy(0), Copy::Counted);
    assert_eq!(world.nodes[0].pair.order_move(), Err(NotMoved::Unfit));
    assert_eq!(world.nodes[1].pair.order_here(), Err(NotMoved::Unfit));
    world.run(MS);
    assert!(world.may_act(0));
    world.nodes[1].pair.handle_health(Fitness::Fit);
    world.run(20 * MS);
    world.nodes[0].pair.order_move().unwrap();
    world.run(20 * MS);
    assert!(world.may_act(1));
}

/// Its data link breaks between the order and the end of the last worker's work.
#[test]
fn a_move_to_a_backup_that_meanwhile_cannot_serve_is_taken_back_before_it_is_told() {
    let mut world = World::settled();
    world.nodes[0].slow_to_stop = true;
    world.nodes[0].pair.order_move().unwrap();
    world.nodes[1].pair.handle_health(Fitness::WorkerStuck);
    world.run(20 * MS);
    let now = world.now;
    world.nodes[0].pair.handle_stopped(now);
    world.run(20 * MS);
    assert!(world.may_act(0) && world.nodes[0].stepped_down.is_empty() && world.nodes[1].activated.is_empty());
}

#[test]
fn a_move_to_a_backup_that_ends_meanwhile_is_taken_back() {
    for slow_to_stop in [false, true] {
        let mut world = World::settled();
        world.nodes[0].slow_to_stop = slow_to_stop;
        world.nodes[0].pair.order_move().unwrap();
        world.drain(0);
        world.nodes[1].pair.retire();
        world.drain(1);
        world.inbox[1].clear(); // told too late: the process is gone
        world.run(MS);
        if slow_to_stop {
            let now = world.now;
            world.nodes[0].pair.handle_stopped(now);
        }
        world.run(10 * MS);
        assert!(world.may_act(0) && world.nodes[0].stepped_down.is_empty());
    }
}
