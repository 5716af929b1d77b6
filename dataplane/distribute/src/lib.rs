//! Spreading a VIP's connections over its targets.
//!
//! [`service`] says which targets are behind which VIP, protocol and port; [`maglev`] chooses one for a new connection, the same
//! one on every appliance; [`connection`] keeps established connections where they are when the choice would change.
#![forbid(unsafe_code)]

pub mod connection;
pub mod maglev;
pub mod service;
pub mod tuple;
