//! `vipsec-lab`: the lab on one machine, for people and for make.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use vipsec_lab::appliance::TakeoverPolicy;
use vipsec_lab::error::Result;
use vipsec_lab::gateway::GatewayKind;
use vipsec_lab::scenario::calm::{self, CalmConfig};
use vipsec_lab::scenario::demo::{self, DemoConfig};
use vipsec_lab::scenario::failover::{self, FailoverConfig};
use vipsec_lab::scenario::ike::{self, IkeConfig};
use vipsec_lab::scenario::takeover::{self, Extent, TakeoverConfig, Tale};
use vipsec_lab::scenario::{Outcome, Progress, exercise};
use vipsec_lab::{command, report, supervisor};

/// A remote peer, an appliance and targets in network namespaces of this machine.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Subcommand)]
enum Scenario {
    /// A tunnel comes up, connections spread over the targets, bulk data crosses intact, nothing readable is seen outside; then the
    /// appliance dies, and the other one goes on.
    Demo {
        /// What stands between the remote peer and the targets.
        #[arg(long, value_enum, default_value_t = GatewayKind::Vipsec)]
        gateway: GatewayKind,
        /// What the other appliance does with the SAs that it takes over.
        #[arg(long, value_enum, default_value_t = TakeoverPolicy::Resume)]
        policy: TakeoverPolicy,
        /// Have a crypto device of DPDK process the SAs, such as crypto_aesni_mb0.
        #[arg(long, value_name = "DEVICE")]
        crypto_device: Option<String>,
        /// One appliance, and so no takeover.
        #[arg(long)]
        single: bool,
        /// How many workers each appliance has.
        #[arg(long, default_value_t = 1)]
        workers: u8,
        /// Short TCP connections.
        #[arg(long, default_value_t = 1000)]
        connections: u32,
        /// Bulk data each way, in MiB.
        #[arg(long, default_value_t = 50)]
        bulk_mib: u64,
        /// Leave the lab up afterwards, until interrupted.
        #[arg(long)]
        keep: bool,
        /// Folder for the report, the captures and the logs.
        #[arg(long, default_value = "target/demo")]
        out: PathBuf,
    },
    /// Rekeying by either end, liveness checks, deletion and coming back, each with a look at the traffic.
    Exercise {
        /// What stands between the remote peer and the targets.
        #[arg(long, value_enum, default_value_t = GatewayKind::Vipsec)]
        gateway: GatewayKind,
        /// Folder for the report, the captures and the logs.
        #[arg(long, default_value = "target/exercise")]
        out: PathBuf,
    },
    /// What an IKE SA with a child SA costs the gateway: vipsecd and strongSwan in turns, called by the same initiators.
    Ike {
        /// How often each starts afresh.
        #[arg(long, default_value_t = 3)]
        turns: u32,
        /// Initiators in a batch.
        #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=20_000))]
        initiators: u32,
        /// Batches in a turn; the SAs of those before stay.
        #[arg(long, default_value_t = 3)]
        batches: u32,
        /// In a last turn of vipsecd alone: until it has so many IKE SAs. 0: no such turn.
        #[arg(long, default_value_t = 12_000, value_parser = clap::value_parser!(u32).range(0..=100_000))]
        many: u32,
        /// Handshakes under way at a time.
        #[arg(long, default_value_t = 32)]
        parallel: u32,
        /// File for the figures.
        #[arg(long, default_value = "target/bench/ike.json")]
        out: PathBuf,
    },
    /// Nothing happens: both appliances live while all cores are busy and traffic goes at full rate, and nobody may take over.
    Calm {
        /// For how long.
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1440))]
        minutes: u32,
        /// Folder for the report, the captures and the logs.
        #[arg(long, default_value = "target/calm")]
        out: PathBuf,
    },
    /// For how long users are blocked, and what they lose, when the owner of their tunnels dies or gives them away: with one tunnel and
    /// with a hundred thousand; and with strongSwan as the gateway.
    Failover {
        /// Which cases; all without this.
        #[arg(long, value_enum)]
        case: Vec<failover::Case>,
        /// With how many tunnels; as many as the cases are measured with without this.
        #[arg(long)]
        tunnels: Vec<u32>,
        /// How often each; as often as fits its size without this.
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..=50))]
        runs: Option<u32>,
        /// Folder for the report and the logs. What an earlier report says of other cases stays in it.
        #[arg(long, default_value = "target/failover")]
        out: PathBuf,
        /// Measures nothing: reads the report that is there.
        #[arg(long)]
        read: bool,
        /// Writes failover.md and its picture to this folder.
        #[arg(long, value_name = "FOLDER", num_args = 0..=1, default_missing_value = "docs")]
        write_docs: Option<PathBuf>,
    },
    /// What becomes of tunnels and connections when one of two appliances dies, sleeps, comes back, or gives the VIP away.
    Takeover {
        /// Which story; all without this.
        #[arg(long, value_enum)]
        case: Vec<Tale>,
        /// How often the story `kill` kills.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=25))]
        runs: u32,
        /// How many tunnels the story `hundred` has.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u8).range(1..=250))]
        tunnels: u8,
        /// Folder for the report, the pictures, the captures and the logs.
        #[arg(long, default_value = "target/takeover")]
        out: PathBuf,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match play(arguments.scenario) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("vipsec-lab: {error}");
            ExitCode::FAILURE
        }
    }
}

