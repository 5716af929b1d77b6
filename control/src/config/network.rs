//! `[[port]]`, `[[route]]` and `[[vip]]`: who can be reached where.
//!
//! A table with a mistake becomes `None` and keeps its place, so that the others' references to it stay right.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use vipsec_dataplane::api::{PortId, Side};
use vipsec_wire::ip::Prefix;

use super::error::Reason;
use super::model::{Floating, Port, Route, Service, Target, Vip, VipGroup, virtual_mac};
use super::names::{Names, Once};
use super::peer::Appliances;
use super::read::{Field, Section, every};
use super::{service, target, value};

/// Most `[[port]]` tables.
pub const PORTS_MAX: usize = 16;
/// Most addresses of a port.
pub const PORT_ADDRESSES_MAX: usize = 16;
/// Most `[[route]]` tables.
pub const ROUTES_MAX: usize = 256;
/// Most `[[vip]]` tables.
pub const VIPS_MAX: usize = 256;
/// Most inside gateways of a VIP.
pub const GATEWAYS_MAX: usize = 8;

const GIVE_BACK_AFTER: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(24 * 3600);

const SIDES: [(&str, Side); 3] = [("outside", Side::Outside), ("inside", Side::Inside), ("local", Side::Local)];

/// What a side is called.
pub fn side_name(side: Side) -> &'static str {
    SIDES.iter().find(|(_, known)| *known == side).map_or("", |(name, _)| name)
}

/// The network as far as it was read.
pub(super) struct Network {
    pub(super) ports: Vec<Option<Port>>,
    pub(super) routes: Vec<Option<Route>>,
    pub(super) vips: Vec<Option<Vip>>,
    pub(super) groups: Vec<VipGroup>,
    pub(super) targets: Vec<Option<Target>>,
    pub(super) services: Vec<Option<Service>>,
    pub(super) vip_names: Names,
}

impl Network {
    pub(super) fn read(root: &Section, appliances: &Appliances) -> Self {
        let mut reader = Reader {
            ports: Vec::new(),
            port_names: Names::new("port"),
            addresses: Once::default(),
            macs: Once::default(),
        };
        reader.read_ports(root);
        let routes = reader.read_routes(root);
        let (vips, groups, vip_names) = reader.read_vips(root, appliances);
        let (targets, target_names) = target::targets(root, &mut reader, appliances);
        let services = service::services(root, &vip_names, &target_names);
        Self { ports: reader.ports, routes, vips, groups, targets, services, vip_names }
    }
}

pub(super) struct Reader {
    pub(super) ports: Vec<Option<Port>>,
    port_names: Names,
    /// Addresses are unique over all tables.
    pub(super) addresses: Once,
    /// So are MAC addresses.
    macs: Once,
}

impl Reader {
    fn read_ports(&mut self, root: &Section) {
        let sections = root.tables("port", PORTS_MAX);
        if sections.is_empty() {
            root.report("port", Reason::Empty);
        }
        let mut devices = Once::default();
        let mut prefixes = Vec::new();
        for (index, section) in sections.into_iter().enumerate() {
            let name = self.port_names.declare(index, &section);
            let side = section.required("side").and_then(|field| field.choice(&SIDES));
            let device = section.required("device").and_then(|field| {
                let device = field.parse(device)?;
                devices.claim(&field, &device.split(',').next().unwrap_or_default());
                Some(device)
            });
            let mac = section.optional("mac").map(|field| {
                let mac = field.parse(value::mac)?;
                self.macs.claim(&field, &mac);
                Some(mac)
            });
            // On the way to its own host the appliance needs none.
            let addresses = match side {
                Some(Side::Local) => {
                    if self.ports.iter().flatten().any(|port| port.side == Side::Local) {
                        section.report("side", Reason::SecondLocalPort);
                    }
                    Some(Vec::new())
                }
                _ => section.required("addresses").and_then(|field| self.port_addresses(&field, &mut prefixes)),
            };
            let mtu = section.optional("mtu").map_or(Some(1500), |field| field.number(1280..=9000));
            section.finish();
            self.ports.push((|| {
                let mac = mac.map_or(Some(None), |mac| mac.map(Some))?;
                Some(Port { name: name?, side: side?, device: device?, mac, addresses: addresses?, mtu: mtu? })
            })());
        }
    }

