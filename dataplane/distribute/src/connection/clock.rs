//! Time in 32 bits: milliseconds since the table was made.

use std::time::{Duration, Instant};

/// Longest span that two ticks can tell: 24 days. A silence is noticed long before.
const SPAN_MAX: Duration = Duration::from_millis(i32::MAX as u64);

/// A moment, in milliseconds since the table was made; wraps around after 49 days.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Tick(u32);

impl Tick {
    pub(super) const ZERO: Self = Self(0);

    /// Milliseconds from `earlier` to `self`; 0 if it is later.
    #[inline]
    pub(super) fn since(self, earlier: Self) -> u32 {
        (self.0.wrapping_sub(earlier.0) as i32).max(0) as u32
    }
}

/// A moment for what is measured in milliseconds and for what may last for years.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Moment {
    pub(super) tick: Tick,
    /// Whole seconds since the table was made.
    pub(super) second: u32,
}

/// Makes ticks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    base: Instant,
}

impl Clock {
    pub(super) const fn new(base: Instant) -> Self {
        Self { base }
    }

    pub(super) fn tick(self, now: Instant) -> Tick {
        self.moment(now).tick
    }

    pub(super) fn moment(self, now: Instant) -> Moment {
        let passed = now.saturating_duration_since(self.base);
        Moment { tick: Tick(passed.as_millis() as u32), second: passed.as_secs() as u32 }
    }
}

/// A timeout in milliseconds, 24 days at most.
pub(super) fn milliseconds(timeout: Duration) -> u32 {
    timeout.min(SPAN_MAX).as_millis() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_measure_across_their_wrap_and_never_backwards() {
        let base = Instant::now();
        let clock = Clock::new(base);
        let before = base + Duration::from_millis(u64::from(u32::MAX) - 10);
        let after = before + Duration::from_secs(5);
        assert_eq!(clock.tick(after).since(clock.tick(before)), 5000);
        assert_eq!(clock.tick(before).since(clock.tick(after)), 0);
        assert_eq!(milliseconds(Duration::MAX), i32::MAX as u32);
    }
}
