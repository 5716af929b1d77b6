//! The data plane: packets in, packets out. No sockets, no clock, no DPDK types.
#![forbid(unsafe_code)]

pub mod api;
pub mod deadline;
