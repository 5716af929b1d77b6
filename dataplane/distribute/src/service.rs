//! Services behind VIPs: an immutable table, checked and built once.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use thiserror::Error;

use crate::maglev::{Maglev, MaglevError, Share, TARGETS_MAX};
use crate::tuple::FiveTuple;

/// A target, by its place in the configuration. Connections remember a target's address, not its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TargetId(pub u16);

/// What a target gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TargetState {
    /// New and established connections.
    Up,
    /// Established connections only.
    Drain,
    /// Nothing: its connections go to another target, which tells the remote host that it doesn't know them.
    Down,
}

/// How a packet reaches its target. Replies come back by themselves: the target has the VIP, and the inside gateway as its next hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Forwarding {
    /// As it is, to the target's MAC address: the target is on an inside network and has the VIP itself.
    #[default]
    Mac,
    /// Inside another IP header (RFC 2003 for IPv4 in IPv4, RFC 2473 for what IPv6 carries): the target may be behind routers.
    IpInIp,
    /// Inside UDP (Generic UDP Encapsulation), variant 1: the inner packet follows the UDP header.
    Gue {
        /// The UDP port that the target listens on.
        port: u16,
    },
    /// To the appliance's own host, by a tap port: the target runs here.
    Local,
}

/// How a service chooses the target of a new connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Method {
    /// By a hash of the connection's addresses and ports, the same on every appliance; shares follow the weights.
    #[default]
    Maglev,
    /// In turns, as frequent as the weights say.
    WeightedRoundRobin,
    /// Where the fewest connections are active, relative to the weight.
    WeightedLeastConnections,
    /// The first target in order that is up takes all; the others are its backups.
    HotStandby,
    /// As [`Maglev`](Self::Maglev), with weights that the targets report themselves; 0 is full.
    TargetControlled,
}

/// Which packets a service takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Accepts {
    /// Those that came through a tunnel.
    #[default]
    Decrypted,
    /// Those that came in the clear.
    Clear,
    /// Both.
    Both,
}

/// A host that runs the application behind a VIP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Its id.
    pub id: TargetId,
    /// Its address on an inside network.
    pub address: IpAddr,
    /// Its share of new connections relative to the other targets. 0: it takes nothing new.
    pub weight: u16,
    /// What it gets.
    pub state: TargetState,
    /// How packets reach it.
    pub forwarding: Forwarding,
}

impl Target {
    /// A target that is up, weighs 1, and has the VIP itself.
    pub fn new(id: TargetId, address: IpAddr) -> Self {
        Self { id, address, weight: 1, state: TargetState::Up, forwarding: Forwarding::Mac }
    }
}

/// A service: what is addressed, and who answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// The VIP's address.
    pub vip: IpAddr,
    /// IP protocol; `None` is any.
    pub protocol: Option<u8>,
    /// Port; `None` is any.
    pub port: Option<u16>,
    /// Which packets it takes.
    pub accepts: Accepts,
    /// Who answers, at least one.
    pub targets: Vec<TargetId>,
    /// How it chooses among them.
    pub method: Method,
    /// For how long after its last connection a remote host keeps its target; `None`: each connection is on its own.
    pub affinity: Option<Duration>,
}

impl Service {
    /// A service for decrypted packets of any protocol and port, that chooses by Maglev hashing.
    pub fn new(vip: IpAddr, targets: Vec<TargetId>) -> Self {
        Self {
            vip,
            protocol: None,
            port: None,
            accepts: Accepts::Decrypted,
            targets,
            method: Method::Maglev,
            affinity: None,
        }
    }
}

