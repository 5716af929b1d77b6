//! Two pairs, a link and two data networks with simulated time: the stories that the protocol is made for.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::*;

const MS: Duration = Duration::from_millis(1);

/// One appliance: its pair, and what a driver would do for it, done at once.
struct Node {
    pair: Pair,
    incarnation: u64,
    running: bool,
    may_act_until: Option<Instant>,
    stages: Vec<Epoch>,
    activated: Vec<(Epoch, bool)>,
    stepped_down: Vec<StepDownReason>,
    unprotected: u32,
    advert_number: u64,
    /// The driver takes its time to stop workers.
    slow_to_stop: bool,
    /// Remote peers that were heard lately.
    served: u32,
    /// And when.
    served_at: Instant,
}

struct World {
    now: Instant,
    nodes: [Node; 2],
    inbox: [VecDeque<Message>; 2],
    adverts: [VecDeque<Advertisement>; 2],
    linked: bool,
    link_works: bool,
    network_works: bool,
    /// Nothing reaches this one over the link.
    deaf: Option<usize>,
    /// This one's beats echo nothing.
    without_echo: Option<usize>,
}

fn id(node: usize) -> ApplianceId {
    ApplianceId::new(node as u8 + 1).unwrap()
}

fn node(index: usize, incarnation: u64, now: Instant, floor: u32) -> Node {
    let pair = Pair::new(
        PairConfig {
            me: id(index),
            peer: id(1 - index),
            timing: Timing::default(),
            preferred: index == 0,
            floor: Floor::from_disk(Some(floor)),
        },
        now,
    );
    Node {
        pair,
        incarnation,
        running: true,
        may_act_until: None,
        stages: vec![],
        activated: vec![],
        stepped_down: vec![],
        unprotected: 0,
        advert_number: 0,
        slow_to_stop: false,
        served: 0,
        served_at: now,
    }
}

impl World {
    fn new() -> Self {
        let now = Instant::now();
        World {
            now,
            nodes: [node(0, 100, now, 0), node(1, 200, now, 0)],
            inbox: Default::default(),
            adverts: Default::default(),
            linked: false,
            link_works: true,
            network_works: true,
            deaf: None,
            without_echo: None,
        }
    }

    fn drain(&mut self, index: usize) {
        let now = self.now;
        while let Some(action) = self.nodes[index].pair.poll_action() {
            let node = &mut self.nodes[index];
            match action {
                Action::Send { mut message, .. } if self.linked && self.link_works && self.deaf != Some(1 - index) => {
                    if let (Message::Beat { echo, .. }, true) = (&mut message, self.without_echo == Some(index)) {
                        *echo = None;
                    }
                    self.inbox[1 - index].push_back(message);
                }
                Action::Send { .. } => {}
                Action::Advertise { epoch, protected } => {
                    node.advert_number += 1;
                    let advert = Advertisement {
                        owner: id(index),
                        vip: 0,
                        epoch,
                        protected,
                        incarnation: node.incarnation,
                        number: node.advert_number,
                    };
                    if self.network_works {
                        self.adverts[1 - index].push_back(advert);
                    }
                }
                Action::Deadline(until) => node.may_act_until = until,
                Action::ReserveFloor(value) => node.pair.handle_floor_reserved(now, value),
                Action::CloseLink(_) => self.cut(index),
                Action::Join(_) => node.pair.handle_join_published(),
                Action::Release(_) => node.unprotected += 1,
                Action::Stage { epoch } => {
                    node.stages.push(epoch);
                    node.pair.handle_staged(now);
                }
                Action::Activate { epoch, trusted } => node.activated.push((epoch, trusted)),
                Action::Stop if node.slow_to_stop => {}
                Action::Stop => node.pair.handle_stopped(now),
                Action::TakeBack | Action::Raise { .. } => {}
                Action::CountServed { since, until } => {
                    let counts = node.served_at > since && node.served_at <= until;
                    let served = if counts { node.served } else { 0 };
                    Decider::handle_served(&mut node.pair, now, served);
                }
                Action::StepDown(reason) => node.stepped_down.push(reason),
                Action::Ask(_) => {}
            }
        }
    }

    /// The link's socket is closed by `index`; the other side notices when it runs.
    fn cut(&mut self, index: usize) {
        self.linked = false;
        self.inbox = Default::default();
        if self.nodes[1 - index].running {
            self.nodes[1 - index].pair.handle_link_down(self.now);
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now += MS;
            let both = self.nodes.iter().all(|node| node.running);
            // To pair anew takes both directions.
            if !self.linked && both && self.link_works && self.deaf.is_none() {
                self.linked = true;
                let incarnations = [self.nodes[0].incarnation, self.nodes[1].incarnation];
                self.nodes[0].pair.handle_link_up(self.now, incarnations[1], true);
                self.nodes[1].pair.handle_link_up(self.now, incarnations[0], true);
            }
            for index in 0..2 {
                if !self.nodes[index].running {
                    continue;
                }
                if !self.linked {
                    self.nodes[index].pair.handle_link_down(self.now);
                }
                while let Some(message) = self.inbox[index].pop_front() {
                    self.nodes[index].pair.handle_message(self.now, id(1 - index), &message);
                    self.drain(index);
                }
                while let Some(advert) = self.adverts[index].pop_front() {
                    let _ = self.nodes[index].pair.handle_advertisement(self.now, &advert);
                    self.drain(index);
                }
                self.nodes[index].pair.handle_timeout(self.now);
                self.drain(index);
            }
        }
    }

    fn may_act(&self, index: usize) -> bool {
        self.nodes[index].may_act_until.is_some_and(|until| self.now < until)
            && self.nodes[index].pair.owned_epoch().is_some()
    }

    fn copy(&self, index: usize) -> Copy {
        self.nodes[index].pair.copy()
    }

    /// a owns, b's copy counts.
    fn settled() -> Self {
        let mut world = World::new();
        world.run(1500 * MS);
        assert!(world.may_act(0) && !world.may_act(1));
        assert_eq!(world.copy(0), Copy::Counted);
        assert!(world.nodes[1].pair.status(world.now).trusted);
        world
    }

    /// The owner has overslept its deadline and asks; nothing else has happened.
    fn in_doubt() -> Self {
        let mut world = Self::settled();
        world.nodes[0].running = false;
        world.run(40 * MS);
        world.nodes[0].pair.handle_timeout(world.now);
        world
    }

    fn kill(&mut self, index: usize) {
        self.nodes[index].running = false;
        self.cut(index);
        self.inbox = Default::default();
    }
}

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

impl World {
    /// a owned it and b took it over, neither hearing the other; then both hear again.
    fn healed(served: [u32; 2]) -> Self {
        let mut world = World::settled();
        world.cut_off();
        world.run(400 * MS);
        for (node, served) in world.nodes.iter_mut().zip(served) {
            (node.served, node.served_at) = (served, world.now);
        }
        world.run(100 * MS);
        assert!(world.may_act(0) && world.may_act(1));
        (world.link_works, world.network_works) = (true, true);
        world
    }

    /// On every path, and both notice.
    fn cut_off(&mut self) {
        (self.link_works, self.network_works) = (false, false);
        self.cut(0);
        self.nodes[0].pair.handle_link_down(self.now);
    }
}

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
fn an_owner_has_nothing_to_give_up() {
    let mut world = World::settled();
    world.nodes[0].pair.retire();
    world.run(100 * MS);
    assert!(world.may_act(0));
    assert_eq!(world.copy(0), Copy::Counted);
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

/// A beat said that the backup holds a copy. It died, and its owner could not be sure of that in time: the flag must not keep the
/// VIP without an owner.
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
