//! Telling the targets' agents who owns a VIP, from when it is ours until each of them has answered.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use vipsec_agent::notice::{Answer, Notice};
use vipsec_wire::iv::Epoch;

use crate::core::{Core, Output};

/// Most agents that are told at a time.
pub const TELLING_MAX: usize = 16;
/// One that didn't answer is told again.
const AGAIN: Duration = Duration::from_secs(10);

/// What an agent is to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Telling {
    /// Index of the VIP.
    pub vip: u16,
    /// Where the agent is.
    pub agent: SocketAddr,
    /// What.
    pub notice: Notice,
}

/// An agent and what is known of it.
#[derive(Debug, Clone, Copy)]
struct Agent {
    notice: Notice,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It is told then.
    Waits(Instant),
    Told,
    Knows,
    Refuses,
}

/// All agents that are told of VIPs that are ours.
#[derive(Debug, Default)]
pub(in crate::core) struct Notices {
    agents: BTreeMap<(u16, SocketAddr), Agent>,
    /// Answers since the process began, and how often there was none.
    pub(in crate::core) known: u64,
    pub(in crate::core) refused: u64,
    pub(in crate::core) silent: u64,
}

/// How many of a VIP's agents are told, know, refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::core) struct Tally {
    pub(in crate::core) agents: u64,
    pub(in crate::core) know: u64,
    pub(in crate::core) refuse: u64,
}

impl Notices {
    /// A VIP is ours.
    fn begin(&mut self, now: Instant, vip: u16, notice: Notice, agents: impl IntoIterator<Item = SocketAddr>) {
        self.end(vip);
        let agent = Agent { notice, state: State::Waits(now) };
        self.agents.extend(agents.into_iter().map(|address| ((vip, address), agent)));
    }

    /// It isn't any more.
    fn end(&mut self, vip: u16) {
        self.agents.retain(|(known, _), _| *known != vip);
    }

    pub(in crate::core) fn poll_timeout(&self) -> Option<Instant> {
        let waits = |agent: &Agent| if let State::Waits(until) = agent.state { Some(until) } else { None };
        let is_full = self.under_way() >= TELLING_MAX;
        self.agents.values().filter_map(waits).min().filter(|_| !is_full)
    }

    fn under_way(&self) -> usize {
        self.agents.values().filter(|agent| agent.state == State::Told).count()
    }

    fn poll(&mut self, now: Instant) -> Option<Telling> {
        if self.under_way() >= TELLING_MAX {
            return None;
        }
        let is_due = |agent: &Agent| matches!(agent.state, State::Waits(until) if until <= now);
        let ((vip, address), agent) = self.agents.iter_mut().find(|(_, agent)| is_due(agent))?;
        agent.state = State::Told;
        Some(Telling { vip: *vip, agent: *address, notice: agent.notice })
    }

    pub(in crate::core) fn tally(&self, vip: u16) -> Tally {
        let mut tally = Tally::default();
        for (_, agent) in self.agents.iter().filter(|((known, _), _)| *known == vip) {
            tally.agents += 1;
            tally.know += u64::from(agent.state == State::Knows);
            tally.refuse += u64::from(agent.state == State::Refuses);
        }
        tally
    }
}

impl Core {
    /// A VIP is ours, under that epoch: the agents of the targets behind it are told.
    pub(in crate::core) fn begin_notices(&mut self, now: Instant, vip: u16, epoch: Epoch) {
        let config = self.config.clone();
        let (Some(agents), Some(entry)) = (&config.target_agents, config.vips.get(usize::from(vip))) else { return };
        let services = config.services.iter().filter(|service| service.vip == vip);
        let targets: BTreeSet<usize> = services.flat_map(|service| service.targets.iter().copied()).collect();
        let targets = targets.into_iter().filter_map(|target| config.targets.get(target));
        let checks = targets.flat_map(|target| target.checks.iter().filter(|check| check.asks_agent()));
        let notice = Notice { vip: entry.floating.address, epoch: epoch.0, owner: config.appliance.id.get() };
        let addresses = checks.map(|check| SocketAddr::new(check.address.ip(), agents.port));
        self.notices.begin(now, vip, notice, addresses);
        self.handle_notices_timeout(now);
    }

    /// A group isn't ours any more.
    pub(in crate::core) fn end_notices(&mut self, group: usize) {
        for vip in self.vips_of(group) {
            self.notices.end(vip);
        }
    }

    pub(in crate::core) fn handle_notices_timeout(&mut self, now: Instant) {
        while let Some(telling) = self.notices.poll(now) {
            self.outputs.push_back(Output::Tell(telling));
        }
    }

    /// What came of [`Output::Tell`]; `None`: no answer that could be believed.
    pub fn handle_told(&mut self, now: Instant, telling: Telling, answer: Option<Answer>) {
        let Telling { vip, agent: address, notice } = telling;
        let name = self.config.vips.get(usize::from(vip)).map_or("?", |vip| vip.name.as_str());
        let notices = &mut self.notices;
        let Some(agent) = notices.agents.get_mut(&(vip, address)).filter(|agent| agent.notice == notice) else {
            return;
        };
        match answer {
            Some(Answer::Known(known)) if known == notice => {
                agent.state = State::Knows;
                notices.known += 1;
                let Tally { agents, know, .. } = notices.tally(vip);
                if agents == know {
                    tracing::info!(vip = name, agents, "every target agent knows the owner");
                } else {
                    tracing::debug!(vip = name, agent = %address, "target agent knows the owner");
                }
            }
            Some(Answer::Newer(newer)) => {
                agent.state = State::Refuses;
                notices.refused += 1;
                tracing::warn!(
                    vip = name, agent = %address, owner = newer.owner, epoch = newer.epoch,
                    "target agent knows of a newer owner"
                );
            }
            Some(Answer::Known(_)) | None => {
                agent.state = State::Waits(now + AGAIN);
                notices.silent += 1;
                tracing::debug!(vip = name, agent = %address, "no answer of the target agent");
            }
        }
        self.handle_notices_timeout(now);
    }
}
