//! What differs between two configurations, and what of it takes a new process.

use std::collections::BTreeMap;

use super::model::Config;

impl Config {
    /// Tables that differ from those of the `running` configuration, and can't change while a process lives: threads, devices,
    /// memory and what the other appliance was told are made once.
    pub fn needs_restart(&self, running: &Self) -> Vec<&'static str> {
        let text = |value: &dyn std::fmt::Debug| format!("{value:?}");
        let fixed = [
            ("appliance", self.appliance != running.appliance),
            ("eal", self.eal != running.eal),
            ("port", self.ports != running.ports),
            ("vip", self.vips != running.vips || self.groups != running.groups),
            ("peer", self.peers != running.peers),
            ("target_agents", self.target_agents != running.target_agents),
            ("etcd", self.etcd != running.etcd),
            ("connection_table", text(&self.connection_table) != text(&running.connection_table)),
            // Static child SAs have no keys to compare.
            ("test", !self.static_children.is_empty() || !running.static_children.is_empty()),
        ];
        fixed.into_iter().filter(|(_, differs)| *differs).map(|(table, _)| table).collect()
    }

    /// What differs from the `running` configuration, a line for each.
    pub fn changes(&self, running: &Self) -> Vec<String> {
        let mut changes = Vec::new();
        let connections = |config: &Self| -> BTreeMap<String, _> {
            let each = config.connections.iter();
            each.map(|policy| {
                let options = config.child_options.get(&policy.name).cloned();
                (policy.name.clone(), (policy.clone(), options))
            })
            .collect()
        };
        compare("connection", &connections(running), &connections(self), &mut changes);
        let targets = |config: &Self| -> BTreeMap<String, _> {
            config.targets.iter().map(|target| (target.name.clone(), target.clone())).collect()
        };
        compare("target", &targets(running), &targets(self), &mut changes);
        let order = |config: &Self| -> Vec<String> { config.connections.iter().map(|one| one.name.clone()).collect() };
        // A service names its targets by their places.
        let services = |config: &Self| -> Vec<_> {
            let name = |place: &usize| config.targets.get(*place).map(|target| target.name.clone());
            let services = config.services.iter();
            services.map(|service| (service.clone(), service.targets.iter().map(name).collect::<Vec<_>>())).collect()
        };
        let others = [
            ("the order of connections", changes.is_empty() && order(self) != order(running)),
            ("service", services(self) != services(running)),
            ("policy", self.policies != running.policies),
            ("route", self.routes != running.routes),
            ("ike", self.ike != running.ike),
        ];
        changes.extend(others.iter().filter(|(_, differs)| *differs).map(|(table, _)| format!("{table}: changed")));
        changes
    }
}

/// A line for each that came, went, or isn't what it was.
fn compare<T: PartialEq>(
    kind: &str,
    before: &BTreeMap<String, T>,
    after: &BTreeMap<String, T>,
    changes: &mut Vec<String>,
) {
    for name in before.keys().filter(|name| !after.contains_key(*name)) {
        changes.push(format!("{kind} {name}: removed"));
    }
    for (name, value) in after {
        match before.get(name) {
            None => changes.push(format!("{kind} {name}: added")),
            Some(old) if old != value => changes.push(format!("{kind} {name}: changed")),
            Some(_) => {}
        }
    }
}
