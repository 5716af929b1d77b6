//! Everything that a run leaves on the machine carries the run's name; this is what takes it away again.

use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::signal::{SigSet, Signal};

use crate::error::{Context, Result};
use crate::netns;

/// Every name starts with this and the process id of the lab.
const PREFIX: &str = "vl";

/// One run of the lab: its name and its folder for sockets, logs and configurations.
#[derive(Debug)]
pub struct Run {
    name: String,
    folder: PathBuf,
}

impl Run {
    /// Begins a run. Sweeps up first what dead processes left.
    pub fn begin() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        sweep(|pid| pid != own_pid() && !is_alive(pid));
        let name = format!("{PREFIX}{}-{}", own_pid(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(&name);
        std::fs::create_dir_all(&folder).context(|| format!("making {}", folder.display()))?;
        Ok(Self { name, folder })
    }

    /// The name of something in this run.
    pub fn name_of(&self, part: &str) -> String {
        format!("{}-{part}", self.name)
    }

    /// The run's folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// From now on SIGINT and SIGTERM take the lab away and end the process. Call before the first thread starts: they inherit that
/// the signals wait for the one thread that takes them.
pub fn clean_up_on_signals() -> Result<()> {
    static ONCE: Once = Once::new();
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    signals.thread_block().context(|| "blocking SIGINT and SIGTERM".to_owned())?;
    ONCE.call_once(|| {
        std::thread::spawn(move || {
            if let Ok(signal) = signals.wait() {
                eprintln!("\n{signal}: taking the lab away");
                sweep(|pid| pid == own_pid());
                std::process::exit(128 + signal as i32);
            }
        });
    });
    Ok(())
}

/// Removes namespaces and folders of the runs whose process id fits.
fn sweep(fits: impl Fn(u32) -> bool) {
    for name in netns::names() {
        if pid_of(&name).is_some_and(&fits) {
            netns::remove(&name);
        }
    }
    let Ok(entries) = std::fs::read_dir(std::env::temp_dir()) else { return };
    for entry in entries.flatten() {
        if entry.file_name().to_str().and_then(pid_of).is_some_and(&fits) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// The process id in a name such as `vl1234-0-sw`.
fn pid_of(name: &str) -> Option<u32> {
    let (pid, _) = name.strip_prefix(PREFIX)?.split_once('-')?;
    pid.parse().ok()
}

fn own_pid() -> u32 {
    std::process::id()
}

/// A zombie is dead, too: its parent just hasn't asked for it yet.
fn is_alive(pid: u32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    // The state follows the name, which stands in parentheses and may contain anything.
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    !matches!(state, Some('Z' | 'X'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_runs_are_taken_for_runs() {
        assert_eq!(pid_of("vl1234-0-sw"), Some(1234));
        assert_eq!(pid_of("vl1234"), None);
        assert_eq!(pid_of("vlan-7"), None);
        assert_eq!(pid_of("vlp-c"), None);
    }
}