    /// A port's addresses; their prefixes overlap with no other's, or it would be unclear which port reaches a host.
    fn port_addresses(&mut self, field: &Field, prefixes: &mut Vec<(Prefix, usize)>) -> Option<Vec<(IpAddr, Prefix)>> {
        let items = field.filled_list(PORT_ADDRESSES_MAX);
        let known = prefixes.len();
        every(items.iter().map(|item| {
            let (address, prefix) = item.parse(value::interface)?;
            self.addresses.claim(item, &address);
            // Two addresses of one port may well share a prefix.
            let overlap = prefixes.iter().take(known).find(|(other, _)| value::overlap(*other, prefix));
            if let Some((_, first_line)) = overlap {
                item.report(Reason::Overlap { prefix: prefix.to_string(), first_line: *first_line });
            }
            prefixes.push((prefix, item.line()));
            Some((address, prefix))
        }))
    }

    /// The port that `field` names, which has to be on `side` if one is given.
    fn port(&self, field: &Field, side: Option<Side>) -> Option<(PortId, &Port)> {
        let index = self.port_names.resolve(field)?;
        let port = self.ports.get(index)?.as_ref()?;
        if let Some(side) = side.filter(|side| *side != port.side) {
            field.report(Reason::WrongSide { port: port.name.clone(), expected: side_name(side) });
            return None;
        }
        Some((PortId(u8::try_from(index).ok()?), port))
    }

    /// `address`, which has to be on-link at the port that `port` names.
    fn on_link(&self, address: &Field, port: Option<&Field>, side: Option<Side>) -> Option<(IpAddr, PortId)> {
        let host = address.parse(value::host);
        let (id, port) = port.and_then(|field| self.port(field, side))?;
        let host = host?;
        if !reaches(port, host) {
            address.report(Reason::NotOnLink { address: host.to_string(), port: port.name.clone() });
            return None;
        }
        Some((host, id))
    }

    fn read_routes(&self, root: &Section) -> Vec<Option<Route>> {
        let mut prefixes = Once::default();
        let read = |section: Section| {
            let prefix = section.required("prefix").and_then(|field| {
                let prefix = field.parse(value::prefix)?;
                prefixes.claim(&field, &prefix);
                Some(prefix)
            });
            let via = section.required("via");
            let port = section.required("port");
            let hop = via.as_ref().and_then(|via| self.on_link(via, port.as_ref(), None));
            if let (Some(prefix), Some((via_address, _)), Some(via)) = (prefix, hop, &via)
                && prefix.address().is_ipv4() != via_address.is_ipv4()
            {
                via.report(Reason::MixedFamilies(prefix.to_string(), via_address.to_string()));
            }
            section.finish();
            let (via, port) = hop?;
            Some(Route { prefix: prefix?, via, port })
        };
        root.tables("route", ROUTES_MAX).into_iter().map(read).collect()
    }

    fn read_vips(&mut self, root: &Section, appliances: &Appliances) -> (Vec<Option<Vip>>, Vec<VipGroup>, Names) {
        let mut names = Names::new("vip");
        let (mut vips, mut groups) = (Vec::new(), Groups::default());
        for (index, section) in root.tables("vip", VIPS_MAX).into_iter().enumerate() {
            let name = names.declare(index, &section);
            let floating = self.floating(&section, Side::Outside);
            let gateways = section.optional("gateways").map_or_else(Vec::new, |field| field.list(GATEWAYS_MAX));
            let gateways = every(gateways.iter().map(|gateway| {
                let section = gateway.table()?;
                let floating = self.floating(&section, Side::Inside);
                section.finish();
                floating
            }));
            let group = groups.add(index, name.as_deref(), &section, appliances);
            section.finish();
            vips.push((|| Some(Vip { name: name?, floating: floating?, gateways: gateways?, group: group? }))());
        }
        (vips, groups.known, names)
    }

    /// `address`, `port` and perhaps `mac` of an address that moves.
    fn floating(&mut self, section: &Section, side: Side) -> Option<Floating> {
        let address = section.required("address");
        let port = section.required("port");
        let mac = section.optional("mac");
        let place = address.as_ref().and_then(|field| self.on_link(field, port.as_ref(), Some(side)));
        let configured = mac.as_ref().map(|field| field.parse(value::mac));
        let (host, port) = place?;
        let address = address?;
        self.addresses.claim(&address, &host);
        let chosen = configured.unwrap_or(Some(virtual_mac(host)))?;
        self.macs.claim(mac.as_ref().unwrap_or(&address), &chosen);
        Some(Floating { address: host, mac: chosen, port })
    }

