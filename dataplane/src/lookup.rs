//! The tables in the shape that the pipeline asks them in; built once per change, not per packet.

use std::net::IpAddr;
use std::sync::Arc;

use vipsec_distribute::service::ServiceTable;
use vipsec_wire::ethernet::MacAddr;
use vipsec_wire::ip::Address;

use crate::api::{PortId, PortTable, Tables, VipState, VipTable};
use crate::own_hash::KeyedMap;
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
    addresses: KeyedMap<(PortId, Address), OwnAddress>,
    vips: KeyedMap<Address, u16>,
    pub(crate) routes: Routes,
}

impl Lookup {
    pub(crate) fn new(tables: Arc<Tables>) -> Self {
        let mut addresses: KeyedMap<(PortId, Address), OwnAddress> = KeyedMap::default();
        let mut vips = KeyedMap::default();
        for (number, vip) in (0u16..).zip(&tables.vips) {
            vips.insert(vip.vip.address.into(), number);
            let gateways = vip.gateways.iter().map(|gateway| (gateway, false));
            for (floating, is_vip) in std::iter::once((&vip.vip, true)).chain(gateways) {
                let new = OwnAddress { mac: floating.mac, vip: Some(number), is_vip, state: vip.state };
                // Several VIPs may share an inside gateway: it is active when one of them is.
                addresses
                    .entry((floating.port, floating.address.into()))
                    .and_modify(|own| {
                        if new.state > own.state {
                            (own.vip, own.state) = (new.vip, new.state);
                        }
                    })
                    .or_insert(new);
            }
        }
        for (number, port) in (0u8..).zip(&tables.ports) {
            for &(address, _) in &port.addresses {
                let own = OwnAddress { mac: port.mac, vip: None, is_vip: false, state: VipState::Owned };
                addresses.insert((PortId(number), address.into()), own);
            }
        }
        let routes = Routes::new(&tables.ports, &tables.routes);
        Self { tables, addresses, vips, routes }
    }

    /// Is there a VIP that is here, and elsewhere in `next`?
    pub(crate) fn loses_a_vip_to(&self, next: &Self) -> bool {
        let stays = |address| next.vip_at(address).is_some_and(|(_, vip)| vip.state != VipState::Elsewhere);
        self.tables.vips.iter().any(|vip| vip.state != VipState::Elsewhere && !stays(vip.vip.address))
    }

    /// Is a VIP ours here that isn't in `before`?
    pub(crate) fn gains_a_vip_over(&self, before: &Self) -> bool {
        let owned_before = |address| before.vip_at(address).is_some_and(|(_, vip)| vip.state == VipState::Owned);
        self.tables.vips.iter().any(|vip| vip.state == VipState::Owned && !owned_before(vip.vip.address))
    }

    /// Who is about to be talked to when a VIP becomes ours: targets and routers.
    pub(crate) fn expected_neighbours(&self) -> impl Iterator<Item = NextHop> + '_ {
        let targets = self.services().targets().iter().filter_map(|target| {
            Some(NextHop { port: self.routes.inside_port(target.address)?, address: target.address })
        });
        targets.chain(self.routes.routers()).filter(|neighbour| neighbour.address.is_ipv4())
    }

    pub(crate) fn services(&self) -> &Arc<ServiceTable> {
        &self.tables.services
    }

    pub(crate) fn port(&self, port: PortId) -> Option<&PortTable> {
        self.tables.ports.get(usize::from(port.0))
    }

    pub(crate) fn vip(&self, number: u16) -> Option<&VipTable> {
        self.tables.vips.get(usize::from(number))
    }

    /// The VIP with that address.
    #[inline]
    pub(crate) fn vip_at(&self, address: impl Into<Address>) -> Option<(u16, &VipTable)> {
        let number = *self.vips.get(&address.into())?;
        Some((number, self.vip(number)?))
    }

    /// Our address on a port, if it is one.
    #[inline]
    pub(crate) fn own_address(&self, port: PortId, address: impl Into<Address>) -> Option<OwnAddress> {
        self.addresses.get(&(port, address.into())).copied()
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
