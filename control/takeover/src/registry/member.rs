//! One appliance's part in a group that a registry decides over: its state, and what comes in.
//!
//! ```text
//!            the owner is silent, or gone:      written               SAs installed
//!            a write on the known revision
//!   Standby ───────────────────────────► Taking ──────────► (staging) ─────────────► Owner
//!      ▲    ◄───────────────────────────    │                                         │ ▲
//!      │      refused: another was faster   │ no answer: written again,               │ │ not begun, or
//!      │                                    │ or its revision used up                 ▼ │ our write succeeds
//!      │                                    └─ if the owner is heard meanwhile    HandingOver
//!      └──────────────────────────────────────────────────────────────────────────────┘
//!         a higher epoch is heard, a write of ours is refused by the registry or by a backup that has begun
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use vipsec_wire::iv::{ApplianceId, Epoch};

use super::backup::Claim;
use super::owner::Doubt;
use super::{Process, Record, Reply, Request, Standing};
use crate::advertisement::{Advertisement, AdvertisementError, ReplayGuard};
use crate::decider::{Action, Copy, Decider, Fitness, NotMoved, PeerStatus, Role, Status, StepDownReason};
use crate::floor::Floor;
use crate::liveness::{Hearing, Silence, Stamps};
use crate::message::{GroupStatus, Message};
use crate::timing::Timing;

/// What a member has to know.
#[derive(Debug, Clone)]
pub struct MemberConfig {
    /// This process.
    pub me: Process,
    /// Everybody who may own the group, this appliance included, best rank first.
    pub ranks: Vec<ApplianceId>,
    /// Times, the same on all.
    pub timing: Timing,
    /// The epochs that were taken before this process began.
    pub floor: Floor,
}

/// Another appliance of the group.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Mate {
    pub(super) link: Option<Link>,
    pub(super) copy: Kept,
    guard: ReplayGuard,
}

/// A standing pairing.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Link {
    pub(super) incarnation: u64,
    pub(super) agreed: bool,
    /// When the newest beat arrived, and its stamp.
    pub(super) beat: Option<(u64, Instant)>,
    /// Does it hear us? It says so whether it can serve or not.
    pub(super) hearing: Hearing,
    /// It has begun to take over from what an earlier pairing has given it.
    pub(super) holds_ours: bool,
    /// Its newest beat says that it could serve.
    pub(super) healthy: bool,
    pub(super) owns: bool,
    /// We have written into its region: it joins once a pairing.
    pub(super) is_used: bool,
    /// We have our mark from it: what it wrote into our region is whole.
    pub(super) is_marked: bool,
}

/// Our copy at another appliance, as we see it as an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kept {
    None,
    /// It is being filled.
    Joining,
    /// It is whole, and waits to be listed before it gets its mark: nobody resumes from it yet.
    Ready,
    /// It has its mark.
    Counted,
    /// The link is gone; that process may still resume from it until it is off the list.
    Leaving {
        incarnation: u64,
        since: Instant,
    },
}

/// One appliance's part in a group that a registry decides over.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Member {
    pub(super) me: Process,
    pub(super) ranks: Vec<ApplianceId>,
    pub(super) timing: Timing,
    pub(super) role: Role,
    pub(super) floor: Floor,
    floor_asked: u32,
    pub(super) mates: BTreeMap<ApplianceId, Mate>,
    pub(super) healthy: bool,
    /// A data link has just gone down: a backup may have the group at once.
    pub(super) gives_way: bool,
    /// It moved too often.
    pub(super) is_held: bool,
    next_tick: Instant,
    stamps: Stamps,
    /// The other appliance that owns it, as far as was heard.
    pub(super) owner: Option<ApplianceId>,
    /// The highest epoch under which anybody owned it.
    pub(super) seen: Epoch,
    /// The newest that we know of the registry, and when it was learned.
    pub(super) known: Option<(Standing, Instant)>,
    /// The newest revision that an owner spoke of.
    pub(super) named: u64,
    /// A request is under way since then.
    pub(super) asked: Option<(Request, Instant)>,
    /// What we wrote last was not answered: it may stand or not.
    pub(super) is_unsure: bool,
    /// No further request before.
    pub(super) ask_again: Instant,
    // as an owner
    pub(super) deadline: Option<Instant>,
    pub(super) doubt: Option<Doubt>,
    pub(super) questions: u64,
    /// Since when we can't serve.
    pub(super) unfit_since: Option<Instant>,
    /// To whom a move was ordered.
    pub(super) target: Option<ApplianceId>,
    // as a backup
    pub(super) silence: Silence,
    /// Since when nobody is heard who owns it.
    pub(super) missing_since: Option<Instant>,
    /// Our mark: the process that has filled the copy that we hold.
    pub(super) held: Option<Process>,
    pub(super) claim: Option<Claim>,
    pub(super) actions: VecDeque<Action>,
}

