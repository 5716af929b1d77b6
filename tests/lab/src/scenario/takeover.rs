//! What becomes of tunnels and connections when one of two appliances dies, sleeps, comes back, or gives the VIP away.

mod agents;
mod branches;
mod by_themselves;
mod cases;
mod exchanges;
mod half_cut;
mod ipv6;
pub(super) mod journal;
mod ladder;
mod links;
mod moves;
mod observe;
mod renegotiate;
mod upgrade;

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{CaseResult, Outcome, Progress, Story};
use crate::appliance::TakeoverPolicy;
use crate::charon::Retransmit;
use crate::error::{Context, Result};
use crate::lab::{Lab, LabConfig};
use crate::report::takeover::{Medians, Takeover, TakeoverReport};
use crate::report::{self, picture};
use crate::topology::Plan;

/// A story about a takeover.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Tale {
    /// The owner is killed; as often as wished, each time the other one.
    Kill,
    /// The owner is stopped in mid-air, and wakes when the other one has taken over.
    Pause,
    /// The backup is killed, comes back, and has to take over.
    BackupDies,
    /// After a takeover the old owner comes back, and gets the VIP back by order.
    GiveBack,
    /// After a takeover the old owner comes back, and gets the VIP back by itself; what the operator moves away stays away.
    BackByItself,
    /// The owner is killed again and again: the VIP goes back by itself until that was too often, and then no more.
    Flapping,
    /// The owner of a hundred tunnels is killed.
    Hundred,
    /// The owner is killed, and the successor negotiates everything anew.
    Renegotiate,
    /// The same policy where nobody is killed: the owner is stopped and wakes, gives the VIP away by order, and is told to end.
    RenegotiateAlive,
    /// The owner of several tunnels is killed, comes back, and its successor is killed while it still has most of them to rekey.
    Ladder,
    /// The same with tunnels that the successor is to negotiate anew.
    LadderAnew,
    /// The appliances are two hosts, the store crosses a network between them: the owner is killed, comes back, and that network
    /// fails and heals.
    TwoHosts,
    /// Both appliances have two workers: the owner is killed, comes back, and gets the VIP back by order.
    TwoWorkers,
    /// Each appliance owns a VIP and is the backup of the other's: one is killed, comes back, and gets its own VIP back by order.
    Crosswise,
    /// Each appliance's own host is a target: connections to it live on when the VIP moves by order, and those to the others when the
    /// owner is killed.
    LocalTargets,
    /// Three appliances, among whom etcd decides: the owner is killed, and then the one that has taken over.
    TwiceInARow,
    /// Services choose in turns, which no successor can compute: the owner is killed while a target is taken out of service, and
    /// then its successor; connections live on with their targets.
    Pins,
    /// The owner is killed while a remote peer calls, at each message of that.
    Calls,
    /// The owner is killed while SAs are rekeyed: each kind, begun by either end, at each message of that.
    Rekeys,
    /// The VIP moves by order, and the old owner or the new one is killed at several moments of that.
    Moves,
    /// Links are cut in turn while everybody lives: the owner's, the store's, the backup's, and all between the two.
    Links,
    /// What is cut halves: one of the backup's two data links, one direction of the store's network.
    HalfCut,
    /// Agents on the targets are told who owns the VIP: one of them is dead at a takeover, and hears of it later.
    Agents,
    /// Ten remote peers, each a host of its own with traffic: the owner is killed, comes back, and gets the VIP back by order.
    Branches,
    /// The VIP's address is one of IPv6: the owner is killed, comes back, and gets it back by order.
    Ipv6,
    /// A pair of an older release is upgraded while traffic flows, one appliance after the other; then one of them goes too far.
    Upgrade,
}

/// How many of a story's variants are played.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// All.
    Whole,
    /// As few as have each kind of moment once.
    Short,
}

/// What is to be told.
#[derive(Debug, Clone)]
pub struct TakeoverConfig {
    /// Which stories.
    pub tales: Vec<Tale>,
    /// How often [`Tale::Kill`] kills.
    pub runs: u32,
    /// How many tunnels [`Tale::Hundred`] has.
    pub tunnels: u8,
    /// How much of [`Tale::Rekeys`], [`Tale::Moves`] and [`Tale::Links`].
    pub extent: Extent,
    /// Where report, pictures, captures and logs go.
    pub out: PathBuf,
}

/// How a story went.
#[derive(Debug, Clone, Serialize)]
pub struct TaleReport {
    /// Which.
    pub tale: Tale,
    /// Its cases.
    pub cases: Vec<CaseResult>,
    /// The takeovers in it.
    pub takeovers: Vec<TakeoverReport>,
    /// Their medians.
    pub medians: Option<Medians>,
}

impl TaleReport {
    /// Cases that failed.
    pub fn failed(&self) -> usize {
        self.cases.iter().filter(|case| case.result == Outcome::Failed).count()
    }
}

/// Tells the stories, each in a lab of its own.
pub fn play(config: &TakeoverConfig, progress: &Progress) -> Result<Vec<TaleReport>> {
    let mut reports = Vec::new();
    for tale in &config.tales {
        reports.push(tell(*tale, config, progress)?);
        report::write_json(&config.out.join("report.json"), &reports)?;
    }
    Ok(reports)
}

