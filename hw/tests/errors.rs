//! What goes wrong at the start is said clearly, and costs nothing else.

mod support;

use std::io::{BufRead, BufReader, Read, stdin};
use std::process::{Command, Stdio};
use std::{env, fs};

use vipsec_hw::{
    DeviceError, Eal, EalError, EalOptions, Hugepages, MemoryBacking, Mempool, MempoolError, MempoolOptions, Port,
    PortError, PortOptions,
};

/// Set in the process that holds the file prefix of this name.
const HOLD: &str = "VIPSEC_HW_TEST_HOLD";

#[test]
fn errors_at_the_start() {
    if let Ok(prefix) = env::var(HOLD) {
        return hold(&prefix);
    }
    let prefix = support::prefix("errors");
    let options = EalOptions { memory_mib: 64, hugepages: Hugepages::Never, ..EalOptions::new(&prefix) };

    let mut holder = Command::new(env::current_exe().unwrap())
        .args(["--exact", "errors_at_the_start", "--nocapture"])
        .env(HOLD, &prefix)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // Kept open until the holder ends: it goes on writing to it.
    let mut output = BufReader::new(holder.stdout.take().unwrap());
    assert!(
        output.by_ref().lines().map_while(Result::ok).any(|line| line.contains("held")),
        "the holder starts its EAL"
    );
    assert!(matches!(Eal::init(&options), Err(EalError::FilePrefixInUse(name)) if name == prefix));
    drop(holder.stdin.take());
    assert!(holder.wait().unwrap().success());

    let all_pages = EalOptions { memory_mib: u32::MAX, hugepages: Hugepages::Always, ..options.clone() };
    assert!(matches!(Eal::init(&all_pages), Err(EalError::TooFewHugepages { needed_mib: u32::MAX, .. })));

    // None of these was a start, and the prefix is free again.
    let cpus = allowed_cpus();
    let eal = Eal::init(&options).unwrap();
    assert_eq!(eal.memory_backing(), MemoryBacking::OrdinaryPages);
    assert_eq!(allowed_cpus(), cpus, "starting DPDK pins nobody");
    assert!(matches!(Eal::init(&options), Err(EalError::AlreadyInitialized)));

    mempools(&eal);
    let pool = Mempool::new(&eal, &MempoolOptions { buffers: 1023, ..MempoolOptions::new("errors") }).unwrap();
    devices(&eal, &pool);
    queues_and_sizes(&eal, &pool);

    drop((pool, eal));
    assert!(
        matches!(Eal::init(&options), Err(EalError::AlreadyInitialized)),
        "a cleanup makes no second start possible"
    );
}

fn hold(prefix: &str) {
    let options = EalOptions { memory_mib: 16, hugepages: Hugepages::Never, ..EalOptions::new(prefix) };
    let _eal = Eal::init(&options).unwrap();
    println!("held");
    stdin().read_to_end(&mut Vec::new()).unwrap();
}

fn allowed_cpus() -> String {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap();
    status.lines().find(|line| line.starts_with("Cpus_allowed_list")).unwrap().to_owned()
}

fn mempools(eal: &Eal) {
    let small = MempoolOptions { buffers: 63, cache: 0, ..MempoolOptions::new("small") };
    let _small = Mempool::new(eal, &small).unwrap();
    let refused = |options: MempoolOptions| match Mempool::new(eal, &options) {
        Err(MempoolError::Refused { name, errno }) if name == options.name => errno.0,
        other => panic!("{options:?}: {other:?}"),
    };
    assert_eq!(refused(small.clone()), libc::EEXIST);
    assert_eq!(refused(MempoolOptions { name: "x".repeat(40), ..small.clone() }), libc::ENAMETOOLONG);
    assert_eq!(refused(MempoolOptions { cache: 513, ..MempoolOptions::new("cache") }), libc::EINVAL);
    assert_eq!(refused(MempoolOptions { buffers: 1 << 20, ..MempoolOptions::new("huge") }), libc::ENOMEM);
    let room = MempoolOptions { room: u16::MAX, ..MempoolOptions::new("room") };
    assert!(matches!(Mempool::new(eal, &room), Err(MempoolError::RoomTooLarge(u16::MAX))));
}

fn devices(eal: &Eal, pool: &Mempool) {
    let fails = |device: &str| match Port::start(eal, device, pool, &PortOptions::default()) {
        Err(PortError::Device(error)) => error,
        other => panic!("{device}: {other:?}"),
    };
    for device in ["net_af_packet0,iface=nosuch0", "net_pcap0,iface=nosuch0", "net_pcap0,tx_iface=nosuch0"] {
        let error = fails(device);
        assert!(
            matches!(&error, DeviceError::NoSuchInterface { interface, .. } if interface == "nosuch0"),
            "{error:?}"
        );
        assert!(error.to_string().contains("\"nosuch0\""), "{error}");
    }
    assert!(matches!(fails("net_pcap0,rx_pcap=/nosuch.pcap"), DeviceError::NoSuchCapture { .. }));
    assert!(matches!(fails("net_ring0,ring=0x1234"), DeviceError::RingArguments(_)));
    assert!(matches!(fails("net_ring0,"), DeviceError::Malformed(_)));
    for device in ["net_nonsense0", "crypto_null0", "crypto_null0", "net_null0,nonsense=1", "net_af_packet0,qpairs=1"] {
        let error = fails(device);
        assert!(matches!(error, DeviceError::Refused { .. }), "{error:?}");
        assert!(error.to_string().contains(device), "{error}");
    }
}

fn queues_and_sizes(eal: &Eal, pool: &Mempool) {
    let start =
        |queues, mtu| Port::start(eal, "net_null0", pool, &PortOptions { queues, mtu, ..PortOptions::default() });
    assert!(matches!(start(0, 1500), Err(PortError::TooFewQueues { wanted: 0, .. })));
    assert!(matches!(start(u16::MAX, 1500), Err(PortError::TooFewQueues { wanted: u16::MAX, .. })));
    assert!(matches!(start(1, 2048), Err(PortError::BuffersTooSmall { mtu: 2048, room: 2048, .. })));
    // Each of them has let go of the device. A driver that can spread packets over queues is told to.
    let (_port, queues) = start(2, 1500).unwrap();
    assert_eq!(queues.iter().map(|queue| queue.index()).collect::<Vec<_>>(), [0, 1]);
}