impl Member {
    /// Starts as a backup, and listens.
    pub fn new(config: MemberConfig, now: Instant) -> Self {
        let MemberConfig { me, ranks, timing, floor } = config;
        let others = ranks.iter().filter(|id| **id != me.appliance);
        let mate = |id: &ApplianceId| (*id, Mate { link: None, copy: Kept::None, guard: ReplayGuard::default() });
        let mut member = Self {
            me,
            mates: others.map(mate).collect(),
            ranks,
            timing,
            role: Role::Standby,
            floor,
            floor_asked: 0,
            healthy: true,
            gives_way: false,
            is_held: false,
            next_tick: now,
            stamps: Stamps::new(now),
            owner: None,
            seen: Epoch(0),
            known: None,
            named: 0,
            asked: None,
            is_unsure: false,
            ask_again: now,
            deadline: None,
            doubt: None,
            questions: 0,
            target: None,
            unfit_since: None,
            silence: Silence::default(),
            missing_since: Some(now),
            held: None,
            claim: None,
            actions: VecDeque::new(),
        };
        member.actions.push_back(Action::Deadline(None));
        member.reserve_floor();
        member
    }

    /// Between two attempts to get an answer out of a registry that gives none.
    pub(super) fn patience(&self) -> Duration {
        self.timing.detection
    }

    pub(super) fn mate(&mut self, id: ApplianceId) -> Option<&mut Mate> {
        self.mates.get_mut(&id)
    }

    pub(super) fn is_linked(&self, id: ApplianceId) -> bool {
        self.mates.get(&id).is_some_and(|mate| mate.link.is_some())
    }

    pub(super) fn owns(&self) -> bool {
        matches!(self.role, Role::Owner { .. } | Role::HandingOver { .. })
    }

    /// The epoch under which the registry says that it is ours.
    pub(super) fn epoch(&self) -> Option<Epoch> {
        match self.role {
            Role::Owner { epoch } | Role::HandingOver { epoch, .. } => Some(epoch),
            Role::Taking { epoch } if self.claim.as_ref().is_some_and(|claim| claim.is_written) => epoch,
            Role::Standby | Role::Taking { .. } => None,
        }
    }

    pub(super) fn send(&mut self, to: ApplianceId, message: Message) {
        if self.is_linked(to) {
            self.actions.push_back(Action::Send { to, message });
        }
    }

    pub(super) fn close_link(&mut self, now: Instant, id: ApplianceId) {
        if self.is_linked(id) {
            self.actions.push_back(Action::CloseLink(id));
            self.lose_link(now, id);
        }
    }

    fn lose_link(&mut self, now: Instant, id: ApplianceId) {
        let Some(mate) = self.mates.get_mut(&id) else { return };
        if let Some(link) = mate.link.take() {
            mate.guard.unpin();
            self.leave_copy(now, id, link.incarnation);
        }
    }

    /// Asks the registry, if nothing else is under way.
    pub(super) fn ask(&mut self, now: Instant, request: Request) {
        if self.asked.is_none() && now >= self.ask_again {
            self.asked = Some((request.clone(), now));
            self.actions.push_back(Action::Ask(request));
        }
    }

