//! What is answered about services and targets.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// A target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// Configured name.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
    /// What it gets: `up` (new and established connections), `drain` (established ones), `down` (none).
    pub state: String,
    /// Did the operator order it to drain?
    pub drained: bool,
    /// Configured weight.
    pub weight: u16,
    /// The share of it that is in force, in percent: an agent may ask for less.
    pub share_percent: u16,
    /// Its connections that are not over, of all services.
    pub connections: u32,
    /// Its health checks.
    pub checks: Vec<HealthCheck>,
}

/// A health check of a target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// `tcp`, `http` or `agent`.
    pub kind: String,
    /// Where it connects to.
    pub address: SocketAddr,
    /// Does it count as passed?
    pub passed: bool,
    /// Why the last run failed; `None` if it passed, or none has ended yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// Runs that have ended.
    pub runs: u64,
}

/// A service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Name of its VIP.
    pub vip: String,
    /// The VIP's address.
    pub address: IpAddr,
    /// `tcp`, `udp` or `any`.
    pub protocol: String,
    /// `None`: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// How the target of a new connection is chosen, as in the configuration.
    pub method: String,
    /// For how many seconds after its last connection a remote host keeps its target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity_s: Option<u64>,
    /// Who answers.
    pub targets: Vec<ServiceTarget>,
}

/// A target as a service has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceTarget {
    /// Its name.
    pub name: String,
    /// What it gets.
    pub state: String,
    /// Its configured weight.
    pub weight: u16,
    /// Its connections that are not over, of all services.
    pub connections: u32,
    /// Its part of the service's new connections, in percent; rounded.
    pub part_percent: u16,
}
