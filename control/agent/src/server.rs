//! Answers whoever connects with the newest line.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use thiserror::Error;

use crate::answer::{combine, minute_load, share_at};
use crate::notice::{Answer, NOTICE_BYTES_MAX, Notice, NoticeError, NoticeKey, Owners};
use crate::{AgentReport, LINE_BYTES_MAX};

/// Between two looks at a command that runs.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// How long a client may take to accept a line.
const WRITE_MAX: Duration = Duration::from_secs(1);

/// How long a client may take to send a notice.
const NOTICE_MAX: Duration = Duration::from_secs(1);

/// Why a notice wasn't taken, or its answer is missing.
#[derive(Debug, Error)]
pub enum ExchangeError {
    /// The connection doesn't work.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// What came isn't to be believed.
    #[error(transparent)]
    Notice(#[from] NoticeError),
}

/// Where the answer comes from.
#[derive(Debug, Clone)]
pub struct Sources {
    /// Processes per core at which the machine is full; `None`: its load doesn't matter.
    pub load_full: Option<f64>,
    /// A file with an agent's words, in its first line. Missing or empty, it says nothing.
    pub file: Option<PathBuf>,
    /// A command for the shell, whose output's first line has an agent's words. When it fails, the application is down.
    pub command: Option<String>,
    /// How long the command may take.
    pub command_max: Duration,
}

/// Why the application counts as down.
#[derive(Debug, Error)]
enum Trouble {
    #[error("{0}: {1}")]
    File(PathBuf, io::Error),
    #[error("the command can't be run: {0}")]
    Run(io::Error),
    #[error("the command takes longer than {0:?}")]
    TooLong(Duration),
    #[error("the command failed: {0}")]
    Failed(std::process::ExitStatus),
    #[error(transparent)]
    Words(#[from] crate::AgentError),
}

impl Sources {
    /// The line to answer with, its end included.
    pub fn line(&self) -> String {
        let mut line = match self.report() {
            Ok(report) => report.to_string(),
            // HAProxy logs what stands behind the sharp.
            Err(trouble) => format!("down #{trouble}").replace(['\r', '\n'], " "),
        };
        line.truncate(line.floor_char_boundary(LINE_BYTES_MAX - 1));
        line + "\n"
    }

    fn report(&self) -> Result<AgentReport, Trouble> {
        let file = self.read_file()?;
        let command = match &self.command {
            Some(command) => self.run(command)?,
            None => String::new(),
        };
        Ok(combine(self.share(), &[first_line(&file), first_line(&command)])?)
    }

    fn share(&self) -> Option<u16> {
        let load = minute_load(&std::fs::read_to_string("/proc/loadavg").ok()?)?;
        Some(share_at(load, thread::available_parallelism().ok()?, self.load_full?))
    }

