//! What the tests with real processes share: programs that cargo builds, wires in a network namespace, vipsecd with static keys.
#![allow(dead_code, reason = "no test uses all of it")]

use std::fs::{self, File, OpenOptions};
use std::io::{BufReader, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use vipsec_control::api::{Client, Request, Response, Status};

/// Between the numbers of two interfaces.
const INTERFACE_STEP: u32 = 4096;
/// Long enough for everything here on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// The virtual MAC address of the VIP of [`Vipsecd`].
pub(crate) const VIP_MAC: &str = "02:76:c0:00:02:01";

/// Rings with room for every packet that a test sends: a process that the system holds up loses none.
pub(crate) const ROOMY: &str = "framecnt=4096";

/// May network namespaces be made here? Says so if not.
pub(crate) fn is_root() -> bool {
    let is_root = fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0);
    if !is_root {
        eprintln!("skipped: making network namespaces takes root");
    }
    is_root
}

/// A program of this workspace beside this test, built in the same profile. Cargo knows whether there is something to build.
pub(crate) fn program(package: &str, name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the own path");
    let folder = test.ancestors().nth(2).expect("target/<profile>/deps/<test>");
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    build.args(["build", "--quiet", "-p", package, "--bin", name]);
    build.arg("--target-dir").arg(folder.parent().expect("target"));
    if folder.ends_with("release") {
        build.arg("--release");
    }
    build.current_dir(env!("CARGO_MANIFEST_DIR"));
    assert!(build.status().expect("cargo starts").success(), "cargo can't build {name}");
    folder.join(name)
}

/// A network namespace with pairs of interfaces in it, and a folder. All of it goes with this.
pub(crate) struct Wires {
    namespace: String,
    folder: TempDir,
}

impl Wires {
    /// With a wire between each of these pairs.
    pub(crate) fn new(pairs: &[(&str, &str)]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let namespace = format!("tg{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        ip(&["netns", "add", &namespace]);
        let wires = Self { namespace, folder: tempfile::tempdir().expect("a folder") };
        // net_af_packet names its socket's group by process and interface (their numbers, combined by XOR), and two of a name clash: so
        // interfaces are numbered further apart than processes that start together.
        let mut numbers = (1..).map(|nth| (nth * INTERFACE_STEP).to_string());
        for (one, other) in pairs {
            let [first, second] = [(); 2].map(|()| numbers.next().unwrap_or_default());
            wires.ip(&["link", "add", one, "index", &first, "type", "veth", "peer", "name", other, "index", &second]);
            for end in [one, other] {
                // Without addresses the kernel has nothing to say on them.
                wires.ip(&["link", "set", end, "addrgenmode", "none", "up"]);
            }
        }
        wires
    }

    pub(crate) fn ip(&self, arguments: &[&str]) {
        ip(&[&["-n", self.namespace.as_str()], arguments].concat());
    }

    /// Tells this one's DPDK processes from those of others.
    pub(crate) fn file_prefix(&self, name: &str) -> String {
        format!("{}-{name}", self.namespace)
    }

    /// Where files go.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A program inside.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace]).arg(program);
        command
    }
}

impl Drop for Wires {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.namespace]).status();
    }
}

fn ip(arguments: &[&str]) {
    let status = Command::new("ip").args(arguments).status().expect("iproute2 is installed");
    assert!(status.success(), "ip {}", arguments.join(" "));
}

/// A process whose output goes to a file. Killed when dropped.
pub(crate) struct Process {
    child: Child,
    said: PathBuf,
}

impl Process {
    /// Starts `command`; what it says goes to `name`.log in `folder`.
    pub(crate) fn start(mut command: Command, folder: &Path, name: &str) -> Self {
        let said = folder.join(format!("{name}.log"));
        let log = File::create(&said).expect("a log");
        command.stdin(Stdio::piped()).stdout(log.try_clone().expect("a second handle")).stderr(log);
        Self { child: command.spawn().expect("the program starts"), said }
    }

    /// Everything said so far.
    pub(crate) fn said(&self) -> String {
        fs::read(&self.said).map(|text| String::from_utf8_lossy(&text).into_owned()).unwrap_or_default()
    }

    /// Writes a line to its input.
    pub(crate) fn tell(&mut self, line: &str) {
        let input = self.child.stdin.as_mut().expect("piped");
        writeln!(input, "{line}").and_then(|()| input.flush()).expect("the program reads its input");
    }

    /// Waits until it has said this.
    pub(crate) fn await_words(&mut self, words: &str) {
        until(&format!("{words:?} in {}", self.said.display()), || {
            if self.said().contains(words) {
                return true;
            }
            let ended = self.child.try_wait().expect("waiting");
            assert!(ended.is_none(), "it ended ({ended:?}) before it said {words:?}:\n{}", self.said());
            false
        });
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([&format!("-{signal}"), &self.child.id().to_string()]).status();
        assert!(status.expect("kill starts").success());
    }

