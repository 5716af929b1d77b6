//! Frames that wait to leave by a port.

use std::collections::VecDeque;

use vipsec_wire::buffer::Burst;

/// As what a frame is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SentAs {
    /// As what acts for VIPs: not past the deadline (rule R5).
    Owner,
    /// As a host like others on the inside network, from its own address: at any time.
    Host,
}

/// The frames of one port.
#[derive(Debug)]
pub(crate) struct TransmitQueue<B> {
    of_owner: VecDeque<B>,
    of_host: VecDeque<B>,
    /// How many of those that were taken last were a host's.
    of_host_taken: usize,
    packets_max: usize,
}

/// As many frames wait as may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full;

impl<B> TransmitQueue<B> {
    /// For so many frames of either kind.
    pub(crate) fn new(packets_max: usize) -> Self {
        let queue = || VecDeque::with_capacity(packets_max);
        Self { of_owner: queue(), of_host: queue(), of_host_taken: 0, packets_max }
    }

    #[inline]
    pub(crate) fn push(&mut self, sent_as: SentAs, frame: B) -> Result<(), Full> {
        let queue = match sent_as {
            SentAs::Owner => &mut self.of_owner,
            SentAs::Host => &mut self.of_host,
        };
        if queue.len() >= self.packets_max {
            return Err(Full);
        }
        queue.push_back(frame);
        Ok(())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.of_owner.is_empty() && self.of_host.is_empty()
    }

    /// Moves as many into a burst as it has room for.
    pub(crate) fn take(&mut self, burst: &mut Burst<B>) {
        let count = self.of_owner.len().min(burst.remaining_capacity());
        burst.extend(self.of_owner.drain(..count));
        self.of_host_taken = self.of_host.len().min(burst.remaining_capacity());
        burst.extend(self.of_host.drain(..self.of_host_taken));
    }

    /// Takes back what is left of the last burst: it leaves before anything newer.
    pub(crate) fn put_back(&mut self, burst: &mut Burst<B>) {
        let of_owner = burst.len().saturating_sub(self.of_host_taken);
        burst.drain(of_owner..).rev().for_each(|frame| self.of_host.push_front(frame));
        burst.drain(..).rev().for_each(|frame| self.of_owner.push_front(frame));
    }

    /// Drops the owner's frames but those that stay. Returns how many went.
    pub(crate) fn retain_of_owner(&mut self, stays: impl FnMut(&B) -> bool) -> usize {
        let before = self.of_owner.len();
        self.of_owner.retain(stays);
        before - self.of_owner.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_sent_leaves_first_and_stays_what_it_was() {
        let mut queue = TransmitQueue::new(4);
        for n in 1..=4 {
            queue.push(if n < 3 { SentAs::Owner } else { SentAs::Host }, n).unwrap();
        }
        let mut burst = Burst::new();
        queue.take(&mut burst);
        assert_eq!(burst.as_slice(), [1, 2, 3, 4]);
        burst.remove(0);
        queue.put_back(&mut burst);
        assert!(burst.is_empty());
        assert_eq!(queue.retain_of_owner(|_| false), 1);
        queue.push(SentAs::Host, 5).unwrap();
        queue.take(&mut burst);
        assert_eq!(burst.as_slice(), [3, 4, 5]);
        assert!(queue.is_empty());
    }

    #[test]
    fn each_kind_has_its_limit() {
        let mut queue = TransmitQueue::new(1);
        assert_eq!(queue.push(SentAs::Owner, 1), Ok(()));
        assert_eq!(queue.push(SentAs::Owner, 2), Err(Full));
        assert_eq!(queue.push(SentAs::Host, 3), Ok(()));
        assert_eq!(queue.push(SentAs::Host, 4), Err(Full));
    }
}
