//! The tables in the shape that the pipeline asks them in; built once per change, not per packet.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use vipsec_distribute::service::{Forwarding, Service, ServiceTable, TargetId};
use vipsec_distribute::tuple::FiveTuple;
use vipsec_wire::cookie::Cookies;
use vipsec_wire::ethernet::MacAddr;
use vipsec_wire::ip::Address;

use crate::address_map::AddressMap;
use crate::api::{FloatingAddress, Policer, PortId, PortTable, Side, Tables, VipState, VipTable};
use crate::policy::Spd;
use crate::route::{NextHop, Routes};

/// An address that is ours on some port.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OwnAddress {
    /// Answers for it.
    pub(crate) mac: MacAddr,
    /// The VIP that it moves with; none of a port's own.
    pub(crate) vip: Option<u16>,
    /// Is it the VIP itself, and not its gateway?
    pub(crate) is_vip: bool,
    /// That VIP's. A port's own address never goes.
    pub(crate) state: VipState,
}

impl OwnAddress {
    /// Do we act for it now?
    pub(crate) fn is_active(&self) -> bool {
        self.state == VipState::Owned
    }
}

#[derive(Debug)]
pub(crate) struct Lookup {
    tables: Arc<Tables>,
    /// Of each port.
    addresses: Vec<AddressMap<OwnAddress>>,
    vips: AddressMap<u16>,
    local_port: Option<PortId>,
    /// Targets on the own host.
    local_targets: Vec<TargetId>,
    pub(crate) routes: Routes,
    pub(crate) policies: Spd,
}

impl Lookup {
    pub(crate) fn new(tables: Arc<Tables>) -> Self {
        let mut addresses = vec![AddressMap::<OwnAddress>::default(); tables.ports.len()];
        let mut vips = AddressMap::default();
        for (number, vip) in (0u16..).zip(&tables.vips) {
            vip.addresses().for_each(|floating| vips.insert(floating.address.into(), number));
            let gateways = vip.gateways.iter().map(|gateway| (gateway, false));
            for (floating, is_vip) in vip.addresses().map(|floating| (floating, true)).chain(gateways) {
                let new = OwnAddress { mac: floating.mac, vip: Some(number), is_vip, state: vip.state };
                let Some(addresses) = addresses.get_mut(usize::from(floating.port.0)) else { continue };
                let address = floating.address.into();
                match addresses.get_mut(address) {
                    // Several VIPs may share an inside gateway: it is active when one of them is.
                    Some(own) if new.state > own.state => (own.vip, own.state) = (new.vip, new.state),
                    Some(_) => {}
                    None => addresses.insert(address, new),
                }
            }
        }
        for (addresses, port) in addresses.iter_mut().zip(&tables.ports) {
            let link_local = std::iter::once(IpAddr::V6(link_local(port.mac)));
            for address in port.addresses.iter().map(|(address, _)| *address).chain(link_local) {
                let own = OwnAddress { mac: port.mac, vip: None, is_vip: false, state: VipState::Owned };
                addresses.insert(address.into(), own);
            }
        }
        let local = tables.ports.iter().position(|port| port.side == Side::Local);
        let local_port = local.and_then(|number| u8::try_from(number).ok()).map(PortId);
        let targets = tables.services.targets().iter();
        let local_targets =
            targets.filter(|target| target.forwarding == Forwarding::Local).map(|target| target.id).collect();
        let routes = Routes::new(&tables.ports, &tables.routes);
        let policies = Spd::new(&tables.policies);
        Self { tables, addresses, vips, local_port, local_targets, routes, policies }
    }

    /// Is there a VIP that is here, and elsewhere by `next`?
    pub(crate) fn loses_a_vip_to(&self, next: &Tables) -> bool {
        let is_here = |vip: &&VipTable| vip.state != VipState::Elsewhere;
        let stays = |address| next.vips.iter().filter(is_here).any(|vip| vip.vip.address == address);
        self.tables.vips.iter().filter(is_here).any(|vip| !stays(vip.vip.address))
    }

    /// Is that the virtual MAC address of a VIP that is here, or of one of its gateways?
    pub(crate) fn is_virtual_mac_here(&self, mac: MacAddr) -> bool {
        let here = self.tables.vips.iter().filter(|vip| vip.state != VipState::Elsewhere);
        here.flat_map(|vip| vip.addresses().chain(&vip.gateways)).any(|floating| floating.mac == mac)
    }

    /// May a frame leave under that source address? Under a port's own, or that of a VIP which is here: another VIP's would draw its
    /// traffic to us.
    pub(crate) fn may_send_as(&self, source: MacAddr) -> bool {
        self.tables.ports.iter().any(|port| port.mac == source) || self.is_virtual_mac_here(source)
    }

    /// Is that the virtual MAC address of a VIP that is being handed over, and of none that is served?
    pub(crate) fn has_stopped(&self, mac: MacAddr) -> bool {
        let uses = |state| {
            let mut vips = self.tables.vips.iter().filter(|vip| vip.state == state);
            vips.any(|vip| vip.addresses().chain(&vip.gateways).any(|floating| floating.mac == mac))
        };
        uses(VipState::HandingOver) && !uses(VipState::Owned)
    }

    /// Is a VIP here that is elsewhere in `before`?
    pub(crate) fn gains_a_vip_over(&self, before: &Self) -> bool {
        self.loses_a_vip_to(&before.tables)
    }

