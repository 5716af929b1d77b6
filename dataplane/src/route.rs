//! Where packets leave: on-link networks and static routes, the longest prefix first.

use std::net::IpAddr;

use vipsec_wire::ip::Prefix;

use crate::api::{PortId, PortTable, Route, Side};

/// The next hop of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NextHop {
    /// Port to leave by.
    pub(crate) port: PortId,
    /// The neighbour to resolve: the destination itself when it is on-link.
    pub(crate) address: IpAddr,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    prefix: Prefix,
    port: PortId,
    /// `None`: on-link.
    via: Option<IpAddr>,
}

/// A routing table for few routes: searched in order, the longest prefix first; on-link before static at equal length.
#[derive(Debug, Clone, Default)]
pub(crate) struct Routes {
    entries: Vec<Entry>,
    /// On-link networks of inside ports: targets are reached by MAC address, so never through a router.
    inside: Vec<(Prefix, PortId)>,
}

impl Routes {
    /// Builds the table.
    pub(crate) fn new(ports: &[PortTable], routes: &[Route]) -> Self {
        let mut entries = Vec::new();
        let mut inside = Vec::new();
        for (number, port) in (0u8..).zip(ports) {
            for &(_, prefix) in &port.addresses {
                entries.push(Entry { prefix, port: PortId(number), via: None });
                if port.side == Side::Inside {
                    inside.push((prefix, PortId(number)));
                }
            }
        }
        entries.extend(routes.iter().map(|route| Entry {
            prefix: route.prefix,
            port: route.port,
            via: Some(route.via),
        }));
        // The sort is stable: on-link entries stay ahead of static ones of the same length.
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.prefix.bits()));
        inside.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.bits()));
        Self { entries, inside }
    }

    /// The next hop towards `destination`.
    pub(crate) fn next_hop(&self, destination: IpAddr) -> Option<NextHop> {
        let entry = self.entries.iter().find(|entry| entry.prefix.contains(destination))?;
        Some(NextHop { port: entry.port, address: entry.via.unwrap_or(destination) })
    }

    /// The routers.
    pub(crate) fn routers(&self) -> impl Iterator<Item = NextHop> + '_ {
        self.entries.iter().filter_map(|entry| Some(NextHop { port: entry.port, address: entry.via? }))
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

    fn port(side: Side, address: &str) -> PortTable {
        PortTable { side, mac: MacAddr::default(), addresses: vec![parse_interface(address).unwrap()], mtu: 1500 }
    }

    fn route(prefix: &str, via: &str, port: u8) -> Route {
        Route { prefix: prefix.parse().unwrap(), via: ip(via), port: PortId(port) }
    }

    #[test]
    fn the_longest_prefix_wins() {
        let ports = [port(Side::Outside, "192.0.2.11/24"), port(Side::Inside, "10.1.0.11/24")];
        let routes = [
            route("0.0.0.0/0", "192.0.2.254", 0),
            route("10.0.0.0/8", "10.1.0.254", 1),
            route("192.0.2.0/24", "192.0.2.253", 0),
            route("192.0.2.128/25", "192.0.2.252", 0),
        ];
        let routes = Routes::new(&ports, &routes);
        let hop = |to: &str| routes.next_hop(ip(to)).map(|hop| (hop.port.0, hop.address));
        assert_eq!(hop("203.0.113.1"), Some((0, ip("192.0.2.254"))));
        assert_eq!(hop("192.0.2.7"), Some((0, ip("192.0.2.7"))), "on-link wins at equal length");
        assert_eq!(hop("192.0.2.200"), Some((0, ip("192.0.2.252"))));
        assert_eq!(hop("10.1.0.21"), Some((1, ip("10.1.0.21"))));
        assert_eq!(hop("10.2.0.21"), Some((1, ip("10.1.0.254"))));
        assert_eq!(hop("2001:db8::1"), None);
        assert_eq!(routes.inside_port(ip("10.1.0.21")), Some(PortId(1)));
        assert_eq!(routes.inside_port(ip("10.2.0.21")), None, "not through a router");
        assert_eq!(routes.inside_port(ip("192.0.2.7")), None);
    }
}
