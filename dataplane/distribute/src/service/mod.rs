//! Services behind VIPs, and the targets that answer for them.
//!
//! A [`ServiceTable`] is immutable, checked and built once, and shared by all workers. What a method remembers of the past (whose
//! turn it is, how many connections a target has) is each worker's own and lives in its connection table.

use std::net::IpAddr;
use std::time::Duration;

use thiserror::Error;

use crate::maglev::MaglevError;

mod plan;
mod table;

pub(crate) use plan::{Candidate, Plan};
pub use table::ServiceTable;

/// Most targets of all services.
pub const TARGETS_MAX: usize = 16_384;
/// Most services.
pub const SERVICES_MAX: usize = 16_384;

/// A target, by its place in the configuration. Connections remember a target's address, not its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TargetId(pub u16);

/// A target, by its place in [`ServiceTable::targets`]. Another table may have another one there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TargetIndex(pub u16);

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
    /// Inside UDP (Generic UDP Encapsulation, variant 0).
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

/// How a packet came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// Through a tunnel: authentic.
    Decrypted,
    /// In the clear.
    Clear,
}

impl Accepts {
    /// Does the service take packets that came in that way?
    ///
    /// # Errors
    /// Why it doesn't.
    pub const fn check(self, origin: Origin) -> Result<(), Refusal> {
        match (self, origin) {
            (Self::Decrypted, Origin::Clear) => Err(Refusal::NotInClear),
            (Self::Clear, Origin::Decrypted) => Err(Refusal::OnlyInClear),
            _ => Ok(()),
        }
    }
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
    /// A service names a target twice.
    #[error("a service of {vip} names the target id {} twice", target.0)]
    RepeatedTarget {
        /// The service's VIP.
        vip: IpAddr,
        /// What it names.
        target: TargetId,
    },
    /// More than [`TARGETS_MAX`].
    #[error("more than {TARGETS_MAX} targets")]
    TooManyTargets,
    /// More than [`SERVICES_MAX`].
    #[error("more than {SERVICES_MAX} services")]
    TooManyServices,
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

/// Why no target takes a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Refusal {
    /// No service has that VIP, protocol and port.
    #[error("no such service")]
    UnknownService,
    /// All of the service's targets are draining, down or full.
    #[error("no target of the service is up")]
    NoTargetUp,
    /// It came in the clear, and the service takes decrypted packets only.
    #[error("the service takes only what came through a tunnel")]
    NotInClear,
    /// It came through a tunnel, and the service takes clear packets only.
    #[error("the service takes only what came in the clear")]
    OnlyInClear,
}

#[cfg(test)]
mod tests;
