//! One failover as its users saw it, and several put together.

use std::time::Duration;

use super::Plan;
use crate::client::{PingPong, PingPongReport, UdpProbe, Way};
use crate::clock::Stamp;
use crate::error::Result;
use crate::fleet::Echo;
use crate::lab::Lab;
use crate::report::failover::{Build, Each, Figure, Parts, Row};
use crate::target::Target;

/// Between two datagrams of one way through strongSwan's tunnel.
const PROBE_INTERVAL: Duration = Duration::from_millis(1);
/// The same where there is no other tunnel: the first packet can be passed on no sooner than one comes.
const PROBE_INTERVAL_ALONE: Duration = Duration::from_micros(200);
/// Long-lived TCP connections through it.
const CONNECTIONS: usize = 4;
/// Between an answer and the next request of one of them.
const PAUSE: Duration = Duration::from_millis(10);

/// Traffic of a strongSwan peer: datagrams each way and TCP connections.
pub(super) struct Users {
    interval: Duration,
    probe: UdpProbe,
    connections: Vec<PingPong>,
}

/// What became of it.
pub(super) struct Seen {
    /// Between two datagrams of one way.
    interval: Duration,
    up: Way,
    down: Way,
    connections: Vec<PingPongReport>,
}

impl Users {
    /// With so many tunnels.
    pub(super) fn start(lab: &Lab, tunnels: u32) -> Result<Self> {
        let interval = if tunnels > 1 { PROBE_INTERVAL } else { PROBE_INTERVAL_ALONE };
        let connections = (0..CONNECTIONS).map(|_| lab.start_pingpong(PAUSE)).collect::<Result<_>>()?;
        Ok(Self { interval, probe: lab.start_probe(interval)?, connections })
    }

    pub(super) fn end(self, lab: &Lab) -> Seen {
        let record = self.probe.finish(lab.targets());
        let connections = self.connections.into_iter().map(PingPong::stop).collect();
        Seen { interval: self.interval, up: Way::up(&record), down: Way::down(&record), connections }
    }
}

/// What was measured of one failover.
pub(super) struct Run {
    /// When the owner ended, or was told to give the VIP away.
    pub(super) ended: Stamp,
    /// When the traffic ended.
    pub(super) until: Stamp,
    /// When it was known that something has to be done.
    pub(super) begun: Stamp,
    /// What came between that and the first packet, as far as it is known.
    pub(super) milestones: Option<Milestones>,
    /// When the first packet was passed on.
    pub(super) first: Stamp,
    /// When the first packet had been passed on each way.
    pub(super) both: Stamp,
    pub(super) seen: Seen,
    /// Tunnels of the strongSwan peer that it lost.
    pub(super) sas_lost: u32,
}

/// What a successor gets done, one after the other.
#[derive(Debug, Clone, Copy)]
pub(super) struct Milestones {
    /// The copy is fenced and read.
    pub(super) read: Stamp,
    /// The SAs are installed, trust is judged: the VIP is its own.
    pub(super) owned: Stamp,
    /// The first frame that says so is at the switch.
    pub(super) announced: Stamp,
    /// Behind it the first packet that it is to pass on.
    pub(super) offered: Stamp,
}

/// Datagrams that initiators sent through their tunnels, and how they were sent.
pub(super) struct Echoes {
    pub(super) echoes: Vec<Echo>,
    /// Which of them arrived at a target.
    arrived: Vec<bool>,
    per_second: f64,
    initiators: u32,
}

impl Echoes {
    pub(super) fn new(echoes: Vec<Echo>, targets: &[Target], session: u64, per_second: f64, initiators: u32) -> Self {
        let mut arrived = vec![false; echoes.len()];
        for (number, _) in targets.iter().flat_map(|target| target.session(session).received) {
            if let Some(place) = usize::try_from(number).ok().and_then(|number| arrived.get_mut(number)) {
                *place = true;
            }
        }
        Self { echoes, arrived, per_second, initiators }
    }

