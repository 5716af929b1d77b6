//! Both own the group, for neither heard the other; and then they meet.

use super::*;

#[test]
fn healing_a_split_leaves_the_one_that_served_more() {
    for (served, stays) in [([0, 0], 1), ([3, 3], 1), ([2, 3], 1), ([3, 2], 0), ([1, 0], 0)] {
        let mut world = World::healed(served);
        let before = world.nodes.each_ref().map(|node| node.pair.owned_epoch().unwrap());
        world.run(100 * MS);
        let goes = 1 - stays;
        assert!(world.may_act(stays) && !world.may_act(goes), "{served:?}");
        assert!(world.nodes[stays].stepped_down.is_empty(), "{served:?}: it keeps its SAs");
        assert_eq!(world.nodes[goes].stepped_down, [StepDownReason::Deposed], "{served:?}");
        assert!(
            world.nodes[stays].pair.owned_epoch().unwrap() > before[goes],
            "{served:?}: its word is a sign of life"
        );
        assert_eq!(world.copy(stays), Copy::Counted, "{served:?}");
    }
}

#[test]
fn while_a_split_heals_the_two_never_act_within_hearing() {
    for served in [[2, 3], [3, 2]] {
        let mut world = World::healed(served);
        world.run(MS); // both hear
        for _ in 0..200 {
            world.run(MS);
            assert!(!(world.may_act(0) && world.may_act(1)), "{served:?}");
        }
    }
}

/// What counts is over the store link: while that is down, the higher (epoch, id) stays.
#[test]
fn a_split_that_heals_on_the_networks_alone_leaves_the_later_owner() {
    let mut world = World::healed([9, 0]);
    world.link_works = false;
    world.run(600 * MS);
    assert!(!world.may_act(0) && world.may_act(1));
    assert_eq!(world.nodes[0].may_act_until, None, "what isn't ours has no deadline, or it would stop other groups");
}

/// When the networks are joined again the later owner's word comes first, and takes the traffic away from the other one.
#[test]
fn what_comes_after_the_other_owner_was_heard_does_not_count() {
    let mut world = World::healed([1, 1]);
    world.run(MS);
    world.nodes[1].served_at = world.now;
    world.run(100 * MS);
    assert!(world.may_act(0) && !world.may_act(1));
}

/// One that had served nobody got the other one's remote peer between the healing and the first word that was heard: a tie by that, or
/// worse, would take the group from the one that had the traffic.
#[test]
fn what_comes_before_the_other_owner_was_heard_does_not_count_once_the_networks_have_met() {
    for (before, after, stays) in [([1, 0], [1, 1], 0), ([0, 1], [2, 1], 1)] {
        let mut world = World::healed(before);
        // The first words are lost.
        (world.link_works, world.network_works) = (false, false);
        let met = world.now + MS;
        world.run(25 * MS);
        for (index, node) in world.nodes.iter_mut().enumerate() {
            if after[index] > before[index] {
                (node.served, node.served_at) = (after[index], met);
            }
        }
        (world.link_works, world.network_works) = (true, true);
        world.run(100 * MS);
        assert!(world.may_act(stays) && !world.may_act(1 - stays), "{before:?}, then {after:?}");
        assert!(world.nodes[stays].stepped_down.is_empty(), "{before:?}, then {after:?}");
    }
}

#[test]
fn an_owner_that_waits_for_the_other_to_stop_outlives_it() {
    let mut world = World::healed([9, 0]);
    world.link_works = false;
    world.run(5 * MS);
    assert!(!world.may_act(0), "it has heard of the other one");
    world.kill(1);
    world.run(100 * MS);
    assert!(world.may_act(0) && world.nodes[0].stepped_down.is_empty());
}

/// It slept: what the backup did meanwhile it did in its place.
#[test]
fn an_owner_that_slept_has_no_say_when_a_split_heals() {
    let mut world = World::settled();
    world.cut_off();
    world.run(500 * MS);
    (world.nodes[0].served, world.nodes[0].served_at) = (9, world.now);
    world.nodes[0].running = false;
    world.run(100 * MS);
    (world.link_works, world.network_works) = (true, true);
    world.nodes[0].running = true;
    world.run(100 * MS);
    assert!(!world.may_act(0) && world.may_act(1));
}

/// The backup took over while it was cut off, and gave up again: its owner's word has to count with it all the same.
#[test]
fn an_owner_outranks_a_backup_that_has_tried() {
    let mut world = World::settled();
    world.cut_off();
    world.run(400 * MS);
    assert!(world.may_act(1));
    world.kill(1);
    world.nodes[1] = node(1, 201, world.now, 32);
    world.nodes[1].pair.seen = Epoch(40);
    (world.link_works, world.network_works) = (true, true);
    world.run(500 * MS);
    assert!(world.may_act(0) && world.nodes[0].pair.owned_epoch() > Some(Epoch(40)));
    assert!(world.nodes[1].activated.is_empty());
    assert_eq!(world.copy(0), Copy::Counted);
}

#[test]
fn an_appliance_that_went_without_a_word_is_missing_until_it_or_its_heir_is_heard() {
    let mut world = World::settled();
    assert_eq!(world.nodes[0].pair.missing_since(), None);
    world.network_works = false;
    world.cut(0);
    world.link_works = false;
    world.run(1000 * MS);
    // Each of the two owns the group, and neither knows of the other.
    assert!(world.nodes.iter().all(|node| node.pair.missing_since().is_some_and(|since| since < world.now)));
    world.link_works = true;
    world.network_works = true;
    world.run(2000 * MS);
    assert!(world.nodes.iter().all(|node| node.pair.missing_since().is_none()));

    // A process that dies is missing until another one answers in its place.
    let mut world = World::settled();
    world.kill(0);
    world.run(1000 * MS);
    assert!(world.nodes[1].pair.missing_since().is_some());
    world.nodes[0] = node(0, 77, world.now, 100);
    world.run(1000 * MS);
    assert_eq!(world.nodes[1].pair.missing_since(), None);
}

#[test]
fn an_appliance_that_says_that_it_ends_is_not_missing() {
    let mut world = World::settled();
    world.nodes[1].pair.retire();
    world.run(50 * MS);
    world.kill(1);
    world.run(1000 * MS);
    assert!(world.nodes[0].pair.owns());
    assert_eq!(world.nodes[0].pair.missing_since(), None);
}
