//! The time up to which a worker may act (rule R5).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A deadline that the control core renews and every worker checks before each burst.
///
/// Cloning shares it. It holds nanoseconds since its creation, so that one word is enough.
#[derive(Debug, Clone)]
pub struct Deadline {
    origin: Instant,
    nanos: Arc<AtomicU64>,
}

impl Deadline {
    /// A deadline that never passes: for an appliance without peers.
    pub fn never(now: Instant) -> Self {
        Self { origin: now, nanos: Arc::new(AtomicU64::new(u64::MAX)) }
    }

    /// A deadline that passes at `until`.
    pub fn at(now: Instant, until: Instant) -> Self {
        let deadline = Self::never(now);
        deadline.renew(until);
        deadline
    }

    /// When it was made: no time that anybody speaks of is earlier.
    pub(crate) const fn origin(&self) -> Instant {
        self.origin
    }

    /// Moves the deadline.
    pub fn renew(&self, until: Instant) {
        let nanos = u64::try_from(until.saturating_duration_since(self.origin).as_nanos()).unwrap_or(u64::MAX);
        self.nanos.store(nanos, Ordering::Release);
    }

    /// Sets the deadline to the beginning of time: nobody acts until it is renewed.
    pub fn expire(&self) {
        self.nanos.store(0, Ordering::Release);
    }

    /// Takes the deadline away.
    pub fn lift(&self) {
        self.nanos.store(u64::MAX, Ordering::Release);
    }

    /// Has it passed?
    pub fn has_passed(&self, now: Instant) -> bool {
        let nanos = self.nanos.load(Ordering::Acquire);
        nanos != u64::MAX && now.saturating_duration_since(self.origin) >= Duration::from_nanos(nanos)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_when_not_renewed() {
        let start = Instant::now();
        let deadline = Deadline::at(start, start + Duration::from_millis(30));
        assert!(!deadline.has_passed(start + Duration::from_millis(29)));
        assert!(deadline.has_passed(start + Duration::from_millis(30)));
        deadline.clone().renew(start + Duration::from_millis(60));
        assert!(!deadline.has_passed(start + Duration::from_millis(59)));
        deadline.expire();
        assert!(deadline.has_passed(start));
        deadline.lift();
        assert!(!deadline.has_passed(start + Duration::from_secs(1 << 30)));
    }
}
