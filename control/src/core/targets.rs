//! The targets: what the operator wants of them, how they are, and the distribution table that follows.

use std::sync::Arc;
use std::time::Instant;

use vipsec_distribute::service::TargetState;

use super::{Core, Output};
use crate::config::{Config, Standing};
use crate::health::{Health, Monitor, Outcome, Run};

/// A share changes in the table when it moved by at least so much, in percent of the configured weight: each change makes a new
/// table, and moves new connections to other targets.
const SHARE_STEP_PERCENT: u16 = 10;

/// All targets, by their place in the configuration.
#[derive(Debug)]
pub(super) struct Targets {
    monitor: Monitor,
    targets: Vec<Target>,
}

#[derive(Debug, Clone, Copy)]
struct Target {
    order: TargetOrder,
    /// The own host of another appliance.
    is_elsewhere: bool,
    /// As the table in force has it.
    standing: Standing,
}

/// What the operator wants of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum TargetOrder {
    /// Connections, as its health allows.
    #[default]
    Enabled,
    /// No new ones.
    Drained,
}

impl Target {
    fn new(config: &Config, number: usize) -> Self {
        let is_elsewhere = config.targets.get(number).is_some_and(|target| config.is_elsewhere(target));
        Self { order: TargetOrder::default(), is_elsewhere, standing: config.first_standing(number) }
    }
}

impl Targets {
    /// All enabled. `seed`: as [`Monitor::new`] takes it.
    pub(super) fn new(config: &Config, seed: u64, now: Instant) -> Self {
        let targets = config.targets.iter().enumerate();
        let checks =
            targets.flat_map(|(number, target)| target.checks.iter().map(move |check| (number, check.clone())));
        Self {
            monitor: Monitor::new(checks, seed, now),
            targets: (0..config.targets.len()).map(|number| Target::new(config, number)).collect(),
        }
    }

    /// Other targets from now on. One of the same name and address goes on from how it stood.
    pub(super) fn follow(&mut self, before: &Config, config: &Config, now: Instant) {
        let same = |number: usize| {
            let new = config.targets.get(number)?;
            before.targets.iter().position(|old| (&old.name, old.address) == (&new.name, new.address))
        };
        let targets = config.targets.iter().enumerate();
        let checks =
            targets.flat_map(|(number, target)| target.checks.iter().map(move |check| (number, check.clone())));
        self.monitor.replace(checks, same, now);
        let old = std::mem::take(&mut self.targets);
        let kept = |number| {
            let new = Target::new(config, number);
            let known = same(number).and_then(|number| old.get(number)).copied();
            known.filter(|known| known.is_elsewhere == new.is_elsewhere).unwrap_or(new)
        };
        self.targets = (0..config.targets.len()).map(kept).collect();
        self.settle();
    }

    pub(super) fn monitor(&self) -> &Monitor {
        &self.monitor
    }

    pub(super) fn order(&self, target: usize) -> TargetOrder {
        self.targets.get(target).map_or(TargetOrder::Enabled, |target| target.order)
    }

    pub(super) fn standing(&self, target: usize) -> Standing {
        self.targets.get(target).map_or(Standing::default(), |target| target.standing)
    }

    /// Goes on from how another appliance had the target.
    pub(super) fn adopt(&mut self, target: usize, order: TargetOrder, share_percent: u16) {
        if let Some(target) = self.targets.get_mut(target) {
            target.order = order;
            target.standing.share_percent = share_percent;
        }
        self.settle();
    }

    /// Lets orders and health count. True if the table has to change.
    fn settle(&mut self) -> bool {
        let mut changed = false;
        for (number, target) in self.targets.iter_mut().enumerate() {
            if target.is_elsewhere {
                continue;
            }
            let standing = wanted(target.order, self.monitor.health(number), target.standing);
            changed |= std::mem::replace(&mut target.standing, standing) != standing;
        }
        changed
    }
}

/// What a target gets, after what it got before.
fn wanted(order: TargetOrder, health: Health, before: Standing) -> Standing {
    let drained = order == TargetOrder::Drained || !health.welcomes || health.share_percent == 0;
    let state = match health.works {
        false => TargetState::Down,
        true if drained => TargetState::Drain,
        true => TargetState::Up,
    };
    // A target that gets nothing new keeps its share: one that comes back changes the table once.
    let moved =
        health.share_percent == 100 || health.share_percent.abs_diff(before.share_percent) >= SHARE_STEP_PERCENT;
    let share_percent = if state == TargetState::Up && moved { health.share_percent } else { before.share_percent };
    Standing { state, share_percent }
}

impl Core {
    /// A health check has ended that [`Output::Check`] asked for.
    pub fn handle_check_result(&mut self, now: Instant, run: Run, outcome: Outcome) {
        self.targets.monitor.handle_result(now, run, outcome);
        self.settle_targets(now);
        self.start_checks(now);
        self.settle(now);
    }

    pub(super) fn handle_targets_timeout(&mut self, now: Instant) {
        self.targets.monitor.handle_timeout(now);
        self.settle_targets(now);
        self.start_checks(now);
    }

    /// The operator wants this of the target of that name; `None` if there is none.
    pub(super) fn order_target(&mut self, now: Instant, name: &str, order: TargetOrder) -> Option<()> {
        let number = self.config.targets.iter().position(|target| target.name == name)?;
        self.targets.targets.get_mut(number)?.order = order;
        tracing::info!(target = name, ?order, "the operator's order");
        self.settle_targets(now);
        Some(())
    }

    fn start_checks(&mut self, now: Instant) {
        while let Some((run, check)) = self.targets.monitor.poll_check(now) {
            let check = Box::new(check.clone());
            self.outputs.push_back(Output::Check { run, check });
        }
    }

    fn settle_targets(&mut self, now: Instant) {
        let before: Vec<Standing> = self.targets.targets.iter().map(|target| target.standing).collect();
        if !self.targets.settle() {
            return;
        }
        for ((target, before), configured) in self.targets.targets.iter().zip(before).zip(&self.config.targets) {
            let Standing { state, share_percent } = target.standing;
            if state != before.state {
                tracing::warn!(target = configured.name, ?state, "target");
            } else if share_percent != before.share_percent {
                tracing::info!(target = configured.name, share_percent, "target");
            }
        }
        self.rebuild_services();
        self.publish_standings(now);
    }

    /// Makes the distribution table that follows from how the targets stand.
    pub(super) fn rebuild_services(&mut self) {
        match self.config.service_table(|target| self.targets.standing(target)) {
            Ok(services) => self.tables.services = Arc::new(services),
            // The configuration made a table before, and states make none impossible.
            Err(error) => tracing::error!(%error, "the distribution table stays as it was"),
        }
    }
}
