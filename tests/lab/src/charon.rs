//! strongSwan's IKE daemon in a namespace: the remote peer, or a gateway to compare with.

mod config;
mod raw;

use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child as Process, Command, Stdio};
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Serialize;

pub use config::{CharonConfig, Child, Connection, DpdAction, RemoteAddress, Retransmit, Scale};

use crate::command::{self, HOUSEKEEPING_LIMIT};
use crate::error::{Context, LabError, Result};
use crate::netns::Namespace;
use crate::wait;

/// A running charon.
#[derive(Debug)]
pub struct Charon {
    process: Process,
    folder: PathBuf,
}

/// An IKE SA as charon lists it.
#[derive(Debug, Clone, Serialize)]
pub struct IkeSa {
    /// Its connection's name.
    pub connection: String,
    /// Its number in this charon.
    pub unique_id: u64,
    /// Its state: `ESTABLISHED`, `REKEYING`, …
    pub state: String,
    /// The initiator's SPI.
    pub initiator_spi: String,
    /// The responder's SPI.
    pub responder_spi: String,
    /// Its child SAs.
    pub children: Vec<ChildSa>,
}

/// A child SA as charon lists it.
#[derive(Debug, Clone, Serialize)]
pub struct ChildSa {
    /// Its name.
    pub name: String,
    /// Its state: `INSTALLED`, `REKEYED`, …
    pub state: String,
    /// Its inbound SPI, in hex.
    pub spi_in: String,
    /// Its outbound SPI, in hex.
    pub spi_out: String,
    /// Packets that came in.
    pub packets_in: u64,
    /// Packets that went out.
    pub packets_out: u64,
}

/// ESP packets that charon refused, as its log tells.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct EspRejects {
    /// Numbers already seen, or older than the window.
    pub replayed: u64,
    /// Wrong integrity check value.
    pub not_authentic: u64,
    /// For an SPI that isn't installed.
    pub unknown_spi: u64,
}

impl EspRejects {
    /// What came on top of `earlier`.
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            replayed: self.replayed.saturating_sub(earlier.replayed),
            not_authentic: self.not_authentic.saturating_sub(earlier.not_authentic),
            unknown_spi: self.unknown_spi.saturating_sub(earlier.unknown_spi),
        }
    }
}

impl Charon {
    /// Starts charon inside `namespace`, its files in `folder`, and loads its connections.
    pub fn start(namespace: &Namespace, folder: &Path, config: &CharonConfig) -> Result<Self> {
        let run = folder.join("run");
        // A pid file that a killed charon left would keep this one from starting.
        let _ = std::fs::remove_dir_all(&run);
        std::fs::create_dir_all(&run).context(|| format!("making {}", run.display()))?;
        let log = folder.join("charon.log");
        let conf = folder.join("strongswan.conf");
        write(&conf, &config::strongswan_conf(config, &log))?;
        write(&folder.join("swanctl.conf"), &config::swanctl_conf(config))?;
        let output = std::fs::File::create(folder.join("charon.out")).context(|| "creating charon.out".to_owned())?;
        let errors = output.try_clone().context(|| "creating charon.out".to_owned())?;
        let process = namespace.run(|| {
            private_run(&run)?;
            Command::new(command::CHARON)
                .env("STRONGSWAN_CONF", &conf)
                .stdin(Stdio::null())
                .stdout(output)
                .stderr(errors)
                .spawn()
                .context(|| format!("starting {}", command::CHARON))
        })?;
        let mut charon = Self { process, folder: folder.to_owned() };
        let socket = charon.socket();
        wait::until_true("charon to open its control socket", HOUSEKEEPING_LIMIT, || {
            charon.check_alive()?;
            Ok(UnixStream::connect(&socket).is_ok())
        })?;
        charon.load()?;
        Ok(charon)
    }

    /// Writes and loads another configuration of connections and secrets.
    pub fn reload(&self, config: &CharonConfig) -> Result<()> {
        write(&self.folder.join("swanctl.conf"), &config::swanctl_conf(config))?;
        self.load()
    }

    fn load(&self) -> Result<()> {
        let file = self.folder.join("swanctl.conf").display().to_string();
        self.swanctl(&["--load-all", "--file", &file], HOUSEKEEPING_LIMIT)?;
        Ok(())
    }

    /// Negotiates a connection's child SA (and the IKE SA, if there is none).
    pub fn initiate(&self, connection: &str, child: &str, limit: Duration) -> Result<()> {
        let seconds = limit.as_secs().max(1).to_string();
        let arguments = ["--initiate", "--ike", connection, "--child", child, "--timeout", &seconds];
        self.swanctl(&arguments, limit + HOUSEKEEPING_LIMIT)?;
        Ok(())
    }

    /// Asks for a rekeying of a child SA. Returns before it is done.
    pub fn rekey_child(&self, child: &str) -> Result<()> {
        self.swanctl(&["--rekey", "--child", child], HOUSEKEEPING_LIMIT)?;
        Ok(())
    }

    /// Asks for a rekeying of an IKE SA. Returns before it is done.
    pub fn rekey_ike(&self, connection: &str) -> Result<()> {
        self.swanctl(&["--rekey", "--ike", connection], HOUSEKEEPING_LIMIT)?;
        Ok(())
    }

