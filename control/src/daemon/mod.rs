//! The process around the core: threads, sockets, files, timers, devices.

mod args;
mod control;
mod etcd;
mod fitness;
mod floors;
mod hardening;
mod keylog;
mod link;
mod meeting;
mod ports;
mod prober;
mod punctuality;
mod reload;
mod signals;
mod teller;
mod workers;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use thiserror::Error;
use vipsec_store::LinkError;

use crate::api::BindError;
use crate::config::{Config, ConfigErrors, TestConfiguration};

pub use args::Args;
pub use etcd::read_reply;
use floors::FloorError;
use keylog::KeyLogError;
use ports::PortsError;
use reload::ConfigSource;

/// Why the daemon could not start, or had to end.
#[derive(Debug, Error)]
pub enum DaemonError {
    /// One line per mistake.
    #[error("{0}")]
    Config(#[from] ConfigErrors),
    /// Another daemon, or the path.
    #[error(transparent)]
    ControlSocket(#[from] BindError),
    /// EAL, mempool or a port.
    #[error(transparent)]
    Ports(#[from] PortsError),
    /// The state folder.
    #[error(transparent)]
    Floors(#[from] FloorError),
    /// The key log that the configuration asked for.
    #[error(transparent)]
    KeyLog(#[from] KeyLogError),
    /// The configuration's services contradict each other.
    #[error("services: {0}")]
    Services(#[from] vipsec_distribute::service::ServiceError),
    /// The store link can't be set up.
    #[error("store link: {0}")]
    StoreLink(#[from] LinkError),
    /// A thread could not be started, or a signal not be caught.
    #[error("{0}")]
    System(#[from] std::io::Error),
    /// A worker thread is gone.
    #[error("worker {0} ended unexpectedly")]
    WorkerGone(usize),
    /// `--exit-at-end` with ports that never end.
    #[error("--exit-at-end needs at least one port that reads a capture (net_pcap with rx_pcap=)")]
    NoEnd,
}

/// Runs the daemon with the process's arguments.
pub fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vipsecd: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), DaemonError> {
    let test = if args.test_configuration { TestConfiguration::Accepted } else { TestConfiguration::Refused };
    let source = ConfigSource { path: args.config.clone(), test };
    let config = source.load()?;
    if args.check {
        println!("{}: the configuration is valid", args.config.display());
        return Ok(());
    }
    start_log(&config);
    control::serve(source, Arc::new(config), args.link_versions, args.exit_at_end)
}

fn start_log(config: &Config) {
    let filter = tracing_subscriber::EnvFilter::try_from_env("VIPSEC_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(config.appliance.log.as_str()));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
}
