//! `vipsec-target-agent` on a target: it is asked how the target is, and told who owns a VIP.

use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child as Process, Command, Stdio};
use std::time::Duration;

use crate::command::{self, HOUSEKEEPING_LIMIT};
use crate::error::{Context, LabError, Result};
use crate::netns::Namespace;
use crate::wait;

/// What the appliances and the agents of the lab know.
pub const AGENT_SECRET: &str = "a secret of the lab's appliances and agents only";

/// Where it hears of owners, by default.
const NOTICE_PORT: u16 = 9778;
/// To connect.
const CONNECT_LIMIT: Duration = Duration::from_millis(500);

/// A running agent.
#[derive(Debug)]
pub struct TargetAgent {
    process: Process,
    owners: PathBuf,
}

impl TargetAgent {
    /// Starts it inside a target's namespace, and waits until it listens. What an earlier one left in `folder` stays: the owners that it
    /// knew.
    pub fn start(namespace: &Namespace, folder: &Path) -> Result<Self> {
        let program = command::project_program("vipsec-target-agent")?;
        std::fs::create_dir_all(folder).context(|| format!("making {}", folder.display()))?;
        let (secret, owners, log) = (folder.join("agents.psk"), folder.join("owners"), folder.join("agent.log"));
        std::fs::write(&secret, AGENT_SECRET).context(|| format!("writing {}", secret.display()))?;
        let mode = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(&secret, mode).context(|| format!("protecting {}", secret.display()))?;
        let output = std::fs::File::create(&log).context(|| format!("creating {}", log.display()))?;
        let errors = output.try_clone().context(|| format!("creating {}", log.display()))?;
        // The share that it reports is none of this machine's load, which is all of the lab's.
        let process = namespace.run(|| {
            Command::new(&program)
                .args(["--listen", "0.0.0.0:9777", "--notices", &format!("0.0.0.0:{NOTICE_PORT}"), "--full-load", "0"])
                .arg("--secret")
                .arg(&secret)
                .arg("--owners")
                .arg(&owners)
                .stdin(Stdio::null())
                .stdout(output)
                .stderr(errors)
                .spawn()
                .context(|| format!("starting {}", program.display()))
        })?;
        let mut agent = Self { process, owners };
        wait::until_true("the agent to listen", HOUSEKEEPING_LIMIT, || {
            if let Some(status) = agent.process.try_wait().context(|| "looking after the agent".to_owned())? {
                return Err(LabError::Ended {
                    process: "vipsec-target-agent".to_owned(),
                    status: status.to_string(),
                    log: command::end_of_log(&log),
                });
            }
            let address = (Ipv4Addr::LOCALHOST, NOTICE_PORT).into();
            namespace.run(|| Ok(TcpStream::connect_timeout(&address, CONNECT_LIMIT).is_ok()))
        })?;
        Ok(agent)
    }

    /// The owners of VIPs as it has written them down: a line for each VIP, with address, epoch and appliance id.
    pub fn owners(&self) -> String {
        // Nobody has told it anything yet, if there is no such file.
        std::fs::read_to_string(&self.owners).unwrap_or_default()
    }

    /// Kills it.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill().context(|| "killing the agent".to_owned())?;
        self.process.wait().context(|| "waiting for the agent's end".to_owned())?;
        Ok(())
    }
}

impl Drop for TargetAgent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
