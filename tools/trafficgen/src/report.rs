//! What a run showed, for programs.

use std::collections::BTreeMap;

use serde::Serialize;
use vipsec_wire::buffer::BufferPool;

use crate::arrivals::{ArrivalsReport, Sent, rate};
use crate::generator::{Generator, Port, PortCounts};
use crate::stream::{Source, Stream};
use crate::time::Stamp;
use crate::timeline::TimelineReport;

/// A run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunReport {
    /// Its number, which its packets carry.
    pub run: u16,
    /// When it began: nanoseconds on the machine's monotonic clock.
    pub began_monotonic_ns: u64,
    /// What was sent, and what became of it.
    pub streams: Vec<StreamReport>,
    /// Frames by port.
    pub ports: Vec<PortReport>,
    /// What senders elsewhere sent.
    pub others: Vec<OtherReport>,
}

/// A stream of ours.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StreamReport {
    /// `up` is from remote peers to targets, `down` is back, `tx` is neither.
    pub name: String,
    /// The port that it left by.
    pub tx_port: usize,
    /// The port where it was expected.
    pub rx_port: Option<usize>,
    /// How many flows it had.
    pub flows: u64,
    /// Mean length of its frames in clear, without FCS; unknown of a capture.
    pub frame_bytes_mean: Option<f64>,
    /// Packets per second asked for.
    pub rate_wanted_pps: Option<u64>,
    /// Packets asked for.
    pub wanted: Option<u64>,
    /// Packets that left.
    pub sent: u64,
    /// Bytes of their frames, as they left.
    pub sent_bytes: u64,
    /// Packets per second between the first and the last.
    pub rate_pps: Option<f64>,
    /// Packets that were due and didn't leave because the generator, or its port, was too slow.
    pub missed: u64,
    /// Why it ended before its time.
    pub error: Option<String>,
    /// Packets that left over time.
    pub timeline: TimelineReport,
    /// What arrived where it was expected.
    pub arrivals: Option<ArrivalsReport>,
    /// What arrived elsewhere, by port: reflected packets where they left, for instance.
    pub elsewhere: BTreeMap<usize, ArrivalsReport>,
}

/// A port.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PortReport {
    /// Its number.
    pub port: usize,
    /// Frames received.
    pub rx_packets: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Frames sent.
    pub tx_packets: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// What else happened, and how often; only what did.
    pub events: BTreeMap<String, u64>,
}

/// What another sender sent.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OtherReport {
    /// The port that it arrived at.
    pub port: usize,
    /// The sender's run.
    pub run: u16,
    /// What arrived.
    pub arrivals: ArrivalsReport,
}

/// The sums of a run, for those who watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PortTotals {
    /// Frames received, and their bytes.
    pub received: (u64, u64),
    /// Frames sent, and their bytes.
    pub transmitted: (u64, u64),
}

impl<P: BufferPool> Generator<P> {
    /// What each port received and sent in this run so far.
    pub fn totals(&self) -> impl Iterator<Item = PortTotals> + '_ {
        self.ports
            .iter()
            .map(|port| PortTotals { received: port.counts.received, transmitted: port.counts.transmitted })
    }

    /// Packets of all streams: asked for, sent, and arrived where they were expected, each counted once. Asked for is what was
    /// built where there is no limit.
    pub fn sums(&self) -> crate::search::TrialCounts {
        let mut sums = crate::search::TrialCounts { wanted: 0, sent: 0, received: 0 };
        for (number, stream) in self.streams.iter().enumerate() {
            let arrivals = stream.plan.rx_port.and_then(|port| self.ports.get(port)?.own.get(number)?.as_ref());
            sums.wanted += self.load.wanted().unwrap_or(stream.built);
            sums.sent += stream.sent;
            sums.received += arrivals.map_or(0, |arrivals| arrivals.counts().received);
        }
        sums
    }

    /// What this run showed so far.
    pub fn report(&self) -> RunReport {
        let others = self.ports.iter().enumerate().flat_map(|(number, port)| {
            port.others.iter().map(move |(run, arrivals)| OtherReport {
                port: number,
                run: run.0,
                arrivals: arrivals.report(None),
            })
        });
        RunReport {
            run: self.run.0,
            began_monotonic_ns: self.began.nanos(),
            streams: self.streams.iter().enumerate().map(|(number, stream)| self.stream(number, stream)).collect(),
            ports: self.ports.iter().enumerate().map(|(number, port)| port_report(number, port)).collect(),
            others: others.collect(),
        }
    }

    fn stream(&self, number: usize, stream: &Stream) -> StreamReport {
        let last = stream.last_sent.unwrap_or(self.began);
        let sent = Sent { packets: stream.sent, last };
        let arrivals = |port: &Port<P::Buf>| Some(port.own.get(number)?.as_ref()?.report(Some(sent)));
        let rx_port = stream.plan.rx_port;
        let elsewhere = self.ports.iter().enumerate().filter(|(port, _)| Some(*port) != rx_port);
        StreamReport {
            name: stream.plan.name.clone(),
            tx_port: stream.plan.tx_port,
            rx_port,
            flows: stream.plan.source.flows().len() as u64,
            frame_bytes_mean: match &stream.plan.source {
                Source::Flows { sizes, .. } => Some(sizes.mean()),
                Source::Capture { .. } => None,
            },
            rate_wanted_pps: self.load.rate_pps,
            wanted: self.load.wanted(),
            sent: stream.sent,
            sent_bytes: stream.sent_bytes,
            rate_pps: rate(stream.sent, stream.first_sent, stream.last_sent),
            missed: stream.pacer.as_ref().map_or(0, |pacer| pacer.missed()),
            error: stream.error.map(|error| error.to_string()),
            timeline: stream.timeline.report(),
            arrivals: rx_port.and_then(|port| arrivals(self.ports.get(port)?)),
            elsewhere: elsewhere.filter_map(|(number, port)| Some((number, arrivals(port)?))).collect(),
        }
    }

    /// When the run began.
    pub fn began(&self) -> Stamp {
        self.began
    }
}

fn port_report<B>(number: usize, port: &Port<B>) -> PortReport {
    let counts = &port.counts;
    PortReport {
        port: number,
        rx_packets: counts.received.0,
        rx_bytes: counts.received.1,
        tx_packets: counts.transmitted.0,
        tx_bytes: counts.transmitted.1,
        events: events(counts),
    }
}

fn events(counts: &PortCounts) -> BTreeMap<String, u64> {
    let named = [
        ("other_station", counts.other_station),
        ("foreign", counts.foreign),
        ("corrupted", counts.corrupted),
        ("stale", counts.stale),
        ("unknown_flow", counts.unknown_flow),
        ("neighbours_answered", counts.neighbours_answered),
        ("reflected", counts.reflected),
        ("answers_lost", counts.answers_lost),
        ("no_buffer", counts.no_buffer),
        ("not_taken", counts.not_taken),
    ];
    let esp = counts.esp_drops.iter().map(|(reason, count)| (reason.label(), *count));
    let occurred = named.into_iter().chain(esp).filter(|(_, count)| *count > 0);
    occurred.map(|(name, count)| (name.to_owned(), count)).collect()
}
