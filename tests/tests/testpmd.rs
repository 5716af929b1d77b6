//! `dpdk-testpmd`, which we didn't write, as source, as targets and as mirror: its counters and ours have to agree.
#![forbid(unsafe_code)]

mod common;

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{Process, ROOMY, Setup, VIP_MAC, Vipsecd, Wires, generate, is_root, keys, number, number_behind, until};
use vipsec_control::api::{Request, Response, Status};

/// Packets of a burst.
const BURST: u64 = 32;

/// A testpmd with a device of DPDK, waiting for orders.
fn testpmd(wires: &Wires, name: &str, device: &str, options: &[&str]) -> Process {
    let help = Command::new("dpdk-testpmd")
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    assert!(help.is_ok(), "this test needs dpdk-testpmd (Debian: dpdk-dev)");
    let mut command = wires.command("stdbuf");
    // What it says can be read as soon as it is said.
    command.args(["--output=L", "dpdk-testpmd"]);
    // Its first lcore takes orders, the second sends: both wherever this process may run.
    let status = std::fs::read_to_string("/proc/self/status").expect("the own status");
    let cpus = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).expect("CPUs").trim();
    command.args(["--no-huge", "-m", "128", "--no-pci", "--no-shconf", "--no-telemetry"]);
    command.arg(format!("--lcores=0@({cpus}),1@({cpus})"));
    command.arg(format!("--file-prefix={}", wires.file_prefix(name)));
    command.arg(format!("--vdev={device}"));
    command.args(["--", "--interactive", "--total-num-mbufs=8192", "--burst=32"]).args(options);
    let mut testpmd = Process::start(command, wires.folder(), name);
    testpmd.await_words("testpmd>");
    testpmd
}

/// The device at an end of a wire.
fn at(interface: &str) -> String {
    format!("net_af_packet0,iface={interface},{ROOMY}")
}

/// What a testpmd has counted at its port.
struct PortStats {
    received: u64,
    received_bytes: u64,
    sent: u64,
}

fn port_stats(testpmd: &mut Process) -> PortStats {
    const END: &str = "Tx-bps:";
    let shown = testpmd.said().matches(END).count();
    testpmd.tell("show port stats 0");
    until("port statistics", || testpmd.said().matches(END).count() > shown);
    let said = testpmd.said();
    let (_, last) = said.rsplit_once("NIC statistics").expect("a heading");
    PortStats {
        received: number_behind(last, "RX-packets:"),
        received_bytes: number_behind(last, "RX-bytes:"),
        sent: number_behind(last, "TX-packets:"),
    }
}

#[test]
fn testpmds_packets_are_all_accounted_for_by_vipsecd() {
    if !is_root() {
        return;
    }
    let wires = Wires::new(&[("out0", "peer0"), ("in0", "target0")]);
    let vipsecd = Vipsecd::start(&wires, &keys(1));
    let eth_peer = format!("--eth-peer=0,{VIP_MAC}");
    // The service is there, but only for what comes through a tunnel.
    let to_vip =
        ["--txonly-multi-flow", "--tx-ip=198.18.0.1,192.0.2.1", "--tx-udp=9,7", "--txpkts=128", eth_peer.as_str()];
    assert_eq!(vipsecd.status().ports[0].rx_packets, 0, "nobody else sends on this wire");

    // Each time as many as the ring holds: not one may be missing, however busy the machine is.
    const ROUNDS: u64 = 4;
    const BURSTS: u64 = 100;
    let mut testpmd = testpmd(&wires, "testpmd", &at("peer0"), &[&["--forward-mode=rxonly"], &to_vip[..]].concat());
    for round in 1..=ROUNDS {
        let sent = round * BURSTS * BURST;
        testpmd.tell(&format!("start tx_first {BURSTS}"));
        // A packet counts as received before it is dropped.
        until(&format!("{sent} packets dropped by vipsecd"), || vipsecd.dropped("clear_text") >= sent);
        testpmd.tell("stop");
    }
    let after = vipsecd.status();
    testpmd.tell("show port stats 0");
    testpmd.tell("quit");
    let said = testpmd.finish();
    let sent = number_behind(&said, "TX-bytes:") / 128;
    assert_eq!(sent, ROUNDS * BURSTS * BURST, "{said}");
    let outside = &after.ports[0];
    assert_eq!((outside.rx_packets, outside.rx_bytes, outside.rx_missed), (sent, sent * 128, 0));
    // Other reasons are those of answers that vipsecd itself had for senders whom nobody answers for here.
    assert_eq!(after.drops.get("clear_text"), Some(&sent), "{:?}", after.drops);
}

