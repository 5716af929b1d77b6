//! A worker, frames for it, and buffers that don't come from the heap each time: for the benchmark and the test of allocations.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Instant;

use vipsec_dataplane::api::{
    Command, FloatingAddress, IkeCalls, Policer, PortId, PortTable, Route, Side, Tables, VipState, VipTable,
};
use vipsec_dataplane::counters::Counters;
use vipsec_dataplane::deadline::Deadline;
use vipsec_dataplane::worker::{Worker, WorkerConfig};
use vipsec_distribute::service::{Accepts, Service, ServiceTable, Target, TargetId};
use vipsec_esp::engine::EngineKind;
use vipsec_esp::outbound::OutboundSa;
use vipsec_esp::sa::{
    Algorithm, ChildSa, InboundParams, KeyMaterial, Lifetime, Mode, OutboundParams, Processing, Selector, Spi,
    TunnelEnds, TunnelPolicy,
};
use vipsec_esp::soft_device::SoftDevice;
use vipsec_wire::buffer::{BURST_MAX, BufferPool, Burst, NoRoom, PacketBuf};
use vipsec_wire::ethernet::{EtherType, Header, MacAddr};
use vipsec_wire::ip::{parse_interface, protocol};
use vipsec_wire::iv::{ApplianceId, Epoch, IvPrefix};
use vipsec_wire::{arp, ipv4, udp};
use zeroize::Zeroizing;

pub(crate) const OUTSIDE: PortId = PortId(0);
pub(crate) const INSIDE: PortId = PortId(1);
pub(crate) const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub(crate) const VIP_MAC: MacAddr = MacAddr([2, 0x76, 0x70, 0, 0, 1]);
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
pub(crate) const GATEWAY_MAC: MacAddr = MacAddr([2, 0x76, 0x70, 1, 0, 1]);
pub(crate) const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 254);
pub(crate) const ROUTER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xfe]);
pub(crate) const TARGET: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 21);
pub(crate) const TARGET_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 21]);
pub(crate) const PEER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 5);

pub(crate) const HEADROOM: usize = 128;
pub(crate) const ROOM: usize = 2048;

/// A buffer as large as a pointer, as an mbuf is, that is not freed while the measurement goes on.
pub(crate) struct BoxBuf(Box<Room>);

pub(crate) struct Room {
    start: u16,
    end: u16,
    bytes: [u8; ROOM],
}

impl BoxBuf {
    pub(crate) fn new() -> Self {
        Self(Box::new(Room { start: HEADROOM as u16, end: HEADROOM as u16, bytes: [0; ROOM] }))
    }

    pub(crate) fn fill(&mut self, contents: &[u8]) {
        self.0.start = HEADROOM as u16;
        self.0.end = (HEADROOM + contents.len()) as u16;
        self.data_mut().copy_from_slice(contents);
    }
}

impl PacketBuf for BoxBuf {
    #[inline]
    fn data(&self) -> &[u8] {
        self.0.bytes.get(usize::from(self.0.start)..usize::from(self.0.end)).unwrap_or_default()
    }

    #[inline]
    fn data_mut(&mut self) -> &mut [u8] {
        let Room { start, end, bytes } = &mut *self.0;
        bytes.get_mut(usize::from(*start)..usize::from(*end)).unwrap_or_default()
    }

    #[inline]
    fn headroom(&self) -> usize {
        usize::from(self.0.start)
    }

    #[inline]
    fn tailroom(&self) -> usize {
        ROOM - usize::from(self.0.end)
    }

    #[inline]
    fn prepend(&mut self, n: usize) -> Result<(), NoRoom> {
        self.0.start = self.0.start.checked_sub(n as u16).ok_or(NoRoom)?;
        Ok(())
    }

    #[inline]
    fn append(&mut self, n: usize) -> Result<(), NoRoom> {
        if n > self.tailroom() {
            return Err(NoRoom);
        }
        self.0.end += n as u16;
        Ok(())
    }

    #[inline]
    fn trim_front(&mut self, n: usize) -> Result<(), NoRoom> {
        if n > usize::from(self.0.end - self.0.start) {
            return Err(NoRoom);
        }
        self.0.start += n as u16;
        Ok(())
    }

    #[inline]
    fn trim_back(&mut self, n: usize) -> Result<(), NoRoom> {
        if n > usize::from(self.0.end - self.0.start) {
            return Err(NoRoom);
        }
        self.0.end -= n as u16;
        Ok(())
    }
}

pub(crate) struct BoxPool;

impl BufferPool for BoxPool {
    type Buf = BoxBuf;

    fn alloc(&mut self) -> Option<BoxBuf> {
        Some(BoxBuf::new())
    }
}

