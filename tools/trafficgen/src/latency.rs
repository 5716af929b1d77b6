//! A histogram of latencies.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::time::nanos;

/// Everything longer counts as this long.
const LONGEST: Duration = Duration::from_secs(60);
/// Values are kept to a thousandth.
const SIGNIFICANT_DIGITS: u8 = 3;

/// Latencies of packets, to a thousandth of their size.
#[derive(Debug)]
pub struct Latency {
    histogram: Histogram<u64>,
}

/// A histogram in short, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct LatencyReport {
    /// The shortest.
    pub min_us: f64,
    /// The mean.
    pub mean_us: f64,
    /// Half of the packets were at least as fast.
    pub p50_us: f64,
    /// Nine of ten.
    pub p90_us: f64,
    /// 99 of 100.
    pub p99_us: f64,
    /// 999 of 1000.
    pub p999_us: f64,
    /// The longest.
    pub max_us: f64,
}

impl Default for Latency {
    fn default() -> Self {
        let histogram = Histogram::new_with_bounds(1, nanos(LONGEST), SIGNIFICANT_DIGITS);
        Self { histogram: histogram.expect("the bounds are constants that the histogram takes") }
    }
}

impl Latency {
    /// Counts a packet's.
    pub fn record(&mut self, latency: Duration) {
        self.histogram.saturating_record(nanos(latency));
    }

    /// `None` if there were no packets.
    pub fn report(&self) -> Option<LatencyReport> {
        let micros = |nanos: u64| nanos as f64 / 1e3;
        let quantile = |quantile| micros(self.histogram.value_at_quantile(quantile));
        (!self.histogram.is_empty()).then(|| LatencyReport {
            min_us: micros(self.histogram.min()),
            mean_us: self.histogram.mean() / 1e3,
            p50_us: quantile(0.5),
            p90_us: quantile(0.9),
            p99_us: quantile(0.99),
            p999_us: quantile(0.999),
            max_us: micros(self.histogram.max()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(found: f64, expected: f64) -> bool {
        (found - expected).abs() <= expected / 500.0
    }

    #[test]
    fn quantiles_of_a_thousand_packets() {
        let mut latency = Latency::default();
        assert_eq!(latency.report(), None);
        for micros in 1..=1000 {
            latency.record(Duration::from_micros(micros));
        }
        let report = latency.report().unwrap();
        assert!(near(report.p50_us, 500.0) && near(report.p90_us, 900.0), "{report:?}");
        assert!(near(report.p99_us, 990.0) && near(report.p999_us, 999.0), "{report:?}");
        assert!(near(report.min_us, 1.0) && near(report.max_us, 1000.0) && near(report.mean_us, 500.5), "{report:?}");
    }

    #[test]
    fn what_is_longer_than_the_longest_still_counts() {
        let mut latency = Latency::default();
        latency.record(Duration::from_secs(3600));
        assert!(near(latency.report().unwrap().max_us, 60e6));
    }
}
