//! What the measured worker serves: a VIP whose packets come through tunnels, one whose packets come in the clear, and the packets.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use vipsec_dataplane::api::{
    FloatingAddress, IkeCalls, Policer, PortId, PortTable, Route, Side, Tables, VipState, VipTable,
};
use vipsec_distribute::service::{Accepts, Service, ServiceTable, Target, TargetId};
use vipsec_esp::sa::{
    Algorithm, ChildSa, InboundParams, KeyMaterial, Lifetime, Mode, OutboundParams, Processing, Selector, Spi,
    TunnelEnds, TunnelPolicy,
};
use vipsec_hw::Mbuf;
use vipsec_wire::arp;
use vipsec_wire::buffer::PacketBuf;
use vipsec_wire::ethernet::{self, EtherType, Header, MacAddr};
use vipsec_wire::ip::{Prefix, protocol};
use vipsec_wire::iv::{ApplianceId, Epoch, IvPrefix};
use vipsec_wire::{ipv4, udp};
use zeroize::Zeroizing;

use crate::error::BenchError;

pub(crate) const OUTSIDE: PortId = PortId(0);
pub(crate) const INSIDE: PortId = PortId(1);

/// A VIP with its gateway, and where its packets come from.
struct Vip {
    address: Ipv4Addr,
    mac: MacAddr,
    gateway: Ipv4Addr,
    gateway_mac: MacAddr,
    /// The first of its remote hosts.
    hosts: Ipv4Addr,
    service_port: u16,
}

const PROTECTED: Vip = Vip {
    address: Ipv4Addr::new(192, 0, 2, 1),
    mac: MacAddr([2, 0x76, 0x70, 0, 0, 1]),
    gateway: Ipv4Addr::new(10, 1, 0, 1),
    gateway_mac: MacAddr([2, 0x76, 0x70, 1, 0, 1]),
    hosts: Ipv4Addr::new(10, 64, 0, 0),
    service_port: 53,
};

const CLEAR: Vip = Vip {
    address: Ipv4Addr::new(192, 0, 2, 2),
    mac: MacAddr([2, 0x76, 0x70, 0, 0, 2]),
    gateway: Ipv4Addr::new(10, 1, 0, 2),
    gateway_mac: MacAddr([2, 0x76, 0x70, 1, 0, 2]),
    hosts: Ipv4Addr::new(10, 128, 0, 0),
    service_port: 54,
};

const ROUTER: (Ipv4Addr, MacAddr) = (Ipv4Addr::new(192, 0, 2, 254), MacAddr([2, 0, 0, 0, 0, 0xfe]));
const TARGETS: [(Ipv4Addr, MacAddr); 2] = [
    (Ipv4Addr::new(10, 1, 0, 21), MacAddr([2, 0, 0, 0, 0, 21])),
    (Ipv4Addr::new(10, 1, 0, 22), MacAddr([2, 0, 0, 0, 0, 22])),
];
/// All tunnels end there: what differs is the SA.
const PEER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 5);

const ALGORITHM: Algorithm = Algorithm::Aes128Gcm;
const WINDOW_PACKETS: u32 = 1024;

fn floating(address: Ipv4Addr, mac: MacAddr, port: PortId) -> FloatingAddress {
    FloatingAddress { address: address.into(), mac, port }
}

fn vip_table(vip: &Vip) -> VipTable {
    VipTable {
        vip: floating(vip.address, vip.mac, OUTSIDE),
        more: Vec::new(),
        gateways: vec![floating(vip.gateway, vip.gateway_mac, INSIDE)],
        state: VipState::Owned,
    }
}

fn service(vip: &Vip, accepts: Accepts) -> Service {
    Service {
        protocol: Some(protocol::UDP),
        port: Some(vip.service_port),
        accepts,
        ..Service::new(vip.address.into(), vec![TargetId(0), TargetId(1)])
    }
}

