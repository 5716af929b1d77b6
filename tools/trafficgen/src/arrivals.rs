//! What arrived of a stream: per flow its numbers and silences, over all flows its latencies and its course in time.

use std::time::Duration;

use serde::Serialize;

use crate::header::Header;
use crate::latency::{Latency, LatencyReport};
use crate::sequence::{Begin, SequenceChecker, SequenceCounts};
use crate::silence::{Blocked, Silence};
use crate::time::Stamp;
use crate::timeline::{Timeline, TimelineReport};

/// Flows of a stream at most.
pub const FLOWS_MAX: usize = 1 << 20;

/// Flows that a report names: those that were blocked longest.
pub const FLOWS_NAMED_MAX: usize = 20;

#[derive(Debug)]
struct FlowArrivals {
    checker: SequenceChecker,
    /// `None`: a flow that we listen in to, and that hasn't begun.
    silence: Option<Silence>,
}

/// The packets of one run of one sender on one port.
#[derive(Debug)]
pub struct Arrivals {
    begin: Begin,
    began: Stamp,
    /// The number of the first flow.
    base: u32,
    flows: Vec<FlowArrivals>,
    packets: u64,
    bytes: u64,
    /// Over all flows.
    counts: SequenceCounts,
    silence: Option<Silence>,
    first: Option<Stamp>,
    last: Option<Stamp>,
    latency: Latency,
    timeline: Timeline,
}

/// Which packets are expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// All of these flows, from number 0 and from the beginning on.
    Flows {
        /// The number of the first.
        base: u32,
        /// How many.
        count: u32,
    },
    /// Whatever another sender sends.
    Anything,
}

/// What left of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// Packets.
    pub packets: u64,
    /// When the last of them left.
    pub last: Stamp,
}

/// A packet of a flow that is not expected, or of one too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnknownFlow;

impl Arrivals {
    /// Nothing has arrived yet; times count from `began`.
    pub fn new(expected: Expected, began: Stamp, bucket: Duration) -> Self {
        let (begin, base, count, silence) = match expected {
            Expected::Flows { base, count } => (Begin::Zero, base, count, Some(Silence::since(began))),
            Expected::Anything => (Begin::FirstSeen, 0, 0, None),
        };
        let flow = || FlowArrivals { checker: SequenceChecker::new(begin), silence };
        Self {
            begin,
            began,
            base,
            flows: std::iter::repeat_with(flow).take(usize::try_from(count).unwrap_or(0)).collect(),
            packets: 0,
            bytes: 0,
            counts: SequenceCounts::default(),
            silence,
            first: None,
            last: None,
            latency: Latency::default(),
            timeline: Timeline::new(began, bucket),
        }
    }

    /// A packet arrived in a frame of `frame_len` bytes.
    pub fn handle(&mut self, now: Stamp, header: &Header, frame_len: usize) -> Result<(), UnknownFlow> {
        let index =
            header.flow.checked_sub(self.base).and_then(|index| usize::try_from(index).ok()).ok_or(UnknownFlow)?;
        if index >= self.flows.len() {
            if self.begin == Begin::Zero || index >= FLOWS_MAX {
                return Err(UnknownFlow);
            }
            let listened = || FlowArrivals { checker: SequenceChecker::new(Begin::FirstSeen), silence: None };
            self.flows.resize_with(index + 1, listened);
        }
        let flow = self.flows.get_mut(index).ok_or(UnknownFlow)?;
        let before = *flow.checker.counts();
        flow.checker.handle(header.sequence);
        self.counts.follow(&before, flow.checker.counts());
        for silence in [&mut flow.silence, &mut self.silence] {
            silence.get_or_insert(Silence::since(now)).handle(now);
        }
        self.packets += 1;
        self.bytes += frame_len as u64;
        self.first.get_or_insert(now);
        self.last = Some(now);
        self.latency.record(header.latency(now));
        self.timeline.record(now, 1);
        Ok(())
    }

    /// Packets so far, copies included, and their bytes.
    pub fn packets_and_bytes(&self) -> (u64, u64) {
        (self.packets, self.bytes)
    }

    /// The sums over all flows.
    pub const fn counts(&self) -> &SequenceCounts {
        &self.counts
    }

