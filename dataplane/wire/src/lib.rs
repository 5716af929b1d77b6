//! Packet views and reprs, checksums, and the traits that let the same code run on a DPDK mbuf and on a `Vec`.
//!
//! Nothing here knows a socket, a clock, a thread or DPDK.
#![forbid(unsafe_code)]

pub mod buffer;
pub mod iv;
