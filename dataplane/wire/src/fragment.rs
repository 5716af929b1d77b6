//! Splitting a packet that is larger than an MTU: IPv4 (RFC 791 §3.2), and IPv6 at its source (RFC 8200 §4.5).

use arrayvec::ArrayVec;
use thiserror::Error;

use crate::buffer::{BufferPool, NoRoom, PacketBuf};
use crate::checksum::Sum;
use crate::ip::{IpError, Version, protocol};
use crate::ipv6::FragmentHeader;
use crate::ipv6::extension::{self, FRAGMENT_HEADER_LEN};
use crate::{Truncated, ipv4, ipv6};

/// Fragments are counted in units of that many bytes.
pub const UNIT: usize = 8;

/// Longest IPv4 header in bytes.
const HEADER_LEN_MAX: usize = 60;

/// Why a packet can't be split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FragmentError {
    /// It is malformed.
    #[error(transparent)]
    Malformed(#[from] IpError),
    /// It may not be: IPv4 with DF set, or an IPv6 packet that is a fragment already.
    #[error("the packet may not be fragmented")]
    Forbidden,
    /// It fits as it is.
    #[error("the packet fits without fragmentation")]
    Fits,
    /// The MTU has no room for the headers and eight bytes.
    #[error("the MTU is too small for fragments")]
    MtuTooSmall,
}

/// Why there is no next piece. The rest is lost; what went before times out at the receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PieceError {
    /// The pool has no free buffer.
    #[error("no free packet buffer")]
    PoolEmpty,
    /// A buffer is smaller than a piece.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
}

impl From<Truncated> for PieceError {
    fn from(_: Truncated) -> Self {
        Self::NoRoom(NoRoom)
    }
}

/// The pieces of a packet, made one by one.
#[derive(Debug)]
pub struct Fragments<'a> {
    headers: Headers<'a>,
    /// The fragmentable part, and how much of it is out.
    payload: &'a [u8],
    done: usize,
    mtu: usize,
}

#[derive(Debug)]
enum Headers<'a> {
    V4 {
        /// The header with all options, for the first piece.
        first: &'a [u8],
        /// With those options that are copied, for the others.
        later: ArrayVec<u8, HEADER_LEN_MAX>,
        /// What the packet is itself of its datagram: its offset in bytes, and whether more follow.
        offset: usize,
        more: bool,
    },
    V6 {
        /// The headers that each piece repeats.
        unfragmentable: &'a [u8],
        /// Where among them the Next Header field stands that will announce the fragment header.
        named_at: usize,
        /// What it announced.
        next_header: u8,
        identification: u32,
    },
}

impl<'a> Fragments<'a> {
    /// Prepares to split a packet of either family for an MTU in bytes. `packet` may be longer than its total length.
    ///
    /// `identification` is for IPv6, and must differ from that of other datagrams between the same hosts; an IPv4 packet has its own.
    pub fn new(packet: &'a [u8], mtu: usize, identification: u32) -> Result<Self, FragmentError> {
        match Version::of(packet) {
            Some(Version::V4) => Self::of_v4(packet, mtu),
            Some(Version::V6) => Self::of_v6(packet, mtu, identification),
            None => Err(packet.first().map_or(IpError::Empty, |first| IpError::Version(first >> 4)).into()),
        }
    }

    fn of_v4(packet: &'a [u8], mtu: usize) -> Result<Self, FragmentError> {
        let packet = ipv4::Packet::parse(packet).map_err(IpError::from)?;
        if packet.total_len() <= mtu {
            return Err(FragmentError::Fits);
        }
        // RFC 791 §2.3: "If the Don't Fragment flag bit is set, then internet fragmentation of this datagram is NOT permitted".
        if packet.dont_fragment() {
            return Err(FragmentError::Forbidden);
        }
        if mtu < packet.header_len() + UNIT {
            return Err(FragmentError::MtuTooSmall);
        }
        let first = packet.as_bytes().get(..packet.header_len()).unwrap_or_default();
        let headers = Headers::V4 {
            first,
            later: header_of_later(first),
            offset: packet.fragment_offset(),
            more: packet.more_fragments(),
        };
        Ok(Self { headers, payload: packet.payload(), done: 0, mtu })
    }

    fn of_v6(packet: &'a [u8], mtu: usize, identification: u32) -> Result<Self, FragmentError> {
        let packet = ipv6::Packet::parse(packet).map_err(IpError::from)?;
        if packet.total_len() <= mtu {
            return Err(FragmentError::Fits);
        }
        // A second fragment header would make a fragment of a fragment.
        if packet.upper_layer().map_err(IpError::from)?.fragment.is_some() {
            return Err(FragmentError::Forbidden);
        }
        let part = extension::unfragmentable(&packet).map_err(IpError::from)?;
        let (unfragmentable, payload) =
            packet.as_bytes().split_at_checked(part.len).ok_or(IpError::V6(ipv6::Ipv6Error::ExtensionTruncated))?;
        if mtu < part.len + FRAGMENT_HEADER_LEN + UNIT {
            return Err(FragmentError::MtuTooSmall);
        }
        let (named_at, next_header) = (part.named_at, part.next_header);
        let headers = Headers::V6 { unfragmentable, named_at, next_header, identification };
        Ok(Self { headers, payload, done: 0, mtu })
    }

