//! Everything that a takeover has to get through, at once: numbered datagrams each way and long-lived connections.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Arrivals, FlowReport, PingPong, PingPongReport, ProbeRecord, UdpProbe};
use crate::charon::EspRejects;
use crate::clock::Stamp;
use crate::error::Result;
use crate::lab::Lab;

/// Between two datagrams of one way: 500 a second.
pub const PROBE_INTERVAL: Duration = Duration::from_millis(2);
/// Long-lived connections: enough to be spread over the targets.
const LONG_LIVED: usize = 4;
/// Between an answer and the next request of one of them.
const PAUSE: Duration = Duration::from_millis(10);

/// Traffic under way.
#[derive(Debug)]
pub struct Traffic {
    probe: UdpProbe,
    long_lived: Vec<PingPong>,
    overflows: u64,
    rejects: EspRejects,
}

/// What became of it.
#[derive(Debug, Clone, Default)]
pub struct TrafficSeen {
    /// Datagrams from the client to the VIP's service, as they arrived at targets.
    pub up: Way,
    /// Datagrams from targets through the inside gateway, as they arrived at the client.
    pub down: Way,
    /// The long-lived connections.
    pub long_lived: Vec<PingPongReport>,
    /// ESP packets that the remote peer lost by itself meanwhile.
    pub peer_overflows: u64,
    /// ESP packets that the remote peer refused meanwhile.
    pub peer_rejects: EspRejects,
}

/// Datagrams one way.
#[derive(Debug, Clone, Default)]
pub struct Way {
    /// Sent.
    pub sent: u64,
    /// Sent and never arrived.
    pub lost: u64,
    /// Arrived once more, wherever.
    pub doubled: u64,
    /// How often the one arrived that did so most often.
    pub most: u64,
    /// Hosts that took part: one, unless the flow was moved.
    pub targets: usize,
    /// When one arrived, in order.
    pub arrivals: Vec<Stamp>,
    /// When each that arrived was sent, and when it arrived first.
    pub flights: Vec<(Stamp, Stamp)>,
}

impl Traffic {
    /// Starts it through the first tunnel.
    pub fn start(lab: &Lab) -> Result<Self> {
        let (overflows, rejects) = (lab.peer_overflows()?, lab.peer()?.esp_rejects());
        let long_lived = (0..LONG_LIVED).map(|_| lab.start_pingpong(PAUSE)).collect::<Result<_>>()?;
        Ok(Self { probe: lab.start_probe(PROBE_INTERVAL)?, long_lived, overflows, rejects })
    }

    /// Ends it and tells how it went.
    pub fn end(self, lab: &Lab) -> Result<TrafficSeen> {
        let record = self.probe.finish(lab.targets());
        let rejects = lab.peer()?.esp_rejects();
        Ok(TrafficSeen {
            up: Way::up(&record),
            down: Way::down(&record),
            long_lived: self.long_lived.into_iter().map(PingPong::stop).collect(),
            peer_overflows: lab.peer_overflows()? - self.overflows,
            peer_rejects: rejects.since(&self.rejects),
        })
    }
}

impl TrafficSeen {
    /// Did every connection live, with its target?
    pub fn connections_kept(&self) -> bool {
        self.long_lived.iter().all(PingPongReport::is_kept)
    }

    /// The longest that a request of a long-lived connection waited for its answer, in milliseconds.
    pub fn stall_ms(&self) -> f64 {
        self.long_lived.iter().map(|connection| connection.longest_stall_ms).fold(0.0, f64::max)
    }
}

impl Way {
    pub(crate) fn up(record: &ProbeRecord) -> Self {
        // One number must not arrive at two targets either: so all arrivals count together.
        let mut arrivals: Arrivals = record.up.values().flatten().copied().collect();
        arrivals.sort_by_key(|(_, stamp)| *stamp);
        Self::of(record.up.len(), &[(&record.sent, &arrivals)])
    }

    pub(crate) fn down(record: &ProbeRecord) -> Self {
        let flows: Vec<_> = record.down.values().map(|(sent, arrivals)| (sent, arrivals)).collect();
        Self::of(flows.len(), &flows)
    }

    /// `flows`: when each number was sent, and which arrived when, in order.
    fn of(targets: usize, flows: &[(&Vec<Stamp>, &Arrivals)]) -> Self {
        let mut way = Self { targets, ..Self::default() };
        for (sent, arrivals) in flows {
            let report = FlowReport::of(sent.len() as u64, arrivals);
            way.sent += report.sent;
            way.lost += report.lost;
            way.doubled += report.duplicated;
            way.arrivals.extend(arrivals.iter().map(|(_, stamp)| *stamp));
            let (mut first, mut times) = (BTreeMap::new(), BTreeMap::<u64, u64>::new());
            for (number, arrived) in *arrivals {
                first.entry(*number).or_insert(*arrived);
                *times.entry(*number).or_default() += 1;
            }
            way.most = times.into_values().fold(way.most, u64::max);
            let sent_at = |number: u64| usize::try_from(number).ok().and_then(|number| sent.get(number));
            way.flights.extend(first.into_iter().filter_map(|(number, arrived)| Some((*sent_at(number)?, arrived))));
        }
        way.arrivals.sort_unstable();
        way
    }

    /// How many that were sent before `ended` arrived only after `announced`: one that the old owner had and couldn't deliver any
    /// more, and that was delivered because it was sent again, was lost all the same.
    pub fn revived(&self, ended: Stamp, announced: Stamp) -> u64 {
        self.flights.iter().filter(|(sent, arrived)| *sent < ended && *arrived > announced).count() as u64
    }

    /// For how long the lost ones were sent, in milliseconds.
    pub fn blocked_ms(&self) -> f64 {
        blocked_ms(self.lost)
    }

    /// The silence around a moment: the last arrival before and the first after it.
    pub fn silence_around(&self, moment: Stamp) -> Option<(Stamp, Stamp)> {
        let after = self.arrivals.partition_point(|arrival| *arrival < moment);
        Some((*self.arrivals.get(after.checked_sub(1)?)?, *self.arrivals.get(after)?))
    }
}

/// For how long that many datagrams were sent, in milliseconds.
pub fn blocked_ms(lost: u64) -> f64 {
    lost as f64 * PROBE_INTERVAL.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: u64) -> Stamp {
        Stamp::at(Duration::from_millis(milliseconds))
    }

    #[test]
    fn a_number_that_reaches_two_targets_is_doubled() {
        let up = BTreeMap::from([
            ("t1".to_owned(), vec![(0, at(0)), (1, at(2)), (3, at(90))]),
            ("t2".to_owned(), vec![(1, at(80))]),
        ]);
        let way = Way::up(&ProbeRecord { sent: vec![at(0), at(2), at(4), at(6)], up, ..ProbeRecord::default() });
        assert_eq!((way.sent, way.lost, way.doubled, way.most, way.targets), (4, 1, 1, 2, 2));
        assert_eq!(way.blocked_ms(), 2.0);
        assert_eq!(way.silence_around(at(70)), Some((at(2), at(80))));
        assert_eq!(way.silence_around(at(95)), None);
        // Number 3 was sent before the end and came long after it.
        assert_eq!((way.revived(at(50), at(70)), way.revived(at(5), at(70))), (1, 0));
    }
}
