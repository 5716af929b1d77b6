//! Nothing happens, for as long as wished: both appliances live while every core of the machine is busy and traffic goes at full rate.
//! Nobody may take over.

use std::hint::spin_loop;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{Scope, available_parallelism};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::Progress;
use crate::appliance::{Standing, TakeoverPolicy};
use crate::capture::{Direction, Frame, Kind};
use crate::client::{BulkReport, Traffic};
use crate::clock::Stamp;
use crate::error::Result;
use crate::lab::{Lab, LabConfig, Roles};
use crate::report;

/// Bytes of one transfer.
const TRANSFER_BYTES: u64 = 8 << 20;
/// For one of them, among all that goes on.
const TRANSFER_LIMIT: Duration = Duration::from_secs(60);
/// How often the capture is looked at, and emptied.
const LOOK: Duration = Duration::from_secs(1);
/// Between two lines that say that nothing has happened.
const LINE: Duration = Duration::from_secs(60);

/// What is to be borne.
#[derive(Debug, Clone)]
pub struct CalmConfig {
    /// For how long.
    pub time: Duration,
    /// Where report, captures and logs go.
    pub out: PathBuf,
}

/// How it was.
#[derive(Debug, Clone, Default, Serialize)]
pub struct CalmReport {
    /// For how long the machine was loaded.
    pub seconds: f64,
    /// Threads that did nothing but turn.
    pub busy_threads: usize,
    /// The owner's advertisements, outside.
    pub owner_advertised: usize,
    /// The longest time between two of them, in milliseconds.
    pub longest_silence_ms: f64,
    /// The backup's advertisements: each would be of a false takeover.
    pub backup_advertised: usize,
    /// Epochs under which the VIP was advertised: one, if nothing happened.
    pub epochs: Vec<u32>,
    /// Bulk data to targets and back, in MiB.
    pub moved_mib: u64,
    /// Transfers that were damaged or took too long.
    pub failed_transfers: u64,
    /// Long-lived connections that lived on, of how many.
    pub connections: (usize, usize),
    /// Datagrams lost one way and the other, of those sent.
    pub lost: [(u64, u64); 2],
    /// What should hold and doesn't.
    pub faults: Vec<String>,
}

/// Loads the machine for `config.time`.
pub fn play(config: &CalmConfig, progress: &Progress) -> Result<CalmReport> {
    let settings = LabConfig { out: Some(config.out.clone()), ..LabConfig::pair(TakeoverPolicy::Resume, 1) };
    let lab = Lab::start(settings, &|step| progress.step(step))?;
    lab.bring_up()?;
    let roles = lab.await_roles()?;
    let traffic = Traffic::start(&lab)?;
    let load = Load::default();
    let mut report = CalmReport::default();
    let watched = std::thread::scope(|scope| {
        report.busy_threads = load.start(scope, &lab);
        progress.step(&format!("{} busy threads and traffic at full rate, for {:?}", report.busy_threads, config.time));
        let watched = watch(&lab, roles, config.time, &mut report, progress);
        load.stop.store(true, Ordering::Relaxed);
        watched
    });
    watched?;
    report.moved_mib = load.moved.load(Ordering::Relaxed) >> 20;
    report.failed_transfers = load.failed.load(Ordering::Relaxed);
    let seen = traffic.end(&lab)?;
    report.lost = [(seen.up.lost, seen.up.sent), (seen.down.lost, seen.down.sent)];
    let kept = seen.long_lived.iter().filter(|connection| connection.is_kept()).count();
    report.connections = (kept, seen.long_lived.len());
    report.faults = faults(&lab, roles, &report)?;
    lab.save_logs()?;
    report::write_json(&config.out.join("report.json"), &report)?;
    Ok(report)
}

/// What keeps the machine busy.
#[derive(Default)]
struct Load {
    stop: AtomicBool,
    moved: AtomicU64,
    failed: AtomicU64,
}

