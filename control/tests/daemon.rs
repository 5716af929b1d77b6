//! `vipsecd` from outside: what it refuses, and in which words. No network interface is needed or touched.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a configuration; `name` also tells DPDK's files and the control socket apart.
    fn config(&self, name: &str, socket: &str, device: &str, more: &str) -> PathBuf {
        let file = self.path().join(format!("{name}-{socket}.toml"));
        let folder = self.path().display();
        let text = format!(
            r#"
            [appliance]
            id = 1
            name = "{name}"
            control_socket = "{folder}/{socket}.sock"
            state_dir = "{folder}/state"
            [eal]
            file_prefix = "test-{name}-{pid}"
            memory_mib = 64
            hugepages = "never"
            [[port]]
            name = "outside"
            side = "outside"
            device = "{device}"
            addresses = ["192.0.2.11/24"]
            [[vip]]
            name = "web"
            address = "192.0.2.1"
            port = "outside"
            {more}
            "#,
            pid = std::process::id(),
        );
        fs::write(&file, text).unwrap();
        file
    }
}

fn vipsecd() -> Command {
    Command::new(env!("CARGO_BIN_EXE_vipsecd"))
}

/// What a vipsecd that refuses to run says on stderr; it must end by itself with exit code 1.
fn refusal(config: &Path, options: &[&str]) -> String {
    let output = vipsecd().arg("--config").arg(config).args(options).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    said
}

/// A vipsecd that runs, killed when dropped.
struct Running(Child);

impl Running {
    fn start(config: &Path) -> Self {
        let mut child = vipsecd().arg("--config").arg(config).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let serving = lines.by_ref().map_while(Result::ok).any(|line| line.contains("own the VIP"));
        assert!(serving, "vipsecd ended before it owned its VIP");
        // The pipe stays open: a daemon that can't log is another test.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        Self(child)
    }

    fn ends_within(mut self, limit: Duration) -> Option<i32> {
        let start = Instant::now();
        while start.elapsed() < limit {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("still running after {limit:?}");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_malformed_configuration_is_refused_with_file_line_and_reason() {
    let folder = Folder::new();
    let file = folder.config("malformed", "a", "net_ring0", "color = \"blue\"");
    let said = refusal(&file, &[]);
    assert!(said.contains("malformed-a.toml:") && said.contains("color"), "{said}");
    let missing = folder.path().join("nowhere.toml");
    assert!(refusal(&missing, &[]).contains("nowhere.toml"));
}

#[test]
fn a_missing_interface_is_named() {
    let folder = Folder::new();
    let said = refusal(&folder.config("nointerface", "a", "net_af_packet0,iface=nosuch0", ""), &[]);
    assert!(said.contains("port outside") && said.contains("nosuch0"), "{said}");
}

#[test]
fn keys_from_a_file_need_the_option() {
    let folder = Folder::new();
    let said = refusal(&folder.config("keys", "a", "net_ring0", "[test]\nkeys_file = \"keys.toml\""), &[]);
    assert!(said.contains("test"), "{said}");
}

#[test]
fn exit_at_end_needs_something_that_ends() {
    let folder = Folder::new();
    let said = refusal(&folder.config("noend", "a", "net_ring0", ""), &["--exit-at-end"]);
    assert!(said.contains("--exit-at-end"), "{said}");
}

#[test]
fn what_another_daemon_uses_is_refused_and_a_dead_ones_leftovers_are_not() {
    let folder = Folder::new();
    let file = folder.config("twice", "a", "net_ring0", "");
    let first = Running::start(&file);
    let said = refusal(&file, &[]);
    assert!(said.contains("a.sock") && said.contains(&first.0.id().to_string()), "{said}");
    let other_socket = folder.config("twice", "b", "net_ring0", "");
    let said = refusal(&other_socket, &[]);
    assert!(said.contains("file prefix") && said.contains("test-twice-"), "{said}");

    drop(first); // SIGKILL: its sockets and locks stay behind
    let second = Running::start(&file);
    let pid = nix::unistd::Pid::from_raw(second.0.id().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert_eq!(second.ends_within(Duration::from_secs(20)), Some(0));
    assert!(!folder.path().join("a.sock").exists());
}
