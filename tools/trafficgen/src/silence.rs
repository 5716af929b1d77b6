//! How long nothing came: what a failover costs a flow.

use std::time::Duration;

use crate::time::Stamp;

/// A time without a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Blocked {
    /// When it began: the arrival of the packet before.
    pub from: Stamp,
    /// How long it was.
    pub duration: Duration,
}

/// Remembers the longest time without a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Silence {
    last: Stamp,
    longest: Blocked,
}

impl Silence {
    /// Packets are expected from now on.
    pub const fn since(now: Stamp) -> Self {
        Self { last: now, longest: Blocked { from: now, duration: Duration::ZERO } }
    }

    /// A packet came.
    pub fn handle(&mut self, now: Stamp) {
        self.longest = self.longest_at(now);
        self.last = self.last.max(now);
    }

    /// The longest so far, if the one that goes on now ended at `end`: the time of the last packet that could have come.
    pub fn longest_at(&self, end: Stamp) -> Blocked {
        let current = Blocked { from: self.last, duration: end.since(self.last) };
        if current.duration > self.longest.duration { current } else { self.longest }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Stamp {
        Stamp::from_nanos(millis * 1_000_000)
    }

    fn blocked(from: u64, millis: u64) -> Blocked {
        Blocked { from: ms(from), duration: Duration::from_millis(millis) }
    }

    #[test]
    fn the_longest_silence_is_between_two_packets() {
        let mut silence = Silence::since(ms(0));
        for at in [1, 2, 3, 63, 64, 65] {
            silence.handle(ms(at));
        }
        assert_eq!(silence.longest_at(ms(66)), blocked(3, 60));
    }

    #[test]
    fn a_flow_that_never_came_back_is_blocked_until_the_end() {
        let mut silence = Silence::since(ms(0));
        silence.handle(ms(10));
        assert_eq!(silence.longest_at(ms(500)), blocked(10, 490));
    }

    #[test]
    fn a_flow_of_which_nothing_came_is_blocked_from_the_start() {
        assert_eq!(Silence::since(ms(5)).longest_at(ms(25)), blocked(5, 20));
    }
}
