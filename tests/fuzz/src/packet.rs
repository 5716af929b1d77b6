//! IP packets of both families.

use std::time::Instant;

use vipsec_dataplane::reassembly::{Limits, Origin, Progress, Reason, Reassembler};
use vipsec_wire::buffer::{PacketBuf, VecBuf, VecPool};
use vipsec_wire::encapsulation::{Encapsulation, PerPacket, Tunnel, UdpChecksum};
use vipsec_wire::fragment::Fragments;
use vipsec_wire::icmp_error::{self, Problem};
use vipsec_wire::ip::{self, Address, Ecn, Header, Version};
use vipsec_wire::quote::Quote;
use vipsec_wire::transport::Transport;
use vipsec_wire::{ipv4, ipv6};

/// The view of both families, and all that is done with it.
pub(crate) fn ip(bytes: &[u8]) {
    let mut packet = bytes.to_vec();
    if Version::of(bytes) == Some(Version::V4) {
        crate::repair::ipv4(&mut packet);
    }
    let Ok(header) = Header::parse(&packet) else { return };
    assert!(header.version().header_len() <= header.header_len && header.header_len <= header.total_len);
    assert!(header.total_len <= packet.len());
    assert_eq!(header.payload(&packet).len(), header.payload_len());
    assert_eq!(Some(header.version()), Version::of(&packet));
    assert_eq!(header.source.version(), header.destination.version());
    assert_eq!(Header::parse(&packet[..header.total_len]), Ok(header), "what is behind the packet has no say");
    assert!(Header::parse(&packet[..header.total_len - 1]).is_err());

    let transport = Transport::parse(&header, &packet);
    if !header.has_upper_layer() {
        assert_eq!(transport, Ok(Transport::Opaque));
    }
    if let Ok(quote) = Quote::parse(&packet) {
        assert_eq!((quote.source, quote.destination), (header.source, header.destination));
        assert_eq!((quote.protocol, quote.total_len), (header.protocol, header.total_len));
        if let Ok(transport) = transport {
            assert_eq!(quote.ports(), transport.ports(), "a quote says the same as the packet");
        }
    }
    change(&packet, &header);
    report(&packet, &header);
    wrap(&packet, &header);
}

/// Fields are changed in place, nothing else is, and checksums stay right.
fn change(packet: &[u8], header: &Header) {
    let mut changed = packet.to_vec();
    match ip::decrement_ttl(&mut changed) {
        Ok(()) => assert_eq!(Header::parse(&changed), Ok(Header { ttl: header.ttl - 1, ..*header })),
        Err(_) => assert!(header.ttl <= 1 && changed == packet),
    }
    ip::set_traffic_class(&mut changed, 0xa8).expect("it has a header");
    ip::set_ecn(&mut changed, Ecn::Ce).expect("it has a header");
    let after = Header::parse(&changed).expect("still sound");
    assert_eq!(Header { ttl: header.ttl, traffic_class: header.traffic_class, ..after }, *header);
    assert_eq!(after.traffic_class, 0xab);
}

/// An ICMP error about it is sound, and about no error.
fn report(packet: &[u8], header: &Header) {
    let own = match header.version() {
        Version::V4 => Address::from_v4_octets([192, 0, 2, 1]),
        Version::V6 => Address::from_octets(*b"\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01"),
    };
    let mut buffer = VecBuf::with_room(128, 2048);
    icmp_error::write(Problem::TtlExpired, own, 1, packet, &mut buffer).expect("it is sound and there is room");
    let error = Header::parse(buffer.data()).expect("ours is sound");
    assert_eq!((error.source, error.destination), (own, header.source));
    assert!(!icmp_error::is_reportable(&error, buffer.data(), Problem::TtlExpired), "no error about an error");
    let quote = error.payload(buffer.data()).get(8..).expect("a quote");
    assert!(packet.starts_with(quote));
    let _ = icmp_error::is_reportable(header, packet, Problem::TooBig { mtu: 1280 });
}

/// In a tunnel it is carried as it is.
fn wrap(packet: &[u8], header: &Header) {
    let gue = Encapsulation::Gue { port: vipsec_wire::gue::PORT, checksum: UdpChecksum::Computed };
    for (ends, encapsulation) in
        [(["192.0.2.1", "192.0.2.2"], Encapsulation::IpInIp), (["2001:db8::1", "2001:db8::2"], gue)]
    {
        let [source, destination] = ends.map(|end| end.parse().expect("an address"));
        let tunnel = Tunnel::new(source, destination, encapsulation).expect("one family");
        let mut buffer = VecBuf::from_bytes(&packet[..header.total_len]);
        let varying = PerPacket { identification: 1, flow_hash: 2 };
        if tunnel.encapsulate(&mut buffer, varying).is_err() {
            assert!(header.total_len + tunnel.overhead() > usize::from(u16::MAX), "only length is a reason");
            continue;
        }
        let outer = Header::parse(buffer.data()).expect("ours is sound");
        assert_eq!((outer.traffic_class, outer.total_len), (header.traffic_class, buffer.data().len()));
        assert_eq!(buffer.data()[tunnel.overhead()..], packet[..header.total_len]);
    }
}

