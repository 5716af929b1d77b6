//! Stories that run in a lab.

pub mod calm;
pub mod demo;
pub mod exercise;
pub mod failover;
pub mod flood;
pub mod ike;
pub mod takeover;

use std::time::Instant;

use serde::Serialize;

use crate::charon::IkeSa;
use crate::error::{LabError, Result};
use crate::lab::Lab;

/// Tells the user what is being done, and since when.
#[derive(Debug)]
pub struct Progress {
    begin: Instant,
}

impl Default for Progress {
    fn default() -> Self {
        Self { begin: Instant::now() }
    }
}

impl Progress {
    /// A step.
    pub fn step(&self, text: &str) {
        println!("[{:7.3} s] {text}", self.begin.elapsed().as_secs_f64());
    }
}

/// How a case ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// As it should.
    Passed,
    /// Otherwise.
    Failed,
}

/// A case and how it ended.
#[derive(Debug, Clone, Serialize)]
pub struct CaseResult {
    /// What was tried.
    pub case: String,
    /// How it ended.
    pub result: Outcome,
    /// What was seen.
    pub detail: String,
}

/// A chain of cases in one lab. Each begins with a tunnel that works and ends with a look at the traffic.
pub struct Story<'a> {
    lab: &'a mut Lab,
    progress: &'a Progress,
    results: Vec<CaseResult>,
}

impl<'a> Story<'a> {
    /// Begins a story.
    pub fn begin(lab: &'a mut Lab, progress: &'a Progress) -> Self {
        Self { lab, progress, results: Vec::new() }
    }

    /// Plays a case. `play` returns what was seen.
    pub fn case(&mut self, case: &str, play: impl FnOnce(&mut Lab) -> Result<String>) {
        let played = ensure_tunnel(self.lab).and_then(|()| play(self.lab)).and_then(|detail| {
            check_traffic(self.lab)?;
            Ok(detail)
        });
        let (result, detail) = match played {
            Ok(detail) => (Outcome::Passed, detail),
            Err(error) => (Outcome::Failed, error.to_string()),
        };
        let mark = if result == Outcome::Passed { "ok    " } else { "FAILED" };
        self.progress.step(&format!("{mark} {case}: {detail}"));
        self.results.push(CaseResult { case: case.to_owned(), result, detail });
    }

    /// Ends the story.
    pub fn end(self) -> Vec<CaseResult> {
        self.results
    }
}

/// An expectation of a case.
///
/// # Errors
/// [`LabError::Expectation`] if it doesn't hold.
pub fn expect(holds: bool, what: &str, found: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(LabError::Expectation { what: what.to_owned(), found: found() }) }
}

/// After a case that failed, the next one starts afresh.
fn ensure_tunnel(lab: &Lab) -> Result<()> {
    let sas = lab.peer()?.sas()?;
    let is_up = |sa: &IkeSa| {
        sa.state == "ESTABLISHED" && sa.children.iter().filter(|child| child.state == "INSTALLED").count() == 1
    };
    let works = sas.len() == lab.tunnels()?.len() && sas.iter().all(is_up) && lab.echo(exercise::SHORT).is_ok();
    if works {
        return Ok(());
    }
    for sa in &sas {
        // The other end may not answer: then it is over after strongSwan's patience.
        let _ = lab.peer()?.terminate(&sa.connection);
    }
    lab.tunnels()?.iter().try_for_each(|tunnel| lab.bring_up_tunnel(tunnel).map(drop))
}

/// Everything that users do works: datagrams, connections, content.
pub fn check_traffic(lab: &Lab) -> Result<()> {
    const CONNECTIONS: u32 = 20;
    const BYTES: u64 = 1 << 20;
    lab.echo(exercise::SHORT)?;
    let connections = lab.connections(CONNECTIONS, 4)?;
    expect(connections.errors == 0, "no failed connection", || connections.first_errors.join("; "))?;
    let download = lab.download(BYTES, exercise::LONG)?;
    let upload = lab.upload(BYTES, exercise::LONG)?;
    expect(download.intact && upload.intact, "undamaged content", || "a transfer was damaged".to_owned())
}
