//! Packets from a capture file to a capture file: the same ones come out, the end is noticed, the file is complete.

mod support;

use std::path::{Path, PathBuf};
use std::{env, fs};

use support::{eal, frame};
use vipsec_hw::{Mempool, MempoolOptions, Port, PortOptions, QueuePair};
use vipsec_wire::buffer::{Burst, PacketBuf, PortIo};

const BUFFERS: u32 = 255;

#[test]
fn capture_in_capture_out() {
    let folder = env::temp_dir().join(support::prefix("pcap"));
    fs::create_dir_all(&folder).unwrap();
    let eal = eal("pcap");
    let options = MempoolOptions { buffers: BUFFERS, cache: 0, ..MempoolOptions::new("pcap") };
    let pool = Mempool::new(&eal, &options).unwrap();

    everything_comes_through(&eal, &pool, &folder);
    an_empty_pool_is_not_the_end(&eal, &pool, &folder);
    a_packet_in_pieces_is_dropped_and_counted(&eal, &pool, &folder);
    jumbo_frames_take_jumbo_buffers(&eal, &folder);
    without_an_output_file(&eal, &pool, &folder);
    without_an_input_file(&eal, &pool, &folder);
    assert_eq!(pool.available(), BUFFERS);
    fs::remove_dir_all(&folder).unwrap();
}

fn start(eal: &vipsec_hw::Eal, pool: &Mempool, device: &str) -> (Port, QueuePair) {
    let (port, mut queues) = Port::start(eal, device, pool, &PortOptions::default()).unwrap();
    (port, queues.pop().unwrap())
}

/// Receives to the end, calling `each` with each burst.
fn read_to_end(queue: &mut QueuePair, mut each: impl FnMut(&mut QueuePair, &mut Burst<vipsec_hw::Mbuf>)) {
    let mut burst = Burst::new();
    while !queue.input_ended() {
        queue.receive(&mut burst);
        each(queue, &mut burst);
        burst.clear();
    }
}

fn everything_comes_through(eal: &vipsec_hw::Eal, pool: &Mempool, folder: &Path) {
    let (input, output) = (folder.join("in.pcap"), folder.join("out.pcap"));
    // More than there are buffers, up to what a buffer holds.
    let frames: Vec<_> = (0..1000usize).map(|i| frame(i as u8, 14 + (i * 37) % 2035)).collect();
    write_capture(&input, &frames);
    let device = format!("net_pcap0,rx_pcap={},tx_pcap={}", input.display(), output.display());
    let (port, mut queue) = start(eal, pool, &device);
    assert!(port.input_is_finite());
    assert!(!queue.input_ended());
    read_to_end(&mut queue, |queue, burst| {
        queue.transmit(burst);
        assert!(burst.is_empty());
    });
    assert_eq!(queue.receive(&mut Burst::new()), 0);
    assert_eq!((port.stats().rx_packets, port.stats().tx_packets), (1000, 1000));
    drop((queue, port));
    assert_eq!(read_capture(&output), frames);
}

fn an_empty_pool_is_not_the_end(eal: &vipsec_hw::Eal, pool: &Mempool, folder: &Path) {
    let input = folder.join("in.pcap");
    write_capture(&input, &(0..10).map(|i| frame(i, 60)).collect::<Vec<_>>());
    let (port, mut queue) = start(eal, pool, &format!("net_pcap0,rx_pcap={}", input.display()));
    let all: Vec<_> = std::iter::from_fn(|| pool.alloc()).collect();
    let mut burst = Burst::new();
    assert_eq!(queue.receive(&mut burst), 0);
    assert!(!queue.input_ended());
    drop(all);
    let lost = port.stats().rx_no_buffer as usize;
    assert_eq!(queue.receive(&mut burst), 10 - lost);
    assert!(!queue.input_ended());
    queue.receive(&mut burst);
    queue.receive(&mut burst);
    assert!(queue.input_ended());
}

