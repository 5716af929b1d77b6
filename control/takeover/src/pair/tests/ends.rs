//! Processes that end as planned.

use super::*;

/// Its word is worth more than a link that breaks: nothing has to wait until its trust would have run out.
#[test]
fn a_backup_that_ends_as_planned_is_left_behind_at_once() {
    let mut world = World::settled();
    let freed = world.nodes[0].unprotected;
    world.nodes[1].pair.retire();
    world.drain(1);
    assert!(!world.nodes[1].pair.status(world.now).trusted, "it has let go before it says so");
    world.run(2 * MS);
    assert_eq!((world.nodes[0].unprotected, world.copy(0)), (freed + 1, Copy::None));
    world.kill(1);
    world.nodes[0].pair.handle_link_down(world.now);
    world.run(500 * MS);
    assert!(world.may_act(0) && world.nodes[0].stepped_down.is_empty());
}

/// Whatever comes while its process is ending.
#[test]
fn a_backup_that_has_given_up_takes_nothing_any_more() {
    let stories: [fn(&mut World); 3] = [
        |world| world.nodes[0].running = false,
        |world| world.kill(0),
        |world| {
            let epoch = world.nodes[0].pair.owned_epoch().unwrap().0;
            world.inbox[1].extend([Message::Joined, Message::HandOver { epoch }]);
        },
    ];
    for story in stories {
        let mut world = World::settled();
        world.nodes[1].pair.retire();
        world.drain(1);
        story(&mut world);
        world.run(1500 * MS);
        assert!(world.nodes[1].activated.is_empty());
    }
}

#[test]
fn an_owner_has_nothing_to_give_up() {
    let mut world = World::settled();
    world.nodes[0].pair.retire();
    world.run(100 * MS);
    assert!(world.may_act(0));
    assert_eq!(world.copy(0), Copy::Counted);
}
