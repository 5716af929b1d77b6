//! What a packet costs at the connection table, without I/O: nanoseconds, and cycles of a clock that runs at `TSC_GHZ`.
//!
//! `cargo bench -p vipsec-distribute -- [part of a name]`. Each line gives the minimum and the median of many short windows: the
//! minimum is what the code takes, the median what this machine gives it.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use vipsec_distribute::connection::{ConnectionTable, Limits, PacketInfo, Timeouts, Tracking};
use vipsec_distribute::service::{Method, Origin, Service, ServiceTable, Target, TargetId};
use vipsec_distribute::tuple::FiveTuple;
use vipsec_wire::ip::protocol;
use vipsec_wire::tcp::Flags;

const TSC_GHZ: f64 = 2.6;
const BURST: usize = 32;
const BURSTS: usize = 32;
const WINDOWS: usize = 3000;

const SYN: PacketInfo = PacketInfo { tcp: Some(Flags::SYN), bytes: 60 };
const SYN_ACK: PacketInfo = PacketInfo { tcp: Some(Flags(0x12)), bytes: 60 };
const ACK: PacketInfo = PacketInfo { tcp: Some(Flags::ACK), bytes: 1400 };

const VIP4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const VIP6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));

#[derive(Clone, Copy)]
enum Family {
    V4,
    V6,
}

impl Family {
    /// The n-th connection.
    fn tuple(self, n: u32) -> FiveTuple {
        let (remote, vip) = match self {
            Self::V4 => (Ipv4Addr::from_bits(0x0a00_0000 | n & 0x00ff_ffff).into(), VIP4),
            Self::V6 => (Ipv6Addr::from_bits(0x2001_0db8_0009 << 80 | u128::from(n)).into(), VIP6),
        };
        FiveTuple { protocol: protocol::TCP, remote, remote_port: 40_000 + (n >> 20) as u16, vip, vip_port: 443 }
    }
}

/// Uniform numbers, cheap to make.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u32) -> u32 {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (((self.0 >> 32) * u64::from(end)) >> 32) as u32
    }
}

fn services(method: Method, targets: u16) -> Arc<ServiceTable> {
    let targets: Vec<Target> =
        (0..targets).map(|n| Target::new(TargetId(n), IpAddr::from([10, 1, (n >> 8) as u8, n as u8]))).collect();
    let service = |vip| Service {
        method,
        protocol: Some(protocol::TCP),
        port: Some(443),
        ..Service::new(vip, targets.iter().map(|target| target.id).collect())
    };
    let services = [VIP4, VIP6].map(service).to_vec();
    Arc::new(ServiceTable::new(targets, services).expect("a table"))
}

fn table(connections_max: usize, method: Method, targets: u16) -> (ConnectionTable, Instant) {
    let now = Instant::now();
    let limits = Limits { connections_max, ..Limits::default() };
    (ConnectionTable::new(&limits, 0x5eed, now, services(method, targets)), now)
}

/// A table with that many established connections.
fn filled(family: Family, flows: u32) -> (ConnectionTable, Instant) {
    let (mut table, now) = table(flows as usize, Method::Maglev, 16);
    for n in 0..flows {
        let prepared = table.prepare_one(now, &family.tuple(n));
        let choice = table.to_target(&prepared, Origin::Decrypted, &SYN).expect("a target");
        assert_eq!(choice.tracking, Tracking::New);
        table.to_remote(&prepared, &SYN_ACK).expect("known");
    }
    (table, now)
}

/// Is it asked for?
fn wanted(name: &str) -> bool {
    std::env::args().skip(1).find(|argument| !argument.starts_with('-')).is_none_or(|part| name.contains(&part))
}

/// Times windows of [`BURSTS`] calls, each of which works on [`BURST`] packets.
fn measure(name: &str, per_call: usize, mut work: impl FnMut()) {
    if !wanted(name) {
        return;
    }
    let mut nanos: Vec<f64> = (0..WINDOWS)
        .map(|_| {
            let start = Instant::now();
            (0..BURSTS).for_each(|_| work());
            start.elapsed().as_nanos() as f64 / (BURSTS * per_call) as f64
        })
        .collect();
    nanos.sort_by(f64::total_cmp);
    let (min, median) = (nanos[0], nanos[WINDOWS / 2]);
    println!("{name:44} {min:7.1} {median:7.1} ns {:7.0} {:7.0} cycles", min * TSC_GHZ, median * TSC_GHZ);
}

