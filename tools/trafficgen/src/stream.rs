//! Streams: many flows in one direction, sent in turn.

use std::time::Duration;

use thiserror::Error;
use vipsec_esp::error::EspError;
use vipsec_wire::buffer::NoRoom;
use vipsec_wire::ethernet;

use crate::arrivals::FLOWS_MAX;
use crate::header::{Header, Run};
use crate::pacing::Pacer;
use crate::packet::{BuildError, Tuple};
use crate::size::Sizes;
use crate::time::{Stamp, nanos};
use crate::timeline::Timeline;
use crate::tunnel::Tunnels;

/// One flow of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowPlan {
    /// Its five-tuple, as the hosts at its ends see it.
    pub tuple: Tuple,
    /// The tunnel that it is sent through, by its place in [`Tunnels`].
    pub tunnel: Option<usize>,
    /// Its next hop, by its place in the port's [`LinkPlan`](crate::link::LinkPlan).
    pub next_hop: usize,
}

/// Where a stream's packets come from.
#[derive(Debug, Clone)]
pub enum Source {
    /// They are made: each of these flows gets a packet in turn.
    Flows {
        /// The flows.
        flows: Vec<FlowPlan>,
        /// The lengths of their frames, in bytes without FCS; in clear, where a tunnel makes them longer.
        sizes: Sizes,
    },
    /// They are replayed: whoever drives the generator brings them ([`Generator::handle_capture`]).
    ///
    /// [`Generator::handle_capture`]: crate::generator::Generator::handle_capture
    Capture {
        /// Their MAC addresses become ours and this next hop's.
        next_hop: Option<usize>,
    },
}

impl Source {
    /// The flows that are made.
    pub fn flows(&self) -> &[FlowPlan] {
        match self {
            Self::Flows { flows, .. } => flows,
            Self::Capture { .. } => &[],
        }
    }
}

/// Packets in one direction.
#[derive(Debug, Clone)]
pub struct StreamPlan {
    /// What reports call it.
    pub name: String,
    /// The port that it leaves by.
    pub tx_port: usize,
    /// The port that it shall arrive at; `None`: nobody looks.
    pub rx_port: Option<usize>,
    /// Its packets.
    pub source: Source,
}

/// How much to send, and how long to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Load {
    /// Packets per second of each stream; `None`: as fast as its port takes them.
    pub rate_pps: Option<u64>,
    /// Packets of each stream; `None`: no limit.
    pub count: Option<u64>,
    /// How long to send; `None`: no limit.
    pub duration: Option<Duration>,
    /// Packets that leave together at most.
    pub burst: usize,
    /// How much of the past a paced stream may catch up with when it is late.
    pub catch_up: Duration,
    /// How long to wait for stragglers afterwards.
    pub drain: Duration,
    /// Width of the buckets of time lines.
    pub bucket: Duration,
}

impl Load {
    /// How many packets of a stream this asks for; `None`: no limit.
    pub fn wanted(&self) -> Option<u64> {
        let in_time = self.rate_pps.zip(self.duration).map(|(rate, duration)| {
            let packets = u128::from(rate) * u128::from(nanos(duration)) / 1_000_000_000;
            u64::try_from(packets).unwrap_or(u64::MAX)
        });
        match (self.count, in_time) {
            (Some(count), Some(in_time)) => Some(count.min(in_time)),
            (count, in_time) => count.or(in_time),
        }
    }
}

/// Why a stream ended before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum StreamError {
    /// A packet can't be built as planned.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// A packet can't be sealed; for instance because the SA's numbers are used up.
    #[error(transparent)]
    Seal(#[from] EspError),
    /// The buffers are too small.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    /// A flow has no next hop.
    #[error("a flow's next hop is not resolved")]
    NoNextHop,
}

/// A stream at work.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) plan: StreamPlan,
    /// The number of its first flow.
    pub(crate) base: u32,
    /// `None`: unpaced.
    pub(crate) pacer: Option<Pacer>,
    /// Packets to build; `None`: no limit.
    wanted: Option<u64>,
    burst: usize,
    /// Packets built, sent or about to be.
    pub(crate) built: u64,
    /// By flow: its next number.
    next_sequence: Vec<u64>,
    pub(crate) sent: u64,
    pub(crate) sent_bytes: u64,
    pub(crate) first_sent: Option<Stamp>,
    pub(crate) last_sent: Option<Stamp>,
    pub(crate) timeline: Timeline,
    pub(crate) error: Option<StreamError>,
    /// A capture has no more packets.
    pub(crate) capture_ended: bool,
}