    /// The record as we know it.
    pub(super) fn record(&self) -> Option<&Record> {
        self.known.as_ref().and_then(|(standing, _)| standing.record.as_ref())
    }

    pub(super) fn revision(&self) -> u64 {
        self.known.as_ref().map_or(0, |(standing, _)| standing.revision)
    }

    /// Takes note of how the registry stands.
    pub(super) fn learn(&mut self, now: Instant, standing: Standing) {
        // Somebody has written since, so somebody lives: whoever acts on what he heard before would act too soon.
        if self.known.is_none() || self.revision() != standing.revision {
            self.silence.restart();
        }
        if let Some(record) = &standing.record {
            let epoch = Epoch(record.epoch);
            if epoch > self.seen {
                self.seen = epoch;
                let lives = record.owner.appliance != self.me.appliance && standing.alive.contains(&record.owner);
                self.owner = lives.then_some(record.owner.appliance);
                if lives {
                    self.missing_since = None;
                } else {
                    self.missing_since.get_or_insert(now);
                }
            }
        }
        self.known = Some((standing, now));
        self.reserve_floor();
    }

    fn beat(&mut self, now: Instant) {
        let stamp = self.stamps.stamp(now);
        // What an owner in doubt says must not keep its backups waiting.
        let healthy = self.healthy && self.doubt.is_none();
        let owned = self.epoch();
        let taking = matches!(self.role, Role::Taking { .. });
        let revision = if owned.is_some() { self.revision() } else { 0 };
        let epoch = owned.unwrap_or(self.seen).0;
        let linked: Vec<_> = self.mates.iter().filter_map(|(id, mate)| Some((*id, mate.link.as_ref()?))).collect();
        let beats: Vec<_> = linked
            .into_iter()
            .map(|(id, link)| {
                let of_theirs = Process { appliance: id, incarnation: link.incarnation };
                let holds_copy = taking && self.held == Some(of_theirs);
                let status = GroupStatus { owned: owned.is_some(), epoch, holds_copy, revision };
                let echo = link.beat.map(|(stamp, _)| stamp);
                (id, Message::Beat { stamp, echo, healthy, status })
            })
            .collect();
        for (to, message) in beats {
            self.send(to, message);
        }
    }

    fn handle_beat(
        &mut self,
        now: Instant,
        from: ApplianceId,
        (stamp, echo): (u64, Option<u64>),
        healthy: bool,
        status: GroupStatus,
    ) {
        let Some(link) = self.mate(from).and_then(|mate| mate.link.as_mut()) else { return };
        if link.beat.is_none_or(|(newest, _)| stamp > newest) {
            link.beat = Some((stamp, now));
        }
        link.hearing.handle_beat(now, echo, healthy);
        (link.holds_ours, link.healthy, link.owns) = (status.holds_copy, healthy, status.owned);
        let epoch = Epoch(status.epoch);
        if status.owned {
            if epoch >= self.seen {
                self.named = self.named.max(status.revision);
                self.hear_owner(now, from, epoch, healthy);
            }
        } else if self.owner == Some(from) {
            // It was, and gave it up.
            self.owner = None;
            self.missing_since = Some(now);
        }
        self.reserve_floor();
        self.meet(from);
    }

    /// Another one says that it owns the group. `healthy`: and that it serves.
    fn hear_owner(&mut self, now: Instant, owner: ApplianceId, epoch: Epoch, healthy: bool) {
        if self.epoch().is_some_and(|mine| mine < epoch) {
            let told = matches!(self.role, Role::HandingOver { told: Some(_), .. });
            self.step_down(now, if told { StepDownReason::Moved } else { StepDownReason::Deposed });
        }
        self.owner = Some(owner);
        self.seen = epoch;
        if healthy {
            self.silence.heard();
            self.missing_since = None;
            self.note_owner_lives();
        }
    }

    fn reserve_floor(&mut self) {
        if let Some(value) = self.floor.wants_reserved(self.seen) {
            self.ask_for_floor(value);
        }
    }

