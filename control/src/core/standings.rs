//! The targets' standings as a record in the store: how a successor distributes as the owner did (docs/takeover.md, I5).

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use vipsec_store::RecordKey;

use super::groups::Group;
use super::publishing::KIND_STANDINGS;
use super::targets::TargetOrder;
use super::{Core, Effect};

/// Most targets in a record: as many as fit into the largest one.
const TARGETS_MAX: usize = 1024;

/// What a successor has to know of a target: whether it works, it finds out itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TargetRecord {
    address: IpAddr,
    drained: bool,
    share_percent: u16,
}

impl Core {
    /// The distribution table changed: it takes effect once every group's successor would know.
    pub(super) fn publish_standings(&mut self) {
        self.tables_await = (0..self.groups.len()).collect();
        self.standings_version += 1;
        let version = self.standings_version;
        for group in 0..self.groups.len() {
            self.put_standings(group);
            if let Some(group) = self.groups.get_mut(group) {
                group.replica.after(Effect::Tables(version));
            }
        }
    }

    /// Writes the standings of a group's VIPs, if it is ours.
    pub(super) fn put_standings(&mut self, group: usize) {
        let Some(epoch) = self.groups.get(group).and_then(|group| group.ownership.epoch_of_sas()) else {
            return;
        };
        let targets = self.config.targets.iter().enumerate().take(TARGETS_MAX);
        let records: Vec<TargetRecord> = targets
            .map(|(number, target)| TargetRecord {
                address: target.address,
                drained: self.targets.order(number) == TargetOrder::Drained,
                share_percent: self.targets.standing(number).share_percent,
            })
            .collect();
        // Plain data has no way to fail; a successor leaves out what it can't read.
        let bytes = rmp_serde::to_vec(&records).unwrap_or_default();
        let Some(group) = self.groups.get_mut(group).filter(|group| group.replica.is_on()) else { return };
        for vip in &group.vips {
            group.replica.put(RecordKey { kind: KIND_STANDINGS, vip: *vip, id: 0 }, epoch, &bytes);
        }
    }

    /// Goes on from the last owner's standings. Who serves other groups already keeps what it was told itself.
    pub(super) fn adopt_standings(&mut self, group: usize, records: &[TargetRecord]) {
        let serves = |(number, other): (usize, &Group)| number != group && other.ownership.owned_epoch().is_some();
        let serves_others = self.groups.iter().enumerate().any(serves);
        for TargetRecord { address, drained, share_percent } in records {
            if let Some(number) = self.config.targets.iter().position(|target| target.address == *address) {
                let keeps = serves_others && self.targets.order(number) == TargetOrder::Drained;
                let order = if *drained || keeps { TargetOrder::Drained } else { TargetOrder::Enabled };
                self.targets.adopt(number, order, *share_percent);
            }
        }
        self.rebuild_services();
    }
}

/// Reads a record.
pub(super) fn open_standings(bytes: &[u8]) -> Option<Vec<TargetRecord>> {
    let records: Vec<TargetRecord> = rmp_serde::from_slice(bytes).ok()?;
    (records.len() <= TARGETS_MAX).then_some(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_tells_what_was_written() {
        let record = TargetRecord { address: [10, 1, 0, 21].into(), drained: true, share_percent: 70 };
        let bytes = rmp_serde::to_vec(&vec![record.clone()]).unwrap();
        assert_eq!(open_standings(&bytes), Some(vec![record]));
        assert_eq!(open_standings(&bytes[..bytes.len() - 1]), None);
        assert_eq!(open_standings(b""), None);
    }
}
