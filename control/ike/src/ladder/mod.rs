//! Exchanges between two endpoints in simulated time, with losses, takeovers and forgeries. Each test reads like a ladder: the
//! message as a comment, then what both ends make of it.

mod bench;
mod chaos;
mod child;
mod collision;
mod crossing;
mod fragments;
mod fuzz;
mod hostile;
mod ike;
mod initial;
mod kinds;
mod logs;
mod memory;
mod policies;
mod pools;
mod reconfigure;
mod sync;
mod takeover;

pub(crate) use bench::{ALICE, BOB, Bench, Setup};
