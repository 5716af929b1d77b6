//! What a frame on the outside or inside network is, as far as anyone without keys can tell.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde::Serialize;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Kind {
    /// ARP: the address that it asks or answers for is `target`; in an announcement it equals `sender`.
    Arp {
        /// 1 request, 2 reply.
        operation: u16,
        /// Whose MAC address it tells.
        sender: Ipv4Addr,
        /// Whose MAC address it wants to know.
        target: Ipv4Addr,
    },
    /// A neighbour advertisement (RFC 4861 §4.4).
    Neighbour {
        /// Whose MAC address it tells.
        target: Ipv6Addr,
        /// Somebody had asked.
        solicited: bool,
    },
    /// An IKE message.
    Ike {
        /// Its exchange.
        exchange: Exchange,
        /// Is it a response?
        response: bool,
        /// Its message id.
        message_id: u32,
        /// Its initiator's SPI, which names the IKE SA.
        initiator_spi: u64,
    },
    /// One byte that keeps a NAT mapping alive (RFC 3948 §2.3).
    NatKeepalive,
    /// An ESP packet.
    Esp {
        /// Its SPI.
        spi: u32,
        /// Low half of its sequence number.
        sequence: u32,
        /// Is it inside UDP?
        encapsulated: bool,
    },
    /// An owner's advertisement of a VIP.
    Advertisement {
        /// Who says so.
        appliance: u8,
        /// Under which epoch.
        epoch: u32,
    },
    /// A TCP or UDP packet that anyone can read.
    ClearText,
    /// ICMP, not of a connection through a tunnel.
    Icmp,
    /// Anything else.
    Other,
}

/// An IKEv2 exchange type (RFC 7296 §3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Exchange {
    /// IKE_SA_INIT.
    SaInit,
    /// IKE_AUTH.
    Auth,
    /// CREATE_CHILD_SA.
    CreateChildSa,
    /// INFORMATIONAL.
    Informational,
    /// Another.
    Other(u8),
}

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;
/// IEEE 802: local experimental EtherType 1, which the appliances' advertisements carry.
const ETHERTYPE_ADVERTISEMENT: u16 = 0x88b5;
const PROTOCOL_ICMP: u8 = 1;
const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_UDP: u8 = 17;
const PROTOCOL_ESP: u8 = 50;
const PROTOCOL_ICMPV6: u8 = 58;
const PORT_IKE: u16 = 500;
const PORT_IKE_NATT: u16 = 4500;

/// Tells what a frame is.
pub(super) fn classify(frame: &[u8]) -> Kind {
    let kind = match u16_at(frame, 12) {
        Some(ETHERTYPE_ARP) => arp(frame),
        Some(ETHERTYPE_IPV4) => frame.get(14..).and_then(ipv4),
        Some(ETHERTYPE_IPV6) => frame.get(14..).and_then(ipv6),
        Some(ETHERTYPE_ADVERTISEMENT) => frame.get(14..).and_then(advertisement),
        _ => None,
    };
    kind.unwrap_or(Kind::Other)
}

/// The MAC address that sent a frame.
pub(super) fn source(frame: &[u8]) -> Option<[u8; 6]> {
    frame.get(6..12)?.try_into().ok()
}

/// After a magic of four bytes: version, appliance, VIP (two bytes), epoch.
fn advertisement(payload: &[u8]) -> Option<Kind> {
    payload.strip_prefix(b"VSAD")?;
    Some(Kind::Advertisement { appliance: *payload.get(5)?, epoch: u32_at(payload, 8)? })
}

fn arp(frame: &[u8]) -> Option<Kind> {
    Some(Kind::Arp { operation: u16_at(frame, 20)?, sender: address_at(frame, 28)?, target: address_at(frame, 38)? })
}

