//! Processor time.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// What a thread or the process has spent since this was made.
pub(super) struct CpuTime {
    clock: ClockId,
    at: Duration,
}

impl CpuTime {
    pub(super) fn of_this_thread() -> Self {
        Self::of(ClockId::CLOCK_THREAD_CPUTIME_ID)
    }

    pub(super) fn of_this_process() -> Self {
        Self::of(ClockId::CLOCK_PROCESS_CPUTIME_ID)
    }

    fn of(clock: ClockId) -> Self {
        Self { clock, at: now(clock) }
    }

    pub(super) fn spent(&self) -> Duration {
        now(self.clock).saturating_sub(self.at)
    }
}

fn now(clock: ClockId) -> Duration {
    clock_gettime(clock).map_or(Duration::ZERO, Duration::from)
}