pub(crate) fn ipv4(bytes: &[u8]) {
    let mut repaired = bytes.to_vec();
    crate::repair::ipv4(&mut repaired);
    for bytes in [bytes, &repaired] {
        let Ok(packet) = ipv4::Packet::parse(bytes) else { continue };
        assert_eq!(packet.header_len() + packet.payload().len(), packet.total_len());
        assert!(bytes.starts_with(packet.as_bytes()));
        assert_eq!(packet.is_fragment(), packet.more_fragments() || packet.fragment_offset() > 0);
        // What has no options is emitted as it came; the reserved flag is not kept.
        if packet.header_len() == ipv4::HEADER_LEN && bytes[6] & 0x80 == 0 {
            let repr = ipv4::Repr {
                traffic_class: packet.traffic_class(),
                identification: packet.identification(),
                dont_fragment: packet.dont_fragment(),
                more_fragments: packet.more_fragments(),
                fragment_offset: packet.fragment_offset() as u16,
                ttl: packet.ttl(),
                protocol: packet.protocol(),
                source: packet.source(),
                destination: packet.destination(),
                payload_len: packet.payload().len() as u16,
            };
            let mut own = [0; ipv4::HEADER_LEN];
            repr.emit(&mut own).expect("room");
            assert_eq!((&own[..10], &own[12..]), (&bytes[..10], &bytes[12..ipv4::HEADER_LEN]));
        }
    }
}

pub(crate) fn ipv6(bytes: &[u8]) {
    let Ok(packet) = ipv6::Packet::parse(bytes) else { return };
    let repr = ipv6::Repr {
        traffic_class: packet.traffic_class(),
        flow_label: packet.flow_label(),
        next_header: packet.next_header(),
        hop_limit: packet.hop_limit(),
        source: packet.source(),
        destination: packet.destination(),
        payload_len: packet.payload().len() as u16,
    };
    let mut own = [0; ipv6::HEADER_LEN];
    repr.emit(&mut own).expect("room");
    assert_eq!(own, bytes[..ipv6::HEADER_LEN]);
    let _ = ipv6::extension::check_options(&packet);
    let Ok(upper) = packet.upper_layer() else { return };
    assert!((ipv6::HEADER_LEN..=packet.total_len()).contains(&upper.offset));
    assert!(upper.offset <= ipv6::HEADER_LEN + ipv6::extension::BYTES_MAX);
    let is_first = upper.fragment.is_none_or(|found| found.header.offset == 0);
    assert!(!is_first || !ipv6::extension::is_extension(upper.protocol), "the walk went to its end");
    if let Some(found) = upper.fragment {
        assert_eq!(bytes[found.named_at], ip::protocol::FRAGMENT);
        assert_eq!(bytes[found.at], found.header.next_header);
        assert!(found.named_at < found.at && found.at + 8 <= upper.offset);
    }
}

/// What can be split becomes the same packet again.
pub(crate) fn fragment(bytes: &[u8]) {
    let Some((&[m0, m1], packet)) = bytes.split_first_chunk::<2>() else { return };
    let mtu = usize::from(u16::from_be_bytes([m0, m1]) % 1500);
    let mut packet = packet.to_vec();
    if Version::of(&packet) == Some(Version::V4) {
        crate::repair::ipv4(&mut packet);
    }
    let mut pool = VecPool::new(4096);
    let Ok(mut fragments) = Fragments::new(&packet, mtu, 0x0102_0304) else { return };
    let pieces: Vec<VecBuf> =
        std::iter::from_fn(|| fragments.next(&mut pool)).map(|piece| piece.expect("room")).collect();
    assert!(pieces.len() > 1);
    for piece in &pieces {
        assert!(piece.data().len() <= mtu, "each fits");
    }
    let Ok(header) = Header::parse(&packet) else {
        assert!(Version::of(&packet) == Some(Version::V6), "an address that the view refuses");
        return;
    };
    // A fragment that was split is still part of something else.
    if header.is_fragment() {
        return;
    }
    let mut reassembler: Reassembler<VecBuf> = Reassembler::new(&Limits::default(), 1);
    let now = Instant::now();
    for (n, piece) in pieces.iter().enumerate() {
        match reassembler.handle_fragment(now, Origin(0), piece.data(), &mut pool) {
            Ok(Progress::Held) => assert!(n + 1 < pieces.len()),
            Ok(Progress::Whole { packet: whole, fragments }) => {
                assert_eq!(fragments, pieces.len());
                assert_eq!(same_but_flags(whole.data()), same_but_flags(&packet[..header.total_len]));
            }
            Ok(Progress::HeldInstead(_)) => panic!("there is room"),
            Err(dropped) => {
                let hides = dropped.reason == Reason::Malformed && header.version() == Version::V6;
                let is_a_limit = matches!(dropped.reason, Reason::TooLarge | Reason::TooManyFragments);
                // A small MTU put extension headers into the second piece; or the packet is larger than a buffer, or in too many pieces.
                assert!(hides || is_a_limit, "{:?}", dropped.reason);
                return;
            }
        }
    }
}

/// An IPv4 packet without its checksum and its reserved flag, which is not kept.
fn same_but_flags(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    if Version::of(&packet) == Some(Version::V4) {
        packet[6] &= 0x7f;
        crate::repair::ipv4(&mut packet);
    }
    packet
}
