//! An etcd of one server in a namespace: the registry that decides among the lab's appliances.

use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child as Process, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::command::{self, HOUSEKEEPING_LIMIT};
use crate::error::{Context, LabError, Result};
use crate::netns::Namespace;
use crate::wait;

/// Its address on the network that carries the store.
pub const ETCD: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 9);
const PORT: u16 = 2379;
const PEER_PORT: u16 = 2380;
/// To connect.
const CONNECT_LIMIT: Duration = Duration::from_millis(500);

/// A running etcd.
#[derive(Debug)]
pub struct Etcd {
    process: Process,
    log: PathBuf,
}

/// Where it answers.
pub fn endpoint() -> String {
    format!("http://{ETCD}:{PORT}")
}

impl Etcd {
    /// Starts etcd inside `namespace`, its data and its log in `folder`, and waits until it listens.
    pub fn start(namespace: &Namespace, folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder).context(|| format!("making {}", folder.display()))?;
        let log = folder.join("etcd.log");
        let output = std::fs::File::create(&log).context(|| format!("creating {}", log.display()))?;
        let errors = output.try_clone().context(|| format!("creating {}", log.display()))?;
        let (clients, peers) = (endpoint(), format!("http://{ETCD}:{PEER_PORT}"));
        let process = namespace.run(|| {
            Command::new(command::ETCD)
                .args(["--name", "lab", "--data-dir"])
                .arg(folder.join("data"))
                .args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients])
                .args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers])
                .args(["--initial-cluster", &format!("lab={peers}")])
                .stdin(Stdio::null())
                .stdout(output)
                .stderr(errors)
                .spawn()
                .context(|| format!("starting {}", command::ETCD))
        })?;
        let mut etcd = Self { process, log };
        wait::until_true("etcd to listen", HOUSEKEEPING_LIMIT, || {
            etcd.check_alive()?;
            let address = (ETCD, PORT).into();
            namespace.run(|| Ok(TcpStream::connect_timeout(&address, CONNECT_LIMIT).is_ok()))
        })?;
        Ok(etcd)
    }

    /// Stops it in mid-air until [`Etcd::thaw`]: it takes connections and answers nobody.
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Lets it go on after [`Etcd::freeze`].
    pub fn thaw(&self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.process.id()).unwrap_or(i32::MAX);
        kill(Pid::from_raw(pid), signal).context(|| format!("sending {signal} to etcd"))
    }

    fn check_alive(&mut self) -> Result<()> {
        match self.process.try_wait().context(|| "looking after etcd".to_owned())? {
            None => Ok(()),
            Some(status) => Err(LabError::Ended {
                process: "etcd".to_owned(),
                status: status.to_string(),
                log: command::end_of_log(&self.log),
            }),
        }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
