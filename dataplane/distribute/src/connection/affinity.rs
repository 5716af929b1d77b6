//! Which target a remote host was on: source affinity.
//!
//! A record is kept for each remote host and service, in sets of a few: where a set is full, the record that was used longest ago
//! gives way. So memory and time are bounded, whoever calls.

use std::net::IpAddr;

use ahash::RandomState;

use super::clock::Tick;

/// Records of a set.
const WAYS: usize = 4;

#[derive(Debug, Clone, Copy)]
struct Record {
    service: u64,
    remote: u128,
    target: Option<IpAddr>,
    last_use: Tick,
}

/// What an affinity belongs to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Holder {
    /// Stands for the service in all tables that it is in.
    pub(super) service: u64,
    /// The remote host.
    pub(super) remote: u128,
}

#[derive(Debug)]
pub(super) struct Affinities {
    sets: Box<[[Record; WAYS]]>,
    hasher: RandomState,
}

impl Affinities {
    pub(super) fn new(records_max: usize, hasher: RandomState) -> Self {
        let none = Record { service: 0, remote: 0, target: None, last_use: Tick::ZERO };
        Self { sets: vec![[none; WAYS]; records_max.div_ceil(WAYS)].into_boxed_slice(), hasher }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.sets.is_empty()
    }

    fn set(&mut self, holder: Holder) -> Option<&mut [Record; WAYS]> {
        let hash = self.hasher.hash_one((holder.remote, holder.service));
        let set = ((hash >> 32) * self.sets.len() as u64) >> 32;
        self.sets.get_mut(set as usize)
    }

    /// The target that a remote host was on less than `timeout` milliseconds ago.
    pub(super) fn find(&mut self, now: Tick, holder: Holder, timeout: u32) -> Option<IpAddr> {
        let set = self.set(holder)?;
        let record = set.iter().find(|record| record.is_of(holder))?;
        (now.since(record.last_use) < timeout).then_some(record.target)?
    }

    /// The remote host is on that target now.
    pub(super) fn put(&mut self, now: Tick, holder: Holder, target: IpAddr) {
        let Some(set) = self.set(holder) else { return };
        let place = set.iter().position(|record| record.is_of(holder));
        let place = place.or_else(|| set.iter().position(|record| record.target.is_none()));
        let record = match place {
            Some(place) => set.get_mut(place),
            None => set.iter_mut().max_by_key(|record| now.since(record.last_use)),
        };
        if let Some(record) = record {
            *record = Record { service: holder.service, remote: holder.remote, target: Some(target), last_use: now };
        }
    }

    /// The remote host still has a connection there. If its newer ones go elsewhere, that stays so.
    pub(super) fn keep(&mut self, now: Tick, holder: Holder, target: IpAddr, timeout: u32) {
        if self.find(now, holder, timeout).is_none_or(|current| current == target) {
            self.put(now, holder, target);
        }
    }
}

impl Record {
    fn is_of(&self, holder: Holder) -> bool {
        self.target.is_some() && self.remote == holder.remote && self.service == holder.service
    }
}
