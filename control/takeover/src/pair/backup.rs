//! The backup's side: counting silence, trusting its copy for a while, and taking over.

use std::time::Instant;

use vipsec_wire::iv::Epoch;

use super::{Held, Pair};
use crate::decider::{Action, Role};
use crate::message::Message;

impl Pair {
    /// May the copy that we hold be resumed from?
    pub(super) fn trusts(&self, now: Instant) -> bool {
        self.held.is_some_and(|held| now < held.trusted_until)
    }

    pub(super) fn look(&mut self, now: Instant) {
        let silent = self.silence.look(now, &self.timing);
        if self.role != Role::Standby || self.retired {
            return;
        }
        // A backup whose own data links are down doesn't act. Nor has one whose workers stand still heard what was advertised
        // meanwhile: once it is fit it counts anew.
        if !self.healthy {
            return self.silence.restart();
        }
        let claim_after = if self.preferred { self.timing.claim_preferred } else { self.timing.claim_other };
        let take = if self.peer_owns {
            let timing = &self.timing;
            let enough = if self.held.is_some() { timing.looks_until_detection() } else { timing.looks_without_copy() };
            silent >= enough && !(self.is_held && self.peer_speaks(now))
        } else {
            // Nobody owns it. A peer that still holds our former process's copy takes it first.
            !self.peer_holds_copy && now.saturating_duration_since(self.ownerless_since) >= claim_after
        };
        if take {
            self.begin(now);
        }
    }

    /// Is the peer heard, whatever it says of itself?
    fn peer_speaks(&self, now: Instant) -> bool {
        let newest = self.link.as_ref().and_then(|link| link.newest_stamp);
        newest.is_some_and(|(_, arrived)| now < arrived + self.timing.detection)
    }

    /// The process that owned it is gone: no need to count silence.
    pub(super) fn take_from_the_dead(&mut self, now: Instant) {
        if self.role == Role::Standby && self.peer_owns && !self.retired {
            self.peer_owns = false;
            self.begin(now);
        }
    }

    /// Takes the group under a new epoch: 1 + the highest of floor, copy and whatever was heard.
    pub(super) fn begin(&mut self, now: Instant) {
        self.ownerless_since = now;
        let epoch = self.floor.next(self.seen);
        self.role = Role::Taking { epoch };
        match epoch {
            Some(epoch) => {
                self.take(epoch);
                self.actions.push_back(Action::Stage { epoch });
            }
            None => self.ask_for_floor(self.floor.require(self.seen)),
        }
    }

    /// What the copy holds is installed, shut. Trust is judged here, last.
    pub fn handle_staged(&mut self, now: Instant) {
        let trusted = self.trusts(now);
        let Role::Taking { epoch: Some(epoch) } = self.role else { return };
        self.role = Role::Owner { epoch };
        self.peer_owns = false;
        self.alone_since = now;
        let mut until = now + self.timing.deadline;
        if let (true, Some(held)) = (trusted, self.held) {
            // An owner that paused between this judgement and its first packet must not act on expired trust.
            until = until.min(held.trusted_until);
            self.resumed_on_trust = Some(held.trusted_until);
        }
        self.renew(until);
        self.actions.push_back(Action::Advertise { epoch, protected: false });
        self.actions.push_back(Action::Activate { epoch, trusted });
        // The pairing that filled the copy ends with it; a new process of the peer may be waiting to join already.
        let filled_by = self.held.take().map(|held| held.incarnation);
        match &self.link {
            Some(link) if Some(link.incarnation) == filled_by => self.close_link(now),
            Some(link) if link.heard_beat => self.meet_backup(),
            _ => {}
        }
        // Silence alone is no proof that the old owner is dead; a new process of it is.
        self.is_missing = filled_by.is_some() && self.link.is_none();
    }

    /// A takeover without an epoch has not begun: whoever hears of the owner meanwhile stays a backup.
    pub(super) fn give_up_waiting_for_disk(&mut self, now: Instant) {
        if self.role == (Role::Taking { epoch: None }) {
            self.role = Role::Standby;
            self.ownerless_since = now;
        }
    }

    pub(super) fn handle_joined(&mut self, now: Instant) {
        let Some(link) = self.link.as_ref().filter(|_| !self.retired) else { return };
        let trust = self.timing.trust;
        self.held = Some(Held {
            incarnation: link.incarnation,
            trusted_until: link.echoed_look.map_or(now, |look| look + trust),
        });
        self.silence.restart();
    }

    /// Lets go of the copy before the process ends. Whoever owns the group, or has begun to take it, has to hand it over.
    pub(super) fn retire(&mut self) {
        if self.role == Role::Standby && !self.retired {
            self.retired = true;
            self.held = None;
            self.send(Message::GivenUp);
        }
    }

    pub(super) fn handle_question(&mut self, now: Instant, nonce: u64) {
        self.give_up_waiting_for_disk(now);
        let begun = self.role != Role::Standby;
        if !begun {
            self.silence.restart();
        }
        self.send(Message::Answer { nonce, begun });
    }

    pub(super) fn handle_hand_over(&mut self, now: Instant, epoch: Epoch) {
        let owned_by_peer = self.role == Role::Standby && self.peer_owns && self.seen == epoch;
        if owned_by_peer && self.held.is_some() && self.healthy {
            self.begin(now);
        }
    }
}
