//! What people read: a few lines while it runs, everything at the end.

use std::time::Duration;

use vipsec_hw::Mempool;
use vipsec_trafficgen::arrivals::ArrivalsReport;
use vipsec_trafficgen::generator::Generator;
use vipsec_trafficgen::report::{PortTotals, RunReport, StreamReport};
use vipsec_trafficgen::search::{Limit, SearchReport, TrialCounts, Verdict};
use vipsec_trafficgen::time::Stamp;

use crate::appliance::ApplianceReport;
use crate::args::Arguments;
use crate::devices::Devices;

/// Shows statistics every period.
pub(crate) struct Watch {
    period: Option<Duration>,
    names: Vec<String>,
    shown: Option<Stamp>,
    last: Vec<PortTotals>,
}

impl Watch {
    pub(crate) fn new(arguments: &Arguments, devices: &Devices) -> Self {
        let period = arguments.output.stats_period;
        Self {
            period: (period > 0).then(|| Duration::from_secs(period)),
            names: devices.ports.iter().map(|port| port.name().to_owned()).collect(),
            shown: None,
            last: Vec::new(),
        }
    }

    /// Shows them if it is time.
    pub(crate) fn look(&mut self, now: Stamp, generator: &Generator<Mempool>) {
        let Some(period) = self.period else { return };
        let since = *self.shown.get_or_insert(generator.began());
        let elapsed = now.since(since);
        if elapsed < period {
            return;
        }
        self.shown = Some(now);
        println!("Port statistics after {:.1} s", now.since(generator.began()).as_secs_f64());
        let rate = |before: u64, after: u64| after.saturating_sub(before) as f64 / elapsed.as_secs_f64();
        let totals: Vec<PortTotals> = generator.totals().collect();
        self.last.resize(totals.len(), PortTotals::default());
        for ((number, name), (before, after)) in self.names.iter().enumerate().zip(self.last.iter().zip(&totals)) {
            println!("  port {number} ({name})");
            for (what, before, after) in
                [("RX", before.received, after.received), ("TX", before.transmitted, after.transmitted)]
            {
                let (packets, bits) = (rate(before.0, after.0), rate(before.1, after.1) * 8.0);
                println!(
                    "    {what}-packets: {:<12} {what}-bytes: {:<14} {what}-pps: {packets:<12.0} {what}-bps: {bits:.0}",
                    after.0, after.1
                );
            }
        }
        self.last = totals;
        let sums = generator.sums();
        if sums.sent > 0 {
            println!(
                "  sent {}, arrived {}, not there (yet) {}",
                sums.sent,
                sums.received,
                sums.sent.saturating_sub(sums.received)
            );
        }
    }
}

/// A whole run.
pub(crate) fn run(run: &RunReport) {
    for port in &run.ports {
        println!("Port {}", port.port);
        println!("  RX-packets: {:<14} RX-bytes: {}", port.rx_packets, port.rx_bytes);
        println!("  TX-packets: {:<14} TX-bytes: {}", port.tx_packets, port.tx_bytes);
        for (what, count) in &port.events {
            println!("  {what}: {count}");
        }
    }
    run.streams.iter().for_each(stream);
    for other in &run.others {
        println!("Another sender's run {:04x}, received on port {}", other.run, other.port);
        arrivals(&other.arrivals);
    }
}

fn stream(stream: &StreamReport) {
    println!("Stream {}: {} flows, sent by port {}", stream.name, stream.flows, stream.tx_port);
    let rate = stream.rate_pps.map_or_else(|| "-".to_owned(), |rate| format!("{rate:.0}"));
    println!("  sent: {} packets, {} bytes, {rate} pps", stream.sent, stream.sent_bytes);
    if stream.missed > 0 {
        println!("  too late to send: {} packets", stream.missed);
    }
    if let Some(error) = &stream.error {
        println!("  ended early: {error}");
    }
    if let (Some(report), Some(port)) = (&stream.arrivals, stream.rx_port) {
        println!("  received on port {port}");
        arrivals(report);
    }
    for (port, report) in &stream.elsewhere {
        println!("  received on port {port}");
        arrivals(report);
    }
}

fn arrivals(report: &ArrivalsReport) {
    let rate = report.rate_pps.map_or_else(|| "-".to_owned(), |rate| format!("{rate:.0}"));
    let sent = report.received + report.lost;
    let percent = if sent > 0 { report.lost as f64 * 100.0 / sent as f64 } else { 0.0 };
    println!("    packets: {} of {} flows, {rate} pps", report.received, report.flows_seen);
    println!("    lost: {} ({percent:.4} %), duplicates: {}", report.lost, report.duplicates);
    println!("    reordered: {}, extent up to {}", report.reordered, report.reorder_extent_max);
    if report.untracked > 0 {
        println!("    late or duplicate, too old to tell: {}", report.untracked);
    }
    if let Some(latency) = &report.latency {
        println!(
            "    latency in µs: min {:.1}, p50 {:.1}, p90 {:.1}, p99 {:.1}, p99.9 {:.1}, max {:.1}",
            latency.min_us, latency.p50_us, latency.p90_us, latency.p99_us, latency.p999_us, latency.max_us
        );
    }
    if let Some(blocked) = report.blocked {
        println!("    longest silence: {:.3} ms, from {:.3} ms on", blocked.duration_ms, blocked.from_ms);
    }
    if let Some(worst) = report.flows_blocked_longest.first() {
        println!("    longest silence of a flow: {:.3} ms (flow {})", worst.blocked.duration_ms, worst.flow);
    }
}

/// A trial of a search.
pub(crate) fn trial(number: usize, rate: u64, counts: TrialCounts, verdict: Verdict) {
    let TrialCounts { wanted, sent, received } = counts;
    let verdict = match verdict {
        Verdict::Passed => "passed",
        Verdict::Lost => "lost",
        Verdict::NotOffered => "not offered: the generator is too slow",
    };
    let lost = sent.saturating_sub(received);
    println!("Trial {number:>3}: {rate:>10} pps, sent {sent} of {wanted}, lost {lost}: {verdict}");
}

/// A search's result.
pub(crate) fn search(search: &SearchReport) {
    let name = if search.plan.tolerance.ppm == 0 {
        "NDR".to_owned()
    } else {
        format!("PDR ({} % loss)", f64::from(search.plan.tolerance.ppm) / 1e4)
    };
    let limit = match search.limit {
        Limit::Loss => "more is lost above",
        Limit::Generator => "the generator can't send more: the device may",
        Limit::RateMax => "the highest rate asked for",
        Limit::BelowRateMin => "not even the lowest rate asked for passed",
        Limit::TrialsMax => "the trials were used up before the search was fine enough",
    };
    match search.rate_pps {
        Some(rate) => println!("{name}: {rate} pps ({limit}), {} trials", search.trials.len()),
        None => println!("{name}: none ({limit}), {} trials", search.trials.len()),
    }
}

/// What the vipsecd counted.
pub(crate) fn appliance(report: &ApplianceReport) {
    println!("vipsecd meanwhile");
    for (what, count) in &report.counters {
        println!("  {what}: {count}");
    }
    for (reason, count) in &report.drops {
        println!("  dropped, {reason}: {count}");
    }
}
