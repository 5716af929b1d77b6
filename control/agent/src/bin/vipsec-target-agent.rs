//! `vipsec-target-agent`: tells the appliances how a target is.
#![forbid(unsafe_code)]

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::Parser;
use vipsec_agent::notice::NoticeKey;
use vipsec_agent::secret::{SecretError, read_secret};
use vipsec_agent::server::{Sources, serve, serve_notices};

/// Tells whoever connects how this target is, in one line of HAProxy's agent check: `ready up 75%`, `drain up`, `down #why`.
///
/// The share comes from the machine's load. A file and a command may say otherwise; of several words, `down` and `drain` are heard,
/// and the smallest share.
#[derive(Debug, Parser)]
#[command(name = "vipsec-target-agent", version)]
struct Arguments {
    /// Where to listen
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "[::]:9777")]
    listen: SocketAddr,
    /// Running processes per core that count as full load; 0: the load doesn't matter
    #[arg(long, value_name = "NUMBER", default_value = "1", value_parser = load_full)]
    full_load: f64,
    /// A file whose first line has words to answer with, like `drain`; missing or empty, it says nothing
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// A command for the shell whose first line of output has words to answer with; if it fails, the target is down
    #[arg(long, value_name = "COMMAND")]
    command: Option<String>,
    /// Seconds between two looks at load, file and command; also the longest time that the command may take
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = clap::value_parser!(u64).range(1..=3600))]
    interval: u64,
    /// Where to hear of new owners of VIPs, with --secret
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "[::]:9778")]
    notices: SocketAddr,
    /// A file with the secret that the appliances share with the agents, at least 32 bytes, readable by nobody else; without it no notices are taken
    #[arg(long, value_name = "FILE")]
    secret: Option<PathBuf>,
    /// A file for the owners of VIPs: a line for each with address, epoch and appliance id
    #[arg(long, value_name = "FILE", requires = "secret")]
    owners: Option<PathBuf>,
}

/// As the appliances demand it.
const SECRET_BYTES_MIN: usize = 32;

fn key(file: &Path) -> Result<NoticeKey, SecretError> {
    Ok(NoticeKey::new(&read_secret(file, SECRET_BYTES_MIN)?))
}

fn load_full(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(number @ 0.0..=1000.0) => Ok(number),
        _ => Err("not in 0..=1000".to_owned()),
    }
}

fn main() -> ExitCode {
    let Arguments { listen, full_load, file, command, interval, notices, secret, owners } = Arguments::parse();
    let interval = Duration::from_secs(interval);
    let load_full = (full_load > 0.0).then_some(full_load);
    let sources = Sources { load_full, file, command, command_max: interval };
    let key = match secret.as_deref().map(key).transpose() {
        Ok(key) => key,
        Err(error) => {
            eprintln!("vipsec-target-agent: {error}");
            return ExitCode::FAILURE;
        }
    };
    let served = TcpListener::bind(listen).and_then(|listener| {
        println!("listening on {}", listener.local_addr()?);
        if let Some(key) = key {
            let notices = TcpListener::bind(notices)?;
            println!("notices on {}", notices.local_addr()?);
            thread::Builder::new().name("notices".into()).spawn(move || {
                if let Err(error) = serve_notices(&notices, &key, owners.as_deref()) {
                    eprintln!("vipsec-target-agent: no more notices: {error}");
                }
            })?;
        }
        serve(&listener, sources, interval)
    });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vipsec-target-agent: {listen}: {error}");
            ExitCode::FAILURE
        }
    }
}
