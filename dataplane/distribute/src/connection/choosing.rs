//! The methods that look at the past: whose turn it is, who has the fewest connections, where the remote host was before.

use std::net::IpAddr;

use siphasher::sip::SipHasher13;

use super::affinity::{Affinities, Holder};
use super::clock::{Tick, milliseconds};
use crate::hash;
use crate::service::{Candidate, Method, Plan, Service, ServiceTable};
use crate::tuple::{FiveTuple, address_bits};

/// What a service remembers between two choices.
#[derive(Debug, Default)]
struct Turn {
    /// Stands for the service in all tables that it is in.
    service: u64,
    candidates: Vec<Candidate>,
    /// One for each candidate: what it is owed, in shares of a round.
    credits: Vec<i32>,
    /// Where the next search for the fewest connections begins, so that equals take turns.
    next: usize,
}

#[derive(Debug)]
pub(super) struct Chooser {
    /// One for each service of the table.
    turns: Vec<Turn>,
    affinities: Affinities,
    affinities_max: usize,
    seed: u64,
}

impl Chooser {
    pub(super) fn new(affinities_max: usize, seed: u64) -> Self {
        Self { turns: Vec::new(), affinities: Affinities::new(0, hash::keyed(seed)), affinities_max, seed }
    }

    /// Goes on with another table. Turns go on where a service's candidates stay the same.
    pub(super) fn use_services(&mut self, services: &ServiceTable) {
        let mut before = std::mem::take(&mut self.turns);
        before.sort_unstable_by_key(|turn| turn.service);
        for (service, plan) in services.plans() {
            let id = identity(service);
            let place = before.binary_search_by_key(&id, |turn| turn.service);
            let old = place.ok().and_then(|place| before.get_mut(place)).map(std::mem::take).unwrap_or_default();
            let turn = if old.candidates == plan.candidates {
                Turn { service: id, ..old }
            } else {
                let credits = vec![0; plan.candidates.len()];
                Turn { service: id, candidates: plan.candidates.clone(), credits, next: 0 }
            };
            self.turns.push(turn);
        }
        let wanted = services.services().iter().any(|service| service.affinity.is_some());
        if wanted && self.affinities.is_empty() {
            self.affinities = Affinities::new(self.affinities_max, hash::keyed(!self.seed));
        }
    }

    /// The target of a connection's first packet. `computed` is the choice of the table alone; `load` tells the active connections
    /// of a candidate.
    pub(super) fn choose(
        &mut self,
        now: Tick,
        (number, plan): (usize, &Plan),
        tuple: &FiveTuple,
        computed: Candidate,
        load: impl Fn(&Candidate) -> u32,
    ) -> Candidate {
        let Some(turn) = self.turns.get_mut(number) else { return computed };
        let affinity = plan.affinity.map(milliseconds);
        let holder = Holder { service: turn.service, remote: address_bits(tuple.remote) };
        let before = affinity.and_then(|timeout| self.affinities.find(now, holder, timeout));
        let before = before.and_then(|target| plan.candidates.iter().find(|candidate| candidate.address == target));
        let chosen = before.or_else(|| match plan.method {
            Method::WeightedRoundRobin => turn.round_robin(plan),
            Method::WeightedLeastConnections => turn.least_connections(plan, load),
            Method::Maglev | Method::HotStandby | Method::TargetControlled => None,
        });
        let chosen = chosen.copied().unwrap_or(computed);
        if affinity.is_some() {
            self.affinities.put(now, holder, chosen.address);
        }
        chosen
    }

    /// A connection lives on: its remote host keeps its affinity.
    pub(super) fn keep_affinity(&mut self, now: Tick, services: &ServiceTable, tuple: &FiveTuple, target: IpAddr) {
        let Ok((number, plan)) = services.plan(tuple) else { return };
        let (Some(turn), Some(timeout)) = (self.turns.get(number), plan.affinity) else { return };
        // An affinity to a target that takes nothing new would only be in the way of the next one.
        if plan.candidates.iter().any(|candidate| candidate.address == target) {
            let holder = Holder { service: turn.service, remote: address_bits(tuple.remote) };
            self.affinities.keep(now, holder, target, milliseconds(timeout));
        }
    }
}

/// Stands for a service in every table that it is in.
fn identity(service: &Service) -> u64 {
    let mut bytes = [0; 16 + 1 + 2 + 2 + 4];
    bytes[..16].copy_from_slice(&address_bits(service.vip).to_be_bytes());
    bytes[16] = u8::from(service.vip.is_ipv4());
    bytes[17..19].copy_from_slice(&service.protocol.map_or(256, u16::from).to_be_bytes());
    bytes[19..21].copy_from_slice(&service.port.unwrap_or_default().to_be_bytes());
    bytes[21] = u8::from(service.port.is_some());
    SipHasher13::new().hash(&bytes)
}

impl Turn {
    /// In each turn everybody earns its weight, and the one with the most pays for the round: a heavy target's turns lie apart.
    fn round_robin<'a>(&mut self, plan: &'a Plan) -> Option<&'a Candidate> {
        let mut round = 0;
        let mut best: Option<(&mut i32, &Candidate)> = None;
        for (credit, candidate) in self.credits.iter_mut().zip(&plan.candidates) {
            let weight = i32::from(candidate.weight);
            *credit += weight;
            round += weight;
            if best.as_ref().is_none_or(|(most, _)| *credit > **most) {
                best = Some((credit, candidate));
            }
        }
        let (credit, candidate) = best?;
        *credit -= round;
        Some(candidate)
    }

    /// The fewest connections in relation to the weight.
    fn least_connections<'a>(&mut self, plan: &'a Plan, load: impl Fn(&Candidate) -> u32) -> Option<&'a Candidate> {
        let (behind, ahead) = plan.candidates.split_at_checked(self.next).unwrap_or((&plan.candidates, &[]));
        // (load + 1) / weight, compared without a division: what it would be with the new connection.
        let mut best: Option<(&Candidate, u64)> = None;
        let mut place = self.next;
        for (at, candidate) in (behind.len()..).zip(ahead).chain((0..).zip(behind)) {
            let after = u64::from(load(candidate)) + 1;
            let fewer = |(other, others): (&Candidate, u64)| {
                after * u64::from(other.weight) < others * u64::from(candidate.weight)
            };
            if best.is_none_or(fewer) {
                best = Some((candidate, after));
                place = at;
            }
        }
        self.next = if place + 1 < plan.candidates.len() { place + 1 } else { 0 };
        best.map(|(candidate, _)| candidate)
    }
}
