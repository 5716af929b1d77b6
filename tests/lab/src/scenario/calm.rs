//! Nothing happens, for as long as wished: both appliances live while every core of the machine is busy and traffic goes at full rate.
//! Nobody may take over, but from an owner whose processor was taken from the whole machine, as happens to a virtual one: that one does
//! stand still.

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
use crate::pulse::{Gap, Pulse};
use crate::report;

/// Bytes of one transfer.
const TRANSFER_BYTES: u64 = 8 << 20;
/// For one of them, among all that goes on.
const TRANSFER_LIMIT: Duration = Duration::from_secs(60);
/// How often the capture is looked at, and emptied.
const LOOK: Duration = Duration::from_secs(1);
/// Between two lines that say that nothing has happened.
const LINE: Duration = Duration::from_secs(60);

/// A takeover is looked into from so long before: an owner's silence, and what is left of its last heartbeat's interval.
const SILENCE: Duration = Duration::from_millis(75);
/// A processor that was gone for so long of it explains the takeover: with two intervals less, the owner would have been heard in time.
const GONE: Duration = Duration::from_millis(20);

/// What is to be borne.
#[derive(Debug, Clone)]
pub struct CalmConfig {
    /// For how long.
    pub time: Duration,
    /// Where report, captures and logs go.
    pub out: PathBuf,
}

/// Somebody took over.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Takeover {
    /// When the new owner was first heard.
    pub at: Stamp,
    /// Under which epoch.
    pub epoch: u32,
    /// For how long of the time before a processor was gone from the machine, in milliseconds; the one that was gone the longest.
    pub processor_gone_ms: f64,
}

impl Takeover {
    /// The machine had its processors, so the owner was alive.
    fn is_false(&self) -> bool {
        self.processor_gone_ms < GONE.as_secs_f64() * 1e3
    }
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
    /// Takeovers.
    pub takeovers: Vec<Takeover>,
    /// Advertisements of another one than the owner, later than the last words of one that is followed may come.
    pub strays: usize,
    /// How often a processor was gone from the machine for more than ten milliseconds, and for how long at most, in milliseconds.
    pub processor_gone: (usize, f64),
    /// Bulk data to targets and back, in MiB.
    pub moved_mib: u64,
    /// Transfers that broke or took too long.
    pub failed_transfers: u64,
    /// Transfers that were answered in full, with other bytes than were sent.
    pub damaged_transfers: u64,
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
    let pulse = Pulse::start();
    let load = Load::default();
    let mut report = CalmReport::default();
    let watched = std::thread::scope(|scope| {
        report.busy_threads = load.start(scope, &lab);
        progress.step(&format!("{} busy threads and traffic at full rate, for {:?}", report.busy_threads, config.time));
        let watched = watch(&lab, roles, config.time, &mut report, progress);
        load.stop.store(true, Ordering::Relaxed);
        watched
    });
    let owner = watched?;
    report.judge(&pulse.end());
    report.moved_mib = load.moved.load(Ordering::Relaxed) >> 20;
    report.failed_transfers = load.failed.load(Ordering::Relaxed);
    report.damaged_transfers = load.damaged.load(Ordering::Relaxed);
    let seen = traffic.end(&lab)?;
    report.lost = [(seen.up.lost, seen.up.sent), (seen.down.lost, seen.down.sent)];
    let kept = seen.long_lived.iter().filter(|connection| connection.is_kept()).count();
    report.connections = (kept, seen.long_lived.len());
    report.faults = faults(&lab, owner, &report)?;
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
    damaged: AtomicU64,
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
                Ok(_) => self.damaged.fetch_add(1, Ordering::Relaxed),
                Err(_) => self.failed.fetch_add(1, Ordering::Relaxed),
            };
        }
    }
}

