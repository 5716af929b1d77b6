//! Two network namespaces and a cable between them. They have no names, and go with the processes in them.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::process::{Child, Command, Stdio};

use nix::sched::{CloneFlags, setns, unshare};

pub(crate) const OURS: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));
pub(crate) const THEIRS: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const OUR_END: &str = "store-b";
const THEIR_END: &str = "store-o";

/// The cable; the namespace at its other end lives as long.
pub(crate) struct Cable {
    holder: Child,
}

impl Cable {
    /// Moves this process, which has no other thread yet, into a namespace of its own, with a cable to another one. `None`: not
    /// allowed.
    pub(crate) fn lay() -> Option<Self> {
        unshare(CloneFlags::CLONE_NEWNET).ok()?;
        let program = std::env::current_exe().unwrap();
        let mut holder =
            Command::new(program).arg("hold").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        holder.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let namespace = holder.id().to_string();
        ip(&["link", "add", OUR_END, "type", "veth", "peer", "name", THEIR_END, "netns", &namespace]);
        for args in [["link", "set", "lo", "up"], ["link", "set", OUR_END, "up"]] {
            ip(&args);
        }
        ip(&["addr", "add", &format!("{OURS}/24"), "dev", OUR_END]);
        let cable = Self { holder };
        cable.there(&["link", "set", "lo", "up"]);
        cable.there(&["link", "set", THEIR_END, "up"]);
        cable.there(&["addr", "add", &format!("{THEIRS}/24"), "dev", THEIR_END]);
        Some(cable)
    }

    /// A process in the other namespace.
    pub(crate) fn namespace(&self) -> u32 {
        self.holder.id()
    }

    fn there(&self, args: &[&str]) {
        let namespace = format!("--net=/proc/{}/ns/net", self.namespace());
        run(Command::new("nsenter").arg(namespace).arg("ip").args(args));
    }

    pub(crate) fn unplug(&self) {
        ip(&["link", "set", OUR_END, "down"]);
    }

    pub(crate) fn plug_in(&self) {
        ip(&["link", "set", OUR_END, "up"]);
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

fn ip(args: &[&str]) {
    run(Command::new("ip").args(args));
}

fn run(command: &mut Command) {
    assert!(command.status().unwrap().success(), "{command:?}");
}

/// Keeps a namespace until the other end of the pipe is closed.
pub(crate) fn hold() {
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    std::io::stdout().write_all(b"!").unwrap();
    std::io::stdout().flush().unwrap();
    let _ = std::io::stdin().read(&mut [0]);
}

/// Moves this process into the namespace of another one; 0: stays.
pub(crate) fn enter(process: u32) {
    if process != 0 {
        setns(File::open(format!("/proc/{process}/ns/net")).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
    }
}

/// The ports that somebody listens at, in our namespace.
pub(crate) fn listening() -> Vec<u16> {
    const LISTEN: &str = "0A";
    let mut ports = Vec::new();
    for table in ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"] {
        for line in std::fs::read_to_string(table).unwrap().lines().skip(1) {
            let columns: Vec<_> = line.split_whitespace().collect();
            if columns[3] == LISTEN {
                ports.push(u16::from_str_radix(columns[1].rsplit(':').next().unwrap(), 16).unwrap());
            }
        }
    }
    ports.sort_unstable();
    ports
}
