//! Three appliances, their links, two data networks and a registry with simulated time: the stories that the rules are made for.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use vipsec_wire::iv::{ApplianceId, Epoch};

use super::*;
use crate::advertisement::Advertisement;
use crate::decider::{Action, Copy, Decider, Fitness, NotMoved, Role, Status, StepDownReason};
use crate::floor::Floor;
use crate::message::Message;
use crate::timing::Timing;

const MS: Duration = Duration::from_millis(1);
const NODES: usize = 3;

struct Node {
    member: Member,
    incarnation: u64,
    running: bool,
    cut_from_registry: bool,
    activated: Vec<(Epoch, bool)>,
    stepped_down: Vec<StepDownReason>,
    released: Vec<ApplianceId>,
    may_act_until: Option<Instant>,
    adverts: u64,
    slow_to_stop: bool,
    /// Its records don't find room anywhere.
    refuses_joins: bool,
    /// Answers of the registry that were not read yet.
    replies: VecDeque<Reply>,
}

/// A store that changes a record only for who knows its revision.
#[derive(Default)]
struct Registry {
    revision: u64,
    record: Option<Record>,
    alive: Vec<Process>,
    /// What is under way, and who waits for the answer.
    requests: VecDeque<(Instant, usize, u64, Request)>,
    /// Answers get lost, and so do questions.
    deaf: bool,
    mute: bool,
}

struct World {
    now: Instant,
    nodes: Vec<Node>,
    links: [[bool; NODES]; NODES],
    link_works: [[bool; NODES]; NODES],
    inbox: Vec<VecDeque<(usize, Message)>>,
    networks: [[bool; NODES]; NODES],
    registry: Registry,
    incarnations: u64,
}

fn id(node: usize) -> ApplianceId {
    ApplianceId::new(node as u8 + 1).unwrap()
}

impl World {
    fn new() -> Self {
        let now = Instant::now();
        let mut world = Self {
            now,
            nodes: Vec::new(),
            links: Default::default(),
            link_works: [[true; NODES]; NODES],
            inbox: vec![VecDeque::new(); NODES],
            networks: [[true; NODES]; NODES],
            registry: Registry::default(),
            incarnations: 0,
        };
        for index in 0..NODES {
            let node = world.node(index, 0);
            world.nodes.push(node);
        }
        world
    }

    /// Everything stands: the first one owns the group, both others have counted copies.
    fn settled() -> Self {
        let mut world = Self::new();
        world.run(900 * MS);
        assert_eq!(world.owners(), [0]);
        assert_eq!(world.copies(0), [Copy::Counted; 2]);
        world
    }

    fn node(&mut self, index: usize, floor: u32) -> Node {
        self.incarnations += 1;
        let incarnation = self.incarnations * 100 + index as u64;
        let me = Process { appliance: id(index), incarnation };
        self.registry.alive.retain(|process| process.appliance != me.appliance);
        self.registry.alive.push(me);
        let config = MemberConfig {
            me,
            ranks: (0..NODES).map(id).collect(),
            timing: Timing::default(),
            floor: Floor::from_disk(Some(floor)),
        };
        Node {
            member: Member::new(config, self.now),
            incarnation,
            running: true,
            cut_from_registry: false,
            activated: vec![],
            stepped_down: vec![],
            released: vec![],
            may_act_until: None,
            adverts: 0,
            slow_to_stop: false,
            refuses_joins: false,
            replies: VecDeque::new(),
        }
    }

    fn owners(&self) -> Vec<usize> {
        let owns = |index: &usize| self.nodes[*index].running && self.nodes[*index].member.owned_epoch().is_some();
        (0..NODES).filter(owns).collect()
    }

    fn status(&self, index: usize) -> Status {
        self.nodes[index].member.status(self.now)
    }

    fn copies(&self, index: usize) -> Vec<Copy> {
        self.status(index).peers.iter().map(|peer| peer.copy).collect()
    }

    fn process(&self, index: usize) -> Process {
        Process { appliance: id(index), incarnation: self.nodes[index].incarnation }
    }

