//! The protocol between the two appliances of a pair.
//!
//! ```text
//!            silence on both paths,             SAs installed:
//!            or the owner's process died        trust is judged
//!   Standby ───────────────────────────► Taking ──────────────► Owner
//!      ▲                                   │                   │  │ ▲
//!      │          a higher (epoch, id)     │                   │  │ │ not begun: taken back (R7)
//!      ├───────────────────────────────────┘   ordered to move │  ▼ │
//!      │                                                       │ HandingOver
//!      │     a higher (epoch, id), or uncertain (R7)           │  │
//!      └───────────────────────────────────────────────────────┴──┘
//! ```
//!
//! A [`Pair`] is about one *group*: VIPs that move together. It has such a role, and liveness, trust and a store link of its own, so
//! that whatever happens to one group costs the others nothing. As an owner, an appliance has a *copy* at its peer (`None → Joining
//! → Counted → Leaving → None`); as a backup it *holds* one.

mod backup;
mod owner;
mod split;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::Instant;

use vipsec_wire::iv::{ApplianceId, Epoch};

use crate::advertisement::{Advertisement, AdvertisementError, ReplayGuard};
use crate::decider::{Action, Copy, Decider, Fitness, NotMoved, PeerStatus, Role, Status, StepDownReason};
use crate::floor::Floor;
use crate::liveness::{Hearing, Silence, Stamps};
use crate::message::{GroupStatus, Message};
use crate::timing::Timing;

/// What a pair has to know.
#[derive(Debug, Clone)]
pub struct PairConfig {
    /// This appliance.
    pub me: ApplianceId,
    /// The other one.
    pub peer: ApplianceId,
    /// Times, the same on both.
    pub timing: Timing,
    /// Does this appliance take the group first when nobody owns it?
    pub preferred: bool,
    /// The epochs that were taken before this process began.
    pub floor: Floor,
}

/// The copy of the peer's group that we hold, as a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Held {
    /// The process that filled it.
    incarnation: u64,
    /// It may be resumed from until then.
    trusted_until: Instant,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Link {
    incarnation: u64,
    agreed: bool,
    heard_beat: bool,
    /// The peer's newest beat says that it could serve.
    healthy: bool,
    /// And that it owns the group.
    owned: bool,
    /// We have written into its region.
    is_used: bool,
    /// When the look was that the peer's newest heartbeat echoes: our copy is trusted from then on.
    echoed_look: Option<Instant>,
    /// Does it hear us? It says so whether it can serve or not.
    hearing: Hearing,
    /// The peer's newest stamp and when it arrived.
    newest_stamp: Option<(u64, Instant)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Question {
    nonce: u64,
    /// The backup process that may have acted: another one's answer is worth nothing.
    process: Option<u64>,
    asked: Instant,
    uncertain_since: Instant,
}

/// One side of a pair, for one group.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pair {
    me: ApplianceId,
    peer: ApplianceId,
    timing: Timing,
    role: Role,
    floor: Floor,
    floor_asked: u32,
    preferred: bool,
    peer_owns: bool,
    peer_holds_copy: bool,
    /// The highest epoch that anybody was seen with.
    seen: Epoch,
    ownerless_since: Instant,
    link: Option<Link>,
    stamps: Stamps,
    silence: Silence,
    guard: ReplayGuard,
    next_tick: Instant,
    healthy: bool,
    /// A data link has just gone down: the backup may have the group at once.
    gives_way: bool,
    /// It moved too often.
    is_held: bool,
    // as an owner
    copy: Copy,
    deadline: Option<Instant>,
    question: Option<Question>,
    questions: u64,
    /// When the newest stamp that we ever echoed had arrived.
    echoed_arrival: Option<Instant>,
    /// The process that was told to take the group.
    told_process: Option<u64>,
    /// Since when no copy of ours is being written.
    alone_since: Instant,
    /// The other one, that had our records or was to get them, went without a word.
    is_missing: bool,
    /// When it was last counted whom we have served, and what came of it.
    counted: Option<Instant>,
    served: Option<u32>,
    /// What the one with the lower epoch says.
    rival: Option<u32>,
    /// Since when we have known that the other one owns the group, too, and wait for it to stop.
    contending: Option<Instant>,
    /// What we resumed was trusted until then, and nobody may have heard of it yet.
    resumed_on_trust: Option<Instant>,
    // as a backup
    held: Option<Held>,
    retired: bool,
    actions: VecDeque<Action>,
}

