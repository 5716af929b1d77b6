//! Who owns the group, and who takes it when the owner is silent or dead.

use super::*;

#[test]
fn the_preferred_one_claims_and_the_other_joins() {
    let world = World::settled();
    assert!(world.nodes[1].activated.is_empty());
}

#[test]
fn a_dead_owner_is_followed_within_detection_from_a_trusted_copy() {
    let mut world = World::settled();
    let before = world.nodes[0].pair.owned_epoch().unwrap();
    world.kill(0);
    world.run(75 * MS);
    assert!(world.may_act(1));
    let (epoch, trusted) = world.nodes[1].activated[0];
    assert!(trusted && epoch > before);
    assert_eq!(world.nodes[1].stages, [epoch]);
}

#[test]
fn no_takeover_before_the_owners_deadline_has_passed() {
    let mut world = World::settled();
    world.nodes[0].running = false; // paused: it says nothing any more, its workers act until the deadline
    for _ in 0..200 {
        world.run(MS);
        assert!(!(world.may_act(0) && world.may_act(1)));
    }
    assert!(world.may_act(1));
}

#[test]
fn a_paused_owner_that_wakes_finds_itself_deposed_and_joins() {
    let mut world = World::settled();
    world.nodes[0].running = false;
    world.run(100 * MS);
    assert!(world.may_act(1));
    world.nodes[0].running = true;
    world.run(10 * MS);
    assert!(!world.may_act(0));
    assert_eq!(world.nodes[0].stepped_down.len(), 1);
    world.run(200 * MS);
    assert!(world.may_act(1) && !world.may_act(0));
    assert_eq!(world.copy(1), Copy::Counted);
}

#[test]
fn a_new_process_of_the_owner_proves_the_old_one_dead() {
    let mut world = World::settled();
    world.kill(0);
    world.nodes[0] = node(0, 101, world.now, 32);
    world.run(5 * MS);
    assert!(world.may_act(1), "taken at once, without waiting for silence");
    assert!(world.nodes[1].activated[0].1);
    world.run(100 * MS);
    assert_eq!(world.copy(1), Copy::Counted);
    assert!(!world.may_act(0));
}

#[test]
fn a_killed_backup_is_left_behind_only_after_its_trust_ran_out() {
    let mut world = World::settled();
    let freed = world.nodes[0].unprotected;
    world.kill(1);
    world.nodes[0].pair.handle_link_down(world.now);
    world.run(200 * MS);
    assert_eq!(world.nodes[0].unprotected, freed);
    world.run(200 * MS);
    assert_eq!(world.nodes[0].unprotected, freed + 1);
    assert!(world.may_act(0));
}

/// A beat said that the backup holds a copy. It died, and its owner could not be sure of that in time: the flag must not keep the
/// VIP without an owner.
#[test]
fn a_dead_backups_copy_does_not_keep_the_vip_ownerless() {
    let mut world = World::settled();
    world.kill(1);
    world.nodes[0].pair.handle_link_down(world.now);
    world.run(20 * MS);
    world.nodes[0].running = false;
    world.run(40 * MS);
    world.nodes[0].running = true;
    world.run(5 * MS);
    assert_eq!(world.nodes[0].stepped_down, [StepDownReason::Uncertain]);
    world.run(1000 * MS);
    assert!(world.may_act(0));
}

/// A takeover that waits for its disk has not begun: the owner that is heard again stays the owner.
#[test]
fn an_owner_heard_again_before_the_epoch_is_reserved_stays_owner() {
    let mut world = World::settled();
    let now = world.now;
    let backup = &mut world.nodes[1].pair;
    backup.role = Role::Taking { epoch: None };
    backup.handle_message(now, id(0), &Message::Question { nonce: 9 });
    let answer = std::iter::from_fn(|| backup.poll_action()).find(|action| matches!(action, Action::Send { .. }));
    assert_eq!(answer, Some(Action::Send { to: id(0), message: Message::Answer { nonce: 9, begun: false } }));
    assert_eq!(backup.role, Role::Standby);
}
