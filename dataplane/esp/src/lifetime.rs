//! Counting an SA's packets and bytes down to its soft and hard limits.

use crate::sa::Lifetime;

/// What an SA's lifetime asks for (RFC 4301 §4.4.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LifetimeDue {
    /// A replacement: "a soft lifetime that warns the implementation to initiate action such as setting up a replacement SA".
    Soft,
    /// The end: "a hard lifetime when the current SA ends and is destroyed". It carries nothing more.
    Hard,
}

/// Packets and bytes. Negative where the last packet went beyond.
#[derive(Debug, Clone, Copy)]
struct Volume {
    packets: i64,
    bytes: i64,
}

/// What an SA may carry until its next limit: the part that every packet touches. [`Limits`] is the rest.
#[derive(Debug)]
pub(crate) struct Allowance(Volume);

/// What follows when an [`Allowance`] is used up.
#[derive(Debug)]
pub(crate) struct Limits {
    /// From the soft limit to the hard one, as long as the soft one is ahead.
    after_soft: Option<Volume>,
    due: Option<LifetimeDue>,
}

impl Allowance {
    /// What `lifetime` leaves to an SA that has carried that many packets.
    pub(crate) fn new(lifetime: &Lifetime, carried_packets: u64) -> (Self, Limits) {
        // Nobody gets to 2^63 of either: there, no limit begins.
        let signed = |count: u64| count.min(i64::MAX as u64) as i64;
        let soft_packets = lifetime.soft_packets.min(lifetime.hard_packets);
        let soft_bytes = lifetime.soft_bytes.min(lifetime.hard_bytes);
        let mut allowance = Self(Volume {
            packets: signed(soft_packets).saturating_sub(signed(carried_packets)),
            bytes: signed(soft_bytes),
        });
        let after_soft = Volume {
            packets: signed(lifetime.hard_packets - soft_packets),
            bytes: signed(lifetime.hard_bytes - soft_bytes),
        };
        let mut limits = Limits { after_soft: Some(after_soft), due: None };
        if allowance.is_used_up() {
            limits.handle_used_up(&mut allowance);
        }
        (allowance, limits)
    }

    /// Is nothing left? Once [`Limits::handle_used_up`] has been called, that is the end.
    #[inline(always)]
    pub(crate) fn is_used_up(&self) -> bool {
        self.0.packets.min(self.0.bytes) <= 0
    }

    /// A packet was carried. True if that used the allowance up.
    #[inline(always)]
    #[must_use]
    pub(crate) fn spend(&mut self, bytes: usize) -> bool {
        // Far below zero nothing goes on, so that neither gets near the end of its type.
        self.0.packets = self.0.packets.wrapping_sub(1);
        self.0.bytes = self.0.bytes.wrapping_sub(bytes as i64);
        self.is_used_up()
    }
}

impl Limits {
    /// The allowance is used up: goes on to the hard limit, or ends the SA.
    #[cold]
    pub(crate) fn handle_used_up(&mut self, allowance: &mut Allowance) {
        if let Some(more) = self.after_soft.take() {
            self.due = Some(LifetimeDue::Soft);
            allowance.0.packets = allowance.0.packets.saturating_add(more.packets);
            allowance.0.bytes = allowance.0.bytes.saturating_add(more.bytes);
        }
        if allowance.is_used_up() {
            self.due = Some(LifetimeDue::Hard);
        }
    }

    /// What is due; each limit is told once.
    pub(crate) fn take_due(&mut self) -> Option<LifetimeDue> {
        self.due.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Carries packets of 100 bytes until the end. Returns after which packet each limit was told.
    fn run(lifetime: Lifetime, carried: u64) -> (Option<u64>, Option<u64>) {
        let (mut allowance, mut limits) = Allowance::new(&lifetime, carried);
        let (mut soft, mut hard) = (None, None);
        for packet in 0..1000 {
            match limits.take_due() {
                Some(LifetimeDue::Soft) => assert_eq!(soft.replace(packet), None, "told once"),
                Some(LifetimeDue::Hard) => assert_eq!(hard.replace(packet), None, "told once"),
                None => (),
            }
            assert_eq!(allowance.is_used_up(), hard.is_some());
            if allowance.is_used_up() {
                continue;
            }
            if allowance.spend(100) {
                limits.handle_used_up(&mut allowance);
            }
        }
        (soft, hard)
    }

    #[test]
    fn each_limit_is_told_when_it_is_reached() {
        assert_eq!(run(Lifetime::NONE, 0), (None, None));
        assert_eq!(run(Lifetime { soft_packets: 5, hard_packets: 8, ..Lifetime::NONE }, 0), (Some(5), Some(8)));
        assert_eq!(run(Lifetime { soft_bytes: 500, hard_bytes: 801, ..Lifetime::NONE }, 0), (Some(5), Some(9)));
        assert_eq!(run(Lifetime { soft_bytes: 450, hard_bytes: 550, ..Lifetime::NONE }, 0), (Some(5), Some(6)));
        assert_eq!(run(Lifetime { soft_packets: 7, ..Lifetime::NONE }, 0), (Some(7), None));
    }

    #[test]
    fn the_first_limit_to_be_reached_takes_precedence() {
        // RFC 4301 §4.4.2.1: "a simultaneous use of both with the first lifetime to expire taking precedence".
        let both = Lifetime { soft_packets: 5, soft_bytes: 300, hard_packets: 100, hard_bytes: 900 };
        assert_eq!(run(both, 0), (Some(3), Some(9)));
        let both = Lifetime { soft_packets: 3, soft_bytes: 800, hard_packets: 6, hard_bytes: 900 };
        assert_eq!(run(both, 0), (Some(3), Some(6)));
    }

    #[test]
    fn a_hard_limit_below_the_soft_one_ends_the_sa() {
        assert_eq!(run(Lifetime { hard_packets: 4, ..Lifetime::NONE }, 0), (None, Some(4)));
        assert_eq!(run(Lifetime { soft_packets: 9, hard_packets: 4, ..Lifetime::NONE }, 0), (None, Some(4)));
    }

    #[test]
    fn packets_of_a_previous_owner_count() {
        let lifetime = Lifetime { soft_packets: 10, hard_packets: 20, ..Lifetime::NONE };
        assert_eq!(run(lifetime, 7), (Some(3), Some(13)));
        assert_eq!(run(lifetime, 15), (Some(0), Some(5)));
        assert_eq!(run(lifetime, 20), (None, Some(0)));
        assert_eq!(run(lifetime, u64::MAX), (None, Some(0)));
        assert_eq!(run(Lifetime::NONE, 1 << 40), (None, None));
    }
}
