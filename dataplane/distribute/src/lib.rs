//! Spreading a VIP's connections over its targets.
//!
//! [`service`] says which targets are behind which VIP, protocol and port, and how a new connection finds its target; [`maglev`] is
//! the hashing that gives the same target on every appliance; [`connection`] keeps established connections where they are when the
//! choice would change, and says which of them a successor has to be told of. `docs/distribution.md` is the operator's view.
#![forbid(unsafe_code)]

pub mod connection;
mod hash;
pub mod maglev;
pub mod service;
pub mod tuple;
