//! Right checksums for wrong packets.

use vipsec_wire::checksum::Sum;
use vipsec_wire::icmpv6;
use vipsec_wire::ip::{Header, protocol};

/// Writes the header checksum of an IPv4 packet, as far as it has a header.
pub(crate) fn ipv4(packet: &mut [u8]) {
    let Some(first) = packet.first() else { return };
    let header_len = usize::from(first & 0x0f) * 4;
    let Some(header) = packet.get_mut(..header_len) else { return };
    if let Some(checksum) = header.get_mut(10..12) {
        checksum.fill(0);
        let sum = Sum::new().bytes(header).finish();
        header[10..12].copy_from_slice(&sum.to_be_bytes());
    }
}

/// Writes the checksums of an IP packet with an ICMP message of either family.
pub(crate) fn icmp(packet: &mut [u8]) {
    if packet.first().is_some_and(|first| first >> 4 == 4) {
        ipv4(packet);
    }
    let Ok(header) = Header::parse(packet) else { return };
    let Some(message) = packet.get_mut(header.header_len..header.total_len) else { return };
    match header.protocol {
        protocol::ICMPV6 => {
            let _ = icmpv6::fill_checksum(header.source, header.destination, message);
        }
        protocol::ICMP if message.len() >= 4 => {
            message[2..4].fill(0);
            let sum = Sum::new().bytes(message).finish();
            message[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        _ => {}
    }
}