/// The worker's tables.
pub(crate) fn tables() -> Result<Tables, BenchError> {
    let port = |side, mac, address: &str, prefix: &str| -> Result<PortTable, BenchError> {
        let address = address.parse().map_err(BenchError::setup)?;
        let prefix: Prefix = prefix.parse().map_err(BenchError::setup)?;
        Ok(PortTable { side, mac, addresses: vec![(address, prefix)], mtu: 1500 })
    };
    let targets = (0..).zip(TARGETS).map(|(id, (address, _))| Target::new(TargetId(id), address.into())).collect();
    let services = vec![service(&PROTECTED, Accepts::Decrypted), service(&CLEAR, Accepts::Clear)];
    Ok(Tables {
        ports: vec![
            port(Side::Outside, MacAddr([2, 0, 0, 0, 1, 0x0a]), "192.0.2.11", "192.0.2.0/24")?,
            port(Side::Inside, MacAddr([2, 0, 0, 0, 2, 0x0a]), "10.1.0.11", "10.1.0.0/24")?,
        ],
        vips: vec![vip_table(&PROTECTED), vip_table(&CLEAR)],
        routes: vec![Route {
            prefix: "0.0.0.0/0".parse().map_err(BenchError::setup)?,
            via: ROUTER.0.into(),
            port: OUTSIDE,
        }],
        policies: Vec::new(),
        services: Arc::new(ServiceTable::new(targets, services).map_err(BenchError::setup)?),
        ike_policer: Policer { rate: 10, burst: 5 },
        ike_calls: IkeCalls {
            unproven: Policer { rate: 10, burst: 5 },
            proven: Policer { rate: 10, burst: 5 },
            cookies: None,
        },
    })
}

fn host(vip: &Vip, n: usize) -> Ipv4Addr {
    Ipv4Addr::from_bits(vip.hosts.to_bits().wrapping_add(n as u32))
}

/// The same for all SAs: what differs between them is where in memory their keys stand.
fn key(half: u8) -> Result<KeyMaterial, BenchError> {
    let bytes = vec![half; ALGORITHM.key_len() + vipsec_esp::sa::SALT_LEN];
    KeyMaterial::new(ALGORITHM, Zeroizing::new(bytes)).map_err(BenchError::setup)
}

fn all_of(address: IpAddr) -> Selector {
    Selector { addresses: address..=address, protocol: None, ports: 0..=u16::MAX }
}

/// The n-th child SA: for one remote host, with extended sequence numbers and without limits.
pub(crate) fn child(n: usize) -> Result<ChildSa, BenchError> {
    // Scattered, as random choice makes them.
    let scattered = 0x0100_0000 | (n as u32).wrapping_mul(0x9e37_79b1) >> 8;
    Ok(ChildSa {
        vip: 0,
        inbound: InboundParams {
            spi: Spi::new(scattered).map_err(BenchError::setup)?,
            algorithm: ALGORITHM,
            key: key(1)?,
            window: WINDOW_PACKETS,
            esn: true,
            edge: 0,
            horizon: u64::MAX,
        },
        outbound: OutboundParams {
            spi: Spi::new(scattered).map_err(BenchError::setup)?,
            algorithm: ALGORITHM,
            key: key(2)?,
            esn: true,
            sent: 0,
            lease: u64::MAX,
            iv_prefix: IvPrefix::new(ApplianceId::new(1).map_err(BenchError::setup)?, Epoch(1)),
        },
        succeeds: None,
        lane: None,
        mode: Mode::Tunnel,
        processing: Processing::Cpu,
        lifetime: Lifetime::NONE,
        policy: TunnelPolicy::default(),
        tunnel: TunnelEnds { local: PROTECTED.address.into(), remote: PEER.into(), udp: None },
        local_selectors: vec![all_of(PROTECTED.address.into())],
        remote_selectors: vec![all_of(host(&PROTECTED, n).into())],
    })
}

/// A connection: its remote host, and its number among those of the host.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flow {
    pub(crate) host: usize,
    pub(crate) number: u16,
}

impl Flow {
    fn remote(self, vip: &Vip) -> (Ipv4Addr, u16) {
        (host(vip, self.host), 1024 + self.number)
    }
}

