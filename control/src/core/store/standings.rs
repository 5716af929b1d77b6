//! The targets' standings as a record in the store: how a successor distributes as the owner did (docs/takeover.md, I5).

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use vipsec_dataplane::api::Command;
use vipsec_distribute::service::TargetState;
use vipsec_store::RecordKey;

use super::publishing::KIND_STANDINGS;
use crate::config::{Standing, Target};
use crate::core::Core;
use crate::core::ownership::groups::Group;
use crate::core::service::targets::TargetOrder;

/// Most targets in a record: as many as fit into the largest one.
const TARGETS_MAX: usize = 1024;

/// What a successor has to know of a target. Whether it works, it finds out itself; where connections are, it computes by how it stood.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::core) struct TargetRecord {
    address: IpAddr,
    drained: bool,
    share_percent: u16,
    state: State,
}

/// A target's state in a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum State {
    Up,
    Drain,
    Down,
}

impl From<TargetState> for State {
    fn from(state: TargetState) -> Self {
        match state {
            TargetState::Up => Self::Up,
            TargetState::Drain => Self::Drain,
            TargetState::Down => Self::Down,
        }
    }
}

impl From<State> for TargetState {
    fn from(state: State) -> Self {
        match state {
            State::Up => Self::Up,
            State::Drain => Self::Drain,
            State::Down => Self::Down,
        }
    }
}

impl Core {
    /// How the targets stand.
    pub(in crate::core) fn standings(&self) -> Vec<TargetRecord> {
        let targets = self.config.targets.iter().enumerate().take(TARGETS_MAX);
        let record = |(number, target): (usize, &Target)| TargetRecord {
            address: target.address,
            drained: self.targets.order(number) == TargetOrder::Drained,
            share_percent: self.targets.standing(number).share_percent,
            state: self.targets.standing(number).state.into(),
        };
        targets.map(record).collect()
    }

    /// Writes the standings of a group's VIPs, if it is ours.
    pub(in crate::core) fn put_standings(&mut self, group: usize) {
        let Some(epoch) = self.groups.get(group).and_then(|group| group.ownership.epoch_of_sas()) else {
            return;
        };
        // Plain data has no way to fail; a successor leaves out what it can't read.
        let bytes = rmp_serde::to_vec(self.distribution.published()).unwrap_or_default();
        let Some(group) = self.groups.get_mut(group).filter(|group| group.replica.is_on()) else { return };
        for vip in &group.vips {
            group.replica.put(RecordKey { kind: KIND_STANDINGS, vip: *vip, id: 0 }, epoch, &bytes);
        }
    }

    /// Goes on from the last owner's standings. Who serves other groups already keeps what it was told itself.
    pub(in crate::core) fn adopt_standings(&mut self, group: usize, records: &[TargetRecord]) {
        let serves = |(number, other): (usize, &Group)| number != group && other.ownership.owned_epoch().is_some();
        let serves_others = self.groups.iter().enumerate().any(serves);
        self.inherit_services(group, records);
        for TargetRecord { address, drained, share_percent, .. } in records {
            if let Some(number) = self.config.targets.iter().position(|target| target.address == *address) {
                let keeps = serves_others && self.targets.order(number) == TargetOrder::Drained;
                let order = if *drained || keeps { TargetOrder::Drained } else { TargetOrder::Enabled };
                self.targets.adopt(number, order, *share_percent);
            }
        }
        if serves_others {
            self.change_services();
        } else {
            self.change_services_at_once();
        }
    }
}

impl Core {
    /// Tells the workers by which distribution table the last owner of a group went.
    fn inherit_services(&mut self, group: usize, records: &[TargetRecord]) {
        let standing = |number: usize| {
            let address = self.config.targets.get(number).map(|target| target.address);
            let record = records.iter().find(|record| Some(record.address) == address);
            record.map_or_else(
                || self.targets.standing(number),
                |record| Standing { state: record.state.into(), share_percent: record.share_percent },
            )
        };
        let standings = (0..self.config.targets.len()).map(standing).collect();
        let Some(services) = self.services_by(standings) else { return };
        for vip in self.vips_of(group) {
            self.tell(Command::Inherit { vip, services: services.clone() });
        }
    }
}

/// Reads a record.
pub(in crate::core) fn open_standings(bytes: &[u8]) -> Option<Vec<TargetRecord>> {
    let records: Vec<TargetRecord> = rmp_serde::from_slice(bytes).ok()?;
    (records.len() <= TARGETS_MAX).then_some(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_tells_what_was_written() {
        let record =
            TargetRecord { address: [10, 1, 0, 21].into(), drained: true, share_percent: 70, state: State::Drain };
        let bytes = rmp_serde::to_vec(&vec![record.clone()]).unwrap();
        assert_eq!(open_standings(&bytes), Some(vec![record]));
        assert_eq!(open_standings(&bytes[..bytes.len() - 1]), None);
        assert_eq!(open_standings(b""), None);
    }
}
