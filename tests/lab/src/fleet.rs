//! Thousands of remote peers in one namespace: `vipsec-ikegen`.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child as Process, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Deserialize;

use crate::appliance::IkeSettings;
use crate::clock::Stamp;
use crate::command;
use crate::error::{Context, LabError, Result};
use crate::netns::Namespace;
use crate::target::ECHO_PORT;
use crate::topology::VIP;
use crate::wait;

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
    /// IKE SAs that either side replaced.
    pub ike_rekeys: u64,
    /// Child SAs that either side replaced.
    pub child_rekeys: u64,
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

/// Datagrams through the tunnels of initiators that stay, to the VIP's echo service.
#[derive(Debug, Clone, Copy)]
pub struct Echoes {
    /// Per second, through all tunnels in turn.
    pub per_second: f64,
    /// How targets know them.
    pub session: u64,
}

/// A datagram that went through a tunnel, and came back or not.
#[derive(Debug, Clone, Copy)]
pub struct Echo {
    /// Which initiator sent it.
    pub initiator: u32,
    /// When.
    pub sent: Stamp,
    /// When it was back.
    pub back: Option<Stamp>,
}

/// Initiators that have called, or are calling, and stay.
#[derive(Debug)]
pub struct Fleet {
    process: Process,
    json: PathBuf,
    log: PathBuf,
}

impl FleetPlan {
    /// On a host of their own, beside those of the remote peers.
    pub fn beside_peers() -> Self {
        Self { host: Ipv4Addr::new(192, 0, 2, 90), ..Self::default() }
    }

    /// Makes all the initiators' addresses the host's own.
    pub fn settle(&self, host: &Namespace) -> Result<()> {
        host.ip(&[format!("route add local {} dev lo", self.network)])
    }

    /// Lets them call, inside `host`; files go to `folder`. SAs stay at the gateway.
    pub fn call(&self, host: &Namespace, folder: &Path, settings: &IkeSettings, calls: Calls) -> Result<FleetReport> {
        let json = folder.join("fleet.json");
        let ikegen = self.command(folder, &json, settings, calls)?;
        // Initiators that failed are no failure of the command: the report has them.
        let hold = calls.keep.map_or(Duration::ZERO, |keep| keep.hold);
        let output = host.run(|| command::output_of(ikegen, "", calls.limit + hold + HOUSEKEEPING))?;
        read_report(&json).ok_or_else(|| LabError::Command {
            command: "vipsec-ikegen".to_owned(),
            status: output.status.to_string(),
            stderr: output.stderr,
        })
    }

    /// Lets them call, and stay until [`Fleet::end`], with datagrams through their tunnels once all have called.
    pub fn start(
        &self,
        host: &Namespace,
        folder: &Path,
        settings: &IkeSettings,
        calls: Calls,
        echoes: Echoes,
    ) -> Result<Fleet> {
        let (json, log) = (folder.join("fleet.json"), folder.join("fleet.echoes"));
        let mut ikegen = self.command(folder, &json, settings, calls)?;
        ikegen
            .arg(format!("--echo-rate={}", echoes.per_second))
            .arg(format!("--echo-port={ECHO_PORT}"))
            .arg(format!("--echo-session={}", echoes.session))
            .arg("--echo-log")
            .arg(&log)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let process = host.run(|| ikegen.spawn().context(|| "starting vipsec-ikegen".to_owned()))?;
        Ok(Fleet { process, json, log })
    }

    fn command(&self, folder: &Path, json: &Path, settings: &IkeSettings, calls: Calls) -> Result<Command> {
        let secret = folder.join("fleet.psk");
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
            .arg(json);
        if let Some(rate) = calls.rate {
            ikegen.arg(format!("--rate={rate}"));
        }
        if let Some(keep) = calls.keep {
            ikegen.arg(format!("--hold={}", keep.hold.as_secs()));
            ikegen.arg(format!("--dpd-delay={}", keep.dpd_delay.as_secs().max(1)));
        }
        Ok(ikegen)
    }
}

impl Fleet {
    /// Has it ended before it was told to?
    pub fn check_alive(&mut self) -> Result<()> {
        match self.process.try_wait().context(|| "looking after vipsec-ikegen".to_owned())? {
            None => Ok(()),
            Some(status) => Err(LabError::Ended {
                process: "vipsec-ikegen".to_owned(),
                status: status.to_string(),
                log: String::new(),
            }),
        }
    }

    /// Ends it: what became of its SAs, and of each datagram, the oldest first.
    pub fn end(mut self) -> Result<(FleetReport, Vec<Echo>)> {
        let pid = Pid::from_raw(i32::try_from(self.process.id()).unwrap_or(i32::MAX));
        kill(pid, Signal::SIGTERM).context(|| "ending vipsec-ikegen".to_owned())?;
        let process = &mut self.process;
        let status = wait::until("vipsec-ikegen to end", HOUSEKEEPING, || {
            process.try_wait().context(|| "waiting for vipsec-ikegen's end".to_owned())
        })?;
        let report = read_report(&self.json).ok_or_else(|| LabError::Ended {
            process: "vipsec-ikegen".to_owned(),
            status: status.to_string(),
            log: String::new(),
        })?;
        let text = std::fs::read_to_string(&self.log).context(|| format!("reading {}", self.log.display()))?;
        let _ = std::fs::remove_file(&self.log);
        Ok((report, text.lines().filter_map(echo).collect()))
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn read_report(json: &Path) -> Option<FleetReport> {
    let report = std::fs::read_to_string(json).ok().and_then(|text| serde_json::from_str(&text).ok());
    let _ = std::fs::remove_file(json);
    report
}

/// A line of the log: initiator, when it was sent, when it was back or 0, in nanoseconds since 1970.
fn echo(line: &str) -> Option<Echo> {
    let mut words = line.split(' ');
    let initiator = words.next()?.parse().ok()?;
    let mut stamp = || words.next()?.parse::<i128>().ok();
    let (sent, back) = (stamp()?, stamp()?);
    Some(Echo { initiator, sent: Stamp::of_real(sent), back: (back > 0).then(|| Stamp::of_real(back)) })
}
