//! Who owns a VIP, who notices that its owner is gone, and what has to happen before anyone else may act: state machines
//! without I/O.
//!
//! [`Pair`] is the protocol between two appliances. It is fed with messages, advertisements and time, and answers with
//! [`Action`]s; it knows no socket, no clock, no thread, and neither IKE nor ESP. What it promises, and why, is in
//! `docs/takeover.md`; the rules are cited here by their names (R1…R7).
#![forbid(unsafe_code)]

pub mod advertisement;
pub mod floor;
pub mod liveness;
pub mod message;
pub mod pair;
pub mod timing;

pub use pair::{Action, Pair};
