//! The targets: what the operator wants of them, how they are, and the distribution table that follows.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use vipsec_distribute::service::TargetState;
use vipsec_wire::iv::ApplianceId;

use crate::config::{Config, Standing};
use crate::core::ownership::Ownership;
use crate::core::{Core, Output};
use crate::health::{Health, Monitor, Outcome, Run};

/// A share changes in the table when it moved by at least so much, in percent of the configured weight: each change makes a new
/// table, and moves new connections to other targets.
const SHARE_STEP_PERCENT: u16 = 10;

/// An appliance that isn't heard of for so long is dead, and its own host with it. A move by order has the two meet anew, which takes
/// much less.
const APPLIANCE_SILENCE_MAX: Duration = Duration::from_secs(1);

/// All targets, by their place in the configuration.
#[derive(Debug)]
pub(in crate::core) struct Targets {
    monitor: Monitor,
    targets: Vec<Target>,
    /// Other appliances that live, as far as we hear of them; one that isn't heard of, until then.
    living: BTreeMap<ApplianceId, Option<Instant>>,
}

#[derive(Debug, Clone, Copy)]
struct Target {
    order: TargetOrder,
    place: Place,
    /// As the table in force has it.
    standing: Standing,
}

/// Where a target is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// On a host by itself, or on ours.
    Any,
    /// On another appliance's own host: it serves while that appliance lives, whoever owns the VIP.
    HostOf(ApplianceId),
    /// On one that is on no inside network of ours.
    OutOfReach,
}

/// What the operator wants of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::core) enum TargetOrder {
    /// Connections, as its health allows.
    #[default]
    Enabled,
    /// No new ones.
    Drained,
}

impl Target {
    fn new(config: &Config, number: usize) -> Self {
        let target = config.targets.get(number);
        let place = match target.and_then(|target| Some((config.host_elsewhere(target)?, target.address))) {
            None => Place::Any,
            Some((host, address)) if config.is_inside(address) => Place::HostOf(host),
            Some(_) => Place::OutOfReach,
        };
        Self { order: TargetOrder::default(), place, standing: config.first_standing(number) }
    }
}

impl Targets {
    /// All enabled. `seed`: as [`Monitor::new`] takes it.
    pub(in crate::core) fn new(config: &Config, seed: u64, now: Instant) -> Self {
        let targets = config.targets.iter().enumerate();
        let checks =
            targets.flat_map(|(number, target)| target.checks.iter().map(move |check| (number, check.clone())));
        Self {
            monitor: Monitor::new(checks, seed, now),
            targets: (0..config.targets.len()).map(|number| Target::new(config, number)).collect(),
            living: BTreeMap::new(),
        }
    }