pub(crate) fn remote_host(n: usize) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::from(Ipv4Addr::new(10, 64, 0, 0)) + n as u32)
}

pub(crate) fn key(n: usize, half: u8) -> KeyMaterial {
    let mut bytes = vec![half; 20];
    bytes[..8].copy_from_slice(&n.to_le_bytes());
    KeyMaterial::new(Algorithm::Aes128Gcm, Zeroizing::new(bytes)).unwrap()
}

pub(crate) fn iv_prefix(id: u8) -> IvPrefix {
    IvPrefix::new(ApplianceId::new(id).unwrap(), Epoch(1))
}

pub(crate) fn any(address: IpAddr) -> Selector {
    Selector { addresses: address..=address, protocol: None, ports: 0..=u16::MAX }
}

/// A spread of SPIs as a random choice gives it.
pub(crate) fn spi(n: usize) -> Spi {
    Spi::new(0x0100_0000 | (n as u32).wrapping_mul(0x9e37_79b1) >> 8).unwrap()
}

pub(crate) fn child(n: usize) -> ChildSa {
    ChildSa {
        vip: 0,
        inbound: InboundParams {
            spi: spi(n),
            algorithm: Algorithm::Aes128Gcm,
            key: key(n, 1),
            window: 1024,
            esn: true,
            edge: 0,
            horizon: u64::MAX,
        },
        outbound: OutboundParams {
            spi: Spi::new(0xc000_0000 + n as u32).unwrap(),
            algorithm: Algorithm::Aes128Gcm,
            key: key(n, 2),
            esn: true,
            sent: 0,
            lease: u64::MAX,
            iv_prefix: iv_prefix(1),
        },
        succeeds: None,
        lane: None,
        mode: Mode::default(),
        processing: Processing::default(),
        lifetime: Lifetime::default(),
        policy: TunnelPolicy::default(),
        tunnel: TunnelEnds { local: VIP.into(), remote: PEER.into(), udp: None },
        local_selectors: vec![any(VIP.into())],
        remote_selectors: vec![any(remote_host(n).into())],
    }
}

/// The remote peer's outbound half.
pub(crate) fn far_end(n: usize) -> OutboundSa {
    let InboundParams { spi, algorithm, key, esn, .. } = child(n).inbound;
    let params = OutboundParams { spi, algorithm, key, esn, sent: 0, lease: u64::MAX, iv_prefix: iv_prefix(2) };
    OutboundSa::new(EngineKind::auto(), &params).unwrap()
}

pub(crate) fn tables() -> Tables {
    let floating = |address: Ipv4Addr, mac, port| FloatingAddress { address: address.into(), mac, port };
    let port =
        |side, mac, address| PortTable { side, mac, addresses: vec![parse_interface(address).unwrap()], mtu: 1500 };
    let target = Target::new(TargetId(0), TARGET.into());
    let service = Service {
        protocol: Some(protocol::UDP),
        port: Some(53),
        accepts: Accepts::Both,
        ..Service::new(VIP.into(), vec![TargetId(0)])
    };
    Tables {
        ports: vec![
            port(Side::Outside, MacAddr([2, 0, 0, 0, 1, 0x0a]), "192.0.2.11/24"),
            port(Side::Inside, MacAddr([2, 0, 0, 0, 2, 0x0a]), "10.1.0.11/24"),
        ],
        vips: vec![VipTable {
            vip: floating(VIP, VIP_MAC, OUTSIDE),
            more: Vec::new(),
            gateways: vec![floating(GATEWAY, GATEWAY_MAC, INSIDE)],
            state: VipState::Owned,
        }],
        routes: vec![Route { prefix: "0.0.0.0/0".parse().unwrap(), via: ROUTER.into(), port: OUTSIDE }],
        policies: Vec::new(),
        services: ServiceTable::new(vec![target], vec![service]).unwrap().into(),
        ike_policer: Policer { rate: 10, burst: 5 },
        ike_calls: IkeCalls {
            unproven: Policer { rate: 10, burst: 5 },
            proven: Policer { rate: 10, burst: 5 },
            cookies: None,
        },
    }
}

pub(crate) fn packet(source: (Ipv4Addr, u16), destination: (Ipv4Addr, u16), total_len: usize) -> Vec<u8> {
    let mut packet = vec![0x5a; total_len];
    let payload_len = (total_len - ipv4::HEADER_LEN) as u16;
    ipv4::Repr::new(source.0, destination.0, protocol::UDP, payload_len).emit(&mut packet).unwrap();
    let payload_len = payload_len - udp::HEADER_LEN as u16;
    let repr = udp::Repr { source_port: source.1, destination_port: destination.1, payload_len };
    repr.emit(&mut packet[ipv4::HEADER_LEN..]).unwrap();
    packet
}