impl Load {
    /// A busy thread for each core, and bulk data both ways.
    fn start<'a>(&'a self, scope: &'a Scope<'a, '_>, lab: &'a Lab) -> usize {
        let cores = available_parallelism().map_or(1, usize::from);
        for _ in 0..cores {
            scope.spawn(|| {
                while !self.stop.load(Ordering::Relaxed) {
                    spin_loop();
                }
            });
        }
        scope.spawn(|| self.transfer(|| lab.download(TRANSFER_BYTES, TRANSFER_LIMIT)));
        scope.spawn(|| self.transfer(|| lab.upload(TRANSFER_BYTES, TRANSFER_LIMIT)));
        cores
    }

    fn transfer(&self, once: impl Fn() -> Result<BulkReport>) {
        while !self.stop.load(Ordering::Relaxed) {
            match once() {
                Ok(BulkReport { intact: true, .. }) => self.moved.fetch_add(TRANSFER_BYTES, Ordering::Relaxed),
                Ok(_) | Err(_) => self.failed.fetch_add(1, Ordering::Relaxed),
            };
        }
    }
}

/// Looks at who advertises the VIP.
fn watch(lab: &Lab, roles: Roles, time: Duration, report: &mut CalmReport, progress: &Progress) -> Result<()> {
    let begin = Instant::now();
    let mut last: Option<Stamp> = None;
    let mut next_line = LINE;
    while begin.elapsed() < time {
        std::thread::sleep(LOOK.min(time.saturating_sub(begin.elapsed())));
        for frame in lab.outside.take_frames(|frame| matches!(frame.kind, Kind::Advertisement { .. })) {
            let Frame { stamp, port, direction: Direction::FromHost, kind, .. } = frame else { continue };
            if let Kind::Advertisement { epoch, .. } = kind
                && !report.epochs.contains(&epoch)
            {
                report.epochs.push(epoch);
            }
            if port == roles.owner {
                report.owner_advertised += 1;
                let silence = last.map_or(0.0, |last| stamp.millis_from(last));
                report.longest_silence_ms = report.longest_silence_ms.max(silence);
                last = Some(stamp);
            } else {
                report.backup_advertised += 1;
            }
        }
        lab.inside.take_frames(|_| false);
        if begin.elapsed() >= next_line {
            next_line += LINE;
            let CalmReport { longest_silence_ms, backup_advertised, .. } = report;
            let minutes = begin.elapsed().as_secs() / 60;
            progress.step(&format!(
                "{minutes} min: {backup_advertised} advertisements of the backup; the owner's longest silence {longest_silence_ms:.0} ms"
            ));
        }
    }
    report.seconds = begin.elapsed().as_secs_f64();
    Ok(())
}

fn faults(lab: &Lab, roles: Roles, report: &CalmReport) -> Result<Vec<String>> {
    let mut faults = Vec::new();
    let mut expect = |holds: bool, fault: String| {
        if !holds {
            faults.push(fault);
        }
    };
    let CalmReport { owner_advertised, backup_advertised, epochs, moved_mib, connections: (kept, all), .. } = report;
    expect(*owner_advertised > 0, "the owner never advertised the VIP".to_owned());
    expect(*backup_advertised == 0, format!("the backup advertised the VIP {backup_advertised} times"));
    expect(epochs.len() == 1, format!("the VIP was advertised under the epochs {epochs:?}"));
    expect(*moved_mib > 0, "no bulk data got through".to_owned());
    expect(kept == all, format!("{kept} of {all} connections lived on"));
    let standing = lab.appliance(roles.owner)?.standing()?;
    expect(standing == Standing::Owner, format!("the owner became {standing:?}"));
    Ok(faults)
}

impl CalmReport {
    /// In a few words.
    pub fn summary(&self) -> String {
        let Self {
            seconds, owner_advertised, longest_silence_ms, backup_advertised, moved_mib, connections, lost, ..
        } = self;
        let [(up, sent_up), (down, sent_down)] = lost;
        format!(
            "{seconds:.0} s: the owner advertised {owner_advertised} times, its longest silence was {longest_silence_ms:.0} ms; the backup \
             {backup_advertised} times; {moved_mib} MiB in bulk; {} of {} connections kept; {up} of {sent_up} datagrams up and {down} of \
             {sent_down} down lost",
            connections.0, connections.1
        )
    }
}
