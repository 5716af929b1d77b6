//! Who owns a VIP, who notices that its owner is gone, and what has to happen before anyone else may act: state machines
//! without I/O.
//!
//! [`Pair`] is the protocol between two appliances, [`Member`] that of any number among whom a registry decides. Both are
//! [`Decider`]s: fed with messages, advertisements and time, they answer with [`Action`]s; they know no socket, no clock, no
//! thread, and neither IKE nor ESP. What it promises, and why, is in
//! `docs/takeover.md` and `docs/registry.md`; the rules are cited here by their names (R1…R7).
#![forbid(unsafe_code)]

pub mod advertisement;
pub mod decider;
pub mod floor;
pub mod liveness;
pub mod message;
pub mod moves;
pub mod pair;
pub mod registry;
pub mod timing;

pub use decider::{Action, Decider};
pub use pair::Pair;
pub use registry::Member;
