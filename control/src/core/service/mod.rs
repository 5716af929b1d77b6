//! Services and targets: how they are, the distribution table that follows, and the agents that are told.

pub(super) mod distribution;
pub(super) mod notices;
pub(super) mod services;
pub(super) mod targets;
