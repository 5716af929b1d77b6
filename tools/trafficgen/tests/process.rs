//! The program itself: over capture files, which take no privileges, and over a wire in a network namespace, which takes root.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_vipsec-trafficgen");
/// DPDK's memory for a test.
const SMALL: [&str; 5] = ["--no-huge", "-m", "64", "--total-num-mbufs", "4095"];
const STATION: &str = "--eth-peer=0,02:00:00:00:00:09";

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn path(&self, name: &str) -> String {
        self.file(name).to_string_lossy().into_owned()
    }

    fn run_in(&self, mut command: Command, arguments: &[&str]) -> (String, Value) {
        let report = self.file("report.json");
        let output = command.args(SMALL).args(arguments).arg("--json").arg(&report).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        (said, serde_json::from_slice(&fs::read(report).unwrap()).unwrap())
    }

    fn run(&self, arguments: &[&str]) -> (String, Value) {
        self.run_in(Command::new(PROGRAM), arguments)
    }
}

fn refusal(arguments: &[&str]) -> (i32, String) {
    let Output { status, stderr, .. } = Command::new(PROGRAM).args(SMALL).args(arguments).output().unwrap();
    (status.code().unwrap(), String::from_utf8(stderr).unwrap())
}

fn number(report: &Value, pointer: &str) -> u64 {
    report.pointer(pointer).and_then(Value::as_u64).unwrap_or_else(|| panic!("no number at {pointer}: {report:#}"))
}

/// The frames of a capture in libpcap's format.
fn frames(capture: &Path) -> Vec<Vec<u8>> {
    let bytes = fs::read(capture).unwrap();
    assert!(bytes.len() >= 24, "a file header");
    let mut rest = &bytes[24..];
    let mut frames = Vec::new();
    while let Some((header, behind)) = rest.split_first_chunk::<16>() {
        let len = u32::from_le_bytes(header[8..12].try_into().unwrap()) as usize;
        frames.push(behind[..len].to_vec());
        rest = &behind[len..];
    }
    frames
}

#[test]
fn what_is_sent_into_a_capture_is_found_in_it() {
    let folder = Folder::new();
    let capture = folder.path("sent.pcap");
    let send = format!("net_pcap0,tx_pcap={capture}");
    let (_, report) = folder.run(&[
        "--vdev",
        &send,
        "--",
        "--forward-mode=txonly",
        "--txonly-multi-flow",
        "--txpkts=200",
        "--count=1000",
        STATION,
    ]);
    assert_eq!(number(&report, "/runs/0/streams/0/sent"), 1000);
    assert_eq!(number(&report, "/runs/0/streams/0/flows"), 64);

    // tshark knows nothing of us: lengths, addresses and checksums are as they should be.
    let tshark = Command::new("tshark")
        .args(["-r", &capture, "-o", "udp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE", "-T", "fields"])
        .args(["-e", "frame.len", "-e", "eth.dst", "-e", "ip.src", "-e", "udp.dstport"])
        .args(["-e", "ip.checksum.status", "-e", "udp.checksum.status"])
        .output()
        .expect("this test needs tshark");
    let text = String::from_utf8(tshark.stdout).unwrap();
    assert_eq!(text.lines().count(), 1000);
    for line in text.lines() {
        assert_eq!(line, "200\t02:00:00:00:00:09\t198.18.0.1\t9\t1\t1");
    }

    let receive = format!("net_pcap0,rx_pcap={capture}");
    let (said, report) = folder.run(&["--vdev", &receive, "--forward-mode=rxonly", "--drain=10ms"]);
    assert_eq!(number(&report, "/runs/0/ports/0/rx_packets"), 1000);
    let arrivals = |name| number(&report, &format!("/runs/0/others/0/arrivals/{name}"));
    assert_eq!(
        (arrivals("received"), arrivals("lost"), arrivals("reordered"), arrivals("flows_seen")),
        (1000, 0, 0, 64)
    );
    assert!(said.contains("Another sender's run"), "{said}");
}