/// Why services and targets make no table.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ServiceError {
    /// Two targets with one id.
    #[error("target id {} is used twice", .0.0)]
    DuplicateTargetId(TargetId),
    /// Two targets with one address.
    #[error("target address {0} is used twice")]
    DuplicateTargetAddress(IpAddr),
    /// A service names a target that isn't there.
    #[error("a service of {vip} names the unknown target id {}", target.0)]
    UnknownTarget {
        /// The service's VIP.
        vip: IpAddr,
        /// What it names.
        target: TargetId,
    },
    /// A service without targets.
    #[error("a service of {0} has no targets")]
    NoTargets(IpAddr),
    /// Two services for the same VIP, protocol and port.
    #[error("two services of {vip} have the same protocol and port")]
    DuplicateService {
        /// Their VIP.
        vip: IpAddr,
    },
    /// A service's targets make no lookup table.
    #[error("a service of {vip}: {error}")]
    Lookup {
        /// Its VIP.
        vip: IpAddr,
        /// What is wrong.
        error: MaglevError,
    },
}

/// Why no target takes a new connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Refusal {
    /// No service has that VIP, protocol and port.
    #[error("no such service")]
    UnknownService,
    /// All of the service's targets are draining or down.
    #[error("no target of the service is up")]
    NoTargetUp,
}

type Key = (IpAddr, Option<u8>, Option<u16>);

/// All services and targets.
#[derive(Debug, Clone, Default)]
pub struct ServiceTable {
    targets: Vec<Target>,
    services: Vec<Service>,
    states: HashMap<IpAddr, TargetState>,
    lookups: HashMap<Key, Maglev>,
}

impl ServiceTable {
    /// Checks services and targets and builds the lookup tables.
    pub fn new(targets: Vec<Target>, services: Vec<Service>) -> Result<Self, ServiceError> {
        let mut by_id = HashMap::new();
        let mut states = HashMap::new();
        for target in &targets {
            if by_id.insert(target.id, target).is_some() {
                return Err(ServiceError::DuplicateTargetId(target.id));
            }
            if states.insert(target.address, target.state).is_some() {
                return Err(ServiceError::DuplicateTargetAddress(target.address));
            }
        }
        let mut lookups = HashMap::new();
        for service in &services {
            let lookup = build_lookup(service, &by_id)?;
            if lookups.insert((service.vip, service.protocol, service.port), lookup).is_some() {
                return Err(ServiceError::DuplicateService { vip: service.vip });
            }
        }
        Ok(Self { targets, services, states, lookups })
    }

    /// The target for a new connection, the same on every appliance with the same table.
    pub fn choose(&self, tuple: &FiveTuple) -> Result<IpAddr, Refusal> {
        let FiveTuple { protocol, vip, vip_port, .. } = *tuple;
        // The most specific service wins.
        let lookup = [
            (vip, Some(protocol), Some(vip_port)),
            (vip, None, Some(vip_port)),
            (vip, Some(protocol), None),
            (vip, None, None),
        ]
        .iter()
        .find_map(|key| self.lookups.get(key))
        .ok_or(Refusal::UnknownService)?;
        lookup.lookup(tuple.stable_hash()).ok_or(Refusal::NoTargetUp)
    }

    /// The state of the target at `address`; `None` when there is none.
    pub fn state(&self, address: IpAddr) -> Option<TargetState> {
        self.states.get(&address).copied()
    }

    /// All targets.
    pub fn targets(&self) -> &[Target] {
        &self.targets
    }

    /// All services.
    pub fn services(&self) -> &[Service] {
        &self.services
    }
}

