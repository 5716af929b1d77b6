//! The view of both families, and the walk over extension headers.

use std::net::IpAddr;

use vipsec_wire::ip::{self, Ecn, Header, protocol};
use vipsec_wire::ipv4;
use vipsec_wire::ipv6::extension::{CheckError, Report};
use vipsec_wire::ipv6::{self, Ipv6Error};
use vipsec_wire::transport::Transport;

use crate::support::{Built, build};

const PACKETS: &[&str] = &[
    r#"IP(src="192.0.2.1", dst="198.51.100.7", tos=0xb9, id=7, ttl=3, flags="DF") / UDP(sport=500, dport=4500) / b"data""#,
    r#"IP(src="192.0.2.1", dst="198.51.100.7") / TCP(sport=1000, dport=80, flags="S", options=[("MSS", 1460)])"#,
    r#"IP(src="192.0.2.1", dst="198.51.100.7", options=[IPOption_Router_Alert(), IPOption_NOP()]) / TCP(sport=1, dport=2, flags="FA") / b"x""#,
    r#"IP(src="192.0.2.1", dst="198.51.100.7", options=[IPOption_RR(routers=["0.0.0.0"] * 9)]) / ICMP(type=3, code=1) / b"12345678""#,
    r#"IP(src="192.0.2.1", dst="198.51.100.7") / ESP(spi=0x1234, seq=1, data=b"sealed" * 4)"#,
    r#"IP(src="192.0.2.1", dst="198.51.100.7") / SCTP(sport=5, dport=6)"#,
    r#"IPv6(src="2001:db8::1", dst="2001:db8::2", tc=0xb9, fl=0x12345, hlim=3) / UDP(sport=500, dport=4500) / b"data""#,
    r#"IPv6(src="2001:db8::1", dst="2001:db8::2") / TCP(sport=1000, dport=80, flags="SEC")"#,
    r#"IPv6(src="2001:db8::1", dst="2001:db8::2") / ESP(spi=0x1234, seq=1, data=b"sealed" * 4)"#,
    r#"IPv6(src="2001:db8::1", dst="2001:db8::2") / ICMPv6EchoRequest(id=3, seq=4, data=b"ping")"#,
    r#"IPv6(src="2001:db8::1", dst="2001:db8::2") / IPv6ExtHdrHopByHop(options=[RouterAlert()]) / UDP(sport=1, dport=2) / b"x""#,
    r#"IPv6(src="2001:db8::1", dst="2001:db8::2") / IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 20)]) / TCP(sport=3, dport=4, flags="R")"#,
    r#"IPv6(src="2001:db8::1", dst="2001:db8::2") / IPv6ExtHdrRouting(type=0, segleft=0, addresses=["2001:db8::9", "2001:db8::a"]) / UDP(sport=5, dport=6)"#,
    r#"IPv6(src="2001:db8::1", dst="2001:db8::2") / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / IPv6ExtHdrRouting(type=2, segleft=0, addresses=["2001:db8::9"]) / IPv6ExtHdrFragment(id=0xdeadbeef, m=0, offset=0) / IPv6ExtHdrDestOpt() / UDP(sport=7, dport=8) / b"atomic""#,
];

fn header_of(packet: &Built) -> Header {
    Header::parse(&packet.bytes).unwrap_or_else(|error| panic!("{}: {error}", packet.expression))
}