    /// Those that were sent during a failover, each with whether it arrived at a target.
    fn of<'a>(&'a self, run: &Run) -> impl Iterator<Item = (&'a Echo, bool)> + use<'a> {
        let place = |moment: Stamp| self.echoes.partition_point(|echo| echo.sent < moment);
        // What is under way at the end may still come back.
        let range = place(run.ended)..place(run.until);
        let arrived = self.arrived.get(range.clone()).unwrap_or_default();
        self.echoes.get(range).unwrap_or_default().iter().zip(arrived.iter().copied())
    }

    /// When the last tunnel began to carry: when the last datagram was sent that didn't come back, of those before the first of its tunnel
    /// that did. `None`: all that were sent came back.
    fn all_carry(&self, run: &Run) -> Option<Stamp> {
        let mut carries = vec![false; self.initiators as usize];
        let mut last = None;
        for (echo, _) in self.of(run) {
            let Some(carries) = carries.get_mut(echo.initiator as usize) else { continue };
            match echo.back {
                Some(_) => *carries = true,
                None if !*carries => last = Some(echo.sent),
                None => {}
            }
        }
        last
    }
}

/// Several failovers of the same kind, in figures.
pub(super) struct Totals {
    pub(super) blocked_ms: Figure,
    pub(super) detection_ms: Figure,
    pub(super) first_packet_ms: Figure,
    pub(super) parts: Option<Parts>,
    pub(super) all_sas_ms: Figure,
    pub(super) lost: Each,
    pub(super) offered: Each,
    pub(super) tcp_kept: u32,
    pub(super) tcp_reset: u32,
    pub(super) stall_ms: Figure,
}

impl Totals {
    pub(super) fn of(runs: &[Run], echoes: Option<&Echoes>) -> Self {
        let (mut lost, mut offered) = (Each::default(), Each::default());
        let (mut tcp_kept, mut tcp_reset) = (0, 0);
        let mut blocked = Vec::new();
        for run in runs {
            let mut longest = run.seen.up.lost.max(run.seen.down.lost) as f64 * run.seen.interval.as_secs_f64() * 1e3;
            lost.add(run.seen.up.lost, run.seen.down.lost);
            offered.add(run.seen.up.sent, run.seen.down.sent);
            if let Some(echoes) = echoes {
                let (mut sent, mut up, mut down) = (0, 0, 0);
                for (echo, arrived) in echoes.of(run) {
                    sent += 1;
                    up += u64::from(!arrived);
                    down += u64::from(arrived && echo.back.is_none());
                }
                lost.add(up, down);
                offered.add(sent, sent - up);
                longest = longest.max((up + down) as f64 / echoes.per_second * 1e3);
            }
            blocked.push(longest);
            let kept = run.seen.connections.iter().filter(|connection| connection.is_kept()).count() as u32;
            tcp_kept += kept;
            tcp_reset += run.seen.connections.len() as u32 - kept;
        }
        let figure = |value: &dyn Fn(&Run) -> f64| Figure::of(runs.iter().map(value).collect());
        let stall = |run: &Run| run.seen.connections.iter().map(|it| it.longest_stall_ms).fold(0.0, f64::max);
        let all = |run: &Run| echoes.and_then(|echoes| echoes.all_carry(run)).map_or(run.both, |at| at.max(run.both));
        Self {
            blocked_ms: Figure::of(blocked),
            detection_ms: figure(&|run| run.begun.millis_from(run.ended)),
            first_packet_ms: figure(&|run| run.first.millis_from(run.begun)),
            parts: parts(runs),
            all_sas_ms: figure(&|run| all(run).millis_from(run.begun)),
            lost,
            offered,
            tcp_kept,
            tcp_reset,
            stall_ms: figure(&stall),
        }
    }

