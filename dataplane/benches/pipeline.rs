//! What a packet costs in the pipeline, in cycles of a constant clock, without devices.
//!
//! ```text
//! cargo bench -p vipsec-dataplane --bench pipeline [-- cycles-per-nanosecond]
//! ```
//!
//! Each figure is the least of many short windows: what the code costs when the machine does nothing else. Packets are prepared
//! outside the windows; inside are `handle_burst` and `poll_transmit`, by bursts of 32.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Instant;

use vipsec_dataplane::api::{
    Command, FloatingAddress, Policer, PortId, PortTable, Route, Side, Tables, VipState, VipTable,
};
use vipsec_dataplane::counters::Counters;
use vipsec_dataplane::deadline::Deadline;
use vipsec_dataplane::worker::{Worker, WorkerConfig};
use vipsec_distribute::service::{Service, ServiceTable, Target, TargetId};
use vipsec_esp::engine::EngineKind;
use vipsec_esp::inbound::{Admission, InboundSa};
use vipsec_esp::outbound::OutboundSa;
use vipsec_esp::sa::{
    Algorithm, ChildSa, InboundParams, KeyMaterial, Lifetime, Mode, OutboundParams, Processing, Selector, Spi,
    TunnelEnds, TunnelPolicy,
};
use vipsec_wire::buffer::{BURST_MAX, BufferPool, Burst, NoRoom, PacketBuf};
use vipsec_wire::ethernet::{EtherType, Header, MacAddr};
use vipsec_wire::ip::{parse_interface, protocol};
use vipsec_wire::iv::{ApplianceId, Epoch, IvPrefix};
use vipsec_wire::{arp, ipv4, udp};
use zeroize::Zeroizing;

const OUTSIDE: PortId = PortId(0);
const INSIDE: PortId = PortId(1);
const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const VIP_MAC: MacAddr = MacAddr([2, 0x76, 0x70, 0, 0, 1]);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
const GATEWAY_MAC: MacAddr = MacAddr([2, 0x76, 0x70, 1, 0, 1]);
const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 254);
const ROUTER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xfe]);
const TARGET: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 21);
const TARGET_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 21]);
const PEER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 5);

/// The TSC of the machine that the figures in the documentation are from.
const CYCLES_PER_NANOSECOND: f64 = 2.6;

const HEADROOM: usize = 128;
const ROOM: usize = 2048;
/// Packets in a window: few enough that they stay in the second-level cache.
const WINDOW_BURSTS: usize = 8;
const WINDOWS: usize = 2000;

/// A buffer as large as a pointer, as an mbuf is, that is not freed while the measurement goes on.
struct BoxBuf(Box<Room>);

struct Room {
    start: u16,
    end: u16,
    bytes: [u8; ROOM],
}

impl BoxBuf {
    fn new() -> Self {
        Self(Box::new(Room { start: HEADROOM as u16, end: HEADROOM as u16, bytes: [0; ROOM] }))
    }

    fn fill(&mut self, contents: &[u8]) {
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

struct BoxPool;

impl BufferPool for BoxPool {
    type Buf = BoxBuf;

    fn alloc(&mut self) -> Option<BoxBuf> {
        Some(BoxBuf::new())
    }
}

fn remote_host(n: usize) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::from(Ipv4Addr::new(10, 64, 0, 0)) + n as u32)
}

fn key(n: usize, half: u8) -> KeyMaterial {
    let mut bytes = vec![half; 20];
    bytes[..8].copy_from_slice(&n.to_le_bytes());
    KeyMaterial::new(Algorithm::Aes128Gcm, Zeroizing::new(bytes)).unwrap()
}

fn iv_prefix(id: u8) -> IvPrefix {
    IvPrefix::new(ApplianceId::new(id).unwrap(), Epoch(1))
}

fn any(address: IpAddr) -> Selector {
    Selector { addresses: address..=address, protocol: None, ports: 0..=u16::MAX }
}

/// A spread of SPIs as a random choice gives it.
fn spi(n: usize) -> Spi {
    Spi::new(0x0100_0000 | (n as u32).wrapping_mul(0x9e37_79b1) >> 8).unwrap()
}

