//! ICMP of both families, what its errors quote, and neighbour discovery.

use std::net::{Ipv4Addr, Ipv6Addr};

use vipsec_wire::buffer::{PacketBuf, VecBuf};
use vipsec_wire::ethernet::{self, EtherType, MacAddr};
use vipsec_wire::icmp_error::{self, Problem, WriteError};
use vipsec_wire::ip::{Address, Header};
use vipsec_wire::ndp::{self, Advertisement, Message, NdpError, Solicitation};
use vipsec_wire::quote::{Quote, QuoteError};
use vipsec_wire::{icmp, icmpv6};

use crate::support::{Built, build, read};

const MAC: MacAddr = MacAddr([2, 0x76, 0x70, 0, 0, 1]);
const NEIGHBOUR: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);

fn header_of(packet: &Built) -> Header {
    Header::parse(&packet.bytes).unwrap_or_else(|error| panic!("{}: {error}", packet.expression))
}

fn v6(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

#[test]
fn an_echo_reply_is_the_one_that_scapy_makes() {
    let packets = build(&[
        r#"IPv6(src="2001:db8::1", dst="2001:db8::2") / ICMPv6EchoRequest(id=0x1234, seq=7, data=b"odd")"#,
        r#"IPv6(src="2001:db8::2", dst="2001:db8::1") / ICMPv6EchoReply(id=0x1234, seq=7, data=b"odd")"#,
    ]);
    let header = header_of(&packets[0]);
    let mut message = header.payload(&packets[0].bytes).to_vec();
    let request = icmpv6::Message::parse(header.source, header.destination, &message).expect("a right checksum");
    assert!(request.is_echo_request() && !request.is_error());
    assert_eq!((request.identifier(), request.sequence(), request.payload()), (0x1234, 7, b"odd".as_slice()));
    icmpv6::make_reply(&mut message).unwrap();
    assert_eq!(message, header_of(&packets[1]).payload(&packets[1].bytes));
    message[3] ^= 1;
    assert!(icmpv6::Message::parse(header.destination, header.source, &message).is_err());
}

#[test]
fn icmp_errors_are_what_scapy_reads() {
    let offending = build(&[
        r#"IP(src="10.1.0.21", dst="10.9.0.1", flags="DF") / UDP(sport=53, dport=40000) / (b"x" * 1472)"#,
        r#"IPv6(src="2001:db8::21", dst="2001:db8:9::1") / TCP(sport=80, dport=40000, flags="A") / (b"x" * 1440)"#,
    ]);
    let gateways: [Address; 2] = [Ipv4Addr::new(10, 1, 0, 1).into(), v6("2001:db8::1").into()];
    // Type and code in either family.
    let cases = [
        (Problem::TooBig { mtu: 1438 }, (3, 4), (2, 0)),
        (Problem::TtlExpired, (11, 0), (3, 0)),
        (Problem::ReassemblyTimedOut, (11, 1), (3, 1)),
        (Problem::NoRoute, (3, 0), (1, 0)),
        (Problem::HostUnreachable, (3, 1), (1, 3)),
        (Problem::Prohibited, (3, 13), (1, 1)),
        (Problem::PortUnreachable, (3, 3), (1, 4)),
    ];
    let mut errors = Vec::new();
    for (problem, in_v4, in_v6) in cases {
        for (n, expected) in [in_v4, in_v6].into_iter().enumerate() {
            let mut buffer = VecBuf::with_room(0, 2000);
            icmp_error::write(problem, gateways[n], 5, &offending[n].bytes, &mut buffer).expect("room");
            errors.push((problem, n, expected, buffer));
        }
    }
    let asked: Vec<_> = errors.iter().map(|(_, n, _, packet)| (["IP", "IPv6"][*n], packet.data())).collect();
    for ((problem, n, (kind, code), packet), read) in errors.iter().zip(read(&asked)) {
        assert_eq!(packet.data(), read.again, "{problem:?}: lengths and checksums are those that scapy makes");
        let names = read.names();
        assert_eq!((read.number(names[1], "type"), read.number(names[1], "code")), (*kind, *code), "{problem:?}");
        // RFC 1812 §4.3.2.3 and RFC 4443 §2.4 (c): as much as fits 576 and 1280 bytes.
        assert_eq!(packet.data().len(), [576, 1280][*n]);
        let header = Header::parse(packet.data()).expect("sound");
        assert_eq!((header.source, header.destination), (gateways[*n], header_of(&offending[*n]).source));
        let mtu = match n {
            0 => icmp::Message::parse(header.payload(packet.data())).expect("sound").next_hop_mtu().map(u32::from),
            _ => icmpv6::Message::parse(header.source, header.destination, header.payload(packet.data()))
                .expect("sound")
                .next_hop_mtu(),
        };
        let expected = if let Problem::TooBig { mtu } = problem { Some(*mtu) } else { None };
        assert_eq!(mtu, expected);
        if let Some(mtu) = expected {
            assert_eq!(read.number(names[1], ["nexthopmtu", "mtu"][*n]), u64::from(mtu), "{names:?}");
        }
        let quote = Quote::parse(&header.payload(packet.data())[8..]).expect("the whole header is quoted");
        let original = header_of(&offending[*n]);
        assert_eq!((quote.source, quote.destination), (original.source, original.destination));
        assert_eq!((quote.protocol, quote.total_len), (original.protocol, original.total_len));
        assert_eq!(quote.ports(), Some(([53, 80][*n], 40000)));
    }
    let mut buffer = VecBuf::with_room(0, 2000);
    let other_family = icmp_error::write(Problem::NoRoute, gateways[1], 5, &offending[0].bytes, &mut buffer);
    assert!(matches!(other_family, Err(WriteError::MixedFamilies(_))));
}

#[test]
fn nobody_is_told_of_errors_about_errors_or_of_what_went_to_many() {
    let cases = [
        (r#"IP(src="10.1.0.21", dst="10.9.0.1") / UDP() / b"x""#, true),
        (r#"IP(src="10.1.0.21", dst="10.9.0.1") / ICMP(type=8)"#, true),
        (r#"IP(src="10.1.0.21", dst="10.9.0.1") / ICMP(type=3, code=1) / b"12345678""#, false),
        (r#"IP(src="10.1.0.21", dst="10.9.0.1") / ICMP(type=11) / b"12345678""#, false),
        (r#"IP(src="10.1.0.21", dst="10.9.0.1", frag=185) / b"12345678""#, false),
        (r#"IP(src="10.1.0.21", dst="10.9.0.1", flags="MF") / UDP() / b"12345678""#, true),
        (r#"IP(src="0.0.0.0", dst="10.9.0.1") / UDP()"#, false),
        (r#"IP(src="224.0.0.5", dst="10.9.0.1") / UDP()"#, false),
        (r#"IP(src="127.0.0.1", dst="10.9.0.1") / UDP()"#, false),
        (r#"IP(src="10.1.0.21", dst="224.0.0.5") / UDP()"#, false),
        (r#"IPv6(src="2001:db8::1", dst="2001:db8::2") / UDP()"#, true),
        (r#"IPv6(src="2001:db8::1", dst="2001:db8::2") / ICMPv6EchoRequest()"#, true),
        (r#"IPv6(src="2001:db8::1", dst="2001:db8::2") / ICMPv6DestUnreach() / b"12345678""#, false),
        (r#"IPv6(src="2001:db8::1", dst="2001:db8::2", nh=58) / b"\x89\0\0\0redirect""#, false),
        (r#"IPv6(src="2001:db8::1", dst="2001:db8::2") / IPv6ExtHdrFragment(offset=9, nh=58) / b"12345678""#, false),
        (r#"IPv6(src="2001:db8::1", dst="2001:db8::2") / IPv6ExtHdrFragment(offset=9, nh=17) / b"12345678""#, true),
        (r#"IPv6(src="::", dst="2001:db8::2") / UDP()"#, false),
        (r#"IPv6(src="ff02::1", dst="2001:db8::2") / UDP()"#, false),
        (r#"IPv6(src="2001:db8::1", dst="ff0e::2") / UDP()"#, false),
    ];
    let packets = build(&cases.map(|(expression, _)| expression));
    for (packet, (expression, expected)) in packets.iter().zip(cases) {
        let header = header_of(packet);
        let told = icmp_error::is_reportable(&header, &packet.bytes, Problem::TtlExpired);
        assert_eq!(told, expected, "{expression}");
    }
    // RFC 4443 §2.4 (e.3): path MTU discovery works for multicast, too.
    let multicast = packets.last().unwrap();
    let too_big = Problem::TooBig { mtu: 1280 };
    assert!(icmp_error::is_reportable(&header_of(multicast), &multicast.bytes, too_big));
}

#[test]
fn quotes_name_the_tunnel() {
    let packets = build(&[
        r#"IP(src="192.0.2.1", dst="198.51.100.7") / ESP(spi=0xc0de0001, seq=9, data=b"sealed" * 9)"#,
        r#"IPv6(src="2001:db8::1", dst="2001:db8::2") / ESP(spi=0xc0de0002, seq=9, data=b"sealed" * 9)"#,
        r#"IP(src="192.0.2.1", dst="198.51.100.7", options=[IPOption_Router_Alert()]) / UDP(sport=4500, dport=61000, chksum=0) / (b"\xc0\xde\x00\x03" + b"sealed" * 9)"#,
        r#"IPv6(src="2001:db8::1", dst="2001:db8::2") / IPv6ExtHdrDestOpt() / UDP(sport=4500, dport=61000) / (b"\xc0\xde\x00\x04" + b"sealed" * 9)"#,
        r#"IP(src="10.9.0.1", dst="192.0.2.1") / ICMP(type=8, id=5)"#,
        r#"IP(src="192.0.2.1", dst="198.51.100.7", frag=9, proto=17) / b"12345678""#,
        r#"IPv6(src="2001:db8::1", dst="2001:db8::2") / IPv6ExtHdrFragment(offset=9, nh=17) / b"12345678""#,
    ]);
    let quote = |n: usize, upper: usize| {
        let packet: &Built = &packets[n];
        Quote::parse(&packet.bytes[..packet.read.upper.unwrap_or(20) + upper])
    };
    // RFC 792 quotes 64 bits behind the header.
    assert_eq!(quote(0, 8).map(|quote| (quote.esp_spi(), quote.ports())), Ok((Some(0xc0de_0001), None)));
    assert_eq!(quote(1, 8).map(|quote| quote.esp_spi()), Ok(Some(0xc0de_0002)));
    for (n, spi) in [(2, 0xc0de_0003), (3, 0xc0de_0004)] {
        assert_eq!(quote(n, 8).map(|quote| (quote.ports(), quote.esp_in_udp_spi())), Ok((Some((4500, 61000)), None)));
        assert_eq!(quote(n, 12).map(|quote| (quote.esp_spi(), quote.esp_in_udp_spi())), Ok((None, Some(spi))));
    }
    assert_eq!(quote(4, 8).map(|quote| (quote.icmp(), quote.ports())), Ok((Some((8, 0)), None)));
    assert_eq!(Quote::parse(&packets[5].bytes), Err(QuoteError::LaterFragment));
    assert_eq!(Quote::parse(&packets[6].bytes), Err(QuoteError::LaterFragment));
    for (n, packet) in packets.iter().enumerate().take(5) {
        for len in 0..packet.read.upper.expect("an upper layer") + 8 {
            let error = if len == 0 { QuoteError::NotIp } else { QuoteError::Truncated };
            assert_eq!(Quote::parse(&packet.bytes[..len]), Err(error), "packet {n}, {len} bytes");
        }
    }
}

/// The Ethernet payload of a frame.
fn packet_of(frame: &[u8]) -> &[u8] {
    &frame[ethernet::HEADER_LEN..]
}

#[test]
fn neighbour_discovery_frames_are_those_that_scapy_makes() {
    let (source, target) = (v6("2001:db8::11"), v6("2001:db8::1:2fe"));
    let solicitation = Solicitation::new(source, MAC, target);
    let probe = Solicitation::probe(source, MAC, target);
    let taken = Solicitation { source: None, link_layer: None, ..solicitation };
    let asked = Solicitation { source: Some(v6("2001:db8::21")), link_layer: Some(NEIGHBOUR), ..solicitation };
    let frames = [
        solicitation.to_frame(MAC, MacAddr::BROADCAST),
        probe.to_frame(MAC, NEIGHBOUR),
        taken.to_frame(MAC, MacAddr::BROADCAST),
        asked.answer(MAC, true).to_frame(MAC, NEIGHBOUR),
        taken.answer(MAC, false).to_frame(MAC, NEIGHBOUR),
        Advertisement::unsolicited(target, MAC, true).to_frame(MAC, MacAddr::BROADCAST),
    ];
    let expected = build(&[
        r#"Ether(src="02:76:70:00:00:01", dst="33:33:ff:01:02:fe") / IPv6(src="2001:db8::11", dst="ff02::1:ff01:2fe", hlim=255) / ICMPv6ND_NS(tgt="2001:db8::1:2fe") / ICMPv6NDOptSrcLLAddr(lladdr="02:76:70:00:00:01")"#,
        r#"Ether(src="02:76:70:00:00:01", dst="02:00:00:00:00:09") / IPv6(src="2001:db8::11", dst="2001:db8::1:2fe", hlim=255) / ICMPv6ND_NS(tgt="2001:db8::1:2fe") / ICMPv6NDOptSrcLLAddr(lladdr="02:76:70:00:00:01")"#,
        r#"Ether(src="02:76:70:00:00:01", dst="33:33:ff:01:02:fe") / IPv6(src="::", dst="ff02::1:ff01:2fe", hlim=255) / ICMPv6ND_NS(tgt="2001:db8::1:2fe")"#,
        r#"Ether(src="02:76:70:00:00:01", dst="02:00:00:00:00:09") / IPv6(src="2001:db8::1:2fe", dst="2001:db8::21", hlim=255) / ICMPv6ND_NA(R=1, S=1, O=1, tgt="2001:db8::1:2fe") / ICMPv6NDOptDstLLAddr(lladdr="02:76:70:00:00:01")"#,
        r#"Ether(src="02:76:70:00:00:01", dst="33:33:00:00:00:01") / IPv6(src="2001:db8::1:2fe", dst="ff02::1", hlim=255) / ICMPv6ND_NA(R=0, S=0, O=1, tgt="2001:db8::1:2fe") / ICMPv6NDOptDstLLAddr(lladdr="02:76:70:00:00:01")"#,
        r#"Ether(src="02:76:70:00:00:01", dst="33:33:00:00:00:01") / IPv6(src="2001:db8::1:2fe", dst="ff02::1", hlim=255) / ICMPv6ND_NA(R=1, S=0, O=1, tgt="2001:db8::1:2fe") / ICMPv6NDOptDstLLAddr(lladdr="02:76:70:00:00:01")"#,
    ]);
    for (frame, expected) in frames.iter().zip(&expected) {
        assert_eq!(frame.as_slice(), expected.bytes, "{}", expected.expression);
    }
    let parsed = frames.each_ref().map(|frame| {
        let (ethernet, packet) = ethernet::Header::parse(frame).unwrap();
        assert_eq!(ethernet.ethertype, EtherType::IPV6);
        Message::parse(&Header::parse(packet).unwrap(), packet).unwrap()
    });
    let messages = [
        Message::Solicitation(solicitation),
        Message::Solicitation(probe),
        Message::Solicitation(taken),
        Message::Advertisement(asked.answer(MAC, true)),
        Message::Advertisement(taken.answer(MAC, false)),
        Message::Advertisement(Advertisement::unsolicited(target, MAC, true)),
    ];
    assert_eq!(parsed, messages);
    assert!(packet_of(&frames[0]).len() == 72 && packet_of(&frames[2]).len() == 64);
}

#[test]
fn rfc_4861_validation() {
    let ns = |ip: &str, message: &str| format!(r#"IPv6(src="2001:db8::11", hlim=255, {ip}) / {message}"#);
    let multicast = r#"dst="ff02::1:ff00:1""#;
    let solicitation = r#"ICMPv6ND_NS(tgt="2001:db8::1")"#;
    let advertisement = r#"ICMPv6ND_NA(S=1, tgt="2001:db8::1")"#;
    let with_source = r#"ICMPv6ND_NS(tgt="2001:db8::1") / ICMPv6NDOptSrcLLAddr(lladdr="02:00:00:00:00:09")"#;
    let refused = [
        // §7.1.1 and §7.1.2, in their order.
        (ns(multicast, solicitation).replace("hlim=255", "hlim=254"), NdpError::HopLimit(254)),
        (ns(multicast, r#"ICMPv6ND_NS(tgt="2001:db8::1", cksum=1)"#), NdpError::Checksum),
        (ns(multicast, r#"ICMPv6ND_NS(code=1, tgt="2001:db8::1")"#), NdpError::Code(1)),
        (ns(multicast, r#"ICMPv6ND_NS(tgt="ff02::1")"#), NdpError::Target),
        (ns(multicast, r#"ICMPv6ND_NS(tgt="::")"#), NdpError::Target),
        (ns(multicast, r#"ICMPv6ND_NS(tgt="::ffff:192.0.2.1")"#), NdpError::Target),
        (ns(multicast, &format!(r#"{solicitation} / b"\x01\x00\x02\x00\x00\x00\x00\x09""#)), NdpError::Option),
        (ns(multicast, &format!(r#"{solicitation} / b"\x01\x02\x02\x00\x00\x00\x00\x09""#)), NdpError::Truncated),
        (ns(r#"dst="2001:db8::1""#, solicitation).replace("2001:db8::11", "::"), NdpError::Destination),
        (ns(multicast, with_source).replace("2001:db8::11", "::"), NdpError::Option),
        (ns(multicast, advertisement), NdpError::Destination),
        (ns(multicast, solicitation).replace("2001:db8::11", "ff02::5"), NdpError::Source),
        // RFC 6980 §5.
        (ns(multicast, &format!("IPv6ExtHdrFragment() / {solicitation}")), NdpError::ExtensionHeaders),
        (ns(multicast, "ICMPv6EchoRequest()"), NdpError::OtherMessage),
        (ns(multicast, "UDP()"), NdpError::OtherMessage),
    ];
    let taken = [
        (ns(multicast, solicitation), None),
        (ns(r#"dst="2001:db8::1""#, with_source), Some(NEIGHBOUR)),
        // Options that aren't known, or not meant for the message, are passed over; reserved bits are ignored.
        (
            ns(
                multicast,
                &format!(
                    r#"ICMPv6ND_NS(res=99, tgt="2001:db8::1") / ICMPv6NDOptUnknown(type=200, len=2, data=b"x" * 14) / ICMPv6NDOptDstLLAddr(lladdr="02:00:00:00:00:07") / {}"#,
                    &with_source[33..]
                ),
            ),
            Some(NEIGHBOUR),
        ),
        (
            ns(
                r#"dst="2001:db8::11""#,
                r#"ICMPv6ND_NA(R=1, S=1, O=0, tgt="2001:db8::1") / ICMPv6NDOptSrcLLAddr(lladdr="02:00:00:00:00:07") / ICMPv6NDOptDstLLAddr(lladdr="02:00:00:00:00:09")"#,
            ),
            Some(NEIGHBOUR),
        ),
    ];
    let texts: Vec<_> = refused.iter().map(|(text, _)| text).chain(taken.iter().map(|(text, _)| text)).collect();
    let packets = build(&texts.iter().map(|text| text.as_str()).collect::<Vec<_>>());
    let (wrong, right) = packets.split_at(refused.len());
    for (packet, (expression, error)) in wrong.iter().zip(&refused) {
        assert_eq!(Message::parse(&header_of(packet), &packet.bytes), Err(*error), "{expression}");
    }
    for (packet, (expression, mac)) in right.iter().zip(&taken) {
        let link_layer = match Message::parse(&header_of(packet), &packet.bytes) {
            Ok(Message::Solicitation(message)) => message.link_layer,
            Ok(Message::Advertisement(message)) => {
                assert!(message.is_router && message.is_solicited && !message.overrides);
                message.link_layer
            }
            Err(error) => panic!("{expression}: {error}"),
        };
        assert_eq!(link_layer, *mac, "{expression}");
    }
    // Length 24 or more: a message cut short with a right checksum.
    let header = header_of(&right[0]);
    let mut short = right[0].bytes[..60].to_vec();
    short[5] = 20;
    icmpv6::fill_checksum(header.source, header.destination, &mut short[40..]).unwrap();
    assert_eq!(Message::parse(&Header::parse(&short).unwrap(), &short), Err(NdpError::Truncated));
}

#[test]
fn rfc_4291_solicited_node_example() {
    // RFC 4291 §2.7.1: 4037::01:800:200e:8c6c gives ff02::1:ff0e:8c6c.
    let group = ndp::solicited_node(v6("4037::01:800:200e:8c6c"));
    assert_eq!(group, v6("ff02::1:ff0e:8c6c"));
    assert_eq!(ndp::multicast_mac(group), MacAddr([0x33, 0x33, 0xff, 0x0e, 0x8c, 0x6c]));
}