    /// The report's line.
    pub(super) fn row(self, plan: Plan, policy: &str, [sas_kept, sas_lost]: [u32; 2], detail: String) -> Row {
        Row {
            case: plan.case,
            policy: policy.to_owned(),
            tunnels: plan.tunnels,
            // A child SA for each tunnel.
            sas: plan.tunnels,
            runs: plan.runs,
            blocked_ms: self.blocked_ms,
            detection_ms: self.detection_ms,
            first_packet_ms: self.first_packet_ms,
            parts: self.parts,
            all_sas_ms: self.all_sas_ms,
            stall_ms: self.stall_ms,
            lost: self.lost,
            offered: self.offered,
            tcp_kept: self.tcp_kept,
            tcp_reset: self.tcp_reset,
            sas_kept,
            sas_lost,
            build: Build::this(),
            load: None,
            detail,
        }
    }
}

/// How long each step of the successor took; `None` where some run's steps aren't known.
fn parts(runs: &[Run]) -> Option<Parts> {
    let known: Vec<_> = runs.iter().map(|run| Some((run, run.milestones?))).collect::<Option<_>>()?;
    let figure = |value: &dyn Fn(&Run, &Milestones) -> f64| {
        Figure::of(known.iter().map(|(run, milestones)| value(run, milestones)).collect())
    };
    (!known.is_empty()).then(|| Parts {
        read_ms: figure(&|run, at| at.read.millis_from(run.begun)),
        owned_ms: figure(&|_, at| at.owned.millis_from(at.read)),
        announced_ms: figure(&|_, at| at.announced.millis_from(at.owned)),
        offered_ms: figure(&|_, at| at.offered.millis_from(at.announced)),
        passed_ms: figure(&|run, at| run.first.millis_from(at.offered)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Stamp {
        Stamp::at(Duration::from_millis(millis))
    }

    fn run() -> Run {
        let seen = Seen { interval: PROBE_INTERVAL, up: Way::default(), down: Way::default(), connections: Vec::new() };
        let milestones = Milestones { read: at(160), owned: at(161), announced: at(161), offered: at(161) };
        let (first, both) = (at(161), at(162));
        Run {
            ended: at(100),
            until: at(900),
            begun: at(160),
            milestones: Some(milestones),
            first,
            both,
            seen,
            sas_lost: 0,
        }
    }

    fn echoes(fates: &[(u32, u64, bool)]) -> Echoes {
        let echo = |(initiator, sent, is_back): &(u32, u64, bool)| Echo {
            initiator: *initiator,
            sent: at(*sent),
            back: is_back.then(|| at(sent + 1)),
        };
        Echoes {
            echoes: fates.iter().map(echo).collect(),
            arrived: fates.iter().map(|fate| fate.2).collect(),
            per_second: 100.0,
            initiators: 2,
        }
    }

    #[test]
    fn a_tunnel_carries_from_its_first_datagram_on_that_comes_back() {
        // Lost before the failover; lost by both tunnels in it; lost by one that had carried again.
        let fates = [(0, 50, false), (0, 110, false), (1, 120, false), (0, 170, true), (1, 180, false), (1, 200, true)];
        let all = echoes(&[&fates[..], &[(0, 300, false)]].concat());
        assert_eq!(all.all_carry(&run()), Some(at(180)));
        assert_eq!(echoes(&[(0, 170, true), (1, 175, true)]).all_carry(&run()), None);
    }

    #[test]
    fn what_is_lost_in_a_failover_is_blocked_time() {
        let fates = [(0, 50, false), (0, 110, false), (1, 120, false), (0, 170, true), (1, 180, true), (1, 950, false)];
        let totals = Totals::of(&[run()], Some(&echoes(&fates)));
        assert_eq!((totals.lost.up, totals.lost.down, totals.offered.up, totals.offered.down), (2, 0, 4, 2));
        assert_eq!(totals.blocked_ms.median, 20.0);
        assert_eq!(
            (totals.detection_ms.median, totals.first_packet_ms.worst, totals.all_sas_ms.worst),
            (60.0, 1.0, 2.0)
        );
        let parts = totals.parts.expect("all known");
        assert_eq!((parts.read_ms.median, parts.owned_ms.median, parts.passed_ms.median), (0.0, 1.0, 0.0));
        assert!(Totals::of(&[run(), Run { milestones: None, ..run() }], None).parts.is_none());
    }
}
