//! The owner's side: saying that it lives, stopping when it can't be sure, and its copies: filled, listed, counted, struck off.

use std::collections::BTreeSet;
use std::time::Instant;

use vipsec_wire::iv::{ApplianceId, Epoch};

use super::member::{Kept, Link, Member};
use super::{Process, Record, Reply, Request, Standing};
use crate::decider::{Action, Decider, Role, StepDownReason};
use crate::message::Message;

/// The owner can't exclude that another one acts (R7): its workers stand still until that is cleared up.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Doubt {
    nonce: u64,
    asked: Instant,
    since: Instant,
    /// Whose copies may be resumed from, and who have not said that they haven't begun.
    unanswered: BTreeSet<ApplianceId>,
    /// Somebody has begun: only the registry knows what came of it.
    has_begun: bool,
}

impl Member {
    /// The backup's first beat of a pairing, or a later one that says that it gave up what it held of us: it joins.
    pub(super) fn meet(&mut self, id: ApplianceId) {
        if !matches!(self.role, Role::Owner { .. }) {
            return;
        }
        let Some(mate) = self.mates.get_mut(&id) else { return };
        let Some(link) = mate.link.as_mut().filter(|link| link.agreed && link.beat.is_some() && !link.is_used) else {
            return;
        };
        if link.holds_ours || link.owns || !matches!(mate.copy, Kept::None | Kept::Leaving { .. }) {
            return;
        }
        // What it held it has forgotten by pairing anew.
        if std::mem::replace(&mut mate.copy, Kept::Joining) != Kept::None {
            self.actions.push_back(Action::Release(id));
        }
        link.is_used = true;
        self.actions.push_back(Action::Join(id));
    }

    /// Renews the deadline by sending (R5), or asks (R7).
    pub(super) fn keep_owning(&mut self, now: Instant) {
        if !self.owns() {
            return;
        }
        if self.is_unfit(now) {
            return self.step_down(now, StepDownReason::Unfit);
        }
        let overslept = self.deadline.is_some_and(|deadline| now >= deadline);
        if overslept {
            self.mates.values_mut().filter_map(|mate| mate.link.as_mut()).for_each(|link| link.hearing.overslept(now));
        }
        if self.doubt.is_none() && !overslept {
            self.leave_those_cut_off(now);
        }
        let counts = |copy: Kept| matches!(copy, Kept::Counted | Kept::Leaving { .. });
        let lingers = |copy: Kept| matches!(copy, Kept::Leaving { since, .. } if now >= since + self.timing.trust);
        let may_be_resumed = self.mates.values().any(|mate| counts(mate.copy));
        let lingering = self.mates.values().any(|mate| lingers(mate.copy));
        let patience = self.timing.detection;
        let waits = matches!(self.role, Role::HandingOver { told: Some(told), .. } if now >= told + patience);
        // R7: who overslept, or asks, doesn't know what the backups have done.
        if std::mem::take(&mut self.gives_way) && !overslept && !self.is_held {
            // To the best rank that can take it. Where none can, our silence tells them.
            let _ = self.ranks.clone().into_iter().any(|id| self.order_move(id).is_ok());
        }
        match &self.doubt {
            // Without a copy nobody can have resumed our SAs; another owner would be heard.
            None if (self.healthy && ((overslept && may_be_resumed) || waits)) || lingering => self.begin_to_doubt(now),
            // One that can't serve doesn't ask to be waited for again and again: a backup is to take over.
            Some(doubt) if self.healthy && now >= doubt.asked + self.timing.deadline => self.put_question(now),
            _ => {}
        }
        self.reconcile(now);
        if self.healthy
            && self.doubt.is_none()
            && let Some(epoch) = self.epoch()
        {
            let protected = self.mates.values().any(|mate| mate.copy == Kept::Counted);
            self.actions.push_back(Action::Advertise { epoch, protected });
            self.renew(now + self.timing.deadline);
        }
    }

    /// We have not been able to serve for a while, nobody has a copy, and somebody is there to begin anew.
    fn is_unfit(&mut self, now: Instant) -> bool {
        if self.healthy {
            self.unfit_since = None;
            return false;
        }
        let since = *self.unfit_since.get_or_insert(now);
        let alone = self.mates.values().all(|mate| matches!(mate.copy, Kept::None | Kept::Joining));
        let heirs = self.mates.values().any(|mate| mate.link.as_ref().is_some_and(|link| link.agreed));
        now >= since + self.timing.claim_preferred && alone && heirs
    }

