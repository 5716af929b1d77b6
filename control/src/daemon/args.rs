//! The daemon's command line.

use std::path::PathBuf;

use clap::Parser;

/// vipsecd: owns virtual IP addresses, ends IPsec tunnels on them, spreads connections over targets.
#[derive(Debug, Parser)]
#[command(version, about)]
pub struct Args {
    /// The configuration; examples/vipsec.toml shows every key.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Check the configuration, say what is wrong with it, and end.
    #[arg(long)]
    pub check: bool,
    /// Accept a configuration with a [test] table: child SAs with keys from a file, without IKE.
    #[arg(long)]
    pub test_configuration: bool,
    /// End when every port that reads a capture has come to its end; print the counters as JSON.
    #[arg(long)]
    pub exit_at_end: bool,
}
