//! The tables in the shape that the pipeline asks them in; built once per change, not per packet.

use std::net::IpAddr;
use std::sync::Arc;

use vipsec_distribute::service::ServiceTable;
use vipsec_wire::ethernet::MacAddr;

use crate::api::{PortId, PortTable, Tables, VipTable};
use crate::own_hash::OwnMap;
use crate::route::Routes;

/// An address that is ours on some port.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OwnAddress {
    /// Answers for it.
    pub(crate) mac: MacAddr,
    /// Do we act for it now? A port's own address always; a floating one when its VIP is ours.
    pub(crate) active: bool,
}

#[derive(Debug)]
pub(crate) struct Lookup {
    tables: Arc<Tables>,
    addresses: OwnMap<(PortId, IpAddr), OwnAddress>,
    vips: OwnMap<IpAddr, u16>,
    pub(crate) routes: Routes,
}

impl Lookup {
    pub(crate) fn new(tables: Arc<Tables>) -> Self {
        let mut addresses: OwnMap<(PortId, IpAddr), OwnAddress> = OwnMap::default();
        let mut vips = OwnMap::default();
        for (number, vip) in (0u16..).zip(&tables.vips) {
            vips.insert(vip.vip.address, number);
            for floating in std::iter::once(&vip.vip).chain(&vip.gateways) {
                // Several VIPs may share an inside gateway: it is active when one of them is.
                addresses
                    .entry((floating.port, floating.address))
                    .and_modify(|own| own.active |= vip.owned)
                    .or_insert(OwnAddress { mac: floating.mac, active: vip.owned });
            }
        }
        for (number, port) in (0u8..).zip(&tables.ports) {
            for &(address, _) in &port.addresses {
                addresses.insert((PortId(number), address), OwnAddress { mac: port.mac, active: true });
            }
        }
        let routes = Routes::new(&tables.ports, &tables.routes);
        Self { tables, addresses, vips, routes }
    }

    /// Is there a VIP that is ours here, and isn't in `next`?
    pub(crate) fn loses_a_vip_to(&self, next: &Self) -> bool {
        let owned_next = |address| next.vip_at(address).is_some_and(|(_, vip)| vip.owned);
        self.tables.vips.iter().any(|vip| vip.owned && !owned_next(vip.vip.address))
    }

    pub(crate) fn services(&self) -> &ServiceTable {
        &self.tables.services
    }

    pub(crate) fn port(&self, port: PortId) -> Option<&PortTable> {
        self.tables.ports.get(usize::from(port.0))
    }

    pub(crate) fn vip(&self, number: u16) -> Option<&VipTable> {
        self.tables.vips.get(usize::from(number))
    }

    /// The VIP with that address.
    pub(crate) fn vip_at(&self, address: IpAddr) -> Option<(u16, &VipTable)> {
        let number = *self.vips.get(&address)?;
        Some((number, self.vip(number)?))
    }

    /// Our address on a port, if it is one.
    pub(crate) fn own_address(&self, port: PortId, address: IpAddr) -> Option<OwnAddress> {
        self.addresses.get(&(port, address)).copied()
    }

    /// What a VIP's frames carry as their source on a port: its virtual MAC or its gateway's there, otherwise the port's own.
    pub(crate) fn source_mac(&self, vip: u16, port: PortId) -> Option<MacAddr> {
        let floating = self
            .vip(vip)
            .and_then(|vip| std::iter::once(&vip.vip).chain(&vip.gateways).find(|floating| floating.port == port));
        floating.map(|floating| floating.mac).or_else(|| self.port(port).map(|port| port.mac))
    }

    /// Our own address on a port in `neighbour`'s network, or any: the sender of an ARP request.
    pub(crate) fn own_ipv4_near(&self, port: PortId, neighbour: IpAddr) -> Option<std::net::Ipv4Addr> {
        let addresses = &self.port(port)?.addresses;
        let near = addresses.iter().find(|(_, prefix)| prefix.contains(neighbour));
        match near.or_else(|| addresses.iter().find(|(address, _)| address.is_ipv4()))?.0 {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        }
    }
}
