//! The backup's side: noticing that the owner is gone, waiting for one's rank, and taking over by one write.

use std::time::{Duration, Instant};

use vipsec_wire::iv::{ApplianceId, Epoch};

use super::member::{Kept, Member};
use super::{Process, Record, Reply, Request, Standing};
use crate::decider::{Action, Role};
use crate::message::Message;

/// An attempt to own the group, until it is known what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Claim {
    /// What the registry is to say.
    record: Record,
    /// Its revision before.
    revision: u64,
    /// What it said before: written once more, it makes every earlier attempt void.
    before: Option<Record>,
    /// We are listed in that, and have our mark from its owner.
    pub(super) trusted: bool,
    /// The registry says that the group is ours.
    pub(super) is_written: bool,
    /// The owner has been heard after all: the attempt is to be taken back, if it hasn't succeeded.
    is_cancelled: bool,
    /// The owner has asked us to.
    is_ordered: bool,
}

impl Member {
    /// May the copy that we hold be resumed from, as far as we know?
    pub(super) fn may_resume(&self) -> bool {
        // A record that is older than the newest owner says nothing any more.
        self.record().is_some_and(|record| Epoch(record.epoch) >= self.seen && self.may_resume_under(record))
    }

    fn may_resume_under(&self, record: &Record) -> bool {
        self.held == Some(record.owner) && record.copies.contains(&self.me)
    }

    pub(super) fn look(&mut self, now: Instant) {
        let silent = self.silence.look(now, &self.timing);
        if let Some(claim) = &self.claim {
            if !claim.is_written {
                self.pursue(now);
            }
            return;
        }
        self.disclaim(now);
        // A backup whose own data links are down doesn't act. Nor has one whose workers stand still heard what was advertised meanwhile.
        if !self.healthy {
            return self.silence.restart();
        }
        if self.role != Role::Standby || self.asked.is_some() {
            return;
        }
        if self.owner.is_some() && self.missing_since.is_none() {
            if silent >= self.timing.looks_until_detection() && !(self.is_held && self.owner_speaks(now)) {
                self.missing_since = Some(now);
            } else {
                if self.known.is_none() || self.named > self.revision() {
                    self.ask(now, Request::Read);
                }
                return;
            }
        }
        let missing = self.missing_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        self.consider(now, missing);
    }

    /// Is the owner heard, whatever it says of itself?
    fn owner_speaks(&self, now: Instant) -> bool {
        let link = self.owner.and_then(|owner| self.mates.get(&owner)?.link.as_ref());
        link.and_then(|link| link.beat).is_some_and(|(_, heard)| now < heard + self.timing.detection)
    }

    /// What the registry calls ours and isn't, and nobody can resume, is anybody's: said by an owner that no process ever is. Nobody
    /// would take it from us otherwise while we live.
    fn disclaim(&mut self, now: Instant) {
        let Some(record) = self.record().filter(|record| record.owner == self.me && record.copies.is_empty()) else {
            return;
        };
        if self.role == Role::Standby {
            let owner = Process { incarnation: 0, ..self.me };
            let record = Record { owner, ..record.clone() };
            self.ask(now, Request::Write { revision: self.revision(), record });
        }
    }

    /// Nobody is heard who owns the group, for that long: is it our turn?
    fn consider(&mut self, now: Instant, missing: Duration) {
        let Some((Standing { record, alive, .. }, learned)) = &self.known else {
            return self.ask(now, Request::Read);
        };
        let Some(record) = record else {
            if missing >= self.turn() {
                self.claim(now, false);
            }
            return;
        };
        if self.may_resume_under(record) {
            if missing >= self.timing.detection * self.betters(now, record) {
                self.claim(now, true);
            }
            return;
        }
        // Without a copy the SAs are lost. Who is alive is known for a moment only, and whoever has a copy goes first, for as long as
        // there is one.
        let turn = missing >= self.turn();
        let age = now.saturating_duration_since(*learned);
        if age > 3 * self.timing.interval {
            if turn || age >= self.timing.claim_preferred {
                self.ask(now, Request::Read);
            }
            return;
        }
        let is_gone = record.owner.appliance == self.me.appliance || !alive.contains(&record.owner);
        let others_may = record.copies.iter().any(|copy| *copy != self.me && alive.contains(copy));
        if is_gone && record.copies.contains(&self.me) {
            // Each of two that have lost their marks would wait for the other one.
            let without_me = record.copies.iter().copied().filter(|copy| *copy != self.me).collect();
            let record = Record { copies: without_me, ..record.clone() };
            self.ask(now, Request::Write { revision: self.revision(), record });
        } else if is_gone && turn && !others_may {
            self.claim(now, false);
        } else if turn {
            // Others decide, or the registry takes its time to find out who is gone.
            self.ask_again = now + self.timing.claim_preferred;
        }
    }