#[test]
fn a_capture_is_replayed_byte_by_byte_and_recorded() {
    let folder = Folder::new();
    let [made, replayed, recorded, rewritten] =
        ["made", "replayed", "recorded", "rewritten"].map(|name| folder.path(name));
    let out = |file: &str| format!("net_pcap0,tx_pcap={file}");
    folder.run(&[
        "--vdev",
        &out(&made),
        "--forward-mode=txonly",
        "--imix",
        "--count=600",
        STATION,
        "--record-tx",
        &recorded,
    ]);
    let sent = frames(Path::new(&made));
    assert_eq!(sent.len(), 600);
    assert_eq!(frames(Path::new(&recorded)), sent);

    let (_, report) = folder.run(&["--vdev", &out(&replayed), "--replay", &made, "--pps=100000", "--drain=10ms"]);
    assert_eq!(number(&report, "/runs/0/streams/0/sent"), 600);
    assert_eq!(frames(Path::new(&replayed)), sent);

    let again =
        ["--replay", &made, "--replay-loop", "--rewrite-macs", "--count=1500", "--eth-peer=0,02:00:00:00:00:0a"];
    folder.run(&[&["--vdev", out(&rewritten).as_str()], &again[..]].concat());
    let found = frames(Path::new(&rewritten));
    assert_eq!(found.len(), 1500);
    for (frame, original) in found.iter().zip(sent.iter().cycle()) {
        assert_eq!((&frame[..6], &frame[12..]), (&[2, 0, 0, 0, 0, 0x0a][..], &original[12..]));
    }
}

#[test]
fn a_reflected_capture_comes_back_with_all_sides_swapped() {
    let folder = Folder::new();
    let (made, back) = (folder.path("made"), folder.path("back"));
    // The MAC address that net_pcap gives its first port.
    let to_us = "--eth-peer=0,02:70:63:61:70:00";
    folder.run(&[
        "--vdev",
        &format!("net_pcap0,tx_pcap={made}"),
        "--forward-mode=txonly",
        "--tx-tcp=4000,80",
        "--txpkts=90",
        "--count=100",
        to_us,
    ]);
    let device = format!("net_pcap0,rx_pcap={made},tx_pcap={back}");
    let (_, report) = folder.run(&["--vdev", &device, "--forward-mode=5tswap", "--drain=50ms"]);
    assert_eq!(number(&report, "/runs/0/ports/0/events/reflected"), 100);
    let (sent, returned) = (frames(Path::new(&made)), frames(Path::new(&back)));
    assert_eq!(returned.len(), 100);
    for (there, back) in sent.iter().zip(&returned) {
        assert_eq!((&back[0..6], &back[6..12]), (&there[6..12], &there[0..6]), "MAC addresses");
        assert_eq!((&back[26..30], &back[30..34]), (&there[30..34], &there[26..30]), "IP addresses");
        assert_eq!((&back[34..36], &back[36..38]), (&there[36..38], &there[34..36]), "ports");
        assert_eq!(back[38..], there[38..], "the rest");
    }
}

#[test]
fn mistakes_are_refused_in_words() {
    let null = "net_null0";
    for (arguments, code, words) in [
        (&["--vdev", null, "--burst=64"][..], 2, "64 is not in 1..=32"),
        (&["--vdev", null, "--sas=3"], 2, "--appliance"),
        (&["--vdev", null, "--vdev=net_null1", "--vdev=net_null2"], 1, "one or two ports, not 3"),
        (&["--vdev", null, "--forward-mode=txonly", "--search=ndr", STATION], 1, "--forward-mode=flowgen"),
        (&["--vdev", null, "--eth-peer=1,02:00:00:00:00:09"], 1, "--eth-peer names port 1; there are ports 0 to 0"),
        (&["--vdev", null, "--txpkts=1600", STATION], 1, "ask for at most 1514"),
        (&["--vdev", null, "--reflect", STATION], 1, "--reflect needs"),
        (&["--vdev=net_af_packet0,iface=nosuch0", STATION], 1, "no network interface \"nosuch0\""),
        (&["--vdev", null, "--appliance=/nosuch.toml"], 1, "/nosuch.toml"),
        (&["--vdev=net_pcap0,tx_pcap=/dev/null", "--arp-timeout=20ms"], 1, "nobody answers for 198.18.0.2 on port 0"),
    ] {
        let (found, said) = refusal(arguments);
        assert!(found == code && said.contains(words), "{arguments:?}: {found}: {said}");
    }
}

