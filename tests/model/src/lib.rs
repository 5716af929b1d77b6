//! Every schedule of a small scope. Two appliances, one group, their store link, their data networks and, where one decides, a
//! registry: the real state machines of `vipsec-takeover`, in a world that is coarse enough to look at all of it.
//!
//! Time is cut into looks. In each one appliance has its turn, then the other: it takes what has arrived and does what is due.
//! Before each turn faults of [`faults::Fault`] may strike, as many as the scope allows, and end at any later turn; so whatever can be
//! told apart by two turns is tried in every order. What lies around the deciders is reduced to what their promises are about: a
//! copy is *complete* as long as its owner has done nothing that it doesn't know of, and workers act from the moment their VIPs open
//! until their deadline passes.
//!
//! After the window in which faults strike everything is mended, and a quiet time later one appliance must own the group and have a
//! counted copy. `stateright` walks through the states; `docs/model.md` says how far it has been.
#![forbid(unsafe_code)]

mod checks;
mod driver;
mod faults;
mod planted;
mod registry;
mod side;
mod subject;
mod verdict;
mod world;

pub use checks::Broken;
pub use planted::Planted;
pub use subject::Subject;
pub use verdict::{Verdict, check};
pub use world::{Scope, State, World};
