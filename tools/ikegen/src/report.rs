//! What came of it, for programs and for people.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::echo::Echo;

/// How a run stands, or ended.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Initiators that there are.
    pub initiators: usize,
    /// Those that have called.
    pub begun: usize,
    /// Handshakes that ended with an IKE SA and a child SA.
    pub established: u64,
    /// Initiators of whose handshake nothing came.
    pub failed: usize,
    /// Handshakes under way.
    pub calling: usize,
    /// Initiators that have an IKE SA with a child SA.
    pub up: usize,
    /// Initiators that had both and have not any more.
    pub lost: usize,
    /// From the beginning until the last handshake ended.
    pub seconds: f64,
    /// Handshakes with a good end in each of those seconds.
    pub per_second: f64,
    /// How long a handshake took, from its first message on.
    pub handshake: Option<Latency>,
    /// IKE SAs that either side replaced.
    pub ike_rekeys: u64,
    /// Child SAs that either side replaced.
    pub child_rekeys: u64,
    /// Why handshakes failed and SAs ended that nothing replaced.
    pub ends: BTreeMap<String, u64>,
    /// Why initiators dropped messages.
    pub drops: BTreeMap<&'static str, u64>,
    /// Datagrams for addresses of no initiator.
    pub strangers: u64,
    /// Datagrams through the tunnels, if any were asked for.
    pub echoes: Option<EchoReport>,
}

/// What became of datagrams to the echo service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct EchoReport {
    /// Sent.
    pub sent: usize,
    /// Not back, or not yet.
    pub missing: usize,
}

impl EchoReport {
    pub(crate) fn of(echoes: &[Echo]) -> Self {
        Self { sent: echoes.len(), missing: echoes.iter().filter(|echo| echo.back.is_none()).count() }
    }
}

/// Times in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Latency {
    pub min_ms: f64,
    pub mean_ms: f64,
    pub p50_ms: f64,
    pub p90_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
}

/// Handshake times, to three digits.
#[derive(Debug)]
pub(crate) struct HandshakeTimes(Histogram<u64>);

impl Default for HandshakeTimes {
    fn default() -> Self {
        const TIME_US_MAX: u64 = 600_000_000;
        const DIGITS: u8 = 3;
        match Histogram::new_with_bounds(1, TIME_US_MAX, DIGITS) {
            Ok(histogram) => Self(histogram),
            Err(error) => panic!("these bounds are good ones: {error}"),
        }
    }
}

impl HandshakeTimes {
    pub(crate) fn record(&mut self, time: Duration) {
        self.0.saturating_record(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.len()
    }

    pub(crate) fn latency(&self) -> Option<Latency> {
        let ms = |us: u64| us as f64 / 1000.0;
        let quantile = |q| ms(self.0.value_at_quantile(q));
        (!self.0.is_empty()).then(|| Latency {
            min_ms: ms(self.0.min()),
            mean_ms: self.0.mean() / 1000.0,
            p50_ms: quantile(0.5),
            p90_ms: quantile(0.9),
            p99_ms: quantile(0.99),
            max_ms: ms(self.0.max()),
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} of {} initiators have SAs; {} handshakes in {:.2} s, {:.0} per second; {} failed, {} lost",
            self.up, self.initiators, self.established, self.seconds, self.per_second, self.failed, self.lost
        )?;
        if let Some(Latency { min_ms, mean_ms, p50_ms, p90_ms, p99_ms, max_ms }) = self.handshake {
            writeln!(
                f,
                "a handshake took {mean_ms:.1} ms: min {min_ms:.1}, p50 {p50_ms:.1}, p90 {p90_ms:.1}, p99 {p99_ms:.1}, max {max_ms:.1}"
            )?;
        }
        if self.ike_rekeys + self.child_rekeys > 0 {
            writeln!(f, "rekeyed: {} IKE SAs, {} child SAs", self.ike_rekeys, self.child_rekeys)?;
        }
        if let Some(EchoReport { sent, missing }) = self.echoes {
            writeln!(f, "{sent} datagrams through the tunnels, {missing} not back")?;
        }
        self.ends.iter().try_for_each(|(why, count)| writeln!(f, "ended: {count} × {why}"))?;
        self.drops.iter().try_for_each(|(why, count)| writeln!(f, "dropped: {count} × {why}"))
    }
}
