//! The data plane: packets in, packets out. No sockets, no clock, no DPDK types.
//!
//! [`worker::Worker`] is the pipeline, a state machine whose stages are the modules under `stage`; [`run`] turns it on a thread.
//! Every packet that a stage doesn't pass on is dropped for a reason from [`drops`].
//!
//! Not here: multicast, IPv6 router discovery (routes are configured), and IP options of what is forwarded, which nobody looks at.
#![forbid(unsafe_code)]

mod address_map;
mod aged_table;
pub mod api;
pub mod counters;
pub mod deadline;
pub mod drops;
mod events;
mod flow;
pub mod handoff;
mod holding;
mod lookaside;
mod lookup;
pub mod mesh;
mod neighbour;
mod outer;
mod own_hash;
mod parking;
mod path;
mod pins;
mod policer;
mod policy;
mod prefix;
pub mod reassembly;
mod route;
pub mod run;
mod sad;
pub mod selector;
mod stage;
mod template;
#[cfg(test)]
mod tests;
mod transmit;
mod waiting;
pub mod worker;
