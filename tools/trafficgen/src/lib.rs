//! A traffic generator and receiver, in the manner of `dpdk-testpmd`, that speaks ESP and numbers what it sends.
//!
//! This library knows no socket, no clock, no file and no DPDK: flows, pacing, sequence checks, statistics and the search for the
//! highest rate are state machines to which the binary gives packets and the time.
#![forbid(unsafe_code)]

pub mod arrivals;
pub mod generator;
pub mod header;
pub mod latency;
pub mod link;
pub mod pacing;
pub mod packet;
pub mod report;
pub mod search;
pub mod sequence;
pub mod silence;
pub mod size;
pub mod stream;
pub mod time;
pub mod timeline;
pub mod tunnel;
pub mod world;
