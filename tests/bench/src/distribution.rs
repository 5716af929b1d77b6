//! Connections to targets without packets: what the connection table costs by itself.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Instant;

use vipsec_distribute::connection::{ConnectionTable, Limits, PacketInfo};
use vipsec_distribute::service::{Origin, Service, ServiceTable, Target, TargetId};
use vipsec_distribute::tuple::FiveTuple;
use vipsec_wire::buffer::BURST_MAX;
use vipsec_wire::ip::protocol;

use crate::error::BenchError;
use crate::result::{Case, Row, Samples, Way};

const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const TARGETS: u16 = 16;
const PACKET: PacketInfo = PacketInfo { tcp: None, bytes: 1400 };

/// A table of established connections.
pub(crate) struct Distribution {
    table: ConnectionTable,
    now: Instant,
    connections: u32,
    random: u64,
    samples: Samples,
}

impl Distribution {
    pub(crate) fn new(connections: u32) -> Result<Self, BenchError> {
        let now = Instant::now();
        let targets: Vec<_> =
            (0..TARGETS).map(|n| Target::new(TargetId(n), IpAddr::from([10, 1, 0, n as u8]))).collect();
        let service = Service::new(VIP, targets.iter().map(|target| target.id).collect());
        let services = ServiceTable::new(targets, vec![service]).map_err(BenchError::setup)?;
        let limits = Limits { connections_max: connections as usize, ..Limits::default() };
        let table = ConnectionTable::new(&limits, 0x5eed, now, Arc::new(services));
        let mut made = Self { table, now, connections, random: 1, samples: Samples::default() };
        for n in 0..connections {
            let prepared = made.table.prepare_one(now, &tuple(n));
            made.table.to_target(&prepared, Origin::Decrypted, &PACKET).map_err(BenchError::setup)?;
            made.table.to_remote(&prepared, &PACKET);
        }
        Ok(made)
    }

    /// `windows` of that many bursts of random connections, and before them one that doesn't count.
    pub(crate) fn measure(&mut self, windows: usize, bursts: usize) -> Result<(), BenchError> {
        self.window(bursts)?;
        for _ in 0..windows {
            let ns = self.window(bursts)?;
            self.samples.add(ns);
        }
        Ok(())
    }

    /// Nanoseconds per look-up.
    fn window(&mut self, bursts: usize) -> Result<f64, BenchError> {
        let tuples: Vec<[FiveTuple; BURST_MAX]> =
            (0..bursts).map(|_| std::array::from_fn(|_| tuple(self.any_connection()))).collect();
        let start = Instant::now();
        for burst in tuples {
            for prepared in &self.table.prepare(self.now, burst) {
                let choice = self.table.to_target(prepared, Origin::Decrypted, &PACKET);
                black_box(choice.map_err(BenchError::setup)?);
            }
        }
        Ok(start.elapsed().as_nanos() as f64 / (bursts * BURST_MAX) as f64)
    }

    pub(crate) fn row(&self) -> Option<Row> {
        Some(Row {
            case: Case::Distribution,
            engine: None,
            direction: Way::In,
            size_bytes: None,
            sas: None,
            connections: self.connections as usize,
            ns_per_packet: self.samples.best()?,
            ns_per_packet_median: self.samples.median()?,
            aead_ns: None,
            forward_ns: None,
        })
    }

    fn any_connection(&mut self) -> u32 {
        self.random = self.random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (((self.random >> 32) * u64::from(self.connections)) >> 32) as u32
    }
}

/// The n-th connection: many remote hosts, few ports of each.
fn tuple(n: u32) -> FiveTuple {
    FiveTuple {
        protocol: protocol::UDP,
        remote: Ipv4Addr::from_bits(0x0a40_0000 | n & 0xffff).into(),
        remote_port: 1024 + (n >> 16) as u16,
        vip: VIP,
        vip_port: 53,
    }
}
