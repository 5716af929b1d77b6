//! Giving a group back to the appliance that is its first choice, once that one is there again, has a copy and could serve.
//!
//! The owner decides, for it has seen what went on: a process that comes back knows nothing of how often it came before.

use std::time::{Duration, Instant};

use vipsec_takeover::decider::{Copy, PeerStatus, Role, Status};
use vipsec_takeover::message::Message;
use vipsec_takeover::moves::MovesSeen;
use vipsec_wire::iv::ApplianceId;

use super::groups::Group;
use crate::core::Core;

/// When a group of ours goes back.
#[derive(Debug)]
pub(in crate::core) struct GiveBack {
    /// Whose it is by preference, if that isn't us, and how long it has to be ready before; `None`: only the operator moves it.
    to: Option<(ApplianceId, Duration)>,
    /// It is ours by preference, and others give it back by themselves.
    comes_back: bool,
    /// Since when that appliance is ready: its copy counts, and it could serve.
    ready_since: Option<Instant>,
    /// The preferred appliance's process when the operator had the group brought here: it stays here for as long as that one lives, and
    /// the group isn't another's again.
    against: Option<u64>,
}

impl GiveBack {
    /// `preferred`: whose it is by preference; `after`: how long it has to be ready, or the group doesn't go back by itself.
    pub(in crate::core) fn new(me: ApplianceId, preferred: Option<ApplianceId>, after: Option<Duration>) -> Self {
        let is_ours = preferred == Some(me);
        Self {
            to: preferred.filter(|_| !is_ours).zip(after),
            comes_back: is_ours && after.is_some(),
            ready_since: None,
            against: None,
        }
    }

    /// The group comes here by order, while that process of the preferred appliance is paired.
    pub(in crate::core) fn note_order(&mut self, preferred: Option<u64>) {
        self.against = preferred;
    }

    /// Whose it is by preference.
    pub(in crate::core) fn preferred(&self) -> Option<ApplianceId> {
        self.to.map(|(to, _)| to)
    }

    /// To whom it is to go now. `process`: the preferred appliance's that is paired.
    fn poll(&mut self, now: Instant, status: &Status, process: Option<u64>) -> Option<ApplianceId> {
        let (to, after) = self.to?;
        if status.role == Role::Standby {
            // We didn't take it as ordered, or don't have it any more: what brings it here next is nobody's order.
            self.against = None;
        }
        let is_ready = |peer: &PeerStatus| peer.appliance == to && peer.copy == Copy::Counted && peer.healthy;
        let ready = status.peers.iter().any(is_ready);
        let wanted = matches!(status.role, Role::Owner { .. }) && ready && process.is_some() && process != self.against;
        if !wanted {
            self.ready_since = None;
            return None;
        }
        let since = *self.ready_since.get_or_insert(now);
        if now.saturating_duration_since(since) < after {
            return None;
        }
        // If it comes to nothing, the next attempt waits as long.
        self.ready_since = None;
        Some(to)
    }
}

impl Core {
    /// What has to be seen of every group at every look: does it move too often, is it to go back?
    pub(in crate::core) fn watch_moves(&mut self, now: Instant, group: usize) {
        let me = self.config.appliance.id;
        let Some(entry) = self.groups.get_mut(group) else { return };
        let Some(status) = entry.side().map(|side| side.decider.status(now)) else { return };
        self.watch_copies(now, group, &status);
        let Some(entry) = self.groups.get_mut(group) else { return };
        let owner = if matches!(status.role, Role::Owner { .. }) { Some(me) } else { status.owner };
        let was_held = entry.is_held;
        if let Some(owner) = owner
            && entry.moves.note_owner(now, owner)
            && let Some(held) = entry.moves.held_for(now)
        {
            tracing::warn!(group = entry.name, ?held, "it moved too often: it moves no more by itself");
        }
        entry.is_held = entry.moves.held_for(now).is_some();
        if entry.is_held != was_held {
            let (is_held, name) = (entry.is_held, entry.name.clone());
            if let Some(side) = entry.side() {
                side.decider.handle_hold(is_held);
            }
            if !is_held {
                tracing::info!(group = name, "it may move by itself again");
            }
        }
        let process = entry.give_back.preferred().and_then(|preferred| entry.paired.get(&preferred).copied());
        let Some(to) = entry.give_back.poll(now, &status, process) else { return };
        if entry.is_held {
            tracing::info!(group = entry.name, appliance = %to, "not given back: it moved too often");
            return;
        }
        match entry.side().map(|side| side.decider.order_move(to)) {
            Some(Ok(())) => tracing::info!(group = entry.name, appliance = %to, "given back"),
            Some(Err(reason)) => tracing::info!(group = entry.name, appliance = %to, %reason, "not given back"),
            None => {}
        }
    }