fn ipv4(packet: &[u8]) -> Option<Kind> {
    let header = usize::from(packet.first()? & 0x0f) * 4;
    let payload = packet.get(header..)?;
    let kind = match *packet.get(9)? {
        PROTOCOL_ESP => esp(payload, false)?,
        PROTOCOL_UDP => udp(payload)?,
        PROTOCOL_TCP => Kind::ClearText,
        PROTOCOL_ICMP => Kind::Icmp,
        _ => Kind::Other,
    };
    // Nothing to or from the network behind the peer may be seen, whatever its protocol.
    let inner = |address: Ipv4Addr| address.octets().starts_with(&[10, 9]);
    let is_inner = inner(address_at(packet, 12)?) || inner(address_at(packet, 16)?);
    Some(if is_inner { Kind::ClearText } else { kind })
}

fn ipv6(packet: &[u8]) -> Option<Kind> {
    let payload = packet.get(40..)?;
    let kind = match *packet.get(6)? {
        PROTOCOL_ESP => esp(payload, false)?,
        PROTOCOL_UDP => udp(payload)?,
        PROTOCOL_TCP => Kind::ClearText,
        PROTOCOL_ICMPV6 => icmpv6(payload)?,
        _ => Kind::Other,
    };
    // As of IPv4.
    let inner = |offset: usize| packet.get(offset..offset + 2) == Some(&[0xfd, 0x09]);
    Some(if inner(8) || inner(24) { Kind::ClearText } else { kind })
}

fn icmpv6(message: &[u8]) -> Option<Kind> {
    const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
    const SOLICITED: u8 = 0x40;
    if *message.first()? != NEIGHBOUR_ADVERTISEMENT {
        return Some(Kind::Icmp);
    }
    let target: [u8; 16] = message.get(8..24)?.try_into().ok()?;
    Some(Kind::Neighbour { target: target.into(), solicited: message.get(4)? & SOLICITED != 0 })
}

fn udp(datagram: &[u8]) -> Option<Kind> {
    let ports = [u16_at(datagram, 0)?, u16_at(datagram, 2)?];
    let payload = datagram.get(8..)?;
    if ports.contains(&PORT_IKE) {
        return ike(payload);
    }
    if !ports.contains(&PORT_IKE_NATT) {
        return Some(Kind::ClearText);
    }
    match payload {
        [0xff] => Some(Kind::NatKeepalive),
        // RFC 3948 §2.2: four zero bytes stand where an SPI would.
        [0, 0, 0, 0, message @ ..] => ike(message),
        _ => esp(payload, true),
    }
}

fn ike(message: &[u8]) -> Option<Kind> {
    const FLAG_RESPONSE: u8 = 0x20;
    let exchange = match *message.get(18)? {
        34 => Exchange::SaInit,
        35 => Exchange::Auth,
        36 => Exchange::CreateChildSa,
        37 => Exchange::Informational,
        other => Exchange::Other(other),
    };
    let initiator_spi = u64::from(u32_at(message, 0)?) << 32 | u64::from(u32_at(message, 4)?);
    let response = message.get(19)? & FLAG_RESPONSE != 0;
    Some(Kind::Ike { exchange, response, message_id: u32_at(message, 20)?, initiator_spi })
}

fn esp(packet: &[u8], encapsulated: bool) -> Option<Kind> {
    Some(Kind::Esp { spi: u32_at(packet, 0)?, sequence: u32_at(packet, 4)?, encapsulated })
}

fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(offset..offset + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(offset..offset + 4)?.try_into().ok()?))
}

fn address_at(bytes: &[u8], offset: usize) -> Option<Ipv4Addr> {
    u32_at(bytes, offset).map(Ipv4Addr::from)
}

#[cfg(test)]
mod tests {
    use vipsec_takeover::advertisement::{Advertisement, AdvertisementKey};
    use vipsec_wire::iv::{ApplianceId, Epoch};

    use super::*;

    /// A frame with an IPv4 packet from 192.0.2.100 to the VIP.
    fn frame(protocol: u8, source: [u8; 4], payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([0x08, 0x00, 0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0]);
        frame.extend(source);
        frame.extend([192, 0, 2, 1]);
        frame.extend(payload);
        frame
    }

    const PEER: [u8; 4] = [192, 0, 2, 100];

