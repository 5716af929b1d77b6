//! What the product does, in one minute: a tunnel comes up, connections spread over the targets, bulk data crosses intact, nothing
//! readable is seen outside; then the appliance dies, and the other one goes on.

use std::path::PathBuf;
use std::time::Duration;

use super::{Progress, takeover};
use crate::appliance::TakeoverPolicy;
use crate::error::Result;
use crate::gateway::GatewayKind;
use crate::lab::{Lab, LabConfig};
use crate::report::{self, Bulk, BytesEachWay, DemoReport};

/// How much the demo does.
#[derive(Debug, Clone)]
pub struct DemoConfig {
    /// Which gateway.
    pub gateway: GatewayKind,
    /// The crypto device that processes its SAs; `None`: its cores do.
    pub crypto_device: Option<String>,
    /// With a second appliance, and its takeover by this policy.
    pub takeover: Option<TakeoverPolicy>,
    /// How many workers each appliance has.
    pub workers: u8,
    /// Short TCP connections.
    pub connections: u32,
    /// Bulk data each way, in MiB.
    pub bulk_mib: u64,
    /// Where report, captures and logs go.
    pub out: PathBuf,
}

/// Connections at a time.
const CONCURRENCY: u32 = 16;
/// Slowest that a bulk transfer may be, in MiB per second, before it counts as stuck.
const BULK_MIB_PER_SECOND_MIN: u64 = 1;
/// Between two datagrams of the probe.
const PROBE_INTERVAL: Duration = Duration::from_millis(5);
/// How long the probe runs.
const PROBE_TIME: Duration = Duration::from_secs(2);
/// Between an answer and the next request of the long-lived connection.
const PAUSE: Duration = Duration::from_millis(2);
/// The takeover's picture.
pub const PICTURE: &str = "takeover.svg";

/// Plays the demo; returns the lab, still up, and the report.
pub fn play(config: &DemoConfig, progress: &Progress) -> Result<(Lab, DemoReport)> {
    let settings = match config.takeover {
        Some(policy) => LabConfig::pair(policy, 1),
        None => LabConfig::new(config.gateway),
    };
    let targets = settings.plan.targets.len();
    let settings = LabConfig {
        out: Some(config.out.clone()),
        workers: config.workers,
        crypto_device: config.crypto_device.clone(),
        ..settings
    };
    let mut lab = Lab::start(settings, &|step| progress.step(step))?;
    match demonstrate(&mut lab, config, targets, progress) {
        Ok(report) => {
            report::write_json(&config.out.join("report.json"), &report)?;
            lab.save_logs()?;
            Ok((lab, report))
        }
        Err(error) => {
            // The logs tell why, if they can be had.
            let _ = lab.save_logs();
            Err(error)
        }
    }
}

fn demonstrate(lab: &mut Lab, config: &DemoConfig, targets: usize, progress: &Progress) -> Result<DemoReport> {
    if config.takeover.is_some() {
        let roles = lab.await_roles()?;
        let (owner, backup) = (lab.appliance_name(roles.owner), lab.appliance_name(roles.backup));
        progress.step(&format!("{owner} owns the VIP, {backup} is its backup"));
    }
    let mut report = measure(lab, config, progress)?;
    if let Some(policy) = config.takeover {
        let takeover = takeover::once(lab, policy, progress)?;
        takeover::draw(&takeover, &config.out.join(PICTURE))?;
        report.takeover = Some(takeover.report);
    }
    report.judge(targets);
    Ok(report)
}

fn measure(lab: &Lab, config: &DemoConfig, progress: &Progress) -> Result<DemoReport> {
    progress.step("the remote peer calls the VIP");
    let handshake_ms = lab.bring_up()?.as_secs_f64() * 1e3;
    progress.step(&format!("tunnel up after {handshake_ms:.1} ms; a long-lived connection begins"));
    let long_lived = lab.start_pingpong(PAUSE)?;

    progress.step(&format!("{} TCP connections through the tunnel, {CONCURRENCY} at a time", config.connections));
    let connections = lab.connections(config.connections, CONCURRENCY)?;

    let bytes = config.bulk_mib << 20;
    let limit = Duration::from_secs(10 + config.bulk_mib / BULK_MIB_PER_SECOND_MIN);
    progress.step(&format!("{} MiB from a target", config.bulk_mib));
    let download = lab.download(bytes, limit)?;
    progress.step(&format!("{:.0} Mbit/s; {} MiB to a target", download.mbit_per_second, config.bulk_mib));
    let upload = lab.upload(bytes, limit)?;

    progress.step(&format!("{:.0} Mbit/s; numbered datagrams each way", upload.mbit_per_second));
    let probe = lab.start_probe(PROBE_INTERVAL)?;
    std::thread::sleep(PROBE_TIME);
    let udp = probe.stop(lab.targets());

    progress.step("what the operator sees");
    for (command, output) in lab.gateway()?.operator_views()? {
        println!("\n$ {command}\n{}", first_lines(&output));
    }
    let long_lived = long_lived.stop();
    let intact = |transfer: &crate::client::BulkReport| if transfer.intact { transfer.bytes } else { 0 };
    let bytes_each_way = BytesEachWay { to_target: intact(&upload), to_client: intact(&download) };
    Ok(DemoReport {
        gateway: config.gateway,
        passed: false,
        faults: Vec::new(),
        handshake_ms,
        connections,
        bulk: Bulk { download, upload },
        bytes_each_way,
        udp,
        long_lived,
        outside: lab.outside.counts(),
        inside: lab.inside.counts(),
        drops: lab.gateway()?.drops()?,
        peer_rejects: lab.peer()?.esp_rejects(),
        peer_overflows: lab.peer_overflows()?,
        takeover: None,
    })
}

/// The beginning of an output: a table of a thousand connections is not for the screen.
fn first_lines(output: &str) -> String {
    const LINES: usize = 24;
    let mut lines: Vec<&str> = output.lines().take(LINES).collect();
    let left = output.lines().count().saturating_sub(LINES);
    let more = format!("… and {left} more lines");
    if left > 0 {
        lines.push(&more);
    }
    lines.join("\n")
}