    /// Is it an address of one of the ports?
    pub(super) fn has_address(&self, address: IpAddr) -> bool {
        let mut addresses = self.ports.iter().flatten().flat_map(|port| &port.addresses);
        // With a broken port among them it is unclear whether one of them would have had it.
        addresses.any(|(own, _)| *own == address) || self.ports.iter().any(Option::is_none)
    }

    /// The inside port that reaches a host directly.
    pub(super) fn inside_port(&self, address: IpAddr) -> Option<PortId> {
        let reaches = |port: &Port| port.side == Side::Inside && reaches(port, address);
        let index = self.ports.iter().position(|port| port.as_ref().is_some_and(reaches))?;
        u8::try_from(index).ok().map(PortId)
    }
}

/// Groups of VIPs, in the order of their first ones.
#[derive(Default)]
struct Groups {
    known: Vec<VipGroup>,
    /// Names of VIPs that move alone.
    alone: Vec<String>,
    /// Names that `group` gives.
    named: Vec<String>,
}

impl Groups {
    /// Takes the VIP at `index` into the group that it names, or one of its own. Returns the group's place.
    fn add(&mut self, index: usize, name: Option<&str>, vip: &Section, appliances: &Appliances) -> Option<u16> {
        let owner_field = vip.optional("owner");
        let owner = appliances.owner(vip);
        let backups_field = vip.optional("backups");
        let backups = appliances.backups(vip, owner.flatten());
        let give_back_field = vip.optional("give_back");
        let give_back = match &give_back_field {
            Some(field) => Some(field.parse(give_back)?),
            None => None,
        };
        let index = u16::try_from(index).ok()?;
        let field = vip.optional("group");
        let group = match &field {
            Some(field) => field.parse(value::name)?,
            None => name?.to_owned(),
        };
        let at = self.known.iter().position(|known| known.name == group);
        let (names, others) = match &field {
            Some(_) => (&mut self.named, &self.alone),
            None => (&mut self.alone, &self.named),
        };
        if others.contains(&group) {
            vip.report("group", Reason::GroupIsAVip(group));
            return None;
        }
        names.push(group.clone());
        match at.and_then(|at| self.known.get_mut(at)) {
            Some(known) => {
                known.vips.push(index);
                if let Some(field) = owner_field
                    && owner != Some(known.owner)
                {
                    field.report(Reason::OwnersDiffer { group: group.clone() });
                }
                if let Some(field) = backups_field
                    && backups.as_ref() != Some(&known.backups)
                {
                    field.report(Reason::OwnersDiffer { group: group.clone() });
                }
                if let (Some(field), Some(give_back)) = (give_back_field, give_back)
                    && give_back != known.give_back
                {
                    field.report(Reason::OwnersDiffer { group });
                }
                at.and_then(|at| u16::try_from(at).ok())
            }
            None => {
                let give_back = give_back.flatten();
                let (vips, owner, backups) = (vec![index], owner?, backups?);
                self.known.push(VipGroup { name: group, vips, owner, backups, give_back });
                u16::try_from(self.known.len() - 1).ok()
            }
        }
    }
}

/// `held`, or how long the owner's copy has to count.
fn give_back(text: &str) -> Result<Option<Duration>, Reason> {
    if text == "held" {
        return Ok(None);
    }
    let after = value::duration(text)?;
    if !GIVE_BACK_AFTER.contains(&after) {
        let (min, max) = (*GIVE_BACK_AFTER.start(), *GIVE_BACK_AFTER.end());
        return Err(Reason::DurationOutOfRange { value: text.to_owned(), min, max });
    }
    Ok(Some(after))
}

fn reaches(port: &Port, address: IpAddr) -> bool {
    port.addresses.iter().any(|(_, prefix)| prefix.contains(address))
}

pub(super) fn device(text: &str) -> Result<String, Reason> {
    // One argument of DPDK's command line: a driver's name, a number, and arguments behind commas.
    if text.is_empty() || text.len() > 255 || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Reason::Malformed {
            value: text.to_owned(),
            expected: "a DPDK device like \"net_af_packet0,iface=eth0\"",
        });
    }
    Ok(text.to_owned())
}
