//! Two pairs, a link and two data networks with simulated time: the stories that the protocol is made for.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::*;

mod doubt;
mod ends;
mod fitness;
mod links;
mod moves;
mod splits;
mod takeovers;

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
