//! A tap port, in a network namespace of the test's own: frames from the kernel, and frames to it.

mod support;

use std::net::UdpSocket;
use std::time::Duration;

use support::{eal, in_a_network_namespace, ip, packet, start};
use vipsec_hw::{Mempool, MempoolOptions, PortOptions, QueuePair};
use vipsec_wire::buffer::{Burst, PacketBuf, PortIo};
use vipsec_wire::ethernet::{EtherType, Header, MacAddr};
use vipsec_wire::ip::protocol;
use vipsec_wire::{ipv4, udp};

const BUFFERS: u32 = 2047;
const KERNEL: [u8; 4] = [10, 77, 0, 1];
const PORT: [u8; 4] = [10, 77, 0, 2];
const PORT_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

#[test]
fn kernel_and_port_hear_each_other() {
    if !in_a_network_namespace() {
        return;
    }
    let eal = eal("tap");
    let pool = Mempool::new(&eal, &MempoolOptions { buffers: BUFFERS, ..MempoolOptions::new("tap") }).unwrap();
    // The device and its interface have one MAC address between them: the kernel's.
    let (port, mut queue) =
        start(&eal, "net_tap0,iface=hwtap0", &pool, &PortOptions { mtu: 1400, ..Default::default() });
    ip("addr add 10.77.0.1/24 dev hwtap0");
    ip("link set hwtap0 addrgenmode none up");
    ip("neigh add 10.77.0.2 lladdr 02:00:00:00:00:02 dev hwtap0");
    assert!(port.link().up);

    let socket = UdpSocket::bind(("10.77.0.1", 5001)).unwrap();
    socket.send_to(b"from the kernel", ("10.77.0.2", 5002)).unwrap();
    let frame = datagram_from_kernel(&mut queue);
    let (ethernet, bytes) = Header::parse(&frame).unwrap();
    assert_eq!((ethernet.destination, ethernet.source), (PORT_MAC, MacAddr(port.mac())));
    let ip_packet = ipv4::Packet::parse(bytes).unwrap();
    assert_eq!((ip_packet.source().octets(), ip_packet.destination().octets()), (KERNEL, PORT));
    assert!(ip_packet.payload().ends_with(b"from the kernel"));

    let mut burst: Burst<_> =
        [packet(&pool, &datagram_to(MacAddr(port.mac()), b"from the port"))].into_iter().collect();
    assert_eq!(queue.transmit(&mut burst), 1);
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut received = [0; 64];
    let (len, from) = socket.recv_from(&mut received).unwrap();
    assert_eq!((&received[..len], from.to_string().as_str()), (&b"from the port"[..], "10.77.0.2:5002"));

    ip("link set hwtap0 down");
    assert!(!port.link().up);
    assert_eq!((port.mtu(), port.stats().tx_packets), (1400, 1));
}

/// The kernel may say other things first (multicast listeners, neighbours).
fn datagram_from_kernel(queue: &mut QueuePair) -> Vec<u8> {
    for _ in 0..1000 {
        let mut burst = Burst::new();
        queue.receive(&mut burst);
        let mut frames = burst.iter().map(PacketBuf::data);
        if let Some(frame) = frames.find(|frame| frame.ends_with(b"from the kernel")) {
            return frame.to_vec();
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("the kernel's datagram doesn't arrive");
}

fn datagram_to(kernel_mac: MacAddr, payload: &[u8]) -> Vec<u8> {
    let mut datagram = vec![0; udp::HEADER_LEN];
    datagram.extend(payload);
    let repr = udp::Repr { source_port: 5002, destination_port: 5001, payload_len: payload.len() as u16 };
    repr.emit(&mut datagram).unwrap();
    udp::fill_checksum_v4(PORT.into(), KERNEL.into(), &mut datagram).unwrap();
    let mut frame = vec![0; vipsec_wire::ethernet::HEADER_LEN + ipv4::HEADER_LEN];
    let header = Header { destination: kernel_mac, source: PORT_MAC, ethertype: EtherType::IPV4 };
    header.emit(&mut frame).unwrap();
    let header = ipv4::Repr::new(PORT.into(), KERNEL.into(), protocol::UDP, datagram.len() as u16);
    header.emit(&mut frame[vipsec_wire::ethernet::HEADER_LEN..]).unwrap();
    frame.extend(datagram);
    frame
}
