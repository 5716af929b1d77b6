//! One worker with an outside and an inside port, a VIP that is ours and one that isn't, two targets, and a remote peer.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use vipsec_distribute::service::{Service, ServiceTable, Target, TargetId, TargetState};
use vipsec_esp::engine::EngineKind;
use vipsec_esp::soft_device::SoftDevice;
use vipsec_wire::arp;
use vipsec_wire::buffer::{BufferPool, Burst, PacketBuf, VecBuf, VecPool};
use vipsec_wire::checksum::Sum;
use vipsec_wire::cookie::Cookies;
use vipsec_wire::ethernet::{EtherType, Header, MacAddr};
use vipsec_wire::ip::{self as wire_ip, parse_interface, protocol};
use vipsec_wire::tcp::Flags;
use vipsec_wire::{icmp, icmpv6, ipv4, ndp, udp};

use crate::api::{
    Command, Event, FloatingAddress, IkeCalls, Policer, PortId, PortTable, Route, Side, Tables, VipState, VipTable,
};
use crate::counters::Counters;
use crate::deadline::Deadline;
use crate::drops::DropReason;
use crate::worker::{Worker, WorkerConfig};

pub(super) const OUTSIDE: PortId = PortId(0);
pub(super) const INSIDE: PortId = PortId(1);

pub(super) const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub(super) const VIP_MAC: MacAddr = MacAddr([2, 0x76, 0x70, 0, 0, 1]);
/// A VIP that another appliance owns.
pub(super) const OTHER_VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
pub(super) const OTHER_VIP_MAC: MacAddr = MacAddr([2, 0x76, 0x70, 0, 0, 2]);
pub(super) const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
pub(super) const GATEWAY_MAC: MacAddr = MacAddr([2, 0x76, 0x70, 1, 0, 1]);
pub(super) const OTHER_GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
pub(super) const OTHER_GATEWAY_MAC: MacAddr = MacAddr([2, 0x76, 0x70, 1, 0, 2]);
pub(super) const OUTSIDE_MAC: MacAddr = MacAddr([2, 0, 0, 0, 1, 0x0a]);
pub(super) const OUTSIDE_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 11);
pub(super) const INSIDE_MAC: MacAddr = MacAddr([2, 0, 0, 0, 2, 0x0a]);
pub(super) const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 254);
pub(super) const ROUTER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xfe]);
pub(super) const TARGETS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 1, 0, 21), Ipv4Addr::new(10, 1, 0, 22)];
pub(super) const TARGET_MACS: [MacAddr; 2] = [MacAddr([2, 0, 0, 0, 0, 21]), MacAddr([2, 0, 0, 0, 0, 22])];
pub(super) const VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1);
pub(super) const OUTSIDE_ADDRESS6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0xb);
pub(super) const ROUTER6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0xfe);
pub(super) const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 1);
/// Another target, that is known by an IPv6 address.
pub(super) const TARGET6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 0x23);
pub(super) const TARGET6_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 23]);
/// A host behind the remote peer.
pub(super) const REMOTE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, 7);
/// A host behind the remote peer.
pub(super) const REMOTE: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 7);

/// What callers are asked for under a flood.
pub(super) const COOKIES: Cookies = Cookies::new(1, [0x5e; 16]);

pub(super) const SECOND: Duration = Duration::from_secs(1);

fn floating(address: impl Into<IpAddr>, mac: MacAddr, port: PortId) -> FloatingAddress {
    FloatingAddress { address: address.into(), mac, port }
}

fn port(side: Side, mac: MacAddr, address: &str) -> PortTable {
    PortTable { side, mac, addresses: vec![parse_interface(address).unwrap()], mtu: 1500 }
}

