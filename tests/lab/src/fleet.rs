//! Thousands of remote peers in one namespace: `vipsec-ikegen`.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde::Deserialize;

use crate::appliance::IkeSettings;
use crate::command;
use crate::error::{Context, LabError, Result};
use crate::netns::Namespace;
use crate::topology::VIP;

/// For what `vipsec-ikegen` does besides waiting.
const HOUSEKEEPING: Duration = Duration::from_secs(30);

/// Where the initiators are, and what is behind them.
#[derive(Debug, Clone)]
pub struct FleetPlan {
    /// The address of the host that they live on, outside.
    pub host: Ipv4Addr,
    /// All their addresses.
    pub network: String,
    /// Initiator n has the address that is n above this one.
    pub base: Ipv4Addr,
    /// All addresses behind them.
    pub inner_network: String,
    /// Behind initiator n is the address that is n above this one.
    pub inner_base: Ipv4Addr,
    /// What their names end with.
    pub domain: String,
}

impl Default for FleetPlan {
    /// On the first remote peer's host.
    fn default() -> Self {
        Self {
            host: Ipv4Addr::new(192, 0, 2, 100),
            network: "10.64.0.0/10".to_owned(),
            base: Ipv4Addr::new(10, 64, 0, 0),
            inner_network: "10.128.0.0/9".to_owned(),
            inner_base: Ipv4Addr::new(10, 128, 0, 0),
            domain: "peers.example".to_owned(),
        }
    }
}

/// Which of the initiators call, and how.
#[derive(Debug, Clone, Copy)]
pub struct Calls {
    /// The number of the first.
    pub first: u32,
    /// How many.
    pub count: u32,
    /// Handshakes under way at a time.
    pub parallel: u32,
    /// Handshakes begun per second at most.
    pub rate: Option<f64>,
    /// How long they may take together.
    pub limit: Duration,
    /// Whether they stay.
    pub keep: Option<Keep>,
}

/// Initiators that stay once all have called.
#[derive(Debug, Clone, Copy)]
pub struct Keep {
    /// For how long.
    pub hold: Duration,
    /// After so much silence they ask whether the gateway lives.
    pub dpd_delay: Duration,
}

/// What `vipsec-ikegen` says.
#[derive(Debug, Clone, Deserialize)]
pub struct FleetReport {
    /// Handshakes with a good end.
    pub established: u64,
    /// Initiators of whose handshake nothing came.
    pub failed: u64,
    /// Initiators that lost their SAs again.
    pub lost: u64,
    /// From the first message of all until the last handshake ended.
    pub seconds: f64,
    /// Handshakes with a good end in each second.
    pub per_second: f64,
    /// How long one took.
    pub handshake: Option<Latency>,
    /// Why handshakes failed and SAs ended.
    pub ends: BTreeMap<String, u64>,
}

/// Times in milliseconds.
#[derive(Debug, Clone, Copy, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Latency {
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
}

impl FleetPlan {
    /// Makes all the initiators' addresses the host's own.
    pub fn settle(&self, host: &Namespace) -> Result<()> {
        host.ip(&[format!("route add local {} dev lo", self.network)])
    }

    /// Lets them call, inside `host`; files go to `folder`. SAs stay at the gateway.
    pub fn call(&self, host: &Namespace, folder: &Path, settings: &IkeSettings, calls: Calls) -> Result<FleetReport> {
        let (secret, json) = (folder.join("fleet.psk"), folder.join("fleet.json"));
        std::fs::write(&secret, &settings.secret).context(|| format!("writing {}", secret.display()))?;
        let mut ikegen = Command::new(command::project_program("vipsec-ikegen")?);
        ikegen
            .arg(format!("--gateway={VIP}"))
            .arg(format!("--gateway-id={}", settings.gateway_id))
            .arg(format!("--base={}", self.base))
            .arg(format!("--inner={}", self.inner_base))
            .arg(format!("--domain={}", self.domain))
            .arg(format!("--proposals={}", settings.proposals.join(",")))
            .arg(format!("--esp-proposals={}", settings.esp_proposals.join(",")))
            .arg(format!("--first={}", calls.first))
            .arg(format!("--count={}", calls.count))
            .arg(format!("--parallel={}", calls.parallel))
            .arg(format!("--limit={}", calls.limit.as_secs()))
            .arg("--secret-file")
            .arg(&secret)
            .arg("--json")
            .arg(&json);
        if let Some(rate) = calls.rate {
            ikegen.arg(format!("--rate={rate}"));
        }
        let keep = calls.keep.unwrap_or(Keep { hold: Duration::ZERO, dpd_delay: Duration::ZERO });
        if calls.keep.is_some() {
            ikegen.arg(format!("--hold={}", keep.hold.as_secs()));
            ikegen.arg(format!("--dpd-delay={}", keep.dpd_delay.as_secs().max(1)));
        }
        // Initiators that failed are no failure of the command: the report has them.
        let output = host.run(|| command::output_of(ikegen, "", calls.limit + keep.hold + HOUSEKEEPING))?;
        let report = std::fs::read_to_string(&json).ok().and_then(|text| serde_json::from_str(&text).ok());
        let _ = std::fs::remove_file(&json);
        report.ok_or_else(|| LabError::Command {
            command: "vipsec-ikegen".to_owned(),
            status: output.status.to_string(),
            stderr: output.stderr,
        })
    }
}