    #[test]
    fn esp_is_known_with_and_without_udp_around_it() {
        let esp = [0, 0, 0, 7, 0, 0, 0, 9, 1, 2, 3, 4];
        assert_eq!(classify(&frame(50, PEER, &esp)), Kind::Esp { spi: 7, sequence: 9, encapsulated: false });
        let udp = [&[0x11, 0x94, 0x11, 0x94, 0, 20, 0, 0][..], &esp].concat();
        assert_eq!(classify(&frame(17, PEER, &udp)), Kind::Esp { spi: 7, sequence: 9, encapsulated: true });
    }

    #[test]
    fn readable_packets_are_clear_text_whatever_they_pretend() {
        assert_eq!(classify(&frame(6, PEER, &[0; 20])), Kind::ClearText);
        assert_eq!(classify(&frame(17, PEER, &[0, 7, 0, 7, 0, 8, 0, 0])), Kind::ClearText);
        assert_eq!(classify(&frame(1, [10, 9, 0, 1], &[8, 0, 0, 0])), Kind::ClearText);
        assert_eq!(classify(&frame(1, PEER, &[8, 0, 0, 0])), Kind::Icmp);
    }

    #[test]
    fn the_same_is_known_over_ipv6() {
        let packet = |next: u8, payload: &[u8]| {
            let mut frame = vec![0; 12];
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 0, next, 255]);
            frame.extend(Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 1).octets());
            frame.extend([0; 16]);
            frame.extend(payload);
            frame
        };
        let esp = [0, 0, 0, 7, 0, 0, 0, 9, 1, 2, 3, 4];
        assert_eq!(classify(&packet(50, &esp)), Kind::Esp { spi: 7, sequence: 9, encapsulated: false });
        assert_eq!(classify(&packet(6, &[0; 20])), Kind::ClearText);
        assert_eq!(classify(&packet(58, &[128, 0, 0, 0])), Kind::Icmp);
        let vip = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 1);
        let unsolicited = [&[136, 0, 0, 0, 0x20, 0, 0, 0][..], &vip.octets()].concat();
        assert_eq!(classify(&packet(58, &unsolicited)), Kind::Neighbour { target: vip, solicited: false });
    }

    #[test]
    fn an_ike_message_is_known_on_both_ports() {
        let mut message = vec![0; 28];
        message[7] = 0xab;
        message[18] = 37;
        message[19] = 0x20;
        message[23] = 5;
        let expected =
            Kind::Ike { exchange: Exchange::Informational, response: true, message_id: 5, initiator_spi: 0xab };
        let plain = [&[1, 0xf4, 1, 0xf4, 0, 36, 0, 0][..], &message].concat();
        assert_eq!(classify(&frame(17, PEER, &plain)), expected);
        let natt = [&[0x11, 0x94, 0x11, 0x94, 0, 40, 0, 0, 0, 0, 0, 0][..], &message].concat();
        assert_eq!(classify(&frame(17, PEER, &natt)), expected);
    }

    /// The appliances' own encoder is the judge.
    #[test]
    fn an_advertisement_tells_who_owns_the_vip() {
        let advertisement = Advertisement {
            owner: ApplianceId::new(2).expect("an id"),
            vip: 0,
            epoch: Epoch(7),
            protected: true,
            incarnation: 1,
            number: 3,
        };
        let payload = AdvertisementKey::new(b"a secret of sixteen").encode(&advertisement);
        let frame = [&[3, 0x76, 0x69, 0x70, 0, 1, 2, 0x76, 192, 0, 2, 1, 0x88, 0xb5][..], &payload].concat();
        assert_eq!(classify(&frame), Kind::Advertisement { appliance: 2, epoch: 7 });
        assert_eq!(source(&frame), Some([2, 0x76, 192, 0, 2, 1]));
    }

    #[test]
    fn what_is_cut_short_is_other() {
        let whole = frame(17, PEER, &[0x11, 0x94, 0x11, 0x94, 0, 20, 0, 0, 0, 0, 0, 7, 0]);
        assert_eq!(classify(&whole), Kind::Other);
        assert_eq!(classify(&whole[..20]), Kind::Other);
        assert_eq!(classify(&[]), Kind::Other);
    }
}
