//! Frames of a VIP that is being handed over, until it is known where they belong.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::api::PortId;

/// How long a frame is held at most. By then its sender has sent it again, or lost interest.
pub(crate) const HELD_TIME_MAX: Duration = Duration::from_secs(1);

/// A frame as it came in.
#[derive(Debug)]
pub(crate) struct Held<B> {
    pub(crate) frame: B,
    pub(crate) port: PortId,
    pub(crate) vip: u16,
    pub(crate) since: Instant,
}

/// A bounded queue, in order of arrival.
#[derive(Debug)]
pub(crate) struct Holding<B> {
    queue: VecDeque<Held<B>>,
    packets_max: usize,
}

/// No room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full;

impl<B> Holding<B> {
    pub(crate) fn new(packets_max: usize) -> Self {
        Self { queue: VecDeque::with_capacity(packets_max), packets_max }
    }

    pub(crate) fn hold(&mut self, held: Held<B>) -> Result<(), Full> {
        if self.queue.len() >= self.packets_max {
            return Err(Full);
        }
        self.queue.push_back(held);
        Ok(())
    }

    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Takes the oldest frame. To look at all of them once, take [`len`](Self::len) times and hold again what stays.
    pub(crate) fn take(&mut self) -> Option<Held<B>> {
        self.queue.pop_front()
    }

    /// Frees the frames that were held too long. Returns how many there were.
    pub(crate) fn expire(&mut self, now: Instant) -> usize {
        let before = self.queue.len();
        while self.poll_timeout().is_some_and(|timeout| timeout <= now) {
            self.queue.pop_front();
        }
        before - self.queue.len()
    }

    /// When the oldest frame will have been held too long.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.queue.front().map(|held| held.since + HELD_TIME_MAX)
    }
}
