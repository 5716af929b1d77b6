//! Packets in packets.

use vipsec_wire::buffer::{PacketBuf, VecBuf};
use vipsec_wire::encapsulation::{Encapsulation, EncapsulationError, PerPacket, Tunnel, UdpChecksum};
use vipsec_wire::gue::{self, GueError};
use vipsec_wire::ip::{Header, MixedFamilies};

use crate::support::{build, read};

const INNER: [&str; 3] = [
    r#"IP(src="10.9.0.1", dst="192.0.2.1", tos=0xba, flags="DF") / UDP(sport=1, dport=2) / b"inner""#,
    r#"IP(src="10.9.0.1", dst="192.0.2.1") / UDP(sport=1, dport=2) / b"inner""#,
    r#"IPv6(src="2001:db8:9::1", dst="2001:db8::1", tc=0xba) / UDP(sport=1, dport=2) / b"inner""#,
];
const OUTER: [(&str, &str); 2] = [("10.1.0.11", "10.1.0.21"), ("2001:db8:1::11", "2001:db8:1::21")];
const VARYING: PerPacket = PerPacket { identification: 0x1234, flow_hash: 0xdead_beef };

fn tunnel(outer: (&str, &str), encapsulation: Encapsulation) -> Tunnel {
    Tunnel::new(outer.0.parse().unwrap(), outer.1.parse().unwrap(), encapsulation).unwrap()
}

#[test]
fn ip_in_ip_of_all_families_is_what_scapy_makes() {
    let v4 = r#"IP(src="10.1.0.11", dst="10.1.0.21", id=0x1234, ttl=64, "#;
    let v6 = r#"IPv6(src="2001:db8:1::11", dst="2001:db8:1::21", hlim=64, fl=0xdbeef, "#;
    let outer = [
        // DF is copied from IPv4 (RFC 2003 §3.1) and left out for IPv6.
        format!(r#"{v4}tos=0xba, flags="DF") / "#),
        format!("{v4}tos=0) / "),
        format!("{v4}tos=0xba) / "),
        format!("{v6}tc=0xba) / "),
        format!("{v6}tc=0) / "),
        format!("{v6}tc=0xba) / "),
    ];
    let mut expressions: Vec<String> = INNER.map(str::to_owned).into();
    expressions.extend(outer.iter().enumerate().map(|(n, outer)| format!("{outer}{}", INNER[n % 3])));
    let packets = build(&expressions.iter().map(String::as_str).collect::<Vec<_>>());
    let (inner, expected) = packets.split_at(3);
    for (n, expected) in expected.iter().enumerate() {
        let tunnel = tunnel(OUTER[n / 3], Encapsulation::IpInIp);
        let mut packet = VecBuf::from_bytes(&inner[n % 3].bytes);
        tunnel.encapsulate(&mut packet, VARYING).unwrap();
        assert_eq!(packet.data(), expected.bytes, "{}", expected.expression);
        assert_eq!(tunnel.overhead(), expected.bytes.len() - inner[n % 3].bytes.len());
    }
}

#[test]
fn gue_carries_both_families_over_both() {
    let inner = build(&INNER);
    let mut made = Vec::new();
    for outer in OUTER {
        for inner in &inner {
            for checksum in [UdpChecksum::Computed, UdpChecksum::Zero] {
                let tunnel = tunnel(outer, Encapsulation::Gue { port: gue::PORT, checksum });
                let mut packet = VecBuf::from_bytes(&inner.bytes);
                tunnel.encapsulate(&mut packet, VARYING).unwrap();
                assert_eq!(packet.data().len(), inner.bytes.len() + tunnel.overhead());
                made.push((checksum, &inner.bytes, packet));
            }
        }
    }
    let layer = |packet: &VecBuf| if packet.data()[0] >> 4 == 4 { "IP" } else { "IPv6" };
    let asked: Vec<_> = made.iter().map(|(_, _, packet)| (layer(packet), packet.data())).collect();
    for ((checksum, inner, packet), read) in made.iter().zip(read(&asked)) {
        assert_eq!(read.names()[1..2], ["UDP"]);
        assert_eq!(read.number("UDP", "dport"), 6080);
        assert!(read.number("UDP", "sport") >= 49152);
        let (sent, right) = (packet.data(), &read.again);
        let at = Header::parse(sent).unwrap().header_len + 6;
        match checksum {
            UdpChecksum::Computed => assert_eq!(sent, right),
            UdpChecksum::Zero => {
                assert_eq!(sent[at..at + 2], [0, 0]);
                assert_eq!((&sent[..at], &sent[at + 2..]), (&right[..at], &right[at + 2..]));
            }
        }
        let (header, payload) = gue::Header::parse(&sent[at + 2..]).unwrap();
        assert_eq!(payload, inner.as_slice());
        assert_eq!(header, gue::Header::of_ip(Header::parse(inner).unwrap().version()));
    }
}

#[test]
fn gue_headers_that_we_do_not_understand_are_refused() {
    assert_eq!(gue::Header::parse(&[0x01, 4, 0, 0, 9, 9, 9, 9, 0x45]).unwrap().1, [0x45], "private data is skipped");
    assert_eq!(gue::Header::parse(&[0x01, 4, 0, 0, 9, 9, 9]), Err(GueError::Truncated));
    assert_eq!(gue::Header::parse(&[0, 4, 0]), Err(GueError::Truncated));
    assert_eq!(gue::Header::parse(&[0x45, 0, 0, 20]), Err(GueError::Variant(1)), "IPv4 directly in UDP");
    assert_eq!(gue::Header::parse(&[0x20, 4, 0, 0]), Err(GueError::Control));
    assert_eq!(gue::Header::parse(&[0, 4, 0x80, 0]), Err(GueError::UnknownFlags(0x8000)));
}

#[test]
fn what_does_not_fit_is_refused() {
    let (v4, v6) = (OUTER[0].0.parse().unwrap(), OUTER[1].1.parse().unwrap());
    assert_eq!(Tunnel::new(v4, v6, Encapsulation::IpInIp), Err(MixedFamilies));
    let tunnel = tunnel(OUTER[0], Encapsulation::Gue { port: gue::PORT, checksum: UdpChecksum::Zero });
    let mut cramped = VecBuf::with_room(tunnel.overhead() - 1, 100);
    cramped.append(20).unwrap();
    cramped.data_mut()[0] = 0x45;
    assert!(matches!(tunnel.encapsulate(&mut cramped, VARYING), Err(EncapsulationError::NoRoom(_))));
    let mut long = VecBuf::from_bytes(&[0x45; 65535 - 20 - 8 - 4 + 1]);
    assert_eq!(tunnel.encapsulate(&mut long, VARYING), Err(EncapsulationError::TooLong));
    let mut longest = VecBuf::from_bytes(&[0x45; 65535 - 20 - 8 - 4]);
    assert_eq!(tunnel.encapsulate(&mut longest, VARYING), Ok(()));
    assert_eq!(longest.data()[2..4], [0xff, 0xff]);
    let mut no_ip = VecBuf::from_bytes(&[0x15; 40]);
    assert_eq!(tunnel.encapsulate(&mut no_ip, VARYING), Err(EncapsulationError::NotIp));
}