    /// Waits until it has ended well.
    pub(crate) fn finish(mut self) -> String {
        drop(self.child.stdin.take());
        let begin = Instant::now();
        let status: ExitStatus = loop {
            if let Some(status) = self.child.try_wait().expect("waiting") {
                break status;
            }
            assert!(begin.elapsed() < LIMIT, "still running after {LIMIT:?}:\n{}", self.said());
            std::thread::sleep(Duration::from_millis(20));
        };
        assert!(status.success(), "{status}:\n{}", self.said());
        self.said()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits for a condition.
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < LIMIT, "no {what} within {LIMIT:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// IP version of everything outside and inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

/// What is special about a vipsecd.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    pub(crate) family: Family,
    /// What its echo service accepts.
    pub(crate) accepts: &'static str,
    pub(crate) workers: usize,
    /// Queues of the outside and the inside port.
    pub(crate) queues: [usize; 2],
    /// Devices of the outside and the inside port; `None`: at `out0` and `in0` of the wires.
    pub(crate) devices: Option<[String; 2]>,
}

impl Default for Setup {
    fn default() -> Self {
        Self { family: Family::V4, accepts: "decrypted", workers: 1, queues: [1, 1], devices: None }
    }
}

/// A vipsecd between `out0` and `in0` of the wires, with VIP 192.0.2.1 or 2001:db8:1::1, two targets, an echo service and static child SAs.
pub(crate) struct Vipsecd {
    process: Process,
    pub(crate) config: PathBuf,
    socket: PathBuf,
}

impl Vipsecd {
    pub(crate) fn start(wires: &Wires, keys: &str) -> Self {
        Self::start_with(wires, keys, &Setup::default())
    }

    pub(crate) fn start_with(wires: &Wires, keys: &str, setup: &Setup) -> Self {
        let folder = wires.folder();
        let mut private = OpenOptions::new();
        private.write(true).create_new(true).mode(0o600);
        let written = private.open(folder.join("keys.toml")).and_then(|mut file| file.write_all(keys.as_bytes()));
        written.expect("writing the keys");
        let (config, socket) = (folder.join("vipsecd.toml"), folder.join("control.sock"));
        fs::write(&config, configuration(wires, setup)).expect("writing the configuration");
        let mut command = wires.command(program("vipsec-control", "vipsecd"));
        command.arg("--config").arg(&config).arg("--test-configuration");
        let mut process = Process::start(command, folder, "vipsecd");
        process.await_words("own the VIP");
        Self { process, config, socket }
    }

    /// What it answers to a request.
    pub(crate) fn ask(&self, request: &Request) -> Response {
        let mut client = Client::connect(&self.socket, LIMIT).expect("vipsecd listens");
        client.call(request).unwrap_or_else(|error| panic!("{error}\n{}", self.process.said()))
    }

    /// How it is.
    pub(crate) fn status(&self) -> Status {
        match self.ask(&Request::Status) {
            Response::Status(status) => *status,
            other => panic!("{other:?}"),
        }
    }