    fn cut(&mut self, a: usize, b: usize) {
        if !self.links[a][b] {
            return;
        }
        for (here, there) in [(a, b), (b, a)] {
            self.links[here][there] = false;
            self.inbox[here].retain(|(from, _)| *from != there);
            if self.nodes[here].running {
                self.nodes[here].member.handle_link_down(self.now, id(there));
            }
        }
    }

    fn break_link(&mut self, a: usize, b: usize, works: bool) {
        self.link_works[a][b] = works;
        self.link_works[b][a] = works;
        if !works {
            self.cut(a, b);
        }
    }

    /// Nothing passes between the two, and neither is told.
    fn part(&mut self, a: usize, b: usize) {
        for (from, to) in [(a, b), (b, a)] {
            self.networks[from][to] = false;
            self.link_works[from][to] = false;
        }
    }

    fn kill(&mut self, index: usize) {
        self.nodes[index].running = false;
        let process = self.process(index);
        for other in 0..NODES {
            self.cut(index, other);
        }
        self.registry.requests.retain(|(_, from, ..)| *from != index);
        // The lease runs out at once: what follows is not about its time.
        self.registry.alive.retain(|alive| *alive != process);
    }

    fn restart(&mut self, index: usize) {
        let floor = self.status(index).seen.0 + 20;
        self.nodes[index] = self.node(index, floor);
    }

    fn drain(&mut self, index: usize) {
        let now = self.now;
        while let Some(action) = self.nodes[index].member.poll_action() {
            let node = &mut self.nodes[index];
            match action {
                Action::Send { to, message } => {
                    let to = usize::from(to.get()) - 1;
                    if self.links[index][to] && self.link_works[index][to] {
                        self.inbox[to].push_back((index, message));
                    }
                }
                Action::Advertise { epoch, protected } => {
                    node.adverts += 1;
                    let (incarnation, number) = (node.incarnation, node.adverts);
                    let advert = Advertisement { owner: id(index), vip: 0, epoch, protected, incarnation, number };
                    for to in (0..NODES).filter(|to| *to != index) {
                        if self.networks[index][to] && self.nodes[to].running {
                            let _ = self.nodes[to].member.handle_advertisement(now, &advert);
                        }
                    }
                }
                Action::Deadline(until) => node.may_act_until = until,
                Action::ReserveFloor(value) => node.member.handle_floor_reserved(now, value),
                Action::CloseLink(to) => self.cut(index, usize::from(to.get()) - 1),
                Action::Join(_) if node.refuses_joins => {}
                Action::Join(to) => node.member.handle_join_published(now, to),
                Action::Release(of) => node.released.push(of),
                Action::Stage { .. } => node.member.handle_staged(now),
                Action::Activate { epoch, trusted } => node.activated.push((epoch, trusted)),
                Action::Stop if node.slow_to_stop => {}
                Action::Stop => node.member.handle_stopped(now),
                Action::TakeBack | Action::CountServed { .. } | Action::Raise { .. } => {}
                Action::StepDown(reason) => node.stepped_down.push(reason),
                Action::Ask(request) => {
                    let at = now + 2 * MS;
                    self.registry.requests.push_back((at, index, node.incarnation, request));
                }
            }
        }
    }

    fn answer(&mut self) {
        while self.registry.requests.front().is_some_and(|(at, ..)| *at <= self.now) {
            let Some((_, from, incarnation, request)) = self.registry.requests.pop_front() else { return };
            let cut = self.nodes[from].cut_from_registry;
            let reply = if self.registry.deaf || cut { Reply::Silence } else { self.registry.take(request) };
            let reply = if self.registry.mute { Reply::Silence } else { reply };
            if self.nodes[from].incarnation == incarnation {
                self.nodes[from].replies.push_back(reply);
            }
        }
    }

    fn pair_up(&mut self) {
        for a in 0..NODES {
            for b in a + 1..NODES {
                let both = self.nodes[a].running && self.nodes[b].running;
                if both && !self.links[a][b] && self.link_works[a][b] {
                    for (here, there) in [(a, b), (b, a)] {
                        self.links[here][there] = true;
                        let process = self.nodes[there].incarnation;
                        self.nodes[here].member.handle_link_up(self.now, id(there), process, true);
                    }
                }
            }
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.step();
        }
    }

