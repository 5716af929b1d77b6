//! Packets above the horizon, waiting for a grant (rule R3).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use vipsec_esp::sa::Spi;

use crate::outer::Outer;

/// How long a packet waits for a grant. By then its sender has sent it again, or lost interest.
pub(crate) const PARKED_TIME_MAX: Duration = Duration::from_secs(1);

/// A packet that was authentic, decrypted, and is not yet delivered.
#[derive(Debug)]
pub(crate) struct Parked<B> {
    pub(crate) packet: B,
    pub(crate) spi: Spi,
    pub(crate) number: u64,
    pub(crate) next_header: u8,
    pub(crate) outer: Outer,
    pub(crate) since: Instant,
}

/// A bounded queue, in order of arrival.
#[derive(Debug)]
pub(crate) struct Parking<B> {
    queue: VecDeque<Parked<B>>,
    packets_max: usize,
}

/// No room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full;

impl<B> Parking<B> {
    pub(crate) fn new(packets_max: usize) -> Self {
        Self { queue: VecDeque::with_capacity(packets_max), packets_max }
    }

    pub(crate) fn park(&mut self, parked: Parked<B>) -> Result<(), Full> {
        if self.queue.len() >= self.packets_max {
            return Err(Full);
        }
        self.queue.push_back(parked);
        Ok(())
    }

    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Takes the oldest packet. To look at all of them once, take [`len`](Self::len) times and park again what stays.
    pub(crate) fn take(&mut self) -> Option<Parked<B>> {
        self.queue.pop_front()
    }

    /// Frees the packets of an SA. Returns how many there were.
    pub(crate) fn forget(&mut self, spi: Spi) -> usize {
        let before = self.queue.len();
        self.queue.retain(|parked| parked.spi != spi);
        before - self.queue.len()
    }

    /// Frees the packets that have waited too long. Returns how many there were.
    pub(crate) fn expire(&mut self, now: Instant) -> usize {
        let before = self.queue.len();
        while self.poll_timeout().is_some_and(|timeout| timeout <= now) {
            self.queue.pop_front();
        }
        before - self.queue.len()
    }

    /// When the oldest packet will have waited too long.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.queue.front().map(|parked| parked.since + PARKED_TIME_MAX)
    }
}
