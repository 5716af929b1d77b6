//! A few appliances, a remote peer, two targets and the networks between them: in one thread, from one seed, with faults.
//!
//! The control cores, the workers, the store, its pairing and channel, IKE and ESP are the real ones; only time, wires and disks
//! are made up, and etcd: where it decides, an honest store takes its place, whose answers get lost. Every schedule is a function of its seed: who dies, sleeps, is cut off, rekeys or is moved, and between which two
//! steps. After each step the invariants of `docs/takeover.md` are checked, and at the end, when the faults are over, that
//! traffic flows again.
//!
//! `cargo run -p vipsec-sim -- --seed N --verbose` replays one schedule with everybody's log in simulated time.
#![forbid(unsafe_code)]

mod adversary;
mod agenda;
mod appliance;
mod checks;
mod clock;
mod far;
mod frames;
mod link;
pub mod log;
mod network;
mod plan;
mod planted;
mod remote;
mod scene;
mod target;
mod world;
mod writer;

pub use checks::Violation;
pub use planted::Planted;
pub use scene::Deciders;
pub use world::{Outcome, Tally, run, run_planned, run_split, run_with};