pub(crate) fn framed(destination: MacAddr, source: MacAddr, packet: &[u8]) -> Vec<u8> {
    let mut frame = Header { destination, source, ethertype: EtherType::IPV4 }.to_bytes().to_vec();
    frame.extend_from_slice(packet);
    frame
}

pub(crate) fn from_remote(n: usize, bytes: usize) -> Vec<u8> {
    packet((remote_host(n), 40000), (VIP, 53), bytes)
}

pub(crate) fn from_target(n: usize, bytes: usize) -> Vec<u8> {
    framed(GATEWAY_MAC, TARGET_MAC, &packet((VIP, 53), (remote_host(n), 40000), bytes))
}

/// Seals and puts the outer headers on.
pub(crate) fn sealed(sa: &mut OutboundSa, n: usize, bytes: usize, buffer: &mut BoxBuf) {
    buffer.fill(&from_remote(n, bytes));
    sa.seal(buffer, protocol::IPV4).unwrap();
    let payload_len = buffer.data().len() as u16;
    buffer.prepend(ipv4::HEADER_LEN).unwrap();
    ipv4::Repr::new(PEER, VIP, protocol::ESP, payload_len).emit(buffer.data_mut()).unwrap();
    let header = Header { destination: VIP_MAC, source: ROUTER_MAC, ethertype: EtherType::IPV4 };
    buffer.prepend(header.to_bytes().len()).unwrap();
    header.emit(buffer.data_mut()).unwrap();
}

/// How packets come and go on the outside network.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Clear,
    Tunnel,
    /// Through tunnels whose packets a crypto device opens and seals.
    #[allow(dead_code, reason = "the benchmark measures what the core does")]
    Lookaside,
}

/// One worker with its neighbours resolved, and the remote peers' outbound halves.
pub(crate) struct Scene {
    pub(crate) worker: Worker<BoxPool>,
    pub(crate) far: Vec<OutboundSa>,
    pub(crate) now: Instant,
}

impl Scene {
    /// With that many SAs, or with as many remote hosts without any.
    pub(crate) fn new(sas: usize, way: Way) -> Self {
        Self::with(sas, way, |worker| worker)
    }

    /// `fit` gives the worker its last touch.
    pub(crate) fn with(sas: usize, way: Way, fit: impl Fn(Worker<BoxPool>) -> Worker<BoxPool>) -> Self {
        Self::made(sas, way, tables(), &WorkerConfig::default(), fit)
    }

    /// Under these tables and limits, but that of SAs.
    pub(crate) fn made(
        sas: usize,
        way: Way,
        tables: Tables,
        config: &WorkerConfig,
        fit: impl Fn(Worker<BoxPool>) -> Worker<BoxPool>,
    ) -> Self {
        let now = Instant::now();
        let config = WorkerConfig { sas_max: sas, ..config.clone() };
        let counters = Arc::new(Counters::default());
        let device = SoftDevice::new(EngineKind::auto(), 2 * BURST_MAX, 2 * sas);
        let worker = Worker::new(&config, Arc::new(tables), Deadline::never(now), counters, BoxPool)
            .with_crypto_device(Box::new(device));
        let mut worker = fit(worker);
        let processing = if way == Way::Lookaside { Processing::Lookaside } else { Processing::Cpu };
        for n in (0..sas).filter(|_| way != Way::Clear) {
            let child = ChildSa { processing, ..child(n) };
            worker.handle_command(now, Command::InstallChild(Box::new(child)));
        }
        while worker.poll_event().is_some() {}
        let mut scene = Self { worker, far: (0..sas).map(far_end).collect(), now };
        scene.meet(OUTSIDE, (ROUTER, ROUTER_MAC), VIP);
        scene.meet(INSIDE, (TARGET, TARGET_MAC), GATEWAY);
        scene
    }

    /// A neighbour asks for an address of ours, and is known from then on.
    fn meet(&mut self, port: PortId, neighbour: (Ipv4Addr, MacAddr), address: Ipv4Addr) {
        let (sender_ip, sender_mac) = neighbour;
        let operation = arp::Operation::Request;
        let request =
            arp::Packet { operation, sender_mac, sender_ip, target_mac: MacAddr::default(), target_ip: address };
        let mut buffer = BoxBuf::new();
        buffer.fill(&request.to_frame(MacAddr::BROADCAST));
        self.worker.handle_burst(self.now, port, [buffer].into_iter().collect());
        self.worker.poll_transmit(self.now, port, &mut Burst::new());
    }

    pub(crate) fn drops(&self) -> Vec<(&'static str, u64)> {
        let drops = self.worker.counters().drops();
        drops.filter(|(_, count)| *count > 0).map(|(reason, count)| (reason.label(), count)).collect()
    }
}
