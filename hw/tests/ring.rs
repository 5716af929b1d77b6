//! Packets through a loopback ring: the buffer traits keep their promises on mbufs, nothing leaks.

mod support;

use std::thread;

use support::{eal, frame, packet, receive, send};
use vipsec_hw::{Mempool, MempoolOptions, Port, PortError, PortOptions, ThreadError};
use vipsec_wire::buffer::{BURST_MAX, Burst, NoRoom, PacketBuf, PortIo};

const BUFFERS: u32 = 2047;

#[test]
fn ring_loopback() {
    let eal = eal("ring");
    let pool =
        Mempool::new(&eal, &MempoolOptions { buffers: BUFFERS, cache: 64, ..MempoolOptions::new("ring") }).unwrap();
    assert_eq!(pool.available(), BUFFERS);
    let (port, mut queues) = Port::start(&eal, "net_ring0", &pool, &PortOptions::default()).unwrap();
    assert_eq!((port.name(), port.driver(), queues.len()), ("net_ring0", "net_ring", 1));
    assert!(port.link().up);
    assert!(!port.input_is_finite());
    let mut queue = queues.pop().unwrap();

    // Content and order survive, bursts of any size.
    let frames: Vec<_> = (0..100).map(|i| frame(i, 60 + usize::from(i) * 14)).collect();
    send(&mut queue, &pool, &frames);
    assert_eq!(receive(&mut queue, frames.len()), frames);
    assert_eq!(pool.available(), BUFFERS);
    let stats = port.stats();
    assert_eq!((stats.rx_packets, stats.tx_packets), (100, 100));

    receives_no_more_than_fits(&mut queue, &pool);
    keeps_what_the_device_has_no_room_for(&mut queue, &pool);
    grows_and_shrinks(&pool);
    exhaustion(&pool);

    // Queues and buffers move to another thread, registered or not.
    let worker = {
        let (eal, pool) = (eal.clone(), pool.clone());
        thread::spawn(move || {
            send(&mut queue, &pool, &[frame(1, 60)]);
            let registered = eal.register_thread().unwrap();
            assert_eq!(eal.register_thread().unwrap_err(), ThreadError::AlreadyRegistered);
            assert_eq!(receive(&mut queue, 1), [frame(1, 60)]);
            send(&mut queue, &pool, &[frame(2, 60)]);
            drop(registered);
            drop(eal.register_thread().unwrap());
            queue
        })
    };
    let queue = worker.join().unwrap();
    assert_eq!(eal.register_thread().unwrap_err(), ThreadError::AlreadyRegistered, "it started the EAL");

    // What is still in the ring comes back when the port stops, and the name is free again.
    assert_eq!(pool.available(), BUFFERS - 1);
    let same_name = Port::start(&eal, "net_ring0", &pool, &PortOptions::default());
    assert!(matches!(same_name, Err(PortError::Device(vipsec_hw::DeviceError::InUse(name))) if name == "net_ring0"));
    drop((port, queue));
    assert_eq!(pool.available(), BUFFERS);
    drop(Port::start(&eal, "net_ring0", &pool, &PortOptions::default()).unwrap());

    // The pool went with its last handle: its name is free again. With a buffer out, it stays, and so does the buffer.
    drop(pool);
    let pool = Mempool::new(&eal, &MempoolOptions { buffers: BUFFERS, ..MempoolOptions::new("ring") }).unwrap();
    let survivor = packet(&pool, &frame(9, 60));
    drop((pool, eal));
    assert_eq!(survivor.data(), frame(9, 60));
}

fn receives_no_more_than_fits(queue: &mut vipsec_hw::QueuePair, pool: &Mempool) {
    let frames: Vec<_> = (0..5).map(|i| frame(i, 60)).collect();
    send(queue, pool, &frames);
    let mut burst: Burst<_> = (0..BURST_MAX - 3).map(|_| packet(pool, &frame(77, 60))).collect();
    assert_eq!(queue.receive(&mut burst), 3);
    assert_eq!(queue.receive(&mut burst), 0);
    assert!(burst.is_full());
    assert!(burst.iter().take(BURST_MAX - 3).all(|packet| packet.data() == frame(77, 60)));
    assert!(burst.iter().skip(BURST_MAX - 3).map(PacketBuf::data).eq(&frames[..3]));
    burst.truncate(1);
    assert_eq!(queue.receive(&mut burst), 2);
    assert!(burst.iter().skip(1).map(PacketBuf::data).eq(&frames[3..]));
    drop(burst);
    assert_eq!(pool.available(), BUFFERS);
}

fn keeps_what_the_device_has_no_room_for(queue: &mut vipsec_hw::QueuePair, pool: &Mempool) {
    const RING_PLACES: usize = 1023;
    send(queue, pool, &vec![frame(0, 60); RING_PLACES - 10]);
    let mut burst: Burst<_> = (0..BURST_MAX).map(|i| packet(pool, &frame(i as u8, 60))).collect();
    assert_eq!(queue.transmit(&mut burst), 10);
    assert!(burst.iter().map(PacketBuf::data).eq((10..BURST_MAX).map(|i| frame(i as u8, 60))));
    assert_eq!(queue.transmit(&mut burst), 0);
    assert_eq!(burst.len(), BURST_MAX - 10);
    drop(burst);
    let received = receive(queue, RING_PLACES);
    assert!(received[RING_PLACES - 10..].iter().eq(&(0..10).map(|i| frame(i, 60)).collect::<Vec<_>>()));
    assert_eq!(pool.available(), BUFFERS);
}

fn grows_and_shrinks(pool: &Mempool) {
    let content = frame(3, 100);
    let mut packet = packet(pool, &content);
    assert_eq!((packet.headroom(), packet.tailroom()), (128, 2048 - 100));

    packet.prepend(28).unwrap();
    assert_eq!(&packet.data()[28..], content);
    packet.data_mut()[..28].fill(0xaa);
    packet.append(10).unwrap();
    packet.data_mut()[128..].fill(0xbb);
    assert_eq!(packet.data(), [&[0xaa; 28][..], &content, &[0xbb; 10]].concat());
    packet.trim_front(27).unwrap();
    packet.trim_back(9).unwrap();
    assert_eq!(packet.data(), [&[0xaa][..], &content, &[0xbb]].concat());

    for impossible in [128, 1 << 16, usize::MAX] {
        assert_eq!(packet.prepend(impossible), Err(NoRoom));
    }
    for impossible in [103, 1 << 16, usize::MAX] {
        assert_eq!(packet.trim_front(impossible), Err(NoRoom));
        assert_eq!(packet.trim_back(impossible), Err(NoRoom));
    }
    let tailroom = packet.tailroom();
    for impossible in [tailroom + 1, 1 << 16, usize::MAX] {
        assert_eq!(packet.append(impossible), Err(NoRoom));
    }
    assert_eq!(packet.data().len(), 102, "a refused change changes nothing");
    packet.append(tailroom).unwrap();
    packet.prepend(127).unwrap();
    assert_eq!((packet.headroom(), packet.tailroom(), packet.data().len()), (0, 0, 128 + 2048));
    packet.trim_back(128 + 2048).unwrap();
    assert!(packet.data().is_empty());
}

fn exhaustion(pool: &Mempool) {
    let mut all: Vec<_> = std::iter::from_fn(|| pool.alloc()).collect();
    assert_eq!(all.len(), BUFFERS as usize);
    assert_eq!(pool.available(), 0);
    all.pop();
    assert!(pool.alloc().is_some());
    drop(all);
    assert_eq!(pool.available(), BUFFERS);
}
