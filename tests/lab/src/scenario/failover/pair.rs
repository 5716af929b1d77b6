//! A pair of vipsecd under the tunnels of a strongSwan and of `vipsec-ikegen`'s initiators.

use std::path::PathBuf;
use std::time::Duration;

use super::measure::{Echoes, Milestones, Run, Totals, Users};
use super::{Case, Plan};
use crate::appliance::{Standing, TakeoverPolicy};
use crate::capture::{Capture, Direction, Exchange, Frame, Kind};
use crate::clock::Stamp;
use crate::error::{LabError, Result};
use crate::fleet::{self, Calls, Fleet, FleetPlan, FleetReport, Keep};
use crate::lab::{Lab, LabConfig, Roles};
use crate::report::failover::Row;
use crate::scenario::takeover::journal;
use crate::scenario::{Progress, expect};
use crate::wait;

/// Tunnels that are strongSwan's at most; the others are initiators'.
const STRONGSWAN_MAX: u32 = 10;
/// Datagrams of the initiators per second.
const ECHO_RATE: f64 = 5_000.0;
/// How targets know them.
const ECHO_SESSION: u64 = 0x6661_696c_6f76_6572;
/// Handshakes under way at a time.
const PARALLEL: u32 = 32;
/// Nobody asks whether anybody lives: what is measured is what the pair does.
const DPD_DELAY: Duration = Duration::from_secs(3600);
/// Traffic before the owner's end.
const BEFORE: Duration = Duration::from_secs(1);
/// Traffic after it, at least.
const AFTER: Duration = Duration::from_secs(2);
/// What an appliance gets done after a takeover: SAs rekeyed or renegotiated per second.
const SUCCESSION_RATE: u32 = 500;
/// Without an IKE message for so long everything is done that a takeover leaves to do.
const SILENCE: Duration = Duration::from_secs(1);

/// A lab with the tunnels up.
struct Scene {
    lab: Lab,
    fleet: Option<Fleet>,
    plan: Plan,
    strongswan: u32,
    initiators: u32,
}

/// Measures a line of the report.
pub(super) fn measure(plan: Plan, out: PathBuf, progress: &Progress) -> Result<Row> {
    let mut scene = Scene::start(plan, out, progress)?;
    let mut runs = Vec::new();
    for nth in 1..=plan.runs {
        let run = scene.run()?;
        progress.step(&format!(
            "run {nth}: noticed after {:.1} ms, the first packet {:.2} ms later",
            run.begun.millis_from(run.ended),
            run.first.millis_from(run.begun)
        ));
        runs.push(run);
        if nth < plan.runs {
            scene.recover()?;
        }
    }
    scene.end(&runs)
}

impl Scene {
    fn start(plan: Plan, out: PathBuf, progress: &Progress) -> Result<Self> {
        let policy = match plan.case {
            Case::CrashRenegotiate => TakeoverPolicy::Renegotiate,
            _ => TakeoverPolicy::Resume,
        };
        let strongswan = (plan.tunnels / 10).clamp(1, STRONGSWAN_MAX);
        let initiators = plan.tunnels.saturating_sub(strongswan);
        let mut config =
            LabConfig { out: Some(out), ..LabConfig::pair(policy, u8::try_from(strongswan).unwrap_or(u8::MAX)) };
        (config.gateway_dpd_delay, config.peer_dpd_delay) = (DPD_DELAY, None);
        // While SAs are rekeyed, both the old and the new are there.
        config.store_records = Some(plan.tunnels * 5 / 4 + 4096);
        config.plan.fleet = (initiators > 0).then(FleetPlan::beside_peers);
        let lab = Lab::start(config, &|step| progress.step(step))?;
        lab.await_roles()?;
        lab.tunnels()?.iter().try_for_each(|tunnel| lab.bring_up_tunnel(tunnel).map(drop))?;
        let mut scene = Self { lab, fleet: None, plan, strongswan, initiators };
        if initiators > 0 {
            progress.step(&format!("{initiators} initiators call"));
            let limit = Duration::from_secs(60 + u64::from(initiators / 200));
            let keep = Some(Keep { hold: Duration::from_secs(3600), dpd_delay: DPD_DELAY });
            let calls = Calls { first: 1, count: initiators, parallel: PARALLEL, rate: None, limit, keep };
            let echoes = fleet::Echoes { per_second: ECHO_RATE, session: ECHO_SESSION };
            scene.fleet = Some(scene.lab.start_fleet(calls, echoes)?);
            // Datagrams begin when all have called.
            wait::until_true("all initiators to have called", limit, || {
                scene.fleet.as_mut().map_or(Ok(()), Fleet::check_alive)?;
                Ok(scene.lab.targets().iter().any(|target| !target.session(ECHO_SESSION).received.is_empty()))
            })?;
        }
        Ok(scene)
    }

