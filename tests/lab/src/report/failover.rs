//! What failovers cost, in figures, and the page that shows them.

mod goals;
pub mod picture;

use std::fmt::Write;

use serde::{Deserialize, Serialize};

use crate::scenario::failover::Case;

/// The page, with places for what is measured.
const PAGE: &str = include_str!("failover/page.md");

/// Several failovers of the same kind.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Row {
    /// What happened.
    pub case: Case,
    /// What the successor did with the SAs.
    pub policy: String,
    /// How many tunnels there were, each an IKE SA.
    pub tunnels: u32,
    /// How many child SAs they had.
    pub sas: u32,
    /// How often it was measured.
    pub runs: u32,
    /// Lost datagrams, divided by their rate: of those traffic flows that were measured the one that lost most.
    pub blocked_ms: Figure,
    /// From the owner's end, or the order, until the successor began to take over (strongSwan: until the first peer called).
    pub detection_ms: Figure,
    /// From then on until it passed the first packet on.
    pub first_packet_ms: Figure,
    /// From then on until every tunnel carried.
    pub all_sas_ms: Figure,
    /// The longest that a request over TCP waited for its answer.
    pub stall_ms: Figure,
    /// Datagrams that did not arrive, of all runs.
    pub lost: Each,
    /// Datagrams that were sent.
    pub offered: Each,
    /// TCP connections that lived on with the same target.
    pub tcp_kept: u32,
    /// Those that didn't.
    pub tcp_reset: u32,
    /// Child SAs that were kept, or replaced by what followed from them, without a call by the remote peer.
    pub sas_kept: u32,
    /// Those that weren't.
    pub sas_lost: u32,
    /// What else there is to say.
    pub detail: String,
}

/// Something that was measured several times.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// Half of the runs took less.
    pub median: f64,
    /// The longest.
    pub worst: f64,
}

/// Datagrams each way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Each {
    /// From clients to the VIP's service.
    pub up: u64,
    /// From targets to the clients.
    pub down: u64,
}

impl Figure {
    /// Of all runs; zero if there is none.
    pub fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |at: usize| values.get(at).copied().unwrap_or(0.0);
        let middle = (at(values.len() / 2) + at(values.len().saturating_sub(1) / 2)) / 2.0;
        Self { median: middle, worst: at(values.len().saturating_sub(1)) }
    }

    fn text(self) -> String {
        format!("{} / {}", millis(self.median), millis(self.worst))
    }
}

impl Each {
    /// More of them.
    pub fn add(&mut self, up: u64, down: u64) {
        self.up += up;
        self.down += down;
    }

    fn text(self) -> String {
        format!("{} / {}", count(self.up), count(self.down))
    }
}

impl Row {
    /// In one line.
    pub fn summary(&self) -> String {
        format!(
            "blocked {} ms, noticed after {}, first packet {} later, all SAs {}; lost {} of {}; TCP {} kept, {} reset; SAs {} kept, {} lost",
            self.blocked_ms.text(),
            self.detection_ms.text(),
            self.first_packet_ms.text(),
            self.all_sas_ms.text(),
            self.lost.text(),
            self.offered.text(),
            self.tcp_kept,
            self.tcp_reset,
            self.sas_kept,
            self.sas_lost
        )
    }
}

/// The page.
pub fn page(rows: &[Row]) -> String {
    PAGE.replace("{machine}", &machine()).replace("{table}", &table(rows)).replace("{goals}", &goals::table(rows))
}

/// The figures.
pub fn table(rows: &[Row]) -> String {
    let heading = [
        "case",
        "tunnels",
        "runs",
        "blocked ms",
        "noticed ms",
        "first packet ms",
        "all tunnels ms",
        "TCP stall ms",
        "lost up / down",
        "of",
        "TCP kept",
        "reset",
        "SAs kept",
        "lost",
    ];
    let mut table = format!("| {} |\n| --- |{}\n", heading.join(" | "), " ---: |".repeat(heading.len() - 1));
    for row in rows {
        let cells = [
            name(row.case).to_owned(),
            count(row.tunnels.into()),
            row.runs.to_string(),
            row.blocked_ms.text(),
            row.detection_ms.text(),
            row.first_packet_ms.text(),
            row.all_sas_ms.text(),
            row.stall_ms.text(),
            row.lost.text(),
            row.offered.text(),
            row.tcp_kept.to_string(),
            row.tcp_reset.to_string(),
            count(row.sas_kept.into()),
            count(row.sas_lost.into()),
        ];
        let _ = writeln!(table, "| {} |", cells.join(" | "));
    }
    table
}

fn name(case: Case) -> &'static str {
    match case {
        Case::Crash => "crash, SAs resumed",
        Case::CrashRenegotiate => "crash, SAs renegotiated",
        Case::Move => "planned move",
        Case::StrongswanRestart => "strongSwan restarted",
    }
}

/// Three digits where there is something to see.
fn millis(millis: f64) -> String {
    let digits = if millis.abs() < 9.95 { 2 } else { usize::from(millis.abs() < 99.5) };
    format!("{millis:.digits$}")
}

/// With commas between thousands.
fn count(count: u64) -> String {
    let digits = count.to_string();
    let mut grouped = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// What it was measured on.
fn machine() -> String {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = cpuinfo.lines().find(|line| line.split(':').next().is_some_and(|key| key.trim() == name));
        line.and_then(|line| line.split_once(':')).map_or("?", |(_, value)| value.trim())
    };
    let kernel = nix::sys::utsname::uname();
    let kernel = kernel.map_or_else(|_| "?".to_owned(), |uname| uname.release().to_string_lossy().into_owned());
    let cpus = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    format!("{}, {cpus} CPUs, Linux {kernel}", field("model name"))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn row(case: Case, tunnels: u32) -> Row {
        let figure = Figure { median: 55.26, worst: 123.4 };
        Row {
            case,
            policy: "resume".to_owned(),
            tunnels,
            sas: tunnels,
            runs: 5,
            blocked_ms: figure,
            detection_ms: figure,
            first_packet_ms: Figure { median: 0.523, worst: 0.6 },
            all_sas_ms: Figure { median: 12.0, worst: 13.0 },
            stall_ms: figure,
            lost: Each { up: 1, down: 2 },
            offered: Each { up: 50_000, down: 40_000 },
            tcp_kept: 20,
            tcp_reset: 0,
            sas_kept: tunnels,
            sas_lost: 0,
            detail: String::new(),
        }
    }

    #[test]
    fn a_figure_is_the_middle_and_the_worst() {
        assert_eq!(Figure::of(vec![3.0, 1.0, 2.0]), Figure { median: 2.0, worst: 3.0 });
        assert_eq!(Figure::of(vec![4.0, 1.0, 2.0, 3.0]), Figure { median: 2.5, worst: 4.0 });
        assert_eq!(Figure::of(Vec::new()), Figure { median: 0.0, worst: 0.0 });
    }

    #[test]
    fn the_page_has_no_place_left_empty() {
        let page = page(&[row(Case::Crash, 1), row(Case::Crash, 10_000)]);
        assert!(!page.contains('{'), "{page}");
        let expected = "| crash, SAs resumed | 10,000 | 5 | 55.3 / 123 | 55.3 / 123 | 0.52 / 0.60 | 12.0 / 13.0 |";
        assert!(page.contains(expected), "{page}");
        assert!(page.contains("| 1 / 2 | 50,000 / 40,000 | 20 | 0 | 10,000 | 0 |"), "{page}");
    }
}
