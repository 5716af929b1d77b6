//! The table of all services: checked when it is made, flat where packets ask.

use std::collections::HashMap;
use std::net::IpAddr;

use ahash::RandomState;

use super::plan::Built;
use super::{
    Plan, Refusal, SERVICES_MAX, Service, ServiceError, TARGETS_MAX, Target, TargetId, TargetIndex, TargetState,
};
use crate::hash;
use crate::tuple::FiveTuple;

type Map<K, V> = HashMap<K, V, RandomState>;

/// All services and targets.
#[derive(Debug, Clone)]
pub struct ServiceTable {
    targets: Vec<Target>,
    services: Vec<Service>,
    /// One for each service.
    plans: Vec<Plan>,
    /// Target by address.
    indexes: Map<IpAddr, TargetIndex>,
    vips: Map<IpAddr, Vip>,
    /// Service by [`key`].
    numbers: Map<u64, u16>,
}

/// A VIP with services.
#[derive(Debug, Clone, Copy, Default)]
struct Vip {
    number: u16,
    /// Which of the kinds in [`Vip::keys`] its services are of, a bit for each.
    kinds: u8,
}

impl Vip {
    /// Where to look for the service of a connection, the most specific kind first.
    fn keys(self, protocol: u8, port: u16) -> [u64; 4] {
        [(Some(protocol), Some(port)), (None, Some(port)), (Some(protocol), None), (None, None)]
            .map(|(protocol, port)| key(self.number, protocol, port))
    }
}

/// A VIP's number, protocol and port in one word; 256 and 65,536 stand for any.
fn key(vip: u16, protocol: Option<u8>, port: Option<u16>) -> u64 {
    let protocol = protocol.map_or(1 << 8, u64::from);
    let port = port.map_or(1 << 16, u64::from);
    u64::from(vip) << 32 | protocol << 17 | port
}

impl Default for ServiceTable {
    /// No service at all.
    fn default() -> Self {
        Self {
            targets: Vec::new(),
            services: Vec::new(),
            plans: Vec::new(),
            indexes: Map::with_hasher(hash::fixed()),
            vips: Map::with_hasher(hash::fixed()),
            numbers: Map::with_hasher(hash::fixed()),
        }
    }
}

impl ServiceTable {
    /// Checks services and targets and builds the lookup tables.
    ///
    /// # Errors
    /// The first thing that makes no sense.
    pub fn new(targets: Vec<Target>, services: Vec<Service>) -> Result<Self, ServiceError> {
        if targets.len() > TARGETS_MAX {
            return Err(ServiceError::TooManyTargets);
        }
        if services.len() > SERVICES_MAX {
            return Err(ServiceError::TooManyServices);
        }
        let mut table = Self::default();
        let mut by_id = HashMap::new();
        for (index, target) in (0..).map(TargetIndex).zip(&targets) {
            if by_id.insert(target.id, (index, target)).is_some() {
                return Err(ServiceError::DuplicateTargetId(target.id));
            }
            if table.indexes.insert(target.address, index).is_some() {
                return Err(ServiceError::DuplicateTargetAddress(target.address));
            }
        }
        let mut built = Built::new();
        for (number, service) in (0..).zip(&services) {
            table.add(number, service, &by_id, &mut built)?;
        }
        Ok(Self { targets, services, ..table })
    }

    fn add(
        &mut self,
        number: u16,
        service: &Service,
        targets: &HashMap<TargetId, (TargetIndex, &Target)>,
        built: &mut Built,
    ) -> Result<(), ServiceError> {
        self.plans.push(Plan::new(service, targets, built)?);
        let next = self.vips.len() as u16;
        let vip = self.vips.entry(service.vip).or_insert(Vip { number: next, kinds: 0 });
        let kind = match (service.protocol, service.port) {
            (Some(_), Some(_)) => 0,
            (None, Some(_)) => 1,
            (Some(_), None) => 2,
            (None, None) => 3,
        };
        vip.kinds |= 1 << kind;
        match self.numbers.insert(key(vip.number, service.protocol, service.port), number) {
            None => Ok(()),
            Some(_) => Err(ServiceError::DuplicateService { vip: service.vip }),
        }
    }

    /// The target that the table and the connection alone decide on: the same on every appliance with the same table.
    ///
    /// # Errors
    /// No service, or none of its targets takes new connections.
    pub fn choose(&self, tuple: &FiveTuple) -> Result<TargetIndex, Refusal> {
        let (_, plan) = self.plan(tuple)?;
        plan.computed(tuple).map(|candidate| candidate.index).ok_or(Refusal::NoTargetUp)
    }

    /// Would a successor that knows only this table send the next packet of a connection to that target?
    pub fn reproduces(&self, tuple: &FiveTuple, target: IpAddr) -> bool {
        self.plan(tuple).is_ok_and(|(_, plan)| {
            plan.computes(tuple.protocol) && plan.computed(tuple).is_some_and(|candidate| candidate.address == target)
        })
    }

    /// The service that a connection belongs to: the most specific one.
    pub fn service(&self, tuple: &FiveTuple) -> Option<&Service> {
        self.services.get(usize::from(self.number(tuple)?))
    }

    /// The state of the target at `address`; `None` when there is none.
    pub fn state(&self, address: IpAddr) -> Option<TargetState> {
        Some(self.target(*self.indexes.get(&address)?)?.state)
    }

    /// A target of this table.
    pub fn target(&self, index: TargetIndex) -> Option<&Target> {
        self.targets.get(usize::from(index.0))
    }

    /// All targets.
    pub fn targets(&self) -> &[Target] {
        &self.targets
    }

    /// All services.
    pub fn services(&self) -> &[Service] {
        &self.services
    }

    /// All VIPs that have a service.
    pub fn vips(&self) -> impl Iterator<Item = IpAddr> + Clone + '_ {
        self.vips.keys().copied()
    }

    pub(crate) fn plans(&self) -> impl Iterator<Item = (&Service, &Plan)> {
        self.services.iter().zip(&self.plans)
    }

    /// The service of a connection, by its number, and its plan.
    pub(crate) fn plan(&self, tuple: &FiveTuple) -> Result<(usize, &Plan), Refusal> {
        let number = usize::from(self.number(tuple).ok_or(Refusal::UnknownService)?);
        let plan = self.plans.get(number).ok_or(Refusal::UnknownService)?;
        Ok((number, plan))
    }

    fn number(&self, tuple: &FiveTuple) -> Option<u16> {
        let vip = *self.vips.get(&tuple.vip)?;
        let keys = vip.keys(tuple.protocol, tuple.vip_port);
        let present = keys.iter().enumerate().filter(|(kind, _)| vip.kinds & 1 << kind != 0);
        present.map(|(_, key)| key).find_map(|key| self.numbers.get(key)).copied()
    }
}