    /// How long it takes until a datagram has been through each tunnel.
    fn sweep(&self) -> Duration {
        Duration::from_secs_f64(f64::from(self.initiators) / ECHO_RATE)
    }

    /// How long the SAs of all tunnels take to be replaced.
    fn succession(&self) -> Duration {
        Duration::from_secs(1) + Duration::from_secs(1) * self.plan.tunnels * 2 / SUCCESSION_RATE
    }

    fn run(&mut self) -> Result<Run> {
        let roles = self.lab.await_roles()?;
        let before = established(&self.lab)?;
        self.lab.outside.forget();
        self.lab.inside.forget();
        let users = Users::start(&self.lab, self.plan.tunnels)?;
        std::thread::sleep(BEFORE);
        let ended = Stamp::now();
        match self.plan.case {
            Case::Move => {
                let wanted = self.lab.appliance_name(roles.backup).to_owned();
                self.lab.appliance(roles.owner)?.operator(&["vip", "move", "web", "--to", &wanted])?;
            }
            _ => self.lab.kill_appliance(roles.owner)?,
        }
        self.lab.await_standing(roles.backup, &Standing::Owner)?;
        let anew = if self.plan.case == Case::CrashRenegotiate { self.succession() } else { Duration::ZERO };
        std::thread::sleep(AFTER + 2 * self.sweep() + anew);
        let until = Stamp::now();
        let seen = users.end(&self.lab);
        let journal = journal::lines(&self.lab.appliance(roles.backup)?.log(), ended);
        let begun = begun(&journal)?;
        let after = established(&self.lab)?;
        // Whoever had to call had lost what it had.
        let calls = self.lab.outside.ike(ended, Exchange::SaInit, Direction::ToHost, false).len();
        let sas_lost = u32::try_from(before.saturating_sub(after).max(calls)).unwrap_or(u32::MAX);
        let milestones = self.milestones(roles, &journal);
        let (first, both) = self.passed(roles, begun)?;
        Ok(Run { ended, until, begun, milestones, first, both, seen, sas_lost })
    }

    /// What the successor got done before its first packet: by its log, and by the captures at the switch.
    fn milestones(&self, roles: Roles, journal: &[(Stamp, String)]) -> Option<Milestones> {
        let (read, owned) = (moment(journal, "fenced and read")?, moment(journal, "own the VIP")?);
        let first = |since: Stamp, direction: Direction, fits: fn(&Kind) -> bool| {
            [&self.lab.outside, &self.lab.inside]
                .iter()
                .filter_map(|capture| {
                    let fits =
                        |frame: &Frame| frame.direction == direction && frame.port == roles.backup && fits(&frame.kind);
                    capture.frames(since, fits).first().map(|frame| frame.stamp)
                })
                .min()
        };
        let announced = first(owned, Direction::FromHost, |kind| matches!(kind, Kind::Advertisement { .. }))?;
        let offered = first(announced, Direction::ToHost, |kind| matches!(kind, Kind::Esp { .. } | Kind::ClearText))?;
        Some(Milestones { read, owned, announced, offered })
    }

