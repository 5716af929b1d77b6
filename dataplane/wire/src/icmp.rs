//! ICMP for IPv4 (RFC 792): echo, and the errors that concern forwarding.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |     Type      |     Code      |          Checksum             |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! | echo: Identifier, Sequence Number; RFC 1191: 0, Next-Hop MTU  |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! | echo: data; errors: IP header and at least 64 bits of payload ...
//! ```

use thiserror::Error;

use crate::Truncated;
use crate::checksum::{self, Sum};

/// Length of the header in bytes.
pub const HEADER_LEN: usize = 8;

/// Most bytes of the original datagram in an error: RFC 1812 §4.3.2.3 keeps the whole error within 576 bytes.
pub const QUOTE_MAX: usize = 576 - crate::ipv4::HEADER_LEN - HEADER_LEN;

/// ICMP types.
pub mod kind {
    /// Echo reply.
    pub const ECHO_REPLY: u8 = 0;
    /// Destination unreachable.
    pub const UNREACHABLE: u8 = 3;
    /// Echo request.
    pub const ECHO_REQUEST: u8 = 8;
    /// Time exceeded.
    pub const TIME_EXCEEDED: u8 = 11;
    /// Parameter problem.
    pub const PARAMETER_PROBLEM: u8 = 12;
}

/// ICMP codes.
pub mod code {
    /// Destination unreachable: no route to the network.
    pub const NET_UNREACHABLE: u8 = 0;
    /// Destination unreachable: the host doesn't answer.
    pub const HOST_UNREACHABLE: u8 = 1;
    /// Destination unreachable: nothing serves the protocol.
    pub const PROTOCOL_UNREACHABLE: u8 = 2;
    /// Destination unreachable: nothing serves the port.
    pub const PORT_UNREACHABLE: u8 = 3;
    /// Destination unreachable: fragmentation needed and DF set.
    pub const FRAGMENTATION_NEEDED: u8 = 4;
    /// Destination unreachable: communication administratively prohibited (RFC 1812 §5.2.7.1).
    pub const PROHIBITED: u8 = 13;
    /// Time exceeded: in transit.
    pub const IN_TRANSIT: u8 = 0;
    /// Time exceeded: while fragments were being reassembled.
    pub const REASSEMBLY: u8 = 1;
}

/// Why bytes are not an ICMP message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum IcmpError {
    /// Too short.
    #[error("the ICMP message is truncated")]
    Truncated,
    /// The checksum is wrong.
    #[error("the ICMP checksum is wrong")]
    Checksum,
}

/// A checked ICMP message, read in place.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    header: &'a [u8; HEADER_LEN],
    payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// Checks length and checksum. `bytes` is the message and no more.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, IcmpError> {
        let (header, payload) = bytes.split_first_chunk::<HEADER_LEN>().ok_or(IcmpError::Truncated)?;
        if Sum::new().bytes(bytes).finish() != 0 {
            return Err(IcmpError::Checksum);
        }
        Ok(Self { header, payload })
    }

    /// Type.
    pub const fn kind(&self) -> u8 {
        self.header[0]
    }

    /// Code.
    pub const fn code(&self) -> u8 {
        self.header[1]
    }

    /// Identifier of an echo.
    pub const fn identifier(&self) -> u16 {
        u16::from_be_bytes([self.header[4], self.header[5]])
    }

    /// Second half of the type-specific word: sequence number of an echo, next-hop MTU of RFC 1191.
    pub const fn sequence(&self) -> u16 {
        u16::from_be_bytes([self.header[6], self.header[7]])
    }

    /// The next hop's MTU in bytes, in "fragmentation needed" (RFC 1191 §4). Routers older than that say 0: unknown.
    pub const fn next_hop_mtu(&self) -> Option<u16> {
        match (self.header[0], self.header[1]) {
            (kind::UNREACHABLE, code::FRAGMENTATION_NEEDED) => Some(self.sequence()),
            _ => None,
        }
    }

    /// Is it an echo request?
    pub const fn is_echo_request(&self) -> bool {
        self.header[0] == kind::ECHO_REQUEST && self.header[1] == 0
    }

    /// Does it report an error about another packet (RFC 1122 §3.2.2)?
    pub const fn is_error(&self) -> bool {
        is_error(self.header[0])
    }

    /// Echo data, or the quoted packet of an error.
    pub const fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

/// Does this type report an error about another packet (RFC 1122 §3.2.2: unreachable, source quench, redirect, time exceeded, parameter
/// problem)?
pub const fn is_error(kind: u8) -> bool {
    matches!(kind, 3 | 4 | 5 | 11 | 12)
}