#[test]
fn testpmd_sends_every_packet_of_ours_back_and_counts_the_same() {
    if !is_root() {
        return;
    }
    let wires = Wires::new(&[("near0", "far0")]);
    let mut testpmd = testpmd(&wires, "testpmd", &at("far0"), &["--forward-mode=5tswap"]);
    testpmd.tell("start");
    let device = format!("net_af_packet0,iface=near0,{ROOMY}");
    let send = [
        "--vdev",
        &device,
        "--eth-peer=0,02:00:00:00:00:02",
        "--flowgen-flows=50",
        "--imix",
        "--pps=3000",
        "--count=3000",
    ];
    let report = generate(&wires, "generator", &send);
    testpmd.tell("stop");
    testpmd.tell("show port stats 0");
    testpmd.tell("quit");
    let said = testpmd.finish();
    let counts = |name| number(&report, &format!("/runs/0/streams/0/arrivals/{name}"));
    assert_eq!((counts("received"), counts("lost"), counts("duplicates"), counts("reordered")), (3000, 0, 0, 0));
    assert_eq!(counts("flows_seen"), 50);
    assert!(report.pointer("/runs/0/ports/0/events/corrupted").is_none(), "{report:#}");
    // 3000 are 250 rounds of the mixture.
    let bytes = 250 * (7 * 64 + 4 * 590 + 1514);
    assert_eq!(number(&report, "/runs/0/streams/0/sent_bytes"), bytes);
    for way in ["RX", "TX"] {
        assert_eq!(number_behind(&said, &format!("{way}-bytes:")), bytes, "{said}");
    }
}

/// Packets of this length, in bytes, without FCS.
const LENGTH: u64 = 128;
/// And frames of these lengths around them: ARP, padded or not.
const ARP_LENGTHS: [u64; 2] = [42, 60];
/// Rounds of packets that fit into every queue on the way, and packets of a round.
const ROUNDS: u64 = 4;
const ROUND_BURSTS: u64 = 20;
const ROUND: u64 = ROUND_BURSTS * BURST;
/// How often the counters are compared while testpmd sends as fast as it can, and the time between.
const LOOKS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(100);

/// A vipsecd with a service in the clear, a testpmd as the remote hosts' router and one as all targets: it answers their ARP.
struct Flooded {
    wires: Wires,
    vipsecd: Vipsecd,
    remote: Process,
    targets: Process,
}

impl Flooded {
    fn start(wires: Wires, ports: [String; 2], ends: [String; 2]) -> Self {
        let setup = Setup { accepts: "clear", devices: Some(ports), ..Setup::default() };
        let vipsecd = Vipsecd::start_with(&wires, &keys(1), &setup);
        let mut targets = testpmd(&wires, "targets", &ends[1], &["--forward-mode=icmpecho"]);
        targets.tell("start");
        let (eth_peer, length) = (format!("--eth-peer=0,{VIP_MAC}"), format!("--txpkts={LENGTH}"));
        let source = ["--forward-mode=rxonly", "--txonly-multi-flow", "--tx-ip=198.18.0.1,192.0.2.1", "--tx-udp=9,7"];
        let remote = testpmd(&wires, "remote", &ends[0], &[&source[..], &[&eth_peer, &length]].concat());
        let mut flooded = Self { wires, vipsecd, remote, targets };
        flooded.meet_the_targets();
        flooded
    }

