//! What the store does, as a table.

use super::{none, table_of};
use crate::store::{Figure, StoreRow, Way};

/// What is to be reached.
struct Goal {
    figure: Figure,
    way: Option<Way>,
    at_most: f64,
}

const GOALS: [Goal; 5] = [
    Goal { figure: Figure::RecordUs, way: Some(Way::Local), at_most: 0.5 },
    Goal { figure: Figure::BlockUs, way: Some(Way::Local), at_most: 0.5 },
    Goal { figure: Figure::ResyncMs, way: None, at_most: 2000.0 },
    Goal { figure: Figure::OwnerCpuPercent, way: None, at_most: 20.0 },
    Goal { figure: Figure::WarmTakeoverMs, way: None, at_most: 10.0 },
];

pub(crate) fn table(rows: &[StoreRow]) -> String {
    let heading = ["what", "way", "median", "99 %", "unit", "goal"];
    table_of(&heading, rows.iter(), |row| {
        let (what, unit) = words(row.figure);
        let goal = GOALS.iter().find(|goal| goal.figure == row.figure && goal.way.is_none_or(|way| way == row.way));
        let goal = goal.map(|goal| {
            let word = if row.median <= goal.at_most { "reached" } else { "missed" };
            format!("{} {unit}: {word}", goal.at_most)
        });
        let way = match row.way {
            Way::Local => "shared memory",
            Way::Tcp => "tcp, two namespaces",
        };
        vec![
            what.to_owned(),
            way.to_owned(),
            number(row.median),
            row.p99.map_or_else(none, number),
            unit.to_owned(),
            goal.unwrap_or_else(none),
        ]
    })
}

fn words(figure: Figure) -> (&'static str, &'static str) {
    match figure {
        Figure::RecordUs => ("a record of 500 bytes, written and acknowledged", "us"),
        Figure::BlockUs => ("a counter block of 32 SAs, written and acknowledged", "us"),
        Figure::RecordsPerSecond => ("records, one behind the other", "1/s"),
        Figure::BlocksPerSecond => ("counter blocks, one behind the other", "1/s"),
        Figure::ResyncMs => ("a fresh copy of 100,000 SAs, opened by its reader", "ms"),
        Figure::WarmTakeoverMs => ("from the fence until 10,000 SAs are known, by a reader that followed", "ms"),
        Figure::ColdTakeoverMs => ("the same, by a reader that copies the region and opens it", "ms"),
        Figure::OwnerCpuPercent => ("numbers of 10,000 SAs every 10 ms: of the owner's core", "%"),
        Figure::BackupCpuPercent => ("the same, of the backup's", "%"),
        Figure::RegionMib => ("memory of a region for 100,000 SAs", "MiB"),
        Figure::PinNs => ("a pinned connection of a batch of 32, its full block written and acknowledged", "ns"),
        Figure::PinsMs => ("a fresh copy of 1,000,000 pinned connections, opened by its reader", "ms"),
        Figure::PinBytes => ("memory of a region, by pinned connection", "bytes"),
    }
}

fn number(value: f64) -> String {
    if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}