/// The next packet of a stream.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Next {
    pub(crate) flow: FlowPlan,
    pub(crate) header: Header,
    /// Bytes from the IP header on.
    pub(crate) packet_len: usize,
}

impl Stream {
    pub(crate) fn new(plan: StreamPlan, base: u32) -> Self {
        Self {
            base,
            pacer: None,
            wanted: Some(0),
            burst: 0,
            built: 0,
            next_sequence: Vec::new(),
            sent: 0,
            sent_bytes: 0,
            first_sent: None,
            last_sent: None,
            timeline: Timeline::new(Stamp::default(), Duration::ZERO),
            error: None,
            capture_ended: false,
            plan,
        }
    }

    /// From now on it sends what `load` says.
    pub(crate) fn begin(&mut self, now: Stamp, load: &Load) {
        let burst = load.burst.max(1);
        self.pacer = load.rate_pps.map(|rate| Pacer::new(rate, burst, load.catch_up, now));
        self.wanted = load.wanted();
        self.burst = burst;
        self.built = 0;
        self.next_sequence.clear();
        self.next_sequence.resize(self.plan.source.flows().len(), 0);
        self.capture_ended = false;
        (self.sent, self.sent_bytes) = (0, 0);
        (self.first_sent, self.last_sent) = (None, None);
        self.timeline = Timeline::new(now, load.bucket);
        self.error = None;
    }

    /// Packets that may be built now.
    pub(crate) fn due(&mut self, now: Stamp) -> usize {
        if self.error.is_some() {
            return 0;
        }
        let left = self.wanted.map_or(u64::MAX, |wanted| wanted.saturating_sub(self.built));
        let due = self.pacer.as_mut().map_or(self.burst, |pacer| pacer.due(now));
        due.min(usize::try_from(left).unwrap_or(usize::MAX))
    }

    /// When the next packet is due; `None`: never.
    pub(crate) fn next_due(&self, now: Stamp) -> Option<Stamp> {
        if self.is_finished() {
            return None;
        }
        self.pacer.as_ref().map_or(Some(now), Pacer::next_due)
    }

    /// Has it built all that it has to?
    pub(crate) fn is_finished(&self) -> bool {
        self.error.is_some() || self.capture_ended || self.wanted.is_some_and(|wanted| self.built >= wanted)
    }

    /// What the next packet is; [`handle_built`](Self::handle_built) says that there is one.
    pub(crate) fn next(&self, now: Stamp, run: Run) -> Option<Next> {
        let Source::Flows { flows, sizes } = &self.plan.source else { return None };
        let count = flows.len() as u64;
        let index = usize::try_from(self.built.checked_rem(count)?).ok()?;
        let flow = *flows.get(index)?;
        let sequence = *self.next_sequence.get(index)?;
        let number = self.base.saturating_add(u32::try_from(index).ok()?);
        let frame_len = usize::from(sizes.len_of(self.built, count));
        let packet_len = frame_len.saturating_sub(ethernet::HEADER_LEN);
        Some(Next { flow, header: Header::new(run, number, sequence, now), packet_len })
    }

    /// The next packet was built.
    pub(crate) fn handle_built(&mut self, next: &Next) {
        self.handle_taken();
        let index = next.header.flow.checked_sub(self.base).and_then(|index| usize::try_from(index).ok());
        if let Some(sequence) = index.and_then(|index| self.next_sequence.get_mut(index)) {
            *sequence += 1;
        }
    }

    /// A packet, built or from a capture, is about to leave.
    pub(crate) fn handle_taken(&mut self) {
        self.built += 1;
        if let Some(pacer) = &mut self.pacer {
            pacer.take(1);
        }
    }

    /// A packet left.
    pub(crate) fn handle_sent(&mut self, now: Stamp, bytes: usize) {
        self.sent += 1;
        self.sent_bytes += bytes as u64;
        self.first_sent.get_or_insert(now);
        self.last_sent = Some(now);
        self.timeline.record(now, 1);
    }
}

