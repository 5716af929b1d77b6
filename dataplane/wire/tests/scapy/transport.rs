//! UDP checksums and the TCP maximum segment size.

use vipsec_wire::ip::{Address, Header, Version};
use vipsec_wire::tcp::{self, Segment};
use vipsec_wire::udp::{self, ChecksumState, Datagram};

use crate::support::{build, read};

#[test]
fn udp_checksums_of_both_families() {
    for packet in build(&[
        r#"IP(src="192.0.2.1", dst="198.51.100.7") / UDP(sport=500, dport=500) / b"odd""#,
        r#"IPv6(src="2001:db8::1", dst="2001:db8::2") / UDP(sport=500, dport=500) / b"odd""#,
        r#"IPv6(src="fe80::1", dst="ff02::1") / IPv6ExtHdrDestOpt() / UDP(sport=4500, dport=4500) / (b"\xff" * 1001)"#,
    ]) {
        let header = Header::parse(&packet.bytes).expect("sound");
        let state = |bytes: &[u8], source: Address| {
            Datagram::parse(header.payload(bytes)).expect("sound").checksum_state(source, header.destination)
        };
        assert_eq!(state(&packet.bytes, header.source), ChecksumState::Right, "{}", packet.expression);
        assert_eq!(
            state(&packet.bytes, "192.0.2.9".parse::<std::net::Ipv4Addr>().unwrap().into()),
            ChecksumState::Wrong
        );
        let mut own = packet.bytes.clone();
        own[header.header_len + 6..][..2].copy_from_slice(&[0, 0]);
        assert_eq!(state(&own, header.source), ChecksumState::Absent);
        udp::fill_checksum(header.source, header.destination, &mut own[header.header_len..]).expect("room");
        assert_eq!(own, packet.bytes, "{}", packet.expression);
    }
}

#[test]
fn a_udp_checksum_of_zero_is_sent_as_all_ones() {
    // RFC 768, RFC 8200 §8.1. The payload is chosen so that the sum comes out as zero.
    let (source, destination) = (Address::from_octets([0x20; 16]), Address::from_octets([0x30; 16]));
    let mut datagram = vec![0, 1, 0, 2, 0, 10, 0, 0, 0, 0];
    udp::fill_checksum(source, destination, &mut datagram).unwrap();
    let checksum = [datagram[6], datagram[7]];
    datagram[8..].copy_from_slice(&checksum);
    udp::fill_checksum(source, destination, &mut datagram).unwrap();
    assert_eq!(datagram[6..8], [0xff, 0xff]);
    assert_eq!(Datagram::parse(&datagram).unwrap().checksum_state(source, destination), ChecksumState::Right);
}

#[test]
fn a_clamped_mss_leaves_a_right_checksum() {
    const LIMIT: u16 = 1361;
    let v4 = r#"IP(src="192.0.2.1", dst="198.51.100.7") / "#;
    let v6 = r#"IPv6(src="2001:db8::1", dst="2001:db8::2") / "#;
    // The MSS before and after; `None` is a segment that has none.
    let cases = [
        (v4, r#"TCP(flags="S", options=[("MSS", 1460)])"#, Some((1460, LIMIT))),
        (
            v6,
            r#"TCP(flags="SA", options=[("MSS", 8940), ("SAckOK", b""), ("Timestamp", (1, 0)), ("NOP", None), ("WScale", 7)])"#,
            Some((8940, LIMIT)),
        ),
        // The option at an odd offset.
        (
            v4,
            r#"TCP(flags="SEC", options=[("NOP", None), ("MSS", 65535), ("WScale", 7)]) / b"fast open""#,
            Some((65535, LIMIT)),
        ),
        (v6, r#"TCP(flags="S", options=[("WScale", 7), ("MSS", 1440), ("NOP", None)]) / b"x""#, Some((1440, LIMIT))),
        (v4, r#"TCP(flags="S", options=[("SAckOK", b""), ("NOP", None), ("MSS", 1361)])"#, Some((1361, 1361))),
        (v4, r#"TCP(flags="S", options=[("MSS", 536)])"#, Some((536, 536))),
        (v4, r#"TCP(flags="A", options=[("MSS", 1460)]) / b"no SYN""#, Some((1460, 1460))),
        (v4, r#"TCP(flags="S", options=[("SAckOK", b"")])"#, None),
        (v4, r#"TCP(flags="S")"#, None),
        // Behind the end of the options nothing is an option.
        (v4, r#"TCP(flags="S", options=[("EOL", None), ("MSS", 1460)])"#, None),
    ];
    let expressions = cases.map(|(ip, tcp, _)| format!("{ip}{tcp}"));
    let packets = build(&expressions.each_ref().map(String::as_str));
    let mut clamped = Vec::new();
    for (packet, (_, _, mss)) in packets.iter().zip(cases) {
        let header = Header::parse(&packet.bytes).expect("sound");
        let mut own = packet.bytes.clone();
        let seen = Segment::parse(header.payload(&own)).expect("sound").mss();
        assert_eq!(seen, mss.map(|(before, _)| before), "{}", packet.expression);
        let changed = tcp::clamp_mss(&mut own[header.header_len..], LIMIT).expect("sound");
        assert_eq!(changed, mss.is_some_and(|(before, after)| before != after), "{}", packet.expression);
        let seen = Segment::parse(header.payload(&own)).expect("sound").mss();
        assert_eq!(seen, mss.map(|(_, after)| after), "{}", packet.expression);
        if changed {
            clamped.push(own);
        } else {
            assert_eq!(own, packet.bytes);
        }
    }
    let layer = |packet: &Vec<u8>| if packet[0] >> 4 == 4 { "IP" } else { "IPv6" };
    let asked: Vec<_> = clamped.iter().map(|packet| (layer(packet), packet.as_slice())).collect();
    for (own, read) in clamped.iter().zip(read(&asked)) {
        assert_eq!(own, &read.again, "scapy computes the same checksum");
    }
}

#[test]
fn rfc_6691_numbers() {
    // RFC 6691 §2, RFC 9293 §3.7.1: MTU less 40 over IPv4, less 60 over IPv6; options are not counted.
    assert_eq!(tcp::mss_for(1500, Version::V4), 1460);
    assert_eq!(tcp::mss_for(1500, Version::V6), 1440);
    assert_eq!(tcp::mss_for(576, Version::V4), 536);
    assert_eq!(tcp::mss_for(1280, Version::V6), 1220);
    assert_eq!(tcp::mss_for(39, Version::V4), 0);
    assert_eq!(tcp::mss_for(70000, Version::V6), 65535, "RFC 2675 §5.1 has this for larger ones");
}
