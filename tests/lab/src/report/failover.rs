//! What failovers cost, in figures, and the page that shows them.

mod goals;
pub mod picture;

use std::fmt::Write;

use serde::{Deserialize, Serialize};
use vipsec_report::{CpuInfo, grouped};

use crate::scenario::failover::{Case, planned};

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
    /// What that time was made of, where the successor's log tells.
    #[serde(default)]
    pub parts: Option<Parts>,
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
    /// Of the programs that were measured.
    #[serde(default)]
    pub build: Build,
    /// Tasks that wanted a processor, on average over the minute before.
    #[serde(default)]
    pub load: Option<f64>,
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

/// The time from the notice to the first packet, step by step: each from the end of the one before.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Parts {
    /// Until the copy was fenced and read.
    pub read_ms: Figure,
    /// Until the SAs were installed, trust was judged, and the VIP was its own.
    pub owned_ms: Figure,
    /// Until the first frame that says so was at the switch.
    pub announced_ms: Figure,
    /// Until the first packet came that was to be passed on.
    pub offered_ms: Figure,
    /// Until it was.
    pub passed_ms: Figure,
}

/// How programs were built.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Build {
    /// As they are shipped.
    #[default]
    Release,
    /// For those who work on them: slower.
    Development,
}

impl Build {
    /// This program's. The lab starts others that lie beside it.
    pub const fn this() -> Self {
        if cfg!(debug_assertions) { Self::Development } else { Self::Release }
    }
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
        format!("{} / {}", grouped(self.up), grouped(self.down))
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
    PAGE.replace("{machine}", &machine())
        .replace("{conditions}", &conditions(rows))
        .replace("{table}", &table(rows))
        .replace("{parts}", &parts(rows))
        .replace("{goals}", &goals::table(rows))
}

/// What has to be known of how the figures came about, in sentences.
fn conditions(rows: &[Row]) -> String {
    let listed = |cases: &mut dyn Iterator<Item = (Case, u32)>| {
        let names: Vec<_> = cases.map(|(case, tunnels)| format!("{} with {}", name(case), grouped(tunnels))).collect();
        (!names.is_empty()).then(|| names.join("; "))
    };
    let mut sentences = Vec::new();
    let slow = rows.iter().filter(|row| row.build == Build::Development).map(|row| (row.case, row.tunnels));
    match listed(&mut slow.clone()) {
        None => sentences.push("All programs are release builds.".to_owned()),
        Some(_) if slow.count() == rows.len() => {
            sentences.push("All programs are *development builds*, which are slower than what is shipped.".to_owned());
        }
        Some(slow) => sentences.push(format!("*Development builds*, which are slower than what is shipped: {slow}.")),
    }
    let loads: Vec<_> = rows.iter().filter_map(|row| row.load).collect();
    if let (Some(least), Some(most)) = (loads.iter().copied().reduce(f64::min), loads.iter().copied().reduce(f64::max))
    {
        sentences.push(format!(
            "When a row's lab was started, {least:.1} to {most:.1} tasks had wanted a processor on average over the minute before: the row before, or others on the machine."
        ));
    }
    let is_there = |case, tunnels| rows.iter().any(|row| (row.case, row.tunnels) == (case, tunnels));
    let missing = listed(&mut planned().filter(|(case, tunnels)| !is_there(*case, *tunnels)));
    sentences.extend(missing.map(|missing| format!("Not measured: {missing}.")));
    sentences.join("\n")
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
            grouped(row.tunnels),
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
            grouped(row.sas_kept),
            grouped(row.sas_lost),
        ];
        let _ = writeln!(table, "| {} |", cells.join(" | "));
    }
    table
}

/// What the time from the notice to the first packet was made of.
fn parts(rows: &[Row]) -> String {
    let heading = ["case", "tunnels", "copy read", "SAs installed", "announced", "a packet comes", "it is passed on"];
    let mut table = format!("| {} |\n| --- |{}\n", heading.join(" | "), " ---: |".repeat(heading.len() - 1));
    for (row, parts) in rows.iter().filter_map(|row| Some((row, row.parts?))) {
        let Parts { read_ms, owned_ms, announced_ms, offered_ms, passed_ms } = parts;
        let figures = [read_ms, owned_ms, announced_ms, offered_ms, passed_ms].map(Figure::text);
        let _ = writeln!(table, "| {} | {} | {} |", name(row.case), grouped(row.tunnels), figures.join(" | "));
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

/// What it was measured on.
fn machine() -> String {
    let cpuinfo = CpuInfo::read();
    format!("{}, {} CPUs, Linux {}", cpuinfo.model(), cpuinfo.cpus(), vipsec_report::kernel())
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
            parts: Some(Parts {
                read_ms: Figure { median: 0.2, worst: 0.3 },
                owned_ms: Figure { median: 0.1, worst: 0.1 },
                announced_ms: Figure { median: 0.1, worst: 0.1 },
                offered_ms: Figure { median: 0.1, worst: 0.1 },
                passed_ms: Figure { median: 0.023, worst: 0.1 },
            }),
            all_sas_ms: Figure { median: 12.0, worst: 13.0 },
            stall_ms: figure,
            lost: Each { up: 1, down: 2 },
            offered: Each { up: 50_000, down: 40_000 },
            tcp_kept: 20,
            tcp_reset: 0,
            sas_kept: tunnels,
            sas_lost: 0,
            build: Build::Release,
            load: Some(0.5),
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
        assert!(page.contains("| crash, SAs resumed | 1 | 0.20 / 0.30 | 0.10 / 0.10 |"), "{page}");
    }

    #[test]
    fn the_page_says_how_its_figures_came_about() {
        let all: Vec<_> = planned().map(|(case, tunnels)| row(case, tunnels)).collect();
        let text = conditions(&all);
        assert!(text.contains("release builds") && !text.contains("Not measured"), "{text}");
        assert!(text.contains("0.5 to 0.5 tasks"), "{text}");
        let slow = Row { build: Build::Development, load: None, ..row(Case::Crash, 1_000) };
        let text = conditions(&[row(Case::Crash, 1), slow]);
        assert!(text.contains("shipped: crash, SAs resumed with 1,000."), "{text}");
        assert!(text.contains("Not measured: crash, SAs resumed with 100; crash, SAs resumed with 10,000;"), "{text}");
    }

    #[test]
    fn a_report_of_an_earlier_release_is_read() {
        let mut json = serde_json::to_value(row(Case::Move, 100)).unwrap();
        for news in ["parts", "build", "load"] {
            json.as_object_mut().unwrap().remove(news);
        }
        let read: Row = serde_json::from_value(json).unwrap();
        assert_eq!((read.parts, read.build, read.load), (None, Build::Release, None));
    }
}
