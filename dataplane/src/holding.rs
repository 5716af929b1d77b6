//! Frames of a VIP that is being handed over, until it is known where they belong.

use std::collections::VecDeque;
use std::time::Instant;

use crate::api::PortId;
use crate::waiting::{Full, WAITING_TIME_MAX, Waiting, WaitingQueue};

/// A frame as it came in.
#[derive(Debug)]
pub(crate) struct Held<B> {
    pub(crate) frame: B,
    pub(crate) port: PortId,
    pub(crate) vip: u16,
    pub(crate) since: Instant,
}

impl<B> Waiting for Held<B> {
    fn since(&self) -> Instant {
        self.since
    }
}

/// Frames that are held; and those that go, burst by burst, before anything newer.
#[derive(Debug)]
pub(crate) struct Holding<B> {
    held: WaitingQueue<Held<B>>,
    released: VecDeque<Held<B>>,
}

impl<B> Holding<B> {
    pub(crate) fn new(packets_max: usize) -> Self {
        Self { held: WaitingQueue::new(packets_max), released: VecDeque::with_capacity(packets_max) }
    }

    pub(crate) fn push(&mut self, held: Held<B>) -> Result<(), Full> {
        self.held.push(held)
    }

    /// It is known where the frames of some VIPs belong.
    pub(crate) fn release(&mut self, is_known: impl Fn(u16) -> bool) {
        for _ in 0..self.held.len() {
            let Some(held) = self.held.take() else { return };
            if is_known(held.vip) {
                self.released.push_back(held);
            } else {
                // It had room a moment ago.
                let _ = self.held.push(held);
            }
        }
    }

    pub(crate) fn is_releasing(&self) -> bool {
        !self.released.is_empty()
    }

    /// The next one that goes.
    pub(crate) fn take_released(&mut self) -> Option<Held<B>> {
        self.released.pop_front()
    }

    /// Frees those that have waited too long. Returns how many there were.
    pub(crate) fn expire(&mut self, now: Instant) -> usize {
        let before = self.released.len();
        while self.released.front().is_some_and(|oldest| oldest.since + WAITING_TIME_MAX <= now) {
            self.released.pop_front();
        }
        before - self.released.len() + self.held.expire(now)
    }

    /// When the oldest will have waited too long.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let released = self.released.front().map(|oldest| oldest.since + WAITING_TIME_MAX);
        released.into_iter().chain(self.held.poll_timeout()).min()
    }
}