/// Looks at who advertises the VIP. Returns who did last.
fn watch(lab: &Lab, roles: Roles, time: Duration, report: &mut CalmReport, progress: &Progress) -> Result<usize> {
    let begin = Instant::now();
    let mut newest: Option<(u32, usize, Stamp)> = None;
    let mut next_line = LINE;
    while begin.elapsed() < time {
        std::thread::sleep(LOOK.min(time.saturating_sub(begin.elapsed())));
        for frame in lab.outside.take_frames(|frame| matches!(frame.kind, Kind::Advertisement { .. })) {
            let Frame { stamp, port, direction: Direction::FromHost, kind: Kind::Advertisement { epoch, .. }, .. } =
                frame
            else {
                continue;
            };
            match newest {
                Some((known, owner, _)) if epoch < known || (epoch == known && port != owner) => {
                    let are_last_words = epoch < known
                        && report.takeovers.last().is_some_and(|takeover| stamp.since(takeover.at) < SILENCE);
                    report.strays += usize::from(!are_last_words);
                    continue;
                }
                Some((known, ..)) if epoch > known => {
                    report.takeovers.push(Takeover { at: stamp, epoch, processor_gone_ms: 0.0 });
                }
                Some((_, _, last)) => {
                    report.longest_silence_ms = report.longest_silence_ms.max(stamp.millis_from(last));
                }
                None => {}
            }
            report.owner_advertised += 1;
            newest = Some((epoch, port, stamp));
        }
        lab.inside.take_frames(|_| false);
        if begin.elapsed() >= next_line {
            next_line += LINE;
            let CalmReport { longest_silence_ms, takeovers, .. } = report;
            let minutes = begin.elapsed().as_secs() / 60;
            let count = takeovers.len();
            progress.step(&format!(
                "{minutes} min: {count} takeovers; the owner's longest silence {longest_silence_ms:.0} ms"
            ));
        }
    }
    report.seconds = begin.elapsed().as_secs_f64();
    Ok(newest.map_or(roles.owner, |(_, owner, _)| owner))
}

fn faults(lab: &Lab, owner: usize, report: &CalmReport) -> Result<Vec<String>> {
    let mut faults = Vec::new();
    let mut expect = |holds: bool, fault: String| {
        if !holds {
            faults.push(fault);
        }
    };
    let CalmReport { owner_advertised, takeovers, strays, moved_mib, damaged_transfers, .. } = report;
    let (kept, all) = report.connections;
    expect(*owner_advertised > 0, "the owner never advertised the VIP".to_owned());
    expect(*strays == 0, format!("another one than the owner advertised the VIP {strays} times"));
    for takeover in takeovers {
        expect(!takeover.is_false(), format!("the owner was alive, and was taken over from: {takeover:?}"));
    }
    expect(*moved_mib > 0, "no bulk data got through".to_owned());
    expect(*damaged_transfers == 0, format!("{damaged_transfers} transfers in bulk were damaged"));
    expect(kept == all, format!("{kept} of {all} connections lived on"));
    let standing = lab.appliance(owner)?.standing()?;
    expect(standing == Standing::Owner, format!("the owner became {standing:?}"));
    Ok(faults)
}

impl CalmReport {
    /// Which takeovers had a reason?
    fn judge(&mut self, gaps: &[Gap]) {
        let whole = |gap: &Gap| gap.within(Stamp::at(Duration::ZERO), Stamp::now());
        let millis = |time: Option<Duration>| time.unwrap_or_default().as_secs_f64() * 1e3;
        self.processor_gone = (gaps.len(), millis(gaps.iter().map(whole).max()));
        for takeover in &mut self.takeovers {
            let from = Stamp::at(Duration::from_nanos(takeover.at.nanos()).saturating_sub(SILENCE));
            takeover.processor_gone_ms = millis(gaps.iter().map(|gap| gap.within(from, takeover.at)).max());
        }
    }

    /// In a few words.
    pub fn summary(&self) -> String {
        let Self { seconds, owner_advertised, longest_silence_ms, takeovers, moved_mib, connections, lost, .. } = self;
        let [(up, sent_up), (down, sent_down)] = lost;
        let unfounded = takeovers.iter().filter(|takeover| takeover.is_false()).count();
        format!(
            "{seconds:.0} s: the owner advertised {owner_advertised} times, its longest silence was {longest_silence_ms:.0} ms; {} takeovers, {unfounded} \
             of them false; a processor was gone from the machine {} times, for {:.0} ms at most; {moved_mib} MiB in bulk; {} of {} connections kept; \
             {up} of {sent_up} datagrams up and {down} of {sent_down} down lost",
            takeovers.len(),
            self.processor_gone.0,
            self.processor_gone.1,
            connections.0,
            connections.1
        )
    }
}
