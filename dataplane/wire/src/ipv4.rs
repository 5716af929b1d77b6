//! IPv4 (RFC 791).
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |Version|  IHL  |   DSCP    |ECN|         Total Length          |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |        Identification         |0|D|M|     Fragment Offset     |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! | Time to Live  |   Protocol    |        Header Checksum        |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                        Source Address                         |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                      Destination Address                      |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |  Options, IHL * 4 - 20 bytes ...
//! ```

use std::net::Ipv4Addr;

use thiserror::Error;

use crate::Truncated;
use crate::checksum::{self, Sum};
use crate::ip::{Ecn, TtlExpired};

/// Length of a header without options, in bytes.
pub const HEADER_LEN: usize = 20;

const DONT_FRAGMENT: u16 = 0x4000;
pub(crate) const MORE_FRAGMENTS: u16 = 0x2000;
const OFFSET_MASK: u16 = 0x1fff;

/// Why bytes are not an IPv4 packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Ipv4Error {
    /// Shorter than the header, or than the total length says.
    #[error("the IPv4 packet is truncated")]
    Truncated,
    /// Another version.
    #[error("IP version {0} where 4 was expected")]
    Version(u8),
    /// The header length is below 20 bytes, or beyond the total length.
    #[error("the IPv4 header length is wrong")]
    HeaderLength,
    /// The header checksum is wrong.
    #[error("the IPv4 header checksum is wrong")]
    Checksum,
    /// An option is cut short, or has a wrong length.
    #[error("an IPv4 option is malformed")]
    Option,
    /// A source route that isn't at its end.
    #[error("an IPv4 source route")]
    SourceRoute,
}

/// A checked IPv4 packet, read in place.
#[derive(Debug, Clone, Copy)]
pub struct Packet<'a> {
    header: &'a [u8; HEADER_LEN],
    header_len: usize,
    bytes: &'a [u8],
}

impl<'a> Packet<'a> {
    /// Checks version, lengths, header checksum (RFC 1812 §5.2.2) and options. `bytes` may be longer than the packet.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Ipv4Error> {
        let header = bytes.first_chunk::<HEADER_LEN>().ok_or(Ipv4Error::Truncated)?;
        let version = header[0] >> 4;
        if version != 4 {
            return Err(Ipv4Error::Version(version));
        }
        let header_len = usize::from(header[0] & 0x0f) * 4;
        let total_len = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if header_len < HEADER_LEN || total_len < header_len {
            return Err(Ipv4Error::HeaderLength);
        }
        let bytes = bytes.get(..total_len).ok_or(Ipv4Error::Truncated)?;
        if header_len == HEADER_LEN {
            // Of a length that the compiler knows, the sum is a few additions.
            if Sum::new().bytes(header).finish() != 0 {
                return Err(Ipv4Error::Checksum);
            }
        } else {
            check_long_header(bytes.get(..header_len).ok_or(Ipv4Error::HeaderLength)?)?;
        }
        Ok(Self { header, header_len, bytes })
    }

    /// Differentiated services and ECN.
    pub const fn traffic_class(&self) -> u8 {
        self.header[1]
    }

    /// Explicit congestion notification.
    pub const fn ecn(&self) -> Ecn {
        Ecn::of(self.header[1])
    }

    /// Length of header and payload in bytes.
    pub const fn total_len(&self) -> usize {
        self.bytes.len()
    }

    /// Length of the header with its options in bytes.
    pub const fn header_len(&self) -> usize {
        self.header_len
    }

    /// Identification.
    pub const fn identification(&self) -> u16 {
        u16::from_be_bytes([self.header[4], self.header[5]])
    }

    const fn flags_and_offset(&self) -> u16 {
        u16::from_be_bytes([self.header[6], self.header[7]])
    }

    /// May routers not fragment it?
    pub const fn dont_fragment(&self) -> bool {
        self.flags_and_offset() & DONT_FRAGMENT != 0
    }

    /// Do more fragments follow?
    pub const fn more_fragments(&self) -> bool {
        self.flags_and_offset() & MORE_FRAGMENTS != 0
    }

    /// Offset of this fragment in bytes.
    pub const fn fragment_offset(&self) -> usize {
        (self.flags_and_offset() & OFFSET_MASK) as usize * 8
    }

    /// Is it one of several fragments?
    pub const fn is_fragment(&self) -> bool {
        self.flags_and_offset() & (MORE_FRAGMENTS | OFFSET_MASK) != 0
    }

    /// Time to live.
    pub const fn ttl(&self) -> u8 {
        self.header[8]
    }

    /// Protocol of the payload.
    pub const fn protocol(&self) -> u8 {
        self.header[9]
    }

    /// Source address.
    pub const fn source(&self) -> Ipv4Addr {
        Ipv4Addr::new(self.header[12], self.header[13], self.header[14], self.header[15])
    }

    /// Destination address.
    pub const fn destination(&self) -> Ipv4Addr {
        Ipv4Addr::new(self.header[16], self.header[17], self.header[18], self.header[19])
    }

    /// What follows the header, up to the total length.
    pub fn payload(&self) -> &'a [u8] {
        self.bytes.get(self.header_len..).unwrap_or_default()
    }

    /// Header and payload, up to the total length.
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }
}