    /// The whole story. With `sent` the loss is exact, and a flow that stopped coming counts as blocked from then on; of a sender
    /// elsewhere neither is known.
    pub fn report(&self, sent: Option<Sent>) -> ArrivalsReport {
        let counts = self.counts;
        let lost = sent.map_or(counts.missing, |sent| sent.packets.saturating_sub(counts.received));
        let end = sent.map(|sent| sent.last).or(self.last).unwrap_or(self.began);
        let flows = self.flows.iter().enumerate().filter_map(|(index, flow)| {
            let end = if sent.is_some() { end } else { self.began };
            let blocked = flow.silence?.longest_at(end);
            Some((index, flow.checker.counts(), blocked))
        });
        let mut flows: Vec<_> = flows.collect();
        flows.sort_by_key(|(index, _, blocked)| (std::cmp::Reverse(blocked.duration), *index));
        let median = flows.get(flows.len() / 2).map(|(_, _, blocked)| millis(blocked.duration));
        let named = flows.iter().take(FLOWS_NAMED_MAX).map(|(index, counts, blocked)| FlowReport {
            flow: self.base.saturating_add(u32::try_from(*index).unwrap_or(u32::MAX)),
            received: counts.received,
            missing: counts.missing,
            duplicates: counts.duplicates,
            reordered: counts.reordered,
            blocked: self.blocked(*blocked),
        });
        ArrivalsReport {
            packets: self.packets,
            bytes: self.bytes,
            received: counts.received,
            lost,
            duplicates: counts.duplicates,
            reordered: counts.reordered,
            reorder_extent_max: counts.extent_max,
            untracked: counts.untracked,
            rate_pps: rate(self.packets, self.first, self.last),
            latency: self.latency.report(),
            blocked: self.silence.map(|silence| self.blocked(silence.longest_at(end))),
            flows_seen: self.flows.iter().filter(|flow| flow.checker.counts().received > 0).count() as u64,
            flow_blocked_ms_median: median,
            flows_blocked_longest: named.collect(),
            timeline: self.timeline.report(),
        }
    }

    fn blocked(&self, blocked: Blocked) -> BlockedReport {
        BlockedReport { from_ms: millis(blocked.from.since(self.began)), duration_ms: millis(blocked.duration) }
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Packets per second between the first and the last.
pub(crate) fn rate(packets: u64, first: Option<Stamp>, last: Option<Stamp>) -> Option<f64> {
    let seconds = last?.since(first?).as_secs_f64();
    (seconds > 0.0 && packets > 1).then(|| (packets - 1) as f64 / seconds)
}

/// What arrived of a stream.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ArrivalsReport {
    /// Packets, copies included.
    pub packets: u64,
    /// Bytes of their frames, as received.
    pub bytes: u64,
    /// Packets, each counted once.
    pub received: u64,
    /// Packets that left and didn't arrive; of a sender elsewhere: those missing before its last packet.
    pub lost: u64,
    /// Further copies.
    pub duplicates: u64,
    /// Late packets (RFC 4737 §3).
    pub reordered: u64,
    /// The largest reordering extent, in packets (RFC 4737 §4.2).
    pub reorder_extent_max: u64,
    /// Packets from so long ago that nobody knows whether they were late or copies.
    pub untracked: u64,
    /// Packets per second between the first and the last.
    pub rate_pps: Option<f64>,
    /// How long they were on their way. Only for a sender on this machine: the clocks have to be one.
    pub latency: Option<LatencyReport>,
    /// The longest time without a packet of any flow.
    pub blocked: Option<BlockedReport>,
    /// Flows of which a packet came.
    pub flows_seen: u64,
    /// The median over all flows of each one's longest time without a packet.
    pub flow_blocked_ms_median: Option<f64>,
    /// The flows that were blocked longest, the worst first.
    pub flows_blocked_longest: Vec<FlowReport>,
    /// Packets over time.
    pub timeline: TimelineReport,
}

/// A time without a packet.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct BlockedReport {
    /// When the packet before came, since the run began.
    pub from_ms: f64,
    /// Until the next one, or the end.
    pub duration_ms: f64,
}