    /// Packets dropped for this reason.
    pub(crate) fn dropped(&self, reason: &str) -> u64 {
        self.status().drops.get(reason).copied().unwrap_or(0)
    }
}

/// What a configuration says of the process; its files are where the wires have theirs.
pub(crate) fn appliance(wires: &Wires, workers: usize) -> String {
    let (folder, prefix) = (wires.folder().display(), wires.file_prefix("vipsecd"));
    format!(
        r#"
        [appliance]
        id = 7
        workers = {workers}
        name = "a"
        control_socket = "{folder}/control.sock"
        state_dir = "{folder}/state"
        [eal]
        file_prefix = "{prefix}"
        memory_mib = 128
        hugepages = "never"
        "#
    )
}

fn configuration(wires: &Wires, setup: &Setup) -> String {
    let Setup { family, accepts, workers, queues, devices } = setup;
    let appliance = appliance(wires, *workers);
    let [outside, inside] = devices.clone().unwrap_or_else(|| {
        [(0, "out0"), (1, "in0")].map(|(number, interface)| {
            format!("net_af_packet{number},iface={interface},qpairs={},{ROOMY}", queues[number])
        })
    });
    let [own_outside, own_inside, default, router, vip, gateway, t1, t2] = match family {
        Family::V4 => [
            "192.0.2.11/24",
            "10.1.0.11/24",
            "0.0.0.0/0",
            "192.0.2.254",
            "192.0.2.1",
            "10.1.0.1",
            "10.1.0.21",
            "10.1.0.22",
        ],
        Family::V6 => [
            "2001:db8:1::b/64",
            "2001:db8:2::b/64",
            "::/0",
            "2001:db8:1::fe",
            "2001:db8:1::1",
            "2001:db8:2::1",
            "2001:db8:2::21",
            "2001:db8:2::22",
        ],
    };
    format!(
        r#"
        {appliance}
        [[port]]
        name = "outside"
        side = "outside"
        device = "{outside}"
        addresses = ["{own_outside}"]
        [[port]]
        name = "inside"
        side = "inside"
        device = "{inside}"
        addresses = ["{own_inside}"]
        [[route]]
        prefix = "{default}"
        via = "{router}"
        port = "outside"
        [[vip]]
        name = "web"
        address = "{vip}"
        port = "outside"
        mac = "{VIP_MAC}"
        gateways = [{{ address = "{gateway}", port = "inside" }}]
        [[target]]
        name = "t1"
        address = "{t1}"
        [[target]]
        name = "t2"
        address = "{t2}"
        [[service]]
        vip = "web"
        protocol = "udp"
        port = 7
        accepts = "{accepts}"
        targets = ["t1", "t2"]
        [test]
        keys_file = "keys.toml"
        "#
    )
}

/// The file of `count` static child SAs: each third in UDP from behind a router, each with its own network of the remote side.
pub(crate) fn keys(count: u32) -> String {
    keys_of(Family::V4, count)
}

/// The same for either family.
pub(crate) fn keys_of(family: Family, count: u32) -> String {
    let child = |number: u32| {
        let (spi_in, spi_out) = (0x0100_0000 + number, 0x0200_0000 + number);
        let key = |direction: u32| {
            (0..20).map(|byte| format!("{:02x}", (byte * 7 + number * 13 + direction) % 256)).collect::<String>()
        };
        let (key_in, key_out) = (key(0), key(101));
        let is_behind_router = number % 3 == 2;
        let (high, low, near, far) = (100 + number / 256, number % 256, number % 100 + 100, number % 200 + 1);
        let (local, remote, remote_ts) = match (family, is_behind_router) {
            (Family::V4, false) => ("192.0.2.1", format!("192.0.2.{near}"), format!("10.{high}.{low}.0/24")),
            (Family::V4, true) => ("192.0.2.1", format!("198.51.100.{far}"), format!("10.{high}.{low}.0/24")),
            (Family::V6, false) => ("2001:db8:1::1", format!("2001:db8:1::1:{near}"), format!("2001:db8:9:{low}::/64")),
            (Family::V6, true) => ("2001:db8:1::1", format!("2001:db8:f::{far}"), format!("2001:db8:9:{low}::/64")),
        };
        let prefix_len = if family == Family::V4 { 32 } else { 128 };
        let udp = if is_behind_router { "udp = { local = 4500, remote = 4500 }" } else { "" };
        format!(
            r#"
            [[child]]
            spi_in = {spi_in}
            spi_out = {spi_out}
            algorithm = "aes128gcm16"
            key_in = "{key_in}"
            key_out = "{key_out}"
            local = "{local}"
            remote = "{remote}"
            {udp}
            local_ts = ["{local}/{prefix_len}"]
            remote_ts = ["{remote_ts}"]
            "#
        )
    };
    (0..count).map(child).collect()
}

/// Runs a generator inside the wires to its end. Returns its report.
pub(crate) fn generate(wires: &Wires, name: &str, arguments: &[&str]) -> Value {
    let generator = generator(wires, name, arguments);
    let said = generator.finish();
    println!("{said}");
    report(wires, name)
}

/// Starts a generator; [`report`] reads its report once it has ended.
pub(crate) fn generator(wires: &Wires, name: &str, arguments: &[&str]) -> Process {
    let mut command = wires.command(program("vipsec-trafficgen", "vipsec-trafficgen"));
    command
        .args(["--no-huge", "-m", "128", "--arp-timeout=60s", "--file-prefix", &wires.file_prefix(name)])
        .args(arguments);
    command.arg("--json").arg(wires.folder().join(format!("{name}.json")));
    Process::start(command, wires.folder(), name)
}

/// The report of the generator of that name.
pub(crate) fn report(wires: &Wires, name: &str) -> Value {
    let file = File::open(wires.folder().join(format!("{name}.json"))).expect("a report");
    serde_json::from_reader(BufReader::new(file)).expect("JSON")
}

/// A number in a report, by its JSON pointer.
pub(crate) fn number(report: &Value, pointer: &str) -> u64 {
    let value = report.pointer(pointer).and_then(Value::as_u64);
    value.unwrap_or_else(|| panic!("no number at {pointer} in {report:#}"))
}

/// The last number behind `label` in a text like testpmd's.
pub(crate) fn number_behind(text: &str, label: &str) -> u64 {
    let found = text.lines().filter_map(|line| line.split_once(label)).next_back();
    let (_, rest) = found.unwrap_or_else(|| panic!("no {label} in:\n{text}"));
    let digits: String = rest.trim_start().chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or_else(|_| panic!("no number behind {label}:\n{text}"))
}