impl Pair {
    /// Starts as a backup, and listens.
    pub fn new(config: PairConfig, now: Instant) -> Self {
        let mut pair = Self {
            me: config.me,
            peer: config.peer,
            timing: config.timing,
            role: Role::Standby,
            floor: config.floor,
            floor_asked: 0,
            preferred: config.preferred,
            peer_owns: false,
            peer_holds_copy: false,
            seen: Epoch(0),
            ownerless_since: now,
            link: None,
            stamps: Stamps::new(now),
            silence: Silence::default(),
            guard: ReplayGuard::default(),
            next_tick: now,
            healthy: true,
            gives_way: false,
            is_held: false,
            copy: Copy::None,
            deadline: None,
            question: None,
            questions: 0,
            echoed_arrival: None,
            told_process: None,
            alone_since: now,
            is_missing: false,
            counted: None,
            served: None,
            rival: None,
            contending: None,
            resumed_on_trust: None,
            held: None,
            retired: false,
            actions: VecDeque::new(),
        };
        pair.actions.push_back(Action::Deadline(None));
        pair.reserve_floor();
        pair
    }

    /// The store link is paired with that process. `agreed`: the configurations that matter are the same.
    pub fn handle_link_up(&mut self, now: Instant, incarnation: u64, agreed: bool) {
        self.silence.restart();
        self.guard.pin(incarnation);
        // Either it speaks for itself, or a new process of it proves that the old one is dead.
        self.is_missing = false;
        self.link = Some(Link {
            incarnation,
            agreed,
            heard_beat: false,
            healthy: false,
            owned: false,
            is_used: false,
            echoed_look: None,
            hearing: Hearing::default(),
            newest_stamp: None,
        });
        match self.held {
            // Another process answers: the one that filled our copy is gone, and with it the group's owner.
            Some(held) if held.incarnation != incarnation => self.take_from_the_dead(now),
            // The same process paired anew: the old region's acknowledgements don't count any more. Only a takeover that has its epoch
            // already goes on with it: from here on its beats say that it has begun.
            _ => {
                self.give_up_waiting_for_disk(now);
                if !self.is_taking() {
                    self.held = None;
                }
            }
        }
    }

    /// The store link is closed, from whichever side.
    pub fn handle_link_down(&mut self, now: Instant) {
        if self.link.take().is_some() {
            self.lose_link(now);
        }
    }

    /// Our copy at the peer.
    pub fn copy(&self) -> Copy {
        self.copy
    }

    fn is_taking(&self) -> bool {
        matches!(self.role, Role::Taking { .. })
    }

    fn owns(&self) -> bool {
        matches!(self.role, Role::Owner { .. } | Role::HandingOver { .. })
    }

    fn send(&mut self, message: Message) {
        if self.link.is_some() {
            self.actions.push_back(Action::Send { to: self.peer, message });
        }
    }

    fn close_link(&mut self, now: Instant) {
        if self.link.take().is_some() {
            self.actions.push_back(Action::CloseLink(self.peer));
            self.lose_link(now);
        }
    }

    fn lose_link(&mut self, now: Instant) {
        self.guard.unpin();
        // What the peer holds of us it holds no longer than its trust lasts, and claims take longer than that.
        self.peer_holds_copy = false;
        self.is_missing |= self.owns() && self.copy != Copy::None;
        self.leave_copy(now);
    }

