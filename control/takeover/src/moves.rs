//! How often a group has moved lately. One that moved too often is *held* for a while: it moves no more by itself, until time or the
//! operator releases it. A dead owner is succeeded all the same.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use vipsec_wire::iv::ApplianceId;

/// Most moves that another appliance is told of, the newest: they have to fit into a message.
const TOLD_MAX: usize = 500;

/// When a group is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MoveLimits {
    /// That many moves are too many; 0: none ever are.
    pub moves_max: u32,
    /// Within that time.
    pub window: Duration,
    /// It is held for so long after the last of them.
    pub hold: Duration,
}

impl Default for MoveLimits {
    fn default() -> Self {
        Self { moves_max: 5, window: Duration::from_secs(600), hold: Duration::from_secs(600) }
    }
}

/// Moves that an appliance has seen, as it tells another one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct MovesSeen {
    /// So long ago.
    pub millis_ago: Vec<u32>,
    /// For how much longer the group is held; 0: it isn't.
    pub held_millis: u32,
}

/// The moves of a group, as one appliance sees them.
#[derive(Debug)]
pub struct Moves {
    limits: MoveLimits,
    owner: Option<ApplianceId>,
    /// The newest last; at most as many as are too many.
    times: VecDeque<Instant>,
    held_until: Option<Instant>,
}

impl Moves {
    /// None so far.
    pub fn new(limits: MoveLimits) -> Self {
        Self { limits, owner: None, times: VecDeque::new(), held_until: None }
    }

    /// Somebody owns the group now, as far as is known. True if it has moved.
    pub fn note_owner(&mut self, now: Instant, owner: ApplianceId) -> bool {
        let moved = self.owner.replace(owner).is_some_and(|before| before != owner);
        if moved && self.limits.moves_max > 0 {
            self.times.retain(|time| now.saturating_duration_since(*time) < self.limits.window);
            self.times.push_back(now);
            if self.times.len() >= self.limits.moves_max as usize {
                self.times.pop_front();
                self.held_until = Some(now + self.limits.hold);
            }
        }
        moved
    }

    /// Who owned it last, as far as is known.
    pub fn owner(&self) -> Option<ApplianceId> {
        self.owner
    }

    /// For a process that was not there to see them: how long ago they were, and for how much longer the group is held.
    pub fn seen(&self, now: Instant) -> MovesSeen {
        let ago = self.times.iter().map(|time| millis(now.saturating_duration_since(*time)));
        MovesSeen { millis_ago: ago.rev().take(TOLD_MAX).collect(), held_millis: self.held_for(now).map_or(0, millis) }
    }

    /// Another appliance says what it has seen. Both saw the same moves, but for those before one of them was there: who saw more of
    /// them is right.
    pub fn learn(&mut self, now: Instant, seen: &MovesSeen) {
        let past = |millis: &u32| now.checked_sub(Duration::from_millis((*millis).into()));
        let mut times: Vec<_> = seen.millis_ago.iter().filter_map(past).collect();
        times.retain(|time| now.saturating_duration_since(*time) < self.limits.window);
        self.times.retain(|time| now.saturating_duration_since(*time) < self.limits.window);
        times.sort();
        let room = (self.limits.moves_max as usize).saturating_sub(1);
        let times = times.split_off(times.len().saturating_sub(room));
        if times.len() > self.times.len() {
            self.times = times.into();
        }
        let held = Duration::from_millis(seen.held_millis.into()).min(self.limits.hold);
        if self.limits.moves_max > 0 && !held.is_zero() {
            self.held_until = self.held_until.max(Some(now + held));
        }
    }

    /// The operator wants it to move: what was before doesn't count any more.
    pub fn release(&mut self) {
        self.times.clear();
        self.held_until = None;
    }

    /// For how much longer it is held.
    pub fn held_for(&self, now: Instant) -> Option<Duration> {
        self.held_until.filter(|until| now < *until).map(|until| until - now)
    }
}

fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn ids() -> [ApplianceId; 2] {
        [1, 2].map(|id| ApplianceId::new(id).unwrap())
    }

    fn moves(now: Instant) -> Moves {
        let limits = MoveLimits { moves_max: 3, window: 60 * SECOND, hold: 100 * SECOND };
        let mut moves = Moves::new(limits);
        assert!(!moves.note_owner(now, ids()[0]), "whoever is first has not moved it");
        moves
    }

    #[test]
    fn too_many_moves_in_a_short_time_hold_a_group_for_a_while() {
        let now = Instant::now();
        let [a, b] = ids();
        let mut moves = moves(now);
        assert!(moves.note_owner(now, b) && moves.note_owner(now + SECOND, a));
        assert!(!moves.note_owner(now + 2 * SECOND, a), "it is where it was");
        assert_eq!(moves.held_for(now + 2 * SECOND), None);
        assert!(moves.note_owner(now + 59 * SECOND, b));
        assert_eq!(moves.held_for(now + 60 * SECOND), Some(99 * SECOND));
        assert_eq!(moves.held_for(now + 159 * SECOND), None, "time releases it");
        // One that goes on moving while it is held, for its owners die, is held on.
        assert!(moves.note_owner(now + 100 * SECOND, a));
        assert_eq!(moves.held_for(now + 100 * SECOND), Some(59 * SECOND), "the first ones are long ago");
        assert!(moves.note_owner(now + 110 * SECOND, b));
        assert_eq!(moves.held_for(now + 111 * SECOND), Some(99 * SECOND));
    }

    #[test]
    fn moves_that_are_far_between_hold_nothing() {
        let now = Instant::now();
        let mut moves = moves(now);
        for number in 1..20 {
            assert!(moves.note_owner(now + 31 * number * SECOND, ids()[number as usize % 2]));
            assert_eq!(moves.held_for(now + 31 * number * SECOND), None);
        }
    }

    #[test]
    fn the_operator_releases_it() {
        let now = Instant::now();
        let mut moves = moves(now);
        for number in 1..4 {
            moves.note_owner(now, ids()[number % 2]);
        }
        assert!(moves.held_for(now).is_some());
        moves.release();
        assert_eq!(moves.held_for(now), None);
        assert!(moves.note_owner(now, ids()[0]));
        assert_eq!(moves.held_for(now), None, "counted anew");
    }

    #[test]
    fn a_process_that_was_not_there_learns_of_the_moves_before() {
        let now = Instant::now();
        let [a, b] = ids();
        let mut old = moves(now);
        assert!(old.note_owner(now, b) && old.note_owner(now + 10 * SECOND, a));
        // A new process, which has seen one of the two.
        let mut new = moves(now);
        assert!(new.note_owner(now + 10 * SECOND, b));
        let told = now + 20 * SECOND;
        new.learn(told, &old.seen(told));
        old.learn(told, &new.seen(told));
        new.learn(told, &old.seen(told));
        assert_eq!(new.seen(told), old.seen(told), "told twice is counted once");
        assert_eq!(new.seen(told).millis_ago, [10_000, 20_000]);
        assert!(new.note_owner(now + 21 * SECOND, a));
        assert_eq!(new.held_for(now + 21 * SECOND), Some(100 * SECOND));
        // And so does one that comes when it is held.
        let mut newest = moves(now);
        newest.learn(now + 31 * SECOND, &new.seen(now + 31 * SECOND));
        assert_eq!(newest.held_for(now + 31 * SECOND), Some(90 * SECOND));
    }

    #[test]
    fn nobody_can_make_a_group_be_held_for_longer_than_it_may_be() {
        let now = Instant::now() + 1000 * SECOND;
        let mut moves = moves(now);
        moves.learn(now, &MovesSeen { millis_ago: vec![u32::MAX, 60_000, 3, 2, 1, 0], held_millis: u32::MAX });
        assert_eq!(moves.held_for(now), Some(100 * SECOND));
        assert_eq!(moves.seen(now).millis_ago, [0, 1], "no more than count, and none that was long ago");
        let mut free = Moves::new(MoveLimits { moves_max: 0, ..MoveLimits::default() });
        free.learn(now, &moves.seen(now));
        assert_eq!((free.held_for(now), free.seen(now)), (None, MovesSeen::default()));
    }

    #[test]
    fn without_a_limit_nothing_is_held() {
        let now = Instant::now();
        let mut moves = Moves::new(MoveLimits { moves_max: 0, ..MoveLimits::default() });
        for number in 0..100 {
            moves.note_owner(now, ids()[number % 2]);
        }
        assert_eq!(moves.held_for(now), None);
    }
}