#[test]
fn both_read_the_same_header() {
    for packet in build(PACKETS) {
        let (header, read, what) = (header_of(&packet), &packet.read, &packet.expression);
        let layer = read.names()[0].to_owned();
        let number = |field| read.number(&layer, field);
        let address = |field| read.text(&layer, field).parse::<IpAddr>().expect("an address");
        assert_eq!((header.source.to_ip(), header.destination.to_ip()), (address("src"), address("dst")), "{what}");
        assert_eq!(Some(header.header_len), read.upper, "{what}");
        assert_eq!(header.total_len, packet.bytes.len(), "{what}");
        if layer == "IP" {
            assert_eq!(u64::from(header.protocol), number("proto"), "{what}");
            assert_eq!((u64::from(header.traffic_class), u64::from(header.ttl)), (number("tos"), number("ttl")));
            assert_eq!(header.dont_fragment, read.text("IP", "flags").contains("DF"), "{what}");
        } else {
            assert_eq!((u64::from(header.traffic_class), u64::from(header.ttl)), (number("tc"), number("hlim")));
            let parsed = ipv6::Packet::parse(&packet.bytes).expect("it was parsed");
            assert_eq!(u64::from(parsed.flow_label()), number("fl"), "{what}");
            assert!(header.dont_fragment, "{what}");
        }
        assert_eq!(header.fragment, None, "{what}");
        let transport = Transport::parse(&header, &packet.bytes).expect("sound");
        let upper = *read.names().iter().find(|name| ["TCP", "UDP", "SCTP"].contains(name)).unwrap_or(&"");
        let ports =
            (!upper.is_empty()).then(|| (read.number(upper, "sport") as u16, read.number(upper, "dport") as u16));
        assert_eq!(transport.ports(), ports, "{what}");

        // Padding of Ethernet or ESP behind the packet changes nothing; a byte less is refused.
        let mut padded = packet.bytes.clone();
        padded.extend([0xee; 7]);
        assert_eq!(Header::parse(&padded), Ok(header), "{what}");
        assert_eq!(header.payload(&padded), &packet.bytes[header.header_len..], "{what}");
        assert!(Header::parse(&packet.bytes[..packet.bytes.len() - 1]).is_err(), "{what}");
    }
}

#[test]
fn what_is_changed_in_place_is_what_scapy_would_have_made() {
    let packets = build(&[
        r#"IP(src="192.0.2.1", dst="198.51.100.7", tos=0xb8, ttl=64, id=9) / UDP() / b"x""#,
        r#"IP(src="192.0.2.1", dst="198.51.100.7", tos=0x23, ttl=63, id=9) / UDP() / b"x""#,
        r#"IPv6(src="2001:db8::1", dst="2001:db8::2", tc=0xb8, hlim=64, fl=0xabcde) / UDP() / b"x""#,
        r#"IPv6(src="2001:db8::1", dst="2001:db8::2", tc=0x23, hlim=63, fl=0xabcde) / UDP() / b"x""#,
    ]);
    for pair in packets.chunks(2) {
        let (mut before, after) = (pair[0].bytes.clone(), &pair[1].bytes);
        ip::decrement_ttl(&mut before).expect("64");
        ip::set_traffic_class(&mut before, 0x20).expect("a header");
        ip::set_ecn(&mut before, Ecn::Ce).expect("a header");
        assert_eq!(&before, after);
    }
}

#[test]
fn fragments_are_recognised() {
    let packets = build(&[
        r#"IP(src="192.0.2.1", dst="198.51.100.7", id=513, flags="MF", proto=17) / (b"\x01\xf4\x11\x94\x05\x00\0\0" + b"x" * 16)"#,
        r#"IP(src="192.0.2.1", dst="198.51.100.7", id=513, frag=185, proto=6) / b"rest""#,
        r#"IPv6(src="2001:db8::1", dst="2001:db8::2") / IPv6ExtHdrFragment(id=0x01020304, m=1, nh=60) / IPv6ExtHdrDestOpt(nh=17) / (b"\x01\xf4\x11\x94\x05\x00\0\0" + b"x" * 16)"#,
        r#"IPv6(src="2001:db8::1", dst="2001:db8::2") / IPv6ExtHdrFragment(id=0x01020304, offset=185, nh=60) / (b"\x3c\xff" + b"rest" * 10)"#,
    ]);
    let seen = packets.iter().map(|packet| {
        let header = header_of(packet);
        let fragment = header.fragment.expect("a fragment");
        let transport = Transport::parse(&header, &packet.bytes).expect("sound");
        let place = (fragment.identification, fragment.offset, fragment.more);
        (place, header.protocol, header.header_len, transport.ports(), header.has_upper_layer())
    });
    let expected = [
        ((513, 0, true), 17, 20, Some((500, 4500)), true),
        ((513, 1480, false), 6, 20, None, false),
        ((0x0102_0304, 0, true), 17, 56, Some((500, 4500)), true),
        // What follows the fragment header is a piece of the datagram, and no header however much it looks like one.
        ((0x0102_0304, 1480, false), 60, 48, None, false),
    ];
    assert_eq!(seen.collect::<Vec<_>>(), expected);
}