/// One flow.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct FlowReport {
    /// Its number.
    pub flow: u32,
    /// Packets, each counted once.
    pub received: u64,
    /// Packets missing before its last one.
    pub missing: u64,
    /// Further copies.
    pub duplicates: u64,
    /// Late packets.
    pub reordered: u64,
    /// Its longest time without a packet.
    pub blocked: BlockedReport,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::header::Run;

    const fn ms(millis: u64) -> Stamp {
        Stamp::from_nanos(1_000_000_000 + millis * 1_000_000)
    }

    fn arrive(arrivals: &mut Arrivals, flow: u32, sequence: u64, sent: u64, now: u64) -> Result<(), UnknownFlow> {
        arrivals.handle(ms(now), &Header::new(Run(1), flow, sequence, ms(sent)), 64)
    }

    fn expected(base: u32, count: u32) -> Arrivals {
        Arrivals::new(Expected::Flows { base, count }, ms(0), Duration::from_millis(10))
    }

    #[test]
    fn loss_is_what_left_less_what_came() {
        let mut arrivals = expected(10, 2);
        for (flow, sequence) in [(10, 0), (11, 0), (10, 2), (11, 1), (11, 1)] {
            arrive(&mut arrivals, flow, sequence, 0, 1).unwrap();
        }
        assert_eq!(arrive(&mut arrivals, 12, 0, 0, 1), Err(UnknownFlow));
        assert_eq!(arrive(&mut arrivals, 9, 0, 0, 1), Err(UnknownFlow));
        // Of 8 packets that left, flow 10 lost number 1, and each flow some at its end, which only the sender knows.
        let report = arrivals.report(Some(Sent { packets: 8, last: ms(10) }));
        assert_eq!((report.packets, report.received, report.lost, report.duplicates), (5, 4, 4, 1));
        assert_eq!(arrivals.report(None).lost, 1);
        assert_eq!(report.bytes, 5 * 64);
    }

    #[test]
    fn the_flow_that_was_blocked_longest_comes_first() {
        let mut arrivals = expected(0, 2);
        for at in 0..10 {
            arrive(&mut arrivals, 0, at, at * 10, at * 10 + 1).unwrap();
            if !(3..8).contains(&at) {
                arrive(&mut arrivals, 1, at, at * 10, at * 10 + 2).unwrap();
            }
        }
        let report = arrivals.report(Some(Sent { packets: 20, last: ms(100) }));
        let worst = report.flows_blocked_longest[0];
        assert_eq!((worst.flow, worst.received, worst.missing), (1, 5, 5));
        assert_eq!((worst.blocked.from_ms, worst.blocked.duration_ms), (22.0, 60.0));
        assert_eq!(report.flows_blocked_longest[1].blocked.duration_ms, 10.0);
        assert_eq!(report.blocked.unwrap().duration_ms, 10.0, "something always came");
        assert_eq!(report.timeline.packets, [2, 2, 2, 1, 1, 1, 1, 1, 2, 2]);
    }

    #[test]
    fn a_flow_that_never_came_is_blocked_all_the_time() {
        let mut arrivals = expected(0, 2);
        arrive(&mut arrivals, 0, 0, 0, 1).unwrap();
        let report = arrivals.report(Some(Sent { packets: 2, last: ms(50) }));
        assert_eq!((report.flows_seen, report.lost), (1, 1));
        assert_eq!(
            (report.flows_blocked_longest[0].flow, report.flows_blocked_longest[0].blocked.duration_ms),
            (1, 50.0)
        );
    }

    #[test]
    fn another_senders_flows_are_joined_in_the_middle() {
        let mut arrivals = Arrivals::new(Expected::Anything, ms(0), Duration::from_millis(10));
        for sequence in [1000, 1001, 1003] {
            arrive(&mut arrivals, 5, sequence, 40, 50 + sequence - 1000).unwrap();
        }
        assert_eq!(arrive(&mut arrivals, u32::MAX, 0, 40, 50), Err(UnknownFlow), "one flow too many");
        let report = arrivals.report(None);
        assert_eq!((report.received, report.lost, report.flows_seen), (3, 1, 1));
        assert_eq!(report.flows_blocked_longest[0].blocked.duration_ms, 2.0, "what was before it began doesn't count");
        assert_eq!(report.rate_pps.map(f64::round), Some(667.0));
        let latency = report.latency.unwrap();
        assert!((9990.0..=10_010.0).contains(&latency.min_us), "{latency:?}");
    }
}
