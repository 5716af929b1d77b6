//! The command line.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use vipsec_control::api::{EspSpi, IkeSpi, Request};
use vipsec_control::config::TestConfiguration;

/// Ask and order a running vipsecd.
///
/// Exit codes: 0 done; 1 refused, failed, or mistakes in a configuration; 2 wrong command line; 3 no vipsecd listens.
#[derive(Debug, Parser)]
#[command(name = "vipsec", version)]
pub struct Arguments {
    /// Control socket of the vipsecd [default: the only one in /run/vipsec]
    #[arg(long, global = true, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Answer in JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// Seconds to wait for an answer
    #[arg(long, global = true, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub timeout: Duration,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds @ 1..=3600) => Ok(Duration::from_secs(seconds)),
        _ => Err("not in 1..=3600".to_owned()),
    }
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Appliance, VIPs and their owners, ports, workers, dropped packets
    Status,
    /// IKE SAs and their child SAs
    Sas,
    /// Connections through the VIPs
    Connections {
        /// Most entries to show
        #[arg(long, default_value_t = 100)]
        max: usize,
    },
    /// The store: regions, copies and their lag
    Store,
    /// Services behind the VIPs, and who answers for them
    Services,
    /// Targets and their health
    Targets,
    /// Neighbour cache
    Neighbours,
    /// Everything that is counted
    Counters,
    /// Call, rekey or delete
    #[command(subcommand)]
    Ike(IkeCommand),
    /// Move a VIP between appliances
    #[command(subcommand)]
    Vip(VipCommand),
    /// Drain or enable a target
    #[command(subcommand)]
    Target(TargetCommand),
    /// Check a configuration, without a daemon
    CheckConfig(CheckConfig),
    /// Have the vipsecd read its configuration anew; SAs of connections that didn't change stay as they are
    Reload,
    /// End the vipsecd
    Shutdown,
}

/// Orders about SAs. SPIs are in hexadecimal, as `vipsec sas` shows them.
#[derive(Debug, Subcommand)]
pub enum IkeCommand {
    /// Call the remote peer of a connection
    Initiate {
        /// Name of the connection
        connection: String,
        /// Name of one of its children [default: the first]
        #[arg(long)]
        child: Option<String>,
    },
    /// Rekey a child SA
    RekeyChild {
        /// Our inbound SPI
        spi: EspSpi,
    },
    /// Rekey an IKE SA
    RekeyIke {
        /// Our SPI
        spi: IkeSpi,
    },
    /// Delete an IKE SA and its children
    Delete {
        /// Our SPI
        spi: IkeSpi,
    },
    /// Hear a remote peer again that is quarantined
    Release {
        /// Its address, as `vipsec status` shows it
        remote: IpAddr,
    },
}

/// Orders about VIPs.
#[derive(Debug, Subcommand)]
pub enum VipCommand {
    /// Give a VIP, and those of its group, to an appliance: SAs and connections go along. Answers when it is there
    Move {
        /// Name of the VIP
        vip: String,
        /// Name or id of the appliance that shall own it
        #[arg(long, value_name = "APPLIANCE")]
        to: String,
    },
}

/// Orders about targets. In a pair, tell the owner: its successor goes on from there.
#[derive(Debug, Subcommand)]
pub enum TargetCommand {
    /// Give a target no new connections; those that it has go on
    Drain {
        /// Name of the target
        target: String,
    },
    /// Give a target new connections again, as its health allows
    Enable {
        /// Name of the target
        target: String,
    },
}

/// What `check-config` takes.
#[derive(Debug, Clone, Args)]
pub struct CheckConfig {
    /// The configuration
    pub file: PathBuf,
    /// Accept static child SAs, as vipsecd does with the same option
    #[arg(long)]
    pub test_configuration: bool,
}

impl CheckConfig {
    pub(super) fn test(&self) -> TestConfiguration {
        if self.test_configuration { TestConfiguration::Accepted } else { TestConfiguration::Refused }
    }
}

impl Command {
    /// What that takes.
    pub(super) fn task(&self) -> Task<'_> {
        Task::Ask(match self {
            Self::CheckConfig(check) => return Task::Check(check),
            Self::Status => Request::Status,
            Self::Sas => Request::Sas,
            Self::Connections { max } => Request::Connections { max: *max },
            Self::Store => Request::Store,
            Self::Services => Request::Services,
            Self::Targets => Request::Targets,
            Self::Neighbours => Request::Neighbours,
            Self::Counters => Request::Counters,
            Self::Reload => Request::Reload,
            Self::Shutdown => Request::Shutdown,
            Self::Ike(IkeCommand::Initiate { connection, child }) => {
                Request::Initiate { connection: connection.clone(), child: child.clone() }
            }
            Self::Ike(IkeCommand::RekeyChild { spi }) => Request::RekeyChild { spi: *spi },
            Self::Ike(IkeCommand::RekeyIke { spi }) => Request::RekeyIke { spi: *spi },
            Self::Ike(IkeCommand::Delete { spi }) => Request::Delete { spi: *spi },
            Self::Ike(IkeCommand::Release { remote }) => Request::ReleasePeer { remote: *remote },
            Self::Target(TargetCommand::Drain { target }) => Request::DrainTarget { target: target.clone() },
            Self::Target(TargetCommand::Enable { target }) => Request::EnableTarget { target: target.clone() },
            Self::Vip(VipCommand::Move { vip, to }) => Request::MoveVip { vip: vip.clone(), to: to.clone() },
        })
    }
}

/// What a command takes.
pub(super) enum Task<'a> {
    /// A daemon's answer.
    Ask(Request),
    /// Files.
    Check(&'a CheckConfig),
}
