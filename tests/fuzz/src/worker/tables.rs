//! The world around the worker: both families, every way of forwarding, services for decrypted and for clear packets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, OnceLock};

use vipsec_dataplane::api::{
    FloatingAddress, IkeCalls, Policer, Policy, PolicyAction, PortId, PortTable, Route, Side, Tables, VipState,
    VipTable,
};
use vipsec_distribute::service::{Accepts, Forwarding, Method, Service, ServiceTable, Target, TargetId, TargetState};
use vipsec_esp::sa::Selector;
use vipsec_wire::cookie::Cookies;
use vipsec_wire::ethernet::MacAddr;
use vipsec_wire::ip::{parse_interface, protocol};

use super::scene::{INSIDE, OUTSIDE};

pub(super) const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub(super) const VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1);
pub(super) const VIP_MAC: MacAddr = MacAddr([2, 0x76, 0x70, 0, 0, 1]);
pub(super) const GATEWAY_MAC: MacAddr = MacAddr([2, 0x76, 0x70, 1, 0, 1]);
/// Every neighbour's.
pub(super) const NEIGHBOUR_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);

const OTHER_VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

/// Ports at which there are services.
pub(super) const PORTS: [u16; 8] = [53, 54, 80, 81, 500, 4500, 7, 9];

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn floating(address: impl Into<IpAddr>, mac: MacAddr, port: PortId) -> FloatingAddress {
    FloatingAddress { address: address.into(), mac, port }
}

fn port(side: Side, last: u8, addresses: [&str; 2], mtu: u16) -> PortTable {
    let addresses = addresses.iter().map(|address| parse_interface(address).expect("an interface")).collect();
    PortTable { side, mac: MacAddr([2, 0, 0, 0, last, 0x0a]), addresses, mtu }
}

/// Tables by the bits of a number: the VIP's state (2), a narrow inside network (1), policies (1), states of targets (4).
pub(super) fn tables(kind: u8) -> Tables {
    let state = [VipState::Owned, VipState::HandingOver, VipState::Elsewhere, VipState::Owned][usize::from(kind & 3)];
    let inside_mtu = if kind & 4 != 0 { 1280 } else { 1500 };
    let gateways =
        vec![floating(ip("10.1.0.1"), GATEWAY_MAC, INSIDE), floating(ip("2001:db8:2::1"), GATEWAY_MAC, INSIDE)];
    let own = VipTable {
        vip: floating(VIP, VIP_MAC, OUTSIDE),
        more: vec![floating(VIP6, VIP_MAC, OUTSIDE)],
        gateways: gateways.clone(),
        state,
    };
    let other = VipTable {
        vip: floating(OTHER_VIP, MacAddr([2, 0x76, 0x70, 0, 0, 2]), OUTSIDE),
        more: Vec::new(),
        gateways,
        state: VipState::Elsewhere,
    };
    let route = |prefix: &str, via, port| Route { prefix: prefix.parse().expect("a prefix"), via: ip(via), port };
    Tables {
        ports: vec![
            port(Side::Outside, 1, ["192.0.2.11/24", "2001:db8:1::b/64"], 1500),
            port(Side::Inside, 2, ["10.1.0.11/24", "2001:db8:2::b/64"], inside_mtu),
            PortTable { side: Side::Local, mac: MacAddr([2, 0, 0, 0, 3, 0x0a]), addresses: Vec::new(), mtu: 1500 },
        ],
        vips: vec![own, other],
        routes: vec![
            route("0.0.0.0/0", "192.0.2.254", OUTSIDE),
            route("::/0", "fe80::fe", OUTSIDE),
            route("172.16.0.0/12", "10.1.0.254", INSIDE),
            route("2001:db8:16::/48", "2001:db8:2::fe", INSIDE),
        ],
        policies: if kind & 8 != 0 { policies() } else { Vec::new() },
        services: services(kind >> 4),
        ike_policer: Policer { rate: 10, burst: 5 },
        ike_calls: IkeCalls {
            unproven: Policer { rate: 10, burst: 5 },
            proven: Policer { rate: 10, burst: 5 },
            cookies: Some(Cookies::new(1, [7; 16])),
        },
    }
}

fn policies() -> Vec<Policy> {
    let any = Selector { addresses: ip("0.0.0.0")..=ip("255.255.255.255"), protocol: None, ports: 0..=u16::MAX };
    let rule = |remote: &str, ports, action| Policy {
        local: Selector { protocol: Some(protocol::UDP), ports, ..any.clone() },
        remote: Selector { addresses: ip(remote)..=ip(remote), ..any.clone() },
        action,
    };
    vec![
        rule("10.9.0.1", 0..=u16::MAX, PolicyAction::Protect),
        rule("10.9.0.2", 53..=54, PolicyAction::Bypass),
        rule("10.9.0.2", 0..=u16::MAX, PolicyAction::Discard),
    ]
}

/// Made once for all inputs.
fn services(states: u8) -> Arc<ServiceTable> {
    static MADE: [OnceLock<Arc<ServiceTable>>; 16] = [const { OnceLock::new() }; 16];
    MADE[usize::from(states & 0xf)].get_or_init(|| make_services(states).into()).clone()
}

fn make_services(states: u8) -> ServiceTable {
    let ways = [
        ("10.1.0.21", Forwarding::Mac),
        ("10.1.0.22", Forwarding::Local),
        ("172.16.0.23", Forwarding::IpInIp),
        ("172.16.0.24", Forwarding::Gue { port: 6080 }),
        ("2001:db8:2::25", Forwarding::Mac),
        ("2001:db8:16::26", Forwarding::IpInIp),
        ("2001:db8:16::27", Forwarding::Gue { port: 6080 }),
    ];
    let target = |(number, (address, forwarding)): (u16, (&str, Forwarding))| {
        let state = match (states >> (number % 4)) & 1 {
            0 => TargetState::Up,
            _ if number < 4 => TargetState::Down,
            _ => TargetState::Drain,
        };
        Target { forwarding, state, ..Target::new(TargetId(number), ip(address)) }
    };
    let targets: Vec<Target> = (0..).zip(ways).map(target).collect();
    let methods = [
        Method::Maglev,
        Method::WeightedRoundRobin,
        Method::WeightedLeastConnections,
        Method::HotStandby,
        Method::TargetControlled,
    ];
    let service = |number: usize, protocol, vip: IpAddr| Service {
        protocol: Some(protocol),
        port: Some(PORTS[number]),
        accepts: [Accepts::Both, Accepts::Decrypted, Accepts::Clear][number % 3],
        method: methods[number % methods.len()],
        affinity: (number % 2 == 1).then_some(std::time::Duration::from_secs(1)),
        ..Service::new(vip, targets.iter().map(|target| target.id).collect())
    };
    let services = (0..PORTS.len()).flat_map(|number| {
        [protocol::UDP, protocol::TCP]
            .into_iter()
            .flat_map(move |protocol| [(protocol, VIP.into()), (protocol, VIP6.into())])
            .map(move |(protocol, vip)| (number, protocol, vip))
    });
    let services = services.map(|(number, protocol, vip)| service(number, protocol, vip)).collect();
    ServiceTable::new(targets.clone(), services).expect("sound services")
}