fn a_packet_in_pieces_is_dropped_and_counted(eal: &vipsec_hw::Eal, pool: &Mempool, folder: &Path) {
    let input = folder.join("in.pcap");
    write_capture(&input, &[frame(1, 60), frame(2, 5000), frame(3, 60)]);
    let (_port, mut queue) = start(eal, pool, &format!("net_pcap0,rx_pcap={}", input.display()));
    let mut received = Vec::new();
    read_to_end(&mut queue, |_, burst| received.extend(burst.iter().map(|packet| packet.data().to_vec())));
    assert_eq!(received, [frame(1, 60), frame(3, 60)]);
    assert_eq!(queue.unusable_packets(), 1);
    assert_eq!(pool.available(), BUFFERS);
}

fn jumbo_frames_take_jumbo_buffers(eal: &vipsec_hw::Eal, folder: &Path) {
    let (input, output) = (folder.join("in.pcap"), folder.join("out.pcap"));
    let frames = [frame(1, 60), frame(2, 5000), frame(3, 9018), frame(4, 9300), frame(5, 60)];
    write_capture(&input, &frames);
    let options = MempoolOptions { buffers: 255, cache: 0, room: 9216, ..MempoolOptions::new("jumbo") };
    let pool = Mempool::new(eal, &options).unwrap();
    let device = format!("net_pcap0,rx_pcap={},tx_pcap={}", input.display(), output.display());
    let options = PortOptions { mtu: 9000, ..PortOptions::default() };
    let (port, mut queues) = Port::start(eal, &device, &pool, &options).unwrap();
    let mut queue = queues.pop().unwrap();
    read_to_end(&mut queue, |queue, burst| {
        queue.transmit(burst);
    });
    assert_eq!(queue.unusable_packets(), 1);
    drop((queue, port));
    assert_eq!(read_capture(&output), [&frames[..3], &frames[4..]].concat());
}

fn without_an_output_file(eal: &vipsec_hw::Eal, pool: &Mempool, folder: &Path) {
    let input = folder.join("in.pcap");
    write_capture(&input, &[frame(1, 60)]);
    let (_port, mut queue) = start(eal, pool, &format!("net_pcap0,rx_pcap={}", input.display()));
    read_to_end(&mut queue, |queue, burst| {
        let len = burst.len();
        assert_eq!(queue.transmit(burst), len, "what is sent disappears");
    });
    assert_eq!(pool.available(), BUFFERS);
}

fn without_an_input_file(eal: &vipsec_hw::Eal, pool: &Mempool, folder: &Path) {
    let output = folder.join("out-only.pcap");
    let (port, mut queue) = start(eal, pool, &format!("net_pcap0,tx_pcap={}", output.display()));
    assert!(!port.input_is_finite());
    support::send(&mut queue, pool, &[frame(1, 60)]);
    for _ in 0..3 {
        assert_eq!(queue.receive(&mut Burst::new()), 0);
        assert!(!queue.input_ended());
    }
    drop((port, queue));
    assert_eq!(read_capture(&output), [frame(1, 60)]);
}

/// The classic format of libpcap: a 24-byte header, then each packet after 16 bytes: seconds, fraction, captured and real length.
fn write_capture(path: &PathBuf, frames: &[Vec<u8>]) {
    const ETHERNET: u32 = 1;
    let mut file = Vec::new();
    file.extend([0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 65535, ETHERNET].map(u32::to_ne_bytes).as_flattened());
    for (i, frame) in frames.iter().enumerate() {
        let len = frame.len() as u32;
        file.extend([i as u32, 0, len, len].map(u32::to_ne_bytes).as_flattened());
        file.extend(frame);
    }
    fs::write(path, file).unwrap();
}

fn read_capture(path: &PathBuf) -> Vec<Vec<u8>> {
    let file = fs::read(path).unwrap();
    let number = |bytes: &[u8]| u32::from_ne_bytes(bytes.try_into().unwrap());
    let (header, mut rest) = file.split_at(24);
    assert!([0xa1b2_c3d4, 0xa1b2_3c4d].contains(&number(&header[..4])), "micro- or nanoseconds");
    let mut frames = Vec::new();
    while !rest.is_empty() {
        let (header, content) = rest.split_at(16);
        let (captured, real) = (number(&header[8..12]), number(&header[12..]));
        assert_eq!(captured, real);
        let (frame, next) = content.split_at(captured as usize);
        frames.push(frame.to_vec());
        rest = next;
    }
    frames
}
