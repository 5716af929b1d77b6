//! An appliance's clock: it need not show the right time, nor run at the right rate.

use std::time::{Duration, Instant};

/// What it shows of the world's time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    origin: Instant,
    /// What it shows of a thousand nanoseconds.
    rate: u32,
    behind: Duration,
}

impl Clock {
    /// It shows the right time at `origin`, and runs that much faster, in thousandths.
    pub(crate) fn new(origin: Instant, drift_permille: i16) -> Self {
        let rate = 1000_u32.saturating_add_signed(drift_permille.into());
        Self { origin, rate, behind: Duration::ZERO }
    }

    /// It stood still for so long, and nobody has noticed.
    pub(crate) fn set_back(&mut self, by: Duration) {
        self.behind += by;
    }

    /// What it shows at that time.
    pub(crate) fn at(&self, time: Instant) -> Instant {
        let passed = time.saturating_duration_since(self.origin) * self.rate / 1000;
        self.origin + passed.saturating_sub(self.behind)
    }

    /// The first time at which it shows that.
    pub(crate) fn when(&self, shown: Instant) -> Instant {
        let passed = shown.saturating_duration_since(self.origin) + self.behind;
        // Rounded up, lest somebody is woken too early and goes back to sleep for no time at all.
        self.origin + (passed * 1000 + Duration::from_nanos(u64::from(self.rate).saturating_sub(1))) / self.rate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_it_shows_a_time_that_time_has_come() {
        let origin = Instant::now();
        for drift in [-40, -1, 0, 7, 300] {
            let mut clock = Clock::new(origin, drift);
            for back in [0, 1234] {
                clock.set_back(Duration::from_micros(back));
                for nanos in (0..2_000_000_000).step_by(12_345_679) {
                    let shown = origin + Duration::from_nanos(nanos);
                    let when = clock.when(shown);
                    assert!(clock.at(when) >= shown && clock.at(when) <= shown + Duration::from_nanos(5), "{drift}");
                }
            }
        }
    }
}
