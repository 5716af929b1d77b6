//! What an IKE SA costs its responder: read from what `vipsec-lab ike` wrote.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{count, none, table_of};

/// The goal: so much of what strongSwan takes.
const GOAL_SHARE: f64 = 0.25;

/// A batch of handshakes with one gateway.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct IkeRow {
    pub(crate) gateway: Gateway,
    /// IKE SAs that the gateway had before.
    pub(crate) before: usize,
    pub(crate) established: usize,
    pub(crate) per_second: f64,
    /// CPU time of the gateway's process for each handshake, with and without what it uses when nobody calls.
    pub(crate) cpu_us: f64,
    pub(crate) net_cpu_us: f64,
}

/// Who was called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Gateway {
    Vipsec,
    Strongswan,
}

impl Gateway {
    const fn name(self) -> &'static str {
        match self {
            Self::Vipsec => "vipsecd",
            Self::Strongswan => "strongSwan",
        }
    }
}

/// By gateway and number of IKE SAs, the medians of all turns; then what one is of the other.
pub(super) fn table(rows: &[IkeRow]) -> String {
    if rows.is_empty() {
        return "Not measured in this run.\n".to_owned();
    }
    let mut cases: BTreeMap<(Gateway, usize), Vec<&IkeRow>> = BTreeMap::new();
    for row in rows {
        cases.entry((row.gateway, row.before)).or_default().push(row);
    }
    let cases: Vec<_> = cases.into_iter().collect();
    let heading = ["gateway", "IKE SAs before", "handshakes", "CPU us", "without idle us", "least us", "per second"];
    let table = table_of(&heading, cases.iter(), |((gateway, before), rows)| {
        let median = |of: fn(&IkeRow) -> f64| median(rows.iter().map(|row| of(row)));
        let us = |value: Option<f64>| value.map_or_else(none, |us| format!("{us:.0}"));
        vec![
            gateway.name().to_owned(),
            count(Some(*before)),
            count(Some(rows.iter().map(|row| row.established).sum())),
            us(median(|row| row.cpu_us)),
            us(median(|row| row.net_cpu_us)),
            us(rows.iter().map(|row| row.net_cpu_us).reduce(f64::min)),
            us(median(|row| row.per_second)),
        ]
    });
    format!("{table}\n{}", share(rows))
}

/// Over the batches that both gateways had.
fn share(rows: &[IkeRow]) -> String {
    let of = |gateway: Gateway| {
        let both = rows.iter().filter(|row| {
            [Gateway::Vipsec, Gateway::Strongswan]
                .iter()
                .all(|gateway| rows.iter().any(|other| other.gateway == *gateway && other.before == row.before))
        });
        median(both.filter(|row| row.gateway == gateway).map(|row| row.net_cpu_us))
    };
    match (of(Gateway::Vipsec), of(Gateway::Strongswan)) {
        (Some(ours), Some(theirs)) if theirs > 0.0 => format!(
            "vipsecd takes {ours:.0} us, strongSwan {theirs:.0} us: {:.0} % of it. The goal is {:.0} %.\n",
            ours / theirs * 100.0,
            GOAL_SHARE * 100.0
        ),
        _ => String::new(),
    }
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_are_compared_where_both_were_measured() {
        let row = |gateway, before, us| IkeRow {
            gateway,
            before,
            established: 1000,
            per_second: 900.0,
            cpu_us: us + 10.0,
            net_cpu_us: us,
        };
        let rows = [
            row(Gateway::Strongswan, 100, 1000.0),
            row(Gateway::Vipsec, 100, 150.0),
            row(Gateway::Vipsec, 100, 100.0),
            row(Gateway::Vipsec, 100, 160.0),
            row(Gateway::Vipsec, 9000, 500.0),
        ];
        let text = table(&rows);
        assert!(text.contains("| vipsecd | 100 | 3,000 | 160 | 150 | 100 | 900 |"), "{text}");
        assert!(text.contains("vipsecd takes 150 us, strongSwan 1000 us: 15 % of it. The goal is 25 %."), "{text}");
    }
}