pub(super) fn services(states: [TargetState; 2]) -> ServiceTable {
    let target = |n: usize| Target { state: states[n], ..Target::new(TargetId(n as u16), TARGETS[n].into()) };
    let service = |protocol, port, targets: &[u16]| Service {
        protocol: Some(protocol),
        port: Some(port),
        ..Service::new(VIP.into(), targets.iter().copied().map(TargetId).collect())
    };
    let elsewhere = Target::new(TargetId(9), IpAddr::from([172, 16, 0, 1]));
    let services = vec![
        service(protocol::TCP, 80, &[0, 1]),
        service(protocol::UDP, 53, &[0, 1]),
        service(protocol::UDP, 54, &[9]),
    ];
    ServiceTable::new(vec![target(0), target(1), elsewhere], services).unwrap()
}

pub(super) fn tables() -> Tables {
    Tables {
        ports: vec![port(Side::Outside, OUTSIDE_MAC, "192.0.2.11/24"), port(Side::Inside, INSIDE_MAC, "10.1.0.11/24")],
        vips: vec![
            VipTable {
                vip: floating(VIP, VIP_MAC, OUTSIDE),
                more: Vec::new(),
                gateways: vec![floating(GATEWAY, GATEWAY_MAC, INSIDE)],
                state: VipState::Owned,
            },
            VipTable {
                vip: floating(OTHER_VIP, OTHER_VIP_MAC, OUTSIDE),
                more: Vec::new(),
                gateways: vec![floating(OTHER_GATEWAY, OTHER_GATEWAY_MAC, INSIDE)],
                state: VipState::Elsewhere,
            },
        ],
        routes: vec![Route { prefix: "0.0.0.0/0".parse().unwrap(), via: ROUTER.into(), port: OUTSIDE }],
        policies: Vec::new(),
        services: services([TargetState::Up; 2]).into(),
        ike_policer: Policer { rate: 10, burst: 5 },
        ike_calls: IkeCalls {
            unproven: Policer { rate: 10, burst: 3 },
            proven: Policer { rate: 10, burst: 4 },
            cookies: Some(COOKIES),
        },
    }
}

/// The same with IPv6 on both sides: the VIP has an IPv6 address too, with a service on UDP port 53 and one on TCP port 80.
pub(super) fn dual_stack() -> Tables {
    let mut dual = tables();
    dual.ports[0].addresses.push(parse_interface("2001:db8:1::b/64").unwrap());
    dual.ports[1].addresses.push(parse_interface("2001:db8:2::b/64").unwrap());
    dual.vips[0].more.push(floating(VIP6, VIP_MAC, OUTSIDE));
    dual.vips[0].gateways.push(floating(GATEWAY6, GATEWAY_MAC, INSIDE));
    dual.routes.push(Route { prefix: "::/0".parse().unwrap(), via: ROUTER6.into(), port: OUTSIDE });
    let mut targets = dual.services.targets().to_vec();
    targets.push(Target::new(TargetId(6), TARGET6.into()));
    let mut services = dual.services.services().to_vec();
    for (protocol, port) in [(protocol::UDP, 53), (protocol::TCP, 80)] {
        let service = Service::new(VIP6.into(), vec![TargetId(6)]);
        services.push(Service { protocol: Some(protocol), port: Some(port), ..service });
    }
    dual.services = Arc::new(ServiceTable::new(targets, services).unwrap());
    dual
}

pub(super) struct Scene {
    pub(super) worker: Worker<VecPool>,
    pub(super) counters: Arc<Counters>,
    pub(super) deadline: Deadline,
    pub(super) now: Instant,
    /// Where received frames come from.
    wire: VecPool,
    /// Drops that a test has already spoken about.
    seen: BTreeMap<DropReason, u64>,
}

impl Scene {
    pub(super) fn new() -> Self {
        Self::with(tables(), &WorkerConfig::default())
    }

    /// With a crypto device.
    pub(super) fn with_device(tables: Tables, device: &SoftDevice<VecBuf>) -> Self {
        let mut scene = Self::with(tables, &WorkerConfig::default());
        scene.worker = scene.worker.with_crypto_device(Box::new(device.clone()));
        scene
    }

