//! Healing a split pair: both own the group, each without a copy at the other, because they could not hear each other.
//!
//! The one with the lower (epoch, id), when it hears of the other one, stops, counts the remote peers that it has served since it was
//! alone, and says so in its beats. The other one counts, and says so, too; both up to when they can't have heard each other yet. Who
//! has more of them stays; if both have as many, the one with the higher (epoch, id). So a backup that was itself cut off doesn't
//! depose the one with the traffic. The one that goes stops first and drops its SAs; the one that stays takes a higher epoch than both
//! had.
//!
//! An owner whose copy counts, or may still be resumed from, or that overslept its deadline, has no say in this: it is deposed (R7).

use std::time::{Duration, Instant};

use vipsec_wire::iv::Epoch;

use super::Pair;
use crate::decider::{Action, Copy, Role, StepDownReason};
use crate::message::Message;

impl Pair {
    /// Do we own the group, and does nobody have a copy of it?
    fn is_alone(&self) -> bool {
        matches!(self.role, Role::Owner { .. }) && matches!(self.copy, Copy::None | Copy::Joining)
    }

    /// Whom an owner that slept has served before, another one may have served since.
    pub(super) fn note_sleep(&mut self, now: Instant) {
        if self.deadline.is_some_and(|deadline| now >= deadline) {
            self.alone_since = now;
        }
    }

    /// Another owner was heard of: what have we done since we were alone? What has come to us since the networks met again they may have
    /// taken from the other one, so it doesn't count; nor is anything counted again while a split heals. Who speaks is heard within
    /// `detection`, though a word or two are lost: the networks haven't met before.
    fn count_served(&mut self, now: Instant, heard: Instant) {
        let until = heard.checked_sub(self.timing.detection).unwrap_or(heard);
        let counted = self.counted.is_some_and(|counted| now < counted + self.timing.trust);
        if self.is_alone() && !counted {
            self.note_sleep(now);
            self.counted = Some(now);
            self.served = None;
            self.actions.push_back(Action::CountServed { since: self.alone_since, until });
        }
    }

    /// An owner that is alone and has heard of another one says what it has done.
    pub(super) fn tell_served(&mut self, now: Instant) {
        let two_own = self.is_alone() && self.link.as_ref().is_some_and(|link| link.owned);
        if let (true, Some(counted), Some(remote_peers)) = (two_own, self.counted, self.served) {
            let ago = now.saturating_duration_since(counted).as_millis();
            self.send(Message::Served { remote_peers, millis_ago: u32::try_from(ago).unwrap_or(u32::MAX) });
        }
    }

    /// The other one owns the group under a higher epoch. True if that doesn't depose us yet: we stop, and are still to learn how much
    /// it has served.
    pub(super) fn contends(&mut self, now: Instant) -> bool {
        let overslept = self.deadline.is_none_or(|deadline| now >= deadline);
        if !self.is_alone() || (self.contending.is_none() && overslept) {
            return false;
        }
        if self.contending.is_none() {
            self.count_served(now, now);
            self.contending = Some(now);
            self.deadline = None;
            self.actions.push_back(Action::Deadline(None));
        }
        true
    }

    /// The other owner says what it has done.
    pub(super) fn handle_rival(&mut self, now: Instant, remote_peers: u32, millis_ago: u32) {
        if !self.is_alone() {
            return;
        }
        if self.contending.is_some() {
            if self.served.is_none_or(|ours| ours <= remote_peers) {
                self.step_down(now, StepDownReason::Deposed);
            }
        } else if self.link.as_ref().is_some_and(|link| link.owned) {
            // It has the lower epoch, and has stopped.
            self.rival = Some(remote_peers);
            let ago = Duration::from_millis(millis_ago.into());
            self.count_served(now, now.checked_sub(ago).unwrap_or(now));
            self.give_way(now);
        }
    }

    /// The lower one stays if it has served more.
    pub(super) fn give_way(&mut self, now: Instant) {
        if self.is_alone() && self.served.is_some_and(|ours| self.rival.is_some_and(|theirs| theirs > ours)) {
            self.step_down(now, StepDownReason::Deposed);
        }
    }

    /// Has the other one stopped, or is it to stay? True while we wait for that.
    pub(super) fn keep_contending(&mut self, now: Instant) -> bool {
        let Some(since) = self.contending else { return false };
        if now >= since + 2 * self.timing.trust {
            // It goes on, and doesn't say what it has served.
            self.step_down(now, StepDownReason::Deposed);
        } else if !self.peer_owns || self.silence.looks() >= self.timing.looks_until_detection() {
            self.outrank(now);
        }
        self.contending.is_some()
    }

    /// The other one owns the group no more, and was further than we are: what it hears of us is a sign of life only above that.
    pub(super) fn outrank(&mut self, now: Instant) {
        let Role::Owner { epoch: mine } = self.role else { return };
        if mine >= self.seen {
            return;
        }
        if !self.is_alone() {
            // It has acted on the copy that we waited for.
            return self.step_down(now, StepDownReason::Uncertain);
        }
        let Some(epoch) = self.floor.next(self.seen) else { return self.ask_for_floor(self.floor.require(self.seen)) };
        self.take(epoch);
        self.role = Role::Owner { epoch };
        self.peer_owns = false;
        self.contending = None;
        // Workers that stand still act from the next advertisement on.
        self.actions.push_back(Action::Raise { epoch });
        self.meet_backup();
    }

    /// From here on the epoch is used up.
    pub(super) fn take(&mut self, epoch: Epoch) {
        self.floor.take(epoch);
        self.seen = epoch;
        self.reserve_floor();
    }
}