    /// Who is about to be talked to when a VIP becomes ours: targets and routers.
    pub(crate) fn expected_neighbours(&self) -> impl Iterator<Item = NextHop> + '_ {
        let others = self.services().targets().iter().filter(|target| target.forwarding != Forwarding::Local);
        let targets = others.filter_map(|target| {
            Some(NextHop { port: self.routes.inside_port(target.address)?, address: target.address })
        });
        targets.chain(self.routes.routers())
    }

    /// What all workers let through together: messages of IKE SAs, calls without a cookie, calls with one.
    pub(crate) fn ike_policers(&self) -> [Policer; 3] {
        let calls = &self.tables.ike_calls;
        [self.tables.ike_policer, calls.unproven, calls.proven]
    }

    /// What callers of IKE are asked for under a flood.
    pub(crate) fn cookies(&self) -> Option<&Cookies> {
        self.tables.ike_calls.cookies.as_ref()
    }

    pub(crate) fn services(&self) -> &Arc<ServiceTable> {
        &self.tables.services
    }

    pub(crate) fn port(&self, port: PortId) -> Option<&PortTable> {
        self.tables.ports.get(usize::from(port.0))
    }

    /// The port that leads to the appliance's own host.
    pub(crate) fn local_port(&self) -> Option<PortId> {
        self.local_port
    }

    /// Is a target on the own host one of those that a connection may be distributed to?
    pub(crate) fn serves_here(&self, tuple: &FiveTuple) -> bool {
        self.services().service(tuple).is_some_and(|service| self.is_served_by_host(service))
    }

    /// The same of any connection to a VIP.
    pub(crate) fn serves_any_of(&self, vip: Address) -> bool {
        let mut services = self.services().services().iter().filter(|service| Address::from(service.vip) == vip);
        services.any(|service| self.is_served_by_host(service))
    }

    fn is_served_by_host(&self, service: &Service) -> bool {
        service.targets.iter().any(|target| self.local_targets.contains(target))
    }

    pub(crate) fn vip(&self, number: u16) -> Option<&VipTable> {
        self.tables.vips.get(usize::from(number))
    }

    /// The VIP with that address.
    #[inline]
    pub(crate) fn vip_at(&self, address: impl Into<Address>) -> Option<(u16, &VipTable)> {
        let number = *self.vips.get(address.into())?;
        Some((number, self.vip(number)?))
    }

    /// Our address on a port, if it is one.
    #[inline]
    pub(crate) fn own_address(&self, port: PortId, address: impl Into<Address>) -> Option<OwnAddress> {
        self.addresses.get(usize::from(port.0))?.get(address.into()).copied()
    }

    /// What a VIP's frames carry as their source on a port: its virtual MAC or its gateway's there, otherwise the port's own.
    pub(crate) fn source_mac(&self, vip: u16, port: PortId) -> Option<MacAddr> {
        let floating =
            self.vip(vip).and_then(|vip| vip.addresses().chain(&vip.gateways).find(|floating| floating.port == port));
        floating.map(|floating| floating.mac).or_else(|| self.port(port).map(|port| port.mac))
    }

    /// Our own address of `neighbour`'s family on a port, in its network if there is one: the sender of a question to it.
    pub(crate) fn own_address_near(&self, port: PortId, neighbour: IpAddr) -> Option<IpAddr> {
        let table = self.port(port)?;
        let link_local = || IpAddr::V6(link_local(table.mac));
        if neighbour.is_ipv6() && Address::from(neighbour).is_link_local() {
            return Some(link_local());
        }
        let near = table.addresses.iter().find(|(_, prefix)| prefix.contains(neighbour));
        let of_family = || table.addresses.iter().find(|(address, _)| address.is_ipv4() == neighbour.is_ipv4());
        // RFC 4861 §7.2.2: any address of the interface will do, so in IPv6 there is always one.
        near.or_else(of_family).map(|(address, _)| *address).or_else(|| neighbour.is_ipv6().then(link_local))
    }

    /// Where a VIP's packets to targets on a port come from when they are wrapped, and its ICMP errors to them: its gateway there, or
    /// else the port itself. On the port to the host, which has no addresses, any gateway of the VIP's will do.
    pub(crate) fn inside_source(&self, vip: u16, port: PortId, peer: Address) -> Option<Address> {
        let gateways = self.vip(vip)?.gateways.iter();
        let same_family = |address: &Address| address.is_v4() == peer.is_v4();
        let is_local = self.local_port == Some(port);
        let gateway =
            gateways.filter(|gateway| is_local || gateway.port == port).map(|gateway| Address::from(gateway.address));
        let own = self.port(port)?.addresses.iter().map(|(address, _)| Address::from(*address));
        gateway.chain(own).find(same_family)
    }
}

impl VipTable {
    /// All its addresses.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = &FloatingAddress> {
        std::iter::once(&self.vip).chain(&self.more)
    }
}

/// A port's link-local address (RFC 4291 §2.5.6), made from its MAC address (§2.5.1, modified EUI-64).
fn link_local(mac: MacAddr) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.octets();
    let pair = |high, low| u16::from_be_bytes([high, low]);
    Ipv6Addr::new(0xfe80, 0, 0, 0, pair(a ^ 2, b), pair(c, 0xff), pair(0xfe, d), pair(e, f))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_local_addresses_are_modified_eui_64() {
        // RFC 4291 appendix A: 34-56-78-9A-BC-DE becomes 36-56-78-FF-FE-9A-BC-DE.
        let mac = MacAddr([0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde]);
        assert_eq!(link_local(mac), "fe80::3656:78ff:fe9a:bcde".parse::<Ipv6Addr>().unwrap());
    }
}
