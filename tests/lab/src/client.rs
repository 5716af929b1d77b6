//! Clients behind a remote peer: what users of the VIP would notice, counted and timed.

mod connections;
mod http;
mod pingpong;
mod probe;
mod traffic;

pub use connections::{ConnectionsReport, connections};
pub use http::{BulkReport, Http, download, upload};
pub use pingpong::{PingPong, PingPongReport};
pub use probe::{Arrivals, FlowReport, ProbeRecord, ProbeReport, UdpProbe, echo};
pub use traffic::{PROBE_INTERVAL, Traffic, TrafficSeen, Way, blocked_ms};