/// A stream that can't be sent as it is planned.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PlanError {
    /// No flows, or more than numbers for them.
    #[error("a stream has 1 to {max} flows, not {0}", max = FLOWS_MAX)]
    Flows(usize),
    /// The shortest frame doesn't hold the headers.
    #[error("frames of {found} bytes are too short: {needed} are needed for headers, number and time stamp")]
    TooShort {
        /// Asked for.
        found: usize,
        /// The least.
        needed: usize,
    },
    /// The longest frame is longer than its port sends.
    #[error(
        "frames of {found} bytes become IP packets of {packet} bytes on the wire, {mtu} fit port {port}: ask for at most \
         {fits} (--txpkts, --imix), or a larger --max-pkt-len"
    )]
    TooLong {
        /// The port.
        port: usize,
        /// Frame length asked for.
        found: usize,
        /// Its IP packet, sealed if it has a tunnel.
        packet: usize,
        /// What the port sends.
        mtu: usize,
        /// The longest frame that fits.
        fits: usize,
    },
    /// No such port.
    #[error("there is no port {0}")]
    NoPort(usize),
    /// A tunnel or next hop that isn't there.
    #[error("a flow's tunnel or next hop is missing from the plan")]
    Dangling,
}

impl StreamPlan {
    /// Can it be sent, given the tunnels, the ports' MTUs, and how many next hops its port has?
    pub(crate) fn check(&self, tunnels: &Tunnels, mtus: &[usize], next_hops: usize) -> Result<(), PlanError> {
        let mtu = *mtus.get(self.tx_port).ok_or(PlanError::NoPort(self.tx_port))?;
        if let Some(port) = self.rx_port.filter(|&port| port >= mtus.len()) {
            return Err(PlanError::NoPort(port));
        }
        let (flows, sizes) = match &self.source {
            Source::Flows { flows, sizes } => (flows, sizes),
            Source::Capture { next_hop } if next_hop.is_none_or(|hop| hop < next_hops) => return Ok(()),
            Source::Capture { .. } => return Err(PlanError::Dangling),
        };
        if !(1..=FLOWS_MAX).contains(&flows.len()) {
            return Err(PlanError::Flows(flows.len()));
        }
        let (shortest, longest) = (usize::from(sizes.min()), usize::from(sizes.max()));
        for flow in flows {
            let needed = flow.tuple.packet_len_min() + ethernet::HEADER_LEN;
            if shortest < needed {
                return Err(PlanError::TooShort { found: shortest, needed });
            }
            let tunnel = match flow.tunnel {
                Some(index) => Some(tunnels.tunnels().get(index).ok_or(PlanError::Dangling)?),
                None => None,
            };
            if flow.next_hop >= next_hops {
                return Err(PlanError::Dangling);
            }
            let on_wire = |len: usize| tunnel.map_or(len, |tunnel| tunnel.sealed_len(len));
            let longest_packet = longest.saturating_sub(ethernet::HEADER_LEN);
            let packet = on_wire(longest_packet);
            if packet > mtu {
                let fits = (0..longest_packet).rev().find(|&len| on_wire(len) <= mtu).unwrap_or(0);
                let fits = fits + ethernet::HEADER_LEN;
                return Err(PlanError::TooLong { port: self.tx_port, found: longest, packet, mtu, fits });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOAD: Load = Load {
        rate_pps: None,
        count: None,
        duration: None,
        burst: 32,
        catch_up: Duration::ZERO,
        drain: Duration::ZERO,
        bucket: Duration::from_millis(10),
    };

    #[test]
    fn count_or_rate_and_duration_bound_a_load_whichever_is_less() {
        let (second, rate) = (Some(Duration::from_millis(2500)), Some(1001));
        assert_eq!(LOAD.wanted(), None);
        assert_eq!(Load { duration: second, ..LOAD }.wanted(), None, "time alone says nothing of packets");
        assert_eq!(Load { count: Some(7), ..LOAD }.wanted(), Some(7));
        assert_eq!(Load { rate_pps: rate, duration: second, ..LOAD }.wanted(), Some(2502));
        assert_eq!(Load { count: Some(7), rate_pps: rate, duration: second, ..LOAD }.wanted(), Some(7));
        assert_eq!(Load { count: Some(70_000), rate_pps: rate, duration: second, ..LOAD }.wanted(), Some(2502));
    }
}
