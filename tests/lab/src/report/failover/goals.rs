//! What failovers should cost at most, and whether they do.

use std::fmt::Write;

use vipsec_report::grouped;

use super::{Row, millis, name};
use crate::scenario::failover::{Case, planned};

/// A goal: a figure of some rows and what it should be below.
struct Goal {
    of: Of,
    what: &'static str,
    value: fn(&Row) -> f64,
    below: f64,
}

/// Of which rows.
enum Of {
    /// A case with so many tunnels.
    One(Case, u32),
    /// A case, however many tunnels there are.
    Every(Case),
}

impl Of {
    fn is(&self, case: Case, tunnels: u32) -> bool {
        match self {
            Self::One(one, count) => (*one, *count) == (case, tunnels),
            Self::Every(every) => *every == case,
        }
    }
}

const GOALS: [Goal; 11] = {
    const fn goal(of: Of, what: &'static str, value: fn(&Row) -> f64, below: f64) -> Goal {
        Goal { of, what, value, below }
    }
    use Of::{Every, One};
    [
        goal(One(Case::Crash, 1), "blocked, median, ms", |row| row.blocked_ms.median, 60.0),
        goal(One(Case::Crash, 1_000), "blocked, median, ms", |row| row.blocked_ms.median, 100.0),
        goal(One(Case::Crash, 1), "noticed to first packet, median, ms", |row| row.first_packet_ms.median, 1.0),
        goal(
            One(Case::Crash, 10_000),
            "noticed until every tunnel carries, median, ms",
            |row| row.all_sas_ms.median,
            10.0,
        ),
        goal(Every(Case::Move), "datagrams lost, at 5,000 per second each way", lost, 1.0),
        goal(Every(Case::Crash), "TCP connections reset", tcp_reset, 1.0),
        goal(Every(Case::CrashRenegotiate), "TCP connections reset", tcp_reset, 1.0),
        goal(Every(Case::Move), "TCP connections reset", tcp_reset, 1.0),
        goal(Every(Case::Crash), "SAs lost", sas_lost, 1.0),
        goal(Every(Case::CrashRenegotiate), "SAs lost", sas_lost, 1.0),
        goal(Every(Case::Move), "SAs lost", sas_lost, 1.0),
    ]
};

fn lost(row: &Row) -> f64 {
    (row.lost.up + row.lost.down) as f64
}

fn tcp_reset(row: &Row) -> f64 {
    f64::from(row.tcp_reset)
}

fn sas_lost(row: &Row) -> f64 {
    f64::from(row.sas_lost)
}

/// Goals as a table, those of rows that weren't measured, too.
pub(super) fn table(rows: &[Row]) -> String {
    let mut table =
        String::from("| case | tunnels | | below | measured | |\n| --- | ---: | --- | ---: | ---: | --- |\n");
    for goal in &GOALS {
        for (case, tunnels) in planned().filter(|(case, tunnels)| goal.of.is(*case, *tunnels)) {
            let row = rows.iter().find(|row| (row.case, row.tunnels) == (case, tunnels));
            let value = row.map(goal.value);
            let verdict = match value {
                None => "not measured".to_owned(),
                Some(value) if value < goal.below => "reached".to_owned(),
                Some(value) => format!("missed: {:.0} % of the goal", value / goal.below * 100.0),
            };
            let _ = writeln!(
                table,
                "| {} | {} | {} | {:.0} | {} | {verdict} |",
                name(case),
                grouped(tunnels),
                goal.what,
                goal.below,
                value.map(millis).unwrap_or_default()
            );
        }
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
    }

    #[test]
    fn no_planned_row_is_left_out() {
        let table = table(&[row(Case::Move, 100)]);
        assert!(table.contains("| planned move | 100 | SAs lost | 1 | 0.00 | reached |"), "{table}");
        for (case, tunnels) in planned().filter(|(case, _)| *case != Case::StrongswanRestart) {
            for what in ["TCP connections reset", "SAs lost"] {
                let start = format!("| {} | {} | {what} |", name(case), grouped(tunnels));
                let verdict = if (case, tunnels) == (Case::Move, 100) { "reached" } else { "not measured" };
                let line = table.lines().find(|line| line.starts_with(&start));
                assert!(line.is_some_and(|line| line.ends_with(&format!("| {verdict} |"))), "{start} in {table}");
            }
        }
        assert!(table.contains("| crash, SAs resumed | 1 | blocked, median, ms | 60 |  | not measured |"), "{table}");
    }
}