    fn step(&mut self) {
        self.now += MS;
        self.answer();
        self.pair_up();
        for index in 0..NODES {
            if !self.nodes[index].running {
                continue;
            }
            while let Some(reply) = self.nodes[index].replies.pop_front() {
                self.nodes[index].member.handle_registry(self.now, reply);
            }
            while let Some((from, message)) = self.inbox[index].pop_front() {
                self.nodes[index].member.handle_message(self.now, id(from), &message);
            }
            self.nodes[index].member.handle_timeout(self.now);
            self.drain(index);
        }
        self.check();
    }

    /// Whoever may resume is waited for, and whoever owns a protected group is the one of whom the registry says so.
    fn check(&self) {
        let Some(record) = &self.registry.record else { return };
        for index in (0..NODES).filter(|index| self.nodes[*index].running) {
            let member = &self.nodes[index].member;
            if self.process(index) != record.owner || member.owned_epoch().is_none() {
                continue;
            }
            for other in (0..NODES).filter(|other| *other != index && self.nodes[*other].running) {
                let resumes =
                    record.copies.contains(&self.process(other)) && self.nodes[other].member.held == Some(record.owner);
                let waited_for = member.mates.get(&id(other)).is_some_and(|mate| mate.copy != member::Kept::None);
                assert!(!resumes || waited_for, "{other} may resume and {index} doesn't wait for it");
            }
        }
    }
}

impl Registry {
    fn take(&mut self, request: Request) -> Reply {
        let standing = Standing { revision: self.revision, record: self.record.clone(), alive: self.alive.clone() };
        match request {
            Request::Read => Reply::Standing(standing),
            Request::Write { revision, record } if revision == self.revision => {
                self.revision += 1;
                self.record = Some(record);
                Reply::Written(self.revision)
            }
            Request::Write { .. } => Reply::Refused(standing),
        }
    }
}

#[test]
fn the_best_rank_claims_and_the_others_join() {
    let world = World::settled();
    let record = world.registry.record.clone().unwrap();
    assert_eq!(record.owner, world.process(0));
    assert_eq!(record.copies, [world.process(1), world.process(2)]);
    assert!(world.status(1).trusted && world.status(2).trusted);
    assert_eq!(world.status(1).owner, Some(id(0)));
}

#[test]
fn the_first_ranked_backup_resumes_and_when_it_dies_too_the_next_one() {
    let mut world = World::settled();
    world.kill(0);
    world.run(100 * MS);
    assert_eq!(world.owners(), [1]);
    assert!(world.nodes[1].activated[0].1, "from a trusted copy");
    world.run(300 * MS);
    assert_eq!(world.copies(1), [Copy::None, Copy::Counted]);
    world.kill(1);
    world.run(100 * MS);
    assert_eq!(world.owners(), [2]);
    assert!(world.nodes[2].activated[0].1);
    assert!(world.nodes[2].activated[0].0 > world.nodes[1].activated[0].0);
}

#[test]
fn a_second_ranked_backup_acts_when_the_first_dies_with_the_owner() {
    let mut world = World::settled();
    world.kill(0);
    world.kill(1);
    world.run(150 * MS);
    assert_eq!(world.owners(), [2]);
    assert!(world.nodes[2].activated[0].1);
}

#[test]
fn a_second_ranked_backup_acts_when_the_first_can_not() {
    let mut world = World::settled();
    world.nodes[1].cut_from_registry = true;
    world.kill(0);
    world.run(200 * MS);
    assert_eq!(world.owners(), [2]);
    assert!(world.nodes[2].activated[0].1);
    world.nodes[1].cut_from_registry = false;
    world.run(300 * MS);
    assert_eq!(world.owners(), [2], "the first one's attempt came too late");
    assert_eq!(world.copies(2), [Copy::None, Copy::Counted]);
}