/// Checks a header with options.
#[cold]
fn check_long_header(header: &[u8]) -> Result<(), Ipv4Error> {
    if Sum::new().bytes(header).finish() != 0 {
        return Err(Ipv4Error::Checksum);
    }
    for option in Options::of(header) {
        // RFC 7126 §4.3.5 and §4.4.5: packets with source routes are dropped. What is on its way along one doesn't end where its
        // destination says, so neither selectors nor services mean anything for it. Pointing behind its end, it is at its end.
        if let [kind, len, pointer, ..] = *option?
            && matches!(kind, option::LOOSE_SOURCE_ROUTE | option::STRICT_SOURCE_ROUTE)
            && pointer <= len
        {
            return Err(Ipv4Error::SourceRoute);
        }
    }
    Ok(())
}

/// Option types (RFC 791 §3.1).
pub(crate) mod option {
    pub(crate) const END: u8 = 0;
    pub(crate) const NO_OPERATION: u8 = 1;
    pub(crate) const LOOSE_SOURCE_ROUTE: u8 = 131;
    pub(crate) const STRICT_SOURCE_ROUTE: u8 = 137;
    /// Set in the types of options that each fragment repeats.
    pub(crate) const COPIED: u8 = 0x80;
}

/// The options of a header in their order, each with type and length; no end of options.
pub(crate) struct Options<'a>(&'a [u8]);

impl<'a> Options<'a> {
    /// Of a whole header.
    pub(crate) fn of(header: &'a [u8]) -> Self {
        Self(header.get(HEADER_LEN..).unwrap_or_default())
    }
}

impl<'a> Iterator for Options<'a> {
    type Item = Result<&'a [u8], Ipv4Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let len = match *self.0 {
            [] | [option::END, ..] => return None,
            [option::NO_OPERATION, ..] => 1,
            [_, len, ..] if len >= 2 => usize::from(len),
            _ => return Some(Err(Ipv4Error::Option)),
        };
        let Some((option, behind)) = self.0.split_at_checked(len) else { return Some(Err(Ipv4Error::Option)) };
        self.0 = behind;
        Some(Ok(option))
    }
}

/// A header without options, to emit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repr {
    /// Differentiated services and ECN.
    pub traffic_class: u8,
    /// Identification.
    pub identification: u16,
    /// May routers not fragment it?
    pub dont_fragment: bool,
    /// Do more fragments follow?
    pub more_fragments: bool,
    /// Offset of this fragment in bytes, a multiple of 8.
    pub fragment_offset: u16,
    /// Time to live.
    pub ttl: u8,
    /// Protocol of the payload.
    pub protocol: u8,
    /// Source address.
    pub source: Ipv4Addr,
    /// Destination address.
    pub destination: Ipv4Addr,
    /// Length of the payload in bytes.
    pub payload_len: u16,
}

impl Repr {
    /// An unfragmented packet with TTL 64.
    pub const fn new(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, payload_len: u16) -> Self {
        Self {
            traffic_class: 0,
            identification: 0,
            dont_fragment: false,
            more_fragments: false,
            fragment_offset: 0,
            ttl: 64,
            protocol,
            source,
            destination,
            payload_len,
        }
    }

