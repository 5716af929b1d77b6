//! When the next handshake may begin, or the next datagram.

use std::time::{Duration, Instant};

/// How fast handshakes begin.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Handshakes under way at a time; at least one. Without a rate it is what drives: one ends, the next begins.
    pub parallel_max: usize,
    /// Handshakes begun per second at most.
    pub per_second: Option<f64>,
}

/// So much of what is late is made up for: a process isn't woken for each beginning by itself.
const CATCH_UP: Duration = Duration::from_millis(10);

/// Beginnings, evenly spaced.
#[derive(Debug)]
pub(crate) struct Beginnings {
    interval: Duration,
    next: Instant,
}

impl Beginnings {
    /// That many per second; `None`: as many as may be.
    pub(crate) fn at_rate(per_second: Option<f64>, now: Instant) -> Self {
        let interval = per_second.filter(|rate| *rate > 0.0).map(|rate| 1.0 / rate);
        let interval = interval.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).unwrap_or_default();
        Self { interval, next: now }
    }

    /// May one begin now? If so it has.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        if now < self.next {
            return false;
        }
        self.next = (self.next + self.interval).max(now.checked_sub(CATCH_UP).unwrap_or(now));
        true
    }

    /// When the next may.
    pub(crate) const fn next(&self) -> Instant {
        self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beginnings_are_evenly_spaced_and_hardly_made_up_for() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut beginnings = Beginnings::at_rate(Some(100.0), start);
        let begun = |beginnings: &mut Beginnings, now| (0..9).filter(|_| beginnings.take(now)).count();
        assert_eq!([0, 5, 10, 19, 20].map(|ms| begun(&mut beginnings, at(ms))), [1, 0, 1, 0, 1]);
        assert_eq!(begun(&mut beginnings, at(1000)), 3, "of 98, those of the last ten milliseconds");
    }

    #[test]
    fn without_a_rate_nothing_is_waited_for() {
        let start = Instant::now();
        let mut beginnings = Beginnings::at_rate(None, start);
        assert!((0..1000).all(|_| beginnings.take(start)));
    }
}
