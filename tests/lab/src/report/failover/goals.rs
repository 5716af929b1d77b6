//! What failovers should cost at most, and whether they do.

use std::fmt::Write;

use vipsec_report::grouped;

use super::{Row, millis, name};
use crate::scenario::failover::Case;

/// A goal: for a case with so many tunnels, a figure and what it should be below.
struct Goal {
    case: Case,
    tunnels: u32,
    what: &'static str,
    value: fn(&Row) -> f64,
    below: f64,
}

const GOALS: [Goal; 8] = {
    const fn goal(case: Case, tunnels: u32, what: &'static str, value: fn(&Row) -> f64, below: f64) -> Goal {
        Goal { case, tunnels, what, value, below }
    }
    [
        goal(Case::Crash, 1, "blocked, median, ms", |row| row.blocked_ms.median, 60.0),
        goal(Case::Crash, 1_000, "blocked, median, ms", |row| row.blocked_ms.median, 100.0),
        goal(Case::Crash, 1, "noticed to first packet, median, ms", |row| row.first_packet_ms.median, 1.0),
        goal(Case::Crash, 10_000, "noticed until every tunnel carries, median, ms", |row| row.all_sas_ms.median, 10.0),
        goal(Case::Move, 100, "datagrams lost, at 5,000 per second each way", lost, 1.0),
        goal(Case::Move, 1_000, "datagrams lost, at 5,000 per second each way", lost, 1.0),
        goal(Case::Crash, 1_000, "TCP connections reset", |row| f64::from(row.tcp_reset), 1.0),
        goal(Case::Crash, 1_000, "SAs lost", |row| f64::from(row.sas_lost), 1.0),
    ]
};

fn lost(row: &Row) -> f64 {
    (row.lost.up + row.lost.down) as f64
}

/// Goals as a table. Those of cases that weren't measured are left out.
pub(super) fn table(rows: &[Row]) -> String {
    let mut table =
        String::from("| case | tunnels | | below | measured | |\n| --- | ---: | --- | ---: | ---: | --- |\n");
    for goal in &GOALS {
        let Some(row) = rows.iter().find(|row| (row.case, row.tunnels) == (goal.case, goal.tunnels)) else { continue };
        let value = (goal.value)(row);
        let verdict = match value < goal.below {
            true => "reached".to_owned(),
            false => format!("missed: {:.0} % of the goal", value / goal.below * 100.0),
        };
        let _ = writeln!(
            table,
            "| {} | {} | {} | {:.0} | {} | {verdict} |",
            name(goal.case),
            grouped(goal.tunnels),
            goal.what,
            goal.below,
            millis(value)
        );
    }
    table
}

#[cfg(test)]
mod tests {
    use super::super::tests::row;
    use super::*;

    #[test]
    fn goals_are_reached_or_missed_and_the_page_says_by_how_much() {
        let table = table(&[row(Case::Crash, 1), row(Case::Crash, 10_000), row(Case::Move, 100)]);
        assert!(table.contains("| crash, SAs resumed | 1 | blocked, median, ms | 60 | 55.3 | reached |"), "{table}");
        assert!(
            table.contains("every tunnel carries, median, ms | 10 | 12.0 | missed: 120 % of the goal |"),
            "{table}"
        );
        assert!(table.contains("each way | 1 | 3.00 | missed: 300 % of the goal |"), "{table}");
        assert_eq!(table.lines().count(), 2 + 4, "{table}");
    }
}