fn tell(tale: Tale, config: &TakeoverConfig, progress: &Progress) -> Result<TaleReport> {
    let name = serde_json::to_value(tale).ok().and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default();
    let out = config.out.join(&name);
    let settings = scene(tale, config, out.clone());
    let policy = settings.takeover;
    progress.step(&format!("-- {name}"));
    let mut lab = Lab::start(settings, &|step| progress.step(step))?;
    // An appliance that is new resumes nothing from before it joined.
    lab.await_roles()?;
    let short = config.extent == Extent::Short;
    let mut takeovers = Vec::new();
    let cases = {
        let mut story = Story::begin(&mut lab, progress);
        let mut teller = cases::Teller { story: &mut story, policy, progress, takeovers: &mut takeovers };
        match tale {
            Tale::Kill => teller.kill(config.runs),
            Tale::Renegotiate => teller.kill(1),
            Tale::Pause => teller.pause(),
            Tale::BackupDies => teller.backup_dies(),
            Tale::GiveBack | Tale::TwoWorkers => teller.give_back(),
            Tale::BackByItself => teller.back_by_itself(),
            Tale::Flapping => teller.flapping(),
            Tale::RenegotiateAlive => teller.renegotiate_alive(),
            Tale::Ladder | Tale::LadderAnew => teller.ladder(),
            Tale::HalfCut => teller.half_cut(),
            Tale::Agents => teller.agents(),
            Tale::Hundred => teller.hundred(),
            Tale::TwoHosts => teller.two_hosts(config.runs),
            Tale::Crosswise => teller.crosswise(),
            Tale::LocalTargets => teller.local_targets(),
            Tale::TwiceInARow => teller.twice_in_a_row(),
            Tale::Pins => teller.pins(),
            Tale::Calls => teller.calls(),
            Tale::Rekeys => teller.rekeys(short),
            Tale::Moves => teller.moves(short),
            Tale::Links => teller.links(short),
            Tale::Branches => teller.branches(),
            Tale::Upgrade => teller.upgrade(),
            Tale::Ipv6 => teller.ipv6(),
        }
        story.end()
    };
    lab.save_logs()?;
    for (nth, takeover) in takeovers.iter().enumerate() {
        draw(takeover, &out.join(format!("takeover-{}.svg", nth + 1)))?;
    }
    let takeovers: Vec<_> = takeovers.into_iter().map(|takeover| takeover.report).collect();
    let medians = Medians::of(&takeovers);
    if let Some(medians) = medians.filter(|medians| medians.runs > 1) {
        progress.step(&medians.summary());
    }
    Ok(TaleReport { tale, cases, takeovers, medians })
}

/// Where a story takes place.
fn scene(tale: Tale, config: &TakeoverConfig, out: PathBuf) -> LabConfig {
    let policy = match tale {
        Tale::Renegotiate | Tale::RenegotiateAlive | Tale::LadderAnew => TakeoverPolicy::Renegotiate,
        _ => TakeoverPolicy::Resume,
    };
    let tunnels = match tale {
        Tale::Hundred => config.tunnels,
        Tale::Ladder | Tale::LadderAnew => ladder::TUNNELS,
        _ => 1,
    };
    let mut lab = LabConfig { out: Some(out), ..LabConfig::pair(policy, tunnels) };
    match tale {
        Tale::LocalTargets => lab.plan.local_targets = true,
        Tale::TwoHosts | Tale::Links | Tale::HalfCut => lab.plan.store_network = true,
        Tale::Pins => lab.plan.in_turns = true,
        Tale::Agents => lab.plan.target_agents = true,
        Tale::Crosswise => lab.plan = Plan::with_two_vips(2),
        Tale::Ipv6 => lab.plan = Plan::with_ipv6(2),
        Tale::Branches => lab.plan = Plan::new(10, 2, 2),
        Tale::TwiceInARow => lab.plan = Plan::with_registry(),
        Tale::Upgrade => lab.releases = [(0, Some("1")), (1, Some("1"))].into(),
        Tale::Ladder | Tale::LadderAnew => lab.takeover_rate = Some(1),
        Tale::BackByItself => lab.give_back = Some(by_themselves::WATCHED.text),
        Tale::Flapping => {
            lab.give_back = Some(by_themselves::SOON.text);
            lab.moves_max = Some(by_themselves::MOVES_MAX);
        }
        _ => {}
    }
    if matches!(tale, Tale::TwoWorkers | Tale::Pins) {
        lab.workers = 2;
    }
    if matches!(tale, Tale::Calls | Tale::Moves | Tale::Links) {
        lab.retransmit = Retransmit::IMPATIENT;
    }
    lab
}

/// The demo's takeover: the owner is killed under traffic.
pub fn once(lab: &mut Lab, policy: TakeoverPolicy, progress: &Progress) -> Result<Takeover> {
    let roles = lab.await_roles()?;
    progress.step(&format!(
        "traffic each way through {}; {} has a copy of its SAs; then {} is killed",
        lab.appliance_name(roles.owner),
        lab.appliance_name(roles.backup),
        lab.appliance_name(roles.owner)
    ));
    observe::take_over(lab, roles, policy, observe::End::Killed, || Ok(()), progress)
}

/// Writes a takeover's picture.
pub fn draw(takeover: &Takeover, file: &Path) -> Result<()> {
    std::fs::write(file, picture::svg(takeover)).context(|| format!("writing {}", file.display()))
}
