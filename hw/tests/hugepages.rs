//! Where the kernel has hugepages, they are used without being asked for; where not, ordinary pages do.

mod support;

use std::thread;

use support::{frame, receive, send};
use vipsec_hw::{Eal, EalOptions, MemoryBacking, Mempool, MempoolOptions, Port, PortOptions};

const MEMORY_MIB: u32 = 32;

#[test]
fn hugepages_if_there_are_any() {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap();
    let number = |key: &str| -> u64 {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(key)).unwrap_or("0");
        line.trim_start_matches(':').split_whitespace().next().unwrap().parse().unwrap()
    };
    let free_mib = number("HugePages_Free") * number("Hugepagesize") / 1024;
    let expected =
        if free_mib >= u64::from(MEMORY_MIB) { MemoryBacking::Hugepages } else { MemoryBacking::OrdinaryPages };
    eprintln!("{free_mib} MiB of hugepages are free: expecting {expected:?}");

    let options = EalOptions { memory_mib: MEMORY_MIB, ..EalOptions::new(support::prefix("hugepages")) };
    let eal = Eal::init(&options).unwrap();
    assert_eq!(eal.memory_backing(), expected);

    let pool = Mempool::new(&eal, &MempoolOptions { buffers: 1023, ..MempoolOptions::new("hugepages") }).unwrap();
    let (_port, mut queues) = Port::start(&eal, "net_ring0", &pool, &PortOptions::default()).unwrap();
    let mut queue = queues.pop().unwrap();
    let worker = thread::spawn(move || {
        let _registered = eal.register_thread().unwrap();
        send(&mut queue, &pool, &[frame(1, 1514)]);
        assert_eq!(receive(&mut queue, 1), [frame(1, 1514)]);
    });
    worker.join().unwrap();
}
