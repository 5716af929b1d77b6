//! The machine's monotonic clock, which all its processes share.

use nix::time::{ClockId, clock_gettime};
use vipsec_trafficgen::time::Stamp;

/// Now.
pub(crate) fn now() -> Stamp {
    Stamp::from_nanos(read(ClockId::CLOCK_MONOTONIC))
}

/// Nanoseconds since 1970.
pub(crate) fn unix_nanos() -> u64 {
    read(ClockId::CLOCK_REALTIME)
}

fn read(clock: ClockId) -> u64 {
    // Both clocks exist on every Linux; a read of one that exists doesn't fail.
    let Ok(time) = clock_gettime(clock) else { return 0 };
    let (seconds, nanos) = (u64::try_from(time.tv_sec()), u64::try_from(time.tv_nsec()));
    seconds.unwrap_or(0).saturating_mul(1_000_000_000).saturating_add(nanos.unwrap_or(0))
}