    /// How long we wait for others before we take what nobody resumes.
    fn turn(&self) -> Duration {
        match u32::try_from(self.rank(self.me.appliance)) {
            Ok(0) => self.timing.claim_preferred,
            Ok(rank) => self.timing.claim_other.saturating_mul(rank),
            Err(_) => self.timing.claim_other,
        }
    }

    /// Who of better rank may resume, and is heard?
    fn betters(&self, now: Instant, record: &Record) -> u32 {
        let mine = self.rank(self.me.appliance);
        let lives = |copy: &&Process| {
            let link = self.mates.get(&copy.appliance).and_then(|mate| mate.link.as_ref());
            link.is_some_and(|link| {
                let heard = link.beat.is_some_and(|(_, heard)| now < heard + self.timing.detection);
                heard && link.incarnation == copy.incarnation
            })
        };
        let better = record.copies.iter().filter(|copy| self.rank(copy.appliance) < mine).filter(lives);
        u32::try_from(better.count()).unwrap_or(u32::MAX)
    }

    /// Takes the group under a new epoch: 1 + the highest of floor, registry and whatever was heard.
    fn claim(&mut self, now: Instant, trusted: bool) {
        let before = self.record().cloned();
        let above = self.seen.max(Epoch(before.as_ref().map_or(0, |record| record.epoch)));
        let Some(epoch) = self.floor.next(above) else {
            return self.ask_for_floor(self.floor.require(above));
        };
        if self.asked.is_some() || now < self.ask_again {
            return;
        }
        self.floor.take(epoch);
        self.role = Role::Taking { epoch: Some(epoch) };
        self.claim = Some(Claim {
            record: Record { owner: self.me, epoch: epoch.0, copies: Vec::new() },
            revision: self.revision(),
            before,
            trusted,
            is_written: false,
            is_cancelled: false,
            is_ordered: false,
        });
        self.pursue(now);
    }

    /// Writes what was written before without an answer; or what makes that void.
    fn pursue(&mut self, now: Instant) {
        let Some(claim) = &self.claim else { return };
        let record = match &claim.before {
            Some(before) if claim.is_cancelled => before.clone(),
            // Where there was no record, none can be written that says so.
            _ => claim.record.clone(),
        };
        self.ask(now, Request::Write { revision: claim.revision, record });
    }

    /// The owner is heard after all. One that has told us to take the group goes on being heard.
    pub(super) fn note_owner_lives(&mut self) {
        if self.claim.as_ref().is_some_and(|claim| !claim.is_ordered) {
            self.cancel_claim();
        }
    }

    fn cancel_claim(&mut self) {
        if let Some(claim) = &mut self.claim {
            claim.is_cancelled = !claim.is_written;
        }
    }

    pub(super) fn handle_reply_as_backup(&mut self, now: Instant, request: Request, reply: Reply) {
        let Some(claim) = &mut self.claim else {
            match (request, reply) {
                (Request::Write { record, .. }, Reply::Written(revision)) => {
                    let alive = self.known.take().map_or_else(Vec::new, |(standing, _)| standing.alive);
                    self.learn(now, Standing { revision, record: Some(record), alive });
                }
                (_, Reply::Standing(standing) | Reply::Refused(standing)) => self.learn(now, standing),
                (_, Reply::Written(_) | Reply::Silence) => {}
            }
            return;
        };
        let Request::Write { record, .. } = request else { return };
        let (revision, written) = match reply {
            Reply::Written(revision) => (revision, Standing { revision, record: Some(record), alive: Vec::new() }),
            Reply::Refused(standing) | Reply::Standing(standing) => (standing.revision, standing),
            Reply::Silence => return,
        };
        let ours = written.record.as_ref() == Some(&claim.record);
        if !ours {
            return self.give_up_claim(now, written);
        }
        // Now, or by an earlier attempt whose answer was lost.
        claim.is_written = true;
        claim.is_cancelled = false;
        let epoch = Epoch(claim.record.epoch);
        self.seen = self.seen.max(epoch);
        self.owner = None;
        self.missing_since = None;
        self.known = Some((Standing { revision, ..written }, now));
        self.actions.push_back(Action::Stage { epoch });
    }

