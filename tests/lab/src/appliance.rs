//! vipsecd in a namespace: its configuration, its process, and what it says of itself.

mod config;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child as Process, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use vipsec_control::api::{Client, ClientError, Counters, IkeSa, Request, Response, Status};

pub use config::{ApplianceConfig, IkeSettings, PeerSettings, SECOND_VIP_NAME, StoreWay, TakeoverPolicy};

use crate::agent::AGENT_SECRET;
use crate::command::{self, HOUSEKEEPING_LIMIT};
use crate::error::{Context, LabError, Result};
use crate::netns::Namespace;
use crate::wait;

/// From the start of the process to an answer at its control socket. DPDK's own start takes most of it.
const START_LIMIT: Duration = Duration::from_secs(20);
/// From the order to stop to the end of the process.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// A running vipsecd.
#[derive(Debug)]
pub struct Appliance {
    process: Process,
    folder: PathBuf,
    control_socket: PathBuf,
}

/// What an appliance is to the VIP, by its own word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It owns the VIP.
    Owner,
    /// It holds a copy that it would resume from.
    Backup,
    /// Anything else, in its words.
    Other(String),
}

impl Appliance {
    /// Writes the configuration to `folder` and starts vipsecd inside `namespace`; [`Appliance::await_answer`] says when it is up.
    /// What an earlier process left in `folder` stays: its state and its log.
    pub fn launch(namespace: &Namespace, folder: &Path, config: &ApplianceConfig) -> Result<Self> {
        let vipsecd = command::project_program("vipsecd")?;
        std::fs::create_dir_all(folder.join("state")).context(|| format!("making {}", folder.display()))?;
        let file = folder.join("vipsec.toml");
        write(&file, &config.to_toml(folder)?)?;
        for connection in &config.connections {
            write(&folder.join(config::secret_file(connection)), &connection.secret)?;
        }
        if let Some(peer) = config.peers.first() {
            write(&folder.join(config::PAIR_SECRET_FILE), &peer.secret)?;
        }
        if config.has_agents {
            write(&folder.join(config::AGENT_SECRET_FILE), AGENT_SECRET)?;
        }
        let log = folder.join("vipsecd.log");
        let what = || format!("opening {}", log.display());
        let output = std::fs::OpenOptions::new().create(true).append(true).open(&log).context(what)?;
        let errors = output.try_clone().context(what)?;
        // As a service has.
        let mut own_session = command::command("setsid")?;
        let process = namespace.run(|| {
            own_session
                .arg(&vipsecd)
                .arg("--config")
                .arg(&file)
                .args(config.link_versions.map(|versions| format!("--link-versions={versions}")))
                .stdin(Stdio::null())
                .env("NO_COLOR", "1")
                .envs(config.log_filter.map(|filter| ("VIPSEC_LOG", filter)))
                .stdout(output)
                .stderr(errors)
                .spawn()
                .context(|| format!("starting {}", vipsecd.display()))
        })?;
        let control_socket = config::control_socket(folder);
        Ok(Self { process, folder: folder.to_owned(), control_socket })
    }

    /// Waits until it answers.
    pub fn await_answer(&mut self) -> Result<()> {
        wait::until_true("vipsecd to answer at its control socket", START_LIMIT, || {
            self.check_alive()?;
            Ok(self.status().is_ok())
        })
    }

    /// What it says that it is to the first VIP.
    pub fn standing(&self) -> Result<Standing> {
        self.standing_for(0)
    }

    /// What it says that it is to a VIP, by its place in the plan.
    pub fn standing_for(&self, vip: usize) -> Result<Standing> {
        let status = self.status()?;
        let state = status.vips.get(vip).map_or("", |vip| vip.state.as_str());
        Ok(match state {
            "owner" => Standing::Owner,
            "backup" => Standing::Backup,
            other => Standing::Other(other.to_owned()),
        })
    }

    /// Does it own the VIP without anyone who holds a copy?
    pub fn is_unprotected(&self) -> Result<bool> {
        Ok(self.status()?.vips.first().is_some_and(|vip| vip.copy.as_deref() == Some("unprotected")))
    }