fn known(family: Family, flows: u32, name: &str) {
    let names = ["prepare only", "to target", "to remote", "one at a time", "sweep, per place"]
        .map(|what| format!("{name} {what}, {flows} flows"));
    if !names.iter().any(|name| wanted(name)) {
        return;
    }
    let (mut table, now) = filled(family, flows);
    let mut random = Random(1);
    let [prepare, to_target, to_remote, single, sweep] = names;
    measure(&prepare, BURST, || {
        black_box(table.prepare(now, (0..BURST).map(|_| family.tuple(random.below(flows)))));
    });
    measure(&to_target, BURST, || {
        for prepared in &table.prepare(now, (0..BURST).map(|_| family.tuple(random.below(flows)))) {
            black_box(table.to_target(prepared, Origin::Decrypted, &ACK)).expect("a target");
        }
    });
    measure(&to_remote, BURST, || {
        for prepared in &table.prepare(now, (0..BURST).map(|_| family.tuple(random.below(flows)))) {
            black_box(table.to_remote(prepared, &ACK)).expect("known");
        }
    });
    measure(&single, BURST, || {
        for _ in 0..BURST {
            let prepared = table.prepare_one(now, &family.tuple(random.below(flows)));
            black_box(table.to_target(&prepared, Origin::Decrypted, &ACK)).expect("a target");
        }
    });
    let places = table.sweep_step(Duration::from_millis(10));
    measure(&sweep, places, || {
        black_box(table.sweep(now, places));
    });
}

/// First packets only, at a rate that keeps the table at the limit: each displaces another.
fn flood(flows: u32) {
    let name = format!("SYN flood at the limit, {flows} flows");
    if !wanted(&name) {
        return;
    }
    let (mut table, now) = table(flows as usize, Method::Maglev, 16);
    let mut next = 0u32;
    let mut flood = move |table: &mut ConnectionTable| {
        for prepared in &table.prepare(now, (0..BURST as u32).map(|n| Family::V4.tuple(next.wrapping_add(n)))) {
            black_box(table.to_target(prepared, Origin::Decrypted, &SYN)).expect("a target");
        }
        next = next.wrapping_add(BURST as u32);
    };
    (0..flows / BURST as u32 + 1).for_each(|_| flood(&mut table));
    measure(&name, BURST, || flood(&mut table));
}

/// A new connection and the end of it.
fn opened(method: Method, targets: u16) {
    let (mut table, mut now) = table(65_536, method, targets);
    let mut next = 0u32;
    measure(&format!("open and forget, {method:?}, {targets} targets"), BURST, || {
        for prepared in &table.prepare(now, (0..BURST as u32).map(|n| Family::V4.tuple(next + n))) {
            black_box(table.to_target(prepared, Origin::Decrypted, &SYN)).expect("a target");
        }
        next += BURST as u32;
        now += Timeouts::default().tcp_opening;
        table.sweep(now, BURST);
    });
}

fn main() {
    println!("{:44} {:>7} {:>7}    {:>7} {:>7}", "", "min", "median", "min", "median");
    let mut random = Random(1);
    measure("making tuples only", BURST, || {
        for _ in 0..BURST {
            black_box(Family::V4.tuple(random.below(1 << 20)));
        }
    });
    for flows in [1 << 10, 1 << 16, 1 << 20] {
        known(Family::V4, flows, "IPv4");
    }
    for flows in [1 << 10, 1 << 20] {
        known(Family::V6, flows, "IPv6");
    }
    for flows in [1 << 16, 1 << 20] {
        flood(flows);
    }
    for targets in [4, 100] {
        for method in [Method::Maglev, Method::WeightedRoundRobin, Method::WeightedLeastConnections] {
            opened(method, targets);
        }
    }
}
