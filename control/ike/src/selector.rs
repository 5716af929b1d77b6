//! Traffic selectors (RFC 7296 §3.13.1) and their narrowing (§2.9).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Most selectors on one side of a child SA. The count on the wire is one byte; nobody needs so many.
pub const SELECTORS_MAX: usize = 64;

/// A range of addresses of one family, a protocol, a range of ports.
///
/// From text: `10.9.0.0/16`, `192.0.2.1`, `10.0.0.1-10.0.0.9`, each optionally followed by `[protocol]` or `[protocol/port]`,
/// with `tcp`, `udp`, `icmp` or a number as protocol and `80` or `1024-2047` as port.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TrafficSelector {
    /// IP protocol; 0 is any.
    pub protocol: u8,
    /// First and last port; (0, 65535) is any.
    pub ports: (u16, u16),
    /// First address.
    pub first: IpAddr,
    /// Last address, of the same family.
    pub last: IpAddr,
}

/// Text that is no traffic selector.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is no traffic selector")]
pub struct InvalidSelector(String);

impl TrafficSelector {
    /// All protocols and ports of a prefix. `None` when the prefix length doesn't fit the address.
    pub fn prefix(address: IpAddr, len: u8) -> Option<Self> {
        let (first, last) = match address {
            IpAddr::V4(address) => {
                let host = u32::MAX.checked_shr(u32::from(len)).unwrap_or(0);
                let first = u32::from(address) & !host;
                if len > 32 {
                    return None;
                }
                (Ipv4Addr::from(first).into(), Ipv4Addr::from(first | host).into())
            }
            IpAddr::V6(address) => {
                let host = u128::MAX.checked_shr(u32::from(len)).unwrap_or(0);
                let first = u128::from(address) & !host;
                if len > 128 {
                    return None;
                }
                (Ipv6Addr::from(first).into(), Ipv6Addr::from(first | host).into())
            }
        };
        Some(Self { protocol: 0, ports: (0, u16::MAX), first, last })
    }

    /// What both selectors cover, or `None`.
    pub fn intersection(&self, other: &Self) -> Option<Self> {
        if self.first.is_ipv4() != other.first.is_ipv4() || !self.is_sound() || !other.is_sound() {
            return None;
        }
        let protocol = match (self.protocol, other.protocol) {
            (0, protocol) | (protocol, 0) => protocol,
            (a, b) if a == b => a,
            _ => return None,
        };
        let both = Self {
            protocol,
            ports: (self.ports.0.max(other.ports.0), self.ports.1.min(other.ports.1)),
            first: self.first.max(other.first),
            last: self.last.min(other.last),
        };
        both.is_sound().then_some(both)
    }

    /// Does it cover all of `other`?
    pub fn contains(&self, other: &Self) -> bool {
        self.intersection(other).as_ref() == Some(other)
    }

    /// Ranges run upwards and have one family. OPAQUE ports (65535 to 0, RFC 7296 §3.13.1) don't: we don't offer SAs for
    /// fragments alone, and such a selector matches no policy of ours.
    fn is_sound(&self) -> bool {
        self.first.is_ipv4() == self.last.is_ipv4() && self.first <= self.last && self.ports.0 <= self.ports.1
    }
}

/// Narrows what the peer proposed to what our policy allows (RFC 7296 §2.9). Empty: nothing is acceptable.
///
/// All intersections are kept, in the peer's order, so the result includes its first choice whenever the policy does.
pub fn narrow(proposed: &[TrafficSelector], policy: &[TrafficSelector]) -> Vec<TrafficSelector> {
    let mut narrowed: Vec<TrafficSelector> = Vec::new();
    for both in proposed.iter().flat_map(|theirs| policy.iter().filter_map(|ours| theirs.intersection(ours))) {
        if narrowed.len() == SELECTORS_MAX {
            break;
        }
        if !narrowed.iter().any(|other| other.contains(&both)) {
            narrowed.push(both);
        }
    }
    narrowed
}

/// Is everything in `narrowed` part of what was `proposed`? An initiator's check of the answer.
pub fn is_subset(narrowed: &[TrafficSelector], proposed: &[TrafficSelector]) -> bool {
    !narrowed.is_empty() && narrowed.iter().all(|one| proposed.iter().any(|all| all.contains(one)))
}