    /// The operator has the group moved: what was before doesn't hold it, here or at any other appliance. Returns that.
    pub(in crate::core) fn note_order(&mut self, now: Instant, group: usize) -> MovesSeen {
        let before = self.groups.get(group).map_or_else(MovesSeen::default, |entry| entry.moves.seen(now));
        self.note_released(group);
        self.say_to_linked(group, &Message::Released);
        before
    }

    /// It stays where it is: what was before counts again.
    pub(in crate::core) fn note_order_in_vain(
        &mut self,
        now: Instant,
        group: usize,
        given: Instant,
        before: &MovesSeen,
    ) {
        self.note_moves(given, group, before);
        let Some(entry) = self.groups.get(group) else { return };
        let seen = entry.moves.seen(now);
        self.say_to_linked(group, &Message::Moves(seen));
    }

    fn say_to_linked(&mut self, group: usize, message: &Message) {
        let linked = self.groups.get_mut(group).and_then(Group::side).map(|side| side.linked().collect::<Vec<_>>());
        for other in linked.unwrap_or_default() {
            self.say(group, other, message);
        }
    }

    /// The operator had the group moved.
    pub(in crate::core) fn note_released(&mut self, group: usize) {
        if let Some(entry) = self.groups.get_mut(group) {
            entry.moves.release();
        }
    }

    /// Another appliance says how often the group has moved: a process that began since then doesn't know.
    pub(in crate::core) fn note_moves(&mut self, now: Instant, group: usize, seen: &MovesSeen) {
        if let Some(entry) = self.groups.get_mut(group) {
            entry.moves.learn(now, seen);
        }
    }

    /// Its owner hands the group over to us: the operator wants that, or we are its first choice. Or it can't serve, which its beats said
    /// before: then it has moved by itself.
    pub(in crate::core) fn note_handed_over(&mut self, now: Instant, group: usize, owner: ApplianceId) {
        let Some(entry) = self.groups.get_mut(group) else { return };
        let peers = entry.side().map_or_else(Vec::new, |side| side.decider.status(now).peers);
        if peers.iter().any(|peer| peer.appliance == owner && !peer.healthy) {
            return;
        }
        if !entry.give_back.comes_back {
            entry.moves.release();
        }
        let preferred = entry.give_back.preferred();
        let process = preferred.and_then(|preferred| entry.paired.get(&preferred).copied());
        entry.give_back.note_order(process);
    }
}

#[cfg(test)]
mod tests {
    use vipsec_wire::iv::Epoch;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn preferred() -> ApplianceId {
        ApplianceId::new(1).unwrap()
    }

    fn me() -> ApplianceId {
        ApplianceId::new(2).unwrap()
    }

    fn status(copy: Copy) -> Status {
        Status {
            role: Role::Owner { epoch: Epoch(2) },
            owner: None,
            seen: Epoch(2),
            trusted: false,
            silent_looks: 0,
            peers: vec![PeerStatus { appliance: preferred(), linked: true, agreed: true, healthy: true, copy }],
        }
    }

