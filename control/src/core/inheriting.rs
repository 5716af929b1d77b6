//! Giving IKE the SAs that were taken over, a few at a time.
//!
//! Their child SAs carry traffic already, so nobody waits for it; but ten thousand at once would keep the core from renewing the
//! workers' deadline. What comes meanwhile for SAs that IKE doesn't know yet waits.

use std::collections::VecDeque;
use std::time::Instant;

use vipsec_dataplane::api::Event;

use super::Core;
use super::inheritance::{Inheritance, Inherited, Unusable};
use super::ladder::{Climb, Rung, Why};
use super::succession::FIRST_TURN;
use crate::config::TakeoverPolicy;

/// IKE SAs that IKE is given in one go: about a millisecond's work.
const SETS_PER_STEP: usize = 64;
/// What may wait until IKE knows all of its SAs.
const WAITING_MAX: usize = 4096;

/// What was taken over of a group and is on its way to IKE.
pub(super) struct Inheriting {
    sets: std::vec::IntoIter<Inherited>,
    unusable: Vec<Unusable>,
    /// Of both.
    count: usize,
    trusted: bool,
    since: Instant,
    waiting: VecDeque<Event>,
}

impl Core {
    /// The group is ours and open: what becomes of the SAs that were read?
    pub(super) fn inherit(&mut self, now: Instant, group: usize, inheritance: Inheritance, trusted: bool) {
        self.succession.ladder.begin(now, now + FIRST_TURN, group, trusted);
        self.judge_hand(now, group, inheritance.hand);
        let Some(entry) = self.groups.get_mut(group) else { return };
        entry.inheriting = Some(Inheriting {
            count: inheritance.sets.len() + inheritance.unusable.len(),
            sets: inheritance.sets.into_iter(),
            unusable: inheritance.unusable,
            trusted,
            since: now,
            waiting: VecDeque::new(),
        });
        self.inherit_some(now, group);
    }

    /// Gives IKE a few of the SAs that were read. Their child SAs carry traffic already; so that deadlines are renewed meanwhile, it isn't
    /// given all at once.
    fn inherit_some(&mut self, now: Instant, group: usize) {
        let policy = self.takeover_policy();
        for _ in 0..SETS_PER_STEP {
            let Some(inheriting) = self.groups.get_mut(group).and_then(|entry| entry.inheriting.as_mut()) else {
                return;
            };
            let trusted = inheriting.trusted;
            let Some(set) = inheriting.sets.next() else { return self.end_inheriting(now, group) };
            match (trusted, policy) {
                (true, TakeoverPolicy::Resume) => self.resume(now, group, set),
                (true, TakeoverPolicy::Renegotiate) => self.renegotiate_from(now, group, set),
                (false, _) => self.inherit_stale(now, group, set),
            }
        }
    }

    /// IKE knows all that it is going to know.
    fn end_inheriting(&mut self, now: Instant, group: usize) {
        let ended = self.groups.get_mut(group).and_then(|entry| entry.inheriting.take());
        let Some(Inheriting { count, unusable, waiting, .. }) = ended else { return };
        for Unusable { id, callee, why } in unusable {
            let rung = if why == Why::Poison { Rung::Lost } else { Rung::Renegotiate };
            self.succession.ladder.place(id, Climb::new(group, rung, why, callee));
        }
        if count > 0 {
            self.report_takeover(group, self.takeover_policy());
        }
        waiting.into_iter().for_each(|event| self.handle_data_plane(now, event));
    }

    /// Goes on giving IKE what was taken over.
    pub(super) fn handle_inheriting_timeout(&mut self, now: Instant) {
        for group in 0..self.groups.len() {
            self.inherit_some(now, group);
        }
    }

    /// Since when IKE has more to be given.
    pub(super) fn inheriting_since(&self) -> Option<Instant> {
        self.groups.iter().filter_map(|group| Some(group.inheriting.as_ref()?.since)).min()
    }

    /// Something came that is about SAs which IKE doesn't know yet: it waits until IKE does. What is unknown to a successor that isn't
    /// through gets no answer.
    pub(super) fn wait_for_ike(&mut self, event: Event) -> Option<Event> {
        if self.inheriting_since().is_none() {
            return Some(event);
        }
        let vip = match &event {
            Event::Ike(datagram) => self.vip_at(datagram.local.ip()),
            Event::PeerMoved { spi, .. } | Event::Alive(spi) | Event::Lifetime { spi, .. } => {
                self.children.get(spi).map(|child| child.vip)
            }
            Event::UnknownSpi { .. } => return None,
            _ => None,
        };
        let group = vip.map(|vip| self.group_of(vip));
        let entry = group.and_then(|group| self.groups.get_mut(group));
        let Some(inheriting) = entry.and_then(|entry| entry.inheriting.as_mut()) else { return Some(event) };
        // Peers repeat their requests.
        if !matches!(event, Event::Ike(_)) || inheriting.waiting.len() < WAITING_MAX {
            inheriting.waiting.push_back(event);
        }
        None
    }
}
