//! Is this appliance fit to own anything: do its workers advance, are its links up?

use std::time::{Duration, Instant};

use vipsec_takeover::decider;

/// What the looks at the workers have told.
#[derive(Debug)]
pub(super) struct Fitness {
    interval: Duration,
    /// A worker that stands still for so many looks in a row is stuck.
    stuck_looks: u32,
    next_look: Instant,
    /// By worker: in how many looks, up to the last one, it had not gone on.
    standing_still: Vec<u32>,
    /// A worker was stuck when we last looked.
    stuck: bool,
}

impl Fitness {
    /// So many workers, all of which advance. They are looked at every `interval`, and stuck is one that stands still for `patience`: as long
    /// as an owner may be silent. One that waits for a processor that others keep busy is not, and who slept through some looks itself
    /// knows nothing of them.
    pub(super) fn new(workers: usize, interval: Duration, patience: Duration, now: Instant) -> Self {
        let stuck_looks = patience.as_micros().div_ceil(interval.as_micros().max(1));
        let stuck_looks = u32::try_from(stuck_looks).unwrap_or(u32::MAX);
        Self { interval, stuck_looks, next_look: now, standing_still: vec![0; workers], stuck: false }
    }

    /// Looks, if it is time to: between two looks that follow each other closely no worker may have had anything to do.
    /// `advanced` tells of each worker whether it has gone on since it was asked last.
    pub(super) fn look(&mut self, now: Instant, advanced: impl FnOnce() -> Vec<bool>) {
        if now < self.next_look {
            return;
        }
        self.next_look = now + self.interval;
        for (looks, advanced) in self.standing_still.iter_mut().zip(advanced()) {
            *looks = if advanced { 0 } else { looks.saturating_add(1) };
        }
        let stuck = self.standing_still.iter().position(|looks| *looks >= self.stuck_looks);
        match (std::mem::replace(&mut self.stuck, stuck.is_some()), stuck) {
            (false, Some(worker)) => {
                tracing::error!(worker, "the worker stands still: no heartbeat leaves before it goes on")
            }
            (true, None) => tracing::warn!("the worker that stood still goes on"),
            _ => {}
        }
    }

    /// How fit, with data links like this?
    pub(super) fn judge(&self, links_up: bool) -> decider::Fitness {
        match (self.stuck, links_up) {
            (true, _) => decider::Fitness::WorkerStuck,
            (false, false) => decider::Fitness::LinkDown,
            (false, true) => decider::Fitness::Fit,
        }
    }

    /// By worker: does it advance?
    pub(super) fn advancing(&self) -> Vec<bool> {
        self.standing_still.iter().map(|looks| *looks == 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_worker_is_stuck_that_stands_still_for_as_long_as_an_owner_may_be_silent() {
        let start = Instant::now();
        let mut fitness = Fitness::new(2, 10 * MS, 45 * MS, start);
        let mut look = |after, advanced: [bool; 2]| {
            fitness.look(start + after * MS, || advanced.to_vec());
            (fitness.judge(true) == decider::Fitness::Fit, fitness.advancing())
        };
        assert_eq!(look(0, [true, true]), (true, vec![true, true]));
        for after in [10, 20, 30, 40] {
            assert_eq!(look(after, [true, false]), (true, vec![true, false]), "scheduled away");
        }
        assert_eq!(look(50, [true, true]), (true, vec![true, true]));
        // The looker itself slept in between.
        for after in [60, 70, 270, 280] {
            assert_eq!(look(after, [false, true]), (true, vec![false, true]));
        }
        assert_eq!(look(290, [false, true]), (false, vec![false, true]));
        assert_eq!(look(300, [true, true]), (true, vec![true, true]));
        assert_eq!(fitness.judge(false), decider::Fitness::LinkDown);
    }

    #[test]
    fn timers_that_follow_each_other_closely_make_no_worker_look_stuck() {
        let start = Instant::now();
        let mut fitness = Fitness::new(1, 10 * MS, 50 * MS, start);
        fitness.look(start, || vec![true]);
        for micros in 1..100 {
            fitness.look(start + micros * MS / 10, || vec![false]);
            assert_eq!(fitness.judge(true), decider::Fitness::Fit);
        }
        fitness.look(start + 10 * MS, || vec![true]);
        assert_eq!(fitness.advancing(), [true]);
    }
}