fn build_lookup(service: &Service, by_id: &HashMap<TargetId, &Target>) -> Result<Maglev, ServiceError> {
    let vip = service.vip;
    if service.targets.is_empty() {
        return Err(ServiceError::NoTargets(vip));
    }
    if service.targets.len() > TARGETS_MAX {
        return Err(ServiceError::Lookup { vip, error: MaglevError::TooManyTargets });
    }
    let mut shares = Vec::new();
    for &id in &service.targets {
        let target = by_id.get(&id).ok_or(ServiceError::UnknownTarget { vip, target: id })?;
        if target.state == TargetState::Up && target.weight > 0 {
            shares.push(Share { address: target.address, weight: target.weight });
        }
    }
    if service.method == Method::HotStandby {
        shares.truncate(1);
    }
    Maglev::new(&shares).map_err(|error| ServiceError::Lookup { vip, error })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn target(id: u16, state: TargetState) -> Target {
        Target { state, ..Target::new(TargetId(id), IpAddr::from([10, 1, 0, id as u8])) }
    }

    fn service(protocol: Option<u8>, port: Option<u16>, targets: &[u16]) -> Service {
        Service { protocol, port, ..Service::new(ip("192.0.2.1"), targets.iter().copied().map(TargetId).collect()) }
    }

    fn tuple(protocol: u8, vip_port: u16) -> FiveTuple {
        FiveTuple { protocol, remote: ip("10.9.0.1"), remote_port: 40000, vip: ip("192.0.2.1"), vip_port }
    }

    #[test]
    fn the_most_specific_service_wins() {
        let targets = (1..=4).map(|id| target(id, TargetState::Up)).collect();
        let services = vec![
            service(None, None, &[1]),
            service(Some(6), None, &[2]),
            service(None, Some(53), &[3]),
            service(Some(6), Some(53), &[4]),
        ];
        let table = ServiceTable::new(targets, services).unwrap();
        assert_eq!(table.choose(&tuple(17, 80)), Ok(ip("10.1.0.1")));
        assert_eq!(table.choose(&tuple(6, 80)), Ok(ip("10.1.0.2")));
        assert_eq!(table.choose(&tuple(17, 53)), Ok(ip("10.1.0.3")));
        assert_eq!(table.choose(&tuple(6, 53)), Ok(ip("10.1.0.4")));
        let elsewhere = FiveTuple { vip: ip("192.0.2.2"), ..tuple(6, 53) };
        assert_eq!(table.choose(&elsewhere), Err(Refusal::UnknownService));
    }

    #[test]
    fn only_targets_that_are_up_get_new_connections() {
        let states = [TargetState::Drain, TargetState::Up, TargetState::Down];
        let targets: Vec<Target> = states.iter().zip(1..).map(|(&state, id)| target(id, state)).collect();
        let services = vec![service(Some(6), Some(80), &[1, 2, 3]), service(Some(6), Some(81), &[1, 3])];
        let table = ServiceTable::new(targets, services).unwrap();
        for remote_port in 0..500 {
            assert_eq!(table.choose(&FiveTuple { remote_port, ..tuple(6, 80) }), Ok(ip("10.1.0.2")));
        }
        assert_eq!(table.choose(&tuple(6, 81)), Err(Refusal::NoTargetUp));
        assert_eq!(table.state(ip("10.1.0.3")), Some(TargetState::Down));
        assert_eq!(table.state(ip("10.1.0.4")), None);
    }

    #[test]
    fn refuses_what_makes_no_sense() {
        let up = |id| target(id, TargetState::Up);
        let error = |targets, services| ServiceTable::new(targets, services).unwrap_err();
        let vip = ip("192.0.2.1");
        assert_eq!(error(vec![up(1), up(1)], vec![]), ServiceError::DuplicateTargetId(TargetId(1)));
        let twin = Target { id: TargetId(2), ..up(1) };
        assert_eq!(error(vec![up(1), twin], vec![]), ServiceError::DuplicateTargetAddress(ip("10.1.0.1")));
        let unknown = ServiceError::UnknownTarget { vip, target: TargetId(9) };
        assert_eq!(error(vec![up(1)], vec![service(None, None, &[9])]), unknown);
        assert_eq!(error(vec![up(1)], vec![service(None, None, &[])]), ServiceError::NoTargets(vip));
        let twice = vec![service(Some(6), None, &[1]), service(Some(6), None, &[1])];
        assert_eq!(error(vec![up(1)], twice), ServiceError::DuplicateService { vip });
        assert!(matches!(error(vec![up(1)], vec![service(None, None, &[1, 1])]), ServiceError::Lookup { .. }));
    }
}
