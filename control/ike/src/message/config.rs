//! The Configuration payload (RFC 7296 §3.15).

use std::net::{Ipv4Addr, Ipv6Addr};

use super::reader::Reader;
use super::{ParseError, len16};

/// Most attributes of one payload.
pub const CONFIG_ATTRIBUTES_MAX: usize = 64;

/// What a Configuration payload wants: its CFG Type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigKind {
    /// CFG_REQUEST.
    Request,
    /// CFG_REPLY.
    Reply,
    /// CFG_SET, CFG_ACK, or one that we don't know: ignored (RFC 7296 §3.15.1).
    Other(u8),
}

/// A configuration attribute (RFC 7296 §3.15.1); an address is missing where none is suggested.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigAttribute {
    /// INTERNAL_IP4_ADDRESS.
    Ip4Address(Option<Ipv4Addr>),
    /// INTERNAL_IP4_DNS.
    Ip4Dns(Option<Ipv4Addr>),
    /// INTERNAL_IP6_ADDRESS, with the length of its prefix.
    Ip6Address(Option<(Ipv6Addr, u8)>),
    /// INTERNAL_IP6_DNS.
    Ip6Dns(Option<Ipv6Addr>),
    /// One that we have no use for: type, value.
    Other(u16, Vec<u8>),
}

/// A Configuration payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigPayload {
    /// What it wants.
    pub kind: ConfigKind,
    /// Attributes.
    pub attributes: Vec<ConfigAttribute>,
}

const IP4_ADDRESS: u16 = 1;
const IP4_DNS: u16 = 3;
const IP6_ADDRESS: u16 = 8;
const IP6_DNS: u16 = 10;

impl ConfigKind {
    const fn get(self) -> u8 {
        match self {
            Self::Request => 1,
            Self::Reply => 2,
            Self::Other(n) => n,
        }
    }
}

pub(super) fn parse_config(mut body: Reader<'_>) -> Result<ConfigPayload, ParseError> {
    let kind = match body.u8()? {
        1 => ConfigKind::Request,
        2 => ConfigKind::Reply,
        n => ConfigKind::Other(n),
    };
    body.take(3)?;
    let mut attributes = Vec::new();
    while !body.is_empty() {
        if attributes.len() == CONFIG_ATTRIBUTES_MAX {
            return Err(ParseError::TooMany);
        }
        // RFC 7296 §3.15.1: the reserved bit MUST be ignored.
        let attribute = body.u16()? & 0x7fff;
        let length = usize::from(body.u16()?);
        attributes.push(parse_attribute(attribute, body.take(length)?)?);
    }
    Ok(ConfigPayload { kind, attributes })
}

fn parse_attribute(kind: u16, value: &[u8]) -> Result<ConfigAttribute, ParseError> {
    fn optional<const N: usize>(value: &[u8]) -> Result<Option<[u8; N]>, ParseError> {
        match value {
            [] => Ok(None),
            _ => value.try_into().map(Some).map_err(|_| ParseError::BadLength),
        }
    }
    Ok(match kind {
        IP4_ADDRESS => ConfigAttribute::Ip4Address(optional(value)?.map(Ipv4Addr::from_octets)),
        IP4_DNS => ConfigAttribute::Ip4Dns(optional(value)?.map(Ipv4Addr::from_octets)),
        IP6_ADDRESS => ConfigAttribute::Ip6Address(match value.split_last() {
            None => None,
            Some((prefix_len, address)) => {
                let octets = <[u8; 16]>::try_from(address).map_err(|_| ParseError::BadLength)?;
                Some((octets.into(), *prefix_len))
            }
        }),
        IP6_DNS => ConfigAttribute::Ip6Dns(optional::<16>(value)?.map(Ipv6Addr::from_octets)),
        kind => ConfigAttribute::Other(kind, value.to_vec()),
    })
}

pub(super) fn encode_config(config: &ConfigPayload, out: &mut Vec<u8>) {
    out.extend_from_slice(&[config.kind.get(), 0, 0, 0]);
    for attribute in &config.attributes {
        let (kind, value) = match attribute {
            ConfigAttribute::Ip4Address(address) => (IP4_ADDRESS, address.map_or(Vec::new(), |a| a.octets().to_vec())),
            ConfigAttribute::Ip4Dns(address) => (IP4_DNS, address.map_or(Vec::new(), |a| a.octets().to_vec())),
            ConfigAttribute::Ip6Address(address) => {
                let value = |(a, len): (Ipv6Addr, u8)| [&a.octets()[..], &[len]].concat();
                (IP6_ADDRESS, address.map_or(Vec::new(), value))
            }
            ConfigAttribute::Ip6Dns(address) => (IP6_DNS, address.map_or(Vec::new(), |a| a.octets().to_vec())),
            ConfigAttribute::Other(kind, value) => (*kind, value.clone()),
        };
        out.extend_from_slice(&kind.to_be_bytes());
        out.extend_from_slice(&len16(value.len()).to_be_bytes());
        out.extend_from_slice(&value);
    }
}