/// Through a tunnel, or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Protection {
    Esp,
    Clear,
}

impl Protection {
    fn vip(self) -> &'static Vip {
        match self {
            Self::Esp => &PROTECTED,
            Self::Clear => &CLEAR,
        }
    }
}

/// Makes an empty buffer the IPv4 packet of `size` bytes from the remote host to the VIP.
pub(crate) fn write_to_vip(
    packet: &mut Mbuf,
    protection: Protection,
    flow: Flow,
    size: usize,
) -> Result<(), BenchError> {
    let vip = protection.vip();
    write_udp(packet, flow.remote(vip), (vip.address, vip.service_port), size)
}

/// Makes an empty buffer the frame from a target to the remote host.
pub(crate) fn write_to_remote(
    packet: &mut Mbuf,
    protection: Protection,
    flow: Flow,
    size: usize,
) -> Result<(), BenchError> {
    let vip = protection.vip();
    write_udp(packet, (vip.address, vip.service_port), flow.remote(vip), size)?;
    write_ethernet(packet, vip.gateway_mac, TARGETS[0].1)
}

/// Puts the outer header in front of an ESP packet.
pub(crate) fn write_outer(packet: &mut Mbuf) -> Result<(), BenchError> {
    let payload_len = u16::try_from(packet.data().len()).map_err(BenchError::setup)?;
    packet.prepend(ipv4::HEADER_LEN).map_err(BenchError::setup)?;
    ipv4::Repr::new(PEER, PROTECTED.address, protocol::ESP, payload_len)
        .emit(packet.data_mut())
        .map_err(BenchError::setup)
}

/// Puts the Ethernet header from the router to the VIP in front.
pub(crate) fn write_from_router(packet: &mut Mbuf, protection: Protection) -> Result<(), BenchError> {
    write_ethernet(packet, protection.vip().mac, ROUTER.1)
}

fn write_ethernet(packet: &mut Mbuf, destination: MacAddr, source: MacAddr) -> Result<(), BenchError> {
    packet.prepend(ethernet::HEADER_LEN).map_err(BenchError::setup)?;
    Header { destination, source, ethertype: EtherType::IPV4 }.emit(packet.data_mut()).map_err(BenchError::setup)
}

fn write_udp(
    packet: &mut Mbuf,
    source: (Ipv4Addr, u16),
    destination: (Ipv4Addr, u16),
    size: usize,
) -> Result<(), BenchError> {
    packet.append(size).map_err(BenchError::setup)?;
    packet.data_mut().fill(0x5a);
    let too_small = || BenchError::setup("a packet too small for UDP");
    let (ip, datagram) = packet.data_mut().split_at_mut_checked(ipv4::HEADER_LEN).ok_or_else(too_small)?;
    let datagram_len = u16::try_from(datagram.len()).map_err(BenchError::setup)?;
    ipv4::Repr::new(source.0, destination.0, protocol::UDP, datagram_len).emit(ip).map_err(BenchError::setup)?;
    let payload_len = datagram_len.checked_sub(udp::HEADER_LEN as u16).ok_or_else(too_small)?;
    udp::Repr { source_port: source.1, destination_port: destination.1, payload_len }
        .emit(datagram)
        .map_err(BenchError::setup)
}

/// ARP requests of all neighbours of a port: the worker knows them from then on.
pub(crate) fn greetings(port: PortId) -> Vec<Vec<u8>> {
    let (neighbours, asked): (&[_], _) =
        if port == OUTSIDE { (&[ROUTER], PROTECTED.address) } else { (&TARGETS, PROTECTED.gateway) };
    let greeting = |&(sender_ip, sender_mac): &(Ipv4Addr, MacAddr)| {
        let operation = arp::Operation::Request;
        let request =
            arp::Packet { operation, sender_mac, sender_ip, target_mac: MacAddr::default(), target_ip: asked };
        request.to_frame(MacAddr::BROADCAST).to_vec()
    };
    neighbours.iter().map(greeting).collect()
}