#[test]
fn an_owner_without_registry_goes_on_as_long_as_its_copies_acknowledge() {
    let mut world = World::settled();
    world.registry.deaf = true;
    world.run(5000 * MS);
    assert_eq!(world.owners(), [0]);
    assert_eq!(world.copies(0), [Copy::Counted; 2]);
    assert!(world.nodes[0].may_act_until.is_some_and(|until| until > world.now));
    world.break_link(0, 1, false);
    world.nodes[1].cut_from_registry = true;
    world.run(400 * MS);
    assert_eq!(world.nodes[0].may_act_until, None, "one may resume that isn't heard, and nobody can say");
    assert!(world.nodes[0].released.is_empty());
    world.registry.deaf = false;
    world.run(200 * MS);
    assert_eq!(world.nodes[0].released, [id(1)]);
    assert_eq!(world.registry.record.as_ref().unwrap().copies, [world.process(2)]);
    assert!(world.nodes[0].may_act_until.is_some_and(|until| until > world.now));
}

#[test]
fn who_was_struck_off_does_not_resume() {
    let mut world = World::settled();
    world.break_link(0, 2, false);
    world.run(50 * MS);
    assert_eq!(world.nodes[0].released, [id(2)]);
    world.networks[0][2] = false;
    world.run(2000 * MS);
    assert_eq!(world.owners(), [0], "it hears nothing of the owner, and can do nothing");
    world.kill(1);
    world.kill(0);
    world.run(8000 * MS);
    assert_eq!(world.owners(), [2]);
    assert!(!world.nodes[2].activated[0].1, "the SAs are gone, the VIP isn't");
}

#[test]
fn a_backup_that_is_parted_from_the_owner_takes_over_and_the_owner_learns_it_from_the_registry() {
    let mut world = World::settled();
    world.part(0, 1);
    world.run(1000 * MS);
    assert_eq!(world.owners(), [1]);
    assert!(world.nodes[1].activated[0].1);
    assert_eq!(world.nodes[0].stepped_down, [StepDownReason::Deposed]);
}

#[test]
fn an_owner_that_slept_asks_before_it_acts() {
    let mut world = World::settled();
    world.nodes[0].running = false;
    world.run(33 * MS);
    world.nodes[0].running = true;
    let asleep = world.now;
    world.step();
    assert!(world.nodes[0].may_act_until.is_none_or(|until| until <= asleep));
    world.run(30 * MS);
    assert_eq!(world.owners(), [0]);
    assert!(world.nodes[0].may_act_until.is_some_and(|until| until > world.now), "nobody had begun");

    world.nodes[0].running = false;
    world.run(120 * MS);
    assert_eq!(world.owners(), [1]);
    world.nodes[0].running = true;
    world.run(20 * MS);
    assert_eq!(world.nodes[0].stepped_down.len(), 1);
    assert_eq!(world.owners(), [1]);
}

#[test]
fn an_answer_that_was_lost_changes_nothing() {
    let mut world = World::settled();
    world.registry.mute = true;
    world.kill(0);
    world.run(70 * MS);
    assert_eq!(world.registry.record.as_ref().unwrap().owner, world.process(1), "it was written");
    assert_eq!(world.owners(), [0; 0], "and nobody was told");
    world.registry.mute = false;
    world.run(100 * MS);
    assert_eq!(world.owners(), [1]);
    assert!(world.nodes[1].activated[0].1);
}

#[test]
fn an_attempt_is_taken_back_when_the_owner_is_heard_again() {
    let mut world = World::settled();
    world.nodes[1].cut_from_registry = true;
    world.nodes[0].running = false;
    world.run(70 * MS);
    assert!(matches!(world.status(1).role, Role::Taking { .. }));
    world.nodes[0].running = true;
    world.run(20 * MS);
    world.nodes[1].cut_from_registry = false;
    world.run(500 * MS);
    assert_eq!(world.owners(), [0]);
    assert_eq!(world.status(1).role, Role::Standby);
    assert!(world.status(1).trusted);
}

#[test]
fn a_new_process_of_the_owner_is_proof_that_the_old_one_is_dead() {
    let mut world = World::settled();
    world.kill(0);
    world.restart(0);
    world.run(30 * MS);
    assert_eq!(world.owners(), [1]);
    assert!(world.nodes[1].activated[0].1);
    world.run(300 * MS);
    assert_eq!(world.copies(1), [Copy::Counted; 2], "it comes back as a backup");
}

