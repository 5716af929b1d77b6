//! ICMP of both families and neighbour discovery.

use vipsec_wire::ethernet::{self, MacAddr};
use vipsec_wire::ip::{Header, Version, protocol};
use vipsec_wire::ndp::{Message, Solicitation};
use vipsec_wire::quote::Quote;
use vipsec_wire::{icmp as icmpv4, icmpv6 as v6};

/// A message of ICMP for IPv4, without an IP header.
pub(crate) fn icmp(bytes: &[u8]) {
    let _ = icmpv4::Message::parse(bytes);
    let mut message = bytes.to_vec();
    if let Some(checksum) = message.get_mut(2..4) {
        checksum.fill(0);
        let sum = vipsec_wire::checksum::Sum::new().bytes(&message).finish();
        message[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    let Ok(parsed) = icmpv4::Message::parse(&message) else {
        assert!(message.len() < icmpv4::HEADER_LEN, "its checksum is right");
        return;
    };
    assert_eq!(parsed.is_error(), icmpv4::is_error(parsed.kind()));
    quote(parsed.payload());
    if parsed.is_echo_request() {
        let mut reply = message.clone();
        icmpv4::make_reply(&mut reply).expect("it has a header");
        let reply = icmpv4::Message::parse(&reply).expect("its checksum is right");
        assert_eq!((reply.kind(), reply.payload()), (icmpv4::kind::ECHO_REPLY, parsed.payload()));
    }
}

/// An IPv6 packet with a message of ICMPv6 or neighbour discovery in it.
pub(crate) fn icmpv6(bytes: &[u8]) {
    let mut packet = bytes.to_vec();
    crate::repair::icmp(&mut packet);
    let Ok(header) = Header::parse(&packet) else { return };
    if header.version() != Version::V6 || header.protocol != protocol::ICMPV6 {
        return;
    }
    let message = header.payload(&packet);
    let Ok(parsed) = v6::Message::parse(header.source, header.destination, message) else {
        assert!(message.len() < v6::HEADER_LEN, "its checksum is right");
        return;
    };
    if parsed.is_error() {
        quote(parsed.payload());
    }
    if parsed.is_echo_request() {
        let mut reply = message.to_vec();
        v6::make_reply(&mut reply).expect("it has a header");
        assert!(v6::Message::parse(header.destination, header.source, &reply).is_ok(), "its checksum is right");
    }
    if let Ok(message) = Message::parse(&header, &packet) {
        neighbour_discovery(message);
    }
}

fn quote(bytes: &[u8]) {
    let Ok(quote) = Quote::parse(bytes) else { return };
    assert!(quote.upper.len() >= 8);
    assert!(quote.esp_spi().is_none() || quote.ports().is_none());
    let _ = (quote.icmp(), quote.esp_in_udp_spi());
}

/// What was read and is emitted again says the same.
fn neighbour_discovery(message: Message) {
    let (mac, neighbour) = (MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2]));
    let frame = match message {
        Message::Solicitation(solicitation) => {
            let answer = solicitation.answer(mac, true);
            assert_eq!(read(&answer.to_frame(mac, neighbour)), Some(Message::Advertisement(answer)));
            solicitation.to_frame(mac, neighbour)
        }
        Message::Advertisement(advertisement) => {
            let asked = Solicitation::new(advertisement.source, mac, advertisement.target);
            assert_eq!(read(&asked.to_frame(mac, neighbour)), Some(Message::Solicitation(asked)));
            advertisement.to_frame(mac, neighbour)
        }
    };
    assert_eq!(read(&frame), Some(message));
}

fn read(frame: &[u8]) -> Option<Message> {
    let packet = frame.get(ethernet::HEADER_LEN..)?;
    Message::parse(&Header::parse(packet).ok()?, packet).ok()
}