fn child(n: usize) -> ChildSa {
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
fn far_end(n: usize) -> OutboundSa {
    let InboundParams { spi, algorithm, key, esn, .. } = child(n).inbound;
    let params = OutboundParams { spi, algorithm, key, esn, sent: 0, lease: u64::MAX, iv_prefix: iv_prefix(2) };
    OutboundSa::new(EngineKind::auto(), &params).unwrap()
}

fn tables() -> Tables {
    let floating = |address: Ipv4Addr, mac, port| FloatingAddress { address: address.into(), mac, port };
    let port =
        |side, mac, address| PortTable { side, mac, addresses: vec![parse_interface(address).unwrap()], mtu: 1500 };
    let target = Target::new(TargetId(0), TARGET.into());
    let service =
        Service { protocol: Some(protocol::UDP), port: Some(53), ..Service::new(VIP.into(), vec![TargetId(0)]) };
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
    }
}

fn packet(source: (Ipv4Addr, u16), destination: (Ipv4Addr, u16), total_len: usize) -> Vec<u8> {
    let mut packet = vec![0x5a; total_len];
    let payload_len = (total_len - ipv4::HEADER_LEN) as u16;
    ipv4::Repr::new(source.0, destination.0, protocol::UDP, payload_len).emit(&mut packet).unwrap();
    let payload_len = payload_len - udp::HEADER_LEN as u16;
    let repr = udp::Repr { source_port: source.1, destination_port: destination.1, payload_len };
    repr.emit(&mut packet[ipv4::HEADER_LEN..]).unwrap();
    packet
}

fn framed(destination: MacAddr, source: MacAddr, packet: &[u8]) -> Vec<u8> {
    let mut frame = Header { destination, source, ethertype: EtherType::IPV4 }.to_bytes().to_vec();
    frame.extend_from_slice(packet);
    frame
}

fn from_remote(n: usize, bytes: usize) -> Vec<u8> {
    packet((remote_host(n), 40000), (VIP, 53), bytes)
}

fn from_target(n: usize, bytes: usize) -> Vec<u8> {
    framed(GATEWAY_MAC, TARGET_MAC, &packet((VIP, 53), (remote_host(n), 40000), bytes))
}

/// Seals and puts the outer headers on.
fn sealed(sa: &mut OutboundSa, n: usize, bytes: usize, buffer: &mut BoxBuf) {
    buffer.fill(&from_remote(n, bytes));
    sa.seal(buffer, protocol::IPV4).unwrap();
    let payload_len = buffer.data().len() as u16;
    buffer.prepend(ipv4::HEADER_LEN).unwrap();
    ipv4::Repr::new(PEER, VIP, protocol::ESP, payload_len).emit(buffer.data_mut()).unwrap();
    let header = Header { destination: VIP_MAC, source: ROUTER_MAC, ethertype: EtherType::IPV4 };
    buffer.prepend(header.to_bytes().len()).unwrap();
    header.emit(buffer.data_mut()).unwrap();
}

struct Bench {
    worker: Worker<BoxPool>,
    far: Vec<OutboundSa>,
    now: Instant,
    cycles_per_nanosecond: f64,
}

