//! Loss, duplicates and order of one flow (RFC 4737), exactly, in memory that grows with the gaps that are open.

use std::collections::VecDeque;

/// Open gaps of a flow at most. The oldest is closed for a new one: what is missing in it stays missing, even if it comes after all.
pub const GAPS_MAX: usize = 1024;

/// Which number a flow begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// 0: we know the sender from its first packet on.
    Zero,
    /// Whichever comes first: we listen in.
    FirstSeen,
}

/// What a packet's number says about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// In order, perhaps after a gap.
    InOrder,
    /// Reordered (RFC 4737 §3): a packet with a higher number came before it. The extent (§4.2) counts the packets that
    /// arrived since the first such one, that one included.
    Late {
        /// In packets, at least 1.
        extent: u64,
    },
    /// It was there before.
    Duplicate,
    /// From a gap that was closed: late or a duplicate, nobody knows.
    Untracked,
}

/// What the numbers of a flow showed so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SequenceCounts {
    /// Packets, each counted once.
    pub received: u64,
    /// Further copies of them.
    pub duplicates: u64,
    /// Those that came late.
    pub reordered: u64,
    /// The largest extent of one, in packets.
    pub extent_max: u64,
    /// Numbers below the highest that have not come.
    pub missing: u64,
    /// Packets of closed gaps (see [`GAPS_MAX`]); their numbers stay in `missing`.
    pub untracked: u64,
}

impl SequenceCounts {
    /// Follows a flow of this sum from one state to the next.
    pub fn follow(&mut self, before: &Self, after: &Self) {
        let step = |sum: u64, before: u64, after: u64| sum.saturating_sub(before).saturating_add(after);
        self.received = step(self.received, before.received, after.received);
        self.duplicates = step(self.duplicates, before.duplicates, after.duplicates);
        self.reordered = step(self.reordered, before.reordered, after.reordered);
        self.missing = step(self.missing, before.missing, after.missing);
        self.untracked = step(self.untracked, before.untracked, after.untracked);
        self.extent_max = self.extent_max.max(after.extent_max);
    }
}

/// Numbers that are missing, without a break.
#[derive(Debug, Clone, Copy)]
struct Gap {
    first: u64,
    last: u64,
    /// Which arrival, counted from 0, skipped them: the first with a higher number than any of them.
    skipped_by: u64,
}

impl Gap {
    const fn len(&self) -> u64 {
        self.last - self.first + 1
    }
}

/// Checks the numbers of one flow.
#[derive(Debug)]
pub struct SequenceChecker {
    begin: Begin,
    highest: Option<u64>,
    /// In the order of their numbers.
    gaps: VecDeque<Gap>,
    /// Numbers up to here are in closed gaps, or came.
    closed: Option<u64>,
    counts: SequenceCounts,
}

impl SequenceChecker {
    /// A flow of which nothing was seen yet.
    pub const fn new(begin: Begin) -> Self {
        let counts =
            SequenceCounts { received: 0, duplicates: 0, reordered: 0, extent_max: 0, missing: 0, untracked: 0 };
        Self { begin, highest: None, gaps: VecDeque::new(), closed: None, counts }
    }

    /// A packet arrived.
    pub fn handle(&mut self, sequence: u64) -> Arrival {
        // RFC 4737 §3: a packet is in order if its number is at least the next expected one, which then moves behind it.
        let expected = match (self.highest, self.begin) {
            (Some(highest), _) if sequence <= highest => return self.handle_old(sequence),
            (Some(highest), _) => highest + 1,
            (None, Begin::Zero) => 0,
            (None, Begin::FirstSeen) => sequence,
        };
        if sequence > expected {
            self.open(Gap { first: expected, last: sequence - 1, skipped_by: self.counts.received });
        }
        self.highest = Some(sequence);
        self.counts.received += 1;
        Arrival::InOrder
    }

    /// The counts.
    pub const fn counts(&self) -> &SequenceCounts {
        &self.counts
    }

    fn open(&mut self, gap: Gap) {
        self.counts.missing = self.counts.missing.saturating_add(gap.len());
        self.gaps.push_back(gap);
        self.keep_within_limit();
    }

    fn keep_within_limit(&mut self) {
        if self.gaps.len() > GAPS_MAX {
            self.closed = self.gaps.pop_front().map(|gap| gap.last);
        }
    }

    /// Its number is not above the highest.
    fn handle_old(&mut self, sequence: u64) -> Arrival {
        let index = self.gaps.partition_point(|gap| gap.last < sequence);
        let Some(gap) = self.gaps.get(index).copied().filter(|gap| gap.first <= sequence) else {
            if self.closed.is_some_and(|closed| sequence <= closed) {
                self.counts.untracked += 1;
                return Arrival::Untracked;
            }
            self.counts.duplicates += 1;
            return Arrival::Duplicate;
        };
        self.fill(index, gap, sequence);
        // RFC 4737 §4.2: e = i - j, for the smallest j whose packet has a higher number. That packet skipped this number.
        let extent = self.counts.received - gap.skipped_by;
        self.counts.received += 1;
        self.counts.missing -= 1;
        self.counts.reordered += 1;
        self.counts.extent_max = self.counts.extent_max.max(extent);
        Arrival::Late { extent }
    }

