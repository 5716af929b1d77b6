//! Thousands of IKEv2 initiators without I/O: [`Fleet`] begins their handshakes, and keeps the SAs as a peer would.
#![forbid(unsafe_code)]

mod fleet;
mod initiator;
mod pace;
mod report;

pub use fleet::Fleet;
pub use initiator::{AddressesExhausted, Plan};
pub use pace::Pace;
pub use report::{Latency, Report};
