//! Where packets leave: on-link networks and static routes of both families, the longest prefix first.

use std::net::IpAddr;

use vipsec_wire::ip::{Address, Prefix};

use crate::api::{PortId, PortTable, Route, Side};
use crate::own_hash::KeyedMap;
use crate::prefix::{AddressPrefix, Lengths};

/// The next hop of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct NextHop {
    /// Port to leave by.
    pub(crate) port: PortId,
    /// The neighbour to resolve: the destination itself when it is on-link.
    pub(crate) address: IpAddr,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    port: PortId,
    /// `None`: on-link.
    via: Option<IpAddr>,
}

/// A routing table: one question per prefix length that occurs, however many routes there are. On-link goes before static at equal length.
#[derive(Debug, Clone, Default)]
pub(crate) struct Routes {
    entries: KeyedMap<AddressPrefix, Entry>,
    v4: Lengths,
    v6: Lengths,
    routers: Vec<NextHop>,
    /// On-link networks of inside ports: targets that are reached by MAC address are never reached through a router.
    inside: Vec<(Prefix, PortId)>,
}

impl Routes {
    /// Builds the table.
    pub(crate) fn new(ports: &[PortTable], routes: &[Route]) -> Self {
        let mut table = Self::default();
        for (number, port) in (0u8..).zip(ports) {
            for &(_, prefix) in &port.addresses {
                table.add(prefix, Entry { port: PortId(number), via: None });
                if port.side == Side::Inside {
                    table.inside.push((prefix, PortId(number)));
                }
            }
        }
        for route in routes {
            table.add(route.prefix, Entry { port: route.port, via: Some(route.via) });
            let router = NextHop { port: route.port, address: route.via };
            if !table.routers.contains(&router) {
                table.routers.push(router);
            }
        }
        table.inside.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.bits()));
        table
    }

    /// What came first stays.
    fn add(&mut self, prefix: Prefix, entry: Entry) {
        let key = AddressPrefix::of(prefix);
        if let std::collections::hash_map::Entry::Vacant(vacant) = self.entries.entry(key) {
            vacant.insert(entry);
            let lengths = if prefix.address().is_ipv4() { &mut self.v4 } else { &mut self.v6 };
            lengths.add(key.len());
        }
    }

    /// The next hop towards `destination`.
    pub(crate) fn next_hop(&self, destination: impl Into<Address>) -> Option<NextHop> {
        let destination = destination.into();
        let lengths = if destination.is_v4() { &self.v4 } else { &self.v6 };
        let mut longest_first = lengths.iter().rev();
        let entry = longest_first.find_map(|len| self.entries.get(&AddressPrefix::containing(destination, len)))?;
        Some(NextHop { port: entry.port, address: entry.via.unwrap_or(destination.into()) })
    }

    /// The routers.
    pub(crate) fn routers(&self) -> impl Iterator<Item = NextHop> + '_ {
        self.routers.iter().copied()
    }

    /// The inside port on whose network `target` is.
    pub(crate) fn inside_port(&self, target: IpAddr) -> Option<PortId> {
        self.inside.iter().find(|(prefix, _)| prefix.contains(target)).map(|&(_, port)| port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vipsec_wire::ethernet::MacAddr;
    use vipsec_wire::ip::parse_interface;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn port(side: Side, addresses: &[&str]) -> PortTable {
        let addresses = addresses.iter().map(|address| parse_interface(address).unwrap()).collect();
        PortTable { side, mac: MacAddr::default(), addresses, mtu: 1500 }
    }

    fn route(prefix: &str, via: &str, port: u8) -> Route {
        Route { prefix: prefix.parse().unwrap(), via: ip(via), port: PortId(port) }
    }

    #[test]
    fn the_longest_prefix_wins() {
        let ports = [
            port(Side::Outside, &["192.0.2.11/24", "2001:db8:1::b/64"]),
            port(Side::Inside, &["10.1.0.11/24", "2001:db8:2::b/64"]),
        ];
        let routes = [
            route("0.0.0.0/0", "192.0.2.254", 0),
            route("10.0.0.0/8", "10.1.0.254", 1),
            route("192.0.2.0/24", "192.0.2.253", 0),
            route("192.0.2.128/25", "192.0.2.252", 0),
            route("::/0", "fe80::1", 0),
            route("2001:db8::/32", "2001:db8:2::1", 1),
        ];
        let routes = Routes::new(&ports, &routes);
        let hop = |to: &str| routes.next_hop(ip(to)).map(|hop| (hop.port.0, hop.address));
        assert_eq!(hop("203.0.113.1"), Some((0, ip("192.0.2.254"))));
        assert_eq!(hop("192.0.2.7"), Some((0, ip("192.0.2.7"))), "on-link wins at equal length");
        assert_eq!(hop("192.0.2.200"), Some((0, ip("192.0.2.252"))));
        assert_eq!(hop("10.1.0.21"), Some((1, ip("10.1.0.21"))));
        assert_eq!(hop("10.2.0.21"), Some((1, ip("10.1.0.254"))));
        assert_eq!(hop("2001:db8:1::7"), Some((0, ip("2001:db8:1::7"))));
        assert_eq!(hop("2001:db8:3::7"), Some((1, ip("2001:db8:2::1"))));
        assert_eq!(hop("2001:db9::7"), Some((0, ip("fe80::1"))));
        assert_eq!(routes.inside_port(ip("10.1.0.21")), Some(PortId(1)));
        assert_eq!(routes.inside_port(ip("10.2.0.21")), None, "not through a router");
        assert_eq!(routes.inside_port(ip("192.0.2.7")), None);
        assert_eq!(routes.routers().count(), 6);
    }

    #[test]
    fn the_families_default_routes_are_apart() {
        let routes = Routes::new(&[], &[route("::/0", "2001:db8::1", 0)]);
        assert_eq!(routes.next_hop(ip("192.0.2.1")), None);
        let routes = Routes::new(&[], &[route("0.0.0.0/0", "192.0.2.254", 0)]);
        assert_eq!(routes.next_hop(ip("2001:db8::1")), None);
    }
}
