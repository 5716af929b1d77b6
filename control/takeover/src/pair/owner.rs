//! The owner's side: saying that it lives, stopping when it can't be sure, and the copy at the backup.

use std::time::Instant;

use super::{Pair, Question};
use crate::decider::Decider;
use crate::decider::{Action, Copy, NotMoved, Role, StepDownReason};
use crate::message::Message;

impl Pair {
    /// Everything that was bound at [`Action::Join`] is acknowledged.
    pub fn handle_join_published(&mut self) {
        if self.copy == Copy::Joining && self.link.is_some() {
            // The copy counts from when the mark is sent, not from when it arrives.
            self.copy = Copy::Counted;
            self.send(Message::Joined);
        }
    }

    /// The copy can't be filled: go on without one, paired or not. False where it counts already: then only the end of the link
    /// and of the backup's trust let go of it.
    pub fn give_up_join(&mut self) -> bool {
        if self.copy != Copy::Joining {
            return false;
        }
        self.copy = Copy::None;
        self.actions.push_back(Action::Release(self.peer));
        true
    }

    /// A write into the peer's store was refused: the grant is revoked, so the backup has begun.
    pub fn handle_refused(&mut self, now: Instant) {
        let told = matches!(self.role, Role::HandingOver { told: Some(_), .. });
        // Only the workers of a group that was told have stopped.
        self.step_down(now, if told { StepDownReason::Moved } else { StepDownReason::Refused });
        self.close_link(now);
    }

    /// The operator wants the group at the peer.
    pub fn order_move(&mut self) -> Result<(), NotMoved> {
        let epoch = match self.role {
            Role::Owner { epoch } => epoch,
            Role::HandingOver { .. } => return Err(NotMoved::Moving),
            Role::Standby | Role::Taking { .. } => return Err(NotMoved::NotOwned),
        };
        let link = self.link.as_ref().ok_or(NotMoved::NotLinked)?;
        match self.copy {
            Copy::Counted => {}
            _ if !link.agreed => return Err(NotMoved::Differs),
            Copy::Joining => return Err(NotMoved::Joining),
            Copy::None | Copy::Leaving { .. } => return Err(NotMoved::NoCopy),
        }
        // It would leave the order alone, and the group would stand still for nothing.
        if !link.healthy {
            return Err(NotMoved::Unfit);
        }
        // The answer to a question that was asked before would take it back, whatever the backup does about it.
        if self.question.is_some() {
            return Err(NotMoved::InDoubt);
        }
        self.role = Role::HandingOver { epoch, told: None };
        self.actions.push_back(Action::Stop);
        Ok(())
    }

    /// The operator wants the group here.
    pub fn order_here(&mut self) -> Result<(), NotMoved> {
        match self.role {
            Role::Standby => {}
            Role::Taking { .. } | Role::HandingOver { .. } => return Err(NotMoved::Moving),
            Role::Owner { .. } => return Err(NotMoved::AlreadyThere),
        }
        if self.link.is_none() {
            return Err(NotMoved::NotLinked);
        }
        if !self.peer_owns {
            return Err(NotMoved::NoOwner);
        }
        if self.held.is_none() {
            return Err(NotMoved::NoCopy);
        }
        if !self.healthy {
            return Err(NotMoved::Unfit);
        }
        self.send(Message::WantGroup);
        Ok(())
    }

    /// Every worker confirmed its stop for the group, and the exact numbers are acknowledged.
    pub fn handle_stopped(&mut self, now: Instant) {
        let Role::HandingOver { epoch, told: None } = self.role else { return };
        let Some(link) = self.link.as_ref().filter(|link| self.copy == Copy::Counted && link.healthy) else {
            // Nobody was told: nobody can have acted.
            self.role = Role::Owner { epoch };
            self.actions.push_back(Action::TakeBack);
            return;
        };
        self.told_process = Some(link.incarnation);
        self.role = Role::HandingOver { epoch, told: Some(now) };
        self.send(Message::HandOver { epoch: epoch.0 });
    }