    /// A cut link gives no error by itself, and may be cut in one direction alone: then we are not heard.
    fn leave_those_cut_off(&mut self, now: Instant) {
        let is_mute = |link: &Link| link.beat.is_some_and(|(_, heard)| now >= heard + self.timing.trust);
        let is_cut_off = |link: &Link| is_mute(link) || link.hearing.is_lost(now, self.timing.trust);
        let cut_off =
            self.mates.iter().filter(|(_, mate)| mate.copy != Kept::None && mate.link.as_ref().is_some_and(is_cut_off));
        for id in cut_off.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.close_link(now, id);
        }
    }

    /// The link is gone, and with it what that process will hear of us.
    pub(super) fn leave_copy(&mut self, now: Instant, id: ApplianceId, incarnation: u64) {
        let Some(mate) = self.mate(id) else { return };
        match mate.copy {
            Kept::None | Kept::Leaving { .. } => {}
            // It never got its mark.
            Kept::Joining | Kept::Ready => {
                mate.copy = Kept::None;
                self.actions.push_back(Action::Release(id));
            }
            Kept::Counted => {
                mate.copy = Kept::Leaving { incarnation, since: now };
                self.reconcile(now);
            }
        }
    }

    /// The list as it should be: the copies that are whole.
    fn list(&self) -> Vec<Process> {
        let whole = self.ranks.iter().filter_map(|id| {
            let mate = self.mates.get(id)?;
            let link = mate.link.as_ref()?;
            let whole = matches!(mate.copy, Kept::Ready | Kept::Counted);
            whole.then_some(Process { appliance: *id, incarnation: link.incarnation })
        });
        let mut list: Vec<_> = whole.collect();
        list.sort();
        list
    }

    /// Brings the registry to what it should say.
    pub(super) fn reconcile(&mut self, now: Instant) {
        let Some(epoch) = self.epoch().filter(|_| self.owns()) else { return };
        let record = Record { owner: self.me, epoch: epoch.0, copies: self.list() };
        let patience = self.timing.deadline;
        // Its revision used up, no attempt of anybody else's can succeed any more.
        let to_be_sure = self.doubt.as_ref().is_some_and(|doubt| {
            let leaving = self.mates.values().any(|mate| matches!(mate.copy, Kept::Leaving { .. }));
            doubt.has_begun || leaving || now >= doubt.since + patience
        });
        if to_be_sure
            && let Role::HandingOver { told: Some(_), .. } = self.role
            && let Some(target) = self.target
            && self.mates.get(&target).is_some_and(|mate| mate.copy == Kept::Counted)
        {
            // The order may still lie in its inbox. What takes the move back takes it off the list, so that it can't take the group later.
            return self.close_link(now, target);
        }
        if to_be_sure || self.is_unsure || self.record() != Some(&record) {
            self.ask(now, Request::Write { revision: self.revision(), record });
        } else {
            self.follow_list(&record.copies);
        }
    }

    pub(super) fn handle_reply_as_owner(&mut self, now: Instant, request: Request, asked: Instant, reply: Reply) {
        self.is_unsure = false;
        match (request, reply) {
            (Request::Write { record, .. }, Reply::Written(revision)) => {
                let listed = record.copies.clone();
                self.learn(now, Standing { revision, record: Some(record), alive: Vec::new() });
                self.follow_list(&listed);
                let since = self.doubt.as_ref().map(|doubt| doubt.since);
                // Whom a move was ordered to isn't on the list when the move is taken back: see `reconcile`.
                let told = matches!(self.role, Role::HandingOver { told: Some(_), .. });
                let may_take = told && listed.iter().any(|copy| Some(copy.appliance) == self.target);
                if !may_take && since.is_some_and(|since| asked >= since) {
                    self.end_doubt(now, asked);
                }
            }
            (_, Reply::Standing(standing) | Reply::Refused(standing)) => {
                let is_ours = |record: &Record| record.owner == self.me && Some(Epoch(record.epoch)) == self.epoch();
                // A registry that has forgotten the group is told again.
                let ours = standing.record.as_ref().is_none_or(is_ours);
                if !ours {
                    let told = matches!(self.role, Role::HandingOver { told: Some(_), .. });
                    self.step_down(now, if told { StepDownReason::Moved } else { StepDownReason::Deposed });
                }
                self.learn(now, standing);
            }
            (Request::Read, Reply::Written(_)) | (_, Reply::Silence) => {}
        }
        self.reconcile(now);
    }

    /// The registry lists these: they get their marks. Who isn't listed resumes nothing.
    fn follow_list(&mut self, listed: &[Process]) {
        let mut marks = Vec::new();
        for (id, mate) in &mut self.mates {
            let is_listed = |incarnation| listed.contains(&Process { appliance: *id, incarnation });
            match mate.copy {
                Kept::Ready if mate.link.as_ref().is_some_and(|link| is_listed(link.incarnation)) => {
                    // The copy counts from when the mark is sent, not from when it arrives.
                    mate.copy = Kept::Counted;
                    marks.push(*id);
                }
                Kept::Leaving { incarnation, .. } if !is_listed(incarnation) => {
                    mate.copy = Kept::None;
                    self.actions.push_back(Action::Release(*id));
                }
                _ => {}
            }
        }
        for id in marks {
            self.send(id, Message::Joined);
        }
    }

    pub(super) fn renew(&mut self, until: Instant) {
        self.deadline = Some(until);
        self.actions.push_back(Action::Deadline(Some(until)));
    }

    fn begin_to_doubt(&mut self, now: Instant) {
        let asks = self.mates.iter().filter(|(_, mate)| matches!(mate.copy, Kept::Counted | Kept::Leaving { .. }));
        let unanswered = asks.map(|(id, _)| *id).collect();
        self.doubt = Some(Doubt { nonce: 0, asked: now, since: now, unanswered, has_begun: false });
        self.actions.push_back(Action::Deadline(None));
        self.put_question(now);
    }

    fn put_question(&mut self, now: Instant) {
        self.questions += 1;
        let nonce = self.questions;
        let counted = self.mates.iter().filter(|(_, mate)| matches!(mate.copy, Kept::Counted | Kept::Leaving { .. }));
        let all: BTreeSet<_> = counted.map(|(id, _)| *id).collect();
        if all.is_empty() {
            // Who might have resumed has let go meanwhile, or died.
            return self.end_doubt(now, now);
        }
        let Some(doubt) = &mut self.doubt else { return };
        // What was answered to an earlier question says nothing of the time since.
        doubt.unanswered.clone_from(&all);
        (doubt.nonce, doubt.asked) = (nonce, now);
        for id in all {
            self.send(id, Message::Question { nonce });
        }
    }

    pub(super) fn handle_answer(&mut self, now: Instant, from: ApplianceId, nonce: u64, begun: bool) {
        let counted = self.mates.get(&from).is_some_and(|mate| mate.copy == Kept::Counted);
        let Some(doubt) = self.doubt.as_mut().filter(|doubt| doubt.nonce == nonce) else { return };
        if begun {
            doubt.has_begun = true;
            return self.reconcile(now);
        }
        // Only the process that has the mark can know; with its link lost since, it would not have been listed as counted.
        if counted {
            doubt.unanswered.remove(&from);
        }
        if doubt.unanswered.is_empty() {
            let asked = doubt.asked;
            self.end_doubt(now, asked);
        }
    }

    /// Nobody had begun when we asked.
    fn end_doubt(&mut self, now: Instant, asked: Instant) {
        self.doubt = None;
        if let Role::HandingOver { epoch, told: Some(_) } = self.role {
            self.role = Role::Owner { epoch };
            self.target = None;
            self.actions.push_back(Action::TakeBack);
        }
        // The answer is worth as much as a heartbeat that left when we asked.
        let until = asked + self.timing.deadline;
        if now < until {
            self.renew(until);
        } else {
            self.deadline = Some(until); // too late to act on: the next tick asks again
        }
    }

    /// Every worker has stopped: that appliance may take it.
    pub(super) fn hand_over(&mut self, now: Instant) {
        let Role::HandingOver { epoch, told: None } = self.role else { return };
        let link = |target: &ApplianceId| self.mates.get(target)?.link.as_ref();
        match self.target.filter(|target| link(target).is_some_and(|link| link.healthy)) {
            Some(target) => {
                self.role = Role::HandingOver { epoch, told: Some(now) };
                self.send(target, Message::HandOver { epoch: epoch.0 });
            }
            None => {
                // Nobody was told: nobody can have acted on it.
                self.role = Role::Owner { epoch };
                self.target = None;
                self.actions.push_back(Action::TakeBack);
            }
        }
    }

    pub(super) fn step_down(&mut self, now: Instant, reason: StepDownReason) {
        if self.role == Role::Standby {
            return;
        }
        self.role = Role::Standby;
        self.claim = None;
        self.target = None;
        self.owner = None;
        self.missing_since = Some(now);
        self.actions.push_back(Action::StepDown(reason));
        self.doubt = None;
        self.deadline = None;
        // Of a group that moved every worker had confirmed its stop: the deadline runs out by itself, and until then late frames are
        // passed on (see the pair).
        if reason != StepDownReason::Moved {
            self.actions.push_back(Action::Deadline(None));
        }
        // What others hold of us is void: begin anew, from empty regions.
        for id in self.ranks.clone() {
            let Some(mate) = self.mate(id) else { continue };
            mate.copy = Kept::None;
            if mate.link.as_ref().is_some_and(|link| link.is_used) {
                self.close_link(now, id);
            }
        }
    }
}
