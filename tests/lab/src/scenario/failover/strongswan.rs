//! strongSwan as the gateway, killed and started anew at once, its peers as impatient as their settings let them be.

use std::path::PathBuf;
use std::time::Duration;

use super::Plan;
use super::measure::{Run, Totals, Users};
use crate::capture::{Direction, Exchange, Kind};
use crate::charon::{DpdAction, Retransmit};
use crate::clock::Stamp;
use crate::error::{LabError, Result};
use crate::gateway::GatewayKind;
use crate::lab::{Lab, LabConfig};
use crate::report::failover::Row;
use crate::scenario::Progress;
use crate::topology;
use crate::wait;

/// The shortest silence that strongSwan takes for a reason to ask.
const DPD_DELAY: Duration = Duration::from_secs(1);
/// A peer that doesn't answer is given up 0.6 s after the first question.
const RETRANSMIT: Retransmit = Retransmit { timeout: Duration::from_millis(200), base_tenths: 10, tries: 2 };
/// Until all tunnels are back.
const LIMIT: Duration = Duration::from_secs(60);
/// Traffic before the end and after the return.
const MARGIN: Duration = Duration::from_secs(1);

/// Measures a line of the report.
pub(super) fn measure(plan: Plan, out: PathBuf, progress: &Progress) -> Result<Row> {
    let tunnels = u8::try_from(plan.tunnels).unwrap_or(u8::MAX);
    let config = LabConfig {
        plan: if tunnels == 1 { topology::Plan::new(1, 2, 1) } else { topology::Plan::with_tunnels(tunnels, 1) },
        gateway_dpd_delay: DPD_DELAY,
        peer_dpd_delay: Some(DPD_DELAY),
        retransmit: RETRANSMIT,
        peer_dpd_action: DpdAction::Restart,
        out: Some(out),
        ..LabConfig::new(GatewayKind::Strongswan)
    };
    let mut lab = Lab::start(config, &|step| progress.step(step))?;
    lab.tunnels()?.iter().try_for_each(|tunnel| lab.bring_up_tunnel(tunnel).map(drop))?;
    let mut runs = Vec::new();
    for nth in 1..=plan.runs {
        let run = fail_over(&mut lab, plan.tunnels)?;
        progress.step(&format!(
            "run {nth}: a peer called after {:.0} ms, the first packet {:.0} ms later",
            run.begun.millis_from(run.ended),
            run.first.millis_from(run.begun)
        ));
        runs.push(run);
    }
    lab.save_logs()?;
    let lost = plan.tunnels * plan.runs;
    let detail = format!("all SAs made anew; a peer asks after {DPD_DELAY:?} of silence and gives up after 0.6 s");
    Ok(Totals::of(&runs, None).row(plan, "restart", [0, lost], detail))
}

fn fail_over(lab: &mut Lab, tunnels: u32) -> Result<Run> {
    lab.outside.forget();
    lab.inside.forget();
    let users = Users::start(lab, tunnels)?;
    std::thread::sleep(MARGIN);
    let ended = Stamp::now();
    lab.restart_charon_gateway()?;
    let calls = |lab: &Lab| lab.outside.ike(ended, Exchange::SaInit, Direction::ToHost, false);
    let answers = |lab: &Lab| lab.outside.ike(ended, Exchange::Auth, Direction::FromHost, true);
    wait::until_true("all peers to have called", LIMIT, || Ok(answers(lab).len() >= tunnels as usize))?;
    std::thread::sleep(MARGIN);
    let until = Stamp::now();
    let seen = users.end(lab);
    let esp = lab
        .outside
        .frames(ended, |frame| frame.direction == Direction::FromHost && matches!(frame.kind, Kind::Esp { .. }));
    let call = calls(lab).first().map(|frame| frame.stamp);
    let begun = call.ok_or_else(|| nothing("call"))?;
    let first = esp.iter().find(|frame| frame.stamp > begun).map(|frame| frame.stamp).ok_or_else(|| nothing("ESP"))?;
    let both = answers(lab).last().map_or(first, |frame| frame.stamp.max(first));
    Ok(Run { ended, until, begun, milestones: None, first, both, seen, sas_lost: tunnels })
}

fn nothing(what: &str) -> LabError {
    LabError::Expectation { what: format!("a {what} after the restart"), found: "there was none".to_owned() }
}
