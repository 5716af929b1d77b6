//! When the next packets may leave: a token bucket.

use std::time::Duration;

use crate::time::{Stamp, nanos};

/// Tokens are counted in parts of a packet: as many make one as there are nanoseconds in a second, so that a rate per second earns
/// exactly its number of parts per nanosecond.
const PARTS: u128 = 1_000_000_000;

/// Spaces packets evenly at a rate. In a second exactly that many become due, whenever it is asked.
#[derive(Debug, Clone)]
pub struct Pacer {
    rate_pps: u64,
    burst: usize,
    /// Most that can wait.
    depth: u128,
    parts: u128,
    missed: u128,
    at: Stamp,
}

impl Pacer {
    /// A pacer whose first packet is due now; at most `burst` are due at a time.
    ///
    /// Who asks late may catch up with what was due in the last `catch_up`. What was due before that is never sent: a stall of the
    /// generator's own machine must not become a burst that the device under test can't be blamed for losing.
    pub fn new(rate_pps: u64, burst: usize, catch_up: Duration, now: Stamp) -> Self {
        let catch_up = u128::from(rate_pps) * u128::from(nanos(catch_up));
        let depth = catch_up.max(burst.max(1) as u128 * PARTS);
        Self { rate_pps, burst, depth, parts: PARTS, missed: 0, at: now }
    }

    /// How many packets may leave now.
    pub fn due(&mut self, now: Stamp) -> usize {
        let elapsed = now.nanos().saturating_sub(self.at.nanos());
        self.at = self.at.max(now);
        let parts = self.parts.saturating_add(u128::from(elapsed) * u128::from(self.rate_pps));
        self.parts = parts.min(self.depth);
        self.missed = self.missed.saturating_add(parts - self.parts);
        usize::try_from(self.parts / PARTS).unwrap_or(usize::MAX).min(self.burst)
    }

    /// So many left.
    pub fn take(&mut self, packets: usize) {
        self.parts = self.parts.saturating_sub(packets as u128 * PARTS);
    }

    /// When the next packet is due; `None` is never.
    pub fn next_due(&self) -> Option<Stamp> {
        if self.parts >= PARTS {
            return Some(self.at);
        }
        let wait = (PARTS - self.parts).div_ceil(Some(u128::from(self.rate_pps)).filter(|&rate| rate > 0)?);
        Some(self.at.after(Duration::from_nanos(u64::try_from(wait).unwrap_or(u64::MAX))))
    }

    /// Packets that were due and didn't leave because the generator came too late, or the port took no more.
    pub fn missed(&self) -> u64 {
        u64::try_from(self.missed / PARTS).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const START: Stamp = Stamp::from_nanos(77);
    const CATCH_UP: Duration = Duration::from_millis(1);

    fn after(nanos: u64) -> Stamp {
        START.after(Duration::from_nanos(nanos))
    }

    /// Asks at each of these times and sends all that is due.
    fn sent(pacer: &mut Pacer, times: impl Iterator<Item = u64>) -> u64 {
        let mut sent = 0;
        for at in times {
            let due = pacer.due(after(at));
            pacer.take(due);
            sent += due as u64;
        }
        sent
    }

    #[test]
    fn a_second_has_exactly_the_rates_packets() {
        // 7 doesn't divide a second, and 333,333 ns is no multiple of anything.
        for rate in [1, 7, 1000, 4321] {
            let mut pacer = Pacer::new(rate, 32, CATCH_UP, START);
            let times = (0..10_000_000_000).step_by(333_333);
            assert_eq!(sent(&mut pacer, times), 10 * rate, "{rate} packets/s for 10 s");
            assert_eq!(pacer.missed(), 0);
        }
    }

    #[test]
    fn packets_leave_evenly() {
        let mut pacer = Pacer::new(1000, 32, CATCH_UP, START);
        let mut times = Vec::new();
        for at in (0..20_000_000).step_by(10_000) {
            if pacer.due(after(at)) > 0 {
                pacer.take(1);
                times.push(at);
            }
        }
        assert_eq!(times, (0..20).map(|n| n * 1_000_000).collect::<Vec<_>>());
    }

    #[test]
    fn next_due_is_when_one_becomes_due() {
        let mut pacer = Pacer::new(3, 1, CATCH_UP, START);
        assert_eq!(pacer.next_due(), Some(START));
        assert_eq!(pacer.due(START), 1);
        pacer.take(1);
        assert_eq!(pacer.next_due(), Some(after(333_333_334)));
        assert_eq!(pacer.due(after(333_333_333)), 0);
        assert_eq!(pacer.due(after(333_333_334)), 1);
        assert_eq!(Pacer { parts: 0, ..Pacer::new(0, 1, CATCH_UP, START) }.next_due(), None);
    }

    #[test]
    fn after_a_stall_the_past_is_missed_and_not_sent_in_a_burst() {
        let mut pacer = Pacer::new(1_000_000, 32, CATCH_UP, START);
        let due = pacer.due(after(1_000_000_000));
        assert_eq!(due, 32, "no more than a burst at a time");
        let caught_up = sent(&mut pacer, std::iter::repeat_n(1_000_000_000, 100));
        assert_eq!(caught_up, 1000, "a millisecond's worth");
        assert_eq!(pacer.missed(), 999_001, "the packet that was due at the start included");
    }

    proptest! {
        #[test]
        fn sent_and_missed_are_all_that_was_due(rate in 1u64..2_000_000, steps in proptest::collection::vec(0u64..5_000_000, 1..100)) {
            let mut pacer = Pacer::new(rate, 32, CATCH_UP, START);
            let mut at = 0;
            let mut sent = 0;
            for step in steps {
                at += step;
                let due = pacer.due(after(at));
                prop_assert!(due <= 32);
                pacer.take(due);
                sent += due as u64;
            }
            let earned = 1 + (u128::from(at) * u128::from(rate) / PARTS) as u64;
            let waiting = (pacer.parts / PARTS) as u64;
            // Fractions of missed and of waiting packets may together make one.
            prop_assert!((earned - 1..=earned).contains(&(sent + pacer.missed() + waiting)));
        }
    }
}