    /// When the successor passed a packet on: the first, and the first of the other way.
    fn passed(&self, roles: Roles, begun: Stamp) -> Result<(Stamp, Stamp)> {
        let first = |capture: &Capture, fits: fn(&Kind) -> bool| {
            let frames = capture.frames(begun, |frame| {
                frame.direction == Direction::FromHost && frame.port == roles.backup && fits(&frame.kind)
            });
            frames.first().map(|frame| frame.stamp)
        };
        let down = first(&self.lab.outside, |kind| matches!(kind, Kind::Esp { .. }));
        let up = first(&self.lab.inside, |kind| *kind == Kind::ClearText);
        let passed = up.zip(down).map(|(up, down)| (up.min(down), up.max(down)));
        passed.ok_or_else(|| LabError::Expectation {
            what: "packets each way through the successor".to_owned(),
            found: format!("first {up:?} up and {down:?} down"),
        })
    }

    /// Until there is an owner and a backup again, and nothing left to do.
    fn recover(&mut self) -> Result<()> {
        if self.plan.case != Case::Move {
            let owner = self.lab.owner()?;
            self.lab.restart_appliance(1 - owner)?;
        }
        self.lab.await_roles()?;
        let mut seen = (self.lab.outside.counts().ike, Stamp::now());
        wait::until_true("the end of rekeying", 4 * self.succession() + Duration::from_secs(20), || {
            let count = self.lab.outside.counts().ike;
            if count != seen.0 {
                seen = (count, Stamp::now());
            }
            Ok(Stamp::now().since(seen.1) >= SILENCE)
        })
    }

    fn end(mut self, runs: &[Run]) -> Result<Row> {
        let fleet = self.fleet.take().map(Fleet::end).transpose()?;
        let (echoes, report) = match fleet {
            Some((report, echoes)) => {
                let targets = self.lab.targets();
                (Some(Echoes::new(echoes, targets, ECHO_SESSION, ECHO_RATE, self.initiators)), Some(report))
            }
            None => (None, None),
        };
        self.lab.save_logs()?;
        let called = report.as_ref().map_or(0, |report| report.established);
        expect(called == u64::from(self.initiators), "SAs for all initiators", || format!("{report:?}"))?;
        let totals = Totals::of(runs, echoes.as_ref());
        let tunnels = self.plan.tunnels * u32::try_from(runs.len()).unwrap_or(u32::MAX);
        let lost = report.as_ref().map_or(0, |report| u32::try_from(report.lost).unwrap_or(u32::MAX));
        let sas_lost = lost + runs.iter().map(|run| run.sas_lost).sum::<u32>();
        let policy = if self.plan.case == Case::CrashRenegotiate { "renegotiate" } else { "resume" };
        let detail = self.detail(report.as_ref());
        Ok(totals.row(self.plan, policy, [tunnels.saturating_sub(sas_lost), sas_lost], detail))
    }

    fn detail(&self, report: Option<&FleetReport>) -> String {
        let drops = self.lab.drops();
        let rekeys = report.map_or(0, |report| report.child_rekeys);
        let ends = report.map(|report| report.ends.clone()).unwrap_or_default();
        format!(
            "{} tunnels by strongSwan, {} by initiators; child SAs of initiators rekeyed: {rekeys}; ends {ends:?}; drops {drops:?}",
            self.strongswan, self.initiators
        )
    }
}

/// When the successor began to take over, by its log.
fn begun(journal: &[(Stamp, String)]) -> Result<Stamp> {
    moment(journal, "begun").ok_or_else(|| LabError::Expectation {
        what: "a successor that says that it takes over".to_owned(),
        found: format!("{journal:?}"),
    })
}

/// When a log said that first.
fn moment(journal: &[(Stamp, String)], what: &str) -> Option<Stamp> {
    journal.iter().find(|(_, text)| text.contains(what)).map(|(stamp, _)| *stamp)
}

/// Tunnels that strongSwan has.
fn established(lab: &Lab) -> Result<usize> {
    Ok(lab.peer()?.sas()?.iter().filter(|sa| sa.state == "ESTABLISHED" && !sa.children.is_empty()).count())
}