    /// Sends until vipsecd knows both targets' MAC addresses, and everything sent has been dealt with.
    fn meet_the_targets(&mut self) {
        self.send_round();
        until("two neighbours inside", || match self.vipsecd.ask(&Request::Neighbours) {
            Response::Neighbours { entries } => {
                entries.iter().filter(|entry| entry.port == "inside" && entry.mac.is_some()).count() == 2
            }
            other => panic!("{other:?}"),
        });
        self.settle();
    }

    /// A round of testpmd's bursts, which is all that it sends.
    fn send_round(&mut self) {
        self.remote.tell(&format!("start tx_first {ROUND_BURSTS}"));
        self.remote.tell("stop");
    }

    /// Waits until the counters stand still.
    fn settle(&mut self) {
        let mut before = 0;
        until("an end of the packets", || {
            std::thread::sleep(PAUSE);
            let status = self.vipsecd.status();
            let counted = port_stats(&mut self.targets).received + status.ports[0].rx_packets;
            std::mem::replace(&mut before, counted) == counted
        });
    }

    fn counts(&mut self) -> (PortStats, Status, PortStats) {
        (port_stats(&mut self.remote), self.vipsecd.status(), port_stats(&mut self.targets))
    }

    /// Rounds that fit into every queue: all of it arrives, and everybody counts the same.
    fn rounds_arrive_whole(&mut self) {
        let (remote, status, targets) = self.counts();
        for round in 1..=ROUNDS {
            self.send_round();
            let forwarded = status.ports[1].tx_packets + round * ROUND;
            until("a round forwarded", || self.vipsecd.status().ports[1].tx_packets >= forwarded);
        }
        self.settle();
        let (remote_after, after, targets_after) = self.counts();
        assert_eq!(remote_after.sent - remote.sent, ROUNDS * ROUND);
        assert_eq!(after.ports[0].rx_packets - status.ports[0].rx_packets, ROUNDS * ROUND);
        assert_eq!(new_drops(&status, &after), BTreeMap::new());
        let [inside, inside_after] = [&status.ports[1], &after.ports[1]];
        assert_eq!(targets_after.received - targets.received, inside_after.tx_packets - inside.tx_packets);
        assert_eq!(targets_after.received_bytes - targets.received_bytes, inside_after.tx_bytes - inside.tx_bytes);
    }

    /// As fast as it can for a moment, while counters are compared.
    fn flood(&mut self, mut compare: impl FnMut(&Wires, u64, &Status)) {
        self.remote.tell("set fwd txonly");
        self.remote.tell("start");
        for _ in 0..LOOKS {
            std::thread::sleep(PAUSE);
            let before = self.vipsecd.status().ports[0].rx_packets;
            let sent = port_stats(&mut self.remote).sent;
            // testpmd counts a burst once it has been handed over.
            assert!(before <= sent + BURST, "vipsecd received {before} before {sent} had been sent");
            compare(&self.wires, sent, &self.vipsecd.status());
        }
        self.remote.tell("stop");
        self.settle();
    }

    /// How many of the test's packets have come to the targets, if everything that vipsecd received and did not drop did so: the rest
    /// of what it sent has to be ARP.
    fn arrived(&self, status: &Status) -> u64 {
        let arrived = status.ports[0].rx_packets - status.drops.values().sum::<u64>();
        let [packets, bytes] = [status.ports[1].tx_packets - arrived, status.ports[1].tx_bytes - arrived * LENGTH];
        let [least, most] = ARP_LENGTHS.map(|length| length * packets);
        assert!((least..=most).contains(&bytes), "{bytes} bytes in {packets} other frames: {status:#?}");
        arrived
    }
}

