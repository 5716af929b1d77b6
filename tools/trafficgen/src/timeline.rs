//! Packets over time.

use std::time::Duration;

use serde::Serialize;

use crate::time::{Stamp, nanos};

/// Buckets at most. When time has used them up, they become twice as wide: every run fits, long ones more coarsely.
pub const BUCKETS_MAX: usize = 100_000;

/// Packets per bucket of time.
#[derive(Debug)]
pub struct Timeline {
    origin: Stamp,
    width: Duration,
    packets: Vec<u32>,
}

/// A timeline as it is written.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TimelineReport {
    /// Width of a bucket.
    pub bucket_ms: f64,
    /// Packets in each bucket since the beginning of the run.
    pub packets: Vec<u32>,
}

impl Timeline {
    /// A timeline from `origin` on.
    pub fn new(origin: Stamp, width: Duration) -> Self {
        Self { origin, width: width.max(Duration::from_nanos(1)), packets: Vec::new() }
    }

    /// Counts packets at `now`; what lies before the origin counts there.
    pub fn record(&mut self, now: Stamp, packets: u32) {
        let after = nanos(now.since(self.origin));
        let index = loop {
            let index = usize::try_from(after / nanos(self.width)).unwrap_or(usize::MAX);
            if index < BUCKETS_MAX {
                break index;
            }
            self.widen();
        };
        if index >= self.packets.len() {
            self.packets.resize(index + 1, 0);
        }
        if let Some(bucket) = self.packets.get_mut(index) {
            *bucket = bucket.saturating_add(packets);
        }
    }

    /// The buckets so far.
    pub fn report(&self) -> TimelineReport {
        TimelineReport { bucket_ms: self.width.as_secs_f64() * 1e3, packets: self.packets.clone() }
    }

    fn widen(&mut self) {
        self.width = self.width.saturating_mul(2);
        let pairs = self.packets.chunks(2);
        self.packets =
            pairs.map(|pair| pair.iter().fold(0, |sum: u32, &packets| sum.saturating_add(packets))).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Stamp {
        Stamp::from_nanos(1_000_000_000 + millis * 1_000_000)
    }

    #[test]
    fn packets_fall_into_their_buckets() {
        let mut timeline = Timeline::new(ms(0), Duration::from_millis(10));
        for at in [0, 9, 10, 35] {
            timeline.record(ms(at), 2);
        }
        assert_eq!(timeline.report(), TimelineReport { bucket_ms: 10.0, packets: vec![4, 2, 0, 2] });
    }

    #[test]
    fn a_long_run_gets_wider_buckets_and_loses_no_packet() {
        let mut timeline = Timeline::new(ms(0), Duration::from_millis(1));
        let runtime = BUCKETS_MAX as u64 * 3;
        for at in 0..runtime {
            timeline.record(ms(at), 1);
        }
        let report = timeline.report();
        assert_eq!(report.bucket_ms, 4.0);
        assert!(report.packets.len() <= BUCKETS_MAX && report.packets.iter().all(|&packets| packets == 4));
        assert_eq!(report.packets.iter().map(|&packets| u64::from(packets)).sum::<u64>(), runtime);
    }

    #[test]
    fn a_time_far_away_ends_in_a_bucket() {
        let mut timeline = Timeline::new(Stamp::from_nanos(0), Duration::ZERO);
        timeline.record(Stamp::from_nanos(u64::MAX), 1);
        assert_eq!(timeline.report().packets.iter().sum::<u32>(), 1);
    }
}