    /// Writes the header, checksum included, to the front of `packet`. The total length saturates at 65535.
    #[inline]
    pub fn emit(&self, packet: &mut [u8]) -> Result<(), Truncated> {
        let header = packet.first_chunk_mut::<HEADER_LEN>().ok_or(Truncated)?;
        let total_len = (HEADER_LEN as u16).saturating_add(self.payload_len);
        let flags = if self.dont_fragment { DONT_FRAGMENT } else { 0 }
            | if self.more_fragments { MORE_FRAGMENTS } else { 0 }
            | (self.fragment_offset / 8);
        let mut words = [
            pair(0x4500 | u16::from(self.traffic_class), total_len),
            pair(self.identification, flags),
            pair(u16::from_be_bytes([self.ttl, self.protocol]), 0),
            self.source.to_bits(),
            self.destination.to_bits(),
        ];
        // Summed up before it is written: to read small pieces back at once would cost more than all the rest.
        let checksum = words.iter().fold(Sum::new(), |sum, word| sum.double_word(*word)).finish();
        words[2] |= u32::from(checksum);
        for (to, word) in header.as_chunks_mut::<4>().0.iter_mut().zip(words) {
            *to = word.to_be_bytes();
        }
        Ok(())
    }
}

/// Two words side by side.
#[inline]
const fn pair(high: u16, low: u16) -> u32 {
    (high as u32) << 16 | low as u32
}

/// Changes the 16-bit word at the even offset `at` of a header and its checksum with it.
fn change_word(header: &mut [u8; HEADER_LEN], at: usize, change: impl FnOnce([u8; 2]) -> [u8; 2]) {
    let Some(word) = header.get_mut(at..).and_then(|rest| rest.first_chunk_mut::<2>()) else { return };
    let old = *word;
    *word = change(old);
    let new = *word;
    let before = u16::from_be_bytes([header[10], header[11]]);
    let after = checksum::update(before, u16::from_be_bytes(old), u16::from_be_bytes(new));
    header[10..12].copy_from_slice(&after.to_be_bytes());
}

/// Makes a fragment's header that of a whole packet of `total_len` bytes, in place: its place in the datagram goes, DF stays.
pub fn set_unfragmented(packet: &mut [u8], total_len: u16) -> Result<(), Truncated> {
    let header = packet.first_chunk_mut::<HEADER_LEN>().ok_or(Truncated)?;
    change_word(header, 2, |_| total_len.to_be_bytes());
    change_word(header, 6, |flags| (u16::from_be_bytes(flags) & DONT_FRAGMENT).to_be_bytes());
    Ok(())
}

/// Counts the TTL of a checked packet down by one in place, and updates its checksum.
#[inline]
pub fn decrement_ttl(packet: &mut [u8]) -> Result<(), TtlExpired> {
    let header = packet.first_chunk_mut::<HEADER_LEN>().ok_or(TtlExpired)?;
    if header[8] <= 1 {
        return Err(TtlExpired);
    }
    change_word(header, 8, |[ttl, protocol]| [ttl.saturating_sub(1), protocol]);
    Ok(())
}

/// Sets the traffic class (DSCP and ECN) of a checked packet in place, and updates its checksum.
#[inline]
pub fn set_traffic_class(packet: &mut [u8], traffic_class: u8) -> Result<(), Truncated> {
    let header = packet.first_chunk_mut::<HEADER_LEN>().ok_or(Truncated)?;
    change_word(header, 0, |[version, _]| [version, traffic_class]);
    Ok(())
}

