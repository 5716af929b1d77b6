//! The backup's side: counting silence, trusting its copy for a while, and taking over.

use std::time::Instant;

use vipsec_wire::iv::Epoch;

use super::{Action, Held, Pair, Role};
use crate::message::Message;

impl Pair {
    /// May the copy that we hold be resumed from?
    pub(super) fn trusts(&self, now: Instant) -> bool {
        self.held.is_some_and(|held| now < held.trusted_until)
    }

    pub(super) fn look(&mut self, now: Instant) {
        let silent = self.silence.look(now, &self.timing);
        // A backup whose own data links are down doesn't act.
        if !self.healthy {
            return;
        }
        let detected = silent >= self.timing.looks_until_detection();
        for number in self.vip_numbers() {
            let Some(vip) = self.vips.get(usize::from(number)) else { return };
            if vip.role != Role::Standby {
                continue;
            }
            let claim_after = if vip.preferred { self.timing.claim_preferred } else { self.timing.claim_other };
            let take = if vip.peer_owns {
                detected
            } else {
                // Nobody owns it. A peer that still holds our former process's copy takes it first.
                !vip.peer_holds_copy && now.saturating_duration_since(vip.ownerless_since) >= claim_after
            };
            if take {
                self.begin(now, number, true);
            }
        }
    }

    /// The process that owned them is gone: no need to count silence.
    pub(super) fn take_from_the_dead(&mut self, now: Instant) {
        for number in self.vip_numbers() {
            let Some(vip) = self.vips.get_mut(usize::from(number)) else { return };
            if vip.role == Role::Standby && vip.peer_owns {
                vip.peer_owns = false;
                self.begin(now, number, true);
            }
        }
    }

    /// Takes the VIP under a new epoch: 1 + the highest of floor, copy and whatever was heard.
    pub(super) fn begin(&mut self, now: Instant, number: u16, fence: bool) {
        let Some(vip) = self.vips.get_mut(usize::from(number)) else { return };
        vip.ownerless_since = now;
        match vip.floor.next(vip.seen) {
            Some(epoch) => {
                vip.floor.take(epoch);
                vip.role = Role::Taking { epoch: Some(epoch) };
                vip.seen = epoch;
                self.actions.push_back(Action::Stage { vip: number, epoch, fence });
                self.reserve_floors();
            }
            None => {
                vip.role = Role::Taking { epoch: None };
                let value = vip.floor.require(vip.seen);
                if value > vip.floor_asked {
                    vip.floor_asked = value;
                    self.actions.push_back(Action::ReserveFloor { vip: number, value });
                }
            }
        }
    }

    /// What the copy holds is installed, shut. Trust is judged here, last.
    pub fn handle_staged(&mut self, now: Instant, number: u16) {
        let trusted = self.trusts(now);
        let Some(vip) = self.vips.get_mut(usize::from(number)) else { return };
        let Role::Taking { epoch: Some(epoch) } = vip.role else { return };
        vip.role = Role::Owner { epoch };
        vip.peer_owns = false;
        let mut until = now + self.timing.deadline;
        if let (true, Some(held)) = (trusted, self.held) {
            // An owner that paused between this judgement and its first packet must not act on expired trust.
            until = until.min(held.trusted_until);
            self.resumed_on_trust = Some(held.trusted_until);
        }
        self.renew(until);
        self.actions.push_back(Action::Advertise { vip: number, epoch, protected: false });
        self.actions.push_back(Action::Activate { vip: number, epoch, trusted });
        if !self.is_taking() {
            // The pairing that filled the copy ends with it; a new process of the peer may be waiting to join already.
            let filled_by = self.held.take().map(|held| held.incarnation);
            match &self.link {
                Some(link) if Some(link.incarnation) == filled_by => self.close_link(now),
                Some(link) if link.heard_beat => self.meet_backup(),
                _ => {}
            }
        }
    }

    /// A takeover without an epoch has not begun: whoever hears of the owner meanwhile stays a backup.
    pub(super) fn give_up_waiting_for_disk(&mut self, now: Instant) {
        for vip in self.vips.iter_mut().filter(|vip| vip.role == Role::Taking { epoch: None }) {
            vip.role = Role::Standby;
            vip.ownerless_since = now;
        }
    }

    pub(super) fn handle_joined(&mut self, now: Instant) {
        let Some(link) = &self.link else { return };
        let trust = self.timing.trust;
        self.held = Some(Held {
            incarnation: link.incarnation,
            trusted_until: link.echoed_look.map_or(now, |look| look + trust),
        });
        self.silence.restart();
    }

    pub(super) fn handle_question(&mut self, now: Instant, nonce: u64) {
        self.give_up_waiting_for_disk(now);
        let begun = self.vips.iter().any(|vip| vip.role != Role::Standby);
        if !begun {
            self.silence.restart();
        }
        self.send(Message::Answer { nonce, begun });
    }

    pub(super) fn handle_hand_over(&mut self, now: Instant, number: u16, epoch: Epoch) {
        let Some(vip) = self.vips.get(usize::from(number)) else { return };
        if vip.role == Role::Standby && vip.peer_owns && vip.seen == epoch && self.held.is_some() && self.healthy {
            self.begin(now, number, false);
        }
    }
}
