//! Programs that the lab calls: found or named as missing, run with a limit.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use crate::error::{Context, LabError, Result};
use crate::wait;

/// Longest that a command of the lab's own housekeeping may take.
pub const HOUSEKEEPING_LIMIT: Duration = Duration::from_secs(10);

/// The IKE daemon, where Debian puts it.
pub const CHARON: &str = "/usr/lib/ipsec/charon";
/// The registry among more than two appliances.
pub const ETCD: &str = "etcd";

/// Programs and files that the lab needs, with the Debian package that brings each.
const REQUIREMENTS: [(&str, &str); 9] = [
    (ETCD, "etcd-server"),
    ("ip", "iproute2"),
    ("tc", "iproute2"),
    ("setsid", "util-linux"),
    ("ethtool", "ethtool"),
    ("swanctl", "strongswan-swanctl"),
    (CHARON, "strongswan-charon"),
    ("/usr/lib/ipsec/plugins/libstrongswan-kernel-libipsec.so", "libcharon-extra-plugins"),
    ("/usr/lib/ipsec/plugins/libstrongswan-curve25519.so", "libstrongswan-extra-plugins"),
];

/// Checks that the lab can work here at all.
///
/// # Errors
/// [`LabError::NotRoot`], or [`LabError::Missing`] naming the package to install.
pub fn check_requirements() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        let program = std::env::args().next().unwrap_or_else(|| "vipsec-lab".to_owned());
        return Err(LabError::NotRoot { program });
    }
    for (program, package) in REQUIREMENTS {
        if find(program).is_none() {
            return Err(LabError::Missing { program: program.to_owned(), package });
        }
    }
    Ok(())
}

/// Where `program` is: an absolute path as it stands, a name by the PATH and the system's own folders.
fn find(program: &str) -> Option<PathBuf> {
    if program.starts_with('/') {
        return Some(PathBuf::from(program)).filter(|path| path.exists());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(system).map(|folder| folder.join(program)).find(|path| path.is_file())
}

/// A program of this project, beside the one that runs (a test runs from `deps`, one folder further down).
///
/// # Errors
/// [`LabError::NotBuilt`].
pub fn project_program(program: &'static str) -> Result<PathBuf> {
    let own = std::env::current_exe().context(|| "looking up the own executable".to_owned())?;
    let folders = own.ancestors().skip(1).take(2);
    folders
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
        .ok_or_else(|| LabError::NotBuilt { program, beside: own.display().to_string() })
}

/// What a program wrote, and how it ended.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// Starts a program of the system; a missing one is named with its package.
pub fn command(program: &str) -> Result<Command> {
    let package =
        REQUIREMENTS.iter().find(|(name, _)| *name == program).map_or("that contains it", |(_, package)| package);
    let path = find(program).ok_or_else(|| LabError::Missing { program: program.to_owned(), package })?;
    Ok(Command::new(path))
}

/// Runs a command to its end, at most for `limit`; failure is an error.
pub fn run(command: Command, limit: Duration) -> Result<String> {
    run_with_input(command, "", limit)
}

/// [`run`], with something to read on its standard input.
pub fn run_with_input(command: Command, input: &str, limit: Duration) -> Result<String> {
    let line = line_of(&command);
    let output = output_of(command, input, limit)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = format!("{}{}", output.stderr, output.stdout);
    Err(LabError::Command { command: line, status: output.status.to_string(), stderr: said.trim().to_owned() })
}

/// Runs a command to its end, at most for `limit`, however it ends.
pub fn output_of(mut command: Command, input: &str, limit: Duration) -> Result<Output> {
    let line = line_of(&command);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context(|| format!("starting {line}"))?;
    let stdout = read_all(child.stdout.take());
    let stderr = read_all(child.stderr.take());
    if let Some(mut pipe) = child.stdin.take() {
        // A program that ends without reading its input says why by itself.
        let _ = pipe.write_all(input.as_bytes());
    }
    let waited = wait::until(&line, limit, || child.try_wait().context(|| format!("waiting for {line}")));
    if waited.is_err() {
        let _ = child.kill();
        let _ = child.wait();
    }
    let stdout = stdout.join().unwrap_or_default();
    let stderr = stderr.join().unwrap_or_default();
    Ok(Output { status: waited?, stdout, stderr })
}

fn read_all(pipe: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn line_of(command: &Command) -> String {
    let name = Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned();
    command.get_args().fold(name, |line, argument| format!("{line} {}", argument.to_string_lossy()))
}

/// The last lines of a log file, for an error message.
pub fn end_of_log(path: &Path) -> String {
    const LINES: usize = 20;
    let text = std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}
