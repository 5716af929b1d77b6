//! What a run found: for programs as JSON, for people as a few lines.

pub mod failover;
pub mod picture;
pub mod takeover;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use serde::Serialize;

use crate::capture::Counts;
use crate::charon::EspRejects;
use crate::client::{BulkReport, ConnectionsReport, FlowReport, PingPongReport, ProbeReport};
use crate::error::{Context, LabError, Result};
use crate::gateway::GatewayKind;
use takeover::TakeoverReport;

/// What `demo` found.
#[derive(Debug, Clone, Serialize)]
pub struct DemoReport {
    /// Which gateway it was.
    pub gateway: GatewayKind,
    /// Did everything hold that should?
    pub passed: bool,
    /// What didn't.
    pub faults: Vec<String>,
    /// From the IKE_SA_INIT request to the IKE_AUTH response, on the wire.
    pub handshake_ms: f64,
    /// The short TCP connections.
    pub connections: ConnectionsReport,
    /// The bulk transfers.
    pub bulk: Bulk,
    /// Bytes of bulk content that arrived intact.
    pub bytes_each_way: BytesEachWay,
    /// Numbered datagrams each way.
    pub udp: ProbeReport,
    /// A long-lived connection that was busy all the while.
    pub long_lived: PingPongReport,
    /// Frames outside.
    pub outside: Counts,
    /// Frames inside.
    pub inside: Counts,
    /// Packets that the gateway dropped, by reason.
    pub drops: BTreeMap<String, u64>,
    /// ESP packets that the remote peer refused.
    pub peer_rejects: EspRejects,
    /// ESP packets that the remote peer lost because it fetched them too slowly.
    pub peer_overflows: u64,
    /// What came then: all above was measured before.
    #[serde(flatten)]
    pub takeover: Option<TakeoverReport>,
}

/// The bulk transfers of a demo.
#[derive(Debug, Clone, Serialize)]
pub struct Bulk {
    /// From a target.
    pub download: BulkReport,
    /// To a target.
    pub upload: BulkReport,
}

/// Bytes of bulk content.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct BytesEachWay {
    /// From the client to a target.
    pub to_target: u64,
    /// From a target to the client.
    pub to_client: u64,
}

impl DemoReport {
    /// Notes what should hold and doesn't, and so whether the demo has passed.
    pub fn judge(&mut self, targets: usize) {
        let mut faults = Vec::new();
        let mut expect = |holds: bool, fault: String| {
            if !holds {
                faults.push(fault);
            }
        };
        let served = self.connections.per_target.len();
        expect(served == targets, format!("{served} of {targets} targets were served"));
        expect(self.connections.errors == 0, format!("{} connections failed", self.connections.errors));
        expect(self.bulk.download.intact, "the download's content was damaged".to_owned());
        expect(self.bulk.upload.intact, "the upload's content was damaged".to_owned());
        let lost = |way: &BTreeMap<String, FlowReport>| way.values().map(|flow| flow.lost).sum::<u64>();
        expect(!self.udp.up.is_empty() && lost(&self.udp.up) == 0, "datagrams to the target were lost".to_owned());
        expect(
            !self.udp.down.is_empty() && lost(&self.udp.down) == 0,
            "datagrams from the target were lost".to_owned(),
        );
        if let Some(why) = &self.long_lived.broken {
            expect(false, format!("the long-lived connection broke: {why}"));
        }
        let strays = self.long_lived.wrong_target;
        expect(strays == 0, format!("the long-lived connection changed its target {strays} times"));
        expect(self.outside.clear_text == 0, format!("{} frames outside were clear text", self.outside.clear_text));
        expect(self.outside.marked == 0, format!("{} frames outside showed their content", self.outside.marked));
        // The same marker does show inside: so it would have shown outside, too.
        expect(self.inside.marked > 0, "the capture inside doesn't show the clear text either".to_owned());
        let sealed = self.outside.esp_bytes_from_hosts;
        expect(sealed >= self.bytes_each_way.to_client, format!("only {sealed} bytes of ESP came from the gateway"));
        expect(
            self.outside.missed == 0 && self.inside.missed == 0,
            format!("the captures missed {} frames", self.outside.missed + self.inside.missed),
        );
        faults.extend(self.takeover.iter().flat_map(TakeoverReport::faults));
        self.passed = faults.is_empty();
        self.faults = faults;
    }

    /// The report for people.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: String| {
            let _ = writeln!(text, "  {name:<22} {value}");
        };
        line("handshake", format!("{:.1} ms", self.handshake_ms));
        let Self { connections, bulk, outside, inside, .. } = self;
        let shares = connections.per_target.iter().map(|(target, count)| format!("{target}: {count}"));
        let shares = shares.collect::<Vec<_>>().join(", ");
        line("connections", format!("{} ({} failed), {shares}", connections.total, connections.errors));
        let millis = |micros: u64| micros as f64 / 1e3;
        line(
            "connection time",
            format!(
                "median {:.1} ms, 99 % {:.1} ms, slowest {:.1} ms",
                millis(connections.micros_p50),
                millis(connections.micros_p99),
                millis(connections.micros_max)
            ),
        );
        for (name, transfer) in [("download", &bulk.download), ("upload", &bulk.upload)] {
            let verdict = if transfer.intact { "intact" } else { "DAMAGED" };
            line(
                name,
                format!(
                    "{:.1} MiB with {}, {:.0} Mbit/s, {verdict}",
                    transfer.bytes as f64 / f64::from(1 << 20),
                    transfer.target,
                    transfer.mbit_per_second
                ),
            );
        }
        for (name, way) in [("datagrams up", &self.udp.up), ("datagrams down", &self.udp.down)] {
            for (target, flow) in way {
                line(
                    name,
                    format!(
                        "{} with {target}: {} lost, largest gap {:.1} ms",
                        flow.sent, flow.lost, flow.largest_gap_ms
                    ),
                );
            }
        }
        let long = &self.long_lived;
        line(
            "long-lived connection",
            format!("{} round trips, longest stall {:.1} ms", long.round_trips, long.longest_stall_ms),
        );
        line(
            "outside",
            format!(
                "ESP {} from the gateway, {} to it; IKE {}; clear text {}",
                outside.esp_from_hosts, outside.esp_to_hosts, outside.ike, outside.clear_text
            ),
        );
        line(
            "inside",
            format!("clear text {}, ESP {}", inside.clear_text, inside.esp_from_hosts + inside.esp_to_hosts),
        );
        let drops = self.drops.iter().map(|(reason, count)| format!("{reason}: {count}")).collect::<Vec<_>>();
        line("gateway's drops", if drops.is_empty() { "none".to_owned() } else { drops.join(", ") });
        line("remote peer's losses", format!("{} (its socket was full)", self.peer_overflows));
        if let Some(takeover) = &self.takeover {
            let _ = writeln!(text, "\n{}", takeover.to_text());
        }
        for fault in &self.faults {
            let _ = writeln!(text, "  {:<22} {fault}", "FAULT");
        }
        let _ = writeln!(text, "  => {}", if self.passed { "everything held" } else { "FAILED" });
        text
    }
}

/// Writes a report as JSON.
pub fn write_json(path: &Path, report: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(report)
        .map_err(|error| LabError::Answer { what: format!("writing {}", path.display()), answer: error.to_string() })?;
    std::fs::write(path, text + "\n").context(|| format!("writing {}", path.display()))
}