    pub(super) fn with(tables: Tables, config: &WorkerConfig) -> Self {
        let now = Instant::now();
        let counters = Arc::new(Counters::default());
        let deadline = Deadline::never(now);
        let config = WorkerConfig { engine: EngineKind::AesGcm, ..config.clone() };
        let pool = VecPool::new(4096);
        let worker = Worker::new(&config, Arc::new(tables), deadline.clone(), counters.clone(), pool)
            .with_large_pool(VecPool::with_room(64, 9216));
        Self { worker, counters, deadline, now, wire: VecPool::new(usize::MAX), seen: BTreeMap::new() }
    }

    /// A frame arrives.
    pub(super) fn receive(&mut self, port: PortId, frame: &[u8]) {
        self.receive_burst(port, &[frame.to_vec()]);
    }

    pub(super) fn receive_burst(&mut self, port: PortId, frames: &[Vec<u8>]) {
        let mut burst = Burst::new();
        for frame in frames {
            let mut buffer = self.wire.alloc().unwrap();
            buffer.append(frame.len()).unwrap();
            buffer.data_mut().copy_from_slice(frame);
            burst.push(buffer);
        }
        self.worker.handle_burst(self.now, port, burst);
        self.complete();
    }

    /// What a crypto device is done with goes on.
    pub(super) fn complete(&mut self) {
        while self.worker.handle_completions(self.now) > 0 {}
    }

    /// Received packets that the worker still has.
    pub(super) fn held(&self) -> usize {
        self.wire.in_use()
    }

    pub(super) fn command(&mut self, command: Command) {
        self.worker.handle_command(self.now, command);
        while self.worker.is_releasing() {
            self.worker.handle_released(self.now);
        }
        self.complete();
    }

    pub(super) fn use_tables(&mut self, tables: Tables) {
        self.command(Command::Tables { version: 2, tables: Arc::new(tables) });
    }

    pub(super) fn advance(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(timeout) = self.worker.poll_timeout().filter(|timeout| *timeout <= end) {
            self.now = self.now.max(timeout);
            self.worker.handle_timeout(self.now);
        }
        self.now = end;
    }

    /// Everything that leaves by a port.
    pub(super) fn sent(&mut self, port: PortId) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        loop {
            let mut burst = Burst::new();
            self.worker.poll_transmit(self.now, port, &mut burst);
            if burst.is_empty() {
                return frames;
            }
            frames.extend(burst.iter().map(|packet| packet.data().to_vec()));
        }
    }

    /// The one frame that leaves by a port.
    pub(super) fn one_sent(&mut self, port: PortId) -> Vec<u8> {
        let mut frames = self.sent(port);
        assert_eq!(frames.len(), 1, "{frames:02x?}, drops: {:?}", self.dropped());
        frames.remove(0)
    }

    /// Everything that leaves by a port while its neighbours answer ARP.
    pub(super) fn sent_with_arp(&mut self, port: PortId) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        loop {
            let sent = self.sent(port);
            if sent.is_empty() {
                return frames;
            }
            for frame in sent {
                match answer_of_neighbour(&frame) {
                    Some(answer) => answer.iter().for_each(|answer| self.receive(port, answer)),
                    None => frames.push(frame),
                }
            }
        }
    }

    /// The one frame that leaves by a port while its neighbours answer ARP.
    pub(super) fn one_sent_with_arp(&mut self, port: PortId) -> Vec<u8> {
        let mut frames = self.sent_with_arp(port);
        assert_eq!(frames.len(), 1, "{frames:02x?}, drops: {:?}", self.dropped());
        frames.remove(0)
    }

    pub(super) fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.worker.poll_event()).collect()
    }

    /// The reasons and counts of drops since the last call.
    pub(super) fn dropped(&mut self) -> Vec<(DropReason, u64)> {
        let mut dropped = Vec::new();
        for (reason, count) in self.counters.drops() {
            let before = self.seen.insert(reason, count).unwrap_or(0);
            if count > before {
                dropped.push((reason, count - before));
            }
        }
        dropped
    }

    /// Exactly one packet was dropped since the last look, for that reason, and nothing was sent.
    #[track_caller]
    pub(super) fn assert_dropped(&mut self, reason: DropReason) {
        assert_eq!(self.dropped(), [(reason, 1)]);
        assert!(self.sent(OUTSIDE).is_empty() && self.sent(INSIDE).is_empty());
    }

    #[track_caller]
    pub(super) fn assert_nothing_dropped(&mut self) {
        assert_eq!(self.dropped(), []);
    }
}

