//! The highest epoch that this appliance ever took, per VIP on disk and per group in use: what keeps it from using one twice.
//!
//! The number on disk is *reserved ahead*, so that a takeover never waits for a disk: everything up to it counts as taken after
//! a restart.

use vipsec_wire::iv::Epoch;

/// How many epochs are reserved on disk beyond the newest one taken.
pub const RESERVE_AHEAD: u32 = 16;

/// Epochs taken and reserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Floor {
    taken: u32,
    reserved: u32,
    known: bool,
}

impl Floor {
    /// The floor as it stands on disk; `None` where there is none (a new disk): then the appliance can't know which epochs it
    /// once used, and must resume nothing that was created before it joined.
    pub fn from_disk(reserved: Option<u32>) -> Self {
        let value = reserved.unwrap_or(0);
        Self { taken: value, reserved: value, known: reserved.is_some() }
    }

    /// The floor of what moves together: above both, and known where both are.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let taken = self.taken.max(other.taken);
        Self { taken, reserved: self.reserved.min(other.reserved).max(taken), known: self.known && other.known }
    }

    /// Was there a floor on disk when the appliance started?
    pub fn is_known(&self) -> bool {
        self.known
    }

    /// The value that should be on disk, where that is more than what is there: ahead of what was taken here and of what others
    /// were `seen` with, because a takeover begins above both.
    pub fn wants_reserved(&self, seen: Epoch) -> Option<u32> {
        let highest = self.taken.max(seen.0);
        (self.reserved < highest.saturating_add(RESERVE_AHEAD / 2)).then_some(highest.saturating_add(RESERVE_AHEAD))
    }

    /// `value` is on disk now.
    pub fn reserved(&mut self, value: u32) {
        self.reserved = self.reserved.max(value);
    }

    /// The next epoch above everything that `seen` names; `None` until it is reserved: see [`Floor::require`].
    pub fn next(&self, seen: Epoch) -> Option<Epoch> {
        let next = self.taken.max(seen.0).checked_add(1)?;
        (next <= self.reserved).then_some(Epoch(next))
    }

    /// What must be on disk before [`Floor::next`] answers for `seen`.
    pub fn require(&self, seen: Epoch) -> u32 {
        self.taken.max(seen.0).saturating_add(1 + RESERVE_AHEAD)
    }

    /// `epoch` is taken: never again.
    pub fn take(&mut self, epoch: Epoch) {
        self.taken = self.taken.max(epoch.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_is_taken_once_even_across_a_restart() {
        let mut floor = Floor::from_disk(Some(20));
        floor.reserved(36);
        let first = floor.next(Epoch(0)).unwrap();
        floor.take(first);
        let second = floor.next(Epoch(0)).unwrap();
        assert!(second > first);
        floor.take(second);
        // Restarted: all that was reserved counts as taken.
        let mut again = Floor::from_disk(Some(36));
        again.reserved(52);
        assert!(again.next(Epoch(0)).unwrap() > second);
    }

    #[test]
    fn what_moves_together_is_above_each_of_its_floors() {
        let together = Floor::from_disk(Some(40)).and(Floor::from_disk(Some(7)));
        assert!(together.is_known());
        assert_eq!(together.next(Epoch(0)), None, "nothing is reserved yet above the higher one");
        let mut together = together;
        together.reserved(together.require(Epoch(0)));
        assert_eq!(together.next(Epoch(0)), Some(Epoch(41)));
        assert!(!Floor::from_disk(Some(40)).and(Floor::from_disk(None)).is_known());
    }

    #[test]
    fn no_epoch_without_the_disk() {
        let mut floor = Floor::from_disk(None);
        assert!(!floor.is_known());
        assert_eq!(floor.next(Epoch(0)), None);
        floor.reserved(floor.require(Epoch(7)));
        assert_eq!(floor.next(Epoch(7)), Some(Epoch(8)));
    }

    #[test]
    fn reserves_ahead_of_need() {
        let mut floor = Floor::from_disk(Some(0));
        let wanted = floor.wants_reserved(Epoch(0)).unwrap();
        floor.reserved(wanted);
        assert_eq!(floor.wants_reserved(Epoch(0)), None);
        for _ in 0..RESERVE_AHEAD {
            let Some(epoch) = floor.next(Epoch(0)) else { break };
            floor.take(epoch);
        }
        assert!(floor.wants_reserved(Epoch(0)).is_some());
    }

    /// A backup that never owned must be able to follow an owner whose epochs are far ahead without waiting for its disk.
    #[test]
    fn reserves_above_what_the_peer_uses() {
        let mut floor = Floor::from_disk(Some(0));
        floor.reserved(RESERVE_AHEAD);
        let wanted = floor.wants_reserved(Epoch(17)).unwrap();
        floor.reserved(wanted);
        assert_eq!(floor.next(Epoch(17)), Some(Epoch(18)));
    }
}
