//! A bounded queue of packets that wait for a word of the control core: of a connection whose record isn't acknowledged, or of a VIP
//! that is being handed over.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How long a packet waits at most. By then its sender has sent it again, or lost interest.
pub(crate) const WAITING_TIME_MAX: Duration = Duration::from_secs(1);

/// What waits.
pub(crate) trait Waiting {
    /// Since when.
    fn since(&self) -> Instant;
}

/// In order of arrival.
#[derive(Debug)]
pub(crate) struct WaitingQueue<T> {
    queue: VecDeque<T>,
    packets_max: usize,
}

/// No room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full;

impl<T: Waiting> WaitingQueue<T> {
    pub(crate) fn new(packets_max: usize) -> Self {
        Self { queue: VecDeque::with_capacity(packets_max), packets_max }
    }

    pub(crate) fn push(&mut self, waiting: T) -> Result<(), Full> {
        if !self.has_room() {
            return Err(Full);
        }
        self.queue.push_back(waiting);
        Ok(())
    }

    pub(crate) fn has_room(&self) -> bool {
        self.queue.len() < self.packets_max
    }

    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Is there one like that?
    pub(crate) fn any(&self, is_that: impl Fn(&T) -> bool) -> bool {
        self.queue.iter().any(is_that)
    }

    /// Takes the oldest. To look at all of them once, take [`len`](Self::len) times and push again what stays.
    pub(crate) fn take(&mut self) -> Option<T> {
        self.queue.pop_front()
    }

    /// Frees those that have waited too long. Returns how many there were.
    pub(crate) fn expire(&mut self, now: Instant) -> usize {
        let before = self.queue.len();
        while self.poll_timeout().is_some_and(|timeout| timeout <= now) {
            self.queue.pop_front();
        }
        before - self.queue.len()
    }

    /// When the oldest will have waited too long.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.queue.front().map(|waiting| waiting.since() + WAITING_TIME_MAX)
    }
}