/// The neighbour's answer to an ARP request or a neighbour solicitation, if it has one; `None`: it is another frame.
pub(super) fn answer_of_neighbour(frame: &[u8]) -> Option<Option<Vec<u8>>> {
    let (ethernet, payload) = Header::parse(frame).unwrap();
    if ethernet.ethertype == EtherType::ARP {
        let request = arp::Packet::parse(payload).ok()?;
        let answer = |mac| request.reply_from(mac).to_frame(request.sender_mac).to_vec();
        return Some(neighbour_mac(request.target_ip).map(answer));
    }
    let header = wire_ip::Header::parse(payload).ok()?;
    let Ok(ndp::Message::Solicitation(solicitation)) = ndp::Message::parse(&header, payload) else { return None };
    let mac = match solicitation.target {
        ROUTER6 => Some(ROUTER_MAC),
        TARGET6 => Some(TARGET6_MAC),
        _ => None,
    };
    Some(mac.map(|mac| solicitation.answer(mac, false).to_frame(mac, ethernet.source).to_vec()))
}

fn neighbour_mac(address: Ipv4Addr) -> Option<MacAddr> {
    match address {
        ROUTER => Some(ROUTER_MAC),
        _ => TARGETS.iter().position(|target| *target == address).map(|n| TARGET_MACS[n]),
    }
}

pub(super) fn frame(destination: MacAddr, source: MacAddr, ethertype: EtherType, payload: &[u8]) -> Vec<u8> {
    let mut frame = Header { destination, source, ethertype }.to_bytes().to_vec();
    frame.extend_from_slice(payload);
    frame
}

fn ethertype_of(packet: &[u8]) -> EtherType {
    if packet[0] >> 4 == 6 { EtherType::IPV6 } else { EtherType::IPV4 }
}

/// A frame from the router to the VIP.
pub(super) fn to_vip(packet: &[u8]) -> Vec<u8> {
    frame(VIP_MAC, ROUTER_MAC, ethertype_of(packet), packet)
}

/// A frame from the first target to the inside gateway.
pub(super) fn to_gateway(packet: &[u8]) -> Vec<u8> {
    frame(GATEWAY_MAC, TARGET_MACS[0], ethertype_of(packet), packet)
}

/// A packet of either family.
pub(super) fn ip(source: impl Into<IpAddr>, destination: impl Into<IpAddr>, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let header = wire_ip::Repr::new(source, destination, protocol, payload.len() as u16).unwrap();
    let mut packet = vec![0; header.header_len()];
    header.emit(&mut packet).unwrap();
    packet.extend_from_slice(payload);
    packet
}

/// A UDP packet of either family.
pub(super) fn udp_between(
    source: (impl Into<IpAddr>, u16),
    destination: (impl Into<IpAddr>, u16),
    payload: &[u8],
) -> Vec<u8> {
    let (from, to) = (source.0.into(), destination.0.into());
    let mut datagram = vec![0; udp::HEADER_LEN];
    datagram.extend_from_slice(payload);
    let payload_len = payload.len() as u16;
    udp::Repr { source_port: source.1, destination_port: destination.1, payload_len }.emit(&mut datagram).unwrap();
    udp::fill_checksum(from, to, &mut datagram).unwrap();
    ip(from, to, protocol::UDP, &datagram)
}