    /// A beat tells what the peer is: a backup joins at once, once in a pairing.
    pub(super) fn meet_backup(&mut self) {
        // Who has been outranked first has to take a higher epoch.
        let owns = matches!(self.role, Role::Owner { epoch } | Role::HandingOver { epoch, .. } if epoch >= self.seen);
        let Some(link) = &mut self.link else { return };
        if !owns || !link.agreed || link.owned || link.is_used {
            return;
        }
        link.is_used = true;
        // The pairing emptied whatever the peer held before, or the process that held it is gone: it doesn't count any more.
        self.copy = Copy::Joining;
        self.actions.push_back(Action::Join(self.peer));
    }

    /// Renews the deadline by sending (R5), or asks (R7), or gives up.
    pub(super) fn keep_owning(&mut self, now: Instant) {
        if !self.owns() {
            return;
        }
        self.reserve_floor();
        if self.keep_contending(now) || !self.owns() {
            return;
        }
        let overslept = self.deadline.is_some_and(|deadline| now >= deadline);
        self.note_sleep(now);
        if let Some(link) = self.link.as_mut().filter(|_| overslept) {
            link.hearing.overslept(now);
        }
        if let Some(trusted_until) = self.resumed_on_trust.take()
            && overslept
            && now >= trusted_until
        {
            // We resumed, and slept before anybody heard of it: the owner may have outwaited our trust and gone on.
            self.step_down(now, StepDownReason::Uncertain);
            return;
        }
        if let Copy::Leaving { until } = self.copy
            && now >= until
            // Who slept meanwhile doesn't know whether the backup acted while it still trusted its copy.
            && !overslept
        {
            self.copy = Copy::None;
            self.actions.push_back(Action::Release(self.peer));
        }
        if self.copy == Copy::Counted && self.question.is_none() && !overslept && self.is_cut_off(now) {
            self.close_link(now);
        }
        // One that can't serve doesn't ask to be waited for, which is what a question would do: its backup is to take over.
        if !self.healthy {
            // R7: who overslept, or asks, doesn't know what the backup has done.
            if std::mem::take(&mut self.gives_way) && !overslept && !self.is_held {
                // Where that can't be, its silence tells the backup.
                let _ = self.order_move();
            }
            return;
        }
        self.take_back_or_ask(now);
        match (&self.question, self.copy) {
            (Some(question), _) => {
                let (asked, since) = (question.asked, question.uncertain_since);
                if now >= since + self.timing.trust + self.timing.trust_margin {
                    // Nobody answers, and the backup may have acted while it still trusted its copy.
                    self.step_down(now, StepDownReason::Uncertain);
                    self.close_link(now);
                } else if now >= asked + self.timing.deadline {
                    self.ask(now, since);
                }
                return;
            }
            (None, Copy::Counted) if overslept => {
                self.ask(now, now);
                return;
            }
            // No link to ask over: R7 leaves no choice.
            (None, Copy::Leaving { .. }) if overslept => {
                self.step_down(now, StepDownReason::Uncertain);
                return;
            }
            // Without a counted copy nobody can have resumed our SAs; another owner would be heard.
            _ => {}
        }
        let protected = self.copy == Copy::Counted;
        if let Some(epoch) = self.owned_epoch() {
            self.actions.push_back(Action::Advertise { epoch, protected });
        }
        self.renew(now + self.timing.deadline);
    }

    /// A cut link gives no error by itself, and may be cut in one direction alone. Whom we haven't heard for the trust time, or who hasn't
    /// heard us, doesn't hold a copy that it would resume from, so nothing is lost by leaving it behind; and what is parked meanwhile waits
    /// no longer than it has to.
    fn is_cut_off(&self, now: Instant) -> bool {
        let Some(link) = &self.link else { return false };
        let is_mute = link.newest_stamp.is_some_and(|(_, arrived)| now >= arrived + self.timing.trust);
        is_mute || link.hearing.is_lost(now, self.timing.trust)
    }

    pub(super) fn renew(&mut self, until: Instant) {
        self.deadline = Some(until);
        self.actions.push_back(Action::Deadline(Some(until)));
    }

    fn ask(&mut self, now: Instant, uncertain_since: Instant) {
        self.questions += 1;
        let nonce = self.questions;
        let handed_over = matches!(self.role, Role::HandingOver { told: Some(_), .. });
        let process = match &self.question {
            Some(question) => question.process,
            None if handed_over => self.told_process,
            None => self.link.as_ref().map(|link| link.incarnation),
        };
        self.question = Some(Question { nonce, process, asked: now, uncertain_since });
        self.actions.push_back(Action::Deadline(None));
        self.send(Message::Question { nonce });
    }