fn play(scenario: Scenario) -> Result<bool> {
    command::check_requirements()?;
    supervisor::clean_up_on_signals()?;
    let progress = Progress::default();
    match scenario {
        Scenario::Demo { gateway, policy, crypto_device, single, workers, connections, bulk_mib, keep, out } => {
            let pair = gateway == GatewayKind::Vipsec && !single;
            let takeover = pair.then_some(policy);
            let config = DemoConfig { gateway, crypto_device, takeover, workers, connections, bulk_mib, out };
            let (lab, report) = demo::play(&config, &progress)?;
            println!("\n{}", report.to_text());
            if pair {
                println!("  the takeover as a picture: {}", config.out.join(demo::PICTURE).display());
            }
            println!("  report, captures and logs: {}", config.out.display());
            if keep {
                println!("  the lab stays up in the namespaces {} until interrupted", lab.name());
                wait_for_signal();
            }
            Ok(report.passed)
        }
        Scenario::Exercise { gateway, out } => {
            let results = exercise::play(gateway, &out, &progress)?;
            let failed = results.iter().filter(|case| case.result == Outcome::Failed).count();
            println!("\n{} cases, {failed} failed; report, captures and logs: {}", results.len(), out.display());
            Ok(failed == 0)
        }
        Scenario::Ike { turns, initiators, batches, many, parallel, out } => {
            let config = IkeConfig { turns, initiators, batches, many, parallel, out };
            ike::play(&config, &progress)?;
            println!("\nfigures: {}", config.out.display());
            Ok(true)
        }
        Scenario::Calm { minutes, out } => {
            let config = CalmConfig { time: Duration::from_secs(60) * minutes, out };
            let report = calm::play(&config, &progress)?;
            println!("\n{}", report.summary());
            report.faults.iter().for_each(|fault| println!("  {fault}"));
            println!("report, captures and logs: {}", config.out.display());
            Ok(report.faults.is_empty())
        }
        Scenario::Failover { case, tunnels, runs, out, read, write_docs } => {
            if !read {
                let config = FailoverConfig { cases: case, tunnels, runs, out: out.clone() };
                failover::play(&config, &progress)?;
            }
            let rows = failover::read(&out)?;
            print!("\n{}", report::failover::table(&rows));
            write_docs.map_or(Ok(()), |folder| failover::write_docs(&rows, &folder))?;
            Ok(true)
        }
        Scenario::Takeover { case, runs, tunnels, out } => {
            let tales = if case.is_empty() { Tale::value_variants().to_vec() } else { case };
            let config = TakeoverConfig { tales, runs, tunnels, extent: Extent::Whole, out };
            let reports = takeover::play(&config, &progress)?;
            let failed: usize = reports.iter().map(takeover::TaleReport::failed).sum();
            let cases: usize = reports.iter().map(|report| report.cases.len()).sum();
            println!("\n{cases} cases, {failed} failed; report, pictures, captures and logs: {}", config.out.display());
            Ok(failed == 0)
        }
    }
}

/// Waits for a signal; the supervisor's thread takes the lab away and ends the process.
fn wait_for_signal() -> ! {
    loop {
        std::thread::park();
    }
}