/// Turns an echo request into its reply in place: type and checksum; addresses are the caller's.
pub fn make_reply(message: &mut [u8]) -> Result<(), Truncated> {
    let header = message.first_chunk_mut::<HEADER_LEN>().ok_or(Truncated)?;
    // RFC 792: "the type code changed to 0, and the checksum recomputed".
    let old = u16::from_be_bytes([header[0], header[1]]);
    header[0] = kind::ECHO_REPLY;
    let new = u16::from_be_bytes([header[0], header[1]]);
    let mut checksum = checksum::update(u16::from_be_bytes([header[2], header[3]]), old, new);
    // RFC 1624 §3 supposes that not all of the data is zero. That of a reply may be, and its checksum is all ones then.
    if checksum == 0 {
        header[2..4].copy_from_slice(&[0, 0]);
        checksum = Sum::new().bytes(message).finish();
    }
    message.first_chunk_mut::<HEADER_LEN>().ok_or(Truncated)?[2..4].copy_from_slice(&checksum.to_be_bytes());
    Ok(())
}

/// Writes an error's header in front of the quoted packet that already stands behind the first 8 bytes of `message`, and the checksum
/// over all of it. `rest` is the type-specific word.
pub fn emit_error(kind: u8, code: u8, rest: [u8; 4], message: &mut [u8]) -> Result<(), Truncated> {
    let [r0, r1, r2, r3] = rest;
    *message.first_chunk_mut().ok_or(Truncated)? = [kind, code, 0, 0, r0, r1, r2, r3];
    let checksum = Sum::new().bytes(message).finish();
    message.first_chunk_mut::<HEADER_LEN>().ok_or(Truncated)?[2..4].copy_from_slice(&checksum.to_be_bytes());
    Ok(())
}

/// Writes "fragmentation needed and DF set" with the next hop's MTU (RFC 1191 §4), as [`emit_error`] does.
pub fn emit_fragmentation_needed(next_hop_mtu: u16, message: &mut [u8]) -> Result<(), Truncated> {
    let [m0, m1] = next_hop_mtu.to_be_bytes();
    emit_error(kind::UNREACHABLE, code::FRAGMENTATION_NEEDED, [0, 0, m0, m1], message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// From scapy: ICMP(type=8, id=0x1234, seq=7) / b"ping"
    const REQUEST: [u8; 12] = [0x08, 0x00, 0x06, 0xf4, 0x12, 0x34, 0x00, 0x07, b'p', b'i', b'n', b'g'];
    /// The same with type=0.
    const REPLY: [u8; 12] = [0x00, 0x00, 0x0e, 0xf4, 0x12, 0x34, 0x00, 0x07, b'p', b'i', b'n', b'g'];

    #[test]
    fn known_echo() {
        let request = Message::parse(&REQUEST).unwrap();
        assert!(request.is_echo_request() && !request.is_error());
        assert_eq!((request.identifier(), request.sequence(), request.payload()), (0x1234, 7, b"ping".as_slice()));
        let mut bytes = REQUEST;
        make_reply(&mut bytes).unwrap();
        assert_eq!(bytes, REPLY);
        bytes[2] ^= 1;
        assert_eq!(Message::parse(&bytes).unwrap_err(), IcmpError::Checksum);
    }

    #[test]
    fn reply_to_an_echo_of_zeros_has_a_right_checksum() {
        let mut bytes = [0x08, 0, 0xf7, 0xff, 0, 0, 0, 0, 0, 0];
        Message::parse(&bytes).expect("a right checksum");
        make_reply(&mut bytes).unwrap();
        // From scapy: ICMP(type=0, id=0, seq=0) / b"\0\0"
        assert_eq!(bytes, [0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn fragmentation_needed() {
        let mut bytes = [0; HEADER_LEN + 28];
        bytes[HEADER_LEN] = 0x45;
        emit_fragmentation_needed(1438, &mut bytes).unwrap();
        let message = Message::parse(&bytes).expect("a right checksum");
        assert!(message.is_error());
        assert_eq!((message.kind(), message.code(), message.next_hop_mtu()), (3, 4, Some(1438)));
        assert_eq!(message.payload()[0], 0x45);
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = Message::parse(&bytes).map(|message| message.is_error());
            let mut bytes = bytes;
            let _ = make_reply(&mut bytes);
            let _ = emit_fragmentation_needed(576, &mut bytes);
        }
    }
}