    /// Takes a number out of a gap.
    fn fill(&mut self, index: usize, gap: Gap, sequence: u64) {
        let before = (gap.first < sequence).then(|| Gap { last: sequence - 1, ..gap });
        let after = (sequence < gap.last).then(|| Gap { first: sequence + 1, ..gap });
        let Some(place) = self.gaps.get_mut(index) else { return };
        match (before, after) {
            (None, None) => {
                self.gaps.remove(index);
            }
            (Some(rest), None) | (None, Some(rest)) => *place = rest,
            (Some(before), Some(after)) => {
                *place = before;
                self.gaps.insert(index + 1, after);
                self.keep_within_limit();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use proptest::prelude::*;

    fn checked(begin: Begin, arrivals: &[u64]) -> SequenceChecker {
        let mut checker = SequenceChecker::new(begin);
        for &sequence in arrivals {
            checker.handle(sequence);
        }
        checker
    }

    #[test]
    fn in_order_is_nothing_special() {
        let checker = checked(Begin::Zero, &[0, 1, 2, 3]);
        assert_eq!(*checker.counts(), SequenceCounts { received: 4, ..SequenceCounts::default() });
    }

    #[test]
    fn what_is_skipped_is_missing() {
        let checker = checked(Begin::Zero, &[2, 3, 7]);
        assert_eq!((checker.counts().received, checker.counts().missing), (3, 2 + 3));
        assert_eq!(checker.counts().reordered, 0, "a gap alone is no reordering");
        assert_eq!(checked(Begin::FirstSeen, &[1000, 1001]).counts().missing, 0);
    }

    #[test]
    fn a_late_packet_is_reordered_and_no_longer_missing() {
        // Packet 4 comes after 8: skipped by the 4th arrival, there at the 8th.
        let mut checker = checked(Begin::FirstSeen, &[1, 2, 3, 5, 6, 7, 8]);
        assert_eq!(checker.handle(4), Arrival::Late { extent: 4 });
        assert_eq!(checker.handle(9), Arrival::InOrder);
        let counts = checker.counts();
        assert_eq!((counts.received, counts.missing, counts.reordered, counts.extent_max), (9, 0, 1, 4));
    }

    #[test]
    fn the_extent_counts_from_the_first_higher_number() {
        // RFC 4737 §4.2 on 1, 4, 3, 2: 3 is behind one higher packet, 2 behind two.
        let mut checker = checked(Begin::FirstSeen, &[1, 4]);
        assert_eq!(checker.handle(3), Arrival::Late { extent: 1 });
        assert_eq!(checker.handle(2), Arrival::Late { extent: 2 });
    }

    #[test]
    fn a_second_copy_is_a_duplicate_whether_the_first_came_in_order_or_late() {
        let mut checker = checked(Begin::Zero, &[0, 1, 3, 2]);
        for sequence in [0, 1, 2, 3] {
            assert_eq!(checker.handle(sequence), Arrival::Duplicate, "{sequence}");
        }
        let counts = checker.counts();
        assert_eq!((counts.received, counts.duplicates, counts.reordered), (4, 4, 1));
    }

    #[test]
    fn the_last_number_there_is_needs_no_next_one() {
        let mut checker = checked(Begin::Zero, &[u64::MAX]);
        assert_eq!(checker.counts().missing, u64::MAX);
        assert_eq!(checker.handle(u64::MAX), Arrival::Duplicate);
        assert_eq!(checker.handle(u64::MAX - 1), Arrival::Late { extent: 1 });
        assert_eq!(checker.handle(0), Arrival::Late { extent: 2 });
    }

    #[test]
    fn more_gaps_than_the_limit_cost_only_what_is_late_beyond_them() {
        let gaps = GAPS_MAX as u64 + 10;
        let odd: Vec<u64> = (0..gaps).map(|n| n * 2 + 1).collect();
        let mut checker = checked(Begin::Zero, &odd);
        assert_eq!(checker.counts().missing, gaps, "one number in each");
        assert_eq!(checker.handle(0), Arrival::Untracked);
        assert_eq!(checker.handle(18), Arrival::Untracked);
        assert_eq!(checker.handle(20), Arrival::Late { extent: gaps - 10 });
        assert_eq!(checker.handle(21), Arrival::Duplicate);
        assert_eq!(checker.counts().missing, gaps - 1);
        assert!(checker.gaps.len() <= GAPS_MAX);
    }

    /// The definitions, by looking at all arrivals before.
    fn slow(arrivals: &[u64]) -> SequenceCounts {
        let mut counts = SequenceCounts::default();
        let mut firsts: Vec<u64> = Vec::new();
        for &sequence in arrivals {
            if firsts.contains(&sequence) {
                counts.duplicates += 1;
                continue;
            }
            if let Some(higher) = firsts.iter().position(|&earlier| earlier > sequence) {
                counts.reordered += 1;
                counts.extent_max = counts.extent_max.max((firsts.len() - higher) as u64);
            }
            firsts.push(sequence);
        }
        counts.received = firsts.len() as u64;
        let all: BTreeSet<u64> = firsts.iter().copied().collect();
        counts.missing = all.last().map_or(0, |highest| highest + 1 - counts.received);
        counts
    }

    proptest! {
        #[test]
        fn counts_what_the_definitions_say(arrivals in proptest::collection::vec(0u64..200, 0..300)) {
            prop_assert_eq!(*checked(Begin::Zero, &arrivals).counts(), slow(&arrivals));
        }
    }
}