impl FromStr for TrafficSelector {
    type Err = InvalidSelector;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).ok_or_else(|| InvalidSelector(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<TrafficSelector> {
    let (addresses, rest) = match text.split_once('[') {
        Some((addresses, rest)) => (addresses, Some(rest.strip_suffix(']')?)),
        None => (text, None),
    };
    let mut selector = if let Some((first, last)) = addresses.split_once('-') {
        TrafficSelector { protocol: 0, ports: (0, u16::MAX), first: first.parse().ok()?, last: last.parse().ok()? }
    } else if let Some((address, len)) = addresses.split_once('/') {
        TrafficSelector::prefix(address.parse().ok()?, len.parse().ok()?)?
    } else {
        let address = addresses.parse().ok()?;
        TrafficSelector { protocol: 0, ports: (0, u16::MAX), first: address, last: address }
    };
    if let Some(rest) = rest {
        let (protocol, ports) = rest.split_once('/').unwrap_or((rest, "0-65535"));
        selector.protocol = match protocol {
            "icmp" => 1,
            "tcp" => 6,
            "udp" => 17,
            "any" => 0,
            number => number.parse().ok()?,
        };
        let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
        selector.ports = (first.parse().ok()?, last.parse().ok()?);
    }
    selector.is_sound().then_some(selector)
}

impl fmt::Display for TrafficSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = if self.first.is_ipv4() { 32 } else { 128 };
        let prefix = (0..=bits).find_map(|len| {
            let all = Self::prefix(self.first, len)?;
            (all.first == self.first && all.last == self.last).then_some(len)
        });
        match prefix {
            Some(len) => write!(f, "{}/{len}", self.first)?,
            None => write!(f, "{}-{}", self.first, self.last)?,
        }
        match (self.protocol, self.ports) {
            (0, (0, u16::MAX)) => Ok(()),
            (protocol, (0, u16::MAX)) => write!(f, "[{protocol}]"),
            (protocol, (first, last)) if first == last => write!(f, "[{protocol}/{first}]"),
            (protocol, (first, last)) => write!(f, "[{protocol}/{first}-{last}]"),
        }
    }
}

impl fmt::Debug for TrafficSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ts(text: &str) -> TrafficSelector {
        text.parse().unwrap()
    }

    #[test]
    fn text_round_trip() {
        for text in [
            "10.9.0.0/16",
            "192.0.2.1/32",
            "10.0.0.1-10.0.0.9",
            "10.0.0.0/8[6/80]",
            "::/0[17/1024-2047]",
            "0.0.0.0/0[1]",
        ] {
            assert_eq!(ts(text).to_string(), text);
        }
        assert_eq!(ts("10.9.1.2/16[tcp/80]"), ts("10.9.0.0/16[6/80]"));
        for bad in
            ["", "10.0.0.0/33", "10.0.0.9-10.0.0.1", "10.0.0.1-::1", "10.0.0.0/8[tcp", "10.0.0.0/8[tcp/9-1]", "::/129"]
        {
            assert!(bad.parse::<TrafficSelector>().is_err(), "{bad}");
        }
    }

    #[test]
    fn narrowing_keeps_the_first_choice() {
        // RFC 7296 §2.9: the example, a packet's own addresses first.
        let proposed = [ts("198.51.100.43[6/80]"), ts("198.51.100.0/24")];
        assert_eq!(narrow(&proposed, &[ts("198.51.0.0/16")]), proposed);
        assert_eq!(
            narrow(&proposed, &[ts("198.51.100.32/27"), ts("203.0.113.0/24")]),
            [ts("198.51.100.43[6/80]"), ts("198.51.100.32/27")]
        );
        assert_eq!(narrow(&proposed, &[ts("203.0.113.0/24")]), []);
        assert_eq!(narrow(&[ts("0.0.0.0/0"), ts("::/0")], &[ts("192.0.2.1/32")]), [ts("192.0.2.1/32")]);
    }

    #[test]
    fn protocols_and_ports_narrow_too() {
        assert_eq!(narrow(&[ts("10.0.0.0/8")], &[ts("10.1.0.0/16[udp/53]")]), [ts("10.1.0.0/16[udp/53]")]);
        assert_eq!(narrow(&[ts("10.0.0.0/8[tcp]")], &[ts("10.1.0.0/16[udp]")]), []);
        assert_eq!(
            narrow(&[ts("10.0.0.0/8[tcp/1-100]")], &[ts("10.0.0.0/8[tcp/80-200]")]),
            [ts("10.0.0.0/8[tcp/80-100]")]
        );
    }

    #[test]
    fn opaque_ports_match_nothing() {
        let opaque = TrafficSelector { ports: (u16::MAX, 0), ..ts("10.0.0.0/8") };
        assert_eq!(narrow(&[opaque], &[ts("10.0.0.0/8")]), []);
    }

    #[test]
    fn an_answer_outside_the_proposal_is_noticed() {
        assert!(is_subset(&[ts("10.1.0.0/16")], &[ts("10.0.0.0/8")]));
        assert!(!is_subset(&[ts("10.1.0.0/16"), ts("11.0.0.0/8")], &[ts("10.0.0.0/8")]));
        assert!(!is_subset(&[], &[ts("10.0.0.0/8")]));
    }
}