    fn beat(&mut self, now: Instant) {
        let stamp = self.stamps.stamp(now);
        // What an owner that stopped says must not keep the backup waiting: only a certain one sends heartbeats.
        let healthy = self.healthy && self.question.is_none() && self.contending.is_none();
        let Some(link) = &self.link else { return };
        let newest = link.newest_stamp;
        let echo = newest.map(|(stamp, _)| stamp);
        if let (true, Some((_, arrived))) = (healthy, newest) {
            self.echoed_arrival = Some(arrived);
        }
        let (owned, epoch) = match self.role {
            Role::Owner { epoch } | Role::HandingOver { epoch, .. } | Role::Taking { epoch: Some(epoch) } => {
                (true, epoch.0)
            }
            Role::Standby | Role::Taking { epoch: None } => (false, self.seen.0),
        };
        let status = GroupStatus { owned, epoch, holds_copy: self.held.is_some(), revision: 0 };
        self.send(Message::Beat { stamp, echo, healthy, status });
        self.tell_served(now);
    }

    fn handle_beat(&mut self, now: Instant, stamp: u64, echo: Option<u64>, healthy: bool, status: GroupStatus) {
        let echoed = echo.and_then(|echo| self.stamps.when(echo));
        let trust = self.timing.trust;
        let Some(link) = &mut self.link else { return };
        link.heard_beat = true;
        (link.healthy, link.owned) = (healthy, status.owned);
        if link.newest_stamp.is_none_or(|(newest, _)| stamp > newest) {
            link.newest_stamp = Some((stamp, now));
        }
        link.hearing.handle_beat(now, echo, healthy);
        if healthy {
            link.echoed_look = link.echoed_look.max(echoed);
            if let (Some(held), Some(look)) = (&mut self.held, echoed)
                && held.incarnation == link.incarnation
            {
                held.trusted_until = held.trusted_until.max(look + trust);
            }
        }
        self.peer_holds_copy = status.holds_copy;
        let epoch = Epoch(status.epoch);
        if status.owned && epoch >= self.seen {
            self.peer_owns = true;
            if healthy {
                self.silence.heard();
            }
            self.seen = epoch;
            self.resolve(now, epoch);
        } else if !status.owned {
            if self.peer_owns {
                self.ownerless_since = now;
            }
            self.peer_owns = false;
            self.seen = self.seen.max(epoch);
            self.outrank(now);
        }
        self.reserve_floor();
        self.meet_backup();
    }

    /// Two owners: the higher (epoch, id) stays, but for a split (see [`split`]).
    fn resolve(&mut self, now: Instant, theirs: Epoch) {
        let (mine, reason) = match self.role {
            Role::Standby => return,
            // The owner lives after all, and nothing was done yet.
            Role::Taking { epoch: None } => {
                self.role = Role::Standby;
                return;
            }
            Role::Taking { epoch: Some(epoch) } | Role::Owner { epoch } => (epoch, StepDownReason::Deposed),
            Role::HandingOver { epoch, told: Some(_) } => (epoch, StepDownReason::Moved),
            // Not by our order: the workers may not have stopped yet.
            Role::HandingOver { epoch, told: None } => (epoch, StepDownReason::Deposed),
        };
        if (theirs, self.peer) > (mine, self.me) && !self.contends(now) {
            self.step_down(now, reason);
        }
    }

    fn reserve_floor(&mut self) {
        if let Some(value) = self.floor.wants_reserved(self.seen) {
            self.ask_for_floor(value);
        }
    }

    fn ask_for_floor(&mut self, value: u32) {
        if value > self.floor_asked {
            self.floor_asked = value;
            self.actions.push_back(Action::ReserveFloor(value));
        }
    }
}

impl Decider for Pair {
    fn poll_timeout(&self) -> Instant {
        self.next_tick
    }

    fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    fn handle_timeout(&mut self, now: Instant) {
        if now < self.next_tick {
            return;
        }
        self.next_tick = now + self.timing.interval;
        self.look(now);
        self.keep_owning(now);
        self.beat(now);
    }

    fn handle_link_up(&mut self, now: Instant, _peer: ApplianceId, process: u64, agreed: bool) {
        self.handle_link_up(now, process, agreed);
    }

    fn handle_link_down(&mut self, now: Instant, _peer: ApplianceId) {
        self.handle_link_down(now);
    }

