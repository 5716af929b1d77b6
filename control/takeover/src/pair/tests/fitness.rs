//! Appliances that live, and can't serve.

use super::*;

/// Its workers stood still, as on a busy machine: the advertisements of that time may still wait to be heard.
#[test]
fn a_backup_that_was_not_fit_counts_silence_anew() {
    let mut world = World::settled();
    world.nodes[0].running = false;
    world.nodes[1].pair.handle_health(Fitness::WorkerStuck);
    world.run(100 * MS);
    world.nodes[1].pair.handle_health(Fitness::Fit);
    world.run(40 * MS);
    assert!(world.nodes[1].activated.is_empty(), "not yet silent for as long as it listens");
    world.run(30 * MS);
    assert!(world.may_act(1));
}

/// Its deadline has passed, so it would ask whether anybody has begun; and each question would make the backup count anew.
#[test]
fn an_owner_that_cannot_serve_is_followed_although_it_is_alive() {
    let mut world = World::settled();
    world.nodes[0].pair.handle_health(Fitness::WorkerStuck);
    world.run(100 * MS);
    assert!(world.may_act(1) && !world.may_act(0));
    assert!(world.nodes[1].activated[0].1, "from a trusted copy");
    world.nodes[0].pair.handle_health(Fitness::Fit);
    world.run(100 * MS);
    assert_eq!(world.copy(1), Copy::Counted, "it is the backup now");
    assert!(world.may_act(1) && !world.may_act(0));
}

/// As by order: nothing is lost, and nobody has to count silence.
#[test]
fn an_owner_whose_data_link_goes_down_hands_over_by_itself() {
    let mut world = World::settled();
    world.nodes[0].pair.handle_health(Fitness::LinkDown);
    world.run(15 * MS);
    assert!(world.may_act(1) && !world.may_act(0));
    assert!(world.nodes[1].activated[0].1, "from a trusted copy");
    world.run(50 * MS);
    assert_eq!(world.nodes[0].stepped_down, [StepDownReason::Moved]);
}

/// It is taken from it all the same, a little later, as from one that is silent.
#[test]
fn an_owner_whose_data_link_goes_down_orders_nothing_that_it_may_not() {
    let stories: [fn(&mut World); 3] = [
        |world| world.nodes[0].pair.is_held = true,
        |world| {
            world.nodes[1].pair.handle_health(Fitness::LinkDown);
            world.run(20 * MS);
        },
        |world| {
            world.nodes[0].running = false;
            world.run(40 * MS);
            world.nodes[0].running = true;
        },
    ];
    for story in stories {
        let mut world = World::settled();
        story(&mut world);
        world.nodes[0].pair.handle_health(Fitness::LinkDown);
        for ms in 0..200 {
            if ms == 20 {
                world.nodes[1].pair.handle_health(Fitness::Fit);
            }
            world.run(MS);
            assert!(!matches!(world.nodes[0].pair.role(), Role::HandingOver { .. }));
        }
        assert!(world.may_act(1));
    }
}

/// A move that nobody takes isn't ordered again and again: each time the backup would count anew.
#[test]
fn an_owner_whose_data_link_is_down_hands_over_once() {
    let mut world = World::settled();
    world.nodes[0].slow_to_stop = true;
    world.nodes[0].pair.handle_health(Fitness::LinkDown);
    world.run(10 * MS);
    assert!(matches!(world.nodes[0].pair.role(), Role::HandingOver { .. }));
    world.nodes[1].pair.handle_health(Fitness::LinkDown);
    world.run(10 * MS);
    let now = world.now;
    world.nodes[0].pair.handle_stopped(now);
    world.drain(0);
    world.nodes[1].pair.handle_health(Fitness::Fit);
    world.run(20 * MS);
    assert!(matches!(world.nodes[0].pair.role(), Role::Owner { .. }), "taken back, and not ordered again");
    world.run(100 * MS);
    assert!(world.may_act(1), "it was silent");
}

/// Not for long enough to be succeeded.
#[test]
fn an_owner_that_could_not_serve_for_a_moment_goes_on() {
    let mut world = World::settled();
    world.nodes[0].pair.handle_health(Fitness::WorkerStuck);
    world.run(40 * MS);
    assert!(!world.may_act(0));
    world.nodes[0].pair.handle_health(Fitness::Fit);
    world.run(30 * MS);
    assert!(world.may_act(0) && world.nodes[0].stepped_down.is_empty() && world.nodes[1].activated.is_empty());
}
