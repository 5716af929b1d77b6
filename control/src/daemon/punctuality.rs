//! Is the control core on time? Heartbeats and the workers' deadline depend on it, and when it isn't the log has to say why: it got no processor,
//! or took long over something.

use std::time::{Duration, Instant};

/// What the thread has done between two sleeps.
#[derive(Debug)]
pub(super) struct Punctuality {
    /// Nobody minds so much.
    slack: Duration,
    sleeps_until: Instant,
    woke: Instant,
}

impl Punctuality {
    pub(super) fn new(slack: Duration, now: Instant) -> Self {
        Self { slack, sleeps_until: now, woke: now }
    }

    /// What was done before now was no part of it.
    pub(super) fn begin(&mut self, now: Instant) {
        *self = Self::new(self.slack, now);
    }

    /// The thread goes to sleep until then, or until something comes.
    pub(super) fn sleep(&mut self, now: Instant, until: Instant) {
        self.sleeps_until = until.max(now);
        let took = now.saturating_duration_since(self.woke);
        if took > self.slack {
            tracing::warn!(?took, "the control core was busy for long: heartbeats were late");
        }
    }

    /// It is awake.
    pub(super) fn wake(&mut self, now: Instant) {
        self.woke = now;
        let late = now.saturating_duration_since(self.sleeps_until);
        if late > self.slack {
            tracing::warn!(?late, "the control core waited for a processor: heartbeats were late");
        }
    }
}