    pub(super) fn ask_for_floor(&mut self, value: u32) {
        if value > self.floor_asked {
            self.floor_asked = value;
            self.actions.push_back(Action::ReserveFloor(value));
        }
    }

    /// Which rank is it?
    pub(super) fn rank(&self, id: ApplianceId) -> usize {
        self.ranks.iter().position(|rank| *rank == id).unwrap_or(usize::MAX)
    }
}

impl Decider for Member {
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

    fn handle_link_up(&mut self, now: Instant, peer: ApplianceId, process: u64, agreed: bool) {
        let Some(mate) = self.mates.get_mut(&peer) else { return };
        mate.guard.pin(process);
        mate.link = Some(Link {
            incarnation: process,
            agreed,
            beat: None,
            hearing: Hearing::default(),
            holds_ours: false,
            healthy: false,
            owns: false,
            is_used: false,
            is_marked: false,
        });
        if let Kept::Leaving { incarnation, .. } = mate.copy
            && incarnation != process
        {
            // Its region died with it: nobody can resume from that any more.
            mate.copy = Kept::None;
            self.actions.push_back(Action::Release(peer));
        }
        self.note_pairing(now, Process { appliance: peer, incarnation: process });
    }

    fn handle_link_down(&mut self, now: Instant, peer: ApplianceId) {
        self.lose_link(now, peer);
    }

    fn handle_message(&mut self, now: Instant, peer: ApplianceId, message: &Message) {
        if !self.is_linked(peer) {
            return;
        }
        match message {
            Message::Beat { stamp, echo, healthy, status } => {
                self.handle_beat(now, peer, (*stamp, *echo), *healthy, *status);
            }
            Message::Joined => self.handle_joined(peer),
            Message::Question { nonce } => self.handle_question(peer, *nonce),
            Message::Answer { nonce, begun } => self.handle_answer(now, peer, *nonce, *begun),
            Message::HandOver { epoch } => self.handle_hand_over(now, peer, Epoch(*epoch)),
            Message::WantGroup => {
                if let Err(reason) = self.order_move(peer) {
                    self.send(peer, Message::NotMoved { reason });
                }
            }
            // A member ends without a word: only the registry's list tells whose copy counts.
            Message::GivenUp | Message::Served { .. } | Message::Moves(_) | Message::Released => {}
            // For the operator.
            Message::NotMoved { .. } | Message::Configuration { .. } => {}
        }
    }

    fn handle_advertisement(&mut self, now: Instant, advertisement: &Advertisement) -> Result<(), AdvertisementError> {
        let mate = self.mates.get_mut(&advertisement.owner).ok_or(AdvertisementError::Malformed)?;
        mate.guard.check(advertisement)?;
        // A deposed owner's last words are no sign of life.
        if advertisement.epoch >= self.seen {
            self.hear_owner(now, advertisement.owner, advertisement.epoch, true);
            self.reserve_floor();
        }
        Ok(())
    }

    fn handle_hold(&mut self, held: bool) {
        self.is_held = held;
    }

    fn handle_health(&mut self, fitness: Fitness) {
        let was_healthy = std::mem::replace(&mut self.healthy, fitness == Fitness::Fit);
        self.gives_way = !self.healthy && (self.gives_way || (was_healthy && fitness == Fitness::LinkDown));
    }

    fn handle_floor_reserved(&mut self, _now: Instant, value: u32) {
        self.floor.reserved(value);
    }

    fn handle_registry(&mut self, now: Instant, reply: Reply) {
        let Some((request, asked)) = self.asked.take() else { return };
        if reply == Reply::Silence {
            self.is_unsure |= matches!(request, Request::Write { .. });
            self.ask_again = now + self.patience();
            return;
        }
        if self.owns() {
            self.handle_reply_as_owner(now, request, asked, reply);
        } else {
            self.handle_reply_as_backup(now, request, reply);
        }
    }

    fn handle_join_published(&mut self, now: Instant, peer: ApplianceId) {
        let linked = self.is_linked(peer);
        if let Some(mate) = self.mate(peer)
            && mate.copy == Kept::Joining
            && linked
        {
            mate.copy = Kept::Ready;
            self.reconcile(now);
        }
    }

