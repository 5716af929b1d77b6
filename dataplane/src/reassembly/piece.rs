//! One fragment, read.

use siphasher::sip::SipHasher13;
use vipsec_wire::ip::{Address, Ecn, Version};
use vipsec_wire::ipv6::extension::FRAGMENT_HEADER_LEN;
use vipsec_wire::{fragment, ipv4, ipv6};

use super::{Origin, Reason};

/// What tells datagrams apart: in IPv4 source, destination, protocol and identification (RFC 791 §3.2), in IPv6 all but the protocol
/// (RFC 8200 §4.5). And where they came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key {
    origin: Origin,
    source: Address,
    destination: Address,
    identification: u32,
    /// 0 in IPv6.
    protocol: u8,
}

impl Key {
    pub(super) fn hash(&self, seed: u64) -> u64 {
        const LEN: usize = 16 + 16 + 8 + 4 + 1;
        let mut bytes = [0; LEN];
        bytes[..16].copy_from_slice(&self.source.octets());
        bytes[16..32].copy_from_slice(&self.destination.octets());
        bytes[32..40].copy_from_slice(&self.origin.0.to_be_bytes());
        bytes[40..44].copy_from_slice(&self.identification.to_be_bytes());
        bytes[44] = self.protocol;
        SipHasher13::new_with_keys(seed, !seed).hash(&bytes)
    }
}

/// A fragment and its place in the datagram.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece<'a> {
    pub(super) key: Key,
    pub(super) version: Version,
    pub(super) ecn: Ecn,
    /// The headers in front of the payload; in IPv6 up to and with the fragment header.
    pub(super) headers: &'a [u8],
    /// Where among them the Next Header field stands that announces the fragment header; 0 in IPv4.
    pub(super) named_at: usize,
    /// Bytes of the fragmentable part before this one.
    pub(super) offset: usize,
    /// Its bytes of the fragmentable part.
    pub(super) payload: &'a [u8],
    /// Does it end the datagram?
    pub(super) is_last: bool,
}

impl<'a> Piece<'a> {
    pub(super) fn read(origin: Origin, packet: &'a [u8]) -> Result<Self, Reason> {
        let piece = match Version::of(packet) {
            Some(Version::V4) => Self::read_v4(origin, packet),
            Some(Version::V6) => Self::read_v6(origin, packet),
            None => Err(Reason::Malformed),
        }?;
        // RFC 8200 §4.5: a fragment whose length is no multiple of eight, and that isn't the last, is discarded.
        if piece.payload.is_empty() || (!piece.is_last && !piece.payload.len().is_multiple_of(fragment::UNIT)) {
            return Err(Reason::Length);
        }
        // RFC 8200 §4.5: so is one behind which the datagram would be longer than 65535 bytes. The rest of the headers are counted in the end.
        if piece.end() > usize::from(u16::MAX) {
            return Err(Reason::TooLong);
        }
        Ok(piece)
    }

    fn read_v4(origin: Origin, packet: &'a [u8]) -> Result<Self, Reason> {
        let packet = ipv4::Packet::parse(packet).map_err(|_| Reason::Malformed)?;
        if !packet.is_fragment() {
            return Err(Reason::NotAFragment);
        }
        let (headers, payload) = packet.as_bytes().split_at_checked(packet.header_len()).ok_or(Reason::Malformed)?;
        Ok(Self {
            key: Key {
                origin,
                source: packet.source().into(),
                destination: packet.destination().into(),
                identification: u32::from(packet.identification()),
                protocol: packet.protocol(),
            },
            version: Version::V4,
            ecn: packet.ecn(),
            headers,
            named_at: 0,
            offset: packet.fragment_offset(),
            payload,
            is_last: !packet.more_fragments(),
        })
    }

    fn read_v6(origin: Origin, packet: &'a [u8]) -> Result<Self, Reason> {
        let packet = ipv6::Packet::parse(packet).map_err(|_| Reason::Malformed)?;
        // A first fragment has all extension headers (RFC 7112 §5): the walk over them finds out.
        let upper = packet.upper_layer().map_err(|_| Reason::Malformed)?;
        let found = upper.fragment.filter(|found| !found.header.is_atomic()).ok_or(Reason::NotAFragment)?;
        let headers_len = found.at.saturating_add(FRAGMENT_HEADER_LEN);
        let (headers, payload) = packet.as_bytes().split_at_checked(headers_len).ok_or(Reason::Malformed)?;
        Ok(Self {
            key: Key {
                origin,
                source: packet.source().into(),
                destination: packet.destination().into(),
                identification: found.header.identification,
                protocol: 0,
            },
            version: Version::V6,
            ecn: packet.ecn(),
            headers,
            named_at: found.named_at,
            offset: usize::from(found.header.offset),
            payload,
            is_last: !found.header.more_fragments,
        })
    }

    /// Where it ends in the fragmentable part, in bytes.
    pub(super) const fn end(&self) -> usize {
        self.offset + self.payload.len()
    }
}
