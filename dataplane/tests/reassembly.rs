//! Scapy splits, we put together.

use std::process::{Command, Stdio};
use std::time::Instant;

use vipsec_dataplane::reassembly::{Limits, Origin, Progress, Reassembler};
use vipsec_wire::buffer::{PacketBuf, VecBuf, VecPool};

/// Prints a line for each packet: the packet and then its fragments, in hexadecimal.
const SPLIT: &str = r#"
from scapy.layers.inet import ICMP, IP, UDP, IPOption_Router_Alert, fragment
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop, fragment6
from scapy.packet import raw

data = bytes(n * 31 % 251 for n in range(1900))
v4 = dict(src="192.0.2.1", dst="198.51.100.7", tos=0xBA)
v6 = dict(src="2001:db8::1", dst="2001:db8::2", tc=0xBA, fl=0x12345)


def line(packet, pieces):
    print(raw(packet).hex(), *[raw(piece).hex() for piece in pieces])


for size in (8 * 40, 8 * 99, 1480):
    for packet in (
        IP(id=size, **v4) / UDP(sport=500, dport=500) / data,
        IP(id=size + 1, **v4) / ICMP() / data[:1501],
        IP(id=size + 2, options=[IPOption_Router_Alert()], **v4) / UDP() / data,
    ):
        line(packet, fragment(packet, fragsize=size))
for mtu in (1280, 1300, 1500):
    for before, behind in (
        (IPv6(**v6), UDP(sport=500, dport=500) / data),
        (IPv6(**v6), ICMPv6EchoRequest(data=data[:1601])),
        (IPv6(**v6) / IPv6ExtHdrHopByHop(), IPv6ExtHdrDestOpt() / UDP() / data),
    ):
        line(before / behind, fragment6(before / IPv6ExtHdrFragment(id=mtu) / behind, mtu))
"#;

fn scapy() -> String {
    let run = |python| Command::new(python).args(["-c", SPLIT]).stderr(Stdio::null()).output().ok();
    let output = ["python3", "/usr/bin/python3"].into_iter().filter_map(run).find(|output| output.status.success());
    let output = output.expect("this test needs scapy as an independent implementation: install python3-scapy");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn what_scapy_splits_becomes_whole_in_any_order() {
    let bytes = |text: &str| hex::decode(text).expect("hexadecimal");
    let mut reassembler: Reassembler<VecBuf> = Reassembler::new(&Limits::default(), 1);
    let mut pool = VecPool::new(8);
    let now = Instant::now();
    let mut packets = 0;
    for line in scapy().lines() {
        let mut pieces = line.split(' ').map(bytes);
        let expected = pieces.next().expect("the packet");
        let mut fragments: Vec<_> = pieces.collect();
        assert!(fragments.len() > 1);
        // Backwards and forwards, from each of them on.
        for turn in 0..fragments.len() * 2 {
            let mut whole = None;
            for fragment in &fragments {
                match reassembler.handle_fragment(now, Origin(0), fragment, &mut pool) {
                    Ok(Progress::Whole { packet, .. }) => whole = Some(packet.data().to_vec()),
                    Ok(Progress::Held) => assert_eq!(whole, None),
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(whole.as_ref(), Some(&expected));
            fragments.reverse();
            if turn % 2 == 1 {
                fragments.rotate_left(1);
            }
        }
        packets += 1;
    }
    assert_eq!(packets, 18);
    assert!(reassembler.is_empty());
}
