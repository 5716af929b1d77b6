//! IPv6 extension headers (RFC 8200 §4): a bounded walk to the upper layer, and the fragment header.
//!
//! ```text
//!  hop-by-hop options, destination options, routing      fragment
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-             +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |  Next Header  | len / 8 - 1   |  ...                |  Next Header  |   Reserved    |     Fragment Offset     |0 0|M|
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-             +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//!  routing: then type, segments left                   |                        Identification                         |
//!                                                      +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```

use thiserror::Error;

use super::{HEADER_LEN, Ipv6Error, Packet};
use crate::Truncated;
use crate::ip::protocol;

/// How many extension headers we look through; RFC 8200 §4.1 recommends at most six in a packet.
pub const HEADERS_MAX: usize = 8;

/// How many bytes of extension headers we look through.
pub const BYTES_MAX: usize = 512;

/// Length of a fragment header in bytes.
pub const FRAGMENT_HEADER_LEN: usize = 8;

/// Where the Next Header field of the IPv6 header stands.
const NEXT_HEADER_AT: usize = 6;

/// What lies behind the extension headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpperLayer {
    /// Its protocol; behind the fragment header of a fragment other than the first, the type of the datagram's first header there.
    pub protocol: u8,
    /// Where it begins, in bytes from the start of the packet.
    pub offset: usize,
    /// The fragment header that was passed.
    pub fragment: Option<FoundFragment>,
}

/// A fragment header and where it stands, in bytes from the start of the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FoundFragment {
    /// Its fields.
    pub header: FragmentHeader,
    /// Where it begins.
    pub at: usize,
    /// Where the Next Header field stands that announces it.
    pub named_at: usize,
}

/// A fragment header (RFC 8200 §4.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FragmentHeader {
    /// Type of the first header of the fragmentable part.
    pub next_header: u8,
    /// Bytes of the fragmentable part before this fragment, a multiple of 8.
    pub offset: u16,
    /// Do more fragments follow?
    pub more_fragments: bool,
    /// What tells the datagram from others between the same hosts.
    pub identification: u32,
}

impl FragmentHeader {
    /// Reads the header.
    #[inline]
    pub const fn parse(bytes: &[u8; FRAGMENT_HEADER_LEN]) -> Self {
        let [next_header, _, o0, o1, i0, i1, i2, i3] = *bytes;
        Self {
            next_header,
            offset: u16::from_be_bytes([o0, o1]) & !0b111,
            more_fragments: o1 & 1 != 0,
            identification: u32::from_be_bytes([i0, i1, i2, i3]),
        }
    }

    /// The header's bytes.
    #[inline]
    pub const fn to_bytes(&self) -> [u8; FRAGMENT_HEADER_LEN] {
        let [o0, o1] = (self.offset & !0b111 | self.more_fragments as u16).to_be_bytes();
        let [i0, i1, i2, i3] = self.identification.to_be_bytes();
        [self.next_header, 0, o0, o1, i0, i1, i2, i3]
    }

    /// Writes the header to the front of `bytes`.
    #[inline]
    pub fn emit(&self, bytes: &mut [u8]) -> Result<(), Truncated> {
        *bytes.first_chunk_mut().ok_or(Truncated)? = self.to_bytes();
        Ok(())
    }

    /// Is it the only fragment of its datagram (RFC 6946)?
    #[inline]
    pub const fn is_atomic(&self) -> bool {
        self.offset == 0 && !self.more_fragments
    }
}

/// Is it an extension header that we walk over? AH, mobility and the like are upper layers to us.
#[inline]
pub const fn is_extension(next_header: u8) -> bool {
    matches!(next_header, protocol::HOP_BY_HOP | protocol::ROUTING | protocol::FRAGMENT | protocol::DESTINATION_OPTIONS)
}

