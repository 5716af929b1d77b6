//! Is this appliance fit to own anything: do its workers advance, are its links up?

use std::time::{Duration, Instant};

use vipsec_takeover::decider;

/// Looks in a row in which a worker stands still that is stuck: one that is merely scheduled away for one look is not.
const STUCK_LOOKS: u32 = 2;

/// What the looks at the workers have told.
#[derive(Debug)]
pub(super) struct Fitness {
    interval: Duration,
    next_look: Instant,
    /// Looks in a row in which some worker stood still.
    standing_still: u32,
    /// By worker: had it gone on between the last two looks?
    advancing: Vec<bool>,
}

impl Fitness {
    /// So many workers, which are looked at every `interval`, and all of which advance.
    pub(super) fn new(workers: usize, interval: Duration, now: Instant) -> Self {
        Self { interval, next_look: now, standing_still: 0, advancing: vec![true; workers] }
    }

    /// Looks, if it is time to: between two looks that follow each other closely no worker may have had anything to do.
    /// `advanced` tells of each worker whether it has gone on since it was asked last.
    pub(super) fn look(&mut self, now: Instant, advanced: impl FnOnce() -> Vec<bool>) {
        if now < self.next_look {
            return;
        }
        self.next_look = now + self.interval;
        self.advancing = advanced();
        let all = self.advancing.iter().all(|advancing| *advancing);
        self.standing_still = if all { 0 } else { self.standing_still.saturating_add(1) };
    }

    /// How fit, with data links like this?
    pub(super) fn judge(&self, links_up: bool) -> decider::Fitness {
        match (self.standing_still < STUCK_LOOKS, links_up) {
            (true, true) => decider::Fitness::Fit,
            (true, false) => decider::Fitness::LinkDown,
            (false, _) => decider::Fitness::WorkerStuck,
        }
    }

    /// By worker: does it advance?
    pub(super) fn advancing(&self) -> &[bool] {
        &self.advancing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_worker_is_stuck_that_stands_still_for_two_looks() {
        let start = Instant::now();
        let mut fitness = Fitness::new(2, 10 * MS, start);
        let mut look = |after, advanced: [bool; 2]| {
            fitness.look(start + after * MS, || advanced.to_vec());
            (fitness.judge(true) == decider::Fitness::Fit, fitness.advancing().to_vec())
        };
        assert_eq!(look(0, [true, true]), (true, vec![true, true]));
        assert_eq!(look(10, [true, false]), (true, vec![true, false]), "scheduled away");
        assert_eq!(look(20, [true, true]), (true, vec![true, true]));
        assert_eq!(look(30, [false, true]), (true, vec![false, true]));
        assert_eq!(look(40, [false, true]), (false, vec![false, true]));
        assert_eq!(look(50, [true, true]), (true, vec![true, true]));
        assert_eq!(fitness.judge(false), decider::Fitness::LinkDown);
    }

    #[test]
    fn timers_that_follow_each_other_closely_make_no_worker_look_stuck() {
        let start = Instant::now();
        let mut fitness = Fitness::new(1, 10 * MS, start);
        fitness.look(start, || vec![true]);
        for micros in 1..100 {
            fitness.look(start + micros * MS / 10, || vec![false]);
            assert_eq!(fitness.judge(true), decider::Fitness::Fit);
        }
        fitness.look(start + 10 * MS, || vec![true]);
        assert_eq!(fitness.advancing(), [true]);
    }
}
