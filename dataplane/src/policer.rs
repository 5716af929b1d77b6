//! A token bucket: so many at once, so many per second.

use std::time::Instant;

use crate::api::Policer;

/// What one datagram costs: a token per nanosecond and unit of rate flows in, so a second brings `rate` datagrams.
const COST: u64 = 1_000_000_000;

#[derive(Debug)]
pub(crate) struct TokenBucket {
    limits: Policer,
    tokens: u64,
    filled: Option<Instant>,
}

impl TokenBucket {
    /// A full bucket.
    pub(crate) fn new(limits: Policer) -> Self {
        Self { limits, tokens: u64::from(limits.burst) * COST, filled: None }
    }

    /// Uses other limits from now on; what was spent stays spent.
    pub(crate) fn set_limits(&mut self, limits: Policer) {
        self.limits = limits;
        self.tokens = self.tokens.min(u64::from(limits.burst) * COST);
    }

    /// May another one pass?
    pub(crate) fn allows(&mut self, now: Instant) -> bool {
        let elapsed = self.filled.map_or(0, |filled| now.saturating_duration_since(filled).as_nanos());
        let gained = u64::try_from(elapsed).unwrap_or(u64::MAX).saturating_mul(u64::from(self.limits.rate));
        self.tokens = self.tokens.saturating_add(gained).min(u64::from(self.limits.burst) * COST);
        self.filled = Some(now);
        match self.tokens.checked_sub(COST) {
            Some(left) => {
                self.tokens = left;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn burst_then_rate() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(Policer { rate: 10, burst: 3 });
        let passed = |bucket: &mut TokenBucket, now, tries| (0..tries).filter(|_| bucket.allows(now)).count();
        assert_eq!(passed(&mut bucket, start, 10), 3);
        assert_eq!(passed(&mut bucket, start + Duration::from_millis(99), 10), 0);
        assert_eq!(passed(&mut bucket, start + Duration::from_millis(100), 10), 1);
        assert_eq!(passed(&mut bucket, start + Duration::from_secs(3600), 10), 3, "no more than the burst is saved");
    }
}