    fn give_up_join(&mut self, peer: ApplianceId) -> bool {
        let Some(mate) = self.mate(peer).filter(|mate| matches!(mate.copy, Kept::Joining | Kept::Ready)) else {
            return false;
        };
        // It never gets its mark.
        mate.copy = Kept::None;
        self.actions.push_back(Action::Release(peer));
        true
    }

    fn handle_refused(&mut self, now: Instant, peer: ApplianceId) {
        // A backup fences only once the registry calls it owner.
        let told = matches!(self.role, Role::HandingOver { told: Some(_), .. });
        self.step_down(now, if told { StepDownReason::Moved } else { StepDownReason::Refused });
        self.close_link(now, peer);
    }

    fn handle_staged(&mut self, now: Instant) {
        self.begin_to_own(now);
    }

    fn handle_stopped(&mut self, now: Instant) {
        self.hand_over(now);
    }

    fn order_move(&mut self, to: ApplianceId) -> Result<(), NotMoved> {
        let epoch = match self.role {
            Role::Owner { epoch } => epoch,
            Role::HandingOver { .. } => return Err(NotMoved::Moving),
            Role::Standby | Role::Taking { .. } => return Err(NotMoved::NotOwned),
        };
        let mate = self.mates.get(&to).ok_or(NotMoved::NoCopy)?;
        let link = mate.link.as_ref().ok_or(NotMoved::NotLinked)?;
        match mate.copy {
            Kept::Counted => {}
            _ if !link.agreed => return Err(NotMoved::Differs),
            Kept::Joining | Kept::Ready => return Err(NotMoved::Joining),
            Kept::None | Kept::Leaving { .. } => return Err(NotMoved::NoCopy),
        }
        // It would leave the order alone, and the group would stand still for nothing.
        if !link.healthy {
            return Err(NotMoved::Unfit);
        }
        if self.doubt.is_some() {
            return Err(NotMoved::InDoubt);
        }
        self.role = Role::HandingOver { epoch, told: None };
        self.target = Some(to);
        self.actions.push_back(Action::Stop);
        Ok(())
    }

    fn order_here(&mut self) -> Result<(), NotMoved> {
        match self.role {
            Role::Standby => {}
            Role::Taking { .. } | Role::HandingOver { .. } => return Err(NotMoved::Moving),
            Role::Owner { .. } => return Err(NotMoved::AlreadyThere),
        }
        let owner = self.owner.ok_or(NotMoved::NoOwner)?;
        if !self.is_linked(owner) {
            return Err(NotMoved::NotLinked);
        }
        if !self.may_resume() {
            return Err(NotMoved::NoCopy);
        }
        if !self.healthy {
            return Err(NotMoved::Unfit);
        }
        self.send(owner, Message::WantGroup);
        Ok(())
    }

    fn status(&self, now: Instant) -> Status {
        let peer = |id: &ApplianceId| {
            let mate = self.mates.get(id)?;
            let copy = match mate.copy {
                Kept::None => Copy::None,
                Kept::Joining => Copy::Joining,
                // Its mark may be on its way in the same step as the registry's answer.
                Kept::Ready => Copy::Joining,
                Kept::Counted => Copy::Counted,
                Kept::Leaving { .. } => Copy::Leaving { until: now },
            };
            Some(PeerStatus {
                appliance: *id,
                linked: mate.link.is_some(),
                agreed: mate.link.as_ref().is_some_and(|link| link.agreed),
                healthy: mate.link.as_ref().is_some_and(|link| link.healthy),
                copy,
            })
        };
        Status {
            role: self.role,
            owner: self.owner,
            seen: self.seen,
            trusted: match &self.claim {
                Some(claim) => claim.trusted,
                None => !self.owns() && self.may_resume(),
            },
            silent_looks: self.silence.looks(),
            peers: self.ranks.iter().filter_map(peer).collect(),
        }
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
}
