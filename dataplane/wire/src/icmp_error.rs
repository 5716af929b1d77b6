//! ICMP errors of both families as whole packets, and who may be told.

use thiserror::Error;

use crate::Truncated;
use crate::buffer::{NoRoom, PacketBuf};
use crate::ip::{self, Address, Header, IpError, MixedFamilies, Version, protocol};
use crate::{icmp, icmpv6, ipv6};

/// What is wrong with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    /// It is larger than the next hop's MTU and may not be fragmented (RFC 1191 §4, RFC 4443 §3.2).
    TooBig {
        /// That MTU in bytes.
        mtu: u32,
    },
    /// Its time to live ran out here.
    TtlExpired,
    /// Its other fragments didn't come.
    ReassemblyTimedOut,
    /// No route leads to its destination.
    NoRoute,
    /// Its destination doesn't answer.
    HostUnreachable,
    /// Policy forbids it.
    Prohibited,
    /// Nothing serves its destination port.
    PortUnreachable,
    /// An IPv6 option that had to be known (RFC 4443 §3.4).
    UnknownOption {
        /// Where it stands, in bytes from the start of the packet.
        at: u32,
    },
}

/// Why there is no ICMP error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum WriteError {
    /// The offending packet is malformed.
    #[error(transparent)]
    Malformed(#[from] IpError),
    /// The sender of the error is of another family than the packet.
    #[error(transparent)]
    MixedFamilies(#[from] MixedFamilies),
    /// IPv4 has no such error.
    #[error("IPv4 has no such ICMP error")]
    OtherFamily,
    /// The buffer is too small.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
}

impl From<Truncated> for WriteError {
    fn from(_: Truncated) -> Self {
        Self::NoRoom(NoRoom)
    }
}

/// May the sender of this packet be told of a problem with it (RFC 1122 §3.2.2, RFC 1812 §4.3.2.7; RFC 4443 §2.4 (e))?
///
/// That it came in a frame to one station, and not too often, is the caller's to know.
pub fn is_reportable(header: &Header, packet: &[u8], problem: Problem) -> bool {
    // The error would go to no host, or to many.
    if !header.source.is_host() {
        return false;
    }
    // RFC 4443 §2.4 (e.3): packet too big and unknown options are reported for multicast destinations, too.
    let of_multicast = matches!(problem, Problem::TooBig { .. } | Problem::UnknownOption { .. });
    if header.destination.is_multicast() && !(of_multicast && header.version() == Version::V6) {
        return false;
    }
    match (header.version(), header.has_upper_layer(), header.protocol) {
        // RFC 1122 §3.2.2: not for "a non-initial fragment".
        (Version::V4, false, _) => false,
        // Errors about errors would never end. What a later fragment is of, nobody can see.
        (_, false, protocol) => protocol != protocol::ICMPV6,
        (Version::V4, true, protocol::ICMP) => {
            header.payload(packet).first().is_some_and(|kind| !icmp::is_error(*kind))
        }
        (Version::V6, true, protocol::ICMPV6) => {
            let kind = header.payload(packet).first();
            kind.is_some_and(|kind| !icmpv6::is_error(*kind) && *kind != icmpv6::kind::REDIRECT)
        }
        _ => true,
    }
}

/// Writes the ICMP error about a packet into an empty buffer: IP header, ICMP header, and as much of the packet as such an error takes.
///
/// It goes from `source`, an address of ours, to the packet's source. Ask [`is_reportable`] first.
pub fn write<B: PacketBuf>(
    problem: Problem,
    source: Address,
    identification: u16,
    offending: &[u8],
    buffer: &mut B,
) -> Result<(), WriteError> {
    let header = Header::parse(offending)?;
    let destination = header.source;
    let (kind, code, rest) = match header.version() {
        Version::V4 => fields_v4(problem).ok_or(WriteError::OtherFamily)?,
        Version::V6 => fields_v6(problem),
    };
    let (protocol, quote_max) = match header.version() {
        Version::V4 => (protocol::ICMP, icmp::QUOTE_MAX),
        Version::V6 => (protocol::ICMPV6, icmpv6::QUOTE_MAX),
    };
    let quote = offending.get(..header.total_len.min(quote_max)).unwrap_or(offending);
    let message_len = icmp::HEADER_LEN + quote.len();
    let outer = ip::Repr::new(source, destination, protocol, message_len as u16)?
        .with_identification(identification)
        .with_traffic_class(TRAFFIC_CLASS);
    buffer.append(outer.header_len() + message_len)?;
    let (front, message) = buffer.data_mut().split_at_mut_checked(outer.header_len()).ok_or(Truncated)?;
    outer.emit(front)?;
    message.get_mut(icmp::HEADER_LEN..).ok_or(Truncated)?.copy_from_slice(quote);
    match header.version() {
        Version::V4 => icmp::emit_error(kind, code, rest, message)?,
        Version::V6 => icmpv6::emit_error(kind, code, rest, source, destination, message)?,
    }
    Ok(())
}

/// RFC 1812 §4.3.2.5: ICMP errors have precedence 6, internetwork control: DSCP CS6 (RFC 2474 §4.2.2).
const TRAFFIC_CLASS: u8 = 0xc0;

fn fields_v4(problem: Problem) -> Option<(u8, u8, [u8; 4])> {
    use icmp::{code, kind};
    Some(match problem {
        Problem::TooBig { mtu } => {
            let [m0, m1] = u16::try_from(mtu).unwrap_or(u16::MAX).to_be_bytes();
            (kind::UNREACHABLE, code::FRAGMENTATION_NEEDED, [0, 0, m0, m1])
        }
        Problem::TtlExpired => (kind::TIME_EXCEEDED, code::IN_TRANSIT, [0; 4]),
        Problem::ReassemblyTimedOut => (kind::TIME_EXCEEDED, code::REASSEMBLY, [0; 4]),
        Problem::NoRoute => (kind::UNREACHABLE, code::NET_UNREACHABLE, [0; 4]),
        Problem::HostUnreachable => (kind::UNREACHABLE, code::HOST_UNREACHABLE, [0; 4]),
        Problem::Prohibited => (kind::UNREACHABLE, code::PROHIBITED, [0; 4]),
        Problem::PortUnreachable => (kind::UNREACHABLE, code::PORT_UNREACHABLE, [0; 4]),
        Problem::UnknownOption { .. } => return None,
    })
}

fn fields_v6(problem: Problem) -> (u8, u8, [u8; 4]) {
    use icmpv6::{code, kind};
    match problem {
        // RFC 8200 §5: no link has a smaller MTU, and senders take no smaller one.
        Problem::TooBig { mtu } => (kind::PACKET_TOO_BIG, 0, mtu.max(ipv6::MTU_MIN as u32).to_be_bytes()),
        Problem::TtlExpired => (kind::TIME_EXCEEDED, code::IN_TRANSIT, [0; 4]),
        Problem::ReassemblyTimedOut => (kind::TIME_EXCEEDED, code::REASSEMBLY, [0; 4]),
        Problem::NoRoute => (kind::UNREACHABLE, code::NO_ROUTE, [0; 4]),
        Problem::HostUnreachable => (kind::UNREACHABLE, code::ADDRESS_UNREACHABLE, [0; 4]),
        Problem::Prohibited => (kind::UNREACHABLE, code::PROHIBITED, [0; 4]),
        Problem::PortUnreachable => (kind::UNREACHABLE, code::PORT_UNREACHABLE, [0; 4]),
        Problem::UnknownOption { at } => (kind::PARAMETER_PROBLEM, code::UNKNOWN_OPTION, at.to_be_bytes()),
    }
}
