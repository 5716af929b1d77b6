//! Thousands of IKEv2 initiators without I/O: [`Fleet`] begins their handshakes, and keeps the SAs as a peer would.
#![forbid(unsafe_code)]

mod echo;
mod fleet;
mod initiator;
mod pace;
mod report;
mod tunnel;

pub use echo::{Echo, EchoPlan, EspPacket};
pub use fleet::Fleet;
pub use initiator::{AddressesExhausted, Plan};
pub use pace::Pace;
pub use report::{EchoReport, Latency, Report};