    /// Another one was faster, or the owner lives.
    fn give_up_claim(&mut self, now: Instant, standing: Standing) {
        let Some(claim) = self.claim.take() else { return };
        self.role = Role::Standby;
        // A pairing that was made meanwhile has emptied what we held.
        if let Some(held) = self.held
            && self.mates.get(&held.appliance).and_then(|mate| mate.link.as_ref()).is_some_and(|link| !link.is_marked)
        {
            self.held = None;
        }
        let same_owner = standing
            .record
            .as_ref()
            .is_some_and(|record| claim.before.as_ref().is_some_and(|before| before.owner == record.owner));
        self.learn(now, standing);
        if claim.is_ordered && !claim.is_cancelled && same_owner && self.may_resume() {
            return self.claim_by_order(now);
        }
        self.missing_since = if self.owner.is_some() { None } else { Some(now) };
    }

    fn claim_by_order(&mut self, now: Instant) {
        self.claim(now, true);
        if let Some(claim) = &mut self.claim {
            claim.is_ordered = true;
        }
    }

    /// Paired: what does that say of the copy that we hold?
    pub(super) fn note_pairing(&mut self, now: Instant, process: Process) {
        self.silence.restart();
        let Some(held) = self.held.filter(|held| held.appliance == process.appliance) else { return };
        if held.incarnation != process.incarnation {
            // The process that had filled it is gone: no need to count silence.
            if self.record().is_some_and(|record| record.owner == held) {
                self.owner = None;
                self.missing_since = Some(now);
            }
        } else if self.claim.is_none() {
            // The same process pairs anew: the old region's acknowledgements don't count any more.
            self.held = None;
        }
    }

    pub(super) fn handle_joined(&mut self, from: ApplianceId) {
        let Some(link) = self.mate(from).and_then(|mate| mate.link.as_mut()) else { return };
        link.is_marked = true;
        self.held = Some(Process { appliance: from, incarnation: link.incarnation });
        self.silence.restart();
    }

    pub(super) fn handle_question(&mut self, from: ApplianceId, nonce: u64) {
        // Whoever asks lives.
        self.cancel_claim();
        let begun = self.role != Role::Standby;
        if !begun {
            self.silence.restart();
        }
        self.send(from, Message::Answer { nonce, begun });
    }

    pub(super) fn handle_hand_over(&mut self, now: Instant, from: ApplianceId, epoch: Epoch) {
        let is_owner = self.role == Role::Standby && self.owner == Some(from) && self.seen == epoch;
        if is_owner && self.healthy && self.held.is_some_and(|held| held.appliance == from) && self.may_resume() {
            self.claim_by_order(now);
        }
    }

    /// What the copy holds is installed.
    pub(super) fn begin_to_own(&mut self, now: Instant) {
        let Role::Taking { epoch: Some(epoch) } = self.role else { return };
        let Some(claim) = self.claim.take_if(|claim| claim.is_written) else { return };
        self.role = Role::Owner { epoch };
        self.renew(now + self.timing.deadline);
        self.actions.push_back(Action::Advertise { epoch, protected: false });
        // Judged last: what we hold must still be what the registry's list was about.
        let trusted = claim.trusted && self.held == claim.before.map(|before| before.owner);
        self.actions.push_back(Action::Activate { epoch, trusted });
        // The pairing that filled the copy ends with it.
        if let Some(held) = self.held.take()
            && self
                .mates
                .get(&held.appliance)
                .and_then(|mate| mate.link.as_ref())
                .is_some_and(|link| link.incarnation == held.incarnation)
        {
            self.close_link(now, held.appliance);
        }
        for id in self.ranks.clone() {
            if let Some(mate) = self.mate(id) {
                mate.copy = Kept::None;
            }
            self.meet(id);
        }
    }
}