/// A TCP segment of either family with options, and with a right checksum.
pub(super) fn tcp_between(
    source: (impl Into<IpAddr>, u16),
    destination: (impl Into<IpAddr>, u16),
    flags: Flags,
    options: &[u8],
) -> Vec<u8> {
    let (from, to) = (source.0.into(), destination.0.into());
    let mut segment = vec![0; vipsec_wire::tcp::HEADER_LEN];
    segment[0..2].copy_from_slice(&source.1.to_be_bytes());
    segment[2..4].copy_from_slice(&destination.1.to_be_bytes());
    segment[12] = (((vipsec_wire::tcp::HEADER_LEN + options.len()) / 4) << 4) as u8;
    segment[13] = flags.0;
    segment.extend_from_slice(options);
    let sum = Sum::new().pseudo_header(from.into(), to.into(), protocol::TCP, segment.len() as u32).bytes(&segment);
    segment[16..18].copy_from_slice(&sum.finish().to_be_bytes());
    ip(from, to, protocol::TCP, &segment)
}

/// An ICMPv6 message.
pub(super) fn icmpv6(source: Ipv6Addr, destination: Ipv6Addr, kind: u8, code: u8, rest: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0];
    message.extend_from_slice(rest);
    icmpv6::fill_checksum(source.into(), destination.into(), &mut message).unwrap();
    ip(source, destination, protocol::ICMPV6, &message)
}

pub(super) fn ipv4(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    ipv4_with(ipv4::Repr::new(source, destination, protocol, payload.len() as u16), payload)
}

pub(super) fn ipv4_with(header: ipv4::Repr, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; ipv4::HEADER_LEN];
    header.emit(&mut packet).unwrap();
    packet.extend_from_slice(payload);
    packet
}

pub(super) fn udp(source: (Ipv4Addr, u16), destination: (Ipv4Addr, u16), payload: &[u8]) -> Vec<u8> {
    let mut datagram = vec![0; udp::HEADER_LEN];
    datagram.extend_from_slice(payload);
    let payload_len = payload.len() as u16;
    udp::Repr { source_port: source.1, destination_port: destination.1, payload_len }.emit(&mut datagram).unwrap();
    udp::fill_checksum_v4(source.0, destination.0, &mut datagram).unwrap();
    ipv4(source.0, destination.0, protocol::UDP, &datagram)
}

/// A TCP segment without a checksum, which no appliance looks at.
pub(super) fn tcp(source: (Ipv4Addr, u16), destination: (Ipv4Addr, u16), flags: Flags, payload: &[u8]) -> Vec<u8> {
    let mut segment = vec![0; vipsec_wire::tcp::HEADER_LEN];
    segment[0..2].copy_from_slice(&source.1.to_be_bytes());
    segment[2..4].copy_from_slice(&destination.1.to_be_bytes());
    segment[12] = 0x50;
    segment[13] = flags.0;
    segment.extend_from_slice(payload);
    ipv4(source.0, destination.0, protocol::TCP, &segment)
}

pub(super) fn icmp(source: Ipv4Addr, destination: Ipv4Addr, kind: u8, code: u8, rest: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0];
    message.extend_from_slice(rest);
    let checksum = vipsec_wire::checksum::Sum::new().bytes(&message).finish();
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    ipv4(source, destination, protocol::ICMP, &message)
}

pub(super) fn echo_request(source: Ipv4Addr, destination: Ipv4Addr) -> Vec<u8> {
    icmp(source, destination, icmp::kind::ECHO_REQUEST, 0, b"\x12\x34\x00\x01some data")
}

/// An ARP request from a station.
pub(super) fn arp_request(sender: (Ipv4Addr, MacAddr), target_ip: Ipv4Addr) -> Vec<u8> {
    let (sender_ip, sender_mac) = sender;
    let operation = arp::Operation::Request;
    let request = arp::Packet { operation, sender_mac, sender_ip, target_mac: MacAddr::default(), target_ip };
    let mut frame = request.to_frame(MacAddr::BROADCAST).to_vec();
    frame.resize(60, 0); // Ethernet's minimum
    frame
}
