//! A datagram on its way to being whole: the buffer that it is put together in.

use arrayvec::ArrayVec;
use vipsec_wire::buffer::PacketBuf;
use vipsec_wire::ip::{self, Ecn, Version, protocol};
use vipsec_wire::ipv6::extension::FRAGMENT_HEADER_LEN;
use vipsec_wire::ipv6::{self, FragmentHeader};
use vipsec_wire::{Truncated, ipv4};

use super::piece::Piece;
use super::{FRAGMENTS_MAX, Reason};

/// Where a fragment's payload lies in the fragmentable part, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    start: u16,
    end: u16,
}

/// The headers of the first fragment, once it is there.
#[derive(Debug, Clone, Copy)]
struct Headers {
    len: usize,
    named_at: usize,
    /// Length of the first fragment's payload.
    first_len: usize,
}

#[derive(Debug)]
pub(super) struct Assembly<B> {
    /// Room for the headers, and behind it the fragmentable part as far as it came. What lies between its ranges is unspecified.
    buffer: B,
    /// Where in the buffer the fragmentable part begins.
    base: usize,
    version: Version,
    headers: Option<Headers>,
    /// What came, in order of arrival. None overlap.
    ranges: ArrayVec<Range, FRAGMENTS_MAX>,
    /// Bytes that came.
    received: usize,
    /// Length of the fragmentable part, once the last fragment is there.
    end: Option<usize>,
    experienced_congestion: bool,
    ecn_capable: bool,
}

impl<B: PacketBuf> Assembly<B> {
    /// A datagram of which this is the first to come, in an empty buffer.
    pub(super) fn new(mut buffer: B, piece: &Piece<'_>) -> Result<Self, Reason> {
        // The pool's headroom is for what the datagram will be wrapped in; its own headers get room of their own.
        let base = match piece.version {
            _ if piece.offset == 0 => piece.headers.len(),
            Version::V4 => ipv4::HEADER_LEN,
            Version::V6 => ipv6::HEADER_LEN + FRAGMENT_HEADER_LEN,
        };
        buffer.append(base).map_err(|_| Reason::TooLarge)?;
        let mut assembly = Self {
            buffer,
            base,
            version: piece.version,
            headers: None,
            ranges: ArrayVec::new(),
            received: 0,
            end: None,
            experienced_congestion: false,
            ecn_capable: true,
        };
        assembly.add(piece)?;
        Ok(assembly)
    }

    /// How many fragments came.
    pub(super) fn fragments(&self) -> usize {
        self.ranges.len()
    }

    /// Is nothing missing?
    pub(super) fn is_complete(&self) -> bool {
        // Ranges don't overlap and end within the datagram, so they fill it when their lengths sum up to its own.
        self.headers.is_some() && self.end == Some(self.received)
    }

    /// Puts a fragment in its place. Errors other than [`Reason::Duplicate`] leave a datagram that is of no more use.
    pub(super) fn add(&mut self, piece: &Piece<'_>) -> Result<(), Reason> {
        let range = Range { start: piece.offset as u16, end: piece.end() as u16 };
        if let Some(other) = self.ranges.iter().find(|other| other.start < range.end && range.start < other.end) {
            return Err(if *other == range && self.holds(piece) { Reason::Duplicate } else { Reason::Overlap });
        }
        let known_end = self.end.unwrap_or(usize::from(u16::MAX));
        let beyond = self.ranges.iter().any(|other| piece.is_last && other.end > range.end);
        if piece.end() > known_end || (piece.is_last && self.end.is_some()) || beyond {
            return Err(Reason::EndConflict);
        }
        if self.ranges.is_full() {
            return Err(Reason::TooManyFragments);
        }
        self.write(piece).ok_or(Reason::TooLarge)?;
        self.ranges.push(range);
        self.received += piece.payload.len();
        if piece.is_last {
            self.end = Some(piece.end());
        }
        self.experienced_congestion |= piece.ecn == Ecn::Ce;
        self.ecn_capable &= piece.ecn != Ecn::NotEct;
        Ok(())
    }

