//! What a packet costs in the pipeline, in cycles of a constant clock, without devices.
//!
//! ```text
//! cargo bench -p vipsec-dataplane --bench pipeline [-- cycles-per-nanosecond]
//! ```
//!
//! Each figure is the least of many short windows: what the code costs when the machine does nothing else. Packets are prepared
//! outside the windows; inside are `handle_burst` and `poll_transmit`, by bursts of 32.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Instant;

use vipsec_dataplane::api::PortId;
use vipsec_dataplane::selector::{Ends, SelectorIndex, Selectors};
use vipsec_esp::engine::EngineKind;
use vipsec_esp::inbound::{Admission, InboundSa};
use vipsec_esp::outbound::OutboundSa;
use vipsec_wire::buffer::{BURST_MAX, Burst};
use vipsec_wire::ip::protocol;

mod support;

use support::{
    BoxBuf, INSIDE, OUTSIDE, ROUTER_MAC, Scene, VIP, VIP_MAC, Way, any, child, far_end, framed, from_remote,
    from_target, remote_host, sealed,
};

/// The TSC of the machine that the figures in the documentation are from.
const CYCLES_PER_NANOSECOND: f64 = 2.6;

/// Packets in a window: few enough that they stay in the second-level cache.
const WINDOW_BURSTS: usize = 8;
const WINDOWS: usize = 1000;

/// The least cycles per packet over many windows. `prepare` fills the n-th packet; `port` is where it comes in.
fn least(
    scene: &mut Scene,
    cycles_per_nanosecond: f64,
    port: PortId,
    out: PortId,
    mut prepare: impl FnMut(&mut [OutboundSa], usize, &mut BoxBuf),
) -> f64 {
    let mut free: Vec<BoxBuf> = (0..WINDOW_BURSTS * BURST_MAX).map(|_| BoxBuf::new()).collect();
    let mut n = 0;
    let mut least = f64::INFINITY;
    // One round through all SAs and connections to warm up.
    let warm_up = scene.far.len().div_ceil(WINDOW_BURSTS * BURST_MAX) + 1;
    for window in 0..WINDOWS + warm_up {
        let sas = scene.far.len();
        let mut bursts: Vec<Burst<BoxBuf>> = Vec::with_capacity(WINDOW_BURSTS);
        for _ in 0..WINDOW_BURSTS {
            let mut burst = Burst::new();
            for _ in 0..BURST_MAX {
                let mut buffer = free.pop().unwrap();
                prepare(&mut scene.far, n % sas, &mut buffer);
                n += 1;
                burst.push(buffer);
            }
            bursts.push(burst);
        }
        let mut leaving: Vec<Burst<BoxBuf>> = (0..WINDOW_BURSTS).map(|_| Burst::new()).collect();
        let start = Instant::now();
        for (burst, left) in bursts.into_iter().zip(&mut leaving) {
            scene.worker.handle_burst(scene.now, port, burst);
            scene.worker.poll_transmit(scene.now, out, left);
        }
        let nanoseconds = start.elapsed().as_nanos() as f64;
        free.extend(leaving.into_iter().flatten());
        assert_eq!(free.len(), WINDOW_BURSTS * BURST_MAX, "{:?}", scene.drops());
        if window >= warm_up {
            least = least.min(nanoseconds / (WINDOW_BURSTS * BURST_MAX) as f64);
        }
        while scene.worker.poll_event().is_some() {}
    }
    least * cycles_per_nanosecond
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
    println!("cycles per packet, engine {}; out is from targets to remote hosts", EngineKind::auto());
    println!(
        "{:>5} {:>6} | {:>8} {:>8} | {:>8} {:>8} | {:>8} {:>8} | {:>8} {:>8}",
        "SAs", "bytes", "clear", "out", "clear", "in", "ESP adds", "ESP adds", "seal", "open"
    );
    for sas in [1, 1024] {
        for bytes in [64, 1420] {
            let [clear, tunnel] = [Way::Clear, Way::Tunnel].map(|way| {
                let mut scene = Scene::new(sas, way);
                let inbound =
                    least(&mut scene, cycles_per_nanosecond, OUTSIDE, INSIDE, |far, n, buffer| match far.get_mut(n) {
                        Some(sa) if way == Way::Tunnel => sealed(sa, n, bytes, buffer),
                        _ => buffer.fill(&framed(VIP_MAC, ROUTER_MAC, &from_remote(n, bytes))),
                    });
                let outbound = least(&mut scene, cycles_per_nanosecond, INSIDE, OUTSIDE, |_, n, buffer| {
                    buffer.fill(&from_target(n, bytes))
                });
                (outbound, inbound)
            });
            let (seal, open) = seal_and_open(sas, bytes, cycles_per_nanosecond);
            println!(
                "{sas:>5} {bytes:>6} | {:>8.1} {:>8.1} | {:>8.1} {:>8.1} | {:>8.1} {:>8.1} | {seal:>8.1} {open:>8.1}",
                clear.0,
                tunnel.0,
                clear.1,
                tunnel.1,
                tunnel.0 - clear.0,
                tunnel.1 - clear.1,
            );
        }
    }
    selectors(cycles_per_nanosecond);
}

/// What finding an SA costs among a thousand and among a hundred thousand, for bursts of packets in random order.
fn selectors(cycles_per_nanosecond: f64) {
    const ASKED: usize = 4096;
    println!("cycles per look-up of an outbound SA");
    let v4 = |n: u32| IpAddr::from(remote_host(n as usize));
    let v6 = |n: u32| IpAddr::from(Ipv6Addr::from_bits(0x2001_0db8_0009 << 80 | u128::from(n)));
    for (sas, is_v6) in [(1_000u32, false), (100_000, false), (1_000, true), (100_000, true)] {
        let remote = |n: u32| if is_v6 { v6(n) } else { v4(n) };
        let mut index = SelectorIndex::new(7);
        for n in 0..sas {
            index.insert(n, 0, &Selectors::new(&[any(VIP.into())], &[any(remote(n))]));
        }
        let ends = |n: u32| Ends {
            local: VIP.into(),
            remote: remote(n.wrapping_mul(0x9e37_79b1) % sas).into(),
            protocol: protocol::UDP,
            ports: Some((53, 40000)),
        };
        let mut least = f64::INFINITY;
        for window in 0..200u32 {
            let asked: Vec<Ends> = (0..ASKED as u32).map(|n| ends(window * ASKED as u32 + n)).collect();
            let start = Instant::now();
            let mut found = 0;
            for burst in asked.chunks(BURST_MAX) {
                burst.iter().for_each(|ends| index.prefetch(ends.remote));
                found += burst.iter().filter(|ends| index.newest(0, ends, |_| true).is_some()).count();
            }
            least = least.min(start.elapsed().as_nanos() as f64);
            assert_eq!(found, ASKED);
        }
        println!(
            "{sas:>7} SAs, IPv{} {:>8.1}",
            if is_v6 { 6 } else { 4 },
            least * cycles_per_nanosecond / ASKED as f64
        );
    }
}