    /// A move that was ordered and not answered: the peer may have died over it.
    fn take_back_or_ask(&mut self, now: Instant) {
        let patience = self.timing.detection;
        let waits = matches!(self.role, Role::HandingOver { told: Some(told), .. } if now >= told + patience);
        if waits && self.question.is_none() {
            self.ask(now, now);
        }
    }

    pub(super) fn handle_answer(&mut self, now: Instant, nonce: u64, begun: bool) {
        let Some(question) = self.question.take_if(|question| question.nonce == nonce) else { return };
        let answers = self.link.as_ref().map(|link| link.incarnation);
        if begun || answers != question.process {
            // Its beats and advertisements tell under which epoch; ours ends here.
            self.step_down(now, StepDownReason::Deposed);
            self.close_link(now);
            return;
        }
        if let Role::HandingOver { epoch, told: Some(_) } = self.role {
            self.role = Role::Owner { epoch };
            self.actions.push_back(Action::TakeBack);
        }
        // The answer is worth as much as a heartbeat that left when we asked.
        let until = question.asked + self.timing.deadline;
        if now < until {
            self.renew(until);
        } else {
            self.deadline = Some(until); // too late to act on: the next tick asks again
        }
    }

    /// The backup holds nothing any more, and will never act: that ends its copy at once, and whatever doubt there was about it (R7).
    pub(super) fn handle_given_up(&mut self, now: Instant) {
        if let Some(Question { nonce, .. }) = &self.question {
            self.handle_answer(now, *nonce, false);
        }
        // While the workers are still stopping, the end of that finds nobody to tell.
        if let Role::HandingOver { epoch, told: Some(_) } = self.role {
            self.role = Role::Owner { epoch };
            self.actions.push_back(Action::TakeBack);
        }
        if matches!(self.copy, Copy::Joining | Copy::Counted) {
            self.copy = Copy::None;
            self.alone_since = now;
            self.actions.push_back(Action::Release(self.peer));
        }
    }

    /// The link is gone: how long may the backup still trust what it holds?
    pub(super) fn leave_copy(&mut self, now: Instant) {
        match self.copy {
            Copy::None | Copy::Leaving { .. } => {}
            Copy::Joining => {
                self.copy = Copy::None;
                self.actions.push_back(Action::Release(self.peer));
            }
            Copy::Counted => {
                if self.question.is_some() {
                    self.copy = Copy::None;
                    self.step_down(now, StepDownReason::Uncertain);
                    return;
                }
                let wait = self.timing.trust + self.timing.trust_margin;
                // Never echoed: the backup has nothing to count its trust from.
                let until = self.echoed_arrival.map_or(now, |arrived| arrived + wait);
                self.copy = Copy::Leaving { until };
                self.alone_since = now;
            }
        }
    }

    pub(super) fn step_down(&mut self, now: Instant, reason: StepDownReason) {
        if self.role == Role::Standby {
            return;
        }
        self.role = Role::Standby;
        self.ownerless_since = now;
        self.is_missing = false;
        self.actions.push_back(Action::StepDown(reason));
        self.question = None;
        self.contending = None;
        (self.counted, self.rival) = (None, None);
        self.deadline = None;
        self.copy = Copy::None;
        // R5 is about workers that may not know yet that the group isn't ours. Of one that moved every worker had confirmed its stop
        // before the peer was told, so nothing of it can be sealed (I1), delivered (I2) or answered any more, whatever the deadline;
        // and nobody renews that: it passes by itself before the peer would have given us up for silent. Meanwhile the workers pass
        // on, unchanged, the frames that came too late.
        if reason != StepDownReason::Moved {
            self.actions.push_back(Action::Deadline(None));
        }
        self.actions.push_back(Action::Release(self.peer));
        // What the peer holds of us is void, and ours of it too: begin anew, from empty regions. Whom we have heard over the link only
        // would seem dead while it is set up again, and be followed, and so on without end.
        if self.link.is_some() {
            self.silence.excuse(now + self.timing.claim_preferred);
        }
        self.close_link(now);
    }
}
