//! ICMPv6 (RFC 4443): echo, and the errors that concern forwarding. Neighbour discovery is in [`crate::ndp`].
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |     Type      |     Code      |          Checksum             |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! | echo: Identifier, Sequence Number; Packet Too Big: MTU        |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! | echo: data; errors: as much of the packet as fits 1280 bytes ...
//! ```

use crate::Truncated;
use crate::checksum::{self, Sum};
use crate::icmp::IcmpError;
use crate::ip::{Address, protocol};
use crate::ipv6;

/// Length of the header in bytes.
pub const HEADER_LEN: usize = 8;

/// Most bytes of the invoking packet in an error: RFC 4443 §2.4 (c) keeps the whole error within the minimum MTU.
pub const QUOTE_MAX: usize = ipv6::MTU_MIN - ipv6::HEADER_LEN - HEADER_LEN;

/// ICMPv6 types.
pub mod kind {
    /// Destination unreachable.
    pub const UNREACHABLE: u8 = 1;
    /// Packet too big.
    pub const PACKET_TOO_BIG: u8 = 2;
    /// Time exceeded.
    pub const TIME_EXCEEDED: u8 = 3;
    /// Parameter problem.
    pub const PARAMETER_PROBLEM: u8 = 4;
    /// Echo request.
    pub const ECHO_REQUEST: u8 = 128;
    /// Echo reply.
    pub const ECHO_REPLY: u8 = 129;
    /// Neighbour solicitation (RFC 4861 §4.3).
    pub const NEIGHBOUR_SOLICITATION: u8 = 135;
    /// Neighbour advertisement (RFC 4861 §4.4).
    pub const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
    /// Redirect (RFC 4861 §4.5).
    pub const REDIRECT: u8 = 137;
}

/// ICMPv6 codes.
pub mod code {
    /// Destination unreachable: no route.
    pub const NO_ROUTE: u8 = 0;
    /// Destination unreachable: communication administratively prohibited.
    pub const PROHIBITED: u8 = 1;
    /// Destination unreachable: the address doesn't answer.
    pub const ADDRESS_UNREACHABLE: u8 = 3;
    /// Destination unreachable: nothing serves the port.
    pub const PORT_UNREACHABLE: u8 = 4;
    /// Time exceeded: in transit.
    pub const IN_TRANSIT: u8 = 0;
    /// Time exceeded: while fragments were being reassembled.
    pub const REASSEMBLY: u8 = 1;
    /// Parameter problem: an unknown next header.
    pub const UNKNOWN_NEXT_HEADER: u8 = 1;
    /// Parameter problem: an unknown option.
    pub const UNKNOWN_OPTION: u8 = 2;
}

/// A checked ICMPv6 message, read in place.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    header: &'a [u8; HEADER_LEN],
    payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// Checks length and checksum. `bytes` is the message and no more.
    pub fn parse(source: Address, destination: Address, bytes: &'a [u8]) -> Result<Self, IcmpError> {
        let (header, payload) = bytes.split_first_chunk::<HEADER_LEN>().ok_or(IcmpError::Truncated)?;
        if sum(source, destination, bytes).finish() != 0 {
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

    /// The type-specific word.
    pub const fn rest(&self) -> [u8; 4] {
        [self.header[4], self.header[5], self.header[6], self.header[7]]
    }

    /// Identifier of an echo.
    pub const fn identifier(&self) -> u16 {
        u16::from_be_bytes([self.header[4], self.header[5]])
    }

    /// Sequence number of an echo.
    pub const fn sequence(&self) -> u16 {
        u16::from_be_bytes([self.header[6], self.header[7]])
    }

    /// The next hop's MTU in bytes, in "packet too big" of any code (RFC 4443 §3.2).
    pub const fn next_hop_mtu(&self) -> Option<u32> {
        match self.header[0] {
            kind::PACKET_TOO_BIG => Some(u32::from_be_bytes(self.rest())),
            _ => None,
        }
    }

    /// Is it an echo request?
    pub const fn is_echo_request(&self) -> bool {
        self.header[0] == kind::ECHO_REQUEST && self.header[1] == 0
    }

    /// Does it report an error about another packet?
    pub const fn is_error(&self) -> bool {
        is_error(self.header[0])
    }

    /// Echo data, or the quoted packet of an error.
    pub const fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

/// Does this type report an error about another packet? RFC 4443 §2.1: "Error messages are identified as such by a zero in the
/// high-order bit of their message Type field values."
pub const fn is_error(kind: u8) -> bool {
    kind < 128
}

fn sum(source: Address, destination: Address, message: &[u8]) -> Sum {
    let len = u32::try_from(message.len()).unwrap_or(u32::MAX);
    // RFC 4443 §2.3: the pseudo-header's next header is 58, extension headers or not.
    Sum::new().pseudo_header(source, destination, protocol::ICMPV6, len).bytes(message)
}

/// Turns an echo request into its reply in place: type and checksum. The addresses are the caller's; exchanged they sum to the same.
pub fn make_reply(message: &mut [u8]) -> Result<(), Truncated> {
    let header = message.first_chunk_mut::<HEADER_LEN>().ok_or(Truncated)?;
    let old = u16::from_be_bytes([header[0], header[1]]);
    header[0] = kind::ECHO_REPLY;
    let new = u16::from_be_bytes([header[0], header[1]]);
    let checksum = checksum::update(u16::from_be_bytes([header[2], header[3]]), old, new);
    header[2..4].copy_from_slice(&checksum.to_be_bytes());
    Ok(())
}

/// Writes the checksum into a message whose other fields are complete.
pub fn fill_checksum(source: Address, destination: Address, message: &mut [u8]) -> Result<(), Truncated> {
    message.first_chunk_mut::<HEADER_LEN>().ok_or(Truncated)?[2..4].copy_from_slice(&[0, 0]);
    let checksum = sum(source, destination, message).finish();
    message.first_chunk_mut::<HEADER_LEN>().ok_or(Truncated)?[2..4].copy_from_slice(&checksum.to_be_bytes());
    Ok(())
}

/// Writes an error's header in front of the quoted packet that already stands behind the first 8 bytes of `message`, and the checksum
/// over all of it. `rest` is the type-specific word: the MTU of "packet too big", the pointer of a parameter problem.
pub fn emit_error(
    kind: u8,
    code: u8,
    rest: [u8; 4],
    source: Address,
    destination: Address,
    message: &mut [u8],
) -> Result<(), Truncated> {
    let [r0, r1, r2, r3] = rest;
    *message.first_chunk_mut().ok_or(Truncated)? = [kind, code, 0, 0, r0, r1, r2, r3];
    fill_checksum(source, destination, message)
}
