//! What is written down.

use serde::{Deserialize, Serialize};

/// One measurement. Times are in nanoseconds per packet, the least of many windows if nothing else is said.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) case: Case,
    /// The crypto engine; `None` where there is no ESP.
    pub(crate) engine: Option<String>,
    pub(crate) direction: Way,
    /// Of the inner IP packet; `None` where there are no packets.
    pub(crate) size_bytes: Option<usize>,
    pub(crate) sas: Option<usize>,
    pub(crate) connections: usize,
    pub(crate) ns_per_packet: f64,
    pub(crate) ns_per_packet_median: f64,
    /// The bare cipher over as many bytes, under one key.
    pub(crate) aead_ns: Option<f64>,
    /// The same packets, forwarded in the clear by the same worker between the same ports.
    pub(crate) forward_ns: Option<f64>,
}

/// What was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Case {
    /// Every packet through an SA, the SA changing with each.
    Esp,
    /// Look-ups in the connection table, without packets.
    Distribution,
    /// Remote side and targets at once, with many connections.
    Path,
}

/// Which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Way {
    In,
    Out,
    Both,
}

impl Row {
    /// What protection costs beyond forwarding, beside these measurements: beyond the cheaper of the two directions'. Forwarding in
    /// the clear looks up more for each packet on its way out than a tunnel does, and would flatter it.
    pub(crate) fn added_ns(&self, rows: &[Self]) -> Option<f64> {
        Some(self.ns_per_packet - self.cheapest_forward_ns(rows)?)
    }

    /// Forwarding as many bytes beside as many SAs, in the cheaper direction.
    pub(crate) fn cheapest_forward_ns(&self, rows: &[Self]) -> Option<f64> {
        let place = |row: &Self| (row.case, row.engine.clone(), row.size_bytes, row.sas, row.connections);
        let alike = rows.iter().filter(|row| place(row) == place(self));
        alike.filter_map(|row| row.forward_ns).reduce(f64::min)
    }
}

/// Measurements of one thing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    pub(crate) fn add(&mut self, sample: f64) {
        self.0.push(sample);
    }

    pub(crate) fn best(&self) -> Option<f64> {
        self.0.iter().copied().reduce(f64::min)
    }

    pub(crate) fn median(&self) -> Option<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied()
    }

    /// What that many of a hundred samples stay below; `None`: there are fewer than a hundred.
    pub(crate) fn percentile(&self, percent: usize) -> Option<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        (sorted.len() >= 100).then(|| sorted.get(sorted.len() * percent / 100).copied())?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn best_and_median() {
        let mut samples = Samples::default();
        assert_eq!((samples.best(), samples.median()), (None, None));
        [5.0, 1.0, 9.0, 3.0, 3.5].into_iter().for_each(|sample| samples.add(sample));
        assert_eq!((samples.best(), samples.median()), (Some(1.0), Some(3.5)));
        assert_eq!(samples.percentile(99), None);
        (0..200).for_each(|n| samples.add(f64::from(n)));
        assert_eq!(samples.percentile(99), Some(197.0));
    }
}