    /// Its IKE SAs.
    pub fn ike_sas(&self) -> Result<Vec<IkeSa>> {
        match self.ask(&Request::Sas)? {
            Response::Sas(sas) => Ok(sas.ike_sas),
            other => Err(unexpected(&other)),
        }
    }

    /// Orders the rekeying of the first IKE SA's first child SA.
    pub fn rekey_child(&self) -> Result<()> {
        let sas = self.ike_sas()?;
        let child = sas.iter().find_map(|sa| sa.children.first());
        self.order(&Request::RekeyChild { spi: child.ok_or_else(no_sa)?.spi_in })
    }

    /// Orders the rekeying of the first IKE SA.
    pub fn rekey_ike(&self) -> Result<()> {
        self.order(&Request::RekeyIke { spi: self.ike_sas()?.first().ok_or_else(no_sa)?.spi })
    }

    /// Orders the first VIP to another appliance, by its name. Returns when it is there.
    pub fn move_vip(&self, to: &str) -> Result<()> {
        self.order(&Request::MoveVip { vip: "web".to_owned(), to: to.to_owned() })
    }

    /// Everything that it counts.
    pub fn counters(&self) -> Result<Counters> {
        match self.ask(&Request::Counters)? {
            Response::Counters(counters) => Ok(counters),
            other => Err(unexpected(&other)),
        }
    }

    /// Packets that it dropped, by reason; only those that occurred.
    pub fn drops(&self) -> Result<BTreeMap<String, u64>> {
        Ok(self.counters()?.drops.into_iter().filter(|(_, count)| *count > 0).collect())
    }

    /// Connections of its groups that the store knows of.
    pub fn pins(&self) -> Result<u64> {
        match self.ask(&Request::Store)? {
            Response::Store(store) => Ok(store.groups.iter().map(|group| group.pins).sum()),
            other => Err(unexpected(&other)),
        }
    }

    /// How it is.
    pub fn status(&self) -> Result<Status> {
        match self.ask(&Request::Status)? {
            Response::Status(status) => Ok(*status),
            other => Err(unexpected(&other)),
        }
    }

    fn order(&self, request: &Request) -> Result<()> {
        match self.ask(request)? {
            Response::Done { .. } => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    fn ask(&self, request: &Request) -> Result<Response> {
        let failed = |error: ClientError| LabError::Answer {
            what: format!("asking vipsecd for {request:?}"),
            answer: error.to_string(),
        };
        Client::connect(&self.control_socket, HOUSEKEEPING_LIMIT).map_err(failed)?.call(request).map_err(failed)
    }

    /// What the operator's command prints for `arguments`.
    pub fn operator(&self, arguments: &[&str]) -> Result<String> {
        let mut vipsec = Command::new(command::project_program("vipsec")?);
        vipsec.arg("--socket").arg(&self.control_socket).args(arguments);
        command::run(vipsec, HOUSEKEEPING_LIMIT)
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

    /// Kills it at once. What the system does to take it away takes longer, and isn't waited for.
    pub fn kill(&self) -> Result<()> {
        self.signal(Signal::SIGKILL)
    }

    /// Tells it to stop and waits for its end.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.await_end()
    }

    /// Waits for the end of one that was killed, or told to stop.
    pub fn await_end(&mut self) -> Result<ExitStatus> {
        let process = &mut self.process;
        wait::until("vipsecd to end", STOP_LIMIT, || {
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

fn unexpected(response: &Response) -> LabError {
    LabError::Answer { what: "asking vipsecd".to_owned(), answer: format!("{response:?}") }
}

fn no_sa() -> LabError {
    LabError::Expectation { what: "a vipsecd with an SA".to_owned(), found: "it has none".to_owned() }
}

/// Writes a file that only root may read: vipsecd takes no secret that others can see.
fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).context(|| format!("writing {}", path.display()))?;
    let mode = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(path, mode).context(|| format!("protecting {}", path.display()))
}
