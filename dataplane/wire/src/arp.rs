//! ARP for IPv4 over Ethernet (RFC 826), and the announcements of RFC 5227.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |      hardware type = 1        |    protocol type = 0x0800     |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |  hw len = 6   | proto len = 4 |          operation            |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |           sender MAC (6), sender IPv4 address (4)             |
//! |           target MAC (6), target IPv4 address (4)             |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```

use std::net::Ipv4Addr;

use thiserror::Error;

use crate::Truncated;
use crate::ethernet::{self, EtherType, MacAddr};

/// Length of the packet in bytes.
pub const PACKET_LEN: usize = 28;

/// Length of a frame that carries one, in bytes, without the padding to Ethernet's minimum that the device adds.
pub const FRAME_LEN: usize = ethernet::HEADER_LEN + PACKET_LEN;

/// What an ARP packet wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Who has the target's address?
    Request,
    /// The sender has it.
    Reply,
}

/// An ARP packet for IPv4 over Ethernet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// Request or reply.
    pub operation: Operation,
    /// Who sends.
    pub sender_mac: MacAddr,
    /// Its address; 0.0.0.0 in a probe (RFC 5227 §1.1).
    pub sender_ip: Ipv4Addr,
    /// Receiver of a reply; meaningless in a request.
    pub target_mac: MacAddr,
    /// The address asked for.
    pub target_ip: Ipv4Addr,
}

/// Why bytes are not an ARP packet that we understand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ArpError {
    /// Too short.
    #[error("the ARP packet is truncated")]
    Truncated,
    /// Not Ethernet and IPv4.
    #[error("the ARP packet is not for IPv4 over Ethernet")]
    OtherNetwork,
    /// Neither request nor reply.
    #[error("unknown ARP operation {0}")]
    UnknownOperation(u16),
}

impl Packet {
    /// Reads the payload of an Ethernet frame.
    pub fn parse(bytes: &[u8]) -> Result<Self, ArpError> {
        let packet = bytes.first_chunk::<PACKET_LEN>().ok_or(ArpError::Truncated)?;
        // RFC 826, packet reception: "?Do I have the hardware type in ar$hrd?", "?Do I speak the protocol in ar$pro?"
        let [0x00, 0x01, 0x08, 0x00, 6, 4, o0, o1, rest @ ..] = *packet else {
            return Err(ArpError::OtherNetwork);
        };
        let operation = match u16::from_be_bytes([o0, o1]) {
            1 => Operation::Request,
            2 => Operation::Reply,
            other => return Err(ArpError::UnknownOperation(other)),
        };
        let [s0, s1, s2, s3, s4, s5, a0, a1, a2, a3, t0, t1, t2, t3, t4, t5, b0, b1, b2, b3] = rest;
        Ok(Self {
            operation,
            sender_mac: MacAddr([s0, s1, s2, s3, s4, s5]),
            sender_ip: Ipv4Addr::new(a0, a1, a2, a3),
            target_mac: MacAddr([t0, t1, t2, t3, t4, t5]),
            target_ip: Ipv4Addr::new(b0, b1, b2, b3),
        })
    }

    /// Writes the packet to the front of `bytes`.
    pub fn emit(&self, bytes: &mut [u8]) -> Result<(), Truncated> {
        let packet = bytes.first_chunk_mut::<PACKET_LEN>().ok_or(Truncated)?;
        let operation: u8 = match self.operation {
            Operation::Request => 1,
            Operation::Reply => 2,
        };
        packet[..8].copy_from_slice(&[0x00, 0x01, 0x08, 0x00, 6, 4, 0, operation]);
        packet[8..14].copy_from_slice(&self.sender_mac.0);
        packet[14..18].copy_from_slice(&self.sender_ip.octets());
        packet[18..24].copy_from_slice(&self.target_mac.0);
        packet[24..28].copy_from_slice(&self.target_ip.octets());
        Ok(())
    }

    /// The whole frame from the sender's MAC to `destination`.
    pub fn to_frame(&self, destination: MacAddr) -> [u8; FRAME_LEN] {
        let mut frame = [0; FRAME_LEN];
        let header = ethernet::Header { destination, source: self.sender_mac, ethertype: EtherType::ARP };
        let (front, back) = frame.split_at_mut(ethernet::HEADER_LEN);
        front.copy_from_slice(&header.to_bytes());
        // The buffer was made to measure.
        let _ = self.emit(back);
        frame
    }

    /// RFC 5227 §1.1: an ARP announcement is a request whose sender and target address are the address being announced,
    /// and §3: a request rather than a reply, since some stations ignore unsolicited replies.
    pub fn announcement(address: Ipv4Addr, mac: MacAddr) -> Self {
        Self {
            operation: Operation::Request,
            sender_mac: mac,
            sender_ip: address,
            target_mac: MacAddr::default(),
            target_ip: address,
        }
    }

    /// Does it announce its sender's address to everybody (request or reply, RFC 5227 §3)?
    pub fn is_announcement(&self) -> bool {
        self.sender_ip == self.target_ip && !self.sender_ip.is_unspecified()
    }

    /// The answer to this request: `mac` has the address asked for.
    #[must_use]
    pub fn reply_from(&self, mac: MacAddr) -> Self {
        // RFC 826: "Swap hardware and protocol fields, putting the local hardware and protocol addresses in the sender fields."
        Self {
            operation: Operation::Reply,
            sender_mac: mac,
            sender_ip: self.target_ip,
            target_mac: self.sender_mac,
            target_ip: self.sender_ip,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_request() {
        #[rustfmt::skip]
        let bytes = [
            0, 1, 8, 0, 6, 4, 0, 1,
            2, 0, 0, 0, 0, 1, 192, 0, 2, 254,
            0, 0, 0, 0, 0, 0, 192, 0, 2, 1,
        ];
        let request = Packet::parse(&bytes).unwrap();
        assert_eq!(request.operation, Operation::Request);
        assert_eq!(request.sender_ip, Ipv4Addr::new(192, 0, 2, 254));
        assert_eq!(request.target_ip, Ipv4Addr::new(192, 0, 2, 1));
        let reply = request.reply_from(MacAddr([2, 0x76, 0x70, 0, 0, 1]));
        let frame = reply.to_frame(request.sender_mac);
        #[rustfmt::skip]
        assert_eq!(frame, [
            2, 0, 0, 0, 0, 1,  2, 0x76, 0x70, 0, 0, 1,  8, 6,
            0, 1, 8, 0, 6, 4, 0, 2,
            2, 0x76, 0x70, 0, 0, 1, 192, 0, 2, 1,
            2, 0, 0, 0, 0, 1, 192, 0, 2, 254,
        ]);
        let mut token_ring = bytes;
        token_ring[1] = 6;
        assert_eq!(Packet::parse(&token_ring), Err(ArpError::OtherNetwork));
        assert!(Packet::announcement(Ipv4Addr::new(192, 0, 2, 1), MacAddr([2; 6])).is_announcement());
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = Packet::parse(&bytes);
        }

        #[test]
        fn emit_and_parse_agree(reply: bool, a: [u8; 6], b: [u8; 4], c: [u8; 6], d: [u8; 4]) {
            let packet = Packet {
                operation: if reply { Operation::Reply } else { Operation::Request },
                sender_mac: MacAddr(a), sender_ip: b.into(), target_mac: MacAddr(c), target_ip: d.into(),
            };
            prop_assert_eq!(Packet::parse(&packet.to_frame(MacAddr::BROADCAST)[ethernet::HEADER_LEN..]), Ok(packet));
        }
    }
}
