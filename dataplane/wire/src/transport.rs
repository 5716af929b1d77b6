//! What selectors and connections look at in the upper layer: ports, TCP flags, ICMP type and code.

use thiserror::Error;

use crate::icmp;
use crate::ip::{Header, protocol};
use crate::tcp::{self, Flags, TcpError};
use crate::udp;

/// The upper layer's header is malformed or cut short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the upper-layer header is malformed")]
pub struct Malformed;

/// The fields of the upper layer that tell packets apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp {
        /// Source and destination port.
        ports: (u16, u16),
        /// Control bits.
        flags: Flags,
    },
    /// UDP.
    Udp {
        /// Source and destination port.
        ports: (u16, u16),
    },
    /// Another protocol that begins with ports: SCTP, DCCP, UDP-Lite.
    Ports {
        /// Source and destination port.
        ports: (u16, u16),
    },
    /// ICMP of either family; its checksum is not verified here.
    Icmp {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
    },
    /// A protocol without ports.
    Other,
    /// A fragment that doesn't have the upper layer's header.
    Opaque,
}

impl Transport {
    /// Reads the upper layer of a packet, given the header that was read from it.
    #[inline]
    pub fn parse(header: &Header, packet: &[u8]) -> Result<Self, Malformed> {
        match header.fragment {
            None => Self::of(header.protocol, header.payload(packet)),
            // The first fragment has the header, but lengths in it are those of the whole datagram.
            Some(fragment) if fragment.offset == 0 => Self::of_first(header.protocol, header.payload(packet)),
            Some(_) => Ok(Self::Opaque),
        }
    }

    #[inline]
    fn of(protocol: u8, payload: &[u8]) -> Result<Self, Malformed> {
        match protocol {
            protocol::TCP => {
                let segment = tcp::Segment::parse(payload).map_err(|_: TcpError| Malformed)?;
                Ok(Self::Tcp { ports: (segment.source_port(), segment.destination_port()), flags: segment.flags() })
            }
            protocol::UDP => {
                let datagram = udp::Datagram::parse(payload).map_err(|_| Malformed)?;
                Ok(Self::Udp { ports: (datagram.source_port(), datagram.destination_port()) })
            }
            _ => Self::of_first(protocol, payload),
        }
    }

    fn of_first(protocol: u8, payload: &[u8]) -> Result<Self, Malformed> {
        match protocol {
            protocol::TCP => {
                // RFC 1858 §3: a first fragment too small for the TCP header hides it from those who look.
                let header = payload.first_chunk::<{ tcp::HEADER_LEN }>().ok_or(Malformed)?;
                Ok(Self::Tcp { ports: ports(payload)?, flags: Flags(header[13]) })
            }
            protocol::UDP => Ok(Self::Udp { ports: ports(payload)? }),
            protocol::ICMP | protocol::ICMPV6 => {
                let [kind, code, ..] = *payload.first_chunk::<{ icmp::HEADER_LEN }>().ok_or(Malformed)?;
                Ok(Self::Icmp { kind, code })
            }
            _ if protocol::has_ports(protocol) => Ok(Self::Ports { ports: ports(payload)? }),
            _ => Ok(Self::Other),
        }
    }

    /// Source and destination port, where the protocol has them and the packet carries them.
    #[inline]
    pub const fn ports(&self) -> Option<(u16, u16)> {
        match *self {
            Self::Tcp { ports, .. } | Self::Udp { ports } | Self::Ports { ports } => Some(ports),
            Self::Icmp { .. } | Self::Other | Self::Opaque => None,
        }
    }

    /// What IPsec selectors compare as source and destination port: for ICMP, type and code stand in both (RFC 4301 §4.4.1.1).
    #[inline]
    pub const fn selector_ports(&self) -> Option<(u16, u16)> {
        match *self {
            Self::Icmp { kind, code } => {
                let type_and_code = u16::from_be_bytes([kind, code]);
                Some((type_and_code, type_and_code))
            }
            _ => self.ports(),
        }
    }

    /// The control bits of a TCP segment.
    #[inline]
    pub const fn tcp_flags(&self) -> Option<Flags> {
        match *self {
            Self::Tcp { flags, .. } => Some(flags),
            _ => None,
        }
    }
}

/// The ports in the first four bytes of an upper layer.
#[inline]
fn ports(payload: &[u8]) -> Result<(u16, u16), Malformed> {
    let [s0, s1, d0, d1] = *payload.first_chunk::<4>().ok_or(Malformed)?;
    Ok((u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1])))
}
