//! Network namespaces: made, entered by threads, searched for their processes, removed.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::JoinHandle;

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::command::{self, HOUSEKEEPING_LIMIT};
use crate::error::{Context, Result};

/// Where iproute2 keeps the names.
const NAMES: &str = "/run/netns";

/// A network namespace that this process made. Dropping it ends the processes inside and removes it.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes a namespace, its loopback up and IPv6 off (so that a capture shows only what the lab does).
    pub fn create(name: &str) -> Result<Self> {
        let mut add = command::command("ip")?;
        add.args(["netns", "add", name]);
        command::run(add, HOUSEKEEPING_LIMIT)?;
        let namespace = Self { name: name.to_owned() };
        // A kernel without IPv6 has nothing to switch off.
        for scope in ["all", "default"] {
            namespace.try_sysctl(&format!("net/ipv6/conf/{scope}/disable_ipv6"), "1")?;
        }
        namespace.ip(&["link set lo up"])?;
        Ok(namespace)
    }

    /// Its name, as `ip netns` shows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs iproute2 commands inside, one per line.
    pub fn ip(&self, lines: &[impl AsRef<str>]) -> Result<()> {
        let input = lines.iter().fold(String::new(), |text, line| text + line.as_ref() + "\n");
        let mut batch = command::command("ip")?;
        batch.args(["-n", &self.name, "-batch", "-"]);
        command::run_with_input(batch, &input, HOUSEKEEPING_LIMIT)?;
        Ok(())
    }

    /// Moves the calling thread into the namespace, for good.
    pub fn enter(&self) -> Result<()> {
        let path = path_of(&self.name);
        let file = File::open(&path).context(|| format!("opening {}", path.display()))?;
        setns(file, CloneFlags::CLONE_NEWNET).context(|| format!("entering namespace {}", self.name))
    }

    /// Runs `action` in a thread inside the namespace and waits for it. Sockets made and processes started there stay there.
    pub fn run<T: Send>(&self, action: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| self.enter().and_then(|()| action()));
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Starts a thread that lives inside the namespace. Returns once it is inside.
    pub fn spawn<T: Send + 'static>(&self, action: impl FnOnce() -> T + Send + 'static) -> Result<JoinHandle<T>> {
        // A thread inherits the namespace of the thread that starts it.
        self.run(|| Ok(std::thread::spawn(action)))
    }

    /// Runs a command inside, to its end.
    pub fn command(&self, command: Command) -> Result<String> {
        self.run(|| command::run(command, HOUSEKEEPING_LIMIT))
    }

    /// UDP datagrams that sockets inside have dropped because their programs didn't fetch them in time (`RcvbufErrors`).
    pub fn udp_overflows(&self) -> Result<u64> {
        let file = "/proc/thread-self/net/snmp";
        let text = self.run(|| std::fs::read_to_string(file).context(|| format!("reading {file}")))?;
        let mut lines = text.lines().filter_map(|line| line.strip_prefix("Udp: ")).map(str::split_whitespace);
        let (names, values) = (lines.next().into_iter().flatten(), lines.next().into_iter().flatten());
        let overflows = names.zip(values).find(|(name, _)| *name == "RcvbufErrors");
        Ok(overflows.and_then(|(_, value)| value.parse().ok()).unwrap_or(0))
    }

    /// Sets a sysctl, by its path under /proc/sys.
    pub fn sysctl(&self, path: &str, value: &str) -> Result<()> {
        let file = Path::new("/proc/sys").join(path);
        self.run(|| std::fs::write(&file, value).context(|| format!("setting {} to {value}", file.display())))
    }

    /// Sets a sysctl if this kernel has it.
    pub fn try_sysctl(&self, path: &str, value: &str) -> Result<()> {
        if Path::new("/proc/sys").join(path).exists() { self.sysctl(path, value) } else { Ok(()) }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

fn path_of(name: &str) -> PathBuf {
    Path::new(NAMES).join(name)
}

/// Names of all namespaces that there are.
pub fn names() -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(NAMES) else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Ends what runs in a namespace and removes it. Best effort: this runs while things fall apart.
pub fn remove(name: &str) {
    for pid in processes(name) {
        let _ = kill(pid, Signal::SIGKILL);
    }
    if let Ok(mut delete) = command::command("ip") {
        delete.args(["netns", "delete", name]);
        let _ = command::run(delete, HOUSEKEEPING_LIMIT);
    }
}

/// Processes (other than this one) inside a namespace.
fn processes(name: &str) -> Vec<Pid> {
    let Ok(namespace) = std::fs::metadata(path_of(name)) else { return Vec::new() };
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| i64::from(*pid) != i64::from(std::process::id()))
        .filter(|pid| {
            let inside = std::fs::metadata(format!("/proc/{pid}/ns/net"));
            inside.is_ok_and(|inside| (inside.dev(), inside.ino()) == (namespace.dev(), namespace.ino()))
        })
        .map(Pid::from_raw)
        .collect()
}