#[test]
fn a_new_process_of_a_backup_joins_anew() {
    let mut world = World::settled();
    world.kill(1);
    world.restart(1);
    world.run(200 * MS);
    assert_eq!(world.copies(0), [Copy::Counted; 2]);
    assert!(world.registry.record.as_ref().unwrap().copies.contains(&world.process(1)));
    assert!(world.nodes[0].may_act_until.is_some());
}

#[test]
fn a_link_that_was_broken_and_mended_is_joined_anew() {
    let mut world = World::settled();
    for time in [1, 5, 40, 400] {
        world.break_link(0, 1, false);
        world.run(time * MS);
        world.break_link(0, 1, true);
        world.run(200 * MS);
        assert_eq!((world.owners(), world.copies(0)), (vec![0], vec![Copy::Counted; 2]), "{time} ms");
    }
}

#[test]
fn a_move_by_order_goes_where_it_was_ordered() {
    let mut world = World::settled();
    world.nodes[0].member.order_move(id(2)).unwrap();
    world.run(50 * MS);
    assert_eq!(world.owners(), [2]);
    assert!(world.nodes[2].activated[0].1);
    assert_eq!(world.nodes[0].stepped_down, [StepDownReason::Moved]);
    world.run(300 * MS);
    assert_eq!(world.copies(2), [Copy::Counted; 2]);
    world.nodes[1].member.order_here().unwrap();
    world.run(50 * MS);
    assert_eq!(world.owners(), [1]);
}

/// Its copy counts, and it would leave the order alone.
#[test]
fn nothing_moves_to_a_backup_that_cannot_serve() {
    let mut world = World::settled();
    world.nodes[2].member.handle_health(Fitness::WorkerStuck);
    world.run(30 * MS);
    assert_eq!(world.copies(0), [Copy::Counted; 2]);
    assert_eq!(world.nodes[0].member.order_move(id(2)), Err(NotMoved::Unfit));
    assert_eq!(world.nodes[2].member.order_here(), Err(NotMoved::Unfit));
    world.nodes[0].member.order_move(id(1)).unwrap();
    world.run(50 * MS);
    assert_eq!(world.owners(), [1]);
}

#[test]
fn a_move_that_is_not_taken_is_taken_back() {
    let mut world = World::settled();
    world.nodes[2].running = false; // asleep
    world.nodes[0].member.order_move(id(2)).unwrap();
    world.run(200 * MS);
    assert_eq!(world.owners(), [0]);
    assert!(world.nodes[0].stepped_down.is_empty());
    world.nodes[2].running = true;
    world.run(300 * MS);
    assert_eq!(world.owners(), [0], "the order is void");
    assert_eq!(world.copies(0), [Copy::Counted; 2]);
}

/// Its deadline had passed, so it asks at once; the registry says that the group is its own still. The order that its heir finds then is
/// of the past, though nothing in it says so.
#[test]
fn a_move_that_was_taken_back_is_not_taken_later() {
    let mut world = World::settled();
    world.nodes[1].running = false; // asleep, and the order in its inbox
    world.nodes[0].member.handle_health(Fitness::LinkDown);
    world.run(25 * MS);
    world.nodes[0].member.handle_health(Fitness::Fit);
    for _ in 0..300 {
        if world.owners().is_empty() {
            world.run(MS);
        }
    }
    assert_eq!(world.owners(), [0]);
    let listed = |world: &World| world.registry.record.as_ref().unwrap().copies.contains(&world.process(1));
    assert!(!listed(&world), "it could take it when it wakes");
    world.nodes[1].running = true;
    world.run(500 * MS);
    assert_eq!((world.owners(), world.copies(0)), (vec![0], vec![Copy::Counted; 2]));
}

#[test]
fn two_that_have_lost_their_marks_do_not_wait_for_each_other() {
    let mut world = World::settled();
    for other in [1, 2] {
        world.nodes[other].member.held = None;
    }
    world.kill(0);
    world.run(10_000 * MS);
    assert_eq!(world.owners().len(), 1);
}

#[test]
fn the_last_process_alive_takes_what_nobody_resumes() {
    let mut world = World::settled();
    for node in 0..NODES {
        world.kill(node);
    }
    world.run(100 * MS);
    world.restart(2);
    world.run(7000 * MS);
    assert_eq!(world.owners(), [2]);
    assert!(!world.nodes[2].activated[0].1);
}

