//! Agents on the targets are told who owns the VIP.

use std::time::Duration;

use vipsec_control::api::AgentsTold;

use super::cases::{Loss, MARGIN, Teller, move_by_order, under_traffic};
use super::observe::End;
use crate::error::Result;
use crate::lab::Lab;
use crate::scenario::expect;
use crate::topology::VIP;
use crate::wait;

/// Until an agent that didn't answer is told again, and has.
const AGAIN_LIMIT: Duration = Duration::from_secs(30);
/// Of two agents, the one that is dead at a takeover.
const DEAD: usize = 0;

impl Teller<'_, '_> {
    /// By a crash, and by an order.
    pub(super) fn agents(&mut self) {
        self.story.case("every agent knows the owner", |lab| all_know(lab));
        self.story.case("one is killed; the others know", |lab| {
            lab.kill_agent(DEAD)?;
            std::thread::sleep(MARGIN);
            all_know(lab)
        });
        let told = self.the_owner_ends("the owner is killed", End::Killed);
        self.story.case("the agent that lives knows the new owner, the other one still the old one", |lab| {
            let owner = lab.owner()?;
            expect(told.is_some_and(|roles| roles.backup == owner), "a takeover", || format!("{told:?}"))?;
            await_told(lab, owner, |told| told.know == told.agents - 1)?;
            let (line, dead) = (line(lab, owner)?, lab.agents().get(DEAD).map(|agent| agent.owners()));
            let living = lab.agents().iter().skip(DEAD + 1).map(|agent| agent.owners()).collect::<Vec<_>>();
            expect(living.iter().all(|owners| *owners == line), "the new owner", || format!("{living:?}"))?;
            expect(dead.as_ref().is_some_and(|owners| *owners != line), "the old owner", || format!("{dead:?}"))?;
            Ok(format!("{} of {} know", living.len(), lab.agents().len()))
        });
        self.story.case("it is started again, and told", |lab| {
            lab.restart_agent(DEAD)?;
            all_know(lab)
        });
        self.the_dead_comes_back();
        self.story.case("the VIP moves by order: every agent knows", |lab| {
            let moved = under_traffic(lab, Loss::None, move_by_order)?;
            Ok(format!("{moved}; {}", all_know(lab)?))
        });
    }
}

/// What an agent writes down, if it knows that appliance as the owner, under the epoch that it says.
fn line(lab: &Lab, owner: usize) -> Result<String> {
    let status = lab.appliance(owner)?.status()?;
    let epoch = status.vips.first().map_or(0, |vip| vip.epoch);
    Ok(format!("{VIP} {epoch} {}\n", status.appliance.id))
}

/// Waits until the owner counts its agents so.
fn await_told(lab: &Lab, owner: usize, fits: impl Fn(AgentsTold) -> bool) -> Result<AgentsTold> {
    let mut last = None;
    let told = wait::until("the owner to count its agents so", AGAIN_LIMIT, || {
        last = lab.appliance(owner)?.status()?.vips.first().and_then(|vip| vip.agents);
        Ok(last.filter(|told| fits(*told)))
    });
    expect(told.is_ok(), "agents that know", || format!("{last:?}"))?;
    told
}

/// Every agent knows the owner: it says so itself, the owner counts it, and the operator is shown it.
fn all_know(lab: &Lab) -> Result<String> {
    let owner = lab.owner()?;
    let told = await_told(lab, owner, |told| told.know == told.agents)?;
    let expected = AgentsTold { agents: lab.agents().len() as u64, know: lab.agents().len() as u64, refuse: 0 };
    expect(told == expected, "as many agents as targets", || format!("{told:?}"))?;
    let line = line(lab, owner)?;
    let known: Vec<_> = lab.agents().iter().map(|agent| agent.owners()).collect();
    expect(known.iter().all(|owners| *owners == line), "agents that know the owner", || format!("{known:?}"))?;
    let shown = lab.appliance(owner)?.operator(&["status"])?;
    let words = format!("{0} of {0} target agents know the owner of web", told.agents);
    expect(shown.contains(&words), "a status that says so", || shown.clone())?;
    Ok(words)
}
