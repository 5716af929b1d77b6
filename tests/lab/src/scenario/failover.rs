//! What a failover costs those who have tunnels: for how long they are blocked, and what they lose; by crash and by order, with one tunnel
//! and with a hundred thousand, and with strongSwan as the gateway.

mod measure;
mod pair;
mod strongswan;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Progress;
use crate::error::{Context, LabError, Result};
use crate::report;
use crate::report::failover::Row;

/// What the figures are kept in.
const REPORT: &str = "report.json";

/// What happens to the owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Case {
    /// It is killed, and its successor goes on with the SAs.
    Crash,
    /// It is killed, and its successor negotiates new ones.
    CrashRenegotiate,
    /// It gives the VIP to the other one, by order.
    Move,
    /// strongSwan is the gateway: it is killed and started anew at once.
    StrongswanRestart,
}

/// What to measure.
#[derive(Debug, Clone)]
pub struct FailoverConfig {
    /// Which cases; all if there is none.
    pub cases: Vec<Case>,
    /// With how many tunnels; as many as a case is for if there is none.
    pub tunnels: Vec<u32>,
    /// How often each, if not as often as fits its size.
    pub runs: Option<u32>,
    /// Where the report and the logs go.
    pub out: PathBuf,
}

/// One line of the report to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Plan {
    case: Case,
    tunnels: u32,
    runs: u32,
}

/// Everything, within a quarter of an hour: how often what is measured.
const PLANS: [Plan; 14] = {
    const fn plan(case: Case, tunnels: u32, runs: u32) -> Plan {
        Plan { case, tunnels, runs }
    }
    [
        plan(Case::Crash, 1, 5),
        plan(Case::Crash, 100, 5),
        plan(Case::Crash, 1_000, 5),
        plan(Case::Crash, 10_000, 3),
        plan(Case::Crash, 100_000, 1),
        plan(Case::CrashRenegotiate, 1, 3),
        plan(Case::CrashRenegotiate, 100, 3),
        plan(Case::CrashRenegotiate, 1_000, 3),
        plan(Case::Move, 1, 5),
        plan(Case::Move, 100, 5),
        plan(Case::Move, 1_000, 5),
        plan(Case::Move, 10_000, 3),
        plan(Case::StrongswanRestart, 1, 3),
        plan(Case::StrongswanRestart, 100, 3),
    ]
};

/// The cases that there are, and with how many tunnels each is measured.
pub(crate) fn planned() -> impl Iterator<Item = (Case, u32)> {
    PLANS.into_iter().map(|plan| (plan.case, plan.tunnels))
}

impl FailoverConfig {
    fn plans(&self) -> Vec<Plan> {
        let is_wanted = |plan: &Plan| {
            (self.cases.is_empty() || self.cases.contains(&plan.case))
                && (self.tunnels.is_empty() || self.tunnels.contains(&plan.tunnels))
        };
        let runs = |plan: Plan| Plan { runs: self.runs.unwrap_or(plan.runs), ..plan };
        PLANS.into_iter().filter(is_wanted).map(runs).collect()
    }
}

/// Measures; the report is there after each case. Rows of an earlier report that are not measured again stay.
pub fn play(config: &FailoverConfig, progress: &Progress) -> Result<Vec<Row>> {
    let file = config.out.join(REPORT);
    let mut rows = if file.exists() { read(&config.out)? } else { Vec::new() };
    let mut measured = Vec::new();
    for plan in config.plans() {
        let name = serde_json::to_value(plan.case).ok().and_then(|name| name.as_str().map(str::to_owned));
        let name = format!("{}-{}", name.unwrap_or_default(), plan.tunnels);
        progress.step(&format!("-- {name}, {} runs", plan.runs));
        let out = config.out.join(&name);
        let load = vipsec_report::load();
        let row = match plan.case {
            Case::StrongswanRestart => strongswan::measure(plan, out, progress)?,
            Case::Crash | Case::CrashRenegotiate | Case::Move => pair::measure(plan, out, progress)?,
        };
        let row = Row { load, ..row };
        progress.step(&row.summary());
        measured.push(row.clone());
        rows.retain(|old| (old.case, old.tunnels) != (row.case, row.tunnels));
        rows.push(row);
        rows.sort_by_key(|row| PLANS.iter().position(|plan| (plan.case, plan.tunnels) == (row.case, row.tunnels)));
        report::write_json(&file, &rows)?;
    }
    Ok(measured)
}

/// The rows of an earlier measurement.
pub fn read(out: &Path) -> Result<Vec<Row>> {
    let file = out.join(REPORT);
    let text = std::fs::read_to_string(&file).context(|| format!("reading {}", file.display()))?;
    serde_json::from_str(&text)
        .map_err(|error| LabError::Answer { what: format!("reading {}", file.display()), answer: error.to_string() })
}

/// Writes the page and its picture.
pub fn write_docs(rows: &[Row], folder: &Path) -> Result<()> {
    for (name, text) in
        [("failover.md", report::failover::page(rows)), ("failover.svg", report::failover::picture::svg(rows))]
    {
        let file = folder.join(name);
        std::fs::write(&file, text).context(|| format!("writing {}", file.display()))?;
    }
    Ok(())
}