#[test]
fn an_owner_that_cannot_serve_and_has_no_copy_gives_the_group_up() {
    let mut world = World::settled();
    for other in [1, 2] {
        // They hear each other, and nothing counts.
        for (a, b) in [(0, other), (other, 0)] {
            world.link_works[a][b] = false;
        }
        world.cut(0, other);
    }
    world.run(100 * MS);
    assert_eq!((world.owners(), world.copies(0)), (vec![0], vec![Copy::None; 2]));
    world.nodes[0].member.handle_health(Fitness::WorkerStuck);
    world.run(2000 * MS);
    assert_eq!(world.owners(), [0], "nobody is there to begin anew, as far as it knows");
    world.link_works = [[true; NODES]; NODES];
    world.nodes[0].refuses_joins = true;
    world.run(5000 * MS);
    assert_eq!(world.nodes[0].stepped_down, [StepDownReason::Unfit]);
    assert_eq!(world.owners(), [1]);
    assert!(!world.nodes[1].activated[0].1);
}

/// Its own beats go on arriving, and say how it is; what waits for its acknowledgements would wait for ever.
#[test]
fn a_backup_that_does_not_hear_its_owner_is_left_behind() {
    for fitness in [Fitness::Fit, Fitness::LinkDown, Fitness::WorkerStuck] {
        let mut world = World::settled();
        world.nodes[1].member.handle_health(fitness);
        world.run(20 * MS);
        world.link_works[0][1] = false;
        world.run(2 * Timing::default().trust);
        let (owners, copies) = (world.owners(), world.copies(0));
        assert_eq!((owners, copies), (vec![0], vec![Copy::None, Copy::Counted]), "{fitness:?}");
        world.link_works[0][1] = true;
        world.run(500 * MS);
        assert_eq!((world.owners(), world.copies(0)), (vec![0], vec![Copy::Counted; 2]), "{fitness:?}");
    }
}

/// It holds its copy, and may be well again before it is needed.
#[test]
fn a_backup_that_hears_its_owner_is_kept_though_it_cannot_serve() {
    let mut world = World::settled();
    world.nodes[1].member.handle_health(Fitness::WorkerStuck);
    world.run(2 * Timing::default().trust);
    assert_eq!((world.owners(), world.copies(0)), (vec![0], vec![Copy::Counted; 2]));
    assert!(world.nodes[0].released.is_empty());
}

/// Its deadline has passed, so it would ask whether anybody has begun; and each question would make the backups count anew.
#[test]
fn an_owner_that_cannot_serve_is_followed_although_it_is_alive() {
    let mut world = World::settled();
    world.nodes[0].member.handle_health(Fitness::WorkerStuck);
    world.run(500 * MS);
    assert_eq!(world.owners(), [1]);
    assert!(world.nodes[1].activated[0].1, "from a copy that counts");
}

/// To the best rank that could serve.
#[test]
fn an_owner_whose_data_link_goes_down_hands_over_by_itself() {
    for (unfit, heir) in [(None, 1), (Some(1), 2)] {
        let mut world = World::settled();
        if let Some(unfit) = unfit {
            world.nodes[unfit].member.handle_health(Fitness::WorkerStuck);
            world.run(20 * MS);
        }
        world.nodes[0].member.handle_health(Fitness::LinkDown);
        world.run(40 * MS);
        assert_eq!(world.owners(), [heir]);
        assert_eq!(world.nodes[0].stepped_down, [StepDownReason::Moved]);
        assert!(world.nodes[heir].activated[0].1);
    }
}

/// A move that it doesn't take isn't taken back to be ordered again: another one takes it from an owner that is silent.
#[test]
fn an_owner_whose_data_link_is_down_is_followed_though_its_heir_sleeps() {
    let mut world = World::settled();
    world.nodes[1].running = false;
    world.nodes[0].member.handle_health(Fitness::LinkDown);
    world.run(500 * MS);
    assert_eq!(world.owners(), [2]);
    assert!(world.nodes[2].activated[0].1);
}