    #[test]
    fn it_goes_back_when_the_copy_has_counted_for_that_long() {
        let now = Instant::now();
        let mut give_back = GiveBack::new(me(), Some(preferred()), Some(10 * SECOND));
        let counted = status(Copy::Counted);
        assert_eq!(give_back.poll(now, &status(Copy::Joining), Some(7)), None);
        assert_eq!(give_back.poll(now, &counted, Some(7)), None);
        assert_eq!(give_back.poll(now + 5 * SECOND, &status(Copy::None), Some(7)), None, "it went away");
        assert_eq!(give_back.poll(now + 10 * SECOND, &counted, Some(7)), None, "and counts anew");
        assert_eq!(give_back.poll(now + 20 * SECOND, &counted, Some(7)), Some(preferred()));
        // It didn't take it.
        assert_eq!(give_back.poll(now + 21 * SECOND, &counted, Some(7)), None);
        assert_eq!(give_back.poll(now + 30 * SECOND, &counted, Some(7)), None);
        assert_eq!(give_back.poll(now + 31 * SECOND, &counted, Some(7)), Some(preferred()));
    }

    /// Its copy counts all the time.
    #[test]
    fn it_does_not_go_to_one_that_cannot_serve() {
        let now = Instant::now();
        let mut give_back = GiveBack::new(me(), Some(preferred()), Some(10 * SECOND));
        let mut unfit = status(Copy::Counted);
        unfit.peers[0].healthy = false;
        for second in 0..100 {
            assert_eq!(give_back.poll(now + second * SECOND, &unfit, Some(7)), None);
        }
        let counted = status(Copy::Counted);
        assert_eq!(give_back.poll(now + 100 * SECOND, &counted, Some(7)), None);
        assert_eq!(give_back.poll(now + 105 * SECOND, &unfit, Some(7)), None, "its link is down again");
        assert_eq!(give_back.poll(now + 106 * SECOND, &counted, Some(7)), None);
        assert_eq!(give_back.poll(now + 115 * SECOND, &counted, Some(7)), None, "it counts anew");
        assert_eq!(give_back.poll(now + 116 * SECOND, &counted, Some(7)), Some(preferred()));
    }

    #[test]
    fn what_the_operator_moved_stays_until_the_preferred_one_begins_anew() {
        let now = Instant::now();
        let mut give_back = GiveBack::new(me(), Some(preferred()), Some(SECOND));
        let counted = status(Copy::Counted);
        give_back.note_order(Some(7));
        for second in 0..100 {
            assert_eq!(give_back.poll(now + second * SECOND, &counted, Some(7)), None);
        }
        assert_eq!(give_back.poll(now + 100 * SECOND, &counted, Some(8)), None);
        assert_eq!(give_back.poll(now + 101 * SECOND, &counted, Some(8)), Some(preferred()));
    }

    /// It has to be fit when the order comes; and what it had by order it may lose, and get again.
    #[test]
    fn an_order_that_was_not_taken_or_is_over_keeps_nothing_here() {
        let now = Instant::now();
        let mut give_back = GiveBack::new(me(), Some(preferred()), Some(SECOND));
        let counted = status(Copy::Counted);
        let elsewhere = Status { role: Role::Standby, owner: Some(preferred()), ..counted.clone() };
        give_back.note_order(Some(7));
        assert_eq!(give_back.poll(now, &elsewhere, Some(7)), None);
        assert_eq!(give_back.poll(now, &counted, Some(7)), None);
        assert_eq!(give_back.poll(now + SECOND, &counted, Some(7)), Some(preferred()));
    }

    #[test]
    fn what_is_ours_or_the_operators_business_goes_nowhere() {
        let now = Instant::now();
        for mut give_back in [
            GiveBack::new(me(), Some(preferred()), None),
            GiveBack::new(me(), Some(me()), Some(SECOND)),
            GiveBack::new(me(), None, Some(SECOND)),
        ] {
            for second in 0..100 {
                assert_eq!(give_back.poll(now + second * SECOND, &status(Copy::Counted), Some(7)), None);
            }
        }
    }
}