/// Finds the upper layer of a packet, which may be cut short, whose IPv6 header announces `first`.
#[inline]
pub(crate) fn upper_layer(packet: &[u8], first: u8) -> Result<UpperLayer, Ipv6Error> {
    if is_extension(first) {
        walk(packet, first)
    } else {
        Ok(UpperLayer { protocol: first, offset: HEADER_LEN, fragment: None })
    }
}

#[inline(never)]
fn walk(packet: &[u8], first: u8) -> Result<UpperLayer, Ipv6Error> {
    let mut headers = Headers::new(packet, first);
    let mut fragment = None;
    for header in headers.by_ref() {
        let header = header?;
        match header.kind {
            // RFC 8200 §4.4: with segments left, a routing header of a type that we don't know has the packet discarded, and we know
            // none. RFC 5095 §3 puts type 0 among those. What would be left is a packet whose destination is not where it ends.
            protocol::ROUTING => {
                let [_, _, kind, segments_left, ..] = *header.bytes else { return Err(Ipv6Error::ExtensionTruncated) };
                if segments_left != 0 {
                    return Err(Ipv6Error::SourceRoute(kind));
                }
            }
            protocol::FRAGMENT => {
                let bytes = header.bytes.first_chunk().ok_or(Ipv6Error::ExtensionTruncated)?;
                let found =
                    FoundFragment { header: FragmentHeader::parse(bytes), at: header.at, named_at: header.named_at };
                // A fragment of a fragment hides what it carries; no sender makes one.
                if fragment.replace(found).is_some() {
                    return Err(Ipv6Error::MisplacedExtension);
                }
                if found.header.offset != 0 {
                    let offset = header.at.saturating_add(FRAGMENT_HEADER_LEN);
                    return Ok(UpperLayer { protocol: found.header.next_header, offset, fragment });
                }
            }
            _ => {}
        }
    }
    Ok(UpperLayer { protocol: headers.next, offset: headers.at, fragment })
}

/// The headers that the fragments of a packet, which is none itself, all begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unfragmentable {
    /// Their length in bytes, IPv6 header included.
    pub(crate) len: usize,
    /// Where among them the last Next Header field stands.
    pub(crate) named_at: usize,
    /// What it announces: the first header of the fragmentable part.
    pub(crate) next_header: u8,
}

/// RFC 8200 §4.5: all headers up to and including the routing header if there is one, else the hop-by-hop options header if there is
/// one, else none but the IPv6 header.
pub(crate) fn unfragmentable(packet: &Packet<'_>) -> Result<Unfragmentable, Ipv6Error> {
    let first = packet.next_header();
    let mut part = Unfragmentable { len: HEADER_LEN, named_at: NEXT_HEADER_AT, next_header: first };
    let mut headers = Headers::new(packet.as_bytes(), first);
    while let Some(header) = headers.next() {
        if matches!(header?.kind, protocol::HOP_BY_HOP | protocol::ROUTING) {
            part = Unfragmentable { len: headers.at, named_at: headers.named_at, next_header: headers.next };
        }
    }
    Ok(part)
}

/// An extension header in its packet.
struct ExtensionHeader<'a> {
    kind: u8,
    /// All of it.
    bytes: &'a [u8],
    /// Where it begins, in bytes from the start of the packet.
    at: usize,
    /// Where the Next Header field stands that announces it.
    named_at: usize,
}

/// The extension headers of a packet in their order. After the last, `next` and `at` say what follows and where.
struct Headers<'a> {
    packet: &'a [u8],
    next: u8,
    at: usize,
    named_at: usize,
    count: usize,
}

impl<'a> Headers<'a> {
    const fn new(packet: &'a [u8], first: u8) -> Self {
        Self { packet, next: first, at: HEADER_LEN, named_at: NEXT_HEADER_AT, count: 0 }
    }

