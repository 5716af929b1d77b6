//! What the tests share. DPDK starts once per process, so each test that starts it is a binary of its own.
#![allow(dead_code, reason = "no test uses all of it")]

use std::process::Command;

use vipsec_hw::{Eal, EalOptions, Hugepages, Mbuf, Mempool, Port, PortOptions, QueuePair};
use vipsec_wire::buffer::{Burst, PacketBuf, PortIo};

/// An EAL of ordinary pages, named after the test and the process.
pub(crate) fn eal(test: &str) -> Eal {
    eal_with(test, 64)
}

/// The same, with that much memory.
pub(crate) fn eal_with(test: &str, memory_mib: u32) -> Eal {
    let options = EalOptions { memory_mib, hugepages: Hugepages::Never, ..EalOptions::new(prefix(test)) };
    Eal::init(&options).unwrap()
}

pub(crate) fn prefix(test: &str) -> String {
    format!("vipsec-hw-{test}-{}", std::process::id())
}

/// A port with one queue pair.
pub(crate) fn start(eal: &Eal, device: &str, pool: &Mempool, options: &PortOptions) -> (Port, QueuePair) {
    let (port, mut queues) = Port::start(eal, device, pool, options).unwrap();
    assert_eq!(queues.len(), 1);
    (port, queues.pop().unwrap())
}

/// Moves this thread, and those that it starts from now on, to a network namespace that goes with them. `false`: not allowed, which
/// it says.
pub(crate) fn in_a_network_namespace() -> bool {
    // SAFETY: asks for a number.
    if unsafe { libc::geteuid() } != 0 {
        eprintln!("skipped: making network interfaces takes root");
        return false;
    }
    // SAFETY: concerns this thread alone.
    assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0);
    true
}

/// Runs `ip` with these arguments.
pub(crate) fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().expect("iproute2 is installed");
    assert!(status.success(), "ip {arguments}");
}

/// A frame of that many bytes, different for each `seed`, from a MAC address to a virtual one.
pub(crate) fn frame(seed: u8, len: usize) -> Vec<u8> {
    let mut frame = vec![0x02, 0x76, 0x70, 0, 0, 1, 0x02, 0, 0, 0, 0, seed, 0x88, 0xb5];
    frame.extend((frame.len()..len).map(|i| (i as u8).wrapping_mul(31) ^ seed));
    frame.truncate(len);
    frame
}

/// The frame in a buffer.
pub(crate) fn packet(pool: &Mempool, content: &[u8]) -> Mbuf {
    let mut packet = pool.alloc().expect("the pool has a buffer");
    packet.append(content.len()).expect("the buffer has the room");
    packet.data_mut().copy_from_slice(content);
    packet
}

/// Polls until `count` packets are there; panics after about a second.
pub(crate) fn receive(queue: &mut impl PortIo<Buf = Mbuf>, count: usize) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    for _ in 0..1000 {
        let mut burst = Burst::new();
        queue.receive(&mut burst);
        packets.extend(burst.iter().map(|packet| packet.data().to_vec()));
        if packets.len() >= count {
            return packets;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    panic!("{} of {count} packets arrived", packets.len());
}

/// Sends all of it; panics if the device doesn't take it in about a second.
pub(crate) fn send(queue: &mut impl PortIo<Buf = Mbuf>, pool: &Mempool, frames: &[Vec<u8>]) {
    for chunk in frames.chunks(vipsec_wire::buffer::BURST_MAX) {
        let mut burst: Burst<Mbuf> = chunk.iter().map(|frame| packet(pool, frame)).collect();
        for _ in 0..1000 {
            queue.transmit(&mut burst);
            if burst.is_empty() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        assert!(burst.is_empty(), "the device takes no more");
    }
}