/// Sets the ECN bits of a checked packet in place, and updates its checksum.
#[inline]
pub fn set_ecn(packet: &mut [u8], ecn: Ecn) -> Result<(), Truncated> {
    let header = packet.first_chunk_mut::<HEADER_LEN>().ok_or(Truncated)?;
    change_word(header, 0, |[version, class]| [version, class & !0b11 | ecn.bits()]);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The well-known example header 4500 0073 0000 4000 4011 b861 c0a8 0001 c0a8 00c7.
    const EXAMPLE: [u8; 20] = [
        0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0xb8, 0x61, 0xc0, 0xa8, 0x00, 0x01, 0xc0, 0xa8,
        0x00, 0xc7,
    ];

    fn example() -> Vec<u8> {
        let mut packet = EXAMPLE.to_vec();
        packet.resize(0x73 + 5, 0xee);
        packet
    }

    #[test]
    fn known_header() {
        let bytes = example();
        let packet = Packet::parse(&bytes).unwrap();
        assert_eq!(packet.total_len(), 0x73);
        assert_eq!(packet.payload().len(), 0x73 - 20, "the frame's padding is cut off");
        assert!(packet.dont_fragment() && !packet.is_fragment());
        assert_eq!((packet.ttl(), packet.protocol()), (64, 17));
        assert_eq!(packet.source(), Ipv4Addr::new(192, 168, 0, 1));
        let mut repr = Repr::new(packet.source(), packet.destination(), 17, 0x73 - 20);
        repr.dont_fragment = true;
        let mut emitted = [0; 20];
        repr.emit(&mut emitted).unwrap();
        assert_eq!(emitted, EXAMPLE);
    }

    #[test]
    fn refuses() {
        let error = |change: fn(&mut Vec<u8>)| {
            let mut bytes = example();
            change(&mut bytes);
            Packet::parse(&bytes).unwrap_err()
        };
        assert_eq!(error(|b| b.truncate(19)), Ipv4Error::Truncated);
        assert_eq!(error(|b| b.truncate(0x72)), Ipv4Error::Truncated);
        assert_eq!(error(|b| b[0] = 0x65), Ipv4Error::Version(6));
        assert_eq!(error(|b| b[0] = 0x44), Ipv4Error::HeaderLength);
        assert_eq!(error(|b| b[2..4].copy_from_slice(&[0, 19])), Ipv4Error::HeaderLength);
        assert_eq!(error(|b| b[10] ^= 1), Ipv4Error::Checksum);
    }

    #[test]
    fn ttl_runs_out() {
        let mut bytes = example();
        decrement_ttl(&mut bytes).unwrap();
        let packet = Packet::parse(&bytes).expect("the checksum is right again");
        assert_eq!(packet.ttl(), 63);
        bytes[8] = 1;
        assert_eq!(decrement_ttl(&mut bytes), Err(TtlExpired));
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(packet) = Packet::parse(&bytes) {
                let _ = packet.payload();
            }
            let mut bytes = bytes;
            let _ = decrement_ttl(&mut bytes);
            let _ = set_ecn(&mut bytes, Ecn::Ce);
        }

        #[test]
        fn emit_and_parse_agree(
            (traffic_class, identification, flags) in (any::<u8>(), any::<u16>(), any::<(bool, bool)>()),
            offset in 0u16..0x1fff, (ttl, protocol) in any::<(u8, u8)>(),
            source: [u8; 4], destination: [u8; 4], payload_len in 0u16..64,
        ) {
            let repr = Repr {
                traffic_class, identification, dont_fragment: flags.0, more_fragments: flags.1, fragment_offset: offset * 8,
                ttl, protocol, source: source.into(), destination: destination.into(), payload_len,
            };
            let mut bytes = vec![0; HEADER_LEN + usize::from(payload_len)];
            repr.emit(&mut bytes).unwrap();
            let packet = Packet::parse(&bytes).unwrap();
            let parsed = Repr {
                traffic_class: packet.traffic_class(), identification: packet.identification(),
                dont_fragment: packet.dont_fragment(), more_fragments: packet.more_fragments(),
                fragment_offset: packet.fragment_offset() as u16, ttl: packet.ttl(), protocol: packet.protocol(),
                source: packet.source(), destination: packet.destination(), payload_len: packet.payload().len() as u16,
            };
            prop_assert_eq!(parsed, repr);
            set_ecn(&mut bytes, Ecn::Ce).unwrap();
            let marked = Packet::parse(&bytes).unwrap();
            prop_assert_eq!((marked.ecn(), marked.traffic_class() >> 2), (Ecn::Ce, traffic_class >> 2));
        }
    }
}