    fn advance(&mut self) -> Result<ExtensionHeader<'a>, Ipv6Error> {
        let rest = self.packet.get(self.at..).ok_or(Ipv6Error::ExtensionTruncated)?;
        let [next, len, ..] = *rest else { return Err(Ipv6Error::ExtensionTruncated) };
        let len = if self.next == protocol::FRAGMENT { FRAGMENT_HEADER_LEN } else { (usize::from(len) + 1) * 8 };
        // RFC 8200 §4.1: a hop-by-hop options header stands directly behind the IPv6 header.
        if self.next == protocol::HOP_BY_HOP && self.count > 0 {
            return Err(Ipv6Error::MisplacedExtension);
        }
        self.count += 1;
        let end = self.at.saturating_add(len);
        if self.count > HEADERS_MAX || end > HEADER_LEN + BYTES_MAX {
            return Err(Ipv6Error::TooManyExtensions);
        }
        let bytes = rest.get(..len).ok_or(Ipv6Error::ExtensionTruncated)?;
        let header = ExtensionHeader { kind: self.next, bytes, at: self.at, named_at: self.named_at };
        (self.next, self.named_at, self.at) = (next, self.at, end);
        Ok(header)
    }
}

impl<'a> Iterator for Headers<'a> {
    type Item = Result<ExtensionHeader<'a>, Ipv6Error>;

    fn next(&mut self) -> Option<Self::Item> {
        is_extension(self.next).then(|| self.advance())
    }
}

/// An option that says of itself that a node that doesn't know it discards the packet (RFC 8200 §4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("an IPv6 option of type {kind:#04x} that must be known")]
pub struct UnknownOption {
    /// Its type.
    pub kind: u8,
    /// Where it stands, in bytes from the start of the packet: the pointer of a parameter problem message.
    pub at: usize,
    /// May the sender be told, by a parameter problem message of code 2?
    pub report: Report,
}

/// Whether a packet's sender is told that an option is unknown (RFC 8200 §4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report {
    /// Not at all.
    Never,
    /// Only when the destination is no multicast address.
    Unicast,
    /// In any case.
    Always,
}

/// Checks the options of a packet to an address of ours: those we don't know (all but padding) must allow to be skipped.
///
/// A router looks at none of them, so what is only forwarded isn't checked.
pub fn check_options(packet: &Packet<'_>) -> Result<(), CheckError> {
    for header in Headers::new(packet.as_bytes(), packet.next_header()) {
        let header = header?;
        match header.kind {
            protocol::HOP_BY_HOP | protocol::DESTINATION_OPTIONS => check_header(&header)?,
            protocol::FRAGMENT => {
                let fragment = header.bytes.first_chunk().map(FragmentHeader::parse);
                if fragment.is_some_and(|fragment| fragment.offset != 0) {
                    return Ok(());
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Why a packet to an address of ours can't be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum CheckError {
    /// Its extension headers are malformed.
    #[error(transparent)]
    Malformed(#[from] Ipv6Error),
    /// An option that we would have to know.
    #[error(transparent)]
    UnknownOption(#[from] UnknownOption),
}

fn check_header(header: &ExtensionHeader<'_>) -> Result<(), CheckError> {
    const PAD1: u8 = 0;
    const PADN: u8 = 1;
    let mut rest = header.bytes.get(2..).unwrap_or_default();
    while let [kind, behind @ ..] = rest {
        let at = header.at.saturating_add(header.bytes.len() - rest.len());
        if *kind == PAD1 {
            rest = behind;
            continue;
        }
        let (len, data) = behind.split_first().ok_or(Ipv6Error::ExtensionTruncated)?;
        rest = data.get(usize::from(*len)..).ok_or(Ipv6Error::ExtensionTruncated)?;
        // RFC 8200 §4.2: the two highest-order bits of an option type say what to do with an unrecognized option.
        let report = match kind >> 6 {
            _ if *kind == PADN => continue,
            0b00 => continue,
            0b01 => Report::Never,
            0b10 => Report::Always,
            _ => Report::Unicast,
        };
        return Err(UnknownOption { kind: *kind, at, report }.into());
    }
    Ok(())
}
