//! vipsecd in a namespace: its configuration, its process, and what it says of itself.

mod config;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child as Process, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

pub use config::{ApplianceConfig, IkeSettings};

use crate::command::{self, HOUSEKEEPING_LIMIT};
use crate::error::{Context, LabError, Result};
use crate::netns::Namespace;
use crate::wait;

/// From the start of the process to an answer at its control socket. DPDK's own start takes most of it.
const START_LIMIT: Duration = Duration::from_secs(20);
/// From the order to stop to the end of the process.
const STOP_LIMIT: Duration = Duration::from_secs(5);
/// Version of the control API.
const API_VERSION: u32 = 1;

/// A running vipsecd.
#[derive(Debug)]
pub struct Appliance {
    process: Process,
    folder: PathBuf,
    control_socket: PathBuf,
}

impl Appliance {
    /// Writes the configuration to `folder`, starts vipsecd inside `namespace`, and waits until it answers.
    pub fn start(namespace: &Namespace, folder: &Path, config: &ApplianceConfig) -> Result<Self> {
        let vipsecd = command::project_program("vipsecd")?;
        std::fs::create_dir_all(folder.join("state")).context(|| format!("making {}", folder.display()))?;
        let file = folder.join("vipsec.toml");
        write(&file, &config.to_toml(folder)?)?;
        for connection in &config.connections {
            write(&folder.join(config::secret_file(connection)), &connection.secret)?;
        }
        let log = std::fs::File::create(folder.join("vipsecd.log")).context(|| "creating vipsecd.log".to_owned())?;
        let errors = log.try_clone().context(|| "creating vipsecd.log".to_owned())?;
        let process = namespace.run(|| {
            Command::new(&vipsecd)
                .arg("--config")
                .arg(&file)
                .stdin(Stdio::null())
                .stdout(log)
                .stderr(errors)
                .spawn()
                .context(|| format!("starting {}", vipsecd.display()))
        })?;
        let control_socket = config::control_socket(folder);
        let mut appliance = Self { process, folder: folder.to_owned(), control_socket };
        wait::until_true("vipsecd to answer at its control socket", START_LIMIT, || {
            appliance.check_alive()?;
            Ok(appliance.ask(&json!({"command": "status"})).is_ok())
        })?;
        Ok(appliance)
    }

    /// How many IKE SAs it has.
    pub fn ike_sas(&self) -> Result<Vec<Value>> {
        let answer = self.ask(&json!({"command": "sas"}))?;
        Ok(answer.get("ike_sas").and_then(Value::as_array).cloned().unwrap_or_default())
    }

    /// Orders the rekeying of its (only) child SA.
    pub fn rekey_child(&self) -> Result<()> {
        let spi = self.ike_sas()?.iter().find_map(|sa| sa.pointer("/children/0/spi_in").cloned());
        self.ask(&json!({"command": "rekey-child", "spi": spi})).map(drop)
    }

    /// Orders the rekeying of its (only) IKE SA.
    pub fn rekey_ike(&self) -> Result<()> {
        let spi = self.ike_sas()?.iter().find_map(|sa| sa.get("spi").cloned());
        self.ask(&json!({"command": "rekey-ike", "spi": spi})).map(drop)
    }

    /// Packets dropped, by reason; only those that occurred.
    pub fn drops(&self) -> Result<BTreeMap<String, u64>> {
        let answer = self.ask(&json!({"command": "counters"}))?;
        let drops = answer.get("drops").and_then(Value::as_object);
        let counts = drops.into_iter().flatten().filter_map(|(reason, count)| Some((reason.clone(), count.as_u64()?)));
        Ok(counts.filter(|(_, count)| *count > 0).collect())
    }

    /// What the operator's command prints for `arguments`.
    pub fn operator(&self, arguments: &[&str]) -> Result<String> {
        let mut vipsec = Command::new(command::project_program("vipsec")?);
        vipsec.arg("--socket").arg(&self.control_socket).args(arguments);
        command::run(vipsec, HOUSEKEEPING_LIMIT)
    }

    /// Asks at the control socket; returns what is under `ok`.
    fn ask(&self, request: &Value) -> Result<Value> {
        let what = || format!("asking vipsecd: {request}");
        let mut stream = UnixStream::connect(&self.control_socket).context(what)?;
        stream.set_read_timeout(Some(HOUSEKEEPING_LIMIT)).context(what)?;
        let line = json!({"version": API_VERSION, "request": request}).to_string() + "\n";
        stream.write_all(line.as_bytes()).context(what)?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).context(what)?;
        let parsed: Option<Value> = serde_json::from_str(&answer).ok();
        let ok = parsed.and_then(|mut parsed| parsed.get_mut("ok").map(Value::take));
        ok.ok_or_else(|| LabError::Answer { what: what(), answer })
    }

    /// Its log file.
    pub fn log(&self) -> PathBuf {
        self.folder.join("vipsecd.log")
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Stops all its threads in mid-air until [`Appliance::thaw`].
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Lets it go on after [`Appliance::freeze`].
    pub fn thaw(&self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    /// Kills it at once.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill().context(|| "killing vipsecd".to_owned())?;
        self.process.wait().context(|| "waiting for vipsecd's end".to_owned())?;
        Ok(())
    }

    /// Tells it to stop and waits for its end.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        let process = &mut self.process;
        wait::until("vipsecd to end after SIGTERM", STOP_LIMIT, || {
            process.try_wait().context(|| "waiting for vipsecd's end".to_owned())
        })
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.process.id()).unwrap_or(i32::MAX);
        kill(Pid::from_raw(pid), signal).context(|| format!("sending {signal} to vipsecd"))
    }

    fn check_alive(&mut self) -> Result<()> {
        match self.process.try_wait().context(|| "looking after vipsecd".to_owned())? {
            None => Ok(()),
            Some(status) => Err(LabError::Ended {
                process: "vipsecd".to_owned(),
                status: status.to_string(),
                log: command::end_of_log(&self.log()),
            }),
        }
    }
}

impl Drop for Appliance {
    fn drop(&mut self) {
        if matches!(self.process.try_wait(), Ok(None)) && self.terminate().is_err() {
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }
}

/// Writes a file that only root may read: vipsecd takes no secret that others can see.
fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).context(|| format!("writing {}", path.display()))?;
    let mode = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(path, mode).context(|| format!("protecting {}", path.display()))
}