/// Two generators' ports on a wire: everything arrives, at no more than the rate asked for.
#[test]
fn a_wire_between_two_ports() {
    if fs::metadata("/proc/self").is_ok_and(|process| process.uid() != 0) {
        eprintln!("skipped: making network namespaces takes root");
        return;
    }
    let namespace = Namespace::new();
    let folder = Folder::new();
    let device = |number, end| format!("net_af_packet{number},iface={end},framecnt=4096");
    let (left, right) = (device(0, "left0"), device(1, "right0"));
    let wire = ["--vdev", &left, "--vdev", &right, "--arp-timeout=60s"];

    let load = ["--flowgen-flows=20", "--tx-ip=198.18.0.1,198.18.0.2", "--pps=2500", "--count=2500", "--reflect"];
    let (_, report) = folder.run_in(namespace.command(), &[&wire[..], &load[..]].concat());
    let stream = |name: &str| number(&report, &format!("/runs/0/streams/0/{name}"));
    assert_eq!((stream("sent"), stream("arrivals/received"), stream("arrivals/lost")), (2500, 2500, 0));
    assert_eq!((stream("arrivals/reordered"), stream("arrivals/flows_seen")), (0, 20));
    assert_eq!(stream("elsewhere/0/received"), 2500, "the reflected ones");
    let rate = report.pointer("/runs/0/streams/0/rate_pps").and_then(Value::as_f64).unwrap();
    assert!(rate <= 2510.0, "{rate} packets/s");
    let line = report.pointer("/runs/0/streams/0/arrivals/timeline/packets").and_then(Value::as_array).unwrap();
    assert_eq!(line.iter().filter_map(Value::as_u64).sum::<u64>(), 2500);

    let ipv6 = ["--flowgen-flows=5", "--tx-ip=2001:db8::1,2001:db8::2", "--txpkts=100", "--pps=2000", "--count=500"];
    let (_, report) = folder.run_in(namespace.command(), &[&wire[..], &ipv6[..]].concat());
    assert_eq!(number(&report, "/runs/0/streams/0/arrivals/received"), 500, "neighbour discovery found the other end");

    // What is found depends on the machine; that it ends, and tells of each trial, does not.
    let search = ["--search=pdr", "--loss-tolerance=1", "--rate-min=500", "--rate-max=4000", "--duration=200ms"];
    let bounds = ["--drain=100ms", "--repeats=1", "--trials-max=6", "--resolution=10", "--flowgen-flows=1"];
    let (said, report) = folder.run_in(namespace.command(), &[&wire[..], &search[..], &bounds[..]].concat());
    let trials = report.pointer("/search/trials").and_then(Value::as_array).unwrap();
    assert!((1..=6).contains(&trials.len()) && said.contains("PDR (1 % loss)"), "{said}");
    assert_eq!(report.pointer("/runs").and_then(Value::as_array).map(Vec::len), Some(trials.len()));
    if let Some(rate) = report.pointer("/search/rate_pps").and_then(Value::as_u64) {
        assert!((500..=4000).contains(&rate));
    }
}

struct Namespace(String);

impl Namespace {
    /// With a wire from left0 to right0.
    fn new() -> Self {
        let namespace = Self(format!("tgw{}", std::process::id()));
        ip(&format!("netns add {}", namespace.0));
        // net_af_packet names a group by process and interface (their numbers, combined by XOR), and two of a name clash: so the
        // interfaces are numbered further apart than processes that start together.
        ip(&format!("-n {} link add left0 index 4096 type veth peer name right0 index 8192", namespace.0));
        for end in ["left0", "right0"] {
            ip(&format!("-n {} link set {end} addrgenmode none up", namespace.0));
        }
        namespace
    }

    fn command(&self) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0, PROGRAM]);
        command
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().expect("iproute2 is installed");
    assert!(status.success(), "ip {arguments}");
}
