//! The Traffic Selector payload (RFC 7296 §3.13).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::reader::Reader;
use super::{ParseError, sa::patch_length};
use crate::selector::TrafficSelector;

const TS_IPV4_ADDR_RANGE: u8 = 7;
const TS_IPV6_ADDR_RANGE: u8 = 8;

pub(super) fn parse_selectors(mut reader: Reader<'_>) -> Result<Vec<TrafficSelector>, ParseError> {
    let count = reader.u8()?;
    reader.take(3)?;
    let mut selectors = Vec::new();
    for _ in 0..count {
        let kind = reader.u8()?;
        let protocol = reader.u8()?;
        let length = reader.u16()?;
        let mut body = reader.body(length, 4)?;
        let selector = match kind {
            TS_IPV4_ADDR_RANGE => {
                let ports = (body.u16()?, body.u16()?);
                let first = IpAddr::from(Ipv4Addr::from(body.u32()?));
                TrafficSelector { protocol, ports, first, last: IpAddr::from(Ipv4Addr::from(body.u32()?)) }
            }
            TS_IPV6_ADDR_RANGE => {
                let ports = (body.u16()?, body.u16()?);
                let first = ipv6(&mut body)?;
                TrafficSelector { protocol, ports, first, last: ipv6(&mut body)? }
            }
            // RFC 7296 §2.9: an unknown type of traffic selector is ignored.
            _ => continue,
        };
        if !body.is_empty() {
            return Err(ParseError::BadLength);
        }
        selectors.push(selector);
    }
    if reader.is_empty() { Ok(selectors) } else { Err(ParseError::BadLength) }
}

fn ipv6(reader: &mut Reader<'_>) -> Result<IpAddr, ParseError> {
    let high = u128::from(reader.u64()?);
    let low = u128::from(reader.u64()?);
    Ok(IpAddr::from(Ipv6Addr::from(high << 64 | low)))
}

pub(super) fn encode_selectors(selectors: &[TrafficSelector], out: &mut Vec<u8>) {
    out.extend_from_slice(&[u8::try_from(selectors.len()).unwrap_or(u8::MAX), 0, 0, 0]);
    for selector in selectors {
        let start = out.len();
        let kind = if selector.first.is_ipv4() { TS_IPV4_ADDR_RANGE } else { TS_IPV6_ADDR_RANGE };
        out.extend_from_slice(&[kind, selector.protocol, 0, 0]);
        out.extend_from_slice(&selector.ports.0.to_be_bytes());
        out.extend_from_slice(&selector.ports.1.to_be_bytes());
        for address in [selector.first, selector.last] {
            match address {
                IpAddr::V4(address) => out.extend_from_slice(&address.octets()),
                IpAddr::V6(address) => out.extend_from_slice(&address.octets()),
            }
        }
        patch_length(out, start);
    }
}