    /// Deletes an IKE SA with its child SAs, and waits for the other end's answer.
    pub fn terminate(&self, connection: &str) -> Result<()> {
        self.swanctl(&["--terminate", "--ike", connection, "--timeout", "5"], HOUSEKEEPING_LIMIT)?;
        Ok(())
    }

    /// Deletes a child SA.
    pub fn terminate_child(&self, child: &str) -> Result<()> {
        self.swanctl(&["--terminate", "--child", child, "--timeout", "5"], HOUSEKEEPING_LIMIT)?;
        Ok(())
    }

    /// Its IKE SAs.
    pub fn sas(&self) -> Result<Vec<IkeSa>> {
        let text = self.swanctl(&["--list-sas", "--raw"], HOUSEKEEPING_LIMIT)?;
        let mut sas = Vec::new();
        for line in text.lines().filter(|line| line.starts_with("list-sa event")) {
            let message = raw::parse(line)
                .ok_or_else(|| LabError::Answer { what: "swanctl --list-sas".to_owned(), answer: line.to_owned() })?;
            sas.extend(message.sections.iter().map(|(name, section)| ike_sa(name, section)));
        }
        Ok(sas)
    }

    /// What `swanctl --list-sas` shows.
    pub fn sas_text(&self) -> Result<String> {
        self.swanctl(&["--list-sas"], HOUSEKEEPING_LIMIT)
    }

    /// ESP packets refused so far.
    pub fn esp_rejects(&self) -> EspRejects {
        let log = std::fs::read(self.log()).map(|log| String::from_utf8_lossy(&log).into_owned()).unwrap_or_default();
        let count = |text: &str| log.lines().filter(|line| line.contains(text)).count() as u64;
        EspRejects {
            replayed: count("ESP sequence number verification failed"),
            not_authentic: count("ESP decryption or ICV verification failed"),
            unknown_spi: count("inbound ESP packet does not belong to an installed SA"),
        }
    }

    /// Its log file.
    pub fn log(&self) -> PathBuf {
        self.folder.join("charon.log")
    }

    /// Stops it in mid-air: it neither sends nor answers until [`Charon::thaw`].
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Lets it go on after [`Charon::freeze`].
    pub fn thaw(&self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    /// Kills it at once, without a goodbye to its peers.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill().context(|| "killing charon".to_owned())?;
        self.process.wait().context(|| "waiting for charon's end".to_owned())?;
        Ok(())
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.process.id()).unwrap_or(i32::MAX);
        kill(Pid::from_raw(pid), signal).context(|| format!("sending {signal} to charon"))
    }

    fn check_alive(&mut self) -> Result<()> {
        match self.process.try_wait().context(|| "looking after charon".to_owned())? {
            None => Ok(()),
            Some(status) => Err(LabError::Ended {
                process: "charon".to_owned(),
                status: status.to_string(),
                log: command::end_of_log(&self.log()) + &command::end_of_log(&self.folder.join("charon.out")),
            }),
        }
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("run/charon.vici")
    }

    fn swanctl(&self, arguments: &[&str], limit: Duration) -> Result<String> {
        let mut swanctl = command::command("swanctl")?;
        swanctl.args(arguments).args(["--uri", &format!("unix://{}", self.socket().display())]);
        swanctl.env("SWANCTL_DIR", &self.folder).env("STRONGSWAN_CONF", self.folder.join("strongswan.conf"));
        command::run(swanctl, limit)
    }
}

impl Drop for Charon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Gives the calling thread, and what it starts, a /run of its own: charon's pid file and control socket have fixed paths there.
fn private_run(run: &Path) -> Result<()> {
    let none = None::<&str>;
    unshare(CloneFlags::CLONE_NEWNS).context(|| "making a mount namespace".to_owned())?;
    mount(none, "/", none, MsFlags::MS_SLAVE | MsFlags::MS_REC, none).context(|| "detaching mounts".to_owned())?;
    mount(Some(run), "/run", none, MsFlags::MS_BIND, none).context(|| format!("binding {} to /run", run.display()))
}

/// Writes a file that only root may read: it may hold a secret.
fn write(path: &Path, text: &str) -> Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(path).context(|| format!("creating {}", path.display()))?;
    std::io::Write::write_all(&mut file, text.as_bytes()).context(|| format!("writing {}", path.display()))
}

fn ike_sa(connection: &str, section: &raw::Section) -> IkeSa {
    let children = section.sections.get("child-sas").map(|children| &children.sections);
    IkeSa {
        connection: connection.to_owned(),
        unique_id: section.number("uniqueid"),
        state: section.text("state").to_owned(),
        initiator_spi: section.text("initiator-spi").to_owned(),
        responder_spi: section.text("responder-spi").to_owned(),
        children: children.into_iter().flat_map(|children| children.values()).map(child_sa).collect(),
    }
}

fn child_sa(section: &raw::Section) -> ChildSa {
    ChildSa {
        name: section.text("name").to_owned(),
        state: section.text("state").to_owned(),
        spi_in: section.text("spi-in").to_owned(),
        spi_out: section.text("spi-out").to_owned(),
        packets_in: section.number("packets-in"),
        packets_out: section.number("packets-out"),
    }
}
