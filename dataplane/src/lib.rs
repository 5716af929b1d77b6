//! The data plane: packets in, packets out. No sockets, no clock, no DPDK types.
//!
//! [`worker::Worker`] is the pipeline, a state machine whose stages are the modules under `stage`; [`run`] turns it on a thread.
//! Every packet that a stage doesn't pass on is dropped for a reason from [`drops`].
//!
//! Not here yet: IPv6, reassembly and fragmentation (IKE messages apart, which are fragmented when sent), ICMP time exceeded.
#![forbid(unsafe_code)]

pub mod api;
pub mod counters;
pub mod deadline;
pub mod drops;
mod events;
mod flow;
mod holding;
mod lookup;
mod neighbour;
mod outer;
mod own_hash;
mod parking;
mod path;
mod policer;
pub mod reassembly;
mod route;
pub mod run;
mod sad;
pub mod selector;
mod stage;
mod template;
#[cfg(test)]
mod tests;
mod waiting;
pub mod worker;
