//! A bound on how often something is done per second.

use std::time::{Duration, Instant};

/// So many per second, all of them at once if need be.
#[derive(Debug)]
pub(super) struct RateLimit {
    per_second: u32,
    window: Option<Instant>,
    used: u32,
}

impl RateLimit {
    pub(super) const fn new(per_second: u32) -> Self {
        Self { per_second, window: None, used: 0 }
    }

    /// May it be done once more?
    pub(super) fn allows(&mut self, now: Instant) -> bool {
        let fresh = self.window.is_none_or(|start| now.saturating_duration_since(start) >= Duration::from_secs(1));
        if fresh {
            self.window = Some(now);
            self.used = 0;
        }
        let allowed = self.used < self.per_second;
        self.used += u32::from(allowed);
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_per_second() {
        let start = Instant::now();
        let mut limit = RateLimit::new(2);
        assert_eq!(
            [0, 0, 999, 1000].map(|ms| limit.allows(start + Duration::from_millis(ms))),
            [true, true, false, true]
        );
    }
}
