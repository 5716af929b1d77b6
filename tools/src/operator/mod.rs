//! What `vipsec` does: asks a running `vipsecd` over its control socket and shows the answer, or checks a configuration.

mod arguments;
mod render;
mod table;

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::json;
use thiserror::Error;
use vipsec_control::api::{Client, ClientError, Request, Response};
use vipsec_control::config::{ConfigErrors, load};

pub use arguments::{Arguments, CheckConfig, Command, IkeCommand, TargetCommand, VipCommand};

use arguments::Task;

/// Where daemons put their control sockets if their configurations don't say otherwise.
const RUN_FOLDER: &str = "/run/vipsec";

/// How the command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Exit code 0.
    Done,
    /// The daemon refused, or the configuration has mistakes: exit code 1. (2 is clap's, for a wrong command line.)
    Failed,
    /// No daemon listens: exit code 3.
    NoDaemon,
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Done => Self::SUCCESS,
            Outcome::Failed => Self::FAILURE,
            Outcome::NoDaemon => Self::from(3),
        }
    }
}

#[derive(Debug, Error)]
enum OperatorError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("no vipsecd listens in {RUN_FOLDER}; name its socket with --socket")]
    NoSocket,
    #[error("several vipsecd listen in {RUN_FOLDER}; name one with --socket: {}", .0.join(", "))]
    ManySockets(Vec<String>),
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    #[error("cannot write the answer: {0}")]
    Output(#[from] io::Error),
}

/// Carries out one command line.
pub fn run(arguments: Arguments, out: &mut impl Write, err: &mut impl Write) -> Outcome {
    let result = match arguments.command.task() {
        Task::Ask(request) => ask(&arguments, &request, out),
        Task::Check(check) => check_config(check, arguments.json, out),
    };
    let (outcome, message) = match result {
        Ok(()) => return Outcome::Done,
        // Whoever reads our output has seen enough, as with `vipsec connections | head`.
        Err(OperatorError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => return Outcome::Done,
        Err(OperatorError::Config(errors)) => (Outcome::Failed, errors.to_string()),
        Err(error @ (OperatorError::NoSocket | OperatorError::Client(ClientError::NoDaemon(_)))) => {
            (Outcome::NoDaemon, format!("vipsec: {error}"))
        }
        Err(error) => (Outcome::Failed, format!("vipsec: {error}")),
    };
    // Without a place to complain the exit code has to do.
    let _ = writeln!(err, "{message}");
    outcome
}

fn ask(arguments: &Arguments, request: &Request, out: &mut impl Write) -> Result<(), OperatorError> {
    let socket = match &arguments.socket {
        Some(socket) => socket.clone(),
        None => only_socket(Path::new(RUN_FOLDER))?,
    };
    let response = Client::connect(&socket, arguments.timeout)?.call(request)?;
    write_response(&response, arguments.json, out)?;
    Ok(())
}

fn write_response(response: &Response, json: bool, out: &mut impl Write) -> io::Result<()> {
    if json { writeln!(out, "{}", serde_json::to_string_pretty(response)?) } else { render::response(response, out) }
}

/// The control socket in `folder`, if there is exactly one.
fn only_socket(folder: &Path) -> Result<PathBuf, OperatorError> {
    let entries = fs::read_dir(folder).map_err(|_| OperatorError::NoSocket)?;
    let sockets = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_socket()));
    let mut sockets: Vec<PathBuf> = sockets.map(|entry| entry.path()).collect();
    sockets.sort();
    match sockets.as_slice() {
        [] => Err(OperatorError::NoSocket),
        [socket] => Ok(socket.clone()),
        many => Err(OperatorError::ManySockets(many.iter().map(|path| path.display().to_string()).collect())),
    }
}

fn check_config(check: &CheckConfig, json: bool, out: &mut impl Write) -> Result<(), OperatorError> {
    let loaded = load(&check.file, check.test());
    if json {
        let errors: Vec<_> = loaded.as_ref().err().map_or(&[][..], |errors| &errors.0).iter().collect();
        let errors = errors.iter().map(|error| {
            json!({ "file": error.file, "line": error.line, "key": error.key, "reason": error.reason.to_string() })
        });
        let answer = json!({ "valid": loaded.is_ok(), "errors": errors.collect::<Vec<_>>() });
        writeln!(out, "{}", serde_json::to_string_pretty(&answer).map_err(io::Error::from)?)?;
    }
    let config = loaded?;
    if !json {
        let (id, name) = (config.appliance.id, &config.appliance.name);
        writeln!(
            out,
            "{}: good: appliance {id} ({name}) with {} ports, {} VIPs, {} targets, {} services, {} connections",
            check.file.display(),
            config.ports.len(),
            config.vips.len(),
            config.targets.len(),
            config.services.len(),
            config.connections.len(),
        )?;
    }
    Ok(())
}
