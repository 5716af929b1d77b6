//! Traffic selectors in the shape that packets are compared with (RFC 4301 §4.4.1.1, RFC 7296 §3.13.1).
//!
//! [`Selectors`] says whether a packet lies within those of one child SA; [`SelectorIndex`] finds the newest child SA whose selectors
//! a packet lies in, among any number of them.

use vipsec_distribute::tuple::FiveTuple;
use vipsec_esp::sa::Selector;
use vipsec_wire::ip::Address;

mod index;
mod prefix_table;

pub use index::SelectorIndex;

use crate::prefix::{self, AddressPrefix};

/// What selectors compare of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// Our end: a VIP.
    pub local: Address,
    /// The other end, behind the remote peer.
    pub remote: Address,
    /// IP protocol.
    pub protocol: u8,
    /// (local, remote) port. `None`: the protocol has none, or they can't be read (RFC 4301 §4.4.1.1, OPAQUE).
    pub ports: Option<(u16, u16)>,
}

impl Ends {
    /// Of the packets of a connection.
    pub(crate) fn of_connection(tuple: &FiveTuple) -> Self {
        let FiveTuple { protocol, remote, remote_port, vip, vip_port } = *tuple;
        let ports = Some((vip_port, remote_port)).filter(|ports| *ports != (0, 0));
        Self { local: vip.into(), remote: remote.into(), protocol, ports }
    }
}

/// One selector, compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) first: Address,
    pub(crate) last: Address,
    ports: (u16, u16),
    protocol: Option<u8>,
    is_v4: bool,
    /// Any protocol and port.
    any: bool,
}

impl Range {
    pub(crate) fn new(selector: &Selector) -> Self {
        let Selector { addresses, protocol, ports } = selector;
        Self {
            first: (*addresses.start()).into(),
            last: (*addresses.end()).into(),
            ports: (*ports.start(), *ports.end()),
            protocol: *protocol,
            // As the selector was made: an IPv6 selector of IPv4-mapped addresses is none for IPv4.
            is_v4: addresses.start().is_ipv4() && addresses.end().is_ipv4(),
            any: protocol.is_none() && *ports == (0..=u16::MAX),
        }
    }

    /// Is it one address with any protocol and port?
    fn is_plain_host(&self) -> bool {
        self.any && self.first == self.last && self.is_v4 == self.first.is_v4()
    }

    /// The prefixes that it is made of, those left out in which no packet's address lies: an IPv6 packet has no IPv4-mapped one.
    fn prefixes(&self) -> impl Iterator<Item = AddressPrefix> {
        let is_v4 = self.is_v4;
        prefix::split(self.first, self.last).filter(move |prefix| prefix.is_v4() == is_v4)
    }

    #[inline]
    pub(crate) fn matches(&self, address: Address, protocol: u8, port: Option<u16>) -> bool {
        self.first <= address
            && address <= self.last
            && self.is_v4 == address.is_v4()
            && (self.any || self.matches_upper_layer(protocol, port))
    }

    fn matches_upper_layer(&self, protocol: u8, port: Option<u16>) -> bool {
        self.protocol.is_none_or(|own| own == protocol)
            && match port {
                Some(port) => self.ports.0 <= port && port <= self.ports.1,
                // RFC 4301 §7.1: what has no ports travels on an SA with a port selector of ANY.
                None => self.ports == (0, u16::MAX),
            }
    }
}

/// The selectors of one end: the first in place, since most have one.
#[derive(Debug)]
struct Side {
    first: Option<Range>,
    more: Box<[Range]>,
}

impl Side {
    fn new(selectors: &[Selector]) -> Self {
        let mut ranges = selectors.iter().map(Range::new);
        Self { first: ranges.next(), more: ranges.collect() }
    }

    #[inline]
    fn matches(&self, address: Address, protocol: u8, port: Option<u16>) -> bool {
        self.first.is_some_and(|range| range.matches(address, protocol, port))
            || self.more.iter().any(|range| range.matches(address, protocol, port))
    }

    fn iter(&self) -> impl Iterator<Item = &Range> + Clone {
        self.first.iter().chain(&self.more)
    }
}

/// The selectors of one child SA.
#[derive(Debug)]
pub struct Selectors {
    local: Side,
    remote: Side,
}

impl Selectors {
    /// Compiles what IKE negotiated.
    pub fn new(local: &[Selector], remote: &[Selector]) -> Self {
        Self { local: Side::new(local), remote: Side::new(remote) }
    }

    /// Do both ends of a packet lie within them?
    #[inline]
    pub fn match_ends(&self, ends: &Ends) -> bool {
        let (local_port, remote_port) = ends.ports.unzip();
        self.remote.matches(ends.remote, ends.protocol, remote_port)
            && self.local.matches(ends.local, ends.protocol, local_port)
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([10, 9, 0, last])
    }

    fn matches(selectors: &[Selector], address: IpAddr, protocol: u8, port: Option<u16>) -> bool {
        Side::new(selectors).matches(address.into(), protocol, port)
    }

    #[test]
    fn address_protocol_and_port() {
        let selectors = [
            Selector { addresses: ip(1)..=ip(9), protocol: Some(6), ports: 80..=81 },
            Selector { addresses: ip(20)..=ip(20), protocol: None, ports: 0..=65535 },
        ];
        let matches = |last, protocol, port| matches(&selectors, ip(last), protocol, port);
        assert!(matches(1, 6, Some(80)) && matches(9, 6, Some(81)));
        assert!(!matches(0, 6, Some(80)) && !matches(10, 6, Some(80)));
        assert!(!matches(1, 17, Some(80)) && !matches(1, 6, Some(82)) && !matches(1, 6, None));
        assert!(matches(20, 17, Some(5)) && matches(20, 50, None));
    }

    #[test]
    fn families_are_apart() {
        let v6 = |text: &str| text.parse::<IpAddr>().unwrap();
        let all_v6 =
            [Selector { addresses: v6("::")..=v6(&"ffff:".repeat(8)[..39]), protocol: None, ports: 0..=65535 }];
        assert!(matches(&all_v6, v6("2001:db8::1"), 6, Some(1)));
        assert!(!matches(&all_v6, ip(1), 6, Some(1)), "all of IPv6 is nothing of IPv4");
        let mapped =
            [Selector { addresses: v6("::ffff:0:0")..=v6("::ffff:ffff:ffff"), protocol: None, ports: 0..=65535 }];
        assert!(!matches(&mapped, ip(1), 6, Some(1)));
    }
}
