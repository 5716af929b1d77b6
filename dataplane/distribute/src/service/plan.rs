//! A service made ready to choose.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use vipsec_wire::ip::protocol;

use super::{Accepts, Method, Service, ServiceError, Target, TargetId, TargetIndex, TargetState};
use crate::maglev::{self, Maglev, MaglevError, Share};
use crate::tuple::FiveTuple;

/// A target that takes new connections of the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) address: IpAddr,
    pub(crate) index: TargetIndex,
    /// At least 1.
    pub(crate) weight: u16,
}

/// Who takes the new connections of a service.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) method: Method,
    pub(crate) accepts: Accepts,
    pub(crate) affinity: Option<Duration>,
    /// In the service's order.
    pub(crate) candidates: Vec<Candidate>,
    /// Over the candidates, if there is a choice.
    lookup: Option<Arc<Maglev>>,
    /// Over the candidates and those that are down, if there are such.
    steady: Option<Steady>,
}

/// A table that stays as it is while targets go down and come back: only the connections of those move.
#[derive(Debug, Clone)]
struct Steady {
    lookup: Arc<Maglev>,
    /// The candidate in each place; `None` is down.
    candidates: Box<[Option<u16>]>,
}

/// Lookup tables that were built already: many services have the same targets.
pub(super) type Built = HashMap<Vec<Share>, Arc<Maglev>>;

impl Steady {
    /// The place of the candidate that has a hash, down or not; `None` if it is down.
    fn candidate(&self, hash: u64) -> Option<usize> {
        self.candidates.get(self.lookup.lookup(hash)?)?.map(usize::from)
    }
}

impl Plan {
    pub(super) fn new(
        service: &Service,
        targets: &HashMap<TargetId, (TargetIndex, &Target)>,
        built: &mut Built,
    ) -> Result<Self, ServiceError> {
        let vip = service.vip;
        let failed = |error| ServiceError::Lookup { vip, error };
        if service.targets.is_empty() {
            return Err(ServiceError::NoTargets(vip));
        }
        if service.targets.len() > maglev::TARGETS_MAX {
            return Err(failed(MaglevError::TooManyTargets));
        }
        let mut candidates = Vec::new();
        let mut steady: Vec<(Share, Option<u16>)> = Vec::new();
        let mut named = HashSet::new();
        for &id in &service.targets {
            let &(index, target) = targets.get(&id).ok_or(ServiceError::UnknownTarget { vip, target: id })?;
            if !named.insert(id) {
                return Err(ServiceError::RepeatedTarget { vip, target: id });
            }
            let &Target { address, weight, state, .. } = target;
            if state == TargetState::Drain || weight == 0 {
                continue;
            }
            let is_up = state == TargetState::Up;
            steady.push((Share { address, weight }, is_up.then_some(candidates.len() as u16)));
            if is_up {
                candidates.push(Candidate { address, index, weight });
            }
        }
        let mut table = |shares: Vec<Share>| match built.get(&shares) {
            Some(maglev) => Ok(maglev.clone()),
            None => {
                let maglev = Arc::new(Maglev::new(&shares).map_err(failed)?);
                built.insert(shares, maglev.clone());
                Ok(maglev)
            }
        };
        let mut plan = Self {
            method: service.method,
            accepts: service.accepts,
            affinity: service.affinity,
            candidates,
            lookup: None,
            steady: None,
        };
        if plan.method != Method::HotStandby && plan.candidates.len() > 1 {
            let share = |&Candidate { address, weight, .. }: &Candidate| Share { address, weight };
            plan.lookup = Some(table(plan.candidates.iter().map(share).collect())?);
            if steady.len() > plan.candidates.len() {
                let (shares, candidates): (Vec<Share>, Vec<_>) = steady.into_iter().unzip();
                plan.steady = Some(Steady { lookup: table(shares)?, candidates: candidates.into() });
            }
        }
        Ok(plan)
    }

    /// The choice that depends on nothing but the table and the connection: the same on every appliance.
    ///
    /// Methods that look at the past have one too. It is for packets in the midst of a connection that has no entry here.
    pub(crate) fn computed(&self, tuple: &FiveTuple) -> Option<&Candidate> {
        let Some(lookup) = &self.lookup else { return self.candidates.first() };
        let hash = match self.affinity {
            None => tuple.stable_hash(),
            Some(_) => tuple.stable_source_hash(),
        };
        let steady = self.steady.as_ref().and_then(|steady| steady.candidate(hash));
        self.candidates.get(steady.or_else(|| lookup.lookup(hash))?)
    }

    /// Would a successor without an entry go by [`computed`](Self::computed) for the next packet of such a connection?
    pub(crate) fn computes(&self, ip_protocol: u8) -> bool {
        match self.method {
            Method::Maglev | Method::HotStandby | Method::TargetControlled => true,
            // TCP shows whether a segment begins a connection. Any other packet without an entry looks like a first one.
            Method::WeightedRoundRobin | Method::WeightedLeastConnections => ip_protocol == protocol::TCP,
        }
    }
}
