//! Ports on the ends of a veth pair, in a network namespace of the test's own.

mod support;

use std::process::Command;
use std::time::{Duration, Instant};

use support::{eal, frame, in_a_network_namespace, ip, packet, receive, send, start};
use vipsec_hw::{Mempool, MempoolOptions, Port, PortError, PortOptions, QueuePair};
use vipsec_wire::buffer::{BURST_MAX, Burst, PacketBuf, PortIo};

const BUFFERS: u32 = 4095;

#[test]
fn veth_pair() {
    if !in_a_network_namespace() {
        return;
    }
    ip("link add left0 type veth peer name right0");
    ip("link add pair0 type veth peer name pair1");
    for interface in ["left0", "right0", "pair0", "pair1"] {
        // No IPv6 address: the kernel would send packets of its own.
        ip(&format!("link set {interface} addrgenmode none up"));
    }

    let eal = eal("af_packet");
    let pool = Mempool::new(&eal, &MempoolOptions { buffers: BUFFERS, ..MempoolOptions::new("af_packet") }).unwrap();
    let mac = [0x02, 0, 0, 0, 1, 0x0a];
    let options = PortOptions { mac: Some(mac), mtu: 1400, ..PortOptions::default() };
    let (left, mut left_queue) = start(&eal, "net_af_packet0,iface=left0", &pool, &options);
    let (right, mut right_queue) = start(&eal, "net_af_packet1,iface=right0", &pool, &PortOptions::default());
    assert_eq!((left.mac(), left.mtu()), (mac, 1400));
    assert_ne!(right.mac(), [0; 6]);
    let shown = Command::new("ip").args(["link", "show", "left0"]).output().unwrap().stdout;
    let shown = String::from_utf8(shown).unwrap();
    assert!(shown.contains("02:00:00:00:01:0a") && shown.contains("mtu 1400"), "{shown}");

    // Both ways, to a MAC address that is neither's, up to a full frame.
    let frames: Vec<_> = (0..100usize).map(|i| frame(i as u8, 60 + i * 13)).chain([frame(0, 1414)]).collect();
    send(&mut left_queue, &pool, &frames);
    assert_eq!(receive(&mut right_queue, frames.len()), frames);
    send(&mut right_queue, &pool, &frames);
    assert_eq!(receive(&mut left_queue, frames.len()), frames);
    assert_eq!(pool.available(), BUFFERS);
    assert_eq!(left.stats().tx_packets, frames.len() as u64);

    // The driver calls the link up without a carrier; the port doesn't.
    assert!(left.link().up);
    ip("link set right0 down");
    assert!(!left.link().up && !right.link().up);
    ip("link set right0 up");
    survives_a_link_that_was_down("right0", (&mut left_queue, &mut right_queue), &pool);
    survives_a_link_that_was_down("left0", (&mut left_queue, &mut right_queue), &pool);

    fanout(&eal, &pool);

    drop((left, left_queue, right, right_queue));
    let (_again, _) = start(&eal, "net_af_packet0,iface=left0", &pool, &options);
}

/// Sending into a link that is down takes no time and loses no buffer, and packets flow again when it is back.
fn survives_a_link_that_was_down(interface: &str, (from, to): (&mut QueuePair, &mut QueuePair), pool: &Mempool) {
    const MORE_THAN_THE_DRIVER_HOLDS: usize = 4 * 512 / BURST_MAX;
    ip(&format!("link set {interface} down"));
    let start = Instant::now();
    for _ in 0..MORE_THAN_THE_DRIVER_HOLDS {
        let mut burst: Burst<_> = (0..BURST_MAX).map(|i| packet(pool, &frame(i as u8, 60))).collect();
        from.transmit(&mut burst);
    }
    assert!(start.elapsed() < Duration::from_secs(1), "{interface}: {:?}", start.elapsed());
    assert_eq!(pool.available(), BUFFERS);

    ip(&format!("link set {interface} up"));
    // What was kept for the link to come back may arrive first.
    let wanted = frame(200, 77);
    for attempt in 0.. {
        send(from, pool, std::slice::from_ref(&wanted));
        std::thread::sleep(Duration::from_millis(10));
        let mut burst = Burst::new();
        let mut arrived = false;
        while to.receive(&mut burst) > 0 {
            arrived |= burst.iter().any(|packet| packet.data() == wanted);
            burst.clear();
        }
        if arrived {
            break;
        }
        assert!(attempt < 300, "{interface}: nothing arrives any more");
    }
}

/// With `qpairs=2` each packet arrives on one of two queues, so both must be read.
fn fanout(eal: &vipsec_hw::Eal, pool: &Mempool) {
    let device = "net_af_packet2,iface=pair0,qpairs=2";
    let one = Port::start(eal, device, pool, &PortOptions::default());
    assert!(matches!(one, Err(PortError::UnreadQueues { available: 2, wanted: 1, argument: "qpairs", .. })));

    let (_port, mut queues) =
        Port::start(eal, device, pool, &PortOptions { queues: 2, ..PortOptions::default() }).unwrap();
    let (_sender, mut sender) = start(eal, "net_af_packet3,iface=pair1", pool, &PortOptions::default());
    let mut frames: Vec<_> = (0..64).map(|i| frame(i, 100)).collect();
    send(&mut sender, pool, &frames);
    let mut received = Vec::new();
    let mut burst = Burst::new();
    for _ in 0..1000 {
        for queue in &mut queues {
            queue.receive(&mut burst);
            received.extend(burst.drain(..).map(|packet| packet.data().to_vec()));
        }
        if received.len() == frames.len() {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    received.sort();
    frames.sort();
    assert_eq!(received, frames);
}
