//! Store links that break, in both directions or in one.

use super::*;

#[test]
fn the_store_link_alone_lost_is_no_takeover() {
    let mut world = World::settled();
    world.link_works = false;
    world.cut(0);
    world.nodes[0].pair.handle_link_down(world.now);
    world.run(100 * MS);
    assert!(matches!(world.copy(0), Copy::Leaving { .. }), "the backup may still trust its copy");
    assert!(world.may_act(0));
    world.run(300 * MS);
    assert_eq!(world.copy(0), Copy::None);
    assert!(world.may_act(0) && world.nodes[1].activated.is_empty());
    world.link_works = true;
    world.run(100 * MS);
    assert_eq!(world.copy(0), Copy::Counted);
}

#[test]
fn a_copy_that_the_owner_left_behind_is_not_trusted() {
    let mut world = World::settled();
    world.link_works = false;
    world.cut(0);
    world.nodes[0].pair.handle_link_down(world.now);
    world.run(400 * MS);
    assert_eq!(world.copy(0), Copy::None);
    world.kill(0);
    world.run(100 * MS);
    let (_, trusted) = world.nodes[1].activated[0];
    assert!(!trusted);
}

#[test]
fn a_link_that_is_cut_without_an_error_is_left_as_soon_as_it_may_be() {
    let mut world = World::new();
    world.run(800 * MS);
    assert_eq!(world.copy(0), Copy::Counted);
    world.link_works = false;
    let timing = Timing::default();
    world.run(timing.trust + timing.trust_margin + 4 * timing.interval);
    assert_eq!(world.copy(0), Copy::None, "the owner goes on alone");
    assert_eq!(world.nodes[0].unprotected, 1);
    assert!(world.nodes[0].stepped_down.is_empty() && world.nodes[1].activated.is_empty(), "nobody takes over");
}

/// Its own beats go on arriving, and say how it is; what waits for its acknowledgements would wait for ever.
#[test]
fn a_backup_that_does_not_hear_its_owner_is_left_as_soon_as_it_may_be() {
    for fitness in [Fitness::Fit, Fitness::LinkDown, Fitness::WorkerStuck] {
        let mut world = World::settled();
        world.nodes[1].pair.handle_health(fitness);
        world.run(20 * MS);
        world.deaf = Some(1);
        let timing = Timing::default();
        world.run(timing.trust);
        assert_eq!(world.copy(0), Copy::Counted, "{fitness:?}");
        world.run(timing.trust + timing.trust_margin + 4 * timing.interval);
        assert_eq!(world.copy(0), Copy::None, "{fitness:?}: the owner goes on alone");
        assert!(world.may_act(0) && world.nodes[1].activated.is_empty(), "{fitness:?}: nobody takes over");
        world.deaf = None;
        world.run(100 * MS);
        assert_eq!(world.copy(0), Copy::Counted, "{fitness:?}");
    }
}

/// It holds its copy, and may be well again before it is needed.
#[test]
fn a_backup_that_hears_its_owner_is_kept_though_it_cannot_serve() {
    let mut world = World::settled();
    world.nodes[1].pair.handle_health(Fitness::WorkerStuck);
    world.run(2 * Timing::default().trust);
    assert_eq!((world.copy(0), world.nodes[0].unprotected), (Copy::Counted, 0));
}

/// An older release says nothing of what it hears while it can't serve.
#[test]
fn a_backup_that_does_not_say_what_it_hears_is_not_taken_for_one_that_hears_nothing() {
    let mut world = World::settled();
    world.nodes[1].pair.handle_health(Fitness::WorkerStuck);
    world.without_echo = Some(1);
    world.run(3 * Timing::default().trust);
    assert_eq!((world.copy(0), world.nodes[0].unprotected), (Copy::Counted, 0));
}

/// The data networks don't meet, or their links are cut between: only over the store link do the two hear of each other.
#[test]
fn owners_that_meet_over_the_store_link_alone_dont_take_it_from_each_other_in_turns() {
    let mut world = World::healed([0, 0]);
    world.network_works = false;
    let taken = world.nodes.iter().map(|node| node.activated.len()).sum::<usize>();
    while world.nodes.iter().all(|node| node.stepped_down.is_empty()) {
        world.run(MS);
    }
    // It closes the link, and to pair anew takes longer than an owner may be silent.
    world.link_works = false;
    world.run(120 * MS);
    world.link_works = true;
    world.run(300 * MS);
    assert_eq!(world.nodes.iter().map(|node| node.activated.len()).sum::<usize>(), taken);
    assert_eq!([0, 1].map(|index| world.may_act(index)).iter().filter(|acts| **acts).count(), 1);
    assert!([0, 1].iter().any(|index| world.copy(*index) == Copy::Counted));
}
