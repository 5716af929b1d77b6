//! This program once more, in another role.

use std::io::{Read, Write};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread::JoinHandle;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::namespaces::Cable;
use crate::place::Place;

pub(crate) struct Process {
    child: Child,
    out: Option<JoinHandle<Vec<u8>>>,
}

impl Process {
    /// In our own network namespace, or at the other end of the cable.
    pub(crate) fn start(role: &str, place: &Place, seed: u64, cable: Option<&Cable>) -> Self {
        let program = std::env::current_exe().unwrap();
        let namespace = cable.map_or(0, Cable::namespace);
        let mut child = Command::new(program)
            .args([role, &place.to_arg(), &seed.to_string(), &namespace.to_string()])
            // libfabric looks for every provider's devices otherwise, each time.
            .env("FI_PROVIDER", "tcp")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = child.stdout.take().unwrap();
        Self { child, out: Some(std::thread::spawn(move || read_all(out))) }
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    /// Everything it said, once it has ended.
    pub(crate) fn said(&mut self) -> Vec<u8> {
        self.out.take().unwrap().join().unwrap()
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for a good end.
    pub(crate) fn end(&mut self) {
        assert!(self.child.wait().unwrap().success());
    }

    /// Stops it, and returns once it stands still.
    pub(crate) fn stop(&self) {
        kill(self.pid(), Signal::SIGSTOP).unwrap();
        self.wait_stopped();
    }

    pub(crate) fn wait_stopped(&self) {
        let stopped = waitpid(self.pid(), Some(WaitPidFlag::WUNTRACED)).unwrap();
        assert_eq!(stopped, WaitStatus::Stopped(self.pid(), Signal::SIGSTOP));
    }

    pub(crate) fn go_on(&self) {
        kill(self.pid(), Signal::SIGCONT).unwrap();
    }

    /// Tells it that its time has come.
    pub(crate) fn tell(&mut self) {
        self.child.stdin.take().unwrap().write_all(b"!").unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_all(mut out: ChildStdout) -> Vec<u8> {
    let mut said = Vec::new();
    out.read_to_end(&mut said).unwrap();
    said
}