    /// Is this fragment, whose range came before, equal to what came?
    fn holds(&self, piece: &Piece<'_>) -> bool {
        let start = self.base + piece.offset;
        let same_end = piece.is_last == (self.end == Some(piece.end()));
        same_end && self.buffer.data().get(start..start + piece.payload.len()) == Some(piece.payload)
    }

    /// Copies payload and, from the first fragment, headers. `None`: the buffer is too small.
    fn write(&mut self, piece: &Piece<'_>) -> Option<()> {
        if piece.offset == 0 {
            let more = piece.headers.len().saturating_sub(self.base);
            self.buffer.prepend(more).ok()?;
            self.base += more;
            let start = self.base.checked_sub(piece.headers.len())?;
            self.buffer.data_mut().get_mut(start..self.base)?.copy_from_slice(piece.headers);
            let (len, first_len) = (piece.headers.len(), piece.payload.len());
            self.headers = Some(Headers { len, named_at: piece.named_at, first_len });
        }
        let (start, end) = (self.base + piece.offset, self.base + piece.end());
        let missing = end.saturating_sub(self.buffer.data().len());
        self.buffer.append(missing).ok()?;
        self.buffer.data_mut().get_mut(start..end)?.copy_from_slice(piece.payload);
        Some(())
    }

    /// The first fragment, if it is there, as it came.
    pub(super) fn into_first_fragment(mut self) -> Option<B> {
        let headers = self.headers?;
        let behind = self.buffer.data().len().checked_sub(self.base + headers.first_len)?;
        self.buffer.trim_back(behind).ok()?;
        self.buffer.trim_front(self.base.checked_sub(headers.len)?).ok()?;
        Some(self.buffer)
    }

    /// The whole packet, as if it had never been fragmented.
    pub(super) fn into_packet(mut self) -> Result<B, Reason> {
        let headers = self.headers.ok_or(Reason::Malformed)?;
        // RFC 3168 §5.3: a mark of congestion is not lost, and not put on a packet some fragment of which was not ECN-capable.
        if self.experienced_congestion && !self.ecn_capable {
            return Err(Reason::Congestion);
        }
        self.buffer.trim_front(self.base.saturating_sub(headers.len)).map_err(|_| Reason::Malformed)?;
        match self.version {
            Version::V4 => finish_v4(self.buffer.data_mut())?,
            Version::V6 => finish_v6(&mut self.buffer, &headers)?,
        }
        if self.experienced_congestion {
            ip::set_ecn(self.buffer.data_mut(), Ecn::Ce).map_err(|_| Reason::Malformed)?;
        }
        Ok(self.buffer)
    }
}

impl From<Truncated> for Reason {
    fn from(_: Truncated) -> Self {
        Self::Malformed
    }
}

fn finish_v4(packet: &mut [u8]) -> Result<(), Reason> {
    let total_len = u16::try_from(packet.len()).map_err(|_| Reason::TooLong)?;
    Ok(ipv4::set_unfragmented(packet, total_len)?)
}

/// RFC 8200 §4.5: the fragment header goes, and what announced it announces what followed it.
fn finish_v6<B: PacketBuf>(buffer: &mut B, headers: &Headers) -> Result<(), Reason> {
    let bytes = buffer.data_mut();
    let fragment_at = headers.len.checked_sub(FRAGMENT_HEADER_LEN).ok_or(Reason::Malformed)?;
    let fragment =
        bytes.get(fragment_at..headers.len).and_then(|bytes| bytes.first_chunk()).ok_or(Reason::Malformed)?;
    let next_header = FragmentHeader::parse(fragment).next_header;
    let named = bytes.get_mut(headers.named_at).filter(|named| **named == protocol::FRAGMENT);
    *named.ok_or(Reason::Malformed)? = next_header;
    bytes.get_mut(..headers.len).ok_or(Reason::Malformed)?.copy_within(..fragment_at, FRAGMENT_HEADER_LEN);
    buffer.trim_front(FRAGMENT_HEADER_LEN).map_err(|_| Reason::Malformed)?;
    let payload_len = buffer.data().len().checked_sub(ipv6::HEADER_LEN).ok_or(Reason::Malformed)?;
    let payload_len = u16::try_from(payload_len).map_err(|_| Reason::TooLong)?;
    Ok(ipv6::set_payload_len(buffer.data_mut(), payload_len)?)
}