#[test]
fn what_hides_the_upper_layer_is_refused() {
    use Ipv6Error::{ExtensionTruncated, MappedAddress, MisplacedExtension, SourceRoute, TooManyExtensions};
    let between = |headers: &str| format!(r#"IPv6(src="2001:db8::1", dst="2001:db8::2") / {headers} / UDP()"#);
    let cases = [
        // RFC 5095 §3, RFC 8200 §4.4.
        (between(r#"IPv6ExtHdrRouting(type=0, segleft=1, addresses=["2001:db8::9"])"#), SourceRoute(0)),
        (between(r#"IPv6ExtHdrRouting(type=4, segleft=2, addresses=["2001:db8::9"])"#), SourceRoute(4)),
        (between("IPv6ExtHdrDestOpt() / IPv6ExtHdrHopByHop()"), MisplacedExtension),
        (between("IPv6ExtHdrFragment(m=1) / IPv6ExtHdrFragment(m=1)"), MisplacedExtension),
        (between(&["IPv6ExtHdrDestOpt()"; 9].join(" / ")), TooManyExtensions),
        (between(&[r#"IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 252)])"#; 3].join(" / ")), TooManyExtensions),
        // RFC 7112 §5: the first fragment ends within the destination options.
        (between(r#"IPv6ExtHdrFragment(m=1, nh=60) / (b"\x11\x02" + b"\0" * 6)"#), ExtensionTruncated),
        (r#"IPv6(src="::ffff:192.0.2.1", dst="2001:db8::2") / UDP()"#.to_owned(), MappedAddress),
        (r#"IPv6(src="2001:db8::1", dst="::ffff:192.0.2.1") / UDP()"#.to_owned(), MappedAddress),
    ];
    let packets = build(&cases.each_ref().map(|(expression, _)| expression.as_str()));
    for (packet, (expression, error)) in packets.iter().zip(cases) {
        assert_eq!(Header::parse(&packet.bytes), Err(ip::IpError::V6(error)), "{expression}");
    }
}

#[test]
fn ipv4_source_routes_and_malformed_options_are_refused() {
    use ipv4::Ipv4Error;
    let with = |options: &str| format!(r#"IP(src="192.0.2.1", dst="198.51.100.7", options={options}) / UDP()"#);
    let cases = [
        (with(r#"[IPOption_LSRR(routers=["192.0.2.9", "192.0.2.10"])]"#), Some(Ipv4Error::SourceRoute)),
        (with(r#"[IPOption_NOP(), IPOption_SSRR(routers=["192.0.2.9"], pointer=4)]"#), Some(Ipv4Error::SourceRoute)),
        // RFC 791 §3.1: "If the pointer is greater than the length, the source route is empty".
        (with(r#"[IPOption_LSRR(routers=["192.0.2.9"], pointer=8)]"#), None),
        (with(r#"[IPOption_RR(routers=["0.0.0.0"])]"#), None),
        (with(r#"b"\x94\x05\0\0""#), Some(Ipv4Error::Option)),
        (with(r#"b"\x01\x01\x94\x01""#), Some(Ipv4Error::Option)),
        (with(r#"b"\x01\x01\x01\x94""#), Some(Ipv4Error::Option)),
        (with(r#"b"\x01\0\x94\x01""#), None),
    ];
    let packets = build(&cases.each_ref().map(|(expression, _)| expression.as_str()));
    for (packet, (expression, error)) in packets.iter().zip(cases) {
        assert_eq!(Header::parse(&packet.bytes).err(), error.map(ip::IpError::V4), "{expression}");
    }
}

#[test]
fn unknown_options_say_themselves_what_becomes_of_the_packet() {
    let cases =
        [(0x1e, None), (0x5e, Some(Report::Never)), (0x9e, Some(Report::Always)), (0xde, Some(Report::Unicast))];
    let expressions = cases.map(|(kind, _)| {
        format!(
            r#"IPv6(src="2001:db8::1", dst="2001:db8::2") / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0"), HBHOptUnknown(otype={kind}, optdata=b"1234")]) / UDP()"#
        )
    });
    for (packet, (kind, report)) in build(&expressions.each_ref().map(String::as_str)).iter().zip(cases) {
        let parsed = ipv6::Packet::parse(&packet.bytes).expect("sound");
        match (ipv6::extension::check_options(&parsed), report) {
            (Ok(()), None) => {}
            (Err(CheckError::UnknownOption(option)), Some(report)) => {
                assert_eq!((option.kind, option.report), (kind, report));
                assert_eq!(packet.bytes[option.at], kind, "a parameter problem would point at it");
            }
            other => panic!("{kind:#x}: {other:?}"),
        }
        assert_eq!(header_of(packet).protocol, protocol::UDP, "a router doesn't look");
    }
}
