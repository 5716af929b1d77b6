//! `vipsec-ikegen`: thousands of IKEv2 initiators against one gateway.
#![forbid(unsafe_code)]

mod args;
mod drive;
mod sockets;

use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use thiserror::Error;
use vipsec_ikegen::AddressesExhausted;

use args::Arguments;

/// Why there is no result.
#[derive(Debug, Error)]
enum Failure {
    #[error("{}: {error}", path.display())]
    File { path: PathBuf, error: io::Error },
    #[error("port {port} of the initiators' addresses: {error}")]
    Bind { port: u16, error: io::Error },
    #[error(
        "{0} is no address of this machine; make the initiators' addresses local: ip route add local PREFIX dev lo"
    )]
    NotLocal(std::net::IpAddr),
    #[error(transparent)]
    Addresses(#[from] AddressesExhausted),
    #[error(transparent)]
    System(#[from] io::Error),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(2),
        Err(error) => {
            eprintln!("vipsec-ikegen: {error}");
            ExitCode::FAILURE
        }
    }
}

/// True if every initiator had what it wanted, to the end.
fn run(arguments: &Arguments) -> Result<bool, Failure> {
    let file = |path: &PathBuf, error| Failure::File { path: path.clone(), error };
    let secret = fs::read(&arguments.secret_file).map_err(|error| file(&arguments.secret_file, error))?;
    let report = drive::drive(arguments, secret.trim_ascii_end())?;
    print!("{report}");
    if let Some(path) = &arguments.json {
        let text = serde_json::to_string_pretty(&report).map_err(io::Error::from)?;
        fs::write(path, text + "\n").map_err(|error| file(path, error))?;
    }
    Ok(report.established == report.initiators as u64 && report.lost == 0)
}