    /// Other targets from now on. One of the same name and address goes on from how it stood.
    pub(in crate::core) fn follow(&mut self, before: &Config, config: &Config, now: Instant) {
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
            known.filter(|known| known.place == new.place).unwrap_or(new)
        };
        self.targets = (0..config.targets.len()).map(kept).collect();
        self.settle();
    }

    pub(in crate::core) fn monitor(&self) -> &Monitor {
        &self.monitor
    }

    pub(in crate::core) fn order(&self, target: usize) -> TargetOrder {
        self.targets.get(target).map_or(TargetOrder::Enabled, |target| target.order)
    }

    pub(in crate::core) fn standing(&self, target: usize) -> Standing {
        self.targets.get(target).map_or(Standing::default(), |target| target.standing)
    }

    /// Goes on from how another appliance had the target.
    pub(in crate::core) fn adopt(&mut self, target: usize, order: TargetOrder, share_percent: u16) {
        if let Some(target) = self.targets.get_mut(target) {
            target.order = order;
            target.standing.share_percent = share_percent;
        }
        self.settle();
    }

    /// These appliances are heard of. Returns whether others live than before.
    fn note_heard(&mut self, now: Instant, heard: impl IntoIterator<Item = ApplianceId>) -> bool {
        let before = self.living.len();
        self.living.values_mut().for_each(|until| *until = until.or(Some(now + APPLIANCE_SILENCE_MAX)));
        let mut any_new = false;
        for appliance in heard {
            any_new |= self.living.insert(appliance, None).is_none();
        }
        self.living.retain(|_, until| until.is_none_or(|until| until > now));
        any_new || self.living.len() != before
    }

    /// When something of the targets is due.
    pub(in crate::core) fn poll_timeout(&self) -> Option<Instant> {
        self.living.values().flatten().copied().chain(self.monitor.poll_timeout()).min()
    }

    /// Lets orders and health count. True if the table has to change.
    fn settle(&mut self) -> bool {
        let mut changed = false;
        for (number, target) in self.targets.iter_mut().enumerate() {
            let lives = match target.place {
                Place::Any => true,
                Place::HostOf(appliance) => self.living.contains_key(&appliance),
                Place::OutOfReach => false,
            };
            let health = self.monitor.health(number);
            let standing = wanted(target.order, Health { works: health.works && lives, ..health }, target.standing);
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
        self.settle_targets();
        self.start_checks(now);
        self.settle(now);
    }

    pub(in crate::core) fn handle_targets_timeout(&mut self, now: Instant) {
        self.targets.monitor.handle_timeout(now);
        self.settle_targets();
        self.start_checks(now);
    }

    /// The operator wants this of the target of that name; `None` if there is none.
    pub(in crate::core) fn order_target(&mut self, name: &str, order: TargetOrder) -> Option<()> {
        let number = self.config.targets.iter().position(|target| target.name == name)?;
        self.targets.targets.get_mut(number)?.order = order;
        tracing::info!(target = name, ?order, "the operator's order");
        self.settle_targets();
        Some(())
    }

    /// Targets on the hosts of other appliances come and go with these.
    pub(in crate::core) fn note_living_appliances(&mut self, now: Instant) {
        let sides = self.groups.iter().filter_map(|group| match &group.ownership {
            Ownership::Shared(side) => Some(side),
            Ownership::Solo(_) | Ownership::Elsewhere => None,
        });
        if self.targets.note_heard(now, sides.flat_map(|side| side.linked())) {
            self.settle_targets();
        }
    }

    fn start_checks(&mut self, now: Instant) {
        while let Some((run, check)) = self.targets.monitor.poll_check(now) {
            let check = Box::new(check.clone());
            self.outputs.push_back(Output::Check { run, check });
        }
    }

    fn settle_targets(&mut self) {
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
        self.change_services();
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::config::{TestConfiguration, load};

    /// Of a pair, with a target of its own, one that is on the other appliance's host, and one that is there but not inside.
    fn config() -> Config {
        let text = r#"
            appliance = { id = 1, name = "a" }
            peer = { id = 2, store_socket = "/tmp/pair.sock", secret_file = "pair.psk", takeover = "resume" }
            port = [
                { name = "out", side = "outside", device = "net_ring0", addresses = ["192.0.2.11/24"] },
                { name = "in", side = "inside", device = "net_ring1", addresses = ["10.1.0.11/24"] },
                { name = "host", side = "local", device = "net_ring2" },
            ]
            vip = [{ name = "web", address = "192.0.2.1", port = "out" }]
            target = [
                { name = "here", address = "10.1.0.11", forwarding = "local", appliance = 1 },
                { name = "there", address = "10.1.0.12", forwarding = "local", appliance = 2 },
                { name = "far", address = "172.16.0.12", forwarding = "local", appliance = 2 },
            ]
            service = [{ vip = "web", targets = ["here", "there", "far"] }]
        "#;
        let folder = tempfile::tempdir().unwrap();
        let (secret, file) = (folder.path().join("pair.psk"), folder.path().join("vipsec.toml"));
        fs::write(&secret, "0123456789abcdef0123456789abcdef").unwrap();
        fs::set_permissions(&secret, Permissions::from_mode(0o600)).unwrap();
        fs::write(&file, text).unwrap();
        load(&file, TestConfiguration::Refused).unwrap()
    }

    #[test]
    fn a_target_on_another_appliances_host_lives_with_that_appliance() {
        use TargetState::{Down, Up};
        let config = config();
        let mut targets = Targets::new(&config, 1, Instant::now());
        let states = |targets: &Targets| [0, 1, 2].map(|number| targets.standing(number).state);
        assert!(!targets.settle());
        assert_eq!(states(&targets), [Up, Down, Down]);
        let now = Instant::now();
        let peer = || config.peers.iter().map(|peer| peer.id);
        assert!(targets.note_heard(now, peer()) && targets.settle());
        assert_eq!(states(&targets), [Up, Up, Down], "from here nothing leads to the third");
        targets.adopt(1, TargetOrder::Drained, 100);
        assert_eq!(states(&targets), [Up, TargetState::Drain, Down]);
        // It isn't gone because the two meet anew.
        assert!(!targets.note_heard(now, None));
        let dead = now + APPLIANCE_SILENCE_MAX;
        assert_eq!(targets.poll_timeout(), Some(dead));
        assert!(!targets.note_heard(dead - Duration::from_millis(1), peer()) && !targets.note_heard(now, None));
        assert!(targets.note_heard(dead, None) && targets.settle());
        assert_eq!(states(&targets), [Up, Down, Down]);
    }
}
