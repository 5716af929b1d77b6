//! `dpdk-testpmd`, which we didn't write, as source and as mirror: its counters and ours have to agree.
#![forbid(unsafe_code)]

mod common;

use std::process::{Command, Stdio};

use common::{Process, ROOMY, VIP_MAC, Vipsecd, Wires, generate, is_root, keys, number, number_behind, until};

/// Packets of a burst.
const BURST: u64 = 32;

/// A testpmd at an end of a wire, waiting for orders.
fn testpmd(wires: &Wires, interface: &str, options: &[&str]) -> Process {
    let help = Command::new("dpdk-testpmd")
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    assert!(help.is_ok(), "this test needs dpdk-testpmd (Debian: dpdk-dev)");
    let mut command = wires.command("dpdk-testpmd");
    // Its first lcore takes orders, the second sends: both wherever this process may run.
    let status = std::fs::read_to_string("/proc/self/status").expect("the own status");
    let cpus = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).expect("CPUs").trim();
    command.args(["--no-huge", "-m", "128", "--no-pci", "--no-shconf", "--no-telemetry"]);
    command.arg(format!("--lcores=0@({cpus}),1@({cpus})"));
    command.arg(format!("--file-prefix={}", wires.file_prefix("testpmd")));
    command.arg(format!("--vdev=net_af_packet0,iface={interface},{ROOMY}"));
    command.args(["--", "--interactive", "--total-num-mbufs=8192", "--burst=32"]).args(options);
    let mut testpmd = Process::start(command, wires.folder(), "testpmd");
    testpmd.await_words("testpmd>");
    testpmd
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
    let mut testpmd = testpmd(&wires, "peer0", &[&["--forward-mode=rxonly"], &to_vip[..]].concat());
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
    let mut testpmd = testpmd(&wires, "far0", &["--forward-mode=5tswap"]);
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