    fn read_file(&self) -> Result<String, Trouble> {
        let Some(path) = &self.file else { return Ok(String::new()) };
        let mut text = Vec::new();
        let read = std::fs::File::open(path).and_then(|file| file.take(LINE_BYTES_MAX as u64).read_to_end(&mut text));
        match read {
            Ok(_) => Ok(String::from_utf8_lossy(&text).into_owned()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            Err(error) => Err(Trouble::File(path.clone(), error)),
        }
    }

    fn run(&self, command: &str) -> Result<String, Trouble> {
        let mut child = Command::new("sh")
            .args(["-c", command])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(Trouble::Run)?;
        // On a thread of its own: a command may keep its output open for longer than it may run.
        let (text, output) = (Arc::new(Mutex::new(Vec::new())), child.stdout.take());
        let reader = thread::spawn({
            let text = text.clone();
            move || {
                let mut line = Vec::new();
                // What can't be read was not said.
                let _ = output.map(|output| output.take(LINE_BYTES_MAX as u64).read_to_end(&mut line));
                *text.lock().unwrap_or_else(PoisonError::into_inner) = line;
            }
        });
        let deadline = Instant::now() + self.command_max;
        let status = loop {
            match child.try_wait().map_err(Trouble::Run)? {
                Some(status) if reader.is_finished() => break status,
                _ if Instant::now() < deadline => thread::sleep(LOOK_AGAIN),
                _ => {
                    // With everything that it started. It may have ended this moment.
                    let _ = i32::try_from(child.id()).map(|id| killpg(Pid::from_raw(id), Signal::SIGKILL));
                    let _ = child.wait();
                    return Err(Trouble::TooLong(self.command_max));
                }
            }
        };
        if !status.success() {
            return Err(Trouble::Failed(status));
        }
        let line = text.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(String::from_utf8_lossy(&line).into_owned())
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// Finds out anew every `interval`, and answers all who connect with the newest line, until the process ends.
///
/// # Errors
/// The listener doesn't work.
pub fn serve(listener: &TcpListener, sources: Sources, interval: Duration) -> io::Result<()> {
    let newest = Arc::new(Mutex::new(sources.line()));
    thread::Builder::new().name("sources".into()).spawn({
        let newest = newest.clone();
        move || {
            loop {
                thread::sleep(interval);
                let line = sources.line();
                *newest.lock().unwrap_or_else(PoisonError::into_inner) = line;
            }
        }
    })?;
    loop {
        match listener.accept() {
            Ok((client, _)) => {
                let line = newest.lock().unwrap_or_else(PoisonError::into_inner).clone();
                if let Err(error) = answer(client, &line) {
                    eprintln!("vipsec-target-agent: {error}");
                }
            }
            Err(error) if is_the_clients(&error) => {}
            Err(error) => return Err(error),
        }
    }
}

fn answer(mut client: TcpStream, line: &str) -> io::Result<()> {
    client.set_write_timeout(Some(WRITE_MAX))?;
    client.write_all(line.as_bytes())?;
    client.shutdown(std::net::Shutdown::Write)?;
    // What was sent to us is read as far as it has arrived: closed with something unread, the connection would be reset, and the
    // line perhaps lost.
    client.set_nonblocking(true)?;
    let _ = client.read(&mut [0; LINE_BYTES_MAX]);
    Ok(())
}

/// Takes notices of new owners from whoever connects and knows the secret, until the process ends. `file`: where the owners stand,
/// before and after.
///
/// # Errors
/// The listener doesn't work.
pub fn serve_notices(listener: &TcpListener, key: &NoticeKey, file: Option<&Path>) -> io::Result<()> {
    let known = file.and_then(|file| std::fs::read_to_string(file).ok());
    let mut owners = known.map_or_else(Owners::default, |text| Owners::from_text(&text));
    loop {
        match listener.accept() {
            Ok((client, _)) => {
                if let Err(error) = take_notice(client, key, &mut owners, file) {
                    eprintln!("vipsec-target-agent: notice: {error}");
                }
            }
            Err(error) if is_the_clients(&error) => {}
            Err(error) => return Err(error),
        }
    }
}

fn take_notice(
    mut client: TcpStream,
    key: &NoticeKey,
    owners: &mut Owners,
    file: Option<&Path>,
) -> Result<(), ExchangeError> {
    client.set_write_timeout(Some(WRITE_MAX))?;
    let line = read_line(&mut client, NOTICE_MAX)?;
    let before = owners.clone();
    let answer = owners.take(key.read_notice(&line)?);
    match &answer {
        Answer::Known(Notice { vip, epoch, owner }) if *owners != before => {
            println!("{vip} is owned by appliance {owner} (epoch {epoch})");
            if let Some(file) = file {
                replace(file, &owners.to_text())?;
            }
        }
        Answer::Known(_) => {}
        Answer::Newer(Notice { vip, epoch, owner }) => {
            println!("refused an older owner of {vip}: it is owned by appliance {owner} (epoch {epoch})");
        }
    }
    client.write_all(key.answer(&answer).as_bytes())?;
    Ok(())
}

/// A line, within that time.
pub fn read_line(client: &mut TcpStream, time: Duration) -> io::Result<String> {
    let deadline = Instant::now() + time;
    let mut line = Vec::new();
    let mut buffer = [0; NOTICE_BYTES_MAX];
    while !line.contains(&b'\n') && line.len() < NOTICE_BYTES_MAX {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        client.set_read_timeout(Some(left))?;
        match client.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => line.extend_from_slice(buffer.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(String::from_utf8_lossy(&line).lines().next().unwrap_or_default().to_owned())
}

/// Readers see the old text or the new one.
fn replace(file: &Path, text: &str) -> io::Result<()> {
    let mut new = file.as_os_str().to_owned();
    new.push(".new");
    std::fs::write(&new, text)?;
    std::fs::rename(&new, file)
}

/// The client went away before it was accepted (accept(2)).
fn is_the_clients(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}
