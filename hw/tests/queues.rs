//! A port with several queues: what the device can do is known, and each queue is counted by itself.

mod support;

use support::{eal, send};
use vipsec_hw::{Mempool, MempoolOptions, Offload, Port, PortOptions, QueueStats, Rss};
use vipsec_wire::buffer::{BURST_MAX, Burst, PortIo};

#[test]
fn queues_and_capabilities() {
    let eal = eal("queues");
    let pool = Mempool::new(&eal, &MempoolOptions { buffers: 2047, ..MempoolOptions::new("queues") }).unwrap();

    // A source that never ends.
    let options = PortOptions { queues: 4, ..PortOptions::default() };
    let (port, mut queues) = Port::start(&eal, "net_null0,size=100", &pool, &options).unwrap();
    let capabilities = port.capabilities().unwrap();
    assert_eq!(capabilities.driver, "net_null");
    assert_eq!(capabilities.rss, [Rss::Ip, Rss::Udp, Rss::Tcp]);
    assert!(capabilities.esp.is_empty() && !capabilities.steers_by_spi);
    assert!(capabilities.rx_queues_max >= 4 && capabilities.mtu_max >= 1500, "{capabilities}");
    for (polls, queue) in queues.iter_mut().enumerate() {
        for _ in 0..polls {
            assert_eq!(queue.receive(&mut Burst::new()), BURST_MAX);
        }
    }
    send(&mut queues[1], &pool, &vec![vec![0; 60]; 5]);
    let burst = BURST_MAX as u64;
    // This driver counts packets only.
    let received = |polls: u64| QueueStats { rx_packets: polls * burst, ..QueueStats::default() };
    let sent = QueueStats { tx_packets: 5, ..received(1) };
    assert_eq!(port.queue_stats(), [received(0), sent, received(2), received(3)]);
    assert_eq!(port.stats().rx_packets, 6 * burst);
    let all = port.driver_stats();
    assert!(all.contains(&("rx_q2_packets".to_owned(), 2 * burst)), "{all:?}");

    let (ring, _queues) = Port::start(&eal, "net_ring0", &pool, &PortOptions::default()).unwrap();
    let shown = ring.capabilities().unwrap().to_string();
    assert!(ring.capabilities().unwrap().tx_offloads.contains(&Offload::Segments), "{shown}");
    assert!(shown.contains("ESP                 none") && shown.contains("driver              net_ring"), "{shown}");
}
