//! Frames and packets, made and read.

use std::net::Ipv4Addr;

use vipsec_wire::ethernet::{EtherType, Header, MacAddr};
use vipsec_wire::ip::protocol;
use vipsec_wire::{arp, ipv4, udp};

/// The port of IKE (RFC 7296 §2).
pub(crate) const IKE_PORT: u16 = 500;

/// A frame around an IPv4 packet.
pub(crate) fn frame(destination: MacAddr, source: MacAddr, packet: &[u8]) -> Vec<u8> {
    let mut frame = Header { destination, source, ethertype: EtherType::IPV4 }.to_bytes().to_vec();
    frame.extend_from_slice(packet);
    frame
}

/// An IPv4 packet.
pub(crate) fn ipv4(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; ipv4::HEADER_LEN];
    ipv4::Repr::new(source, destination, protocol, payload.len() as u16).emit(&mut packet).expect("made to measure");
    packet.extend_from_slice(payload);
    packet
}

/// A UDP datagram in an IPv4 packet.
pub(crate) fn udp(source: (Ipv4Addr, u16), destination: (Ipv4Addr, u16), payload: &[u8]) -> Vec<u8> {
    let mut datagram = vec![0; udp::HEADER_LEN];
    datagram.extend_from_slice(payload);
    let payload_len = payload.len() as u16;
    let header = udp::Repr { source_port: source.1, destination_port: destination.1, payload_len };
    header.emit(&mut datagram).expect("made to measure");
    udp::fill_checksum_v4(source.0, destination.0, &mut datagram).expect("made to measure");
    ipv4(source.0, destination.0, protocol::UDP, &datagram)
}

/// What a frame is, as far as a host or an observer cares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Seen<'a> {
    /// ARP.
    Arp(arp::Packet),
    /// A UDP datagram: source, destination, payload.
    Udp((Ipv4Addr, u16), (Ipv4Addr, u16), &'a [u8]),
    /// An ESP packet, from its header on.
    Esp(Ipv4Addr, &'a [u8]),
    /// An advertisement.
    Advertisement,
    /// Anything else.
    Other,
}

/// Reads a frame.
pub(crate) fn read(frame: &[u8]) -> Option<(Header, Seen<'_>)> {
    let (header, payload) = Header::parse(frame).ok()?;
    let seen = match header.ethertype {
        EtherType::ARP => arp::Packet::parse(payload).map_or(Seen::Other, Seen::Arp),
        EtherType::IPV4 => read_ipv4(payload),
        EtherType::ADVERTISEMENT => Seen::Advertisement,
        _ => Seen::Other,
    };
    Some((header, seen))
}

/// Reads a packet.
pub(crate) fn read_ipv4(packet: &[u8]) -> Seen<'_> {
    let Ok(packet) = ipv4::Packet::parse(packet) else { return Seen::Other };
    match packet.protocol() {
        protocol::ESP => Seen::Esp(packet.source(), packet.payload()),
        protocol::UDP => udp::Datagram::parse(packet.payload()).map_or(Seen::Other, |datagram| {
            let source = (packet.source(), datagram.source_port());
            let destination = (packet.destination(), datagram.destination_port());
            Seen::Udp(source, destination, datagram.payload())
        }),
        _ => Seen::Other,
    }
}

/// RFC 7296 §3.14: the payload that is encrypted.
const PAYLOAD_SK: u8 = 46;
/// RFC 7296 §3.1: the sender is the original initiator.
const FLAG_INITIATOR: u8 = 0x08;
/// RFC 7296 §3.1: it is an answer.
const FLAG_RESPONSE: u8 = 0x20;
/// RFC 7296 §3.1.
const EXCHANGE_INFORMATIONAL: u8 = 37;

/// An encrypted IKE message, as far as anybody can read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SealedIke {
    pub(crate) initiator: u64,
    pub(crate) responder: u64,
    pub(crate) from_initiator: bool,
    /// RFC 6311 §5.1: message IDs are agreed on in requests with the ID 0. Others may have it too.
    pub(crate) may_synchronise: bool,
    pub(crate) iv: [u8; 8],
}

impl SealedIke {
    /// `None`: it isn't encrypted, or no IKE message.
    pub(crate) fn read(message: &[u8]) -> Option<Self> {
        let (spis, rest) = message.split_first_chunk::<16>()?;
        let [initiator, responder] = [spis.first_chunk()?, spis.last_chunk()?].map(|spi| u64::from_be_bytes(*spi));
        let ([payload, _version, exchange, flags], rest) = rest.split_first_chunk::<4>()?;
        if *payload != PAYLOAD_SK {
            return None;
        }
        let is_first_request = flags & FLAG_RESPONSE == 0 && rest.starts_with(&[0; 4]);
        let may_synchronise = *exchange == EXCHANGE_INFORMATIONAL && is_first_request;
        // Message ID, length, and the payload's own header stand before the IV (RFC 5282 §3).
        let iv = *rest.get(12..)?.first_chunk()?;
        Some(Self { initiator, responder, from_initiator: flags & FLAG_INITIATOR != 0, may_synchronise, iv })
    }

    /// The sender's SPI.
    pub(crate) fn sender(&self) -> u64 {
        if self.from_initiator { self.initiator } else { self.responder }
    }
}

/// What hosts behind the remote peer send, and targets send back: a number that comes once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PayloadId(pub(crate) u64);

impl PayloadId {
    pub(crate) fn to_bytes(self) -> [u8; 8] {
        self.0.to_be_bytes()
    }

    pub(crate) fn from_bytes(payload: &[u8]) -> Option<Self> {
        payload.first_chunk().map(|bytes| Self(u64::from_be_bytes(*bytes)))
    }
}
