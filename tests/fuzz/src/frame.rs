//! Ethernet and ARP.

use vipsec_wire::arp;
use vipsec_wire::ethernet::{EtherType, HEADER_LEN, Header, MacAddr};

pub(crate) fn ethernet(frame: &[u8]) {
    let Ok((header, payload)) = Header::parse(frame) else {
        assert!(frame.len() < HEADER_LEN);
        return;
    };
    assert_eq!(header.to_bytes(), frame[..HEADER_LEN]);
    assert_eq!(header.source.to_string().parse(), Ok(header.source));
    if header.ethertype == EtherType::ARP
        && let Ok(packet) = arp::Packet::parse(payload)
    {
        let own = packet.to_frame(header.destination);
        assert_eq!(own[HEADER_LEN..], payload[..arp::PACKET_LEN], "nothing in it is lost");
        let reply = packet.reply_from(MacAddr::BROADCAST);
        assert_eq!((reply.target_ip, reply.sender_ip), (packet.sender_ip, packet.target_ip));
    }
}