#[test]
fn a_record_is_what_an_operator_can_read() {
    let record = Record {
        owner: Process { appliance: id(0), incarnation: 7 },
        epoch: 3,
        copies: vec![Process { appliance: id(1), incarnation: 8 }],
    };
    let bytes = rmp_serde::to_vec_named(&record).unwrap();
    assert_eq!(rmp_serde::from_slice::<Record>(&bytes).unwrap(), record);
}

/// A later release may say more; an older one reads what it knows.
#[test]
fn what_a_later_release_adds_to_the_record_is_passed_over() {
    #[derive(Serialize)]
    struct Later {
        owner: Process,
        epoch: u32,
        copies: Vec<Process>,
        more: &'static str,
    }
    let owner = Process { appliance: id(0), incarnation: 7 };
    let bytes = rmp_serde::to_vec_named(&Later { owner, epoch: 3, copies: Vec::new(), more: "later" }).unwrap();
    assert_eq!(rmp_serde::from_slice::<Record>(&bytes).unwrap(), Record { owner, epoch: 3, copies: Vec::new() });
}

#[derive(Debug, Clone)]
enum Event {
    Kill(usize),
    Restart(usize),
    Sleep(usize),
    Wake(usize),
    Link(usize, usize, bool),
    Network(usize, usize, bool),
    Registry { deaf: bool, mute: bool },
    Reach(usize, bool),
    Move(usize),
}

fn event() -> impl Strategy<Value = Event> {
    let node = 0..NODES;
    prop_oneof![
        node.clone().prop_map(Event::Kill),
        node.clone().prop_map(Event::Restart),
        node.clone().prop_map(Event::Sleep),
        node.clone().prop_map(Event::Wake),
        (node.clone(), node.clone(), any::<bool>()).prop_map(|(a, b, up)| Event::Link(a, b, up)),
        (node.clone(), node.clone(), any::<bool>()).prop_map(|(a, b, up)| Event::Network(a, b, up)),
        (any::<bool>(), any::<bool>()).prop_map(|(deaf, mute)| Event::Registry { deaf, mute }),
        (node.clone(), any::<bool>()).prop_map(|(a, up)| Event::Reach(a, up)),
        node.prop_map(Event::Move),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Whatever happens: whoever may resume is waited for (checked at every step), and once all is well again there is one owner with
    /// two copies that count.
    #[test]
    fn whoever_may_resume_is_waited_for(events in proptest::collection::vec((event(), 1..150u32), 1..25)) {
        let mut world = World::settled();
        let mut asleep = [false; NODES];
        for (event, time) in events {
            match event {
                Event::Kill(node) if world.nodes[node].running => world.kill(node),
                Event::Restart(node) if !world.nodes[node].running && !asleep[node] => world.restart(node),
                Event::Sleep(node) if world.nodes[node].running => {
                    world.nodes[node].running = false;
                    asleep[node] = true;
                }
                Event::Wake(node) if asleep[node] => {
                    world.nodes[node].running = true;
                    asleep[node] = false;
                }
                Event::Link(a, b, works) if a != b => world.break_link(a, b, works),
                Event::Network(a, b, works) if a != b => world.networks[a][b] = works,
                Event::Registry { deaf, mute } => (world.registry.deaf, world.registry.mute) = (deaf, mute),
                Event::Reach(node, reaches) => world.nodes[node].cut_from_registry = !reaches,
                Event::Move(node) => if let Some(owner) = world.owners().first().copied() {
                    let _ = world.nodes[owner].member.order_move(id(node));
                },
                _ => {}
            }
            world.run(time * MS);
        }
        (world.registry.deaf, world.registry.mute) = (false, false);
        world.networks = [[true; NODES]; NODES];
        world.link_works = [[true; NODES]; NODES];
        for (node, asleep) in asleep.into_iter().enumerate() {
            world.nodes[node].cut_from_registry = false;
            if asleep {
                world.nodes[node].running = true;
            } else if !world.nodes[node].running {
                world.restart(node);
            }
        }
        world.run(12_000 * MS);
        let owners = world.owners();
        prop_assert_eq!(owners.len(), 1);
        prop_assert_eq!(world.copies(owners[0]), vec![Copy::Counted; 2]);
    }
}