fn new_drops(before: &Status, after: &Status) -> BTreeMap<String, u64> {
    let new = after
        .drops
        .iter()
        .map(|(reason, count)| (reason.clone(), count - before.drops.get(reason).copied().unwrap_or(0)));
    new.filter(|(_, count)| *count > 0).collect()
}

/// No kernel in between: what testpmd sent vipsecd received, and it says why it dropped what the targets didn't get.
#[test]
fn all_that_testpmd_sends_over_memif_arrives_or_is_dropped_for_a_named_reason() {
    /// Descriptors of a ring, unless it is told otherwise; and as many may be on their way beside it.
    const RING: u64 = 1024;
    if !is_root() {
        return;
    }
    let wires = Wires::new(&[]);
    let device = |number: u32, role: &str, name: &str| {
        let socket = wires.folder().join(name);
        format!("net_memif{number},role={role},id={number},socket-abstract=no,socket={}", socket.display())
    };
    let ports = [device(0, "server", "outside.sock"), device(1, "server", "inside.sock")];
    let ends = [device(0, "client", "outside.sock"), device(1, "client", "inside.sock")];
    let mut flooded = Flooded::start(wires, ports, ends);
    flooded.rounds_arrive_whole();

    let before = flooded.vipsecd.status();
    flooded.flood(|_, sent, status| {
        let received = status.ports[0].rx_packets;
        assert!(sent <= received + 2 * RING, "{sent} had been sent before {received} were received");
    });
    let (remote, status, targets) = flooded.counts();
    assert_eq!(remote.sent, status.ports[0].rx_packets);
    assert!(remote.sent > ROUNDS * ROUND + before.ports[0].rx_packets, "testpmd sent");
    // Targets that fetch too slowly.
    let reasons: Vec<String> = new_drops(&before, &status).into_keys().collect();
    assert!(reasons.iter().all(|reason| reason == "transmit_queue_full"), "{reasons:?}");
    assert_eq!((targets.received, targets.received_bytes), (status.ports[1].tx_packets, status.ports[1].tx_bytes));
    println!("sent {}, arrived {}, dropped {:?}", remote.sent, flooded.arrived(&status), status.drops);
}

/// Through the kernel: what it brought to vipsecd's interface and took from it is what testpmd sent and vipsecd forwarded. What the rings
/// between them had no room for nobody but the kernel saw.
#[test]
fn all_that_testpmd_sends_over_af_packet_is_accounted_for() {
    if !is_root() {
        return;
    }
    let received = |wires: &Wires, interface: &str| -> u64 {
        let file = format!("/sys/class/net/{interface}/statistics/rx_packets");
        let output = wires.command("cat").arg(file).output().expect("cat starts");
        String::from_utf8_lossy(&output.stdout).trim().parse().expect("a number")
    };
    let wires = Wires::new(&[("out0", "peer0"), ("in0", "target0")]);
    let ports = ["out0", "in0"].map(|interface| at(interface).replace("packet0,iface=in", "packet1,iface=in"));
    let mut flooded = Flooded::start(wires, ports, ["peer0", "target0"].map(at));
    flooded.rounds_arrive_whole();

    let before = flooded.vipsecd.status();
    flooded.flood(|wires, sent, status| {
        assert!(sent <= received(wires, "out0"), "what had been sent was there");
        assert!(status.ports[0].rx_packets > before.ports[0].rx_packets, "and vipsecd got some of it");
    });
    let (remote, status, targets) = flooded.counts();
    let (at_vipsecd, at_targets) = (received(&flooded.wires, "out0"), received(&flooded.wires, "target0"));
    assert_eq!((remote.sent, at_targets), (at_vipsecd, status.ports[1].tx_packets));
    let overflowed = at_vipsecd - status.ports[0].rx_packets;
    assert!(targets.received <= at_targets);
    println!(
        "sent {}, lost before vipsecd {overflowed}, arrived {}, dropped {:?}, lost behind vipsecd {}",
        remote.sent,
        flooded.arrived(&status),
        status.drops,
        at_targets - targets.received
    );
}