impl Bench {
    fn new(sas: usize, cycles_per_nanosecond: f64) -> Self {
        let now = Instant::now();
        let config = WorkerConfig { sas_max: sas, ..WorkerConfig::default() };
        let counters = Arc::new(Counters::default());
        let mut worker = Worker::new(&config, Arc::new(tables()), Deadline::never(now), counters, BoxPool);
        for n in 0..sas {
            worker.handle_command(now, Command::InstallChild(Box::new(child(n))));
        }
        while worker.poll_event().is_some() {}
        let mut bench = Self { worker, far: (0..sas).map(far_end).collect(), now, cycles_per_nanosecond };
        bench.meet(OUTSIDE, (ROUTER, ROUTER_MAC), VIP);
        bench.meet(INSIDE, (TARGET, TARGET_MAC), GATEWAY);
        bench
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

    /// The least cycles per packet over many windows. `prepare` fills the n-th packet; `port` is where it comes in.
    fn least(
        &mut self,
        port: PortId,
        out: PortId,
        mut prepare: impl FnMut(&mut [OutboundSa], usize, &mut BoxBuf),
    ) -> f64 {
        let mut free: Vec<BoxBuf> = (0..WINDOW_BURSTS * BURST_MAX).map(|_| BoxBuf::new()).collect();
        let mut n = 0;
        let mut least = f64::INFINITY;
        // One round through all SAs and connections to warm up.
        let warm_up = self.far.len().div_ceil(WINDOW_BURSTS * BURST_MAX) + 1;
        for window in 0..WINDOWS + warm_up {
            let sas = self.far.len();
            let mut bursts: Vec<Burst<BoxBuf>> = Vec::with_capacity(WINDOW_BURSTS);
            for _ in 0..WINDOW_BURSTS {
                let mut burst = Burst::new();
                for _ in 0..BURST_MAX {
                    let mut buffer = free.pop().unwrap();
                    prepare(&mut self.far, n % sas, &mut buffer);
                    n += 1;
                    burst.push(buffer);
                }
                bursts.push(burst);
            }
            let mut leaving: Vec<Burst<BoxBuf>> = (0..WINDOW_BURSTS).map(|_| Burst::new()).collect();
            let start = Instant::now();
            for (burst, left) in bursts.into_iter().zip(&mut leaving) {
                self.worker.handle_burst(self.now, port, burst);
                self.worker.poll_transmit(self.now, out, left);
            }
            let nanoseconds = start.elapsed().as_nanos() as f64;
            free.extend(leaving.into_iter().flatten());
            assert_eq!(free.len(), WINDOW_BURSTS * BURST_MAX, "{:?}", self.drops());
            if window >= warm_up {
                least = least.min(nanoseconds / (WINDOW_BURSTS * BURST_MAX) as f64);
            }
            while self.worker.poll_event().is_some() {}
        }
        least * self.cycles_per_nanosecond
    }

    fn drops(&self) -> Vec<(&'static str, u64)> {
        let drops = self.worker.counters().drops();
        drops.filter(|(_, count)| *count > 0).map(|(reason, count)| (reason.label(), count)).collect()
    }
}

/// The least cycles of sealing and of opening alone, the SA changing with every packet.
fn seal_and_open(sas: usize, bytes: usize, cycles_per_nanosecond: f64) -> (f64, f64) {
    const PACKETS: usize = WINDOW_BURSTS * BURST_MAX;
    let mut far: Vec<OutboundSa> = (0..sas).map(far_end).collect();
    let mut near: Vec<InboundSa> =
        (0..sas).map(|n| InboundSa::new(EngineKind::auto(), &child(n).inbound).unwrap()).collect();
    let mut buffers: Vec<BoxBuf> = (0..PACKETS).map(|_| BoxBuf::new()).collect();
    let (mut seal, mut open) = (f64::INFINITY, f64::INFINITY);
    for window in 0..WINDOWS {
        let which = |n: usize| (window * PACKETS + n) % sas;
        for (n, buffer) in buffers.iter_mut().enumerate() {
            buffer.fill(&from_remote(which(n), bytes));
        }
        let start = Instant::now();
        for (n, buffer) in buffers.iter_mut().enumerate() {
            far[which(n)].seal(buffer, protocol::IPV4).unwrap();
        }
        seal = seal.min(start.elapsed().as_nanos() as f64);
        let start = Instant::now();
        for (n, buffer) in buffers.iter_mut().enumerate() {
            let sa = &mut near[which(n)];
            let opened = sa.open(buffer).unwrap();
            assert_eq!(sa.admit(&opened), Admission::Deliver);
        }
        open = open.min(start.elapsed().as_nanos() as f64);
    }
    let scale = cycles_per_nanosecond / PACKETS as f64;
    (seal * scale, open * scale)
}

fn main() {
    let argument = std::env::args().skip(1).find_map(|argument| argument.parse().ok());
    let cycles_per_nanosecond = argument.unwrap_or(CYCLES_PER_NANOSECOND);
    println!("cycles per packet, engine {}", EngineKind::auto());
    println!("{:>5} {:>6} {:>8} {:>8} {:>8} {:>8}", "SAs", "bytes", "out", "in", "seal", "open");
    for sas in [1, 1024] {
        for bytes in [64, 1420] {
            let mut bench = Bench::new(sas, cycles_per_nanosecond);
            let inbound = bench.least(OUTSIDE, INSIDE, |far, n, buffer| {
                if let Some(sa) = far.get_mut(n) {
                    sealed(sa, n, bytes, buffer);
                }
            });
            let outbound = bench.least(INSIDE, OUTSIDE, |_, n, buffer| buffer.fill(&from_target(n, bytes)));
            let (seal, open) = seal_and_open(sas, bytes, cycles_per_nanosecond);
            println!("{sas:>5} {bytes:>6} {outbound:>8.1} {inbound:>8.1} {seal:>8.1} {open:>8.1}");
        }
    }
}
