//! The IP packets of flows: built, and looked into.

use std::net::IpAddr;

use thiserror::Error;
use vipsec_wire::Truncated;
use vipsec_wire::checksum::Sum;
use vipsec_wire::ip::{self, Address, MixedFamilies, Version, protocol};
use vipsec_wire::tcp::{self, Flags};
use vipsec_wire::udp::{self, ChecksumState};

use crate::header::{HEADER_LEN, Header, Payload};

/// The transport of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// UDP datagrams.
    Udp,
    /// TCP segments with ACK, as of an established connection: nobody said SYN.
    Tcp,
}

impl Transport {
    const fn protocol(self) -> u8 {
        match self {
            Self::Udp => protocol::UDP,
            Self::Tcp => protocol::TCP,
        }
    }

    const fn header_len(self) -> usize {
        match self {
            Self::Udp => udp::HEADER_LEN,
            Self::Tcp => tcp::HEADER_LEN,
        }
    }
}

/// The five-tuple of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// UDP or TCP.
    pub transport: Transport,
    /// Source address and port.
    pub source: (IpAddr, u16),
    /// Destination address, of the same family, and port.
    pub destination: (IpAddr, u16),
}

/// A packet can't be built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BuildError {
    /// IPv4 here, IPv6 there.
    #[error(transparent)]
    MixedFamilies(#[from] MixedFamilies),
    /// Too short for its headers, or longer than an IP packet can be.
    #[error("the packet's length doesn't fit its headers")]
    Length(#[from] Truncated),
}

impl Tuple {
    /// The other direction of the same flow.
    #[must_use]
    pub const fn reversed(&self) -> Self {
        Self { transport: self.transport, source: self.destination, destination: self.source }
    }

    /// The shortest packet, in bytes from the IP header on.
    pub fn packet_len_min(&self) -> usize {
        self.version().header_len() + self.transport.header_len() + HEADER_LEN
    }

    /// The family of its addresses.
    pub const fn version(&self) -> Version {
        if self.source.0.is_ipv4() { Version::V4 } else { Version::V6 }
    }

    /// Fills `packet` with an IP packet of exactly its length that carries `header`; all checksums are right.
    pub fn emit(&self, header: &Header, packet: &mut [u8]) -> Result<(), BuildError> {
        let (source, destination) = (self.source.0, self.destination.0);
        let upper_len = packet.len().checked_sub(self.version().header_len()).ok_or(Truncated)?;
        let upper_len = u16::try_from(upper_len).map_err(|_| Truncated)?;
        let ip = ip::Repr::new(source, destination, self.transport.protocol(), upper_len)?;
        ip.emit(packet)?;
        let upper = packet.get_mut(ip.header_len()..).ok_or(Truncated)?;
        let (transport, payload) = upper.split_at_mut_checked(self.transport.header_len()).ok_or(Truncated)?;
        header.emit(payload)?;
        let ports = (self.source.1, self.destination.1);
        match self.transport {
            Transport::Udp => {
                let payload_len = u16::try_from(payload.len()).map_err(|_| Truncated)?;
                udp::Repr { source_port: ports.0, destination_port: ports.1, payload_len }.emit(transport)?;
                udp::fill_checksum(source, destination, upper)?;
            }
            Transport::Tcp => {
                *transport.first_chunk_mut().ok_or(Truncated)? = tcp_header(ports, header.sequence);
                let checksum = tcp_checksum(source.into(), destination.into(), upper);
                *upper.get_mut(16..).and_then(<[u8]>::first_chunk_mut).ok_or(Truncated)? = checksum.to_be_bytes();
            }
        }
        Ok(())
    }
}

/// Looks for a generated packet's payload in an IP packet, which padding may follow. Checksums are checked.
pub fn examine(packet: &[u8]) -> Payload {
    let Ok(ip) = ip::Header::parse(packet) else { return Payload::Foreign };
    if ip.is_fragment() {
        return Payload::Foreign;
    }
    let upper = ip.payload(packet);
    let (payload, is_right) = match ip.protocol {
        protocol::UDP => {
            let Ok(datagram) = udp::Datagram::parse(upper) else { return Payload::Foreign };
            // We always make one: without it somebody changed the packet.
            (datagram.payload(), datagram.checksum_state(ip.source, ip.destination) == ChecksumState::Right)
        }
        protocol::TCP => {
            let Ok(segment) = tcp::Segment::parse(upper) else { return Payload::Foreign };
            (segment.payload(), tcp_checksum(ip.source, ip.destination, upper) == 0)
        }
        _ => return Payload::Foreign,
    };
    match Header::parse(payload) {
        Payload::Generated(header) if is_right => Payload::Generated(header),
        Payload::Generated(_) | Payload::Corrupted => Payload::Corrupted,
        Payload::Foreign => Payload::Foreign,
    }
}

/// Sends a UDP or TCP packet back where it came from, in place: addresses and ports change sides, which leaves every checksum right.
/// `false`: it is something else, and unchanged.
pub fn reflect(packet: &mut [u8]) -> bool {
    let Ok(ip) = ip::Header::parse(packet) else { return false };
    if ip.is_fragment() || !matches!(ip.protocol, protocol::UDP | protocol::TCP) || ip.payload_len() < 4 {
        return false;
    }
    let (addresses_at, len) = match ip.version() {
        Version::V4 => (12, 4),
        Version::V6 => (8, 16),
    };
    swap_halves(packet, addresses_at, len) && swap_halves(packet, ip.header_len, 2)
}

/// Swaps two neighbouring fields of `len` bytes each, the first at `at`.
pub(crate) fn swap_halves(bytes: &mut [u8], at: usize, len: usize) -> bool {
    let halves = bytes.get_mut(at..at + 2 * len).and_then(|fields| fields.split_at_mut_checked(len));
    let Some((first, second)) = halves else { return false };
    first.swap_with_slice(second);
    true
}

fn tcp_header((source, destination): (u16, u16), sequence: u64) -> [u8; tcp::HEADER_LEN] {
    let ([s0, s1], [d0, d1]) = (source.to_be_bytes(), destination.to_be_bytes());
    let [_, _, _, _, n0, n1, n2, n3] = sequence.to_be_bytes();
    const OFFSET_WITHOUT_OPTIONS: u8 = (tcp::HEADER_LEN as u8 / 4) << 4;
    [s0, s1, d0, d1, n0, n1, n2, n3, 0, 0, 0, 0, OFFSET_WITHOUT_OPTIONS, Flags::ACK.0, 0xff, 0xff, 0, 0, 0, 0]
}

/// Over a segment and its pseudo-header; 0 if it contains its checksum, and that is right.
fn tcp_checksum(source: Address, destination: Address, segment: &[u8]) -> u16 {
    let len = u32::try_from(segment.len()).unwrap_or(u32::MAX);
    Sum::new().pseudo_header(source, destination, protocol::TCP, len).bytes(segment).finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::header::Run;
    use crate::time::Stamp;
    use proptest::prelude::*;

    pub(crate) fn tuple(transport: Transport, source: &str, destination: &str) -> Tuple {
        Tuple { transport, source: (source.parse().unwrap(), 1024), destination: (destination.parse().unwrap(), 9) }
    }

    fn header() -> Header {
        Header::new(Run(3), 5, 0x1234_5678_9abc, Stamp::from_nanos(77))
    }

    fn tuples() -> [Tuple; 4] {
        use Transport::{Tcp, Udp};
        [
            tuple(Udp, "10.9.0.1", "192.0.2.1"),
            tuple(Tcp, "10.9.0.1", "192.0.2.1"),
            tuple(Udp, "2001:db8::9", "2001:db8::1"),
            tuple(Tcp, "2001:db8::9", "2001:db8::1"),
        ]
    }

    fn packet(tuple: &Tuple, len: usize) -> Vec<u8> {
        let mut packet = vec![0xee; len];
        tuple.emit(&header(), &mut packet).unwrap();
        packet
    }

    #[test]
    fn testpmds_default_length_holds_an_ipv4_datagram() {
        assert_eq!(tuples().map(|tuple| tuple.packet_len_min()), [50, 62, 70, 82]);
        for tuple in tuples() {
            let mut short = vec![0; tuple.packet_len_min() - 1];
            assert_eq!(tuple.emit(&header(), &mut short), Err(BuildError::Length(Truncated)));
            let _ = packet(&tuple, tuple.packet_len_min());
        }
    }

    #[test]
    fn what_is_built_is_found_again_also_behind_padding() {
        for tuple in tuples() {
            for len in [tuple.packet_len_min(), 101, 1500] {
                let mut packet = packet(&tuple, len);
                packet.extend([0; 7]);
                assert_eq!(examine(&packet), Payload::Generated(header()), "{tuple:?}, {len} bytes");
            }
        }
    }

    #[test]
    fn a_flipped_bit_is_corruption_wherever_a_checksum_or_the_fill_covers_it() {
        for tuple in tuples() {
            let good = packet(&tuple, 120);
            let payload_at = 120 - HEADER_LEN - (120 - tuple.packet_len_min());
            for at in payload_at + 2..120 {
                let mut bad = good.clone();
                bad[at] ^= 1;
                assert_eq!(examine(&bad), Payload::Corrupted, "{tuple:?}, byte {at}");
            }
            let mut unmarked = good.clone();
            unmarked[payload_at] ^= 1;
            assert_eq!(examine(&unmarked), Payload::Foreign);
        }
    }

    #[test]
    fn a_datagram_without_a_checksum_is_not_as_we_sent_it() {
        let mut packet = packet(&tuples()[0], 100);
        packet[26..28].copy_from_slice(&[0, 0]);
        assert_eq!(examine(&packet), Payload::Corrupted);
    }

    #[test]
    fn a_reflected_packet_is_the_one_that_the_other_side_would_send() {
        for tuple in tuples() {
            let mut there = packet(&tuple, 100);
            assert!(reflect(&mut there));
            assert_eq!(there, packet(&tuple.reversed(), 100));
        }
    }

    #[test]
    fn only_udp_and_tcp_are_reflected() {
        let mut packet = packet(&tuples()[2], 100);
        packet[6] = protocol::ICMPV6;
        let before = packet.clone();
        assert!(!reflect(&mut packet) && !reflect(&mut [0x45; 19]));
        assert_eq!(packet, before);
    }

    proptest! {
        #[test]
        fn never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..120), version in 0usize..3) {
            if let Some(first) = bytes.first_mut() {
                *first = [0x45, 0x60, *first][version];
            }
            let _ = examine(&bytes);
            let _ = reflect(&mut bytes);
        }
    }
}
