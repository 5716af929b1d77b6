//! `vipsecd` from outside: what it refuses, and in which words. No network interface is needed or touched.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use vipsec_control::api::{Client, ClientError, Request, Response};

/// Long enough for everything here on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

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
        self.config_of(1, name, socket, device, more)
    }

    /// The same of an appliance of that id.
    fn config_of(&self, id: u8, name: &str, socket: &str, device: &str, more: &str) -> PathBuf {
        let file = self.path().join(format!("{name}-{socket}.toml"));
        let folder = self.path().display();
        let text = format!(
            r#"
            [appliance]
            id = {id}
            name = "{name}"
            control_socket = "{folder}/{socket}.sock"
            state_dir = "{folder}/state{id}"
            [eal]
            file_prefix = "test-{name}-{pid}"
            memory_mib = 64
            hugepages = "never"
            [[port]]
            name = "outside"
            side = "outside"
            device = "{device}"
            addresses = ["192.0.2.1{id}/24"]
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
struct Running {
    child: Child,
    said: Arc<Mutex<String>>,
    socket: PathBuf,
}

impl Running {
    /// Until it owns its VIP.
    fn start(config: &Path) -> Self {
        let running = Self::launch(config);
        running.await_words("own the VIP");
        running
    }

    fn launch(config: &Path) -> Self {
        let mut child = vipsecd().arg("--config").arg(config).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let said = Arc::new(Mutex::new(String::new()));
        let log = said.clone();
        // The pipe stays open: a daemon that can't log is another test.
        std::thread::spawn(move || {
            lines.map_while(Result::ok).for_each(|line| log.lock().unwrap().push_str(&(line + "\n")));
        });
        let socket = config.file_stem().unwrap().to_str().unwrap().rsplit('-').next().unwrap().to_owned();
        Self { child, said, socket: config.with_file_name(socket + ".sock") }
    }

    fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    /// Waits until it has said this.
    fn await_words(&self, words: &str) {
        until(|| self.said().contains(words), || format!("vipsecd hasn't said {words:?}, but:\n{}", self.said()));
    }

    fn ask(&self, request: &Request) -> Result<Response, ClientError> {
        Client::connect(&self.socket, LIMIT)?.call(request)
    }

    /// What changed when it was told to read its configuration anew.
    fn reload(&self) -> Vec<String> {
        match self.ask(&Request::Reload) {
            Ok(Response::Reloaded { changes }) => changes,
            other => panic!("{other:?}\n{}", self.said()),
        }
    }

    /// Where its copy at the other appliance, or the other's here, stands.
    fn copy(&self) -> Option<String> {
        let Ok(Response::Status(status)) = self.ask(&Request::Status) else { return None };
        status.vips.first()?.copy.clone()
    }

    fn signal(&self, signal: Signal) {
        kill(nix::unistd::Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    fn ends_within(mut self, limit: Duration) -> Option<i32> {
        let start = Instant::now();
        while start.elapsed() < limit {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("still running after {limit:?}");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn until(condition: impl Fn() -> bool, what: impl Fn() -> String) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < LIMIT, "{}", what());
        std::thread::sleep(Duration::from_millis(10));
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
    assert!(said.contains("a.sock") && said.contains(&first.child.id().to_string()), "{said}");
    let other_socket = folder.config("twice", "b", "net_ring0", "");
    let said = refusal(&other_socket, &[]);
    assert!(said.contains("file prefix") && said.contains("test-twice-"), "{said}");

    drop(first); // SIGKILL: its sockets and locks stay behind
    let second = Running::start(&file);
    second.signal(Signal::SIGTERM);
    assert_eq!(second.ends_within(Duration::from_secs(20)), Some(0));
    assert!(!folder.path().join("a.sock").exists());
}

const ONE_TARGET: &str = r#"
    [[port]]
    name = "inside"
    side = "inside"
    device = "net_ring1"
    addresses = ["10.1.0.11/24"]
    [[target]]
    name = "t1"
    address = "10.1.0.21"
    [[service]]
    vip = "web"
    targets = ["t1"]
"#;

fn two_targets() -> String {
    let another = "[[target]]\nname = \"t2\"\naddress = \"10.1.0.22\"\n";
    format!("{another}{}", ONE_TARGET.replace("[\"t1\"]", "[\"t1\", \"t2\"]"))
}

#[test]
fn a_reload_over_the_socket_takes_everything_or_nothing() {
    let folder = Folder::new();
    let write = |more: &str| folder.config("reload", "a", "net_ring0", more);
    let daemon = Running::start(&write(ONE_TARGET));
    let targets = || match daemon.ask(&Request::Targets).unwrap() {
        Response::Targets { entries } => entries.into_iter().map(|target| target.name).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    assert_eq!(daemon.reload(), [""; 0], "the same configuration");
    write(&two_targets());
    assert_eq!(daemon.reload(), ["target t2: added", "service: changed"]);
    assert_eq!(targets(), ["t2", "t1"]);
    // Each mistake is told with its place, and what is right in the same file isn't taken either.
    let refused = |more: &str| {
        write(more);
        let Err(error) = daemon.ask(&Request::Reload) else { panic!("taken: {more}") };
        assert_eq!(targets(), ["t2", "t1"]);
        error.to_string()
    };
    let error = refused(&format!("{ONE_TARGET}colour = \"blue\""));
    assert!(error.contains("reload-a.toml:") && error.contains("colour"), "{error}");
    let error = refused("[[target]\n");
    assert!(error.contains("reload-a.toml:"), "{error}");
    let error = refused(&format!("{ONE_TARGET}[connection_table]\nconnections_max = 5000"));
    assert!(error.contains("connection_table") && error.contains("restart"), "{error}");
    let missing = "[[connection]]\nname = \"b\"\nvip = \"web\"\nlocal_id = \"a\"\nremote_id = \"b\"\nsecret_file = \"none\"\n\
                   [[connection.child]]\nname = \"net\"\nremote_ts = [\"10.9.0.0/16\"]\n";
    let error = refused(&format!("{ONE_TARGET}{missing}"));
    assert!(error.contains("secret_file") && error.contains("none"), "{error}");
}

#[test]
fn a_reload_by_sighup_says_in_the_log_what_came_of_it() {
    let folder = Folder::new();
    let write = |more: &str| folder.config("sighup", "a", "net_ring0", more);
    let daemon = Running::start(&write(ONE_TARGET));
    write("colour = \"blue\"");
    daemon.signal(Signal::SIGHUP);
    daemon.await_words("configuration not reloaded; nothing has changed");
    let said = daemon.said();
    assert!(said.contains("sighup-a.toml:") && said.contains("colour"), "{said}");
    write(&two_targets());
    daemon.signal(Signal::SIGHUP);
    daemon.await_words("configuration reloaded");
    let said = daemon.said();
    assert!(said.contains("target t2: added") && said.contains("service: changed"), "{said}");
    let Ok(Response::Status(status)) = daemon.ask(&Request::Status) else { panic!("no status") };
    assert_eq!(status.vips[0].state, "owner");
}

/// The two of a pair have to agree: with another digest they pair anew, and there is no counted copy before both have it.
#[test]
fn a_pair_pairs_anew_when_one_has_reloaded() {
    let folder = Folder::new();
    let secret = folder.path().join("pair.psk");
    fs::write(&secret, "0123456789abcdef0123456789abcdef").unwrap();
    fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let write = |id: u8, more: &str| {
        let socket = folder.path().join("store.sock");
        let peer = format!(
            "[peer]\nid = {}\nstore_socket = \"{}\"\nsecret_file = \"pair.psk\"\ntakeover = \"resume\"\n",
            3 - id,
            socket.display()
        );
        let name = ["one", "two"][usize::from(id) - 1];
        folder.config_of(id, name, name, "net_ring0", &format!("{peer}{more}"))
    };
    let one = Running::start(&write(1, ONE_TARGET));
    let two = Running::launch(&write(2, ONE_TARGET));
    // Their networks don't meet, so when the link is closed the backup takes over: who is who may change.
    let stands = |copies: [&str; 2]| {
        let now = || {
            let mut copies = [one.copy(), two.copy()].map(Option::unwrap_or_default);
            copies.sort();
            copies
        };
        until(|| now() == copies, || format!("{:?} instead of {copies:?}\n{}\n{}", now(), one.said(), two.said()));
    };
    stands(["counted", "trusted"]);
    // What only concerns the appliance itself is in no digest.
    write(1, &format!("{ONE_TARGET}[ike]\nretransmit_tries = 3\n"));
    assert_eq!(one.reload(), ["ike: changed"]);
    assert_eq!(one.said().matches("paired with the other appliance").count(), 1, "{}", one.said());
    write(1, &two_targets());
    one.reload();
    stands(["unprotected", "untrusted"]);
    until(|| one.said().contains("agreed=false"), || one.said());
    write(2, &two_targets());
    two.reload();
    stands(["counted", "trusted"]);
}
