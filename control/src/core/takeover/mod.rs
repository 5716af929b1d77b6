//! Taking a group over with what its copy holds: SAs that stand ready before, are woken when the VIP is ours, and go on rung by rung.

pub(super) mod inheritance;
pub(super) mod inheriting;
pub(super) mod ladder;
pub(super) mod stale;
pub(super) mod standby;
pub(super) mod succession;