    /// The next piece, in a buffer from the pool. `None`: that was all.
    pub fn next<P: BufferPool>(&mut self, pool: &mut P) -> Option<Result<P::Buf, PieceError>> {
        let rest = self.payload.get(self.done..).filter(|rest| !rest.is_empty())?;
        let room = self.mtu.saturating_sub(self.headers.len(self.done));
        let len = if rest.len() <= room { rest.len() } else { room / UNIT * UNIT };
        let piece = rest.get(..len)?;
        let is_last = len == rest.len();
        let offset = self.done;
        self.done += len;
        Some(self.write(pool, offset, piece, is_last))
    }

    fn write<P: BufferPool>(
        &self,
        pool: &mut P,
        offset: usize,
        piece: &[u8],
        is_last: bool,
    ) -> Result<P::Buf, PieceError> {
        let headers_len = self.headers.len(offset);
        let mut buffer = pool.alloc().ok_or(PieceError::PoolEmpty)?;
        buffer.append(headers_len + piece.len())?;
        let (front, back) = buffer.data_mut().split_at_mut_checked(headers_len).ok_or(Truncated)?;
        back.copy_from_slice(piece);
        self.headers.write(front, offset, piece.len(), is_last)?;
        Ok(buffer)
    }
}

impl Headers<'_> {
    /// Length of the headers of the piece at this offset.
    fn len(&self, offset: usize) -> usize {
        match self {
            Self::V4 { first, .. } if offset == 0 => first.len(),
            Self::V4 { later, .. } => later.len(),
            Self::V6 { unfragmentable, .. } => unfragmentable.len() + FRAGMENT_HEADER_LEN,
        }
    }

    fn write(&self, to: &mut [u8], offset: usize, piece_len: usize, is_last: bool) -> Result<(), Truncated> {
        let total_len = to.len() + piece_len;
        match self {
            Self::V4 { first, later, offset: before, more } => {
                to.copy_from_slice(if offset == 0 { first } else { later });
                // A fragment that is split keeps its place in the datagram, and only its last piece may be the last.
                let place =
                    ((before + offset) / UNIT) as u16 | if *more || !is_last { ipv4::MORE_FRAGMENTS } else { 0 };
                let header = to.first_chunk_mut::<{ ipv4::HEADER_LEN }>().ok_or(Truncated)?;
                header[2..4].copy_from_slice(&(total_len as u16).to_be_bytes());
                header[6..8].copy_from_slice(&place.to_be_bytes());
                header[10..12].copy_from_slice(&[0, 0]);
                let checksum = Sum::new().bytes(to).finish();
                to.first_chunk_mut::<{ ipv4::HEADER_LEN }>().ok_or(Truncated)?[10..12]
                    .copy_from_slice(&checksum.to_be_bytes());
                Ok(())
            }
            Self::V6 { unfragmentable, named_at, next_header, identification } => {
                let (front, back) = to.split_at_mut_checked(unfragmentable.len()).ok_or(Truncated)?;
                front.copy_from_slice(unfragmentable);
                *front.get_mut(*named_at).ok_or(Truncated)? = protocol::FRAGMENT;
                ipv6::set_payload_len(front, (total_len - ipv6::HEADER_LEN) as u16)?;
                let header = FragmentHeader {
                    next_header: *next_header,
                    offset: offset as u16,
                    more_fragments: !is_last,
                    identification: *identification,
                };
                header.emit(back)
            }
        }
    }
}

/// The header of pieces other than the first: fixed part and those options whose copied flag is set (RFC 791 §3.1), padded.
fn header_of_later(first: &[u8]) -> ArrayVec<u8, HEADER_LEN_MAX> {
    let mut later = ArrayVec::new();
    // All of it fits: the header that it is taken from is no longer.
    let _ = later.try_extend_from_slice(first.get(..ipv4::HEADER_LEN).unwrap_or_default());
    let is_copied = |option: &&[u8]| option.first().is_some_and(|kind| kind & ipv4::option::COPIED != 0);
    for option in ipv4::Options::of(first).map_while(Result::ok).filter(is_copied) {
        let _ = later.try_extend_from_slice(option);
    }
    while !later.len().is_multiple_of(4) && later.try_push(ipv4::option::END).is_ok() {}
    let words = (later.len() / 4) as u8;
    if let Some(first) = later.first_mut() {
        *first = 0x40 | words;
    }
    later
}
