//! AF_XDP ports on the ends of a veth pair, in a network namespace of the test's own.

mod support;

use support::{eal_with, frame, in_a_network_namespace, ip, receive, send, start};
use vipsec_hw::{Mempool, MempoolOptions, PortOptions};

#[test]
fn veth_pair() {
    if !kernel_has_af_xdp() || !in_a_network_namespace() {
        return;
    }
    ip("link add left0 type veth peer name right0");
    for interface in ["left0", "right0"] {
        ip(&format!("link set {interface} addrgenmode none up"));
    }
    let eal = eal_with("af_xdp", 128);
    // It takes a ring of its own out of the pool, and up to as many again while they travel.
    let pool = Mempool::new(&eal, &MempoolOptions { buffers: 16383, ..MempoolOptions::new("af_xdp") }).unwrap();
    let (left, mut left_queue) = start(&eal, "net_af_xdp0,iface=left0", &pool, &PortOptions::default());
    let (right, mut right_queue) = start(&eal, "net_af_xdp1,iface=right0", &pool, &PortOptions::default());
    assert_eq!((left.driver(), left.link().up, right.link().up), ("net_af_xdp", true, true));

    let frames: Vec<_> = (0..100usize).map(|i| frame(i as u8, 60 + i * 14)).collect();
    send(&mut left_queue, &pool, &frames);
    assert_eq!(receive(&mut right_queue, frames.len()), frames);
    send(&mut right_queue, &pool, &frames);
    assert_eq!(receive(&mut left_queue, frames.len()), frames);

    ip("link set right0 down");
    assert!(!left.link().up && !right.link().up);
}

fn kernel_has_af_xdp() -> bool {
    // SAFETY: makes a file descriptor or doesn't, and closes it.
    let has = unsafe {
        let socket = libc::socket(libc::AF_XDP, libc::SOCK_RAW, 0);
        socket >= 0 && libc::close(socket) == 0
    };
    if !has {
        eprintln!("skipped: the kernel has no AF_XDP sockets, or not for this user");
    }
    has
}
