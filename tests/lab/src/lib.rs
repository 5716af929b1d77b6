//! A lab on one machine: a switch, remote peers, appliances and targets, each in a network namespace of its own.
//!
//! ```text
//!   remote peer p0 ── outside ── appliance a ── inside ── targets t1, t2
//!   192.0.2.100/24     bridge    VIP 192.0.2.1   bridge    10.1.0.21, .22 (the VIP on lo)
//!   10.9.0.1 on lo              gateway 10.1.0.1
//! ```
//!
//! The VIP ends the tunnel *and* is the service's address: the inner destination equals the outer one.
//!
//! One process measures everything with one clock ([`clock::Stamp`]): threads that entered a namespace run the clients, the
//! targets and the captures. The remote peer is strongSwan's charon with its user-space ESP; the gateway is vipsecd, or a second
//! charon to compare with ([`gateway::GatewayKind`]).
//!
//! [`lab::Lab`] puts the parts together, [`scenario`] tells the stories that run in it.
#![forbid(unsafe_code)]

pub mod agent;
pub mod appliance;
pub mod capture;
pub mod charon;
pub mod client;
pub mod clock;
pub mod command;
pub mod content;
pub mod error;
pub mod etcd;
pub mod fleet;
pub mod gateway;
pub mod lab;
pub mod netns;
pub mod process;
pub mod pulse;
pub mod report;
pub mod scenario;
pub mod supervisor;
pub mod target;
pub mod topology;
pub mod wait;

pub use error::{LabError, Result};