    fn handle_message(&mut self, now: Instant, _peer: ApplianceId, message: &Message) {
        if self.link.is_none() {
            return;
        }
        match message {
            Message::Beat { stamp, echo, healthy, status } => self.handle_beat(now, *stamp, *echo, *healthy, *status),
            Message::Joined => self.handle_joined(now),
            Message::Question { nonce } => self.handle_question(now, *nonce),
            Message::Answer { nonce, begun } => self.handle_answer(now, *nonce, *begun),
            Message::HandOver { epoch } => self.handle_hand_over(now, Epoch(*epoch)),
            Message::WantGroup => {
                if let Err(reason) = self.order_move() {
                    self.send(Message::NotMoved { reason });
                }
            }
            Message::GivenUp => self.handle_given_up(now),
            Message::Served { remote_peers, millis_ago } => self.handle_rival(now, *remote_peers, *millis_ago),
            // Whoever counts moves says when the group is held.
            Message::Moves(_) | Message::Released => {}
            // For the operator.
            Message::NotMoved { .. } | Message::Configuration { .. } => {}
        }
    }

    fn handle_advertisement(&mut self, now: Instant, advert: &Advertisement) -> Result<(), AdvertisementError> {
        if advert.owner != self.peer {
            return Err(AdvertisementError::Malformed);
        }
        self.guard.check(advert)?;
        if advert.epoch < self.seen {
            return Ok(()); // a deposed owner's last words are no sign of life
        }
        self.peer_owns = true;
        self.seen = advert.epoch;
        self.silence.heard();
        self.resolve(now, advert.epoch);
        self.reserve_floor();
        Ok(())
    }

    fn handle_health(&mut self, fitness: Fitness) {
        let was_healthy = std::mem::replace(&mut self.healthy, fitness == Fitness::Fit);
        self.gives_way = !self.healthy && (self.gives_way || (was_healthy && fitness == Fitness::LinkDown));
    }

    fn handle_hold(&mut self, held: bool) {
        self.is_held = held;
    }

    fn handle_floor_reserved(&mut self, now: Instant, value: u32) {
        self.floor.reserved(value);
        if self.role == (Role::Taking { epoch: None }) {
            self.begin(now);
        }
    }

    fn handle_served(&mut self, now: Instant, count: u32) {
        self.served = Some(count);
        self.give_way(now);
    }

    fn handle_join_published(&mut self, _now: Instant, _peer: ApplianceId) {
        self.handle_join_published();
    }

    fn give_up_join(&mut self, _peer: ApplianceId) -> bool {
        self.give_up_join()
    }

    fn handle_refused(&mut self, now: Instant, _peer: ApplianceId) {
        self.handle_refused(now);
    }

    fn handle_staged(&mut self, now: Instant) {
        self.handle_staged(now);
    }

    fn handle_stopped(&mut self, now: Instant) {
        self.handle_stopped(now);
    }

    fn order_move(&mut self, _to: ApplianceId) -> Result<(), NotMoved> {
        self.order_move()
    }

    fn order_here(&mut self) -> Result<(), NotMoved> {
        self.order_here()
    }

    fn status(&self, now: Instant) -> Status {
        let peer = PeerStatus {
            appliance: self.peer,
            linked: self.link.is_some(),
            agreed: self.link.as_ref().is_some_and(|link| link.agreed),
            healthy: self.link.as_ref().is_some_and(|link| link.healthy),
            copy: self.copy,
        };
        Status {
            role: self.role,
            owner: self.peer_owns.then_some(self.peer),
            seen: self.seen,
            trusted: self.trusts(now),
            silent_looks: self.silence.looks(),
            peers: vec![peer],
        }
    }

    fn retire(&mut self) {
        self.retire();
    }

    fn floor_is_known(&self) -> bool {
        self.floor.is_known()
    }

    fn role(&self) -> Role {
        self.role
    }

    fn holds_copy(&self) -> bool {
        self.held.is_some()
    }

    fn missing_since(&self) -> Option<Instant> {
        (self.owns() && self.is_missing).then_some(self.alone_since)
    }
}
